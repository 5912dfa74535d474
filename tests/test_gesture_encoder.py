"""Stage I: landmarks to gesture feature, on posed skeletons and on rendered hands."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rendered_hands import (
    add_useless_files,
    clear_image,
    clear_pair,
    detect_hands,
    random_rotation,
    render_folder,
    skeleton_hand,
)
from utils.data.gestures import GESTURES
from utils.data.images import list_images
from utils.hands.canonical_landmarks import canonical_landmarks
from utils.hands.finger_states import finger_states
from utils.hands.landmarker import describe_detector
from utils.method.gesture_feature import (
    check_feature_info,
    encode_gesture,
    load_feature,
    load_feature_info,
    mean_feature,
    save_feature,
)
from utils.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
LEFT, RIGHT = [0, 0, 0.5, 1], [0.5, 0, 0.5, 1]  # halves of a picture, as annotated boxes
BONES = np.array([(0 if j % 4 == 1 else j - 1, j) for j in range(1, 21)])


def turned(hand, rotation, scale=1.0):
    return replace(hand, world_landmarks=hand.world_landmarks @ rotation.T * scale)


def bone_lengths(points):
    points = np.asarray(points, dtype=np.float64).reshape(21, 3)
    lengths = np.linalg.norm(points[BONES[:, 1]] - points[BONES[:, 0]], axis=1)
    return lengths / np.linalg.norm(points[9] - points[0])


# The two features


def test_raw_feature_is_the_mean_of_the_image_landmarks():
    hands = [skeleton_hand("call", seed) for seed in range(3)]
    feature = mean_feature(hands, "raw")
    assert feature.shape == (63,) and feature.dtype == np.float32
    mean = sum(hand.landmarks.astype(np.float64) for hand in hands) / 3
    assert np.allclose(feature[:6], [*mean[0], *mean[1]], atol=1e-6)  # x y z of landmark 0, then of 1
    assert np.allclose(feature, mean.ravel(), atol=1e-6)


def test_canonical_landmarks_forget_place_size_side_and_direction():
    rng = np.random.default_rng(0)
    hand = skeleton_hand("call", side="Right")
    wanted = canonical_landmarks(hand)
    for _ in range(10):
        moved = turned(hand, random_rotation(rng), rng.uniform(0.2, 5))
        moved = replace(moved, world_landmarks=moved.world_landmarks + rng.normal(size=3))
        assert np.allclose(canonical_landmarks(moved), wanted, atol=1e-5)
    assert np.allclose(canonical_landmarks(skeleton_hand("call", side="Left")), wanted, atol=1e-5)


def test_canonical_landmarks_have_wrist_and_palm_in_place():
    points = canonical_landmarks(skeleton_hand("four"))
    assert np.allclose(points[[0, 9]], [[0, 0, 0], [0, 1, 0]], atol=1e-6)
    assert points[5, 0] > 0 > points[17, 0] and abs(points[5, 2] - points[17, 2]) < 1e-6


def test_mean_of_turned_hands_is_a_hand_only_when_canonical():
    rng = np.random.default_rng(0)
    hands = [skeleton_hand("call", side=side) for side in ["Left", "Right"] * 20]
    lengths = bone_lengths(hands[0].world_landmarks)
    hands = [turned(hand, random_rotation(rng)) for hand in hands]
    feature = mean_feature(hands, "canonical")
    assert np.allclose(bone_lengths(feature), lengths, rtol=1e-4)
    assert finger_states(feature.reshape(21, 3)) == finger_states(hands[0].world_landmarks)
    plain_mean = np.mean([hand.world_landmarks for hand in hands], axis=0)
    assert not np.allclose(bone_lengths(plain_mean), lengths, rtol=0.1)


def test_canonical_feature_keeps_the_mean_direction():
    rng = np.random.default_rng(0)
    upright = [skeleton_hand("like", seed) for seed in range(4)]
    upside_down = [turned(hand, np.diag([-1.0, -1.0, 1.0])) for hand in upright]
    up, down = (mean_feature(hands, "canonical").reshape(21, 3) for hands in (upright, upside_down))
    assert np.allclose(up * (-1, -1, 1), down, atol=1e-5) and np.abs(up - down).max() > 1

    rotation = random_rotation(rng)  # one hand alone comes back as it was, but for place and size
    alone = turned(upright[0], rotation)
    points = alone.world_landmarks - alone.world_landmarks[0]
    wanted = points / np.linalg.norm(points[9])
    assert np.allclose(mean_feature([alone], "canonical").reshape(21, 3), wanted, atol=1e-5)


def test_mean_of_opposite_directions_is_no_mirror_image():
    """Half turns about the three axes: the mean of their matrices is -1/3 of the identity, a reflection."""
    hand = skeleton_hand("call")
    hands = [turned(hand, 2 * np.diag(axis) - np.eye(3)) for axis in np.eye(3)]
    mean = replace(hand, world_landmarks=mean_feature(hands, "canonical").reshape(21, 3))
    assert np.allclose(canonical_landmarks(mean), canonical_landmarks(hand), atol=1e-5)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'mean'"):
        mean_feature([skeleton_hand("call")], "mean")


# From images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("call")
    render_folder(folder, "call", 5)
    add_useless_files(folder)
    return folder


def test_raw_feature_of_a_folder_is_the_published_one(folder):
    feature, counts = encode_gesture(list_images(folder), "raw")
    landmarks = []
    for path in sorted(folder.glob("call_*.png")):
        if found := detect_hands(Image.open(path), max_num_hands=1, min_confidence=0.5):
            landmarks.append(found[0].landmarks)
    assert np.allclose(feature, np.mean(landmarks, axis=0).ravel(), atol=1e-6)
    assert counts == {"num_images": 7, "num_used": len(landmarks), "num_without_hand": 6 - len(landmarks),
                      "num_unreadable": 1, "detector": describe_detector()}


def test_canonical_feature_of_a_folder_is_a_hand_that_shows_the_gesture(folder):
    feature, counts = encode_gesture(list_images(folder), "canonical", GESTURES["call"])
    states = finger_states(feature.reshape(21, 3))
    assert [finger for finger in states if states[finger] == "out"] == ["thumb", "little"]
    assert counts["num_used"] >= 4


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A picture of two hands: palm on the left, four on the right."""
    path = tmp_path_factory.mktemp("pairs") / "pair.png"
    clear_pair("palm", "four").save(path)
    return path


