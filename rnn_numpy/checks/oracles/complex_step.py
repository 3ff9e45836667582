"""Derivatives by a complex step, Im L(p + ih) / h: no difference is taken, so the error is that of L itself.

The step h. Truncation is of order h^2 relative to the scale on which L varies, so h^2 << eps: with h = 1e-20 nothing of
it is left, for any p that is not itself as small as h. And h |dL/dp| must be a normal number, above 1e-290 to keep all
digits of what it is summed with: 1e-20 gives full accuracy for derivatives down to 1e-270. Where still smaller ones
matter, h may be raised to 1e-10. A larger derivative is no difficulty.

What can go wrong is L: it must be analytic, and NumPy's functions of complex numbers are not all that. `complex_step`
therefore compares, along random directions, what the imaginary step says with what differences say, and names the
functions that are to blame where they disagree (`rnn_numpy.checks.oracles.analytic`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.checks.oracles.analytic import advice, analytic_violations, overflow
from rnn_numpy.checks.oracles.differences import (
    FOURTH_ORDER_STEP,
    RIDDERS_STEP,
    fourth_order_estimate,
    positive_step,
    ridders_estimate,
)
from rnn_numpy.checks.oracles.function import (
    Array,
    DirectedLine,
    Function,
    Index,
    Loss,
    checked_direction,
    chosen_names,
    entries_of,
    moved_along,
    random_direction,
    read_only,
)
from rnn_numpy.core import arguments
from rnn_numpy.errors import GradientCheckError

# h^2 vanishes beside 1, while h * |dL/dp| stays in range for derivatives down to 1e-270.
COMPLEX_STEP = 1e-20

Gradients = Callable[[dict[str, Array]], Mapping[str, Array]]


def complex_step(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    step: float = COMPLEX_STEP,
    batch: int | None = None,
    verify: bool = True,
    where: str = "complex_step",
) -> dict[str, Array]:
    """Differentiate `loss` by every entry of the named arrays, by the complex-step derivative.

    Parameters
    ----------
    loss : callable
        From a dict of complex128 arrays to a complex number, analytic in each entry.
    point : mapping of str to float64 array
        Where to differentiate.
    names : iterable of str, optional
        The arrays by which to differentiate; all where left out.
    step : float
        The imaginary part that is put on an entry: h^2 far below 1e-16, h |dL/dp| above 1e-290.
    batch : int, optional
        For a loss of many points at once: it gets arrays (K, *shape) with K up to `batch`, and returns K numbers, the
        k-th of which depends on nothing but the k-th rows. Row k has its step on an entry of its own.
    verify : bool
        Whether to make sure, along two random directions, that `loss` is analytic; see `cauchy_riemann`.
    where : str
        The function that messages name.

    Returns
    -------
    dict of str to ndarray
        dL/d(name), float64, of the shape of the array.

    Raises
    ------
    DTypeError
        An array is not float64.
    OptionError
        An unknown name; a step that is not a positive number; a batch below 1.
    GradientCheckError
        `loss` drops the imaginary part (NumPy's ComplexWarning counts as an error, and so does a result that is not
        complex), is not finite, has an imaginary part at a real point, modifies its arrays, or is not analytic; in a
        batch, a row depends on another.

    Notes
    -----
    One evaluation of `loss` per entry, or per `batch` entries, and 20 to verify. A batch needs K times the memory of
    the named arrays; others are handed in as views of one copy.

    Examples
    --------
    >>> import numpy as np
    >>> complex_step(lambda p: np.sum(np.tanh(p["w"])), {"w": np.array([0.5])})["w"] - (1 - np.tanh(0.5) ** 2)
    array([0.])
    >>> complex_step(lambda p: np.sum(np.tanh(p["w"]), axis=1), {"w": np.zeros(3)}, batch=2)["w"]
    array([1., 1., 1.])
    >>> complex_step(lambda p: p["w"].real.sum(), {"w": np.array([0.5])})
    Traceback (most recent call last):
    ...
    rnn_numpy.errors.GradientCheckError: complex_step: loss must return a complex number for complex arrays; got \
