"""What a reader of the trace sees: names, rows, tables, and errors."""

import copy
import pickle

import numpy as np
import pytest

from rnn_numpy import RNN
from rnn_numpy.errors import DTypeError, OptionError


def traced(**options):
    rnn = RNN(2, 3, rng=0, **options)
    x = np.random.default_rng(1).normal(size=(4, 3, 2))
    return rnn, x


@pytest.mark.parametrize("lengths", [None, [2, 4, 1]])
@pytest.mark.parametrize("name", ["l0", "l0_reverse", "l1", "l1_reverse"])
def test_every_step_satisfies_the_equations(lengths, name):
    rnn, x = traced(num_layers=2, bidirectional=True)
    output, _, trace = rnn.forward(x, lengths=lengths)
    rnn.backward(trace, np.ones_like(output))
    W_ih, W_hh, b_ih, b_hh = (rnn.params[f"{part}_{name}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    for step in trace[name]:
        alive = np.ones(3, bool) if lengths is None else np.array(lengths) > step.t
        close = {"rtol": 1e-13, "atol": 1e-15}
        a = step.x @ W_ih.T + b_ih + step.h_prev @ W_hh.T + b_hh
        np.testing.assert_allclose(step.a[alive], a[alive], **close)
        np.testing.assert_allclose(step.h[alive], np.tanh(a)[alive], **close)
        np.testing.assert_allclose(step.da[alive], (step.dh * (1 - step.h**2))[alive], **close)
        assert not step.da[~alive].any() and not step.a[~alive].any()


def test_step_names_say_what_is_read_before_what_is_written():
    rnn, x = traced()
    _, _, trace = rnn.forward(x)
    assert trace[0].names == ("x", "h_prev", "a", "h")
    rnn.backward(trace, None)
    assert trace[0].names == ("x", "h_prev", "a", "h", "dh", "da", "dh_prev")
    assert {"x", "h_prev", "dh"} <= set(dir(trace[0])) and {"x", "h", "dh"} <= set(dir(trace["l0"]))


def test_row_0_of_h_is_the_initial_state():
    rnn, x = traced()
    h_0 = np.full((1, 3, 3), 0.25)
    _, h_n, trace = rnn.forward(x, h_0)
    assert np.array_equal(trace.h[0], h_0[0]) and np.array_equal(trace[0].h_prev, h_0[0])
    assert np.array_equal(trace.h[4], h_n[0]) and np.array_equal(trace[-1].h, h_n[0])
    assert len(trace) == len(list(trace)) == 4 and trace.h.shape == (5, 3, 3)


def test_the_trace_keeps_its_own_copy_of_x_and_output_cannot_be_overwritten():
    rnn, x = traced()
    output, _, trace = rnn.forward(x)
    expected = rnn.backward(trace, np.ones_like(output)).grads.flat
    x[:] = np.nan
    with pytest.raises(ValueError, match="read-only"):
        output[:] = 0
    assert np.array_equal(rnn.backward(trace, np.ones(output.shape)).grads.flat, expected)


def test_wrong_names_and_steps_are_explained():
    rnn, x = traced()
    _, _, trace = rnn.forward(x)
    with pytest.raises(
        AttributeError, match="the trace of l0 has no array 'dh'; it has x, a, h. Gradients are there once"
    ):
        trace.dh
    with pytest.raises(AttributeError, match="the trace of l0 has no array 'gate'"):
        trace[0].gate
    with pytest.raises(OptionError, match=r"trace\['l7'\]: layers and directions are 'l0'"):
        trace["l7"]
    with pytest.raises(IndexError, match=r"trace\[4\]: t must be in \[-T, T\) = \[-4, 4\)"):
        trace[4]
    for wrong in (slice(0, 2), None, 1.0):
        with pytest.raises(DTypeError, match=r"^trace\[.*\]: a step is one integer t, 0 <= t < T"):
            trace[wrong]


@pytest.mark.parametrize("lengths", [None, [2, 4, 1]])
@pytest.mark.parametrize("name", ["l0", "l0_reverse"])
def test_a_pass_that_was_left_shows_no_gradient_that_it_has_not_computed(lengths, name):
    rnn, x = traced(bidirectional=True)
    output, _, trace = rnn.forward(x, lengths=lengths)
    rnn.backward(trace, np.ones_like(output))
    complete = {array: getattr(trace[name], array) for array in ("da", "dh")}
    for step in (steps := rnn.backward_steps(trace, np.ones_like(output))):
        if step.recorded.name == name and step.t == 2:
            break
    assert repr(steps) == f"BackwardSteps: after step t = 2 of {name}"
    done = [0, 1, 2] if name.endswith("reverse") else [2, 3]
    for t in range(4):
        step = trace[name][t]
        assert ("da" in step.names) == (t in done)
        if t in done:
            assert np.array_equal(step.da, complete["da"][t])
        else:
            with pytest.raises(AttributeError, match=f"step {t} has no da yet: the backward pass stands at t = 2"):
                step.da
    assert np.isnan(trace[name].da).all(axis=(1, 2)).tolist() == [t not in done for t in range(4)]
    states = [0, 1, 2, 3] if name.endswith("reverse") else [2, 3, 4]
    assert np.isnan(trace[name].dh).all(axis=(1, 2)).tolist() == [t not in states for t in range(5)]
    assert np.array_equal(trace[name].dh[states], complete["dh"][states])
    for step in steps:
        assert step.names[-1] == "dh_prev"
    assert repr(steps) == "BackwardSteps: done"
    assert np.array_equal(trace[name].da, complete["da"])


def test_a_step_can_be_copied_and_pickled():
    rnn, x = traced()
    _, _, trace = rnn.forward(x)
    for twin in (copy.copy(trace[1]), copy.deepcopy(trace[1]), pickle.loads(pickle.dumps(trace[1]))):
        assert twin.t == 1 and np.array_equal(twin.h, trace[1].h)


def test_tables_count_what_is_not_finite_and_survive_it():
    rnn, x = traced()
    x[2, 1, 0] = np.inf
    x[2, 0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        _, _, trace = rnn.forward(x)
    assert "x        (3, 2)" in repr(trace[2]) and repr(trace[2]).splitlines()[2].split()[-1] == "2"
    assert repr(trace).splitlines()[1] == "LayerTrace l0: T = 4"


def test_the_norm_in_the_table_is_right_for_tiny_numbers():
    rnn, x = traced()
    _, _, trace = rnn.forward(x * 0)
    trace.top.arrays["x"][1] = 3e-200
    row = next(line for line in repr(trace[1]).splitlines() if line.strip().startswith("x "))
    assert row.split()[-2] == "7.35e-200"
