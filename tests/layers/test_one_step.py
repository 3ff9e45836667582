"""Cells: one step at a time is the layer, forward and backward; names, copies, messages; torch's cells, live."""

import copy
import dataclasses
import functools
import gc
import pickle
import re

import numpy as np
import pytest
from frameworks import torch

from rnn_numpy import GRU, LSTM, RNN, SGD, Parameters
from rnn_numpy.checks import assert_grad_close, complex_step
from rnn_numpy.errors import DTypeError, OptionError, RNNNumpyError, ShapeError, StateDictError
from rnn_numpy.layers.lstm import CELL, lstm_step_backward
from rnn_numpy.layers.one_step import GRUCell, LSTMCell, RNNCell, StepCell

KINDS = [
    (RNNCell, RNN, {}),
    (RNNCell, RNN, {"nonlinearity": "relu"}),
    (RNNCell, RNN, {"bias": False}),
    (LSTMCell, LSTM, {}),
    (LSTMCell, LSTM, {"bias": False}),
    (LSTMCell, LSTM, {"forget_bias": 1.0}),
    (GRUCell, GRU, {}),
    (GRUCell, GRU, {"bias": False}),
    (GRUCell, GRU, {"reset": "before"}),
]


def name_of(value):
    if isinstance(value, dict):
        return ",".join(f"{name}={option}" for name, option in value.items()) or "default"
    return value.__name__


EVERY_KIND = pytest.mark.parametrize(("kind", "layer_kind", "options"), KINDS, ids=name_of)
T, N, D, H = 5, 3, 2, 4


def states_of(cell):
    return 2 if isinstance(cell, LSTMCell) else 1


def untuple(states):
    return states[0] if len(states) == 1 else tuple(states)


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def data(cell, seed=1, batch=(N,), dtype=np.float64):
    """Return x (T, N, D), the initial state, doutput (T, N, H) and the final state's gradient."""
    rng, count = np.random.default_rng(seed), states_of(cell)
    x, doutput = rng.normal(size=(T, *batch, D)), rng.normal(size=(T, *batch, H))
    states, dstates = rng.normal(size=(2, count, *batch, H))
    return (
        x.astype(dtype),
        untuple(list(states.astype(dtype))),
        doutput.astype(dtype),
        untuple(list(dstates.astype(dtype))),
    )


def unrolled(cell, x, state):
    """Run the loop forward; return outputs, the final state and the traces."""
    outputs, traces = [], []
    for x_t in x:
        state, trace = cell.forward(x_t, state)
        outputs.append(as_tuple(state)[0])
        traces.append(trace)
    return np.array(outputs), state, traces


def bptt(cell, traces, doutput, dstate):
    """Run the loop backward, as a user would write it; return dx, the initial state's gradient and grads."""
    grads, dx = cell.params.zeros_like(), np.empty((*doutput.shape[:-1], D), doutput.dtype)
    for t in reversed(range(len(traces))):
        dh, *dc = as_tuple(dstate)
        back = cell.backward(traces[t], untuple([dh + doutput[t], *dc]), grads)
        dx[t] = back.dx
        dstate = (back.dh_prev, back.dc_prev) if isinstance(cell, LSTMCell) else back.dh_prev
    return dx, dstate, grads


def layer_like(cell, layer_kind, options):
    """Return the layer with the cell's parameters."""
    layer = layer_kind(D, H, dtype=cell.dtype, **options)
    layer.load_state_dict({f"{name}_l0": array for name, array in cell.params.items()})
    return layer


def in_front(states):
    """Return states with the layer's axis in front."""
    return untuple([state[None] for state in as_tuple(states)])


def assert_equal_bits(found, expected):
    for ours, theirs in zip(as_tuple(found), as_tuple(expected), strict=True):
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        assert np.array_equal(ours, theirs)


# ---------------------------------------------------------------------------------------------- the layer's twin


