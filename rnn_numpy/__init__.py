"""Recurrent networks written out by hand in NumPy, forward and backward, with no autograd.

Every gradient can be stepped through in a debugger (`RNN.backward_steps`), is checked against independent references,
and is computed by the same loop that trains.
"""

from rnn_numpy.core import (
    LayerTrace,
    PackedSequence,
    Parameters,
    Step,
    Trace,
    chrono,
    initialize,
    irnn,
    orthogonal,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    set_forget_bias,
    unpack_sequence,
    unpad_sequence,
)
from rnn_numpy.layers import (
    GRU,
    LSTM,
    RNN,
    Cell,
    Extra,
    GRUCell,
    LayerNormLSTM,
    Linear,
    LSTMCell,
    PeepholeLSTM,
    Recurrent,
    RNNCell,
    cross_entropy_loss,
    mse_loss,
    reset_difference,
)
from rnn_numpy.models import Forecaster
from rnn_numpy.training import SGD, ClipResult, clip_grad_norm, clip_grad_value

__version__ = "0.2.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Cell",
    "ClipResult",
    "Extra",
    "Forecaster",
    "GRUCell",
    "LSTMCell",
    "LayerNormLSTM",
    "LayerTrace",
    "Linear",
    "PackedSequence",
    "Parameters",
    "PeepholeLSTM",
    "RNNCell",
    "Recurrent",
    "Step",
    "Trace",
    "chrono",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy_loss",
    "initialize",
    "irnn",
    "mse_loss",
    "orthogonal",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "reset_difference",
    "set_forget_bias",
    "unpack_sequence",
    "unpad_sequence",
]
