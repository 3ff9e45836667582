"""Lyapunov exponents and covariant vectors: identities that hold to rounding, exact references, statistics."""

import importlib
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Cell, PeepholeLSTM, Recurrent
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab import LyapunovSpectrum, covariant_vectors, lyapunov
from rnn_numpy.lab.jacobians import rows_of_steps
from rnn_numpy.lab.lyapunov import LOOSE, PRODUCTS, Loosener, Pace, positive_qr
from rnn_numpy.layers.initializers import orthogonal
from rnn_numpy.layers.rnn import CELLS

EPS = np.finfo(float).eps
KINDS = [
    (RNN, {}),
    (RNN, {"zoneout": 0.2}),
    (LSTM, {}),
    (LSTM, {"proj_size": 2}),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (PeepholeLSTM, {}),
]


def linear_forward(a_t, h_in, W_hh, h_t):
    h_t[...] = a_t + W_hh @ h_in


def linear_backward(dh_t, W_hh, da_t, dh_in):
    da_t[...] = dh_t
    dh_in += W_hh.T @ da_t


class Linear(Recurrent):
    """A cell of a user's own: h_t = W_hh h_{t-1} + W_ih x_t."""

    cell = Cell(("h",), ("h",), linear_forward, linear_backward)


def scaled_forward(a_t, x_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.exp(x_t[:1]) * a_t


def scaled_backward(dh_t, x_t, W_hh, da_t, dh_in):
    da_t[...] = np.exp(x_t[:1]) * dh_t
    dh_in += W_hh.T @ da_t


class Scaled(Recurrent):
    """Linear with a factor that the input brings: J_t = exp(x_t) W_hh."""

    cell = Cell(("h",), ("h",), scaled_forward, scaled_backward)


# Without step_tangent: the RNN, and a cell that is neither linear nor bounded.
PLAIN = replace(CELLS["tanh"], step_tangent=None)


def bent_forward(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = a_t + 0.1 * np.sin(a_t)


def bent_backward(dh_t, a_t, W_hh, da_t, dh_in):
    da_t[...] = dh_t * (1 + 0.1 * np.cos(a_t))
    dh_in += W_hh.T @ da_t


class Bent(Recurrent):
    """h_t = a + sin(a)/10, a = W_hh h_{t-1} + W_ih x_t."""

    cell = Cell(("h",), ("h",), bent_forward, bent_backward)


def linear(matrix):
    net = Linear(1, len(matrix), bias=False)
    net.params["weight_ih_l0"][...] = 0
    net.params["weight_hh_l0"] = matrix
    return net


def gaussian(gain, units, rng):
    net = RNN(1, units, bias=False)
    net.params["weight_ih_l0"][...] = 0
    net.params["weight_hh_l0"] = gain * np.random.default_rng(rng).normal(size=(units, units)) / math.sqrt(units)
    return net


def silence(steps, sequences=1):
    return np.broadcast_to(0.0, (steps, sequences, 1))


def start(net, sequences=1, scale=0.5, rng=1):
    shape = (net.num_layers, sequences, net.hidden_size)
    return scale * np.random.default_rng(rng).normal(size=shape)


def inputs(steps=60, sequences=2, width=3):
    return np.random.default_rng(7).normal(size=(steps, sequences, width))


def jacobians(net, x, h_0=None, name=None):
    """All J_t, (T, N, S, S), by the complex step of the forward formulas: another way than the one under test."""
    trace = net.forward(x, h_0, training=False)[2]
    return RecordedSteps(net, trace, name or f"l{net.num_layers - 1}").jacobians().state


# ------------------------------------------------------------------------------------------ where decompositions are


@pytest.mark.parametrize(("kind", "units"), [(RNN, 64), (RNN, 128), (LSTM, 32), (GRU, 64), (GRU, 5)])
def test_the_chosen_steps_make_no_difference(kind, units):
    """A QR decomposition at each step is what a chosen number of steps, and Cholesky factors, have to agree with."""
    net, x = kind(3, units, rng=0), inputs(60, 4)
    chosen, each = lyapunov(net, x, transient=9), lyapunov(net, x, transient=9, interval=1)
    assert (chosen.interval > 1) == (kind is not LSTM)
    np.testing.assert_array_equal(chosen.spans, each.spans)
    # What both leave open themselves: of the LSTM's last exponents, in both ways, 1e-11, by Gram-Schmidt in extended
    # precision; their difference is 5.4e-11 with one version of BLAS, 200 times what one of them says.
    scale = 100 * (each.rounding + chosen.rounding) * (1 if kind is not LSTM else 2)
    assert (np.abs(chosen.exponents - each.exponents) < 1e-13 + scale).all()
    parts = each.batch_means.shape[0] * each.batch_means.shape[1]  # that the exponents are means of
    assert (np.abs(chosen.batch_means - each.batch_means) < 1e-12 + parts * scale).all()


@pytest.mark.parametrize("lost", [1.0, 1e-3, 0.5 * LOOSE, 0.0])
@pytest.mark.parametrize("size", [(3, 70, 50), (1, 40, 32), (1, 40, 33), (2, 5, 5)])
def test_loose_columns_are_the_product_by_an_upper_triangle(lost, size):
    """V = Q R for the R of V itself: where digits are there, and nothing at all where they are not."""
    rng, (_, S, k) = np.random.default_rng(0), size
    V = rng.normal(size=size) @ np.linalg.qr(rng.normal(size=(k, k)))[0]
    V[-1, :, k - 1] = lost * V[-1, :, k - 1] + (1 - lost) * V[-1, :, k - 2]
    before = V.copy()
    found = Loosener(*size[::2], S)(V)
    np.testing.assert_array_equal(V, before)
    if lost < LOOSE:
        assert found is None
        return
    right = positive_qr(V)[1]
    T = np.linalg.solve(right, positive_qr(V)[0].swapaxes(1, 2) @ found.Q)  # V T = Q
    assert np.abs(np.tril(T, -1)).max() < 1e3 * EPS / lost
    diagonal = np.diagonal(T, axis1=1, axis2=2)
    assert np.abs(diagonal * found.diagonal - 1).max() < 1e4 * EPS / lost
    assert np.abs(V @ np.triu(T) - found.Q).max() < 1e3 * EPS / lost
    assert np.abs(found.Q.swapaxes(1, 2) @ found.Q - np.eye(k)).max() < 1e4 * EPS / lost**2
    scaled = Loosener(*size[::2], S)(V, unit=True)
    assert np.abs(np.linalg.norm(scaled.Q, axis=1) - 1).max() < 10 * EPS
    lacks = np.abs(found.Q.swapaxes(1, 2) @ found.Q - np.eye(k)).max()
    exact = np.diagonal(right, axis1=1, axis2=2)
    assert np.abs(scaled.diagonal / exact - 1).max() < 1e4 * EPS / lost + k * lacks**2
    np.testing.assert_allclose(found.diagonal.min(axis=1), found.least)
    np.testing.assert_allclose(np.linalg.norm(V, axis=1).max(axis=1), found.longest)


@pytest.mark.parametrize("scale", [1e-170, 1e170, math.nan, math.inf])
def test_there_are_no_loose_columns_where_squares_leave_the_range(scale):
    V = np.random.default_rng(0).normal(size=(3, 9, 9))
    V[1] *= scale  # NaN and infinity in one sequence alone
    with np.errstate(all="ignore"):
        assert Loosener(3, 9, 9)(V) is None


@pytest.mark.parametrize("interval", [None, 1, 3, 7])
@pytest.mark.parametrize(("T", "transient"), [(1, 0), (2, 1), (30, 0), (31, 7), (500, 50), (47, 46)])
def test_batches_end_with_a_decomposition(T, transient, interval):
    pace = Pace(T, transient, interval)
    net = GRU(3, 4, rng=0)
    spectrum = lyapunov(net, inputs(T, 1), transient=transient, interval=interval)
    assert spectrum.spans.sum() == T - transient
    np.testing.assert_array_equal(spectrum.spans, np.diff(pace.ends))
    assert len(spectrum.spans) == pace.batches
    assert np.ptp(spectrum.spans) < 2 * (interval or 1)
    assert pace.ends[0] == transient and pace.ends[-1] == T
    assert not any((end - transient) % (interval or 1) for end in pace.ends[:-1])


def test_chosen_steps_stay_within_the_range_of_floats():
    """Every direction grows alike, so that no digits are lost; but not so that numbers end."""
    spectrum = lyapunov(linear(1e40 * orthogonal((5, 5), rng=2)), silence(60), h_0=np.zeros((1, 1, 5)), transient=4)
    np.testing.assert_allclose(spectrum.exponents, math.log(1e40), rtol=1e-13)
    assert spectrum.interval == 2


def test_digits_that_too_many_steps_would_lose_are_missed(monkeypatch):
    monkeypatch.setattr(importlib.import_module("rnn_numpy.lab.lyapunov"), "APART", math.log(1e30))
    net, x = RNN(3, 64, rng=0), inputs(60, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen, each = lyapunov(net, x, transient=9), lyapunov(net, x, transient=9, interval=1)
    assert np.abs(chosen.exponents - each.exponents).max() > 1e-10


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
@pytest.mark.parametrize("interval", [1, 3])
def test_the_sum_is_the_mean_of_the_logarithms_of_the_determinants(kind, options, interval):
    net, x = kind(3, 4, rng=0, **options), inputs()
    spectrum = lyapunov(net, x, transient=7, interval=interval)
    J = jacobians(net, x)[7:]
    expected = np.linalg.slogdet(J)[1].mean(axis=0)
    assert spectrum.size == spectrum.count == J.shape[-1]
    # I8. Between decompositions the columns turn towards each other, which costs digits.
    np.testing.assert_allclose(spectrum.per_sequence.sum(axis=1), expected, rtol=1e-13 if interval == 1 else 1e-10)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_exponents_are_those_of_the_product_itself(kind, options):
    """Over few steps the product can be multiplied out: R_t ... R_1 is the R of P Q_0, whatever the interval."""
    net, x = kind(3, 4, rng=0, **options), inputs(6, 1)
    spectrum = lyapunov(net, x, 2, transient=0, rng=3)
    S = spectrum.size
    Q_0 = np.linalg.qr(np.random.default_rng(3).standard_normal((2, 1, S)).transpose(1, 2, 0))[0][0]
    product = np.linalg.multi_dot([*jacobians(net, x)[::-1, 0], Q_0])
    expected = np.log(np.abs(np.diagonal(np.linalg.qr(product)[1]))) / 6
    np.testing.assert_allclose(spectrum.exponents, expected, rtol=1e-9)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_both_products_agree(kind, options):
    net, x = kind(3, 4, rng=0, **options), inputs(30)
    matrix, columns = (lyapunov(net, x, 3, products=kind) for kind in ("matrix", "columns"))
    np.testing.assert_allclose(columns.per_sequence, matrix.per_sequence, rtol=1e-10)
    assert lyapunov(net, x, 3).exponents.tolist() == matrix.exponents.tolist()


def test_columns_are_chosen_for_a_few_of_many():
    net = gaussian(2.0, 128, 0)
    options = {"h_0": start(net), "transient": 5}
    few = {kind: lyapunov(net, silence(20), 4, products=kind, **options).exponents.tolist() for kind in PRODUCTS}
    assert few["auto"] == few["columns"] != few["matrix"]


def test_columns_where_there_is_no_tangent_formula():
    """A complex step that grows with the directions would in the end be no small step: here they reach 1e30."""
    net, x = Bent(1, 6, bias=False, rng=0), silence(40)
    net.params["weight_hh_l0"] *= 40.0
    options = {"transient": 0, "interval": 20}
    matrix, columns = (lyapunov(net, x, 1, products=kind, **options) for kind in ("matrix", "columns"))
    assert matrix.exponents[0] * 20 > math.log(1e20)
    np.testing.assert_allclose(columns.exponents, matrix.exponents, rtol=1e-12)
    with_formula, without = RNN(1, 64, rng=0), type("Plain", (Recurrent,), {"cell": PLAIN})(1, 64, rng=0)
    without.params.flat[...] = with_formula.params.flat
    x = inputs(20, 1, 1)
    expected = lyapunov(with_formula, x, 3, products="columns").exponents
    np.testing.assert_allclose(lyapunov(without, x, 3, products="columns").exponents, expected, rtol=1e-12)
    chosen = {net: lyapunov(net, x, 3).exponents.tolist() for net in (with_formula, without)}
    for net, kind in ((with_formula, "columns"), (without, "matrix")):
        assert chosen[net] == lyapunov(net, x, 3, products=kind).exponents.tolist()


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 8)], ids="hc")
def test_the_state_of_an_lstm_is_the_pair(rows):
    """Each half of the pair alone, the other held fixed, gives other exponents: by far, for a cell that remembers."""
    net = LSTM(3, 4, forget_bias=5.0, rng=0)
    x = inputs(400, 1)
    whole = lyapunov(net, x, 1).exponents[0]
    assert -0.05 < whole < 0.0
    block = jacobians(net, x)[40:, 0, rows, rows]
    Q, total = np.eye(4), 0.0
    for J in block:
        Q, R = positive_qr(J @ Q)
        total += math.log(R[0, 0])
    if rows.start == 0:
        assert total / len(block) < -1
    else:
        assert total / len(block) != pytest.approx(whole, rel=1e-3)


