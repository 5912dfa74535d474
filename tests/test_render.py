"""The hand renderer: reproducible, true to its captions and annotations, and real enough for MediaPipe."""

import filecmp
import json
import shutil

import numpy as np
import pytest

from utils.data.gestures import GESTURES
from utils.data.images import read_aligned
from utils.synthetic import render as render_script
from utils.synthetic.hand import MALFORMATIONS, POSES, pose_hand
from utils.synthetic.raymarch import HandShape, View, smooth_minimum, trace
from utils.synthetic.scene import render_scene
from utils.system.errors import UserError
from utils.system.file_lock import lock_outputs


def render(run_script, folder, *flags):
    return run_script(["-m", "utils.synthetic.render", "--gesture", "call", "--num_train", "9", "--num_test", "3",
                       "--resolution", "48", "--data_dir", folder, *flags])


def list_files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, run_script):
    folder = tmp_path_factory.mktemp("data")
    result = render(run_script, folder, "--malformed", "0.5", "--num_workers", "2")
    assert result.returncode == 0, result.stderr
    return folder


def test_same_seed_gives_the_same_bytes_with_any_number_of_processes(rendered, tmp_path, run_script):
    assert render(run_script, tmp_path, "--malformed", "0.5", "--num_workers", "1").returncode == 0
    files = list_files(rendered)
    assert len(files) == 9 + 3 + 2 * 4
    assert filecmp.cmpfiles(rendered, tmp_path, files, shallow=False) == (files, [], [])


def test_another_seed_and_another_split_give_other_hands(rendered, tmp_path, run_script):
    assert render(run_script, tmp_path, "--seed", "1").returncode == 0
    image = "call/train/images/call_train_00000.jpg"
    assert not filecmp.cmp(rendered / image, tmp_path / image, shallow=False)
    captions = [(rendered / "call" / split / "synthetic_captions.txt").read_text() for split in ("train", "test")]
    assert not captions[0].startswith(captions[1])


def test_captions_say_what_the_annotations_say(rendered):
    folder = rendered / "call" / "train"
    names, captions = read_aligned(folder / "synthetic_filenames.txt", folder / "synthetic_captions.txt")
    annotations = json.loads((folder / "annotations.json").read_text())
    for name, caption in zip(names, captions, strict=True):
        truth = annotations[name.removesuffix(".jpg")]
        assert f"a {truth['skin']} {truth['handedness']} hand" in caption
        assert f"a {truth['background']} background" in caption
        assert (truth["sleeve"] is None) == ("sleeve" not in caption)
    assert {truth["malformation"] for truth in annotations.values()} > {None}


def test_a_split_made_with_other_settings_is_not_replaced(rendered, run_script):
    before = {path: path.read_bytes() for path in rendered.rglob("*.*")}
    again = render(run_script, rendered, "--malformed", "0.5")
    assert again.returncode == 0 and "already rendered" in again.stdout
    other = render(run_script, rendered, "--malformed", "0.1")
    assert other.returncode == 1 and "--overwrite" in other.stderr and other.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in rendered.rglob("*.*")} == before


def test_a_test_split_made_otherwise_is_refused_before_anything_is_rendered(rendered, tmp_path):
    shutil.copytree(rendered / "call" / "test", tmp_path / "call" / "test")
    with pytest.raises(UserError, match="call/test was made with other settings .*count: 3 there, 200 now"):
        render_script.main(render_script.parse_args(["--gesture", "call", "--seed", "1", "--data_dir", str(tmp_path)]))
    assert not (tmp_path / "call" / "train").exists()


def test_a_second_run_on_the_same_gesture_is_refused_and_changes_nothing(rendered):
    before = {path: path.read_bytes() for path in rendered.rglob("*.*")}
    args = ["--gesture", "call", "--num_train", "1", "--num_test", "1", "--overwrite", "--data_dir", str(rendered)]
    with lock_outputs(rendered / "call"), pytest.raises(UserError, match="call: another run is writing to it"):
        render_script.main(render_script.parse_args(args))
    assert {path: path.read_bytes() for path in rendered.rglob("*.*")} == before


def test_every_gesture_of_hagrid_v1_has_a_pose():
    assert set(POSES) == {name for name, gesture in GESTURES.items() if gesture.fingers}


def test_landmarks_lie_on_the_hand_and_in_its_box():
    for index, gesture in enumerate(POSES):
        scene = render_scene(np.random.default_rng([3, index]), gesture, 32)
        x, y, width, height = scene.box
        assert ((scene.landmarks >= (x, y)) & (scene.landmarks <= (x + width, y + height))).all(), gesture
        rows, columns = (scene.landmarks[:, ::-1] * 32).astype(int).clip(0, 31).T
        pixels = np.asarray(scene.image, dtype=int)
        on_hand = np.abs(pixels[rows, columns] - np.median(pixels[0], axis=0)).max(1) > 15
        assert on_hand.mean() > 0.8, gesture


def test_left_hands_are_right_hands_mirrored():
    model = pose_hand(np.random.default_rng(0), POSES["call"])
    turn = np.eye(3)
    right, left = (trace(HandShape(model, View(turn, 0.6, (0, 0), side)), 64) for side in (False, True))
    assert np.isfinite(right).mean() > 0.1
    assert (np.isfinite(right) == np.isfinite(left[:, ::-1])).mean() > 0.999


def test_traced_points_lie_on_the_surface():
    shape = HandShape(pose_hand(np.random.default_rng(1), POSES["palm"]), View(np.eye(3), 0.6, (0, 0)))
    depth = trace(shape, 64)
    rows, columns = np.nonzero(np.isfinite(depth))
    grid = ((np.arange(64) + 0.5) * 2 / 64 - 1).astype(np.float32)
    points = np.stack([grid[columns], grid[rows], depth[rows, columns]], axis=1)
    assert np.abs(shape.distance(points)).max() < 0.01
    above = points + np.float32([0, 0, 0.05])
    assert (shape.distance(above) > 0).all()


def test_smooth_minimum_is_the_minimum_away_from_the_crease():
    a, b = np.float32([0.0, 1.0, 0.5]), np.float32([1.0, 0.0, 0.5])
    np.testing.assert_allclose(smooth_minimum(a, b, 0.5), [0.0, 0.0, 0.5 - 0.125], atol=1e-6)


@pytest.mark.parametrize("malformation", MALFORMATIONS)
def test_malformed_hands_have_what_they_say(malformation):
    rng = np.random.default_rng(5)
    sound, wrong = (pose_hand(np.random.default_rng(5), POSES["palm"], malformation=m) for m in (None, malformation))
    change = {"missing": -1, "extra": 1, "fused": 0, "bent": 0}[malformation]
    assert len(wrong.digits) == len(sound.digits) + change
    assert bool(wrong.fused) == (malformation == "fused")
    if malformation == "bent":
        moved = [not np.allclose(a.joints[1:], b.joints[1:]) for a, b in zip(sound.digits, wrong.digits, strict=True)]
        assert sum(moved) == 1
    assert render_scene(rng, "palm", 32, malformation).malformation == malformation
