"""Figures of nets that answer sequences: how the loss falls, where they look, and how the gradient gets back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.experiments.experiment import Run
from rnn_numpy.experiments.pairs import ModelFlow, PairResult
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes, Figure

WAYS = {"values": "by the values", "weights": "by the weights", "bridge": "by the bridge"}


def pair_figure(result: PairResult) -> Figure:
    """Draw learning curves, and the attention of some answers to test sources."""
    figure = style.new_figure(10.5, 6.6)
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    left, right = parts
    plot_learning(result.run, left.subplots())
    rows = max(1, (len(result.answers) + 1) // 2)
    axes = np.atleast_1d(right.subplots(rows, 2)).ravel()
    for ax, answer in zip(axes, result.answers, strict=False):
        plot_attention(answer.alpha, answer.source, [*answer.said, "end"], ax)
    for ax in axes[len(result.answers) :]:
        ax.axis("off")
    best = min((score for name, score in result.scores.items() if name != "rules"), key=lambda score: score.wrong)
    figure.suptitle(
        f"{result.task}: {100 * best.wrong:.1f} % of {result.sources} test sources answered wrong; attention of some",
        fontsize=12,
    )
    return figure


def plot_learning(run: Run, ax: Axes, ylabel: str = "cross-entropy, nats a symbol") -> None:
    """Draw the training loss, smoothed, and the validation loss of one net."""
    history = run.training.history
    window = max(1, run.updates // 100)
    losses = np.asarray(history["loss"])
    smooth = losses[: len(losses) // window * window].reshape(-1, window).mean(axis=1)
    updates, values = history.validations.values()
    style.set_log(ax, *style.log_limits(np.concatenate([smooth, values])))
    places = window * (np.arange(len(smooth)) + 0.5)
    ax.plot(places, smooth, color=style.COLOURS[0], linewidth=0.9, label=f"training, mean of {window}")
    ax.plot(updates, values, color=style.COLOURS[1], linewidth=style.LINE, label="validation")
    if run.best.best is not None:
        ax.plot([run.best_update], [run.best.best], "o", color=style.COLOURS[1], markersize=7, label="kept")
    ax.legend(frameon=False)
    style.frame(ax, "update", ylabel)
    ax.locator_params(axis="x", nbins=4)


def plot_attention(
    alpha: ArrayLike, read: Sequence[str], written: Sequence[str], ax: Axes | None = None, *, label: str = ""
) -> Axes:
    """Draw weights, (T, S): a row for each symbol written, the first at the top, a column for each that was read.

    `label` says what the colours mean, where it is not the weights. Dark is much; each row has its own scale of 0 to
    its largest entry where a label is given, of 0 to 1 where not.
    """
    weights = np.asarray(alpha, np.float64)
    ax = style.axes_or_new(ax)
    if label:
        largest = weights.max(axis=1, keepdims=True, initial=0.0)
        weights = np.divide(weights, largest, out=np.zeros_like(weights), where=largest > 0)
    ax.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(weights.shape[1]), list(read)[: weights.shape[1]], fontsize=8)
    ax.set_yticks(range(len(weights)), list(written)[: len(weights)], fontsize=8)
    ax.tick_params(length=0)
    if label:
        ax.set_title(label, fontsize=9)
    return ax


def plot_token_gradients(
    gradients: ArrayLike, alpha: ArrayLike, read: Sequence[str], written: Sequence[str], axes: Sequence[Axes]
) -> None:
    """Draw, on two axes, the weights and the gradients of each token written at each position read.

    Each row has its own scale: what counts is where its largest entries are.
    """
    left, right = axes
    plot_attention(alpha, read, written, left, label="attention")
    plot_attention(gradients, read, written, right, label="|d log p(token) / d embedding|")


def flow_figure(flow: ModelFlow) -> Figure:
    """Draw the norm of dL/d(embedding) by lag, way by way; and of one word, where the net looks and what it reads."""
    figure = style.new_figure(9.6, 7.0)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    above, below = parts
    ax = above.subplots()
    lags = flow.by_lag
    style.set_log(ax, *style.log_limits(np.concatenate([lags[way] for way in WAYS])))
    lines: list[NDArray[np.float64]] = [style.positive(lags[way]) for way in WAYS]
    dashes: Sequence[Any] = ("-", "--", ":")
    for number, (line, label) in enumerate(zip(lines, WAYS.values(), strict=True)):
        look = {"color": style.COLOURS[number], "linestyle": dashes[number], "linewidth": style.LINE}
        ax.plot(line, marker="o", markersize=3, label=label, **look)
    ax.legend(frameon=False)
    ax.locator_params(axis="x", integer=True)
    style.frame(ax, "lag: positions from the source's end", "norm of d$L$/d(embedding)")
    ax.set_title(f"{flow.name}: how the gradient gets back to the source", fontsize=11)
    plot_token_gradients(*flow.word, below.subplots(1, 2))
    return figure
