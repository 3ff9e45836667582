"""Independent derivatives of a scalar function of named arrays, entry by entry.

Both oracles know the function by its values alone, so they share no mistake with a backward pass:

    central difference    (L(p + h) - L(p - h)) / 2h     for any real function; error about eps^(2/3) with the best h
    complex step          Im L(p + ih) / h               for functions that extend to complex arguments; no difference
    is taken, so h may be 1e-20 and the error is that of L itself

The function gets one dict of arrays, read-only, and must return one number that depends on nothing else.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError

Array = NDArray[Any]
Loss = Callable[[dict[str, Array]], Any]

# Balances the truncation error h^2 of a central difference with its rounding error eps / h.
CENTRAL_STEP = float(np.finfo(np.float64).eps ** (1 / 3))

# h^2 vanishes beside 1, while h * |dL/dp| stays in range for derivatives down to 1e-270.
COMPLEX_STEP = 1e-20


def central_difference(
    loss: Loss, point: Mapping[str, ArrayLike], *, names: Iterable[str] | None = None, step: float | None = None
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
        `loss` returns something else than a finite real number, or another one on a second call; a step is too small to
        change an entry.

    Notes
    -----
    Two evaluations of `loss` per entry.

    Examples
    --------
    >>> import numpy as np
    >>> central_difference(lambda p: np.sum(p["w"] ** 3), {"w": np.array([1.0, 2.0])})["w"].round(6)
    array([ 3., 12.])
    """
    where = "central_difference"
    h = _positive(where, CENTRAL_STEP if step is None else step)
    work = _work(where, point, np.float64)
    views = _views(work)
    first = _real(where, loss(views))
    if _real(where, loss(views)) != first:
        raise GradientCheckError(
            f"{where}: loss must return the same number for the same arrays; two calls differ. Fix its random numbers"
        )
    gradients = {name: np.zeros(work[name].shape) for name in _names(where, work, names)}
    for name, index in _entries(gradients):
        entries, value = work[name], work[name][index]
        width = h * max(1.0, abs(value))
        above, below = value + width, value - width
        if not below < value < above:
            raise GradientCheckError(f"{where}: step {width} does not change {name}{list(index)} = {value}; enlarge it")
        entries[index] = above
        upper = _real(where, loss(views))
        entries[index] = below
        lower = _real(where, loss(views))
        entries[index] = value
        # Divided by the step that was really taken: value + width is rounded.
        gradients[name][index] = (upper - lower) / (above - below)
    return gradients


def complex_step(
    loss: Loss, point: Mapping[str, ArrayLike], *, names: Iterable[str] | None = None, step: float = COMPLEX_STEP
) -> dict[str, Array]:
    """Differentiate `loss` by every entry of the named arrays, by the complex-step derivative.

    Parameters
    ----------
    loss : callable
        From a dict of complex128 arrays to a complex number, analytic in each entry: abs, norm, conj, vdot and `.real`
        are not, and the derivative is silently wrong where they stand.
    point : mapping of str to float64 array
        Where to differentiate.
    names : iterable of str, optional
        The arrays by which to differentiate; all where left out.
    step : float
        The imaginary part that is put on an entry.

    Returns
    -------
    dict of str to ndarray
        dL/d(name), float64, of the shape of the array.

    Raises
    ------
    DTypeError
        An array is not float64.
    OptionError
        An unknown name; a step that is not a positive number.
    GradientCheckError
        `loss` drops the imaginary part (NumPy's ComplexWarning counts as an error, and so does a result that is not
        complex), is not finite, or has an imaginary part at a real point.

    Notes
    -----
    One evaluation of `loss` per entry.

    Examples
    --------
    >>> import numpy as np
    >>> complex_step(lambda p: np.sum(np.tanh(p["w"])), {"w": np.array([0.5])})["w"] - (1 - np.tanh(0.5) ** 2)
    array([0.])
    >>> complex_step(lambda p: p["w"].real.sum(), {"w": np.array([0.5])})
    Traceback (most recent call last):
    ...
    rnn_numpy.errors.GradientCheckError: complex_step: loss must return a complex number for complex arrays; got \
float64: somewhere it drops the imaginary part, which carries the derivative
    """
    where = "complex_step"
    h = _positive(where, step)
    work = _work(where, point, np.complex128)
    views = _views(work)
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        if _complex(where, loss, views).imag != 0:
            raise GradientCheckError(
                f"{where}: loss must be real where its arguments are; it has an imaginary part before any step was "
                "taken, so it is not a function of the arrays alone"
            )
        gradients = {name: np.zeros(work[name].shape) for name in _names(where, work, names)}
        for name, index in _entries(gradients):
            value = work[name][index]
            work[name][index] = complex(value.real, h)
            gradients[name][index] = _complex(where, loss, views).imag / h
            work[name][index] = value
    return gradients


def _positive(where: str, step: float) -> float:
    if not (isinstance(step, (int, float)) and math.isfinite(step) and step > 0):
        raise OptionError(f"{where}: step must be a positive number; got {step!r}")
    return float(step)


def _work(where: str, point: Mapping[str, ArrayLike], dtype: type) -> dict[str, Array]:
    """Return contiguous copies of the arrays, in the dtype in which they are perturbed."""
    work: dict[str, Array] = {}
    for name, value in point.items():
        array = np.asarray(value)
        if array.dtype != np.float64:
            raise DTypeError(f"{where}: {name} must be a float64 array; got {array.dtype}. Convert the point first")
        work[name] = array.astype(dtype, order="C")
    return work


def _views(work: Mapping[str, Array]) -> dict[str, Array]:
    """Return read-only views: what the function sees. It can then not change its own argument unnoticed."""
    views = {name: array.view() for name, array in work.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _names(where: str, work: Mapping[str, Array], names: Iterable[str] | None) -> list[str]:
    chosen = list(work) if names is None else list(names)
    unknown = [name for name in chosen if name not in work]
    if unknown:
        raise OptionError(f"{where}: names must be among {list(work)}; got {unknown}")
    return chosen


def _entries(arrays: Mapping[str, Array]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            yield name, index


def _real(where: str, result: Any) -> float:
    array = np.asarray(result)
    if array.shape != () or array.dtype.kind not in "fiu":
        raise GradientCheckError(f"{where}: loss must return one real number; got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array):
        raise GradientCheckError(f"{where}: loss must return a finite number; got {array}")
    return float(array)


def _complex(where: str, loss: Loss, views: dict[str, Array]) -> complex:
    try:
        result = np.asarray(loss(views))
    except np.exceptions.ComplexWarning as warning:
        raise GradientCheckError(
            f"{where}: loss drops the imaginary part, which carries the derivative ({warning})"
        ) from warning
    if result.shape != ():
        raise GradientCheckError(f"{where}: loss must return one number; got an array of shape {result.shape}")
    if result.dtype.kind != "c":
        raise GradientCheckError(
            f"{where}: loss must return a complex number for complex arrays; got {result.dtype}: somewhere it drops "
            "the imaginary part, which carries the derivative"
        )
    if not np.isfinite(result):
        raise GradientCheckError(f"{where}: loss must return a finite number; got {result}")
    return complex(result)
