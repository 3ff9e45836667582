r"""A model that goes on by itself, each prediction read as the next input; and the gradient of that, in three modes.

A recurrent layer reads T known values; a readout says what comes next; that is read as if it had come, and so on, until
there are H predictions. s_k is the layer's state (of an LSTM h and c, of a stack all layers'), h_k its output: the top
layer's h. For k = 0 ... H-1:

    (F1)  s_0 = layer(x_0 ... x_{T-1}; s_init)           the warm-up
    (F2)  y_k = V h_k + c                                the prediction, k + 1 steps ahead of the last known value
    (F3)  u_k = y_{k-1}                                  k > 0: it is fed back ("free", "stop") ...
          u_k = target_{k-1}                             ... or what really came is read ("teacher")
    (F4)  s_k = layer(u_k; s_{k-1})                      k > 0: one step

Backward, newest first. dloss_k is what the loss itself says to y_k, and ds_{H-1} begins as dh_n, 0 where left out:

    (B2)  dh_k += V^T dy_k,  dV += dy_k h_k^T,  dc += dy_k        undoes F2
    (B4)  du_k, ds_{k-1} = the layer's backward of its step k     undoes F4
    (B3)  dy_{k-1} = dloss_{k-1} + du_k                           undoes F3, "free"
          dy_{k-1} = dloss_{k-1}                                  "teacher": u_k is data; "stop": it is taken for data
    (B1)  dx, ds_init = the layer's backward of the warm-up       undoes F1

B3 makes the prediction a second recurrent path, beside the state. Of the plain RNN, with D_k = diag(1 - h_k^2),

    d h_k / d h_{k-1} = D_k (W_hh + W_ih V)                       "free"
    d h_k / d h_{k-1} = D_k W_hh                                  "teacher", "stop"

"free" is the gradient of the loss of the roll-out, "teacher" that of the loss with known inputs. "stop" is no gradient
of anything: it runs forward as "free", and backward it leaves out all that its own predictions did to later ones. One
step ahead, H = 1, nothing is fed back, and the three are one.

There is no loop over time here but that over the predictions: F1 and F4 are calls of the layer's own `forward`, from
the state that the call before has left, and B4 and B1 of its `backward`, so that any layer will do.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent
from rnn_numpy.engine.stream import Stream
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.linear import Linear, LinearTrace
from rnn_numpy.layers.losses import mse_loss

Array = NDArray[Any]

MODES = ("teacher", "free", "stop")


class Chunk:
    """A stretch of a roll-out, the steps of one call of the layer: the warm-up, or one step that was fed; where known
    values are read, all steps after the warm-up.

    Attributes
    ----------
    first : int
        k of its first prediction: 0 of the warm-up.
    y : ndarray, (H', N, D), axes as those of the roll-out's x
        The predictions; of the warm-up the last one alone.
    trace : Trace
        The layer's own, with all that its steps have recorded, and their gradients.
    readout : LinearTrace
    dloss, dfed, dy : ndarray, like y
        Once `backward` has been here: what the loss says to y; what came back from the step that read y, zeros where it
        is left out; the sum.
    dx : ndarray, like what it read
        What is handed to those who made that: of a "free" roll-out, the next `dfed`.
    dh, dh_prev : ndarray, (layers, N, H), of an LSTM tuples (dh, dc)
        What later chunks say to the state that this one ends with, and what it says to the one that it began with.
    """

    dloss: Array
    dfed: Array
    dy: Array
    dx: Any
    dh: Any
    dh_prev: Any

    def __init__(self, first: int, y: Array, trace: Trace, readout: LinearTrace) -> None:
        self.first, self.y, self.trace, self.readout = first, y, trace, readout

    @property
    def x(self) -> Array:
        """What was read, (T', N, D), time first."""
        x: Array = self.trace["l0"].x
        return x

    def __repr__(self) -> str:
        arrays = {"x": self.x, **{name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}}
        return f"Chunk from k = {self.first}: {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}"


class RolloutTrace:
    """What the forward pass of a roll-out has recorded.

    Attributes
    ----------
    chunks : tuple of Chunk
        `trace[0]` is the warm-up; `trace[k]` of a "free" or "stop" roll-out what made prediction k.
    h_n
        The state after the last step.
    mode : str
    axis : int
        The axis of time of predictions.
    """

    def __init__(self, chunks: Sequence[Chunk], h_n: Any, mode: str, axis: int) -> None:
        self.chunks, self.h_n, self.mode, self.axis = tuple(chunks), h_n, mode, axis

    @property
    def predictions(self) -> Array:
        """All predictions, (H, N, D), axes as those of x."""
        return np.concatenate([chunk.y for chunk in self.chunks], self.axis)

    def __getitem__(self, index: int) -> Chunk:
        return self.chunks[index]

    def __len__(self) -> int:
        return len(self.chunks)

    def __repr__(self) -> str:
        rows = "\n".join(f"  {chunk!r}" for chunk in self.chunks)
        return f"RolloutTrace, mode {self.mode!r}\n{rows}"


class RolloutSteps(Iterator[Chunk]):
    """The backward pass of a roll-out, one chunk at each `next`, newest first: what `Rollout.backward_steps` returns.

    Attributes
    ----------
    result : BackwardResult or None
        None until the warm-up is done. Only then are gradients added to `grads`; stopping early leaves them untouched.
    """

    def __init__(self, loop: Iterator[Chunk], results: list[BackwardResult]) -> None:
        self._loop, self._results = loop, results

    def __next__(self) -> Chunk:
        return next(self._loop)

    @property
    def result(self) -> BackwardResult | None:
        """The result of the whole pass, once the chunks have run out."""
        return self._results[0] if self._results else None


class Rollout:
    """A model that goes on by itself; see the module.

    Parameters
    ----------
    model : SequenceModel, or what has a recurrent layer, a readout and `params`
        One that predicts its next input, as a `Forecaster` does. It is shared: training the roll-out trains the model.
    mode : {"free", "stop", "teacher"}
        "free": predictions are fed back, and the gradient is exact. "stop": they are fed back, and no gradient goes
        through them. "teacher": known values are read in their place.
    layer : str
        Which attribute of the model the recurrent layer is, and what its parameters' names begin with: "decoder" of an
        encoder-decoder.

    Attributes
    ----------
    model, mode
    params : Parameters
        The model's.

    Raises
    ------
    OptionError, DTypeError, ShapeError
        The layer is bidirectional, the readout's width is not the input's, the loss is of classes, or an option has an
        impossible value.

    Notes
    -----
    Dropout between layers and zoneout draw new masks at each step, as they do within one call of a layer; the masks of
    recurrent dropout are drawn in the warm-up and then stay, as they do there.

    The cost of a step that is fed is that of two calls of a layer, forward and backward, with T = 1. They are small:
    what is spent on calls is several times what is spent on numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import Forecaster
    >>> wave = np.sin(0.3 * np.arange(40.0)).reshape(40, 1, 1)
    >>> free = Rollout(Forecaster(1, 8, rng=0))
    >>> loss, grads, trace = free.loss_and_grads(wave[:30], wave[30:])  # from 30 values on, 10 steps ahead
    >>> trace[3].dfed.shape  # what prediction 3 did to later ones, of which there are 6
    (1, 1, 1)
    >>> predictions, h_n = free(wave[:30], 10)
    >>> predictions.shape
    (10, 1, 1)
    """

    def __init__(self, model: Any, mode: str = "free", *, layer: str = "rnn") -> None:
        arguments.one_of("Rollout", "mode", mode, MODES)
        rnn, readout = getattr(model, layer, None), getattr(model, "readout", None)
        if not isinstance(rnn, Recurrent) or not isinstance(readout, Linear):
            needed = f"a recurrent layer {layer!r} and a linear readout, as a Forecaster has"
            raise DTypeError(f"Rollout: model must have {needed}; got {type(model).__name__}")
        if rnn.bidirectional:
            raise OptionError(
                "Rollout: the layer must not be bidirectional: its other direction begins at the end of the series, "
                "which is not there before it is predicted"
            )
        if getattr(model, "loss", "mse") != "mse":
            raise OptionError(f"Rollout: the model's loss must be 'mse', of numbers to be fed; got {model.loss!r}")
        if readout.out_features != rnn.input_size:
            raise ShapeError(
                f"Rollout: the readout must be as wide as the input, which it is fed as: out_features = input_size = "
                f"{rnn.input_size}; got {readout.out_features}"
            )
        self.model, self.mode, self.layer = model, mode, layer

    @property
    def params(self) -> Parameters:
        """The model's parameters."""
        params: Parameters = self.model.params
        return params

    def generators(self) -> dict[str, np.random.Generator]:
        """Return the model's generators, which masks of dropout are drawn from."""
        generators: dict[str, np.random.Generator] = self.model.generators()
        return generators

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a roll-out of the model's twin in another dtype."""
        return type(self)(self.model.astype(dtype), self.mode, layer=self.layer)

    # ------------------------------------------------------------------------------------------------ forward

    def __call__(
        self,
        x: Any,
        horizon: int,
        h_0: Any = None,
        lengths: ArrayLike | None = None,
        *,
        given: Mapping[str, ArrayLike] | None = None,
    ) -> tuple[Array, Any]:
        """Return predictions, each fed back whatever the mode, and the last state; no trace, no dropout.

        Arguments and errors are those of `forward`.
        """
        predictions, h_n, _ = self._run(x, horizon, h_0, lengths, given, None, None)
        return predictions, h_n

    def forward(
        self,
        x: Any,
        horizon: int,
        h_0: Any = None,
        lengths: ArrayLike | None = None,
        *,
        given: Mapping[str, ArrayLike] | None = None,
        targets: ArrayLike | None = None,
        training: bool = True,
    ) -> tuple[Array, Any, RolloutTrace]:
        """Read x, then make `horizon` predictions, and record what `backward` needs.

        Parameters
        ----------
        x, h_0, lengths
            As of the layer's `forward`: the known values, (T, N, D), of a decoder the one that it starts from, and the
            state before. A sequence that is shorter is continued from its own last value.
        given : mapping of str to ndarray, optional
            As of the layer: what it reads at every step, a memory to attend to.
        horizon : int
            H, at least 1.
        targets : ndarray, (H, N, D), axes as those of x
            What "teacher" reads in place of predictions: all of it but the last. Of no use otherwise.
        training : bool
            As of the layer: whether there is dropout.

        Returns
        -------
        predictions : ndarray, (H, N, D), axes as those of x
            Of the values that follow x.
        h_n
            The state after the last step, which has read all predictions but the last.
        trace : RolloutTrace

        Raises
        ------
        ShapeError, DTypeError, OptionError
            An argument does not fit; the message may be the layer's.
        """
        forced = None
        if self.mode == "teacher":
            if targets is None:
                raise OptionError("Rollout.forward: targets must be given in mode 'teacher', which reads them")
            forced = arguments.array_of("Rollout.forward", "targets", targets, self.params.dtype)
        predictions, h_n, chunks = self._run(x, horizon, h_0, lengths, given, forced, training)
        return predictions, h_n, RolloutTrace(chunks, h_n, self.mode, self._axis(h_n))

    def _run(
        self, x: Any, horizon: int, h_0: Any, lengths: Any, given: Any, forced: Array | None, training: bool | None
    ) -> tuple[Array, Any, list[Chunk]]:
        """F1 to F4; without chunks where `training` is None."""
        where = "Rollout.forward"
        horizon = arguments.positive_int(where, "horizon", horizon)
        rnn, readout = getattr(self.model, self.layer), self.model.readout
        chunks: list[Chunk] = []
        made: list[Array] = []
        masks: Any = None
        read, state, first = x, h_0, 0
        stream: Stream | None = None
        while first < horizon:
            ends = lengths if first == 0 else None
            if stream is not None:
                output = np.expand_dims(stream.step(read.take(0, self._axis(state))), self._axis(state))  # F4
            elif training is None:
                output, state = rnn(read, state, ends, given=given)  # F1, F4
            else:
                output, state, trace = rnn.forward(
                    read, state, ends, training=training, recurrent_masks=masks, given=given
                )
                masks = trace.recurrent_masks or None
            axis = self._axis(state)
            if first == 0:
                output = np.expand_dims(states.split(state)[0][-1], axis)
            if training is None:
                y = readout(output)  # F2
            else:
                y, readout_trace = readout.forward(output)
                chunks.append(Chunk(first, y, trace, readout_trace))
            if first == 0 and forced is not None:
                shape = (*y.shape[:axis], horizon, *y.shape[axis + 1 :])
                arguments.shaped(where, "targets", forced, "(horizon, N, D), axes as those of x", shape)
            if first == 0 and training is None and forced is None and not rnn.own_way():
                stream = Stream(rnn, states.batch(state), state, given, fastest=False)
            made.append(y)
            first += y.shape[axis]
            read = y if forced is None else _steps(forced, axis, 0, horizon - 1)  # F3
        return np.concatenate(made, axis), state if stream is None else stream.state, chunks

    def _axis(self, state: Any) -> int:
        """Return the axis of time of x; a state without a batch is that of a single sequence."""
        rnn = getattr(self.model, self.layer)
        return int(rnn.batch_first and states.split(state)[0].ndim == 3)

    # ------------------------------------------------------------------------------------------------ backward

    def backward(
        self, trace: RolloutTrace, dpredictions: ArrayLike, dh_n: Any = None, grads: Parameters | None = None
    ) -> BackwardResult:
        """Go back through the roll-out: the chunks of `backward_steps`, run to the end.

        Parameters
        ----------
        trace : RolloutTrace
            From `forward`. One of "free" serves "stop" as well, and the reverse.
        dpredictions : ndarray, like predictions
            What the loss says to each.
        dh_n : ndarray, like h_n, optional
        grads : Parameters, optional
            Gradients are added to these; new ones are made where left out.

        Returns
        -------
        BackwardResult
            dx and dh_0 (and dc_0, ...), of what `forward` was given, dgiven, and grads.

        Raises
        ------
        ShapeError, DTypeError, OptionError
            A gradient does not fit; the trace is another model's, or that of another mode.
        """
        steps = self.backward_steps(trace, dpredictions, dh_n, grads)
        collections.deque(steps, maxlen=0)
        return cast(BackwardResult, steps.result)  # it is there once the steps have run out

    def backward_steps(
        self, trace: RolloutTrace, dpredictions: ArrayLike, dh_n: Any = None, grads: Parameters | None = None
    ) -> RolloutSteps:
        """Go back through the roll-out one chunk at a time, newest first, the warm-up last.

        Arguments and errors are those of `backward`, which runs this very loop.

        Returns
        -------
        RolloutSteps
            An iterator of `Chunk`, each with its gradients. After the last one `grads` are complete and `.result` is
            what `backward` returns. Breaking out early leaves `grads` untouched.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import Forecaster
        >>> free = Rollout(Forecaster(1, 8, rng=0))
        >>> predictions, h_n, trace = free.forward(np.ones((5, 1, 1)), 4)
        >>> steps = free.backward_steps(trace, np.ones_like(predictions))
        >>> [chunk.first for chunk in steps]
        [3, 2, 1, 0]
        >>> steps.result.dx.shape
        (5, 1, 1)
        """
        where = "Rollout.backward"
        if not isinstance(trace, RolloutTrace):
            raise DTypeError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
        if (trace.mode == "teacher") != (self.mode == "teacher"):
            raise OptionError(f"{where}: a roll-out in mode {self.mode!r} cannot go back through one of {trace.mode!r}")
        dtype = self.params.dtype
        given = arguments.array_of(where, "dpredictions", dpredictions, dtype)
        arguments.shaped(where, "dpredictions", given, "predictions.shape", trace.predictions.shape)
        grads = arguments.gradients(where, grads, self.params)
        results: list[BackwardResult] = []
        loop = self._unroll(trace, given.copy(), states.mapped(np.array, dh_n), grads, results)
        return RolloutSteps(loop, results)

    def _unroll(
        self, trace: RolloutTrace, dloss: Array, dh_n: Any, grads: Parameters, results: list[BackwardResult]
    ) -> Iterator[Chunk]:
        """B1 to B4; yields each chunk, and hands in the result at the end."""
        rnn, readout = getattr(self.model, self.layer), self.model.readout
        axis, own = trace.axis, grads.zeros_like()
        of_rnn, of_readout = own.part(self.layer), own.part("readout")
        dstate, fed = dh_n, None
        dgiven, given_ways = dict[str, Array](), dict[str, dict[str, Array]]()
        for chunk in reversed(trace.chunks):
            chunk.dloss = _steps(dloss, axis, chunk.first, chunk.first + chunk.y.shape[axis])
            chunk.dfed = np.zeros_like(chunk.y) if fed is None else fed
            chunk.dy = chunk.dloss + chunk.dfed  # B3
            dread = readout.backward(chunk.readout, chunk.dy, of_readout).dx  # B2
            chunk.dh = states.mapped(np.zeros_like, trace.h_n) if dstate is None else dstate
            if chunk.first > 0:
                result = rnn.backward(chunk.trace, dread, dstate, of_rnn)  # B4
            else:
                # The warm-up's last output is the top layer's state.
                first, *others = states.split(chunk.dh)
                first = first.copy()
                first[-1] += np.squeeze(dread, axis)
                result = rnn.backward(chunk.trace, None, states.join([first, *others]), of_rnn)  # B1
            dstate = chunk.dh_prev = states.join([getattr(result, f"d{state}_0") for state in rnn.cell.states])
            chunk.dx = result.dx
            _add(dgiven, result.dgiven)
            for name, ways in result.given_ways.items():
                _add(given_ways.setdefault(name, {}), ways)
            fed = chunk.dx if self.mode == "free" else None
            if chunk.first == 0:
                grads.flat += own.flat
                result.grads, result.dgiven, result.given_ways = grads, dgiven, given_ways
                results.append(result)
            yield chunk

    # ------------------------------------------------------------------------------------------------ loss

    def loss_of(
        self,
        x: Any,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
    ) -> Any:
        """Return the loss alone, in this mode; arguments and errors as of `loss_and_grads`. There is no dropout."""
        predictions, _, _ = self._run(x, self.horizon_of(target), h_0, lengths, None, self._forced(target), None)
        return mse_loss(predictions, target, mask)[0]

    def loss_and_grads(
        self,
        x: Any,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
    ) -> tuple[Any, Parameters, RolloutTrace]:
        """Predict what follows x, compare, and go back.

        Parameters
        ----------
        x, lengths, h_0
            As of `forward`.
        target : ndarray, (H, N, D), axes as those of x
            What follows x. Its length is the horizon.
        mask : bool ndarray, (H, N) or (H, N, D), optional
            True where a prediction counts.

        Returns
        -------
        loss : scalar
            Mean squared error over all that counts.
        grads : Parameters
            Of the names of `params`. In mode "stop" not the gradient of the loss.
        trace : RolloutTrace
        """
        loss, result, trace = self.loss_and_backward(x, target, mask, lengths, h_0)
        return loss, result.grads, trace

    def loss_and_backward(
        self,
        x: Any,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
        grads: Parameters | None = None,
    ) -> tuple[Any, BackwardResult, RolloutTrace]:
        """Return the whole result of the backward pass in place of grads alone: for what stands before, an encoder.

        Arguments and errors are those of `loss_and_grads`; gradients are added to `grads`.
        """
        horizon, forced = self.horizon_of(target), self._forced(target)
        predictions, _, trace = self.forward(x, horizon, h_0, lengths, targets=forced)
        loss, dpredictions = mse_loss(predictions, target, mask)
        return loss, self.backward(trace, dpredictions, grads=grads), trace

    def count(
        self,
        x: Any,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
    ) -> float:
        """Return how many numbers the mean loss of this batch is over."""
        size = np.size(target)
        return size if mask is None else size // max(1, np.size(mask)) * int(np.count_nonzero(mask))

    def known_mistakes(
        self,
        x: Any,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        h_0: Any = None,
    ) -> Iterator[tuple[str, str, Mapping[str, Array]]]:
        """Yield what `gradcheck` compares a wrong gradient of this model with: a kind of mistake, why, the gradient."""
        if self.mode != "teacher":
            stop = Rollout(self.model, "stop", layer=self.layer)
            why = "what a prediction did to later ones, which read it as their input, is left out"
            yield (
                "feedback path missing",
                f"{why}, as in mode 'stop'",
                stop.loss_and_grads(x, target, mask, lengths, h_0)[1],
            )

    def horizon_of(self, target: ArrayLike) -> int:
        """Return H, the steps of a target."""
        array = arguments.as_array("Rollout", "target", target)
        axis = int(getattr(self.model, self.layer).batch_first and array.ndim == 3)
        if array.ndim not in (2, 3):
            raise ShapeError(f"Rollout: target must be (H, N, D), axes as those of x; got shape {array.shape}")
        return int(array.shape[axis])

    def _forced(self, target: ArrayLike) -> Array | None:
        """Return what "teacher" reads."""
        return np.asarray(target) if self.mode == "teacher" else None

    def __repr__(self) -> str:
        return f"Rollout({self.model!r}, {self.mode!r})"


def _steps(array: Array, axis: int, start: int, stop: int) -> Array:
    """Return steps start ... stop-1 of (T, N, K) or, where the axis of time is 1, of (N, T, K)."""
    steps: Array = array[(slice(None),) * axis + (slice(start, stop),)]
    return steps


def _add(total: dict[str, Array], shares: Mapping[str, Array]) -> None:
    for name, share in shares.items():
        total[name] = total[name] + share if name in total else share
