"""What a sequence is told does not depend on who sits beside it, but for rounding; and who draws which mask."""

import copy

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN

# The matrix library sums a product of N columns in an order that depends on N and on the processor. Measured over both
# kernels that are in use here (Haswell, SkylakeX): at most 4 units of eps over 20 steps, forward and back; twice that
# is allowed.
UNITS = 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("hidden", [8, 64, 200])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_a_sequence_is_the_same_in_every_batch_but_for_rounding(kind, hidden, dtype):
    rng = np.random.default_rng(0)
    layer = kind(5, hidden, rng=0, dtype=dtype)
    x, doutput = rng.normal(size=(20, 16, 5)).astype(dtype), rng.normal(size=(20, 16, hidden)).astype(dtype)

    def passes(rows):
        output, _, trace = layer.forward(x[:, rows])
        return output, layer.backward(trace, doutput[:, rows]).dx

    whole = passes(slice(None))
    for rows in (slice(1), slice(2), slice(3), slice(4), slice(7), slice(8), slice(12), rng.permutation(16)):
        for array, part in zip(whole, passes(rows), strict=True):
            expected = array[:, rows]
            assert abs(part - expected).max() <= UNITS * np.finfo(dtype).eps * abs(expected).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_the_same_batch_twice_is_the_same_bit_for_bit(kind, dtype):
    layer = kind(5, 64, rng=0, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(20, 6, 5)).astype(dtype)
    assert layer(x)[0].tobytes() == layer(x.copy())[0].tobytes()


def test_a_copy_draws_the_masks_of_the_original_until_it_has_a_generator_of_its_own():
    layer = GRU(3, 8, num_layers=2, dropout=0.5, rng=0)
    x = np.ones((5, 2, 3))
    # What a forked worker gets is a copy, generator included.
    workers = [copy.deepcopy(layer) for _ in range(2)]
    equal = [worker.forward(x)[0] for worker in workers]
    assert equal[0].tobytes() == equal[1].tobytes()
    for number, worker in enumerate(workers):
        worker.rng = np.random.default_rng([7, number])
    own = [worker.forward(x)[2].masks for worker in workers]
    assert not np.array_equal(own[0], own[1])
