r"""Attention in front of a recurrent cell, the lecture's decoder: parts of a step, and the layers made with them.

A decoder reads, beside its input, a memory of S rows, an encoder's outputs say. Symbols, the lecture's first:

    lecture   here        shape       in the batch
    z_{t-1}   h_{t-1}     (H,)        (N, H)         the query: the decoder's state before the step
    h_j       values_s    (M,)        (N, S, M)      the memory; M = H, since a dot product needs equal widths
    a_{t,j}   alpha_t,s   ()          (N, S)         the weights, which add up to 1
    c_t       context_t   (M,)        (N, M)
    w_ch      W_ch        (G H, M)

The slides let z_t itself score the memory that z_t is computed from, which defines nothing: the state before the step
is meant (Bahdanau et al. [1]_). `exists` says which rows of the memory count, in sequences of unequal lengths; a
sequence without any has weights and a context of 0.

Forward, for t = 0 ... T-1:

    (F1)  score_t,s = h_{t-1} . values_s
    (F2)  alpha_t   = softmax of score_t over the rows that exist
    (F3)  context_t = sum_s alpha_t,s values_s
    (F4)  a_t       = W_ch context_t + what the cell has:  W_ih x_t + b_ih + b_hh + W_hh h_{t-1}

and then the cell's own lines. Backward, when the cell's own lines are undone, with da_t the gradient of the sum to
which W_ih x_t goes:

    (B4)  dcontext_t = W_ch^T da_t                                             undoes F4
    (B3)  dalpha_t,s = dcontext_t . values_s                                   undoes F3
    (B2)  dscore_t,s = alpha_t,s (dalpha_t,s - sum_r alpha_t,r dalpha_t,r)     undoes F2
                     = alpha_t,s (values_s - context_t) . dcontext_t
    (B1)  dh_{t-1}  += sum_s dscore_t,s values_s                               undoes F1 for the state ...
    (BV)  dvalues_s  = sum_t alpha_t,s dcontext_t + sum_t dscore_t,s h_{t-1}   ... and, with F3, for the memory
    (BW)  dW_ch      = sum_t da_t context_t^T

By B2 the last term of B1 is Cov dcontext_t, with Cov = sum_s alpha_s (values_s - context)(values_s - context)^T the
covariance of the memory under alpha: d context_t / d h_{t-1}. A second recurrent path, beside W_hh, by which a gradient
gets from any step to any row of the memory at once. BV has two terms, by the values and by the weights; a
BackwardResult keeps both.

Forward mode, the differential of each line:

    (T1)  vscore_t,s = vh_{t-1} . values_s + h_{t-1} . vvalues_s
    (T2)  valpha_t   = alpha_t * (vscore_t - sum_s alpha_t,s vscore_t,s)
    (T3)  vcontext_t = sum_s valpha_t,s values_s + alpha_t,s vvalues_s
    (T4)  va_t      += W_ch vcontext_t

References
----------
.. [1] D. Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and translate", ICLR
   (2015): the order of the lines, section 3.1.
.. [2] M.-T. Luong, H. Pham, C. D. Manning, "Effective approaches to attention-based neural machine translation", EMNLP
   (2015): the dot score, eq. 8.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.cell import Cell, ExtraParameter, Given
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import Part, argument_names
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.rnn import RNN

Array = NDArray[Any]

# Arrays are (N, ·), a row for each sequence, whatever the cell behind works on. Sums over s are taken one by one, from
# the first: rows of the memory that do not exist, zeros at the end of a sum, then change no digit of it.


def sum_over_s(array: Array) -> Array:
    """Return the sums of the rows of (N, S), (N, 1)."""
    return np.add.accumulate(array, axis=1)[:, -1:]


def attend_forward(
    h_prev: Array, values: Array, exists: Array, score_t: Array, alpha_t: Array, context_t: Array
) -> None:
    """F1 to F3. Writes score_t and alpha_t, (N, S), and context_t, (N, M); values are (N, S, M), exists (N, S)."""
    np.einsum("nm,nsm->ns", h_prev, values, out=score_t)  # F1
    # F2. The shift is real, so that the line has a complex derivative; what does not exist is out before exp sees it.
    largest = np.max(score_t.real, axis=1, keepdims=True, where=exists, initial=-np.inf)
    np.copyto(alpha_t, np.where(exists, score_t - np.where(exists.any(axis=1, keepdims=True), largest, 0), 0))
    np.exp(alpha_t, out=alpha_t)
    alpha_t *= exists
    total = sum_over_s(alpha_t)
    alpha_t /= np.where(total == 0, 1, total)
    np.einsum("ns,nsm->nm", alpha_t, values, out=context_t)  # F3


def attend_backward(
    dcontext_t: Array, alpha_t: Array, values: Array, dalpha_t: Array, dscore_t: Array, dh_prev: Array
) -> None:
    """B3 to B1: undoes F3 to F1, but for the memory. Writes dalpha_t and dscore_t, adds to dh_prev."""
    np.einsum("nm,nsm->ns", dcontext_t, values, out=dalpha_t)  # B3
    np.subtract(dalpha_t, sum_over_s(alpha_t * dalpha_t), out=dscore_t)  # B2
    dscore_t *= alpha_t
    dh_prev += np.einsum("ns,nsm->nm", dscore_t, values)  # B1


def attend_tangent(
    vh_prev: Array, vvalues: Array, h_prev: Array, values: Array, alpha_t: Array, vcontext_t: Array
) -> None:
    """T1 to T3. Writes vcontext_t."""
    vscore = np.einsum("nm,nsm->ns", vh_prev, values) + np.einsum("nm,nsm->ns", h_prev, vvalues)  # T1
    valpha = alpha_t * (vscore - sum_over_s(alpha_t * vscore))  # T2
    vcontext_t[...] = np.einsum("ns,nsm->nm", valpha, values) + np.einsum("ns,nsm->nm", alpha_t, vvalues)  # T3


def context_forward(context_t: Array, W_ch: Array, input_t: Array) -> None:
    """F4. Adds to input_t, (N, G H), what W_ih x_t goes to; W_ch is (G H, M)."""
    input_t += context_t.dot(W_ch.T)


def context_backward(dinput_t: Array, W_ch: Array, dcontext_t: Array) -> None:
    """B4: undoes F4. Writes dcontext_t."""
    dcontext_t[...] = dinput_t.dot(W_ch)


def context_tangent(vcontext_t: Array, W_ch: Array, vinput_t: Array) -> None:
    """T4. vinput_t comes in holding vW_ch context_t."""
    vinput_t += vcontext_t.dot(W_ch.T)


def _sources(layer: Recurrent, given: Mapping[str, Array]) -> int:
    return int(given["values"].shape[1])


def _shape(layer: Recurrent) -> tuple[int, ...]:
    return layer.cell.gates * layer.hidden_size, layer.hidden_size


@dataclass(frozen=True)
class WithContext:
    """What a trace computes as a, F4: the sum that the cell has, and the context's term."""

    sum_of_cell: Callable[..., Array]

    @property
    def __signature__(self) -> inspect.Signature:
        names = (*argument_names(self.sum_of_cell), "context", "W_ch")
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])

    def __call__(self, *arrays: Array) -> Array:
        *own, context, W_ch = arrays
        a: Array = self.sum_of_cell(*own) + context @ W_ch.T
        return a


