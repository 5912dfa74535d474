"""HAND-CONF: how sure MediaPipe is of the hands in folders of images, and how many of them show a gesture.

python hand_confidence.py --gesture call --image_folder data/call/test/images outputs/call/images

Reads the images of each folder. Prints a table, one row per folder, and a one-line summary as the last line:
  detection_rate         share of the images with a hand
  hand_conf              mean handedness score of all detected hands, as published; never below 0.5
  hand_conf_zero_filled  mean over all images of the score of the best hand, 0 where there is none
  gesture_match_rate     share of the images with a hand in which a hand shows the fingers of --gesture
Appends one JSON row per folder to --output, and writes --per_image and --grid for a look behind the numbers.
The published settings are --min_confidence 0 --max_num_hands 2, several times slower.
"""
import csv

from utils import cli

METRICS = ("detection_rate", "hand_conf", "hand_conf_zero_filled", "gesture_match_rate")
GRID_IMAGES, GRID_COLUMNS, GRID_PIXELS = 16, 8, 192  # images per folder, images per row, longest side


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image_folder", type=cli.path_name, nargs="+", required=True,
                        help="one or more folders of images")
    parser.add_argument("--names", nargs="+", help="a label for each folder (default: the folders as given)")
    parser.add_argument("--gesture", help="HaGRID name of the gesture whose fingers the hands should show")
    parser.add_argument("--max_num_hands", type=cli.positive_int, default=2,
                        help="how many hands to look for in an image")
    parser.add_argument("--min_confidence", type=cli.unit_interval, default=0.5,
                        help="lowest confidence of MediaPipe's palm detector, 0 to 1")
    parser.add_argument("--num_workers", type=cli.positive_int,
                        help="processes (default: one per core, fewer for few images)")
    parser.add_argument("--output", type=cli.path_name,
                        help="JSON lines file to append one row per folder to")
    parser.add_argument("--per_image", type=cli.path_name, help="CSV file to write, one line per image")
    parser.add_argument("--grid", type=cli.path_name,
                        help=f"PNG or JPEG to write: the {GRID_IMAGES} worst images of each folder, what was "
                             "detected drawn in: those that miss the gesture first, then by score")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    for folder in args.image_folder:
        cli.require_dir(parser, folder, "--image_folder", "give an existing folder with images")
    if args.names and len(args.names) != len(args.image_folder):
        parser.error(f"--names: {len(args.names)} for {len(args.image_folder)} folders; give one for each")
    if args.gesture and cli.require_gesture(parser, args.gesture).fingers is None:
        parser.error(f"--gesture {args.gesture}: how its fingers are held is not known; leave the flag out")
    for flag in ("output", "per_image", "grid"):
        if (path := getattr(args, flag)) and path.is_dir():
            parser.error(f"--{flag} {path}: is a folder; give a file name")
    if args.grid and args.grid.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--grid {args.grid}: give a name that ends in .png or .jpg")
    return args


def score_image(path, hands, gesture):
    """What the metrics need of one image, as a dict; `hands` as from utils.hands.detect_folder.

    `best` is the hand that shows the gesture if one does, else the one with the highest score, or None.
    """
    from utils.finger_states import matches_gesture

    ranked = sorted(hands or [], key=lambda hand: -hand.score)
    showing = [hand for hand in ranked if gesture and matches_gesture(hand, gesture)]
    best = (showing or ranked or [None])[0]
    return {"path": path, "hands": hands, "best": best, "shows_gesture": bool(showing),
            "score": max((hand.score for hand in ranked), default=0.0)}


def summarize_folder(scored, gesture):
    """Counts and metrics of a folder from its score_image dicts; None for a mean over nothing."""
    def mean(values):
        return sum(values) / len(values) if values else None

    readable = [image for image in scored if image["hands"] is not None]
    detected = [image for image in readable if image["hands"]]
    row = {"num_images": len(readable), "num_skipped": len(scored) - len(readable),
           "num_without_hand": len(readable) - len(detected),
           "num_hands": sum(len(image["hands"]) for image in detected),
           "detection_rate": mean([bool(image["hands"]) for image in readable]),
           "hand_conf": mean([hand.score for image in detected for hand in image["hands"]]),
           "hand_conf_zero_filled": mean([image["score"] for image in readable])}
    if gesture:
        row["gesture_match_rate"] = mean([image["shows_gesture"] for image in detected])
    return row


