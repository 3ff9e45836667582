"""Formulas that do not do what their cell promises are told by name, before they have computed anything."""

import contextlib
import dataclasses
import sys

import numpy as np
import pytest
from mgu import mgu_backward, mgu_forward

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.core import memory
from rnn_numpy.engine import Cell, ExtraParameter, Given, Part, Recurrent
from rnn_numpy.errors import CellError, OptionError
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN

MGU = {
    "gate_names": ("f", "n"),
    "states": ("h",),
    "step_forward": mgu_forward,
    "step_backward": mgu_backward,
    "hidden_inputs": {"n": "k_t"},
    "records": {"k": 1},
}


def message(call, **changes):
    """Return what a layer with a changed cell says when `call` runs it."""

    def run():
        class Net(Recurrent):
            cell = Cell(**{**MGU, **changes})

        return call(Net(2, 3, rng=0))

    with pytest.raises(CellError) as told:
        run()
    assert isinstance(told.value, OptionError)
    return str(told.value)


def forward(net):
    return net.forward(np.ones((4, 2, 2)))


def inference(net):
    return net(np.ones((4, 2, 2)))


def backward(net):
    output, _, trace = forward(net)
    return net.backward(trace, np.ones_like(output))


def forgets_k(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
    mgu_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, np.empty_like(k_t), h_t)


def gives_h_another_array(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
    other = np.empty_like(h_t)
    mgu_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, other)
    h_t = other


@pytest.mark.parametrize("call", [forward, inference])
@pytest.mark.parametrize(("formula", "array"), [(forgets_k, "k_t"), (gives_h_another_array, "h_t")])
def test_an_output_left_unwritten_forward(formula, array, call):
    assert message(call, step_forward=formula) == (
        f"Cell: {array} is left unwritten, in whole or in part, by {formula.__name__}; a step must write h_t, k_t, "
        "with `[...] = ` or `out=`"
    )


def doubles_h_prev(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
    mgu_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t)
    h_prev *= 2


def halves_weights(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
    W_hn *= 0.5
    mgu_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t)


@pytest.mark.parametrize(("formula", "array"), [(doubles_h_prev, "h_prev"), (halves_weights, "W_hn")])
def test_an_input_written_forward(formula, array):
    assert message(forward, step_forward=formula) == (
        f"Cell: {formula.__name__} writes {array}, which it is to read; it may write its outputs, f_t, n_t, k_t, h_t"
    )


def forgets_da_f(dh_t, f_t, n_t, h_prev, h_in, W_hf, W_hn, da_f_t, da_n_t, dh_prev, dh_in):
    mgu_backward(dh_t, f_t, n_t, h_prev, h_in, W_hf, W_hn, np.empty_like(da_f_t), da_n_t, dh_prev, dh_in)


def turns_f_around(dh_t, f_t, n_t, h_prev, h_in, W_hf, W_hn, da_f_t, da_n_t, dh_prev, dh_in):
    mgu_backward(dh_t, f_t, n_t, h_prev, h_in, W_hf, W_hn, da_f_t, da_n_t, dh_prev, dh_in)
    np.subtract(1, f_t, out=f_t)


def test_backward_formulas_are_tried_when_backward_is_first_asked_for():
    net = type("Net", (Recurrent,), {"cell": Cell(**{**MGU, "step_backward": forgets_da_f})})(2, 3, rng=0)
    forward(net)  # whoever has no backward pass yet can run forward
    assert message(backward, step_backward=forgets_da_f) == (
        "Cell: da_f_t is left unwritten, in whole or in part, by forgets_da_f; a step must write da_t, with `[...] = ` "
        "or `out=`"
    )
    assert message(backward, step_backward=turns_f_around) == (
        "Cell: turns_f_around writes f_t, which it is to read; it may write its outputs, dh_t, da_f_t, da_n_t, "
        "dh_prev, dh_in"
    )


def partials(f_t, n_t, da_n_t):
    f_t *= 1
    np.multiply(f_t, 1 - n_t**2, out=da_n_t)


def test_partials_are_tried_with_backward():
    assert message(backward, step_partials=partials) == (
        "Cell: partials writes f_t, which it is to read; it may write its outputs, da_n_t"
    )


def scales_h(h_t, q_t):
    q_t[...] = 2 * h_t


def forgets_q(h_t, q_t):
    pass


