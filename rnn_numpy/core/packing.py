r"""Sequences of different lengths in one array: padded, packed, and back, as in torch.nn.utils.rnn.

N sequences, sequence n of length T_n; T is the longest length. In a padded array (T, N, ...) sequence n stands in
column n, and its rows from T_n on are padding. A `PackedSequence` holds the same numbers without padding, step after
step: first the first step of every sequence, then the second step of those that have one, and so on. Within a step the
sequences stand in the order of their lengths, longest first, so that those alive at a step are the first ones:

    sequences   abc   x   de         sorted   abc   de   x
    data        a d x b e c          one row per real step
    batch_sizes 3 2 1                how many sequences are alive at step t: nonincreasing
    sorted_indices   0 2 1           row i of a step belongs to sequence sorted_indices[i] of the caller
    unsorted_indices 0 2 1           the inverse permutation: sequence n stands in row unsorted_indices[n]

Gradients: every function moves numbers and computes none, and its backward is the one that moves the other way. Write
dX for dL/dX, of X's shape:

    y = pack_padded_sequence(x, lengths)      dx = y.with_data(dy).padded(total_length=T)[0]     padding gets 0
    x = pad_packed_sequence(y)[0]             dy = y.pack(dx).data                padding's gradient is dropped
    x = pad_sequence(xs)                      dxs = unpad_sequence(dx, lengths)
    xs = unpad_sequence(x, lengths)           dx = pad_sequence(dxs), with zero rows up to x's T
    y = pack_sequence(xs)                     dxs = unpack_sequence(y.with_data(dy))
    xs = unpack_sequence(y)                   dy = pack_sequence(dxs, enforce_sorted=False).data

Arrays may be lists; their dtype may be any kind of number, bool included, and stays what it is. `lengths`, permutations
and batch sizes are integers; floats and bools are refused, also where they are whole: torch cuts 3.7 down to 3.
`padding_value` must fit the dtype of the data: 0.5 is refused as padding of integers, where torch pads with 0. Nothing
that comes in is modified, and results are new arrays. What does not fit raises ShapeError, DTypeError or OptionError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

Array = NDArray[Any]
Indices = NDArray[np.intp]

_LARGEST = int(np.iinfo(np.intp).max)


class _Fields(NamedTuple):
    """The four fields of a PackedSequence, in torch's order."""

    data: Array
    batch_sizes: Indices
    sorted_indices: Indices | None
    unsorted_indices: Indices | None


