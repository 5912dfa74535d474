"""Stage II and Stage III on the tiny pipeline: the loss, the plan of updates, and what the loop changes."""

import argparse
import copy
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from tests.tiny_models import build_tiny_pipeline
from utils.method.fusion import FrozenFusion, TrainedFusion, fuse
from utils.method.presets import fill_preset
from utils.method.three_stage import (
    GestureDenoiser,
    denoising_loss,
    draw_batch,
    embedding_stage,
    finetune_stage,
    update,
)
from utils.method.training_plan import Plan, Schedule
from utils.method.training_set import TrainingSet, take_rows
from utils.method.weight_average import WeightAverage
from utils.models.sampling import image_generator, sample_latents
from utils.models.stable_diffusion import load_stable_diffusion
from utils.system.errors import UserError

FEATURE = torch.linspace(-1, 1, 63)


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def base(tiny_pipeline):
    """Never trained; each test takes a copy."""
    return load_stable_diffusion(tiny_pipeline)


@pytest.fixture
def sd(base):
    return copy.deepcopy(base)


def make_settings(preset="improved", **changes):
    args = argparse.Namespace(preset=preset, seed=0, **changes)
    fill_preset(args)
    return args


def make_data(sd, num_images, seed=0):
    """A TrainingSet of random latents and embeddings."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(1 + num_images, 16, 32, generator=generator)
    moments = torch.randn(num_images, 8, 8, 8, generator=generator)
    return TrainingSet(sd, moments, embeds[1:], embeds[:1], torch.zeros_like(embeds[1:]))


def run(stage, accelerator, data, seed=0):
    for step in range(len(stage.plan)):
        update(accelerator, stage, data, step, seed)
    return stage.losses


def drawn(sd, data, stage_name, image, visit):
    """The draws of one visit, made from their definition: latents, noise (1, C, h, w) and timestep (1,)."""
    generator = image_generator(0, image, purpose=f"{stage_name}, visit {visit}")
    latents = sample_latents(sd, data.moments[image : image + 1], [generator])
    noise = torch.randn(latents.shape[1:], generator=generator)[None]
    num_timesteps = sd.noise_scheduler.config.num_train_timesteps
    return latents, noise, torch.randint(num_timesteps, (1,), generator=generator)


def plain_loss(sd, draws, hidden):
    latents, noise, timesteps = draws
    noisy = sd.noise_scheduler.add_noise(latents, noise, timesteps)
    return torch.nn.functional.mse_loss(sd.unet(noisy, timesteps, hidden).sample, noise)


@pytest.mark.parametrize("rows", [[3, 0, 3], [2], []])
def test_rows_are_taken_as_indexing_takes_them(rows):
    tensor = torch.arange(24.0).reshape(4, 3, 2)
    assert torch.equal(take_rows(tensor, rows, "cpu"), tensor[rows])


# The loss


def with_prediction(sd, prediction_type):
    return type(sd.noise_scheduler).from_config(sd.noise_scheduler.config, prediction_type=prediction_type)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_zero_for_a_unet_that_knows_the_answer(base, prediction_type):
    scheduler = with_prediction(base, prediction_type)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    alpha = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - alpha**2).sqrt()
    # Velocity as defined by Salimans and Ho 2022, appendix D.
    answer = noise if prediction_type == "epsilon" else alpha * noise - sigma * latents

    def unet(noisy_latents, timesteps, encoder_hidden_states):
        torch.testing.assert_close(noisy_latents, alpha * latents + sigma * noise)
        return SimpleNamespace(sample=answer + encoder_hidden_states[:, None, None, None])

    losses = denoising_loss(unet, scheduler, latents, noise, timesteps, torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 4.0]), atol=1e-5, rtol=1e-5)


def test_other_prediction_types_are_refused(base):
    scheduler = with_prediction(base, "sample")
    latents = torch.zeros(1, 4, 8, 8)
    with pytest.raises(UserError, match="'sample'"):
        denoising_loss(base.unet, scheduler, latents, latents, torch.tensor([1]), torch.zeros(1, 16, 32))


def test_a_dropped_caption_sees_the_plain_empty_prompt(sd):
    fusion = TrainedFusion(32)
    torch.nn.init.normal_(fusion.fc.weight)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, fusion, FEATURE, 0.5)
    data = make_data(sd, 2)
    draws = [torch.cat(pair) for pair in zip(*(drawn(sd, data, "x", i, 0) for i in range(2)), strict=True)]
    without_prompt = torch.tensor([True, False])
    losses = denoiser(*draws, data.prompt_embeds, torch.ones(2, 16, 32), data.negative_embeds, without_prompt)
    seen = fuse(data.prompt_embeds[1:], fusion(data.prompt_embeds[1:], FEATURE), 0.5) + 1
    for i, hidden in enumerate([data.negative_embeds, seen]):
        torch.testing.assert_close(losses[i], plain_loss(sd, [draw[i : i + 1] for draw in draws], hidden))


# The plan


@pytest.mark.parametrize("batch_size", [1, 4, 7, 30])
def test_epochs_visit_every_image_equally_often(batch_size):
    plan = Plan(10, batch_size, 3, shuffle_seed=0)
    updates = [list(zip(*plan.samples(step), strict=True)) for step in range(len(plan))]
    assert sorted(sum(updates, [])) == [(image, visit) for image in range(10) for visit in range(3)]
    assert len(plan) == math.ceil(30 / batch_size)
    assert all(len(update) == batch_size for update in updates[:-1])


def test_epochs_are_shuffled_anew_and_by_the_seed():
    def orders(seed):
        return [Plan(50, 50, 2, seed).samples(step)[0] for step in range(2)]

    first, second, other = orders(0), orders(0), orders(1)
    assert first == second and first != other
    assert first[0] != first[1] and first[0] != sorted(first[0])


def test_rounds_take_all_steps_of_a_batch_in_list_order():
    plan = Plan(5, 2, 3)
    assert [plan.samples(step) for step in range(len(plan))] == [
        (images, [visit] * len(images)) for images in ([0, 1], [2, 3], [4]) for visit in range(3)]
    assert [step for step in range(9) if plan.starts_round(step)] == [0, 3, 6]
    assert [step for step in range(9) if plan.ends_round(step)] == [2, 5, 8]


@pytest.mark.parametrize("plan", [Plan(5, 2, 0), Plan(5, 2, 0, shuffle_seed=0)])
def test_no_steps_are_no_updates(plan):
    assert len(plan) == 0


def test_the_schedule_warms_up_and_comes_to_rest():
    cosine = Schedule(100, "cosine", 10)
    assert [cosine(step) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert cosine(55) == pytest.approx(0.5) and 0 < cosine(99) < 1e-3
    assert {Schedule(100)(step) for step in range(100)} == {1.0}
    assert Schedule(10, "constant", 50)(4) == 1.0  # no run is all warm-up


# The draws


def test_draws_belong_to_the_image_and_the_visit_alone(sd, accelerator):
    data, settings = make_data(sd, 5), make_settings(batch_size=3)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler)
    stage = finetune_stage(accelerator, denoiser, data, settings)
    seen = []
    for step in range(6):
        images, _, batch = draw_batch(data, stage, step, 0, "cpu")
        for i, (image, visit) in enumerate(zip(images, stage.plan.samples(step)[1], strict=True)):
            latents, noise, timestep = drawn(sd, data, "Stage III", image, visit)
            torch.testing.assert_close(batch["latents"][i], latents[0], rtol=0, atol=0)
            torch.testing.assert_close(batch["noise"][i], noise[0], rtol=0, atol=0)
            assert batch["timesteps"][i] == timestep
            seen.append(batch["noise"][i].sum().item())
    assert len(set(seen)) == 18  # fresh every time
    assert not torch.equal(drawn(sd, data, "Stage II", 0, 0)[1], drawn(sd, data, "Stage III", 0, 0)[1])


def test_dropout_takes_its_share_of_residuals_and_captions(sd, accelerator):
    data = make_data(sd, 400)
    data.residuals += 1
    settings = make_settings(batch_size=400, caption_dropout=0.2, residual_dropout=0.5)
    stage = finetune_stage(accelerator, GestureDenoiser(sd.unet, sd.noise_scheduler), data, settings)
    _, _, batch = draw_batch(data, stage, 0, 0, "cpu")
    has_residual = batch["residuals"].flatten(1).all(dim=1)
    assert torch.equal(has_residual, batch["residuals"].flatten(1).any(dim=1))
    # Four standard deviations of a binomial share of 400.
    assert abs(has_residual.float().mean() - 0.5) < 0.1
    assert abs(batch["without_prompt"].float().mean() - 0.2) < 0.08
    assert abs((batch["without_prompt"] & has_residual).float().mean() - 0.1) < 0.06


# Stage II


def test_the_batch_size_does_not_change_the_embeddings(sd, accelerator):
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler)
    results = []
    for batch_size in (1, 8):  # 8 leaves a partial last batch
        data = make_data(sd, 9)
        settings = make_settings("paper", embedding_batch_size=batch_size)
        stage = embedding_stage(accelerator, denoiser, data, settings)
        run(stage, accelerator, data)
        results.append(data.residuals)
    assert results[0].abs().amax(dim=(1, 2)).min() > 1e-3  # all have moved
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)


def test_stage_ii_leaves_the_unet_alone(sd, accelerator):
    data = make_data(sd, 2)
    before = copy.deepcopy(sd.unet.state_dict())
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, TrainedFusion(32), FEATURE, 0.5)
    run(embedding_stage(accelerator, denoiser, data, make_settings()), accelerator, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sd.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in sd.unet.parameters())


def test_residuals_and_a_trained_fusion_learn_together(sd, accelerator):
    data = make_data(sd, 4)
    fusion = TrainedFusion(32)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, fusion, FEATURE, 0.5)
    settings = make_settings(batch_size=2, embedding_steps=2)
    stage = embedding_stage(accelerator, denoiser, data, settings)
    for step in range(2):
        update(accelerator, stage, data, step, 0)
    first_weight = fusion.fc.weight.detach().clone()
    assert data.residuals[:2].any() and not data.residuals[2:].any()
    for step in range(2, 4):
        update(accelerator, stage, data, step, 0)
    assert data.residuals[2:].any()
    assert first_weight.any() and not torch.equal(fusion.fc.weight, first_weight)
    assert stage.optimizer.state[fusion.fc.weight]["step"] == 4  # its optimiser goes on
    assert stage.optimizer.state[stage.residual]["step"] == 2  # this one is new in every round


# Both stages against the paper's loop, written out


def test_the_paper_preset_is_a_plain_adam_loop_per_image(base, accelerator):
    settings = make_settings("paper", finetune_lr=1e-4, finetune_steps=5)  # a rate at which a slip is seen
    reference, sd = copy.deepcopy(base), copy.deepcopy(base)
    data = make_data(sd, 3)
    # Adam moves a weight by its whole rate even where the gradient is rounding alone; in fp64 that stays below epsilon
    for unet in (reference.unet, sd.unet):
        unet.double()
    data.moments = data.moments.double()
    frozen = FrozenFusion(16, 32, seed=0)(data.prompt_embeds, FEATURE).double()
    plain = data.prompt_embeds = data.prompt_embeds.double()
    data.prompt_embeds = fuse(plain, frozen, 0.7)

    embeds = []
    for i in range(3):
        embed = (0.7 * plain[i : i + 1] + 0.3 * frozen[i : i + 1]).requires_grad_()
        optimizer = torch.optim.Adam([embed], lr=1e-3)
        for visit in range(10):
            optimizer.zero_grad()
            plain_loss(reference, drawn(reference, data, "Stage II", i, visit), embed).backward()
            optimizer.step()
        embeds.append(embed.detach())
    for i in range(3):
        optimizer = torch.optim.Adam(reference.unet.parameters(), lr=1e-4)
        for visit in range(5):
            optimizer.zero_grad()
            plain_loss(reference, drawn(reference, data, "Stage III", i, visit), embeds[i]).backward()
            optimizer.step()

    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler)
    run(embedding_stage(accelerator, denoiser, data, settings), accelerator, data)
    torch.testing.assert_close(data.prompt_embeds + data.residuals, torch.cat(embeds), atol=1e-5, rtol=0)
    run(finetune_stage(accelerator, denoiser, data, settings), accelerator, data)
    moved = 0.0
    for name, expected in reference.unet.state_dict().items():
        torch.testing.assert_close(sd.unet.state_dict()[name], expected, atol=1e-5, rtol=0, msg=name)
        moved = max(moved, (expected - base.unet.state_dict()[name]).abs().max().item())
    assert moved > 1e-3


# Stage III


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_training_lowers_the_loss_of_a_fixed_batch(tmp_path, accelerator, prediction_type):
    sd = load_stable_diffusion(build_tiny_pipeline(tmp_path / "pipeline", prediction_type))
    data = make_data(sd, 8)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, TrainedFusion(32), FEATURE, 0.7)
    settings = make_settings(batch_size=8, finetune_lr=3e-3, finetune_steps=25, ema=False)
    stage = finetune_stage(accelerator, denoiser, data, settings)
    _, _, batch = draw_batch(data, stage, 0, 1, "cpu")  # of another seed than the training's
    with torch.no_grad():
        before = denoiser(**batch).mean()
    run(stage, accelerator, data)
    with torch.no_grad():
        after = denoiser(**batch).mean()
    assert after < 0.9 * before


def test_stage_iii_trains_the_whole_unet_and_the_fusion(sd, accelerator):
    data = make_data(sd, 4)
    fusion = TrainedFusion(32)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, fusion, FEATURE, 0.5)
    before = {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}
    stage = finetune_stage(accelerator, denoiser, data, make_settings(batch_size=2, finetune_steps=2))
    run(stage, accelerator, data)
    unmoved = [name for name, weight in denoiser.named_parameters() if torch.equal(weight, before[name])]
    assert unmoved == []
    assert [group["weight_decay"] for group in stage.optimizer.param_groups] == [1e-2, 0.0]


def test_gradients_are_clipped_to_the_given_norm(sd, accelerator):
    data = make_data(sd, 2)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler)
    norms = {}
    for limit in (0.0, 1e-3):
        stage = finetune_stage(accelerator, denoiser, data, make_settings(batch_size=2, max_grad_norm=limit))

        def measure(*_, limit=limit):
            gradients = torch.cat([parameter.grad.flatten() for parameter in denoiser.parameters()])
            norms[limit] = gradients.norm().item()

        stage.optimizer.optimizer.register_step_pre_hook(measure)
        update(accelerator, stage, data, 0, 0)
    assert norms[0.0] > 1e-2 and norms[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_the_average_follows_the_weights_and_replaces_them_at_the_end(sd, accelerator):
    data = make_data(sd, 2)
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler)
    weight = sd.unet.conv_in.weight
    settings = make_settings(batch_size=2, finetune_steps=3, ema_decay=0.15)
    stage = finetune_stage(accelerator, denoiser, data, settings)
    expected = weight.detach().clone()
    for step in range(len(stage.plan)):
        update(accelerator, stage, data, step, 0)
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert not torch.equal(expected, weight)
    stage.average.copy_to_parameters()
    torch.testing.assert_close(weight.detach(), expected, atol=1e-7, rtol=0)


def test_without_ema_there_is_no_copy_of_the_unet(sd, accelerator):
    stage = finetune_stage(accelerator, GestureDenoiser(sd.unet, sd.noise_scheduler), make_data(sd, 2),
                           make_settings(ema=False))
    assert stage.average is None


def test_an_average_of_constant_weights_is_the_weights():
    parameter = torch.nn.Parameter(torch.full((3,), 2.0))
    average = WeightAverage([parameter], 0.9)
    parameter.data.fill_(5.0)
    for step in range(200):
        average.update(step)
    assert torch.allclose(average.averages[0], parameter)
