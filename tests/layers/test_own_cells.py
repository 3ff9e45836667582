"""Cells written through the door that is open to everybody: the peephole LSTM, the layer-norm LSTM, and the example's.

The conformance suite, a loop in torch with its autograd, planted mistakes, and what is special about each.
"""

import ast
import copy
import inspect
import io
import pickle
import re
import tokenize
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frameworks import torch
from planting import planted

from rnn_numpy import LSTM
from rnn_numpy.checks import (
    CHECKS,
    Case,
    assert_grad_close,
    complex_step,
    conformance,
    conformance_checks,
    conformance_failures,
    recurrent_cases,
)
from rnn_numpy.checks.conformance import conformance_id
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError
from rnn_numpy.layers import layer_norm
from rnn_numpy.layers.layer_norm import LayerNormLSTM, normalized, normalized_backward
from rnn_numpy.layers.peephole import PeepholeLSTM

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_your_own_cell.py"
T, N, D, H = 6, 3, 4, 5
KINDS = pytest.mark.parametrize("kind", [PeepholeLSTM, LayerNormLSTM])

# The suite compares to 1e-13, which is more than a gradient has that cancels or explodes. With the default epsilon of
# 1e-5, and one input, the gradient of the input does the first (the normalisation makes nothing of its scale), and that
# of a random net over 150 steps the second. The formulas are the same; the default is for the tests below.
WELL_CONDITIONED = [replace(case, options={**case.options, "epsilon": 0.3}) for case in recurrent_cases(LayerNormLSTM)]
CASES = [*recurrent_cases(PeepholeLSTM, {"forget_bias": 1.0}, {"zoneout": (0.0, 0.4)}), *WELL_CONDITIONED]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("case", "check"), conformance_checks(CASES), ids=conformance_id)
def test_conformance(case, check):
    check(case)


# ---------------------------------------------------------------------------------------------- torch, live


def torch_gates(layer, p, x_t, h, c):
    """Return i, f, g before its tanh, and a function from the new c to (o, what tanh is taken of)."""
    if isinstance(layer, PeepholeLSTM):
        a = x_t @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]
        a_i, a_f, a_g, a_o = a.chunk(4, dim=1)
        a_i, a_f = a_i + p["peephole_i"] * c, a_f + p["peephole_f"] * c
        return a_i, a_f, a_g, lambda c: (torch.sigmoid(a_o + p["peephole_o"] * c), c)
    norm, size = torch.nn.functional.layer_norm, layer.hidden_size
    a = norm(x_t @ p["weight_ih"].T, (4 * size,), p["gain_ih"], p["bias_ih"], layer.epsilon)
    a = a + norm(h @ p["weight_hh"].T, (4 * size,), p["gain_hh"], p["bias_hh"], layer.epsilon)
    a_i, a_f, a_g, a_o = a.chunk(4, dim=1)
    return (
        a_i,
        a_f,
        a_g,
        lambda c: (torch.sigmoid(a_o), norm(c, (size,), p["gain_c"], p["bias_c"], layer.epsilon)),
    )


def torch_layer(layer, params, x, h_0, c_0):
    """Return output, h_n, c_n of all layers and directions, by a loop."""
    finals = []
    for k in range(layer.num_layers):
        outputs = []
        for suffix in ("", "_reverse")[: layer.num_directions]:
            ending = f"_l{k}{suffix}"
            p = {name.removesuffix(ending): value for name, value in params.items() if name.endswith(ending)}
            h, c, states = h_0[len(finals)], c_0[len(finals)], []
            for x_t in x.flip(0) if suffix else x:
                a_i, a_f, a_g, rest = torch_gates(layer, p, x_t, h, c)
                c = torch.sigmoid(a_f) * c + torch.sigmoid(a_i) * torch.tanh(a_g)
                o, k_t = rest(c)
                h = o * torch.tanh(k_t)
                states.append(h)
            finals.append((h, c))
            outputs.append(torch.stack(states[::-1] if suffix else states))
        x = torch.cat(outputs, dim=2)
    return x, torch.stack([h for h, _ in finals]), torch.stack([c for _, c in finals])


