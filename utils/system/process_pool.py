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

from utils.system.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CHUNKS_AHEAD = 4  # per process: done or under way, but not yet asked for
DEATHS_IN_A_ROW = 5  # after so many an item that went well is done again: does it die as well, they are not to blame


one_at_a_time = threading.Lock()  # of all processes of a pool, in each of them: for what needs much memory
_kept = {}  # pools that wait for their next map, by their number of processes


def count_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has none


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _begin(lock):
    """Of a process of a pool: none outlives a parent that was killed."""
    global one_at_a_time
    one_at_a_time = lock
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
    # The lock and the pool outside, as they start Python's resource tracker, which lets signals in again
    spawn = multiprocessing.get_context("spawn")
    # A process that dies with the lock takes it along: its pool ends, and the next one has a new lock
    pool = ProcessPoolExecutor(num_workers, spawn, initializer=_begin, initargs=(spawn.Lock(),))
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

    def __init__(self, function, items, num_workers, chunk_size, on_death, keep):
        self.function, self.num_workers, self.on_death, self.keep = function, num_workers, on_death, keep
        self.items, self.chunk_size = iter(items), chunk_size
        self.under_way = collections.deque()  # (chunk, its future), oldest first
        self.deaths_in_a_row = 0
        self.done_well = []  # the last item that did not kill its process
        self.pool = None

    def open(self):
        self.pool = (_kept.pop(self.num_workers, None) if self.keep else None) or _start_pool(self.num_workers)

    def __iter__(self):
        while True:
            self._submit()
            if not self.under_way:
                return
            try:
                results = self.under_way[0][1].result()
                self.done_well = self.under_way.popleft()[0][-1:]
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
        if isinstance(self.pool.submit(int).exception(), BrokenProcessPool):
            raise UserError("worker processes end as they start; is there memory for them, and is what the main script "
                            "does under `if __name__ == '__main__':`?")
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
        if not self._survives(item):
            self.deaths_in_a_row += 1
            if self.deaths_in_a_row % DEATHS_IN_A_ROW == 0 and not any(map(self._survives, self.done_well)):
                raise UserError(f"{self.deaths_in_a_row} worker processes died one after the other, the last of them "
                                f"at {item}; is there enough memory?")
            return self.on_death(item)
        self.deaths_in_a_row, self.done_well = 0, [item]
        return self.alone.result()

    def _survives(self, item):
        """Whether a process lives through an item, whose future is then `alone`."""
        try:
            self.alone = self.pool.submit(self.function, item)
        except BrokenProcessPool:  # died since the last result
            self._replace_pool(1)
            self.alone = self.pool.submit(self.function, item)
        if isinstance(self.alone.exception(), BrokenProcessPool):
            self._replace_pool(1)
            return False
        return True

    def _replace_pool(self, num_workers):
        self.pool.shutdown(cancel_futures=True)
        self.pool = _start_pool(num_workers)

    def close(self):
        for _, future in self.under_way:
            future.cancel()
        if self.keep and self.num_workers not in _kept:
            _kept[self.num_workers] = self.pool
        elif self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def map_in_processes(function, items, num_workers, chunk_size=1, on_death=None, keep=False):
    """Context that yields an iterator over function(item) of every item, in order, from spawned processes.

    `function` and the items must pickle, and function stay importable by name; a process takes `chunk_size` items at
    a time. What `function` raises is raised here. When a process dies, UserError; but with `on_death` the items that
    were under way are tried again one by one, the result of one that kills its process again is on_death(item), and
    UserError means that processes die at whatever item. With `keep` the processes stay, for the next map with `keep`
    and as many of them: for short items.
    """
    others = multiprocessing.active_children()
    computed = _SurvivingMap(function, items, num_workers, chunk_size, on_death, keep)
    try:
        computed.open()
        yield iter(computed)
    except BaseException:  # nobody wants to wait for the items that are under way
        for process in set(multiprocessing.active_children()).difference(others) if not keep else ():
            process.terminate()
        raise
    finally:
        computed.close()
