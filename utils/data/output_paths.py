"""The files that a script is to write where a flag says, checked before it computes for minutes."""

import contextlib
import json
import os
import stat
from pathlib import Path

FLAGS = ("output", "per_image", "grid", "report")
REMEDY = "give another file"
LONGEST_ROW = 2**20  # bytes that are looked at of the first row of a file


def check_outputs(parser, args, folders, files=()):
    """A usage error for a value of FLAGS that could not be written, or would spoil what is read.

    folders: those whose images the script reads; files: the other paths that it reads.
    """
    given = {flag: path for flag in FLAGS if (path := getattr(args, flag, None))}
    taken = {}  # flag -> real path
    for flag, path in given.items():
        try:
            problem = (find_obstacle(path, is_appended=flag == "output") or find_damage(path, folders, files)
                       or find_clash(taken, flag, path, getattr(args, "cache_dir", None)))
            if not problem and flag == "per_image" and path.exists() and path.suffix.lower() != ".csv":
                problem = f"is there and no .csv; {REMEDY}"
        except (OSError, ValueError) as error:  # ValueError: an embedded NUL
            problem = f"{getattr(error, 'strerror', None) or error}; {REMEDY}"
        if problem:
            parser.error(f"--{flag} {path}: {problem}")
    if "grid" in given and given["grid"].suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--grid {given['grid']}: give a name that ends in .png or .jpg")


def find_obstacle(path, is_appended):
    """What keeps a file from being written (a row appended to it), and the remedy; None if nothing is seen.

    OSError where the system already refuses to look.
    """
    exists = os.path.lexists(path)
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):  # /dev/stdout may lead to a file, and be replaced by one
        return "is no place for files; give the name of a file, which may be new"
    if exists:
        status = os.stat(path)  # OSError: a link that leads nowhere
        if stat.S_ISDIR(status.st_mode):
            return "is a folder; give a file name"
        if not stat.S_ISREG(status.st_mode):
            return "is no regular file; give the name of a file, which may be new"
    if exists and is_appended:
        if not may(path, os.W_OK):
            return f"may not be written to; {REMEDY}"
        return None if holds_rows(path) else f"holds something else than rows of results; {REMEDY}"

    # The folder, or the nearest that is there, in which the others will be made
    folder, missing = path.parent, [path.name]
    while not os.path.lexists(folder) and folder != folder.parent:
        folder, missing = folder.parent, [*missing, folder.name]
    if not folder.is_dir():
        return f"{folder} is no folder; {REMEDY}"
    for name in missing:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(folder / name)  # OSError: a name that is too long
    return None if may(folder, os.W_OK | os.X_OK) else f"nothing may be written to the folder {folder}; {REMEDY}"


def holds_rows(path):
    """Whether a file is empty or begins with a row of a metric script."""
    with open(path, "rb") as file:
        first = file.readline(LONGEST_ROW)
    try:
        return not first or "script" in json.loads(first)
    except (ValueError, TypeError, RecursionError):
        return False


def find_clash(taken, flag, path, cache_dir):
    """Why `path` cannot be written beside the files of {flag: real path}, where it is added, and the cache."""
    real = Path(os.path.realpath(path))
    for other, file in taken.items():
        if real == file:
            return f"is the file of --{other} too; {REMEDY}"
        if file in real.parents or real in file.parents:
            return f"cannot be beside --{other} {file}, one would be in the other; {REMEDY}"
    taken[flag] = real
    if cache_dir and (cache := Path(os.path.realpath(cache_dir))) and (real == cache or real in cache.parents):
        return f"is in the way of --cache_dir {cache_dir}; {REMEDY}"
    return None


def may(path, mode):
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def find_damage(path, folders, files):
    """Why `path` must not be written, and the remedy: it is one of the images or files, or would be an image."""
    from utils.data.images import IMAGE_SUFFIXES

    is_picture = Path(path).suffix.lower() in IMAGE_SUFFIXES
    folder = os.path.dirname(os.path.realpath(path))
    if is_picture and folder in map(os.path.realpath, folders):
        return "lies among the images that are read; give another folder"
    if not os.path.exists(path):
        return None
    status = os.stat(path)  # of what it leads to: a link must not be used to get at an input either
    if any(os.path.samestat(status, os.stat(file)) for file in files):
        return f"is one of the files that are read; {REMEDY}"
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # the folder is looked at later
            for entry in entries:
                is_alike = entry.is_symlink() or entry.inode() == status.st_ino  # spares a look at every file
                if is_alike and entry.name.lower().endswith(IMAGE_SUFFIXES) and is_same(entry, status):
                    return f"leads to {entry.path}, one of the images that are read; {REMEDY}"
    return None


def is_same(entry, status):
    """Whether a directory entry, or what it leads to, is the file of `status`."""
    try:
        return os.path.samestat(entry.stat(), status)
    except OSError:  # a link that leads nowhere
        return False
