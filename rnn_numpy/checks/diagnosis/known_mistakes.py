"""What known mistakes make of the chain rule: variations of `rnn_numpy.checks.chain_rule` that a wrong gradient is
compared with.

A mistake in a backward pass is seldom anything: a path is missing, a derivative is left out, a step, a factor, a
transpose. Each of these is a small change of the matrices J_t and B_t, of what the loss says, or of the sums over the
steps; the whole gradient that comes out is what a backward pass with this mistake would give.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule, Variation
from rnn_numpy.engine.parts import Masks
from rnn_numpy.engine.recorded import RecordedSteps

Array = NDArray[Any]
Change = Callable[[RecordedSteps, Array], Array]

# What a checker may name, each with what it means.
DIAGNOSES: Mapping[str, str] = MappingProxyType(
    {
        "constant factor": "a tensor is right but for one factor",
        "missing 1/N": "that factor is the batch size, or one over it",
        "entries rescaled": "single entries are right but for factors of their own",
        "sign": "a term has the other sign",
        "transposed": "a matrix stands where its transpose should, or its axes are turned round or cut another way",
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
        "gates swapped": "one gate's gradient stands in another's rows, or one parameter has another's",
        "layers exchanged": "what belongs to one layer or direction stands in another's place",
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
        "weight decay": "the gradient of a penalty on the parameters is there, and the loss has none",
        "starts as the weights": "a gradient is added to a copy of the parameters, not to zeros",
        "accumulated twice": "a term is added twice",
        "overwritten, not added": "a sum keeps the latest of its terms alone",
        "accumulated over calls": "a call's gradient holds that of the calls before",
        "input modified": "backward writes to what it was handed, or to what a second backward reads",
        "parameters modified": "backward changes the parameters",
        "not deterministic": "equal calls give unequal results",
        "left out is not zeros": "what a call leaves out is taken for something else than zeros",
        "layout in memory": "gradients that are views, or may not be written, are not read as what they are",
        "results overwritten": "a later call writes over what an earlier one returned",
        "traces mixed": "a trace is spoilt by a second forward pass",
        "weights of another time": "the weights of another time than the forward pass's are used",
        "right at these weights alone": "the gradient is right at these weights, and wrong at others",
        "gate path missing": "nothing flows back through a gate",
        "softmax Jacobian missing": "scores get the weights' gradient without the softmax's Jacobian, or with a part",
        "attention path missing": "nothing flows back through weights, a query, coverage, or what is fed",
        "memory's mask ignored": "rows of a memory that do not exist have a share in the weights",
        "feedback path missing": "nothing flows back from a prediction that was read as the next input",
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


IMMEDIATE, RECURRENCE, SUMS, ENTRY, BETWEEN = (
    "immediate partial",
    "recurrence",
    "sums",
    "entry of the loss",
    "between layers",
)


@dataclass(frozen=True)
class Mistake:
    """A mistake, what it makes of the chain rule, and where it stands: its part of the pass, its gate."""

    kind: str
    why: str
    change: Variation
    part: str
    gate: str | None = None


def known_mistakes(chain: ChainRule) -> Iterator[Mistake]:
    """Yield the known mistakes that this layer could have, the simpler ones first."""
    steps = next(iter(chain.maps.values())).steps
    edges = np.cumsum([0, *steps.widths])
    spans = {state: slice(edges[k], edges[k + 1]) for k, state in enumerate(steps.cell.states)}
    yield from _of_states(steps, spans)
    yield from _of_resets(steps)
    yield from _of_the_loss_and_sums(steps)
    for entering, word in (
        (_finals_at_entry, "at the first step of each sequence"),
        (_finals_everywhere, "at every step"),
    ):
        yield Mistake("final-state gradient ignored", f"the gradients of the final states enter {word}",
            Variation(loss=functools.partial(entering, chain), final=_nothing), ENTRY)  # fmt: skip
    for shift, word in ((1, "one step early"), (2, "two steps early")):
        yield Mistake("off by one step", f"the gradients of the final states enter {word}",
            Variation(loss=functools.partial(_finals_early, chain, shift), final=_nothing), ENTRY)  # fmt: skip
    for gate in steps.cell.slabs:
        yield from _of_a_gate(steps, gate)
    for k, gate in enumerate(steps.cell.slabs):
        for other in steps.cell.slabs[k + 1 :]:
            swap = functools.partial(_swapped, k, steps.cell.slabs.index(other))
            why = f"the gradients of the gates {gate} and {other} stand in each other's places"
            change = Variation(preactivation=swap, state=functools.partial(_through, swap))
            yield Mistake("gates swapped", why, change, IMMEDIATE)
    yield Mistake("order of Jacobians",
        "the Jacobians of the steps are multiplied in the order in which the steps ran, not from the last one back",
        Variation(forward_order=True), RECURRENCE)  # fmt: skip
    yield Mistake("sign", "what a step hands to the one before it has the wrong sign", Variation(state=lambda _, J: -J),
        RECURRENCE)  # fmt: skip
    yield from _of_layers(chain, steps)
    if len(chain.maps) > 1:
        yield from _of_layers_finals(chain)
    if steps.layer.num_directions > 1:
        yield from _of_directions(chain)
    for factor, word in ((1 / steps.N, "1/N"), (steps.N, "N"), (0.5, "1/2"), (2.0, "2")):
        if factor != 1:
            yield Mistake("constant factor", f"what a step hands to the one before it is off by a factor {word}",
                Variation(state=functools.partial(_scaled, slice(None), factor)), RECURRENCE)  # fmt: skip


def _of_states(steps: RecordedSteps, spans: Mapping[str, slice]) -> Iterator[Mistake]:
    """What goes from a step's states to those before: nothing, a part, or too much."""
    states = steps.cell.states
    yield Mistake("recurrence dropped",
        "the gradient is that of every step by itself: nothing is handed from a step to the one before it",
        Variation(state=_nothing), RECURRENCE)  # fmt: skip
    yield Mistake("recurrence dropped",
        "no step hands anything to the one before it; only the initial state gets its gradient",
        Variation(state=_but_first(_nothing)), RECURRENCE)  # fmt: skip
    for state, span in spans.items() if len(spans) > 1 else ():
        kind = "hidden path missing" if state == states[0] else "cell path missing"
        why = f"what flows back from a step to the one before it through {state} is missing"
        yield Mistake(kind, why, Variation(state=_without(span)), RECURRENCE)
        why += ", but for the initial state"
        yield Mistake(kind, why, Variation(state=_but_first(_without(span))), RECURRENCE)
        why = f"the gradient of the final state {state} (d{state}_n) is ignored"
        yield Mistake("final-state gradient ignored", why, Variation(final=_without(span)), ENTRY)
    for state, span in spans.items():
        for factor, word in ((2.0, "twice"), (0.5, "half of")) if len(spans) > 1 else ():
            why = f"{word} what flows back to {state} is handed from a step to the one before it"
            kind = "accumulated twice" if factor == 2 else "constant factor"
            yield Mistake(kind, why, Variation(state=functools.partial(_scaled, span, factor)), RECURRENCE)
    if len(spans) > 1:
        first, cell = spans[states[0]], states[1]
        later = slice(first.stop, spans[states[-1]].stop)
        yield Mistake(
            "hidden path missing",
            f"d{cell} does not get what comes through {states[0]}: the loss reaches the cell by the later steps' cells "
            "alone",
            Variation(
                state=functools.partial(_cut_through, first, later, True),
                preactivation=functools.partial(_cut_through, first, later, False),
            ),
            IMMEDIATE,
        )
        yield Mistake("cell path missing",
            f"d{cell} of the step after is dropped where {states[0]}'s own share comes in (= for +=)",
            Variation(state=_but_first(_without(later)), final=_without(later)), RECURRENCE)  # fmt: skip
        if "f" in steps.cell.slabs:
            yield Mistake("wrong derivative",
                f"what flows back from {cell} to {cell} of the step before is not multiplied with f",
                Variation(state=functools.partial(_ungated, later)), RECURRENCE, "f")  # fmt: skip
            for shift, word in ((-1, "after"), (1, "before")):
                yield Mistake("off by one step", f"what flows back from {cell} is multiplied with f of the step {word}",
                    Variation(state=functools.partial(_gated_by, later, shift)), RECURRENCE, "f")  # fmt: skip
    for gate, weight in steps.weights().items():
        slab = gate.rpartition("_")[2]
        if gate.startswith("peephole") and slab in steps.cell.slabs and len(spans) == 2:
            cut = functools.partial(_without_peephole, spans, slab, weight)
            why = f"nothing flows back to {states[1]} through {slab}'s peephole at its step"
            yield Mistake("gate path missing", why,
                Variation(state=functools.partial(cut, "state"), preactivation=functools.partial(cut, "preactivation")),
                IMMEDIATE, slab)  # fmt: skip
    yield Mistake("final-state gradient ignored", "the gradient is that of the outputs alone: dh_n is ignored",
        Variation(final=_nothing), ENTRY)  # fmt: skip
    yield from _of_finals(spans)
    yield Mistake("final-state gradient ignored",
        "dh_n enters at the last step of the batch; a sequence that ends earlier does not get it",
        Variation(final=_final_of_longest), ENTRY)  # fmt: skip
    if len(spans) == 1 and len(steps.cell.slabs) > 1:
        yield Mistake("hidden path missing",
            "what the state hands to the step before it directly, without a weight, is missing",
            Variation(state=_through_weights), RECURRENCE)  # fmt: skip
        yield Mistake("overwritten, not added",
            "the gradient of the state before is set to what comes through W_hh: what the state hands on directly, and "
            "what the loss says to that step, are lost", Variation(state=_through_weights, loss=_last_alone),
            RECURRENCE)  # fmt: skip


