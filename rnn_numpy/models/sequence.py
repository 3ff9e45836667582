r"""A recurrent layer and a linear readout, trained on sequences: one answer after the last step, or one at each.

    (F1)  s_1 ... s_T = RNN(x_1 ... x_T), or LSTM, GRU or another recurrent layer
    (F2)  prediction_t = c + V h_t            for every t, or for the last one alone
    (F3)  L = loss(prediction, target)        mean squared error, or softmax cross-entropy

and the backward passes of the three, in reverse order. What is read "last" is each sequence's final state of the top
layer, of both directions where there are two: the state after its own last step, whatever the length of the others.
A `Forecaster` is such a net that predicts the next sample of a series from all samples so far, made by its cell's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss, mse_loss
from rnn_numpy.models.model import Model, counted

Array = NDArray[Any]

READS = ("last", "all")
LOSSES: dict[str, Callable[..., tuple[Any, Array]]] = {"mse": mse_loss, "cross_entropy": cross_entropy_loss}


class SequenceModel(Model):
    """A recurrent layer and a linear readout.

    Parameters
    ----------
    rnn : Recurrent
        RNN, LSTM, GRU, or a layer of one's own, with any options. Taken over, not copied: its parameters become part of
        `params`.
    outputs : int
        K: the width of a prediction, or the number of classes.
    reads : {"last", "all"}
        What is predicted from: the final state, or the output at every step.
    loss : {"mse", "cross_entropy"}
    loss_options : mapping, optional
        Keyword arguments of `cross_entropy_loss`: label_smoothing, ignore_index, weight, reduction.
    rng : numpy.random.Generator, int or None
        Draws the readout's parameters.

    Attributes
    ----------
    rnn : Recurrent
    readout : Linear
    params : Parameters
        Of both, in one vector: "rnn.weight_ih_l0", ..., "readout.weight", "readout.bias".

    Raises
    ------
    OptionError, DTypeError
        `rnn` is no recurrent layer, or an option has an impossible value.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> model = SequenceModel(LSTM(1, 4, rng=0), 2, loss="cross_entropy", rng=0)
    >>> x = np.ones((10, 3, 1))
    >>> loss, grads, trace = model.loss_and_grads(x, np.array([0, 1, 0]))
    >>> model(x)[0].shape, grads["readout.weight"].shape
    ((3, 2), (2, 4))
    """

    layers: ClassVar[tuple[str, ...]] = ("rnn", "readout")

    def __init__(
        self,
        rnn: Recurrent,
        outputs: int,
        *,
        reads: str = "last",
        loss: str = "mse",
        loss_options: Mapping[str, Any] | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        if not isinstance(rnn, Recurrent):
            raise DTypeError(f"{where}: rnn must be a recurrent layer: RNN, LSTM or GRU; got {type(rnn).__name__}")
        arguments.one_of(where, "reads", reads, READS)
        arguments.one_of(where, "loss", loss, LOSSES)
        if loss_options and loss != "cross_entropy":
            raise OptionError(f"{where}: loss_options are for loss = 'cross_entropy' alone; got {loss_options!r}")
        self.rnn, self.reads, self.loss, self.loss_options = rnn, reads, loss, dict(loss_options or {})
        width = rnn.num_directions * (getattr(rnn, "proj_size", 0) or rnn.hidden_size)
        self.readout = Linear(width, outputs, dtype=rnn.dtype, rng=arguments.generator(where, rng))
        self.join()

    def __call__(
        self, x: ArrayLike, h_0: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        """Return predictions, without a trace and without dropout, and the final state, of an LSTM (h, c).

        Parameters
        ----------
        x, h_0, lengths
            As of the recurrent layer.

        Returns
        -------
        prediction : ndarray, (T, N, K), axes as those of x; or (N, K) of a model that reads the last step
        h_n : as the layer returns it
        """
        output, h_n = self.rnn(x, h_0, lengths)
        return self.readout(output if self.reads == "all" else self._last(h_n)), h_n

    def loss_of(
        self,
        x: ArrayLike,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
    ) -> Any:
        """Return the loss alone; arguments and errors as of `loss_and_grads`. There is no dropout."""
        prediction, _ = self(x, h_0, lengths)
        return LOSSES[self.loss](prediction, target, self._mask(mask, prediction, lengths), **self.loss_options)[0]

    def loss_and_grads(
        self,
        x: ArrayLike,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
        *,
        checkpoint: int | None = None,
    ) -> tuple[Any, Parameters, Any]:
        """Run forward and backward.

        Parameters
        ----------
        x : ndarray, (T, N, D), or (N, T, D) where the layer is batch_first
        target : ndarray
            What a prediction should be, of its shape: (T, N, K), or (N, K) of a model that reads the last step. Classes
            are int, without the last axis.
        mask : bool ndarray, (T, N) or (N,), optional
            True where a prediction counts.
        lengths : int array_like, (N,), optional
            Steps of each sequence. Where there is no mask, steps past the end do not count.
        h_0 : optional
            Initial states, as of the layer: of truncated BPTT that goes on, the final ones of the window before. They
            get no gradient.
        checkpoint : int, optional
            Of long sequences: how many steps are recorded, and how many predictions there are, at a time, as
            `Recurrent.forward` says. Loss and gradients are then equal to rounding.

        Returns
        -------
        loss : scalar
            Mean over all that counts.
        grads : Parameters
            Of the names of `params`, one vector.
        trace : Trace
            The recurrent layer's, with the gradients at every step.

        Raises
        ------
        ShapeError, DTypeError, OptionError
            What is handed in does not fit; the message is the layer's or the loss's.
        """
        grads = self.params.zeros_like()
        by_blocks = checkpoint is not None and self.reads == "all" and self.rnn.num_directions == 1
        whole = checkpoint is None or (self.reads == "all" and not by_blocks)
        output, h_n, trace = self.rnn.forward(x, h_0, lengths, checkpoint=checkpoint, outputs=whole)  # F1
        if by_blocks:
            loss = self._loss_by_blocks(grads, x, target, mask, lengths)
            return self.rnn.backward(trace, loss, grads=grads.part("rnn")).loss, grads, trace
        read = output if self.reads == "all" else self._last(h_n)
        prediction, readout_trace = self.readout.forward(read)  # F2
        loss, dprediction = LOSSES[self.loss](
            prediction, target, self._mask(mask, prediction, lengths), **self.loss_options
        )  # F3
        dread = self.readout.backward(readout_trace, dprediction, grads.part("readout")).dx
        if self.reads == "all":
            self.rnn.backward(trace, dread, grads=grads.part("rnn"))
        else:
            self.rnn.backward(trace, None, self._dlast(dread, h_n), grads.part("rnn"))
        return loss, grads, trace

    def _loss_by_blocks(
        self, grads: Parameters, x: ArrayLike, target: ArrayLike, mask: ArrayLike | None, lengths: ArrayLike | None
    ) -> Callable[[range, Array], tuple[Any, Array]]:
        """Return F2, F3 and their backward for a block of steps: its share of the mean loss, and doutput."""
        wanted = np.asarray(target)
        keep = self._mask(mask, wanted, lengths)
        keep = None if keep is None else np.asarray(keep)
        total = self.count(x, wanted, keep)

        def loss(steps: range, output: Array) -> tuple[Any, Array]:
            rows = (
                (slice(None), slice(steps.start, steps.stop))
                if self.rnn.batch_first
                else slice(steps.start, steps.stop)
            )
            part, kept = wanted[rows], None if keep is None else keep[rows]
            share = self.count(x, part, kept) / total
            if not share:
                return 0.0, np.zeros_like(output)
            prediction, trace = self.readout.forward(output)
            mean, dprediction = LOSSES[self.loss](prediction, part, kept, **self.loss_options)
            dprediction *= dprediction.dtype.type(share)
            return mean * share, self.readout.backward(trace, dprediction, grads.part("readout")).dx

        return loss

    def count(
        self,
        x: ArrayLike,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
    ) -> float:
        """Return what the mean loss of this batch divides by: how many numbers, or classes, count."""
        wanted = np.asarray(target)
        keep = self._mask(mask, wanted, lengths)
        if self.loss == "cross_entropy":
            return counted(wanted, keep, self.loss_options)
        if keep is None:
            return float(wanted.size)
        each = wanted.size // max(1, np.size(keep))  # a mask may leave out the last axis
        return float(each * np.count_nonzero(keep))

    def _last(self, h_n: Any) -> Array:
        """Return the final states of the top layer, its directions side by side, (N, directions * H)."""
        return np.concatenate(list(states.split(h_n)[0][-self.rnn.num_directions :]), axis=-1)

    def _dlast(self, dlast: Array, h_n: Any) -> Any:
        """Undo `_last`: the gradient of all final states, 0 but for those that were read."""
        dstates = [np.zeros_like(state) for state in states.split(h_n)]
        directions = self.rnn.num_directions
        dstates[0][-directions:] = np.split(dlast, directions, axis=-1)
        return states.join(dstates)

    def _mask(self, mask: ArrayLike | None, prediction: Array, lengths: ArrayLike | None) -> ArrayLike | None:
        """Return the mask of the loss; of padded sequences without one, the steps that there are."""
        if mask is not None or lengths is None or self.reads == "last":
            return mask
        axis = 1 if self.rnn.batch_first else 0
        exists = np.arange(prediction.shape[axis])[:, None] < np.asarray(lengths)
        return exists.T if self.rnn.batch_first else exists


CELLS = ("rnn-tanh", "rnn-relu", "lstm", "gru")  # of layers.KINDS


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
        rnn = KINDS[cell](input_size, hidden_size, num_layers, dtype=dtype, rng=rng, **options)
        super().__init__(rnn, rnn.input_size if output_size is None else output_size, reads="all", rng=rng)
