"""Decoders with attention, before and after any cell: golden numbers, the complex step, torch, and what must hold."""

import copy
import pickle

import numpy as np
import pytest
from attended import MGU, assert_all_close
from frameworks import torch
from messages import assert_raises

from rnn_numpy import GRU, LSTM
from rnn_numpy.checks import assert_grad_close, complex_step
from rnn_numpy.core.states import join, split
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers import attention_decoder
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.layers.attention_layer import Attention, Keys
from rnn_numpy.layers.linear import Linear
from tests.layers.test_attention_parts import LUONG, assert_golden, fill

T, N, S, D, H, M = 3, 3, 4, 2, 3, 4
LENGTHS = (3, 1, 2)
EXISTS = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
BEFORE, FEEDING = {"order": "before"}, {"input_feeding": True}
ADDITIVE = {"score": "additive", "attention_size": 5}
CASES = [
    ("rnn", {}),
    ("lstm", ADDITIVE),
    ("gru", {"score": "dot", "memory_size": H}),
    ("peephole", {"score": "scaled_dot", "memory_size": H}),
    ("layernorm", {"num_layers": 2}),
    ("gru-before", {"bias": False}),
    (MGU, {}),
    ("lstm", {"num_layers": 3, **ADDITIVE}),
    ("rnn", {**BEFORE, "score": "dot", "memory_size": H}),
    ("gru", {**BEFORE, "score": "scaled_dot", "memory_size": H}),
    ("lstm", {**BEFORE, "num_layers": 3, "gate": "scalar"}),
    ("peephole", {**BEFORE, **ADDITIVE, "coverage": True, "num_layers": 2}),
    ("layernorm", {**BEFORE, **ADDITIVE, "location": (2, 3)}),
    (MGU, {**BEFORE, **ADDITIVE, "gate": "vector"}),
    ("rnn", {**FEEDING, "num_layers": 2}),
    ("gru", {**FEEDING, **ADDITIVE, "location": (2, 3), "coverage": True}),
    ("lstm", {**FEEDING, "score": "scaled_dot", "memory_size": H, "gate": "vector", "num_layers": 2}),
    ("layernorm", {**FEEDING, "score": "dot", "memory_size": H}),
    (MGU, {**FEEDING, **ADDITIVE, "coverage": True}),
]


def title(cell, options):
    """Return a test's id."""
    words = [name if value is True else str(value) for name, value in options.items() if name != "memory_size"]
    return " ".join([cell if isinstance(cell, str) else cell.__name__, *words])


EACH_CASE = pytest.mark.parametrize(("cell", "options"), [pytest.param(*case, id=title(*case)) for case in CASES])


class Problem:
    """A decoder, what goes in, and what the loss says: a weighted sum of outputs, weights and final states."""

    def __init__(self, cell="gru", options=None, *, lengths=LENGTHS, exists=EXISTS, sizes=(T, N, S, M), seed=0):
        rng = np.random.default_rng(seed)
        (T, N, S, width), options = sizes, {**(options or {})}
        self.decoder = AttentionDecoder(D, H, options.pop("memory_size", width), cell=cell, **options, rng=seed)
        self.decoder.params.flat[:] += 0.1 * rng.normal(size=self.decoder.params.flat.size)  # no gain is 1, no shift 0
        self.lengths, self.exists, self.twins = lengths, exists, {}
        self.x, self.memory = rng.normal(size=(T, N, D)), rng.normal(size=(S, N, self.decoder.memory_size))
        self.doutput, self.dalpha = rng.normal(size=(T, N, H)), rng.normal(size=(T, N, S))
        shape, states = (self.decoder.num_layers, N, H), self.decoder.own
        self.initial, self.dfinal = ([rng.normal(size=shape) for _ in states] for _ in range(2))

    @property
    def point(self):
        states = {f"{state}_0": array for state, array in zip(self.decoder.own, self.initial, strict=True)}
        return {"x": self.x, "memory": self.memory, **states, **self.decoder.params}

    def forward(self, at=None, decoder=None):
        at, decoder = at or self.point, decoder or self.decoder
        initial = join([at[f"{state}_0"] for state in self.decoder.own])
        return decoder.forward(at["x"], at["memory"], initial, self.lengths, memory_mask=self.exists)

    def loss(self, at):
        at = {**self.point, **at}
        dtype = np.result_type(*at.values())
        at = {name: np.asarray(array, dtype) for name, array in at.items()}
        if dtype not in self.twins:
            self.twins[dtype] = self.decoder.astype(dtype)
        twin = self.twins[dtype]
        twin.load_state_dict({name: at[name] for name in twin.params})
        # Each call draws the same masks of dropout.
        output, finals, trace = self.forward(at, copy.deepcopy(twin) if twin.dropout else twin)
        ends = sum(np.sum(weight * final) for weight, final in zip(self.dfinal, split(finals), strict=True))
        return np.sum(self.doutput * output) + ends + np.sum(self.dalpha * trace.alpha)

    def backward(self, trace, **more):
        return self.decoder.backward(trace, self.doutput, join(self.dfinal), dalpha=self.dalpha, **more)

    def gradients(self, back=None):
        back = self.backward(self.forward(decoder=copy.deepcopy(self.decoder))[2]) if back is None else back
        states = {f"{state}_0": getattr(back, f"d{state}_0") for state in self.decoder.own}
        return {"x": back.dx, "memory": back.dmemory, **states, **back.grads}


