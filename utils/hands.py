"""MediaPipe Hands over many images: handedness, landmarks and box of every hand, in a pool of processes.

The only module that imports mediapipe, and only when the first image is to be detected.

Images go in at their own size: for 720 rendered hands of 128 pixels, enlarging them two or four times changed
the share detected (96.1 %) by less than 0.4 % and the mean error of the landmarks by 0.002 palm lengths.
"""
import contextlib
import functools
import math
import os
import sys
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw
from tqdm import tqdm

from utils import images
from utils.cli import UserError, one_line
from utils.process_pool import map_in_processes

# Pairs of landmarks joined by a bone: four per finger from the wrist on, then across the knuckles.
BONES = [(0 if j == 4 * f + 1 else j - 1, j) for f in range(5) for j in range(4 * f + 1, 4 * f + 5)]
BONES += [(5, 9), (9, 13), (13, 17)]
# A pool costs about two seconds to start; one core detects about this many images in that time.
IMAGES_PER_WORKER = 64
CHUNK_SIZE = 8  # images per task of the pool: small enough for a smooth progress bar


@dataclass(frozen=True)
class Hand:
    """One detected hand.

    handedness: "Left" or "Right" as MediaPipe says it, that is for a mirrored (selfie) picture; what counts
    here is only that the two differ by a reflection. score: its confidence in that label, in [0.5, 1].
    landmarks: (21, 3), x and y relative to image width and height, z relative to width, 0 at the wrist.
    world_landmarks: (21, 3) metres, origin in the hand, x right, y down, z away from the camera.
    """
    handedness: str
    score: float
    landmarks: np.ndarray
    world_landmarks: np.ndarray

    @property
    def box(self):
        """Box around the landmarks: (x0, y0, x1, y1) relative to the image; may reach over its border."""
        x0, y0 = self.landmarks[:, :2].min(axis=0)
        x1, y1 = self.landmarks[:, :2].max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)


@contextlib.contextmanager
def _quiet_native_code():
    """Drop what C++ code writes to file descriptor 2; GLOG_minloglevel does not silence all of it."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@functools.lru_cache(maxsize=2)
def _create_detector(max_num_hands, min_confidence):
    with _quiet_native_code():
        try:
            import mediapipe
        except ImportError as error:
            raise UserError(f"hand detection needs mediapipe, which cannot be imported here ({error}); "
                            "install requirements.txt, or run this step on another machine") from error
        detector = mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=max_num_hands,
                                                   min_detection_confidence=min_confidence)
        detector.process(np.zeros((64, 64, 3), np.uint8))  # its threads start, and write, until this returns
    return detector


def _to_array(landmark_list):
    return np.array([(point.x, point.y, point.z) for point in landmark_list.landmark], dtype=np.float32)


def detect_hands(image, max_num_hands=1, min_confidence=0.5):
    """The hands in one RGB PIL image as a list of Hand, in MediaPipe's order (best palm first)."""
    detector = _create_detector(max_num_hands, min_confidence)
    pixels = np.ascontiguousarray(image, dtype=np.uint8)  # (H, W, 3)
    with _quiet_native_code():
        found = detector.process(pixels)
    if not found.multi_hand_landmarks:
        return []
    sides = [handedness.classification[0] for handedness in found.multi_handedness]
    hands = zip(sides, found.multi_hand_landmarks, found.multi_hand_world_landmarks, strict=True)
    return [Hand(s.label, s.score, _to_array(points), _to_array(world)) for s, points, world in hands]


def _detect_chunk(paths, max_num_hands, min_confidence):
    """Hands of each image, or the message that says why the image cannot be read."""
    results = []
    for path in paths:
        try:
            image = images.open_image(path)
        except UserError as error:
            results.append(str(error))
        else:
            results.append(detect_hands(image, max_num_hands, min_confidence))
    return results


def choose_num_workers(num_images):
    """One process per core, but no more than have enough images to be worth their start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores, num_images // IMAGES_PER_WORKER))


def detect_folder(paths, num_workers=None, max_num_hands=1, min_confidence=0.5, progress="detecting hands"):
    """Detect the hands of many images with MediaPipe in static image mode, RGB.

    Returns a list of (path, hands) in the order of `paths`: a list of Hand, [] for an image without one, None
    for an image that cannot be read, which is named in a warning. `num_workers` is the number of spawned
    processes (1: none, all in this process; None: see `choose_num_workers`); the result doesn't depend on it.
    `min_confidence` in [0, 1] is that of the palm detector, `progress` the label of the bar on standard
    error.
    UserError where mediapipe cannot be imported or a process dies.
    """
    paths = list(paths)
    num_workers = choose_num_workers(len(paths)) if num_workers is None else num_workers
    chunks = [paths[i:i + CHUNK_SIZE] for i in range(0, len(paths), CHUNK_SIZE)]
    detect = functools.partial(_detect_chunk, max_num_hands=max_num_hands, min_confidence=min_confidence)
    records = []
    with contextlib.ExitStack() as stack:
        if num_workers == 1:
            computed = map(detect, chunks)
        else:
            computed = stack.enter_context(map_in_processes(detect, chunks, num_workers))
        bar = stack.enter_context(tqdm(total=len(paths), desc=progress, unit="image"))
        for chunk, results in zip(chunks, computed, strict=True):
            for path, result in zip(chunk, results, strict=True):
                if isinstance(result, str):
                    tqdm.write(f"warning: skipped: {one_line(result)}", file=sys.stderr)
                records.append((path, None if isinstance(result, str) else result))
            bar.update(len(chunk))
    return records


def draw_hands(image, hands):
    """A copy of the PIL image with the box (red), bones (green) and landmarks (yellow) of each Hand."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    scale = np.array(image.size)
    width = max(1, math.ceil(min(image.size) / 200))
    for hand in hands:
        points = [tuple(point) for point in hand.landmarks[:, :2] * scale]
        for start, end in BONES:
            draw.line([points[start], points[end]], fill="lime", width=width)
        for x, y in points:
            draw.ellipse([x - width, y - width, x + width, y + width], fill="yellow")
        draw.rectangle(list(np.array(hand.box) * np.tile(scale, 2)), outline="red", width=width)
    return image
