"""A decoder one step at a time: what its forward pass gives, whatever rows it goes on with."""

import numpy as np
import pytest
from attended import MGU

from rnn_numpy.layers.attention_decoder import AttentionDecoder

D, H, M, S, T = 3, 6, 5, 4, 3
OPTIONS = [
    {"score": "general"},
    {"score": "additive", "attention_size": 2, "cell": "lstm", "num_layers": 2},
    {"score": "dot", "memory_size": H, "cell": "rnn"},
    {"order": "before", "score": "scaled_dot", "memory_size": H, "cell": MGU},
    {"order": "before", "score": "additive", "coverage": True, "gate": "vector", "num_layers": 3, "cell": "lstm"},
    {"order": "before", "score": "additive", "location": (2, 3)},
    {"input_feeding": True, "score": "general", "cell": "peephole", "gate": "scalar"},
    {"input_feeding": True, "score": "dot", "memory_size": H, "num_layers": 2},
]


def made(options, N, dtype=np.float64):
    options = {"memory_size": M, **options}
    decoder = AttentionDecoder(D, H, options.pop("memory_size"), rng=0, dtype=dtype, **options)
    rng = np.random.default_rng(1)
    x, memory = rng.normal(size=(T, N, D)), rng.normal(size=(S, N, decoder.memory_size))
    h_0 = tuple(rng.normal(size=(decoder.num_layers, N, H)).astype(dtype) for _ in decoder.own)
    return decoder, x.astype(dtype), memory.astype(dtype), h_0 if len(h_0) > 1 else h_0[0]


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_steps_are_those_of_forward(options, dtype, rtol):
    decoder, x, memory, h_0 = made(options, 5, dtype)
    lengths = [4, 2, 1, 3, 4]
    output, h_n, trace = decoder.forward(x, memory, h_0, memory_lengths=lengths, training=False)
    state = decoder.begin(memory, h_0, memory_lengths=lengths)
    assert state.alpha is None
    for t in range(T):
        before = [array.copy() for array in as_tuple(state.states)]
        found, after = decoder.step(x[t], state)
        assert all(np.array_equal(*pair) for pair in zip(before, as_tuple(state.states), strict=True))
        state = after
        assert found.dtype == state.alpha.dtype == dtype
        np.testing.assert_allclose(found, output[t], rtol=rtol)
        np.testing.assert_allclose(state.alpha, trace.alpha[t], rtol=rtol)
    for one, other in zip(as_tuple(state.states), as_tuple(h_n), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_go_on_with_all_that_is_theirs(options):
    decoder, x, memory, h_0 = made(options, 3)
    lengths, rows = np.array([4, 2, 3]), np.array([2, 0, 0, 1, 2])
    _, state = decoder.step(x[0], decoder.begin(memory, h_0, memory_lengths=lengths))
    expected = decoder.begin(
        memory[:, rows], h_0[:, rows] if isinstance(h_0, np.ndarray) else tuple(h[:, rows] for h in h_0),
        memory_lengths=lengths[rows],
    )  # fmt: skip
    _, expected = decoder.step(x[0][rows], expected)
    taken = state.take(rows)
    np.testing.assert_allclose(taken.alpha, expected.alpha, rtol=1e-13)
    for one, other in ((taken, expected), (taken.take([1, 4]), expected.take([1, 4]))):
        signal = np.random.default_rng(2).normal(size=(len(one.alpha), D))
        outputs = [decoder.step(signal, state) for state in (one, other)]
        np.testing.assert_allclose(outputs[0][0], outputs[1][0], rtol=1e-13)
        np.testing.assert_allclose(outputs[0][1].alpha, outputs[1][1].alpha, rtol=1e-13)
    # States of other rows, and of other memories, do not disturb each other.
    first, again = decoder.step(x[1], state), decoder.step(x[1], state)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1].alpha, again[1].alpha)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_calls_that_share_steppers(options):
    decoder, x, memory, _ = made(options, 3)
    memories, steppers = [memory[:, :1], memory[:, 1:2], memory[:2, 2:]], {}
    alone = [decoder.begin(one) for one in memories]
    shared = [decoder.begin(one, steppers=steppers) for one in memories]
    for t in range(T):  # one after the other in turn
        for n in range(3):
            one, alone[n] = decoder.step(x[t, n : n + 1], alone[n])
            other, shared[n] = decoder.step(x[t, n : n + 1], shared[n])
            assert np.array_equal(one, other) and np.array_equal(alone[n].alpha, shared[n].alpha)
    # Parameters of before are not remembered by what begins later.
    decoder.params.flat[:] *= 0.5
    output = decoder.forward(x[:1, :1], memory[:, :1], training=False)[0]
    np.testing.assert_allclose(decoder.step(x[0, :1], decoder.begin(memory[:, :1]))[0], output[0], rtol=1e-13)
