"""A lock on the outputs of a run that ends with the process that holds it, however that ends."""

import contextlib
from pathlib import Path

import filelock

from utils.system.errors import UserError


@contextlib.contextmanager
def lock_outputs(folder, *names, wait=False):
    """Context in which no other run writes the files `names` of `folder`; without names, anything in it.

    The folder is made, and goes again if nothing came into it. Of several processes of one run only the first may ask.
    UserError while another run is in it, unless it shall `wait` for that one's end.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / (f".{names[0]}.lock" if names else ".lock"))
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout as error:
        raise UserError(f"{folder.joinpath(*names[:1])}: another run is writing to it; wait for its end") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who has it open sees that it is gone
        lock.release()
        with contextlib.suppress(OSError):  # there is something in it
            folder.rmdir()
