"""The hands in many images, found in a few threads and kept in a cache; their crops and drawings.

Images go in at their own size: for 360 rendered hands of 128 pixels, enlarging them two or four times changed the share
detected (95.3 %) by less than 0.6 % and the mean error of the landmarks (0.089 palm lengths) by 0.006.
"""
import dataclasses
import functools
import math
import os
import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from utils.data.folder_cache import Block, FolderCache, cached_blocks
from utils.data.images import open_image
from utils.hands.landmarker import Hand, HandLandmarker, describe_detector, require_detector
from utils.system.errors import UserError, warn
from utils.system.process_pool import count_cores

# Pairs of landmarks joined by a bone: four per finger from the wrist on, then across the knuckles.
BONES = [(0 if j == 4 * f + 1 else j - 1, j) for f in range(5) for j in range(4 * f + 1, 4 * f + 5)]
BONES += [(5, 9), (9, 13), (13, 17)]
IMAGES_PER_THREAD = 8  # at least: to load the networks takes as long as one or two
CROP_ENLARGE = 1.25  # side of a hand's crop by the longer side of the box around its landmarks


def _detect_file(landmarkers, path, **detection):
    """Hands of an image, or the message that says why it cannot be read. landmarkers: a queue of those not in use."""
    try:
        image = open_image(path)
    except UserError as error:
        return str(error)
    landmarker = landmarkers.get()
    try:
        return landmarker(image, **detection)
    finally:
        landmarkers.put(landmarker)


def _detect_images(paths, num_workers, detection, progress):
    """Yields the hands, or the message why it cannot be read, of every image, in order."""
    num_threads = min(num_workers or count_cores(), math.ceil(len(paths) / IMAGES_PER_THREAD))
    files, landmarkers = require_detector(), queue.SimpleQueue()
    for _ in range(num_threads):
        landmarkers.put(HandLandmarker(files))
    with ThreadPoolExecutor(num_threads) as pool:  # LiteRT leaves Python's lock while it computes
        computed = pool.map(functools.partial(_detect_file, landmarkers, **detection), paths)
        try:
            yield from tqdm(computed, progress, len(paths), unit="image")
        finally:
            pool.shutdown(cancel_futures=True)  # nobody wants to wait for what is not begun


def _to_block(result):
    """The Block of a FolderCache that `_from_block` turns into the same result again, bit for bit."""
    if isinstance(result, str):
        return Block(None, result)
    return Block({
        "handedness": np.array([hand.handedness for hand in result], dtype=np.str_),
        "scores": np.array([hand.score for hand in result], dtype=np.float64),
        "presences": np.array([hand.presence for hand in result], dtype=np.float64),
        "landmarks": np.array([hand.landmarks for hand in result], dtype=np.float32).reshape(-1, 21, 3),
        "world_landmarks": np.array([hand.world_landmarks for hand in result], dtype=np.float32).reshape(-1, 21, 3),
    })


def _from_block(block):
    """A list of Hand, or the message why the image cannot be read."""
    if block.arrays is None:
        return block.message
    sides, scores, presences = (block.arrays[name].tolist() for name in ("handedness", "scores", "presences"))
    return list(map(Hand, sides, scores, block.arrays["landmarks"], block.arrays["world_landmarks"], presences))


