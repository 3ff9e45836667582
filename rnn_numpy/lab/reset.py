"""How far apart the two forms of a GRU are, with the same weights, on given data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.errors import DTypeError
from rnn_numpy.layers.gru import CELLS, GRU

Array = NDArray[Any]


class ResetDifference(NamedTuple):
    """How far the two forms of a GRU differ on given data: what `reset_difference` returns.

    Attributes
    ----------
    largest : float
        max |output_after - output_before|.
    relative : float
        The same as a share of the largest |output_after|; 0 where both are 0.
    t, n, unit : int
        Where it is largest.
    by_step : ndarray, (T,)
        max over sequences and units, step by step.
    """

    largest: float
    relative: float
    t: int
    n: int
    unit: int
    by_step: Array


def reset_difference(
    gru: GRU, x: Any, h_0: ArrayLike | None = None, lengths: ArrayLike | None = None
) -> ResetDifference:
    """Tell how far apart the two forms of a GRU are, with the same weights, on given data.

    Weights trained in one form and run in the other give other outputs, without any error. They agree only where it
    makes no difference: r_t near 0 or 1 throughout, or W_hn = 0.

    Parameters
    ----------
    gru : GRU
        Of either form.
    x, h_0, lengths
        As for `GRU.forward`.

    Examples
    --------
    >>> import numpy as np
    >>> gru = GRU(2, 8, rng=0)
    >>> x = np.random.default_rng(1).normal(size=(20, 1, 2))
    >>> difference = reset_difference(gru, x)
    >>> f"{difference.relative:.1%} at step {difference.t}"
    '25.0% at step 7'
    """
    if not isinstance(gru, GRU):
        raise DTypeError(f"reset_difference: gru must be a GRU; got {type(gru).__name__}")
    outputs: list[Array] = []
    for reset in CELLS:
        twin = GRU(**(gru.config() | {"reset": reset, "dropout": 0.0}))
        twin.load_state_dict(gru.params)
        output: Any = twin(x, h_0, lengths)[0]
        if isinstance(output, PackedSequence):
            output = output.padded()[0]
        elif gru.batch_first and output.ndim == 3:
            output = output.swapaxes(0, 1)
        outputs.append(output[:, None] if output.ndim == 2 else output)
    differences = np.abs(outputs[0] - outputs[1])
    if not differences.size:
        return ResetDifference(0.0, 0.0, 0, 0, 0, np.zeros(len(differences)))
    t, n, unit = (int(index) for index in np.unravel_index(int(differences.argmax()), differences.shape))
    largest, scale = float(differences[t, n, unit]), float(np.abs(outputs[0]).max())
    return ResetDifference(largest, largest / scale if scale else 0.0, t, n, unit, differences.max(axis=(1, 2)))
