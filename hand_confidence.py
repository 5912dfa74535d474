"""HAND-CONF: how sure MediaPipe is of the hands in folders of images, and how many of them show a gesture.

python hand_confidence.py --gesture call --image_folder data/call/test/images outputs/call/images

Reads the images of each folder. Prints a table with a column per folder, and a one-line summary as the last line:
  num_images                      images that can be read; shares and means are taken over these or some of these
  num_skipped, num_without_hand   images that cannot be read (named in warnings); images in which no hand is found
  detection_rate                  share of the images with a hand
  hand_conf                       mean handedness score of all detected hands, as published; never below 0.5
  hand_conf_zero_filled           mean over all images of the score of the best hand, 0 where there is none
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
from utils.data.gestures import require_gesture
from utils.system import cli, errors, files, script

COUNTS = ("num_images", "num_skipped", "num_without_hand", "num_hands")
METRICS = ("detection_rate", "hand_conf", "hand_conf_zero_filled", "gesture_match_rate",
           "gesture_match_rate_zero_filled", "direction_match_rate")
PROTOCOLS = {"clean": {"max_num_hands": 2, "min_confidence": 0.5},
             "hand1000": {"max_num_hands": 2, "min_confidence": 0.0}}
BOX = ("x0", "y0", "x1", "y1")
GRID_IMAGES, GRID_COLUMNS, GRID_PIXELS = 16, 4, 192  # images per folder, images per row, longest side
CAPTION_LENGTH = 50  # characters of a file name that fit below an image


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image_folder", type=cli.path_name, nargs="+", required=True,
                        help="one or more folders of images")
    parser.add_argument("--names", nargs="+", help="a label for each folder (default: the folders as given)")
    parser.add_argument("--gesture", help="HaGRID name of the gesture whose fingers the hands should show")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="clean",
                        help="sets the next two flags. clean: two hands at confidence 0.5. hand1000: two hands at "
                             "confidence 0, as published, several times slower")
    parser.add_argument("--max_num_hands", type=cli.int_between(1, 100),
                        help="how many hands to look for in an image (default: that of the protocol)")
    parser.add_argument("--min_confidence", type=cli.unit_interval,
                        help="lowest confidence of MediaPipe's palm detector, 0 to 1 (default: that of the protocol)")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="processes (default: one per core, fewer for few images)")
    parser.add_argument("--cache_dir", type=cli.path_name,
                        help="folder to keep the detected hands in, for this script, cal_fid.py and cal_kid.py; used "
                             "again while the images are the same")
    parser.add_argument("--output", type=cli.path_name,
                        help="JSON lines file to append one row per folder to")
    parser.add_argument("--per_image", type=cli.path_name, help="CSV file to write, one line per image")
    parser.add_argument("--grid", type=cli.path_name,
                        help=f"PNG or JPEG to write: the {GRID_IMAGES} worst images of each folder, at most half "
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


def score_image(path, hands, gesture):
    """What the metrics need of one image, as a dict; `hands` as from utils.hands.detector.detect_folder.

    `best` is the hand with the highest score, None if there is no hand; what it shows counts.
    """
    from utils.hands.detector import best_hand
    from utils.hands.finger_states import matches_direction, matches_gesture

    best = best_hand(hands)
    shows_gesture = bool(best and gesture and matches_gesture(best, gesture))
    return {"path": path, "hands": hands, "best": best, "shows_gesture": shows_gesture,
            "points_right": shows_gesture and matches_direction(best, gesture),
            "score": best.score if best else 0.0}


def measure_ratio(pairs, seed):
    """Sum of the numerators by the sum of the denominators of (n, 2) pairs, one per image, and its interval.

    (value, low, high), None for each where all denominators are 0. No interval where nothing varied: a bootstrap of
    equal values has no width, which says nothing of how sure they are.
    """
    from utils.metrics.intervals import ratio_interval

    numerators, denominators = zip(*pairs, strict=True) if pairs else ((), ())
    if not sum(denominators):
        return None, None, None
    low, high = ratio_interval(numerators, denominators, seed=seed)
    return sum(numerators) / sum(denominators), *((low, high) if low < high else (None, None))


def summarize_folder(scored, gesture, seed=0):
    """Counts and metrics of a folder from its score_image dicts, each metric with _low and _high."""
    readable = [image for image in scored if image["hands"] is not None]
    row = {"num_images": len(readable), "num_skipped": len(scored) - len(readable),
           "num_without_hand": sum(not image["hands"] for image in readable),
           "num_hands": sum(len(image["hands"]) for image in readable)}

    # What each image adds to the numerator and the denominator of each metric
    pairs = {"detection_rate": [(bool(image["hands"]), 1) for image in readable],
             "hand_conf": [(sum(hand.score for hand in image["hands"]), len(image["hands"])) for image in readable],
             "hand_conf_zero_filled": [(image["score"], 1) for image in readable]}
    if gesture:
        pairs["gesture_match_rate"] = [(image["shows_gesture"], bool(image["hands"])) for image in readable]
        pairs["gesture_match_rate_zero_filled"] = [(image["shows_gesture"], 1) for image in readable]
        if gesture.direction != "any":
            pairs["direction_match_rate"] = [(image["points_right"], image["shows_gesture"]) for image in readable]
    for name in pairs:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = measure_ratio(pairs[name], seed)
    return row


def format_metric(row, name):
    if row[name] is None:
        return "-"
    if row[f"{name}_low"] is None:
        return f"{row[name]:.4f}"
    return f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"


def format_table(rows):
    """Lines of an aligned table: a column per row with its counts and metrics."""
    lines = [["", *(row["name"] for row in rows)]]
    lines += [[name, *(str(row[name]) for row in rows)] for name in COUNTS]
    lines += [[name, *(format_metric(row, name) for row in rows)] for name in METRICS if name in rows[0]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def format_summary(rows):
    """All folders in one line."""
    parts = []
    for row in rows:
        confidence = "-" if row["hand_conf"] is None else f"{row['hand_conf']:.4f}"
        part = f"{row['name']}: HAND-CONF {confidence}, "
        part += f"hands in {row['detection_rate']:.1%} of {row['num_images']} images"
        if row.get("gesture_match_rate") is not None:
            part += f", {row['gesture_match_rate']:.1%} of these hold their fingers as {row['gesture']}"
        if row.get("direction_match_rate") is not None:
            part += f", {row['direction_match_rate']:.1%} of those with the thumb in its direction"
        if row["num_skipped"]:
            part += f", {row['num_skipped']} skipped"
        parts.append(part)
    return "; ".join(parts)


def list_fingers_out(hand):
    """Names of the fingers that are out, as text."""
    from utils.hands.finger_states import finger_states

    return " ".join(name for name, state in finger_states(hand.world_landmarks).items() if state == "out")


def write_per_image(path, scored, names, gesture):
    """One CSV line per image: scores, and fingers, side and relative box of its best hand."""
    def describe(image):
        hands, best = image["hands"], image["best"]
        if hands is None:
            return {"num_hands": "unreadable"}
        columns = {"num_hands": len(hands), "score": f"{image['score']:.4f}"}
        if gesture:
            columns["shows_gesture"] = int(image["shows_gesture"])
        if best:
            columns |= {"fingers_out": list_fingers_out(best), "handedness": best.handedness}
            columns |= dict(zip(BOX, (f"{value:.4f}" for value in best.box), strict=True))
        return columns

    with files.atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, ["folder", "file", "num_hands", "score", "shows_gesture", "fingers_out",
                                           "handedness", *BOX])
            writer.writeheader()
            for name, images in zip(names, scored, strict=True):
                for image in images:
                    writer.writerow({"folder": name, "file": image["path"].name, **describe(image)})


def pick_worst(scored):
    """The GRID_IMAGES readable images that miss the gesture or score lowest, at most half of them without a hand."""
    readable = [image for image in scored if image["hands"] is not None]
    readable.sort(key=lambda image: (image["shows_gesture"], image["score"]))
    empty = [image for image in readable if not image["hands"]]
    others = [image for image in readable if image["hands"]][:GRID_IMAGES]
    return [*empty[:max(GRID_IMAGES // 2, GRID_IMAGES - len(others))], *others][:GRID_IMAGES]


def describe_image(image, name, gesture):
    """Caption of an image in the grid: folder, file, then what was found in it."""
    file = image["path"].name
    if len(file) > CAPTION_LENGTH:
        half = (CAPTION_LENGTH - 3) // 2
        file = f"{file[:half]}...{file[-half:]}"
    if not image["best"]:
        return f"{name} {file} no hand"
    fingers = list_fingers_out(image["best"]) or "none"
    verdict = "" if not gesture else f"{'shows' if image['shows_gesture'] else 'not'} {gesture.name},"
    return f"{name} {file} {image['score']:.3f}, {verdict} out: {fingers}"


def draw_tile(image):
    """An image with a box around each hand, the best one's in red, and beside it that hand enlarged."""
    from PIL import Image

    from utils.data.images import fit_square, open_image
    from utils.hands.detector import draw_hands, zoom_hand

    picture, best = open_image(image["path"]), image["best"]
    tile = fit_square(picture, GRID_PIXELS)
    tile = draw_hands(tile, [hand for hand in image["hands"] if hand is not best], "orange", with_bones=False)
    if not best:
        return tile
    pair = Image.new("RGB", (tile.width + 2 + GRID_PIXELS, GRID_PIXELS), "white")
    pair.paste(draw_hands(tile, [best], with_bones=False))
    pair.paste(zoom_hand(picture, best, GRID_PIXELS), (tile.width + 2, 0))
    return pair


