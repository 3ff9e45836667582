"""The learning curve: what is drawn is what the history says, and it can be read."""

import math

import numpy as np
import pytest
from figures import assert_readable
from messages import assert_raises

from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.report import plot_training, training_figure
from rnn_numpy.training import History


def filled(losses, validations=(), lr=0.01):
    history = History()
    for number, loss in enumerate(losses, 1):
        history.add(update=number, epoch=1, loss=loss, count=1, lr=lr / number, norm=math.nan, seconds=0.1)
    for number, value in validations:
        history.add_validation(number, value)
    return history


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_short_training_is_drawn_as_it_is():
    history = filled([3.0, 2.0, math.nan, 1.5], [(2, 2.5), (4, 1.75), (6, math.inf)])
    ax = plot_training(history, ylabel="loss, nats")
    found = line(ax, "training")
    assert found.get_xdata().tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(found.get_ydata(), [3.0, 2.0, math.nan, 1.5])
    np.testing.assert_array_equal(line(ax, "validation").get_ydata(), [2.5, 1.75, math.nan])
    assert line(ax, "best: 1.75 after 4").get_xdata().tolist() == [4]
    assert line(ax, "not finite").get_xdata().tolist() == [3]
    assert ax.get_yscale() == "linear" and ax.get_ylabel() == "loss, nats" and ax.get_xlim() == (0.5, 4.5)
    assert not ax.collections
    assert "best: 2.5 after 2" in labels(plot_training(history, mode="max"))


def test_a_long_training_is_the_mean_of_blocks_in_a_band():
    losses = np.linspace(2.0, 1.0, 1001)
    losses[10:17] = math.nan
    ax = plot_training(filled(losses))
    found = line(ax, "training, mean of 7 updates")
    blocks = [losses[start : start + 7] for start in range(0, 1001, 7)]
    there = [block[~np.isnan(block)] for block in blocks]
    np.testing.assert_allclose(found.get_ydata(), [block.mean() for block in there], rtol=1e-14)
    np.testing.assert_allclose(found.get_xdata(), np.arange(143) * 7 + 4)
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == 1.0 and heights.max() == 2.0
    assert labels(ax) == ["training, mean of 7 updates", "not finite"]


def test_more_than_a_decade_is_a_log_scale():
    assert plot_training(filled([1.0, 0.05])).get_yscale() == "log"
    assert plot_training(filled([1.0, 0.2])).get_yscale() == "linear"
    assert plot_training(filled([1.0, 0.0])).get_yscale() == "linear"
    assert plot_training(filled([1.0, -0.05])).get_yscale() == "linear"
    assert plot_training(filled([0.5, 0.4], [(1, 0.02)])).get_yscale() == "log"


def test_a_figure_has_the_learning_rate_below():
    figure = training_figure(filled([3.0, 2.5, 1.5], [(3, 2.0)]))
    above, below = figure.axes
    assert below.lines[0].get_ydata().tolist() == [0.01, 0.005, 0.01 / 3]
    assert below.get_ylim()[0] == 0 and below.get_ylim()[1] > 0.01
    assert above.get_xlim() == below.get_xlim() and below.get_ylabel() == "learning rate"


EXTREMES = {
    "one": filled([2.0]),
    "none finite": filled([math.nan, math.inf], [(2, math.nan)]),
    "huge": filled([1e300, 1e-300], [(1, 1e308)]),
    "rate of zero": filled([2.0, 1.0], lr=0.0),
    "long": filled(np.exp(-np.arange(4000) / 500), [(k, 2.0 / k) for k in range(100, 4001, 100)]),
}


@pytest.mark.parametrize("kind", EXTREMES)
def test_what_is_odd_can_be_read_too(kind):
    assert_readable(training_figure(EXTREMES[kind]))


def test_what_is_no_history_is_refused():
    message = "plot_training: history must be a History, as training.history is; got list"
    assert_raises(DTypeError, message, lambda: plot_training([1.0]))
    message = "plot_training: history must have at least one update; got none"
    assert_raises(OptionError, message, lambda: training_figure(History()))
    message = "plot_training: mode must be one of 'min', 'max'; got 'low'"
    assert_raises(OptionError, message, lambda: plot_training(filled([1.0]), mode="low"))
