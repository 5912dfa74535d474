"""utils/metrics/features.py: which picture each row is of, whatever the batch size, and what the cache keeps."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rendered_hands import skeleton_hand
from utils.hands.canonical_landmarks import canonical_landmarks
from utils.metrics.features import extract_features, landmark_features
from utils.system.device import full_precision


def mean_pixels(image, calls=None):
    if calls is not None:
        calls.append(image.size)
    return np.asarray(image.resize((2, 2), Image.Resampling.BOX), dtype=np.float32).transpose(2, 0, 1)


class MeanColor(torch.nn.Module):
    """An extractor whose features are known: the mean red, green and blue."""

    name, settings, num_features = "mean colour", {"size": 2}, 3

    def __init__(self, calls=None):
        super().__init__()
        self.prepare = functools.partial(mean_pixels, calls=calls)

    def forward(self, batch):
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return batch.mean(dim=(2, 3))


@pytest.fixture
def grey_records(tmp_path):
    """Ten images, number i of grey 20 i; 3 has two hands, 5 none, the others one; 7 is damaged."""
    records = []
    for index in range(10):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (40, 40), (20 * index,) * 3).save(path)
        hands = [skeleton_hand("call", seed=index)] * {3: 2, 5: 0}.get(index, 1)
        records.append((path, hands))
    (tmp_path / "7.png").write_bytes(b"no image")
    return records


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("few_images", [0, 16])  # up to which no other process opens them
def test_rows_are_those_of_their_images_whatever_the_batch_size(grey_records, batch_size, few_images, monkeypatch,
                                                                capsys):
    monkeypatch.setattr("utils.data.loader.FEW_IMAGES", few_images)
    found = extract_features(MeanColor(), grey_records, "full", "cpu", batch_size)
    assert found.image_index.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert np.array_equal(found.features, 20.0 * np.repeat(found.image_index[:, None], 3, axis=1))
    assert len(found.unreadable) == 1 and "7.png" in capsys.readouterr().err


@pytest.mark.parametrize(("crop", "images"), [
    ("hand", [0, 1, 2, 3, 3, 4, 6, 8, 9]), ("union", [0, 1, 2, 3, 4, 6, 8, 9]),
])
def test_crops_have_a_row_per_hand_or_per_image_with_hands(grey_records, crop, images, monkeypatch):
    monkeypatch.setattr("utils.data.loader.FEW_IMAGES", 0)
    found = extract_features(MeanColor(), grey_records, crop, "cpu", batch_size=4)
    assert found.image_index.tolist() == images
    assert np.allclose(found.features[:, 0], 20.0 * found.image_index)


def test_a_folder_without_hands_has_no_rows(grey_records):
    records = [(path, []) for path, _ in grey_records]
    assert extract_features(MeanColor(), records, "hand", "cpu").features.shape == (0, 3)
    assert landmark_features(records).features.shape == (0, 60)


def test_rows_of_images_are_found_by_their_place(grey_records):
    found = extract_features(MeanColor(), grey_records, "hand", "cpu")
    assert found.of_images([3, 9]).features[:, 0].tolist() == [60, 60, 180]
    assert found.images.tolist() == [0, 1, 2, 3, 4, 6, 8, 9]
    drawn = found.one_each([9, 3], np.random.default_rng(0))
    assert drawn.features[:, 0].tolist() == [180, 60] and drawn.image_index.tolist() == [9, 3]


def test_cached_features_are_the_same_and_nothing_is_opened_again(grey_records, tmp_path, capsys):
    calls = []
    run = functools.partial(extract_features, MeanColor(calls), grey_records, "full", "cpu", cache_dir=tmp_path / "c")
    first = run()
    assert len(calls) == 9
    second = run()
    assert len(calls) == 9 and np.array_equal(first.features, second.features)
    assert second.unreadable == first.unreadable and capsys.readouterr().err.count("warning: skipped") == 2


def test_a_changed_image_other_crops_and_other_detection_are_computed_anew(grey_records, tmp_path):
    calls = []
    run = functools.partial(extract_features, MeanColor(calls), grey_records, device="cpu", cache_dir=tmp_path / "c")
    run(crop="hand", detection={"min_confidence": 0.5})
    run(crop="hand", detection={"min_confidence": 0.1})
    assert len(calls) == 18
    run(crop="union", detection={"min_confidence": 0.5})
    assert len(calls) == 26
    Image.new("RGB", (40, 40), "white").save(grey_records[0][0])
    assert run(crop="hand", detection={"min_confidence": 0.5}).features[0, 0] == 255
    assert len(calls) == 27  # that image alone
    moved = [(path, hands[:1]) for path, hands in grey_records]  # one hand less in one image
    run = functools.partial(extract_features, MeanColor(calls), moved, device="cpu", cache_dir=tmp_path / "c")
    assert len(run(crop="hand", detection={"min_confidence": 0.5}).features) == 8 and len(calls) == 28


def test_landmark_features_are_poses_without_the_wrist(grey_records):
    found = landmark_features(grey_records)
    assert found.features.shape == (10, 60) and found.image_index.tolist() == [0, 1, 2, 3, 3, 4, 6, 7, 8, 9]
    hand = grey_records[0][1][0]
    assert np.allclose(found.features[0], canonical_landmarks(hand)[1:].ravel(), atol=1e-6)


def test_fp32_settings_are_put_back():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(RuntimeError, match="inside"), full_precision(torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        raise RuntimeError("inside")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
