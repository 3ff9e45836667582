"""Figures of clipping: what it did at each update of a run, and how far each rule turns a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes
from rnn_numpy.training import ClipLedger, ClipResult


def plot_clip_ledger(ledger: ClipLedger, ax: Axes | None = None, *, limit: float | None = None) -> Axes:
    """Draw the norm of the gradient before and after clipping at each update of a run, log scale.

    Orange is what was cut off, from the norm before down to the norm after. At the upper edge, a cross is an update
    that was skipped, its gradient not being finite, and a triangle one whose norm is too large for a float. A line has
    gaps where the gradient is 0 or was skipped. The share in the title is of the updates with a finite gradient.

    Parameters
    ----------
    ledger : ClipLedger
    limit : float, optional
        Of the norm: a dashed line. Where left out, it is what all clipped gradients ended on, if they ended on the same
        norm without being turned, as by `clip_grad_norm`; no line if not.
    """
    where = "plot_clip_ledger"
    if not isinstance(ledger, ClipLedger):
        raise DTypeError(f"{where}: ledger must be a ClipLedger; got {type(ledger).__name__}")
    if not ledger.results:
        raise OptionError(f"{where}: ledger must have at least one update; got none")
    ticker = optional_import("matplotlib.ticker", "a figure")
    limit = _common_end(ledger) if limit is None else arguments.positive_number(where, "limit", limit)
    updates = np.arange(1, len(ledger) + 1)
    skipped = np.array([result.skipped for result in ledger.results])
    engaged = np.array([result.engaged for result in ledger.results]) & ~skipped
    before, after = np.array([(result.norm, result.norm_after) for result in ledger.results]).T
    huge = np.isinf(before) & ~skipped
    shown = [np.where(skipped, np.nan, style.positive(norms)) for norms in (before, after)]
    ax = style.axes_or_new(ax)
    low, high = style.log_limits([*shown[0], *shown[1], limit or np.nan])
    style.set_log(ax, low, high)
    colours = dict(zip(("before", "cut", "after"), style.COLOURS, strict=False))
    # A short run's updates are points as well: one between two gaps would not be seen.
    marker = "o" if len(updates) <= 60 else None
    if engaged.any():
        tops = np.where(np.isnan(shown[0]), high, shown[0])[engaged]
        feet = np.where(np.isnan(shown[1]), low, shown[1])[engaged]
        ax.vlines(updates[engaged], feet, tops, color=colours["cut"], linewidth=2.0, alpha=0.6, label="cut off")
    ax.plot(updates, shown[0], color=colours["before"], linewidth=1.0, marker=marker, markersize=3, label="norm before")
    ax.plot(
        updates, shown[1], color=colours["after"], linewidth=style.LINE, marker=marker, markersize=4, label="norm after"
    )
    if limit is not None:
        ax.axhline(limit, color="0.25", linestyle=(0, (4, 2)), linewidth=1.0, label=f"limit {limit:.3g}")
    look: dict[str, Any] = {"color": "black", "linestyle": "none", "markersize": 6}
    for these, marker, label in ((skipped, "x", "skipped: not finite"), (huge, "^", "too large for a float")):
        if these.any():
            edge = np.full(int(these.sum()), 0.97)
            ax.plot(updates[these], edge, transform=ax.get_xaxis_transform(), marker=marker, label=label, **look)
    ax.set_xlim(0.5, len(updates) + 0.5)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    style.frame(ax, "update", "norm of the gradient", _said(ledger))
    ax.legend(
        loc="upper left", bbox_to_anchor=(0.0, -0.13), fontsize=style.FONT, frameon=False, borderaxespad=0, ncols=3
    )
    return ax


def plot_clip_directions(results: Mapping[str, Sequence[ClipResult]], ax: Axes | None = None) -> Axes:
    """Draw the cosine between the clipped and the unclipped gradient against how much shorter it got, a line a rule.

    Weak clipping stands on the left, strong on the right.

    Parameters
    ----------
    results : mapping of str to sequence of ClipResult
        By rule: one gradient, or several, clipped at one limit after the other. Skipped ones are left out.
    """
    where = "plot_clip_directions"
    if not results:
        raise OptionError(f"{where}: results must have at least one rule; got none")
    lines = {}
    for label, several in results.items():
        others = [type(result).__name__ for result in several if not isinstance(result, ClipResult)]
        if others:
            raise DTypeError(f"{where}: results[{label!r}] must be a list of ClipResult; it holds {others[0]}")
        points = sorted(
            (result.factor, result.cosine) for result in several if not result.skipped and result.factor > 0
        )
        if not points:
            raise OptionError(f"{where}: results[{label!r}] must have a result that was not skipped; got none")
        lines[label] = np.array(points[::-1]).T
    ax = style.axes_or_new(ax)
    longest = max(line.shape[1] for line in lines.values())
    for number, (label, (factors, cosines)) in enumerate(lines.items()):
        colour = style.COLOURS[number % len(style.COLOURS)]
        ax.plot(factors, cosines, color=colour, label=label, **style.line_look(number, number % 2, longest))
    factors, cosines = np.concatenate(list(lines.values()), axis=1)
    ax.set_xscale("log")
    weak, strong = 1.5 * float(factors.max()), style.log_limits(factors)[0]
    ax.set_xlim(weak, strong)
    style.tick_decades(ax.xaxis, strong, weak)
    ax.set_ylim(min(-0.02, float(cosines.min()) - 0.05), 1.05)
    style.frame(ax, "factor: norm after / norm before", "cosine to the unclipped gradient")
    ax.legend(loc="best", fontsize=style.FONT, frameon=False)
    return ax


def _common_end(ledger: ClipLedger) -> float | None:
    """Return the norm on which all clipped gradients ended, None if there is none or some were turned."""
    clipped = [result for result in ledger.finite if result.engaged]
    ends = {result.norm_after for result in clipped}
    return ends.pop() if len(ends) == 1 and all(result.cosine == 1 for result in clipped) else None


def _said(ledger: ClipLedger) -> str:
    """Return the title: how often clipping engaged, and how many updates were skipped."""
    share, skipped = ledger.engaged_share, ledger.skipped
    if share is None:
        return f"no finite gradient in {len(ledger)} updates"
    said = f"clipping engaged at {100 * share:.3g} % of {len(ledger.finite)} updates"
    return said + (f", {skipped} skipped" if skipped else "")
