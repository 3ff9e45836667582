r"""The LSTM with peepholes, written as anybody may write a cell: a derivation, its formulas and a `Cell`.

Time, layers, directions, lengths and masks are the driver's. Gates, symbols and s(u) = 1 / (1 + exp(-u)) are those of
`rnn_numpy.layers.lstm`.

The gates see the cell as well, each unit its own, through a weight each: vectors p_i, p_f, p_o of H entries. The input
and the forget gate see what the cell held, the output gate what it holds now. For t = 0 ... T-1:

    (F1)  a_t  = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh       (4H,): a_i, a_f, a_g, a_o
          a_i += p_i * c_{t-1}        a_f += p_f * c_{t-1}
    (F2)  i_t = s(a_i)   f_t = s(a_f)   g_t = tanh(a_g)
    (F3)  c_t = f_t * c_{t-1} + i_t * g_t
    (F4)  a_o += p_o * c_t            o_t = s(a_o)
    (F5)  h_t = o_t * tanh(c_t)

Backward, for t = T-1 ... 0, beginning with dh_{T-1} = doutput_{T-1} + dh_n and dc_{T-1} = dc_n:

    (B5)  dc_t    += dh_t * o_t * (1 - tanh(c_t)^2)          undoes F5
          da_o     = dh_t * tanh(c_t) * o_t * (1 - o_t)      and s in F4
    (B4)  dc_t    += p_o * da_o                              undoes F4: the cell's third way to the loss
    (B3)  da_i     = dc_t * g_t * i_t * (1 - i_t)            undoes F3 and F2
          da_f     = dc_t * c_{t-1} * f_t * (1 - f_t)
          da_g     = dc_t * i_t * (1 - g_t^2)
          dc_{t-1} = dc_t * f_t
    (B1)  dc_{t-1} += p_i * da_i + p_f * da_f                undoes F1
          dh_{t-1} = doutput_{t-1} + W_hh^T da_t
    (BW)  dp_i = sum_t da_i * c_{t-1}    dp_f = sum_t da_f * c_{t-1}    dp_o = sum_t da_o * c_t
          and dx_t, dW_ih, dW_hh, db_ih, db_hh as for the LSTM

Forward mode: vX is the change of X along one direction, and (...) what the driver adds, as for the LSTM.

    (T1)  va_t  = W_hh vh_{t-1} + (...)                      the differential of F1
          va_i += vp_i * c_{t-1} + p_i * vc_{t-1}            va_f likewise
    (T2)  vi_t = va_i * i_t * (1 - i_t)    vf_t likewise     of F2
          vg_t = va_g * (1 - g_t^2)
    (T3)  vc_t = f_t * vc_{t-1} + vf_t * c_{t-1} + i_t * vg_t + vi_t * g_t                 of F3
    (T4)  va_o += vp_o * c_t + p_o * vc_t                    vo_t = va_o * o_t * (1 - o_t)   of F4
    (T5)  vh_t = vo_t * tanh(c_t) + o_t * (1 - tanh(c_t)^2) * vc_t                         of F5

So dc_t/dc_{t-1} is no longer f_t alone: the peepholes of i and f add a term each, still unit by unit.

References
----------
.. [1] F. A. Gers, J. Schmidhuber, "Recurrent nets that time and count", IJCNN (2000): peepholes.
.. [2] A. Graves, "Generating sequences with recurrent neural networks" (2013), eq. 7 to 11: the form above, with W_ci,
   W_cf, W_co for p_i, p_f, p_o.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.activations import sigmoid, sigmoid_and_tanh
from rnn_numpy.engine.cell import ExtraParameter
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.layers.initializers import set_forget_bias
from rnn_numpy.layers.lstm import CELL, EQUATIONS

Array = NDArray[Any]

# Arrays are (H, N), a column for each sequence, blocks of gates (4H, N), parameters that act unit by unit (H, 1).


def peephole_step_forward(
    a_t: Array, ifg_t: Array, if_t: Array, o_t: Array, i_t: Array, f_t: Array, g_t: Array, h_in: Array,
    c_prev: Array, W_hh: Array, p_i: Array, p_f: Array, p_o: Array, half: Array, scratch_t: Array, c_t: Array,
    tanh_c_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F5. Turns a_t into the gates, writes c_t, tanh_c_t, h_t.

    Arguments are those of `lstm_step_forward`, blocks o, i, f halved as there, and p_i, p_f, p_o, (H, 1).
    """
    a_t += W_hh.dot(h_in)  # F1
    i_t += half * p_i * c_prev  # half, as the rest of a_i is
    f_t += half * p_f * c_prev
    sigmoid_and_tanh(ifg_t, if_t, g_t, half)  # F2
    np.multiply(i_t, g_t, out=scratch_t)  # F3
    np.multiply(f_t, c_prev, out=c_t)
    c_t += scratch_t
    o_t += half * p_o * c_t  # F4
    sigmoid(o_t, half)
    np.tanh(c_t, out=tanh_c_t)  # F5
    np.multiply(o_t, tanh_c_t, out=h_t)


