"""What was computed once from each image of a folder, kept in .npz files and used again while the image is the same.

Files are named after the folder and a hash of its place and of the settings, so that other settings get files of their
own. What is computed is written every few seconds to a part beside them, so that a pass that is killed loses no more;
at its end the parts become one file. An image is the same as long as it has the name, size, time of change and mode
that it had (what could not be read yesterday may be allowed today). Several processes may use one cache: at worst
something is computed twice.
"""

import contextlib
import errno
import glob
import hashlib
import re
import sys
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.system.errors import first_line, one_line
from utils.system.files import atomic_path, to_json

FLUSH_SECONDS = 5.0  # of work that a killed process may lose
FIELDS = ("names", "keys", "counts", "messages", "digest")  # of a file; all else in it are arrays of rows
UNREADABLE = -1  # as the count of rows: there is a message instead


@dataclass
class Block:
    """What an image gave: arrays {name: (rows, …)}, all with as many rows, or the message why it gave none."""

    arrays: dict[str, np.ndarray] | None
    message: str = ""


def digest(value):
    return hashlib.sha256(to_json(value)).hexdigest()


def digest_arrays(arrays):
    return digest([[name, array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array)).hexdigest()]
                   for name, array in sorted(arrays.items())])


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
    if any(array.dtype.hasobject for array in arrays.values()):
        raise ValueError("a cache holds numbers and text, no objects")
    counts = [UNREADABLE if block.arrays is None else len(next(iter(block.arrays.values())))
              for block in blocks.values()]
    arrays |= {"names": np.array([name for name, _ in blocks], dtype=np.str_),
               "keys": np.array([key for _, key in blocks], dtype=np.str_), "counts": np.array(counts, dtype=np.int64),
               "messages": np.array([block.message for block in blocks.values()], dtype=np.str_)}
    return arrays | {"digest": np.array(digest_arrays(arrays))}


def unpack(file):
    """{(name, key): Block} of a file. Whatever NumPy raises, or ValueError, if it is damaged."""
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if str(arrays.pop("digest")) != digest_arrays(arrays):
        raise ValueError("its arrays are not those that were written")
    names, keys, counts, messages = (arrays.pop(name).tolist() for name in FIELDS[:-1])
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
        self.file, self.added, self.num_added = None, {}, 0
        if cache_dir is None or not paths:
            return
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        self.folder = folders.pop().resolve()
        name = re.sub(r"[^\w.-]", "_", self.folder.name)[:40]
        self.file = Path(cache_dir, f"{name}-{digest([self.folder, settings])[:10]}-{kind}.npz")
        extras = [None] * len(paths) if extras is None else extras
        self.keys = [(path.name, digest([describe_file(path), extra]))
                     for path, extra in zip(paths, extras, strict=True)]
        self.last_flush = time.monotonic()

    def files(self):
        """The finished file, if any, and the parts of passes that are under way or were killed."""
        return [file for file in sorted(self.file.parent.glob(glob.escape(self.file.stem) + ".*npz")) if file.is_file()]

    def read_files(self):
        """Yields the files that can be read, each with its {(name, key): Block}."""
        for file in self.files():
            try:
                yield file, unpack(file)
            except FileNotFoundError:  # another process has just put it together with others
                continue
            except Exception as error:  # zipfile and NumPy raise almost anything on damaged data
                if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EINVAL):
                    self.say(f"warning: {file} cannot be read now ({first_line(error)}): recomputed")
                    continue
                self.say(f"warning: {file} is damaged ({error}): recomputed")
                with contextlib.suppress(OSError):
                    file.unlink()

    def read(self):
        """{place in the list of images: Block} of those that are known; says on standard error how many."""
        if self.file is None:
            return {}
        blocks = {key: block for _, found in self.read_files() for key, block in found.items()}
        known = {place: blocks[key] for place, key in enumerate(self.keys) if key in blocks}
        if len(known) == len(self.keys):
            self.say(f"read from cache {self.file}")
        elif blocks:
            self.say(f"{len(known)} of {len(self.keys)} images read from cache {self.file}, the others are computed")
        return known

    def add(self, place, block):
        """Keep the Block of an image; every few seconds they are written."""
        if self.file is None:
            return
        self.added[self.keys[place]] = block
        self.num_added += 1
        if time.monotonic() - self.last_flush > FLUSH_SECONDS:
            self.flush()

    def flush(self):
        """Write what was added to a part of its own. No room or no right costs a warning, not what was computed."""
        if self.added and self.file is not None:
            self.write(self.file.with_suffix(f".{uuid.uuid4().hex[:8]}.npz"), self.added)
        self.added, self.last_flush = {}, time.monotonic()

    def write(self, file, blocks):
        """Whether {(name, key): Block} could be written to `file`; if not, nothing more is kept."""
        arrays = pack(blocks)
        try:
            # As np.savez does, which leaves the archive open when the disk is full: it complains when it is collected
            with atomic_path(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            return True
        except OSError as error:
            self.say(f"warning: {file} cannot be written ({error.strerror or error}); going on without it")
            self.file = None
            return False

    def read_others(self):
        """({(name, key): Block} of images of the folder that are not in the list, all files that could be read)."""
        own, others, read = dict(self.keys), {}, []
        for file, blocks in self.read_files():
            read.append(file)
            others |= {(name, key): block for (name, key), block in blocks.items()
                       if name not in own and (self.folder / name).exists()}
        return others, read

    def finish(self, known):
        """Make one file of all parts, without what images were before they changed or went.

        known: {place: Block} of the whole list, which is written from there: memory holds it twice at the most.
        """
        self.flush()
        if not self.num_added or self.file is None:
            return
        kept, read = self.read_others()
        kept |= {key: known[place] for place, key in enumerate(self.keys)}
        if self.write(self.file, kept):
            for file in read:
                if file != self.file:
                    file.unlink(missing_ok=True)

    def say(self, message):
        print(one_line(message), file=sys.stderr)


def cached_blocks(caches, compute):
    """The Blocks of the images of several FolderCaches: one list for each, from the files or from compute.

    compute(missing): yields the Blocks of [(number of a cache, place in it)] in that order. What it has yielded when
    it is interrupted is kept.
    """
    known = [cache.read() for cache, _ in caches]
    missing = [(number, place) for number, (_, count) in enumerate(caches) for place in range(count)
               if place not in known[number]]
    try:
        if missing:
            for (number, place), block in zip(missing, compute(missing), strict=True):
                known[number][place] = block
                caches[number][0].add(place, block)
    finally:
        for cache, _ in caches:
            cache.flush()
    for (cache, _), found in zip(caches, known, strict=True):
        cache.finish(found)
    return [[found[place] for place in range(count)] for found, (_, count) in zip(known, caches, strict=True)]
