"""Checkpoints: whole or absent, checked before use, and exact."""

import argparse
import copy
import errno
import json
import resource

import pytest
import torch
from accelerate import Accelerator

from tests.conftest import without_rights
from utils.method.checkpoint import CheckpointFolder, restore_stage, stage_parts
from utils.method.fusion import TrainedFusion
from utils.method.presets import fill_preset
from utils.method.three_stage import GestureDenoiser, embedding_stage, finetune_stage, update
from utils.method.training_set import TrainingSet
from utils.models.stable_diffusion import load_stable_diffusion

STATE = {"stage": "Stage II", "scaler": None}


def parts(value):
    return {"weights": {"a.weight": torch.full((3, 4), float(value))}, "losses": {"Stage II": torch.zeros(0)}}


@pytest.fixture
def checkpoints(tmp_path):
    """A folder with checkpoints 1 to 3 written, and a list of its warnings as `warnings`."""
    warnings = []
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", warn=warnings.append)
    checkpoints.warnings = warnings
    for step in (1, 2, 3):
        checkpoints.write_piece(f"residuals/{step}", {str(step): torch.full((2,), float(step))})
        checkpoints.write(step, parts(step), {"stage": "Stage II", "settings": {"seed": 0}})
    return checkpoints


def reopen(checkpoints):
    return CheckpointFolder(checkpoints.folder, warn=checkpoints.warnings.append)


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped bit":
        data[-1] ^= 1
    path.unlink() if how == "gone" else path.write_bytes(data)


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path).newest() is None
    assert CheckpointFolder(tmp_path / "missing").newest() is None


def test_the_newest_comes_back_as_it_was_written(checkpoints):
    checkpoint = reopen(checkpoints).newest()
    assert checkpoint.path.name == "step-0000003" and checkpoint.state["stage"] == "Stage II"
    assert checkpoint.state["step"] == 3 and checkpoint.state["settings"] == {"seed": 0}
    assert torch.equal(checkpoint.load("weights")["a.weight"], torch.full((3, 4), 3.0))
    assert checkpoint.load("losses")["Stage II"].shape == (0,)
    assert checkpoint.load("average") == {}
    pieces = {name: checkpoint.load_piece(name) for name in checkpoint.state["pieces"]}
    assert [tensors[name[-1]].tolist() for name, tensors in pieces.items()] == [[1, 1], [2, 2], [3, 3]]
    assert checkpoints.warnings == []


def test_the_last_two_are_kept(checkpoints):
    assert checkpoints.steps() == [2, 3]


def test_the_order_is_that_of_the_numbers(checkpoints):
    checkpoints.write(12_345_678, parts(0), STATE)
    assert reopen(checkpoints).newest().state["step"] == 12_345_678


@pytest.mark.parametrize("how", ["cut", "flipped bit", "gone"])
@pytest.mark.parametrize("file", ["weights.safetensors", "losses.safetensors", "checkpoint.json"])
def test_a_damaged_newest_falls_back_with_a_warning(checkpoints, file, how):
    damage(checkpoints.folder / "step-0000003" / file, how)
    if how == "flipped bit" and file == "checkpoint.json":
        (checkpoints.folder / "step-0000003" / file).write_text('{"step": 3, "files": [], "pieces": 4}')
    folder = reopen(checkpoints)
    checkpoint = folder.newest()
    assert checkpoint.state["step"] == 2 and list(folder.pieces) == ["residuals/1", "residuals/2"]
    assert torch.equal(checkpoint.load("weights")["a.weight"], torch.full((3, 4), 2.0))
    assert len(checkpoints.warnings) == 1 and "step-0000003 is damaged" in checkpoints.warnings[0]


def test_what_may_not_be_read_is_not_taken_for_damaged(checkpoints):
    (checkpoints.folder / "step-0000003" / "checkpoint.json").chmod(0)
    with without_rights(), pytest.raises(PermissionError):
        reopen(checkpoints).newest()


@pytest.mark.parametrize("change", [{"stage": "Stage III"}, {"step": 2}, {"files": {}}, {"sha256": None}])
def test_an_edited_state_is_passed_over(checkpoints, change):
    path = checkpoints.folder / "step-0000003" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert reopen(checkpoints).newest().state["step"] == 2 and len(checkpoints.warnings) == 1


def test_the_last_warning_says_that_the_run_starts_anew(checkpoints):
    for step in (2, 3):
        damage(checkpoints.folder / f"step-000000{step}" / "weights.safetensors", "cut")
    assert reopen(checkpoints).newest() is None
    assert [text.rsplit("; ")[-1] for text in checkpoints.warnings] == ["going back to the one before",
                                                                       "starting anew"]


def test_a_damaged_piece_spoils_the_checkpoints_that_need_it(checkpoints):
    damage(checkpoints.folder / "residuals" / "3.safetensors", "flipped bit")
    assert reopen(checkpoints).newest().state["step"] == 2
    damage(checkpoints.folder / "residuals" / "1.safetensors", "flipped bit")
    assert reopen(checkpoints).newest() is None


