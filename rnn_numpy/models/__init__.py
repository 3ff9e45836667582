"""Models: layers put together, with one flat vector of parameters."""

from rnn_numpy.models.beam_search import beam_search
from rnn_numpy.models.bridge import Bridge
from rnn_numpy.models.captioner import Captioner
from rnn_numpy.models.decoding import decode_forced, decode_greedy, decode_sample
from rnn_numpy.models.encoder_decoder import EncoderDecoder
from rnn_numpy.models.horizons import STRATEGIES, forecast, horizon_batch, horizon_model
from rnn_numpy.models.language import LanguageModel
from rnn_numpy.models.model import Model
from rnn_numpy.models.rollout import Rollout
from rnn_numpy.models.scheduled_sampling import (
    ExponentialDecay,
    InverseSigmoidDecay,
    LinearDecay,
    ScheduledSampling,
)
from rnn_numpy.models.search_errors import SearchErrors, search_errors
from rnn_numpy.models.sentences import Hypothesis, TokenModel, TokenState
from rnn_numpy.models.seq2seq_forecaster import Seq2SeqForecaster
from rnn_numpy.models.sequence import Forecaster, SequenceModel

__all__ = [
    "STRATEGIES", "Bridge", "Captioner", "EncoderDecoder", "ExponentialDecay", "Forecaster", "Hypothesis",
    "InverseSigmoidDecay", "LanguageModel", "LinearDecay", "Model", "Rollout", "ScheduledSampling", "SearchErrors",
    "Seq2SeqForecaster", "SequenceModel", "TokenModel", "TokenState", "beam_search", "decode_forced",
    "decode_greedy", "decode_sample", "forecast", "horizon_batch", "horizon_model", "search_errors",
]  # fmt: skip
