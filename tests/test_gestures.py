"""utils/data/gestures.py: the table is complete, and tells apart what can be told apart."""

import itertools

import pytest

from utils.data.gestures import FINGER_STATES, FINGERS, GESTURES, get_gesture
from utils.system.errors import UserError

V1 = """call dislike fist four like mute ok one palm peace peace_inverted rock stop stop_inverted three three2
two_up two_up_inverted""".split()
V2 = """grabbing grip hand_heart hand_heart2 holy little_finger middle_finger point take_picture three3
three_gun thumb_index thumb_index2 timeout xsign""".split()


def test_the_table_holds_the_33_gestures_of_hagrid_v2_under_their_names():
    assert sorted(GESTURES) == sorted(V1 + V2) and len(GESTURES) == 33
    assert all(name == gesture.name for name, gesture in GESTURES.items())


def test_the_phrases_of_the_paper_are_as_published():
    assert GESTURES["call"].phrase == "making phone call hand gesture"
    assert GESTURES["four"].phrase == "making four fingers up hand gesture"


def test_phrases_are_distinct_and_none_contains_another():
    phrases = [gesture.phrase for gesture in GESTURES.values()]
    assert len(phrases) == 33 and not [(a, b) for a, b in itertools.permutations(phrases, 2) if a in b]
    assert all(p.startswith("making ") and p.endswith(" hand gesture") and p.islower() for p in phrases)


def test_exactly_the_gestures_of_v1_have_a_finger_row():
    assert [name for name, gesture in GESTURES.items() if gesture.fingers] == V1
    for name in V1:
        assert len(GESTURES[name].fingers) == len(FINGERS)
        assert set(GESTURES[name].fingers) <= set(FINGER_STATES.values())
        assert GESTURES[name].fingers.count("touch") in (0, 2)


@pytest.mark.parametrize(("name", "out"), [
    ("call", "thumb little"), ("four", "index middle ring little"),
    ("palm", "thumb index middle ring little"), ("three", "index middle ring"),
    ("three2", "thumb index middle"), ("rock", "index little"), ("fist", ""),
])
def test_the_fingers_that_are_out(name, out):
    fingers = zip(FINGERS, GESTURES[name].fingers, strict=True)
    assert [finger for finger, state in fingers if state == "out"] == out.split()


def can_be_one_hand(a, b):
    """Whether some hand fits the rows of both gestures."""
    fingers = all(x == y or "any" in (x, y) for x, y in zip(a.fingers, b.fingers, strict=True))
    direction = a.direction == b.direction or "any" in (a.direction, b.direction)
    sides = [(a.fingers_spread, b.fingers_spread), (a.back_of_hand, b.back_of_hand)]
    return fingers and direction and all(x == y or None in (x, y) for x, y in sides)


def test_only_mute_and_one_share_a_row():
    pairs = itertools.combinations([GESTURES[name] for name in V1], 2)
    assert [(a.name, b.name) for a, b in pairs if can_be_one_hand(a, b)] == [("mute", "one")]


def test_an_unknown_gesture_is_a_user_error_that_lists_the_names():
    assert get_gesture("ok") is GESTURES["ok"]
    with pytest.raises(UserError) as caught:
        get_gesture("no_gesture")
    assert all(name in str(caught.value) for name in GESTURES)
