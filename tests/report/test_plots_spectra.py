"""Figures of the dynamics: they draw the numbers, all of them, with labels, and leave matplotlib's state alone."""

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.lab import CovariantVectors, LyapunovSpectrum
from rnn_numpy.report import plot_angles, plot_singular_values, plot_spectrum
from rnn_numpy.report.plots.style import COLOURS

EXPONENTS = np.array([[[0.2, -0.1, -0.5]], [[0.4, -0.1, -0.7]]])


def spectrum(means=EXPONENTS, size=3):
    return LyapunovSpectrum("l0", size, 20, 2, 1, means, np.full(len(means), 10), np.zeros(means.shape[2]))


def vectors():
    normals = np.random.default_rng(0).normal(size=(50, 2, 4, 3))
    return CovariantVectors("l0", 5, normals / np.linalg.norm(normals, axis=2, keepdims=True), np.zeros((49, 2, 3)))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def rendered(ax):
    file = io.BytesIO()
    ax.get_figure().savefig(file)
    return len(file.getvalue())


def test_spectrum():
    ax = Figure().subplots()
    found = spectrum()
    assert plot_spectrum({"one": found, "two": found}, ax, theory={"level": 0.3, "curve": [0.3, -0.1, -0.6]}) is ax
    points, _, (bars,) = ax.containers[0]
    np.testing.assert_allclose(points.get_xdata(), [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(points.get_ydata(), [0.3, -0.1, -0.6])
    heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, 4 * found.standard_errors, atol=1e-15)  # two errors up, two down
    assert legend(ax) == ["level", "curve", "one  (dimension 2.33 of 3)", "two  (dimension 2.33 of 3)"]
    markers = [container[0].get_marker() for container in ax.containers]
    assert len(set(markers)) == 2 and ax.containers[1][0].get_color() == COLOURS[1]
    assert ax.get_xlabel().startswith("i / S") and "per step" in ax.get_ylabel()
    assert rendered(ax) > 5000


def test_a_part_of_a_spectrum():
    part = spectrum(np.array([[[0.2, -math.inf]]]), size=8)
    ax = plot_spectrum(part)
    points = ax.containers[0][0]
    np.testing.assert_allclose(points.get_xdata(), [1 / 8])
    assert legend(ax) == ["l0  (dimension 1.00 of 8)"]
    assert legend(plot_spectrum(spectrum(np.array([[[0.2]]]), size=8))) == ["l0"]
    assert rendered(ax) > 5000


def test_singular_values():
    values = np.array([[2.0, 0.5], [4.0, 0.25], [8.0, 0.0]])
    ax = plot_singular_values(values, exponents=[math.log(2), -math.log(2)])
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values[:, 0])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [0.5, 0.25, np.nan])
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [2, 4, 8])
    np.testing.assert_allclose(ax.lines[3].get_ydata(), [0.5, 0.25, 0.125])
    assert legend(ax) == ["largest", "smallest", r"$e^{\lambda_i t}$"]
    assert rendered(ax) > 5000
    assert legend(plot_singular_values(values[:, :1])) == ["singular value"]


def test_what_is_rounding_is_said_to_be():
    t = np.arange(1.0, 41)
    values = np.stack([2**t, np.maximum(0.25**t, 1e-16 * 2**t)], axis=1)
    ax = plot_singular_values(values, exponents=[math.log(2), -9.0])
    (ground,) = ax.collections
    np.testing.assert_allclose(ground.get_paths()[0].vertices[:, 1].max(), 2**-52 * 2**40)
    assert "rounding" in legend(ax)
    assert 1e-20 < ax.get_ylim()[0] < 1e-15  # not 1e-156, where the line of the exponents goes
    assert rendered(ax) > 5000


def test_angles():
    given = vectors()
    ax = Figure().subplots()
    assert plot_angles(given, [(0, 1), (0, 2)], ax, split=2, bins=9) is ax
    for patch, angles in zip(ax.patches, (given.angle(0, 1), given.angle(0, 2), given.smallest_angle(2)), strict=True):
        shares, edges, _ = patch.get_data()
        assert (shares * np.diff(edges)).sum() == pytest.approx(1)
        assert shares[0] == np.mean(np.degrees(angles) < 10) / 10
    labels = legend(ax)
    assert labels[0].startswith("vectors 1 and 2  (median ") and labels[2].startswith("first 2 and all others")
    assert rendered(ax) > 5000
    assert len(plot_angles(given, [], split=1).patches) == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plot_spectrum({}), OptionError, "spectra must have at least one entry; got none"),
        (lambda: plot_singular_values([1.0]), ShapeError, r"values must have shape \(T, k\)"),
        (lambda: plot_singular_values(np.zeros((0, 2))), ShapeError, r"at least 1; got \(0, 2\)"),
        (lambda: plot_singular_values([[-1.0]]), OptionError, "values must be at least 0"),
        (lambda: plot_singular_values([[math.nan]]), OptionError, "values must be at least 0"),
        (lambda: plot_angles(vectors(), []), OptionError, "nothing to draw; give pairs or split"),
        (lambda: plot_angles(vectors(), [(0, 7)]), OptionError, "j must be from 0 to k - 1 = 2; got 7"),
        (lambda: plot_angles(vectors(), bins=0), OptionError, "bins must be at least 1"),
        (lambda: plot_angles(vectors(), bins=1.5), DTypeError, "bins must be an integer"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_pyplot_knows_of_nothing():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_spectrum(spectrum())
    plot_angles(vectors())
    assert plt.get_fignums() == before