def _of_finals(spans: Mapping[str, slice]) -> Iterator[Mistake]:
    """What the gradients of the final states may have met with: twice, exchanged, at another step."""
    for state, span in spans.items():
        for factor, word in ((2.0, "added twice"), (-1.0, "subtracted")):
            kind = "sign" if factor < 0 else "accumulated twice"
            why = f"the gradient of the final state {state} (d{state}_n) is {word}"
            yield Mistake(kind, why, Variation(final=functools.partial(_scaled, span, factor)), ENTRY)
    names = list(spans)
    if len(names) > 1:
        yield Mistake("accumulated twice", "the gradients of all final states are added twice",
            Variation(final=functools.partial(_scaled, slice(None), 2.0)), ENTRY)  # fmt: skip
    if len(names) > 1 and len({span.stop - span.start for span in spans.values()}) == 1:
        why = f"the gradients of the final states are exchanged: d{names[1]}_n is added to d{names[0]}, and the reverse"
        yield Mistake("final-state gradient ignored", why,
            Variation(final=functools.partial(_rolled, spans[names[0]].stop)), ENTRY)  # fmt: skip
        for k, name in enumerate(names):
            why = f"d{name}_n is added to the gradient of the other state as well"
            yield Mistake("final-state gradient ignored", why,
                Variation(final=functools.partial(_added_to, spans[name], spans[names[1 - k]])), ENTRY)  # fmt: skip


