"""What is wrong with the formula of one step: its maps are measured, and compared with the right ones.

The layer's own backward step is run at recorded steps on unit vectors: that gives J' and B', what it makes of ds_t in
place of J_t = ds_t/ds_{t-1} and B_t = ds_t/da_t. Where the chain rule with these gives the whole gradient that was
found, the mistake stands in the formula of the step, and nowhere else. What is left is to say it:

    B' and B    gate by gate: missing, turned round, or times a factor; a factor that varies from unit to unit is looked
                for among quotients of what the step has recorded, so that "i where f belongs" can be said
    J' and J    once what goes through W_hh is taken off: from state to state, likewise; and of what goes through W_hh,
                how much of each gate's share
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule, Variation
from rnn_numpy.checks.diagnosis.known_mistakes import IMMEDIATE, RECURRENCE, Mistake, hidden_matrix
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]

# Of more numbers than these, in all maps together, none is measured.
MOST = 2**24

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
    for name, weight in steps.weights().items():  # peepholes: of a gate, from the second state
        slab = name.rpartition("_")[2]
        if weight.shape == (H,) and slab in slabs and len(steps.widths) > 1 and not name.startswith("bias"):
            k, span = slabs.index(slab), _spans(steps)[1][0]
            through = np.zeros_like(right)
            through[..., span] = B[..., k * H : (k + 1) * H] * weight
            slabs, shares = (*slabs, f"{slab}, through its peephole"), [*shares, through[alive]]
    told = [(slab, share) for slab, share in zip(slabs, shares, strict=True) if np.any(share)]
    if told:
        columns = np.stack([share.ravel() for _, share in told], axis=1)
        factors = np.linalg.lstsq(columns, difference.ravel(), rcond=None)[0]
        rest = np.abs(columns @ factors - difference.ravel()).max(initial=0.0)
        if rest <= 1e-7 * float(np.abs(difference).max(initial=0.0)):
            return _of_shares({slab: float(f) for (slab, _), f in zip(told, factors, strict=True)}, len(slabs))
    through = B @ matrix
    direct, wrong = right - through, found - through
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
    if not np.any(found):
        return ("gate path missing" if gate else "hidden path missing"), "is missing"
    if not np.any(right):
        return None
    size = float(np.abs(right).max())
    factor = float(np.sum(found * right) / np.sum(right * right))
    if np.abs(found - factor * right).max() <= 1e-8 * size * max(1.0, abs(factor)):
        if abs(factor + 1) < 1e-8:
            return "sign", "has the wrong sign"
        return "constant factor", f"is {factor:.9g} times the right one"
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
                yield f"({one} + {other})", base[one] + base[other]
