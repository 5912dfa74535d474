"""Blocks kept per image: when they are read again, and when not."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from utils.data import folder_cache
from utils.data.folder_cache import Block, FolderCache, cached_blocks

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
    blocks, = cached_blocks([(FolderCache(folder, kind, paths, settings, extras), len(paths))], compute)
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
        cached_blocks([(FolderCache(tmp_path / "cache", "kind", paths, SETTINGS), len(paths))], compute)
    blocks, asked = run(tmp_path / "cache", paths)
    assert asked == [path.name for path in paths[2:]]
    assert_same(blocks[:2], [Computation(paths).block(path) for path in paths[:2]])


def test_a_killed_pass_loses_only_its_last_seconds(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(400):
        (images / f"{number:03}.png").write_bytes(b"x")
    code = f"""
import time, numpy as np
from pathlib import Path
from utils import folder_cache
folder_cache.FLUSH_SECONDS = 0.05
paths = sorted(Path({str(images)!r}).iterdir())
def compute(missing):
    for _, place in missing:
        time.sleep(0.005)
        yield folder_cache.Block({{"place": np.array([place])}})
folder_cache.cached_blocks([(folder_cache.FolderCache({str(tmp_path / "cache")!r}, "kind", paths, {{}}), 400)], compute)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        while process.poll() is None and len(list(tmp_path.glob("cache/*.npz"))) < 4:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    paths, asked = sorted(images.iterdir()), []

    def compute(missing):
        asked.extend(place for _, place in missing)
        yield from (Block({"place": np.array([place])}) for _, place in missing)

    blocks, = cached_blocks([(FolderCache(tmp_path / "cache", "kind", paths, {}), 400)], compute)
    assert [int(block.arrays["place"][0]) for block in blocks] == list(range(400))
    assert 200 < len(asked) < 390 and asked == list(range(asked[0], 400))
    assert len(list((tmp_path / "cache").glob("images-*.npz"))) == 1


def test_two_passes_at_once_neither_disturb_each_other_nor_lose_anything(tmp_path, paths):
    first, second = (FolderCache(tmp_path / "cache", "kind", part, SETTINGS) for part in (paths[:2], paths[2:]))
    assert first.read() == second.read() == {}
    known = {}
    for cache, part in ((first, paths[:2]), (second, paths[2:])):
        known[cache] = {place: Computation(part).block(path) for place, path in enumerate(part)}
        for place, block in known[cache].items():
            cache.add(place, block)
            cache.flush()
    for cache in (second, first):
        cache.finish(known[cache])
    assert run(tmp_path / "cache", paths)[1] == [] and len(list((tmp_path / "cache").iterdir())) == 1


def test_memory_holds_what_was_computed_twice_at_the_most(tmp_path, paths):
    paths = [tmp_path / "images" / f"{i}.png" for i in range(8000)]
    size = 4 * 2048 * len(paths)  # NumPy writes through another 17 MB
    tracemalloc.start()
    for kept in (8000, 7990):  # first all are computed, then a few besides those in the file
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        for part in (paths[:kept], paths):
            tracemalloc.reset_peak()
            blocks, = cached_blocks([(FolderCache(tmp_path / "cache", "kind", part, SETTINGS), len(part))],
                                    lambda missing: (Block({"x": np.ones((1, 2048), np.float32)}) for _ in missing))
            assert len(blocks) == len(part) and tracemalloc.get_traced_memory()[1] < 2.4 * size
            del blocks
    tracemalloc.stop()


# Damage


def damage(data, position):
    """Half of the bytes if `position` is None, else all with one bit flipped at that share of them."""
    if position is None:
        return data[:len(data) // 2]
    index = int(position * len(data))
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1:]


@pytest.mark.parametrize("position", [None, *np.linspace(0, 1, 40, endpoint=False)])
def test_damaged_files_give_the_same_blocks_or_are_replaced(position, tmp_path, paths, capsys):
    written, _ = run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    file.write_bytes(damage(file.read_bytes(), position))
    again, asked = run(tmp_path / "cache", paths)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    if message.startswith("read from cache"):  # a bit that nothing depends on
        assert_same(again, written)
        return
    assert len(asked) == 4 and "is damaged" in message
    assert_same(again, [Computation(paths).block(path) for path in paths])
    assert run(tmp_path / "cache", paths)[1] == []


def test_a_pipe_in_the_place_of_the_file_is_replaced(tmp_path, paths):
    written, _ = run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    file.unlink()
    os.mkfifo(file)
    assert_same(run(tmp_path / "cache", paths)[0], written)
    assert run(tmp_path / "cache", paths)[1] == []


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path, paths, capsys):
    run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    file.write_bytes(damage(data, data.index(np.array([0.1]).tobytes()) / len(data)))
    assert len(run(tmp_path / "cache", paths)[1]) == 4
    assert "is damaged" in capsys.readouterr().err


def test_arrays_that_were_not_written_together_are_noticed(tmp_path, paths, capsys):
    run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    with np.load(file) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "texts"}
    np.savez(file, **kept)
    assert len(run(tmp_path / "cache", paths)[1]) == 4
    assert "is damaged (its arrays are not those that were written)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(errno.EACCES, "not now")])
def test_a_file_that_cannot_be_read_for_now_stays(error, tmp_path, paths, capsys, monkeypatch):
    run(tmp_path / "cache", paths)
    file, = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(folder_cache, "unpack", lambda path: (_ for _ in ()).throw(error))
        assert FolderCache(tmp_path / "cache", "kind", paths, SETTINGS).read() == {} and file.exists()
    assert "cannot be read now" in capsys.readouterr().err


class Attack:
    def __reduce__(self):
        return os._exit, (77,)


def test_pickles_are_neither_read_nor_written(tmp_path, paths, capsys):
    cache = FolderCache(tmp_path / "cache", "kind", paths, SETTINGS)
    np.savez(cache.file, digest=np.array(""), numbers=np.array([Attack()], dtype=object))
    assert cache.read() == {} and "damaged" in capsys.readouterr().err
    cache.add(0, Block({"numbers": np.array([Attack()], dtype=object)}))
    with pytest.raises(ValueError, match="no objects"):
        cache.flush()


def test_images_changed_while_they_are_looked_at_are_looked_at_again(tmp_path, paths):
    def compute(missing):
        touch(paths)
        yield from Computation(paths)(missing)

    cached_blocks([(FolderCache(tmp_path / "cache", "kind", paths, SETTINGS), len(paths))], compute)
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


def test_neither_torch_nor_mediapipe_is_imported():
    code = "import sys, utils.folder_cache; sys.exit(bool({'torch', 'mediapipe'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