@functools.cache
def attending(cell: Cell) -> Cell:
    """Return a cell with dot attention in front of its own formulas, which stay what they are.

    Its first state is the query. It reads the given arrays values and exists at every step, and records score, alpha
    and context.
    """
    state = cell.states[0]
    query = {f"{d}h_prev": f"{d}{state}_prev" for d in ("", "d", "v")}
    attend = Part(attend_forward, attend_backward, tangent=attend_tangent, names=query, columns=False)
    context = Part(context_forward, context_backward, tangent=context_tangent, columns=False)
    weight = ExtraParameter("W_ch", _shape, product=("dinput_t", "context_t"), like_input=True)
    ways = {"values": ("alpha_t", "dcontext_t"), "weights": ("dscore_t", f"{state}_prev")}
    # Where a trace computes a from W_ih x, the context comes in addition; where from an array of the cell, it is in it.
    own = {"a": WithContext(cell.derived["a"])} if cell.input_gradient == "da" and "a" in cell.derived else {}
    return replace(
        cell,
        before=(attend, context, *cell.before),
        derived={**cell.derived, **own},
        records={"score": _sources, "alpha": _sources, "context": 1, **cell.records},
        gradient_records={"dcontext": 1, "dalpha": _sources, "dscore": _sources, **cell.gradient_records},
        given={**cell.given, "values": Given(("S", "H"), ways), "exists": Given(("S",), differentiable=False)},
        parameters={**cell.parameters, "weight_ch": weight},
    )


