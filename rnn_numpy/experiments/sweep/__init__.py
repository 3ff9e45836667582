"""Sweeps: a function at all points of a grid, in processes of its own or elsewhere, kept point by point."""

from rnn_numpy.experiments.sweep.sweeps import (
    SweepResult,
    sweep,
)
from rnn_numpy.experiments.sweep.threads import (
    one_blas_thread,
)

__all__ = [
    "SweepResult",
    "one_blas_thread",
    "sweep",
]
