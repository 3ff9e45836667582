"""Recurrent operators of whole ONNX models: found wherever they are, with weights computed in the graph; bad files."""

import os

import numpy as np
import pytest
from frameworks import onnx, onnx_helper, onnx_reference, onnxruntime

from rnn_numpy import open_network
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.errors import ConversionError, DataError, OptionError
from rnn_numpy.interop import onnx_constants, to_onnx, to_onnx_model
from rnn_numpy.layers import GRU, LSTM, RNN

T, N, D, H = 5, 2, 3, 4


def constant(name, value, dtype=np.int64):
    tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype), name)
    return onnx_helper.make_node("Constant", [], [name], value=tensor)


def model_of(nodes, inputs, outputs, initial=(), **how):
    floats = onnx.TensorProto.FLOAT
    graph = onnx_helper.make_graph(
        nodes,
        "g",
        [onnx_helper.make_tensor_value_info(name, how.get(name, floats), None) for name in inputs],
        [onnx_helper.make_tensor_value_info(name, floats, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(initial).items()],
    )
    return onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 17)], ir_version=8)


def in_pieces(node, prefix=""):
    """Return small operators that make W, R and B of a node from pieces that are cut, turned and joined."""
    W, R, B = node.W[0], node.R[0], node.B[0]
    made = [
        constant(f"{prefix}W_turned", W.T, np.float32),
        onnx_helper.make_node("Transpose", [f"{prefix}W_turned"], [f"{prefix}W_flat"], perm=[1, 0]),
        constant(f"{prefix}zero", [0]),
        onnx_helper.make_node("Unsqueeze", [f"{prefix}W_flat", f"{prefix}zero"], [f"{prefix}W"]),
        # In other order, cut and joined, as torch's exporter does.
        constant(f"{prefix}R_moved", np.roll(R, H, 0), np.float32),
        *(constant(f"{prefix}{name}", [at]) for name, at in (("H", H), ("end", 2**62), ("one", 1))),
        onnx_helper.make_node(
            "Slice", [f"{prefix}R_moved", f"{prefix}H", f"{prefix}end", f"{prefix}zero"], [f"{prefix}R_low"]
        ),
        onnx_helper.make_node(
            "Slice",
            [f"{prefix}R_moved", f"{prefix}zero", f"{prefix}H", f"{prefix}zero", f"{prefix}one"],
            [f"{prefix}R_high"],
        ),
        onnx_helper.make_node("Concat", [f"{prefix}R_low", f"{prefix}R_high"], [f"{prefix}R_two"], axis=0),
        onnx_helper.make_node("Unsqueeze", [f"{prefix}R_two", f"{prefix}zero"], [f"{prefix}R"]),
        constant(f"{prefix}B_row", B.reshape(2, -1), np.float32),
        constant(f"{prefix}as_row", [1, -1]),
        onnx_helper.make_node("Reshape", [f"{prefix}B_row", f"{prefix}as_row"], [f"{prefix}B"]),
    ]
    return made


