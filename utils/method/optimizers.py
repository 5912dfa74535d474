"""The optimisers of Stage III: AdamW, and two that keep less beside each weight than AdamW's eight bytes."""

import torch


def build_optimizer(name, groups, weight_decay, device):
    """An optimiser for parameter groups with lr: adamw, adafactor or adamw8bit.

    adafactor (Shazeer and Stern 2018, fixed rate, no first moment) keeps a row and a column of each matrix, of
    convolutions two thirds of a number per weight; adamw8bit (Dettmers et al. 2022) two bytes per weight. All three
    take steps of about lr in each weight, so that the same learning rates serve. adamw8bit needs the package
    bitsandbytes.
    """
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, weight_decay=weight_decay, scale_parameter=False, relative_step=False)
    if name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, weight_decay=weight_decay)
    # AdamW without weight decay is Adam
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=device.type in ("cpu", "cuda"))


INTEGER = ":int"  # ends the name of a plain number among the tensors


def optimizer_tensors(optimizer):
    """The state of an optimiser as {"<parameter number>/<key>/…": tensor}, without its learning rates."""
    tensors, addresses = {}, set()

    def flatten(prefix, values):
        for key, value in values.items():
            name = f"{prefix}/{key}"
            if isinstance(value, dict):
                flatten(name, value)
            elif isinstance(value, torch.Tensor):
                # adamw8bit has tables that all weights share, which a safetensors file does not take
                tensors[name] = value.clone() if value.data_ptr() in addresses else value
                addresses.add(value.data_ptr())
            else:
                tensors[name + INTEGER] = torch.tensor(value, dtype=torch.int64)

    for number, values in optimizer.state_dict()["state"].items():
        flatten(str(number), values)
    return tensors


def load_optimizer_tensors(optimizer, tensors):
    """Puts back what `optimizer_tensors` gave. A parameter without an entry is as before its first step."""
    state = {}
    for name, tensor in tensors.items():
        number, *keys = name.removesuffix(INTEGER).split("/")
        values = state.setdefault(int(number), {})
        for key in keys[:-1]:
            values = values.setdefault(key, {})
        values[keys[-1]] = int(tensor) if name.endswith(INTEGER) else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # Files hold contiguous tensors; a fused step takes the state in the memory layout of its parameter, or fails
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
