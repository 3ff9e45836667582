"""From a wrong gradient to the mistake that made it.

Three kinds of evidence, in this order:

1. *The gradient that a mistake would give.* The chain rule of `rnn_numpy.checks.chain_rule` is run with the mistake in
   it (a path cut, a derivative left out, steps missing from a sum), and the whole gradient that comes out is compared
   with the one that was found. Where every tensor agrees, that is the mistake, or one that cannot be told from it by
   its results.
2. *Patterns of the wrong tensors*: a constant factor, a transpose, rows of one gate in another's place, a clipped or
   zeroed tensor. These need no layer.
3. *The first wrong place.* Backward is run on the loss of a single step t; the first step k, going back, at which the
   gradient of a pre-activation differs is where the mistake sits: at k = t it is in the immediate derivative, later
   it is in the recurrence; nowhere, it is in the sums over the steps.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import EXACT, ChainGradient, ChainRule, DirectionGradient, Variation
from rnn_numpy.checks.diagnosis.known_mistakes import (
    BETWEEN,
    ENTRY,
    IMMEDIATE,
    RECURRENCE,
    Mistake,
    known_mistakes,
)
from rnn_numpy.checks.diagnosis.of_attention import factor_of_scores, mistakes_of_attention
from rnn_numpy.checks.diagnosis.of_normalisation import mistakes_of_normalisation
from rnn_numpy.checks.diagnosis.of_shares import mistake_between_layers, mistake_of_entries
from rnn_numpy.checks.diagnosis.of_steps import (
    as_variation,
    maps_of_calls,
    maps_with_moved_reads,
    measured_maps,
    mistake_of_steps,
    treats_signs_apart,
)
from rnn_numpy.checks.diagnosis.of_sums import mistake_of_sums
from rnn_numpy.checks.diagnosis.patterns import (
    close,
    common_pattern,
    cut_another_way,
    matches,
    narrowed,
    on_a_grid,
    rescaled,
)
from rnn_numpy.checks.report import WRONG, Diagnosis, Row, step_scales
from rnn_numpy.checks.rounding import Tolerances
from rnn_numpy.checks.targets import LayerTarget, Point, Target
from rnn_numpy.core.states import mapped
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]

# Where a mistake is smaller than what tells two gradients apart, agreement means: to this many times what rounding
# allows.
ROUNDING = 32

# Up to so many steps it is tried how far back the loss at each reaches.
MOST_WINDOWS = 32


# ---------------------------------------------------------------------------------------------- a recurrent layer


def diagnose_layer(
    target: LayerTarget, chain: ChainRule, tolerances: Tolerances, analytic: Point, rows: Sequence[Row]
) -> Diagnosis:
    """Name the mistake in the backward pass of a recurrent layer, of which `analytic` are the gradients found."""
    exact = chain.exact.tensors
    memory = {name: array for name, array in analytic.items() if name not in exact}
    analytic = {name: analytic[name] for name in exact}
    place = _first_wrong(target, chain, tolerances, rows)
    if any(not np.isfinite(array).all() for array in analytic.values()):
        return _not_finite(analytic, target, place)
    compare = Comparison(chain, tolerances, analytic)
    for probe in (_padding, _cut_another_way, _mixed_batch, _on_a_grid, _not_linear):
        found = probe(target, compare, analytic)
        if found is not None:
            return _placed(found, place)
    for kind, why, gradient in itertools.chain(mistakes_of_attention(target), mistakes_of_normalisation(target)):
        alike = compare.explains({name: gradient[name] for name in analytic})
        if alike and all(matches(name, array, gradient[name]) for name, array in memory.items()):
            return _placed(Diagnosis(kind, why), place)
    match = _best(chain, list(known_mistakes(chain)), compare) or _of_formulas(target, chain, compare)
    if match is not None:
        return _placed(Diagnosis(match.kind, match.why), place, match)
    if place.get("part", "sums") == "sums":
        found = mistake_of_sums(target, chain, analytic, rows)
        if found is not None:
            return _placed(found, place)
    found = mistake_of_entries(target, chain, compare) or mistake_between_layers(chain, compare)
    found = found or _windowed(target, chain, compare)
    if found is not None:
        return _placed(found, place)
    found = common_pattern(target, analytic, exact, rows)
    if found is not None:
        return _placed(_of_all(found, rows), place)
    part = place.get("part")
    if part in (RECURRENCE, IMMEDIATE, ENTRY):
        found = _narrow_states(chain, target)
        if found is not None:
            return _placed(found, place)
    scores = factor_of_scores(target, chain.tensors)
    if scores is not None:
        return _placed(Diagnosis(*scores), place)
    if part == "recurrence" and place.get("silent"):
        lag = place["t"] - place["k"]
        why = f"nothing is handed on beyond {abs(lag)} steps: the recurrence is cut there"
        return _placed(Diagnosis("recurrence dropped", why), place)
    wrong_tensors = {row.name for row in rows if row.verdict == WRONG and row.name in target.layer.params}
    reverse = {name for name in target.layer.params if name.endswith("_reverse")}
    if wrong_tensors and wrong_tensors <= reverse and part != "sums":
        why = "only the reverse direction is wrong: it is not gone through, or not given its loss, in its own order"
        return _placed(Diagnosis("reverse direction not reversed", why, explained=False), place)
    found = narrowed(analytic, exact)
    if found is not None:
        return _placed(found, place)
    if part in (None, "sums"):
        found = rescaled(analytic, exact, sorted(wrong_tensors))
        if found is not None:  # a description, and no mistake
            return _placed(dataclasses.replace(found, explained=False), place)
    names = ", ".join(sorted({row.title for row in rows if row.verdict == WRONG}))
    if part == "immediate partial":
        why = "the derivative of one step is wrong, in a way that is none of the known mistakes"
        return _placed(Diagnosis("wrong derivative", why, explained=False), place)
    if part == "recurrence":
        why = "what a step hands to the step before it is wrong, in a way that is none of the known mistakes"
        return _placed(Diagnosis("wrong recurrence", why, explained=False), place)
    if part == "sums":
        why = f"the gradients at every step are right, what is made of them is not: {names}"
        return _placed(Diagnosis("wrong sum", why, explained=False), place)
    return _placed(
        Diagnosis("unknown", f"none of the known mistakes gives this gradient; wrong are {names}", explained=False),
        place,
    )


def _of_all(found: Diagnosis, rows: Sequence[Row]) -> Diagnosis:
    """Return a pattern as no explanation where it leaves out a tensor that is wrong."""
    left = [row.name for row in rows if row.verdict == WRONG and not row.name.startswith("da_")]
    return found if all(name in found.why for name in left) else dataclasses.replace(found, explained=False)


def _placed(diagnosis: Diagnosis, place: Mapping[str, Any], mistake: Mistake | None = None) -> Diagnosis:
    """Return the diagnosis with the first wrong place."""
    where = {key: value for key, value in place.items() if key != "text" and value is not None} | diagnosis.where
    if mistake is not None and mistake.gate is not None:
        where.setdefault("gate", mistake.gate)
    text = str(place.get("text", ""))
    if mistake is not None and mistake.part:
        where["part"] = mistake.part
        if mistake.part != place.get("part") and "block" in text:  # where it shows is not where it is made
            text = text.rpartition(": ")[0]
    return dataclasses.replace(diagnosis, when=text, where=where)


# ---------------------------------------------------------------------------------------------- comparing


class Comparison:
    """Compares whole gradients, as finely as the mistake in question needs: where the wrong gradient is the right one
    but for less than `MATCH`, agreement means agreement to rounding.
    """

    def __init__(self, chain: ChainRule, tolerances: Tolerances, analytic: Point) -> None:
        self.chain = chain
        self.exact = chain.exact.tensors
        self.analytic = analytic
        self.tolerances = tolerances
        self.fine = all(matches(name, analytic[name], array) for name, array in self.exact.items())

    def same(self, name: str, found: Array, expected: Array) -> bool:
        """Whether two gradients of one tensor agree."""
        if not self.fine:
            return matches(name, found, expected)
        allowed = ROUNDING * self.tolerances.tensors[name]
        return bool(np.isfinite(found).all() and np.all(np.abs(found - expected) <= allowed))

    def is_exact(self, found: Mapping[str, Array]) -> bool:
        """Whether a whole gradient is the right one."""
        return all(self.same(name, found[name], array) for name, array in self.exact.items() if name in found)

    def explains(self, predicted: Mapping[str, Array]) -> bool:
        """Whether a whole gradient is the one that was found, and not the right one."""
        if self.is_exact(predicted):
            return False  # this mistake makes no difference here
        return all(self.same(name, self.analytic[name], array) for name, array in predicted.items())


def _best(chain: ChainRule, known: Sequence[Mistake], compare: Comparison) -> Mistake | None:
    """Return the first mistake that gives the gradient found, in every tensor: made in all layers and directions, or
    in one of them.
    """
    scopes: list[set[str]] = [set(chain.maps)]
    if len(chain.maps) > 1:
        reverse = {name for name, maps in chain.maps.items() if maps.steps.direction.reverse}
        scopes += [reverse] if reverse else []
        scopes += [{name} for name in chain.maps]
    for scope in scopes:
        for mistake in known:
            found = _made_by(mistake.change, chain, scope)
            if found is not None and compare.explains(found.tensors):
                if scope == scopes[0]:
                    return mistake
                return dataclasses.replace(mistake, why=f"{mistake.why} (in {', '.join(sorted(scope))})")
    return None


def _of_formulas(target: LayerTarget, chain: ChainRule, compare: Comparison) -> Mistake | None:
    """Return what is wrong with the formula of a step, where that is all that is wrong."""
    for measured in (measured_maps(chain), maps_of_calls(target, chain)):
        if measured is not None and compare.explains(chain.gradient(as_variation(measured)).tensors):
            with np.errstate(all="ignore"):
                return mistake_of_steps(chain, measured)
    for array, word, measured in maps_with_moved_reads(chain):
        change = as_variation(measured)
        if compare.explains(chain.gradient(change).tensors):
            slabs = next(iter(chain.maps.values())).steps.cell.slabs
            gate = array if array in slabs and len(slabs) > 1 else None
            moved = any(not np.array_equal(m.preactivation, chain.maps[k].jacobians.preactivation, equal_nan=True)
                        for k, m in measured.items())  # fmt: skip
            why = f"backward reads {array} of the step {word} where that of the step itself belongs"
            return Mistake("off by one step", why, change, IMMEDIATE if moved else RECURRENCE, gate)
    return None


def _made_by(change: Variation, chain: ChainRule, scope: set[str]) -> ChainGradient | None:
    """Return the gradient that a mistake would give; None where the cell is none that it can be made in.

    The cells of a user may be anything: what a suspect does not find in one is no reason to let the check down.
    """
    with np.errstate(all="ignore"):
        try:
            return chain.gradient(_within(change, scope))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return None


def _within(variation: Variation, scope: set[str]) -> Variation:
    """Return the variation made in some layers and directions alone."""

    def limited(name: str) -> Callable[..., Array]:
        inner, plain = getattr(variation, name), getattr(EXACT, name)
        return lambda steps, *rest: (inner if steps.direction.name in scope else plain)(steps, *rest)

    names = [field.name for field in dataclasses.fields(Variation) if field.name != "forward_order"]
    return Variation(**{name: limited(name) for name in names}, forward_order=variation.forward_order)


# ---------------------------------------------------------------------------------------------- probes


def _padding(target: LayerTarget, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether what stands past the end of a sequence reaches any gradient."""
    if target.lengths is None:
        return None
    layer = target.layer
    first = getattr(layer, "batch_first", False)
    T = target.x.shape[1 if first else 0]
    dead = np.arange(T)[:, None] >= target.lengths
    dead = dead.T if first else dead
    if np.any(analytic["x"][dead] != 0):
        return Diagnosis("padding leaks", "dx is not 0 past the end of a sequence")
    changed = np.array(target.doutput)
    changed[dead] += 1.0
    _, _, trace = target.forward()
    other = target.back(trace, None, changed, target.dfinal)
    names = [name for name in analytic if not close(other[name], analytic[name], 1e-12)]
    if names:
        why = f"what doutput holds past the end of a sequence changes the gradient of {', '.join(names)}"
        return Diagnosis("padding leaks", why)
    return None


