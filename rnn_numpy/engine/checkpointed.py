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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.binding import block_size
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.keeping import FORWARD_DONE, THROUGH, InMemory
from rnn_numpy.engine.parts import NONE, Masks
from rnn_numpy.engine.trace import CallRecord, GradientPass, LayerTrace, Step
from rnn_numpy.engine.walk import Direction, Down, Up
from rnn_numpy.errors import DTypeError, OptionError

if TYPE_CHECKING:
    from rnn_numpy.engine.recurrent import Pass, Recurrent, Run

Array = NDArray[Any]
Direct = Callable[["Section", int, "Run"], tuple[Any, Array | None]]
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
        keeper: InMemory,
    ) -> None:
        super().__init__(masks, edge)
        self.keeper = keeper
        least = block_size(edge.batch.N * len(layer.cell.slabs) * layer.hidden_size * params.dtype.itemsize)
        self.size = -(-checkpoint // least) * least
        self.sections: dict[str, Section] = {}
        self.kept: dict[tuple[str, int], Run] = {}  # the newest last
        self._layer, self._x, self._params, self._masks = layer, x, params, state_masks

    def section(self, direction: Direction, signal: Array) -> Section:
        """Return one direction of one layer, to begin with; `signal` is what a layer that is not the first reads."""
        masks = self._masks.get(direction.name, NONE)
        x = self._x if direction.layer == 0 else signal
        made = Section(self._layer, self.edge, direction, x, self._params, masks, self.size, self.kept, self.keeper)
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
        t, T = arguments.integer("CheckpointedTrace.block", "t", t), len(self)
        section, step = self.sections[name], t + T if t < 0 else t
        for index, steps in enumerate(section.blocks):
            if step in steps:
                return section.again(index).trace
        if 0 <= step < T:
            raise IndexError(
                f"CheckpointedTrace.block: no sequence has step t = {t} of T = {T}: the longest has {section.span} "
                "steps"
            )
        raise IndexError(f"CheckpointedTrace.block: t must be in [-T, T), T = {T} steps; got {t}")

    @property
    def layers(self) -> Any:
        """There is no record of all steps: what asks for one is told so."""
        raise OptionError(
            "a CheckpointedTrace has no record of all steps at once: trace[t] is a step, trace.block(t) the record of "
            "the block with step t; for what reads a whole record, run forward without checkpoint"
        )

    def __getattr__(self, name: str) -> Any:
        # What a Trace has of all steps, trace.h say, it has of a block, once there is one.
        sections = self.__dict__.get("sections")
        if sections and not name.startswith("_"):
            known = sections[next(iter(sections))].layer.cell
            if name.removeprefix("d") in {"x", "a", "h", *known.states, *known.records, *known.gate_names}:
                raise AttributeError(
                    f"a CheckpointedTrace has no {name} of all steps at once: trace[t].{name} is that of a step, "
                    f"trace.block(t).{name} that of the block with step t"
                )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getitem__(self, t: int) -> Step:
        if not isinstance(t, int | np.integer):
            raise DTypeError(f"CheckpointedTrace: trace[t] is a step, t an int; got {t!r}. See trace.block(t, name)")
        record = self.block(t)
        return record[t - record.first if t >= 0 else t + len(self) - record.first]

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
        keeper: InMemory,
    ) -> None:
        self.layer, self.edge, self.x, self.params, self.masks, self.kept = layer, edge, x, params, masks, kept
        self.keeper = keeper
        self.direction = replace(direction, row=0)
        batch = edge.batch
        self.span = span = batch.T if batch.lengths is None else int(batch.lengths[0])
        starts = range(0, span, size)
        self.blocks = [range(start, min(start + size, span)) for start in starts]
        if direction.reverse:  # as the driver's own, from the end
            self.blocks = [range(max(0, span - start - size), span - start) for start in starts]
        self.edges = [edge.window(steps) for steps in self.blocks]
        rows, dtype, whole = len(self.blocks) + 1, params.dtype, Batch(1, batch.N, None)
        self.marks = [
            keeper.new(f"{state}_{direction.name}", whole, rows, width, dtype, False)
            for state, width in edge.widths.items()
        ]

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

    def forward(self, number: int, initial: Sequence[Array | None], output: Array | None) -> Iterator[int]:
        """Run all blocks that are not done; writes the marks, and the outputs (T, N, H), where wanted. Yields t after
        each step. This is section `number` of the pass.
        """
        for mark, state_0 in zip(self.marks, initial, strict=True):
            mark[0] = 0 if state_0 is None else state_0
        blocks = len(self.blocks)
        for index in range(self.keeper.done(0, number, blocks), blocks):
            run = self.open(index)
            yield from self.layer.forward_loop(run)
            binding = run.binding
            for mark, state in zip(self.marks, self.layer.cell.states, strict=True):
                mark[index + 1] = binding.arrays[state][binding.exit]
            if output is not None:
                self.rows(output, index)[...] = binding.output(binding.arrays[self.layer.cell.states[0]])
            self._keep(index, run)
            words = f"forward pass of {self.direction.name}: {index + 1} of {blocks} blocks"
            self.keeper.save((0, number, index + 1), words, dict)

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

    def backward(self, run: Pass, number: int, direct: Direct, account: Account, dx: Array) -> Iterator[int]:
        """Run all blocks backward that are not done, newest first; yields t after each step. Writes dx, (T, N, ·).

        `direct` returns a block's loss, and what it says of the block's outputs, (K, N, H).
        """
        layer, states, reverse = self.layer, self.layer.cell.states, self.direction.reverse
        own = layer.own(layer.params.twin(memory.empty(layer.params.flat.shape, layer.params.dtype)), self.direction)
        blocks = len(self.blocks)
        done = self.keeper.done(1, number, blocks)
        if done == blocks:
            return
        index = blocks - 1 - done
        goes_on = self._in_both(index) if done else np.zeros((self.edge.batch.N, 1), bool)
        newer = self.again(index)
        value, loss = direct(self, index, newer)
        while True:
            gradients = newer.trace.latest = GradientPass()
            at = layer.bound(newer.trace, self.direction, self.edges[index], gradients, own)
            layer.open_backward(at, loss, [None] * len(states))
            arrays, binding = gradients.arrays, at.binding
            exists, shown = binding.batch.exists()[0], self.is_there(index)
            for state, carry in zip(states, account.carried, strict=True):
                row = arrays["d" + state]
                added = np.where(exists, row[binding.exit] + carry, np.where(shown, carry, 0))
                row[binding.exit] = np.where(goes_on, carry, added)
            for name, drecord in run.drecords.items():
                arrays["d" + name][...] = self.rows(drecord, index)
            said = value
            if index:
                older = self.again(index - 1)
                value, loss = direct(self, index - 1, older)
                # What a state at the border gets from the loss comes first, as it does within a block.
                goes_on = self._in_both(index - 1)
                if loss is not None:
                    row, border = arrays["d" + states[0]], loss[0 if reverse else -1]
                    ended = ~exists & shown & (not reverse)
                    new = np.where(goes_on, border, row[binding.entry])
                    row[binding.entry] = np.where(ended, border + new, new)
            run.at = [at]
            yield from layer.backward_loop(at)
            gradients.reached, binding.constants = None, {}
            for state, carry in zip(states, account.carried, strict=True):
                carry[...] = np.where(exists, arrays["d" + state][binding.entry], carry)
            self.rows(dx, index)[...] = layer.close_backward(at)
            account.loss = account.loss + said
            account.add(number, layer.own(account.total, self.direction), own, at.ways)
            words = f"backward pass of {self.direction.name}: {blocks - index} of {blocks} blocks"
            self.keeper.save((1, number, blocks - index), words, account.arrays)
            if not index:
                return
            newer, index = older, index - 1

    def _in_both(self, index: int) -> NDArray[np.bool_]:
        """Return which sequences have steps in a block and in the one after it, (N, 1)."""
        both: NDArray[np.bool_] = self.edges[index].batch.exists()[0] & self.edges[index + 1].batch.exists()[0]
        return both


