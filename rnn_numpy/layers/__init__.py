"""The layers: the formulas of each cell, what they start from, and the losses."""

from rnn_numpy.layers.attention import Attending
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.layers.attention_layer import Attention
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.initializers import (
    chrono,
    identity,
    initialize,
    irnn,
    normal,
    orthogonal,
    set_forget_bias,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss, mse_loss
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.one_step import GRUCell, LSTMCell, RNNCell, StepBackwardResult, StepCell
from rnn_numpy.layers.peephole import PeepholeLSTM
from rnn_numpy.layers.rnn import RNN

__all__ = [
    "GRU", "KINDS", "LSTM", "RNN", "Attending", "Attention", "AttentionDecoder", "Embedding", "GRUCell", "LSTMCell",
    "LayerNormLSTM", "Linear", "PeepholeLSTM", "RNNCell", "StepBackwardResult", "StepCell", "chrono",
    "cross_entropy_loss", "identity", "initialize", "irnn", "mse_loss", "normal", "orthogonal", "set_forget_bias",
    "uniform", "xavier_normal", "xavier_uniform",
]  # fmt: skip
