"""train.py killed at random moments, or out of disk space at every write, ends in the bits of an undisturbed run."""

import errno
import filecmp
import json
import os
import random
import signal
import subprocess
import time

import pytest

import train
from tests import scripts
from tests.training_world import write_world
from utils.synthetic import render

VARIANTS = {
    "improved": [],
    "paper": ["--preset", "paper", "--batch_size", 2, "--embedding_batch_size", 2],
    "lora": ["--lora_rank", 2, "--optimizer", "adafactor"],
}
STEPS = ["--batch_size", 2, "--embedding_steps", 20, "--finetune_steps", 40, "--finetune_lr", 1e-3,
         "--checkpointing_steps", 7, "--num_validation_images", 2]


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_pipeline):
    """Flags of train.py for six rendered hands, with Stage I and all."""
    data = tmp_path_factory.mktemp("world") / "data"
    render.main(render.parse_args(["--gesture", "call", "--data_dir", str(data), "--num_workers", "1", "--num_train",
                                   "6", "--num_test", "2", "--resolution", "128"]))
    return ["--gesture", "call", "--data_dir", data, "--captioner", "synthetic", "--captions", "captions",
            "--pretrained_model_name_or_path", tiny_pipeline, "--device", "cpu", "--num_workers", 1]


def start(flags, output_dir):
    return scripts.start(["train.py", *flags, "--output_dir", output_dir], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)


def results(folder):
    """Everything a run leaves but its log and where it was: relative path → file."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("train.log", "config.json")}


def assert_same_results(folder, whole):
    assert results(folder).keys() == results(whole).keys()
    names = list(results(whole))
    assert len(names) > 10 and filecmp.cmpfiles(whole, folder, names, shallow=False) == (names, [], [])


def log_size(folder):
    return (folder / "train.log").stat().st_size if (folder / "train.log").is_file() else 0


def phase(folder, started, logged):
    """Where a run is, by what it has written since it `started`, when its log had `logged` bytes.

    0 starting and loading, 1 Stage I, 2 Stage II, 3 Stage III, 4 the end.
    """
    if any(path.stat().st_mtime > started for path in folder.glob("samples/tuned_*")):
        return 4
    if not (folder / ".lock").is_file():
        return 0
    if log_size(folder) == logged:
        return 1
    return 3 if len(list(folder.glob("checkpoints/residuals/*.safetensors"))) >= 3 else 2


def kill_and_go_on(flags, folder, aims, chance):
    """Starts the run again and again; kills it a random time after it has itself come to each of the phases `aims`.

    The phases in which it was killed; the run is finished at the end.
    """
    killed = []
    for aim in aims:
        (folder / ".lock").unlink(missing_ok=True)  # of the killed process
        started, logged = time.time(), log_size(folder)
        process = start(flags, folder.parent)
        while process.poll() is None and phase(folder, started, logged) < aim:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, {1: 0.1, 2: 0.3, 3: 0.3, 4: 0.1}[aim]))
        if process.poll() is None:
            killed.append(phase(folder, started, logged))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert "Traceback" not in errors
        has_model = (folder / "model").is_dir()
        assert has_model if process.returncode == 0 else not has_model or killed[-1] == 4  # killed behind its last line
    process = start(flags, folder.parent)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return killed


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """Function(variant): the folder of an undisturbed run."""
    folders = {}

    def run(variant):
        if variant not in folders:
            folders[variant] = tmp_path_factory.mktemp(variant)
            train.main(train.parse_args([*map(str, [*flags, *STEPS, *VARIANTS[variant]]), "--output_dir",
                                         str(folders[variant])]))
        return folders[variant] / "call"

    return run


@pytest.mark.thorough
@pytest.mark.parametrize(("variant", "aims"), [
    ("improved", [1, 1, 2, 2, 3, 3, 3, 4]), ("paper", [2, 3]), ("lora", [3])])
def test_a_run_killed_at_random_ends_in_the_same_bits(flags, whole, tmp_path, variant, aims):
    killed = kill_and_go_on([*flags, *STEPS, *VARIANTS[variant]], tmp_path / "call", aims, random.Random(variant))
    assert set(aims) - {4} <= set(killed) and len(killed) >= len(aims) - 1  # the last may come too late
    assert_same_results(tmp_path / "call", whole(variant))


@pytest.mark.slow
def test_a_hundred_kills(flags, whole, tmp_path):
    chance, counts = random.Random(0), dict.fromkeys(range(5), 0)
    for number in range(100):
        if sum(counts.values()) >= 100:
            break
        folder = tmp_path / str(number) / "call"
        variant = list(VARIANTS)[number % len(VARIANTS)]
        for where in kill_and_go_on([*flags, *STEPS, *VARIANTS[variant]], folder,
                                    sorted(chance.choices([1, 2, 3, 4], k=8)), chance):
            counts[where] += 1
        assert_same_results(folder, whole(variant))
    print(f"kills: {sum(counts.values())}, by phase {counts}")
    assert sum(counts.values()) >= 100


# A full disk


@pytest.mark.thorough
def test_a_disk_that_is_full_at_any_write_costs_nothing_that_was_there(tmp_path, tiny_pipeline, monkeypatch):
    fsync, calls = os.fsync, []
    short = [*map(str, write_world(tmp_path, tiny_pipeline)[1]), "--batch_size", "3", "--embedding_steps", "2",
             "--finetune_steps", "3", "--checkpointing_steps", "2", "--num_validation_images", "1"]

    def run(name):
        train.main(train.parse_args([*short, "--output_dir", str(tmp_path / name)]))

    def fail_at(number):
        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return fsync(descriptor)

        calls.clear()
        monkeypatch.setattr(os, "fsync", full)

    fail_at(0)
    run("whole")
    num_writes = len(calls)
    assert num_writes > 30
    named = set()
    for number in range(1, num_writes + 1):
        folder = tmp_path / str(number) / "call"
        fail_at(number)
        with pytest.raises(OSError) as full:
            run(str(number))
        assert full.value.errno == errno.ENOSPC and str(folder) in str(full.value.filename)
        named.add(os.path.relpath(full.value.filename, folder).split("/")[0])
        assert not list(folder.rglob(".tmp-*")) and not (folder / "model").is_dir()
        for path in folder.rglob("*.json"):
            json.loads(path.read_bytes())
        fail_at(0)
        run(str(number))
        assert_same_results(folder, tmp_path / "whole" / "call")
    assert {"checkpoints", "model", "config.json", "samples", "losses.jsonl"} <= named


def test_a_log_that_cannot_be_written_is_named(tmp_path, tiny_pipeline):
    _, flags = write_world(tmp_path, tiny_pipeline)
    (tmp_path / "outputs" / "call").mkdir(parents=True)
    (tmp_path / "outputs" / "call" / "train.log").symlink_to("/dev/full")
    with pytest.raises(OSError) as full:
        train.main(train.parse_args([*map(str, flags), "--output_dir", str(tmp_path / "outputs")]))
    assert full.value.errno == errno.ENOSPC and full.value.filename.endswith("call/train.log")
