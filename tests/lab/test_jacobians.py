"""Jacobians of the state: each block against its closed form and the complex step, products, and their bounds."""

import itertools

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Cell, LayerNormLSTM, PeepholeLSTM, Recurrent, orthogonal
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.lab import jacobian, state_jacobians

EPS = np.finfo(float).eps
T, N, D, H = 7, 3, 3, 5
LENGTHS = (4, 7, 2)
EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2}
LAYERS = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (RNN, EVERYTHING),
    (LSTM, {}),
    (LSTM, {"proj_size": 3}),
    (LSTM, EVERYTHING),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (GRU, EVERYTHING),
    (GRU, {"reset": "before", **EVERYTHING}),
    (PeepholeLSTM, {}),
    (LayerNormLSTM, {"epsilon": 0.3}),
]


def recorded(kind, options, lengths=LENGTHS, steps=T):
    layer = kind(D, H, rng=1, **options)
    return layer, layer.forward(np.random.default_rng(5).normal(size=(steps, N, D)), lengths=lengths)[2]


def close(found, expected, factor=16):
    np.testing.assert_allclose(found, expected, rtol=0, atol=factor * EPS * np.nanmax(np.abs(expected)))


def linear_step_forward(a_t, h_in, W_hh, h_t):
    h_t[...] = a_t + W_hh @ h_in


def linear_step_backward(dh_t, W_hh, da_t, dh_in):
    da_t[...] = dh_t
    dh_in += W_hh.T @ da_t


class Linear(Recurrent):
    """h_t = W_ih x_t + b + W_hh h_{t-1}: its Jacobian is W_hh at every step."""

    cell = Cell(("a",), ("h",), linear_step_forward, linear_step_backward)


# ------------------------------------------------------------------------------------------------ one step


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_against_the_complex_step_of_forward(kind, options):
    layer, trace = recorded(kind, options)
    for name in trace.layers:
        expected = RecordedSteps(layer, trace, name).jacobians().state
        expected = trace.edge.batch.unsorted(expected, 1)
        found = state_jacobians(layer, trace, name=name)
        there = np.arange(T)[:, None] < np.array(LENGTHS)
        # Layer normalisation subtracts means: a few digits cancel.
        close(found.array[there], expected[there], 100 if kind is LayerNormLSTM else 8)
        assert np.isnan(found.array[~there]).all()
        for t in range(T):
            np.testing.assert_allclose(jacobian(layer, trace, t, name=name).array, found[t].array, rtol=1e-14, atol=0)


def diagonal(values):
    return values[:, :, None] * np.eye(values.shape[1])


def test_blocks_of_an_lstm():
    layer, trace = recorded(LSTM, {}, None)
    U = dict(zip("ifgo", np.split(layer.params["weight_hh_l0"], 4), strict=True))
    for t in range(T):
        step, J = trace[t], jacobian(layer, trace, t)
        i, f, g, o = step.i, step.f, step.g, step.o
        sech2 = 1 - step.tanh_c**2
        close(J.block("c", "c"), diagonal(f))
        close(J.block("h", "c"), diagonal(o * sech2 * f))
        into_c = (step.c_prev * f * (1 - f))[:, :, None] * U["f"]
        into_c = into_c + (g * i * (1 - i))[:, :, None] * U["i"] + (i * (1 - g**2))[:, :, None] * U["g"]
        close(J.block("c", "h"), into_c)
        close(
            J.block("h", "h"),
            (step.tanh_c * o * (1 - o))[:, :, None] * U["o"] + (o * sech2)[:, :, None] * into_c,
        )
        np.testing.assert_array_equal(J.array[:, :H, H:], J.block("h", "c"))
        assert (J.t, J.k, J.states, J.widths) == (t, t - 1, ("h", "c"), (H, H))


def test_blocks_of_a_projected_lstm():
    layer, trace = recorded(LSTM, {"proj_size": 3}, None)
    J = jacobian(layer, trace, 2)
    assert J.block("h", "c").shape == (N, 3, H) and J.block("c", "h").shape == (N, H, 3)
    step = trace[2]
    inner = step.o * (1 - step.tanh_c**2) * step.f
    close(J.block("h", "c"), layer.params["weight_hr_l0"] * inner[:, None])


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_gru(reset):
    layer, trace = recorded(GRU, {"reset": reset}, None)
    U_r, U_z, U_n = np.split(layer.params["weight_hh_l0"], 3)
    for t in range(T):
        step = trace[t]
        r, z, n, h = step.r, step.z, step.n, step.h_prev
        into_r, into_z = ((gate * (1 - gate))[:, :, None] * U for gate, U in ((r, U_r), (z, U_z)))
        if reset == "after":
            into_a = r[:, :, None] * U_n + step.q[:, :, None] * into_r
        else:
            into_a = U_n @ (diagonal(r) + h[:, :, None] * into_r)
        expected = diagonal(z) + (h - n)[:, :, None] * into_z + ((1 - z) * (1 - n**2))[:, :, None] * into_a
        close(jacobian(layer, trace, t).array, expected)


