"""A gradient against derivatives of the whole loss: entry by entry, or along directions. Nothing of a layer is known
here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.oracles.complex_step import (
    COMPLEX_STEP,
    CauchyRiemann,
    along_direction,
    contradiction,
    dropped_parts_are_errors,
)
from rnn_numpy.checks.oracles.differences import RIDDERS_STEP, ridders_estimate
from rnn_numpy.checks.oracles.function import EPS, DirectedLine, Function, norm
from rnn_numpy.checks.oracles.reference import TINY, Kink, reference_gradients, takes_no_complex, too_small
from rnn_numpy.checks.report import OK, WRONG, Findings, Row, not_looked_at, rows_of, undecided
from rnn_numpy.checks.targets import Point, Target
from rnn_numpy.checks.watch import Watch
from rnn_numpy.errors import GradientCheckError

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

# A gradient of which rounding may be more than this does not pass: it would mean too little.
TOO_NOISY = 1e-6

# One of which it may be more than this is not called wrong either: in chaos, differences are the slopes of chords.
HOPELESS = 0.1

DIRECTIONS = 4

# How far the points of a line lie apart on which the roughness of a gradient shows, relative to each entry.
NOISE_STEP = EPS**0.25


def by_entries(
    target: Target, names: list[str], analytic: Point, method: str, seed: int, progress: Progress
) -> Findings:
    """Compare with the derivative of the loss by each entry; see `reference_gradients` for the methods."""
    reference = reference_gradients(
        target.loss, target.point, method=method, seed=seed, names=names, progress=progress, where="gradcheck"
    )
    noise = noise_of(target, analytic, seed)
    gradients = dict(reference.gradients)
    rows: list[Row] = []
    open_names: list[str] = []
    for name in names:
        kinks = [kink for kink in reference.kinks if kink.name == name]
        gradients[name], found, doubtful = judged_entries(
            target, name, analytic[name], gradients[name], reference.errors[name], noise[name], kinks
        )
        rows += found
        open_names += [name] if doubtful else []
    notes = [*reference.notes, *kinks_note(reference.kinks), *single_note(analytic, names), *doubt_note(open_names)]
    return Findings(reference.method, rows, gradients, notes=notes, kinks=list(reference.kinks))


def judged_entries(
    target: Target,
    name: str,
    claimed: Array,
    exact: Array,
    errors: Array,
    noise: Array,
    kinks: Sequence[Kink],
    known: float | None = None,
) -> tuple[Array, list[Row], bool]:
    """Judge one array by the derivatives by its entries, and what these, and the gradient, may be off by.

    Returns the reference, at kinks whatever slope is nearest, the rows, and whether rounding leaves too few digits.
    Where not all entries are known, `known` is the largest that is.
    """
    exact, errors = _nearest_slopes(claimed, exact, errors, kinks)
    largest = float(np.abs(exact).max(initial=0.0)) if known is None else known
    scale = None if known is None else np.full(exact.shape, largest)
    own = 16 * eps_of(claimed) * largest
    # A gradient that jumps when its point moves in the last digit excuses an error no further than this.
    allowed = errors + own + 8 * np.minimum(noise, TOO_NOISY * largest)
    rows = rows_of(name, target.gates, claimed, exact, allowed, scale=scale, note="kink" if kinks else "")
    doubt = float(np.maximum(errors, noise).max(initial=0.0))
    doubtful = bool(doubt > TOO_NOISY * largest and (largest or np.any(claimed)))
    if doubtful:
        excused = 8 * errors + own + 16 * noise  # differences of a rough loss tell their errors roughly
        if doubt > HOPELESS * (largest or float(np.abs(claimed).max())):
            excused = np.where(errors + noise > 0, np.inf, excused)
        excuses = rows_of(name, target.gates, claimed, exact, excused)
        rows = [undecided(row) if each.verdict == OK else row for row, each in zip(rows, excuses, strict=True)]
    return exact, rows, doubtful


def _nearest_slopes(claimed: Array, exact: Array, errors: Array, kinks: Sequence[Kink]) -> tuple[Array, Array]:
    """Return a reference and its errors: at a kink, whatever lies between both slopes is a derivative."""
    exact, errors = exact.copy(), errors.copy()
    for kink in kinks:
        lower, upper = sorted((kink.left, kink.right))
        exact[kink.index] = np.clip(claimed[kink.index], lower, upper)
        errors[kink.index] = 1e-6 * max(abs(lower), abs(upper))
    return exact, errors


def kinks_note(kinks: Sequence[Kink]) -> list[str]:
    """Return the note on entries at which the loss has two slopes."""
    if not kinks:
        return []
    shown = "; ".join(map(str, kinks[:3])) + ("; ..." if len(kinks) > 3 else "")
    return [f"at a kink of the loss any number between both slopes is right: {shown}"]


def single_note(analytic: Point, names: Sequence[str]) -> list[str]:
    """Return the note on gradients in single precision."""
    single = [name for name in names if analytic[name].dtype == np.float32]
    return [f"the gradient of {', '.join(single)} is float32, and judged to its seven digits"] if single else []


def doubt_note(names: Sequence[str], cause: str = "rounding") -> list[str]:
    """Return the note on arrays of which nothing can be said."""
    if not names:
        return []
    return [
        f"of {', '.join(names)}, {cause} leaves less than six digits, in the loss or in the gradient: no verdict on "
        "the whole loss is possible. Check a shorter run, or hand in the recurrent layer itself: it is checked step by "
        "step"
    ]


def eps_of(array: Array) -> float:
    """Return the rounding unit of an array."""
    return float(np.finfo(array.dtype).eps)


def noise_of(target: Target, analytic: Point, seed: int) -> Point:
    """Return what rounding may do to each entry of the claimed gradient.

    How much it changes when its point moves in the last digit; and how rough it is along a line: 1 - tanh(a)^2 has lost
    digits where tanh(a) is close to 1, though in the last digit of its point it does not move at all.
    """
    rng = np.random.default_rng([seed, 3])
    noise = {name: np.zeros(array.shape) for name, array in analytic.items()}
    shaken = [
        (eps, target.at(_shaken(target.point, eps, rng)))
        for eps in sorted(set(map(eps_of, analytic.values())))
        for _ in range(3)
    ]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of what is not finite, another row tells
        for name, array in noise.items():
            for eps, found in shaken:
                if eps == eps_of(analytic[name]):  # beside an array in single precision, others have their own digits
                    np.fmax(array, np.abs(found[name] - analytic[name]), out=array)
        # How many times faster than its point the gradient changes: in chaos no line is straight.
        growth = max(
            float(array.max(initial=0.0))
            / eps_of(analytic[name])
            / (float(np.abs(analytic[name]).max(initial=0.0)) or 1.0)
            for name, array in noise.items()
        )
    step = NOISE_STEP if growth < 1 else min(NOISE_STEP, 0.01 / growth)
    signs = {name: rng.choice([-1.0, 1.0], array.shape) for name, array in target.point.items()}
    line = [analytic]
    for k in range(1, 9):
        line.append(target.at({name: array * (1 + k * step * signs[name]) for name, array in target.point.items()}))
    with np.errstate(over="ignore", invalid="ignore"):
        for name, array in noise.items():
            # Of a smooth function sixth differences are next to nothing; of errors of size 1, each its own, sqrt(924).
            rough = np.diff(np.array([found[name] for found in line], np.float64), 6, axis=0)
            # Three of them for each entry say too little: the largest of the array counts for all of it.
            np.fmax(array, np.abs(rough).max(initial=0.0) / math.sqrt(924), out=array)
    return noise


def _shaken(point: Point, eps: float, rng: np.random.Generator) -> Point:
    """Return a point whose entries have all moved by their last digit."""
    return {name: array * (1 + eps * rng.choice([-1.0, 1.0], array.shape)) for name, array in point.items()}


def along_directions(
    target: Target, names: list[str], analytic: Point, method: str, seed: int, watch: Watch
) -> Findings:
    """Compare each array's gradient with the slope of the loss along signed random directions, by the complex step.

    One evaluation for each direction, whatever the size of the array: the check for models too large to be checked
    entry by entry. An error of a single entry shows as its share of the gradient's norm.
    """
    rng = np.random.default_rng([seed, 4])
    way = _way_along(target, names, rng)
    noise = noise_of(target, analytic, seed)
    rows: list[Row] = []
    open_names: list[str] = []
    for number, name in enumerate(names):
        gradient = analytic[name]
        if number and watch.is_over:
            rows += [not_looked_at(each, analytic[each].shape) for each in names[number:]]
            break
        watch(number, len(names), f"directions of {name}")
        row, doubt = _along(way, name, gradient, noise[name], rng)
        if doubt > TOO_NOISY and (row.reference or row.analytic):
            open_names.append(name)
            row = undecided(row) if row.error <= 8 * doubt or doubt > HOPELESS else row
        rows.append(row)
    watch(len(names), len(names), "directions")
    note = (
        f"each array was checked along {DIRECTIONS} signed random directions, relative to the norm of its gradient; "
        "analytic and reference are the slopes along the worst of them"
    )
    left = [row.name for row in rows if row.note]
    late = [f"not looked at, for the time was up after {watch.seconds:.3g} s: {', '.join(left)}"] if left else []
    notes = [note, *late, *way.notes, *single_note(analytic, names), *doubt_note(open_names, "rounding or a kink")]
    reference = {name: np.full(analytic[name].shape, math.nan) for name in names}
    return Findings(f"{way.method} along random directions", rows, reference, notes=notes)


class _Way(NamedTuple):
    """How slopes along directions are found: slope(direction) and what it may be off by."""

    method: str
    slope: Callable[[Point], tuple[float, float]]
    notes: list[str]


def _way_along(target: Target, names: list[str], rng: np.random.Generator) -> _Way:
    """Return the complex step where the loss is analytic, else Ridders' differences."""
    where, loss = "gradcheck", target.loss
    real = Function(where, loss, target.point)
    middle = real.repeatable()
    nearby = _shaken(target.point, EPS, rng)
    here, there = (Function(where, loss, at, np.complex128) for at in (target.point, nearby))
    try:
        with dropped_parts_are_errors(here, target.point, names):
            test = contradiction(here, names, COMPLEX_STEP)
        told = "" if test is None else _why_not(test)
    except GradientCheckError as error:
        told = str(error).removeprefix(f"{where}: ")
    except Exception as error:  # whatever a function that was written for real numbers does with complex ones
        told = takes_no_complex(error)
    if told:
        real.measure_noise(middle)

        def by_differences(direction: Point) -> tuple[float, float]:
            found = ridders_estimate(DirectedLine(real, direction), middle, RIDDERS_STEP)
            return found.value, math.inf if found.kinked else found.error

        return _Way("ridders", by_differences, [f"no complex step: {told}"])

    def by_step(direction: Point) -> tuple[float, float]:
        found, moved = (along_direction(function, direction, COMPLEX_STEP) for function in (here, there))
        # Below the smallest number there is, over the step, nothing is left of a slope.
        lost = float(np.finfo(np.float64).smallest_subnormal) / COMPLEX_STEP if found else 0.0
        return found, 2 * abs(found - moved) + 4 * lost

    return _Way("complex step", by_step, [])