def save_grid(path, scored, names, gesture):
    """The worst images of each folder on one sheet, with what was detected in them."""
    from utils.data.images import contact_sheet, save_image

    sheets = []
    for name, images in zip(names, scored, strict=True):
        worst = pick_worst(images)
        captions = [errors.one_line(describe_image(image, name, gesture)) for image in worst]
        sheets.append(contact_sheet([draw_tile(image) for image in worst], GRID_COLUMNS, captions, pad=6))
    save_image(contact_sheet(sheets, 1), path)


def main(args):
    from utils.data.gestures import get_gesture
    from utils.data.images import list_images
    from utils.hands.detector import detect_folder

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
                "max_num_hands": args.max_num_hands, "min_confidence": args.min_confidence}
    rows = []
    for name, folder, images in zip(names, args.image_folder, scored, strict=True):
        summary = summarize_folder(images, gesture, args.seed)
        if not summary["num_images"]:
            raise errors.UserError(f"{folder}: none of its {len(images)} images can be read; see the warnings")
        rows.append({"name": name, "image_folder": str(folder), **summary, **settings})

    # Print, then save, even where the reader of what is printed has gone
    try:
        print("\n".join([*format_table(rows), format_summary(rows)]), flush=True)
    finally:
        for row in rows if args.output else []:
            files.append_row(args.output, row)
        if args.per_image:
            write_per_image(args.per_image, scored, names, gesture)
        if args.grid:
            save_grid(args.grid, scored, names, gesture)


if __name__ == "__main__":
    script.run_main(main, parse_args())
