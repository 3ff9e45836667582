"""A reference with fifty digits: the loss itself, run on numbers of mpmath.

NumPy's arrays hold Python objects as well as floats, and its functions then ask each object for a method of their name:
np.tanh(a) calls a[i].tanh(). So the very code that runs in double precision runs with any number of digits, if it has
no buffer of a fixed dtype. The numbers' classes are those of an mpmath context of our own, to which these methods are
given; what a program does with mpmath beside it is not touched.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.checks.oracles.function import (
    Array,
    Function,
    Loss,
    chosen_names,
    entries_of,
    entry_name,
    random_direction,
)
from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import GradientCheckError, OptionError

METHODS = ("complex step", "central difference")

# What NumPy calls functions that mpmath has, where both names differ.
NAMES_IN_MPMATH = {
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: name for name in ("exp", "expm1", "log", "log1p", "log10", "sqrt", "cbrt", "floor", "ceil")},
    **{name: name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
}


def high_precision(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    digits: int = 50,
    names: Iterable[str] | None = None,
    *,
    method: str = "complex step",
    where: str = "high_precision",
) -> dict[str, Array]:
    """Differentiate `loss` by every entry of the named arrays, in numbers of `digits` digits.

    Parameters
    ----------
    loss : callable
        From a dict of arrays of objects, numbers of mpmath, to such a number. np.tanh, np.exp, `@`, in-place operators,
        comparisons and np.maximum work on them; an array of a float dtype cannot hold them.
    point : mapping of str to float64 array
        Where to differentiate. Its numbers are taken as they are, to all digits.
    digits : int
        Decimal ones, 20 to 1000. The loss is computed with twice as many, so that so many remain of the derivative.
    names : iterable of str, optional
        The arrays by which to differentiate; all where left out.
    method : {"complex step", "central difference"}
        The first has `digits` right digits for a derivative of any size, where the loss is analytic; it is compared
        with a difference along one direction. The second needs no more than a real function; its step is
        10^(-digits/2), and it sees derivatives down to about 10^-digits times the loss.
    where : str
        The function that messages name.

    Returns
    -------
    dict of str to ndarray
        dL/d(name), rounded once, to float64.

    Raises
    ------
    DTypeError, OptionError
        An array is not float64; an unknown name or method; digits out of range.
    GradientCheckError
        `loss` puts a number into an array of floats, or returns something else than a finite number of that kind; for
        the complex step: it is not analytic.
    MissingExtraError
        mpmath is not installed.

    Notes
    -----
    One evaluation per entry, or two. One operation takes a microsecond or more, some thousand times as long as on
    floats: for small nets and few steps.

    Examples
    --------
    >>> import numpy as np
    >>> found = high_precision(lambda p: np.sum(np.tanh(p["w"])), {"w": np.array([0.0, 20.0])})["w"]
    >>> found  # 1 - tanh(20)^2 is 0 in double precision
    array([1.00000000e+00, 1.69934170e-17])
    """
    if method not in METHODS:
        raise OptionError(f"{where}: method must be one of {', '.join(map(repr, METHODS))}; got {method!r}")
    if not 20 <= arguments.positive_int(where, "digits", digits) <= 1000:
        raise OptionError(f"{where}: digits must be from 20 to 1000; got {digits}")
    function = Function(where, loss, point)
    chosen = chosen_names(where, function.work, names)
    numbers = _context(where)
    # Twice the digits: mpmath has those of a complex number right together, and the imaginary part is far smaller.
    numbers.dps = 2 * digits + 10
    exact = {name: _objects(array, numbers) for name, array in function.work.items()}
    function.work = exact
    if method == "complex step":
        step = numbers.mpf(10) ** -digits
        _require_analytic(function, exact, chosen, numbers, step)
    else:
        step = numbers.mpf(10) ** (-digits // 2)
    gradients = {name: np.zeros(function.kept[name].shape) for name in chosen}
    for name, index in entries_of(function.kept, chosen):
        value = exact[name][index]
        if method == "complex step":
            exact[name][index] = numbers.mpc(value, step)
            derivative = numbers.im(_value(function, numbers)) / step
        else:
            exact[name][index] = value + step
            upper = _value(function, numbers)
            exact[name][index] = value - step
            derivative = (upper - _value(function, numbers)) / (2 * step)
            if numbers.im(derivative) != 0:
                raise GradientCheckError(f"{where}: loss must be real where {entry_name(name, index)} is")
        exact[name][index] = value
        gradients[name][index] = _rounded(numbers.re(derivative))
    return gradients


def _context(where: str) -> Any:
    """Return a context of mpmath whose numbers have the methods that NumPy's functions look up."""
    mpmath = optional_import("mpmath", f"{where}, which computes with many digits,", "mpmath")
    numbers = mpmath.MPContext()

    def method(function: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda number: function(number)

    methods: dict[str, Callable[..., Any]] = {
        name: method(getattr(numbers, theirs)) for name, theirs in NAMES_IN_MPMATH.items()
    }
    methods["exp2"] = lambda number: numbers.mpf(2) ** number
    methods["log2"] = lambda number: numbers.log(number) / numbers.log(2)

    def refused(number: Any) -> Any:
        raise GradientCheckError(
            f"{where}: loss must not put its numbers into an array of floats, where their digits are lost; allocate "
            "with np.empty_like, np.result_type or dtype=object"
        )

    methods["__float__"] = methods["__complex__"] = refused
    for kind in (numbers.mpf, numbers.mpc):
        for name, function in methods.items():
            setattr(kind, name, function)
    # NumPy orders complex numbers by their real, then by their imaginary parts; so maxima are what they are there.
    for name in ("lt", "le", "gt", "ge"):
        for kind in (numbers.mpf, numbers.mpc):
            setattr(kind, f"__{name}__", _ordering(numbers, getattr(operator, name), getattr(kind, f"__{name}__")))
    return numbers


def _ordering(
    numbers: Any, compare: Callable[[Any, Any], bool], real: Callable[[Any, Any], bool]
) -> Callable[[Any, Any], bool]:
    def ordered(one: Any, other: Any) -> bool:
        if isinstance(one, numbers.mpf) and not isinstance(other, numbers.mpc):
            return real(one, other)
        pairs = [(numbers.re(number), numbers.im(number)) for number in map(numbers.convert, (one, other))]
        return compare(*pairs)

    return ordered


def _objects(array: Array, numbers: Any) -> Array:
    exact = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        exact[index] = numbers.mpf(float(array[index]))
    return exact


def _value(function: Function, numbers: Any) -> Any:
    """Return the loss, a number of the context."""
    result = function.call()
    if isinstance(result, np.ndarray) and result.shape == ():
        result = result.item()
    if isinstance(result, np.ndarray):
        raise GradientCheckError(
            f"{function.where}: loss must return one number; got an array of shape {result.shape}. Sum it"
        )
    if not isinstance(result, (numbers.mpf, numbers.mpc)):
        raise GradientCheckError(
            f"{function.where}: loss must return a number of mpmath for arrays of such; got {type(result).__name__}: "
            "somewhere it converts to floats"
        )
    if not numbers.isfinite(result):
        raise GradientCheckError(f"{function.where}: loss must return a finite number; got {result}")
    return result


def _require_analytic(function: Function, exact: dict[str, Array], names: list[str], numbers: Any, step: Any) -> None:
    """Compare the complex step with a difference along one direction: abs and its kin drop the imaginary part."""
    if not any(function.kept[name].size for name in names):
        return
    along = random_direction(function.kept, names, np.random.default_rng(0))
    kept = {name: exact[name].copy() for name in names}

    def moved(factor: Any) -> Any:
        for name in names:
            exact[name][...] = kept[name] + factor * _objects(along[name], numbers)
        value = _value(function, numbers)
        for name in names:
            exact[name][...] = kept[name]
        return value

    half = numbers.sqrt(step)
    by_step = numbers.im(moved(numbers.mpc(0, step))) / step
    by_difference = numbers.re(moved(half) - moved(-half)) / (2 * half)
    middle = numbers.re(_value(function, numbers))
    # What rounding leaves of the difference: below it nothing can be told.
    noise = 1000 * numbers.eps * (abs(middle) + 1) / half
    larger = max(abs(by_step), abs(by_difference))
    if abs(by_step - by_difference) > noise + larger * numbers.sqrt(half):
        raise GradientCheckError(
            f"{function.where}: loss must be analytic for a complex step; along a random direction that gives "
            f"{numbers.nstr(by_step, 6)}, a difference gives {numbers.nstr(by_difference, 6)}. Use "
            "method='central difference', or see ANALYTIC_HAZARDS"
        )


def _rounded(number: Any) -> float:
    """Return the nearest float64; 0 or infinity where it is out of range."""
    libmp = optional_import("mpmath.libmp", "rounding a number of many digits", "mpmath")
    return float(libmp.to_float(number._mpf_, rnd=libmp.round_nearest))
