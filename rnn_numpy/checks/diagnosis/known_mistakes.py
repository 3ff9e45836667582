"""What known mistakes make of the chain rule: variations of `rnn_numpy.checks.chain_rule` that a wrong gradient is
compared with.

A mistake in a backward pass is seldom anything: a path is missing, a derivative is left out, a step, a factor, a
transpose.
Each of these is a small change of the matrices J_t and B_t, of what the loss says, or of the sums over the steps; the
whole gradient that comes out is what a backward pass with this mistake would give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import Forced, Variation
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]

# What a checker may name, each with what it means.
DIAGNOSES: Mapping[str, str] = MappingProxyType(
    {
        "constant factor": "a tensor is right but for one factor",
        "missing 1/N": "that factor is the batch size, or one over it",
        "entries rescaled": "single entries are right but for factors of their own",
        "sign": "a term has the other sign",
        "transposed": "a matrix stands where its transpose should",
        "recurrence dropped": "what comes from later steps than the next few, or than none, is not there",
        "order of Jacobians": "the Jacobians of the steps are multiplied in the wrong order",
        "off by one step": "an array of the step before, or after, is read",
        "first step skipped": "t = 0 has no part in the gradient",
        "last step skipped": "t = T - 1 has no part in the gradient",
        "only the last step's loss": "what the loss adds at earlier outputs is not there",
        "final-state gradient ignored": "dh_n, or dc_n, is not read, or read at the wrong step",
        "bias doubled": "a bias gradient is counted twice",
        "bias ignored": "a bias gradient is zero",
        "gate derivative missing": "the derivative of a gate's nonlinearity is left out",
        "wrong derivative": "it is there, but of another function or of another array",
        "gates swapped": "one gate's gradient stands in another's rows",
        "reset on the wrong side": "a GRU's r_t acts before the product of W_hn backward, after it forward",
        "cell path missing": "the gradient from c_t to c_{t-1} is not there",
        "hidden path missing": "a gradient through h is not there: from h_t to c_t, or along a GRU's leak",
        "lower layer cut off": "a layer gets nothing, or too little, from the one above",
        "reverse direction not reversed": "the reverse direction runs, or is cut out, as the forward one",
        "padding leaks": "what stands past the end of a sequence has an influence",
        "batch mixed": "one sequence's gradient depends on, or lands in, another's",
        "dropout mask ignored": "backward does not multiply with the mask of forward",
        "clipped": "the result is cut off at some size",
        "lower precision": "a number is rounded to a narrower dtype on the way",
        "small gradients flushed": "numbers below some size are set to zero",
        "never accumulated": "a gradient is returned as zeros",
        "starts as the weights": "a gradient is added to a copy of the parameters, not to zeros",
        "overwritten, not added": "a sum keeps the latest of its terms alone",
        "accumulated over calls": "a call's gradient holds that of the calls before",
        "input modified": "backward writes to what it was handed, or to what a second backward reads",
        "parameters modified": "backward changes the parameters",
        "not deterministic": "equal calls give unequal results",
        "gate path missing": "nothing flows back through a gate",
        "not finite": "NaN or infinity where the gradient is a number",
        "wrong recurrence": "what a step hands to the one before is wrong, and the mistake is none of the known ones",
        "wrong sum": "all steps are right, what is summed of them is not, and the mistake is none of the known ones",
        "unknown": "the mistake is none of the known ones",
    }
)

# What a checker may say that finds the place and not the mistake.
PLACES: Mapping[str, str] = MappingProxyType(
    {
        "immediate partial": "wrong derivative",
        "recurrence": "wrong recurrence",
        "sums over steps": "wrong sum",
    }
)


@dataclass(frozen=True)
class Suspect:
    """A mistake, and what it makes of the chain rule."""

    kind: str
    why: str
    variation: Variation
    gate: str | None = None
    part: str = ""


def suspects(forced: Forced) -> Iterator[Suspect]:
    """Yield the known mistakes that this layer could have, the simpler ones first."""
    steps = next(iter(forced.maps.values())).steps
    cell, H = steps.cell, steps.layer.hidden_size
    N = steps.N

    # What a loss says directly, and how it goes through time.
    def nothing(_: RecordedSteps, array: Array) -> Array:
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
                f"what flows back from a step to the one before it through {state} is missing, but for the "
                f"initial state",
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
            f"d{cell.states[1]} does not get what comes through {cell.states[0]}: the loss reaches the cell by "
            f"the later "
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
                f"what flows back from {cell.states[1]} to {cell.states[1]} of the step before is not multiplied "
                f"with f",
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
            "the gradient of the state before is set to what comes through W_hh: what the state hands on "
            "directly, and what "
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
        "what the loss says to the outputs of all steps but the last is missing (overwritten, where it should be "
        "added to)",
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
        Variation(state=functools.partial(_recurrent, _turned)),
        part="recurrence",
    )
    # Gates.
    for gate in cell.slabs:
        columns = steps.recorded.chain.blocks_by_name.get(gate)
        span = columns[1] if columns is not None else slice(0, H)
        name = gate if len(cell.slabs) > 1 else None
        text = f"gate {gate}" if name else "the activation"
        curved = gate in cell.input_slabs  # the GRU's q is a sum that has no activation
        derivative = functools.partial(_without_derivative, gate)
        if curved:
            yield Suspect(
                "gate derivative missing",
                f"the derivative of {text} is missing: da is taken to be the gradient of its value",
                Variation(preactivation=derivative, state=functools.partial(_through, derivative)),
                gate=name,
                part="immediate partial",
            )
        silent = functools.partial(_gate_scaled, span, 0.0)
        if name is not None:
            yield Suspect(
                "gate path missing",
                f"nothing flows back through {text}",
                Variation(preactivation=silent, state=functools.partial(_through, silent)),
                gate=name,
                part="immediate partial",
            )
            yield Suspect(
                "gate path missing",
                f"nothing flows back through {text} to the step before",
                Variation(state=functools.partial(_through, silent)),
                gate=name,
                part="recurrence",
            )
        turned = functools.partial(_gate_scaled, span, -1.0)
        yield Suspect(
            "sign",
            f"the gradient through {text} has the wrong sign",
            Variation(preactivation=turned, state=functools.partial(_through, turned)),
            gate=name,
            part="immediate partial",
        )
        relu = getattr(steps.layer, "nonlinearity", "tanh") == "relu"
        own = SIGMOID if gate in cell.sigmoids else "" if relu else TANH
        for label, function in OTHER_DERIVATIVES.items() if curved else ():
            if label == own:
                continue
            other = functools.partial(_other_derivative, gate, function)
            yield Suspect(
                "wrong derivative",
                f"the derivative of {text} is taken as {label}",
                Variation(preactivation=other, state=functools.partial(_through, other)),
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
                f"of what the upper layer hands down, the {'reverse' if reverse else 'forward'} direction's share "
                f"is missing",
                Variation(handed=functools.partial(_cut_direction, reverse)),
                part="between layers",
            )
        factors = forced.trace.edge.factors
        if factors is not None:
            yield Suspect(
                "dropout mask ignored",
                "the gradient that goes down between two layers is not multiplied with the dropout mask",
                Variation(mask=lambda _, factors: np.ones_like(factors)),
                part="between layers",
            )
    if any(maps.steps.recorded.masks.recurrent is not None for maps in forced.maps.values()):
        yield Suspect(
            "dropout mask ignored",
            "the gradient of the state is not multiplied with the mask of recurrent dropout",
            Variation(state=functools.partial(_recurrent, _without_mask)),
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


SIGMOID, TANH = "s (1 - s), a sigmoid's", "1 - v^2, a tanh's"

OTHER_DERIVATIVES: dict[str, Callable[[Array, Array], Array]] = {
    "1 - a^2, of the pre-activation": lambda value, a: 1 - a * a,
    SIGMOID: lambda value, a: value * (1 - value),
    TANH: lambda value, a: 1 - value * value,
    "1 - v": lambda value, a: 1 - value,
    "v": lambda value, a: value,
    "v^2": lambda value, a: value * value,
    "[a > 0] of the step before": lambda value, a: np.roll(value > 0, 1, axis=0).astype(float),
}


def _scaled(factor: float, _: RecordedSteps, array: Array) -> Array:
    return factor * array


def _only_first(steps: RecordedSteps, J: Array) -> Array:
    kept = np.zeros_like(J)
    entry = _entries(steps)
    kept[entry] = J[entry]
    return kept


def _entries(steps: RecordedSteps, which: int = 0) -> tuple[Array, Array]:
    """Return (t, n) of the first, or last, step of each sequence."""
    order = np.asarray(steps.order())
    alive = steps.alive[order]
    first = alive.argmax(axis=0) if which == 0 else len(order) - 1 - alive[::-1].argmax(axis=0)
    return order[first], np.arange(steps.N)


def _but_first(change: Callable[[RecordedSteps, Array], Array], steps: RecordedSteps, J: Array) -> Array:
    changed = change(steps, J)
    entry = _entries(steps)
    changed[entry] = J[entry]
    return changed


def _ungated(later: slice, steps: RecordedSteps, J: Array) -> Array:
    """Without the forget gate: all that goes from c_{t-1} to c_t, and on to h_t, is a multiple of f."""
    f = steps.recorded.stored("f")[:, :, None, :]
    changed = J.copy()
    changed[..., later] = np.divide(J[..., later], f, out=np.zeros_like(J[..., later]), where=f != 0)
    return changed


def _final_of_longest(steps: RecordedSteps, final: Array) -> Array:
    lengths = steps.alive.sum(axis=0)
    return np.where((lengths == steps.T)[:, None], final, 0)


def _through_weights(steps: RecordedSteps, J: Array) -> Array:
    through: Array = steps.maps.preactivation @ _hidden_matrix(steps)
    return through


def _rows_of(steps: RecordedSteps, gate: str) -> tuple[slice, slice]:
    """Return the columns of a slab, and its gate's rows of W_hh."""
    H = steps.layer.hidden_size
    slab = steps.cell.slabs.index(gate)
    row = steps.cell.hidden_slabs.index(gate)
    return slice(slab * H, (slab + 1) * H), slice(row * H, (row + 1) * H)


