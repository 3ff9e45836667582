"""The lab: how gradients behave over time, measured, put into words, and drawn.

Needs the lab extra for tables (rich) and figures (matplotlib); both are imported where they are used. Measuring needs
neither.
"""

from rnn_numpy.lab.decomposition import Decomposition, PathSplit, Truncation, decompose
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
from rnn_numpy.lab.plots import gradient_flow_figure, plot_gradient_flow, save_figure
from rnn_numpy.lab.plots_decomposition import plot_lag_profile, plot_norms, plot_shares, plot_singular_values
from rnn_numpy.lab.report import gradflow_report
from rnn_numpy.lab.threads import one_blas_thread

__all__ = [
    "Bounds",
    "Decomposition",
    "GradflowOptions",
    "GradflowResult",
    "GradientFlow",
    "NetworkResult",
    "PathSplit",
    "StateJacobian",
    "StateJacobians",
    "TrainingRecord",
    "Truncation",
    "decompose",
    "forecast_gradient_flow",
    "gradflow_report",
    "gradient_flow",
    "gradient_flow_figure",
    "jacobian",
    "one_blas_thread",
    "plot_gradient_flow",
    "plot_lag_profile",
    "plot_norms",
    "plot_shares",
    "plot_singular_values",
    "run_gradflow",
    "save_figure",
    "set_recurrent_weights",
    "state_jacobians",
]
