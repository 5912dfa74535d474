"""FID of two folders of images, and FID-H of the hands in them: how far apart two sets of pictures are.

python cal_fid.py --real_images data/call/test/images --fake_images outputs/call/images

Prints one line per number with the images it rests on, and a one-line summary as the last line. FID-H is the same
distance on crops of the hands that MediaPipe finds; images without one cannot enter it, so read it together with the
detection rate. FID falls with the number of images: compare at equal numbers, and look at --floor. cal_kid.py has no
such bias. Appends one JSON row to --output.
"""

from utils.metrics import evaluation
from utils.system import cli, script

HAND_CROPS = {"clean": "hand", "hand1000": "union"}  # the published FID-H takes one box around all hands


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    evaluation.add_flags(parser)
    args = parser.parse_args(argv)
    evaluation.check_args(parser, args)
    return args


def main(args):
    from utils.metrics.distances import frechet_distance

    def headline(real, fake):
        return frechet_distance(real.features, fake.features)

    evaluation.compare_folders(args, evaluation.Distance(
        "fid", "FID", HAND_CROPS, is_biased=True, headline=headline,
        measure=lambda real, fake: {"": headline(real, fake)},
        describe=lambda values: evaluation.format_number(values[""]),
    ))


if __name__ == "__main__":
    script.run_main(main, parse_args())
