"""utils/data/prefetch.py: order, bounded memory, errors."""

import threading
import time

import pytest

from utils.data.prefetch import map_ahead


def test_results_come_in_the_order_of_the_items_whatever_takes_longest():
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(map_ahead(slow_first, range(50), ahead=7, num_threads=4)) == [i * i for i in range(50)]


def test_no_more_than_ahead_items_are_begun_before_the_first_is_taken():
    begun = []
    results = map_ahead(begun.append, range(1000), ahead=5, num_threads=2)
    next(results)
    time.sleep(0.05)
    assert len(begun) == 5
    results.close()


def test_items_that_no_thread_has_got_to_do_not_pile_up():
    waiting, taken = set(), []

    def items():
        for item in range(40):
            waiting.add(item)
            taken.append(len(waiting))
            yield item

    def use(item):
        time.sleep(0.002)
        waiting.remove(item)

    assert len(list(map_ahead(use, items(), ahead=30, num_threads=2))) == 40
    assert max(taken) <= 5


def test_what_the_function_raises_reaches_the_caller():
    def refuse(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(map_ahead(refuse, range(3), ahead=2))


def test_work_is_done_in_other_threads_and_none_is_left_behind():
    before = threading.active_count()
    names = set(map_ahead(lambda _: threading.current_thread().name, range(20), ahead=4, num_threads=2))
    assert threading.current_thread().name not in names
    assert threading.active_count() == before
