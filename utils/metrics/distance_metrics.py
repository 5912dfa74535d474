"""The distances as torchmetrics.Metric classes: features batch by batch, from several processes."""

from typing import NamedTuple

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from utils.metrics.distances import KernelComparison, frechet_distance


class FeatureDistance(Metric):
    """Two growing samples of features, in fp32 unless set_dtype says otherwise; `compute` returns their distance.

    torchmetrics gathers the samples of several processes.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for state in ("real_features", "real_images", "fake_features", "fake_images"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, features, real, images=None):
        """Adds `features` (n, d) of real images or, with real=False, of generated ones; n may be 0.

        `images`: the number of the image that each row is of, (n,), for all rows or for none. Rows of one image, as of
        two hands, are alike; and rows are sorted by it, so that it does not matter which process has seen them.
        """
        name = "real" if real else "fake"
        getattr(self, f"{name}_features").append(torch.as_tensor(features, device=self.device, dtype=self.dtype))
        if images is not None:
            getattr(self, f"{name}_images").append(torch.as_tensor(images, device=self.device, dtype=torch.int64))

    def samples(self):
        """[(features (n, d), images (n,) or None)] of the real and of the fake sample, on the CPU."""
        samples = []
        for features, images in ((self.real_features, self.real_images), (self.fake_features, self.fake_images)):
            features, images = dim_zero_cat(features).cpu(), dim_zero_cat(images).cpu() if len(images) else None
            if images is not None:
                if len(images) != len(features):
                    raise ValueError(f"{len(images)} numbers of images for {len(features)} rows of features")
                order = images.argsort(stable=True)
                features, images = features[order], images[order]
            samples.append((features, images))
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
