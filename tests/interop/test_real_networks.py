"""Pieces of trained networks, and what others compute with them; make_real_networks.py looks at the whole of each."""

from pathlib import Path

import numpy as np
import pytest
from frameworks import onnx, onnx_helper

from rnn_numpy import open_network
from rnn_numpy.checks import assert_grad_close, gradcheck
from rnn_numpy.errors import OptionError
from rnn_numpy.interop import from_arrays, save_npz
from rnn_numpy.interop.network import one_direction
from rnn_numpy.lab import gradient_flow
from rnn_numpy.report import diagnose

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "real_networks.npz") as file:
        return dict(file)


def test_silero_vad(arrays):
    # As its own exporter writes it: rows in torch's order, cut and joined in the graph.
    W, R, B = (arrays[f"silero_{letter}"] for letter in "WRB")
    made = [
        onnx_helper.make_node("Slice", [f"{letter}_torch", f"at{k}", f"at{k + 1}", "axis"], [f"{letter}{k}"])
        for letter in "WR"
        for k in range(4)
    ]
    for letter in "WR":  # i f g o to i o f g
        made.append(onnx_helper.make_node("Concat", [f"{letter}{k}" for k in (0, 3, 1, 2)], [letter], axis=1))
    made.append(onnx_helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], name="rnn", hidden_size=16))
    moved = [np.concatenate([array[:, k * 16 : (k + 1) * 16] for k in (0, 2, 3, 1)], axis=1) for array in (W, R)]
    weights = {"W_torch": moved[0], "R_torch": moved[1], "B": B, "axis": np.array([1])}
    weights |= {f"at{k}": np.array([16 * k]) for k in range(5)}
    values = [onnx_helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "XY"]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx_helper.make_graph(made, "g", values[:1], values[1:], tensors)
    model = onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 17)], ir_version=8)
    layer = open_network(model)["rnn"].layer
    assert np.abs(layer(arrays["silero_x"])[0] - arrays["silero_y"]).max() < 2e-6
    assert gradcheck(layer.astype(np.float64), arrays["silero_x"].astype(np.float64)).ok


def test_g2p(arrays, tmp_path):
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    save_npz(tmp_path / "checkpoint.npz", {f"enc_{name}": arrays[f"g2p_enc_{name}"] for name in names})
    layer = open_network(tmp_path / "checkpoint.npz")["enc"].layer
    assert_grad_close("output", layer(arrays["g2p_x"])[0], arrays["g2p_y"])
    assert len(from_arrays({name: arrays[f"g2p_enc_{name}"] for name in names})) == 1


def test_sleepecg(arrays):
    network = open_network(GOLDEN / "sleepecg.keras")
    assert network.names == ["bidirectional", "bidirectional_1"]
    assert [repr(found.layer) for found in network] == [
        f"GRU({size}, 8, batch_first=True, bidirectional=True, dtype=float32)" for size in (64, 16)
    ]
    signal = arrays["sleepecg_x"]
    for found in network:
        signal = found.layer(signal)[0]
    assert_grad_close("output", signal, arrays["sleepecg_y"])


# ------------------------------------------------------------------------------------------------ one direction


@pytest.mark.parametrize("reverse", [False, True])
def test_one_direction_of_a_trained_layer_in_the_lab(arrays, reverse):
    layer = open_network(GOLDEN / "sleepecg.keras")[0].layer
    before = layer.params.flat.copy()
    way = one_direction(layer, reverse=reverse)
    assert repr(way) == "GRU(64, 8, batch_first=True, dtype=float32)"
    x = arrays["sleepecg_x"]
    seen = np.ascontiguousarray(x[:, ::-1]) if reverse else x
    both, own = layer(x)[0], way(seen)[0]
    assert_grad_close("output", own[:, ::-1] if reverse else own, both[..., 8:] if reverse else both[..., :8])
    assert gradcheck(way.astype(np.float64), seen.astype(np.float64)).ok
    flow = gradient_flow(way, seen, np.ones((2, 8), np.float32))
    assert flow.norms.shape == (13, 2)
    assert "GRU(64, 8" in str(diagnose(way.astype(np.float64), seen.astype(np.float64)))
    way.params.flat[:] = 0
    assert (layer.params.flat == before).all()


def test_a_direction_that_is_not_there(arrays):
    way = one_direction(open_network(GOLDEN / "sleepecg.keras")[1].layer, index=0)
    with pytest.raises(OptionError, match="has no reverse direction"):
        one_direction(way, reverse=True)
