"""HAND-CONF and presence: how sure MediaPipe is of the hands in folders of images; how many of them show a gesture.

python hand_confidence.py --gesture call --image_folder data/call/test/images outputs/call/images

Reads the images of each folder. Prints a table with a column per folder, and a one-line summary as the last line:
  num_images                      images that can be read; shares and means are taken over these or some of these
  num_skipped, num_without_hand   images that cannot be read (named in warnings); images in which no hand is found
  detection_rate                  share of the images with a hand
  hand_conf                       mean handedness score of all detected hands, as published; never below 0.5
  hand_conf_zero_filled           mean over all images of the score of the best hand, 0 where there is none
  hand_presence                   mean confidence that a detected hand is a hand at all, which malformed hands lower;
                                  never below 0.5, where a hand counts as detected
  hand_presence_zero_filled       mean over all images of the highest presence, 0 where there is no hand
  gesture_match_rate              share of the images with a hand whose best hand, the one with the highest score,
                                  shows the fingers of --gesture, whatever its side, size and rotation
  gesture_match_rate_zero_filled  the same as a share of all images: one without a hand does not show the gesture
  direction_match_rate            like and dislike only: share of the images that show their fingers in which the
                                  thumb points up, or down
In brackets stand 95 % intervals: of a rate by Wilson's formula, of a mean score by a bootstrap over images.
Worse hands are found less often, so compare folders by the zero-filled numbers, or beside the detection rate.
Appends one JSON row per folder to --output, and writes --per_image and --grid for a look behind the numbers.
"""

import csv

from utils.data import output_paths
from utils.data.gestures import get_gesture, require_gesture
from utils.system import cli, errors, files, script

COUNTS = ("num_images", "num_skipped", "num_without_hand", "num_hands")
METRICS = ("detection_rate", "hand_conf", "hand_conf_zero_filled", "hand_presence", "hand_presence_zero_filled",
           "gesture_match_rate", "gesture_match_rate_zero_filled", "direction_match_rate")
PROTOCOLS = {"clean": {"max_num_hands": 2, "min_confidence": 0.5},
             "hand1000": {"max_num_hands": 2, "min_confidence": 0.0}}
BOX = ("x0", "y0", "x1", "y1")


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image_folder", type=cli.path_name, nargs="+", required=True,
                        help="one or more folders of images")
    parser.add_argument("--names", nargs="+", help="a label for each folder (default: the folders as given)")
    parser.add_argument("--gesture", help="HaGRID name of the gesture whose fingers the hands should show")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="clean",
                        help="sets the next two flags. clean: two hands at confidence 0.5. hand1000: two hands at "
                             "confidence 0, as published")
    parser.add_argument("--max_num_hands", type=cli.int_between(1, 100),
                        help="how many hands to look for in an image (default: that of the protocol)")
    parser.add_argument("--min_confidence", type=cli.unit_interval,
                        help="lowest confidence of MediaPipe's palm detector, 0 to 1 (default: that of the protocol)")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="threads (default: one per core)")
    parser.add_argument("--cache_dir", type=cli.path_name,
                        help="folder to keep the detected hands in, for this script, cal_fid.py and cal_kid.py; used "
                             "again while the images are the same")
    parser.add_argument("--output", type=cli.path_name,
                        help="JSON lines file to append one row per folder to")
    parser.add_argument("--per_image", type=cli.path_name, help="CSV file to write, one line per image")
    parser.add_argument("--grid", type=cli.path_name,
                        help="PNG or JPEG to write: the 16 worst images of each folder, at most half "
                             "without a hand, what was detected drawn in: those that miss the gesture first, "
                             "then by score")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)
    for name, value in PROTOCOLS[args.protocol].items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    for folder in args.image_folder:
        cli.require_dir(parser, folder, "--image_folder", "give an existing folder with images")
    cli.require_names(parser, args.names, args.image_folder)
    if args.gesture and require_gesture(parser, args.gesture).fingers is None:
        parser.error(f"--gesture {args.gesture}: how its fingers are held is not known; leave the flag out")
    cli.require_dir_or_new(parser, args.cache_dir, "--cache_dir")
    output_paths.check_outputs(parser, args, args.image_folder)
    return args


