"""Folders of images and their features, read once and compared: what cal_fid.py and cal_kid.py share.

From Python, with the defaults of the scripts:

    from utils.metrics.evaluation import fid, kid
    print(fid("data/call/test/images", "outputs/call/images"))
    print(kid("data/call/test/images", "outputs/call/images", region="hands", features="synthetic"))
"""

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.images import list_images
from utils.hands import detector, landmarker
from utils.metrics.comparison_flags import FEATURES, FLOOR_SPLITS, RESAMPLES, ReadingSettings
from utils.metrics.distance_metrics import FrechetDistance, KernelDistance
from utils.metrics.distances import LEAST_FOR_INTERVAL
from utils.metrics.features import FeatureSet, extract_features, landmark_features
from utils.metrics.inception import load_inception
from utils.metrics.intervals import split_halves
from utils.synthetic.feature_network import load_feature_network
from utils.system import errors, processes
from utils.system.device import resolve_device

DETECTION = {"max_num_hands": 2, "min_confidence": 0.5}  # of hands, in both protocols


# From Python


class Distance(NamedTuple):
    """A distance, how many rows of features (images, or hands) it rests on, and its 95 % interval if it has one."""

    value: float
    num_real: int
    num_fake: int
    low: float | None = None
    high: float | None = None


def fid(real_images, fake_images, region="full", **settings):
    """The FID of two folders of images as a Distance, FID-H with region="hands"; `settings` are ReadingSettings.

    The same number as cal_fid.py prints. UserError for folders without images, or without hands.
    """
    real, fake = read_pair(real_images, fake_images, region, settings)
    distance = FrechetDistance()
    add_samples(distance, real, fake, region)
    return Distance(distance.compute().item(), real.num_rows[region], fake.num_rows[region])


def kid(real_images, fake_images, region="full", **settings):
    """The KID of two folders of images as a Distance with its interval, else as fid."""
    real, fake = read_pair(real_images, fake_images, region, settings)
    has_interval = min(real.num_images[region], fake.num_images[region]) >= LEAST_FOR_INTERVAL
    distance = KernelDistance(num_resamples=RESAMPLES if has_interval else 0, seed=settings.get("seed", 0))
    add_samples(distance, real, fake, region)
    found = distance.compute()
    return Distance(found.distance, real.num_rows[region], fake.num_rows[region], found.low, found.high)


def read_pair(real_images, fake_images, region, settings):
    settings = ReadingSettings(**settings)
    if region not in ("full", "hands") or region == "full" and settings.features == "landmarks":
        raise ValueError(f"region {region!r} with {settings.features} features: give full or hands; landmarks have no "
                         "whole images")
    if settings.protocol != "clean":
        raise ValueError("the hand1000 protocol is measured by cal_fid.py and cal_kid.py alone")
    if region == "hands":
        landmarker.require_detector()
    folders = [open_folder(Path(path), path, settings) for path in (real_images, fake_images)]
    device, extractor = resolve_device(settings.device), load_extractor(settings)
    if region == "hands":
        read_folders(folders, ("hands",), "hand", extractor, device, settings)
    else:  # the scripts look for hands here, too, to say how many images have one
        for folder in folders:
            measure_folder(folder, "full", None, extractor, device, settings)
    return folders


# Folders


@dataclass
class Folder:
    """One folder of images, of which every process has the features of its share.

    records: (path, hands) of all images that can be read. features: region -> FeatureSet of this process, whose
    image_index counts all records. num_images, num_rows: region -> images with a row, and rows, of all processes.
    """

    path: Path
    name: str
    records: list
    num_skipped: int = 0
    num_with_hand: int = 0
    features: dict = field(default_factory=dict)
    num_images: dict = field(default_factory=dict)
    num_rows: dict = field(default_factory=dict)

    @property
    def detection_rate(self):
        return self.num_with_hand / len(self.records)


def open_folder(path, name, settings):
    """A Folder of all its images, or of `settings.num_images` of them drawn at random."""
    paths = list_images(path)
    if settings.num_images and settings.num_images < len(paths):
        paths = sorted(random.Random(settings.seed).sample(paths, settings.num_images))
    return Folder(path, errors.one_line(name), [(path, []) for path in paths])


def open_folders(args):
    """Folders of the real images and of each of --fake_images. UserError where hands cannot be looked for."""
    landmarker.require_detector()
    real = open_folder(args.real_images, "real", args)
    fakes = [open_folder(path, name, args)
             for path, name in zip(args.fake_images, args.names or args.fake_images, strict=True)]
    for fake in fakes:
        if fake.path.resolve() == real.path.resolve():
            errors.warn(f"--fake_images {fake.path} is the folder of --real_images")
    return [real, *fakes]