class Attending(Recurrent):
    """A recurrent layer with dot attention before each step: to stand before RNN, LSTM, GRU or a layer of one's own.

    `forward` has one more argument, `given`: the memory under "values", (S, N, H), or (N, S, H) where batch_first, and
    optionally under "exists" a mask, (N, S), True where a row of the memory counts. The context of each step enters
    where W_ih x_t does, by a further parameter weight_ch_l0 (G * H, H). A result of `backward` has `dgiven["values"]`,
    and in `given_ways["values"]` its two terms, "values" and "weights". The module `rnn_numpy.layers.attention` derives
    all gradients.

    Raises
    ------
    OptionError
        Several layers or two directions: attention belongs to the first layer of a decoder; put plain ones on top. A
        projection.
    """

    def with_parts(self, cell: Cell) -> Cell:
        """Return the cell with attention in front."""
        if self.width(cell.states[0]) != self.hidden_size:
            raise OptionError(
                f"{type(self).__name__}: must have no projection, so that {cell.states[0]} and the memory have H = "
                f"{self.hidden_size} units each; got proj_size = {self.width(cell.states[0])}"
            )
        if self.num_layers > 1 or self.bidirectional:
            raise OptionError(
                f"{type(self).__name__}: must have one layer and one direction; got num_layers = {self.num_layers}, "
                f"bidirectional = {self.bidirectional}. Put plain layers on top: they read this one's outputs"
            )
        return attending(cell)

    def given_arrays(self, where: str, edge: Edge, given: Mapping[str, Any] | None) -> dict[str, Array]:
        """Check the memory and its mask; without a mask all rows count. Rows that do not are not read."""
        found = edge.given_in(where, self, given)
        if "values" not in found:
            raise DTypeError(f"{where}: given must have an array 'values', the memory; it is missing")
        exists = found.setdefault("exists", np.ones(found["values"].shape[:2], bool))
        if exists.dtype != bool:
            raise DTypeError(
                f"{where}: given['exists'] must hold bools, True where a row of the memory counts; got {exists.dtype}"
            )
        if not exists.all():
            found["values"] = np.where(exists[:, :, None], found["values"], 0)
        return found


class AttentionRNN(Attending, RNN):
    """The lecture's attention decoder: an Elman RNN with dot attention before each step.

    Parameters, attributes and errors are those of `RNN`, with one layer and one direction, and those of `Attending`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> memory = rng.normal(size=(5, 2, 3))  # (S, N, H), of an encoder
    >>> decoder = AttentionRNN(4, 3, rng=0)
    >>> output, h_n, trace = decoder.forward(rng.normal(size=(6, 2, 4)), given={"values": memory})
    >>> trace[0].alpha.shape
    (2, 5)
    >>> bool(np.allclose(trace.alpha.sum(axis=2), 1))
    True
    >>> back = decoder.backward(trace, np.ones_like(output))
    >>> back.dgiven["values"].shape
    (5, 2, 3)
    """


class AttentionLSTM(Attending, LSTM):
    """An LSTM with dot attention before each step; see `Attending`. Without projection."""


class AttentionGRU(Attending, GRU):
    """A GRU with dot attention before each step; see `Attending`."""
