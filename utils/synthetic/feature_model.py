"""The feature network itself, its losses and its training: a residual network of some two million parameters."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from utils.synthetic.feature_examples import WEAR, draw_example, held_out_example, prepare, stack
from utils.synthetic.feature_hands import LABELS, PARTS, RESOLUTION
from utils.system.errors import UserError

NUM_JOINTS = 21
SCENE_LABELS = [name for name in LABELS if name != "malformation"]
SCENE_FEATURES, ANATOMY_FEATURES = 64, 32
WIDTHS = (64, 128, 192)  # of the stages at 32, 16 and 8 cells a side
BLOCKS = 2  # in each stage
GRID = 4  # cells a side that are kept when features are taken
JOINT_WEIGHT, WEAR_WEIGHT, MALFORMATION_WEIGHT, MAP_WEIGHT = 20.0, 2.0, 2.0, 4.0
VALIDATION_BATCH = 64


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016); it starts as the shortcut alone."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        nn.init.zeros_(self.body[-1].weight)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(channels, width, 1))

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.body(x))


class FeatureNetwork(nn.Module):
    """(N, 3, 128, 128) from `prepare` → (N, 96) features, each of variance 1 over the training pictures.

    `answer` reads what a picture shows off the features by one linear layer each: malformation off the last 32,
    which have nothing else to carry, and the rest off the first 64. So malformed hands move a third of the features.
    """

    name = "synthetic"
    num_features = SCENE_FEATURES + ANATOMY_FEATURES
    prepare = staticmethod(prepare)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        stages, channels = [], 32
        for width in WIDTHS:
            rest = [ResidualBlock(width, width, 1) for _ in range(BLOCKS - 1)]
            stages.append(nn.Sequential(ResidualBlock(channels, width, 2), *rest))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.squeeze = nn.Linear(channels * GRID**2, self.num_features, bias=False)
        self.standardise = nn.BatchNorm1d(self.num_features, affine=False)
        self.map_heads = nn.ModuleList(nn.Conv2d(width, len(PARTS), 1) for width in WIDTHS)
        self.sizes = [2 * NUM_JOINTS, len(WEAR), *(len(LABELS[name]) for name in SCENE_LABELS)]
        self.scene_head = nn.Linear(SCENE_FEATURES, sum(self.sizes))
        self.anatomy_head = nn.Linear(ANATOMY_FEATURES, len(LABELS["malformation"]))
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.settings = {"resolution": RESOLUTION, "resize": "to a square, antialiased bicubic"}

    def look(self, pixels):
        """(features (N, 96), outputs of the three stages)."""
        outputs = [self.stem(pixels)]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        grid = F.adaptive_avg_pool2d(outputs[-1], GRID)
        return self.standardise(self.squeeze(grid.flatten(1)).float()), outputs[1:]

    def forward(self, pixels):
        return self.look(pixels)[0]

    def map_parts(self, outputs):
        """Logits (N, parts, 32, 32) of the part of the hand that each cell shows, from the outputs of the stages."""
        logits = [head(output) for head, output in zip(self.map_heads, outputs, strict=True)]
        return sum(F.interpolate(each, logits[0].shape[2:], mode="bilinear") for each in logits)

    def answer(self, features):
        """(joints (N, 21, 2) relative to the picture, wear (N, 3), {label: logits (N, values)}) from features."""
        joints, strengths, *labels = self.scene_head(features[:, :SCENE_FEATURES]).split(self.sizes, dim=1)
        logits = dict(zip(SCENE_LABELS, labels, strict=True))
        logits["malformation"] = self.anatomy_head(features[:, SCENE_FEATURES:])
        return joints.unflatten(1, (NUM_JOINTS, 2)) + 0.5, strengths, logits


def feature_loss(network, features, parts_found, joints, labels, parts, strengths):
    """The sum of the losses of all answers, for examples as tensors (see `feature_examples.stack`)."""
    joints_found, strengths_found, logits = network.answer(features)
    loss = JOINT_WEIGHT * F.smooth_l1_loss(joints_found, joints, beta=0.05)
    loss = loss + WEAR_WEIGHT * F.mse_loss(strengths_found, strengths)
    loss = loss + MAP_WEIGHT * F.cross_entropy(parts_found, parts)
    for column, name in enumerate(LABELS):
        weight = MALFORMATION_WEIGHT if name == "malformation" else 1.0
        loss = loss + weight * F.cross_entropy(logits[name], labels[:, column])
    return loss


def to_tensors(arrays, device):
    pixels, *rest = (torch.from_numpy(array).to(device) for array in arrays)
    return pixels.to(memory_format=torch.channels_last), *rest


def train_network(arrays, steps, batch_size, learning_rate, seed, device, mixed_precision):
    """Train a new network on the hands of `feature_hands.render_all`; returns it and its losses, every 50 updates.

    AdamW with a warm-up and a cosine to zero. The examples of update s depend on the seed and s alone. UserError when
    the loss is not finite any more.
    """
    torch.manual_seed(seed)
    network = FeatureNetwork().to(device, memory_format=torch.channels_last).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.15)
    history, recent = [], []
    for step in (progress := tqdm(range(steps), desc="training", unit="update", mininterval=2)):
        rng = np.random.default_rng([seed, step])
        indices = rng.integers(len(arrays["images"]), size=batch_size)
        batch = to_tensors(stack([draw_example(arrays, index, rng) for index in indices]), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
            features, outputs = network.look(batch[0])
            parts = network.map_parts(outputs)
        loss = feature_loss(network, features, parts.float(), *batch[1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise UserError(f"update {step + 1}: the loss is {recent[-1]}; use a lower --learning_rate")
        if (step + 1) % 50 == 0 or step + 1 == steps:
            history.append({"step": step + 1, "loss": round(float(np.mean(recent)), 4)})
            progress.set_postfix(loss=f"{history[-1]['loss']:.3f}")
            recent = []
    return network.eval(), history


@torch.no_grad()
def validate(network, arrays, crop, device):
    """What the network gets right on held-out hands, whole pictures or crops: figures by name.

    joint_error_pixels is of pictures of 128 pixels, over the sound hands; map is the share of the cells of digits
    that are given to the right part of the right digit; malformed_seen and sound_seen are shares of those hands;
    the rest are shares of all hands.
    """
    errors, right, parts_right, malformed = [], [], [], []
    at = list(LABELS).index("malformation")
    for start in tqdm(range(0, len(arrays["images"]), VALIDATION_BATCH), desc="validating", unit="batch"):
        indices = range(start, min(start + VALIDATION_BATCH, len(arrays["images"])))
        batch = to_tensors(stack([held_out_example(arrays, index, crop) for index in indices]), device)
        pixels, joints, labels, parts, _ = batch
        features, outputs = network.look(pixels)
        joints_found, _, logits = network.answer(features)
        found = torch.stack([logits[name].argmax(1) for name in LABELS], dim=1)
        errors.append((joints_found - joints).norm(dim=2).mean(1) * RESOLUTION)
        right.append(found == labels)
        parts_right.append((network.map_parts(outputs).argmax(1) == parts)[parts > 0])
        malformed.append(torch.stack([labels[:, at] > 0, found[:, at] > 0], dim=1))
    is_wrong, called_wrong = torch.cat(malformed).cpu().T
    columns = {
        "joint_error_pixels": torch.cat(errors).cpu()[~is_wrong],
        **dict(zip(LABELS, torch.cat(right).T, strict=True)),
        "map": torch.cat(parts_right),
        "malformed_seen": called_wrong[is_wrong],
        "sound_seen": ~called_wrong[~is_wrong],
    }
    return {name: round(column.double().mean().item(), 4) for name, column in columns.items() if len(column)}
