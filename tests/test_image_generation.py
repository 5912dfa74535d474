"""image_generation.py as a user runs it, on a tiny pipeline with a fusion beside it."""

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image

import image_generation
from tests import scripts
from tests.tiny_models import build_tiny_pipeline
from utils.method.fusion import FrozenFusion, TrainedFusion, fuse, save_fusion
from utils.method.gesture_feature import save_feature
from utils.method.tuned_model import load_tuned_model
from utils.models import sampling
from utils.models.sampling import build_sampler, image_generator, sample_images, to_pil
from utils.models.stable_diffusion import encode_prompts, load_stable_diffusion
from utils.system import errors
from utils.system.digests import digest_weights
from utils.system.file_lock import lock_outputs

NAMES = ["a.jpg", "b.png", "v1.2_c", "d.JPEG", "e.jpg"]
STEMS = ["a", "b", "v1.2_c", "d", "e"]
PROMPTS = ["a photo of a hand", "call gesture", "a photo of a hand", "red background", "blue background"]
FEATURE = torch.linspace(-1, 1, 63)
SIZES = {"gesture": "call", "sequence_length": 16, "embed_dim": 32}


@pytest.fixture(scope="module")
def model(tiny_pipeline, tmp_path_factory):
    """A model folder as train.py leaves it: a tuned pipeline, a trained fusion, the base model's name."""
    folder = build_tiny_pipeline(tmp_path_factory.mktemp("tuned") / "model", seed=1)
    fusion = TrainedFusion(32)
    torch.nn.init.normal_(fusion.fc.weight, std=2, generator=torch.Generator().manual_seed(0))
    save_fusion(folder, fusion, FEATURE, {**SIZES, "base_model": str(tiny_pipeline)})
    return folder


@pytest.fixture
def job(tmp_path, model):
    """Function(**flags): the arguments of a run of three steps; None leaves a flag out."""
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")

    def arguments(**flags):
        flags = {"image_filenames_file": tmp_path / "names.txt", "prompts_file": tmp_path / "prompts.txt",
                 "ckpt": model, "img_save_path": tmp_path / "images", "mu": 0.3, "device": "cpu",
                 "num_inference_steps": 3, **flags}
        return [part for name, value in flags.items() if value is not None
                for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]

    return arguments


def generate(args):
    """Run the script in this process, which spares each test the imports of a new one."""
    image_generation.main(image_generation.parse_args(args))


def read_images(folder, stems=STEMS, suffix="png"):
    return np.stack([np.asarray(Image.open(folder / f"{stem}.{suffix}")).astype(int) for stem in stems])


def expected_images(folder, embed, seed=0):
    """What the list should give, drawn one by one; `embed` maps (sd, prompt) to an embedding (1, L, d)."""
    sd = load_stable_diffusion(folder)
    negative = encode_prompts(sd, [""], "cpu")
    images = [sample_images(sd, build_sampler(sd), embed(sd, prompt), negative, [image_generator(seed, i)],
                            32, 3, 3.0) for i, prompt in enumerate(PROMPTS)]
    return np.stack([np.asarray(image).astype(int) for image in to_pil(torch.cat(images))])


def refusal(args):
    with pytest.raises(errors.UserError) as refused:
        generate(args)
    return str(refused.value)


# What is drawn


def test_the_published_command_line_draws_every_prompt(job, run_script, tmp_path):
    save_feature(tmp_path / "feature.npy", FEATURE.numpy(), "canonical", "call", {})
    args = job(feature_npy_path=tmp_path / "feature.npy", num_inference_steps=None, device=None)
    result = run_script(["image_generation.py", *args])
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "images"
    names = {path.name for path in folder.iterdir()}
    assert names == {*(f"{stem}.png" for stem in STEMS), "generation.json"}
    assert read_images(folder).shape == (5, 32, 32, 3)
    assert Image.open(tmp_path / "images_grid.png").width == 5 * 34 + 2
    settings = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
    assert (settings["num_inference_steps"], settings["guidance_scale"], settings["mu"]) == (45, 3.0, 0.3)
    assert result.stdout.splitlines()[-1].startswith(f"5 images in {folder}")
    assert "Warning" not in result.stderr and "error" not in result.stderr


