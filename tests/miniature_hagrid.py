"""A miniature HaGRID download on disk: rendered hands, several persons, idle hands, and what real ones lack."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.rendered_hands import render_hand

SIZES = (1, 4, 2, 3, 1, 5, 2, 2, 1, 3)  # images of the first persons, then again from the start
FOLDERS = ("train", "val", "test")


@dataclass
class Miniature:
    """Where a miniature download is, and what is in it. `records` are those of images that may be chosen."""

    images: Path  # as --hagrid_dir
    annotations: Path  # as --annotations_dir
    records: dict[str, dict[str, dict]]  # gesture → image stem → what its JSON entry says

    def persons(self, gesture):
        return {stem: record["user_id"] for stem, record in self.records[gesture].items()}


def write_hagrid(folder, gestures=("call",), num_images=24, resolution=64, version=2):
    """Write a download as published into `folder`; returns a Miniature.

    Each gesture has `num_images` good images. In every third the person's other hand is beside the gesturing one,
    idle (`no_gesture`), on the left or on the right. Besides there are, per gesture, a damaged JPEG with annotations,
    annotations without an image, an image without annotations, an image whose only hand is idle, and a text file.
    Version 2 has <gesture>/, and train/, val/ and test/ with landmarks; version 1 has train_val_<gesture>/, and
    ann_train_val/ and ann_test/ without.
    """
    miniature = Miniature(Path(folder, "hagrid_dataset"), Path(folder, "hagrid_annotations"), {})
    for gesture in gestures:
        target = miniature.images / (gesture if version == 2 else f"train_val_{gesture}")
        target.mkdir(parents=True)
        good, entries = {}, {}
        for index, user in zip(range(num_images), _users(gesture), strict=False):
            stem = f"{gesture}-{index:04d}-4d0a"
            image, good[stem] = _photograph(gesture, index, resolution, user, version)
            image.save(target / f"{stem}.jpg", quality=90)
            entries[stem] = good[stem]

        image, record = _photograph(gesture, num_images, resolution, f"{gesture}-extra", version)
        data = (target / f"{stem}.jpg").read_bytes()
        (target / f"{gesture}-damaged.jpg").write_bytes(data[:len(data) // 2])
        image.save(target / f"{gesture}-unannotated.jpg")
        image.save(target / f"{gesture}-idle.jpg")
        (target / "readme.txt").write_text("not an image")
        labels = ["no_gesture"] * len(record["labels"])
        entries |= {f"{gesture}-damaged": record, f"{gesture}-missing": record,
                    f"{gesture}-idle": {**record, "labels": labels}}
        _write_entries(miniature.annotations, gesture, entries, version)
        miniature.records[gesture] = good
    return miniature


def _users(gesture):
    """The person of each image in turn."""
    person = 0
    while True:
        yield from [f"{gesture}-{person:03d}-f119c024"] * SIZES[person % len(SIZES)]
        person += 1


def _photograph(gesture, index, resolution, user, version):
    """(image, record): a rendered hand, with every third time an idle one beside it."""
    scenes, labels = [render_hand(gesture, index, resolution)], [gesture]
    if index % 3 == 2:
        idle = render_hand("stop" if gesture == "palm" else "palm", index, resolution)
        place = index // 3 % 2  # of the idle hand: left, right, …
        scenes.insert(place, idle)
        labels.insert(place, "no_gesture")
    image = Image.new("RGB", (resolution * len(scenes), resolution))
    bboxes, landmarks = [], []
    for i, scene in enumerate(scenes):
        image.paste(scene.image, (resolution * i, 0))
        x, y, width, height = scene.box
        bboxes.append([(i + x) / len(scenes), y, width / len(scenes), height])
        landmarks.append(((scene.landmarks + (i, 0)) / (len(scenes), 1)).tolist())
    record = {"bboxes": np.round(bboxes, 8).tolist(), "labels": labels, "user_id": user}
    if version == 1:
        return image, {**record, "leading_hand": "right", "leading_conf": 1.0}
    if index % 5 == 1:
        landmarks[0] = []  # HaGRID's landmarks are MediaPipe's, which misses some hands
    return image, {**record, "united_bbox": None, "united_label": None, "hand_landmarks": landmarks,
                   "meta": {"age": [24.4], "gender": ["female"], "race": ["White"]}}


def _write_entries(folder, gesture, entries, version):
    """Write the JSON files of a gesture. A person is in one of them alone, as published."""
    names = FOLDERS if version == 2 else ("ann_train_val", "ann_test")
    users = sorted({record["user_id"] for record in entries.values()})
    for i, name in enumerate(names):
        part = {stem: record for stem, record in entries.items() if users.index(record["user_id"]) % len(names) == i}
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{gesture}.json").write_text(json.dumps(part), encoding="utf-8")
