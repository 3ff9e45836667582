"""Figures of the one-unit net: what they draw, where, and that it can be read."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from figures import assert_readable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from rnn_numpy.errors import MissingExtraError, OptionError
from rnn_numpy.lab import bifurcation, cliff, cliff_line, descend, fold_points
from rnn_numpy.report import plot_bifurcation, plot_cliff

W, B = np.linspace(2, 8, 61), np.linspace(-3.5, 0, 36)


@pytest.fixture(scope="module")
def grid():
    return cliff(W, B)


@pytest.mark.parametrize("show", ["error", "gradient"])
def test_a_map_shows_the_grid_on_a_log_scale(grid, show):
    ax = Figure(layout="constrained").subplots()
    assert plot_cliff(grid, ax, show=show) is ax
    image = ax.images[0]
    assert isinstance(image.norm, LogNorm)
    np.testing.assert_array_equal(image.get_array(), grid.error if show == "error" else grid.gradient_norm)
    assert image.get_extent() == pytest.approx((1.95, 8.05, -3.55, 0.05), rel=1e-9)
    assert image.origin == "lower"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("recurrent weight w", "bias b")
    bar = ax.figure.axes[1]
    assert (
        bar.get_ylabel()
        == {
            "error": "error E after 50 steps (log scale)",
            "gradient": "length of the gradient (dE/dw, dE/db) (log scale)",
        }[show]
    )
    assert_readable(ax.figure)


def test_guides_are_the_folds_and_the_cliff(grid):
    ax = plot_cliff(grid)
    low, high, line = ax.lines
    w = low.get_xdata()
    np.testing.assert_array_equal(low.get_ydata(), fold_points(w)[0])
    np.testing.assert_array_equal(high.get_ydata(), fold_points(w)[1])
    drawn = np.isfinite(line.get_ydata())
    np.testing.assert_array_equal(line.get_ydata()[drawn], cliff_line(w)[drawn])
    assert 4.0 < w[drawn].min() < 4.3 and w[drawn].max() == w[-1]
    assert len(ax.get_legend().get_texts()) == 2
    assert len(plot_cliff(grid, guides=False).lines) == 0
    assert plot_cliff(grid, guides=False).get_legend() is None


def test_descents_are_drawn_and_named(grid):
    found = {"free": descend(5.0, -2.3, 0.1, 60), "clipped": descend(5.0, -2.3, 0.1, 60, clip=0.5)}
    assert not (found["free"].path[-1] < 0).all() and found["free"].path[-1][1] > 0
    ax = plot_cliff(grid, descents=found, guides=False)
    for name, descent in found.items():
        lines = [line for line in ax.lines if len(line.get_xdata()) == 61 and line.get_marker() != "None"]
        line = next(line for line in lines if line.get_label().startswith(name))
        np.testing.assert_array_equal(line.get_xydata(), descent.path)
    ends = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "*"]
    assert ends == [tuple(descent.path[-1]) for descent in found.values()]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    outside = next(i for i, (_, b) in enumerate(found["free"].path) if b > 0.05)
    assert labels == [f"free, leaves the map at update {outside}", "clipped"]
    # The map stays as large as the grid, whatever leaves it.
    assert (ax.get_xlim(), ax.get_ylim()) == (pytest.approx((1.95, 8.05)), pytest.approx((-3.55, 0.05)))
    assert_readable(plot_cliff(grid, descents=found).figure)


def test_stable_points_are_full_lines_and_unstable_ones_dashed():
    diagram = bifurcation(5.0, np.linspace(-3.5, -1.5, 101))
    ax = Figure(layout="constrained").subplots()
    assert plot_bifurcation(diagram, ax) is ax
    curves = [line for line in ax.lines if len(line.get_xdata()) == 101]
    full = np.array([line.get_ydata() for line in curves if line.get_linestyle() == "-"]).T
    dashed = np.array([line.get_ydata() for line in curves if line.get_linestyle() != "-"]).T
    np.testing.assert_array_equal(full, np.where(diagram.stable, diagram.points, np.nan))
    np.testing.assert_array_equal(dashed, np.where(~diagram.stable, diagram.points, np.nan))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["stable fixed point", "unstable fixed point"]
    assert [text.get_text() for text in ax.texts] == ["fold at b = −2.6556", "fold at b = −2.3444"]
    marks = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    np.testing.assert_array_equal(marks, fold_points(5.0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("bias b", "state x")
    assert ax.get_title() == "x = w sigmoid(x) + b, with w = 5"
    assert_readable(ax.figure)


@pytest.mark.parametrize(
    ("w", "b", "unit"),
    [
        (np.linspace(0.2, 3, 81), 0.0, "tanh"),
        (np.linspace(2, 8, 81), -2.5, "sigmoid"),
        (3.0, np.linspace(-3, 0, 31), "sigmoid"),
        (2.0, np.linspace(-1, 1, 31), "tanh"),
        (4.05, np.linspace(-3, -1, 31), "sigmoid"),
    ],
)
def test_every_diagram_can_be_read(w, b, unit):
    ax = plot_bifurcation(bifurcation(w, b, unit))
    assert ax.get_xlabel() == ("bias b" if np.ndim(w) == 0 else "recurrent weight w")
    assert len(ax.texts) == {3.0: 0, 2.0: 2, 4.05: 2}.get(w if np.ndim(w) == 0 else None, 0)
    assert_readable(ax.figure)


def test_what_the_figures_refuse(grid, monkeypatch):
    with pytest.raises(OptionError, match=r"plot_cliff: show must be one of 'error', 'gradient'; got 'loss'"):
        plot_cliff(grid, show="loss")
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.patheffects"):
        monkeypatch.setitem(sys.modules, module, None)
    diagram = bifurcation(5.0, [-2.0])
    for draw in (lambda: plot_cliff(grid), lambda: plot_bifurcation(diagram)):
        with pytest.raises(MissingExtraError, match=r"a figure needs matplotlib, which is not installed"):
            draw()
