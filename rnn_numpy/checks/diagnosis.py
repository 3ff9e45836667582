"""From a wrong gradient to the mistake that made it.

Three kinds of evidence, in this order:

1. *The gradient that a mistake would give.* The chain rule of `rnn_numpy.checks.forced` is run with the mistake in it (a
   path cut, a derivative left out, steps missing from a sum), and the whole gradient that comes out is compared with the
   one that was found. Where every tensor agrees, that is the mistake, or one that cannot be told from it by its results.
2. *Relations of the wrong tensors to the right ones*: a constant factor, a transpose, rows of one gate in another's place,
   a clipped or zeroed tensor. These need no layer.
3. *The first wrong place.* Backward is run on the loss of a single step t; the first step k, going back, at which the
   gradient of a pre-activation differs is where the mistake sits: at k = t it is in the immediate derivative, later it is
   in the recurrence; nowhere, it is in the sums over the steps.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.forced import EXACT, Forced, Tolerances, Variation
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.subjects import LayerSubject, Point, Subject
from rnn_numpy.layers.local import LocalSteps

Array = NDArray[Any]

KINDS = (
    "accumulated over calls",
    "batch mixed",
    "bias doubled",
    "bias ignored",
    "cell path missing",
    "clipped",
    "constant factor",
    "dropout mask ignored",
    "final-state gradient ignored",
    "first step skipped",
    "gate derivative missing",
    "gate path missing",
    "gates swapped",
    "hidden path missing",
    "input modified",
    "last step skipped",
    "lower layer cut off",
    "missing 1/N",
    "never accumulated",
    "not deterministic",
    "not finite",
    "off by one step",
    "only the last step's loss",
    "padding leaks",
    "parameters modified",
    "recurrence dropped",
    "reverse direction not reversed",
    "sign",
    "small gradients flushed",
    "buffer not zeroed",
    "transposed",
    "unknown",
    "wrong derivative",
    "wrong recurrence",
    "wrong sum",
)

# Two gradients that agree to this, of their largest entry, are taken to be made by one mistake; where the mistake itself
# is smaller than that, to this many times what rounding allows.
MATCH = 1e-7
ROUNDING = 32


@dataclass(frozen=True)
class Suspect:
    """A mistake, and what it makes of the chain rule."""

    kind: str
    why: str
    variation: Variation
    gate: str | None = None
    part: str = ""


# ---------------------------------------------------------------------------------------------- a recurrent layer


def diagnose_layer(
    subject: LayerSubject, forced: Forced, tolerances: Tolerances, analytic: Point, rows: Sequence[Row]
) -> Diagnosis:
    """Name the mistake in the backward pass of a recurrent layer.

    Parameters
    ----------
    subject : LayerSubject
    forced : Forced
        The reference.
    tolerances : Tolerances
    analytic : dict of str to ndarray
        The gradients found.
    rows : sequence of Row
    """
    exact = forced.exact.tensors
    place = _first_wrong(subject, forced, tolerances)
    if any(not np.isfinite(array).all() for array in analytic.values()):
        return _not_finite(analytic, subject, place)
    compare = Comparison(forced, tolerances, analytic)
    for probe in (_padding, _mixed_batch, _not_linear):
        found = probe(subject, compare, analytic)
        if found is not None:
            return _placed(found, place)
    suspects = list(_suspects(subject, forced))
    match = _best(forced, analytic, suspects, compare)
    if match is not None:
        return _placed(Diagnosis(match.kind, match.why), place, match)
    found = relation(subject, analytic, exact, rows)
    if found is not None:
        return _placed(found, place)
    part = place.get("part")
    if part == "recurrence" and place.get("silent"):
        lag = place["t"] - place["k"]
        why = f"nothing is handed on beyond {abs(lag)} steps: the recurrence is cut there"
        return _placed(Diagnosis("recurrence dropped", why), place)
    wrong_tensors = {row.name for row in rows if row.verdict == WRONG and row.name in subject.layer.params}
    reverse = {name for name in subject.layer.params if name.endswith("_reverse")}
    if wrong_tensors and wrong_tensors <= reverse and part != "sums":
        why = "only the reverse direction is wrong: it is not gone through, or not given its loss, in its own order"
        return _placed(Diagnosis("reverse direction not reversed", why, explained=False), place)
    if part in (None, "sums"):
        found = _rescaled(analytic, exact, sorted(wrong_tensors))
        if found is not None:
            return _placed(found, place)
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


def _placed(diagnosis: Diagnosis, place: Mapping[str, Any], suspect: Suspect | None = None) -> Diagnosis:
    """Return the diagnosis with the first wrong place."""
    where = {key: value for key, value in place.items() if key != "text" and value is not None}
    if suspect is not None and suspect.gate is not None:
        where.setdefault("gate", suspect.gate)
    if suspect is not None and suspect.part:
        where["part"] = suspect.part
    return dataclasses.replace(diagnosis, when=str(place.get("text", "")), where=where)


# ---------------------------------------------------------------------------------------------- mistakes in the chain


def _suspects(subject: LayerSubject, forced: Forced) -> Iterator[Suspect]:
    """Yield the known mistakes that this layer could have, the simpler ones first."""
    steps = next(iter(forced.maps.values())).steps
    cell, H = steps.cell, steps.layer.hidden_size
    N = steps.N

    # What a loss says directly, and how it goes through time.
    def nothing(_: LocalSteps, array: Array) -> Array:
        return np.zeros_like(array)

    yield Suspect(
        "recurrence dropped",
        "the gradient is that of every step by itself: nothing is handed from a step to the one before it",
        Variation(state=nothing),
        part="recurrence",
    )
    yield Suspect(
        "recurrence dropped",
        "no step hands anything to the one before it; only the initial state gets its gradient",
        Variation(state=_only_first),
        part="recurrence",
    )
    widths = np.concatenate([[0], np.cumsum(steps.widths)])
    spans = {state: slice(widths[k], widths[k + 1]) for k, state in enumerate(cell.states)}
    for number, (state, span) in enumerate(spans.items()):
        if len(spans) > 1:
            kind = "hidden path missing" if number == 0 else "cell path missing"
            yield Suspect(
                kind,
                f"what flows back from a step to the one before it through {state} is missing",
                Variation(state=functools.partial(_without_columns, span)),
                part="recurrence",
            )
            yield Suspect(
                kind,
                f"what flows back from a step to the one before it through {state} is missing, but for the initial state",
                Variation(state=functools.partial(_but_first, functools.partial(_without_columns, span))),
                part="recurrence",
            )
            yield Suspect(
                "final-state gradient ignored",
                f"the gradient of the final state {state} (d{state}_n) is ignored",
                Variation(final=functools.partial(_zeroed, span)),
                part="entry of the loss",
            )
    if len(spans) > 1:
        first, later = next(iter(spans.values())), slice(int(widths[1]), int(widths[-1]))
        yield Suspect(
            "hidden path missing",
            f"d{cell.states[1]} does not get what comes through {cell.states[0]}: the loss reaches the cell by the later "
            "steps' cells alone",
            Variation(
                state=functools.partial(_cut_through, first, later, True),
                preactivation=functools.partial(_cut_through, first, later, False),
            ),
            part="immediate partial",
        )
        yield Suspect(
            "cell path missing",
            f"d{cell.states[1]} of the step after is dropped where {cell.states[0]}'s own share comes in (= for +=)",
            Variation(
                state=functools.partial(_but_first, functools.partial(_without_columns, later)),
                final=functools.partial(_zeroed, later),
            ),
            part="recurrence",
        )
        if "f" in cell.slabs:
            yield Suspect(
                "wrong derivative",
                f"what flows back from {cell.states[1]} to {cell.states[1]} of the step before is not multiplied with f",
                Variation(state=functools.partial(_ungated, later)),
                gate="f",
                part="recurrence",
            )
    yield Suspect(
        "final-state gradient ignored",
        "the gradient is that of the outputs alone: dh_n is ignored",
        Variation(final=nothing),
        part="entry of the loss",
    )
    yield Suspect(
        "final-state gradient ignored",
        "dh_n enters at the last step of the batch; a sequence that ends earlier does not get it",
        Variation(final=_final_of_longest),
        part="entry of the loss",
    )
    if len(spans) == 1 and len(cell.slabs) > 1:
        yield Suspect(
            "hidden path missing",
            "what the state hands to the step before it directly, without a weight, is missing",
            Variation(state=_through_weights),
            part="recurrence",
        )
        yield Suspect(
            "overwritten, not added",
            "the gradient of the state before is set to what comes through W_hh: what the state hands on directly, and what "
            "the loss says to that step, are lost",
            Variation(state=_through_weights, loss=_last_alone),
            part="recurrence",
        )
    if {"q", "r", "n"} <= set(cell.slabs):
        yield Suspect(
            "reset on the wrong side",
            "the state gets r * W_hn^T da_n, as if the reset acted before the product, not W_hn^T (r * da_n)",
            Variation(state=_reset_before),
            gate="n",
            part="recurrence",
        )
    if cell.hidden_inputs:
        yield Suspect(
            "hidden path missing",
            "the state gets the gradient of r * h as if it were that of h: the reset gate is missing on the way back",
            Variation(state=_reset_forgotten),
            part="recurrence",
        )
    yield Suspect(
        "only the last step's loss",
        "what the loss says to the outputs of all steps but the last is missing (overwritten, where it should be added to)",
        Variation(loss=_last_alone),
        part="entry of the loss",
    )
    yield Suspect(
        "only the last step's loss",
        "the outputs' gradient is ignored: only that of the final state arrives",
        Variation(loss=nothing),
        part="entry of the loss",
    )
    for shift in (1, -1):
        yield Suspect(
            "off by one step",
            f"what the loss says to output t arrives at step t{'+' if shift > 0 else '-'}1",
            Variation(loss=functools.partial(_shifted, shift)),
            part="entry of the loss",
        )
    for kind, symbol, shift, index in (
        ("hidden", "W_hh", -1, "h_t where h_{t-1} acted"),
        ("hidden", "W_hh", 1, "h_{t-2} where h_{t-1} acted"),
        ("input", "W_ih", -1, "x_{t+1} where x_t acted"),
        ("input", "W_ih", 1, "x_{t-1} where x_t acted"),
    ):
        yield Suspect(
            "off by one step",
            f"the sum over the steps of d{symbol} takes {index}",
            Variation(source=functools.partial(_shifted_source, kind, shift)),
            part="sums",
        )
    yield Suspect(
        "off by one step",
        "the sum over the steps of dW_hh takes h_t where h_{t-1} acted",
        Variation(source=_after_source),
        part="sums",
    )
    # Steps left out.
    for kind, which, word in (("first step skipped", 0, "first"), ("last step skipped", -1, "last")):
        yield Suspect(
            kind,
            f"the {word} step is missing from the sums over the steps",
            Variation(summed=functools.partial(_without_step, which)),
            part="sums",
        )
        yield Suspect(
            kind,
            f"the loop over time leaves the {word} step out altogether",
            Variation(preactivation=functools.partial(_silenced, which), state=functools.partial(_silenced, which)),
            part="recurrence",
        )
        yield Suspect(
            kind,
            f"the loop over time leaves the {word} step out, and hands on the state's gradient as it is",
            Variation(preactivation=functools.partial(_silenced, which), state=functools.partial(_passed, which)),
            part="recurrence",
        )
        yield Suspect(
            kind,
            f"of the {word} step only the sum for W_hh is missing",
            Variation(source=functools.partial(_source_without_step, which)),
            part="sums",
        )
        yield Suspect(
            kind,
            f"what the loss says to the {word} output is missing",
            Variation(loss=functools.partial(_without_step, which)),
            part="entry of the loss",
        )
    # Weights turned around.
    yield Suspect(
        "transposed",
        "the recurrence multiplies with W_hh where it should with its transpose",
        Variation(state=functools.partial(_recurrent, forced, _turned)),
        part="recurrence",
    )
    # Gates.
    for gate in cell.slabs:
        columns = steps.cell.columns_of(gate, H)
        span = columns[1] if columns is not None else slice(0, H)
        name = gate if len(cell.slabs) > 1 else None
        text = f"gate {gate}" if name else "the activation"
        derivative = functools.partial(_without_derivative, forced, gate)
        yield Suspect(
            "gate derivative missing",
            f"the derivative of {text} is missing: da is taken to be the gradient of its value",
            Variation(preactivation=derivative, state=functools.partial(_through, forced, derivative)),
            gate=name,
            part="immediate partial",
        )
        silent = functools.partial(_gate_scaled, span, 0.0)
        if name is not None:
            yield Suspect(
                "gate path missing",
                f"nothing flows back through {text}",
                Variation(preactivation=silent, state=functools.partial(_through, forced, silent)),
                gate=name,
                part="immediate partial",
            )
            yield Suspect(
                "gate path missing",
                f"nothing flows back through {text} to the step before",
                Variation(state=functools.partial(_through, forced, silent)),
                gate=name,
                part="recurrence",
            )
        turned = functools.partial(_gate_scaled, span, -1.0)
        yield Suspect(
            "sign",
            f"the gradient through {text} has the wrong sign",
            Variation(preactivation=turned, state=functools.partial(_through, forced, turned)),
            gate=name,
            part="immediate partial",
        )
        for label, function in OTHER_DERIVATIVES.items():
            other = functools.partial(_other_derivative, forced, gate, function)
            yield Suspect(
                "wrong derivative",
                f"the derivative of {text} is taken as {label}",
                Variation(preactivation=other, state=functools.partial(_through, forced, other)),
                gate=name,
                part="immediate partial",
            )
    yield Suspect(
        "order of Jacobians",
        "the Jacobians of the steps are multiplied in the order in which the steps ran, not from the last one back",
        Variation(forward_order=True),
        part="recurrence",
    )
    yield Suspect(
        "sign",
        "what a step hands to the one before it has the wrong sign",
        Variation(state=lambda _, J: -J),
        part="recurrence",
    )
    # Layers and directions.
    if steps.layer.num_layers > 1:
        yield Suspect(
            "lower layer cut off",
            "what the upper layer hands down does not arrive",
            Variation(handed=nothing),
            part="between layers",
        )
        for reverse in (False, True) if steps.layer.num_directions > 1 else ():
            yield Suspect(
                "lower layer cut off",
                f"of what the upper layer hands down, the {'reverse' if reverse else 'forward'} direction's share is missing",
                Variation(handed=functools.partial(_cut_direction, reverse)),
                part="between layers",
            )
        factors = forced.trace.context.factors
        if factors is not None:
            yield Suspect(
                "dropout mask ignored",
                "the gradient that goes down between two layers is not multiplied with the dropout mask",
                Variation(mask=lambda _, factors: np.ones_like(factors)),
                part="between layers",
            )
    if any(maps.steps.run.masks.recurrent is not None for maps in forced.maps.values()):
        yield Suspect(
            "dropout mask ignored",
            "the gradient of the state is not multiplied with the mask of recurrent dropout",
            Variation(state=functools.partial(_recurrent, forced, _without_mask)),
            part="recurrence",
        )
        yield Suspect(
            "dropout mask ignored",
            "the sum of dW_hh takes h_{t-1} without the mask of recurrent dropout",
            Variation(source=_unmasked_source),
            part="sums",
        )
    if steps.layer.num_directions > 1:
        for why, variation in (
            ("what the loss says to the reverse direction arrives in forward order", Variation(loss=_flipped_loss)),
            (
                "the sums over the steps pair the reverse direction's gradients with inputs in the other order",
                Variation(source=_flipped_source),
            ),
            (
                "the reverse direction is taken for one that runs forward: its steps are chained in the wrong order",
                Variation(state=_flipped_state, preactivation=_flipped_state),
            ),
            (
                "both directions get the gradient of the same half of the outputs",
                Variation(loss=_other_half(forced, 0)),
            ),
            (
                "the two halves of the outputs' gradient are exchanged",
                Variation(loss=_other_half(forced, None)),
            ),
        ):
            yield Suspect("reverse direction not reversed", why, variation, part="entry of the loss")
    for factor, why in ((1 / N, "1/N"), (N, "N"), (0.5, "1/2"), (2.0, "2")):
        if factor != 1:
            yield Suspect(
                "constant factor",
                f"what a step hands to the one before it is off by a factor {why}",
                Variation(state=functools.partial(_scaled, factor)),
                part="recurrence",
            )


OTHER_DERIVATIVES: dict[str, Callable[[Array, Array], Array]] = {
    "1 - a^2, of the pre-activation": lambda value, a: 1 - a * a,
    "s (1 - s), a sigmoid's": lambda value, a: value * (1 - value),
    "1 - v^2, a tanh's": lambda value, a: 1 - value * value,
    "1 - v": lambda value, a: 1 - value,
    "v": lambda value, a: value,
    "v^2": lambda value, a: value * value,
    "[a > 0] of the step before": lambda value, a: np.roll(value > 0, 1, axis=0).astype(float),
}


def _scaled(factor: float, _: LocalSteps, array: Array) -> Array:
    return factor * array


def _only_first(steps: LocalSteps, J: Array) -> Array:
    kept = np.zeros_like(J)
    entry = _entries(steps)
    kept[entry] = J[entry]
    return kept


def _entries(steps: LocalSteps, which: int = 0) -> tuple[Array, Array]:
    """Return (t, n) of the first, or last, step of each sequence."""
    order = np.asarray(steps.order())
    alive = steps.alive[order]
    first = alive.argmax(axis=0) if which == 0 else len(order) - 1 - alive[::-1].argmax(axis=0)
    return order[first], np.arange(steps.N)


def _but_first(change: Callable[[LocalSteps, Array], Array], steps: LocalSteps, J: Array) -> Array:
    changed = change(steps, J)
    entry = _entries(steps)
    changed[entry] = J[entry]
    return changed


def _ungated(later: slice, steps: LocalSteps, J: Array) -> Array:
    """Without the forget gate: all that goes from c_{t-1} to c_t, and on to h_t, is a multiple of f."""
    f = steps.run.arrays["f"][:, :, None, :]
    changed = J.copy()
    changed[..., later] = np.divide(J[..., later], f, out=np.zeros_like(J[..., later]), where=f != 0)
    return changed


def _final_of_longest(steps: LocalSteps, final: Array) -> Array:
    lengths = steps.alive.sum(axis=0)
    return np.where((lengths == steps.T)[:, None], final, 0)


def _through_weights(steps: LocalSteps, J: Array) -> Array:
    through: Array = steps.maps.preactivation @ _hidden_matrix(steps)
    return through


def _rows_of(steps: LocalSteps, gate: str) -> tuple[slice, slice]:
    """Return the columns of a slab, and its gate's rows of W_hh."""
    H = steps.layer.hidden_size
    slab = steps.cell.slabs.index(gate)
    row = steps.cell.hidden_slabs.index(gate)
    return slice(slab * H, (slab + 1) * H), slice(row * H, (row + 1) * H)