class Account:
    """What a backward pass adds up, section by section and block by block: in a folder all of it is saved.

    Attributes
    ----------
    total : Parameters
        Gradients of the parameters.
    initial : list of ndarray, (layers * directions, N, H)
        For each state what its gradient is before the oldest block that is done; in the end that of the initial one.
    carried : list of ndarray, (N, H)
        The rows of these that belong to the present section.
    every : list of dict
        The ways of given arrays, by section.
    loss : scalar
    """

    def __init__(self, layer: Recurrent, edge: Edge, found: Mapping[str, Array]) -> None:
        self.total, self.states, dtype = layer.params.zeros_like(), layer.cell.states, layer.params.dtype
        self.initial = [np.zeros((edge.rows, edge.batch.N, width), dtype) for width in edge.widths.values()]
        self.carried: list[Array] = []
        self.every: list[dict[str, dict[str, Array]]] = [{} for _ in range(edge.rows)]
        self.loss: Any = 0.0
        if found:
            self.total.flat[...], self.loss = found["sums"], found["loss"].item()
            self.initial = [np.array(found[f"d{state}_0"]) for state in self.states]
        for key in found:
            if "/" in key:
                number, name, way = key.split("/")
                self.every[int(number)].setdefault(name, {})[way] = found[key]

    def come_to(self, row: int, finals: Sequence[Array | None] | None) -> None:
        """Begin with a section, with the gradients of its final states, or go on with it."""
        self.carried = [array[row] for array in self.initial]
        for carry, final in zip(self.carried, finals or (), strict=finals is not None):
            carry[...] = 0 if final is None else final[row]

    def add(
        self, number: int, sums: dict[str, Array], own: dict[str, Array], ways: Mapping[str, Mapping[str, Array]]
    ) -> None:
        """Add what a block has."""
        for name, array in own.items():
            sums[name] += array
        for name, found in ways.items():
            known = self.every[number].setdefault(name, {})
            for way, array in found.items():
                known[way] = known[way] + array if way in known else array

    def arrays(self) -> dict[str, Array]:
        """Return all by name."""
        named = {f"d{state}_0": array for state, array in zip(self.states, self.initial, strict=True)}
        for number, by_name in enumerate(self.every):
            for name, ways in by_name.items():
                named |= {f"{number}/{name}/{way}": array for way, array in ways.items()}
        return {"sums": self.total.flat, "loss": np.asarray(self.loss), **named}


