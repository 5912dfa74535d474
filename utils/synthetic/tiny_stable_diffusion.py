"""Train the tiny Stable Diffusion that the demo starts from, on rendered hands in random poses, many of them malformed.

  python -m utils.synthetic.tiny_stable_diffusion --output_dir outputs/tiny-stable-diffusion

Four stages: images (render), vae (autoencoder), decoder (its decoder alone, for sharpness), diffusion (text encoder
and U-Net). Each leaves its result in --work_dir, where the same command finds it and goes on after it; decoder and
diffusion need only vae and may run side by side with --stage. Writes a folder that StableDiffusionPipeline opens,
with fp16 weights, training.json (settings, losses) and samples.png.
"""

import time
from pathlib import Path

from utils.system import cli, errors, files, script
from utils.system.process_pool import count_cores

STAGES = ("images", "vae", "decoder", "diffusion")
NOT_RECORDED = ("stage", "debug", "work_dir", "output_dir")  # in training.json
STREAM = (99,)  # of the renderer; data sets of gestures use others
SAMPLE_PROMPTS = [
    f"a photo of a {skin} {side} hand{sleeve} in front of a {background} background"
    for skin, side, sleeve, background in (
        ("pale", "left", "", "blue"),
        ("light", "right", "", "green"),
        ("tan", "left", " with a red sleeve", "white"),
        ("brown", "right", "", "yellow"),
        ("dark", "left", "", "teal"),
        ("pale", "right", " with a green sleeve", "black"),
        ("tan", "right", "", "purple"),
        ("dark", "right", " with a white sleeve", "red"),
    )
]


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--output_dir", type=cli.path_name, required=True, help="folder of the finished pipeline")
    parser.add_argument(
        "--work_dir",
        type=cli.path_name,
        default=Path("outputs/tiny-stable-diffusion-work"),
        help="folder of the stages' results: 0.6 GB",
    )
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all", help="run only one stage")
    parser.add_argument("--num_images", type=cli.int_between(1, 1_000_000), default=6500, help="hands to render")
    parser.add_argument("--malformed", type=cli.unit_interval, default=0.45, help="share of malformed hands, 0 to 1")
    parser.add_argument("--vae_steps", type=cli.num_updates, default=2600, help="updates of the autoencoder")
    parser.add_argument("--decoder_steps", type=cli.num_updates, default=3000, help="updates of the decoder alone")
    parser.add_argument("--diffusion_steps", type=cli.num_updates, default=5000, help="updates of the U-Net")
    parser.add_argument("--batch_size", type=cli.batch_size, default=32, help="latents per update of the U-Net")
    parser.add_argument("--learning_rate", type=cli.positive_float, default=5e-4, help="peak rate of the U-Net")
    parser.add_argument("--num_threads", type=cli.num_workers, default=count_cores(), help="threads of torch")
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="no",
        help="bf16 pays on processors that multiply it in hardware (AMX)",
    )
    cli.add_common_flags(parser, device=False)
    return parser.parse_args(argv)


def render_images(args):
    """Stage images: images.npy, uint8 (N, 128, 128, 3), and captions.json."""
    import numpy as np

    from utils.synthetic.render import render_scenes
    from utils.synthetic.tiny_parts import RESOLUTION

    captions = []
    with files.atomic_path(args.work_dir / "images.npy") as path:
        shape = (args.num_images, RESOLUTION, RESOLUTION, 3)
        images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        scenes = render_scenes("random", args.num_images, RESOLUTION, args.seed, STREAM, args.malformed)
        for index, scene in enumerate(scenes):
            images[index] = np.asarray(scene.image)
            captions.append(scene.caption)
        images.flush()
    files.write_json(args.work_dir / "captions.json", captions)


def load_work(args):
    """(images, captions, vae) of the earlier stages; the autoencoder has the newest weights there are.

    UserError for what these stages cannot have written.
    """
    import numpy as np

    from utils.synthetic.tiny_parts import RESOLUTION, build_vae

    path, remedy = args.work_dir / "images.npy", "delete it and captions.json, and the images are rendered again"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise errors.UserError(f"{path}: damaged ({errors.first_line(error)}); {remedy}") from error
    captions = files.read_json(args.work_dir / "captions.json")
    if images.dtype != np.uint8 or images.shape[1:] != (RESOLUTION, RESOLUTION, 3):
        raise errors.UserError(f"{path}: {images.dtype} {images.shape}, not images of this command; {remedy}")
    if not isinstance(captions, list) or len(captions) != len(images):
        raise errors.UserError(f"{path}: {len(images)} images, captions.json has not one line for each; {remedy}")
    vae = build_vae()
    for name in ("vae", "decoder"):
        if (args.work_dir / f"{name}.safetensors").is_file():
            load_weights(vae, args.work_dir / f"{name}.safetensors")
    return images[: args.num_images], captions[: args.num_images], vae


