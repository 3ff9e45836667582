"""Every attribute of ONNX's operators, as ONNX Runtime understands it, forward, and with gradients that hold."""

import itertools

import numpy as np
import pytest
from frameworks import onnx, onnx_helper, onnxruntime

from rnn_numpy import GRU, LSTM, RNN, PeepholeLSTM, open_network
from rnn_numpy.checks import assert_grad_close, gradcheck
from rnn_numpy.errors import ConversionError
from rnn_numpy.interop import from_onnx, to_onnx, to_onnx_model
from rnn_numpy.layers.general import Activation, GeneralGRU, GeneralLSTM, GeneralRNN

T, N, D, H = 5, 2, 3, 4
LAYERS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
WITH = {  # those that have coefficients, with some
    "Affine": (0.7, 0.2),
    "LeakyRelu": (0.1, None),
    "ThresholdedRelu": (0.3, None),
    "ScaledTanh": (1.5, 0.6),
    "HardSigmoid": (0.25, 0.4),
    "Elu": (0.8, None),
}
WITHOUT = ("Relu", "Softsign", "Softplus", "Tanh", "Sigmoid")


def node_of(op_type, bidirectional=False, peepholes=False, **attributes):
    node = to_onnx(LAYERS[op_type](D, H, bidirectional=bidirectional, dtype=np.float32, rng=0))
    weights = {"W": 2 * node.W, "R": 2 * node.R, "B": node.B}
    if peepholes:
        weights["P"] = np.random.default_rng(2).normal(size=(len(node.W), 3 * H)).astype(np.float32)
    attributes = node.attributes | attributes
    given = ["X", "W", "R", "B", *(["", "", "", "P"] if peepholes else [])]
    made = onnx_helper.make_node(op_type, given, ["Y"], name="node", **attributes)
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    floats = onnx.TensorProto.FLOAT
    x, y = (onnx_helper.make_tensor_value_info(name, floats, None) for name in "XY")
    graph = onnx_helper.make_graph([made], "g", [x], [y], tensors)
    return onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 17)], ir_version=8)


