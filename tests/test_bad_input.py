"""What lies on disk and on the command line, for every script: odd images are read, anything else gets one line.

Every refusal has exit status 2 (usage) or 1 (data), one line on standard error that names the culprit, no traceback,
and leaves what was there as it was.
"""

import ast
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import cal_fid
import cal_kid
import dataset_evaluate
import enrich_captions
import hand_confidence
import image_generation
import train
import VitGpt2
from tests import tiny_captioners
from tests.conftest import ROOT, without_rights
from tests.tiny_models import build_tiny_pipeline
from tests.training_world import write_world
from utils.data import hagrid
from utils.method.fusion import TrainedFusion, save_fusion
from utils.metrics import anatomy_check, results_table
from utils.models import sampling
from utils.synthetic import feature_network, render, tiny_stable_diffusion
from utils.system import files
from utils.system.script import run_main

SIZES = {"gesture": "call", "sequence_length": 16, "embed_dim": 32}
NUM_GOOD, NUM_BAD = 12, 5


def write_odd_images(folder):
    """NUM_GOOD images that can be read, however odd, and NUM_BAD that cannot."""
    folder.mkdir(parents=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(folder / "grey16.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.save(folder / "animated.gif", save_all=True, append_images=[picture.rotate(90)])
    Image.new("RGB", (1, 1), "red").save(folder / "one pixel.png")
    Image.new("RGB", (30_000, 1), "red").save(folder / "long.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    picture.save(folder / "-dash.png")
    picture.save(folder / "ünï 日本.webp")
    picture.save(folder / "suffix.jpg", format="PNG")
    picture.convert("1").save(folder / "bits.bmp")
    whole = (folder / "turned.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.png").touch()
    (folder / "text.jpeg").write_text("not an image")
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    (folder / "pickle.png").write_bytes(pickle.dumps({"a": 1}))
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_images(tmp_path_factory.mktemp("odd") / "images")


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_pipeline):
    """Folder with data/, feature.npy, model/ (of train.py), base/ (a pipeline), lists, and captioner/ and clip/."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, tiny_pipeline)
    shutil.copytree(tiny_pipeline, folder / "base")
    model = build_tiny_pipeline(folder / "model", seed=1)
    save_fusion(model, TrainedFusion(32), torch.linspace(-1, 1, 63), {**SIZES, "base_model": str(tiny_pipeline)})
    (folder / "names.txt").write_text("a\nb\n")
    (folder / "prompts.txt").write_text("a hand\na red hand\n")
    tiny_captioners.build_tiny_vit_gpt2(folder / "captioner")
    tiny_captioners.build_tiny_clip(folder / "clip")
    return folder


def read_all(folder):
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file()}


def run(script, args, capsys):
    """(exit status, lines on standard error without warnings and progress) of a script, in this process."""
    capsys.readouterr()
    status = 0
    try:
        run_main(script.main, script.parse_args(list(map(str, args))))
    except SystemExit as stopped:
        status = stopped.code
    errors = capsys.readouterr().err.replace("\r", "\n")
    return status, [line for line in errors.splitlines() if "error: " in line or "Traceback" in line]


def refused(script, args, capsys, status, *said):
    """Checks that the script refuses, with `said` in its one line."""
    found, errors = run(script, args, capsys)
    assert (found, len(errors)) == (status, 1), errors
    assert all(words in errors[0] for words in said), errors[0]


# Images


def commands(world, odd, tmp_path):
    """{script: flags} of each script that reads a folder of images, with those of `odd`."""
    data = tmp_path / "data" / "call" / "train"
    shutil.copytree(odd, data / "images")
    names = sorted(path.name for path in odd.iterdir())
    (data / "synthetic_filenames.txt").write_text("\n".join(names) + "\n")
    (data / "synthetic_captions.txt").write_text("a hand\n" * len(names))
    return {
        hand_confidence: ["--image_folder", odd, "--output", tmp_path / "rows.jsonl"],
        cal_fid: ["--real_images", odd, "--fake_images", odd, "--features", "synthetic", "--region", "full",
                  "--output", tmp_path / "rows.jsonl", "--device", "cpu"],
        VitGpt2: ["--gesture", "call", "--data_dir", tmp_path / "data", "--split", "train", "--model",
                  world / "captioner", "--device", "cpu"],
        dataset_evaluate: ["--image_folder", odd, "--image_filenames_path", data / "synthetic_filenames.txt",
                           "--captions_path", data / "synthetic_captions.txt", "--model", world / "clip", "--output",
                           tmp_path / "rows.jsonl", "--device", "cpu"],
        train: ["--gesture", "call", "--data_dir", tmp_path / "data", "--captioner", "synthetic", "--captions",
                "captions", "--pretrained_model_name_or_path", world / "base", "--feature_npy_path",
                world / "feature.npy", "--output_dir", tmp_path / "outputs", "--embedding_steps", 1,
                "--embedding_batch_size", 1, "--finetune_steps", 0, "--num_validation_images", 0, "--device", "cpu"],
    }


@pytest.mark.parametrize("name", ["hand_confidence", "cal_fid", "VitGpt2", "dataset_evaluate", "train"])
def test_odd_images_are_read_and_the_others_are_named_and_counted(name, world, odd, tmp_path, capsys):
    script, args = next((script, args) for script, args in commands(world, odd, tmp_path).items()
                        if script.__name__ == name)
    run_main(script.main, script.parse_args(list(map(str, args))))
    output = capsys.readouterr()
    for bad in ("truncated.jpg", "zero.png", "text.jpeg", "bomb.png", "pickle.png"):
        assert bad in output.err + output.out, bad
    for good in ("grey16", "cmyk", "palette", "alpha", "animated", "one pixel", "long", "turned", "suffix", "bits"):
        assert f"{good}." not in output.err, output.err
    if name == "VitGpt2":
        assert f"{NUM_GOOD} captions, {NUM_BAD} images left out" in output.out
    elif name == "train":
        losses = (tmp_path / "outputs/call/losses.jsonl").read_text().splitlines()
        assert len(losses) == NUM_GOOD  # one update of each
    else:
        row = files.read_rows(tmp_path / "rows.jsonl")[-1]
        read, skipped = {"hand_confidence": ("num_images", "num_skipped"), "cal_fid": ("num_fake", "num_skipped_fake"),
                         "dataset_evaluate": ("num_pairs", "num_skipped")}[name]
        assert (row[read], row[skipped]) == (NUM_GOOD, NUM_BAD)


def test_a_selection_takes_the_odd_images_and_names_the_others(odd, tmp_path, capsys):
    args = ["--gesture", "call", "--hagrid_dir", odd, "--data_dir", tmp_path, "--resolution", 32, "--num_test", 0]
    refused(hagrid, [*args, "--num_train", NUM_GOOD + NUM_BAD], capsys, 1, f"{NUM_GOOD} images")
    assert list(tmp_path.rglob("*.jpg")) == []
    hagrid.main(hagrid.parse_args(list(map(str, [*args, "--num_train", NUM_GOOD]))))
    assert len(list((tmp_path / "call/train/images").iterdir())) == NUM_GOOD


FOLDERS = [(hand_confidence, "--image_folder", []), (cal_fid, "--fake_images", ["--real_images"]),
           (cal_kid, "--real_images", ["--fake_images"])]


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
@pytest.mark.parametrize(("script", "flag", "others"), FOLDERS, ids=lambda value: getattr(value, "__name__", None))
def test_folders_that_are_none_or_empty(script, flag, others, what, odd, tmp_path, capsys):
    path = tmp_path / what
    if what == "file":
        path.touch()
    elif what == "empty":
        path.mkdir()
    args = [flag, path, *(part for other in others for part in (other, odd))]
    refused(script, args, capsys, 1 if what == "empty" else 2, str(path))


@pytest.mark.parametrize(("script", "flag", "others"), FOLDERS, ids=lambda value: getattr(value, "__name__", None))
def test_folders_that_may_not_be_read(script, flag, others, odd, tmp_path, capsys):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    args = [flag, folder, *(part for other in others for part in (other, odd))]
    with without_rights():
        status, errors = run(script, args, capsys)
    folder.chmod(0o700)
    assert status in (1, 2) and len(errors) == 1 and "Permission denied" in errors[0], errors


# Lists, names, numbers


def draw(world, **flags):
    """Flags of image_generation.py, with some changed; None leaves one out."""
    flags = {"image_filenames_file": world / "names.txt", "prompts_file": world / "prompts.txt",
             "ckpt": world / "model", "img_save_path": world / "drawn", "mu": 0.5, "num_inference_steps": 2,
             "device": "cpu", **flags}
    return [part for name, value in flags.items() if value is not None for part in (f"--{name}", value)]


BAD_LISTS = {
    "nul": (b"a\nb\0\n", "NUL"), "empty line": (b"a\n\nb\n", "line 2"), "empty": (b"", "empty"),
    "not utf-8": (b"a\n\xff\n", "line 2"), "more lines": (b"a\nb\nc\n", "3 lines"), "fewer lines": (b"a\n", "1 lines"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
@pytest.mark.parametrize("flag", ["image_filenames_file", "prompts_file"])
def test_lists_that_do_not_fit(flag, case, world, tmp_path, capsys):
    data, said = BAD_LISTS[case]
    said = f"has {said.split()[0]}" if "lines" in case else said
    (tmp_path / "list.txt").write_bytes(data)
    refused(image_generation, draw(world, img_save_path=tmp_path / "out", **{flag: tmp_path / "list.txt"}), capsys, 1,
            "list.txt", said)
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa\r\nb\r\n", b"a\nb", b"a\rb\r"])
def test_lists_from_other_systems_are_read(data, world, tmp_path, capsys):
    (tmp_path / "list.txt").write_bytes(data)
    args = draw(world, img_save_path=tmp_path / "out", image_filenames_file=tmp_path / "list.txt")
    assert run(image_generation, args, capsys) == (0, [])
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "b.png"}


@pytest.mark.parametrize("name", ["../up", "/tmp/absolute", "sub/../../up", "link/file", ".."])
def test_names_that_leave_the_folder(name, world, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "list.txt").write_text(f"a\n{name}\n")
    refused(image_generation, draw(world, img_save_path=tmp_path / "out", image_filenames_file=tmp_path / "list.txt"),
            capsys, 1, name)
    assert list((tmp_path / "elsewhere").iterdir()) == [] and not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("name", ["with space", "-dash", "ünï 日本", "a.b.c", "sub/inside"])
def test_names_that_stay_in_it(name, world, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"a\n{name}\n", encoding="utf-8")
    args = draw(world, img_save_path=tmp_path / "out", image_filenames_file=tmp_path / "list.txt")
    assert run(image_generation, args, capsys) == (0, [])
    assert (tmp_path / "out" / f"{name}.png").is_file()


NUMBERS = [("mu", value, 2) for value in ("-0.01", "1.01", "nan", "inf", "x")] + [
    ("num_inference_steps", "0", 2), ("num_inference_steps", "1000", 1), ("num_inference_steps", "1.5", 2),
    ("batch_size", "0", 2), ("batch_size", "-1", 2), ("guidance_scale", "nan", 2), ("guidance_scale", "-1", 2),
    ("batch_size", "4097", 2), ("num_inference_steps", "10001", 2), ("resolution", "2049", 2), ("resolution", "7", 2),
    ("guidance_scale", "1001", 2), ("batch_size", "9" * 5000, 2), ("num_images", "1e3", 2),
    ("seed", "-1", 2), ("seed", str(2**63), 2), ("seed", "x", 2),
    ("resolution", "33", 1), ("resolution", "0", 2), ("num_images", "0", 2),
    ("scheduler", "euler", 2), ("format", "bmp", 2), ("device", "quantum", 2)]


@pytest.mark.parametrize(("flag", "value", "status"), NUMBERS)
def test_numbers_beyond_their_limits(flag, value, status, world, tmp_path, capsys):
    refused(image_generation, draw(world, img_save_path=tmp_path / "out", **{flag: value}), capsys, status, flag,
            value[:60])
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("flags", [
    {"mu": 0}, {"mu": 1}, {"seed": 2**63 - 1}, {"guidance_scale": 0}, {"guidance_scale": 1000}, {"resolution": 64},
    {"batch_size": 4096}, {"num_images": 2**63 - 1}])
def test_numbers_at_their_limits(flags, world, tmp_path, capsys):
    assert run(image_generation, draw(world, img_save_path=tmp_path / "out", **flags), capsys) == (0, [])


TRAINING = [(["--Lambda", value], 2, "--Lambda") for value in ("-0.01", "1.01", "nan")] + [
    (["--resolution", "36"], 1, "36"), (["--gesture", "cal"], 2, "'cal'"), (["--gesture", "../call"], 2, "../call"),
    (["--finetune_lr", "nan"], 2, "--finetune_lr"), (["--seed", "-1"], 2, "--seed"),
    (["--lora_rank", "-1"], 2, "--lora_rank"),
    (["--batch_size", "0"], 2, "--batch_size"), (["--max_train_samples", "0"], 2, "--max_train_samples")]


@pytest.mark.parametrize(("flags", "status", "said"), TRAINING)
def test_training_refuses_settings_beyond_their_limits(flags, status, said, world, tiny_pipeline, tmp_path, capsys):
    args = ["--gesture", "call", "--data_dir", world / "data", "--captioner", "synthetic",
            "--pretrained_model_name_or_path", tiny_pipeline, "--feature_npy_path", world / "feature.npy",
            "--output_dir", tmp_path / "outputs", "--device", "cpu", *flags]
    refused(train, args, capsys, status, said)
    assert list(tmp_path.rglob("*.safetensors")) == []


ABSURD = str(10**12)
FLAGS = [(train, flag) for flag in ("batch_size", "embedding_batch_size", "embedding_steps", "finetune_steps",
                                    "lora_rank", "resolution", "num_validation_images", "num_workers")]
FLAGS += [(cal_kid, flag) for flag in ("num_subsets", "num_resamples", "batch_size", "num_workers")]
FLAGS += [(hand_confidence, flag) for flag in ("max_num_hands", "num_workers")]
FLAGS += [(render, flag) for flag in ("resolution", "num_train", "num_test", "num_workers")]
FLAGS += [(hagrid, flag) for flag in ("resolution", "num_train", "num_test", "num_workers")]
FLAGS += [(enrich_captions, flag) for flag in ("batch_size", "num_parallel", "timeout", "retries", "max_attempts")]
FLAGS += [(anatomy_check, flag) for flag in ("num_images", "num_sets", "resolution", "batch_size", "num_workers")]
FLAGS += [(feature_network, flag) for flag in ("hands_per_gesture", "steps", "batch_size", "num_threads")]
FLAGS += [(tiny_stable_diffusion, flag) for flag in ("num_images", "vae_steps", "batch_size", "num_threads")]
FLAGS += [(VitGpt2, "batch_size"), (dataset_evaluate, "batch_size"), (dataset_evaluate, "num_workers")]


@pytest.mark.parametrize(("script", "flag"), FLAGS, ids=[f"{script.__name__} {flag}" for script, flag in FLAGS])
def test_numbers_that_would_fill_the_memory_are_refused_with_the_range_that_help_shows(script, flag, capsys):
    refused(script, [f"--{flag}", ABSURD], capsys, 2, f"argument --{flag}: must be", f"not '{ABSURD}'")
    with pytest.raises(SystemExit):
        script.parse_args([f"--{flag}", ABSURD])
    limits = re.search(r"number from (\S+ to \S+), not", capsys.readouterr().err)[1]
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    assert f"[{limits}]" in " ".join(capsys.readouterr().out.split())


def test_images_that_the_memory_of_a_cpu_cannot_hold_are_one_line(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sampling, "sample_images", lambda *_: torch.empty(2**55, dtype=torch.uint8))
    args = draw(world, img_save_path=tmp_path / "out")
    refused(image_generation, [*args, "--batch_size", 2], capsys, 1, "too little memory", "try --batch_size 1")


# Features


class Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def np_header(text):
    """A .npy file that ends after a header."""
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + (text.ljust(117) + "\n").encode()


def write_feature(path, kind):
    array = np.linspace(-1, 1, 63, dtype=np.float32)
    if kind == "objects":
        array = np.array([Payload(path.with_name("pwned"))] * 63, dtype=object)
    elif kind == "archive":
        np.savez(path.with_suffix(".npz"), array)
        path.with_suffix(".npz").rename(path)
        return
    elif kind in ("nan", "inf"):
        array[5] = float(kind)
    elif kind == "text":
        array = array.astype(str)
    elif kind == "nested header":
        path.write_bytes(np_header("(" * 90))
        return
    elif kind == "open header":
        path.write_bytes(np_header("{'descr': '<f4', 'shape': (10L, }"))
        return
    elif kind == "huge shape":
        path.write_bytes(np_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }"))
        return
    elif kind == "62":
        array = array[:62]
    elif kind == "complex":
        array = array.astype(complex)
    np.save(path, array, allow_pickle=kind == "objects")
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("kind", ["62", "nan", "inf", "objects", "text", "complex", "archive", "cut", "nested header",
                                  "open header", "huge shape"])
@pytest.mark.parametrize("script", [train, image_generation], ids=["train", "image_generation"])
def test_features_that_are_none(script, kind, world, tiny_pipeline, tmp_path, capsys):
    write_feature(tmp_path / "feature.npy", kind)
    args = draw(world, img_save_path=tmp_path / "out", feature_npy_path=tmp_path / "feature.npy")
    if script is train:
        args = ["--gesture", "call", "--data_dir", world / "data", "--captioner", "synthetic", "--device", "cpu",
                "--pretrained_model_name_or_path", tiny_pipeline, "--feature_npy_path", tmp_path / "feature.npy",
                "--output_dir", tmp_path / "outputs", "--num_validation_images", 0]
    refused(script, args, capsys, 1, "feature.npy")
    assert not (tmp_path / "pwned").exists()


# Models


def spoil(folder, how):
    """Damages a pipeline folder."""
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    index = json.loads((folder / "model_index.json").read_text())
    if how == "part missing":
        shutil.rmtree(folder / "vae")
    elif how == "wrong part":
        shutil.copy(folder / "vae" / weights.name, weights)
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "pickled":
        weights.unlink()
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder / "pwned")))
    elif how == "sdxl":
        index.update(_class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "CLIPTextModel"])
    elif how == "index":
        (folder / "model_index.json").write_text("{")
        return
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(("how", "said"), [
    ("part missing", "vae"), ("wrong part", "unet"), ("truncated", "unet"), ("pickled", "pickled weights are never"),
    ("sdxl", "Stable Diffusion 1.x or 2.x"), ("index", "model_index.json")])
@pytest.mark.parametrize("script", [train, image_generation], ids=["train", "image_generation"])
def test_model_folders_that_are_damaged_or_of_another_kind(script, how, said, world, tmp_path, capsys):
    shutil.copytree(world / "model", tmp_path / "model")
    spoil(tmp_path / "model", how)
    args = draw(world, ckpt=tmp_path / "model", img_save_path=tmp_path / "out")
    if script is train:
        args = ["--gesture", "call", "--data_dir", world / "data", "--captioner", "synthetic", "--device", "cpu",
                "--pretrained_model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "outputs",
                "--feature_npy_path", world / "feature.npy"]
    before = read_all(tmp_path / "model")
    refused(script, args, capsys, 1, said)
    assert read_all(tmp_path / "model") == before and not (tmp_path / "model" / "pwned").exists()


@pytest.mark.parametrize(("change", "said"), [
    ({"embed_dim": 16}, "fusion.safetensors"), ({"sequence_length": 8}, "8 x 32"), ({"fusion": "other"}, "fusion.json"),
    ({"feature_dim": "x"}, "fusion.json"), ({"resolution": "x"}, "resolution"), ({"resolution": 10**9}, "resolution"),
    ({"sequence_length": 16.0}, "sequence_length"), ({"fusion": []}, "fusion.json"),
    ({"fusion": "frozen", "seed": -1}, "seed")])
def test_a_fusion_of_another_model(change, said, world, tmp_path, capsys):
    shutil.copytree(world / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "fusion.json").read_text())
    (tmp_path / "model" / "fusion.json").write_text(json.dumps({**config, **change}))
    refused(image_generation, draw(world, ckpt=tmp_path / "model", img_save_path=tmp_path / "out"), capsys, 1, said)


# Other scripts


def test_the_other_scripts_refuse_in_one_line_too(world, odd, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("{}\n{")
    (tmp_path / "data" / "call" / "train").mkdir(parents=True)
    (tmp_path / "data" / "call" / "train" / "BLIP2_captions.txt").write_bytes(b"a\n\0\n")
    data = ["--data_dir", tmp_path / "data", "--gesture", "call"]
    refused(results_table, [tmp_path / "rows.jsonl"], capsys, 1, "rows.jsonl, line 2")
    refused(results_table, [tmp_path / "none.jsonl"], capsys, 2, "none.jsonl")
    refused(enrich_captions, [*data, "--backend", "rules", "--split", "train"], capsys, 1,
            "BLIP2_captions.txt, line 2")
    refused(enrich_captions, [*data, "--backend", "rules"], capsys, 2, "test")
    refused(enrich_captions, [*data, "--backend", "api", "--api_base", "ftp://x", "--model", "m"], capsys, 2,
            "--api_base")
    refused(VitGpt2, [*data, "--model", world / "captioner", "--split", "train"], capsys, 2, "images")
    refused(VitGpt2, [*data[:2], "--gesture", "cal", "--model", world / "captioner"], capsys, 2, "cal")
    refused(hagrid, ["--hagrid_dir", tmp_path / "none", "--gesture", "call"], capsys, 2, "none")
    refused(hagrid, ["--hagrid_dir", tmp_path / "data", "--gesture", "call", "--data_dir", tmp_path / "new"], capsys, 1,
            "call")
    refused(render, ["--gesture", "cal"], capsys, 2, "cal")
    refused(dataset_evaluate, ["--image_folder", odd, "--image_filenames_path", world / "names.txt", "--captions_path",
                               world / "prompts.txt", "--model", world / "clip"], capsys, 1, "names.txt")


@pytest.mark.parametrize("script", ["train.py", "image_generation.py", "cal_fid.py"])
def test_debug_shows_the_traceback(script, world, tmp_path, run_script):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("a\n")
    args = {"train.py": ["--gesture", "call", "--data_dir", world / "data", "--captioner", "synthetic", "--device",
                         "cpu", "--pretrained_model_name_or_path", tmp_path / "none", "--output_dir", tmp_path],
            "image_generation.py": draw(world, prompts_file=tmp_path / "list.txt"),
            "cal_fid.py": ["--real_images", tmp_path / "empty", "--fake_images", tmp_path / "empty"]}[script]
    plain, debug = (run_script([script, *args, *more]) for more in ([], ["--debug"]))
    assert plain.returncode == 1 and "Traceback" not in plain.stderr and debug.returncode == 1
    assert "Traceback" in debug.stderr and "UserError" in debug.stderr


def test_the_code_of_a_model_folder_is_not_run_whatever_the_terminal_says(world, odd, tmp_path):
    folder = shutil.copytree(world / "captioner", tmp_path / "model")
    (folder / "own_code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config |= {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own_code.Own"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    shutil.copytree(odd, tmp_path / "data/call/train/images")
    command = [sys.executable, "VitGpt2.py", "--gesture", "call", "--data_dir", tmp_path / "data", "--split", "train",
               "--model", folder, "--device", "cpu"]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, input="y\n" * 9, capture_output=True, text=True,
                            timeout=300)
    assert not (tmp_path / "ran").exists() and "[y/N]" not in result.stdout + result.stderr
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith(f"error: {folder}: the image processor")


# The source


def test_nothing_is_unpickled_and_no_code_is_fetched():
    for path in [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert name != "torch.load" or given.get("weights_only") == "True", path
            assert name != "np.load" or given.get("allow_pickle") == "False", path
            chooses_class = name.endswith(".from_pretrained") and "Auto" in name or any(
                ast.unparse(value).startswith("AutoModel") for value in node.args)
            assert given.get("trust_remote_code") == ("False" if chooses_class else None), (path, name)
            assert not name.startswith(("pickle.", "marshal.")), path
            assert name not in ("eval", "exec", "os.system"), path
            assert not name.startswith("torch.hub.") or path.name == "inception.py", path


def test_nothing_but_the_hub_the_weights_and_the_chat_server_is_asked():
    network = {"urllib", "http", "socket", "requests", "httpx"}
    users = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            if any(name.partition(".")[0] in network | {"huggingface_hub"} for name in names):
                users.add(path.name)
    assert users <= {"hub.py", "inception.py", "chat_client.py"}
