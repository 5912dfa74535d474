"""The flags of train.py whose defaults a preset sets: one row each, with the values of both presets."""

import argparse
import importlib.util

from utils.system import cli, errors, processes

PRESETS = ("improved", "paper")

# The improved values are meant for Stable Diffusion v1.4 and 1,000 images: 20 visits of each in batches of 16
# are 1,250 updates, a sixteenth of the paper's, on gradients a quarter as noisy; 1e-5 is where whole U-Nets
# of this size are commonly fine-tuned. The cosine ends the run at rest, and the average smooths what is left.
# F starts at the identity and has to move, so its rate is that of the residuals.
LORA_LR = 1e-4  # of additions that start at zero; where such layers are commonly trained
FLAGS = (  # name, type or choices, improved, paper, help
    ("feature", ("canonical", "raw"), "canonical", "raw",
     "Stage I: mean of hands that were aligned first, or of image coordinates as they are"),
    ("fusion", ("trained", "frozen"), "trained", "frozen",
     "F: a token-wise layer that learns, or the paper's random projection of the whole embedding, whose 3.5 "
     "billion weights at SD v1.4 size take one CPU core about 40 s to make and apply, once per run"),
    ("embedding_batch_size", cli.batch_size, None, None,
     "Stage II: images optimised at once (default: batch_size, with a frozen F at least one for each process); with a "
     "frozen F the result does not depend on it"),
    ("embedding_steps", cli.num_steps, 10, 10, "Stage II: steps per image; 0 leaves it out"),
    ("embedding_lr", cli.nonnegative_float, 1e-3, 1e-3, "Stage II: learning rate of the residuals"),
    ("fusion_lr", cli.nonnegative_float, 1e-3, 1e-3, "Stage II and III: learning rate of a trained F"),
    ("batch_size", cli.batch_size, 16, 1, "Stage III: images per update"),
    ("finetune_steps", cli.num_steps, 20, 20, "Stage III: steps per image; 0 leaves it out"),
    ("lora_rank", cli.int_between(0, 4096), 0, 0,
     "Stage III: train low-rank additions to the attention layers instead of the whole U-Net; needs the package peft"),
    ("finetune_lr", cli.nonnegative_float, 1e-5, 1e-6,
     f"Stage III: learning rate of the U-Net; default with --lora_rank: {LORA_LR}"),
    ("optimizer", ("adamw", "adafactor", "adamw8bit"), "adamw", "adamw",
     "Stage III: adafactor and adamw8bit keep less beside each weight; adamw8bit needs the package bitsandbytes"),
    ("finetune_order", ("shuffled", "image_by_image"), "shuffled", "image_by_image",
     "Stage III: shuffled epochs, or all steps of one batch before the next, each with a new optimiser"),
    ("lr_schedule", ("constant", "cosine"), "cosine", "constant", "Stage III: course of the learning rates"),
    ("lr_warmup_steps", cli.nonnegative_int, 50, 0,
     "Stage III: updates of linear warm-up, at most half of all"),
    ("weight_decay", cli.nonnegative_float, 1e-2, 0.0, "Stage III: AdamW's decay of the U-Net; 0 is Adam"),
    ("max_grad_norm", cli.nonnegative_float, 1.0, 0.0, "Stage III: gradients are clipped to it; 0: no"),
    ("caption_dropout", cli.unit_interval, 0.1, 0.0,
     "Stage III: share of samples that see the empty prompt, for guidance"),
    ("residual_dropout", cli.unit_interval, 0.5, 0.0,
     "Stage III: share of samples without the residual of Stage II, which generation has not"),
    ("ema_decay", cli.unit_interval, 0.999, 0.999,
     "Stage III: highest decay of the moving average of the weights; in update n it is at most (1 + n) / (10 + n)"),
    ("checkpointing_steps", cli.positive_int, 500, 5000,
     "Stage III: updates between checkpoints (14 GB for SD v1.4), its last is one; Stage II writes one per batch"),
    ("mixed_precision", ("auto", "no", "fp16", "bf16"), "auto", "no",
     "arithmetic of the U-Net, whose weights stay fp32; auto is bf16 on GPUs that have it, else no"),
)
EMA = {"improved": True, "paper": False}

