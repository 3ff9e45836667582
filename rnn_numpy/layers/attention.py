r"""Attention around a recurrent cell: parts of a step, and the layers made with them.

A decoder reads, beside its input, a memory of S rows, an encoder's outputs say. Symbols, the lecture's first:

    lecture   here        shape       in the batch
    z_{t-1}   h_{t-1}     (H,)        (N, H)         the query: the decoder's state before the step
    h_j       values_s    (M,)        (N, S, M)      the memory
              keys_s      (Q,)        (N, S, Q)      what the query is compared with: the memory again, or a map of it
    a_{t,j}   alpha_t,s   ()          (N, S)         the weights, which add up to 1
    c_t       context_t   (M,)        (N, M)
    w_ch      W_ch        (G H, M)

The slides let z_t itself score the memory that z_t is computed from, which defines nothing: the state before the step
is meant (Bahdanau et al. [1]_). They also have two networks "of different size", for which no dot product exists: the
keys are then a map of the memory. `exists` says which rows of the memory count, in sequences of unequal lengths; a
sequence without any has weights and a context of 0, and so have all gradients, which are multiples of the weights.

Attention before the cell
-------------------------
Forward, for t = 0 ... T-1; keys_s = values_s for the score "dot", and what the caller gives for "keys":

    (F1)  score_t,s = h_{t-1} . keys_s
    (F2)  alpha_t   = softmax of score_t over the rows that exist
    (F3)  context_t = sum_s alpha_t,s values_s
    (F4)  a_t       = W_ch context_t + what the cell has:  W_ih x_t + b_ih + b_hh + W_hh h_{t-1}

and then the cell's own lines. Backward, when the cell's own lines are undone, with da_t the gradient of the sum to
which W_ih x_t goes, and with what the loss says directly of the weights in dalpha_t beforehand:

    (B4)  dcontext_t  = W_ch^T da_t                                             undoes F4
    (B3)  dalpha_t,s += dcontext_t . values_s                                   undoes F3
    (B2)  dscore_t,s  = alpha_t,s (dalpha_t,s - sum_r alpha_t,r dalpha_t,r)     undoes F2
                      = alpha_t,s (values_s - context_t) . dcontext_t           where the loss does not read weights
    (B1)  dh_{t-1}   += sum_s dscore_t,s keys_s                                 undoes F1 for the state ...
    (BV)  dvalues_s   = sum_t alpha_t,s dcontext_t                              ... and, with F3, for the memory
          dkeys_s     = sum_t dscore_t,s h_{t-1}
    (BW)  dW_ch       = sum_t da_t context_t^T

By B2 the last term of B1 is, of keys that are the values, Cov dcontext_t, with Cov = sum_s alpha_s (values_s -
context)(values_s - context)^T the covariance of the memory under alpha: d context_t / d h_{t-1}. A second recurrent
path, beside W_hh, by which a gradient gets from any step to any row of the memory at once. The memory gets its gradient
in two ways, by the values and by the weights; a BackwardResult keeps both.

The additive score
------------------
    (F1)  u_t,s     = tanh(keys_s + W_q h_{t-1} + location_t,s)                 (N, S, K)
          score_t,s = v_a . u_t,s

    (B1)  dv_a       += sum_s dscore_t,s u_t,s
          du_t,s    = dscore_t,s v_a * (1 - u_t,s^2)                              the gradient of what tanh is taken of
          dkeys_s  += du_t,s
          dq_t      = sum_s du_t,s;  dh_{t-1} += W_q^T dq_t;  dW_q = sum_t dq_t h_{t-1}^T

u_t is by far the largest array of a pass, T N S K numbers. Where these are many, it is made again, bit for bit, when B1
needs it: one tanh more a step, and N S K numbers in all (`Cell.kept`).

What has been attended to
-------------------------
Two terms of `location`, of which each makes the weights a state:

    (C1)  location_t,s += w_c cov_{t-1},s;  cov_t = cov_{t-1} + alpha_t, cov_{-1} = 0      coverage [3]_, eq. 10, 11
    (D1)  dcov_{t-1},s += w_c . du_t,s;  dw_c += sum_s cov_{t-1},s du_t,s
    (D2)  dalpha_t += dcov_t;  dcov_{t-1} += dcov_t

    (C3)  f_t,s,c = sum_w F_c,w focus_{t-1},s+w-R;  location_t,s += U_f f_t,s              filters [4]_
          focus_t = alpha_t, focus_{-1} = 0, zeros outside of the memory
    (D3)  df_t,s = U_f^T du_t,s;  dU_f += sum_s du_t,s f_t,s^T;  dF_c,w += sum_s df_t,s,c focus_{t-1},s+w-R
          dfocus_{t-1},s+w-R += sum_c F_c,w df_t,s,c
    (D4)  dalpha_t += dfocus_t

The gate
--------
Of Show, Attend and Tell [5]_: a number, or one for each unit of the context,

    (F5)  beta_t = sigmoid(W_g h_{t-1} + b_g);  gated_t = beta_t * context_t takes the context's place in F4
    (B5)  dcontext_t = beta_t * dgated_t;  dbeta_t = dgated_t * context_t, for one number their sum
          dg_t = dbeta_t * beta_t * (1 - beta_t);  dh_{t-1} += W_g^T dg_t
          dW_g = sum_t dg_t h_{t-1}^T;  db_g = sum_t dg_t

Input feeding
-------------
Luong et al. [2]_: the cell goes first, its new state h_t is the query in all lines above, and

    (F6)  attn_t = tanh(W_c [context_t; h_t])              the layer's output, and its first state; no bias
    (F7)  a_t    = W_if attn_{t-1} + what the cell has     attn_{-1} = 0

    (B6)  de_t = dattn_t * (1 - attn_t^2);  dW_c = sum_t de_t [context_t; h_t]^T;  [dcontext_t; +dh_t] = W_c^T de_t
    (B7)  dattn_{t-1} += W_if^T da_t;  dW_if = sum_t da_t attn_{t-1}^T

Without input feeding attention after the cell needs no part of a step: `rnn_numpy.layers.attention_layer`.

Forward mode
------------
The differential of each line:

    (T1)  vscore_t,s = vh_{t-1} . keys_s + h_{t-1} . vkeys_s
          additive:    vu_t,s = (vkeys_s + W_q vh_{t-1} + vW_q h_{t-1} + vlocation_t,s) * (1 - u_t,s^2)
                       vscore_t,s = v_a . vu_t,s + vv_a . u_t,s
    (T2)  valpha_t   = alpha_t * (vscore_t - sum_s alpha_t,s vscore_t,s)
    (T3)  vcontext_t = sum_s valpha_t,s values_s + alpha_t,s vvalues_s
    (T4)  va_t      += W_ch vcontext_t
    (T5)  vbeta_t    = beta_t * (1 - beta_t) * (W_g vh_{t-1} + vW_g h_{t-1} + vb_g)
          vgated_t   = vbeta_t * context_t + beta_t * vcontext_t
    (T6)  vattn_t    = (1 - attn_t^2) * (W_c [vcontext_t; vh_t] + vW_c [context_t; h_t])

References
----------
.. [1] D. Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and translate", ICLR
   (2015): the order of the lines, section 3.1; the additive score, appendix A.1.2.
.. [2] M.-T. Luong, H. Pham, C. D. Manning, "Effective approaches to attention-based neural machine translation", EMNLP
   (2015): the dot and general scores, eq. 8; attn, eq. 5; input feeding, section 3.3.
.. [3] A. See, P. J. Liu, C. D. Manning, "Get to the point: summarization with pointer-generator networks", ACL (2017).
.. [4] J. Chorowski et al., "Attention-based models for speech recognition", NIPS (2015), section 2.2.
.. [5] K. Xu et al., "Show, attend and tell: neural image caption generation with visual attention", ICML (2015),
   section 4.2.1.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.cell import Cell, ExtraParameter, Given, Width
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import Part, argument_names
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import CellError, DTypeError, OptionError
from rnn_numpy.layers.gru import GRU
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.layers.rnn import RNN

Array = NDArray[Any]

# Arrays are (N, ·), a row for each sequence, whatever the cell behind works on. Sums over s are taken one by one, from
# the first: rows of the memory that do not exist, zeros at the end of a sum, then change no digit of it.


def sum_over_s(array: Array) -> Array:
    """Return the sums of the rows of (N, S), (N, 1)."""
    return np.add.accumulate(array, axis=1)[:, -1:]


def weighted_sum(weights: Array, rows: Array, out: Array | None = None) -> Array:
    """Return the sums over s of weights (..., S) times rows (N, S, M), (..., M), with as many axes as the weights."""
    if rows.shape[2] == 1:  # einsum would take several s at a time
        sums: Array = np.add.accumulate(
            weights * rows[..., 0].reshape(len(rows), *(1,) * (weights.ndim - 2), -1), axis=-1
        )
        if out is None:
            return sums[..., -1:]
        out[...] = sums[..., -1:]
        return out
    found: Array = np.einsum("n...s,nsm->n...m", weights, rows, out=out)
    return found


def as_row(vector: Array, width: int) -> Array:
    """Return a vector, or changes of one, (M, K), as rows: the driver hands vectors in as columns, (K, 1)."""
    return vector.reshape(1, width) if vector.size == width else vector


# ------------------------------------------------------------------------------------------------ scores


def product_forward(query: Array, keys: Array, score_t: Array) -> None:
    """F1. Writes score_t, (N, S); query is (N, Q), keys are (N, S, Q)."""
    np.einsum("nm,nsm->ns", np.ascontiguousarray(query), keys, out=score_t)


def product_backward(dscore_t: Array, keys: Array, dquery: Array) -> None:
    """B1: undoes F1, but for the keys. Adds to dquery."""
    dquery += np.einsum("ns,nsm->nm", dscore_t, keys)


def product_tangent(query: Array, keys: Array, vquery: Array, vkeys: Array, vscore_t: Array) -> None:
    """T1. Writes vscore_t."""
    vscore_t[...] = np.einsum("nm,nsm->ns", vquery, keys) + np.einsum("nm,nsm->ns", query, vkeys)


def hidden_units(query: Array, keys: Array, W_q: Array, units_t: Array) -> None:
    """F1, additive, its first line. Writes units_t, (N, S, K), which may be `keys`, where it holds location, too."""
    np.add(keys, query.dot(W_q.T)[:, None], out=units_t)
    np.tanh(units_t, out=units_t)


def additive_forward(query: Array, keys: Array, W_q: Array, v_a: Array, units_t: Array, score_t: Array) -> None:
    """F1, additive. Writes units_t and score_t."""
    hidden_units(query, keys, W_q, units_t)
    np.einsum("nsk,k->ns", units_t, v_a.ravel(), out=score_t)


def additive_backward(
    dscore_t: Array, units_t: Array, W_q: Array, v_a: Array, dunits_t: Array, dprojected_t: Array, dquery: Array,
    dkeys: Array, dv_a: Array,
) -> None:  # fmt: skip
    """B1, additive. Writes dunits_t and dprojected_t; adds to dquery, dkeys and dv_a."""
    dv_a += np.einsum("ns,nsk->k", dscore_t, units_t).reshape(dv_a.shape)
    np.multiply(units_t, units_t, out=dunits_t)
    np.subtract(1, dunits_t, out=dunits_t)
    dunits_t *= v_a.ravel()
    dunits_t *= dscore_t[:, :, None]
    dkeys += dunits_t
    np.add.reduce(dunits_t, axis=1, out=dprojected_t)
    dquery += dprojected_t.dot(W_q)


def additive_tangent(
    query: Array, keys: Array, W_q: Array, v_a: Array, vquery: Array, vkeys: Array, vv_a: Array, vprojected_t: Array,
    units_t: Array, vunits_t: Array, vscore_t: Array,
) -> None:  # fmt: skip
    """T1, additive. Writes vscore_t; vprojected_t comes in holding vW_q h."""
    hidden_units(query, keys, W_q, units_t)
    np.add(vkeys, (vprojected_t + vquery.dot(W_q.T))[:, None], out=vunits_t)
    vunits_t *= 1 - units_t * units_t
    K = units_t.shape[2]
    vscore_t[...] = vunits_t @ v_a.ravel() + np.einsum(
        "nsk,nk->ns", units_t, np.broadcast_to(as_row(vv_a, K), (len(units_t), K))
    )


# ------------------------------------------------------------------------------------------------ location


def coverage_forward(keys: Array, cov_prev: Array, w_c: Array, units_t: Array) -> None:
    """C1. Writes units_t, what stands beside W_q h."""
    np.add(keys, cov_prev[:, :, None] * w_c.ravel(), out=units_t)


def coverage_backward(dunits_t: Array, cov_prev: Array, w_c: Array, dcov_prev: Array, dw_c: Array) -> None:
    """D1: undoes C1. Adds to dcov_prev and dw_c."""
    dcov_prev += dunits_t @ w_c.ravel()
    dw_c += np.einsum("ns,nsk->k", cov_prev, dunits_t).reshape(dw_c.shape)


def coverage_tangent(
    keys: Array,
    cov_prev: Array,
    w_c: Array,
    vkeys: Array,
    vcov_prev: Array,
    vw_c: Array,
    units_t: Array,
    vunits_t: Array,
) -> None:
    """C1 and its differential. Writes units_t and vunits_t."""
    change = cov_prev[:, :, None] * as_row(vw_c, w_c.size)[:, None]
    coverage_forward(keys, cov_prev, w_c, units_t)
    np.add(vkeys, vcov_prev[:, :, None] * w_c.ravel() + change, out=vunits_t)


def cover_forward(cov_prev: Array, alpha_t: Array, cov_t: Array) -> None:
    """The state of C1. Writes cov_t."""
    np.add(cov_prev, alpha_t, out=cov_t)


def cover_backward(dcov_t: Array, dalpha_t: Array, dcov_prev: Array) -> None:
    """D2. Adds to dalpha_t and dcov_prev."""
    dalpha_t += dcov_t
    dcov_prev += dcov_t


def cover_tangent(vcov_prev: Array, alpha_t: Array, vscore_t: Array, vcov_t: Array) -> None:
    """The differential of the state of C1. Writes vcov_t."""
    np.add(vcov_prev, softmax_tangent(alpha_t, vscore_t), out=vcov_t)


def windows(focus: Array, width: int) -> Array:
    """Return focus, (N, S), around each s, (N, S, width), with zeros outside; width is 2R + 1."""
    radius = width // 2
    return sliding_window_view(np.pad(focus, ((0, 0), (radius, radius))), width, axis=1)


def location_forward(keys: Array, focus_prev: Array, F: Array, U_f: Array, units_t: Array) -> None:
    """C3. Writes units_t; F is (C, 2R + 1), U_f is (K, C)."""
    # Row by row, as a product of matrices would not be: its sums depend on the number of rows.
    filtered = np.einsum("nsw,cw->nsc", windows(focus_prev, F.shape[1]), F)
    np.add(keys, np.einsum("nsc,kc->nsk", filtered, U_f), out=units_t)


def location_backward(
    dunits_t: Array, focus_prev: Array, F: Array, U_f: Array, dfocus_prev: Array, dF: Array, dU_f: Array
) -> None:
    """D3: undoes C3. Adds to dfocus_prev, dF and dU_f."""
    around, (S, width) = windows(focus_prev, F.shape[1]), (focus_prev.shape[1], F.shape[1])
    df = dunits_t @ U_f
    dU_f += np.einsum("nsk,nsc->kc", dunits_t, around @ F.T)
    dF += np.einsum("nsc,nsw->cw", df, around)
    daround, radius = df @ F, width // 2
    padded = np.zeros((len(df), S + 2 * radius), df.dtype)
    for w in range(width):
        padded[:, w : w + S] += daround[:, :, w]
    dfocus_prev += padded[:, radius : radius + S]


def location_tangent(
    keys: Array, focus_prev: Array, F: Array, U_f: Array, vkeys: Array, vfocus_prev: Array, vF: Array, vU_f: Array,
    units_t: Array, vunits_t: Array,
) -> None:  # fmt: skip
    """C3 and its differential. Writes units_t and vunits_t; vF and vU_f are matrices, or one for each row."""
    around, width = windows(focus_prev, F.shape[1]), F.shape[1]
    vf = windows(vfocus_prev, width) @ F.T + around @ vF.swapaxes(-1, -2)
    change = vf @ U_f.T + around @ F.T @ vU_f.swapaxes(-1, -2)
    location_forward(keys, focus_prev, F, U_f, units_t)
    np.add(vkeys, change, out=vunits_t)


def focus_forward(alpha_t: Array, focus_t: Array) -> None:
    """The state of C3. Writes focus_t."""
    focus_t[...] = alpha_t


def focus_backward(dfocus_t: Array, dalpha_t: Array) -> None:
    """D4. Adds to dalpha_t."""
    dalpha_t += dfocus_t


def focus_tangent(alpha_t: Array, vscore_t: Array, vfocus_t: Array) -> None:
    """The differential of the state of C3. Writes vfocus_t."""
    vfocus_t[...] = softmax_tangent(alpha_t, vscore_t)


# ------------------------------------------------------------------------------------------------ weights, context


@functools.cache
def lowest(dtype: np.dtype[Any]) -> Any:
    """Return the lowest finite number, as an array."""
    return np.array(np.finfo(dtype).min)


def softmax_forward(score_t: Array, exists: Array, alpha_t: Array) -> None:
    """F2. Writes alpha_t, (N, S); exists is (N, S)."""
    # The shift is real, so that the line has a complex derivative; what does not exist is out before exp sees it.
    alpha_t.fill(-np.inf)
    np.copyto(alpha_t, score_t, where=exists)
    largest = np.maximum.reduce(alpha_t.real, axis=1, keepdims=True)
    np.maximum(largest, lowest(largest.dtype), out=largest)  # of nothing
    np.subtract(alpha_t, largest, out=alpha_t)
    np.exp(alpha_t, out=alpha_t)
    np.divide(alpha_t, sum_over_s(alpha_t), out=alpha_t, where=exists)


def softmax_backward(dalpha_t: Array, alpha_t: Array, dscore_t: Array) -> None:
    """B2: undoes F2. Writes dscore_t."""
    np.subtract(dalpha_t, sum_over_s(alpha_t * dalpha_t), out=dscore_t)
    dscore_t *= alpha_t


def weights_forward(score_t: Array, exists: Array, values: Array, alpha_t: Array, context_t: Array) -> None:
    """F2 and F3. Writes alpha_t, (N, S), and context_t, (N, M); values are (N, S, M), exists (N, S)."""
    softmax_forward(score_t, exists, alpha_t)  # F2
    weighted_sum(alpha_t, values, context_t)  # F3


def weights_backward(dcontext_t: Array, alpha_t: Array, values: Array, dalpha_t: Array, dscore_t: Array) -> None:
    """B3 and B2: undoes F3 and F2. Adds to dalpha_t, writes dscore_t."""
    dalpha_t += np.einsum("nm,nsm->ns", np.ascontiguousarray(dcontext_t), values)  # B3
    softmax_backward(dalpha_t, alpha_t, dscore_t)  # B2


def softmax_tangent(alpha_t: Array, vscore_t: Array) -> Array:
    """T2. Returns valpha_t."""
    valpha: Array = alpha_t * (vscore_t - sum_over_s(alpha_t * vscore_t))
    return valpha


def weights_tangent(vscore_t: Array, vvalues: Array, values: Array, alpha_t: Array, vcontext_t: Array) -> None:
    """T2 and T3. Writes vcontext_t."""
    valpha = softmax_tangent(alpha_t, vscore_t)
    vcontext_t[...] = np.einsum("ns,nsm->nm", valpha, values) + np.einsum("ns,nsm->nm", alpha_t, vvalues)  # T3


def gate_forward(query: Array, context_t: Array, W_g: Array, b_g: Array, beta_t: Array, gated_t: Array) -> None:
    """F5. Writes beta_t, (N, 1) or (N, M), and gated_t, (N, M)."""
    np.add(query.dot(W_g.T), b_g.ravel(), out=beta_t)
    beta_t *= 0.5  # sigmoid(u) = (1 + tanh(u/2)) / 2
    np.tanh(beta_t, out=beta_t)
    beta_t *= 0.5
    beta_t += 0.5
    np.multiply(beta_t, context_t, out=gated_t)


def gate_backward(
    dgated_t: Array, context_t: Array, beta_t: Array, W_g: Array, dgate_t: Array, dcontext_t: Array, dquery: Array,
    db_g: Array,
) -> None:  # fmt: skip
    """B5: undoes F5. Writes dgate_t and dcontext_t; adds to dquery and db_g."""
    np.multiply(beta_t, dgated_t, out=dcontext_t)
    dbeta = dgated_t * context_t
    if beta_t.shape[1] == 1:
        dbeta = dbeta.sum(axis=1, keepdims=True)
    dgate_t[...] = dbeta * beta_t * (1 - beta_t)
    dquery += dgate_t.dot(W_g)
    db_g += dgate_t.sum(axis=0).reshape(db_g.shape)


def gate_tangent(
    vquery: Array, vcontext_t: Array, vgate_t: Array, vb_g: Array, context_t: Array, beta_t: Array, W_g: Array,
    vgated_t: Array,
) -> None:  # fmt: skip
    """T5. Writes vgated_t; vgate_t comes in holding vW_g h."""
    vbeta = (vgate_t + vquery.dot(W_g.T) + as_row(vb_g, beta_t.shape[1])) * beta_t * (1 - beta_t)
    vgated_t[...] = vbeta * context_t + beta_t * vcontext_t


# ------------------------------------------------------------------------------------------------ into the cell


# W.dot(rows.T).T is rows.dot(W.T), laid out as the arrays of a cell that works on columns.


def context_forward(context_t: Array, W_ch: Array, input_t: Array) -> None:
    """F4. Adds to input_t, (N, G H), what W_ih x_t goes to; W_ch is (G H, M)."""
    input_t += W_ch.dot(context_t.T).T


def context_backward(dinput_t: Array, W_ch: Array, dcontext_t: Array) -> None:
    """B4: undoes F4. Writes dcontext_t."""
    dcontext_t[...] = dinput_t.dot(W_ch)


def context_tangent(vcontext_t: Array, W_ch: Array, vinput_t: Array) -> None:
    """T4. vinput_t comes in holding vW_ch context_t."""
    vinput_t += vcontext_t.dot(W_ch.T)


def feed_forward(attn_prev: Array, W_if: Array, input_t: Array) -> None:
    """F7. Adds to input_t."""
    input_t += W_if.dot(attn_prev.T).T


def feed_backward(dinput_t: Array, W_if: Array, dattn_prev: Array) -> None:
    """B7: undoes F7. Adds to dattn_prev."""
    dattn_prev += dinput_t.dot(W_if)


def feed_tangent(vattn_prev: Array, W_if: Array, vinput_t: Array) -> None:
    """The differential of F7. vinput_t comes in holding vW_if attn_{t-1}."""
    vinput_t += vattn_prev.dot(W_if.T)


def combine_forward(context_t: Array, h_t: Array, W_c: Array, joined_t: Array, attn_t: Array) -> None:
    """F6. Writes joined_t, [context; h], (N, M + H), and attn_t, (N, H)."""
    M = context_t.shape[1]
    joined_t[:, :M] = context_t
    joined_t[:, M:] = h_t
    np.tanh(joined_t.dot(W_c.T), out=attn_t)


def combine_backward(
    dattn_t: Array, attn_t: Array, W_c: Array, dcombined_t: Array, dcontext_t: Array, dh_t: Array
) -> None:
    """B6: undoes F6. Writes dcombined_t and dcontext_t; adds to dh_t."""
    np.multiply(dattn_t, 1 - attn_t * attn_t, out=dcombined_t)
    djoined, M = dcombined_t.dot(W_c), dcontext_t.shape[1]
    dcontext_t[...] = djoined[:, :M]
    dh_t += djoined[:, M:]


def combine_tangent(
    vcontext_t: Array, vh_t: Array, W_c: Array, attn_t: Array, vcombined_t: Array, vattn_t: Array
) -> None:
    """T6. Writes vattn_t; vcombined_t comes in holding vW_c [context; h]."""
    M = vcontext_t.shape[1]
    vattn_t[...] = (1 - attn_t * attn_t) * (vcombined_t + vcontext_t.dot(W_c[:, :M].T) + vh_t.dot(W_c[:, M:].T))


# ------------------------------------------------------------------------------------------------ the cell


# The lines above, of each part, as `Cell.equations` has them; F4 and F7 are terms of the cell's own first line.
PRODUCT = """
    F1  score = keys @ query
    B1  dquery += keys.T @ dscore
