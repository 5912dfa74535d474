"""Fréchet and kernel distance between two sets of features: arrays in, numbers out.

Features are NumPy arrays or tensors of shape (images, width), on any device; all is computed in fp64 on the CPU,
so that a number does not depend on the accelerator. Every function raises ValueError for fewer than two rows,
widths that differ, and values that are not finite.
"""

import math

import numpy as np
import torch

from utils.metrics.intervals import check_resampling, percentile_interval

BLOCK_ROWS = 256  # rows and columns of a block of kernel values; of xx and yy half the blocks are enough
KEPT_ROWS = 4096  # images a side up to which all blocks are kept, 400 MB at most
LEAST_FOR_INTERVAL = 4  # images a side; resamples of two or three hold hardly anything but the same pair
PUBLISHED_SUBSETS, PUBLISHED_SUBSET_SIZE = 100, 1000


def as_features(features, name):
    """`features` as a finite fp64 tensor (n, d) on the CPU; `name` is what an error calls them."""
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().double()
    else:
        features = torch.from_numpy(np.require(features, np.float64, ["C", "W"]))
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name}: features must have the shape (images, width), not {tuple(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"{name}: a distance needs at least two images, not {len(features)}")
    if not features.isfinite().all():
        raise ValueError(f"{name}: features are not all finite")
    return features


def as_feature_pair(x, y):
    x, y = as_features(x, "first sample"), as_features(y, "second sample")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of different widths: {x.shape[1]} and {y.shape[1]}")
    return x, y


# Fréchet distance


def covariance_factor(features):
    """A with Aᵀ A = the covariance (divisor n - 1) of `features` (n, d); min(n, d) rows."""
    factor = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    return torch.linalg.qr(factor, mode="r").R if factor.shape[0] > factor.shape[1] else factor


def frechet_distance(x, y):
    """|m₁ - m₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) (Dowson and Landau 1982), never below 0 but for rounding.

    For covariances Σ₁ = AᵀA and Σ₂ = BᵀB the eigenvalues of Σ₁Σ₂ are the squared singular values of ABᵀ, so
    that the trace of the root is their sum: no d x d matrix and no matrix square root. Biased upwards by an amount
    that grows with the width and falls with the number of images, so compare at equal numbers only.
    """
    x, y = as_feature_pair(x, y)
    a, b = covariance_factor(x), covariance_factor(y)
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum())


# Kernel distance


def polynomial_kernel(x, y):
    """(x·y / d + 1)³ of all rows, (n, m): the kernel of KID (Bińkowski et al. 2018)."""
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


