"""What is RNN's own: digits of vanishing and of saturated gradients, and relu's kink; the rest: test_gradients.py."""

import numpy as np
import pytest

from rnn_numpy import RNN
from rnn_numpy.checks import assert_grad_close


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
