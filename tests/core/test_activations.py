"""The sigmoid by tanh and by exp: units in the last place, the ends of the range, and whole layers by each of them."""

import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.core import activations

EXTREME = np.array([-np.inf, -1e4, -745.2, -709.0, -5e-324, 0.0, 5e-324, 709.0, 745.2, 1e4, np.inf, np.nan])
BY_EXP = pytest.mark.parametrize("by_exp", [False, True], ids=["tanh", "exp"])
T, N, D, H = 6, 8, 3, 32


def choose(monkeypatch, by_exp):
    monkeypatch.setattr(activations, "BY_EXP", by_exp)


def by_exp(u):
    out = np.array(u) / 2
    activations.sigmoid_by_exp(out)
    return out


def by_tanh(u):
    out = np.array(u) / 2
    activations.sigmoid_by_tanh(out, np.array(0.5, out.dtype))
    return out


def exact(function, points):
    with mpmath.workdps(40):
        return [function(mpmath.mpf(float(point))) for point in points]


def sigmoid_of(u):
    return 1 / (1 + mpmath.exp(-u))


def ulps(found, right):
    """The largest error in units in the last place."""
    with mpmath.workdps(40):
        units = [float(np.spacing(np.abs(found.dtype.type(float(value))))) for value in right]
        return max(float(abs(float(f) - r)) / unit for f, r, unit in zip(found, right, units, strict=True))


def points(low, high, count=2000, dtype=np.float64):
    """Random ones, even in between, and where they may be of either sign as many of all magnitudes."""
    rng = np.random.default_rng(0)
    found = rng.uniform(low, high, count)
    if low < 0 < high:
        found = np.concatenate([found, rng.choice([-1, 1], count) * 10 ** rng.uniform(-37, 1, count)])
    return found.astype(dtype)


@pytest.mark.parametrize(
    ("low", "high", "units"),
    [(-708, -37.5, 2), (-37.5, -36.7, 2.5), (-36.7, -1, 2), (-1, 1, 2), (1, 40, 2), (40, 708, 2)],
)
def test_the_sigmoid_by_exp_has_all_its_digits(low, high, units):
    # A tenth more for NumPy's own exp, where there is AVX-512 and this function is not chosen.
    u = points(low, high)
    assert ulps(by_exp(u), exact(sigmoid_of, u)) <= units + 0.1 * activations.has_avx512()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sigmoid_by_tanh_is_right_to_an_eps_of_1(dtype):
    u = points(-40, 40, dtype=dtype)
    error = max(abs(float(f) - float(r)) for f, r in zip(by_tanh(u), exact(sigmoid_of, u), strict=True))
    assert error <= np.finfo(dtype).eps
    assert ulps(by_tanh(points(0, 40, dtype=dtype)), exact(sigmoid_of, points(0, 40, dtype=dtype))) <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_right_to_two_units_and_by_exp_it_would_not_be(dtype):
    u = points(-20, 20, dtype=dtype)
    right = exact(mpmath.tanh, u)
    assert ulps(np.tanh(u), right) <= 2
    assert ulps(1 - 2 / (np.exp(2 * u) + 1), right) > 1e6


@pytest.mark.parametrize("sigmoid", [by_tanh, by_exp])
def test_the_ends_of_the_range_come_without_a_warning(sigmoid):
    found = sigmoid(EXTREME)
    right = [0, 0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1, 1, np.nan]
    np.testing.assert_allclose(found, right, rtol=0, atol=4e-308)
    assert np.all((found >= 0) | np.isnan(found))


def test_without_its_bound_exp_would_overflow(monkeypatch):
    monkeypatch.setattr(activations, "LARGEST", np.array(np.inf))
    with pytest.raises(FloatingPointError, match="overflow encountered in exp"):
        by_exp(EXTREME)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_only_float64_goes_by_exp(monkeypatch, dtype):
    choose(monkeypatch, True)
    u, half = np.linspace(-9, 9, 600).astype(dtype) / 2, np.array(0.5, dtype)
    expected, found = u.copy(), u.copy()
    activations.sigmoid_by_tanh(expected, half)
    activations.sigmoid(found, half)
    np.testing.assert_array_equal(found, expected)


