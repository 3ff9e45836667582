"""Many adjoints at once: the backward steps of a recorded trajectory, each on a whole stack of gradients.

Back-propagation through time carries one gradient, the sum of what all later losses say. To know what each loss step t
says by itself, one gradient for each has to be carried; they run through the same steps, at the same recorded states,
and so lie side by side as further columns of one call of the cell's `step_backward`:

    (C1)  s'(t, k-1) = J_k^T s'(t, k)        s'(t, t) = dL_t/ds_t, what enters at step t and at no other
    (C2)  da(t, k)   = B_k^T s'(t, k)

for all t >= k together, from the last step k to the first. `RecordedSteps.vjp` does the same for any steps in any
order; here all columns of a call belong to one step k, so that what the step recorded is spread, not gathered, the
local derivatives are computed once, and a step costs a few array operations more than in a backward pass.

A stack is (n, Q, ·): the first n sequences in the engine's order, which are those that have the step, and Q gradients
for each.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.binding import Binding, as_column, constants_of, stacked
from rnn_numpy.engine.cell import Chain
from rnn_numpy.engine.parts import drop_backward
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent, Run
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.walk import Down
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]

LEAK = "leak"


def steps_of(where: str, layer: Recurrent, trace: Trace, name: str | None) -> dict[str, RecordedSteps]:
    """Return the steps of every layer and direction by name, or of one; errors name `where`."""
    if not isinstance(layer, Recurrent):
        raise DTypeError(f"{where}: layer must be a recurrent layer; got {type(layer).__name__}")
    if layer.dtype.kind == "c":
        raise DTypeError(f"{where}: layer must be real; got dtype {layer.dtype}")
    layer.edge_of(where, trace)
    if name is not None and name not in trace.layers:
        raise OptionError(f"{where}: name must be one of {', '.join(map(repr, trace.layers))}; got {name!r}")
    return {title: RecordedSteps(layer, trace, title) for title in trace.layers if name is None or title == name}


def step_number(where: str, letter: str, value: Any, low: int, high: int, which: str = "") -> int:
    """Return `value` as an int from `low` to `high`; `which` says in an error what else there is to know."""
    step = arguments.integer(where, letter, value)
    if not low <= step <= high:
        hint = f" ({which})" if which else ""
        raise OptionError(f"{where}: {letter} must be in [{low}, {high}]{hint}; got {step}")
    return step


class LateBackward:
    """A backward pass that is made when its `result` is first asked for, out of copies of its arguments."""

    def __init__(self, layer: Recurrent, trace: Trace, doutput: ArrayLike | None, dh_n: Any) -> None:
        self.layer, self.trace = layer, trace
        self.doutput, self.dh_n = copy.deepcopy((doutput, dh_n))

    @functools.cached_property
    def result(self) -> BackwardResult:
        """What `backward` returns."""
        return self.layer.backward(self.trace, self.doutput, self.dh_n)


def direct_gradients(
    layer: Recurrent, trace: Trace, doutput: ArrayLike | None, dh_n: Any, where: str
) -> tuple[dict[str, Array], LateBackward]:
    """Return the gradient that enters at each step and at no other, dL/ds_t directly, (T, N, S) by layer and direction
    in the engine's order, and the backward pass, which a single layer does not need; the trace keeps the gradients that
    it has.

    Into the last layer comes doutput; into a lower one what the layer above hands down at the same step; and the final
    state's gradient at each sequence's last step.
    """
    edge, cell = trace.edge, layer.cell
    top, finals = edge.like_output(where, "doutput", doutput), edge.states_in(where, "dh_n", dh_n)
    recorded = {name: copy.copy(one) for name, one in trace.layers.items()}
    back = LateBackward(layer, Trace(recorded, trace.masks, edge), doutput, dh_n)
    if len(layer.stack) > 1:
        _ = back.result
    scratch = layer.params.zeros_like()
    found: dict[str, Array] = {}
    walk = Down(layer.stack, edge.factors, top)
    for direction in walk:
        one = recorded[direction.name]
        binding = Binding(one.chain, edge.batch, direction.reverse, dict(one.arrays), {})
        run = Run(direction, one, binding, sums=layer.own(scratch, direction))
        signal = None if walk.signal is None else walk.signal[:, :, direction.columns]
        layer.open_backward(run, signal, [None if final is None else final[direction.row] for final in finals])
        after = slice(binding.after, binding.after + edge.batch.T)
        direct = [binding.arrays[f"d{state}"][after] for state in cell.states]
        found[direction.name] = edge.existing(np.concatenate(direct, axis=2))
        # Nobody asks what the lowest layer hands down.
        if direction.layer:
            binding.arrays.update(one.latest.arrays)
            walk.give(layer.close_backward(run))
    return {name: found[name] for name in trace.layers}, back


@dataclass
class StackedStep:
    """One step k, on a stack of gradients.

    `after` and `before` have an array for each state, (n, Q, ·): dL/ds_k, to be written, and dL/ds_{k-1}, once the step
    has run, zeros at first. What the formulas add to a further state, dc_t += ..., stands in `after` then, as it does
    in a trace; `entered` is dL/ds_k as it was before the step ran. Where the paths are kept apart, `inner` is what
    `before` lacks; see `Adjoints.paths`. `beside` is what reaches the first state by a way of its own, attention say,
    and `own` that state's gradient without it.
    """

    k: int
    after: list[Array]
    before: list[Array]
    inner: Array | None
    entered: list[Array]
    arrays: dict[str, Array]
    chain: Chain
    count: tuple[int, int]
    beside: Array | None = None
    own: Array | None = None

    def gradient(self, name: str) -> Array:
        """Return a gradient that the step has computed, by the name of a formula's argument ("da_t"), (n, Q, ·)."""
        slot, (n, Q) = self.chain.place(name), self.count
        row: Array = self.arrays[slot.array][1 if slot.when == "after" else 0]
        row = row if slot.block is None else row[:, slot.block]
        if self.chain.cell.columns:
            return row.T.reshape(row.shape[1], n, Q).transpose(1, 2, 0)
        return row.reshape(n, Q, row.shape[1])


