"""What all wrong tensors have in common, in few numbers; and what is claimed of none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rnn_numpy.checks.diagnosis import DIAGNOSES
from rnn_numpy.checks.own.patterns import Compared, factor_of, in_words, narrow_note, strong_patterns, weak_patterns
from rnn_numpy.checks.report import Diagnosis

rng = np.random.default_rng(0)
SHAPES = {"Wf": (4, 4), "Wi": (4, 4), "Q": (8, 4), "bf": (4,)}
EXACT = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
POINT = {name: rng.normal(size=array.shape) for name, array in EXACT.items()}
NORM = float(np.sqrt(sum(np.sum(g * g) for g in EXACT.values())))

Change = Callable[[dict[str, Any]], dict[str, Any]]


def said(change: Change) -> Diagnosis | None:
    """Return what is said of a changed gradient."""
    found = {**EXACT, **change(EXACT)}
    wrong = [name for name in EXACT if not np.array_equal(found[name], EXACT[name])]
    compared = Compared(POINT, found, EXACT, wrong, {6: "steps", 4: "the length of bf"})
    diagnosis = strong_patterns(compared) or weak_patterns(compared)
    assert diagnosis is None or diagnosis.kind in DIAGNOSES
    return diagnosis


def every(function: Callable[[Any, str], Any]) -> Change:
    return lambda g: {name: function(array, name) for name, array in g.items()}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (every(lambda g, n: g / 6), "constant factor", "1/6 (6 steps) times"),
        (every(lambda g, n: g / 24), "constant factor", "1/24 (6 steps * 4, the length of bf) times"),
        (every(lambda g, n: g * 2 / 3), "constant factor", "2/3 times"),
        (every(lambda g, n: g * (1 + 1e-8)), "constant factor", "1 + 1e-08 times"),
        (every(lambda g, n: g * (1 - 2.5e-7)), "constant factor", "1 - 2.5e-07 times"),
        (every(lambda g, n: -g), "sign", "the negative"),
        (every(lambda g, n: g * 0.3 / (NORM + 1e-6)), "clipped", "0.3 / (norm + 1e-06)"),
        (every(lambda g, n: g * 0.3 / (np.linalg.norm(g) + 1e-6)), "clipped", "the norm of each of"),
        (every(lambda g, n: np.clip(g, -0.7, 0.7)), "clipped", "limited to ±0.7"),
        (every(lambda g, n: np.minimum(g, 0.5)), "clipped", "limited to at most 0.5"),
        (every(lambda g, n: g + 0.01 * POINT[n]), "weight decay", "plus 0.01 times the parameter itself"),
        (every(lambda g, n: g + 0.02 * np.sign(POINT[n])), "weight decay", "plus 0.02 times the parameter's sign"),
        (every(lambda g, n: g + 0.5), "wrong derivative", "the right one plus 0.5"),
        (every(lambda g, n: g.astype(np.float32).astype(float)), "lower precision", "single precision"),
        (every(lambda g, n: np.abs(g)), "wrong derivative", "the absolute value of the right one"),
        (every(lambda g, n: g * POINT[n]), "wrong derivative", "times the parameter"),
        (lambda g: {"Wf": g["Wi"], "Wi": g["Wf"]}, "gates swapped", "dWf holds the gradient of Wi, dWi holds"),
        (lambda g: {"Wf": g["Wi"]}, "wrong derivative", "dWf holds the gradient of Wi"),
        (lambda g: {"Wf": g["Wi"].T}, "wrong derivative", "dWf holds the gradient of Wi, transposed"),
        (lambda g: {"Wf": g["Wf"] + g["Wi"]}, "overwritten, not added", "plus that of Wi: both are added to one array"),
        (lambda g: {"Wf": g["Wf"].T, "Wi": g["Wi"].T}, "transposed", "that of each is the transpose"),
        (lambda g: {"Q": np.concatenate([g["Q"][:4].T, g["Q"][4:].T])}, "transposed", "each square block is "
            "transposed"),
        (lambda g: {"Q": g["Q"][[4, 5, 6, 7, 0, 1, 2, 3]]}, "gates swapped", "rows 0 to 3 holds rows 4 to 7"),
        (lambda g: {"Q": g["Q"][:, [0, 2, 1, 3]]}, "gates swapped", "column 1 holds column 2"),
        (lambda g: {"Wf": g["Wf"][::-1]}, "gates swapped", "row 0 holds row 3"),
        (lambda g: {"Q": g["Q"].ravel(order="F").reshape(8, 4)}, "wrong derivative", "in the order of its transpose"),
        (lambda g: {"Wf": 0 * g["Wf"], "bf": 0 * g["bf"]}, "never accumulated", "Wf and bf is 0 throughout"),
        (lambda g: {"bf": 0 * g["bf"]}, "bias ignored", "bf is 0 throughout"),
        (lambda g: {"bf": 2 * g["bf"]}, "bias doubled", "twice the right one"),
        (lambda g: {"Q": g["Q"] * (np.arange(8) < 4)[:, None]}, "never accumulated", "rows 4 to 7 of dQ are 0"),
        (lambda g: {"Q": g["Q"] * np.where(np.arange(8) < 4, 1, -1)[:, None]}, "sign", "rows 4 to 7 of dQ are "
            "-1 times"),
        (lambda g: {"Wf": g["Wf"] * (1 + (np.arange(16) == 5).reshape(4, 4))}, "entries rescaled", "[1, 1]"),
    ],
)  # fmt: skip
def test_it_is_named(change: Change, kind: str, words: str) -> None:
    diagnosis = said(change)
    assert diagnosis is not None and diagnosis.explained
    assert diagnosis.kind == kind and words in diagnosis.why


@pytest.mark.parametrize(
    "change",
    [
        every(lambda g, n: g * np.linspace(0.38, 1.1, g.size).reshape(g.shape)),
        every(lambda g, n: g * np.tanh(g)),
        lambda g: {"Wf": 2 * g["Wf"], "Q": np.tanh(g["Q"] * 3)},
        lambda g: {"Q": g["Q"] * np.linspace(0.5, 2, 4)},
        lambda g: {"Wf": np.where(np.arange(16).reshape(4, 4) == 5, 0.123456789, g["Wf"])},
    ],
)
def test_what_takes_a_number_for_each_entry_is_no_explanation(change: Change) -> None:
    diagnosis = said(change)
    assert diagnosis is None or "one entry of Wf is wrong" in diagnosis.why


def test_two_tensors_with_two_stories_are_both_told() -> None:
    diagnosis = said(lambda g: {"Wf": 3 * g["Wf"], "Q": np.clip(g["Q"], -0.5, 0.5)})
    assert diagnosis is not None and not diagnosis.explained
    assert diagnosis.why.startswith("Wf: 3 times the right gradient; clipped: the entries of Q are limited to ±0.5")


def test_what_is_right_and_what_is_wrong_is_said() -> None:
    found = {**EXACT, "Q": EXACT["Q"] + (np.arange(8) > 5)[:, None] * rng.normal(size=(8, 4)), "bf": rng.normal(size=4)}
    compared = Compared(POINT, found, EXACT, ["Q", "bf"])
    assert in_words(compared) == "wrong are Q (rows 6 to 7 alone) and bf; right are Wf and Wi"


def test_factors_next_to_one_have_their_digits() -> None:
    g = EXACT["Q"]
    assert factor_of(g, g) is None
    assert factor_of(g * (1 + 1e-10), g) == pytest.approx(1 + 1e-10, abs=1e-13)
    assert factor_of(g + 1e-8 * np.abs(g), g) is None


def test_numbers_of_single_precision_are_seen_unless_they_are_plain_numbers() -> None:
    single = {"w": EXACT["Q"].astype(np.float32).astype(float)}
    assert narrow_note(single) and not narrow_note(EXACT)
    assert not narrow_note({"w": np.array([0.0, 1.0, 2.0, -0.5, 4.0])})