@BY_EXP
def test_few_entries_go_by_tanh_and_both_functions_choose_alike(monkeypatch, by_exp):
    choose(monkeypatch, by_exp)
    half = np.array(0.5)
    for size in (activations.FEW - 1, activations.FEW):
        a = np.linspace(-30, 30, size + 7)
        expected = np.concatenate([a[:size], np.tanh(a[size:])])
        if by_exp and size >= activations.FEW:
            activations.sigmoid_by_exp(expected[:size])
        else:
            activations.sigmoid_by_tanh(expected[:size], half)
        u = a[:size].copy()
        activations.sigmoid(u, half)
        activations.sigmoid_and_tanh(a, a[:size], a[size:], half)
        np.testing.assert_array_equal(a, expected)
        np.testing.assert_array_equal(u, expected[:size])


LAYERS = pytest.mark.parametrize(
    "make",
    [
        lambda **kwds: LSTM(D, H, **kwds),
        lambda **kwds: GRU(D, H, **kwds),
        lambda **kwds: GRU(D, H, reset="before", **kwds),
        lambda **kwds: PeepholeLSTM(D, H, **kwds),
        lambda **kwds: LayerNormLSTM(D, H, **kwds),
    ],
    ids=["lstm", "gru", "gru-before", "peephole", "layer-norm"],
)


def run(layer, x):
    output, _, trace = layer.forward(x)
    back = layer.backward(trace, np.cos(output))
    return output, back.dx, back.grads.flat


@LAYERS
def test_both_ways_agree_to_rounding_and_differ(monkeypatch, make):
    x = np.random.default_rng(1).normal(size=(T, N, D))
    layer = make(rng=0)
    choose(monkeypatch, False)
    one = run(layer, x)
    choose(monkeypatch, True)
    other = run(layer, x)
    for left, right in zip(one, other, strict=True):
        assert np.abs(left - right).max() <= 1e-13 * np.abs(left).max()
    assert any(not np.array_equal(left, right) for left, right in zip(one, other, strict=True))


@BY_EXP
@LAYERS
def test_training_inference_stepping_and_the_complex_step_are_one(monkeypatch, make, by_exp):
    choose(monkeypatch, by_exp)
    x = np.random.default_rng(2).normal(size=(T, N, D))
    layer = make(rng=0)
    output, _, trace = layer.forward(x)
    np.testing.assert_array_equal(layer(x)[0], output)
    steps = layer.forward_steps(x)
    for _ in steps:
        pass
    np.testing.assert_array_equal(steps.result[0], output)
    dx = layer.backward(trace, np.cos(output)).dx
    direction = np.random.default_rng(3).normal(size=x.shape)
    moved = layer.astype(np.complex128)(x + 1e-30j * direction)[0].imag / 1e-30
    expected = np.sum(np.cos(output) * moved)
    assert abs(np.sum(dx * direction) - expected) <= 1e-13 * np.abs(dx * direction).sum()


@BY_EXP
def test_gates_that_are_shut_or_open_come_without_a_warning(monkeypatch, by_exp):
    choose(monkeypatch, by_exp)
    layer = LSTM(D, H, rng=0)
    layer.params["bias_ih_l0"][...] = np.tile([-1e4, 1e4, -800.0, 0.0], H)
    for array in run(layer, np.ones((T, N, D))):
        assert np.isfinite(array).all()


def test_without_avx512_numpy_says_so_and_exp_is_chosen():
    found = np.show_config(mode="dicts")["SIMD Extensions"]
    names = [name for key in ("found", "not found") for name in found.get(key, [])]
    wide = " ".join(name for name in names if name.startswith(("AVX512", "X86_V4")))
    program = "from rnn_numpy.core import activations; print(activations.has_avx512(), activations.BY_EXP)"
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": wide}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["False", "True"]
    assert activations.has_avx512() == any(name in wide.split() for name in found.get("found", []))
