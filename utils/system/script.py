"""The end of a script: whatever ends it becomes an exit status and, unless it is our fault, one line."""

import io
import os
import sys

from utils.system import signals
from utils.system.errors import describe_error, print_error


def run_main(main, args, goes_on=False):
    """Calls `main(args)`; what ends it becomes one line on standard error and an exit status.

    Exit status: 1 for errors, 130 for Ctrl-C, 143 for SIGTERM, 141 when the reader of our output has gone. A fault of
    this program shows its traceback, and with `args.debug` any error does. `goes_on`: the same command goes on with
    what was interrupted, which is then said. Of several processes only the first shows progress bars.
    """
    if os.environ.get("RANK", "0") != "0":
        os.environ["TQDM_DISABLE"] = "1"
    os.environ["MPLBACKEND"] = "agg"  # nothing opens a window
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be undecodable
    try:
        with signals.raised():
            main(args)
            sys.stdout.flush()
            return
    except BrokenPipeError:
        sys.exit(141)
    except (Exception, KeyboardInterrupt, signals.Terminated) as error:
        described = (143, "terminated") if isinstance(error, signals.Terminated) else describe_error(error)
        if described is None or (getattr(args, "debug", False) and described[0] != 143):
            raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # its reader has gone: Python would complain at exit, and change the status
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    # Only here, where the exception and with it all that its frames held has been cleared away
    status, message = described
    if status in (130, 143) and goes_on and not getattr(args, "overwrite", False):
        message += "; the same command goes on from here"
    print_error(message)
    sys.exit(status)
