r"""An encoder, a bridge, and a decoder that attends: sequence to sequence.

    (F1)  source ids -> embedding -> encoder: its outputs are the memory, its final states cross the bridge
    (F2)  inputs BOS y_1 ... y_L -> embedding -> decoder, with the memory, from the bridge's states
    (F3)  logits = readout of the decoder's outputs; targets y_1 ... y_L EOS; cross-entropy over what counts

    (B3)  readout;  (B2)  the decoder, newest step first: gradients of inputs, memory and initial states
    (B1)  the bridge, and then the encoder: doutput is the memory's gradient, dh_n the bridge's

Padding. Sources are padded behind their lengths: the encoder stops there, its reverse direction starts there, and the
decoder's attention does not see the rows behind. Targets need no lengths in the decoder, since padding behind cannot
reach back; the loss counts the first `target_lengths` positions, EOS among them. (A mask made of `target != PAD` would
hide EOS where the two are one id: the model would never learn to stop.)

Scheduled sampling [1]_: at some steps the decoder reads its own token in place of the right one. Which token it takes
has no gradient, so that no second kind of training is needed: `scheduled` rolls the decoder out, without a trace, and
returns the inputs, a mixture; the ordinary pass on these has exactly the gradient.

References
----------
.. [1] S. Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural networks", NIPS (2015).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.stepping import Steps, run_out
from rnn_numpy.core.symbols import EOS, PAD
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.stepper import Stepper
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention_decoder import AttentionDecoder, DecoderGradients, DecoderState, DecoderTrace
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss
from rnn_numpy.models import decoding
from rnn_numpy.models.bridge import Bridge, BridgeTrace
from rnn_numpy.models.writing import Writer, checked_ids, checked_lengths, shifted

Array = NDArray[Any]
Ids = NDArray[np.int64]


@dataclass
class EncoderDecoderTrace:
    """What a forward pass of the model records.

    Attributes
    ----------
    encoder : Trace
    decoder : DecoderTrace
        `trace.decoder[t]` is a step with its weights, scores and contexts, and their gradients.
    memory : ndarray, (S, N, M)
    exists : ndarray of bool, (N, S)
    logits : ndarray, (T, N, V)
    dlogits : ndarray
        Of the mean loss.
    back : DecoderGradients or None
        What the decoder handed back, once a backward pass has run.
    dsource : ndarray, (S, N, E), or None
        The gradient of the source's embeddings, then.
    """

    encoder: Trace
    decoder: DecoderTrace
    memory: Array
    exists: NDArray[np.bool_]
    logits: Array
    dlogits: Array
    bridge: BridgeTrace
    embedded: tuple[Any, Any]
    readout: Any
    back: DecoderGradients | None = None
    dsource: Array | None = None

    def __getitem__(self, part: str) -> Any:
        return getattr(self, part)


class EncoderDecoder(Writer):
    """A model that reads one sequence of ids and writes another.

    Parameters
    ----------
    encoder : Recurrent
        RNN, LSTM, GRU, ..., of one or two directions and any number of layers.
    decoder : AttentionDecoder
        With memory_size the encoder's directions * H.
    source_vocabulary, target_vocabulary : int
        Sizes V of both, PAD, BOS and EOS (0, 1, 2) among them. Embeddings are as wide as the layers' inputs.
    bridge : {"tanh", "linear", "concat", "mean", "zeros"}
        How the decoder's initial states come about; see `rnn_numpy.models.bridge`.
    reverse_only : bool
        Whether the bridge reads the encoder's backward direction alone.
    loss_options : mapping, optional
        Of `cross_entropy_loss`: label_smoothing, reduction ("token", "sentence", "sum").
    rng : numpy.random.Generator, int or None
        For embeddings, bridge and readout.

    Attributes
    ----------
    params : Parameters
        "source.weight", "encoder. ...", "bridge. ...", "target.weight", "decoder.rnn. ...", "readout.weight", ...

    Raises
    ------
    DTypeError, OptionError, ShapeError
        The parts do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import GRU
    >>> encoder, decoder = GRU(8, 6, bidirectional=True, rng=0), AttentionDecoder(8, 10, 12, rng=1)
    >>> model = EncoderDecoder(encoder, decoder, 9, 7, rng=2)
    >>> source, target = np.array([[3, 4], [5, 0]]), np.array([[3, 4], [4, 2], [2, 0]])
    >>> loss, grads, trace = model.loss_and_grads(source, [2, 1], target, [3, 2])
    >>> trace.decoder.alpha.shape, trace.decoder.alpha[0, 1]
    ((3, 2, 2), array([1., 0.]))
    """

    layers: ClassVar[tuple[str, ...]] = ("source", "encoder", "bridge", "target", "decoder", "readout")

    def __init__(
        self,
        encoder: Recurrent,
        decoder: AttentionDecoder,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        bridge: str = "tanh",
        reverse_only: bool = False,
        loss_options: Mapping[str, Any] | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        if not isinstance(encoder, Recurrent):
            raise DTypeError(f"{where}: encoder must be a recurrent layer: RNN, LSTM or GRU; got {encoder!r}")
        if not isinstance(decoder, AttentionDecoder):
            raise DTypeError(f"{where}: decoder must be an AttentionDecoder; got {decoder!r}")
        if encoder in (decoder.rnn, decoder.upper):
            raise OptionError(
                f"{where}: encoder and decoder must be two layers; the encoder is one of the decoder's own"
            )
        if encoder.batch_first:
            raise OptionError(f"{where}: encoder must not be batch_first: ids are (S, N)")
        if encoder.dtype != decoder.dtype:
            raise DTypeError(f"{where}: decoder must have the encoder's dtype, {encoder.dtype}; got {decoder.dtype}")
        width = encoder.num_directions * encoder.output_width
        if decoder.memory_size != width:
            raise ShapeError(
                f"{where}: decoder must have memory_size = directions * H of the encoder = {width}; got "
                f"{decoder.memory_size}"
            )
        vocabularies = [
            arguments.positive_int(where, "source_vocabulary", source_vocabulary),
            arguments.positive_int(where, "target_vocabulary", target_vocabulary),
        ]
        if vocabularies[1] <= EOS:
            raise OptionError(f"{where}: target_vocabulary must hold PAD, BOS and EOS, V >= 3; got {target_vocabulary}")
        generator = arguments.generator(where, rng)
        self.encoder, self.decoder = encoder, decoder
        self.set_loss_options(loss_options)
        dtype = encoder.dtype
        self.source = Embedding(vocabularies[0], encoder.input_size, PAD, dtype=dtype, rng=generator)
        self.target = Embedding(vocabularies[1], decoder.input_size, PAD, dtype=dtype, rng=generator)
        self.bridge = Bridge(
            bridge,
            dict(encoder.widths),
            {state: decoder.rnn.widths[state] for state in decoder.own},
            encoder_layers=encoder.num_layers,
            decoder_layers=decoder.num_layers,
            directions=encoder.num_directions,
            memory_size=width,
            reverse_only=reverse_only,
            dtype=dtype,
            rng=generator,
        )
        self.readout = Linear(decoder.output_width, vocabularies[1], dtype=dtype, rng=generator)
        self.join()

    # ------------------------------------------------------------------------------------------------ training

    def forward(
        self,
        source: ArrayLike,
        source_lengths: ArrayLike,
        target: ArrayLike,
        target_lengths: ArrayLike,
        inputs: ArrayLike | None = None,
        *,
        training: bool = True,
    ) -> tuple[Any, EncoderDecoderTrace]:
        """Return the mean loss and the trace of a batch.

        Parameters
        ----------
        source : int ndarray, (S, N)
            And anything behind the lengths.
        source_lengths : int array_like, (N,)
        target : int ndarray, (T, N)
            y_1 ... y_L EOS, and anything behind.
        target_lengths : int array_like, (N,)
            L + 1 of each, EOS counted.
        inputs : int ndarray, (T, N), optional
            What the decoder reads; BOS y_1 ... y_L where left out. From `scheduled`.
        training : bool
            Whether there is dropout.

        Raises
        ------
        ShapeError, DTypeError, OptionError
            A target does not end with EOS, or has one before; lengths, shapes or ids that do not fit.
        """
        where = f"{type(self).__name__}.forward"
        ids, counts = self._source(where, source, source_lengths)
        right, mask = self.checked_target(where, target, target_lengths, ids.shape[1])
        read = shifted(right) if inputs is None else arguments.as_array(where, "inputs", inputs)
        arguments.shaped(where, "inputs", read, "(T, N)", right.shape)
        read = checked_ids(where, "inputs", read, mask, self.target.num_embeddings)
        e, source_trace = self.source.forward(ids)  # F1
        memory, finals, encoder = self.encoder.forward(e, None, counts, training=training)
        exists = counts[:, None] > np.arange(len(ids))
        initial, bridge = self.bridge.forward(finals, memory, exists)
        x, target_trace = self.target.forward(read)  # F2
        output, _, decoder = self.decoder.forward(x, memory, initial, memory_mask=exists, training=training)
        logits, readout = self.readout.forward(output)  # F3
        loss, dlogits = cross_entropy_loss(logits, right, mask, **self.loss_options)
        embedded = source_trace, target_trace
        return loss, EncoderDecoderTrace(encoder, decoder, memory, exists, logits, dlogits, bridge, embedded, readout)

    def backward_steps(self, trace: EncoderDecoderTrace, grads: Parameters | None = None) -> Steps:
        """Back-propagate one step at a time: the decoder's, newest first, then the encoder's.

        After the last step `.result` are the gradients, added to `grads`, if these were given; only then are they.
        """
        where = f"{type(self).__name__}.backward"
        if not isinstance(trace, EncoderDecoderTrace):
            raise DTypeError(f"{where}: trace must be the second result of forward; got {type(trace).__name__}")
        return Steps(self._backward(trace, arguments.gradients(where, grads, self.params)))

    def backward(self, trace: EncoderDecoderTrace, grads: Parameters | None = None) -> Parameters:
        """Return the gradients of the loss, added to `grads`, if these were given: `backward_steps`, exhausted."""
        result: Parameters = run_out(self.backward_steps(trace, grads))
        return result

    def _backward(self, trace: EncoderDecoderTrace, total: Parameters) -> Generator[Any, None, Parameters]:
        grads = total.zeros_like()
        source_trace, target_trace = trace.embedded
        doutput = self.readout.backward(trace.readout, trace.dlogits, grads.part("readout")).dx  # B3
        steps = self.decoder.backward_steps(trace.decoder, doutput, None, grads.part("decoder"))  # B2
        yield from steps
        trace.back = back = run_out(steps)
        self.target.backward(target_trace, back.dx, grads.part("target"))
        initial = tuple(getattr(back, f"d{state}_0") for state in self.decoder.own)
        own = grads.part("bridge") if len(self.bridge.params) else self.bridge.params.zeros_like()
        dfinals, dmemory = self.bridge.backward(trace.bridge, states.join(initial), own)  # B1
        dmemory = back.dmemory if dmemory is None else back.dmemory + dmemory
        below = self.encoder.backward_steps(trace.encoder, dmemory, dfinals, grads.part("encoder"))
        yield from below
        trace.dsource = run_out(below).dx
        self.source.backward(source_trace, trace.dsource, grads.part("source"))
        total.flat += grads.flat
        return total

    def loss_and_grads(
        self,
        source: ArrayLike,
        source_lengths: ArrayLike,
        target: ArrayLike,
        target_lengths: ArrayLike,
        inputs: ArrayLike | None = None,
    ) -> tuple[Any, Parameters, EncoderDecoderTrace]:
        """Run forward and backward; arguments and errors as of `forward`.

        Returns
        -------
        loss : scalar
        grads : Parameters
            Of the names of `params`.
        trace : EncoderDecoderTrace
        """
        loss, trace = self.forward(source, source_lengths, target, target_lengths, inputs)
        return loss, self.backward(trace), trace

    def loss_of(self, *batch: Any) -> Any:
        """Return the loss alone, without dropout; arguments and errors as of `forward`."""
        return self.forward(*batch, training=False)[0]

    def count(
        self,
        source: ArrayLike,
        source_lengths: ArrayLike,
        target: ArrayLike,
        target_lengths: ArrayLike,
        inputs: ArrayLike | None = None,
    ) -> float:
        """Return what the mean loss of this batch divides by."""
        return self.counted(target, target_lengths)

    def scheduled(
        self,
        source: ArrayLike,
        source_lengths: ArrayLike,
        target: ArrayLike,
        target_lengths: ArrayLike,
        *,
        probability: float,
        rng: np.random.Generator | int | None = None,
        by: str = "step",
        greedy: bool = False,
    ) -> Ids:
        """Return inputs of which some are the model's own tokens: a roll-out, without a trace and without dropout.

        Parameters
        ----------
        source, source_lengths, target, target_lengths
            As of `forward`.
        probability : float
            In [0, 1], of reading one's own token.
        rng : numpy.random.Generator, int or None
            For the choices and the tokens.
        by : {"step", "sequence"}
            Whether each step, or each sequence as a whole, is chosen.
        greedy : bool
            Whether its own token is the most probable one; drawn where not.

        Returns
        -------
        inputs : int ndarray, (T, N)
        """
        where = f"{type(self).__name__}.scheduled"
        probability = arguments.probability(where, "probability", probability)
        arguments.one_of(where, "by", by, ("step", "sequence"))
        generator = arguments.generator(where, rng)
        ids, counts = self._source(where, source, source_lengths)
        right, _ = self.checked_target(where, target, target_lengths, ids.shape[1])
        inputs = shifted(right)
        T, N = inputs.shape
        own = generator.random((T, N) if by == "step" else (1, N)) < probability
        own = np.broadcast_to(own, (T, N))
        uniforms = generator.random((T, N))
        state = self._encoded(ids, counts)
        last = int(np.flatnonzero(own.any(axis=1)).max(initial=0))  # the last step for which a token is asked
        for t in range(last):
            log_p, state = self.next(inputs[t], state)
            chosen = decoding.greedy(log_p) if greedy else decoding.sample(log_p, uniforms[t])
            inputs[t + 1] = np.where(own[t + 1], chosen, inputs[t + 1])
        return inputs

    # ------------------------------------------------------------------------------------------------ decoding

    def start(self, source: ArrayLike, source_lengths: ArrayLike | None = None) -> Iterator[DecoderState]:
        """Return where the model stands before the first token of each sentence.

        Each source is read by itself, without the padding of its batch: the answer to a batch is that to each of its
        sentences alone, bit for bit. The parameters must not change before the last sentence is written.

        Parameters
        ----------
        source : int ndarray, (S, N), or (S,) for one
        source_lengths : int array_like, (N,), optional
            S where left out.
        """
        where = f"{type(self).__name__}.start"
        array = arguments.as_array(where, "source", source)
        array = array[:, None] if array.ndim == 1 else array
        lengths = np.full(array.shape[1:], len(array)) if source_lengths is None else source_lengths
        ids, counts = self._source(where, array, lengths)
        steppers: dict[Any, Stepper] = {}
        for n, count in enumerate(counts):
            yield self._encoded(ids[:count, n : n + 1], counts[n : n + 1], steppers)

    def _encoded(self, ids: Array, counts: Array, steppers: dict[Any, Stepper] | None = None) -> DecoderState:
        """Return the state in front of the first token."""
        memory, finals = self.encoder(self.source(ids), None, counts)
        exists = counts[:, None] > np.arange(len(ids))
        initial, _ = self.bridge.forward(finals, memory, exists)
        return self.decoder.begin(memory, initial, memory_mask=exists, steppers=steppers)

    # ------------------------------------------------------------------------------------------------ arguments

    def _source(self, where: str, source: ArrayLike, lengths: ArrayLike) -> tuple[Array, Array]:
        ids = arguments.as_array(where, "source", source)
        if ids.ndim != 2 or not len(ids):
            raise ShapeError(f"{where}: source must have shape (S, N) with S >= 1; got {ids.shape}")
        counts = checked_lengths(where, "source_lengths", lengths, ids.shape)
        exists = np.arange(len(ids))[:, None] < counts
        return checked_ids(where, "source", ids, exists, self.source.num_embeddings), counts
