"""Recurrent networks written out by hand in NumPy, forward and backward, with no autograd.

Every gradient can be stepped through in a debugger (`RNN.backward_steps`), is checked against independent references,
and is computed by the same loop that trains.

The rooms (`rnn_numpy.checks`, `rnn_numpy.lab`, ...), `gradcheck`, `decompose` and `open_network` are loaded when they
are first used.
"""

import importlib
from typing import TYPE_CHECKING

from rnn_numpy.core import PackedSequence, Parameters, pack_padded_sequence, pad_packed_sequence
from rnn_numpy.engine import Cell, Recurrent, Step, Trace
from rnn_numpy.layers import (
    GRU,
    LSTM,
    RNN,
    Embedding,
    GRUCell,
    LayerNormLSTM,
    Linear,
    LSTMCell,
    PeepholeLSTM,
    RNNCell,
    chrono,
    cross_entropy_loss,
    initialize,
    irnn,
    mse_loss,
    orthogonal,
    set_forget_bias,
)
from rnn_numpy.models import Forecaster, SequenceModel
from rnn_numpy.training import (
    SGD,
    Adam,
    AdamW,
    ClipLedger,
    backward_clipped,
    clip_grad_adaptive,
    clip_grad_norm,
    clip_grad_norm_per_layer,
    clip_grad_value,
)

if TYPE_CHECKING:
    from rnn_numpy import checks as checks
    from rnn_numpy import debug as debug
    from rnn_numpy import experiments as experiments
    from rnn_numpy import interop as interop
    from rnn_numpy import lab as lab
    from rnn_numpy import report as report
    from rnn_numpy import tasks as tasks
    from rnn_numpy import zoo as zoo
    from rnn_numpy.checks import gradcheck
    from rnn_numpy.interop import open_network
    from rnn_numpy.lab import decompose

__version__ = "0.3.0"

__all__ = [
    "GRU", "LSTM", "RNN", "SGD", "Adam", "AdamW", "Cell", "ClipLedger", "Embedding", "Forecaster", "GRUCell",
    "LSTMCell", "LayerNormLSTM", "Linear", "PackedSequence", "Parameters", "PeepholeLSTM", "RNNCell",
    "Recurrent", "SequenceModel", "Step", "Trace", "backward_clipped", "chrono", "clip_grad_adaptive",
    "clip_grad_norm", "clip_grad_norm_per_layer", "clip_grad_value", "cross_entropy_loss", "decompose",
    "gradcheck", "initialize", "irnn", "mse_loss", "open_network", "orthogonal", "pack_padded_sequence",
    "pad_packed_sequence", "set_forget_bias",
]  # fmt: skip

_ROOMS = ("checks", "debug", "experiments", "interop", "lab", "report", "tasks", "zoo")
_LATER = {"gradcheck": "rnn_numpy.checks", "decompose": "rnn_numpy.lab", "open_network": "rnn_numpy.interop"}

if not TYPE_CHECKING:  # a type checker would take every name for one of the package's

    def __getattr__(name):
        """Load a room, or one of `_LATER`, when it is first asked for."""
        if name in _ROOMS:
            return importlib.import_module(f"rnn_numpy.{name}")
        if name in _LATER:
            return globals().setdefault(name, getattr(importlib.import_module(_LATER[name]), name))
        raise AttributeError(f"module 'rnn_numpy' has no attribute {name!r}")

    def __dir__():
        """Return the names that are there, and those that come when they are used."""
        return sorted({*globals(), *_ROOMS, *_LATER})
