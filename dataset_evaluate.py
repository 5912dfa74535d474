"""Judge a list of captions against its images with CLIP: how well they fit, and how alike they are.

python dataset_evaluate.py --gesture call --image_folder data/call/train/images \\
  --image_filenames_path data/call/train/BLIP2_filenames.txt --captions_path data/call/train/BLIP2_enriched.txt

Reads a folder of images and two lists of equal length. Prints one line per number, and a one-line summary last:
  image_caption_similarity    mean cosine similarity of an image and its caption, as published
  caption_caption_similarity  mean over all ordered pairs of captions, each with itself too, as published
  caption_pairs_similarity    the same over pairs of two different lines
  cut_rate                    share of the captions that are longer than CLIP's 77 tokens
  duplicate_rate              share of the captions that repeat an earlier one
  phrase_coverage             share of the captions with the phrase of --gesture, or with --phrase, exactly once
  detection_rate              share of the images in which MediaPipe finds a hand
Appends one JSON row to --output, and writes --per_image and --grid for a look behind the numbers.
"""

import csv
import textwrap

from utils.data import output_paths
from utils.data.gestures import require_gesture
from utils.system import cli, errors, files, script

METRICS = ("image_caption_similarity", "caption_caption_similarity", "caption_pairs_similarity", "cut_rate",
           "duplicate_rate", "phrase_coverage", "detection_rate")
GRID_PAIRS, GRID_COLUMNS, GRID_PIXELS, GRID_CHARACTERS = 12, 4, 224, 160


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image_folder", type=cli.path_name, required=True, help="folder of the images")
    parser.add_argument("--image_filenames_path", type=cli.path_name, required=True,
                        help="text file, one image name per line")
    parser.add_argument("--captions_path", type=cli.path_name, required=True,
                        help="text file, one caption per line, in the same order")
    parser.add_argument("--gesture", help="HaGRID name of the gesture whose phrase the captions should carry")
    parser.add_argument("--phrase", help="phrase to look for instead of that of --gesture")
    parser.add_argument("--model", default="openai/clip-vit-base-patch32", help="hub id or folder of a CLIP")
    parser.add_argument("--batch_size", type=cli.batch_size, default=64, help="pairs encoded at once")
    parser.add_argument("--no_hands", action="store_true", help="do not look for hands, which needs ai-edge-litert")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="threads that look for hands (default: one per core)")
    parser.add_argument("--output", type=cli.path_name, help="JSON lines file to append one row to")
    parser.add_argument("--per_image", type=cli.path_name, help="CSV file to write, one line per image")
    parser.add_argument("--grid", type=cli.path_name,
                        help=f"PNG or JPEG to write: the {GRID_PAIRS} pairs with the lowest similarity")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    cli.require_dir(parser, args.image_folder, "--image_folder", "give an existing folder with images")
    cli.require_file(parser, args.image_filenames_path, "--image_filenames_path")
    cli.require_file(parser, args.captions_path, "--captions_path")
    if args.gesture:
        gesture = require_gesture(parser, args.gesture)
        args.phrase = gesture.phrase if args.phrase is None else args.phrase
    if args.phrase is not None and not args.phrase.strip():
        parser.error("--phrase: must not be empty; leave the flag out to look for none")
    output_paths.check_outputs(parser, args, [args.image_folder], [args.image_filenames_path, args.captions_path])
    return args


class MeanSimilarity:
    """Mean dot product over pairs of many unit vectors, in one pass: O(N d) time, O(d) memory, fp64.

    The mean over all ordered pairs (i, j) is the squared length of the mean vector; leaving out i = j takes
    the N squared lengths away.
    """

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def update(self, vectors):
        """Adds float64 (n, d)."""
        self.count += len(vectors)
        self.total = self.total + vectors.sum(axis=0)
        self.squares += float((vectors**2).sum())

    def with_diagonal(self):
        return float(self.total @ self.total) / self.count**2

    def without_diagonal(self):
        """None for a single vector."""
        if self.count < 2:
            return None
        return (float(self.total @ self.total) - self.squares) / (self.count * (self.count - 1))


def format_summary(row):
    """The row in one line."""
    parts = [f"image-caption similarity {row['image_caption_similarity']:.4f}",
             f"caption-caption similarity {row['caption_caption_similarity']:.4f}"]
    for key, words in (("phrase_coverage", "with the phrase"), ("cut_rate", "cut"),
                       ("duplicate_rate", "duplicates"), ("detection_rate", "of the images with a hand")):
        if key in row:
            parts.append(f"{row[key]:.1%} {words}")
    return f"{', '.join(parts)}; {row['num_pairs']} pairs"


def format_numbers(row):
    """The lines to print: counts, one per number, the summary."""
    return [f"{row['num_pairs']} pairs, {row['num_skipped']} skipped",
            *(f"{key:<28}{'-' if row[key] is None else format(row[key], '.4f')}" for key in METRICS if key in row),
            format_summary(row)]


