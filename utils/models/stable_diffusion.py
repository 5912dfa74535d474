"""The parts of a Stable Diffusion pipeline: load, encode, save.

Only sampling.py, lora.py and the synthetic models import diffusers beside it.
"""

from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from utils.models.hub import fetch_folder, load_model, load_part, read_config
from utils.models.sampling import SCHEDULER_FIXES, build_sampler
from utils.system import processes
from utils.system.errors import UserError, warn
from utils.system.files import atomic_path

# part -> (class named in model_index.json, config file, weights file)
PARTS = {
    "tokenizer": ("CLIPTokenizer", "tokenizer_config.json", None),
    "text_encoder": ("CLIPTextModel", "config.json", "model.safetensors"),
    "vae": ("AutoencoderKL", "config.json", "diffusion_pytorch_model.safetensors"),
    "unet": ("UNet2DConditionModel", "config.json", "diffusion_pytorch_model.safetensors"),
    "scheduler": (None, "scheduler_config.json", None),
}
WANTED = "a Stable Diffusion folder", ", or run `make demo`, which works offline"


@dataclass
class StableDiffusion:
    """The parts of one pipeline; `name` is the hub id or folder they came from."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    noise_scheduler: DDPMScheduler
    name: str

    @property
    def vae_scale_factor(self):
        """Image pixels per latent cell along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self):
        """Side length in pixels of the square images the U-Net was made for."""
        sample_size = self.unet.config.sample_size
        return (sample_size if isinstance(sample_size, int) else max(sample_size)) * self.vae_scale_factor

    @property
    def max_length(self):
        """Tokens per prompt, padding included (77 for every released model)."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)


def load_stable_diffusion(name_or_path):
    """Load Stable Diffusion 1.x or 2.x from a local folder or a hub id, as fp32 on the CPU, for inference.

    Weights are read from safetensors only, never from pickles. UserError when the hub cannot be reached, when
    a part is missing or damaged, or when the model is of another architecture.
    """
    name = str(name_or_path)
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    # Configs first: another architecture is refused before gigabytes are downloaded.
    configs = [f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt")]
    folder = fetch_folder(name, ["model_index.json", *configs], *WANTED)
    check_architecture(name, folder)
    weight_files = [f"{part}/{weights}" for part, (_, _, weights) in PARTS.items() if weights]
    folder = fetch_folder(name, ["model_index.json", *weight_files], *WANTED)
    for part, (_, _, weights) in PARTS.items():
        if weights and not (folder / part / weights).is_file():
            raise UserError(f"{name}: {part}/{weights} is missing (pickled weights are never loaded); "
                            "convert it with diffusers' save_pretrained, or fetch the whole pipeline")

    return StableDiffusion(
        tokenizer=load_part(name, "tokenizer", lambda: CLIPTokenizer.from_pretrained(folder / "tokenizer")),
        text_encoder=load_network(name, folder, "text_encoder", CLIPTextModel),
        vae=load_network(name, folder, "vae", AutoencoderKL),
        unet=load_network(name, folder, "unet", UNet2DConditionModel),
        noise_scheduler=load_part(name, "scheduler", lambda: load_noise_scheduler(folder / "scheduler")),
        name=name,
    )


def check_architecture(name, folder):
    """Raise UserError unless the folder's configs describe a text-to-image Stable Diffusion 1.x or 2.x."""
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{name}: no model_index.json there; give the folder of a whole pipeline")
    index = read_config(folder / "model_index.json")
    wanted = "a Stable Diffusion 1.x or 2.x is needed"
    for part in ("text_encoder_2", "transformer", "prior"):
        if class_in(index, part):
            raise UserError(f"{name}: it is a {index.get('_class_name')} with a {part}; {wanted}")
    for part, (class_name, config_file, _) in PARTS.items():
        found = class_in(index, part)
        if not found or not (folder / part / config_file).is_file():
            raise UserError(f"{name}: the {part} is missing ({part}/{config_file}); fetch the pipeline again")
        if class_name and found.removesuffix("Fast") != class_name:
            raise UserError(f"{name}: its {part} is a {found}, not a {class_name}; {wanted}")

    configs = {part: read_config(folder / part / config_file) for part, (_, config_file, _) in PARTS.items()}
    unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4) or unet.get("addition_embed_type"):
        raise UserError(f"{name}: its U-Net takes more than latents and a prompt; {wanted}")
    made, read = text.get("hidden_size", 512), unet.get("cross_attention_dim", 1280)  # the classes' defaults
    if made != read:
        raise UserError(f"{name}: the text encoder writes {made} values per token, the U-Net reads {read}; "
                        "fetch the model again")


def class_in(index, part):
    """The class that model_index.json names for a part, None if it names none."""
    entry = index.get(part)
    is_pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
    return entry[1] if is_pair else None


def load_network(name, folder, part, model_class):
    """One network in fp32, from safetensors only."""
    return load_model(name, folder / part, part, model_class, torch.float32, use_safetensors=True)


def load_noise_scheduler(folder):
    """The DDPM noise schedule of training, with the prediction type, from whichever scheduler was saved."""
    return DDPMScheduler.from_config(DDPMScheduler.load_config(folder), **SCHEDULER_FIXES)


def save_pipeline(sd, folder):
    """Write the parts so that StableDiffusionPipeline.from_pretrained(folder) opens them, with DDIM.

    `folder` appears whole or not at all; an earlier one is replaced with all that is in it.
    """
    # Imported here: it warns of a missing torchvision unless loading has silenced the libraries.
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=sd.vae, text_encoder=sd.text_encoder, tokenizer=sd.tokenizer, unet=sd.unet,
        scheduler=build_sampler(sd, "ddim"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    with atomic_path(folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)


def check_resolution(sd, resolution=None):
    """`resolution` in pixels, or the model's own if None. UserError unless its U-Net can halve the latents."""
    multiple = sd.vae_scale_factor * 2 ** (len(sd.unet.config.block_out_channels) - 1)
    if resolution is None:
        return sd.resolution
    if resolution % multiple:
        raise UserError(f"--resolution {resolution}: {sd.name} needs a multiple of {multiple}")
    return resolution


@torch.no_grad()
def encode_prompts(sd, prompts, device, batch_size=64):
    """Text embeddings (N, L, d), fp32 on the CPU, of N prompts padded or cut to L tokens.

    Each distinct prompt is encoded once; a warning counts those that were cut. The encoder stays on `device`.
    """
    distinct = list(dict.fromkeys(prompts))
    lengths = [len(ids) for ids in sd.tokenizer(distinct, verbose=False).input_ids]
    num_cut = sum(length > sd.max_length for length in lengths)
    if num_cut and processes.is_first():
        warn(f"{num_cut} prompts are cut to {sd.max_length} tokens")
    text_encoder = sd.text_encoder.to(device)
    embeds = []
    for start in range(0, len(distinct), batch_size):
        input_ids = sd.tokenizer(
            distinct[start : start + batch_size],
            padding="max_length",
            max_length=sd.max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        # Padding is attended to, as in the training of Stable Diffusion.
        embeds.append(text_encoder(input_ids.to(device)).last_hidden_state.float().cpu())
    position = {prompt: i for i, prompt in enumerate(distinct)}
    return torch.cat(embeds)[[position[prompt] for prompt in prompts]]


@torch.no_grad()
def image_latent_moments(sd, pixels):
    """Mean and log-variance (B, 2C, h, w) of the unscaled latents of pixels (B, 3, H, W) in [-1, 1]."""
    return sd.vae.encode(pixels.to(sd.vae.device, sd.vae.dtype)).latent_dist.parameters
