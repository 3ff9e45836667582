"""What the wrong tensors of a gradient have in common with the right ones: factors, transposes, rows of gates
exchanged.

Nothing is known here but the gradient, the reference, and the point: it serves functions of one's own as well as
layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.oracles.function import norm
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.targets import LayerTarget, Point, Target

Array = NDArray[Any]

# Two gradients that agree to this, of their largest entry, are taken to be made by one mistake.
MATCH = 1e-7


def close(found: Array, expected: Array, tolerance: float = MATCH) -> bool:
    """Whether two arrays agree, relative to the largest entry of the second; zeros agree with zeros alone."""
    if not np.isfinite(expected).all() or not np.isfinite(found).all():
        return False
    scale = float(np.abs(expected).max(initial=0.0))
    return float(np.abs(found - expected).max(initial=0.0)) <= tolerance * scale


def matches(name: str, found: Array, expected: Array) -> bool:
    """Whether two gradients agree; of x, step by step, each at its own size."""
    if name != "x":
        return close(found, expected)
    scale = np.abs(expected).max(axis=-1, keepdims=True, initial=0.0)
    return bool(np.all(np.abs(found - expected) <= MATCH * scale))


def common_pattern(target: Target, analytic: Point, reference: Point, rows: Sequence[Row]) -> Diagnosis | None:
    """Find what the wrong tensors have in common with the right ones."""
    wrong = sorted(
        {row.name for row in rows if row.verdict == WRONG and row.name in analytic and row.name in reference}
    )
    wrong = [name for name in wrong if not matches(name, analytic[name], reference[name])]
    if not wrong:
        return None  # by so little that no relation could be told from rounding
    titles = ", ".join(wrong)
    biases = all("bias" in name or name.split(".")[-1].startswith("b") for name in wrong)
    if all(not np.any(analytic[name]) for name in wrong):
        if biases:
            return Diagnosis("bias ignored", f"the gradient of {titles} is 0 throughout")
        return Diagnosis("never accumulated", f"the gradient of {titles} is 0 throughout: it was never added to")
    for name in wrong:
        if name in target.point and name not in ("x",) and np.any(target.point[name]):
            extra = analytic[name] - reference[name]
            if close(extra, target.point[name]):
                why = f"the gradient of {name} is the right one plus {name} itself"
                return Diagnosis("starts as the weights", why)
    if not any(np.any(reference[name]) for name in wrong):
        return Diagnosis("wrong derivative", f"the loss does not change with {titles}: the gradient must be exactly 0")
    factors = [_factor(analytic[name], reference[name]) for name in wrong]
    if all(factor is not None for factor in factors):
        values = [float(factor) for factor in factors if factor is not None]
        if np.ptp(values) <= 1e-6 * abs(values[0]):
            return _by_factor(target, analytic, reference, wrong, values[0], biases)
    flushed = _flushed(analytic, reference, wrong)
    if flushed is not None:
        return flushed
    for name in wrong:
        limit = float(np.abs(analytic[name]).max())
        if 0 < limit < float(np.abs(reference[name]).max()) and close(
            analytic[name], np.clip(reference[name], -limit, limit)
        ):
            return Diagnosis("clipped", f"the entries of {name} are limited to ±{limit:.6g}: clipped before the check")
    gates = _permuted(target, analytic, reference, wrong)
    if gates is not None:
        return gates
    for name in wrong:
        turned = _block_transposed(target, name, reference[name])
        if turned is not None and close(analytic[name], turned):
            return Diagnosis("transposed", f"the gradient of {name} is the transpose of the right one")
    for name in wrong:
        twin = name.replace("bias_hh", "bias_ih")
        if twin != name and twin in reference and close(analytic[name], reference[twin]):
            why = (
                f"{name} has the gradient of {twin}: the two differ where the reset gate acts on the hidden side alone"
            )
            return Diagnosis("reset on the wrong side", why)
    for name in wrong:
        is_state = name.endswith("_0") or name.startswith("given[")
        if is_state and analytic[name].ndim == 3 and analytic[name].shape[1] <= 6:
            for order in itertools.permutations(range(analytic[name].shape[1])):
                if order != tuple(sorted(order)) and close(analytic[name], reference[name][:, list(order)]):
                    why = f"d{name} has the sequences in the order {list(order)}: sorted by length, and not sorted back"
                    return Diagnosis("batch mixed", why)
    held = {name: _held(name, analytic[name], reference) for name in wrong}
    if all(held.values()):
        why = "; ".join(f"{name} has the gradient of {other}" for name, other in held.items())
        return Diagnosis("gates swapped", why)
    return None


def _held(name: str, found: Array, reference: Point) -> str | None:
    """Return another array whose gradient this one has."""
    alike = (other for other, array in reference.items() if other != name and array.shape == found.shape)
    return next((other for other in alike if close(found, reference[other])), None)


def cut_another_way(found: Array, expected: Array) -> str | None:
    """Say how axes have been exchanged and cut anew by `reshape`, which moves the numbers; None where they have not."""
    for order in itertools.permutations(range(expected.ndim)):
        turned = expected.transpose(order)
        again = turned.reshape(expected.shape)
        if order != tuple(range(expected.ndim)) and not close(again, expected) and close(found, again):
            return (
                f"the right numbers in another order: of shape {turned.shape}, reshaped where axes are to be exchanged"
            )
    return None


def on_a_grid(arrays: Sequence[Array]) -> str | None:
    """Say of what step all numbers are multiples, each array's largest being no more than 2^16 of them."""
    numbers = np.concatenate([array.ravel() for array in arrays])
    if np.count_nonzero(numbers) <= 8:
        return None
    largest = float(np.abs(numbers).max())
    steps = {f"2^{power}": 2.0**power for power in range(-52, 20)} | {f"10^{n}": 10.0**n for n in range(-12, 4)}
    for title, step in sorted(steps.items(), key=lambda pair: -pair[1]):
        whole = np.round(numbers / step)
        if largest > 2.0**16 * step or len(np.unique(np.abs(whole))) <= 4:  # such as are clipped, or signs, are few
            continue
        if np.abs(numbers / step - whole).max() <= 1e-9:
            return f"multiples of {title}"
    return None


