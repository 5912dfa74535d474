"""dataset_evaluate.py: a run on a tiny CLIP against plain N×N sums, and what it counts."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import dataset_evaluate
from tests.rendered_hands import render_hand
from tests.tiny_captioners import build_tiny_clip
from utils.data.images import fit_square, open_image
from utils.models.image_text_models import load_clip
from utils.system.errors import UserError

PHRASE = "making phone call hand gesture"
CAPTIONS = [f"a photo of a hand {PHRASE}", "a red background", "a blue background", "a red background",
            f"photo of a red hand on a blue background and a photo of a blue hand on a red one {PHRASE}", "a café wall",
            f"a blue hand {PHRASE}"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with lists of seven pairs: hands, walls, an image that cannot be read (number 3)."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "images").mkdir()
    names = [f"image {i}.png" for i in range(len(CAPTIONS))]
    for i, name in enumerate(names):
        wall = Image.new("RGB", (100 + 40 * i, 90), ["red", "blue", "green", "grey"][i % 4])
        (render_hand("call", i).image if i in (0, 6) else wall).save(root / "images" / name)
    (root / "images" / names[3]).write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (root / "names.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS), encoding="utf-8")
    return root


def arguments(data, clip_folder, *more):
    return ["dataset_evaluate.py", "--image_folder", data / "images", "--image_filenames_path", data / "names.txt",
            "--captions_path", data / "captions.txt", "--model", clip_folder, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def reference(data, clip_folder):
    """{number of a readable pair: (image, text) unit vectors}, each encoded alone by the plain model in fp64."""
    model = CLIPModel.from_pretrained(clip_folder, dtype=torch.float64).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(clip_folder), AutoImageProcessor.from_pretrained(clip_folder)
    vectors = {}
    for i in (0, 1, 2, 4, 5, 6):
        pixels = processor(Image.open(data / "images" / f"image {i}.png").convert("RGB"), return_tensors="pt")
        tokens = tokenizer([CAPTIONS[i]], truncation=True, return_tensors="pt")
        with torch.no_grad():
            output = model(pixel_values=pixels.pixel_values.double(), **tokens)
        vectors[i] = output.image_embeds[0].numpy(), output.text_embeds[0].numpy()
    return vectors


# Similarities


@pytest.mark.parametrize("count", [1, 2, 100])
def test_mean_similarity_is_that_of_all_pairs_with_and_without_the_diagonal(count):
    rng = np.random.default_rng(count)
    vectors = rng.normal(size=(count, 5)) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = dataset_evaluate.MeanSimilarity()
    for start in range(0, count, 7):
        mean.update(vectors[start:start + 7])
    pairs = vectors @ vectors.T
    assert mean.with_diagonal() == pytest.approx(pairs.mean(), rel=1e-12)
    if count == 1:
        assert mean.without_diagonal() is None
    else:
        off_diagonal = pairs[~np.eye(count, dtype=bool)]
        assert mean.without_diagonal() == pytest.approx(off_diagonal.mean(), rel=1e-12)


def test_embeddings_do_not_depend_on_the_batch_and_have_length_one(data, clip_folder, reference):
    clip = load_clip("clip", clip_folder, "cpu")
    images = [clip.prepare(Image.open(data / "images" / f"image {i}.png").convert("RGB")) for i in reference]
    image_embeds, text_embeds = clip.encode_images(images), clip.encode_texts([CAPTIONS[i] for i in reference])
    for row, (image, text) in enumerate(reference.values()):
        assert np.allclose(image_embeds[row], image, atol=1e-5) and np.allclose(text_embeds[row], text, atol=1e-5)
    assert np.allclose(np.linalg.norm(np.concatenate([image_embeds, text_embeds]), axis=1), 1, atol=1e-12)


def test_extremely_long_image_is_cropped_to_its_middle_first(clip_folder):
    clip = load_clip("clip", clip_folder, "cpu")
    line = Image.new("RGB", (30_000, 1), "red")
    line.paste("blue", (14_990, 0, 15_010, 1))
    pixels = clip.prepare(line)
    assert pixels.shape == (3, 32, 32) and (pixels[2] > pixels[0]).all()
    assert clip.prepare(line.rotate(90, expand=True)).shape == (3, 32, 32)

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 45, 3), dtype=np.uint8))
    whole = AutoImageProcessor.from_pretrained(clip_folder)(photo, return_tensors="pt").pixel_values[0]
    assert torch.equal(clip.prepare(photo), whole)


def test_captions_of_exactly_the_longest_length_are_not_cut(clip_folder):
    clip = load_clip("clip", clip_folder, "cpu")
    assert clip.max_length == 16
    assert clip.are_cut([" ".join(["hand"] * 14), " ".join(["hand"] * 15)]) == [False, True]  # and two at the ends


# A run


@pytest.fixture(scope="module")
def run(data, clip_folder, run_script):
    result = run_script(arguments(
        data, clip_folder, "--gesture", "call", "--batch_size", 3, "--output", data / "out" / "results.jsonl",
        "--per_image", data / "out" / "scores.csv", "--grid", data / "out" / "lowest.png"))
    assert result.returncode == 0, result.stderr
    return result


def test_row_holds_what_plain_sums_over_all_pairs_give(run, data, reference):
    row, = (json.loads(line) for line in (data / "out" / "results.jsonl").read_text().splitlines())
    images, texts = (np.array(vectors) for vectors in zip(*reference.values(), strict=True))
    pairs = texts @ texts.T
    assert row["image_caption_similarity"] == pytest.approx((images * texts).sum(axis=1).mean(), abs=1e-6)
    assert row["caption_caption_similarity"] == pytest.approx(pairs.mean(), abs=1e-6)
    assert row["caption_pairs_similarity"] == pytest.approx(pairs[~np.eye(6, dtype=bool)].mean(), abs=1e-6)
    assert (row["num_pairs"], row["num_skipped"]) == (6, 1)
    assert row["phrase_coverage"] == pytest.approx(3 / 6) and row["phrase"] == PHRASE
    assert row["duplicate_rate"] == 0  # its twin's image cannot be read
    assert row["cut_rate"] == pytest.approx(1 / 6)
    assert row["num_without_hand"] == 4 and row["detection_rate"] == pytest.approx(2 / 6)


def test_numbers_are_printed_and_summed_up_in_the_last_line(run, data):
    row = json.loads((data / "out" / "results.jsonl").read_text())
    first, *lines, summary = run.stdout.splitlines()
    assert first == "6 pairs, 1 skipped"
    assert {name: value for name, value in map(str.split, lines)} == {
        name: f"{row[name]:.4f}" for name in dataset_evaluate.METRICS}
    assert f"image-caption similarity {row['image_caption_similarity']:.4f}" in summary
    assert "50.0% with the phrase" in summary and summary.endswith("; 6 pairs")
    warnings = [line for line in run.stderr.replace("\r", "\n").splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and warnings[0].startswith(f"warning: skipped: {data}/images/image 3.png: ")


def test_every_pair_has_a_line_of_scores(run, data, reference):
    with open(data / "out" / "scores.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == [f"image {i}.png" for i in range(7)]
    assert [line["caption"] for line in lines] == CAPTIONS
    assert lines[3]["similarity"] == "unreadable" and lines[3]["num_hands"] == ""
    for i, (image, text) in reference.items():
        assert float(lines[i]["similarity"]) == pytest.approx(image @ text, abs=1e-4)
    assert [line["num_hands"] for line in lines] == ["1", "0", "0", "", "0", "0", "1"]
    assert [line["has_phrase"] for line in lines] == ["1", "0", "0", "0", "1", "0", "1"]
    assert [line["is_cut"] for line in lines] == ["0", "0", "0", "0", "1", "0", "0"]


def test_grid_shows_the_pairs_that_fit_least_first(run, data, reference):
    lowest = min(reference, key=lambda i: reference[i][0] @ reference[i][1])
    with Image.open(data / "out" / "lowest.png") as grid:
        assert grid.width == 2 + 4 * (224 + 2) and grid.height > 2 * 224  # six pairs, four a row
        tile = fit_square(open_image(data / "images" / f"image {lowest}.png"), 224)
        assert grid.crop((2, 2, 2 + tile.width, 2 + tile.height)) == tile


def test_without_hands_gesture_or_duplicates_asked_for_only_the_published_numbers_are_needed(data, clip_folder, capsys,
                                                                                              tmp_path):
    copy = shutil.copytree(data / "images", tmp_path / "images")
    (copy / "image 3.png").write_bytes((copy / "image 1.png").read_bytes())
    args = arguments(data, clip_folder, "--no_hands", "--image_folder", copy, "--output", tmp_path / "rows.jsonl")
    dataset_evaluate.main(dataset_evaluate.parse_args([str(arg) for arg in args[1:]]))
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["duplicate_rate"] == pytest.approx(1 / 7) and row["num_pairs"] == 7
    assert not {"phrase_coverage", "detection_rate", "num_without_hand"} & row.keys()
    assert "phrase" not in capsys.readouterr().out.splitlines()[-1]


# Refusals


@pytest.mark.parametrize(("change", "problem"), [
    (lambda root: (root / "names.txt").write_text("image 0.png\n"), "names.txt has 1 lines but"),
    (lambda root: (root / "images" / "image 2.png").unlink(), "1 of 7 images are not in"),
    (lambda root: (root / "captions.txt").write_text("\n" * 7), "captions.txt, line 1: is empty"),
    (lambda root: [path.write_bytes(b"") for path in (root / "images").iterdir()], "none of the 7 images can be read"),
])
def test_data_that_does_not_fit_is_refused(change, problem, data, clip_folder, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    change(root)
    args = dataset_evaluate.parse_args([str(arg) for arg in arguments(root, clip_folder)[1:]])
    with pytest.raises(UserError, match=problem):
        dataset_evaluate.main(args)


def test_a_missing_litert_is_said_before_clip_is_loaded(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    arguments_of_no_clip = [str(arg) for arg in arguments(data, tmp_path)[1:]]
    with pytest.raises(UserError, match="needs ai-edge-litert.* or add --no_hands"):
        dataset_evaluate.main(dataset_evaluate.parse_args(arguments_of_no_clip))
    with pytest.raises(UserError, match="no config.json"):
        dataset_evaluate.main(dataset_evaluate.parse_args([*arguments_of_no_clip, "--no_hands"]))


@pytest.mark.parametrize(("args", "problem"), [
    (["--image_folder", "{data}/none"], "--image_folder '{data}/none': No such file"),
    (["--captions_path", "{data}"], "--captions_path '{data}': is not a file"),
    (["--gesture", "cal"], "did you mean call?"),
    (["--phrase", " "], "--phrase: must not be empty"),
    (["--grid", "lowest.txt"], "--grid lowest.txt: give a name that ends in"),
    (["--per_image", "{data}"], "--per_image {data}: is a folder"),
    (["--output", "/dev/null"], "--output /dev/null: is no regular file"),
    (["--grid", "{data}/images/image 0.png"], "image 0.png: lies among the images"),
    (["--per_image", "{data}/names.txt"], "names.txt: is one of the files that are read"),
    (["--per_image", "{data}/captions.txt"], "captions.txt: is one of the files that are read"),
])
def test_wrong_arguments_are_refused(args, problem, data, clip_folder, capsys):
    with pytest.raises(SystemExit) as exit_status:
        dataset_evaluate.parse_args([str(arg) for arg in arguments(data, clip_folder)[1:]]
                                    + [arg.format(data=data) for arg in args])
    assert exit_status.value.code == 2
    assert problem.format(data=data) in capsys.readouterr().err
