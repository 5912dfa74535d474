"""How many images per second one process searches for hands, and how many a pool of processes does.

python -m benchmarks.hands --num_images 512 --resolution 512

Renders hands into a temporary folder (or takes --image_folder), then times utils.hands.detector.detect_folder with
one process and with many in turn, several rounds, on the same list of files. The time a pool takes to start is
measured with as few images as give every process one task. On a machine that others use too, the cores that are there
to be had are measured beside it, with busy loops in as many processes. Prints a line per round and medians.
"""

import resource
import statistics
import tempfile
import time
from pathlib import Path

from utils.system import cli, errors, script

BURN_SECONDS = 3
NUM_SCENES = 32  # different pictures; they are repeated up to --num_images


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--num_images", type=cli.positive_int, default=512, help="images per measurement")
    parser.add_argument("--resolution", type=cli.positive_int, default=512, help="side of the rendered images, pixels")
    parser.add_argument("--image_folder", type=cli.path_name, help="images to take instead of rendered ones")
    parser.add_argument("--num_workers", type=cli.positive_int, help="processes of the pool (default: one per core)")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, help="how often to measure both")
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


def measure(paths, num_workers):
    """(seconds, CPU seconds of all processes) of one pass over `paths`."""
    from utils.hands.detector import detect_folder

    def cpu_seconds():
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, cpu_start = time.perf_counter(), cpu_seconds()
    detect_folder(paths, num_workers, progress=f"{num_workers} processes, {len(paths)} images")
    return time.perf_counter() - start, cpu_seconds() - cpu_start


def burn(seconds):
    """CPU seconds per second that a busy loop gets."""
    start, cpu_start = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        sum(range(1000))
    return (time.process_time() - cpu_start) / (time.perf_counter() - start)


def measure_cores(num_workers):
    """How many cores busy loops in `num_workers` processes get together."""
    from utils.system.process_pool import map_in_processes

    with map_in_processes(burn, [BURN_SECONDS] * num_workers, num_workers) as shares:
        return sum(shares)


def measure_round(paths, num_workers, chunk_size):
    """Rates in images per second, start-up in seconds, CPU ms per image, and cores, of one process and of the pool."""
    num_images = len(paths)
    single_cores, pool_cores = measure_cores(1), measure_cores(num_workers)
    single, single_cpu = measure(paths, 1)
    first = num_workers * chunk_size
    start_up, start_up_cpu = measure(paths[:first], num_workers)
    pool, pool_cpu = measure(paths, num_workers)
    beyond = num_images - first
    return {"single": num_images / single, "pool": beyond / (pool - start_up), "pool_whole": num_images / pool,
            "start_up": start_up, "cores": pool_cores / single_cores, "single_cpu": 1000 * single_cpu / num_images,
            "pool_cpu": 1000 * (pool_cpu - start_up_cpu) / beyond}


def main(args):
    import itertools

    from utils.data.images import list_images
    from utils.hands.detector import CHUNK_SIZE
    from utils.system.process_pool import count_cores

    num_workers = args.num_workers or count_cores()
    if args.num_images < 4 * num_workers * CHUNK_SIZE:
        raise errors.UserError(f"--num_images {args.num_images}: too few to tell a rate from the start of "
                               f"{num_workers} processes; use at least {4 * num_workers * CHUNK_SIZE}")
    with tempfile.TemporaryDirectory() as folder:
        # Images
        images = list_images(args.image_folder) if args.image_folder else render_images(
            Path(folder), args.resolution, args.seed)
        paths = list(itertools.islice(itertools.cycle(images), args.num_images))
        measure(images[:CHUNK_SIZE], 1)  # makes the detector of this process

        # Measure
        rounds = []
        for number in range(args.rounds):
            rounds.append(measure_round(paths, num_workers, CHUNK_SIZE))
            print(f"round {number + 1}: one process {rounds[-1]['single']:.1f} images/s, {num_workers} processes "
                  f"{rounds[-1]['pool']:.1f} (start-up included {rounds[-1]['pool_whole']:.1f}); busy loops in as many "
                  f"get {rounds[-1]['cores']:.2f} times the CPU of one", flush=True)

    # Print
    middle = {name: statistics.median(values[name] for values in rounds) for name in rounds[0]}
    gain = statistics.median(values["pool"] / values["single"] for values in rounds)
    gain_whole = statistics.median(values["pool_whole"] / values["single"] for values in rounds)
    gain_of_cores = statistics.median(values["pool"] / values["single"] / values["cores"] for values in rounds)
    print(f"CPU time per image: one process {middle['single_cpu']:.1f} ms, in the pool {middle['pool_cpu']:.1f} ms; "
          f"start-up with {CHUNK_SIZE} images per process {middle['start_up']:.1f} s")
    print(f"{args.num_images} images: one process {middle['single']:.1f} images/s, {num_workers} processes "
          f"{middle['pool']:.1f}; ratio per process {gain / num_workers:.2f}, start-up included "
          f"{gain_whole / num_workers:.2f}, per core to be had {gain_of_cores:.2f}")


if __name__ == "__main__":
    script.run_main(main, parse_args())