# -------------------------------------------------------------------------------------------- every gradient


@pytest.mark.sampled(5)
@EACH_CASE
def test_gradients_are_complex_steps(cell, options):
    problem = Problem(cell, options)
    assert_all_close(problem.gradients(), complex_step(problem.loss, problem.point))


def assert_signals_are_complex_steps(problem):
    """Compare gradients of all but the parameters, which come of the same signals."""
    names = [name for name in problem.point if "." not in name]
    expected, found = complex_step(problem.loss, problem.point, names=names), problem.gradients()
    assert_all_close({name: found[name] for name in names}, expected)


@pytest.mark.parametrize("options", [{}, ADDITIVE, BEFORE, FEEDING], ids=str)
@pytest.mark.parametrize(("lengths", "exists"), [(None, None), (LENGTHS, None), (None, EXISTS)])
def test_gradients_are_complex_steps_of_other_calls(options, lengths, exists):
    assert_signals_are_complex_steps(Problem("lstm", options, lengths=lengths, exists=exists))


@pytest.mark.parametrize("options", [{}, BEFORE, FEEDING], ids=str)
@pytest.mark.parametrize("num_layers", [2, 3])
def test_gradients_with_dropout_are_complex_steps(options, num_layers):
    problem = Problem("gru", {**options, "num_layers": num_layers, "dropout": 0.4})
    assert_signals_are_complex_steps(problem)
    training, inference = problem.loss({}), np.sum(problem.doutput * problem.decoder(problem.x, problem.memory)[0])
    assert training != inference


def golden(sizes, weights, **options):
    """Return a decoder with these weights; others are 0."""
    decoder = AttentionDecoder(*sizes, **options)
    found = {name: np.zeros(shape) for name, shape in decoder.params.shapes.items()}
    assert set(weights) <= set(found)
    decoder.load_state_dict({**found, **weights})
    return decoder


@pytest.mark.parametrize("feeding", LUONG)
def test_golden_numbers_of_luongs_decoder(feeding):
    fed = feeding == "feeding"
    weight_ih = fill((8, 3 if fed else 1), 1)
    weights = {"rnn.weight_ih_l0": weight_ih[:, :1], "rnn.weight_hh_l0": fill((8, 2), 2)}
    weights |= {"rnn.bias_ih_l0": fill((8,), 3), ("keys" if fed else "attention") + ".weight_a": fill((2, 2), 0)}
    weights["rnn.weight_c_l0" if fed else "combine.weight"] = fill((2, 4), 4)
    weights |= {"rnn.weight_if_l0": weight_ih[:, 1:]} if fed else {}
    decoder = golden((1, 2, 2), weights, cell="lstm", input_feeding=fed)
    r, initial = fill((2, 1, 2), 9), (fill((1, 1, 2), 7), fill((1, 1, 2), 8))
    output, _, trace = decoder.forward(fill((2, 1, 1), 6), fill((3, 1, 2), 5, 1.0), initial)
    back = decoder.backward(trace, r)
    found = {"L": np.sum(r * output), "attn": output, "dh_0": back.dh_0, "dvalues": back.dmemory}
    assert_golden(found, **LUONG[feeding])


ADDITIVE_WEIGHTS = {
    "keys.weight_memory": fill((2, 2), 0), "keys.bias": fill((2,), 2), "rnn.weight_query_l0": fill((2, 2), 1),
    "rnn.v_l0": fill((2,), 3),
}  # fmt: skip


