"""Blocks kept per image: when they are read again, and when not."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.data import folder_cache
from utils.data.folder_cache import Block, FolderCache, cached_blocks
from utils.system.files import beside

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"confidence": 0.5, "weights": None}


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png", "ü \udce9\n.png"):  # the last is not UTF-8 on disk
        (folder / name).write_bytes(b"pixels")
    return sorted(folder.iterdir())


class Computation:
    """Computes the Blocks of images and remembers which it was asked for; of c.png there is only a message."""

    def __init__(self, paths):
        self.paths, self.asked = paths, []

    def block(self, path):
        if path.name == "c.png":
            return Block(None, f"{path}: no image é\udce9")
        rows = 2 if path.name == "a.png" else 0 if path.name == "b.png" else 1
        return Block({"numbers": np.array([[0.1, np.nan], [-0.0, 5e-324]])[:rows],
                      "texts": np.array(["é", "\udce9\n"])[:rows]})

    def __call__(self, missing):
        for _, place in missing:
            self.asked.append(self.paths[place].name)
            yield self.block(self.paths[place])


def run(folder, paths, settings=SETTINGS, extras=None, kind="kind"):
    """(Blocks, names of the images that were computed)."""
    compute = Computation(paths)
    blocks, = cached_blocks([FolderCache(folder, kind, paths, settings, extras)], compute)
    return blocks, compute.asked


def assert_same(found, expected):
    assert [block.message for block in found] == [block.message for block in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.arrays is None) == (other.arrays is None)
        for name, array in (other.arrays or {}).items():
            assert (one.arrays[name].shape, one.arrays[name].dtype.kind) == (array.shape, array.dtype.kind)
            same = one.arrays[name].tolist() == array.tolist() if array.dtype.kind == "U" else (
                one.arrays[name].tobytes() == array.tobytes())
            assert same, name


def test_the_second_time_nothing_is_computed_and_every_bit_is_the_same(tmp_path, paths, capsys):
    first, asked = run(tmp_path / "new" / "cache", paths)
    assert len(asked) == 4 and capsys.readouterr().err == ""
    second, asked = run(tmp_path / "new" / "cache", paths)
    assert asked == []
    assert_same(second, first)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("read from cache ") and err.count("\n") == 1
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 1


def test_without_a_folder_nothing_is_kept(tmp_path, paths):
    assert [len(run(None, paths)[1]) for _ in range(2)] == [4, 4]
    assert list(tmp_path.iterdir()) == [paths[0].parent]


def rewrite_longer(paths):
    paths[0].write_bytes(b"other pixels")
    return ["a.png"]


def touch(paths):
    status = paths[0].stat()
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    return ["a.png"]


def allow(paths):
    paths[0].chmod(0o640 if paths[0].stat().st_mode & 0o777 != 0o640 else 0o600)
    return ["a.png"]


def rename(paths):
    paths[0] = paths[0].rename(paths[0].with_name("d.png"))
    return ["d.png"]


def add(paths):
    paths.append(paths[0].with_name("e.png"))
    paths[-1].write_bytes(b"pixels")
    return ["e.png"]


def swap(paths):
    paths[:2] = paths[1::-1]
    return []


def leave_out(paths):
    paths.pop(0)
    return []


@pytest.mark.parametrize("change", [rewrite_longer, touch, allow, rename, add, swap, leave_out])
def test_only_what_changed_is_computed_again(change, tmp_path, paths, capsys):
    run(tmp_path / "cache", paths)
    changed = change(paths)
    for expected in (changed, []):
        blocks, asked = run(tmp_path / "cache", paths)
        assert asked == expected and len(blocks) == len(paths)
        assert_same([block for path, block in zip(paths, blocks, strict=True) if path.name not in changed],
                    [Computation(paths).block(path) for path in paths if path.name not in changed])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_images_that_are_gone_are_forgotten_and_others_of_the_folder_kept(tmp_path, paths):
    run(tmp_path / "cache", paths)
    paths[0].unlink()
    (paths[0].parent / "new.png").write_bytes(b"pixels")
    assert run(tmp_path / "cache", [*paths[1:3], paths[0].parent / "new.png"])[1] == ["new.png"]
    assert run(tmp_path / "cache", paths[3:])[1] == []
    file, = (tmp_path / "cache").iterdir()
    with np.load(file) as arrays:
        assert "a.png" not in arrays["names"].tolist() and len(arrays["names"]) == 4


def test_what_an_image_depends_on_beside_its_file_counts(tmp_path, paths):
    run(tmp_path / "cache", paths, extras=[[0.1], [], None, "x"])
    assert run(tmp_path / "cache", paths, extras=[[0.2], [], None, "x"])[1] == ["a.png"]


def test_settings_kinds_and_folders_have_a_file_each(tmp_path, paths):
    twin = tmp_path / "twin" / "images"
    twin.mkdir(parents=True)
    for path in paths:  # the same names, sizes and times in another folder of the same name
        (twin / path.name).write_bytes(b"pixels")
        os.utime(twin / path.name, ns=(0, 0))
        os.utime(path, ns=(0, 0))
    cases = [(paths, SETTINGS, None, "kind"), (paths, SETTINGS, None, "other"),
             (paths, {**SETTINGS, "weights": "x"}, None, "kind"), (sorted(twin.iterdir()), SETTINGS, None, "kind")]
    for expected in (4, 0):
        assert [len(run(tmp_path / "cache", *case)[1]) for case in cases] == [expected] * 4
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 4 and all(file.name.startswith("images-") for file in files)


def test_a_folder_is_the_same_however_it_is_spelled(tmp_path, paths, monkeypatch):
    run(tmp_path / "cache", paths)
    monkeypatch.chdir(tmp_path)
    relative = [Path("images", "..", "images", path.name) for path in paths]
    assert run("cache", relative)[1] == []


# Interrupted passes


def test_what_was_computed_before_an_error_is_kept(tmp_path, paths):
    def compute(missing):
        yield from Computation(paths)(missing[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_blocks([FolderCache(tmp_path / "cache", "kind", paths, SETTINGS)], compute)
    blocks, asked = run(tmp_path / "cache", paths)
    assert asked == [path.name for path in paths[2:]]
    assert_same(blocks[:2], [Computation(paths).block(path) for path in paths[:2]])


def test_a_killed_pass_loses_only_what_it_had_not_written(tmp_path, paths):
    code = f"""
