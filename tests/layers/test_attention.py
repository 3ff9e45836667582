"""Attention in front of the cells: golden numbers, the complex step, torch, forward mode, and what attention must hold.

The gradients of every case are compared entry by entry, those of the memory among them; planted mistakes must show.
"""

import functools
import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frameworks import torch
from messages import assert_raises
from planting import planted

from rnn_numpy import GRU, LSTM, RNN, decompose
from rnn_numpy.checks import assert_grad_close, complex_step, conformance_checks, recurrent_cases
from rnn_numpy.checks.chain_rule import ChainRule
from rnn_numpy.checks.conformance import ENTRY_BY_ENTRY, conformance_id
from rnn_numpy.engine.forward_mode import jvp
from rnn_numpy.engine.influence import rtrl
from rnn_numpy.errors import CellError, DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.layers import attention, textbook
from rnn_numpy.layers.attention import Attending, AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.peephole import PeepholeLSTM
from tests.layers.test_textbook import GOLDEN

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_your_own_cell.py"
T, N, S, D, H = 5, 4, 6, 2, 3


class AttentionPeephole(Attending, PeepholeLSTM):
    """A cell with parts after its own."""


class AttentionLayerNorm(Attending, LayerNormLSTM):
    """A cell whose input's gradient is not da."""


@functools.cache
def attention_mgu():
    """Return the example's cell with attention in front: a cell of a user's own, without a tangent."""
    namespace = {}
    exec(EXAMPLE.read_text(encoding="utf-8").partition("# The layer\n")[0], namespace)
    return type("AttentionMGU", (Attending, namespace["MGU"]), {})


KINDS = {
    "RNN": (AttentionRNN, {}),
    "relu": (AttentionRNN, {"nonlinearity": "relu"}),
    "LSTM": (AttentionLSTM, {}),
    "GRU": (AttentionGRU, {}),
    "GRU before": (AttentionGRU, {"reset": "before"}),
    "peephole": (AttentionPeephole, {}),
    "layer norm": (AttentionLayerNorm, {"epsilon": 0.3}),
}
LENGTHS = (3, 5, 1, 4)
EXISTS = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], bool)
SETTINGS = {
    "plain": ({}, {}),
    "no bias": ({"bias": False}, {}),
    "recurrent dropout": ({"recurrent_dropout": 0.4}, {}),
    "zoneout": ({"zoneout": 0.3}, {}),
    "both, masked": ({"recurrent_dropout": 0.4, "zoneout": 0.3}, {"exists": EXISTS}),
    "batch first": ({"batch_first": True}, {"exists": EXISTS}),
    "unbatched": ({}, {"unbatched": True}),
    "lengths": ({}, {"lengths": LENGTHS}),
    "masked": ({}, {"exists": EXISTS}),
    "all": (
        {"recurrent_dropout": 0.4, "zoneout": 0.3, "batch_first": True},
        {"lengths": LENGTHS, "exists": EXISTS},
    ),
}
EACH_KIND = pytest.mark.parametrize("kind", [*KINDS, "MGU"])
EACH_SETTING = pytest.mark.parametrize("setting", SETTINGS)


class Problem:
    """A layer, what goes in, what the loss says, and a run: the loss is the sum of outputs and states, weighted."""

    def __init__(self, kind="RNN", setting="plain", *, sizes=(T, N, S, D, H), seed=0, scale=1.0, **more):
        options, call = SETTINGS[setting]
        rng = np.random.default_rng(seed)
        (T, N, S, D, H), call = sizes, {**call, **more}
        layer_kind, own = (attention_mgu(), {}) if kind == "MGU" else KINDS[kind]
        self.layer = layer_kind(D, H, **own, **options, rng=rng)
        self.layer.params.flat[:] += 0.1 * rng.normal(size=self.layer.params.flat.shape)  # no gain is 1, no shift 0
        states = self.layer.cell.states
        self.x, self.values, self.doutput = (rng.normal(size=shape) for shape in ((T, N, D), (S, N, H), (T, N, H)))
        self.values *= scale
        self.initial = [rng.normal(size=(1, N, H)) for _ in states]
        self.dfinal = [rng.normal(size=(1, N, H)) for _ in states]
        self.lengths, self.exists = call.get("lengths"), call.get("exists")
        if call.get("unbatched"):
            self.x, self.values, self.doutput = self.x[:, 0], self.values[:, 0], self.doutput[:, 0]
            self.initial, self.dfinal = ([array[:, 0] for array in arrays] for arrays in (self.initial, self.dfinal))
        elif self.layer.batch_first:
            self.x, self.values, self.doutput = (a.swapaxes(0, 1) for a in (self.x, self.values, self.doutput))
        _, _, trace = self.layer.forward(self.x, given=self.given(self.values))
        self.masks = {}
        if trace.recurrent_masks:
            self.masks["recurrent_masks"] = trace.recurrent_masks
        if trace.zoneout_masks:
            self.masks["zoneout_masks"] = trace.zoneout_masks

    def given(self, values):
        return {"values": values} | ({} if self.exists is None else {"exists": self.exists})

    @property
    def point(self):
        """What the loss depends on."""
        states = self.layer.cell.states
        initial = {f"{state}_0": array for state, array in zip(states, self.initial, strict=True)}
        return {"x": self.x, "values": self.values, **initial, **self.layer.params}

    def arguments(self, at):
        initial = [at[f"{state}_0"] for state in self.layer.cell.states]
        return {
            "h_0": alone(initial),
            "lengths": self.lengths,
            "given": self.given(at["values"]),
            **self.masks,
        }

    def forward(self, **changes):
        return self.layer.forward(self.x, **{**self.arguments(self.point), **changes})

    def loss(self, at):
        at = {**self.point, **at}
        layer = self.layer.astype(complex if any(np.iscomplexobj(array) for array in at.values()) else float)
        for name in layer.params:
            layer.params[name] = at[name]
        cast = {name: np.asarray(array, layer.dtype) for name, array in at.items()}
        output, finals, _ = layer.forward(cast["x"], **self.arguments(cast))
        ends = zip(self.dfinal, finals if isinstance(finals, tuple) else (finals,), strict=True)
        return np.sum(self.doutput * output) + sum(np.sum(dfinal * final) for dfinal, final in ends)

    def backward(self, trace):
        return self.layer.backward(trace, self.doutput, alone(self.dfinal))

    def gradients(self, back=None):
        """Return all gradients, under the names of `point`."""
        back = self.backward(self.forward()[2]) if back is None else back
        initial = {f"{state}_0": getattr(back, f"d{state}_0") for state in self.layer.cell.states}
        return {"x": back.dx, "values": back.dgiven["values"], **initial, **back.grads}