def output_peephole_backward(dh_t: Array, da_o_t: Array, p_o: Array, dc_t: Array) -> None:
    """B4, for c_t through the output gate. Adds to dc_t; da_o_t still holds its partial derivative."""
    dc_t += p_o * (da_o_t * dh_t)


def peepholes_backward(
    da_i_t: Array, da_f_t: Array, da_o_t: Array, c_prev: Array, c_t: Array, p_i: Array, p_f: Array,
    dc_prev: Array, dp_i: Array, dp_f: Array, dp_o: Array,
) -> None:  # fmt: skip
    """B1 for c_{t-1}, and BW, after the LSTM's own backward. Adds to dc_prev, and to the sums dp_i, ..., (H, 1)."""
    dc_prev += p_i * da_i_t  # B1
    dc_prev += p_f * da_f_t
    dp_i += (da_i_t * c_prev).sum(axis=1, keepdims=True)  # BW
    dp_f += (da_f_t * c_prev).sum(axis=1, keepdims=True)
    dp_o += (da_o_t * c_t).sum(axis=1, keepdims=True)


def peephole_step_tangent(
    va_t: Array, va_o_t: Array, va_i_t: Array, va_f_t: Array, va_g_t: Array, vh_in: Array, vc_prev: Array,
    o_t: Array, i_t: Array, f_t: Array, g_t: Array, c_prev: Array, c_t: Array, tanh_c_t: Array, W_hh: Array,
    p_i: Array, p_f: Array, p_o: Array, vp_i: Array, vp_f: Array, vp_o: Array, vc_t: Array, vh_t: Array,
) -> None:  # fmt: skip
    """T1 to T5. Adds to va_t, writes vc_t and vh_t.

    va_t, (4H, N), comes in holding what stands as (...) in T1, and goes out as the change of the pre-activations, none
    of it halved. p_i, ... are (H, 1), their changes vp_i, ... (H, 1) or (H, N).
    """
    va_t += W_hh.dot(vh_in)  # T1
    va_i_t += vp_i * c_prev + p_i * vc_prev
    va_f_t += vp_f * c_prev + p_f * vc_prev
    vi = va_i_t * i_t * (1 - i_t)  # T2
    vf = va_f_t * f_t * (1 - f_t)
    vg = va_g_t * (1 - g_t * g_t)
    vc_t[...] = f_t * vc_prev + vf * c_prev + i_t * vg + vi * g_t  # T3
    va_o_t += vp_o * c_t + p_o * vc_t  # T4
    vo = va_o_t * o_t * (1 - o_t)
    vh_t[...] = vo * tanh_c_t + o_t * (1 - tanh_c_t * tanh_c_t) * vc_t  # T5


# What a trace computes when asked for; the arrays are (T, N, ·).


def _peephole_a(
    x: Array, h_in: Array, c_prev: Array, c: Array, W_ih: Array, W_hh: Array, b: Array, p_i: Array, p_f: Array,
    p_o: Array,
) -> Array:  # fmt: skip
    peeps = [p_i * c_prev, p_f * c_prev, np.zeros_like(c), p_o * c]
    a: Array = x @ W_ih.T + h_in @ W_hh.T + b + np.concatenate(peeps, axis=-1)
    return a


def hidden(layer: Recurrent) -> tuple[int, ...]:
    """The shape of a parameter that acts unit by unit."""
    return (layer.hidden_size,)


