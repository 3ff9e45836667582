"""Tasks to train networks on: memory, dynamical systems, real series to forecast; and the baselines to beat."""

from rnn_numpy.tasks.bundled import BUNDLED, load_bundled, load_series
from rnn_numpy.tasks.dates import DateFormats
from rnn_numpy.tasks.digit_captions import CaptionBatch, DigitCaptions, Scenes, windows
from rnn_numpy.tasks.dynamics import NARMA10, MackeyGlass, linear_baseline, mackey_glass, narma10
from rnn_numpy.tasks.files import Reading, read_csv, read_npy
from rnn_numpy.tasks.forecasting import (
    AutoRegression,
    Score,
    SplitSeries,
    autoregressions,
    baselines,
    rolling_origins,
    score,
    seasonal_naive,
)
from rnn_numpy.tasks.g2p import CMUDict
from rnn_numpy.tasks.pairs import PairBatch, Pairs, PairScore, PairTask, SymbolVocabulary, edit_distance, padded
from rnn_numpy.tasks.recall import Adding, CopyMemory, Parity, TemporalOrder
from rnn_numpy.tasks.roman import RomanNumerals
from rnn_numpy.tasks.rules import Rules
from rnn_numpy.tasks.series import ForecastTask, Series
from rnn_numpy.tasks.task import Batch, SequenceTask
from rnn_numpy.tasks.text import Vocabulary, load_text

__all__ = [
    "BUNDLED",
    "NARMA10",
    "Adding",
    "AutoRegression",
    "Batch",
    "CMUDict",
    "CaptionBatch",
    "CopyMemory",
    "DateFormats",
    "DigitCaptions",
    "ForecastTask",
    "MackeyGlass",
    "PairBatch",
    "PairScore",
    "PairTask",
    "Pairs",
    "Parity",
    "Reading",
    "RomanNumerals",
    "Rules",
    "Scenes",
    "Score",
    "SequenceTask",
    "Series",
    "SplitSeries",
    "SymbolVocabulary",
    "TemporalOrder",
    "Vocabulary",
    "autoregressions",
    "baselines",
    "edit_distance",
    "linear_baseline",
    "load_bundled",
    "load_series",
    "load_text",
    "mackey_glass",
    "narma10",
    "padded",
    "read_csv",
    "read_npy",
    "rolling_origins",
    "score",
    "seasonal_naive",
    "windows",
]  # fmt: skip
