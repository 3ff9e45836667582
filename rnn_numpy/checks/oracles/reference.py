"""The gradient of a user's loss, with the best oracle that it allows, and what each entry may be off by.

A complex step where the loss is analytic and takes complex arrays; else Ridders' extrapolation, which knows its error.
Where the loss has a kink, there is no gradient but two slopes, and both are told.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnn_numpy.checks.oracles.analytic import advice, analytic_violations
from rnn_numpy.checks.oracles.complex_step import (
    COMPLEX_STEP,
    along_direction,
    compared,
    dropped_parts_are_errors,
    entry_derivative,
    require_real,
)
from rnn_numpy.checks.oracles.differences import (
    CENTRAL_STEP,
    FOURTH_ORDER_STEP,
    ONE_SIDED_STEP,
    RIDDERS_STEP,
    Estimate,
    central_estimate,
    fourth_order_estimate,
    one_sided,
    ridders_estimate,
)
from rnn_numpy.checks.oracles.function import (
    EPS,
    Array,
    DirectedLine,
    Function,
    Index,
    Line,
    Loss,
    checked_params,
    chosen_names,
    entries_of,
    entry_name,
    random_direction,
)
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError

Progress = Callable[[int, int, str], None]

DIFFERENCES: dict[str, tuple[Callable[[Line, float, float], Estimate], float]] = {
    "ridders": (ridders_estimate, RIDDERS_STEP),
    "fourth order": (fourth_order_estimate, FOURTH_ORDER_STEP),
    "central difference": (central_estimate, CENTRAL_STEP),
}
# A derivative below this, times the complex step, has fewer digits than a number should.
TINY = float(np.finfo(np.float64).tiny) / COMPLEX_STEP

# Rounding that moves a loss by more of its size than this is told of.
ROUGH_LOSS = 1e-10

METHODS = ("auto", "complex step", *DIFFERENCES)

# Products within a loss that underflow each lose the smallest number there is, over the step.
LOST = 64


@dataclass(frozen=True)
class Kink:
    """An entry along which a loss has two slopes.

    Attributes
    ----------
    name, index : str, tuple of int
        The entry.
    left, right : float
        The slopes from below and from above.
    """

    name: str
    index: Index
    left: float
    right: float

    def allows(self, analytic: float) -> bool:
        """Whether a derivative lies between both slopes, up to a millionth of the larger: it is a subgradient.

        Examples
        --------
        >>> Kink("w", (0,), 0.0, 1.0).allows(0.5), Kink("w", (0,), 0.0, 1.0).allows(1.5)
        (True, False)
        """
        slack = 1e-6 * max(abs(self.left), abs(self.right))
        return min(self.left, self.right) - slack <= analytic <= max(self.left, self.right) + slack

    def __str__(self) -> str:
        return f"{entry_name(self.name, self.index)}: slope {self.left:.6g} from below, {self.right:.6g} from above"


@dataclass(frozen=True)
class Reference:
    """A gradient by an oracle: what `reference_gradients` returns.

    Attributes
    ----------
    gradients, errors : dict of str to ndarray
        The derivative by each entry, and what it may be off by.
    method : str
        Which oracle was used.
    step : float
        Its step: of differences, times max(1, |p|), the first where there are many.
    notes : tuple of str
        What the reader should know: each a sentence.
    kinks : tuple of Kink
        Entries with two slopes. Their gradient is the mean of both, their error half of the distance.
    """

    gradients: dict[str, Array]
    errors: dict[str, Array]
    method: str
    step: float
    notes: tuple[str, ...]
    kinks: tuple[Kink, ...]


def reference_gradients(
    loss: Loss,
    params: Any,
    *,
    method: str = "auto",
    seed: int = 0,
    names: Iterable[str] | None = None,
    progress: Progress | None = None,
    where: str = "reference_gradients",
) -> Reference:
    """Differentiate a user's loss by every entry of its parameters, and say how far to trust each number.

    Parameters
    ----------
    loss : callable
        From a dict of arrays to one real number that depends on nothing else. The arrays are read-only.
    params : mapping of str to ndarray
        float64; float32 is taken at its values, in double precision.
    method : {"auto", "complex step", "ridders", "fourth order", "central difference"}
        "auto" is the complex step, where the loss takes complex arrays and is analytic, else "ridders"; a note says
        why.
    seed : int
        Of the directions along which it is found out whether the loss is analytic.
    names : iterable of str, optional
        The parameters by which to differentiate; all where left out.
    progress : callable, optional
        Called as progress(done, total, label) after each entry, for a progress bar.
    where : str
        The function that messages name.

    Raises
    ------
    DTypeError, OptionError, GradientCheckError
        As for `checked_params`; an unknown method or name.
    GradientCheckError
        The loss returns something else than one finite real number, another one on a second call, or modifies its
        arrays. For the method "complex step": the loss does not take complex arrays, or is not analytic.

    Notes
    -----
    Evaluations of the loss per entry: 1 for the complex step, 22 or more for Ridders, 6 for the fourth order, 4 for the
    central difference, some more at a kink. Finding out whether a complex step will do takes about 70.

    Errors. Those of differences are estimated from several steps, with the rounding of the loss added. A complex step
    has no error of its own; what rounding does to it is measured, by moving the parameters by a few units in the last
    place: where the dynamics are chaotic it is far more than eps.

    A kink is looked for at the point itself. Where one lies a little off, the steps stay on this side of it.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.array([1.0, -2.0, 0.0])}
    >>> found = reference_gradients(lambda p: np.sum(np.tanh(p["w"]) ** 2), params)
    >>> found.method, bool(found.errors["w"].max() < 1e-14)
    ('complex step', True)
    >>> found = reference_gradients(lambda p: np.sum(np.abs(p["w"])), params)
    >>> found.method, found.gradients["w"].round(9) + 0.0
    ('ridders', array([ 1., -1.,  0.]))
    >>> print(found.kinks[0])
    w[2]: slope -1 from below, 1 from above
    >>> print(found.notes[0])
    no complex step: loss must return a complex number for complex arrays; got float64: somewhere it drops the \
