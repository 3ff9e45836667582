"""Identities no single module owns: sums over a batch, padding, reversed time, the table against brute force."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.lab import decompose

EPS = np.finfo(float).eps
KINDS = [RNN, LSTM, GRU]
T, N, D, H = 12, 4, 3, 4


def setup(kind, seed=0, **options):
    rng = np.random.default_rng(seed)
    layer, x = kind(D, H, rng=1, **options), rng.normal(size=(T, N, D))
    return layer, x, rng.normal(size=(T, N, H * layer.num_directions))


def back(layer, x, doutput, lengths=None):
    return layer.backward(layer.forward(x, lengths=lengths)[2], doutput)


def close(found, expected, factor=32):
    np.testing.assert_allclose(found, expected, rtol=0, atol=factor * EPS * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_batch_is_the_sum_over_its_sequences(kind):
    """I14."""
    layer, x, doutput = setup(kind, num_layers=2, bidirectional=True)
    whole = back(layer, x, doutput)
    singles = [back(layer, x[:, n : n + 1], doutput[:, n : n + 1]) for n in range(N)]
    for name, gradient in whole.grads.items():
        close(gradient, sum(single.grads[name] for single in singles))
    close(whole.dx, np.concatenate([single.dx for single in singles], axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    """I14: more steps behind the ends, with any values and any gradient there, leave all gradients as they are."""
    layer, x, doutput = setup(kind, bidirectional=True)
    lengths = [T, 7, 1, 5]
    rng = np.random.default_rng(9)
    longer = np.concatenate([x, rng.normal(size=(5, N, D))])
    more = np.concatenate([doutput, rng.normal(size=(5, N, 2 * H))])
    short, long = back(layer, x, doutput, lengths), back(layer, longer, more, lengths)
    for name, gradient in short.grads.items():
        close(long.grads[name], gradient)
    close(long.dx[:T], short.dx)
    assert not long.dx[T:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_reversing_a_bidirectional_net_twice_is_the_identity(kind):
    """I14: with time and the two directions turned round, outputs and gradients are turned round; twice is nothing."""
    layer, x, doutput = setup(kind, bidirectional=True)
    turned = layer.astype(np.float64)
    pairs = {name: f"{name}_reverse" for name in layer.params if not name.endswith("_reverse")}
    pairs |= {other: name for name, other in pairs.items()}
    for name, other in pairs.items():
        turned.params[name] = layer.params[other]

    def swapped(array):
        return np.roll(array[::-1], H, axis=2)

    close(turned(x[::-1])[0], swapped(layer(x)[0]))
    once, other = back(layer, x, doutput), back(turned, x[::-1], swapped(doutput))
    close(other.dx, once.dx[::-1])
    for name, gradient in once.grads.items():
        close(other.grads[pairs[name]], gradient)
        np.testing.assert_array_equal(turned.params[pairs[name]], layer.params[name])
    np.testing.assert_array_equal(swapped(swapped(doutput)), doutput)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l0"])
def test_blocks_of_a_lower_layer_by_brute_force(kind, name):
    """A parameter of the lower layer changes at step k alone, and the upper layer sees that at step t alone."""
    steps = 4
    layer, x, doutput = setup(kind, num_layers=2)
    x, doutput = x[:steps, :1], doutput[:steps, :1]
    table = decompose(layer, layer.forward(x)[2], doutput)
    whole, lower, upper = (net.astype(np.complex128) for net in (layer, kind(D, H, rng=0), kind(H, H, rng=0)))
    for own in lower.params:
        lower.params[own], upper.params[own] = whole.params[own], whole.params[f"{own[:-1]}1"]
    seen = lower(x.astype(complex))[0]
    weight = lower.params[name]
    for k in range(steps):
        expected = np.zeros((steps, *weight.shape))
        for index in np.ndindex(weight.shape):
            state = None
            for t in range(steps):
                kept = weight[index]
                weight[index] += 1e-20j * (t == k)
                output, state = lower(x[t : t + 1].astype(complex), state)
                weight[index] = kept
                one = seen.copy()
                one[t] = output[0]
                expected[(t, *index)] = (upper(one)[0] * doutput).sum().imag / 1e-20
        for t in range(k, steps):
            close(table.block(name, t, k), expected[t], 64)
        assert not expected[:k].any()
