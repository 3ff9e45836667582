"""Where batches come from: rows of arrays, windows of a text, draws of a task.

Each is an iterator of tuples, what a model's `loss_and_grads(*batch)` takes, and knows where it stands: `state_dict()`
taken between two batches, loaded into another one made of the same data, gives the same batches from there on, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, ShapeError, StateDictError
from rnn_numpy.training.saved import checked_state, checksum, load_generator, state_of, whole_number

Array = NDArray[Any]
Batch = tuple[Any, ...]


class Batches(Iterator[Batch]):
    """Batches of samples that arrays hold side by side, in a new order each epoch.

    Parameters
    ----------
    *arrays : array_like or None
        What a batch is to have, in the order of `loss_and_grads`: inputs, targets, perhaps a mask, lengths. Each has n
        samples along its axis of samples. None stays None, for an argument that is left out.
    batch_size : int
        N, at most n. The last batch of an epoch has what is left.
    rng : numpy.random.Generator, int or None
        Draws the order of each epoch.
    axis : int or sequence of int
        The axis of samples: of all arrays, or of each. It is 1 of inputs (T, N, D) and of targets (T, N).
    epochs : int, optional
        Passes through all samples; without end where left out.
    shuffle : bool
        Whether each epoch has an order of its own. Without, it is that of the arrays, and nothing is drawn.
    drop_last : bool
        Whether a last batch of fewer than `batch_size` samples is left out.

    Attributes
    ----------
    epoch : int
        The epoch of the batch that came last, 1, 2, ...; 0 before the first.
    samples : int
        n.
    rng : numpy.random.Generator

    Raises
    ------
    ShapeError, OptionError
        The arrays do not hold the same number of samples, or an option has an impossible value.

    Examples
    --------
    >>> batches = Batches(np.arange(5), batch_size=2, rng=0, epochs=1)
    >>> [samples.tolist() for (samples,) in batches]
    [[2, 4], [3, 0], [1]]
    >>> x, classes = np.zeros((7, 5, 3)), np.arange(5)  # (T, N, D) and (N,)
    >>> [part.shape for part in next(Batches(x, classes, batch_size=2, axis=(1, 0), rng=0))]
    [(7, 2, 3), (2,)]
    """

    def __init__(
        self,
        *arrays: ArrayLike | None,
        batch_size: int,
        rng: np.random.Generator | int | None = None,
        axis: int | Sequence[int] = 0,
        epochs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        where = "Batches"
        self.arrays = [None if a is None else arguments.as_array(where, f"arrays[{i}]", a) for i, a in _each(arrays)]
        self.axes = _axes(where, axis, self.arrays)
        self.samples = _samples(where, self.arrays, self.axes)
        self._data = checksum(*(array for array in self.arrays if array is not None))
        self.batch_size = arguments.positive_int(where, "batch_size", batch_size)
        if self.batch_size > self.samples:
            raise OptionError(
                f"{where}: batch_size must be at most n = {self.samples}, the number of samples; got {batch_size}"
            )
        self.rng = arguments.generator(where, rng)
        self.epochs = None if epochs is None else arguments.positive_int(where, "epochs", epochs)
        self.shuffle = arguments.flag(where, "shuffle", shuffle)
        self.drop_last = arguments.flag(where, "drop_last", drop_last)
        self.epoch = 0
        # Samples of this epoch that have come; it is over where that is all of them, as before the first.
        self._order, self._position = np.arange(self.samples), self._used

    @property
    def _used(self) -> int:
        """The samples that an epoch shows."""
        return self.samples - self.samples % self.batch_size if self.drop_last else self.samples

    def __next__(self) -> Batch:
        if self._position >= self._used:
            if self.epoch == self.epochs:
                raise StopIteration
            if self.shuffle:
                self._order = self.rng.permutation(self.samples)
            self.epoch, self._position = self.epoch + 1, 0
        rows = self._order[self._position : min(self._position + self.batch_size, self._used)]
        self._position += len(rows)
        return self._of(rows)

    def _of(self, rows: Array) -> Batch:
        return tuple(None if a is None else a.take(rows, k) for a, k in zip(self.arrays, self.axes, strict=True))

    def in_order(self) -> Iterator[Batch]:
        """Go through all samples once, in the order of the arrays: for `evaluate`. Nothing is drawn or moved on."""
        for start in range(0, self.samples, self.batch_size):
            yield self._of(np.arange(start, min(start + self.batch_size, self.samples)))

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return -(-self._used // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch, position, the order of this epoch, the generator; copies."""
        return {
            "kind": "Batches",
            "samples": self.samples,
            "data": self._data,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "epoch": self.epoch,
            "position": self._position,
            "order": self._order.copy() if self.shuffle else None,
            "rng": state_of(self.rng),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, which has the same data and options.

        Raises
        ------
        StateDictError
            It has not, or `state` is no such state. Nothing is changed then.
        """
        where = "Batches.load_state_dict"
        have = {name: getattr(self, name) for name in ("samples", "batch_size", "shuffle", "drop_last")}
        found = checked_state(where, state, {"kind": "Batches", **have}, ("data", "epoch", "position", "order", "rng"))
        same_data(where, self._data, found["data"])
        epoch = whole_number(where, "epoch", found["epoch"])
        position = whole_number(where, "position", found["position"], self.samples)
        order = np.asarray(found["order"]) if self.shuffle else np.arange(self.samples)
        if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order, axis=None), np.arange(self.samples)):
            raise StateDictError(f"{where}: order must be a permutation of n = {self.samples} samples")
        load_generator(where, "rng", self.rng, found["rng"])
        self.epoch, self._position, self._order = epoch, position, order.astype(np.intp)

    def __repr__(self) -> str:
        ends = "" if self.epochs is None else f" of {self.epochs}"
        return f"Batches: {self.samples} samples by {self.batch_size}, epoch {self.epoch}{ends}"


class Windows(Iterator[Batch]):
    """A text as N columns, read by windows of T steps: what stateful truncated BPTT trains on.

    Column n is the n-th of N contiguous stretches of the text. A window is the next T steps of all columns, so that
    sequence n of a window goes on where sequence n of the window before ended: carry the final state over, as
    `train(..., stateful=True)` does. Where the text begins again (`restarts`) there is nothing to carry.

        text  a b c d e f g h i    N = 2, T = 3:   window 1  ids [a b c]  targets [b c d]    window 2  [d]  [e]
                                                                 [e f g]          [f g h]              [h]  [i]

    The last window of an epoch is shorter where T does not divide the columns. Fewer than N symbols at the end of the
    text are never read.

    Parameters
    ----------
    ids : int array_like, (S,)
        S - 1 >= N.
    batch : int
        N, the columns.
    length : int
        T, steps of a window.
    jitter : float
        Where above 0, the length of each window is drawn as AWD-LSTM [1]_ does, so that the cuts fall elsewhere in each
        epoch: normal about T, or about T / 2 at 5 % of the windows, with this standard deviation, in steps; rounded
        down, at least min(5, T) steps, at most T + 10 * jitter.
    rng : numpy.random.Generator, int or None
        Draws these lengths.
    epochs : int, optional
        Passes through the text; without end where left out.

    Attributes
    ----------
    epoch : int
        The epoch of the window that came last, 1, 2, ...; 0 before the first.
    restarts : bool
        Whether the next window begins the text again.
    steps : int
        Steps of a column, (S - 1) // N.
    rng : numpy.random.Generator

    Raises
    ------
    ShapeError, DTypeError, OptionError
        ids are not integers (S,), or there are not enough of them for N columns of one window each.

    References
    ----------
    .. [1] S. Merity, N. S. Keskar, R. Socher, "Regularizing and optimizing LSTM language models", ICLR (2018), section
       5. There the learning rate is scaled by the length of the window besides.

    Examples
    --------
    >>> windows = Windows(np.arange(9), batch=2, length=3, epochs=1)
    >>> ids, targets = next(windows)
    >>> ids.T.tolist(), targets.T.tolist(), windows.restarts
    ([[0, 1, 2], [4, 5, 6]], [[1, 2, 3], [5, 6, 7]], False)
    >>> ids, targets = next(windows)
    >>> ids.T.tolist(), targets.T.tolist(), windows.restarts
    ([[3], [7]], [[4], [8]], True)
    """

    def __init__(
        self,
        ids: ArrayLike,
        batch: int,
        length: int,
        *,
        jitter: float = 0.0,
        rng: np.random.Generator | int | None = None,
        epochs: int | None = None,
    ) -> None:
        where = "Windows"
        text = arguments.as_array(where, "ids", ids)
        if text.ndim != 1:
            raise ShapeError(f"{where}: ids must have shape (S,), one text; got {text.shape}")
        if text.size and text.dtype.kind not in "iu":
            raise DTypeError(f"{where}: ids must be integers; got dtype {text.dtype}")
        self.batch = arguments.positive_int(where, "batch", batch)
        self.length = arguments.positive_int(where, "length", length)
        self.steps = (len(text) - 1) // self.batch
        if self.steps < self.length:
            raise ShapeError(
                f"{where}: ids must have at least N * T + 1 = {self.batch} * {self.length} + 1 = "
                f"{self.batch * self.length + 1} symbols, one window of each column; got S = {len(text)}. Take fewer "
                "columns or shorter windows"
            )
        self.jitter = arguments.not_negative(where, "jitter", jitter)
        self.rng = arguments.generator(where, rng)
        self.epochs = None if epochs is None else arguments.positive_int(where, "epochs", epochs)
        used = self.batch * self.steps
        # (steps, N), each step a contiguous row.
        self.columns = np.ascontiguousarray(text[:used].reshape(self.batch, self.steps).T)
        self.targets = np.ascontiguousarray(text[1 : used + 1].reshape(self.batch, self.steps).T)
        self.samples, self._data = len(text), checksum(text)
        self.epoch, self._position = 0, self.steps

    @property
    def restarts(self) -> bool:
        """Whether the next window begins the text again, so that no state is to be carried to it."""
        return self._position >= self.steps

    def __next__(self) -> Batch:
        if self.restarts:
            if self.epoch == self.epochs:
                raise StopIteration
            self.epoch, self._position = self.epoch + 1, 0
        start, stop = self._position, min(self._position + self._next_length(), self.steps)
        self._position = stop
        return self.columns[start:stop], self.targets[start:stop]

    def _next_length(self) -> int:
        if self.jitter == 0:
            return self.length
        middle = self.length if self.rng.random() < 0.95 else self.length / 2
        drawn = int(self.rng.normal(middle, self.jitter))
        return min(max(drawn, min(5, self.length)), int(self.length + 10 * self.jitter))

    def in_order(self) -> Iterator[Batch]:
        """Go through the text once, by windows of T steps: for `evaluate`. Nothing is drawn or moved on."""
        for start in range(0, self.steps, self.length):
            yield self.columns[start : start + self.length], self.targets[start : start + self.length]

    def __len__(self) -> int:
        """Return the windows of an epoch; with jitter, of one whose windows all have T steps."""
        return -(-self.steps // self.length)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch, position, the generator; copies."""
        return {
            "kind": "Windows",
            "samples": self.samples,
            "data": self._data,
            "batch": self.batch,
            "length": self.length,
            "jitter": self.jitter,
            "epoch": self.epoch,
            "position": self._position,
            "rng": state_of(self.rng),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, of the same text and options.

        Raises
        ------
        StateDictError
            It is not, or `state` is no such state. Nothing is changed then.
        """
        where = "Windows.load_state_dict"
        have = {name: getattr(self, name) for name in ("samples", "batch", "length", "jitter")}
        found = checked_state(where, state, {"kind": "Windows", **have}, ("data", "epoch", "position", "rng"))
        same_data(where, self._data, found["data"])
        epoch = whole_number(where, "epoch", found["epoch"])
        position = whole_number(where, "position", found["position"], self.steps)
        load_generator(where, "rng", self.rng, found["rng"])
        self.epoch, self._position = epoch, position

    def __repr__(self) -> str:
        ends = "" if self.epochs is None else f" of {self.epochs}"
        return (
            f"Windows: {self.batch} columns of {self.steps} steps by {self.length}, at step {self._position} of epoch "
            f"{self.epoch}{ends}"
        )


class Draws(Iterator[Batch]):
    """Batches that are drawn, without end: of a task, or a function of one's own.

    Parameters
    ----------
    function : callable
        Called with the generator; returns a batch, a tuple. It must draw from nothing else and remember nothing.
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    epoch : int
        1: there is only one, which does not end.
    rng : numpy.random.Generator

    Examples
    --------
    >>> draws = Draws(lambda rng: (rng.normal(size=(10, 4, 1)), rng.integers(2, size=4)), rng=0)
    >>> x, classes = next(draws)
    >>> x.shape, classes.shape
    ((10, 4, 1), (4,))
    """

    epoch = 1

    def __init__(
        self, function: Callable[[np.random.Generator], Sequence[Any]], rng: np.random.Generator | int | None = None
    ) -> None:
        if not callable(function):
            raise DTypeError(f"Draws: function must be callable, with a generator; got {type(function).__name__}")
        self.function = function
        self.rng = arguments.generator("Draws", rng)

    def __next__(self) -> Batch:
        return tuple(self.function(self.rng))

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"kind": "Draws", "rng": state_of(self.rng)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood; StateDictError where `state` is no such state."""
        found = checked_state("Draws.load_state_dict", state, {"kind": "Draws"}, ("rng",))
        load_generator("Draws.load_state_dict", "rng", self.rng, found["rng"])

    def __repr__(self) -> str:
        return f"Draws: {getattr(self.function, '__qualname__', self.function)}"


class Listed(Iterator[Sequence[Any]]):
    """The batches of a list, once, one after the other; `train` makes it of a list that it is given."""

    epoch = 1

    def __init__(self, batches: Sequence[Sequence[Any]]) -> None:
        self.batches, self._position = batches, 0

    def __next__(self) -> Sequence[Any]:
        if self._position >= len(self.batches):
            raise StopIteration
        self._position += 1
        return self.batches[self._position - 1]

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches have come."""
        return {"kind": "Listed", "samples": len(self.batches), "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, of a list as long; StateDictError where it is not."""
        where, samples = "Listed.load_state_dict", len(self.batches)
        found = checked_state(where, state, {"kind": "Listed", "samples": samples}, ["position"])
        self._position = whole_number(where, "position", found["position"], samples)


def same_data(where: str, here: int, there: Any) -> None:
    """Refuse a state of other data; `here` and `there` are their checksums."""
    if here != there:
        raise StateDictError(f"{where}: the data are not those of the state, though there are as many")


def _each(arrays: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    if not any(array is not None for array in arrays):
        raise DTypeError("Batches: arrays must have at least one array")
    return iter(enumerate(arrays))


def _axes(where: str, axis: Any, arrays: Sequence[Array | None]) -> list[int]:
    """Return the axis of samples of each array, not negative."""
    given = list(axis) if isinstance(axis, Sequence) else [axis] * len(arrays)
    if len(given) != len(arrays):
        raise OptionError(f"{where}: axis must be one axis, or one of each of {len(arrays)} arrays; got {axis!r}")
    axes = []
    for index, (k, array) in enumerate(zip(given, arrays, strict=True)):
        k = arguments.integer(where, "axis", k)
        if array is not None and not -array.ndim <= k < array.ndim:
            raise ShapeError(
                f"{where}: arrays[{index}] must have axis {k}, that of the samples; got shape {array.shape}"
            )
        axes.append(k % array.ndim if array is not None else k)
    return axes


def _samples(where: str, arrays: Sequence[Array | None], axes: Sequence[int]) -> int:
    """Return n, which must be the same in all arrays."""
    sizes: dict[int, int] = {i: a.shape[k] for i, (a, k) in enumerate(zip(arrays, axes, strict=True)) if a is not None}
    first, n = next(iter(sizes.items()))
    for index, size in sizes.items():
        if size != n:
            raise ShapeError(
                f"{where}: arrays must have the same number of samples; arrays[{first}] has n = {n} along axis "
                f"{axes[first]}, arrays[{index}] has {size} along axis {axes[index]}. `axis` says which one it is"
            )
    return n
