"""HaGRID's JSON files: every release is read, and whatever is wrong with one costs one line."""

import json

import pytest

from utils.data.annotations import (
    gesturing_boxes,
    gesturing_first,
    read_annotations,
    read_gesture,
    read_gesturing_boxes,
)
from utils.system.errors import UserError

HAND = [[round(0.1 + 0.01 * i, 2), 0.5] for i in range(21)]
IDLE, GESTURING = [0.02, 0.8, 0.1, 0.1], [0.6, 0.2, 0.1, 0.2]
V1 = {"bboxes": [IDLE, GESTURING], "labels": ["no_gesture", "call"], "leading_hand": "left", "leading_conf": 1.0,
      "user_id": "bb138d5d"}
V1_LANDMARKS = {**V1, "landmarks": [[], HAND]}
V2 = {"bboxes": [GESTURING], "labels": ["call"], "united_bbox": None, "united_label": None, "user_id": "2fe6a915",
      "hand_landmarks": [HAND], "meta": {"age": [24.41], "gender": ["female"], "race": ["White"]}}
RELEASES = {"03487280-224f": V1, "0534147c-4548": V1_LANDMARKS, "04c49801-1101": V2}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "call.json"


def read(path, entries):
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return read_annotations(path)


# What is read


def test_every_release_gives_the_same_fields(path):
    hands = {"bboxes": [IDLE, GESTURING], "labels": ["no_gesture", "call"], "user_id": "bb138d5d"}
    assert read(path, RELEASES) == {
        "03487280-224f": hands,
        "0534147c-4548": {**hands, "hand_landmarks": [None, HAND]},
        "04c49801-1101": {"bboxes": [GESTURING], "labels": ["call"], "user_id": "2fe6a915", "hand_landmarks": [HAND]},
    }


def test_landmarks_that_fit_no_box_are_dropped_and_null_ones_are_none(path):
    records = read(path, {"a": {**V2, "hand_landmarks": []}, "b": {**V1, "hand_landmarks": [HAND]},
                          "c": {**V2, "hand_landmarks": [None]}, "d": {**V2, "hand_landmarks": None}})
    assert [records[stem].get("hand_landmarks") for stem in "abcd"] == [None, None, [None], None]


def test_the_gesturing_hand_comes_first_with_all_that_is_known_of_it(path):
    record = gesturing_first(read(path, RELEASES)["0534147c-4548"], "call")
    assert record == {"bboxes": [GESTURING, IDLE], "labels": ["call", "no_gesture"], "hand_landmarks": [HAND, None],
                      "user_id": "bb138d5d"}


def test_gesturing_boxes_are_those_that_carry_the_name(path):
    assert gesturing_boxes(V1, "call") == [GESTURING] and gesturing_boxes(V1, "like") == []
    assert read_gesturing_boxes(path, "call") == {}
    read(path, {"a": V1, "b": {"bboxes": [IDLE], "labels": ["no_gesture"]}})
    assert read_gesturing_boxes(path, "call") == {"a": [GESTURING], "b": []}


def write_folders(folder, **entries):
    for name, content in entries.items():
        (folder / name).mkdir()
        (folder / name / "call.json").write_text(json.dumps(content))


def test_the_files_of_a_gesture_are_pooled_wherever_they_are(tmp_path):
    (tmp_path / "call.json").write_text(json.dumps({"a": V1}))
    write_folders(tmp_path, train={"b": V1}, val={"c": V2}, ann_test={"d": V2, "a": V1})
    assert sorted(read_gesture(tmp_path, "call")) == ["a", "b", "c", "d"]


def test_files_that_disagree_on_a_person_are_refused(tmp_path):
    write_folders(tmp_path, train={"a": V1}, val={"a": {**V1, "user_id": "someone else"}})
    with pytest.raises(UserError, match=r"val/call.json, entry 'a': another file .* another user_id; give"):
        read_gesture(tmp_path, "call")


def test_a_missing_file_or_person_is_named_with_what_is_there(tmp_path):
    with pytest.raises(UserError, match="no call.json in it .* there is no JSON file at all"):
        read_gesture(tmp_path, "call")
    write_folders(tmp_path, train={"a": {"bboxes": [], "labels": []}})
    with pytest.raises(UserError, match="no like.json in it .* there are: call"):
        read_gesture(tmp_path, "like")
    with pytest.raises(UserError, match="entry 'a': has no user_id.* leave out --annotations_dir"):
        read_gesture(tmp_path, "call")


# What is refused


@pytest.mark.parametrize(("entries", "problem"), [
    ("", "not valid JSON"),
    ("[" * 100000, "not valid JSON"),
    ('{"a": {"bboxes": [[0, 0, 1, ' + "9" * 5000 + "]]}}", "not valid JSON"),
    ("[]", "a JSON object is expected"),
    ({"a": None}, "entry 'a': a JSON object is expected"),
    ({"../../x": V2}, "entry '../../x': is no name of an image"),
    ({"..": V2}, "is no name of an image"),
    ({"/etc/passwd": V2}, "is no name of an image"),
    ({"a\0": V2}, r"entry 'a\\x00': is no name of an image"),
    ({"a": {"labels": []}}, "bboxes must be a list"),
    ({"a": {**V1, "bboxes": [IDLE, [0, 0, 1]]}}, "bboxes must be a list of"),
    ({"a": {**V2, "bboxes": [[0, 0, float("nan"), 1]]}}, "finite numbers"),
    ({"a": {**V2, "bboxes": [[0, 0, 10**400, 1]]}}, "finite numbers"),
    ({"a": {**V2, "bboxes": [[0, 0, True, 1]]}}, "finite numbers"),
    ({"a": {**V2, "labels": [7]}}, "labels must be a list of texts"),
    ({"a": {**V2, "labels": "call"}}, "labels must be a list of texts"),
    ({"a": {**V2, "labels": ["call", "call"]}}, "has 1 bboxes but 2 labels"),
    ({"a": {**V2, "hand_landmarks": "none"}}, "landmarks must be a list"),
    ({"a": {**V2, "hand_landmarks": [HAND[:20]]}}, "21 × "),
    ({"a": {**V2, "hand_landmarks": [[*HAND[:20], [0, "x"]]]}}, "21 × "),
    ({"a": {**V2, "user_id": 7}}, "user_id must be a text"),
    ({"a": {**V2, "user_id": ""}}, "user_id must be a text"),
])
def test_anything_else_is_refused_by_the_name_of_file_and_entry(path, entries, problem):
    with pytest.raises(UserError, match=problem) as error:
        read(path, entries)
    assert str(error.value).startswith(f"{path}") and "\n" not in str(error.value)
