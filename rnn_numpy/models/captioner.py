r"""A picture described in words: Show, Attend and Tell [1]_, on the windows of an image.

    (F1)  m_s = tanh(W_v patch_s + b_v);  memory_s = m_s + place_s        S windows, each with a learnt place, (M,)
    (F2)  h_{-1}, c_{-1} = tanh(W mean_s memory_s + b), each its own      the bridge "mean"
    (F3)  the decoder: additive score, the context times a gate beta_t, then the cell (`rnn_numpy.layers.attention`)
    (F4)  logits = readout of h_t; cross-entropy over the words that count, EOS among them

    (P)   penalty = (lambda / N) sum_n sum_s (1 - sum_t m_t alpha_t,s)^2, m_t the mask of the words

    (BP)  dalpha_t,s += -(2 lambda / N) m_t (1 - sum_t' m_t' alpha_t',s)      for every t, before the decoder's B2
    (B2)  dmemory_s gets what the decoder hands back, and 1 / S of what comes through the mean
    (B1)  dplace_s = sum_n dmemory_s;  du_s = dmemory_s * (1 - m_s^2);  dW_v = sum du_s patch_s^T,  db_v = sum du_s

The penalty asks that each window be looked at about once. What it is asked to add up to, 1 here, does not act: rows of
alpha sum to 1, so that a constant more in each dalpha_t changes no gradient of a score. The mask acts: weights of steps
behind a caption's end must not count.

References
----------
.. [1] K. Xu et al., "Show, attend and tell: neural image caption generation with visual attention", ICML (2015),
   sections 3.1.2 and 4.2.1, eq. 14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.symbols import EOS, PAD
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.layers.attention_decoder import AttentionDecoder, DecoderGradients, DecoderState, DecoderTrace
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss
from rnn_numpy.models.bridge import Bridge
from rnn_numpy.models.writing import Writer, shifted

Array = NDArray[Any]


@dataclass
class CaptionerTrace:
    """What a pass records: the decoder's trace, whose steps show alpha and beta, and the loss in its parts."""

    decoder: DecoderTrace
    features: Array
    memory: Array
    logits: Array
    loss: Any
    penalty: Any
    back: DecoderGradients | None = None