def format_metric(row, name):
    if row[name] is None:
        return "-"
    if row[f"{name}_low"] is None:
        return f"{row[name]:.4f}"
    return f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"


def format_summary(row):
    """A folder in one line."""
    confidence = "-" if row["hand_conf"] is None else f"{row['hand_conf']:.4f}"
    text = f"{row['name']}: HAND-CONF {confidence}, "
    text += f"hands in {row['detection_rate']:.1%} of {row['num_images']} images"
    if row.get("gesture_match_rate") is not None:
        text += f", {row['gesture_match_rate']:.1%} of these hold their fingers as {row['gesture']}"
    if row.get("direction_match_rate") is not None:
        text += f", {row['direction_match_rate']:.1%} of those with the thumb in its direction"
    return text + (f", {row['num_skipped']} skipped" if row["num_skipped"] else "")


def main(args):
    from utils.data.images import list_images, save_image
    from utils.hands.detector import detect_folder
    from utils.hands.landmarker import describe_detector
    from utils.metrics.hand_scores import list_fingers_out, score_image, summarize_folder
    from utils.metrics.hand_sheet import draw_sheet
    from utils.metrics.results_table import align

    # Check that every folder has images before the first is looked at
    folders = [list_images(folder) for folder in args.image_folder]
    names = [errors.one_line(name) for name in args.names or args.image_folder]
    gesture = get_gesture(args.gesture) if args.gesture else None

    # Detect the hands of all folders in one pass
    records = iter(detect_folder([path for paths in folders for path in paths], args.num_workers,
                                 args.max_num_hands, args.min_confidence, cache_dir=args.cache_dir))
    scored = [[score_image(*next(records), gesture) for _ in paths] for paths in folders]

    # Summarize
    settings = {"script": "hand_confidence.py", "gesture": args.gesture, "seed": args.seed, "protocol": args.protocol,
                "max_num_hands": args.max_num_hands, "min_confidence": args.min_confidence,
                "detector": describe_detector()}
    rows = []
    for name, folder, images in zip(names, args.image_folder, scored, strict=True):
        summary = summarize_folder(images, gesture, args.seed)
        if not summary["num_images"]:
            raise errors.UserError(f"{folder}: none of its {len(images)} images can be read; see the warnings")
        rows.append({"name": name, "image_folder": str(folder), **summary, **settings})

    # Save, then print
    for row in rows if args.output else []:
        files.append_row(args.output, row)
    table = [["", *names], *([name, *(str(row[name]) for row in rows)] for name in COUNTS),
             *([name, *(format_metric(row, name) for row in rows)] for name in METRICS if name in rows[0])]
    print(*align(table), "; ".join(map(format_summary, rows)), sep="\n")

    # A line per image: scores, and fingers, side and relative box of its best hand
    if args.per_image:
        with files.atomic_path(args.per_image) as temporary:
            with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.DictWriter(file, ["folder", "file", "num_hands", "score", "presence", "shows_gesture",
                                               "fingers_out", "handedness", *BOX])
                writer.writeheader()
                for name, image in ((name, image) for name, images in zip(names, scored, strict=True)
                                    for image in images):
                    line = {"folder": name, "file": image.path.name, "num_hands": "unreadable"}
                    if image.hands is not None:
                        line |= {"num_hands": len(image.hands), "score": f"{image.score:.4f}"}
                        line |= {"shows_gesture": int(image.shows_gesture)} if gesture else {}
                    if image.best:
                        line |= {"presence": f"{image.best.presence:.4f}", "handedness": image.best.handedness,
                                 "fingers_out": list_fingers_out(image.best)}
                        line |= dict(zip(BOX, (f"{value:.4f}" for value in image.best.box), strict=True))
                    writer.writerow(line)

    # The worst images, and what was detected in them
    if args.grid:
        save_image(draw_sheet(scored, names, gesture), args.grid)


if __name__ == "__main__":
    script.run_main(main, parse_args())
