"""One look for all figures of the lab: colours, sizes, axes, colour bars, labels that do not overlap, files.

Nothing here touches pyplot or its global state.

Lines have the colours of Okabe and Ito [1]_, which people with any of the common forms of colour blindness can tell
apart; a second feature (line style, marker, a label at the end of the line) carries the same information. Sizes of one
sign are shown in viridis, whose lightness rises all the way; what has a sign in red and blue about a white zero. Grey
is what has no value.

References
----------
.. [1] M. Okabe, K. Ito, "Color Universal Design" (2002, revised 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes  # "as": for the other files of this folder, too
    from matplotlib.axis import Axis
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.colors import Normalize as Normalize
    from matplotlib.figure import Figure as Figure
else:  # figures are drawn where matplotlib is, and everything else runs without it
    Axes = Figure = Normalize = Any

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
MARKERS = tuple(marker for _, marker in STYLES)
# Points: labels at the ends of lines and of colour bars, a title, a line of data.
FONT, TITLE, LINE = 9, 11, 1.8
# Inches, and dots per inch.
WIDTH, HEIGHT, DPI = 6.4, 4.2, 150
FORMATS = (".png", ".pdf", ".svg")
# What has no value.
MISSING = "0.8"
_SCALES = {"size": "viridis", "signed": "RdBu_r"}


# ----------------------------------------------------------------------------------------------------- figures and axes


def new_figure(width: float = WIDTH, height: float = HEIGHT, layout: str | None = "constrained") -> Figure:
    """Make a figure, `width` by `height` inches, that pyplot does not know; save it with `save_figure`.

    The layout "constrained" makes room for labels and colour bars, None leaves places to the caller.
    """
    figures = optional_import("matplotlib.figure", "a figure")
    figure: Figure = figures.Figure(figsize=(width, height), dpi=DPI, layout=layout)
    return figure


def axes_or_new(ax: Axes | None, width: float = WIDTH, height: float = HEIGHT) -> Axes:
    """Return `ax`, or the axes of a new figure, `width` by `height` inches, where it is None."""
    if ax is not None:
        return ax
    axes: Axes = new_figure(width, height).subplots()
    return axes


def frame(ax: Axes, xlabel: str, ylabel: str, title: str = "", grid: bool = True) -> None:
    """Name the axes, with units where there are any, and give them the look that all have.

    With `grid`, there are faint lines behind the data, and no frame above and right of it; images, which fill their
    axes, have none.
    """
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if title:
        ax.set_title(title, fontsize=TITLE)
    if grid:
        ax.grid(True, color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)


def log_limits(values: ArrayLike) -> tuple[float, float]:
    """Return limits of a log axis that show all values that are finite and above 0.

    They are half a decade or 3 % of the range wider than the data; at least two decades, from 1e-305 to 1e305 at most;
    (0.1, 10) where there is nothing to show.

    >>> low, high = log_limits([1e-3, 0.0, 10.0])
    >>> round(low, 6), round(high, 3)
    (0.000316, 31.623)
    """
    logs = np.log10(positive(values))
    logs = logs[~np.isnan(logs)]
    if logs.size == 0:
        return 0.1, 10.0
    low, high = float(logs.min()), float(logs.max())
    margin = max(0.5, 0.03 * (high - low), (2 - (high - low)) / 2)
    # Inside of the range of floats, which matplotlib's ticks need a little room in as well.
    first = min(max(low - margin, -305.0), 303.0)
    return 10**first, 10 ** min(max(high + margin, first + 2), 305.0)


def positive(values: ArrayLike) -> Floats:
    """Return values, NaN where a log axis cannot show them."""
    numbers = np.asarray(values, np.float64)
    return np.where((numbers > 0) & np.isfinite(numbers), numbers, np.nan)


def set_log(ax: Axes, low: float, high: float) -> None:
    """Make the y axis a log one, with its ticks and its limits, as `log_limits` returns them.

    Limits come before data: left to itself, matplotlib would widen those of the data, at times beyond the range of
    floats.
    """
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    tick_decades(ax.yaxis, low, high)


def tick_decades(axis: Axis, low: float, high: float) -> None:
    """Put ticks on a log axis at 10^k with k a multiple of 1, 2, 5, 10, ... decades: at most about ten.

    matplotlib's own ticks fail where it looks for one beyond the range of floats. Where there are less than two such
    places, ticks stand at 1, 2 and 5 times a power of ten, as plain numbers.
    """
    ticker = optional_import("matplotlib.ticker", "a figure")
    first, last = math.log10(low), math.log10(high)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (last - first) / step <= 10)
    exponents = range(math.ceil(first / step) * step, math.floor(last) + 1, step)
    places, labels = [10.0**exponent for exponent in exponents], [f"$10^{{{exponent}}}$" for exponent in exponents]
    if len(places) < 2:
        levels = [
            digit * 10.0**exponent for exponent in range(math.floor(first), math.ceil(last)) for digit in (1, 2, 5)
        ]
        places = [level for level in [*levels, 10.0 ** math.ceil(last)] if low <= level <= high]
        labels = [f"{level:.3g}" for level in places]
    axis.set_major_locator(ticker.FixedLocator(places))
    axis.set_major_formatter(ticker.FixedFormatter(labels))
    axis.set_minor_locator(ticker.NullLocator())


def line_look(level: int, place: int, length: int) -> dict[str, Any]:
    """Return style, width and markers of a line, as arguments of `ax.plot`: `level` is its place in `STYLES`.

    `place` is the line's number in its axes: markers of different lines stand at different points, so that they stay
    readable where lines lie upon each other. About eight points are marked, of the longest line's `length`.
    """
    style, marker = STYLES[level % len(STYLES)]
    every = place * 2 % 17, max(1, length // 8)
    return {"linestyle": style, "linewidth": LINE, "marker": marker, "markersize": 5, "markevery": every}


# --------------------------------------------------------------------------------------------------------------- images


def log_norm(values: ArrayLike, decades: float = 12.0) -> Normalize:
    """Return the log colour scale, a LogNorm, of the values that are finite and above 0.

    It reaches at most `decades` below the largest: a single tiny entry shall not turn all others into one colour. It is
    at least one decade wide, and goes from 0.1 to 1 where there is nothing to show.
    """
    span = arguments.positive_number("log_norm", "decades", decades)
    colors = optional_import("matplotlib.colors", "a figure")
    shown = positive(values)
    shown = shown[~np.isnan(shown)]
    largest = max(float(shown.max(initial=0.0)), 1e-306) if shown.size else 1.0
    high = math.log10(largest)
    low = math.log10(float(shown.min())) if shown.size else 0.0
    low = min(max(low, high - span), high - 1.0)
    norm: Normalize = colors.LogNorm(10 ** max(low, -307.0), largest)
    return norm


def signed_norm(values: ArrayLike) -> Normalize:
    """Return the colour scale of numbers with a sign: 0 in the middle, as far up as down; from -1 to 1 of zeros."""
    colors = optional_import("matplotlib.colors", "a figure")
    numbers = np.abs(np.asarray(values, np.float64))
    shown = numbers[np.isfinite(numbers)]
    largest = (float(shown.max()) if shown.size else 0.0) or 1.0
    norm: Normalize = colors.Normalize(-largest, largest)
    return norm


def colour_scale(kind: str) -> Colormap:
    """Return the colours for a "size", of one sign, or for "signed" numbers; what has no value is grey."""
    arguments.one_of("colour_scale", "kind", kind, _SCALES)
    matplotlib = optional_import("matplotlib", "a figure")
    colours: Colormap = matplotlib.colormaps[_SCALES[kind]].with_extremes(bad=MISSING)
    return colours


def draw_image(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    label: str,
    norm: Normalize,
    kind: str = "size",
    there: ArrayLike | None = None,
) -> Colorbar:
    """Draw a matrix in colours, each entry a cell about its place, and a labelled colour bar beside it, which is
    returned.

    `x` (n,) and `y` (m,) are places of columns and rows, evenly spaced, rising; the first row of `values` (m, n) is at
    the bottom. NaN, and on a log scale what is not above 0, is grey. Where `there` (m, n) is False a cell stays empty.
    The bar has a pointed end where entries lie beyond the scale.
    """
    colors = optional_import("matplotlib.colors", "a figure")
    numbers = np.asarray(values, np.float64)
    edges = [edge for places in (x, y) for edge in _edges(np.asarray(places, np.float64))]
    image = ax.imshow(
        np.ma.masked_invalid(numbers),
        extent=(edges[0], edges[1], edges[2], edges[3]),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        norm=norm,
        cmap=colour_scale(kind),
        alpha=None if there is None else np.asarray(there, np.float64),
    )
    shown = numbers[np.isfinite(numbers) & (True if there is None else np.asarray(there, bool))]
    if isinstance(norm, colors.LogNorm):
        shown = shown[shown > 0]
    limits: Any = norm.vmin, norm.vmax
    # A little slack: the limits of a log scale are powers of rounded logarithms.
    below = bool((shown < limits[0] - 1e-9 * abs(limits[0])).any())
    above = bool((shown > limits[1] + 1e-9 * abs(limits[1])).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]
    return colour_bar(ax, image, label, extend)


def _edges(places: Floats) -> tuple[float, float]:
    """Return the outer edges of the first and the last cell."""
    half = float(places[-1] - places[0]) / (2 * (len(places) - 1)) if len(places) > 1 else 0.5
    return float(places[0]) - half, float(places[-1]) + half


def colour_bar(ax: Axes, drawn: Any, label: str, extend: str = "neither") -> Colorbar:
    """Put a labelled colour bar, of an image or of points, right of the axes; at its ends that `extend` names values go
    on.
    """
    figure: Any = ax.get_figure()
    bar: Colorbar = figure.colorbar(drawn, ax=ax, extend=extend, pad=0.02)
    bar.set_label(label)
    if isinstance(drawn.norm, optional_import("matplotlib.colors", "a figure").LogNorm):
        tick_decades(bar.ax.yaxis, drawn.norm.vmin, drawn.norm.vmax)
    bar.ax.tick_params(labelsize=FONT)
    return bar


# --------------------------------------------------------------------------------------------------------------- labels


def spread(positions: ArrayLike, gap: float, low: float, high: float) -> Floats:
    """Move numbers as little as possible so that they lie at least `gap` apart, in their order, from `low` to `high`.

    The gap is smaller if they do not fit otherwise. With the k-th smallest lowered by k gap, the condition says that
    the numbers do not fall: isotonic regression, solved by pooling neighbours that violate it and then cut off at the
    bounds, which gives the least sum of squared moves.

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


