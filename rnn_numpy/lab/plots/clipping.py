"""A training run as clipping saw it: how long the gradient was, and what was left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab.plots.style import COLOURS, axes_or_new, frame
from rnn_numpy.training import ClipLedger

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_clip_ledger(ledger: ClipLedger, ax: Axes | None = None) -> Axes:
    """Draw the norm of the gradient before and after each clipping of a training run, on a log axis.

    Parameters
    ----------
    ledger : ClipLedger
        Of at least one update with a finite gradient that is not 0.
    ax : matplotlib Axes, optional
        Of a new figure where left out.

    Returns
    -------
    ax
        Its title says how often clipping engaged. Updates that were skipped, since the gradient was not finite, are
        crosses at the upper edge.

    Raises
    ------
    DTypeError, OptionError
        `ledger` is no ClipLedger, or has nothing to draw.
    MissingExtraError
        matplotlib is not installed.
    """
    if not isinstance(ledger, ClipLedger):
        raise DTypeError(f"plot_clip_ledger: ledger must be a ClipLedger; got {type(ledger).__name__}")
    drawn = [(k, result) for k, result in enumerate(ledger.results) if not result.skipped and 0 < result.norm < np.inf]
    if not drawn:
        raise OptionError(
            "plot_clip_ledger: ledger has no update with a finite gradient other than 0; there is no norm"
        )
    ax = axes_or_new(ax)
    updates = [k for k, _ in drawn]
    # The lines of what was left, first: where nothing was clipped, both are one.
    ax.plot(updates, [r.norm for _, r in drawn], color=COLOURS[1], linewidth=1.2, linestyle="--", label="before")
    ax.plot(updates, [r.norm_after for _, r in drawn], color=COLOURS[0], linewidth=1.6, label="after clipping")
    engaged = [(k, r.norm) for k, r in drawn if r.engaged]
    if engaged:
        places, norms = zip(*engaged, strict=True)
        ax.plot(places, norms, linestyle="", marker="o", markersize=3.5, color=COLOURS[1], label="clipping engaged")
    skipped = [k for k, result in enumerate(ledger.results) if result.skipped]
    if skipped:
        ax.plot(
            skipped,
            np.full(len(skipped), 0.97),
            linestyle="",
            marker="x",
            color="0.2",
            transform=ax.get_xaxis_transform(),
            label="skipped: not finite",
        )
    ax.set_yscale("log")
    share = ledger.engaged_share
    frame(
        ax,
        "update",
        "norm of the gradient",
        f"clipping engaged in {ledger.engaged} of {len(ledger.finite)} updates"
        + (f" ({100 * share:.0f} %)" if share is not None else ""),
    )
    ax.legend(frameon=False)
    return ax
