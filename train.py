"""Teach Stable Diffusion one hand gesture in three stages, from about 1,000 captioned images.

python train.py --gesture call --Lambda 0.7

Stage I measures the mean hand of the images (MediaPipe), Stage II optimises one text embedding per image
through the frozen U-Net, Stage III fine-tunes the U-Net on them. The same command continues a run.
`accelerate launch --num_processes 8 train.py ...` shares each batch among 8 GPUs.

Reads  <data_dir>/<gesture>/train: images/, <captioner>_filenames.txt, <captioner>_enriched.txt and, if there,
       annotations.json, which tells Stage I where the gesturing hand is
Writes <output_dir>/<gesture>: model/ (StableDiffusionPipeline.from_pretrained opens it),
       gesture_feature.npy, samples/before_after.png, losses.jsonl, losses.png, config.json, train.log;
       checkpoints/ until it is done
"""

import contextlib
import os
from pathlib import Path

from utils.data.gestures import require_gesture
from utils.method import presets
from utils.system import cli, errors, files, processes, script
from utils.system.digests import digest_files, digest_weights, sha256


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--gesture", required=True, help="HaGRID's name of the gesture, such as call")
    parser.add_argument("--Lambda", type=cli.unit_interval, default=0.7,
                        help="0 to 1: weight of the caption's own embedding in the fused one; 1 leaves the "
                             "gesture feature out, 0 trains on F(e, g) alone")
    parser.add_argument("--pretrained_model_name_or_path", default="CompVis/stable-diffusion-v1-4",
                        help="hub id or folder of a Stable Diffusion 1.x or 2.x")
    parser.add_argument("--data_dir", type=cli.path_name, default=Path("data"), help="folder of all data")
    parser.add_argument("--output_dir", type=cli.path_name, default=Path("outputs"), help="folder of runs")
    parser.add_argument("--captioner", default="BLIP2", help="whose captions",
                        choices=("BLIP2", "PaliGemma", "VitGpt2", "synthetic"))
    parser.add_argument("--captions", choices=("enriched", "captions"), default="enriched",
                        help="captions with the gesture's phrase, or as the captioner wrote them")
    parser.add_argument("--max_train_samples", type=cli.positive_int, help="first N images (default: all)")
    parser.add_argument("--resolution", type=cli.drawn_resolution,
                        help="side length in pixels (default: what the base model was made for)")
    parser.add_argument("--feature_npy_path", type=cli.path_name,
                        help="saved gesture feature (63,) instead of Stage I, which needs mediapipe")
    presets.add_preset_flags(parser)
    parser.add_argument("--gradient_checkpointing", action="store_true",
                        help="compute activations twice instead of keeping them: less memory, slower")
    presets.add_compile_flag(parser)
    parser.add_argument("--allow_tf32", action="store_true",
                        help="fp32 matrix products with a mantissa of 10 bits, on GPUs that have it: faster where "
                             "--mixed_precision is no, as with --preset paper")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="Stage I: processes (default: one per core)")
    parser.add_argument("--num_validation_images", type=cli.int_between(0, 1000), default=4,
                        help="images drawn before and after training; 0 draws none")
    parser.add_argument("--validation_prompts", nargs="+", type=cli.prompt, metavar="PROMPT",
                        help="their prompts, in turn (default: captions of the test images, else of these)")
    parser.add_argument("--keep_checkpoints", action="store_true", help="leave the last two when all is done")
    parser.add_argument("--overwrite", action="store_true", help="delete the gesture's earlier run first")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    try:
        presets.fill_preset(args)
        str(args.output_dir).encode()
    except errors.UserError as error:
        parser.error(str(error))
    except UnicodeEncodeError:
        parser.error(f"--output_dir {args.output_dir}: no UTF-8, which the files of a model need; give another name")
    presets.check_packages(parser, args)
    require_gesture(parser, args.gesture)
    folder = cli.require_dir(parser, args.data_dir / args.gesture / "train", "--data_dir",
                             "images are expected in <data_dir>/<gesture>/train/images")
    cli.require_file(parser, folder / f"{args.captioner}_filenames.txt", "--captioner",
                     "caption the images first, or name the captioner that was used")
    cli.require_file(parser, folder / f"{args.captioner}_{args.captions}.txt", "--captions",
                     "run enrich_captions.py first, or choose --captions captions")
    if args.feature_npy_path:
        cli.require_file(parser, args.feature_npy_path, "--feature_npy_path")
    run, base = (os.path.realpath(path) for path in (args.output_dir / args.gesture,
                                                     args.pretrained_model_name_or_path))
    if args.overwrite and Path(run) in Path(base).parents:
        parser.error(f"--pretrained_model_name_or_path {args.pretrained_model_name_or_path}: --overwrite would delete "
                     "it; copy it to another folder")
    return args


