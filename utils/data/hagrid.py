"""Pick the training and test images of a gesture from a HaGRID download, with no person in both.

  python -m utils.hagrid --hagrid_dir hagrid_dataset --annotations_dir hagrid_annotations --gesture call

Reads  <hagrid_dir>/<gesture>/ (or train_val_<gesture>/, or hagrid_dir itself if the images are right in it), and
       <gesture>.json in <annotations_dir> and the folders right in it (train, val, test): they are pooled
Writes <data_dir>/<gesture>/{train,test}/: images/, annotations.json (of the hands in them, the gesturing ones
       first) and selection.json (settings and counts)

Without --annotations_dir any folder of images will do, but nobody knows who is in them: the two sets may then
show the same people. The same seed gives the same images, whatever the order of the file system.
"""

import collections
import contextlib
import functools
import random
import shutil
import sys
from pathlib import Path

from utils.data.annotations import gesturing_boxes, gesturing_first, read_gesture
from utils.data.gestures import GESTURES, require_gesture
from utils.data.person_split import split_images
from utils.system import cli, errors, files
from utils.system.process_pool import count_cores

SPLITS = ("train", "test")
SETTINGS = ("hagrid_dir", "annotations_dir", "num_train", "num_test", "resolution", "link", "seed")
IMAGES_PER_WORKER = 32  # a process takes about as long to start as to read this many


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--hagrid_dir", type=cli.path_name, required=True, help="folder with a folder per gesture")
    parser.add_argument("--annotations_dir", type=cli.path_name, help="folder of HaGRID's annotations, any release")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--gesture", help="HaGRID's name of the gesture, such as call")
    which.add_argument("--all_gestures", action="store_true", help="every gesture that the download has")
    parser.add_argument("--num_train", type=cli.num_images, default=1000, help="images of the training set")
    parser.add_argument("--num_test", type=cli.num_images, default=1000, help="images of the test set")
    parser.add_argument("--resolution", type=cli.resolution,
                        help="save upright JPEGs with this short side, pixels, never enlarged (default: plain copies)")
    parser.add_argument("--link", action="store_true",
                        help="symbolic links instead of copies: no space, but they break when the download moves")
    parser.add_argument("--data_dir", type=cli.path_name, default=Path("data"), help="folder of all data sets")
    parser.add_argument("--num_workers", type=cli.num_workers, default=count_cores(), help="processes")
    parser.add_argument("--overwrite", action="store_true",
                        help="select again, in place of both sets that are there and of all in their folders")
    cli.add_common_flags(parser, device=False)
    args = parser.parse_args(argv)
    if args.gesture is not None:
        require_gesture(parser, args.gesture)
    if args.num_train + args.num_test == 0:
        parser.error("--num_train and --num_test are both 0: nothing to select")
    if args.link and args.resolution:
        parser.error("--link keeps the images as they are, --resolution changes them; choose one")
    cli.require_dir(parser, args.hagrid_dir, "--hagrid_dir", "give the folder that holds the images of HaGRID")
    if args.annotations_dir:
        cli.require_dir(parser, args.annotations_dir, "--annotations_dir", "give the folder of HaGRID's JSON files")
    return args


# What the download holds


def find_folder(hagrid_dir, gesture):
    """The folder with the images of a gesture, None if there is none."""
    named = [hagrid_dir / gesture, hagrid_dir / f"train_val_{gesture}"]
    return next((folder for folder in named if folder.is_dir()), None)


def find_images(hagrid_dir, gesture):
    """(folder, {stem: file name}) of the images of a gesture, by name. UserError that says what is there.

    Of several files that differ only in their suffix the first counts: annotations know the stem alone.
    """
    from utils.data.images import list_images

    there = [name for name in GESTURES if find_folder(hagrid_dir, name)]
    folder = find_folder(hagrid_dir, gesture) or hagrid_dir
    if folder == hagrid_dir and (there or hagrid_dir.resolve().name in GESTURES.keys() - {gesture}):
        raise errors.UserError(f"{hagrid_dir}: no folder {gesture!r} in it; there are images of: "
                            f"{', '.join(there) or hagrid_dir.resolve().name}")
    names = {}
    for path in list_images(folder):
        names.setdefault(path.stem, path.name)
    return folder, names


