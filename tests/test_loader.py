"""utils/data/loader.py: images in order, problems in their places, and no process that outlives its user."""

import os
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from tests import scripts
from utils.data.images import open_image
from utils.data.loader import load_images
from utils.system.errors import UserError

DAMAGED = 5


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Twenty pictures, number i of grey i; one is damaged."""
    paths = [tmp_path_factory.mktemp("images") / f"{index}.png" for index in range(20)]
    for index, path in enumerate(paths):
        Image.fromarray(np.full((9, 7, 3), index, np.uint8)).save(path)
    paths[DAMAGED].write_bytes(b"no image")
    return paths


def shade(image):
    """The grey of an image; 7 is refused, and 11 takes long."""
    value = image.getpixel((0, 0))[0]
    if value == 7:
        raise UserError("seven")
    time.sleep(0.2 if value == 11 else 0)
    return np.array([value])


def add(image, number):
    return image.getpixel((0, 0))[0] + number


def die(image):
    if image.getpixel((0, 0))[0] == 12:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_workers", [0, 2, None])
def test_images_come_in_order_and_problems_in_their_places(paths, num_workers):
    loaded = list(load_images(paths, num_workers=num_workers))
    assert [index for index, _, _ in loaded] == list(range(20))
    for index, image, problem in loaded:
        assert (image is None) == (index == DAMAGED) == (problem is not None)
        assert image is None or np.array_equal(np.asarray(image), np.asarray(open_image(paths[index])))
    assert str(paths[DAMAGED]) in str(loaded[DAMAGED][2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_prepared_takes_the_place_of_the_image(paths, num_workers):
    loaded = list(load_images(paths, shade, num_workers))
    assert [None if value is None else value.tolist() for _, value, _ in loaded] == [
        None if index in (DAMAGED, 7) else [index] for index in range(20)]
    assert str(loaded[7][2]) == "seven"
    sums = [value for _, value, _ in load_images(paths, add, num_workers, extras=range(100, 120))]
    assert sums == [None if index == DAMAGED else 100 + 2 * index for index in range(20)]


def test_no_images_are_no_error():
    assert list(load_images([])) == []


def test_a_worker_that_dies_is_one_line_wherever_its_user_is_then(paths):
    seen = []
    with pytest.raises(UserError, match=r"^a process that opens images died at .*\.png or one of the next 8; .*$"):
        for index, _, _ in load_images(paths, die, num_workers=2):
            seen.append(index)
            time.sleep(0.05)
    assert seen == list(range(len(seen))) and len(seen) <= 12


def test_what_else_fails_is_not_taken_for_a_death(paths):
    with pytest.raises(AttributeError, match="no_such_method"):
        list(load_images(paths, lambda image: image.no_such_method(), num_workers=2))


PROGRAM = """
import sys, time
from utils.data.loader import load_images
from utils.system.script import run_main
def main(paths):
    for _ in load_images(paths * 1000, num_workers=2):
        print("loaded", flush=True)
        time.sleep(0.01)
run_main(main, sys.argv[1:])
"""


@pytest.mark.parametrize(("number", "status"), [
    (signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_no_process_outlives_its_parent(tmp_path, number, status):
    Image.effect_noise((600, 600), 80).save(tmp_path / "a.png")  # more than a pipe holds
    with scripts.start(["-c", PROGRAM, tmp_path / "a.png"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True) as parent:
        parent.stdout.readline()
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
        for process in workers if number == signal.SIGINT else ():  # Ctrl-C reaches all
            process.send_signal(number)
        parent.send_signal(number)
        leftovers = psutil.wait_procs(workers, timeout=30)[1]
        for process in leftovers:
            process.kill()
        parent.stdout.read()
        errors = parent.stderr.read()
    assert leftovers == [] and parent.returncode == status
    assert errors == {130: "error: interrupted\n", 143: "error: terminated\n"}.get(status, "")