def encode_pair(pair, gesture, boxes):
    """(number of fingers that are out, counts) of the hand measured when `boxes` are annotated."""
    annotations = {"pair": boxes, "another": [RIGHT]}
    feature, counts = encode_gesture([pair], "canonical", GESTURES[gesture], annotations=annotations)
    return list(finger_states(feature.reshape(21, 3)).values()).count("out"), counts


def test_of_two_hands_the_gesturing_one_is_measured(pair):
    for gesture, num_out in (("palm", 5), ("four", 4)):
        for boxes in (None, []):
            found, counts = encode_pair(pair, gesture, boxes)
            assert found == num_out and (counts["num_used"], counts["num_by_annotation"]) == (1, 0)


def test_the_annotated_hand_is_measured_whatever_its_fingers(pair):
    for boxes, num_out in (([LEFT], 5), ([RIGHT], 4), ([[0.9, 0.9, 0.1, 0.1], RIGHT], 4),
                           ([[0, 0, 10**200, 10**200], LEFT], 5)):
        found, counts = encode_pair(pair, "palm", boxes)
        assert found == num_out
        assert (counts["num_used"], counts["num_by_annotation"], counts["num_elsewhere"]) == (1, 1, 0)


def test_an_idle_hand_is_not_measured_in_place_of_a_missed_one(tmp_path):
    paths = [tmp_path / "call.png", tmp_path / "idle.png"]
    clear_image("call").save(paths[0])
    idle = Image.new("RGB", (256, 128), "grey")
    idle.paste(clear_image("palm"), (0, 0))
    idle.save(paths[1])
    alone, _ = encode_gesture(paths[:1], "canonical", GESTURES["call"])
    feature, counts = encode_gesture(paths, "canonical", GESTURES["call"], annotations={"idle": [RIGHT]})
    assert np.array_equal(feature, alone)
    assert counts == {"num_images": 2, "num_used": 1, "num_without_hand": 0, "num_unreadable": 0,
                      "num_by_annotation": 0, "num_elsewhere": 1, "detector": describe_detector()}
    with pytest.raises(UserError, match=r"no hand in 1 images.* in the annotated place \(1 have one elsewhere\)"):
        encode_gesture(paths[1:], "canonical", GESTURES["call"], annotations={"idle": [RIGHT]})


def test_the_published_feature_disregards_annotations(folder):
    paths = list_images(folder)
    annotations = {path.stem: [[0.0, 0.0, 0.01, 0.01]] for path in paths}
    plain, annotated = (encode_gesture(paths, "raw", annotations=boxes) for boxes in (None, annotations))
    assert np.array_equal(plain[0], annotated[0]) and plain[1] == annotated[1]


def test_single_rendered_hands_are_measured_alike_with_their_annotations(tmp_path):
    scenes = render_folder(tmp_path, "call", 5)
    boxes = {f"call_{index}": [list(scene.box)] for index, scene in enumerate(scenes)}
    plain, annotated = (encode_gesture(list_images(tmp_path), "canonical", GESTURES["call"], annotations=annotations)
                        for annotations in (None, boxes))
    assert np.array_equal(plain[0], annotated[0])
    assert annotated[1] == {**plain[1], "num_by_annotation": plain[1]["num_used"]}


