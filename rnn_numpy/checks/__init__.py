"""Proofs that a backward pass is right: oracles, comparison, and the conformance suite for recurrent layers."""

from rnn_numpy.checks.compare import (
    ORACLE_TOLERANCES,
    TOLERANCES,
    Discrepancy,
    assert_grad_close,
    discrepancy,
    tolerance,
)
from rnn_numpy.checks.complex_steps import complex_step
from rnn_numpy.checks.conformance import (
    CHECKS,
    Case,
    conformance_checks,
    conformance_failures,
    conformance_id,
    not_applicable,
    recurrent_cases,
)
from rnn_numpy.checks.differences import central_difference

__all__ = [
    "CHECKS",
    "ORACLE_TOLERANCES",
    "TOLERANCES",
    "Case",
    "Discrepancy",
    "assert_grad_close",
    "central_difference",
    "complex_step",
    "conformance_checks",
    "conformance_failures",
    "conformance_id",
    "discrepancy",
    "not_applicable",
    "recurrent_cases",
    "tolerance",
]