@EVERY_KIND
@pytest.mark.parametrize("batch", [(N,), (1,), ()], ids=["batch", "one", "unbatched"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_is_the_layer_on_one_step_bit_for_bit(kind, layer_kind, options, batch, dtype):
    cell = kind(D, H, **options, dtype=dtype, rng=0)
    layer = layer_like(cell, layer_kind, options)
    x, state, _, dstate = data(cell, batch=batch, dtype=dtype)
    expected, layer_state = [], in_front(state)
    for x_t in x:
        state, trace = cell.forward(x_t, state)
        _, layer_state, layer_trace = layer.forward(x_t[None], layer_state)
        assert_equal_bits(in_front(state), layer_state)
        expected.append((trace, layer_trace))
    for trace, layer_trace in expected:
        back, layer_back = cell.backward(trace, dstate), layer.backward(layer_trace, None, in_front(dstate))
        assert_equal_bits(back.dx, layer_back.dx[0])
        assert_equal_bits(back.dh_prev, layer_back.dh_0[0])
        assert_equal_bits(back.grads.flat, layer_back.grads.flat)
        if kind is LSTMCell:
            assert_equal_bits(back.dc_prev, layer_back.dc_0[0])


@EVERY_KIND
@pytest.mark.parametrize("batch", [(N,), (1,), ()], ids=["batch", "one", "unbatched"])
def test_a_loop_is_the_layer(kind, layer_kind, options, batch):
    # Not bit for bit: the layer multiplies by W_ih, and for the parameters' gradients, for all steps in one product,
    # whose sums a BLAS may order otherwise than those of one step.
    cell = kind(D, H, **options, rng=0)
    layer = layer_like(cell, layer_kind, options)
    x, state, doutput, dstate = data(cell, batch=batch)
    outputs, finals, traces = unrolled(cell, x, state)
    dx, dinitial, grads = bptt(cell, traces, doutput, dstate)
    output, layer_finals, layer_trace = layer.forward(x, in_front(state))
    back = layer.backward(layer_trace, doutput, in_front(dstate))
    assert_grad_close("output", outputs, output, 1e-14)
    for found, expected in zip(as_tuple(finals), as_tuple(layer_finals), strict=True):
        assert_grad_close("final state", found, expected[0], 1e-14)
    assert_grad_close("dx", dx, back.dx, 1e-13)
    for state_name, found in zip("hc", as_tuple(dinitial), strict=False):
        assert_grad_close(f"d{state_name}_0", found, getattr(back, f"d{state_name}_0")[0], 1e-13)
    for name, grad in grads.items():
        assert_grad_close(f"d{name}", grad, back.grads[f"{name}_l0"], 1e-13)


@EVERY_KIND
def test_gradients_by_complex_step(kind, layer_kind, options):
    cell = kind(D, H, **options, rng=3)
    twin = cell.astype(complex)
    x, state, doutput, dstate = data(cell)
    names = ["h", "c"][: states_of(cell)]

    def loss(point):
        for name, array in twin.params.items():
            array[...] = point[name]
        current, total = untuple([point[name] for name in names]), 0
        for x_t, doutput_t in zip(point["x"], doutput, strict=True):
            current = twin(x_t, current)
            total = total + np.sum(doutput_t * as_tuple(current)[0])
        return total + sum(np.sum(d * s) for d, s in zip(as_tuple(dstate), as_tuple(current), strict=True))

    point = {**cell.state_dict(), "x": x, **dict(zip(names, as_tuple(state), strict=True))}
    reference = complex_step(loss, point)
    _, _, traces = unrolled(cell, x, state)
    dx, dinitial, grads = bptt(cell, traces, doutput, dstate)
    found = {**grads, "x": dx, **dict(zip(names, as_tuple(dinitial), strict=True))}
    for name, expected in reference.items():
        assert_grad_close(f"d{name}", found[name], expected, 1e-13)


def torch_twin(cell, options):
    kind = getattr(torch.nn, type(cell).__name__)
    known = {name: value for name, value in options.items() if name in ("bias", "nonlinearity")}
    twin = kind(D, H, dtype=torch.float64, **known)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in cell.state_dict().items()})
    return twin


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("kind", "options"), [(kind, options) for kind, _, options in KINDS if "reset" not in options], ids=name_of
)
@pytest.mark.parametrize("batch", [(N,), ()], ids=["batch", "unbatched"])
def test_torch(kind, options, batch):
    cell = kind(D, H, **options, rng=4)
    twin = torch_twin(cell, options)
    x, state, doutput, dstate = data(cell, batch=batch)
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, *as_tuple(state))]
    theirs, loss = untuple(leaves[1:]), 0.0
    for x_t, doutput_t in zip(leaves[0], doutput, strict=True):
        theirs = twin(x_t, theirs)
        loss = loss + torch.sum(torch.from_numpy(doutput_t) * as_tuple(theirs)[0])
    for d, s in zip(as_tuple(dstate), as_tuple(theirs), strict=True):
        loss = loss + torch.sum(torch.from_numpy(d) * s)
    loss.backward()
    _, finals, traces = unrolled(cell, x, state)
    dx, dinitial, grads = bptt(cell, traces, doutput, dstate)
    for found, expected in zip(as_tuple(finals), as_tuple(theirs), strict=True):
        assert_grad_close("state", found, expected.detach().numpy(), 1e-12)
    for name, found, leaf in zip(("dx", "dh_0", "dc_0"), (dx, *as_tuple(dinitial)), leaves, strict=False):
        assert_grad_close(name, found, leaf.grad.numpy(), 1e-12)
    for name, parameter in twin.named_parameters():
        assert_grad_close(f"d{name}", grads[name], parameter.grad.numpy(), 1e-12)