def test_gesture_without_a_row_of_fingers_can_be_encoded(folder):
    feature, _ = encode_gesture(list_images(folder)[:1], "canonical", GESTURES["grip"])
    assert np.isfinite(feature).all()


def test_images_without_a_hand_are_an_error(folder):
    with pytest.raises(UserError, match="no hand in 1 images, the first of them .*wall.png"):
        encode_gesture([folder / "wall.png"], "raw")


# Files


def test_saved_feature_is_a_plain_array_with_its_kind_beside_it(tmp_path):
    feature = np.linspace(0, 1, 63, dtype=np.float32)
    path = tmp_path / "gesture_feature.npy"
    save_feature(path, feature, "raw", "call", {"num_images": 3})
    assert np.array_equal(np.load(path), feature) and np.array_equal(load_feature(path), feature)
    info = {"kind": "raw", "gesture": "call", "num_images": 3}
    assert json.loads((tmp_path / "gesture_feature.json").read_text()) == info == load_feature_info(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gesture_feature.json", "gesture_feature.npy"]


def test_feature_without_its_json_or_in_another_shape_loads(tmp_path):
    np.save(tmp_path / "mean.npy", np.arange(63).reshape(21, 3))
    feature = load_feature(tmp_path / "mean.npy")
    assert feature.dtype == np.float32 and np.array_equal(feature, np.arange(63))
    assert load_feature_info(tmp_path / "mean.npy") == {}


def test_a_feature_of_another_kind_gesture_or_detector_is_refused_by_its_json(tmp_path):
    path = tmp_path / "feature.npy"
    save_feature(path, np.zeros(63), "raw", "call", {"detector": "litert 1"})
    for wanted in ({"gesture": "call", "kind": "raw"}, {"gesture": "call"}, {"gesture": None, "kind": None},
                   {"detector": "litert 1"}, {"detector": None}):
        check_feature_info(path, wanted, "wanted is")
    for wanted, said in (({"gesture": "fist"}, "its gesture is 'call' by the .json beside it, wanted is 'fist'"),
                         ({"gesture": "call", "kind": "canonical"}, "its kind is 'raw'"),
                         ({"detector": "litert 2"}, "its detector is 'litert 1'")):
        with pytest.raises(UserError, match=f"feature.npy: {said}"):
            check_feature_info(path, wanted, "wanted is")
    path.with_suffix(".json").unlink()
    check_feature_info(path, {"gesture": "fist", "kind": "canonical"}, "wanted is")


def test_a_json_that_holds_no_kind_is_refused(tmp_path):
    (tmp_path / "feature.json").write_text("[]")
    with pytest.raises(UserError, match="feature.json: a JSON object is expected"):
        load_feature_info(tmp_path / "feature.npy")


class Malicious:
    """Unpickling this fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def write_nan(path):
    np.save(path, np.where(np.arange(63) == 7, np.nan, 0))


def write_cut_off(path):
    np.save(path, np.zeros(63))
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(("write", "problem"), [
    (lambda path: None, "No such file"),
    (lambda path: path.mkdir(), "Is a directory"),
    (lambda path: path.write_bytes(b""), "no plain .npy array"),
    (lambda path: path.write_text("0.1 0.2"), "no plain .npy array"),
    (lambda path: path.write_bytes(b"PK\x03\x04 not a zip"), "no plain .npy array"),
    (lambda path: np.save(path, np.array([Malicious()] * 63, dtype=object)), "no plain .npy array"),
    (lambda path: np.savez(open(path, "wb"), np.zeros(63)), "an archive of arrays, expected 63 numbers"),
    (lambda path: np.save(path, np.zeros((20, 3))), r"float64 of shape \(20, 3\), expected 63 numbers"),
    (lambda path: np.save(path, np.array(["a"] * 63)), "<U1 of shape .63,., expected 63 numbers"),
    (write_cut_off, "no plain .npy array"),
    (write_nan, "NaN or infinite"),
])
def test_anything_else_is_refused_in_one_line(tmp_path, write, problem):
    path = tmp_path / "feature.npy"
    write(path)
    with pytest.raises(UserError, match=problem) as error:
        load_feature(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_reading_a_feature_needs_no_litert(tmp_path):
    np.save(tmp_path / "feature.npy", np.zeros(63))
    code = ("import sys; sys.modules['ai_edge_litert'] = None\n"
            "from utils.method.gesture_feature import load_feature\n"
            f"print(load_feature({str(tmp_path / 'feature.npy')!r}).shape)")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("(63,)\n", "")
