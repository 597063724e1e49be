"""The loss curve of a training run."""

from pathlib import Path

import numpy as np

from tasks.training.loop import History

_SMOOTHING = 0.95  # of the exponential moving average drawn over the raw training loss


def plot_losses(history: History, out: Path, *, title: str) -> Path:
    """Draw training loss, its moving average and the validation loss after each epoch as a PNG."""
    from matplotlib.figure import Figure

    from tasks.reports.figures import write_png

    steps = np.arange(1, history.steps + 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(
        title=f"{title}: loss per response token", xlabel="optimizer step", ylabel="loss", yscale="log"
    )
    axes.plot(steps, history.train_loss, color="#9ecae1", linewidth=0.7, label="training")
    axes.plot(steps, _moving_average(history.train_loss), color="#08519c", label="training, moving average")
    steps, losses = history.validation_steps, history.validation_loss
    axes.plot(steps, losses, color="#d94801", marker="o", label="validation, cross-entropy")
    axes.grid(alpha=0.3)
    axes.legend()
    write_png(figure, out)
    return out


def _moving_average(values: list[float]) -> list[float]:
    """Bias-corrected exponential moving average."""
    average, smoothed = 0.0, []
    for step, value in enumerate(values, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        smoothed.append(average / (1 - _SMOOTHING**step))
    return smoothed
