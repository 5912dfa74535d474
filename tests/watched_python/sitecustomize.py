"""With this folder on PYTHONPATH, Python writes to the file $WATCH_LOG what it changes on disk and whom it calls.

A line is JSON, [event, path or address]. Uses Python's audit events, so code in C that opens files itself is not seen.
"""

import json
import os
import sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Where the arguments of an event have its paths, and which of them are the folders' descriptors.
PATHS = {"os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.truncate": ((0, None),),
         "os.chmod": ((0, 2),), "os.utime": ((0, 3),), "os.symlink": ((1, 2),),
         "os.rename": ((0, 2), (1, 3)), "os.link": ((0, 2), (1, 3))}
CALLS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
LOG = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(event, what):
    os.write(LOG, (json.dumps([event, what]) + "\n").encode())


def resolve(path, folder=None):
    """The absolute path of what an event names: a path, or a path below an open folder's descriptor."""
    start = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else "."
    return os.path.join(os.path.realpath(start), os.fsdecode(path))


def hook(event, args):
    if event == "open":
        path, mode, flags = args
        if not isinstance(path, int) and flags & WRITING:
            note(event, resolve(path))
    elif event in PATHS:
        for place, folder in PATHS[event]:
            if not isinstance(args[place], int):
                note(event, resolve(args[place], None if folder is None else args[folder]))
    elif event in CALLS:
        address = args[CALLS[event]]
        # A socket of the machine itself has a path, one that leaves it a host.
        if event != "socket.connect" or isinstance(address, tuple):
            note(event, repr(address))


sys.addaudithook(hook)
