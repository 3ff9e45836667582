"""Figures of a gradient taken apart: tables of (t, k), lag profiles, singular values.

A function that draws takes `ax`, a matplotlib Axes, draws into it and returns it. Nothing here touches pyplot or its
global state. Colour maps are ones that people with any of the common forms of colour blindness read as others do:
cividis for sizes, purple to orange for signs. Sizes are shown as powers of ten, over the whole range of floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.lab.decomposition import Decomposition
from rnn_numpy.lab.jacobians import StateJacobians
from rnn_numpy.lab.plots.style import COLOURS, STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

# What is smaller than the largest by more powers of ten has the colour of the smallest.
DECADES = 16
SIZES, SIGNS = "cividis", "PuOr_r"
NOTHING = "0.82"  # a block that is exactly 0: grey, which is in neither map


def plot_norms(ax: Axes, table: Decomposition, name: str, *, decades: float = DECADES) -> Axes:
    """Draw the norm of every block G(t, k) as a map, log colours: row t a loss step, column k a step it reaches.

    Parameters
    ----------
    ax : matplotlib Axes
        The colour bar takes some of its room.
    table : Decomposition
    name : str
        Parameter, or gate of one.
    decades : float
        How many powers of ten below the largest norm the colours reach; smaller ones have the last colour, and those
        that are exactly 0 are grey.

    Returns
    -------
    ax

    Raises
    ------
    OptionError
        There is no such parameter; decades is not positive.
    """
    decades = arguments.positive_number("plot_norms", "decades", decades)
    norms = table.norms(name)
    logs = np.full(norms.shape, np.nan)
    np.log10(norms, out=logs, where=(norms > 0) & np.isfinite(norms))
    top = float(np.nanmax(logs)) if np.isfinite(logs).any() else 0.0
    bottom = max(float(np.nanmin(logs, initial=top)), top - decades)
    bottom = bottom if bottom < top else top - 1
    image = _map(ax, table, name, logs, SIZES, bottom, top)
    exponents = _decades(bottom, top)
    bar = _bar(ax, image, "norm of the block")
    bar.set_ticks(exponents, labels=[f"$10^{{{exponent}}}$" for exponent in exponents])
    ax.set_title(rf"size of $G(t, k)$, {name}")
    return ax


def plot_shares(ax: Axes, table: Decomposition, name: str) -> Axes:
    """Draw the signed share of every block G(t, k) in the whole gradient as a map; all shares add up to 1.

    Orange blocks point along the gradient, purple ones against it: what they say is cancelled by others.

    Parameters
    ----------
    ax : matplotlib Axes
        The colour bar takes some of its room.
    table : Decomposition
    name : str
        Parameter, or gate of one.

    Returns
    -------
    ax

    Raises
    ------
    OptionError
        There is no such parameter, or its gradient is 0.
    """
    shares = table.share(name)
    if np.isnan(shares).any():
        raise OptionError(f"plot_shares: the gradient of {name!r} is 0 or not finite, so no block has a share in it")
    largest = float(np.abs(shares).max()) or 1.0
    image = _map(ax, table, name, shares, SIGNS, -largest, largest)
    _bar(ax, image, "share of the gradient (all add up to 1)")
    ax.set_title(rf"signed share of $G(t, k)$, {name}")
    return ax


def plot_lag_profile(ax: Axes, profiles: Mapping[str, ArrayLike]) -> Axes:
    """Draw how large a gradient's parts at each lag are, log scale, a line for each profile.

    Parameters
    ----------
    ax : matplotlib Axes
    profiles : mapping of str to array_like, (T,)
        By label, what `Decomposition.lag_profile` returns; any lengths. A line has gaps where a profile is 0.

    Returns
    -------
    ax

    Raises
    ------
    OptionError, ShapeError
        There are no profiles; one is not a vector.
    """
    if not profiles:
        raise OptionError("plot_lag_profile: profiles must be at least one; got none")
    lines = {label: np.asarray(profile, np.float64) for label, profile in profiles.items()}
    for label, line in lines.items():
        if line.ndim != 1:
            raise ShapeError(f"plot_lag_profile: profiles[{label!r}] must have shape (T,); got {line.shape}")
    every = np.concatenate(list(lines.values()))
    logs = np.log10(every[(every > 0) & np.isfinite(every)])
    low, high = (float(logs.min()), float(logs.max())) if logs.size else (-1.0, 0.0)
    margin = max(0.25, 0.03 * (high - low))
    low, high = max(low - margin, -305.0), min(high + margin, 305.0)
    ticker = optional_import("matplotlib.ticker", "a figure")
    ax.set_yscale("log")
    ax.set_ylim(10**low, 10**high)
    exponents = _decades(low, high)
    ax.yaxis.set_major_locator(ticker.FixedLocator([10.0**exponent for exponent in exponents]))
    ax.yaxis.set_major_formatter(ticker.FixedFormatter([f"$10^{{{exponent}}}$" for exponent in exponents]))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    longest = max(len(line) for line in lines.values())
    for number, (label, line) in enumerate(lines.items()):
        style, marker = STYLES[number % len(STYLES)]
        ax.plot(
            np.arange(len(line)),
            np.where((line > 0) & np.isfinite(line), line, np.nan),
            color=COLOURS[number % len(COLOURS)],
            linestyle=style,
            linewidth=1.8,
            marker=marker,
            markersize=5,
            markevery=(number * 2 % 17, max(1, longest // 8)),
            label=label,
        )
    ax.set_xlim(0, max(longest - 1, 1))
    ax.set_xlabel("lag $t - k$, in steps")
    ax.set_ylabel("norm of the gradient's part at this lag")
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if len(lines) > 1:
        ax.legend(frameon=False)
    else:
        ax.set_title(next(iter(lines)))
    return ax


def plot_singular_histogram(ax: Axes, steps: StateJacobians, n: int = 0, *, bins: int = 40) -> Axes:
    """Draw the singular values of each step's Jacobian as a histogram per step: a column for each t.

    Where they lie around 1 in all columns, gradients keep their size; a column's highest one bounds what the step can
    do to a gradient.

    Parameters
    ----------
    ax : matplotlib Axes
        The colour bar takes some of its room.
    steps : StateJacobians
    n : int
        Which sequence.
    bins : int
        Of equal width in the logarithm. Singular values of exactly 0 are left out; what is more than sixteen powers of
        ten below the largest is counted in the lowest bin.

    Returns
    -------
    ax

    Raises
    ------
    OptionError
        There is no such sequence; bins is not positive.
    """
    bins = arguments.positive_int("plot_singular_histogram", "bins", bins)
    if not 0 <= n < steps.N:
        raise OptionError(f"plot_singular_histogram: n must be in [0, N) = [0, {steps.N}); got {n}")
    values = steps.singular_values()[:, n]
    logs = np.full(values.shape, np.nan)
    np.log10(values, out=logs, where=values > 0)
    top = float(np.nanmax(logs)) if np.isfinite(logs).any() else 0.0
    bottom = max(float(np.nanmin(logs, initial=top)), top - DECADES)
    bottom, top = min(bottom, -0.1), max(top, 0.1)  # sigma = 1 is always seen
    edges = np.linspace(bottom, top, bins + 1)
    counts = np.stack([np.histogram(np.clip(row[~np.isnan(row)], bottom, top), edges)[0] for row in logs], axis=1)
    shown = np.ma.masked_equal(counts, 0)
    image = ax.pcolormesh(np.arange(steps.T + 1) - 0.5, edges, shown, cmap=f"{SIZES}_r", vmin=0)
    ax.axhline(0, color="#D55E00", linewidth=1.2, linestyle=(0, (4, 2)))
    bar = _bar(ax, image, "singular values in the bin")
    bar.locator = optional_import("matplotlib.ticker", "a figure").MaxNLocator(integer=True)
    bar.update_ticks()
    exponents = _decades(bottom, top)
    if len(exponents) > 2:
        ax.set_yticks(exponents, labels=[f"$10^{{{exponent}}}$" for exponent in exponents])
    else:  # within a power of ten or two: plain numbers
        levels = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
        inside = [level for level in levels if bottom <= math.log10(level) <= top]
        ax.set_yticks([math.log10(level) for level in inside], labels=[f"{level:g}" for level in inside])
    ax.set_xlabel("step $t$")
    ax.set_ylabel("singular value of $J_t$")
    return ax


def _map(ax: Axes, table: Decomposition, name: str, values: Floats, colours: str, low: float, high: float) -> Any:
    """Draw a table (T, T): white where there is no block, grey where it is NaN."""
    colors = optional_import("matplotlib.colors", "a figure")
    matplotlib = optional_import("matplotlib", "a figure")
    there = table.exists(name)
    centre = np.arange(table.T)
    nothing = np.ma.masked_array(np.ones(values.shape), ~(there & np.isnan(values)))
    extent = (-0.5, table.T - 0.5, table.T - 0.5, -0.5)
    if nothing.count():
        ax.imshow(nothing, cmap=colors.ListedColormap([NOTHING]), extent=extent, interpolation="nearest")
    image = ax.imshow(
        np.ma.masked_array(values, ~there | np.isnan(values)),
        cmap=matplotlib.colormaps[colours],
        vmin=low,
        vmax=high,
        extent=extent,
        interpolation="nearest",
    )
    step = max(1, math.ceil(table.T / 8))
    ax.set_xticks(centre[::step])
    ax.set_yticks(centre[::step])
    ax.set_xlabel("step $k$ at which the parameter acts")
    ax.set_ylabel("step $t$ of the loss")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return image


def _bar(ax: Axes, image: Any, label: str) -> Any:
    figure: Any = ax.figure
    bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def _decades(low: float, high: float) -> list[int]:
    """Return the exponents between two, at most about eight of them, at a distance of 1, 2, 5, 10, ..."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 8)
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))