def test_after_a_fallback_the_damaged_one_does_not_count_as_kept(checkpoints):
    damage(checkpoints.folder / "step-0000003" / "weights.safetensors", "cut")
    folder = reopen(checkpoints)
    folder.write(folder.newest().state["step"] + 1, parts(3), STATE)
    folder.write(5, parts(5), STATE)
    folder.write(4, parts(4), STATE)  # as after 5 was found damaged
    assert folder.steps() == [3, 4]
    damage(checkpoints.folder / "step-0000004" / "weights.safetensors", "cut")
    folder = reopen(checkpoints)
    folder.write(folder.newest().state["step"] + 3, parts(6), STATE)
    assert folder.steps() == [3, 6]


def test_leftovers_of_a_killed_write_are_removed_and_not_used(checkpoints):
    half = checkpoints.folder / ".tmp-0123456789ab"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    (checkpoints.folder / "residuals" / ".tmp-9.safetensors").write_bytes(b"half")
    assert reopen(checkpoints).newest().state["step"] == 3
    assert not half.exists() and len(list((checkpoints.folder / "residuals").iterdir())) == 3


def test_a_disk_that_takes_no_more_is_an_error_that_names_the_file_and_leaves_the_rest(checkpoints):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            checkpoints.write(4, {"weights": {"large": torch.zeros(2000)}}, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and str(caught.value.filename).endswith("step-0000004")
    left = sorted(path.name for path in checkpoints.folder.iterdir())
    assert left == ["residuals", "step-0000002", "step-0000003"]
    assert reopen(checkpoints).newest().state["step"] == 3


# Exact resume of a stage, in one process


def make_run(base, stage_number, preset, memory_format=torch.contiguous_format, **changes):
    """(denoiser, data, stage) of a run that is the same each time it is made."""
    sd = copy.deepcopy(base)
    sd.unet.to(memory_format=memory_format)
    settings = argparse.Namespace(preset=preset, seed=0, **changes)
    fill_preset(settings)
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(6, 16, 32, generator=generator)
    data = TrainingSet(sd, torch.randn(5, 8, 8, 8, generator=generator), embeds[1:], embeds[:1],
                       torch.zeros_like(embeds[1:]))
    fusion = TrainedFusion(32) if preset == "improved" else None
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, fusion, torch.linspace(-1, 1, 63), 0.7)
    accelerator = Accelerator(cpu=True)
    stage = (embedding_stage if stage_number == 2 else finetune_stage)(accelerator, denoiser, data, settings)
    return accelerator, denoiser, data, stage


@pytest.mark.parametrize(("stage_number", "preset", "stop", "more"), [
    (2, "improved", 3, {}), (2, "improved", 8, {}), (2, "paper", 5, {}), (3, "improved", 4, {}), (3, "paper", 7, {}),
    (3, "improved", 4, {"lora_rank": 2}), (3, "improved", 4, {"optimizer": "adafactor"}),
    (3, "improved", 4, {"optimizer": "adamw8bit"}), (3, "paper", 7, {"optimizer": "adafactor"}),
    (3, "improved", 4, {"memory_format": torch.channels_last}),
])
def test_a_restored_stage_ends_in_the_same_bits(tiny_pipeline, tmp_path, stage_number, preset, stop, more):
    if more.get("optimizer") == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    base = load_stable_diffusion(tiny_pipeline)
    options = {"batch_size": 2, "embedding_steps": 4, "finetune_steps": 4, "finetune_lr": 1e-3, **more}

    accelerator, denoiser, data, stage = make_run(base, stage_number, preset, **options)
    for step in range(len(stage.plan)):
        update(accelerator, stage, data, step, 0)
        if step + 1 == stop:
            parts = {**stage_parts(stage), "losses": {stage.name: stage.losses}}
            CheckpointFolder(tmp_path).write(stop, parts, STATE)
            residuals = data.residuals.clone()
    assert stop < len(stage.plan)

    accelerator, resumed, resumed_data, resumed_stage = make_run(base, stage_number, preset, **options)
    resumed_data.residuals.copy_(residuals)
    checkpoint = CheckpointFolder(tmp_path).newest()
    restore_stage(resumed_stage, accelerator, checkpoint)
    resumed_stage.losses.copy_(checkpoint.load("losses")[stage.name])
    for step in range(stop, len(resumed_stage.plan)):
        update(accelerator, resumed_stage, resumed_data, step, 0)

    assert torch.equal(resumed_data.residuals, data.residuals)
    assert torch.equal(resumed_stage.losses, stage.losses)
    for (name, one), other in zip(resumed.named_parameters(), denoiser.parameters(), strict=True):
        assert torch.equal(one, other), name
    for stages in (stage, resumed_stage):
        assert (stages.average is not None) == (stage_number == 3 and preset == "improved")
    if stage.average is not None:
        assert all(map(torch.equal, stage.average.averages, resumed_stage.average.averages))
