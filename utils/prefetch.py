"""Work done ahead in threads, a bounded number of items at a time: images decode while a model computes."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

from utils.process_pool import count_cores


def map_ahead(function, items, ahead, num_threads=None):
    """Yield function(item) of every item, in order; at most `ahead` results are under way or waiting.

    Pillow and NumPy leave Python's lock while they decode and resize, so threads (as many as cores) are enough.
    What `function` raises is raised here.
    """
    pending = deque()
    pool = ThreadPoolExecutor(num_threads or count_cores())
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