def test_a_node_in_nested_bodies_with_weights_computed_there():
    layers = [LSTM(D, H, dtype=np.float32, rng=seed) for seed in range(2)]

    def body(index):
        node = to_onnx(layers[index])
        prefix = f"p{index}_"
        made = onnx_helper.make_node(
            "LSTM", ["X", *(f"{prefix}{letter}" for letter in "WRB")], [f"{prefix}Y"], name=f"lstm{index}",
            **node.attributes,
        )  # fmt: skip
        out = onnx_helper.make_tensor_value_info(f"{prefix}Y", onnx.TensorProto.FLOAT, None)
        return onnx_helper.make_graph([*in_pieces(node, prefix), made], f"b{index}", [], [out])

    inner = onnx_helper.make_node("If", ["which"], ["Y1"], name="inner", then_branch=body(0), else_branch=body(1))
    out = onnx_helper.make_tensor_value_info("Y1", onnx.TensorProto.FLOAT, None)
    middle = onnx_helper.make_graph([inner], "middle", [], [out])
    outer = onnx_helper.make_node("If", ["on"], ["Y"], name="outer", then_branch=middle, else_branch=middle)
    model = model_of([outer], ["X", "which", "on"], ["Y"], which=onnx.TensorProto.BOOL, on=onnx.TensorProto.BOOL)
    network = open_network(model)
    # Bodies come in the order of the attributes, else_branch first; what is there twice bears its path.
    inside = "outer/then_branch/inner"
    assert network.names == ["lstm1", "lstm0", f"{inside}/else_branch/lstm1", f"{inside}/then_branch/lstm0"]
    x = np.random.default_rng(3).normal(size=(T, N, D)).astype(np.float32)
    run = onnx_reference.ReferenceEvaluator(model).run
    for index, layer in enumerate(layers):
        found = network[f"lstm{index}"].layer
        assert found.params.flat.tobytes() == layer.params.flat.tobytes()
        theirs = run(None, {"X": x, "which": np.array(index == 0), "on": np.array(True)})[0]
        assert_grad_close("output", found(x)[0], theirs[:, 0])


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_what_to_onnx_model_writes_comes_back_as_one_layer(tmp_path, kind, bidirectional):
    layer = kind(D, H, 3, bidirectional=bidirectional, dtype=np.float32, rng=0)
    to_onnx_model(layer, tmp_path / "net.onnx")
    network = open_network(tmp_path / "net.onnx")
    assert [found.num_layers for found in network] == [3]
    assert network[0].parts == ("l0", "l1", "l2")
    assert repr(network["l1"].layer) == repr(layer)
    assert network[0].layer.params.flat.tobytes() == layer.params.flat.tobytes()
    x = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert_grad_close("output", network[0].layer(x)[0], session.run(None, {"x": x})[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_as_keras_exports_them_are_joined(bidirectional):
    # Squeezed, or both directions cut out and put side by side, turned to batches first and back.
    nodes = [
        to_onnx(LSTM(size, H, bidirectional=bidirectional, dtype=np.float32, rng=size))
        for size in (D, H + H * bidirectional)
    ]
    made = [onnx_helper.make_node("LSTM", ["X", "W0", "R0", "B0"], ["Y0"], name="one", **nodes[0].attributes)]
    if bidirectional:
        for row in range(2):
            made.append(onnx_helper.make_node("Slice", ["Y0", f"at{row}", f"at{row + 1}", "at1"], [f"cut{row}"]))
            made.append(onnx_helper.make_node("Squeeze", [f"cut{row}", "at1"], [f"half{row}"]))
        made.append(onnx_helper.make_node("Concat", ["half0", "half1"], ["flat"], axis=2))
    else:
        made.append(onnx_helper.make_node("Squeeze", ["Y0", "at1"], ["flat"]))
    made += [
        onnx_helper.make_node("Transpose", ["flat"], ["batches"], perm=[1, 0, 2]),
        onnx_helper.make_node("Identity", ["batches"], ["same"]),
        onnx_helper.make_node("Transpose", ["same"], ["X1"], perm=[1, 0, 2]),
        onnx_helper.make_node("LSTM", ["X1", "W1", "R1", "B1"], ["Y"], name="two", **nodes[1].attributes),
    ]
    weights = {f"at{k}": np.array([k]) for k in range(3)}
    for k, node in enumerate(nodes):
        weights |= {f"W{k}": node.W, f"R{k}": node.R, f"B{k}": node.B}
    model = model_of(made, ["X"], ["Y"], weights)
    (found,) = open_network(model)
    assert (found.parts, found.num_layers) == (("one", "two"), 2)
    x = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    theirs = onnx_reference.ReferenceEvaluator(model).run(None, {"X": x})[0]
    assert_grad_close("output", found.layer(x)[0], theirs.swapaxes(1, 2).reshape(T, N, -1))
    # Other transposes do not cancel: then these are two.
    made[-4].attribute[0].ints[:] = [0, 1, 2]
    assert open_network(model_of(made, ["X"], ["Y"], weights)).names == ["one", "two"]


def both_ways(kind, turned_round, order=(0, 1)):
    """Return two nodes and their Concat, twice; the second reads backward, or what is turned round goes through it."""
    made, weights, signal = [], {"axis": np.array([1]), "last": np.array([-1]), "zero": np.array([0])}, "X"
    weights |= {"before": np.array([-(2**62)])}
    for index, size in enumerate((D, 2 * H)):
        halves = []
        for row in range(2):
            own = to_onnx(kind(size, H, dtype=np.float32, rng=7 * index + row))
            tag = f"{index}{row}"
            weights |= {f"{letter}{tag}": getattr(own, letter) for letter in "WRB"}
            attributes, given = dict(own.attributes), signal
            if row and turned_round:
                made.append(onnx_helper.make_node("Slice", [signal, "last", "before", "zero", "last"], [f"back{tag}"]))
                given = f"back{tag}"
            elif row:
                attributes["direction"] = "reverse"
            inputs = [given, f"W{tag}", f"R{tag}", f"B{tag}"]
            made.append(onnx_helper.make_node(own.op_type, inputs, [f"Y{tag}"], name=f"n{tag}", **attributes))
            made.append(onnx_helper.make_node("Squeeze", [f"Y{tag}", "axis"], [f"S{tag}"]))
            halves.append(f"S{tag}")
            if row and turned_round:
                last = ["last", "before", "zero", "last"]
                made.append(onnx_helper.make_node("Slice", [f"S{tag}", *last], [f"F{tag}"]))
                halves[-1] = f"F{tag}"
        made.append(onnx_helper.make_node("Concat", [halves[at] for at in order], [f"X{index + 1}"], axis=2))
        signal = f"X{index + 1}"
    return model_of(made, ["X"], ["X2"], weights)


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("turned_round", [False, True])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_a_forward_and_a_reverse_node_are_one_layer(kind, turned_round):
    model = both_ways(kind, turned_round)
    (found,) = open_network(model)
    assert (found.num_layers, found.num_directions, found.parts) == (2, 2, ("n00", "n01", "n10", "n11"))
    assert open_network(model)["n11"].name == open_network(model)["11"].name == "n00"
    x = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_grad_close("output", found.layer(x)[0], session.run(None, {"X": x})[0])


def test_what_is_no_bidirectional_layer_stays_two():
    # Backward stands first; or outputs stay in the order in which the second node has read.
    network = open_network(both_ways(GRU, False, order=(1, 0)))
    assert [found.reverse for found in network] == [False, True, False, True]
    model = both_ways(GRU, True)
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.input[1] = node.input[1].replace("F", "S")
    assert len(open_network(model)) == 4


def test_layers_that_differ_stay_apart():
    first, second = to_onnx(GRU(D, H, dtype=np.float32)), to_onnx(GRU(H, H, reset="before", dtype=np.float32))
    made = [
        onnx_helper.make_node("GRU", ["X", "W0", "R0"], ["Y0"], name="one", **first.attributes),
        onnx_helper.make_node("Squeeze", ["Y0", "axis"], ["X1"]),
        onnx_helper.make_node("GRU", ["X1", "W1", "R1"], ["Y"], name="two", **second.attributes),
    ]
    weights = {"W0": first.W, "R0": first.R, "W1": second.W, "R1": second.R, "axis": np.array([1])}
    network = open_network(model_of(made, ["X"], ["Y"], weights))
    assert [(found.name, found.layer.reset) for found in network] == [("one", "after"), ("two", "before")]


def test_initial_states_lengths_and_a_reversed_node():
    node = to_onnx(LSTM(D, H, dtype=np.float32, rng=0))
    states = {"h0": np.full((1, 1, H), 0.5, np.float32), "c0": np.full((1, 1, H), -0.25, np.float32)}
    given = ["X", "W", "R", "B", "lens", "h0", "c0"]
    made = onnx_helper.make_node("LSTM", given, ["Y"], name="back", **node.attributes | {"direction": "reverse"})
    model = model_of(
        [made], ["X", "lens"], ["Y"], {"W": node.W, "R": node.R, "B": node.B, **states}, lens=onnx.TensorProto.INT32
    )
    found = open_network(model)["back"]
    assert found.reverse
    assert [len([note for note in found.notes if word in note]) for word in ("h_0", "lengths", "x[::-1]")] == [1, 1, 1]
    x = np.random.default_rng(1).normal(size=(T, 1, D)).astype(np.float32)
    forward = onnx_helper.make_node("LSTM", ["X", "W", "R", "B", "", "h0", "c0"], ["Y"], **node.attributes)
    model = model_of([forward], ["X"], ["Y"], {"W": node.W, "R": node.R, "B": node.B, **states})
    theirs = onnx_reference.ReferenceEvaluator(model).run(None, {"X": np.ascontiguousarray(x[::-1])})[0]
    h_0, c_0 = found.h_0
    assert_grad_close("output", found.layer(x[::-1], (h_0, c_0))[0], theirs[:, 0])


def test_zeros_of_the_batch_are_no_initial_states():
    node = to_onnx(GRU(D, H, dtype=np.float32, rng=0))
    made = [
        onnx_helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        onnx_helper.make_node("Expand", ["zeros", "shape"], ["h0"]),
        onnx_helper.make_node("GRU", ["X", "W", "R", "B", "", "h0"], ["Y"], **node.attributes),
    ]
    weights = {"W": node.W, "R": node.R, "B": node.B}
    found = open_network(model_of(made, ["X", "shape"], ["Y"], weights, shape=onnx.TensorProto.INT64))[0]
    assert (found.h_0, found.notes, found.name) == (None, (), "GRU_2")
    made[2].input[5] = "X"
    found = open_network(model_of(made, ["X", "shape"], ["Y"], weights, shape=onnx.TensorProto.INT64))[0]
    assert found.notes == ("its initial states are computed from what goes into the network: hand them in as h_0",)


def test_a_projection_that_an_exporter_has_dropped():
    # As torch 2.13 exports LSTM(3, 4, proj_size=2): 8 rows of 16 are left, and an initial c of 4 units.
    node = to_onnx(LSTM(D, 2, dtype=np.float32, rng=0))
    made = onnx_helper.make_node("LSTM", ["X", "W", "R", "B", "", "h0", "c0"], ["Y"], name="n", **node.attributes)
    zeros = {"h0": np.zeros((1, 2, 2), np.float32), "c0": np.zeros((1, 2, 4), np.float32)}
    network = open_network(model_of([made], ["X"], ["Y"], {"W": node.W, "R": node.R, "B": node.B, **zeros}))
    with pytest.raises(
        DataError, match=r"n: initial_c has 4 units, R 2: torch's default exporter \(2.13\) drops the pro"
    ):
        network["n"].layer


def test_half_precision_is_widened():
    node = to_onnx(GRU(D, H, dtype=np.float32, rng=0))
    made = onnx_helper.make_node("GRU", ["X", "W", "R"], ["Y"], **node.attributes)
    weights = {"W": node.W.astype(np.float16), "R": node.R.astype(np.float16)}
    layer = open_network(model_of([made], ["X"], ["Y"], weights))[0].layer
    assert layer.dtype == np.float32
    assert (layer.params["weight_ih_l0"][:H] == weights["W"][0, H : 2 * H]).all()


# ------------------------------------------------------------------------------------------------ quantised


def quantized(node):
    """Return W, R of a node in 8 bits with scales and zero points, as onnxruntime's quantizer makes them."""
    found = {}
    for slot, array in (("W", node.W), ("R", node.R)):
        scale = (np.abs(array).max((1, 2)) / 127).astype(np.float32)
        turned = array.swapaxes(1, 2) / scale[:, None, None]
        found |= {
            slot: np.rint(turned).astype(np.int8),
            f"{slot}_scale": scale,
            f"{slot}_zero": np.zeros(len(scale), np.int8),
        }
    return found


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_quantised_lstm_is_that_of_its_weights_times_their_scales(bidirectional):
    layer = LSTM(D, H, bidirectional=bidirectional, dtype=np.float32, rng=0)
    node = to_onnx(layer)
    arrays = quantized(node)
    given = ["X", "W", "R", "B", "", "", "", "", "W_scale", "W_zero", "R_scale", "R_zero"]
    made = onnx_helper.make_node("DynamicQuantizeLSTM", given, ["Y"], domain="com.microsoft", **node.attributes)
    model = model_of([made], ["X"], ["Y"], {**arrays, "B": node.B})
    model.opset_import.append(onnx_helper.make_opsetid("com.microsoft", 1))
    found = open_network(model)[0]
    assert found.kind == "LSTM"
    scales = np.abs(np.concatenate([found.layer.params["weight_ih_l0"].ravel(), layer.params["weight_ih_l0"].ravel()]))
    assert 0 < np.abs(found.layer.params["weight_ih_l0"] - layer.params["weight_ih_l0"]).max() < scales.max() / 127
    x = np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"X": x})[0].swapaxes(1, 2).reshape(T, N, -1)
    assert_grad_close(
        "emulated", found.emulate(x), one_thread(model).run(None, {"X": x})[0].swapaxes(1, 2).reshape(T, N, -1)
    )
    # Inputs and states are rounded there, to 1/127 of the largest: what is left is far less than a gate out of place.
    assert np.abs(found.layer(x)[0] - theirs).max() < 0.02


