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
import hashlib
import sys
from pathlib import Path

from utils import cli, processes, train_settings

LOG_STEPS = 10  # updates between two looks at the losses


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
    train_settings.add_preset_flags(parser)
    parser.add_argument("--gradient_checkpointing", action="store_true",
                        help="compute activations twice instead of keeping them: less memory, slower")
    parser.add_argument("--compile", action="store_true",
                        help="translate the U-Net with torch.compile: minutes at the start, then faster on a GPU; "
                             "needs a C++ compiler")
    parser.add_argument("--allow_tf32", action="store_true",
                        help="fp32 matrix products with a mantissa of 10 bits, on GPUs that have it: faster where "
                             "--mixed_precision is no, as with --preset paper")
    parser.add_argument("--num_workers", type=cli.num_workers,
                        help="Stage I: processes (default: one per core)")
    parser.add_argument("--num_validation_images", type=cli.int_between(0, 1000), default=4,
                        help="images drawn before and after training; 0 draws none")
    parser.add_argument("--validation_prompts", nargs="+", metavar="PROMPT",
                        help="their prompts, in turn (default: captions of the test images, else of these)")
    parser.add_argument("--keep_checkpoints", action="store_true", help="leave the last two when all is done")
    parser.add_argument("--overwrite", action="store_true", help="delete the gesture's earlier run first")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    train_settings.fill_preset(args)
    train_settings.check_packages(parser, args)
    cli.require_gesture(parser, args.gesture)
    folder = cli.require_dir(parser, args.data_dir / args.gesture / "train", "--data_dir",
                             "images are expected in <data_dir>/<gesture>/train/images")
    cli.require_file(parser, folder / f"{args.captioner}_filenames.txt", "--captioner",
                     "caption the images first, or name the captioner that was used")
    cli.require_file(parser, folder / f"{args.captioner}_{args.captions}.txt", "--captions",
                     "run enrich_captions.py first, or choose --captions captions")
    if args.feature_npy_path:
        cli.require_file(parser, args.feature_npy_path, "--feature_npy_path")
    return args


def read_training_list(args):
    """(paths, captions) of the training images. UserError when lists do not fit or images are missing."""
    from utils.images import read_aligned, safe_join

    folder = args.data_dir / args.gesture / "train"
    list_path = folder / f"{args.captioner}_filenames.txt"
    names, captions = read_aligned(list_path, folder / f"{args.captioner}_{args.captions}.txt")
    paths = [safe_join(folder / "images", name) for name in names[: args.max_train_samples]]
    if missing := [path for path in paths if not path.is_file()]:
        raise cli.UserError(
            f"{list_path}: {len(missing)} of {len(paths)} images are not in {folder / 'images'}, "
            f"{missing[0].name} among them; put them there or drop their lines from both lists")
    return paths, captions[: args.max_train_samples]


def list_settings(args, paths, captions):
    """What goes to config.json: the flags, and digests of what some of them point to."""
    def digest(data):
        return hashlib.sha256(data).hexdigest()[:16]

    lines = "\n".join([*(path.name for path in paths), *captions])
    settings = {**vars(args), "captions_sha256": digest(lines.encode(errors="surrogatepass"))}
    if args.feature_npy_path:
        settings["feature_sha256"] = digest(args.feature_npy_path.read_bytes())
    return settings


def measure_gesture(run, args, gesture, paths, boxes, is_measured):
    """Stage I: (63,), from the images unless --feature_npy_path is given or the run has it already."""
    from utils.gesture_encoder import encode_gesture, load_feature, load_feature_info, save_feature

    if is_measured:
        return load_feature(run.feature)
    if args.feature_npy_path:
        feature, counts = load_feature(args.feature_npy_path), {"read_from": args.feature_npy_path}
        kind = load_feature_info(args.feature_npy_path).get("kind")
    else:
        kind = args.feature
        feature, counts = encode_gesture(paths, kind, gesture, args.num_workers, boxes)
    processes.decide(lambda: save_feature(run.feature, feature, kind, gesture.name, counts))
    run.log("Stage I: " + ", ".join(f"{name} {value}" for name, value in counts.items()))
    return feature


