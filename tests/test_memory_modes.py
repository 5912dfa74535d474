"""What makes training and drawing smaller: LoRA, optimisers with small states, slicing, and the advice to use them."""

import argparse
import copy
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

import image_generation
import train
from tests.tiny_models import build_tiny_pipeline
from tests.training_world import write_world
from utils.method.optimizers import optimizer_tensors
from utils.method.presets import LORA_LR, fill_preset
from utils.method.three_stage import GestureDenoiser, finetune_stage, update
from utils.method.training_set import TrainingSet
from utils.models import sampling, stable_diffusion
from utils.models.lora import add_lora, load_lora
from utils.system.errors import UserError

SHORT = ["--batch_size", 4, "--embedding_steps", 2, "--finetune_steps", 6]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_pipeline):
    return write_world(tmp_path_factory.mktemp("world"), tiny_pipeline)


def parse(flags, *more):
    return train.parse_args([*map(str, flags), *map(str, more)])


# LoRA


@pytest.fixture(scope="module")
def lora(world, tmp_path_factory):
    """The model folder of a run with --lora_rank."""
    output_dir = tmp_path_factory.mktemp("lora")
    train.main(parse(world[1], *SHORT, "--lora_rank", 4, "--finetune_lr", 0.01, "--output_dir", output_dir))
    return output_dir / "call" / "model"


def predict(unet):
    generator = torch.Generator().manual_seed(0)
    latents, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 16, 32, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 500]), encoder_hidden_states=hidden).sample


def test_the_additions_are_all_that_is_saved_and_diffusers_loads_them(lora, tiny_pipeline):
    assert {path.name for path in lora.iterdir()} == {
        "pytorch_lora_weights.safetensors", "fusion.safetensors", "fusion.json"}
    base = stable_diffusion.load_stable_diffusion(tiny_pipeline)
    tuned = copy.deepcopy(base)
    load_lora(tuned, lora)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.load_lora_weights(lora)
    torch.testing.assert_close(predict(tuned.unet), predict(pipeline.unet), atol=1e-5, rtol=1e-5)
    assert (predict(tuned.unet) - predict(base.unet)).abs().max() > 0.01
    changed = {name for name, weight in tuned.unet.state_dict().items()
               if not torch.equal(weight, base.unet.state_dict()[name])}
    assert changed and all(".attn" in name and "norm" not in name for name in changed)


def test_a_gesture_takes_less_than_25_megabytes_at_the_size_of_v1_4():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        add_lora(unet, 16)
    trained = [weight for weight in unet.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) * 4 == 12_754_944
    assert sum(weight.numel() for weight in unet.parameters()) > 859e6


def draw(folder, ckpt, *more):
    (folder / "names.txt").write_text("a\nb\n")
    (folder / "prompts.txt").write_text("a red hand\na blue hand\n")
    image_generation.main(image_generation.parse_args(list(map(str, [
        "--image_filenames_file", folder / "names.txt", "--prompts_file", folder / "prompts.txt", "--ckpt", ckpt,
        "--img_save_path", folder / "images", "--num_inference_steps", 3, "--device", "cpu", "--overwrite", *more]))))
    return [np.asarray(Image.open(folder / "images" / f"{name}.png")) for name in "ab"]


def test_images_are_drawn_with_the_additions_or_with_the_base_model_alone(lora, tiny_pipeline, tmp_path):
    tuned = draw(tmp_path, lora, "--mu", 1)
    base = draw(tmp_path, lora, "--base")
    assert not np.array_equal(tuned, base) and np.array_equal(base, draw(tmp_path, tiny_pipeline, "--base"))


