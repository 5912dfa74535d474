"""The feature network: the weights in the repository tell hands apart, and its command makes such weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.rendered_hands import render_hand
from utils.synthetic import feature_examples, feature_hands
from utils.synthetic.feature_model import train_network
from utils.synthetic.feature_network import SHIPPED, load_feature_network
from utils.synthetic.hand import FINGERS, MALFORMATIONS
from utils.synthetic.scene import render_scene
from utils.system.errors import UserError

WEIGHTS = SHIPPED / "model.safetensors"
COMMAND = ["-m", "utils.synthetic.feature_network"]


@pytest.fixture(scope="module")
def network():
    return load_feature_network()


def features_of(network, images):
    with torch.no_grad():
        return network(torch.from_numpy(np.stack([network.prepare(image) for image in images]))).numpy()


def render_many(gesture, first, count, malformed=False):
    """Scenes `first` … of a gesture, with malformations by turns if `malformed`."""
    kinds = [MALFORMATIONS[i % 4] if malformed else None for i in range(count)]
    rngs = [np.random.default_rng([42, first + i]) for i in range(count)]
    return [render_scene(rng, gesture, 128, kind) for rng, kind in zip(rngs, kinds, strict=True)]


def distance(x, y):
    """Distance of two means of features (n, d)."""
    return np.linalg.norm(x.mean(0) - y.mean(0))


# The shipped network


def test_shipped_weights_are_fp16_and_at_most_5_megabytes():
    tensors = load_file(WEIGHTS)
    floats = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in floats)
    assert WEIGHTS.stat().st_size <= 5_000_000


def test_shipped_network_is_an_extractor_that_says_what_it_is(network):
    assert network.name == "synthetic" and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert json.loads(json.dumps(network.settings)) == network.settings and len(network.settings["weights"]) == 64
    features = network(torch.zeros(2, 3, 128, 128))
    assert features.shape == (2, network.num_features) and features.dtype == torch.float32


def test_features_of_an_image_depend_on_nothing_but_the_image(network):
    images = [render_hand(gesture, 0).image for gesture in ("call", "peace", "palm")]
    together = features_of(network, images)
    np.testing.assert_array_equal(together, features_of(load_feature_network(), images))
    alone = np.concatenate([features_of(network, [image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_features_tell_gestures_and_malformed_hands_apart(network):
    sets = {"call": render_many("call", 0, 24), "other": render_many("call", 24, 24),
            "peace": render_many("peace", 0, 24), "malformed": render_many("call", 24, 24, malformed=True)}
    features = {name: features_of(network, [scene.image for scene in scenes]) for name, scenes in sets.items()}
    same = distance(features["call"], features["other"])
    assert distance(features["call"], features["peace"]) > 2 * same
    anatomy = {name: rows[:, -32:] for name, rows in features.items()}
    assert distance(anatomy["call"], anatomy["malformed"]) > 2 * distance(anatomy["call"], anatomy["other"])


def test_training_record_names_settings_losses_and_held_out_figures():
    training = json.loads((SHIPPED / "training.json").read_text())
    assert training["settings"]["seed"] == 0
    assert training["losses"][-1]["loss"] < 0.7 * training["losses"][0]["loss"]
    assert {"whole", "crops"} == set(training["held_out"])
    assert all(row["sound_seen"] > 0.5 and row["malformed_seen"] > 0.5 for row in training["held_out"].values())


# Preparing pictures


@pytest.mark.parametrize("size", [(128, 128), (1, 1), (2000, 3), (64, 65), (300, 500)])
def test_any_size_is_brought_to_the_square(size):
    pixels = feature_examples.prepare(Image.new("RGB", size, (255, 0, 51)))
    assert pixels.shape == (3, 128, 128) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.mean((1, 2)), [1, -1, -0.6], atol=1e-5)


@pytest.mark.parametrize(("mode", "color"), [("L", 51), ("RGBA", (51, 51, 51, 255)), ("CMYK", (0, 0, 0, 204))])
def test_pictures_of_other_modes_are_prepared_as_rgb(mode, color):
    pixels = feature_examples.prepare(Image.new(mode, (40, 30), color))
    np.testing.assert_allclose(pixels, np.full((3, 128, 128), -0.6), atol=1e-2)


def test_prepared_pixels_are_those_of_a_picture_of_the_right_size():
    image = render_hand("palm", 0).image
    pixels = feature_examples.prepare(image).transpose(1, 2, 0)
    np.testing.assert_allclose(pixels, np.asarray(image) / 127.5 - 1, atol=1e-6)


def test_shrinking_averages_away_what_is_too_fine_to_show():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = feature_examples.prepare(Image.fromarray(np.stack([checks] * 3, axis=2)))
    assert np.abs(pixels).max() < 0.05


# Labels and examples


@pytest.mark.parametrize("kind", MALFORMATIONS)
def test_the_malformed_finger_is_named(kind):
    seen = set()
    for seed in range(12):
        model = render_scene(np.random.default_rng(seed), "palm", 16, kind).model
        name = feature_hands.name_malformation(model)
        seen.add(name)
        digits = {digit.name: digit.joints for digit in model.digits}
        intended = model.landmarks[1:].reshape(5, 4, 3)
        finger = FINGERS.index(name.split()[1])
        if kind == "missing":
            assert FINGERS[finger] not in digits
        elif kind == "extra":  # the knuckle that it is nearest to, or right between
            gaps = np.abs(intended[1:, 0, 0] - digits["extra"][0, 0])
            assert gaps[finger - 1] < gaps.min() + 0.02
        else:
            changed = [f for f in digits if not np.array_equal(digits[f], intended[FINGERS.index(f)])]
            assert changed == [FINGERS[finger + (kind == "fused")]]
    assert len(seen) > 1 and seen <= set(feature_hands.LABELS["malformation"])


def test_the_map_shows_fingertips_where_they_are():
    scene = render_scene(np.random.default_rng(3), "palm", 64)
    parts = feature_hands.map_digits(scene)
    for at, finger in enumerate(FINGERS):
        rows, columns = np.nonzero(parts == feature_hands.PARTS.index(f"{finger} tip"))
        centre = np.array([columns.mean(), rows.mean()]) / feature_hands.MAP
        last = scene.landmarks[4 * at + 3 : 4 * at + 5].mean(0)  # of the last bone
        assert np.abs(centre - last).max() < 0.04


def test_examples_keep_joints_map_and_picture_together():
    """A picture that is white at one fingertip only: joint and map of every example point at the white spot."""
    tip, part = 8, feature_hands.PARTS.index("index tip")
    landmarks = np.full((21, 2), 0.3, np.float32)
    landmarks[tip], landmarks[0] = (0.4, 0.25), (0.6, 0.75)
    image, parts = np.zeros((128, 128, 3), np.uint8), np.zeros((64, 64), np.uint8)
    image[28:36, 47:55], parts[14:18, 24:28] = 255, part
    arrays = {"images": image[None], "landmarks": landmarks[None], "maps": parts[None],
              "labels": np.zeros((1, len(feature_hands.LABELS)), np.int64)}
    rng = np.random.default_rng(0)
    side_at = list(feature_hands.LABELS).index("handedness")
    sides = set()
    for _ in range(30):
        pixels, joints, labels, cells, _ = feature_examples.draw_example(arrays, 0, rng)
        weights = np.clip(pixels.mean(0) + 0.5, 0, None)
        rows, columns = np.indices((128, 128)) + 0.5
        spot = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum() / 128
        assert np.abs(spot - joints[tip]).max() < 0.02
        rows, columns = np.nonzero(cells == part)
        assert np.abs(np.array([columns.mean(), rows.mean()]) / 32 + 0.5 / 32 - spot).max() < 0.04
        assert (joints[tip, 0] > joints[0, 0]) == labels[side_at]  # mirrored: the other side
        sides.add(int(labels[side_at]))
    assert sides == {0, 1}


# Failing


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match="nothing.safetensors: No such file.*utils.synthetic.feature_network"):
        load_feature_network(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other"])
def test_damaged_weights_are_refused(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    if damage == "other":
        save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes({"cut": WEIGHTS.read_bytes()[:100_000], "text": b"not weights", "empty": b""}[damage])
    with pytest.raises(UserError, match="model.safetensors: not the weights of this network"):
        load_feature_network(path)


@pytest.mark.parametrize("flags", [["--malformed", "1.5"], ["--steps", "0"], ["--batch_size", "1"],
                                   ["--hands_per_gesture", "1"], ["--output_dir", ""], ["--device", "abacus"]])
def test_bad_flags_are_refused_in_one_line(run_script, tmp_path, flags):
    result = run_script([*COMMAND, "--output_dir", tmp_path / "network", *flags])
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and flags[0] in result.stderr
    assert not list(tmp_path.iterdir())


def test_damaged_rendered_hands_are_named(tmp_path):
    path = tmp_path / "call-2-0.5-0.npz"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="call-2-0.5-0.npz: damaged .*; delete it"):
        feature_hands.read_hands(path)


def test_rendered_hands_of_other_arrays_are_named(tmp_path):
    path = tmp_path / "call-2-0.5-0.npz"
    hands = feature_hands.render_hands(("palm", 128, 0.5, 0, (1,), 0, 2))
    for arrays in ({**hands, "maps": hands["maps"][:1]}, {"images": hands["images"]}):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match="call-2-0.5-0.npz: damaged .*one row of images, labels.*; delete it"):
            feature_hands.read_hands(path)


def test_training_that_diverges_says_so():
    arrays = feature_hands.render_hands(("palm", 128, 0.5, 0, (1,), 0, 2))
    with pytest.raises(UserError, match="update 1: the loss is nan; use a lower --learning_rate"):
        arrays["landmarks"][:, 0] = np.nan
        train_network(arrays, 3, 2, 1e-3, 0, torch.device("cpu"), "no")


# Training


def test_the_command_trains_a_network_and_keeps_the_rendered_hands(run_script, tmp_path):
    args = [*COMMAND, "--output_dir", tmp_path / "network", "--work_dir", tmp_path / "work", "--hands_per_gesture", "2",
            "--steps", "2", "--batch_size", "2", "--num_threads", "1", "--device", "cpu"]
    result = run_script(args)
    assert result.returncode == 0, result.stderr
    assert "training on 36 hands, 20 are held out" in result.stdout
    rendered = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    first = load_file(tmp_path / "network" / "model.safetensors")
    training = json.loads((tmp_path / "network" / "training.json").read_text())
    assert training["settings"]["steps"] == 2 and training["losses"][-1]["step"] == 2
    load_feature_network(tmp_path / "network" / "model.safetensors")

    result = run_script(args)
    assert result.returncode == 0, result.stderr
    assert rendered == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    again = load_file(tmp_path / "network" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
