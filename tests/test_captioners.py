"""BLIP2.py, PaliGemma.py and VitGpt2.py on tiny models of the real classes, as a user runs them."""

import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from argparse import Namespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import BLIP2
import PaliGemma
import VitGpt2
from tests import scripts, tiny_captioners
from utils.captions.captioning import clean_caption
from utils.data.images import open_image, read_aligned
from utils.models.hub import fetch_transformers_folder
from utils.models.image_text_models import load_clip, weights_digest
from utils.system.errors import UserError

SCRIPTS = {"BLIP2": (BLIP2.Blip2, tiny_captioners.build_tiny_blip2),
           "PaliGemma": (PaliGemma.PaliGemma, tiny_captioners.build_tiny_paligemma),
           "VitGpt2": (VitGpt2.VitGpt2, tiny_captioners.build_tiny_vit_gpt2)}
NUM_PICTURES = 30  # of a run that is killed: more than are opened without processes


# Runs the script of its first argument in a file system that lists folders backwards
IN_REVERSE = """
import contextlib, os, runpy, sys
scandir, listdir = os.scandir, os.listdir
os.scandir = lambda *folder: contextlib.nullcontext(list(scandir(*folder))[::-1])
os.listdir = lambda *folder: listdir(*folder)[::-1]
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{captioner: folder of its tiny model}, read only."""
    root = tmp_path_factory.mktemp("captioners")
    return {name: build(root / name) for name, (_, build) in SCRIPTS.items()}


def load(name, folder, dtype="fp32"):
    captioner = SCRIPTS[name][0]()
    assert captioner.open(Namespace(model=str(folder), device="cpu", dtype=dtype))["dtype"] == dtype
    return captioner


