r"""Decoders that attend to a memory: a recurrent layer of any kind with attention before it or after it.

    before (Bahdanau et al. [1]_)   context_t from h_{t-1};  h_t = cell([x_t; context_t], h_{t-1});  output_t = h_t
    after (Luong et al. [2]_)       h_t = cell(x_t, h_{t-1});  context_t from h_t
                                    output_t = attn_t = tanh(W_c [context_t; h_t])
    after, with input feeding       h_t = cell([x_t; attn_{t-1}], h_{t-1}), the rest as after

The memory's keys are made once a call, in front of all steps. Attention before the cell, or with input feeding, is a
part of each step, whose gradients `rnn_numpy.layers.attention` derives. Without input feeding, attention after the cell
sees all steps at once (`rnn_numpy.layers.attention_layer`), and what is added here is

    (F1)  attn_t = tanh(W_c [context_t; h_t])
    (B1)  de_t = doutput_t * (1 - attn_t^2);  dW_c = sum_t de_t [context_t; h_t]^T;  [dcontext_t; dh_t] = W_c^T de_t

and then dh_t += dquery_t, the attention's. Of several layers, the first one attends before; the others are plain ones
that run on its outputs, as in Google's system [3]_. After, attention sees the last layer's outputs.

References
----------
.. [1] D. Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and translate", ICLR
   (2015), section 3.1.
.. [2] M.-T. Luong, H. Pham, C. D. Manning, "Effective approaches to attention-based neural machine translation", EMNLP
   (2015), eq. 5 and section 3.3.
.. [3] Y. Wu et al., "Google's neural machine translation system" (2016), section 3.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Gradients, Parameters
from rnn_numpy.core.parametric import Joined
from rnn_numpy.core.stepping import Steps, run_out
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.stepper import Stepper
from rnn_numpy.engine.trace import Step, Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention import Attending
from rnn_numpy.layers.attention_layer import Attention, AttentionTrace, Keys, memory_mask, memory_of, rows_that_exist
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.layers.linear import Linear, LinearTrace

Array = NDArray[Any]

ORDERS = ("before", "after")
OF_ATTENTION = ("score", "alpha", "context", "dscore", "dalpha", "dcontext")


class Made(type):
    """The type of the classes below, which pickle makes again: by their names it would not find them."""

    kind: type[Recurrent]


def _remade(made: Any) -> Any:
    return with_attention, (made.kind,)


copyreg.pickle(Made, _remade)
_MADE: dict[type[Recurrent], Any] = {}


def with_attention(kind: type[Recurrent]) -> type[Attending]:
    """Return the class of a recurrent layer with attention around each step: `Attending` in front of it."""
    if issubclass(kind, Attending):
        return kind
    if kind not in _MADE:
        meta: Any = Made
        if type(kind) is not type:  # a metaclass of the user's own
            meta = type("Made", (Made, type(kind)), {})
            copyreg.pickle(meta, _remade)
        words = {"__doc__": f"{kind.__name__} with attention.", "__module__": __name__, "kind": kind}
        _MADE[kind] = meta(f"Attention{kind.__name__}", (Attending, kind), words)
    made: type[Attending] = _MADE[kind]
    return made


# ------------------------------------------------------------------------------------------------ traces, results


class DecodedStep:
    """One step of a decoder: the arrays of its recurrent layer's step, and those of attention, all (N, ·)."""

    def __init__(self, step: Step, attention: AttentionTrace | None) -> None:
        self.step, self.t, self.attention = step, step.t, attention

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays that there are."""
        return (*self.step.names, *(() if self.attention is None else self.attention.names))

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_") or name == "attention":
            raise AttributeError(name)
        if self.attention is not None and name in self.attention.names:
            row: Array = getattr(self.attention, name)[self.t]
            return row
        found: Array = getattr(self.step, name)
        return found

    def __repr__(self) -> str:
        return repr(self.step)


@dataclass
class DecoderTrace:
    """What `AttentionDecoder.forward` records.

    Attributes
    ----------
    rnn : Trace
        Of the recurrent layer, attention among its arrays where it is a part of a step.
    attention : AttentionTrace or None
        Where it is not.
    upper : Trace or None
        Of the layers above the one that attends.
    score, alpha, context, dscore, dalpha, dcontext : ndarray, (T, N, S) or (T, N, M)
        Gradients are there once a backward pass has run.
    """

    rnn: Trace
    how: str
    memory: Array
    exists: NDArray[np.bool_]
    weights: Mapping[str, Array]
    attention: AttentionTrace | None = None
    upper: Trace | None = None
    between: Array | None = None
    joined: LinearTrace | None = None
    output: Array | None = None

    def __getattr__(self, name: str) -> Array:
        if name not in OF_ATTENTION:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; of attention it has {', '.join(OF_ATTENTION)}"
            )
        found: Array = getattr(self.rnn if self.attention is None else self.attention, name)
        return found

    def __getitem__(self, t: int) -> DecodedStep:
        return DecodedStep(self.rnn[t], self.attention)

    def __len__(self) -> int:
        return len(self.rnn)


def steps_that_exist(trace: Trace) -> NDArray[np.bool_] | None:
    """Return which steps of which sequences there are, (T, N); None where all are."""
    batch = trace.edge.batch
    if batch.alive is None:
        return None
    found: NDArray[np.bool_] = batch.unsorted(batch.exists(), 1)[:, :, 0]
    return found


class DecoderGradients(Gradients):
    """What the backward pass of a decoder returns.

    dx, like x; dh_0 (and dc_0), like h_0; dmemory, like memory, the sum of dmemory_values and dmemory_weights, the two
    ways by which it got its gradient; grads.
    """

    dh_0: Array
    dc_0: Array
    dmemory: Array
    dmemory_values: Array
    dmemory_weights: Array


class Stepping:
    """What all steps of a decoder on the same memories share: their keys and values, by sequence, and steppers.

    Attributes
    ----------
    values, keys : ndarray, (N, S, ·)
    exists : bool ndarray, (N, S)
    """

    def __init__(
        self, decoder: AttentionDecoder, values: Array, keys: Array, exists: Array, steppers: dict[Any, Stepper]
    ) -> None:
        self.decoder, self.values, self.keys, self.exists = decoder, values, keys, exists
        self.steppers = steppers
        self._latest: tuple[bytes | None, dict[str, Array]] = None, {}  # b"" is the name of no sequences

    def of(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        """Return values, keys and exists of these sequences, the same arrays as before for the same sequences."""
        name = rows.tobytes()
        if self._latest[0] != name:
            arrays = {"values": self.values, "keys": self.keys, "exists": self.exists}
            self._latest = name, {kind: array[rows] for kind, array in arrays.items()}
        return self._latest[1]

    def stepper(self, kind: str, layer: Recurrent, found: dict[str, Array]) -> Stepper:
        """Return the stepper of a layer for as many rows, with these arrays as what it is given."""
        given = {name: array for name, array in found.items() if name in layer.cell.given}
        name = (kind, *found["exists"].shape)
        if name not in self.steppers:
            self.steppers[name] = Stepper(layer, len(found["exists"]), given)
        stepper = self.steppers[name]
        if given and stepper.loaded is not found:
            stepper.load(given)
            stepper.loaded = found
        return stepper


@dataclass(frozen=True, eq=False)
class DecoderState:
    """A decoder between two steps, for a batch of rows.

    Attributes
    ----------
    states : ndarray or tuple of ndarray, (num_layers, N, H)
        As h_0.
    alpha : ndarray, (N, S), or None
        The weights of the last step; None before the first one.
    rows : int ndarray, (N,)
        The number of each row's memory among those that `begin` took.
    """

    inner: tuple[Array, ...]
    upper: tuple[Array, ...]
    stepping: Stepping
    rows: NDArray[np.intp]
    alpha: Array | None = None

    @property
    def states(self) -> Any:
        """The states of all layers, as h_0."""
        decoder = self.stepping.decoder
        found = dict(zip(decoder.rnn.cell.states, self.inner, strict=True))
        inner = [found[state] for state in decoder.own]
        if self.upper:
            inner = [np.concatenate(pair) for pair in zip(inner, self.upper, strict=True)]
        return states.join(tuple(inner))

    def take(self, rows: ArrayLike) -> DecoderState:
        """Return the state of these rows, one or several times, the memory's with them."""
        index, N = np.asarray(rows), len(self.rows)
        if index.ndim != 1 or (index.size and (index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= N)):
            raise OptionError(f"DecoderState.take: rows must be integers from 0 to N - 1 = {N - 1}, (R,); got {rows!r}")
        index = index.astype(np.intp)
        return DecoderState(
            tuple([array[:, index] for array in self.inner]), tuple([array[:, index] for array in self.upper]),
            self.stepping, self.rows[index], None if self.alpha is None else self.alpha[index],
        )  # fmt: skip

    @property
    def width(self) -> int:
        """S, of the longest memory."""
        return int(self.stepping.exists.shape[1])

    @classmethod
    def joined(cls, states: Sequence[DecoderState]) -> DecoderState:
        """Return the rows of several states of one decoder, one after the other, as one state."""
        decoder, S = states[0].stepping.decoder, max(state.width for state in states)
        wide = [name in ("cov", "focus") for name in decoder.rnn.cell.states]
        inner = tuple(
            np.concatenate([_widened(state.inner[i], 2, S) if is_wide else state.inner[i] for state in states], axis=1)
            for i, is_wide in enumerate(wide)
        )
        upper = tuple(np.concatenate(parts, axis=1) for parts in zip(*(state.upper for state in states), strict=True))
        found = [state.stepping.of(state.rows) for state in states]
        values, keys, exists = (
            np.concatenate([_widened(arrays[name], 1, S) for arrays in found]) for name in ("values", "keys", "exists")
        )
        alphas = [_widened(state.alpha, 1, S) for state in states if state.alpha is not None]
        stepping = Stepping(decoder, values, keys, exists, states[0].stepping.steppers)
        return cls(inner, upper, stepping, np.arange(len(exists)), np.concatenate(alphas) if alphas else None)


