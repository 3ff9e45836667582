"""Cells written out in bodies of Loop and Scan: as tf2onnx and torch write them, and as others might."""

import re
from pathlib import Path

import numpy as np
import pytest
from frameworks import onnx, onnxruntime

from rnn_numpy import open_network
from rnn_numpy.checks import assert_grad_close, gradcheck
from rnn_numpy.errors import ConversionError
from rnn_numpy.interop import onnx_bodies

T, N, D, H = 5, 2, 3, 4
GOLDEN = Path(__file__).with_name("golden") / "keras_loops.npz"
LENGTHS = np.array([6, 4, 2])  # of the golden sequences


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("name", "kind", "layers", "directions"),
    [
        ("masked LSTM", "LSTM(3, 4, num_layers=2, dtype=float32)", 2, 1),
        ("GRU", "GRU(3, 4, dtype=float32)", 1, 1),
        ("GRU, reset before", "GRU(3, 4, reset='before', dtype=float32)", 1, 1),
        ("hard GRU", "GeneralGRU(3, 4", 1, 1),
        ("masked bidirectional GRU", "GRU(3, 4, num_layers=2, bidirectional=True, dtype=float32)", 2, 2),
        ("bidirectional RNN", "RNN(3, 4, nonlinearity='relu', bidirectional=True, dtype=float32)", 1, 2),
    ],
)
def test_what_tf2onnx_makes_of_keras(golden, name, kind, layers, directions):
    (found,) = open_network(onnx.load_from_string(golden[f"{name}|onnx"].tobytes()))
    assert (found.num_layers, found.num_directions, len(found.parts)) == (layers, directions, layers * directions)
    assert repr(found.layer).startswith(kind)
    masked = "masked" in name
    assert [("mask" in note) for note in found.notes] == ([False, True] if masked else [False])
    x, y = golden["x"].swapaxes(0, 1), golden[f"{name}|y"].swapaxes(0, 1)
    if masked:
        there = np.arange(6)[:, None] < LENGTHS
        ours = found.layer(x, lengths=LENGTHS)[0]
        assert_grad_close("output", ours[there], y[there])
        # Past the end Keras repeats the last output in one direction, and has 0 in two.
        assert (np.abs(y[~there]).max() > 0) == (directions == 1)
    else:
        assert_grad_close("output", found.layer(x)[0], y)


# ---------------------------------------------------------------------------------------------- bodies of all kinds


