"""A recurrent net that predicts the next sample of a series from all samples so far.

    (F1)  h_1 ... h_T = RNN(x_1 ... x_T), or LSTM or GRU
    (F2)  prediction_t = c + V h_t
    (F3)  L = mean (prediction_t - target_t)^2

and the backward passes of the three, in reverse order, all of `rnn_numpy.models.sequence`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnn_numpy.core import arguments
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.recurrent import Recurrent
from rnn_numpy.layers.rnn import RNN
from rnn_numpy.models.sequence import SequenceModel

CELLS: dict[str, Callable[..., Recurrent]] = {
    "rnn-tanh": functools.partial(RNN, nonlinearity="tanh"),
    "rnn-relu": functools.partial(RNN, nonlinearity="relu"),
    "lstm": LSTM,
    "gru": GRU,
}


class Forecaster(SequenceModel):
    """A recurrent layer and a linear readout of every step, made by the cell's name.

    Parameters
    ----------
    input_size, hidden_size : int
    output_size : int, optional
        input_size where left out: all channels are predicted.
    cell : {"rnn-tanh", "rnn-relu", "lstm", "gru"}
    num_layers : int
    forget_bias : float, optional
        Of an LSTM: the total bias of its forget gates at first; drawn as all others where left out.
    dtype : {float32, float64, complex128}
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    rnn : RNN, LSTM or GRU
    readout : Linear
    params : Parameters
        Of both, in one vector: "rnn.weight_ih_l0", ..., "readout.weight", "readout.bias".

    Raises
    ------
    OptionError, DTypeError
        There is no such cell, a forget bias is given to one that has no forget gate, or a size or dtype is impossible.

    Examples
    --------
    >>> import numpy as np
    >>> model = Forecaster(1, 8, rng=0)
    >>> wave = np.sin(np.arange(21.0)).reshape(21, 1, 1)
    >>> loss, grads, trace = model.loss_and_grads(wave[:-1], wave[1:])
    >>> round(float(loss), 3)
    0.651
    >>> prediction, (h_n, c_n) = Forecaster(1, 8, cell="lstm", forget_bias=1.0, rng=0)(wave)
    >>> prediction.shape, c_n.shape
    ((21, 1, 1), (1, 1, 8))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        cell: str = "rnn-tanh",
        num_layers: int = 1,
        forget_bias: float | None = None,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if not isinstance(cell, str) or cell not in CELLS:
            raise OptionError(f"Forecaster: cell must be one of {', '.join(CELLS)}; got {cell!r}")
        rng = arguments.generator("Forecaster", rng)
        options: dict[str, Any] = {}
        if forget_bias is not None:
            if cell != "lstm":
                raise OptionError(f"Forecaster: forget_bias is for cell = 'lstm' alone; got cell = {cell!r}")
            options["forget_bias"] = forget_bias
        rnn = CELLS[cell](input_size, hidden_size, num_layers, dtype=dtype, rng=rng, **options)
        super().__init__(rnn, rnn.input_size if output_size is None else output_size, reads="all", rng=rng)
