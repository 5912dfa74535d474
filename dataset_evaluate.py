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
import itertools
import textwrap
from contextlib import closing

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
    parser.add_argument("--no_hands", action="store_true", help="do not look for hands, which needs mediapipe")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="processes that look for hands (default: one per core, fewer for few images)")
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


def read_pairs(args):
    """(paths, captions), one of each per pair. UserError when the lists do not fit or images are missing."""
    from utils.data.images import read_aligned, safe_join

    names, captions = read_aligned(args.image_filenames_path, args.captions_path)
    paths = [safe_join(args.image_folder, name) for name in names]
    if missing := [path for path in paths if not path.is_file()]:
        raise errors.UserError(f"{args.image_filenames_path}: {len(missing)} of {len(paths)} images are not in "
                            f"{args.image_folder}, {missing[0].name} among them; give the folder they are in")
    return paths, captions


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


def compare_pairs(paths, captions, clip, batch_size):
    """(similarity of each pair or None where the image cannot be read, MeanSimilarity of the captions of the others).

    Images are loaded ahead and gone after their batch; the warnings name those that cannot be read.
    """
    from tqdm import tqdm

    from utils.data.image_opening import open_images
    from utils.data.prefetch import map_ahead

    def prepare(image):
        return image if isinstance(image, errors.UserError) else clip.prepare(image)

    similarities, among_captions = [None] * len(paths), MeanSimilarity()
    progress = tqdm(total=len(paths), desc="encoding pairs", unit="pair")
    with progress, open_images(paths) as opened, closing(map_ahead(prepare, opened, 2 * batch_size)) as loaded:
        for start in range(0, len(paths), batch_size):
            images = list(itertools.islice(loaded, batch_size))
            for error in (image for image in images if isinstance(image, errors.UserError)):
                errors.warn(f"skipped: {error}")
            readable = [i for i, image in enumerate(images) if not isinstance(image, errors.UserError)]
            if readable:
                image_embeds = clip.encode_images([images[i] for i in readable])  # (n, d)
                text_embeds = clip.encode_texts([captions[start + i] for i in readable])
                among_captions.update(text_embeds)
                for i, value in zip(readable, (image_embeds * text_embeds).sum(axis=1), strict=True):
                    similarities[start + i] = float(value)
            progress.update(len(images))
    return similarities, among_captions


def count_hands(paths, similarities, num_workers):
    """Number of hands in each image; None for those that could not be read, or have gone since."""
    from utils.hands.detector import detect_folder

    readable = [path for path, value in zip(paths, similarities, strict=True) if value is not None]
    hands = {path: None if found is None else len(found) for path, found in detect_folder(readable, num_workers)}
    return [None if value is None else hands[path] for path, value in zip(paths, similarities, strict=True)]


def summarize(similarities, among_captions, captions, is_cut, hands, phrase):
    """Counts and metrics of the pairs whose image can be read, as a dict; metrics that nobody asked for are absent."""
    from utils.captions.rules.enrichment_rules import has_phrase_once

    used = [i for i, value in enumerate(similarities) if value is not None]
    count = len(used)
    texts = [captions[i] for i in used]
    row = {"num_pairs": count, "num_skipped": len(similarities) - count,
           "image_caption_similarity": sum(similarities[i] for i in used) / count,
           "caption_caption_similarity": among_captions.with_diagonal(),
           "caption_pairs_similarity": among_captions.without_diagonal(),
           "cut_rate": sum(is_cut[i] for i in used) / count,
           "duplicate_rate": (count - len(set(texts))) / count}
    if phrase:
        row["phrase_coverage"] = sum(has_phrase_once(text, phrase) for text in texts) / count
    if looked := [hands[i] for i in used if hands[i] is not None] if hands else []:
        row["num_without_hand"] = looked.count(0)
        row["detection_rate"] = 1 - row["num_without_hand"] / len(looked)
    return row


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


def write_per_image(path, paths, captions, similarities, is_cut, hands, phrase):
    """One CSV line per image, in the order of the list; an image that cannot be read has no similarity."""
    from utils.captions.rules.enrichment_rules import has_phrase_once

    with files.atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "similarity", "is_cut", "has_phrase", "num_hands", "caption"])
            for i, image in enumerate(paths):
                is_read = similarities[i] is not None
                writer.writerow([image.name, f"{similarities[i]:.4f}" if is_read else "unreadable", int(is_cut[i]),
                                 int(has_phrase_once(captions[i], phrase)) if phrase else "",
                                 hands[i] if hands and is_read else "", captions[i]])


def save_grid(path, paths, captions, similarities):
    """The pairs with the lowest similarity on one sheet, the lowest first; blank where an image has gone since."""
    from PIL import Image

    from utils.data.image_opening import try_to_open
    from utils.data.images import contact_sheet, fit_square, save_image

    used = [i for i, value in enumerate(similarities) if value is not None]
    lowest = sorted(used, key=lambda i: similarities[i])[:GRID_PAIRS]
    opened = [try_to_open(paths[i]) for i in lowest]
    for error in (image for image in opened if isinstance(image, errors.UserError)):
        errors.warn(f"skipped: {error}")
    blank = Image.new("RGB", (1, 1), "white")
    tiles = [fit_square(blank if isinstance(image, errors.UserError) else image, GRID_PIXELS) for image in opened]
    texts = [f"{similarities[i]:.3f} {textwrap.shorten(captions[i], GRID_CHARACTERS)}" for i in lowest]
    save_image(contact_sheet(tiles, GRID_COLUMNS, texts), path)


def main(args):
    from utils.hands.detector import require_mediapipe
    from utils.models.hub import fetch_transformers_folder

    # Check the lists and load the model
    paths, captions = read_pairs(args)
    if not args.no_hands:
        require_mediapipe("install requirements.txt, or add --no_hands")
    folder = fetch_transformers_folder(args.model, "clip")
    from utils.models.image_text_models import load_clip

    clip = load_clip(args.model, folder, args.device)

    # Compare images with captions, and captions with each other; look for hands
    similarities, among_captions = compare_pairs(paths, captions, clip, args.batch_size)
    if not among_captions.count:
        raise errors.UserError(f"{args.image_folder}: none of the {len(paths)} images can be read; see the warnings")
    is_cut = [flag for start in range(0, len(captions), args.batch_size)
              for flag in clip.are_cut(captions[start : start + args.batch_size])]
    hands = None if args.no_hands else count_hands(paths, similarities, args.num_workers)

    # Print, then save, even where the reader of what is printed has gone
    row = {**summarize(similarities, among_captions, captions, is_cut, hands, args.phrase),
           "script": "dataset_evaluate.py", "image_folder": str(args.image_folder),
           "captions_path": str(args.captions_path), "model": args.model, "gesture": args.gesture,
           "phrase": args.phrase, "seed": args.seed}
    try:
        print("\n".join(format_numbers(row)), flush=True)
    finally:
        if args.output:
            files.append_row(args.output, row)
        if args.per_image:
            write_per_image(args.per_image, paths, captions, similarities, is_cut, hands, args.phrase)
        if args.grid:
            save_grid(args.grid, paths, captions, similarities)


if __name__ == "__main__":
    script.run_main(main, parse_args())
