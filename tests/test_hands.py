"""Hand detection on rendered hands: folders, threads, caches, crops, drawings."""

import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import scripts
from tests.rendered_hands import (
    add_useless_files,
    clear_pair,
    detect_hands,
    render_folder,
    render_hand,
    skeleton_hand,
)
from utils.data.images import list_images, open_image
from utils.hands.detector import (
    Hand,
    crop_hand,
    crop_union,
    detect_folder,
    draw_hands,
    zoom_hand,
)
from utils.hands.landmarker import HandLandmarker
from utils.system.errors import UserError

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
            truth = render_hand(*path.stem.split("_")).landmarks
            palm = np.linalg.norm(truth[9] - truth[0])
            errors.append(np.linalg.norm(hands[0].landmarks[:, :2] - truth, axis=1).mean() / palm)
    assert len(errors) >= 10 and np.median(errors) < 0.12 and max(errors) < 0.5


def test_box_holds_the_landmarks_and_nothing_more(records):
    hand = next(hands[0] for hands in records.values() if hands)
    assert hand.box == (*hand.landmarks[:, :2].min(axis=0), *hand.landmarks[:, :2].max(axis=0))


def test_sides_are_those_of_a_mirrored_picture(records):
    seen = [(hands[0].handedness, render_hand(*path.stem.split("_")).handedness.title())
            for path, hands in records.items() if hands]
    assert {truth for _, truth in seen} == {"Left", "Right"}
    assert np.mean([side != truth for side, truth in seen]) >= 0.75


def test_as_many_hands_as_asked_for():
    pair = clear_pair("palm", "four")
    assert [len(detect_hands(pair, max_num_hands=number)) for number in (1, 2)] == [1, 2]


def test_an_image_without_a_hand_and_one_that_cannot_be_read_are_kept_apart(folder, records):
    assert records[folder / "wall.png"] == [] and records[folder / "zdamaged.jpg"] is None


def assert_same(found, expected):
    """Two lists of (path, hands) agree in every bit."""
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (_, hands), (_, others) in zip(found, expected, strict=True):
        assert (hands is None) == (others is None)
        for hand, other in zip(hands or [], others or [], strict=True):
            assert (hand.handedness, hand.score, hand.presence) == (other.handedness, other.score, other.presence)
            for points, wanted in ((hand.landmarks, other.landmarks), (hand.world_landmarks, other.world_landmarks)):
                assert points.dtype == np.float32 and points.shape == (21, 3)
                assert points.tobytes() == wanted.tobytes()


def test_results_depend_neither_on_the_threads_nor_on_the_order(folder, records, capfd):
    paths = list_images(folder)[::-1]
    again = detect_folder(paths, num_workers=2)
    assert_same(again, [(path, records[path]) for path in paths])

    # Standard error holds the progress bar and the one warning, and nothing of LiteRT's
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    others = [line for line in lines if not line.startswith("detecting hands")]
    assert len(others) == 1 and others[0].startswith(f"warning: skipped: {folder / 'zdamaged.jpg'}: ")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_ends_the_threads_in_one_line_and_keeps_what_they_found(folder, number, said, tmp_path):
    for count in range(100):
        for path in list_images(folder)[:8]:
            (tmp_path / f"{count}_{path.name}").symlink_to(path)
    code = ("import signal; from utils.data.images import list_images; from utils.hands.detector import detect_folder\n"
            "from utils.system.script import run_main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs\n"
            f"run_main(lambda _: detect_folder(list_images({str(tmp_path)!r}), 2, cache_dir='{tmp_path}/cache'), None)")
    with scripts.start(["-c", code], stderr=subprocess.PIPE, text=True) as process:
        shown = ""
        while not re.search(r"\b[1-9]\d*/800", shown) and (read := process.stderr.read(1)):
            shown += read
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1].replace("\r", "\n")
    assert process.returncode == 128 + number
    assert [line for line in errors.splitlines() if line.startswith(("error", "Traceback"))] == [f"error: {said}"]
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".npz"]


def test_missing_litert_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(UserError, match="needs ai-edge-litert.*install requirements.txt"):
        HandLandmarker()


# Results kept in a folder


def test_kept_hands_are_the_same_bit_for_bit_without_a_detector(folder, records, tmp_path, capsys, monkeypatch):
    paths = list_images(folder)
    first = detect_folder(paths, num_workers=1, cache_dir=tmp_path)
    warning, = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    monkeypatch.setattr("utils.hands.detector.HandLandmarker", None)
    second = detect_folder(paths, cache_dir=tmp_path)
    assert_same(first, [(path, records[path]) for path in paths])
    assert_same(second, first)
    assert capsys.readouterr().err.splitlines() == [f"read from cache {next(tmp_path.iterdir())}", warning]


