"""Pictures of a training run."""

import numpy as np

from utils.system.files import atomic_path


def running_mean(values, window):
    """Mean of each value and the up to window - 1 before it: (n,) -> (n,)."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def save_loss_curves(path, losses):
    """One panel per stage of {stage name: (n,) losses}: every update, and the mean of the last twentieth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = {name: np.asarray(values, dtype=np.float64) for name, values in losses.items() if len(values)}
    figure, panels = pyplot.subplots(1, max(1, len(losses)), figsize=(11, 4), squeeze=False)
    for panel, (name, values) in zip(panels[0], losses.items(), strict=False):
        window = max(1, len(values) // 20)
        panel.plot(values, color="tab:blue", alpha=0.3, linewidth=0.8, label="update")
        panel.plot(running_mean(values, window), color="tab:blue", label=f"mean of {window}")
        panel.set(title=name, xlabel="update", ylabel="denoising loss")
        panel.legend()
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)
