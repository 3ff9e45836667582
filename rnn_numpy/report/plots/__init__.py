"""Figures. They need matplotlib, which is imported where it is used."""

from rnn_numpy.report.plots.benchmark import benchmark_figure, plot_flows, plot_learning
from rnn_numpy.report.plots.clipping import plot_clip_directions, plot_clip_ledger
from rnn_numpy.report.plots.decomposition import plot_lag_profile, plot_norms, plot_shares, plot_singular_histogram
from rnn_numpy.report.plots.gates import plot_gate_bands, plot_gate_image
from rnn_numpy.report.plots.gradient_flow import common_limits, gradient_flow_figure, plot_gradient_flow
from rnn_numpy.report.plots.landscape import plot_bifurcation, plot_cliff
from rnn_numpy.report.plots.spectra import plot_angles, plot_singular_values, plot_spectrum
from rnn_numpy.report.plots.style import (
    COLOURS,
    MARKERS,
    STYLES,
    axes_or_new,
    check_figure_path,
    colour_bar,
    colour_scale,
    draw_image,
    frame,
    label_ends,
    line_look,
    log_limits,
    log_norm,
    new_figure,
    save_figure,
    set_log,
    signed_norm,
    spread,
    tick_decades,
)

__all__ = [
    "COLOURS",
    "MARKERS",
    "STYLES",
    "axes_or_new",
    "benchmark_figure",
    "check_figure_path",
    "colour_bar",
    "colour_scale",
    "common_limits",
    "draw_image",
    "frame",
    "gradient_flow_figure",
    "label_ends",
    "line_look",
    "log_limits",
    "log_norm",
    "new_figure",
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
    "set_log",
    "signed_norm",
    "spread",
    "tick_decades",
]
