"""Two folders of images compared: what cal_fid.py and cal_kid.py share, which is all but the distance itself."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils.data import output_paths
from utils.system import cli, errors, files, processes

REGIONS = {"full": ("full",), "hands": ("hands",), "both": ("full", "hands")}
KEY_SUFFIX = {"full": "", "hands": "_h"}
LABEL_SUFFIX = {"full": "", "hands": "-H"}
PROTOCOLS = ("clean", "hand1000")
FEATURES = ("inception", "landmarks", "synthetic")
DETECTION = {"max_num_hands": 2, "min_confidence": 0.5}  # of MediaPipe, in both protocols
CROP_UNITS = {"full": "images", "hand": "hands", "union": "hand boxes"}  # what a row of features is of
FLOOR_SPLITS = 10  # of the real images into halves: one alone may lie anywhere near its mean


# Flags


def add_flags(parser):
    parser.add_argument("--real_images", type=cli.path_name, required=True, help="folder of real images")
    parser.add_argument("--fake_images", type=cli.path_name, nargs="+", required=True,
                        help="one or more folders of generated images, each compared with the real ones")
    parser.add_argument("--names", nargs="+", help="a label for each folder of --fake_images")
    parser.add_argument("--num_images", type=cli.positive_int,
                        help="take so many images of every folder, drawn at random (default: all)")
    parser.add_argument("--region", choices=REGIONS, default="both",
                        help="what to compare: the whole images, the hands cut out of them, or both")
    parser.add_argument("--features", choices=FEATURES, default="inception",
                        help="inception: what FID and KID are known for. landmarks: the pose of the hands as MediaPipe "
                             "sees it, hands only. synthetic: a small shipped network for rendered hands")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="clean",
                        help="clean: ours. hand1000: the definitions of the paper's programs, on correct RGB")
    parser.add_argument("--inception_weights", metavar="PATH",
                        help="a weights file instead of the download; random: for tests, the numbers mean nothing")
    parser.add_argument("--floor", action="store_true",
                        help=f"also print what two halves of the real images give, {FLOOR_SPLITS} times at random, and "
                             "the fake ones at the same number")
    parser.add_argument("--batch_size", type=cli.batch_size, default=32, help="pictures in a batch of the network")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="processes that detect hands (default: one per core, fewer for few images)")
    parser.add_argument("--cache_dir", type=cli.path_name,
                        help="folder to keep features and detected hands in; used again while the images are the same")
    parser.add_argument("--output", type=cli.path_name, help="JSON lines file to append one row to")
    cli.add_common_flags(parser)


def check_args(parser, args):
    for path, flag in [(args.real_images, "--real_images"), *((path, "--fake_images") for path in args.fake_images)]:
        cli.require_dir(parser, path, flag, "give an existing folder with images")
    cli.require_names(parser, args.names, args.fake_images)
    if args.num_images == 1:
        parser.error("--num_images 1: a distance needs two images or more of each folder")
    if args.features == "landmarks" and args.region == "full":
        parser.error("--features landmarks describe hands, not whole images; use --region hands")
    if args.protocol == "hand1000" and args.features != "inception":
        parser.error(f"--protocol hand1000 is defined on Inception features; drop --features {args.features}")
    if args.inception_weights is not None and args.features != "inception":
        parser.error(f"--inception_weights has no effect with --features {args.features}; drop one of the two")
    if args.inception_weights not in (None, "random"):
        cli.require_file(parser, args.inception_weights, "--inception_weights", "give a .pth or .safetensors file")
    cli.require_dir_or_new(parser, args.cache_dir, "--cache_dir")
    weights = [] if args.inception_weights in (None, "random") else [args.inception_weights]
    output_paths.check_outputs(parser, args, [args.real_images, *args.fake_images], weights)


# What is measured


@dataclass(frozen=True)
class Distance:
    """FID or KID. key, label: "fid", "FID". hand_crops: how hands are cut out in each protocol (features.CROPS).

    headline(real, fake): the number of two FeatureSets. measure(real, fake): a dict of it under "" and of what goes
    with it, by the suffix of its key in a row. describe(values): those as text.
    """

    key: str
    label: str
    hand_crops: dict
    is_biased: bool
    headline: Callable
    measure: Callable
    describe: Callable


@dataclass
class Folder:
    """One folder of images. records: (path, hands), after detect_hands of those that can be read."""

    path: Path
    name: str
    records: list
    num_skipped: int = 0
    num_with_hand: int = 0
    regions: dict = field(default_factory=dict)  # region -> FeatureSet

    @property
    def detection_rate(self):
        return self.num_with_hand / len(self.records)


def open_folder(path, name, num_images, seed):
    """A Folder of all its images, or of `num_images` of them drawn at random."""
    from utils.data.images import list_images

    paths = list_images(path)
    if num_images and num_images < len(paths):
        paths = sorted(random.Random(seed).sample(paths, num_images))
    return Folder(path, name, [(path, []) for path in paths])


def detect_hands(folders, num_workers, cache_dir):
    """Find the hands of all folders in one pass; images that cannot be read leave the records."""
    from utils.hands.detector import detect_folder

    def detect(part):
        return detect_folder(part, processes.own_workers(num_workers), **DETECTION, cache_dir=cache_dir)

    found = iter(processes.share_out([path for folder in folders for path, _ in folder.records], detect))
    for folder in folders:
        records = list(itertools.islice(found, len(folder.records)))
        folder.records = [(path, hands) for path, hands in records if hands is not None]
        folder.num_skipped = len(records) - len(folder.records)
        folder.num_with_hand = sum(bool(hands) for _, hands in folder.records)


def load_extractor(args):
    """The network of --features, None for landmarks, which need none."""
    if args.features == "synthetic":
        from utils.synthetic.feature_network import load_feature_network

        return load_feature_network()
    if args.features == "inception":
        from utils.metrics.inception import load_inception

        published = args.protocol == "hand1000"
        weights = args.inception_weights or ("imagenet" if published else "fid")
        network = load_inception(weights, "published" if published else "clean", args.seed,
                                 "imagenet" if published else "fid")
        if published and network.variant != "imagenet":
            raise errors.UserError(f"--inception_weights {weights}: the FID weights; --protocol hand1000 is defined on "
                                "the ImageNet ones, give inception_v3_google-0cc3c7bd.pth or use --protocol clean")
        return network
    return None


def check_hands(folder, regions):
    """The regions that can be measured. UserError if none can, for lack of images with a hand."""
    if folder.num_with_hand >= 2 or "hands" not in regions:
        return regions
    reason = f"{folder.path}: at least two images with a hand are needed, it has {folder.num_with_hand}"
    if regions == ("hands",):
        raise errors.UserError(f"{reason}; see the warnings, or give another folder")
    errors.warn(f"{reason}; no hand number")
    return tuple(region for region in regions if region != "hands")


def measure_folder(folder, regions, hand_crop, extractor, args, device):
    """Fill folder.regions. UserError if fewer than two images of a region are left."""
    from utils.metrics import features

    for region in check_hands(folder, regions):
        if extractor is None:
            found = features.landmark_features(folder.records)
        else:
            found = features.join_shares(processes.gather(features.extract_features(
                extractor, folder.records[processes.rank() :: processes.count()],
                "full" if region == "full" else hand_crop, device, args.batch_size, args.cache_dir, DETECTION,
                f"{folder.name}, {region}")))
        folder.num_skipped += len(found.unreadable)
        folder.regions[region] = found
        if len(found.images) < 2:
            raise errors.UserError(f"{folder.path}: at least two images that can be read are needed, it has "
                                f"{len(found.images)}; see the warnings, or give another folder")


def measure_floor(real, fake, seed, headline):
    """Two halves of the real images, and one of them against as many fake ones, by the suffix of a row's key.

    Of an image one hand enters, so that all parts have the same number of rows and the same bias. Mean and standard
    deviation are those of FLOOR_SPLITS random halves, which overlap. Empty if there are too few images.
    """
    import numpy as np

    from utils.metrics.intervals import split_halves

    size = min(len(real.images) // 2, len(fake.images))
    if size < 2:
        return {}
    rng = np.random.default_rng(seed)
    values = []
    for split in range(FLOOR_SPLITS):
        first, second = (real.one_each(real.images[half], rng)
                         for half in split_halves(len(real.images), (seed, split), size))
        chosen = fake.one_each(rng.permutation(fake.images)[:size], rng)
        values.append((headline(first, second), headline(first, chosen)))
    (floor, same), (floor_std, same_std) = np.mean(values, axis=0).tolist(), np.std(values, axis=0).tolist()
    return {"floor": floor, "floor_std": floor_std, "same_n": same, "same_n_std": same_std, "floor_n": size,
            "floor_splits": FLOOR_SPLITS}


def compare_region(region, real, fake, distance, args, source):
    """(values by key of the row, lines to print, headline as text) of one region of two Folders."""
    key, label = distance.key + KEY_SUFFIX[region], distance.label + LABEL_SUFFIX[region]
    if region not in real.regions or region not in fake.regions:
        text = f"{label} - (too few images with a hand)"
        return {key: None}, [f"{text}; {source}"], text
    real_set, fake_set = real.regions[region], fake.regions[region]
    counts = len(real_set.features), len(fake_set.features)
    unit = row_unit(region, distance, args)
    if counts[0] != counts[1] and distance.is_biased:
        errors.warn(f"{fake.name}: {counts[0]} real and {counts[1]} fake {unit}: the bias of {label} depends on both "
                 "numbers; compare only with rows of the same numbers, see --num_images")
    elif counts[0] != counts[1]:
        errors.warn(f"{fake.name}: {counts[0]} real and {counts[1]} fake {unit}; {label} has no bias from that")
    values = distance.measure(real_set, fake_set)
    headline = f"{label} {distance.describe(values)}"
    text = f"{headline} ({counts[0]} real and {counts[1]} fake {unit})"
    row = {key + suffix: value for suffix, value in values.items()}
    row |= {f"{key}_num_real": counts[0], f"{key}_num_fake": counts[1], f"{key}_unit": unit}
    lines = [f"{headline}: {counts[0]} real and {counts[1]} fake {unit}; {source}"]
    floor = measure_floor(real_set, fake_set, args.seed, distance.headline) if args.floor else {}
    if floor:
        row |= {f"{key}_{suffix}": value for suffix, value in floor.items()}
        numbers = {name: format_number(floor[name]) for name in ("floor", "floor_std", "same_n", "same_n_std")}
        lines.append(f"{label} floor {numbers['floor']} ({numbers['floor_std']} std): real against real; fake against "
                     f"real at the same number {numbers['same_n']} ({numbers['same_n_std']} std); {floor['floor_n']} "
                     f"and {floor['floor_n']} {unit}, {floor['floor_splits']} random halves; {source}")
    elif args.floor:
        errors.warn(f"{label}: too few images for --floor, which needs four real ones and two fake ones")
    return row, lines, text


def compare_folders(args, distance):
    """Compare every folder of --fake_images with --real_images by a Distance.

    Prints one line per folder and per number, then a summary as the last line; appends a row per folder to --output.
    Several processes share the images; the first one compares and prints.
    """
    from utils.hands import detector
    from utils.system.device import resolve_device

    processes.join(args.device)

    # Check what is cheap to check
    real = open_folder(args.real_images, "real", args.num_images, args.seed)
    names = args.names or args.fake_images
    fakes = [open_folder(path, errors.one_line(name), args.num_images, args.seed)
             for path, name in zip(args.fake_images, names, strict=True)]
    regions = ("hands",) if args.features == "landmarks" else REGIONS[args.region]
    device = resolve_device(args.device)
    detector.require_mediapipe()
    extractor = load_extractor(args)
    source = f"features: {extractor.name if extractor else 'landmarks'}"
    for fake in fakes:
        if fake.path.resolve() == real.path.resolve():
            errors.warn(f"--fake_images {fake.path} is the folder of --real_images")

    # Hands, then features, of all folders; hands also for whole images, whose distance says nothing of missing ones
    detect_hands([real, *fakes], args.num_workers, args.cache_dir)
    for folder in (real, *fakes):
        measure_folder(folder, regions, distance.hand_crops[args.protocol], extractor, args, device)

    processes.leave()
    if not processes.is_first():
        return

    # Distances
    settings = {"protocol": args.protocol, "regions": list(regions), "seed": args.seed,
                "num_images": args.num_images, "batch_size": args.batch_size, "detection": DETECTION,
                **{name: vars(args)[name] for name in ("num_subsets", "num_resamples") if vars(args).get(name)},
                "features": extractor.name if extractor else "landmarks",
                "feature_settings": extractor.settings if extractor else None}
    rows, lines, summaries = [], [describe_folder(real, source)], []
    for fake in fakes:
        row = {"script": f"cal_{distance.key}.py", "name": fake.name, "real_images": str(real.path),
               "fake_images": str(fake.path), **count_images(real, fake), **settings}
        lines.append(describe_folder(fake, source))
        texts = []
        for region in regions:
            values, described, text = compare_region(region, real, fake, distance, args, source)
            row |= values
            texts.append(text)
            lines += [f"{fake.name}: {line}" for line in described]
        rows.append(row)
        summaries.append(f"{fake.name}: {', '.join(texts)}")
    lines.append(f"{'; '.join(summaries)} ({source}, {args.protocol} protocol)")

    # Print, then save, even where the reader of what is printed has gone
    try:
        print("\n".join(lines), flush=True)
    finally:
        for row in rows if args.output else []:
            files.append_row(args.output, row)


# Printing


def row_unit(region, distance, args):
    """What a row of features is of, in the plural."""
    if region == "full":
        return CROP_UNITS["full"]
    return CROP_UNITS["hand" if args.features == "landmarks" else distance.hand_crops[args.protocol]]


def count_images(real, fake):
    """What a row says of how much its numbers rest on."""
    counts = {"num_real": len(real.records), "num_fake": len(fake.records),
              "num_skipped": real.num_skipped + fake.num_skipped,
              "num_skipped_real": real.num_skipped, "num_skipped_fake": fake.num_skipped,
              "detection_rate_real": real.detection_rate, "detection_rate": fake.detection_rate}
    return counts


def describe_folder(folder, source):
    """How much of a folder counts, on one line."""
    line = (f"{folder.name} {errors.one_line(folder.path)}: {len(folder.records)} images, {folder.num_skipped} "
            f"unreadable, hands in {folder.detection_rate:.1%}")
    if "hands" in folder.regions:
        line += f", {len(folder.records) - folder.num_with_hand} without a hand left out of the hand numbers"
    return f"{line}; {source}"


def format_number(value):
    value = round(value, 5) + 0.0  # no "-0.00000"
    return f"{value:.5f}" if abs(value) < 1 else f"{value:.3f}"
