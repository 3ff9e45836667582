"""The lab: how gradients behave over time, measured, put into words, and drawn.

Needs the lab extra for tables (rich) and figures (matplotlib); both are imported where they are used. Measuring needs
neither.
"""

from rnn_numpy.lab.benchmark import BenchmarkOptions, BenchmarkResult, BenchmarkRun, run_benchmark, task_gradient_flow
from rnn_numpy.lab.benchmark_report import benchmark_report
from rnn_numpy.lab.decomposition import Decomposition, PathSplit, Truncation, decompose
from rnn_numpy.lab.diagnosis import GradientDiagnosis, LayerDiagnosis, diagnose
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
from rnn_numpy.lab.lyapunov import CovariantVectors, LyapunovSpectrum, covariant_vectors, lyapunov
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
from rnn_numpy.lab.plots_spectra import plot_angles, plot_singular_values, plot_spectrum
from rnn_numpy.lab.progress import progress_bar
from rnn_numpy.lab.regularisers import Flossing, Omega, floss, floss_value, gram_schmidt, omega
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
    "CovariantVectors",
    "Decomposition",
    "Descent",
    "Flossing",
    "GateReport",
    "GateSummary",
    "GradflowOptions",
    "GradflowResult",
    "GradientDiagnosis",
    "GradientFlow",
    "LayerDiagnosis",
    "LyapunovSpectrum",
    "MeanField",
    "NetworkResult",
    "Omega",
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
    "covariant_vectors",
    "critical_input_variance",
    "decompose",
    "descend",
    "diagnose",
    "effective_memory",
    "expectations",
    "floss",
    "floss_value",
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
    "gram_schmidt",
    "jacobian",
    "lyapunov",
    "meanfield",
    "omega",
    "one_blas_thread",
    "plot_angles",
    "plot_bifurcation",
    "plot_cliff",
    "plot_gate_bands",
    "plot_gate_image",
    "plot_gradient_flow",
    "plot_lag_profile",
    "plot_norms",
    "plot_shares",
    "plot_singular_values",
    "plot_spectrum",
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
