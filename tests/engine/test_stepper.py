"""Single steps on prepared memory: the bits of a call of the layer, whatever its cell, and nothing left behind."""

import numpy as np
import pytest
from attended import MGU

from rnn_numpy.engine.stepper import Stepper
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.attention_decoder import with_attention
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.layers.lstm import LSTM

D, H, S, M = 3, 5, 4, 6


def stepped(layer, x, states, given=None, make=Stepper):
    """Return the outputs and the final states of a step after the other."""
    step = make(layer, x.shape[1], given)
    outputs = []
    for x_t in x:
        before = [state.copy() for state in states]
        output, after = step(x_t, states)
        assert all(np.array_equal(old, kept) for old, kept in zip(before, states, strict=True))
        outputs.append(output)
        states = after
    return np.array(outputs), states


def called(layer, x, states, **given):
    """The same by calls of the layer, of one step each."""
    outputs = []
    for x_t in x:
        output, h_n, _ = layer.forward(x_t[None], states if len(states) > 1 else states[0], training=False, **given)
        states = h_n if isinstance(h_n, tuple) else (h_n,)
        outputs.append(output[0])
    return np.array(outputs), states


def drawn(layer, N, dtype=np.float64, T=3, **sizes):
    rng = np.random.default_rng(0)
    states = [
        rng.normal(size=(layer.num_layers, N, sizes.get(name, layer.widths[name]))).astype(dtype)
        for name in layer.cell.states
    ]
    return rng.normal(size=(T, N, layer.input_size)).astype(dtype), tuple(states)


def assert_same(one, other):
    for a, b in zip([one[0], *one[1]], [other[0], *other[1]], strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_cell(name, dtype):
    for N in (1, 5):
        for options in ({}, {"num_layers": 2}, {"bias": False}):
            layer = KINDS[name](D, H, **options, dtype=dtype, rng=0)
            x, states = drawn(layer, N, dtype)
            assert_same(stepped(layer, x, states), called(layer, x, states))


def test_options_of_layers():
    for layer in (
        LSTM(D, H, proj_size=2, num_layers=2, rng=0),
        LSTM(D, H, zoneout=(0.3, 0.2), recurrent_dropout=0.5, num_layers=2, dropout=0.5, rng=0),
        MGU(D, H, rng=0),
    ):
        x, states = drawn(layer, 4)
        assert_same(stepped(layer, x, states), called(layer, x, states))
    turned, plain = GRU(D, H, batch_first=True, rng=0), GRU(D, H, rng=0)
    assert_same(stepped(turned, *drawn(turned, 4)), called(plain, *drawn(plain, 4)))


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_what_is_given_can_be_replaced(kind):
    layer = with_attention(kind)(
        D, H, memory_size=M, score="additive", attention_size=2, coverage=True, input_feeding=True, gate="vector", rng=0
    )
    N, rng = 5, np.random.default_rng(1)
    x, states = drawn(layer, N, cov=S)
    exists = np.arange(S) < np.array([[4], [1], [2], [4], [3]])
    first, second = [
        {"values": rng.normal(size=(N, S, M)), "keys": rng.normal(size=(N, S, 2)), "exists": exists} for _ in range(2)
    ]

    def loaded(layer, rows, given):
        step = Stepper(layer, rows, first)
        step(x[0], states)
        step.load(given)
        return step

    for given in (first, second):
        caller = {
            "values": given["values"].swapaxes(0, 1), "keys": given["keys"].swapaxes(0, 1), "exists": exists,
        }  # fmt: skip
        expected = called(layer, x, states, given=caller)
        assert_same(stepped(layer, x, states, given), expected)
        assert_same(stepped(layer, x, states, given, loaded), expected)
    assert not np.array_equal(stepped(layer, x, states, first)[0], expected[0])


@pytest.mark.parametrize("name", ["rnn-tanh", "gru"])
def test_weights_are_those_of_its_making(name):
    layer = KINDS[name](D, H, rng=0)
    x, states = drawn(layer, 2)
    step, expected = Stepper(layer, 2), called(layer, x[:1], states)
    layer.params.flat[:] = 0
    output, _ = step(x[0], states)
    assert np.array_equal(output, expected[0][0])
    # What it returned is not what the next step writes.
    step(x[1], states)
    assert np.array_equal(output, expected[0][0])


def test_two_directions_are_refused():
    with pytest.raises(OptionError, match="Stepper: layer must not be bidirectional"):
        Stepper(GRU(D, H, bidirectional=True, rng=0), 2)
