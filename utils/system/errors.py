"""What ends a script as one line on standard error: errors that the user can mend, and what the system refuses."""

import errno
import os
import sys

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or give a place that has more"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or give another path"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "give a path that exists"),
    errno.EEXIST: "something else has that name; move it away",
    errno.EISDIR: "a folder is in the way; move it away",
    errno.ENAMETOOLONG: "give a shorter name",
}  # of what the system refuses


class UserError(Exception):
    """What the user can put right, in one line: names the file or value, what was found, what to do."""


def one_line(text):
    """Control characters, line breaks and undecodable bytes escaped, so that a message stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def first_line(error):
    """The first line of an exception's text, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def print_error(message, kind="error"):
    """One line on standard error, clear of any progress bar."""
    tqdm = sys.modules.get("tqdm")
    write = tqdm.tqdm.write if hasattr(tqdm, "tqdm") else print
    if os.environ.get("RANK", "0") != "0":
        kind = f"{kind} in process {os.environ['RANK']}"
    write(f"{kind}: {one_line(message)}", file=sys.stderr)


def warn(message):
    print_error(message, "warning")


def describe_error(error):
    """(exit status, message) of what ended a script; an OSError's message begins with the file's name.

    None for what is a fault of this program, which shows its traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, UserError):
        return 1, str(error)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        return 1, (reason if error.filename is None else f"{error.filename}: {reason}") + remedy
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or is_torch:
        return 1, "too little memory; use a smaller batch, fewer workers or fewer images (--debug shows where)"
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return 1, f"torch.compile failed ({first_line(error)}); leave out --compile"
    return None
