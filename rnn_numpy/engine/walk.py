"""Layers, directions, and the dropout factors between layers: the one walk up, and the one walk down.

Whatever goes through a stack, signals, gradients, changes or bounds of rounding, goes in one of these orders:

    walk = Up(layers, factors, x)                      walk = Down(layers, factors, doutput)
    for direction in walk:                             for direction in walk:
        walk.give(output of walk.signal)                   walk.give(dx of walk.signal)
    walk.signal is the last layer's output             walk.signal is the gradient of x

The outputs of a layer's directions stand side by side, so that their gradients are added up below; between two layers
all is multiplied with the factors, which are those of the outputs of all layers but the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Direction:
    """One direction of one layer: its name, its row in arrays of initial and final states, its columns in outputs."""

    name: str
    layer: int
    reverse: bool
    row: int
    columns: slice


class Up:
    """The walk from the lowest layer to the last one.

    `layers` has the directions of each layer, `factors` what each layer's outputs, but the last's, are multiplied with,
    (T, N, directions * H). `signal` is what the present layer reads, (T, N, ·) or None; in the end, what the last gave.
    """

    def __init__(self, layers: Sequence[Sequence[Direction]], factors: Sequence[Array] | None, signal: Any) -> None:
        self.layers, self.factors, self.signal = layers, factors, signal
        self._outputs: list[Array] = []

    def __iter__(self) -> Iterator[Direction]:
        for directions in self.layers:
            self._outputs = []
            yield from directions
            outputs = self._outputs
            self.signal = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)
            if self.factors is not None and directions is not self.layers[-1]:
                self.signal = self.signal * self.factors[directions[0].layer]

    def give(self, output: Array) -> None:
        """Hand in the output of the present direction, (T, N, H)."""
        self._outputs.append(output)


class Down:
    """The walk from the last layer to the lowest one; `signal` begins as what comes to the last layer's outputs, (T, N,
    directions * H) or None, and ends as what comes to the input.
    """

    def __init__(self, layers: Sequence[Sequence[Direction]], factors: Sequence[Array] | None, signal: Any) -> None:
        self.layers, self.factors, self.signal = layers, factors, signal
        self._sum: Any = None

    def __iter__(self) -> Iterator[Direction]:
        for directions in reversed(self.layers):
            self._sum = None
            yield from directions
            self.signal, layer = self._sum, directions[0].layer
            if self.factors is not None and layer > 0:
                self.signal = self.signal * self.factors[layer - 1]

    def give(self, share: Array) -> None:
        """Hand in what the present direction hands down, (T, N, ·)."""
        self._sum = share if self._sum is None else self._sum + share
