"""The gradients of RNN against derivatives of the textbook's loop, entry by entry, over drawn sizes and options.

The loop below shares no line with the engine: it runs sequence by sequence, step by step, and knows no backward pass.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rnn_numpy import RNN
from rnn_numpy.checks import assert_grad_close, central_difference, complex_step, discrepancy
from strategies import KINK_DISTANCE, setups


def naive_rnn(point, setup):
    """Return output (T, N, ·) and h_n (rows, N, H) of the RNN with the arrays of `point`, computed by the formula."""
    rnn = setup.rnn
    x = setup.time_major(point["x"])
    T, N = x.shape[:2]
    H, directions = rnn.hidden_size, rnn.num_directions
    lengths = [T] * N if setup.lengths is None else setup.lengths
    zeros = np.zeros((rnn.num_layers * directions, N, H))
    h_0 = point.get("h_0", zeros).reshape(zeros.shape)
    dtype = x.dtype
    h_n = np.zeros(zeros.shape, dtype)
    for layer in range(rnn.num_layers):
        output = np.zeros((T, N, directions * H), dtype)
        for direction in range(directions):
            suffix = f"_l{layer}" + "_reverse" * direction
            W_ih, W_hh = point["weight_ih" + suffix], point["weight_hh" + suffix]
            b = point["bias_ih" + suffix] + point["bias_hh" + suffix] if rnn.bias else 0.0
            for n in range(N):
                h = h_0[layer * directions + direction, n]
                for t in range(lengths[n]) if direction == 0 else reversed(range(lengths[n])):
                    a = W_ih @ x[t, n] + W_hh @ h + b
                    h = np.tanh(a) if rnn.nonlinearity == "tanh" else np.where(a.real > 0, a, 0)
                    output[t, n, direction * H : (direction + 1) * H] = h
                h_n[layer * directions + direction, n] = h
        x = output
        if setup.masks is not None and layer < rnn.num_layers - 1:
            x = x * setup.masks[layer]
    return x, h_n


def naive_loss(setup):
    """Return the function of all arrays whose gradient backward is to give."""

    def loss(point):
        output, h_n = naive_rnn(point, setup)
        total = output.dtype.type(0)
        if setup.doutput is not None:
            total += np.sum(setup.time_major(setup.doutput) * output)
        if setup.dh_n is not None:
            total += np.sum(setup.dh_n.reshape(h_n.shape) * h_n)
        return total

    return loss


def point_of(setup):
    """Return every array by which the loss is differentiated."""
    point = {**setup.rnn.state_dict(), "x": setup.x}
    return point if setup.h_0 is None else {**point, "h_0": setup.h_0}


def analytic_gradients(setup):
    _, _, trace = setup.forward()
    back = setup.rnn.backward(trace, setup.doutput, setup.dh_n)
    return {**back.grads, "x": back.dx, "h_0": back.dh_0}


@given(setups())
def test_forward_is_the_naive_loop(setup):
    output, h_n, _ = setup.forward()
    expected_output, expected_h_n = naive_rnn(point_of(setup), setup)
    assert_grad_close("output", setup.time_major(output), expected_output)
    assert_grad_close("h_n", h_n, expected_h_n.reshape(h_n.shape))


@settings(max_examples=60)
@given(setups(gains=(0.3, 1.0)))
def test_gradients_are_those_of_the_complex_step(setup):
    # The saturated regime has a test of its own below: there 1 - h^2 holds fewer digits.
    assume(setup.rnn.nonlinearity == "relu" or setup.saturation() > 0.05)
    analytic, point, loss = analytic_gradients(setup), point_of(setup), naive_loss(setup)
    rng = np.random.default_rng(0)
    moved = {name: array * (1 + 2.0**-50 * rng.uniform(-1, 1, array.shape)) for name, array in point.items()}
    shifted = complex_step(loss, moved)
    for name, reference in complex_step(loss, point).items():
        # 1e-13, but where the terms of a sum cancel, no more than what the last bits of the data decide.
        blur = 4 * discrepancy(shifted[name], reference).error
        assert_grad_close(f"d{name}", analytic[name], reference, 1e-13 + blur)


@settings(max_examples=40)
@given(setups())
def test_gradients_are_those_of_central_differences(setup):
    if setup.rnn.nonlinearity == "relu":
        assert setup.kink_distance() > KINK_DISTANCE
    analytic, reference = analytic_gradients(setup), central_difference(naive_loss(setup), point_of(setup))
    # The rounding error of a central difference, eps |L| / h, is that of the loss and the same for all entries: it is
    # measured against the whole gradient. The complex step judges every tensor by itself.
    ours, theirs = (np.concatenate([part[name].ravel() for name in reference]) for part in (analytic, reference))
    assert_grad_close(f"d({', '.join(reference)})", ours, theirs, 1e-7)


@settings(max_examples=30)
@given(setups(), st.integers(0, 2**32 - 1))
def test_gradients_add_up_over_losses_and_steps_equal_one_shot(setup, seed):
    rng = np.random.default_rng(seed)
    output, h_n, trace = setup.forward()
    doutput, dh_n = rng.normal(size=output.shape), rng.normal(size=h_n.shape)
    both = setup.rnn.backward(trace, doutput, dh_n)
    grads = setup.rnn.params.zeros_like()
    through_output = setup.rnn.backward(trace, doutput, grads=grads)
    through_state = setup.rnn.backward(trace, None, dh_n, grads)
    assert_grad_close("dx", through_output.dx + through_state.dx, both.dx)
    assert_grad_close("dh_0", through_output.dh_0 + through_state.dh_0, both.dh_0)
    assert_grad_close("grads", grads.flat, both.grads.flat)
    steps = setup.rnn.backward_steps(trace, doutput, dh_n)
    for _ in steps:
        pass
    assert np.array_equal(steps.result.dx, both.dx)
    assert np.array_equal(steps.result.dh_0, both.dh_0)
    assert np.array_equal(steps.result.grads.flat, both.grads.flat)


@given(setups())
def test_both_biases_have_one_gradient(setup):
    grads = setup.rnn.backward(setup.forward()[2], setup.doutput, setup.dh_n).grads
    for name in grads:
        if name.startswith("bias_ih"):
            assert np.array_equal(grads[name], grads[name.replace("_ih", "_hh")])


# A gradient that vanishes is not zero, and one that is tiny is not right because it is tiny.
@pytest.mark.parametrize("gain", [0.01, 0.1, 0.5])
def test_vanishing_gradients_keep_their_digits(gain):
    T, H = 60, 4
    rnn = RNN(2, H, rng=5)
    rnn.params["weight_hh_l0"][...] = gain * np.linalg.qr(np.random.default_rng(6).normal(size=(H, H)))[0]
    x = 0.1 * np.random.default_rng(7).normal(size=(T, 1, 2))
    output, _, trace = rnn.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = 1.0
    back = rnn.backward(trace, doutput)
    # The textbook's product, without the engine: dh_{k-1} = W_hh^T diag(1 - h_k^2) dh_k.
    dh = doutput[-1, 0]
    for k in reversed(range(T)):
        da = dh * (1 - output[k, 0] ** 2)
        assert_grad_close(f"dx[{k}]", back.dx[k, 0], da @ rnn.params["weight_ih_l0"], 1e-13)
        dh = da @ rnn.params["weight_hh_l0"]
    assert 0 < np.max(np.abs(back.dh_0)) < 10 * gain**T
    assert_grad_close("dh_0", back.dh_0[0, 0], dh, 1e-13)


# phi' = 1 - h^2 is computed from h, as everywhere: near |h| = 1 it keeps the digits that h has beyond its first nines.
@pytest.mark.parametrize("a", [0.5, 2.0, 4.0, 8.0, 12.0])
def test_saturated_units_lose_the_digits_of_1_minus_h_squared_and_no_more(a):
    rnn = RNN(1, 1, bias=False)
    rnn.params.flat[:] = 1.0, 0.0
    _, _, trace = rnn.forward(np.array([[a]]))
    dx = rnn.backward(trace, np.ones((1, 1))).dx
    exact = 4 * np.exp(-2 * a) / (1 + np.exp(-2 * a)) ** 2
    assert_grad_close("dx", dx, np.array([[exact]]), 4 * np.finfo(float).eps / exact)


def test_relu_has_derivative_0_at_its_kink():
    rnn = RNN(1, 1, nonlinearity="relu", bias=False)
    rnn.params.flat[:] = 1.0, 0.5
    x = np.array([[1.0], [-0.5], [2.0]])  # a_1 = 0.5 * 1 - 0.5 = 0
    _, _, trace = rnn.forward(x)
    assert trace.a.ravel().tolist() == [1.0, 0.0, 2.0]
    back = rnn.backward(trace, np.ones((3, 1)))
    assert back.dx.ravel().tolist() == [1.0, 0.0, 1.0]
    assert back.dh_0.tolist() == [[0.5]]
    twin = rnn.astype(np.complex128)
    for imaginary in (1e-20, -1e-20):
        assert twin(x + np.array([[0], [1j * imaginary], [0]]))[0][1].tolist() == [0.0]
