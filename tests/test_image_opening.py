"""Images opened in other processes: in order, the same, and a file that ends its reader costs itself alone."""

import functools

import numpy as np
import pytest
from PIL import Image

import dataset_evaluate
from tests import tiny_captioners
from tests.killer import KillsItsReader
from tests.test_captions import ColorNamer
from utils.captions import captioning
from utils.data import hagrid
from utils.data.image_opening import open_images
from utils.data.images import open_image
from utils.hands.detector import detect_folder
from utils.method.training_set import encode_images
from utils.metrics.features import extract_features
from utils.models.image_text_models import load_clip
from utils.models.stable_diffusion import load_stable_diffusion
from utils.synthetic.feature_network import load_feature_network
from utils.system.errors import UserError


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three pictures, the second of which kills its reader."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (64, 48), "red").save(folder / name)
    return [folder / "a.png", KillsItsReader(folder / "b.png"), folder / "c.png"]


def test_images_come_in_order_and_errors_in_their_places(tmp_path):
    paths = []
    for index in range(20):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.full((9, 7, 3), index, np.uint8)).save(paths[-1])
    paths[5].write_bytes(b"no image")
    with open_images(paths) as opened:
        images = list(opened)
    assert isinstance(images[5], UserError) and str(paths[5]) in str(images[5])
    for index in (index for index in range(20) if index != 5):
        assert np.array_equal(np.asarray(images[index]), np.asarray(open_image(paths[index])))
    with open_images([]) as opened:
        assert list(opened) == []


def caption(paths):
    return [record.get("problem") for records in captioning.caption_batches(paths, ColorNamer(), 2, 0)
            for record in records]


def compare(paths, folder):
    clip = load_clip("tiny", tiny_captioners.build_tiny_clip(folder / "clip"), "cpu")
    return dataset_evaluate.compare_pairs(paths, ["a", "b", "c"], clip, 2)[0]


def take(paths, folder):
    copy = functools.partial(hagrid.take_image, source=paths[0].parent, destination=folder, resolution=None, link=False)
    _, unreadable = hagrid.take_images([paths[0].name, paths[1], paths[2].name], 2, copy, 1, "call")
    return unreadable


def test_captioners_name_and_leave_out_a_file_that_ends_its_reader(paths):
    problems = caption(paths)
    assert problems[0] is problems[2] is None and f"{paths[1]}: ends the process that opens it" in problems[1]


def test_dataset_evaluate_does(paths, tmp_path, capsys):
    first, second, third = compare(paths, tmp_path)
    assert second is None and None not in (first, third)
    assert f"skipped: {paths[1]}: ends the process" in capsys.readouterr().err


def test_the_training_does(paths, tiny_pipeline):
    warned = []
    moments, used = encode_images(load_stable_diffusion(tiny_pipeline), paths, 32, "cpu", warned.append)
    assert used == [0, 2] and len(moments) == 2 and "ends the process" in warned[0]


def test_features_do(paths):
    found = extract_features(load_feature_network(), [(path, []) for path in paths], "full", "cpu")
    assert list(found.image_index) == [0, 2] and "ends the process" in found.unreadable[0]


def test_hand_detection_in_one_process_does(paths):
    assert [hands for _, hands in detect_folder(paths, num_workers=1)] == [[], None, []]


def test_hagrid_does(paths, tmp_path, capsys):
    assert take(paths, tmp_path) == [paths[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]
    assert "ends the process" in capsys.readouterr().err
