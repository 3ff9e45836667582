"""Weights from and to ONNX: ONNX Runtime computes the same, round trips bit for bit, refusals with their reason."""

import itertools
import sys

import numpy as np
import pytest
from frameworks import onnx, onnx_helper, onnx_reference, onnxruntime

import rnn_numpy.interop.onnx as onnx_nodes
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.core import Parameters
from rnn_numpy.errors import (
    ConversionError,
    DataError,
    DTypeError,
    MissingExtraError,
    NonFiniteError,
    OptionError,
    ShapeError,
)
from rnn_numpy.interop import from_onnx, to_onnx, to_onnx_model
from rnn_numpy.layers import GRU, LSTM, RNN

KINDS = {
    "rnn-tanh": (RNN, {}),
    "rnn-relu": (RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, {}),
    "gru-after": (GRU, {"reset": "after"}),
    "gru-before": (GRU, {"reset": "before"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def layer_of(kind, *arguments, **options):
    cls, special = KINDS[kind]
    return cls(*arguments, **{"rng": 0, **special, **options})


def finals(state):
    return state if isinstance(state, tuple) else (state,)


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def model_of(node, **attributes):
    """Return a model of one operator, made by hand: X, sequence_lens, initial states; Y and final states."""
    states = ["h", "c"] if node.op_type == "LSTM" else ["h"]
    weights = {"W": node.W, "R": node.R} | ({} if node.B is None else {"B": node.B})
    inputs = ["X", "W", "R", "" if node.B is None else "B", "lens", *(f"initial_{state}" for state in states)]
    outputs = ["Y", *(f"Y_{state}" for state in states)]
    made = onnx_helper.make_node(node.op_type, inputs, outputs, **node.attributes, **attributes)
    floats = onnx.TensorProto.FLOAT
    graph = onnx_helper.make_graph(
        [made],
        "one",
        [
            onnx_helper.make_tensor_value_info("X", floats, [None, None, None]),
            onnx_helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, [None]),
            *(onnx_helper.make_tensor_value_info(f"initial_{state}", floats, [None, None, None]) for state in states),
        ],
        [onnx_helper.make_tensor_value_info(name, floats, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 17)], ir_version=8)


# ------------------------------------------------------------------------------------------------ nodes


@pytest.mark.needs_onnxruntime
@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lengths", [[6, 6, 6], [2, 6, 3]])
def test_onnx_runtime_computes_the_same(kind, bidirectional, bias, lengths):
    layer = layer_of(kind, 3, 4, bias=bias, bidirectional=bidirectional, dtype=np.float32)
    node = to_onnx(layer)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 3, 3)).astype(np.float32)
    states = [rng.normal(size=state.shape).astype(np.float32) for state in finals(layer(x)[1])]
    given = dict(zip(("initial_h", "initial_c"), states, strict=False))
    theirs = session(model_of(node)).run(None, {"X": x, "lens": np.array(lengths, np.int32), **given})
    output, final = layer(x, tuple(states) if len(states) == 2 else states[0], lengths)
    T, rows, N, H = theirs[0].shape
    assert_grad_close("output", output, theirs[0].swapaxes(1, 2).reshape(T, N, rows * H))
    for name, ours, reference in zip(("h_n", "c_n"), finals(final), theirs[1:], strict=False):
        assert_grad_close(name, ours, reference)


@every_kind
@every_dtype
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_there_and_back(kind, dtype, bidirectional, bias, num_layers):
    layer = layer_of(kind, 3, 4, num_layers, bias=bias, bidirectional=bidirectional, dtype=dtype)
    before = layer.params.flat.copy()
    nodes = [to_onnx(layer, index) for index in range(num_layers)]
    assert (layer.params.flat == before).all()
    for index, node in enumerate(nodes):
        rows, G = layer.num_directions, len(layer.params["weight_hh_l0"]) // 4
        assert node.W.shape == (rows, G * 4, 3 if index == 0 else rows * 4)
        assert node.R.shape == (rows, G * 4, 4)
        assert node.B is None if not bias else node.B.shape == (rows, 2 * G * 4)
        assert node.W.dtype == dtype
    B = [node.B for node in nodes] if bias else None
    twin = from_onnx(
        [n.W for n in nodes], [n.R for n in nodes], B, cell=nodes[0].op_type.lower(), **nodes[0].attributes
    )
    assert repr(twin) == repr(layer)
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()
    # One node alone is one layer.
    one = from_onnx(nodes[-1].W, nodes[-1].R, nodes[-1].B, cell=nodes[0].op_type.lower(), **nodes[0].attributes)
    again = to_onnx(one)
    assert again.W.tobytes() == nodes[-1].W.tobytes()
    assert again.R.tobytes() == nodes[-1].R.tobytes()
    assert (again.B is None) if not bias else again.B.tobytes() == nodes[-1].B.tobytes()


