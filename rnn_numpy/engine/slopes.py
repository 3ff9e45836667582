"""Slopes of functions of one real number, of many at once, from differences: for formulas that no complex step can
pass.

Central differences at steps that are halved from one to the next are extrapolated to a step of 0 (Ridders 1982). Of
each entry the extrapolation is kept that its neighbours in the table contradict least; what they differ by, and what
rounding does to a difference at that step, is its error. At a kink a central difference is the mean of both slopes, and
never moves: its second differences tell, which fall with the step there, and with its square elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EPS = float(np.finfo(np.float64).eps)

FIRST_STEP, ROWS = 1 / 64, 13


class Slopes(NamedTuple):
    """Of each entry: its value at 0, its slope there, how far that may be off, and whether there is a kink, where it
    may be off by half of the distance between the slopes on both sides.
    """

    values: Array
    slopes: Array
    errors: Array
    kinks: NDArray[np.bool_]


def slopes(function: Callable[[float], Array]) -> Slopes:
    """Differentiate a function from a step to an array, at 0.

    Examples
    --------
    >>> found = slopes(lambda h: np.array([np.sin(1 + h), abs(h)]))
    >>> bool(abs(found.slopes[0] - np.cos(1)) < found.errors[0] < 1e-10), found.errors[1], found.kinks
    (True, np.float64(1.0), array([False,  True]))
    """
    with np.errstate(all="ignore"):
        middle = function(0.0)
        best, errors = np.zeros(middle.shape), np.full(middle.shape, np.inf)
        before: list[Array] = []
        bends: list[Array] = []
        step = FIRST_STEP
        for _ in range(ROWS):
            up, down = function(step), function(-step)
            size = np.maximum(np.maximum(np.abs(up), np.abs(down)), np.abs(middle))
            rounding = EPS * size / step
            row = [(up - down) / (2 * step)]
            bends.append(np.abs((up - middle) - (middle - down)) / step)
            for order, older in enumerate(before, start=1):
                newer = row[-1]
                row.append(newer + (newer - older) / (4.0**order - 1))
                error = np.maximum(np.abs(row[-1] - newer), np.abs(row[-1] - older)) + rounding
                better = error < errors
                best, errors = np.where(better, row[-1], best), np.where(better, error, errors)
            before, step = row, step / 2
        bend, wider = bends[-1], bends[-4]
        kinks = (bend > wider / 2) & (bend > 64 * rounding)
        errors = np.where(kinks, np.maximum(errors, bend / 2), errors)
    return Slopes(middle, best, errors, kinks)