def read_training_list(args):
    """(paths, captions) of the training images. UserError when lists do not fit or images are missing."""
    from utils.data.images import read_aligned, safe_join

    folder = args.data_dir / args.gesture / "train"
    list_path = folder / f"{args.captioner}_filenames.txt"
    names, captions = read_aligned(list_path, folder / f"{args.captioner}_{args.captions}.txt")
    paths = [safe_join(folder / "images", name) for name in names[: args.max_train_samples]]
    if missing := [path for path in paths if not path.is_file()]:
        raise errors.UserError(
            f"{list_path}: {len(missing)} of {len(paths)} images are not in {folder / 'images'}, "
            f"{missing[0].name} among them; put them there or drop their lines from both lists")
    return paths, captions[: args.max_train_samples]


def list_settings(args, paths, captions):
    """What goes to config.json: the flags, and digests of what some of them point to."""
    lines = "\n".join([*(path.name for path in paths), *captions])
    settings = {**vars(args), "captions_sha256": sha256([lines.encode(errors="surrogatepass")]),
                "images_sha256": digest_files(paths)}
    if args.feature_npy_path:
        settings["feature_sha256"] = sha256([files.read_file(args.feature_npy_path)])
    return settings


def measure_gesture(args, gesture, paths, boxes):
    """Stage I: (feature (63,), kind, counts), from the images unless --feature_npy_path is given."""
    from utils.method.gesture_feature import check_feature_info, encode_gesture, load_feature, load_feature_info

    if not args.feature_npy_path:
        feature, counts = encode_gesture(paths, args.feature, gesture, args.num_workers, boxes)
        return feature, args.feature, counts
    check_feature_info(args.feature_npy_path, {"gesture": gesture.name, "kind": args.feature},
                       "--gesture and --feature ask for")
    kind = load_feature_info(args.feature_npy_path).get("kind")
    return load_feature(args.feature_npy_path), kind, {"read_from": args.feature_npy_path}


def claim(run, args, settings, stack):
    """Whether the run is already finished; if not, its folder is this run's until `stack` ends."""
    stack.enter_context(run.lock())
    if args.overwrite:
        return False
    run.check(settings)
    if run.is_finished:
        run.tidy(args.keep_checkpoints)
        print(f"{run.folder} is finished, the model is in {run.model}; --overwrite would start anew")
    return run.is_finished


