"""train.py as a user runs it, on the tiny pipeline: what it refuses, leaves behind, and survives."""

import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import image_generation
import train
from tests import scripts
from tests.tiny_models import build_tiny_pipeline
from tests.training_world import write_world
from utils.data.images import open_image
from utils.method.checkpoint import CheckpointFolder
from utils.method.fusion import FrozenFusion, TrainedFusion, load_fusion
from utils.method.interruption import Interruption
from utils.method.run_folder import RunFolder
from utils.synthetic import render
from utils.system import signals
from utils.system.errors import UserError
from utils.system.script import run_main

NUM_IMAGES = 6
SHORT = ["--batch_size", 4, "--embedding_steps", 3, "--finetune_steps", 6]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_pipeline):
    """(folder, flags): six images per split, a gesture feature, and the flags that lead to them."""
    return write_world(tmp_path_factory.mktemp("world"), tiny_pipeline)


def run(flags, output_dir, *more):
    """Runs train.py in this process; returns the run's folder."""
    train.main(train.parse_args([*map(str, flags), "--output_dir", str(output_dir), *map(str, more)]))
    return output_dir / "call"


def snapshot(folder):
    return {path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """(run folder, flags) of a run that has ended. Do not write to it."""
    _, flags = world
    flags = [*flags, *SHORT, "--num_validation_images", 2]
    output_dir = tmp_path_factory.mktemp("outputs")
    return run(flags, output_dir), [*flags, "--output_dir", output_dir]


# What a run leaves


def test_the_model_opens_with_diffusers_alone_and_draws(finished, tiny_pipeline):
    folder, _ = finished
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "model")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red hand", num_inference_steps=2, guidance_scale=3.0).images[0]
    assert image.size == (32, 32)
    base = load_file(tiny_pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    tuned = load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert base.keys() == tuned.keys() and not any(torch.equal(base[name], tuned[name]) for name in base)
    for part in ("vae/diffusion_pytorch_model", "text_encoder/model"):
        base, kept = (load_file(root / f"{part}.safetensors") for root in (tiny_pipeline, folder / "model"))
        assert all(torch.equal(base[name], kept[name]) for name in base)


def test_the_fusion_lies_beside_the_parts(finished, world, tiny_pipeline):
    fusion, feature, config = load_fusion(finished[0] / "model")
    assert isinstance(fusion, TrainedFusion) and fusion.fc.weight.any()
    assert np.array_equal(feature, np.load(world[0] / "feature.npy"))
    expected = {"gesture": "call", "Lambda": 0.7, "sequence_length": 16, "embed_dim": 32, "resolution": 32,
                "base_model": str(tiny_pipeline)}
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize("more", [["--mu", "0.5"], ["--base"]])
def test_the_model_draws_images_without_a_warning(finished, tmp_path, capsys, more):
    (tmp_path / "names.txt").write_text("a\n")
    (tmp_path / "prompts.txt").write_text("a red hand\n")
    image_generation.main(image_generation.parse_args(list(map(str, [
        "--image_filenames_file", tmp_path / "names.txt", "--prompts_file", tmp_path / "prompts.txt", "--ckpt",
        finished[0] / "model", "--img_save_path", tmp_path / "images", "--num_inference_steps", 2, "--device", "cpu",
        "--feature_npy_path", finished[0] / "gesture_feature.npy", *more]))))
    assert (tmp_path / "images" / "a.png").is_file() and "warning" not in capsys.readouterr().err


def test_settings_feature_losses_and_pictures_are_there(finished, world):
    folder, _ = finished
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "gesture_feature.json", "gesture_feature.npy", "losses.jsonl", "losses.png", "model",
        "samples", "train.log"]  # and no checkpoints any more
    settings = json.loads((folder / "config.json").read_text())
    assert settings["Lambda"] == 0.7 and settings["batch_size"] == 4 and settings["finetune_lr"] == 1e-5
    assert np.array_equal(np.load(folder / "gesture_feature.npy"), np.load(world[0] / "feature.npy"))
    losses = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in losses] == (
        [("Stage II", step) for step in range(1, 7)] + [("Stage III", step) for step in range(1, 10)])
    assert all(0.1 < row["loss"] < 10 for row in losses)
    assert open_image(folder / "losses.png").width > 500
    sheet = np.asarray(open_image(folder / "samples" / "before_after.png"))
    for i in range(2):
        base = np.asarray(open_image(folder / "samples" / f"base_{i}.png"))
        tuned = np.asarray(open_image(folder / "samples" / f"tuned_{i}.png"))
        assert not np.array_equal(base, tuned)
        assert np.array_equal(sheet[2:34, 2 + 34 * i : 34 + 34 * i], base)  # above the tuned one


