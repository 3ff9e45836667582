"""Figures of the gradients of a roll-out, horizon by horizon: how large they are, and where they point."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab.horizons import HorizonGradients
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes

Floats = NDArray[np.float64]

LABELS = {
    "exact": "exact",
    "recurrence": "through the state alone (stop)",
    "feedback": "through what was fed back",
}


def plot_horizon_norms(gradients: HorizonGradients, ax: Axes | None = None, *, name: str | None = None) -> Axes:
    """Draw the norm of dL_h/dW against the horizon, log scale: the exact one, and its parts by the state alone and by
    what was fed back.

    Parameters
    ----------
    gradients : HorizonGradients
    name : str, optional
        Parameter; all of them together where left out. A line has gaps where a norm is 0.
    """
    _checked("plot_horizon_norms", "gradients", gradients)
    lines = {label: gradients.norms(kind, name) for kind, label in LABELS.items()}
    ax = style.axes_or_new(ax)
    style.set_log(ax, *style.log_limits(np.concatenate(list(lines.values()))))
    _draw(ax, {label: style.positive(line) for label, line in lines.items()})
    style.frame(ax, "horizon $h$, in steps", f"norm of d$L_h$/d({name or 'all parameters'})")
    return ax


def plot_horizon_cosines(
    several: Mapping[str, HorizonGradients], ax: Axes | None = None, *, name: str | None = None
) -> Axes:
    """Draw the cosine between the exact gradient and the one that stops at what was fed back, against the horizon.

    Parameters
    ----------
    several : mapping of str to HorizonGradients
        By label, a line each.
    name : str, optional
        Parameter; all of them together where left out. A line has gaps where a gradient is 0.
    """
    where = "plot_horizon_cosines"
    if not several:
        raise OptionError(f"{where}: several must have at least one HorizonGradients; got none")
    for label, gradients in several.items():
        _checked(where, f"several[{label!r}]", gradients)
    lines = {label: gradients.cosines("recurrence", name) for label, gradients in several.items()}
    ax = style.axes_or_new(ax)
    _draw(ax, lines)
    lowest = min(float(np.nanmin(line, initial=1.0)) for line in lines.values())
    ax.set_ylim(min(-0.05, lowest - 0.05), 1.05)
    style.frame(ax, "horizon $h$, in steps", "cosine between the exact and the stopped gradient")
    return ax


def _checked(where: str, name: str, gradients: HorizonGradients) -> None:
    if not isinstance(gradients, HorizonGradients):
        raise DTypeError(f"{where}: {name} must be a HorizonGradients; got {type(gradients).__name__}")


def _draw(ax: Axes, lines: Mapping[str, Floats]) -> None:
    ticker = optional_import("matplotlib.ticker", "a figure")
    longest = max(map(len, lines.values()))
    for number, (label, line) in enumerate(lines.items()):
        look = style.line_look(number, number, longest)
        colour = style.COLOURS[number % len(style.COLOURS)]
        ax.plot(np.arange(1, len(line) + 1), line, color=colour, label=label, **look)
    ax.set_xlim(0.5, longest + 0.5)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=style.FONT)