def detect_folder(paths, num_workers=None, max_num_hands=1, min_confidence=0.5, progress="detecting hands",
                  cache_dir=None):
    """Detect the hands of many images, of one or several folders, with a HandLandmarker.

    Returns a list of (path, hands) in the order of `paths`: a list of Hand, [] for an image without one, None
    for an image that cannot be read, which is named in a warning. `num_workers` is the number of threads (None: one
    per core); the result doesn't depend on it. `min_confidence` in [0, 1] is that of the palm detector, `progress` the
    label of the bar on standard error. `cache_dir` is a folder that keeps the results of each image, see
    utils.data.folder_cache. UserError where LiteRT or its networks are missing.
    """
    paths = list(paths)
    detection = {"max_num_hands": max_num_hands, "min_confidence": float(min_confidence)}
    settings = {**detection, "detector": describe_detector()}

    # Read what is known, folder by folder, then look at all other images in one pass
    by_folder = {}
    for path in paths:
        by_folder.setdefault(os.path.dirname(path), []).append(path)
    members = list(by_folder.values())

    def compute(missing):
        images = [members[number][place] for number, place in missing]
        return map(_to_block, _detect_images(images, num_workers, detection, progress))

    caches = [FolderCache(cache_dir, "hands", images, settings) for images in members]
    found = {folder: map(_from_block, blocks)
             for folder, blocks in zip(by_folder, cached_blocks(caches, compute), strict=True)}

    records = []
    for path in paths:
        result = next(found[os.path.dirname(path)])
        if isinstance(result, str):
            warn(f"skipped: {result}")
        records.append((path, None if isinstance(result, str) else result))
    return records


def _pixel_box(image, hands):
    """Box around the landmarks of all `hands` in pixels, as an array (x0, y0, x1, y1); may reach over the border."""
    if not hands:
        raise ValueError("no hand to cut out")
    boxes = np.array([hand.box for hand in hands])
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]) * np.tile(image.size, 2)


def _square_around(image, hand, enlarge):
    """(left, top, side) in whole pixels of the square around the centre of a hand, `enlarge` × its longer side."""
    x0, y0, x1, y1 = _pixel_box(image, [hand])
    side = max(1, round(enlarge * max(x1 - x0, y1 - y0)))
    return round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side


def best_hand(hands):
    """The Hand with the highest score, which is what an image is judged by; None if there is none."""
    return max(hands or (), key=lambda hand: hand.score, default=None)


def crop_hand(image, hand, enlarge=CROP_ENLARGE):
    """One hand cut out of an RGB PIL image: a square around the centre of its box, `enlarge` × its longer side.

    Pixels beyond the border are those on the border.
    """
    left, top, side = _square_around(image, hand, enlarge)
    columns = np.clip(np.arange(left, left + side), 0, image.width - 1)
    rows = np.clip(np.arange(top, top + side), 0, image.height - 1)
    return Image.fromarray(np.asarray(image)[np.ix_(rows, columns)])


def crop_union(image, hands):
    """One box around the landmarks of all `hands`, cut out of an RGB PIL image, clipped to it, not squared.

    As published for FID-H. At least one pixel.
    """
    size = np.array(image.size)
    x0, y0, x1, y1 = _pixel_box(image, hands)
    start = np.clip(np.floor([x0, y0]), 0, size - 1).astype(int)
    end = np.clip(np.ceil([x1, y1]), start + 1, size).astype(int)
    return image.crop((*start.tolist(), *end.tolist()))


def draw_hands(image, hands, box_color="red", with_bones=True):
    """A copy of the PIL image with the box of each Hand, and its bones (green) and landmarks (yellow)."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    scale = np.array(image.size)
    width = max(1, math.ceil(min(image.size) / 200))
    for hand in hands:
        points = [tuple(point) for point in hand.landmarks[:, :2] * scale]
        for start, end in BONES if with_bones else ():
            draw.line([points[start], points[end]], fill="lime", width=width)
        for x, y in points if with_bones else ():
            draw.ellipse([x - width, y - width, x + width, y + width], fill="yellow")
        draw.rectangle(list(np.array(hand.box) * np.tile(scale, 2)), outline=box_color, width=width)
    return image


def zoom_hand(image, hand, pixels, enlarge=1.5):
    """A square of `pixels` × `pixels` that shows one hand of the PIL image with its bones and landmarks."""
    left, top, side = _square_around(image, hand, enlarge)
    landmarks = hand.landmarks.copy()
    landmarks[:, :2] = (landmarks[:, :2] * image.size - (left, top)) / side  # relative to the crop
    zoomed = crop_hand(image, hand, enlarge).resize((pixels, pixels), Image.Resampling.BICUBIC)
    return draw_hands(zoomed, [dataclasses.replace(hand, landmarks=landmarks)])