def test_the_reverse_direction_follows_on_the_step_after():
    layer, trace = recorded(RNN, {"bidirectional": True})
    run, W = trace["l0_reverse"], layer.params["weight_hh_l0_reverse"]
    steps = state_jacobians(layer, trace, name="l0_reverse")
    for n, length in enumerate(LENGTHS):
        factors = [(1 - run.h[t, n] ** 2)[:, None] * W for t in range(length)]  # row t of h is the state after step t
        for t in range(length):
            close(steps[t].array[n], factors[t])
        close(steps.product(0, length - 1).array[n], np.linalg.multi_dot([np.eye(H), np.eye(H), *factors[:-1]]))
        close(steps.product(0, T).array[n], np.linalg.multi_dot([np.eye(H), *factors]))
    assert (steps[2].t, steps[2].k) == (2, 3)


def test_numbers_of_a_step():
    layer, trace = recorded(LSTM, {})
    for t in (0, 3, 6):
        J = jacobian(layer, trace, t)
        for n, length in enumerate(LENGTHS):
            if t < length:
                values = np.linalg.svd(J.array[n], compute_uv=False)
                np.testing.assert_allclose(J.singular_values()[n], values, rtol=0, atol=4 * EPS * values[0])
                np.testing.assert_allclose(J.norm()[n], np.linalg.norm(J.array[n], 2), rtol=1e-14)
                np.testing.assert_allclose(J.condition()[n], values[0] / values[-1], rtol=1e-9)
                radius = np.abs(np.linalg.eigvals(J.array[n])).max()
                np.testing.assert_allclose(J.spectral_radius()[n], radius, rtol=1e-14)
                assert radius <= values[0] * (1 + 8 * EPS)
            else:
                assert np.isnan([J.norm()[n], J.condition()[n], J.spectral_radius()[n]]).all()
    steps = state_jacobians(layer, trace)
    np.testing.assert_array_equal(steps.singular_values()[3], steps[3].singular_values())


def test_the_condition_of_a_singular_jacobian():
    layer = RNN(1, 2, nonlinearity="relu", rng=0)
    layer.params["bias_ih_l0"][...] = [-5.0, 5.0]
    half = jacobian(layer, layer.forward(np.zeros((1, 1, 1)))[2], 0)
    assert half.condition()[0] > 1e15  # one unit is off: the smallest singular value is 0 but for rounding
    layer.params["bias_ih_l0"][...] = -5.0
    none = jacobian(layer, layer.forward(np.zeros((1, 1, 1)))[2], 0)
    assert not none.array.any() and none.condition()[0] == np.inf


# ------------------------------------------------------------------------------------------------ products


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_products_compose(kind, options):
    layer, trace = recorded(kind, options, None)
    for name in trace.layers:
        steps = state_jacobians(layer, trace, name=name)
        t, m, k, start = (1, 3, 5, T) if steps.reverse else (5, 3, 1, -1)
        P = steps.product(t, k)
        assert (P.t, P.k) == (t, k)
        close(P.array, steps.product(t, m).array @ steps.product(m, k).array)
        close(steps.product(t, start).array, P.array @ steps.product(k, start).array)
        np.testing.assert_array_equal(steps.product(t, t).array, np.tile(np.eye(steps.S), (N, 1, 1)))
        # One factor for each step after k up to t: the neighbour has one.
        np.testing.assert_array_equal(steps.product(m, m + 1 if steps.reverse else m - 1).array, steps[m].array)


def test_the_latest_factor_stands_on_the_left_and_there_are_t_minus_k():
    layer, trace = recorded(RNN, {}, None)
    W = layer.params["weight_hh_l0"]
    J = [(1 - trace.h[t + 1, 0] ** 2)[:, None] * W for t in range(T)]
    found = state_jacobians(layer, trace).product(4, 1).array[0]
    close(found, J[4] @ J[3] @ J[2])
    assert not np.allclose(found, J[2] @ J[3] @ J[4], rtol=1e-3, atol=0)
    assert not np.allclose(found, J[5] @ J[4] @ J[3] @ J[2], rtol=1e-3, atol=0)  # the slides' product


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_a_product_is_what_backward_does_to_a_gradient(kind, options):
    """P(t, -1)^T applied to a gradient of the last states is the gradient of the initial states."""
    layer, trace = recorded(kind, {**options, "num_layers": 1, "dropout": 0.0})
    for row, name in enumerate(trace.layers):
        steps = state_jacobians(layer, trace, name=name)
        gradient = np.random.default_rng(0).normal(size=(N, steps.S))
        dh_n = []
        for width, part in zip(steps.widths, np.split(gradient, np.cumsum(steps.widths)[:-1], axis=1), strict=True):
            state = np.zeros((len(trace.layers), N, width))
            state[row] = part
            dh_n.append(state)
        back = layer.backward(trace, None, tuple(dh_n) if len(dh_n) > 1 else dh_n[0])
        initial = np.concatenate([getattr(back, f"d{state}_0")[row] for state in steps.states], axis=1)
        for n, length in enumerate(LENGTHS):
            P = steps.product(0, T) if steps.reverse else steps.product(length - 1, -1)
            close(P.array[n].T @ gradient[n], initial[n], 200 if kind is LayerNormLSTM else 32)


