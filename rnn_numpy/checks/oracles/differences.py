"""Derivatives of a real function by differences of its values: four ways, one of which knows its own error.

    central difference    D(h) = (L(p + h) - L(p - h)) / 2h         error h^2: eps^(2/3) with the best h, 1e-9 or so
    fourth order          (4 D(h) - D(2h)) / 3                      error h^4: eps^(4/5), 1e-11 or so
    Ridders               D(h), D(h / 1.4), D(h / 1.4^2), ...       extrapolated to h = 0, with an error estimate
    one-sided slopes      (L(p + h) - L(p)) / h, and from below     extrapolated as well; they differ at a kink

They know the function by its values alone, so they share no mistake with a backward pass. All lose digits to rounding:
a difference of L's cannot tell a derivative from 0 below about eps |L|. `complex_step` can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.checks.oracles.function import (
    EPS,
    Array,
    DirectedLine,
    Function,
    Index,
    Line,
    Loss,
    Sample,
    checked_entry,
    chosen_names,
    entries_of,
    entry_name,
)
from rnn_numpy.errors import GradientCheckError, OptionError

# Each balances the truncation error with the rounding error eps / h: h^2 for a central difference, h^4 for the
# combination of two. Ridders begins far out and works its way in.
CENTRAL_STEP = EPS ** (1 / 3)
FOURTH_ORDER_STEP = EPS ** (1 / 5)
RIDDERS_STEP = 0.01
ONE_SIDED_STEP = 1e-3

RIDDERS_SHRINK = 1.4
RIDDERS_ROWS = 10

# Where the extrapolation does not settle, a kink or a singularity lies within the first step: begin further in.
RESTARTS = (1.0, 1 / 30, 1 / 900, 1 / 27000)


class Estimate(NamedTuple):
    """A derivative, how far it may be off, and whether the function seemed to have a kink there."""

    value: float
    error: float
    kinked: bool


class Differences(NamedTuple):
    """What `ridders` returns.

    Attributes
    ----------
    values, errors : dict of str to ndarray
        The derivatives, and what each may be off by.
    """

    values: dict[str, Array]
    errors: dict[str, Array]


class Slopes(NamedTuple):
    """The slopes of a function from below and from above, each with its error: what `one_sided_slopes` returns."""

    left: float
    right: float
    left_error: float
    right_error: float

    @property
    def differ(self) -> bool:
        """Whether both differ by more than their errors explain: a kink."""
        gap = abs(self.right - self.left)
        return gap > 8 * (self.left_error + self.right_error) and gap > 1e-6 * max(abs(self.left), abs(self.right))


def central_difference(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    step: float | None = None,
    where: str = "central_difference",
) -> dict[str, Array]:
    """Differentiate `loss` by every entry of the named arrays, by central differences.

    Parameters
    ----------
    loss : callable
        From a dict of float64 arrays to a real number.
    point : mapping of str to float64 array
        Where to differentiate.
    names : iterable of str, optional
        The arrays by which to differentiate; all where left out.
    step : float, optional
        Taken times max(1, |p|) for an entry p. By default eps^(1/3) = 6.1e-6.
    where : str
        The function that messages name.

    Returns
    -------
    dict of str to ndarray
        dL/d(name), of the shape of the array.

    Raises
    ------
    DTypeError
        An array is not float64: the difference would have no digits left.
    OptionError
        An unknown name; a step that is not a positive number.
    GradientCheckError
        `loss` returns something else than a finite real number, or another one on a second call, or modifies its
        arrays; a step is too small to change an entry.

    Notes
    -----
    Two evaluations of `loss` per entry.

    Examples
    --------
    >>> import numpy as np
    >>> central_difference(lambda p: np.sum(p["w"] ** 3), {"w": np.array([1.0, 2.0])})["w"].round(6)
    array([ 3., 12.])
    """
    width = positive_step(where, CENTRAL_STEP if step is None else step)
    return _by_entry(where, loss, point, names, lambda line: _difference(*_pair(line, width * line.scale)))


def fourth_order_difference(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    step: float | None = None,
    where: str = "fourth_order_difference",
) -> dict[str, Array]:
    """Differentiate `loss` by every entry, by the central difference of fourth order.

    Parameters
    ----------
    loss, point, names, where
        As for `central_difference`.
    step : float, optional
        The smaller of two, taken times max(1, |p|). By default eps^(1/5) = 7.4e-4.

    Notes
    -----
    Four evaluations of `loss` per entry. Steps are a hundred times those of a central difference: so much further away
    does a kink disturb.

    Examples
    --------
    >>> import numpy as np
    >>> found = fourth_order_difference(lambda p: np.sum(np.sin(p["w"])), {"w": np.array([1.0])})["w"]
    >>> bool(abs(found - np.cos(1.0))[0] < 1e-12)
    True
    """
    width = positive_step(where, FOURTH_ORDER_STEP if step is None else step)

    def derivative(line: Line) -> float:
        near, far = (_difference(*_pair(line, factor * width * line.scale)) for factor in (1, 2))
        return (4 * near - far) / 3

    return _by_entry(where, loss, point, names, derivative)


def ridders(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    step: float | None = None,
    where: str = "ridders",
) -> Differences:
    """Differentiate `loss` by every entry, by central differences extrapolated to step 0, each with its error.

    Parameters
    ----------
    loss, point, names, where
        As for `central_difference`.
    step : float, optional
        The first, largest one, taken times max(1, |p|). By default 0.01. Ten steps are taken, each the last one / 1.4;
        where they do not settle, for there is a kink or a pole within reach, ten more from a smaller one.

    Returns
    -------
    Differences
        The errors are those of the extrapolation, and at least those of rounding: eps |L| / step.

    Notes
    -----
    22 evaluations of `loss` per entry, up to 82 where the function is not smooth. At a kink the value is the mean of
    both slopes, and the error does not tell: `one_sided_slopes` does.

    References
    ----------
    .. [1] C. J. F. Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4
       (1982).

    Examples
    --------
    >>> import numpy as np
    >>> found = ridders(lambda p: np.sum(np.exp(p["w"])), {"w": np.array([1.0])})
    >>> bool(abs(found.values["w"] - np.e)[0] <= found.errors["w"][0] < 1e-10)
    True
    """
    width = positive_step(where, RIDDERS_STEP if step is None else step)
    function = Function(where, loss, point)
    middle = function.repeatable()
    function.measure_noise(middle)
    chosen = chosen_names(where, function.work, names)
    values = {name: np.zeros(function.work[name].shape) for name in chosen}
    errors = {name: np.zeros(function.work[name].shape) for name in chosen}
    for name, index in entries_of(function.work, chosen):
        found = ridders_estimate(Line(function, name, index), middle, width)
        values[name][index], errors[name][index] = found.value, found.error
    function.require_unchanged()
    return Differences(values, errors)


def one_sided_slopes(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    name: str,
    index: int | Index,
    *,
    step: float | None = None,
    where: str = "one_sided_slopes",
) -> Slopes:
    """Return the slopes of `loss` along one entry, from below and from above.

    Parameters
    ----------
    loss, point, where
        As for `central_difference`.
    name, index : str, tuple of int
        The entry.
    step : float, optional
        The first one, taken times max(1, |p|). By default 1e-3; it is halved, and the quotients extrapolated to 0.

    Examples
    --------
    >>> import numpy as np
    >>> slopes = one_sided_slopes(lambda p: np.sum(np.abs(p["w"]) + p["w"]), {"w": np.array([1.0, 0.0])}, "w", 1)
    >>> round(slopes.left, 9) + 0.0, round(slopes.right, 9), slopes.differ
    (0.0, 2.0, True)
    """
    width = positive_step(where, ONE_SIDED_STEP if step is None else step)
    function = Function(where, loss, point)
    middle = function.repeatable()
    function.measure_noise(middle)
    line = Line(function, name, checked_entry(where, function.work, name, index))
    found = one_sided(line, middle, width)
    function.require_unchanged()
    return found


# ---------------------------------------------------------------------------------------------- the scan of step sizes


@dataclass(frozen=True)
class StepScan:
    """Central differences of one entry over step sizes: what `step_scan` returns.

    Attributes
    ----------
    name, index, entry : str, tuple of int, float
        What was moved.
    steps, values : tuple of float
        The steps, largest first, and the differences.
    errors : tuple of float
        |value - reference|.
    reference, uncertainty : float
        What the errors are against, and how far that may be off itself; 0 where the caller gave it.
    best : int
        Where the error is smallest: on the left truncation rules, on the right rounding.
    """

    name: str
    index: Index
    entry: float
    steps: tuple[float, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]
    reference: float
    uncertainty: float
    best: int

    @property
    def best_step(self) -> float:
        """The step with the smallest error."""
        return self.steps[self.best]

    def __repr__(self) -> str:
        given = f" +- {self.uncertainty:.0e}" if self.uncertainty else ", given"
        lines = [
            f"step_scan: {entry_name(self.name, self.index)} = {self.entry:.6g}, "
            f"reference {self.reference:.15g}{given}",
            f"{'step':>8}  {'central difference':>22}  {'error':>8}",
        ]
        positive = [error for error in self.errors if error > 0]
        floor = math.log10(min(positive)) if positive else 0.0
        span = max(math.log10(max(positive)) - floor, 1.0) if positive else 1.0
        for i, (step, value, error) in enumerate(zip(self.steps, self.values, self.errors, strict=True)):
            bar = "#" * (1 + round(36 * (math.log10(error) - floor) / span)) if error > 0 else ""
            mark = " <- best" if i == self.best else ""
            lines.append(f"{step:8.1e}  {value:22.15e}  {error:8.1e}  {bar}{mark}")
        return "\n".join(lines)


def step_scan(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    name: str,
    index: int | Index,
    *,
    steps: Sequence[float] | None = None,
    reference: float | None = None,
    where: str = "step_scan",
) -> StepScan:
    """Show what the step size does to the central difference of one entry: truncation, rounding, and the best between.

    Parameters
    ----------
    loss, point, where
        As for `central_difference`.
    name, index : str, tuple of int
        The entry.
    steps : sequence of float, optional
        Times max(1, |p|). By default 1e-1, 1e-2, ... 1e-13.
    reference : float, optional
        The derivative, to measure errors against; by default Ridders' extrapolation, which cannot tell errors below its
        own uncertainty.

    Returns
    -------
    StepScan
        Its repr is the table.

    Examples
    --------
    >>> import numpy as np
    >>> point, steps = {"w": np.array([1.0])}, [1e-1, 1e-3, 1e-5, 1e-7]
    >>> scan = step_scan(lambda p: np.sum(np.exp(p["w"])), point, "w", 0, steps=steps)
    >>> scan.best_step
    1e-05
    >>> [f"{error:.0e}" for error in scan.errors[:2]]  # a hundredth of the step, a ten-thousandth of the error
    ['5e-03', '5e-07']
    """
    widths = [10.0**-i for i in range(1, 14)] if steps is None else [positive_step(where, step) for step in steps]
    if not widths:
        raise OptionError(f"{where}: steps must have at least one step; got none")
    widths.sort(reverse=True)
    function = Function(where, loss, point)
    middle = function.repeatable()
    function.measure_noise(middle)
    line = Line(function, name, checked_entry(where, function.work, name, index))
    uncertainty = 0.0
    if reference is None:
        reference, uncertainty, _ = ridders_estimate(line, middle, RIDDERS_STEP)
    values = tuple(_difference(*_pair(line, width * line.scale)) for width in widths)
    function.require_unchanged()
    errors = tuple(abs(value - reference) for value in values)
    best = min(range(len(errors)), key=errors.__getitem__)
    taken = tuple(width * line.scale for width in widths)
    return StepScan(name, line.index, line.value, taken, values, errors, float(reference), uncertainty, best)


# ---------------------------------------------------------------------------------------------- on a line


def central_estimate(line: Line | DirectedLine, middle: float, step: float) -> Estimate:
    """The central difference along a line, with its error: a third of what twice the step changes, and rounding."""
    near, far = (_pair(line, factor * step * line.scale) for factor in (1, 2))
    value, wide = _difference(*near), _difference(*far)
    error = abs(wide - value) / 3 + _rounding(line, step * line.scale)
    return Estimate(value, error, _kinked(line, middle, near, far))


def fourth_order_estimate(line: Line | DirectedLine, middle: float, step: float) -> Estimate:
    """The difference of fourth order along a line; its error: a 15th of what twice the step changes, and rounding."""
    near, far, farthest = (_pair(line, factor * step * line.scale) for factor in (1, 2, 4))
    value = (4 * _difference(*near) - _difference(*far)) / 3
    wide = (4 * _difference(*far) - _difference(*farthest)) / 3
    error = abs(wide - value) / 15 + 2 * _rounding(line, step * line.scale)
    return Estimate(value, error, _kinked(line, middle, near, far))


def ridders_estimate(line: Line | DirectedLine, middle: float, step: float) -> Estimate:
    """The central difference along a line, extrapolated to step 0, with its error.

    What a kink further out does to an extrapolation may look settled. So it must agree with one difference close by,
    or the next one begins further in.
    """
    near = _difference(*_pair(line, CENTRAL_STEP * line.scale))
    doubt = 10 * _rounding(line, CENTRAL_STEP * line.scale)
    best = Estimate(math.nan, math.inf, False)
    trouble: GradientCheckError | None = None
    for factor in RESTARTS:
        start = step * factor * line.scale
        pairs: list[tuple[Sample, Sample]] = []

        def quotient(width: float, pairs: list[tuple[Sample, Sample]] = pairs) -> float:
            pairs.append(_pair(line, width))
            return _difference(*pairs[-1])

        try:
            value, error, width = _extrapolated(quotient, start, RIDDERS_SHRINK, 2, RIDDERS_ROWS)
        except GradientCheckError as out_of_range:
            # Not finite so far out, as log near 0 is: further in it may be.
            trouble = out_of_range
            continue
        error += _rounding(line, width)
        gap = abs(value - near)
        if gap > 10 * error + doubt + 1e-6 * max(abs(value), abs(near)):
            error = max(error, gap)
        if error < best.error:
            best = Estimate(value, error, _kinked(line, middle, pairs[-1], pairs[0]))
        if error <= max(1e-8 * abs(value), 1000 * line.function.noise / start):
            break
    if math.isinf(best.error) and trouble is not None:
        raise trouble
    return best


def one_sided(line: Line, middle: float, step: float) -> Slopes:
    """The slopes along a line, from below and from above, each extrapolated to step 0.

    Of extrapolations that begin further and further in, the first is taken that the next one confirms, with an error
    that is no larger but for rounding, which grows inwards.
    """
    found: list[tuple[float, float]] = []
    for sign in (-1, 1):

        def quotient(width: float, sign: int = sign) -> float:
            sample = line(sign * width)
            return (sample.value - middle) / sample.step

        tries: list[tuple[float, float]] = []
        for factor in RESTARTS:
            value, error, width = _extrapolated(quotient, step * factor * line.scale, 2.0, 1, 7)
            tries.append((value, error + _rounding(line, width)))
            (before, doubt), (_, error) = tries[-2:] if len(tries) > 1 else (tries[-1], (0.0, -1.0))
            if doubt <= 10 * error and abs(before - value) <= 10 * (doubt + error):
                tries.pop()
                break
        found.append(tries[-1])
    (left, left_error), (right, right_error) = found
    return Slopes(left, right, left_error, right_error)


def positive_step(where: str, step: float) -> float:
    """Return a step as a float; what is no positive number is refused."""
    if not (isinstance(step, (int, float)) and math.isfinite(step) and step > 0):
        raise OptionError(f"{where}: step must be a positive number; got {step!r}")
    return float(step)


def _by_entry(
    where: str,
    loss: Loss,
    point: Mapping[str, ArrayLike],
    names: Iterable[str] | None,
    derivative: Callable[[Line], float],
) -> dict[str, Array]:
    function = Function(where, loss, point)
    chosen = chosen_names(where, function.work, names)
    function.repeatable()
    gradients = {name: np.zeros(function.work[name].shape) for name in chosen}
    for name, index in entries_of(function.work, chosen):
        gradients[name][index] = derivative(Line(function, name, index))
    function.require_unchanged()
    return gradients


def _pair(line: Line | DirectedLine, width: float) -> tuple[Sample, Sample]:
    return line(-width), line(width)


def _difference(lower: Sample, upper: Sample) -> float:
    # Divided by the step that was really taken: p + width is rounded.
    return (upper.value - lower.value) / (upper.step - lower.step)


def _rounding(line: Line | DirectedLine, width: float) -> float:
    """What rounding may do to a difference quotient of this width."""
    return 4 * line.function.noise / width


def _kinked(line: Line | DirectedLine, middle: float, near: tuple[Sample, Sample], far: tuple[Sample, Sample]) -> bool:
    """Whether the slopes on both sides differ by as much near as far; where L is smooth they differ in proportion."""
    gaps, widths = [], []
    for lower, upper in (near, far):
        gaps.append(abs((upper.value - middle) / upper.step - (middle - lower.value) / -lower.step))
        widths.append(upper.step)
    noise = 8 * _rounding(line, widths[0])
    return gaps[0] > noise and gaps[0] > gaps[1] * math.sqrt(widths[0] / widths[1])


def _extrapolated(
    quotient: Callable[[float], float], start: float, shrink: float, power: int, rows: int
) -> tuple[float, float, float]:
    """Extrapolate a quotient to step 0 by Neville's scheme; return the value, its error and the smallest step in it.

    The quotient's error is a series in step^power. Of all entries of the triangle that is taken which differs least
    from both it was made of, and twice that difference is its error. At least four rows are made; then no more where
    the last one is worse by far: from there on rounding rules.
    """
    row = [quotient(start)]
    best, error, width = row[0], math.inf, start
    for i in range(1, rows):
        current = start / shrink**i
        previous, row = row, [quotient(current)]
        for j in range(1, i + 1):
            factor = shrink ** (power * j)
            row.append((factor * row[j - 1] - previous[j - 1]) / (factor - 1))
            doubt = max(abs(row[j] - row[j - 1]), abs(row[j] - previous[j - 1]))
            if doubt <= error:
                best, error, width = row[j], doubt, current
        if i > 3 and abs(row[i] - previous[i - 1]) >= 2 * error:
            break
    return best, 2 * error, width
