"""One table over all scripts: a command that would succeed, one thing of it spoiled, and how the script refuses it.

Every refusal has its exit status, 2 (usage) or 1 (data), and one line on standard error that names the culprit; every
file stays as it was. What can be read however odd it is, is read, and the rest is named and counted.
"""

import argparse
import ast
import contextlib
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import BLIP2
import cal_fid
import cal_kid
import dataset_evaluate
import enrich_captions
import hand_confidence
import image_generation
import PaliGemma
import train
import VitGpt2
from tests import tiny_captioners
from tests.conftest import ROOT, without_rights
from tests.tiny_models import build_tiny_pipeline
from tests.training_world import write_world
from utils.data import hagrid
from utils.method.fusion import TrainedFusion, save_fusion
from utils.metrics import anatomy_check, results_table
from utils.synthetic import feature_network, render, tiny_stable_diffusion
from utils.system import cli, errors, script
from utils.system.files import read_rows

ALL = {script.__name__.rpartition(".")[2]: script for script in (
    BLIP2, PaliGemma, VitGpt2, enrich_captions, dataset_evaluate, train, image_generation, cal_fid, cal_kid,
    hand_confidence, hagrid, render, results_table, feature_network, anatomy_check, tiny_stable_diffusion)}
CAPTIONERS = ("BLIP2", "PaliGemma", "VitGpt2")
TRAIN = "data/call/train"
NAMES, CAPTIONS = f"{TRAIN}/synthetic_filenames.txt", f"{TRAIN}/synthetic_captions.txt"


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_pipeline):
    """Folder of a tiny model of each kind that a script loads; `model` is one of train.py."""
    folder = tmp_path_factory.mktemp("models")
    tiny_captioners.build_tiny_blip2(folder / "BLIP2")
    tiny_captioners.build_tiny_paligemma(folder / "PaliGemma")
    tiny_captioners.build_tiny_vit_gpt2(folder / "VitGpt2")
    tiny_captioners.build_tiny_clip(folder / "clip")
    shutil.copytree(tiny_pipeline, folder / "base")
    save_fusion(build_tiny_pipeline(folder / "model", seed=1), TrainedFusion(32), torch.linspace(-1, 1, 63),
                {"gesture": "call", "sequence_length": 16, "embed_dim": 32, "base_model": str(folder / "base")})
    return folder


@pytest.fixture
def place(tmp_path, models):
    """The workspace: data of one gesture with lists, two folders of images, a HaGRID download, a feature, models."""
    write_world(tmp_path, models / "base", num_images=3)
    for split in ("train", "test"):
        data = tmp_path / "data" / "call" / split
        os.rename(data / "synthetic_enriched.txt", data / "synthetic_captions.txt")
    for name in ("real", "fake", "hagrid/call"):
        shutil.copytree(tmp_path / TRAIN / "images", tmp_path / name)
    (tmp_path / "rows.jsonl").write_text('{"script": "cal_fid.py", "name": "a", "fid": 1.0}\n')
    (tmp_path / "closed").mkdir(mode=0o500)
    return tmp_path


def command(name, place, models):
    """A command of the script that would succeed, as a list of texts."""
    data = ["--gesture", "call", "--data_dir", place / "data"]
    two_folders = ["--real_images", place / "real", "--fake_images", place / "fake", "--features", "synthetic",
                   "--region", "full", "--device", "cpu"]
    args = {
        **{name: [*data, "--split", "train", "--model", models / name, "--device", "cpu"] for name in CAPTIONERS},
        "enrich_captions": [*data, "--split", "train", "--captioner", "synthetic", "--backend", "rules"],
        "dataset_evaluate": ["--image_folder", place / TRAIN / "images", "--image_filenames_path", place / NAMES,
                             "--captions_path", place / CAPTIONS, "--model", models / "clip", "--device", "cpu"],
        "train": [*data, "--captioner", "synthetic", "--captions", "captions", "--pretrained_model_name_or_path",
                  models / "base", "--device", "cpu", "--feature_npy_path", place / "feature.npy", "--output_dir",
                  place / "outputs", "--embedding_steps", 0, "--finetune_steps", 0, "--num_validation_images", 0],
        "image_generation": ["--ckpt", models / "model", "--mu", 0.5, "--image_filenames_file", place / NAMES,
                             "--prompts_file", place / CAPTIONS, "--img_save_path", place / "images",
                             "--num_inference_steps", 1, "--device", "cpu"],
        "cal_fid": two_folders,
        "cal_kid": two_folders,
        "hand_confidence": ["--image_folder", place / "real", "--num_workers", 1],
        "hagrid": [*data[:2], "--hagrid_dir", place / "hagrid", "--data_dir", place / "new", "--num_train", 1,
                   "--num_test", 1, "--resolution", 32],
        "render": [*data[:2], "--data_dir", place / "new", "--num_train", 1, "--num_test", 1, "--resolution", 32],
        "results_table": [place / "rows.jsonl"],
    }[name]
    return list(map(str, args))


