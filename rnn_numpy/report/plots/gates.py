"""Figures of gates over time: every unit's in colours, or the spread over units as bands."""

from __future__ import annotations

import numpy as np

from rnn_numpy.core.extras import optional_import
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.errors import OptionError
from rnn_numpy.lab.gates import OPEN, SHUT, existing_steps, gate_values, layer_of
from rnn_numpy.report.plots.style import COLOURS, FONT, LINE, Axes, axes_or_new, draw_image, frame

NAMES = {"i": "input gate i", "f": "forget gate f", "o": "output gate o", "r": "reset gate r", "z": "update gate z"}
# Quantiles of the outer and of the inner band.
OUTER, INNER = (0.05, 0.95), (0.25, 0.75)
# Lighter tones of the line's colour.
BANDS = ("#CFE3F0", "#85B9DA")


def plot_gate_image(trace: LayerTrace | Trace, gate: str, ax: Axes | None = None, *, sequence: int = 0) -> Axes:
    """Draw a gate of one sequence: time to the right, a row for each unit, dark where it is shut.

    Units are sorted by their mean over the sequence, the most open one on top: what they are numbered is chance. Steps
    beyond the sequence's length are grey.

    Parameters
    ----------
    trace : LayerTrace or Trace
        `trace["l0"]`, say; of a Trace, its top layer's forward direction.
    gate : str
        "f", say.
    sequence : int
        Its place in the batch.

    Raises
    ------
    OptionError
        The array is no gate of this trace, or there is no such sequence.
    """
    where = "plot_gate_image"
    layer = layer_of(where, trace)
    values = gate_values(where, layer, gate)
    T, N, H = values.shape
    if not 0 <= sequence < N:
        raise OptionError(f"{where}: sequence must be in [0, N) = [0, {N}); got {sequence}")
    alive = existing_steps(layer)[:, sequence]
    shown = values[:, sequence][:, np.argsort(values[alive, sequence].mean(axis=0), kind="stable")]
    shown[~alive] = np.nan
    colors = optional_import("matplotlib.colors", "a figure")
    ax = axes_or_new(ax)
    name = NAMES.get(gate, f"gate {gate}")
    bar = draw_image(ax, np.arange(T), np.arange(H), shown.T, f"{name} (0 shut, 1 open)", colors.Normalize(0, 1))
    bar.set_ticks([0, SHUT, 0.5, OPEN, 1])
    frame(ax, "step t", "units, sorted by their mean", f"{name} of {layer.name}, sequence {sequence}", grid=False)
    ticker = optional_import("matplotlib.ticker", "a figure")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return ax


def plot_gate_bands(trace: LayerTrace | Trace, gate: str, ax: Axes | None = None) -> Axes:
    """Draw how a gate is spread over units and sequences, step by step.

    A line is the median; half of all lies in the inner band, nine tenths in the outer one. Above and below the dotted
    lines a gate counts as open and shut. At each step only the sequences that have it count. Arguments and errors are
    those of `plot_gate_image`; the batch must not be empty.
    """
    where = "plot_gate_bands"
    layer = layer_of(where, trace)
    values, alive = gate_values(where, layer, gate), existing_steps(layer)
    if values.size == 0:
        raise OptionError(f"{where}: the batch must have at least one sequence; got gates of shape {values.shape}")
    # Steps that no sequence has lie at the end, where all are shorter than T.
    steps = np.flatnonzero(alive.any(axis=1))
    shares = (*OUTER, *INNER, 0.5)
    low, high, lower, upper, middle = np.array([np.quantile(values[t, alive[t]], shares) for t in steps]).T
    ax = axes_or_new(ax)
    for (bottom, top), colour, name in (((low, high), BANDS[0], "90 %"), ((lower, upper), BANDS[1], "50 %")):
        ax.fill_between(steps, bottom, top, color=colour, linewidth=0, label=name)
    ax.plot(steps, middle, color=COLOURS[0], linewidth=LINE, label="median")
    for threshold in (SHUT, OPEN):
        ax.axhline(threshold, color="0.4", linestyle=":", linewidth=1)
    name = NAMES.get(gate, f"gate {gate}")
    frame(ax, "step t", f"{name} (0 shut, 1 open)", f"{name} of {layer.name}, over units and sequences")
    ax.set_ylim(0, 1)
    ax.set_xlim(float(steps[0]), float(max(steps[-1], steps[0] + 1)))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=FONT, frameon=False)
    return ax