def alone(states):
    """Return states as layers have them: one, or a tuple."""
    return tuple(states) if len(states) > 1 else states[0]


def assert_all_close(found, expected, rtol=1e-13):
    assert list(found) == list(expected)
    for name, array in found.items():
        assert_grad_close(name, array, expected[name], rtol)


# ------------------------------------------------------------------------------------------------ golden numbers


def fill(shape, k, scale=0.5):
    return scale * np.sin(1 + k + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def test_golden_numbers_of_the_lectures_decoder():
    layer = AttentionRNN(1, 2)
    weights = {"weight_ih": fill((2, 1), 0), "weight_hh": fill((2, 2), 1), "weight_ch": fill((2, 2), 2)}
    layer.load_state_dict(
        {**{f"{name}_l0": w for name, w in weights.items()}, "bias_ih_l0": fill((2,), 3), "bias_hh_l0": np.zeros(2)}
    )
    exists = np.array([[True, True, True], [True, True, False]])
    given = {"values": fill((3, 2, 2), 4, 1.0), "exists": exists}
    r = fill((2, 2, 2), 7)
    output, h_n, trace = layer.forward(fill((2, 2, 1), 5), fill((1, 2, 2), 6), given=given)
    back = layer.backward(trace, r)
    assert not np.any(back.dgiven["values"][2, 1])
    found = {
        "alpha": trace.alpha,
        "h_1": h_n[0],
        "dW_hh": back.grads["weight_hh_l0"],
        "dW_ch": back.grads["weight_ch_l0"],
        "db": back.grads["bias_ih_l0"],
        "dh_0": back.dh_0[0],
        "dvalues": back.dgiven["values"],
        "of it by the weights": back.given_ways["values"]["weights"],
        "loss": np.sum(r * output),
    }
    assert_all_close(found, {name: np.array(array) for name, array in GOLDEN.items()}, 1e-11)


# -------------------------------------------------------------------------------------------- every gradient


# Cells of other files, and one of a user's own, in the settings in which several meet.
EACH_GRADIENT = [*itertools.product(("RNN", "relu", "LSTM", "GRU", "GRU before"), SETTINGS)]
EACH_GRADIENT += [*itertools.product(("peephole", "layer norm", "MGU"), ("no bias", "both, masked", "all"))]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("kind", "setting"), EACH_GRADIENT)
def test_gradients_are_complex_steps(kind, setting):
    problem = Problem(kind, setting)
    assert_all_close(problem.gradients(), complex_step(problem.loss, problem.point))


@pytest.mark.sampled(5)
@EACH_KIND
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3, 1, 2, 4), (9, 2, 11, 1, 2)], ids=str)
def test_gradients_are_complex_steps_at_other_sizes(kind, sizes):
    problem = Problem(kind, sizes=sizes, seed=1)
    assert_all_close(problem.gradients(), complex_step(problem.loss, problem.point))


def test_the_ways_add_up_and_the_first_row_of_the_memory_has_its_share():
    problem = Problem("LSTM", "lengths")
    back = problem.backward(problem.forward()[2])
    ways = back.given_ways["values"]
    assert list(ways) == ["values", "weights"]
    assert np.array_equal(ways["values"] + ways["weights"], back.dgiven["values"])
    for way in ways.values():
        assert np.all(way[0] != 0)


# ------------------------------------------------------------------------------------------------ torch