"""
ADDITIVE = """
    F1  units = tanh(LOCATED + each(W_q @ query))
    F1  score = units @ v_a
    B1  dunits = outer(dscore, v_a) * (1 - units ** 2)
    B1  dprojected = total(dunits)
    B1  dquery += W_q.T @ dprojected
"""
COVERAGE = """
    C1  covered = keys + outer(cov_prev, w_c)
    D1  dcov_prev += dunits @ w_c
"""
LOCATION = """
    C3  located = COVERED + U_f @ (F @ windows(focus_prev, F))
    D3  dfocus_prev += overlap(F.T @ (U_f.T @ dunits), F)
"""
COVER = """
    C1  cov = cov_prev + alpha
    D2  dalpha += dcov
    D2  dcov_prev += dcov
"""
FOCUS = """
    C3  focus = alpha
    D4  dalpha += dfocus
"""
WEIGHTS = """
    F2  alpha = softmax(score, exists)
    F3  context = values.T @ alpha
    B3  dalpha += values @ dcontext
    B2  dscore = alpha * (dalpha - dot(alpha, dalpha))
"""
GATE = """
    F5  beta = sigmoid(W_g @ query + bias_gate)
    F5  gated = beta * context
    B5  dcontext = beta * dgated
    B5  dgate = dgated * context * beta * (1 - beta)
    B5  dquery += W_g.T @ dgate
