"""Feature vectors of the images of a folder, or of the hands in them: streamed, batched, cached.

An extractor is a torch module that turns a batch into (N, d) features and knows how one image is prepared for it
(`prepare`), what it is called (`name`) and what its features depend on (`settings`); see utils/inception.py and
utils/synthetic/feature_network.py.
"""

import contextlib
import functools
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from utils.cli import UserError, warn
from utils.device import full_precision
from utils.folder_cache import cached_arrays, digest
from utils.gesture_encoder import canonical_landmarks
from utils.images import open_image
from utils.prefetch import map_ahead

CROPS = ("full", "hand", "union")  # the image; each of its hands; one box around its hands


@dataclass
class FeatureSet:
    """features: (n, d) float32. image_index: (n,) the place in the folder's list of the image each row is of.

    unreadable: one message per image that could not be read.
    """

    features: np.ndarray
    image_index: np.ndarray
    unreadable: list[str]

    def of_images(self, chosen):
        """The rows (m, d) of the images with these indices."""
        return self.features[np.isin(self.image_index, chosen)]


def cut_image(image, crop, hands):
    """The pictures of one image that are measured: itself, one per hand, or the box around its hands."""
    from utils.hands import crop_hand, crop_union

    if crop == "full":
        return [image]
    if crop == "union":
        return [crop_union(image, hands)]
    return [crop_hand(image, hand) for hand in hands]


def prepare_pictures(record, crop, prepare):
    """The prepared pictures (3, H, W) of one (path, hands), or the message that says why there are none."""
    path, hands = record
    try:
        return [prepare(picture) for picture in cut_image(open_image(path), crop, hands)]
    except UserError as error:
        return str(error)


def compute_features(extractor, records, crop, device, batch_size, progress):
    """Arrays of a FeatureSet for (path, hands) records. Memory holds two batches of pictures, whatever the folder."""
    rows, image_index, unreadable = [], [], []
    waiting = []

    def flush():
        if waiting:
            rows.append(extractor(torch.from_numpy(np.stack(waiting)).to(device)).float().cpu().numpy())
            waiting.clear()

    wanted = [(index, record) for index, record in enumerate(records) if crop == "full" or record[1]]  # with pictures
    prepare = functools.partial(prepare_pictures, crop=crop, prepare=extractor.prepare)
    prepared = map_ahead(prepare, [record for _, record in wanted], ahead=batch_size)
    extractor.to(device)
    with torch.inference_mode(), full_precision(torch.device(device)), contextlib.closing(prepared):
        for (index, _), pictures in zip(wanted, tqdm(prepared, progress, len(wanted), unit="image"), strict=True):
            if isinstance(pictures, str):
                unreadable.append(pictures)
                continue
            for picture in pictures:
                waiting.append(picture)
                image_index.append(index)
                if len(waiting) == batch_size:
                    flush()
        flush()
    features = np.concatenate(rows) if rows else np.zeros((0, extractor.num_features), np.float32)
    return {"features": features, "image_index": np.array(image_index, dtype=np.int64),
            "unreadable": np.array(unreadable, dtype=np.str_)}


def extract_features(extractor, records, crop, device, batch_size=32, cache_dir=None, detection=None,
                     progress="features"):
    """FeatureSet of (path, hands) records, one per image of a folder.

    crop: one of CROPS; images without a hand have no row unless it is "full". `detection` are the settings the hands
    were found with, part of the cache's key. Unreadable images are named on standard error.
    """
    # What was cut out is part of the key: another detector may find other hands in the same images
    boxes = None if crop == "full" else digest([[list(map(float, hand.box)) for hand in hands or []]
                                                for _, hands in records])
    settings = {**extractor.settings, "crop": crop, "boxes": boxes, "detection": None if crop == "full" else detection}
    arrays = cached_arrays(
        cache_dir, f"features-{crop}", [path for path, _ in records], settings,
        lambda: compute_features(extractor, records, crop, device, batch_size, progress),
    )
    found = FeatureSet(arrays["features"], arrays["image_index"], arrays["unreadable"].tolist())
    for message in found.unreadable:
        warn(f"skipped: {message}")
    return found


def join_shares(shares):
    """One FeatureSet of a whole folder from those of its images 0, n, 2n, …; 1, n + 1, …; for n processes."""
    if len(shares) == 1:
        return shares[0]
    image_index = np.concatenate([len(shares) * share.image_index + i for i, share in enumerate(shares)])
    order = np.argsort(image_index, kind="stable")
    return FeatureSet(np.concatenate([share.features for share in shares])[order], image_index[order],
                      [message for share in shares for message in share.unreadable])


def landmark_features(records):
    """FeatureSet of the canonical landmarks of every detected hand: 60 numbers, the wrist being the origin."""
    hands = [(index, hand) for index, (_, hands) in enumerate(records) for hand in hands or []]
    rows = [canonical_landmarks(hand)[1:].reshape(-1) for _, hand in hands]
    return FeatureSet(np.array(rows, dtype=np.float32).reshape(len(rows), 60),
                      np.array([index for index, _ in hands], dtype=np.int64), [])
