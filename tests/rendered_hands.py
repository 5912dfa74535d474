"""Rendered hands and posed skeletons for tests: pictures for a real detector, and the truth about them."""

import functools
import zlib

import numpy as np
from PIL import Image

from utils.data.gestures import GESTURES
from utils.hands.finger_states import matches_gesture
from utils.hands.landmarker import Hand, HandLandmarker
from utils.synthetic.hand import POSES, pose_hand
from utils.synthetic.scene import render_scene


@functools.cache
def landmarker():
    return HandLandmarker()


def detect_hands(image, **settings):
    return landmarker()(image, **settings)


def render_hand(gesture, index, resolution=128):
    """Scene number `index` of a gesture."""
    return render_scene(np.random.default_rng([zlib.crc32(gesture.encode()), int(index)]), gesture, resolution)


def find_hands(gesture, count):
    """The best hand in each of the first `count` images of a gesture, without those in which MediaPipe sees none."""
    hands = [detect_hands(render_hand(gesture, index).image) for index in range(count)]
    return [found[0] for found in hands if found]


@functools.cache
def find_all_hands(count):
    """Name of each gesture with a pose → its `find_hands`, computed once per run."""
    return {gesture: find_hands(gesture, count) for gesture in POSES}


def clear_image(gesture):
    """The first image of a gesture in which MediaPipe sees its fingers."""
    for index in range(20):
        image = render_hand(gesture, index).image
        if any(matches_gesture(hand, GESTURES[gesture]) for hand in detect_hands(image)):
            return image
    raise LookupError(f"MediaPipe sees the fingers of {gesture} in none of 20 images")


def clear_pair(left, right):
    """Clear images of two gestures side by side."""
    pair = Image.new("RGB", (256, 128))
    pair.paste(clear_image(left), (0, 0))
    pair.paste(clear_image(right), (128, 0))
    return pair


def render_folder(folder, gesture, count):
    """Write `count` images of a gesture as <gesture>_<index>.png; returns their scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [render_hand(gesture, index) for index in range(count)]
    for index, scene in enumerate(scenes):
        scene.image.save(folder / f"{gesture}_{index}.png")
    return scenes


def add_useless_files(folder):
    """Write an image without a hand, `wall.png`, and one that can't be read, `zdamaged.jpg`."""
    Image.new("RGB", (96, 128), "grey").save(folder / "wall.png")
    (folder / "zdamaged.jpg").write_bytes(b"\xff\xd8\xff no more")


def skeleton_hand(gesture, seed=0, side="Right", score=0.9, presence=0.95):
    """A Hand with the joints of a posed skeleton, as MediaPipe sees them: y down, left hands mirrored."""
    points = pose_hand(np.random.default_rng(seed), POSES[gesture]).landmarks  # in palm lengths
    points = points * (0.09 if side == "Right" else -0.09, -0.09, -0.09)  # in metres
    return Hand(side, score, (points * 4 + 0.5).astype(np.float32), points.astype(np.float32), presence)


def random_rotation(rng):
    """A uniformly random rotation (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q
