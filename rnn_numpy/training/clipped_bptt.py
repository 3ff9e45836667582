r"""Clipping inside of time: the gradient of the state is capped on its way back, step by step.

Backpropagation through time hands the gradient of the whole state, (dL/dh_k, and dL/dc_k of an LSTM), from step k+1 to
step k. Write s_k for that state and ds_k for its gradient, the loss's own part at step k included. Here each ds_k that
has come back by at least one step is shortened before step k reads it, for each sequence by itself:

    (C1)  ds_k[n] <- ds_k[n] * min(1, max_norm / ||ds_k[n]||_2)          k = T-2 ... 0, and the initial state

so that no product of Jacobians can explode: a norm grows by one Jacobian at most before it is cut back to max_norm.
The gradient that enters at a sequence's last step has not travelled yet and is left as it is, and so is what is handed
from a layer to the one below.

*What comes out is not the gradient of the loss any more*, once any step was capped, nor in general that of any other
function: no gradient check can hold for it, and none should be run on it. With a limit that is never reached it is the
gradient, bit for bit. Norm clipping of the finished gradient (`clip_grad_norm`) keeps its direction; this one weighs
lags anew, and the more, the longer they are.

All of it happens between the steps of `backward_steps`: the halted pass's arrays are what its next step reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, NonFiniteError

Array = NDArray[Any]


@dataclass(frozen=True)
class ClippedBackward:
    """Gradients whose states were capped on the way, and where they were: the result of `backward_clipped`.

    Attributes
    ----------
    result : BackwardResult
        dx, dh_0 and grads, computed with capped gradients of the states.
    max_norm : float
    norms, factors : mapping of str to ndarray, (T, N)
        By layer and direction ("l0", "l0_reverse", ...): the norm of what step t handed back for sequence n, before it
        was capped, and what it was multiplied with. NaN and 1 where a sequence has no step t.
    """

    result: BackwardResult
    max_norm: float
    norms: Mapping[str, Array]
    factors: Mapping[str, Array]

    @property
    def capped(self) -> int:
        """The number of shortened gradients of a state: one for each layer, direction, step and sequence counts."""
        return sum(int(np.count_nonzero(factors < 1)) for factors in self.factors.values())

    @property
    def total(self) -> int:
        """The number of gradients of a state, shortened or not."""
        return sum(int(np.count_nonzero(~np.isnan(norms))) for norms in self.norms.values())

    @property
    def is_gradient(self) -> bool:
        """True where nothing was capped, so that `result` is the gradient of the loss."""
        return self.capped == 0

    def steps(self, name: str) -> list[int]:
        """Return the steps t of a layer and direction, "l0" say, that handed back too much, for any sequence."""
        return [int(t) for t in np.flatnonzero((self.factors[name] < 1).any(axis=1))]

    def __repr__(self) -> str:
        said = "the gradient of the loss" if self.is_gradient else "not the gradient of the loss"
        return f"ClippedBackward: {self.capped} of {self.total} state gradients capped at {self.max_norm:g}: {said}"


def backward_clipped(
    layer: Recurrent,
    trace: Trace,
    doutput: ArrayLike | None,
    dh_n: Any = None,
    grads: Parameters | None = None,
    *,
    max_norm: float,
) -> ClippedBackward:
    """Back-propagate through time with the gradient of the state capped at each step; see the module.

    The result is not the gradient of the loss where anything was capped: `is_gradient` says whether it is.

    Parameters
    ----------
    layer : RNN, LSTM, GRU or another Recurrent
        Real: the norm of a complex state has no complex-step derivative.
    trace, doutput, dh_n, grads
        As of `layer.backward`. The trace keeps the capped gradients.
    max_norm : float
        Greater than 0, finite. What each sequence's gradient of the whole state is capped at. With a loss that is a
        mean over the batch that gradient is 1/N of the sequence's own.

    Raises
    ------
    NonFiniteError
        A step handed back a NaN or an infinity; the message names layer and step. `grads` are unchanged then.

    Notes
    -----
    Cost: that of `backward_steps`, and some ten calls of NumPy a step: small beside the step of a wide net, several
    times that of a narrow one.

    Examples
    --------
    A state that doubles at each step, with a loss at the end:

    >>> from rnn_numpy import RNN
    >>> rnn = RNN(1, 1, nonlinearity="relu")
    >>> rnn.params.flat[:] = 1.0, 2.0, 0.0, 0.0  # weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0
    >>> output, h_n, trace = rnn.forward(np.ones((5, 1, 1)))
    >>> rnn.backward(trace, None, np.ones((1, 1, 1))).dx.ravel()
    array([16.,  8.,  4.,  2.,  1.])
    >>> clipped = backward_clipped(rnn, trace, None, np.ones((1, 1, 1)), max_norm=3.0)
    >>> clipped.result.dx.ravel()
    array([3., 3., 3., 2., 1.])
    >>> clipped
    ClippedBackward: 4 of 5 state gradients capped at 3: not the gradient of the loss
    >>> clipped.steps("l0")
    [0, 1, 2, 3]
    """
    where = "backward_clipped"
    if not isinstance(layer, Recurrent):
        raise DTypeError(f"{where}: layer must be a recurrent layer: RNN, LSTM or GRU; got {type(layer).__name__}")
    limit = arguments.positive_number(where, "max_norm", max_norm)
    if layer.dtype.kind == "c":
        raise DTypeError(
            f"{where}: layer must be real; got dtype {layer.dtype}. Run layer.backward, which caps nothing"
        )
    steps = layer.backward_steps(trace, doutput, dh_n, grads)
    batch = trace.edge.batch
    norms = {name: np.full((batch.T, batch.N), np.nan, layer.dtype) for name in trace.layers}
    factors = {name: np.ones((batch.T, batch.N), layer.dtype) for name in trace.layers}
    names = {(run.layer, run.reverse): name for name, run in trace.layers.items()}
    for step in steps:
        name = names[step.layer, step.reverse]
        # Of the sequences that have this step: sorted by length, they are the first ones.
        count = batch.N if batch.counts is None else batch.counts[step.t]
        row = step.t + (1 if step.reverse else 0)
        gradients = trace.layers[name].latest.arrays  # the memory that the next step reads
        states = [gradients["d" + state][row, :count] for state in layer.cell.states]
        norms[name][step.t, :count], factors[name][step.t, :count] = _cap(states, limit, where, name, step.t)
    return ClippedBackward(
        cast(BackwardResult, steps.result),  # it is there once the steps have run out
        limit,
        {name: batch.unsorted(array, 1) for name, array in norms.items()},
        {name: batch.unsorted(array, 1) for name, array in factors.items()},
    )


def _cap(states: list[Array], limit: float, where: str, name: str, t: int) -> tuple[Array, Array]:
    """C1, in place. Return the norms before, and the factors."""
    with np.errstate(all="ignore"):
        squares = _squares(states)
        norms = np.sqrt(squares)
        over = norms > limit
        if not _in_range(squares):
            # A square, or the norm itself, leaves the range of floats: all over again, scaled.
            largest = np.max([np.abs(array).max(axis=1, initial=0.0) for array in states], axis=0)
            if not np.isfinite(largest).all():
                raise NonFiniteError(f"{where}: what step t = {t} of {name} hands back is not finite")
            scale = np.where(largest > 0, largest, 1).astype(largest.dtype)
            scaled = [array / scale[:, None] for array in states]
            lengths = np.sqrt(_squares(scaled))
            norms = scale * lengths
            over = norms > limit
            for array, unit in zip(states, scaled, strict=True):
                array[over] = unit[over] * (limit / lengths[over])[:, None]
        elif over.any():
            for array in states:
                array[over] *= (limit / norms[over])[:, None]
        return norms, np.where(over, limit / norms, 1).astype(norms.dtype)


def _squares(arrays: list[Array]) -> Array:
    """Return the squared norm of each row of all arrays, taken together."""
    total: Array = np.einsum("nk,nk->n", arrays[0], arrays[0])
    for array in arrays[1:]:
        total += np.einsum("nk,nk->n", array, array)
    return total


def _in_range(squares: Array) -> bool:
    """Return whether squared norms are exact but for rounding: none infinite, NaN, or so small that digits are lost."""
    info = np.finfo(squares.dtype)
    return bool(((squares > info.tiny / info.eps) & (squares < info.max)).all())