@pytest.mark.needs_torch
@KINDS
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True)])
def test_torch(kind, layers, bidirectional):
    rng = np.random.default_rng(7)
    layer = kind(D, H, layers, bidirectional=bidirectional, rng=rng)
    layer.params.flat[:] += 0.1 * rng.normal(size=layer.params.flat.shape)  # no gain is 1, no shift 0
    x, rows = rng.normal(size=(T, N, D)), layers * layer.num_directions
    h_0, c_0, dh_n, dc_n = rng.normal(size=(4, rows, N, H))
    output, (h_n, c_n), trace = layer.forward(x, (h_0, c_0))
    doutput = rng.normal(size=output.shape)
    back = layer.backward(trace, doutput, (dh_n, dc_n))
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in layer.params.items()}
    inputs = [torch.tensor(array, requires_grad=True) for array in (x, h_0, c_0)]
    theirs = torch_layer(layer, leaves, *inputs)
    sum(torch.sum(torch.from_numpy(d) * y) for d, y in zip((doutput, dh_n, dc_n), theirs, strict=True)).backward()
    for name, ours, reference in zip(("output", "h_n", "c_n"), (output, h_n, c_n), theirs, strict=True):
        assert_grad_close(name, ours, reference.detach().numpy(), 1e-12)
    for name, ours, leaf in zip(("dx", "dh_0", "dc_0"), (back.dx, back.dh_0, back.dc_0), inputs, strict=True):
        assert_grad_close(name, ours, leaf.grad.numpy(), 1e-12)
    assert sorted(back.grads) == sorted(leaves)
    for name, leaf in leaves.items():
        assert_grad_close(f"d{name}", back.grads[name], leaf.grad.numpy(), 1e-12)


@KINDS
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bidirectional": True}], ids=str)
def test_gradients_by_complex_step_with_default_options(kind, options):
    # Several inputs, so that the default epsilon leaves their gradient its digits.
    conformance_setting = conformance._setting(Case(kind, options), sizes=(D, H), seed=1)
    conformance._assert_gradients(*conformance_setting, complex_step, 1e-13)


# ---------------------------------------------------------------------------------------------- planted mistakes

SLIPS = [
    (PeepholeLSTM, "output_peephole_backward", "dc_t += p_o * (da_o_t * dh_t)", "pass"),
    (PeepholeLSTM, "peepholes_backward", "dc_prev += p_i * da_i_t", "pass"),
    (PeepholeLSTM, "peepholes_backward", "dc_prev += p_f * da_f_t", "dc_prev += p_i * da_f_t"),
    (PeepholeLSTM, "peepholes_backward", "(da_i_t * c_prev)", "(da_i_t * c_t)"),
    (PeepholeLSTM, "peepholes_backward", "(da_f_t * c_prev)", "(da_i_t * c_prev)"),
    (PeepholeLSTM, "peepholes_backward", "(da_o_t * c_t)", "(da_o_t * c_prev)"),
    (PeepholeLSTM, "peepholes_backward", "dp_o += ", "dp_o[...] = "),
    (LayerNormLSTM, "layer_norm_step_backward", "(1 - tanh_k_t * tanh_k_t)", "(1 - tanh_k_t)"),
    (LayerNormLSTM, "layer_norm_step_backward", "dc_t += normalized_backward(alpha_c * dk_t, y, s_c)", "dc_t += dk_t"),
    (LayerNormLSTM, "layer_norm_step_backward", "alpha_c * dk_t", "dk_t"),
    (LayerNormLSTM, "layer_norm_step_backward", "normalized_backward(alpha_ih * da_t, y, s_u)", "alpha_ih * da_t"),
    (LayerNormLSTM, "layer_norm_step_backward", "normalized_backward(alpha_hh * da_t, y, s_v)", "da_t / s_v"),
    (LayerNormLSTM, "layer_norm_step_backward", "W_hh.T.dot(dv_t)", "W_hh.T.dot(da_t)"),
    (LayerNormLSTM, "layer_norm_step_backward", "dbeta_c += dk_t", "dbeta_c += dh_t"),
    (LayerNormLSTM, "layer_norm_step_backward", "dalpha_hh += ", "dalpha_hh[...] = "),
    (LayerNormLSTM, "layer_norm_step_backward", "dc_prev[...] = dc_t * f_t", "dc_prev[...] = dc_t"),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("kind", "formula", "line", "slip"), SLIPS)