def test_attributes():
    assert to_onnx(RNN(2, 3)).attributes == {"hidden_size": 3, "direction": "forward"}
    assert to_onnx(LSTM(2, 3, bidirectional=True)).attributes == {"hidden_size": 3, "direction": "bidirectional"}
    assert to_onnx(GRU(2, 3)).attributes == {"hidden_size": 3, "direction": "forward", "linear_before_reset": 1}
    assert to_onnx(GRU(2, 3, reset="before")).attributes["linear_before_reset"] == 0
    assert to_onnx(RNN(2, 3, nonlinearity="relu")).attributes["activations"] == ["Relu"]


@pytest.mark.parametrize("activations", [None, ["Sigmoid", "Tanh", "Tanh"] * 2, ["sigmoid", "tanh", "TANH"] * 2])
def test_default_activations_may_be_spelt_out(activations):
    node = to_onnx(LSTM(2, 3, bidirectional=True, rng=0))
    attributes = node.attributes | {"activations": activations, "clip": None, "input_forget": 0, "P": np.zeros((2, 9))}
    twin = from_onnx(node.W, node.R, node.B, cell="lstm", **attributes)
    assert to_onnx(twin).W.tobytes() == node.W.tobytes()


def test_layout_1_is_batch_first():
    node = to_onnx(GRU(2, 3, rng=0))
    twin = from_onnx(node.W, node.R, node.B, cell="gru", layout=1, **node.attributes)
    assert twin.batch_first
    assert not from_onnx(node.W, node.R, node.B, cell="gru", layout=0, **node.attributes).batch_first


def test_a_foreign_byte_order_and_lists_of_numbers():
    layer = GRU(2, 3, rng=0)
    node = to_onnx(layer)
    arrays = [array.astype(">f8") for array in (node.W, node.R, node.B)]
    twin = from_onnx(*arrays, cell="gru", **node.attributes)
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()


@every_kind
@every_dtype
@pytest.mark.parametrize("gain", [0.0, 1e-30, 30.0, 1e4])
def test_weights_of_any_size_pass_the_self_test(kind, dtype, gain):
    layer = layer_of(kind, 8, 32, dtype=dtype)
    layer.params.flat[:] *= gain
    node = to_onnx(layer)
    twin = from_onnx(node.W, node.R, node.B, cell=node.op_type.lower(), **node.attributes)
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.needs_onnxruntime
@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_layers", "batch_first"), [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize(("initial_state", "bias"), [(False, True), (True, True), (True, False), (False, False)])
def test_a_model_in_onnx_runtime(tmp_path, kind, bidirectional, num_layers, batch_first, initial_state, bias):
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": bias, "dtype": np.float32}
    layer = layer_of(kind, 3, 4, num_layers, **options)
    path = tmp_path / "layer.onnx"
    to_onnx_model(layer, path, initial_state=initial_state)
    loaded = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for T, N in ((5, 3), (1, 1), (2, 7)):
        rng = np.random.default_rng(T)
        x = rng.normal(size=(N, T, 3) if batch_first else (T, N, 3)).astype(np.float32)
        shapes = [state.shape for state in finals(layer(x)[1])]
        states = [rng.normal(size=shape).astype(np.float32) if initial_state else np.zeros(shape) for shape in shapes]
        given = dict(zip(("h_0", "c_0"), states, strict=False)) if initial_state else {}
        names = ["output", "h_n", "c_n"][: 1 + len(shapes)]
        assert [output.name for output in loaded.get_outputs()] == names
        theirs = loaded.run(None, {"x": x, **given})
        begin = None
        if initial_state:
            begin = tuple(states) if len(states) == 2 else states[0]
        output, final = layer(x, begin)
        for name, ours, reference in zip(names, (output, *finals(final)), theirs, strict=True):
            assert_grad_close(name, ours, reference)