"""
SCALAR_GATE = GATE.replace("dgated * context *", "dot(dgated, context) *")
CONTEXT = "B4  dcontext = W_ch.T @ dinput"
FEED = "B7  dattn_prev += weight_if.T @ dinput"
COMBINE = """
    F6  joined = join(context, h)
    F6  attn = tanh(weight_c @ joined)
    B6  dcombined = dattn * (1 - attn ** 2)
    B6  dcontext = head(weight_c.T @ dcombined, context)
    B6  dh += tail(weight_c.T @ dcombined, h)
"""

SCORES = ("dot", "keys", "additive")
GATES = {False: 0, "scalar": 1, "vector": 2}


@dataclass(frozen=True)
class How:
    """Which of the lines above are there: `score` is one of SCORES, `gate` one of GATES."""

    score: str = "dot"
    gate: bool | str = False
    coverage: bool = False
    location: bool = False
    input_feeding: bool = False


@dataclass(frozen=True)
class WithTerm:
    """What a trace computes as a: the sum that the cell has, and the term W source."""

    sum_of_cell: Callable[..., Array]
    source: str
    symbol: str

    @property
    def __signature__(self) -> inspect.Signature:
        names = (*argument_names(self.sum_of_cell), self.source, self.symbol)
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])

    def __call__(self, *arrays: Array) -> Array:
        *own, source, weight = arrays
        a: Array = self.sum_of_cell(*own) + source @ weight.T
        return a


def _sources(layer: Any, given: Mapping[str, Array]) -> int:
    return int(given["values"].shape[1])


def _memory(layer: Any, given: Mapping[str, Array]) -> int:
    return int(layer.memory_size)


def _units(layer: Any, given: Mapping[str, Array]) -> int:
    return int(layer.attention_size)


def _gates(layer: Any, given: Mapping[str, Array]) -> int:
    return 1 if layer.gate == "scalar" else int(layer.memory_size)


def _joined(layer: Any, given: Mapping[str, Array]) -> int:
    return int(layer.memory_size + layer.hidden_size)


def _hidden_units(given: Mapping[str, Array]) -> tuple[int, ...]:
    return given["keys"].shape[1:]


def _rows_of(*arguments: str) -> Callable[[Any], tuple[int, ...]]:
    """Return the function of the shape whose axes are these attributes of a layer, added up where joined by +."""
    return functools.partial(_shape, arguments)


def _shape(axes: tuple[str, ...], layer: Any) -> tuple[int, ...]:
    sizes = {name: getattr(layer, name, None) for axis in axes for name in axis.split("+")}
    sizes |= {"inputs": layer.cell.gates * layer.hidden_size, "gates": _gates(layer, {})}
    if getattr(layer, "location", None):
        sizes["channels"], sizes["filter"] = layer.location
    return tuple(sum(int(sizes[name] or 0) for name in axis.split("+")) for axis in axes)


def _with_term(equations: str, feeds: bool, read: str) -> str:
    """Return equations in which "W_ih @ x" is "W_ih @ x + W_ch @ context", or that of feeding; of a gate, its rows."""
    if not feeds:
        return re.sub(r"W_i(\w) @ x", rf"W_i\1 @ x + W_c\1 @ {read}", equations)
    said = re.sub(r"W_i(?!h)(\w) @ x", r"W_i\1 @ x + weight_if_\1 @ attn_prev", equations)
    return said.replace("W_ih @ x", "W_ih @ x + weight_if @ attn_prev")


@functools.cache
def attending(cell: Cell, how: How) -> Cell:
    """Return a cell with attention around its own formulas, which stay what they are.

    It reads the given arrays values, keys where these are not the values, and exists at every step, and records score,
    alpha and context. Its first state is the query; with input feeding it is the second, after attn.
    """
    state = cell.states[0]
    when = "t" if how.input_feeding else "prev"
    query = {f"{d}query": f"{d}{state}_{when}" for d in ("", "d", "v")}
    own_keys = {f"{d}keys": f"{d}values" for d in ("", "v")} if how.score == "dot" else {}
    records: dict[str, Width] = {"score": _sources, "alpha": _sources, "context": _memory}
    gradients: dict[str, Width] = {"dcontext": _memory, "dalpha": _sources, "dscore": _sources}
    parameters: dict[str, ExtraParameter] = {}
    by_weights = {"weights": ("dscore_t", f"{state}_{when}")}
    width = "H" if how.score == "dot" else "M"
    given = {"values": Given(("S", width), {"values": ("alpha_t", "dcontext_t")})}
    states, widths = dict.fromkeys(cell.states), {}

    def part(
        forward: Any, backward: Any, tangent: Any, names: Mapping[str, str] = query, equations: str = ""
    ) -> Part:  # fmt: skip
        # What asks the state before the step is a way back to it, beside the cell's own.
        asks = not how.input_feeding and backward in (product_backward, additive_backward, gate_backward)
        path = "attention" if asks else ""
        return Part(forward, backward, tangent=tangent, names=names, columns=False, path=path, equations=equations)

    # The scores.
    parts: list[Part] = []
    again: list[Part] = []
    if how.score == "additive":
        located = {f"{d}keys": f"{d}units_t" for d in ("", "v")}
        if how.coverage:
            parts.append(part(coverage_forward, coverage_backward, coverage_tangent, query, COVERAGE))
            again.append(Part(backward=coverage_forward, columns=False))
            parameters["weight_coverage"] = ExtraParameter("w_c", _rows_of("attention_size"))
            states["cov"], widths["cov"] = None, _sources
        if how.location:
            names = located if how.coverage else {}
            said = LOCATION.replace("COVERED", "covered" if how.coverage else "keys")
            parts.append(part(location_forward, location_backward, location_tangent, names, said))
            again.append(Part(backward=location_forward, names=names, columns=False))
            parameters["filters"] = ExtraParameter("F", _rows_of("channels", "filter"))
            parameters["weight_location"] = ExtraParameter("U_f", _rows_of("attention_size", "channels"))
            states["focus"], widths["focus"] = None, _sources
        names = {**query, **located} if parts else query
        said = ADDITIVE.replace("LOCATED", "located" if how.location else "covered" if how.coverage else "keys")
        parts.append(part(additive_forward, additive_backward, additive_tangent, names, said))
        again.append(Part(backward=hidden_units, names=names, columns=False))
        parts += reversed(again)
        parameters["weight_query"] = ExtraParameter(
            "W_q", _rows_of("attention_size", "hidden_size"), product=("dprojected_t", f"{state}_{when}")
        )
        parameters["v"] = ExtraParameter("v_a", _rows_of("attention_size"))
        gradients["dprojected"] = _units
        given["keys"] = Given(("S", "K"))
    else:
        parts.append(part(product_forward, product_backward, product_tangent, {**query, **own_keys}, PRODUCT))
        if how.score == "dot":
            given["values"] = Given(("S", width), {**given["values"].products, **by_weights})
        else:
            given["keys"] = Given(("S", "H"), by_weights)
    # The weights, the context, and the gate.
    parts.append(part(weights_forward, weights_backward, weights_tangent, {}, WEIGHTS))
    if "cov" in states:
        parts.append(part(cover_forward, cover_backward, cover_tangent, {}, COVER))
    if "focus" in states:
        parts.append(part(focus_forward, focus_backward, focus_tangent, {}, FOCUS))
    context: dict[str, str] = {}
    if how.gate:
        parts.append(
            part(gate_forward, gate_backward, gate_tangent, query, GATE if how.gate == "vector" else SCALAR_GATE)
        )
        records |= {"beta": _gates, "gated": _memory}
        gradients |= {"dgated": _memory, "dgate": _gates}
        parameters["weight_gate"] = ExtraParameter(
            "W_g", _rows_of("gates", "hidden_size"), product=("dgate_t", f"{state}_{when}")
        )
        parameters["bias_gate"] = ExtraParameter("b_g", _rows_of("gates"))
        context = {f"{d}context_t": f"{d}gated_t" for d in ("", "d", "v")}
    read = context.get("context_t", "context_t")
    # Into the cell, before its own lines or after them.
    if how.input_feeding:
        before = [part(feed_forward, feed_backward, feed_tangent, {}, FEED)]
        own = {f"{d}h_t": f"{d}{state}_t" for d in ("", "d", "v")}
        after = [*parts, part(combine_forward, combine_backward, combine_tangent, {**context, **own}, COMBINE)]
        parameters["weight_if"] = ExtraParameter(
            "W_if", _rows_of("inputs", "hidden_size"), product=("dinput_t", "attn_prev"), like_input=True
        )
        parameters["weight_c"] = ExtraParameter(
            "W_c", _rows_of("hidden_size", "memory_size+hidden_size"), product=("dcombined_t", "joined_t")
        )
        records["joined"], gradients["dcombined"] = _joined, 1
        states = {"attn": None, **states}
        term = "attn_prev", "W_if"
    else:
        before, after = [*parts, part(context_forward, context_backward, context_tangent, context, CONTEXT)], []
        parameters["weight_ch"] = ExtraParameter(
            "W_ch", _rows_of("inputs", "memory_size"), product=("dinput_t", read), like_input=True
        )
        term = read.removesuffix("_t"), "W_ch"
    own_arrays = {*cell.states, *cell.records, *cell.gradient_records, *cell.derived, *cell.work, *cell.given}
    if taken := own_arrays & {
        *records,
        *gradients,
        *widths,
        "attn",
        "units",
        "dunits",
        "vunits",
        "values",
        "keys",
        "exists",
    }:
        raise CellError(f"attending: the cell must have no array named {', '.join(sorted(taken))}, which attention has")
    # Where a trace computes a from W_ih x, the term comes in addition; where from an array of the cell, it is in it.
    makes = cell.derived.get("a")
    summed = {"a": WithTerm(makes, *term)} if makes is not None and "W_ih" in argument_names(makes) else {}
    work = dict.fromkeys(("units", "dunits", "vunits"), _hidden_units) if how.score == "additive" else {}
    with_term = functools.partial(_with_term, feeds=how.input_feeding, read=term[0])
    return replace(
        cell,
        equations=with_term(cell.equations),
        states=cell.states if len(states) == len(cell.states) else tuple(states),
        recurrent_state=cell.recurrent_state,
        state_widths={**cell.state_widths, **widths},
        before=(*before, *(replace(part, equations=with_term(part.equations)) for part in cell.before)),
        after=(*(replace(part, equations=with_term(part.equations)) for part in cell.after), *after),
        derived={**cell.derived, **summed},
        records={**records, **cell.records},
        gradient_records={**gradients, **cell.gradient_records},
        work=work,
        kept=("units",) if work else (),
        again=tuple(part.backward for part in again if part.backward is not None),
        rows=(*cell.rows, *records, *gradients, *(name for name in states if name not in cell.states)),
        from_loss=("alpha",),
        given={**cell.given, **given, "exists": Given(("S",), differentiable=False)},
        parameters={**cell.parameters, **parameters},
        in_place=cell.in_place and not how.input_feeding,
    )


class Attending(Recurrent):
    """A recurrent layer with attention around each step: to stand before RNN, LSTM, GRU or a layer of one's own.

    `forward` has one more argument, `given`: the memory under "values", (S, N, M), or (N, S, M) where batch_first, and
    optionally under "exists" a mask, (N, S), True where a row of the memory counts. The score "dot" compares the state
    with the values; "keys" and "additive" with a map of them that the caller makes, "keys", (S, N, H) or (S, N, K).
    Before the cell, the context of each step enters where W_ih x_t does, by a further parameter weight_ch_l0 (G * H,
    M). A result of `backward` has `dgiven["values"]`, and in `given_ways["values"]` its terms, "values" and "weights".
    `backward` takes what the loss says of the weights as drecords={"alpha": ...}. The module
    `rnn_numpy.layers.attention` derives all gradients; `rnn_numpy.layers.attention_decoder` makes decoders.

    Parameters
    ----------
    memory_size : int, optional
        M; H where left out.
    score : {"dot", "keys", "additive"}
    attention_size : int, optional
        K, of the additive score; H where left out.
    gate : {False, "scalar", "vector"}
        Whether the context is multiplied with a gate, of one unit or of M.
    coverage : bool
        Whether the additive score knows how much of each row has been read so far; a further state, cov, (N, S).
    location : tuple of int, optional
        Channels and width, an odd number, of filters over the weights of the step before, which the additive score
        knows; a further state, focus, (N, S).
    input_feeding : bool
        Attention after the cell, whose result, attn, (N, H), is the layer's output, its first state, and read by the
        cell at the next step.

    Raises
    ------
    OptionError
        Several layers or two directions: attention belongs to the first layer of a decoder; put plain ones on top. A
        projection. A score "dot" with M other than H. Coverage or location without the additive score. Zoneout with one
        of the further states.
    """

    def __init__(
        self,
        *sizes: Any,
        memory_size: int | None = None,
        score: str = "dot",
        attention_size: int | None = None,
        gate: bool | str = False,
        coverage: bool = False,
        location: tuple[int, int] | None = None,
        input_feeding: bool = False,
        **options: Any,
    ) -> None:
        kind = type(self).__name__
        hidden = options["hidden_size"] if "hidden_size" in options else (*sizes, None, None)[1]
        self.memory_size = arguments.positive_int(kind, "memory_size", hidden if memory_size is None else memory_size)
        arguments.one_of(kind, "score", score, SCORES)
        self.score = score
        size = hidden if attention_size is None else attention_size
        self.attention_size = arguments.positive_int(kind, "attention_size", size)
        if (isinstance(gate, bool) and gate) or gate not in GATES:
            raise OptionError(f"{kind}: gate must be False, 'scalar' or 'vector'; got {gate!r}")
        self.gate, self.coverage = gate, arguments.flag(kind, "coverage", coverage)
        self.location, self.input_feeding = None, arguments.flag(kind, "input_feeding", input_feeding)
        if location is not None:
            if not isinstance(location, tuple | list) or len(location) != 2:
                raise OptionError(f"{kind}: location must be (channels, width of the filters); got {location!r}")
            channels, width = (arguments.positive_int(kind, "location", size) for size in location)
            if width % 2 == 0:
                raise OptionError(f"{kind}: location must have filters of an odd width, 2R + 1; got {width}")
            self.location = channels, width
        if (coverage or location) and score != "additive":
            what = "coverage" if coverage else "location"
            raise OptionError(f"{kind}: {what} must have score = 'additive', which has room for it; got {score!r}")
        super().__init__(*sizes, **options)
        added = [state for state in self.cell.states if state in ("attn", "cov", "focus")]
        if added and any(self.zoneout):
            raise OptionError(f"{kind}: zoneout must be 0 with the states {', '.join(added)}; got {self.zoneout}")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments; those of attention where they are not what they are by default."""
        found, defaults = super().config(), dict(self._arguments())
        defaults |= {"memory_size": self.hidden_size, "attention_size": self.hidden_size}
        own = inspect.signature(Attending.__init__).parameters
        return {name: value for name, value in found.items() if name not in own or value != defaults[name]}

    def with_parts(self, cell: Cell) -> Cell:
        """Return the cell with attention around it."""
        kind, state = type(self).__name__, cell.states[0]
        if self.width(state) != self.hidden_size:
            raise OptionError(
                f"{kind}: must have no projection, so that {state} and the memory have H = {self.hidden_size} units "
                f"each; got proj_size = {self.width(state)}"
            )
        if self.score == "dot" and self.memory_size != self.hidden_size:
            raise OptionError(
                f"{kind}: score 'dot' must have memory_size = hidden_size = {self.hidden_size}; got "
                f"{self.memory_size}. For other sizes take 'keys', a map of the memory"
            )
        if self.num_layers > 1 or self.bidirectional:
            raise OptionError(
                f"{kind}: must have one layer and one direction; got num_layers = {self.num_layers}, "
                f"bidirectional = {self.bidirectional}. Put plain layers on top: they read this one's outputs"
            )
        how = How(self.score, self.gate, self.coverage, self.location is not None, self.input_feeding)
        return attending(cell, how)

    def width(self, state: str) -> int:
        """Return the number of units of a state; attn has H."""
        return self.hidden_size if state == "attn" else super().width(state)

    def given_sizes(self) -> dict[str, int]:
        """Return the sizes of axes of given arrays that the layer fixes."""
        return {"H": self.hidden_size, "M": self.memory_size, "K": self.attention_size}

    def given_arrays(self, where: str, edge: Edge, given: Mapping[str, Any] | None) -> dict[str, Array]:
        """Check the memory and its mask; without a mask all rows count. Rows that do not are not read."""
        found = edge.given_in(where, self, given)
        for name in self.cell.given:
            if name not in found and name != "exists":
                what = "the memory" if name == "values" else "a map of the memory"
                raise OptionError(f"{where}: given must have an array {name!r}, {what}; it is missing")
        exists = found.setdefault("exists", np.ones(found["values"].shape[:2], bool))
        if exists.dtype != bool:
            raise DTypeError(
                f"{where}: given['exists'] must hold bools, True where a row of the memory counts; got {exists.dtype}"
            )
        return self.read_of_given(found, found)

    def read_of_given(self, arrays: dict[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """Return arrays like the memory with zeros in the rows that do not exist."""
        exists = given["exists"]
        if exists.all():
            return arrays
        return {name: np.where(exists[:, :, None], a, 0) if a.ndim == 3 else a for name, a in arrays.items()}


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
