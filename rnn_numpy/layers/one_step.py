"""Cells: one step of an RNN, an LSTM or a GRU at a time, for a time loop of one's own.

A cell computes nothing itself. It holds a layer of one direction and runs it for a single step, so that the formulas
and their derivations are those of `rnn_numpy.layers.rnn`, `lstm` and `gru`; what is added here is the shape of a step,
(N, ·) in place of (T, N, ·), and torch.nn's names of a cell's parameters, without the layer's suffix "_l0".

Back-propagation through time is then a loop that a user writes, newest step first:

    dh = doutput[T-1]
    for t = T-1 ... 0:
        back = cell.backward(traces[t], dh, grads)       adds this step's share to grads
        dh   = back.dh_prev + doutput[t-1]               what the future says, and what the loss says directly
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.elsewhere import Elsewhere
from rnn_numpy.core.parameters import Gradients, Parameters
from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.engine.walk import Direction
from rnn_numpy.errors import DTypeError, ShapeError
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.rnn import RNN

Array = NDArray[Any]


class StepBackwardResult(Gradients):
    """What the backward pass of a cell returns.

    dx, like x; dh_prev, the gradient of the state that the step read, and of an LSTM's cell dc_prev; grads, those of
    the parameters, the same object that was handed in, if one was.
    """

    dh_prev: Array
    dc_prev: Array


class _OneStep(Recurrent):
    """The layer inside of a cell: its parameters have no suffix, and in messages it has the cell's name."""

    def __init_subclass__(cls, cell: str) -> None:
        cls.__name__ = cell

    def full_name(self, name: str, direction: Direction) -> str:
        return name


class _RNNStep(_OneStep, RNN, cell="RNNCell"): ...


class _LSTMStep(_OneStep, LSTM, cell="LSTMCell"): ...


class _GRUStep(_OneStep, GRU, cell="GRUCell"): ...