FORWARD = """
    F1  a_i = W_ii @ x + W_hi @ h_in + b_i + p_i * c_prev
    F1  a_f = W_if @ x + W_hf @ h_in + b_f + p_f * c_prev
    F1  a_g = W_ig @ x + W_hg @ h_in + b_g
    F2  i = sigmoid(a_i)
    F2  f = sigmoid(a_f)
    F2  g = tanh(a_g)
    F3  c = f * c_prev + i * g
    F4  a_o = W_io @ x + W_ho @ h_in + b_o + p_o * c
    F4  o = sigmoid(a_o)
    F5  tanh_c = tanh(c)
    F5  h = o * tanh_c
"""
# What the LSTM has as B4 and B3 is B5 and B3 here.
BACKWARD = EQUATIONS[EQUATIONS.index("B4") :].replace("B4", "B5")

# The factors of B3 and B5, and what is left of B5, B3 and B1, are the LSTM's; parts around it add what peepholes add.
PEEPHOLE_CELL = replace(
    CELL,
    step_forward=peephole_step_forward,
    step_tangent=peephole_step_tangent,
    before=(Part(backward=peepholes_backward, equations="B1  dc_prev += p_i * da_i + p_f * da_f"),),
    after=(Part(backward=output_peephole_backward, equations="B4  dc += p_o * da_o"),),
    equations=FORWARD + BACKWARD,
    parameters={f"peephole_{gate}": ExtraParameter(f"p_{gate}", hidden) for gate in "ifo"},
    derived={**CELL.derived, "a": _peephole_a},
)


# ---------------------------------------------------------------------------------------------- the layer


class PeepholeLSTM(Recurrent):
    """LSTM whose gates see the cell, with the options and initialisation of `LSTM`, without projection.

    i and f see c_{t-1}, o sees c_t, each unit its own; the module `rnn_numpy.layers.peephole` derives the gradients.
    States are pairs (h, c), as those of `LSTM`.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    forget_bias : float, optional
        The forget gates' total bias at first; drawn as all others where left out.
    num_layers, bias, batch_first, dropout, bidirectional, recurrent_dropout, zoneout, dtype, rng
        As for `LSTM`. With recurrent_dropout the peepholes still see the cell; rng draws them, too.

    Attributes
    ----------
    params : Parameters
        weight_ih_l0 (4H, D), weight_hh_l0 (4H, H), bias_ih_l0, bias_hh_l0 (4H,), peephole_i_l0, peephole_f_l0,
        peephole_o_l0 (H,), then those of "l0_reverse", "l1", ...; blocks of rows i, f, g, o. ONNX, which has the same
        formulas, keeps the peepholes in one vector P of 3H entries, in the order i, o, f.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = PeepholeLSTM(2, 3, rng=0)
    >>> output, (h_n, c_n), trace = lstm.forward(np.ones((4, 1, 2)))
    >>> back = lstm.backward(trace, np.ones((4, 1, 3)))
    >>> back.grads["peephole_o_l0"].shape
    (3,)
    >>> bool(np.allclose(back.grads["peephole_o_l0"], (trace.da_o * trace.c[1:]).sum(axis=(0, 1))))
    True

    The whole layer is this loop:

    >>> p, h, c = lstm.params, np.zeros(3), np.zeros(3)
    >>> for x_t in np.ones((4, 2)):
    ...     a = p["weight_ih_l0"] @ x_t + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]
    ...     i, f, g, o = np.split(a, 4)
    ...     i, f = (1 / (1 + np.exp(-a - p[f"peephole_{gate}_l0"] * c)) for gate, a in (("i", i), ("f", f)))
    ...     c = f * c + i * np.tanh(g)
    ...     h = np.tanh(c) / (1 + np.exp(-o - p["peephole_o_l0"] * c))
    >>> bool(np.allclose(h, h_n[0, 0], rtol=1e-14))
    True
    """

    cell = PEEPHOLE_CELL

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        recurrent_dropout: float = 0.0, zoneout: float | tuple[float, ...] = 0.0,
        forget_bias: float | None = None, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip
        if forget_bias is not None:
            set_forget_bias(self, arguments.real_number("PeepholeLSTM", "forget_bias", forget_bias))
