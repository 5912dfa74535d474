"""Low-rank additions to the attention layers of a U-Net (Hu et al. 2021): add, save, load, check."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from utils.models.hub import load_part
from utils.system.errors import UserError
from utils.system.files import naming_errors

LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")  # the projections of every attention layer
LORA_FILE = "pytorch_lora_weights.safetensors"


def add_lora(unet, rank, seed=0):
    """Freeze the U-Net and add to each of LORA_LAYERS a product of two matrices of `rank`, which starts at zero.

    Hu et al. 2021, with a scale of 1. UserError without the package peft.
    """
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(import_peft().LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_LAYERS)))


def import_peft():
    """The package peft; UserError if it is missing."""
    try:
        import peft
    except ImportError as error:
        raise UserError("LoRA needs the package peft: pip install peft") from error
    return peft


def save_lora(sd, folder):
    """Write what add_lora has added as LORA_FILE in `folder`, for StableDiffusionPipeline.load_lora_weights."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    layers = convert_state_dict_to_diffusers(import_peft().get_peft_model_state_dict(sd.unet))
    with naming_errors(Path(folder) / LORA_FILE):
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)


def load_lora(sd, folder):
    """Add LORA_FILE of `folder` to the weights of the U-Net.

    UserError if it is damaged, lacks additions or holds those of another U-Net.
    """
    from diffusers import StableDiffusionPipeline

    import_peft()
    path = Path(folder) / LORA_FILE

    def load():
        check_lora(sd.unet, load_file(path))
        state, alphas = StableDiffusionPipeline.lora_state_dict(folder, weight_name=LORA_FILE, local_files_only=True)
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, sd.unet)
        sd.unet.fuse_lora()
        sd.unet.unload_lora()

    load_part(str(path), "LoRA", load)


def check_lora(unet, tensors):
    """ValueError unless `tensors` are finite additions of one rank to just the layers that add_lora extends."""
    layers = {name: layer for name, layer in unet.named_modules() if name.endswith(LORA_LAYERS)}
    rank = max((tensor.shape[0] for name, tensor in tensors.items() if ".lora.down." in name), default=0)
    shapes = {}
    for name, layer in layers.items():
        shapes[f"unet.{name}.lora.down.weight"] = (rank, layer.in_features)
        shapes[f"unet.{name}.lora.up.weight"] = (layer.out_features, rank)
    if different := sorted(shapes.keys() ^ tensors.keys()):
        raise ValueError(f"{len(different)} tensors are missing or of other layers, {different[0]} among them")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape or not tensors[name].isfinite().all():
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, finite numbers of {shape} are needed")