def test_the_transposed_matrices_in_forward_order_are_something_else():
    """The mistake that public code makes: it changes lambda_1 by much more than its error, while the right order, run
    here by hand, gives the measured one."""
    net = gaussian(1.5, 60, 3)
    x, h_0 = silence(3000), start(net)
    spectrum = lyapunov(net, x, 1, h_0=h_0, transient=500)
    J = (1 - net(x, h_0)[0][:, 0, :, None] ** 2) * net.params["weight_hh_l0"]
    found = {}
    for name, factors in {"right": J, "transposed": J.swapaxes(1, 2), "backward": J[::-1].swapaxes(1, 2)}.items():
        v, logs = np.ones(60) / math.sqrt(60), []
        for factor in factors:
            v = factor @ v
            logs.append(math.log(np.linalg.norm(v)))
            v /= np.linalg.norm(v)
        found[name] = np.mean(logs[500:] if name != "backward" else logs[:2500])
    error = spectrum.standard_errors[0]
    assert found["right"] == pytest.approx(spectrum.exponents[0], abs=2e-4)  # another first direction: 1/T
    assert found["backward"] == pytest.approx(spectrum.exponents[0], abs=2e-3)
    assert abs(found["transposed"] - spectrum.exponents[0]) > max(5e-3, 2 * error)


