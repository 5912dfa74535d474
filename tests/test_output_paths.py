"""utils/data/output_paths.py: what a metric script refuses to write to, before it computes anything."""

import argparse

import pytest

from tests.conftest import without_rights
from utils.data.output_paths import check_outputs
from utils.system import cli

ROW = '{"script": "cal_fid.py", "fid": 1}\n'


@pytest.fixture
def folder(tmp_path):
    """images/a.png, list.txt, rows.jsonl, empty.jsonl, and what may not be written to: protected.jsonl, locked/."""
    for name in ("images", "locked"):
        (tmp_path / name).mkdir()
    contents = {"images/a.png": "a picture", "list.txt": "a.png\n", "rows.jsonl": ROW, "empty.jsonl": "",
                "captions.txt": "a hand\n", "protected.jsonl": ROW}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "same").symlink_to("rows.jsonl")
    (tmp_path / "protected.jsonl").chmod(0o444)
    (tmp_path / "locked").chmod(0o555)
    return tmp_path


def check(folder, **paths):
    args = argparse.Namespace(**{flag: folder / path for flag, path in paths.items()})
    check_outputs(cli.ArgumentParser(prog="x.py"), args, [folder / "images"], [folder / "list.txt"])


@pytest.mark.parametrize(("flag", "path", "problem"), [
    ("output", "images", "is a folder"), ("grid", "images", "is a folder"),
    ("output", "/dev/null", "is no regular file"),
    ("output", "x" * 300, "name too long"), ("output", "list.txt/rows.jsonl", "list.txt is no folder"),
    ("output", "locked/rows.jsonl", "nothing may be written to"), ("output", "protected.jsonl", "may be written to"),
    ("grid", "locked/new/worst.png", "nothing may be written to"),
    ("output", "captions.txt", "holds something else than rows"),
    ("output", "list.txt", "is one of the files that are read"),
    ("per_image", "list.txt", "is one of the files that are read"),
    ("grid", "images/a.png", "lies among the images"), ("per_image", "images/a.png", "lies among the images"),
    ("grid", "images/../images/new/b.PNG", "lies among the images"),
    ("grid", "worst.txt", "give a name that ends in .png"), ("grid", "worst.webp", "give a name that ends in .png"),
])
def test_what_cannot_be_written_or_is_read_is_refused(flag, path, problem, folder, capsys):
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with without_rights(), pytest.raises(SystemExit) as exit_status:
        check(folder, **{flag: path})
    errors = capsys.readouterr().err
    assert exit_status.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith(f"x.py: error: --{flag} {folder / path}") and problem in errors
    assert {file: file.read_bytes() for file in before} == before and not (folder / "new").exists()


@pytest.mark.parametrize("paths", [
    {}, {"output": "rows.jsonl"}, {"output": "empty.jsonl"}, {"output": "new/deep/rows.jsonl"},
    {"output": "images/rows.jsonl"}, {"per_image": "new/a.csv", "grid": "new/a.PNG"},
])
def test_new_files_and_earlier_results_are_accepted_and_left_as_they_are(paths, folder):
    before = sorted(folder.rglob("*"))
    with without_rights():
        check(folder, **paths)
    assert sorted(folder.rglob("*")) == before


def test_two_results_need_two_files(folder, capsys):
    with pytest.raises(SystemExit):
        check(folder, output="rows.jsonl", per_image="same")
    assert "--per_image" in (errors := capsys.readouterr().err) and "is the file of --output too" in errors