class Adjoints:
    """The backward steps of one direction of one layer, each on a stack of gradients.

    With `apart`, it is kept apart by which way a gradient gets from a state to the one before; see `paths`.

    Examples
    --------
    What each of three losses says of the initial state adds up to what backward says:

    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 4, rng=0)
    >>> output, h_n, trace = rnn.forward(np.ones((3, 1, 2)))
    >>> back = rnn.backward(trace, np.ones_like(output))
    >>> *_, (step, losses) = Adjoints(RecordedSteps(rnn, trace, "l0")).carry(np.ones((3, 1, 4)))
    >>> step.before[0].shape, losses.tolist()
    ((1, 3, 4), [2, 1, 0])
    >>> bool(np.allclose(step.before[0].sum(axis=1), back.dh_0[0], rtol=1e-14, atol=0))
    True
    """

    def __init__(self, steps: RecordedSteps, apart: bool = False) -> None:
        self.steps = steps
        # States are apart as they are.
        self.apart = apart = apart and len(steps.cell.states) == 1
        layer, cell, recorded = steps.layer, steps.cell, steps.recorded
        self.dtype = layer.params.dtype
        self.beside = next(iter(recorded.chain.paths.values()), "")  # the name of a way of its own
        self.order = list(steps.binding.order(True))
        self.counts = steps.batch.counts or [steps.N] * steps.T
        weights = dict(recorded.weights)
        self.split: list[tuple[str, Array, slice]] = []
        if apart:
            # The products with the blocks of W_hh that act on the state are ours, one path each. Without these blocks
            # the formulas' own product is what is left: nothing is found as a difference.
            weights["W_hh"] = weights["W_hh"].copy()
            for gate, rows, columns, source in steps.gate_blocks("hidden"):
                if source == f"{cell.recurrent_state}_in":
                    self.split.append((gate, recorded.weights["W_hh"][rows], columns))
                    weights["W_hh"][rows] = 0
        # Apart, what comes through W_hh has memory of its own, as with recurrent dropout, whose mask is ours, too.
        chain = recorded.chain
        self.chain = cell.chain(chain.hidden, True, chain.zoneout) if apart else chain
        calls = self.chain.formulas["backward"]
        self.calls = [call for call in calls if not apart or call[0] is not drop_backward]
        # The order in which W_hh lies in memory depends on the batch alone.
        constants = constants_of(self.chain, weights, steps.T * max(1, steps.N))
        for symbol in cell.own_symbols:
            constants["d" + symbol] = as_column(np.zeros_like(weights[symbol]), cell)
        arrays = dict(recorded.arrays)
        if apart and not chain.recurrent:
            arrays[f"{cell.recurrent_state}_in"] = steps.aligned(f"{cell.recurrent_state}_prev")
        self.constants = constants
        # What the steps have recorded, (T, N, ·), by the name that formulas have for it.
        recorded_arrays = Binding(self.chain, steps.batch, steps.direction.reverse, arrays, constants)
        self.recorded: dict[str, Array] = {}
        for _, slots, _ in self.calls:
            for slot in slots:
                if recorded_arrays.has(slot):
                    self.recorded[slot.name] = recorded_arrays.aligned(slot)
        # Arrays that hold local derivatives before a step comes.
        run = Run(steps.direction, recorded, steps.binding.on(dict(recorded.arrays), constants))
        layer.open_backward(run, None, [None] * len(cell.states))
        self.gradients = run.gradients.arrays
        if cell.has_partials:
            for block in run.binding.blocks(self.gradients["da"][0].nbytes, True):
                run.binding.run_partials(block)

    def width(self, name: str) -> int:
        """Return the width of a gradient, by the name of a formula's argument."""
        slot = self.chain.place(name)
        if slot.block is not None:
            return int(slot.block.stop - slot.block.start)
        return int(self.gradients[slot.array].shape[2])

    def new(self, k: int, Q: int) -> StackedStep:
        """Return step k with room for Q gradients of each sequence that has it; `after` is to be filled."""
        n = self.counts[k]
        arrays: dict[str, Array] = {}
        after: list[Array] = []
        before: list[Array] = []
        inner: Array | None = None
        columns = self.steps.cell.columns
        for name, width, kind in self._kinds:
            # Each array twice: as formulas have it, (rows, n * Q, width), and as a stack, (rows, n, Q, width).
            count = 2 if kind == "state" else 1
            if columns:
                rows = np.empty((count, width, n, Q), self.dtype)
                arrays[name] = rows.reshape(count, width, n * Q).swapaxes(1, 2)
                rows = rows.transpose(0, 2, 3, 1)
            else:
                rows = np.empty((count, n, Q, width), self.dtype)
                arrays[name] = rows.reshape(count, n * Q, width)
            if kind == "state":
                rows[0] = 0
                before.append(rows[0])
                after.append(rows[1])
            elif kind == "inner":
                rows[...] = 0
                inner = rows[0]
            elif kind == "partials":
                rows[0] = self.gradients[name][k, :n, None]
        beside = np.zeros((n, Q, self.steps.widths[0]), self.dtype) if self.beside else None
        return StackedStep(k, after, before, inner, after, arrays, self.chain, (n, Q), beside)

    @functools.cached_property
    def _kinds(self) -> list[tuple[str, int, str]]:
        """Name, width and use of each gradient array of a step."""
        cell, found = self.steps.cell, list[tuple[str, int, str]]()
        into = f"d{cell.recurrent_state}_in"
        for name, array in self.gradients.items():
            written = name == into or name.endswith("_new") or not cell.has_partials
            written = written and name[1:] not in cell.from_loss
            kind = "state" if name[1:] in cell.states else "inner" if name == into else "" if written else "partials"
            found.append((name, array.shape[2], kind))
        if self.apart and into not in self.gradients:
            found.append((into, self.steps.widths[0], "inner"))
        return found

    def run(self, step: StackedStep) -> None:
        """Run the cell's backward formulas, and what masks do, on the gradients in `step.after`."""
        n, Q = step.count
        if len(step.after) > 1:
            step.entered = [step.after[0], *(array.copy() for array in step.after[1:])]
        scratch = np.empty((n * Q, self.chain.hidden), self.dtype)
        if self.steps.cell.columns:
            scratch = np.empty((self.chain.hidden, n * Q), self.dtype).T
        work = self.chain.work(self.steps.recorded.given, n * Q, self.dtype)
        for formula, slots, columns in self.calls:
            arguments: list[Array] = []
            for slot in slots:
                recorded = self.recorded.get(slot.name)
                if recorded is not None:
                    row = recorded[step.k, :n]
                    # Each row Q times; that of one sequence needs no copy, it is spread by a stride of 0.
                    if not columns:
                        row = np.broadcast_to(row[:, None], (n, Q, row.shape[1])).reshape(n * Q, row.shape[1])
                    elif n == 1:
                        row = np.broadcast_to(row.T, (row.shape[1], Q))
                    else:
                        row = np.broadcast_to(row.T[:, :, None], (row.shape[1], n, Q)).reshape(row.shape[1], n * Q)
                elif slot.name == "scratch_t":
                    row = scratch.T if columns else scratch
                elif slot.when == "fixed":
                    row = self.constants[slot.name]
                elif slot.when == "given":
                    row = self._given(slot.name, n, Q)
                elif slot.when == "work":
                    row = work[slot.array]
                elif step.beside is not None and slot.when == "before" and formula in self.chain.paths:
                    row = step.beside.reshape(n * Q, -1)
                    row = row.T if columns else row
                else:
                    row = step.arrays[slot.array][1 if slot.when == "after" else 0]
                    row = row if slot.block is None else row[:, slot.block]
                    row = row.T if columns else row
                arguments.append(stacked(row, slot.stack, columns) if slot.stack else row)
            formula(*arguments)
        if step.beside is not None and not self.apart:
            step.own = step.before[0].copy()
            step.before[0] += step.beside

    def _given(self, name: str, n: int, Q: int) -> Array:
        """Return a given array for each column, or room for what its gradients are added to."""
        given = self.steps.recorded.given
        if name in given:
            return np.repeat(given[name][:n], Q, axis=0)
        return np.zeros((n * Q, *given[name[1:]].shape[1:]), self.dtype)

    def carry(
        self,
        direct: Array,
        losses: Collection[int] | None = None,
        until: int | None = None,
    ) -> Iterator[tuple[StackedStep, NDArray[np.intp]]]:
        """Carry what enters at each loss step backward, each by itself; yield every step k and its loss steps, (Q,),
        the newest last: which t each gradient of the stack belongs to.

        `direct`, (T, N, S), is as from `direct_gradients`, `losses` are the loss steps t to carry, all where left out,
        `until` the last k to visit. Cost: T (T + 1) / 2 columns through the backward step, for each sequence; memory
        for one step's at a time.
        """
        parts = self.steps.split(direct)
        chosen, Q = np.empty(len(self.order), np.intp), 0
        last: StackedStep | None = None
        for k in self.order:
            enters = losses is None or k in losses
            if enters:
                chosen[Q] = k
                Q += 1
            if Q:
                step = self.new(k, Q)
                n = self.counts[k]
                for index, after in enumerate(step.after):
                    if last is not None:
                        old = last.before[index]
                        after[: len(old), : old.shape[1]] = old[:n]
                        after[len(old) :] = 0  # sequences that end here
                    if enters:
                        after[:, -1] = parts[index][k, :n]
                self.run(step)
                yield step, chosen[:Q]
                last = step
            if k == until:
                return

    # ------------------------------------------------------------------------------------------------ paths

    @property
    def path_names(self) -> tuple[str, ...]:
        """The ways by which a gradient gets from the state after a step to the state before it.

        Of a cell with several states: by which of them it arrives. Of a cell with one: "leak", which passes no weight,
        and the gates, by whose rows of W_hh it comes; gates whose rows act on another array than the state share one
        way, under their names joined by "+". At the end, where attention stands before the cell, "attention": by the
        scores of the memory, and the gate of its context.
        """
        cell, beside = self.steps.cell, (self.beside,) if self.beside else ()
        if len(cell.states) > 1:
            return (*cell.states, *beside)
        split = [
            gate for gate, _, _, source in self.steps.gate_blocks("hidden") if source == f"{cell.recurrent_state}_in"
        ]
        rest = [gate for gate in cell.gate_names if gate not in split]
        gates = [gate for gate in cell.gate_names if gate in split]
        return (LEAK, *gates, *(["+".join(rest)] if rest else []), *beside)

    def paths(self, step: StackedStep) -> list[list[Array]]:
        """Return dL/ds_{k-1} path by path, in the order of `path_names`; the paths add up to it. Needs `apart`.

        Returns
        -------
        list of list of ndarray, (n, Q, ·)
            For each path one array for each state.
        """
        cell = self.steps.cell
        if len(cell.states) > 1:
            kept = step.before if step.own is None else [step.own, *step.before[1:]]
            ways = [
                [array if i == j else np.zeros_like(array) for j, array in enumerate(kept)] for i in range(len(kept))
            ]
            if step.beside is not None:
                ways.append([step.beside, *(np.zeros_like(array) for array in kept[1:])])
            return ways
        gradient = step.gradient(cell.hidden_gradient + "_t")
        through = {gate: gradient[:, :, columns] @ weight for gate, weight, columns in self.split}
        found = [through[gate] for gate in cell.gate_names if gate in through]
        if step.inner is not None and len(found) < len(cell.gate_names):
            found.append(step.inner)
        mask = self.steps.recorded.masks.recurrent
        if mask is not None:
            found = [array * mask[: step.count[0], None] for array in found]
        beside = [] if step.beside is None else [[step.beside]]
        return [[step.before[0]], *([array] for array in found), *beside]