def test_golden_numbers_of_bahdanaus_decoder():
    weight_ih = fill((6, 3), 4)
    weights = {"rnn.weight_ih_l0": weight_ih[:, :1], "rnn.weight_ch_l0": weight_ih[:, 1:], **ADDITIVE_WEIGHTS}
    weights |= {"rnn.weight_hh_l0": fill((6, 2), 5), "rnn.bias_ih_l0": fill((6,), 6), "rnn.bias_hh_l0": fill((6,), 7)}
    decoder, r = golden((1, 2, 2), weights, score="additive", order="before"), fill((2, 1, 2), 11)
    output, _, trace = decoder.forward(fill((2, 1, 1), 9), fill((3, 1, 2), 8, 1.0), fill((1, 1, 2), 10))
    back = decoder.backward(trace, r)
    assert_golden(
        {"L": np.sum(r * output), "h": output, "alpha": trace.alpha, "dh_0": back.dh_0, "dx": back.dx,
         "dv": back.grads["rnn.v_l0"], "dvalues": back.dmemory},
        L="-0.316577698868",
        h="-0.572925288237 -0.403597134252 -0.631076456273 -0.419855685454",
        alpha="0.256727289203 0.396946208632 0.346326502165 0.257748783757 0.395490092494 0.346761123749",
        dv="-0.016558906432 -0.010006329442",
        dh_0="-0.026034190785 0.252742933257",
        dx="-0.001250908838 0.028405064452",
        dvalues="""-0.009936362722 -0.028746125660 -0.033469146434 -0.053405288140
            -0.019174948176 -0.042373374001""",
    )  # fmt: skip


def test_golden_numbers_of_show_attend_and_tell():
    weight_ih = fill((8, 3), 4)
    weights = {"rnn.weight_ih_l0": weight_ih[:, :1], "rnn.weight_ch_l0": weight_ih[:, 1:], **ADDITIVE_WEIGHTS}
    weights |= {"rnn.weight_hh_l0": fill((8, 2), 5), "rnn.bias_ih_l0": fill((8,), 6)}
    weights |= {"rnn.weight_gate_l0": fill((1, 2), 7), "rnn.bias_gate_l0": np.array([0.3])}
    decoder = golden((1, 2, 2), weights, cell="lstm", score="additive", order="before", gate="scalar")
    memory, r = fill((3, 1, 2), 10, 1.0), fill((2, 1, 2), 12)
    W_0 = fill((2, 2), 8), fill((2, 2), 9)
    initial = tuple(np.tanh(memory.mean(axis=0) @ W.T)[None] for W in W_0)
    output, _, trace = decoder.forward(fill((2, 1, 1), 11), memory, initial)
    missing = 1 - trace.alpha.sum(axis=0)
    back = decoder.backward(trace, r, dalpha=np.broadcast_to(-2 * 0.7 * missing, trace.alpha.shape))
    by_mean = [(d * (1 - h * h))[0] @ W / 3 for W, h, d in zip(W_0, initial, (back.dh_0, back.dc_0), strict=True)]
    grads = back.grads
    assert_golden(
        {"L": np.sum(r * output) + 0.7 * np.sum(missing**2), "dvalues": back.dmemory + sum(by_mean),
         "dv": grads["rnn.v_l0"], "dw": grads["rnn.weight_gate_l0"], "db": grads["rnn.bias_gate_l0"]},
        L="0.183548408823",
        dv="-0.351145007854 -0.148708744771",
        dw="0.000274555011 0.000253816520",
        db="-0.002691225209",
        dvalues="""-0.089425399829 -0.070259689798 0.006681533964 -0.011391672518
            0.016414548352 -0.011399526782""",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ torch


def torch_attention(p, score, query, values, memory, hidden):
    """Return weights and context of one query, of the score's parameters under their last names."""
    if score == "additive":
        keys = memory @ p["weight_memory"].T + p["bias"]
        scores = torch.einsum("snk,k->ns", torch.tanh(keys + query @ p["weight_query"].T), p["v"])
    else:
        keys = memory @ p["weight_a"].T if score == "general" else memory
        scores = torch.einsum("nq,snq->ns", query, keys) * (query.shape[1] ** -0.5 if score == "scaled_dot" else 1)
    alpha = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=1)
    return alpha, torch.einsum("ns,snm->nm", alpha, values)