def test_a_further_part_is_named():
    def with_part(formula):
        return {"after": (Part(formula),), "records": {"k": 1, "q": 1}}

    class Net(Recurrent):
        cell = Cell(**{**MGU, **with_part(scales_h)})

    trace = forward(Net(2, 3, rng=0))[2]
    np.testing.assert_array_equal(trace.q, 2 * trace.h[1:])
    assert "q_t is left unwritten, in whole or in part, by forgets_q" in message(forward, **with_part(forgets_q))


def test_a_name_that_nobody_provides_is_told_with_those_that_there_are():
    def misspelt(f_t, h_previous, h_t):
        pass

    with pytest.raises(CellError) as told:
        Cell(**{**MGU, "after": (Part(misspelt),)})
    assert str(told.value) == (
        "Cell: misspelt has an argument 'h_previous', which names no array of this cell; known are h_t, h_prev, x_t, "
        "a_t, f_t, n_t, k_t, h_in, W_hh, b, half, one, scratch_t"
    )
    with pytest.raises(CellError, match=r"products of given 'memory' must name arrays, as 'dk_t'; got 'alpha_t'"):
        Cell(**MGU, given={"memory": Given(("S", "H"), {"weights": ("alpha_t", "dk_t")})})


def test_a_trial_costs_nothing_of_the_layer():
    """It draws no random number, keeps no array, and is held once."""
    rng = np.random.default_rng(0)

    net = type("Plain", (Recurrent,), {"cell": Cell(**MGU)})(2, 3, recurrent_dropout=0.5, rng=rng)
    before, params = rng.bit_generator.state, net.params.flat.copy()
    assert net.cell.tried == set()
    net(np.ones((4, 2, 2)))
    assert net.cell.tried == {"forward"}
    assert rng.bit_generator.state == before
    np.testing.assert_array_equal(net.params.flat, params)
    copied = dataclasses.replace(net.cell)
    assert copied.tried == set()
    assert dataclasses.replace(net.cell, trial=False).tried == {"forward", "backward"}


def test_what_else_is_wrong_shows_in_the_call_itself():
    def unfinished(dh_t):
        raise RuntimeError("not written yet")

    class Net(Recurrent):
        cell = Cell(**{**MGU, "step_backward": unfinished})

    with pytest.raises(RuntimeError, match="not written yet"):
        backward(Net(2, 3, rng=0))


@pytest.mark.parametrize(
    "kind", [RNN, LSTM, GRU, PeepholeLSTM, LayerNormLSTM, AttentionRNN, AttentionLSTM, AttentionGRU]
)
def test_the_packages_own_cells_pass(kind):
    for dtype in (np.float32, np.complex128):
        net = kind(2, 3, dtype=dtype, rng=0)
        net.cell = dataclasses.replace(net.cell)
        given = {"values": np.ones((5, 2, 3), dtype)} if net.cell.given else None
        output, _, trace = net.forward(np.ones((4, 2, 2), dtype), given=given)
        net.backward(trace, np.ones_like(output))
        assert net.cell.tried == {"forward", "backward"}


def roots_forward(a_t, h_prev, W_hh, p, h_t):
    a_t += W_hh @ h_prev
    np.multiply(np.sqrt(p), np.tanh(a_t), out=h_t)  # p is not negative, but in a trial


def roots_backward(dh_t, a_t, p, W_hh, da_t, dp, dh_prev):
    tanh = np.tanh(a_t)
    np.multiply(np.sqrt(p) * dh_t, 1 - tanh**2, out=da_t)
    dp += (dh_t * tanh / (2 * np.sqrt(p))).sum(axis=1, keepdims=True)
    dh_prev += W_hh.T @ da_t


