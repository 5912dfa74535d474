"""The tiny Stable Diffusion: its command runs, and the weights in the repository are what they are said to be."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from utils.data.gestures import GESTURES
from utils.models import sampling, stable_diffusion
from utils.synthetic import tiny_diffusion, tiny_parts, tiny_vae
from utils.synthetic.scene import COLORS, SKIN_TONES
from utils.synthetic.tiny_stable_diffusion import load_work, summarise_stage
from utils.system.errors import UserError
from utils.system.file_lock import lock_outputs

SHIPPED = Path(__file__).parent.parent / "utils" / "synthetic" / "tiny-stable-diffusion"


@pytest.fixture(scope="module")
def shipped():
    return stable_diffusion.load_stable_diffusion(str(SHIPPED))


def draw(sd, prompts, seed=0):
    """One image per prompt: uint8 (N, 128, 128, 3)."""
    embeds = stable_diffusion.encode_prompts(sd, ["", *prompts], "cpu")
    generators = [sampling.image_generator(seed, index) for index in range(len(prompts))]
    images = sampling.sample_images(sd, sampling.build_sampler(sd), embeds[1:], embeds[:1], generators,
                                            128, num_inference_steps=12, guidance_scale=3.0)
    return np.stack([np.asarray(image) for image in sampling.to_pil(images)])


@pytest.mark.thorough  # it draws many samples
def test_the_command_makes_a_pipeline_that_diffusers_opens(tmp_path, run_script):
    args = ["-m", "utils.synthetic.tiny_stable_diffusion", "--work_dir", tmp_path / "work",
            "--output_dir", tmp_path / "tiny", "--num_images", "4", "--vae_steps", "2", "--decoder_steps",
            "2", "--diffusion_steps", "2", "--batch_size", "2", "--num_threads", "1"]
    result = run_script(args)
    assert result.returncode == 0, result.stderr
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "tiny")
    image = pipeline("a tan hand", num_inference_steps=1, output_type="np").images[0]
    assert image.shape == (128, 128, 3) and np.isfinite(image).all()
    training = json.loads((tmp_path / "tiny" / "training.json").read_text())
    assert training["settings"]["vae_steps"] == 2 and set(training["stages"]) == {"vae", "decoder", "diffusion"}
    assert (tmp_path / "tiny" / "samples.png").is_file()

    with lock_outputs(tmp_path / "work", "decoder.safetensors"):
        result = run_script(args)
    assert result.returncode == 1 and result.stderr.endswith("decoder.safetensors: another run is writing to it; "
                                                             "wait for its end\n")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("images.npy", b"\x93NUMPY cut off", "images.npy: damaged"),
    ("images.npy", np.zeros((4, 64, 64, 3), np.uint8), "not images of this command"),
    ("images.npy", np.zeros((4, 128, 128, 3)), "not images of this command"),
    ("captions.json", b'["a hand"]', "not one line for each"),
    ("vae.safetensors", b"cut off", "vae.safetensors: not the weights of this stage"),
    ("vae.safetensors", safetensors.torch.save({"a": torch.zeros(1)}), "vae.safetensors: not the weights"),
])
def test_what_the_stages_cannot_have_written_is_named(tmp_path, name, content, message):
    np.save(tmp_path / "images.npy", np.zeros((4, 128, 128, 3), np.uint8))
    (tmp_path / "captions.json").write_text('["a hand", "b", "c", "d"]')
    args = SimpleNamespace(work_dir=tmp_path, num_images=3)
    images, captions, _ = load_work(args)
    assert len(images) == len(captions) == 3
    np.save(tmp_path / name, content) if isinstance(content, np.ndarray) else (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*; delete it"):
        load_work(args)


@pytest.mark.parametrize("text", ["{}", '{"minutes": 1, "losses": []}', '{"minutes": "a", "losses": [1]}'])
def test_the_losses_of_a_stage_are_of_a_stage(tmp_path, text):
    (tmp_path / "vae.json").write_text(text)
    with pytest.raises(UserError, match="no minutes and losses of a stage in it; delete it"):
        summarise_stage(tmp_path / "vae.json")


def test_shipped_weights_are_fp16_and_at_most_15_megabytes():
    weights = list(SHIPPED.rglob("*.safetensors"))
    assert len(weights) == 3
    assert {tensor.dtype for path in weights for tensor in load_file(path).values()} == {torch.float16}
    assert sum(path.stat().st_size for path in weights) <= 15_000_000


def test_shipped_tokenizer_knows_the_words_and_takes_any_other():
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    words = {*SKIN_TONES, *COLORS, *(word for gesture in GESTURES.values() for word in gesture.phrase.split())}
    assert all(len(tokenizer(word).input_ids) == 3 for word in words if word.isalpha())  # start, word, end
    unknown = tokenizer("Zürich 漢字 #7!")
    assert tokenizer.unk_token_id not in unknown.input_ids[1:-1]
    assert tokenizer.decode(unknown.input_ids, skip_special_tokens=True).split() == ["zürich", "漢字", "#", "7", "!"]


def test_shipped_model_paints_the_wall_of_the_prompt(shipped):
    names = ["white", "black", "red", "green", "blue", "yellow"]
    images = draw(shipped, [f"a photo of a tan left hand in front of a {name} background" for name in names])
    walls = np.median(images[:, :24, :16].reshape(len(names), -1, 3), axis=1)  # the top left corner, mostly wall
    colors = np.array([COLORS[name] for name in names])
    nearest = np.abs(walls[:, None] - colors).sum(2).argmin(1)
    assert (nearest == np.arange(len(names))).sum() >= 5, walls


def test_shipped_autoencoder_is_sharp_and_its_latents_have_variance_one(shipped):
    from tests.rendered_hands import render_hand

    images = np.stack([np.asarray(render_hand("palm", index).image) for index in range(8)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    moments = stable_diffusion.image_latent_moments(shipped, pixels)
    latents = moments.chunk(2, dim=1)[0] * shipped.vae.config.scaling_factor
    assert 0.8 < latents.std() < 1.25
    decoded = sampling.decode_latents(shipped, latents)
    error = (decoded - (pixels / 2 + 0.5)).abs()
    assert error.mean() < 0.03


def test_standardised_latents_have_variance_one_and_decode_to_the_same():
    torch.manual_seed(0)
    vae = tiny_parts.build_vae().eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    latents = tiny_diffusion.encode_dataset(vae, images, torch.float32)
    with torch.no_grad():
        before = vae.decode(latents[0]).sample
        tiny_vae.standardise_latents(vae, latents.flatten(0, 1))
        latents = tiny_diffusion.encode_dataset(vae, images, torch.float32)
        after = vae.decode(latents[0]).sample
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latents.std((0, 1, 3, 4)), torch.ones(4), atol=1e-3, rtol=0)


def test_mirrored_captions_swap_left_and_right_only():
    assert tiny_diffusion.mirror_caption("a tan left hand") == "a tan right hand"
    assert tiny_diffusion.mirror_caption("a tan right hand, upright") == "a tan left hand, upright"


def test_training_captions_are_dropped_and_phrased_in_their_shares():
    rng = np.random.default_rng(0)
    drawn = [tiny_diffusion.draw_caption("a hand", ["making ok"], rng) for _ in range(2000)]
    assert abs(drawn.count("") / 2000 - 0.1) < 0.03
    assert abs(drawn.count("a hand making ok") / 2000 - 0.45) < 0.04
    assert drawn.count("a hand") == 2000 - drawn.count("") - drawn.count("a hand making ok")
