"""The layers: formulas of each cell, and the one driver that runs them through time."""

from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss, mse_loss
from rnn_numpy.layers.recurrent import BackwardResult, BackwardSteps, Cell, Recurrent
from rnn_numpy.layers.rnn import RNN

__all__ = ["RNN", "BackwardResult", "BackwardSteps", "Cell", "Linear", "Recurrent", "cross_entropy_loss", "mse_loss"]
