"""A pool of spawned processes that ends with its user: quietly on Ctrl-C, and also when the parent is killed.

It outlives its own processes: one that is killed, or dies in a decoder, costs the item it died of.
"""
import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from utils.cli import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CHUNKS_AHEAD = 4  # per process: done or under way, but not yet asked for
DEATHS_IN_A_ROW = 5  # so many of them are no matter of single items


def count_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has none


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _watch_parent():
    """So that no process of the pool outlives a parent that was killed."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


@contextlib.contextmanager
def _hold_interrupt():
    """Processes started inside never see Ctrl-C, which reaches all of them: the parent alone handles it, afterwards."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # of this thread; processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


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


def _start_pool(num_workers):
    # Outside, as it starts Python's resource tracker, which lets signals in again
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_watch_parent)
    with _hold_interrupt(), _one_thread_each():
        for _ in range(num_workers):
            pool.submit(int)  # starts a process, as none is idle yet
    return pool


def _run_chunk(function, chunk):
    return [function(item) for item in chunk]


class _SurvivingMap:
    """Iterator over function(item) of every item, in order, that goes on when a process dies.

    Few chunks are handed to the pool at a time, so that after a death the one that caused it is known to be among
    them. These are done again item by item, in a process of their own.
    """

    def __init__(self, function, items, num_workers, chunk_size, on_death):
        self.function, self.num_workers, self.on_death = function, num_workers, on_death
        self.items, self.chunk_size = iter(items), chunk_size
        self.under_way = collections.deque()  # (chunk, its future), oldest first
        self.deaths_in_a_row = 0
        self.pool = None

    def open(self):
        self.pool = _start_pool(self.num_workers)

    def __iter__(self):
        while True:
            self._submit()
            if not self.under_way:
                return
            try:
                results = self.under_way[0][1].result()
                self.under_way.popleft()
            except BrokenProcessPool as error:
                if self.on_death is None:
                    raise UserError("a worker process died, most often for lack of memory; "
                                    "use fewer workers") from error
                yield from self._repeat()
                self._replace_pool(self.num_workers)
            else:
                yield from results

    def _submit(self):
        while len(self.under_way) < CHUNKS_AHEAD * self.num_workers:
            chunk = list(itertools.islice(self.items, self.chunk_size))
            if not chunk:
                return
            try:
                future = self.pool.submit(_run_chunk, self.function, chunk)
            except BrokenProcessPool as error:  # died since the last result
                future = Future()
                future.set_exception(error)
            self.under_way.append((chunk, future))

    def _repeat(self):
        """Results of what was under way when a process died."""
        self._replace_pool(1)
        while self.under_way:
            chunk, future = self.under_way.popleft()
            if future.exception() is None:
                yield from future.result()
                continue
            if not isinstance(future.exception(), BrokenProcessPool):
                raise future.exception()
            for item in chunk:
                yield self._run_alone(item)

    def _run_alone(self, item):
        try:
            result = self.pool.submit(self.function, item).result()
            self.deaths_in_a_row = 0
            return result
        except BrokenProcessPool as error:
            self.deaths_in_a_row += 1
            if self.deaths_in_a_row == DEATHS_IN_A_ROW:
                raise UserError(f"{DEATHS_IN_A_ROW} worker processes died one after the other, the last of them at "
                                f"{item}; is there enough memory?") from error
            self._replace_pool(1)
            return self.on_death(item)

    def _replace_pool(self, num_workers):
        self.close()
        self.pool = _start_pool(num_workers)

    def close(self):
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def map_in_processes(function, items, num_workers, chunk_size=1, on_death=None):
    """Context that yields an iterator over function(item) of every item, in order, from spawned processes.

    `function` and the items must pickle, and function stay importable by name; a process takes `chunk_size` items at
    a time. What `function` raises is raised here. When a process dies, UserError; but with `on_death` the items that
    were under way are tried again one by one, the result of one that kills its process again is on_death(item), and
    UserError means that processes die at item after item.
    """
    others = multiprocessing.active_children()
    computed = _SurvivingMap(function, items, num_workers, chunk_size, on_death)
    try:
        computed.open()
        yield iter(computed)
    except BaseException:  # nobody wants to wait for the items that are under way
        for process in set(multiprocessing.active_children()).difference(others):
            process.terminate()
        raise
    finally:
        computed.close()
