"""Figures of a gradient taken apart: tables of (t, k), lag profiles, singular values.

Sizes are shown as powers of ten, over the whole range of floats.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.lab.decomposition import Decomposition
from rnn_numpy.lab.jacobians import StateJacobians
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes, Normalize

Floats = NDArray[np.float64]

# What is smaller than the largest by more powers of ten has the colour of the smallest.
DECADES = 16.0


def plot_norms(table: Decomposition, name: str, ax: Axes | None = None, *, decades: float = DECADES) -> Axes:
    """Draw the norm of every block G(t, k) as a map, log colours: row t a loss step, column k a step it reaches.

    Parameters
    ----------
    table : Decomposition
    name : str
        Parameter, or gate of one.
    decades : float
        How many powers of ten below the largest norm the colours reach; smaller ones have the last colour, and those
        that are exactly 0 are grey.
    """
    decades = arguments.positive_number("plot_norms", "decades", decades)
    norms = table.norms(name)
    shown = np.where(norms > 0, norms, np.nan)
    return _map(table, name, ax, shown, "norm of the block", style.log_norm(norms, decades), "size", "size")


def plot_shares(table: Decomposition, name: str, ax: Axes | None = None) -> Axes:
    """Draw the signed share of every block G(t, k) in the whole gradient as a map; all shares add up to 1.

    Red blocks point along the gradient, blue ones against it: what they say is cancelled by others.

    Parameters
    ----------
    table : Decomposition
    name : str
        Parameter, or gate of one.

    Raises
    ------
    OptionError
        There is no such parameter, or its gradient is 0.
    """
    shares = table.share(name)
    if np.isnan(shares).any():
        raise OptionError(f"plot_shares: the gradient of {name!r} is 0 or not finite, so no block has a share in it")
    label = "share of the gradient (all add up to 1)"
    return _map(table, name, ax, shares, label, style.signed_norm(shares), "signed", "signed share")


def plot_lag_profile(profiles: Mapping[str, ArrayLike], ax: Axes | None = None) -> Axes:
    """Draw how large a gradient's parts at each lag are, log scale, a line for each profile.

    Parameters
    ----------
    profiles : mapping of str to array_like, (T,)
        By label, what `Decomposition.lag_profile` returns, or `lag_norms`; any lengths. A line has gaps where a profile
        is 0.
    """
    if not profiles:
        raise OptionError("plot_lag_profile: profiles must be at least one; got none")
    lines = {label: np.asarray(profile, np.float64) for label, profile in profiles.items()}
    for label, line in lines.items():
        if line.ndim != 1:
            raise ShapeError(f"plot_lag_profile: profiles[{label!r}] must have shape (T,); got {line.shape}")
    ax = style.axes_or_new(ax)
    style.set_log(ax, *style.log_limits(np.concatenate(list(lines.values()))))
    longest = max(len(line) for line in lines.values())
    for number, (label, line) in enumerate(lines.items()):
        colour = style.COLOURS[number % len(style.COLOURS)]
        ax.plot(style.positive(line), color=colour, label=label, **style.line_look(number, number, longest))
    ax.set_xlim(0, max(longest - 1, 1))
    several = len(lines) > 1
    title = "" if several else next(iter(lines))
    style.frame(ax, "lag $t - k$, in steps", "norm of the gradient's part at this lag", title)
    if several:
        ax.legend(frameon=False, fontsize=style.FONT)
    return ax


def plot_singular_histogram(steps: StateJacobians, ax: Axes | None = None, *, n: int = 0, bins: int = 40) -> Axes:
    """Draw the singular values of each step's Jacobian as a histogram per step: a column for each t.

    Where they lie around 1 in all columns, gradients keep their size; a column's highest one bounds what the step can
    do to a gradient. Steps beyond the sequence's length are grey.

    Parameters
    ----------
    steps : StateJacobians
    n : int
        Which sequence.
    bins : int
        Of equal width in the logarithm. Singular values of exactly 0 are left out; what is more than sixteen powers of
        ten below the largest is counted in the lowest bin.
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
    missing = np.broadcast_to(np.isnan(values).all(axis=1), counts.shape)
    ax = style.axes_or_new(ax)
    style.set_log(ax, 10**bottom, 10**top)
    image = ax.pcolormesh(
        np.arange(steps.T + 1) - 0.5,
        10**edges,
        np.ma.masked_array(counts, missing),
        cmap=style.colour_scale("size"),
        vmin=0,
        vmax=max(1, counts.max()),
    )
    ax.axhline(1, color=style.COLOURS[1], linewidth=1.4, linestyle=(0, (4, 2)))
    bar = style.colour_bar(ax, image, "singular values in the bin")
    bar.locator = optional_import("matplotlib.ticker", "a figure").MaxNLocator(integer=True)
    bar.update_ticks()
    style.frame(ax, "step $t$", "singular value of $J_t$", grid=False)
    return ax


def _map(
    table: Decomposition, name: str, ax: Axes | None, values: Floats, label: str, norm: Normalize, kind: str, what: str
) -> Axes:
    """Draw a table (T, T), row 0 on top: white where there is no block, grey where it is NaN."""
    ax = style.axes_or_new(ax)
    steps = np.arange(table.T)
    style.draw_image(ax, steps, steps, values, label, norm, kind, there=table.exists(name))
    ax.invert_yaxis()
    every = max(1, -(-table.T // 8))
    ax.set_xticks(steps[::every])
    ax.set_yticks(steps[::every])
    style.frame(
        ax, "step $k$ at which the parameter acts", "step $t$ of the loss", rf"{what} of $G(t, k)$, {name}", grid=False
    )
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
