"""What is wrong with the formula of one step: its maps are measured, and compared with the right ones.

The layer's own backward step is run at recorded steps on unit vectors: that gives J' and B', what it makes of ds_t in
place of J_t = ds_t/ds_{t-1} and B_t = ds_t/da_t. Where the chain rule with these gives the whole gradient that was
found, the mistake stands in the formula of the step, and nowhere else. What is left is to say it:

    B' and B    gate by gate: missing, turned round, or times a factor; a factor that varies from unit to unit is looked
                for among quotients of what the step has recorded, so that "i where f belongs" can be said
    J' and J    once what goes through W_hh is taken off: from state to state, likewise; and of what goes through W_hh,
                how much of each gate's share

A backward pass that is written by itself, and leaves no gradients of its steps, is called for single steps instead: at
T = 1 the gradient of a bias is da, and that of the initial state what the step hands back.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule, Variation
from rnn_numpy.checks.diagnosis.known_mistakes import IMMEDIATE, RECURRENCE, Mistake, hidden_matrix
from rnn_numpy.checks.targets import LayerTarget
from rnn_numpy.core.states import mapped
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]

# Of more numbers than these, in all maps together, none is measured.
MOST = 2**24

# Nor are more calls made of a layer.
MOST_CALLS = 2**11

# Two maps that agree to this, of the largest entry of the right one, are one.
SAME = 1e-9


@dataclass
class Measured:
    """The maps of one direction as the layer's own backward step has them, (T, N, S, S) and (T, N, S, A)."""

    state: Array
    preactivation: Array


def measured_maps(chain: ChainRule) -> dict[str, Measured] | None:
    """Measure the maps of all steps; None where that takes too much, or a step cannot be run by itself."""
    found = {}
    for name, maps in chain.maps.items():
        steps = maps.steps
        t, n = np.nonzero(steps.alive)
        S, count = steps.S, len(t)
        if count * S * (S + steps.A) > MOST or steps.cell.input_gradient != "da":
            return None
        columns = np.repeat(t, S), np.repeat(n, S)
        try:
            with np.errstate(all="ignore"):
                back = steps.vjp(*columns, np.tile(np.eye(S), (count, 1)), sums=False)
        except Exception:  # a layer of one's own may take a step for what it is not
            return None
        state, preactivation = np.zeros_like(maps.jacobians.state), np.zeros_like(maps.jacobians.preactivation)
        state[t, n] = back.dstates.reshape(count, S, S)
        preactivation[t, n] = back.da.reshape(count, S, steps.A)
        if not (np.isfinite(state).all() and np.isfinite(preactivation).all()):
            return None
        found[name] = Measured(state, preactivation)
    return found


def maps_with_moved_reads(chain: ChainRule) -> Iterator[tuple[str, str, dict[str, Measured]]]:
    """Yield what the right formulas of a step would give if one array of it were that of the step before, or after:
    the array, a word of where, and the maps.
    """
    first = next(iter(chain.maps.values())).steps
    names = [*first.cell.slabs, *first.cell.records, *first.cell.states, *(f"{s}_prev" for s in first.cell.states)]
    if first.cell.input_gradient != "da":
        return
    for name in names:
        for shift, word in ((1, "after"), (-1, "before")):
            for beyond in ("its own", "zeros", "the other end's"):
                try:
                    with np.errstate(all="ignore"):
                        found = {
                            each: _with_moved_read(maps.steps, name, shift, beyond) for each, maps in chain.maps.items()
                        }
                except Exception:
                    return
                finite = [np.isfinite(m.state).all() and np.isfinite(m.preactivation).all() for m in found.values()]
                if all(finite):
                    yield name, word, found