import os
from pathlib import Path
from tests.test_folder_cache import SETTINGS, Computation
from utils.data import folder_cache
folder_cache.WRITE_SECONDS = 0
folder = Path({str(paths[0].parent)!r})
paths = sorted(folder.iterdir())
def compute(missing):
    yield from Computation(paths)(missing[:3])
    os.kill(os.getpid(), 9)
folder_cache.cached_blocks([folder_cache.FolderCache({str(tmp_path / "cache")!r}, "kind", paths, SETTINGS)], compute)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    leftover = beside(next((tmp_path / "cache").iterdir()))
    leftover.touch()
    blocks, asked = run(tmp_path / "cache", paths)
    assert asked == [paths[3].name] and not leftover.exists()
    assert_same(blocks, [Computation(paths).block(path) for path in paths])


def test_processes_that_share_the_images_keep_what_each_of_them_computed(tmp_path, paths):
    shares = [paths[:2], paths[2:]]
    caches = [FolderCache(tmp_path / "cache", "kind", share, SETTINGS) for share in shares]
    for cache, share in zip(caches, shares, strict=True):
        cache.read()
        for place, path in enumerate(share):
            cache.add(place, Computation(share).block(path))
    for cache in caches:
        cache.write()
    assert run(tmp_path / "cache", paths)[1] == [] and len(list((tmp_path / "cache").iterdir())) == 1


# Damage


def test_damaged_files_give_the_same_blocks_or_are_replaced(tmp_path, paths, capsys):
    written, _ = run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    flipped = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1:] for at in range(0, len(data), 11)]
    outcomes = set()
    for damaged in (data[:len(data) // 2], b"", *flipped):
        file.write_bytes(damaged)
        capsys.readouterr()
        again, asked = run(tmp_path / "cache", paths)
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        if message.startswith("read from cache"):  # a bit that nothing depends on
            assert_same(again, written)
        else:
            assert len(asked) == 4 and "is damaged" in message
            assert_same(again, [Computation(paths).block(path) for path in paths])
        outcomes.add(len(asked))
    assert outcomes == {0, 4}


@pytest.mark.parametrize("header", [(b"'shape': (4,)", b"'shape': (3,)"), (b"'<f8'", b"'<f4'")])
def test_a_header_that_makes_numpy_read_less_is_noticed(header, tmp_path, paths, capsys):
    """It then sees no checksum."""
    run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    assert header[0] in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(*header))
    assert len(run(tmp_path / "cache", paths)[1]) == 4 and "is damaged" in capsys.readouterr().err


class Attack:
    def __reduce__(self):
        return os._exit, (77,)


def test_pickles_are_neither_read_nor_written(tmp_path, paths, capsys):
    cache = FolderCache(tmp_path / "cache", "kind", paths, SETTINGS)
    np.savez(cache.file, numbers=np.array([Attack()], dtype=object))
    assert cache.load() == {} and "damaged" in capsys.readouterr().err
    cache.add(0, Block({"numbers": np.array([Attack()], dtype=object)}))
    with pytest.raises(ValueError, match="Object arrays"):
        cache.write()


def test_images_changed_while_they_are_looked_at_are_looked_at_again(tmp_path, paths):
    def compute(missing):
        touch(paths)
        yield from Computation(paths)(missing)

    cached_blocks([FolderCache(tmp_path / "cache", "kind", paths, SETTINGS)], compute)
    assert run(tmp_path / "cache", paths)[1] == ["a.png"]


def test_a_full_disk_costs_a_warning_and_leaves_what_was_there(tmp_path, paths, capsys, monkeypatch):
    run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    before = file.read_bytes()
    touch(paths)

    def write_array(file, array, **options):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_cache.np.lib.format, "write_array", write_array)
    blocks, asked = run(tmp_path / "cache", paths)
    assert asked == ["a.png"] and len(blocks) == 4
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"warning: {file.with_suffix('')}") and message.endswith(
        f"cannot be written ({os.strerror(errno.ENOSPC)}); going on without it")
    assert list((tmp_path / "cache").iterdir()) == [file] and file.read_bytes() == before


def test_a_file_in_place_of_the_folder_is_an_error_before_anything_is_computed(paths):
    with pytest.raises(FileExistsError):
        run(paths[0], paths)


def test_images_of_several_folders_are_refused(tmp_path, paths):
    with pytest.raises(ValueError, match="one folder, not of 2"):
        FolderCache(None, "kind", [*paths, tmp_path / "c.png"], SETTINGS)
