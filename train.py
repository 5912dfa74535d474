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
import sys
from pathlib import Path

from utils.data.gestures import get_gesture, require_gesture
from utils.method import presets
from utils.system import cli, files, processes
from utils.system.digests import digest_files, digest_weights, sha256
from utils.system.errors import warn
from utils.system.script import run_main


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
                        help="saved gesture feature (63,) instead of Stage I, which looks for hands")
    presets.add_preset_flags(parser)
    parser.add_argument("--gradient_checkpointing", action="store_true",
                        help="compute activations twice instead of keeping them: less memory, slower")
    presets.add_compile_flag(parser)
    parser.add_argument("--allow_tf32", action="store_true",
                        help="fp32 matrix products with a mantissa of 10 bits, on GPUs that have it: faster where "
                             "--mixed_precision is no, as with --preset paper")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="Stage I: threads that look for hands (default: one per core)")
    parser.add_argument("--num_validation_images", type=cli.int_between(0, 1000), default=4,
                        help="images drawn before and after training; 0 draws none")
    parser.add_argument("--validation_prompts", nargs="+", type=cli.prompt, metavar="PROMPT",
                        help="their prompts, in turn (default: captions of the test images, else of these)")
    parser.add_argument("--keep_checkpoints", action="store_true", help="leave the last two when all is done")
    parser.add_argument("--overwrite", action="store_true", help="delete the gesture's earlier run first")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and end")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    presets.fill_preset(args)
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


def list_settings(args, paths, captions, precision, sd):
    """What a run keeps from its first to its last step: flags, and digests of what some of them point to."""
    lines = "\n".join([*(path.name for path in paths), *captions])
    feature = args.feature_npy_path.read_bytes() if args.feature_npy_path else b""
    return {**vars(args), "precision": precision, "captions_sha256": sha256([lines.encode(errors="surrogatepass")]),
            "images_sha256": digest_files(paths), "feature_sha256": sha256([feature]) if feature else None,
            "base_model_sha256": digest_weights(sd.text_encoder, sd.unet, sd.vae)}