def test_sequences_without_the_step_have_no_product():
    layer, trace = recorded(GRU, {})
    steps = state_jacobians(layer, trace)
    assert np.isnan(steps.product(3, 1).array).all(axis=(1, 2)).tolist() == [False, False, True]
    assert np.isnan(steps.product(5, 5).array).all(axis=(1, 2)).tolist() == [True, False, True]
    assert np.isnan(steps.log_norm(3, 0)).tolist() == [False, False, True]
    assert np.isnan(steps.bounds(3, 0).steps).tolist() == [False, False, True]


def test_an_orthogonal_linear_network_is_an_isometry_for_a_thousand_steps():
    layer = Linear(1, 32, rng=0)
    layer.params["weight_hh_l0"][...] = orthogonal((32, 32), rng=0)
    trace = layer.forward(np.zeros((1000, 1, 1)))[2]
    steps = state_jacobians(layer, trace)
    values = steps.product(999, -1).singular_values()
    np.testing.assert_allclose(values, 1, rtol=0, atol=1.2e-13)
    np.testing.assert_allclose(steps.log_norm(999, -1), 0, rtol=0, atol=1.2e-13)
    bounds = steps.bounds(999, -1)
    np.testing.assert_allclose([bounds.lowest, bounds.norm, bounds.steps], 0, rtol=0, atol=1e-12)


def test_relu_in_its_positive_regime_is_linear():
    layer = RNN(1, 4, nonlinearity="relu", rng=0)
    W = layer.params["weight_hh_l0"]
    W[...] = 0.1
    layer.params["bias_ih_l0"][...] = 1.0
    layer.params["bias_hh_l0"][...] = 0.0
    trace = layer.forward(np.zeros((30, 1, 1)))[2]
    close(state_jacobians(layer, trace).product(29, 9).array[0], np.linalg.matrix_power(W, 20), 64)


# ------------------------------------------------------------------------------------------------ growth and bounds


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_norms_lie_between_their_bounds(kind, options):
    layer, trace = recorded(kind, options)
    for name in trace.layers:
        steps = state_jacobians(layer, trace, name=name)
        pairs = ((0, T), (0, 1), (1, 1)) if steps.reverse else ((1, -1), (3, 1), (6, 0), (2, 2))
        for t, k in pairs:
            bounds, P = steps.bounds(t, k), steps.product(t, k)
            there = np.isfinite(P.array).all(axis=(1, 2))
            norm = P.norm()[there]
            ordered = [bounds.lowest, bounds.norm, bounds.steps]
            if kind is RNN and not options.get("zoneout"):
                ordered += [bounds.slopes, bounds.weights]
            else:
                assert bounds.slopes is None and bounds.weights is None
            ordered = [array[there] for array in ordered]
            np.testing.assert_allclose(ordered[1][norm > 0], np.log(norm[norm > 0]), rtol=0, atol=1e-13)
            assert (norm[ordered[1] == -np.inf] == 0).all()
            for low, high in itertools.pairwise(ordered):
                assert (low <= high + 1e-12).all()
            np.testing.assert_array_equal(steps.log_norm(t, k), bounds.norm)


def test_bounds_of_pascanu():
    layer, trace = recorded(RNN, {}, None)
    sigma = np.linalg.norm(layer.params["weight_hh_l0"], 2)
    bounds = state_jacobians(layer, trace).bounds(6, 1)
    np.testing.assert_allclose(bounds.weights, 5 * np.log(sigma), rtol=1e-13)
    slopes = np.abs(1 - trace.h[3:8] ** 2).max(axis=2)  # of steps 2 ... 6
    np.testing.assert_allclose(bounds.slopes, np.log(slopes).sum(axis=0) + 5 * np.log(sigma), rtol=1e-13)
    assert (bounds.norm < bounds.weights - 0.1).all()