def _with_moved_read(steps: RecordedSteps, name: str, shift: int, beyond: str) -> Measured:
    t, n = np.nonzero(steps.alive)
    S, count = steps.S, len(t)
    if count * S * (S + steps.A) > MOST:
        raise ValueError("too many numbers")
    other = t + (-shift if steps.direction.reverse else shift)
    ends = steps.alive.sum(axis=0)[n]
    inside = (other >= 0) & (other < ends)
    other = np.where(inside, other, t if beyond != "the other end's" else other % ends)
    factor = np.where(inside | (beyond != "zeros"), 1.0, 0.0)[:, None]
    columns = np.repeat(np.arange(count), S)
    gathered = steps.gathered(t[columns], n[columns])
    state = name.removesuffix("_prev")
    if state in steps.cell.states:
        source = steps.split(steps.states("before" if name != state else "after"))[steps.cell.states.index(state)]
        target, place = gathered.arrays[state][0 if name != state else 1], slice(None)
    else:
        stored, span = steps.recorded.chain.blocks_by_name.get(name, (name, slice(None)))
        source, target, place = steps.recorded.arrays[stored][..., span], gathered.arrays[stored][0], span
    target[:, place] = (source[other, n] * factor)[columns]
    back = steps.vjp(t[columns], n[columns], np.tile(np.eye(S), (count, 1)), gathered, sums=False)
    found = Measured(np.zeros_like(steps.maps.state), np.zeros_like(steps.maps.preactivation))
    found.state[t, n] = back.dstates.reshape(count, S, S)
    found.preactivation[t, n] = back.da.reshape(count, S, steps.A)
    return found


def treats_signs_apart(chain: ChainRule) -> bool:
    """Whether a step hands on gradients above 0 as they are, and none below: "guided" back-propagation."""
    for maps in chain.maps.values():
        steps = maps.steps
        t, n = np.nonzero(steps.alive)
        if steps.cell.input_gradient != "da" or len(t) * steps.S * (steps.S + steps.A) > MOST:
            return False
        for sign, right in ((1.0, maps.jacobians.preactivation[t, n]), (-1.0, 0.0)):
            columns = np.repeat(t, steps.S), np.repeat(n, steps.S)
            try:
                back = steps.vjp(*columns, np.tile(sign * np.eye(steps.S), (len(t), 1)), sums=False)
            except Exception:
                return False
            if not np.allclose(back.da.reshape(len(t), steps.S, steps.A), right, rtol=0, atol=1e-9):
                return False
    return True


def maps_of_calls(target: LayerTarget, chain: ChainRule) -> dict[str, Measured] | None:
    """Measure the maps of all steps by calls of the layer on one step of one sequence, from its recorded states, with a
    unit vector as the gradient of a final state; None where a layer is not called so, or it takes too many calls.
    """
    layer, names = target.layer, list(chain.maps)
    every = [maps.steps for maps in chain.maps.values()]
    first = every[0]
    calls = sum(int(steps.alive.sum()) * steps.S for steps in every)
    biased = {f"bias_ih_{name}" for name in names} <= set(layer.params)
    if calls > MOST_CALLS or target.ids or target.memory or target.masks or not biased:
        return None
    if first.cell.input_gradient != "da":
        return None
    before = [steps.split(steps.states("before")) for steps in every]  # by direction and state
    x = first.products("input")[0][2]
    found = {}
    for row, (name, steps) in enumerate(zip(names, every, strict=True)):
        state, preactivation = np.zeros_like(steps.maps.state), np.zeros_like(steps.maps.preactivation)
        found[name] = Measured(state, preactivation)
        for t, n in np.argwhere(steps.alive):
            arrays = [np.stack([of[k][t, n] for of in before])[:, None] for k in range(len(steps.widths))]
            try:
                h_0 = tuple(arrays) if len(arrays) > 1 else arrays[0]
                output, _, trace = layer.forward(x[t, n][None, None], h_0)
                for s in range(steps.S):
                    unit = steps.split(np.eye(steps.S)[s : s + 1])
                    finals = [np.zeros_like(array) for array in arrays]
                    for final, part in zip(finals, unit, strict=True):
                        final[row, 0] = part[0]
                    dh_n = tuple(finals) if len(finals) > 1 else finals[0]
                    back = layer.backward(trace, mapped(np.zeros_like, output), dh_n)
                    initial = [getattr(back, f"d{title}") for title in target.titles]
                    state[t, n, s] = np.concatenate([array[row, 0] for array in initial])
                    for kind, side in (("hidden", "hh"), ("input", "ih")):
                        for rows, columns, _ in steps.products(kind):
                            preactivation[t, n, s, columns] = back.grads[f"bias_{side}_{name}"][rows]
            except Exception:  # a layer of one's own may not be made for a single step
                return None
        if not (np.isfinite(state).all() and np.isfinite(preactivation).all()):
            return None
    return found


