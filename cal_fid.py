"""FID of two folders of images, and FID-H of the hands in them: how far apart two sets of pictures are.

python cal_fid.py --real_images data/call/test/images --fake_images outputs/call/images

Prints one line per number with the images it rests on, and a one-line summary as the last line. FID-H is the same
distance on crops of the hands that MediaPipe finds; images without one cannot enter it, so read it together with the
detection rate. FID falls with the number of images: compare at equal numbers, and look at --floor. cal_kid.py has no
such bias. Appends one JSON row to --output.
"""

from utils.metrics import comparison_flags
from utils.system import cli, processes, script

HAND_CROPS = {"clean": "hand", "hand1000": "union"}  # the published FID-H takes one box around all hands


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    comparison_flags.add_flags(parser)
    args = parser.parse_args(argv)
    comparison_flags.check_args(parser, args)
    return args


def main(args):
    from utils.metrics import evaluation
    from utils.metrics.comparison_report import Numbers, Report, format_number
    from utils.metrics.distance_metrics import FrechetDistance
    from utils.metrics.distances import frechet_distance
    from utils.system.device import resolve_device

    # Open the folders, then the network
    processes.join(args.device)
    device = resolve_device(args.device)
    real, *fakes = evaluation.open_folders(args)
    extractor = evaluation.load_extractor(args)

    # Hands, then features, of all folders; several processes share the images
    hand_crop, regions = HAND_CROPS[args.protocol], comparison_flags.chosen_regions(args)
    evaluation.read_folders([real, *fakes], regions, hand_crop, extractor, device, args)

    # Distances, for which torchmetrics gathers what each process has
    report = Report("FID", args, real, extractor, hand_crop, is_biased=True)
    for fake in fakes:
        numbers = {}
        for region in evaluation.common_regions(real, fake):
            distance = FrechetDistance().to(device)
            evaluation.add_samples(distance, real, fake, region)
            fid = distance.compute().item()
            floor = evaluation.measure_floor(distance, args.seed, frechet_distance) if args.floor else None
            numbers[region] = Numbers({"": fid}, format_number(fid), floor)
        report.write(fake, numbers)
    report.end()
    processes.leave()


if __name__ == "__main__":
    script.run_main(main, parse_args())