def torch_step(kind, p, x_t, context, h, c):
    """Return the next h and c of torch's cells, that read the context beside the input."""
    a_x = x_t @ p["weight_ih_l0"].T + context @ p["weight_ch_l0"].T + p["bias_ih_l0"]
    a_h = h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
    if kind in ("RNN", "relu"):
        return (torch.tanh if kind == "RNN" else torch.relu)(a_x + a_h), c
    if kind == "LSTM":
        i, f, g, o = (a_x + a_h).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    (x_r, x_z, x_n), (h_r, h_z, h_n) = a_x.chunk(3, dim=1), a_h.chunk(3, dim=1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    if kind == "GRU before":
        h_n = (r * h) @ p["weight_hh_l0"][-h.shape[1] :].T + p["bias_hh_l0"][-h.shape[1] :]
        return (1 - z) * torch.tanh(x_n + h_n) + z * h, c
    return (1 - z) * torch.tanh(x_n + r * h_n) + z * h, c


@pytest.mark.needs_torch
@pytest.mark.parametrize("kind", ["RNN", "relu", "LSTM", "GRU", "GRU before"])
@pytest.mark.parametrize("setting", ["plain", "masked", "lengths"])
def test_torch(kind, setting):
    exists = EXISTS.copy()
    exists[2, 4] = True  # torch's softmax has no answer for a row without any
    problem = Problem(kind, setting, **({"exists": exists} if setting == "masked" else {}))
    point = {name: torch.tensor(np.array(array), requires_grad=True) for name, array in problem.point.items()}
    h, c = point["h_0"][0], point["c_0"][0] if "c_0" in point else None
    values, hidden = point["values"], torch.tensor(~exists if setting == "masked" else np.zeros((N, S), bool))
    lengths = problem.lengths or (T,) * N
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        score = torch.einsum("nh,snh->ns", h, values).masked_fill(hidden, -torch.inf)
        context = torch.einsum("ns,snh->nh", torch.softmax(score, dim=1), values)
        next_h, next_c = torch_step(kind, point, point["x"][t], context, h, c)
        alive = torch.tensor([[t < length] for length in lengths])
        h, c = torch.where(alive, next_h, h), c if c is None else torch.where(alive, next_c, c)
        loss = loss + torch.sum(alive * h * torch.tensor(problem.doutput[t]))
    for final, dfinal in zip((h, c), problem.dfinal, strict=False):
        loss = loss + torch.sum(final * torch.tensor(dfinal[0]))
    loss.backward()
    assert_grad_close("loss", problem.loss({}), loss.detach().numpy(), 1e-13)
    assert_all_close(problem.gradients(), {name: leaf.grad.numpy() for name, leaf in point.items()})


# -------------------------------------------------------------------------------------------------- the textbook


@pytest.mark.parametrize("setting", ["plain", "masked"])
def test_textbook(setting):
    problem = Problem("RNN", setting, sizes=(12, N, S, D, 8))
    p, values, exists = problem.layer.params, problem.values, EXISTS if setting == "masked" else np.ones((N, S), bool)
    W_ih, W_hh, W_ch = p["weight_ih_l0"], p["weight_hh_l0"], p["weight_ch_l0"]
    h, alpha, context = textbook.decoder_forward(
        problem.x, problem.initial[0][0], values, values, exists, W_ih, W_hh, W_ch, p["bias_ih_l0"], p["bias_hh_l0"]
    )
    _, _, trace = problem.forward()
    assert_all_close(
        {"h": trace.h, "alpha": trace.alpha, "context": trace.context}, {"h": h, "alpha": alpha, "context": context}
    )
    dx, dh_0, dkeys, dvalues, *weights = textbook.decoder_backward(
        problem.doutput, problem.dfinal[0][0], problem.x, h, alpha, context, values, values, W_ih, W_hh, W_ch
    )
    back = problem.backward(trace)
    names = ("weight_ih_l0", "weight_hh_l0", "weight_ch_l0", "bias_ih_l0", "bias_hh_l0")
    expected = {"x": dx, "h_0": dh_0[None], "by values": dvalues, "by weights": dkeys}
    found = {"x": back.dx, "h_0": back.dh_0}
    found |= {f"by {way}": array for way, array in back.given_ways["values"].items()}
    assert_all_close(
        {**found, **{name: back.grads[name] for name in names}}, {**expected, **dict(zip(names, weights, strict=True))}
    )


# ---------------------------------------------------------------------------------- forward mode, the chain rule

WITH_TANGENT = pytest.mark.parametrize("kind", KINDS)
FEW_SETTINGS = pytest.mark.parametrize("setting", ["plain", "no bias", "unbatched", "lengths", "all"])


def like(rng, arrays):
    return {name: rng.normal(size=array.shape) for name, array in arrays.items()}


def changes(problem, v):
    """Return a change of the point as `jvp` has it."""
    vh_0 = alone([v[f"{state}_0"] for state in problem.layer.cell.states])
    vparams = {name: v[name] for name in problem.layer.params}
    return {"vx": v["x"], "vh_0": vh_0, "vparams": vparams, "vgiven": {"values": v["values"]}}


@WITH_TANGENT
@EACH_SETTING
def test_forward_mode_is_the_transpose_of_backward(kind, setting):
    problem = Problem(kind, setting)
    trace = problem.forward()[2]
    gradients, rng = problem.gradients(problem.backward(trace)), np.random.default_rng(1)
    for name in [*problem.point, None]:  # a change of each tensor alone, and of all
        v = {key: array if name in (key, None) else 0 * array for key, array in like(rng, problem.point).items()}
        found = jvp(problem.layer, trace, **changes(problem, v))
        finals = found.vh_n if isinstance(found.vh_n, tuple) else (found.vh_n,)
        forward = np.vdot(problem.doutput, found.voutput) + sum(map(np.vdot, problem.dfinal, finals))
        terms = [np.vdot(gradients[key], v[key]) for key in v]
        sizes = [np.linalg.norm(gradients[key]) * np.linalg.norm(v[key]) for key in v]
        assert abs(forward - sum(terms)) <= 1e-13 * sum(sizes)


@WITH_TANGENT
def test_forward_mode_is_the_complex_step_along_a_direction(kind):
    problem = Problem(kind, "all")
    v = like(np.random.default_rng(1), problem.point)
    found = jvp(problem.layer, problem.forward()[2], **changes(problem, v))
    at = {name: array + 1e-20j * v[name] for name, array in problem.point.items()}
    layer = problem.layer.astype(complex)
    layer.load_state_dict({name: at[name] for name in layer.params})
    cast = {name: np.asarray(array, complex) for name, array in at.items()}
    output, _, _ = layer.forward(cast["x"], **problem.arguments(cast))
    assert_grad_close("voutput", found.voutput, output.imag / 1e-20, 1e-13)


@WITH_TANGENT
@FEW_SETTINGS
def test_real_time_recurrent_learning(kind, setting):
    problem = Problem(kind, setting)
    trace = problem.forward()[2]
    forward, back = rtrl(problem.layer, trace, problem.doutput, alone(problem.dfinal)), problem.backward(trace)
    assert_all_close(dict(forward.grads), dict(back.grads))
    assert_all_close(forward.initial, {name: getattr(back, name) for name in forward.initial})


@EACH_KIND
@FEW_SETTINGS
def test_the_chain_rule_step_by_step(kind, setting):
    problem = Problem(kind, setting)
    trace = problem.forward()[2]
    reference = ChainRule(problem.layer, trace, problem.doutput, alone(problem.dfinal)).gradient().tensors
    found = problem.gradients(problem.backward(trace))
    assert_all_close({name: found[name] for name in reference}, reference)
    assert set(found) - set(reference) == {"values"}  # not a parameter, nor what a step hands to the next


# --------------------------------------------------------------------------------------------------- step by step


@EACH_KIND
@EACH_SETTING
def test_step_by_step_is_the_whole_bit_for_bit(kind, setting):
    problem = Problem(kind, setting)
    output, finals, trace = problem.forward()
    back = problem.backward(trace)
    steps = problem.layer.forward_steps(problem.x, **problem.arguments(problem.point))
    assert [step.t for step in steps] == list(range(T))
    again = steps.result
    assert np.array_equal(again[0], output)
    assert all(map(np.array_equal, np.atleast_3d(*finals), np.atleast_3d(*again[1])))
    backward = problem.layer.backward_steps(again[2], problem.doutput, alone(problem.dfinal))
    assert [step.t for step in backward] == list(range(T))[::-1]
    for name, array in problem.gradients(backward.result).items():
        assert np.array_equal(array, problem.gradients(back)[name])
    for name in (*trace["l0"].names, "dalpha", "dscore", "dcontext"):
        assert np.array_equal(getattr(again[2], name), getattr(trace, name))


@EACH_KIND
@EACH_SETTING
def test_inference_is_forward_bit_for_bit(kind, setting):
    problem = Problem(kind, setting)
    arguments = {name: problem.arguments(problem.point)[name] for name in ("h_0", "lengths", "given")}
    output, finals, _ = problem.forward(**dict.fromkeys(problem.masks), training=False)
    same_output, same_finals = problem.layer(problem.x, **arguments)
    assert np.array_equal(same_output, output)
    assert all(map(np.array_equal, np.atleast_3d(*finals), np.atleast_3d(*same_finals)))


def test_a_forward_pass_that_is_halted_shows_what_is_done():
    problem = Problem("LSTM", "lengths")
    whole = problem.forward()[2]
    steps = problem.layer.forward_steps(problem.x, **problem.arguments(problem.point))
    for step in itertools.islice(steps, 3):
        for name in ("score", "alpha", "context", "h_prev", "h"):
            assert np.array_equal(getattr(step, name), getattr(whole[step.t], name))
    for name in ("score", "alpha", "context"):
        shown = getattr(steps.trace, name)
        assert np.array_equal(shown[:3], getattr(whole, name)[:3])
        assert np.all(np.isnan(shown[3:]))
    with pytest.raises(AttributeError) as caught:
        _ = steps.trace[3].alpha
    assert str(caught.value) == "step 3 has no alpha yet: the forward pass stands at t = 2"


def test_a_backward_pass_that_is_halted_shows_what_is_done():
    problem = Problem("LSTM", "lengths")
    trace, whole = problem.forward()[2], problem.forward()[2]
    problem.backward(whole)
    steps = problem.layer.backward_steps(trace, problem.doutput, alone(problem.dfinal))
    for step in itertools.islice(steps, 2):
        for name in ("dcontext", "dalpha", "dscore", "alpha", "da_i", "dh"):
            assert np.array_equal(getattr(step, name), getattr(whole[step.t], name))
    assert steps.result is None
    for name in ("dcontext", "dalpha", "dscore"):
        shown = getattr(trace, name)
        assert np.array_equal(shown[T - 2 :], getattr(whole, name)[T - 2 :])
        assert np.all(np.isnan(shown[: T - 2]))
    with pytest.raises(AttributeError) as caught:
        _ = trace[2].dalpha
    assert str(caught.value) == "step 2 has no dalpha yet: the backward pass stands at t = 3"


def test_a_step_lists_attention_among_its_arrays():
    problem = Problem("RNN")
    trace = problem.forward()[2]
    problem.backward(trace)
    rows = [line.split()[0] for line in repr(trace[1]).splitlines()[2:]]
    assert rows == [
        *("x", "h_prev", "a", "score", "alpha", "context", "h"),
        *("dh", "da", "dcontext", "dalpha", "dscore", "dh_prev"),
    ]


# --------------------------------------------------------------------------------------- what attention must hold


@EACH_KIND
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_rows_that_do_not_exist_change_nothing_bit_for_bit(kind, rows):
    problem = Problem(kind, "lengths")
    _, _, trace = problem.forward()
    back = problem.backward(trace)
    values = np.concatenate([problem.values, np.full((rows, N, H), np.nan)])
    exists = np.tile(np.arange(S + rows) < S, (N, 1))
    _, _, padded = problem.forward(given={"values": values, "exists": exists})
    longer = problem.backward(padded)
    assert np.array_equal(padded.h, trace.h)
    for name in ("score", "alpha", "dalpha", "dscore"):
        assert np.array_equal(getattr(padded, name)[:, :, :S], getattr(trace, name))
    assert not np.any(padded.alpha[:, :, S:])
    assert not np.any(padded.dscore[:, :, S:])
    assert not np.any(longer.dgiven["values"][S:])
    assert np.array_equal(longer.dgiven["values"][:S], back.dgiven["values"])
    for name, array in problem.gradients(back).items():
        if name != "values":
            assert np.array_equal(problem.gradients(longer)[name], array)


@EACH_KIND
def test_rows_of_the_memory_in_another_order(kind):
    problem = Problem(kind, "masked")
    trace = problem.forward()[2]
    found, order = problem.gradients(problem.backward(trace)), np.array([3, 0, 5, 1, 4, 2])
    alpha = trace.alpha
    problem.values, problem.exists = problem.values[order], problem.exists[:, order]
    trace = problem.forward()[2]
    assert_grad_close("alpha", trace.alpha, alpha[:, :, order], 1e-13)
    assert_all_close(problem.gradients(problem.backward(trace)), {**found, "values": found["values"][order]})


@EACH_KIND
def test_a_memory_of_one_row_is_the_context(kind):
    problem = Problem(kind, sizes=(T, N, 1, D, H))
    trace = problem.forward()[2]
    problem.backward(trace)
    assert np.all(trace.alpha == 1)
    assert np.array_equal(trace.context, np.broadcast_to(problem.values, (T, N, H)))
    assert np.any(trace.dalpha)
    assert not np.any(trace.dscore)


@EACH_KIND
def test_equal_rows_get_equal_weights(kind):
    problem = Problem(kind)
    problem.values = np.repeat(problem.values[:1], S, axis=0)
    trace = problem.forward()[2]
    problem.backward(trace)
    np.testing.assert_allclose(trace.alpha, 1 / S, rtol=1e-15)
    assert np.abs(trace.dscore).max() <= 1e-15 * np.abs(trace.dalpha).max()


@EACH_KIND
@EACH_SETTING
def test_a_context_that_nothing_reads_leaves_the_plain_layer_bit_for_bit(kind, setting):
    problem = Problem(kind, setting)
    problem.layer.params["weight_ch_l0"][...] = 0
    plain = type(problem.layer).__mro__[2](**problem.layer.config())
    plain.load_state_dict({name: w for name, w in problem.layer.params.items() if name != "weight_ch_l0"})
    output, finals, trace = problem.forward()
    back = problem.backward(trace)
    arguments = {name: array for name, array in problem.arguments(problem.point).items() if name != "given"}
    same_output, same_finals, same_trace = plain.forward(problem.x, **arguments)
    same = plain.backward(same_trace, problem.doutput, alone(problem.dfinal))
    assert np.array_equal(output, same_output)
    assert all(map(np.array_equal, np.atleast_3d(*finals), np.atleast_3d(*same_finals)))
    assert np.array_equal(back.dx, same.dx)
    assert np.array_equal(back.dh_0, same.dh_0)
    for name, gradient in same.grads.items():
        assert np.array_equal(back.grads[name], gradient)
    assert not np.any(back.dgiven["values"])
    assert np.any(back.grads["weight_ch_l0"])


@EACH_KIND
def test_a_sequence_without_memory_and_rows_that_do_not_exist(kind):
    problem = Problem(kind, "all")
    back = problem.backward(trace := problem.forward()[2])
    assert not np.any(trace.alpha[:, ~EXISTS])
    assert not np.any(trace.context[:, 2])
    assert np.all(trace.alpha[0, EXISTS] > 0)
    for array in (back.dgiven["values"], *back.given_ways["values"].values()):
        assert not np.any(array[~EXISTS])
        assert np.all(array[EXISTS] != 0)
    sums = trace.alpha.sum(axis=2)[0]
    np.testing.assert_allclose(sums, EXISTS.any(axis=1), rtol=1e-15)
    assert np.abs(trace.dscore.sum(axis=2)).max() <= 1e-15 * np.abs(trace.dalpha).max()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "GRU before", "peephole", "layer norm", "MGU"])
