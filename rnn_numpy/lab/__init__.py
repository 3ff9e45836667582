"""The lab: how gradients behave over time, measured, put into words, and drawn.

Needs the lab extra for tables (rich) and figures (matplotlib); both are imported where they are used. Measuring needs
neither.
"""

from rnn_numpy.lab.diagnosis import GradientDiagnosis, LayerDiagnosis, diagnose
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
from rnn_numpy.lab.lyapunov import CovariantVectors, LyapunovSpectrum, covariant_vectors, lyapunov
from rnn_numpy.lab.plots import gradient_flow_figure, plot_gradient_flow, save_figure
from rnn_numpy.lab.plots_spectra import plot_angles, plot_singular_values, plot_spectrum
from rnn_numpy.lab.regularisers import Flossing, Omega, floss, floss_value, gram_schmidt, omega
from rnn_numpy.lab.report import gradflow_report
from rnn_numpy.lab.threads import one_blas_thread

__all__ = [
    "CovariantVectors",
    "Flossing",
    "GradflowOptions",
    "GradflowResult",
    "GradientDiagnosis",
    "GradientFlow",
    "LayerDiagnosis",
    "LyapunovSpectrum",
    "NetworkResult",
    "Omega",
    "TrainingRecord",
    "covariant_vectors",
    "diagnose",
    "floss",
    "floss_value",
    "forecast_gradient_flow",
    "gradflow_report",
    "gradient_flow",
    "gradient_flow_figure",
    "gram_schmidt",
    "lyapunov",
    "omega",
    "one_blas_thread",
    "plot_angles",
    "plot_gradient_flow",
    "plot_singular_values",
    "plot_spectrum",
    "run_gradflow",
    "save_figure",
    "set_recurrent_weights",
]