def _reset_before(steps: LocalSteps, J: Array) -> Array:
    q, rows = _rows_of(steps, "q")
    weight, r, B = steps.weights()["weight_hh"][rows], steps.run.arrays["r"], steps.maps.preactivation
    H = steps.layer.hidden_size
    n = steps.cell.slabs.index("n")
    right = B[..., q] @ weight
    wrong = (B[..., n * H : (n + 1) * H] @ weight) * r[:, :, None, :]
    return J + wrong - right


def _reset_forgotten(steps: LocalSteps, J: Array) -> Array:
    n, rows = _rows_of(steps, "n")
    through = steps.maps.preactivation[..., n] @ steps.weights()["weight_hh"][rows]
    return J + through * (1 - steps.run.arrays["r"])[:, :, None, :]


def _without_columns(span: slice, _: LocalSteps, J: Array) -> Array:
    cut = J.copy()
    cut[..., span] = 0
    return cut


def _zeroed(span: slice, _: LocalSteps, array: Array) -> Array:
    cut = array.copy()
    cut[..., span] = 0
    return cut


def _cut_through(first: slice, later: slice, is_state: bool, steps: LocalSteps, matrix: Array) -> Array:
    """Leave of what the output depends on only what does not go through a later state.

    For an LSTM, h = o tanh(c): its derivative by o alone. Which slabs those are is read off the matrix: the ones on which the
    later states do not depend.
    """
    cut = matrix.copy()
    B = steps.maps.preactivation
    direct = ~np.any(B[:, :, later] != 0, axis=(0, 1, 2))  # slabs that reach the output alone
    if not is_state:
        cut[:, :, first] = np.where(direct, matrix[:, :, first], 0)
        return cut
    through = np.where(direct, B[:, :, first], 0)
    cut[:, :, first] = through @ _hidden_matrix(steps)
    return cut


