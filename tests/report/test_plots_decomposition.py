"""Figures of a gradient taken apart: what they draw, and that they leave matplotlib's global state alone."""

import io
import json
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from processes import ended

from rnn_numpy import LSTM, RNN
from rnn_numpy.errors import DTypeError, MissingExtraError, OptionError, ShapeError
from rnn_numpy.lab import decompose, state_jacobians
from rnn_numpy.report import plot_lag_profile, plot_norms, plot_shares, plot_singular_histogram
from rnn_numpy.report.plots.style import MISSING

T = 12


def recorded(layer, doutput=1.0, steps=T):
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(steps, 2, layer.input_size)))
    return layer, trace, np.full_like(output, doutput)


def drawn(figure):
    """Draw, so that whatever cannot be drawn is found, and return the texts of the axes' ticks."""
    FigureCanvasAgg(figure).draw()
    return [[label.get_text() for label in ax.get_yticklabels()] for ax in figure.axes]


def shown(ax):
    """Return the map of an axes as an array, NaN where it is masked."""
    return ax.images[0].get_array().filled(np.nan)


def pixels(ax):
    """Return the colours of a map, (T, T, 4), cell by cell."""
    (image,) = ax.images
    colours = image.to_rgba(image.get_array())
    colours[:, :, 3] *= image.get_alpha()
    return colours


def test_norms_are_those_of_the_table_on_a_log_scale():
    table = decompose(*recorded(RNN(2, 4, rng=0)))
    ax = Figure().subplots()
    assert plot_norms(table, "weight_ih_l0", ax) is ax
    norms, image = table.norms("weight_ih_l0"), shown(ax)
    below = np.tril(np.ones((T, T), bool))
    np.testing.assert_array_equal(image[below], norms[below])
    assert isinstance(ax.images[0].norm, LogNorm)
    np.testing.assert_array_equal(ax.images[0].get_alpha(), below)  # nothing is seen where there is no block
    assert ax.get_xlabel() == "step $k$ at which the parameter acts" and ax.get_ylabel() == "step $t$ of the loss"
    assert ax.get_title() == "size of $G(t, k)$, weight_ih_l0"
    assert ax.figure.axes[1].get_ylabel() == "norm of the block"
    # Row 0 on top, pixels centred on whole numbers.
    assert ax.get_ylim() == (T - 0.5, -0.5) and ax.get_xlim() == (-0.5, T - 0.5)
    ticks = drawn(ax.figure)[1]
    assert all(tick.startswith("$10^{") for tick in ticks) and len(ticks) > 1


def test_colours_reach_down_so_many_decades_and_zeros_are_grey():
    layer, trace, doutput = recorded(RNN(2, 4, rng=0))
    doutput[5] = 0
    table = decompose(layer, trace, doutput)
    ax = Figure().subplots()
    plot_norms(table, "weight_ih_l0", ax, decades=2)
    low, high = ax.images[0].get_clim()
    np.testing.assert_allclose(high / low, 100)
    assert ax.figure.axes[1].get_ylabel() == "norm of the block"
    below, colours = np.tril(np.ones((T, T), bool)), pixels(ax)
    grey = (colours == to_rgba(MISSING)).all(axis=2)
    assert np.flatnonzero(grey.any(axis=1)).tolist() == [5] and grey[5].sum() == 6
    assert ((colours[:, :, 3] == 1) == below).all() and (colours[~below][:, 3] == 0).all()
    drawn(ax.figure)


def test_a_reverse_direction_has_the_other_triangle():
    table = decompose(*recorded(RNN(2, 4, bidirectional=True, rng=0)))
    ax = Figure().subplots()
    plot_norms(table, "weight_ih_l0_reverse", ax)
    np.testing.assert_array_equal(ax.images[0].get_alpha(), np.triu(np.ones((T, T), bool)))


