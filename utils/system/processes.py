"""Several processes that work on one run, as `accelerate launch` starts them: shares of the work, one writer.

All of them read and compute, the first one writes, then they `meet`. With a single process, as `python train.py` has
it, nothing here imports torch or waits. When one process ends with an error, the launcher ends the others.
"""

import datetime
import os

from utils.system.process_pool import count_cores

TIMEOUT = datetime.timedelta(hours=2)  # the others wait while the first process draws samples or writes checkpoints


def count():
    """The number of processes, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank():
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def is_first():
    return rank() == 0


def report(message):
    """Prints a line, in the first process only."""
    if is_first():
        print(message, flush=True)


def own_workers(num_workers):
    """The value of --num_workers; without one, None for a single process, else this one's share of the cores."""
    if num_workers is not None or count() == 1:
        return num_workers
    return max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def join(device):
    """Meets the other processes; `device` is the value of --device. Nothing to do for a single process."""
    if count() > 1:
        import torch
        from accelerate import PartialState

        is_cpu = device == "cpu" or device == "auto" and not torch.cuda.is_available()
        PartialState(cpu=is_cpu, timeout=TIMEOUT)


def meet():
    """Returns when every process has come here: what one wrote before, the others may read after."""
    if count() > 1:
        from torch.distributed import barrier

        barrier()


def share_out(items, work):
    """work(items), a list with one result for each item, of which every process computes a share; all get all.

    `work` is called with a part of the list, which may be empty; results must be picklable.
    """
    if count() == 1:
        return work(items)
    results = [None] * len(items)
    for start, part in enumerate(gather(list(work(items[rank() :: count()])))):
        results[start :: count()] = part
    return results


def gather(value):
    """`value` of each process, in all of them, in the order of their numbers; it must be picklable."""
    values = [value] * count()
    if count() > 1:
        from torch.distributed import all_gather_object

        all_gather_object(values, value)
    return values


def total(tensor):
    """The sum of a tensor over all processes, in place where there are several."""
    if count() > 1:
        from torch.distributed import all_reduce

        all_reduce(tensor)
    return tensor


def leave():
    """Returns when every process has come here; they meet no more. Without it torch complains at the end."""
    if count() > 1:
        from torch.distributed import barrier, destroy_process_group, is_initialized

        if is_initialized():
            barrier()
            destroy_process_group()


def own_part(num_items, size):
    """(positions, weights) of this process in a batch of `num_items`: `size` numbers each.

    All processes get as many, so the last ones repeat an item, with weight 0.
    """
    places = range(rank() * size, (rank() + 1) * size)
    return [min(place, num_items - 1) for place in places], [float(place < num_items) for place in places]