def test_a_second_run_in_the_folder_is_refused_and_changes_nothing(world, tmp_path):
    flags = [*world[1], *SHORT]
    (tmp_path / "call").mkdir()
    with RunFolder(tmp_path / "call").lock():
        (tmp_path / "call" / "config.json.kept").write_text("{}")
        before = snapshot(tmp_path)
        for more in ([], ["--overwrite"]):
            with pytest.raises(UserError, match="call: another run is writing to it"):
                run(flags, tmp_path, *more)
        assert snapshot(tmp_path) == before
    assert (run(flags, tmp_path) / "model").is_dir()


def test_a_base_model_that_does_not_load_leaves_no_folder(world, tmp_path):
    with pytest.raises(UserError, match="no-such-model"):
        run([*world[1], *SHORT, "--pretrained_model_name_or_path", tmp_path / "no-such-model"], tmp_path / "outputs")
    assert not (tmp_path / "outputs" / "call").exists()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(world, tmp_path, capsys):
    train.main(train.parse_args([*map(str, [*world[1], *SHORT, "--output_dir", tmp_path / "outputs", "--dry_run"])]))
    printed = capsys.readouterr().out
    for said in ("6 images of call", "Stage II: 6 updates of 4 images", "Stage III: 9 updates of 4 images",
                 "finetune_lr 1e-05", "writes ", str(tmp_path / "outputs" / "call" / "model")):
        assert said in printed
    assert not (tmp_path / "outputs").exists()


def test_the_same_command_again_does_nothing(finished, run_script):
    folder, flags = finished
    before = snapshot(folder)
    result = run_script(["train.py", *flags])
    assert result.returncode == 0 and "is finished" in result.stdout and "error" not in result.stderr
    assert snapshot(folder) == before


def test_other_settings_are_refused_with_what_differs(finished, world):
    folder, flags = finished
    before = snapshot(folder)
    with pytest.raises(UserError, match="Lambda: 0.7 there, 0.5 now; seed: 0 there, 1 now") as caught:
        train.main(train.parse_args([*map(str, flags), "--Lambda", "0.5", "--seed", "1"]))
    assert "batch_size" not in str(caught.value) and "--overwrite" in str(caught.value)
    np.save(world[0] / "other.npy", np.zeros(63, dtype=np.float32))
    with pytest.raises(UserError, match="feature_sha256"):
        train.main(train.parse_args([*map(str, flags), "--feature_npy_path", str(world[0] / "other.npy")]))
    assert snapshot(folder) == before


def test_overwrite_starts_anew(finished, world, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "call")
    run(world[1], tmp_path, "--overwrite", "--embedding_steps", 0, "--finetune_steps", 0, "--Lambda", 0.5)
    assert json.loads((tmp_path / "call" / "config.json").read_text())["Lambda"] == 0.5
    assert not (tmp_path / "call" / "samples").exists()
    assert (tmp_path / "call" / "losses.jsonl").read_text() == ""


def spoil_feature(folder):
    np.save(folder / "feature.npy", np.full(63, np.nan, dtype=np.float32))
    return "feature.npy: holds NaN"


def foreign_feature(folder):
    (folder / "feature.json").write_text('{"kind": "raw", "gesture": "fist"}')
    return "feature.npy: its gesture is 'fist'"


def other_kind_of_feature(folder):
    (folder / "feature.json").write_text('{"kind": "raw", "gesture": "call"}')
    return "feature.npy: its kind is 'raw'"


def spoil_images(folder):
    for path in (folder / "data" / "call" / "train" / "images").iterdir():
        path.write_bytes(b"no image")
    return "none of the 6 images can be read"


def spoil_test_captions(folder):
    (folder / "data" / "call" / "test" / "synthetic_enriched.txt").write_bytes(b"a hand\n\xff\n")
    return "synthetic_enriched.txt, line 2: not UTF-8"


