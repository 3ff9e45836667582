"""Clipping inside of time against textbook loops that do the same, and what it says of itself."""

import itertools

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Linear
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.training import backward_clipped, lag_norms

LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


def run(layer, T=7, N=3, lengths=None, scale=3.0):
    rng = np.random.default_rng(1)
    for name, array in layer.params.items():
        if name.startswith("weight_hh"):
            array *= scale
    output, h_n, trace = layer.forward(rng.normal(size=(T, N, layer.input_size)), lengths=lengths)
    states = tuple(rng.normal(size=state.shape) for state in (h_n if isinstance(h_n, tuple) else (h_n,)))
    return trace, rng.normal(size=output.shape), states if len(states) > 1 else states[0]


def capped(arrays, limit):
    """Shorten each row of all arrays, taken together."""
    norms = np.sqrt(sum((array**2).sum(axis=1) for array in arrays))
    factor = np.minimum(1, limit / norms)
    return [array * factor[:, None] for array in arrays], norms


def test_a_tanh_rnn_is_capped_as_its_textbook_loop():
    rnn = RNN(2, 4, rng=0)
    trace, doutput, dh_n = run(rnn)
    W_hh, h, x = trace.weights["W_hh"], trace.h, trace.x
    dW_hh, dW_ih, db = np.zeros((4, 4)), np.zeros((4, 2)), np.zeros(4)
    dx, norms = np.zeros(x.shape), np.zeros((7, 3))
    dh = doutput[6] + dh_n[0]
    for t in range(6, -1, -1):
        da = dh * (1 - h[t + 1] ** 2)
        dW_hh, dW_ih, db = dW_hh + da.T @ h[t], dW_ih + da.T @ x[t], db + da.sum(axis=0)
        dx[t] = da @ trace.weights["W_ih"]
        dh = da @ W_hh + (doutput[t - 1] if t else 0)
        (dh,), norms[t] = capped([dh], 0.7)
    clipped = backward_clipped(rnn, trace, doutput, dh_n, max_norm=0.7)
    assert 0 < clipped.capped == np.count_nonzero(norms > 0.7) < clipped.total == 21
    back = clipped.result
    for ours, reference in (
        (back.grads["weight_hh_l0"], dW_hh),
        (back.grads["weight_ih_l0"], dW_ih),
        (back.grads["bias_hh_l0"], db),
        (back.dx, dx),
        (back.dh_0[0], dh),
        (clipped.norms["l0"], norms),
        (clipped.factors["l0"], np.minimum(1, 0.7 / norms)),
    ):
        np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-15 * np.abs(reference).max())
    assert clipped.steps("l0") == [t for t in range(7) if (norms[t] > 0.7).any()]


def test_an_lstm_is_capped_with_both_its_states():
    lstm = LSTM(2, 3, rng=0)
    trace, doutput, (dh_n, dc_n) = run(lstm)
    weights = trace.weights
    dh, dc = doutput[6] + dh_n[0], dc_n[0]
    dW_hh = np.zeros((12, 3))
    for t in range(6, -1, -1):
        i, f, g, o, c, c_prev, h_prev = (
            trace.i[t], trace.f[t], trace.g[t], trace.o[t], trace.c[t + 1], trace.c[t], trace.h[t]
        )  # fmt: skip
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        da = np.concatenate(
            [dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2), dh * np.tanh(c) * o * (1 - o)],
            axis=1,
        )
        dW_hh += da.T @ h_prev
        dh = da @ weights["W_hh"] + (doutput[t - 1] if t else 0)
        (dh, dc), _ = capped([dh, dc * f], 0.9)
    clipped = backward_clipped(lstm, trace, doutput, (dh_n, dc_n), max_norm=0.9)
    assert 0 < clipped.capped < clipped.total
    np.testing.assert_allclose(clipped.result.grads["weight_hh_l0"], dW_hh, rtol=0, atol=4e-15 * np.abs(dW_hh).max())
    np.testing.assert_allclose(clipped.result.dh_0[0], dh, rtol=0, atol=4e-15 * np.abs(dh).max())
    np.testing.assert_allclose(clipped.result.dc_0[0], dc, rtol=0, atol=4e-15 * np.abs(dc).max())