def test_a_linear_net_has_the_logarithms_of_its_eigenvalues():
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(6, 6))
    values = np.log(np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1])
    spectrum = lyapunov(linear(matrix), silence(4000), transient=0, interval=2)
    np.testing.assert_allclose(spectrum.exponents.sum(), np.linalg.slogdet(matrix)[1], rtol=1e-12)
    # Complex pairs turn for ever; the distance falls as 1/T.
    np.testing.assert_allclose(spectrum.exponents, values, atol=3e-3)
    shorter = lyapunov(linear(matrix), silence(400), transient=0, interval=2)
    assert np.abs(shorter.exponents - values).max() > 3 * np.abs(spectrum.exponents - values).max()


def test_real_eigenvalues_to_rounding_once_the_directions_have_turned():
    vectors, values = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0], np.array([0.9, 0.5, -0.3, 0.1])
    matrix = vectors @ (np.diag(values) + np.triu(np.ones((4, 4)), 1)) @ vectors.T
    spectrum = lyapunov(linear(matrix), silence(400), transient=200)
    np.testing.assert_allclose(spectrum.exponents, np.log(np.abs(values)), rtol=1e-12)
    # The same step after step: what error there is comes from rounding.
    assert spectrum.standard_errors.max() < 1e-14


def test_orthogonal_matrices_keep_lengths():
    spectrum = lyapunov(linear(orthogonal((7, 7), rng=2)), silence(500, 2), h_0=np.ones((1, 2, 7)), interval=4)
    assert np.abs(spectrum.exponents).max() < 8 * EPS
    assert spectrum.rounding.max() < 8 * EPS


