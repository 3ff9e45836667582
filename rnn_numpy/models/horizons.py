"""Forecasting H steps ahead: three ways to it, and what each is trained on.

    recursive   one step ahead; each forecast is read as if it had come, and the next one made from it (`Rollout`)
    direct      a readout of all H values at once, H D wide: no forecast is read, and none has to agree with another
    seq2seq     an encoder reads the past; a decoder goes on from its state, reads its own forecasts, and is trained
                through them (`Seq2SeqForecaster`): the error of H steps, with its exact gradient

The first two are many-to-many, with a loss at each step of the window, or many-to-one, with a loss at the last step
alone: a model's `reads`, "all" or "last".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.models.model import Model
from rnn_numpy.models.rollout import Rollout
from rnn_numpy.models.seq2seq_forecaster import Seq2SeqForecaster
from rnn_numpy.models.sequence import CELLS, READS, SequenceModel

Array = NDArray[Any]

STRATEGIES = ("recursive", "direct", "seq2seq")


def horizon_model(
    strategy: str,
    input_size: int,
    hidden_size: int,
    horizon: int,
    *,
    cell: str = "gru",
    num_layers: int = 1,
    dropout: float = 0.0,
    reads: str = "all",
    dtype: DTypeLike = np.float64,
    rng: np.random.Generator | int | None = None,
) -> Model:
    """Make a model that forecasts `horizon` steps ahead; see the module for the strategies.

    Parameters
    ----------
    strategy : {"recursive", "direct", "seq2seq"}
    input_size : int
        D; all channels are read, and all are forecast.
    hidden_size : int
        Units; of "seq2seq" in encoder and decoder each.
    horizon : int
        H.
    cell : {"rnn-tanh", "rnn-relu", "lstm", "gru"}
    num_layers : int
    dropout : float
        Between layers.
    reads : {"all", "last"}
        Whether each step of a window has a loss, or the last one alone. Of "seq2seq" the last one alone has.
    dtype : {float32, float64, complex128}
    rng : numpy.random.Generator, int or None

    Returns
    -------
    SequenceModel or Seq2SeqForecaster

    Raises
    ------
    OptionError, DTypeError
        An option has an impossible value.

    Examples
    --------
    >>> x = np.sin(0.3 * np.arange(40.0)).reshape(40, 1, 1)
    >>> for strategy in STRATEGIES:
    ...     model = horizon_model(strategy, 1, 8, 12, rng=0)
    ...     print(strategy, forecast(model, x, 12).shape, model.params.flat.size)
    recursive (12, 1, 1) 273
    direct (12, 1, 1) 372
    seq2seq (12, 1, 1) 537
    """
    where = "horizon_model"
    arguments.one_of(where, "strategy", strategy, STRATEGIES)
    arguments.one_of(where, "cell", cell, CELLS)
    arguments.one_of(where, "reads", reads, READS)
    arguments.positive_int(where, "horizon", horizon)
    rng = arguments.generator(where, rng)
    options: dict[str, Any] = {"dropout": dropout, "dtype": dtype, "rng": rng}
    if strategy == "seq2seq":
        encoder, decoder = (KINDS[cell](input_size, hidden_size, num_layers, **options) for _ in range(2))
        return Seq2SeqForecaster(encoder, decoder, rng=rng)
    layer = KINDS[cell](input_size, hidden_size, num_layers, **options)
    outputs = input_size * (horizon if strategy == "direct" else 1)
    return SequenceModel(layer, outputs, reads=reads, rng=rng)


def horizon_batch(
    model: Model, x: ArrayLike, target: ArrayLike, uncounted: int = 0
) -> tuple[Array, Array, NDArray[np.bool_] | None]:
    """Arrange windows as the `loss_and_grads` of a model of `horizon_model` takes them.

    Parameters
    ----------
    model
    x : ndarray, (T, N, D)
    target : ndarray, (T, N, H, D)
        target[t, :, h - 1] is h steps after x[t].
    uncounted : int
        Steps at the beginning of a window whose loss does not count: the state is still that of a net that has seen
        little. Of a model that has a loss at the last step alone it is of no use.

    Returns
    -------
    x, target, mask
    """
    x, target = np.asarray(x), np.asarray(target)
    steps, batch, horizon, channels = target.shape
    if isinstance(model, Seq2SeqForecaster):
        return x, np.ascontiguousarray(target[-1].transpose(1, 0, 2)), None
    model = _read_out(model)
    if model.readout.out_features == channels:
        horizon = 1
    flat = np.ascontiguousarray(target[:, :, :horizon]).reshape(steps, batch, horizon * channels)
    if model.reads == "last":
        return x, flat[-1], None
    if not 0 <= uncounted < steps:
        raise OptionError(f"horizon_batch: uncounted must be in [0, T - 1] = [0, {steps - 1}]; got {uncounted}")
    return x, flat, np.broadcast_to(np.arange(steps)[:, None] >= uncounted, (steps, batch))


def forecast(model: Model, x: ArrayLike, horizon: int) -> Array:
    """Forecast what follows.

    Parameters
    ----------
    model
        Of `horizon_model`, or any `SequenceModel` whose readout is as wide as its input: that one goes on by itself.
    x : ndarray, (T, N, D)
        What is known.
    horizon : int
        H; of "direct" the one that it was made for, or less.

    Returns
    -------
    ndarray, (H, N, D)
    """
    if isinstance(model, Seq2SeqForecaster):
        return model(x, horizon)
    model = _read_out(model)
    channels, width = model.rnn.input_size, model.readout.out_features
    if width == channels:
        return Rollout(model)(x, horizon)[0]
    if width % channels or width < horizon * channels:
        raise ShapeError(
            f"forecast: the readout must be D = {channels} wide, or at least H D = {horizon * channels}; got {width}"
        )
    prediction, _ = model(x)
    last = prediction[-1] if model.reads == "all" else prediction
    return np.ascontiguousarray(last.reshape(len(last), -1, channels).transpose(1, 0, 2)[:horizon])


def _read_out(model: Any) -> SequenceModel:
    if not isinstance(model, SequenceModel):
        raise DTypeError(f"model must be one of horizon_model; got {type(model).__name__}")
    return model
