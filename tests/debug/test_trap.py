"""`debug.trap()`: the first operation that overflows or makes a NaN is told with its step."""

import numpy as np
import pytest

from rnn_numpy import LSTM, RNN, debug
from rnn_numpy.layers import mse_loss


def growing():
    layer = RNN(1, 2, nonlinearity="relu", rng=0)
    layer.params["weight_hh_l0"][...] = 1e150 * np.eye(2)
    return layer


def test_a_forward_pass_is_stopped_at_its_step():
    layer, x, h_0 = growing(), np.ones((6, 1, 1)), np.ones((1, 1, 2))
    with pytest.raises(FloatingPointError) as caught, debug.trap():
        layer.forward(x, h_0)
    words = str(caught.value)
    assert words.startswith("overflow encountered in dot: l0 t = 2, relu_step_forward, line ")
    assert words.endswith(": a_t += h_in.dot(W_hh.T)  # F1")
    assert np.isfinite(layer.forward(x[:2], h_0)[2].h).all()  # it is the first step that does


def test_a_backward_pass_is_stopped_at_its_step():
    layer, x = growing(), np.ones((3, 1, 1))
    layer.params["bias_ih_l0"][...] = 1  # on, and finite
    _, _, trace = layer.forward(x)
    doutput = np.zeros((3, 1, 2))
    doutput[2] = 1e20
    with pytest.raises(FloatingPointError) as caught, debug.trap():
        layer.backward(trace, doutput)
    assert str(caught.value).startswith(
        "overflow encountered in dot: l0 t = 1, on the way back, rnn_step_backward, line "
    )
    with np.errstate(all="ignore"):
        layer.backward(trace, doutput)
    assert np.isfinite(trace[1].dh).all() and not np.isfinite(trace[1].dh_prev).all()


def test_outside_of_a_step_it_says_so():
    with pytest.raises(FloatingPointError, match="overflow .*: outside of a step, .*, line "), debug.trap():
        mse_loss(np.full((2, 1), 1e200), np.zeros((2, 1)))


def test_the_net_has_the_hole_that_it_says():
    """An infinite input that only gates see makes no noise; `first_non_finite` finds it."""
    lstm, x = LSTM(1, 2, rng=0), np.ones((5, 1, 1))
    x[3] = np.inf
    with debug.trap():
        _, _, trace = lstm.forward(x)
    assert debug.first_non_finite(lstm, trace).place == ("l0", 3, "x")


def test_what_is_set_before_is_set_after():
    before = np.geterr()
    with debug.trap():
        pass
    with pytest.raises(KeyError), debug.trap():
        raise KeyError
    assert np.geterr() == before