def _last_alone(steps: LocalSteps, loss: Array) -> Array:
    kept = np.zeros_like(loss)
    last = _entries(steps, -1)
    kept[last] = loss[last]
    return kept


def _shifted(shift: int, _: LocalSteps, array: Array) -> Array:
    moved = np.zeros_like(array)
    if shift > 0:
        moved[shift:] = array[:-shift]
    else:
        moved[:shift] = array[-shift:]
    return moved


def _shifted_source(chosen: str, shift: int, steps: LocalSteps, kind: str, source: Array) -> Array:
    return _shifted(shift, steps, source) if kind == chosen else source


def _after_source(steps: LocalSteps, kind: str, source: Array) -> Array:
    after = steps.states("after")[..., : steps.widths[0]]
    return after if kind == "hidden" and source.shape == after.shape else source


def _without_step(which: int, steps: LocalSteps, array: Array) -> Array:
    left = array.copy()
    left[_entries(steps, which)] = 0
    return left


def _source_without_step(which: int, steps: LocalSteps, kind: str, source: Array) -> Array:
    return _without_step(which, steps, source) if kind == "hidden" else source


def _silenced(which: int, steps: LocalSteps, matrix: Array) -> Array:
    return _without_step(which, steps, matrix)


def _passed(which: int, steps: LocalSteps, J: Array) -> Array:
    left = J.copy()
    left[_entries(steps, which)] = np.eye(J.shape[-1])
    return left


