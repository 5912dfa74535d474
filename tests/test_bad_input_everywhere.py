"""One table over all scripts: the same kinds of bad input for each of them. test_bad_input.py has what is special.

Every script runs on a small workspace with a valid command; one thing in it is spoiled, and the script has to end
with 2 (usage) or 1 (data) and one line that names it, while every file of the workspace stays as it was.
"""

import argparse
import contextlib
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import BLIP2
import cal_fid
import cal_kid
import dataset_evaluate
import enrich_captions
import hand_confidence
import image_generation
import PaliGemma
import train
import VitGpt2
from tests import tiny_captioners
from tests.conftest import without_rights
from tests.training_world import write_world
from utils.data import hagrid
from utils.metrics import anatomy_check, results_table
from utils.synthetic import feature_network, render, tiny_stable_diffusion
from utils.system import cli, errors
from utils.system.script import run_main

ALL = {script.__name__.rpartition(".")[2]: script for script in (
    BLIP2, PaliGemma, VitGpt2, enrich_captions, dataset_evaluate, train, image_generation, cal_fid, cal_kid,
    hand_confidence, hagrid, render, results_table, feature_network, anatomy_check, tiny_stable_diffusion)}
LONG = ("feature_network", "anatomy_check", "tiny_stable_diffusion")
CAPTIONERS = ("BLIP2", "PaliGemma", "VitGpt2")
TRAIN = "data/call/train"
LISTS = ("synthetic_filenames.txt", "synthetic_captions.txt")


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_pipeline):
    """{name: folder} of a tiny model of each kind that a script loads."""
    folder = tmp_path_factory.mktemp("models")
    tiny_captioners.build_tiny_blip2(folder / "BLIP2")
    tiny_captioners.build_tiny_paligemma(folder / "PaliGemma")
    tiny_captioners.build_tiny_vit_gpt2(folder / "VitGpt2")
    tiny_captioners.build_tiny_clip(folder / "clip")
    return {path.name: path for path in folder.iterdir()} | {"base": tiny_pipeline}


@pytest.fixture
def place(tmp_path, models):
    """The workspace: data of one gesture with lists, two folders of images, a HaGRID download, and a feature."""
    write_world(tmp_path, models["base"], num_images=3)
    for split in ("train", "test"):
        data = tmp_path / "data" / "call" / split
        os.rename(data / "synthetic_enriched.txt", data / "synthetic_captions.txt")
    for name in ("real", "fake", "hagrid/call"):
        shutil.copytree(tmp_path / TRAIN / "images", tmp_path / name)
    (tmp_path / "rows.jsonl").write_text('{"script": "cal_fid.py", "name": "a", "fid": 1.0}\n')
    return tmp_path


def command(name, place, models):
    """A command of the script that would succeed, as a list of arguments."""
    data = ["--gesture", "call", "--data_dir", place / "data"]
    lists = [place / TRAIN / name for name in LISTS]
    if name in CAPTIONERS:
        return [*data, "--split", "train", "--model", models[name], "--device", "cpu"]
    return {
        "enrich_captions": [*data, "--split", "train", "--captioner", "synthetic", "--backend",
                            "rules"],
        "dataset_evaluate": ["--image_folder", place / TRAIN / "images", "--image_filenames_path", lists[0],
                             "--captions_path", lists[1], "--model", models["clip"], "--device", "cpu"],
        "train": [*data, "--captioner", "synthetic", "--captions", "captions", "--pretrained_model_name_or_path",
                  models["base"], "--device", "cpu", "--feature_npy_path", place / "feature.npy", "--output_dir",
                  place / "outputs", "--embedding_steps", 0, "--finetune_steps", 0, "--num_validation_images", 0],
        "image_generation": ["--ckpt", models["base"], "--base", "--image_filenames_file", lists[0], "--prompts_file",
                             lists[1], "--img_save_path", place / "images", "--num_inference_steps", 1, "--device",
                             "cpu"],
        "cal_fid": ["--real_images", place / "real", "--fake_images", place / "fake", "--features", "synthetic",
                    "--region", "full", "--device", "cpu"],
        "cal_kid": ["--real_images", place / "real", "--fake_images", place / "fake", "--features", "synthetic",
                    "--region", "full", "--device", "cpu"],
        "hand_confidence": ["--image_folder", place / "real", "--num_workers", 1],
        "hagrid": [*data[:2], "--hagrid_dir", place / "hagrid", "--data_dir", place / "new", "--num_train", 1,
                   "--num_test", 1],
        "render": [*data[:2], "--data_dir", place / "new", "--num_train", 1, "--num_test", 1, "--resolution", 32],
        "results_table": [place / "rows.jsonl"],
    }[name]