def test_padded_steps_have_no_weights(kind):
    problem = Problem(kind, "lengths")
    trace = problem.forward()[2]
    problem.backward(trace)
    padded = np.arange(T)[:, None] >= np.array(LENGTHS)
    for name in ("score", "alpha", "context", "dcontext", "dalpha", "dscore"):
        assert not np.any(getattr(trace, name)[padded])
        assert np.all(getattr(trace, name)[~padded] != 0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_any_size(kind, sign):
    problem = Problem(kind, "masked", scale=sign * 3e4)
    trace = problem.forward()[2]
    assert np.abs(trace.score).max() > 1e4
    for name, array in problem.gradients(problem.backward(trace)).items():
        assert np.all(np.isfinite(array)), name
    np.testing.assert_allclose(trace.alpha.sum(axis=2), np.tile(EXISTS.any(axis=1), (T, 1)), rtol=1e-15)


@EACH_KIND
def test_a_sequence_alone_is_its_row_of_the_batch(kind):
    problem = Problem(kind, "lengths", exists=EXISTS)
    found = problem.gradients()
    for n, length in enumerate(LENGTHS):
        one = slice(n, n + 1)
        given = {"values": problem.values[:, one], "exists": EXISTS[one]}
        initial, dfinal = ([array[:, one] for array in arrays] for arrays in (problem.initial, problem.dfinal))
        output, _, trace = problem.layer.forward(problem.x[:length, one], alone(initial), given=given)
        back = problem.layer.backward(trace, problem.doutput[:length, one], alone(dfinal))
        assert_grad_close("output", output, problem.forward()[0][:length, one], 1e-13)
        assert_grad_close("dx", back.dx, found["x"][:length, one], 1e-13)
        assert_grad_close("dh_0", back.dh_0, found["h_0"][:, one], 1e-13)
        assert_grad_close("dvalues", back.dgiven["values"], found["values"][:, one], 1e-13)


@EACH_KIND
def test_float32_stays_float32(kind):
    problem = Problem(kind, "all")
    layer = problem.layer.astype(np.float32)
    single = {name: array.astype(np.float32) for name, array in problem.point.items()}
    output, _, trace = layer.forward(single["x"], **problem.arguments(single))
    back = layer.backward(
        trace, problem.doutput.astype(np.float32), alone([d.astype(np.float32) for d in problem.dfinal])
    )
    for name in (*trace["l0"].names, "dalpha", "dscore", "dcontext"):
        assert getattr(trace, name).dtype == np.float32, name
    assert output.dtype == np.float32
    for name, array in problem.gradients(back).items():
        assert array.dtype == np.float32
        assert_grad_close(name, array, problem.gradients()[name], 1e-4)


def test_a_trace_is_pickled():
    for kind in ("RNN", "LSTM", "GRU before", "layer norm"):
        problem = Problem(kind, "all")
        trace = problem.forward()[2]
        layer, again = pickle.loads(pickle.dumps((problem.layer, trace)))
        assert np.array_equal(again.alpha, trace.alpha)
        expected, problem.layer = problem.gradients(problem.backward(trace)), layer
        assert_all_close(problem.gradients(problem.backward(again)), expected, 1e-14)


@pytest.mark.parametrize(
    ("setting", "more"),
    [("lengths", {"exists": EXISTS}), ("plain", {}), ("batch first", {"exists": None}), ("unbatched", {})],
)
def test_nothing_that_is_given_is_written_to(setting, more):
    problem = Problem("LSTM", setting, **more)
    problem.values = np.ascontiguousarray(problem.values)
    given = problem.given(problem.values)
    before = {name: array.copy() for name, array in given.items()}
    for array in given.values():
        array.flags.writeable = False
    trace = problem.forward(given=given)[2]
    expected = problem.gradients(problem.backward(trace))
    for array in given.values():
        array.flags.writeable = True
    assert all(np.array_equal(given[name], array) for name, array in before.items())
    problem.values[...] = np.nan  # the trace has its own
    for name, array in problem.gradients(problem.backward(trace)).items():
        assert np.array_equal(array, expected[name])


# ------------------------------------------------------------------------------------------------ wrong arguments

X, VALUES = np.zeros((T, N, D)), np.zeros((S, N, H))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, OptionError, "given must have an array 'values', the memory; it is missing"),
        ({"values": None}, OptionError, "given must have an array 'values', the memory; it is missing"),
        ({"exists": EXISTS}, OptionError, "given must have an array 'values', the memory; it is missing"),
        (
            {"values": VALUES, "keys": VALUES},
            OptionError,
            "given must be a dict with names among values, exists; got ['keys']",
        ),
        (VALUES, OptionError, "given must be a dict with names among values, exists; got ndarray"),
        (
            {"values": np.zeros((S, N, H + 1))},
            ShapeError,
            f"given['values'] must have shape (S, N, H) = (S, {N}, {H}); got ({S}, {N}, {H + 1})",
        ),
        (
            {"values": np.zeros((N, S, H))},
            ShapeError,
            f"given['values'] must have shape (S, N, H) = (S, {N}, {H}); got ({N}, {S}, {H})",
        ),
        (
            {"values": np.zeros((S, H))},
            ShapeError,
            f"given['values'] must have shape (S, N, H) = (S, {N}, {H}); got ({S}, {H})",
        ),
        (
            {"values": VALUES.astype(np.float32)},
            DTypeError,
            "given['values'] must have dtype float64, the layer's; got float32. Convert it with "
            "given['values'].astype(np.float64), or the layer with .astype(np.float32)",
        ),
        (
            {"values": VALUES, "exists": EXISTS.T},
            ShapeError,
            f"given['exists'] must have shape (N, S) = ({N}, {S}); got ({S}, {N})",
        ),
        (
            {"values": VALUES, "exists": np.zeros((N, S))},
            DTypeError,
            "given['exists'] must hold bools, True where a row of the memory counts; got float64",
        ),
    ],
)
def test_wrong_given_arrays(given, error, message):
    layer = AttentionRNN(D, H, rng=0)
    for call in (layer, layer.forward, layer.forward_steps):
        assert_raises(error, f"AttentionRNN.forward: {message}", lambda call=call: call(X, given=given))


