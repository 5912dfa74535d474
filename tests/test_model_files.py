"""The hand networks: from a wheel that pip finds, from an address, once, whole, and no others."""

import functools
import http.server
import importlib.util
import os
import threading
import types
import zipfile
from pathlib import Path

import pytest

from tests import scripts
from utils.hands import model_files
from utils.system.errors import UserError


@pytest.fixture(scope="module")
def models():
    """The bytes of both, by their place in the wheel."""
    paths = model_files.find_models()
    return {place: path.read_bytes() for place, path in zip(model_files.MODELS, paths, strict=True)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the models shall go; the network is out of reach."""
    monkeypatch.setattr(model_files, "FOLDER", tmp_path / "cache")
    monkeypatch.setattr(model_files, "ADDRESS", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no mediapipe is installed
    return model_files.FOLDER


def write_wheel(folder, models):
    """What mediapipe 0.10.21 is to pip, with nothing but these models in it."""
    name, version = model_files.WHEEL.split("==")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-cp312-cp312-manylinux_2_28_x86_64.whl", "w") as wheel:
        for place, data in models.items():
            wheel.writestr(place, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
        wheel.writestr(f"{info}/RECORD", "")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The folder of a server that takes the place of Google's."""
    folder = tmp_path / "server"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(model_files, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()


def serve(folder, models):
    for place, data in models.items():
        (folder / Path(place).name).write_bytes(data)


def read_all(paths):
    return [path.read_bytes() for path in paths]


def test_models_come_from_the_wheel_once(cache, models, tmp_path, capsys, monkeypatch):
    write_wheel(tmp_path, models)
    paths = model_files.find_models()
    assert read_all(paths) == list(models.values()) and sorted(cache.iterdir()) == sorted(paths)
    assert capsys.readouterr().err == f"getting MediaPipe's hand models once, into {cache}\n"
    for file in tmp_path.glob("*.whl"):
        file.unlink()
    monkeypatch.setattr(model_files, "lock_outputs", None)  # a folder that cannot be written will do
    assert model_files.find_models() == paths and capsys.readouterr().err == ""


def test_models_of_an_old_mediapipe_are_taken(cache, models, tmp_path, monkeypatch):
    for place, data in models.items():
        path = tmp_path / "site" / place
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    origin = str(tmp_path / "site" / "mediapipe" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin=origin))
    assert read_all(model_files.find_models()) == list(models.values())


def test_else_models_come_from_the_address(cache, address, models):
    serve(address, models)
    assert read_all(model_files.find_models()) == list(models.values())


def test_a_download_that_breaks_off_leaves_nothing(cache, address, models, monkeypatch):
    serve(address, models)
    monkeypatch.setattr(Quiet, "copyfile", lambda self, source, output: output.write(source.read(1000)))
    with pytest.raises(UserError, match=r"IncompleteRead\(1000 bytes read"):
        model_files.find_models()
    assert not cache.exists()


def test_a_folder_that_cannot_be_made_is_said_with_its_remedy(cache):
    cache.write_text("a file")
    with pytest.raises(UserError, match="cache: File exists; the hand models are kept in .* XDG_CACHE_HOME names"):
        model_files.find_models()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" + data[1:]])
def test_a_damaged_file_is_got_again(damage, cache, models, tmp_path):
    write_wheel(tmp_path, models)
    path = model_files.find_models()[1]
    path.write_bytes(damage(path.read_bytes()))
    assert read_all(model_files.find_models()) == list(models.values())


def test_other_models_are_refused_and_nothing_is_left(cache, address, models, tmp_path):
    others = {place: data + b"\0" for place, data in models.items()}
    write_wheel(tmp_path, others)
    serve(address, others)
    with pytest.raises(UserError, match="0.10.21: others than those asked for; http.*: others than"):
        model_files.find_models()
    assert not cache.exists()


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    place = {"XDG_CACHE_HOME": str(tmp_path), "no_proxy": "", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1",
             "https_proxy": "http://127.0.0.1:9", "PIP_FIND_LINKS": str(tmp_path)}
    done = scripts.run(["-m", "utils.hands.model_files"], env=os.environ | place)
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: MediaPipe's hand models cannot be had (the installed mediapipe: ")
    assert last.endswith(f"; connect to the network once, or copy {tmp_path}/hand1000 from a machine that has it")
