"""Numbers for strict JSON, which knows neither NaN nor infinity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def finite(value: float | None) -> float | None:
    """Return a number, or None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def plain(values: NDArray[np.float64]) -> list[float | None]:
    """Return an array as a list of Python's numbers, with None where one is not finite."""
    return [finite(value) for value in values.tolist()]
