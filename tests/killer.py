"""A file that no process survives opening but the one that made its path. Light, since those processes import it."""

import multiprocessing
import os
import signal
from pathlib import Path


class KillsItsReader(type(Path())):
    """A path that ends every other process that asks the system for it."""

    def __fspath__(self):
        if multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return str(self)

    def __rtruediv__(self, folder):  # an absolute path stays what it is
        return self