def test_gaussian_products():
    """Independent N(0, 1/N) matrices: lambda_i = (ln(2/N) + psi((N - i + 1)/2)) / 2 (Newman 1986)."""
    from scipy.special import digamma

    N, steps, rng = 6, 3000, np.random.default_rng(0)
    # Each step multiplies with another matrix: here the QR of the module itself, on matrices of no layer.
    Q, logs = np.eye(N), []
    for _ in range(steps):
        Q, R = positive_qr(rng.normal(size=(N, N)) / math.sqrt(N) @ Q)
        logs.append(np.log(np.diagonal(R)))
    expected = (math.log(2 / N) + digamma((N - np.arange(N)) / 2)) / 2
    errors = np.std(logs, axis=0) / math.sqrt(steps)
    assert (np.abs(np.mean(logs, axis=0) - expected) < 4 * errors).all()


def test_standard_errors_are_those_of_the_mean():
    """J_t = exp(x_t) Q with independent x_t: the exponents are the mean of x, all alike, known to s / sqrt(T)."""
    net = Scaled(1, 3, bias=False)
    net.params["weight_ih_l0"][...] = 0
    net.params["weight_hh_l0"] = orthogonal((3, 3), rng=0)
    x = 0.3 * np.random.default_rng(5).normal(size=(2000, 2, 1)) - 0.1
    spectrum = lyapunov(net, x, transient=400, interval=3)
    np.testing.assert_allclose(spectrum.per_sequence, np.tile(x[400:].mean(axis=0), 3), rtol=1e-10)
    assert spectrum.batch_means.shape == (20, 2, 3) and spectrum.spans.sum() == spectrum.steps == 1600
    np.testing.assert_allclose(spectrum.standard_errors, 0.3 / math.sqrt(3200), rtol=0.3)


def test_correlated_growth_has_a_larger_error():
    """With x an autoregression of correlation 0.9 the mean of T steps is known as well as that of T (1-r)/(1+r)."""
    net = Scaled(1, 2, bias=False)
    net.params["weight_ih_l0"][...] = 0
    net.params["weight_hh_l0"] = np.eye(2)
    noise, x = np.random.default_rng(1).normal(size=(6000, 1, 1)), np.zeros((6000, 1, 1))
    for t in range(1, 6000):
        x[t] = 0.9 * x[t - 1] + 0.1 * noise[t]
    error = lyapunov(net, x, 1, transient=0).standard_errors[0]
    naive = x.std() / math.sqrt(6000)
    np.testing.assert_allclose(error, naive * math.sqrt(1.9 / 0.1), rtol=0.4)


