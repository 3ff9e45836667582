"""A recurrent net that predicts the next sample of a series from all samples so far.

    (F1)  h_1 ... h_T = RNN(x_1 ... x_T), or LSTM or GRU
    (F2)  prediction_t = c + V h_t
    (F3)  L = mean (prediction_t - target_t)^2

and the backward passes of the three, in reverse order.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.trace import Trace
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import mse_loss
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.recurrent import Recurrent
from rnn_numpy.layers.rnn import RNN

Array = NDArray[Any]

CELLS: dict[str, Callable[..., Recurrent]] = {
    "rnn-tanh": functools.partial(RNN, nonlinearity="tanh"),
    "rnn-relu": functools.partial(RNN, nonlinearity="relu"),
    "lstm": LSTM,
    "gru": GRU,
}


class Forecaster:
    """A recurrent layer and a linear readout.

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
        self.rnn = CELLS[cell](input_size, hidden_size, num_layers, dtype=dtype, rng=rng, **options)
        outputs = self.rnn.input_size if output_size is None else output_size
        self.readout = Linear(self.rnn.hidden_size, outputs, dtype=dtype, rng=rng)
        self._join()

    def _join(self) -> None:
        self.params = Parameters.join({"rnn": self.rnn.params, "readout": self.readout.params})

    def __call__(self, x: ArrayLike, h_0: ArrayLike | None = None) -> tuple[Array, Any]:
        """Return predictions (T, N, outputs) for inputs (T, N, D), and the final state; of an LSTM that is (h, c)."""
        output, h_n = self.rnn(x, h_0)
        return self.readout(output), h_n

    def loss_and_grads(
        self, x: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
    ) -> tuple[Any, Parameters, Trace]:
        """Run forward and backward.

        Parameters
        ----------
        x : ndarray, (T, N, D)
        target : ndarray, (T, N, outputs)
            What the prediction at each step should be.
        mask : bool ndarray, (T, N), optional
            True where a step counts.

        Returns
        -------
        loss : scalar
            Mean squared error over all entries that count.
        grads : Parameters
            Of the names of `params`, one vector.
        trace : Trace
            The recurrent layer's, with the gradients at every step.
        """
        grads = self.params.zeros_like()
        output, _, trace = self.rnn.forward(x)  # F1
        prediction, readout_trace = self.readout.forward(output)  # F2
        loss, dprediction = mse_loss(prediction, target, mask)  # F3
        doutput = self.readout.backward(readout_trace, dprediction, grads.part("readout")).dx
        self.rnn.backward(trace, doutput, grads=grads.part("rnn"))
        return loss, grads, trace

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin of this model with its parameters converted to `dtype`."""
        twin = object.__new__(type(self))
        twin.rnn, twin.readout = self.rnn.astype(dtype), self.readout.astype(dtype)
        twin._join()
        return twin

    def __copy__(self) -> Self:
        # A shallow copy would share layers, whose parameters can be views of one joint vector only.
        return copy.deepcopy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies and pickles bring the vectors apart. The layers join the copy of the joint vector, which is also the
        # one that an optimiser copied along with the model holds.
        self.__dict__.update(state)
        self.params.adopt({"rnn": self.rnn.params, "readout": self.readout.params})

    def __repr__(self) -> str:
        return f"Forecaster({self.rnn!r}, {self.readout!r})"