def find_candidates(args, gesture):
    """(folder, {stem: name}, {stem: record}) of the images that may be chosen; prints what was left out.

    The records are empty without annotations.
    """
    folder, names = find_images(args.hagrid_dir, gesture)
    if not args.annotations_dir:
        print(f"{folder}: {len(names)} images")
        print("note: without --annotations_dir the same persons may be in both sets", file=sys.stderr)
        return folder, names, {}
    records = read_gesture(args.annotations_dir, gesture)
    shown = {stem for stem, record in records.items() if gesturing_boxes(record, gesture)}
    usable = {stem: name for stem, name in names.items() if stem in shown}
    print(f"{folder}: {len(usable)} images of {len({records[stem]['user_id'] for stem in usable})} persons "
          f"(left out: {len(names.keys() - records.keys())} images without annotations, "
          f"{len(names.keys() & records.keys() - shown)} without a hand labelled {gesture}, "
          f"{len(records.keys() - names.keys())} annotations without an image)")
    return folder, usable, records


# Taking


def shrink(image, resolution):
    """`image` with a short side of `resolution` pixels, antialiased; one that is smaller as it is."""
    from PIL import Image

    short = min(image.size)
    if short <= resolution:
        return image
    return image.resize([round(side * resolution / short) for side in image.size], Image.Resampling.LANCZOS)


def take_image(image, name, source, destination, resolution, link):
    """Put an image, opened so that no damaged one is taken, into `destination`. UserError if it is no JPEG to be."""
    from utils.data.images import save_image

    path = source / name
    if resolution:
        try:
            save_image(shrink(image, resolution), destination / f"{path.stem}.jpg")
        except errors.UserError as error:
            raise errors.UserError(f"{path}: cannot be saved as JPEG, which it is too long for; replace or remove the "
                                   "file") from error
    elif link:
        (destination / name).symlink_to(path.resolve())
    else:
        with files.atomic_path(destination / name) as temporary:
            temporary.write_bytes(path.read_bytes())


