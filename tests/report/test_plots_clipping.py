"""Figures of clipping: the ledger of a run, and how far each rule turns a gradient."""

import math

import numpy as np
import pytest
from figures import assert_readable
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from rnn_numpy import Parameters, clip_grad_norm, clip_grad_value
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.report import plot_clip_directions, plot_clip_ledger
from rnn_numpy.training import ClipLedger, ClipResult


def clipped(values, limit=1.0, rule=clip_grad_norm):
    grads = Parameters({"w": (len(values),)}, np.float64, np.array(values, np.float64))
    return rule(grads, limit, on_nonfinite="skip")


def filled(vectors, limit=1.0, rule=clip_grad_norm):
    ledger = ClipLedger()
    for values in vectors:
        ledger.record(clipped(values, limit, rule))
    return ledger


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_norms_before_and_after_the_limit_and_what_was_cut_off():
    ledger = filled([[0.5], [3.0, 4.0], [math.nan], [0.0], [20.0], [0.25]])
    ax = Figure(layout="constrained").subplots()
    assert plot_clip_ledger(ledger, ax) is ax
    np.testing.assert_array_equal(line(ax, "norm before").get_ydata(), [0.5, 5, math.nan, math.nan, 20, 0.25])
    np.testing.assert_array_equal(line(ax, "norm after").get_ydata(), [0.5, 1, math.nan, math.nan, 1, 0.25])
    np.testing.assert_array_equal(line(ax, "norm after").get_xdata(), [1, 2, 3, 4, 5, 6])
    (cut,) = ax.collections
    segments = [segment.tolist() for segment in cut.get_segments()]
    assert segments == [[[2, 1], [2, 5]], [[5, 1], [5, 20]]]
    assert line(ax, "limit 1").get_ydata() == [1, 1]
    skipped = line(ax, "skipped: not finite")
    assert skipped.get_xdata().tolist() == [3] and skipped.get_marker() == "x"
    assert ax.get_yscale() == "log" and ax.get_xlim() == (0.5, 6.5)
    assert ax.get_title() == "clipping engaged at 40 % of 5 updates, 1 skipped"
    assert len({to_rgba(line(ax, f"norm {when}").get_color()) for when in ("before", "after")}) == 2
    low, high = ax.get_ylim()
    assert low < 0.25 and high > 20
    assert_readable(plot_clip_ledger(ledger).figure)


def test_a_limit_is_found_only_where_there_is_one_of_the_norm():
    by_value = filled([[3.0, 0.1], [0.1, 3.0]], rule=clip_grad_value)
    assert {result.norm_after for result in by_value.results} == {math.hypot(1, 0.1)}  # the same, but turned
    assert labels(plot_clip_ledger(by_value)) == ["cut off", "norm before", "norm after"]
    assert labels(plot_clip_ledger(filled([[0.5]]))) == ["norm before", "norm after"]
    two = filled([[3.0]])
    two.record(clipped([3.0], 2.0))
    assert "limit" not in " ".join(labels(plot_clip_ledger(two)))
    ax = plot_clip_ledger(by_value, limit=1e4)
    assert line(ax, "limit 1e+04").get_ydata() == [1e4, 1e4] and ax.get_ylim()[1] > 1e4


def test_norms_that_no_axis_can_show():
    ledger = filled([[1.0], [1.7e308, 1.7e308], [1e-320]])
    ax = plot_clip_ledger(ledger)
    huge = line(ax, "too large for a float")
    assert huge.get_xdata().tolist() == [2] and huge.get_marker() == "^"
    np.testing.assert_array_equal(line(ax, "norm after").get_ydata(), [1, 1, 1e-320])
    assert ax.collections[0].get_segments()[0].tolist() == [[2, 1], [2, ax.get_ylim()[1]]]
    assert_readable(ax.figure)


def test_nothing_but_skipped_updates():
    ax = plot_clip_ledger(filled([[math.inf], [math.nan]]))
    assert ax.get_title() == "no finite gradient in 2 updates" and not ax.collections
    assert line(ax, "skipped: not finite").get_xdata().tolist() == [1, 2]
    assert all(tick == round(tick) for tick in ax.get_xticks())  # there is no update 1.5
    assert_readable(ax.figure)


def test_long_runs_have_no_markers():
    short, long = (plot_clip_ledger(filled([[1.0]] * n)) for n in (60, 61))
    assert line(short, "norm after").get_marker() == "o" and line(long, "norm after").get_marker() == "None"


def test_directions_are_lines_from_weak_to_strong():
    gradient, limits = [3.0, 0.3, 0.1], [0.1, 10.0, 1.0, 0.2]
    results = {
        "norm": [clipped(gradient, limit) for limit in limits],
        "value": [clipped(gradient, limit, clip_grad_value) for limit in limits],
        "skipped": [clipped([math.nan]), clipped([2.0])],
    }
    ax = Figure(layout="constrained").subplots()
    assert plot_clip_directions(results, ax) is ax
    np.testing.assert_allclose(line(ax, "norm").get_ydata(), 1, rtol=1e-15)
    by_value = line(ax, "value")
    assert (np.diff(by_value.get_xdata()) < 0).all() and (np.diff(by_value.get_ydata()) < 0).all()
    signs = 3.4 / math.sqrt(3) / math.sqrt(9.1)  # where all entries are cut to the limit
    np.testing.assert_allclose(by_value.get_ydata()[[0, -1]], [1, signs], rtol=1e-14)
    assert line(ax, "skipped").get_xdata().tolist() == [0.5]
    left, right = ax.get_xlim()
    assert left > 1 > results["norm"][0].factor > right and ax.get_xscale() == "log"
    assert ax.get_ylim()[0] < 0 and labels(ax) == ["norm", "value", "skipped"]
    assert_readable(plot_clip_directions(results).figure)


def test_a_gradient_that_was_turned_around_is_seen():
    ax = plot_clip_directions({"of my own": [ClipResult(1.0, 1.0, True, 1.0, -0.9)]})
    assert ax.get_ylim()[0] < -0.9


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_clip_ledger([]), DTypeError, "plot_clip_ledger: ledger must be a ClipLedger; got list"),
        (
            lambda: plot_clip_ledger(ClipLedger()),
            OptionError,
            "plot_clip_ledger: ledger must have at least one update; got none",
        ),
        (
            lambda: plot_clip_ledger(filled([[1.0]]), limit=0.0),
            OptionError,
            "plot_clip_ledger: limit must be greater than 0; got 0.0",
        ),
        (
            lambda: plot_clip_directions({}),
            OptionError,
            "plot_clip_directions: results must have at least one rule; got none",
        ),
        (
            lambda: plot_clip_directions({"norm": [0.5]}),
            DTypeError,
            "plot_clip_directions: results['norm'] must be a list of ClipResult; it holds float",
        ),
        (
            lambda: plot_clip_directions({"norm": [clipped([math.nan])]}),
            OptionError,
            "plot_clip_directions: results['norm'] must have a result that was not skipped; got none",
        ),
    ],
)
def test_what_the_figures_refuse(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
