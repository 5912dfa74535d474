"""The former way to load images: see utils/data/loader.py."""

import contextlib

from utils.data.images import open_image
from utils.data.loader import load_images
from utils.system.errors import UserError


def try_to_open(path):
    """The image as `open_image` gives it, or the UserError that says why not."""
    try:
        return open_image(path)
    except UserError as error:
        return error


@contextlib.contextmanager
def open_images(paths, num_workers=None):
    """Context that yields an iterator over the images of `paths` in order: RGB images, UserErrors for the others."""
    with contextlib.closing(load_images(paths, num_workers=num_workers)) as loaded:
        yield (problem or image for _, image, problem in loaded)
