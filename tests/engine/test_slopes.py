"""Differences of many functions at once: the error that is told is the error, and kinks are seen."""

import numpy as np
import pytest

from rnn_numpy.engine.slopes import slopes

SMOOTH = {
    "sin": (lambda h: np.sin(0.3 + h), np.cos(0.3)),
    "tanh, saturated": (lambda h: np.tanh(15 + h), 1 / np.cosh(15.0) ** 2),
    "exp of much": (lambda h: np.exp(300 * h), 300.0),
    "square root near 0": (lambda h: np.sqrt(1e-3 + h), 0.5 / np.sqrt(1e-3)),
    "a kink near by": (lambda h: np.abs(h - 1e-3), -1.0),
    "small": (lambda h: 1e-200 * np.sin(1 + h), 1e-200 * np.cos(1)),
    "constant": (lambda h: 3.0 + 0 * h, 0.0),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_the_error_is_no_larger_than_is_told(name):
    function, slope = SMOOTH[name]
    found = slopes(lambda h: np.array([function(h)]))
    assert abs(found.slopes[0] - slope) <= found.errors[0] <= 1e-6 * max(abs(slope), abs(function(0.0)))
    assert not found.kinks[0]
    assert found.values[0] == function(0.0)


def test_at_a_kink_the_error_is_half_of_what_is_between_both_slopes():
    found = slopes(lambda h: np.array([abs(h), np.maximum(h, 0), 5 + np.where(h > 0, 3 * h, h), np.sin(h)]))
    assert list(found.kinks) == [True, True, True, False]
    np.testing.assert_allclose(found.slopes, [0, 0.5, 2, 1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.errors[:3], [1, 0.5, 1], rtol=1e-9)