def test_a_wrong_line_is_found(kind, formula, line, slip):
    module = inspect.getmodule(kind)
    source, namespace = inspect.getsource(getattr(module, formula)), vars(module).copy()
    assert source.count(line) == 1
    exec(source.replace(line, slip), namespace)

    class Mutant(kind):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            # Gains of 1 and shifts of 0 would hide a factor that is missing.
            self.params.flat[:] *= np.linspace(0.8, 1.2, self.params.flat.size)
            right, wrong = getattr(module, formula), namespace[formula]
            if kind is LayerNormLSTM:
                right, wrong = (layer_norm.Bound(one, self.epsilon) for one in (right, wrong))
            self.cell = planted(self.cell, right, wrong)

    case = Case(Mutant, {"epsilon": 0.3} if kind is LayerNormLSTM else {})
    with pytest.raises(GradientCheckError):
        conformance.check_gradients_by_complex_step(case)


def test_the_terms_of_a_normalisations_gradient():
    rng = np.random.default_rng(0)
    u, dy = rng.normal(size=(7, 2)), rng.normal(size=(7, 2))
    y, s_u = normalized(u, 1e-5)
    assert_grad_close("mean", y.mean(axis=0) + 1, np.ones(2), 1e-15)
    assert_grad_close("variance", (y * y).mean(axis=0) + 1e-5 / s_u**2, np.ones(2), 1e-14)
    reference = complex_step(lambda point: np.sum(dy * normalized(point["u"], 1e-5)[0]), {"u": u})["u"]
    du = normalized_backward(dy, y, s_u)
    assert_grad_close("du", du, reference, 1e-14)
    # A shift changes nothing, and a scaling next to nothing: the gradient has no part along either.
    assert np.abs(du.sum(axis=0)).max() < 1e-14
    along = np.sum(du * (u - u.mean(axis=0)), axis=0)
    assert_grad_close("along u", along, 1e-5 / s_u**2 * np.sum(dy * y, axis=0), 1e-9)


# ---------------------------------------------------------------------------------------------- peepholes


def test_without_peepholes_it_is_the_lstm():
    peephole, lstm = PeepholeLSTM(D, H, 2, bidirectional=True, rng=0), LSTM(D, H, 2, bidirectional=True)
    for name, array in peephole.params.items():
        if name.startswith("peephole"):
            array[...] = 0.0
        else:
            lstm.params[name] = array
    x = np.random.default_rng(1).normal(size=(T, N, D))
    runs = [layer.forward(x) for layer in (peephole, lstm)]
    assert_grad_close("output", runs[0][0], runs[1][0], 1e-15)
    ours, theirs = (layer.backward(run[2], runs[1][0]) for layer, run in zip((peephole, lstm), runs, strict=True))
    for name, grad in theirs.grads.items():
        assert_grad_close(f"d{name}", ours.grads[name], grad, 1e-14)
    assert all(ours.grads[f"peephole_{gate}_l0"].all() for gate in "ifo")


def test_parameters():
    names = [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "peephole_i_l0",
        "peephole_f_l0",
        "peephole_o_l0",
    ]
    params = PeepholeLSTM(D, H, rng=0).params
    assert list(params) == names
    assert all(params[name].shape == (H,) and 0 < np.abs(params[name]).max() <= 1 / np.sqrt(H) for name in names[4:])
    params = LayerNormLSTM(D, H, rng=0).params
    assert list(params) == [*names[:4], "gain_ih_l0", "gain_hh_l0", "gain_c_l0", "bias_c_l0"]
    assert [params[name].shape for name in list(params)[4:]] == [(4 * H,), (4 * H,), (H,), (H,)]
    assert [set(params[name].tolist()) for name in list(params)[4:]] == [{1.0}, {1.0}, {1.0}, {0.0}]
    assert list(LayerNormLSTM(D, H, bias=False).params) == [*names[:2], *list(params)[4:]]


