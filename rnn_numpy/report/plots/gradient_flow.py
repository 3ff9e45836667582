"""Figures of the gradient flow: the norm of a gradient on its way back through time.

The colour of a line says its cell; line style and marker say its gain. A second feature (the panel of a cell) and a
label at the end of every line carry the same information.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.errors import OptionError
from rnn_numpy.experiments.gradflow import GradflowResult, gain_texts, middle
from rnn_numpy.lab.gradient_flow import GradientFlow
from rnn_numpy.models.sequence import CELLS
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes, Figure

Floats = NDArray[np.float64]

BAND = 0.2  # opacity of the band of several draws


def plot_gradient_flow(
    flows: Sequence[GradientFlow],
    cells: Sequence[str],
    gains: Sequence[float],
    ax: Axes | None = None,
    *,
    norm_limits: tuple[float, float] | None = None,
) -> Axes:
    """Draw the typical norm of the gradient against the lag, one line per network, log scale.

    Flows with the same cell and gain are draws of one network: the line is their median, in a band from the least to
    the largest of them. A cell of `rnn_numpy.Forecaster` has the same colour in all figures. Labels name cell and gain,
    or the gain alone where there is one cell. A line that ends in a cross ends there because the gradient is exactly
    zero, or infinite, from that lag on.

    Parameters
    ----------
    flows : sequence of GradientFlow
        Any lengths.
    cells, gains : sequence of str, sequence of float
        Of each flow: the colour, and the line style and marker.
    ax : matplotlib Axes, optional
        With room for labels to its right.
    norm_limits : (float, float), optional
        Limits of the norm axis; `common_limits(flows)` where left out.
    """
    if not flows or not len(flows) == len(cells) == len(gains):
        raise OptionError(
            f"plot_gradient_flow: flows, cells and gains must be as many, at least one; "
            f"got {len(flows)}, {len(cells)}, {len(gains)}"
        )
    ax = style.axes_or_new(ax)
    kinds, levels = list(dict.fromkeys([*CELLS, *cells])), sorted(set(gains))
    several = len(set(cells)) > 1
    texts = gain_texts(gains)
    longest = max(flow.length for flow in flows)
    low, high = norm_limits or common_limits(flows)
    style.set_log(ax, low, high)
    ax.set_xlim(0, longest)
    ends: list[tuple[float, str, str]] = []
    draws: dict[tuple[str, float], list[GradientFlow]] = {}
    for flow, cell, gain in zip(flows, cells, gains, strict=True):
        draws.setdefault((cell, gain), []).append(flow)
    for (cell, gain), some in draws.items():
        colour = style.COLOURS[kinds.index(cell) % len(style.COLOURS)]
        typical = middle(some)
        if len(some) > 1:
            band = [np.clip(edge([flow.typical for flow in some], axis=0), low, high) for edge in (np.min, np.max)]
            ax.fill_between(np.arange(len(typical)), *band, color=colour, alpha=BAND, linewidth=0)
        drawn = _drawn(typical)
        look = style.line_look(levels.index(gain), len(ends), longest)
        ax.plot(typical[:drawn], color=colour, **look)
        label = f"{cell if several else 'gain'} {texts[gain]}"
        if drawn < len(typical):
            label += " → 0" if typical[drawn] == 0 else " → ∞"
            if drawn:
                ax.plot(drawn - 1, typical[drawn - 1], color=colour, marker="X", markersize=8, linestyle="none")
        ends.append((float(typical[drawn - 1]) if drawn else high, label, colour))
    style.frame(ax, "lag: steps back in time from the loss", "norm of the state's gradient")
    style.label_ends(ax, ends)
    return ax


def common_limits(flows: Sequence[GradientFlow]) -> tuple[float, float]:
    """Return limits of a log axis that show all of several flows, as `log_limits` does."""
    shown = [flow.typical[: _drawn(flow.typical)] for flow in flows]
    return style.log_limits(np.concatenate(shown))


def _drawn(typical: Floats) -> int:
    """Return how many lags, from 0 on, a log axis can show."""
    shown = (typical > 0) & np.isfinite(typical)
    return int(len(shown) if shown.all() else shown.argmin())


# Inches: a panel; the room left of each for ticks, above for titles, between two rows, below for the axis; a letter of
# a label, a letter and a line of the notes; what is left free at the edge.
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, BETWEEN, BOTTOM = 2.5, 2.9, 0.55, 0.85, 0.6, 0.6
LABEL_LETTER, NOTE_LETTER, NOTE_LINE, EDGE = 0.075, 0.07, 0.17, 0.25


def gradient_flow_figure(result: GradflowResult) -> Figure:
    """Draw all networks of a run: a column for each cell, and a second row of panels where they were trained.

    All panels have the same axes, so that cells compare along a row, and before and after along a column.
    """
    networks = result.networks
    cells = list(dict.fromkeys(network.cell for network in networks))
    rows = [("before training", result.flows("before"))]
    if trained := result.flows("after"):
        rows.append((f"after {result.training_length}", trained))
    flows = [flow for _, pairs in rows for _, flow in pairs]
    limits, crossed = common_limits(flows), any(_drawn(flow.typical) <= flow.length for flow in flows)
    # A single cell gets a wider panel, so that title and notes have room.
    panel = PANEL_WIDTH if len(cells) > 1 else 2 * PANEL_WIDTH
    longest = max(map(len, gain_texts(network.gain for network in networks).values()))
    right = 0.05 * panel + EDGE / 2 + LABEL_LETTER * (len("gain ") + longest + (len(" → 0") if crossed else 0))
    width = EDGE + len(cells) * (LEFT + panel + right)
    left = (EDGE + LEFT) / width
    letters = int((width - 2 * EDGE - LEFT) / NOTE_LETTER)
    notes = [textwrap.fill(note, letters, break_on_hyphens=False) for note in _notes(result, crossed)]
    bottom = BOTTOM + NOTE_LINE * (1 + "\n".join(notes).count("\n")) + EDGE
    height = TOP + len(rows) * PANEL_HEIGHT + (len(rows) - 1) * BETWEEN + bottom
    figure = style.new_figure(width, height, layout=None)
    axes = figure.subplots(len(rows), len(cells), squeeze=False)
    figure.subplots_adjust(
        left=left,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - TOP / height,
        wspace=(LEFT + right) / panel,
        hspace=BETWEEN / PANEL_HEIGHT,
    )
    for number, (panels, (when, pairs)) in enumerate(zip(axes, rows, strict=True), 1):
        for ax, cell in zip(panels, cells, strict=True):
            shown = [(network.gain, flow) for network, flow in pairs if network.cell == cell]
            gains, flows = [gain for gain, _ in shown], [flow for _, flow in shown]
            plot_gradient_flow(flows, [cell] * len(shown), gains, ax, norm_limits=limits)
            ax.set_title(f"{cell}, {when}", fontsize=style.TITLE)
            if ax is not panels[0]:
                ax.set_ylabel("")
            if number < len(rows):
                ax.set_xlabel("")
    title, size = "How a gradient fades or grows on its way back through time", 14 if len(cells) > 1 else 12
    figure.suptitle(title, fontsize=size, x=left, y=1 - 0.22 / height, ha="left", va="top")
    said, place = "\n".join(notes), (bottom - BOTTOM) / height
    figure.text(left, place, said, fontsize=8.5, color="0.35", va="top", linespacing=1.4)
    return figure


def _notes(result: GradflowResult, crossed: bool) -> list[str]:
    """Return the lines below the panels of a figure: the series, and the meaning of the norm."""
    series, cells = result.task.series, result.options.cells
    name = Path(series.name).name
    name = name if len(name) <= 60 else name[:57] + "..."
    gated = [cell for cell in ("lstm", "gru") if cell in cells]
    shown = "Geometric mean of the windows' norms of dL/dh"
    if "lstm" in cells:
        shown += " (of lstm: dL/dh and dL/dc together)"
    shown += ", L the error at the last step. Gain: spectral radius of W_hh at the start"
    if gated:
        shown += f" (of {' and '.join(gated)}: of each gate's block)"
    if result.options.forget_bias is not None:
        shown += f". Forget bias of lstm: {result.options.forget_bias:g}"
    if result.options.seeds > 1:
        shown += f". Lines: the median of {result.options.seeds} draws; bands: all of them"
    shown += "." + (" A cross: exactly 0, or infinite, from there on." if crossed else "")
    return [f"{name}: {series.description}." if series.description else f"{name}.", shown]
