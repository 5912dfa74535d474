"""MediaPipe Hands on one image: a network finds palms, a second one the 21 landmarks in a square around each.

Networks, constants and all steps between are those of MediaPipe's Solutions (its graph hand_landmark_tracking_cpu,
for single images), the API that published numbers were taken with. They run on LiteRT, as MediaPipe's own packages have
either that API, with Python 3.12 and NumPy 1 at most, or the Tasks API, which takes the 90 degrees that the square is
turned to for radians, so that every hand lies 27 degrees askew in it; docs/metrics.md says what that costs.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import sys

import numpy as np

from utils.hands.model_files import find_models
from utils.system.errors import UserError

PALM_INPUT, HAND_INPUT = 192, 224  # pixels, sides of what the two networks see
# The palm network's anchors: layers of (cells along a side, boxes in each cell)
ANCHOR_LAYERS = ((24, 2), (12, 6))
WRIST, MIDDLE_KNUCKLE = 2, 4  # among the points of a palm, see find_palms
SAME_PALM, SAME_HAND = 0.3, 0.5  # intersection over union of two boxes, and of two squares around hands
SQUARE_ENLARGE, SQUARE_SHIFT = 2.6, 0.5  # of the palm's box: longer side, and towards the fingers by its height
LEAST_PRESENCE = 0.5
DEPTH = 0.4  # what the network's z is divided by, beside the side of its input


@dataclasses.dataclass(frozen=True)
class Hand:
    """One detected hand.

    handedness: "Left" or "Right" as MediaPipe says it, that is for a mirrored (selfie) picture; what counts
    here is only that the two differ by a reflection. score: its confidence in that label, in [0.5, 1].
    landmarks: (21, 3), x and y relative to image width and height, z relative to width, 0 at the wrist.
    world_landmarks: (21, 3) metres, origin in the hand, x right, y down, z away from the camera.
    presence: the landmark network's confidence that its square shows a hand, in [0.5, 1].
    """
    handedness: str
    score: float
    landmarks: np.ndarray
    world_landmarks: np.ndarray
    presence: float

    @property
    def box(self):
        """Box around the landmarks: (x0, y0, x1, y1) relative to the image; may reach over its border."""
        x0, y0 = self.landmarks[:, :2].min(axis=0)
        x1, y1 = self.landmarks[:, :2].max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)


@dataclasses.dataclass(frozen=True)
class Square:
    """A square in an image: centre (2,) and side in pixels, turned clockwise by an angle in radians."""
    centre: np.ndarray
    side: float
    angle: float = 0.0

    @property
    def axes(self):
        """(2, 2): its unit vectors to the right and downwards, in the image, as columns."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cosine, -sine], [sine, cosine]])

    @property
    def box(self):
        """(2, 2): centre and size, as if it stood upright."""
        return np.stack([self.centre, [self.side] * 2])

    def to_image(self, points):
        """Pixels in the image of points (n, 2) relative to the square, in [0, 1]."""
        return self.centre + self.side * (points - 0.5) @ self.axes.T

    def cut(self, pixels, size, is_edge_repeated):
        """What it shows of an image (H, W, 3) uint8, as (size, size, 3) float32 in [0, 1], bilinear.

        Beyond the border lies black, or the pixel on the border. A pixel's number is its place, as in MediaPipe.
        """
        v, u = np.divmod(np.arange(size * size), size)
        places = self.to_image(np.stack([u, v], axis=1) / size)
        first = np.floor(places)
        right, down = (places - first).astype(np.float32).T[:, :, np.newaxis]  # shares of the next pixel
        (left, top), (height, width) = first.T, pixels.shape[:2]

        def read(rows, columns):
            near_rows, near_columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
            found = pixels.reshape(-1, 3).take((near_rows * width + near_columns).astype(int), axis=0)
            is_there = is_edge_repeated or ((near_rows == rows) & (near_columns == columns))[:, np.newaxis]
            return found * np.float32(is_there)

        above = (1 - right) * read(top, left) + right * read(top, left + 1)
        below = (1 - right) * read(top + 1, left) + right * read(top + 1, left + 1)
        return ((1 - down) * above + down * below).reshape(size, size, 3) / 255


def anchor_centres():
    """(2016, 2): x and y of the palm network's anchors, relative to its input."""
    layers = []
    for cells, boxes in ANCHOR_LAYERS:
        y, x = np.divmod(np.arange(cells * cells), cells)
        layers.append(np.repeat((np.stack([x, y], axis=1) + 0.5) / cells, boxes, axis=0))
    return np.concatenate(layers)


def overlaps(box, boxes):
    """Intersection over union of a box with each of (n, 2, 2) boxes; a box is its centre and its size."""
    low, high = boxes[:, 0] - boxes[:, 1] / 2, boxes[:, 0] + boxes[:, 1] / 2
    shared = np.minimum(high, box[0] + box[1] / 2) - np.maximum(low, box[0] - box[1] / 2)
    shared = np.prod(np.maximum(shared, 0), axis=1)
    return shared / np.maximum(np.prod(boxes[:, 1], axis=1) + np.prod(box[1]) - shared, 1e-12)


