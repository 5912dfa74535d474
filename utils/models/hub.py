"""Pretrained models: the local folder of a name, and what goes wrong while their parts load, in one line.

Imports no torch, so that a name that leads nowhere is refused in a second. Only `fetch_folder` asks the hub: whatever
the files of a folder say, the libraries that read them reach for nothing else.
"""

import contextlib
import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from utils.system.errors import UserError, first_line
from utils.system.files import read_object

LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"
# Some models of the hub have pickled weights only; transformers reads these with `weights_only`: nothing runs.
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def fetch_folder(name, patterns, wanted, alternative=""):
    """The local folder of a model; the files of a hub id that match `patterns` are downloaded first.

    `wanted` says in a few words what the folder should hold, `alternative` what to do without the hub.
    UserError when there is no such folder, or the hub refuses or cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(f"{name}: no such folder; give {wanted} or a hub id")
    hub_logging.set_verbosity_error()  # it warns of patterns that no file matches
    constants.HF_HUB_DISABLE_TELEMETRY = True  # a request names the hub client and Python, nothing else of the machine
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError as error:
        raise UserError(f"{name}: not given without consent; accept its licence on "
                        f"https://huggingface.co/{name}, then {LOG_IN}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name}: neither a local folder nor a public model of the Hugging Face hub; "
                        f"give {wanted}, correct the id, or {LOG_IN} if it is private") from error
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise UserError(f"{name}: not a local folder, and the Hugging Face hub did not give it "
                        f"({first_line(error)}); give the path of {wanted} instead, as `hf download {name}` "
                        f"fetches it where there is a network{alternative}") from error


def fetch_transformers_folder(name, model_type):
    """The local folder of a transformers model with its processor, whose config.json says `model_type`.

    Configs first: another model is refused before gigabytes are downloaded.
    """
    wanted = f"the folder of a {model_type} model"
    configs = ["*.json", "*.txt", "*.model"]
    folder = fetch_folder(name, configs, wanted)
    config = read_model_config(name, folder, wanted)
    if (found := config.get("model_type")) != model_type:
        raise UserError(f"{name}: its config.json is of a {found} model; give {wanted}")
    for pattern in WEIGHTS:
        folder = fetch_folder(name, [*configs, pattern], wanted)
        if any(folder.glob(pattern)):
            return folder
    raise UserError(f"{name}: no weights there ({' or '.join(WEIGHTS)}); fetch the whole model again")


def read_config(path):
    """The JSON object of a part's config. UserError if its weights, or those of a part of it, are quantized."""
    config = read_object(path)
    if is_quantized(config):
        raise UserError(f"{path}: its weights are quantized (quantization_config), which is not supported; give the "
                        "model in full precision")
    return config


def is_quantized(config):
    return isinstance(config, dict) and (
        config.get("quantization_config") is not None or any(map(is_quantized, config.values())))


@contextlib.contextmanager
def offline():
    """Context in which the hub's client refuses every request: libraries would fetch what the files of a folder name,
    such as code for attention, the base of an adapter, other weights instead of pickled ones.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def load_part(name, part, load, verb="load"):
    """Call `load` without the hub, turning what a damaged or mismatched file raises into one line."""
    try:
        with offline():
            return load()
    except UserError:
        raise
    except Exception as error:  # on foreign data the libraries raise almost anything
        from utils.system.device import is_out_of_memory  # here, because it needs torch

        if is_out_of_memory(error):
            raise UserError(f"{name}: too little memory for the {part} ({first_line(error)}); "
                            "try another --device or a smaller model") from error
        raise UserError(f"{name}: the {part} does not {verb} ({first_line(error)}); fetch it again") from error


def read_model_config(name, folder, wanted):
    """The config.json of a transformers model, checked; UserError also for an adapter to another model."""
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{name}: it is an adapter to another model (adapter_config.json); give {wanted}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{name}: no config.json there; give {wanted}")
    return read_config(folder / "config.json")


def load_model(name, folder, part, model_class, dtype, **options):
    """One network in `dtype`, for inference, with every weight present; UserError names the part otherwise."""
    options = {"output_loading_info": True, "dtype": dtype, **options}
    model, info = load_part(name, part, lambda: model_class.from_pretrained(folder, **options))
    # A pooler is left out of some published files and enters no caption
    if missing := sorted(key for key in info["missing_keys"] if ".pooler." not in key):
        raise UserError(f"{name}: the {part} lacks {len(missing)} weights ({missing[0]} …); fetch it again")
    return model.eval()
