"""What lies on disk after a write, whole or not at all, and what is refused when it is read."""

import argparse
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli import files_below, run_code
from utils.system import errors, files

UNDECODABLE = os.fsdecode(b"caf\xe9.png")  # Latin-1 bytes in a file name
LIMIT_FILE_SIZE = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"


def test_atomic_path_writes_whole_files_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "image.png"
    with files.atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".png" and temporary.name[0] == "."
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and files_below(path.parent) == ["image.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_leaves_what_was_there_after_an_error(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("former")
    with pytest.raises(error), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "former" and files_below(tmp_path) == ["file.txt"]


def test_what_a_killed_run_left_goes_when_the_same_file_is_written_again(tmp_path):
    for name in ("model", "list.txt"):
        (tmp_path / f".tmp-{name}").mkdir()
        (tmp_path / f".tmp-{name}" / "half").touch()
        with files.atomic_path(tmp_path / name) as temporary:
            temporary.write_text("whole")
    assert files_below(tmp_path) == ["list.txt", "model"]


def test_atomic_path_replaces_a_folder_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):
        with files.atomic_path(path) as temporary:
            (temporary / "part").mkdir(parents=True)
            (temporary / "part" / name).write_text(name)
    assert files_below(tmp_path) == ["model", "model/part", "model/part/second"]
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert files_below(tmp_path) == ["model", "model/part", "model/part/second"]


def test_atomic_path_puts_the_former_folder_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "former").touch()
    replace = os.replace

    def fail_on_new(source, target):
        if (Path(source) / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_new)
    with pytest.raises(OSError), files.atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert files_below(tmp_path) == ["model", "model/former"]


def test_a_folder_whose_run_was_killed_between_two_renames_is_not_lost(tmp_path):
    (tmp_path / ".tmp-former-model").mkdir()
    (tmp_path / ".tmp-former-model" / "former").touch()
    with pytest.raises(OSError, match="no room"), files.atomic_path(tmp_path / "model"):
        raise OSError("no room")
    assert files_below(tmp_path) == ["model", "model/former"]


def test_a_full_disk_names_the_file_and_leaves_the_former_one(tmp_path):
    path = tmp_path / "state.json"
    files.write_json(path, {"step": 1})
    result = run_code(f"{LIMIT_FILE_SIZE}files.write_json({str(path)!r}, list(range(1000)))")
    assert (result.returncode, result.stderr) == (1, f"error: {path}: File too large; make room, or give a "
                                                     "place that has more\n")
    assert files.read_json(path) == {"step": 1} and files_below(tmp_path) == ["state.json"]


def test_a_file_that_cannot_be_made_is_named_by_its_final_name(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below.json"
    with pytest.raises(OSError) as caught:
        files.write_json(path, {})
    assert ".tmp-" not in str(caught.value)
    with pytest.raises(IsADirectoryError) as caught:
        (tmp_path / "folder").mkdir()
        files.write_json(tmp_path / "folder", {})
    assert caught.value.filename == str(tmp_path / "folder")


def test_json_carries_paths_arrays_and_undecodable_names(tmp_path):
    path = tmp_path / "a.json"
    text = {"name": UNDECODABLE, "text": "é"}
    files.write_json(path, {"path": Path("x/y"), "mean": np.float32(0.5), "row": np.arange(3), **text})
    assert files.read_json(path) == {"path": "x/y", "mean": 0.5, "row": [0, 1, 2], **text}
    assert "é".encode() in path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1}}', b"[" * 100_000])
def test_damaged_json_is_a_user_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match="config.json"):
        files.read_json(path)


def test_settings_are_kept_without_the_debug_flag(tmp_path):
    args = argparse.Namespace(Lambda=0.7, data_dir=Path("data"), debug=True)
    files.write_settings(tmp_path / "config.json", args)
    assert files.read_json(tmp_path / "config.json") == {"Lambda": 0.7, "data_dir": "data"}


def test_differing_settings_are_refused_by_name_and_equal_ones_are_not(tmp_path):
    new = {"Lambda": 0.5, "steps": (1, 2), "data_dir": Path("data"), "ema": None}
    files.write_settings(tmp_path / "config.json", {**new, "Lambda": 0.7})
    old = files.read_json(tmp_path / "config.json")
    with pytest.raises(errors.UserError, match=r"^out was made with .* \(Lambda: 0.7 there, 0.5 now\); go elsewhere$"):
        files.refuse_differing("out", old, new, "go elsewhere")
    files.refuse_differing("out", old, {**new, "Lambda": 0.7}, "")
    with pytest.raises(errors.UserError, match="a: 1 there, not set now; b: not set there, 2 now"):
        files.refuse_differing("out", {"a": 1}, {"b": 2}, "")


def test_rows_are_appended_whole_even_after_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    files.append_row(path, {"fid": np.float64(1.5)})
    files.append_row(path, {"name": "a\nb"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"fid": 1.5}, {"name": "a\nb"}]
    path.write_bytes(path.read_bytes() + b'{"fid": 2')
    files.append_row(path, {"fid": 3})
    assert path.read_text().splitlines()[2:] == ['{"fid": 2', '{"fid": 3}']


def test_a_row_that_does_not_fit_leaves_the_former_ones(tmp_path):
    path = tmp_path / "results.jsonl"
    files.append_row(path, {"fid": 1})
    result = run_code(f"{LIMIT_FILE_SIZE}files.append_row({str(path)!r}, list(range(1000)))")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and str(path) in result.stderr
    assert path.read_text() == '{"fid": 1}\n'


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_settings_that_are_no_object_are_refused(content, tmp_path):
    (tmp_path / "generation.json").write_text(content)
    with pytest.raises(errors.UserError, match="generation.json: a JSON object is expected"):
        files.read_object(tmp_path / "generation.json")