def test_wrong_layers():
    assert_raises(
        OptionError,
        "LSTM.forward: given must be left out: the layer reads none; got ['values']",
        lambda: LSTM(D, H).forward(X, given={"values": VALUES}),
    )
    assert_raises(
        OptionError,
        "AttentionGRU: must have one layer and one direction; got num_layers = 2, bidirectional = False. Put plain "
        "layers on top: they read this one's outputs",
        lambda: AttentionGRU(D, H, 2),
    )
    assert_raises(
        OptionError,
        "AttentionLSTM: must have one layer and one direction; got num_layers = 1, bidirectional = True. Put plain "
        "layers on top: they read this one's outputs",
        lambda: AttentionLSTM(D, H, bidirectional=True),
    )
    assert_raises(
        OptionError,
        "AttentionLSTM: must have no projection, so that h and the memory have H = 3 units each; got proj_size = 2",
        lambda: AttentionLSTM(D, H, proj_size=2),
    )


def test_numbers_that_are_not_finite():
    layer, values = AttentionRNN(D, H, rng=0), VALUES.copy()
    values[4, 2, 1] = np.nan
    assert_raises(
        NonFiniteError,
        "AttentionRNN.forward: given['values'] is nan at n = 2, s = 4, h = 1 (the first non-finite entry)",
        lambda: layer.forward(X, given={"values": values}, check_finite=True),
    )
    layer.forward(X, given={"values": values, "exists": EXISTS}, check_finite=True)  # a row that does not exist


