"""The layers: formulas of each cell, and the one driver that runs them through time."""

from rnn_numpy.layers.cell import Cell, Extra
from rnn_numpy.layers.cells import GRUCell, LSTMCell, RNNCell, StepBackwardResult, StepCell
from rnn_numpy.layers.gru import GRU, ResetDifference, reset_difference
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss, mse_loss
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.recurrent import BackwardResult, BackwardSteps, Recurrent
from rnn_numpy.layers.rnn import RNN
from rnn_numpy.layers.tangent import TangentResult, jvp
from rnn_numpy.layers.variants import LayerNormLSTM, PeepholeLSTM

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BackwardResult",
    "BackwardSteps",
    "Cell",
    "Extra",
    "GRUCell",
    "LSTMCell",
    "LayerNormLSTM",
    "Linear",
    "PeepholeLSTM",
    "RNNCell",
    "Recurrent",
    "ResetDifference",
    "StepBackwardResult",
    "StepCell",
    "TangentResult",
    "cross_entropy_loss",
    "jvp",
    "mse_loss",
    "reset_difference",
]
