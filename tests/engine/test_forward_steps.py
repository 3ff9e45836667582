"""The forward pass, halted after each step: what stands there, what does not yet, and that it is the pass itself."""

import gc
import weakref

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, PeepholeLSTM

OPTIONS = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2}


def arrays_of(trace):
    return {(name, array): getattr(layer, array) for name, layer in trace.layers.items() for array in layer.names}


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, PeepholeLSTM])
@pytest.mark.parametrize("lengths", [None, [2, 5, 3]])
def test_stepping_is_the_pass_bit_for_bit(kind, lengths):
    x = np.random.default_rng(0).normal(size=(5, 3, 2))
    output, h_n, trace = kind(2, 4, rng=1, **OPTIONS).forward(x, lengths=lengths)
    steps = kind(2, 4, rng=1, **OPTIONS).forward_steps(x, lengths=lengths)
    assert steps.result is None
    visited = [(step.layer, step.reverse, step.t) for step in steps]
    times = range(5)
    assert visited == [
        (layer, reverse, t)
        for layer in (0, 1)
        for reverse in (False, True)
        for t in (times[::-1] if reverse else times)
    ]
    stepped, stepped_n, stepped_trace = steps.result
    assert stepped_trace is steps.trace
    np.testing.assert_array_equal(stepped, output)
    for one, other in zip(np.atleast_1d(stepped_n), np.atleast_1d(h_n), strict=True):
        np.testing.assert_array_equal(one, other)
    found, expected = arrays_of(stepped_trace), arrays_of(trace)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_halted_pass_shows_what_it_has_done(reverse):
    x = np.random.default_rng(0).normal(size=(5, 2, 2))
    lstm = LSTM(2, 3, bidirectional=True, rng=1)
    whole = lstm.forward(x)[2]
    name = "l0_reverse" if reverse else "l0"
    steps = lstm.forward_steps(x)
    for step in steps:
        if step.reverse == reverse and step.t == 2:
            break
    layer = steps.trace[name]
    done, open_steps = ([2, 3, 4], [0, 1]) if reverse else ([0, 1, 2], [3, 4])
    np.testing.assert_array_equal(step.h, whole[name][2].h)
    np.testing.assert_array_equal(layer.i[done], whole[name].i[done])
    assert np.isnan(layer.i[open_steps]).all()
    np.testing.assert_array_equal(layer.x, x)
    rows = [2, 3, 4, 5] if reverse else [0, 1, 2, 3]
    np.testing.assert_array_equal(layer.c[rows], whole[name].c[rows])
    assert np.isnan(np.delete(layer.c, rows, axis=0)).all()
    late = layer[open_steps[0]]
    assert late.names == ("x",)
    with pytest.raises(AttributeError) as told:
        _ = late.h
    assert str(told.value) == f"step {open_steps[0]} has no h yet: the forward pass stands at t = 2"
    assert repr(steps).startswith(f"ForwardSteps: after step t = 2 of {name}")
    for _ in steps:
        pass
    assert repr(steps) == "ForwardSteps: done"
    np.testing.assert_array_equal(steps.result[2][name].i, whole[name].i)


def test_before_the_first_step_nothing_is_there():
    steps = RNN(2, 3, rng=0).forward_steps(np.ones((4, 1, 2)))
    assert repr(steps) == "ForwardSteps: before the first step"
    assert steps.trace.layers == {}


def test_a_halted_pass_can_be_left_and_the_layer_used_again():
    rnn, x = RNN(2, 3, rng=0), np.ones((4, 1, 2))
    steps = rnn.forward_steps(x)
    next(steps)
    output, _, trace = rnn.forward(x)
    rnn.backward(trace, np.ones_like(output))
    rest = [step.t for step in steps]
    assert rest == [1, 2, 3]
    np.testing.assert_array_equal(steps.result[0], output)


def test_arguments_are_checked_at_once():
    with pytest.raises(ValueError, match=r"RNN.forward: x must have shape \(T, N, D\) with D = input_size = 2; got"):
        RNN(2, 3).forward_steps(np.ones((4, 1, 5)))


def test_a_pass_left_halfway_is_freed_at_once():
    """No circle of references holds its arrays until somebody collects garbage."""
    rnn, x = RNN(2, 3, rng=0), np.ones((4, 1, 2))
    output, _, trace = rnn.forward(x)
    gc.disable()
    try:
        for start in (lambda: rnn.forward_steps(x), lambda: rnn.backward_steps(trace, np.ones_like(output))):
            steps = start()
            next(steps)
            loop = weakref.ref(steps._loop)
            assert loop() is not None
            del steps
            assert loop() is None
    finally:
        gc.enable()
