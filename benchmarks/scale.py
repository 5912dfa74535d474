"""Time and memory for folders of many files and long lists: what should grow in step with their number, and no faster.

python -m benchmarks.scale --num_files 100000 --num_lines 50000
python -m benchmarks.scale --num_files 100000 --num_opened 100000  # three quarters of an hour longer

Makes a folder of small JPEG files (hard links to a few hundred different ones) and a list of names and captions, then
measures each step at a tenth of the number and at all of it: listing, reading the aligned lists and joining the names,
what the caches ask of each file, caches of that many hands and of Inception's features written and read. The passes
that open the images are measured on --num_opened of them, since their time per image is that of one image; --num_large
PNG images of 88 megapixels are opened as well. Prints a Markdown table with the time per item and the most resident
memory of this process and those it started while the step ran, on top of what they had before.
"""

import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

from utils.system import cli, script

NUM_PICTURES = 200
LARGE_SIDE = 9_400  # pixels: just below the limit of utils.data.images
SAMPLING_SECONDS = 0.02
HAND = {"scores": (1,), "presences": (1,), "landmarks": (1, 21, 3), "world_landmarks": (1, 21, 3)}
FEATURES = {"features": (1, 2048)}  # of Inception


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--num_files", type=cli.positive_int, default=100_000, help="files in the folder")
    parser.add_argument("--num_lines", type=cli.positive_int, default=50_000, help="lines of the lists")
    parser.add_argument("--num_opened", type=cli.positive_int, default=1_000, help="images that are opened")
    parser.add_argument("--num_large", type=cli.positive_int, default=8, help="images of 88 megapixels")
    cli.add_common_flags(parser)
    return parser.parse_args(argv)


def make_files(folder, num_files):
    """`num_files` names of NUM_PICTURES different 64×64 JPEG files."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(num_files):
        path = folder / f"{number:07d}.jpg"
        if number < NUM_PICTURES:
            Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        else:
            os.link(folder / f"{number % NUM_PICTURES:07d}.jpg", path)


def resident():
    """Bytes of memory that this process and those it started have now; pages that they share count for each."""
    total = 0
    for number in (os.getpid(), *(process.pid for process in multiprocessing.active_children())):
        try:
            total += int(Path(f"/proc/{number}/statm").read_text().split()[1])
        except FileNotFoundError:  # it has just ended
            continue
    return total * os.sysconf("SC_PAGE_SIZE")


def measure(step, *args):
    """(seconds, the most bytes of resident memory meanwhile, above those before) of a call."""
    before, most, done = resident(), [0], threading.Event()

    def sample():
        while not done.wait(SAMPLING_SECONDS):
            most.append(resident())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    try:
        result = step(*args)
        seconds = time.perf_counter() - start
    finally:
        done.set()
        sampler.join()
    most.append(resident())
    del result
    return seconds, max(most) - before


def open_all(paths):
    """Opens images as the scripts do, one after the other."""
    from utils.data.loader import load_images

    return sum(image.width for _, image, _ in load_images(paths))


def read_lists(folder, names, captions):
    """Both lists, and the path of each name."""
    from utils.data.images import read_aligned, safe_join

    lines = read_aligned(names, captions)
    return lines, [safe_join(folder, name) for name in lines[0]]


def keep(paths, cache_dir, shapes):
    """Writes a cache with float32 arrays ({name: shape}) for each image and reads it again."""
    import numpy as np

    from utils.data.folder_cache import Block, FolderCache, cached_blocks

    def run():
        cache = FolderCache(cache_dir, "scale", paths, {})
        return cached_blocks([cache], lambda missing: (
            Block({name: np.ones(shape, np.float32) for name, shape in shapes.items()}) for _ in missing))

    run()
    return run()


def extract(paths):
    """Synthetic features of images."""
    from utils.metrics.features import extract_features
    from utils.synthetic.feature_network import load_feature_network

    return extract_features(load_feature_network(), [(path, []) for path in paths], "full", "cpu")


def main(args):
    from PIL import Image

    from utils.data.images import list_images
    from utils.hands.detector import detect_folder

    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        make_files(root / "images", args.num_files)
        rows = []

        def report(name, sizes, step):
            for size in sizes:
                seconds, memory = measure(step, size)
                rows.append((name, size, seconds, memory))
                print(f"| {name} | {size:,} | {seconds:.2f} | {1e6 * seconds / size:.1f} | {memory / 1e6:.0f} |",
                      flush=True)

        print("| step | items | seconds | µs per item | MB more |\n|---|---|---|---|---|")
        paths = list_images(root / "images")
        report("list a folder", [args.num_files], lambda size: list_images(root / "images"))

        def lists(size):
            for name, line in (("names.txt", "{:07d}.jpg"), ("captions.txt", "a man number {} making a fist")):
                (root / name).write_text("".join(f"{line.format(i)}\n" for i in range(size)))
            return read_lists(root / "images", root / "names.txt", root / "captions.txt")

        report("write, read and join lists", [args.num_lines // 10, args.num_lines], lists)
        report("cache of hands, written and read", [args.num_files // 10, args.num_files],
               lambda size: keep(paths[:size], root / f"hands{size}", HAND))
        report("cache of 2,048 features, written and read", [args.num_files // 10, args.num_files],
               lambda size: keep(paths[:size], root / f"features{size}", FEATURES))
        report("look for hands", [args.num_opened // 10, args.num_opened], lambda size: detect_folder(paths[:size]))
        report("synthetic features", [args.num_opened // 10, args.num_opened], lambda size: extract(paths[:size]))

        Image.new("RGB", (LARGE_SIDE, LARGE_SIDE), "red").save(root / "large.png")
        large = [root / "large.png"] * args.num_large
        report("open 88-megapixel PNG images", [args.num_large], lambda size: open_all(large[:size]))
        report("look for hands in them, two threads", [args.num_large], lambda size: detect_folder(large[:size], 2))
    most = max(memory for *_, memory in rows)
    print(f"\nmost memory on top: {most / 1e6:.0f} MB")


if __name__ == "__main__":
    script.run_main(main, parse_args())