class StepCell(Elsewhere):
    """Base of the cells: a layer, run for one step at a time. See `RNNCell` for the meaning of arguments."""

    def __init__(self, layer: Recurrent) -> None:
        self._layer = layer
        self.input_size, self.hidden_size, self.bias = layer.input_size, layer.hidden_size, layer.bias
        self._latest: weakref.ref[LayerTrace] | None = None

    @property
    def cell(self) -> Cell:
        """The formulas, and the names of their gates."""
        return self._layer.cell

    @property
    def params(self) -> Parameters:
        """The parameters, all of them views of `params.flat`."""
        return self._layer.params

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, inputs and states."""
        return self._layer.dtype

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the parameters under torch.nn's names, in torch.nn's order."""
        return self.params.state_dict()

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Copy parameters in; see `Parameters.load_state_dict` for what is refused."""
        self.params.load_state_dict(mapping)

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin of this cell with its parameters converted to `dtype`."""
        twin = copy.copy(self)
        twin._layer = self._layer.astype(dtype)
        return twin

    def __call__(self, x: ArrayLike, h: Any = None) -> Any:
        """Run one step for its state alone, which is `forward`'s bit for bit; arguments and errors are the same."""
        signal, states = self._inputs(f"{type(self).__name__}.forward", x, h)
        _, finals = self._layer(signal, states)
        return _map(lambda state: state[0], finals)

    def forward(self, x: ArrayLike, h: Any = None) -> tuple[Any, Trace]:
        """Run one step and record what its backward pass needs.

        Parameters
        ----------
        x : ndarray, (N, D), or (D,) for one sequence
            The input of the step. Copied into the trace: later changes of `x` do no harm.
        h : ndarray, (N, H), or (H,) for one sequence, optional
            The state before the step; zeros where left out. For an LSTM a pair (h, c) of such.

        Returns
        -------
        h : ndarray, like h, or a tuple of such
            The state after the step.
        trace : Trace
            For `backward`, and for reading: `trace[0]` is the step, with its arrays under the names of the formulas.

        Notes
        -----
        The trace has a copy of the weights, for the gradient is that of what was computed; traces of steps share one as
        long as the parameters do not change.
        """
        signal, states = self._inputs(f"{type(self).__name__}.forward", x, h)
        _, finals, trace = self._layer.forward(signal, states)
        self._share_weights(trace.top)
        return _map(lambda state: state[0], finals), trace

    def backward(self, trace: Trace, dh: Any, grads: Parameters | None = None) -> StepBackwardResult:
        """Back-propagate through one step.

        Parameters
        ----------
        trace : Trace
            From `forward` of this cell; it holds the parameters that the step was made with.
        dh : ndarray, like h, or None
            Total gradient at the state after the step, from the loss and from the steps that came after. None stands
            for zeros. For an LSTM a pair (dh, dc).
        grads : Parameters, optional
            Gradients are added to these (`cell.params.zeros_like()` makes them): hand in the same ones at every step.
            New ones are made where left out.

        Returns
        -------
        StepBackwardResult
            dx, dh_prev (for an LSTM also dc_prev) and grads.

        Notes
        -----
        A layer multiplies the gradients of all steps at once, which is faster than adding up one step at a time.
        """
        where = f"{type(self).__name__}.backward"
        if not isinstance(trace, Trace):
            raise DTypeError(f"{where}: trace must be the second result of forward; got {type(trace).__name__}")
        if trace.edge.signature != self._layer.signature():
            raise ShapeError(f"{where}: trace was recorded by a cell with other options, not by this {self!r}")
        batch = None if trace.edge.unbatched else trace.edge.batch.N
        names = [f"d{state}" for state in self._layer.cell.states]
        back = self._layer.backward(trace, None, self._states(where, names, dh, batch), grads)
        states = {f"d{state}_prev": getattr(back, f"d{state}_0")[0] for state in self._layer.cell.states}
        return StepBackwardResult(back.dx[0], states, back.grads)

    def _inputs(self, where: str, x: ArrayLike, h: Any) -> tuple[Array, Any]:
        """Check x and the states; return them with an axis of one step, and of one layer, in front."""
        array, D = arguments.array_of(where, "x", x, self.dtype), self.input_size
        if array.ndim not in (1, 2):
            raise ShapeError(
                f"{where}: x must be (N, D), or (D,) for one sequence; got {array.ndim} axes, {array.shape}"
            )
        if array.shape[-1] != D:
            symbols = "(N, D)" if array.ndim == 2 else "(D,)"
            raise ShapeError(f"{where}: x must have shape {symbols} with D = input_size = {D}; got {array.shape}")
        batch = len(array) if array.ndim == 2 else None
        return array[None], self._states(where, list(self._layer.cell.states), h, batch)

    def _states(self, where: str, names: list[str], value: Any, batch: int | None) -> Any:
        """Check states, or gradients of states; return each with an axis of one layer in front."""
        if value is None:
            return None
        if len(names) == 1 and isinstance(value, tuple):
            raise DTypeError(f"{where}: {names[0]} must be one array; got a tuple of {len(value)}")
        values = (value,) if len(names) == 1 else value
        if not isinstance(values, tuple) or len(values) != len(names):
            got = f"a tuple of {len(values)}" if isinstance(values, tuple) else type(values).__name__
            raise DTypeError(f"{where}: {names[0]} must be a tuple of arrays, ({', '.join(names)}); got {got}")
        H = self.hidden_size
        symbols, shape = ("(H,)", (H,)) if batch is None else ("(N, H)", (batch, H))
        arrays = []
        for name, part in zip(names, values, strict=True):
            array = arguments.array_of(where, name, part, self.dtype)
            arrays.append(arguments.shaped(where, name, array, symbols, shape)[None])
        return arrays[0] if len(names) == 1 else tuple(arrays)

    def _share_weights(self, run: LayerTrace) -> None:
        """Give a trace the weights of the one before, where they are the same: a loop of T steps needs one copy."""
        before = None if self._latest is None else self._latest()
        if before is not None and all(np.array_equal(run.weights[name], before.weights[name]) for name in run.weights):
            run.weights = before.weights
        self._latest = weakref.ref(run)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None}

    def __repr__(self) -> str:
        return repr(self._layer)


