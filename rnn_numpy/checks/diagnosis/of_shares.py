"""A gradient is linear in what the loss says, in what a layer hands down, in the steps of a sum: a mistake that takes
too much or too little of one of these is found by least squares, whatever the factors are.

A fit is believed where it gives the whole gradient that was found, to the digits that tell two gradients apart, from
more numbers than it has factors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule, Variation
from rnn_numpy.checks.diagnosis.patterns import close
from rnn_numpy.checks.report import Diagnosis
from rnn_numpy.checks.targets import LayerTarget
from rnn_numpy.core.states import mapped, split
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]

# Of more outputs than these none is looked at by itself.
MOST_STEPS = 32

# So many more numbers of the gradient than a fit has factors; below, it proves little.
ENOUGH = 4

SAID: Mapping[float, tuple[str, str]] = {
    0.0: ("", "missing"),
    2.0: ("accumulated twice", "there twice"),
    -1.0: ("sign", "subtracted"),
}

# A factor that is this far from a number is that number.
ROUND = 1e-5


def factors_of(found: Array, shares: Sequence[Array]) -> list[float] | None:
    """Return c where found = sum c_k share_k and one c at least is not 1; None where there is no such fit.

    A share of zeros has the factor 1.
    """
    scale = float(np.abs(found).max(initial=0.0))
    told = [k for k, share in enumerate(shares) if np.any(share)]
    if not scale or not told or found.size < ENOUGH + len(told):
        return None
    columns = np.stack([shares[k].ravel() for k in told], axis=1)
    sizes = np.abs(columns).max(axis=0)
    if not (np.isfinite(columns).all() and np.isfinite(found).all()):
        return None
    solution, _, rank, _ = np.linalg.lstsq(columns / sizes, found.ravel(), rcond=1e-10)
    if rank < len(told) or not close((columns / sizes) @ solution, found.ravel()):
        return None
    factors = np.ones(len(shares))
    factors[told] = _rounded(solution / sizes)
    return None if np.all(factors == 1) else [float(factor) for factor in factors]


def _rounded(factors: Array) -> Array:
    simple = np.array([0.0, 1.0, 2.0, -1.0, 0.5])
    nearest = simple[np.abs(factors[:, None] - simple).argmin(axis=1)]
    return np.where(np.abs(factors - nearest) <= ROUND, nearest, factors)


def said_of(factors: Mapping[str, float]) -> tuple[str, str]:
    """Return a kind, and which names have which factor: "is missing", "is there twice", "is 0.9 times what it should
    be"; "" where these are several.
    """
    off = {name: factor for name, factor in factors.items() if factor != 1}
    by_factor: dict[float, list[str]] = {}
    for name, factor in off.items():
        by_factor.setdefault(float(f"{factor:.6g}"), []).append(name)
    if len(by_factor) > 4:
        shown = ", ".join(f"{factor:.4g}" for factor in factors.values())
        return "constant factor", f"{', '.join(factors)}: times {shown}"
    parts, kinds = [], set()
    for factor, names in by_factor.items():
        kind, word = SAID.get(factor, ("constant factor", f"{factor:.6g} times what it should be"))
        kinds.add(kind)
        parts.append(f"{', '.join(names)}: {word}")
    return (kinds.pop() if len(kinds) == 1 else "constant factor"), "; ".join(parts)


# ---------------------------------------------------------------------------------------------- what the loss says


def mistake_of_entries(target: LayerTarget, chain: ChainRule, compare: Any) -> Diagnosis | None:
    """Whether what the loss says to single outputs, final states or sequences has a factor of its own."""
    steps = next(iter(chain.maps.values())).steps
    if steps.T > MOST_STEPS or target.ids:
        return None
    axis = 1 if getattr(target.layer, "batch_first", False) and target.x.ndim == 3 else 0
    zero = mapped(np.zeros_like, target.dfinal)

    def alone(keep: Any) -> Array:
        doutput: Array = np.zeros_like(target.doutput)
        doutput[keep] = target.doutput[keep]
        return doutput

    finals: list[tuple[str, Any]] = []
    if target.dfinal is not None:
        parts = list(split(target.dfinal))
        rows = list(chain.maps) if parts[0].ndim == 3 else [""]
        for k, state in enumerate(steps.cell.states[: len(parts)]):
            for row, name in enumerate(rows):
                only = [np.zeros_like(part) for part in parts]
                only[k][row if name else ...] = parts[k][row if name else ...]
                title = f"d{state}_n" + (f" of {name}" if len(rows) > 1 else "")
                finals.append((title, tuple(only) if len(only) > 1 else only[0]))
    by_step = [(f"t = {t}", alone((slice(None),) * axis + (t,)), zero) for t in range(steps.T)]
    of_finals = [(title, np.zeros_like(target.doutput), final) for title, final in finals]
    found = _fit(chain, compare, [("the outputs", target.doutput, zero), *of_finals]) or _fit(
        chain, compare, [*by_step, *of_finals]
    )
    if found is not None:
        return _of_entries(found)
    if target.x.ndim == 3 and steps.N > 1:
        batch = 1 - axis
        by_sequence = [(f"sequence {n}", alone((slice(None),) * batch + (n,)), zero) for n in range(steps.N)]
        for n in range(steps.N) if target.dfinal is not None else ():
            final = mapped(functools.partial(_of_sequence, n), target.dfinal)
            by_sequence.append((f"final states of sequence {n}", np.zeros_like(target.doutput), final))
        factors = _fit(chain, compare, by_sequence)
        if factors is not None:
            kind, why = said_of(factors)
            why = f"what the loss says to single sequences is weighted: {why}"
            return Diagnosis("batch mixed" if not kind else kind, why, where={"part": "entry of the loss"})
    return None


def _of_sequence(n: int, final: Array) -> Array:
    only = np.zeros_like(final)
    only[..., n, :] = final[..., n, :]
    return only


def _fit(chain: ChainRule, compare: Any, losses: Sequence[tuple[str, Array, Any]]) -> dict[str, float] | None:
    """Return factors of losses, by name, that give the gradient found in every tensor."""
    every = [chain.of_loss(doutput, final).exact.tensors for _, doutput, final in losses]
    sizes = {name: float(np.abs(array).max(initial=0.0)) or 1.0 for name, array in compare.exact.items()}

    def joined(tensors: Mapping[str, Array]) -> Array:
        return np.concatenate([(tensors[name] / size).ravel() for name, size in sizes.items()])

    factors = factors_of(joined(compare.analytic), [joined(tensors) for tensors in every])
    if factors is None or len(set(factors)) == 1:  # one factor of all is a pattern of the tensors
        return None
    total = {
        name: sum((c * tensors[name] for c, tensors in zip(factors, every, strict=True)), np.zeros_like(array))
        for name, array in compare.exact.items()
    }
    if not compare.explains(total):
        return None
    return {name: factor for (name, _, _), factor in zip(losses, factors, strict=True)}


def _of_entries(factors: Mapping[str, float]) -> Diagnosis:
    kind, why = said_of(factors)
    off = [name for name, factor in factors.items() if factor != 1]
    finals = all(name.startswith("d") for name in off)
    if not kind:
        kind = "final-state gradient ignored" if finals else "only the last step's loss"
    what = "gradients of final states" if finals else "what the loss says"
    return Diagnosis(kind, f"{what} arrives in another amount: {why}", where={"part": "entry of the loss"})


# ---------------------------------------------------------------------------------------------- what is handed down


def mistake_between_layers(chain: ChainRule, compare: Any) -> Diagnosis | None:
    """Whether shares of what layers hand down, of a gate or a direction, have a factor of their own."""
    layers = {maps.steps.direction.layer for maps in chain.maps.values()}
    first = next(iter(chain.maps.values())).steps
    if len(layers) != 2 or first.cell.input_gradient != "da":
        return None
    slabs = first.cell.slabs
    H = first.layer.hidden_size
    kinds: list[tuple[str, Variation]] = []
    for name, maps in chain.maps.items():
        if maps.steps.direction.layer == 1:
            for k, slab in enumerate(slabs):
                columns = slice(k * H, (k + 1) * H)
                if any(np.any(share) for share in input_shares(maps.steps, chain.exact.runs[name].da, columns)):
                    title = " ".join((f"gate {slab}" if len(slabs) > 1 else "", name)).strip()
                    kinds.append((title, Variation(handed=_only(chain, name, columns))))
    nothing = chain.gradient(Variation(handed=lambda _, dx: np.zeros_like(dx))).tensors
    every = [chain.gradient(change).tensors for _, change in kinds]
    below = [name for name in compare.exact if any(not np.array_equal(each[name], nothing[name]) for each in every)]
    if not below:
        return None
    found = np.concatenate([(compare.analytic[name] - nothing[name]).ravel() for name in below])
    shares = [np.concatenate([(each[name] - nothing[name]).ravel() for name in below]) for each in every]
    factors = factors_of(found, shares)
    if factors is None:
        return None
    total = dict(nothing)
    for factor, each in zip(factors, every, strict=True):
        for name in below:
            total[name] = total[name] + factor * (each[name] - nothing[name])
    if not compare.explains(total):
        return None
    kind, why = said_of({title: factor for (title, _), factor in zip(kinds, factors, strict=True)})
    return Diagnosis(
        kind or "lower layer cut off", f"of what the upper layer hands down, {why}", where={"part": "between layers"}
    )


def _only(chain: ChainRule, name: str, columns: slice) -> Any:
    """Return what a direction hands down through some columns of a alone; the others, nothing."""

    def only(steps: RecordedSteps, dx: Array) -> Array:
        if steps.direction.name != name:
            return np.zeros_like(dx)
        return sum(input_shares(steps, chain.exact.runs[name].da, columns), np.zeros_like(dx))

    return only


def input_shares(steps: RecordedSteps, da: Array, columns: slice) -> list[Array]:
    """Return what comes back to x through some columns of a, (T, N, D)."""
    weight, shares = steps.weights()["weight_ih"], []
    for rows, block, _ in steps.products("input"):
        start, stop = max(block.start, columns.start), min(block.stop, columns.stop)
        if start < stop:
            at = rows.start + start - block.start
            shares.append(da[..., start:stop] @ weight[at : at + stop - start])
    return shares
