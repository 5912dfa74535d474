"""The device that a script computes on, from its --device flag: exact arithmetic on it, too little memory of it."""

import contextlib
import os

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from utils.system import processes
from utils.system.errors import UserError, first_line


def resolve_device(name):
    """torch.device of a --device value; "auto" is CUDA where there is one. UserError if it cannot be used.

    Of several processes on a machine each gets a GPU of its own for "cuda".
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.count() > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({first_line(error)}); try cpu") from error
    return device


def has_bf16(device):
    """Whether the device computes in bf16 itself; GPUs before Ampere emulate it, slowly."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def choose_precision(mixed_precision, device):
    """(no, fp16 or bf16; the matching torch dtype) for --mixed_precision on a torch device."""
    if mixed_precision == "auto":
        mixed_precision = "bf16" if device.type == "cuda" and has_bf16(device) else "no"
    if mixed_precision == "fp16" and device.type == "cpu":
        raise UserError("--mixed_precision fp16 needs a GPU; choose no or bf16")
    dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return mixed_precision, dtypes[mixed_precision]


def is_out_of_memory(error):
    """Whether an exception says that the memory of a GPU or of the machine is too small."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)  # torch on a CPU has no type for it


@contextlib.contextmanager
def explain_out_of_memory(message):
    """Context in which too little memory ends in a UserError with `message`, whatever torch or NumPy raises."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(message) from error


@contextlib.contextmanager
def fast_attention(device):
    """Attention inside takes the first kernel that can: cuDNN's, FlashAttention, memory-efficient, plain.

    Left to itself PyTorch tries cuDNN's last. Neither of the first two takes fp32, nor every width of a head: those
    of Stable Diffusion v1.4 are 40, 80 and 160. Elsewhere than on CUDA nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        yield


@contextlib.contextmanager
def full_precision(device):
    """Networks inside run in fp32 and the same way each time: no TF32, no autocast, no choice by timing."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = False
        with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(
                enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False,
                fp32_precision="ieee"):
            yield
    finally:
        matmul.allow_tf32 = before
