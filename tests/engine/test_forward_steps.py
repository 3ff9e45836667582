"""The forward pass, halted after each step: what stands there, what does not yet, and that it is the pass itself."""

import gc
import weakref

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, PeepholeLSTM, decompose
from rnn_numpy.errors import OptionError

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


@pytest.mark.parametrize("done", [0, 1, 7])
def test_a_trace_of_a_pass_that_is_not_through_has_no_backward_pass(done):
    net, x = RNN(2, 3, num_layers=2, rng=0), np.ones((5, 2, 2))
    steps = net.forward_steps(x)
    for _ in range(done):
        next(steps)
    for call, where in ((net.backward, "RNN.backward"), (net.backward_steps, "RNN.backward"), (decompose, "decompose")):
        arguments = (net, steps.trace) if call is decompose else (steps.trace,)
        with pytest.raises(OptionError) as told:
            call(*arguments, np.ones((5, 2, 3)))
        assert str(told.value) == (
            f"{where}: trace must be of a whole forward pass; run the steps of this one to the end"
        )
    output, _, trace = [list(steps), steps.result][1]
    assert np.isfinite(net.backward(trace, np.ones_like(output)).grads.flat).all()


def test_an_empty_trace_says_that_it_is():
    trace = RNN(2, 3, rng=0).forward_steps(np.ones((5, 2, 2))).trace
    assert repr(trace) == "Trace"
    assert len(trace) == 5
    assert "layers" in dir(trace)
    assert not hasattr(trace, "h")
    with pytest.raises(AttributeError, match="the trace has no h yet: its forward pass has not begun"):
        _ = trace.h
    for read in (lambda: trace[0], lambda: list(trace), lambda: trace.top):
        with pytest.raises(OptionError, match="the trace is empty: its forward pass has not begun"):
            read()
    with pytest.raises(OptionError, match="layers and directions are none, its forward pass has not begun"):
        _ = trace["l0"]


def test_what_happens_to_arguments_and_parameters_between_steps_changes_nothing():
    net, x, h_0 = LSTM(2, 3, num_layers=2, rng=0), np.ones((4, 2, 2)), (np.ones((2, 2, 3)), np.ones((2, 2, 3)))
    expected = net.forward(x, h_0)[0]
    steps = net.forward_steps(x, h_0)
    net.params.flat[...] = 0
    x[...], h_0[0][...], h_0[1][...] = 5, 6, 7
    list(steps)
    np.testing.assert_array_equal(steps.result[0], expected)
