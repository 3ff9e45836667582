"""Passes over more steps than memory has room for: states are kept at every K-th step alone, the rest is made again.

    forward     block after block of K steps, without a record; the states that each block begins with are kept
    backward    newest block first: its record is made again from these states, then its steps run backward

What a pass needs is the states of T / K blocks, the records of two of them at a time, the outputs of all layers but the
last, and, where there are masks, these. It costs one more forward pass, but for the newest blocks: their records are
kept, up to `KEPT_BYTES`.

Everything is what an ordinary pass computes, bit for bit, but sums over t: gradients of parameters and of given arrays
are added up block by block. Two things make it so. Blocks begin where the driver's own blocks of input products do: K
is rounded up to a multiple of these. And a state's gradient at the border of two blocks is added up in the ordinary
order, what the loss says first: for that the record of the next block is there already when a block is gone through. A
block whose states do not come out as they did in the forward pass is an error: x has changed since.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.binding import block_size
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import NONE, Masks
from rnn_numpy.engine.trace import CallRecord, GradientPass, LayerTrace, Step
from rnn_numpy.engine.walk import Direction, Down, Up
from rnn_numpy.errors import OptionError

if TYPE_CHECKING:
    from rnn_numpy.engine.recurrent import Pass, Recurrent, Run

Array = NDArray[Any]
KEPT_BYTES = 2**26  # of the newest records, at most


class CheckpointedTrace(CallRecord):
    """What `forward` keeps with `checkpoint=K`: for `backward`, and for looking at any step, which is made again.

    `trace[t]` is a step of the last layer's forward direction, `trace.block(t, "l0_reverse")` the record of all steps
    of the block that has step t. x is kept as it was handed in, not copied, and must not change.

    Attributes
    ----------
    size : int
        K, rounded up to a multiple of the driver's own blocks.
    h_n, masks, recurrent_masks, zoneout_masks
        As in a `Trace`.
    """

    def __init__(
        self,
        layer: Recurrent,
        edge: Edge,
        masks: list[Array] | None,
        x: Array,
        params: Parameters,
        state_masks: Mapping[str, Masks],
        checkpoint: int,
    ) -> None:
        super().__init__(masks, edge)
        least = block_size(edge.batch.N * len(layer.cell.slabs) * layer.hidden_size * params.dtype.itemsize)
        self.size = -(-checkpoint // least) * least
        self.sections: dict[str, Section] = {}
        self.kept: dict[tuple[str, int], Run] = {}  # the newest last
        self._layer, self._x, self._params, self._masks = layer, x, params, state_masks

    def section(self, direction: Direction, signal: Array) -> Section:
        """Return one direction of one layer, to begin with; `signal` is what a layer that is not the first reads."""
        masks = self._masks.get(direction.name, NONE)
        x = self._x if direction.layer == 0 else signal
        made = Section(self._layer, self.edge, direction, x, self._params, masks, self.size, self.kept)
        self.sections[direction.name] = made
        return made

    def block(self, t: int, name: str | None = None) -> LayerTrace:
        """Return the record of the block that has step t, of the last layer's forward direction or the one of a name;
        its first step is `block.first`.
        """
        names = [direction.name for directions in self._layer.stack for direction in directions]
        name = [one for one in names if not one.endswith("_reverse")][-1] if name is None else name
        arguments.one_of("CheckpointedTrace.block", "name", name, names)
        if name not in self.sections or self.h_n is None:
            raise OptionError("CheckpointedTrace.block: the forward pass is not through")
        section = self.sections[name]
        for index, steps in enumerate(section.blocks):
            if t in steps:
                return section.again(index).trace
        raise IndexError(f"CheckpointedTrace.block: t must be in [0, {section.span}); got {t}")

    def __getitem__(self, t: int) -> Step:
        record = self.block(t)
        return record[t - record.first]

    def __len__(self) -> int:
        return self.edge.batch.T

    def __repr__(self) -> str:
        return f"CheckpointedTrace: T = {len(self)}, states kept at every step t = 0, {self.size}, {2 * self.size}, ..."


class Section:
    """One direction of one layer in blocks, in the order in which its forward pass visits them.

    `marks` has for each state what each block begins with, and what the last one ends with, (blocks + 1, N, H).
    """

    def __init__(
        self,
        layer: Recurrent,
        edge: Edge,
        direction: Direction,
        x: Array,
        params: Parameters,
        masks: Masks,
        size: int,
        kept: dict[tuple[str, int], Run],
    ) -> None:
        self.layer, self.edge, self.x, self.params, self.masks, self.kept = layer, edge, x, params, masks, kept
        self.direction = replace(direction, row=0)
        batch = edge.batch
        self.span = span = batch.T if batch.lengths is None else int(batch.lengths[0])
        starts = range(0, span, size)
        self.blocks = [range(start, min(start + size, span)) for start in starts]
        if direction.reverse:  # as the driver's own, from the end
            self.blocks = [range(max(0, span - start - size), span - start) for start in starts]
        self.edges = [edge.window(steps) for steps in self.blocks]
        shape = len(self.blocks) + 1, batch.N
        self.marks = [np.zeros((*shape, width), params.dtype) for width in edge.widths.values()]

    def rows(self, array: Array, index: int) -> Array:
        """Return those rows of an array (T, N, ·) that belong to a block."""
        steps = self.blocks[index]
        return array[steps.start : steps.stop]

    def open(self, index: int) -> Run:
        """Return a block, to be run forward from the states that it begins with."""
        x = self.rows(self.x, index)
        if self.direction.layer == 0:
            x = np.array(self.edge.batch.sorted(x, 1), order="C")
        masks = self.masks
        if masks.zoneout:
            masks = Masks(masks.recurrent, {state: self.rows(kept, index) for state, kept in masks.zoneout.items()})
        initial = [mark[index][None] for mark in self.marks]
        run = self.layer.open_forward(self.direction, self.edges[index], x, initial, masks, self.params)
        run.trace.first = self.blocks[index].start
        return run

    def forward(self, initial: Sequence[Array | None], output: Array | None) -> Iterator[int]:
        """Run all blocks; writes the marks, and the outputs (T, N, H), where wanted. Yields t after each step."""
        for mark, state_0 in zip(self.marks, initial, strict=True):
            mark[0] = 0 if state_0 is None else state_0
        for index in range(len(self.blocks)):
            run = self.open(index)
            yield from self.layer.forward_loop(run)
            binding = run.binding
            for mark, state in zip(self.marks, self.layer.cell.states, strict=True):
                mark[index + 1] = binding.arrays[state][binding.exit]
            if output is not None:
                self.rows(output, index)[...] = binding.output(binding.arrays[self.layer.cell.states[0]])
            self._keep(index, run)

    def _keep(self, index: int, run: Run) -> None:
        """Keep the record of a block, and let go of the oldest ones where they are too many."""
        self._clean(index, run)
        self.kept[self.direction.name, index] = run
        size = sum(array.nbytes for array in run.binding.arrays.values())
        while self.kept and size * len(self.kept) > KEPT_BYTES:
            del self.kept[next(iter(self.kept))]

    def _clean(self, index: int, run: Run) -> None:
        """Leave of a block what a trace of the whole pass has: no states of sequences that are elsewhere."""
        run.binding.constants = {}
        for state in self.layer.cell.states:
            row = run.binding.arrays[state]
            row[0] = np.where(self.is_there(index), row[0], 0)

    def again(self, index: int) -> Run:
        """Return a block with its record, which is made again where it has not been kept."""
        if (self.direction.name, index) in self.kept:
            return self.kept[self.direction.name, index]
        run, steps = self.open(index), self.blocks[index]
        collections.deque(self.layer.forward_loop(run), maxlen=0)
        for mark, state in zip(self.marks, self.layer.cell.states, strict=True):
            if mark[index + 1].tobytes() != run.binding.arrays[state][run.binding.exit].tobytes():
                raise OptionError(
                    f"{type(self.layer).__name__}: steps {steps.start} to {steps.stop - 1} do not end as they did in "
                    "the forward pass; x must not change until backward is done (hand in a copy)"
                )
        self._clean(index, run)
        return run

    def is_there(self, index: int) -> NDArray[np.bool_]:
        """Return which sequences have a state before the first step of a block, (N, 1): what a trace shows there."""
        N, lengths = self.edge.batch.N, self.edge.batch.lengths
        return np.ones((N, 1), bool) if lengths is None else (lengths >= self.blocks[index].start)[:, None]

    def backward(
        self,
        run: Pass,
        direct: Callable[[Section, int, Run], Array | None],
        finals: Sequence[Array | None],
        sums: dict[str, Array],
        dx: Array,
    ) -> Generator[int, None, tuple[list[Array], dict[str, dict[str, Array]]]]:
        """Run all blocks backward, newest first; `direct` returns what the loss says of a block's outputs, (K, N, H).

        Adds to `sums`, writes dx; returns the gradients of the initial states and the ways of given arrays.
        """
        layer, states, reverse = self.layer, self.layer.cell.states, self.direction.reverse
        own = layer.own(layer.params.twin(memory.empty(layer.params.flat.shape, layer.params.dtype)), self.direction)
        ways: dict[str, dict[str, Array]] = {}
        carried = [
            np.zeros(mark.shape[1:], mark.dtype) if final is None else final
            for mark, final in zip(self.marks, finals, strict=True)
        ]
        goes_on, index = np.zeros((self.edge.batch.N, 1), bool), len(self.blocks) - 1
        newer = self.again(index)
        loss = direct(self, index, newer)
        while True:
            gradients = newer.trace.latest = GradientPass()
            at = layer.bound(newer.trace, self.direction, self.edges[index], gradients, own)
            layer.open_backward(at, loss, [None] * len(states))
            arrays, binding = gradients.arrays, at.binding
            exists, shown = binding.batch.exists()[0], self.is_there(index)
            for state, carry in zip(states, carried, strict=True):
                row = arrays["d" + state]
                added = np.where(exists, row[binding.exit] + carry, np.where(shown, carry, 0))
                row[binding.exit] = np.where(goes_on, carry, added)
            for name, drecord in run.drecords.items():
                arrays["d" + name][...] = self.rows(drecord, index)
            if index:
                older = self.again(index - 1)
                loss = direct(self, index - 1, older)
                # What a state at the border gets from the loss comes first, as it does within a block.
                goes_on = exists & older.binding.batch.exists()[0]
                if loss is not None:
                    row, border = arrays["d" + states[0]], loss[0 if reverse else -1]
                    ended = ~exists & shown & (not reverse)
                    new = np.where(goes_on, border, row[binding.entry])
                    row[binding.entry] = np.where(ended, border + new, new)
            run.at = [at]
            yield from layer.backward_loop(at)
            gradients.reached, binding.constants = None, {}
            carried = [
                np.where(exists, arrays["d" + state][binding.entry], carry)
                for state, carry in zip(states, carried, strict=True)
            ]
            self.rows(dx, index)[...] = layer.close_backward(at)
            for name, array in own.items():
                sums[name] += array
            for name, found in at.ways.items():
                known = ways.setdefault(name, {})
                for way, array in found.items():
                    known[way] = known[way] + array if way in known else array
            if not index:
                return carried, ways
            newer, index = older, index - 1


def climb(
    layer: Recurrent, run: Pass, x: Array, initial: Sequence[Array | None], outputs: bool, finite: str | None
) -> Iterator[int]:
    """The whole forward pass of a `CheckpointedTrace`, as `Recurrent._climb` is that of a `Trace`; the last layer's
    output is kept where `outputs`.
    """
    trace: CheckpointedTrace = run.trace
    edge, cell, dtype = trace.edge, layer.cell, layer.params.dtype
    batch, columns = edge.batch, cell.columns and cell.states[0] not in cell.rows
    width = next(iter(edge.widths.values()))
    finals = [np.empty((edge.rows, batch.N, size), dtype) for size in edge.widths.values()]
    walk = Up(layer.stack, edge.factors, x)
    for direction in walk:
        section = trace.section(direction, walk.signal)
        wanted = outputs or direction.layer < layer.num_layers - 1
        output = batch.new(batch.T, width, dtype, columns) if wanted else None
        yield from section.forward([None if state is None else state[direction.row] for state in initial], output)
        for final, mark in zip(finals, section.marks, strict=True):
            final[direction.row] = mark[-1]
        if finite is not None:
            for state, mark in zip(cell.states, section.marks, strict=True):
                label = f"state {state} of {direction.name} every {trace.size} steps"
                arguments.finite(finite, label, batch.unsorted(mark, 1), "block, n, unit")
        walk.give(output if output is not None else np.empty((batch.T, batch.N, 0), dtype))
    h_n = edge.states_out(finals)
    trace.h_n = h_n[0] if len(h_n) == 1 else h_n
    output = None
    if outputs:
        output = edge.signal_out(walk.signal)
        if edge.packed is None:
            output.flags.writeable = False
    run.results.append((output, trace.h_n, trace))


def bptt(layer: Recurrent, run: Pass, result: Callable[..., Any]) -> Iterator[int]:
    """The whole backward pass of a `CheckpointedTrace`, as `Recurrent.bptt` is that of a `Trace`."""
    trace: CheckpointedTrace = run.trace
    edge, states, dtype = trace.edge, layer.cell.states, layer.params.dtype
    batch, where = edge.batch, f"{type(layer).__name__}.backward"
    total = layer.params.zeros_like()
    initial = [np.empty((edge.rows, batch.N, width), dtype) for width in edge.widths.values()]
    every: list[dict[str, dict[str, Array]]] = []
    walk = Down(layer.stack, edge.factors, run.doutput)
    for direction in walk:
        section = trace.sections[direction.name]

        def direct(section: Section, index: int, block: Run, place: Direction = direction) -> Array | None:
            if run.loss is not None and place.layer == layer.num_layers - 1:
                return _asked(where, run.loss, section, index, block)
            return None if walk.signal is None else section.rows(walk.signal, index)[:, :, place.columns]

        dx = batch.new(batch.T, section.x.shape[2], dtype, False)
        finals = [None if final is None else final[direction.row] for final in run.dfinals]
        dinitial, ways = yield from section.backward(run, direct, finals, layer.own(total, direction), dx)
        for array, dstate_0 in zip(initial, dinitial, strict=True):
            array[direction.row] = dstate_0
        every.append(ways)
        walk.give(dx)
    grads = total if run.grads is None else run.grads
    if grads is not total:
        grads.flat += total.flat
    shares = dict(zip([f"d{state}_0" for state in states], edge.states_out(initial), strict=True))
    found = result(edge.signal_out(walk.signal), shares, grads)
    if edge.given:
        layer.give_back(edge, every, found)
    run.results.append(found)


def _asked(where: str, loss: Callable[..., Any], section: Section, index: int, block: Run) -> Array | None:
    """Return what a function says of a block's outputs, both in the caller's order."""
    edge, binding = section.edges[index], block.binding
    output = edge.signal_out(binding.output(binding.arrays[section.layer.cell.states[0]]))
    output = output.view()
    output.flags.writeable = False
    return edge.like_output(where, f"doutput({section.blocks[index]}, output)", loss(section.blocks[index], output))
