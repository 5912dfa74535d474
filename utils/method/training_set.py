"""What is computed from the training images once, before anything learns."""

import functools
import itertools
from dataclasses import dataclass

import torch
from tqdm import tqdm

from utils.data.images import read_aligned, resize_center_crop, safe_join, to_array
from utils.data.loader import load_images
from utils.models.stable_diffusion import StableDiffusion, image_latent_moments
from utils.system import processes
from utils.system.errors import UserError

ENCODED_AT_ONCE = 8  # images in memory as pixels


@dataclass
class TrainingSet:
    """Tensors of N images, fp32 on the CPU. prompt_embeds is e for a trained F, fused for a frozen one."""

    sd: StableDiffusion  # made the moments, and draws latents from them
    moments: torch.Tensor  # (N, 2C, h, w) of the unscaled latents
    prompt_embeds: torch.Tensor  # (N, L, d)
    negative_embeds: torch.Tensor  # (1, L, d) of the empty prompt
    residuals: torch.Tensor  # (N, L, d), delta: zero until Stage II is through with the image

    def pin(self):
        """Page-locks what batches take whole rows of: only from there do copies to a GPU run beside its work."""
        for name in ("prompt_embeds", "negative_embeds", "residuals"):
            setattr(self, name, getattr(self, name).pin_memory())


def read_training_list(args):
    """(paths, captions) of the training images. UserError when lists do not fit or images are missing."""
    folder = args.data_dir / args.gesture / "train"
    list_path = folder / f"{args.captioner}_filenames.txt"
    names, captions = read_aligned(list_path, folder / f"{args.captioner}_{args.captions}.txt")
    paths = [safe_join(folder / "images", name) for name in names[: args.max_train_samples]]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{list_path}: {len(missing)} of {len(paths)} images are not in {folder / 'images'}, "
            f"{missing[0].name} among them; put them there or drop their lines from both lists")
    return paths, captions[: args.max_train_samples]


def take_rows(tensor, rows, device):
    """`tensor`[`rows`] on `device`, copied row by row: to gather them on the CPU first would leave pinned memory."""
    taken = tensor.new_empty(len(rows), *tensor.shape[1:], device=device)
    for row, place in zip(taken, rows, strict=True):
        row.copy_(tensor[place], non_blocking=True)
    return taken


def encode_images(sd, paths, resolution, device, warn=print):
    """Latent moments (n, 2C, h, w), and the places in `paths` of the n images that could be read.

    Pixels are streamed, a few images at a time, and the VAE goes back to the CPU afterwards. Several processes
    share the images.
    """
    sd.vae.to(device)
    encoded = processes.share_out(paths, lambda part: list(encode_some(sd, part, resolution)))
    sd.vae.to("cpu")
    for error in (moments for moments in encoded if isinstance(moments, UserError)):
        warn(f"warning: {error}; left out")
    used = [i for i, moments in enumerate(encoded) if not isinstance(moments, UserError)]
    if not used:
        raise UserError(f"{paths[0].parent}: none of the {len(paths)} images can be read; see the warnings")
    return torch.stack([encoded[i] for i in used]), used


def encode_some(sd, paths, resolution):
    """Yields for each image its latent moments (2C, h, w) on the CPU, or the UserError that says why not."""
    loaded = load_images(paths, functools.partial(prepare_pixels, resolution=resolution))
    loaded = iter(tqdm(loaded, total=len(paths), desc="encode images", unit="image"))
    while batch := list(itertools.islice(loaded, ENCODED_AT_ONCE)):
        pixels = [torch.from_numpy(array) for _, array, problem in batch if problem is None]
        moments = iter(image_latent_moments(sd, torch.stack(pixels)).float().cpu() if pixels else ())
        yield from (next(moments) if problem is None else problem for _, _, problem in batch)


def prepare_pixels(image, resolution):
    """The middle square of a PIL image as an array (3, resolution, resolution) in [-1, 1]."""
    return to_array(resize_center_crop(image, resolution))