def test_additions_of_another_u_net_are_refused(lora, tmp_path):
    other = stable_diffusion.load_stable_diffusion(build_tiny_pipeline(tmp_path / "other"))
    wider = UNet2DConditionModel.from_config({**other.unet.config, "block_out_channels": (32, 64)})
    other.unet = wider
    with pytest.raises(UserError, match="pytorch_lora_weights.safetensors: the LoRA does not load"):
        load_lora(other, lora)
    (tmp_path / "cut").mkdir()
    whole = (lora / "pytorch_lora_weights.safetensors").read_bytes()
    (tmp_path / "cut" / "pytorch_lora_weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut/pytorch_lora_weights.safetensors: the LoRA does not load"):
        load_lora(stable_diffusion.load_stable_diffusion(tmp_path / "other"), tmp_path / "cut")


def without_one(tensors):
    tensors.pop(min(tensors))
    return "1 tensors are missing or of other layers, unet"


def with_another(tensors):
    tensors["unet.conv_in.lora.down.weight"] = torch.zeros(4, 4)
    return "1 tensors are missing or of other layers, unet.conv_in"


def with_other_sizes(tensors):
    tensors[min(tensors)] = torch.zeros(4, 5)
    return r"is \(4, 5\), finite numbers of \(4, 16\) are needed"


def with_nan(tensors):
    tensors[min(tensors)].fill_(torch.nan)
    return r"finite numbers of \(4, 16\) are needed"


@pytest.mark.parametrize("change", [without_one, with_another, with_other_sizes, with_nan])
def test_additions_to_other_layers_or_too_few_are_refused_and_the_u_net_stays(lora, tiny_pipeline, tmp_path, change):
    tensors = load_file(lora / "pytorch_lora_weights.safetensors")
    said = change(tensors)
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    sd = stable_diffusion.load_stable_diffusion(tiny_pipeline)
    before = predict(sd.unet)
    with pytest.raises(UserError, match=f"pytorch_lora_weights.safetensors: the LoRA does not load .*{said}"):
        load_lora(sd, tmp_path)
    assert torch.equal(predict(sd.unet), before)


