"""HaGRID's annotations: JSON files of a gesture, image name without suffix → boxes, labels, landmarks, person.

All releases are read: landmarks are called hand_landmarks or landmarks, or are missing, and any hand may lack
them. Everything is relative to the picture as it is seen, upright: that HaGRID's images carry no EXIF rotation
that its boxes disregard is assumed, not checked.
"""

import math
from pathlib import Path

from utils.system.errors import UserError
from utils.system.files import read_object

NUM_LANDMARKS = 21


def read_annotations(path):
    """{image stem: record} of a file of HaGRID or of a data set, every record checked.

    A record holds `bboxes` ([x, y, w, h] each, relative, top left), `labels` (one per box) and, where the file
    has them, `hand_landmarks` (per box 21 × [x, y], or None) and `user_id`; other fields are dropped.
    UserError naming the file and the entry for anything else.
    """
    records = {}
    for stem, entry in read_object(path).items():
        try:
            _require(stem not in ("", ".", "..") and not set(stem) & set("/\\\0"), "is no name of an image")
            records[stem] = _check_record(entry)
        except ValueError as error:
            raise UserError(f"{path}, entry {stem[:80]!r}: {error}; correct or remove the entry") from error
    return records


def read_gesture(annotations_dir, gesture):
    """{stem: record} of a gesture from all files of it, pooled. UserError if there is none, or they disagree."""
    name = f"{gesture}.json"
    paths = [path for path in (annotations_dir / name, *sorted(annotations_dir.glob(f"*/{name}"))) if path.is_file()]
    if not paths:
        there = sorted({path.stem for pattern in ("*.json", "*/*.json") for path in annotations_dir.glob(pattern)})
        found = f"there are: {', '.join(there)}" if there else "there is no JSON file at all"
        raise UserError(f"{annotations_dir}: no {name} in it or in a folder of it; {found}")
    pooled = {}
    for path in paths:
        for stem, record in read_annotations(path).items():
            if "user_id" not in record:
                raise UserError(f"{path}, entry {stem[:80]!r}: has no user_id, by which persons are kept apart; "
                                "leave out --annotations_dir to do without")
            if pooled.setdefault(stem, record)["user_id"] != record["user_id"]:
                raise UserError(f"{path}, entry {stem[:80]!r}: another file of {annotations_dir} has it with "
                                "another user_id; give the annotations of one release")
    return pooled


def gesturing_boxes(record, gesture):
    """The boxes of a record that carry the name of the gesture: [[x, y, w, h], …]."""
    return [box for box, label in zip(record["bboxes"], record["labels"], strict=True) if label == gesture]


def gesturing_first(record, gesture):
    """`record` with the hands that show the gesture before the others."""
    order = sorted(range(len(record["labels"])), key=lambda i: record["labels"][i] != gesture)
    lists = {name: [values[i] for i in order] for name, values in record.items() if name != "user_id"}
    return {**lists, "user_id": record["user_id"]}


def read_gesturing_boxes(path, gesture):
    """{image stem: gesturing_boxes} of an annotations.json, {} if there is no such file; as read_annotations."""
    if not Path(path).exists():
        return {}
    return {stem: gesturing_boxes(record, gesture) for stem, record in read_annotations(path).items()}


def _check_record(entry):
    """The fields of one entry that we use. ValueError saying what is wrong with it."""
    _require(isinstance(entry, dict), "a JSON object is expected")
    bboxes, labels = entry.get("bboxes"), entry.get("labels")
    _require(isinstance(bboxes, list) and all(_are_numbers(box, 4) for box in bboxes),
             "bboxes must be a list of [x, y, width, height], finite numbers")
    _require(isinstance(labels, list) and all(isinstance(label, str) for label in labels),
             "labels must be a list of texts")
    _require(len(labels) == len(bboxes), f"has {len(bboxes)} bboxes but {len(labels)} labels")
    record = {"bboxes": bboxes, "labels": labels}

    landmarks = entry.get("hand_landmarks", entry.get("landmarks"))
    _require(landmarks is None or isinstance(landmarks, list), "landmarks must be a list with one entry per box")
    if landmarks and len(landmarks) == len(bboxes):  # otherwise nobody can tell whose they are
        _require(all(not hand or _is_hand(hand) for hand in landmarks),
                 f"the landmarks of a hand must be {NUM_LANDMARKS} × [x, y], finite numbers")
        record["hand_landmarks"] = [hand or None for hand in landmarks]
    if "user_id" in entry:
        _require(isinstance(entry["user_id"], str) and entry["user_id"], "user_id must be a text")
        record["user_id"] = entry["user_id"]
    return record


def _require(condition, problem):
    if not condition:
        raise ValueError(problem)


def _are_numbers(values, count):
    """Whether this is a list of `count` finite numbers that fit a float; true and false are none."""
    if not isinstance(values, list) or len(values) != count:
        return False
    try:
        return all(type(value) in (int, float) and math.isfinite(value) for value in values)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _is_hand(points):
    return isinstance(points, list) and len(points) == NUM_LANDMARKS and all(_are_numbers(p, 2) for p in points)
