"""RNN against the golden files, which torch wrote (golden/make_golden.py): to 1e-12 relative, without torch."""

import json
from pathlib import Path

import numpy as np
import pytest

from rnn_numpy import RNN, SGD, Linear, Parameters, mse_loss
from rnn_numpy.checks import assert_grad_close

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("rnn_*.npz"))
RTOL = 1e-12


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def test_the_golden_files_are_there():
    assert len(NAMES) == 10
    for name in [*NAMES, "training"]:
        assert json.loads(str(load(name)["versions"]))["torch"].startswith("2.13")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients(name):
    golden = load(name)
    (H, D), options = golden["param.weight_ih_l0"].shape, json.loads(str(golden["options"]))
    rnn = RNN(D, H, **options)
    rnn.load_state_dict({key[6:]: array for key, array in golden.items() if key.startswith("param.")})
    output, h_n, trace = rnn.forward(golden["x"], golden["h_0"], golden.get("lengths"))
    back = rnn.backward(trace, golden["doutput"], golden["dh_n"])
    found = {"output": output, "h_n": h_n, "dx": back.dx, "dh_0": back.dh_0}
    found |= {f"grad.{key}": array for key, array in back.grads.items()}
    assert set(found) == {key for key in golden if key.startswith("grad.")} | {"output", "h_n", "dx", "dh_0"}
    for key, array in found.items():
        assert_grad_close(key, array, golden[key], RTOL)


def test_ten_training_steps():
    golden = load("training")
    rnn, readout = RNN(1, 5), Linear(5, 1)
    for prefix, layer in (("rnn", rnn), ("readout", readout)):
        for key, array in layer.params.items():
            array[...] = golden[f"{prefix}.{key}"]
    params = Parameters.join({"rnn": rnn.params, "readout": readout.params})
    optimizer = SGD(params, 0.05, momentum=0.9)
    losses = []
    for _ in range(10):
        grads = params.zeros_like()
        output, _, trace = rnn.forward(golden["signal"][:-1])
        prediction, linear_trace = readout.forward(output)
        loss, dprediction = mse_loss(prediction, golden["signal"][1:])
        losses.append(loss)
        doutput = readout.backward(linear_trace, dprediction, grads.part("readout")).dx
        rnn.backward(trace, doutput, grads=grads.part("rnn"))
        optimizer.step(grads)
    assert losses[-1] < losses[0]
    assert_grad_close("losses", losses, golden["losses"], RTOL)