def _of_resets(steps: RecordedSteps) -> Iterator[Mistake]:
    """A GRU's reset gate, on the wrong side or missing."""
    if {"q", "r", "n"} <= set(steps.cell.slabs):
        yield Mistake("reset on the wrong side",
            "the state gets r * W_hn^T da_n, as if the reset acted before the product, not W_hn^T (r * da_n)",
            Variation(state=_reset_before), RECURRENCE, "n")  # fmt: skip
    if steps.cell.hidden_inputs:
        yield Mistake("hidden path missing",
            "the state gets the gradient of what a gate lets through, r * h say, as if it were that of h itself",
            Variation(state=_reset_forgotten), RECURRENCE)  # fmt: skip


def _of_the_loss_and_sums(steps: RecordedSteps) -> Iterator[Mistake]:
    """What comes at the wrong step, steps left out, weights turned around."""
    yield Mistake("only the last step's loss",
        "what the loss says to the outputs of all steps but the last is missing (overwritten, where it should be added "
        "to)", Variation(loss=_last_alone), ENTRY)  # fmt: skip
    yield Mistake("only the last step's loss", "the outputs' gradient is ignored: only that of the final state arrives",
        Variation(loss=_nothing), ENTRY)  # fmt: skip
    yield Mistake("accumulated twice", "what the loss says to the outputs is added twice",
        Variation(loss=functools.partial(_scaled, slice(None), 2.0)), ENTRY)  # fmt: skip
    yield Mistake("accumulated twice", "what the loss says to the outputs is added twice, but at the last step",
        Variation(loss=_doubled_but_last), ENTRY)  # fmt: skip
    for length in range(2, min(33, steps.T)):
        for offset in (0, None):
            why = f"once in {length} steps nothing is handed back: back-propagation is truncated there"
            yield Mistake("recurrence dropped", why, Variation(state=functools.partial(_cut_every, length, offset)),
                RECURRENCE)  # fmt: skip
    for kept in range(1, min(33, steps.T - 1)):
        for carried, word in ((False, "no part"), (True, "no part but that what came so far is handed on")):
            yield Mistake("recurrence dropped", f"steps before the last {kept} have {word}",
                Variation(loss=functools.partial(_last_steps, kept), preactivation=functools.partial(_last_steps, kept),
                          state=functools.partial(_stopped, kept, carried)), RECURRENCE)  # fmt: skip
    for shift, word in ((1, "t+1"), (-1, "t-1")):
        why = f"what the loss says to output t arrives at step {word}"
        yield Mistake("off by one step", why, Variation(loss=functools.partial(_shifted, shift)), ENTRY)
    for kind, symbol, shift, taken in (
        ("hidden", "W_hh", -1, "h_t where h_{t-1} acted"),
        ("hidden", "W_hh", 1, "h_{t-2} where h_{t-1} acted"),
        ("input", "W_ih", -1, "x_{t+1} where x_t acted"),
        ("input", "W_ih", 1, "x_{t-1} where x_t acted"),
    ):
        why = f"the sum over the steps of d{symbol} takes {taken}"
        moved = functools.partial(_source_of, kind, functools.partial(_shifted, shift))
        yield Mistake("off by one step", why, Variation(source=moved), SUMS)
    yield Mistake("off by one step", "the sum over the steps of dW_hh takes h_t where h_{t-1} acted",
        Variation(source=functools.partial(_states_as_source, "after")), SUMS)  # fmt: skip
    for kind, which, word in (("first step skipped", 0, "first"), ("last step skipped", -1, "last")):
        left_out = functools.partial(_with_step, which, 0.0)
        for why, change, part in (
            (f"the {word} step is missing from the sums over the steps", Variation(summed=left_out), SUMS),
            (
                f"the loop over time leaves the {word} step out altogether",
                Variation(preactivation=left_out, state=left_out),
                RECURRENCE,
            ),
            (
                f"the loop over time leaves the {word} step out, and hands on the state's gradient as it is",
                Variation(preactivation=left_out, state=functools.partial(_passed, which)),
                RECURRENCE,
            ),
            (
                f"the loop over time leaves the {word} step out, what the loss says to it as well, and hands on the "
                "state's gradient as it is",
                Variation(preactivation=left_out, state=functools.partial(_passed, which), loss=left_out),
                RECURRENCE,
            ),
            (
                f"of the {word} step only the sum for W_hh is missing",
                Variation(source=functools.partial(_source_of, "hidden", left_out)),
                SUMS,
            ),
            (f"what the loss says to the {word} output is missing", Variation(loss=left_out), ENTRY),
        ):
            yield Mistake(kind, why, change, part)
    yield Mistake("transposed", "the recurrence multiplies with W_hh where it should with its transpose",
        Variation(state=functools.partial(_recurrent, True, True)), RECURRENCE)  # fmt: skip


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