class RNNCell(StepCell):
    """One step of an Elman RNN, with the options, names, shapes and initialisation of torch.nn.RNNCell.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh); the module `rnn_numpy.layers.rnn` derives its gradients.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    bias : bool
        Without, b_ih and b_hh are left out.
    nonlinearity : {"tanh", "relu"}
    dtype : {float32, float64, complex128}
        complex128 is for the complex-step derivative.
    rng : numpy.random.Generator, int or None
        Draws the parameters from U(-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    params : Parameters
        weight_ih (H, D), weight_hh (H, H), bias_ih, bias_hh (H,).

    Raises
    ------
    DTypeError, OptionError
        An option has the wrong type or an impossible value.

    Examples
    --------
    A time loop, and its gradient, by hand:

    >>> import numpy as np
    >>> cell = RNNCell(2, 3, rng=0)
    >>> x, h, traces = np.ones((4, 1, 2)), np.zeros((1, 3)), []
    >>> for x_t in x:
    ...     h, trace = cell.forward(x_t, h)
    ...     traces.append(trace)
    >>> dh, grads = np.ones((1, 3)), cell.params.zeros_like()  # the loss is the sum of the last state
    >>> for trace in reversed(traces):
    ...     back = cell.backward(trace, dh, grads)
    ...     dh = back.dh_prev

    The layer does the same in one call:

    >>> from rnn_numpy import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> output, h_n, trace = rnn.forward(x)
    >>> same = rnn.backward(trace, None, np.ones((1, 1, 3)))
    >>> bool(np.allclose(same.grads.flat, grads.flat, rtol=1e-13, atol=0))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *,
        dtype: DTypeLike = np.float64, rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(_RNNStep(input_size, hidden_size, nonlinearity=nonlinearity, bias=bias, dtype=dtype, rng=rng))
        self.nonlinearity = nonlinearity


class LSTMCell(StepCell):
    """One step of an LSTM, with the options, names, shapes and initialisation of torch.nn.LSTMCell.

    Its state is the pair (h, c): `h, c = cell(x, (h, c))`. The module `rnn_numpy.layers.lstm` derives its gradients.

    Parameters
    ----------
    input_size, hidden_size, bias, dtype, rng
        As for `RNNCell`.
    forget_bias : float, optional
        The forget gate's total bias at first; drawn as all others where left out.

    Attributes
    ----------
    params : Parameters
        weight_ih (4H, D), weight_hh (4H, H), bias_ih, bias_hh (4H,); blocks of rows i, f, g, o.

    Examples
    --------
    >>> import numpy as np
    >>> cell = LSTMCell(2, 3, rng=0)
    >>> (h, c), trace = cell.forward(np.ones((1, 2)))
    >>> back = cell.backward(trace, (np.ones((1, 3)), np.zeros((1, 3))))
    >>> back
    StepBackwardResult(dx (1, 2), dh_prev (1, 3), dc_prev (1, 3), grads of weight_ih, weight_hh, bias_ih, bias_hh)
    >>> step = trace[0]
    >>> bool(np.allclose(back.dc_prev, step.dc * step.f, rtol=1e-14))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, forget_bias: float | None = None,
        dtype: DTypeLike = np.float64, rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(_LSTMStep(input_size, hidden_size, bias=bias, forget_bias=forget_bias, dtype=dtype, rng=rng))


class GRUCell(StepCell):
    """One step of a GRU, with the options, names, shapes and initialisation of torch.nn.GRUCell.

    h_t = (1 - z_t) * n_t + z_t * h_{t-1}; the module `rnn_numpy.layers.gru` derives the gradients of both forms.

    Parameters
    ----------
    input_size, hidden_size, bias, dtype, rng
        As for `RNNCell`.
    reset : {"after", "before"}
        Whether r_t acts on W_hn h_{t-1} + b_hn, as in torch, or on h_{t-1} before that product.

    Attributes
    ----------
    params : Parameters
        weight_ih (3H, D), weight_hh (3H, H), bias_ih, bias_hh (3H,); blocks of rows r, z, n.

    Examples
    --------
    >>> import numpy as np
    >>> cell = GRUCell(2, 3, rng=0)
    >>> h, trace = cell.forward(np.ones(2), np.zeros(3))  # one sequence, without a batch axis
    >>> bool(np.array_equal(h, cell(np.ones(2), np.zeros(3))))
    True
    >>> cell.backward(trace, np.ones(3)).dh_prev.shape
    (3,)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, reset: str = "after",
        dtype: DTypeLike = np.float64, rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(_GRUStep(input_size, hidden_size, bias=bias, reset=reset, dtype=dtype, rng=rng))
        self.reset = reset


def _map(function: Any, states: Any) -> Any:
    return tuple(map(function, states)) if isinstance(states, tuple) else function(states)
