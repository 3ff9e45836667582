"""The lab: how gradients behave over time, measured, put into words, and drawn.

Needs the lab extra for tables (rich) and figures (matplotlib); both are imported where they are used. Measuring needs
neither.
"""

from rnn_numpy.lab.benchmark import BenchmarkOptions, BenchmarkResult, BenchmarkRun, run_benchmark, task_gradient_flow
from rnn_numpy.lab.benchmark_report import benchmark_report
from rnn_numpy.lab.decomposition import Decomposition, PathSplit, Truncation, decompose
from rnn_numpy.lab.forward_mode import UoroResult, snap1, uoro
from rnn_numpy.lab.gates import (
    GateReport,
    GateSummary,
    bias_memory,
    effective_memory,
    gate_report,
    saturation,
    sech2,
    time_constant,
)
from rnn_numpy.lab.gradient_flow import (
    GradflowOptions,
    GradflowResult,
    GradientFlow,
    NetworkResult,
    TrainingRecord,
    forecast_gradient_flow,
    gradient_flow,
    run_gradflow,
    set_recurrent_weights,
)
from rnn_numpy.lab.jacobians import Bounds, StateJacobian, StateJacobians, jacobian, state_jacobians
from rnn_numpy.lab.landscape import (
    Bifurcation,
    Cliff,
    CliffGradient,
    Descent,
    bifurcation,
    cliff,
    cliff_gradient,
    cliff_line,
    descend,
    fold_points,
)
from rnn_numpy.lab.meanfield import (
    MeanField,
    critical_input_variance,
    expectations,
    fuss_catalan_edge,
    fuss_catalan_variance,
    gaussian_product_exponents,
    gaussian_product_spread,
    meanfield,
)
from rnn_numpy.lab.plots import (
    benchmark_figure,
    gradient_flow_figure,
    plot_bifurcation,
    plot_cliff,
    plot_gate_bands,
    plot_gate_image,
    plot_gradient_flow,
    save_figure,
)
from rnn_numpy.lab.plots_decomposition import plot_lag_profile, plot_norms, plot_shares, plot_singular_values
from rnn_numpy.lab.progress import progress_bar
from rnn_numpy.lab.report import gradflow_report
from rnn_numpy.lab.sweeps import SweepResult, sweep
from rnn_numpy.lab.threads import one_blas_thread

__all__ = [
    "BenchmarkOptions",
    "BenchmarkResult",
    "BenchmarkRun",
    "Bifurcation",
    "Bounds",
    "Cliff",
    "CliffGradient",
    "Decomposition",
    "Descent",
    "GateReport",
    "GateSummary",
    "GradflowOptions",
    "GradflowResult",
    "GradientFlow",
    "MeanField",
    "NetworkResult",
    "PathSplit",
    "StateJacobian",
    "StateJacobians",
    "SweepResult",
    "TrainingRecord",
    "Truncation",
    "UoroResult",
    "benchmark_figure",
    "benchmark_report",
    "bias_memory",
    "bifurcation",
    "cliff",
    "cliff_gradient",
    "cliff_line",
    "critical_input_variance",
    "decompose",
    "descend",
    "effective_memory",
    "expectations",
    "fold_points",
    "forecast_gradient_flow",
    "fuss_catalan_edge",
    "fuss_catalan_variance",
    "gate_report",
    "gaussian_product_exponents",
    "gaussian_product_spread",
    "gradflow_report",
    "gradient_flow",
    "gradient_flow_figure",
    "jacobian",
    "meanfield",
    "one_blas_thread",
    "plot_bifurcation",
    "plot_cliff",
    "plot_gate_bands",
    "plot_gate_image",
    "plot_gradient_flow",
    "plot_lag_profile",
    "plot_norms",
    "plot_shares",
    "plot_singular_values",
    "progress_bar",
    "run_benchmark",
    "run_gradflow",
    "saturation",
    "save_figure",
    "sech2",
    "set_recurrent_weights",
    "snap1",
    "state_jacobians",
    "sweep",
    "task_gradient_flow",
    "time_constant",
    "uoro",
]