def _of_a_gate(steps: RecordedSteps, gate: str) -> Iterator[Mistake]:
    """A gate's derivative missing, its path cut, its sign, another derivative."""
    cell, columns = steps.cell, steps.recorded.chain.blocks_by_name.get(gate)
    span = columns[1] if columns is not None else slice(0, steps.layer.hidden_size)
    name = gate if len(cell.slabs) > 1 else None
    text = f"gate {gate}" if name else "the activation"
    curved = gate in cell.input_slabs  # the GRU's q is a sum that has no activation
    found: list[tuple[str, str, Change]] = []
    if curved:
        why = f"the derivative of {text} is missing: da is taken to be the gradient of its value"
        found.append(("gate derivative missing", why, derivative_as(gate, lambda value, a: np.ones_like(value))))
    if name is not None:
        found.append(("gate path missing", f"nothing flows back through {text}", functools.partial(_scaled, span, 0.0)))
    why = f"the gradient through {text} has the wrong sign"
    found.append(("sign", why, functools.partial(_scaled, span, -1.0)))
    relu = getattr(steps.layer, "nonlinearity", "tanh") == "relu"
    own = SIGMOID if gate in cell.sigmoids else "" if relu else TANH
    for label, function in OTHER_DERIVATIVES.items() if curved else ():
        if label != own:
            why = f"the derivative of {text} is taken as {label}"
            found.append(("wrong derivative", why, derivative_as(gate, function)))
    for kind, why, change in found:
        through = functools.partial(_through, change)
        yield Mistake(kind, why, Variation(preactivation=change, state=through), IMMEDIATE, name)
        if kind == "gate path missing":
            yield Mistake(kind, f"{why} to the step before", Variation(state=through), RECURRENCE, name)


def _of_layers(chain: ChainRule, steps: RecordedSteps) -> Iterator[Mistake]:
    """What goes from layer to layer, and masks."""
    if steps.layer.num_layers > 1:
        yield Mistake("lower layer cut off", "what the upper layer hands down does not arrive",
            Variation(handed=_nothing), BETWEEN)  # fmt: skip
        for reverse, word in ((False, "forward"), (True, "reverse")) if steps.layer.num_directions > 1 else ():
            why = f"of what the upper layer hands down, the {word} direction's share is missing"
            yield Mistake("lower layer cut off", why, Variation(handed=functools.partial(_cut, reverse)), BETWEEN)
        upper = slice(None)
        for factor, word in ((0.5, "half of it"), (2.0, "twice of it"), (1 / steps.N, "1/N of it"), (-1.0, "minus it")):
            kind = "sign" if factor < 0 else "accumulated twice" if factor == 2 else "constant factor"
            yield Mistake(kind, f"of what the upper layer hands down, {word} arrives",
                Variation(handed=functools.partial(_scaled, upper, factor)), BETWEEN)  # fmt: skip
        yield Mistake("order of Jacobians", "what the upper layer hands down arrives in the other order of steps",
            Variation(handed=lambda _, dx: dx[::-1]), BETWEEN)  # fmt: skip
        for shift, word in ((1, "t+1"), (-1, "t-1")):
            yield Mistake("off by one step", f"what the upper layer hands down at t arrives at step {word}",
                Variation(handed=functools.partial(_shifted, shift)), BETWEEN)  # fmt: skip
        if chain.trace.edge.factors is not None:
            for why, change in OTHER_MASKS:
                yield Mistake("dropout mask ignored", f"the dropout mask between two layers {why}",
                    Variation(mask=change), BETWEEN)  # fmt: skip
            yield Mistake("dropout mask ignored",
                "the gradient that goes down between two layers is not multiplied with the dropout mask",
                Variation(mask=lambda _, factors: np.ones_like(factors)), BETWEEN)  # fmt: skip
    if any(maps.steps.recorded.masks.zoneout for maps in chain.maps.values()):
        each = {state for maps in chain.maps.values() for state in maps.steps.recorded.masks.zoneout}
        for only in (None, *(state for state in steps.cell.states if state in each and len(each) > 1)):
            of = "" if only is None else f" of {only}"
            for why, zoned in OTHER_ZONEOUTS:
                yield Mistake("dropout mask ignored", f"the mask of zoneout{of} {why} on the way back",
                    Variation(state=functools.partial(_zoned, "state", zoned, only),
                              preactivation=functools.partial(_zoned, "preactivation", zoned, only)),
                    RECURRENCE)  # fmt: skip
        yield Mistake("dropout mask ignored", "the masks of zoneout of two states are exchanged on the way back",
            Variation(state=functools.partial(_zoned, "state", None, None),
                      preactivation=functools.partial(_zoned, "preactivation", None, None)), RECURRENCE)  # fmt: skip
    if any(maps.steps.recorded.masks.recurrent is not None for maps in chain.maps.values()):
        yield Mistake("dropout mask ignored",
            "the gradient of the state is not multiplied with the mask of recurrent dropout",
            Variation(state=functools.partial(_recurrent, False, False)), RECURRENCE)  # fmt: skip
        for why, other in OTHER_RECURRENT_MASKS:
            yield Mistake("dropout mask ignored", f"on the way back the mask of recurrent dropout {why}",
                Variation(state=functools.partial(_with_mask, other)), RECURRENCE)  # fmt: skip
        yield Mistake("dropout mask ignored", "the sum of dW_hh takes h_{t-1} without the mask of recurrent dropout",
            Variation(source=functools.partial(_states_as_source, "before")), SUMS)  # fmt: skip


