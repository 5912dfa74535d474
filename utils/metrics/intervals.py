"""Intervals of rates and means over images, by scipy.stats, and disjoint halves of a sample."""

import warnings

import numpy as np
import scipy.stats

BATCH_DRAWS = 10_000_000  # of the bootstrap at a time: 80 MB


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


def ratio_interval(numerators, denominators, num_resamples=1000, seed=0, level=0.95):
    """(low, high) of the ratio of two sums over images, from what each image adds to either; images are resampled.

    Truth values (bool) over truth values or ones are a rate and get the interval of Wilson 1927, which keeps a width
    at 0 of n and n of n, where a bootstrap has none. Numbers get the percentile bootstrap, the same every time for one
    seed; if they are all equal its width is zero, which says that nothing varied, not that the value is known.
    ValueError for lists that differ in length, hold infinite values, or a sum of denominators of 0.
    """
    check_resampling(num_resamples, level)
    is_rate = np.asarray(numerators).dtype == bool and np.isin(denominators, (0, 1)).all()
    numerators, denominators = (np.asarray(sums, dtype=float) for sums in (numerators, denominators))
    if numerators.shape != denominators.shape or not np.isfinite([numerators, denominators]).all():
        raise ValueError("an interval needs finite numbers, and as many denominators as numerators")
    if not denominators.sum():
        raise ValueError("an interval of a ratio needs a sum of denominators above 0")
    if is_rate:
        num_true, num_images = int(numerators[denominators > 0].sum()), int(denominators.sum())
        found = scipy.stats.binomtest(num_true, num_images).proportion_ci(level, "wilson")
        return float(found.low), float(found.high)
    if len(numerators) == 1:  # of which SciPy draws no resamples
        return (float(numerators[0] / denominators[0]),) * 2
    with np.errstate(invalid="ignore"), warnings.catch_warnings():  # a resample may hold none that counts: NaN
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            (numerators, denominators), lambda above, below, axis: above.sum(axis) / below.sum(axis), paired=True,
            vectorized=True, n_resamples=num_resamples, batch=max(1, BATCH_DRAWS // len(numerators)),
            method="percentile", rng=np.random.default_rng(seed))
    return percentile_interval(found.bootstrap_distribution, level)


def split_halves(n, seed, size=None):
    """Two disjoint random arrays of `size` (default: n // 2) indices below n. ValueError if they do not fit."""
    size = n // 2 if size is None else size
    if size < 1 or 2 * size > n:
        raise ValueError(f"two disjoint parts of {size} cannot be drawn from {n}")
    order = np.random.default_rng(seed).permutation(n)
    return order[:size], order[size:2 * size]