def one_thread(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.needs_onnxruntime
def test_a_quantised_sequence_depends_on_its_neighbours():
    layers = [LSTM(size, H, dtype=np.float32, rng=size) for size in (D, H)]
    nodes = [to_onnx(layer) for layer in layers]
    weights, made, signal = {"axis": np.array([1])}, [], "X"
    for k, node in enumerate(nodes):
        weights |= {f"{name}{k}": array for name, array in (quantized(node) | {"B": node.B}).items()}
        slots = ["W", "R", "B", "", "", "", "", "W_scale", "W_zero", "R_scale", "R_zero"]
        given = [signal, *(f"{slot}{k}" if slot else "" for slot in slots)]
        made.append(
            onnx_helper.make_node("DynamicQuantizeLSTM", given, [f"Y{k}"], domain="com.microsoft", **node.attributes)
        )
        signal = f"X{k + 1}"
        made.append(onnx_helper.make_node("Squeeze", [f"Y{k}", "axis"], [signal]))
    model = model_of(made, ["X"], ["X2"], weights)
    model.opset_import.append(onnx_helper.make_opsetid("com.microsoft", 1))
    (found,) = open_network(model)
    assert found.num_layers == 2
    x = np.random.default_rng(1).normal(size=(T, 4, D)).astype(np.float32)
    loud = x * np.array([1, 30, 1, 1], np.float32)[:, None]
    for given in (x, loud):
        assert_grad_close("emulated", found.emulate(given), one_thread(model).run(None, {"X": given})[0])
    assert np.abs(found.emulate(x)[:, 0] - found.emulate(loud)[:, 0]).max() > 1e-3
    assert np.array_equal(found.layer(x)[0][:, 0], found.layer(loud)[0][:, 0])
    # With rows that share nothing, each is as if it were alone, but for the input.
    assert np.abs(found.emulate(x, rows=1) - found.emulate(x)).max() > 0


# ------------------------------------------------------------------------------------------------ refusals


def small_model():
    node = to_onnx(LSTM(D, H, dtype=np.float32, rng=0))
    made = onnx_helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], name="lstm", **node.attributes)
    return model_of([made], ["X"], ["Y"], {"W": node.W, "R": node.R, "B": node.B})


