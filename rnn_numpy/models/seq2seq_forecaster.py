r"""An encoder that reads the past, and a decoder that goes on from its last value and the encoder's state.

    (F1)  s = encoder(x_0 ... x_{T-1})                            all states, of all layers
    (F2)  y_0 ... y_{H-1} = roll-out of the decoder from x_{T-1}, with s as the state before

and backward, in reverse order, with the modes of `rnn_numpy.models.rollout`:

    (B2)  ds, gradients of decoder and readout                    undoes F2
    (B1)  gradients of the encoder from ds alone                  undoes F1
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.linear import Linear
from rnn_numpy.models.model import Model
from rnn_numpy.models.rollout import MODES, Rollout, RolloutTrace

Array = NDArray[Any]


class Seq2SeqForecaster(Model):
    """An encoder, and a decoder that reads its own predictions.

    Parameters
    ----------
    encoder, decoder : Recurrent
        Layers of the same input, states and number of layers, none bidirectional: the final states of one are the
        initial ones of the other. Taken over, not copied.
    mode : {"free", "stop", "teacher"}
        How the decoder is trained, as of `Rollout`. What it is asked for, it predicts from its own predictions.
    rng : numpy.random.Generator, int or None
        Draws the readout's parameters.

    Attributes
    ----------
    encoder, decoder, readout
    rollout : Rollout
        Of decoder and readout.
    params : Parameters
        Of all three, in one vector: "encoder.weight_ih_l0", ..., "decoder.weight_ih_l0", ..., "readout.bias".

    Raises
    ------
    DTypeError, OptionError, ShapeError
        The two do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import GRU
    >>> model = Seq2SeqForecaster(GRU(1, 8, rng=0), GRU(1, 8, rng=1), rng=2)
    >>> wave = np.sin(0.3 * np.arange(40.0)).reshape(40, 1, 1)
    >>> loss, grads, trace = model.loss_and_grads(wave[:30], wave[30:])
    >>> model(wave[:30], 10).shape
    (10, 1, 1)
    """

    layers: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "readout")

    def __init__(
        self,
        encoder: Recurrent,
        decoder: Recurrent,
        *,
        mode: str = "free",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        for name, layer in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(layer, Recurrent):
                raise DTypeError(f"{where}: {name} must be a recurrent layer: RNN, LSTM or GRU; got {layer!r}")
            if layer.bidirectional:
                raise OptionError(f"{where}: {name} must not be bidirectional: a decoder has one direction")
        if encoder is decoder:
            raise OptionError(f"{where}: encoder and decoder must be two layers; got one for both")
        arguments.one_of(where, "mode", mode, MODES)
        for what in ("input_size", "num_layers", "widths", "batch_first", "dtype"):
            ours, theirs = getattr(encoder, what), getattr(decoder, what)
            if ours != theirs:
                raise ShapeError(f"{where}: the decoder must have the encoder's {what}, {ours}; got {theirs}")
        self.encoder, self.decoder, self.mode = encoder, decoder, mode
        rng = arguments.generator(where, rng)
        self.readout = Linear(decoder.output_width, decoder.input_size, dtype=decoder.dtype, rng=rng)
        self.join()

    @property
    def rollout(self) -> Rollout:
        """The roll-out of decoder and readout."""
        return Rollout(self, self.mode, layer="decoder")

    def __call__(self, x: ArrayLike, horizon: int) -> Array:
        """Return the `horizon` predictions of what follows x, (T, N, D), each fed back; no trace, no dropout."""
        _, state = self.encoder(x)
        return self.rollout(self._last(x), horizon, state)[0]

    def loss_of(self, x: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> Any:
        """Return the loss alone, in this mode; arguments and errors as of `loss_and_grads`. There is no dropout."""
        _, state = self.encoder(x)
        return self.rollout.loss_of(self._last(x), target, mask, h_0=state)

    def loss_and_grads(
        self, x: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
    ) -> tuple[Any, Parameters, tuple[Trace, RolloutTrace]]:
        """Read x, predict what follows, compare, and go back.

        Parameters
        ----------
        x : ndarray, (T, N, D), axes as the layers have them
        target : ndarray, (H, N, D)
            What follows x. Its length is the horizon.
        mask : bool ndarray, (H, N) or (H, N, D), optional
            True where a prediction counts.

        Returns
        -------
        loss : scalar
            Mean squared error over all that counts.
        grads : Parameters
            Of the names of `params`. In mode "stop" not the gradient of the loss.
        trace : tuple of Trace and RolloutTrace
            The encoder's and the decoder's.
        """
        grads = self.params.zeros_like()
        _, state, trace = self.encoder.forward(x)  # F1
        loss, back, rolled = self.rollout.loss_and_backward(self._last(x), target, mask, None, state, grads)  # F2, B2
        dstate = states.join([getattr(back, f"d{name}_0") for name in self.decoder.cell.states])
        self.encoder.backward(trace, None, dstate, grads.part("encoder"))  # B1
        return loss, grads, (trace, rolled)

    def known_mistakes(
        self, x: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
    ) -> Iterator[tuple[str, str, Mapping[str, Array]]]:
        """Yield what `gradcheck` compares a wrong gradient of this model with; see `Rollout.known_mistakes`."""
        twin = copy.copy(self)
        twin.mode = "stop"
        for kind, why, _ in self.rollout.known_mistakes(self._last(x), target, mask, None, self.encoder(x)[1]):
            yield kind, why, twin.loss_and_grads(x, target, mask)[1]

    def count(self, x: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> float:
        """Return how many numbers the mean loss of this batch is over."""
        return self.rollout.count(x, target, mask)

    def _last(self, x: ArrayLike) -> Array:
        """Return the last value, as a series of one."""
        return np.take(x, [-1], int(self.encoder.batch_first and np.ndim(x) == 3))