imaginary part, which carries the derivative: it uses absolute (write np.where(a.real < 0, -a, a))
    """
    if not isinstance(method, str) or method not in METHODS:
        raise OptionError(f"{where}: method must be one of {', '.join(map(repr, METHODS))}; got {method!r}")
    if progress is not None and not callable(progress):
        raise DTypeError(
            f"{where}: progress must be a function of done, total and label; got {type(progress).__name__}"
        )
    arrays, notes = checked_params(params, where=where)
    chosen = chosen_names(where, arrays, names)
    oracle = Oracle(where, loss, arrays, chosen, method, seed)
    told = [*notes, *oracle.notes]
    total = sum(arrays[name].size for name in chosen)
    gradients = {name: np.zeros(arrays[name].shape) for name in chosen}
    errors = {name: np.zeros(arrays[name].shape) for name in chosen}
    kinks: list[Kink] = []
    with oracle.watched():
        for done, (name, index) in enumerate(entries_of(arrays, chosen), start=1):
            gradients[name][index], errors[name][index], kink = oracle.entry(name, index)
            kinks += [] if kink is None else [kink]
            if progress is not None:
                progress(done, total, f"{oracle.method}: {name}")
        for name in chosen:
            errors[name] += oracle.rounding(name, float(np.max(np.abs(gradients[name]), initial=0.0)))
        oracle.require_unchanged()
    for name in chosen:
        if gradients[name].size and not gradients[name].any() and not any(kink.name == name for kink in kinks):
            bound = float(np.max(errors[name]))
            exact = oracle.method == "complex step"
            sure = "exactly 0" if exact else f"0 up to {bound:.0e}, as far as differences can tell"
            told.append(f"loss does not change with {name}: its gradient is {sure}")
    return Reference(gradients, errors, oracle.method, oracle.step, tuple(told), tuple(kinks))


class Oracle:
    """The derivative of a loss by an entry, or along a direction: by the best method that the loss allows.

    Attributes
    ----------
    method : str
        "complex step", or the differences that are taken.
    step : float
    notes : list of str
        What the reader should know: each a sentence.
    """

    def __init__(
        self, where: str, loss: Loss, arrays: dict[str, Array], names: list[str], method: str, seed: int
    ) -> None:
        self.notes: list[str] = []
        self._real = function = Function(where, loss, arrays)
        self._middle = function.repeatable()
        function.measure_noise(self._middle)
        if function.eps > EPS:
            told = f"loss returns a number with eps {function.eps:.1g}: in float64 differences would have more digits"
            self.notes.append(told)
        elif function.noise > ROUGH_LOSS * abs(self._middle):
            share = function.noise / abs(self._middle) if self._middle else math.inf
            self.notes.append(
                f"loss is rough: rounding moves it by {share:.0e} of its size, as numbers do that are rounded to a "
                "narrower dtype inside; in float64 throughout differences would have more digits"
            )
        if method in ("auto", "complex step"):
            possible, reason = complex_step_is_possible(where, loss, arrays, names, self._middle, seed)
            if not possible and method == "complex step":
                raise GradientCheckError(f"{where}: {reason}. Use method='ridders'")
            method = "complex step" if possible else "ridders"
            self.notes += [reason] if reason else []
        self.method, self.seed = method, seed
        self.is_exact = method == "complex step"
        self.step = COMPLEX_STEP if self.is_exact else DIFFERENCES[method][1]
        if method == "ridders" and self._middle:
            # The rougher the loss is, the further out differences tell most.
            self.step *= min(16.0, max(1.0, function.noise / (1e4 * EPS * abs(self._middle))) ** 0.125)
        self._complex = Function(where, loss, arrays, np.complex128)
        self._names = names

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Return what `entry` and `along` are to be called in: no imaginary part gets lost there."""
        if not self.is_exact:
            return contextlib.nullcontext()
        return dropped_parts_are_errors(self._complex, self._complex.kept, self._names)

    def entry(self, name: str, index: Index) -> tuple[float, float, Kink | None]:
        """Return the derivative by one entry, what it may be off by beyond `rounding`, and a kink if there is one."""
        if self.is_exact:
            return entry_derivative(self._complex, name, index, COMPLEX_STEP), 0.0, None
        estimate, step = DIFFERENCES[self.method][0], self.step
        line = Line(self._real, name, index)
        try:
            value, error, kinked = estimate(line, self._middle, step)
        except GradientCheckError:
            if not 0 < abs(line.value) < line.scale:
                raise
            line.scale = abs(line.value)  # near the edge of the domain, where a step of the size of 1 leads out of it
            value, error, kinked = estimate(line, self._middle, step)
        if not kinked:
            return value, error, None
        slopes = one_sided(line, self._middle, ONE_SIDED_STEP)
        value, error = (slopes.left + slopes.right) / 2, abs(slopes.right - slopes.left) / 2
        if slopes.differ:
            return value, error, Kink(name, index, slopes.left, slopes.right)
        return value, error + max(slopes.left_error, slopes.right_error), None

    def along(self, direction: dict[str, Array]) -> tuple[float, float]:
        """Return the slope along a direction, and what it may be off by: infinite where there is a kink.

        Of a complex step the second is by how much the slope changes with the last digits of all arrays, this once.
        """
        if self.is_exact:
            slope, moved = (along_direction(each, direction, COMPLEX_STEP) for each in (self._complex, self._nearby))
            return slope, abs(slope - moved)
        found = ridders_estimate(DirectedLine(self._real, direction), self._middle, RIDDERS_STEP)
        return found.value, math.inf if found.kinked else found.error

    @functools.cached_property
    def _nearby(self) -> Function:
        rng, real = np.random.default_rng([self.seed, 5]), self._real
        shaken = {
            name: array * (1 + 2 * EPS * rng.choice((-1.0, 1.0), array.shape)) for name, array in real.kept.items()
        }
        return Function(real.where, real.loss, shaken, np.complex128)

    def rounding(self, name: str, largest: float) -> float:
        """Return what rounding may do to the derivative by an entry of an array, beyond what `entry` says.

        Differences say all of it; of a complex step it is measured, relative to the largest derivative of the array.
        """
        if not self.is_exact:
            return 0.0
        lost = LOST * float(np.finfo(np.float64).smallest_subnormal) / COMPLEX_STEP
        # Of a derivative that leaves the range of numbers, times the step, few digits are left or none.
        vague = largest if largest < TINY else 0.0
        return 8 * EPS * largest + 2 * _sensitivity(self._complex, name, self.seed) + lost + vague

    def require_unchanged(self) -> None:
        """Raise if the loss has modified its arrays."""
        (self._complex if self.is_exact else self._real).require_unchanged()


