"""Images loaded ahead of who uses them, in processes of torch's DataLoader."""

import ctypes
import signal
import sys

from utils.data.images import open_image
from utils.system import processes
from utils.system.errors import UserError
from utils.system.process_pool import count_cores

MOST_WORKERS = 4  # decode more images than any model here takes
AHEAD = 4  # images that each of them holds ready
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
FEW_IMAGES = 16  # are opened in this process, as fast as others would start


class ImageDataset:
    """A map-style data set for DataLoader: (index, prepare(image) or None, UserError or None) of each path."""

    def __init__(self, paths, prepare=None):
        self.paths, self.prepare = paths, prepare

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            image = open_image(self.paths[index])
            return index, image if self.prepare is None else self.prepare(image), None
        except UserError as error:
            return index, None, error


def _start_worker(number):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent alone handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # ends with a killed parent: a forked process would hold the lock of its outputs
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _keep(item):
    return item  # DataLoader would make tensors of arrays


def load_images(paths, prepare=None, num_workers=None):
    """Yields (index, image, problem) of each path, in order: an upright RGB image, or None and the UserError.

    prepare: a picklable function from a PIL image to what is wanted in its place; it may raise UserError. num_workers:
    processes, by default one per core up to MOST_WORKERS; 0 opens the images in this one. UserError when one of
    them dies, of a damaged image that its decoder cannot take or for lack of memory.
    """
    from torch.utils.data import DataLoader  # here, because scripts parse their arguments before torch is imported

    if num_workers is None:
        cores = min(processes.own_workers(None) or count_cores(), MOST_WORKERS)
        num_workers = 0 if len(paths) <= FEW_IMAGES else cores
    loader = DataLoader(ImageDataset(paths, prepare), batch_size=None, num_workers=num_workers, collate_fn=_keep,
                        worker_init_fn=_start_worker, prefetch_factor=AHEAD if num_workers else None)
    done = 0
    try:
        for item in loader:
            yield item
            done += 1
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a process that opens images died at {paths[done]} or one of the next {AHEAD * num_workers}; "
                        "remove the damaged image, or make more memory free") from error
