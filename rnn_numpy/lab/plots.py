"""Figures of the lab.

A function that draws takes `ax`, a matplotlib Axes, draws into it and returns it. Nothing here touches pyplot or its
global state. Colours are those of Okabe and Ito [1]_, which people with any of the common forms of colour blindness can
tell apart. A second feature (the panel of a cell; the line style and marker of a gain) and a label at the end of every
line carry the same information.

References
----------
.. [1] M. Okabe, K. Ito, "Color Universal Design" (2002, revised 2008).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import OptionError
from rnn_numpy.lab.gradient_flow import GradflowResult, GradientFlow, gain_texts
from rnn_numpy.models.forecaster import CELLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# Okabe and Ito without black and yellow, the most different ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# From the faintest to the strongest, for gains in rising order.
STYLES: tuple[tuple[Any, str], ...] = (
    ((0, (1, 1.5)), "o"),
    ((0, (4, 1.5)), "s"),
    ("-", "^"),
    ((0, (6, 1.5, 1, 1.5)), "D"),
    ((0, (8, 2)), "v"),
    ((0, (3, 1.5, 1, 1.5, 1, 1.5)), "P"),
)
FONT = 9  # points, of the labels at the ends of the lines


def plot_gradient_flow(
    ax: Axes,
    flows: Sequence[GradientFlow],
    cells: Sequence[str],
    gains: Sequence[float],
    norm_limits: tuple[float, float] | None = None,
) -> Axes:
    """Draw the typical norm of the gradient against the lag, one line per network, log scale.

    A cell of `rnn_numpy.Forecaster` has the same colour in all figures. Labels name cell and gain, or the gain alone
    where there is one cell. A line that ends in a cross ends there because the gradient is exactly zero, or infinite,
    from that lag on.

    Parameters
    ----------
    ax : matplotlib Axes
        With room for labels to its right.
    flows : sequence of GradientFlow
        Any lengths.
    cells, gains : sequence of str, sequence of float
        Of each flow: the colour, and the line style and marker.
    norm_limits : (float, float), optional
        Limits of the norm axis; `common_limits(flows)` where left out.

    Returns
    -------
    ax

    Raises
    ------
    OptionError
        There are no flows, or not one cell and one gain for each.
    """
    if not flows or not len(flows) == len(cells) == len(gains):
        raise OptionError(
            f"plot_gradient_flow: flows, cells and gains must be as many, at least one; "
            f"got {len(flows)}, {len(cells)}, {len(gains)}"
        )
    kinds, levels = list(dict.fromkeys([*CELLS, *cells])), sorted(set(gains))
    several = len(set(cells)) > 1
    texts = gain_texts(gains)
    longest = max(flow.length for flow in flows)
    low, high = norm_limits or common_limits(flows)
    # Limits first: left to itself, matplotlib would widen those of the data, at times beyond the range of floats.
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _tick_decades(ax, low, high)
    ax.set_xlim(0, longest)
    ends: list[tuple[float, str, str]] = []
    for flow, cell, gain in zip(flows, cells, gains, strict=True):
        colour = COLOURS[kinds.index(cell) % len(COLOURS)]
        style, marker = STYLES[levels.index(gain) % len(STYLES)]
        typical = flow.typical
        drawn = _drawn(typical)
        ax.plot(
            np.arange(drawn),
            typical[:drawn],
            color=colour,
            linestyle=style,
            linewidth=1.8,
            marker=marker,
            markersize=5,
            # Markers of different lines stand at different lags, so that they stay readable where lines lie upon each
            # other.
            markevery=(len(ends) * 2 % 17, max(1, longest // 8)),
        )
        label = f"{cell if several else 'gain'} {texts[gain]}"
        if drawn <= flow.length:
            label += " → 0" if typical[drawn] == 0 else " → ∞"
            if drawn:
                ax.plot(drawn - 1, typical[drawn - 1], color=colour, marker="X", markersize=8, linestyle="none")
        ends.append((float(typical[drawn - 1]) if drawn else high, label, colour))
    ax.set_xlabel("lag: steps back in time from the loss")
    ax.set_ylabel("norm of the state's gradient")
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    _label_ends(ax, ends)
    return ax


def common_limits(flows: Sequence[GradientFlow]) -> tuple[float, float]:
    """Return limits of a log axis that show all of several flows.

    Parameters
    ----------
    flows : sequence of GradientFlow

    Returns
    -------
    low, high : float
        Half a decade or 3 % of the range wider than the data; at least two decades. (0.1, 10) where there is nothing to
        show.
    """
    shown = [flow.typical[: _drawn(flow.typical)] for flow in flows]
    logs = np.log10(np.concatenate([typical[typical > 0] for typical in shown]))
    if logs.size == 0:
        return 0.1, 10.0
    low, high = float(logs.min()), float(logs.max())
    margin = max(0.5, 0.03 * (high - low), (2 - (high - low)) / 2)
    # Inside of the range of floats, which matplotlib's ticks need a little room in as well.
    return 10 ** max(low - margin, -305.0), 10 ** min(high + margin, 305.0)


def _tick_decades(ax: Axes, low: float, high: float) -> None:
    """Put ticks at 10^k with k a multiple of 1, 2, 5, 10, ... decades: at most about ten.

    matplotlib's own ticks fail where it looks for one beyond the range of floats.
    """
    ticker = optional_import("matplotlib.ticker", "a figure")
    first, last = math.log10(low), math.log10(high)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (last - first) / step <= 10)
    exponents = range(math.ceil(first / step) * step, math.floor(last) + 1, step)
    ax.yaxis.set_major_locator(ticker.FixedLocator([10.0**exponent for exponent in exponents]))
    ax.yaxis.set_major_formatter(ticker.FixedFormatter([f"$10^{{{exponent}}}$" for exponent in exponents]))
    ax.yaxis.set_minor_locator(ticker.NullLocator())


def _drawn(typical: Floats) -> int:
    """How many lags, from 0 on, a log axis can show."""
    shown = (typical > 0) & np.isfinite(typical)
    return int(len(shown) if shown.all() else shown.argmin())


def spread(positions: ArrayLike, gap: float, low: float, high: float) -> Floats:
    """Move numbers as little as possible so that they lie at least `gap` apart, in the order that they had.

    Parameters
    ----------
    positions : array_like, (n,)
    gap : float
        Smaller if n numbers do not fit otherwise.
    low, high : float
        Where the result must lie.

    Returns
    -------
    ndarray, (n,)

    Notes
    -----
    With the k-th smallest lowered by k gap, the condition says that the numbers do not fall: isotonic regression,
    solved by pooling neighbours that violate it and then cut off at the bounds, which gives the least sum of squared
    moves.

    Examples
    --------
    >>> spread([0.0, 0.0, 1.0], 0.25, -1.0, 1.0).tolist()
    [-0.125, 0.125, 1.0]
    """
    wanted = np.asarray(positions, np.float64)
    n = len(wanted)
    gap = min(gap, (high - low) / max(n - 1, 1))
    order = np.argsort(wanted, kind="stable")
    shift = gap * np.arange(n)
    pools: list[tuple[float, int]] = []  # mean and size
    for value in (wanted[order] - shift).tolist():
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            below, count = pools.pop()
            mean, size = (mean * size + below * count) / (size + count), size + count
        pools.append((mean, size))
    level = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    result = np.empty(n)
    result[order] = np.clip(level, low, high - shift[-1] if n else high) + shift
    return result


def _label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each label to the right of the axes at the height of its line's end, apart from each other, with a thin
    leader from the edge of the axes: inside of them it would look like data."""
    bottom, top = np.log10(ax.get_ylim())
    # Fractions of the axes.
    heights = (np.log10([norm for norm, _, _ in ends]) - bottom) / (top - bottom)
    figure = ax.get_figure()
    inches = ax.get_position().height * (figure.get_figheight() if figure is not None else 4.8)  # type: ignore[union-attr]
    places = spread(np.clip(heights, 0, 1), 1.35 * FONT / 72 / inches, 0.0, 1.0)
    for (_, label, colour), height, place in zip(ends, heights.tolist(), places.tolist(), strict=True):
        ax.plot(
            [1.0, 1.04],
            [height, place],
            transform=ax.transAxes,
            color=colour,
            linewidth=0.7,
            alpha=0.7,
            clip_on=False,
            scalex=False,
            scaley=False,
        )
        ax.text(1.05, place, label, transform=ax.transAxes, color=colour, fontsize=FONT, va="center", ha="left")