def test_growth_beyond_the_range_of_floats():
    for gain in (1e-3, 1e3):
        layer = Linear(1, 3, rng=0)
        layer.params["weight_hh_l0"][...] = gain * orthogonal((3, 3), rng=0)
        trace = layer.forward(np.zeros((300, 1, 1)))[2] if gain < 1 else quiet(layer)
        steps = state_jacobians(layer, trace)
        np.testing.assert_allclose(steps.growth(299, -1), np.log(gain), rtol=1e-13)
        np.testing.assert_allclose(steps.log_norm(299, 99), 200 * np.log(gain), rtol=1e-13)
    assert np.isnan(steps.growth(5, 5)).all()


def quiet(layer):
    """Return a trace of a network whose states stay 0."""
    layer.params["bias_ih_l0"][...] = layer.params["bias_hh_l0"][...] = 0.0
    return layer.forward(np.zeros((300, 1, 1)))[2]


def test_growth_counts_the_steps_of_each_sequence():
    layer, trace = recorded(GRU, {"bidirectional": True})
    steps = state_jacobians(layer, trace, name="l0_reverse")
    np.testing.assert_allclose(steps.growth(0, T), steps.log_norm(0, T) / np.array(LENGTHS), rtol=1e-14)


def test_a_product_that_is_zero():
    layer = RNN(1, 2, nonlinearity="relu", rng=0)
    layer.params["bias_ih_l0"][...] = -5.0
    trace = layer.forward(np.zeros((4, 1, 1)))[2]
    assert state_jacobians(layer, trace).log_norm(3, 0)[0] == -np.inf


# ------------------------------------------------------------------------------------------------ the edge


def test_in_pieces_all_is_the_same(monkeypatch):
    layer, trace = recorded(LSTM, EVERYTHING)
    whole = state_jacobians(layer, trace).array
    monkeypatch.setattr("rnn_numpy.lab.jacobians.CHUNK", 1)
    np.testing.assert_allclose(state_jacobians(layer, trace).array, whole, rtol=0, atol=4 * EPS)


def test_nothing_is_modified():
    layer, trace = recorded(LSTM, {})
    layer.backward(trace, np.ones((T, N, H)))
    before = trace.h.copy(), trace.dh.copy(), layer.params.flat.copy()
    state_jacobians(layer, trace).bounds(6, 0)
    for found, expected in zip((trace.h, trace.dh, layer.params.flat), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_single_precision():
    layer, trace = recorded(GRU, {}, None)
    single = layer.astype(np.float32)
    own = single.forward(trace.x.astype(np.float32))[2]
    found = state_jacobians(single, own).product(6, 2).array
    np.testing.assert_allclose(found, state_jacobians(layer, trace).product(6, 2).array, rtol=0, atol=1e-6)


def test_what_is_refused():
    layer, trace = recorded(LSTM, {"bidirectional": True})
    steps, reverse = state_jacobians(layer, trace), state_jacobians(layer, trace, name="l0_reverse")
    assert len(steps) == T
    assert repr(steps) == "StateJacobians of l0: T = 7, N = 3, S = 10 (h, c)"
    other = GRU(D, H)
    for error, message, call in [
        (OptionError, "jacobian: t must be in [0, 6]; got 7", lambda: jacobian(layer, trace, 7)),
        (DTypeError, "jacobian: t must be an integer; got str 'a'", lambda: jacobian(layer, trace, "a")),
        (OptionError, "state_jacobians: t must be in [0, 6]; got -1", lambda: steps[-1]),
        (
            OptionError,
            "StateJacobians.product: k must be in [-1, 3] (at most t; -1 is the initial state); got 4",
            lambda: steps.product(3, 4),
        ),
        (
            OptionError,
            "StateJacobians.bounds: k must be in [3, 7] (at least t, the direction being reverse; T is the initial "
            "state); got 2",
            lambda: reverse.bounds(3, 2),
        ),
        (OptionError, "StateJacobians.log_norm: t must be in [0, 6]; got 9", lambda: steps.log_norm(9, 0)),
        (
            OptionError,
            "StateJacobian.block: before must be one of 'h', 'c'; got 'i'",
            lambda: steps[0].block("h", "i"),
        ),
        (
            OptionError,
            "state_jacobians: name must be one of 'l0', 'l0_reverse'; got 'l1'",
            lambda: state_jacobians(layer, trace, name="l1"),
        ),
        (
            ShapeError,
            f"jacobian: trace was recorded by a layer with other options, not by this {other!r}",
            lambda: jacobian(other, trace, 0),
        ),
        (
            DTypeError,
            "state_jacobians: layer must be a recurrent layer; got str",
            lambda: state_jacobians("LSTM", trace),
        ),
        (
            DTypeError,
            "state_jacobians: trace must be the third result of forward; got NoneType",
            lambda: state_jacobians(layer, None),
        ),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == message
