"""utils/models/stable_diffusion.py on tiny pipelines of real classes, against diffusers' own pipeline."""

import contextlib
import itertools
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.tiny_models import build_tiny_pipeline
from utils.models import hub, stable_diffusion
from utils.models.sampling import (
    SAMPLERS,
    build_sampler,
    decode_latents,
    image_generator,
    sample_images,
    sample_latents,
)
from utils.models.stable_diffusion import encode_prompts, image_latent_moments, load_stable_diffusion, save_pipeline
from utils.system.device import explain_out_of_memory, resolve_device
from utils.system.errors import UserError

PROMPTS = ["a photo of a hand", "call gesture", "a photo of a hand"]


@pytest.fixture(scope="module")
def sd(tiny_pipeline):
    return load_stable_diffusion(tiny_pipeline)


@pytest.fixture
def pipeline_copy(tiny_pipeline, tmp_path):
    return shutil.copytree(tiny_pipeline, tmp_path / "pipeline")


def open_pipeline(folder, **parts):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit_json(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def edit_weights(path, edit):
    tensors = load_file(path)
    save_file(edit(tensors), path, metadata={"format": "pt"})


def generators(indices):
    return [image_generator(0, i) for i in indices]


def sample(sd, indices, prompts=PROMPTS, scheduler="ddim", guidance_scale=3.0, num_inference_steps=5):
    prompt_embeds = encode_prompts(sd, [prompts[i % len(prompts)] for i in indices], "cpu")
    return sample_images(sd, build_sampler(sd, scheduler), prompt_embeds, encode_prompts(sd, [""], "cpu"),
                         generators(indices), 32, num_inference_steps, guidance_scale)


# Load


def test_sizes_are_read_from_the_configs(sd):
    assert (sd.resolution, sd.vae_scale_factor, sd.max_length) == (32, 4, 16)


def test_weights_stored_as_fp16_load_as_fp32(tiny_pipeline, tmp_path, sd):
    open_pipeline(tiny_pipeline, dtype=torch.float16).save_pretrained(tmp_path / "half")
    stored = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    halved = load_stable_diffusion(tmp_path / "half")
    for model in ("text_encoder", "vae", "unet"):
        original = getattr(sd, model).state_dict()
        for name, tensor in getattr(halved, model).state_dict().items():
            assert tensor.dtype == original[name].dtype, name
            assert torch.allclose(tensor, original[name], atol=1e-3), name


def test_a_folder_in_the_layout_of_the_hub_loads(pipeline_copy, sd):
    """As CompVis/stable-diffusion-v1-4: old key names, no tokenizer.json, PNDM, a safety checker."""

    def rename(tensors):
        tensors = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        return {**tensors, "text_model.embeddings.position_ids": torch.arange(16)[None]}

    edit_weights(pipeline_copy / "text_encoder" / "model.safetensors", rename)
    (pipeline_copy / "tokenizer" / "tokenizer.json").unlink()
    index = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
             "scheduler": ["diffusers", "PNDMScheduler"], "tokenizer": ["transformers", "CLIPTokenizerFast"]}
    edit_json(pipeline_copy / "model_index.json", **index)
    scheduler = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.7.0.dev0", "beta_start": 0.00085,
                 "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
                 "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
    (pipeline_copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    loaded = load_stable_diffusion(pipeline_copy)
    assert torch.equal(encode_prompts(loaded, PROMPTS, "cpu"), encode_prompts(sd, PROMPTS, "cpu"))
    assert torch.equal(loaded.noise_scheduler.alphas_cumprod, sd.noise_scheduler.alphas_cumprod)
    assert torch.equal(sample(loaded, [0]), sample(sd, [0]))


def test_the_prediction_type_reaches_training_and_sampling(tmp_path):
    sd = load_stable_diffusion(build_tiny_pipeline(tmp_path / "v", prediction_type="v_prediction"))
    schedulers = [sd.noise_scheduler, *(build_sampler(sd, name) for name in SAMPLERS)]
    assert {scheduler.config.prediction_type for scheduler in schedulers} == {"v_prediction"}


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "vae", "unet", "scheduler"])
def test_a_missing_part_is_named(pipeline_copy, part):
    shutil.rmtree(pipeline_copy / part)
    with pytest.raises(UserError, match=f"the {part} is missing"):
        load_stable_diffusion(pipeline_copy)


