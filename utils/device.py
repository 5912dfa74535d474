"""The device that a script computes on, from the value of its --device flag."""

import torch

from utils.cli import UserError, first_line


def resolve_device(name):
    """torch.device of a --device value; "auto" is CUDA where there is one. UserError if it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not usable here ({first_line(error)}); try cpu") from error
    return device