def _gate_scaled(span: slice, factor: float, _: LocalSteps, B: Array) -> Array:
    scaled = B.copy()
    scaled[..., span] *= factor
    return scaled


# What flows to the step before through W_hh: J = (directly) + B M, with M what the states do to a.


def _hidden_matrix(steps: LocalSteps, turned: bool = False, mask: bool = True) -> Array:
    """Return da_t/ds_{t-1} through W_hh, (T, N, A, S), for the rows that act on the state itself."""
    weight = steps.weights()["weight_hh"]
    matrix = np.zeros((steps.T, steps.N, steps.slabs, steps.S))
    width = steps.widths[0]
    state = np.ones((steps.N, width))
    if mask and steps.run.masks.recurrent is not None:
        state = steps.run.masks.recurrent
    before = steps.states("before")[..., :width]
    for rows, columns, source in steps.products("hidden"):
        if source.shape[-1] != width:
            continue
        H = steps.layer.hidden_size
        gates = [gate for k, gate in enumerate(steps.cell.gate_names) if rows.start <= k * H < rows.stop]
        share: Array | float = 1.0
        if any(gate in steps.cell.hidden_inputs for gate in gates):
            # What acts is the state times a gate: r * h of the original GRU.
            share = np.divide(source, before, out=np.zeros_like(source), where=before != 0)[:, :, None, :]
        for start in range(rows.start, rows.stop, H):
            block = weight[start : start + H]
            block = block.T if turned and block.shape[0] == block.shape[1] else block
            at = columns.start + start - rows.start
            matrix[:, :, at : at + H, :width] = block * state[:, None, :] * share
    return matrix