def test_a_graph_that_doubles_itself_takes_no_time():
    # Sixty operators that each take two of the last: 2 to the 60 ways, of which each name is looked at once.
    node = to_onnx(LSTM(D, H, dtype=np.float32, rng=0))
    made = [onnx_helper.make_node("Concat", ["X", "X"], ["d0"], axis=0)]
    made += [onnx_helper.make_node("Concat", [f"d{k}", f"d{k}"], [f"d{k + 1}"], axis=0) for k in range(60)]
    made.append(onnx_helper.make_node("LSTM", ["d60", "W", "R", "B", "", "d60"], ["Y"], name="n", **node.attributes))
    weights = {"W": node.W, "R": node.R, "B": node.B}
    found = open_network(model_of(made, ["X"], ["Y"], weights))["n"]
    assert found.layer.params.flat.size == node.W.size + node.R.size + node.B.size
    assert "initial states are computed" in found.notes[0]


@pytest.mark.parametrize("break_it", ["no output", "no input", "text for a number"])
def test_operators_that_are_no_operators_are_refused(break_it):
    model = both_ways(GRU, True)
    for node in model.graph.node:
        if node.op_type == "Concat" and break_it == "no output":
            node.output.pop()
        elif node.op_type == "Slice" and break_it == "no input":
            del node.input[:]
        elif node.op_type == "Concat":
            node.attribute[0].CopyFrom(onnx_helper.make_attribute("axis", "last"))
    if break_it == "no output":
        with pytest.raises(DataError, match="not a whole ONNX file"):
            open_network(model)
    else:
        assert len(open_network(model)) == 4