def climb(
    layer: Recurrent, run: Pass, x: Array, initial: Sequence[Array | None], outputs: bool, finite: str | None
) -> Iterator[int]:
    """The whole forward pass of a `CheckpointedTrace`, as `Recurrent._climb` is that of a `Trace`; the last layer's
    output is kept where `outputs`.
    """
    trace: CheckpointedTrace = run.trace
    edge, cell, dtype, keeper = trace.edge, layer.cell, layer.params.dtype, trace.keeper
    batch, columns = edge.batch, cell.columns and cell.states[0] not in cell.rows
    width = next(iter(edge.widths.values()))
    finals = [np.empty((edge.rows, batch.N, size), dtype) for size in edge.widths.values()]
    walk = Up(layer.stack, edge.factors, x)
    for number, direction in enumerate(walk):
        section = trace.section(direction, walk.signal)
        output = None
        if outputs or direction.layer < layer.num_layers - 1:
            output = keeper.new(f"output_{direction.name}", batch, batch.T, width, dtype, columns)
        yield from section.forward(number, [of_row(state, direction) for state in initial], output)
        for final, mark in zip(finals, section.marks, strict=True):
            final[direction.row] = mark[-1]
        if finite is not None:
            for state, mark in zip(cell.states, section.marks, strict=True):
                label = f"state {state} of {direction.name} every {trace.size} steps"
                arguments.finite(finite, label, batch.unsorted(mark, 1), "block, n, unit")
        walk.give(output if output is not None else np.empty((batch.T, batch.N, 0), dtype))
    if keeper.found < FORWARD_DONE:
        keeper.save(FORWARD_DONE, "the forward pass is through", dict, now=True)
    h_n = edge.states_out(finals)
    trace.h_n = h_n[0] if len(h_n) == 1 else h_n
    output = None
    if outputs:
        output = edge.signal_out(walk.signal)
        if edge.packed is None:
            output = output.view()
            output.flags.writeable = False
    run.results.append((output, trace.h_n, trace))