def _through(forced: Forced, change: Callable[[LocalSteps, Array], Array], steps: LocalSteps, J: Array) -> Array:
    """Return J where B is changed: the part of it that goes through W_hh changes with B."""
    B = steps.maps.preactivation
    return J + (change(steps, B) - B) @ _hidden_matrix(steps)


def _recurrent(forced: Forced, other: Callable[[LocalSteps], Array], steps: LocalSteps, J: Array) -> Array:
    return J + steps.maps.preactivation @ (other(steps) - _hidden_matrix(steps))


def _turned(steps: LocalSteps) -> Array:
    return _hidden_matrix(steps, turned=True)


def _without_mask(steps: LocalSteps) -> Array:
    return _hidden_matrix(steps, mask=False)


def _values(steps: LocalSteps, gate: str) -> tuple[Array, Array] | None:
    """Return (value, pre-activation) of a slab, (T, N, H); the value of a cell with a single slab is its state."""
    cell, H = steps.cell, steps.layer.hidden_size
    if len(cell.slabs) == 1:
        value = steps.states("after")[..., :H]
        stored = steps.run.arrays["a"]
        return value, stored if not cell.in_place or stored is not value else np.arctanh(value)
    value = steps.run.arrays.find(gate)
    if value is None:
        return None
    with np.errstate(all="ignore"):
        a = np.log(value / (1 - value)) if gate in cell.sigmoids else np.arctanh(np.clip(value, -1, 1))
    return value, a


def _derivative(steps: LocalSteps, gate: str) -> Array | None:
    """Return the derivative of a slab's activation, or None where it has none or it is not known."""
    found = _values(steps, gate)
    cell = steps.cell
    if found is None:
        return None
    value, _ = found
    if gate in cell.sigmoids:
        return value * (1 - value)
    if getattr(steps.layer, "nonlinearity", "tanh") == "relu":
        return (value > 0).astype(float)
    if gate not in cell.input_slabs or np.abs(value).max(initial=0.0) > 1:
        return None  # a sum that has no activation, as the GRU's q
    derivative: Array = 1 - value * value
    return derivative


def _without_derivative(forced: Forced, gate: str, steps: LocalSteps, B: Array) -> Array:
    return _other_derivative(forced, gate, lambda value, a: np.ones_like(value), steps, B)


def _other_derivative(
    forced: Forced, gate: str, function: Callable[[Array, Array], Array], steps: LocalSteps, B: Array
) -> Array:
    derivative, values = _derivative(steps, gate), _values(steps, gate)
    if derivative is None or values is None:
        return B
    place = steps.cell.columns_of(gate, steps.layer.hidden_size)
    span = slice(None) if place is None else place[1]
    other = function(*values)
    ratio = np.divide(other, derivative, out=np.zeros_like(derivative), where=derivative != 0)
    changed = B.copy()
    changed[..., span] *= ratio[:, :, None, :]
    if gate == "n":  # of a GRU: r, and q, act through n
        for other_gate in ("q", "r"):
            further = steps.cell.columns_of(other_gate, steps.layer.hidden_size)
            if further is not None:
                changed[..., further[1]] *= ratio[:, :, None, :]
    return changed


def _cut_direction(reverse: bool, steps: LocalSteps, dx: Array) -> Array:
    return np.zeros_like(dx) if steps.direction.reverse == reverse else dx


def _unmasked_source(steps: LocalSteps, kind: str, source: Array) -> Array:
    before = steps.states("before")[..., : steps.widths[0]]
    return before if kind == "hidden" and source.shape == before.shape else source


def _flipped_loss(steps: LocalSteps, loss: Array) -> Array:
    return loss[::-1] if steps.direction.reverse else loss


def _flipped_source(steps: LocalSteps, kind: str, source: Array) -> Array:
    return source[::-1] if steps.direction.reverse else source


def _flipped_state(steps: LocalSteps, matrix: Array) -> Array:
    return matrix[::-1] if steps.direction.reverse else matrix


