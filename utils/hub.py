"""Pretrained models: the local folder of a name, and what goes wrong while their parts load, in one line.

Imports no torch, so that a name that leads nowhere is refused in a second.
"""

import re
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError

from utils.cli import UserError, first_line, read_json

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
    if not (folder / "config.json").is_file():
        raise UserError(f"{name}: no config.json there; give {wanted}")
    config = read_json(folder / "config.json")
    if (found := config.get("model_type") if isinstance(config, dict) else None) != model_type:
        raise UserError(f"{name}: its config.json is of a {found} model; give {wanted}")
    for pattern in WEIGHTS:
        folder = fetch_folder(name, [*configs, pattern], wanted)
        if any(folder.glob(pattern)):
            return folder
    raise UserError(f"{name}: no weights there ({' or '.join(WEIGHTS)}); fetch the whole model again")


def load_part(name, part, load):
    """Call `load`, turning what a damaged or mismatched file raises into one line."""
    try:
        return load()
    except UnpicklingError as error:
        raise UserError(f"{name}: the {part} holds more than weights in its pickle, so it is not loaded; "
                        "fetch it again, as safetensors if there are any") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        raise UserError(f"{name}: the {part} does not load ({first_line(error)}); fetch it again") from error


def load_model(name, folder, part, model_class, dtype, **options):
    """One network in `dtype`, for inference, with every weight present; UserError names the part otherwise."""
    options = {"output_loading_info": True, "dtype": dtype, **options}
    model, info = load_part(name, part, lambda: model_class.from_pretrained(folder, **options))
    # A pooler is left out of some published files and enters no caption
    if missing := sorted(key for key in info["missing_keys"] if ".pooler." not in key):
        raise UserError(f"{name}: the {part} lacks {len(missing)} weights ({missing[0]} …); fetch it again")
    return model.eval()
