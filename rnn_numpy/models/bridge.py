r"""From an encoder's final states to a decoder's initial ones.

For each state of the decoder, h and c apart, and each of its layers, with e the encoder's final state of the same name,
forward and backward direction side by side, of the layer that stands as far below its top one:

    concat   (F1)  s = e                             (B1)  de = ds                           needs H = directions * He
    linear   (F2)  s = W e + b                       (B2)  dW += ds e^T, db += ds, de = W^T ds
    tanh     (F3)  s = tanh(W e + b)                 (B3)  du = ds * (1 - s^2), then B2 with du in place of ds
    mean     (F4)  s = tanh(W m + b), m the mean of the memory's rows that count          (captioning [2]_)
                                                     (B4)  B3; dmemory_s += mask_s / count * dm for each row
    zeros          s = 0

A decoder with a cell state, on an encoder without one, reads h for both, but for concat. Bahdanau et al. [1]_ read the
backward direction alone: `reverse_only`.

References
----------
.. [1] D. Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and translate", ICLR
   (2015), appendix A.2.2.
.. [2] K. Xu et al., "Show, attend and tell: neural image caption generation with visual attention", ICML (2015),
   section 3.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.parametric import Parametric
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]

BRIDGES = ("tanh", "linear", "concat", "mean", "zeros")


@dataclass
class BridgeTrace:
    """What a bridge read, and what it gave, by state and layer; `batch` is N, `count` the rows of each memory."""

    read: dict[tuple[str, int], Array]
    given: dict[tuple[str, int], Array]
    weights: dict[str, Array]
    finals: dict[str, Array]
    batch: int
    exists: NDArray[np.bool_] | None = None
    count: Array | None = None


class Bridge(Parametric):
    """What makes a decoder's initial states.

    Parameters
    ----------
    kind : {"tanh", "linear", "concat", "mean", "zeros"}
        See the module.
    encoder : mapping of str to int
        The encoder's states and their widths: {"h": 64, "c": 64}.
    decoder : mapping of str to int
        The decoder's.
    encoder_layers, decoder_layers, directions : int
    memory_size : int, optional
        M, for "mean".
    reverse_only : bool
        Read the encoder's backward direction alone.
    dtype, rng
        As for `rnn_numpy.RNN`.

    Attributes
    ----------
    params : Parameters
        Of "linear", "tanh" and "mean", for each state of the decoder and each of its layers: weight_h_l0 (H, ·),
        bias_h_l0 (H,), ...

    Raises
    ------
    OptionError
        An unknown kind; widths or states that "concat" cannot join; no backward direction.

    Examples
    --------
    >>> bridge = Bridge("tanh", {"h": 2}, {"h": 3, "c": 3}, directions=2, rng=0)
    >>> h_n, memory = np.ones((2, 5, 2)), np.zeros((7, 5, 4))
    >>> (h_0, c_0), trace = bridge.forward(h_n, memory, np.ones((5, 7), bool))
    >>> h_0.shape, list(bridge.params)
    ((1, 5, 3), ['weight_h_l0', 'bias_h_l0', 'weight_c_l0', 'bias_c_l0'])
    """

    def __init__(
        self,
        kind: str,
        encoder: dict[str, int],
        decoder: dict[str, int],
        *,
        encoder_layers: int = 1,
        decoder_layers: int = 1,
        directions: int = 1,
        memory_size: int | None = None,
        reverse_only: bool = False,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        arguments.one_of(where, "bridge", kind, BRIDGES)
        self.kind, self.encoder, self.decoder = kind, dict(encoder), dict(decoder)
        self.encoder_layers, self.decoder_layers, self.directions = encoder_layers, decoder_layers, directions
        self.memory_size, self.reverse_only = memory_size, arguments.flag(where, "reverse_only", reverse_only)
        if reverse_only and directions == 1:
            raise OptionError(
                f"{where}: reverse_only must be False: the encoder has one direction; make it bidirectional"
            )
        if reverse_only and kind in ("mean", "zeros"):
            raise OptionError(f"{where}: reverse_only must be False: the bridge {kind!r} reads no final state")
        if kind == "mean" and memory_size is None:
            raise OptionError(f"{where}: memory_size must be given for the bridge 'mean'")
        used = 1 if reverse_only else directions
        shapes: dict[str, tuple[int, ...]] = {}
        for state, width in self.decoder.items():
            read = used * self.encoder[self.source(state)] if kind != "mean" else int(memory_size or 0)
            if kind == "concat" and (width != read or state not in self.encoder):
                raise OptionError(
                    f"{where}: bridge 'concat' must have decoder states as wide as the encoder's side by side, H = "
                    f"directions * He; got {state} with H = {width} and directions * He = {used} * "
                    f"{self.encoder.get(state, 0)}. 'linear' or 'tanh' join any widths"
                )
            if kind == "concat" and encoder_layers != decoder_layers:
                raise OptionError(
                    f"{where}: bridge 'concat' must have as many layers on both sides; got {encoder_layers} in the "
                    f"encoder, {decoder_layers} in the decoder. 'linear' or 'tanh' join any numbers"
                )
            for layer in range(decoder_layers) if kind in ("linear", "tanh", "mean") else ():
                shapes |= {f"weight_{state}_l{layer}": (width, read), f"bias_{state}_l{layer}": (width,)}
        self.params = Parameters(shapes, arguments.layer_dtype(where, dtype))
        self.params.of = type(self).__name__
        generator = arguments.generator(where, rng)
        for array in self.params.values():
            if array.ndim == 2:
                bound = 1 / np.sqrt(array.shape[1])
                array[...] = generator.uniform(-bound, bound, array.shape)

    def source(self, state: str) -> str:
        """Return the encoder's state that one of the decoder's reads."""
        return state if state in self.encoder else next(iter(self.encoder))

    def _read(self, final: Array, layer: int) -> tuple[slice, Array]:
        """Return the rows of a final state that a decoder's layer reads, and these side by side, (N, ·)."""
        below_top = self.decoder_layers - 1 - layer
        first = max(self.encoder_layers - 1 - below_top, 0) * self.directions
        rows = slice(first + (1 if self.reverse_only else 0), first + self.directions)
        return rows, np.concatenate(list(final[rows]), axis=1)

    def forward(self, h_n: Any, memory: Array, exists: NDArray[np.bool_]) -> tuple[Any, BridgeTrace]:
        """Return the decoder's initial states, and a trace.

        Parameters
        ----------
        h_n : ndarray or tuple of ndarray, (encoder_layers * directions, N, He)
            The encoder's final states, as it returns them; None for "mean" and "zeros", which do not read them.
        memory : ndarray, (S, N, M)
        exists : bool ndarray, (N, S)
            True where a row of the memory counts.

        Returns
        -------
        h_0 : ndarray or tuple of ndarray, (decoder_layers, N, H)
        trace : BridgeTrace

        Raises
        ------
        DTypeError, ShapeError
            States that are not the encoder's.
        """
        where, rows_of = f"{type(self).__name__}.forward", self.encoder_layers * self.directions
        finals: dict[str, Array] = {}
        if self.kind not in ("mean", "zeros") or h_n is not None:
            finals = self._states(where, "n", h_n, self.encoder, "layers * directions", rows_of, memory.shape[1])
        weights = {name: weight.copy() for name, weight in self.params.items()}
        trace = BridgeTrace({}, {}, weights, finals, memory.shape[1])
        N, dtype = memory.shape[1], self.dtype
        mean = np.zeros((N, 0), dtype)
        if self.kind == "mean":
            trace.exists = exists
            trace.count = np.maximum(exists.sum(axis=1), 1).astype(dtype)[:, None]
            mean = np.where(exists.T[:, :, None], memory, 0).sum(axis=0) / trace.count
        initial: list[Array] = []
        for state, width in self.decoder.items():
            rows = np.zeros((self.decoder_layers, N, width), dtype)
            for layer in range(self.decoder_layers) if self.kind != "zeros" else ():
                e = mean if self.kind == "mean" else self._read(finals[self.source(state)], layer)[1]
                if self.kind == "concat":
                    rows[layer] = e  # F1
                else:
                    rows[layer] = e @ weights[f"weight_{state}_l{layer}"].T + weights[f"bias_{state}_l{layer}"]  # F2
                    if self.kind != "linear":
                        np.tanh(rows[layer], out=rows[layer])  # F3, F4
                trace.read[state, layer], trace.given[state, layer] = e, rows[layer].copy()
            initial.append(rows)
        return states.join(tuple(initial)), trace

    def backward(self, trace: BridgeTrace, dh_0: Any, grads: Parameters) -> tuple[Any, Array | None]:
        """Go back from the gradients of the decoder's initial states.

        Parameters
        ----------
        trace : BridgeTrace
        dh_0 : like h_0
        grads : Parameters
            What gradients of the parameters are added to: `params.zeros_like()`, say.

        Returns
        -------
        dh_n : like h_n, None where that was
        dmemory : ndarray, (S, N, M), or None
            Of the bridge "mean"; the others do not read the memory.
        """
        where = f"{type(self).__name__}.backward"
        grads = arguments.gradients(where, grads, self.params)
        dstates = self._states(where, "0", dh_0, self.decoder, "layers", self.decoder_layers, trace.batch, "d")
        dfinals = {name: np.zeros_like(final) for name, final in trace.finals.items()}
        dmean: Array | None = None
        for state, dstate in dstates.items():
            for layer in range(self.decoder_layers) if self.kind != "zeros" else ():
                de = dstate[layer]
                if self.kind != "concat":
                    du = de if self.kind == "linear" else de * (1 - trace.given[state, layer] ** 2)  # B3
                    grads[f"weight_{state}_l{layer}"][...] += du.T @ trace.read[state, layer]  # B2
                    grads[f"bias_{state}_l{layer}"][...] += du.sum(axis=0)
                    de = du @ trace.weights[f"weight_{state}_l{layer}"]
                if self.kind == "mean":
                    dmean = de if dmean is None else dmean + de
                    continue
                name = self.source(state)
                rows, _ = self._read(trace.finals[name], layer)
                for row, share in zip(dfinals[name][rows], np.split(de, rows.stop - rows.start, axis=1), strict=True):
                    row += share
        dmemory: Array | None = None
        if dmean is not None and trace.exists is not None:
            dmemory = trace.exists.T[:, :, None] * (dmean / trace.count)  # B4
        return states.join(tuple(dfinals.values())) if dfinals else None, dmemory

    def _states(
        self, where: str, end: str, value: Any, widths: dict[str, int], symbol: str, rows: int, batch: int, d: str = ""
    ) -> dict[str, Array]:
        """Return states, or their gradients, by name, after a look at their shapes."""
        arrays = states.split(value)
        if len(arrays) != len(widths):
            names = ", ".join(f"{d}{state}_{end}" for state in widths)
            raise DTypeError(
                f"{where}: {d}h_{end} must be as many arrays as there are states, {names}; got {len(arrays)}"
            )
        found: dict[str, Array] = {}
        for (state, width), array in zip(widths.items(), arrays, strict=True):
            name = f"{d}{state}_{end}"
            found[state] = arguments.array_of(where, name, array, self.dtype)
            arguments.shaped(where, name, found[state], f"({symbol}, N, H)", (rows, batch, width))
        return found

    def __repr__(self) -> str:
        return f"Bridge({self.kind!r})"