def _reset_before(steps: RecordedSteps, J: Array) -> Array:
    q, rows = _rows_of(steps, "q")
    weight, r, B = steps.weights()["weight_hh"][rows], steps.recorded.stored("r"), steps.maps.preactivation
    H = steps.layer.hidden_size
    n = steps.cell.slabs.index("n")
    right = B[..., q] @ weight
    wrong = (B[..., n * H : (n + 1) * H] @ weight) * r[:, :, None, :]
    return np.asarray(J + wrong - right)


def _reset_forgotten(steps: RecordedSteps, J: Array) -> Array:
    n, rows = _rows_of(steps, "n")
    through = steps.maps.preactivation[..., n] @ steps.weights()["weight_hh"][rows]
    return np.asarray(J + through * (1 - steps.recorded.stored("r"))[:, :, None, :])


def _without_columns(span: slice, _: RecordedSteps, J: Array) -> Array:
    cut = J.copy()
    cut[..., span] = 0
    return cut


def _zeroed(span: slice, _: RecordedSteps, array: Array) -> Array:
    cut = array.copy()
    cut[..., span] = 0
    return cut


def _cut_through(first: slice, later: slice, is_state: bool, steps: RecordedSteps, matrix: Array) -> Array:
    """Leave of what the output depends on only what does not go through a later state.

    For an LSTM, h = o tanh(c): its derivative by o alone. Which slabs those are is read off the matrix: the ones on
    which the later states do not depend.
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


def _last_alone(steps: RecordedSteps, loss: Array) -> Array:
    kept = np.zeros_like(loss)
    last = _entries(steps, -1)
    kept[last] = loss[last]
    return kept


def _shifted(shift: int, _: RecordedSteps, array: Array) -> Array:
    moved = np.zeros_like(array)
    if shift > 0:
        moved[shift:] = array[:-shift]
    else:
        moved[:shift] = array[-shift:]
    return moved


def _shifted_source(chosen: str, shift: int, steps: RecordedSteps, kind: str, source: Array) -> Array:
    return _shifted(shift, steps, source) if kind == chosen else source


def _after_source(steps: RecordedSteps, kind: str, source: Array) -> Array:
    after = steps.states("after")[..., : steps.widths[0]]
    return after if kind == "hidden" and source.shape == after.shape else source


def _without_step(which: int, steps: RecordedSteps, array: Array) -> Array:
    left = array.copy()
    left[_entries(steps, which)] = 0
    return left


def _source_without_step(which: int, steps: RecordedSteps, kind: str, source: Array) -> Array:
    return _without_step(which, steps, source) if kind == "hidden" else source


def _silenced(which: int, steps: RecordedSteps, matrix: Array) -> Array:
    return _without_step(which, steps, matrix)


def _passed(which: int, steps: RecordedSteps, J: Array) -> Array:
    left = J.copy()
    left[_entries(steps, which)] = np.eye(J.shape[-1])
    return left


def _gate_scaled(span: slice, factor: float, _: RecordedSteps, B: Array) -> Array:
    scaled = B.copy()
    scaled[..., span] *= factor
    return scaled


# What flows to the step before through W_hh: J = (directly) + B M, with M what the states do to a.


def _hidden_matrix(steps: RecordedSteps, turned: bool = False, mask: bool = True) -> Array:
    """Return da_t/ds_{t-1} through W_hh, (T, N, A, S), for the rows that act on the state itself."""
    weight = steps.weights()["weight_hh"]
    matrix = np.zeros((steps.T, steps.N, steps.A, steps.S))
    width = steps.widths[0]
    state = np.ones((steps.N, width))
    if mask and steps.recorded.masks.recurrent is not None:
        state = steps.recorded.masks.recurrent
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


def _through(change: Callable[[RecordedSteps, Array], Array], steps: RecordedSteps, J: Array) -> Array:
    """Return J where B is changed: the part of it that goes through W_hh changes with B."""
    B = steps.maps.preactivation
    return np.asarray(J + (change(steps, B) - B) @ _hidden_matrix(steps))


def _recurrent(other: Callable[[RecordedSteps], Array], steps: RecordedSteps, J: Array) -> Array:
    return np.asarray(J + steps.maps.preactivation @ (other(steps) - _hidden_matrix(steps)))


def _turned(steps: RecordedSteps) -> Array:
    return _hidden_matrix(steps, turned=True)


def _without_mask(steps: RecordedSteps) -> Array:
    return _hidden_matrix(steps, mask=False)


def _values(steps: RecordedSteps, gate: str) -> tuple[Array, Array] | None:
    """Return (value, pre-activation) of a slab, (T, N, H); the value of a cell with a single slab is its state."""
    cell, H = steps.cell, steps.layer.hidden_size
    if len(cell.slabs) == 1:
        value = steps.states("after")[..., :H]
        stored = steps.recorded.arrays["a"]
        return value, stored if not cell.in_place or stored is not value else np.arctanh(value)
    found = steps.recorded.find(gate)
    if found is None:
        return None
    value = found
    with np.errstate(all="ignore"):
        a = np.log(value / (1 - value)) if gate in cell.sigmoids else np.arctanh(np.clip(value, -1, 1))
    return value, a


def _derivative(steps: RecordedSteps, gate: str) -> Array | None:
    """Return the derivative of a slab's activation, or None where it has none or it is not known."""
    found = _values(steps, gate)
    cell = steps.cell
    if found is None:
        return None
    value, _ = found
    if gate in cell.sigmoids:
        return np.asarray(value * (1 - value))
    if getattr(steps.layer, "nonlinearity", "tanh") == "relu":
        return (value > 0).astype(float)
    if gate not in cell.input_slabs or np.abs(value).max(initial=0.0) > 1:
        return None  # a sum that has no activation, as the GRU's q
    derivative: Array = 1 - value * value
    return derivative