float64: somewhere it drops the imaginary part, which carries the derivative: it uses real (write a itself, but where \
the result does not depend on it, as in a shift of a softmax)
    """
    h = positive_step(where, step)
    if batch is not None:
        return _batched(where, loss, point, names, h, arguments.positive_int(where, "batch", batch), verify)
    function = Function(where, loss, point, np.complex128)
    chosen = chosen_names(where, function.work, names)
    gradients = {name: np.zeros(function.work[name].shape) for name in chosen}
    with dropped_parts_are_errors(function, point, chosen):
        require_real(function)
        if verify:
            _require_analytic(function, point, chosen, h)
        for name, index in entries_of(function.work, chosen):
            gradients[name][index] = entry_derivative(function, name, index, h)
        function.require_unchanged()
    return gradients


def directional_derivative(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    direction: Mapping[str, ArrayLike],
    *,
    step: float = COMPLEX_STEP,
    where: str = "directional_derivative",
) -> float:
    """Return the derivative of `loss` along a direction, <gradient, direction>, from one complex evaluation.

    Parameters
    ----------
    loss, point, where
        As for `complex_step`.
    direction : mapping of str to array
        Arrays of the point that move, each in the shape of its array; the others stay.
    step : float
        The largest imaginary part that is put on an entry.

    Returns
    -------
    float
        With an error of some eps times the norm of the gradient times that of the direction: not relative to the
        result, whose terms may cancel.

    Raises
    ------
    DTypeError, ShapeError, OptionError
        An array that is not float64, of another shape, or not of the point.
    GradientCheckError
        As for `complex_step`.

    Notes
    -----
    The check for models too large to go entry by entry. Whether the loss is analytic is `cauchy_riemann`'s question.

    Examples
    --------
    >>> import numpy as np
    >>> directional_derivative(lambda p: np.sum(p["w"] ** 2), {"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, -1.0])})
    -2.0
    """
    h = positive_step(where, step)
    function = Function(where, loss, point, np.complex128)
    along = checked_direction(where, function.work, direction)
    with dropped_parts_are_errors(function, point, list(along)):
        require_real(function)
        derivative = along_direction(function, along, h)
        function.require_unchanged()
    return derivative


# ---------------------------------------------------------------------------------------------- is it analytic?


@dataclass(frozen=True)
class CauchyRiemann:
    """Whether the imaginary step and differences say the same of a loss: what `cauchy_riemann` returns.

    Attributes
    ----------
    analytic : bool or None
        None where no direction could tell: rounding, chaos or a kink hide the derivative from the differences.
    by_step, by_difference, errors : tuple of float
        For each direction: Im L(p + ihv) / h, the real difference of L along v, and what the latter may be off by.
    kinked : bool
        Whether a direction met a kink at the point, where there is no derivative to compare.
    violations : tuple of str
        What the loss uses of `ANALYTIC_HAZARDS`.
    """

    analytic: bool | None
    by_step: tuple[float, ...]
    by_difference: tuple[float, ...]
    errors: tuple[float, ...]
    kinked: bool = False
    violations: tuple[str, ...] = ()

    def explanation(self) -> str:
        """What a message says of a loss that is not analytic."""
        k = max(range(len(self.by_step)), key=lambda k: abs(self.by_step[k] - self.by_difference[k]))
        blame = advice(self.violations) or (
            "no function known to lose it was seen, so it is behind a conversion such as np.asarray: look for abs, "
            "norm, conj, vdot, var and .real"
        )
        return (
            f"along a random direction its complex step gives {self.by_step[k]:.6g}, differences give "
            f"{self.by_difference[k]:.6g} +- {self.errors[k]:.0e}; {blame}"
        )


def cauchy_riemann(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    directions: int = 3,
    seed: int = 0,
    where: str = "cauchy_riemann",
) -> CauchyRiemann:
    """Test whether a loss is analytic: its derivative by an imaginary step must be that by a real one.

    Parameters
    ----------
    loss, point, names, where
        As for `complex_step`.
    directions : int
        How many random directions, of signed Gaussian numbers, are tried.
    seed : int
        Of the directions.

    Notes
    -----
    The real step is taken in complex arithmetic too: what is compared are the two Cauchy-Riemann derivatives of one
    function. Its differences are extrapolated by Ridders' scheme: 23 evaluations of `loss` per direction, up to 83. A
    share of the derivative below 1e-7 may still be lost unseen.

    Examples
    --------
    >>> import numpy as np
    >>> point = {"w": np.array([1.0, 2.0, 4.0])}
    >>> def softmax(p):
    ...     weights = np.exp(p["w"] - p["w"].real.max())  # a shift that drops out
    ...     return weights[0] / np.sum(weights)
    >>> test = cauchy_riemann(softmax, point)
    >>> test.analytic, test.violations
    (True, ('real',))
    >>> cauchy_riemann(lambda p: np.vdot(p["w"], p["w"]), point).analytic
    False
    """
    tries = arguments.positive_int(where, "directions", directions)
    function = Function(where, loss, point, np.complex128)
    chosen = chosen_names(where, function.work, names)
    with dropped_parts_are_errors(function, point, chosen):
        middle = require_real(function)
        function.measure_noise(middle)
        rng = np.random.default_rng(seed)
        along = [random_direction(function.kept, chosen, rng) for _ in range(tries)]
        test = compared(function, middle, along, COMPLEX_STEP)
        function.require_unchanged()
    found = analytic_violations(loss, point, names=chosen)
    return replace(test, violations=tuple(found))


# ---------------------------------------------------------------------------------------------- second derivatives


class Hessian(NamedTuple):
    """A matrix of second derivatives: what `hessian` returns.

    Attributes
    ----------
    matrix : ndarray, (n, n)
        Row and column of entry i of the named arrays, one after the other; row i is the derivative of gradient i.
    asymmetry : float
        The largest difference to the transpose, relative to the largest entry: a check of the gradients by themselves.
    slices : dict of str to slice
        Where each array lies.
    """

    matrix: Array
    asymmetry: float
    slices: dict[str, slice]


def hessian_vector(
    grads: Gradients,
    point: Mapping[str, ArrayLike],
    direction: Mapping[str, ArrayLike],
    *,
    step: float = COMPLEX_STEP,
    where: str = "hessian_vector",
) -> dict[str, Array]:
    """Return the Hessian times a direction: the derivative of a gradient along it, by one complex step.

    Parameters
    ----------
    grads : callable
        From a dict of complex128 arrays to a mapping with the gradient by each: a backward pass of a layer in
        complex128, say, fed without any conjugate.
    point, direction, step, where
        As for `directional_derivative`.

    Returns
    -------
    dict of str to ndarray
        By the names of the point.

    Raises
    ------
    DTypeError, ShapeError, OptionError
        As for `directional_derivative`.
    GradientCheckError
        A gradient is missing, not complex, of another shape or not finite; the function modifies its arrays.

    Notes
    -----
    One evaluation of `grads`. Where a framework differentiates its backward pass, here the same pass runs in complex
    numbers.

    Examples
    --------
    >>> import numpy as np
    >>> hessian_vector(lambda p: {"w": p["w"] ** 3}, {"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, 1.0])})["w"]
    array([ 3., 12.])
    """
    h = positive_step(where, step)
    function = Function(where, grads, point, np.complex128, argument="grads")
    along = checked_direction(where, function.work, direction)
    return _gradient_derivative(function, along, h)


def hessian(
    grads: Gradients,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    step: float = COMPLEX_STEP,
    where: str = "hessian",
) -> Hessian:
    """Return the matrix of second derivatives, a column per complex step of a gradient.

    Parameters
    ----------
    grads, point, step, where
        As for `hessian_vector`.
    names : iterable of str, optional
        The arrays whose block is wanted; all where left out.

    Notes
    -----
    One evaluation of `grads` and n numbers per entry: for small problems.

    Examples
    --------
    >>> import numpy as np
    >>> found = hessian(lambda p: {"w": p["w"][::-1] * 2.0, "b": 6 * p["b"]}, {"w": np.ones(2), "b": np.array(1.0)})
    >>> found.matrix
    array([[0., 2., 0.],
           [2., 0., 0.],
           [0., 0., 6.]])
    >>> found.asymmetry, found.slices["b"]
    (0.0, slice(2, 3, None))
    """
    h = positive_step(where, step)
    function = Function(where, grads, point, np.complex128, argument="grads")
    chosen = chosen_names(where, function.work, names)
    slices: dict[str, slice] = {}
    size = 0
    for name in chosen:
        slices[name] = slice(size, size + function.work[name].size)
        size = slices[name].stop
    matrix = np.zeros((size, size))
    for column, (name, index) in enumerate(entries_of(function.kept, chosen)):
        unit = np.zeros(function.kept[name].shape)
        unit[index] = 1.0
        found = _gradient_derivative(function, {name: unit}, h)
        matrix[:, column] = np.concatenate([found[each].ravel() for each in chosen])
    largest = float(np.max(np.abs(matrix), initial=0.0))
    gap = float(np.max(np.abs(matrix - matrix.T), initial=0.0))
    return Hessian(matrix, gap / largest if largest else 0.0, slices)


def _gradient_derivative(function: Function, direction: Mapping[str, Array], h: float) -> dict[str, Array]:
    """Return the derivative of a function of gradients along a direction, from one evaluation."""
    where = function.where
    largest = max((float(np.max(np.abs(array), initial=0.0)) for array in direction.values()), default=0.0)
    scale = largest or 1.0
    with moved_along(function, {name: array / scale for name, array in direction.items()}, 1j * h):
        result = function.call()
    function.require_unchanged()
    found: dict[str, Array] = {}
    for name, array in function.work.items():
        if name not in result:
            raise GradientCheckError(f"{where}: grads must return a gradient for each array; {name!r} is missing")
        gradient = np.asarray(result[name])
        if gradient.dtype.kind != "c" or gradient.shape != array.shape:
            raise GradientCheckError(
                f"{where}: grads must return a complex array of shape {array.shape} for {name!r}, at complex arrays; "
                f"got {gradient.dtype} of shape {gradient.shape}"
            )
        if not np.isfinite(gradient).all():
            raise GradientCheckError(f"{where}: the gradient of {name!r} must be finite")
        found[name] = gradient.imag / h * scale
    return found


# ---------------------------------------------------------------------------------------------- single steps


def require_real(function: Function) -> float:
    """Return the loss at the real point, evaluated in complex arithmetic; it must have no imaginary part there."""
    value = function.complex_value()
    function.require_unchanged()
    if value.imag != 0:
        raise GradientCheckError(
            f"{function.where}: {function.argument} must be real where its arguments are; it has an imaginary part "
            "before any step was taken, so it is not a function of the arrays alone"
        )
    return value.real


def entry_derivative(function: Function, name: str, index: Index, h: float) -> float:
    """Return the derivative by one entry, from one evaluation."""
    entries = function.work[name]
    value = entries[index]
    entries[index] = complex(value.real, h)
    derivative = function.complex_value().imag / h
    entries[index] = value
    return derivative


def along_direction(function: Function, direction: Mapping[str, Array], h: float) -> float:
    """Return the derivative along a direction whose largest entry takes the step h, from one evaluation."""
    largest = max((float(np.max(np.abs(array), initial=0.0)) for array in direction.values()), default=0.0)
    if largest == 0:
        return 0.0
    # Scaled before the step: h * direction must be in range whatever the length of the direction.
    scaled = {name: array / largest for name, array in direction.items()}
    with moved_along(function, scaled, 1j * h):
        return function.complex_value().imag / h * largest


@contextmanager
def dropped_parts_are_errors(function: Function, point: Mapping[str, ArrayLike], names: list[str]) -> Iterator[None]:
    """Let no imaginary part get lost: NumPy's warning is an error, and a message says by which function."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            yield
    except np.exceptions.ComplexWarning as warning:
        raise GradientCheckError(
            f"{function.where}: {function.argument} drops the imaginary part, which carries the derivative "
            f"({warning}): allocate with np.result_type, and convert by nothing but .astype(complex)"
        ) from warning
    except GradientCheckError as error:
        if "got nan" in str(error) and (blame := overflow(function.loss, point, names=names)):
            told = str(error).partition("got nan")[0]
            raise GradientCheckError(f"{told}got nan: {blame}") from None
        if "somewhere it drops" not in str(error):
            raise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            blame = advice(analytic_violations(function.loss, point, names=names))
        raise GradientCheckError(f"{error}: {blame}" if blame else str(error)) from None


def _require_analytic(function: Function, point: Mapping[str, ArrayLike], names: list[str], h: float) -> None:
    test = contradiction(function, names, h)
    if test is not None and test.analytic is False:
        found = tuple(analytic_violations(function.loss, point, names=names))
        told = replace(test, violations=found)
        raise GradientCheckError(
            f"{function.where}: {function.argument} must be analytic for a complex step; {told.explanation()}"
        )


def contradiction(function: Function, names: list[str], h: float) -> CauchyRiemann | None:
    """Return the comparison along the first of two directions on which a quick difference contradicts the complex step,
    and something is the matter: None where there is none.
    """
    if not any(function.work[name].size for name in names):
        return None
    middle = require_real(function)
    function.measure_noise(middle)
    rng = np.random.default_rng(0)
    for _ in range(2):
        direction = random_direction(function.kept, names, rng)
        by_step = along_direction(function, direction, h)
        quick = fourth_order_estimate(DirectedLine(function, direction), middle, FOURTH_ORDER_STEP)
        if abs(by_step - quick.value) <= 10 * quick.error + 1e-7 * abs(by_step):
            continue
        test = compared(function, middle, [direction], h)
        if test.analytic is False or test.kinked:
            return test
    return None


def compared(function: Function, middle: float, directions: list[dict[str, Array]], h: float) -> CauchyRiemann:
    """Compare both derivatives along each direction."""
    by_step = [along_direction(function, direction, h) for direction in directions]
    estimates = [ridders_estimate(DirectedLine(function, way), middle, RIDDERS_STEP) for way in directions]
    told: list[bool | None] = []
    for derivative, found in zip(by_step, estimates, strict=True):
        larger = max(abs(derivative), abs(found.value))
        gap = abs(derivative - found.value)
        # In chaos no step is small enough for a difference, and none of its digits is right.
        settled = found.error <= max(1e-3 * abs(found.value), 1e-6 * abs(middle))
        if found.kinked or not settled or (larger <= 10 * found.error and gap <= 10 * found.error):
            told.append(None)
        else:
            told.append(gap <= 10 * found.error + 1e-7 * larger)
    analytic = False if False in told else (True if True in told else None)
    values, errors = tuple(each.value for each in estimates), tuple(each.error for each in estimates)
    return CauchyRiemann(analytic, tuple(by_step), values, errors, any(each.kinked for each in estimates))


# ---------------------------------------------------------------------------------------------- many steps at once


def _batched(
    where: str,
    loss: Loss,
    point: Mapping[str, ArrayLike],
    names: Iterable[str] | None,
    h: float,
    batch: int,
    verify: bool,
) -> dict[str, Array]:
    single = Function(where, loss, point, np.complex128)
    chosen = chosen_names(where, single.work, names)
    gradients = {name: np.zeros(single.work[name].shape) for name in chosen}
    entries = list(entries_of(single.kept, chosen))
    rows = max(2, min(batch, len(entries)))

    def call(steps: list[tuple[str, Index]]) -> Array:
        """Return the imaginary parts of the rows, row k with its step on entry k; rows without one have none."""
        arrays = {}
        for name, array in single.kept.items():
            # What stays is one copy, seen by all rows.
            arrays[name] = (
                np.repeat(array[None], rows, axis=0) if name in chosen else np.broadcast_to(array, (rows, *array.shape))
            )
        for k, (name, index) in enumerate(steps):
            arrays[name][(k, *index)] += 1j * h
        result = np.asarray(loss(read_only(arrays)))
        if result.shape != (rows,):
            raise GradientCheckError(
                f"{where}: loss must return one number for each of the K = {rows} rows of a batch, shape (K,); "
                f"got shape {result.shape}"
            )
        if result.dtype.kind != "c":
            raise GradientCheckError(
                f"{where}: loss must return a complex number for complex arrays; got {result.dtype}: somewhere it "
                "drops the imaginary part, which carries the derivative"
            )
        if not np.isfinite(result).all():
            raise GradientCheckError(f"{where}: loss must return finite numbers; got {result[~np.isfinite(result)][0]}")
        return result.imag

    def first_row(arrays: dict[str, Array]) -> Any:
        return loss({name: np.repeat(array[None], rows, axis=0) for name, array in arrays.items()})[0]

    with dropped_parts_are_errors(single, point, []):
        if np.any(call([]) != 0):
            raise GradientCheckError(
                f"{where}: loss must be real where its arguments are; it has an imaginary part before any step was "
                "taken"
            )
        if entries and np.any(call([entries[0]])[1:] != 0):
            raise GradientCheckError(
                f"{where}: row k of what loss returns must depend on the rows k of its arrays alone; a step in row 0 "
                "shows in another row. Does it sum over the first axis?"
            )
        if verify:
            _require_analytic(Function(where, first_row, point, np.complex128), point, chosen, h)
        for start in range(0, len(entries), rows):
            part = entries[start : start + rows]
            for (name, index), derivative in zip(part, call(part) / h, strict=False):
                gradients[name][index] = derivative
    return gradients
