"""Figures: what they draw, that it can be read, and that they leave matplotlib's global state alone."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from processes import ended

from rnn_numpy.errors import MissingExtraError, OptionError
from rnn_numpy.experiments import GradflowOptions, GradflowResult, NetworkResult
from rnn_numpy.lab import GradientFlow
from rnn_numpy.report import gradient_flow_figure, plot_gradient_flow, save_figure
from rnn_numpy.report.plots.gradient_flow import common_limits
from rnn_numpy.report.plots.style import COLOURS, STYLES, spread
from rnn_numpy.tasks import ForecastTask, Series

LENGTH = 100
CELLS = ("rnn-tanh", "rnn-relu", "lstm", "gru")


def decay(rate: float, length: int = LENGTH) -> GradientFlow:
    return GradientFlow(np.exp(rate * np.arange(length + 1.0))[:, None], 1.0)


def result(gains: list[float], cells: tuple[str, ...] = CELLS, trained: bool = True) -> GradflowResult:
    """Made-up flows that lie close to each other at the end, the hard case for labels."""
    series = Series("wave", np.sin(np.arange(300.0))[:, None], ("a",), "a sine")
    networks = [
        NetworkResult(cell, gain, decay(0.01 * gain - 0.3), 1.0, *((decay(-0.3), 0.5) if trained else ()))
        for cell in cells
        for gain in gains
    ]
    options = GradflowOptions(cells=cells, gains=gains, length=LENGTH, seeds=1)
    return GradflowResult(ForecastTask.of(series, LENGTH), options, 1.0, networks)


def drawn_texts(figure: Figure) -> list[Any]:
    return [text for ax in figure.axes for text in ax.texts] + list(figure.texts)


def test_one_line_per_network_on_a_log_axis() -> None:
    flows = [decay(-0.1), decay(0.0), decay(0.1)]
    ax = Figure().subplots()
    assert plot_gradient_flow(flows, ["rnn-tanh"] * 3, [0.5, 1.0, 1.5], ax) is ax
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert ax.get_xlabel() == "lag: steps back in time from the loss"
    assert ax.get_ylabel() == "norm of the state's gradient"
    curves = [line for line in ax.lines if len(line.get_xdata()) == LENGTH + 1]
    assert len(curves) == 3
    for curve, flow in zip(curves, flows, strict=True):
        np.testing.assert_array_equal(curve.get_xdata(), np.arange(LENGTH + 1))
        np.testing.assert_array_equal(curve.get_ydata(), flow.typical)
    low, high = ax.get_ylim()
    assert low < flows[0].typical[-1] and high > flows[2].typical[-1]


def test_colour_tells_the_cell_and_style_the_gain() -> None:
    cells, gains = ("rnn-tanh", "rnn-relu"), [1.5, 0.5]
    pairs = list(itertools.product(cells, gains))
    ax = Figure().subplots()
    plot_gradient_flow([decay(-0.1)] * 4, [cell for cell, _ in pairs], [gain for _, gain in pairs], ax)
    curves = [line for line in ax.lines if len(line.get_xdata()) == LENGTH + 1]
    assert [curve.get_color() for curve in curves] == [COLOURS[0]] * 2 + [COLOURS[1]] * 2
    assert [curve.get_marker() for curve in curves] == ["s", "o", "s", "o"]  # the smaller gain has the first style
    assert len({str(style) for style, _ in STYLES}) == len({marker for _, marker in STYLES}) == len(STYLES)
    assert [text.get_text() for text in ax.texts] == [f"{cell} {gain:g}" for cell, gain in pairs]


def test_a_cell_has_its_colour_whatever_it_is_drawn_with() -> None:
    found = {}
    for cells in (CELLS, CELLS[::-1], ("gru",), ("lstm",)):
        ax = Figure().subplots()
        plot_gradient_flow([decay(-0.1)] * len(cells), cells, [1.0] * len(cells), ax)
        curves = [line for line in ax.lines if len(line.get_xdata()) == LENGTH + 1]
        for cell, curve in zip(cells, curves, strict=True):
            assert found.setdefault(cell, curve.get_color()) == curve.get_color()
    assert len(set(found.values())) == 4 and set(found.values()) <= set(COLOURS)
    ax = Figure().subplots()
    plot_gradient_flow([decay(-0.1)], ["of my own"], [1.0], ax)  # any name will do
    assert ax.lines[0].get_color() not in found.values()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("cells", [("lstm",), ("rnn-relu", "gru"), CELLS], ids=["1", "2", "4"])
@pytest.mark.parametrize(
    "gains", [[1.0], [0.5, 1.0, 1.5], [0.25, 0.5, 0.8, 1.0, 1.25, 1.5], [1.0, 1.00000001]], ids=["1", "3", "6", "long"]
)
def test_labels_neither_overlap_nor_leave_the_figure(gains: list[float], cells: tuple[str, ...], trained: bool) -> None:
    figure = gradient_flow_figure(result(gains, cells, trained))
    assert len(figure.axes) == len(cells) * (1 + trained)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in figure.axes:
        labels = [text for text in ax.texts if text.get_text().startswith("gain ")]
        assert {text.get_text() for text in labels} == {f"gain {gain:.9g}" for gain in gains}
        boxes = [text.get_window_extent(renderer) for text in labels]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        others = [other.get_tightbbox(renderer) for other in figure.axes if other is not ax]
        for box in boxes:
            assert box.x0 > ax.get_window_extent(renderer).x1
            assert not any(box.overlaps(other.padded(-1)) for other in others if other.x0 > box.x0)
    width, height = figure.canvas.get_width_height(physical=True)
    for text in drawn_texts(figure):
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()


def test_leaders_of_labels_stay_outside_of_the_axes() -> None:
    norms = np.array([1.0, 0.1, 0.01, 0.0, 0.0])[:, None]
    ax = Figure().subplots()
    plot_gradient_flow([GradientFlow(norms, 1.0), decay(0.0, 4)], ["rnn-relu"] * 2, [1.0, 1.00000001], ax)
    leaders = [line for line in ax.lines if line.get_transform() is ax.transAxes]
    assert [list(line.get_xdata()) for line in leaders] == [[1.0, 1.04]] * 2
    assert [text.get_text() for text in ax.texts] == ["gain 1 → 0", "gain 1.00000001"]


def test_panels_share_their_limits_and_say_what_they_are() -> None:
    figure = gradient_flow_figure(result([0.5, 1.0]))
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1
    assert [ax.get_title() for ax in figure.axes] == [
        f"{cell}, {when}" for when in ("before training", "after 100 training steps") for cell in CELLS
    ]
    # Axes are named once: times below the lower row, norms left of each.
    assert [bool(ax.get_xlabel()) for ax in figure.axes] == [False] * 4 + [True] * 4
    assert [bool(ax.get_ylabel()) for ax in figure.axes] == [True, False, False, False] * 2
    assert figure.texts[-1].get_text() == (
        "wave: a sine.\nGeometric mean of the windows' norms of dL/dh (of lstm: dL/dh and dL/dc together), L the error "
        "at the last step. Gain: spectral radius of W_hh at the start (of lstm and gru: of each gate's block)."
    )


def test_each_panel_shows_the_networks_of_its_cell() -> None:
    run = result([0.5, 1.0], ("rnn-tanh", "lstm"))
    for ax, cell, when in zip(
        gradient_flow_figure(run).axes, ["rnn-tanh", "lstm"] * 2, ["before"] * 2 + ["after"] * 2, strict=True
    ):
        curves = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == LENGTH + 1]
        expected = [getattr(network, when).typical for network in run.networks if network.cell == cell]
        np.testing.assert_array_equal(curves, expected)


def test_draws_of_a_network_are_one_line_in_a_band() -> None:
    run = result([0.5], ("rnn-tanh",))
    draws = [
        NetworkResult("rnn-tanh", 0.5, decay(rate), 1.0, decay(rate), 1.0, seed=seed)
        for seed, rate in enumerate((-0.5, -0.1, -0.2, -0.4))
    ]
    several = dataclasses.replace(run, networks=draws, options=dataclasses.replace(run.options, seeds=4))
    figure = gradient_flow_figure(several)
    for ax in figure.axes:
        line, (band,) = ax.lines[0], ax.collections
        np.testing.assert_allclose(line.get_ydata(), np.exp(-0.3 * np.arange(LENGTH + 1.0)), rtol=1e-12)
        edges = band.get_paths()[0].vertices[:, 1]
        low, high = (draws[number].before.typical[-1] for number in (0, 1))
        assert edges.min() == pytest.approx(low) and high in edges and edges.max() == 1
    note = " ".join(figure.texts[-1].get_text().split())
    assert note.endswith("Lines: the median of 4 draws; bands: all of them.")


def test_a_network_of_which_half_of_the_draws_end_at_zero_ends_there() -> None:
    dead = np.ones((5, 1))
    dead[3:] = 0.0
    ax = Figure().subplots()
    plot_gradient_flow([GradientFlow(dead, 1.0), decay(0.0, 4)], ["gru"] * 2, [1.0] * 2, ax)
    curve, cross = ax.lines[:2]
    assert len(curve.get_ydata()) == 3 and cross.get_marker() == "X"


def test_notes_name_what_is_there() -> None:
    plain = " ".join(gradient_flow_figure(result([1.0], ("rnn-tanh",))).texts[-1].get_text().split())
    assert plain.endswith("of dL/dh, L the error at the last step. Gain: spectral radius of W_hh at the start.")
    run = result([1.0], ("lstm",))
    dead = NetworkResult("lstm", 1.0, GradientFlow(np.array([[1.0], [0.0]]), 1.0), 1.0)
    opened = GradflowResult(run.task, dataclasses.replace(run.options, forget_bias=1.0), 1.0, [dead])
    note = " ".join(gradient_flow_figure(opened).texts[-1].get_text().split())
    assert note.endswith("block). Forget bias of lstm: 1. A cross: exactly 0, or infinite, from there on.")


def test_a_gradient_that_is_zero_ends_its_line_in_a_cross() -> None:
    norms = np.array([1.0, 0.1, 0.01, 0.0, 0.0])[:, None]
    ax = Figure().subplots()
    plot_gradient_flow([GradientFlow(norms, 1.0), decay(0.0, 4)], ["rnn-relu"] * 2, [0.5, 1.0], ax)
    curve, cross = ax.lines[:2]
    np.testing.assert_allclose(curve.get_ydata(), norms[:3, 0], rtol=1e-14)
    assert (cross.get_marker(), list(cross.get_xdata())) == ("X", [2])
    assert cross.get_ydata()[0] == curve.get_ydata()[-1]
    assert [text.get_text() for text in ax.texts] == ["gain 0.5 → 0", "gain 1"]


def test_nothing_but_zeros_or_infinities_still_makes_a_figure() -> None:
    dead, burst = GradientFlow(np.zeros((5, 1)), 1.0), GradientFlow(np.full((5, 1), np.inf), 1.0)
    ax = Figure().subplots()
    plot_gradient_flow([dead, burst], ["rnn-relu"] * 2, [0.5, 1.0], ax)
    assert [text.get_text() for text in ax.texts] == ["gain 0.5 → 0", "gain 1 → ∞"]
    FigureCanvasAgg(ax.get_figure()).draw()


def test_the_whole_float_range_can_be_drawn() -> None:
    norms = np.array([1e-307, 1.0, 1e308])[:, None]
    figure = Figure()
    plot_gradient_flow([GradientFlow(norms, 1.0)], ["rnn-relu"], [0.5], figure.subplots())
    file = io.BytesIO()
    save_figure(figure, file, ".png")
    assert file.getvalue()


def test_limits() -> None:
    low, high = common_limits([decay(0.0)])
    np.testing.assert_allclose([low, high], [0.1, 10.0], rtol=1e-12)
    low, high = common_limits([decay(-1.0), decay(0.5)])
    assert low < np.exp(-100) < np.exp(50) < high


def test_the_same_figure_gives_the_same_bytes() -> None:
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        written = []
        for _ in range(2):
            file = io.BytesIO()
            save_figure(gradient_flow_figure(result([0.5])), file, suffix)
            written.append(file.getvalue())
        assert written[0] == written[1]
        assert written[0].startswith(start)


def test_pyplot_is_not_touched() -> None:
    code = """