def bptt(layer: Recurrent, run: Pass, result: Callable[..., Any]) -> Iterator[int]:
    """The whole backward pass of a `CheckpointedTrace`, as `Recurrent.bptt` is that of a `Trace`."""
    trace: CheckpointedTrace = run.trace
    edge, keeper, batch = trace.edge, trace.keeper, trace.edge.batch
    said = [run.doutput, *run.dfinals, *run.drecords.values(), "function" if run.loss is not None else ""]
    keeper.begin_backward(said)
    account = Account(layer, edge, keeper.arrays)
    walk = Down(layer.stack, edge.factors, run.doutput)
    for number, direction in enumerate(walk):
        section = trace.sections[direction.name]

        def direct(section: Section, index: int, block: Run, place: Direction = direction) -> tuple[Any, Array | None]:
            if run.loss is not None and place.layer == layer.num_layers - 1:
                return _asked(run.loss, section, index, block)
            return 0.0, None if walk.signal is None else section.rows(walk.signal, index)[:, :, place.columns]

        begun = keeper.done(1, number, 1) > 0
        account.come_to(direction.row, None if begun else run.dfinals)
        dx = keeper.new(f"dx_{direction.name}", batch, batch.T, section.x.shape[2], layer.params.dtype, False, phase=1)
        yield from section.backward(run, number, direct, account, dx)
        walk.give(dx)
    if keeper.found < THROUGH:
        keeper.save(THROUGH, "both passes are through", account.arrays, now=True)
    keeper.end()
    grads = account.total if run.grads is None else run.grads
    if grads is not account.total:
        grads.flat += account.total.flat
    names = [f"d{state}_0" for state in layer.cell.states]
    answer = result(
        edge.signal_out(walk.signal), dict(zip(names, edge.states_out(account.initial), strict=True)), grads
    )
    if run.loss is not None:
        answer.loss = account.loss
    if edge.given:
        layer.give_back(edge, account.every, answer)
    run.results.append(answer)


def _asked(loss: Callable[..., Any], section: Section, index: int, block: Run) -> tuple[Any, Array | None]:
    """Return what a function says of a block's outputs, both in the caller's order: a loss, 0 without, and doutput."""
    edge, binding, steps = section.edges[index], block.binding, section.blocks[index]
    where = f"{type(section.layer).__name__}.backward"
    output = edge.signal_out(binding.output(binding.arrays[section.layer.cell.states[0]])).view()
    output.flags.writeable = False
    said = loss(steps, output)
    if isinstance(said, tuple) and len(said) != 2:
        raise OptionError(
            f"{where}: doutput({steps}, output) must return dL/doutput, or (loss, dL/doutput); got {len(said)} results"
        )
    value, dblock = said if isinstance(said, tuple) else (0.0, said)
    return value, edge.like_output(where, f"doutput({steps}, output)", dblock)


def of_row(states: Array | None, direction: Direction) -> Array | None:
    """Return one direction's rows of states, (layers * directions, N, H)."""
    return None if states is None else states[direction.row]