def same(model):
    """Compare with ONNX Runtime, check the gradients, and return the layer."""
    layer = open_network(model)[0].layer
    x = 2 * np.random.default_rng(1).normal(size=(T, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"X": x})[0]
    assert_grad_close("output", layer(x)[0], theirs.swapaxes(1, 2).reshape(T, N, -1))
    assert gradcheck(layer.astype(np.float64), x.astype(np.float64)).ok
    return layer


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("name", [*WITH, *WITHOUT])
def test_each_activation(name):
    alpha, beta = WITH.get(name, (None, None))
    coefficients = {"activation_alpha": [alpha]} if alpha is not None else {}
    coefficients |= {"activation_beta": [beta]} if beta is not None else {}
    layer = same(node_of("RNN", activations=[name], **coefficients))
    assert isinstance(layer, RNN if name in ("Relu", "Tanh") else GeneralRNN)


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize(
    ("name", "there"),
    [("ScaledTanh", np.zeros_like), ("Affine", np.zeros_like), ("ThresholdedRelu", lambda a: np.maximum(a, 0))],
)
def test_without_coefficients_onnx_runtime_computes_something_else(name, there):
    model = node_of("RNN", activations=[name])
    with pytest.raises(
        ConversionError, match=f"{name.lower()} needs alpha; without it, what runs such a network disagrees"
    ):
        open_network(model)[0].layer
    x = np.random.default_rng(1).normal(size=(1, N, D)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    W, _, B = (onnx.numpy_helper.to_array(one)[0] for one in model.graph.initializer)
    a = x[0] @ W.T + B[:H] + B[H:]
    assert_grad_close("Y", session.run(None, {"X": x})[0][0, 0], there(a))


@pytest.mark.needs_onnxruntime
def test_coefficients_go_to_those_that_have_them():
    names = ["HardSigmoid", "ScaledTanh", "Tanh"]
    same(node_of("LSTM", activations=names, activation_alpha=[0.3, 1.2], activation_beta=[0.4, 0.9]))
    names = ["Sigmoid", "LeakyRelu", "ScaledTanh"]
    layer = same(node_of("LSTM", activations=names, activation_alpha=[0.3, 1.2], activation_beta=[0.9]))
    assert [(one.name, one.alpha, one.beta) for one in layer.functions[:3]] == [
        ("sigmoid", None, None),
        ("leakyrelu", pytest.approx(0.3), None),
        ("scaledtanh", pytest.approx(1.2), pytest.approx(0.9)),
    ]


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize(("peepholes", "coupled", "clip"), list(itertools.product([False, True], [0, 1], [None, 0.5])))
def test_an_lstm_with_peepholes_coupled_gates_and_a_clip(peepholes, coupled, clip):
    attributes = {"input_forget": coupled} | ({} if clip is None else {"clip": clip})
    layer = same(node_of("LSTM", peepholes=peepholes, **attributes))
    plain = PeepholeLSTM if peepholes else LSTM
    assert type(layer) is (plain if clip is None and not coupled else GeneralLSTM)


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("after", [0, 1])
def test_a_gru_with_a_clip_and_other_activations(after):
    layer = same(node_of("GRU", clip=0.5, linear_before_reset=after))
    assert type(layer) is GeneralGRU
    same(node_of("GRU", activations=["HardSigmoid", "Softsign"], linear_before_reset=after))


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("op_type", LAYERS)
def test_both_directions_with_a_clip(op_type):
    layer = same(node_of(op_type, bidirectional=True, peepholes=op_type == "LSTM", clip=1.0))
    assert layer.bidirectional


def test_attributes_as_the_library_gives_them():
    node = to_onnx(LSTM(D, H, bidirectional=True, dtype=np.float32, rng=0))
    made = onnx_helper.make_node("LSTM", ["X"], ["Y"], activations=["Sigmoid", "Tanh", "Tanh"] * 2, **node.attributes)
    given = {one.name: onnx_helper.get_attribute_value(one) for one in made.attribute}
    assert given["direction"] == b"bidirectional"
    assert given["activations"][0] == b"Sigmoid"
    assert type(from_onnx(node.W, node.R, node.B, cell=made.op_type, **given)) is LSTM


# ------------------------------------------------------------------------------------------------ and back


OUT = {
    "peepholes": lambda **how: PeepholeLSTM(D, H, 2, **how),
    "coupled": lambda **how: GeneralLSTM(D, H, coupled=True, **how),
    "coupled with peepholes": lambda **how: GeneralLSTM(D, H, 2, coupled=True, peepholes=True, **how),
    "coupled by another function": lambda **how: GeneralLSTM(
        D, H, coupled=True, activations=["softsign", "tanh", "relu"], **how
    ),
    "hard": lambda **how: GeneralLSTM(D, H, activations=[Activation("hard_sigmoid", 0.25, 0.4), "tanh", "elu"], **how),
    "clipped": lambda **how: GeneralGRU(
        D, H, reset="before", activations=[Activation("sigmoid", clip=0.5), Activation("tanh", clip=0.5)], **how
    ),
    "plain": lambda **how: GeneralRNN(D, H, 2, activations=[Activation("tanh", clip=0.25)], **how),
    "scaled": lambda **how: GeneralRNN(D, H, activations=[Activation("scaled_tanh", 1.5, 0.6)], **how),
}


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize(("name", "bidirectional"), [(name, k % 2 == 1) for k, name in enumerate(OUT)])
def test_to_onnx_writes_what_attributes_can_say(tmp_path, name, bidirectional):
    layer = OUT[name](bidirectional=bidirectional, dtype=np.float32, rng=0)
    layer.params.flat[:] *= 2
    to_onnx_model(layer, tmp_path / "net.onnx", initial_state=True)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(T, N, D)).astype(np.float32)
    shape = (layer.num_layers * layer.num_directions, N, H)
    first = [rng.normal(size=shape).astype(np.float32) for _ in layer.cell.states]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    given = {f"{state}_0": array for state, array in zip(layer.cell.states, first, strict=True)}
    theirs = session.run(None, {"x": x, **given})
    output, finals = layer(x, tuple(first) if len(first) > 1 else first[0])
    for array, there in zip((output, *(finals if len(first) > 1 else (finals,))), theirs, strict=True):
        assert_grad_close(name, array, there)
    again = open_network(tmp_path / "net.onnx")[0].layer
    assert_grad_close("again", again(x, tuple(first) if len(first) > 1 else first[0])[0], output)


def test_what_weights_can_say_no_attribute_does():
    # Of an LSTM with f = 1 - i the rows of f are those of -i: openvino ignores input_forget.
    layer = GeneralLSTM(D, H, coupled=True, peepholes=True, rng=0)
    node = to_onnx(layer)
    assert node.attributes == {"hidden_size": H, "direction": "forward"}
    i, _, f, _ = np.split(node.W[0], 4)
    assert (f == -i).all()
    assert (node.P[0, 2 * H :] == -node.P[0, :H]).all()
    assert to_onnx(OUT["coupled by another function"]()).attributes["input_forget"] == 1
    even = GeneralLSTM(D, H, coupled=True, activations=["hard_sigmoid", "tanh", "tanh"], rng=0)
    assert "input_forget" not in to_onnx(even).attributes


def test_what_onnx_cannot_say_is_refused():
    layer = GeneralGRU(D, H, activations=[Activation("sigmoid", clip=1.0), "tanh"])
    with pytest.raises(ConversionError, match=r"to_onnx: ONNX has one clip for .*; the layer has \[1.0, None\]"):
        to_onnx(layer)
    layer = GeneralLSTM(D, H, activations=["sigmoid", "tanh", Activation("tanh", clip=1.0)])
    with pytest.raises(ConversionError, match="to_onnx: ONNX has one clip for the gates and the candidate, and none"):
        to_onnx(layer)