@pytest.mark.parametrize("spoil", [spoil_feature, foreign_feature, other_kind_of_feature, spoil_images,
                                   spoil_test_captions])
def test_overwrite_costs_no_earlier_run_when_an_input_is_bad(spoil, finished, world, tmp_path):
    shutil.copytree(finished[0], tmp_path / "outputs" / "call")
    for name in ("data", "feature.npy"):
        (shutil.copytree if name == "data" else shutil.copy)(world[0] / name, tmp_path / name)
    before = snapshot(tmp_path / "outputs")
    with pytest.raises(UserError, match=spoil(tmp_path)):
        run([*world[1], "--data_dir", tmp_path / "data", "--feature_npy_path", tmp_path / "feature.npy"],
            tmp_path / "outputs", "--overwrite", "--num_validation_images", 1)
    assert snapshot(tmp_path / "outputs") == before


def test_overwrite_costs_no_earlier_run_when_stage_i_finds_no_hand(finished, world, tmp_path):
    shutil.copytree(finished[0], tmp_path / "call")
    before, flags = snapshot(tmp_path), list(world[1])
    place = flags.index("--feature_npy_path")
    with pytest.raises(UserError, match="Stage I found no hand in 6 images"):
        run(flags[:place] + flags[place + 2:], tmp_path, "--overwrite", "--num_workers", 1)
    assert snapshot(tmp_path) == before


def test_a_feature_that_was_bad_is_not_held_against_the_corrected_one(world, tmp_path):
    spoil_feature(tmp_path)
    flags = [*world[1], "--feature_npy_path", tmp_path / "feature.npy", "--embedding_steps", 0, "--finetune_steps", 0]
    with pytest.raises(UserError, match="holds NaN"):
        run(flags, tmp_path / "outputs")
    np.save(tmp_path / "feature.npy", np.ones(63, dtype=np.float32))
    assert (run(flags, tmp_path / "outputs") / "model").is_dir()


def test_results_without_settings_are_not_touched(finished, world, tmp_path):
    shutil.copytree(finished[0] / "model", tmp_path / "call" / "model")
    with pytest.raises(UserError, match="holds model but no config.json"):
        run(world[1], tmp_path)


def test_the_paper_preset_trains_with_the_frozen_fusion(world, tmp_path):
    folder = run(world[1], tmp_path, "--preset", "paper", "--embedding_steps", 1, "--finetune_steps", 1,
                 "--keep_checkpoints", "--checkpointing_steps", 4)
    fusion, _, config = load_fusion(folder / "model")
    assert isinstance(fusion, FrozenFusion) and fusion.seed == 0 and config["fusion"] == "frozen"
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert kept == ["step-0000010", "step-0000012"]
    losses = (folder / "losses.jsonl").read_text().splitlines()
    assert len(losses) == 2 * NUM_IMAGES


def test_stage_i_measures_the_hands_of_the_images(tmp_path, tiny_pipeline):
    shared = ["--gesture", "call", "--data_dir", str(tmp_path / "data"), "--num_workers", "1"]
    render.main(render.parse_args([*shared, "--num_train", "3", "--num_test", "0", "--resolution", "128"]))
    flags = [*shared, "--captioner", "synthetic", "--captions", "captions", "--pretrained_model_name_or_path",
             tiny_pipeline]
    folder = run(flags, tmp_path, "--feature", "raw", "--num_validation_images", 0, "--embedding_steps", 0,
                 "--finetune_steps", 0)
    info = json.loads((folder / "gesture_feature.json").read_text())
    assert (info["kind"], info["gesture"], info["num_images"]) == ("raw", "call", 3) and info["num_used"] >= 2
    assert f"num_used {info['num_used']}" in (folder / "train.log").read_text()
    x, y = np.load(folder / "gesture_feature.npy").reshape(21, 3)[:, :2].T
    assert ((0 < x) & (x < 1) & (0 < y) & (y < 1)).all()  # image-relative


# Interrupted runs


