"""The files that a script is to write where a flag says, checked before it computes for minutes."""

import contextlib
import os

FLAGS = ("output", "per_image", "grid", "report")
REMEDY = "give another file"


def check_outputs(parser, args, folders, files=()):
    """A usage error for a value of FLAGS that could not be written, or would spoil what is read.

    folders: those whose images the script reads; files: the other paths that it reads.
    """
    taken = {path.resolve(): "is one of the files that are read" for path in files}
    for flag in FLAGS:
        path = getattr(args, flag, None)
        if path is None:
            continue
        try:
            problem = find_obstacle(path) or find_damage(path, folders, taken)
            if not problem and flag == "output" and path.exists() and path.read_bytes()[:1] not in (b"", b"{"):
                problem = f"holds something else than rows of results; {REMEDY}"
        except OSError as error:  # the system refuses to look
            problem = f"{error.strerror}; {REMEDY}"
        if not problem and flag == "grid" and path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            problem = "give a name that ends in .png or .jpg"
        if problem:
            parser.error(f"--{flag} {path}: {problem}")
        taken[path.resolve()] = f"is the file of --{flag} too"


def find_obstacle(path):
    """What keeps a file from being written to `path`, and the remedy; None if nothing is seen.

    OSError where the system already refuses to look.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()  # whose other errors exists() hides since Python 3.14
    if path.exists() and not path.is_file():
        return f"is {'a folder' if path.is_dir() else 'no regular file'}; give a file name"
    folder = next(folder for folder in path.absolute().parents if folder.exists())  # others will be made in it
    if not folder.is_dir():
        return f"{folder} is no folder; {REMEDY}"
    for place in (path, folder):
        if place.exists() and not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return f"nothing may be written to {place}; {REMEDY}"
    return None


def find_damage(path, folders, taken):
    """Why `path` must not be written, and the remedy: it is in `taken` ({path: why}), or would be an image."""
    from utils.data.images import IMAGE_SUFFIXES

    path = path.resolve()
    if path.suffix.lower() in IMAGE_SUFFIXES and any(path.is_relative_to(folder.resolve()) for folder in folders):
        return "lies among the images that are read; give another folder"
    return f"{taken[path]}; {REMEDY}" if path in taken else None
