"""The flags of cal_fid.py and cal_kid.py: which folders are compared, and how their features are read."""

from dataclasses import dataclass
from pathlib import Path

from utils.data import output_paths
from utils.system import cli

REGIONS = {"full": ("full",), "hands": ("hands",), "both": ("full", "hands")}
PROTOCOLS = ("clean", "hand1000")
FEATURES = ("inception", "landmarks", "synthetic")
FLOOR_SPLITS = 10  # of the real images into halves: one alone may lie anywhere near its mean
SUBSETS, RESAMPLES = 100, 1000  # of KID


@dataclass(frozen=True)
class ReadingSettings:
    """How the features of folders are read: the flags of these names, and their defaults."""

    features: str = "inception"
    protocol: str = "clean"
    inception_weights: str | None = None
    num_images: int | None = None
    seed: int = 0
    device: str = "auto"
    batch_size: int = 32
    num_workers: int | None = None
    cache_dir: Path | None = None


def add_flags(parser):
    default = ReadingSettings()
    parser.add_argument("--real_images", type=cli.path_name, required=True, help="folder of real images")
    parser.add_argument("--fake_images", type=cli.path_name, nargs="+", required=True,
                        help="one or more folders of generated images, each compared with the real ones")
    parser.add_argument("--names", nargs="+", help="a label for each folder of --fake_images")
    parser.add_argument("--num_images", type=cli.positive_int,
                        help="take so many images of every folder, drawn at random (default: all)")
    parser.add_argument("--region", choices=REGIONS, default="both",
                        help="what to compare: the whole images, the hands cut out of them, or both")
    parser.add_argument("--features", choices=FEATURES, default=default.features,
                        help="inception: what FID and KID are known for. landmarks: the pose of the hands as MediaPipe "
                             "sees it, hands only. synthetic: a small shipped network for rendered hands")
    parser.add_argument("--protocol", choices=PROTOCOLS, default=default.protocol,
                        help="clean: ours. hand1000: the definitions of the paper's programs, on correct RGB")
    parser.add_argument("--inception_weights", metavar="PATH",
                        help="a weights file instead of the download; random: for tests, the numbers mean nothing")
    parser.add_argument("--floor", action="store_true",
                        help=f"also print what two halves of the real images give, {FLOOR_SPLITS} times at random, and "
                             "the fake ones at the same number")
    parser.add_argument("--batch_size", type=cli.batch_size, default=default.batch_size,
                        help="pictures in a batch of the network")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="threads that detect hands (default: one per core)")
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
    weights = [] if args.inception_weights in (None, "random") else [Path(args.inception_weights)]
    output_paths.check_outputs(parser, args, [args.real_images, *args.fake_images], weights)


def chosen_regions(args):
    """What is compared, after --region and --features."""
    return ("hands",) if args.features == "landmarks" else REGIONS[args.region]