def run(name, args, capsys):
    """(exit status, standard output, lines on standard error but for warnings, notes and progress) of a script."""
    capsys.readouterr()
    status = 0
    try:
        script.run_main(ALL[name].main, ALL[name].parse_args(list(map(str, args))))
    except SystemExit as stopped:
        status = stopped.code
    output, said = capsys.readouterr()
    lines = [line for line in re.split(r"[\r\n]+", said) if line.strip()]
    is_other = re.compile(r"^(warning: |note: |.*\d+%\||.*\d+\.?\d*(it|s|\w+)/(s|\w+)\])")
    return status, output, [line for line in lines if not is_other.match(line)]


# What is spoiled: functions of the workspace and the arguments, which they change


def given(flag, value):
    """The script is given another value of a flag; {place} is the workspace."""
    def change(place, args):
        text = value.format(place=place)
        if flag in args:
            args[args.index(flag) + 1] = text
        else:
            args.extend((flag, text))
    return change


def missing(path):
    return lambda place, args: shutil.rmtree(place / path)


def a_file(path):
    def change(place, args):
        shutil.rmtree(place / path)
        (place / path).touch()
    return change


def empty(path):
    def change(place, args):
        shutil.rmtree(place / path)
        (place / path).mkdir()
    return change


def closed(path, mode=0):
    return lambda place, args: (place / path).chmod(mode)


