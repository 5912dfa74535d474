"""Locks of output folders: one run at a time, none after its process has gone."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.system.errors import UserError
from utils.system.file_lock import lock_outputs
from utils.system.files import beside

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


def test_only_what_a_killed_run_left_of_these_files_is_removed(tmp_path):
    left = [beside(tmp_path / name) for name in ("a.txt", "b.txt", "model")]
    left[0].touch(), left[1].touch(), left[2].mkdir()
    (tmp_path / ".tmp-of another program").touch()
    with lock_outputs(tmp_path, "a.txt", "c.txt"):
        assert [path.exists() for path in left] == [False, True, True]
    with lock_outputs(tmp_path):
        assert not any(path.exists() for path in left)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-of another program"]


def test_a_lock_on_a_file_that_its_run_has_removed_meanwhile_keeps_nobody_out(tmp_path, monkeypatch):
    flock, raced = fcntl.flock, []

    def late(file, operation):
        if not raced:  # between open and flock the first run ends
            raced.append(os.stat(tmp_path / ".lock").st_ino)
            (tmp_path / ".lock").rename(tmp_path / "removed")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_outputs(tmp_path):
        assert raced and os.stat(tmp_path / ".lock").st_ino not in raced
        with pytest.raises(UserError, match="another run"), lock_outputs(tmp_path):
            pass


def test_a_run_leaves_the_lock_alone_that_another_one_holds_since_somebody_deleted_its_own(tmp_path):
    first, second = lock_outputs(tmp_path), lock_outputs(tmp_path)
    first.__enter__()
    (tmp_path / ".lock").unlink()
    with second:
        first.__exit__(None, None, None)
        with pytest.raises(UserError, match="another run"), lock_outputs(tmp_path):
            pass


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/none/file"), os.mkfifo, Path.mkdir])
def test_something_else_in_the_place_of_the_lock_is_named(make, tmp_path):
    make(tmp_path / ".lock")
    with pytest.raises((UserError, IsADirectoryError), match=r"\.lock"), lock_outputs(tmp_path):
        pass
    assert os.path.lexists(tmp_path / ".lock")
