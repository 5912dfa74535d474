"""Every script that writes, on disks of many sizes: what was there stays, one line names the file, status 1.

Where the user may mount one, the disk is a tmpfs; else no file may grow beyond the size, which stands for it.
"""

import contextlib
import gc
import json
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import cal_fid
import enrich_captions
import image_generation
import train
import VitGpt2
from tests import tiny_captioners
from tests.training_world import write_world
from utils.method.fusion import TrainedFusion, save_fusion
from utils.models.lora import add_lora, save_lora
from utils.models.stable_diffusion import load_stable_diffusion, save_pipeline
from utils.synthetic import render
from utils.system import errors, files
from utils.system.script import run_main

PAGE = 4096


@contextlib.contextmanager
def disk(folder, size):
    """`folder` as a disk of `size` bytes. Yields whether it is one, and not a limit for each file."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, PAGE)}", "none", folder]
    mounted = shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True).returncode
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield mounted
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)
        else:
            shutil.rmtree(folder)


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def space(folder):
    """Bytes that the files of a folder take on a disk."""
    return sum(-(-len(data) // PAGE) * PAGE for data in contents(folder).values())


def run(script, flags, capsys):
    """(status, lines on standard error that are messages) of a script in this process."""
    ignored = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda raised: ignored.append(str(raised.exc_value))
    try:
        run_main(script.main, script.parse_args([str(flag) for flag in flags]))
        status = 0
    except SystemExit as exit:
        status = exit.code
    finally:
        gc.collect()
        sys.unraisablehook = hook
    assert not ignored
    return status, [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "warning"))]


def sweep(tmp_path, capsys, script, flags, prepare, kept=lambda path: True, num_sizes=4):
    """Runs `script` on disks too small for its results, each with what prepare(folder) puts there first.

    flags: function(folder) -> arguments. kept: whether a file that was there must stay as it was.
    Returns the names of the files that were complained of.
    """
    whole = tmp_path / "whole"
    whole.mkdir()
    prepare(whole)
    start = space(whole)
    assert run(script, flags(whole), capsys)[0] == 0
    pages, named = (space(whole) - start) // PAGE, set()
    assert pages > 0
    largest = max(len(data) for data in contents(whole).values())
    for size in sorted({start + PAGE * (pages * number // num_sizes) for number in range(num_sizes)}):
        with disk(tmp_path / "disk", size) as is_real:
            folder = tmp_path / "disk"
            prepare(folder)
            before = {path: data for path, data in contents(folder).items() if kept(path)}
            if not is_real:
                limit_files(largest * (size - start) // (pages * PAGE))
            status, lines = run(script, flags(folder), capsys)
            errors = [line for line in lines if line.startswith("error: ")]
            assert status == 1 and len(errors) == 1, (size, status, lines)
            assert str(folder) in errors[0] and ".tmp-" not in errors[0] and ".partial" not in errors[0]
            assert ": No space left on device; make" in errors[0] or ": File too large; make" in errors[0], errors
            after = contents(folder)
            assert before.items() <= after.items()
            assert not [path for path in after if ".tmp-" in str(path) or path.name.endswith(".lock")]
            named.add(errors[0].split(": ")[1].removeprefix(f"{folder}/"))
    return named


def write_images(folder, count=6):
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")


@pytest.mark.thorough
def test_render(tmp_path, capsys):
    def flags(folder):
        return ["--gesture", "call", "--num_train", 8, "--num_test", 0, "--resolution", 96, "--num_workers", 1,
                "--data_dir", folder, "--overwrite"]

    def prepare(folder):
        (folder / "call/train/images").mkdir(parents=True)
        (folder / "call/train/render.json").write_text('{"of": "an earlier run"}')

    named = sweep(tmp_path, capsys, render, flags, prepare)
    assert len(named) > 1 and all(name.startswith("call/train") for name in named)


@pytest.mark.parametrize(("script", "more"), [
    pytest.param(VitGpt2, [], marks=pytest.mark.thorough), (VitGpt2, ["--overwrite"]),
    pytest.param(enrich_captions, [], marks=pytest.mark.thorough),
    pytest.param(enrich_captions, ["--overwrite"], marks=pytest.mark.thorough)], ids=str)
def test_lists(tmp_path, capsys, script, more):
    own = {VitGpt2: ["--model", tiny_captioners.build_tiny_vit_gpt2(tmp_path / "model"), "--batch_size", 8, "--device",
                     "cpu"], enrich_captions: ["--backend", "rules"]}[script]
    stem = {VitGpt2: "VitGpt2_captions", enrich_captions: "BLIP2_enriched"}[script]

    def prepare(folder):
        write_images(folder / "call/train/images", 60)
        (folder / "call/train/BLIP2_captions.txt").write_text("".join(f"man {i} in a hat\n" for i in range(60)))
        for path in (f"{stem}.txt", "VitGpt2_filenames.txt") if more else ():
            (folder / "call/train" / path).write_text("an earlier caption\n")

    # The list of an earlier run is whole when the report alone does not fit any more; it may be the new one then
    named = sweep(tmp_path, capsys, script, lambda folder: ["--gesture", "call", "--split", "train", "--data_dir",
                                                            folder, *own, *more],
                  prepare, lambda path: "enriched" not in path.name)
    assert named <= {f"call/train/{name}" for name in (
        f"{stem}.jsonl", f"{stem}.new.jsonl", f"{stem}.txt", "VitGpt2_filenames.txt", f"{stem}_report.jsonl")}


@pytest.mark.thorough
def test_generated_images(tmp_path, tiny_pipeline, capsys):
    model = shutil.copytree(tiny_pipeline, tmp_path / "model")
    sizes = {"gesture": "call", "sequence_length": 16, "embed_dim": 32}
    save_fusion(model, TrainedFusion(32), torch.linspace(-1, 1, 63), sizes)
    (tmp_path / "names.txt").write_text("".join(f"{i}.png\n" for i in range(6)))
    (tmp_path / "prompts.txt").write_text("a hand\n" * 6)

    def flags(folder, *more):
        return ["--image_filenames_file", tmp_path / "names.txt", "--prompts_file", tmp_path / "prompts.txt", "--ckpt",
                model, "--mu", 0.5, "--num_inference_steps", 1, "--device", "cpu", "--batch_size", 2,
                "--img_save_path", folder / "images", *more]

    first = tmp_path / "first"
    assert run(image_generation, flags(first, "--num_images", 1), capsys)[0] == 0
    named = sweep(tmp_path, capsys, image_generation, flags,
                  lambda folder: shutil.copytree(first / "images", folder / "images"),
                  lambda path: path.suffix == ".png")
    assert named <= {"images/generation.json", "images_grid.png", *(f"images/{i}.png" for i in range(6))}


@pytest.mark.thorough
def test_a_training(tmp_path, tiny_pipeline, capsys):
    _, world = write_world(tmp_path, tiny_pipeline, 2)

    def flags(folder):
        return [*world, "--output_dir", folder, "--batch_size", 2, "--embedding_steps", 1, "--finetune_steps", 2,
                "--checkpointing_steps", 1]

    def prepare(folder):
        (folder / "peace").mkdir()
        (folder / "peace" / "model.safetensors").write_bytes(b"of another gesture")

    named = sweep(tmp_path, capsys, train, flags, prepare)
    assert all(name.startswith("call/") for name in named)
    assert not (tmp_path / "disk" / "call" / "model").exists()


@pytest.mark.parametrize("save", [save_pipeline, save_lora])
def test_a_model(tmp_path, tiny_pipeline, save):
    if save is save_lora:
        pytest.importorskip("peft")
    sd = load_stable_diffusion(tiny_pipeline)
    if save is save_lora:
        add_lora(sd.unet, 8)

    def write(folder):
        with files.atomic_path(folder / "model") as temporary:  # as train.py does
            save(sd, temporary)

    write(tmp_path)
    end = space(tmp_path / "model")
    largest = max(len(data) for data in contents(tmp_path / "model").values())
    for number in range(12):
        with disk(tmp_path / "disk", end * number // 12) as is_real:
            if not is_real:
                limit_files(largest * number // 12)
            with pytest.raises(OSError) as full:
                write(tmp_path / "disk")
            status, message = errors.describe_error(full.value)
            assert status == 1 and message.startswith(str(tmp_path / "disk" / "model")) and ".tmp-" not in message
            assert not list((tmp_path / "disk").iterdir())


@pytest.mark.thorough
def test_a_metric_with_cache_and_rows(tmp_path, capsys):
    for name in ("real", "fake"):
        write_images(tmp_path / name, 24)

    def flags(folder):
        return ["--real_images", tmp_path / "real", "--fake_images", tmp_path / "fake", "--features", "synthetic",
                "--region", "full", "--device", "cpu", "--num_workers", 1, "--cache_dir", folder / "cache",
                "--output", folder / "results.jsonl"]

    earlier = json.dumps({"script": "cal_fid.py", "name": "an earlier row"}) + "\n"
    for size in (PAGE, 3 * PAGE, 5 * PAGE):
        with disk(tmp_path / "disk", size) as is_real:
            results = tmp_path / "disk" / "results.jsonl"
            results.write_text(earlier)
            (tmp_path / "disk" / "filler").write_bytes(bytes(size - 2 * PAGE if size > PAGE else 0))
            if not is_real:
                limit_files(size // 8)
            status, lines = run(cal_fid, flags(tmp_path / "disk"), capsys)
            caches = [line for line in lines if "cannot be written" in line]
            assert caches and not [line for line in lines if ".tmp-" in line]
            assert results.read_text().startswith(earlier)
            assert status == 0 or lines[-1].startswith(f"error: {results}: ")
            assert not list((tmp_path / "disk").rglob(".tmp-*"))