@pytest.mark.needs_torch
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("where", ["before", "after", "feeding"])
@pytest.mark.parametrize("score", ["dot", "scaled_dot", "general", "additive"])
def test_torch(kind, where, score):
    """torch's own cells, which read what is fed beside the input; the memory's ways apart."""
    options = {"after": {}, "before": BEFORE, "feeding": FEEDING}[where]
    exists = EXISTS | (np.arange(N) == 2)[:, None]  # torch has no softmax of nothing
    problem = Problem(kind, {"score": score, "memory_size": H, **options}, lengths=None, exists=exists)
    point = {**problem.point, "values": problem.memory}
    leaf = {name: torch.tensor(np.array(array), requires_grad=True) for name, array in point.items()}
    p = {name.rpartition(".")[2].removesuffix("_l0"): tensor for name, tensor in leaf.items() if "." in name}
    cell = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[kind]
    made = cell(D + (0 if where == "after" else H), H, dtype=torch.float64)
    extra = {"before": "weight_ch", "feeding": "weight_if"}.get(where)
    weights = {name: p[name] for name in ("weight_hh", "bias_ih", "bias_hh")}
    weights["weight_ih"] = p["weight_ih"] if extra is None else torch.cat([p["weight_ih"], p[extra]], dim=1)
    W_c = leaf["combine.weight"] if where == "after" else p.get("weight_c")
    states = tuple(leaf[f"{state}_0"][0] for state in problem.decoder.own)
    hidden, values, memory = torch.tensor(~exists), leaf["values"], leaf["memory"]
    attn, outputs, alphas = torch.zeros((N, H), dtype=torch.float64), [], []
    for t in range(T):
        signal = leaf["x"][t]
        if where == "before":
            alpha, context = torch_attention(p, score, states[0], values, memory, hidden)
            signal = torch.cat([signal, context], dim=1)
        elif where == "feeding":
            signal = torch.cat([signal, attn], dim=1)
        states = torch.func.functional_call(made, weights, (signal, states if kind == "lstm" else states[0]))
        states = states if kind == "lstm" else (states,)
        attn = states[0]
        if where != "before":
            alpha, context = torch_attention(p, score, states[0], values, memory, hidden)
            attn = torch.tanh(torch.cat([context, states[0]], dim=1) @ W_c.T)
        outputs.append(attn)
        alphas.append(alpha)
    output, alpha = torch.stack(outputs), torch.stack(alphas)
    loss = (torch.tensor(problem.doutput) * output).sum() + (torch.tensor(problem.dalpha) * alpha).sum()
    loss = loss + sum((torch.tensor(d[0]) * state).sum() for d, state in zip(problem.dfinal, states, strict=True))
    loss.backward()
    found, _, trace = problem.forward()
    back = problem.backward(trace)
    assert_grad_close("output", found, output.detach().numpy(), 1e-13)
    np.testing.assert_allclose(trace.alpha, alpha.detach().numpy(), rtol=1e-13)
    gradients = {**problem.gradients(back), "values": back.dmemory_values, "memory": back.dmemory_weights}
    assert_all_close(gradients, {name: leaf[name].grad.numpy() for name in gradients})


# --------------------------------------------------------------------------------------------------- step by step


@EACH_CASE
def test_backward_steps_are_backward_bit_for_bit(cell, options):
    problem = Problem(cell, options)
    trace, again = problem.forward()[2], problem.forward()[2]
    back, start = problem.backward(trace), problem.decoder.params.zeros_like()
    start.flat[:] = 1
    steps = problem.decoder.backward_steps(
        again, problem.doutput, join(problem.dfinal), start, dalpha=problem.dalpha
    )  # fmt: skip
    seen = []
    for step in steps:
        seen.append(step.t)
        assert steps.result is None
        assert np.all(start.flat == 1)
        for name in {"score", "alpha", "context", "dalpha"} & set(step.names):
            assert np.array_equal(getattr(step, name), getattr(trace, name)[step.t])
    assert {"score", "alpha", "context"} <= set(step.names)  # of the layer that attends, the last one
    assert seen == list(range(T))[::-1] * problem.decoder.num_layers
    for name, array in problem.gradients(steps.result).items():
        if name in back.grads:
            assert np.array_equal(array, back.grads[name] + 1), name
        else:
            assert np.array_equal(array, problem.gradients(back)[name]), name
    for name in ("dmemory_values", "dmemory_weights"):
        assert np.array_equal(getattr(steps.result, name), getattr(back, name))
    for name in ("dscore", "dalpha", "dcontext"):
        assert np.array_equal(getattr(again, name), getattr(trace, name))
    assert next(steps, None) is None


@EACH_CASE
def test_the_trace_has_attention_and_the_layer(cell, options):
    problem = Problem(cell, options, lengths=None)
    output, _, trace = problem.forward()
    problem.backward(trace)
    assert len(trace) == T
    width = problem.decoder.memory_size
    for name, last in {"score": S, "alpha": S, "dscore": S, "dalpha": S, "context": width, "dcontext": width}.items():
        array = getattr(trace, name)
        assert array.shape == (T, N, last)
        for t in range(T):
            assert name in trace[t].names
            assert np.array_equal(getattr(trace[t], name), array[t])
    assert {"h", "h_prev", "dh"} <= set(trace[1].names)
    assert trace[1].h.shape == (N, H)
    if problem.decoder.combine is not None:
        W, h = problem.decoder.params["combine.weight"], trace.rnn.top.h[1:]
        np.testing.assert_allclose(output, np.tanh(np.concatenate([trace.context, h], axis=2) @ W.T), rtol=1e-13)
    assert repr(trace[1]) == repr(trace.rnn[1])


# --------------------------------------------------------------------------------------- what attention must hold


