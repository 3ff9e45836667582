"""Models: layers put together, with one flat vector of parameters."""

from rnn_numpy.models.model import Model
from rnn_numpy.models.sequence import Forecaster, SequenceModel

__all__ = ["Forecaster", "Model", "SequenceModel"]
