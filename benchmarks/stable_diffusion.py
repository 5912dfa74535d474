"""Speed and memory of Stage II, Stage III and generation, beside the published loop and a plain diffusers step.

python -m benchmarks.stable_diffusion                                  # tiny, on a CPU
python -m benchmarks.stable_diffusion --size sd14 --compile            # at the size of Stable Diffusion v1.4, on a GPU

All models are randomly initialised, from configs in this file: nothing is downloaded, and what is learned does not
matter here. The program's own loops are timed, warm; the two baselines are written out below and run in the same
process. Prints a Markdown table with samples per second, TFLOP/s (work counted with torch's FlopCounterMode), the share
of the rate that a large matrix product reaches here, peak memory on CUDA, and the ratios.
"""

import argparse
import contextlib
import itertools
import time
from types import SimpleNamespace

from utils.method.presets import add_compile_flag
from utils.system import cli, script

SIZES = {
    "tiny": {"unet": {"sample_size": 16, "block_out_channels": (80, 96, 112), "layers_per_block": 1,
                      "cross_attention_dim": 128, "attention_head_dim": 4, "norm_num_groups": 16,
                      "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                      "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")},
             "vae": {"block_out_channels": (32, 64, 64, 64)}, "length": 16, "matrix": 1024, "inference_steps": 10},
    "sd14": {"unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
             "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}, "length": 77, "matrix": 8192,
             "inference_steps": 45},
}
EMBEDDING_STEPS, FINETUNE_STEPS = 10, 20  # per image, as published: what the ratio to the published loop weighs


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="tiny, or that of Stable Diffusion v1.4")
    parser.add_argument("--batch_size", type=cli.positive_int, default=16, help="images of a batched update")
    parser.add_argument("--num_updates", type=cli.positive_int, default=10, help="timed updates of each kind")
    add_compile_flag(parser)
    parser.add_argument("--memory", action="store_true",
                        help="also the peak memory of Stage III with batch 1 and checkpointing, and batch 8 (CUDA)")
    cli.add_common_flags(parser)
    return parser.parse_args(argv)


# What is measured


def build_parts(size, device):
    """A stand-in for a loaded StableDiffusion with random weights; its text encoder is not needed."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    config = SIZES[size]
    blocks = len(config["vae"]["block_out_channels"])
    torch.manual_seed(0)
    with device:  # where random numbers are made fast
        vae = AutoencoderKL(latent_channels=4, down_block_types=("DownEncoderBlock2D",) * blocks,
                            up_block_types=("UpDecoderBlock2D",) * blocks, **config["vae"])
        unet = UNet2DConditionModel(**config["unet"])
    return SimpleNamespace(name="random", unet=unet, vae=vae, noise_scheduler=DDPMScheduler(),
                           vae_scale_factor=2 ** (blocks - 1))


def start_row(device):
    """Leaves nothing of the row before: its models, its translated code, its precision."""
    import gc

    import torch
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def build_data(sd, size, num_images):
    """A TrainingSet of random numbers."""
    import torch

    from utils.method.training_set import TrainingSet

    config = SIZES[size]
    side, width = config["unet"]["sample_size"], config["unet"]["cross_attention_dim"]
    embeds = torch.randn(1 + num_images, config["length"], width)
    return TrainingSet(sd, torch.randn(num_images, 8, side, side), embeds[1:], embeds[:1], torch.zeros_like(embeds[1:]))


def time_calls(call, num_calls, device):
    """Seconds of one of `num_calls` calls, after one that is not timed, and the peak memory in bytes on CUDA."""
    import torch

    is_cuda = device.type == "cuda"
    call()
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(num_calls):
        call()
    if is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / num_calls, torch.cuda.max_memory_allocated() if is_cuda else None


def count_work(call):
    """TFLOP of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


def measure_matrix(size, device, dtype):
    """TFLOP/s of a square matrix product in the number format of the U-Net."""
    import torch

    side = SIZES[size]["matrix"]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds, _ = time_calls(lambda: a @ b, 20, device)
    return 2 * side**3 / seconds / 1e12