def complex_step_is_possible(
    where: str, loss: Loss, arrays: dict[str, Array], names: list[str], middle: float, seed: int
) -> tuple[bool, str]:
    """Return whether a complex step will do, and a sentence where there is something to say."""
    if not any(arrays[name].size for name in names):
        return False, "no complex step: there is no entry to take it by"
    function = Function(where, loss, arrays, np.complex128)
    try:
        with dropped_parts_are_errors(function, arrays, names):
            value = require_real(function)
            if abs(value - middle) > 1e-8 * max(abs(value), abs(middle)):
                told = f"loss is {middle:.9g} for real arrays, {value:.9g} for the same as complex ones"
                return False, f"no complex step: {told}"
            function.measure_noise(value)
            rng = np.random.default_rng(seed)
            directions = [random_direction(arrays, names, rng) for _ in range(3)]
            ways = [_in_domain(Function(where, loss, arrays), direction) for direction in directions]
            test = compared(function, value, ways, COMPLEX_STEP)
            function.require_unchanged()
    except GradientCheckError as error:
        return False, f"no complex step: {str(error).removeprefix(f'{where}: ')}"
    except Exception as error:
        # Whatever a function that was written for real numbers does with complex ones.
        blame = advice(analytic_violations(loss, arrays, names=names))
        return False, f"no complex step: {takes_no_complex(error)}{f'; {blame}' if blame else ''}"
    if test.kinked:
        return False, "no complex step: loss has a kink at the point, of which it would see one side"
    largest = max(map(abs, test.by_difference), default=0.0)
    if 0 < largest < TINY:
        return False, f"no complex step: {too_small(largest)}"
    if test.analytic is False:
        test = replace(test, violations=tuple(analytic_violations(loss, arrays, names=names)))
        return False, f"no complex step: loss is not analytic; {test.explanation()}"
    if test.analytic is None:
        blame = advice(analytic_violations(loss, arrays, names=names))
        told = "that loss is analytic could not be confirmed: rounding or chaos hides its derivative from differences"
        return True, f"{told}{f'; {blame}' if blame else ''}"
    return True, ""


