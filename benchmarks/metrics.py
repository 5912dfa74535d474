"""How long the distances take beside torchmetrics and SciPy, and how much of FID at 1,000 images is bias.

python -m benchmarks.metrics
python -m benchmarks.metrics --bias

Without a flag: times utils.metrics.distances against FrechetInceptionDistance and KernelInceptionDistance of
torchmetrics with their defaults (on features given, not images) and against the matrix square root of SciPy, on the
same skewed random features with one thread. Programs take turns, the best time of each counts, so that other work on
the machine weighs on all alike; what the ratios say is less sensitive to it than the seconds. With --bias: Gaussian
features of which the true distances are known; nothing is timed.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as `python benchmarks/metrics.py`, too

from utils.system import cli, script  # noqa: E402

# Covariance eigenvalues proportional to 1, 1/2, 1/3, … with this sum. Of samples whose standard deviations are 1 and
# SCALE times theirs, the true Fréchet distance is (1 - SCALE)² VARIANCE = 7.1.
VARIANCE, SCALE = 199.4, 0.8113


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--num_images", type=cli.positive_int, default=1000, help="rows of features in either sample")
    parser.add_argument("--num_features", type=cli.positive_int, default=2048, help="width of the features")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="rounds; of --bias: pairs of samples")
    parser.add_argument("--bias", action="store_true", help="simulate the bias instead of timing")
    cli.add_common_flags(parser, device=False)
    args = parser.parse_args(argv)
    if args.num_images < 4:
        parser.error(f"--num_images {args.num_images}: give 4 or more")
    return args


def build_programs(x, y):
    """{name: function that returns a distance} for FID and for KID; ours first, x and y (n, d) fp32 tensors."""
    import scipy.linalg
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    from utils.metrics.distances import KernelComparison, frechet_distance

    class Identity(torch.nn.Module):
        num_features = x.shape[1]

        def forward(self, features):
            return features

    def run_torchmetrics(metric):
        metric.update(x, real=True)
        metric.update(y, real=False)
        return metric.compute()

    def scipy_root():
        (mean_x, cov_x), (mean_y, cov_y) = ((z.mean(0), z.T.cov().numpy()) for z in (x.double(), y.double()))
        root = scipy.linalg.sqrtm(cov_x @ cov_y).real
        return float((mean_x - mean_y).square().sum() + (cov_x + cov_y - 2 * root).trace())

    def kernel_distance_with_all():
        comparison = KernelComparison(x, y)
        comparison.subsets()
        comparison.interval()
        return comparison.distance()

    subset_size = min(1000, len(x))  # 1000 is the default of torchmetrics, and cannot be more than there are
    return {
        "FID": {"utils.metrics.distances": lambda: frechet_distance(x, y),
                "torchmetrics": lambda: float(run_torchmetrics(FrechetInceptionDistance(Identity()))),
                "scipy.linalg.sqrtm": scipy_root},
        "KID": {"utils.metrics.distances (full, 100 subsets, interval)": kernel_distance_with_all,
                "torchmetrics (100 subsets)": lambda: float(run_torchmetrics(
                    KernelInceptionDistance(Identity(), subset_size=subset_size))[0])},
    }


def measure_times(x, y, repeats):
    """Prints a line per program: seconds, how many times ours, and its value."""
    import warnings

    from tqdm import tqdm

    warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
    programs = {(metric, name): run for metric, of_metric in build_programs(x, y).items()
                for name, run in of_metric.items()}
    seconds, values = {key: [] for key in programs}, {}
    with tqdm(total=repeats * len(programs), desc="rounds", unit="run") as bar:
        for _ in range(repeats):
            for key, run in programs.items():
                bar.set_postfix_str(" ".join(key))
                start = time.perf_counter()
                values[key] = run()
                seconds[key].append(time.perf_counter() - start)
                bar.update()
    print(f"{'':4}{'':44}{'seconds':>9}{'times ours':>12}{'value':>15}")
    for metric, name in programs:
        best, ours = (min(times) for times in (seconds[metric, name], next(
            seconds[key] for key in programs if key[0] == metric)))
        print(f"{metric:4}{name:44}{best:9.2f}{best / ours:12.1f}{values[metric, name]:15.8f}")


def measure_bias(num_images, num_features, repeats, rng):
    """Prints FD and KID of two samples of one distribution, and of two distributions of known distance."""
    import numpy as np
    from tqdm import tqdm

    from utils.metrics.distances import KernelComparison, frechet_distance

    eigenvalues = 1 / np.arange(1, num_features + 1)
    eigenvalues *= VARIANCE / eigenvalues.sum()
    kid_factor = 3 * (eigenvalues**2).sum() / num_features**2  # of zero means, only the x·y² term of the kernel is left

    print(f"{num_features} Gaussian features, {num_images} images a side, means of {repeats} pairs of samples")
    for name, scale in (("the same distribution", 1.0), ("different distributions", SCALE)):
        rows = []
        for _ in tqdm(range(repeats), desc=name):
            x, y = (np.sqrt(eigenvalues) * rng.standard_normal((num_images, num_features)) for _ in range(2))
            rows.append((frechet_distance(x, scale * y), KernelComparison(x, scale * y).distance()))
        (fid, kid), (fid_std, kid_std) = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"{name:24} FID {fid:6.2f}, std {fid_std:.2f} (true {(1 - scale)**2 * VARIANCE:.2f})   KID * 1e6 "
              f"{kid * 1e6:6.1f}, std {kid_std * 1e6:.1f} (true {kid_factor * (1 - scale**2)**2 * 1e6:.1f})")


def main(args):
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of NumPy and SciPy, read when they load
    import numpy as np
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    if args.bias:
        measure_bias(args.num_images, args.num_features, args.repeats, rng)
        return
    # Correlated, skewed and never negative, as features behind a ReLU are
    mixing = rng.standard_normal((64, args.num_features)) / 8
    x, y = (torch.from_numpy(np.maximum(rng.standard_normal((args.num_images, 64)) @ mixing + shift + 0.3
                                        * rng.standard_normal((args.num_images, args.num_features)), 0)).float()
            for shift in (0, 0.1))
    measure_times(x, y, args.repeats)


if __name__ == "__main__":
    script.run_main(main, parse_args())
