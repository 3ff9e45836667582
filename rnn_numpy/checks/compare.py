"""Comparison of a gradient with its reference, relative to the tensor.

No absolute tolerance decides: it would pass a gradient of zeros wherever the true one is small, which is exactly where
gradients vanish. Nor does the tolerance grow with the size of the tensor. The error is measured against the tensor's
largest reference entry, since an entry that nearly cancels carries the rounding errors of what cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.errors import DTypeError, GradientCheckError

Array = NDArray[Any]

# Two exact computations of one gradient that round in different orders, over a few dozen steps.
TOLERANCES: dict[str, float] = {"float32": 2e-5, "float64": 1e-12, "complex128": 1e-12}

# A float64 gradient against a derivative. Complex step has no truncation error. The central difference, at its best
# step, keeps about two thirds of the digits: 1e-9 typically, an order more where the third derivative is large.
ORACLE_TOLERANCES: dict[str, float] = {"complex step": 1e-13, "central difference": 1e-7}


@dataclass(frozen=True)
class Discrepancy:
    """How far an analytic gradient is from its reference.

    Attributes
    ----------
    error : float
        Largest |analytic - reference| over the tensor, divided by the largest |reference|; NaN where an entry is not
        finite, infinite where the reference is all zero and the gradient is not.
    index : tuple of int
        Where that is; of non-finite entries the first.
    analytic, reference : float or complex
        The two values there.
    scale : float
        The largest |reference|.
    """

    error: float
    index: tuple[int, ...]
    analytic: float | complex
    reference: float | complex
    scale: float

    def within(self, rtol: float) -> bool:
        """Whether the error is at most `rtol`; NaN never is."""
        return self.error <= rtol


def tolerance(dtype: DTypeLike) -> float:
    """Return the entry of `TOLERANCES` for a dtype.

    Raises
    ------
    DTypeError
        There is none: a gradient is float32, float64 or complex128.

    Examples
    --------
    >>> tolerance("float64")
    1e-12
    """
    name = np.dtype(dtype).name
    if name not in TOLERANCES:
        raise DTypeError(f"tolerance: dtype must be one of {', '.join(TOLERANCES)}; got {name}")
    return TOLERANCES[name]


def discrepancy(analytic: ArrayLike, reference: ArrayLike) -> Discrepancy:
    """Measure the distance of two arrays of one shape, relative to the second's largest entry.

    Parameters
    ----------
    analytic, reference : array_like
        Of one shape; empty arrays agree.

    Raises
    ------
    GradientCheckError
        The shapes differ: a gradient has the shape of what it is the gradient of.

    Examples
    --------
    >>> found = discrepancy([1.0, 2.0, 4.0], [1.0, 2.5, 4.0])
    >>> found.error, found.index, found.analytic, found.reference
    (0.125, (1,), 2.0, 2.5)
    >>> discrepancy([1e-100], [2e-100]).error  # small is not the same as equal
    0.5
    """
    ours, theirs = np.asarray(analytic), np.asarray(reference)
    if ours.shape != theirs.shape:
        raise GradientCheckError(f"discrepancy: shapes must be equal; got {ours.shape} and {theirs.shape}")
    if ours.size == 0:
        return Discrepancy(0.0, (), 0.0, 0.0, 0.0)
    bad = ~(np.isfinite(ours) & np.isfinite(theirs))
    if bad.any():
        index = _index(bad, ours.shape)
        return Discrepancy(np.nan, index, ours[index].item(), theirs[index].item(), np.nan)
    # Compared at double precision, and scaled first, so that neither huge nor tiny entries leave its range.
    scale = float(np.max(np.abs(theirs)))
    divisor = scale or float(np.max(np.abs(ours))) or 1.0
    kind = np.result_type(ours, theirs, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        distance = np.abs(ours.astype(kind) / divisor - theirs.astype(kind) / divisor)
    index = _index(distance, ours.shape)
    worst = float(distance[index])
    error = np.inf if scale == 0 and worst > 0 else worst
    return Discrepancy(error, index, ours[index].item(), theirs[index].item(), scale)


def assert_grad_close(name: str, analytic: ArrayLike, reference: ArrayLike, rtol: float | None = None) -> float:
    """Raise unless `analytic` is `reference` up to `rtol` times the reference's largest entry.

    Parameters
    ----------
    name : str
        For the message, as "dweight_hh_l0".
    analytic, reference : array_like
        Of one shape. A reference of zeros asks for exact zeros.
    rtol : float, optional
        By default that of the coarser of both dtypes, see `TOLERANCES`.

    Returns
    -------
    float
        The relative error that was found.

    Raises
    ------
    GradientCheckError
        With the worst index and both values there.

    Examples
    --------
    >>> assert_grad_close("dx", [1.0, 2.0], [1.0, 2.0])
    0.0
    >>> assert_grad_close("dx", [0.0, 0.0], [1e-30, 0.0])
    Traceback (most recent call last):
    ...
    rnn_numpy.errors.GradientCheckError: dx: error 1.0e+00 of the largest reference entry 1.0e-30, allowed 1.0e-12; \
worst at [0]: analytic 0.0, reference 1e-30
    """
    ours, theirs = np.asarray(analytic), np.asarray(reference)
    if ours.shape != theirs.shape:
        raise GradientCheckError(f"{name}: must have the shape of its reference, {theirs.shape}; got {ours.shape}")
    if rtol is None:
        rtol = max(tolerance(ours.dtype), tolerance(theirs.dtype))
    found = discrepancy(ours, theirs)
    if found.within(rtol):
        return found.error
    place = f"[{', '.join(map(str, found.index))}]: analytic {found.analytic}, reference {found.reference}"
    if np.isnan(found.error):
        raise GradientCheckError(f"{name}: every entry must be finite; first that is not at {place}")
    if found.scale == 0:
        raise GradientCheckError(f"{name}: must be exactly 0, as the reference is; worst at {place}")
    raise GradientCheckError(
        f"{name}: error {found.error:.1e} of the largest reference entry {found.scale:.1e}, allowed {rtol:.1e}; "
        f"worst at {place}"
    )


def _index(values: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), shape))