@KINDS
@pytest.mark.parametrize("bias", [True, False])
def test_the_trace_obeys_the_derivation(kind, bias):
    layer = kind(D, H, bias=bias, rng=0)
    x = np.random.default_rng(1).normal(size=(T, N, D))
    output, _, trace = layer.forward(x)
    steps = layer.backward_steps(trace, np.ones_like(output))

    def s(u):
        return 1 / (1 + np.exp(-u))

    for step in steps:  # dc_prev is what this step hands on, until the step before adds what comes through h
        a_i, a_f, a_g, a_o = np.split(step.a, 4, axis=1)
        for name, gate in {"i": s(a_i), "f": s(a_f), "g": np.tanh(a_g), "o": s(a_o)}.items():
            assert_grad_close(name, getattr(step, name), gate, 1e-13)
        assert_grad_close("c", step.c, step.f * step.c_prev + step.i * step.g, 1e-15)
        slopes = [gate * (1 - gate) for gate in (step.i, step.f)] + [1 - step.g**2, step.o * (1 - step.o)]
        gates = np.concatenate([step.di, step.df, step.dg, step.do], axis=1)
        assert_grad_close("da", step.da, gates * np.concatenate(slopes, axis=1), 1e-14)
        assert_grad_close("dc_prev", step.dc * step.f, without_peepholes(layer, step), 1e-13)
    if bias:
        assert_grad_close("dbias", steps.result.grads["bias_ih_l0"], trace.da.sum(axis=(0, 1)), 1e-13)


@KINDS
def test_the_traces_pre_activations_with_masks_and_lengths(kind):
    layer = kind(D, H, 2, bidirectional=True, recurrent_dropout=0.3, zoneout=(0.2, 0.4), rng=0)
    x, lengths = np.random.default_rng(1).normal(size=(T, N, D)), np.array([2, T, 4])
    trace = layer.forward(x, lengths=lengths)[2]
    alive = np.arange(T)[:, None] < lengths
    for run in trace.layers.values():
        gates = np.split(run.a[alive], 4, axis=1)
        for name, a in zip("ifgo", gates, strict=True):
            expected = np.tanh(a) if name == "g" else 1 / (1 + np.exp(-a))
            assert_grad_close(f"{name} of {run.name}", getattr(run, name)[alive], expected, 1e-13)


def without_peepholes(layer, step):
    if isinstance(layer, LayerNormLSTM):
        return step.dc_prev
    p = layer.params
    return step.dc_prev - p["peephole_i_l0"] * step.da_i - p["peephole_f_l0"] * step.da_f


# ---------------------------------------------------------------------------------------------- layer normalisation


def test_the_scale_of_the_weights_makes_no_difference():
    layer = LayerNormLSTM(D, H, epsilon=1e-30, rng=0)
    x, states = np.random.default_rng(1).normal(size=(T, N, D)), np.random.default_rng(2).normal(size=(2, 1, N, H))
    output, _, trace = layer.forward(x, tuple(states))
    back = layer.backward(trace, np.random.default_rng(3).normal(size=output.shape))
    for name in ("weight_ih_l0", "weight_hh_l0"):
        gradient, weight = back.grads[name], layer.params[name]
        assert abs(np.sum(gradient * weight)) < 1e-13 * np.linalg.norm(gradient) * np.linalg.norm(weight)
        weight *= 7.0
    assert_grad_close("output", layer(x, tuple(states))[0], output, 1e-12)