def test_sequences_are_averaged():
    net, x = GRU(3, 5, rng=0), inputs(50, 3)
    together = lyapunov(net, x, 2)
    assert together.per_sequence.shape == (3, 2)
    np.testing.assert_allclose(together.exponents, together.per_sequence.mean(axis=0))
    # Sequences have first directions of their own, but the same sum of all exponents as each by itself.
    every = lyapunov(net, x).per_sequence.sum(axis=1)
    single = [lyapunov(net, x[:, n : n + 1]).exponents.sum() for n in range(3)]
    np.testing.assert_allclose(every, single, rtol=1e-12)


def test_pieces_are_the_whole(monkeypatch):
    net, x = LSTM(3, 4, num_layers=2, rng=0), inputs(40)
    whole = lyapunov(net, x)
    # By its name in full: as an attribute of the room, it is the function.
    monkeypatch.setattr(importlib.import_module("rnn_numpy.lab.lyapunov"), "CHUNK", 400)
    np.testing.assert_allclose(lyapunov(net, x).batch_means, whole.batch_means, rtol=1e-10)


def test_a_stack_has_the_exponents_of_its_layers():
    """The Jacobian of all states of the stack, by the complex step of the whole layer, is block triangular."""
    net, x = RNN(3, 3, num_layers=2, rng=0), inputs(600, 1)
    twin = net.astype(np.complex128)
    states = np.stack([net.forward(x)[2].layers[name].h[:, 0] for name in ("l0", "l1")], axis=1)  # (T+1, layers, H)
    J = np.empty((600, 6, 6))
    for column in range(6):
        nudged = states[:-1].reshape(600, 6).astype(complex)
        nudged[:, column] += 1e-20j
        _, after = twin(x[None, :, 0].astype(complex), nudged.reshape(600, 2, 3).swapaxes(0, 1))
        J[:, :, column] = after.swapaxes(0, 1).reshape(600, 6).imag / 1e-20
    assert not J[:, :3, 3:].any()
    Q, logs = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0], []
    for factor in J:
        Q, R = positive_qr(factor @ Q)
        logs.append(np.log(np.diagonal(R)))
    layers = [lyapunov(net, x, name=name, transient=60).exponents for name in ("l0", "l1")]
    np.testing.assert_allclose(np.mean(logs[60:], axis=0), np.sort(np.concatenate(layers))[::-1], atol=3e-3)
    assert lyapunov(net, x, transient=60).exponents.tolist() == layers[1].tolist()


def test_the_gradient_of_backward_grows_at_lambda_1():
    net = gaussian(2.0, 60, 0)
    x, h_0 = silence(1200), start(net)
    spectrum = lyapunov(net, x, 1, h_0=h_0, transient=300)
    trace = net.forward(x, h_0)[2]
    doutput = np.zeros((1200, 1, 60))
    doutput[-1] = np.random.default_rng(2).normal(size=60)
    net.backward(trace, doutput)
    logs = np.log(np.linalg.norm(trace.dh[:, 0], axis=1))
    slope = (logs[300] - logs[1100]) / 800
    assert slope == pytest.approx(spectrum.exponents[0], abs=3 * spectrum.standard_errors[0])
    assert spectrum.exponents[0] > 10 * spectrum.standard_errors[0]


# ------------------------------------------------------------------------------------------------------------ summaries


def summary(*exponents, size=None):
    k = len(exponents)
    return LyapunovSpectrum("l0", size or k, 10, 0, 1, np.array([[exponents]]), np.array([10]), np.zeros(k))


@pytest.mark.parametrize(
    ("spectrum", "dimension", "entropy"),
    [
        (summary(0.5, -0.25, -1.0), 2.25, 0.5),
        (summary(-0.1, -0.2), 0.0, 0.0),
        (summary(0.3, 0.1), 2.0, 0.4),
        (summary(0.0, -1.0), 1.0, 0.0),
        (summary(0.3, 0.1, size=3), None, None),
        (summary(0.3, -0.1, size=3), None, 0.3),
        (summary(-0.3, size=3), 0.0, 0.0),
        (summary(0.5, -math.inf), 1.0, 0.5),
        (summary(-0.5, 0.2, -1.0), 1.4, 0.2),  # a tie, out of order
    ],
)
def test_dimension_and_entropy(spectrum, dimension, entropy):
    if dimension is not None and spectrum.exponents[0] == -0.5:
        dimension = 1 + 0.2 / 0.5
    assert spectrum.kaplan_yorke == (dimension if dimension is None else pytest.approx(dimension, abs=1e-15))
    assert spectrum.entropy_rate == entropy


