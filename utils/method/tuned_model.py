"""What image_generation.py draws with: a model folder of train.py or its base, each with what belongs to it."""

from dataclasses import dataclass

import torch

from utils.method.fusion import check_digest, check_sizes, fuse, load_fusion
from utils.method.gesture_feature import check_feature_info, load_feature, warn_without_info
from utils.models import lora, stable_diffusion
from utils.system import processes
from utils.system.digests import digest_files, digests_so_far, sha256
from utils.system.errors import UserError


@dataclass
class TunedModel:
    """A Stable Diffusion with its fusion and gesture feature (63,), which are None where plain prompts are drawn."""

    sd: stable_diffusion.StableDiffusion
    fusion: object
    feature: torch.Tensor | None
    resolution: int
    settings: dict  # the resolution, and digests of all that the images depend on

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


def load_tuned_model(ckpt, is_base, feature_path=None, resolution=None):
    """The TunedModel of the folder `ckpt`, or with `is_base` the model before fine-tuning, which may be a hub id.

    feature_path, resolution: instead of those in the folder. UserError where parts are missing, damaged or do not
    belong together.
    """
    fusion, feature, config, name = None, None, {}, str(ckpt)
    has_fusion = not is_base or (ckpt / "fusion.json").is_file()
    is_lora = has_fusion and (ckpt / lora.LORA_FILE).is_file()
    if has_fusion:
        fusion, feature, config = load_fusion(ckpt)
        if feature_path:
            feature = torch.from_numpy(load_feature(feature_path))
            trained_with = {"gesture": config.get("gesture"), "kind": config.get("feature")}
            check_feature_info(feature_path, trained_with, f"{ckpt} was trained with")
            if processes.is_first():
                warn_without_info(feature_path)
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

    def check_digests():
        """Compares the weights with those that the fusion was trained with; their digests for the settings."""
        digests = digests_so_far(sd.text_encoder, sd.unet, sd.vae, *layers)
        found = {"models_sha256": digests[-1]}
        if has_fusion and (is_base or is_lora):
            check_digest(config, "base_model_sha256", digests[2], name)
        if fusion is not None:
            if is_lora:
                found["lora_sha256"] = digest_files([ckpt / lora.LORA_FILE])
            check_digest(config, "weights_sha256", found.get("lora_sha256", digests[1]), ckpt)
        return found

    settings |= processes.decide(check_digests)
    if is_lora and fusion is not None:
        lora.load_lora(sd, ckpt)
    return TunedModel(sd, fusion, feature, resolution, settings)