class KernelComparison:
    """The kernel distance of two samples as one number, over subsets, and with an interval, from one Gram matrix.

    Each estimate is a quadratic form in the kernel values, its weights being how often an image is drawn: once, in
    or out of a subset, or as often as a bootstrap took it. Many of them cost one matrix product. Up to KEPT_ROWS
    rows a side, the kernel values are computed once and kept; beyond, they are computed block by block each time.

    `groups`: for x and y a label per row, or None where every row is an image of its own. Rows of one label, as two
    hands of one image, are alike: they are no pair, and are drawn together.
    """

    def __init__(self, x, y, groups=(None, None)):
        self.x, self.y = as_feature_pair(x, y)
        self.has_groups = any(labels is not None for labels in groups)
        self.groups = {name: group_numbers(labels, len(rows))
                       for name, labels, rows in zip("xy", groups, (self.x, self.y), strict=True)}
        self.kept = list(self.compute_blocks()) if max(len(self.x), len(self.y)) <= KEPT_ROWS else None

    def compute_blocks(self):
        """Yields (pair, rows, columns, kernel values) for pairs xx, yy, xy.

        Of xx and yy only the upper half, and 0 for a row with itself or another one of its group.
        """
        for pair in ("xx", "yy", "xy"):
            left, right = (getattr(self, name) for name in pair)
            for i in range(0, len(left), BLOCK_ROWS):
                for j in range(0 if pair == "xy" else i, len(right), BLOCK_ROWS):
                    rows, columns = slice(i, i + BLOCK_ROWS), slice(j, j + BLOCK_ROWS)
                    block = polynomial_kernel(left[rows], right[columns])
                    if pair != "xy" and (i == j or self.has_groups):
                        numbers = self.groups[pair[0]]
                        block[numbers[rows, None] == numbers[columns]] = 0
                    yield pair, rows, columns, block

    def estimate(self, weights_x, weights_y, unbiased):
        """Squared MMD, (k,), of k weightings of the images: (k, n) and (k, m), fp64.

        Unbiased: an image makes no pair with itself nor with a second draw of itself, and the sums are divided by
        the weight of the pairs that are left, so that a constant added to the kernel changes nothing. Biased, all
        pairs count: ValueError if there are groups.
        """
        if self.has_groups and not unbiased:
            raise ValueError("the biased distance counts every pair of rows; it knows no groups")
        sums = {"xx": 0, "yy": 0, "xy": 0}
        weights = {"x": weights_x, "y": weights_y}
        for pair, rows, columns, block in self.kept or self.compute_blocks():
            left, right = (weights[name] for name in pair)
            twice = 2 if pair != "xy" and rows != columns else 1  # the lower half is the mirrored upper one
            sums[pair] = sums[pair] + twice * ((left[:, rows] @ block) * right[:, columns]).sum(1)
        within = 0
        for pair, features in (("xx", self.x), ("yy", self.y)):
            drawn = weights[pair[0]]
            if unbiased:
                numbers = self.groups[pair[0]]
                of_group = drawn.new_zeros(len(drawn), numbers.max() + 1).index_add_(1, numbers, drawn)
                within = within + sums[pair] / (drawn.sum(1).square() - of_group.square().sum(1))
            else:
                diagonal = (features.square().mean(1) + 1) ** 3
                within = within + (sums[pair] + drawn.square() @ diagonal) / drawn.sum(1).square()
        return within - 2 * sums["xy"] / (weights_x.sum(1) * weights_y.sum(1))

    def distance(self, unbiased=True):
        """As kernel_distance."""
        everything = [torch.ones(1, len(sample), dtype=torch.float64) for sample in (self.x, self.y)]
        return float(self.estimate(*everything, unbiased))

    def count_images(self):
        """(images of x, images of y): groups, or rows where there are none."""
        return tuple(int(numbers.max()) + 1 for numbers in self.groups.values())

    def subsets(self, num_subsets=100, subset_size=None, seed=0, unbiased=True):
        """(mean, standard deviation) of the distance over seeded random subsets of both samples.

        `subset_size` counts images, of which all rows are taken: by default half of those of the smaller sample.
        Subsets overlap, so their spread is not a standard error: it shrinks to nothing as they approach the whole
        sample, and at half of it is only a rough guide. ValueError if a subset is larger than a sample or below 2.
        """
        num_x, num_y = self.count_images()
        subset_size = min(num_x, num_y) // 2 if subset_size is None else subset_size
        if num_subsets < 1 or not 2 <= subset_size <= min(num_x, num_y):
            raise ValueError(f"{num_subsets} subsets of {subset_size} cannot be drawn from samples of "
                             f"{num_x} and {num_y} images")
        rng = np.random.default_rng(seed)
        weights = [count_draws(np.stack([rng.permutation(num)[:subset_size] for _ in range(num_subsets)]), num)
                   [:, self.groups[name]] for name, num in (("x", num_x), ("y", num_y))]
        values = self.estimate(*weights, unbiased)
        return float(values.mean()), float(values.std(correction=0))

    def interval(self, num_resamples=1000, seed=0, level=0.95):
        """(low, high) of the unbiased distance by the percentile bootstrap; x and y are resampled separately.

        Rows of one group are drawn together: drawn apart, they would make the interval too narrow. Neither they nor
        two draws of one row are a pair: counted as one they would add large kernel values to the xx and yy terms and
        move the interval off the estimate. What is left is divided by its own weight, and where images have as many
        rows each, the mean over resamples is then the estimate itself. Where the distributions differ clearly the
        coverage is the nominal one. Where they are nearly equal the U-statistic is degenerate; the bootstrap takes the
        noise of its projection for a signal, three times its variance comes out, and the interval is about 1.7 times
        too wide: it errs on the safe side.
        """
        check_resampling(num_resamples, level)
        rng = np.random.default_rng(seed)
        weights = [resample_groups(rng, numbers, num_resamples) for numbers in self.groups.values()]
        # Of two or three images a resample may hold one only, and no pair: NaN
        return percentile_interval(self.estimate(*weights, unbiased=True).numpy(), level)


def count_draws(drawn, n):
    """How often each of n images stands in each row of the index array `drawn` (k, draws): (k, n), fp64."""
    offsets = n * np.arange(len(drawn))[:, None]
    counts = np.bincount((drawn + offsets).ravel(), minlength=n * len(drawn))
    return torch.from_numpy(counts.reshape(len(drawn), n).astype(np.float64))


def group_numbers(groups, n):
    """The group of each of n rows as a number from 0 without gaps, (n,) int64; without `groups` every row is its own.

    ValueError for another number of labels, and for a single group, in which there is no pair.
    """
    if groups is None:
        return torch.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} rows")
    numbers = torch.from_numpy(np.unique(groups, return_inverse=True)[1])
    if not numbers.max():
        raise ValueError("all rows are of one image; a distance needs at least two images")
    return numbers


def resample_groups(rng, groups, num_resamples):
    """Bootstrap weights (num_resamples, rows), fp64: whole groups are drawn, so that their rows share one weight."""
    n = int(groups.max()) + 1
    return count_draws(rng.integers(n, size=(num_resamples, n)), n)[:, groups]


def kernel_distance(x, y, unbiased=True, groups=(None, None)):
    """Squared maximum mean discrepancy under the polynomial kernel, from all rows (Gretton et al. 2012).

    Unbiased, its mean over samples is the true distance whatever their size, so it falls below 0 half the time when
    there is no difference. Biased, pairs of an image with itself count too, and it is never below 0 but for rounding.
    `groups`: for x and y a label per row, or None. Rows of one label, as two hands of one image, are alike; as pairs
    they would add to the distance, so they are none (unbiased only).
    """
    return KernelComparison(x, y, groups).distance(unbiased)


def published_subset_size(num_x, num_y):
    return min(num_x, num_y, PUBLISHED_SUBSET_SIZE)


def published_kernel_distance(x, y, seed=0):
    """The KID of the paper's programs: the mean of the biased kernel distance over seeded random subsets."""
    size = published_subset_size(len(x), len(y))
    return KernelComparison(x, y).subsets(PUBLISHED_SUBSETS, size, seed, unbiased=False)[0]
