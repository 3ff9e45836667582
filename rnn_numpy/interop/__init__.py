"""Weights in and out: files, torch, Keras and ONNX.

Every conversion runs both sides on a small input before it hands anything out, and refuses what cannot be carried over
without loss, with the reason (`ConversionError`). torch, Keras, onnx and safetensors are imported where they are used.
"""

from rnn_numpy.core.storage import load_npz, load_safetensors, save_npz, save_safetensors
from rnn_numpy.interop.keras import from_keras, from_keras_weights, to_keras, to_keras_weights
from rnn_numpy.interop.onnx import OnnxNode, from_onnx, to_onnx, to_onnx_model
from rnn_numpy.interop.torch import from_torch, to_torch

__all__ = [
    "OnnxNode", "from_keras", "from_keras_weights", "from_onnx", "from_torch", "load_npz", "load_safetensors",
    "save_npz", "save_safetensors", "to_keras", "to_keras_weights", "to_onnx", "to_onnx_model", "to_torch",
]  # fmt: skip