def test_a_layer_with_attention_is_made_from_its_config():
    layer = AttentionGRU(D, H, bias=False, reset="before", rng=0)
    assert repr(layer) == "AttentionGRU(2, 3, reset='before', bias=False, dtype=float64)"
    twin = type(layer)(**layer.config())
    twin.load_state_dict(layer.state_dict())
    assert list(layer.params) == ["weight_ih_l0", "weight_hh_l0", "weight_ch_l0"]
    assert layer.params["weight_ch_l0"].shape == (3 * H, H)
    assert np.array_equal(twin(X, given={"values": VALUES})[0], layer(X, given={"values": VALUES})[0])


@pytest.mark.parametrize(("plain", "kind"), [(RNN, AttentionRNN), (LSTM, AttentionLSTM), (GRU, AttentionGRU)])
def test_the_cells_own_formulas_are_what_they_were(plain, kind):
    cell, own = kind(D, H).cell, plain(D, H).cell
    for name in ("step_forward", "step_backward", "step_partials", "step_tangent", "states", "slabs", "after"):
        assert getattr(cell, name) is getattr(own, name)


# --------------------------------------------------------------------------------------------- the whole suite


# Entry by entry stands above.
ELSEWHERE = {check.__name__: "every gradient is compared entry by entry in this file" for check in ENTRY_BY_ENTRY}
# A memory may switch all units of a relu off for a while: nothing gets to the first step then.
OFF = {"check_first_step": "units of a relu may be off"}
CASES = [
    replace(case, omitted=ELSEWHERE | (OFF if case.option("nonlinearity") == "relu" else {}))
    for case in itertools.chain(
        recurrent_cases(AttentionRNN, {"nonlinearity": "relu"}, stacked=False),
        recurrent_cases(AttentionLSTM, {"forget_bias": 1.0}, stacked=False),
        recurrent_cases(AttentionGRU, {"reset": "before"}, stacked=False),
    )
]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("case", "check"), conformance_checks(CASES), ids=conformance_id)
def test_conformance(case, check):
    check(case)