def test_what_it_says():
    spectrum = lyapunov(LSTM(3, 4, rng=0), inputs())
    text = repr(spectrum)
    assert "LyapunovSpectrum of l0: 8 of 8 exponents per step, 54 steps of 2 sequences" in text
    assert "±" in text and max(map(len, text.splitlines())) <= 100
    told = spectrum.to_dict()
    assert told["exponents"] == spectrum.exponents.tolist() and told["sequences"] == 2
    short = lyapunov(LSTM(3, 4, rng=0), inputs(2, 1), 1)
    assert np.isnan(short.standard_errors).all() and short.to_dict()["standard_errors"] == [None]
    assert "±" not in repr(short)
    assert "more exponents needed" in repr(summary(0.3, size=3))


def test_a_lost_direction_is_minus_infinity():
    net = linear(np.diag([0.5, 0.0]))
    spectrum = lyapunov(net, silence(30), transient=5)
    assert spectrum.exponents[0] == pytest.approx(math.log(0.5)) and spectrum.exponents[1] == -math.inf
    assert math.isnan(spectrum.standard_errors[1]) and spectrum.to_dict()["exponents"][1] is None


def test_long_intervals_warn():
    turn = orthogonal((2, 2), rng=0)
    net = linear(turn @ np.diag([1.0, 0.1]) @ turn.T)
    with pytest.warns(UserWarning, match="exponent 2 may be off .* set interval below 40, or ask for n_exponents = 1"):
        lyapunov(net, silence(200), interval=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum = lyapunov(net, silence(200), interval=4)
    np.testing.assert_allclose(spectrum.exponents, [0, math.log(0.1)], atol=1e-10)
    with pytest.warns(UserWarning, match="exponent 2 .* single steps do that: ask for n_exponents = 1"):
        lyapunov(linear(np.array([[1.0, 1.0], [1.0, 1.0 + 1e-15]])), silence(50))


@pytest.mark.parametrize(("rng", "steps", "transient"), [(1, 600, 0), (2, 400, None), (2, 60, 0)])
def test_a_direction_that_is_lost_bit_by_bit_is_finite_and_warned_of(rng, steps, transient):
    """Without inputs, c fades and h follows it: no step sends a direction to exactly 0."""
    net, state = LSTM(1, 1, bias=False, rng=rng), np.full((1, 1, 1), 0.5)
    with pytest.warns(UserWarning, match="exponent 2 may be off"):
        spectrum = lyapunov(net, silence(steps), h_0=(state, state), transient=transient)
    assert np.isfinite(spectrum.exponents).all()


def test_a_single_step_that_loses_digits_is_warned_of():
    """Output gates that are closed or open to 4e-15 at one step of a hundred."""
    net, x = LSTM(2, 4, rng=0), np.random.default_rng(0).normal(size=(100, 1, 2))
    U = net.params["weight_ih_l0"]
    U[:, 1], U[12:, 1] = 0, 1
    x[:, :, 1] = 0
    x[50, :, 1] = 33
    for interval in (None, 1):
        with pytest.warns(UserWarning, match="may be off by"):
            lyapunov(net, x, transient=0, interval=interval)


def in_extended_precision(layer, x, Q):
    """Exponents of each sequence by Gram-Schmidt, twice, in extended precision; (N, k)."""
    steps = RecordedSteps(layer, layer.forward(x)[2], "l0")
    Q, logs = Q.astype(np.longdouble), 0
    for J in rows_of_steps(steps, np.arange(len(x))).astype(np.longdouble):
        Q = J @ Q
        lengths = np.empty(Q.shape[::2], np.longdouble)
        for k in range(Q.shape[2]):
            before = Q[:, :, :k]
            for _ in range(2):
                Q[:, :, k] -= (before @ (before.swapaxes(1, 2) @ Q[:, :, k, None]))[..., 0]
            lengths[:, k] = np.sqrt((Q[:, :, k] ** 2).sum(axis=1))
            Q[:, :, k] /= lengths[:, k, None]
        logs = logs + np.log(lengths)
    return logs / len(x)


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
@pytest.mark.parametrize(("units", "sequences", "steps"), [(1, 2, 40), (5, 3, 60), (20, 2, 90)])
def test_exponents_are_those_of_extended_precision(kind, units, sequences, steps):
    """To 1e-12 of the largest, or what they say of their own rounding: versions of BLAS differ by so much."""
    net, x = kind(3, units, rng=1), inputs(steps, sequences)
    spectrum = lyapunov(net, x, transient=0)
    S = spectrum.size
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((S, sequences, S)).transpose(1, 2, 0))[0]
    expected = in_extended_precision(net, x, Q)
    error = np.abs(spectrum.per_sequence - expected)
    assert (error < 40 * sequences * spectrum.rounding + 1e-14).all()
    assert error.max() < max(1e-12 * np.abs(expected).max(), sequences * spectrum.rounding.max())


