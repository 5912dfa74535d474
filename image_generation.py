"""Draw one image per prompt with a fine-tuned model: e' = mu*e + (1 - mu)*F(e, g), then ordinary sampling.

python image_generation.py --ckpt outputs/call/model --mu 0.7 --img_save_path outputs/call/images \\
  --image_filenames_file data/call/test/BLIP2_filenames.txt --prompts_file data/call/test/BLIP2_enriched.txt

Reads the model folder that train.py wrote and two lists of equal length: file names and prompts.
Writes the images under these names, generation.json (the settings) among them, and a contact sheet
<img_save_path>_grid.png beside the folder. An image's noise follows from the seed and its place in the list:
neither the batch size nor an interruption changes it, nor the number of processes: `accelerate launch
--num_processes 8 image_generation.py ...` shares the list among 8 GPUs. Run the same command again to continue.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.data import output_paths
from utils.method import presets
from utils.system import cli, files, processes
from utils.system.digests import sha256
from utils.system.errors import UserError
from utils.system.script import run_main

GRID_IMAGES, GRID_COLUMNS, GRID_PIXELS = 64, 8, 256


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image_filenames_file", required=True, type=cli.path_name,
                        help="text file, one image name per line; the suffix is replaced by --format")
    parser.add_argument("--prompts_file", required=True, type=cli.path_name,
                        help="text file, one prompt per line, in the same order")
    parser.add_argument("--feature_npy_path", type=cli.path_name,
                        help="gesture feature (63,) to use instead of the one stored with the model")
    parser.add_argument("--ckpt", required=True, type=cli.path_name,
                        help="model folder of train.py; with --base also a Stable Diffusion folder or hub id")
    parser.add_argument("--img_save_path", required=True, type=cli.path_name, help="folder for the images")
    parser.add_argument("--mu", type=cli.unit_interval,
                        help="0 to 1, weight of the prompt's own embedding: 1 leaves the gesture feature "
                             "out, 0 takes F(e, g) alone; not needed with --base")
    parser.add_argument("--base", action="store_true",
                        help="draw with the model before fine-tuning, plain prompts and the same noise")
    parser.add_argument("--num_images", type=cli.positive_int, help="first N of the list (default: all)")
    parser.add_argument("--batch_size", type=cli.batch_size, default=8, help="images drawn at once")
    parser.add_argument("--num_inference_steps", type=cli.int_between(1, 10_000), default=45, help="denoising steps")
    parser.add_argument("--guidance_scale", type=cli.float_between(0, 1000), default=3.0,
                        help="classifier-free guidance; 1 is none")
    parser.add_argument("--scheduler", choices=("ddim", "dpmsolver++", "unipc"), default="ddim",
                        help="sampler; each is deterministic (eta 0)")
    parser.add_argument("--resolution", type=cli.drawn_resolution,
                        help="side length in pixels (default: what the model was trained at)")
    parser.add_argument("--mixed_precision", choices=("auto", "no", "fp16", "bf16"), default="auto",
                        help="number format of the U-Net; auto is bf16 on GPUs that have it, else no")
    presets.add_compile_flag(parser)
    parser.add_argument("--format", choices=("png", "jpg"), default="png", help="png is lossless")
    parser.add_argument("--overwrite", action="store_true", help="draw images that are already there anew")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    if args.mu is None and not args.base:
        parser.error("--mu is needed: a number from 0 to 1 (only --base does without)")
    cli.require_file(parser, args.image_filenames_file, "--image_filenames_file")
    cli.require_file(parser, args.prompts_file, "--prompts_file")
    if args.feature_npy_path:
        cli.require_file(parser, args.feature_npy_path, "--feature_npy_path")
    if not args.base:
        cli.require_dir(parser, args.ckpt, "--ckpt", "give the model folder that train.py wrote")
    cli.require_dir_or_new(parser, args.img_save_path, "--img_save_path")
    check_sheet(parser, args)
    return args


def check_sheet(parser, args):
    """A usage error for an --img_save_path beside which no contact sheet can be written."""
    try:
        problem = output_paths.find_obstacle(sheet_path(args))
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: / has no name; RuntimeError: a loop of links
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        parser.error(f"--img_save_path {args.img_save_path}: its contact sheet lies beside it, and {problem}; "
                     "give a folder in one that may be written to")


def read_jobs(args):
    """(paths, prompts), one of each per image. UserError for lists that do not fit and unusable names."""
    from utils.data.images import IMAGE_SUFFIXES, read_aligned, safe_join

    names, prompts = read_aligned(args.image_filenames_file, args.prompts_file)
    lines = {}
    for line, name in enumerate(names, 1):
        stem = Path(name).with_suffix("") if name.lower().endswith(IMAGE_SUFFIXES) else Path(name)
        safe_join(args.img_save_path, name)  # ".." would become a name of its own with a suffix
        path = safe_join(args.img_save_path, f"{stem}.{args.format}")
        if path in lines:
            raise UserError(f"{args.image_filenames_file}, line {line}: {name!r} would be saved as "
                                f"{path.name}, like line {lines[path]}; every image needs its own name")
        lines[path] = line
    return list(lines), prompts


def list_settings(args, model, precision):
    """What the images depend on."""
    names_file, prompts_file = args.image_filenames_file.read_bytes(), args.prompts_file.read_bytes()
    return {"base": args.base, "ckpt": str(args.ckpt), "mu": None if args.base else args.mu,
            "lists_sha256": sha256([names_file, b"\0", prompts_file]), "seed": args.seed,
            "num_inference_steps": args.num_inference_steps, "guidance_scale": args.guidance_scale,
            "scheduler": args.scheduler, "compile": args.compile, "format": args.format,
            "mixed_precision": precision, **model.settings}


def find_missing(args, paths, settings):
    """The numbers of the images that are to be drawn. UserError when those that are there have other settings."""
    folder, remedy = args.img_save_path, "choose another --img_save_path or add --overwrite"
    drawn = {i for i, path in enumerate(paths) if path.is_file()}
    if args.overwrite:
        return set(range(len(paths)))
    if (folder / "generation.json").is_file():
        old = files.read_object(folder / "generation.json")
        files.refuse_differing(folder, {name: old[name] for name in settings if name in old}, settings, remedy)
    elif drawn:
        raise UserError(f"{folder} already holds {len(drawn)} images of the list, {paths[min(drawn)].name} among them, "
                        f"and no generation.json that says how they were made; {remedy}")
    return set(range(len(paths))) - drawn


def begin(args, paths, settings):
    """Writes the settings down; with --overwrite what an earlier run left goes. All processes come together here."""
    if processes.is_first():
        for path in paths if args.overwrite else []:
            path.unlink(missing_ok=True)
        files.write_settings(args.img_save_path / "generation.json", settings)
    processes.meet()


def sheet_path(args):
    folder = args.img_save_path.resolve()
    return folder.with_name(f"{folder.name}_grid.png")


def save_sheet(args, paths):
    """Saves the first of the images as one sheet."""
    from utils.data.images import contact_sheet, open_image, save_image

    thumbnails = [open_image(path) for path in paths[:GRID_IMAGES]]
    for thumbnail in thumbnails:
        thumbnail.thumbnail((GRID_PIXELS, GRID_PIXELS))
    save_image(contact_sheet(thumbnails, GRID_COLUMNS), sheet_path(args))
    return len(thumbnails)


def main(args):
    from tqdm import tqdm

    from utils.data.images import IMAGE_SUFFIXES, save_image
    from utils.method.tuned_model import load_tuned_model
    from utils.models import sampling
    from utils.models.stable_diffusion import encode_prompts
    from utils.system.device import choose_precision, explain_out_of_memory, resolve_device
    from utils.system.file_lock import lock_outputs

    # Read names and prompts.
    all_paths, prompts = read_jobs(args)
    paths = all_paths[:args.num_images]
    if not args.base and not (args.ckpt / "fusion.json").is_file():
        raise UserError(f"{args.ckpt}: no fusion.json there, so train.py did not write this folder; "
                        "give one that it wrote, or add --base to draw with plain prompts")

    # Load the model.
    processes.join(args.device)
    device = resolve_device(args.device)
    precision, weight_dtype = choose_precision(args.mixed_precision, device)
    model = load_tuned_model(args.ckpt, args.base, args.feature_npy_path, args.resolution)
    sd, limit = model.sd, model.sd.noise_scheduler.config.num_train_timesteps
    if args.num_inference_steps >= limit:
        raise UserError(f"--num_inference_steps {args.num_inference_steps}: must be below {limit}")

    with lock_outputs(args.img_save_path) if processes.is_first() else contextlib.nullcontext():
        # What is missing? The numbers of all images stay as they are, and so do the batches: what is computed together
        # decides about the last bits.
        settings = list_settings(args, model, precision)
        missing = find_missing(args, paths, settings)
        settings["run"] = {"device": str(device), "batch_size": args.batch_size, "num_images": len(paths),
                           "num_processes": processes.count()}
        if not missing and sheet_path(args).exists():
            processes.report(f"{args.img_save_path} is finished; --overwrite would draw its {len(paths)} images anew")
            processes.leave()
            return
        own = range(len(paths))[processes.rank() :: processes.count()]
        batches = [list(own[start : start + args.batch_size]) for start in range(0, len(own), args.batch_size)]
        batches = [batch for batch in batches if missing.intersection(batch)]
        processes.report(f"Drawing {len(missing)} images, {len(paths) - len(missing)} are already there")

        # Encode the prompts of this process, each distinct one once: e' = mu*e + (1 - mu)*F(e, g).
        distinct = list(dict.fromkeys(prompts[i] for i in own)) if batches else []
        row = {prompt: i for i, prompt in enumerate(distinct)}
        if batches:
            prompt_embeds = model.embed(distinct, args.mu, device)
            negative_embeds = encode_prompts(sd, [""], device)
        sd.text_encoder.to("cpu")
        sd.unet.to(device, weight_dtype)
        sd.vae.to(device)
        if args.compile:
            sampling.compile_unet(sd.unet, args.compile)

        # Draw and save: images are compressed and written while the next ones are drawn.
        sampler = sampling.build_sampler(sd, args.scheduler)
        smaller = f"--batch_size {args.batch_size // 2}" if args.batch_size > 1 else "a smaller --resolution"
        saving, num_own = [], len(missing.intersection(own))
        with ThreadPoolExecutor() as pool, tqdm(total=num_own, unit="image", disable=not batches) as progress:
            for number, batch in enumerate(batches):
                if args.compile:  # a shorter batch would be translated anew; what is drawn beyond it is not saved
                    batch = batch + [batch[-1]] * (max(map(len, batches)) - len(batch))
                generators = [sampling.image_generator(args.seed, i) for i in batch]
                with explain_out_of_memory(
                        f"{device}: too little memory for a batch of {args.batch_size}; try {smaller}"):
                    images = sampling.sample_images(
                        sd, sampler, prompt_embeds[[row[prompts[i]] for i in batch]], negative_embeds, generators,
                        model.resolution, args.num_inference_steps, args.guidance_scale, weight_dtype)
                if not images.isfinite().all():
                    raise UserError(f"{paths[batch[0]]} or one of the next {len(batch)}: not a number; try "
                                    "--mixed_precision bf16 or no")
                if number == 0:  # what could not be drawn costs no earlier image
                    begin(args, all_paths, settings)
                for saved in saving:
                    saved.result()
                drawn = dict(zip(batch, sampling.to_pil(images), strict=True))
                saving = [pool.submit(save_image, drawn[i], paths[i]) for i in missing.intersection(drawn)]
                progress.update(len(saving))
            for saved in saving:
                saved.result()
        if not batches:
            begin(args, [], settings)

        # Save the contact sheet.
        processes.leave()
        if processes.is_first():
            num_shown = save_sheet(args, paths)
            there = {path for path in args.img_save_path.glob("[!.]*") if path.suffix.lower() in IMAGE_SUFFIXES}
            if num_others := len(there - set(all_paths)):
                print(f"{num_others} other images lie in {args.img_save_path}; a metric script would count them too")
            print(f"{len(paths)} images in {args.img_save_path}, the first {num_shown} together in {sheet_path(args)}")


if __name__ == "__main__":
    run_main(main, parse_args(), goes_on=True)
