"""A pool of spawned processes that ends with its user: quietly on Ctrl-C, and also when the parent is killed."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from utils.system.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CHUNKS_AHEAD = 4  # per process: done or under way, but not yet asked for, as results may be images


def count_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has none


def end_with_parent():
    """Called in a process that another one started: it ends when that one does, however it ends."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _begin():
    """In a process of a pool, before NumPy is imported: one thread, as several in each would wait for each other."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    end_with_parent()


@contextlib.contextmanager
def _hold_interrupt():
    """Processes started inside never see Ctrl-C, which reaches all of them: the parent alone handles it, afterwards."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # of this thread; processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _run_chunk(function, chunk):
    return [function(item) for item in chunk]


def _iterate(pool, function, items, most, chunk_size):
    """Yields the results in order, while at most `most` chunks are done or under way."""
    items, under_way = iter(items), collections.deque()
    while True:
        while len(under_way) < most and (chunk := list(itertools.islice(items, chunk_size))):
            under_way.append(pool.submit(_run_chunk, function, chunk))
        if not under_way:
            return
        yield from under_way.popleft().result()


@contextlib.contextmanager
def map_in_processes(function, items, num_workers, chunk_size=1):
    """Context that yields an iterator over function(item) of every item, in order, from spawned processes.

    `function` and the items must pickle, and function stay importable by name; a process takes `chunk_size` items at
    a time. What `function` raises is raised here. UserError when a process dies.
    """
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        with _hold_interrupt():
            for _ in range(num_workers):
                pool.submit(int)  # starts a process, as none is idle yet
        yield _iterate(pool, function, items, CHUNKS_AHEAD * num_workers, chunk_size)
    except BaseException as error:  # nobody wants to wait for the items that are under way
        for process in set(multiprocessing.active_children()).difference(others):
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UserError("a worker process died, most often for lack of memory (use fewer workers) or of a damaged "
                            "image (remove it)") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