def test_shares_are_symmetric_about_white():
    table = decompose(*recorded(LSTM(2, 4, rng=0), steps=20))
    ax = Figure().subplots()
    assert plot_shares(table, "weight_hh_l0.f", ax) is ax
    shares = table.share("weight_hh_l0.f")
    np.testing.assert_array_equal(shown(ax)[np.tril_indices(20)], shares[np.tril_indices(20)])
    assert ax.images[-1].get_clim() == (-np.abs(shares).max(), np.abs(shares).max())
    red, _, blue, _ = ax.images[-1].cmap(1.0)
    assert red > blue  # along the gradient
    assert ax.figure.axes[1].get_ylabel() == "share of the gradient (all add up to 1)"
    drawn(ax.figure)


def test_lag_profiles_are_lines():
    profiles = {"one": 0.5 ** np.arange(20.0), "two": [1.0, 0.0, 0.25]}
    ax = Figure().subplots()
    assert plot_lag_profile(profiles, ax) is ax
    first, second = ax.lines
    np.testing.assert_array_equal(first.get_ydata(), profiles["one"])
    np.testing.assert_array_equal(second.get_ydata(), [1.0, np.nan, 0.25])
    assert first.get_color() != second.get_color() and first.get_marker() != second.get_marker()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "lag $t - k$, in steps"
    drawn(ax.figure)
    single = Figure().subplots()
    plot_lag_profile({"alone": [1.0]}, single)
    assert single.get_title() == "alone" and single.get_legend() is None
    drawn(single.figure)


def test_the_whole_float_range_can_be_drawn():
    layer = RNN(1, 1, nonlinearity="relu", rng=0)
    layer.params["weight_ih_l0"][...] = 1.0
    layer.params["weight_hh_l0"][...] = 1e-3
    table = decompose(*recorded(layer, steps=90))
    figure = Figure()
    for ax, decades in zip(figure.subplots(1, 2), (300.0, 5.0), strict=True):
        plot_norms(table, "bias_ih_l0", ax, decades=decades)
    drawn(figure)
    ax = Figure().subplots()
    plot_lag_profile({"all": [1e307, 1.0, 1e-307], "nothing": [0.0, 0.0], "too much": [np.inf]}, ax)
    drawn(ax.figure)


def test_nothing_but_zeros_still_makes_a_map():
    table = decompose(*recorded(RNN(2, 4, rng=0), doutput=0.0))
    ax = Figure().subplots()
    plot_norms(table, "weight_hh_l0", ax)
    assert (pixels(ax)[np.tril_indices(T)] == to_rgba(MISSING)).all()
    drawn(ax.figure)
    ax = Figure().subplots()
    plot_lag_profile({"zeros": np.zeros(5)}, ax)
    drawn(ax.figure)


@pytest.mark.parametrize("gain", [1.0, 1e-3])
def test_singular_values_are_counted_step_by_step(gain):
    layer = RNN(2, 6, rng=0)
    layer.params["weight_hh_l0"][...] *= gain
    steps = state_jacobians(*recorded(layer)[:2])
    ax = Figure().subplots()
    assert plot_singular_histogram(steps, ax, n=1, bins=15) is ax
    counts = ax.collections[0].get_array().filled(0)
    assert counts.shape == (15, T) and (counts.sum(axis=0) == 6).all() and ax.get_yscale() == "log"
    # The highest bin of each column that holds any is that of the largest singular value.
    edges = np.log10(ax.collections[0].get_coordinates()[:, 0, 1])
    highest = 14 - (counts[::-1] > 0).argmax(axis=0)
    largest = np.log10(steps.singular_values()[:, 1, 0])
    assert (edges[highest] <= largest + 1e-12).all() and (largest <= edges[highest + 1] + 1e-12).all()
    assert edges[0] < 0 < edges[-1]  # 1 is among them
    assert ax.get_xlabel() == "step $t$" and ax.get_ylabel() == "singular value of $J_t$"
    assert len([text for text in drawn(ax.figure)[0] if text]) >= 2


