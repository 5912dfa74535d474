"""The landmarker finds what MediaPipe's Solutions find, and each of its steps does what its name says.

solutions_hands.json is what mediapipe 0.10.21 says of rendered hands: `python -m benchmarks.detectors --api solutions
--num_images 1 --output tests/solutions_hands.json` writes it where that version is installed, and with --max_num_hands
2 --min_confidence 0 solutions_two_hands.json, as the protocol hand1000 looks for them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.detectors import palm_distance, render_images
from tests.rendered_hands import clear_image, clear_pair, detect_hands, landmarker
from utils.hands.landmarker import Square, anchor_centres, drop_doubles, merge_palms, overlaps, square_around


@pytest.fixture(scope="module")
def rendered():
    """(name, image) of a hand of every gesture."""
    return [(name, image) for name, _, image, _ in render_images(1, 0)]


@pytest.mark.parametrize(("file", "settings"), [
    ("solutions_hands", {}), ("solutions_two_hands", {"max_num_hands": 2, "min_confidence": 0.0})])
def test_hands_are_those_of_mediapipes_solutions(rendered, file, settings):
    wanted = json.loads(Path(__file__).with_name(f"{file}.json").read_text())
    assert [name for name, _ in rendered] == list(wanted) and len(wanted) == 18
    distances, scores, sides = [], [], []
    for name, image in rendered:
        found = detect_hands(image, **settings)
        assert len(found) == len(wanted[name])
        for hand, other in zip(found, wanted[name], strict=True):
            distances.append(palm_distance(hand.landmarks, other["landmarks"], image.size))
            sides.append(hand.handedness == other["side"])
            scores.append(abs(hand.score - other["score"]))
    assert np.median(distances) < 0.01 and max(distances) < 0.1  # the Tasks API is 0.05 away
    assert np.median(scores) < 0.01 and np.mean(sides) > 0.9


def test_hands_turn_with_the_picture(rendered):
    """Half of MediaPipe's pixel is lost when the picture is turned, see Square.cut."""
    changes, sides = [], []
    for _, image in rendered:
        for hand, turned in zip(detect_hands(image), detect_hands(image.transpose(Image.Transpose.ROTATE_90)),
                                strict=True):
            x, y = hand.landmarks[:, :2].T
            changes.append(palm_distance(turned.landmarks, np.stack([y, 1 - x], axis=1), image.size))
            sides.append(turned.handedness == hand.handedness)
    assert np.median(changes) < 0.05 and np.mean(sides) >= 0.75


def test_hands_move_with_the_picture():
    """Beside and above a picture: landmarks relative to the larger one, depths relative to its width."""
    image = clear_image("palm")
    large = Image.new("RGB", (384, 256), image.getpixel((0, 0)))
    large.paste(image, (200, 100))
    (hand,), (moved,) = detect_hands(image), detect_hands(large)
    back = (moved.landmarks[:, :2] * large.size - (200, 100)) / image.size
    assert palm_distance(back, hand.landmarks, image.size) < 0.1
    assert np.ptp(moved.landmarks[:, 2]) * 3 == pytest.approx(np.ptp(hand.landmarks[:, 2]), rel=0.3)
    assert np.allclose(moved.world_landmarks, hand.world_landmarks, atol=0.01)


def test_confidence_bounds_the_palms_and_the_number_of_hands_what_is_looked_at():
    pair = clear_pair("palm", "four")
    assert detect_hands(pair, max_num_hands=2, min_confidence=1.0) == []
    unsure = landmarker().find_palms(np.asarray(pair), 9, 0.0)
    assert len(unsure) == 9 and len(landmarker().find_palms(np.asarray(pair), 9, 0.5)) == 2
    assert len(detect_hands(pair, max_num_hands=9, min_confidence=0.0)) >= 2
    assert [len(detect_hands(pair, max_num_hands=number)) for number in (1, 2)] == [1, 2]


def test_presence_is_the_chance_of_a_hand_in_the_square():
    (hand,) = detect_hands(clear_image("palm"))
    assert 0.9 < hand.presence <= 1
    assert landmarker().find_landmarks(np.zeros((128, 128, 3), np.uint8), Square(np.array([64, 64]), 100)) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (30_000, 1), (7, 5)])
def test_the_thinnest_pictures_hold_no_hand(size):
    assert detect_hands(Image.new("RGB", size), max_num_hands=2) == []


# Steps