# ------------------------------------------------------------------------------------------------------------ arguments


def test_other_forms_of_the_same_input():
    net, x = LSTM(3, 4, rng=0), inputs(30, 1)
    states = tuple(np.random.default_rng(1).normal(size=(1, 1, 4)) for _ in range(2))
    expected = lyapunov(net, x, h_0=states).exponents
    assert lyapunov(net, x[:, 0], h_0=tuple(state[:, 0] for state in states)).exponents.tolist() == expected.tolist()
    turned = LSTM(3, 4, batch_first=True, rng=0)
    assert lyapunov(turned, x.swapaxes(0, 1), h_0=states).exponents.tolist() == expected.tolist()
    assert turned.batch_first
    assert expected.tolist() != lyapunov(net, x).exponents.tolist()
    small = net.astype(np.float32)
    np.testing.assert_allclose(lyapunov(small, x.astype(np.float32), h_0=states).exponents, expected, rtol=1e-4)
    assert small.dtype == np.float32
    assert np.isfinite(lyapunov(RNN(1, 3, rng=0), np.zeros((20, 1, 1), int)).exponents).all()


def test_dropout_is_off():
    net, x = LSTM(3, 4, num_layers=2, dropout=0.5, recurrent_dropout=0.5, rng=0), inputs(30)
    plain = LSTM(3, 4, num_layers=2, rng=0)
    assert lyapunov(net, x).exponents.tolist() == lyapunov(plain, x).exponents.tolist()


def test_nothing_is_modified():
    net, x = LSTM(3, 4, rng=0), inputs(30)
    before, copied = net.params.flat.copy(), x.copy()
    lyapunov(net, x)
    covariant_vectors(net, x)
    np.testing.assert_array_equal(net.params.flat, before)
    np.testing.assert_array_equal(x, copied)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer": "rnn"}, DTypeError, "lyapunov: layer must be a recurrent layer, RNN, LSTM, GRU; got str"),
        ({"layer": RNN(3, 4, bidirectional=True)}, OptionError, "must have one direction; got a bidirectional RNN"),
        ({"layer": RNN(3, 4, dtype=complex)}, DTypeError, "real parameters; got dtype complex128"),
        ({"name": "l1"}, OptionError, "name must be one of 'l0'; got 'l1'"),
        ({"x": inputs() + 0j}, DTypeError, "x must hold real numbers; got dtype complex128"),
        ({"x": inputs(width=2)}, ShapeError, r"x must be \(T, N, D\), or .* D = input_size = 3; got \(60, 2, 2\)"),
        ({"x": np.zeros(3)}, ShapeError, r"x must be \(T, N, D\)"),
        ({"x": inputs(0)}, ShapeError, "at least one step and one sequence; got T = 0, N = 2"),
        ({"x": np.full((5, 1, 3), np.nan)}, NonFiniteError, "h of l0 is not finite after 1 steps"),
        (
            {"n_exponents": 5},
            OptionError,
            "n_exponents must be at most S = 4, the number of units of all states; got 5",
        ),
        ({"n_exponents": 0}, OptionError, "n_exponents must be at least 1; got 0"),
        ({"transient": 60}, OptionError, "transient must be smaller than T = 60, the steps of x; got 60"),
        ({"transient": -1}, OptionError, "transient must be at least 0; got -1"),
        ({"transient": False}, DTypeError, "transient must be an integer; got the bool False"),
        ({"transient": 1.5}, DTypeError, "transient must be an integer; got float 1.5"),
        ({"interval": 0}, OptionError, "interval must be at least 1; got 0"),
        ({"products": "fast"}, OptionError, "products must be one of 'auto', 'matrix', 'columns'; got 'fast'"),
        ({"rng": -1}, DTypeError, "rng must be"),
        ({"h_0": np.zeros((1, 3, 4))}, ShapeError, "h_0 must have shape"),
    ],
    ids=str,
)
def test_wrong_arguments(change, error, words):
    given = {"layer": RNN(3, 4, rng=0), "x": inputs(), **change}
    with pytest.raises(error, match=words):
        lyapunov(given.pop("layer"), given.pop("x"), **given)


def test_what_leaves_the_range_of_floats_says_so():
    with pytest.raises(NonFiniteError, match="h of l0 is not finite after .* steps: the trajectory leaves"):
        lyapunov(linear(np.diag([1e10, 1.0])), silence(60), h_0=np.ones((1, 1, 2)))
    with pytest.raises(
        NonFiniteError, match="directions leave the range of floats before step 46; set interval below 40"
    ):
        lyapunov(linear(np.diag([1e10, 1.0])), silence(60), interval=40, transient=6)