class PackedSequence(_Fields):
    """Sequences of different lengths without padding; see the module for how they lie in `data`.

    A named tuple of the four parameters, as torch's, so that `data, batch_sizes, *_ = packed` works and `len(packed)`
    is 4. It is made by `pack_padded_sequence` and `pack_sequence`; made by hand, it is checked.

    Parameters
    ----------
    data : ndarray, (sum of lengths, ...)
        One row per real step. Not copied.
    batch_sizes : int array_like, (T,)
        Number of sequences alive at each step: at least 1, nonincreasing, adding up to len(data). Copied, read-only.
    sorted_indices : int array_like, (N,), N = batch_sizes[0], optional
        Row i of a step belongs to the caller's sequence sorted_indices[i]. Left out: sequence i. Copied, read-only.
    unsorted_indices : int array_like, (N,), optional
        Its inverse; each of the two follows from the other.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The parts do not fit together: torch takes them and fails, or reads what it should not, later.

    Examples
    --------
    >>> packed = pack_sequence([[1, 2, 3], [4], [5, 6]], enforce_sorted=False)
    >>> packed
    PackedSequence(data (6,) int64, batch_sizes [3 2 1], sorted_indices [0 2 1])
    >>> packed.data, packed.lengths
    (array([1, 5, 4, 2, 6, 3]), array([3, 1, 2]))
    >>> packed.padded()[0]
    array([[1, 4, 5],
           [2, 0, 6],
           [3, 0, 0]])

    A recurrence over packed data never meets padding; the states of a step are the first rows of those before:

    >>> sums, first = np.zeros(packed.batch_size, int), 0
    >>> for size in packed.batch_sizes:
    ...     sums[:size] += packed.data[first : first + size]
    ...     first += size
    >>> sums[packed.unsorted_indices]
    array([ 6,  4, 11])
    """

    __slots__ = ()

    def __new__(
        cls,
        data: ArrayLike,
        batch_sizes: ArrayLike,
        sorted_indices: ArrayLike | None = None,
        unsorted_indices: ArrayLike | None = None,
    ) -> Self:
        """Check the parts; see the class."""
        where = "PackedSequence"
        values = _numbers(where, "data", data)
        if values.ndim == 0:
            raise ShapeError(f"{where}: data must have shape (sum of lengths, ...); got ()")
        sizes = _integers(where, "batch_sizes", batch_sizes, "(T,)")
        if sizes.size == 0:
            raise ShapeError(f"{where}: batch_sizes must have shape (T,) with T >= 1; got (0,)")
        if sizes.min() < 1:
            t = int(sizes.argmin())
            raise OptionError(f"{where}: batch_sizes must be at least 1; got batch_sizes[{t}] = {sizes[t]}")
        rises = np.flatnonzero(sizes[1:] > sizes[:-1])
        if rises.size:
            t = int(rises[0])
            raise OptionError(
                f"{where}: batch_sizes must be nonincreasing: a sequence that has ended does not come back; "
                f"got batch_sizes[{t + 1}] = {sizes[t + 1]} after {sizes[t]}"
            )
        # The first comparison keeps the sum from overflowing.
        if sizes[0] > len(values) or sizes.sum() != len(values):
            raise ShapeError(
                f"{where}: data must have shape (sum of batch_sizes, ...) = ({sum(sizes.tolist())}, ...); "
                f"got {values.shape}"
            )
        order = _permutation(where, "sorted_indices", sorted_indices, int(sizes[0]))
        places = _permutation(where, "unsorted_indices", unsorted_indices, int(sizes[0]))
        if order is None and places is not None:
            order = _inverse(places)
        if order is not None and places is None:
            places = _inverse(order)
        if order is not None and places is not None:
            if not np.array_equal(order[places], np.arange(len(order))):
                raise OptionError(
                    f"{where}: unsorted_indices must be the inverse permutation of sorted_indices; leave one out"
                )
            order.flags.writeable = places.flags.writeable = False
        sizes.flags.writeable = False
        return super().__new__(cls, values, sizes, order, places)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # its own type says self in this place
        """Return an instance of the four fields; `_replace` goes through it, and so is checked, too."""
        return cls(*iterable)

    @property
    def batch_size(self) -> int:
        """N, the number of sequences."""
        return int(self.batch_sizes[0])

    @property
    def max_length(self) -> int:
        """T, the number of steps of the longest sequence."""
        return len(self.batch_sizes)

    @property
    def lengths(self) -> Indices:
        """The number of steps of each sequence, (N,), in the caller's order."""
        # batch_sizes rises when read backwards; sequence i of the sorted ones lives while batch_sizes[t] > i.
        lengths = self.max_length - np.searchsorted(self.batch_sizes[::-1], np.arange(self.batch_size), side="right")
        return lengths if self.unsorted_indices is None else lengths[self.unsorted_indices]

    def padded(
        self, batch_first: bool = False, padding_value: Any = 0.0, total_length: int | None = None
    ) -> tuple[Array, Indices]:
        """Return the padded array, in the caller's order, and the lengths; arguments as of `pad_packed_sequence`."""
        return self._padded("PackedSequence.padded", batch_first, padding_value, total_length)

    def _padded(
        self, where: str, batch_first: bool, padding_value: Any, total_length: int | None
    ) -> tuple[Array, Indices]:
        arguments.flag(where, "batch_first", batch_first)
        steps = self.max_length
        if total_length is not None:
            steps = arguments.positive_int(where, "total_length", total_length)
            if steps < self.max_length:
                raise OptionError(
                    f"{where}: expected total_length to be at least the length of the longest sequence, "
                    f"T = {self.max_length}; got {steps}"
                )
        filled = _filled((steps, self.batch_size, *self.data.shape[1:]), where, padding_value, self.data.dtype)
        return _written(filled, _places(self.batch_sizes, self.sorted_indices), self.data, batch_first), self.lengths

    def pack(self, padded: ArrayLike, batch_first: bool = False) -> Self:
        """Pack a padded array of sequences of the same lengths, in the same order, as those in this one.

        What a layer made of `padded()`, step by step, is packed again; so is dL/dpadded, which gives the gradient of
        `data`. There may be more steps than those of the longest sequence; padding is not read.

        Examples
        --------
        >>> packed = pack_sequence([[1.0, 2.0, 3.0], [4.0]])
        >>> packed.pack(np.array([[10, 40], [20, 99], [30, 99]])).data
        array([10, 40, 20, 30])
        """
        where = "PackedSequence.pack"
        arguments.flag(where, "batch_first", batch_first)
        array = _numbers(where, "padded", padded)
        symbols, shape = ("(N, T, ...)", array.shape[1::-1]) if batch_first else ("(T, N, ...)", array.shape[:2])
        if len(shape) < 2 or shape[0] < self.max_length or shape[1] != self.batch_size:
            wanted = f"N = {self.batch_size} and T at least {self.max_length}"
            raise ShapeError(f"{where}: padded must have shape {symbols} with {wanted}; got {array.shape}")
        return self.with_data(_read(array, _places(self.batch_sizes, self.sorted_indices), batch_first))

    def with_data(self, data: ArrayLike) -> Self:
        """Return other data, (sum of lengths, ...), with `batch_sizes` and indices of this one."""
        return type(self)(data, *self[1:])

    def astype(self, dtype: DTypeLike) -> Self:
        """Return the same sequences in another dtype."""
        try:
            target = np.dtype(dtype)
        except TypeError:
            raise DTypeError(f"PackedSequence.astype: not a dtype: {dtype!r}") from None
        return self.with_data(self.data.astype(target))

    def same_layout(self, other: PackedSequence) -> bool:
        """Return whether `other` holds sequences of the same lengths in the same order; other axes may differ."""
        if not np.array_equal(self.batch_sizes, other.batch_sizes):
            return False
        identity = np.arange(self.batch_size)
        mine, theirs = (identity if p.sorted_indices is None else p.sorted_indices for p in (self, other))
        return np.array_equal(mine, theirs)

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is a PackedSequence of the same layout and equal data."""
        if not isinstance(other, PackedSequence):
            return False
        return self.same_layout(other) and np.array_equal(self.data, other.data)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        # As a tuple it would become an array of its fields, or fail with a message about shapes.
        raise DTypeError("a PackedSequence is not an array; take its .data, or .padded()")

    def __repr__(self) -> str:
        parts = [f"data {self.data.shape} {self.data.dtype}", f"batch_sizes {_short(self.batch_sizes)}"]
        parts += [] if self.sorted_indices is None else [f"sorted_indices {_short(self.sorted_indices)}"]
        return f"PackedSequence({', '.join(parts)})"


def pack_padded_sequence(
    input: ArrayLike, lengths: ArrayLike, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded array.

    Parameters
    ----------
    input : ndarray, (T, N, ...), or (N, T, ...) where batch_first
        Without empty axes.
    lengths : int array_like, (N,)
        1 <= lengths <= T. Where all are shorter than T, the rest is padding, too.
    batch_first : bool
    enforce_sorted : bool
        True: lengths must be nonincreasing, and the result has no indices. False: sequences are sorted by length here;
        sequences of equal length keep their order (in torch they may lose it from 17 sequences on).

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The shapes of input and lengths do not fit; a length is no integer, below 1, or above T (torch takes that, and
        makes a pack that contradicts itself); lengths are not sorted where they have to be.

    Examples
    --------
    >>> padded = np.array([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    >>> pack_padded_sequence(padded, [2, 1, 3], batch_first=True, enforce_sorted=False).data
    array([4, 1, 3, 5, 2, 6])
    """
    where = "pack_padded_sequence"
    arguments.flag(where, "batch_first", batch_first)
    arguments.flag(where, "enforce_sorted", enforce_sorted)
    array = _numbers(where, "input", input)
    T, N = _sizes(where, "input", array, batch_first)
    if array.size == 0:
        raise ShapeError(f"{where}: cannot pack empty arrays: input must have no axis of size 0; got {array.shape}")
    checked = _lengths(where, lengths, N, T, "input", 1)
    batch_sizes, order = _layout(where, checked, enforce_sorted)
    return PackedSequence(_read(array, _places(batch_sizes, order), batch_first), batch_sizes, order)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: Any = 0.0, total_length: int | None = None
) -> tuple[Array, Indices]:
    """Undo `pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
    batch_first : bool
    padding_value : number
        What stands past the end of a sequence; of a value that the data's dtype can hold.
    total_length : int, optional
        T of the result; that of the longest sequence where left out.

    Returns
    -------
    padded : ndarray, (T, N, ...), or (N, T, ...) where batch_first
        In the order that the sequences had before they were packed.
    lengths : int ndarray, (N,)

    Raises
    ------
    DTypeError, OptionError
        `sequence` is no PackedSequence; total_length is smaller than a length; the padding value does not fit.

    Examples
    --------
    >>> packed = pack_sequence([[1, 2], [3, 4, 5]], enforce_sorted=False)
    >>> padded, lengths = pad_packed_sequence(packed, batch_first=True, padding_value=-1, total_length=4)
    >>> padded
    array([[ 1,  2, -1, -1],
           [ 3,  4,  5, -1]])
    """
    where = "pad_packed_sequence"
    return _packed(where, "sequence", sequence)._padded(where, batch_first, padding_value, total_length)