@pytest.mark.needs_torch
@EVERY_KIND
def test_names_order_and_shapes_of_parameters_are_torchs(kind, layer_kind, options):
    cell = kind(D, H, **options)
    expected = [
        (name, tuple(p.shape)) for name, p in getattr(torch.nn, kind.__name__)(D, H, cell.bias).named_parameters()
    ]
    assert [(name, array.shape) for name, array in cell.state_dict().items()] == expected
    assert np.abs(cell.params["weight_hh"]).max() <= 1 / np.sqrt(H)


def test_the_reset_before_is_another_function():
    after, before = GRUCell(D, H, rng=0), GRUCell(D, H, reset="before", rng=0)
    x, h, _, _ = data(after)
    assert np.abs(after(x[0], h) - before(x[0], h)).max() > 1e-3
    assert (after.reset, before.reset, before.astype(np.float32).reset) == ("after", "before", "before")


def test_a_cell_runs_the_formulas_of_the_layer(monkeypatch):
    calls = []

    @functools.wraps(lstm_step_backward)  # with its signature, from which the driver reads the arguments' names
    def counted(dh_t, *arguments):
        calls.append(dh_t.shape)
        lstm_step_backward(dh_t, *arguments)

    cell = LSTMCell(D, H, rng=0)
    monkeypatch.setattr(cell._layer, "cell", dataclasses.replace(CELL, step_backward=counted))
    _, trace = cell.forward(np.ones((N, D)))
    cell.backward(trace, (np.ones((N, H)), np.ones((N, H))))
    assert calls == [(H, N)]


# ---------------------------------------------------------------------------------------------- one step


@EVERY_KIND
def test_the_call_is_the_forward_pass(kind, layer_kind, options):
    cell = kind(D, H, **options, rng=0)
    x, state, _, _ = data(cell)
    for given in (state, None):
        assert_equal_bits(cell(x[0], given), cell.forward(x[0], given)[0])
    zeros = untuple([np.zeros((N, H))] * states_of(cell))
    assert_equal_bits(cell(x[0]), cell(x[0], zeros))
    assert_equal_bits(cell.forward(x[0])[0], cell(x[0], zeros))


@EVERY_KIND
def test_one_sequence_needs_no_batch_axis(kind, layer_kind, options):
    cell = kind(D, H, **options, rng=0)
    x, state, _, dstate = data(cell, batch=(1,))
    (found, trace), (expected, batched) = (
        cell.forward(x[0, 0], untuple([s[0] for s in as_tuple(state)])),
        cell.forward(x[0], state),
    )
    assert_equal_bits(found, untuple([s[0] for s in as_tuple(expected)]))
    back, full = cell.backward(trace, untuple([d[0] for d in as_tuple(dstate)])), cell.backward(batched, dstate)
    assert back.dx.shape == (D,)
    assert_equal_bits((back.dx, back.dh_prev, back.grads.flat), (full.dx[0], full.dh_prev[0], full.grads.flat))


@EVERY_KIND
def test_an_empty_batch(kind, layer_kind, options):
    cell = kind(D, H, **options, rng=0)
    state, trace = cell.forward(np.zeros((0, D)))
    assert [s.shape for s in as_tuple(state)] == [(0, H)] * states_of(cell)
    back = cell.backward(trace, untuple([np.zeros((0, H))] * states_of(cell)))
    assert back.dx.shape == (0, D)
    assert not back.grads.flat.any()


