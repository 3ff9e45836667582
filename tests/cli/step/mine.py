"""Passes to step through, small enough to be read in a transcript."""

import numpy as np

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.engine import Cell, Recurrent
from rnn_numpy.layers.attention import AttentionLSTM


def elman_forward(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.tanh(a_t)


def elman_backward(dh_t, h_t, W_hh, da_t, dh_in):
    da_t[...] = dh_t * (1 - h_t**2)
    dh_in += W_hh.T @ da_t


class Elman(Recurrent):
    """A cell of one's own, without equations."""

    cell = Cell(gate_names=("a",), states=("h",), step_forward=elman_forward, step_backward=elman_backward)


def inputs(T, N, D):
    return np.sin(np.arange(T * N * D)).reshape(T, N, D)


def last(layer, x, **options):
    """The gradient of the sum of the last outputs."""
    output, _, trace = layer.forward(x, **options)
    doutput = np.zeros_like(output)
    doutput[-1] = 1
    return layer, trace, doutput


def vanishing():
    return last(RNN(2, 4, rng=0), inputs(20, 1, 2))


def exploding():
    rnn = RNN(2, 4, rng=0)
    rnn.params["weight_hh_l0"][...] = 3 * np.eye(4)
    return last(rnn, 0.001 * inputs(20, 1, 2))


def stacked():
    lstm = LSTM(2, 3, 2, bidirectional=True, rng=0)
    return last(lstm, inputs(6, 3, 2), lengths=[4, 6, 5])


def infinite():
    gru, x = GRU(2, 3, rng=0), inputs(8, 1, 2)
    x[5] = np.inf
    with np.errstate(invalid="ignore"):
        return last(gru, x)


def relu():
    return last(RNN(2, 4, nonlinearity="relu", rng=0), inputs(12, 2, 2))


def float32():
    return last(GRU(2, 3, dtype=np.float32, rng=0), inputs(6, 1, 2).astype(np.float32))


def final():
    """By the final states alone."""
    lstm = LSTM(2, 3, rng=0)
    _, _, trace = lstm.forward(inputs(9, 1, 2))
    return lstm, trace, None, (np.ones((1, 1, 3)), np.zeros((1, 1, 3)))


def long():
    return last(RNN(2, 4, rng=0), inputs(300_000, 1, 2))


def complex_numbers():
    return last(RNN(2, 4, dtype=np.complex128, rng=0), inputs(8, 2, 2) * (1 + 0.5j))


def batch_first():
    layer = LSTM(2, 3, batch_first=True, rng=0)
    output, _, trace = layer.forward(inputs(4, 7, 2), lengths=[7, 2, 5, 3])
    return layer, trace, np.ones_like(output)


def own_cell():
    """Of a cell without equations."""
    return last(Elman(2, 4, rng=0), inputs(8, 1, 2))


def attending():
    """Reads a memory of four rows, the last one not there for the second sequence."""
    layer = AttentionLSTM(2, 3, score="additive", attention_size=2, memory_size=2, rng=0)
    exists = np.array([[True] * 4, [True, True, True, False]])
    given = {"values": inputs(4, 2, 2), "keys": inputs(4, 2, 2) - 0.5, "exists": exists}
    return last(layer, inputs(6, 2, 2), given=given)


def two():
    return RNN(2, 4, rng=0), None


def no_layer():
    return 1, 2, 3


def no_trace():
    return RNN(2, 4, rng=0), np.ones(3), np.ones(3)


def wrong_gradient():
    layer, trace, _ = vanishing()
    return layer, trace, np.ones((3, 3))


def raising():
    return 1 / 0
