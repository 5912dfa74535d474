"""Examples for the feature network: hands cut and worn anew for every batch, and pictures prepared for its eyes."""

import io

import numpy as np
from PIL import Image, ImageFilter

from utils.data.images import to_rgb
from utils.synthetic.feature_hands import LABELS, MAP, RESOLUTION

WEAR = ("blur", "noise", "jpeg")  # each from 0, none, to 1, the most
MOST_BLUR, MOST_NOISE, LEAST_QUALITY = 1.6, 14.0, 35  # pixels of 128; 8-bit levels; of JPEG
CROP = 1.25  # side of a hand crop, in longer sides of the landmark box
MAP_CELLS = 32  # side of the map of digits that the network learns


def prepare(image):
    """A PIL image as float32 (3, 128, 128) in about [-1, 1], brought to a square by antialiased bicubic on floats.

    As Inception's resize, this squeezes what is not square. Values may overshoot a little at edges.
    """
    size, bicubic = (RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC
    channels = [np.asarray(channel.convert("F").resize(size, bicubic)) for channel in to_rgb(image).split()]
    return np.stack(channels) / np.float32(127.5) - np.float32(1)


def crop_box(landmarks, enlarge=CROP, shift=(0.0, 0.0)):
    """Square around landmarks (21, 2) in pixels: (left, top, side). `shift` is in sides."""
    low, high = landmarks.min(0), landmarks.max(0)
    side = float(max(high - low)) * enlarge
    left, top = (low + high) / 2 + np.asarray(shift) * side - side / 2
    return left, top, side


def draw_box(landmarks, rng):
    """The whole picture or little less of it, or the surroundings of the hand: (left, top, side) in pixels."""
    if rng.random() < 0.5:
        return crop_box(landmarks, rng.uniform(1.1, 1.5), rng.uniform(-0.06, 0.06, 2))
    side = RESOLUTION * rng.uniform(0.88, 1.0)
    return (*rng.uniform(0, RESOLUTION - side, 2), side)


def cut(image, box):
    """A square of a PIL image, whole pixels, the border repeated outside; and the square: (left, top, side)."""
    left, top, right, bottom = (round(v) for v in (box[0], box[1], box[0] + box[2], box[1] + box[2]))
    side = max(right - left, bottom - top, 2)
    pad = max(0, -left, -top, left + side - image.width, top + side - image.height)
    pixels = np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    piece = pixels[top + pad : top + pad + side, left + pad : left + pad + side]
    return Image.fromarray(piece), (left, top, side)


def wear(image, rng):
    """`image` with blur, noise and JPEG of random strength, each in four of ten; and the three strengths, 0 to 1."""
    blur, noise, jpeg = rng.random(3) * (rng.random(3) < 0.4)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur * MOST_BLUR))
    if noise:
        grain = rng.normal(0, noise * MOST_NOISE, (image.height, image.width, 3))
        image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
    if jpeg:
        with io.BytesIO() as file:
            image.save(file, "JPEG", quality=round(100 - jpeg * (100 - LEAST_QUALITY)))
            image = Image.open(file)
            image.load()
    return image, (blur, noise, jpeg)


def mirror(image, landmarks, labels, parts):
    """The same hand as a hand of the other side. landmarks (21, 2) in pixels, parts (64, 64)."""
    labels = labels.copy()
    at = list(LABELS).index("handedness")
    labels[at] = 1 - labels[at]
    landmarks = landmarks * (-1, 1) + (image.width, 0)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), landmarks, labels, parts[:, ::-1]


def cut_map(parts, square):
    """The map of digits of a square that was cut: (32, 32) indices, those at the centres of its cells."""
    left, top, side = square
    centres = (np.arange(MAP_CELLS) + 0.5) * side / MAP_CELLS
    rows, columns = (np.floor((start + centres) * MAP / RESOLUTION).astype(int) for start in (top, left))
    return np.pad(parts, MAP)[rows[:, None] + MAP, columns + MAP]


def make_example(image, landmarks, labels, parts, box, strengths):
    """One example: pixels (3, 128, 128), joints (21, 2) relative to them, labels, map (32, 32), wear (3,)."""
    piece, (left, top, side) = cut(image, box)
    return prepare(piece), (landmarks - (left, top)) / side, labels, cut_map(parts, (left, top, side)), strengths


def draw_example(arrays, index, rng):
    """Hand number `index` as a training example: mirrored, worn and cut by chance (see `make_example`)."""
    image, landmarks = Image.fromarray(arrays["images"][index]), arrays["landmarks"][index] * RESOLUTION
    hand = image, landmarks, arrays["labels"][index], arrays["maps"][index]
    if rng.random() < 0.5:
        hand = mirror(*hand)
    image, landmarks, *truth = hand
    image, strengths = wear(image, rng)
    pixels, *rest = make_example(image, landmarks, *truth, draw_box(landmarks, rng), strengths)
    gains = rng.normal(1, 0.04) * rng.normal(1, 0.03, (3, 1, 1))  # exposure and white balance
    return (pixels + 1) * gains - 1, *rest


def held_out_example(arrays, index, crop):
    """As `draw_example`, but unchanged: the whole picture, or with `crop` the square crop of the hand."""
    image, landmarks = Image.fromarray(arrays["images"][index]), arrays["landmarks"][index] * RESOLUTION
    box = crop_box(landmarks) if crop else (0, 0, RESOLUTION)
    return make_example(image, landmarks, arrays["labels"][index], arrays["maps"][index], box, (0.0, 0.0, 0.0))


def stack(examples):
    """Examples as float32 and int64 arrays: pixels (B, 3, 128, 128), joints, labels, maps, wear."""
    columns = map(np.stack, zip(*examples, strict=True))
    return [array.astype(np.float32 if array.dtype.kind == "f" else np.int64) for array in columns]
