"""What was computed once from each image of a folder, kept in a .npz file and used again while the image is the same.

The file is named after the folder and a hash of its place and of the settings, so that other settings get a file of
their own. It is written whole, at the end of a pass and every few minutes of a long one. An image is the same as long
as it has the name, size, time of change and mode that it had (what could not be read yesterday may be allowed today).
Several processes may use one cache: each adds what it has computed to what the others have written.
"""

import contextlib
import hashlib
import re
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.system.errors import first_line, one_line
from utils.system.file_lock import lock_outputs
from utils.system.files import atomic_path, to_json

WRITE_SECONDS = 120.0  # of work that a killed process may lose
FIELDS = ("names", "keys", "counts", "messages")  # of a file; all else in it are arrays of rows
UNREADABLE = -1  # as the count of rows: there is a message instead


@dataclass
class Block:
    """What an image gave: arrays {name: (rows, …)}, all with as many rows, or the message why it gave none."""

    arrays: dict[str, np.ndarray] | None
    message: str = ""


def digest(value):
    return hashlib.sha256(to_json(value)).hexdigest()


def describe_file(path):
    """[name, size, time of change in ns, mode] of a file; its name alone if there is none."""
    try:
        status = path.stat()
    except OSError:
        return [path.name]
    return [path.name, status.st_size, status.st_mtime_ns, status.st_mode]


def pack(blocks):
    """The arrays of a file that hold {(name of an image, key): Block}."""
    full = [block.arrays for block in blocks.values() if block.arrays is not None]
    arrays = {name: np.concatenate([rows[name] for rows in full]) for name in (full[0] if full else ())}
    counts = [UNREADABLE if block.arrays is None else len(next(iter(block.arrays.values())))
              for block in blocks.values()]
    return arrays | {"names": np.array([name for name, _ in blocks], dtype=np.str_),
                     "keys": np.array([key for _, key in blocks], dtype=np.str_),
                     "counts": np.array(counts, dtype=np.int64),
                     "messages": np.array([block.message for block in blocks.values()], dtype=np.str_)}


def unpack(file):
    """{(name, key): Block} of a file. Whatever NumPy raises, or ValueError, if it is damaged."""
    with np.load(file, allow_pickle=False) as stored:
        if stored.zip.testzip():  # NumPy alone compares no checksum where a damaged header makes it read less
            raise ValueError("its checksums are wrong")
        arrays = {name: stored[name] for name in stored.files if name != "digest"}  # of an earlier version
    names, keys, counts, messages = (arrays.pop(name).tolist() for name in FIELDS)
    blocks, start = {}, 0
    for name, key, count, message in zip(names, keys, counts, messages, strict=True):
        rows = None if count == UNREADABLE else {field: array[start:start + count] for field, array in arrays.items()}
        blocks[name, key] = Block(rows, message)
        start += max(0, count)
    return blocks


class FolderCache:
    """The cache of one kind of Blocks of images of one folder. cache_dir None: a cache that keeps nothing.

    settings: a dict that goes into JSON, all that the Blocks depend on besides the images; `extras` the same for each
    image. Looks at the images when it is made, so make it before computing: what changes meanwhile is then computed
    again next time. OSError where the folder of the cache cannot be made; ValueError for images of several folders.
    """

    def __init__(self, cache_dir, kind, paths, settings, extras=None):
        paths = [Path(path) for path in paths]
        folders = {path.parent for path in paths}
        if len(folders) > 1:
            raise ValueError(f"a cache file holds the images of one folder, not of {len(folders)}")
        self.num_images, self.known = len(paths), {}  # place in the list of images: its Block
        self.file, self.is_written, self.last_write = None, True, time.monotonic()
        if cache_dir is None or not paths:
            return
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        self.folder = folders.pop().resolve()
        name = re.sub(r"[^\w.-]", "_", self.folder.name)[:40]
        self.file = Path(cache_dir, f"{name}-{digest([self.folder, settings])[:10]}-{kind}.npz")
        extras = [None] * len(paths) if extras is None else extras
        self.keys = [(path.name, digest([describe_file(path), extra]))
                     for path, extra in zip(paths, extras, strict=True)]

    def load(self):
        """{(name, key): Block} of the file, which goes if it is damaged."""
        try:
            return unpack(self.file) if self.file.is_file() else {}
        except Exception as error:  # zipfile and NumPy raise almost anything on damaged data
            self.say(f"warning: {self.file} is damaged ({first_line(error)}): recomputed")
            with contextlib.suppress(OSError):
                self.file.unlink()
            return {}

    def read(self):
        """Take over the Blocks that the file has of these images; says on standard error how many."""
        if self.file is None:
            return
        blocks = self.load()
        self.known = {place: blocks[key] for place, key in enumerate(self.keys) if key in blocks}
        count = len(self.known)
        if count == self.num_images:
            self.say(f"read from cache {self.file}")
        elif blocks:
            self.say(f"{count} of {self.num_images} images read from cache {self.file}, the others are computed")

    def add(self, place, block):
        """Keep the Block of an image; every few minutes all are written."""
        self.known[place] = block
        self.is_written = False
        if time.monotonic() - self.last_write > WRITE_SECONDS:
            self.write()

    def write(self):
        """Write what is known, and what the file has of other images of the folder that are still there.

        No room or no right costs a warning, not what was computed.
        """
        if self.is_written or self.file is None:
            return
        own = dict(self.keys)
        try:
            with lock_outputs(self.file.parent, self.file.name, wait=True):
                blocks = {(name, key): block for (name, key), block in self.load().items()
                          if own.get(name, key) == key and (self.folder / name).exists()}
                arrays = pack(blocks | {self.keys[place]: block for place, block in self.known.items()})
                # As np.savez does, which leaves the archive open when the disk is full: it complains when collected
                with atomic_path(self.file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                    for name, array in arrays.items():
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, array, allow_pickle=False)
        except OSError as error:
            self.say(f"warning: {self.file} cannot be written ({error.strerror or error}); going on without it")
            self.file = None
        self.is_written, self.last_write = True, time.monotonic()

    def say(self, message):
        print(one_line(message), file=sys.stderr)


def cached_blocks(caches, compute):
    """The Blocks of the images of several FolderCaches: one list for each, from the files or from compute.

    compute(missing): yields the Blocks of [(number of a cache, place in it)] in that order. What it has yielded when
    it is interrupted is kept.
    """
    for cache in caches:
        cache.read()
    missing = [(number, place) for number, cache in enumerate(caches) for place in range(cache.num_images)
               if place not in cache.known]
    try:
        for (number, place), block in zip(missing, compute(missing) if missing else (), strict=True):
            caches[number].add(place, block)
    finally:
        for cache in caches:
            cache.write()
    return [[cache.known[place] for place in range(cache.num_images)] for cache in caches]
