"""Sets of rendered hands of which a known share is malformed, and every metric of one: for anatomy_check.py."""

import numpy as np

from utils.data.gestures import get_gesture
from utils.data.images import save_image
from utils.hands.detector import best_hand, detect_folder
from utils.hands.finger_states import matches_gesture
from utils.metrics.distances import frechet_distance, kernel_distance
from utils.metrics.features import FeatureSet, extract_features, landmark_features
from utils.synthetic.render import render_scenes
from utils.system import files


def render_pool(args, gesture, malformed):
    """Folder with the sound or the malformed hands of a gesture, rendered once: paths in order."""
    count = args.num_images * args.num_sets * (1 if malformed else 2)  # sound ones are the reference as well
    folder = args.output_dir / "images" / f"{gesture}_{'malformed' if malformed else 'sound'}"
    settings = {"gesture": gesture, "count": count, "resolution": args.resolution, "malformed": malformed,
                "seed": args.seed}
    paths = [folder / f"{index:05d}.png" for index in range(count)]
    if (folder / "render.json").is_file() and files.read_json(folder / "render.json") == settings:
        return paths
    scenes = render_scenes(gesture, count, args.resolution, args.seed, (int(malformed), *gesture.encode()),
                           float(malformed), args.num_workers, f"rendering {folder.name}")
    for path, scene in zip(paths, scenes, strict=True):
        save_image(scene.image, path)
    files.write_json(folder / "render.json", settings)
    return paths


def compose_set(sound, malformed, share):
    """One set of len(sound) items, the first of `sound` and of `malformed`, in the proportion of `share`."""
    number = round(share * len(sound))
    return sound[: len(sound) - number] + malformed[:number]


class Pool:
    """What is measured of every image once: its hands, and its features as a whole and per hand."""

    def __init__(self, paths, extractor, args, device):
        self.records = detect_folder(paths, args.num_workers, max_num_hands=2)
        self.features = {
            crop: extract_features(extractor, self.records, crop, device, args.batch_size, progress=f"features, {crop}")
            for crop in ("full", "hand")
        }
        self.features["landmarks"] = landmark_features(self.records)


def measure_set(reference, items, gesture):
    """{metric: value} of a list of (pool, index) against a list of (pool, index)."""
    def rows(chosen, kind):
        pools = list(dict.fromkeys(pool for pool, _ in chosen))
        parts = [pool.features[kind].of_images([i for p, i in chosen if p is pool]) for pool in pools]
        images = [len(pools) * part.image_index + number for number, part in enumerate(parts)]  # of each pool its own
        return FeatureSet(np.concatenate([part.features for part in parts]), np.concatenate(images), [])

    values = {}
    for kind, name in (("full", "{} (synthetic)"), ("hand", "{}-H (synthetic)"), ("landmarks", "{}-H (landmarks)")):
        real, fake = rows(reference, kind), rows(items, kind)
        values[name.format("FID")] = frechet_distance(real.features, fake.features)
        values[name.format("KID")] = kernel_distance(real.features, fake.features,
                                                     groups=(real.image_index, fake.image_index))

    hands = [pool.records[index][1] for pool, index in items]
    scores = [[hand.score for hand in found] for found in hands]
    row = get_gesture(gesture)
    values["HAND-CONF"] = float(np.mean(sum(scores, [])))
    values["HAND-CONF, no hand = 0"] = float(np.mean([max(found, default=0.0) for found in scores]))
    presence = [[hand.presence for hand in found] for found in hands]
    values["presence"] = float(np.mean(sum(presence, [])))
    values["presence, no hand = 0"] = float(np.mean([max(found, default=0.0) for found in presence]))
    values["detection rate"] = float(np.mean([bool(found) for found in hands]))
    values["gesture match rate"] = float(np.mean([matches_gesture(best_hand(found), row)
                                                  for found in hands if found]))
    return values