def check_losses(run, stage, done):
    """Mean of the last losses; UserError when one of the first `done` is not a number any more."""
    finite = stage.losses[:done].isfinite()
    if not finite.all():
        first = int(finite.int().argmin())
        last = max(run.checkpoints.glob("step-*"), default=None)
        raise cli.UserError(
            f"{stage.name}, update {first + 1}: the loss is {stage.losses[first].item()} (last checkpoint: "
            f"{last or 'none'}); start anew with --overwrite and a lower learning rate, or another "
            "--mixed_precision if it was fp16")
    return stage.losses[max(0, done - LOG_STEPS) : done].mean().item()


def train(run, args, settings, accelerator, denoiser, data, interruption):
    """Stages II and III, from the newest checkpoint on: {stage name: losses}; `denoiser` has learned."""
    from tqdm import tqdm

    from utils.checkpoint import CheckpointFolder, restore_stage, stage_parts
    from utils.three_stage import embedding_stage, finetune_stage, optimise

    checkpoints = CheckpointFolder(run.checkpoints, warn=run.log)
    if checkpoint := processes.decide(checkpoints.newest):
        run.log(f"going on from {checkpoint.path} ({checkpoint.state['stage']})")
        for name in checkpoint.state["pieces"]:
            for first, residuals in checkpoint.load_piece(name).items():
                data.residuals[int(first) : int(first) + len(residuals)] = residuals
    saved_losses = checkpoint.load("losses") if checkpoint else {}

    losses, offset = {}, 0  # offset: updates of the stages before
    for make_stage in (embedding_stage, finetune_stage):
        stage = make_stage(accelerator, denoiser, data, args)
        losses[stage.name] = stage.losses
        num_steps, first_step = len(stage.plan), 0
        if stage.name in saved_losses:
            stage.losses.copy_(saved_losses[stage.name])
            first_step = min(checkpoint.state["step"] - offset, num_steps)
            if checkpoint.state["stage"] == stage.name:
                restore_stage(stage, denoiser, accelerator, checkpoint)

        steps = optimise(accelerator, denoiser, data, stage, args.seed, first_step)
        progress = tqdm(steps, total=num_steps, initial=first_step, desc=stage.name, unit="update",
                        disable=first_step == num_steps)
        for step in progress:
            done = step + 1
            ends_batch = stage.residual is not None and stage.plan.ends_round(step)
            is_due = ends_batch or (stage.residual is None and done % args.checkpointing_steps == 0)
            is_look = is_due or done % LOG_STEPS == 0 or done == num_steps
            signal = interruption.agreed(is_look)
            if is_look or signal:
                progress.set_postfix(loss=f"{check_losses(run, stage, done):.4f}")
            if ends_batch and processes.is_first():
                images, _ = stage.plan.samples(step)
                residuals = {str(images[0]): data.residuals[images]}
                checkpoints.write_piece(f"residuals/{images[0]:06d}", residuals)
            if (is_due or signal) and processes.is_first():
                parts = {**stage_parts(stage, denoiser), "losses": losses}
                scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
                state = {"stage": stage.name, "scaler": scaler, "settings": settings}
                checkpoints.write(offset + done, parts, state)
            if signal:
                progress.close()
                processes.wait_for_all()  # a launcher ends all as soon as one has ended
                run.log(f"interrupted in {stage.name} after update {done} of {num_steps}; "
                        "the same command goes on from here")
                sys.exit(128 + signal)
        if num_steps:
            run.log(f"{stage.name}: {num_steps} updates, mean loss {stage.losses.mean().item():.4f}")
        offset += num_steps
        accelerator.free_memory()
    if stage.average is not None:
        stage.average.copy_to_parameters()
    return losses


def claim(run, args, settings, stack):
    """Whether the run is already finished; if not, its folder is this run's until `stack` ends."""
    if not args.overwrite:
        run.check(settings)
        if run.is_finished:
            run.tidy(args.keep_checkpoints)
            print(f"{run.folder} is finished, the model is in {run.model}; --overwrite would start anew")
            return True
    stack.enter_context(run.lock())
    return False


def begin(run, args, settings):
    """Writes the settings; whether the folder holds a run with the same ones, which goes on."""
    is_resumed = run.is_begun and not args.overwrite
    run.begin(settings, args.overwrite)
    return is_resumed


