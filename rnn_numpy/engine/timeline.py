"""Which rows of the time-major arrays belong to which step: sorting by length, directions, memory order, and the
arguments of the formulas.

It knows arrays and their rows, no layer, no parameter, and no formula but the names of its arguments.

All arrays have shape (T, N, K) or (T+1, N, K). Where a cell's formulas work on columns, they lie in memory as
(T, K, N): the array is a view of that, with axes swapped.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory

Array = NDArray[Any]

BLOCK_BYTES = 2**19  # of one array; with the others that a formula touches, about a second-level cache


SMALL = 2**15  # entries of a weight matrix


class Plan:
    """The sizes of one call, and how its rows are sorted.

    Attributes
    ----------
    T, N : int
    lengths : ndarray of int, (N,), or None
        Sorted, longest first; None where every sequence has T steps.
    alive : ndarray of bool, (T, N), or None
        Whether step t exists in (sorted) sequence n.
    counts : list of int, or None
        Number of sequences that have a step t.
    sort, unsort : ndarray of int, (N,), or None
        Row n of the engine's arrays is row sort[n] of the caller's. None where both orders are the same.
    """

    def __init__(self, steps: int, batch: int, lengths: NDArray[np.intp] | None) -> None:
        self.T = steps
        self.N = batch
        self.sort: NDArray[np.intp] | None = None
        self.unsort: NDArray[np.intp] | None = None
        self.lengths = lengths
        self.alive: NDArray[np.bool_] | None = None
        self.counts: list[int] | None = None
        if lengths is not None:
            if np.any(lengths[1:] > lengths[:-1]):
                self.sort = np.argsort(-lengths, kind="stable")
                self.unsort = np.argsort(self.sort)
                self.lengths = lengths = lengths[self.sort]
            self.alive = lengths > np.arange(steps)[:, None]
            self.counts = [int(count) for count in self.alive.sum(axis=1)]

    def sorted(self, array: Array, axis: int) -> Array:
        """Return `array` with its batch axis in the engine's order."""
        return array if self.sort is None else array.take(self.sort, axis)

    def unsorted(self, array: Array, axis: int) -> Array:
        """Return `array` with its batch axis in the caller's order."""
        return array if self.unsort is None else array.take(self.unsort, axis)

    def flat(self, array: Array) -> Array:
        """Return (T, N, K) as (T * N, K); of padded sequences just the rows that are alive: products skip padding."""
        if self.alive is not None:
            return array[self.alive]
        if self.N == 1:
            return array[:, 0]
        if array.flags.c_contiguous:
            return array.reshape(self.T * self.N, array.shape[2])
        gathered = memory.empty((array.shape[2], self.T, self.N), array.dtype)
        gathered[...] = array.transpose(2, 0, 1)
        return gathered.reshape(array.shape[2], self.T * self.N).T

    def new(self, rows: int, width: int, dtype: np.dtype[Any], columns: bool) -> Array:
        """Return an array (rows, N, width) to be written, in rows or columns; zeros where padding will not be."""
        make = memory.empty if self.alive is None else memory.zeros
        return make((rows, width, self.N), dtype).swapaxes(1, 2) if columns else make((rows, self.N, width), dtype)

    def passing(self, rows: int, width: int, dtype: np.dtype[Any], columns: bool) -> Array:
        """Return an array as `new` does, of which all rows are the same memory: what the next step overwrites."""
        array = memory.empty((width, self.N) if columns else (self.N, width), dtype)
        all_rows = np.lib.stride_tricks.as_strided(array, (rows, *array.shape), (0, *array.strides))
        return all_rows.swapaxes(1, 2) if columns else all_rows

    def repeated(self, vector: Array, columns: bool) -> Array:
        """Return a vector (M,) so that it can be added to (N, M): in columns N times, (N, M), which saves spreading it
        at each step; else as it is, (1, M).
        """
        return np.repeat(vector[:, None], self.N, axis=1).T if columns and self.N > 1 else vector[None]

    def exists(self) -> Array:
        """Return whether step t exists in sequence n, as (T, N, 1)."""
        return np.ones((self.T, self.N, 1), bool) if self.alive is None else self.alive[:, :, None]

    def product(self, array: Array, weight: Array, out: Array, bias: Array | None, first: int) -> None:
        """Write weight @ array[t, n] + bias into out[t, n] for the steps `first`, `first` + 1, ... that `array` holds;
        (T', N, K), (M, K), (T', N, M), and `bias` as `repeated` returns it.
        """
        if self.counts is None:
            _product(array, weight, out, bias)
            return
        # Steps with the same number of sequences have a block product without padding.
        steps = range(first, first + len(array))
        for count, run in itertools.groupby(steps, self.counts.__getitem__):
            together = list(run)
            low, high = together[0] - first, together[-1] + 1 - first
            if count:
                added = None if bias is None else bias[:count]
                _product(array[low:high, :count], weight, out[low:high, :count], added)


def _product(array: Array, weight: Array, out: Array, bias: Array | None) -> None:
    steps, batch, width = out.shape
    if batch > 1 and out.strides[2] > out.strides[1]:  # columns
        products = out.swapaxes(1, 2)
        # One product for each step; of a small matrix that lies by columns it takes half the time.
        weight = np.asfortranarray(weight) if weight.size < SMALL else weight
        np.matmul(weight, array.swapaxes(1, 2), out=products)
        if bias is not None:
            products += bias.T
        return
    if batch == 1:
        rows, products = array[:, 0], out[:, 0]
    elif out.flags.c_contiguous:
        rows, products = array.reshape(steps * batch, array.shape[2]), out.reshape(steps * batch, width)
    else:
        rows, products = array, out
    np.matmul(rows, weight.T, out=products)
    if bias is not None:
        products += bias[0]


