"""What tf2onnx makes of Keras' recurrent layers that become a Loop: small models of random weights, and their outputs.

    KERAS_BACKEND=tensorflow python tests/interop/golden/make_keras_loops.py

Needs TensorFlow, Keras and tf2onnx; the versions that made keras_loops.npz are in it.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow
import tf2onnx

T, N, D, H = 6, 3, 3, 4
L = keras.layers
NETWORKS = {
    "masked LSTM": (True, [L.LSTM(H, return_sequences=True), L.LSTM(H, return_sequences=True)]),
    "GRU": (False, [L.GRU(H, return_sequences=True)]),
    "GRU, reset before": (False, [L.GRU(H, return_sequences=True, reset_after=False)]),
    "hard GRU": (False, [L.GRU(H, return_sequences=True, recurrent_activation="hard_sigmoid", activation="softsign")]),
    "masked bidirectional GRU": (True, [L.Bidirectional(L.GRU(H, return_sequences=True)) for _ in range(2)]),
    "bidirectional RNN": (False, [L.Bidirectional(L.SimpleRNN(H, return_sequences=True, activation="relu"))]),
}

rng = np.random.default_rng(0)
x = rng.normal(size=(N, T, D)).astype(np.float32)
x[1, 4:], x[2, 2:] = 0, 0  # what a mask leaves out: lengths 6, 4, 2
found = {"x": x, "versions": np.array([tensorflow.__version__, keras.__version__, tf2onnx.__version__])}
for name, (masked, layers) in NETWORKS.items():
    signal = begin = L.Input((T, D))
    for layer in ([L.Masking()] if masked else []) + layers:
        signal = layer(signal)
    inner = keras.Model(begin, signal)
    for weight in inner.weights:
        weight.assign(0.5 * rng.normal(size=weight.shape))
    # An output of another kind, or the last Loop would be the end of the graph.
    whole = keras.Model(begin, L.Dense(2)(signal))
    whole(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        whole.export(path, format="onnx", verbose=False)
        found[f"{name}|onnx"] = np.frombuffer(path.read_bytes(), np.uint8)
    found[f"{name}|y"] = inner(x).numpy()
np.savez_compressed(Path(__file__).with_name("keras_loops.npz"), **found)
print(Path(__file__).with_name("keras_loops.npz").stat().st_size)