# --------------------------------------------------------------------------------------------- planted mistakes


def no_softmax_jacobian(dcontext_t, alpha_t, values, dalpha_t, dscore_t):
    attention.weights_backward(dcontext_t, alpha_t, values, dalpha_t, dscore_t)
    dscore_t[...] = dalpha_t


def its_diagonal_alone(dcontext_t, alpha_t, values, dalpha_t, dscore_t):
    attention.weights_backward(dcontext_t, alpha_t, values, dalpha_t, dscore_t)
    dscore_t[...] = alpha_t * (1 - alpha_t) * dalpha_t


def memory_by_values_alone(dscore_t, keys, dquery):
    attention.product_backward(dscore_t, keys, dquery)
    dscore_t[...] = 0


def state_without_b1(dscore_t, keys, dquery):
    pass


def context_at_half(dinput_t, W_ch, dcontext_t):
    attention.context_backward(dinput_t, W_ch, dcontext_t)
    dcontext_t *= 0.5


def mask_after_the_softmax(score_t, exists, values, alpha_t, context_t):
    attention.weights_forward(score_t, np.ones_like(exists), values, alpha_t, context_t)
    alpha_t *= exists
    np.einsum("ns,nsm->nm", alpha_t, values, out=context_t)


def query_of_the_step_before(h_t, keys, score_t):
    """Read h_t where h_{t-1} is meant: forward it holds nothing of this step yet."""
    attention.product_forward(h_t, keys, score_t)


def tangent_without_the_score(vscore_t, vvalues, values, alpha_t, vcontext_t):
    attention.weights_tangent(np.zeros_like(vscore_t), vvalues, values, alpha_t, vcontext_t)


BACKWARD, SCORE = attention.weights_backward, attention.product_backward
MISTAKES = {
    # What is wrong, in place of what, and the gradients that show it.
    no_softmax_jacobian: (BACKWARD, {"x", "values", "h_0", "weight_hh_l0"}),
    its_diagonal_alone: (BACKWARD, {"x", "values", "h_0", "weight_hh_l0"}),
    memory_by_values_alone: (SCORE, {"values"}),
    state_without_b1: (SCORE, {"x", "values", "h_0", "weight_ch_l0"}),
    context_at_half: (attention.context_backward, {"x", "values", "h_0"}),
}