def scan(states, lines, weights, reverse=0):
    """Return a model whose Scan has a body of these lines, from states and x_t; the new states end in 1."""
    ends = ", ".join(f"float[N, {H}] {state}1" for state in states)
    body = f"""body ({", ".join(f"float[N, {H}] {state}" for state in states)}, float[N, {D}] x_t)
        => ({ends}, float[N, {H}] y) {{ {lines} y = Identity(h1) }}"""
    ways = f"scan_input_directions = [{reverse}], scan_output_directions = [{reverse}]"
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[T, N, {D}] X) => (float[T, N, {H}] Y) {{
        {", ".join(f"{state}_n" for state in states)}, Y = Scan<num_scan_inputs = 1, {ways}, body = {body}>
        ({", ".join("zeros" for _ in states)}, X) }}"""
    model = onnx.parser.parse_model(text)
    given = {"zeros": np.zeros((N, H), np.float32), "one": np.ones((), np.float32), **weights}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in given.items())
    return model


def draw(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


GATES = "Wx = MatMul(x_t, W) Rh = MatMul(h, R) u = Add(Wx, Rh) a = Add(u, b)"
LONG = "fc = Mul(f, c) ig = Mul(i, g) c1 = Add(fc, ig) m = Tanh(c1) h1 = Mul(o, m)"
FOUR = draw(W=(D, 4 * H), R=(H, 4 * H), b=4 * H, b2=4 * H, Both=(D + H, 4 * H), p=H, q=H, s=H, Rn=(H, H), Wn=(D, H))
THREE = draw(W=(D, 3 * H), R=(H, 3 * H), b=3 * H, Wn=(D, H), Rn=(H, H), bn=H, half=H)
BODIES = {
    # x_t and h side by side, blocks i g f o, 1 added to f, as TensorFlow's older cells.
    "joined": ("hc", f"""xh = Concat<axis = 1>(x_t, h) u = MatMul(xh, Both) a = Add(u, b)
        ui, ug, uf, uo = Split<axis = 1>(a) uf1 = Add(uf, one)
        i = Sigmoid(ui) g = Tanh(ug) f = Sigmoid(uf1) o = Sigmoid(uo) {LONG}""", FOUR, "LSTM(3, 4, dtype"),
    "peepholes": ("ch", f"""{GATES} ui, uf, ug, uo = Split<axis = -1>(a) pc = Mul(p, c) qc = Mul(c, q)
        vi = Add(ui, pc) vf = Add(qc, uf) i = Sigmoid(vi) f = Sigmoid(vf) g = Tanh(ug) fc = Mul(f, c) ig = Mul(g, i)
        c1 = Add(ig, fc) sc = Mul(s, c1) vo = Add(uo, sc) o = Sigmoid(vo) m = Tanh(c1) h1 = Mul(m, o)""",
        FOUR, "PeepholeLSTM"),
    "coupled": ("hc", f"""{GATES} ui, ux, ug, uo = Split<axis = 1>(a) i = Sigmoid(ui) g = Tanh(ug) o = Sigmoid(uo)
        f = Sub(one, i) {LONG}""", FOUR, "GeneralLSTM"),
    "hard": ("hc", f"""{GATES} ui, uf, ug, uo = Split<axis = 1>(a) i = Clip(ui, zero, one) f = Clip(uf, zero, one)
        g = Tanh(ug) o = Clip(uo, zero, one) {LONG}""", {**FOUR, "zero": np.zeros((), np.float32)}, "GeneralLSTM"),
    "twice": ("hc", f"""{GATES} a2 = Add(a, b2) ui, uf, ug, uo = Split<axis = 1>(a2) i = Sigmoid(ui) f = Sigmoid(uf)
        g = Sigmoid(ug) o = Sigmoid(uo) {LONG}""", FOUR, "GeneralLSTM"),
    "replacing": ("h", """Wx = MatMul(x_t, W) a = Add(Wx, b) Rh = MatMul(h, R) ur, uz, un = Split<axis = 1>(a)
        vr, vz, vn = Split<axis = 1>(Rh) wr = Add(ur, vr) wz = Add(uz, vz) r = Sigmoid(wr) z = Sigmoid(wz)
        q = Add(vn, half) rq = Mul(r, q) wn = Add(un, rq) n = Tanh(wn) d = Sub(n, h) zd = Mul(z, d) h1 = Add(h, zd)""",
        THREE, "GRU(3, 4, dtype"),
    "before": ("h", """Wx = MatMul(x_t, W) a = Add(Wx, b) Rh = MatMul(h, R) s = Add(a, Rh) t = Sigmoid(s)
        r, z, unused = Split<axis = 1>(t) rh = Mul(h, r) Rrh = MatMul(rh, Rn) Wnx = MatMul(x_t, Wn) un = Add(Wnx, Rrh)
        vn = Add(un, bn) n = Tanh(vn) zh = Mul(z, h) k = Sub(one, z) kn = Mul(k, n) h1 = Add(zh, kn)""",
        THREE, "GRU(3, 4, reset='before'"),
    "plain": ("h", "a = Gemm<transB = 1, alpha = 2.0>(x_t, A, b) s = Gemm(h, R, a) h1 = Softsign(s)",
        draw(A=(H, D), b=H, R=(H, H)), "GeneralRNN"),
}  # fmt: skip


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_told_by_what_it_computes(name, reverse):
    states, lines, weights, kind = BODIES[name]
    model = scan(states, lines, weights, reverse)
    (found,) = open_network(model)
    assert found.reverse == bool(reverse)
    assert repr(found.layer).startswith(kind)
    x = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = found.layer(x[::-1] if reverse else x)[0]
    assert_grad_close("output", ours[::-1] if reverse else ours, session.run(["Y"], {"X": x})[0])
    if name == "peepholes" and not reverse:
        assert gradcheck(found.layer.astype(np.float64), x.astype(np.float64)).ok


ALIVE = "alive = Less(t, lens) h1 = Where(alive, n, k)"
ENDED = "ended = GreaterOrEqual(t, lens) h1 = Where(ended, k, n)"


def with_lengths(otherwise, choice=ALIVE):
    weights = {**draw(W=(D, H), R=(H, H)), "first": np.full((N, H), 0.25, np.float32), "one": np.ones((), np.float32)}
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[T, N, {D}] X, int64 steps, bool go, int64[N, 1] lens)
        => (float[N, {H}] h_n, float[T, N, {H}] Y) {{
        h_n, Y = Loop<body = b (int64 t, bool on, float[N, {H}] h) => (bool on1, float[N, {H}] h1, float[N, {H}] y) {{
            on1 = Identity(on) x_t = Gather<axis = 0>(X, t) Wx = MatMul(x_t, W) Rh = MatMul(h, R) a = Add(Wx, Rh)
            n = Tanh(a) k = {otherwise} {choice} y = Identity(h1)
        }}>(steps, go, first) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("choice", [ALIVE, ENDED])
def test_lengths_compared_with_the_number_of_the_step(choice):
    model = with_lengths("Identity(h)", choice)
    (found,) = open_network(model)
    assert repr(found.layer) == "RNN(3, 4, dtype=float32)"
    assert [note for note in found.notes if "lengths" in note]
    x, lengths = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32), np.array([5, 3])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"X": x, "steps": np.array(T), "go": np.array(True), "lens": lengths[:, None]}
    theirs, y = session.run(None, given)
    output, h_n = found.layer(x, found.h_0, lengths=lengths)
    assert_grad_close("h_n", h_n[0], theirs)
    assert_grad_close("output", output[:3], y[:3])


# ---------------------------------------------------------------------------------------------- step by step


def unrolled(states, lines, weights, steps=T):
    """Return a model with the lines of a body for each step, one after the other."""
    given = {"zeros": np.zeros((N, H), np.float32), "one": np.ones((), np.float32), **weights}
    given |= {f"at{t}": np.array(t) for t in range(steps)}
    text = ""
    for t in range(steps):

        def own(word, t=t):
            name = word.group()
            if name in given or word.string[word.end() :].lstrip()[:1] in "(<" or name in ("axis", "transB", "alpha"):
                return name  # weights, operators and attributes
            if name in states:
                return f"{name}1_{t - 1}" if t else "zeros"
            return f"{name}_{t}"

        text += f"x_t_{t} = Gather<axis = 0>(X, at{t}) " + re.sub(r"\b[A-Za-z_]\w*", own, lines) + " "
    outputs = ", ".join(f"h1_{t}" for t in range(steps))
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[T, N, {D}] X) => (float[T, N, {H}] Y)
        {{ {text} Y0 = Concat<axis = 0>({outputs}) Y = Reshape(Y0, shape) }}"""
    )
    given["shape"] = np.array([steps, -1, H])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in given.items())
    return model


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("name", [name for name in BODIES if name != "joined"])
def test_a_cell_whose_steps_are_written_out(name):
    states, lines, weights, kind = BODIES[name]
    model = unrolled(states, lines, weights)
    (found,) = open_network(model)
    assert repr(found.layer).startswith(kind)
    assert [note for note in found.notes if "one after the other" in note]
    x = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_grad_close("output", found.layer(x)[0], session.run(["Y"], {"X": x})[0])