def train_gesture(run, args, settings, gesture, paths, captions, boxes):
    """All three stages, from where an earlier run was interrupted, and what they leave in the run's folder."""
    # Load the base model.
    import torch
    from accelerate import Accelerator

    from utils import stable_diffusion, training_set
    from utils.device import resolve_device
    from utils.figures import save_loss_curves
    from utils.fusion import FrozenFusion, TrainedFusion, fuse, save_fusion
    from utils.gesture_encoder import load_feature_info
    from utils.interruption import Interruption
    from utils.three_stage import GestureDenoiser
    from utils.validation_samples import ValidationSamples, choose_prompts

    device = resolve_device(args.device)
    precision, weight_dtype = train_settings.choose_precision(args.mixed_precision, device)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    sd = stable_diffusion.load_stable_diffusion(args.pretrained_model_name_or_path)
    resolution = training_set.choose_resolution(sd, args.resolution)
    is_resumed = processes.decide(lambda: begin(run, args, settings))
    run.log(f"{len(paths)} images of {gesture.name} at {resolution} px, on {device}, precision {precision}")
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")

    # Stage I, and what else is computed once.
    is_measured = processes.decide(lambda: is_resumed and run.feature.is_file())
    feature = torch.from_numpy(measure_gesture(run, args, gesture, paths, boxes, is_measured)).to(device)
    moments, used = training_set.encode_images(sd, paths, resolution, device, run.log)
    captions = [captions[i] for i in used]
    prompts = choose_prompts(args, captions)
    embeds = stable_diffusion.encode_prompts(sd, ["", *captions, *prompts], device)  # (1 + N + V, L, d), CPU
    sd.text_encoder.to("cpu")
    last = 1 + len(captions)
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
        denoiser.compile_unet()

    # Stages II and III.
    data = training_set.TrainingSet(sd, moments, embeds[1:last], embeds[:1], torch.zeros_like(embeds[1:last]))
    with Interruption() as interruption:
        losses = train(run, args, settings, accelerator, denoiser, data, interruption)

    # Draw the same samples again, save the losses and, last of all, the model.
    if not processes.is_first():
        return
    with torch.no_grad():
        samples.draw("tuned", denoiser.fuse_prompts(embeds[last:].to(device)), embeds[:1])
    samples.save_sheet(run.samples / "before_after.png", ("base", "tuned"))
    losses = {name: values.tolist() for name, values in losses.items()}
    run.write_losses(losses)
    save_loss_curves(run.loss_curves, losses)
    with cli.atomic_path(run.model) as folder:
        (stable_diffusion.save_lora if args.lora_rank else stable_diffusion.save_pipeline)(sd, folder)
        save_fusion(folder, fusion, feature, {
            "gesture": gesture.name, "Lambda": args.Lambda, "seed": args.seed, "resolution": resolution,
            "feature": load_feature_info(run.feature).get("kind"),
            "base_model": args.pretrained_model_name_or_path,
            "sequence_length": embeds.shape[1], "embed_dim": embeds.shape[2]})
    run.tidy(args.keep_checkpoints)
    run.log(f"finished: the model is in {run.model}, before and after in {run.samples}")


def main(args):
    # Check the lists and the run's folder.
    from utils.annotations import read_gesturing_boxes
    from utils.gestures import get_gesture
    from utils.run_folder import RunFolder

    gesture = get_gesture(args.gesture)
    paths, captions = read_training_list(args)
    annotations = args.data_dir / gesture.name / "train" / "annotations.json"
    boxes = {} if args.feature_npy_path else read_gesturing_boxes(annotations, gesture.name)
    settings = list_settings(args, paths, captions)
    run = RunFolder(args.output_dir / gesture.name)
    processes.join(args.device)
    with contextlib.ExitStack() as stack:
        if processes.decide(lambda: claim(run, args, settings, stack)):
            return
        num_without = sum(gesture.phrase not in caption for caption in captions)
        if num_without and processes.is_first():
            cli.warn(f"{num_without} of {len(captions)} captions lack the phrase {gesture.phrase!r}, which "
                     "enrich_captions.py puts in")
        from utils.device import explain_out_of_memory

        with explain_out_of_memory(f"--device {args.device} has too little memory for this training; try "
                                   f"{train_settings.suggest_memory(args)}"):
            train_gesture(run, args, settings, gesture, paths, captions, boxes)


if __name__ == "__main__":
    cli.run_main(main, parse_args())