# ---------------------------------------------------------------------------------------------------- covariant vectors


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_covariance(kind, options):
    net, x = kind(3, 4, rng=0, **options), inputs(200)
    found = covariant_vectors(net, x, 3, transient=50, settling=60)
    assert found.first == 50 and found.vectors.shape[0] == 91 and found.growth.shape == (90, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=2), 1, rtol=1e-13)
    moved = jacobians(net, x)[50:140] @ found.vectors[:-1]
    lengths = np.linalg.norm(moved, axis=2)
    # I10. (From the cosine, the residual could not fall below 1e-8.)
    assert np.abs(moved / lengths[:, :, None] - found.vectors[1:]).max() < 1e-13
    np.testing.assert_allclose(found.growth, np.log(lengths), rtol=0, atol=1e-13)


def test_covariance_of_a_chaotic_net():
    net = gaussian(2.0, 30, 0)
    x, h_0 = silence(500), start(net)
    found = covariant_vectors(net, x, 10, h_0=h_0, transient=100, settling=100)
    moved = jacobians(net, x, h_0)[100:400] @ found.vectors[:-1]
    moved /= np.linalg.norm(moved, axis=2, keepdims=True)
    assert np.abs(moved - found.vectors[1:]).max() < 1e-12
    spectrum = lyapunov(net, x[:400], 10, h_0=h_0, transient=100)
    np.testing.assert_allclose(found.exponents, spectrum.exponents, atol=0.02)
    np.testing.assert_allclose(found.exponents[0], spectrum.exponents[0], rtol=1e-10)


def test_a_linear_map_has_its_eigenvectors():
    rng = np.random.default_rng(0)
    vectors, values = rng.normal(size=(4, 4)), np.array([1.3, -0.9, 0.5, 0.2])
    vectors /= np.linalg.norm(vectors, axis=0)
    found = covariant_vectors(linear(vectors @ np.diag(values) @ np.linalg.inv(vectors)), silence(400))
    signs = np.sign(np.einsum("wsi,si->wi", found.vectors[:, 0], vectors))
    np.testing.assert_allclose(found.vectors[:, 0] * signs[:, None], np.tile(vectors, (201, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(found.exponents, np.log(np.abs(values)), rtol=1e-11)
    for i in range(4):
        for j in range(4):
            expected = math.acos(min(1.0, abs(vectors[:, i] @ vectors[:, j]))) if i != j else 0.0
            np.testing.assert_allclose(found.angle(i, j), expected, atol=1e-12)
    # Between planes: the cosine of the smallest angle is the largest singular value.
    planes = [np.linalg.qr(vectors[:, part])[0] for part in (slice(0, 2), slice(2, 4))]
    cosine = np.linalg.svd(planes[0].T @ planes[1], compute_uv=False)[0]
    np.testing.assert_allclose(found.smallest_angle(2), math.acos(cosine), rtol=1e-9)
    assert repr(found) == "CovariantVectors of l0: 4 of 4, 1 sequence, 200 steps"


def test_small_angles_keep_their_digits():
    tiny = 1e-9
    vectors = np.array([[1.0, 1.0], [0.0, tiny]])
    found = covariant_vectors(linear(vectors @ np.diag([0.9, 0.1]) @ np.linalg.inv(vectors)), silence(60))
    np.testing.assert_allclose(found.angle(0, 1), tiny, rtol=1e-6)
    np.testing.assert_allclose(found.smallest_angle(1), tiny, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda net, x: covariant_vectors(net, x, 9), OptionError, "n_vectors must be at most S = 4"),
        (lambda net, x: covariant_vectors(net, x, transient=30, settling=30), OptionError, r"got 30 \+ 30"),
        (lambda net, x: covariant_vectors(net, x).angle(0, 4), OptionError, "j must be from 0 to k - 1 = 3; got 4"),
        (lambda net, x: covariant_vectors(net, x).angle(0.0, 1), DTypeError, "i must be an integer; got float"),
        (lambda net, x: covariant_vectors(net, x).smallest_angle(4), OptionError, "m must be smaller than .* k = 4"),
        (
            lambda net, x: covariant_vectors(linear(np.diag([0.5, 0.0])), silence(20)),
            NonFiniteError,
            "sends direction 2 to exactly 0, and nothing leads back; ask for n_vectors = 1",
        ),
    ],
)
def test_wrong_arguments_of_vectors(call, error, words):
    with pytest.raises(error, match=words):
        call(RNN(3, 4, rng=0), inputs())


def test_rows_are_what_backward_sends_back():
    net, x = GRU(3, 4, rng=0), inputs(5)
    steps = RecordedSteps(net, net.forward(x)[2], "l0")
    np.testing.assert_allclose(rows_of_steps(steps, np.arange(1, 4)), steps.jacobians().state[1:4], atol=1e-15)
