"""The flags of train.py whose defaults a preset sets, and the presets."""

import importlib.util

from utils.system import cli, processes

PRESETS = {
    # `improved`, the default, is meant for Stable Diffusion v1.4 and 1,000 images: 20 visits of each in batches of 16
    # are 1,250 updates, a sixteenth of the paper's, on gradients a quarter as noisy; 1e-5 is where whole U-Nets of
    # this size are commonly fine-tuned. The cosine ends the run at rest, and the average smooths what is left. F starts
    # at the identity and has to move, so its rate is that of the residuals.
    # `paper` does what the released programs do, for comparisons with the published numbers.
    #                      improved     paper
    "feature":             ("canonical", "raw"),
    "fusion":              ("trained",   "frozen"),
    "embedding_steps":     (10,          10),
    "embedding_lr":        (1e-3,        1e-3),
    "fusion_lr":           (1e-3,        1e-3),
    "batch_size":          (16,          1),
    "finetune_steps":      (20,          20),
    "lora_rank":           (0,           0),
    "finetune_lr":         (1e-5,        1e-6),
    "optimizer":           ("adamw",     "adamw"),
    "finetune_order":      ("shuffled",  "image_by_image"),
    "lr_schedule":         ("cosine",    "constant"),
    "lr_warmup_steps":     (50,          0),
    "weight_decay":        (1e-2,        0.0),
    "max_grad_norm":       (1.0,         0.0),
    "caption_dropout":     (0.1,         0.0),
    "residual_dropout":    (0.5,         0.0),
    "ema":                 (True,        False),
    "ema_decay":           (0.999,       0.999),
    "checkpointing_steps": (500,         5000),
    "mixed_precision":     ("auto",      "no"),
}
COLUMNS = {"improved": 0, "paper": 1}
LORA_LR = 1e-4  # of additions that start at zero; where such layers are commonly trained


def add_preset_flags(parser):
    """--preset and the flags of PRESETS; those not given are None until `fill_preset`."""
    parser.add_argument("--preset", choices=COLUMNS, default="improved",
                        help="defaults of the flags of its group; a flag that is given wins")
    group = parser.add_argument_group("flags that --preset sets")
    add = group.add_argument
    add("--feature", choices=("canonical", "raw"),
        help="Stage I: mean of hands that were aligned first, or of image coordinates as they are")
    add("--fusion", choices=("trained", "frozen"),
        help="F: a token-wise layer that learns, or the paper's random projection of the whole embedding, whose 3.5 "
             "billion weights at SD v1.4 size take one CPU core about 40 s to make and apply, once per run")
    add("--embedding_batch_size", type=cli.batch_size,
        help="Stage II: images optimised at once (default: batch_size, with a frozen F at least one for each "
             "process); with a frozen F the result does not depend on it")
    add("--embedding_steps", type=cli.num_steps, help="Stage II: steps per image; 0 leaves it out")
    add("--embedding_lr", type=cli.nonnegative_float, help="Stage II: learning rate of the residuals")
    add("--fusion_lr", type=cli.nonnegative_float, help="Stage II and III: learning rate of a trained F")
    add("--batch_size", type=cli.batch_size, help="Stage III: images per update")
    add("--finetune_steps", type=cli.num_steps, help="Stage III: steps per image; 0 leaves it out")
    add("--lora_rank", type=cli.int_between(0, 4096),
        help="Stage III: train low-rank additions to the attention layers instead of the whole U-Net; needs the "
             "package peft")
    add("--finetune_lr", type=cli.nonnegative_float,
        help=f"Stage III: learning rate of the U-Net; default with --lora_rank: {LORA_LR}")
    add("--optimizer", choices=("adamw", "adafactor", "adamw8bit"),
        help="Stage III: adafactor and adamw8bit keep less beside each weight; adamw8bit needs the package "
             "bitsandbytes")
    add("--finetune_order", choices=("shuffled", "image_by_image"),
        help="Stage III: shuffled epochs, or all steps of one batch before the next, each with a new optimiser")
    add("--lr_schedule", choices=("constant", "cosine"), help="Stage III: course of the learning rates")
    add("--lr_warmup_steps", type=cli.nonnegative_int,
        help="Stage III: updates of linear warm-up, at most half of all")
    add("--weight_decay", type=cli.nonnegative_float, help="Stage III: AdamW's decay of the U-Net; 0 is Adam")
    add("--max_grad_norm", type=cli.nonnegative_float, help="Stage III: gradients are clipped to it; 0: no")
    add("--caption_dropout", type=cli.unit_interval,
        help="Stage III: share of samples that see the empty prompt, for guidance")
    add("--residual_dropout", type=cli.unit_interval,
        help="Stage III: share of samples without the residual of Stage II, which generation has not")
    add("--ema_decay", type=cli.unit_interval,
        help="Stage III: highest decay of the moving average of the weights; in update n it is at most "
             "(1 + n) / (10 + n)")
    add("--checkpointing_steps", type=cli.positive_int,
        help="Stage III: updates between checkpoints (14 GB for SD v1.4), its last is one; Stage II writes one per "
             "batch")
    add("--mixed_precision", choices=("auto", "no", "fp16", "bf16"),
        help="arithmetic of the U-Net, whose weights stay fp32; auto is bf16 on GPUs that have it, else no")
    add("--ema", action="store_true", default=None,
        help="Stage III: keep a moving average of the weights and save that")
    add("--no_ema", dest="ema", action="store_false", default=None,
        help="Stage III: save the last weights; no copy of the U-Net in memory")
    for action in group._group_actions:
        if action.dest in PRESETS:
            improved, paper = PRESETS[action.dest]
            action.help += f" (improved: {improved}; paper: {paper})"


def fill_preset(args):
    """Sets the flags that were not given to the values of args.preset.

    With a frozen F the images of a batch of Stage II do not know of each other, so it may give each process one.
    """
    for name, values in PRESETS.items():
        if getattr(args, name, None) is None:
            is_lora = name == "finetune_lr" and args.lora_rank
            setattr(args, name, LORA_LR if is_lora else values[COLUMNS[args.preset]])
    if getattr(args, "embedding_batch_size", None) is None:
        args.embedding_batch_size = max(args.batch_size, processes.count() if args.fusion == "frozen" else 1)


def add_compile_flag(parser):
    """--compile: False, or the mode of torch.compile."""
    parser.add_argument("--compile", nargs="?", const="default", default=False, choices=("default", "reduce-overhead"),
                        help="translate the U-Net with torch.compile: minutes at the start, then faster on a GPU; "
                             "needs a C++ compiler. reduce-overhead also records CUDA graphs, for batches of one image")


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
