"""Verdicts on tensors: the rows of a report, from a gradient, its reference, and what rounding allows each entry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.report import OK, UNDECIDED, WRONG, Row, Trial

Array = NDArray[Any]
Gates = Mapping[str, list[tuple[str, slice]]]


@dataclass
class Findings:
    """What a comparison found.

    Attributes
    ----------
    method : str
    rows : list of Row
    reference : dict of str to ndarray
    trials : list of Trial
    notes : list of str
    kinks : list
    growth : float
        How much a random perturbation of the states grows, at most; NaN where it was not measured.
    """

    method: str
    rows: list[Row]
    reference: dict[str, Array]
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kinks: list[Any] = field(default_factory=list)
    growth: float = math.nan

    def tried(self, name: str, text: str, ok: bool, value: Any) -> None:
        """Add a further test."""
        self.trials.append(Trial(name, text, ok, value))


def rows_of(
    name: str,
    gates: Gates,
    analytic: Array,
    reference: Array,
    allowed: Array,
    *,
    kappa: Array | None = None,
    scale: Array | None = None,
    note: str = "",
) -> list[Row]:
    """Return a row for each gate's rows of a tensor, or one for all of it.

    Parameters
    ----------
    name : str
    gates : mapping of str to list of (str, slice)
        By tensor, the gates' rows.
    analytic, reference, allowed : ndarray
        The gradient, what it should be, and how far each entry may be off.
    kappa : ndarray, optional
        How much cancels in each entry.
    scale : ndarray, optional
        What the error of each entry is told relative to; the block's largest reference where left out.
    note : str
    """
    blocks: list[tuple[str | None, Any]] = list(gates.get(name, [])) or [(None, ...)]
    rows = []
    for gate, part in blocks:
        scales = None if scale is None else scale[part]
        block = analytic[part]
        index, error, bound, verdict = judged(block, reference[part], allowed[part], scales)
        at = index if gate is None or not index else (index[0] + part.start, *index[1:])
        value, truth = (float(analytic[at]), float(reference[at])) if block.size else (0.0, 0.0)
        cancels = math.nan if kappa is None or not block.size else float(kappa[at])
        rows.append(Row(name, gate, block.shape, error, at, value, truth, cancels, bound, verdict, note))
    return rows


def judged(
    analytic: Array, reference: Array, allowed: Array, scale: Array | None = None
) -> tuple[tuple[int, ...], float, float, str]:
    """Judge one block.

    Returns
    -------
    index : tuple of int
        The entry that is furthest off, measured against what it is allowed; the first that is not finite.
    error : float
        The largest error, relative to `scale`, or to the block's largest reference.
    bound : float
        The error that is allowed at `index`, relative likewise.
    verdict : str

    Examples
    --------
    >>> judged(np.array([1.0, 2.5]), np.array([1.0, 2.0]), np.array([0.1, 0.1]))
    ((1,), 0.25, 0.05, 'WRONG')
    """
    if not analytic.size:
        return (), 0.0, 0.0, OK
    bad = ~np.isfinite(analytic)
    if bad.any():
        return _position(bad), math.nan, 0.0, WRONG
    if scale is None:
        scale = np.full(reference.shape, float(np.abs(reference).max()))
    with np.errstate(over="ignore"):
        distance = np.minimum(np.abs(analytic - reference), np.finfo(np.float64).max)
        relative = np.divide(distance, scale, out=np.where(distance > 0, np.inf, 0.0), where=scale > 0)
        bounds = np.divide(allowed, scale, out=np.zeros(reference.shape), where=scale > 0)
        excess = np.divide(distance, allowed, out=np.where(distance > 0, np.inf, 0.0), where=allowed > 0)
    # Among entries that are allowed nothing, the one that is furthest off.
    worst = excess if np.isfinite(excess).all() else np.where(np.isinf(excess), 1 + distance / distance.max(), 0)
    index = _position(worst)
    return index, float(relative.max()), float(bounds[index]), OK if excess.max() <= 1 else WRONG


def undecided(row: Row) -> Row:
    """Return a row as one that was not decided."""
    return dataclasses.replace(row, verdict=UNDECIDED)


def step_scales(gradient: Array) -> Array:
    """Return, for each entry of an array over time, the largest entry of its step and sequence: early steps, where a
    gradient has vanished, are not judged by late ones.
    """
    scales: Array = np.abs(gradient).max(axis=-1, keepdims=True, initial=0.0) * np.ones_like(gradient)
    return scales


def kappas(gradient: Array, absolute: Array) -> Array:
    """Return the sum of absolute contributions over the absolute value of their sum, NaN where that is 0."""
    with np.errstate(over="ignore"):
        ratios: Array = np.divide(absolute, np.abs(gradient), out=np.full(gradient.shape, np.nan), where=gradient != 0)
    return ratios


def _position(values: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
