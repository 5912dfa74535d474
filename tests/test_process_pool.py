"""Spawned processes that compute, fail and die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from utils.system.errors import UserError
from utils.system.process_pool import _hold_interrupt, map_in_processes

ROOT = Path(__file__).resolve().parent.parent  # not of conftest.py: every process that starts here would import torch


def square(number):
    return number * number


def square_if_harmless(number):
    """Dies at multiples of 10, of a signal or by leaving, and answers the others."""
    if number % 20 == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 20 == 0:
        os._exit(3)
    return number * number


def die_late(number):
    if number == 0:
        time.sleep(0.5)  # for the other process to do all others
        os._exit(1)
    return number


def die_after(delay):
    """Answers and dies as many seconds later, at once if it is 0; negative: lives."""
    if delay == 0:
        os._exit(1)
    if delay > 0:
        threading.Timer(delay, os._exit, [1]).start()
    return delay


def die_once(path):
    """Dies while there is no file at `path`; the others of its kind then find it."""
    if not os.path.exists(path):
        open(path, "x").close()
        os._exit(1)
    return "alive"


def refuse_seven(number):
    if number == 7:
        raise ValueError("not seven")
    return number


def process_id(number):
    return os.getpid()


def leave(number):
    os._exit(1)


def run(function, items, num_workers=2, **options):
    with map_in_processes(function, items, num_workers, **options) as computed:
        return list(computed)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_results_come_in_order_whatever_the_chunks(chunk_size):
    assert run(square, range(50), chunk_size=chunk_size) == [n * n for n in range(50)]


def test_items_that_kill_their_process_are_named_and_all_others_computed(monkeypatch):
    monkeypatch.setattr("utils.system.process_pool.DEATHS_IN_A_ROW", 2)
    results = run(square_if_harmless, range(1, 33), chunk_size=4, on_death="died at {}".format)
    assert results == [f"died at {n}" if n % 10 == 0 else n * n for n in range(1, 33)]


def test_an_item_that_was_under_way_when_another_process_was_killed_is_tried_again(tmp_path):
    paths = [tmp_path / str(index) for index in range(2)]
    paths[1].touch()
    assert run(die_once, paths, on_death=str) == ["alive", "alive"]


def test_what_was_finished_when_a_process_died_is_not_lost():
    assert run(die_late, range(7), on_death=lambda number: -1) == [-1, 1, 2, 3, 4, 5, 6]


def test_a_death_between_two_items_costs_none_of_them():
    with map_in_processes(die_after, [0, 0.1, -1, -2], 1, on_death=str) as computed:
        results = []
        for result in computed:
            results.append(result)
            time.sleep(0.4)
    assert results == ["0", 0.1, -1, -2]


def test_without_a_substitute_a_death_is_an_error():
    with pytest.raises(UserError, match="a worker process died.*fewer workers"):
        run(square_if_harmless, range(1, 20))


def test_death_after_death_is_not_blamed_on_the_items():
    with pytest.raises(UserError, match="5 worker processes died one after the other, the last of them at 4;"):
        run(leave, range(1000), on_death=str)


def test_many_deaths_in_a_row_are_blamed_on_the_items_when_another_one_still_lives():
    deadly = [10 * n for n in range(1, 13)]
    assert run(square_if_harmless, [1, *deadly, 2], on_death=str) == [1, *map(str, deadly), 4]


def test_processes_that_cannot_start_are_not_blamed_on_the_items(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from utils.system.process_pool import map_in_processes\n"
                      "with map_in_processes(abs, [1], 2, on_death=str) as computed:\n"
                      "    list(computed)\n")
    result = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                            text=True, timeout=60)
    last_line = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and "end as they start" in last_line and "__main__" in last_line


def test_processes_that_are_kept_serve_the_next_map_also_after_a_death_or_an_error():
    run(process_id, range(8), on_death=str, keep=True)
    first = {process.pid for process in multiprocessing.active_children()}
    assert set(run(process_id, range(8), on_death=str, keep=True)) <= first
    with pytest.raises(ValueError, match="not seven"):
        run(refuse_seven, range(8), on_death=str, keep=True)
    again = set(run(process_id, range(8), on_death=str, keep=True))
    assert again <= first and not again & set(run(process_id, range(8), on_death=str))
    for number in again:
        os.kill(number, signal.SIGKILL)
    assert not set(run(process_id, range(8), on_death=str, keep=True)) & first


def test_what_the_function_raises_is_raised_here():
    with pytest.raises(ValueError, match="not seven"):
        run(refuse_seven, range(20), chunk_size=3, on_death=str)


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