def test_the_trace_is_a_step_with_the_names_of_the_formulas():
    cell = LSTMCell(D, H, rng=0)
    x, state, _, (dh, dc) = data(cell)
    (h, c), trace = cell.forward(x[0], state)
    step = trace[0]
    assert len(trace) == 1
    assert_equal_bits((step.h_prev, step.c_prev, step.h, step.c), (*state, h, c))
    assert_grad_close("c", step.c, step.f * step.c_prev + step.i * step.g, 1e-15)
    back = cell.backward(trace, (dh, dc))
    assert_grad_close("dc", trace[0].dc, dc + dh * step.o * (1 - np.tanh(c) ** 2), 1e-14)
    assert_equal_bits(back.dc_prev, trace[0].dc_prev)


def test_gradients_left_out_are_zeros():
    cell = RNNCell(D, H, rng=0)
    _, trace = cell.forward(np.ones((N, D)))
    back = cell.backward(trace, None)
    assert not back.dx.any()
    assert not back.grads.flat.any()


def test_gradients_add_up_in_the_object_that_was_handed_in():
    cell = GRUCell(D, H, rng=0)
    _, trace = cell.forward(np.ones((N, D)))
    alone = cell.backward(trace, np.ones((N, H))).grads
    grads = cell.params.zeros_like()
    for _ in range(2):
        assert cell.backward(trace, np.ones((N, H)), grads).grads is grads
    assert_equal_bits(grads.flat, 2 * alone.flat)


def test_a_trace_is_differentiated_with_the_weights_of_its_forward_pass():
    cell = LSTMCell(D, H, rng=0)
    x, state, _, dstate = data(cell)
    _, trace = cell.forward(x[0], state)
    expected = cell.backward(trace, dstate)
    before, dx = expected.grads.flat.copy(), expected.dx.copy()
    SGD(cell.params, lr=0.5).step(expected.grads)
    again = cell.backward(trace, dstate)
    assert_equal_bits((again.grads.flat, again.dx), (before, dx))
    _, later = cell.forward(x[0], state)
    assert np.abs(cell.backward(later, dstate).dx - dx).max() > 1e-3


def test_the_traces_of_a_loop_share_one_copy_of_the_weights():
    cell = GRUCell(D, H, rng=0)
    x, state, _, _ = data(cell)
    _, _, traces = unrolled(cell, x, state)
    assert len({id(trace.weights["W_hh"]) for trace in traces}) == 1
    assert not np.shares_memory(traces[0].weights["W_hh"], cell.params.flat)
    cell.params.flat[0] += 1.0
    _, changed = cell.forward(x[0], state)
    assert changed.weights["W_ih"][0, 0] == traces[0].weights["W_ih"][0, 0] + 1.0
    # The cell keeps no trace alive.
    del traces, changed
    gc.collect()
    assert cell._latest() is None


def test_arguments_are_not_changed_and_results_are_ones_own():
    cell = LSTMCell(D, H, rng=0)
    x, (h, c), _, _ = data(cell)
    for array in (x, h, c):
        array.flags.writeable = False
    (h_1, c_1), trace = cell.forward(x[0], (h, c))
    expected = cell.backward(trace, (h, c)).grads.flat
    h_1[...] = c_1[...] = 0.0
    assert_equal_bits(cell.backward(trace, (h, c)).grads.flat, expected)


# ---------------------------------------------------------------------------------------------- copies, dtypes


def assert_its_own(twin, cell, x):
    expected = as_tuple(cell(x))
    assert_equal_bits(as_tuple(twin(x)), expected)
    twin.params.flat[:] = 0.0
    assert not any(np.any(array) for array in twin.params.values())
    assert not as_tuple(twin(x))[0].any()
    assert_equal_bits(as_tuple(cell(x)), expected)


@EVERY_KIND
def test_copies_are_independent_and_whole(kind, layer_kind, options):
    cell = kind(D, H, **options, rng=0)
    x = np.random.default_rng(2).normal(size=(N, D))
    _, trace = cell.forward(x)  # a cell that has run is copied like a new one
    for twin in (pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell), cell.astype(np.float64)):
        assert repr(twin) == repr(cell)
        dstate = untuple([np.ones((N, H))] * states_of(cell))
        assert_equal_bits(twin.backward(trace, dstate).grads.flat, cell.backward(trace, dstate).grads.flat)
        assert_its_own(twin, cell, x)
    twin = kind(D, H, **options, rng=5)
    twin.load_state_dict(cell.state_dict())
    assert_its_own(twin, cell, x)