@every_kind
def test_a_float64_model(tmp_path, kind):
    """ONNX Runtime has no such operators; onnx's reference implementation has, but for relu."""
    layer = layer_of(kind, 3, 4, 2, bidirectional=True)
    to_onnx_model(layer, tmp_path / "layer.onnx")
    model = onnx.load(tmp_path / "layer.onnx")
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    if kind != "rnn-relu":
        x = np.random.default_rng(1).normal(size=(5, 2, 3))
        theirs = onnx_reference.ReferenceEvaluator(model).run(None, {"x": x})
        assert_grad_close("output", layer(x)[0], theirs[0])


def test_nodes_of_a_model_come_back(tmp_path):
    layer = LSTM(3, 4, 2, bidirectional=True, dtype=np.float32, rng=0)
    to_onnx_model(layer, tmp_path / "layer.onnx")
    graph = onnx.load(tmp_path / "layer.onnx").graph
    arrays = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "LSTM"]
    W, R, B = ([arrays[node.input[place]] for node in nodes] for place in (1, 2, 3))
    attributes = {attribute.name: onnx_helper.get_attribute_value(attribute) for attribute in nodes[0].attribute}
    twin = from_onnx(W, R, B, cell="lstm", hidden_size=attributes["hidden_size"], direction="bidirectional")
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()