def load_extractor(settings):
    """The network of `settings.features`, None for landmarks, which need none."""
    if settings.features not in FEATURES:
        raise ValueError(f"features {settings.features!r}: give one of {', '.join(FEATURES)}")
    if settings.features == "landmarks":
        return None
    if settings.features == "synthetic":
        return load_feature_network()
    published = settings.protocol == "hand1000"
    weights = settings.inception_weights or ("imagenet" if published else "fid")
    network = load_inception(weights, "published" if published else "clean", settings.seed,
                             "imagenet" if published else "fid")
    if published and network.variant != "imagenet":
        raise errors.UserError(f"--inception_weights {weights}: the FID weights; --protocol hand1000 is defined on "
                               "the ImageNet ones, give inception_v3_google-0cc3c7bd.pth or use --protocol clean")
    return network


def read_folders(folders, regions, hand_crop, extractor, device, settings):
    """Finds the hands of Folders, and fills in their features; several processes share the images.

    hand_crop: how hands are cut out, see features.CROPS. settings: ReadingSettings, or arguments of these names.
    """
    # Hands of all folders in one pass, for whole images too, whose distance says nothing of hands that are missing
    workers = processes.own_workers(settings.num_workers)
    found = iter(processes.share_out(
        [path for folder in folders for path, _ in folder.records],
        lambda part: detector.detect_folder(part, workers, **DETECTION, cache_dir=settings.cache_dir)))
    for folder in folders:
        records = list(itertools.islice(found, len(folder.records)))
        folder.records = [(path, hands) for path, hands in records if hands is not None]
        folder.num_skipped = len(records) - len(folder.records)
        folder.num_with_hand = sum(bool(hands) for _, hands in folder.records)

    for folder in folders:
        for region in check_hands(folder, regions):
            measure_folder(folder, region, hand_crop, extractor, device, settings)


def check_hands(folder, regions):
    """The regions that can be measured. UserError if none can, for lack of images with a hand."""
    if folder.num_with_hand >= 2 or "hands" not in regions:
        return regions
    reason = f"{folder.path}: at least two images with a hand are needed, it has {folder.num_with_hand}"
    if regions == ("hands",):
        raise errors.UserError(f"{reason}; see the warnings, or give another folder")
    errors.warn(f"{reason}; no hand number")
    return tuple(region for region in regions if region != "hands")


def measure_folder(folder, region, hand_crop, extractor, device, settings):
    """The features of a region into the Folder. UserError if fewer than two of its images are left."""
    share = slice(processes.rank(), None, processes.count())
    if extractor is None:
        found = landmark_features(folder.records[share])
    else:
        found = extract_features(
            extractor, folder.records[share], "full" if region == "full" else hand_crop, device, settings.batch_size,
            settings.cache_dir, {**DETECTION, "detector": landmarker.describe_detector()}, f"{folder.name}, {region}")
    found.image_index = np.arange(len(folder.records))[share][found.image_index]
    folder.features[region] = found
    counts = zip(*processes.gather((len(found.images), len(found.features), len(found.unreadable))), strict=True)
    folder.num_images[region], folder.num_rows[region], num_unreadable = map(sum, counts)
    folder.num_skipped += num_unreadable
    if folder.num_images[region] < 2:
        raise errors.UserError(f"{folder.path}: at least two images that can be read are needed, it has "
                               f"{folder.num_images[region]}; see the warnings, or give another folder")


def common_regions(real, fake):
    """The regions of which both Folders have features."""
    return [region for region in real.features if region in fake.features]


def add_samples(distance, real, fake, region):
    """Updates a FeatureDistance with the features that this process has of a region of two Folders."""
    for folder, is_real in ((real, True), (fake, False)):
        found = folder.features[region]
        distance.update(found.features, is_real, found.image_index)


# Floor


def measure_floor(distance, seed, function):
    """Two halves of the real images, and one of them against as many fake ones, by the suffix of a row's key.

    distance: a FeatureDistance, whose samples are taken. function(x, y): the distance of two arrays of features. Of an
    image one hand enters, so that all parts have the same number of rows and the same bias. Mean and standard deviation
    are those of FLOOR_SPLITS random halves, which overlap. Empty if there are too few images.
    """
    real, fake = (FeatureSet(features.numpy(), images.numpy(), []) for features, images in distance.gathered())
    size = min(len(real.images) // 2, len(fake.images))
    if size < 2:
        return {}
    rng = np.random.default_rng(seed)
    values = []
    for split in range(FLOOR_SPLITS):
        first, second = (real.one_each(real.images[half], rng).features
                         for half in split_halves(len(real.images), (seed, split), size))
        chosen = fake.one_each(rng.permutation(fake.images)[:size], rng).features
        values.append((function(first, second), function(first, chosen)))
    (floor, same), (floor_std, same_std) = np.mean(values, axis=0).tolist(), np.std(values, axis=0).tolist()
    return {"floor": floor, "floor_std": floor_std, "same_n": same, "same_n_std": same_std, "floor_n": size,
            "floor_splits": FLOOR_SPLITS}
