"""Train the autoencoder of the tiny Stable Diffusion: first the whole of it, then its decoder alone for sharpness."""

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from tqdm import tqdm

CROP = 64  # pixels; fully convolutional, so it learns on crops and works on whole images
KL_WEIGHT = 5e-4
POOL = 8  # pixels; colours are learned from the means of such squares
ADVERSARIAL_WEIGHT = 0.02


def take_crops(images, batch_size, rng, crop=CROP):
    """Random square crops, half of them picked for their detail: (B, 3, crop, crop) float32 in [-1, 1].

    images: uint8 (N, H, W, 3), in memory or mapped; rng: numpy Generator.
    """
    crops = []
    while len(crops) < batch_size:
        image = images[rng.integers(len(images))]
        room = image.shape[0] - crop + 1
        candidates = []
        for _ in range(2):
            top, left = rng.integers(room, size=2)
            candidates.append(image[top : top + crop, left : left + crop])
        piece = max(candidates, key=lambda c: c.std(axis=(0, 1)).sum()) if len(crops) % 2 else candidates[0]
        crops.append(torch.from_numpy(piece[:, :: rng.choice((-1, 1))].copy()))
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


def detail_loss(output, target):
    """Mean absolute error of the pixels, of their means over squares, and of their differences along both axes."""
    loss = (output - target).abs().mean() + F.avg_pool2d(output - target, POOL).abs().mean()
    for dim in (2, 3):
        loss = loss + (output.diff(dim=dim) - target.diff(dim=dim)).abs().mean()
    return loss


@torch.no_grad()
def start_near_identity(vae):
    """Let an untrained autoencoder begin as a blurry copy of its input, with little noise in its latents.

    The convolutions of the trunk pass the first channels through and the residual branches start at zero. Without
    it the network learns brightness first and colours much later (docs/design.md has the figures).
    """
    trunk = [vae.encoder.conv_in, vae.encoder.conv_out, vae.quant_conv]
    trunk += [vae.post_quant_conv, vae.decoder.conv_in, vae.decoder.conv_out]
    for module in vae.modules():
        if isinstance(module, Downsample2D | Upsample2D):
            trunk.append(module.conv)
        elif isinstance(module, ResnetBlock2D):
            module.conv2.weight.zero_()
            module.conv2.bias.zero_()
            trunk += [module.conv_shortcut] if module.conv_shortcut is not None else []
        elif isinstance(module, Attention):
            module.to_out[0].weight.zero_()
            module.to_out[0].bias.zero_()
    for convolution in trunk:
        convolution.weight.mul_(0.3).add_(nn.init.dirac_(torch.empty_like(convolution.weight)))
    channels = vae.config.latent_channels
    vae.quant_conv.weight[channels:].zero_()
    vae.quant_conv.bias[channels:] = -5.0  # log variance


@torch.no_grad()
def standardise_latents(vae, latents):
    """Give every latent channel mean 0 and variance 1, by the two 1×1 convolutions around the latents.

    latents (N, C, h, w): what the autoencoder makes of its data now. What it decodes stays the same.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[:, None, None]


class PatchDiscriminator(nn.Sequential):
    """Judges overlapping patches of 22 pixels: (B, 3, H, W) -> (B, 1, H/4 - 2, W/4 - 2)."""

    def __init__(self, width=32):
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 1, 1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, 1, 1),
        )


def decay(step, steps, share=0.25):
    """Learning-rate factor: short warm-up, constant, linear to zero over the last `share` of the steps."""
    return min(1.0, (step + 1) / 100, (steps - step) / (share * steps))


def is_logged(step, steps):
    """Whether the losses of update number `step` (from 0) are logged: every fiftieth and the last."""
    return (step + 1) % 50 == 0 or step + 1 == steps


def train_vae(vae, images, steps, batch_size, learning_rate, rng, weight_dtype, log):
    """Train encoder and decoder on crops. `log(step, **losses)` is called every 50 steps."""
    start_near_identity(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    vae.train().to(memory_format=torch.channels_last)
    for step in (progress := tqdm(range(steps), desc="autoencoder", mininterval=5)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * decay(step, steps)
        pixels = take_crops(images, batch_size, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", weight_dtype, enabled=weight_dtype != torch.float32):
            posterior = vae.encode(pixels).latent_dist
            output = vae.decode(posterior.sample()).sample.float()
        reconstruction = detail_loss(output, pixels)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = reconstruction + KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if is_logged(step, steps):
            log(step + 1, reconstruction=reconstruction.item(), kl=kl.item())
            progress.set_postfix(loss=f"{loss.item():.4f}")


def train_decoder(vae, images, steps, batch_size, learning_rate, rng, weight_dtype, log):
    """Train the decoder on with the encoder frozen, against a patch discriminator (hinge loss)."""
    vae.requires_grad_(False)
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in decoder:
        parameter.requires_grad_(True)
    judge = PatchDiscriminator().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(decoder, lr=learning_rate, betas=(0.5, 0.99), weight_decay=0.0)
    judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=2 * learning_rate, betas=(0.5, 0.99), weight_decay=0.0)
    vae.to(memory_format=torch.channels_last)
    enabled = weight_dtype != torch.float32
    for step in (progress := tqdm(range(steps), desc="decoder", mininterval=5)):
        for group, rate in ((optimizer.param_groups[0], 1), (judge_optimizer.param_groups[0], 2)):
            group["lr"] = rate * learning_rate * decay(step, steps)
        pixels = take_crops(images, batch_size, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", weight_dtype, enabled=enabled):
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample()
            output = vae.decode(latents).sample.float()
            judge.requires_grad_(False)
            fooled = -judge(output).float().mean()
        reconstruction = detail_loss(output, pixels)
        loss = reconstruction + ADVERSARIAL_WEIGHT * min(1.0, step / 200) * fooled
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder, 1.0)
        optimizer.step()

        judge.requires_grad_(True)
        with torch.autocast("cpu", weight_dtype, enabled=enabled):
            real, fake = judge(pixels).float(), judge(output.detach()).float()
        judge_loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        judge_optimizer.zero_grad()
        judge_loss.backward()
        judge_optimizer.step()
        if is_logged(step, steps):
            log(step + 1, reconstruction=reconstruction.item(), judge=judge_loss.item())
            progress.set_postfix(loss=f"{loss.item():.4f}", judge=f"{judge_loss.item():.3f}")