@pytest.mark.parametrize("mu", [0, 0.3, 1])
def test_images_are_drawn_from_mu_e_plus_1_minus_mu_F(job, model, tmp_path, mu):
    fusion = TrainedFusion(32)
    torch.nn.init.normal_(fusion.fc.weight, std=2, generator=torch.Generator().manual_seed(0))

    def embed(sd, prompt):
        prompt_embeds = encode_prompts(sd, [prompt], "cpu")
        return fuse(prompt_embeds, fusion(prompt_embeds, FEATURE), mu).detach()

    generate(job(mu=mu))
    assert np.abs(read_images(tmp_path / "images") - expected_images(model, embed)).max() <= 1


def test_a_loaded_model_draws_from_python_what_the_script_draws(job, model, tmp_path):
    generate(job(mu=0.3))
    images = load_tuned_model(model).draw(PROMPTS, mu=0.3, num_inference_steps=3, device="cpu")
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), read_images(tmp_path / "images"))


def test_mu_and_the_feature_change_the_images(job, tmp_path):
    save_feature(tmp_path / "other.npy", -FEATURE.numpy(), "canonical", "call", {})
    save_feature(tmp_path / "same.npy", FEATURE.numpy(), "canonical", "call", {})
    variants = {"plain": {}, "mu": {"mu": 0.9}, "other": {"feature_npy_path": tmp_path / "other.npy"},
                "same": {"feature_npy_path": tmp_path / "same.npy"}}
    images = {}
    for name, flags in variants.items():
        generate(job(img_save_path=tmp_path / name, **flags))
        images[name] = read_images(tmp_path / name)
    assert np.array_equal(images["plain"], images["same"])
    for name in ("mu", "other"):
        assert np.abs(images["plain"] - images[name]).max() > 2


def test_a_frozen_fusion_is_made_again_from_its_seed(job, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    fusion = FrozenFusion(16, 32, seed=3)
    save_fusion(tmp_path / "model", fusion, FEATURE, SIZES)

    def embed(sd, prompt):
        prompt_embeds = encode_prompts(sd, [prompt], "cpu")
        return fuse(prompt_embeds, fusion(prompt_embeds, FEATURE), 0.3)

    generate(job(ckpt=tmp_path / "model"))
    assert np.abs(read_images(tmp_path / "images") - expected_images(model, embed)).max() <= 1


def test_base_draws_plain_prompts_with_the_model_before_tuning(job, tiny_pipeline, tmp_path):
    expected = expected_images(tiny_pipeline, lambda sd, prompt: encode_prompts(sd, [prompt], "cpu"))
    generate(job(base=True))
    assert np.abs(read_images(tmp_path / "images") - expected).max() <= 1
    generate(job(base=True, mu=None, ckpt=tiny_pipeline, img_save_path=tmp_path / "plain"))
    assert np.array_equal(read_images(tmp_path / "images"), read_images(tmp_path / "plain"))


def test_an_image_depends_on_the_seed_and_its_place_not_on_the_batch_or_the_others(job, tmp_path):
    generate(job())
    all_at_once = read_images(tmp_path / "images")
    generate(job(img_save_path=tmp_path / "single", batch_size=1))
    generate(job(img_save_path=tmp_path / "pairs", batch_size=2, num_images=3))
    assert np.abs(read_images(tmp_path / "single") - all_at_once).max() <= 1
    assert np.abs(read_images(tmp_path / "pairs", STEMS[:3]) - all_at_once[:3]).max() <= 1
    assert not (tmp_path / "pairs" / "d.png").exists()
    generate(job(img_save_path=tmp_path / "seed", seed=1))
    assert (np.abs(read_images(tmp_path / "seed") - all_at_once).max(axis=(1, 2, 3)) > 2).all()
    assert np.abs(all_at_once[0] - all_at_once[2]).max() > 2  # one prompt, two images


def test_names_may_lie_in_a_folder_of_the_list(job, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"call/{name}" for name in NAMES), encoding="utf-8")
    generate(job())
    assert read_images(tmp_path / "images" / "call").shape == (5, 32, 32, 3)


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "unipc"])
def test_other_samplers_resolutions_and_jpeg(job, tmp_path, scheduler):
    generate(job(scheduler=scheduler, resolution=48, format="jpg", guidance_scale=1))
    assert read_images(tmp_path / "images", suffix="jpg").shape == (5, 48, 48, 3)


