"""Reports: what was measured, in words, tables and figures.

Needs the lab extra for tables (rich) and figures (matplotlib); both are imported where they are used.
"""

from rnn_numpy.report.diagnosis import (
    GradientDiagnosis,
    diagnose,
)
from rnn_numpy.report.gradflow import (
    gradflow_report,
)
from rnn_numpy.report.plots import (
    benchmark_figure,
    gradient_flow_figure,
    plot_angles,
    plot_bifurcation,
    plot_cliff,
    plot_clip_directions,
    plot_clip_ledger,
    plot_flows,
    plot_gate_bands,
    plot_gate_image,
    plot_gradient_flow,
    plot_lag_profile,
    plot_learning,
    plot_norms,
    plot_shares,
    plot_singular_histogram,
    plot_singular_values,
    plot_spectrum,
    save_figure,
)
from rnn_numpy.report.task_benchmark import (
    benchmark_report,
)

__all__ = [
    "GradientDiagnosis",
    "benchmark_figure",
    "benchmark_report",
    "diagnose",
    "gradflow_report",
    "gradient_flow_figure",
    "plot_angles",
    "plot_bifurcation",
    "plot_cliff",
    "plot_clip_directions",
    "plot_clip_ledger",
    "plot_flows",
    "plot_gate_bands",
    "plot_gate_image",
    "plot_gradient_flow",
    "plot_lag_profile",
    "plot_learning",
    "plot_norms",
    "plot_shares",
    "plot_singular_histogram",
    "plot_singular_values",
    "plot_spectrum",
    "save_figure",
]
