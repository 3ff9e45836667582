"""torch, Keras, JAX, ONNX and ONNX Runtime for tests, each imported by the test that first uses it.

`from frameworks import torch` costs nothing; `torch.tensor` imports it. So a worker that runs no test of torch does not
load it, and the tests of everything else run where it is not installed. A test that uses one of `MARKED` bears the
marker of that name, `needs_torch`, by which it is left out there, with `-m "not needs_torch"` and in no other way;
without the marker its first use fails, torch installed or not.
"""

import importlib
import os

import pytest

# Large, and not there for every version of Python as soon as NumPy is.
MARKED = ("torch", "keras", "jax", "onnxruntime")

# The markers of the test that runs; tests/conftest.py keeps it.
markers = set()

# Read when keras is imported.
os.environ.setdefault("KERAS_BACKEND", "torch")


class Later:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name):
        self.__name__ = name

    def __getattr__(self, attribute):
        if attribute.startswith("__"):  # asked by whoever collects and introspects
            raise AttributeError(attribute)
        library = self.__name__.partition(".")[0]
        if library in MARKED and f"needs_{library}" not in markers:
            raise AssertionError(
                f"{self.__name__}.{attribute}: only a test that bears @pytest.mark.needs_{library} may use {library}"
            )
        return getattr(importlib.import_module(self.__name__), attribute)


def marked(*names, **libraries):
    """Return names as parameters, with the marker of the library that is called so, or that `libraries` gives."""
    marks = {name: [getattr(pytest.mark, f"needs_{name}")] for name in MARKED}
    marks |= {name: marks[library] for name, library in libraries.items()}
    return [pytest.param(name, marks=marks.get(name, [])) for name in names]


torch = Later("torch")
torch_rnn = Later("torch.nn.utils.rnn")
torch_prune = Later("torch.nn.utils.prune")
keras = Later("keras")
h5py = Later("h5py")
onnx = Later("onnx")
onnx_helper = Later("onnx.helper")
onnx_reference = Later("onnx.reference")
onnxruntime = Later("onnxruntime")
