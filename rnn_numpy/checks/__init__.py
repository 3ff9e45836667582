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
from rnn_numpy.checks.forward_mode import ForwardGradients, adjoint_error, adjoint_errors, rtrl
from rnn_numpy.checks.oracles import central_difference, complex_step

__all__ = [
    "CHECKS",
    "ORACLE_TOLERANCES",
    "TOLERANCES",
    "Case",
    "Discrepancy",
    "ForwardGradients",
    "adjoint_error",
    "adjoint_errors",
    "assert_grad_close",
    "central_difference",
    "complex_step",
    "conformance_checks",
    "conformance_failures",
    "conformance_id",
    "discrepancy",
    "not_applicable",
    "recurrent_cases",
    "rtrl",
    "tolerance",
]
