"""Stage II and Stage III: one denoising loss and one update.

e' = lambda * e + (1 - lambda) * F(e, g) + delta. Stage II optimises delta, one residual per image, through
the frozen U-Net; Stage III freezes it and fine-tunes the U-Net. A trained F learns in both.
Every random number comes from a generator made of (seed, stage, image, visit), so that no draw depends on the
batch size, on the order of the images, on how often a run was interrupted or on the number of processes.
"""

import math

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from utils.method.fusion import fuse
from utils.method.optimizers import build_optimizer
from utils.method.training_plan import Schedule, embedding_plan, finetune_plan
from utils.method.training_set import take_rows
from utils.method.weight_average import WeightAverage
from utils.models.lora import add_lora
from utils.models.sampling import begin_compiled_step, image_generator, is_compiled, sample_latents
from utils.system import processes
from utils.system.device import fast_attention
from utils.system.errors import UserError


def check_prediction_type(noise_scheduler):
    """UserError unless the base model predicts noise or velocity, the two that `denoising_loss` knows."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(f"the base model predicts {prediction_type!r}; give one of epsilon or v_prediction")


def denoising_loss(unet, noise_scheduler, latents, noise, timesteps, encoder_hidden_states):
    """Mean squared error (B,) of each image's prediction, of noise or of velocity as the base model's is."""
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    check_prediction_type(noise_scheduler)
    is_velocity = noise_scheduler.config.prediction_type == "v_prediction"
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if is_velocity else noise
    model_pred = unet(noisy_latents, timesteps, encoder_hidden_states=encoder_hidden_states).sample
    return F.mse_loss(model_pred.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


class GestureDenoiser(torch.nn.Module):
    """The U-Net and the fusion as one model, whose output is the loss of each image."""

    def __init__(self, unet, noise_scheduler, fusion=None, feature=None, fusion_weight=1.0):
        """fusion: a TrainedFusion, with gesture feature (63,) and lambda; None when prompts come fused."""
        super().__init__()
        self.unet = unet
        self.noise_scheduler = noise_scheduler
        self.fusion = fusion
        self.feature = feature
        self.fusion_weight = fusion_weight

    def fuse_prompts(self, prompt_embeds):
        """e' without delta (B, L, d), in fp32: bf16 would swallow the steps of F."""
        if self.fusion is None:
            return prompt_embeds
        with torch.autocast(prompt_embeds.device.type, enabled=False):
            return fuse(prompt_embeds, self.fusion(prompt_embeds, self.feature), self.fusion_weight)

    def forward(self, latents, noise, timesteps, prompt_embeds, residuals, negative_embeds, without_prompt):
        """Losses (B,). Rows of without_prompt (B,) see negative_embeds (1, L, d), which are not fused."""
        hidden = self.fuse_prompts(prompt_embeds) + residuals
        hidden = torch.where(without_prompt[:, None, None], negative_embeds, hidden)
        return denoising_loss(self.unet, self.noise_scheduler, latents, noise, timesteps, hidden)

    def trainable_tensors(self):
        """{name: parameter} of what the stage trains: fusion.* in Stage II, unet.* and fusion.* in III."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


class Stage:
    """What an update needs of its stage: what is trained, on which images, how fast."""

    def __init__(self, name, accelerator, denoiser, plan, groups, optimizer="adamw", weight_decay=0.0):
        """groups: parameter groups with lr, as an optimiser takes them; F's, if any, comes second."""
        self.name = name
        self.denoiser = denoiser
        self.model = denoiser  # or what shares its gradients among processes
        self.plan = plan
        self.schedule = Schedule(len(plan))
        self.max_grad_norm = 0.0  # no clipping
        self.caption_dropout = 0.0
        self.residual_dropout = 0.0
        self.residual = None  # (batch_size, L, d), delta of the images of the round; only Stage II trains it
        self.average = None  # a WeightAverage
        self.losses = torch.zeros(len(plan), device=accelerator.device)  # of each update; to read is to wait

        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = accelerator.prepare_optimizer(
            build_optimizer(optimizer, groups, weight_decay, accelerator.device))
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        # A new optimiser in every round for these. F goes on learning from round to round.
        self.round_parameters = groups[0]["params"]

    @property
    def is_shared(self):
        return self.model is not self.denoiser

    def leave(self):
        """Ends the sharing among processes for good.

        What shares gradients goes first. Else it, not destroy_process_group, would end the group, and hold Python's
        lock while it waits for the group's threads, one of which may need that lock to give up what it sent last.
        """
        self.model = self.denoiser
        processes.leave()

    def is_checkpoint_due(self, done, checkpointing_steps):
        """Whether `done` updates are worth a checkpoint: with each batch of Stage II, now and then in Stage III."""
        if self.residual is not None:
            return self.plan.ends_round(done - 1)
        return done % checkpointing_steps == 0 or done == len(self.plan)

    def start_step(self, step):
        """Sets the learning rates; a round begins with a new optimiser and, in Stage II, delta = 0."""
        factor = self.schedule(step)
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * factor
        if self.plan.starts_round(step):
            for parameter in self.round_parameters:
                self.optimizer.state.pop(parameter, None)
            if self.residual is not None:
                self.residual.data.zero_()


def embedding_stage(accelerator, denoiser, data, settings):
    """Stage II: delta of each image, batch after batch, through the frozen U-Net; and F."""
    denoiser.unet.requires_grad_(False)
    plan = embedding_plan(len(data.residuals), settings)
    shape = (plan.batch_size, *data.residuals.shape[1:])
    residual = torch.nn.Parameter(torch.zeros(shape, device=accelerator.device))
    groups = [{"params": [residual], "lr": settings.embedding_lr}, *fusion_groups(denoiser, settings)]
    stage = Stage("Stage II", accelerator, denoiser, plan, groups)
    stage.residual = residual
    return stage