class Timeline:
    """The order of the steps in one direction, and which rows of a trace array belong to them."""

    def __init__(self, plan: Plan, reverse: bool, columns: bool) -> None:
        self.reverse = reverse
        self.columns = columns
        self.steps = plan.T
        self.span = plan.T if plan.lengths is None else int(plan.lengths[0])
        self.prev, self.new = (1, 0) if reverse else (0, 1)
        self.counts = plan.counts
        start: int | tuple[Array, Array] = 0
        end: int | tuple[Array, Array] = plan.T
        if plan.lengths is not None:
            end = (plan.lengths, np.arange(plan.N))
        # Indices into a state array: where the initial state goes, and where the final state is found.
        self.entry, self.exit = (end, start) if reverse else (start, end)

    def order(self, backward: bool) -> range:
        """The steps t as the forward or the backward pass visits them."""
        steps = range(self.span)
        return steps[::-1] if backward != self.reverse else steps

    def blocks(self, step_bytes: int, backward: bool) -> Iterator[range]:
        """Return the steps as a pass visits them, in blocks that keep their arrays in the cache."""
        order, size = self.order(backward), self.block_size(step_bytes)
        return (order[start : start + size] for start in range(0, len(order), size))

    def block_size(self, step_bytes: int) -> int:
        """Return the number of steps in a block."""
        return max(1, BLOCK_BYTES // max(1, step_bytes))

    def block_of(self, array: Array, block: range) -> Array:
        """Return the rows of a step array, or of a ring of fewer rows (see `rows`), that belong to `block`."""
        low, size = min(block), len(block)
        if len(array) == self.steps:
            return array[low : low + size]
        return array[-size:] if self.reverse else array[:size]

    def rows(self, array: Array, offset: int, backward: bool) -> Iterable[Array]:
        """Return row t + offset of `array` for each t of `order`: of each row the sequences alive at t.

        An array with fewer rows than steps is a ring: inference uses it for one block of steps after the other.
        """
        if self.columns:
            array = array.swapaxes(1, 2)
        flip = backward != self.reverse
        if len(array) < self.steps:
            return itertools.cycle(list(array[::-1] if flip else array))
        rows = array[offset : offset + self.span]
        if self.counts is None:
            return rows[::-1] if flip else rows
        counted = zip(rows, self.counts, strict=False)
        alive = [row[:, :n] for row, n in counted] if self.columns else [row[:n] for row, n in counted]
        return alive[::-1] if flip else alive

    def output(self, states: Array, plan: Plan) -> Array:
        """Return the states after each step, (T, N, H); a copy where a row past the end holds an initial state."""
        output = states[self.new : self.new + plan.T]
        return np.where(plan.exists(), output, 0) if plan.alive is not None and self.reverse else output

    def arguments(
        self, names: Sequence[str], arrays: Mapping[str, Array], constants: Mapping[str, Array], backward: bool
    ) -> Iterator[tuple[Array, ...]]:
        """Return for each step of `order` the arguments that have these names."""
        columns: list[Any] = []
        for name in names:
            if name in constants:
                columns.append(itertools.repeat(constants[name]))
            else:
                columns.append(self.rows(*self.place(name, arrays), backward))
        return zip(*columns, strict=False)

    def stacked(
        self, names: Sequence[str], arrays: Mapping[str, Array], constants: Mapping[str, Array], block: range
    ) -> Iterable[tuple[Array, ...]]:
        """Return the arguments that have these names for all steps of `block` at once; one by one where sequences end
        early.
        """
        places: list[tuple[Array, int | None]] = [
            (constants[name], None) if name in constants else self.place(name, arrays) for name in names
        ]
        if self.columns:
            places = [(array if offset is None else array.swapaxes(1, 2), offset) for array, offset in places]
        if self.counts is not None:
            alive = [(slice(None), slice(n)) if self.columns else slice(n) for n in self.counts]
            return [
                tuple(array if offset is None else array[offset + t][alive[t]] for array, offset in places)
                for t in block
            ]
        low, high = min(block), max(block) + 1
        return [tuple(array if offset is None else array[offset + low : offset + high] for array, offset in places)]

    def aligned(self, name: str, arrays: Mapping[str, Array]) -> Array:
        """Return the rows 0 ... T-1 that an argument's name means, (T, N, K)."""
        array, offset = self.place(name, arrays)
        return array[offset : offset + self.steps]

    def place(self, name: str, arrays: Mapping[str, Array]) -> tuple[Array, int]:
        """Return the array that an argument's name means, and the row of it that belongs to step 0."""
        stem, when, fresh = _parsed(name)
        if when == "prev":
            return arrays[stem], self.prev
        if when == "now":
            return arrays[stem], self.new
        if when == "in":  # what the recurrent product reads, and its gradient: the state itself without dropout
            return (arrays[name], 0) if name in arrays else (arrays[stem], self.prev)
        # With zoneout, what the formulas write is not yet the state.
        array = arrays.get(fresh)
        if array is None:
            array = arrays[stem]
        return array, self.new if len(array) > self.steps else 0


@functools.cache
def _parsed(name: str) -> tuple[str, str, str]:
    """Split an argument's name into the array's and what it says of the row; and the array's name under zoneout."""
    stem, _, when = name.rpartition("_")
    return stem, when, stem + "_new"


@functools.cache
def argument_names(formula: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a formula's arguments."""
    return tuple(inspect.signature(formula).parameters)
