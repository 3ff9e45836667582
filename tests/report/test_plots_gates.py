"""Figures of gates over time: the numbers that they show, and that they can be read."""

from __future__ import annotations

import numpy as np
import pytest
from figures import assert_readable
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.report import plot_gate_bands, plot_gate_image

LENGTHS = [9, 14, 5]


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(3)
    return LSTM(2, 6, rng=rng).forward(rng.normal(size=(15, 3, 2)), lengths=LENGTHS)[2]


def test_an_image_shows_every_unit_sorted_by_its_mean(trace):
    ax = Figure(layout="constrained").subplots()
    assert plot_gate_image(trace, "f", sequence=1, ax=ax) is ax
    shown = ax.images[0].get_array()
    assert shown.shape == (6, 15)
    own = trace.f[:14, 1]
    np.testing.assert_array_equal(shown[:, :14].filled(-1), own[:, np.argsort(own.mean(axis=0))].T)
    assert (np.diff(shown[:, :14].mean(axis=1)) >= 0).all()
    # The step that the sequence does not have is grey, not shut.
    assert np.ma.getmaskarray(shown)[:, 14].all() and not np.ma.getmaskarray(shown)[:, :14].any()
    assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (0, 1)
    assert (ax.get_xlabel(), ax.get_title()) == ("step t", "forget gate f of l0, sequence 1")
    assert ax.figure.axes[1].get_ylabel() == "forget gate f (0 shut, 1 open)"
    assert [f"{tick:g}" for tick in ax.figure.axes[1].get_yticks()] == ["0", "0.1", "0.5", "0.9", "1"]
    assert_readable(ax.figure)
    assert all(float(tick).is_integer() for tick in [*ax.get_xticks(), *ax.get_yticks()])


def test_bands_are_quantiles_over_units_and_the_sequences_that_there_are(trace):
    ax = plot_gate_bands(trace["l0"], "f")
    median = next(line for line in ax.lines if line.get_label() == "median")
    np.testing.assert_array_equal(median.get_xdata(), np.arange(14))  # step 14 belongs to nobody
    for t, found in enumerate(median.get_ydata()):
        values = np.concatenate([trace.f[t, n] for n, length in enumerate(LENGTHS) if t < length])
        np.testing.assert_allclose(found, np.median(values), rtol=1e-14)
    outer, inner = ax.collections
    for band, shares in ((outer, (0.05, 0.95)), (inner, (0.25, 0.75))):
        heights = band.get_paths()[0].vertices
        values = np.concatenate([trace.f[6, n] for n in (0, 1)])
        at_6 = np.sort(np.unique(heights[heights[:, 0] == 6, 1]))
        np.testing.assert_allclose(at_6, np.quantile(values, shares), rtol=1e-14)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["90 %", "50 %", "median"]
    assert ax.get_ylim() == (0, 1)
    assert_readable(ax.figure)
    assert {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"} == {0.1, 0.9}


def test_other_gates_and_layers():
    x = np.random.default_rng(0).normal(size=(8, 2, 2)).astype(np.float32)
    trace = GRU(2, 4, num_layers=2, bidirectional=True, dtype=np.float32, rng=0).forward(x)[2]
    ax = plot_gate_image(trace["l0_reverse"], "z")
    assert ax.get_title() == "update gate z of l0_reverse, sequence 0"
    assert plot_gate_bands(trace, "r").get_title() == "reset gate r of l1, over units and sequences"
    one = LSTM(1, 1, rng=0).forward(np.zeros((1, 1, 1)))[2]
    for draw in (plot_gate_image, plot_gate_bands):
        FigureCanvasAgg(draw(one, "o").figure).draw()


def test_what_the_figures_refuse(trace):
    with pytest.raises(OptionError, match=r"plot_gate_image: sequence must be in \[0, N\) = \[0, 3\); got 3"):
        plot_gate_image(trace, "f", sequence=3)
    with pytest.raises(OptionError, match=r"plot_gate_bands: gates must be arrays of the trace, .*; got 'z'"):
        plot_gate_bands(trace, "z")
    with pytest.raises(OptionError, match=r"plot_gate_image: a gate has values in \[0, 1\]; 'h' of l0 has others"):
        plot_gate_image(RNN(2, 3, rng=0).forward(np.ones((4, 1, 2)))[2], "h")
    with pytest.raises(DTypeError, match=r"plot_gate_bands: trace must be a Trace or a LayerTrace"):
        plot_gate_bands(None, "f")
    with pytest.raises(OptionError, match=r"plot_gate_bands: the batch must have at least one sequence"):
        plot_gate_bands(LSTM(2, 3, rng=0).forward(np.zeros((4, 0, 2)))[2], "f")
