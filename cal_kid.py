"""KID of two folders of images, and KID-H of the hands in them, with intervals.

python cal_kid.py --real_images data/call/test/images --fake_images outputs/call/images

Prints one line per number with the images it rests on, and a one-line summary as the last line. The estimator is
unbiased: two samples of one distribution give 0 on average whatever their number, so that small sets can be compared.
In brackets stands a 95 % bootstrap interval over images. KID-H is the same distance on crops of the hands that
MediaPipe finds; images without one cannot enter it, so read it together with the detection rate. Appends one JSON row
to --output.
"""

from utils import cli, evaluation

HAND_CROPS = {"clean": "hand", "hand1000": "hand"}
PUBLISHED_SUBSETS, PUBLISHED_SUBSET_SIZE = 100, 1000
LEAST_FOR_INTERVAL = 4  # resamples of two or three rows hold hardly anything but the same pair


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    evaluation.add_flags(parser)
    parser.add_argument("--num_subsets", type=cli.positive_int, default=100,
                        help="random subsets, of half the images each, whose spread is given (clean protocol)")
    parser.add_argument("--num_resamples", type=cli.positive_int, default=1000,
                        help="bootstrap samples behind the interval (clean protocol)")
    args = parser.parse_args(argv)
    evaluation.check_args(parser, args)
    return args


def measure_clean(real, fake, args):
    """Full-sample unbiased estimate, its bootstrap interval over images, and the spread over subsets."""
    from utils.metrics import KernelComparison

    compared = KernelComparison(real.features, fake.features)
    values = {"": compared.distance()}
    smaller = min(len(compared.x), len(compared.y))
    if smaller >= LEAST_FOR_INTERVAL:
        values["_low"], values["_high"] = compared.interval(
            args.num_resamples, args.seed, groups=(real.image_index, fake.image_index))
    size = smaller // 2
    if size >= 2:
        _, values["_subset_std"] = compared.subsets(args.num_subsets, size, args.seed)
        values["_subset_size"] = size
    return values


def measure_published(real, fake, args):
    """Mean and spread of the biased estimate over 100 subsets of at most 1,000."""
    from utils.metrics import KernelComparison

    compared = KernelComparison(real.features, fake.features)
    size = min(len(compared.x), len(compared.y), PUBLISHED_SUBSET_SIZE)
    mean, std = compared.subsets(PUBLISHED_SUBSETS, size, args.seed, unbiased=False)
    return {"": mean, "_subset_std": std, "_subset_size": size}


def describe(values):
    text = evaluation.format_number(values[""])
    if "_low" in values:
        text += f" [{evaluation.format_number(values['_low'])}, {evaluation.format_number(values['_high'])}]"
    if "_subset_std" in values:
        spread = evaluation.format_number(values["_subset_std"])
        text += f" ({spread} std over subsets of {values['_subset_size']})"
    return text


def main(args):
    from utils.metrics import kernel_distance

    is_clean = args.protocol == "clean"
    measure = measure_clean if is_clean else measure_published
    evaluation.compare_folders(args, evaluation.Distance(
        "kid", "KID", HAND_CROPS, is_biased=not is_clean,
        headline=lambda real, fake: kernel_distance(real, fake, unbiased=is_clean),
        measure=lambda real, fake: measure(real, fake, args),
        describe=describe,
    ))


if __name__ == "__main__":
    cli.run_main(main, parse_args())
