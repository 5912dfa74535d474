"""Images opened in processes of their own, ahead of who uses them: a crash of a decoder costs one image."""

import contextlib

from utils.data.images import open_image
from utils.system import processes
from utils.system.errors import UserError
from utils.system.process_pool import count_cores, map_in_processes

MOST_WORKERS = 4  # decode more images than any model here takes; each may have several opened ones in memory


def try_to_open(path):
    """The image as `open_image` gives it, or the UserError that says why not."""
    try:
        return open_image(path)
    except UserError as error:
        return error


def explain_death(path):
    return f"{path}: ends the process that opens it; replace or remove the file"


def name_death(path):
    return UserError(explain_death(path))


@contextlib.contextmanager
def open_images(paths, num_workers=None):
    """Context that yields an iterator over the images of `paths` in order: RGB images, UserErrors for the others.

    `num_workers` processes open them, by default one per core up to MOST_WORKERS. They need 0.3 s to start and stay
    for the next list.
    """
    if not paths:
        yield iter(())
        return
    num_workers = num_workers or min(processes.own_workers(None) or count_cores(), MOST_WORKERS)
    with map_in_processes(try_to_open, paths, num_workers, on_death=name_death, keep=True) as opened:
        yield opened
