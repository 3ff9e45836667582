"""The look that all figures share: colour scales, images with colour bars, labels, figures of their own."""

from __future__ import annotations

import inspect
import itertools
import math
import sys

import numpy as np
import pytest
from figures import assert_readable
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from processes import ended

from rnn_numpy import report
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab import GradientFlow
from rnn_numpy.report import plot_gradient_flow
from rnn_numpy.report.plots.style import (
    COLOURS,
    axes_or_new,
    colour_bar,
    colour_scale,
    draw_image,
    frame,
    label_ends,
    log_limits,
    log_norm,
    new_figure,
    set_log,
    signed_norm,
    tick_decades,
)


def lightness(colour):
    """Relative luminance as the web's accessibility rules define it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_axes_are_those_given_or_new_ones_that_pyplot_does_not_know():
    ax = Figure().subplots()
    assert axes_or_new(ax) is ax
    fresh = axes_or_new(None, 5.0, 3.0)
    assert tuple(fresh.figure.get_size_inches()) == (5.0, 3.0)
    assert fresh.figure.get_layout_engine() is not None
    assert new_figure(layout=None).get_layout_engine() is None
    code = """
import sys
from rnn_numpy.report.plots.style import axes_or_new
axes_or_new(None)
print("matplotlib.pyplot" in sys.modules)
"""
    done = ended([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_figure_of_its_own_has_its_labels():
    flow = GradientFlow(0.9 ** np.arange(11.0)[:, None], 1.0)
    ax = plot_gradient_flow([flow], ["lstm"], [1.0])
    assert [text.get_text() for text in ax.texts] == ["gain 1"] and ax.figure is not None


@pytest.mark.parametrize("name", [name for name in report.__all__ if name.startswith("plot_")])
def test_what_is_drawn_comes_first_then_the_axes_then_options_by_name(name):
    signature = inspect.signature(getattr(report, name))
    by_place = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(by_place) > 1 and by_place[0].default is inspect.Parameter.empty
    assert by_place[-1].name == "ax" and by_place[-1].default is None
    others = [p for p in signature.parameters.values() if p not in by_place]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in others)
    assert signature.return_annotation == "Axes"


def test_frame_names_the_axes():
    ax = Figure().subplots()
    frame(ax, "lag (steps)", "norm", "one")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("lag (steps)", "norm", "one")
    assert [ax.spines[side].get_visible() for side in ("top", "right", "left", "bottom")] == [False, False, True, True]
    image = Figure().subplots()
    frame(image, "x", "y", grid=False)
    assert image.spines["top"].get_visible() and image.get_title() == ""


def test_colours_of_sizes_get_lighter_all_the_way_and_those_of_signs_are_even():
    scale = colour_scale("size")
    assert (np.diff([lightness(colour[:3]) for colour in scale(np.linspace(0, 1, 64))]) > 0).all()
    scale = colour_scale("signed")
    lights = np.array([lightness(colour[:3]) for colour in scale(np.linspace(0, 1, 65))])
    assert lights.argmax() == 32 and lights[32] > 0.9
    assert lights[0] < 0.2 and lights[-1] < 0.2
    grey = scale(np.ma.masked_invalid([np.nan]))[0]
    assert len(set(grey[:3])) == 1


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=8), st.floats(1.0, 700.0))
def test_a_log_scale_shows_the_largest_and_at_most_so_many_decades(values, decades):
    norm = log_norm(values, decades)
    low, high = np.log10(norm.vmin), np.log10(norm.vmax)
    np.testing.assert_allclose(norm.vmax, max(values), rtol=1e-12)
    assert 1 - 1e-9 <= high - low <= max(decades, 1.0) + 1e-9
    if np.log10(min(values)) >= high - decades:
        assert norm.vmin <= min(values) * (1 + 1e-12)


def test_a_log_scale_leaves_out_what_has_no_logarithm():
    norm = log_norm([0.0, -3.0, np.nan, np.inf, 10.0, 1e-4])
    np.testing.assert_allclose([norm.vmin, norm.vmax], [1e-4, 10.0], rtol=1e-12)
    nothing = log_norm([0.0, np.nan])
    np.testing.assert_allclose([nothing.vmin, nothing.vmax], [0.1, 1.0], rtol=1e-12)


def test_a_signed_scale_has_zero_in_its_middle():
    norm = signed_norm([-0.5, 2.0, np.nan, np.inf])
    assert (norm.vmin, norm.vmax, norm(0.0)) == (-2.0, 2.0, 0.5)
    assert (signed_norm([0.0]).vmin, signed_norm([]).vmax) == (-1.0, 1.0)


def test_an_image_has_its_cells_about_their_places_and_a_named_bar():
    ax = Figure(layout="constrained").subplots()
    values = np.array([[1.0, 10.0, np.nan], [100.0, 0.0, 1e-3]])
    bar = draw_image(ax, [0, 1, 2], [10.0, 20.0], values, "norm", log_norm(values))
    assert bar.ax.get_ylabel() == "norm" and bar.extend == "neither"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 2.5), (5.0, 25.0))
    image = ax.images[0]
    assert isinstance(image.norm, LogNorm)
    np.testing.assert_array_equal(image.get_array().filled(-1), [[1.0, 10.0, -1], [100.0, 0.0, 1e-3]])
    FigureCanvasAgg(ax.figure).draw()  # neither a zero nor a NaN makes it fail


@pytest.mark.parametrize(
    ("values", "decades", "extend"),
    [([[1.0, 1e-3]], 2.0, "min"), ([[1.0, 1e-3]], 3.0, "neither"), ([[1.0, 1e-3, 0.0]], 3.0, "neither")],
)
def test_a_bar_points_where_there_is_more(values, decades, extend):
    ax = Figure().subplots()
    x = np.arange(len(values[0]))
    assert draw_image(ax, x, [0], values, "size", log_norm(values, decades)).extend == extend


def test_a_bar_points_on_signed_scales_too():
    for values, extend in (([[-2.0, 0.0]], "min"), ([[2.0, 0.0]], "max"), ([[2.0, -2.0]], "both")):
        bar = draw_image(Figure().subplots(), [0, 1], [0], values, "share", signed_norm([1.0]), "signed")
        assert bar.extend == extend


def test_a_bar_for_points():
    ax = Figure().subplots()
    points = ax.scatter([0, 1], [0, 1], c=[0.0, 1.0])
    assert colour_bar(ax, points, "step", "max").ax.get_ylabel() == "step"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_labels_on_a_linear_axis_lie_apart_and_in_order(ends):
    figure = Figure(figsize=(5, 4), dpi=100)
    ax = figure.subplots()
    ax.set_ylim(0, 1)
    label_ends(ax, [(end, f"line {i}", COLOURS[i % 6]) for i, end in enumerate(ends)])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    order = np.argsort(ends, kind="stable")
    assert (np.diff([boxes[i].y0 for i in order]) > 0).all()
    assert ax.get_ylim() == (0, 1)


def test_decades_of_any_range_get_at_most_eleven_ticks():
    for low, high in ((0.1, 10.0), (1e-30, 1.0), (1e-305, 1e305)):
        ax = Figure().subplots()
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        tick_decades(ax.yaxis, low, high)
        assert 3 <= len(ax.get_yticks()) <= 11
        assert low <= min(ax.get_yticks()) and max(ax.get_yticks()) <= high


def test_a_narrow_log_axis_has_plain_numbers():
    for low, high, wanted in ((0.7, 6.0, ["1", "2", "5"]), (1.1, 30.0, ["2", "5", "10", "20"]), (0.02, 0.11, None)):
        ax = Figure().subplots()
        set_log(ax, low, high)
        ticks = [label.get_text() for label in ax.get_yticklabels()]
        assert ticks == (wanted or ["0.02", "0.05", "0.1"])
        np.testing.assert_allclose(ax.get_yticks(), [float(tick) for tick in ticks], rtol=1e-15)
        assert ax.get_ylim() == (low, high) and ax.get_yscale() == "log"


@given(st.lists(st.floats(0, 1e308), max_size=8))
def test_limits_of_a_log_axis_hold_all_sizes(values):
    low, high = log_limits([*values, math.inf, math.nan])
    assert 0 < low and high < math.inf and math.log10(high) - math.log10(low) > 1.99
    assert all(low <= value <= high for value in values if 1e-305 <= value <= 1e305)


def test_cells_that_are_not_there_are_left_out_of_image_and_bar():
    ax = Figure().subplots()
    values, there = np.array([[-5.0, 0.5]]), [[False, True]]
    assert draw_image(ax, [0, 1], [0], values, "share", signed_norm([1.0]), "signed", there).extend == "neither"
    np.testing.assert_array_equal(ax.images[0].get_alpha(), [[0, 1]])


def test_what_the_style_refuses():
    with pytest.raises(OptionError, match=r"colour_scale: kind must be one of 'size', 'signed'; got 'rainbow'"):
        colour_scale("rainbow")
    with pytest.raises(OptionError, match=r"log_norm: decades must be greater than 0; got 0.0"):
        log_norm([1.0], 0.0)
    with pytest.raises(DTypeError, match=r"log_norm: decades must be a number; got str 'many'"):
        log_norm([1.0], "many")


def test_texts_that_cannot_be_read_would_be_found():
    figure = Figure(figsize=(5, 4))
    ax = figure.subplots()
    assert_readable(figure)
    ax.text(0.5, 0.5, "one")
    assert_readable(figure)
    over = ax.text(0.52, 0.51, "other")
    with pytest.raises(AssertionError, match="'one' overlaps 'other'"):
        assert_readable(figure)
    over.set_position((1.2, 0.5))
    with pytest.raises(AssertionError, match="'other' leaves the figure"):
        assert_readable(figure)
