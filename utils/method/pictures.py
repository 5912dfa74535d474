"""Pictures of a training run: the few images drawn before and after it, and the curves of its losses."""

import contextlib

import numpy as np
import torch

from utils.data.images import contact_sheet, open_image, read_lines, save_image
from utils.models.sampling import build_sampler, image_generator, is_compiled, sample_images, to_pil
from utils.system.files import atomic_path

DRAWN_AT_ONCE = 4
NUM_INFERENCE_STEPS, GUIDANCE_SCALE = 45, 3.0  # as published


def choose_prompts(args, captions):
    """A prompt per image: the user's in turn, or captions from all over the test or training list."""
    count = args.num_validation_images
    if args.validation_prompts:
        return [args.validation_prompts[i % len(args.validation_prompts)] for i in range(count)]
    test_captions = args.data_dir / args.gesture / "test" / f"{args.captioner}_{args.captions}.txt"
    pool = read_lines(test_captions) if test_captions.is_file() else captions
    return [pool[i * len(pool) // count] for i in range(count)]


class ValidationSamples:
    """Images of the same prompts from the same noise, as `<folder>/<name of a model>_<number>.png`."""

    def __init__(self, folder, sd, prompts, resolution, seed, device, weight_dtype):
        self.folder = folder
        self.sd = sd
        self.prompts = prompts
        self.resolution = resolution
        self.seed = seed
        self.device = device
        self.weight_dtype = weight_dtype

    def paths(self, name):
        return [self.folder / f"{name}_{i}.png" for i in range(len(self.prompts))]

    def are_drawn(self, name):
        return all(path.is_file() for path in self.paths(name))

    def draw(self, name, prompt_embeds, negative_embeds):
        """Draws with the present U-Net: prompt_embeds (V, L, d), negative_embeds (1, L, d).

        Also a compiled one is run as it is: to compile it again for batches of another size takes longer.
        """
        self.sd.unet.to(self.device)
        self.sd.vae.to(self.device)
        paths = self.paths(name)
        for start in range(0, len(paths), DRAWN_AT_ONCE):
            chunk = range(len(paths))[start : start + DRAWN_AT_ONCE]
            generators = [image_generator(self.seed, i, purpose="validation") for i in chunk]
            with torch.compiler.set_stance("force_eager") if is_compiled(self.sd.unet) else contextlib.nullcontext():
                images = sample_images(
                    self.sd, build_sampler(self.sd), prompt_embeds[start : start + len(chunk)], negative_embeds,
                    generators, self.resolution, NUM_INFERENCE_STEPS, GUIDANCE_SCALE, self.weight_dtype)
            for i, image in zip(chunk, to_pil(images), strict=True):
                save_image(image, paths[i])
        self.sd.vae.to("cpu")

    def save_sheet(self, path, names):
        """One row per name, one column per prompt; nothing without prompts."""
        if not self.prompts:
            return
        images = [open_image(file) for name in names for file in self.paths(name)]
        captions = [f"{name}: {prompt}" for name in names for prompt in self.prompts]
        save_image(contact_sheet(images, len(self.prompts), captions), path)


def running_mean(values, window):
    """Mean of each value and the up to window - 1 before it: (n,) -> (n,)."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def save_loss_curves(path, losses):
    """One panel per stage of {stage name: (n,) losses}: every update, and the mean of the last twentieth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = {name: np.asarray(values, dtype=np.float64) for name, values in losses.items() if len(values)}
    figure, panels = pyplot.subplots(1, max(1, len(losses)), figsize=(11, 4), squeeze=False)
    for panel, (name, values) in zip(panels[0], losses.items(), strict=False):
        window = max(1, len(values) // 20)
        panel.plot(values, color="tab:blue", alpha=0.3, linewidth=0.8, label="update")
        panel.plot(running_mean(values, window), color="tab:blue", label=f"mean of {window}")
        panel.set(title=name, xlabel="update", ylabel="denoising loss")
        panel.legend()
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)
