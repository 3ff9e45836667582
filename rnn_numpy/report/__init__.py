"""Reports: what was measured, in words, tables and figures.

Needs the lab extra for tables (rich) and figures (matplotlib); both are imported where they are used, and where one is
not installed, MissingExtraError is raised.

A function that draws is called `plot_...`. It takes what it draws, then `ax`, a matplotlib Axes, of which a colour bar
or labels take some of the room, then options by name alone; it draws into `ax` and returns it. Where `ax` is left out
it makes a figure of its own, which is `ax.figure`. What needs several axes is called `..._figure` and returns the
figure. pyplot does not know these figures: save them with `save_figure`.
"""

from rnn_numpy.report.benchmark_page import benchmark_report
from rnn_numpy.report.diagnosis_page import GradientDiagnosis, diagnose
from rnn_numpy.report.gradflow_page import gradflow_report
from rnn_numpy.report.plots.clipping import plot_clip_directions, plot_clip_ledger
from rnn_numpy.report.plots.decomposition import plot_lag_profile, plot_norms, plot_shares, plot_singular_histogram
from rnn_numpy.report.plots.gates import plot_gate_bands, plot_gate_image
from rnn_numpy.report.plots.gradient_flow import gradient_flow_figure, plot_gradient_flow
from rnn_numpy.report.plots.horizons import plot_horizon_cosines, plot_horizon_norms
from rnn_numpy.report.plots.landscape import plot_bifurcation, plot_cliff
from rnn_numpy.report.plots.spectra import plot_angles, plot_singular_values, plot_spectrum
from rnn_numpy.report.plots.style import save_figure
from rnn_numpy.report.plots.task_benchmark import benchmark_figure, plot_flows, plot_learning
from rnn_numpy.report.plots.training import plot_training, training_figure

__all__ = [
    "GradientDiagnosis", "benchmark_figure", "benchmark_report", "diagnose", "gradflow_report",
    "gradient_flow_figure", "plot_angles", "plot_bifurcation", "plot_cliff", "plot_clip_directions",
    "plot_clip_ledger", "plot_flows", "plot_gate_bands", "plot_gate_image", "plot_gradient_flow",
    "plot_horizon_cosines", "plot_horizon_norms", "plot_lag_profile", "plot_learning", "plot_norms",
    "plot_shares", "plot_singular_histogram", "plot_singular_values", "plot_spectrum", "plot_training",
    "save_figure", "training_figure",
]  # fmt: skip
