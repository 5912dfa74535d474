"""KID of two folders of images, and KID-H of the hands in them, with intervals.

python cal_kid.py --real_images data/call/test/images --fake_images outputs/call/images

Prints one line per number with the images it rests on, and a one-line summary as the last line. The estimator is
unbiased: two samples of one distribution give 0 on average whatever their number, so that small sets can be compared.
In brackets stands a 95 % bootstrap interval over images. KID-H is the same distance on crops of the hands that
MediaPipe finds; images without one cannot enter it, so read it together with the detection rate. Appends one JSON row
to --output.
"""

from utils.metrics import evaluation
from utils.system import cli, script

HAND_CROPS = {"clean": "hand", "hand1000": "hand"}
SUBSETS, RESAMPLES = 100, 1000
PUBLISHED_SUBSETS, PUBLISHED_SUBSET_SIZE = 100, 1000
LEAST_FOR_INTERVAL = 4  # resamples of two or three rows hold hardly anything but the same pair


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    evaluation.add_flags(parser)
    parser.add_argument("--num_subsets", type=cli.int_between(1, 100_000),
                        help=f"random subsets, of half the images each, whose spread is given (default: {SUBSETS})")
    parser.add_argument("--num_resamples", type=cli.int_between(1, 100_000),
                        help=f"bootstrap samples behind the interval (default: {RESAMPLES})")
    args = parser.parse_args(argv)
    evaluation.check_args(parser, args)
    for name, default in (("num_subsets", SUBSETS), ("num_resamples", RESAMPLES)):
        if args.protocol == "clean" and getattr(args, name) is None:
            setattr(args, name, default)
        elif args.protocol == "hand1000" and getattr(args, name) is not None:
            parser.error(f"--{name}: --protocol hand1000 has no choice there; drop one of the two")
    return args


def measure_clean(real, fake, args):
    """Full-sample unbiased estimate, its bootstrap interval over images, and the spread over subsets."""
    from utils.metrics.distances import KernelComparison

    compared = KernelComparison(real.features, fake.features, (real.image_index, fake.image_index))
    values = {"": compared.distance()}
    smaller = min(compared.count_images())
    if smaller >= LEAST_FOR_INTERVAL:
        values["_low"], values["_high"] = compared.interval(args.num_resamples, args.seed)
    size = smaller // 2
    if size >= 2:
        _, values["_subset_std"] = compared.subsets(args.num_subsets, size, args.seed)
        values["_subset_size"], values["_subset_unit"] = size, "images"
    return values


def measure_published(real, fake, args):
    """Mean and spread of the biased estimate over 100 subsets of at most 1,000."""
    from utils.metrics.distances import KernelComparison

    compared = KernelComparison(real.features, fake.features)
    size = min(len(compared.x), len(compared.y), PUBLISHED_SUBSET_SIZE)
    mean, std = compared.subsets(PUBLISHED_SUBSETS, size, args.seed, unbiased=False)
    return {"": mean, "_subset_std": std, "_subset_size": size, "_subset_unit": "rows"}


def describe(values):
    text = evaluation.format_number(values[""])
    if "_low" in values:
        text += f" [{evaluation.format_number(values['_low'])}, {evaluation.format_number(values['_high'])}]"
    if "_subset_std" in values:
        spread = evaluation.format_number(values["_subset_std"])
        text += f" ({spread} std over subsets of {values['_subset_size']} {values['_subset_unit']})"
    return text


def main(args):
    from utils.metrics.distances import kernel_distance

    if args.protocol == "clean":
        def headline(real, fake):
            return kernel_distance(real.features, fake.features, groups=(real.image_index, fake.image_index))
    else:
        def headline(real, fake):
            return measure_published(real, fake, args)[""]

    measure = measure_clean if args.protocol == "clean" else measure_published
    evaluation.compare_folders(args, evaluation.Distance(
        "kid", "KID", HAND_CROPS, is_biased=args.protocol != "clean", headline=headline,
        measure=lambda real, fake: measure(real, fake, args), describe=describe,
    ))


if __name__ == "__main__":
    script.run_main(main, parse_args())