def damaged(path):
    """No image of a folder can be read: one is empty, one is text, one is cut."""
    def change(place, args):
        whole = (place / path / "0.png").read_bytes()
        for name, data in (("0.png", b""), ("1.png", b"no image"), ("2.png", whole[:len(whole) // 2])):
            (place / path / name).write_bytes(data)
    return change


def edited(path, edit):
    return lambda place, args: (place / path).write_bytes(edit((place / path).read_bytes()))


def first_name(name):
    """The first name of the list is another one, of an image that is there but for the rule."""
    def change(place, args):
        Image.new("RGB", (8, 8)).save(place / "up.png")
        for folder in (place / TRAIN / "images", place / "images"):
            folder.mkdir(exist_ok=True)
            (folder / "link").symlink_to(place)
        lines = (place / NAMES).read_text().splitlines()
        (place / NAMES).write_text("\n".join([name.format(place=place), *lines[1:]]) + "\n")
    return change


class Payload:
    """Would write a file if it were unpickled."""

    def __reduce__(self):
        return open, (str(ROOT / "pwned"), "w")


def feature(values):
    return lambda place, args: np.save(place / "feature.npy", values, allow_pickle=True)


def spoiled_model(flag, spoil):
    """A copy of the model folder, damaged by spoil(folder)."""
    def change(place, args):
        at = args.index(flag) + 1
        spoil(shutil.copytree(args[at], place / "copy"))
        args[at] = str(place / "copy")
    return change


def cut_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload()))


def of_sdxl(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def of_other_size(folder):
    config = json.loads((folder / "fusion.json").read_text())
    (folder / "fusion.json").write_text(json.dumps({**config, "sequence_length": 8}))


def own_code(folder):
    """The folder brings a class of its own, which would be run."""
    (folder / "own_code.py").write_text(f"open({str(ROOT / 'pwned')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config |= {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own_code.Own"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


# The table: script, what is spoiled, exit status, words of the line

ROWS = []
for names, path, named, statuses in (  # statuses of: missing, a file, empty, may not be read
        (CAPTIONERS, f"{TRAIN}/images", f"{TRAIN}/images", (2, 2, 1, 1)),
        (["enrich_captions"], TRAIN, TRAIN, (2, 2, 2, 2)),
        (["dataset_evaluate"], f"{TRAIN}/images", f"{TRAIN}/images", (2, 2, 1, 1)),
        (["train"], f"{TRAIN}/images", TRAIN, (1, 1, 1, 1)),
        (["cal_fid"], "fake", "fake", (2, 2, 1, 1)), (["cal_kid"], "real", "real", (2, 2, 1, 1)),
        (["hand_confidence"], "real", "real", (2, 2, 1, 1)),
        (["hagrid"], "hagrid/call", "hagrid", (1, 1, 1, 1))):
    for name in names:
        for spoil, status in zip((missing, a_file, empty, closed), statuses, strict=True):
            ROWS.append((name, spoil(path), status, named))
        if name != "enrich_captions":
            ROWS.append((name, damaged(path), 1, path))
for name, flag, statuses in (("image_generation", "--img_save_path", (2, 2)), ("hagrid", "--data_dir", (1, 1)),
                             ("render", "--data_dir", (1, 1)), ("train", "--output_dir", (1, 1)),
                             ("cal_fid", "--output", (2, 2)), ("cal_kid", "--output", (2, 2)),
                             ("hand_confidence", "--per_image", (2, 2)), ("dataset_evaluate", "--output", (2, 2))):
    for path, status in zip(("rows.jsonl", "closed"), statuses, strict=True):  # in a file, where none may be written
        ROWS.append((name, given(flag, f"{{place}}/{path}/out"), status, path))
ROWS += [(name, closed(TRAIN, 0o500), 1, TRAIN) for name in (*CAPTIONERS, "enrich_captions")]
for name in ("dataset_evaluate", "image_generation", "train", "enrich_captions"):
    for path in (NAMES, CAPTIONS):
        for spoil in (lambda data: b"", lambda data: data.replace(b"\n", b"\n\n", 1), lambda data: b"\xe9" + data,
                      lambda data: data[data.index(b"\n") + 1:]):
            ROWS.append((name, edited(path, spoil), 1, path))
for name in ("dataset_evaluate", "image_generation", "train"):
    ROWS += [(name, first_name(outside), 1, outside.removeprefix("{place}"))
             for outside in ("../up.png", "sub/../../up.png", "link/up.png", "{place}/up.png")]
ROWS += [(name, given("--gesture", gesture), 2, gesture)
         for name in (*CAPTIONERS, "enrich_captions", "train", "hand_confidence", "hagrid", "render")
         for gesture in ("../call", "cal")]
for name, flag in (("train", "--pretrained_model_name_or_path"), ("image_generation", "--ckpt")):
    ROWS += [(name, spoiled_model(flag, cut_weights), 1, "unet"),
             (name, spoiled_model(flag, pickled_weights), 1, "pickled weights are never"),
             (name, spoiled_model(flag, of_sdxl), 1, "Stable Diffusion 1.x or 2.x")]
for values in (np.zeros(62), np.full(63, np.nan), np.zeros(63, complex), np.array([Payload()] * 63)):
    ROWS.append(("train", feature(values), 1, "feature.npy"))
ROWS += [
    ("image_generation", spoiled_model("--ckpt", of_other_size), 1, "8 x 32"),
    ("image_generation", spoiled_model("--ckpt", lambda folder: (folder / "fusion.json").unlink()), 1, "fusion.json"),
    ("image_generation", given("--ckpt", "{place}/none"), 2, "none"),
    ("image_generation", given("--feature_npy_path", "{place}/rows.jsonl"), 1, "rows.jsonl"),
    ("image_generation", given("--mu", "1.01"), 2, "--mu"), ("image_generation", given("--mu", "-0.01"), 2, "--mu"),
    ("image_generation", given("--num_inference_steps", "1000"), 1, "--num_inference_steps 1000"),
    ("image_generation", given("--resolution", "33"), 1, "resolution", "33"),
    ("image_generation", given("--device", "quantum"), 2, "--device"),
    ("train", given("--Lambda", "1.01"), 2, "--Lambda"), ("train", given("--Lambda", "nan"), 2, "--Lambda"),
    ("train", given("--resolution", "36"), 1, "36"),
    ("train", given("--pretrained_model_name_or_path", "{place}/none"), 1, "none"),
    ("VitGpt2", spoiled_model("--model", own_code), 1, "the image processor"),
    ("dataset_evaluate", edited(NAMES, lambda data: b"none.png\n" + data[data.index(b"\n") + 1:]), 1, "none.png"),
    ("enrich_captions", given("--backend", "api"), 2, "--api_base"),
    ("hagrid", given("--hagrid_dir", "{place}/none"), 2, "none"),
    ("hagrid", given("--hagrid_dir", "{place}/closed"), 1, "closed"),
    ("hagrid", given("--num_train", "9"), 1, "3 images"),
    ("results_table", edited("rows.jsonl", lambda data: data + b"{"), 1, "rows.jsonl, line 2"),
    ("results_table", edited("rows.jsonl", lambda data: b""), 1, "rows.jsonl"),
]


def contents(folder):
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize(("name", "spoil", "status", "words"), [(*row[:3], row[3:]) for row in ROWS],
                         ids=[f"{row[0]} {row[3]}" for row in ROWS])
def test_bad_input_is_refused_in_one_line_that_names_it(name, spoil, status, words, place, models, capsys):
    args = command(name, place, models)
    spoil(place, args)
    before = contents(place)
    with without_rights():
        found, _, lines = run(name, args, capsys)
    for path in (place / "closed", place / TRAIN, *(place / path for path in (f"{TRAIN}/images", "fake", "real"))):
        path.exists() and path.is_dir() and path.chmod(0o700)
    assert (found, len(lines)) == (status, 1), lines
    assert "error: " in lines[0] and all(word in lines[0] for word in words), lines
    # A captioner keeps in its journal which images it could not read
    assert {path: file for path, file in contents(place).items() if not path.endswith("_captions.jsonl")} == before
    assert not (ROOT / "pwned").exists()


# What is odd and all the same read

NUM_GOOD, NUM_BAD = 7, 4


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Folder of NUM_GOOD images that can be read, however odd, and NUM_BAD that cannot."""
    folder = tmp_path_factory.mktemp("odd")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(folder / "grey16.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("RGBA").save(folder / "-dash alpha.png")
    picture.save(folder / "animated.gif", save_all=True, append_images=[picture.rotate(90)])
    Image.new("RGB", (1, 1), "red").save(folder / "one pixel.png")
    picture.save(folder / "ünï 日本.webp")
    picture.save(folder / "suffix.jpg", format="PNG")
    whole = (folder / "cmyk.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.png").touch()
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    (folder / "pickle.png").write_bytes(pickle.dumps({"a": 1}))
    return folder


@pytest.mark.parametrize("name", ["hand_confidence", "cal_fid", "VitGpt2", "dataset_evaluate", "train"])
def test_odd_images_are_read_and_the_others_are_named_and_counted(name, odd, place, models, capsys):
    for folder in (place / TRAIN / "images", place / "fake", place / "real"):
        shutil.rmtree(folder)
        shutil.copytree(odd, folder)
    (place / NAMES).write_text("".join(f"{path.name}\n" for path in sorted(odd.iterdir())))
    (place / CAPTIONS).write_text("a hand\n" * (NUM_GOOD + NUM_BAD))
    args = command(name, place, models)
    if name in ("hand_confidence", "cal_fid", "dataset_evaluate"):
        args += ["--output", place / "new.jsonl"]
    if name == "train":
        args[args.index("--embedding_steps") + 1] = 1
        args += ["--embedding_batch_size", 1]
    script.run_main(ALL[name].main, ALL[name].parse_args(list(map(str, args))))
    output, said = capsys.readouterr()
    for path in odd.iterdir():
        is_bad = path.stem in ("truncated", "zero", "bomb", "pickle")
        assert (path.name in said + output) == is_bad, (path.name, said)
    if name == "VitGpt2":
        assert f"{NUM_GOOD} captions, {NUM_BAD} images left out" in output
    elif name == "train":
        assert len((place / "outputs/call/losses.jsonl").read_text().splitlines()) == NUM_GOOD  # one update of each
    else:
        read, skipped = {"hand_confidence": ("num_images", "num_skipped"), "cal_fid": ("num_fake", "num_skipped_fake"),
                         "dataset_evaluate": ("num_pairs", "num_skipped")}[name]
        row = read_rows(place / "new.jsonl")[-1]
        assert (row[read], row[skipped]) == (NUM_GOOD, NUM_BAD)


def test_odd_names_and_lists_of_other_systems_go_through_all_stages(place, models, capsys):
    names = ["with space.png", "-dash.png", "ünï 日本 per%cent.png"]
    for split in ("train", "test"):
        data = place / "data" / "call" / split
        for i, name in enumerate(names):
            os.rename(data / "images" / f"{i}.png", data / "images" / name)
        for path in data.glob("synthetic_*"):
            path.unlink()
    for stage in ("VitGpt2", "enrich_captions", "dataset_evaluate", "train", "image_generation"):
        args = [arg.replace("synthetic", "VitGpt2") for arg in command(stage, place, models)]
        assert run(stage, args, capsys)[::2] == (0, []), stage
        for path in (place / TRAIN).glob("VitGpt2_*.txt"):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # BOM, CRLF, no last newline
    assert all((place / "images" / name).is_file() for name in names)


# Numbers


def number_flags(script, monkeypatch):
    """The actions of the numeric flags of a script."""
    found = []

    def look(parser, argv=None):
        for action in parser._actions:
            if action.option_strings and action.type not in (None, str):
                with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
                    action.type("auto")
                    continue
                found.append(action)
        raise StopIteration

    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(cli.ArgumentParser, "parse_args", look)
        script.parse_args([])
    return found


@pytest.mark.parametrize("name", ALL)
def test_no_numeric_flag_takes_what_is_no_number_of_its_kind_and_help_shows_its_limits(name, monkeypatch, capsys):
    actions = number_flags(ALL[name], monkeypatch)
    assert actions or name == "results_table"
    with pytest.raises(SystemExit):
        ALL[name].parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for action in actions:
        flag, limits = action.option_strings[0], getattr(action.type, "limits", None)
        for value in ("nan", "-1", "1e400", "x", "", *(["9" * 30] if limits else [])):
            with pytest.raises(SystemExit) as stopped:
                ALL[name].parse_args([f"{flag}={value}"])
            lines = capsys.readouterr().err.splitlines()
            assert stopped.value.code == 2 and len(lines) == 1, (flag, value, lines)
            assert f"argument {flag}" in lines[0], (flag, value, lines)
        assert limits is None or f"[{limits}]" in shown, flag


@pytest.mark.parametrize("flags", [{"mu": 0}, {"mu": 1}, {"seed": 2**63 - 1}, {"guidance_scale": 0}, {"resolution": 64},
                                   {"batch_size": 4096}, {"num_images": 2**63 - 1}])
def test_numbers_at_their_limits_draw(flags, place, models, capsys):
    args = command("image_generation", place, models)
    for flag, value in flags.items():
        given(f"--{flag}", str(value))(place, args)
    assert run("image_generation", args, capsys)[::2] == (0, [])


# --debug


@pytest.mark.parametrize("name", ["train", "image_generation", "cal_fid", "enrich_captions"])
def test_debug_shows_where_it_was_refused(name, place, models):
    damaged("fake")(place, [])
    (place / CAPTIONS).write_text("")
    with pytest.raises(errors.UserError):
        script.run_main(ALL[name].main, ALL[name].parse_args([*command(name, place, models), "--debug"]))


# The source


def test_nothing_is_unpickled_no_code_is_fetched_and_few_modules_ask_the_network():
    network, users = {"urllib", "http", "socket", "requests", "httpx", "huggingface_hub", "openai"}, set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                asks = any(name.partition(".")[0] in network and name != "urllib.parse" for name in names)
                users |= {path.name} if asks else set()
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert name != "torch.load" or given.get("weights_only") == "True", path
            assert name != "np.load" or given.get("allow_pickle") == "False", path
            chooses_class = name.endswith(".from_pretrained") and "Auto" in name or any(
                ast.unparse(value).startswith("AutoModel") for value in node.args)
            assert given.get("trust_remote_code") == ("False" if chooses_class else None), (path, name)
            assert not name.startswith(("pickle.", "marshal.")) and name not in ("eval", "exec", "os.system"), path
            assert not name.startswith("torch.hub.") or path.name == "inception.py", path
    assert users <= {"hub.py", "inception.py", "chat_client.py", "model_files.py"}
