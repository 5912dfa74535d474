"""Render a data set of hands with exact captions, in the layout that train.py reads.

  python -m utils.synthetic.render --gesture call --num_train 400 --num_test 200 --resolution 128 --seed 0

Writes data/<gesture>/{train,test}/: images/, synthetic_filenames.txt, synthetic_captions.txt (as a captioner would
see it; enrich_captions.py --captioner synthetic adds the phrase of the gesture) and annotations.json (HaGRID's
fields, and the anatomy). The same flags give the same bytes, whatever the number of processes.
"""

from pathlib import Path

from utils.synthetic.hand import MALFORMATIONS, POSES
from utils.system import cli, errors, files, script
from utils.system.process_pool import count_cores, map_in_processes

SPLITS = ("train", "test")
CHUNK = 8


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--gesture", required=True, choices=[*POSES, "random"], help="the pose to render")
    parser.add_argument("--num_train", type=cli.num_images, default=400, help="images of the training split")
    parser.add_argument("--num_test", type=cli.num_images, default=200, help="images of the test split")
    parser.add_argument("--resolution", type=cli.resolution, default=128, help="side of the images, pixels")
    parser.add_argument(
        "--malformed",
        type=cli.unit_interval,
        default=0.0,
        help="share of hands with a missing, extra, fused or wrongly bent finger, 0 to 1",
    )
    parser.add_argument("--data_dir", type=cli.path_name, default=Path("data"), help="folder of all data sets")
    parser.add_argument("--num_workers", type=cli.num_workers, default=count_cores(), help="processes")
    parser.add_argument("--overwrite", action="store_true", help="render again, in place of what is there")
    cli.add_common_flags(parser, device=False)
    args = parser.parse_args(argv)
    if args.resolution < 16:
        parser.error(f"--resolution {args.resolution} is too small to show a hand; use at least 16")
    if args.num_train + args.num_test == 0:
        parser.error("--num_train and --num_test are both 0: nothing to render")
    return args


def render_chunk(job):
    """Render scenes `first` .. `last` of one stream of hands, in a worker: a list of scene.Scene."""
    import numpy as np

    from utils.synthetic.scene import render_scene

    gesture, resolution, malformed, seed, stream, first, last = job
    scenes = []
    for index in range(first, last):
        rng = np.random.default_rng([seed, *stream, index])
        wrong = str(rng.choice(MALFORMATIONS)) if rng.random() < malformed else None
        scenes.append(render_scene(rng, gesture, resolution, wrong))
    return scenes


def describe_scene(scene):
    """The record of one image in annotations.json: HaGRID's fields, then what only a renderer knows."""
    return {
        "bboxes": [[round(v, 5) for v in scene.box]],
        "labels": [scene.gesture],
        "hand_landmarks": [scene.landmarks.round(5).tolist()],
        "handedness": scene.handedness,
        "fingers": scene.fingers,
        "skin": scene.skin,
        "background": scene.background,
        "sleeve": scene.sleeve,
        "malformation": scene.malformation,
    }


def render_scenes(gesture, count, resolution, seed, stream=(), malformed=0.0, num_workers=None, desc="rendering"):
    """Yield `count` scenes in order, from a pool of processes. Scene i depends on seed, stream (ints) and i alone."""
    from tqdm import tqdm

    jobs = [(gesture, resolution, malformed, seed, stream, i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    with map_in_processes(render_chunk, jobs, min(num_workers or count_cores(), len(jobs))) as computed:
        with tqdm(total=count, desc=desc, unit="image") as progress:
            for scenes in computed:
                progress.update(len(scenes))
                yield from scenes


def is_rendered(args, split, settings):
    """Whether a split is there and not to be rendered again. UserError if it was made otherwise."""
    folder = args.data_dir / args.gesture / split
    if args.overwrite or not folder.exists():
        return False
    remedy = "use --overwrite or another --data_dir"
    if not (folder / "render.json").is_file():
        raise errors.UserError(f"{folder} exists and was not rendered by this program; {remedy}")
    files.refuse_differing(folder, files.read_object(folder / "render.json"), settings, remedy)
    print(f"{folder}: already rendered with these settings")
    return True


def render_split(args, split, settings):
    """Render one split, which appears whole or not at all."""
    from utils.data.images import save_image, write_lines

    folder, count = args.data_dir / args.gesture / split, settings["count"]
    names, captions, annotations = [], [], {}
    stream = [SPLITS.index(split), *args.gesture.encode()]
    scenes = render_scenes(args.gesture, count, args.resolution, args.seed, stream, args.malformed, args.num_workers,
                           f"rendering {split}")
    with files.atomic_path(folder) as beside:
        for index, scene in enumerate(scenes):
            names.append(f"{args.gesture}_{split}_{index:05d}.jpg")
            captions.append(scene.caption)
            annotations[Path(names[-1]).stem] = describe_scene(scene)
            save_image(scene.image, beside / "images" / names[-1])
        write_lines(beside / "synthetic_filenames.txt", names)
        write_lines(beside / "synthetic_captions.txt", captions)
        files.write_json(beside / "annotations.json", annotations)
        files.write_json(beside / "render.json", settings)
    print(f"{folder}: {count} images")


def main(args):
    from utils.system.file_lock import lock_outputs

    with lock_outputs(args.data_dir / args.gesture):
        settings = {
            split: {"gesture": args.gesture, "count": count, "resolution": args.resolution,
                    "malformed": args.malformed, "seed": args.seed}
            for split, count in zip(SPLITS, (args.num_train, args.num_test), strict=True)
            if count
        }
        for split in [split for split in settings if not is_rendered(args, split, settings[split])]:
            render_split(args, split, settings[split])


if __name__ == "__main__":
    script.run_main(main, parse_args())