def test_a_cell_moves_into_a_joint_vector():
    cell = GRUCell(D, H, rng=0)
    before = cell(np.ones((N, D)))
    joint = Parameters.join({"cell": cell.params})
    assert_equal_bits(cell(np.ones((N, D))), before)
    joint.flat[:] = 0.0
    assert not cell(np.ones((N, D))).any()


@EVERY_KIND
def test_float32_stays_float32(kind, layer_kind, options):
    double = kind(D, H, **options, rng=0)
    cell = double.astype(np.float32)
    double.load_state_dict(cell.state_dict())
    x, state, doutput, dstate = data(cell, dtype=np.float32)
    results = []
    for one, dtype in ((cell, np.float32), (double, np.float64)):
        arguments = [untuple([a.astype(dtype) for a in as_tuple(value)]) for value in (x, state, doutput, dstate)]
        outputs, finals, traces = unrolled(one, *arguments[:2])
        dx, dinitial, grads = bptt(one, traces, *arguments[2:])
        results.append([outputs, *as_tuple(finals), dx, *as_tuple(dinitial), *grads.values()])
        assert {array.dtype for array in results[-1]} == {np.dtype(dtype)}
    for found, expected in zip(*results, strict=True):
        assert_grad_close("float32", found, expected)


def test_repr_and_attributes():
    assert repr(RNNCell(2, 3, False, "relu")) == "RNNCell(2, 3, nonlinearity='relu', bias=False, dtype=float64)"
    assert repr(GRUCell(2, 3, reset="before")) == "GRUCell(2, 3, reset='before', dtype=float64)"
    cell = LSTMCell(2, 3, bias=False, dtype=np.float32)
    assert (cell.input_size, cell.hidden_size, cell.bias, cell.dtype) == (2, 3, False, np.float32)
    assert RNNCell(2, 3, nonlinearity="relu").astype(np.float32).nonlinearity == "relu"
    assert all(issubclass(kind, StepCell) for kind, _, _ in KINDS)


def test_forget_bias():
    cell = LSTMCell(D, H, forget_bias=2.0)
    assert cell.params["bias_ih"][H : 2 * H].tolist() == [2.0] * H
    assert cell.params["bias_hh"][H : 2 * H].tolist() == [0.0] * H


# ---------------------------------------------------------------------------------------------- messages


def assert_raises(error, message, call):
    with pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
        call()
    assert isinstance(caught.value, RNNNumpyError)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RNNCell(0, 4), OptionError, "RNNCell: input_size must be at least 1; got 0"),
        (lambda: LSTMCell(3, 4.0), DTypeError, "LSTMCell: hidden_size must be an integer; got float 4.0"),
        (lambda: GRUCell(3, 4, 1), DTypeError, "GRUCell: bias must be True or False; got int 1"),
        (
            lambda: RNNCell(3, 4, dtype=np.float16),
            DTypeError,
            "RNNCell: dtype must be float32, float64 or complex128; got float16",
        ),
        (
            lambda: LSTMCell(3, 4, rng=-1),
            DTypeError,
            "LSTMCell: rng must be a numpy.random.Generator, a seed >= 0 or None; got -1",
        ),
        (
            lambda: RNNCell(3, 4, dtype=complex).astype(float),
            DTypeError,
            "RNNCell.astype: complex128 parameters cannot become float64: their imaginary parts would be lost",
        ),
    ],
)
def test_options(call, error, message):
    assert_raises(error, message, call)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: RNNCell(3, 4, nonlinearity="sigmoid"), "nonlinearity"),
        (lambda: GRUCell(3, 4, reset="never"), "reset"),
        (lambda: LSTMCell(3, 4, forget_bias=np.nan), "forget_bias"),
    ],
)
def test_options_of_one_cell(call, word):
    with pytest.raises(OptionError, match=word):
        call()


RUNS = pytest.mark.parametrize("run", [StepCell.forward, StepCell.__call__])


