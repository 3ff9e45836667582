"""The figure of `rnn-numpy train lm`: how the bits fall, beside the baselines, and what truncation cuts."""

from __future__ import annotations

import math

import numpy as np

from rnn_numpy.experiments.language import LanguageResult, Truncations
from rnn_numpy.report.language_page import net_name
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.style import Axes, Figure
from rnn_numpy.report.plots.training import plot_training
from rnn_numpy.training import History

BASELINE = "0.35"


def language_figure(result: LanguageResult) -> Figure:
    """Draw the learning curve with the baselines, and what truncation at K cuts."""
    figure = style.new_figure(11.5, 4.8)
    learning, cut = figure.subplots(1, 2, width_ratios=(1.25, 1))
    plot_bits(result, learning)
    plot_truncations(result.truncations, cut, marked=result.options.length)
    figure.suptitle(
        f"lm, {net_name(result.options)}: {result.bits:.2f} bits per character of the test part", fontsize=12
    )
    return figure


def plot_bits(result: LanguageResult, ax: Axes | None = None) -> Axes:
    """Draw the learning curve in bits per character; of the test part, the net's and, as lines, the baselines'."""
    ax = style.axes_or_new(ax)
    lines, learned = result.baselines, result.run.training.history
    # What is higher is drawn at the upper edge: a training that diverges must not decide the scale.
    best = result.run.best.best
    reached = np.minimum([result.bits, math.nan if best is None else best], math.log2(result.size))
    top = 0.2 + float(np.nanmax([*lines.values(), *reached]))
    checked = learned.validations
    history = History()
    history.load_state_dict(
        {
            **learned.state_dict(),
            "loss": np.minimum(learned["loss"] / math.log(2), top),
            "validations": {**checked, "value": np.minimum(checked["value"], top)},
        }
    )
    plot_training(history, ax, ylabel="bits per character")
    ax.plot(
        [result.run.best_update], [min(result.bits, top)], "s", color=style.COLOURS[2], markersize=8, clip_on=False,
        label=f"test: {result.bits:.3f}",
    )  # fmt: skip
    said = np.array([*lines.values(), result.bits, *history["loss"], *history.validations["value"]])
    ax.set_ylim(0.93 * said[np.isfinite(said)].min(), top)
    for number, bits in enumerate(lines.values()):
        label = None if number else "test, without a net"
        ax.axhline(bits, color=BASELINE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, label=label)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=style.FONT, frameon=False, borderaxespad=0)
    style.label_ends(ax, [(bits, f"{name} {bits:.2f}", BASELINE) for name, bits in lines.items()])
    return ax


def plot_truncations(cuts: Truncations, ax: Axes | None = None, *, marked: int | None = None) -> Axes:
    """Draw how far a gradient cut to K steps is from the whole one, relative to its norm; a line at K = `marked`."""
    ax = style.axes_or_new(ax)
    K = np.array(cuts.lengths)
    series = {"chunk": cuts.chunk, "window": cuts.window}
    texts = {"chunk": "cut at multiples of K, as in training", "window": "K steps back from each loss"}
    style.set_log(ax, *style.log_limits([value for values in series.values() for value in values if value > 1e-12]))
    for place, (name, values) in enumerate(series.items()):
        shown = np.where(np.array(values) > 1e-12, values, np.nan)
        look = style.line_look(2 - 2 * place, 0, 8)
        ax.plot(K, shown, color=style.COLOURS[place], label=texts[name], **look | {"markevery": 1})
    ax.set_xscale("log", base=2)
    ax.set_xlim(1 / 1.2, max([2, *K]) * 1.2)
    ax.set_xticks(K, labels=[f"{k}" for k in K])
    ax.minorticks_off()
    if marked is not None:
        ax.axvline(marked, color="0.35", linewidth=1.0, linestyle=(0, (1, 1.5)))
        ax.annotate(
            "training", (marked, ax.get_ylim()[1]), xytext=(-3, -2), textcoords="offset points", ha="right", va="top",
            fontsize=style.FONT, color="0.35",
        )  # fmt: skip
    style.frame(ax, "K, in characters", "$|G_K - G| \\; / \\; |G|$", "What truncation cuts off the gradient")
    ax.legend(frameon=False, fontsize=style.FONT, loc="lower left")
    return ax