def _why_not(test: CauchyRiemann) -> str:
    largest = max(map(abs, test.by_difference))
    if 0 < largest < TINY:
        return too_small(largest)
    return "loss has a kink at the point" if test.kinked else f"loss is not analytic; {test.explanation()}"


def _along(way: _Way, name: str, gradient: Array, noise: Array, rng: np.random.Generator) -> tuple[Row, float]:
    """Return the row of one array, and what rounding may do to its error."""
    allowed = max(1e-13, 16 * eps_of(gradient)) * math.sqrt(max(1, gradient.size))
    if not np.isfinite(gradient).all():
        return Row(name, None, gradient.shape, math.nan, (), math.nan, math.nan, math.nan, allowed, WRONG), 0.0
    worst, doubt = (0.0, 0.0, 0.0), 0.0
    for _ in range(DIRECTIONS if gradient.size else 0):
        draw = rng.normal(size=gradient.shape)
        found, error = way.slope({name: draw})
        claimed, rough = float(np.sum(gradient * draw)), float(np.sum(noise * np.abs(draw)))
        # |<g, v>| has the size of |g| on average; it may happen to cancel.
        size = max(norm({name: gradient}), abs(found), abs(claimed))
        if size:
            worst = max(worst, (abs(found - claimed) / size, claimed, found))
            doubt = max(doubt, (error + 2 * rough) / size)
    off, claimed, found = worst
    allowed += min(doubt, TOO_NOISY)
    verdict = OK if off <= allowed else WRONG
    return Row(name, None, gradient.shape, off, (), claimed, found, math.nan, allowed, verdict), doubt


