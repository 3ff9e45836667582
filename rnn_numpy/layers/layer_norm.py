r"""The LSTM with layer normalisation, written as anybody may write a cell: a derivation, its formulas and a `Cell`.

Time, layers, directions, lengths and masks are the driver's. Gates, symbols and s(u) = 1 / (1 + exp(-u)) are those of
`rnn_numpy.layers.lstm`, N is the normalisation defined here.

N shifts and scales a vector to mean 0 and variance 1; here over all 4H entries of a product, or the H of the cell, of
one sequence at one step, so that neither the batch nor the step matters:

    N(u) = (u - mean(u)) / s_u          s_u = sqrt(mean((u - mean(u))^2) + epsilon)

Its transposed Jacobian, which backward applies, takes out of a gradient dy at y = N(u) what a shift and what a scaling
of u would not have changed:

    N'(u)^T dy = (dy - mean(dy) - y * mean(y * dy)) / s_u

For t = 0 ... T-1, with gains alpha and shifts beta unit by unit:

    (F1)  u_t = W_ih x_t              v_t = W_hh h_{t-1}                       (4H,)
    (F2)  a_t = alpha_ih * N(u_t) + alpha_hh * N(v_t) + b_ih + b_hh
    (F3)  i_t = s(a_i)   f_t = s(a_f)   o_t = s(a_o)   g_t = tanh(a_g)
    (F4)  c_t = f_t * c_{t-1} + i_t * g_t
    (F5)  k_t = alpha_c * N(c_t) + beta_c
    (F6)  h_t = o_t * tanh(k_t)

Backward, for t = T-1 ... 0:

    (B6)  dk_t     = dh_t * o_t * (1 - tanh(k_t)^2)          undoes F6
          da_o     = dh_t * tanh(k_t) * o_t * (1 - o_t)      and F3
    (B5)  dc_t    += N'(c_t)^T (alpha_c * dk_t)              undoes F5
    (B4)  da_i     = dc_t * g_t * i_t * (1 - i_t)            undoes F4 and F3
          da_f     = dc_t * c_{t-1} * f_t * (1 - f_t)
          da_g     = dc_t * i_t * (1 - g_t^2)
          dc_{t-1} = dc_t * f_t                              the cell's own way back is not normalised
    (B2)  du_t     = N'(u_t)^T (alpha_ih * da_t)             undoes F2
          dv_t     = N'(v_t)^T (alpha_hh * da_t)
    (B1)  dh_{t-1} = doutput_{t-1} + W_hh^T dv_t             undoes F1
    (B0)  dx_t     = W_ih^T du_t
    (BW)  dW_ih = sum_t du_t x_t^T       dW_hh = sum_t dv_t h_{t-1}^T       db_ih = db_hh = sum_t da_t
          dalpha_ih = sum_t da_t * N(u_t)                dalpha_hh = sum_t da_t * N(v_t)
          dalpha_c  = sum_t dk_t * N(c_t)                dbeta_c   = sum_t dk_t

Forward mode: the Jacobian of N is symmetric, so that N'(u) vu has the form of N'(u)^T dy above; and (...) is what the
driver adds, vW_ih x_t + W_ih vx_t to vu_t, vW_hh h_{t-1} to vv_t, and vb_ih + vb_hh to va_t.

    (T1)  vu_t = (...)                    vv_t = W_hh vh_{t-1} + (...)                     the differential of F1
    (T2)  va_t = valpha_ih * N(u_t) + alpha_ih * N'(u_t) vu_t                              of F2
               + valpha_hh * N(v_t) + alpha_hh * N'(v_t) vv_t + (...)
    (T3)  vi_t = va_i * i_t * (1 - i_t)   vf_t, vo_t likewise   vg_t = va_g * (1 - g_t^2)  of F3
    (T4)  vc_t = f_t * vc_{t-1} + vf_t * c_{t-1} + i_t * vg_t + vi_t * g_t                 of F4
    (T5)  vk_t = valpha_c * N(c_t) + alpha_c * N'(c_t) vc_t + vbeta_c                      of F5
    (T6)  vh_t = vo_t * tanh(k_t) + o_t * (1 - tanh(k_t)^2) * vk_t                         of F6

The original has a shift in each N of F2 as well; the two would add to the biases, which are there already.

Since N(q u) = N(u) but for epsilon, the gradient along u itself is nearly 0: scaling W_ih, or x_t, changes next to
nothing. And where u is 0, as v is at the first step of a sequence that starts from h = 0, s_u is sqrt(epsilon), so that
dh at the initial state is 1/sqrt(epsilon) times as large as one would expect.

References
----------
.. [1] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization" (2016), eq. 20 to 22: the LSTM above, with gates in
   the order f, i, o, g.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.activations import sigmoid
from rnn_numpy.engine.cell import Cell, ExtraParameter, Product
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.layers.initializers import set_forget_bias
from rnn_numpy.layers.lstm import GATES
from rnn_numpy.layers.peephole import hidden

Array = NDArray[Any]

# Arrays are (H, N), a column for each sequence, blocks of gates (4H, N), parameters that act unit by unit (H, 1).


def normalized(u: Array, epsilon: float) -> tuple[Array, Array]:
    """Return N(u) and s_u, over the first axis: (K, N) and (N,)."""
    centred = u - u.mean(axis=0)
    s_u = np.sqrt((centred * centred).mean(axis=0) + epsilon)
    return centred / s_u, s_u


def normalized_backward(dy: Array, y: Array, s_u: Array) -> Array:
    """Return N'(u)^T dy, (K, N), with y = N(u)."""
    du: Array = (dy - dy.mean(axis=0) - y * (y * dy).mean(axis=0)) / s_u
    return du