@EACH_CASE
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_that_do_not_exist_change_no_digit(cell, options, dtype):
    if "memory_size" in options:
        options = {**options, "memory_size": H}
    for sizes in ((T, 1, 1, 1), (T, 1, 5, 1), (1, 3, 13, 1), (T, 2, 5, 33), (T, 3, 13, 8)):
        problem = Problem(cell, options, lengths=None, exists=None, sizes=sizes)
        decoder = problem.decoder.astype(dtype)
        x, memory = problem.x.astype(dtype), problem.memory.astype(dtype)
        output, _, trace = decoder.forward(x, memory)
        assert output.dtype == dtype
        for rows in (1, 6):
            nothing = np.full((rows, *memory.shape[1:]), np.nan, dtype)
            lengths = [sizes[2]] * sizes[1]
            same, _, padded = decoder.forward(x, np.concatenate([memory, nothing]), memory_lengths=lengths)
            assert np.array_equal(same, output), sizes
            assert np.array_equal(padded.alpha[:, :, : sizes[2]], trace.alpha), sizes
            assert not np.any(padded.alpha[:, :, sizes[2] :])


@EACH_CASE
def test_a_sequence_without_memory_and_rows_that_do_not_exist(cell, options):
    problem = Problem(cell, options, lengths=None)
    _, _, trace = problem.forward()
    back = problem.backward(trace)
    problem.memory[~EXISTS.T] = np.nan
    for name, array in problem.gradients().items():
        assert np.array_equal(array, problem.gradients(back)[name]), name
    assert not np.any(trace.alpha[:, ~EXISTS])
    assert not np.any(trace.context[:, 2])
    for array in (back.dmemory, back.dmemory_values, back.dmemory_weights):
        assert not np.any(array[~EXISTS.T])
        assert np.all(array[EXISTS.T] != 0)


@EACH_CASE
def test_steps_that_do_not_exist_change_nothing(cell, options):
    """Each sequence by itself, without padding, has its rows of the batch."""
    problem = Problem(cell, options)
    problem.x[~(np.arange(T)[:, None] < LENGTHS)] = 1e3
    output, h_n, trace = problem.forward()
    back = problem.backward(trace)
    padded = np.arange(T)[:, None] >= np.array(LENGTHS)
    attention = [getattr(trace, name) for name in ("score", "alpha", "context", "dscore", "dalpha", "dcontext")]
    for array in (output, back.dx, *attention):
        assert not np.any(array[padded])
    for n, length in enumerate(LENGTHS):
        one = slice(n, n + 1)
        initial, dfinal = ([a[:, one] for a in arrays] for arrays in (problem.initial, problem.dfinal))
        found, ends, trace = problem.decoder.forward(
            problem.x[:length, one], problem.memory[:, one], join(initial), memory_mask=EXISTS[one]
        )
        own = problem.decoder.backward(
            trace, problem.doutput[:length, one], join(dfinal), dalpha=problem.dalpha[:length, one]
        )
        assert_grad_close("output", found, output[:length, one], 1e-13)
        assert_grad_close("dx", own.dx, back.dx[:length, one], 1e-13)
        assert_grad_close("dmemory", own.dmemory, back.dmemory[:, one], 1e-13)
        assert_grad_close("dh_0", own.dh_0, back.dh_0[:, one], 1e-13)
        for end, whole in zip(split(ends), split(h_n), strict=True):
            assert_grad_close("h_n", end, whole[:, one], 1e-13)


@EACH_CASE
def test_rows_of_the_memory_in_another_order(cell, options):
    if "location" in options:
        options = {name: value for name, value in options.items() if name != "location"}
    problem, order = Problem(cell, options), np.array([2, 0, 3, 1])
    found = problem.gradients()
    problem.memory, problem.exists = problem.memory[order], EXISTS[:, order]
    problem.dalpha = problem.dalpha[:, :, order]
    assert_all_close(problem.gradients(), {**found, "memory": found["memory"][order]})


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "peephole", "layernorm", MGU])
@pytest.mark.parametrize("options", [{}, BEFORE, FEEDING], ids=str)
def test_scores_of_any_size(cell, options):
    problem = Problem(cell, {**options, "num_layers": 2})
    problem.memory *= 1e6
    _, _, trace = problem.forward()
    assert np.abs(trace.score).max() > 1e4
    for name, array in problem.gradients().items():
        assert np.all(np.isfinite(array)), name


@EACH_CASE
def test_float32_is_float64_up_to_rounding(cell, options):
    problem = Problem(cell, options)
    expected, problem.decoder = problem.gradients(), problem.decoder.astype(np.float32)
    for name in ("x", "memory", "doutput", "dalpha"):
        setattr(problem, name, getattr(problem, name).astype(np.float32))
    problem.initial, problem.dfinal = ([a.astype(np.float32) for a in s] for s in (problem.initial, problem.dfinal))
    for name, array in problem.gradients().items():
        assert array.dtype == np.float32, name
        assert_grad_close(name, array, expected[name], 1e-4)