def slope(target: Target, direction: Mapping[str, Array]) -> float:
    """Return the slope of a target's loss along changes of some arrays, by one complex forward pass."""
    shifted = {key: array.astype(np.complex128) for key, array in target.point.items()}
    for name, change in direction.items():
        shifted[name] += 1j * COMPLEX_STEP * change
    return float(complex(target.loss(shifted)).imag / COMPLEX_STEP)


def single_rows(target: Target, single: Point, names: list[str], seed: int, rounding: Mapping[str, Array]) -> list[Row]:
    """Compare a float32 gradient with that of its float64 twin, which has been checked by itself.

    Both passes of the single one round at every step. How much that matters is asked of the double one, with its data
    moved by as much; where sums cancel, an entry is given that share of the largest. `rounding` is what is known of it
    besides, in double precision, by name.
    """
    eps, tiny = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
    rng = np.random.default_rng([seed, 2])
    exact = target.at(target.point)
    moved = dict.fromkeys(exact, 0.0)
    for _ in range(4):
        for name, gradient in target.at(_shaken(target.point, eps, rng)).items():
            moved[name] = max(moved[name], float(np.abs(gradient - exact[name]).max(initial=0.0)))
    rows = []
    for name in names:
        largest = float(np.abs(exact[name]).max(initial=0.0))
        allowed = np.full(exact[name].shape, 8 * moved[name] + 32 * eps * largest + tiny)
        if name in rounding:
            allowed += eps / EPS * rounding[name]
        rows += rows_of(name, target.gates, single[name], exact[name], allowed, note="float32")
    return rows
