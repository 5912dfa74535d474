"""The start of a script: argument types and checks of paths.

Standard library only, so that `--help` and every argument error answer before anything heavy is imported.
"""

import argparse
import math
import os
import re
import sys
from pathlib import Path

from utils.system.errors import one_line

LARGEST_INT = 2**63 - 1  # what torch and NumPy generators take as a seed
LARGEST_FLOAT = 1e38  # fp32 holds it


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the script's docstring, shows limits, and the defaults that say something."""

    def _get_help_string(self, action):
        limits = getattr(action.type, "limits", None)
        says_nothing = action.default is None or action.default is False or action.required
        text = action.help if says_nothing else super()._get_help_string(action)
        return f"{text} [{limits}]" if limits else text


class ArgumentParser(argparse.ArgumentParser):
    """`cli.ArgumentParser(__doc__)`: the docstring is the help text, a wrong argument costs one line."""

    def __init__(self, description=None, prog=None):
        module = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m`; a script has none
        prog = prog or (f"python -m {module.name.removesuffix('.__main__')}" if module else None)
        super().__init__(prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see --help)\n")


def number(text, convert, low, high, wanted):
    """`text` as a number from `low` to `high`; anything else, NaN too, is refused with what is `wanted`."""
    try:
        value = convert(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text[:60]!r}")
    return value


def unit_interval(text):
    """argparse type: a number from 0 to 1, ends included."""
    return number(text, float, 0, 1, "a number from 0 to 1")


def positive_int(text):
    """argparse type: 1, 2, 3, …"""
    return number(text, int, 1, LARGEST_INT, "a whole number from 1 to 2^63 - 1")


def nonnegative_int(text):
    """argparse type: 0, 1, 2, …"""
    return number(text, int, 0, LARGEST_INT, "a whole number from 0 to 2^63 - 1")


def int_between(low, high):
    """argparse type: a whole number from `low` to `high`, for what would fill the memory or never end beyond."""
    def convert(text):
        return number(text, int, low, high, f"a whole number from {convert.limits}")

    convert.limits = f"{low:,} to {high:,}"  # for the help
    return convert


def float_between(low, high):
    """argparse type: a number from `low` to `high`, for what would overflow beyond."""
    def convert(text):
        return number(text, float, low, high, f"a number from {convert.limits}")

    convert.limits = f"{low:,} to {high:,}"
    return convert


# Of flags that several scripts have
batch_size = int_between(1, 4096)
num_workers = int_between(1, 256)  # processes or threads
num_steps = int_between(0, 100_000)  # of each image
resolution = int_between(8, 8192)  # pixels of an image
drawn_resolution = int_between(8, 2048)  # pixels; attention takes the fourth power of them
num_updates = int_between(1, 10_000_000)
num_images = int_between(0, 10_000_000)  # of a data set; HaGRID has a million


def positive_float(text):
    """argparse type: a number above 0 that fp32 holds."""
    return number(text, float, math.ulp(0.0), LARGEST_FLOAT, "a number above 0 and up to 1e38")


def nonnegative_float(text):
    """argparse type: a number of at least 0 that fp32 holds."""
    return number(text, float, 0, LARGEST_FLOAT, "a number of at least 0 and up to 1e38")


def prompt(text):
    """argparse type: words for a text encoder; undecodable bytes and control characters are refused."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("must be a line of printable characters")
    return text


def path_name(text):
    """argparse type: a Path; an empty one is refused (`Path("")` would be the current folder)."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, not an empty text")
    return Path(text)


def device_name(text):
    """argparse type: auto, or a torch device by name. Whether it exists is seen when torch is loaded."""
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda, cuda:N, mps or xpu, not {text!r}")
    return text


def add_common_flags(parser, device=True):
    """--seed, --device and --debug, which every script has; without `device` those that run no network."""
    parser.add_argument("--seed", type=nonnegative_int, default=0, help="start of every random draw")
    if device:
        parser.add_argument("--device", type=device_name, default="auto",
                            help="auto, cpu, cuda, cuda:N, mps or xpu; auto is CUDA where there is one, else the CPU")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def require_names(parser, names, folders):
    """parser.error unless --names, if given, has one label for each folder and none twice."""
    if names and len(names) != len(folders):
        parser.error(f"--names: {len(names)} for {len(folders)} folders; give one for each")
    if names and len(set(names)) != len(names):
        parser.error("--names: a label stands twice; results are joined by it")


def require_path(parser, path, flag, is_wanted, wanted, remedy):
    """`path` as a Path if `is_wanted`; else a usage error with what the system says of it."""
    if is_wanted(path):
        return Path(path)
    try:
        os.stat(path)
        problem = f"is not a {wanted}"
    except (OSError, ValueError) as error:  # ValueError: an embedded NUL
        problem = getattr(error, "strerror", None) or str(error)
    parser.error(f"{flag} {str(path)!r}: {problem}; {remedy}")


def require_dir(parser, path, flag, remedy="give an existing folder"):
    """`path` as a Path; a usage error that names `flag` and `remedy` unless it is a folder."""
    return require_path(parser, path, flag, os.path.isdir, "folder", remedy)


def require_dir_or_new(parser, path, flag):
    """A usage error that names `flag` if something that is no folder is at `path`; None is fine."""
    if path is not None and os.path.exists(path):
        require_dir(parser, path, flag, "give a folder, which may be new")


def require_file(parser, path, flag, remedy="give an existing file"):
    """`path` as a Path; a usage error that names `flag` and `remedy` unless it is a file."""
    return require_path(parser, path, flag, os.path.isfile, "file", remedy)