@pytest.mark.parametrize("name", LAYERS)
def test_a_limit_that_is_never_reached_changes_no_bit(name):
    layer = LAYERS[name](2, 3, num_layers=2, bidirectional=True, rng=0)
    trace, doutput, dh_n = run(layer, lengths=[5, 7, 2])
    plain = layer.backward(trace, doutput, dh_n)
    clipped = backward_clipped(layer, trace, doutput, dh_n, max_norm=1e6)
    assert clipped.is_gradient and clipped.capped == 0
    assert clipped.total == 4 * (5 + 7 + 2)
    assert repr(clipped) == "ClippedBackward: 0 of 56 state gradients capped at 1e+06: the gradient of the loss"
    for field in vars(plain):
        ours, reference = getattr(clipped.result, field), getattr(plain, field)
        assert np.array_equal(*(a.flat if field == "grads" else a for a in (ours, reference)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"recurrent_dropout": 0.3}, {"zoneout": 0.2}], ids=str)
def test_after_a_step_no_state_gradient_is_longer_and_sequences_are_on_their_own(name, options):
    layer = LAYERS[name](2, 3, bidirectional=True, rng=0, **options)
    trace, doutput, dh_n = run(layer, lengths=[5, 7, 2])
    clipped = backward_clipped(layer, trace, doutput, dh_n, max_norm=0.5)
    for key, lengths in itertools.product(clipped.norms, [np.array([5, 7, 2])]):
        exists = np.arange(7)[:, None] < lengths
        assert np.array_equal(~np.isnan(clipped.norms[key]), exists)
        after = np.where(exists, clipped.norms[key] * clipped.factors[key], 0)
        assert after.max() == pytest.approx(0.5, rel=1e-14)
        over = exists & ~(np.nan_to_num(clipped.norms[key]) <= 0.5)
        assert np.array_equal(clipped.factors[key] < 1, over)
    # Each sequence alone gives the same, with the masks it had.
    for n, length in enumerate([5, 7, 2]):
        masks = {}
        if trace.recurrent_masks:
            masks["recurrent_masks"] = {key: mask[n : n + 1] for key, mask in trace.recurrent_masks.items()}
        if trace.zoneout_masks:
            masks["zoneout_masks"] = {
                key: tuple(mask[:length, n : n + 1] for mask in kept) for key, kept in trace.zoneout_masks.items()
            }
        _, _, alone = layer.forward(np.array(trace["l0"].x[:length, n : n + 1]), **masks)
        d_n = tuple(d[:, n : n + 1] for d in dh_n) if isinstance(dh_n, tuple) else dh_n[:, n : n + 1]
        single = backward_clipped(layer, alone, doutput[:length, n : n + 1], d_n, max_norm=0.5)
        reference = clipped.result.dx[:length, n : n + 1]
        np.testing.assert_allclose(single.result.dx, reference, rtol=0, atol=1e-14 * np.abs(reference).max())


def test_an_exploding_gradient_is_held():
    relu = RNN(1, 2, nonlinearity="relu", rng=0)
    relu.params.flat[:] = 1.0, 1.0, 30.0, 0.0, 0.0, 30.0, 0.0, 0.0, 0.0, 0.0
    _, _, trace = relu.forward(np.full((150, 1, 1), 1e-200))
    clipped = backward_clipped(relu, trace, None, np.ones((1, 1, 2)), max_norm=1.0)
    assert np.linalg.norm(clipped.result.dh_0) == pytest.approx(1.0, rel=1e-14)
    assert clipped.capped == 150
    assert np.nanmax(clipped.norms["l0"]) == pytest.approx(30 * np.sqrt(2), rel=1e-14)
    assert np.isfinite(lag_norms(trace)).all()


