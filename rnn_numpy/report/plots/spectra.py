"""Figures of the dynamics: Lyapunov spectra, singular values of Jacobian products over time, angles of directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.core import arguments
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.lab.lyapunov import CovariantVectors, LyapunovSpectrum
from rnn_numpy.report.plots.style import COLOURS, FONT, MARKERS, Axes, axes_or_new, colour_scale, frame
from rnn_numpy.report.tables import plain

LINES = ("-", "--", "-.", ":")
NEAR = 100.0  # so many times what rounding leaves of the largest singular value


def plot_spectrum(
    spectra: LyapunovSpectrum | Mapping[str, LyapunovSpectrum],
    ax: Axes | None = None,
    *,
    theory: Mapping[str, ArrayLike] | None = None,
) -> Axes:
    """Draw Lyapunov exponents against i/S, each with two standard errors, a marker for each spectrum.

    Parameters
    ----------
    spectra : LyapunovSpectrum, or mapping of str to LyapunovSpectrum
        One, or some by label.
    theory : mapping of str to float or array_like, optional
        By label: lambda_1 alone, a level; or all exponents, a curve over i/S.

    Notes
    -----
    Exponents of -inf are left out; errors of which nothing is known are not drawn.
    """
    several = {spectra.name: spectra} if isinstance(spectra, LyapunovSpectrum) else dict(spectra)
    if not several:
        raise OptionError("plot_spectrum: spectra must have at least one entry; got none")
    ax = axes_or_new(ax)
    ax.axhline(0, color="0.5", linewidth=0.8)
    for number, (label, spectrum) in enumerate(several.items()):
        places = (np.arange(spectrum.count) + 1) / spectrum.size
        shown = np.isfinite(spectrum.exponents)
        errors = np.nan_to_num(2 * spectrum.standard_errors[shown])
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        look |= {"markersize": 3.5, "linestyle": "none", "elinewidth": 0.8}
        if spectrum.kaplan_yorke is not None:
            label += f"  (dimension {plain(spectrum.kaplan_yorke)} of {spectrum.size})"
        ax.errorbar(places[shown], spectrum.exponents[shown], yerr=errors, label=label, **look)
    for number, (label, values) in enumerate((theory or {}).items()):
        curve = np.asarray(values, np.float64)
        style = LINES[(number + 1) % len(LINES)]
        if curve.ndim == 0:
            ax.axhline(float(curve), color="black", linestyle=style, linewidth=1, label=label)
        else:
            ax.plot((np.arange(len(curve)) + 1) / len(curve), curve, color="black", linestyle=style, lw=1, label=label)
    ax.set_xlim(0, 1.02)
    return _named(ax, "i / S, of all directions of the state", "Lyapunov exponent, per step")


def plot_singular_values(values: ArrayLike, ax: Axes | None = None, *, exponents: ArrayLike | None = None) -> Axes:
    """Draw the singular values of a Jacobian product, J_t ... J_1, as t grows, log scale.

    Parameters
    ----------
    values : array_like, (T, k)
        Row t-1: of the product of t factors, the largest first. All at least 0; zeros are left out.
    exponents : array_like, optional
        Lyapunov exponents: lines of slope lambda_i, dashed, from 1 at t = 0.

    Notes
    -----
    Below 2e-16 of the largest one there is nothing but rounding: a grey ground where values come near it.
    """
    where = "plot_singular_values"
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"{where}: values must have shape (T, k), T and k at least 1; got {array.shape}")
    if not (array >= 0).all():
        raise OptionError(f"{where}: values must be at least 0, as singular values are")
    ax = axes_or_new(ax)
    steps = np.arange(1, len(array) + 1)
    colours = colour_scale("size")
    k = array.shape[1]
    ax.set_yscale("log")
    for i in range(k):
        shown = np.where(array[:, i] > 0, array[:, i], np.nan)
        label = {0: "largest", k - 1: "smallest"}.get(i) if k > 1 else "singular value"
        ax.plot(steps, shown, color=colours(0.9 * i / max(1, k - 1)), linewidth=1.2, label=label)
    rounding, low = np.finfo(np.float64).eps * array[:, 0], ax.get_ylim()[0]
    if ((array > 0) & (array < NEAR * rounding[:, None])).any():
        low = min(low, float(rounding[rounding > 0].min(initial=low)))
        ax.fill_between(steps, low, rounding, color="0.9", linewidth=0, label="rounding")
    high = ax.get_ylim()[1]
    for number, exponent in enumerate([] if exponents is None else np.ravel(exponents).tolist()):
        label = r"$e^{\lambda_i t}$" if number == 0 else None
        ax.plot(steps, np.exp(exponent * steps), color="black", linestyle="--", linewidth=0.9, label=label)
    ax.set_xlim(0, len(array))
    ax.set_ylim(low, high)
    return _named(ax, "t, number of steps", "singular values of $J_t \\cdots J_1$")


def plot_angles(
    vectors: CovariantVectors,
    pairs: Sequence[tuple[int, int]] = ((0, 1),),
    ax: Axes | None = None,
    *,
    split: int | None = None,
    bins: int = 45,
) -> Axes:
    """Draw how often pairs of covariant vectors stand at which angle: histograms over steps and sequences.

    Parameters
    ----------
    vectors : CovariantVectors
    pairs : sequence of (int, int)
        Which vectors, from 0 on; none where only `split` is of interest.
    split : int, optional
        Also the smallest angle between the first `split` vectors' span and that of the others.
    bins : int
        Of 90 degrees.
    """
    where = "plot_angles"
    bins = arguments.positive_int(where, "bins", bins)
    drawn = {f"vectors {i + 1} and {j + 1}": vectors.angle(i, j) for i, j in pairs}
    if split is not None:
        drawn[f"first {split} and all others"] = vectors.smallest_angle(split)
    if not drawn:
        raise OptionError(f"{where}: nothing to draw; give pairs or split")
    ax = axes_or_new(ax)
    edges = np.linspace(0, 90, bins + 1)
    for number, (label, angles) in enumerate(drawn.items()):
        shares = np.histogram(np.degrees(angles), edges)[0] / angles.size / np.diff(edges)
        label += f"  (median {np.degrees(np.median(angles)):.0f}°)"
        colour, style = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
        ax.stairs(shares, edges, color=colour, linestyle=style, linewidth=1.6, label=label)
    ax.set_xlim(0, 90)
    ax.set_xticks(range(0, 91, 15))
    ax.set_ylim(0, None)
    return _named(ax, "angle, degrees", "share of the steps, per degree")


def _named(ax: Axes, xlabel: str, ylabel: str) -> Axes:
    frame(ax, xlabel, ylabel)
    ax.legend(frameon=False, fontsize=FONT)
    return ax