def measure_stage(stage_name, args, device, precision, preset="improved", batch_size=None, checkpointing=False):
    """A row of Stage II or III as train.py runs it."""
    import torch
    from accelerate import Accelerator

    from utils.method.fusion import TrainedFusion
    from utils.method.presets import fill_preset
    from utils.method.three_stage import GestureDenoiser, embedding_stage, finetune_stage, update
    from utils.models.sampling import compile_unet

    start_row(device)
    torch.backends.cuda.matmul.allow_tf32 = preset == "paper"  # as with --allow_tf32
    batch_size = batch_size or args.batch_size
    num_images = 2 * batch_size
    settings = argparse.Namespace(preset=preset, seed=0, batch_size=batch_size, embedding_batch_size=batch_size,
                                  embedding_steps=args.num_updates + 2, finetune_steps=2 * args.num_updates + 4)
    fill_preset(settings)
    sd = build_parts(args.size, device)
    data = build_data(sd, args.size, num_images)
    fusion = TrainedFusion(data.prompt_embeds.shape[2]) if preset == "improved" else None
    denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, fusion, torch.ones(63, device=device), 0.7).to(device)
    if checkpointing:
        sd.unet.enable_gradient_checkpointing()
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    if args.compile:
        compile_unet(sd.unet, args.compile)
    stage = (embedding_stage if stage_name == "Stage II" else finetune_stage)(accelerator, denoiser, data, settings)
    steps = itertools.count()

    def next_update():
        update(accelerator, stage, data, next(steps), seed=0)

    with torch.compiler.set_stance("force_eager"):  # translated code has no operations to count
        work = count_work(next_update)
    seconds, peak = time_calls(next_update, args.num_updates, device)
    return {"rate": batch_size / seconds, "work": work / batch_size, "peak": peak, "batch": batch_size,
            "dtype": precision}


def measure_generation(args, device, weight_dtype, precision):
    """A row of sample_images with guidance, images per second."""
    import torch

    from utils.models.sampling import build_sampler, compile_unet, image_generator, sample_images

    start_row(device)
    sd = build_parts(args.size, device)
    sd.unet.to(weight_dtype)  # as image_generation.py has it
    data = build_data(sd, args.size, args.batch_size)
    resolution = SIZES[args.size]["unet"]["sample_size"] * sd.vae_scale_factor
    if args.compile:
        compile_unet(sd.unet, args.compile)

    def draw():
        with torch.no_grad():
            generators = [image_generator(0, i) for i in range(args.batch_size)]
            sample_images(sd, build_sampler(sd), data.prompt_embeds, data.negative_embeds, generators, resolution,
                          SIZES[args.size]["inference_steps"], 3.0, weight_dtype)

    with torch.compiler.set_stance("force_eager"):
        work = count_work(draw) / args.batch_size
    seconds, peak = time_calls(draw, 1, device)
    return {"rate": args.batch_size / seconds, "work": work, "peak": peak, "batch": args.batch_size,
            "dtype": precision}


# Baselines


def measure_published(stage_name, args, device):
    """A row of the released programs' loop: fp32, one image, its own Adam, gradients of the frozen U-Net too."""
    import torch

    from utils.method.three_stage import denoising_loss

    start_row(device)
    sd = build_parts(args.size, device)
    data = build_data(sd, args.size, 1)
    embeds = data.prompt_embeds.to(device).requires_grad_(stage_name == "Stage II")
    latents = torch.randn(1, 4, *data.moments.shape[2:], device=device)
    trained = [embeds] if stage_name == "Stage II" else list(sd.unet.parameters())
    optimizer = torch.optim.Adam(trained, lr=1e-3 if stage_name == "Stage II" else 1e-6)

    def update():
        timesteps = torch.randint(1000, (1,), device=device)
        loss = denoising_loss(sd.unet, sd.noise_scheduler, latents, torch.randn_like(latents), timesteps, embeds)
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # they print it

    work = count_work(update)
    seconds, peak = time_calls(update, args.num_updates, device)
    return {"rate": 1 / seconds, "work": work, "peak": peak, "batch": 1, "dtype": "no"}