class Captioner(Writer):
    """A model that looks at the windows of a picture and describes it.

    Parameters
    ----------
    patch_size, places : int
        P, the numbers of a window, and S, the windows of a picture.
    vocabulary : int
        V, PAD, BOS and EOS (0, 1, 2) among them.
    hidden_size, memory_size, embedding_dim : int
        H of the decoder, M of the memory's rows and of the score, E of the words.
    cell : str or class
        Of the decoder, as for `AttentionDecoder`.
    gate : {"scalar", "vector", False}
    penalty : float
        lambda.
    loss_options : mapping, optional
        Of `cross_entropy_loss`.
    dtype, rng
        As for `rnn_numpy.RNN`.

    Attributes
    ----------
    params : Parameters
        "features.weight", "places.weight", "bridge. ...", "target.weight", "decoder. ...", "readout.weight", ...

    Examples
    --------
    >>> import numpy as np
    >>> model = Captioner(9, 4, 7, hidden_size=5, memory_size=6, embedding_dim=3, rng=0)
    >>> windows = np.random.default_rng(0).random((4, 2, 9))  # (S, N, P)
    >>> loss, grads, trace = model.loss_and_grads(windows, [[3, 4], [5, 2], [2, 0]], [3, 2])
    >>> trace.decoder.alpha.shape
    (3, 2, 4)
    """

    layers: ClassVar[tuple[str, ...]] = ("features", "places", "bridge", "target", "decoder", "readout")

    def __init__(
        self,
        patch_size: int,
        places: int,
        vocabulary: int,
        *,
        hidden_size: int,
        memory_size: int,
        embedding_dim: int,
        cell: str | type[Recurrent] = "lstm",
        gate: bool | str = "scalar",
        penalty: float = 0.0,
        loss_options: Mapping[str, Any] | None = None,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        generator = arguments.generator(where, rng)
        if arguments.positive_int(where, "vocabulary", vocabulary) <= EOS:
            raise OptionError(f"{where}: vocabulary must hold PAD, BOS and EOS, V >= 3; got {vocabulary}")
        self.penalty = arguments.not_negative(where, "penalty", penalty)
        self.set_loss_options(loss_options)
        self.features = Linear(patch_size, memory_size, dtype=dtype, rng=generator)
        self.places = Embedding(places, memory_size, dtype=dtype, rng=generator)
        self.places.params.flat[:] *= memory_size**-0.5
        self.decoder = AttentionDecoder(
            embedding_dim, hidden_size, memory_size, cell=cell, score="additive", attention_size=memory_size,
            order="before", gate=gate, dtype=dtype, rng=generator,
        )  # fmt: skip
        widths = {state: self.decoder.rnn.widths[state] for state in self.decoder.own}
        self.bridge = Bridge("mean", {}, widths, memory_size=memory_size, dtype=dtype, rng=generator)
        self.target = Embedding(vocabulary, embedding_dim, PAD, dtype=dtype, rng=generator)
        self.readout = Linear(hidden_size, vocabulary, dtype=dtype, rng=generator)
        self.join()

    def _memory(self, where: str, windows: ArrayLike) -> tuple[Array, Array, Any]:
        """F1. Return the memory, (S, N, M), what tanh gave of it, and the features' trace."""
        array = arguments.array_of(where, "windows", windows, self.dtype)
        S, P = self.places.num_embeddings, self.features.in_features
        if array.ndim != 3 or (len(array), array.shape[2]) != (S, P):
            raise ShapeError(f"{where}: windows must have shape (S, N, P) = ({S}, N, {P}); got {array.shape}")
        u, trace = self.features.forward(array)
        m = np.tanh(u)
        return m + self.places.params["weight"][:, None], m, trace

    def _initial(self, memory: Array) -> tuple[Any, Any]:
        """F2. Return the decoder's initial states and the bridge's trace."""
        return self.bridge.forward(None, memory, np.ones(memory.shape[1::-1], bool))

    def loss_and_grads(
        self, windows: ArrayLike, target: ArrayLike, target_lengths: ArrayLike
    ) -> tuple[Any, Parameters, CaptionerTrace]:
        """Run forward and backward.

        Parameters
        ----------
        windows : ndarray, (S, N, P)
        target : int ndarray, (T, N)
            Words, EOS, and anything behind.
        target_lengths : int array_like, (N,)
            With EOS.

        Returns
        -------
        loss : scalar
            Cross-entropy, mean over words, and the penalty.
        grads : Parameters
        trace : CaptionerTrace
        """
        grads = self.params.zeros_like()
        where = f"{type(self).__name__}.loss_and_grads"
        memory, m, features = self._memory(where, windows)  # F1
        right, mask = self.checked_target(where, target, target_lengths, memory.shape[1])
        initial, bridge = self._initial(memory)  # F2
        x, words = self.target.forward(shifted(right))
        output, _, decoder = self.decoder.forward(x, memory, initial)  # F3
        logits, readout = self.readout.forward(output)  # F4
        loss, dlogits = cross_entropy_loss(logits, right, mask, **self.loss_options)
        penalty, dalpha = self._penalty(decoder.alpha, mask)
        doutput = self.readout.backward(readout, dlogits, grads.part("readout")).dx
        back = self.decoder.backward(decoder, doutput, None, grads.part("decoder"), dalpha=dalpha)
        self.target.backward(words, back.dx, grads.part("target"))
        initial = states.join([getattr(back, f"d{state}_0") for state in self.decoder.own])
        dmemory = back.dmemory + self.bridge.backward(bridge, initial, grads.part("bridge"))[1]  # B2
        grads["places.weight"][...] += dmemory.sum(axis=1)  # B1
        self.features.backward(features, dmemory * (1 - m * m), grads.part("features"))
        return loss + penalty, grads, CaptionerTrace(decoder, m, memory, logits, loss, penalty, back)

    def loss_of(self, windows: ArrayLike, target: ArrayLike, target_lengths: ArrayLike) -> Any:
        """Return the loss alone; arguments and errors as of `loss_and_grads`."""
        logits, alpha, right, mask = self.read(windows, target, target_lengths)
        return cross_entropy_loss(logits, right, mask, **self.loss_options)[0] + self._penalty(alpha, mask)[0]

    def read(
        self, windows: ArrayLike, target: ArrayLike, target_lengths: ArrayLike
    ) -> tuple[Array, Array, Array, Array]:
        """Return logits, (T, N, V), and weights, (T, N, S), of a decoder that reads the right words, these, and what
        counts of them.
        """
        where = f"{type(self).__name__}.read"
        memory, _, _ = self._memory(where, windows)
        right, mask = self.checked_target(where, target, target_lengths, memory.shape[1])
        output, _, trace = self.decoder.forward(
            self.target(shifted(right)), memory, self._initial(memory)[0], training=False
        )
        return self.readout(output), trace.alpha, right, mask

    def _penalty(self, alpha: Array, mask: Array) -> tuple[Any, Array | None]:
        """P and BP. Return the penalty and its gradient by alpha; None without one."""
        if not self.penalty:
            return np.zeros((), self.dtype)[()], None
        there, N = mask[:, :, None].astype(self.dtype), max(1, alpha.shape[1])
        left = 1 - (there * alpha).sum(axis=0)
        scale = np.asarray(self.penalty / N, self.dtype)
        return scale * (left * left).sum(), -2 * scale * there * left

    def count(self, windows: ArrayLike, target: ArrayLike, target_lengths: ArrayLike) -> float:
        """Return what the mean cross-entropy of this batch divides by."""
        return self.counted(target, target_lengths)

    # ------------------------------------------------------------------------------------------------ decoding

    def start(self, windows: ArrayLike) -> Iterator[DecoderState]:
        """Return where the model stands before the first word of each picture, (S, N, P), each looked at by itself."""
        where = f"{type(self).__name__}.start"
        array = arguments.array_of(where, "windows", windows, self.dtype)
        steppers: dict[Any, Any] = {}
        for n in range(array.shape[1] if array.ndim == 3 else 1):
            memory, _, _ = self._memory(where, np.ascontiguousarray(array[:, n : n + 1]))
            yield self.decoder.begin(memory, self._initial(memory)[0], steppers=steppers)