def test_many_large_arrays_are_too_large_together(monkeypatch):
    monkeypatch.setattr(onnx_constants, "LARGEST_IN_ALL", 4 * 16 * 3 * 8)
    model = small_model()
    model.graph.initializer[0].name = "W0"
    for k in range(9):
        model.graph.node.insert(k, onnx_helper.make_node("Neg", [f"W{k}"], [f"W{k + 1}"]))
    model.graph.node[-1].input[1] = "W9"
    with pytest.raises(DataError, match="operators would make arrays of more than 1536 bytes; not done"):
        open_network(model)["lstm"].layer


def test_weights_that_go_in_are_said():
    model = small_model()
    del model.graph.initializer[0]
    model.graph.input.append(onnx_helper.make_tensor_value_info("W", onnx.TensorProto.FLOAT, None))
    found = open_network(model)["lstm"]
    with pytest.raises(ConversionError, match="lstm: W is not constant: 'W' is an input of the graph"):
        found.layer


def test_models_without_such_operators_say_what_they_have():
    def notes(*operators):
        nodes = [onnx_helper.make_node(operator, ["X"], [f"Y{index}"]) for index, operator in enumerate(operators)]
        return open_network(model_of(nodes, ["X"], ["Y0"])).notes[-1]

    assert "but Loop" in notes("Loop", "Sigmoid")
    assert "written out step by step" in notes("Gemm", "Tanh")
    assert notes("Relu") == "no operator RNN, LSTM or GRU, Loop or Scan: no recurrent layer"