def pad_sequence(
    sequences: Iterable[ArrayLike], batch_first: bool = False, padding_value: Any = 0.0, padding_side: str = "right"
) -> Array:
    """Lay sequences side by side, (T, N, ...) or (N, T, ...), padded to the length of the longest.

    Parameters
    ----------
    sequences : iterable of ndarrays, (T_n, ...)
        At least one. All of one dtype (torch turns them silently into that of the first) and equal trailing axes; T_n
        may be 0.
    batch_first : bool
    padding_value : number
    padding_side : {"right", "left"}
        Whether padding follows a sequence or comes before it.

    Examples
    --------
    >>> pad_sequence([[1, 2, 3], [4]], batch_first=True, padding_side="left")
    array([[1, 2, 3],
           [0, 0, 4]])
    """
    where = "pad_sequence"
    arguments.flag(where, "batch_first", batch_first)
    if not isinstance(padding_side, str) or padding_side not in ("left", "right"):
        raise OptionError(f"{where}: expected padding_side to be one of 'left' or 'right'; got {padding_side!r}")
    arrays, lengths = _sequences(where, sequences)
    T, N = int(lengths.max()), len(arrays)
    filled = _filled((T, N, *arrays[0].shape[1:]), where, padding_value, arrays[0].dtype)
    n, t = _steps(lengths)
    if padding_side == "left":
        t += (T - lengths)[n]
    return _written(filled, (t, n), np.concatenate(arrays), batch_first)


