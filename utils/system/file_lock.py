"""A lock on the outputs of a run that ends with the process that holds it, however that ends."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from utils.system.errors import UserError
from utils.system.files import remove_leftovers


@contextlib.contextmanager
def lock_outputs(folder, *names):
    """Context in which no other run writes the files `names` of `folder`; without names, anything in it.

    The folder is made, and goes again if nothing came into it. What a killed run left half written goes first.
    Of several processes of one run only the first may ask. UserError while another run is in it.
    """
    folder = Path(folder)
    path = folder / f".{names[0]}.lock" if names else folder / ".lock"
    with open_locked(path, folder / names[0] if names else folder) as file:
        try:
            remove_leftovers(folder, names)
            yield
        finally:
            if is_at(file, path):
                path.unlink()
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()


def open_locked(path, name):
    """The open file at `path`, locked. It is there only while a run goes on, unless that was killed."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # an ending run has removed the folder
            file = open(path, "a", opener=open_regular)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(file, path):
                    return file
            except BlockingIOError as error:
                file.close()
                raise UserError(f"{name}: another run is writing to it; wait for its end") from error
            except OSError as error:
                file.close()
                raise UserError(f"{name}: its file system has no locks ({error.strerror}); use another one") from error
            file.close()  # its run has ended since it was opened, and removed it: a lock on it keeps nobody out


def open_regular(path, flags):
    """Opens a file, but neither a link nor a pipe without a reader, which would wait for one."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UserError(f"{path} is no regular file; remove it") from error
        raise


def is_at(file, path):
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
