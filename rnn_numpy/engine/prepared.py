"""Passes that are prepared: of a small call most of the time is set-up, not formulas.

A layer keeps the arrays of a small pass, and the arguments of all its steps, until the next call of the same sizes,
which writes into them what depends on that call: weights, x, states, gradients. It does so only if by then nobody views
their memory, one block whose reference count says it (see `rnn_numpy.core.memory`); a trace does, and all that is read
from one.

Prepared are passes of the driver's own way: without masks, lengths or given arrays, and recorded. The formulas are
called as always, by the driver's loops, on arrays of the same memory order: all numbers are those of the ordinary pass,
bit for bit.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.batch import SMALL, summed
from rnn_numpy.engine.binding import Binding, as_column, constants_of
from rnn_numpy.engine.trace import GradientPass, LayerTrace
from rnn_numpy.engine.walk import Direction

if TYPE_CHECKING:
    from rnn_numpy.engine.edge import Edge
    from rnn_numpy.engine.recurrent import Recurrent, Run

Array = NDArray[Any]

STEPS = 128  # of a pass that is prepared, at most
ENTRIES = 2**15  # of the layer's parameters
BYTES = 2**23  # of the arrays of one direction
MOST = 8  # passes that a layer keeps for each direction
KEPT = 2**25  # bytes of all passes that a layer keeps
CALLS = 8  # of one size that find no pass free, until one is kept; as many more, until a second one is
TURNS = 32  # calls that find no pass free, until one gives way to another


class Prepared:
    """One direction of one layer: arrays, arguments, and what is to be done before and after the steps."""

    def __init__(self, layer: Recurrent, direction: Direction, edge: Edge, x: Array) -> None:
        cell, batch, states = layer.cell, edge.batch, layer.cell.states
        # The ordinary pass says what there is to be.
        ordinary = layer.open_forward(direction, edge, x, [None] * len(states), params=layer.params.copy())
        back = layer.bound(ordinary.trace, direction, edge, GradientPass(), {})
        layer.open_backward(back, None, [None] * len(states))
        chain = ordinary.trace.chain
        forward_names, backward_names = list(ordinary.trace.arrays), list(back.gradients.arrays)
        whole, arrays = memory.together(
            {"params": layer.params.flat, **ordinary.trace.arrays, **back.gradients.arrays, "bias": ordinary.bias}
        )
        self.block, self.size = whole.base, whole.nbytes
        self.shapes, self.chain, self.direction, self.batch = layer.params.shapes, chain, direction, batch
        self.params = layer.params.twin(arrays["params"])
        self.bits = arrays["params"].view(f"u{min(8, arrays['params'].itemsize)}")
        self.bits[...] = 0  # zeros are what all that follows from them is made of, at first
        self.weights = layer.by_symbol(self.params, direction)
        self.bias = arrays["bias"]
        self.bias[...] = 0
        self.with_bias = layer.bias
        self.arrays = {name: arrays[name] for name in forward_names}
        self.gradients = {name: arrays[name] for name in backward_names}
        self.arranged = Arranged(functools.partial(_arrangements, layer, direction, chain, batch.N), self.params)
        constants = [{"half": ordinary.binding.constants["half"], "one": ordinary.binding.constants["one"]}] * 2
        for index, turn in enumerate(("forward", "backward")):
            named = {name: array for (when, name), array in self.arranged.arrays.items() if when == turn}
            named |= {name: named["W_hh"][chain.scales[name[3:]]] for name in cell.constant_names}
            constants[index] = constants[index] | named
        if "b" in ordinary.binding.constants:
            constants[0]["b"] = as_column(self.bias, cell)
        self.binding = Binding(chain, batch, direction.reverse, self.arrays, constants[0])
        self.back = Binding(chain, batch, direction.reverse, {**self.arrays, **self.gradients}, constants[1])
        self.binding.ready["forward"] = [(formula, list(rows)) for formula, rows in self.binding.calls("forward")]
        self.back.ready["backward"] = [(formula, list(rows)) for formula, rows in self.back.calls("backward")]
        self.back.ready["partials"] = list(self.back.partials(range(batch.T)))
        ordinary.binding, ordinary.bias = self.binding, self.bias
        self.added = batch.repeated(self.bias, cell.columns)
        self.fill = layer.filling(ordinary, constants[0]["input"], self.added)
        self.entries = [self.arrays[state][self.binding.entry] for state in states]
        after = slice(self.back.after, self.back.after + batch.T)
        dstates = [self.gradients["d" + state] for state in states]
        self.dstates = [(each, each[after], each[self.back.entry], each[self.back.exit]) for each in dstates]
        self.sums = Sums(layer, self.back, constants[1]["input"])
        self.unused: list[bool] = []  # holds one entry as long as no backward pass has begun
        self.idle = 0  # views of the memory that are its own, once all are there

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # the copy of a trace has memory of its own

    def references(self) -> int:
        """Return how many views of the memory there are, here and elsewhere."""
        return sys.getrefcount(self.block)

    def is_free(self) -> bool:
        """Whether nobody else views the memory."""
        return self.references() == self.idle

    def forward(self, params: Parameters, x: Array, initial: Sequence[Array | None], run: type[Run]) -> Run:
        """Return a forward pass that has yet to run its steps; with its trace begins the time in which the memory is
        its own.
        """
        direction, weights = self.direction, self.weights
        trace = LayerTrace(direction, self.chain, self.batch)
        trace.arrays = {name: array.view() for name, array in self.arrays.items()}
        trace.weights = {name: array.view() for name, array in weights.items()}
        trace.prepared = self
        trace.reached = self.binding.span if direction.reverse else -1
        self.unused = [True]
        new = params.flat.view(self.bits.dtype)
        if (new != self.bits).any():
            self.bits[...] = new
            self.arranged.refresh()
            if self.with_bias:
                self.bias[...] = self.chain.cell.bias(weights["b_ih"], weights["b_hh"])
                if self.added.base is not self.block:
                    self.added[...] = self.bias
        self.arrays["x"][...] = x
        for entry, state_0 in zip(self.entries, initial, strict=True):
            entry[...] = 0 if state_0 is None else state_0[direction.row]
        return run(direction, trace, self.binding, prepared=self)

    def backward(
        self,
        recorded: LayerTrace,
        gradients: GradientPass,
        sums: dict[str, Array],
        doutput: Array | None,
        dfinals: Sequence[Array | None],
        run: type[Run],
    ) -> Run | None:
        """Return a backward pass that has yet to run its steps; None where there was one already."""
        if recorded.chain is not self.chain:
            return None
        try:
            self.unused.pop()  # of two threads, one
        except IndexError:
            return None
        gradients.arrays = {name: array.view() for name, array in self.gradients.items()}
        for index, (dfinal, (whole, from_loss, entry, last)) in enumerate(zip(dfinals, self.dstates, strict=True)):
            if index > 0 or doutput is None:
                whole.fill(0)
            else:
                from_loss[...] = doutput
                entry.fill(0)
            if dfinal is not None:
                last += dfinal
        gradients.reached = -1 if self.back.reverse else self.back.span
        return run(self.direction, recorded, self.back, gradients, sums, prepared=self)


class Sums:
    """What stands at the end of a backward pass: the products that sum over t and n."""

    def __init__(self, layer: Recurrent, back: Binding, weight_ih: Array) -> None:
        cell, batch, dtype = layer.cell, back.batch, layer.params.dtype
        self.copies: list[tuple[Array, Array]] = []
        flattened: dict[str, Array] = {}

        def flat(name: str) -> Array:
            if name not in flattened:
                array = back.aligned(name)
                found = flattened[name] = batch.flat(array)
                if not np.may_share_memory(found, array):  # gathered, as it must be anew each time
                    target = found.T.reshape(array.shape[2], batch.T, batch.N)
                    self.copies.append((target, array.transpose(2, 0, 1)))
            return flattened[name]

        self.products = [
            (flat(gradient)[:, columns].T, flat(source), name, rows)
            for gradient, columns, source, name, rows in layer.products(back.chain)
        ]
        self.biases: list[tuple[str, slice, slice]] = []
        if layer.bias:
            self.da = flat("da_t").T
            self.ones = np.ones(self.da.shape[1], dtype)
            for kind, name in (("input", "bias_ih"), ("hidden", "bias_hh")):
                self.biases += [(name, rows, columns) for rows, columns, _ in back.chain.blocks[kind]]
        self.da_in, self.weight_ih = flat(cell.input_gradient + "_t")[:, back.chain.span], weight_ih
        self.shape = (batch.T, batch.N, back.arrays["x"].shape[2])
        # Block by block, as in the ordinary pass.
        blocks = back.blocks(batch.N * len(cell.slabs) * layer.hidden_size * dtype.itemsize, False)
        steps = [(min(block[0], block[-1]), max(block[0], block[-1]) + 1) for block in blocks]
        self.rows = [slice(low * batch.N, high * batch.N) for low, high in steps]

    def write(self, sums: Mapping[str, Array]) -> Array:
        """Write the gradients of the parameters; return that of the input."""
        for target, source in self.copies:
            target[...] = source
        for left, right, name, rows in self.products:
            summed(left, right, sums[name][rows])
        if self.biases:
            db = self.da.dot(self.ones)
            for name, rows, columns in self.biases:
                sums[name][rows] = db[columns]
        dx = memory.empty(self.shape, self.ones.dtype if self.biases else self.da_in.dtype)
        flat_dx = dx.reshape(len(self.da_in), self.shape[2])
        for rows in self.rows:
            np.matmul(self.da_in[rows], self.weight_ih, out=flat_dx[rows])
        return dx


class Arranged:
    """Arrays that `make` puts together from entries of a vector, some of them halved: one gather makes all anew."""

    def __init__(self, make: Callable[[Parameters], dict[Any, Array]], params: Parameters) -> None:
        size, dtype = params.flat.size, params.dtype
        self.flat, self.arrays = params.flat, make(params)
        moved = {name: array for name, array in self.arrays.items() if not np.may_share_memory(array, self.flat)}
        self.gathered, found = memory.together(moved)
        self.arrays |= found
        # Which entry stands where, and halved or not, is seen on the numbers of the entries, and on ones.
        places, ones = make(params.twin(np.arange(size).astype(dtype))), make(params.twin(np.ones(size, dtype)))
        self.gathered[...] = 1
        for name, array in found.items():
            array[...] = ones[name]
        self.scale = self.gathered.real.copy() if (self.gathered != 1).any() else None
        self.gathered[...] = 0
        for name, array in found.items():
            array[...] = places[name] / ones[name]
        self.index = np.rint(self.gathered.real).astype(np.intp)
        self.refresh()

    def refresh(self) -> None:
        """Make the arrays from what the vector holds now."""
        if self.index.size:
            np.take(self.flat, self.index, out=self.gathered, mode="clip")
            if self.scale is not None:
                self.gathered *= self.scale


def _arrangements(
    layer: Recurrent, direction: Direction, chain: Any, batch: int, params: Parameters
) -> dict[Any, Array]:
    """Return the weights as the formulas and the products of both passes read them."""
    cell, weights = chain.cell, layer.by_symbol(params, direction)
    found: dict[Any, Array] = {}
    for turn, halved in (("forward", True), ("backward", False)):
        constants = constants_of(chain, weights, batch, halved=halved)
        for name in ("W_hh", *(extra.symbol for extra in cell.parameters.values())):
            found[turn, name] = constants[name]
        found[turn, "input"] = cell.arranged("input", weights["W_ih"], halved)
    weight = found["forward", "input"]
    if cell.columns and batch > 1 and weight.size < SMALL:
        found["forward", "input"] = np.asfortranarray(weight)
    return found


class Shelf:
    """The prepared passes of a layer. A copy of the layer has a shelf of its own."""

    def __init__(self) -> None:
        self.passes: dict[Any, list[Prepared]] = {}
        self.missed: dict[Any, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Shelf, ()

    def __copy__(self) -> Shelf:
        return Shelf()

    def begin(
        self,
        layer: Recurrent,
        direction: Direction,
        edge: Edge,
        params: Parameters,
        x: Array,
        initial: Sequence[Array | None],
        run: type[Run],
    ) -> Run | None:
        """Return a forward pass in prepared memory; None where none is free."""
        chain = layer.cell.chain(layer.hidden_size)
        if not memory.COUNTED or memory.is_poisoned():
            return None
        key = direction.name, x.shape, params.dtype.char, chain, layer.bias
        ready = self.passes.get(key, [])
        for _ in range(len(ready)):
            try:
                found = ready.pop()  # nobody else's, as long as it is not in the list
            except IndexError:
                break
            if found.direction is not direction or found.shapes != params.shapes:
                continue  # of a layer that was changed: given up
            at = found.forward(params, x, initial, run) if found.is_free() else None
            ready.insert(0, found)
            if at is not None:
                return at
        made = self._new(key, layer, direction, edge, x)
        return None if made is None else made.forward(params, x, initial, run)

    def _new(self, key: Any, layer: Recurrent, direction: Direction, edge: Edge, x: Array) -> Prepared | None:
        if len(self.missed) > 1000:
            self.missed.clear()
        missed = self.missed[key] = self.missed.get(key, 0) + 1
        # By then what it would have saved is about what it costs to prepare.
        if missed not in (CALLS, 2 * CALLS) and missed % TURNS:
            return None
        size = _size(layer, edge)
        if not edge.batch.N or edge.batch.T > STEPS or size > BYTES or layer.params.flat.size > ENTRIES:
            return None
        if self._is_full(edge, size):
            if missed % TURNS:
                return None
            while self.passes and self._is_full(edge, size):
                self.passes.pop(next(iter(self.passes), None), None)
        found = Prepared(layer, direction, edge, x)
        found.idle = found.references()
        self.passes.setdefault(key, []).append(found)
        return found

    def _is_full(self, edge: Edge, size: int) -> bool:
        """Whether there is no room for one more pass of so many bytes."""
        kept = list(itertools.chain(*self.passes.values()))
        return len(kept) >= MOST * edge.rows or sum(one.size for one in kept) + size > KEPT


def _size(layer: Recurrent, edge: Edge) -> int:
    """Return about how many bytes the arrays of one direction have."""
    cell, T, N, H = layer.cell, edge.batch.T, edge.batch.N, layer.hidden_size
    width = layer.input_size + H * (2 * len(cell.slabs) + 2 * len(cell.states))
    for units in (*cell.records.values(), *cell.gradient_records.values()):
        width += layer.width_of(units, {})
    return math.prod((T + 1, N, width)) * layer.params.dtype.itemsize