def files(folder):
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


def run(name, args, capsys):
    """(exit status, standard output, errors): lines on standard error that are no warnings, notes or progress bars."""
    capsys.readouterr()
    status, script = 0, ALL[name]
    try:
        run_main(script.main, script.parse_args(list(map(str, args))))
    except SystemExit as stopped:
        status = stopped.code
    output, errors = capsys.readouterr()
    lines = [line for line in re.split(r"[\r\n]+", errors) if line.strip()]
    is_progress = re.compile(r"^(warning: |note: |.*\d+%\||.*\d+\.?\d*(it|s|\w+)/(s|\w+)\])")
    return status, output, [line for line in lines if not is_progress.match(line)]


def refused(name, args, capsys, place, *said):
    """The script ends in one line that says `said`, and no file of the workspace has changed, come or gone."""
    before = files(place)
    status, _, errors = run(name, args, capsys)
    assert status in (1, 2) and len(errors) == 1, (status, errors)
    assert "error: " in errors[0] and all(words in errors[0] for words in said), errors
    assert "internal error" not in errors[0], errors
    assert files(place) == before


def with_flag(args, flag, value):
    """`args` with another value of a flag, which is added if it is not there."""
    args = list(args)
    if flag in args:
        args[args.index(flag) + 1] = value
        return args
    return [*args, flag, value]


# Folders

FOLDERS = {**dict.fromkeys(CAPTIONERS, f"{TRAIN}/images"), "dataset_evaluate": f"{TRAIN}/images",
           "train": f"{TRAIN}/images", "cal_fid": "fake", "cal_kid": "real", "hand_confidence": "real",
           "hagrid": "hagrid/call", "enrich_captions": TRAIN}