import json, sys
import numpy as np
from rnn_numpy.experiments import *
from rnn_numpy.lab import *
from rnn_numpy.report import *
from rnn_numpy.tasks import ForecastTask, Series
import matplotlib
def settings():  # asking for the backend would choose one, with pyplot
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
series = Series("wave", np.sin(np.arange(60.0))[:, None], ("a",))
result = run_gradflow(ForecastTask.of(series, 20), GradflowOptions(length=20, hidden=4, train_steps=1))
save_figure(gradient_flow_figure(result), "/dev/null", ".svg")
print(json.dumps(["matplotlib.pyplot" in sys.modules, settings() == before]))
"""
    done = ended([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True]


def test_what_the_plots_refuse() -> None:
    ax = Figure().subplots()
    for flows, cells in (([], []), ([decay(0.0)], [])):
        with pytest.raises(
            OptionError, match="plot_gradient_flow: flows, cells and gains must be as many, at least one"
        ):
            plot_gradient_flow(flows, cells, [], ax)
    with pytest.raises(OptionError, match=r"save_figure: suffix must be one of '\.png', '\.pdf', '\.svg'; got '\.gif'"):
        save_figure(Figure(), io.BytesIO(), ".gif")


def test_missing_matplotlib_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run = result([0.5])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError) as caught:
        gradient_flow_figure(run)
    assert str(caught.value) == (
        'a figure needs matplotlib, which is not installed; install it with: pip install "rnn_numpy[lab]"'
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=14), st.floats(0.01, 0.3))
def test_spread_keeps_order_gap_and_bounds(positions: list[float], gap: float) -> None:
    moved = spread(positions, gap, 0.0, 1.0)
    order = np.argsort(positions, kind="stable")
    room = min(gap, 1 / max(len(positions) - 1, 1))
    slack = 8 * np.finfo(float).eps  # of numbers up to 1
    assert (np.diff(moved[order]) >= room - slack).all()
    assert moved.min() >= -slack and moved.max() <= 1 + slack


def test_spread_leaves_alone_what_is_far_apart() -> None:
    np.testing.assert_allclose(spread([0.9, 0.1, 0.5], 0.3, 0.0, 1.0), [0.9, 0.1, 0.5], rtol=1e-14)
    np.testing.assert_allclose(spread([0.5, 0.5, 0.5], 0.1, 0.0, 1.0), [0.4, 0.5, 0.6], rtol=1e-14)
    np.testing.assert_allclose(spread([1.0, 1.0], 0.25, 0.0, 1.0), [0.75, 1.0], rtol=1e-14)