@pytest.mark.parametrize("part", ["text_encoder", "vae", "unet"])
def test_damaged_incomplete_and_absent_weights_are_named(pipeline_copy, part):
    path = next((pipeline_copy / part).glob("*.safetensors"))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a model"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"the {part} does not load"):
            load_stable_diffusion(pipeline_copy)
    path.write_bytes(whole)
    first = sorted(load_file(path))[0]
    edit_weights(path, lambda tensors: {k: v for k, v in tensors.items() if k != first})
    with pytest.raises(UserError, match=f"the {part} lacks 1 weights"):
        load_stable_diffusion(pipeline_copy)
    path.write_bytes(whole)
    edit_weights(path, lambda tensors: {**tensors, first: torch.cat([tensors[first]] * 2)})
    with pytest.raises(UserError, match=f"the {part} does not load"):
        load_stable_diffusion(pipeline_copy)
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match=f"{part}/{path.name} is missing .*pickled"):
        load_stable_diffusion(pipeline_copy)


def test_other_architectures_are_refused(pipeline_copy):
    def refusal():
        with pytest.raises(UserError) as refused:
            load_stable_diffusion(pipeline_copy)
        return str(refused.value)

    index, unet = pipeline_copy / "model_index.json", pipeline_copy / "unet" / "config.json"
    original = index.read_text(encoding="utf-8"), unet.read_text(encoding="utf-8")
    second = ["transformers", "CLIPTextModelWithProjection"]
    edit_json(index, _class_name="StableDiffusionXLPipeline", text_encoder_2=second)
    assert "StableDiffusionXLPipeline" in refusal()
    index.write_text(original[0], encoding="utf-8")
    edit_json(index, vae=["diffusers", "AutoencoderTiny"])
    assert "AutoencoderTiny" in refusal()
    index.write_text(original[0], encoding="utf-8")
    for change in ({"in_channels": 9}, {"addition_embed_type": "text_time"}):  # inpainting; SDXL's U-Net
        edit_json(unet, **change)
        assert "more than latents" in refusal()
        unet.write_text(original[1], encoding="utf-8")
    edit_json(unet, cross_attention_dim=64)
    assert "writes 32 values per token, the U-Net reads 64" in refusal()
    index.unlink()
    assert "model_index.json" in refusal()


QUANTIZED = {"quantization_config": {"quant_method": "bitsandbytes"}}
BAD_CONFIGS = [  # file, the whole of it or what changes in it, what the message names
    ("model_index.json", [], "model_index.json"),
    ("model_index.json", {"unet": ["diffusers", 5]}, "the unet is missing"),
    *((f"{part}/config.json", "x", f"{part}/config.json") for part in ("text_encoder", "vae", "unet")),
    *((f"{part}/config.json", QUANTIZED, "quantized") for part in ("text_encoder", "unet")),
    ("text_encoder/config.json", {"num_attention_heads": 0}, "the text_encoder does not load"),
    ("vae/config.json", {"act_fn": None}, "the vae does not load"),
    ("unet/config.json", {"attention_head_dim": 0}, "the unet does not load"),
    ("scheduler/scheduler_config.json", {"beta_start": "x"}, "the scheduler does not load"),
]


@pytest.mark.parametrize(("file", "change", "said"), BAD_CONFIGS)
def test_a_config_that_is_none_is_one_line_with_the_part_and_asks_nobody(pipeline_copy, asked, file, change, said):
    path = pipeline_copy / file
    if isinstance(change, dict):
        edit_json(path, **change)
    else:
        path.write_text(json.dumps(change))
    with pytest.raises(UserError) as refused:
        load_stable_diffusion(pipeline_copy)
    message = str(refused.value)
    assert said in message and str(pipeline_copy) in message and "\n" not in message, message
    assert asked == []


def test_a_kernel_of_the_hub_is_not_asked_for(pipeline_copy, asked):
    edit_json(pipeline_copy / "text_encoder/config.json", _attn_implementation="owner/kernel")
    refused = pytest.raises(UserError, match="the text_encoder does not load")
    # transformers 5.20, the last for Python 3.10, passes over it
    with refused if sys.version_info >= (3, 11) else contextlib.nullcontext():
        load_stable_diffusion(pipeline_copy)
    assert asked == []


