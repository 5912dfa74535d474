"""The rendered hands that the feature network learns from, with all their labels."""

import hashlib
import itertools
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.synthetic.hand import FINGERS, MALFORMATIONS, POSES
from utils.synthetic.raymarch import HandShape, trace
from utils.synthetic.render import CHUNK, render_chunk
from utils.synthetic.scene import COLORS, SKIN_TONES
from utils.system import errors, files
from utils.system.process_pool import count_cores, map_in_processes

RESOLUTION = 128  # pixels; every picture is brought to this square
RANDOM_SHARE = 10  # hands in random poses for every one of each gesture
MAP = 64  # side of a map of digits
HELD_OUT = 0.1  # share of each pose that is kept for validation
STREAM = 98  # of the renderer; data sets of gestures and the tiny Stable Diffusion use others
FINGER_STATES = ("out", "half", "folded", "hold", "touch")
THUMB_STATES = ("out", "side", "alongside", "over", "across", "touch")
# Label → the values it takes, in the order of the network's answers
LABELS = {
    **{finger: THUMB_STATES if finger == "thumb" else FINGER_STATES for finger in FINGERS},
    "malformation": (None, *(f"{kind} {finger}" for kind in MALFORMATIONS for finger in FINGERS[1:])),
    "handedness": ("left", "right"),
    "skin": tuple(SKIN_TONES),
    "background": tuple(COLORS),
    "sleeve": (None, *COLORS),
}
ARRAYS = {"images", "landmarks", "labels", "maps"}  # of a file of rendered hands
PARTS = (None, *(f"{digit} {part}" for digit in (*FINGERS, "extra") for part in ("base", "tip")))  # of a map of digits


def name_malformation(model):
    """What is wrong with a HandModel, and where: one of LABELS["malformation"]."""
    if model.malformation is None:
        return None
    drawn = {digit.name: digit.joints for digit in model.digits}
    intended = {finger: model.landmarks[4 * at + 1 : 4 * at + 5] for at, finger in enumerate(FINGERS)}
    if model.malformation == "missing":
        (finger,) = set(FINGERS) - set(drawn)
    elif model.malformation == "extra":  # it stands on the far side of its model, as seen from the thumb
        finger = FINGERS[sum(intended[name][0, 0] > drawn["extra"][0, 0] for name in FINGERS[1:])]
    elif model.malformation == "fused":
        finger = FINGERS[model.fused[0][0]]
    else:
        (finger,) = (name for name in FINGERS if not np.array_equal(drawn[name], intended[name]))
    return f"{model.malformation} {finger}"


def label_scene(scene):
    """The labels of a Scene as indices into the values of LABELS."""
    values = {**vars(scene), **dict(zip(FINGERS, scene.fingers, strict=True))}
    values["malformation"] = name_malformation(scene.model)
    return [LABELS[name].index(values[name]) for name in LABELS]


def map_digits(scene):
    """Which of PARTS is seen where in the picture of a Scene: indices (64, 64) uint8. Arm and palm are None."""
    shape = HandShape(scene.model, scene.view)
    depth = trace(shape, MAP)
    rows, columns = np.nonzero(np.isfinite(depth))
    grid = (np.arange(MAP) + 0.5) * 2 / MAP - 1
    bones = shape.nearest_part(np.stack([grid[columns], grid[rows], depth[rows, columns]], axis=1)) - shape.palm_parts
    digits = np.array([(*FINGERS, "extra").index(digit.name) for digit in scene.model.digits])
    parts = np.zeros((MAP, MAP), np.uint8)
    parts[rows, columns] = np.where(bones < 0, 0, 1 + 2 * digits[bones // 3] + (bones % 3 == 2))
    return parts[::-1]


def render_hands(job):
    """Render, in a worker, some hands of one pose (see `render.render_chunk`) as arrays of one row per hand.

    images (N, 128, 128, 3) uint8, landmarks (N, 21, 2) relative to them, labels (N, len(LABELS)), maps (N, 64, 64).
    """
    scenes = render_chunk(job)
    return {
        "images": np.stack([np.asarray(scene.image) for scene in scenes]),
        "landmarks": np.stack([scene.landmarks for scene in scenes]).astype(np.float32),
        "labels": np.array([label_scene(scene) for scene in scenes]),
        "maps": np.stack([map_digits(scene) for scene in scenes]),
    }


def concatenate(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_hands(path):
    """The arrays of a file of rendered hands. UserError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if arrays.keys() != ARRAYS or len({len(array) for array in arrays.values()}) > 1:
            raise ValueError(f"not one row of {', '.join(sorted(ARRAYS))} for each hand")
        return arrays
    except (zipfile.BadZipFile, ValueError, TypeError, EOFError) as error:
        raise errors.UserError(f"{path}: damaged ({error}); delete it, and its hands are rendered again") from error


def renderer_hash():
    """Eight digits that change with the source of the renderer, and so perhaps with its pictures."""
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("hand", "raymarch", "scene", "render")]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]


def render_all(work_dir, hands_per_gesture, malformed, seed):
    """(training, held-out) hands of all poses as arrays, see `render_hands`; the last of each pose are held out.

    Each pose has a file in `work_dir`, named by all that it depends on, and is rendered only if that is not there yet.
    """
    counts = {"random": RANDOM_SHARE * hands_per_gesture, **dict.fromkeys(POSES, hands_per_gesture)}
    made_by = f"{malformed:g}-{seed}-{renderer_hash()}"
    paths = {pose: work_dir / f"{pose}-{count}-{made_by}.npz" for pose, count in counts.items()}
    jobs = {
        pose: [
            (pose, RESOLUTION, malformed, seed, (STREAM, *pose.encode()), start, min(start + CHUNK, counts[pose]))
            for start in range(0, counts[pose], CHUNK)
        ]
        for pose, path in paths.items()
        if not path.is_file()
    }
    if jobs:
        chunks = [job for pose in jobs.values() for job in pose]
        progress = tqdm(total=sum(counts[pose] for pose in jobs), desc="rendering", unit="hand")
        with map_in_processes(render_hands, chunks, min(count_cores(), len(chunks))) as computed, progress:
            for pose in jobs:
                parts = []
                for part in itertools.islice(computed, len(jobs[pose])):
                    parts.append(part)
                    progress.update(len(part["images"]))
                with files.atomic_path(paths[pose]) as temporary:
                    np.savez(temporary, **concatenate(parts))

    halves = ([], [])
    for pose, path in paths.items():
        arrays = read_hands(path)
        split = counts[pose] - max(1, round(HELD_OUT * counts[pose]))
        halves[0].append({name: array[:split] for name, array in arrays.items()})
        halves[1].append({name: array[split:] for name, array in arrays.items()})
    return [concatenate(half) for half in halves]
