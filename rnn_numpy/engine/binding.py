"""From the name of a formula's argument to the rows of an array, step after step: the one binder of the package.

The driver binds a chain to the arrays of a whole sequence; what reads traces binds the same chain to single steps on as
many columns as it wants (`rnn_numpy.engine.recorded`), and to changes in place of gradients
(`rnn_numpy.engine.forward_mode`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.core.activations import has_avx512
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.cell import Cell, Chain, Slot
from rnn_numpy.engine.parts import Formula, Kind

Array = NDArray[Any]
Call = tuple[Formula, Iterator[tuple[Array, ...]]]

BLOCK_BYTES = 2**19  # of one array; with the others that a formula touches, about a second-level cache
SMALL_PRODUCT = 10**6  # multiplications up to which OpenBLAS takes a product for small
STRIP = 64  # columns of a matrix that are turned around together
WIDEST = 1024  # columns of a weight whose product may go in pieces


class Binding:
    """One direction's chain and its arrays: which rows of which array each argument of each formula is.

    `arrays` are recorded ones, gradients or changes, (T, N, ·) or (T+1, N, ·), `constants` what is the same at every
    step (see `constants_of`), `given` the call's given arrays, (N, ·), and what their gradients are added to. `before`
    and `after` are the rows of a state array that are the state before step 0 and after it, `entry` and `exit` the
    indices at which the initial state goes in and the final state is found. `guard` is set where formulas are on trial
    (`rnn_numpy.engine.trial`).
    """

    def __init__(
        self,
        chain: Chain,
        batch: Batch,
        reverse: bool,
        arrays: dict[str, Array],
        constants: dict[str, Array],
        given: dict[str, Array] | None = None,
    ) -> None:
        self.chain, self.batch, self.reverse = chain, batch, reverse
        self.arrays, self.constants = arrays, constants
        self.given: dict[str, Array] = {} if given is None else dict(given)  # gradients come to them
        self.kept: dict[str, Array] = {}  # work of all steps, (T, N, ·)
        self.ready: dict[str, list[Any]] = {}  # calls and their arguments, of a pass that is prepared
        self.guard: Callable[[Formula, tuple[Slot, ...]], Formula] | None = None
        self.before, self.after = (1, 0) if reverse else (0, 1)
        self.span = batch.T  # steps that some sequence has
        end: Any = batch.T
        if batch.lengths is not None:
            self.span = int(batch.lengths[0])
            end = batch.lengths, np.arange(batch.N)
        self.entry: Any = end if reverse else 0
        self.exit: Any = 0 if reverse else end

    def on(self, arrays: dict[str, Array], constants: dict[str, Array]) -> Binding:
        """Return the same chain and order of steps bound to other arrays."""
        return Binding(self.chain, self.batch, self.reverse, arrays, constants, self.given)

    # ------------------------------------------------------------------------------------------------ time

    def order(self, backward: bool) -> range:
        """The steps t as the forward or the backward pass visits them."""
        steps = range(self.span)
        return steps[::-1] if backward != self.reverse else steps

    def blocks(self, step_bytes: int, backward: bool) -> list[range]:
        """Return the steps as a pass visits them, in blocks that keep their arrays in the cache; backward in one, where
        what stands at its beginning is prepared.
        """
        size = max(1, BLOCK_BYTES // max(1, step_bytes))
        order = range(self.span) if backward == self.reverse else range(self.span - 1, -1, -1)
        if size >= self.span or (backward and "partials" in self.ready):
            return [order]
        return [order[start : start + size] for start in range(0, self.span, size)]

    def block_of(self, array: Array, block: range) -> Array:
        """Return the rows of a step array, or of a ring of fewer rows (see `rows`), that belong to `block`."""
        low, size = min(block[0], block[-1]), len(block)
        if len(array) == self.batch.T:
            return array[low : low + size]
        return array[-size:] if self.reverse else array[:size]

    def output(self, states: Array) -> Array:
        """Return the states after each step, (T, N, H); a copy where a row past the end holds an initial state."""
        batch = self.batch
        output = states[self.after : self.after + batch.T]
        return np.where(batch.exists(), output, 0) if batch.alive is not None and self.reverse else output

    # ------------------------------------------------------------------------------------------------ names

    def aligned(self, name: str | Slot) -> Array:
        """Return the rows 0 ... T-1 that an argument's name, or its place, means, (T, N, K)."""
        slot = name if isinstance(name, Slot) else self.chain.places.get(name) or self.chain.place(name)
        array = self.arrays[slot.array]
        if slot.block is not None:
            array = array[:, :, slot.block]
        if slot.when == "step":
            return array
        offset = self.before if slot.when == "before" else self.after
        return array[offset : offset + self.batch.T]

    def has(self, slot: Slot) -> bool:
        """Whether the argument is among the arrays, not the constants."""
        return slot.when not in ("fixed", "given", "work") and slot.array in self.arrays

    # ------------------------------------------------------------------------------------------------ calls

    def calls(self, kind: Kind) -> list[Call]:
        """Return the formulas of a step in turn, each with an iterator over its arguments, step after step."""
        if kind in self.ready:
            return [(formula, iter(rows)) for formula, rows in self.ready[kind]]
        backward, found = kind == "backward", list[Call]()
        # Scratch belongs to this pass alone: passes on one trace may run side by side.
        scratch = self._scratch() if "scratch_t" in self.chain.needs else None
        work: dict[str, Array] = {}
        if self.chain.cell.work:
            work = self.chain.work(self.given, self.batch.N, self.constants["half"].dtype)
        for formula, slots, columns in self.chain.formulas[kind]:
            if backward and self.kept and formula in self.chain.cell.again:
                continue
            columns_of_arguments: list[Iterable[Array]] = []
            for slot in slots:
                if slot.when == "work" and slot.array in self.kept:
                    steps, counts = self.kept[slot.array], self.batch.counts
                    order = self.order(backward)
                    columns_of_arguments.append([steps[t] if counts is None else steps[t][: counts[t]] for t in order])
                elif slot.when == "work":
                    columns_of_arguments.append(self._alive(work[slot.array], False, backward))
                elif slot.when != "fixed":
                    columns_of_arguments.append(self.rows(slot, columns, backward))
                elif scratch is not None and slot.name == "scratch_t":
                    columns_of_arguments.append(self._alive(scratch, columns, backward))
                else:
                    columns_of_arguments.append(itertools.repeat(self.constants[slot.name]))
            guarded = formula if self.guard is None else self.guard(formula, slots)
            found.append((guarded, zip(*columns_of_arguments, strict=False)))
        return found

    def _scratch(self) -> Array:
        """Return memory for an intermediate result, (N, H)."""
        dtype, columns = self.constants["half"].dtype, self.chain.cell.columns
        memory: Array = self.batch.new(1, self.chain.hidden, dtype, columns)[0]
        return memory

    def _alive(self, array: Array, columns: bool, backward: bool) -> Iterable[Array]:
        """Return at each step of `order` the same array, (N, ·), of the sequences alive at t."""
        array, counts = array.T if columns else array, self.batch.counts
        if counts is None:
            return itertools.repeat(array)
        return [array[:, : counts[t]] if columns else array[: counts[t]] for t in self.order(backward)]

    def rows(self, slot: Slot, columns: bool, backward: bool) -> Iterable[Array]:
        """Return what an argument is at each step of `order`: of each row the sequences alive at t.

        An array with fewer rows than steps is a ring: inference uses it for one block of steps after the other.
        """
        if slot.when == "given":
            return self._alive(self.given[slot.name], False, backward)
        rows, batch, flip = self.arrays[slot.array], self.batch, backward != self.reverse
        if slot.block is not None:
            rows = rows[:, :, slot.block]
        if columns:
            rows = rows.swapaxes(1, 2)
        if len(rows) < batch.T:
            return itertools.cycle(list(rows[::-1] if flip else rows))
        if slot.when != "step":
            offset = self.before if slot.when == "before" else self.after
            rows = rows[offset : offset + self.span]
        elif self.span < batch.T:
            rows = rows[: self.span]
        if batch.counts is None:
            rows = stacked(rows, slot.stack, columns) if slot.stack else rows
            return rows[::-1] if flip else rows
        counted = zip(rows, batch.counts, strict=False)
        alive = [row[:, :n] for row, n in counted] if columns else [row[:n] for row, n in counted]
        if slot.stack:
            alive = [stacked(row, slot.stack, columns) for row in alive]
        return alive[::-1] if flip else alive

    def run_partials(self, block: range) -> None:
        """Run what of the backward formulas needs no gradient from the future, for all steps of `block` at once; one by
        one where sequences end early.
        """
        for formula, arguments in self.ready["partials"] if self.ready else self.partials(block):
            formula(*arguments)

    def partials(self, block: range) -> Iterator[tuple[Formula, list[Array]]]:
        """Yield the formulas of `run_partials` in turn, each with its arguments."""
        counts, arrays, offsets = self.batch.counts, self.arrays, {"before": self.before, "after": self.after}
        low, high = min(block[0], block[-1]), max(block[0], block[-1]) + 1
        whole = high - low == self.batch.T
        for formula, slots, columns in self.chain.formulas["partials"]:
            formula = formula if self.guard is None else self.guard(formula, slots)
            places: list[tuple[Array, int | None]] = []
            for slot in slots:
                if slot.when == "fixed":
                    places.append((self.constants[slot.name], None))
                    continue
                array = arrays[slot.array]
                if slot.block is not None:
                    array = array[:, :, slot.block]
                places.append((array.swapaxes(1, 2) if columns else array, offsets.get(slot.when, 0)))
            if counts is None:
                yield (
                    formula,
                    [
                        array if at is None or (whole and len(array) == high) else array[at + low : at + high]
                        for array, at in places
                    ],
                )
                continue
            for t in block:
                n = (slice(None), slice(counts[t])) if columns else slice(counts[t])
                yield formula, [array if at is None else array[at + t][n] for array, at in places]