OTHER_ZONEOUTS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("is not applied", np.zeros_like),
    ("is taken the other way round", lambda mask: 1 - mask),
    ("is that of the step before", lambda mask: np.roll(mask, 1, axis=0)),
    ("is that of the step after", lambda mask: np.roll(mask, -1, axis=0)),
    ("is that of the steps in the other order", lambda mask: mask[::-1]),
    ("is that of other units", lambda mask: np.roll(mask, 1, axis=2)),
    ("is that of other sequences", lambda mask: np.roll(mask, 1, axis=1)),
    ("is replaced by its mean", lambda mask: np.full_like(mask, mask.mean())),
)

OTHER_RECURRENT_MASKS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("lacks its scale, 1 / (1 - p)", lambda mask: (mask != 0).astype(float)),
    ("is multiplied with twice", lambda mask: mask * mask),
    ("has its scale alone", lambda mask: np.full_like(mask, mask.max(initial=0.0))),
    ("is that of other units", lambda mask: np.roll(mask, 1, axis=1)),
    ("is that of other sequences", lambda mask: np.roll(mask, 1, axis=0)),
    ("is taken the other way round", lambda mask: mask.max(initial=0.0) - mask),
)

OTHER_MASKS: tuple[tuple[str, Change], ...] = (
    ("lacks its scale, 1 / (1 - p)", lambda _, factors: (factors != 0).astype(float)),
    ("is multiplied with twice", lambda _, factors: factors * factors),
    ("is rounded to half precision", lambda _, factors: factors.astype(np.float16).astype(float)),
    ("is that of the steps in the other order", lambda _, factors: factors[::-1]),
    ("is that of the step before", lambda steps, factors: _shifted(1, steps, factors)),
    ("is that of the step after", lambda steps, factors: _shifted(-1, steps, factors)),
    (
        "has its scale alone: what was dropped is not",
        lambda _, factors: np.full_like(factors, factors.max(initial=0.0)),
    ),
    ("is that of other units", lambda _, factors: np.roll(factors, 1, axis=2)),
    ("is that of other sequences", lambda _, factors: np.roll(factors, 1, axis=1)),
)


def _of_layers_finals(chain: ChainRule) -> Iterator[Mistake]:
    """The gradients of final states given to another layer or direction."""
    names = list(chain.maps)
    for title, order in (("in the other order", names[::-1]), ("each to the next one", [*names[-1:], *names[:-1]])):
        given = dict(zip(names, order, strict=True))
        yield Mistake("final-state gradient ignored",
            f"the gradients of the final states are given to layers and directions {title}",
            Variation(final=functools.partial(_final_of, chain, given)), ENTRY)  # fmt: skip


def _of_directions(chain: ChainRule) -> Iterator[Mistake]:
    """The reverse direction taken for a forward one, and halves of the outputs' gradient exchanged."""
    for why, change in (
        ("what the loss says to the reverse direction arrives in forward order", Variation(loss=_flipped)),
        (
            "the sums over the steps pair the reverse direction's gradients with inputs in the other order",
            Variation(source=lambda steps, _, source: _flipped(steps, source)),
        ),
        (
            "the reverse direction is taken for one that runs forward: its steps are chained in the wrong order",
            Variation(state=_flipped, preactivation=_flipped),
        ),
        (
            "both directions get the gradient of the same half of the outputs",
            Variation(loss=functools.partial(_other_half, chain, 0)),
        ),
        (
            "the two halves of the outputs' gradient are exchanged",
            Variation(loss=functools.partial(_other_half, chain, None)),
        ),
    ):
        yield Mistake("reverse direction not reversed", why, change, ENTRY)


# ---------------------------------------------------------------------------------------------- steps


def _nothing(_: RecordedSteps, array: Array) -> Array:
    return np.zeros_like(array)


def _scaled(span: slice, factor: float, _: RecordedSteps, array: Array) -> Array:
    scaled = array.copy()
    scaled[..., span] *= factor
    return scaled


def _swapped(one: int, other: int, steps: RecordedSteps, B: Array) -> Array:
    H, swapped = steps.layer.hidden_size, B.copy()
    first, second = (slice(k * H, (k + 1) * H) for k in (one, other))
    swapped[..., first], swapped[..., second] = B[..., second], B[..., first]
    return swapped


def _rolled(shift: int, _: RecordedSteps, array: Array) -> Array:
    return np.roll(array, shift, axis=-1)