def finetune_stage(accelerator, denoiser, data, settings):
    """Stage III: the whole U-Net or low-rank additions to it, and F, with the embeddings of Stage II frozen."""
    if settings.lora_rank:
        add_lora(denoiser.unet, settings.lora_rank, settings.seed)
    else:
        denoiser.unet.requires_grad_(True)
    plan = finetune_plan(len(data.residuals), settings)
    unet_parameters = [parameter for parameter in denoiser.unet.parameters() if parameter.requires_grad]
    unet_group = {"params": unet_parameters, "lr": settings.finetune_lr}
    stage = Stage("Stage III", accelerator, denoiser, plan, [unet_group, *fusion_groups(denoiser, settings)],
                  settings.optimizer, settings.weight_decay)
    stage.schedule = Schedule(len(plan), settings.lr_schedule, settings.lr_warmup_steps)
    stage.max_grad_norm = settings.max_grad_norm
    stage.caption_dropout, stage.residual_dropout = settings.caption_dropout, settings.residual_dropout
    if processes.count() > 1:
        stage.model = DistributedDataParallel(denoiser, gradient_as_bucket_view=True)
    if settings.ema:
        stage.average = WeightAverage(stage.parameters, settings.ema_decay)
    return stage


def fusion_groups(denoiser, settings):
    """The optimiser's group of a trained F. Weight decay would pull it towards F(e, g) = e."""
    if denoiser.fusion is None:
        return []
    return [{"params": list(denoiser.fusion.parameters()), "lr": settings.fusion_lr, "weight_decay": 0.0}]


def draw_batch(data, stage, step, seed, device):
    """(images of an update, weights (n,) of the share of this process, GestureDenoiser.forward's arguments for it).

    Without other processes the share is all of them, each of weight 1. For a compiled model all batches are as long as
    a full one.
    """
    batch_images, batch_visits = stage.plan.samples(step)
    length = stage.plan.batch_size if is_compiled(stage.denoiser.unet) else len(batch_images)
    places, weights = processes.own_part(len(batch_images), math.ceil(length / processes.count()))
    images, visits = [batch_images[place] for place in places], [batch_visits[place] for place in places]
    generators = [image_generator(seed, image, purpose=f"{stage.name}, visit {visit}")
                  for image, visit in zip(images, visits, strict=True)]
    num_timesteps = data.sd.noise_scheduler.config.num_train_timesteps
    latents = sample_latents(data.sd, data.moments[images], generators)
    noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators])
    timesteps = torch.cat([torch.randint(num_timesteps, (1,), generator=g) for g in generators])
    chances = torch.stack([torch.rand(2, generator=g) for g in generators])  # (B, 2), uniform
    drawn = {
        "latents": latents, "noise": noise, "timesteps": timesteps, "weights": torch.tensor(weights),
        "without_prompt": chances[:, 0] < stage.caption_dropout,
        "with_residual": chances[:, 1] >= stage.residual_dropout, "places": torch.tensor(places),
    }
    if torch.device(device).type == "cuda":  # only from pinned memory does the copy run beside the GPU's work
        drawn = {name: tensor.pin_memory() for name, tensor in drawn.items()}
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in drawn.items()}
    batch["prompt_embeds"] = take_rows(data.prompt_embeds, images, device)
    batch["negative_embeds"] = data.negative_embeds.to(device, non_blocking=True)
    places, with_residual = batch.pop("places"), batch.pop("with_residual")
    if stage.residual is None:
        batch["residuals"] = take_rows(data.residuals, images, device) * with_residual[:, None, None]
    else:
        batch["residuals"] = stage.residual[places]
    return batch_images, batch.pop("weights"), batch


def update(accelerator, stage, data, step, seed):
    """One update of a stage: draw a batch, its denoising loss, one step of the optimiser and of the average.

    Stage II sums the losses of its images, so that each delta moves as if it were alone: beside Adam's
    epsilon the gradients of a mean would be too small. Stage III takes the mean. When a round of Stage II has
    ended, its residuals are in data.residuals.

    Several processes share each batch and sum their gradients: of the U-Net while they are computed
    (DistributedDataParallel), of Stage II, which are small, afterwards. So all of them hold the same weights,
    residuals and optimiser, and what one of them writes any number of processes can go on from.
    """
    stage.start_step(step)
    images, weights, batch = draw_batch(data, stage, step, seed, accelerator.device)
    begin_compiled_step(stage.denoiser.unet)
    with fast_attention(accelerator.device):  # the backward pass too: checkpointing computes attention again there
        with accelerator.autocast():
            losses = stage.model(**batch) * weights
        loss = losses.sum() if stage.residual is not None else losses.sum() / len(images)
        # DistributedDataParallel takes the mean over processes
        accelerator.backward(loss * processes.count() if stage.is_shared else loss)
    if stage.residual is not None:
        for parameter in stage.parameters:
            processes.total(parameter.grad)
    if stage.max_grad_norm:
        accelerator.clip_grad_norm_(stage.parameters, stage.max_grad_norm)
    stage.optimizer.step()
    stage.optimizer.zero_grad()
    if stage.average is not None:
        stage.average.update(step)
    stage.losses[step] = processes.total(losses.detach().sum()) / len(images)
    if stage.residual is not None and stage.plan.ends_round(step):
        data.residuals[images] = stage.residual.detach()[: len(images)].cpu()
