"""The layers against the golden files, which torch wrote (golden/make_golden.py): to 1e-12 relative, without torch."""

import json
from pathlib import Path

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, SGD, Linear, Parameters, mse_loss
from rnn_numpy.checks import assert_grad_close

FOLDER = Path(__file__).parent / "golden"
KINDS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz") if path.stem != "training")
RTOL = 1e-12


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def test_the_golden_files_are_there():
    counts = {kind: sum(name.partition("_")[0] == kind for name in NAMES) for kind in KINDS}
    assert counts == {"rnn": 10, "lstm": 7, "gru": 5} and len(NAMES) == 22
    for name in [*NAMES, "training"]:
        assert json.loads(str(load(name)["versions"]))["torch"].startswith("2.13")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients(name):
    golden = load(name)
    kind, options = KINDS[name.partition("_")[0]], json.loads(str(golden["options"]))
    rows, D = golden["param.weight_ih_l0"].shape
    rnn = kind(D, rows // {RNN: 1, LSTM: 4, GRU: 3}[kind], **options)
    rnn.load_state_dict({key[6:]: array for key, array in golden.items() if key.startswith("param.")})
    letters = "hc" if kind is LSTM else "h"
    h_0, dh_n = (tuple(golden[form.format(s)] for s in letters) for form in ("{}_0", "d{}_n"))
    output, h_n, trace = rnn.forward(golden["x"], h_0 if kind is LSTM else h_0[0], golden.get("lengths"))
    back = rnn.backward(trace, golden["doutput"], dh_n if kind is LSTM else dh_n[0])
    found = {"output": output, "dx": back.dx}
    for s, state in zip(letters, h_n if kind is LSTM else (h_n,), strict=True):
        found |= {f"{s}_n": state, f"d{s}_0": getattr(back, f"d{s}_0")}
    found |= {f"grad.{key}": array for key, array in back.grads.items()}
    given = {"x", "doutput", "lengths", "options", "versions"}
    given |= {name for s in letters for name in (f"{s}_0", f"d{s}_n")}
    assert set(found) == {key for key in golden if not key.startswith("param.")} - given
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
