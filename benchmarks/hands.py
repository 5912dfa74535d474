"""How many images per second are searched for hands: by one thread, by many, and by as many processes.

python -m benchmarks.hands --num_images 512 --resolution 512

Renders hands into a temporary folder (or takes --image_folder), then times utils.hands.detector.detect_folder with one
thread and with many, and a pool of processes with a landmarker in each, in turn, several rounds, on the same list of
files. Threads are timed with all their start; processes from the moment when the last of them has a landmarker. Prints
a line per round and medians.
"""

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

from utils.system import cli, script

CHUNK = 8  # images that a process takes at a time
NUM_SCENES = 32  # different pictures; they are repeated up to --num_images


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--num_images", type=cli.positive_int, default=512, help="images per measurement")
    parser.add_argument("--resolution", type=cli.positive_int, default=512, help="side of the rendered images, pixels")
    parser.add_argument("--image_folder", type=cli.path_name, help="images to take instead of rendered ones")
    parser.add_argument("--num_workers", type=cli.positive_int, help="threads, or processes (default: one per core)")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, help="how often to measure each")
    cli.add_common_flags(parser, device=False)
    args = parser.parse_args(argv)
    if args.image_folder:
        cli.require_dir(parser, args.image_folder, "--image_folder", "give an existing folder with images")
    return args


def render_images(folder, resolution, seed):
    """JPEG files of hands, drawn at a quarter of the size and enlarged, as drawing takes longer than detection."""
    import numpy as np

    from utils.data.images import list_images, save_image
    from utils.synthetic.scene import render_scene

    for index in range(NUM_SCENES):
        scene = render_scene(np.random.default_rng([seed, index]), "random", max(64, resolution // 4))
        save_image(scene.image.resize((resolution, resolution)), folder / f"{index:03d}.jpg")
    return list_images(folder)


def time_threads(paths, num_threads):
    """Images per second of one pass over `paths`."""
    from utils.hands.detector import detect_folder

    start = time.perf_counter()
    detect_folder(paths, num_threads, progress=f"{num_threads} threads, {len(paths)} images")
    return len(paths) / (time.perf_counter() - start)


def detect_chunk(paths):
    """In a process: looks for hands in images. Returns its number, when that began, and when it ended."""
    from utils.data.images import open_image
    from utils.hands.landmarker import HandLandmarker

    if not hasattr(detect_chunk, "landmarker"):
        detect_chunk.landmarker = HandLandmarker()
    start = time.monotonic()
    for path in paths:
        detect_chunk.landmarker(open_image(path))
    return os.getpid(), start, time.monotonic()


def time_processes(paths, num_processes):
    """Images per second of a pass over `paths`, from when every process has begun."""
    from utils.system.process_pool import map_in_processes

    chunks = [paths[first:first + CHUNK] for first in range(0, len(paths), CHUNK)]
    with map_in_processes(detect_chunk, chunks, num_processes) as computed:
        times = list(computed)
    starts = {}
    for process, start, _ in times:
        starts[process] = min(start, starts.get(process, start))
    begun = max(starts.values())
    done = sum(len(chunk) for chunk, (_, start, _) in zip(chunks, times, strict=True) if start >= begun)
    return done / (max(end for _, _, end in times) - begun)


def main(args):
    from utils.data.images import list_images
    from utils.system.process_pool import count_cores

    num_workers = args.num_workers or count_cores()
    with tempfile.TemporaryDirectory() as folder:
        images = list_images(args.image_folder) if args.image_folder else render_images(
            Path(folder), args.resolution, args.seed)
        paths = list(itertools.islice(itertools.cycle(images), args.num_images))
        rounds = []
        for number in range(args.rounds):
            rounds.append((time_threads(paths, 1), time_threads(paths, num_workers),
                           time_processes(paths, num_workers)))
            print(f"round {number + 1}: images/s of one thread {rounds[-1][0]:.1f}, {num_workers} threads "
                  f"{rounds[-1][1]:.1f}, {num_workers} processes {rounds[-1][2]:.1f}", flush=True)
    one, threads, processes = map(statistics.median, zip(*rounds, strict=True))
    gain = statistics.median(many / alone for alone, many, _ in rounds) / num_workers
    ratio = statistics.median(many / others for _, many, others in rounds)
    print(f"{args.num_images} images: one thread {one:.1f} images/s, {num_workers} threads {threads:.1f}, "
          f"{num_workers} processes {processes:.1f}; threads to processes {ratio:.2f}, a thread of many to one alone "
          f"{gain:.2f}")


if __name__ == "__main__":
    script.run_main(main, parse_args())