def test_folders_detected_together_are_kept_apart(folder, records, tmp_path, capsys):
    mixed = [path for path in list_images(folder) if path.name in ("call_0.png", "zdamaged.jpg", "palm_1.png")]
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "four_2.png", other / "call_0.png")
    mixed.insert(1, other / "call_0.png")
    expected = [(path, records[folder / "four_2.png" if path.parent == other else path]) for path in mixed]
    assert_same(detect_folder(mixed, num_workers=1, cache_dir=tmp_path / "cache"), expected)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    capsys.readouterr()
    (other / "call_0.png").write_bytes(b"no image")
    changed = detect_folder(mixed, num_workers=1, cache_dir=tmp_path / "cache")
    assert_same(changed, [(path, None if path.parent == other else found) for path, found in expected])
    errors = capsys.readouterr().err
    assert errors.count("read from cache") == 2 and "0 of 1 images read from cache" in errors


def test_other_settings_are_kept_apart(folder, tmp_path):
    paths = [folder / "call_0.png"]
    for settings in ({}, {"max_num_hands": 2}, {"min_confidence": 0}, {"min_confidence": 0.0}):
        detect_folder(paths, num_workers=1, cache_dir=tmp_path, **settings)
    assert len(list(tmp_path.iterdir())) == 3


# Crops and drawings


def hand_at(x0, y0, x1, y1):
    """A Hand whose landmarks span a box."""
    landmarks = np.zeros((21, 3), np.float32)
    landmarks[:, :2] = (x0 + x1) / 2, (y0 + y1) / 2
    landmarks[3, :2], landmarks[7, :2] = (x0, y1), (x1, y0)
    return Hand("Left", 0.9, landmarks, landmarks, 0.9)


@pytest.fixture
def ramp():
    """80 pixels wide, 40 high; red is the column, green the row."""
    rows, columns = np.mgrid[:40, :80].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, 7)], axis=-1))


def test_a_hand_is_cut_out_as_an_enlarged_square_around_its_centre(ramp):
    crop = crop_hand(ramp, hand_at(0.25, 0.3, 0.4, 0.7))  # columns 20 to 32, rows 12 to 28
    assert crop.size == (20, 20) and crop.mode == "RGB"  # 1.25 times 16
    assert np.array_equal(np.asarray(crop), np.asarray(ramp)[10:30, 16:36])


def test_enlargement_is_a_choice(ramp):
    assert np.array_equal(np.asarray(crop_hand(ramp, hand_at(0.25, 0.25, 0.5, 0.75), enlarge=1)),
                          np.asarray(ramp)[10:30, 20:40])


def test_beyond_the_border_the_border_goes_on(ramp):
    pixels = np.asarray(crop_hand(ramp, hand_at(-0.1, 0.7, 0.1, 1.1)))  # columns -8 to 8, rows 28 to 44
    assert pixels.shape == (20, 20, 3)
    assert np.array_equal(pixels[0, :, 0], np.clip(np.arange(-10, 10), 0, 79))
    assert np.array_equal(pixels[:, 0, 1], np.clip(np.arange(26, 46), 0, 39))
    pixels = np.asarray(crop_hand(ramp, hand_at(0.9, -0.1, 1.1, 0.3)))  # columns 72 to 88, rows -4 to 12
    assert np.array_equal(pixels[0, :, 0], np.clip(np.arange(70, 90), 0, 79))
    assert np.array_equal(pixels[:, 0, 1], np.clip(np.arange(-6, 14), 0, 39))


def test_a_hand_outside_of_the_image_or_in_one_point_still_gives_a_crop(ramp):
    for box in ((1.5, 1.5, 1.75, 2), (0.5, 0.5, 0.5, 0.5)):
        for crop in (crop_hand(ramp, hand_at(*box)), crop_union(ramp, [hand_at(*box)])):
            assert min(crop.size) >= 1


def test_union_box_holds_all_hands_and_ends_at_the_border(ramp):
    left, right = hand_at(-0.2, 0.5, 0.25, 0.75), hand_at(0.5, 0.26, 0.76, 0.6)
    crop = np.asarray(crop_union(ramp, [left, right]))
    assert np.array_equal(crop, np.asarray(ramp)[10:30, 0:61])  # 10.4 and 60.8 rounded outwards
    with pytest.raises(ValueError, match="no hand"):
        crop_union(ramp, [])


def test_crops_show_the_hand(folder, records):
    image = open_image(folder / "four_0.png")
    found = detect_hands(crop_hand(image, records[folder / "four_0.png"][0], enlarge=2))
    assert len(found) == 1


def test_drawing_marks_a_copy():
    image = Image.new("RGB", (100, 80))
    drawn = draw_hands(image, [skeleton_hand("palm")])
    assert np.asarray(image).max() == 0
    assert {(255, 0, 0), (0, 255, 0), (255, 255, 0)} <= {color for _, color in drawn.getcolors()}


def test_a_drawing_may_show_boxes_only_in_a_colour_of_choice():
    drawn = draw_hands(Image.new("RGB", (100, 80)), [skeleton_hand("palm")], "orange", with_bones=False)
    assert {color for _, color in drawn.getcolors()} == {(0, 0, 0), (255, 165, 0)}


def test_enlarging_a_hand_keeps_its_marks_on_it(ramp):
    zoomed = np.asarray(zoom_hand(ramp, hand_at(0.25, 0.25, 0.5, 0.75), 100, enlarge=2))  # columns 10 to 50
    rows, columns = np.nonzero((zoomed == (255, 0, 0)).all(axis=-1))
    assert zoomed.shape == (100, 100, 3)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (25, 75, 25, 75)