def main(args):
    import torch
    from accelerate import Accelerator
    from tqdm import tqdm

    from utils.data.annotations import read_gesturing_boxes
    from utils.hands.landmarker import require_detector
    from utils.method import gesture_feature
    from utils.method.fusion import FrozenFusion, TrainedFusion, fuse, save_fusion
    from utils.method.interruption import Interruption
    from utils.method.pictures import ValidationSamples, choose_prompts, save_loss_curves
    from utils.method.run_folder import BEGUN, FINISHED, RunFolder
    from utils.method.three_stage import GestureDenoiser, check_prediction_type, embedding_stage, finetune_stage, update
    from utils.method.training_plan import describe
    from utils.method.training_set import TrainingSet, encode_images, read_training_list
    from utils.method.training_state import LOG_STEPS, TrainingState
    from utils.models import lora
    from utils.models.sampling import compile_unet
    from utils.models.stable_diffusion import check_resolution, encode_prompts, load_stable_diffusion, save_pipeline
    from utils.system.device import choose_precision, explain_out_of_memory, resolve_device

    # Read names, captions and, if it is given, the gesture feature.
    gesture = get_gesture(args.gesture)
    paths, captions = read_training_list(args)
    run = RunFolder(args.output_dir / gesture.name)
    if args.dry_run:
        print("\n".join([*describe(args, len(paths)), f"writes {', '.join(map(str, run.written()))}"]))
        return
    boxes = {}
    if args.feature_npy_path:
        feature = gesture_feature.load_feature(args.feature_npy_path)
        info = gesture_feature.load_feature_info(args.feature_npy_path)
        gesture_feature.check_feature_info(args.feature_npy_path, {"gesture": gesture.name, "kind": args.feature},
                                           "--gesture and --feature ask for")
        feature_kind = info.get("kind")
        counts = {"read_from": args.feature_npy_path}
        if "detector" in info:
            counts["detector"] = info["detector"]
    else:
        feature, feature_kind = None, args.feature
        boxes = read_gesturing_boxes(args.data_dir / gesture.name / "train" / "annotations.json", gesture.name)
        if args.overwrite or not run.feature.is_file():  # before minutes of other work
            require_detector("install requirements.txt, or give --feature_npy_path")
    num_without = sum(gesture.phrase not in caption for caption in captions)
    if num_without and processes.is_first():
        warn(f"{num_without} of {len(captions)} captions lack the phrase {gesture.phrase!r}, which "
             "enrich_captions.py puts in")

    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_out_of_memory(
            f"--device {args.device} has too little memory for this training; try {presets.suggest_memory(args)}"))

        # Load the base model.
        processes.join(args.device)
        device = resolve_device(args.device)
        precision, weight_dtype = choose_precision(args.mixed_precision, device)
        torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
        sd = load_stable_diffusion(args.pretrained_model_name_or_path)
        resolution = check_resolution(sd, args.resolution)
        check_prediction_type(sd.noise_scheduler)

        # Claim the run's folder: go on with a run of these settings, refuse one of others.
        settings = list_settings(args, paths, captions, precision, sd)
        stack.enter_context(run.lock())
        progress = None if args.overwrite else run.find(settings)
        if progress == FINISHED:
            processes.report(f"{run.folder} is finished, the model is in {run.model}; --overwrite would start anew")
            processes.leave()
            if processes.is_first():
                run.tidy(args.keep_checkpoints)
            return
        run.log(f"{len(paths)} images of {gesture.name} at {resolution} px, on {device}, precision {precision}")

        # Stage I: the mean hand of the images.
        is_measured = progress == BEGUN and run.feature.is_file()
        if feature is None and not is_measured:
            feature, counts = gesture_feature.encode_gesture(paths, args.feature, gesture, args.num_workers, boxes)

        # Encode images and prompts once, each on the device and back.
        moments, used = encode_images(sd, paths, resolution, device, run.log)
        captions = [captions[i] for i in used]
        prompts = choose_prompts(args, captions)
        embeds = encode_prompts(sd, ["", *captions, *prompts], device)  # (1 + N + V, L, d), CPU
        sd.text_encoder.to("cpu")
        last = 1 + len(captions)

        # Begin: only now, when all that can fail for what is in a file has been read, does an earlier run go.
        processes.meet()
        if processes.is_first():
            run.begin(settings, args.overwrite)
            if not is_measured:
                gesture_feature.save_feature(run.feature, feature, feature_kind, gesture.name, counts)
                run.log("Stage I: " + ", ".join(f"{name} {value}" for name, value in counts.items()))
        processes.meet()
        feature = torch.from_numpy(gesture_feature.load_feature(run.feature)).to(device)

        # Draw a few images with the base model.
        samples = ValidationSamples(run.samples, sd, prompts, resolution, args.seed, device, weight_dtype)
        if processes.is_first() and not (progress == BEGUN and samples.are_drawn("base")):
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
            compile_unet(sd.unet, args.compile)

        # Stage II: one residual per image through the frozen U-Net. Stage III: the U-Net on what they make.
        accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        data = TrainingSet(sd, moments, embeds[1:last], embeds[:1], torch.zeros_like(embeds[1:last]))
        if device.type == "cuda":
            data.pin()
        with Interruption() as interruption:
            state = TrainingState(run.checkpoints, accelerator, data, run.log)
            for build_stage in (embedding_stage, finetune_stage):
                stage = build_stage(accelerator, denoiser, data, args)
                num_steps, done = len(stage.plan), state.resume(stage)
                bar = tqdm(total=num_steps, initial=done, desc=stage.name, unit="update", disable=done == num_steps)
                for step in range(done, num_steps):
                    update(accelerator, stage, data, step, args.seed)
                    done = step + 1
                    is_due = stage.is_checkpoint_due(done, args.checkpointing_steps)
                    is_look = is_due or done % LOG_STEPS == 0 or done == num_steps
                    stop = interruption.agreed(is_look)
                    if is_look or stop:
                        loss = state.check_losses(stage, done)
                    if is_due or stop:
                        state.save(stage, done)
                    if stop:
                        end(run, args, stage, done, stop)
                    if is_look:
                        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    bar.update()
                bar.close()
                state.finish(stage)
                if num_steps:
                    run.log(f"{stage.name}: {num_steps} updates, mean loss {stage.losses.mean().item():.4f}")
            if stop := interruption.agreed(True):  # it came after the last update, while a checkpoint was written
                end(run, args, stage, num_steps, stop)
        if stage.average is not None:
            stage.average.copy_to_parameters()

        # Draw the same images again, save the losses and, last of all, the model.
        stage.leave()
        if not processes.is_first():
            return
        with torch.no_grad():
            samples.draw("tuned", denoiser.fuse_prompts(embeds[last:].to(device)), embeds[:1])
        samples.save_sheet(run.samples / "before_after.png", ("base", "tuned"))
        losses = {name: values.tolist() for name, values in state.losses.items()}
        run.write_losses(losses)
        save_loss_curves(run.loss_curves, losses)
        with files.atomic_path(run.model) as folder:
            if args.lora_rank:
                lora.save_lora(sd, folder)
                weights = digest_files([folder / lora.LORA_FILE])
            else:
                save_pipeline(sd, folder)
                weights = digest_weights(sd.text_encoder, sd.unet)
            info = gesture_feature.load_feature_info(run.feature)
            save_fusion(folder, fusion, feature, {
                "gesture": gesture.name, "Lambda": args.Lambda, "seed": args.seed, "resolution": resolution,
                "feature": info.get("kind"), "detector": info.get("detector"),
                "base_model": args.pretrained_model_name_or_path,
                "base_model_sha256": settings["base_model_sha256"], "weights_sha256": weights,
                "sequence_length": embeds.shape[1], "embed_dim": embeds.shape[2]})
        run.tidy(args.keep_checkpoints)
        run.log(f"finished: the model is in {run.model}, before and after in {run.samples}")


def end(run, args, stage, done, signal):
    """Ends the process after a signal, when the checkpoint has been written."""
    stage.leave()  # a launcher ends all as soon as one has ended
    command = "the same command without --overwrite" if args.overwrite else "the same command"
    with contextlib.suppress(OSError):  # Ctrl-C ends the `tee` behind the command, too
        run.log(f"interrupted in {stage.name} after update {done} of {len(stage.plan)}; {command} goes on from here")
    sys.exit(128 + signal)


if __name__ == "__main__":
    run_main(main, parse_args(), goes_on=True)
