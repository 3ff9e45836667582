"""Proofs that a backward pass is right: oracles, comparison, and the conformance suite for recurrent layers."""

from rnn_numpy.checks.compare import (
    ORACLE_TOLERANCES,
    TOLERANCES,
    Discrepancy,
    assert_grad_close,
    discrepancy,
    tolerance,
)
from rnn_numpy.checks.conformance import (
    CHECKS,
    Case,
    conformance_checks,
    conformance_failures,
    conformance_id,
    not_applicable,
    recurrent_cases,
)
from rnn_numpy.checks.gradcheck import (
    METHODS,
    assert_gradients,
    gradcheck,
)
from rnn_numpy.checks.oracles.adjoint import (
    adjoint_error,
    adjoint_errors,
)
from rnn_numpy.checks.oracles.analytic import (
    ANALYTIC_HAZARDS,
    ANALYTIC_SAFE,
    Hazard,
    analytic_violations,
)
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
from rnn_numpy.checks.oracles.function import (
    CheckedParams,
    checked_gradients,
    checked_params,
)
from rnn_numpy.checks.oracles.precision import (
    high_precision,
)
from rnn_numpy.checks.oracles.reference import (
    Kink,
    Reference,
    reference_gradients,
)
from rnn_numpy.checks.oracles.taylor import (
    TaylorResult,
    adjoint_test,
    taylor_test,
)
from rnn_numpy.checks.report import (
    Diagnosis,
    GradcheckReport,
    Row,
    Trial,
)
from rnn_numpy.engine.influence import (
    ForwardGradients,
    rtrl,
)

__all__ = [
    "ANALYTIC_HAZARDS",
    "ANALYTIC_SAFE",
    "CHECKS",
    "COMPLEX_STEP",
    "METHODS",
    "ORACLE_TOLERANCES",
    "TOLERANCES",
    "Case",
    "CauchyRiemann",
    "CheckedParams",
    "Diagnosis",
    "Differences",
    "Discrepancy",
    "ForwardGradients",
    "GradcheckReport",
    "Hazard",
    "Hessian",
    "Kink",
    "Reference",
    "Row",
    "Slopes",
    "StepScan",
    "TaylorResult",
    "Trial",
    "adjoint_error",
    "adjoint_errors",
    "adjoint_test",
    "analytic_violations",
    "assert_grad_close",
    "assert_gradients",
    "cauchy_riemann",
    "central_difference",
    "checked_gradients",
    "checked_params",
    "complex_step",
    "conformance_checks",
    "conformance_failures",
    "conformance_id",
    "directional_derivative",
    "discrepancy",
    "fourth_order_difference",
    "gradcheck",
    "hessian",
    "hessian_vector",
    "high_precision",
    "not_applicable",
    "one_sided_slopes",
    "recurrent_cases",
    "reference_gradients",
    "ridders",
    "rtrl",
    "step_scan",
    "taylor_test",
    "tolerance",
]