def _factor(found: Array, expected: Array) -> float | None:
    """Return c where found = c expected."""
    scale = float(np.abs(expected).max(initial=0.0))
    if scale == 0:
        return None
    index = int(np.argmax(np.abs(expected)))
    factor = float(found.flat[index] / expected.flat[index])
    # What is as far from 1 as entries may be from each other is no factor.
    told = abs(factor - 1) > 10 * MATCH and np.abs(found - factor * expected).max() <= MATCH * abs(factor) * scale
    return factor if told else None


def _by_factor(
    target: Target, analytic: Point, reference: Point, wrong: list[str], factor: float, biases: bool
) -> Diagnosis:
    titles = ", ".join(wrong)
    if abs(factor + 1) < 1e-9:
        return Diagnosis("sign", f"{titles}: the negative of the right gradient")
    if biases and abs(factor - 2) < 1e-9:
        return Diagnosis("bias doubled", f"the gradient of {titles} is twice the right one: it is added to twice")
    N = _batch(target)
    if N > 1 and (abs(factor - N) < 1e-6 * N or abs(factor - 1 / N) < 1e-6):
        word = f"{N}, the number of sequences," if factor > 1 else f"1/{N}, with {N} the number of sequences,"
        return Diagnosis(
            "missing 1/N", f"{titles}: {word} times the right gradient: a mean taken for a sum, or a sum for a mean"
        )
    parameters = [name for name in wrong if name not in ("x",) and not name.endswith("_0")]
    joint = norm({name: analytic[name] for name in parameters})
    for value, what in (
        (joint, "the norm of all of them together"),
        (_largest(analytic, parameters), "the largest entry"),
    ):
        if 0 < factor < 1 and value > 0 and abs(value - float(f"{value:.2g}")) <= 1e-7 * value:
            why = (
                f"{titles}: {factor:.6g} times the right gradient, and {what} is {value:.6g}: clipped before the check"
            )
            return Diagnosis("clipped", why)
    return Diagnosis("constant factor", f"{titles}: {factor:.9g} times the right gradient")


def _largest(analytic: Point, names: Sequence[str]) -> float:
    return max((float(np.abs(analytic[name]).max(initial=0.0)) for name in names), default=0.0)


def _batch(target: Target) -> int:
    if not isinstance(target, LayerTarget) or target.x.ndim != 3:
        return 1
    return int(target.x.shape[0 if getattr(target.layer, "batch_first", False) else 1])


