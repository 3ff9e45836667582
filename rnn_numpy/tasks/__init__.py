"""Tasks to train networks on: memory, dynamical systems, real series to forecast; and the baselines to beat."""

from rnn_numpy.tasks.dynamics import NARMA10, MackeyGlass, linear_baseline, mackey_glass, narma10
from rnn_numpy.tasks.recall import Adding, CopyMemory, Parity, TemporalOrder
from rnn_numpy.tasks.series import BUNDLED, ForecastTask, Series, load_bundled, load_series, read_csv, read_npy
from rnn_numpy.tasks.task import Batch, SequenceTask

__all__ = [
    "BUNDLED", "NARMA10", "Adding", "Batch", "CopyMemory", "ForecastTask", "MackeyGlass", "Parity",
    "SequenceTask", "Series", "TemporalOrder", "linear_baseline", "load_bundled", "load_series", "mackey_glass",
    "narma10", "read_csv", "read_npy",
]  # fmt: skip
