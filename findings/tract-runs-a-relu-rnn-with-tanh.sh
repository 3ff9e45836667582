#!/bin/sh
# tract runs the ONNX operators RNN, LSTM and GRU with tanh and sigmoid, whatever activations they have; no clip either.
#
# One would guess: an attribute that a runtime does not have is refused, and activations=["Relu"] is what every exporter
# writes for torch's nn.RNN(nonlinearity="relu"). But tract runs such a network with tanh: it loads, runs, and gives the
# numbers of another one. clip, input_forget and the other activations are left out likewise, each without a word; P and
# linear_before_reset are heeded.
#
# Seen with tract 0.23.9 (Python package), onnxruntime 1.32.0, Python 3.11, Linux:
#     largest difference from ONNX Runtime
#     RNN                                      5.4e-07
#     RNN, activations=['Relu']                22
#         from the RNN with tanh               5.4e-07
#     LSTM, clip=0.3                           0.23
#         from the LSTM without it             0
#     LSTM, input_forget=1                     0.4
#         from that LSTM without it            0
#
# Fails if this changes. Needs: Python 3.11 to 3.13 as python3 (or PYTHON=...), pip, a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/look.py" <<'PYTHON'
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import helper

T, N, D, H = 5, 2, 3, 4
X = np.random.default_rng(0).normal(size=(T, N, D)).astype(np.float32)


def model(kind, **attributes):
    rng = np.random.default_rng(1)
    G = {"RNN": 1, "LSTM": 4}[kind]
    shapes = {"W": (1, G * H, D), "R": (1, G * H, H), "B": (1, 2 * G * H)}
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    node = helper.make_node(kind, ["X", "W", "R", "B"], ["Y"], hidden_size=H, **attributes)
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("X", [T, N, D]), ("Y", [T, 1, N, H]))
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def theirs(content):
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        return tract.onnx().load(file.name).into_model().into_runnable().run([X])[0].to_numpy()


def reference(content):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": X})[0]


def far(a, b):
    return float(np.abs(a - b).max())


print("tract", tract.version(), "onnxruntime", onnxruntime.__version__)
rnn, lstm = model("RNN"), model("LSTM")
relu, clipped, coupled = model("RNN", activations=["Relu"]), model("LSTM", clip=0.3), model("LSTM", input_forget=1)
found = {
    "RNN": far(theirs(rnn), reference(rnn)),
    "RNN, activations=['Relu']": far(theirs(relu), reference(relu)),
    "    from the RNN with tanh": far(theirs(relu), reference(rnn)),
    "LSTM, clip=0.3": far(theirs(clipped), reference(clipped)),
    "    from the LSTM without it": far(theirs(clipped), reference(lstm)),
    "LSTM, input_forget=1": far(theirs(coupled), reference(coupled)),
    "    from that LSTM without it": far(theirs(coupled), reference(lstm)),
}
print("largest difference from ONNX Runtime")
for what, number in found.items():
    print(f"{what:<40} {number:.2g}")
close = [number < 1e-5 for number in found.values()]
sys.exit(0 if close == [True, False, True, False, True, False, True] else 1)
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tract==0.23.9 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6
"$folder/venv/bin/python" -W ignore "$folder/look.py"
