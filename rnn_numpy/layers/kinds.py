"""The recurrent layers by name: what a command line, a table or a model names them by, and how each is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.peephole import PeepholeLSTM
from rnn_numpy.layers.rnn import RNN

# Each takes input_size and hidden_size, and then the layer's options.
KINDS: Mapping[str, Callable[..., Recurrent]] = {
    "rnn-tanh": RNN,
    "rnn-relu": functools.partial(RNN, nonlinearity="relu"),
    "lstm": LSTM,
    "gru": GRU,
    "gru-before": functools.partial(GRU, reset="before"),
    "peephole": PeepholeLSTM,
    "layernorm": LayerNormLSTM,
}
