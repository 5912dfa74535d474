"""What is random or drawn: generators, latents, samplers, images."""

import hashlib

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from tqdm import tqdm

from utils.system.device import fast_attention, is_out_of_memory

# What StableDiffusionPipeline sets on every scheduler, also where an old config says otherwise.
SCHEDULER_FIXES = {"clip_sample": False, "steps_offset": 1}

SAMPLERS = {
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def image_generator(seed, index, purpose="sample"):
    """A CPU generator for image number `index`; hashing keeps neighbouring seeds and purposes apart."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))  # the CPU engine keeps 32 bits


def sample_latents(sd, moments, generators):
    """Scaled latents (B, C, h, w) drawn from moments (B, 2C, h, w), image i with the i-th generator."""
    latents = DiagonalGaussianDistribution(moments).sample(generators)
    return (latents - (sd.vae.config.shift_factor or 0.0)) * sd.vae.config.scaling_factor


@torch.no_grad()
def decode_latents(sd, latents):
    """Images (B, 3, H, W) in [0, 1], fp32, of scaled latents (B, C, h, w).

    When the memory is too short for all of them, they and later ones are decoded one by one.
    """
    latents = latents / sd.vae.config.scaling_factor + (sd.vae.config.shift_factor or 0.0)
    latents = latents.to(sd.vae.device, sd.vae.dtype)
    try:
        images = sd.vae.decode(latents).sample
    except RuntimeError as error:
        if not is_out_of_memory(error) or sd.vae.use_slicing or len(latents) == 1:
            raise
        images = None
    if images is None:  # out here, where the error no longer holds what the failed attempt had computed
        sd.vae.enable_slicing()
        images = sd.vae.decode(latents).sample
    return (images.float() / 2 + 0.5).clamp(0, 1)


def to_pil(images):
    """PIL images of a tensor (B, 3, H, W) in [0, 1]."""
    arrays = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, 3)
    return [Image.fromarray(array) for array in arrays]


def compile_unet(unet, mode="default"):
    """Has torch.compile translate a U-Net when it first runs: for each shape of a batch anew, not for all of them.

    To be called before the stages of training, whose optimisers and averages take the memory layout of the weights.
    mode: "default" or "reduce-overhead". Convolutions keep their channels first: with channels last, given or chosen
    by the compiler, the gradients of torch 2.13 on a CPU were wrong by half their length, from a loss that was right.
    """
    unet.to(memory_format=torch.contiguous_format)
    unet.compile(dynamic=False, options={"layout_optimization": False, "triton.cudagraphs": mode == "reduce-overhead"})


def is_compiled(unet):
    """Whether compile_unet was called: for others nothing should import torch's compiler, which takes seconds."""
    return unet._compiled_call_impl is not None


def begin_compiled_step(unet):
    """Tells CUDA graphs of a compiled U-Net that a step begins."""
    if is_compiled(unet):
        torch.compiler.cudagraph_mark_step_begin()


def build_sampler(sd, name="ddim"):
    """A scheduler of SAMPLERS on the noise schedule and prediction type of the pipeline."""
    return SAMPLERS[name].from_config(sd.noise_scheduler.config, **SCHEDULER_FIXES)


@torch.no_grad()
def sample_images(sd, sampler, prompt_embeds, negative_embeds, generators, resolution,
                  num_inference_steps, guidance_scale, weight_dtype=torch.float32):
    """Square images (B, 3, H, H) in [0, 1] for prompt_embeds (B, L, d), on the device of the VAE; H is `resolution`.

    negative_embeds (1, L, d) is the unconditional side of classifier-free guidance (Ho and Salimans 2022,
    eq. 6 with w = guidance_scale - 1): 0 ignores the prompt, 1 is the plain conditional model. The first
    noise of image i is drawn on the CPU from generators[i], so that no image depends on its batch. The U-Net
    runs under autocast when `weight_dtype` is not that of its weights; latents and VAE keep fp32.
    """
    device = sd.unet.device
    shape = (sd.unet.config.in_channels, *[resolution // sd.vae_scale_factor] * 2)
    latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
    latents = latents * sampler.init_noise_sigma
    guided = guidance_scale != 1
    prompt_embeds = prompt_embeds.to(device, sd.unet.dtype)
    if guided:
        prompt_embeds = torch.cat([negative_embeds.to(prompt_embeds).expand_as(prompt_embeds), prompt_embeds])

    # The sampler looks its coefficients up on the CPU; timesteps on the GPU would make it wait in every step
    sampler.set_timesteps(num_inference_steps)
    steps = list(zip(sampler.timesteps, sampler.timesteps.to(device), strict=True))
    for timestep, device_timestep in tqdm(steps, desc="denoising", unit="step", leave=False, delay=5):
        model_input = torch.cat([latents, latents]) if guided else latents
        model_input = sampler.scale_model_input(model_input, timestep).to(sd.unet.dtype)
        begin_compiled_step(sd.unet)
        with torch.autocast(device.type, dtype=weight_dtype, enabled=weight_dtype != sd.unet.dtype), \
                fast_attention(device):
            output = sd.unet(model_input, device_timestep, encoder_hidden_states=prompt_embeds).sample.float()
        if guided:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance_scale * (conditional - unconditional)
        latents = sampler.step(output, timestep, latents).prev_sample
    return decode_latents(sd, latents)
