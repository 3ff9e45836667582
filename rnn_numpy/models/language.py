r"""A language model: what comes next, given all that came before.

    (F1)  e_t = E[i_t]                        a row of the embedding for each id
    (F2)  h_1 ... h_T = RNN(e_1 ... e_T)      or LSTM, GRU or another recurrent layer
    (F3)  z_t = W h_t + b                     logits of the V ids that may follow; tied, W is E itself
    (F4)  L = mean of -log softmax(z_t)[i_{t+1}]

and the backward passes of the four, in reverse order. Ids have no gradient, so that (B1) ends at the rows of E, where
an id that occurs several times adds up. Tied, E gets two terms:

    (B3)  dE  = sum_t dz_t h_t^T              as the readout's weight
    (B1)  dE += rows of de_t at i_t           as the embedding
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.stream import Stream
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss
from rnn_numpy.models import decoding
from rnn_numpy.models.model import Model, counted

Array = NDArray[Any]

PIECE = 1024  # steps of a pass through a long text


class LanguageModel(Model):
    """An embedding, a recurrent layer and a readout over the same vocabulary.

    Parameters
    ----------
    rnn : Recurrent
        RNN, LSTM, GRU, or a layer of one's own, of one direction, with any other options. Taken over, not copied: its
        parameters become part of `params`. Its input_size is the embedding's width, E.
    vocabulary_size : int
        V.
    tied : bool
        Whether the readout's weight is the embedding's, as one array: both gradients add up in it. It is then drawn
        from a normal distribution with the standard deviation E^(-1/4): the geometric mean of the embedding's 1, which
        makes logits too large, and of the 1 / sqrt(E) of a readout, from which an embedding learns slowly. Needs a
        layer whose output is as wide as its input.
    padding_idx : int, optional
        As of `Embedding`.
    loss_options : mapping, optional
        Keyword arguments of `cross_entropy_loss`.
    rng : numpy.random.Generator, int or None
        Draws the embedding, then the readout.

    Attributes
    ----------
    embedding : Embedding
    rnn : Recurrent
    readout : Linear
    params : Parameters
        Of all in one vector: "embedding.weight", "readout.weight" (not where tied), "readout.bias", "rnn....".

    Raises
    ------
    OptionError, DTypeError
        `rnn` is no recurrent layer, has two directions, or has no output as wide as its input though tied; an option
        has an impossible value.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import GRU
    >>> model = LanguageModel(GRU(4, 8, rng=0), 10, rng=0)
    >>> text = np.arange(21) % 10
    >>> loss, grads, trace = model.loss_and_grads(text[:-1], text[1:])
    >>> grads["embedding.weight"].shape, round(float(loss), 2)
    ((10, 4), 2.37)
    >>> model.generate([1, 2, 3], 5, rng=0)
    array([5, 2, 0, 0, 7])
    """

    layers: ClassVar[tuple[str, ...]] = ("embedding", "readout", "rnn")

    def __init__(
        self,
        rnn: Recurrent,
        vocabulary_size: int,
        *,
        tied: bool = False,
        padding_idx: int | None = None,
        loss_options: Mapping[str, Any] | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        if not isinstance(rnn, Recurrent):
            raise DTypeError(f"{where}: rnn must be a recurrent layer: RNN, LSTM or GRU; got {type(rnn).__name__}")
        if rnn.num_directions != 1:
            raise OptionError(
                f"{where}: rnn must not be bidirectional: its reverse direction reads the very ids to be predicted"
            )
        V = arguments.positive_int(where, "vocabulary_size", vocabulary_size)
        self.rnn, self.tied = rnn, arguments.flag(where, "tied", tied)
        self.loss_options = dict(loss_options or {})
        width = getattr(rnn, "proj_size", 0) or rnn.hidden_size
        if self.tied and rnn.input_size != width:
            raise OptionError(
                f"{where}: tied = True needs a layer whose output is as wide as its input, since both are read by one "
                f"weight (V, E); rnn has input_size E = {rnn.input_size} and output {width}"
            )
        rng = arguments.generator(where, rng)
        self.embedding = Embedding(V, rnn.input_size, padding_idx, dtype=rnn.dtype, rng=rng)
        self.readout = Linear(width, V, dtype=rnn.dtype, rng=rng)
        if self.tied:
            self.embedding.params["weight"][...] *= rnn.input_size**-0.25
        self.join()

    def parts(self) -> dict[str, Parameters]:
        """Return the parameters of each layer; those of a tied readout without the weight that it borrows."""
        found = super().parts()
        if self.tied:
            bias = found["readout"]["bias"]
            found["readout"] = Parameters({"bias": bias.shape}, bias.dtype, bias)
        return found

    def join(self) -> None:
        """Lay the parameters of all layers into one new vector."""
        super().join()
        self._tie()

    def rejoin(self) -> None:
        """Make the layers' parameters views of `params` again, whose values stay."""
        super().rejoin()
        self._tie()

    def _tie(self) -> None:
        if self.tied:
            self.readout.params = self._of_readout(self.params)

    def _of_readout(self, vector: Parameters) -> Parameters:
        """Return the readout's part of parameters or gradients: tied, the embedding's weight and the bias after it."""
        if not self.tied:
            return vector.part("readout")
        return self.readout.params.twin(vector.flat[: self.readout.params.flat.size])

    def __call__(self, ids: ArrayLike, h_0: Any = None) -> tuple[Array, Any]:
        """Return logits, without a trace and without dropout, and the final state, of an LSTM (h, c).

        Parameters
        ----------
        ids : int ndarray, (T, N), or (N, T) where the layer is batch_first, or (T,) for one sequence
            In [0, V).
        h_0 : optional
            Initial states as of the layer.

        Returns
        -------
        logits : ndarray, (T, N, V), axes as those of ids
        h_n : as the layer returns it
        """
        output, h_n = self.rnn(self.embedding(ids), h_0)
        return self.readout(output), h_n

    def loss_of(self, ids: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, h_0: Any = None) -> Any:
        """Return the loss alone; arguments and errors as of `loss_and_grads`. There is no dropout."""
        return cross_entropy_loss(self(ids, h_0)[0], targets, mask, **self.loss_options)[0]

    def loss_and_grads(
        self, ids: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, h_0: Any = None
    ) -> tuple[Any, Parameters, Trace]:
        """Run forward and backward.

        Parameters
        ----------
        ids : int ndarray, (T, N), or (N, T) where the layer is batch_first, or (T,) for one sequence
        targets : int ndarray, like ids
            What follows each of them.
        mask : bool ndarray, like ids, optional
            True where a prediction counts.
        h_0 : optional
            Initial states, as of the layer: of truncated BPTT that goes on, the final ones of the window before. They
            get no gradient.

        Returns
        -------
        loss : scalar
            In nats, mean over all that counts.
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
        e, embedding_trace = self.embedding.forward(ids)  # F1
        output, _, trace = self.rnn.forward(e, h_0)  # F2
        logits, readout_trace = self.readout.forward(output)  # F3
        loss, dlogits = cross_entropy_loss(logits, targets, mask, **self.loss_options)  # F4
        doutput = self.readout.backward(readout_trace, dlogits, self._of_readout(grads)).dx
        de = self.rnn.backward(trace, doutput, grads=grads.part("rnn")).dx
        self.embedding.backward(embedding_trace, de, grads.part("embedding"))
        return loss, grads, trace

    def count(self, ids: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, h_0: Any = None) -> float:
        """Return what the mean loss of this batch divides by: how many targets count."""
        return counted(targets, mask, self.loss_options)

    def bits(self, ids: ArrayLike, *, h_0: Any = None) -> float:
        """Return the mean of -log2 p over a text, (S,) with S >= 2: bits per character, where ids are characters.

        One pass from the first id to the last, the state carried all along: all ids but the first one are foretold,
        each from all that come before it.
        """
        where = f"{type(self).__name__}.bits"
        text = arguments.as_array(where, "ids", ids)
        if text.ndim != 1 or text.size < 2:
            raise ShapeError(f"{where}: ids must have shape (S,) with S >= 2; got {text.shape}")
        total, state = 0.0, h_0
        for start in range(0, text.size - 1, PIECE):  # so that memory does not grow with the text
            targets = text[start + 1 : start + 1 + PIECE]
            logits, state = self(text[start : start + len(targets)], state)
            total += float(cross_entropy_loss(logits, targets, reduction="sum")[0])
        return total / (text.size - 1) / math.log(2)

    def generate(
        self,
        prompt: ArrayLike,
        steps: int,
        *,
        greedy: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        h_0: Any = None,
        rng: np.random.Generator | int | None = None,
    ) -> NDArray[np.int64]:
        """Continue a prompt, one step at a time.

        Parameters
        ----------
        prompt : int ndarray, (T0, N), or (N, T0) where the layer is batch_first, or (T0,) for one sequence
            At least one id.
        steps : int
            How many ids to add; at least 0.
        greedy : bool
            Take the most probable id each time; nothing is drawn.
        temperature, top_k, top_p
            As for `rnn_numpy.models.decoding.sample`.
        h_0 : optional
            The state before the prompt; zeros where left out.
        rng : numpy.random.Generator, int or None
            One uniform number for each id, drawn sequence by sequence: adding sequences to a batch changes nothing for
            those before.

        Returns
        -------
        ids : int ndarray, (steps, N), axes as those of the prompt
            Without the prompt.
        """
        where = f"{type(self).__name__}.generate"
        decoding.check_options(where, temperature, top_k, top_p)
        ids = arguments.as_array(where, "prompt", prompt)
        steps = arguments.step_count(where, "steps", steps)
        time = 1 if self.rnn.batch_first and ids.ndim == 2 else 0
        if ids.ndim not in (1, 2) or ids.shape[time] == 0:
            raise ShapeError(f"{where}: prompt must have shape (T0,) or (T0, N) with T0 >= 1; got {ids.shape}")
        rows = ids.shape[:time] + ids.shape[time + 1 :]
        uniforms = None if arguments.flag(where, "greedy", greedy) else self._uniforms(where, rng, rows, steps)
        found = np.empty((steps, *rows), np.int64)
        read = self._reader(ids, h_0, time)
        for step in range(steps):
            last = next(read) if step == 0 else read.send(found[step - 1])
            if uniforms is None:
                found[step] = decoding.greedy(last)
            else:
                found[step] = decoding.sample(
                    last, uniforms[..., step], temperature=temperature, top_k=top_k, top_p=top_p
                )
        return np.moveaxis(found, 0, time)

    def _reader(self, ids: Array, h_0: Any, time: int) -> Generator[Array, Array, None]:
        """Read a prompt, then ids sent one by one, (N,); yields the logits after each, (N, V)."""
        logits, state = self(ids, h_0)
        ids = yield logits.take(-1, axis=time)
        if type(self).__call__ is not LanguageModel.__call__ or self.rnn.own_way():
            while True:
                logits, state = self(np.expand_dims(ids, time), state)
                ids = yield logits.take(-1, axis=time)
        stream = Stream(self.rnn, states.batch(state), state, fastest=False)
        while True:
            ids = yield self.readout(stream.step(self.embedding(ids)))

    def _uniforms(self, where: str, rng: Any, rows: tuple[int, ...], steps: int) -> NDArray[np.float64]:
        return arguments.generator(where, rng).random((*rows, steps))