def as_variation(measured: Mapping[str, Measured]) -> Variation:
    """Return the chain rule with measured maps."""
    return Variation(
        state=lambda steps, _: measured[steps.direction.name].state,
        preactivation=lambda steps, _: measured[steps.direction.name].preactivation,
    )


def mistake_of_steps(chain: ChainRule, measured: Mapping[str, Measured]) -> Mistake | None:
    """Say what is wrong with measured maps, in words; None where they are right, or no words are found."""
    for name, maps in chain.maps.items():
        steps, own = maps.steps, measured[name]
        right = maps.jacobians
        if not _same(own.preactivation, right.preactivation):
            found = _of_gates(steps, own.preactivation, right.preactivation)
            return found and Mistake(found[0], found[1], as_variation(measured), IMMEDIATE, found[2])
        if not _same(own.state, right.state):
            found = _of_states(steps, own.state, right.state)
            return found and Mistake(found[0], found[1], as_variation(measured), RECURRENCE, found[2])
    return None


def _same(found: Array, right: Array) -> bool:
    return float(np.abs(found - right).max(initial=0.0)) <= SAME * float(np.abs(right).max(initial=0.0))


Said = tuple[str, str, str | None]


def _of_gates(steps: RecordedSteps, found: Array, right: Array) -> Said | None:
    H, slabs = steps.layer.hidden_size, steps.cell.slabs
    said: dict[tuple[str, str], tuple[str, str]] = {}  # by state and gate
    for rows, state in _spans(steps):
        for k, slab in enumerate(slabs):
            columns = slice(k * H, (k + 1) * H)
            mine, its = found[..., rows, columns], right[..., rows, columns]
            if not _same_in(mine, its, right):
                told = _ratio(steps, mine, its, slab)
                if told is None:
                    return None
                if slab == "q" and told[1] in ("lacks the factor r", "has a factor r too much"):
                    told = ("reset on the wrong side", told[1])
                said[state, slab] = told
    if len(set(said.values())) != 1:
        return None
    gates, states = (list(dict.fromkeys(pair[k] for pair in said)) for k in (1, 0))
    kind, why = next(iter(said.values()))
    if len(gates) == 1:
        text = f"gate {gates[0]}" if len(slabs) > 1 else "the activation"
        return kind, f"the gradient of {text} {why}", gates[0] if len(slabs) > 1 else None
    kind = "hidden path missing" if kind == "gate path missing" else kind
    return kind, f"what {', '.join(gates)} get from {', '.join(states)} {why}", None