def _flushed(analytic: Point, reference: Point, wrong: Sequence[str]) -> Diagnosis | None:
    """Whether entries below some size are 0, and all others right."""
    for name in wrong:
        found, expected = analytic[name], reference[name]
        zeroed = (found == 0) & (expected != 0)
        if not zeroed.any() or not (~zeroed).any():
            continue
        limit = float(np.abs(expected[zeroed]).max())
        rest = np.abs(found - expected)[~zeroed]
        kept = np.abs(expected[~zeroed])
        if limit <= kept[kept > 0].min(initial=np.inf) * 1.0001 and np.all(rest <= 1e-6 * kept):
            return Diagnosis(
                "small gradients flushed", f"entries of {name} smaller than {limit:.1e} are 0, all others right"
            )
    return None


def _permuted(target: Target, analytic: Point, reference: Point, wrong: Sequence[str]) -> Diagnosis | None:
    """Whether the rows of gates stand in each other's places."""
    for name in wrong:
        gates = target.gates.get(name, [])
        for order in itertools.product(range(len(gates)), repeat=len(gates)):
            if order == tuple(range(len(gates))):
                continue
            guess = np.concatenate([reference[name][gates[k][1]] for k in order])
            if close(analytic[name], guess):
                moved = ", ".join(
                    f"{gate} has the rows of {gates[k][0]}"
                    for (gate, _), k in zip(gates, order, strict=True)
                    if gates[k][0] != gate
                )
                return Diagnosis("gates swapped", f"in the gradient of {name}, {moved}")
    return None


def _block_transposed(target: Target, name: str, expected: Array) -> Array | None:
    if expected.ndim != 2:
        return None
    blocks = [part for _, part in target.gates.get(name, [])] or [slice(None)]
    parts = [expected[part] for part in blocks]
    if any(part.shape[0] != part.shape[1] for part in parts):
        return None
    return np.concatenate([part.T for part in parts])


def rescaled(analytic: Point, reference: Point, wrong: Sequence[str]) -> Diagnosis | None:
    """Whether entries are off by factors of their own, and nothing else is wrong."""
    for name in wrong:
        found, expected = analytic[name], reference[name]
        scale = float(np.abs(expected).max(initial=0.0))
        off = np.abs(found - expected) > 1e-10 * scale
        if not scale or not off.any() or np.any(expected[off] == 0):
            continue
        factors = found[off] / expected[off]
        index = tuple(int(i) for i in np.argwhere(off)[0])
        few = int(off.sum()) <= max(1, off.size // 8)
        if few or (factors.min() > 0.25 and factors.max() < 4):
            why = (
                f"{int(off.sum())} of {off.size} entries of {name} are off by factors between {factors.min():.6g} and "
                f"{factors.max():.6g}, the first at {list(index)}"
            )
            return Diagnosis("entries rescaled", why)
    return None


def narrowed(analytic: Point, reference: Point) -> Diagnosis | None:
    """Whether all errors have the size of single precision's rounding, and fall on both sides."""
    largest, signs = 0.0, set[float]()
    for name, expected in reference.items():
        difference = analytic[name] - expected
        scale = float(np.abs(expected).max(initial=0.0))
        if scale > 0 and difference.size:
            largest = max(largest, float(np.abs(difference).max()) / scale)
            signs |= set(np.sign(difference[np.abs(difference) > 1e-10 * scale]).tolist())
    wrong = [name for name, array in reference.items() if not close(analytic[name], array, 1e-10)]
    for dtype in (np.float16, np.float32):
        entries = [analytic[name].ravel() for name in wrong]
        if sum(map(np.count_nonzero, entries)) > 8 and all(np.array_equal(e, e.astype(dtype)) for e in entries):
            why = f"all numbers of {', '.join(wrong)} are numbers of {np.dtype(dtype)}, and no other gradient is wrong"
            return Diagnosis("lower precision", why)
    if 1e-9 < largest < float(np.finfo(np.float32).eps) and signs >= {-1.0, 1.0}:
        why = (
            f"no entry is off by more than {largest:.0e} of its tensor's largest, on both sides: it is rounded to "
            "single precision somewhere"
        )
        return Diagnosis("lower precision", why, explained=False)
    return None
