"""What an update costs at the size of Stable Diffusion v1.4, counted on the meta device, which computes nothing."""

import argparse
import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from utils.method.presets import fill_preset
from utils.method.three_stage import GestureDenoiser, embedding_stage, finetune_stage, update
from utils.method.training_set import TrainingSet

NUM_IMAGES = 2


@pytest.fixture(scope="module")
def unet():
    """The U-Net of v1.4, without numbers in it."""
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def meta_accelerator():
    """What an update needs of an Accelerator, on the meta device, which Accelerate does not know."""
    return SimpleNamespace(device=torch.device("meta"), autocast=contextlib.nullcontext, prepare_optimizer=lambda x: x,
                           backward=torch.Tensor.backward, clip_grad_norm_=torch.nn.utils.clip_grad_norm_)


def count_update(unet, make_stage, **changes):
    """TFLOP per image of one update of a stage, made by the program's own loop."""
    settings = argparse.Namespace(preset="improved", seed=0, batch_size=NUM_IMAGES, embedding_steps=2,
                                  finetune_steps=1, ema=False, **changes)
    fill_preset(settings)
    parts = SimpleNamespace(vae=SimpleNamespace(config=AutoencoderKL(block_out_channels=(32,)).config),
                            noise_scheduler=DDPMScheduler())
    embeds = torch.zeros(1 + NUM_IMAGES, 77, 768)
    data = TrainingSet(parts, torch.zeros(NUM_IMAGES, 8, 64, 64), embeds[1:], embeds[:1], torch.zeros_like(embeds[1:]))
    denoiser = GestureDenoiser(unet, parts.noise_scheduler)  # a trained F would add 0.0003 TFLOP
    accelerator = meta_accelerator()
    stage = make_stage(accelerator, denoiser, data, settings)
    with FlopCounterMode(display=False) as counter:
        update(accelerator, stage, data, 0, 0)  # not the last of a round: a meta device gives no residuals back
    return counter.get_total_flops() / NUM_IMAGES / 1e12


def test_the_size_is_that_of_v1_4(unet):
    assert sum(weight.numel() for weight in unet.parameters()) == 859_520_964


def test_an_update_of_stage_ii_computes_no_gradients_of_the_frozen_unet(unet):
    assert 1.66 < count_update(unet, embedding_stage) <= 1.70


def test_an_update_of_stage_iii_computes_nothing_twice(unet):
    assert 2.40 < count_update(unet, finetune_stage) <= 2.45


def test_lora_saves_the_gradients_of_the_frozen_weights(unet):
    assert count_update(copy.deepcopy(unet), finetune_stage, lora_rank=16) < 1.75
