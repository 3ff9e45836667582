"""A function computed at all points of a grid, in processes of its own or elsewhere, kept point by point."""

from rnn_numpy.experiments.sweep.sweeps import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