def test_other_networks_that_use_a_matrix_again_are_no_cells():
    states, lines, weights, _ = BODIES["plain"]
    # Too few steps to tell; and layers that share their matrix, without an input at each.
    assert len(open_network(unrolled(states, lines, weights, steps=3))) == 0
    shared = "s = MatMul(h, R) h1 = Tanh(s)"
    network = open_network(unrolled(states, shared, weights))
    assert (len(network), "written out step by step" in network.notes[-1]) == (0, True)


# ---------------------------------------------------------------------------------------------- what is none


@pytest.mark.parametrize(
    ("states", "lines", "message"),
    [
        ("h", "a = MatMul(x_t, W) s = Sin(h) u = Add(a, s) h1 = Tanh(u)", "the operator Sin is in it"),
        ("h", "a = MatMul(x_t, W) s = Sigmoid(h) u = Add(a, s) h1 = Tanh(u)", "its formulas are"),
        # An LSTM whose output is that of the old c, and one whose i acts on nothing.
        ("hc", f"{GATES} ui, uf, ug, uo = Split<axis = 1>(a) i = Sigmoid(ui) f = Sigmoid(uf) g = Tanh(ug) "
               "o = Sigmoid(uo) fc = Mul(f, c) ig = Mul(i, g) c1 = Add(fc, ig) m = Tanh(c) h1 = Mul(o, m)",
         "its formulas are those of no RNN, LSTM or GRU"),
        ("hc", f"{GATES} ui, uf, ug, uo = Split<axis = 1>(a) i = Sigmoid(ui) f = Sigmoid(uf) g = Tanh(ug) "
               "o = Sigmoid(uo) fc = Mul(f, c) c1 = Add(fc, i) m = Tanh(c1) h1 = Mul(o, m)",
         "its formulas are those of no RNN, LSTM or GRU"),
        ("h", "a = MatMul(x_t, W) b1 = MatMul(h, R) u = Add(a, b1) n = Tanh(u) s = Add(n, n) h1 = Mul(s, n)",
         "its formulas are those of no RNN, LSTM or GRU"),
        ("h", "a = MatMul(x_t, W) u = Add(a, h) n = Tanh(u) h1 = Div(n, h)", "not constant is divided by"),
        ("h", "a = MatMul(x_t, Wn) h1 = Tanh(a)", "no state is handed on"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_cell_says_why(states, lines, message):
    network = open_network(scan(states, lines, FOUR))
    assert len(network) == 0
    assert len(network.notes) == 1
    assert "Scan whose body is no cell that is known" in network.notes[0]
    assert message in network.notes[0]


def test_a_body_that_is_read_wrongly_is_not_handed_out(monkeypatch):
    states, lines, weights, _ = BODIES["joined"]
    right = onnx_bodies.OPERATORS["Split"]
    monkeypatch.setitem(onnx_bodies.OPERATORS, "Split", lambda *given: right(*given)[::-1])
    (found,) = open_network(scan(states, lines, weights))
    with pytest.raises(ConversionError, match="self-test failed: .* differs from that of the body of the Scan"):
        found.layer


def test_a_mask_that_changes_the_states_is_refused():
    (found,) = open_network(with_lengths("Add(h, one)"))
    with pytest.raises(ConversionError, match="a masked step does something else than to leave the states alone"):
        found.layer


def test_sizes_that_are_only_declared_take_no_memory():
    # A state of 2 to the 20 units, it says: its slice would be a product with 4 TB.
    model = scan("hc", BODIES["joined"][1], FOUR)
    (body,) = [attribute.g for attribute in model.graph.node[0].attribute if attribute.name == "body"]
    for given in body.input:
        given.type.tensor_type.shape.dim[1].dim_value = 2**20
    network = open_network(model)
    assert (len(network), "too much memory" in network.notes[0]) == (0, True)
