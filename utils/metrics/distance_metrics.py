"""The distances as torchmetrics.Metric classes: features batch by batch, from several processes."""

from typing import NamedTuple

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from utils.metrics.distances import KernelComparison, frechet_distance


class FeatureDistance(Metric):
    """Two growing samples of features; `compute` of the subclasses returns their distance.

    torchmetrics gathers the samples of several processes. They are kept flat, in the metric's dtype (fp32 unless
    set_dtype says otherwise), with their width beside them, because a process that has seen no image can then take
    part in it.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for sample in ("real", "fake"):
            self.add_state(f"{sample}_features", [], dist_reduce_fx="cat")
            self.add_state(f"{sample}_images", [], dist_reduce_fx="cat")
        self.add_state("width", torch.tensor(0), dist_reduce_fx="max")

    def update(self, features, real, images=None):
        """Adds `features` (n, d) of real images or, with real=False, of generated ones.

        `images`: the number of the image that each row is of, (n,), for all rows or for none. Rows of one image, as of
        two hands, are alike; and rows are sorted by it, so that it does not matter which process has seen them.
        """
        features = torch.as_tensor(features, device=self.device, dtype=self.dtype)
        width = int(self.width)
        if features.ndim != 2 or not features.shape[1]:
            raise ValueError(f"features must have the shape (images, width), not {tuple(features.shape)}")
        if width and features.shape[1] != width:
            raise ValueError(f"features of different widths: {width} and {features.shape[1]}")
        self.width.fill_(features.shape[1])
        images = [] if images is None else images
        (self.real_features if real else self.fake_features).append(features.flatten())
        (self.real_images if real else self.fake_images).append(
            torch.as_tensor(images, device=self.device, dtype=torch.int64))

    def samples(self):
        """[(features (n, d), images (n,) or None)] of the real and of the fake sample, on the CPU."""
        samples = []
        for states in ((self.real_features, self.real_images), (self.fake_features, self.fake_images)):
            features, images = (dim_zero_cat(state).cpu() if len(state) else torch.empty(0) for state in states)
            features = features.reshape(-1, max(1, int(self.width)))
            if not len(images):
                samples.append((features, None))
                continue
            if len(images) != len(features):
                raise ValueError(f"{len(images)} numbers of images for {len(features)} rows of features")
            order = images.argsort(stable=True)
            samples.append((features[order], images[order]))
        return samples

    def gathered(self):
        """As samples, of all processes, each of which must call it."""
        with self.sync_context():
            return self.samples()


class FrechetDistance(FeatureDistance):
    """frechet_distance as a torchmetrics.Metric: update(features, real), compute(), an fp64 scalar."""

    def compute(self):
        (x, _), (y, _) = self.samples()
        return torch.tensor(frechet_distance(x, y), dtype=torch.float64)


class KernelEstimate(NamedTuple):
    """A kernel distance, the ends of its interval, mean and standard deviation over subsets; None: not asked for."""

    distance: float
    low: float | None = None
    high: float | None = None
    subset_mean: float | None = None
    subset_std: float | None = None


class KernelDistance(FeatureDistance):
    """kernel_distance as a torchmetrics.Metric: update(features, real, images), compute(), a KernelEstimate.

    Interval and subsets, if any are asked for, are those of KernelComparison. Biased, the images that rows are of make
    no difference.
    """

    def __init__(self, unbiased=True, num_resamples=0, num_subsets=0, subset_size=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.unbiased, self.seed = unbiased, seed
        self.num_resamples, self.num_subsets, self.subset_size = num_resamples, num_subsets, subset_size

    def compute(self):
        (x, groups_x), (y, groups_y) = self.samples()
        comparison = KernelComparison(x, y, (groups_x, groups_y) if self.unbiased else (None, None))
        interval, subsets = (None, None), (None, None)
        if self.num_resamples:
            interval = comparison.interval(self.num_resamples, self.seed)
        if self.num_subsets:
            subsets = comparison.subsets(self.num_subsets, self.subset_size, self.seed, self.unbiased)
        return KernelEstimate(comparison.distance(self.unbiased), *interval, *subsets)
