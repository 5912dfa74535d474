"""Train the small network whose features stand in for Inception's where no Inception weights are.

  python -m utils.synthetic.feature_network --output_dir outputs/feature-network --seed 0

Renders hands in all gestures and at random, half of them malformed, into --work_dir (kept, and read when the command
is given again), and trains the network to tell joints, finger states, malformation, side, skin, background and
sleeve, and how blurred, noisy and compressed a picture is, from whole pictures and from crops of hands. Writes
model.safetensors (fp16) and training.json (settings, losses, figures on held-out hands) to --output_dir.
"""

from pathlib import Path

from utils.system import cli, errors, files, script
from utils.system.process_pool import count_cores

SHIPPED = Path(__file__).parent / "feature-network"
NOT_RECORDED = ("debug", "work_dir", "output_dir", "num_threads")  # in training.json


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--output_dir", type=cli.path_name, required=True, help="folder of the finished network")
    parser.add_argument(
        "--work_dir",
        type=cli.path_name,
        default=Path("outputs/feature-network-work"),
        help="folder of the rendered hands: 1.4 GB",
    )
    parser.add_argument(
        "--hands_per_gesture",
        type=cli.int_between(1, 100_000),
        default=1000,
        help="hands to render in each gesture; ten times as many in random poses; a tenth is held out",
    )
    parser.add_argument("--malformed", type=cli.unit_interval, default=0.5, help="share of malformed hands, 0 to 1")
    parser.add_argument("--steps", type=cli.num_updates, default=3000, help="updates")
    parser.add_argument("--batch_size", type=cli.batch_size, default=64, help="pictures per update")
    parser.add_argument("--learning_rate", type=cli.positive_float, default=2e-3, help="peak rate of AdamW")
    parser.add_argument("--num_threads", type=cli.num_workers, default=count_cores(), help="threads of torch")
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="bf16",
        help="bf16 pays on processors that multiply it in hardware",
    )
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)
    if args.hands_per_gesture < 2:
        parser.error("--hands_per_gesture 1 leaves nothing to train on; use at least 2")
    if args.batch_size < 2:
        parser.error("--batch_size 1 has no variance to standardise features by; use at least 2")
    return args


def load_feature_network(path=SHIPPED / "model.safetensors"):
    """The trained network as an extractor of features: eval mode, fp32, no gradients.

    .name, .num_features, .settings (with the SHA-256 of the weights), .prepare; it maps (N, 3, 128, 128) to (N, 96).
    UserError if the weights are missing or damaged.
    """
    import hashlib

    import safetensors.torch
    import torch
    from safetensors import SafetensorError

    from utils.synthetic.feature_model import FeatureNetwork

    remedy = "restore the file, or train it anew with python -m utils.synthetic.feature_network"
    network = FeatureNetwork()
    try:
        data = Path(path).read_bytes()
        network.load_state_dict(safetensors.torch.load(data))
    except OSError as error:
        raise errors.UserError(f"{path}: {error.strerror}; {remedy}") from error
    except (SafetensorError, RuntimeError) as error:
        raise errors.UserError(f"{path}: not the weights of this network; {remedy}") from error
    network.settings["weights"] = hashlib.sha256(data).hexdigest()
    return network.to(torch.float32).requires_grad_(False).eval()


def main(args):
    import time

    import torch
    from safetensors.torch import save_file

    from utils.synthetic import feature_model
    from utils.synthetic.feature_hands import render_all, renderer_hash
    from utils.system.device import resolve_device

    # Render
    device = resolve_device(args.device)
    torch.set_num_threads(args.num_threads)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    hands, held_out = render_all(args.work_dir, args.hands_per_gesture, args.malformed, args.seed)

    # Train
    print(f"training on {len(hands['images'])} hands, {len(held_out['images'])} are held out")
    start = time.time()
    network, losses = feature_model.train_network(
        hands, args.steps, args.batch_size, args.learning_rate, args.seed, device, args.mixed_precision
    )
    minutes = (time.time() - start) / 60

    # Save, then validate what was saved
    weights = {name: tensor.contiguous() for name, tensor in network.cpu().state_dict().items()}
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    with files.atomic_path(args.output_dir / "model.safetensors") as path:
        save_file(weights, path)
    network = load_feature_network(args.output_dir / "model.safetensors").to(device)
    figures = {
        name: feature_model.validate(network, held_out, name == "crops", device) for name in ("whole", "crops")
    }
    for name, row in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    settings = {name: value for name, value in vars(args).items() if name not in NOT_RECORDED}
    settings["renderer"] = renderer_hash()
    training = {"settings": settings, "minutes": round(minutes, 1), "held_out": figures, "losses": losses}
    files.write_json(args.output_dir / "training.json", training)
    print(f"the network is in {args.output_dir}")


if __name__ == "__main__":
    script.run_main(main, parse_args())