def _added_to(source: slice, to: slice, _: RecordedSteps, final: Array) -> Array:
    changed = final.copy()
    changed[..., to] += final[..., source]
    return changed


def _final_of(chain: ChainRule, given: Mapping[str, str], steps: RecordedSteps, final: Array) -> Array:
    return chain.from_loss.finals[given[steps.direction.name]]


def _finals_early(chain: ChainRule, shift: int, steps: RecordedSteps, loss: Array) -> Array:
    changed, order = loss.copy(), np.asarray(steps.order())
    ends = order.size - 1 - steps.alive[order][::-1].argmax(axis=0)
    n = np.flatnonzero(ends >= shift)
    changed[order[ends[n] - shift], n] += chain.from_loss.finals[steps.direction.name][n]
    return changed


def _finals_at_entry(chain: ChainRule, steps: RecordedSteps, loss: Array) -> Array:
    changed = loss.copy()
    changed[_entries(steps)] += chain.from_loss.finals[steps.direction.name]
    return changed


def _finals_everywhere(chain: ChainRule, steps: RecordedSteps, loss: Array) -> Array:
    return np.where(steps.alive[..., None], loss + chain.from_loss.finals[steps.direction.name], 0)


def _doubled_but_last(steps: RecordedSteps, loss: Array) -> Array:
    changed, last = 2 * loss, _entries(steps, -1)
    changed[last] = loss[last]
    return changed


def _cut_every(length: int, offset: int | None, steps: RecordedSteps, J: Array) -> Array:
    """Cut what steps hand back wherever a chunk of so many begins, counted from the first step, or from the last."""
    cut = J.copy()
    for k, t in enumerate(steps.order()):
        place = k if offset is not None else steps.T - k
        if place % length == 0 and k:
            cut[t] = 0
    return cut


def _last_steps(kept: int, steps: RecordedSteps, array: Array) -> Array:
    """Return zeros at all steps but the last ones of the batch."""
    left, order = np.zeros_like(array), steps.order()
    left[order[-kept:]] = array[order[-kept:]]
    return left


def _stopped(kept: int, carried: bool, steps: RecordedSteps, J: Array) -> Array:
    stopped, order = J.copy(), steps.order()
    stopped[order[:-kept]] = np.eye(J.shape[-1]) if carried else 0
    if not carried:
        stopped[order[-kept]] = 0
    return stopped


def _zoned(
    which: str, change: Callable[[Array], Array] | None, only: str | None, steps: RecordedSteps, array: Array
) -> Array:
    """Return the maps of steps with other masks of zoneout, of all states or of one, at the same recorded states; where
    there is no change they are exchanged.
    """
    masks = steps.recorded.masks
    if not masks.zoneout:
        return array
    other = copy.copy(steps)
    other.recorded = copy.copy(steps.recorded)
    kept = {state: np.asarray(mask, float) for state, mask in masks.zoneout.items()}
    if change is None:
        changed = dict(zip(kept, reversed(kept.values()), strict=True))
    else:
        changed = {state: mask if only not in (None, state) else change(mask) for state, mask in kept.items()}
    other.recorded.masks = Masks(masks.recurrent, changed)
    found = other.jacobians()
    return found.state if which == "state" else found.preactivation


def _without_peephole(
    spans: Mapping[str, slice], slab: str, weight: Array, which: str, steps: RecordedSteps, matrix: Array
) -> Array:
    """Return J or B without the way from the output to the cell through a gate that sees the cell of its own step."""
    (first, later), H = spans.values(), steps.layer.hidden_size
    if later.stop - later.start != H or first.stop - first.start != H:
        return matrix
    at = steps.cell.slabs.index(slab) * H
    gate = np.einsum("tnjj->tnj", steps.maps.preactivation[:, :, first, at : at + H]) * weight  # dh/dc by this way
    right = steps.maps.state if which == "state" else steps.maps.preactivation
    through = gate[..., None] * right[:, :, later]
    if which == "preactivation":
        through[..., at : at + H] = 0
    changed = matrix.copy()
    changed[:, :, first] -= through
    if which == "state":  # what W_hh brings to the gate itself stays
        own = np.zeros_like(steps.maps.preactivation[:, :, later])
        own[..., at : at + H] = gate[..., None] * steps.maps.preactivation[:, :, later, at : at + H]
        changed[:, :, first] += own @ hidden_matrix(steps)
    return changed


def _without(span: slice) -> Change:
    def without(_: RecordedSteps, array: Array) -> Array:
        cut = array.copy()
        cut[..., span] = 0
        return cut

    return without


def _entries(steps: RecordedSteps, which: int = 0) -> tuple[Array, Array]:
    """Return (t, n) of the first, or last, step of each sequence."""
    order = np.asarray(steps.order())
    alive = steps.alive[order]
    first = alive.argmax(axis=0) if which == 0 else len(order) - 1 - alive[::-1].argmax(axis=0)
    return order[first], np.arange(steps.N)


def _but_first(change: Change) -> Change:
    """Return a change that leaves each sequence's first step as it is."""

    def but_first(steps: RecordedSteps, J: Array) -> Array:
        changed, entry = change(steps, J), _entries(steps)
        changed[entry] = J[entry]
        return changed

    return but_first