def write_pictures(folder, count, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in rng.permutation(count):
        pixels = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 48)).save(folder / f"{i:03}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """data_dir of `call`: seven pictures to train on, one of them grey, one damaged; three to test on."""
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "call" / "train" / "images", 7)
    write_pictures(root / "call" / "test" / "images", 3, seed=1)
    Image.new("L", (33, 60), 90).save(root / "call" / "train" / "images" / "002.png")
    (root / "call" / "train" / "images" / "004.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    return root


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_in_batches_of_four_writes_what_the_model_says_of_each_image_alone(name, data, models, run_script):
    result = run_script([f"{name}.py", "--gesture", "call", "--data_dir", data, "--model", models[name],
                         "--batch_size", 4, "--device", "cpu"])
    assert result.returncode == 0, result.stderr
    model = load(name, models[name])
    seen = []
    for split, numbers in (("train", [0, 1, 2, 3, 5, 6]), ("test", range(3))):
        folder = data / "call" / split
        names, captions = read_aligned(folder / f"{name}_filenames.txt", folder / f"{name}_captions.txt")
        assert names == [f"{i:03}.png" for i in numbers]
        for file, caption in zip(names, captions, strict=True):
            alone = model.describe([model.prepare(open_image(folder / "images" / file))])
            assert caption == clean_caption(alone[0])
        seen += captions
    assert len(set(seen)) >= 6  # they look at the picture

    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.strip() and "image/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("warning: left out: 004.png: "), lines
    assert result.stdout.splitlines()[-2:] == [
        f"{data}/call/train: 6 captions, 1 images left out (1 cannot be read, 0 without a caption)",
        f"{data}/call/test: 3 captions, 0 images left out (0 cannot be read, 0 without a caption)"]


def test_killed_run_goes_on_in_a_shuffled_file_system_and_ends_with_the_same_bytes(tmp_path, models, run_script):
    args = ["VitGpt2.py", "--gesture", "call", "--split", "train", "--model", models["VitGpt2"], "--batch_size", 2,
            "--device", "cpu", "--data_dir"]
    write_pictures(tmp_path / "killed" / "call" / "train" / "images", NUM_PICTURES)
    shutil.copytree(tmp_path / "killed", tmp_path / "undisturbed")
    folder = tmp_path / "killed" / "call" / "train"
    journal = folder / "VitGpt2_captions.jsonl"
    with scripts.start([*args, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
            time.sleep(0.002)
        process.kill()
    done = journal.read_bytes().count(b"\n") - 1
    assert 3 <= done < NUM_PICTURES // 2 and not list(folder.glob("*.txt"))

    for root, command in (("killed", ["-c", IN_REVERSE, *args]), ("undisturbed", args)):
        result = run_script([*command, tmp_path / root])
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == (f"{tmp_path / root}/call/train: {NUM_PICTURES} captions, 0 images "
                                                  "left out (0 cannot be read, 0 without a caption)")
    for kind in ("filenames", "captions"):
        there, here = (tmp_path / root / "call" / "train" / f"VitGpt2_{kind}.txt" for root in ("killed", "undisturbed"))
        assert there.read_bytes() == here.read_bytes() and there.read_bytes().count(b"\n") == NUM_PICTURES


# Models


@pytest.mark.parametrize("name", SCRIPTS)
def test_second_attempt_depends_on_seed_and_image_only(name, models):
    model = load(name, models[name])
    images = [model.prepare(Image.new("RGB", (40, 40), color)) for color in ("red", "blue")]
    again = model.describe(images[:1], 5)
    model.describe(images)
    assert model.describe(images[:1], 5) == again
    assert len({model.describe(images[:1], seed)[0] for seed in range(4)}) > 1


@pytest.mark.parametrize(("name", "dtype"), [("BLIP2", "fp16"), ("PaliGemma", "bf16"), ("VitGpt2", "fp16")])
def test_models_caption_in_half_precision(name, dtype, models):
    model = load(name, models[name], dtype)
    weights = model.model.get_output_embeddings().weight
    assert weights.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert clean_caption(model.describe([model.prepare(Image.new("RGB", (40, 40), "red"))])[0])


def test_captions_are_those_of_the_published_decoding_written_out(models):
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 40, 3), dtype=np.uint8))
                for i in range(4)]
    processor = transformers.AutoProcessor.from_pretrained(models["BLIP2"])
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(models["BLIP2"])
    ids = model.generate(**processor(images=pictures, return_tensors="pt"))
    expected = {"BLIP2": processor.batch_decode(ids, skip_special_tokens=True)}

    processor = transformers.AutoProcessor.from_pretrained(models["PaliGemma"])
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(models["PaliGemma"])
    inputs = processor(text=["<image>caption"] * 4, images=pictures, return_tensors="pt")
    inputs.pop("labels", None)
    ids = model.generate(**inputs, max_new_tokens=100, do_sample=False)[:, inputs["input_ids"].shape[1]:]
    expected["PaliGemma"] = processor.batch_decode(ids, skip_special_tokens=True)

    processor = transformers.AutoImageProcessor.from_pretrained(models["VitGpt2"])
    model = transformers.VisionEncoderDecoderModel.from_pretrained(models["VitGpt2"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["VitGpt2"])
    ids = model.generate(processor(pictures, return_tensors="pt").pixel_values, max_length=16, num_beams=4)
    expected["VitGpt2"] = tokenizer.batch_decode(ids, skip_special_tokens=True)

    for name, captions in expected.items():
        model = load(name, models[name])
        assert model.describe([model.prepare(picture) for picture in pictures]) == captions
        lengths = [len(caption.split()) for caption in captions]
        assert max(lengths) == {"BLIP2": 20, "PaliGemma": 100, "VitGpt2": 15}[name], lengths  # none ends by itself


def test_a_picture_three_pixels_high_is_not_taken_for_channels(models):
    model = load("BLIP2", models["BLIP2"])
    pixels = model.prepare(Image.new("RGB", (300, 3), "red"))
    assert pixels.shape == (3, 32, 32) and pixels[0].mean() > 1 > -1 > pixels[1].mean()


def test_weights_trained_again_anywhere_in_a_large_file_change_its_digest(tmp_path):
    size, part = 2**24, 2**15
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(size))
    digests = {weights_digest(tmp_path)}
    for start in range(0, size, size // 8):
        path.write_bytes(bytes(start) + b"\1" * part + bytes(size - start - part))
        digests.add(weights_digest(tmp_path))
    path.write_bytes(bytes(size - part) + b"\1" * part)
    digests.add(weights_digest(tmp_path))
    assert len(digests) == 10


def test_pickled_weights_load_without_running_what_they_hold(models, tmp_path):
    folder = shutil.copytree(models["VitGpt2"], tmp_path / "model")
    expected = load("VitGpt2", folder).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(expected, folder / "pytorch_model.bin")
    assert fetch_transformers_folder(str(folder), "vision-encoder-decoder") == folder
    loaded = load("VitGpt2", folder).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in expected.items())

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({**expected, "trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="the model does not load"):
        load("VitGpt2", folder)
    assert not (tmp_path / "ran").exists()


QUANTIZED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}


VISION = {key: value for key, value in tiny_captioners.VISION.items() if key != "num_hidden_layers"}


def edit(file, **changes):
    return lambda folder: (folder / file).write_text(json.dumps(
        {**(json.loads((folder / file).read_text()) if (folder / file).exists() else {}), **changes}))


@pytest.mark.parametrize(("damage", "said"), [
    (lambda folder: os.truncate(folder / "model.safetensors", 5000), "the model does not load"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "the tokenizer does not load"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "the image processor does not load"),
    (edit("config.json", **QUANTIZED), "config.json: its weights are quantized"),
    (edit("config.json", decoder={"model_type": "gpt2", **QUANTIZED}), "config.json: its weights are quantized"),
    (edit("config.json", decoder={"model_type": "gpt2", "_attn_implementation": "owner/kernel"}), "does not load"),
    (edit("config.json", encoder={"model_type": "vit", "num_hidden_layers": 3, **VISION}), "lacks 16 weights"),
    (edit("adapter_config.json", base_model_name_or_path="owner/base", peft_type="LORA"), "it is an adapter"),
])
def test_a_damaged_model_is_one_line_with_the_part_and_asks_nobody(damage, said, models, tmp_path, asked):
    folder = shutil.copytree(models["VitGpt2"], tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError) as refused:
        load("VitGpt2", folder)
    message = str(refused.value)
    assert said in message and str(folder) in message and "\n" not in message, message
    assert asked == []


def test_a_clip_that_does_not_fit_together_or_computes_no_numbers_is_one_line(tmp_path):
    folder = tiny_captioners.build_tiny_clip(tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    clip = load_clip(str(folder), folder, "cpu")
    with pytest.raises(UserError, match=f"{folder}: what the model computes is not a number"):
        clip.encode_images([clip.prepare(Image.new("RGB", (40, 30)))])
    edit("tokenizer_config.json", pad_token="no such token")(folder)
    with pytest.raises(UserError, match="use the tokenizer the model was trained"):
        load_clip(str(folder), folder, "cpu")


def test_too_little_memory_of_a_cpu_is_said_with_the_flag_that_helps(models, monkeypatch):
    model = load("VitGpt2", models["VitGpt2"])
    image = model.prepare(Image.new("RGB", (9, 7)))
    monkeypatch.setattr(model.model, "generate", lambda **_: torch.empty(2**55, dtype=torch.uint8))
    with pytest.raises(UserError, match="--batch_size 2 is too much for cpu; give a smaller one"):
        model.describe([image, image])


# Folders and the hub


@pytest.mark.parametrize(("change", "problem"), [
    (lambda folder: shutil.rmtree(folder), "no such folder; give the folder of a blip-2 model or a hub id"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json there; give the folder of a blip-2"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "git"}'), "is of a git model; give the"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json: a JSON object is expected"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json: not valid JSON"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no weights there"),
])
def test_unusable_folder_is_refused_before_anything_loads(change, problem, models, tmp_path):
    folder = shutil.copytree(models["BLIP2"], tmp_path / "model")
    change(folder)
    with pytest.raises(UserError, match=problem):
        fetch_transformers_folder(str(folder), "blip-2")


def test_wrong_model_costs_one_line_and_no_captions(data, models, run_script):
    result = run_script(["BLIP2.py", "--gesture", "call", "--data_dir", data, "--model", models["VitGpt2"],
                         "--overwrite"])
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (f"error: {models['VitGpt2']}: its config.json is of a vision-encoder-decoder model; "
                             "give the folder of a blip-2 model\n")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers every request as the hub answers for a gated model, or for one that it does not know."""

    codes = {"gated": (403, "GatedRepo"), "unknown": (401, "RepoNotFound")}

    def do_GET(self):
        status, code = self.codes["gated" if "paligemma" in self.path else "unknown"]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_gated_unknown_and_unreachable_models_are_told_apart_in_one_line(data, run_script, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0",
               "HF_HOME": str(tmp_path), "no_proxy": "*"}
        args = ["--gesture", "call", "--data_dir", data, "--overwrite"]
        gated = run_script(["PaliGemma.py", *args], env=hub)
        unknown = run_script(["BLIP2.py", *args, "--model", "nobody/nothing"], env=hub)
        server.shutdown()
    gone = run_script(["VitGpt2.py", *args], env={**hub, "HF_HUB_OFFLINE": "1"})
    for result, wanted in ((gated, "accept its licence on https://huggingface.co/google/paligemma-3b-mix-224, then"),
                           (unknown, "nobody/nothing: neither a local folder nor a public model of the Hugging"),
                           (gone, "nlpconnect/vit-gpt2-image-captioning: not a local folder, and the Hugging Face")):
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
        assert wanted in result.stderr and result.stdout == ""
