"""What was computed once from the images of a folder, kept in .npz files and used again while it still fits.

A file is named after the folder and a hash of its place and of the settings, so that other settings get a file of
their own. It fits as long as the images have the names, sizes, times of change and modes that they had (what
could not be read yesterday may be allowed today).
"""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np

from utils.cli import atomic_path, one_line, to_json

KEY = "cache_key"  # name in the .npz of two digests: what the arrays were computed from, and the arrays


def digest(value):
    return hashlib.sha256(to_json(value)).hexdigest()


def digest_arrays(arrays):
    return digest([[name, array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
                   for name, array in sorted(arrays.items())])


def describe_file(path):
    """[name, size, time of change in ns, mode] of a file; its name alone if there is none."""
    try:
        status = path.stat()
    except OSError:
        return [path.name]
    return [path.name, status.st_size, status.st_mtime_ns, status.st_mode]


class FolderCache:
    """The cache file of one kind of arrays of some images of one folder. cache_dir None: a cache that keeps nothing.

    settings: a dict that goes into JSON, all that the arrays depend on besides the images. Looks at the files when it
    is made, so make it before computing: what changes meanwhile is then computed again next time.
    OSError where the folder of the cache cannot be made; ValueError for images of several folders.
    """

    def __init__(self, cache_dir, kind, paths, settings):
        paths = [Path(path) for path in paths]
        folders = {path.parent for path in paths}
        if len(folders) > 1:
            raise ValueError(f"a cache file holds the images of one folder, not of {len(folders)}")
        self.file = None
        if cache_dir is None or not paths:
            return
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        folder = folders.pop().resolve()
        name = re.sub(r"[^\w.-]", "_", folder.name)[:40]
        self.file = Path(cache_dir, f"{name}-{digest([folder, settings])[:10]}-{kind}.npz")
        self.key = digest([settings, [describe_file(path) for path in paths]])

    def read(self):
        """{name: array} as written, or None if there are none that fit; says on standard error which it is."""
        if self.file is None or not self.file.is_file():
            return None
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                key, content = arrays[KEY].tolist()
                if key == self.key:
                    found = {name: arrays[name] for name in arrays.files if name != KEY}
                    if digest_arrays(found) != content:
                        raise ValueError("its arrays are not those that were written")
                    self._say(f"read from cache {self.file}")
                    return found
            self._say(f"{self.file} was written for other images, or they have changed: recomputed")
        except Exception as error:  # zipfile and NumPy raise almost anything on damaged data, all of it means that
            self._say(f"warning: {self.file} is damaged ({error}): recomputed")
        return None

    def write(self, arrays):
        """Keep {name: array}. No room or no right to write costs a warning, not what was computed."""
        if any(array.dtype.hasobject for array in arrays.values()):
            raise ValueError("a cache holds numbers and text, no objects")
        if self.file is None:
            return
        try:
            with atomic_path(self.file) as temporary:
                np.savez(temporary, **{KEY: np.array([self.key, digest_arrays(arrays)])}, **arrays)
        except OSError as error:
            self._say(f"warning: {self.file} cannot be written ({error.strerror or error}); going on without it")

    def _say(self, message):
        print(one_line(message), file=sys.stderr)


def cached_arrays(cache_dir, kind, paths, settings, compute):
    """What compute() returns, a dict of arrays, from the FolderCache of the first four arguments if it fits."""
    cache = FolderCache(cache_dir, kind, paths, settings)
    arrays = cache.read()
    if arrays is None:
        arrays = compute()
        cache.write(arrays)
    return arrays