def takes_no_complex(error: Exception) -> str:
    """Return what to say of a loss that raises this where its arrays are complex."""
    raised = ": ".join(filter(None, [type(error).__name__, str(error)]))
    return f"loss does not take complex arrays, it raises {raised}"


def too_small(derivative: float) -> str:
    """Return what to say of a derivative below `TINY`."""
    return f"the derivative is {derivative:.0e}; times the step, it leaves the range of numbers"


def _in_domain(function: Function, direction: dict[str, Array]) -> dict[str, Array]:
    """Return a direction along which differences stay where a real loss is defined, as a logarithm is right of 0."""
    line = DirectedLine(function, direction)
    try:
        line(-RIDDERS_STEP), line(RIDDERS_STEP)
    except GradientCheckError:
        # Relative to each entry, where that is less than 1.
        sizes = {
            name: np.where(array == 0, 1.0, np.minimum(np.abs(array), 1.0)) for name, array in function.kept.items()
        }
        return {name: array * sizes[name] for name, array in direction.items()}
    return direction


def _sensitivity(function: Function, name: str, seed: int) -> float:
    """Return by how much the gradient of one array changes where all arrays change by a few units in the last place.

    Rounding within the loss is like such changes at every step. Measured along random directions whose entries are of
    size 1, so that no entry changes by much more.
    """
    rng = np.random.default_rng(seed)
    found = 0.0
    for _ in range(3):
        direction = {name: rng.standard_normal(function.kept[name].shape)}
        nearby = {
            each: array.real * (1 + 2 * EPS * rng.choice((-1.0, 1.0), array.shape))
            for each, array in function.kept.items()
        }
        other = Function(function.where, function.loss, nearby, np.complex128)
        change = along_direction(other, direction, COMPLEX_STEP) - along_direction(function, direction, COMPLEX_STEP)
        found = max(found, abs(change))
    return found