def test_a_folder_that_names_models_of_the_hub_loads_without_asking_for_them(pipeline_copy, asked, sd):
    for part in ("text_encoder", "vae", "unet"):
        edit_json(pipeline_copy / part / "config.json", _name_or_path="owner/other",
                  auto_map={"AutoModel": "owner/other--code.Model"})
    edit_json(pipeline_copy / "tokenizer" / "tokenizer_config.json", name_or_path="owner/other")
    loaded = load_stable_diffusion(pipeline_copy)
    assert asked == [] and torch.equal(encode_prompts(loaded, PROMPTS, "cpu"), encode_prompts(sd, PROMPTS, "cpu"))


def test_inside_offline_the_hub_is_asked_nothing_and_outside_again(asked):
    with hub.offline(), pytest.raises(huggingface_hub.errors.OfflineModeIsEnabled):
        huggingface_hub.HfApi().model_info("owner/model")
    assert asked == []
    with pytest.raises(Exception, match="no network in this test"):
        huggingface_hub.HfApi().model_info("owner/model")
    assert asked


def test_what_the_hub_is_asked_says_nothing_of_the_machine(monkeypatch):
    agents = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            agents.append(self.headers["User-Agent"])
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_TELEMETRY", False),
                        ("ENDPOINT", f"http://127.0.0.1:{server.server_port}")):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    with pytest.raises(UserError, match="owner/model"):
        hub.fetch_folder("owner/model", ["*.json"], "a folder")
    server.shutdown()
    server.server_close()
    said = {part.partition("/")[0].strip() for agent in agents for part in agent.split(";")}
    assert agents and said <= {"unknown", "hf_hub", "python"}, agents


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), None])
def test_too_little_memory_is_told_apart_from_damage(error):
    def load():
        if error is None:
            torch.empty(2**55, dtype=torch.uint8)  # more than any machine's address space
        raise error

    with pytest.raises(UserError, match="m: too little memory for the unet"):
        hub.load_part("m", "unet", load)
    with pytest.raises(UserError, match="give less"), explain_out_of_memory("give less"):
        load()
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory("give less"):
        raise RuntimeError("another fault")


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "outputs/call/no_model", "../nowhere"])
def test_what_cannot_be_reached_is_refused_in_one_line_with_the_remedy(name):
    with pytest.raises(UserError, match="Stable Diffusion folder") as refused:
        load_stable_diffusion(name)
    assert str(refused.value).startswith(name) and "\n" not in str(refused.value)
    assert ("make demo" in str(refused.value)) == (name.count("/") == 1 and "." not in name)


def test_devices():
    assert resolve_device("auto").type in ("cpu", "cuda") and resolve_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="cuda:99"):
        resolve_device("cuda:99")


# Encode


def test_prompt_embeddings_are_those_of_the_diffusers_pipeline(sd, tiny_pipeline):
    pipeline = open_pipeline(tiny_pipeline)
    prompts = ["a photo of a hand", "", "žluťoučký 手 🖐", "a hand making a phone call gesture " * 3]
    expected = torch.cat([pipeline.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in prompts])
    assert torch.allclose(encode_prompts(sd, prompts, "cpu", batch_size=3), expected, atol=1e-6)


def test_repeated_prompts_are_encoded_once_and_cut_ones_are_counted(sd, capsys):
    rows = []
    hook = sd.text_encoder.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    embeds = encode_prompts(sd, [*PROMPTS, "background " * 40], "cpu")
    hook.remove()
    assert embeds.shape == (4, 16, 32) and sum(rows) == 3
    assert torch.equal(embeds[0], embeds[2]) and not torch.equal(embeds[0], embeds[1])
    assert "1 prompts are cut to 16 tokens" in capsys.readouterr().err


def test_latents_are_scaled_samples_of_the_posterior(sd):
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = image_latent_moments(sd, pixels)
    assert moments.shape == (2, 8, 8, 8)
    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.stack([torch.randn(1, 4, 8, 8, generator=image_generator(0, i))[0] for i in range(2)])
    expected = (mean + noise * (log_variance / 2).exp()) * sd.vae.config.scaling_factor
    latents = sample_latents(sd, moments, generators(range(2)))
    assert torch.allclose(latents, expected, atol=1e-6)
    assert torch.equal(sample_latents(sd, moments[1:], generators([1])), latents[1:])