def _without_derivative(gate: str, steps: RecordedSteps, B: Array) -> Array:
    return _other_derivative(gate, lambda value, a: np.ones_like(value), steps, B)


def _other_derivative(gate: str, function: Callable[[Array, Array], Array], steps: RecordedSteps, B: Array) -> Array:
    derivative, values = _derivative(steps, gate), _values(steps, gate)
    if derivative is None or values is None:
        return B
    place = steps.recorded.chain.blocks_by_name.get(gate)
    span = slice(None) if place is None else place[1]
    other = function(*values)
    ratio = np.divide(other, derivative, out=np.zeros_like(derivative), where=derivative != 0)
    changed = B.copy()
    changed[..., span] *= ratio[:, :, None, :]
    if gate == "n":  # of a GRU: r, and q, act through n
        for other_gate in ("q", "r"):
            further = steps.recorded.chain.blocks_by_name.get(other_gate)
            if further is not None:
                changed[..., further[1]] *= ratio[:, :, None, :]
    return changed


def _cut_direction(reverse: bool, steps: RecordedSteps, dx: Array) -> Array:
    return np.zeros_like(dx) if steps.direction.reverse == reverse else dx


def _unmasked_source(steps: RecordedSteps, kind: str, source: Array) -> Array:
    before = steps.states("before")[..., : steps.widths[0]]
    return before if kind == "hidden" and source.shape == before.shape else source


def _flipped_loss(steps: RecordedSteps, loss: Array) -> Array:
    return loss[::-1] if steps.direction.reverse else loss


def _flipped_source(steps: RecordedSteps, kind: str, source: Array) -> Array:
    return source[::-1] if steps.direction.reverse else source


def _flipped_state(steps: RecordedSteps, matrix: Array) -> Array:
    return matrix[::-1] if steps.direction.reverse else matrix


def _other_half(forced: Forced, half: int | None) -> Callable[[RecordedSteps, Array], Array]:
    """Return a variation of the loss in which a direction of the top layer gets another half of the outputs'
    gradient.
    """

    def exchanged(steps: RecordedSteps, loss: Array) -> Array:
        direction = steps.direction
        if direction.layer != steps.layer.num_layers - 1:
            return loss
        width = steps.widths[0]
        chosen = (1 - int(direction.reverse)) if half is None else half
        part = forced.from_loss.output[..., chosen * width : (chosen + 1) * width]
        changed = loss.copy()
        changed[..., :width] = np.where(steps.alive[..., None], part, 0)
        return changed

    return exchanged
