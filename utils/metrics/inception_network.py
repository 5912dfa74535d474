"""InceptionV3 in plain torch: the network of the FID weights, or of torchvision's ImageNet weights.

The two have the same names in their state dicts and differ in three things:

- `fid`: converted from the TensorFlow graph of Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule
  Converge to a Local Nash Equilibrium". Average pools leave the padding out, the pool of the last block takes the
  maximum. Pixels are scaled to (x − 128) / 128 as in that graph, in clean-fid and in torch-fidelity; pytorch-fid's
  2x/255 − 1 makes white 1 instead of 0.992.
- `imagenet`: average pools count the padding, the one of the last block too. Pixels are scaled to 2x/255 − 1: what
  torchvision's `transform_input` makes of an image normalised with ImageNet's mean and standard deviation.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from utils.metrics.inception_input import SIDE
from utils.system.device import full_precision

NUM_CLASSES = {"fid": 1008, "imagenet": 1000}
MAX = functools.partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
MAX_HALVING = functools.partial(F.max_pool2d, kernel_size=3, stride=2)
AVERAGE = {variant: functools.partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=counted)
           for variant, counted in [("fid", False), ("imagenet", True)]}


def branches_35(pool, pool_channels):
    """Branches of a block on 35×35 pixels.

    In these tables a branch is a list of steps, and a step a pool, a convolution (name, channels, kernel,
    stride if it is 2) or a list of convolutions side by side.
    """
    return [[("branch1x1", 64, 1)],
            [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
            [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
            [pool, ("branch_pool", pool_channels, 1)]]


def branches_17(pool, channels):
    """Branches of a block on 17×17 pixels, `channels` wide inside."""
    return [[("branch1x1", 192, 1)],
            [("branch7x7_1", channels, 1), ("branch7x7_2", channels, (1, 7)), ("branch7x7_3", 192, (7, 1))],
            [("branch7x7dbl_1", channels, 1), ("branch7x7dbl_2", channels, (7, 1)),
             ("branch7x7dbl_3", channels, (1, 7)), ("branch7x7dbl_4", channels, (7, 1)),
             ("branch7x7dbl_5", 192, (1, 7))],
            [pool, ("branch_pool", 192, 1)]]


def branches_8(pool):
    """Branches of a block on 8×8 pixels."""
    return [[("branch1x1", 320, 1)],
            [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))]],
            [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3),
             [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))]],
            [pool, ("branch_pool", 192, 1)]]


HALVE_35 = [[("branch3x3", 384, 3, 2)],
            [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)],
            [MAX_HALVING]]
HALVE_17 = [[("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
            [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
             ("branch7x7x3_4", 192, 3, 2)],
            [MAX_HALVING]]


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU. Without stride it keeps the size, unless `padded` is False."""

    def __init__(self, in_channels, channels, kernel, stride=1, padded=True):
        super().__init__()
        self.channels = channels
        kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = [side // 2 if padded and stride == 1 else 0 for side in kernel]
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """An Inception block: the channels of its branches, one branch after the other."""

    def __init__(self, in_channels, branches):
        super().__init__()
        self.branches, self.channels = branches, 0
        for branch in branches:
            channels = in_channels
            for step in branch:
                if not callable(step):
                    convolutions = step if isinstance(step, list) else [step]
                    for name, *settings in convolutions:
                        self.add_module(name, Convolution(channels, *settings))
                    channels = sum(settings[0] for _, *settings in convolutions)
            self.channels += channels

    def take(self, step, x):
        if callable(step):
            return step(x)
        if isinstance(step, list):
            return torch.cat([self.take(part, x) for part in step], dim=1)
        return getattr(self, step[0])(x)

    def forward(self, x):
        return torch.cat([functools.reduce(lambda y, step: self.take(step, y), branch, x)
                          for branch in self.branches], dim=1)


class InceptionV3(nn.Module):
    """(N, 3, 299, 299) pixels in 0..255 to (N, 2048) features, in fp32.

    The features are taken before its last layer, which is only there because the files have it. Source of the
    blocks: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision".
    """

    num_features = 2048

    def __init__(self, variant="fid"):
        super().__init__()
        self.variant = variant
        average = AVERAGE[variant]
        # 299 pixels to 35
        stem = [("Conv2d_1a_3x3", 32, 3, 2), ("Conv2d_2a_3x3", 32, 3, 1, False), ("Conv2d_2b_3x3", 64, 3),
                MAX_HALVING, ("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3, 1, False), MAX_HALVING]
        # 35 pixels to 17 to 8
        blocks = {"Mixed_5b": branches_35(average, 32), "Mixed_5c": branches_35(average, 64),
                  "Mixed_5d": branches_35(average, 64), "Mixed_6a": HALVE_35,
                  "Mixed_6b": branches_17(average, 128), "Mixed_6c": branches_17(average, 160),
                  "Mixed_6d": branches_17(average, 160), "Mixed_6e": branches_17(average, 192),
                  "Mixed_7a": HALVE_17, "Mixed_7b": branches_8(average),
                  "Mixed_7c": branches_8(MAX if variant == "fid" else average)}
        channels = 3
        for step in stem:
            if not callable(step):
                self.add_module(step[0], Convolution(channels, *step[1:]))
                channels = step[1]
        for name, branches in blocks.items():
            block = Mixed(channels, branches)
            self.add_module(name, block)
            channels = block.channels
        self.fc = nn.Linear(channels, NUM_CLASSES[variant])
        self.steps = [*(step if callable(step) else step[0] for step in stem), *blocks]

    def scale(self, pixels):
        return (pixels - 128) / 128 if self.variant == "fid" else pixels / 127.5 - 1

    def forward(self, pixels):
        if pixels.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"images of shape (3, {SIDE}, {SIDE}) are expected, not {tuple(pixels.shape[1:])}")
        with full_precision(pixels.device):
            x = self.scale(pixels.float())
            if x.device.type == "cpu":  # 1.5 times as fast there
                x = x.contiguous(memory_format=torch.channels_last)
            for step in self.steps:
                x = step(x) if callable(step) else getattr(self, step)(x)
            return F.adaptive_avg_pool2d(x, 1).flatten(1)
