"""How much each step of a backward pass adds to the gradient of the recurrent weights, by its lag."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.trace import LayerTrace, Trace
from rnn_numpy.errors import DTypeError, OptionError


def lag_norms(trace: Trace | LayerTrace) -> NDArray[np.float64]:
    """Return, for each lag, the norm of what the step at this lag adds to dL/dW_hh.

    dL/dW_hh is a sum over the steps k at which W_hh acts, and over the batch. With da_k the gradient of the
    pre-activations of step k, and h_{k-1} the state it read, (N, H),

        norm(l) = || sum_n da_k[n] h_{k-1}[n]^T ||_F,        k = last - l

    last is the last step of the longest sequence, so that l is how far an error at the end has travelled; of a
    direction that runs from the end to the start, last is step 0, and k = l. An error that enters at other steps has
    travelled less far. Where no initial state was given, the first step adds nothing: W_hh acts on zeros there.

    Parameters
    ----------
    trace : Trace or LayerTrace
        On which a backward pass has run to its end. Of a Trace, its last layer's forward direction is taken.

    Returns
    -------
    ndarray, (T,)
        T the steps of the longest sequence.

    Raises
    ------
    OptionError, DTypeError
        There is no such backward pass; it is no trace.

    Notes
    -----
    The norm of the sum follows from products of rows, without the sum: its square is the sum over n and m of
    (da_k[n] . da_k[m]) (h_{k-1}[n] . h_{k-1}[m]). With N below H that is cheaper than the matrix. It takes
    2 T N^2 (G + 1) H operations, G the number of gates, and copies of both arrays. Of a GRU, da_k is the gradient of
    W_hh h_{k-1} + b_hh; where its candidate reads r * h_{k-1}, the product is with h_{k-1} all the same.

    Examples
    --------
    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(1, 4, rng=0)
    >>> output, h_n, trace = rnn.forward(np.ones((5, 1, 1)))
    >>> back = rnn.backward(trace, None, np.ones((1, 1, 4)))
    >>> lag_norms(trace).round(4)
    array([1.5706, 0.7756, 0.1999, 0.0904, 0.    ])
    """
    run = trace.top if isinstance(trace, Trace) else trace
    if not isinstance(run, LayerTrace):
        raise DTypeError(f"lag_norms: trace must be the third result of forward; got {type(trace).__name__}")
    if not run.latest.arrays or run.latest.reached is not None:
        raise OptionError("lag_norms: trace must have the gradients of a whole pass; run backward on it first")
    da = run.da_hh if "da_hh" in run.names else run.da
    before = 1 if run.reverse else 0
    h_prev = getattr(run, run.states[0])[before : before + len(run)]
    scales, products = zip(*(_inner(array) for array in (da, h_prev)), strict=True)
    norms = np.sqrt(np.maximum(np.sum(products[0] * products[1], axis=(1, 2)).real, 0)) * scales[0] * scales[1]
    alive = [t for t in range(len(run)) if run.exists(t) is None or bool(np.any(run.exists(t)))]
    by_step: NDArray[np.float64] = norms[: len(alive)]
    return by_step if run.reverse else by_step[::-1]


def _inner(array: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the largest absolute value of each step, (T,), and the products of all rows of a step with each other,
    (T, N, N), of entries divided by it, so that no square leaves the range of floats.
    """
    largest = np.max(np.abs(array), axis=(1, 2), initial=0.0)
    scale = np.where(largest > 0, largest, 1)
    rows = np.divide(array, scale[:, None, None].astype(array.dtype), order="C")
    return scale.astype(np.float64), np.matmul(rows, rows.conj().swapaxes(1, 2))
