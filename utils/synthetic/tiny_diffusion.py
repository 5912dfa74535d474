"""Train the text encoder and the U-Net of the tiny Stable Diffusion together, on cached latents."""

import copy

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from tqdm import tqdm

from utils.synthetic.tiny_vae import decay, is_logged

CAPTION_DROPOUT = 0.1
PHRASE_SHARE = 0.5
MIN_SNR = 5.0  # Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023
EMA_DECAY = 0.999


@torch.no_grad()
def encode_dataset(vae, images, weight_dtype, batch_size=32):
    """Latents of all images and of their mirror images: (2, N, 4, h, w) float32. images: uint8 (N, H, W, 3)."""
    latents = []
    for mirrored in (False, True):
        for start in tqdm(range(0, len(images), batch_size), desc="encoding", mininterval=5):
            pixels = torch.from_numpy(images[start : start + batch_size].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
            pixels = pixels.flip(3) if mirrored else pixels
            with torch.autocast("cpu", weight_dtype, enabled=weight_dtype != torch.float32):
                latents.append(vae.encode(pixels.to(memory_format=torch.channels_last)).latent_dist.mean.float())
    return torch.cat(latents).unflatten(0, (2, len(images)))


def mirror_caption(caption):
    """The caption of the mirrored image: left and right change places."""
    swap = {"left": "right", "right": "left"}
    return " ".join(swap.get(word, word) for word in caption.split(" "))


def draw_caption(caption, phrases, rng):
    """The caption with dropout, or with the phrase of some gesture that has nothing to do with the picture.

    So the model knows the words of every gesture, and not what they mean.
    """
    if rng.random() < CAPTION_DROPOUT:
        return ""
    return f"{caption} {phrases[rng.integers(len(phrases))]}" if rng.random() < PHRASE_SHARE else caption


def train_diffusion(
    model,
    tokenizer,
    scheduler,
    latents,
    captions,
    phrases,
    steps,
    batch_size,
    learning_rate,
    rng,
    weight_dtype,
    log,
):
    """Train `model`, a ModuleDict of text_encoder and unet, on latents (2, N, 4, h, w).

    `captions[k][i]` belongs to `latents[k, i]`. `log(step, loss=…)` is called every 50 steps.
    Returns the exponential moving average of the model.
    """
    model.train()
    model.unet.set_attn_processor(AttnProcessor())  # in bf16 on a CPU its backward pass is faster than SDPA's
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    alphas_cumprod = scheduler.alphas_cumprod
    signal_to_noise = alphas_cumprod / (1 - alphas_cumprod)
    weights = signal_to_noise.clamp(max=MIN_SNR) / signal_to_noise  # of the error in the noise
    recent = []
    for step in (progress := tqdm(range(steps), desc="diffusion", mininterval=5)):
        optimizer.param_groups[0]["lr"] = learning_rate * decay(step, steps)
        sides = torch.from_numpy(rng.integers(2, size=batch_size))
        rows = torch.from_numpy(rng.integers(latents.shape[1], size=batch_size))
        batch = latents[sides, rows]
        texts = [draw_caption(captions[k][i], phrases, rng) for k, i in zip(sides, rows, strict=True)]
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise = torch.randn_like(batch)
        timesteps = torch.randint(len(alphas_cumprod), (batch_size,))
        noisy = scheduler.add_noise(batch, noise, timesteps)
        with torch.autocast("cpu", weight_dtype, enabled=weight_dtype != torch.float32):
            prediction = model.unet(noisy, timesteps, model.text_encoder(tokens)[0]).sample.float()
        loss = ((prediction - noise) ** 2).mean((1, 2, 3))
        loss = (weights[timesteps] * loss).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for average, value in zip(ema.parameters(), model.parameters(), strict=True):
            average.lerp_(value.detach(), 1 - min(EMA_DECAY, (1 + step) / (10 + step)))
        recent.append(loss.item())
        if is_logged(step, steps):
            mean = sum(recent) / len(recent)
            recent.clear()
            log(step + 1, loss=mean)
            progress.set_postfix(loss=f"{mean:.4f}")
    return ema