def take_images(names, source, count, take, num_workers, label):
    """Takes images until there are `count`: (names taken, names that cannot be read). take: as `take_image`."""
    from tqdm import tqdm

    from utils.data.loader import load_images

    taken, unreadable, rest = [], [], names
    with tqdm(total=count, desc=label, unit="image") as progress:
        while rest and len(taken) < count:
            missing = count - len(taken)
            batch, rest = rest[:missing], rest[missing:]
            workers = min(num_workers, len(batch) // IMAGES_PER_WORKER)
            loaded = load_images([source / name for name in batch], take, workers, extras=batch)
            with contextlib.closing(loaded):  # before what it has written so far is cleared away
                for index, _, problem in loaded:
                    if problem is None:
                        taken.append(batch[index])
                        progress.update()
                    else:
                        unreadable.append(batch[index])
                        errors.warn(f"skipped: {problem}")
    return taken, unreadable


# One gesture


def is_selected(folders, settings):
    """Whether all that is wanted is there, made with these settings. UserError if there is anything else."""
    remedy = "use --overwrite or another --data_dir"
    there = [folder for folder in folders.values() if folder.exists()]
    for folder in there:
        path = folder / "selection.json"
        if not path.is_file():
            raise errors.UserError(f"{folder} exists and was not selected from HaGRID; {remedy}")
        files.refuse_differing(folder, files.read_object(path).get("settings", {}), settings, remedy)
        images, wanted = folder / "images", settings[f"num_{folder.name}"]
        count = sum(1 for _ in images.iterdir()) if images.is_dir() else 0
        if count != wanted:
            raise errors.UserError(f"{images}: {count} images, {wanted} were selected; {remedy}")
    wanted = [folder for split, folder in folders.items() if settings[f"num_{split}"]]
    if there and (missing := [folder for folder in wanted if folder not in there]):
        raise errors.UserError(f"{there[0]} is there but {missing[0]} is not, and they belong together; {remedy}")
    return there == wanted


def fill_sets(args, gesture, source, names, persons, folder):
    """Take the images of both sets to folder/<split>/images: ({split: names}, names that cannot be read).

    UserError if there are not enough images or persons.
    """
    unreadable, taken = [], {}
    counts = {split: getattr(args, f"num_{split}") for split in SPLITS}
    while any(len(taken.get(split, ())) < count for split, count in counts.items()):
        # Once, unless what cannot be read leaves a set short: then the persons are divided anew without it.
        persons = {stem: person for stem, person in persons.items() if names[stem] not in unreadable}
        stems = split_images(persons, *counts.values(), random.Random(f"{args.seed} {gesture}"))
        if stems is None:
            raise errors.UserError(f"{source}: {describe_lack(args, persons, unreadable)}; lower the numbers")
        shutil.rmtree(folder, ignore_errors=True)
        for split, count in ((split, count) for split, count in counts.items() if count):
            destination = folder / split / "images"
            destination.mkdir(parents=True)
            take = functools.partial(take_image, source=source, destination=destination,
                                     resolution=args.resolution, link=args.link)
            order = [names[stem] for stem in stems[split]]
            taken[split], failed = take_images(order, source, count, take, args.num_workers, f"{gesture} {split}")
            unreadable += failed
    return taken, unreadable


def describe_lack(args, persons, unreadable):
    """What is wanted and what is there."""
    found = f"there are {len(persons)} images"
    if args.annotations_dir:
        most = max(collections.Counter(persons.values()).values(), default=0)
        found += f" of {len(set(persons.values()))} persons, at most {most} of one,"
    found += f" besides {len(unreadable)} that cannot be read" if unreadable else ""
    wanted = "with no person in both sets " if args.annotations_dir else ""
    return f"{args.num_train} + {args.num_test} images {wanted}are wanted, but {found}".rstrip(",")


def select_gesture(args, gesture):
    """Select both sets of a gesture, in a folder beside their places, then move them there whole."""
    settings = {"gesture": gesture, **{name: getattr(args, name) for name in SETTINGS}}
    for name in ("hagrid_dir", "annotations_dir"):
        settings[name] = settings[name] and settings[name].resolve()
    target = args.data_dir / gesture
    folders = {split: target / split for split in SPLITS}
    if not args.overwrite and is_selected(folders, settings):
        print(f"{target}: already selected with these settings")
        return

    source, names, records = find_candidates(args, gesture)
    for folder in folders.values():  # which are about to be replaced
        if source.resolve().is_relative_to(folder.resolve()):
            raise errors.UserError(f"{source}: these images lie in {folder}, where the selection is to go; give "
                                   "another --data_dir")
    persons = {stem: records[stem]["user_id"] if records else stem for stem in names}
    beside = target / ".selection.partial"
    try:
        with files.naming_errors(target, beside):
            taken, unreadable = fill_sets(args, gesture, source, names, persons, beside)
            for split, chosen in taken.items():
                stems = sorted(Path(name).stem for name in chosen)
                summary = {"settings": settings, "num_images": len(stems), "num_unreadable": len(unreadable)}
                if records:
                    summary["num_persons"] = len({persons[stem] for stem in stems})
                    annotations = {stem: gesturing_first(records[stem], gesture) for stem in stems}
                    files.write_json(beside / split / "annotations.json", annotations)
                files.write_json(beside / split / "selection.json", summary)
            for split, folder in folders.items():
                if folder.exists():  # out of the way first, to go with the rest: nothing is lost if it cannot
                    folder.replace(beside / f"former_{split}")
                if split in taken:
                    (beside / split).replace(folder)
                    print(f"{folder}: {len(taken[split])} images")
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main(args):
    from utils.system.file_lock import lock_outputs

    gestures = [args.gesture] if args.gesture else [name for name in GESTURES if find_folder(args.hagrid_dir, name)]
    if not gestures:
        raise errors.UserError(f"{args.hagrid_dir}: no folder of a gesture in it (looked for {', '.join(GESTURES)})")
    if missing := GESTURES.keys() - set(gestures) if args.all_gestures else ():
        print(f"note: not in {args.hagrid_dir}: {', '.join(sorted(missing))}", file=sys.stderr)
    failed = []
    for gesture in gestures:
        try:
            with lock_outputs(args.data_dir / gesture):
                select_gesture(args, gesture)
        except errors.UserError as error:
            if not args.all_gestures:
                raise
            errors.print_error(error)
            failed.append(gesture)
    if failed:
        raise errors.UserError(f"{len(failed)} of {len(gestures)} gestures were not selected: {', '.join(failed)}")