def _with_step(which: int, value: float, steps: RecordedSteps, array: Array) -> Array:
    left = array.copy()
    left[_entries(steps, which)] = value
    return left


def _passed(which: int, steps: RecordedSteps, J: Array) -> Array:
    left = J.copy()
    left[_entries(steps, which)] = np.eye(J.shape[-1])
    return left


def _last_alone(steps: RecordedSteps, loss: Array) -> Array:
    kept, last = np.zeros_like(loss), _entries(steps, -1)
    kept[last] = loss[last]
    return kept


def _final_of_longest(steps: RecordedSteps, final: Array) -> Array:
    return np.where((steps.alive.sum(axis=0) == steps.T)[:, None], final, 0)


def _shifted(shift: int, _: RecordedSteps, array: Array) -> Array:
    moved = np.zeros_like(array)
    if shift > 0:
        moved[shift:] = array[:-shift]
    else:
        moved[:shift] = array[-shift:]
    return moved


def _flipped(steps: RecordedSteps, array: Array) -> Array:
    return array[::-1] if steps.direction.reverse else array


def _cut(reverse: bool, steps: RecordedSteps, dx: Array) -> Array:
    return np.zeros_like(dx) if steps.direction.reverse == reverse else dx


def _other_half(chain: ChainRule, half: int | None, steps: RecordedSteps, loss: Array) -> Array:
    """Give a direction of the top layer another half of the outputs' gradient: this one, or the other one for None."""
    direction, width = steps.direction, steps.widths[0]
    if direction.layer != steps.layer.num_layers - 1:
        return loss
    chosen = (1 - int(direction.reverse)) if half is None else half
    changed = loss.copy()
    part = chain.from_loss.output[..., chosen * width : (chosen + 1) * width]
    changed[..., :width] = np.where(steps.alive[..., None], part, 0)
    return changed


def _source_of(which: str, change: Change, steps: RecordedSteps, kind: str, source: Array) -> Array:
    return change(steps, source) if kind == which else source


def _states_as_source(when: str, steps: RecordedSteps, kind: str, source: Array) -> Array:
    states = steps.states(when)[..., : steps.widths[0]]
    return states if kind == "hidden" and source.shape == states.shape else source


# ---------------------------------------------------------------------------------------------- gates

# What flows to the step before through W_hh: J = (directly) + B M, with M what the states do to a.


def hidden_matrix(steps: RecordedSteps, turned: bool = False, mask: bool = True, gated: bool = True) -> Array:
    """Return da_t/ds_{t-1} through W_hh, (T, N, A, S), of what stands beside a state as it is: r_t in r_t * h_{t-1},
    which is 1 where not `gated`.
    """
    weight, H, width = steps.weights()["weight_hh"], steps.layer.hidden_size, steps.widths[0]
    matrix = np.zeros((steps.T, steps.N, steps.A, steps.S))
    masks = steps.recorded.masks.recurrent
    state = masks if mask and masks is not None else np.ones((steps.N, width))
    before = steps.states("before")[..., :width]
    for rows, columns, source in steps.products("hidden"):
        if source.shape[-1] != width:
            continue
        gates = [gate for k, gate in enumerate(steps.cell.gate_names) if rows.start <= k * H < rows.stop]
        share: Array | float = 1.0
        if gated and any(gate in steps.cell.hidden_inputs for gate in gates):
            # What acts is the state times a gate: r * h of the original GRU.
            share = np.divide(source, before, out=np.zeros_like(source), where=before != 0)[:, :, None, :]
        for start in range(rows.start, rows.stop, H):
            block = weight[start : start + H]
            block = block.T if turned and block.shape[0] == block.shape[1] else block
            at = columns.start + start - rows.start
            matrix[:, :, at : at + H, :width] = block * state[:, None, :] * share
    return matrix


def _through(change: Change, steps: RecordedSteps, J: Array) -> Array:
    """Return J where B is changed: the part of it that goes through W_hh changes with B."""
    B = steps.maps.preactivation
    return np.asarray(J + (change(steps, B) - B) @ hidden_matrix(steps))


def _recurrent(turned: bool, mask: bool, steps: RecordedSteps, J: Array) -> Array:
    """Return J with W_hh turned around, or without its mask."""
    return np.asarray(J + steps.maps.preactivation @ (hidden_matrix(steps, turned, mask) - hidden_matrix(steps)))


def _with_mask(change: Callable[[Array], Array], steps: RecordedSteps, J: Array) -> Array:
    """Return J with another mask of recurrent dropout."""
    mask = steps.recorded.masks.recurrent
    if mask is None:
        return J
    bare, through = (hidden_matrix(steps, mask=masked) for masked in (False, True))
    width = steps.widths[0]
    bare[..., :width] *= change(np.asarray(mask, float))[:, None, :]
    return np.asarray(J + steps.maps.preactivation @ (bare - through))


def _through_weights(steps: RecordedSteps, J: Array) -> Array:
    return np.asarray(steps.maps.preactivation @ hidden_matrix(steps))