def test_a_cell_written_out_is_found_by_the_names_of_its_weights():
    layer = LSTM(D, H, dtype=np.float32, rng=0)
    weights = {f"model.rnn.{name.removesuffix('_l0')}": array for name, array in layer.state_dict().items()}
    nodes = [onnx_helper.make_node("Gemm", ["X", "model.rnn.weight_ih"], ["Y"])]
    found = open_network(model_of(nodes, ["X"], ["Y"], weights))["model.rnn"]
    assert found.layer.params.flat.tobytes() == layer.params.flat.tobytes()


def test_truncated_files_are_refused(tmp_path):
    whole = small_model().SerializeToString()
    for end in [0, 1, 2, 3, 10, 100, *range(200, len(whole), 97), len(whole) - 1]:
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:end])
        with pytest.raises((DataError, ConversionError), match=r"cut\.onnx"):
            for found in open_network(path):
                found.layer
            raise DataError("cut.onnx: opened without its layer")
    path.write_bytes(whole)
    assert len(open_network(path)) == 1


def changed(change):
    model = small_model()
    change(model.graph.initializer[0], model)
    return model


def external(location, **more):
    def change(tensor, _):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=str(value))

    return change


def huge(tensor, _):
    tensor.dims[:] = [1, 16, 2**60]


def huge_constant(tensor, model):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2**40, 16]), "shape"))
    model.graph.node.insert(0, onnx_helper.make_node("ConstantOfShape", ["shape"], ["big"], name="grow"))
    model.graph.node[1].input[1] = "big"


def no_shape(tensor, _):
    tensor.dims[:] = [-1, 16, 3]


