"""What a gradient is compared with: each of these finds it in another way than a backward pass does."""

from rnn_numpy.checks.oracles.adjoint import adjoint_error, adjoint_errors
from rnn_numpy.checks.oracles.analytic import ANALYTIC_HAZARDS, ANALYTIC_SAFE, Hazard, analytic_violations
from rnn_numpy.checks.oracles.complex_step import (
    COMPLEX_STEP,
    CauchyRiemann,
    Hessian,
    cauchy_riemann,
    complex_step,
    directional_derivative,
    hessian,
    hessian_vector,
)
from rnn_numpy.checks.oracles.differences import (
    Differences,
    Slopes,
    StepScan,
    central_difference,
    fourth_order_difference,
    one_sided_slopes,
    ridders,
    step_scan,
)
from rnn_numpy.checks.oracles.function import CheckedParams, checked_gradients, checked_params
from rnn_numpy.checks.oracles.precision import high_precision
from rnn_numpy.checks.oracles.reference import Kink, Reference, reference_gradients
from rnn_numpy.checks.oracles.taylor import TaylorResult, adjoint_test, taylor_test

__all__ = [
    "ANALYTIC_HAZARDS", "ANALYTIC_SAFE", "COMPLEX_STEP", "CauchyRiemann", "CheckedParams", "Differences", "Hazard",
    "Hessian", "Kink", "Reference", "Slopes", "StepScan", "TaylorResult", "adjoint_error", "adjoint_errors",
    "adjoint_test", "analytic_violations", "cauchy_riemann", "central_difference", "checked_gradients",
    "checked_params", "complex_step", "directional_derivative", "fourth_order_difference", "hessian",
    "hessian_vector", "high_precision", "one_sided_slopes", "reference_gradients", "ridders", "step_scan",
    "taylor_test",
]  # fmt: skip