def test_singular_values_of_sequences_that_end_early():
    layer = RNN(2, 6, nonlinearity="relu", rng=0)
    layer.params["bias_ih_l0"][...] = -9.0  # all units are off: singular values of 0
    trace = layer.forward(np.zeros((T, 2, 2)), lengths=[T, 3])[2]
    ax = Figure().subplots()
    plot_singular_histogram(state_jacobians(layer, trace), ax, n=1)
    counts = ax.collections[0].get_array()
    assert (counts[:, :3] == 0).all() and not np.ma.is_masked(counts[:, :3])
    assert counts[:, 3:].mask.all()  # grey
    drawn(ax.figure)


def test_pyplot_is_not_touched():
    code = """
import json, sys
import numpy as np
from matplotlib.figure import Figure
from rnn_numpy import RNN
from rnn_numpy.lab import *
from rnn_numpy.report import *
import matplotlib
def settings():  # asking for the backend would choose one, with pyplot
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
rnn = RNN(1, 3, rng=0)
output, _, trace = rnn.forward(np.ones((9, 1, 1)))
table = decompose(rnn, trace, np.ones_like(output))
figure = Figure()
axes = figure.subplots(4)
plot_norms(table, "weight_hh_l0", axes[0])
plot_shares(table, "weight_hh_l0", axes[1])
plot_lag_profile({"W": table.lag_profile("weight_hh_l0")}, axes[2])
plot_singular_histogram(state_jacobians(rnn, trace), axes[3])
save_figure(figure, "/dev/null", ".svg")
print(json.dumps(["matplotlib.pyplot" in sys.modules, settings() == before]))
"""
    done = ended([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True]


def test_what_the_plots_refuse():
    table = decompose(*recorded(RNN(2, 4, rng=0)))
    nothing = decompose(*recorded(RNN(2, 4, rng=0), doutput=0.0))
    layer, trace, _ = recorded(RNN(2, 4, rng=0))
    steps = state_jacobians(layer, trace)
    ax = Figure().subplots()
    for error, message, call in [
        (
            OptionError,
            "plot_shares: the gradient of 'bias_hh_l0' is 0 or not finite, so no block has a share in it",
            lambda: plot_shares(nothing, "bias_hh_l0", ax),
        ),
        (
            OptionError,
            "plot_norms: decades must be greater than 0; got 0.0",
            lambda: plot_norms(table, "bias_hh_l0", ax, decades=0),
        ),
        (
            DTypeError,
            "plot_singular_histogram: bins must be an integer; got float 1.5",
            lambda: plot_singular_histogram(steps, ax, bins=1.5),
        ),
        (
            OptionError,
            "plot_singular_histogram: n must be in [0, N) = [0, 2); got 2",
            lambda: plot_singular_histogram(steps, ax, n=2),
        ),
        (OptionError, "plot_lag_profile: profiles must be at least one; got none", lambda: plot_lag_profile({}, ax)),
        (
            ShapeError,
            "plot_lag_profile: profiles['a'] must have shape (T,); got (2, 2)",
            lambda: plot_lag_profile({"a": np.eye(2)}, ax),
        ),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == message
    with pytest.raises(OptionError, match="Decomposition.norms: name must be one of 'weight_ih_l0'"):
        plot_norms(table, "W", ax)


def test_missing_matplotlib_is_said(monkeypatch):
    table = decompose(*recorded(RNN(2, 4, rng=0)))
    ax = Figure().subplots()
    monkeypatch.setitem(sys.modules, "matplotlib.colors", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="a figure needs matplotlib"):
        plot_norms(table, "weight_hh_l0", ax)


def test_figures_can_be_saved():
    table = decompose(*recorded(RNN(2, 4, rng=0)))
    figure, file = Figure(), io.BytesIO()
    plot_norms(table, "weight_hh_l0", figure.subplots())
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
