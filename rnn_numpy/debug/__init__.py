"""Stops inside of a pass: conditions, time travel, what-if, equations with their numbers, the origin of a NaN."""

from rnn_numpy.debug.conditions import (
    Condition,
    jump,
    non_finite,
    norm_above,
    norm_below,
    saturated,
    sign_change,
    violated,
    when,
)
from rnn_numpy.debug.explain import explain
from rnn_numpy.debug.frames import here, trap
from rnn_numpy.debug.page import Page, html, show, write_html
from rnn_numpy.debug.stepper import Stepper, Stop
from rnn_numpy.debug.table import EquationLine, equation_lines, equations_table
from rnn_numpy.debug.tracing import Difference, Origin, diff, first_non_finite

__all__ = [
    "Condition",
    "Difference",
    "EquationLine",
    "Origin",
    "Page",
    "Stepper",
    "Stop",
    "diff",
    "equation_lines",
    "equations_table",
    "explain",
    "first_non_finite",
    "here",
    "html",
    "jump",
    "non_finite",
    "norm_above",
    "norm_below",
    "saturated",
    "show",
    "sign_change",
    "trap",
    "violated",
    "when",
    "write_html",
]