def test_epsilon_bounds_the_gradient_at_a_state_of_zeros():
    x = np.random.default_rng(1).normal(size=(1, N, D))
    norms = []
    for epsilon in (1e-4, 1e-6):
        layer = LayerNormLSTM(D, H, epsilon=epsilon, rng=0)
        output, _, trace = layer.forward(x, (np.zeros((1, N, H)), np.ones((1, N, H)) * np.arange(H)))
        norms.append(np.linalg.norm(layer.backward(trace, np.ones_like(output)).dh_0))
    assert norms[1] / norms[0] == pytest.approx(10, rel=0.01)


def test_copies_accept_the_traces_of_the_original():
    layer = LayerNormLSTM(D, H, epsilon=0.01, rng=0)
    output, _, trace = layer.forward(np.ones((T, N, D)))
    expected = layer.backward(trace, np.ones_like(output)).grads.flat
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), layer.astype(np.float64)):
        assert np.array_equal(twin.backward(trace, np.ones_like(output)).grads.flat, expected)
    with pytest.raises(ValueError, match="other options"):
        LayerNormLSTM(D, H, rng=0).backward(trace, np.ones_like(output))


# ---------------------------------------------------------------------------------------------- options


@KINDS
def test_options(kind):
    layer = kind(D, H, 2, False, True, 0.1, True, zoneout=(0.1, 0.2), recurrent_dropout=0.3)
    expected = (2, False, True, 0.1, True, (0.1, 0.2), 0.3)
    found = layer.num_layers, layer.bias, layer.batch_first, layer.dropout, layer.bidirectional
    assert (*found, layer.zoneout, layer.recurrent_dropout) == expected


@KINDS
def test_forget_bias(kind):
    layer = kind(D, H, forget_bias=1.5)
    assert layer.params["bias_ih_l0"][H : 2 * H].tolist() == [1.5] * H
    with pytest.raises(OptionError, match=f"^{kind.__name__}: forget_bias must be finite; got nan$"):
        kind(D, H, forget_bias=np.nan)


@pytest.mark.parametrize(
    ("epsilon", "error", "message"),
    [
        (0, OptionError, "LayerNormLSTM: epsilon must be greater than 0; got 0.0"),
        (-1e-5, OptionError, "LayerNormLSTM: epsilon must be greater than 0; got -1e-05"),
        ("small", DTypeError, "LayerNormLSTM: epsilon must be a number; got str 'small'"),
    ],
)
def test_epsilon(epsilon, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        LayerNormLSTM(D, H, epsilon=epsilon)


def test_repr():
    assert repr(PeepholeLSTM(2, 3)) == "PeepholeLSTM(2, 3, dtype=float64)"
    assert repr(LayerNormLSTM(2, 3, epsilon=0.1, bias=False)) == (
        "LayerNormLSTM(2, 3, epsilon=0.1, bias=False, dtype=float64)"
    )


# ---------------------------------------------------------------------------------------------- the example


def code_lines(source):
    """Return the numbers of the lines that hold code: neither blank nor a comment nor part of a docstring."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def test_lines_of_code_are_counted():
    lines = ['"""Docs', 'of a module."""', "", "# a comment", "x = [", "    1,  # one", "]"]
    source = "\n".join([*lines, "def f():", '    """Docs."""', "    return x", ""])
    assert code_lines(source) == {5, 6, 7, 8, 10}


def test_a_cell_of_ones_own_takes_at_most_60_lines():
    assert len(code_lines(EXAMPLE.read_text(encoding="utf-8"))) <= 60


def test_the_examples_cell_has_two_formulas_and_nothing_of_time():
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert list(functions) == ["mgu_step_forward", "mgu_step_backward"]
    assert not any(isinstance(node, ast.For | ast.While) for f in functions.values() for node in ast.walk(f))


def test_the_examples_cell_is_a_layer():
    # The script's cells up to the layer, without its proof, which takes seconds and is run as an example.
    namespace = {}
    exec(EXAMPLE.read_text(encoding="utf-8").partition("# The layer\n")[0], namespace)
    case = Case(namespace["MGU"], {"bidirectional": True})
    checks = [check for check in CHECKS if check.__name__.startswith(("check_gradients", "check_padding"))]
    assert len(checks) == 7
    assert conformance_failures(case, checks) == {}
