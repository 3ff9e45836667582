"""A gradient against derivatives of the whole loss: entry by entry, or along directions. Nothing of a layer is known
here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.complex_steps import COMPLEX_STEP
from rnn_numpy.checks.functions import EPS
from rnn_numpy.checks.reference import reference_gradients
from rnn_numpy.checks.report import OK, WRONG, Row
from rnn_numpy.checks.subjects import Point, Subject
from rnn_numpy.checks.verdicts import Findings, rows_of, undecided

Array = NDArray[Any]
Tell = Callable[[int, int, str], None]

# A gradient of which rounding may be more than this is not judged: what passes would mean too little.
TOO_NOISY = 1e-6

DIRECTIONS = 4


def by_entries(subject: Subject, names: list[str], analytic: Point, method: str, seed: int, tell: Tell) -> Findings:
    """Compare with the derivative of the loss by each entry; see `reference_gradients` for the methods."""
    reference = reference_gradients(
        subject.loss, subject.point, method=method, seed=seed, names=names, tell=tell, where="gradcheck"
    )
    noise = _noise(subject, analytic, seed)
    rows: list[Row] = []
    hopeless = []
    for name in names:
        exact, errors = reference.gradients[name], reference.errors[name]
        largest = float(np.abs(exact).max(initial=0.0))
        moved = noise[name]
        # A gradient that jumps when its point moves in the last digit excuses an error no further than this.
        allowed = errors + 16 * EPS * largest + 4 * np.minimum(moved, TOO_NOISY * largest)
        found = rows_of(name, subject.gates, analytic[name], exact, allowed)
        smooth = not any(kink.name == name for kink in reference.kinks)
        if smooth and float(np.maximum(errors, moved).max(initial=0.0)) > TOO_NOISY * largest > 0:
            hopeless.append(name)
            found = [undecided(row, "rounding is amplified too much to judge") for row in found]
        rows += found
    notes = list(reference.notes)
    if hopeless:
        notes.append(
            f"of {', '.join(hopeless)}, rounding leaves less than six digits, in the loss or in the gradient: no "
            f"end-to-end "
            "verdict is possible. Check a shorter run, or hand in the recurrent layer itself: it is checked step "
            "by step"
        )
    return Findings(reference.method, rows, reference.gradients, notes=notes, kinks=list(reference.kinks))


def _noise(subject: Subject, analytic: Point, seed: int) -> Point:
    """Return how much the claimed gradient changes when its point moves in the last digit."""
    rng = np.random.default_rng([seed, 3])
    noise = {name: np.zeros(array.shape) for name, array in analytic.items()}
    for _ in range(3):
        moved = {name: a * (1 + EPS * rng.choice([-1.0, 1.0], a.shape)) for name, a in subject.point.items()}
        found = subject.at(moved)
        for name, array in noise.items():
            np.fmax(array, np.abs(found[name] - analytic[name]), out=array)
    return noise


def along_directions(
    subject: Subject, names: list[str], analytic: Point, method: str, seed: int, tell: Tell
) -> Findings:
    """Compare each array's gradient with the slope of the loss along signed random directions, by the complex step.

    One evaluation for each direction, whatever the size of the array: the check for models too large to be checked
    entry by entry. An error of a single entry shows as its share of the gradient's norm.
    """
    rng = np.random.default_rng([seed, 4])
    rows, reference = [], {}
    for number, name in enumerate(names):
        gradient = analytic[name]
        worst = (-1.0, 0.0, 0.0)
        for _ in range(DIRECTIONS if gradient.size else 0):
            draw = rng.normal(size=gradient.shape)
            found, claimed = slope(subject, name, draw), float(np.sum(gradient * draw))
            # |<g, v>| has the size of |g| on average; it may happen to cancel.
            size = max(float(np.linalg.norm(gradient)), abs(found), abs(claimed))
            worst = max(worst, (abs(found - claimed) / size if size else 0.0, claimed, found))
        error, claimed, found = (0.0, 0.0, 0.0) if worst[0] < 0 else worst
        allowed = 1e-13 * math.sqrt(max(1, gradient.size))
        verdict = OK if error <= allowed and np.isfinite(gradient).all() else WRONG
        rows.append(Row(name, None, gradient.shape, error, (), claimed, found, math.nan, allowed, verdict))
        reference[name] = np.full(gradient.shape, math.nan)
        tell(number + 1, len(names), f"directions of {name}")
    note = (
        f"each array was checked along {DIRECTIONS} signed random directions, relative to the norm of its "
        f"gradient; analytic "
        "and reference are the slopes along the worst of them"
    )
    return Findings("complex step along random directions", rows, reference, notes=[note])


def slope(subject: Subject, name: str, direction: Array) -> float:
    """Return the slope of a subject's loss along a change of one array, by one complex forward pass."""
    shifted = {key: array.astype(np.complex128) for key, array in subject.point.items()}
    shifted[name] += 1j * COMPLEX_STEP * direction
    return float(complex(subject.loss(shifted)).imag / COMPLEX_STEP)


def single_rows(subject: Subject, names: list[str], seed: int, rounding: Mapping[str, Array]) -> list[Row]:
    """Compare a float32 gradient with that of its float64 twin, which has been checked by itself.

    Both passes of the single one round at every step. How much that matters is asked of the double one, with its data
    moved by as much; where sums cancel, an entry is given that share of the largest. `rounding` is what is known of it
    besides, in double precision, by name.
    """
    eps, tiny = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
    rng = np.random.default_rng([seed, 2])
    exact, single = subject.at(subject.point), subject.in_single()
    moved = dict.fromkeys(exact, 0.0)
    for _ in range(4):
        point = {name: a * (1 + eps * rng.choice([-1.0, 1.0], a.shape)) for name, a in subject.point.items()}
        for name, gradient in subject.at(point).items():
            moved[name] = max(moved[name], float(np.abs(gradient - exact[name]).max(initial=0.0)))
    rows = []
    for name in names:
        largest = float(np.abs(exact[name]).max(initial=0.0))
        allowed = np.full(exact[name].shape, 8 * moved[name] + 32 * eps * largest + tiny)
        if name in rounding:
            allowed += eps / EPS * rounding[name]
        rows += rows_of(name, subject.gates, single[name], exact[name], allowed, note="float32")
    return rows