# What may differ when a run goes on: where it is, how often it saves, and what leaves every number as it is.
FREE_SETTINGS = ("preset", "output_dir", "data_dir", "device", "debug", "overwrite", "checkpointing_steps",
                 "keep_checkpoints", "gradient_checkpointing", "num_workers")
# Known only when the base model is loaded and the images have been encoded.
LOADED_SETTINGS = ("precision", "base_model_sha256", "images_left_out")


def add_preset_flags(parser):
    """--preset and the flags of FLAGS; those not given are missing from the parsed arguments."""
    parser.add_argument("--preset", choices=PRESETS, default=PRESETS[0],
                        help="defaults of the flags of its group; a flag that is given wins")
    parser = parser.add_argument_group("flags that --preset sets")
    for name, kind, improved, paper, text in FLAGS:
        options = {"choices": kind} if isinstance(kind, tuple) else {"type": kind}
        values = "" if improved is None else f" (improved: {improved}; paper: {paper})"
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=f"{text}{values}", **options)
    parser.add_argument("--ema", action="store_true", default=argparse.SUPPRESS,
                        help="Stage III: keep a moving average of the weights and save that (improved)")
    parser.add_argument("--no_ema", dest="ema", action="store_false", default=argparse.SUPPRESS,
                        help="Stage III: save the last weights; no copy of the U-Net in memory (paper)")


def add_compile_flag(parser):
    """--compile: False, or the mode of torch.compile."""
    parser.add_argument("--compile", nargs="?", const="default", default=False, choices=("default", "reduce-overhead"),
                        help="translate the U-Net with torch.compile: minutes at the start, then faster on a GPU; "
                             "needs a C++ compiler. reduce-overhead also records CUDA graphs, for batches of one image")


def fill_preset(args):
    """Sets the flags that were not given to the values of args.preset.

    With a frozen F the images of a batch of Stage II do not know of each other, so it may give each process one.
    """
    column = 2 + PRESETS.index(args.preset)
    defaults = {row[0]: row[column] for row in FLAGS} | {"ema": EMA[args.preset]}
    if getattr(args, "lora_rank", 0):
        defaults["finetune_lr"] = LORA_LR
    for name, value in defaults.items():
        setattr(args, name, getattr(args, name, value))
    if args.embedding_batch_size is None:
        args.embedding_batch_size = max(args.batch_size, processes.count() if args.fusion == "frozen" else 1)


def check_packages(parser, args):
    """A usage error when a flag asks for a package that is not installed."""
    for is_asked, flag, package in ((args.lora_rank, "--lora_rank", "peft"),
                                    (args.optimizer == "adamw8bit", "--optimizer adamw8bit", "bitsandbytes")):
        if is_asked and importlib.util.find_spec(package) is None:
            parser.error(f"{flag} needs the package {package}: pip install {package}")


def suggest_memory(args):
    """Flags that would make a training that ran out of memory smaller, those first that a run can go on with."""
    smaller = [] if args.gradient_checkpointing else ["--gradient_checkpointing (the run goes on with it)"]
    anew = [f"--{name} {max(1, getattr(args, name) // 2)}" for name in ("batch_size", "embedding_batch_size")
            if getattr(args, name) > 1]
    anew += ["--no_ema"] if args.ema else []
    if not args.lora_rank:
        anew += ["--optimizer adafactor"] if args.optimizer == "adamw" else []
        anew += ["--lora_rank 16"]
    return ", ".join(smaller + ([f"or anew with --overwrite and {', '.join(anew)}"] if anew else []))


def choose_precision(mixed_precision, device):
    """(no, fp16 or bf16; the matching torch dtype) for --mixed_precision on a torch device."""
    import torch  # here, because parse_args needs this module

    from utils.system.device import has_bf16

    if mixed_precision == "auto":
        mixed_precision = "bf16" if device.type == "cuda" and has_bf16(device) else "no"
    if mixed_precision == "fp16" and device.type == "cpu":
        raise errors.UserError("--mixed_precision fp16 needs a GPU; choose no or bf16")
    dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return mixed_precision, dtypes[mixed_precision]


def bound_settings(settings):
    """The settings that a run keeps from its first to its last step."""
    return {name: value for name, value in settings.items() if name not in FREE_SETTINGS}
