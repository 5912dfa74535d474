"""What the captioners share: flags, batches of images with their captions, a run over the splits of a gesture.

No torch here: the model comes from utils/models/image_text_models.py, once there is something to do.
"""

import contextlib
import functools
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils.captions.caption_folder import NO_CAPTION, CaptionFolder, file_stamp, lock_captions
from utils.data.gestures import require_gesture
from utils.data.image_opening import open_images
from utils.data.prefetch import map_ahead
from utils.system import cli, errors

SPLITS = {"train": ["train"], "test": ["test"], "both": ["train", "test"]}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # a tokenizer's sign for bytes that are no character


@dataclass(frozen=True)
class Captioner:
    """What the captioners differ in."""

    name: str  # of the files it writes
    model: str  # hub id of the published one
    model_type: str  # in the model's config.json
    model_class: str  # of transformers
    decoding: dict  # published arguments of `generate`
    prompt: str | None = None


def parse_args(description, captioner, argv=None):
    parser = cli.ArgumentParser(description)
    parser.add_argument("--gesture", required=True, help="HaGRID's name of the gesture, such as call")
    parser.add_argument("--split", choices=tuple(SPLITS), default="both", help="which images")
    parser.add_argument("--data_dir", type=cli.path_name, default=Path("data"), help="folder of all data")
    parser.add_argument("--model", default=captioner.model,
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


def prepare_image(record_and_image, prepare):
    """(record, input of the model); for an image that cannot be read a record with a problem, and None."""
    record, image = record_and_image
    if isinstance(image, errors.UserError):
        return {**record, "problem": errors.one_line(image)}, None
    return record, prepare(image)


def caption_batches(paths, model, batch_size, seed):
    """Yields the records of `batch_size` images at a time, in order, while the next images load.

    `model` offers prepare(image), caption(list of prepared), and caption_again(prepared, seed), which decodes in
    another way. An empty caption gets that second chance alone, so that it depends on the image and its seed only.
    """
    records = [{"name": path.name, "stamp": file_stamp(path)} for path in paths]
    prepare = functools.partial(prepare_image, prepare=model.prepare)
    with (open_images(paths) as opened,
          contextlib.closing(map_ahead(prepare, zip(records, opened, strict=True), 2 * batch_size)) as loaded):
        while batch := list(itertools.islice(loaded, batch_size)):
            ready = [(record, image) for record, image in batch if image is not None]
            captions = model.caption([image for _, image in ready]) if ready else []
            for (record, image), caption in zip(ready, captions, strict=True):
                caption = clean_caption(caption) or clean_caption(
                    model.caption_again(image, image_seed(seed, record["name"])))
                record |= {"caption": caption} if caption else {"problem": NO_CAPTION}
            yield [record for record, _ in batch]


def caption_folder(folder, paths, model, settings, batch_size, seed):
    """Caption `paths` of a CaptionFolder, batch by batch into its journal."""
    num_images = len(folder.paths)
    progress = tqdm(total=num_images, initial=num_images - len(paths), desc=str(folder.folder), unit="image")
    with progress:
        for records in caption_batches(paths, model, batch_size, seed):
            folder.append(settings, records)
            for record in records:
                if problem := record.get("problem"):
                    errors.warn(f"left out: {record['name']}: {problem}")
            progress.update(len(records))


def load_model(args, captioner):
    """The captioner as `caption_batches` wants it. Its name is checked before torch is imported."""
    from utils.models.hub import fetch_transformers_folder

    folder = fetch_transformers_folder(args.model, captioner.model_type)
    print(f"Loading {args.model}", flush=True)
    from utils.models.image_text_models import load_captioner

    return load_captioner(captioner, args.model, folder, args.device, args.dtype)


def caption_splits(args, captioner, load=load_model):
    """A whole run: every image of the splits that has no caption yet gets one, then the lists are written."""
    splits = [args.data_dir / args.gesture / split for split in SPLITS[args.split]]
    with contextlib.ExitStack() as stack:
        for folder in splits:
            stack.enter_context(lock_captions(folder, captioner.name))

        # Check what is there.
        settings = {"captioner": captioner.name, "model": args.model, "prompt": captioner.prompt,
                    "decoding": captioner.decoding, "seed": args.seed}
        if args.dtype != "auto":
            settings["dtype"] = args.dtype
        folders = [CaptionFolder(folder, captioner.name, args.overwrite) for folder in splits]
        for folder in folders:
            folder.check(settings)
        todo = [folder.unfinished() for folder in folders]

        # Load the model, if there is anything to do; it has settings of its own.
        if any(todo):
            model = load(args, captioner)
            settings |= model.settings
            for folder in folders:
                folder.check(settings)
            todo = [folder.unfinished() for folder in folders]

        # Caption, and write the lists.
        for folder, paths in zip(folders, todo, strict=True):
            if paths:
                caption_folder(folder, paths, model, settings, args.batch_size, args.seed)
            if paths or not folder.has_lists():
                folder.write_lists()
            else:
                print(f"{folder.folder} is finished; --overwrite would caption it anew")
            print(folder.summary())
