"""Models: layers put together, with one flat vector of parameters."""

from rnn_numpy.models.forecaster import Forecaster

__all__ = ["Forecaster"]
