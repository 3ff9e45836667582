"""The figure of `rnn-numpy train digits`: how the loss falls, what is taken for what, and digits that are misread."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnn_numpy.core.extras import optional_import
from rnn_numpy.experiments.digits import DigitsResult
from rnn_numpy.report.digits_page import net_name
from rnn_numpy.report.plots.style import COLOURS, LINE, Axes, Figure, frame, log_limits, new_figure, set_log

MISREAD = 14  # images that are shown, two rows


def digits_figure(result: DigitsResult) -> Figure:
    """Draw learning curves, the confusion matrix, and some misread digits of the first net."""
    figure = new_figure(9.6, 6.6)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.4, 2.4))
    above, below = parts
    learning, confusion = above.subplots(1, 2)
    plot_learning(result, learning)
    plot_confusion(result, confusion)
    plot_misread(result, below)
    shares = ", ".join(f"{100 * share:.1f} %" for share in result.accuracies)
    figure.suptitle(f"digits, {net_name(result.options)}: {shares} of the test digits are read right", fontsize=12)
    return figure


def plot_learning(result: DigitsResult, ax: Axes) -> None:
    """Draw the training loss, smoothed, and the validation loss, of all nets."""
    frame(ax, "update", "cross-entropy, nats", "Learning")
    window = max(1, result.options.updates // 100)
    validated = np.concatenate([run.training.history.validations["value"] for run in result.runs])
    smooth = []
    for run in result.runs:
        losses = run.training.history["loss"]
        whole = len(losses) // window * window
        smooth.append(losses[:whole].reshape(-1, window).mean(axis=1))
    set_log(ax, *log_limits(np.concatenate([validated, *smooth])))
    for number, (run, losses) in enumerate(zip(result.runs, smooth, strict=True)):
        first = number == 0
        ax.plot(
            window * (np.arange(len(losses)) + 0.5), losses, color=COLOURS[0], linewidth=0.8, alpha=0.7,
            label=f"training, mean of {window}" if first else None,
        )  # fmt: skip
        updates, values = run.training.history.validations.values()
        ax.plot(updates, values, color=COLOURS[1], linewidth=LINE, label="validation" if first else None)
        if run.best.best is not None:
            kept = "kept" if first else None
            ax.plot([run.best_update], [run.best.best], "o", color=COLOURS[1], markersize=7, label=kept)
    ax.legend(frameon=False)


def plot_confusion(result: DigitsResult, ax: Axes) -> None:
    """Draw how often each digit was read as each: mistakes in colour, what was read right in bare numbers."""
    matplotlib = optional_import("matplotlib", "a figure")
    counts = result.confusion
    mistakes = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    most = max(int(mistakes.max()), 1)
    ax.imshow(np.ma.masked_equal(mistakes, 0), cmap=matplotlib.colormaps["Oranges"], vmin=-0.5, vmax=most)
    for (row, column), number in np.ndenumerate(counts):
        if number:
            colour = "white" if mistakes[row, column] > 0.7 * most else "black" if row != column else "0.5"
            ax.text(column, row, str(number), ha="center", va="center", fontsize=8, color=colour)
    frame(ax, "read as", "digit", "Test digits: what is taken for what", grid=False)
    ax.set_xticks(range(len(counts)))
    ax.set_yticks(range(len(counts)))


def plot_misread(result: DigitsResult, figure: Any) -> None:
    """Draw digits that the first net reads wrong, the surest mistakes first, into a figure or a part of one."""
    shown = sorted(result.misread, key=lambda row: -row[3])[:MISREAD]
    figure.suptitle(f"Read wrong by {result.runs[0].label}: digit, what was read, how sure", fontsize=10)
    axes = figure.subplots(2, MISREAD // 2, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, (number, label, read, share) in zip(axes, shown, strict=False):
        ax.imshow(result.test.images[number], cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{label}: {read}, {100 * share:.0f} %", fontsize=9)