def _of_states(steps: RecordedSteps, found: Array, right: Array) -> Said | None:
    """Of the recurrence, where B is right: the way through W_hh, and the direct one."""
    H, slabs, B = steps.layer.hidden_size, steps.cell.slabs, steps.maps.preactivation
    alive = steps.alive
    difference = (found - right)[alive]
    # How much more, or less, of each gate's share comes through W_hh.
    matrix = hidden_matrix(steps)
    shares = [(B[..., k * H : (k + 1) * H] @ matrix[:, :, k * H : (k + 1) * H])[alive] for k in range(len(slabs))]
    peepholes: dict[str, Array] = {}
    for name, weight in steps.weights().items():  # peepholes: of a gate, from the second state
        slab = name.rpartition("_")[2]
        if weight.shape == (H,) and slab in slabs and len(steps.widths) > 1 and not name.startswith("bias"):
            k, span = slabs.index(slab), _spans(steps)[1][0]
            through = np.zeros_like(right)
            through[..., span] = B[..., k * H : (k + 1) * H] * weight
            slabs, shares = (*slabs, f"{slab}, through its peephole"), [*shares, through[alive]]
            peepholes[slab] = weight
    for slab, other in itertools.permutations(peepholes, 2):
        k, span = steps.cell.slabs.index(slab), _spans(steps)[1][0]
        through = np.zeros_like(right)
        through[..., span] = B[..., k * H : (k + 1) * H] * (peepholes[other] - peepholes[slab])
        if np.abs(through[alive] - difference).max(initial=0.0) <= 1e-7 * float(np.abs(difference).max(initial=0.0)):
            return "gates swapped", f"what comes back from {slab} through its peephole takes that of {other}", slab
        through[..., span] -= B[..., steps.cell.slabs.index(other) * H :][..., :H] * (
            peepholes[other] - peepholes[slab]
        )
        if np.abs(through[alive] - difference).max(initial=0.0) <= 1e-7 * float(np.abs(difference).max(initial=0.0)):
            return "gates swapped", f"what comes back through the peepholes of {slab} and {other} is exchanged", None
    told = [(slab, share) for slab, share in zip(slabs, shares, strict=True) if np.any(share)]
    told.append(("itself", np.broadcast_to(np.eye(steps.S), difference.shape)))
    if told:
        columns = np.stack([share.ravel() for _, share in told], axis=1)
        factors = np.linalg.lstsq(columns, difference.ravel(), rcond=None)[0]
        rest = np.abs(columns @ factors - difference.ravel()).max(initial=0.0)
        if rest <= 1e-7 * float(np.abs(difference).max(initial=0.0)):
            itself = float(factors[-1])
            if abs(itself) <= 1e-7:
                factors = factors[:-1]
                return _of_shares({slab: float(f) for (slab, _), f in zip(told[:-1], factors, strict=True)}, len(slabs))
            if np.abs(factors[:-1]).max(initial=0.0) <= 1e-7:
                times = "" if abs(abs(itself) - 1) <= 1e-7 else f"{abs(itself):.6g} times "
                kind, what = ("accumulated twice", "has {}its own gradient too much")
                if itself < 0:
                    kind, what = ("hidden path missing", "lacks {}its own gradient, a dh_prev += dh_t")
                why = f"what a step hands to the one before it {what.format(times)}"
                return ("constant factor" if times else kind), why, None
    other_matrix = _of_another_matrix(steps, found, right)
    if other_matrix is not None:
        return other_matrix
    handed = _of_handed(steps, found, right)
    if handed is not None:
        return handed
    through = B @ matrix
    direct, wrong = right - through, found - through
    own = _other_preactivation(steps, found - direct, matrix)
    if own is not None and not _same(own, B):
        told_of_gates = _of_gates(steps, own, B)
        if told_of_gates is not None:
            kind, why, gate = told_of_gates
            return kind, f"in what W_hh hands back, {why}", gate
    said: dict[tuple[str, str], str] = {}
    for rows, text in _spans(steps):
        for span, other in _spans(steps):
            mine, its = wrong[..., rows, span], direct[..., rows, span]
            if _same_in(mine, its, right):
                continue
            if mine.shape[-1] != mine.shape[-2]:
                return None
            ratio = _ratio(steps, mine, its, None)
            if ratio is None:
                return None
            said[ratio] = f"what flows back from {text} to {other} of the step before"
    if len(said) != 1:
        # From the output through a later state, and from that state: one factor on the way of both.
        return None
    (kind, why), ways = next(iter(said.items()))
    return kind, f"{ways} {why}", None