# Inches: a panel; the room left of each for ticks, above for titles, between two rows, below for the axis; a letter of
# a label, a letter and a line of the notes; what is left free at the edge.
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, BETWEEN, BOTTOM = 2.5, 2.9, 0.55, 0.85, 0.6, 0.6
LABEL_LETTER, NOTE_LETTER, NOTE_LINE, EDGE = 0.075, 0.07, 0.17, 0.25


def gradient_flow_figure(result: GradflowResult) -> Figure:
    """Draw all networks of a run: a column for each cell, and a second row of panels where they were trained.

    All panels have the same axes, so that cells compare along a row, and before and after along a column.

    Parameters
    ----------
    result : GradflowResult

    Returns
    -------
    matplotlib Figure
        Not known to pyplot: save it with `save_figure`.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    figures = optional_import("matplotlib.figure", "a figure")
    networks = result.networks
    cells = list(dict.fromkeys(network.cell for network in networks))
    trained = [network for network in networks if network.after is not None]
    rows = [("before training", [(network, network.before) for network in networks])]
    if trained:
        after = [(network, network.after) for network in trained if network.after is not None]
        rows.append((f"after {result.training_length}", after))
    flows = [flow for _, pairs in rows for _, flow in pairs]
    limits = common_limits(flows)
    crossed = any(_drawn(flow.typical) <= flow.length for flow in flows)
    # A single cell gets a wider panel, so that title and notes have room.
    panel = PANEL_WIDTH if len(cells) > 1 else 2 * PANEL_WIDTH
    longest = max(map(len, gain_texts(network.gain for network in networks).values()))
    right = 0.05 * panel + EDGE / 2 + LABEL_LETTER * (len("gain ") + longest + (len(" → 0") if crossed else 0))
    width = EDGE + len(cells) * (LEFT + panel + right)
    letters = int((width - 2 * EDGE - LEFT) / NOTE_LETTER)
    notes = [textwrap.fill(note, letters, break_on_hyphens=False) for note in _notes(result, crossed)]
    bottom = BOTTOM + NOTE_LINE * (1 + "\n".join(notes).count("\n")) + EDGE
    height = TOP + len(rows) * PANEL_HEIGHT + (len(rows) - 1) * BETWEEN + bottom
    figure: Figure = figures.Figure(figsize=(width, height), dpi=150)
    axes = figure.subplots(len(rows), len(cells), squeeze=False)
    figure.subplots_adjust(
        left=(EDGE + LEFT) / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - TOP / height,
        wspace=(LEFT + right) / panel,
        hspace=BETWEEN / PANEL_HEIGHT,
    )
    for number, (panels, (when, pairs)) in enumerate(zip(axes, rows, strict=True), 1):
        for ax, cell in zip(panels, cells, strict=True):
            chosen = [(network.gain, flow) for network, flow in pairs if network.cell == cell]
            names = [cell] * len(chosen)
            plot_gradient_flow(ax, [flow for _, flow in chosen], names, [gain for gain, _ in chosen], limits)
            ax.set_title(f"{cell}, {when}", fontsize=11)
            if ax is not panels[0]:
                ax.set_ylabel("")
            if number < len(rows):
                ax.set_xlabel("")
    figure.suptitle(
        "How a gradient fades or grows on its way back through time",
        fontsize=14 if len(cells) > 1 else 12,
        x=(EDGE + LEFT) / width,
        y=1 - 0.22 / height,
        ha="left",
        va="top",
    )
    figure.text(
        (EDGE + LEFT) / width,
        (bottom - BOTTOM) / height,
        "\n".join(notes),
        fontsize=8.5,
        color="0.35",
        va="top",
        linespacing=1.4,
    )
    return figure


def _notes(result: GradflowResult, crossed: bool) -> list[str]:
    """What a figure says below its panels: the series; what is shown."""
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
    shown += "." + (" A cross: exactly 0, or infinite, from there on." if crossed else "")
    return [f"{name}: {series.description}." if series.description else f"{name}.", shown]


def save_figure(figure: Figure, file: Any, suffix: str) -> None:
    """Write a figure so that the same figure gives the same bytes: without the time of writing.

    Parameters
    ----------
    figure : matplotlib Figure
    file : path or binary file
    suffix : {".png", ".pdf", ".svg"}
        Format.

    Raises
    ------
    OptionError
        Another format.
    """
    if suffix not in FORMATS:
        raise OptionError(f"save_figure: suffix must be one of {', '.join(FORMATS)}; got {suffix!r}")
    matplotlib = optional_import("matplotlib", "a figure")
    metadata: dict[str, Any] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[suffix]
    # A figure that pyplot does not know has the Agg canvas, and savefig picks the one of the format.
    with matplotlib.rc_context({"svg.hashsalt": "rnn_numpy"}):
        figure.savefig(file, format=suffix[1:], metadata=metadata)


FORMATS = (".png", ".pdf", ".svg")


def check_figure_path(path: str | Path) -> str:
    """Return the suffix of a figure's path, in small letters, if we can write that format; raise OptionError if not."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise OptionError(f"{path}: the name of a figure must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return suffix
