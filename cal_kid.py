"""KID of two folders of images, and KID-H of the hands in them, with intervals.

python cal_kid.py --real_images data/call/test/images --fake_images outputs/call/images

Prints one line per number with the images it rests on, and a one-line summary as the last line. The estimator is
unbiased: two samples of one distribution give 0 on average whatever their number, so that small sets can be compared.
In brackets stands a 95 % bootstrap interval over images. KID-H is the same distance on crops of the hands that
MediaPipe finds; images without one cannot enter it, so read it together with the detection rate. Appends one JSON row
to --output.
"""

import functools

from utils.metrics import comparison_flags
from utils.metrics.comparison_flags import RESAMPLES, SUBSETS
from utils.system import cli, processes, script

HAND_CROP = "hand"  # in both protocols


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    comparison_flags.add_flags(parser)
    parser.add_argument("--num_subsets", type=cli.int_between(1, 100_000),
                        help=f"random subsets, of half the images each, whose spread is given (default: {SUBSETS})")
    parser.add_argument("--num_resamples", type=cli.int_between(1, 100_000),
                        help=f"bootstrap samples behind the interval (default: {RESAMPLES})")
    args = parser.parse_args(argv)
    comparison_flags.check_args(parser, args)
    for name, default in (("num_subsets", SUBSETS), ("num_resamples", RESAMPLES)):
        if args.protocol == "clean" and getattr(args, name) is None:
            setattr(args, name, default)
        elif args.protocol == "hand1000" and getattr(args, name) is not None:
            parser.error(f"--{name}: --protocol hand1000 has no choice there; drop one of the two")
    return args


def main(args):
    from utils.metrics import distances, evaluation
    from utils.metrics.comparison_report import Numbers, Report, format_number
    from utils.metrics.distance_metrics import KernelDistance
    from utils.system.device import resolve_device

    # Open the folders, then the network
    processes.join(args.device)
    device = resolve_device(args.device)
    real, *fakes = evaluation.open_folders(args)
    extractor = evaluation.load_extractor(args)

    # Hands, then features, of all folders; several processes share the images
    regions = comparison_flags.chosen_regions(args)
    evaluation.read_folders([real, *fakes], regions, HAND_CROP, extractor, device, args)

    # Distances, for which torchmetrics gathers what each process has
    is_published = args.protocol == "hand1000"
    floor_of = distances.kernel_distance
    if is_published:
        floor_of = functools.partial(distances.published_kernel_distance, seed=args.seed)
    report = Report("KID", args, real, extractor, HAND_CROP, is_biased=is_published)
    for fake in fakes:
        numbers = {}
        for region in evaluation.common_regions(real, fake):
            if is_published:  # mean and spread of the biased estimate over subsets
                unit, size = "rows", distances.published_subset_size(real.num_rows[region], fake.num_rows[region])
                settings = {"unbiased": False, "num_subsets": distances.PUBLISHED_SUBSETS, "subset_size": size}
            else:  # the unbiased estimate from all rows, its interval over images, and the spread over subsets
                unit, smaller = "images", min(real.num_images[region], fake.num_images[region])
                size = smaller // 2
                settings = {"num_resamples": args.num_resamples, "num_subsets": args.num_subsets, "subset_size": size}
                settings = settings if smaller >= distances.LEAST_FOR_INTERVAL else {}
            distance = KernelDistance(**settings, seed=args.seed).to(device)
            evaluation.add_samples(distance, real, fake, region)
            kid = distance.compute()

            values = {"": kid.subset_mean if is_published else kid.distance}
            text = format_number(values[""])
            if kid.low is not None:
                values |= {"_low": kid.low, "_high": kid.high}
                text += f" [{format_number(kid.low)}, {format_number(kid.high)}]"
            if kid.subset_std is not None:
                values |= {"_subset_std": kid.subset_std, "_subset_size": size, "_subset_unit": unit}
                text += f" ({format_number(kid.subset_std)} std over subsets of {size} {unit})"
            floor = evaluation.measure_floor(distance, args.seed, floor_of) if args.floor else None
            numbers[region] = Numbers(values, text, floor)
        report.write(fake, numbers)
    report.end()
    processes.leave()


if __name__ == "__main__":
    script.run_main(main, parse_args())
