"""How well hands are found: by our landmarker, and by the two APIs of MediaPipe, each where it is installed.

python -m benchmarks.detectors --api solutions --output solutions.json   # in an environment with mediapipe 0.10.21
python -m benchmarks.detectors --api tasks --reference solutions.json    # with mediapipe 1.2.3
python -m benchmarks.detectors --reference solutions.json

Looks for hands in each of --num_images rendered images of every gesture, or in photographs in
<image_folder>/<gesture>/. Prints how many have a hand; of the first hand of each the share whose fingers are the
gesture's, and the share of fingers and of thumbs that are wrong; the distance of its landmarks from those of the
renderer, and from those of --reference, which is the --output of another run: mean over a hand in lengths of its palm,
median and 95 % of the hands; and whether both name the same side.
"""

import functools
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from utils.system import cli, errors, files, script

RESOLUTION = 128


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--api", choices=("hand1000", "solutions", "tasks"), default="hand1000", help="who looks")
    parser.add_argument("--image_folder", type=cli.path_name, help="folder of a folder per gesture (default: rendered)")
    parser.add_argument("--num_images", type=cli.positive_int, default=100, help="rendered images of every gesture")
    parser.add_argument("--max_num_hands", type=cli.int_between(1, 100), default=1, help="hands to look for")
    parser.add_argument("--min_confidence", type=cli.unit_interval, default=0.5, help="lowest one of the palm detector")
    parser.add_argument("--output", type=cli.path_name, help="JSON file to write: the hands of every image")
    parser.add_argument("--reference", type=cli.path_name, help="JSON file of another run, to compare with")
    cli.add_common_flags(parser, device=False)
    args = parser.parse_args(argv)
    if args.image_folder:
        cli.require_dir(parser, args.image_folder, "--image_folder", "give a folder of a folder per gesture")
    return args


def render_images(num_images, seed):
    """Yields (name, gesture, image, the renderer's landmarks) of rendered hands."""
    from utils.synthetic.hand import POSES
    from utils.synthetic.scene import render_scene

    for gesture in POSES:
        for index in range(num_images):
            scene = render_scene(np.random.default_rng([seed, *gesture.encode(), index]), gesture, RESOLUTION)
            yield f"{gesture}/{index}", gesture, scene.image, scene.landmarks


def open_images(folder):
    """Yields (name, gesture, image, None) of the photographs of every gesture whose fingers are known."""
    from utils.data.gestures import GESTURES
    from utils.data.images import list_images, open_image

    gestures = [name for name, gesture in GESTURES.items() if gesture.fingers and (folder / name).is_dir()]
    if not gestures:
        raise errors.UserError(f"{folder}: no folder in it has the name of a gesture with known fingers")
    for gesture in gestures:
        for path in list_images(folder / gesture):
            yield f"{gesture}/{path.name}", gesture, open_image(path), None


def load_detector(api, max_num_hands, min_confidence):
    """A function from an RGB image to a list of Hand."""
    from utils.hands.landmarker import Hand, HandLandmarker
    from utils.hands.model_files import find_models

    if api == "hand1000":
        return functools.partial(HandLandmarker(), max_num_hands=max_num_hands, min_confidence=min_confidence)
    try:
        import mediapipe
    except ImportError as error:
        raise errors.UserError(f"--api {api}: mediapipe cannot be imported ({error})") from error

    def to_array(points):
        return np.array([(point.x, point.y, point.z) for point in points], np.float32)

    if api == "solutions":
        solution = mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=max_num_hands,
                                                   min_detection_confidence=min_confidence)

        def detect(image):
            found = solution.process(np.array(image))
            return [Hand(side.classification[0].label, side.classification[0].score, to_array(points.landmark),
                         to_array(world.landmark), np.nan)
                    for side, points, world in zip(found.multi_handedness or (), found.multi_hand_landmarks or (),
                                                   found.multi_hand_world_landmarks or (), strict=True)]
        return detect

    from mediapipe.tasks.python import BaseOptions, vision
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "hands.task")
        with zipfile.ZipFile(task, "w") as archive:
            for name, path in zip(("hand_detector", "hand_landmarks_detector"), find_models(), strict=True):
                archive.write(path, f"{name}.tflite")
        landmarker = vision.HandLandmarker.create_from_options(
            vision.HandLandmarkerOptions(BaseOptions(str(task)), num_hands=max_num_hands,
                                         min_hand_detection_confidence=min_confidence))

    def detect(image):
        found = landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.array(image)))
        sides = {"Left": "Right", "Right": "Left"}  # it names them as if the picture were not mirrored
        return [Hand(sides[side[0].category_name], side[0].score, to_array(points), to_array(world), np.nan)
                for side, points, world in zip(found.handedness, found.hand_landmarks, found.hand_world_landmarks,
                                               strict=True)]
    return detect


def palm_distance(points, wanted, size):
    """Mean distance of (21, 2) landmarks from `wanted`, both relative to an image of `size`, in lengths of the palm."""
    points, wanted = np.asarray(points)[:, :2] * size, np.asarray(wanted)[:, :2] * size
    return np.linalg.norm(points - wanted, axis=1).mean() / np.linalg.norm(wanted[9] - wanted[0])


def format_distances(distances):
    return "-" if not distances else f"{np.median(distances):.4f}, {np.quantile(distances, 0.95):.4f}"


def main(args):
    from tqdm import tqdm

    from utils.data.gestures import GESTURES
    from utils.hands.finger_states import finger_states, matches_gesture

    detect = load_detector(args.api, args.max_num_hands, args.min_confidence)
    reference = files.read_object(args.reference) if args.reference else {}
    images = open_images(args.image_folder) if args.image_folder else render_images(args.num_images, args.seed)
    hands, matches, wrong, from_truth, from_reference, same_sides, seconds = {}, [], ([], []), [], [], [], 0.0
    for name, gesture, image, truth in tqdm(images, unit="image"):
        start = time.perf_counter()
        found = detect(image)
        seconds += time.perf_counter() - start
        hands[name] = [{"side": hand.handedness, "score": round(float(hand.score), 4),
                        "landmarks": hand.landmarks[:, :2].round(4).tolist()} for hand in found]
        if not found:
            continue
        hand, row = found[0], GESTURES[gesture]
        matches.append(matches_gesture(hand, row))
        for finger, state in enumerate(finger_states(hand.world_landmarks).values()):
            if row.fingers[finger] in ("out", "folded"):
                wrong[finger == 0].append(state != row.fingers[finger])
        if truth is not None:
            from_truth.append(palm_distance(hand.landmarks, truth, image.size))
        if reference.get(name):
            from_reference.append(palm_distance(hand.landmarks, reference[name][0]["landmarks"], image.size))
            same_sides.append(hand.handedness == reference[name][0]["side"])

    if args.output:
        with files.atomic_path(args.output) as temporary:
            temporary.write_bytes(files.to_json(hands))
    agreed = np.mean([bool(hands[name]) == bool(reference[name]) for name in hands if name in reference] or [np.nan])
    print(f"{args.api}: {len(matches)} of {len(hands)} images have a hand, {len(hands) / seconds:.0f} images/s\n"
          f"fingers match {np.mean(matches):.4f}, wrong fingers {np.mean(wrong[0]):.4f}, wrong thumbs "
          f"{np.mean(wrong[1]):.4f}\n"
          f"distance from the renderer's {format_distances(from_truth)}; from the reference "
          f"{format_distances(from_reference)}, same side {np.mean(same_sides or [np.nan]):.4f}, as one whether there "
          f"is a hand {agreed:.4f}")


if __name__ == "__main__":
    script.run_main(main, parse_args())
