"""utils/data/output_paths.py: what a metric script refuses to write to, before it computes anything."""

import argparse
import os
import tempfile
from pathlib import Path

import pytest

from tests.conftest import without_rights
from utils.data import images  # noqa: F401 images: check_outputs imports it, which others than root may not do here
from utils.data.output_paths import check_outputs
from utils.system import cli  # noqa: F401 images: check_outputs imports it, which others than root may not do here

ROW = '{"script": "cal_fid.py", "fid": 1}\n'


@pytest.fixture
def folder():
    """images/ (a.png, b.jpg → elsewhere/b.jpg), list.txt, rows.jsonl, and things that are no files."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: only its owner may look into that
        yield fill(Path(name))


def fill(folder):
    for name in ("images", "elsewhere", "locked"):
        (folder / name).mkdir()
    (folder / "images/a.png").write_text("a picture")
    (folder / "elsewhere/b.jpg").write_text("a picture")
    (folder / "images/b.jpg").symlink_to(folder / "elsewhere/b.jpg")
    (folder / "list.txt").write_text("a.png\n")
    (folder / "rows.jsonl").write_text(ROW)
    (folder / "annotations.json").write_text('{"a": {"labels": []}}\n')
    (folder / "journal.jsonl").write_text('{"settings": {}}\n')
    (folder / "empty.jsonl").touch()
    os.mkfifo(folder / "pipe")
    (folder / "to_image").symlink_to("images/a.png")
    os.link(folder / "images/a.png", folder / "hard")
    (folder / "to_list").symlink_to("list.txt")
    (folder / "nowhere").symlink_to("none/file")
    (folder / "circle").symlink_to("circle")
    (folder / "device").symlink_to("/dev/full")
    for name in ("images/rows.jsonl", "protected.jsonl", "protected.csv"):
        (folder / name).write_text(ROW)
    rights = {"protected.jsonl": 0o444, "protected.csv": 0o444, "locked": 0o555}
    for path in [folder, *folder.rglob("*")]:
        path.is_symlink() or path.chmod(rights.get(path.name, 0o777))
    return folder


def check(folder, **paths):
    args = argparse.Namespace(**{flag: folder / path for flag, path in paths.items()})
    check_outputs(cli.ArgumentParser(prog="x.py"), args, [folder / "images"], [folder / "list.txt"])


@pytest.mark.parametrize(("flag", "path", "problem"), [
    ("output", "images", "is a folder"), ("grid", "images", "is a folder"),
    ("output", "pipe", "is no regular file"), ("per_image", "pipe", "is no regular file"),
    ("output", "device", "is no regular file"), ("output", "/dev/full", "is no place for files"),
    ("grid", "/dev/null", "is no place for files"), ("per_image", "/dev/stdout", "is no place for files"),
    ("output", "nowhere", "No such file"), ("per_image", "circle", "Too many levels"),
    ("output", "x" * 300, "name too long"), ("output", "new/" + "x" * 300, "name too long"),
    ("output", "list.txt/rows.jsonl", "list.txt is no folder"), ("output", "pipe/new/rows.jsonl", "pipe is no folder"),
    ("output", "locked/rows.jsonl", "nothing may be written to the folder"),
    ("grid", "locked/new/worst.png", "nothing may be written to the folder"),
    ("output", "protected.jsonl", "may not be written to"),
    ("output", "list.txt", "holds something else than rows"),
    ("output", "annotations.json", "holds something else than rows of"),
    ("output", "journal.jsonl", "holds something else than rows of"),
    ("per_image", "annotations.json", "is there and no .csv"),
    ("per_image", "list.txt", "is one of the files that are read"),
    ("per_image", "to_list", "is one of the files that are read"),
    ("per_image", "to_image", "images/a.png, one of the images"), ("per_image", "hard", "images/a.png, one of the"),
    ("grid", "elsewhere/b.jpg", "images/b.jpg, one of the images"),
    ("grid", "images/a.png", "lies among the images"), ("per_image", "images/a.png", "lies among the images"),
    ("grid", "images/../images/new.png", "lies among the images"), ("output", "images/b.PNG", "lies among the images"),
    ("grid", "worst.txt", "give a name that ends in .png"), ("grid", "worst.webp", "give a name that ends in .png"),
])
def test_what_cannot_be_written_or_is_read_is_refused(flag, path, problem, folder, capsys):
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "device" not in file.name}
    with without_rights(), pytest.raises(SystemExit) as exit_status:
        check(folder, **{flag: path})
    errors = capsys.readouterr().err
    assert exit_status.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith(f"x.py: error: --{flag} {folder / path}") and problem in errors
    assert {file: file.read_bytes() for file in before} == before and not (folder / "new").exists()


@pytest.mark.parametrize("paths", [
    {}, {"output": "rows.jsonl"}, {"output": "empty.jsonl"}, {"output": "new/deep/rows.jsonl"},
    {"output": "images/rows.jsonl"}, {"per_image": "protected.csv"}, {"per_image": "new/a.csv", "grid": "new/a.PNG"},
])
def test_new_files_and_earlier_results_are_accepted_and_left_as_they_are(paths, folder):
    before = sorted(folder.rglob("*"))
    with without_rights():
        check(folder, **paths)
    assert sorted(folder.rglob("*")) == before


def test_two_results_need_two_files(folder, capsys):
    (folder / "same").symlink_to("rows.jsonl")
    with pytest.raises(SystemExit):
        check(folder, output="rows.jsonl", per_image="same")
    assert "--per_image" in (errors := capsys.readouterr().err) and "is the file of --output too" in errors


@pytest.mark.parametrize("paths", [{"output": "new", "per_image": "new/a.csv"}, {"output": "new/a", "grid": "new"},
                                   {"output": "new", "cache_dir": "new"}, {"output": "new", "cache_dir": "new/deep"}])
def test_results_that_would_lie_in_each_other_are_refused(paths, folder, capsys):
    with pytest.raises(SystemExit):
        check(folder, **paths)
    errors = capsys.readouterr().err
    assert "one would be in the other" in errors or "in the way of --cache_dir" in errors
    assert not (folder / "new").exists()


def test_a_relative_path_where_the_current_folder_is_gone_is_refused(tmp_path, run_script):
    script = ("import argparse, os; from pathlib import Path; from utils import cli, output_paths\n"
              f"os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r})\n"
              "output_paths.check_outputs(cli.ArgumentParser(prog='x.py'), argparse.Namespace(output=Path('a')), [])")
    result = run_script(["-c", script])
    assert result.returncode == 2 and result.stderr.startswith("x.py: error: --output a: ")
    assert result.stderr.count("\n") == 1
