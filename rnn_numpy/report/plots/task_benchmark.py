"""The figure of `rnn-numpy benchmark`: how the error falls, and how far back the gradient is felt.

A column for each length. Above, the held-out loss over the baseline against the updates, a line for each seed. Below,
the norm of the gradient by lag, over that at lag 0: dotted at the start, solid at the end, all seeds taken together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.extras import optional_import
from rnn_numpy.experiments.task_benchmark import CELLS, BenchmarkResult
from rnn_numpy.lab.gradient_flow import GradientFlow
from rnn_numpy.report.benchmark_page import WORDS
from rnn_numpy.report.plots.style import COLOURS, Axes, Figure, axes_or_new, frame, new_figure, set_log

# The colours that these cells have in the other figures; "irnn" takes one that is free there.
_CELL_COLOURS = dict(zip(("rnn-tanh", "rnn-relu", "lstm", "gru", "irnn"), COLOURS, strict=False))
_MARKERS = dict(zip(CELLS, "osD^v", strict=True))
LOWEST = 1e-30  # of a share of the gradient that is still drawn


def benchmark_figure(result: BenchmarkResult) -> Figure:
    """Draw the learning curves and the gradient flow of a benchmark."""
    lines = optional_import("matplotlib.lines", "a figure")
    lengths, cells = result.options.lengths, result.options.cells
    width = 1.4 + 3.6 * max(len(lengths), 2)
    figure = new_figure(width, 7.4, layout=None)
    axes = figure.subplots(2, len(lengths), squeeze=False)
    figure.subplots_adjust(left=0.85 / width, right=1 - 0.3 / width, top=0.85, bottom=0.1, hspace=0.32, wspace=0.28)
    for column, length in enumerate(lengths):
        plot_learning(result, length, axes[0, column])
        plot_flows(result, length, axes[1, column])
        if column:
            axes[0, column].set_ylabel("")
            axes[1, column].set_ylabel("")
    figure.suptitle(f"{result.options.task}: {WORDS[result.options.task][0]}", x=0.85 / width, y=0.97, ha="left")
    handles: list[Any] = [
        lines.Line2D([], [], color=_CELL_COLOURS[cell], marker=_MARKERS[cell], markersize=5, label=cell)
        for cell in cells
    ]
    styles = (("--", "above: baseline"), (":", "above: goal"), (":", "below: at the start"), ("-", "below: at the end"))
    meant = [lines.Line2D([], [], color="0.3", linestyle=style, label=label) for style, label in styles]
    for place, row in ((0.946, handles), (0.918, meant)):
        figure.legend(
            handles=row, loc="upper left", bbox_to_anchor=(0.6 / width, place), ncols=len(row), frameon=False,
            fontsize=8, handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip
    return figure


def plot_learning(result: BenchmarkResult, length: int, ax: Axes | None = None) -> Axes:
    """Draw the held-out loss over the baseline against the updates, on a log scale, of a length that was run.

    A star stands where a run has solved it.
    """
    baseline = result.baselines[length]
    ax = axes_or_new(ax)
    ax.set_yscale("log")
    for cell in result.options.cells:
        for run in result.of(length, cell):
            errors = np.array(run.losses) / baseline
            errors[~np.isfinite(errors)] = np.nan
            every = run.seed, max(1, len(errors) // 5)
            ax.plot(run.checked, errors, linewidth=1.3, markevery=every, **_look(cell))
            if run.solved_at is not None:
                ax.plot(run.checked[-1], errors[-1], color=_CELL_COLOURS[cell], marker="*", markersize=12)
    ax.axhline(1.0, color="0.3", linestyle="--", linewidth=1)
    goal = result.goals[length] / baseline
    if goal < 1:
        ax.axhline(goal, color="0.3", linestyle=":", linewidth=1)
    low, high = ax.get_ylim()
    set_log(ax, max(low, 1e-6), min(max(high, 2.0), 1e3))
    ax.set_xlim(left=0)
    frame(ax, "updates", "held-out loss / baseline", f"length {length}")
    return ax


def plot_flows(result: BenchmarkResult, length: int, ax: Axes | None = None) -> Axes:
    """Draw the norm of the gradient by lag, over that at lag 0, at the start (dotted) and at the end (solid)."""
    ax = axes_or_new(ax)
    ax.set_yscale("log")
    for cell in result.options.cells:
        for flow, style in zip(result.flows(length, cell), (":", "-"), strict=True):
            look = _look(cell) | ({"marker": None} if style == ":" else {})
            ax.plot(_shares(flow), linestyle=style, linewidth=1.6, markevery=max(1, flow.length // 6), **look)
    low, high = ax.get_ylim()
    set_log(ax, max(low, LOWEST), min(max(high, 10.0), 1 / LOWEST))
    ax.set_xlim(0, max(result.flows(length, cell)[0].length for cell in result.options.cells))
    frame(ax, "lag: steps back in time from the loss", "share of the state's gradient")
    return ax


def _look(cell: str) -> dict[str, Any]:
    """Return colour and markers of a cell's lines, as arguments of `ax.plot`."""
    return {"color": _CELL_COLOURS[cell], "marker": _MARKERS[cell], "markersize": 4}


def _shares(flow: GradientFlow) -> NDArray[np.float64]:
    """Return the typical norm over that at lag 0, NaN where a log axis cannot show it."""
    typical = flow.typical
    if not (typical[0] > 0 and math.isfinite(typical[0])):
        return np.full(len(typical), np.nan)
    shown = (typical > typical[0] * LOWEST) & np.isfinite(typical)
    with np.errstate(over="ignore", invalid="ignore"):
        shares: NDArray[np.float64] = np.where(shown, typical / typical[0], np.nan)
    shares[~np.isfinite(shares)] = np.nan
    return shares