def _other_half(forced: Forced, half: int | None) -> Callable[[LocalSteps, Array], Array]:
    """Return a variation of the loss in which a direction of the top layer gets another half of the outputs' gradient."""

    def exchanged(steps: LocalSteps, loss: Array) -> Array:
        direction = steps.direction
        if direction.layer != steps.layer.num_layers - 1:
            return loss
        width = steps.widths[0]
        chosen = (1 - int(direction.reverse)) if half is None else half
        part = forced.entering.output[..., chosen * width : (chosen + 1) * width]
        changed = loss.copy()
        changed[..., :width] = np.where(steps.alive[..., None], part, 0)
        return changed

    return exchanged


# ---------------------------------------------------------------------------------------------- comparing


class Comparison:
    """Compares whole gradients, as finely as the mistake in question needs.

    Parameters
    ----------
    forced : Forced
    tolerances : Tolerances
    analytic : dict of str to ndarray
        The wrong gradient. Where it is the right one but for less than `MATCH`, agreement means agreement to rounding.
    """

    def __init__(self, forced: Forced, tolerances: Tolerances, analytic: Point) -> None:
        self.exact = forced.exact.tensors
        self.analytic = analytic
        self.tolerances = tolerances
        self.fine = all(_matches(name, analytic[name], array) for name, array in self.exact.items())

    def same(self, name: str, found: Array, expected: Array) -> bool:
        """Whether two gradients of one tensor agree."""
        if not self.fine:
            return _matches(name, found, expected)
        allowed = ROUNDING * self.tolerances.tensors[name]
        return bool(np.isfinite(found).all() and np.all(np.abs(found - expected) <= allowed))

    def is_exact(self, found: Mapping[str, Array]) -> bool:
        """Whether a whole gradient is the right one."""
        return all(self.same(name, array, self.exact[name]) for name, array in found.items())

    def explains(self, predicted: Mapping[str, Array]) -> bool:
        """Whether a whole gradient is the one that was found, and not the right one."""
        if self.is_exact(predicted):
            return False  # this mistake makes no difference here
        return all(self.same(name, self.analytic[name], array) for name, array in predicted.items())


def _best(forced: Forced, analytic: Point, suspects: Sequence[Suspect], compare: Comparison) -> Suspect | None:
    """Return the first suspect that gives the gradient found, in every tensor: made in all layers and directions, or in one
    of them.
    """
    scopes: list[set[str]] = [set(forced.maps)]
    if len(forced.maps) > 1:
        reverse = {name for name, maps in forced.maps.items() if maps.steps.direction.reverse}
        scopes += [reverse] if reverse else []
        scopes += [{name} for name in forced.maps]
    for scope in scopes:
        for suspect in suspects:
            with np.errstate(all="ignore"):
                found = forced.gradient(_within(suspect.variation, scope))
            if compare.explains(found.tensors):
                if scope == scopes[0]:
                    return suspect
                return dataclasses.replace(suspect, why=f"{suspect.why} (in {', '.join(sorted(scope))})")
    return None


def _within(variation: Variation, scope: set[str]) -> Variation:
    """Return the variation made in some layers and directions alone."""

    def limited(name: str) -> Callable[..., Array]:
        inner, plain = getattr(variation, name), getattr(EXACT, name)
        return lambda steps, *rest: (inner if steps.direction.name in scope else plain)(steps, *rest)

    names = [field.name for field in dataclasses.fields(Variation) if field.name != "forward_order"]
    return Variation(**{name: limited(name) for name in names}, forward_order=variation.forward_order)


def _matches(name: str, found: Array, expected: Array) -> bool:
    """Whether two gradients agree; of x, step by step, each at its own size."""
    if name != "x":
        return close(found, expected)
    scale = np.abs(expected).max(axis=-1, keepdims=True, initial=0.0)
    return bool(np.all(np.abs(found - expected) <= MATCH * scale))


def close(found: Array, expected: Array, tolerance: float = MATCH) -> bool:
    """Whether two arrays agree, relative to the largest entry of the second; zeros agree with zeros alone."""
    if not np.isfinite(expected).all() or not np.isfinite(found).all():
        return False
    scale = float(np.abs(expected).max(initial=0.0))
    return float(np.abs(found - expected).max(initial=0.0)) <= tolerance * scale


# ---------------------------------------------------------------------------------------------- probes


