"""The figure of `rnn-numpy train captions`: how the loss falls, and where the net looks, word by word."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.experiments.captions import CaptionResult
from rnn_numpy.report.plots import style
from rnn_numpy.report.plots.pairs import plot_learning
from rnn_numpy.report.plots.style import Axes, Figure
from rnn_numpy.tasks.digit_captions import CANVAS, CENTRES

PICTURES, WORDS = 6, 9


def caption_figure(result: CaptionResult) -> Figure:
    """Draw learning curves, and attention over some test pictures, word by word."""
    figure = style.new_figure(11.0, 7.6)
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 2.6))
    left, right = parts
    above, below = left.subplots(2, 1, height_ratios=(1.4, 1))
    plot_learning(result.run, above, "loss, nats a word")
    _shares(result, below)
    axes = right.subplots(PICTURES, WORDS + 1)
    longest = [n for n in range(len(result.alpha)) if len(result.said[n]) == WORDS]
    others = [n for n in range(len(result.alpha)) if n not in longest]
    for row, n in zip(axes, [*longest, *others][:PICTURES], strict=False):
        _picture(row[0], result.scenes.images[n])
        right_words = result.scenes.captions[n]
        for k, ax in enumerate(row[1:]):
            if k >= len(result.said[n]):
                ax.axis("off")
                continue
            word = result.said[n][k]
            is_right = k < len(right_words) and right_words[k] == word
            plot_glimpse(result.scenes.images[n], result.alpha[n][k], ax, word if is_right else f"{word} (wrong)")
    score = result.scores["net"]
    figure.suptitle(
        f"captions: {100 * score.digit_words:.1f} % of the digits of {len(result.scenes)} test pictures are named; "
        "attention of some",
        fontsize=12,
    )
    return figure


def plot_glimpse(image: ArrayLike, alpha: ArrayLike, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw the weights of 25 windows, (25,), over a picture, (30, 30): a square for each, the larger the more."""
    ax = style.axes_or_new(ax)
    _picture(ax, np.asarray(image))
    weights = np.asarray(alpha, np.float64)
    shown = weights > 0.01
    y, x = CENTRES[shown].T - 0.5
    ax.scatter(x, y, s=260 * weights[shown], c=style.COLOURS[1], alpha=0.55, linewidths=0, marker="s")
    if title:
        ax.set_title(title, fontsize=7, pad=2)
    return ax


def _picture(ax: Axes, image: Any) -> None:
    ax.imshow(image, cmap="Greys", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], xlim=(-0.5, CANVAS - 0.5), ylim=(CANVAS - 0.5, -0.5))


def _shares(result: CaptionResult, ax: Axes) -> None:
    """Draw what share of the digits each describer names."""
    names = {"most frequent caption": "most frequent", "nearest digit, told the layout": "nearest digit", "net": "net"}
    values = [100 * result.scores[name].digit_words for name in names]
    ax.barh(range(len(values)), values, color=[style.COLOURS[0]] * 2 + [style.COLOURS[1]])
    ax.set_yticks(range(len(values)), list(names.values()), fontsize=8)
    ax.invert_yaxis()
    style.frame(ax, "digits named, %", "", grid=False)
    ax.set_xlim(0, 100)
