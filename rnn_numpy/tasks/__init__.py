"""What networks are trained on: real series, ready to forecast, and the baselines that a network has to beat."""

from rnn_numpy.tasks.series import (
    BUNDLED,
    ForecastTask,
    Series,
    load_bundled,
    load_series,
    read_csv,
    read_npy,
)

__all__ = [
    "BUNDLED",
    "ForecastTask",
    "Series",
    "load_bundled",
    "load_series",
    "read_csv",
    "read_npy",
]