def load_weights(network, path):
    """Load what `train_stage` wrote. UserError if it is not all the weights of `network`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        message = f"{path}: not the weights of this stage ({errors.first_line(error)})"
        raise errors.UserError(f"{message}; delete it, and the stage is run again") from error


def summarise_stage(path):
    """{"minutes", "last_losses"} of the JSON file of a stage. UserError if it is not one."""
    stage = files.read_object(path)
    try:
        return {"minutes": round(stage["minutes"], 1), "last_losses": stage["losses"][-1]}
    except (KeyError, IndexError, TypeError) as error:
        remedy = "delete it and the stage's .safetensors, and the stage is run again"
        raise errors.UserError(f"{path}: no minutes and losses of a stage in it; {remedy}") from error


def train_stage(args, stage):
    """Run vae, decoder or diffusion and write <stage>.safetensors and <stage>.json (losses every 50 updates)."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from utils.data.gestures import GESTURES
    from utils.synthetic import tiny_diffusion, tiny_parts, tiny_vae

    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed + STAGES.index(stage))
    rng = np.random.default_rng([args.seed, STAGES.index(stage)])
    weight_dtype = torch.bfloat16 if args.mixed_precision == "bf16" else torch.float32
    images, captions, vae = load_work(args)
    history, start = [], time.time()

    def log(step, **losses):
        history.append({"step": step, **losses})

    if stage == "vae":
        tiny_vae.train_vae(vae, images, args.vae_steps, 12, 1e-3, rng, weight_dtype, log)
        latents = tiny_diffusion.encode_dataset(vae, images[:1000], weight_dtype)
        tiny_vae.standardise_latents(vae, latents.flatten(0, 1))
        model = vae
    elif stage == "decoder":
        tiny_vae.train_decoder(vae, images, args.decoder_steps, 8, 3e-4, rng, weight_dtype, log)
        model = vae
    else:
        tokenizer = tiny_parts.build_tokenizer(args.work_dir / "tokenizer")
        latents = tiny_diffusion.encode_dataset(vae, images, weight_dtype)
        model = torch.nn.ModuleDict(
            {"text_encoder": tiny_parts.build_text_encoder(tokenizer), "unet": tiny_parts.build_unet()}
        )
        model = tiny_diffusion.train_diffusion(
            model,
            tokenizer,
            tiny_parts.build_scheduler(),
            latents,
            [captions, [tiny_diffusion.mirror_caption(caption) for caption in captions]],
            [gesture.phrase for gesture in GESTURES.values()],
            args.diffusion_steps,
            args.batch_size,
            args.learning_rate,
            rng,
            weight_dtype,
            log,
        )
    files.write_json(args.work_dir / f"{stage}.json", {"minutes": (time.time() - start) / 60, "losses": history})
    with files.atomic_path(args.work_dir / f"{stage}.safetensors") as path:  # last: it says that the stage is done
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def save_pipeline(args):
    """Put the parts together in --output_dir, in fp16, with training.json and samples.png."""
    import torch
    from diffusers import StableDiffusionPipeline

    from utils.synthetic import tiny_parts

    _, _, vae = load_work(args)
    tokenizer = tiny_parts.build_tokenizer(args.work_dir / "tokenizer")
    model = torch.nn.ModuleDict(
        {"text_encoder": tiny_parts.build_text_encoder(tokenizer), "unet": tiny_parts.build_unet()}
    )
    load_weights(model, args.work_dir / "diffusion.safetensors")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=tiny_parts.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stages = {stage: summarise_stage(args.work_dir / f"{stage}.json") for stage in STAGES[1:]}
    with files.atomic_path(args.output_dir) as folder:
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
        # transformers would load the text encoder as fp16 and diffusers the rest as fp32
        config = folder / "text_encoder" / "config.json"
        files.write_json(config, {**files.read_json(config), "dtype": "float32"})
        files.write_json(
            folder / "training.json",
            {
                "settings": {name: value for name, value in vars(args).items() if name not in NOT_RECORDED},
                "stages": stages,
            },
        )
    save_samples(args.output_dir)
    print(f"the pipeline is in {args.output_dir}")


def save_samples(folder):
    """samples.png: a row of hands for each of SAMPLE_PROMPTS, with the same noises in every row."""
    from utils.data.images import contact_sheet, save_image
    from utils.models import sampling, stable_diffusion

    sd = stable_diffusion.load_stable_diffusion(str(folder))
    negative_embeds = stable_diffusion.encode_prompts(sd, [""], "cpu")
    images, columns = [], 8
    for embed in stable_diffusion.encode_prompts(sd, SAMPLE_PROMPTS, "cpu"):
        generators = [sampling.image_generator(0, index) for index in range(columns)]
        images += sampling.to_pil(
            sampling.sample_images(
                sd,
                sampling.build_sampler(sd),
                embed.expand(columns, -1, -1),
                negative_embeds,
                generators,
                sd.resolution,
                num_inference_steps=25,
                guidance_scale=3.0,
            )
        )
    save_image(contact_sheet(images, columns), folder / "samples.png")


def run_stage(args, stage):
    """Run a stage unless its result is there."""
    done = args.work_dir / ("captions.json" if stage == "images" else f"{stage}.safetensors")
    if done.is_file():
        print(f"{stage}: {done} is there already")
    elif stage == "images":
        render_images(args)
    else:
        train_stage(args, stage)


def main(args):
    from utils.system.file_lock import lock_outputs

    for stage in STAGES if args.stage == "all" else (args.stage,):
        with lock_outputs(args.work_dir, "images.npy" if stage == "images" else f"{stage}.safetensors"):
            run_stage(args, stage)
    if args.stage == "all":
        save_pipeline(args)


if __name__ == "__main__":
    script.run_main(main, parse_args())