def _widened(array: Array, axis: int, size: int) -> Array:
    """Return an array with zeros behind its end, `size` along an axis."""
    missing = size - array.shape[axis]
    return array if not missing else np.pad(array, [(0, missing if at == axis else 0) for at in range(array.ndim)])


# ------------------------------------------------------------------------------------------------ the decoder


class AttentionDecoder(Joined):
    """A recurrent decoder with attention to a memory, an encoder's outputs say.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    memory_size : int
        M, the width of the memory's rows.
    cell : str or class
        A name of `rnn_numpy.layers.kinds.KINDS` ("rnn" stands for "rnn-tanh"), or a class of recurrent layers, one's
        own among them.
    score : {"general", "dot", "scaled_dot", "additive"}
        How the state is compared with the memory; see `rnn_numpy.layers.attention_layer`.
    attention_size : int, optional
        K, of the additive score; H where left out.
    order : {"after", "before"}
        Luong's or Bahdanau's; see the module.
    input_feeding : bool
        Whether the next step reads what attention has made of this one; in the order "after".
    coverage, location, gate
        As for `rnn_numpy.layers.attention.Attending`; the first two with the additive score, all where attention is a
        part of a step.
    num_layers : int
    dropout : float
        Between layers.
    dtype, rng
        As for `rnn_numpy.RNN`.
    options
        Further options of the cell's layer.

    Attributes
    ----------
    params : Parameters
        "rnn.weight_ih_l0", ...; "keys.weight_a", or "attention.weight_a", ...; "combine.weight"; "upper. ...".
    output_width : int

    Raises
    ------
    OptionError
        Options that do not go together; each message says which.

    Notes
    -----
    Memory, beside the layer's own: T N (2 S + M) numbers forward and as many backward, and copies of memory and keys,
    2 N S M. The additive score's hidden units, T N S K, are kept where they take up to 32 MiB, and made again where
    not; after the cell without feeding they are always made again: N S K numbers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> decoder = AttentionDecoder(4, 3, 5, cell="gru", rng=0)
    >>> x, memory = rng.normal(size=(6, 2, 4)), rng.normal(size=(7, 2, 5))
    >>> output, h_n, trace = decoder.forward(x, memory, memory_lengths=[7, 3])
    >>> output.shape, trace.alpha.shape
    ((6, 2, 3), (6, 2, 7))
    >>> back = decoder.backward(trace, np.ones_like(output))
    >>> back.dmemory.shape
    (7, 2, 5)

    One step at a time, for decoding:

    >>> state = decoder.begin(memory, memory_lengths=[7, 3])
    >>> first, state = decoder.step(x[0], state)
    >>> bool(np.array_equal(first, output[0]))
    True
    """

    layers: ClassVar[tuple[str, ...]] = ("rnn", "keys", "attention", "combine", "upper")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        *,
        cell: str | type[Recurrent] = "gru",
        score: str = "general",
        attention_size: int | None = None,
        order: str = "after",
        input_feeding: bool = False,
        coverage: bool = False,
        location: tuple[int, int] | None = None,
        gate: bool | str = False,
        num_layers: int = 1,
        dropout: float = 0.0,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
        **options: Any,
    ) -> None:
        where = type(self).__name__
        self.input_size = arguments.positive_int(where, "input_size", input_size)
        self.hidden_size = H = arguments.positive_int(where, "hidden_size", hidden_size)
        self.memory_size = arguments.positive_int(where, "memory_size", memory_size)
        self.num_layers = arguments.positive_int(where, "num_layers", num_layers)
        arguments.one_of(where, "order", order, ORDERS)
        self.score, self.order, self.input_feeding = score, order, arguments.flag(where, "input_feeding", input_feeding)
        if order == "before" and input_feeding:
            raise OptionError(f"{where}: input_feeding must be False with order = 'before': the cell reads the context")
        self.is_part = order == "before" or self.input_feeding
        extras: dict[str, Any] = {"coverage": coverage, "location": location, "gate": gate}
        asked = [name for name, value in extras.items() if value]
        if asked and not self.is_part:
            raise OptionError(
                f"{where}: {asked[0]} must be left out in the order 'after' without input_feeding, in which attention "
                "is no part of a step; take order = 'before' or input_feeding = True"
            )
        for name in ("bidirectional", "batch_first"):
            if options.get(name):
                raise OptionError(f"{where}: {name} must be False: a decoder has one direction, and arrays (T, N, ·)")
        generator = arguments.generator(where, rng)
        kind, fixed = _kind(where, cell)
        common: dict[str, Any] = {**fixed, **options, "dtype": dtype, "rng": generator}
        self.keys: Keys | None = None
        self.attention: Attention | None = None
        self.combine: Linear | None = None
        self.upper: Recurrent | None = None
        if self.is_part:
            self.keys = Keys(where, H, memory_size, score, attention_size, dtype, generator)
            inner = {"dot": "dot", "scaled_dot": "keys", "general": "keys", "additive": "additive"}[score]
            self.rnn: Recurrent = with_attention(kind)(
                self.input_size, H, memory_size=self.memory_size, score=inner, input_feeding=self.input_feeding,
                attention_size=self.keys.attention_size, **extras, **common,
            )  # fmt: skip
            if self.num_layers > 1:
                between = dropout if self.num_layers > 2 else 0.0
                self.upper = kind(H, H, self.num_layers - 1, dropout=between, **common)
        else:
            self.rnn = kind(self.input_size, H, self.num_layers, dropout=dropout, **common)
            width = self.rnn.output_width
            self.attention = Attention(width, self.memory_size, score, attention_size, dtype=dtype, rng=generator)
            self.combine = Linear(self.memory_size + width, H, bias=False, dtype=dtype, rng=generator)
        self.dropout = arguments.probability(where, "dropout", dropout)
        self.output_width = self.rnn.output_width if self.upper is None else self.upper.output_width
        if self.combine is not None:
            self.output_width = H
        self.join()

    # ------------------------------------------------------------------------------------------------ states

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the cell's own states: those of h_0."""
        return tuple(state for state in self.rnn.cell.states if state not in ("attn", "cov", "focus"))

    def _inner(self, where: str, name: str, value: Any, batch: int) -> tuple[list[Any], list[Any]]:
        """Return a value like h_0 in two parts: that of the layer that attends, and that of those above it."""
        count, H = len(self.own), self.hidden_size
        if value is None:
            return [None] * count, [None] * count
        parts = states.split(value)
        if len(parts) != count:
            raise DTypeError(f"{where}: {name} must be {count} array(s), {', '.join(self.own)}; got {len(parts)}")
        checked: list[Array] = []
        for state, part in zip(self.own, parts, strict=True):
            title, array = name.replace("h", state, 1), arguments.array_of(where, name, part, self.dtype)
            width = self.rnn.widths[state] if self.upper is None else H
            arguments.shaped(where, title, array, "(num_layers, N, H)", (self.num_layers, batch, width))
            checked.append(array)
        if not self.is_part:
            return checked, []
        return [array[:1] for array in checked], [array[1:] for array in checked]

    def _all(self, own: list[Any]) -> Any:
        """Return the states of the recurrent layer: those of attention are zeros."""
        found = dict(zip(self.own, own, strict=True))
        every = tuple(found.get(state) for state in self.rnn.cell.states)
        return None if all(part is None for part in every) else states.join(every)

    def _own(self, every: Any) -> list[Array]:
        """Return the cell's own ones among all states."""
        found = dict(zip(self.rnn.cell.states, states.split(every), strict=True))
        return [found[state] for state in self.own]

    # ------------------------------------------------------------------------------------------------ forward

    def forward(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        h_0: Any = None,
        lengths: ArrayLike | None = None,
        *,
        memory_lengths: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        training: bool = True,
    ) -> tuple[Array, Any, DecoderTrace]:
        """Run the decoder and record what its backward pass needs.

        Parameters
        ----------
        x : ndarray, (T, N, D)
        memory : ndarray, (S, N, M)
        h_0 : ndarray, (num_layers, N, H), or a tuple of such, optional
            The cell's own initial states; zeros where left out. Those of attention are always zeros.
        lengths : int array_like, (N,), optional
            Steps of each sequence.
        memory_lengths : int array_like, (N,), optional
            How many rows of each memory count.
        memory_mask : bool ndarray, (N, S), optional
            In place of memory_lengths: True where a row counts. A sequence for which none does has contexts of 0.
        training : bool
            Whether there is dropout.

        Returns
        -------
        output : ndarray, (T, N, output_width)
        h_n : like h_0
        trace : DecoderTrace
        """
        where = f"{type(self).__name__}.forward"
        signal = arguments.array_of(where, "x", x, self.dtype)
        if signal.ndim != 3 or signal.shape[2] != self.input_size:
            raise ShapeError(
                f"{where}: x must have shape (T, N, D) with D = input_size = {self.input_size}; got {signal.shape}"
            )
        N = signal.shape[1]
        array, exists = self._memory(where, memory, memory_lengths, memory_mask, N)
        inner, upper = self._inner(where, "h_0", h_0, N)
        own = {} if self.keys is None else {name: weight.copy() for name, weight in self.keys.params.items()}
        given = {} if self.keys is None else self._given(array, self.keys.forward(array, own), exists)
        output, finals, rnn = self.rnn.forward(signal, self._all(inner), lengths, training=training, **given)
        trace = DecoderTrace(rnn, self.score, array, exists, own)
        h_n = self._own(finals)
        if self.attention is not None and self.combine is not None:
            context, _, trace.attention = self.attention.attend(output, array, exists, steps_that_exist(rnn))
            joined = np.concatenate([context, output], axis=2)
            trace.joined = LinearTrace(joined, self.combine.params["weight"].copy())
            output = trace.output = np.tanh(self.combine(joined))  # F1
            output.flags.writeable = False  # the trace's
        elif self.upper is not None:
            if training and self.dropout:
                trace.between = self.rnn.drawn_mask(self.dropout, output.shape)
                output = output * trace.between
            above = None if upper[0] is None else states.join(tuple(upper))
            output, top, trace.upper = self.upper.forward(output, above, lengths, training=training)
            h_n = [np.concatenate(pair) for pair in zip(h_n, states.split(top), strict=True)]
        return output, states.join(tuple(h_n)), trace

    def __call__(self, x: ArrayLike, memory: ArrayLike, *arguments: Any, **options: Any) -> tuple[Array, Any]:
        """Return output and h_n without dropout; arguments and errors as of `forward`."""
        return self.forward(x, memory, *arguments, **{**options, "training": False})[:2]

    def _memory(
        self, where: str, memory: ArrayLike, lengths: Any, mask: Any, batch: int
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Return a memory with zeros in the rows that do not count, and which do."""
        array = memory_of(where, memory, batch, self.memory_size, self.dtype)
        exists = memory_mask(where, array, lengths, mask, ("memory_lengths", "memory_mask"))
        return rows_that_exist(array, exists), exists

    def _given(self, memory: Array, keys: Array | None, exists: Array) -> dict[str, Any]:
        found = {"values": memory, "exists": exists}
        return {"given": found if self.rnn.cell.given.get("keys") is None else {**found, "keys": keys}}

    # ------------------------------------------------------------------------------------------------ backward

    def backward(
        self,
        trace: DecoderTrace,
        doutput: ArrayLike | None,
        dh_n: Any = None,
        grads: Parameters | None = None,
        *,
        dalpha: ArrayLike | None = None,
    ) -> DecoderGradients:
        """Back-propagate: the steps of `backward_steps`, run to the end.

        Parameters
        ----------
        trace : DecoderTrace
            From `forward` of this decoder.
        doutput : ndarray, like output, or None
        dh_n : like h_n, optional
        grads : Parameters, optional
            Gradients are added to these; new ones are made where left out.
        dalpha : ndarray, (T, N, S), optional
            What the loss says directly of the weights.

        Returns
        -------
        DecoderGradients
        """
        result: DecoderGradients = run_out(self.backward_steps(trace, doutput, dh_n, grads, dalpha=dalpha))
        return result

    def backward_steps(
        self,
        trace: DecoderTrace,
        doutput: ArrayLike | None,
        dh_n: Any = None,
        grads: Parameters | None = None,
        *,
        dalpha: ArrayLike | None = None,
    ) -> Steps:
        """Back-propagate one step at a time, newest step first; those of the upper layers before the others'.

        Arguments and errors are those of `backward`, which runs this very loop.
        """
        where = f"{type(self).__name__}.backward"
        if not isinstance(trace, DecoderTrace):
            raise DTypeError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
        there = self.score, self.is_part, self.upper is None, None if self.is_part else self.hidden_size
        width = None if trace.output is None else trace.output.shape[2]
        if (trace.how, trace.attention is None, trace.upper is None, width) != there:
            raise ShapeError(f"{where}: trace was recorded by a decoder with other options, not by this {self!r}")
        total = None if grads is None else arguments.gradients(where, grads, self.params)
        inner, upper = self._inner(where, "dh_n", dh_n, trace.memory.shape[1])
        top = None if doutput is None else np.array(arguments.array_of(where, "doutput", doutput, self.dtype))
        weights = None if dalpha is None else np.array(arguments.array_of(where, "dalpha", dalpha, self.dtype))
        T, N, S = len(trace), trace.memory.shape[1], len(trace.memory)
        if top is not None:
            arguments.shaped(where, "doutput", top, "(T, N, output_width)", (T, N, self.output_width))
        if weights is not None:
            arguments.shaped(where, "dalpha", weights, "(T, N, S)", (T, N, S))
        return Steps(self._loop(where, trace, top, inner, upper, total, weights))

    def _loop(
        self,
        where: str,
        trace: DecoderTrace,
        doutput: Array | None,
        inner: list[Any],
        upper: list[Any],
        total: Parameters | None,
        dalpha: Array | None,
    ) -> Generator[DecodedStep, None, DecoderGradients]:
        grads = self.params.zeros_like()
        initial: list[tuple[Array, ...]] = []
        memory: dict[str, Array] = {}
        attention, joined, output = trace.attention, trace.joined, trace.output
        if self.attention and self.combine and attention and joined and output is not None:
            de = np.zeros_like(output)
            if doutput is not None:  # B1
                np.multiply(output, output, out=de)
                np.subtract(1, de, out=de)
                de *= doutput
            alive = steps_that_exist(trace.rnn)
            if alive is not None:
                de[~alive] = 0
                if dalpha is not None:
                    dalpha[~alive] = 0
            both = self.combine.backward(joined, de, grads.part("combine")).dx
            own = grads.part("attention") if len(self.attention.params) else None
            found = self.attention.backward(attention, both[:, :, : self.memory_size], own, dalpha=dalpha)
            doutput = both[:, :, self.memory_size :] + found.dquery
            memory = {name: getattr(found, name) for name in ("dmemory", "dmemory_values", "dmemory_weights")}
        if self.upper is not None and trace.upper is not None:
            above = None if not upper or upper[0] is None else states.join(tuple(upper))
            steps = self.upper.backward_steps(trace.upper, doutput, above, grads.part("upper"))
            for step in steps:
                yield DecodedStep(step, trace.attention)
            result = run_out(steps)
            doutput = result.dx if trace.between is None else result.dx * trace.between
            initial.append(tuple(getattr(result, f"d{state}_0") for state in self.own))
        records = {} if dalpha is None or not self.is_part else {"drecords": {"alpha": dalpha}}
        last = self._all(inner)
        steps = self.rnn.backward_steps(trace.rnn, doutput, last, grads.part("rnn"), **records)
        for step in steps:
            yield DecodedStep(step, trace.attention)
        back = run_out(steps)
        if self.keys is not None:
            dkeys = back.dgiven.get("keys", back.given_ways["values"].get("weights"))
            own = grads.part("keys") if len(self.keys.params) else self.keys.params.zeros_like()
            by_values = back.given_ways["values"]["values"]
            by_weights = self.keys.backward(np.ascontiguousarray(dkeys), trace.memory, trace.weights, own)
            memory = {"dmemory": by_values + by_weights, "dmemory_values": by_values, "dmemory_weights": by_weights}
        initial.insert(0, tuple(getattr(back, f"d{state}_0") for state in self.own))
        dinitial = [np.concatenate(parts) for parts in zip(*initial, strict=True)]
        if total is not None:
            total.flat += grads.flat
        found_states = {f"d{state}_0": array for state, array in zip(self.own, dinitial, strict=True)}
        return DecoderGradients(back.dx, {**found_states, **memory}, grads if total is None else total)

    # ------------------------------------------------------------------------------------------------ one step

    def begin(
        self,
        memory: ArrayLike,
        h_0: Any = None,
        *,
        memory_lengths: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        steppers: dict[Any, Stepper] | None = None,
    ) -> DecoderState:
        """Return the state before the first step; arguments and errors as of `forward`.

        What does not change from step to step is made once: the parameters must not change before the last step.
        Several calls share that, too, if the same dict, empty at first, is handed to them as `steppers`.
        """
        where = f"{type(self).__name__}.begin"
        batch = np.shape(memory)[1] if np.ndim(memory) == 3 else 0
        array, exists = self._memory(where, memory, memory_lengths, memory_mask, batch)
        inner, upper = self._inner(where, "h_0", h_0, batch)
        values = np.array(array.swapaxes(0, 1), order="C")
        if self.keys is not None:
            keys = self.keys.forward(array, self.keys.params)
        elif self.attention is not None:
            keys = self.attention.keys.forward(array, self.attention.params)
        H = self.hidden_size
        widths = {**self.rnn.widths, "cov": len(array), "focus": len(array)}
        found = dict(zip(self.own, inner, strict=True))
        rows = 1 if self.is_part else self.num_layers
        full = tuple(
            np.zeros((rows, batch, widths[state]), self.dtype) if found.get(state) is None else found[state]
            for state in self.rnn.cell.states
        )
        above: tuple[Array, ...] = ()
        if self.upper is not None:
            shape = (self.num_layers - 1, batch, H)
            above = tuple(np.zeros(shape, self.dtype) if part is None else part for part in upper)
        keys = np.array(keys.swapaxes(0, 1), order="C")
        stepping = Stepping(self, values, keys, exists, {} if steppers is None else steppers)
        return DecoderState(full, above, stepping, np.arange(batch))

    def step(self, x_t: ArrayLike, state: DecoderState) -> tuple[Array, DecoderState]:
        """Make one step.

        Parameters
        ----------
        x_t : ndarray, (N, D)
        state : DecoderState
            From `begin`, `step` or `take`; not changed.

        Returns
        -------
        output_t : ndarray, (N, output_width)
            The row that `forward` would give, without dropout, up to rounding: its products are of all steps at once.
        state : DecoderState
            The one after the step.
        """
        where = f"{type(self).__name__}.step"
        if not isinstance(state, DecoderState) or state.stepping.decoder is not self:
            of = "another decoder" if isinstance(state, DecoderState) else type(state).__name__
            raise OptionError(f"{where}: state must be from begin or step of this decoder; got {of}")
        N = len(state.rows)
        x = arguments.array_of(where, "x_t", x_t, self.dtype)
        arguments.shaped(where, "x_t", x, "(N, D)", (N, self.input_size))
        found = state.stepping.of(state.rows)
        stepper = state.stepping.stepper("rnn", self.rnn, found)
        output, inner = stepper(x, state.inner)
        upper = state.upper
        if self.attention is not None and self.combine is not None:
            weights = self.attention.params
            _, alphas, context = self.attention.weigh(
                output[:, None], found["keys"], found["values"], found["exists"], weights
            )
            alpha = alphas[:, 0]
            output = np.tanh(np.concatenate([context[:, 0], output], axis=1) @ self.combine.params["weight"].T)
        else:
            alpha = stepper.arrays["alpha"][0].copy()
        if self.upper is not None:
            output, upper = state.stepping.stepper("upper", self.upper, found)(output, upper)
        return output, DecoderState(inner, upper, state.stepping, state.rows, alpha)


def _kind(where: str, cell: Any) -> tuple[type[Recurrent], dict[str, Any]]:
    """Return the class of a cell's layer, and the options that its name stands for."""
    if isinstance(cell, type) and issubclass(cell, Recurrent):
        return cell, {}
    name = "rnn-tanh" if cell == "rnn" else cell
    if not isinstance(name, str) or name not in KINDS:
        known = ", ".join(map(repr, ("rnn", *KINDS)))
        raise OptionError(f"{where}: cell must be one of {known}, or a class of recurrent layers; got {cell!r}")
    made = KINDS[name]
    if isinstance(made, functools.partial):
        return made.func, dict(made.keywords)  # type: ignore[return-value]
    return made, {}  # type: ignore[return-value]
