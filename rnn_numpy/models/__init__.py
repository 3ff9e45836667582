"""Models: layers put together, with one flat vector of parameters."""

from rnn_numpy.models.horizons import STRATEGIES, forecast, horizon_batch, horizon_model
from rnn_numpy.models.language import LanguageModel
from rnn_numpy.models.model import Model
from rnn_numpy.models.rollout import Rollout
from rnn_numpy.models.seq2seq_forecaster import Seq2SeqForecaster
from rnn_numpy.models.sequence import Forecaster, SequenceModel

__all__ = [
    "STRATEGIES", "Forecaster", "LanguageModel", "Model", "Rollout", "Seq2SeqForecaster", "SequenceModel", "forecast",
    "horizon_batch", "horizon_model",
]  # fmt: skip
