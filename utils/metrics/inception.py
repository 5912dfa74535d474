"""InceptionV3 as a feature extractor for FID and KID: finds, checks and loads the published weights."""

import hashlib
import http.client
import math
import pickle
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from utils.metrics.inception_input import PREPARE
from utils.metrics.inception_network import InceptionV3
from utils.system.errors import UserError, first_line


class Published(NamedTuple):
    """A published file, and the name of the features that it gives."""

    name: str
    url: str

    @property
    def file_name(self):
        return self.url.rsplit("/", 1)[1]

    @property
    def hash_prefix(self):
        """The first digits of the file's SHA-256, which are part of its name."""
        return Path(self.url).stem.rsplit("-", 1)[1]


PUBLISHED = {
    "fid": Published("inception", "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                     "pt_inception-2015-12-05-6726825d.pth"),
    "imagenet": Published("inception-imagenet",
                          "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"),
}
EXPECTED = " or ".join(published.url for published in PUBLISHED.values()) + ", or one of them as .safetensors"


def load_inception(weights="fid", resize="clean", seed=0, variant="fid"):
    """InceptionV3 for evaluation with `name`, `settings` and `prepare`: an extractor for utils/metrics/features.py.

    `weights`: "fid" or "imagenet" (downloaded on first use to the torch hub cache), "random" (of `variant`, from
    `seed`), or the path of a .pth or .safetensors file of either network; its tensors tell which. `resize`: a key
    of inception_input.PREPARE. UserError for a file that is missing, damaged or of something else.
    """
    weights = str(weights)
    if weights == "random":
        network, settings = empty_network(variant), {"weights": weights, "variant": variant, "weights_seed": seed}
        network.load_state_dict(draw_tensors(network, seed), assign=True)
        network.name = "random Inception, not comparable"
    else:
        path = fetch_weights(PUBLISHED[weights]) if weights in PUBLISHED else Path(weights)
        digest = hash_file(path)
        if weights in PUBLISHED and not digest.startswith(PUBLISHED[weights].hash_prefix):
            raise UserError(f"{path}: damaged, its SHA-256 begins with {digest[:8]}; delete it and run again")
        network = read_weights(path)
        published = PUBLISHED[network.variant]
        known = digest.startswith(published.hash_prefix)
        network.name = published.name if known else f"{published.name} (unverified weights {digest[:8]})"
        settings = {"weights": network.variant, "weights_sha256": digest}
    network.settings, network.prepare = {**settings, "resize": resize}, PREPARE[resize]
    return network.float().requires_grad_(False).eval()


def empty_network(variant):
    """InceptionV3 on the meta device: made in no time and without random numbers, to be given its tensors."""
    with torch.device("meta"):
        return InceptionV3(variant)


def draw_tensors(network, seed):
    """Tensors for `network`: He et al. 2015's normal weights, batch normalisations that change nothing."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, like in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # of training: nothing here needs it
            continue
        if like.dim() > 1:
            tensors[name] = torch.randn(like.shape, generator=generator) * math.sqrt(2 / like[0].numel())
        else:
            tensors[name] = torch.full(like.shape, float(name.endswith(("bn.weight", "running_var"))))
    return tensors


def fetch_weights(published):
    """The file's path in the torch hub cache, downloaded if it is not there. UserError says what to do else."""
    path = Path(torch.hub.get_dir(), "checkpoints", published.file_name)
    if not path.is_file():
        print(f"downloading {published.url} to {path.parent}", file=sys.stderr)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published.url, str(path), published.hash_prefix)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise UserError(f"{published.url}: cannot be downloaded ({first_line(error)}); fetch the file elsewhere "
                            f"and put it into {path.parent}, or give --inception_weights PATH") from error
    return path


def hash_file(path):
    """SHA-256 in hexadecimal digits. UserError if `path` is no file."""
    if not Path(path).is_file():  # a pipe would hang
        raise UserError(f"{path}: no such file; give {EXPECTED}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_weights(path):
    """The one of the two networks that a file is for, with its tensors. UserError for files of something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a TorchScript file before it refuses it
            if path.suffix == ".safetensors":
                tensors = safetensors.torch.load_file(path)
            else:
                tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text tells people to load whatever the file holds
        raise UserError(f"{path}: cannot be read as weights (not tensors alone, or no torch file); "
                        f"give {EXPECTED}") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights ({first_line(error)}); give {EXPECTED}") from error
    try:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("AuxLogits.")}
        head = getattr(tensors.get("fc.bias"), "shape", None)
        network = empty_network("imagenet" if head == (1000,) else "fid")
        network.load_state_dict(tensors, strict=True, assign=True)
    except (AttributeError, RuntimeError, TypeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not the weights of InceptionV3 ({problem}); give {EXPECTED}") from error
    return network