def another_dtype(tensor, _):
    tensor.data_type = 99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (huge, r"array 'W': shape \(1, 16, 1152921504606846976\) of float32 takes .* bytes; it has 192"),
        (huge_constant, r"node 'grow' \(ConstantOfShape\): would make an array of .* bytes; not done"),
        (no_shape, r"array 'W': its shape is \(-1, 16, 3\)"),
        (another_dtype, "array 'W': its dtype, number 99, is not known"),
        (external("../secret.bin"), "array 'W': lies in '../secret.bin', which is no file in the folder"),
        (external("/etc/passwd"), "array 'W': lies in '/etc/passwd', which is no file in the folder"),
        (external("link.bin"), "array 'W': lies in 'link.bin', which is no file in the folder"),
        (external("missing.bin"), "array 'W': lies in 'missing.bin', which is no file in the folder"),
        (external("short.bin"), r"takes 192 bytes, which 'short\.bin' does not have"),
        (external("short.bin", offset=-4, length=192), "which 'short.bin' does not have"),
        (external("short.bin", offset="x"), "its offset or length in 'short.bin' is no number"),
    ],
)
def test_what_a_file_only_claims_is_refused(tmp_path, change, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(192))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(bytes(100))
    path = folder / "net.onnx"
    path.write_bytes(changed(change).SerializeToString())
    with pytest.raises(DataError, match=message):
        open_network(path)["lstm"].layer


def test_data_beside_the_model_is_read(tmp_path):
    whole = small_model()
    (tmp_path / "net.data").write_bytes(bytes(8) + whole.graph.initializer[0].raw_data)
    path = tmp_path / "net.onnx"
    path.write_bytes(changed(external("net.data", offset=8, length=192)).SerializeToString())
    assert (open_network(path)[0].layer.params.flat == open_network(whole)[0].layer.params.flat).all()
    with pytest.raises(DataError, match="lies in the file 'net.data'; open the model by its path"):
        open_network(changed(external("net.data", offset=8, length=192)))[0].layer


def test_a_circle_of_operators_is_not_constant():
    model = small_model()
    del model.graph.initializer[0]
    model.graph.node.extend(
        [onnx_helper.make_node("Identity", ["W"], ["V"]), onnx_helper.make_node("Identity", ["V"], ["W"])]
    )
    with pytest.raises(ConversionError, match="W is not constant: its computation is too long"):
        open_network(model)[0].layer


def test_a_name_that_is_none_or_several():
    network = open_network(small_model())
    with pytest.raises(
        OptionError, match="'gru' is not the name of a recurrent layer; its recurrent layers are 'lstm'"
    ):
        network["gru"]
    assert network["tm"] is network["lstm"] is network[0]
    assert repr(network).splitlines()[1:] == [f"  lstm: LSTM({D}, {H})"]


@pytest.mark.parametrize("axes_as_input", [False, True])
def test_older_and_newer_forms_of_operators(axes_as_input):
    node = to_onnx(RNN(D, H, dtype=np.float32, rng=0))
    axes = {} if axes_as_input else {"axes": [0]}
    cut = {} if axes_as_input else {"split": [H, H]}
    made = [
        onnx_helper.make_node("Split", ["both"] + ["sizes"] * axes_as_input, ["W_flat", "V"], axis=0, **cut),
        onnx_helper.make_node("Unsqueeze", ["W_flat"] + ["axes"] * axes_as_input, ["W"], **axes),
        onnx_helper.make_node("RNN", ["X", "W", "R"], ["Y"], **node.attributes),
    ]
    both = np.concatenate([node.W[0], node.W[0] + 1])
    weights = {"both": both, "R": node.R, "axes": np.array([0]), "sizes": np.array([H, H])}
    layer = open_network(model_of(made, ["X"], ["Y"], weights))[0].layer
    assert (layer.params["weight_ih_l0"] == node.W[0]).all()


def test_no_file_is_read_from_elsewhere_while_names_are_odd(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(changed(external("a\0b")).SerializeToString())
    with pytest.raises(DataError, match="is no file in the folder"):
        open_network(path)[0].layer
    assert os.listdir(tmp_path) == ["net.onnx"]