def _padding(subject: LayerSubject, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether what stands past the end of a sequence reaches any gradient."""
    if subject.lengths is None:
        return None
    layer = subject.layer
    first = getattr(layer, "batch_first", False)
    T = subject.x.shape[1 if first else 0]
    dead = np.arange(T)[:, None] >= subject.lengths
    dead = dead.T if first else dead
    if np.any(analytic["x"][dead] != 0):
        return Diagnosis("padding leaks", "dx is not 0 past the end of a sequence")
    changed = np.array(subject.doutput)
    changed[dead] += 1.0
    _, _, trace = subject.forward()
    other = subject.back(trace, None, changed, subject.dfinal)
    names = [name for name in analytic if not close(other[name], analytic[name], 1e-12)]
    if names:
        why = f"what doutput holds past the end of a sequence changes the gradient of {', '.join(names)}"
        return Diagnosis("padding leaks", why)
    return None


def _mixed_batch(subject: LayerSubject, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether the loss of one sequence reaches another's input."""
    if subject.x.ndim != 3:
        return None
    axis = 0 if getattr(subject.layer, "batch_first", False) else 1
    if subject.x.shape[axis] < 2:
        return None
    alone = np.zeros_like(subject.doutput)
    at: list[Any] = [slice(None)] * 3
    at[axis] = 0
    alone[tuple(at)] = subject.doutput[tuple(at)]
    _, _, trace = subject.forward()
    found = subject.back(trace, None, alone, _map(np.zeros_like, subject.dfinal))["x"]
    rest: list[Any] = [slice(None)] * 3
    rest[axis] = slice(1, None)
    if np.any(found[tuple(rest)] != 0):
        return Diagnosis("batch mixed", "the loss of sequence 0 alone gives gradients at the inputs of other sequences")
    return None


def _not_linear(subject: LayerSubject, compare: Comparison, analytic: Point) -> Diagnosis | None:
    """Whether the gradient of no loss at all is something, or a loss scaled by a power of 2 has the right gradient: then
    something cuts off sizes.
    """

    def scaled(factor: float) -> Point:
        _, _, trace = subject.forward()
        dfinal = _map(lambda array: array * factor, subject.dfinal)
        return {
            name: array / (factor or 1)
            for name, array in subject.back(trace, None, subject.doutput * factor, dfinal).items()
        }

    nothing = scaled(0.0)
    left = [name for name, array in nothing.items() if np.any(array != 0)]
    if left:
        if all(name in subject.point and close(nothing[name], subject.point[name]) for name in left):
            return Diagnosis(
                "starts as the weights", f"the gradient of {', '.join(left)} is the right one plus the parameter itself"
            )
        return Diagnosis(
            "starts as the weights", f"a loss of 0 gives a gradient of {', '.join(left)}: it does not begin at 0"
        )
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


def _map(function: Callable[[Array], Array], value: Any) -> Any:
    if value is None:
        return None
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _not_finite(analytic: Point, subject: Subject, place: Mapping[str, Any]) -> Diagnosis:
    for name, array in analytic.items():
        bad = ~np.isfinite(array)
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            count = int(bad.sum())
            why = f"{count} of {array.size} entries of {name} are NaN or infinite, the first at {list(index)}: {array[index]}"
            return _placed(Diagnosis("not finite", why), place)
    return Diagnosis("not finite", "an entry is NaN or infinite")


def _first_wrong(subject: LayerSubject, forced: Forced, tolerances: Tolerances) -> dict[str, Any]:
    """Find the first wrong place: run backward on the loss of single steps, and compare the gradients of pre-activations
    from that step back.

    Returns a dict with "text", "layer", "gate", "t", "k", "part"; empty where the layer's trace has no such gradients.
    """
    layer = subject.layer
    if layer.cell.input_gradient != "da":
        return {}
    names = list(reversed(forced.maps))
    T = next(iter(forced.maps.values())).steps.T
    axis = 1 if getattr(layer, "batch_first", False) and subject.x.ndim == 3 else 0
    _, _, trace = subject.forward()
    candidates = [T - 1, *range(T - 2, -1, -1)] if T <= 64 else sorted({T - 1, T - 2, T // 2, 1, 0}, reverse=True)
    zero = _map(np.zeros_like, subject.dfinal)
    for kind, t in [*(("output", t) for t in candidates), ("final", T - 1)]:
        doutput, dfinal = np.zeros_like(subject.doutput), subject.dfinal
        if kind == "output":
            at = (slice(None),) * axis + (t,)
            doutput[at] = subject.doutput[at]
            dfinal = zero
        elif dfinal is None:
            continue
        found = _wrong_step(subject, forced, trace, doutput, dfinal, names, kind, t)
        if found:
            return found
    return {
        "text": "the gradients of the pre-activations are right at every step: what is made of them is wrong",
        "part": "sums",
    }


def _wrong_step(
    subject: LayerSubject,
    forced: Forced,
    trace: Any,
    doutput: Array,
    dfinal: Any,
    names: Sequence[str],
    kind: str,
    t: int,
) -> dict[str, Any]:
    """Return the first wrong place of one loss step, or an empty dict."""
    subject.back(trace, None, doutput, dfinal)
    exact = forced.of_loss(doutput, dfinal).exact
    for name in names:
        steps, run = forced.maps[name].steps, exact.runs[name]
        found = trace.runs[name].latest.arrays.find("da")
        if found is None:
            return {}
        found = np.where(steps.alive[..., None], found, 0)
        for k in reversed(steps.order()):
            scale = float(np.abs(run.da[k]).max(initial=0.0))
            difference = np.abs(found[k] - run.da[k])
            if difference.max(initial=0.0) > 1e-9 * scale or not np.isfinite(found[k]).all():
                gate = _gate_of(steps, difference)
                own = kind == "output" and k == t or kind == "final" and k == steps.order()[-1]
                top = steps.direction.layer == subject.layer.num_layers - 1
                part = (
                    "immediate partial"
                    if own or not top and not np.any(exact.runs[name].dstates[steps.order()[-1]])
                    else "recurrence"
                )
                entered = scale == 0 or not np.any(found[k])
                if own and entered:
                    part = "entry of the loss"
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


def _meaning(part: str) -> str:
    return {
        "immediate partial": "the immediate derivative of that step, not the recurrence",
        "recurrence": "the recurrence; the immediate derivative is right",
        "entry of the loss": "what the loss says to that step does not arrive as it should",
    }[part]


def _gate_of(steps: LocalSteps, difference: Array) -> str | None:
    """Return the one gate in which a difference lies, or None where it lies in several, or there is but one."""
    cell, H = steps.cell, steps.layer.hidden_size
    if len(cell.slabs) == 1:
        return None
    parts = {slab: difference[..., k * H : (k + 1) * H].max(initial=0.0) for k, slab in enumerate(cell.slabs)}
    largest = max(parts.values())
    wrong = [slab for slab, value in parts.items() if value > 1e-6 * largest or not np.isfinite(value)]
    return wrong[0] if len(wrong) == 1 else None


# ---------------------------------------------------------------------------------------------- relations of tensors


def diagnose_tensors(subject: Subject, analytic: Point, reference: Point, rows: Sequence[Row]) -> Diagnosis:
    """Name the mistake in gradients of which nothing is known but their values."""
    if any(not np.isfinite(array).all() for array in analytic.values()):
        return _not_finite(analytic, subject, {})
    found = relation(subject, analytic, reference, rows)
    if found is None:
        found = _rescaled(analytic, reference, sorted({row.name for row in rows if row.verdict == WRONG}))
    if found is not None:
        return found
    names = ", ".join(row.title for row in rows if row.verdict == WRONG)
    return Diagnosis("unknown", f"none of the known mistakes gives this gradient; wrong are {names}", explained=False)


def relation(subject: Subject, analytic: Point, reference: Point, rows: Sequence[Row]) -> Diagnosis | None:
    """Find what the wrong tensors have in common with the right ones."""
    wrong = sorted(
        {row.name for row in rows if row.verdict == WRONG and row.name in analytic and row.name in reference}
    )
    wrong = [name for name in wrong if not _matches(name, analytic[name], reference[name])]
    if not wrong:
        return None  # by so little that no relation could be told from rounding
    titles = ", ".join(wrong)
    biases = all("bias" in name or name.split(".")[-1].startswith("b") for name in wrong)
    if all(not np.any(analytic[name]) for name in wrong):
        if biases:
            return Diagnosis("bias ignored", f"the gradient of {titles} is 0 throughout")
        return Diagnosis("never accumulated", f"the gradient of {titles} is 0 throughout: it was never added to")
    for name in wrong:
        if name in subject.point and name not in ("x",) and np.any(subject.point[name]):
            extra = analytic[name] - reference[name]
            if close(extra, subject.point[name]):
                return Diagnosis("buffer not zeroed", f"the gradient of {name} is the right one plus {name} itself")
    factors = [_factor(analytic[name], reference[name]) for name in wrong]
    if all(factor is not None for factor in factors):
        values = [float(factor) for factor in factors if factor is not None]
        if np.ptp(values) <= 1e-6 * abs(values[0]):
            return _by_factor(subject, analytic, reference, wrong, values[0], biases)
    flushed = _flushed(analytic, reference, wrong)
    if flushed is not None:
        return flushed
    for name in wrong:
        limit = float(np.abs(analytic[name]).max())
        if limit < float(np.abs(reference[name]).max()) and close(
            analytic[name], np.clip(reference[name], -limit, limit)
        ):
            return Diagnosis("clipped", f"the entries of {name} are limited to ±{limit:.6g}: clipped before the check")
    gates = _permuted(subject, analytic, reference, wrong)
    if gates is not None:
        return gates
    for name in wrong:
        turned = _block_transposed(subject, name, reference[name])
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
        if name.endswith("_0") and analytic[name].ndim == 3 and analytic[name].shape[1] <= 6:
            for order in itertools.permutations(range(analytic[name].shape[1])):
                if order != tuple(sorted(order)) and close(analytic[name], reference[name][:, list(order)]):
                    why = f"d{name} has the sequences in the order {list(order)}: sorted by length, and not sorted back"
                    return Diagnosis("batch mixed", why)
    return None


def _factor(found: Array, expected: Array) -> float | None:
    """Return c where found = c expected."""
    scale = float(np.abs(expected).max(initial=0.0))
    if scale == 0:
        return None
    index = int(np.argmax(np.abs(expected)))
    factor = float(found.flat[index] / expected.flat[index])
    return factor if np.abs(found - factor * expected).max() <= MATCH * abs(factor) * scale else None


def _by_factor(
    subject: Subject, analytic: Point, reference: Point, wrong: list[str], factor: float, biases: bool
) -> Diagnosis:
    titles = ", ".join(wrong)
    if abs(factor + 1) < 1e-9:
        return Diagnosis("sign", f"{titles}: the negative of the right gradient")
    if biases and abs(factor - 2) < 1e-9:
        return Diagnosis("bias doubled", f"the gradient of {titles} is twice the right one: it is added to twice")
    N = _batch(subject)
    if N > 1 and (abs(factor - N) < 1e-6 * N or abs(factor - 1 / N) < 1e-6):
        word = f"{N}, the number of sequences," if factor > 1 else f"1/{N}, with {N} the number of sequences,"
        return Diagnosis(
            "missing 1/N", f"{titles}: {word} times the right gradient: a mean taken for a sum, or a sum for a mean"
        )
    parameters = [name for name in wrong if name not in ("x",) and not name.endswith("_0")]
    joint = float(np.sqrt(sum(float(np.sum(analytic[name] ** 2)) for name in parameters)))
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


def _batch(subject: Subject) -> int:
    if not isinstance(subject, LayerSubject) or subject.x.ndim != 3:
        return 1
    return int(subject.x.shape[0 if getattr(subject.layer, "batch_first", False) else 1])


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


def _permuted(subject: Subject, analytic: Point, reference: Point, wrong: Sequence[str]) -> Diagnosis | None:
    """Whether the rows of gates stand in each other's places."""
    for name in wrong:
        gates = subject.gates.get(name, [])
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


def _block_transposed(subject: Subject, name: str, expected: Array) -> Array | None:
    if expected.ndim != 2:
        return None
    blocks = [part for _, part in subject.gates.get(name, [])] or [slice(None)]
    parts = [expected[part] for part in blocks]
    if any(part.shape[0] != part.shape[1] for part in parts):
        return None
    return np.concatenate([part.T for part in parts])


def _rescaled(analytic: Point, reference: Point, wrong: Sequence[str]) -> Diagnosis | None:
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
