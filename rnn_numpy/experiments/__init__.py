"""Experiments: many networks compared, in one process or in many, with results that are kept."""

from rnn_numpy.experiments.experiment import (
    Experiment,
    Interrupted,
    Planned,
    Run,
    open_experiment,
    run_experiment,
)
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
    "BenchmarkOptions", "BenchmarkResult", "BenchmarkRun", "Experiment", "GradflowOptions", "GradflowResult",
    "Interrupted", "NetworkResult", "Planned", "Run", "SweepResult", "TrainingRecord", "open_experiment",
    "run_benchmark", "run_experiment", "run_gradflow", "sweep", "task_gradient_flow",
]  # fmt: skip
