"""Which images each update of a stage sees, and how fast it learns. Both are functions of the step alone."""

import functools
import math
from dataclasses import dataclass

import torch

from utils.method.presets import PRESETS
from utils.models.sampling import image_generator


@dataclass(frozen=True)
class Plan:
    """Every image is visited `steps_per_image` times, in rounds or in shuffled epochs.

    A round is one batch for all its steps, in list order. In epochs a batch runs on into the next epoch, so
    that all batches but the very last are full.
    """

    num_images: int
    batch_size: int
    steps_per_image: int
    shuffle_seed: int | None = None  # None: rounds

    @property
    def in_rounds(self):
        return self.shuffle_seed is None

    def __len__(self):
        """The number of updates."""
        if self.in_rounds:
            return math.ceil(self.num_images / self.batch_size) * self.steps_per_image
        return math.ceil(self.num_images * self.steps_per_image / self.batch_size)

    def samples(self, step):
        """The images of an update, and how often each has been visited before: two lists of one length."""
        if self.in_rounds:
            first = step // self.steps_per_image * self.batch_size
            images = list(range(first, min(first + self.batch_size, self.num_images)))
            return images, [step % self.steps_per_image] * len(images)
        last = min((step + 1) * self.batch_size, self.num_images * self.steps_per_image)
        places = [divmod(place, self.num_images) for place in range(step * self.batch_size, last)]
        images = [shuffled_images(self.shuffle_seed, epoch, self.num_images)[i] for epoch, i in places]
        return images, [epoch for epoch, _ in places]

    def starts_round(self, step):
        return self.in_rounds and step % self.steps_per_image == 0

    def ends_round(self, step):
        return self.in_rounds and (step + 1) % self.steps_per_image == 0


def embedding_plan(num_images, settings):
    """Stage II: one batch after the other, all its steps at once."""
    return Plan(num_images, settings.embedding_batch_size, settings.embedding_steps)


def finetune_plan(num_images, settings):
    """Stage III: shuffled epochs, or as the paper has it image by image."""
    shuffle_seed = settings.seed if settings.finetune_order == "shuffled" else None
    return Plan(num_images, settings.batch_size, settings.finetune_steps, shuffle_seed)


def describe(args, num_images):
    """Lines that say what train.py would do with its parsed arguments, for --dry_run."""
    two, three = embedding_plan(num_images, args), finetune_plan(num_images, args)
    source = f"read from {args.feature_npy_path}" if args.feature_npy_path else "measured with MediaPipe"
    return [
        f"{num_images} images of {args.gesture}, base model {args.pretrained_model_name_or_path}",
        f"Stage I: {args.feature} gesture feature, {source}",
        f"Stage II: {len(two)} updates of {two.batch_size} images, {two.steps_per_image} steps per image",
        f"Stage III: {len(three)} updates of {three.batch_size} images, {three.steps_per_image} steps per image",
        f"{args.num_validation_images} images drawn before and after",
        "settings: " + ", ".join(f"{name} {getattr(args, name)}" for name in ("Lambda", *PRESETS)),
    ]


@functools.lru_cache(maxsize=2)
def shuffled_images(seed, epoch, num_images):
    """The order of the images in one epoch, as a list."""
    generator = image_generator(seed, epoch, purpose="order of epoch")
    return torch.randperm(num_images, generator=generator).tolist()


@dataclass(frozen=True)
class Schedule:
    """What the learning rate is multiplied by: linear warm-up, then constant or half a cosine to zero."""

    num_steps: int
    name: str = "constant"  # or "cosine"
    warmup_steps: int = 0  # at most half of all steps are taken

    def __call__(self, step):
        """The factor in update `step`, in (0, 1]."""
        warmup_steps = min(self.warmup_steps, self.num_steps // 2)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if self.name == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - warmup_steps) / (self.num_steps - warmup_steps))) / 2
