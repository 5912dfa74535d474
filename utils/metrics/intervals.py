"""Resampling for the metrics: intervals of means and rates, disjoint halves of a sample. NumPy only."""

import math
from statistics import NormalDist

import numpy as np


def check_resampling(num_resamples, level):
    """ValueError unless there is at least one resample and `level` lies between 0 and 1."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, not {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")


def percentile_interval(estimates, level):
    """(low, high): the middle share `level` of `estimates`, NaNs left out."""
    low, high = np.nanquantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(num_true, num_values, level):
    """(low, high) of a rate (Wilson 1927). Of 0 of n or n of n it keeps a width, where a bootstrap has none."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, spread = num_true / num_values, z * z / num_values
    centre = (rate + spread / 2) / (1 + spread)
    margin = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    # The ends are exact where rounding would leave 1e-19 or 1 - 1e-16
    return (max(0.0, centre - margin) if num_true else 0.0,
            min(1.0, centre + margin) if num_true < num_values else 1.0)


def ratio_interval(numerators, denominators, num_resamples=1000, seed=0, level=0.95):
    """(low, high) of the ratio of two sums over images, from what each image adds to either; images are resampled.

    Truth values (bool) over truth values or ones are a rate and get the Wilson interval, without any drawing.
    Numbers get the percentile bootstrap, the same every time for one seed; if they are all equal its width is zero,
    which says that nothing varied, not that the value is known.
    ValueError for lists that are empty, differ in length, hold None or infinite values, or a sum of denominators of 0.
    """
    check_resampling(num_resamples, level)
    values = [np.asarray([] if sums is None else sums) for sums in (numerators, denominators)]
    if values[0].ndim != 1 or values[0].shape != values[1].shape or not len(values[0]):
        raise ValueError("an interval needs one value or more, and as many denominators as numerators")
    if not all(np.can_cast(sums.dtype, float) and np.isfinite(sums).all() for sums in values):
        raise ValueError("an interval needs finite numbers")
    numerators, denominators = values
    if not denominators.sum():
        raise ValueError("an interval of a ratio needs a sum of denominators above 0")
    if numerators.dtype == bool and np.isin(denominators, (0, 1)).all():
        return wilson_interval(int(numerators[denominators > 0].sum()), int(denominators.sum()), level)
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(len(numerators), size=len(numerators)) for _ in range(num_resamples))
    sums = np.array([(numerators[drawn].sum(), denominators[drawn].sum()) for drawn in resamples], dtype=float)
    drawn_any = sums[:, 1] != 0  # of a few images a resample may hold none that counts
    return percentile_interval(sums[drawn_any, 0] / sums[drawn_any, 1], level)


def mean_interval(values, num_resamples=1000, seed=0, level=0.95):
    """(low, high) of the mean of `values`, one per image; everything else as ratio_interval."""
    return ratio_interval(values, np.ones(np.shape([] if values is None else values)), num_resamples, seed, level)


def split_halves(n, seed, size=None):
    """Two disjoint random arrays of `size` (default: n // 2) indices below n. ValueError if they do not fit."""
    size = n // 2 if size is None else size
    if size < 1 or 2 * size > n:
        raise ValueError(f"two disjoint parts of {size} cannot be drawn from {n}")
    order = np.random.default_rng(seed).permutation(n)
    return order[:size], order[size:2 * size]