def test_after_the_cell_the_layer_is_the_plain_one():
    problem = Problem("lstm", lengths=None)
    plain = LSTM(D, H)
    plain.load_state_dict({name: problem.decoder.params[f"rnn.{name}"] for name in plain.params})
    _, h_n, trace = problem.forward()
    output, same, _ = plain.forward(problem.x, join(problem.initial))
    assert np.array_equal(trace.rnn.top.h[1:], output)
    assert all(map(np.array_equal, h_n, same))


def test_nothing_said_of_outputs_is_zeros():
    for options in ({}, BEFORE, FEEDING):
        problem = Problem("gru", options)
        trace = problem.forward()[2]
        found = problem.decoder.backward(trace, None, join(problem.dfinal))
        expected = problem.decoder.backward(trace, np.zeros((T, N, H)), join(problem.dfinal))
        assert np.array_equal(found.grads.flat, expected.grads.flat)
        assert np.any(found.dh_0)
        assert np.array_equal(found.dmemory, expected.dmemory)


# ---------------------------------------------------------------------------------------------- traces, parameters


@EACH_CASE
def test_a_trace_keeps_what_it_was_made_of(cell, options):
    problem = Problem(cell, options)
    output, _, trace = problem.forward()
    expected = problem.gradients(problem.backward(trace))
    shown = [] if trace.attention is None else [trace.score, trace.alpha, trace.context]  # of a step: copies
    assert not any(array.flags.writeable for array in (output, *shown))
    problem.x[...], problem.memory[...] = np.nan, np.nan
    problem.decoder.params.flat[:] = 7
    for initial in problem.initial:
        initial[...] = np.nan
    for name, array in problem.gradients(problem.backward(trace)).items():
        assert np.array_equal(array, expected[name]), name


@EACH_CASE
def test_decoders_and_traces_are_copied(cell, options):
    problem = Problem(cell, options)
    output, _, trace = problem.forward()
    expected, original = problem.gradients(problem.backward(trace)), problem.decoder
    for twin, again in (pickle.loads(pickle.dumps((original, trace))), (copy.copy(original), copy.deepcopy(trace))):
        assert np.array_equal(problem.forward(decoder=twin)[0], output)
        problem.decoder = twin
        assert_all_close(problem.gradients(problem.backward(again)), expected)
        twin.params.flat[:] = 0  # the one vector of all layers, and no other's
        assert not np.any(twin(problem.x, problem.memory)[0])
        assert np.any(original.params.flat)
    other = Problem(cell, options, seed=3).decoder
    other.load_state_dict(original.state_dict())
    assert np.array_equal(problem.forward({**problem.point, **original.params}, other)[0], output)


def test_names_of_parameters():
    def names(**options):
        return [name.removesuffix("_l0") for name in AttentionDecoder(D, H, M, **options).params if "_hh" not in name]

    cell = ["rnn.weight_ih", "rnn.bias_ih"]
    assert names() == [*cell, "attention.weight_a", "combine.weight"]
    additive = ["attention.weight_memory", "attention.bias", "attention.weight_query", "attention.v"]
    assert names(score="additive") == [*cell, *additive, "combine.weight"]
    assert names(order="before") == [*cell, "rnn.weight_ch", "keys.weight_a"]
    assert names(input_feeding=True, num_layers=2) == [
        *cell, "rnn.weight_if", "rnn.weight_c", "keys.weight_a", "upper.weight_ih", "upper.bias_ih"
    ]  # fmt: skip
    assert AttentionDecoder(D, H, M).params["combine.weight"].shape == (H, M + H)


# ------------------------------------------------------------------------------------------------ wrong arguments

X, MEMORY = np.zeros((T, N, D)), np.zeros((S, N, M))