def write_per_image(path, paths, captions, similarities, is_cut, has_phrase, hands):
    """One CSV line per image, in the order of the list; an image that cannot be read has no similarity."""
    with files.atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "similarity", "is_cut", "has_phrase", "num_hands", "caption"])
            for i, image in enumerate(paths):
                similarity = "unreadable" if similarities[i] is None else f"{similarities[i]:.4f}"
                writer.writerow([image.name, similarity, int(is_cut[i]), int(has_phrase[i]) if has_phrase else "",
                                 hands.get(i, ""), captions[i]])


def main(args):
    from PIL import Image
    from tqdm import tqdm

    from utils.captions.phrase import has_phrase_once
    from utils.data import images
    from utils.data.loader import load_images
    from utils.hands.detector import detect_folder
    from utils.hands.landmarker import describe_detector, require_detector
    from utils.models.hub import fetch_transformers_folder
    from utils.models.image_text_models import load_clip

    # Check the lists
    names, captions = images.read_aligned(args.image_filenames_path, args.captions_path)
    paths = [images.safe_join(args.image_folder, name) for name in names]
    if missing := [path for path in paths if not path.is_file()]:
        raise errors.UserError(f"{args.image_filenames_path}: {len(missing)} of {len(paths)} images are not in "
                               f"{args.image_folder}, {missing[0].name} among them; give the folder they are in")
    if not args.no_hands:
        require_detector("install requirements.txt, or add --no_hands")

    # Load the model
    clip = load_clip(args.model, fetch_transformers_folder(args.model, "clip"), args.device)

    # Compare images with captions, and captions with each other
    similarities, among_captions, batch = [None] * len(paths), MeanSimilarity(), {}
    for i, image, problem in tqdm(load_images(paths, clip.prepare), total=len(paths), desc="encoding pairs",
                                  unit="pair"):
        if problem is not None:
            errors.warn(f"skipped: {problem}")
        else:
            batch[i] = image
        if batch and (len(batch) == args.batch_size or i == len(paths) - 1):
            image_embeds = clip.encode_images(list(batch.values()))  # (n, d)
            text_embeds = clip.encode_texts([captions[pair] for pair in batch])
            among_captions.update(text_embeds)
            for pair, similarity in zip(batch, (image_embeds * text_embeds).sum(axis=1), strict=True):
                similarities[pair] = float(similarity)
            batch = {}
    used = [i for i, similarity in enumerate(similarities) if similarity is not None]
    if not used:
        raise errors.UserError(f"{args.image_folder}: none of the {len(paths)} images can be read; see the warnings")

    # Look at the captions, and for hands
    is_cut = [flag for start in range(0, len(captions), args.batch_size)
              for flag in clip.are_cut(captions[start:start + args.batch_size])]
    has_phrase = [has_phrase_once(caption, args.phrase) for caption in captions] if args.phrase else None
    found = [] if args.no_hands else detect_folder([paths[i] for i in used], args.num_workers)
    hands = {i: len(hands) for i, (_, hands) in zip(used, found, strict=False) if hands is not None}

    # Sum up
    row = {"num_pairs": len(used), "num_skipped": len(paths) - len(used),
           "image_caption_similarity": sum(similarities[i] for i in used) / len(used),
           "caption_caption_similarity": among_captions.with_diagonal(),
           "caption_pairs_similarity": among_captions.without_diagonal(),
           "cut_rate": sum(is_cut[i] for i in used) / len(used),
           "duplicate_rate": (len(used) - len({captions[i] for i in used})) / len(used)}
    if has_phrase:
        row["phrase_coverage"] = sum(has_phrase[i] for i in used) / len(used)
    if hands:
        row["num_without_hand"] = list(hands.values()).count(0)
        row["detection_rate"] = 1 - row["num_without_hand"] / len(hands)
        row["detector"] = describe_detector()
    row |= {"script": "dataset_evaluate.py", "image_folder": str(args.image_folder),
            "captions_path": str(args.captions_path), "model": args.model, "gesture": args.gesture,
            "phrase": args.phrase, "seed": args.seed}

    # Save and print
    if args.output:
        files.append_row(args.output, row)
    if args.per_image:
        write_per_image(args.per_image, paths, captions, similarities, is_cut, has_phrase, hands)
    if args.grid:
        lowest = sorted(used, key=lambda i: similarities[i])[:GRID_PAIRS]
        tiles = [images.fit_square(image or Image.new("RGB", (1, 1), "white"), GRID_PIXELS)
                 for _, image, _ in load_images([paths[i] for i in lowest])]
        texts = [f"{similarities[i]:.3f} {textwrap.shorten(captions[i], GRID_CHARACTERS)}" for i in lowest]
        images.save_image(images.contact_sheet(tiles, GRID_COLUMNS, texts), args.grid)
    print("\n".join(format_numbers(row)))


if __name__ == "__main__":
    script.run_main(main, parse_args())
