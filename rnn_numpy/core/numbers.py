"""Numbers in words; for strict JSON, which knows neither NaN nor infinity; norms whose squares may leave the range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def count(number: int, noun: str) -> str:
    """Write a number of things.

    >>> count(1, "step"), count(3, "step")
    ('1 step', '3 steps')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_bytes(size: int) -> str:
    """Write a number of bytes.

    >>> in_bytes(800), in_bytes(67_500_000_000), in_bytes(8 * 10**12)
    ('800 bytes', '67.5 GB', '8 TB')
    """
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return count(size, "byte")


def finite(value: float | None) -> float | None:
    """Return a number, or None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def plain(values: NDArray[np.float64]) -> list[float | None]:
    """Return an array as a list of Python's numbers, with None where one is not finite."""
    return [finite(value) for value in values.tolist()]


def row_norms(array: NDArray[Any], axis: int = -1) -> NDArray[np.float64]:
    """Return Euclidean norms along an axis, right also where squares leave the range of floats; NaN where an entry is.

    >>> row_norms(np.array([[3.0, 4.0], [3e-200, 4e-200], [3e200, np.inf]]))
    array([5.e+000, 5.e-200,     inf])
    """
    letters = "abcdefgh"[: array.ndim]  # where the axis lies, it is summed over as it lies in memory
    rest = letters.replace(letters[axis], "")
    kind = np.result_type(array, np.float64)
    squares = np.asarray(np.einsum(f"{letters},{letters}->{rest}", array, array, dtype=kind))
    norms: NDArray[np.float64] = np.asarray(np.sqrt(squares))
    outside = ~((squares > 1e-270) & (squares < 1e270))
    if outside.any():
        outside &= np.asarray((array != 0).any(axis=axis))
        norms[outside] = _scaled_norms(np.moveaxis(array, axis, -1)[outside])
    return norms


def _scaled_norms(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the norms of rows, each scaled by its largest entry, so that no square under- or overflows."""
    largest = np.abs(rows).max(axis=-1, keepdims=True, initial=0.0).astype(np.float64)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    with np.errstate(over="ignore"):  # beside an infinite entry
        norms: NDArray[np.float64] = scale.squeeze(-1) * np.sqrt(np.square(rows / scale).sum(axis=-1))
    return norms


def largest_of(array: NDArray[Any]) -> float:
    """Return the largest absolute value of all entries, 0 where there are none; infinite or NaN where an entry is."""
    if array.dtype.kind == "f":  # twice as fast as with an array of absolute values
        return float(max(array.max(initial=0.0), -array.min(initial=0.0)))
    return float(np.max(np.abs(array), initial=0.0))


def norm_of(array: NDArray[Any]) -> float:
    """Return the Euclidean norm of all entries, free of overflow and underflow on the way."""
    largest = largest_of(array)
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm((array / array.dtype.type(largest)).ravel()))