def made(**options):
    return AttentionDecoder(D, H, M, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: made(cell="transformer"),
            OptionError,
            "AttentionDecoder: cell must be one of 'rnn', 'rnn-tanh', 'rnn-relu', 'lstm', 'gru', 'gru-before', "
            "'peephole', 'layernorm', or a class of recurrent layers; got 'transformer'",
        ),
        (
            lambda: made(cell=Linear),
            OptionError,
            "AttentionDecoder: cell must be one of 'rnn', 'rnn-tanh', 'rnn-relu', 'lstm', 'gru', 'gru-before', "
            f"'peephole', 'layernorm', or a class of recurrent layers; got {Linear!r}",
        ),
        (
            lambda: made(order="inside"),
            OptionError,
            "AttentionDecoder: order must be one of 'before', 'after'; got 'inside'",
        ),
        (
            lambda: made(order="before", input_feeding=True),
            OptionError,
            "AttentionDecoder: input_feeding must be False with order = 'before': the cell reads the context",
        ),
        (
            lambda: made(gate="scalar"),
            OptionError,
            "AttentionDecoder: gate must be left out in the order 'after' without input_feeding, in which attention is "
            "no part of a step; take order = 'before' or input_feeding = True",
        ),
        (
            lambda: made(bidirectional=True),
            OptionError,
            "AttentionDecoder: bidirectional must be False: a decoder has one direction, and arrays (T, N, ·)",
        ),
        *(
            (
                lambda options=options: made(score="dot", **options),
                OptionError,
                f"{name}: score 'dot' must have a query as wide as the memory, Q = M; got Q = 3 and M = 4. For other "
                "widths take 'general', which has a weight between the two",
            )
            for options, name in (({}, "Attention"), (BEFORE, "AttentionDecoder"), (FEEDING, "AttentionDecoder"))
        ),
        (
            lambda: made(attention_size=3, order="before"),
            OptionError,
            "AttentionDecoder: attention_size must be left out: it is of the score 'additive', not 'general'",
        ),
        (
            lambda: made().forward(MEMORY, MEMORY),
            ShapeError,
            "AttentionDecoder.forward: x must have shape (T, N, D) with D = input_size = 2; got (4, 3, 4)",
        ),
        (
            lambda: made().forward(X, MEMORY[:, :2]),
            ShapeError,
            "AttentionDecoder.forward: memory must have shape (S, N, M) = (S, 3, 4) with S >= 1; got (4, 2, 4)",
        ),
        (
            lambda: made().forward(X, MEMORY, memory_lengths=[4, 5, 1]),
            OptionError,
            "AttentionDecoder.forward: memory_lengths must be integers from 0 to S = 4; got [4, 5, 1]",
        ),
        (
            lambda: made().forward(X, MEMORY, memory_mask=EXISTS.T),
            ShapeError,
            "AttentionDecoder.forward: memory_mask must have shape (N, S) = (3, 4); got (4, 3)",
        ),
        (
            lambda: made().forward(X, MEMORY, memory_mask=EXISTS * 1.0),
            DTypeError,
            "AttentionDecoder.forward: memory_mask must hold bools, True where a row counts; got float64",
        ),
        (
            lambda: made().begin(MEMORY, memory_lengths=[4, 1, 1], memory_mask=EXISTS),
            OptionError,
            "AttentionDecoder.begin: memory_lengths or memory_mask must be left out: each says which rows count",
        ),
        (
            lambda: made().forward(X, MEMORY, np.zeros((2, N, H))),
            ShapeError,
            "AttentionDecoder.forward: h_0 must have shape (num_layers, N, H) = (1, 3, 3); got (2, 3, 3)",
        ),
        (
            lambda: made(cell="lstm").forward(X, MEMORY, np.zeros((1, N, H))),
            DTypeError,
            "AttentionDecoder.forward: h_0 must be 2 array(s), h, c; got 1",
        ),
        (
            lambda: made(cell="lstm").forward(X, MEMORY, (np.zeros((1, N, H)), np.zeros((1, N, M)))),
            ShapeError,
            "AttentionDecoder.forward: c_0 must have shape (num_layers, N, H) = (1, 3, 3); got (1, 3, 4)",
        ),
        (
            lambda: (decoder := made()).step(X[0, :2], decoder.begin(MEMORY)),
            ShapeError,
            "AttentionDecoder.step: x_t must have shape (N, D) = (3, 2); got (2, 2)",
        ),
        (
            lambda: made().backward(X, X),
            DTypeError,
            "AttentionDecoder.backward: trace must be the third result of forward; got ndarray",
        ),
        *(
            (
                lambda options=options: made(**options).backward(made(**options).forward(X, MEMORY)[2], X),
                ShapeError,
                "AttentionDecoder.backward: doutput must have shape (T, N, output_width) = (3, 3, 3); got (3, 3, 2)",
            )
            for options in ({}, BEFORE, FEEDING, {**BEFORE, "num_layers": 2})
        ),
        *(
            (
                lambda options=options: made(**options).backward(
                    made(**options).forward(X, MEMORY)[2], None, dalpha=np.zeros((N, S))
                ),
                ShapeError,
                "AttentionDecoder.backward: dalpha must have shape (T, N, S) = (3, 3, 4); got (3, 4)",
            )
            for options in ({}, BEFORE, FEEDING, {**BEFORE, "num_layers": 2})
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    assert_raises(error, message, call)


@pytest.mark.parametrize("options", [{}, BEFORE, FEEDING], ids=str)
def test_a_state_of_another_decoder_is_refused(options):
    message = "AttentionDecoder.step: state must be from begin or step of this decoder; got "
    for state, of in ((made(**options).begin(MEMORY), "another decoder"), (None, "NoneType")):
        assert_raises(OptionError, message + of, lambda state=state: made(**options).step(X[0], state))


def test_rows_that_a_state_has_not_are_refused():
    state = made().begin(MEMORY)
    assert state.take([]).rows.size == 0
    for rows in ([True, False, True], [0.5], [3], [-1], [[0, 1]], 0):
        message = f"DecoderState.take: rows must be integers from 0 to N - 1 = 2, (R,); got {rows!r}"
        assert_raises(OptionError, message, lambda rows=rows: state.take(rows))


@pytest.mark.parametrize("options", [{}, BEFORE, FEEDING], ids=str)
def test_a_trace_of_another_score_or_width_is_refused(options):
    """The weights of one score may fit another's, as general's do scaled_dot."""

    def decoder(score, hidden=M):
        return AttentionDecoder(D, hidden, M, score=score, **options)

    others = [(one, decoder(other)) for one in ("dot", "scaled_dot", "general") for other in ("dot", "general")]
    others = [pair for pair in others if pair[0] != pair[1].score] + [("general", decoder("general", M + 1))]
    for score, other in others:
        trace = other.forward(X, MEMORY)[2]
        with pytest.raises(ShapeError, match=r"^Attention\w+\.backward: trace was recorded by a "):
            decoder(score).backward(trace, np.zeros((T, N, M)))


@pytest.mark.parametrize("options", [BEFORE, {"num_layers": 2, **BEFORE}, {"score": "additive"}], ids=str)
def test_a_trace_of_another_decoder_is_refused(options):
    trace = made(**options).forward(X, MEMORY)[2]
    with pytest.raises((ShapeError, OptionError), match=r"^Attention(Decoder)?\.backward: trace (was|must)"):
        made().backward(trace, np.zeros((T, N, H)))


# --------------------------------------------------------------------------------------------- planted mistakes

RIGHT = {"attention": Attention.backward, "keys": Keys.backward, "combine": Linear.backward}


def query_left_out(self, trace, dcontext, grads=None, *, dalpha=None):
    back = RIGHT["attention"](self, trace, dcontext, grads, dalpha=dalpha)
    back.dquery[...] = 0
    return back


def weights_of_the_loss_left_out(self, trace, dcontext, grads=None, *, dalpha=None):
    return RIGHT["attention"](self, trace, dcontext, grads)


def memory_by_values_alone(self, dkeys, values, weights, grads):
    return RIGHT["keys"](self, dkeys, values, weights, grads) * 0


def context_after_the_state(self, trace, dy, grads=None):
    back = RIGHT["combine"](self, trace, dy, grads)
    back.dx[...] = np.roll(back.dx, H, axis=2)
    return back


MISTAKES = [
    (query_left_out, Attention, {}, {"x", "h_0", "rnn.weight_ih_l0"}),
    (weights_of_the_loss_left_out, Attention, {}, {"memory", "attention.weight_a", "x"}),
    (memory_by_values_alone, Keys, {}, {"memory"}),
    (memory_by_values_alone, Keys, BEFORE, {"memory"}),
    (memory_by_values_alone, Keys, FEEDING, {"memory"}),
    (context_after_the_state, Linear, {}, {"x", "memory", "attention.weight_a"}),
]


@pytest.mark.parametrize(("wrong", "place", "options", "shown"), MISTAKES)
def test_a_planted_mistake_is_caught(monkeypatch, wrong, place, options, shown):
    problem = Problem("gru", options)
    expected = complex_step(problem.loss, problem.point)
    assert_all_close(problem.gradients(), expected)
    monkeypatch.setattr(place, "backward", wrong)
    found = problem.gradients()
    errors = {name: np.abs(found[name] - array).max() / np.abs(array).max() for name, array in expected.items()}
    assert {name for name, error in errors.items() if error > 1e-6} >= shown


def test_classes_with_attention_are_made_once():
    assert attention_decoder.with_attention(GRU) is attention_decoder.with_attention(GRU)
    kind = attention_decoder.with_attention(GRU)
    assert attention_decoder.with_attention(kind) is kind
    assert pickle.loads(pickle.dumps(kind)) is copy.deepcopy(kind) is kind


class OwnMeta(type):
    """A metaclass of a user's own."""


class OwnGRU(GRU, metaclass=OwnMeta):
    """A layer of such a class."""


def test_classes_may_have_a_metaclass():
    decoder = AttentionDecoder(D, H, M, cell=OwnGRU, order="before", rng=0)
    again = pickle.loads(pickle.dumps(decoder))
    assert type(again.rnn) is type(decoder.rnn)
    assert np.array_equal(again.params.flat, decoder.params.flat)


@pytest.mark.parametrize("options", [{}, {"order": "before", "score": "additive"}, {"input_feeding": True}])
def test_a_step_of_no_sequences(options):
    decoder = AttentionDecoder(3, 4, 5, rng=0, **options)
    none = decoder.begin(np.ones((2, 0, 5)))
    taken = decoder.begin(np.ones((2, 3, 5))).take([])
    for state in (none, taken):
        output, after = decoder.step(np.ones((0, 3)), state)
        assert output.shape == (0, 4)
        assert after.alpha.shape == (0, 2)