def _of_handed(steps: RecordedSteps, found: Array, right: Array) -> Said | None:
    """Whether all that goes back to a state has a factor of its own, one for each unit and step."""
    said: dict[str, tuple[str, str]] = {}
    for span, state in _spans(steps):
        mine, its = found[..., span], right[..., span]
        if _same_in(mine, its, right):
            continue
        ratio = _ratio(steps, mine, its, None)
        if ratio is None:
            return None
        said[state] = ratio
    if len(set(said.values())) != 1:
        return None
    kind, why = next(iter(said.values()))
    return kind, f"what a step hands back to {', '.join(said)} of the step before {why}", None


def _of_another_matrix(steps: RecordedSteps, found: Array, right: Array) -> Said | None:
    """Whether what goes back through W_hh goes through another matrix, the same at every step."""
    H, B, weight = steps.layer.hidden_size, steps.maps.preactivation, steps.weights()["weight_hh"]
    width = steps.widths[0]
    blocks = [(rows, columns) for rows, columns, _ in steps.products("hidden")]
    if steps.cell.hidden_inputs or steps.recorded.masks.recurrent is not None:
        return None
    alive = steps.alive
    left = np.concatenate([B[..., columns] for _, columns in blocks], axis=-1)[alive]  # (M, S, G)
    right_side = (found - right)[alive]
    if not _same_in(found[..., width:], right[..., width:], right) or left.shape[0] * left.shape[1] < 2 * left.shape[2]:
        return None
    left, change = left.reshape(-1, left.shape[2]), right_side[..., :width].reshape(-1, width)
    solution, _, rank, _ = np.linalg.lstsq(left, change, rcond=1e-10)
    if rank < left.shape[1] or not np.any(change):
        return None
    if np.abs(left @ solution - change).max() > 1e-8 * np.abs(change).max():
        return None
    rows = np.concatenate([weight[rows] for rows, _ in blocks])
    other = rows + solution
    G = len(rows) // H
    if H == width:
        gates = [rows[k * H : (k + 1) * H] for k in range(G)]
        for k in range(G):
            mine = other[k * H : (k + 1) * H]
            for j, gate in enumerate(gates):
                if j != k and _same(mine, gate):
                    return (
                        "gates swapped",
                        "what comes back through W_hh takes the rows of one gate for another's",
                        None,
                    )
            if not _same(mine, gates[k]) and _same(mine, gates[k].T):
                return "transposed", "what comes back goes through W_hh where it should through its transpose", None
    size = float(np.abs(other - rows).max() / np.abs(rows).max())
    order = [next((j for j in range(width) if _same(other[:, k], rows[:, j])), -1) for k in range(width)]
    if min(order) >= 0:
        return "wrong recurrence", f"what is handed back has the units in another order: {order}", None
    for dtype in (np.float16, np.float32):
        if np.abs(other - rows.astype(dtype)).max() <= 0.01 * np.abs(other - rows).max():
            why = f"what comes back goes through W_hh in {np.dtype(dtype)}"
            return "lower precision", why, None
    why = (
        "what comes back goes through another matrix than W_hh, the same at every step, up to "
        f"{size:.2g} of its largest entry away: the weights of another time, or what was made of them"
    )
    return "weights of another time", why, None


