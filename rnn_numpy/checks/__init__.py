"""Proofs that a backward pass is right: the gradient check, the conformance suite for recurrent layers, and oracles.

The oracles that are seldom asked for by name are in `rnn_numpy.checks.oracles`.
"""

from rnn_numpy.checks.compare import TOLERANCES, assert_grad_close, discrepancy, tolerance
from rnn_numpy.checks.conformance import CHECKS, Case, conformance_checks, conformance_failures, recurrent_cases
from rnn_numpy.checks.gradcheck import assert_gradients, gradcheck
from rnn_numpy.checks.grading import grade
from rnn_numpy.checks.oracles.adjoint import adjoint_error, adjoint_errors
from rnn_numpy.checks.oracles.complex_step import cauchy_riemann, complex_step, directional_derivative
from rnn_numpy.checks.oracles.differences import central_difference, ridders
from rnn_numpy.checks.oracles.precision import high_precision
from rnn_numpy.checks.oracles.reference import Reference, reference_gradients
from rnn_numpy.checks.oracles.taylor import adjoint_test, taylor_test
from rnn_numpy.checks.report import Diagnosis, GradcheckReport
from rnn_numpy.engine.influence import rtrl

__all__ = [
    "CHECKS", "TOLERANCES", "Case", "Diagnosis", "GradcheckReport", "Reference", "adjoint_error", "adjoint_errors",
    "adjoint_test", "assert_grad_close", "assert_gradients", "cauchy_riemann", "central_difference", "complex_step",
    "conformance_checks", "conformance_failures", "directional_derivative", "discrepancy", "gradcheck",
    "grade", "high_precision", "recurrent_cases", "reference_gradients", "ridders", "rtrl", "taylor_test", "tolerance",
]  # fmt: skip
