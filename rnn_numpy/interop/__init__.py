"""Weights in and out: files, torch, Keras and ONNX.

Every conversion runs both sides on a small input before it hands anything out, compares outputs and final states, and
refuses what cannot be carried over without loss, with the reason (`ConversionError`). That is the layer and the other
library's own, or where weights are converted without that library, a plain loop over its equations. A weight that is
NaN or infinite is a NonFiniteError, another kind of object a DTypeError, an array that does not fit a ShapeError. What
is given is not changed, and weights are copied. torch, Keras, onnx and safetensors are imported where they are used;
MissingExtraError says that one is not installed.
"""

from rnn_numpy.core.storage import load_npz, load_safetensors, save_npz, save_safetensors
from rnn_numpy.interop.conventions import CONVENTIONS, Convention, from_arrays, to_arrays
from rnn_numpy.interop.keras import from_keras, from_keras_weights, to_keras, to_keras_weights
from rnn_numpy.interop.network import FoundLayer, Network, one_direction
from rnn_numpy.interop.onnx import OnnxNode, from_onnx, to_onnx, to_onnx_model
from rnn_numpy.interop.open import open_network
from rnn_numpy.interop.torch import from_torch, to_torch

__all__ = [
    "CONVENTIONS", "Convention", "FoundLayer", "Network", "OnnxNode", "from_arrays", "from_keras", "from_keras_weights",
    "from_onnx", "from_torch", "load_npz", "load_safetensors", "one_direction", "open_network", "save_npz",
    "save_safetensors", "to_arrays", "to_keras", "to_keras_weights", "to_onnx", "to_onnx_model", "to_torch",
]  # fmt: skip