def test_gradients_are_added_and_the_trace_keeps_what_was_capped():
    rnn = RNN(2, 4, rng=0)
    trace, doutput, dh_n = run(rnn)
    fresh = backward_clipped(rnn, trace, doutput, dh_n, max_norm=0.5).result.grads.flat
    grads = rnn.params.zeros_like()
    grads.flat[:] = 1
    assert backward_clipped(rnn, trace, doutput, dh_n, grads, max_norm=0.5).result.grads is grads
    np.testing.assert_allclose(grads.flat, fresh + 1, rtol=1e-14)
    assert np.linalg.norm(trace.dh[0], axis=1).max() == pytest.approx(0.5, rel=1e-14)


def test_refusals():
    rnn = RNN(2, 4, rng=0)
    trace, doutput, _ = run(rnn)
    for limit in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(OptionError, match="backward_clipped: max_norm must be"):
            backward_clipped(rnn, trace, doutput, max_norm=limit)
    with pytest.raises(
        DTypeError, match="backward_clipped: layer must be a recurrent layer: RNN, LSTM or GRU; got Linear"
    ):
        backward_clipped(Linear(1, 1), trace, doutput, max_norm=1.0)
    twin = rnn.astype(np.complex128)
    _, _, other = twin.forward(np.ones((2, 1, 2), complex))
    with pytest.raises(DTypeError, match="backward_clipped: layer must be real; got dtype complex128"):
        backward_clipped(twin, other, None, max_norm=1.0)
    with pytest.raises(ShapeError, match="RNN.backward: doutput must have shape"):
        backward_clipped(rnn, trace, doutput[1:], max_norm=1.0)
    doutput[3, 1, 2] = np.nan
    grads = rnn.params.zeros_like()
    with pytest.raises(NonFiniteError, match="backward_clipped: what step t = 4 of l0 hands back is not finite"):
        backward_clipped(rnn, trace, doutput, None, grads, max_norm=1.0)
    assert not grads.flat.any()


@pytest.mark.parametrize("name", LAYERS)
def test_the_reverse_direction_is_the_forward_one_of_turned_sequences(name):
    both = LAYERS[name](2, 3, bidirectional=True, rng=0)
    trace, doutput, dh_n = run(both)
    clipped = backward_clipped(both, trace, doutput, dh_n, max_norm=0.5)
    assert clipped.steps("l0_reverse")
    one = LAYERS[name](2, 3)
    one.load_state_dict({key: both.params[f"{key}_reverse"] for key in one.params})
    _, _, turned = one.forward(np.array(trace["l0"].x[::-1]))
    d_n = tuple(d[1:] for d in dh_n) if isinstance(dh_n, tuple) else dh_n[1:]
    single = backward_clipped(one, turned, doutput[::-1, :, 3:], d_n, max_norm=0.5)
    np.testing.assert_allclose(clipped.factors["l0_reverse"], single.factors["l0"][::-1], rtol=1e-13)
    for key, reference in single.result.grads.items():
        ours = clipped.result.grads[f"{key}_reverse"]
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-14 * np.abs(reference).max())


@pytest.mark.parametrize("scale", [1e-200, 1e-155, 1e155, 1e200])
def test_gradients_whose_squares_leave_the_range_are_capped_alike(scale):
    lstm = LSTM(2, 3, rng=0)
    trace, doutput, _ = run(lstm)
    doutput[:, 1] = 0  # one sequence without any gradient
    plain = backward_clipped(lstm, trace, doutput, max_norm=0.5)
    scaled = backward_clipped(lstm, trace, doutput * scale, max_norm=0.5 * scale)
    assert 0 < plain.capped < plain.total
    assert np.array_equal(plain.factors["l0"] < 1, scaled.factors["l0"] < 1)
    np.testing.assert_allclose(scaled.norms["l0"] / scale, plain.norms["l0"], rtol=1e-13)
    np.testing.assert_allclose(scaled.factors["l0"], plain.factors["l0"], rtol=1e-13)
    reference = plain.result.dx
    np.testing.assert_allclose(scaled.result.dx / scale, reference, rtol=0, atol=1e-14 * np.abs(reference).max())