def _ungated(later: slice, steps: RecordedSteps, J: Array) -> Array:
    """Without the forget gate: all that goes from c_{t-1} to c_t, and on to h_t, is a multiple of f."""
    found = steps.recorded.find("f")
    if found is None or found.shape[-1] != later.stop - later.start:
        return J
    f, changed = found[:, :, None, :], J.copy()
    changed[..., later] = np.divide(J[..., later], f, out=np.zeros_like(J[..., later]), where=f != 0)
    return changed


def _gated_by(later: slice, shift: int, steps: RecordedSteps, J: Array) -> Array:
    """With the forget gate of another step, where there is one."""
    f = steps.recorded.find("f")
    if f is None or f.shape[-1] != later.stop - later.start or len(f) != steps.T:
        return J
    shift = -shift if steps.direction.reverse else shift
    other = np.roll(f, shift, axis=0)
    edge = slice(0, 1) if shift > 0 else slice(-1, None)
    other[edge] = f[edge]
    changed = J.copy()
    changed[..., later] *= np.divide(other, f, out=np.ones_like(f), where=f != 0)[:, :, None, :]
    return changed


def _cut_through(first: slice, later: slice, is_state: bool, steps: RecordedSteps, matrix: Array) -> Array:
    """Leave of what the output depends on only what does not go through a later state.

    For an LSTM, h = o tanh(c): its derivative by o alone. Which slabs those are is read off the matrix: the ones on
    which the later states do not depend.
    """
    cut, B = matrix.copy(), steps.maps.preactivation
    direct = ~np.any(B[:, :, later] != 0, axis=(0, 1, 2))  # slabs that reach the output alone
    through = np.where(direct, B[:, :, first], 0)
    cut[:, :, first] = through @ hidden_matrix(steps) if is_state else through
    return cut


def _of_gate(steps: RecordedSteps, gate: str, slab: str) -> Array:
    """Return what the states get through a slab of a and the rows of W_hh of a gate."""
    H = steps.layer.hidden_size
    place, row = steps.cell.slabs.index(slab), steps.cell.hidden_slabs.index(gate)
    columns = steps.maps.preactivation[..., place * H : (place + 1) * H]
    return np.asarray(columns @ steps.weights()["weight_hh"][row * H : (row + 1) * H])


def _reset_before(steps: RecordedSteps, J: Array) -> Array:
    right, wrong, r = _of_gate(steps, "q", "q"), _of_gate(steps, "q", "n"), steps.recorded.find("r")
    return J if r is None else np.asarray(J + wrong * r[:, :, None, :] - right)


def _reset_forgotten(steps: RecordedSteps, J: Array) -> Array:
    through = hidden_matrix(steps, gated=False) - hidden_matrix(steps)
    return np.asarray(J + steps.maps.preactivation @ through)


def _values(steps: RecordedSteps, gate: str) -> tuple[Array, Array] | None:
    """Return (value, pre-activation) of a slab, (T, N, H); the value of a cell with a single slab is its state."""
    cell = steps.cell
    if len(cell.slabs) == 1:
        value = steps.states("after")[..., : steps.layer.hidden_size]
        stored = steps.recorded.arrays["a"]
        return value, stored if not cell.in_place or stored is not value else np.arctanh(value)
    found = steps.recorded.find(gate)
    if found is None:
        return None
    with np.errstate(all="ignore"):
        a = np.log(found / (1 - found)) if gate in cell.sigmoids else np.arctanh(np.clip(found, -1, 1))
    return found, a


def _derivative(steps: RecordedSteps, gate: str, value: Array) -> Array | None:
    """Return the derivative of a slab's activation, or None where it has none or it is not known."""
    if gate in steps.cell.sigmoids:
        return np.asarray(value * (1 - value))
    if getattr(steps.layer, "nonlinearity", "tanh") == "relu":
        return (value > 0).astype(float)
    if gate not in steps.cell.input_slabs or np.abs(value).max(initial=0.0) > 1:
        return None  # a sum that has no activation, as the GRU's q
    return np.asarray(1 - value * value)


def derivative_as(gate: str, function: Callable[[Array, Array], Array]) -> Change:
    """Return B with another derivative of a gate's activation, a function of its value and pre-activation."""

    def changed(steps: RecordedSteps, B: Array) -> Array:
        values = _values(steps, gate)
        derivative = None if values is None else _derivative(steps, gate, values[0])
        if derivative is None or values is None:
            return B
        if np.any(derivative == 0) and len(steps.cell.slabs) == 1 and not steps.recorded.masks.zoneout:
            return _diagonal(function(*values), B)
        ratio = np.divide(function(*values), derivative, out=np.zeros_like(derivative), where=derivative != 0)
        other = B.copy()
        # Of a GRU, r and q act through n.
        for name in (gate, "q", "r") if gate == "n" else (gate,):
            place = steps.recorded.chain.blocks_by_name.get(name)
            if place is not None or name == gate:
                other[..., slice(None) if place is None else place[1]] *= ratio[:, :, None, :]
        return other

    return changed


def _diagonal(values: Array, like: Array) -> Array:
    """Return matrices with these numbers on their diagonals, (T, N, H, H); others where B has another shape."""
    if like.shape[-2:] != (values.shape[-1],) * 2:
        return like
    return np.where(np.eye(values.shape[-1], dtype=bool), values[..., None], 0.0)
