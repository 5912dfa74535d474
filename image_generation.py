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
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.data import output_paths
from utils.method import presets
from utils.system import cli, errors, files, processes, script
from utils.system.digests import sha256

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
            raise errors.UserError(f"{args.image_filenames_file}, line {line}: {name!r} would be saved as "
                                f"{path.name}, like line {lines[path]}; every image needs its own name")
        lines[path] = line
    return list(lines), prompts


def check_settings(args, paths, settings):
    """Raise UserError when images are there that were drawn with other settings."""
    if args.overwrite:
        return
    folder, remedy = args.img_save_path, "choose another --img_save_path or add --overwrite"
    if (folder / "generation.json").is_file():
        old = files.read_object(folder / "generation.json")
        differing = files.differing_settings({name: old[name] for name in settings if name in old}, settings)
        if differing:
            raise errors.UserError(f"{folder} was drawn with other settings ({'; '.join(differing)}); {remedy}")
    elif found := [path.name for path in paths if path.exists()]:
        raise errors.UserError(f"{folder} already holds {len(found)} images of the list, {found[0]} among them, "
                            f"and no generation.json that says how they were made; {remedy}")


def find_missing(args, paths, listed, settings):
    """Checks what an earlier run left; the numbers of the images that are to be drawn."""
    check_settings(args, paths, settings)
    return {i for i, path in enumerate(listed) if args.overwrite or not path.exists()}


def begin(args, paths, settings):
    """Drops with --overwrite what an earlier run left, and writes the settings down."""
    for path in paths if args.overwrite else []:
        path.unlink(missing_ok=True)
    files.write_settings(args.img_save_path / "generation.json", settings)


def list_settings(args):
    """What the images depend on, as far as the arguments tell."""
    names_file, prompts_file = map(files.read_file, (args.image_filenames_file, args.prompts_file))
    settings = {
        "base": args.base,
        "ckpt": str(args.ckpt),
        "mu": None if args.base else args.mu,
        "lists_sha256": sha256([names_file, b"\0", prompts_file]),
        "seed": args.seed,
        "num_inference_steps": args.num_inference_steps,
        "guidance_scale": args.guidance_scale,
        "scheduler": args.scheduler,
        "compile": args.compile,
        "format": args.format,
    }
    if args.resolution:
        settings["resolution"] = args.resolution
    if args.mixed_precision != "auto":
        settings["mixed_precision"] = args.mixed_precision
    return settings


def draw(args, sd, batches, missing, paths, embeds, resolution, device, weight_dtype, begin_saving):
    """Draws `batches` of image numbers and saves those that are `missing`.

    embeds: a function (numbers) -> (prompt_embeds (B, L, d), negative_embeds (1, L, d)). begin_saving is called once,
    when the first batch has been drawn: what could not be drawn costs no earlier image.
    """
    from tqdm import tqdm

    from utils.data.images import save_image
    from utils.models import sampling
    from utils.system.device import explain_out_of_memory

    sampler = sampling.build_sampler(sd, args.scheduler)
    smaller = f"--batch_size {args.batch_size // 2}" if args.batch_size > 1 else "a smaller --resolution"
    saving = []  # images are compressed and written while the next ones are drawn
    total = len(missing.intersection(itertools.chain(*batches)))
    longest = max(map(len, batches), default=0)
    with ThreadPoolExecutor() as pool, tqdm(total=total, unit="image", disable=not batches) as progress:
        for number, batch in enumerate(batches):
            if args.compile:  # a shorter batch would be translated anew; what is drawn beyond it is not saved
                batch = batch + [batch[-1]] * (longest - len(batch))
            generators = [sampling.image_generator(args.seed, i) for i in batch]
            with explain_out_of_memory(f"{device}: too little memory for a batch of {args.batch_size}; try {smaller}"):
                images = sampling.sample_images(
                    sd, sampler, *embeds(batch), generators, resolution, resolution, args.num_inference_steps,
                    args.guidance_scale, weight_dtype)
            finite = images.isfinite().flatten(1).all(dim=1).tolist()
            if not all(finite):
                raise errors.UserError(f"{paths[batch[finite.index(False)]]}: not a number; try --mixed_precision bf16 "
                                    "or no")
            if number == 0:
                begin_saving()
            for saved in saving:
                saved.result()
            drawn = dict(zip(batch, sampling.to_pil(images), strict=True))
            saving = [pool.submit(save_image, drawn[i], paths[i]) for i in missing.intersection(drawn)]
            progress.update(len(saving))
        for saved in saving:
            saved.result()


def sheet_path(args):
    folder = args.img_save_path.resolve()
    return folder.with_name(f"{folder.name}_grid.png")


