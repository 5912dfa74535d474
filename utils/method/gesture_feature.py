"""Stage I: the gesture feature, 63 numbers that hold the mean hand of the training images.

Two kinds. `raw` is the published one: image-relative landmarks, averaged as they come. `canonical` puts every
hand at one place, size, side and palm direction before averaging, so that the mean of hands is a hand again.
Reading a saved feature needs neither LiteRT nor images.
"""
import io
from pathlib import Path

import numpy as np

from utils.hands.canonical_landmarks import mean_canonical_hand
from utils.hands.detector import detect_folder
from utils.hands.finger_states import matches_gesture
from utils.hands.landmarker import describe_detector
from utils.system import processes
from utils.system.errors import UserError, first_line, warn
from utils.system.files import atomic_path, read_object, write_json

FEATURE_KINDS = ("canonical", "raw")
FEATURE_SIZE = 63  # 21 landmarks x (x, y, z)
MAX_BYTES = 1 << 16  # a feature takes 380 bytes; a checkpoint given by mistake is not read whole
LEAST_OVERLAP = 0.1  # intersection over union; of 1,160 rendered hands, the least was 0.18 and the median 0.59


def mean_feature(hands, kind):
    """The gesture feature of a list of Hand: (63,) float32, x y z of landmark 0, then of landmark 1, ..."""
    if kind == "raw":
        mean = np.mean([np.asarray(hand.landmarks, dtype=np.float64) for hand in hands], axis=0)
    elif kind == "canonical":
        mean = mean_canonical_hand(hands)
    else:
        raise ValueError(f"feature kind {kind!r} is none of {FEATURE_KINDS}")
    return mean.astype(np.float32).reshape(FEATURE_SIZE)


def _overlap(hand, box):
    """Intersection over union of the box around a Hand's landmarks and an annotated [x, y, width, height]."""
    (x0, y0, x1, y1), (left, top, width, height) = hand.box, map(float, box)
    shared = max(0.0, min(x1, left + width) - max(x0, left)) * max(0.0, min(y1, top + height) - max(y0, top))
    union = (x1 - x0) * (y1 - y0) + width * height - shared
    return shared / union if union > 0 else 0.0


def _pick_hand(hands, gesture, boxes):
    """The hand in the annotated boxes (None if there is none); without any, the one that shows the gesture.

    If none of them shows it, the one MediaPipe found first.
    """
    if boxes:
        overlaps = [max(_overlap(hand, box) for box in boxes) for hand in hands]
        best = int(np.argmax(overlaps))
        return hands[best] if overlaps[best] >= LEAST_OVERLAP else None
    known = gesture is not None and gesture.fingers is not None
    return next((hand for hand in hands if known and matches_gesture(hand, gesture)), hands[0])


def encode_gesture(paths, kind="canonical", gesture=None, num_workers=None, annotations=None):
    """Gesture feature of many images: ((63,) float32, counts).

    `raw` takes one hand per image, static mode, confidence 0.5, as published, whatever is annotated. `canonical`
    looks for two hands. Where `annotations` ({image stem: boxes of the gesturing hands, [x, y, width, height] relative
    to the image}) say where the gesture is, the hand there is taken, and an idle hand elsewhere never. In other
    images it is the hand that shows `gesture` (a Gesture), if there is one, else the first. Annotated landmarks
    do not stand in for hands that MediaPipe misses: they are 2-D, and the feature needs the third dimension.
    counts: num_images, num_used, num_without_hand, num_unreadable, for `canonical` also num_by_annotation (of
    num_used) and num_elsewhere (images left out for having hands only where none gestures); and the detector.
    UserError when no image has a hand. Several processes share the images.
    """
    def detect(part):
        return detect_folder(part, processes.own_workers(num_workers), max_num_hands=1 if kind == "raw" else 2,
                             progress=f"Stage I, {kind} landmarks")

    records = processes.share_out(paths, detect)
    annotations = {} if annotations is None or kind == "raw" else annotations
    boxes = [annotations.get(Path(path).stem) for path, _ in records]
    picked = [_pick_hand(hands, None if kind == "raw" else gesture, there) if hands else None
              for (_, hands), there in zip(records, boxes, strict=True)]
    used = [hand for hand in picked if hand is not None]
    counts = {"num_images": len(records), "num_used": len(used),
              "num_without_hand": sum(hands == [] for _, hands in records),
              "num_unreadable": sum(hands is None for _, hands in records), "detector": describe_detector()}
    if kind != "raw":
        counts["num_by_annotation"] = sum(bool(there) for hand, there in zip(picked, boxes, strict=True) if hand)
        counts["num_elsewhere"] = sum(bool(hands) for _, hands in records) - len(used)
    if not used:
        where = f", the first of them {records[0][0]}" if records else ""
        place = f" in the annotated place ({counts['num_elsewhere']} have one elsewhere)" if any(boxes) else ""
        raise UserError(f"Stage I found no hand in {len(records)} images{where}{place}; check that they show hands, "
                        "or give a saved feature with --feature_npy_path")
    return mean_feature(used, kind), counts


def save_feature(path, feature, kind, gesture, counts):
    """Write (63,) as a plain float32 .npy, and kind, gesture (its name) and counts as .json beside it."""
    path = Path(path)
    write_json(path.with_suffix(".json"), {"kind": kind, "gesture": gesture, **counts})
    with atomic_path(path) as temporary:  # last: a run that finds it does not measure again
        with open(temporary, "wb") as file:  # a file, as np.save would add .npy to a name
            np.save(file, np.asarray(feature, dtype=np.float32).reshape(FEATURE_SIZE), allow_pickle=False)


def load_feature(path):
    """Read a gesture feature: (63,) float32. UserError unless it is a plain .npy of 63 finite numbers."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES)
        feature = np.load(io.BytesIO(data), allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; Stage I of train.py writes this file") from error
    except Exception as error:  # on foreign data NumPy raises almost anything, of its tokenizer too
        raise UserError(f"{path}: no plain .npy array ({first_line(error)}); Stage I of train.py writes "
                        "one") from error
    is_array = isinstance(feature, np.ndarray)
    if not is_array or feature.dtype.kind not in "fiu" or feature.size != FEATURE_SIZE:
        found = f"{feature.dtype} of shape {feature.shape}" if is_array else "an archive of arrays"
        raise UserError(f"{path}: {found}, expected {FEATURE_SIZE} numbers (21 landmarks x 3); give "
                        "a file that Stage I wrote")
    feature = feature.astype(np.float32).reshape(FEATURE_SIZE)
    if not np.isfinite(feature).all():
        raise UserError(f"{path}: holds NaN or infinite values; run Stage I again")
    return feature


def load_feature_info(path):
    """What `save_feature` wrote beside the feature (kind, gesture, counts); {} when there is no such file."""
    info_path = Path(path).with_suffix(".json")
    return read_object(info_path) if info_path.is_file() else {}


def check_feature_info(path, wanted, whose):
    """UserError when the .json beside a feature says another kind, gesture or detector than `wanted` ({name: value}).

    What one of the two does not say is not compared; without that file there is a warning. `whose` says in the message
    what wants it.
    """
    info = load_feature_info(path)
    if not info and processes.is_first():
        warn(f"{path}: no {Path(path).with_suffix('.json').name} beside it says of which gesture and kind it is")
    for name, value in wanted.items():
        if None not in (value, info.get(name)) and info[name] != value:
            raise UserError(f"{path}: its {name} is {info[name]!r} by the .json beside it, {whose} {value!r}; "
                            f"give a feature of that {name}")
