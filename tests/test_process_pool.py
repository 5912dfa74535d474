"""Spawned processes that compute, fail and die."""

import os
import signal

import pytest

from utils.system.errors import UserError
from utils.system.process_pool import _hold_interrupt, map_in_processes


def square(number):
    return number * number


def die_at_seven(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse_seven(number):
    if number == 7:
        raise ValueError("not seven")
    return number


def read_threads(name):
    return os.environ[name]


def run(function, items, num_workers=2, **options):
    with map_in_processes(function, items, num_workers, **options) as computed:
        return list(computed)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_results_come_in_order_whatever_the_chunks(chunk_size):
    assert run(square, range(50), chunk_size=chunk_size) == [n * n for n in range(50)]


def test_a_death_is_an_error_in_one_line():
    with pytest.raises(UserError, match="^a worker process died.*fewer workers.*$"):
        run(die_at_seven, range(20))


def test_what_the_function_raises_is_raised_here():
    with pytest.raises(ValueError, match="not seven"):
        run(refuse_seven, range(20), chunk_size=3)


def test_each_process_computes_with_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run(read_threads, ["OMP_NUM_THREADS"], 1) == ["1"] and os.environ["OMP_NUM_THREADS"] == "7"


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with map_in_processes(square, items(), 2, chunk_size=2) as computed:
        assert next(computed) == 0
        assert len(taken) <= 20


def test_ctrl_c_while_processes_start_is_not_lost():
    with pytest.raises(KeyboardInterrupt), _hold_interrupt():
        os.kill(os.getpid(), signal.SIGINT)
