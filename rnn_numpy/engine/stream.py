"""A layer one step at a time, its state kept between the steps: what `layer.stream()` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.stepper import BoundSteps, with_own_parameters
from rnn_numpy.errors import OptionError

if TYPE_CHECKING:
    from rnn_numpy.engine.recurrent import Recurrent

Array = NDArray[Any]
States = Sequence[Array | None]


class Stream:
    """A layer that is fed one step at a time and keeps its state: `layer.stream()` makes one.

    All that does not change from step to step is done once: weights are copied, arguments of formulas found, memory
    taken. Later changes of the layer's parameters make no difference to a stream. There is no dropout; zoneout takes
    the mean, as in a call of the layer.

    Of one sequence, each step is what a call of the layer with that one step is, from the same state, bit for bit. A
    call with all steps at once takes the products W_ih x_t of all of them together, and for several sequences a stream
    has the weights in another memory order, and large ones in pieces: BLAS then adds in another order, and outputs are
    equal to rounding.

    A stream must not step in two threads at a time; `copy` gives each its own, on the same weights.

    Parameters
    ----------
    layer, batch, h_0, given
        As of `Recurrent.stream`, which is to be called.
    fastest : bool
        Without, the weights of several sequences, too, lie as a call has them, and each step has its bits.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> lstm, x = LSTM(2, 3, rng=0), np.ones((4, 1, 2))
    >>> stream = lstm.stream()
    >>> y = [stream.step(x_t) for x_t in x]
    >>> output, (h_n, c_n) = lstm(x)
    >>> bool(np.allclose(y, output, rtol=1e-13, atol=0))
    True

    The state can be read, and set, as h_n and h_0 are:

    >>> h, c = stream.state
    >>> h.shape
    (1, 1, 3)
    >>> other = stream.copy()
    >>> stream.state = np.zeros((1, 1, 3)), c
    >>> bool(np.array_equal(stream.step(x[0]), other.step(x[0])))
    False
    >>> stream.reset()
    >>> bool(np.array_equal(stream.step(x[0]), y[0]))
    True
    """

    # A slip, stream.states = h, is an error.
    __slots__ = (
        "__weakref__", "_calls", "_dtype", "_edge", "_fastest", "_initial", "_layer", "_outputs", "_shape", "_steps",
        "_turn", "_x",
    )  # fmt: skip

    def __init__(
        self,
        layer: Recurrent,
        batch: int | None = 1,
        h_0: Any = None,
        given: Mapping[str, ArrayLike] | None = None,
        fastest: bool = True,
    ) -> None:
        where = f"{type(layer).__name__}.stream"
        if layer.num_directions != 1:
            raise OptionError(
                f"{where}: the layer must not be bidirectional: its reverse direction begins at the end of a sequence, "
                "which a stream does not know. Call the layer with whole sequences, or make it with bidirectional=False"
            )
        rows = 1 if batch is None else arguments.positive_int(where, "batch", batch, least=0)
        edge = Edge(layer, batch is None, None, Batch(1, rows, None))
        if given is not None or layer.cell.given:
            edge.give(layer, layer.given_arrays(where, edge, given))
        initial = _copies(edge.states_in(where, "h_0", h_0))
        self._set_up(with_own_parameters(layer), edge, fastest, initial, initial)

    def _set_up(
        self,
        layer: Recurrent,
        edge: Edge,
        fastest: bool,
        initial: States,
        state: States,
        like: BoundSteps | None = None,
    ) -> None:
        self._layer, self._edge, self._fastest, self._initial = layer, edge, fastest, initial
        self._steps = BoundSteps(layer, edge, fastest, like)
        self._steps.load(state)
        pick = 0 if edge.unbatched else slice(None)
        self._x, self._outputs = self._steps.x[pick], [output[pick] for output in self._steps.outputs]
        self._shape, self._dtype = self._x.shape, self._x.dtype
        self._calls, self._turn = self._steps.calls, 0

    def step(self, x: ArrayLike) -> Array:
        """Read the input of one step; return the output.

        Parameters
        ----------
        x : ndarray, (N, D), or (D,) where the stream was made with batch=None
            D = input_size, dtype that of the layer.

        Returns
        -------
        ndarray, (N, H), or (H,)
            The last layer's state after the step, a new array.

        Raises
        ------
        ShapeError, DTypeError
            x does not fit; the state is then what it was.
        """
        if type(x) is not np.ndarray or x.shape != self._shape or x.dtype != self._dtype:
            x = self._checked(x)
        turn = self._turn
        self._x[...] = x
        for function, bound in self._calls[turn]:
            function(*bound)
        self._turn = 1 - turn
        y: Array = self._outputs[turn].copy("K")  # in the order in which a call of the layer has it
        return y

    def _checked(self, x: Any) -> Array:
        """Return what is an array of the right shape and dtype as an ndarray."""
        array = arguments.array_of("Stream.step", "x", x, self._dtype)
        symbols = "(D,)" if self._edge.unbatched else "(N, D)"
        hint = "N is the batch of layer.stream(batch=N); for steps (D,) it is None"
        return arguments.shaped("Stream.step", "x", array, symbols, self._shape, hint)

    @property
    def state(self) -> Any:
        """A copy of the state, like h_n: (num_layers, N, H), or (num_layers, H) where the stream was made with
        batch=None; of a layer with several states, an LSTM's h and c, a tuple. It can be set to what h_0 can be.
        """
        states = self._edge.states_out(self._steps.kept(self._turn))
        return states[0] if len(states) == 1 else states

    @state.setter
    def state(self, value: Any) -> None:
        """Copy a state in; zeros for None."""
        self._steps.load(self._edge.states_in("Stream.state", "h", value), self._turn)

    def reset(self) -> None:
        """Go back to the initial state: the `h_0` that the stream was made with, or zeros."""
        self._steps.load(self._initial, self._turn)

    def copy(self) -> Self:
        """Return a stream in the same state that goes on by itself. It shares the weights, and what is given."""
        made: Self = object.__new__(type(self))
        made._set_up(self._layer, self._edge, self._fastest, self._initial, self._steps.kept(self._turn), self._steps)
        return made

    __copy__ = copy

    def __getstate__(self) -> dict[str, Any]:
        # Arrays that are views of each other would not be, once they are read.
        found = {"layer": self._layer, "edge": self._edge, "fastest": self._fastest, "initial": self._initial}
        return {**found, "state": self._steps.kept(self._turn)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_up(**state)

    def __repr__(self) -> str:
        return f"Stream({self._layer!r}, batch={None if self._edge.unbatched else self._edge.batch.N})"


def _copies(states: States) -> States:
    return [None if state is None else state.copy() for state in states]
