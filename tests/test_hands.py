"""Hand detection: MediaPipe itself, on rendered hands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mediapipe
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.rendered_hands import (
    add_useless_files,
    clear_image,
    clear_pair,
    render_folder,
    render_hand,
    skeleton_hand,
)
from utils.cli import UserError
from utils.hands import choose_num_workers, detect_folder, detect_hands, draw_hands
from utils.images import list_images

ROOT = Path(__file__).resolve().parent.parent
GESTURES = ("call", "four", "palm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of hands, one without a hand and one that can't be read."""
    folder = tmp_path_factory.mktemp("hands")
    for gesture in GESTURES:
        render_folder(folder, gesture, 4)
    add_useless_files(folder)
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return dict(detect_folder(list_images(folder), num_workers=1))


def test_landmarks_lie_on_the_rendered_joints(records):
    errors = []
    for path, hands in records.items():
        if hands:
            gesture, index = path.stem.split("_")
            truth = render_hand(gesture, int(index)).landmarks
            palm = np.linalg.norm(truth[9] - truth[0])
            errors.append(np.linalg.norm(hands[0].landmarks[:, :2] - truth, axis=1).mean() / palm)
    assert len(errors) >= 10 and np.median(errors) < 0.12 and max(errors) < 0.5


def test_box_holds_the_landmarks_and_nothing_more(records):
    hand = next(hands[0] for hands in records.values() if hands)
    assert hand.box == (*hand.landmarks[:, :2].min(axis=0), *hand.landmarks[:, :2].max(axis=0))


def test_sides_are_told_apart():
    image = clear_image("four")
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert {detect_hands(picture)[0].handedness for picture in (image, mirrored)} == {"Left", "Right"}


def test_as_many_hands_as_asked_for():
    pair = clear_pair("palm", "four")
    assert [len(detect_hands(pair, max_num_hands=number)) for number in (1, 2)] == [1, 2]


def test_red_and_blue_are_not_swapped():
    image = clear_image("call")
    with mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=1) as reference:
        score = reference.process(np.array(image)).multi_handedness[0].classification[0].score
    swapped = detect_hands(Image.fromarray(np.array(image)[:, :, ::-1]))
    assert detect_hands(image)[0].score == score
    assert not swapped or swapped[0].score != score


def test_an_image_without_a_hand_and_one_that_cannot_be_read_are_kept_apart(folder, records):
    assert records[folder / "wall.png"] == [] and records[folder / "zdamaged.jpg"] is None


def test_results_depend_neither_on_the_processes_nor_on_the_order(folder, records, capfd):
    paths = list_images(folder)[::-1]
    again = detect_folder(paths, num_workers=2)
    assert [path for path, _ in again] == paths
    for path, hands in again:
        assert len(hands or []) == len(records[path] or [])
        for hand, other in zip(hands or [], records[path] or [], strict=True):
            assert (hand.handedness, hand.score) == (other.handedness, other.score)
            assert np.array_equal(hand.landmarks, other.landmarks)
            assert np.array_equal(hand.world_landmarks, other.world_landmarks)

    # Standard error holds the progress bar and the one warning, and nothing of MediaPipe's
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    others = [line for line in lines if not line.startswith("detecting hands")]
    assert len(others) == 1 and others[0].startswith(f"warning: skipped: {folder / 'zdamaged.jpg'}: ")


def test_few_images_are_not_worth_a_pool():
    assert choose_num_workers(1) == choose_num_workers(60) == 1
    assert 1 <= choose_num_workers(10**6) <= os.cpu_count()


class KillsItsReader(os.PathLike):
    """A path that no process survives opening."""

    def __fspath__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_reported(folder):
    with pytest.raises(UserError, match="a worker process died"):
        detect_folder([*list_images(folder), KillsItsReader()], num_workers=2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(folder, number):
    paths = list(map(str, list_images(folder))) * 100
    code = ("import signal; from utils.hands import detect_folder\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs\n"
            f"detect_folder({paths}, num_workers=2)")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
        parent.stderr.read(10)  # the progress bar: the processes are on their way
        workers = psutil.Process(parent.pid).children()
        assert len(workers) >= 2
        if number == signal.SIGINT:  # Ctrl-C reaches all
            for process in workers:
                process.send_signal(number)
            time.sleep(1)  # for a worker to come to harm
        parent.send_signal(number)
        leftovers = psutil.wait_procs(workers, timeout=60)[1]
        for process in leftovers:
            process.kill()
        errors = parent.communicate()[1]
    assert leftovers == []
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0), errors  # the parent's own


def test_missing_mediapipe_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UserError, match="needs mediapipe.*install requirements.txt"):
        detect_hands(Image.new("RGB", (8, 8)), max_num_hands=7)  # a detector that no other test has made


def test_drawing_marks_a_copy():
    image = Image.new("RGB", (100, 80))
    drawn = draw_hands(image, [skeleton_hand("palm")])
    assert np.asarray(image).max() == 0
    assert {(255, 0, 0), (0, 255, 0), (255, 255, 0)} <= {color for _, color in drawn.getcolors()}
