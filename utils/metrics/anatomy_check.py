"""Do the metrics see anatomy? Measured on rendered hands of which a known share is malformed.

  python -m utils.metrics.anatomy_check --gesture call palm --output_dir outputs/metric_check

Renders sound hands as the reference, and sound and malformed ones (a missing, extra, fused or wrongly bent finger) to
compose sets with 0, 10, 25, 50 and 100 % malformed hands. Every metric is taken on several disjoint sets of each
share. A metric sees anatomy if it moves one way with the share, and by more than it varies between equal sets. Writes
results.json, table.md and metric_check.png, one column of plots per gesture.
"""

from pathlib import Path

from utils.synthetic.hand import POSES
from utils.system import cli, files, script
from utils.system.process_pool import count_cores

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
# metric -> which way a worse set should move it
METRICS = {"FID (synthetic)": 1, "FID-H (synthetic)": 1, "KID (synthetic)": 1, "KID-H (synthetic)": 1,
           "FID-H (landmarks)": 1, "KID-H (landmarks)": 1, "HAND-CONF": -1, "HAND-CONF, no hand = 0": -1,
           "presence": -1, "presence, no hand = 0": -1, "detection rate": -1, "gesture match rate": -1}


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--gesture", nargs="+", choices=list(POSES), default=["call", "palm"], help="hands to render")
    parser.add_argument("--num_images", type=cli.int_between(1, 1_000_000), default=200,
                        help="images of a set and of its reference")
    parser.add_argument("--num_sets", type=cli.int_between(1, 1000), default=4, help="disjoint sets of every share")
    parser.add_argument("--resolution", type=cli.resolution, default=128, help="side of the images, pixels")
    parser.add_argument("--batch_size", type=cli.batch_size, default=64, help="pictures in a batch of the network")
    parser.add_argument("--num_workers", type=cli.num_workers, default=count_cores(),
                        help="processes that render, threads that look for hands")
    parser.add_argument("--output_dir", type=cli.path_name, default=Path("outputs/metric_check"),
                        help="folder to write")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)
    if args.num_images < 10 or args.num_sets < 2:
        parser.error("the shares need --num_images 10 or more, and their spread --num_sets 2 or more")
    return args


# Results


def summarize(found):
    """Per metric: mean and standard deviation over the sets, whether the mean moves one way only, and by how much.

    `smallest_seen` is the lowest share at which the mean lies further from that of sound sets, in the expected
    direction, than twice the standard deviation of one such difference between sets; None if there is none.
    """
    summary = {}
    for name, sign in METRICS.items():
        values = found[name]
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        change = sign * (values - values[:, :1])
        noise = change.std(axis=0, ddof=1)
        seen = [share for share, rise, deviation in zip(SHARES, change.mean(axis=0), noise, strict=True)
                if share and rise > 2 * max(deviation, spread[0])]
        steps = sign * (mean[1:] - mean[:-1])
        summary[name] = {"mean": mean.tolist(), "std": spread.tolist(), "monotone": bool((steps > 0).all()),
                         "change_at_100_in_std": float(change[:, -1].mean() / max(spread[0], 1e-12)),
                         "smallest_seen": min(seen, default=None)}
    return summary


def format_markdown(gesture, summary, args):
    """The summary of one gesture as a Markdown table; σ is the standard deviation of sound sets."""
    heads = [f"{share:.0%}" for share in SHARES]
    lines = [f"{gesture}, sets of {args.num_images}, mean ± standard deviation over {args.num_sets} sets", "",
             f"| metric | {' | '.join(heads)} | one way | moved at 100% | seen from |", "|---" * (len(heads) + 4) + "|"]
    for name, row in summary.items():
        digits = 3 if max(map(abs, row["mean"])) >= 0.1 else 4
        cells = [f"{mean:.{digits}f} ± {std:.{digits}f}" for mean, std in zip(row["mean"], row["std"], strict=True)]
        seen = "never" if row["smallest_seen"] is None else f"{row['smallest_seen']:.0%}"
        lines.append(f"| {name} | {' | '.join(cells)} | {'yes' if row['monotone'] else 'no'} | "
                     f"{row['change_at_100_in_std']:.1f} σ | {seen} |")
    return "\n".join(lines) + "\n"


def save_plot(path, found):
    """One row of axes per metric, one column per gesture: every set a thin line, their mean a thick one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(found), 1.7 * len(METRICS)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(METRICS), len(found), sharex=True, squeeze=False)
    percent = [100 * share for share in SHARES]
    for column, (gesture, metrics) in enumerate(found.items()):
        axes[0, column].set_title(gesture)
        axes[-1, column].set_xlabel("malformed hands, %")
        for axis, name in zip(axes[:, column], METRICS, strict=True):
            axis.plot(percent, metrics[name].T, color="tab:blue", linewidth=0.6, alpha=0.6)
            axis.plot(percent, metrics[name].mean(axis=0), color="black", marker="o", markersize=3)
            axis.set_ylabel(name, fontsize=7)
            axis.tick_params(labelsize=7)
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main(args):
    import numpy as np

    from utils.metrics.anatomy_sets import Pool, compose_set, measure_set, render_pool
    from utils.synthetic.feature_network import load_feature_network
    from utils.system.device import resolve_device

    device = resolve_device(args.device)
    extractor = load_feature_network()
    files.write_settings(args.output_dir / "config.json", args)

    # Every metric of every set: of each gesture {metric: (sets, shares)}
    found = {}
    for gesture in dict.fromkeys(args.gesture):
        sound, malformed = (Pool(render_pool(args, gesture, wrong), extractor, args, device) for wrong in (False, True))
        found[gesture] = {name: np.zeros((args.num_sets, len(SHARES))) for name in METRICS}
        for number in range(args.num_sets):
            first = number * args.num_images
            own = [(malformed, first + i) for i in range(args.num_images)]
            reference, other = ([(sound, 2 * first + start + i) for i in range(args.num_images)]
                                for start in (0, args.num_images))
            for column, share in enumerate(SHARES):
                values = measure_set(reference, compose_set(other, own, share), gesture)
                for name in METRICS:
                    found[gesture][name][number, column] = values[name]

    # Save, then print
    summaries = {gesture: summarize(metrics) for gesture, metrics in found.items()}
    table = "\n".join(format_markdown(gesture, summary, args) for gesture, summary in summaries.items())
    files.write_json(args.output_dir / "results.json", summaries)
    with files.atomic_path(args.output_dir / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    save_plot(args.output_dir / "metric_check.png", found)
    print(table)
    blind = sorted({name for summary in summaries.values() for name, row in summary.items()
                    if row["smallest_seen"] is None})
    print(f"blind to malformed hands in at least one gesture: {', '.join(blind) or 'none'}")


if __name__ == "__main__":
    script.run_main(main, parse_args())
