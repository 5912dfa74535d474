"""Both ends of a script: argument types and path checks before it, exit status and error line after it.

Standard library only, so that `--help` and every argument error answer before anything heavy is imported.
"""

import argparse
import contextlib
import errno
import io
import math
import os
import re
import select
import sys
from pathlib import Path

from utils import signals

LARGEST_INT = 2**63 - 1  # what torch and NumPy generators take as a seed
LARGEST_FLOAT = 1e38  # fp32 holds it


REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or give a place that has more"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or give another path"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "give a path that exists"),
    errno.EEXIST: "something else has that name, perhaps a link that leads nowhere; remove it",
    errno.EISDIR: "a folder is in the way; move it away",
    errno.ELOOP: "a link leads to itself; remove it",
    errno.ENAMETOOLONG: "give a shorter name",
}  # of what the system refuses
FOLDER_GONE = "the current folder is gone; change to another one"


class UserError(Exception):
    """What the user can put right, in one line: names the file or value, what was found, what to do."""


def one_line(text):
    """Control characters, line breaks and undecodable bytes escaped, so that a message stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def first_line(error):
    """The first line of an exception's text, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


# Parsers


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

    def parse_args(self, args=None, namespace=None):
        args = super().parse_args(args, namespace)
        if current_folder_is_gone():  # no relative path leads anywhere, and torch would end the process
            self.error(FOLDER_GONE)
        return args

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see --help)\n")

    def _print_message(self, message, file=None):
        prepare_streams()
        super()._print_message(message, file)


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
num_workers = int_between(1, 256)  # processes
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


def require_gesture(parser, name, flag="--gesture"):
    """The row of the table of gestures; a usage error with close matches if there is none."""
    from utils.gestures import get_gesture  # here, because gestures.py needs UserError from this module

    try:
        return get_gesture(name)
    except UserError as error:
        parser.error(f"{flag}: {error}")


# Running


def print_lines(lines):
    """Lines on standard output, now and not at exit; an OSError names it."""
    try:
        print("\n".join(lines), flush=True)
    except OSError as error:
        error.filename = "standard output"
        raise


def print_error(message, kind="error"):
    """One line on standard error, clear of any progress bar."""
    tqdm = sys.modules.get("tqdm")
    write = tqdm.tqdm.write if hasattr(tqdm, "tqdm") else print
    if os.environ.get("RANK", "0") != "0":
        kind = f"{kind} in process {os.environ['RANK']}"
    with contextlib.suppress(OSError):  # nobody listens any more
        write(f"{kind}: {one_line(message)}", file=sys.stderr)


def warn(message):
    print_error(message, "warning")


def prepare_streams():
    """Closed standard streams lead to the null device; what the others cannot encode is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # has the number that was free, which a result would get otherwise
            os.set_inheritable(stream.fileno(), True)  # as the others are: by the processes of a pool
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_main(main, args, goes_on=False):
    """Calls `main(args)`; whatever ends it becomes one line on standard error and an exit status.

    Exit status: 1 for errors, 130 for Ctrl-C, 143 for SIGTERM, 141 when the reader of our output has gone. With
    `args.debug` an error is raised again. `goes_on`: the same command goes on with what was interrupted, which is then
    said. Of several processes only the first shows progress bars.
    """
    if os.environ.get("RANK", "0") != "0":
        os.environ["TQDM_DISABLE"] = "1"
    os.environ["MPLBACKEND"] = "agg"  # nothing opens a window; Jupyter's backend is known to its own processes only
    prepare_streams()
    try:
        with signals.raised():
            main(args)
            sys.stdout.flush()
            return
    except SystemExit:
        drop_unheard()
        raise
    except (Exception, KeyboardInterrupt, signals.Terminated) as error:
        status, message = describe_error(error)
        if getattr(args, "debug", False) and status not in (141, 143):
            raise
    # Only here, where the exception and with it all that its frames held has been cleared away
    if status in (130, 143) and goes_on and not getattr(args, "overwrite", False):
        message += "; the same command goes on from here"
    if message:
        print_error(message)
    drop_unheard()
    sys.exit(status)


def flush(stream):
    """Whether a stream takes what waits for it; else that is dropped: at exit it would be tried and complained of."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def drop_unheard():
    """Drops what standard output and standard error no longer take, so that it does not become the exit status."""
    flush(sys.stdout)
    flush(sys.stderr)


def describe_error(error):
    """(exit status, message) of an exception; an OSError's message begins with the file's name."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, signals.Terminated):
        return 143, "terminated"
    if isinstance(error, UserError):
        return 1, str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return 1, "too little memory; use a smaller batch, fewer workers or fewer images (--debug shows where)"
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return 1, f"torch.compile failed ({first_line(error)}); leave out --compile"
    fault = f"{name}: {first_line(error)}" if str(error).strip() else name
    return 1, f"internal error: {fault} (a fault of this program; --debug shows where; please report it)"


def describe_os_error(error):
    """As describe_error, of an OSError: of a write that failed for want of a reader nothing is to be said."""
    name = error.filename
    reader_gone = isinstance(error, BrokenPipeError) and output_has_no_reader()
    if not flush(sys.stdout) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and output_is_full():
        name = name or "standard output"
    if reader_gone:
        return 141, None
    if name is None and isinstance(error, FileNotFoundError) and current_folder_is_gone():
        return 1, FOLDER_GONE
    reason = error.strerror or str(error) or type(error).__name__
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return 1, (reason if name is None else f"{name}: {reason}") + remedy


def output_is_full():
    """Whether standard output takes nothing, also where what it refused was not kept, so that a flush succeeds."""
    try:
        os.write(1, b"")
        disk = os.fstatvfs(1)  # of a pipe it has no blocks at all
    except OSError:
        return True
    return disk.f_bavail == 0 < disk.f_blocks


def current_folder_is_gone():
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def output_has_no_reader():
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # asks for nothing: errors are always told
    return bool(poll.poll(0))