def merge_palms(palms, scores, most):
    """The `most` best of the palms (n, 9, 2) when those of one hand are averaged by their scores (n,), best first."""
    order = np.argsort(-scores, kind="stable")
    palms, scores, merged = palms[order], scores[order], []
    while len(palms) and len(merged) < most:
        same = overlaps(palms[0, :2], palms[:, :2]) > SAME_PALM
        same[0] = True  # a box without area overlaps nothing
        merged.append(np.average(palms[same], axis=0, weights=scores[same]))
        palms, scores = palms[~same], scores[~same]
    return merged


def square_around(palm):
    """The Square that shows the hand of a palm (9, 2) in pixels, its fingers upwards."""
    x, y = palm[MIDDLE_KNUCKLE] - palm[WRIST]
    angle = np.pi / 2 - np.arctan2(-y, x)
    centre, size = palm[:2]
    towards_fingers = np.array([np.sin(angle), -np.cos(angle)])
    return Square(centre + SQUARE_SHIFT * size[1] * towards_fingers, SQUARE_ENLARGE * size.max(), angle)


def drop_doubles(squares):
    """The Squares without those that a later one covers, as if both stood upright: MediaPipe keeps the worse palm."""
    kept = []
    for square in squares:
        kept = [other for other in kept if overlaps(square.box, other.box[np.newaxis]) <= SAME_HAND] + [square]
    return kept


@contextlib.contextmanager
def _quiet_native_code():
    """Drop what C++ code writes to file descriptor 2."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def require_detector(remedy="install requirements.txt, or run this step on another machine"):
    """Paths of the palm network and of the landmark network: to be asked before work that would be lost without them.

    UserError where LiteRT is not installed or the networks cannot be had.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UserError(f"hand detection needs ai-edge-litert, which is not installed here; {remedy}")
    return find_models()


def describe_detector():
    """What results depend on besides the images and the code: LiteRT and its version; None where it is missing."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"litert {importlib.metadata.version('ai-edge-litert')}"
    return None


class HandLandmarker:
    """Both networks, for one thread at a time. UserError where LiteRT or the networks cannot be had.

    files: as from require_detector, which is asked otherwise.
    """

    def __init__(self, files=None):
        palm_file, hand_file = files or require_detector()
        with _quiet_native_code():
            try:
                from ai_edge_litert.interpreter import Interpreter
            except ImportError as error:
                raise UserError(f"hand detection needs ai-edge-litert, which cannot be imported here ({error}); "
                                "install requirements.txt, or run this step on another machine") from error
            self.palm_network, self.hand_network = (
                Interpreter(str(file), num_threads=1) for file in (palm_file, hand_file))
            for network in (self.palm_network, self.hand_network):
                network.allocate_tensors()
        self.anchors = anchor_centres()

    @staticmethod
    def run(network, picture):
        """The outputs of a network for one picture, each without its batch dimension."""
        network.set_tensor(network.get_input_details()[0]["index"], picture[np.newaxis])
        network.invoke()
        return [network.get_tensor(output["index"])[0] for output in network.get_output_details()]

    def find_palms(self, pixels, most, min_confidence):
        """The `most` best palms in an image (H, W, 3), each (9, 2) pixels: centre and size of the box, seven points."""
        whole = Square(np.array(pixels.shape[1::-1]) / 2, max(pixels.shape[:2]))
        offsets, logits = self.run(self.palm_network, whole.cut(pixels, PALM_INPUT, is_edge_repeated=False))
        scores = 1 / (1 + np.exp(-np.clip(logits[:, 0].astype(float), -100, 100)))
        found = (scores >= min_confidence) & (offsets[:, 2:4] >= 0).all(axis=1)  # a size may be below 0
        is_place = (np.arange(9) != 1)[:, np.newaxis]  # all but the size
        palms = offsets[found].reshape(-1, 9, 2) / PALM_INPUT
        palms += self.anchors[found, np.newaxis] * is_place
        corner = whole.centre - whole.side / 2
        return [whole.side * palm + corner * is_place for palm in merge_palms(palms, scores[found], most)]

    def find_landmarks(self, pixels, square):
        """The Hand in a Square of an image, None if there is none."""
        landmarks, presence, left, world = self.run(
            self.hand_network, square.cut(pixels, HAND_INPUT, is_edge_repeated=True))
        if presence[0] < LEAST_PRESENCE:
            return None
        height, width = pixels.shape[:2]
        landmarks, world = landmarks.reshape(21, 3) / HAND_INPUT, world.reshape(21, 3)
        places = square.to_image(landmarks[:, :2]) / (width, height)
        depths = landmarks[:, 2:] / DEPTH * square.side / width
        left = float(left[0])
        return Hand("Left" if left > 0.5 else "Right", max(left, 1 - left),
                    np.hstack([places, depths]).astype(np.float32),
                    np.hstack([world[:, :2] @ square.axes.T, world[:, 2:]]).astype(np.float32), float(presence[0]))

    def __call__(self, image, max_num_hands=1, min_confidence=0.5):
        """The hands in one RGB PIL image as a list of Hand, best palm first.

        `min_confidence` in [0, 1] is that of the palm network.
        """
        pixels = np.asarray(image)
        palms = self.find_palms(pixels, max_num_hands, min_confidence)
        hands = [self.find_landmarks(pixels, square) for square in drop_doubles(map(square_around, palms))]
        return [hand for hand in hands if hand is not None]