def test_decoding_undoes_the_scaling_and_ends_in_0_to_1(sd):
    latents = 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = decode_latents(sd, latents * sd.vae.config.scaling_factor)
    with torch.no_grad():
        expected = sd.vae.decode(latents).sample / 2 + 0.5
    assert torch.allclose(images, expected.clamp(0, 1), atol=1e-6) and images.dtype == torch.float32


# Sample


@pytest.mark.parametrize("scheduler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_images_are_those_of_the_diffusers_pipeline(tmp_path, scheduler, prediction_type):
    folder = build_tiny_pipeline(tmp_path / "pipeline", prediction_type)
    sd = load_stable_diffusion(folder)
    images = sample(sd, [0, 1, 2], scheduler=scheduler, num_inference_steps=7)
    pipeline = open_pipeline(folder)
    pipeline.scheduler = SAMPLERS[scheduler].from_config(pipeline.scheduler.config)
    latents = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators(range(3))])
    expected = pipeline(PROMPTS, latents=latents, num_inference_steps=7, guidance_scale=3.0, eta=0.0,
                        output_type="pt").images
    assert torch.allclose(images, expected, atol=1e-4)


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(sd, scheduler):
    together = sample(sd, range(5), scheduler=scheduler)
    for indices in ([3], [4, 1, 0, 2]):
        assert (sample(sd, indices, scheduler=scheduler) - together[indices]).abs().max() <= 1 / 255


def test_images_and_prompts_differ_from_one_another(sd):
    images = sample(sd, range(2), prompts=["a photo of a hand"])
    assert (images[0] - images[1]).abs().mean() > 0.02
    assert not torch.allclose(sample(sd, [0], prompts=["call"]), images[:1], atol=1e-4)


def test_guidance_0_ignores_the_prompt_and_1_is_the_conditional_model(sd):
    ignored = [sample(sd, [0], prompts=[prompt], guidance_scale=0) for prompt in ("call", "hand")]
    assert torch.equal(*ignored)
    rows = []
    hook = sd.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    conditional = sample(sd, [0], guidance_scale=1)
    assert set(rows) == {1}
    hook.remove()
    nearly = sample(sd, [0], guidance_scale=1 + 1e-6)
    assert torch.allclose(conditional, nearly, atol=1e-4)
    assert not torch.allclose(conditional, ignored[0], atol=1e-4)


def test_bf16_autocast_comes_close_to_fp32(sd):
    embeds, negative = encode_prompts(sd, PROMPTS[:1], "cpu"), encode_prompts(sd, [""], "cpu")
    images = [sample_images(sd, build_sampler(sd), embeds, negative, generators([0]), 32, 5, 3.0, dtype)
              for dtype in (torch.float32, torch.bfloat16)]
    assert 0 < (images[0] - images[1]).abs().max() < 0.05


def test_seeds_indices_and_purposes_give_different_noise():
    keys = list(itertools.product(range(3), range(40), ("sample", "noise")))
    noise = {key: torch.randn(4, generator=image_generator(*key)) for key in keys}
    assert len({tuple(values.tolist()) for values in noise.values()}) == len(keys)
    assert all(torch.equal(noise[key], torch.randn(4, generator=image_generator(*key))) for key in keys)


# Save


def test_a_saved_pipeline_opens_in_diffusers_and_here_with_the_same_weights(sd, tmp_path):
    folder = tmp_path / "model"
    for _ in range(2):  # the second time over the first
        save_pipeline(sd, folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.rglob("*.bin"))
    pipeline = open_pipeline(folder)
    assert type(pipeline.scheduler) is DDIMScheduler and pipeline.safety_checker is None
    for model in ("text_encoder", "vae", "unet"):
        saved, original = getattr(pipeline, model).state_dict(), getattr(sd, model).state_dict()
        assert saved.keys() == original.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in original.items())
    assert torch.equal(sample(load_stable_diffusion(folder), [0]), sample(sd, [0]))


def test_an_interrupted_save_leaves_the_old_pipeline_whole(sd, tmp_path, tmp_path_factory, monkeypatch):
    folder = tmp_path / "model"
    save_pipeline(sd, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    other = load_stable_diffusion(build_tiny_pipeline(tmp_path_factory.mktemp("other") / "pipeline", seed=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stable_diffusion.UNet2DConditionModel, "save_pretrained", interrupt)
        save_pipeline(other, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]
