"""Locks of output folders: one run at a time, none after its process has gone."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.system.errors import UserError
from utils.system.file_lock import lock_outputs

HOLD = ("import sys\nfrom utils.system.file_lock import lock_outputs\nwith lock_outputs(*sys.argv[1:]):\n"
        "    print('locked', flush=True)\n    sys.stdin.read()\n")


def test_a_second_run_is_refused_until_the_first_has_died(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "out"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, cwd=ROOT) as first:
        assert first.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="out: another run is writing to it"), lock_outputs(tmp_path / "out"):
            pass
        first.kill()
        first.wait()
        with lock_outputs(tmp_path / "out"):
            pass


def test_a_folder_that_was_there_for_the_lock_alone_goes_and_one_with_results_stays(tmp_path):
    with lock_outputs(tmp_path / "out"):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert not (tmp_path / "out").exists()
    with lock_outputs(tmp_path / "out"):
        (tmp_path / "out" / "result").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]


def test_runs_that_write_other_files_of_a_folder_do_not_wait_for_each_other(tmp_path):
    with lock_outputs(tmp_path, "a.txt"), lock_outputs(tmp_path, "b.txt"):
        with pytest.raises(UserError, match="a.txt: another run"), lock_outputs(tmp_path, "a.txt", "c.txt"):
            pass
