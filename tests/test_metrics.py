"""Distances and intervals: closed forms, independent references, simulations with a stated bound."""

from datetime import timedelta

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from utils.metrics import distances
from utils.metrics.distance_metrics import FrechetDistance, KernelDistance
from utils.metrics.distances import (
    KernelComparison,
    frechet_distance,
    kernel_distance,
    published_kernel_distance,
)
from utils.metrics.intervals import ratio_interval, split_halves


def draw(n, d, seed=0, mean=0.0, scale=1.0):
    """Correlated features with a skewed distribution, (n, d)."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d)
    return np.maximum(rng.standard_normal((n, d)) @ mixing, -0.5) * scale + mean


class Identity(torch.nn.Module):
    """A feature extractor for torchmetrics: images are features already."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, images):
        return images


# Fréchet distance


@pytest.mark.parametrize("shape", [(2, 5), (40, 64), (300, 64), (300, 1)])
def test_frechet_distance_of_a_sample_to_itself_is_zero(shape):
    assert abs(frechet_distance(draw(*shape), draw(*shape))) < 1e-10


@pytest.mark.parametrize(("n", "m", "d"), [(30, 50, 8), (20, 25, 60), (20, 90, 60)])
def test_frechet_distance_of_commuting_covariances_is_the_closed_form(n, m, d):
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]  # eigenvectors of both covariances
    samples, deviations = [], np.zeros((2, d))
    for index, size in enumerate((n, m)):
        rank = min(size - 1, d)
        deviations[index, :rank] = rng.uniform(0.1, 3, rank)
        # Orthonormal columns of mean 0, so that the covariance of the sample is exactly what is asked for
        basis = np.linalg.qr(np.column_stack([np.ones(size), rng.standard_normal((size, rank))]))[0][:, 1:]
        mean = rng.standard_normal(d)
        samples.append((mean, mean + basis * deviations[index, :rank] * np.sqrt(size - 1) @ axes[:, :rank].T))
    (mean_x, x), (mean_y, y) = samples
    expected = ((mean_x - mean_y) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(200, 150), (200, 20)])
def test_frechet_distance_is_that_of_the_matrix_square_root(n, m):
    x, y = draw(n, 30, 1), draw(m, 30, 2, mean=0.3, scale=1.5)
    (mean_x, cov_x), (mean_y, cov_y) = ((z.mean(0), np.cov(z, rowvar=False)) for z in (x, y))
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-10)


def test_frechet_distance_is_that_of_torchmetrics():
    x, y = draw(300, 64, 1), draw(250, 64, 2, mean=0.2)
    reference = FrechetInceptionDistance(Identity(64)).set_dtype(torch.float64)
    reference.update(torch.from_numpy(x), real=True)
    reference.update(torch.from_numpy(y), real=False)
    assert frechet_distance(x, y) == pytest.approx(float(reference.compute()), rel=1e-3)


# Kernel distance


def kernel_distance_subsets(x, y, *arguments, groups=(None, None), **settings):
    return KernelComparison(x, y, groups).subsets(*arguments, **settings)


def kernel_distance_interval(x, y, *arguments, groups=(None, None), **settings):
    return KernelComparison(x, y, groups).interval(*arguments, **settings)