def _other_preactivation(steps: RecordedSteps, through: Array, matrix: Array) -> Array | None:
    """Return the B with which what goes through W_hh would be what was found; None where there is none, or several.

    B has a diagonal for each state and gate: of unit j a number for each gate, to be found from the numbers that its
    row of B M has.
    """
    H, B, slabs = steps.layer.hidden_size, steps.maps.preactivation, steps.cell.slabs
    acting = [k for k in range(len(slabs)) if np.any(matrix[:, :, k * H : (k + 1) * H])]
    if any(width != H for width in steps.widths) or len(acting) > H:
        return None
    if not _same_in(through[..., H:], np.zeros_like(through[..., H:]), through):
        return None
    other = B.copy()
    for j in range(H):
        rows = [k * H + j for k in acting]
        M = matrix[:, :, rows, :H]  # (T, N, gates, H)
        inverse = np.linalg.pinv(M, rcond=1e-9)
        for s in range(j, steps.S, H):
            coefficients = np.einsum("tnh,tnhg->tng", through[:, :, s, :H], inverse)
            rest = np.einsum("tng,tngh->tnh", coefficients, M) - through[:, :, s, :H]
            if np.abs(rest).max(initial=0.0) > 1e-9 * np.abs(through).max(initial=0.0):
                return None
            other[:, :, s, rows] = coefficients
    return other


def _spans(steps: RecordedSteps) -> list[tuple[slice, str]]:
    edges = np.cumsum([0, *steps.widths])
    return [(slice(edges[k], edges[k + 1]), state) for k, state in enumerate(steps.cell.states)]


def _of_shares(factors: Mapping[str, float], count: int) -> Said | None:
    off = {slab: factor for slab, factor in factors.items() if abs(factor) > 1e-7}
    rounded = {round(factor, 6) for factor in off.values()}
    if not off or len(rounded) > 1:
        return None
    factor = 1 + next(iter(off.values()))
    whole = len(off) == len(factors)
    peep = all("peephole" in slab for slab in off)
    what = "what comes back" if peep else "what comes back through W_hh"
    what = what if whole else f"{what} from {', '.join(off)}"
    gate = next(iter(off)).partition(",")[0] if len(off) == 1 and count > 1 else None
    if abs(factor) < 1e-7:
        kind = "recurrence dropped" if whole else "gate path missing"
        return kind, f"{what} is missing", gate
    if abs(factor + 1) < 1e-7:
        return "sign", f"{what} has the wrong sign", gate
    return "constant factor", f"{what} is {factor:.6g} times what it should be", gate


def _same_in(found: Array, right: Array, scale: Array) -> bool:
    return float(np.abs(found - right).max(initial=0.0)) <= SAME * float(np.abs(scale).max(initial=0.0))


# ---------------------------------------------------------------------------------------------- quotients


def _ratio(steps: RecordedSteps, found: Array, right: Array, gate: str | None) -> tuple[str, str] | None:
    """Say by what one map, (T, N, rows, H), is another one times: a number, or a quotient of recorded arrays."""
    alive = steps.alive
    found, right = found[alive], right[alive]  # (M, rows, H)
    size = float(np.abs(right).max(initial=0.0))
    if np.abs(found).max(initial=0.0) <= 1e-8 * size:
        return ("gate path missing" if gate else "hidden path missing"), "is missing"
    if not size:
        return None
    factor = float(np.sum(found * right) / np.sum(right * right))
    if np.abs(found - factor * right).max() <= 1e-8 * size * max(1.0, abs(factor)):
        if abs(factor + 1) < 1e-8:
            return "sign", "has the wrong sign"
        return "constant factor", f"is {factor:.9g} times the right one"
    shut = right == 0
    if np.any(found[shut]) and np.abs(found - right)[~shut].max() <= 1e-8 * size:
        return (
            "wrong derivative",
            "is there also where it is 0: what forward cut off, or did not choose, lets it through",
        )
    # Of each column, a unit's, one number at each step: from the rows that have something there.
    weight = right * right
    total = weight.sum(axis=1)
    ratio = np.divide((found * right).sum(axis=1), total, out=np.ones_like(total), where=total > 0)
    if np.abs(found - ratio[:, None, :] * right).max() > 1e-8 * float(np.abs(found).max()):
        return None
    told = np.sqrt(total) > 1e-6 * np.sqrt(total.max())
    return _named_ratio(steps, ratio, told, gate)


