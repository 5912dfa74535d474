"""SIGINT and SIGTERM in a script: an exception, so that what was begun is cleared away; a second one leaves at once."""

import contextlib
import os
import signal
import threading
import time

SAME_SECONDS = 1.0  # `timeout` and launchers signal a process and its group: what comes so soon is the same signal


class Terminated(BaseException):
    """SIGTERM came. No Exception, so that nothing takes it for a failure that can be got over."""


STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@contextlib.contextmanager
def raised():
    """Context in which the first SIGINT raises KeyboardInterrupt and the first SIGTERM Terminated.

    A second one ends the process as if nobody listened. What is ignored (`nohup`, background jobs) or handled by
    others stays so, and so does everything outside the main thread.
    """
    first = None  # when the first signal came

    def stop(number, frame):
        nonlocal first
        if first is None:
            first = time.monotonic()
            raise STOPS[number]
        if time.monotonic() - first >= SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    former = {number: signal.getsignal(number) for number in STOPS if in_main_thread}
    ours = [number for number, handler in former.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, former[number])