# Again, and interrupted


def test_existing_images_are_kept_and_missing_ones_drawn(job, tmp_path, capsys):
    generate(job(num_images=2))
    kept = {stem: (tmp_path / "images" / f"{stem}.png").stat().st_mtime_ns for stem in STEMS[:2]}
    generate(job())
    assert "Drawing 3 images, 2 are already there" in capsys.readouterr().out
    assert kept == {stem: (tmp_path / "images" / f"{stem}.png").stat().st_mtime_ns for stem in kept}
    grid = tmp_path / "images_grid.png"
    before = {path: path.stat().st_mtime_ns for path in [*(tmp_path / "images").iterdir(), grid]}
    generate(job())
    assert "images is finished; --overwrite would" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    grid.unlink()
    generate(job())
    assert "Drawing 0 images, 5 are already there" in capsys.readouterr().out and grid.exists()
    generate(job(img_save_path=tmp_path / "whole"))
    assert np.abs(read_images(tmp_path / "images") - read_images(tmp_path / "whole")).max() <= 1


@pytest.mark.parametrize("lost", [[1], [0, 4], [2, 3, 4]])
def test_images_drawn_again_have_the_same_bits(lost, job, tmp_path):
    generate(job(batch_size=2))
    whole = {stem: (tmp_path / "images" / f"{stem}.png").read_bytes() for stem in STEMS}
    for i in lost:
        (tmp_path / "images" / f"{STEMS[i]}.png").unlink()
    generate(job(batch_size=2))
    assert {stem: (tmp_path / "images" / f"{stem}.png").read_bytes() for stem in STEMS} == whole


def test_a_run_that_was_stopped_continues_to_the_same_images(job, tmp_path):
    stems = range(14)
    (tmp_path / "names.txt").write_text("\n".join(f"{i}.png" for i in stems), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[i % 5] for i in stems), encoding="utf-8")
    folder = tmp_path / "images"

    def drawn():
        return len(list(folder.glob("[0-9]*.png")))

    for stop, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = drawn()
        command = ["image_generation.py", *job(batch_size=1, num_inference_steps=30)]
        process = scripts.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and drawn() < before + 2:
            time.sleep(0.01)
        process.send_signal(stop)
        errors = process.communicate()[1]
        assert process.returncode == status and "Traceback" not in errors, errors
        assert before + 2 <= drawn() < len(stems)
    generate(job(batch_size=1, num_inference_steps=30))
    generate(job(batch_size=1, num_inference_steps=30, img_save_path=tmp_path / "whole"))
    assert np.array_equal(read_images(folder, stems), read_images(tmp_path / "whole", stems))


def test_other_settings_are_refused_with_what_differs_unless_overwritten(job, model, tmp_path):
    generate(job())
    before = read_images(tmp_path / "images")
    message = refusal(job(mu=0.6, seed=4))
    for part in ("mu: 0.3 there, 0.6 now", "seed: 0 there, 4 now", "--overwrite"):
        assert part in message
    assert "resolution: 32 there, 64 now" in refusal(job(resolution=64))
    assert "lists_sha256" in refusal(job(prompts_file=tmp_path / "names.txt"))
    assert np.array_equal(read_images(tmp_path / "images"), before)
    generate(job(batch_size=2, num_images=2))  # what changes no image may differ
    generate(job(mu=0.6, seed=4, overwrite=True))
    generate(job(mu=0.6, seed=4, img_save_path=tmp_path / "new"))
    assert np.array_equal(read_images(tmp_path / "images"), read_images(tmp_path / "new"))


