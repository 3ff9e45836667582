"""Experiments: many networks compared, in one process or in many, with results that are kept."""

from rnn_numpy.experiments.gradflow import GradflowOptions, GradflowResult, NetworkResult, TrainingRecord, run_gradflow
from rnn_numpy.experiments.sweep import SweepResult, sweep
from rnn_numpy.experiments.task_benchmark import (
    BenchmarkOptions,
    BenchmarkResult,
    BenchmarkRun,
    run_benchmark,
    task_gradient_flow,
)

__all__ = [
    "BenchmarkOptions", "BenchmarkResult", "BenchmarkRun", "GradflowOptions", "GradflowResult",
    "NetworkResult", "SweepResult", "TrainingRecord", "run_benchmark", "run_gradflow", "sweep",
    "task_gradient_flow",
]  # fmt: skip
