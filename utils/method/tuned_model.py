"""What image_generation.py draws with: a model folder of train.py or its base, each with what belongs to it."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from utils.method.fusion import check_digest, check_sizes, fuse, load_fusion
from utils.method.gesture_feature import check_feature_info, load_feature
from utils.models import lora, sampling, stable_diffusion
from utils.system import processes
from utils.system.device import choose_precision, resolve_device
from utils.system.digests import digest_files, digests_so_far, sha256
from utils.system.errors import UserError

DRAWN_AT_ONCE = 8


@dataclass
class TunedModel:
    """A Stable Diffusion with its fusion and gesture feature (63,), which are None where plain prompts are drawn."""

    sd: stable_diffusion.StableDiffusion
    fusion: object
    feature: torch.Tensor | None
    resolution: int
    settings: dict = field(repr=False)  # the resolution, and digests of all that the images depend on

    def embed(self, prompts, mu, device):
        """Embeddings (N, L, d) of `prompts` on the CPU: e without a fusion, else mu*e + (1 - mu)*F(e, g)."""
        prompt_embeds = stable_diffusion.encode_prompts(self.sd, prompts, device)
        if self.fusion is None or mu == 1:
            return prompt_embeds
        if isinstance(self.fusion, torch.nn.Module):
            self.fusion.to(device)
        with torch.no_grad():
            fused = self.fusion(prompt_embeds.to(device), self.feature.to(device)).cpu()
        return fuse(prompt_embeds, fused, mu)

    def draw(self, prompts, mu=0.7, seed=0, num_inference_steps=45, guidance_scale=3.0, device="auto"):
        """PIL images of a list of prompts, as image_generation.py draws them; image i has the i-th noise of `seed`."""
        device = resolve_device(device)
        prompt_embeds = self.embed(prompts, mu, device)
        negative_embeds = stable_diffusion.encode_prompts(self.sd, [""], device)
        _, weight_dtype = choose_precision("auto", device)
        self.sd.unet.to(device, weight_dtype)
        self.sd.vae.to(device)
        sampler, images = sampling.build_sampler(self.sd), []
        for start in range(0, len(prompts), DRAWN_AT_ONCE):
            chunk = prompt_embeds[start : start + DRAWN_AT_ONCE]
            generators = [sampling.image_generator(seed, start + i) for i in range(len(chunk))]
            images += sampling.to_pil(sampling.sample_images(
                self.sd, sampler, chunk, negative_embeds, generators, self.resolution, num_inference_steps,
                guidance_scale, weight_dtype))
        return images


def load_tuned_model(ckpt, is_base=False, feature_path=None, resolution=None):
    """The TunedModel of the folder `ckpt`, or with `is_base` the model before fine-tuning, which may be a hub id.

    feature_path, resolution: instead of those in the folder. UserError where parts are missing, damaged or do not
    belong together.
    """
    ckpt = Path(ckpt)
    fusion, feature, config, name = None, None, {}, str(ckpt)
    has_fusion = not is_base or (ckpt / "fusion.json").is_file()
    is_lora = has_fusion and (ckpt / lora.LORA_FILE).is_file()
    if has_fusion:
        fusion, feature, config = load_fusion(ckpt)
        if feature_path:
            feature = torch.from_numpy(load_feature(feature_path))
            trained_with = {"gesture": config.get("gesture"), "kind": config.get("feature"),
                            "detector": config.get("detector")}
            check_feature_info(feature_path, trained_with, f"{ckpt} was trained with")
        if is_base or is_lora:
            name = config.get("base_model")
            if not isinstance(name, str):
                raise UserError(f"{ckpt}/fusion.json names no base_model; train again")
    if is_base:
        fusion = None

    processes.report(f"Loading {name}")
    sd = stable_diffusion.load_stable_diffusion(name)
    resolution = stable_diffusion.check_resolution(sd, resolution or config.get("resolution"))
    settings = {"resolution": resolution}
    if fusion is not None:
        check_sizes(config, sd.max_length, sd.text_encoder.config.hidden_size)
        settings |= {"fusion": fusion.settings(), "feature_sha256": sha256([feature.numpy()])}
    layers = [fusion] if isinstance(fusion, torch.nn.Module) else []

    # Compare the weights with those that the fusion was trained with.
    digests = digests_so_far(sd.text_encoder, sd.unet, sd.vae, *layers)
    settings["models_sha256"] = digests[-1]
    if has_fusion and (is_base or is_lora):
        check_digest(config, "base_model_sha256", digests[2], name)
    if fusion is not None:
        if is_lora:
            settings["lora_sha256"] = digest_files([ckpt / lora.LORA_FILE])
        check_digest(config, "weights_sha256", settings.get("lora_sha256", digests[1]), ckpt)
    if is_lora and fusion is not None:
        lora.load_lora(sd, ckpt)
    return TunedModel(sd, fusion, feature, resolution, settings)