def interrupt(flags, folder, number, after):
    """Runs train.py where LiteRT is missing; sends it a signal when a checkpoint of that update is there.

    Returns the exit status and the standard output.
    """
    script = ("import runpy, sys; sys.modules['ai_edge_litert'] = None; "
              "sys.path.insert(0, '.'); runpy.run_path('train.py', run_name='__main__')")
    process = scripts.start(["-c", script, *flags, "--output_dir", folder.parent], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    steps = []
    while process.poll() is None and max(steps, default=0) < after:
        time.sleep(0.005)
        steps = [int(path.name[5:]) for path in folder.glob("checkpoints/step-*")]
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    return process.returncode, output


def test_a_run_ends_in_the_same_bits_however_it_was_interrupted(world, tmp_path):
    _, flags = world
    flags = [*flags, "--num_validation_images", 1, "--batch_size", 2, "--embedding_steps", 4,
             "--finetune_steps", 12, "--finetune_lr", 1e-3, "--checkpointing_steps", 4]
    whole = run(flags, tmp_path / "whole")

    # Stage II: updates 1 to 12, a checkpoint every 4. Stage III: updates 13 to 48, a checkpoint every 4.
    broken = tmp_path / "broken" / "call"
    status, output = interrupt(flags, broken, signal.SIGTERM, after=4)
    assert status == 143 and "interrupted in Stage" in output and "the same command goes on" in output
    assert (broken / "checkpoints" / "residuals").is_dir() and not (broken / "model").exists()
    status, output = interrupt(flags, broken, signal.SIGKILL, after=24)
    assert status == -signal.SIGKILL and "going on from" in output
    left = sorted(broken.glob("checkpoints/step-*"))
    assert len(left) >= 2 and not (broken / "model").exists()
    (left[-1] / "weights.safetensors").write_bytes(b"damaged")
    run(flags, broken.parent)

    names = ["losses.jsonl", "gesture_feature.npy", "samples/base_0.png", "samples/tuned_0.png"]
    names += [str(path.relative_to(whole)) for path in whole.glob("model/**/*") if path.is_file()]
    assert len(names) > 10
    assert filecmp.cmpfiles(whole, broken, names, shallow=False) == (names, [], [])
    assert "damaged" in (broken / "train.log").read_text() and not (broken / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_its_handler_put_back(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(RuntimeError, match="as train.py ends"), Interruption() as interruption:
        assert interruption.signal is None
        os.kill(os.getpid(), number)
        assert interruption.signal == number
        raise RuntimeError("as train.py ends")
    assert signal.getsignal(number) == before and "Ctrl-C again" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt),
                                                (signal.SIGTERM, signals.Terminated)])
def test_a_signal_that_nobody_looked_at_ends_the_run_afterwards(number, raised):
    with pytest.raises(raised), signals.raised(), Interruption():
        os.kill(os.getpid(), number)


def test_what_another_run_left_is_not_taken_for_this_ones(tmp_path):
    run_folder = RunFolder(tmp_path / "call")
    run_folder.samples.mkdir(parents=True)
    (run_folder.samples / "base_0.png").touch()
    run_folder.feature.touch()
    run_folder.begin({"feature_npy_path": None})
    assert not run_folder.samples.exists() and not run_folder.feature.exists()
    for path in (run_folder.samples, run_folder.model):
        path.mkdir()
    run_folder.feature.touch()
    run_folder.begin({"feature_npy_path": None})  # goes on
    assert run_folder.samples.exists() and run_folder.feature.exists()
    run_folder.begin({"feature_npy_path": tmp_path / "call" / "gesture_feature.npy"}, overwrite=True)
    assert run_folder.feature.exists() and not run_folder.samples.exists() and not run_folder.model.exists()


@pytest.mark.parametrize("name", ["samples", "gesture_feature.npy"])
def test_results_of_nobody_knows_what_run_are_not_deleted(name, world, tmp_path):
    (tmp_path / "call").mkdir()
    (tmp_path / "call" / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name} but no config.json"):
        run(world[1], tmp_path)
    assert (tmp_path / "call" / name).read_text() == "mine"


def test_a_base_model_in_the_run_that_overwrite_would_delete_is_refused(finished, tiny_pipeline, capsys):
    folder, flags = finished
    with pytest.raises(SystemExit) as ended:
        train.parse_args([*map(str, flags), "--overwrite", "--pretrained_model_name_or_path", str(folder / "model")])
    assert ended.value.code == 2 and "--overwrite would delete it" in capsys.readouterr().err