def _named_ratio(
    steps: RecordedSteps, ratio: Array, told: NDArray[np.bool_], gate: str | None
) -> tuple[str, str] | None:
    arrays = {name: array[steps.alive] for name, array in _library(steps)}
    arrays = {name: array for name, array in arrays.items() if array.shape == ratio.shape}
    names = ["1", *arrays]
    values = [np.ones_like(ratio), *arrays.values()]
    own = {name for name in names if gate and name in (f"{gate} (1 - {gate})", f"1 - {gate}^2")}
    if gate and len(steps.cell.slabs) == 1:  # its value is the state
        own = {f"1 - {steps.cell.states[0]}_t^2"} & set(names)
    # The likeliest first: the derivative of the gate itself left out, or in another form.
    order = sorted(range(len(names)), key=lambda k: (names[k] not in own, k))
    for below in order:
        for above in range(len(names)):
            if above == below:
                continue
            with np.errstate(all="ignore"):
                off = np.abs(ratio * values[below] - values[above]) > 1e-7 * np.abs(values[above]).max()
            if not np.any(off & told):
                return _said(names[above], names[below], own)
    return None


def _said(above: str, below: str, own: set[str]) -> tuple[str, str]:
    if above == "1" and below in own:
        return "gate derivative missing", f"lacks its derivative, {below}"
    if below in own:
        return "wrong derivative", f"has {above} where its derivative is {below}"
    if above == "1":
        return "wrong derivative", f"lacks the factor {below}"
    if below == "1":
        return "wrong derivative", f"has a factor {above} too much"
    if sorted(re.split(r"[()]| [-+] ", above)) == sorted(re.split(r"[()]| [-+] ", below)):
        return "sign", f"has {above} where {below} belongs"
    times = {above.replace("_t", "").replace("_{t-1}", ""), below.replace("_t", "").replace("_{t-1}", "")}
    kind = "off by one step" if len(times) == 1 else "wrong derivative"
    return kind, f"has {above} where {below} belongs"


def _library(steps: RecordedSteps) -> Iterator[tuple[str, Array]]:
    """Yield what a factor of a step's derivative may be made of."""
    base: dict[str, Array] = {}
    for name in (*steps.cell.slabs, *steps.cell.records):
        array = steps.recorded.find(name)
        if array is not None and len(array) == steps.T:
            base[name] = array
    for state, before, after in zip(
        steps.cell.states, steps.split(steps.states("before")), steps.split(steps.states("after")), strict=True
    ):
        base[f"{state}_{{t-1}}"], base[f"{state}_t"] = before, after
    for name, weight in steps.weights().items():  # what a parameter of the cell's own may be made of, unit by unit
        if name in steps.cell.parameters and weight.shape == (steps.layer.hidden_size,):
            own = np.broadcast_to(weight, (steps.T, steps.N, *weight.shape))
            s = 1 / (1 + np.exp(-own))
            for title, array in ((name, own), (f"s({name})", s)):
                yield title, array
                yield f"1 - {title}", 1 - array
                yield f"1 + {title}", 1 + array
    for name, array in base.items():
        yield name, array
    for name, array in base.items():
        yield f"1 - {name}", 1 - array
        yield f"{name} (1 - {name})", array * (1 - array)
        yield f"1 - {name}^2", 1 - array * array
        yield f"tanh({name})", np.tanh(array)
        yield f"1 - tanh({name})^2", 1 - np.tanh(array) ** 2
        s = 1 / (1 + np.exp(-array))
        yield f"s'({name})", s * (1 - s)
        yield f"1 + {name}", 1 + array
        yield f"{name}^2", array * array
    names = list(base)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            if base[one].shape == base[other].shape:
                yield f"({one} - {other})", base[one] - base[other]
                yield f"({other} - {one})", base[other] - base[one]
                yield f"({one} + {other})", base[one] + base[other]
