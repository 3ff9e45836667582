"""Where a long pass has its whole arrays: in memory, or in a folder (`rnn_numpy.engine.in_folder`).

A place in a pass is three numbers: the pass (0 forward, 1 backward, 2 both are through), the direction of a layer as
the pass visits them, the blocks of it that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.batch import Batch

Array = NDArray[Any]
Place = tuple[int, int, int]
START: Place = (0, 0, 0)
FORWARD_DONE: Place = (1, 0, 0)
THROUGH: Place = (2, 0, 0)


class InMemory:
    """Nothing outlives the process.

    Attributes
    ----------
    found : tuple of int
        The place at which the pass goes on.
    arrays : dict of str to ndarray
        What was carried there.
    words : str
        Where it is, for people; empty at the beginning.
    """

    def __init__(self) -> None:
        self.found: Place = START
        self.arrays: dict[str, Array] = {}
        self.words = ""
        self.about = 0

    def begin_backward(self, parts: Iterable[Any]) -> None:
        """Note what a backward pass is asked for, gradients and None: one that was asked for others begins anew."""

    def end(self) -> None:
        """Note that both passes are through: a further backward pass begins anew."""
        self.found, self.arrays = FORWARD_DONE, {}

    def new(
        self, name: str, batch: Batch, rows: int, width: int, dtype: np.dtype[Any], columns: bool, phase: int = 0
    ) -> Array:
        """Return an array (rows, N, width) that a pass writes, zeros where no block does."""
        return batch.new(rows, width, dtype, columns)

    def done(self, phase: int, section: int, blocks: int) -> int:
        """Return how many of a direction's blocks are done."""
        if (phase, section) == self.found[:2]:
            return self.found[2]
        return blocks if (phase, section) < self.found[:2] else 0

    def save(self, place: Place, words: str, carried: Callable[[], dict[str, Array]], now: bool = False) -> None:
        """Note that a pass has come to a place; `words` says it to people."""