def stacked(array: Array, count: int, columns: bool) -> Array:
    """Return slabs, (..., count * H, N) in columns or (..., N, count * H), stacked: (..., count, H, N) or (..., count,
    N, H), the same memory.
    """
    if columns:
        return array.reshape(*array.shape[:-2], count, array.shape[-2] // count, array.shape[-1])
    return array.reshape(*array.shape[:-1], count, array.shape[-1] // count).swapaxes(-2, -3)


def block_size(step_bytes: int) -> int:
    """Return the number of steps in a block."""
    return max(1, BLOCK_BYTES // max(1, step_bytes))


def constants_of(
    chain: Chain, weights: Mapping[str, Array], batch: int, *, bias: Array | None = None, halved: bool = False
) -> dict[str, Array]:
    """Return the arguments of formulas that are the same at every step, from weights by symbol; `batch` decides the
    memory order of W_hh, and where `halved`, as forward, the rows of sigmoids are.
    """
    cell = chain.cell
    constants: dict[str, Array] = {}
    W_hh = weights["W_hh"]
    W_hh = laid_out(cell.arranged("hidden", W_hh, halved), batch, cell.columns, not halved)
    if cell.columns and W_hh.size * batch > SMALL_PRODUCT and W_hh.dtype.kind == "f" and has_avx512():
        W_hh = W_hh.view(InPieces)
    constants["W_hh"] = W_hh
    for name in cell.constant_names:
        constants[name] = constants["W_hh"][chain.scales[name[3:]]]
    half_one = _numbers(W_hh.dtype)
    constants["half"], constants["one"] = half_one
    for extra in cell.parameters.values():
        weight = weights[extra.symbol]
        constants[extra.symbol] = (
            cell.arranged("input", weight, halved) if extra.like_input else as_column(weight, cell)
        )
    if bias is not None and "b" in chain.needs:
        constants["b"] = as_column(bias, cell)
    return constants


@functools.cache
def _numbers(dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return 1/2 and 1 as arrays: turning a number into one at each step takes as long as a small operation itself."""
    half, one = np.array(0.5, dtype), np.array(1, dtype)
    half.flags.writeable = one.flags.writeable = False
    return half, one


def as_column(array: Array, cell: Cell) -> Array:
    """Return a vector so that it can be added to each column, where the cell works on columns."""
    return array[:, None] if cell.columns and array.ndim == 1 else array


def laid_out(weight: Array, batch: int, columns: bool, backward: bool) -> Array:
    """Return W_hh, equal in value, in the memory order in which the product of a step is fastest.

    Figures in benchmarks/README.md. As the left factor, forward, it lies by rows, but for a single sequence; its
    transpose, backward, does where the matrix is small enough for a copy to pay. As the right factor it lies by rows as
    well; only OpenBLAS's kernels for processors without AVX-512 are faster, up to 15 % of the product, with columns in
    double precision and in large single-precision products.
    """
    if columns:
        by_rows = weight.shape[1] >= 256 if backward else batch > 1
    else:
        wide = has_avx512() or batch == 1 or (weight.dtype == np.float32 and weight.shape[1] < 256)
        by_rows = wide == backward
    return aligned(weight, by_rows)


def aligned(weight: Array, by_rows: bool) -> Array:
    """Return a matrix by rows, or by columns; where that takes a copy, it begins with a cache line.

    Beside one that begins anywhere, the product with a vector takes .7 of the time in single precision, .6 in double.
    """
    if weight.flags.c_contiguous if by_rows else weight.flags.f_contiguous:
        return weight
    source = weight if by_rows else weight.T
    copied = memory.empty(source.shape, weight.dtype)
    # Turned around in strips, each of which writes whole cache lines: at once, large matrices of powers of two take
    # fifteen times as long.
    for start in range(0, source.shape[1], STRIP):
        copied[:, start : start + STRIP] = source[:, start : start + STRIP]
    found: Array = copied if by_rows else copied.T
    return found


def laid_out_for_step(weight: Array, batch: int, columns: bool) -> Array:
    """Return a weight of several sequences so that the product of a step, all set-up done before, is fastest.

    Of small products OpenBLAS does not copy the factors first, and is faster with the weight by columns; a large one
    is put together of such, for processors that have these, each a piece of the weight's rows.
    """
    if not columns or weight.size * batch <= SMALL_PRODUCT or weight.dtype.kind != "f":
        return aligned(weight, False)
    found = aligned(weight, True)
    return found.view(InStepPieces) if has_avx512() else found


class InPieces(np.ndarray[Any, Any]):
    """A weight whose `dot` multiplies pieces of its rows, one after the other, where that is faster.

    OpenBLAS copies the factors of a large product into a buffer, in the order in which it reads them; those of a small
    one it reads where they lie. The copy of W_hh, made anew at every step, takes up to a third of its product.
    """

    def dot(self, columns: Array) -> Array:  # type: ignore[override]  # of two matrices alone
        """Return the product of this weight, (M, K), and columns (K, N)."""
        weight: Array = self.view(np.ndarray)
        (rows, width), batch = self.shape, columns.shape[1]
        pieces = self.pieces(batch)
        product: Array
        if pieces == 1:
            product = weight.dot(columns)
            return product
        product = np.matmul(weight.reshape(pieces, rows // pieces, width), columns)
        return product.reshape(rows, batch)

    def pieces(self, batch: int) -> int:
        """Return the number of pieces in which the product with (K, batch) is fastest."""
        # Up to 384 wide the bits are the same, since all sums run in the same order: those of wider weights are made in
        # two parts, and columns beyond a multiple of 16 may have a routine of their own.
        return _pieces(*self.shape, batch) if batch % 16 == 0 else 1


class InStepPieces(InPieces):
    """The same for a number of columns of any size: equal to the whole product up to rounding."""

    def pieces(self, batch: int) -> int:
        """Return the number of pieces in which the product with (K, batch) is fastest."""
        return _pieces(*self.shape, batch)


@functools.cache
def _pieces(rows: int, width: int, batch: int) -> int:
    """Return the number of pieces in which a product of (rows, width) and (width, batch) is fastest."""
    pieces = 1
    while rows // pieces * width * batch > SMALL_PRODUCT:
        pieces *= 2
    # Smaller pieces are no faster.
    fits = rows % pieces == 0 and rows // pieces >= max(32, batch)
    return pieces if fits and width <= WIDEST else 1
