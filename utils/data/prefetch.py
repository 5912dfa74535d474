"""Work done ahead in threads, a bounded number of items at a time: images decode while a model computes."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait

from utils.system.process_pool import count_cores


def map_ahead(function, items, ahead, num_threads=None):
    """Yield function(item) of every item, in order; at most `ahead` results are under way or waiting.

    Items, such as whole images, are taken as the threads get to them: no more than two for each lie about.
    Pillow and NumPy leave Python's lock while they decode and resize, so threads (as many as cores) are enough.
    What `function` raises is raised here.
    """
    pending = deque()
    num_threads = num_threads or count_cores()
    pool = ThreadPoolExecutor(num_threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * num_threads:
                wait([pending[-2 * num_threads]])
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
