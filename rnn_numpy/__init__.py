"""Recurrent networks written out by hand in NumPy, forward and backward, with no autograd.

Every gradient can be stepped through in a debugger (`RNN.backward_steps`), is checked against independent references,
and is computed by the same loop that trains.
"""

from rnn_numpy.core import LayerTrace, Parameters, Step, Trace
from rnn_numpy.layers import RNN, Linear, cross_entropy_loss, mse_loss
from rnn_numpy.models import Forecaster
from rnn_numpy.training import SGD, ClipResult, clip_grad_norm, clip_grad_value

__version__ = "0.1.0"

__all__ = [
    "RNN",
    "SGD",
    "ClipResult",
    "Forecaster",
    "LayerTrace",
    "Linear",
    "Parameters",
    "Step",
    "Trace",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy_loss",
    "mse_loss",
]
