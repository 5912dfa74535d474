"""Ctrl-C and SIGTERM, put off until the running step is done."""

import signal
import sys

from tqdm import tqdm


class Interruption:
    """Context in which SIGINT and SIGTERM are only noted, in `signal`; a second SIGINT ends the process."""

    def __init__(self):
        self.signal = None  # the number of the first signal that came
        self.handlers = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self.note)
        return self

    def note(self, number, frame):
        self.signal = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        tqdm.write("interrupted: finishing this step and writing a checkpoint (Ctrl-C again leaves at once)",
                   file=sys.stderr)

    def __exit__(self, *exception):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
