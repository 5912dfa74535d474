"""A pool of spawned processes that ends with its user: quietly on Ctrl-C, and also when the parent is killed."""
import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from utils.cli import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _watch_parent():
    """So that no process of the pool outlives a parent that was killed."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


@contextlib.contextmanager
def _ignore_interrupt():
    """Processes started inside never see Ctrl-C, which reaches all of them: the parent alone handles it."""
    if threading.current_thread() is not threading.main_thread():  # no other may set signal handlers
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _one_thread_each():
    """Processes started inside compute with one thread: several in each would wait for each other."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def map_in_processes(function, items, num_workers):
    """Context that yields an iterator over function(item) of every item, in order, from spawned processes.

    `function` and the items must pickle, and function stay importable by name. UserError when a process dies;
    what `function` raises is raised here.
    """
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_watch_parent)
    try:
        with _ignore_interrupt(), _one_thread_each():
            for _ in range(num_workers):
                pool.submit(int)  # starts a process, as none is idle yet
        yield pool.map(function, items)
    except BrokenProcessPool as error:
        raise UserError("a worker process died, most often for lack of memory; use fewer workers") from error
    except BaseException:  # nobody wants to wait for the items that are under way
        for process in set(multiprocessing.active_children()).difference(others):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