def train_gesture(run, args, settings, gesture, paths, captions, boxes):
    """All three stages, from where an earlier run was interrupted, and what they leave in the run's folder."""
    # Load the base model.
    import torch
    from accelerate import Accelerator

    from utils.method import training_set
    from utils.method.figures import save_loss_curves
    from utils.method.fusion import FrozenFusion, TrainedFusion, fuse, save_fusion
    from utils.method.gesture_feature import load_feature, load_feature_info, save_feature
    from utils.method.interruption import Interruption
    from utils.method.three_stage import GestureDenoiser, check_prediction_type
    from utils.method.training_run import TrainingRun
    from utils.method.validation_samples import ValidationSamples, choose_prompts
    from utils.models import lora, stable_diffusion
    from utils.system.device import resolve_device

    device = resolve_device(args.device)
    precision, weight_dtype = presets.choose_precision(args.mixed_precision, device)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    sd = stable_diffusion.load_stable_diffusion(args.pretrained_model_name_or_path)
    resolution = stable_diffusion.check_resolution(sd, args.resolution)
    check_prediction_type(sd.noise_scheduler)
    settings["precision"] = precision
    settings["base_model_sha256"] = processes.decide(lambda: digest_weights(sd.text_encoder, sd.unet, sd.vae))
    processes.decide(lambda: args.overwrite or run.check(settings))

    # What is computed once: all that can fail for what is in a file, so that it costs no earlier run.
    run.log(f"{len(paths)} images of {gesture.name} at {resolution} px, on {device}, precision {precision}")
    moments, used = training_set.encode_images(sd, paths, resolution, device, run.log)
    settings["images_left_out"] = [paths[i].name for i in sorted({*range(len(paths))} - {*used})]
    processes.decide(lambda: args.overwrite or run.check(settings))
    captions = [captions[i] for i in used]
    prompts = choose_prompts(args, captions)
    embeds = stable_diffusion.encode_prompts(sd, ["", *captions, *prompts], device)  # (1 + N + V, L, d), CPU
    sd.text_encoder.to("cpu")
    last = 1 + len(captions)
    is_resumed = processes.decide(lambda: run.is_begun and not args.overwrite)
    is_measured = processes.decide(lambda: is_resumed and run.feature.is_file())
    if not is_measured:
        feature, kind, counts = measure_gesture(args, gesture, paths, boxes)

    # Begin.
    processes.decide(lambda: run.begin(settings, args.overwrite))
    if not is_measured:
        processes.decide(lambda: save_feature(run.feature, feature, kind, gesture.name, counts))
        run.log("Stage I: " + ", ".join(f"{name} {value}" for name, value in counts.items()))
    feature = torch.from_numpy(processes.decide(lambda: load_feature(run.feature))).to(device)
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    samples = ValidationSamples(run.samples, sd, prompts, resolution, args.seed, device, weight_dtype)
    if processes.is_first() and not (is_resumed and samples.are_drawn("base")):
        samples.draw("base", embeds[last:], embeds[:1])

    # Fuse the prompts: once and for all with the frozen F, in every update with a trained one.
    if args.fusion == "frozen":
        fusion = FrozenFusion(*embeds.shape[1:], seed=args.seed)
        embeds[1:] = fuse(embeds[1:], fusion(embeds[1:].to(device), feature).cpu(), args.Lambda)
        denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler)
    else:
        fusion = TrainedFusion(embeds.shape[2])
        denoiser = GestureDenoiser(sd.unet, sd.noise_scheduler, fusion, feature, args.Lambda)
    denoiser.to(device)
    if args.gradient_checkpointing:
        sd.unet.enable_gradient_checkpointing()
    if args.compile:
        denoiser.compile_unet(args.compile)

    # Stages II and III.
    data = training_set.TrainingSet(sd, moments, embeds[1:last], embeds[:1], torch.zeros_like(embeds[1:last]))
    if device.type == "cuda":
        data.pin()
    with Interruption() as interruption:
        losses = TrainingRun(run, args, settings, accelerator, denoiser, data, interruption).train()

    # Draw the same samples again, save the losses and, last of all, the model.
    processes.leave()
    if not processes.is_first():
        return
    with torch.no_grad():
        samples.draw("tuned", denoiser.fuse_prompts(embeds[last:].to(device)), embeds[:1])
    samples.save_sheet(run.samples / "before_after.png", ("base", "tuned"))
    losses = {name: values.tolist() for name, values in losses.items()}
    run.write_losses(losses)
    save_loss_curves(run.loss_curves, losses)
    with files.atomic_path(run.model) as folder:
        if args.lora_rank:
            lora.save_lora(sd, folder)
            weights = digest_files([folder / lora.LORA_FILE])
        else:
            stable_diffusion.save_pipeline(sd, folder)
            weights = digest_weights(sd.text_encoder, sd.unet)
        save_fusion(folder, fusion, feature, {
            "gesture": gesture.name, "Lambda": args.Lambda, "seed": args.seed, "resolution": resolution,
            "feature": load_feature_info(run.feature).get("kind"),
            "base_model": args.pretrained_model_name_or_path,
            "base_model_sha256": settings["base_model_sha256"], "weights_sha256": weights,
            "sequence_length": embeds.shape[1], "embed_dim": embeds.shape[2]})
    run.tidy(args.keep_checkpoints)
    run.log(f"finished: the model is in {run.model}, before and after in {run.samples}")


def main(args):
    # Check the lists, the feature and the run's folder.
    from utils.data.annotations import read_gesturing_boxes
    from utils.data.gestures import get_gesture
    from utils.hands import detector
    from utils.method.gesture_feature import warn_without_info
    from utils.method.run_folder import RunFolder

    gesture = get_gesture(args.gesture)
    paths, captions = read_training_list(args)
    annotations = args.data_dir / gesture.name / "train" / "annotations.json"
    boxes = {} if args.feature_npy_path else read_gesturing_boxes(annotations, gesture.name)
    if args.feature_npy_path:
        measure_gesture(args, gesture, paths, boxes)
    run = RunFolder(args.output_dir / gesture.name)
    if not args.feature_npy_path and (args.overwrite or not run.feature.is_file()):  # before minutes of other work
        detector.require_mediapipe("install requirements.txt, or give --feature_npy_path")
    processes.join(args.device)
    settings = processes.decide(lambda: list_settings(args, paths, captions))
    with contextlib.ExitStack() as stack:
        if processes.decide(lambda: claim(run, args, settings, stack)):
            processes.leave()
            return
        if args.feature_npy_path and processes.is_first():
            warn_without_info(args.feature_npy_path)
        num_without = sum(gesture.phrase not in caption for caption in captions)
        if num_without and processes.is_first():
            errors.warn(f"{num_without} of {len(captions)} captions lack the phrase {gesture.phrase!r}, which "
                     "enrich_captions.py puts in")
        from utils.system.device import explain_out_of_memory

        with explain_out_of_memory(f"--device {args.device} has too little memory for this training; try "
                                   f"{presets.suggest_memory(args)}"):
            train_gesture(run, args, settings, gesture, paths, captions, boxes)


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
