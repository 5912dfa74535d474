"""Ctrl-C and SIGTERM, put off until the running step is done."""

import contextlib
import os
import signal
import sys

from tqdm import tqdm

from utils.system import processes


class Interruption:
    """Context in which SIGINT and SIGTERM are only noted, in `signal`; a second SIGINT ends the process.

    One that came when nobody looked at it any more is sent again at the end, to whoever listens there.
    """

    def __init__(self):
        self.signal = None  # the number of the first signal that came
        self.handlers = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self.note)
        return self

    def note(self, number, frame):
        self.signal = self.signal or number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with contextlib.suppress(RuntimeError, OSError):  # it came in the middle of a write to the same stream, or
            # ended the `tee` behind the command as well
            tqdm.write("interrupted: finishing this step and writing a checkpoint (Ctrl-C again leaves at once)",
                       file=sys.stderr)

    def agreed(self, is_look):
        """The signal at which all processes end after this step, or None.

        Several processes compare theirs only when `is_look`, the same in all of them, since that takes time.
        """
        if processes.count() == 1:
            return self.signal
        return (max(processes.gather(self.signal or 0)) or None) if is_look else None

    def __exit__(self, exception_type, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.signal and exception_type is None:
            os.kill(os.getpid(), self.signal)
