"""Feature vectors of the images of a folder, or of the hands in them: streamed, batched, cached.

An extractor is a torch module that turns a batch into (N, d) features and knows how one image is prepared for it
(`prepare`), what it is called (`name`) and what its features depend on (`settings`); see utils/metrics/inception.py and
utils/synthetic/feature_network.py.
"""

import collections
import functools
from dataclasses import dataclass

import numpy as np
import PIL
import torch
from tqdm import tqdm

from utils.data.folder_cache import Block, FolderCache, cached_blocks
from utils.data.loader import load_images
from utils.hands.canonical_landmarks import canonical_landmarks
from utils.hands.detector import CROP_ENLARGE, crop_hand, crop_union
from utils.system.device import full_precision
from utils.system.errors import warn

CROPS = ("full", "hand", "union")  # the image; each of its hands; one box around its hands


@dataclass
class FeatureSet:
    """features: (n, d) float32. image_index: (n,) the place in the folder's list of the image each row is of.

    unreadable: one message per image that could not be read.
    """

    features: np.ndarray
    image_index: np.ndarray
    unreadable: list[str]

    @property
    def images(self):
        """The indices of the images that have a row, ascending."""
        return np.unique(self.image_index)

    def of_images(self, chosen):
        """A FeatureSet of the rows of the images with these indices."""
        rows = np.isin(self.image_index, chosen)
        return FeatureSet(self.features[rows], self.image_index[rows], [])

    def one_each(self, chosen, rng):
        """A FeatureSet of one row, drawn at random, of each of the images with these indices."""
        rows = [rng.choice(np.flatnonzero(self.image_index == image)) for image in chosen]
        return FeatureSet(self.features[rows], self.image_index[rows], [])


def cut_image(image, crop, hands):
    """The pictures of one image that are measured: itself, one per hand, or the box around its hands."""
    if crop == "full":
        return [image]
    if crop == "union":
        return [crop_union(image, hands)]
    return [crop_hand(image, hand) for hand in hands]


def prepare_pictures(image, hands, crop, prepare):
    """The prepared pictures (3, H, W) of an image with these hands."""
    return [prepare(picture) for picture in cut_image(image, crop, hands)]


def compute_features(extractor, records, crop, device, batch_size, progress):
    """Yields a Block with the features (rows, d) of each (path, hands), in order.

    Memory holds two batches of pictures, whatever the folder.
    """
    waiting, rows = [], collections.deque()  # pictures; features
    unfinished = collections.deque()  # of each image the number of its rows to come, or the message why there are none

    def flush():
        if waiting:
            with torch.inference_mode(), full_precision(torch.device(device)):
                rows.extend(extractor(torch.from_numpy(np.stack(waiting)).to(device)).float().cpu().numpy())
            waiting.clear()

    def finished():
        while unfinished and (isinstance(unfinished[0], str) or unfinished[0] <= len(rows)):
            found = unfinished.popleft()
            if isinstance(found, str):
                yield Block(None, found)
            else:
                features = np.array([rows.popleft() for _ in range(found)], dtype=np.float32)
                yield Block({"features": features.reshape(found, extractor.num_features)})

    extractor.to(device)
    needed = [record for record in records if crop == "full" or record[1]]
    prepare = functools.partial(prepare_pictures, crop=crop, prepare=extractor.prepare)
    loaded = load_images([path for path, _ in needed], prepare, extras=[hands for _, hands in needed])
    for _, hands in tqdm(records, progress, unit="image"):
        _, pictures, problem = next(loaded) if crop == "full" or hands else (None, [], None)
        unfinished.append(str(problem) if problem else len(pictures))
        for picture in pictures or ():
            waiting.append(picture)
            if len(waiting) == batch_size:
                flush()
        yield from finished()
    flush()
    yield from finished()


def extract_features(extractor, records, crop, device, batch_size=32, cache_dir=None, detection=None,
                     progress="features"):
    """FeatureSet of (path, hands) records, one per image of a folder.

    crop: one of CROPS; images without a hand have no row unless it is "full". `detection` are the settings the hands
    were found with, part of the cache's key. Unreadable images are named on standard error.
    """
    # What was cut out is part of the key: another detector may find other hands in the same images
    boxes = None if crop == "full" else [[list(map(float, hand.box)) for hand in hands or []] for _, hands in records]
    settings = {**extractor.settings, "pillow": PIL.__version__, "crop": crop}
    if crop != "full":
        settings |= {"detection": detection, "enlarge": CROP_ENLARGE}
    cache = FolderCache(cache_dir, f"features-{crop}", [path for path, _ in records], settings, boxes)
    (blocks,) = cached_blocks([cache], lambda missing: compute_features(
        extractor, [records[place] for _, place in missing], crop, device, batch_size, progress))
    found = FeatureSet(
        np.concatenate([np.zeros((0, extractor.num_features), np.float32),
                        *(block.arrays["features"] for block in blocks if block.arrays is not None)]),
        np.repeat(np.arange(len(blocks)), [len(block.arrays["features"]) if block.arrays else 0 for block in blocks]),
        [block.message for block in blocks if block.arrays is None])
    for message in found.unreadable:
        warn(f"skipped: {message}")
    return found


def landmark_features(records):
    """FeatureSet of the canonical landmarks of every detected hand: 60 numbers, the wrist being the origin."""
    hands = [(index, hand) for index, (_, hands) in enumerate(records) for hand in hands or []]
    rows = [canonical_landmarks(hand)[1:].reshape(-1) for _, hand in hands]
    return FeatureSet(np.array(rows, dtype=np.float32).reshape(len(rows), 60),
                      np.array([index for index, _ in hands], dtype=np.int64), [])