def save_sheet(args, listed, paths):
    """Saves the first of the `listed` images as one sheet, and says what else lies in the folder."""
    from utils.data.images import IMAGE_SUFFIXES, contact_sheet, open_image, save_image

    thumbnails = [open_image(path) for path in listed[:GRID_IMAGES]]
    for thumbnail in thumbnails:
        thumbnail.thumbnail((GRID_PIXELS, GRID_PIXELS))
    grid = sheet_path(args)
    save_image(contact_sheet(thumbnails, GRID_COLUMNS), grid)
    others = {path for path in args.img_save_path.resolve().glob("[!.]*") if path.suffix.lower() in IMAGE_SUFFIXES}
    if others := others - {path.resolve() for path in paths}:
        print(f"{len(others)} other images lie in {args.img_save_path}; a metric script would count them too")
    print(f"{len(listed)} images in {args.img_save_path}, the first {len(thumbnails)} together in {grid}")


def check_outputs(args, paths):
    """UserError when something is in the way of a file or folder that is to be written."""
    for path in [*paths, args.img_save_path / "generation.json"]:
        if path.exists() and not path.is_file():
            raise errors.UserError(f"{path}: is no regular file, which is to be written there; move it away")
    for folder in {folder for path in paths for folder in path.parents}:
        if os.path.lexists(folder) and not folder.is_dir():
            raise errors.UserError(f"{folder}: is no folder, which is to be made there; move it away")


def claim(args, paths, settings, stack):
    """Checks what an earlier run left; the folder is this run's until `stack` ends."""
    from utils.system.file_lock import lock_outputs

    check_outputs(args, paths)
    stack.enter_context(lock_outputs(args.img_save_path))
    check_settings(args, paths, settings)


def main(args):
    # Check names, prompts and earlier images.
    paths, prompts = read_jobs(args)
    settings = list_settings(args)
    processes.join(args.device)
    if not args.base and not (args.ckpt / "fusion.json").is_file():
        raise errors.UserError(f"{args.ckpt}: no fusion.json there, so train.py did not write this folder; "
                            "give one that it wrote, or add --base to draw with plain prompts")
    with contextlib.ExitStack() as stack:
        processes.decide(lambda: claim(args, paths, settings, stack))
        generate(args, paths, prompts, settings)


def generate(args, paths, prompts, settings):
    """Everything once the folder is this run's."""
    # Load the model.
    from utils.method.tuned_model import load_tuned_model
    from utils.models import sampling
    from utils.models.stable_diffusion import encode_prompts
    from utils.system.device import resolve_device

    device = resolve_device(args.device)
    settings["mixed_precision"], weight_dtype = presets.choose_precision(args.mixed_precision, device)
    model = load_tuned_model(args.ckpt, args.base, args.feature_npy_path, args.resolution)
    sd, limit = model.sd, model.sd.noise_scheduler.config.num_train_timesteps
    if args.num_inference_steps >= limit:
        raise errors.UserError(f"--num_inference_steps {args.num_inference_steps}: must be below {limit}")

    # Check what depends on the model, and write down the settings.
    settings |= model.settings
    listed = paths[:args.num_images]
    run = {"device": str(device), "batch_size": args.batch_size, "num_images": len(listed),
           "num_processes": processes.count()}
    missing = processes.decide(lambda: find_missing(args, paths, listed, settings))

    if not missing and sheet_path(args).exists():
        processes.report(f"{args.img_save_path} is finished; --overwrite would draw its {len(listed)} images anew")
        processes.leave()
        return

    # Encode the prompts of this process, each distinct one once. What is done together does not depend on what is
    # missing, since the last bits do on what is done together.
    own = list(range(len(listed)))[processes.rank() :: processes.count()]
    batches = [own[start:start + args.batch_size] for start in range(0, len(own), args.batch_size)]
    batches = [batch for batch in batches if missing.intersection(batch)]
    distinct = list(dict.fromkeys(prompts[i] for i in own))
    row = {prompt: i for i, prompt in enumerate(distinct)}
    if batches:
        processes.report(f"Encoding {len(set(prompts[:len(listed)]))} prompts")
        prompt_embeds = model.embed(distinct, args.mu, device)
        negative_embeds = encode_prompts(sd, [""], device)

    # Draw, a batch at a time.
    processes.report(f"Drawing {len(missing)} images, {len(listed) - len(missing)} are already there")
    sd.text_encoder.to("cpu")
    sd.unet.to(device, weight_dtype)
    sd.vae.to(device)
    if args.compile:
        sampling.compile_unet(sd.unet, args.compile)

    def embeds(batch):
        return prompt_embeds[[row[prompts[i]] for i in batch]], negative_embeds

    def begin_saving():
        processes.decide(lambda: begin(args, paths, {**settings, "run": run}))

    draw(args, sd, batches, missing, listed, embeds, model.resolution, device, weight_dtype, begin_saving)
    if not batches and missing:  # all processes come together
        begin_saving()

    # Save the contact sheet.
    processes.leave()
    if processes.is_first():
        save_sheet(args, listed, paths)


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