def test_a_model_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "layer.onnx"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match="to_onnx_model: path must end in .onnx; got '.*layer.npz'"):
        to_onnx_model(RNN(2, 3), tmp_path / "layer.npz")
    with pytest.raises(DTypeError, match="to_onnx_model: initial_state must be True or False; got int 1"):
        to_onnx_model(RNN(2, 3), path, initial_state=1)
    with pytest.raises(ConversionError, match="ONNX's LSTM has no projection of the state; the layer has .*=2"):
        to_onnx_model(LSTM(3, 4, proj_size=2), path)

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(onnx_nodes.storage.os, "replace", refuse)
        with pytest.raises(DataError, match="to_onnx_model: .*layer.onnx: cannot be written: No space left on device"):
            to_onnx_model(RNN(2, 3), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["layer.onnx"]
    to_onnx_model(RNN(2, 3), path)
    onnx.checker.check_model(onnx.load(path), full_check=True)


# ------------------------------------------------------------------------------------------------ refusals

W, R, B = np.ones((1, 12, 2)), np.ones((1, 12, 3)), np.ones((1, 24))


@pytest.mark.parametrize(
    ("arrays", "attributes", "error", "message"),
    [
        ((W, R, B), {"cell": "Lstm"}, OptionError, "cell must be one of 'rnn', 'lstm', 'gru'; got 'Lstm'"),
        (
            (W, R, B),
            {"direction": "reverse"},
            ConversionError,
            "direction='reverse' alone has no counterpart: convert it a",
        ),
        ((W, R, B), {"direction": "both"}, OptionError, "direction must be 'forward' or 'bidirectional'; got 'both'"),
        ((W, R, B), {"clip": 0.0}, OptionError, "clip must be greater than 0, or left out; got 0.0"),
        ((W, R, B), {"input_forget": 2}, OptionError, "input_forget must be 0 or 1; got 2"),
        (
            (np.ones((1, 3, 2)), np.ones((1, 3, 3))),
            {"cell": "rnn", "input_forget": 1},
            OptionError,
            "input_forget is of an 'lstm' alone; got it with 'rnn'",
        ),
        ((W, R, B), {"P": np.ones((1, 8))}, ShapeError, r"P\[0\] must have shape \(directions, 3 H\) = \(1, 9\); got"),
        (
            (W, R, B),
            {"activations": ["Sigmoid", "Tanh", "Gelu"]},
            ConversionError,
            "the activation 'Gelu' has no counterpart here; known are",
        ),
        (
            (W, R, B),
            {"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [1.0]},
            ConversionError,
            "Activation: scaledtanh needs beta; without it, what runs such a network disagrees",
        ),
        ((W, R, B), {"layout": 2}, OptionError, "layout must be 0 or 1; got 2"),
        ((W, R, B), {"linear_before_reset": 2}, OptionError, "linear_before_reset must be 0 or 1; got 2"),
        (
            (W, R, B),
            {"linear_before_reset": 1},
            OptionError,
            "linear_before_reset is of a 'gru' alone; got it with 'lstm'",
        ),
        ((W, R, B), {"activations": ["Sigmoid", "Tanh"]}, ConversionError, "activations must be"),
        (
            (np.ones((2, 3, 2)), np.ones((2, 3, 3))),
            {"cell": "rnn", "direction": "bidirectional", "activations": ["Relu", "Tanh"]},
            ConversionError,
            r"activations of both directions must be the same; got \['Relu', 'Tanh'\]. Convert them one by one",
        ),
        ((W, R, B), {"hidden_size": 4}, OptionError, "hidden_size must be H = 3, after the shape of R; got 4"),
        (
            (W, R[:, :9], B),
            {},
            ShapeError,
            r"R\[0\] must have shape \(directions, 4 H, H\) = \(1, 12, 3\); got \(1, 9, 3\)",
        ),
        ((W[0], R, B), {}, ShapeError, r"W\[0\] must have shape \(directions, 4 H, D\) = \(1, 12, 2\); got \(12, 2\)"),
        ((W, R, B[:, :12]), {}, ShapeError, r"B\[0\] must have shape \(directions, 8 H\) = \(1, 24\); got \(1, 12\)"),
        (
            (W, R, B),
            {"direction": "bidirectional"},
            ShapeError,
            r"W\[0\] must have shape .* = \(2, 12, 2\); got \(1, 12, 2",
        ),
        ((3.0, R, B), {}, ShapeError, r"W\[0\] must have shape"),
        ((W, 3.0, B), {}, ShapeError, r"W\[0\] must have shape"),
        (
            ([W, W], [R, R]),
            {},
            ShapeError,
            r"W\[1\] must have shape \(directions, 4 H, directions H\) = \(1, 12, 3\); got",
        ),
        (
            ([W], [R, R]),
            {},
            DTypeError,
            "W, R, B and P must be arrays, or lists of as many arrays as there are layers; R is",
        ),
        (
            ([W], R),
            {},
            DTypeError,
            "W, R, B and P must be arrays, or lists of as many arrays as there are layers; R is not",
        ),
        (([W], [R], B), {}, DTypeError, "lists of as many arrays as there are layers; B is not"),
        (([], []), {}, DTypeError, "lists of as many arrays as there are layers; W is not"),
        ((W.astype(np.float16), R), {}, ConversionError, r"W\[0\] must be float32 or float64; got float16; widen it"),
        ((W, R.astype(np.float32)), {}, ConversionError, r"must have one dtype; W\[0\] is float64, R\[0\] is float32"),
        ((W, R, B.astype(int)), {}, ConversionError, r"B\[0\] must be float32 or float64; got int64"),
        ((W * np.nan, R, B), {}, NonFiniteError, r"W\[0\] is nan at i = 0, j = 0, k = 0"),
    ],
)
def test_nodes_that_are_refused(arrays, attributes, error, message):
    with pytest.raises(error, match=f"from_onnx: .*{message}"):
        from_onnx(*arrays, **{"cell": "lstm", **attributes})


def test_layers_that_are_refused():
    with pytest.raises(DTypeError, match="to_onnx: layer must be an RNN, LSTM or GRU of rnn_numpy; got list"):
        to_onnx([])
    with pytest.raises(ConversionError, match="to_onnx: ONNX's GRU is real, the layer complex128, which is for"):
        to_onnx(GRU(3, 4).astype(np.complex128))
    with pytest.raises(ConversionError, match="to_onnx: ONNX's LSTM has no projection of the state"):
        to_onnx(LSTM(3, 4, proj_size=2))
    with pytest.raises(
        ConversionError, match="to_onnx: ONNX's GRU has no such zoneout; the layer has .0.5,.. To go with"
    ):
        to_onnx(GRU(3, 4, zoneout=0.5))
    # What acts in training alone is no matter of an operator.
    assert to_onnx(LSTM(3, 4, 2, dropout=0.5, recurrent_dropout=0.5)).op_type == "LSTM"
    layer = RNN(3, 4, 2)
    for index, error, message in (
        (2, OptionError, "layer_index must be in 0 ... num_layers - 1 = 1; got 2"),
        (-1, OptionError, "layer_index must be in 0 ... num_layers - 1 = 1; got -1"),
        (0.0, DTypeError, "layer_index must be an integer; got float 0.0"),
        (True, DTypeError, "layer_index must be an integer; got bool True"),
    ):
        with pytest.raises(error, match=f"to_onnx: {message}"):
            to_onnx(layer, index)
    layer.params["bias_ih_l0"][1] = np.nan
    with pytest.raises(NonFiniteError, match="to_onnx: bias_ih_l0 is nan at i = 1"):
        to_onnx(layer)


def test_a_layer_with_further_parameters_is_refused():
    """As an option may bring them one day: leaving them behind would be a silent loss."""
    layer = RNN(3, 4, 2)
    shapes = {**layer.params.shapes, "scale_l0": (4,), "scale_l1": (4,)}
    layer.params = Parameters(shapes, np.float64)
    with pytest.raises(ConversionError, match="to_onnx: ONNX's RNN has no parameters like the layer's scale$"):
        to_onnx(layer)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r'needs onnx, .* pip install "rnn_numpy\[onnx\]"'):
        to_onnx_model(RNN(3, 4), tmp_path / "layer.onnx")
    node = to_onnx(RNN(3, 4))  # the arrays alone do without
    from_onnx(node.W, node.R, node.B, cell="rnn", **node.attributes)


# ------------------------------------------------------------------------------------------------ planted bugs


def swap_gates(monkeypatch, first, second):
    for cell, blocks in dict(onnx_nodes.ONNX_BLOCKS).items():
        if first < len(blocks) > second:
            swapped = list(blocks)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            monkeypatch.setitem(onnx_nodes.ONNX_BLOCKS, cell, "".join(swapped))


PAIRS = [*itertools.combinations(range(4), 2)]


@pytest.mark.parametrize(("kind", "pair"), [(k, p) for k in ("lstm", "gru-after", "gru-before") for p in PAIRS])
def test_swapped_gates_are_found_by_the_self_test(monkeypatch, kind, pair):
    if kind != "lstm" and 3 in pair:
        pair = (pair[0], (pair[0] + 1) % 3)  # a GRU has three blocks
    layer = layer_of(kind, 3, 4, 2)
    nodes = [to_onnx(layer, index) for index in range(2)]
    swap_gates(monkeypatch, *pair)
    with pytest.raises(
        ConversionError, match="to_onnx: self-test failed: output differs from that of ONNX's equations"
    ):
        to_onnx(layer)
    with pytest.raises(
        ConversionError, match="from_onnx: self-test failed: output differs from that of ONNX's equations"
    ):
        from_onnx(
            [node.W for node in nodes],
            [node.R for node in nodes],
            [node.B for node in nodes],
            cell=nodes[0].op_type.lower(),
            **nodes[0].attributes,
        )


def lost_bias(reordered):
    return lambda array, *orders: reordered(array, *orders) * (array.ndim > 1)


def forgotten_transpose(reordered):
    def broken(array, *orders):
        found = reordered(array, *orders)
        if found.ndim == 1 or found.shape[1] != 4:
            return found
        return np.concatenate([block.T for block in np.split(found, len(found) // 4)])

    return broken


@pytest.mark.parametrize("bug", [lost_bias, forgotten_transpose])
@every_kind
def test_other_bugs_are_found_by_the_self_test(monkeypatch, bug, kind):
    layer = layer_of(kind, 3, 4)
    node = to_onnx(layer)
    monkeypatch.setattr(onnx_nodes.common, "reordered", bug(onnx_nodes.common.reordered))
    with pytest.raises(ConversionError, match="to_onnx: self-test failed"):
        to_onnx(layer)
    with pytest.raises(ConversionError, match="from_onnx: self-test failed"):
        from_onnx(node.W, node.R, node.B, cell=node.op_type.lower(), **node.attributes)


def test_exchanged_directions_and_layers_are_found_by_the_self_test(monkeypatch):
    layer = GRU(8, 4, 2, bidirectional=True, rng=0)
    suffixes = onnx_nodes.common.suffixes
    for broken in (
        lambda layer, index: suffixes(layer, index)[::-1],
        lambda layer, index: suffixes(layer, 1 - index),
        lambda layer, index: suffixes(layer, 0),
    ):
        monkeypatch.setattr(onnx_nodes.common, "suffixes", broken)
        with pytest.raises(ConversionError, match="to_onnx: self-test failed"):
            to_onnx(layer)


@pytest.mark.parametrize("perm", [[0, 1, 2, 3], [2, 0, 1, 3]])
def test_a_wrong_graph_is_found_by_the_self_test(tmp_path, monkeypatch, perm):
    build = onnx_nodes._model

    def broken(*arguments):
        model = build(*arguments)
        node = next(node for node in model.graph.node if node.op_type == "Transpose")
        del node.attribute[:]
        node.attribute.append(onnx_helper.make_attribute("perm", perm))
        return model

    monkeypatch.setattr(onnx_nodes, "_model", broken)
    with pytest.raises(ConversionError, match="to_onnx_model: self-test failed"):
        to_onnx_model(LSTM(3, 4, 2, bidirectional=True, rng=0), tmp_path / "layer.onnx")
    assert list(tmp_path.iterdir()) == []