def _cut_another_way(target: LayerTarget, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether all that is wrong are right numbers in another order."""
    wrong = [name for name, array in compare.exact.items() if not compare.same(name, analytic[name], array)]
    told = {name: cut_another_way(analytic[name], compare.exact[name]) for name in wrong if analytic[name].ndim > 2}
    if not told or len(told) < len(wrong) or None in told.values():
        return None
    return Diagnosis("transposed", "; ".join(f"{name}: {text}" for name, text in told.items()))


def _on_a_grid(target: LayerTarget, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether all numbers of all that is wrong are multiples of one step, and the right ones are not."""
    wrong = [name for name, array in compare.exact.items() if not compare.same(name, analytic[name], array)]
    told = on_a_grid([analytic[name] for name in wrong]) if wrong else None
    if told is None or on_a_grid([compare.exact[name] for name in wrong]) is not None:
        return None
    return Diagnosis("lower precision", f"all numbers of {', '.join(wrong)} are {told}")


def _mixed_batch(target: LayerTarget, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether the loss of one sequence reaches another's input."""
    if target.x.ndim != 3:
        return None
    axis = 0 if getattr(target.layer, "batch_first", False) else 1
    if target.x.shape[axis] < 2:
        return None
    alone = np.zeros_like(target.doutput)
    at: list[Any] = [slice(None)] * 3
    at[axis] = 0
    alone[tuple(at)] = target.doutput[tuple(at)]
    _, _, trace = target.forward()
    found = target.back(trace, None, alone, mapped(np.zeros_like, target.dfinal))["x"]
    rest: list[Any] = [slice(None)] * 3
    rest[axis] = slice(1, None)
    nothing = target.back(trace, None, np.zeros_like(alone), mapped(np.zeros_like, target.dfinal))["x"]
    if np.any(found[tuple(rest)] != nothing[tuple(rest)]):
        return Diagnosis("batch mixed", "the loss of sequence 0 alone gives gradients at the inputs of other sequences")
    return None


def _not_linear(target: LayerTarget, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether the gradient of no loss at all is something, or a loss scaled by a power of 2 has the right gradient:
    then something cuts off sizes.
    """

    def scaled(factor: float) -> Point:
        _, _, trace = target.forward()
        dfinal = mapped(lambda array: array * factor, target.dfinal)
        return {
            name: array / (factor or 1)
            for name, array in target.back(trace, None, target.doutput * factor, dfinal).items()
        }

    if compare.is_exact(analytic):
        return None  # by so little that no size could be told from rounding
    nothing = scaled(0.0)
    left = [name for name, array in nothing.items() if np.any(array != 0)]
    if left:
        if all(name in target.point and close(nothing[name], target.point[name]) for name in left):
            return Diagnosis(
                "starts as the weights", f"the gradient of {', '.join(left)} is the right one plus the parameter itself"
            )
        decays = {name: _factor_of(nothing[name], target.point[name]) for name in left if name in target.point}
        rates = {float(f"{rate:.6g}") for rate in decays.values() if rate is not None}
        if len(decays) == len(left) and None not in decays.values() and len(rates) == 1:
            why = f"the gradient of {', '.join(left)} is the right one plus {rates.pop():g} times the parameter itself"
            return Diagnosis("weight decay", why)
        return Diagnosis(
            "starts as the weights", f"a loss of 0 gives a gradient of {', '.join(left)}: it does not begin at 0"
        )
    if treats_signs_apart(compare.chain):
        why = "negative gradients are cut off on the way back through a step, as by a relu (guided back-propagation)"
        return Diagnosis("clipped", why)
    for power, kind, why in (
        (
            200,
            "small gradients flushed",
            "is right for a loss 2^200 times as large: something sets small numbers to zero",
        ),
        (-200, "clipped", "is right for a loss 2^200 times as small: something cuts off large numbers"),
    ):
        with np.errstate(all="ignore"):
            found = scaled(2.0**power)
        if compare.is_exact(found):
            wrong = ", ".join(name for name in analytic if not compare.same(name, analytic[name], compare.exact[name]))
            return Diagnosis(kind, f"the gradient of {wrong or 'x'} {why}")
    return None


def _factor_of(found: Array, expected: Array) -> float | None:
    scale = float(np.sum(expected * expected))
    factor = float(np.sum(found * expected)) / scale if scale else 0.0
    return factor if close(found, factor * expected) else None


def _narrow_states(chain: ChainRule, target: LayerTarget) -> Diagnosis | None:
    """Whether what steps hand back consists of numbers of a narrower dtype alone: rounded inside of time."""
    target.analytic()
    for dtype in (np.float16, np.float32):
        for name in chain.maps:
            steps, arrays = chain.maps[name].steps, target.trace.layers[name].latest.arrays
            for state in steps.cell.states:
                found = arrays.get(f"d{state}")
                if found is None or len(found) <= steps.T:
                    continue
                inner = found[1:-1]
                if np.count_nonzero(inner) <= 8:
                    continue
                if (grid := _grid(inner)) is not None:
                    return Diagnosis("lower precision", f"what steps of {name} hand back, d{state}, {grid}")
                if np.array_equal(inner, inner.astype(dtype)):
                    why = f"what steps of {name} hand back, d{state}, holds numbers of {np.dtype(dtype)} alone"
                    return Diagnosis("lower precision", why)
    return None


def _grid(values: Array) -> str | None:
    """Say on what grid all numbers of each step are, decimal or of so many levels; None where there is none."""
    for digits in range(1, 7):
        if np.count_nonzero(np.round(values * 10.0**digits)) <= 8:
            continue  # numbers that are next to 0 are on any grid
        if np.abs(values * 10.0**digits - np.round(values * 10.0**digits)).max() <= 1e-9:
            return f"is rounded to {digits} decimals"
    size = np.abs(values.reshape(len(values), -1)).max(axis=1, initial=0.0)
    size = np.where(size > 0, size, 1.0).reshape(-1, *(1,) * (values.ndim - 1))
    for bits in range(2, 17):
        for levels in (2**bits - 1, 2**bits):
            scaled = values / size * levels
            if np.abs(scaled - np.round(scaled)).max() <= 1e-9 * levels:
                return f"has {levels} levels a side at each step, no more"
    return None


def _not_finite(analytic: Point, target: Target, place: Mapping[str, Any]) -> Diagnosis:
    for name, array in analytic.items():
        bad = ~np.isfinite(array)
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            count = int(bad.sum())
            why = (
                f"{count} of {array.size} entries of {name} are NaN or infinite, the first at {list(index)}: "
                f"{array[index]}"
            )
            return _placed(Diagnosis("not finite", why), place)
    return Diagnosis("not finite", "an entry is NaN or infinite")


def _first_wrong(target: LayerTarget, chain: ChainRule, tolerances: Tolerances, rows: Sequence[Row]) -> dict[str, Any]:
    """Find the first wrong place: run backward on the loss of single steps, and compare the gradients of
    pre-activations from that step back.

    Returns a dict with "text", "layer", "gate", "t", "k", "part"; empty where the layer's trace has no such gradients.
    """
    layer = target.layer
    if layer.cell.input_gradient != "da" or _of_another_pass(target, chain):
        return {}
    names = list(reversed(chain.maps))
    T = next(iter(chain.maps.values())).steps.T
    axis = 1 if getattr(layer, "batch_first", False) and target.x.ndim == 3 else 0
    _, _, trace = target.forward()
    candidates = [T - 1, *range(T - 2, -1, -1)] if T <= 64 else sorted({T - 1, T - 2, T // 2, 1, 0}, reverse=True)
    zero = mapped(np.zeros_like, target.dfinal)
    allowed = _least(chain, tolerances)
    for kind, t in [*(("output", t) for t in candidates), ("final", T - 1)]:
        doutput, dfinal = np.zeros_like(target.doutput), target.dfinal
        if kind == "output":
            at = (slice(None),) * axis + (t,)
            doutput[at] = target.doutput[at]
            dfinal = zero
        elif dfinal is None:
            continue
        found = _wrong_step(target, chain, trace, doutput, dfinal, names, kind, t, allowed)
        if found and found["part"] == RECURRENCE and kind == "output":
            # Unless that step is wrong by itself, without any other after it.
            k, alone = found["k"], np.zeros_like(target.doutput)
            alone[(slice(None),) * axis + (k,)] = target.doutput[(slice(None),) * axis + (k,)]
            own = _wrong_step(target, chain, trace, alone, zero, names, kind, k, allowed)
            return own if own and own["k"] == k and own["part"] == IMMEDIATE else found
        if found:
            return found
    if any(trace.layers[name].latest.arrays.get("da") is None for name in names):
        return {}  # a backward pass of its own has left nothing to look at
    if any(row.verdict == WRONG and row.name.startswith("da_") for row in rows):
        return {}  # at a step that none of these losses reaches
    return {
        "text": "the gradients of the pre-activations are right at every step: what is made of them is wrong",
        "part": "sums",
    }


def _of_another_pass(target: LayerTarget, chain: ChainRule) -> bool:
    """Whether the gradients of pre-activations that are left in the trace make none of the sums that were returned: a
    backward pass of several passes leaves those of the last one.
    """
    found = target.analytic()
    for name, run in chain.exact.runs.items():
        steps, recorded = chain.maps[name].steps, target.trace.layers[name].latest.arrays.get("da")
        if (
            recorded is None
            or not np.isfinite(recorded).all()
            or close(np.where(steps.alive[..., None], recorded, 0), run.da)
        ):
            continue
        for stem, kind in (("weight_ih", "input"), ("weight_hh", "hidden")):
            for rows, columns, source in steps.products(kind):
                made = np.einsum("tna,tnb->ab", np.where(steps.alive[..., None], recorded, 0)[..., columns], source)
                if close(made, found[f"{stem}_{name}"][rows], 1e-6):
                    return False
        return True
    return False


def _windowed(target: LayerTarget, chain: ChainRule, compare: Comparison) -> Diagnosis | None:
    """Whether what the loss says at each step is handed back a fixed number of steps, and no further."""
    steps = next(iter(chain.maps.values())).steps
    axis = 1 if getattr(target.layer, "batch_first", False) and target.x.ndim == 3 else 0
    if steps.T > MOST_WINDOWS or len(chain.maps) > 1:
        return None
    for length in range(1, steps.T):
        total: dict[str, Array] = {}
        for t in range(steps.T):
            at = (slice(None),) * axis + (t,)
            doutput = np.zeros_like(target.doutput)
            doutput[at] = target.doutput[at]
            last = t == steps.T - 1
            dfinal = target.dfinal if last else mapped(np.zeros_like, target.dfinal)
            change = Variation(state=functools.partial(_until, t - length + 1))
            for name, array in chain.of_loss(doutput, dfinal).gradient(change).tensors.items():
                total[name] = total[name] + array if name in total else array
        if compare.explains(total):
            why = f"what the loss says at a step is handed back {length - 1} steps, and no further"
            return Diagnosis("recurrence dropped", why, where={"part": RECURRENCE})
    return None


def _until(first: int, steps: RecordedSteps, J: Array) -> Array:
    cut = J.copy()
    cut[: max(0, first + 1)] = 0
    return cut


def _least(chain: ChainRule, tolerances: Tolerances) -> float:
    """Return the relative error of a step's da that rounding does not explain, 1e-9 where gates next to saturation have
    few digits.
    """
    shares = [
        np.divide(bound, scale, out=np.zeros(bound.shape), where=scale > 0)
        for bound, scale in ((tolerances.da[name], step_scales(run.da)) for name, run in chain.exact.runs.items())
    ]
    return min(1e-9, 4 * max(float(share.max(initial=0.0)) for share in shares))


def _wrong_step(
    target: LayerTarget,
    chain: ChainRule,
    trace: Any,
    doutput: Array,
    dfinal: Any,
    names: Sequence[str],
    kind: str,
    t: int,
    allowed: float,
) -> dict[str, Any]:
    """Return the first wrong place of one loss step, or an empty dict."""
    target.back(trace, None, doutput, dfinal)
    exact = chain.of_loss(doutput, dfinal).exact
    for name in names:
        steps, run = chain.maps[name].steps, exact.runs[name]
        found = trace.layers[name].latest.arrays.get("da")
        if found is None:
            return {}
        found = np.where(steps.alive[..., None], found, 0)
        for k in reversed(steps.order()):
            scale = float(np.abs(run.da[k]).max(initial=0.0))
            difference = np.abs(found[k] - run.da[k])
            if difference.max(initial=0.0) > allowed * scale or not np.isfinite(found[k]).all():
                gate = _gate_of(steps, difference)
                off = np.flatnonzero(~(difference.max(axis=-1) <= allowed * scale))  # NaN as well
                own = (kind == "output" and k == t) or (kind == "final" and _is_last(steps, k, off))
                top = steps.direction.layer == target.layer.num_layers - 1
                strange = not np.any(run.dstates[k, off])  # there is nothing to come to this step
                first = k == steps.order()[-1]  # the first one that is gone through
                arrived = _arrived(steps, trace.layers[name].latest.arrays, run, k)
                if strange:
                    part = ENTRY if top else BETWEEN
                elif kind == "final" and own:  # no loss at an output is wrong
                    part = ENTRY
                elif arrived and (own or first or not top):
                    part = IMMEDIATE
                elif first or own:
                    part = ENTRY if top else BETWEEN
                elif top:
                    part = RECURRENCE
                else:  # what step k + 1 hands back, or what comes down from the layer above
                    part = RECURRENCE if np.any(run.dstates[k] != run.direct[k]) else BETWEEN
                text = (
                    f"first wrong block (t, k) = ({t}, {k}) of {name}"
                    f"{f', gate {gate}' if gate else ''}: {_meaning(part)}"
                )
                silent = bool(scale > 0 and np.abs(found[k]).max() <= 1e-6 * scale)
                return {
                    "text": text,
                    "layer": name,
                    "gate": gate,
                    "t": t,
                    "k": k,
                    "part": part,
                    "silent": silent or None,
                }
    return {}


def _is_last(steps: RecordedSteps, k: int, sequences: Array) -> bool:
    """Whether step k is the last one, as the direction runs, of all these sequences."""
    order = np.asarray(steps.order())
    last = order[len(order) - 1 - steps.alive[order][::-1].argmax(axis=0)]
    return bool(np.all(last[sequences] == k))


def _arrived(steps: RecordedSteps, arrays: Mapping[str, Array], run: DirectionGradient, k: int) -> bool:
    """Whether the gradient of the output of step k is right, which is complete before the step: then it is step k that
    makes a wrong one of it.
    """
    found, width = arrays.get(f"d{steps.cell.states[0]}"), steps.widths[0]
    if found is None:
        return True
    difference = found[k + steps.binding.after] - run.dstates[k][:, :width]
    scale = float(np.abs(run.dstates[k]).max(initial=0.0))
    return bool(np.abs(np.where(steps.alive[k][:, None], difference, 0)).max(initial=0.0) <= 1e-9 * scale)


def _meaning(part: str) -> str:
    return {
        "between layers": "what the layer above hands down does not arrive as it should",
        "immediate partial": "the immediate derivative of that step, not the recurrence",
        "recurrence": "the recurrence; the immediate derivative is right",
        "entry of the loss": "what the loss says to that step does not arrive as it should",
    }[part]


def _gate_of(steps: RecordedSteps, difference: Array) -> str | None:
    """Return the one gate in which a difference lies, or None where it lies in several, or there is but one."""
    cell, H = steps.cell, steps.layer.hidden_size
    if len(cell.slabs) == 1:
        return None
    parts = {slab: difference[..., k * H : (k + 1) * H].max(initial=0.0) for k, slab in enumerate(cell.slabs)}
    wrong = [slab for slab, value in parts.items() if not np.isfinite(value)]
    if not wrong:
        wrong = [slab for slab, value in parts.items() if value > 1e-6 * max(parts.values())]
    return wrong[0] if len(wrong) == 1 else None


# ---------------------------------------------------------------------------------------------- anything else


def diagnose_tensors(
    target: Target,
    analytic: Point,
    reference: Point,
    rows: Sequence[Row],
    sample: Mapping[str, tuple[Array, ...]] | None = None,
) -> Diagnosis:
    """Name the mistake in gradients of which nothing is known but their values; of the arrays in `sample`, those with
    these indices.
    """
    if any(not np.isfinite(array).all() for array in analytic.values()):
        return _not_finite(analytic, target, {})
    for kind, why, gradient in (*target.own_mistakes(), *mistakes_of_attention(target)):
        if all(matches(name, array, gradient[name]) for name, array in analytic.items()):
            return Diagnosis(kind, why)
    if sample:
        target, whole = copy.copy(target), (analytic, reference, target.point)
        analytic, reference, target.point = (
            {name: array[sample[name]] if name in sample else array for name, array in each.items()} for each in whole
        )
        target.gates = {name: gates for name, gates in target.gates.items() if name not in sample}
    found = common_pattern(target, analytic, reference, rows)
    if found is None:
        found = rescaled(analytic, reference, sorted({row.name for row in rows if row.verdict == WRONG}))
    if found is not None:
        return found
    names = ", ".join(row.title for row in rows if row.verdict == WRONG)
    return Diagnosis("unknown", f"none of the known mistakes gives this gradient; wrong are {names}", explained=False)
