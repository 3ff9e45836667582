"""One step of a layer, made again and again on states of the caller's choosing: what decoding does.

A call of a layer checks its arguments, copies weights into the order in which formulas read them, takes memory, and
works out which rows each argument of each formula is; for a single step all that takes several times as long as the
step. A `Stepper` does it once, for a number of rows. Formulas, products and their order are the driver's, and so are
the bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import NONE
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.walk import Up
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

FIRST = range(1)


class Stepper:
    """Steps of a layer on N rows, with its weights of this moment, without dropout and without a record.

    Parameters
    ----------
    layer : Recurrent
        Of one direction.
    rows : int
        N.
    given : mapping of ndarray, (N, ·), optional
        All that the cell is given at every step, the rows in front, in the form of the engine; `load` takes others.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> lstm, x = LSTM(2, 3, rng=0), np.ones((4, 5, 2))
    >>> step, states = Stepper(lstm, 5), (np.zeros((1, 5, 3)), np.zeros((1, 5, 3)))
    >>> for x_t in x:
    ...     output_t, states = step(x_t, states)
    >>> bool(np.array_equal(output_t, lstm(x)[0][-1]))
    True
    """

    def __init__(self, layer: Recurrent, rows: int, given: Mapping[str, Array] | None = None) -> None:
        where = "Stepper"
        if layer.num_directions != 1:
            raise OptionError(f"{where}: layer must not be bidirectional: its reverse direction begins at the end")
        if "forward" not in layer.cell.tried:
            layer.trial("forward")
        batch, dtype, names = Batch(1, rows, None), layer.params.dtype, layer.cell.states
        edge = Edge(layer, False, None, batch)
        self._given = {name: np.array(array, order="C") for name, array in (given or {}).items()}
        if self._given:
            edge.give(layer, self._given)
        self.loaded: Any = None  # for callers to remember what is loaded
        masks = layer.state_masks(where, None, None, False, batch)
        self._x = np.zeros((1, rows, layer.input_size), dtype)
        self._layers: list[tuple[Callable[[range], Array], list[tuple[Any, tuple[Array, ...]]]]] = []
        self._before: list[list[Array]] = []
        self._after: list[list[Array]] = []
        walk = Up(layer.stack, None, self._x)
        params = layer.params.copy()
        for direction in walk:
            chosen = masks.get(direction.name, NONE)
            run = layer.open_forward(direction, edge, walk.signal, [None] * len(names), chosen, params, record=False)
            binding = run.binding
            calls = [(formula, next(arguments)) for formula, arguments in binding.calls("forward")]
            self._layers.append((layer.filling(run), calls))
            self._before.append([binding.arrays[name][binding.entry] for name in names])
            self._after.append([binding.arrays[name][binding.exit] for name in names])
            self.arrays = binding.arrays  # the last layer's: what its step writes
            walk.give(binding.output(binding.arrays[names[0]]))
        self._output = walk.signal

    def load(self, given: Mapping[str, Array]) -> None:
        """Take other given arrays, of the same shapes."""
        for name, array in given.items():
            self._given[name][...] = array

    def __call__(self, x_t: Array, states: Sequence[Array]) -> tuple[Array, tuple[Array, ...]]:
        """Make a step from x_t (N, D) and states, each (num_layers, N, H); return its output (N, H) and the new states.

        Nothing is checked.
        """
        self._x[0] = x_t
        finals = tuple([np.empty(state.shape, state.dtype) for state in states])
        for i, (fill, calls) in enumerate(self._layers):
            for array, state in zip(self._before[i], states, strict=True):
                array[...] = state[i]
            fill(FIRST)
            for formula, arguments in calls:
                formula(*arguments)
            for array, state in zip(self._after[i], finals, strict=True):
                state[i] = array
        return self._output[0].copy(), finals
