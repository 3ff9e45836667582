"""Models: layers put together, with one flat vector of parameters."""

from rnn_numpy.models.forecaster import Forecaster
from rnn_numpy.models.sequence import SequenceModel

__all__ = ["Forecaster", "SequenceModel"]
