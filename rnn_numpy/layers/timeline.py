"""Which rows of the time-major arrays belong to which step: sorting by length, directions, and the arguments of the
formulas.

It knows arrays and their rows, no layer, no parameter, and no formula but the names of its arguments.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory

Array = NDArray[Any]

BLOCK_BYTES = 2**19  # of one array; with the others that a formula touches, about a second-level cache


class Plan:
    """The sizes of one call, and how its rows are sorted.

    Attributes
    ----------
    T, N : int
    lengths : ndarray of int, (N,), or None
        Sorted, longest first; None where every sequence has T steps.
    alive : ndarray of bool, (T, N), or None
        Whether step t exists in (sorted) sequence n.
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
        if lengths is not None:
            if np.any(lengths[1:] > lengths[:-1]):
                self.sort = np.argsort(-lengths, kind="stable")
                self.unsort = np.argsort(self.sort)
                self.lengths = lengths = lengths[self.sort]
            self.alive = lengths > np.arange(steps)[:, None]

    def sorted(self, array: Array, axis: int) -> Array:
        """Return `array` with its batch axis in the engine's order."""
        return array if self.sort is None else array.take(self.sort, axis)

    def unsorted(self, array: Array, axis: int) -> Array:
        """Return `array` with its batch axis in the caller's order."""
        return array if self.unsort is None else array.take(self.unsort, axis)

    def flat(self, array: Array) -> Array:
        """Return (T, N, K) as (T * N, K); of padded sequences just the rows that are alive: products skip padding."""
        return array.reshape(self.T * self.N, array.shape[2]) if self.alive is None else array[self.alive]

    def new(self, rows: int, width: int, dtype: np.dtype[Any]) -> Array:
        """Return an array (rows, N, width) to be written; zeros where padding will not be."""
        return (memory.empty if self.alive is None else memory.zeros)((rows, self.N, width), dtype)

    def exists(self) -> Array:
        """Return whether step t exists in sequence n, as (T, N, 1)."""
        return np.ones((self.T, self.N, 1), bool) if self.alive is None else self.alive[:, :, None]

    def product(self, array: Array, matrix: Array, out: Array, bias: Array | None = None) -> None:
        """Write array @ matrix + bias for all steps and rows into `out`; (T, N, K), (K, M), (T, N, M), (M,)."""
        if self.alive is not None:
            rows = array[self.alive].dot(matrix)
            out[self.alive] = rows if bias is None else rows + bias
            return
        rows, products = self.flat(array), out.reshape(self.T * self.N, matrix.shape[1])
        # In blocks, so that the bias is added to what is still in the cache.
        block = len(rows) if bias is None else max(512, BLOCK_BYTES // (products.shape[1] * products.itemsize))
        for start in range(0, len(rows), block or 1):
            part = products[start : start + block]
            np.dot(rows[start : start + block], matrix, out=part)
            if bias is not None:
                part += bias


class Timeline:
    """The order of the steps in one direction, and which rows of a trace array belong to them."""

    def __init__(self, plan: Plan, reverse: bool) -> None:
        self.reverse = reverse
        self.steps = plan.T
        self.span = plan.T if plan.lengths is None else int(plan.lengths[0])
        self.prev, self.new = (1, 0) if reverse else (0, 1)
        self.counts: list[int] | None = None
        start: int | tuple[Array, Array] = 0
        end: int | tuple[Array, Array] = plan.T
        if plan.alive is not None and plan.lengths is not None:
            self.counts = [int(count) for count in plan.alive.sum(axis=1)]
            end = (plan.lengths, np.arange(plan.N))
        # Indices into a state array: where the initial state goes, and where the final state is found.
        self.entry, self.exit = (end, start) if reverse else (start, end)

    def order(self, backward: bool) -> range:
        """The steps t as the forward or the backward pass visits them."""
        steps = range(self.span)
        return steps[::-1] if backward != self.reverse else steps

    def rows(self, array: Array, offset: int, backward: bool) -> Iterable[Array]:
        """Return row t + offset of `array` for each t of `order`: of each row the sequences alive at t."""
        rows = array[offset : offset + self.span]
        flip = backward != self.reverse
        if self.counts is None:
            return rows[::-1] if flip else rows
        alive = [row[:count] for row, count in zip(rows, self.counts, strict=False)]
        return alive[::-1] if flip else alive

    def output(self, states: Array, plan: Plan) -> Array:
        """Return the states after each step, (T, N, H); a copy where a row past the end holds an initial state."""
        output = states[self.new : self.new + plan.T]
        return np.where(plan.exists(), output, 0) if plan.alive is not None and self.reverse else output

    def columns(
        self, formula: Callable[..., None], arrays: Mapping[str, Array], constants: Mapping[str, Array], backward: bool
    ) -> list[Any]:
        """Return for each argument of `formula` what it is at the steps of `order`, as an iterable."""
        columns: list[Any] = []
        for name in _argument_names(formula):
            if name in constants:
                columns.append(itertools.repeat(constants[name]))
            else:
                columns.append(self.rows(*self._place(name, arrays), backward))
        return columns

    def blocks(self, step_bytes: int) -> Iterable[range]:
        """Return the steps as the backward pass visits them, in blocks that keep their arrays in the cache."""
        order = self.order(True)
        size = max(1, BLOCK_BYTES // max(1, step_bytes))
        return (order[start : start + size] for start in range(0, len(order), size))

    def stacked(
        self, formula: Callable[..., None], arrays: Mapping[str, Array], block: range
    ) -> Iterable[tuple[Array, ...]]:
        """Return the arguments of `formula` for all steps of `block` at once; one by one where sequences end early."""
        places = [self._place(name, arrays) for name in _argument_names(formula)]
        if self.counts is not None:
            return [tuple(array[offset + t, : self.counts[t]] for array, offset in places) for t in block]
        low, high = min(block), max(block) + 1
        return [tuple(array[offset + low : offset + high] for array, offset in places)]

    def _place(self, name: str, arrays: Mapping[str, Array]) -> tuple[Array, int]:
        """Return the array that an argument's name means, and the row of it that belongs to step 0."""
        stem, _, when = name.rpartition("_")
        array = arrays[stem]
        if when == "prev":
            return array, self.prev
        return array, self.new if len(array) > self.steps else 0


@functools.cache
def _argument_names(formula: Callable[..., None]) -> tuple[str, ...]:
    return tuple(inspect.signature(formula).parameters)
