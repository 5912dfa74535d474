"""Double fusion: text embedding e and gesture feature g become e' = weight * e + (1 - weight) * F(e, g).

F is `FrozenFusion`, the paper's random layer, or `TrainedFusion`, which starts as F(e, g) = e and learns.
A model folder keeps it in fusion.safetensors and fusion.json (`save_fusion`, `load_fusion`).
"""

import math
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from tqdm import tqdm

from utils.system.digests import sha256
from utils.system.errors import UserError, first_line, warn
from utils.system.files import atomic_path, read_object, write_json

FEATURE_DIM = 63  # 21 landmarks x (x, y, z)


def fuse(prompt_embeds, fused, weight):
    """weight * prompt_embeds + (1 - weight) * fused: 1 returns prompt_embeds, 0 returns fused, exactly.

    Both of one shape (..., L, d) and dtype. Where they are equal, every weight returns them unchanged.
    """
    return torch.lerp(fused, prompt_embeds, weight)


# Random numbers

MASK = 2**32 - 1
WEIGHT_STREAM, BIAS_STREAM = 0, 1


def philox(counter, key):
    """Philox4x32-10, a random number generator without state: counter and key give four 32-bit words.

    `counter`: four int64 tensors of 32-bit values that broadcast; `key`: two integers. The words are the
    low 32 bits of the four int64 tensors returned. All of it is integer arithmetic modulo 2^64.
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = (right >> 32) ^ c1, (left >> 32) ^ c3  # the high words are mixed,
        c1, c3 = right, left  # the low words go on as they are
        c0 ^= k0
        c2 ^= k1
        c0 &= MASK
        c2 &= MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def random_int16(rows, columns, stream, seed):
    """Uniform 16-bit integers, eight for each row and column number: (R,), (C,) int64 -> (R, 8 * C) int16.

    Each depends on its row, its column, the stream and the seed alone (on little-endian machines).
    """
    zero = torch.zeros(1, 1, dtype=torch.int64, device=rows.device)
    words = philox((columns[None, :], rows[:, None], zero + stream, zero), (seed & MASK, seed >> 32))
    words = torch.stack([word.to(torch.int32) for word in words], dim=-1)  # (R, C, 4)
    return words.view(torch.int16).flatten(1)


# The two kinds of F


class FrozenFusion:
    """The paper's F: one fully connected layer on the flattened [e; g], random and never trained.

    At SD v1.4 size (59,199 -> 59,136) it has 3.5 billion weights. They are a function of `seed`, so rows
    are made in blocks, applied to all prompts and dropped. As torch.nn.Linear starts, weight and bias are
    uniform in [-b, b), b = 1 / sqrt(in_features): here k * b / 2^15, k a random 16-bit integer. The inputs
    are rounded to integers as well, with as many bits (22 at SD v1.4 size) as let any sum of products fit
    into the 53 bits of a double. All sums are therefore exact, and the result is the same to the last bit
    on every device, for any block size and number of prompts. What the rounding costs is like fp32's own.
    """

    def __init__(self, sequence_length, embed_dim, feature_dim=FEATURE_DIM, seed=0):
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2^64 - 1, not {seed}")
        self.sequence_length, self.embed_dim, self.feature_dim = sequence_length, embed_dim, feature_dim
        self.seed = seed
        self.out_features = sequence_length * embed_dim
        self.in_features = self.out_features + feature_dim
        self.grid = 1 / math.sqrt(self.in_features) / 2**15  # what k = 1 stands for

    def settings(self):
        """What makes this F again, for fusion.json."""
        return {"fusion": "frozen", "sequence_length": self.sequence_length, "embed_dim": self.embed_dim,
                "feature_dim": self.feature_dim, "seed": self.seed}

    def fill_weight(self, block, start):
        """Fills `block` (rows, in_features) fp64 with the weight from row `start` on, in units of `grid`."""
        columns = torch.arange(math.ceil(self.in_features / 8), device=block.device)
        # A GPU wants large pieces, a CPU core pieces that stay in its cache.
        num_rows = max(1, 2 ** (14 if block.device.type == "cpu" else 21) // len(columns))
        for piece in block.split(num_rows):
            rows = torch.arange(start, start + len(piece), device=block.device)
            piece.copy_(random_int16(rows, columns, WEIGHT_STREAM, self.seed)[:, :self.in_features])
            start += len(piece)

    def make_bias(self, start, stop, device="cpu"):
        """The bias from `start` to `stop` - 1, in units of `grid`: (stop - start,) fp64."""
        rows = torch.arange(start, stop, device=device)
        return random_int16(rows, torch.zeros_like(rows[:1]), BIAS_STREAM, self.seed)[:, 0].double()

    @torch.no_grad()
    def project(self, prompt_embeds, feature, start, stop, block_bytes=2**28):
        """Outputs `start` to `stop` - 1 of the flattened layer: (N, stop - start) fp32; see `__call__`."""
        device = prompt_embeds.device
        if device.type not in ("cpu", "cuda"):  # others may have no fp64
            device = torch.device("cpu")
        feature = feature.to(device, torch.float32).expand(len(prompt_embeds), -1)
        inputs = torch.cat([prompt_embeds.to(device, torch.float32).flatten(1), feature], dim=1)

        # Inputs to integers of at most `bits` bits, in units of a power of two that only this prompt decides.
        bits = min(24, 53 - 15 - (self.in_features - 1).bit_length())
        largest = inputs.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
        unit = largest / torch.frexp(largest).mantissa / 2**bits  # (N, 1), exact
        inputs = inputs.div_(unit).round_().T.contiguous()  # (in_features, N)

        outputs = torch.empty(len(prompt_embeds), stop - start, device=device)
        num_rows = min(max(1, block_bytes // (8 * self.in_features)), stop - start)
        num_columns = max(1, num_rows // 4)  # prompts at a time
        block = torch.empty(num_rows, self.in_features, dtype=torch.float64, device=device)
        for row in tqdm(range(start, stop, num_rows), desc="frozen fusion", unit="block", delay=1):
            weight = block[:stop - row]
            self.fill_weight(weight, row)
            bias = self.make_bias(row, row + len(weight), device) * self.grid
            for prompt in range(0, len(prompt_embeds), num_columns):
                prompts = slice(prompt, prompt + num_columns)
                sums = (weight @ inputs[:, prompts].double()).T  # (n, rows), exact
                results = sums * (unit[prompts].double() * self.grid) + bias
                outputs[prompts, row - start:row - start + len(weight)] = results.float()
        return outputs.to(prompt_embeds.device)

    def __call__(self, prompt_embeds, feature, block_bytes=2**28):
        """F(e, g) for all prompts of a run, best in one call: the weights are made anew in each.

        prompt_embeds (N, L, d), feature (63,) or (N, 63) -> (N, L, d) fp32, on the device of prompt_embeds.
        Extra memory: 1.3 * block_bytes, and two to three times prompt_embeds in fp32.
        """
        outputs = self.project(prompt_embeds, feature, 0, self.out_features, block_bytes)
        return outputs.view(-1, self.sequence_length, self.embed_dim)


class TrainedFusion(nn.Module):
    """F(e, g) = e + W [e / sqrt(d); g / |g|] + b for each token, with W and b zero at the start.

    One fully connected layer (d + 63 -> d) shared by all positions, as a residual, so that it starts as
    exactly e. Caption, feature and bias move the output at like speed whatever the widths, and the unit of
    the feature (image widths, palm lengths) does not matter. A feature of zeros stays zeros.
    """

    def __init__(self, embed_dim, feature_dim=FEATURE_DIM):
        super().__init__()
        self.embed_dim, self.feature_dim = embed_dim, feature_dim
        self.fc = nn.Linear(embed_dim + feature_dim, embed_dim)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def settings(self):
        """What makes a layer of this size again, for fusion.json."""
        return {"fusion": "trained", "embed_dim": self.embed_dim, "feature_dim": self.feature_dim}

    def forward(self, prompt_embeds, feature):
        """prompt_embeds (B, L, d), feature (63,) or (B, 63) -> (B, L, d) in the precision of the weights."""
        prompt_embeds, feature = prompt_embeds.to(self.fc.weight), feature.to(self.fc.weight)
        # CLIP's last layer norm gives |e| = sqrt(d) or so: like the feature, the caption comes to length 1.
        norm = torch.linalg.vector_norm(feature, dim=-1, keepdim=True).clamp(min=1e-6)
        feature = (feature / norm)[..., None, :].expand(*prompt_embeds.shape[:2], -1)  # (B, L, 63)
        inputs = torch.cat([prompt_embeds / math.sqrt(self.embed_dim), feature], dim=-1)
        return prompt_embeds + self.fc(inputs)


# Files


def save_fusion(folder, fusion, feature, config):
    """Writes fusion.safetensors (the feature, trained weights) and fusion.json: config and fusion.settings().

    `config` must say sequence_length; the rest of it is for people and for checks by the scripts, among it what
    the fusion belongs to: weights_sha256, base_model_sha256, gesture and feature, its kind.
    """
    tensors = {"feature": feature}
    if isinstance(fusion, TrainedFusion):
        tensors.update(fusion.state_dict())
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(tensors)
    with atomic_path(Path(folder) / "fusion.safetensors") as temporary:
        temporary.write_bytes(data)  # a full disk is an OSError here
    write_json(Path(folder) / "fusion.json", {**config, **fusion.settings(), "fusion_sha256": sha256([data])})


def load_fusion(folder):
    """What `save_fusion` wrote: (fusion on the CPU, feature (63,) fp32, config).

    UserError, naming the file and what to do, if one is missing or damaged or they do not fit together.
    """
    weights_path, config_path = Path(folder) / "fusion.safetensors", Path(folder) / "fusion.json"
    for path in (config_path, weights_path):
        if not path.is_file():
            raise UserError(f"{path} is missing: give a model folder that train.py has finished")
    config, data = read_object(config_path), weights_path.read_bytes()
    check_digest(config, "fusion_sha256", sha256([data]), weights_path)
    try:
        tensors = safetensors.torch.load(data)
        feature = tensors.pop("feature")
        if config["fusion"] == "frozen":
            fusion = FrozenFusion(*(config[name] for name in ("sequence_length", "embed_dim", "feature_dim", "seed")))
        else:
            fusion = TrainedFusion(tensors["fc.bias"].shape[0], config["feature_dim"])
            fusion.load_state_dict(tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: fusion.json and fusion.safetensors are damaged or of two trainings "
                        f"({first_line(error)}); copy both again or train again") from error
    if config["embed_dim"] != fusion.embed_dim or feature.shape != (fusion.feature_dim,):
        raise UserError(f"{folder}: fusion.safetensors has other sizes than fusion.json says; use two of one training")
    if not all(tensor.isfinite().all() for tensor in (feature, *tensors.values())):
        raise UserError(f"{weights_path} holds numbers that are not finite; train again")
    return fusion, feature, config


def check_sizes(config, sequence_length, embed_dim):
    """UserError unless a loaded fusion fits the base model's text embeddings (sequence_length, embed_dim)."""
    length, width = config["sequence_length"], config["embed_dim"]
    if (length, width) != (sequence_length, embed_dim):
        raise UserError(f"the fusion was made for text embeddings of {length} x {width}, the base model "
                        f"makes {sequence_length} x {embed_dim}; use the base model it was trained with")


def check_digest(config, name, digest, whose):
    """UserError unless weights have the digest that fusion.json calls `name`; a warning if an old one has none."""
    if name not in config:
        warn(f"fusion.json has no {name}, so nothing shows whether it belongs to {whose}")
    elif config[name] != digest:
        raise UserError(f"fusion.json does not belong to {whose} ({name}: {config[name]} there, {digest} now); "
                        "use the model folder as train.py left it, with the base model of then")
