"""What is wrong with sums over the steps where all steps are right: another source, steps left out, a factor, rows of
another gate.

Each block of rows that is wrong is held against the sums that mistakes would give, of gradients at the steps that are
known; a mistake is named where all blocks that are wrong have one, and all of one kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule, DirectionGradient, StepMaps, pulled
from rnn_numpy.checks.diagnosis.known_mistakes import derivative_as, hidden_matrix
from rnn_numpy.checks.diagnosis.of_shares import factors_of, input_shares, said_of
from rnn_numpy.checks.diagnosis.patterns import close
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.targets import LayerTarget, Point
from rnn_numpy.engine.recorded import RecordedSteps, to_caller

Array = NDArray[Any]
Guess = tuple[str, str, Array]  # a kind, what is said of it, the sum that it gives

FACTORS = ((2.0, "2"), (0.5, "1/2"), (-1.0, "-1"))


def mistake_of_sums(target: LayerTarget, chain: ChainRule, analytic: Point, rows: Sequence[Row]) -> Diagnosis | None:
    """Name the mistake in sums over steps that are right themselves; None where not all of it can be explained."""
    wrong = [row for row in rows if row.verdict == WRONG and not row.note and row.name in chain.exact.tensors]
    if not wrong:
        return None
    found: list[tuple[str, str, Row]] = []
    for row in wrong:
        part = dict(target.gates.get(row.name, [])).get(row.gate or "", slice(None))
        claimed = analytic[row.name][part]
        exact = chain.exact.tensors[row.name][part]
        guess = None if close(claimed, exact) else _first(claimed, exact, _guesses(target, chain, row, part, claimed))
        if guess is None:
            return _weighted(target, chain, analytic, wrong)
        found.append((*guess, row))
    kinds = {kind for kind, _, _ in found}
    if kinds == {"bias ignored", "never accumulated"}:
        kinds = {"never accumulated"}
    said: dict[str, list[str]] = {}
    for _, why, row in found:
        said.setdefault(why, []).append(row.title)
    why = "; ".join(f"{', '.join(titles)}: {text}" for text, titles in said.items())
    gates = {row.gate for row in wrong}
    where = {"gate": gates.pop()} if len(gates) == 1 and None not in gates else {}
    if len(kinds) > 1:  # two mistakes
        return Diagnosis("wrong sum", why, where=where, explained=False)
    return Diagnosis(kinds.pop(), why, where=where)


def _weighted(target: LayerTarget, chain: ChainRule, analytic: Point, wrong: Sequence[Row]) -> Diagnosis | None:
    """Whether the steps of all wrong sums, or the sequences, have weights of their own, the same in all of them."""
    if any(row.name not in target.layer.params for row in wrong):
        return None
    for axis, what in ((0, "step"), (1, "sequence")):
        claimed: list[Array] = []
        terms: list[list[Array]] = []
        for row in wrong:
            part = dict(target.gates.get(row.name, [])).get(row.gate or "", slice(None))
            stem, _, direction = row.name.rpartition("_l")
            run, steps = chain.exact.runs[f"l{direction}"], chain.maps[f"l{direction}"].steps
            pairs = list(_pairs(chain, steps, run, stem, part))
            if len(pairs) != 1:
                return None
            left, source, _ = pairs[0]
            left = np.where(steps.alive[..., None], left, 0)
            each = left.sum(axis=1 - axis) if source is None else np.einsum("tna,tnb->tnab", left, source).sum(1 - axis)
            terms.append([*each])
            claimed.append(analytic[row.name][part])
        scales = [float(np.abs(array).max(initial=0.0)) or 1.0 for array in claimed]
        found = np.concatenate([(array / scale).ravel() for array, scale in zip(claimed, scales, strict=True)])
        shares = [
            np.concatenate([(term[k] / scale).ravel() for term, scale in zip(terms, scales, strict=True)])
            for k in range(len(terms[0]))
        ]
        factors = factors_of(found, shares)
        if factors is not None:
            kind, why = said_of({f"{what} {k}": factor for k, factor in enumerate(factors)})
            kind = kind or ("wrong sum" if axis == 0 else "batch mixed")
            titles = ", ".join(row.title for row in wrong)
            return Diagnosis(kind, f"in the sums of {titles}: {why}")
    return None


def _first(claimed: Array, exact: Array, guesses: Iterator[Guess]) -> tuple[str, str] | None:
    for kind, why, gradient in guesses:
        if gradient.shape != claimed.shape or close(gradient, exact):
            continue
        if close(claimed, gradient):
            return kind, why
    return None


def _guesses(target: LayerTarget, chain: ChainRule, row: Row, part: slice, claimed: Array) -> Iterator[Guess]:
    exact = chain.exact.tensors[row.name]
    if not np.any(claimed):
        yield ("bias ignored" if row.name.startswith("bias") else "never accumulated"), "0 throughout", claimed
        return
    if row.name == "x" or row.name.endswith("_0"):
        if row.name == "x":
            yield from _of_inputs(target, exact)
            yield from _of_input_shares(chain, claimed)
        else:
            yield from _of_initial_states(chain, row.name, claimed)
        for factor, word in FACTORS:
            yield "constant factor", f"{word} times the right gradient", factor * exact
        return
    stem, _, direction = row.name.rpartition("_l")
    maps, run = chain.maps[f"l{direction}"], chain.exact.runs[f"l{direction}"]
    steps = maps.steps
    yield from _of_step_sets(chain, maps, run, stem, part)
    for factor, word in (*FACTORS, (1 / steps.T, "1/T"), (float(steps.T), "T")):
        kind = "sign" if factor == -1 else "constant factor"
        yield kind, f"{word} times the right gradient", factor * exact[part]
    for factor, word in ((1 / steps.N, "1/N"), (float(steps.N), "N")):
        yield "missing 1/N", f"{word} times the right gradient, with N the sequences", factor * exact[part]
    if exact[part].ndim == 2 and exact[part].shape[0] == exact[part].shape[1]:
        yield "transposed", "the transpose of the right gradient", exact[part].T
    yield "sign", "the right gradient without its signs", np.abs(exact[part])
    yield "sign", "the signs of the right gradient alone", np.sign(exact[part])
    for gate, other in target.gates.get(row.name, []):
        if gate != row.gate:
            yield "gates swapped", f"the rows of {gate}", exact[other]
    for axis, size in enumerate(exact[part].shape):
        if size > 1:
            yield "transposed", f"the right gradient, turned round along axis {axis}", np.flip(exact[part], axis)
    if stem in steps.cell.parameters:
        yield from _of_functions(exact, target.point[row.name])


# What a parameter may go through before it acts, and the derivative of that.
FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "a sigmoid": lambda p: np.exp(-p) / (1 + np.exp(-p)) ** 2,
    "a tanh": lambda p: 1 - np.tanh(p) ** 2,
    "an exponential": np.exp,
    "a softplus": lambda p: 1 / (1 + np.exp(-p)),
    "a square": lambda p: 2 * p,
    "a logarithm": lambda p: 1 / p,
}


def _of_functions(exact: Array, parameter: Array) -> Iterator[Guess]:
    """Yield gradients of a parameter that goes through a function, the derivative of which is left out, or another."""
    with np.errstate(all="ignore"):
        slopes = {name: function(parameter) for name, function in FUNCTIONS.items()}
        for name, slope in slopes.items():
            if np.ptp(slope) <= 1e-3 * np.abs(slope).max(initial=0.0):
                continue  # next to a constant, as at parameters that all are 0: any function may be meant
            yield "gate derivative missing", f"the derivative of {name} is missing", exact / slope
            yield "wrong derivative", f"the derivative of {name} is there twice", exact * slope
            for other, its in slopes.items():
                if other != name:
                    yield (
                        "wrong derivative",
                        f"the derivative of {other} stands for that of {name}",
                        exact * its / slope,
                    )


def _of_inputs(target: LayerTarget, exact: Array) -> Iterator[Guess]:
    axis = 1 if getattr(target.layer, "batch_first", False) and exact.ndim == 3 else 0
    turned = np.moveaxis(exact, axis, 0)
    for change, kind, why in (
        (turned[::-1], "order of Jacobians", "the right gradient, the steps in the other order"),
        (_moved(turned, 1), "off by one step", "that of the step before"),
        (_moved(turned, -1), "off by one step", "that of the step after"),
    ):
        yield kind, why, np.moveaxis(change, 0, axis)


def _of_input_shares(chain: ChainRule, claimed: Array) -> Iterator[Guess]:
    """Yield dx of which gates, or directions, have factors of their own."""
    shares: dict[str, Array] = {}
    nothing = {name: run.dinitial for name, run in chain.exact.runs.items()}
    for name, maps in chain.maps.items():
        steps, H = maps.steps, maps.steps.layer.hidden_size
        if steps.direction.layer or steps.cell.input_gradient != "da":
            continue
        for k, slab in enumerate(steps.cell.slabs):
            share = input_shares(steps, chain.exact.runs[name].da, slice(k * H, (k + 1) * H))
            if share:
                title = f"the share of gate {slab}" if len(steps.cell.slabs) > 1 else "the share"
                title += f" of {name}" if steps.layer.num_directions > 1 else ""
                shares[title] = to_caller(chain.trace, sum(share[1:], share[0]), nothing)[0]
    whole = {
        name: to_caller(chain.trace, run.dx, nothing)[0] for name, run in chain.exact.runs.items() if name[:2] == "l0"
    }
    for kind, each in (
        ("overwritten, not added", {f"the share of {name}": array for name, array in whole.items()}),
        ("gate path missing", shares),
    ):
        factors = factors_of(claimed, list(each.values()))
        if factors is not None:
            other, why = said_of(dict(zip(each, factors, strict=True)))
            total = sum((c * share for c, share in zip(factors, each.values(), strict=True)), np.zeros_like(claimed))
            yield other or kind, why, total


def _of_initial_states(chain: ChainRule, title: str, claimed: Array) -> Iterator[Guess]:
    """Yield gradients of an initial state that stop a step early, or take in too much."""
    state, exact = title.removesuffix("_0"), chain.exact.tensors[title]
    if exact.ndim == 3 and 1 < len(exact) <= 6:
        for order in itertools.permutations(range(len(exact))):
            names = list(chain.maps)
            moved = ", ".join(f"{names[k]} has that of {names[j]}" for k, j in enumerate(order) if j != k)
            if moved:
                yield "layers exchanged", moved, exact[list(order)]
    ends: dict[str, dict[str, Array]] = {"after": {}, "direct": {}, "f": {}}
    shares: dict[str, dict[str, Array]] = {}
    for name, maps in chain.maps.items():
        steps, run = maps.steps, chain.exact.runs[name]
        first = _entry(steps)
        ends["after"][name] = run.dstates[first]
        ends["direct"][name] = run.dinitial + run.direct[first]
        matrix, H = hidden_matrix(steps), steps.layer.hidden_size
        f = steps.recorded.find("f")
        ends["f"][name] = run.dinitial.copy()
        if f is not None and f.shape == (steps.T, steps.N, steps.widths[-1]):
            with np.errstate(all="ignore"):
                ends["f"][name][:, -f.shape[-1] :] /= f[first]
        through = np.zeros_like(run.dinitial)
        for k, slab in enumerate(steps.cell.slabs):
            columns = slice(k * H, (k + 1) * H)
            share = np.einsum("na,nas->ns", run.da[first][:, columns], matrix[first][:, columns])
            through += share
            shares.setdefault(f"what comes through W_hh from {slab}", {})[name] = share
        shares.setdefault("what the first step hands back directly", {})[name] = run.dinitial - through
    for which, kind, why in (
        ("after", "off by one step", f"that of {state} after the first step"),
        ("f", "off by one step", f"that of {state} after the first step: it is not multiplied with f"),
        ("direct", "accumulated twice", "what the loss says to the first output is in it as well"),
    ):
        yield kind, why, _states(chain, ends[which])[state]
    found = {name: _states(chain, share)[state] for name, share in shares.items()}
    factors = factors_of(claimed, list(found.values()))
    if factors is not None:
        kind, why = said_of(dict(zip(found, factors, strict=True)))
        total = sum((c * share for c, share in zip(factors, found.values(), strict=True)), np.zeros_like(claimed))
        yield kind or "gate path missing", why, total


def _entry(steps: RecordedSteps) -> tuple[Array, Array]:
    order = np.asarray(steps.order())
    return order[steps.alive[order].argmax(axis=0)], np.arange(steps.N)


def _states(chain: ChainRule, arrays: Mapping[str, Array]) -> dict[str, Array]:
    x = np.zeros_like(chain.exact.runs["l0"].dx)
    return to_caller(chain.trace, x, arrays)[1]


def _moved(array: Array, shift: int) -> Array:
    moved = np.zeros_like(array)
    moved[max(shift, 0) : len(array) + min(shift, 0)] = array[max(-shift, 0) : len(array) - max(shift, 0)]
    return moved


def _of_step_sets(chain: ChainRule, maps: StepMaps, run: DirectionGradient, stem: str, part: slice) -> Iterator[Guess]:
    """Yield sums over other sets of steps, or with other sources."""
    steps = maps.steps
    if not maps.additive.get(stem, True) and stem in maps.derivatives and steps.cell.input_gradient == "da":
        order = np.asarray(steps.order())
        shape = steps.weights()[stem].shape
        terms = np.einsum("tns,tnsp->tnp", np.where(steps.alive[..., None], run.dstates, 0), maps.derivatives[stem])
        for keep, kind, why in _sets(order, steps.N):
            yield kind, why, np.where(keep, terms, 0).sum(axis=(0, 1)).reshape(shape)[part]
    pairs = list(_pairs(chain, steps, run, stem, part))
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
                    acted = next((n for n, array in _recorded(steps).items() if array is source or (
                        array.shape == source.shape and np.array_equal(array, source))), "another array")  # fmt: skip
                    why = f"the sum takes {name} where {acted} acted"
                    yield _kind_of_source(name, acted), why, total(left, other)
        for kind, name, other in _other_gradients(steps, run, stem, part):
            if other.shape == left.shape:
                yield kind, f"the sum takes {name}", total(np.where(alive, other, 0), source)
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


def _kind_of_source(name: str, acted: str) -> str:
    if name.endswith("other order"):
        return "reverse direction not reversed"
    if name.endswith("without its mask"):
        return "dropout mask ignored"
    stems = [each.removesuffix("_t").removesuffix("_{t-1}") for each in (name, acted)]
    hidden = {"h", "k"}  # r * h, of a GRU, is a state as well
    moved = " of " in name or stems[0] == stems[1] or acted == "another array" or set(stems) <= hidden
    return "off by one step" if moved else "wrong derivative"


def _pairs(
    chain: ChainRule, steps: RecordedSteps, run: DirectionGradient, stem: str, part: slice
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
                yield left, None if stem.startswith("bias") else source, _sources(chain, steps, source)
        return
    extra = steps.cell.parameters.get(stem)
    if extra is not None and extra.product is not None:
        gradients = dict(steps.recorded.latest.arrays)
        width = 0
        for state, size in zip(steps.cell.states, steps.widths, strict=True):
            gradients[f"d{state}"] = run.dstates[..., width : width + size]
            width += size
        gradient, right = extra.product
        name = gradient.removesuffix("_t")
        if name in gradients:
            array = gradients[name]
            array = array[steps.binding.after : steps.binding.after + steps.T] if len(array) > steps.T else array
            source = steps.aligned(right)
            yield array, source, _sources(chain, steps, source)


def _sources(chain: ChainRule, steps: RecordedSteps, source: Array) -> dict[str, Array]:
    """Return what a sum may take in place of its source: it, a step off, and recorded arrays of its width."""
    back = -1 if steps.direction.reverse else 1
    found = {"that of the steps in the other order": source[::-1]}
    after = steps.states("after")[..., : steps.widths[0]]
    moved = {"that": source}
    if after.shape == source.shape and not np.array_equal(source, steps.x):
        moved["h_t"] = after
    for what, array in moved.items():
        for shift, word in ((back, "the step before"), (-back, "the step after"), (2 * back, "two steps before")):
            if abs(shift) < len(array):
                found[f"{what} of {word}"] = _moved(array, shift)
                found[f"{what} of {word}, around the end"] = np.roll(array, shift, axis=0)
                clamped, edge = _moved(array, shift), array[:1] if shift > 0 else array[-1:]
                clamped[: max(shift, 0)], clamped[len(array) + min(shift, 0) :] = edge, edge
                found[f"{what} of {word}, up to the end"] = clamped
    factors, layer = steps.edge.factors, steps.direction.layer
    if layer and factors is not None and source.shape == factors[layer - 1].shape and np.array_equal(source, steps.x):
        below = [maps.steps.states("after")[..., : maps.steps.widths[0]] for maps in maps_below(chain, layer)]
        found["the output of the layer below without its mask"] = np.concatenate(below, axis=2)
    for name, array in _recorded(steps).items():
        if array.shape == source.shape:
            found[name] = array
    return found


def maps_below(chain: ChainRule, layer: int) -> list[StepMaps]:
    """Return the maps of the directions of the layer below another."""
    return [maps for maps in chain.maps.values() if maps.steps.direction.layer == layer - 1]


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


def _other_gradients(
    steps: RecordedSteps, run: DirectionGradient, stem: str, part: slice
) -> Iterator[tuple[str, str, Array]]:
    """Yield what may stand in a sum in place of the gradient of its rows: without what later steps hand back, without
    the activation's derivative.
    """
    width = steps.widths[0]
    extra = steps.cell.parameters.get(stem)
    if extra is not None:
        if extra.product is not None and extra.product[0] == f"d{steps.cell.states[0]}_t":
            direct = run.direct[..., :width]
            yield "recurrence dropped", "what the loss says to the step alone", direct
            yield "only the last step's loss", "what later steps hand back alone", run.dstates[..., :width] - direct
        return
    kind = "input" if stem.endswith("ih") else "hidden"
    start = part.start or 0
    for rows, columns, _ in steps.products(kind):
        if not rows.start <= start < rows.stop:
            continue
        at = columns.start + start - rows.start
        mine = slice(at, at + min(rows.stop if part.stop is None else part.stop, rows.stop) - start)
        B = steps.maps.preactivation
        yield "recurrence dropped", "what the loss says to the step alone", pulled(B, run.direct)[..., mine]
        yield "wrong sum", "what later steps hand back alone", pulled(B, run.dstates - run.direct)[..., mine]
        for gate in steps.cell.input_slabs:
            changed = derivative_as(gate, lambda value, a: np.ones_like(value))(steps, B)
            why = f"the gradient of {gate if len(steps.cell.slabs) > 1 else 'h'} without the activation's derivative"
            yield "gate derivative missing", why, pulled(changed, run.dstates)[..., mine]


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
                kind = "off by one step" if name.startswith("c_") else "wrong derivative"
                kind = kind if stem.endswith(f"_{slab}") else "gates swapped"
                yield kind, f"the sum of da_{slab} * {name}", (da * array).sum(axis=(0, 1))