class Roots(Recurrent):
    cell = Cell(
        ("n",),
        ("h",),
        roots_forward,
        roots_backward,
        parameters={"scale": ExtraParameter("p", lambda layer: (layer.hidden_size,), initial=1.0)},
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_a_nan_that_a_formula_computes_is_no_output_left_unwritten(dtype):
    net = Roots(2, 3, dtype=dtype, rng=0)
    net.cell = dataclasses.replace(net.cell)
    output, _, trace = net.forward(np.ones((4, 2, 2), dtype))
    assert np.isfinite(net.backward(trace, np.ones_like(output)).grads.flat).all()
    assert net.cell.tried == {"forward", "backward"}


def test_a_debugger_stops_at_the_callers_steps_alone():
    """A trial has other sizes, and a student asks where they come from."""
    seen = []

    def stop(frame, event, argument):
        if event == "call" and frame.f_code in (mgu_forward.__code__, mgu_backward.__code__):
            above = frame.f_back
            seen.append((frame.f_code.co_name, frame.f_locals["f_t"].shape, above.f_locals["t"]))

    net = type("Net", (Recurrent,), {"cell": Cell(**MGU)})(2, 3, rng=0)
    tracer = sys.gettrace()
    sys.settrace(stop)
    try:
        output, _, trace = net.forward(np.ones((2, 4, 2)))
        net.backward(trace, np.ones_like(output))
    finally:
        sys.settrace(tracer)
    assert net.cell.tried == {"forward", "backward"}
    assert seen == [
        ("mgu_forward", (3, 4), 0),
        ("mgu_forward", (3, 4), 1),
        ("mgu_backward", (3, 4), 1),
        ("mgu_backward", (3, 4), 0),
    ]


def test_trials_side_by_side_leave_memory_as_it_was():
    first, second = memory.poisoned(), memory.poisoned()
    with contextlib.ExitStack() as later:
        first.__enter__()
        later.enter_context(second)
        first.__exit__(None, None, None)  # the other one lasts
        assert memory.is_poison(memory.empty((2,), np.dtype(float))).all()
    assert memory._poisoned == 0


def adds_q(a_t, q_t):
    a_t += q_t


def forgets_q_alone(q_t):
    pass


def tanh_forward(a_t, h_prev, W_hh, h_t):
    h_t[...] = np.tanh(a_t + W_hh @ h_prev)


def test_what_is_left_unwritten_is_named_not_what_follows_from_it():
    told = message(
        forward,
        gate_names=("n",),
        hidden_inputs={},
        step_forward=tanh_forward,
        step_backward=lambda dh_t, da_t: None,
        before=(Part(forgets_q_alone), Part(adds_q)),
        records={"q": 1},
    )
    assert "Cell: q_t is left unwritten, in whole or in part, by forgets_q_alone and adds_q; a step must" in told


def test_the_stack_of_a_formula_is_the_call_the_pass_the_steps_the_formula():
    stacks = {}

    def walk(frame, event, argument):
        if event == "call" and frame.f_code in (mgu_forward.__code__, mgu_backward.__code__):
            names, above = [], frame.f_back
            while above.f_code is not run.__code__:
                names.append(above.f_code.co_name)
                above = above.f_back
            stacks[frame.f_code.co_name] = names

    def run():
        output, _, trace = net.forward(np.ones((2, 4, 2)))
        net.backward(trace, np.ones_like(output))

    net = type("Net", (Recurrent,), {"cell": Cell(**MGU)})(2, 3, rng=0)
    tracer = sys.gettrace()
    sys.settrace(walk)
    try:
        run()
    finally:
        sys.settrace(tracer)
    assert stacks == {
        "mgu_forward": ["forward_loop", "_climb", "forward"],
        "mgu_backward": ["backward_loop", "bptt", "backward"],
    }


def two_states_forward(f_t, h_in, c_prev, W_hf, h_t, c_t):
    f_t += W_hf @ h_in
    c_t[...] = np.tanh(f_t) + 0.5 * c_prev
    h_t[...] = np.tanh(c_t)


def gives_dc_prev_another_array(dh_t, dc_t, h_t, f_t, W_hf, da_f_t, dh_in, dc_prev):
    dc_t += dh_t * (1 - h_t**2)
    da_f_t[...] = dc_t * (1 - np.tanh(f_t) ** 2)
    dc_prev = 0.5 * dc_t  # noqa: F841
    dh_in += W_hf.T @ da_f_t


def test_the_gradient_of_a_further_state_left_unwritten():
    two = {"gate_names": ("f",), "states": ("h", "c"), "hidden_inputs": {}, "records": {}}
    two |= {"step_forward": two_states_forward, "step_backward": gives_dc_prev_another_array}
    assert message(backward, **two) == (
        "Cell: dc_prev is left unwritten by gives_dc_prev_another_array; write it with `[...] = ` or `+=`, 0 if "
        "nothing goes that way"
    )