def label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write labels to the right of the axes at the heights of their lines' ends, apart from each other.

    A thin leader joins each to the edge of the axes: inside of them it would look like data. `ends` has of each line
    where it ends, its label and its colour; limits and scale of the axes are set before.
    """
    scale = np.log10 if ax.get_yscale() == "log" else np.asarray
    bottom, top = scale(ax.get_ylim())
    # Fractions of the axes.
    heights = (scale([end for end, _, _ in ends]) - bottom) / (top - bottom)
    figure = ax.get_figure()
    inches = ax.get_position().height * (figure.get_figheight() if figure is not None else 4.8)  # type: ignore[union-attr]
    places = spread(np.clip(heights, 0, 1), 1.35 * FONT / 72 / inches, 0.0, 1.0)
    leader: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.7, "clip_on": False, "scalex": False, "scaley": False}
    for (_, label, colour), height, place in zip(ends, heights.tolist(), places.tolist(), strict=True):
        ax.plot([1.0, 1.04], [height, place], transform=ax.transAxes, color=colour, **leader)
        ax.text(1.05, place, label, transform=ax.transAxes, color=colour, fontsize=FONT, va="center", ha="left")


# ---------------------------------------------------------------------------------------------------------------- files


def save_figure(figure: Figure, file: Any, suffix: str) -> None:
    """Write a figure to a path or a binary file, in the format ".png", ".pdf" or ".svg"; another is an OptionError.

    The same figure gives the same bytes: without the time of writing.
    """
    arguments.one_of("save_figure", "suffix", suffix, FORMATS)
    matplotlib = optional_import("matplotlib", "a figure")
    metadata: dict[str, Any] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[suffix]
    # A figure that pyplot does not know has the Agg canvas, and savefig picks the one of the format.
    with matplotlib.rc_context({"svg.hashsalt": "rnn_numpy"}):
        figure.savefig(file, format=suffix[1:], metadata=metadata)


def check_figure_path(path: str | Path) -> str:
    """Return the suffix of a figure's path, in small letters, if we can write that format; raise OptionError if not."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise OptionError(f"{path}: the name of a figure must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return suffix