def measure_eager(args, device, precision, weight_dtype):
    """A row of a plain fine-tuning step with diffusers: autocast, AdamW, clipped gradients, moving average."""
    import torch
    from diffusers.training_utils import EMAModel

    from utils.method.three_stage import denoising_loss

    start_row(device)
    sd = build_parts(args.size, device)
    data = build_data(sd, args.size, args.batch_size)
    embeds = data.prompt_embeds.to(device)
    latents = torch.randn(args.batch_size, 4, *data.moments.shape[2:], device=device)
    optimizer, average = torch.optim.AdamW(sd.unet.parameters(), lr=1e-5), EMAModel(sd.unet.parameters())
    is_mixed = weight_dtype != torch.float32

    def update():
        timesteps = torch.randint(1000, (args.batch_size,), device=device)
        noise = torch.randn_like(latents)
        with torch.autocast(device.type, dtype=weight_dtype) if is_mixed else contextlib.nullcontext():
            loss = denoising_loss(sd.unet, sd.noise_scheduler, latents, noise, timesteps, embeds).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sd.unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(sd.unet.parameters())

    work = count_work(update)
    seconds, peak = time_calls(update, args.num_updates, device)
    return {"rate": args.batch_size / seconds, "work": work / args.batch_size, "peak": peak,
            "batch": args.batch_size, "dtype": precision}


# Printing


def print_row(name, row, matrix_rates):
    """One line of the table; matrix_rates: {precision: TFLOP/s}."""
    matrix_rate = matrix_rates[row["dtype"]]
    speed = row["work"] and row["work"] * row["rate"]
    cells = [name, row["dtype"], row["batch"], f"{row['rate']:.3g}", f"{1000 * row['batch'] / row['rate']:.1f}",
             f"{speed:.3g}" if speed else "-", f"{speed / matrix_rate:.0%}" if speed else "-",
             f"{row['peak'] / 1e9:.1f} GB" if row["peak"] else "-"]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def seconds_per_image(stage_two, stage_three):
    """Time that an image takes in training."""
    return EMBEDDING_STEPS / stage_two["rate"] + FINETUNE_STEPS / stage_three["rate"]


def main(args):
    import torch

    from utils.system.device import choose_precision, resolve_device

    device = resolve_device(args.device)
    precision, weight_dtype = choose_precision("auto", device)
    matrix_rates = {name: measure_matrix(args.size, device, dtype)
                    for name, dtype in {"no": torch.float32, precision: weight_dtype}.items()}
    reached = ", ".join(f"{rate:.3g} TFLOP/s ({name})" for name, rate in matrix_rates.items())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.size} on {name}, torch {torch.__version__}; a matrix product reaches {reached}\n")
    print("| | precision | batch | samples/s | ms per update | TFLOP/s | of the matrix rate | peak memory |")
    print("|---|---|---|---|---|---|---|---|")

    rows = {}

    def report(name, row):
        rows[name] = row
        print_row(name, row, matrix_rates)

    report("Stage II", measure_stage("Stage II", args, device, precision))
    report("Stage III", measure_stage("Stage III", args, device, precision))
    report("Stage III, paper", measure_stage("Stage III", args, device, "no", "paper", batch_size=1))
    report(f"generation, {SIZES[args.size]['inference_steps']} steps with guidance",
           measure_generation(args, device, weight_dtype, precision))
    report("published Stage II", measure_published("Stage II", args, device))
    report("published Stage III", measure_published("Stage III", args, device))
    report("diffusers step", measure_eager(args, device, precision, weight_dtype))
    if args.memory:
        report("Stage III, batch 1, checkpointing",
               measure_stage("Stage III", args, device, precision, batch_size=1, checkpointing=True))
        report("Stage III, batch 8", measure_stage("Stage III", args, device, precision, batch_size=8))

    published = seconds_per_image(rows["published Stage II"], rows["published Stage III"])
    ours = seconds_per_image(rows["Stage II"], rows["Stage III"])
    print(f"\nStage II and III, {EMBEDDING_STEPS} and {FINETUNE_STEPS} steps per image: {published / ours:.2f} times "
          "as fast as the published loop")
    print(f"Stage III: {rows['Stage III']['rate'] / rows['diffusers step']['rate']:.2f} times as fast as the plain "
          "diffusers step")


if __name__ == "__main__":
    script.run_main(main, parse_args())
