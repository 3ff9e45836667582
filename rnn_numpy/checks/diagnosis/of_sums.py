"""What is wrong with sums over the steps where all steps are right: another source, steps left out, a factor, rows of
another gate.

Each block of rows that is wrong is held against the sums that mistakes would give, of gradients at the steps that are
known; a mistake is named where all blocks that are wrong have one, and all of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule, DirectionGradient, StepMaps
from rnn_numpy.checks.diagnosis.patterns import close
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.targets import LayerTarget, Point
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]
Guess = tuple[str, str, Array]  # a kind, what is said of it, the sum that it gives

FACTORS = ((2.0, "2"), (0.5, "1/2"), (-1.0, "-1"), (0.0, "0"))


def mistake_of_sums(target: LayerTarget, chain: ChainRule, analytic: Point, rows: Sequence[Row]) -> Diagnosis | None:
    """Name the mistake in sums over steps that are right themselves; None where not all of it can be explained."""
    wrong = [row for row in rows if row.verdict == WRONG and not row.note and row.name in chain.exact.tensors]
    if not wrong:
        return None
    found: list[tuple[str, str, Row]] = []
    for row in wrong:
        part = dict(target.gates.get(row.name, [])).get(row.gate or "", slice(None))
        claimed = analytic[row.name][part]
        guess = _first(claimed, _guesses(target, chain, row, part))
        if guess is None:
            return None
        found.append((*guess, row))
    kinds = {kind for kind, _, _ in found}
    if len(kinds) > 1:
        return None
    said: dict[str, list[str]] = {}
    for _, why, row in found:
        said.setdefault(why, []).append(row.title)
    why = "; ".join(f"{', '.join(titles)}: {text}" for text, titles in said.items())
    gates = {row.gate for row in wrong}
    where = {"gate": gates.pop()} if len(gates) == 1 and None not in gates else {}
    return Diagnosis(kinds.pop(), why, where=where)


def _first(claimed: Array, guesses: Iterator[Guess]) -> tuple[str, str] | None:
    for kind, why, gradient in guesses:
        if gradient.shape == claimed.shape and np.any(gradient) and close(claimed, gradient):
            return kind, why
    return None


def _guesses(target: LayerTarget, chain: ChainRule, row: Row, part: slice) -> Iterator[Guess]:
    exact = chain.exact.tensors[row.name]
    if row.name == "x" or row.name.endswith("_0"):
        if row.name == "x":
            yield from _of_inputs(target, exact)
        for factor, word in FACTORS:
            yield "constant factor", f"{word} times the right gradient", factor * exact
        return
    stem, _, direction = row.name.rpartition("_l")
    maps, run = chain.maps[f"l{direction}"], chain.exact.runs[f"l{direction}"]
    steps = maps.steps
    yield from _of_step_sets(maps, run, stem, part)
    for factor, word in (*FACTORS, (1 / steps.T, "1/T"), (float(steps.T), "T")):
        kind = "sign" if factor == -1 else "constant factor"
        yield kind, f"{word} times the right gradient", factor * exact[part]
    for factor, word in ((1 / steps.N, "1/N"), (float(steps.N), "N")):
        yield "missing 1/N", f"{word} times the right gradient, with N the sequences", factor * exact[part]
    if exact[part].ndim == 2 and exact[part].shape[0] == exact[part].shape[1]:
        yield "transposed", "the transpose of the right gradient", exact[part].T
    for gate, other in target.gates.get(row.name, []):
        if gate != row.gate:
            yield "gates swapped", f"the rows of {gate}", exact[other]


def _of_inputs(target: LayerTarget, exact: Array) -> Iterator[Guess]:
    axis = 1 if getattr(target.layer, "batch_first", False) and exact.ndim == 3 else 0
    turned = np.moveaxis(exact, axis, 0)
    for change, kind, why in (
        (turned[::-1], "order of Jacobians", "the right gradient, the steps in the other order"),
        (_moved(turned, 1), "off by one step", "that of the step before"),
        (_moved(turned, -1), "off by one step", "that of the step after"),
    ):
        yield kind, why, np.moveaxis(change, 0, axis)


def _moved(array: Array, shift: int) -> Array:
    moved = np.zeros_like(array)
    moved[max(shift, 0) : len(array) + min(shift, 0)] = array[max(-shift, 0) : len(array) - max(shift, 0)]
    return moved


def _of_step_sets(maps: StepMaps, run: DirectionGradient, stem: str, part: slice) -> Iterator[Guess]:
    """Yield sums over other sets of steps, or with other sources."""
    steps = maps.steps
    pairs = list(_pairs(steps, run, stem, part))
    if not pairs:
        yield from _of_vectors(steps, run, stem)
        return
    order = np.asarray(steps.order())
    alive = steps.alive[..., None]
    for left, source, sources in pairs:
        left = np.where(alive, left, 0)

        def total(a: Array, b: Array | None) -> Array:
            return np.asarray(a.sum(axis=(0, 1)) if b is None else np.einsum("tna,tnb->ab", a, b))

        for keep, kind, why in _sets(order, steps.N):
            yield kind, why, total(np.where(keep, left, 0), source)
        if source is not None:
            for name, other in sources.items():
                if other.shape == source.shape and not np.array_equal(other, source):
                    yield _kind_of_source(name), f"the sum takes {name} where another array acted", total(left, other)
        for name, other in _lefts(steps, run, left, stem).items():
            yield "reset on the wrong side", f"the sum takes {name}", total(np.where(alive, other, 0), source)


def _sets(order: Array, N: int) -> Iterator[tuple[Array, str, str]]:
    """Yield masks over (T, N, 1): steps or sequences left out."""
    T = len(order)
    for index, word in ((order[0], "first"), (order[-1], "last")):
        only = np.zeros((T, N, 1), bool)
        only[index] = True
        yield only, "overwritten, not added", f"that of the {word} step alone: set, where it is to be added to"
        yield ~only, f"{word} step skipped", f"the {word} step is missing from the sum"
    for n, word in ((0, "first"), (N - 1, "last")) if N > 1 else ():
        only = np.zeros((T, N, 1), bool)
        only[:, n] = True
        yield only, "batch mixed", f"that of the {word} sequence alone"
        yield ~only, "batch mixed", f"the {word} sequence is missing from the sum"


def _kind_of_source(name: str) -> str:
    if name.endswith("other order"):
        return "reverse direction not reversed"
    return "dropout mask ignored" if name.endswith("without its mask") else "off by one step"


def _pairs(
    steps: RecordedSteps, run: DirectionGradient, stem: str, part: slice
) -> Iterator[tuple[Array, Array | None, dict[str, Array]]]:
    """Yield (gradient at each step, what it is multiplied with, what else that might be) of the rows of a parameter."""
    kind = {"weight_ih": "input", "bias_ih": "input", "weight_hh": "hidden", "bias_hh": "hidden"}.get(stem)
    if kind is not None and steps.cell.input_gradient == "da":
        start = part.start or 0
        for rows, columns, source in steps.products(kind):
            # A block of gates that are neighbours: the gate's own columns of it.
            if rows.start <= start < rows.stop:
                stop = part.stop if part.stop is not None else rows.stop
                if part == slice(None) and rows.stop - rows.start != steps.weights()[stem].shape[0]:
                    return
                at = columns.start + start - rows.start
                left = run.da[..., at : at + min(stop, rows.stop) - start]
                yield left, None if stem.startswith("bias") else source, _sources(steps, source)
        return
    extra = steps.cell.parameters.get(stem)
    if extra is not None and extra.product is not None:
        gradients = steps.recorded.latest.arrays
        gradient, right = extra.product
        name = gradient.removesuffix("_t")
        if name in gradients:
            array = gradients[name]
            array = array[steps.binding.after : steps.binding.after + steps.T] if len(array) > steps.T else array
            source = steps.aligned(right)
            yield array, source, _sources(steps, source)


def _sources(steps: RecordedSteps, source: Array) -> dict[str, Array]:
    """Return what a sum may take in place of its source: it, a step off, and recorded arrays of its width."""
    back = -1 if steps.direction.reverse else 1
    found = {"that of the steps in the other order": source[::-1]}
    found |= {"that of the step before": _moved(source, back), "that of the step after": _moved(source, -back)}
    for name, array in _recorded(steps).items():
        if array.shape == source.shape:
            found[name] = array
    return found


def _recorded(steps: RecordedSteps) -> dict[str, Array]:
    """Return recorded arrays of all steps, states before and after the step by names of their own."""
    found: dict[str, Array] = {}
    for state, before, after in zip(
        steps.cell.states, steps.split(steps.states("before")), steps.split(steps.states("after")), strict=True
    ):
        masked = "" if steps.recorded.masks.recurrent is None else " without its mask"
        found[f"{state}_{{t-1}}{masked}"], found[f"{state}_t"] = before, after
    for name in (*steps.cell.slabs, *steps.cell.records):
        array = steps.recorded.find(name)
        if array is not None and len(array) == steps.T:
            found[f"{name}_t"] = array
    return found


def _lefts(steps: RecordedSteps, run: DirectionGradient, left: Array, stem: str) -> dict[str, Array]:
    """Return, of a GRU's hidden side, gradients with the reset gate or without it."""
    H = steps.layer.hidden_size
    if "q" not in steps.cell.slabs or not stem.endswith("hh"):
        return {}
    q, n = (run.da[..., k * H : (k + 1) * H] for k in map(steps.cell.slabs.index, ("q", "n")))
    r = steps.recorded.find("r")
    if r is None or not np.array_equal(left, np.where(steps.alive[..., None], q, 0)):
        return {}
    return {"da_n where r * da_n belongs": n, "r * r * da_n where r * da_n belongs": q * r}


def _of_vectors(steps: RecordedSteps, run: DirectionGradient, stem: str) -> Iterator[Guess]:
    """Yield sums of a vector, a peephole: of a gate's gradient times any array that was recorded."""
    if steps.cell.input_gradient != "da" or steps.weights()[stem].ndim != 1:
        return
    H, recorded = steps.layer.hidden_size, _recorded(steps)
    gates = {slab: run.da[..., k * H : (k + 1) * H] for k, slab in enumerate(steps.cell.slabs)}
    right = steps.weights()[stem].shape
    for slab, da in gates.items():
        da = np.where(steps.alive[..., None], da, 0)
        for name, array in recorded.items():
            if array.shape == da.shape and da.shape[-1:] == right:
                yield "off by one step", f"the sum of da_{slab} * {name}", (da * array).sum(axis=(0, 1))