def format_table(rows):
    """Lines of an aligned table: name, counts and metrics of each row."""
    columns = ["name", "num_images", "num_skipped", *(key for key in METRICS if key in rows[0])]

    def cell(value):
        return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    cells = [columns, *([cell(row[key]) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]


def format_summary(rows):
    """All folders in one line."""
    parts = []
    for row in rows:
        confidence = "-" if row["hand_conf"] is None else f"{row['hand_conf']:.4f}"
        part = f"{row['name']}: HAND-CONF {confidence}, "
        part += f"hands in {row['detection_rate']:.1%} of {row['num_images']} images"
        if row.get("gesture_match_rate") is not None:
            part += f", {row['gesture_match_rate']:.1%} of these show {row['gesture']}"
        parts.append(part)
    return "; ".join(parts)


def write_per_image(path, scored, names):
    """One CSV line per image: scores, and fingers, side and relative box of its best hand."""
    from utils.finger_states import finger_states

    with cli.atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["folder", "file", "num_hands", "score", "shows_gesture",
                             "fingers_out", "handedness", "x0", "y0", "x1", "y1"])
            for name, images in zip(names, scored, strict=True):
                for image in images:
                    hands, best = image["hands"], image["best"]
                    row = [name, image["path"].name]
                    if hands is None:
                        row += ["unreadable"]
                    else:
                        row += [len(hands), f"{image['score']:.4f}", int(image["shows_gesture"])]
                    if best:
                        states = finger_states(best.world_landmarks)
                        row += [" ".join(finger for finger in states if states[finger] == "out")]
                        row += [best.handedness, *(f"{value:.4f}" for value in best.box)]
                    writer.writerow(row)


def save_grid(path, scored, names):
    """The lowest-scoring images of each folder on one sheet, with what was detected in them."""
    from PIL import ImageOps

    from utils.hands import draw_hands
    from utils.images import contact_sheet, open_image, save_image

    tiles, captions = [], []
    for name, images in zip(names, scored, strict=True):
        readable = [image for image in images if image["hands"] is not None]
        readable.sort(key=lambda image: (image["shows_gesture"], image["score"]))
        for image in readable[:GRID_IMAGES]:
            tile = ImageOps.contain(open_image(image["path"]), (GRID_PIXELS, GRID_PIXELS))
            tiles.append(draw_hands(tile, image["hands"]))
            captions.append(f"{name} {image['path'].name} {image['score']:.3f}")
    save_image(contact_sheet(tiles, GRID_COLUMNS, captions), path)


def main(args):
    from utils.gestures import get_gesture
    from utils.hands import detect_folder
    from utils.images import list_images

    # Check that every folder has images before the first is looked at
    folders = [list_images(folder) for folder in args.image_folder]
    names = [cli.one_line(name) for name in args.names or args.image_folder]
    gesture = get_gesture(args.gesture) if args.gesture else None

    # Detect the hands of all folders in one pass
    records = iter(detect_folder([path for paths in folders for path in paths], args.num_workers,
                                 args.max_num_hands, args.min_confidence))
    scored = [[score_image(*next(records), gesture) for _ in paths] for paths in folders]

    # Summarize
    settings = {"script": "hand_confidence.py", "gesture": args.gesture, "seed": args.seed,
                "max_num_hands": args.max_num_hands, "min_confidence": args.min_confidence}
    rows = []
    for name, folder, images in zip(names, args.image_folder, scored, strict=True):
        summary = summarize_folder(images, gesture)
        if not summary["num_images"]:
            raise cli.UserError(f"{folder}: none of its {len(images)} images can be read; see the warnings")
        rows.append({"name": name, "image_folder": str(folder), **summary, **settings})

    # Save, then print
    if args.per_image:
        write_per_image(args.per_image, scored, names)
    if args.grid:
        save_grid(args.grid, scored, names)
    for row in rows if args.output else []:
        cli.append_row(args.output, row)
    print("\n".join(format_table(rows)))
    print(format_summary(rows))


if __name__ == "__main__":
    cli.run_main(main, parse_args())