def test_a_second_ctrl_c_leaves_at_once(run_script):
    script = ("import os, signal; from utils.method.interruption import Interruption\n"
              "with Interruption():\n"
              "    os.kill(os.getpid(), signal.SIGINT); print('first', flush=True)\n"
              "    os.kill(os.getpid(), signal.SIGINT); print('second', flush=True)")
    result = run_script(["-c", script])
    assert (result.returncode, result.stdout) == (-signal.SIGINT, "first\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_last_checkpoint_is_written_ends_the_run(number, status, world, tmp_path, monkeypatch):
    flags = [*world[1], "--batch_size", 4, "--embedding_steps", 1, "--finetune_steps", 2, "--checkpointing_steps", 3]
    write = CheckpointFolder.write

    def write_and_signal(self, step, *rest):
        if step == 5:  # 2 of Stage II, 3 of Stage III
            os.kill(os.getpid(), number)
        write(self, step, *rest)

    whole = run(flags, tmp_path / "whole")
    monkeypatch.setattr(CheckpointFolder, "write", write_and_signal)
    with pytest.raises(SystemExit) as ended:
        run(flags, tmp_path / "broken")
    broken = tmp_path / "broken" / "call"
    assert ended.value.code == status and not (broken / "model").exists()
    assert "interrupted in Stage III after update 3 of 3" in (broken / "train.log").read_text()
    run(flags, tmp_path / "broken")
    names = ["losses.jsonl", "model/unet/diffusion_pytorch_model.safetensors", "model/fusion.safetensors"]
    assert filecmp.cmpfiles(whole, broken, names, shallow=False) == (names, [], [])


def test_a_signal_as_a_run_goes_on_in_stage_iii_costs_none_of_it(world, tmp_path, monkeypatch):
    flags = [*world[1], "--batch_size", 4, "--embedding_steps", 1, "--finetune_steps", 4, "--checkpointing_steps", 2]
    whole = run(flags, tmp_path / "whole")
    broken = tmp_path / "broken" / "call"
    assert interrupt(flags, broken, signal.SIGINT, after=4)[0] == 130  # 2 of Stage II, 2 of Stage III
    newest = CheckpointFolder.newest

    def look_and_signal(self):
        found = newest(self)
        os.kill(os.getpid(), signal.SIGINT)
        return found

    before = CheckpointFolder(broken / "checkpoints").steps()
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(CheckpointFolder, "newest", look_and_signal)
        run(flags, tmp_path / "broken")
    assert ended.value.code == 130 and max(before) >= 4
    assert max(CheckpointFolder(broken / "checkpoints").steps()) >= max(before)
    run(flags, tmp_path / "broken")
    names = ["losses.jsonl", "model/unet/diffusion_pytorch_model.safetensors", "model/fusion.safetensors"]
    assert filecmp.cmpfiles(whole, broken, names, shallow=False) == (names, [], [])


def test_ctrl_c_writes_a_checkpoint_also_when_the_reader_of_all_output_goes_with_it(world, tmp_path):
    flags = [*world[1], "--batch_size", 4, "--embedding_steps", 1, "--finetune_steps", 100_000,
             "--checkpointing_steps", 100_000, "--output_dir", tmp_path]
    process = scripts.start(["train.py", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while b"Stage III: " not in process.stdout.read(50):
        assert process.poll() is None
    time.sleep(0.5)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert "interrupted in Stage III after update" in (tmp_path / "call" / "train.log").read_text().splitlines()[-1]
    assert max(CheckpointFolder(tmp_path / "call" / "checkpoints").steps()) > 2


def test_the_end_of_training_is_a_checkpoint_whatever_comes_after(world, tmp_path, monkeypatch):
    flags = [*world[1], "--batch_size", 4, "--embedding_steps", 1, "--finetune_steps", 2, "--checkpointing_steps", 2]
    monkeypatch.setattr(RunFolder, "write_losses", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(flags, tmp_path)
    assert CheckpointFolder(tmp_path / "call" / "checkpoints").steps()[-1] == 5  # 2 of Stage II, 3 of Stage III


def test_a_loss_that_is_no_number_stops_the_run(world, tmp_path):
    with pytest.raises(UserError, match=r"Stage III, update \d+: the loss is (nan|inf) \(last checkpoint: .*step-"):
        run(world[1], tmp_path, *SHORT, "--finetune_lr", 1e30, "--lr_warmup_steps", 0)
    assert not (tmp_path / "call" / "model").exists()


@pytest.mark.parametrize(("flags", "said"), [
    (["--fusion_lr", 1e38, "--embedding_steps", 1, "--finetune_steps", 0, "--batch_size", 6], "Stage II, update 1"),
    (["--finetune_lr", 1e30, "--embedding_steps", 1, "--finetune_steps", 1, "--batch_size", 6], "Stage III, update 1"),
    (["--finetune_lr", 1e30, "--embedding_steps", 1, "--finetune_steps", 1, "--batch_size", 6,
      "--checkpointing_steps", 1], "Stage III, update 1"),
    (["--embedding_lr", 1e38, "--embedding_steps", 1, "--finetune_steps", 0, "--batch_size", 6], "Stage II, update 1"),
])
def test_weights_that_have_exploded_are_neither_saved_nor_checkpointed(world, tmp_path, flags, said):
    with pytest.raises(UserError, match=f"{said}: .* is not finite any more .*lower learning rate") as caught:
        run(world[1], tmp_path, *flags, "--lr_warmup_steps", 0)
    folder = tmp_path / "call"
    assert not (folder / "model").exists()
    checkpoint = CheckpointFolder(folder / "checkpoints").newest()
    if said.startswith("Stage III"):  # that of Stage II is the newest and good
        assert checkpoint.state["stage"] == "Stage II" and f"last checkpoint: {checkpoint.path}" in str(caught.value)
        assert all(tensor.isfinite().all() for tensor in checkpoint.load("weights").values())
    else:
        assert checkpoint is None and "last checkpoint: none" in str(caught.value)


# What a run has begun with


@pytest.fixture
def begun(world, tmp_path):
    """(folder of the inputs, flags) of a run that ended in Stage III, with copies of its inputs to change."""
    shutil.copytree(world[0] / "data", tmp_path / "data")
    build_tiny_pipeline(tmp_path / "base")
    flags = [*world[1], "--data_dir", tmp_path / "data", "--pretrained_model_name_or_path", tmp_path / "base",
             "--embedding_steps", 1, "--finetune_steps", 1, "--finetune_lr", 1e30, "--lr_warmup_steps", 0]
    with pytest.raises(UserError, match="not finite any more"):
        run(flags, tmp_path / "outputs")
    return tmp_path, flags


def refuse_to_go_on(begun, capsys):
    """The only line on standard error when the same command is given again, which leaves the run as it was."""
    folder, flags = begun
    before = snapshot(folder / "outputs")
    with pytest.raises(SystemExit) as ended:
        run_main(train.main, train.parse_args([*map(str, flags), "--output_dir", str(folder / "outputs")]))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert ended.value.code == 1 and len(errors) == 1
    assert snapshot(folder / "outputs") == before
    return errors[0]


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_a_base_model_that_was_replaced_is_noticed(begun, capsys, part):
    name = {"text_encoder": "model.safetensors"}.get(part, "diffusion_pytorch_model.safetensors")
    other = build_tiny_pipeline(begun[0] / "other", seed=1)
    shutil.copy(other / part / name, begun[0] / "base" / part / name)
    assert re.search("base_model_sha256: [0-9a-f]{16} there, [0-9a-f]{16} now", refuse_to_go_on(begun, capsys))


def test_an_image_that_was_replaced_or_became_unreadable_is_noticed(begun, capsys):
    path = begun[0] / "data" / "call" / "train" / "images" / "2.png"
    for data in (path.with_name("3.png").read_bytes(), b"no image"):
        path.write_bytes(data)
        assert re.search("images_sha256: [0-9a-f]{16} there, [0-9a-f]{16} now", refuse_to_go_on(begun, capsys))


def test_flags_that_leave_the_numbers_alone_may_change_and_the_run_goes_on(begun, capsys):
    folder, flags = begun
    (folder / "data").rename(folder / "moved")
    with pytest.raises(UserError, match="Stage III, update 1: .* is not finite any more"):
        run([*flags, "--data_dir", folder / "moved", "--checkpointing_steps", 7], folder / "outputs")
    assert "going on from" in capsys.readouterr().out


# What is refused


@pytest.mark.parametrize(("flags", "said"), [
    (["--Lambda", "1.1"], "--Lambda"),
    (["--Lambda", "-0.1"], "--Lambda"),
    (["--Lambda", "nan"], "--Lambda"),
    (["--gesture", "cal"], "call"),
    (["--data_dir", "nowhere"], "nowhere"),
    (["--captioner", "BLIP2"], "BLIP2_filenames.txt"),
    (["--captions", "captions"], "synthetic_captions.txt"),
    (["--feature_npy_path", "nowhere.npy"], "nowhere.npy"),
    (["--finetune_lr", "inf"], "--finetune_lr"),
    (["--embedding_steps", "-1"], "--embedding_steps"),
    (["--batch_size", "0"], "--batch_size"),
    (["--caption_dropout", "2"], "--caption_dropout"),
])
def test_wrong_flags_are_usage_errors(world, capsys, flags, said):
    with pytest.raises(SystemExit) as caught:
        train.parse_args([*map(str, world[1]), *flags])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(("flags", "said"), [
    (["--resolution", "36"], "multiple of 8"),
    (["--mixed_precision", "fp16"], "fp16 needs a GPU"),
    (["--pretrained_model_name_or_path", "./nowhere"], "nowhere"),
])
def test_what_does_not_fit_the_model_leaves_no_run_behind(world, tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        run(world[1], tmp_path, *flags)
    assert list(tmp_path.iterdir()) == []


def copy_data(world, tmp_path):
    shutil.copytree(world[0] / "data", tmp_path / "data")
    return tmp_path / "data" / "call" / "train", [*world[1], "--data_dir", tmp_path / "data"]


def test_missing_images_are_counted_and_named(world, tmp_path):
    folder, flags = copy_data(world, tmp_path)
    (folder / "images" / "2.png").unlink()
    with pytest.raises(UserError, match="1 of 6 images are not in .*2.png"):
        run(flags, tmp_path)


def test_an_unreadable_image_is_left_out_with_its_caption(world, tmp_path):
    folder, flags = copy_data(world, tmp_path)
    (folder / "images" / "2.png").write_bytes(b"no image")
    run(flags, tmp_path, "--embedding_steps", 1, "--finetune_steps", 1, "--batch_size", 1)
    log = (tmp_path / "call" / "train.log").read_text()
    assert "2.png: cannot be read" in log and "left out" in log
    assert len((tmp_path / "call" / "losses.jsonl").read_text().splitlines()) == 2 * (NUM_IMAGES - 1)


def test_captions_without_the_phrase_are_counted(world, tmp_path, capsys):
    folder, flags = copy_data(world, tmp_path)
    (folder / "synthetic_enriched.txt").write_text("a hand\n" * 5 + "a hand making phone call hand gesture\n")
    run(flags, tmp_path, "--embedding_steps", 0, "--finetune_steps", 0)
    assert "5 of 6 captions lack the phrase 'making phone call hand gesture'" in capsys.readouterr().err


# Presets


def test_a_flag_wins_over_the_preset(world):
    flags = list(map(str, world[1]))
    improved, paper = train.parse_args(flags), train.parse_args([*flags, "--preset", "paper"])
    names = ("batch_size", "fusion", "feature", "ema")
    assert [getattr(improved, name) for name in names] == [16, "trained", "canonical", True]
    assert [getattr(paper, name) for name in names] == [1, "frozen", "raw", False]
    assert (paper.embedding_lr, paper.embedding_steps) == (1e-3, 10)
    assert (paper.finetune_lr, paper.finetune_steps) == (1e-6, 20)
    assert paper.caption_dropout == paper.residual_dropout == paper.weight_decay == paper.max_grad_norm == 0
    mixed = train.parse_args([*flags, "--preset", "paper", "--batch_size", "4", "--ema"])
    assert (mixed.batch_size, mixed.embedding_batch_size, mixed.ema, mixed.fusion) == (4, 4, True, "frozen")
    assert train.parse_args([*flags, "--no_ema"]).ema is False


@pytest.mark.parametrize(("flags", "expected"), [
    (["--preset", "paper"], 8), (["--preset", "paper", "--batch_size", "12"], 12),
    (["--preset", "paper", "--embedding_batch_size", "2"], 2), (["--batch_size", "4"], 4),
])
def test_a_frozen_f_gives_each_process_an_image_of_stage_ii(world, flags, expected, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert train.parse_args([*map(str, world[1]), *flags]).embedding_batch_size == expected
