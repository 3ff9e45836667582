"""What seems wrong where little can be told: whether it is right elsewhere.

A gate is rounded at the size of 1, however far it is shut: of what goes through it, 1e-30 say, an honest backward pass
may tell nothing, and neither points nearby nor the formulas say so. At a kink two slopes are right, and the reference
has one of them. In single precision numbers may be beyond what it holds. A mistake, however, is one at every point.
What is off by no more than rounding makes of open gates, or at a kink, is therefore looked at once more: where all
arrays are a tenth as large, a hundredth and so on, or where all have moved. If it is right there, it is not called
wrong here, nor right: it is undecided.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.layer_check import LayerCheck, away
from rnn_numpy.checks.loss_check import along_directions, eps_of, single_rows
from rnn_numpy.checks.report import OK, WRONG, Findings, Row, undecided
from rnn_numpy.checks.targets import LayerTarget, Point, Target
from rnn_numpy.checks.watch import Watch

Array = NDArray[Any]

# Towards 0 gates open; away from it what is nearly 0, as exp(u) - 1, gets its digits back.
SCALES = (0.1, 1e-2, 1e-3, 1e-6, 1e-9, 10.0, 100.0, 1e3)

# Gradients so near to the largest number of single precision have passed it on the way, perhaps.
BEYOND = 1e-3

# What is off may have so many units of rounding of what goes through an open gate.
UNITS = 64

SINGLE = "float32"

# At so many points nearby it is looked at whether an error is another one.
NEARBY = 8


def look_elsewhere(
    target: Target, layer: LayerCheck | None, found: Point, single: Point | None, findings: Findings, watch: Watch,
    seed: int,
) -> bool:  # fmt: skip
    """Make rows undecided that shut gates or a kink may explain, and that are right elsewhere; whether there were any.

    `layer` is the check of a recurrent layer, step by step; `found` and `single` are the claimed gradients.
    """
    excused = False
    for note, claimed in (("", found), (SINGLE, single)):
        wrong = [
            k for k, row in enumerate(findings.rows) if row.verdict == WRONG and (row.note == SINGLE) == bool(note)
        ]
        if not wrong:
            continue
        rows = [findings.rows[k] for k in wrong]
        told = None if claimed is None else _told(target, layer, rows, claimed, findings, watch, seed)
        if told is None:
            return excused
        for k in wrong:
            findings.rows[k] = undecided(findings.rows[k])
        findings.notes.append(f"what is off of {', '.join(dict.fromkeys(row.title for row in rows))} {told}")
        excused = True
    return excused


def _told(
    target: Target, layer: LayerCheck | None, rows: list[Row], claimed: Point, findings: Findings, watch: Watch,
    seed: int,
) -> str | None:  # fmt: skip
    """Return what explains that rows are off; None if nothing does."""
    single = rows[0].note == SINGLE
    shown = claimed if layer is None else {**layer.steps_found(), **claimed}
    reference = findings.reference if layer is None else {**findings.reference, **layer.steps_exact()}
    bounds = _open_gates(target, claimed, findings) if layer is None else layer.open_gates(UNITS, _eps(claimed))
    largest = max((float(np.abs(array).max(initial=0.0)) for array in findings.reference.values()), default=0.0)
    if single and largest > BEYOND * float(np.finfo(np.float32).max):
        return "is lost where numbers are beyond what single precision holds"
    if math.isinf(findings.growth):
        return "is lost where perturbations grow beyond the range of numbers"
    if _within(rows, target, shown, reference, bounds):
        for scale in SCALES:
            moved = target.at_point({name: scale * array for name, array in target.point.items()})
            if _right_there(moved, rows, single, layer is not None, watch, seed):
                return (
                    f"is no more than rounding makes of open gates, and right where all arrays are {scale:g} times as "
                    "large: few digits are left here to tell by"
                )
        if single and _fluctuates(target, rows, seed):
            return (
                "is no more than rounding makes of open gates, and another number at each point nearby: rounding, in "
                "single precision"
            )
    if layer is None or single or layer.chain.lost:  # differences have seen kinks already
        return None
    reference, bounds, count = layer.at_kinks()
    if count and _within(rows, target, shown, reference, bounds):
        point = away(target.point, seed)
        points = [{name: scale * array for name, array in point.items()} for scale in (1.0, *SCALES[:3])]
        if any(_right_there(target.at_point(point), rows, single, True, watch, seed) for point in points):
            places = f"{count} entries of recorded steps" if count > 1 else "an entry of a recorded step"
            return f"is so at a kink, where two slopes are right, at {places}; away from it all is right"
    return None


def _eps(claimed: Point) -> float:
    return max(eps_of(array) for array in claimed.values())


def _open_gates(target: Target, claimed: Point, findings: Findings) -> Point:
    """Return what rounding would make of the gradients of anything if all gates were open."""
    arrays = (*findings.reference.values(), *claimed.values())
    sizes = [float(np.abs(array).max(initial=0.0)) for array in arrays]
    largest = float(np.nanmax([abs(float(np.real(target.loss(target.point)))), *sizes]))
    # A gradient comes through weights: so much larger may it have been before.
    factor = max(1.0, *(float(np.abs(array).max(initial=0.0)) for array in target.point.values()))
    return {
        name: np.full(array.shape, UNITS * _eps(claimed) * largest * factor)
        for name, array in findings.reference.items()
    }


def _within(rows: list[Row], target: Target, claimed: Point, reference: Point, bounds: Point) -> bool:
    """Whether rows are off by no more than bounds allow."""
    for row in rows:
        if row.name not in reference or row.name not in claimed:
            return False
        part = dict(target.gates.get(row.name, [])).get(row.gate or "", ...)
        exact, bound = reference[row.name][part], bounds[row.name][part]
        gap = np.abs(claimed[row.name][part] - exact)
        if np.isnan(exact).all():  # along directions, all that is known are two slopes
            gap, bound = np.array(abs(row.analytic - row.reference)), bound.max(initial=0.0) * np.sqrt(exact.size)
        if not np.all((gap <= bound) | np.isnan(bound)):  # NaN: what rounding does leaves the range of numbers
            return False
    return True


def _fluctuates(target: Target, rows: list[Row], seed: int) -> bool:
    """Whether what rows of single precision are off by is another number at each point nearby, as rounding is."""
    rng = np.random.default_rng([seed, 14])
    errors: dict[str, list[Array]] = {row.title: [] for row in rows}
    for _ in range(NEARBY):
        point = {
            name: (array * (1 + 1e-3 * rng.uniform(-1, 1, array.shape))).astype(np.float32).astype(np.float64)
            for name, array in target.point.items()
        }
        other = target.at_point(point)
        exact, single = other.at(other.point), other.in_single()
        for row in rows:
            if row.name not in exact:
                return False
            part = dict(target.gates.get(row.name, [])).get(row.gate or "", ...)
            errors[row.title].append((single[row.name] - exact[row.name])[part].ravel())
    for each in errors.values():
        off = np.array(each)
        scale = np.abs(off).max()
        if not np.isfinite(scale) or (scale and _norm(off.mean(axis=0) / scale) > 0.75 * _norm(off / scale, NEARBY)):
            return False
    return True


def _norm(array: Array, count: int = 1) -> float:
    """Return the root of the sum of squares, divided by a count."""
    return float(np.sqrt(np.sum(array * array) / count))


def _right_there(target: Target, rows: list[Row], single: bool, stepwise: bool, watch: Watch, seed: int) -> bool:
    """Whether rows of these titles are right at another point."""
    titles, names = {row.title for row in rows}, list(dict.fromkeys(row.name for row in rows))
    names = [name for name in names if name in target.point]  # none where the steps alone are off
    with np.errstate(all="ignore"):
        there = [row for row in _rows_at(target, names, single, stepwise, watch, seed) if row.title in titles]
    there = [row for row in there if (row.note == SINGLE) == single]
    return len(there) == len(titles) and all(row.verdict == OK for row in there)


def _rows_at(target: Target, names: list[str], single: bool, stepwise: bool, watch: Watch, seed: int) -> list[Row]:
    found, rounding = target.analytic(), dict[str, Array]()
    if not all(np.isfinite(array).all() for array in found.values()):
        return []
    told = [np.any(array) for name, array in found.items() if not names or name in names]
    if not (all(told) if names else any(told)):  # of zeros, nothing is told
        return []
    if stepwise and isinstance(target, LayerTarget):
        check = LayerCheck(target, names or list(found), seed, watch)
        findings = check.compare(found)
        if findings is None or not single:
            return [] if findings is None else findings.rows
        rounding = check.tolerances.tensors
    if single:
        return single_rows(target, target.in_single(), names, seed, rounding)
    return along_directions(target, names, found, "directional", seed, watch).rows
