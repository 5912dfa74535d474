"""What the captioners share: flags, batches of images with their captions, a run over the splits of a gesture.

No torch here before the model is loaded, once there is something to do.
"""

import contextlib
import functools
import hashlib
import itertools
from pathlib import Path

from tqdm import tqdm

from utils.captions.caption_folder import NO_CAPTION, CaptionFolder, file_stamp, lock_captions
from utils.data.gestures import require_gesture
from utils.data.loader import load_images
from utils.system import cli, errors

SPLITS = {"train": ["train"], "test": ["test"], "both": ["train", "test"]}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # a tokenizer's sign for bytes that are no character
# Decoding of the second attempt at an empty caption: sampled, and not ended before the third token
SAMPLING = {"do_sample": True, "num_beams": 1, "top_p": 0.9, "min_new_tokens": 3}


class Captioner:
    """A model that describes images; each script says which, how it is loaded and how it is asked.

    `name` begins the files it writes, `published` is the hub id, `model_type` what its config.json says. `open` sets
    `device` and `dtype`. A script adds load(folder), which sets `model`, `image_processor` and `tokenizer`, and
    caption(pixels (B, 3, H, W), **decoding), which returns one text for each.
    """

    name = published = model_type = prompt = None
    decoding = {}  # arguments of `generate`

    def open(self, args):
        """Loads the model of --model; returns what captions depend on besides the flags.

        The name is checked before torch is imported.
        """
        from utils.models.hub import fetch_transformers_folder

        folder = fetch_transformers_folder(args.model, self.model_type)
        print(f"Loading {args.model}", flush=True)
        from utils.models.image_text_models import choose_dtype, weights_digest
        from utils.system.device import resolve_device

        self.device = resolve_device(args.device)
        self.dtype = choose_dtype(args.dtype, self.device)
        self.load(folder)
        return {"dtype": self.dtype, "weights_sha256": weights_digest(folder)}

    @property
    def prepare(self):
        """Picklable function from a PIL image to what `describe` takes."""
        from utils.models.image_text_models import to_pixels

        return functools.partial(to_pixels, self.image_processor)

    def describe(self, images, seed=None):
        """One text for each prepared image: with the published decoding, or sampled with a seed."""
        from utils.models.image_text_models import run_batch

        decoding = self.decoding if seed is None else {**self.decoding, **SAMPLING}
        return run_batch(self, images, decoding, seed)


def parse_args(description, captioner, argv=None):
    parser = cli.ArgumentParser(description)
    parser.add_argument("--gesture", required=True, help="HaGRID's name of the gesture, such as call")
    parser.add_argument("--split", choices=tuple(SPLITS), default="both", help="which images")
    parser.add_argument("--data_dir", type=cli.path_name, default=Path("data"), help="folder of all data")
    parser.add_argument("--model", default=captioner.published,
                        help=f"hub id or folder of a {captioner.model_type} model")
    parser.add_argument("--batch_size", type=cli.batch_size, default=16, help="images captioned at once")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
                        help="number format of the model; auto: fp32 on a CPU, else bf16, or fp16 without it")
    parser.add_argument("--overwrite", action="store_true", help="caption all images anew")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    require_gesture(parser, args.gesture)
    for split in SPLITS[args.split]:
        cli.require_dir(parser, args.data_dir / args.gesture / split / "images", "--data_dir",
                        "select the images first (python -m utils.hagrid), or choose another --split")
    return args


def clean_caption(text):
    """`text` on one line: white space becomes single spaces, what cannot be printed is left out."""
    text = "".join(c for c in " ".join(text.split()) if c.isprintable() and c != REPLACEMENT)
    return " ".join(text.split())


def image_seed(seed, name):
    """A seed of the image's own, wherever it stands in the list."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "little")


def caption_batches(paths, captioner, batch_size, seed):
    """Yields the records of `batch_size` images at a time, in order, while the next images load.

    An empty caption gets a second chance alone, so that it depends on the image and its seed only.
    """
    loaded = load_images(paths, captioner.prepare)
    while batch := list(itertools.islice(loaded, batch_size)):
        records = {i: {"name": paths[i].name, "stamp": file_stamp(paths[i])} for i, _, _ in batch}
        ready = {i: image for i, image, problem in batch if problem is None}
        captions = captioner.describe(list(ready.values())) if ready else []
        for (i, image), caption in zip(ready.items(), captions, strict=True):
            caption = clean_caption(caption) or clean_caption(
                captioner.describe([image], image_seed(seed, paths[i].name))[0])
            records[i] |= {"caption": caption} if caption else {"problem": NO_CAPTION}
        for i, _, problem in batch:
            if problem is not None:
                records[i]["problem"] = errors.one_line(problem)
        yield list(records.values())


def caption_splits(args, captioner):
    """A whole run: every image of the splits that has no caption yet gets one, then the lists are written."""
    splits = [args.data_dir / args.gesture / split for split in SPLITS[args.split]]
    with contextlib.ExitStack() as stack:
        for folder in splits:
            stack.enter_context(lock_captions(folder, captioner.name))

        # Check what is there
        settings = {"captioner": captioner.name, "model": args.model, "prompt": captioner.prompt,
                    "decoding": captioner.decoding, "seed": args.seed}
        if args.dtype != "auto":
            settings["dtype"] = args.dtype
        folders = [CaptionFolder(folder, captioner.name, args.overwrite) for folder in splits]
        for folder in folders:
            folder.check(settings)

        # Load the model, if there is anything to do; the settings name its weights, too
        if any(folder.unfinished() for folder in folders):
            settings |= captioner.open(args)
            for folder in folders:
                folder.check(settings)

        # Caption batch by batch into the journals, and write the lists
        for folder in folders:
            todo = folder.unfinished()
            progress = tqdm(total=len(folder.paths), initial=len(folder.paths) - len(todo), desc=str(folder.folder),
                            unit="image", disable=not todo)
            with progress:
                for records in caption_batches(todo, captioner, args.batch_size, args.seed) if todo else ():
                    folder.append(settings, records)
                    for record in records:
                        if problem := record.get("problem"):
                            errors.warn(f"left out: {record['name']}: {problem}")
                    progress.update(len(records))
            if todo or not folder.has_lists():
                folder.write_lists()
            else:
                print(f"{folder.folder} is finished; --overwrite would caption it anew")
            print(folder.summary())