def wrong_gradients(problem, expected):
    found = problem.gradients()
    return {name for name in found if np.abs(found[name] - expected[name]).max() > 1e-9 * np.abs(expected[name]).max()}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "GRU before"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_is_caught(kind, mistake):
    problem = Problem(kind, "masked")
    expected, trace = complex_step(problem.loss, problem.point), problem.forward()[2]
    reference = ChainRule(problem.layer, trace, problem.doutput, alone(problem.dfinal)).gradient().tensors
    assert not wrong_gradients(problem, expected)
    right, shown = MISTAKES[mistake]
    problem.layer.cell = planted(problem.layer.cell, right, mistake)
    assert wrong_gradients(problem, expected) >= shown
    # By the chain rule step by step, and by the adjoint identity: at the states that the trace recorded.
    if mistake is not memory_by_values_alone:
        assert wrong_gradients(problem, {**expected, **reference}) >= shown - {"values"}
    gradients, v = problem.gradients(), like(np.random.default_rng(1), problem.point)
    change = jvp(problem.layer, problem.forward()[2], **changes(problem, v))
    finals = change.vh_n if isinstance(change.vh_n, tuple) else (change.vh_n,)
    forward = np.vdot(problem.doutput, change.voutput) + sum(map(np.vdot, problem.dfinal, finals))
    assert abs(forward - sum(np.vdot(gradients[name], v[name]) for name in v)) > 1e-6


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_mask_after_the_softmax_is_caught(kind):
    """It is another function, with a right gradient; but its weights do not add up, and padding changes it."""
    problem = Problem(kind, "masked")
    problem.layer.cell = planted(problem.layer.cell, attention.weights_forward, mask_after_the_softmax)
    output, _, trace = problem.forward()
    assert np.all(trace.alpha.sum(axis=2)[:, [1, 3]] < 1)
    shorter = {"values": problem.values[:3], "exists": EXISTS[:, :3]}
    assert np.all(output[:, 3] != problem.forward(given=shorter)[0][:, 3])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_query_of_another_step_is_caught(kind):
    """h_t in place of h_{t-1}: forward it is not there yet, and backward the memory's gradient shows it."""
    problem = Problem(kind, "masked")
    expected, cell = complex_step(problem.loss, problem.point), problem.layer.cell
    problem.layer.cell = planted(cell, attention.product_forward, query_of_the_step_before)
    with pytest.raises(
        CellError, match=r"^Cell: h_t is left unwritten, in whole or in part, by query_of_the_step_before"
    ):
        problem.forward()
    ways = {**cell.given["values"].products, "weights": ("dscore_t", "h_t")}
    given = {**cell.given, "values": replace(cell.given["values"], products=ways)}
    problem.layer.cell = replace(cell, given=given)
    assert wrong_gradients(problem, expected) == {"values"}


def test_a_wrong_tangent_is_caught():
    problem = Problem("LSTM")
    problem.layer.cell = planted(problem.layer.cell, attention.weights_tangent, tangent_without_the_score)
    trace = problem.forward()[2]
    forward = rtrl(problem.layer, trace, problem.doutput, alone(problem.dfinal))
    back = problem.backward(trace)
    assert np.abs(forward.grads["weight_hh_l0"] - back.grads["weight_hh_l0"]).max() > 1e-6


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_trace_keeps_the_memory_as_it_was(batch_first, batch):
    decoder, rng = AttentionRNN(2, 3, batch_first=batch_first, rng=0), np.random.default_rng(0)
    x, values, exists = (
        rng.normal(size=(batch, batch, 2)),
        rng.normal(size=(batch, batch, 3)),
        np.ones((batch, batch), bool),
    )
    output, _, trace = decoder.forward(x, given={"values": values, "exists": exists})
    expected = decoder.backward(trace, np.ones_like(output))
    values[...], exists[...] = 5, False
    back = decoder.backward(trace, np.ones_like(output))
    np.testing.assert_array_equal(back.grads.flat, expected.grads.flat)
    np.testing.assert_array_equal(back.dgiven["values"], expected.dgiven["values"])


@pytest.mark.parametrize("kind", [AttentionRNN, AttentionLSTM, AttentionGRU])
def test_the_trace_shows_pre_activations_with_the_context(kind):
    rng = np.random.default_rng(0)
    layer = kind(2, 3, rng=1)
    trace = layer.forward(rng.normal(size=(4, 2, 2)), given={"values": rng.normal(size=(5, 2, 3))})[2]
    if kind is AttentionGRU:  # a GRU's trace has no a
        assert "a" not in trace.top.names
        return
    p = layer.params
    a = trace.x @ p["weight_ih_l0"].T + trace.h[:-1] @ p["weight_hh_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"]
    np.testing.assert_allclose(trace.a, a + trace.context @ p["weight_ch_l0"].T, rtol=1e-13)
    if kind is AttentionLSTM:
        np.testing.assert_allclose(trace.i, 1 / (1 + np.exp(-trace.a[..., :3])), rtol=1e-13)
        np.testing.assert_allclose(trace[2].a, trace.a[2], rtol=1e-15)


@pytest.mark.parametrize("kind", [AttentionRNN, AttentionLSTM, AttentionGRU])
@pytest.mark.parametrize("lengths", [None, [2, 4]])
def test_readers_of_a_trace_leave_it_as_it_was(kind, lengths):
    """Gradients of the memory are no part of what a trace holds, and contributions add up to the gradient."""
    rng = np.random.default_rng(0)
    layer = kind(2, 3, recurrent_dropout=0.3, rng=0)
    output, _, trace = layer.forward(
        rng.normal(size=(4, 2, 2)), lengths=lengths, given={"values": rng.normal(size=(5, 2, 3))}
    )
    doutput = rng.normal(size=output.shape)
    expected = layer.backward(trace, doutput)
    table = decompose(layer, trace, doutput)
    for name in table.names:
        total = sum(table.block(name, t, k) for t in range(4) for k in range(t + 1))
        np.testing.assert_allclose(total, expected.grads[name], rtol=1e-12, atol=1e-13)
    assert set(trace.top.given) == {"values", "exists"}
    np.testing.assert_array_equal(layer.backward(trace, doutput).grads.flat, expected.grads.flat)
