"""The learning curve of a training: its loss, what validation said, and the learning rate."""

from __future__ import annotations

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes, Figure, Floats
from rnn_numpy.training import History

BLOCKS = 150  # points of the line of the training loss, at most


def training_figure(history: History, *, ylabel: str = "loss", mode: str = "min") -> Figure:
    """Draw the learning curve, and below it the learning rate of each update.

    Parameters
    ----------
    history, ylabel, mode
        As of `plot_training`.
    """
    figure = style.new_figure(style.WIDTH, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    plot_training(history, above, ylabel=ylabel, mode=mode)
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    below.plot(
        history["update"], history["lr"], color=style.COLOURS[2], linewidth=style.LINE, drawstyle="steps-mid",
        marker=_marker(history), markersize=5,
    )  # fmt: skip
    below.set_ylim(0, 1.15 * float(history["lr"].max()) or 1.0)
    style.frame(below, "update", "learning rate")
    figure.align_ylabels()
    return figure


def plot_training(history: History, ax: Axes | None = None, *, ylabel: str = "loss", mode: str = "min") -> Axes:
    """Draw the training loss against the updates, and what validation measured.

    Of a long training the line is the mean of as many updates as make 150 points; a band reaches from their lowest to
    their highest. The scale is logarithmic where all is above 0 and reaches over more than a decade. Crosses at the
    upper edge are updates whose loss was not finite.

    Parameters
    ----------
    history : History
        Of a training with at least one update.
    ylabel : str
        What the loss is, with its unit.
    mode : {"min", "max"}
        Which validation is the best one, and gets a star.
    """
    where = "plot_training"
    if not isinstance(history, History):
        raise DTypeError(f"{where}: history must be a History, as training.history is; got {type(history).__name__}")
    if not len(history):
        raise OptionError(f"{where}: history must have at least one update; got none")
    arguments.one_of(where, "mode", mode, ("min", "max"))
    ticker = optional_import("matplotlib.ticker", "a figure")
    ax = style.axes_or_new(ax)
    losses, updates, checked = history["loss"], history["update"], history.validations
    shown = np.where(np.isfinite(losses), losses, np.nan)
    each = -(-len(losses) // BLOCKS)
    middle, low, high, mean = _blocks(updates, shown, each)
    validated, values = checked["update"], np.where(np.isfinite(checked["value"]), checked["value"], np.nan)
    numbers = np.concatenate([shown, values])
    numbers = numbers[~np.isnan(numbers)]
    if numbers.size and numbers.min() > 0 and numbers.max() > 10 * numbers.min():
        style.set_log(ax, *_log_limits(numbers))
    colour, other = style.COLOURS[:2]
    label = "training" if each == 1 else f"training, mean of {count(each, 'update')}"
    if each > 1:
        ax.fill_between(middle, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(middle, mean, color=colour, linewidth=style.LINE, marker=_marker(history), markersize=5, label=label)
    if len(values):
        ax.plot(
            validated, values, color=other, linestyle=(0, (4, 1.5)), linewidth=1.2, marker="o", markersize=4,
            clip_on=False, label="validation",
        )  # fmt: skip
    if not np.isnan(values).all():
        best = int(np.nanargmin(values) if mode == "min" else np.nanargmax(values))
        said = f"best: {values[best]:.4g} after {int(validated[best])}"
        ax.plot(
            validated[best], values[best], color=other, linestyle="none", marker="*", markersize=13,
            markeredgecolor="white", clip_on=False, zorder=3, label=said,
        )  # fmt: skip
    bad = updates[~np.isfinite(losses)]
    if len(bad):
        ax.plot(
            bad, np.full(len(bad), 0.97), transform=ax.get_xaxis_transform(), color="black", linestyle="none",
            marker="x", markersize=6, label="not finite",
        )  # fmt: skip
    ax.set_xlim(updates[0] - 0.5, updates[-1] + 0.5)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    style.frame(ax, "update", ylabel)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=style.FONT, frameon=False, borderaxespad=0)
    return ax


def _marker(history: History) -> str | None:
    """Return a marker where there are few updates, one perhaps, which no line shows."""
    return "." if len(history) <= 60 else None


def _blocks(updates: Floats, losses: Floats, each: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return middle, lowest, highest and mean of blocks of updates; NaN does not count."""
    padding = -len(losses) % each
    blocks = np.append(losses, np.full(padding, np.nan)).reshape(-1, each)
    there = ~np.isnan(blocks)
    number = there.sum(axis=1)
    middle = np.array([part.mean() for part in np.array_split(updates, range(each, len(updates), each))])
    low, high = np.where(there, blocks, np.inf).min(axis=1), np.where(there, blocks, -np.inf).max(axis=1)
    mean = np.where(there, blocks, 0).sum(axis=1) / np.maximum(number, 1)
    low, high, mean = (np.where(number > 0, array, np.nan) for array in (low, high, mean))
    return middle, low, high, mean


def _log_limits(numbers: Floats) -> tuple[float, float]:
    """Return limits a tenth of the decades wider than the numbers."""
    low, high = np.log10([numbers.min(), numbers.max()])
    margin = 0.05 * (high - low)
    return 10 ** max(low - margin, -305.0), 10 ** min(high + margin, 305.0)