def test_anchors_are_the_centres_of_two_grids():
    centres = anchor_centres()
    assert centres.shape == (2016, 2)
    assert np.allclose(centres[:4], [[0.5 / 24, 0.5 / 24]] * 2 + [[1.5 / 24, 0.5 / 24]] * 2)
    assert np.allclose(centres[1152:1159], [[0.5 / 12, 0.5 / 12]] * 6 + [[1.5 / 12, 0.5 / 12]])


def test_overlap_is_that_of_the_boxes():
    boxes = np.array([[[0, 0], [2, 2]], [[1, 0], [2, 2]], [[5, 0], [2, 2]], [[0, 0], [2, 1]], [[0, 0], [0, 0]]], float)
    assert np.allclose(overlaps(boxes[0], boxes), [1, 1 / 3, 0, 1 / 2, 0])


def test_palms_of_one_hand_become_their_weighted_mean():
    palms = np.zeros((4, 9, 2))
    palms[:, 1] = 2
    palms[:, 0, 0] = 0.2, 10, 0, 10.5
    scores = np.array([0.6, 0.7, 0.9, 0.8])
    assert len(merge_palms(palms, scores, 1)) == 1
    first, second = merge_palms(palms, scores, 9)
    assert first[0, 0] == pytest.approx((0.9 * 0 + 0.6 * 0.2) / 1.5)
    assert second[0, 0] == pytest.approx((0.8 * 10.5 + 0.7 * 10) / 1.5)
    assert len(merge_palms(palms[:0], scores[:0], 9)) == 0
    flat = np.zeros((2, 9, 2))
    assert len(merge_palms(flat, np.array([0.5, 0.5]), 9)) == 2


def test_of_two_squares_around_one_hand_the_later_stays():
    first, second, other = (Square(np.array([x, 0.0]), 10, angle) for x, angle in ((0, 0.0), (2, 1.0), (9, 0.0)))
    assert drop_doubles([first, other]) == [first, other]
    assert drop_doubles([first, other, second]) == [other, second]


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 250])
def test_the_square_stands_along_the_hand_and_is_shifted_towards_its_fingers(degrees):
    along = np.array([np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))])  # clockwise from upwards
    palm = np.zeros((9, 2))
    palm[0], palm[1] = (50, 60), (10, 20)
    palm[2], palm[4] = 50 - 8 * along, 50 + 8 * along
    square = square_around(palm)
    assert square.side == pytest.approx(52)
    assert np.allclose(square.centre, (50, 60) + 10 * along)
    assert np.allclose(square.to_image(np.array([[0.5, 0.0]])), square.centre + 26 * along)  # the middle of its top


@pytest.fixture
def ramp():
    """40 pixels high, 60 wide: red is the column, green the row, each times four, blue is 200."""
    rows, columns = np.mgrid[:40, :60]
    return np.stack([4 * columns, 4 * rows, np.full_like(rows, 200)], axis=-1).astype(np.uint8)


def test_an_upright_square_of_the_same_size_is_copied(ramp):
    found = Square(np.array([30, 20]), 20).cut(ramp, 20, True)
    assert found.dtype == np.float32 and np.array_equal(np.round(255 * found), ramp[10:30, 20:40])


@pytest.mark.parametrize(("degrees", "turn"), [(90, 1), (180, 2), (270, 3)])
def test_a_square_turned_clockwise_shows_the_picture_turned_back(ramp, degrees, turn):
    found = 255 * Square(np.array([30.0, 20.0]), 20, np.radians(degrees)).cut(ramp, 20, True)
    upright = 255 * Square(np.array([30.0, 20.0]), 20).cut(ramp, 20, True)
    assert np.abs(found - np.rot90(upright, turn)).max() <= 5  # one pixel: 4 levels


def test_a_square_is_interpolated(ramp):
    found = 255 * Square(np.array([30.25, 20]), 10).cut(ramp, 20, True)
    columns = 30.25 - 5 + np.arange(20) / 2
    assert np.abs(found[4, :, 0] - 4 * columns).max() <= 1.01 and np.abs(found[4, :, 1] - 4 * 17).max() <= 1.01


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_beyond_the_border_is_black_or_the_border_again(ramp, angle):
    square = Square(np.array([0, 0]), 40, angle)
    black, repeated = 255 * square.cut(ramp, 40, False), 255 * square.cut(ramp, 40, True)
    outside = (square.to_image(np.stack(np.mgrid[:40, :40][::-1], axis=-1).reshape(-1, 2) / 40) < -1).any(axis=1)
    outside = outside.reshape(40, 40)
    assert (black[outside] == 0).all() and np.allclose(repeated[outside, 2], 200)
    assert np.array_equal(black[30:, 30:], repeated[30:, 30:])
    assert black[30:, 30:].min() > 0