def pack_sequence(sequences: Iterable[ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences that are not padded yet.

    Parameters
    ----------
    sequences : iterable of ndarrays, (T_n, ...)
        At least one. T_n >= 1, all of one dtype and equal trailing axes.
    enforce_sorted : bool
        As for `pack_padded_sequence`.

    Examples
    --------
    >>> pack_sequence([[1, 2, 3], [4, 5], [6]])
    PackedSequence(data (6,) int64, batch_sizes [3 2 1])
    """
    where = "pack_sequence"
    arguments.flag(where, "enforce_sorted", enforce_sorted)
    arrays, lengths = _sequences(where, sequences)
    _at_least(where, lengths, 1)
    if arrays[0].size == 0:
        raise ShapeError(f"{where}: cannot pack empty arrays: a trailing axis has size 0; got {arrays[0].shape}")
    batch_sizes, order = _layout(where, lengths, enforce_sorted)
    t, n = _places(batch_sizes, order)
    starts = np.cumsum(lengths) - lengths
    return PackedSequence(np.concatenate(arrays)[starts[n] + t], batch_sizes, order)


def unpad_sequence(padded_sequences: ArrayLike, lengths: ArrayLike, batch_first: bool = False) -> list[Array]:
    """Undo `pad_sequence` with its padding on the right: return a copy of each sequence, in a list.

    Parameters
    ----------
    padded_sequences : ndarray, (T, N, ...), or (N, T, ...) where batch_first
    lengths : int array_like, (N,)
        0 <= lengths <= T (torch cuts a longer one down to T).
    batch_first : bool

    Examples
    --------
    >>> unpad_sequence([[1, 4], [2, 0], [3, 0]], [3, 1])
    [array([1, 2, 3]), array([4])]
    """
    where = "unpad_sequence"
    arguments.flag(where, "batch_first", batch_first)
    array = _numbers(where, "padded_sequences", padded_sequences)
    T, N = _sizes(where, "padded_sequences", array, batch_first)
    checked = _lengths(where, lengths, N, T, "padded_sequences", 0)
    columns = array if batch_first else array.swapaxes(0, 1)
    return [column[:length].copy() for column, length in zip(columns, checked, strict=True)]


def unpack_sequence(packed_sequences: PackedSequence) -> list[Array]:
    """Undo `pack_sequence`: return a copy of each sequence, in a list, in the order before they were packed.

    Examples
    --------
    >>> unpack_sequence(pack_sequence([[1, 2], [3, 4, 5]], enforce_sorted=False))
    [array([1, 2]), array([3, 4, 5])]
    """
    packed = _packed("unpack_sequence", "packed_sequences", packed_sequences)
    _, n = _places(packed.batch_sizes, packed.sorted_indices)
    # Stable: the steps of a sequence stay in their order.
    by_sequence = packed.data[np.argsort(n, kind="stable")]
    return [part.copy() for part in np.split(by_sequence, np.cumsum(packed.lengths)[:-1])]


def invert_permutation(permutation: ArrayLike | None) -> Indices | None:
    """Return the permutation that undoes `permutation`: inverse[permutation[i]] = i; None for None.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        It does not hold each of 0 ... N-1 once (torch returns unwritten memory where a number is missing).

    Examples
    --------
    >>> invert_permutation([2, 0, 1])
    array([1, 2, 0])
    """
    checked = _permutation("invert_permutation", "permutation", permutation, None)
    return None if checked is None else _inverse(checked)


# ------------------------------------------------------------------------------------------------ where entries stand


def _layout(where: str, lengths: Indices, enforce_sorted: bool) -> tuple[Indices, Indices | None]:
    """Return batch_sizes and, unless sorted already is what the caller promised, sorted_indices."""
    order = None
    if enforce_sorted:
        rises = np.flatnonzero(lengths[1:] > lengths[:-1])
        if rises.size:
            n = int(rises[0])
            raise OptionError(
                f"{where}: lengths must be sorted in decreasing order when enforce_sorted is True; "
                f"got lengths[{n + 1}] = {lengths[n + 1]} after {lengths[n]}. "
                "Pass enforce_sorted=False to have the sequences sorted"
            )
    else:
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
    # At step t those are alive that are longer than t.
    return len(lengths) - np.searchsorted(lengths[::-1], np.arange(lengths[0]), side="right"), order


def _steps(counts: Indices) -> tuple[Indices, Indices]:
    """Return the outer and the inner index of counts[0] entries, then counts[1] entries, and so on."""
    outer = np.repeat(np.arange(len(counts)), counts)
    inner = np.arange(len(outer)) - np.repeat(np.cumsum(counts) - counts, counts)
    return outer, inner


def _places(batch_sizes: Indices, sorted_indices: Indices | None) -> tuple[Indices, Indices]:
    """Return for each row of packed data its step t and its sequence n, in the caller's order."""
    t, row = _steps(batch_sizes)
    return t, row if sorted_indices is None else sorted_indices[row]


def _read(padded: Array, places: tuple[Indices, Indices], batch_first: bool) -> Array:
    """Return the entries of a padded array at (t, n), as a new array."""
    entries: Array = padded[places[::-1] if batch_first else places]
    return entries


def _filled(shape: tuple[int, ...], where: str, padding_value: Any, dtype: np.dtype[Any]) -> Array:
    """Return an array (T, N, ...) of padding, once the value is known to fit."""
    value = arguments.as_array(where, "padding_value", padding_value)
    if value.ndim or value.dtype.kind not in "biufc":
        kind = type(padding_value).__name__
        raise DTypeError(f"{where}: padding_value must be a number; got {kind} {padding_value!r}")
    fits = dtype.kind == "c" or value.dtype.kind != "c"
    with np.errstate(all="ignore"):
        filling = (value if fits else value.real).astype(dtype)
    # Rounding is what floats do; a number that is cut or overflows was not meant.
    fits &= bool(filling == value) if dtype.kind in "biu" else bool(np.isfinite(filling) | ~np.isfinite(value))
    if not fits:
        raise OptionError(f"{where}: padding_value must be a number that {dtype} can hold; got {padding_value!r}")
    return np.full(shape, filling)


def _written(filled: Array, places: tuple[Indices, Indices], data: Array, batch_first: bool) -> Array:
    """Write `data` into (T, N, ...) at (t, n); return that array, or a contiguous (N, T, ...) where batch_first."""
    if batch_first:
        filled = filled.reshape(filled.shape[1], filled.shape[0], *filled.shape[2:])  # all entries are padding still
        places = places[::-1]
    filled[places] = data
    return filled


# ------------------------------------------------------------------------------------------------ what comes in


def _numbers(where: str, name: str, value: ArrayLike) -> Array:
    array = arguments.as_array(where, name, value)
    if array.dtype.kind not in "biufc":
        raise DTypeError(f"{where}: {name} must hold numbers; got dtype {array.dtype}")
    return array


def _integers(where: str, name: str, value: ArrayLike, symbols: str) -> Indices:
    """Return a copy of `value` with one axis and NumPy's type of indices."""
    array = arguments.as_array(where, name, value)
    if array.ndim != 1:
        raise ShapeError(f"{where}: {name} must have shape {symbols}; got {array.shape}")
    if array.size == 0:
        return np.empty(0, np.intp)  # an empty list has no integers to be told from floats
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{where}: {name} must be integers; got dtype {array.dtype}")
    if not np.can_cast(array.dtype, np.intp):
        array = np.where(array > _LARGEST, _LARGEST, array)  # uint64: still too large for whatever it counts
    return array.astype(np.intp)


def _at_least(where: str, lengths: Indices, least: int) -> None:
    if lengths.min(initial=least) < least:
        n = int(lengths.argmin())
        wanted = f"length of all samples has to be {'greater than 0' if least else 'at least 0'}"
        advice = ". Drop empty sequences from the batch" if lengths[n] == 0 else ""
        raise OptionError(f"{where}: {wanted}; got lengths[{n}] = {lengths[n]}{advice}")


def _lengths(where: str, lengths: ArrayLike, batch: int, steps: int, of: str, least: int) -> Indices:
    checked = _integers(where, "lengths", lengths, f"(N,) = ({batch},)")
    if len(checked) != batch:
        raise ShapeError(
            f"{where}: expected len(lengths) to be equal to the batch size of {of}, shape (N,) = ({batch},); "
            f"got {checked.shape}"
        )
    _at_least(where, checked, least)
    if checked.max(initial=0) > steps:
        n = int(checked.argmax())
        raise OptionError(f"{where}: lengths[{n}] must be at most T = {steps}, the steps of {of}; got {checked[n]}")
    return checked


def _sizes(where: str, name: str, array: Array, batch_first: bool) -> tuple[int, int]:
    """Return T and N of a padded array."""
    if array.ndim < 2:
        symbols = "(N, T, ...)" if batch_first else "(T, N, ...)"
        raise ShapeError(f"{where}: {name} must have shape {symbols}, at least two axes; got {array.shape}")
    first, second = array.shape[:2]
    return (second, first) if batch_first else (first, second)


def _sequences(where: str, sequences: Iterable[ArrayLike]) -> tuple[list[Array], Indices]:
    """Return the sequences as arrays that fit together, and their lengths."""
    if isinstance(sequences, PackedSequence):
        raise DTypeError(f"{where}: sequences must be a list of arrays; got a PackedSequence. Use unpack_sequence")
    if not isinstance(sequences, Iterable):
        raise DTypeError(f"{where}: expected iterable for sequences; got {type(sequences).__name__}")
    arrays: list[Array] = []
    for index, sequence in enumerate(sequences):
        name = f"sequences[{index}]"
        array = _numbers(where, name, sequence)
        if array.ndim == 0:
            raise ShapeError(f"{where}: {name} must have shape (T_n, ...), at least one axis; got ()")
        first = arrays[0] if arrays else array
        if array.shape[1:] != first.shape[1:]:
            wanted = str(("T_n", *first.shape[1:])).replace("'", "")
            raise ShapeError(
                f"{where}: {name} must have shape (T_n, ...) = {wanted}, as sequences[0]; got {array.shape}"
            )
        if array.dtype != first.dtype:
            raise DTypeError(
                f"{where}: {name} must have dtype {first.dtype}, that of sequences[0]; got {array.dtype}. "
                f"Convert it with np.asarray(..., np.{first.dtype})"
            )
        arrays.append(array)
    if not arrays:
        raise ShapeError(f"{where}: received an empty list of sequences; there must be at least one, N >= 1")
    return arrays, np.array([len(array) for array in arrays])


def _permutation(where: str, name: str, value: ArrayLike | None, size: int | None) -> Indices | None:
    """Return `value` as a permutation of `size` numbers (of any number for None)."""
    if value is None:
        return None
    array = _integers(where, name, value, "(N,)" if size is None else f"(N,) = ({size},)")
    if size is not None and len(array) != size:
        raise ShapeError(f"{where}: {name} must have shape (N,) = (batch_sizes[0],) = ({size},); got {array.shape}")
    missing = np.flatnonzero(np.bincount(array[(array >= 0) & (array < len(array))], minlength=len(array)) == 0)
    if missing.size:
        raise OptionError(
            f"{where}: {name} must hold each of 0 ... N-1 = {len(array) - 1} once; {missing[0]} is missing"
        )
    return array


def _inverse(permutation: Indices) -> Indices:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse


def _packed(where: str, name: str, value: Any) -> PackedSequence:
    if not isinstance(value, PackedSequence):
        raise DTypeError(f"{where}: {name} must be a PackedSequence; got {type(value).__name__}")
    return value


def _short(array: Indices) -> str:
    """Write an array in one line, its middle left out where it is long."""
    return np.array2string(array, max_line_width=10**6, threshold=12, edgeitems=4)
