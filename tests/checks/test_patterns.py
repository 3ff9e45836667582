"""What wrong gradients have in common with the right ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES
from rnn_numpy.checks.diagnosis.patterns import close, common_pattern, matches, narrowed, rescaled
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.targets import Target


def subject(**point: Any) -> Target:
    found = Target()
    found.point = {name: np.asarray(array) for name, array in point.items()}
    return found


def related(analytic: dict[str, Any], reference: dict[str, Any], what: Target | None = None) -> Diagnosis | None:
    """Return the relation, every tensor that differs being wrong."""
    rows = [
        Row(name, None, array.shape, 1.0, (), 0.0, 0.0, np.nan, 0.0, WRONG)
        for name, array in analytic.items()
        if not np.array_equal(array, reference[name])
    ]
    found = common_pattern(what or subject(**reference), analytic, reference, rows)
    assert found is None or found.kind in DIAGNOSES
    return found


rng = np.random.default_rng(0)
W, B = rng.normal(size=(4, 4)), rng.normal(size=4)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200, 1e300])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: 3 * w, "constant factor: w: 3 times the right gradient"),
        (lambda w: -w, "sign: w: the negative of the right gradient"),
        (lambda w: 0 * w, "never accumulated: the gradient of w is 0 throughout: it was never added to"),
        (lambda w: w.T, "transposed: the gradient of w is the transpose of the right one"),
    ],
)
def test_relations_of_any_size(size: float, change: Any, text: str) -> None:
    assert str(related({"w": size * change(W), "b": B}, {"w": size * W, "b": B}, subject(w=1 + W, b=B))) == text


def test_biases_have_words_of_their_own() -> None:
    assert str(related({"w": W, "bias": 2 * B}, {"w": W, "bias": B}, subject(w=W, bias=1 + B))) == (
        "bias doubled: the gradient of bias is twice the right one: it is added to twice"
    )
    assert str(related({"w": W, "bias": 0 * B}, {"w": W, "bias": B})) == (
        "bias ignored: the gradient of bias is 0 throughout"
    )


def test_a_copy_of_the_weights_below_the_sum() -> None:
    assert str(related({"w": W + 5}, {"w": W}, subject(w=np.full((4, 4), 5.0)))) == (
        "starts as the weights: the gradient of w is the right one plus w itself"
    )


def test_what_the_loss_ignores() -> None:
    assert str(related({"w": W, "b": B}, {"w": W, "b": 0 * B}, subject(w=W, b=1 + B))) == (
        "wrong derivative: the loss does not change with b: the gradient must be exactly 0"
    )


def test_clipping_by_value_and_by_norm() -> None:
    by_value = related({"w": np.clip(W, -0.5, 0.5)}, {"w": W}, subject(w=1 + W))
    assert str(by_value) == "clipped: the entries of w are limited to ±0.5: clipped before the check"
    by_norm = related({"w": W / np.linalg.norm(W)}, {"w": W}, subject(w=1 + W))
    assert by_norm is not None and by_norm.kind == "clipped" and "all of them together is 1:" in by_norm.why


def test_small_entries_that_are_zero() -> None:
    spread = W * 10.0 ** -np.arange(16).reshape(4, 4)
    found = related({"w": np.where(np.abs(spread) < 1e-8, 0, spread)}, {"w": spread}, subject(w=1 + W))
    # Far below the largest they do not tell in a whole that is compared with its largest entry.
    assert found is None
    half = np.array([1.0, 0.5, 0.2, 0.1])
    found = related({"w": np.where(half < 0.3, 0, half)}, {"w": half}, subject(w=half + 1))
    assert found is not None and found.kind == "small gradients flushed"


def test_gates_in_each_others_rows() -> None:
    what = subject(w=1 + W)
    what.gates = {"w": [("i", slice(0, 2)), ("f", slice(2, 4))]}
    assert str(related({"w": W[[2, 3, 0, 1]]}, {"w": W}, what)) == (
        "gates swapped: in the gradient of w, i has the rows of f, f has the rows of i"
    )


def test_what_is_related_to_nothing() -> None:
    assert related({"w": W + rng.normal(size=(4, 4))}, {"w": W}, subject(w=1 + W)) is None
    assert related({"w": W}, {"w": W}) is None


def test_single_entries() -> None:
    off = W.copy()
    off[2, 1] *= 1.5
    found = rescaled({"w": off}, {"w": W}, ["w"])
    assert str(found) == (
        "entries rescaled: 1 of 16 entries of w are off by factors between 1.5 and 1.5, the first at [2, 1]"
    )
    assert rescaled({"w": rng.normal(size=(4, 4))}, {"w": W}, ["w"]) is None


def test_agreement_is_relative() -> None:
    assert close(W * (1 + 1e-8), W) and not close(W * (1 + 1e-6), W)
    assert not close(np.full(1, 1e-300), np.zeros(1)) and close(np.zeros(1), np.zeros(1))
    assert not close(np.array([np.nan]), np.ones(1))
    steps = np.array([[[1e-30]], [[1.0]]])
    assert close(steps * [[[2.0]], [[1.0]]], steps) and not matches("x", steps * [[[2.0]], [[1.0]]], steps)


def test_single_precision_somewhere_is_told_from_other_small_errors():
    rng = np.random.default_rng(0)
    reference = {"w": rng.normal(size=(4, 5)), "b": 1e-6 * rng.normal(size=7)}
    rounded = {name: array.astype(np.float32).astype(float) for name, array in reference.items()}
    found = narrowed(rounded, reference)
    assert found is not None and found.kind == "lower precision"
    assert narrowed(reference, reference) is None
    # All too large, or larger than single precision rounds.
    assert narrowed({name: array + 1e-8 * np.abs(array).max() for name, array in reference.items()}, reference) is None
    coarse = {name: array.astype(np.float16).astype(float) for name, array in reference.items()}
    assert narrowed(coarse, reference).why.startswith("all numbers of w, b are numbers of float16")
    uneven = {name: array * (1 + 1e-3 * rng.uniform(-1, 1, array.shape)) for name, array in reference.items()}
    assert narrowed(uneven, reference) is None


def test_a_factor_next_to_one_is_no_factor():
    reference = {"w": np.array([1.0, 2.0, -3.0])}
    assert related({"w": reference["w"] * (1 + 5e-7)}, reference) is None
    assert str(related({"w": reference["w"] * (1 + 2e-6)}, reference)).startswith("constant factor: w: 1.000002 times")
