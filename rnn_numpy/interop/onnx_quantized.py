"""ONNX Runtime's DynamicQuantizeLSTM, rounding included: inference alone, in plain NumPy.

Weights are whole numbers of 8 bits times a scale. What they are multiplied with is rounded to 8 bits as well: the whole
input at once, and h at each step, by one scale and one zero for all numbers in it. So what a sequence gives depends on
the others of its batch; and on the number of threads, since ONNX Runtime gives each thread some of the sequences, which
then share the rounding of h. `rows` says how many: N / threads, rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.interop.common import sigmoid

Array = NDArray[Any]


def rounded(array: Array) -> tuple[Array, np.float32]:
    """Return whole numbers and a scale, whose product is the array but for rounding to 8 bits, 0 exactly."""
    low, high = np.float32(min(0.0, array.min(initial=0))), np.float32(max(0.0, array.max(initial=0)))
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero = np.rint(np.clip(-low / scale, 0, 255))
    return (np.clip(np.rint(array / scale) + zero, 0, 255) - zero).astype(np.int32), scale


def quantized_output(layers: Sequence[Mapping[str, Array]], x: ArrayLike, rows: int | None = None) -> Array:
    """Return the output of layers of DynamicQuantizeLSTM, (T, N, directions H), from initial states of 0.

    Parameters
    ----------
    layers : sequence of mapping
        W (directions, D, 4 H) and R (directions, H, 4 H), whole numbers with their zero points taken off; W_scale and
        R_scale, (directions, 1 or 4 H); B (directions, 8 H), where there is one.
    x : ndarray, (T, N, D)
        float32.
    rows : int, optional
        How many sequences share the rounding of h; all where left out, as with one thread.
    """
    signal = arguments.array_of("emulate", "x", x, np.dtype(np.float32))
    N = signal.shape[1]
    rows = max(N, 1) if rows is None else arguments.positive_int("emulate", "rows", rows)
    for own in layers:
        W, R, H = own["W"], own["R"], own["R"].shape[1]
        outputs = []
        for k in range(len(W)):
            seen = signal[::-1] if k else signal
            whole, scale = rounded(seen)
            a_x = (whole @ W[k]).astype(np.float32) * (scale * own["W_scale"][k])
            bias = own["B"][k].reshape(2, -1) if "B" in own else np.zeros((2, 4 * H), np.float32)
            h = c = np.zeros((N, H), np.float32)
            hidden = []
            for t in range(len(seen)):
                parts = []
                for start in range(0, N, rows):
                    part, scale = rounded(h[start : start + rows])
                    parts.append((part @ R[k]).astype(np.float32) * (scale * own["R_scale"][k]))
                i, o, f, g = np.split(a_x[t] + np.concatenate(parts) + bias[0] + bias[1], 4, axis=1)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = (sigmoid(o) * np.tanh(c)).astype(np.float32)
                hidden.append(h)
            outputs.append(np.stack(hidden[::-1] if k else hidden))
        signal = np.concatenate(outputs, axis=2)
    return signal
