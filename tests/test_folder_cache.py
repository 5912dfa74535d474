"""Arrays kept per folder: when they are read again, and when not."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import folder_cache
from utils.folder_cache import FolderCache, cached_arrays

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"confidence": 0.5, "weights": None}


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "ü \udce9\n.png"):  # the last is not UTF-8 on disk
        (folder / name).write_bytes(b"pixels")
    return sorted(folder.iterdir())


class Computation:
    """A function that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"numbers": np.array([0.1, np.nan, -0.0, 5e-324]), "texts": np.array(["é", "\udce9\n"]),
                "empty": np.zeros((0, 3), np.float32), "serial": np.array(self.calls)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_the_second_time_nothing_is_computed_and_every_bit_is_the_same(tmp_path, paths, capsys):
    compute = Computation()
    first = cached_arrays(tmp_path / "new" / "cache", "kind", paths, SETTINGS, compute)
    assert capsys.readouterr().err == ""
    second = cached_arrays(tmp_path / "new" / "cache", "kind", paths, SETTINGS, compute)
    assert compute.calls == 1
    assert_same(second, first)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("read from cache ") and err.count("\n") == 1


def test_without_a_folder_nothing_is_kept(tmp_path, paths):
    compute = Computation()
    assert [cached_arrays(None, "kind", paths, SETTINGS, compute)["serial"] for _ in range(2)] == [1, 2]
    assert list(tmp_path.iterdir()) == [paths[0].parent]


def rewrite_longer(paths):
    paths[0].write_bytes(b"other pixels")


def touch(paths):
    status = paths[0].stat()
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def allow(paths):
    paths[0].chmod(0o640 if paths[0].stat().st_mode & 0o777 != 0o640 else 0o600)


def rename(paths):
    paths[0] = paths[0].rename(paths[0].with_name("c.png"))


def swap(paths):
    paths[:2] = paths[1::-1]


def delete(paths):
    paths[0].unlink()


@pytest.mark.parametrize("change", [rewrite_longer, touch, allow, rename, swap, list.pop, delete])
def test_any_change_of_the_images_leads_to_new_arrays_in_the_same_file(change, tmp_path, paths, capsys):
    compute = Computation()
    cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    change(paths)
    for _ in range(2):
        assert cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)["serial"] == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "was written for other images, or they have changed: recomputed" in first
    assert second.startswith("read from cache ")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_settings_kinds_and_folders_have_a_file_each(tmp_path, paths):
    twin = tmp_path / "twin" / "images"
    twin.mkdir(parents=True)
    for path in paths:  # the same names, sizes and times in another folder of the same name
        (twin / path.name).write_bytes(b"pixels")
        os.utime(twin / path.name, ns=(0, 0))
        os.utime(path, ns=(0, 0))
    cases = [("kind", paths, SETTINGS), ("other", paths, SETTINGS), ("kind", paths, {**SETTINGS, "weights": "x"}),
             ("kind", sorted(twin.iterdir()), SETTINGS)]
    compute = Computation()
    for _ in range(2):
        serials = [cached_arrays(tmp_path / "cache", *case, compute)["serial"] for case in cases]
        assert serials == [1, 2, 3, 4]
    assert all(file.name.startswith("images-") for file in (tmp_path / "cache").iterdir())


def test_a_folder_is_the_same_however_it_is_spelled(tmp_path, paths, monkeypatch):
    compute = Computation()
    cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    monkeypatch.chdir(tmp_path)
    relative = [os.path.join("images", "..", "images", path.name) for path in paths]
    assert cached_arrays("cache", "kind", relative, SETTINGS, compute)["serial"] == 1


def damage(data, position):
    """Half of the bytes if `position` is None, else all with one bit flipped at that share of them."""
    if position is None:
        return data[:len(data) // 2]
    index = int(position * len(data))
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1:]


@pytest.mark.parametrize("position", [None, *np.linspace(0, 1, 40, endpoint=False)])
def test_damaged_files_give_the_same_arrays_or_are_replaced(position, tmp_path, paths, capsys):
    compute = Computation()
    written = cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    file, = (tmp_path / "cache").iterdir()
    file.write_bytes(damage(file.read_bytes(), position))
    again = cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    if message.startswith("read from cache"):  # a bit that nothing depends on
        assert_same(again, written)
        return
    assert again["serial"] == 2 and ("is damaged" in message or "have changed" in message)
    assert_same(cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute), again)


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path, paths, capsys):
    compute = Computation()
    cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    file, = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    file.write_bytes(damage(data, data.index(np.array([0.1]).tobytes()) / len(data)))
    assert cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)["serial"] == 2
    assert "is damaged" in capsys.readouterr().err


def test_arrays_that_were_not_written_together_are_noticed(tmp_path, paths, capsys):
    compute = Computation()
    cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    file, = (tmp_path / "cache").iterdir()
    with np.load(file) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "texts"}
    np.savez(file, **kept)
    assert cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)["serial"] == 2
    assert "is damaged (its arrays are not those that were written)" in capsys.readouterr().err


class Attack:
    def __reduce__(self):
        return os._exit, (77,)


def test_pickles_are_neither_read_nor_written(tmp_path, paths, capsys):
    cache = FolderCache(tmp_path / "cache", "kind", paths, SETTINGS)
    np.savez(cache.file, cache_key=np.array([cache.key, ""]), numbers=np.array([Attack()], dtype=object))
    assert cache.read() is None and "damaged" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no objects"):
        cache.write({"numbers": np.array([Attack()], dtype=object)})


def test_images_changed_while_they_are_looked_at_are_looked_at_again(tmp_path, paths):
    compute = Computation()

    def slow():
        touch(paths)
        return compute()

    cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, slow)
    assert cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)["serial"] == 2


def test_a_full_disk_costs_a_warning_and_leaves_what_was_there(tmp_path, paths, capsys, monkeypatch):
    compute = Computation()
    cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)
    file, = (tmp_path / "cache").iterdir()
    before = file.read_bytes()
    touch(paths)

    def savez(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_cache.np, "savez", savez)
    assert cached_arrays(tmp_path / "cache", "kind", paths, SETTINGS, compute)["serial"] == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"warning: {file} cannot be written ({os.strerror(errno.ENOSPC)}); going on without it"
    assert list((tmp_path / "cache").iterdir()) == [file] and file.read_bytes() == before


def test_a_file_in_place_of_the_folder_is_an_error_before_anything_is_computed(tmp_path, paths):
    compute = Computation()
    with pytest.raises(FileExistsError):
        cached_arrays(paths[0], "kind", paths, SETTINGS, compute)
    assert compute.calls == 0


def test_images_of_several_folders_are_refused(tmp_path, paths):
    with pytest.raises(ValueError, match="one folder, not of 2"):
        FolderCache(None, "kind", [*paths, tmp_path / "c.png"], SETTINGS)


def test_neither_torch_nor_mediapipe_is_imported():
    code = "import sys, utils.folder_cache; sys.exit(bool({'torch', 'mediapipe'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