def double_loop(x, y, unbiased):
    """Squared MMD pair by pair, from the definition."""
    def mean(a, b, skip):
        values = [(np.dot(a[i], b[j]) / len(a[i]) + 1) ** 3
                  for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return np.mean(values)

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


@pytest.mark.parametrize("unbiased", [True, False])
def test_kernel_distance_is_its_definition(unbiased):
    x, y = draw(12, 5, 1), draw(9, 5, 2, mean=0.4)
    assert kernel_distance(x, y, unbiased) == pytest.approx(double_loop(x, y, unbiased), rel=1e-12)


def test_kernel_distance_is_that_of_torchmetrics_when_its_subset_is_the_whole_sample():
    x, y = draw(200, 64, 1), draw(200, 64, 2, mean=0.2)
    reference = KernelInceptionDistance(Identity(64), subsets=1, subset_size=200)
    reference.update(torch.from_numpy(x), real=True)
    reference.update(torch.from_numpy(y), real=False)
    assert kernel_distance(x, y) == pytest.approx(float(reference.compute()[0]), rel=1e-10)


def isotropic_kernel_mean(mean_x, mean_y, var_x, var_y):
    """E k(x, y) of independent x ~ N(mean_x, var_x I) and y ~ N(mean_y, var_y I), from Gaussian moments.

    Given x, t = x·y is Gaussian with mean x·mean_y and variance var_y |x|².
    """
    d, dot, square_x, square_y = len(mean_x), mean_x @ mean_y, mean_x @ mean_x, mean_y @ mean_y
    second = dot**2 + var_x * square_y + var_y * (square_x + d * var_x)
    third = dot**3 + 3 * dot * var_x * square_y + 3 * var_y * dot * (square_x + (d + 2) * var_x)
    return 1 + 3 * dot / d + 3 * second / d**2 + third / d**3


def test_kernel_distance_is_unbiased_and_the_biased_one_is_not():
    mean_x, mean_y, var_x, var_y = np.zeros(3), np.array([0.5, 0.2, -0.1]), 1.0, 1.5
    truth = (isotropic_kernel_mean(mean_x, mean_x, var_x, var_x) + isotropic_kernel_mean(mean_y, mean_y, var_y, var_y)
             - 2 * isotropic_kernel_mean(mean_x, mean_y, var_x, var_y))
    rng = np.random.default_rng(0)
    values = []
    for _ in range(3000):
        x = mean_x + np.sqrt(var_x) * rng.standard_normal((8, 3))
        y = mean_y + np.sqrt(var_y) * rng.standard_normal((12, 3))
        comparison = KernelComparison(x, y)
        values.append((comparison.distance(), comparison.distance(unbiased=False)))
    means, errors = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(len(values))
    assert abs(means[0] - truth) < 4 * errors[0]  # 4 standard errors: one seed in 16,000 would fail
    assert errors[0] < 0.2 * truth  # narrow enough to tell the truth from 0
    assert means[1] - truth > 20 * errors[1]


@pytest.mark.parametrize("unbiased", [True, False])
def test_distances_do_not_depend_on_the_order_of_images(unbiased):
    x, y = draw(60, 20, 1), draw(50, 20, 2)
    shuffled = np.random.default_rng(3).permutation(x)
    assert kernel_distance(shuffled, y, unbiased) == pytest.approx(kernel_distance(x, y, unbiased), abs=1e-12)
    assert frechet_distance(shuffled, y) == pytest.approx(frechet_distance(x, y), rel=1e-10)


def test_blocks_change_no_number(monkeypatch):
    x, y = draw(70, 20, 1), draw(45, 20, 2)

    def measure():
        return [kernel_distance(x, y), kernel_distance(x, y, unbiased=False), *kernel_distance_interval(x, y, 50),
                *kernel_distance_subsets(x, y, 5, 20), *kernel_distance_subsets(x, y, 5, 20, unbiased=False)]

    whole = measure()
    monkeypatch.setattr(distances, "BLOCK_ROWS", 16)
    assert measure() == pytest.approx(whole, rel=1e-9, abs=1e-13)
    monkeypatch.setattr(distances, "KEPT_ROWS", 69)
    assert KernelComparison(x, y).kept is None
    assert measure() == pytest.approx(whole, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("unbiased", [True, False])
def test_subsets_have_the_mean_and_spread_of_distances_of_random_subsets(unbiased):
    x, y = draw(80, 10, 1), draw(60, 10, 2, mean=0.3)
    rng = np.random.default_rng(9)
    picks = [(rng.choice(80, 20, replace=False), rng.choice(60, 20, replace=False)) for _ in range(1000)]
    reference = [kernel_distance(x[i], y[j], unbiased) for i, j in picks]
    mean, std = kernel_distance_subsets(x, y, 1000, 20, seed=1, unbiased=unbiased)
    assert abs(mean - np.mean(reference)) < 4 * np.std(reference) * np.sqrt(2 / 1000)
    assert std == pytest.approx(np.std(reference), rel=0.15)
    assert kernel_distance_subsets(x, y, 1000, 20, 1, unbiased) == (mean, std)
    assert kernel_distance_subsets(x, y, 1000, 20, 2, unbiased) != (mean, std)


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_subset_of_the_whole_sample_is_the_whole_sample(unbiased):
    x, y = draw(30, 10, 1), draw(30, 10, 2)
    mean, std = kernel_distance_subsets(x, y, 5, 30, unbiased=unbiased)
    assert mean == pytest.approx(kernel_distance(x, y, unbiased), rel=1e-10) and std < 1e-12


def test_subsets_are_half_of_the_smaller_sample_by_default():
    x, y = draw(30, 10, 1), draw(21, 10, 2)
    assert kernel_distance_subsets(x, y) == kernel_distance_subsets(x, y, 100, 10)


# The interval of the kernel distance


def test_a_resample_counts_pairs_of_different_images_only():
    x, y = draw(5, 3, 1), draw(4, 3, 2)
    drawn_x, drawn_y = np.array([[0, 0, 1, 3, 3]]), np.array([[2, 1, 1, 1]])
    weights = distances.count_draws(drawn_x, 5), distances.count_draws(drawn_y, 4)

    def mean_kernel(a, b, drawn_a, drawn_b, skip_same):
        return np.mean([(a[i] @ b[j] / 3 + 1) ** 3 for i in drawn_a for j in drawn_b if not (skip_same and i == j)])

    (i, j) = drawn_x[0], drawn_y[0]
    expected = mean_kernel(x, x, i, i, True) + mean_kernel(y, y, j, j, True) - 2 * mean_kernel(x, y, i, j, False)
    assert float(KernelComparison(x, y).estimate(*weights, unbiased=True)) == pytest.approx(expected, rel=1e-12)


def test_interval_lies_around_the_estimate_and_grows_with_the_level():
    x, y = draw(100, 20, 1), draw(100, 20, 2, mean=0.1)
    estimate, widths = kernel_distance(x, y), []
    for level in (0.5, 0.8, 0.95):
        low, high = kernel_distance_interval(x, y, level=level)
        assert low < estimate < high
        widths.append(high - low)
    assert widths == sorted(widths)
    assert kernel_distance_interval(x, y, seed=4) == kernel_distance_interval(x, y, seed=4)
    assert kernel_distance_interval(x, y, seed=4) != kernel_distance_interval(x, y, seed=5)


def test_interval_holds_the_middle_of_resampled_distances():
    x, y = draw(40, 6, 1), draw(30, 6, 2, mean=0.3)
    rng = np.random.default_rng(7)
    kernels = [(a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    distances = []
    for _ in range(4000):
        i, j = rng.integers(40, size=40), rng.integers(30, size=30)
        distances.append(kernels[0][np.ix_(i, i)][i[:, None] != i].mean() - 2 * kernels[2][np.ix_(i, j)].mean()
                         + kernels[1][np.ix_(j, j)][j[:, None] != j].mean())
    expected = np.quantile(distances, [0.1, 0.9])
    assert kernel_distance_interval(x, y, 4000, level=0.8) == pytest.approx(expected, abs=0.04 * np.ptp(expected))


@pytest.mark.parametrize(("shift", "fewest"), [(0.0, 93), (0.3, 89)])
def test_interval_covers_the_true_distance(shift, fewest):
    """The true distance lies in 95 of 100 intervals, or more where there is none: in `fewest` but for bad luck."""
    d, rng = 10, np.random.default_rng(0)
    mean_x, mean_y = np.ones(d), np.ones(d) + shift
    truth = (isotropic_kernel_mean(mean_x, mean_x, 1, 1) + isotropic_kernel_mean(mean_y, mean_y, 1, 1)
             - 2 * isotropic_kernel_mean(mean_x, mean_y, 1, 1))
    covered = 0
    for seed in range(100):
        x, y = mean_x + rng.standard_normal((60, d)), mean_y + rng.standard_normal((60, d))
        low, high = kernel_distance_interval(x, y, 200, seed)
        covered += low <= truth <= high
    assert covered >= fewest


# Input


BAD = {"one row": (np.ones((1, 4)), "at least two images"), "no row": (np.ones((0, 4)), "at least two images"),
       "other width": (np.ones((5, 3)), "different widths"), "no width": (np.ones((5, 0)), "shape"),
       "flat": (np.ones(5), "shape"), "NaN": (np.full((5, 4), np.nan), "not all finite"),
       "infinite": (torch.full((5, 4), torch.inf), "not all finite")}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("function", [frechet_distance, kernel_distance])
def test_unusable_features_are_refused(function, name):
    features, message = BAD[name]
    for pair in ((features, np.eye(5, 4)), (np.eye(5, 4), features)):
        with pytest.raises(ValueError, match=message):
            function(*pair)


def test_subsets_that_cannot_be_drawn_are_refused():
    for arguments in ((0, 5), (5, 1), (5, 11)):
        with pytest.raises(ValueError, match="cannot be drawn from samples of 10 and 20"):
            kernel_distance_subsets(draw(10, 4), draw(20, 4), *arguments)


@pytest.mark.parametrize("function", [frechet_distance, kernel_distance, kernel_distance_interval])
def test_arrays_and_tensors_of_any_kind_give_the_same_number(function):
    x, y = draw(20, 6, 1).astype(np.float32), draw(20, 6, 2).astype(np.float32)
    expected = function(x, y)
    read_only = y[::-1].copy()[::-1]  # with a negative stride, too
    read_only.flags.writeable = False
    assert function(torch.from_numpy(x).requires_grad_(), read_only) == expected
    assert function(x.astype(np.float64), torch.from_numpy(y)) == expected
    assert all(isinstance(value, float) for value in np.atleast_1d(expected).tolist())


def test_rows_of_one_group_are_resampled_together():
    x, y = draw(40, 4, 1), draw(40, 4, 2, mean=1)
    twice, labels = (x.repeat(2, 0), y.repeat(2, 0)), np.repeat(np.arange(40), 2)
    twice = [rows + 1e-3 * draw(80, 4, 3) for rows in twice]
    alone, together, apart = (np.ptp(kernel_distance_interval(*pair, 500, groups=groups)) for pair, groups in
                              (((x, y), (None, None)), (twice, (labels, labels)), (twice, (None, None))))
    assert together == pytest.approx(alone, rel=0.1) and apart < 0.85 * alone
    own = np.arange(40)
    assert kernel_distance_interval(x, y, 50, groups=(own, own[::-1])) != kernel_distance_interval(x, y, 50)
    assert kernel_distance_interval(x, y, 50, groups=(own + 7, None)) == kernel_distance_interval(x, y, 50)
    with pytest.raises(ValueError, match="3 group labels for 40 rows"):
        kernel_distance_interval(x, y, groups=(own[:3], None))
    with pytest.raises(ValueError, match="all rows are of one image"):
        kernel_distance(x, y, groups=(own, 0 * own))
    with pytest.raises(ValueError, match="biased distance .* no groups"):
        kernel_distance(x, y, unbiased=False, groups=(own, own))


def test_hands_of_one_image_add_nothing_to_the_distance():
    """Pairs of alike rows, as two hands of one image: the estimate stays unbiased, the interval on it."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(20), 2)

    def draw_pairs():
        return (np.repeat(rng.standard_normal((20, 4)), 2, axis=0) + 0.3 * rng.standard_normal((40, 4))) / 1.044

    grouped, apart, covered = [], [], 0
    for seed in range(300):
        x, y = draw_pairs(), draw_pairs()
        comparison = KernelComparison(x, y, (labels, labels))
        grouped.append(comparison.distance())
        apart.append(kernel_distance(x, y))
        low, high = comparison.interval(100, seed)
        covered += low <= 0 <= high
    error = np.std(grouped) / np.sqrt(len(grouped))
    assert abs(np.mean(grouped)) < 3 * error < np.mean(apart)
    assert covered >= 0.93 * len(grouped)
    low, high = comparison.interval(4000, 0, level=0.02)
    assert low - 0.1 < comparison.distance() < high + 0.1


def test_grouped_distances_are_their_definition_kept_or_block_by_block(monkeypatch):
    x, y, labels = draw(12, 3, 1), draw(10, 3, 2), (np.arange(12) % 5, np.arange(10) % 4)

    def mean_kernel(a, b, apart):
        return (((a @ b.T) / 3 + 1) ** 3)[apart].mean()

    expected = (mean_kernel(x, x, labels[0][:, None] != labels[0]) + mean_kernel(y, y, labels[1][:, None] != labels[1])
                - 2 * mean_kernel(x, y, np.ones((12, 10), bool)))
    assert kernel_distance(x, y, groups=labels) == pytest.approx(expected, rel=1e-12)
    kept = KernelComparison(x, y, labels)
    subsets, interval = kept.subsets(20, 3), kept.interval(50)
    assert kept.subsets(20, 4) == kernel_distance_subsets(x, y, 20, 4, groups=labels)
    monkeypatch.setattr(distances, "BLOCK_ROWS", 4)
    monkeypatch.setattr(distances, "KEPT_ROWS", 0)
    blocks = KernelComparison(x, y, labels)
    assert blocks.distance() == pytest.approx(expected, rel=1e-12)
    assert blocks.subsets(20, 3) == pytest.approx(subsets, rel=1e-9)
    assert blocks.interval(50) == pytest.approx(interval, rel=1e-9)


def test_two_images_are_enough_for_a_number_and_an_interval():
    low, high = kernel_distance_interval(draw(2, 4, 1), draw(2, 4, 2))
    assert np.isfinite([low, high, frechet_distance(draw(2, 4, 1), draw(2, 4, 2))]).all()


# Metrics that accumulate


def value_of(metric):
    value = metric.compute()
    return float(value.distance if isinstance(metric, KernelDistance) else value)


DISTANCES = [(FrechetDistance, frechet_distance), (KernelDistance, kernel_distance)]


def accumulate(metric, x, y, batch=7):
    for real, features in ((True, x), (False, y)):
        for start in range(0, len(features), batch):
            metric.update(features[start:start + batch], real=real)
    return metric


@pytest.mark.parametrize(("metric", "function"), DISTANCES)
def test_batches_give_the_distance_of_the_whole(metric, function):
    x, y = draw(50, 8, 1).astype(np.float32), draw(40, 8, 2).astype(np.float32)
    metric = accumulate(metric(), x, y)
    assert value_of(metric) == function(x, y)

    metric.reset()
    with pytest.raises(ValueError, match="No samples"), pytest.warns(UserWarning, match="before"):
        metric.compute()
    assert value_of(accumulate(metric, y, x)) == function(y, x)


@pytest.mark.parametrize(("metric", "function"), DISTANCES)
def test_fp64_features_are_kept_when_asked_for(metric, function):
    x, y = draw(20, 8, 1), draw(20, 8, 2)
    assert value_of(accumulate(metric(), x, y)) != function(x, y)
    assert value_of(accumulate(metric().set_dtype(torch.float64), x, y)) == function(x, y)


def test_the_kernel_metric_gives_what_was_asked_for_and_knows_rows_of_one_image():
    x, y = draw(20, 8, 1).astype(np.float32), draw(20, 8, 2).astype(np.float32)
    labels = (np.arange(20) // 2, np.arange(20) // 3)

    def estimate(**settings):
        metric = KernelDistance(**settings)
        metric.update(x, True, labels[0])
        metric.update(y[::-1].copy(), False, labels[1][::-1].copy())  # sorted by their image again
        return metric.compute()

    found = estimate(num_resamples=50, num_subsets=20, subset_size=4, seed=3)
    comparison = KernelComparison(x, y, labels)
    assert found.distance == pytest.approx(comparison.distance(), rel=1e-12) != kernel_distance(x, y)
    assert (found.low, found.high) == pytest.approx(comparison.interval(50, 3), rel=1e-9)
    assert (found.subset_mean, found.subset_std) == pytest.approx(comparison.subsets(20, 4, 3), rel=1e-9)
    assert estimate()[1:] == (None,) * 4
    biased = estimate(unbiased=False, num_subsets=100, subset_size=20)
    assert biased.distance == pytest.approx(kernel_distance(x, y, unbiased=False))
    assert biased.subset_mean == pytest.approx(published_kernel_distance(x, y), rel=1e-9)


def test_samples_that_do_not_fit_are_refused():
    metric = FrechetDistance()
    metric.update(np.ones((3, 4)), True)
    metric.update(np.ones((3, 5)), False)
    with pytest.raises(ValueError, match="different widths: 4 and 5"):
        metric.compute()
    metric.update(np.ones((3, 4)), True, [0, 1, 2])
    with pytest.raises(ValueError, match="3 numbers of images for 6 rows"):
        metric.compute()


def compute_in_process(other, address, shares, results):
    """What one of two processes computes from its share of the images, and after a reset from the other share."""
    rank = 1 - other
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2,
                                         timeout=timedelta(minutes=2))
    values = []
    for metric in (FrechetDistance(), KernelDistance(num_resamples=20)):
        for share in (rank, 1 - rank):
            for features, images, real in shares[share]:
                metric.update(features, real, images)
            values += [value_of(metric), getattr(metric.compute(), "low", 0)]
            metric.reset()
    torch.distributed.destroy_process_group()
    np.save(results / f"{rank}.npy", values)


def test_two_processes_compute_the_distance_of_all_images(tmp_path):
    """Each has every second image, of other numbers of rows; one has no generated image at all."""
    x, y = draw(50, 8, 1).astype(np.float32), draw(40, 8, 2).astype(np.float32)
    images = np.repeat(np.arange(25), 2)
    shares = [[(x[images % 2 == rank], images[images % 2 == rank], True),
               (y[:40 * rank], np.arange(40 * rank), False)] for rank in range(2)]
    arguments = f"file://{tmp_path}/group", shares, tmp_path
    child = torch.multiprocessing.start_processes(  # process 0 there is rank 1
        compute_in_process, arguments, join=False, start_method="fork")
    compute_in_process(1, *arguments)
    while not child.join():
        pass
    comparison = KernelComparison(x, y, (images, None))
    expected = 2 * [frechet_distance(x, y), 0] + 2 * [comparison.distance(), comparison.interval(20)[0]]
    for rank in range(2):
        assert np.load(tmp_path / f"{rank}.npy") == pytest.approx(expected, rel=1e-9)


# Intervals of means, halves


def mean_interval(values, **settings):
    return ratio_interval(values, np.ones(len(values)), **settings)


def test_mean_interval_is_as_wide_as_theory_has_it():
    values = np.random.default_rng(0).exponential(size=400)
    low, high = mean_interval(values, num_resamples=5000)
    for end, sign in ((low, -1), (high, 1)):
        assert end - values.mean() == pytest.approx(sign * 1.96 * values.std() / 20, rel=0.1)
    assert mean_interval(values, seed=3) == mean_interval(list(values), seed=3) != mean_interval(values, seed=4)


@pytest.mark.parametrize("n", [1, 2, 10])
def test_equal_numbers_have_an_interval_without_width(n):
    assert mean_interval([0.25] * n) == (0.25, 0.25)


@pytest.mark.parametrize(("num_true", "n", "expected"), [
    (81, 263, (0.2553, 0.3662)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718)), (1, 1, (0.2065, 1))])
def test_rates_have_the_wilson_interval(num_true, n, expected):
    """The examples of Newcombe 1998, Statistics in Medicine 17; of 1 of 1 it is 1 / (1 + 1.96²) to 1."""
    values = [True] * num_true + [False] * (n - num_true)
    assert mean_interval(values) == pytest.approx(expected, abs=6e-5)
    of_some = ratio_interval([*values, True], [*[True] * n, False])  # the last image does not count
    assert of_some == mean_interval(values)


def test_ratio_interval_resamples_images_and_not_what_they_add():
    rng = np.random.default_rng(0)
    sums = rng.normal(1, 0.2, 300)
    doubled = ratio_interval(2 * sums, np.full(300, 2))
    assert doubled == pytest.approx(mean_interval(sums))  # a second hand like the first makes nothing surer
    counts = rng.integers(0, 3, 300)
    low, high = ratio_interval(counts * sums, counts)
    residuals = counts * (sums - (counts * sums).sum() / counts.sum())
    assert high - low == pytest.approx(2 * 1.96 * residuals.std() / counts.mean() / np.sqrt(300), rel=0.1)
    few = ratio_interval([0.5, 0, 0.7], [1, 0, 1])  # resamples of the second image alone have no mean
    assert 0.5 <= few[0] < few[1] <= 0.7


@pytest.mark.parametrize("arguments", [
    ([np.nan], [1]), ([1.0], [0]), ([1.0, 2.0], [1]), ([], []), ([1.0, 2.0], [1, 1], 0), ([1.0, 2.0], [1, 1], 9, 0, 95),
])
def test_intervals_of_nothing_or_no_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="interval|must"):
        ratio_interval(*arguments)


def test_halves_are_disjoint_and_equal_and_depend_on_the_seed_alone():
    first, second = split_halves(11, seed=0)
    assert len(first) == len(second) == 5 and len({*first, *second}) == 10 and {*first, *second} <= set(range(11))
    assert [list(half) for half in split_halves(11, 0)] == [list(first), list(second)]
    assert list(split_halves(11, 1)[0]) != list(first)
    assert [len(half) for half in split_halves(11, 0, size=3)] == [3, 3]
    for n, size in ((1, None), (10, 6), (10, 0)):
        with pytest.raises(ValueError, match="disjoint"):
            split_halves(n, 0, size)
