"""Images loaded ahead of who uses them, in processes of torch's DataLoader."""

import signal
import sys
import threading

from utils.data.images import open_image
from utils.system import processes
from utils.system.errors import UserError
from utils.system.process_pool import count_cores, end_with_parent

MOST_WORKERS = 8  # decode and prepare as many images as any model here takes
AHEAD = 4  # images that each of them holds ready
FEW_IMAGES = 16  # are opened in this process, as fast as others would start


class ImageDataset:
    """A map-style data set for DataLoader: (index, prepare(image) or None, UserError or None) of each path."""

    def __init__(self, paths, prepare=None, extras=None):
        self.paths, self.prepare, self.extras = paths, prepare, extras

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            image = open_image(self.paths[index])
            if self.prepare is not None:
                image = self.prepare(image) if self.extras is None else self.prepare(image, self.extras[index])
            return index, image, None
        except UserError as error:
            return index, None, error


def _start_worker(number):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent alone handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()  # torch's own watch waits for results that nobody takes any more


def _keep(item):
    return item  # DataLoader would make tensors of arrays


def _start(loader):
    """The iterator of a DataLoader that tells of a dead worker where it is asked for an item, and nowhere else."""
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    former = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, former)  # torch's would raise from whatever runs when a worker dies


def load_images(paths, prepare=None, num_workers=None, extras=None):
    """Yields (index, image, problem) of each path, in order: an upright RGB image, or None and the UserError.

    prepare: a picklable function from a PIL image to what is wanted in its place; it may raise UserError. extras: a
    second argument of `prepare` for each path. num_workers: processes, by default one per core up to MOST_WORKERS; 0
    opens the images in this one. UserError when one of them dies, of a damaged image that its decoder cannot take or
    for lack of memory.
    """
    from torch.utils.data import DataLoader  # here, because scripts parse their arguments before torch is imported

    if num_workers is None:
        cores = min(processes.own_workers(None) or count_cores(), MOST_WORKERS)
        num_workers = 0 if len(paths) <= FEW_IMAGES else cores
    loader = DataLoader(ImageDataset(paths, prepare, extras), batch_size=None, num_workers=num_workers,
                        collate_fn=_keep, worker_init_fn=_start_worker, prefetch_factor=AHEAD if num_workers else None,
                        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None)
    done = 0
    try:
        for item in _start(loader):
            yield item
            done += 1
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a process that opens images died at {paths[done]} or one of the next {AHEAD * num_workers}; "
                        "remove the damaged image, or make more memory free") from error