def test_additions_are_refused_on_another_base_model_and_beside_another_fusion(lora, world, tiny_pipeline, tmp_path):
    ckpt = shutil.copytree(lora, tmp_path / "model")
    config = json.loads((ckpt / "fusion.json").read_text())
    other = build_tiny_pipeline(tmp_path / "other", seed=1)
    (ckpt / "fusion.json").write_text(json.dumps({**config, "base_model": str(other)}))
    for more in (["--mu", 1], ["--base"]):
        with pytest.raises(UserError, match="does not belong to .*other .base_model_sha256: "):
            draw(tmp_path, ckpt, *more)
    (ckpt / "fusion.json").write_text(json.dumps(config))
    tensors = load_file(ckpt / "pytorch_lora_weights.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, ckpt / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="does not belong to .*model .weights_sha256: "):
        draw(tmp_path, ckpt, "--mu", 1)
    assert not (tmp_path / "images").exists()


def test_the_rate_of_lora_is_its_own_unless_given(world):
    assert parse(world[1]).finetune_lr == 1e-5
    assert parse(world[1], "--lora_rank", 8).finetune_lr == LORA_LR
    assert parse(world[1], "--lora_rank", 8, "--finetune_lr", 3e-5).finetune_lr == 3e-5


# Optimisers


def finetune(tiny_pipeline, **changes):
    """(stage, losses of its updates) of Stage III on five random images."""
    sd = stable_diffusion.load_stable_diffusion(tiny_pipeline)
    settings = argparse.Namespace(preset="paper", seed=0, finetune_order="shuffled", batch_size=5, **changes)
    fill_preset(settings)
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(6, 16, 32, generator=generator)
    data = TrainingSet(sd, torch.randn(5, 8, 8, 8, generator=generator), embeds[1:], embeds[:1],
                       torch.zeros_like(embeds[1:]))
    accelerator, denoiser = Accelerator(cpu=True), GestureDenoiser(sd.unet, sd.noise_scheduler)
    stage = finetune_stage(accelerator, denoiser, data, settings)
    for step in range(len(stage.plan)):
        update(accelerator, stage, data, step, 0)
    return stage, stage.losses


@pytest.mark.parametrize(("optimizer", "share"), [("adafactor", 0.5), ("adamw8bit", 0.7)])
def test_small_states_learn_at_the_rates_of_adam(tiny_pipeline, optimizer, share):
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    options = {"finetune_steps": 60, "finetune_lr": 1e-3}
    (adam, losses), (other, other_losses) = (
        finetune(tiny_pipeline, **options, optimizer=name) for name in ("adamw", optimizer))
    learned = [(values[:10].mean() - values[-10:].mean()).item() for values in (losses, other_losses)]
    assert learned[0] > 0.1 and learned[1] > 0.5 * learned[0]
    sizes = [sum(tensor.nbytes for tensor in optimizer_tensors(stage.optimizer).values()) for stage in (adam, other)]
    assert sizes[1] < share * sizes[0]


@pytest.mark.parametrize(("flags", "package"), [
    (["--lora_rank", 4], "peft"), (["--optimizer", "adamw8bit"], "bitsandbytes")])
def test_a_missing_package_is_a_usage_error(world, flags, package, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(SystemExit) as caught:
        parse(world[1], *flags)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and f"pip install {package}" in error and error.count("\n") == 1


# Out of memory


def test_training_that_does_not_fit_ends_with_the_flags_that_would(world, tmp_path, monkeypatch):
    def forward(self, **batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GestureDenoiser, "forward", forward)
    with pytest.raises(UserError) as caught:
        train.main(parse(world[1], *SHORT, "--output_dir", tmp_path))
    message = str(caught.value)
    for flag in ("--gradient_checkpointing", "--batch_size 2", "--no_ema", "--optimizer adafactor", "--lora_rank 16"):
        assert flag in message
    with pytest.raises(UserError) as caught:
        train.main(parse(world[1], "--batch_size", 1, "--no_ema", "--lora_rank", 2, "--output_dir", tmp_path,
                         "--overwrite"))
    assert str(caught.value).endswith("; try --gradient_checkpointing (the run goes on with it)")


def test_images_are_decoded_one_by_one_when_memory_is_short(tiny_pipeline, monkeypatch):
    sd = stable_diffusion.load_stable_diffusion(tiny_pipeline)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = sampling.decode_latents(sd, latents)
    decoder, sizes = sd.vae.decoder.forward, []

    def forward(sample, *rest):
        sizes.append(len(sample))
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decoder(sample, *rest)

    monkeypatch.setattr(sd.vae.decoder, "forward", forward)
    torch.testing.assert_close(sampling.decode_latents(sd, latents), whole, atol=1e-5, rtol=1e-5)
    assert sizes == [3, 1, 1, 1]
    sampling.decode_latents(sd, latents)
    assert sizes[4:] == [1, 1, 1]


# torch.compile

needs_compiler = pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="no C++ compiler")


def gradients(unet):
    generator = torch.Generator().manual_seed(0)
    latents, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 16, 32, generator=generator)
    hidden.requires_grad_()
    unet(latents, torch.tensor([10, 500]), encoder_hidden_states=hidden).sample.square().mean().backward()
    return {"hidden": hidden.grad, **{name: weight.grad for name, weight in unet.named_parameters()}}


@needs_compiler
@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_u_net_has_the_same_gradients(mode, tiny_pipeline):
    plain, compiled = (stable_diffusion.load_stable_diffusion(tiny_pipeline).unet for _ in range(2))
    sampling.compile_unet(compiled, mode)
    wanted, found = gradients(plain), gradients(compiled)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


@needs_compiler
@pytest.mark.thorough
def test_a_compiled_u_net_learns_the_same(world, tmp_path):
    for flags in ([], ["--compile", "reduce-overhead"]):
        train.main(parse(world[1], "--batch_size", 4, "--embedding_steps", 1, "--finetune_steps", 3, "--output_dir",
                         tmp_path / f"compiled{len(flags)}", *flags))
    plain, compiled = (load_file(tmp_path / f"compiled{i}/call/model/unet/diffusion_pytorch_model.safetensors")
                       for i in (0, 2))
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-5) for name in plain)