def normalized_tangent(vu: Array, y: Array, s_u: Array) -> Array:
    """Return N'(u) vu, (K, N), with y = N(u): the change of the centred vector, less that of its length."""
    vcentred = vu - vu.mean(axis=0)
    vy: Array = (vcentred - y * (y * vcentred).mean(axis=0)) / s_u
    return vy


def sigmoid_in_place(a: Array, half: Array) -> None:
    """Turn a into s(a)."""
    a *= half
    sigmoid(a, half)


def layer_norm_step_forward(
    epsilon: float, a_t: Array, if_t: Array, i_t: Array, f_t: Array, g_t: Array, o_t: Array, h_in: Array,
    c_prev: Array, W_hh: Array, alpha_ih: Array, alpha_hh: Array, b: Array, alpha_c: Array, beta_c: Array,
    half: Array, u_t: Array, v_t: Array, c_t: Array, tanh_k_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F6. Turns a_t into the gates, writes u_t, v_t, c_t, tanh_k_t, h_t.

    a_t, (4H, N), comes in holding W_ih x_t; if_t, ..., o_t are its blocks, u_t and v_t like it. h_in is h_{t-1}; with
    recurrent dropout, times its mask. alpha_ih, alpha_hh and b = b_ih + b_hh are (4H, 1), alpha_c and beta_c (H, 1).
    """
    u_t[...] = a_t  # F1
    v_t[...] = W_hh.dot(h_in)
    np.multiply(alpha_ih, normalized(u_t, epsilon)[0], out=a_t)  # F2
    a_t += alpha_hh * normalized(v_t, epsilon)[0]
    a_t += b
    sigmoid_in_place(if_t, half)  # F3
    sigmoid_in_place(o_t, half)
    np.tanh(g_t, out=g_t)
    np.multiply(f_t, c_prev, out=c_t)  # F4
    c_t += i_t * g_t
    np.tanh(alpha_c * normalized(c_t, epsilon)[0] + beta_c, out=tanh_k_t)  # F5
    np.multiply(o_t, tanh_k_t, out=h_t)  # F6


def layer_norm_step_backward(
    epsilon: float, dh_t: Array, i_t: Array, f_t: Array, g_t: Array, o_t: Array, c_prev: Array, c_t: Array,
    tanh_k_t: Array, u_t: Array, v_t: Array, W_hh: Array, alpha_ih: Array, alpha_hh: Array, alpha_c: Array,
    dk_t: Array, dc_t: Array, da_t: Array, da_i_t: Array, da_f_t: Array, da_g_t: Array, da_o_t: Array,
    du_t: Array, dv_t: Array, dc_prev: Array, dh_in: Array, dalpha_ih: Array, dalpha_hh: Array, dalpha_c: Array,
    dbeta_c: Array,
) -> None:  # fmt: skip
    """B6 to B1, and of BW what is a sum. Writes dk_t, da_t, du_t, dv_t, dc_prev, adds to dc_t, dh_in and the sums.

    dc_t, (H, N), comes in as the gradient from step t+1 and goes out as the total one. dh_in is the memory of dh_{t-1},
    unless there is recurrent dropout, and comes in holding doutput_{t-1}. u_t, v_t, da_t, du_t, dv_t are (4H, N);
    gains, shifts and the sums of their gradients (4H, 1) and (H, 1).
    """
    dk_t[...] = dh_t * o_t * (1 - tanh_k_t * tanh_k_t)  # B6
    da_o_t[...] = dh_t * tanh_k_t * o_t * (1 - o_t)
    y, s_c = normalized(c_t, epsilon)  # B5
    dc_t += normalized_backward(alpha_c * dk_t, y, s_c)
    dalpha_c += (dk_t * y).sum(axis=1, keepdims=True)  # BW
    dbeta_c += dk_t.sum(axis=1, keepdims=True)
    da_i_t[...] = dc_t * g_t * i_t * (1 - i_t)  # B4
    da_f_t[...] = dc_t * c_prev * f_t * (1 - f_t)
    da_g_t[...] = dc_t * i_t * (1 - g_t * g_t)
    dc_prev[...] = dc_t * f_t
    y, s_u = normalized(u_t, epsilon)  # B2
    du_t[...] = normalized_backward(alpha_ih * da_t, y, s_u)
    dalpha_ih += (da_t * y).sum(axis=1, keepdims=True)  # BW
    y, s_v = normalized(v_t, epsilon)  # B2
    dv_t[...] = normalized_backward(alpha_hh * da_t, y, s_v)
    dalpha_hh += (da_t * y).sum(axis=1, keepdims=True)  # BW
    dh_in += W_hh.T.dot(dv_t)  # B1


def layer_norm_step_tangent(
    epsilon: float, va_t: Array, va_i_t: Array, va_f_t: Array, va_g_t: Array, va_o_t: Array, vu_t: Array,
    vv_t: Array, vh_in: Array, vc_prev: Array, i_t: Array, f_t: Array, g_t: Array, o_t: Array, c_prev: Array,
    c_t: Array, tanh_k_t: Array, u_t: Array, v_t: Array, W_hh: Array, alpha_ih: Array, alpha_hh: Array,
    alpha_c: Array, valpha_ih: Array, valpha_hh: Array, valpha_c: Array, vbeta_c: Array, vc_t: Array,
    vh_t: Array,
) -> None:  # fmt: skip
    """T1 to T6. Adds to vv_t and va_t, writes vc_t and vh_t.

    What comes in, (4H, N): in va_t, vb_ih + vb_hh; in vu_t, vW_ih x_t + W_ih vx_t; in vv_t, vW_hh h_{t-1}. Changes of
    gains and shifts are (4H, 1) and (H, 1), or have N columns.
    """
    vv_t += W_hh.dot(vh_in)  # T1
    for vw_t, w_t, alpha, valpha in ((vu_t, u_t, alpha_ih, valpha_ih), (vv_t, v_t, alpha_hh, valpha_hh)):
        y, s_w = normalized(w_t, epsilon)  # T2
        va_t += valpha * y + alpha * normalized_tangent(vw_t, y, s_w)
    vi = va_i_t * i_t * (1 - i_t)  # T3
    vf = va_f_t * f_t * (1 - f_t)
    vo = va_o_t * o_t * (1 - o_t)
    vg = va_g_t * (1 - g_t * g_t)
    vc_t[...] = f_t * vc_prev + vf * c_prev + i_t * vg + vi * g_t  # T4
    y, s_c = normalized(c_t, epsilon)  # T5
    vk = valpha_c * y + alpha_c * normalized_tangent(vc_t, y, s_c) + vbeta_c
    vh_t[...] = vo * tanh_k_t + o_t * (1 - tanh_k_t * tanh_k_t) * vk  # T6


class Bound(functools.partial[Any]):
    """A formula with its first arguments fixed; equal to another one with the same formula and the same arguments."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and (self.func, self.args) == (other.func, other.args)

    def __hash__(self) -> int:
        return hash((self.func, self.args))


# What a trace computes when asked for; the arrays are (T, N, ·).


def _layer_norm_a(epsilon: float, u: Array, v: Array, alpha_ih: Array, alpha_hh: Array, b: Array) -> Array:
    rows = [normalized(np.moveaxis(array, -1, 0), epsilon)[0] for array in (u, v)]
    y_u, y_v = (np.moveaxis(array, 0, -1) for array in rows)
    a: Array = alpha_ih * y_u + alpha_hh * y_v + b
    return a


def _four_hidden(layer: Recurrent) -> tuple[int, ...]:
    return (4 * layer.hidden_size,)


# EPSILON is a number, `epsilon` of the layer.
EQUATIONS = """
    F1  u = W_ih @ x
    F1  v = W_hh @ h_in
    F2  a = alpha_ih * normal(u, EPSILON) + alpha_hh * normal(v, EPSILON) + b
    F3  i = sigmoid(a_i)
    F3  f = sigmoid(a_f)
    F3  g = tanh(a_g)
    F3  o = sigmoid(a_o)
    F4  c = f * c_prev + i * g
    F5  tanh_k = tanh(alpha_c * normal(c, EPSILON) + beta_c)
    F6  h = o * tanh_k
    B6  dk = dh * o * (1 - tanh_k ** 2)
    B6  da_o = dh * tanh_k * o * (1 - o)
    B5  dc += normal_back(alpha_c * dk, c, EPSILON)
    B4  da_i = dc * g * i * (1 - i)
    B4  da_f = dc * c_prev * f * (1 - f)
    B4  da_g = dc * i * (1 - g ** 2)
    B4  dc_prev += dc * f
    B2  du = normal_back(alpha_ih * da, u, EPSILON)
    B2  dv = normal_back(alpha_hh * da, v, EPSILON)
    B1  dh_in += W_hh.T @ dv
"""


@functools.cache
def layer_norm_cell(epsilon: float) -> Cell:
    """Return the cell of a `LayerNormLSTM`."""
    return Cell(
        ("i", "f", "g", "o"), ("h", "c"),
        Bound(layer_norm_step_forward, epsilon), Bound(layer_norm_step_backward, epsilon),
        step_tangent=Bound(layer_norm_step_tangent, epsilon),
        records={"u": 4, "v": 4, "tanh_k": 1}, gradient_records={"dk": 1, "du": 4, "dv": 4},
        input_gradient="du", hidden_gradient="dv",
        parameters={
            "gain_ih": ExtraParameter("alpha_ih", _four_hidden, 1.0),
            "gain_hh": ExtraParameter("alpha_hh", _four_hidden, 1.0),
            "gain_c": ExtraParameter("alpha_c", hidden, 1.0),
            "bias_c": ExtraParameter("beta_c", hidden, 0.0),
        },
        derived={**GATES, "do": Product("dh", "tanh_k"), "a": Bound(_layer_norm_a, epsilon)},
        biased=False, overwritten=("c",), equations=EQUATIONS.replace("EPSILON", repr(float(epsilon))),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- the layer


class LayerNormLSTM(Recurrent):
    """LSTM with layer normalisation of W_ih x_t, of W_hh h_{t-1} and of the cell, with the options of `LSTM`.

    a_t = alpha_ih * N(W_ih x_t) + alpha_hh * N(W_hh h_{t-1}) + b_ih + b_hh and h_t = o_t * tanh(alpha_c * N(c_t) +
    beta_c); the module `rnn_numpy.layers.layer_norm` derives the gradients. States are pairs (h, c), as those of
    `LSTM`. There is no projection.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H. With H = 1 the normalised cell is 0 throughout.
    epsilon : float
        Added to variances. It bounds the factor by which a normalisation magnifies, 1/sqrt(epsilon).
    forget_bias : float, optional
        The forget gates' total bias at first; drawn as all others where left out.
    num_layers, bias, batch_first, dropout, bidirectional, recurrent_dropout, zoneout, dtype, rng
        As for `LSTM`. Without bias beta_c, a part of the normalisation, stays; at first it is 0, and gains are 1.

    Attributes
    ----------
    params : Parameters
        weight_ih_l0 (4H, D), weight_hh_l0 (4H, H), bias_ih_l0, bias_hh_l0, gain_ih_l0, gain_hh_l0 (4H,), gain_c_l0,
        bias_c_l0 (H,), then those of "l0_reverse", "l1", ...; blocks of rows i, f, g, o.

    Notes
    -----
    Cost: that of `LSTM` in products, two to three times that in work unit by unit. The trace keeps 8 H further numbers
    per step and sequence, u and v, from which backward computes N anew.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LayerNormLSTM(2, 3, rng=0)
    >>> x = np.random.default_rng(1).normal(size=(4, 1, 2))
    >>> output, (h_n, c_n), trace = lstm.forward(x)
    >>> scaled_output, _ = lstm(1000 * x)  # next to nothing of the scale of x is left
    >>> f"{np.abs(scaled_output - output).max():.0e}"
    '3e-05'

    The whole layer is this loop:

    >>> def N(u):
    ...     return (u - u.mean()) / np.sqrt(u.var() + 1e-5)
    >>> p, h, c = lstm.params, np.zeros(3), np.zeros(3)
    >>> for x_t in x[:, 0]:
    ...     a = p["gain_ih_l0"] * N(p["weight_ih_l0"] @ x_t) + p["gain_hh_l0"] * N(p["weight_hh_l0"] @ h)
    ...     i, f, g, o = np.split(a + p["bias_ih_l0"] + p["bias_hh_l0"], 4)
    ...     i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    ...     c = f * c + i * np.tanh(g)
    ...     h = o * np.tanh(p["gain_c_l0"] * N(c) + p["bias_c_l0"])
    >>> bool(np.allclose(h, h_n[0, 0], rtol=1e-13))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *, epsilon: float = 1e-5,
        recurrent_dropout: float = 0.0, zoneout: float | tuple[float, ...] = 0.0,
        forget_bias: float | None = None, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        self.epsilon = arguments.positive_number("LayerNormLSTM", "epsilon", epsilon)
        self.cell = layer_norm_cell(self.epsilon)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip
        if forget_bias is not None:
            set_forget_bias(self, arguments.real_number("LayerNormLSTM", "forget_bias", forget_bias))