@pytest.mark.parametrize("what", ["missing", "a file", "empty", "unreadable"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_to_read_that_is_none_empty_or_closed(name, what, place, models, capsys):
    folder = place / FOLDERS[name]
    args = command(name, place, models)
    shutil.rmtree(folder)
    if what == "a file":
        folder.touch()
    elif what != "missing":
        folder.mkdir()
    named = str(folder.parent if name in ("train", "hagrid") else folder)
    before = files(place)
    if what != "unreadable":
        refused(name, args, capsys, place, named)
        return
    folder.chmod(0)
    with without_rights():
        status, _, errors = run(name, args, capsys)
    folder.chmod(0o700)
    assert status in (1, 2) and len(errors) == 1 and "error: " in errors[0], errors
    assert "ermission denied" in errors[0] and named in errors[0], errors
    assert files(place) == before


OUTPUTS = {"image_generation": "--img_save_path", "hagrid": "--data_dir", "render": "--data_dir",
           "train": "--output_dir", "cal_fid": "--output", "cal_kid": "--output", "hand_confidence": "--per_image",
           "dataset_evaluate": "--output"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_inside_a_file(name, place, models, capsys):
    (place / "taken").write_text("mine")
    inside = place / "taken" / "out"
    refused(name, with_flag(command(name, place, models), OUTPUTS[name], inside), capsys, place, "taken")


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_where_nothing_may_be_written(name, place, models, capsys):
    closed = place / "closed"
    closed.mkdir(mode=0o500)
    args = with_flag(command(name, place, models), OUTPUTS[name], closed / "out")
    with without_rights():
        status, _, errors = run(name, args, capsys)
    assert status in (1, 2) and len(errors) == 1 and "closed" in errors[0], errors
    assert ("Permission denied" in errors[0] or "nothing may be written" in errors[0]) and list(closed.iterdir()) == []


@pytest.mark.parametrize("name", [*CAPTIONERS, "enrich_captions"])
def test_lists_where_nothing_may_be_written(name, place, models, capsys):
    before = files(place)
    (place / TRAIN).chmod(0o500)
    with without_rights():
        status, _, errors = run(name, command(name, place, models), capsys)
    (place / TRAIN).chmod(0o700)
    assert status in (1, 2) and len(errors) == 1 and str(place / TRAIN) in errors[0], errors
    assert "Permission denied" in errors[0] or "nothing may be written" in errors[0]
    assert files(place) == before


# Lists

READERS = ("dataset_evaluate", "image_generation", "train", "enrich_captions")  # of lists
SPOILED = {
    "no line": lambda data: b"", "an empty line": lambda data: data.replace(b"\n", b"\n\n", 1),
    "NUL": lambda data: b"\0" + data, "Latin-1": lambda data: b"caf\xe9" + data,
    "a line less": lambda data: data[data.index(b"\n") + 1:], "a line more": lambda data: data + b"x.png\n",
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("which", [0, 1], ids=["names", "captions"])
@pytest.mark.parametrize("name", READERS)
def test_lists_that_are_damaged_or_do_not_fit(name, which, how, place, models, capsys):
    path = place / TRAIN / LISTS[which]
    path.write_bytes(SPOILED[how](path.read_bytes()))
    refused(name, command(name, place, models), capsys, place, path.name)


@pytest.mark.parametrize("how", [lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b"\n", b"\r\n"),
                                 lambda data: data.removesuffix(b"\n")], ids=["BOM", "CRLF", "no last newline"])
@pytest.mark.parametrize("name", READERS)
def test_lists_of_other_systems_are_read_as_ours(name, how, place, models, capsys):
    for path in (place / TRAIN / file for file in LISTS):
        path.write_bytes(how(path.read_bytes()))
    status, _, errors = run(name, command(name, place, models), capsys)
    assert (status, errors) == (0, [])
    if name == "enrich_captions":
        assert (place / TRAIN / "synthetic_enriched.txt").read_bytes().count(b"\r") == 0


OUTSIDE = ["../up.png", "sub/../../up.png", "..", "link/up.png", "ABSOLUTE"]


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("name", ["dataset_evaluate", "image_generation", "train"])
def test_names_that_lead_out_of_the_folder(name, outside, place, models, capsys):
    Image.new("RGB", (8, 8)).save(place / "up.png")
    outside = str(place / "up.png") if outside == "ABSOLUTE" else outside
    folder = place / "images" if name == "image_generation" else place / TRAIN / "images"
    folder.mkdir(exist_ok=True)
    (folder / "link").symlink_to(place)
    path = place / TRAIN / LISTS[0]
    path.write_text("\n".join([outside, *path.read_text().splitlines()[1:]]) + "\n")
    refused(name, command(name, place, models), capsys, place, outside)


def test_odd_names_are_captioned_enriched_evaluated_trained_and_drawn(place, models, capsys):
    names = ["with space.png", "-dash.png", "ünï 日本 per%cent.png"]
    for split in ("train", "test"):
        data = place / "data" / "call" / split
        for i, name in enumerate(names):
            os.rename(data / "images" / f"{i}.png", data / "images" / name)
        for path in data.glob("synthetic_*"):
            path.unlink()
    for stage in ("VitGpt2", "enrich_captions", "dataset_evaluate", "train", "image_generation"):
        args = [str(arg).replace("synthetic", "VitGpt2") for arg in command(stage, place, models)]
        assert run(stage, args, capsys)[::2] == (0, []), stage
    listed = (place / TRAIN / "VitGpt2_filenames.txt").read_text(encoding="utf-8").splitlines()
    assert listed == sorted(names) and all((place / "images" / name).is_file() for name in names)


@pytest.mark.parametrize("name", CAPTIONERS)
def test_a_name_with_a_line_break_is_left_out_of_the_lists_and_said_in_one_line(name, place, models, capsys):
    os.rename(place / TRAIN / "images" / "0.png", place / TRAIN / "images" / "two\nlines.png")
    capsys.readouterr()
    run_main(ALL[name].main, ALL[name].parse_args(list(map(str, command(name, place, models)))))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "lines.png" in line]
    assert len(warnings) == 1 and r"two\nlines.png" in warnings[0]
    assert (place / TRAIN / f"{name}_filenames.txt").read_text() == "1.png\n2.png\n"


# Images


@pytest.mark.parametrize("kind", ["zero bytes", "text", "cut", "bomb"])
@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "enrich_captions"])
def test_without_one_image_that_can_be_read_nothing_is_made(name, kind, place, models, capsys):
    folder = place / FOLDERS[name]
    whole = (folder / "0.png").read_bytes()
    for path in folder.iterdir():
        if kind == "bomb":
            Image.new("1", (12_000, 12_000)).save(path)
        else:
            path.write_bytes({"zero bytes": b"", "text": b"no image", "cut": whole[:len(whole) // 2]}[kind])
    args = command(name, place, models)
    if name == "hagrid":  # copies without a look where no size is asked for
        args = with_flag(args, "--resolution", 32)
    status, _, errors = run(name, args, capsys)
    assert status == 1 and len(errors) == 1 and str(folder) in errors[0], (status, errors)
    made = {path.name for path in place.rglob("*") if path.suffix in (".safetensors", ".csv", ".txt")}
    assert made <= set(LISTS)


# Numbers


def number_flags(script, monkeypatch):
    """The numeric flags of a script."""
    found = []

    def look(parser, argv=None):
        for action in parser._actions:
            if action.option_strings and action.type not in (None, str):
                with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
                    action.type("auto")
                    continue
                found.append(action.option_strings[0])
        raise StopIteration

    monkeypatch.setattr(cli.ArgumentParser, "parse_args", look)
    with pytest.raises(StopIteration):
        script.parse_args([])
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("name", ALL)
def test_no_numeric_flag_takes_what_is_no_number_of_its_kind(name, place, models, monkeypatch, capsys):
    script = ALL[name]
    flags = number_flags(script, monkeypatch)
    assert flags or name == "results_table"
    for flag in flags:
        for value in ("nan", "-1", "-inf", "1e400", "x", "", "0x10", "9" * 5000):
            with pytest.raises(SystemExit) as stopped:
                script.parse_args([f"{flag}={value}"])
            errors = capsys.readouterr().err.splitlines()
            assert stopped.value.code == 2 and len(errors) == 1, (flag, value, errors)
            assert f"argument {flag}" in errors[0] and len(errors[0]) < 500, (flag, value, errors)


@pytest.mark.parametrize("name", [name for name in ALL if name != "results_table"])
def test_every_seed_up_to_the_largest_is_taken(name, place, models, capsys):
    if name in LONG:  # their seed goes to the renderer's generators
        more = [] if name == "anatomy_check" else ["--output_dir", place / "new"]
        assert ALL[name].parse_args(list(map(str, ["--seed", 2**63 - 1, *more]))).seed == 2**63 - 1
    else:
        assert run(name, with_flag(command(name, place, models), "--seed", 2**63 - 1), capsys)[::2] == (0, [])


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("cal_fid", "cal_kid", "dataset_evaluate",
                                                                       "image_generation", "results_table", *LONG)])
def test_a_gesture_that_is_not_in_the_table(name, place, models, capsys):
    refused(name, with_flag(command(name, place, models), "--gesture", "../call"), capsys, place, "../call")


# --debug


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "enrich_captions"])
def test_debug_shows_where_it_was_refused(name, place, models):
    args = [*command(name, place, models), "--debug"]
    for path in (place / FOLDERS[name]).iterdir():
        path.write_bytes(b"no image")
    if name == "hagrid":
        args += ["--resolution", 32]
    with pytest.raises(errors.UserError):
        run_main(ALL[name].main, ALL[name].parse_args(list(map(str, args))))


# .npy


@pytest.mark.parametrize("array", [np.zeros(62), np.full(63, np.nan), np.zeros((63, 63)), np.zeros(63, complex)],
                         ids=["62", "nan", "square", "complex"])
def test_a_bad_feature_leaves_no_folder_of_a_run(array, place, models, capsys):
    np.save(place / "feature.npy", array)
    refused("train", command("train", place, models), capsys, place, "feature.npy")
    assert not (place / "outputs").exists() or list((place / "outputs").rglob("*")) == []