def test_another_feature_and_a_model_trained_again_at_the_same_path_are_noticed(job, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    generate(job(ckpt=folder, num_images=1))
    save_feature(tmp_path / "other.npy", -FEATURE.numpy(), "canonical", "call", {})
    assert "feature_sha256" in refusal(job(ckpt=folder, feature_npy_path=tmp_path / "other.npy"))
    save_fusion(folder, TrainedFusion(32), FEATURE, SIZES)
    assert "models_sha256" in refusal(job(ckpt=folder))


def test_a_fusion_beside_the_weights_of_another_training_is_refused(job, model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    sd = load_stable_diffusion(folder)
    config = {**SIZES, "weights_sha256": digest_weights(sd.text_encoder, sd.unet)}
    save_fusion(folder, TrainedFusion(32), FEATURE, config)
    generate(job(ckpt=folder, num_images=1))
    assert "warning" not in capsys.readouterr().err
    other = build_tiny_pipeline(tmp_path / "other", seed=2)
    for name in ("fusion.json", "fusion.safetensors"):
        shutil.copy(folder / name, other / name)
    assert "does not belong to" in refusal(job(ckpt=other, img_save_path=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_fusion_file_of_another_gesture_is_refused(job, model, tmp_path):
    folder, other = shutil.copytree(model, tmp_path / "model"), tmp_path / "other"
    other.mkdir()
    save_fusion(folder, TrainedFusion(32), FEATURE, SIZES)
    save_fusion(other, TrainedFusion(32), -FEATURE, SIZES)
    shutil.copy(other / "fusion.safetensors", folder)
    assert "fusion.safetensors (fusion_sha256" in refusal(job(ckpt=folder))


def test_overwrite_costs_no_image_when_nothing_can_be_drawn(job, tmp_path, monkeypatch):
    generate(job(num_images=2))
    before = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}

    def sample_images(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sampling, "sample_images", sample_images)
    assert "too little memory for a batch" in refusal(job(mu=0.6, overwrite=True))
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == before


def test_a_base_model_that_was_replaced_is_refused(job, model, tiny_pipeline, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    sd = load_stable_diffusion(tiny_pipeline)
    digest = digest_weights(sd.text_encoder, sd.unet, sd.vae)
    for base, is_its_own in ((tiny_pipeline, True), (model, False)):
        config = {**SIZES, "base_model": str(base), "base_model_sha256": digest}
        save_fusion(folder, TrainedFusion(32), FEATURE, config)
        flags = job(ckpt=folder, base=True, num_images=1)
        generate(flags) if is_its_own else pytest.raises(errors.UserError, generate, flags).match("base_model_sha256")


@pytest.mark.parametrize(("kind", "gesture"), [("raw", "call"), ("canonical", "fist")])
def test_a_feature_of_another_kind_or_gesture_is_refused(job, model, tmp_path, kind, gesture):
    folder = shutil.copytree(model, tmp_path / "model")
    save_fusion(folder, TrainedFusion(32), FEATURE, {**SIZES, "feature": "canonical"})
    save_feature(tmp_path / "feature.npy", FEATURE.numpy(), kind, gesture, {})
    assert "feature.npy: its " in refusal(job(ckpt=folder, feature_npy_path=tmp_path / "feature.npy"))
    (tmp_path / "feature.json").unlink()
    generate(job(ckpt=folder, feature_npy_path=tmp_path / "feature.npy", num_images=1))


def test_a_second_run_into_the_folder_is_refused_and_changes_nothing(job, tmp_path):
    generate(job(num_images=1))
    before = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    with lock_outputs(tmp_path / "images"):
        for flags in ({}, {"mu": 0.6, "overwrite": True}):
            assert "images: another run is writing to it; wait for its end" in refusal(job(**flags))
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == before


def test_images_of_unknown_origin_are_not_taken_for_ours(job, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "b.png")
    assert "b.png" in refusal(job())
    generate(job(overwrite=True))
    assert read_images(tmp_path / "images").shape == (5, 32, 32, 3)


def test_other_images_in_the_folder_are_mentioned(job, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "holiday.png")
    generate(job())
    assert "1 other images lie in" in capsys.readouterr().out


# Refusals


@pytest.mark.parametrize(("flags", "said"), [
    ({"mu": 1.5}, "--mu"), ({"mu": -0.1}, "--mu"), ({"mu": "nan"}, "--mu"), ({"mu": None}, "--mu"),
    ({"batch_size": 0}, "--batch_size"), ({"guidance_scale": "inf"}, "--guidance_scale"),
    ({"num_inference_steps": 0}, "--num_inference_steps"), ({"scheduler": "ddpm"}, "--scheduler"),
    ({"format": "gif"}, "--format"), ({"ckpt": "no/folder"}, "--ckpt"), ({"prompts_file": "no"}, "--prompts"),
    ({"image_filenames_file": "no"}, "--image_file"), ({"feature_npy_path": "no"}, "--feature_npy_path"),
    ({"img_save_path": __file__}, "--img_save_path"),
])
def test_wrong_arguments_cost_one_line_and_exit_2(job, capsys, flags, said):
    with pytest.raises(SystemExit) as exit:
        image_generation.parse_args(job(**flags))
    errors = capsys.readouterr().err
    assert exit.value.code == 2 and said in errors and errors.count("\n") == 1


@pytest.mark.parametrize(("names", "said"), [
    (["a", "b", "../c", "d", "e"], "'../c'"), (["a", "b", "/tmp/c", "d", "e"], "'/tmp/c'"),
    (["a.jpg", "b", "a.png", "d", "e"], "line 3"), (["a", "b"], "has 2 lines"), (["a", "", "c"], "line 2"),
])
def test_unusable_lists_are_refused(job, tmp_path, names, said):
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert said in refusal(job())
    assert not (tmp_path / "images").exists()


def test_a_plain_pipeline_needs_base(job, tiny_pipeline):
    assert "--base" in refusal(job(ckpt=tiny_pipeline))


def test_the_resolution_of_the_training_is_the_default(job, model, tiny_pipeline, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    config = {**SIZES, "base_model": str(tiny_pipeline), "resolution": 40}
    save_fusion(folder, TrainedFusion(32), FEATURE, config)
    for name, flags in {"tuned": {}, "base": {"base": True}}.items():
        generate(job(ckpt=folder, img_save_path=tmp_path / name, num_images=1, **flags))
        assert Image.open(tmp_path / name / "a.png").size == (40, 40)


def test_what_the_model_cannot_do_is_refused(job, tmp_path, model):
    assert "multiple of 8" in refusal(job(resolution=36))
    assert "below 1000" in refusal(job(num_inference_steps=1000))
    assert "needs a GPU" in refusal(job(mixed_precision="fp16"))
    folder = shutil.copytree(model, tmp_path / "model")
    save_fusion(folder, TrainedFusion(48), FEATURE, {**SIZES, "embed_dim": 48})
    assert "16 x 48" in refusal(job(ckpt=folder))
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    assert "bad.npy" in refusal(job(feature_npy_path=tmp_path / "bad.npy"))
    assert not (tmp_path / "images").exists()


def test_an_unreachable_base_model_is_refused(job):
    assert "make demo" in refusal(job(base=True, ckpt="no-such-owner/no-such-model"))