@RUNS
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "RNNCell.forward: x must be (N, D), or (D,) for one sequence; got 0 axes, ()"),
        ((5, 3, 2), "RNNCell.forward: x must be (N, D), or (D,) for one sequence; got 3 axes, (5, 3, 2)"),
        ((3, 7), "RNNCell.forward: x must have shape (N, D) with D = input_size = 2; got (3, 7)"),
        ((7,), "RNNCell.forward: x must have shape (D,) with D = input_size = 2; got (7,)"),
    ],
)
def test_shape_of_x(run, shape, message):
    assert_raises(ShapeError, message, lambda: run(RNNCell(D, H), np.zeros(shape)))


@RUNS
def test_dtype_of_x(run):
    with pytest.raises(DTypeError, match=r"^GRUCell.forward: x must have dtype float64.*got float32"):
        run(GRUCell(D, H), np.zeros((N, D), np.float32))


@RUNS
@pytest.mark.parametrize(
    ("kind", "x", "h", "error", "message"),
    [
        (RNNCell, (3, 2), np.zeros((5, 4)), ShapeError, "h must have shape (N, H) = (3, 4); got (5, 4)"),
        (GRUCell, (3, 2), np.zeros((3, 5)), ShapeError, "h must have shape (N, H) = (3, 4); got (3, 5)"),
        (RNNCell, (2,), np.zeros((1, 4)), ShapeError, "h must have shape (H,) = (4,); got (1, 4)"),
        (RNNCell, (3, 2), np.zeros(4), ShapeError, "h must have shape (N, H) = (3, 4); got (4,)"),
        (GRUCell, (3, 2), (np.zeros((3, 4)),) * 2, DTypeError, "h must be one array; got a tuple of 2"),
        (
            LSTMCell,
            (3, 2),
            np.zeros((3, 4)),
            DTypeError,
            "h must be a tuple of arrays, (h, c); got ndarray",
        ),
        (
            LSTMCell,
            (3, 2),
            (np.zeros((3, 4)),),
            DTypeError,
            "h must be a tuple of arrays, (h, c); got a tuple of 1",
        ),
        (
            LSTMCell,
            (3, 2),
            (np.zeros((3, 4)), np.zeros((3, 5))),
            ShapeError,
            "c must have shape (N, H) = (3, 4); got (3, 5)",
        ),
    ],
)
def test_states(run, kind, x, h, error, message):
    assert_raises(error, f"{kind.__name__}.forward: {message}", lambda: run(kind(D, H), np.zeros(x), h))


def test_backward():
    cell, lstm = RNNCell(D, H), LSTMCell(D, H)
    h, trace = cell.forward(np.ones((N, D)))
    _, single = cell.forward(np.ones(D))
    _, lstm_trace = lstm.forward(np.ones((N, D)))
    _, _, layer_trace = RNN(D, H).forward(np.ones((1, N, D)))
    where = "RNNCell.backward: "
    other = f"{where}trace was recorded by a cell with other options, not by this {cell!r}"
    for call, error, message in [
        (lambda: cell.backward(h, h), DTypeError, f"{where}trace must be the second result of forward; got ndarray"),
        (lambda: cell.backward(lstm_trace, h), ShapeError, other),
        (lambda: cell.backward(layer_trace, h), ShapeError, other),
        (lambda: RNNCell(D, H, nonlinearity="relu").backward(trace, h), ShapeError, None),
        (
            lambda: cell.backward(trace, h[:2]),
            ShapeError,
            f"{where}dh must have shape (N, H) = (3, 4); got (2, 4)",
        ),
        (lambda: cell.backward(single, h), ShapeError, f"{where}dh must have shape (H,) = (4,); got (3, 4)"),
        (lambda: cell.backward(trace, (h,)), DTypeError, f"{where}dh must be one array; got a tuple of 1"),
        (
            lambda: lstm.backward(lstm_trace, h),
            DTypeError,
            "LSTMCell.backward: dh must be a tuple of arrays, (dh, dc); got ndarray",
        ),
        (
            lambda: cell.backward(trace, h, {}),
            DTypeError,
            f"{where}grads must be Parameters, as params.zeros_like() makes them; got dict",
        ),
    ]:
        if message is None:
            with pytest.raises(error, match="trace was recorded by a cell with other options"):
                call()
        else:
            assert_raises(error, message, call)


def test_a_state_dict_has_no_suffix():
    cell = RNNCell(D, H)
    with pytest.raises(StateDictError, match="missing: .*'weight_ih'.*unknown: .*'weight_ih_l0'"):
        cell.load_state_dict(RNN(D, H).state_dict())
