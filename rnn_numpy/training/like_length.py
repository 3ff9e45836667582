"""Batches of sequences of like length, so that little of a batch is padding.

An epoch draws an order of all samples, sorts it by length (of the first sequences, then of the second, and so on; equal
ones stay in the order drawn), cuts it into batches, and draws an order of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, ShapeError, StateDictError
from rnn_numpy.training.batches import Batch, same_data
from rnn_numpy.training.saved import checked_state, checksum, load_generator, state_of, whole_number

Array = NDArray[Any]


class LikeLength(Iterator[Batch]):
    """Batches of padded sequences, those of like length together, in a new order each epoch.

    Parameters
    ----------
    *sequences : (array_like, array_like)
        Padded sequences (T, n, ...) and their lengths (n,), of as many kinds as a sample has: sources and targets, say.
        A batch is (x, lengths) of each kind, one after the other, x cut after the longest one of the batch.
    batch_size : int
        N, at most n. The shortest or the longest of an epoch may come in a batch of fewer.
    rng : numpy.random.Generator, int or None
        Draws the orders of each epoch.
    epochs : int, optional
        Passes through all samples; without end where left out.

    Attributes
    ----------
    epoch : int
        The epoch of the batch that came last, 1, 2, ...; 0 before the first.
    samples : int
        n.
    rng : numpy.random.Generator

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The arrays do not hold the same number of samples, or an option has an impossible value.

    Examples
    --------
    >>> x = np.array([[1, 2, 3, 4], [0, 2, 0, 4], [0, 2, 0, 0]])  # of 1, 3, 1 and 2 steps
    >>> batches = LikeLength((x, [1, 3, 1, 2]), batch_size=2, rng=1, epochs=1)
    >>> for ids, lengths in batches:
    ...     print(ids.T.tolist(), lengths)
    [[1], [3]] [1 1]
    [[4, 4, 0], [2, 2, 2]] [2 3]
    """

    def __init__(
        self,
        *sequences: tuple[ArrayLike, ArrayLike],
        batch_size: int,
        rng: np.random.Generator | int | None = None,
        epochs: int | None = None,
    ) -> None:
        where = "LikeLength"
        if not sequences or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in sequences):
            raise DTypeError(f"{where}: sequences must be pairs of an array (T, n, ...) and lengths (n,), at least one")
        self.arrays: list[Array] = []
        self.lengths: list[NDArray[np.intp]] = []
        for k, (x, lengths) in enumerate(sequences):
            array, found = (arguments.as_array(where, f"sequences[{k}]", part) for part in (x, lengths))
            if array.ndim < 2 or not array.shape[1]:
                raise ShapeError(
                    f"{where}: sequences[{k}] must have shape (T, n, ...), n at least 1; got {array.shape}"
                )
            arguments.sequence_lengths(f"{where}, sequences[{k}]", found, *array.shape[:2])
            self.arrays.append(array)
            self.lengths.append(found.astype(np.intp))
        self.samples: int = self.arrays[0].shape[1]
        for k, array in enumerate(self.arrays):
            if array.shape[1] != self.samples:
                raise ShapeError(
                    f"{where}: sequences must have the same number of samples; sequences[0] has n = {self.samples}, "
                    f"sequences[{k}] has {array.shape[1]}"
                )
        self._data = checksum(*self.arrays, *self.lengths)
        self.batch_size = arguments.positive_int(where, "batch_size", batch_size)
        if self.batch_size > self.samples:
            raise OptionError(
                f"{where}: batch_size must be at most n = {self.samples}, the number of samples; got {batch_size}"
            )
        self.rng = arguments.generator(where, rng)
        self.epochs = None if epochs is None else arguments.positive_int(where, "epochs", epochs)
        self.epoch = 0
        # The order of the samples of this epoch, that of its batches, and how many of these have come: all, at first.
        self._order, self._turns, self._position = np.arange(self.samples), np.arange(len(self)), len(self)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return -(-self.samples // self.batch_size)

    def __next__(self) -> Batch:
        if self._position == len(self):
            if self.epoch == self.epochs:
                raise StopIteration
            drawn = self.rng.permutation(self.samples)
            # lexsort sorts by its last key first, and is stable.
            self._order = drawn[np.lexsort([lengths[drawn] for lengths in reversed(self.lengths)])]
            self._turns = self.rng.permutation(len(self))
            self.epoch, self._position = self.epoch + 1, 0
        turn = self._turns[self._position]
        self._position += 1
        return self._of(self._order[turn * self.batch_size : (turn + 1) * self.batch_size])

    def _of(self, rows: Array) -> Batch:
        batch: list[Array] = []
        for array, lengths in zip(self.arrays, self.lengths, strict=True):
            batch += [array[: lengths[rows].max(), rows], lengths[rows]]
        return tuple(batch)

    def in_order(self) -> Iterator[Batch]:
        """Go through all samples once, the shortest first: for `evaluate`. Nothing is drawn or moved on."""
        order = np.lexsort(self.lengths[::-1])
        for start in range(0, self.samples, self.batch_size):
            yield self._of(order[start : start + self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch, position, the orders of this epoch, the generator; copies."""
        return {
            "kind": "LikeLength",
            "samples": self.samples,
            "data": self._data,
            "batch_size": self.batch_size,
            "epoch": self.epoch,
            "position": self._position,
            "order": self._order.copy(),
            "turns": self._turns.copy(),
            "rng": state_of(self.rng),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, which has the same data and options.

        Raises
        ------
        StateDictError
            It has not, or `state` is no such state. Nothing is changed then.
        """
        where = "LikeLength.load_state_dict"
        have = {name: getattr(self, name) for name in ("samples", "batch_size")}
        names = ("data", "epoch", "position", "order", "turns", "rng")
        found = checked_state(where, state, {"kind": "LikeLength", **have}, names)
        same_data(where, self._data, found["data"])
        epoch = whole_number(where, "epoch", found["epoch"])
        position = whole_number(where, "position", found["position"], len(self))
        orders = []
        for name, size in (("order", self.samples), ("turns", len(self))):
            order = np.asarray(found[name])
            if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order, axis=None), np.arange(size)):
                raise StateDictError(f"{where}: {name} must be a permutation of {size} numbers")
            orders.append(order.astype(np.intp))
        load_generator(where, "rng", self.rng, found["rng"])
        self.epoch, self._position, (self._order, self._turns) = epoch, position, orders

    def __repr__(self) -> str:
        ends = "" if self.epochs is None else f" of {self.epochs}"
        return f"LikeLength: {self.samples} samples by {self.batch_size}, epoch {self.epoch}{ends}"
