"""The sizes of one call: steps, sequences, lengths, the order of the sequences, and products that skip padding.

It knows arrays and their rows, no layer, no parameter, no formula. All arrays have shape (T, N, K) or (T+1, N, K).
Where a cell's formulas work on columns, they lie in memory as (T, K, N): the array is a view of that, axes swapped.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory

Array = NDArray[Any]

SMALL = 2**15  # entries of a weight matrix: below, a product per step is faster with the weight by columns


class Batch:
    """The sizes of one call, and how its sequences are sorted.

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

    def window(self, steps: range) -> Batch:
        """Return the sizes of some neighbouring steps; a sequence may have none of them."""
        lengths = None if self.lengths is None else np.clip(self.lengths - steps.start, 0, len(steps))
        part = Batch(len(steps), self.N, lengths)
        part.sort, part.unsort = self.sort, self.unsort
        return part

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

    def reused(self, rows: int, width: int, dtype: np.dtype[Any], columns: bool) -> Array:
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


def summed(left: Array, right: Array, out: Array) -> None:
    """Write left @ right, a sum over t and n. `np.dot` copies a factor that has gaps, as blocks of da have with one
    sequence; `np.matmul` does not, and takes longer of one without gaps.
    """
    (np.dot if left.flags.forc else np.matmul)(left, right, out=out)


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
