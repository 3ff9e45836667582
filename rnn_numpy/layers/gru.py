r"""The GRU in both of its forms: formulas, forward, backward and in forward mode, and the layer.

Forward
-------
Three gates, rows r (reset), z (update), n (new) of W_ih, W_hh and the biases, each of H rows. For t = 0 ... T-1, with
h_{-1} the initial state and s(u) = 1 / (1 + exp(-u)) = (1 + tanh(u/2)) / 2:

    (F1)  a_r = W_ir x_t + b_ir + W_hr h_{t-1} + b_hr        r_t = s(a_r)
          a_z = W_iz x_t + b_iz + W_hz h_{t-1} + b_hz        z_t = s(a_z)
    (F2)  reset="after", torch's and cuDNN's form [2]:       reset="before", the original one [1]:
          q_t = W_hn h_{t-1} + b_hn                          k_t = r_t * h_{t-1}
          a_n = W_in x_t + b_in + r_t * q_t                  a_n = W_in x_t + b_in + W_hn k_t + b_hn
    (F3)  n_t = tanh(a_n)
    (F4)  h_t = (1 - z_t) * n_t + z_t * h_{t-1}              computed as n_t + z_t * (h_{t-1} - n_t)

The driver halves the rows r and z of weights and biases, so that one tanh, or one exp, gives both gates, as for the
LSTM, by tanh at the same price: an absolute error of half an eps, and so fewer right digits in gates close to 0
(`rnn_numpy.layers.lstm`).

Backward
--------
dX is dL/dX, of X's shape. For t = T-1 ... 0, beginning with dh_{T-1} = doutput_{T-1} + dh_n:

    (B4)  da_z     = dh_t * (h_{t-1} - n_t) * z_t * (1 - z_t)
          dh_{t-1} = doutput_{t-1} + dh_t * z_t                    the leak: no weight in it
    (B3)  da_n     = dh_t * (1 - z_t) * (1 - n_t^2)
    (B2)  after:                                             before:
          da_q     = da_n * r_t                              dk_t      = W_hn^T da_n
          da_r     = da_n * q_t * r_t * (1 - r_t)            da_r      = dk_t * h_{t-1} * r_t * (1 - r_t)
                                                             dh_{t-1} += dk_t * r_t
    (B1)  dh_{t-1} += W_hr^T da_r + W_hz^T da_z, and after: + W_hn^T da_q
    (B0)  dx_t     = W_ih^T (da_r, da_z, da_n)
    (BW)  dW_ih    = sum_t (da_r, da_z, da_n) x_t^T          db_ih = sum_t (da_r, da_z, da_n)
          after:   dW_hh = sum_t (da_r, da_z, da_q) h_{t-1}^T   db_hh = sum_t (da_r, da_z, da_q)
          before:  dW_hn = sum_t da_n k_t^T, the others as above; db_hh = db_ih

So in torch's form what the input side gets, da_ih = (da_r, da_z, da_n), and what the hidden side gets, da_hh = (da_r,
da_z, da_q), differ in the last block: the two biases of the n gate are not one. In memory the blocks of torch's form
are q, r, z, n: the hidden product fills the first three, the input's the last three.

Forward mode
------------
vX is the change of X along one direction, as in `rnn_numpy.layers.rnn`; for t = 0 ... T-1, with (...) for what the
driver adds, the changes of W_ih x_t, of the biases, and vW_hh times what it acts on:

    (T1)  va_r = W_hr vh_{t-1} + (...)                       vr_t = va_r * r_t * (1 - r_t)      the differential of F1
          va_z = W_hz vh_{t-1} + (...)                       vz_t = va_z * z_t * (1 - z_t)
    (T2)  after:                                             before:                            of F2
          va_q = W_hn vh_{t-1} + (...)                       vk_t = vr_t * h_{t-1} + r_t * vh_{t-1}
          va_n = r_t * va_q + vr_t * q_t + (...)             va_n = W_hn vk_t + (...)
    (T3)  vn_t = va_n * (1 - n_t^2)                                                             of F3
    (T4)  vh_t = (1 - z_t) * vn_t + z_t * vh_{t-1} + vz_t * (h_{t-1} - n_t)                     of F4

The two forms are two functions of the same weights; `reset_difference` tells by how much they differ on given data.

References
----------
.. [1] K. Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
   EMNLP (2014): eq. 5 to 8, with z and 1 - z exchanged.
.. [2] J. Chung et al., "Empirical evaluation of gated recurrent neural networks on sequence modeling" (2014), eq. 4 to
   8, with z and 1 - z exchanged; the reset after the product, in Theano's, cuDNN's and torch's implementations, lets
   all of W_hh act in one product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core.activations import sigmoid
from rnn_numpy.engine.cell import Cell, Product
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

# Arrays are (H, N), a column for each sequence; rz_t and the like are neighbouring blocks, (2H, N). `a.dot(B)` is a @ B
# with less overhead.


def after_step_forward(
    qrz_t: Array, rz_t: Array, q_t: Array, r_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array,
    W_hh: Array, half: Array, scratch_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F4, reset after the product. Turns the blocks q, r, z, n into their values, writes h_t, (H, N).

    qrz_t, (3H, N), comes in holding b_hn, and W_ih x_t + b_ih + b_hh for r and z; these are halved, as they are in
    W_hh, (3H, H), with blocks n, r, z. n_t comes in holding W_in x_t + b_in. h_in and h_prev are h_{t-1}; h_in, for the
    products, with recurrent dropout times its mask.
    """
    qrz_t += W_hh.dot(h_in)  # F1, F2
    sigmoid(rz_t, half)  # rz_t comes in halved
    np.multiply(r_t, q_t, out=scratch_t)
    n_t += scratch_t
    np.tanh(n_t, out=n_t)  # F3
    np.subtract(h_prev, n_t, out=h_t)  # F4
    h_t *= z_t
    h_t += n_t


def after_step_partials(
    rz_t: Array, q_t: Array, z_t: Array, n_t: Array, h_prev: Array, one: Array, da_rz_t: Array, da_q_t: Array,
    da_r_t: Array, da_z_t: Array, da_n_t: Array,
) -> None:  # fmt: skip
    """The factors of B2 to B4 that need no gradient, into the blocks r, z, n; da_q_t is scratch.

    Arrays are (H, N) and (2H, N), or the same with the time in front: the driver hands in many steps at once.
    """
    np.subtract(one, rz_t, out=da_rz_t)  # s' = s (1 - s)
    da_rz_t *= rz_t
    da_r_t *= q_t
    np.subtract(h_prev, n_t, out=da_q_t)
    da_z_t *= da_q_t
    np.multiply(n_t, n_t, out=da_n_t)  # tanh' = 1 - n^2
    np.subtract(one, da_n_t, out=da_n_t)
    np.subtract(one, z_t, out=da_q_t)
    da_n_t *= da_q_t


def after_step_backward(
    dh_t: Array, r_t: Array, z_t: Array, W_hh: Array, scratch_t: Array, da_qrz_t: Array, da_q_t: Array,
    da_r_t: Array, da_z_t: Array, da_n_t: Array, dh_prev: Array, dh_in: Array,
) -> None:  # fmt: skip
    """B4 to B1, reset after the product. Writes the blocks q, r, z, n of da_t, adds to dh_prev and dh_in.

    dh_t, (H, N), is the total gradient at h_t, from the loss and from step t+1. The blocks r, z, n come in holding the
    partial derivatives. dh_prev, which comes in holding doutput_{t-1}, and dh_in are one memory, unless there is
    recurrent dropout.
    """
    da_z_t *= dh_t  # B4
    np.multiply(dh_t, z_t, out=scratch_t)
    dh_prev += scratch_t
    da_n_t *= dh_t  # B3
    np.multiply(da_n_t, r_t, out=da_q_t)  # B2
    da_r_t *= da_n_t
    dh_in += W_hh.T.dot(da_qrz_t)  # B1


def before_step_forward(
    rz_t: Array, r_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array, W_hrz: Array, W_hn: Array,
    half: Array, k_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F4, reset before the product. Arguments as in `after_step_forward`; k_t, (H, N), is written."""
    rz_t += W_hrz.dot(h_in)  # F1
    sigmoid(rz_t, half)
    np.multiply(r_t, h_in, out=k_t)  # F2
    n_t += W_hn.dot(k_t)
    np.tanh(n_t, out=n_t)  # F3
    np.subtract(h_prev, n_t, out=h_t)  # F4
    h_t *= z_t
    h_t += n_t


def before_step_partials(
    rz_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array, one: Array, da_rz_t: Array, da_r_t: Array,
    da_z_t: Array, da_n_t: Array, dk_t: Array,
) -> None:  # fmt: skip
    """The factors of B2 to B4 that need no gradient; dk_t is scratch. Arguments as in `after_step_partials`."""
    np.subtract(one, rz_t, out=da_rz_t)
    da_rz_t *= rz_t
    da_r_t *= h_in
    np.subtract(h_prev, n_t, out=dk_t)
    da_z_t *= dk_t
    np.multiply(n_t, n_t, out=da_n_t)
    np.subtract(one, da_n_t, out=da_n_t)
    np.subtract(one, z_t, out=dk_t)
    da_n_t *= dk_t


def before_step_backward(
    dh_t: Array, r_t: Array, z_t: Array, W_hrz: Array, W_hn: Array, scratch_t: Array, da_rz_t: Array,
    da_r_t: Array, da_z_t: Array, da_n_t: Array, dk_t: Array, dh_prev: Array, dh_in: Array,
) -> None:  # fmt: skip
    """B4 to B1, reset before the product. Arguments as in `after_step_backward`; dk_t, (H, N), is written."""
    da_z_t *= dh_t  # B4
    np.multiply(dh_t, z_t, out=scratch_t)
    dh_prev += scratch_t
    da_n_t *= dh_t  # B3
    dk_t[...] = W_hn.T.dot(da_n_t)  # B2
    da_r_t *= dk_t
    np.multiply(dk_t, r_t, out=scratch_t)
    dh_in += scratch_t
    dh_in += W_hrz.T.dot(da_rz_t)  # B1


def after_step_tangent(
    va_qrz_t: Array, va_q_t: Array, va_r_t: Array, va_z_t: Array, va_n_t: Array, vh_in: Array, vh_prev: Array,
    q_t: Array, r_t: Array, z_t: Array, n_t: Array, h_prev: Array, W_hh: Array, vh_t: Array,
) -> None:  # fmt: skip
    """T1 to T4, reset after the product. Adds to the blocks of va_t, writes vh_t.

    The blocks, (H, N), come in holding what stands as (...) in T1 and T2; none is halved. vh_in and vh_prev are
    vh_{t-1}; vh_in, for the products, with recurrent dropout times its mask.
    """
    va_qrz_t += W_hh.dot(vh_in)  # T1, T2
    vr = va_r_t * r_t * (1 - r_t)
    vz = va_z_t * z_t * (1 - z_t)
    va_n_t += r_t * va_q_t + vr * q_t
    vn = va_n_t * (1 - n_t * n_t)  # T3
    vh_t[...] = (1 - z_t) * vn + z_t * vh_prev + vz * (h_prev - n_t)  # T4


def before_step_tangent(
    va_rz_t: Array, va_r_t: Array, va_z_t: Array, va_n_t: Array, vh_in: Array, vh_prev: Array, r_t: Array,
    z_t: Array, n_t: Array, h_in: Array, h_prev: Array, W_hrz: Array, W_hn: Array, vh_t: Array,
) -> None:  # fmt: skip
    """T1 to T4, reset before the product. Arguments as in `after_step_tangent`."""
    va_rz_t += W_hrz.dot(vh_in)  # T1
    vr = va_r_t * r_t * (1 - r_t)
    vz = va_z_t * z_t * (1 - z_t)
    vk = vr * h_in + r_t * vh_in  # T2
    va_n_t += W_hn.dot(vk)
    vn = va_n_t * (1 - n_t * n_t)  # T3
    vh_t[...] = (1 - z_t) * vn + z_t * vh_prev + vz * (h_prev - n_t)  # T4


# What a trace computes when asked for: gradients of the gates themselves, and blocks in the order of the parameters.


def _da_ih(da_r: Array, da_z: Array, da_n: Array) -> Array:
    return np.concatenate([da_r, da_z, da_n], axis=-1)


def _da_hh(da_r: Array, da_z: Array, da_q: Array) -> Array:
    return np.concatenate([da_r, da_z, da_q], axis=-1)


def _dz(dh: Array, h_prev: Array, n: Array) -> Array:
    dz: Array = dh * (h_prev - n)
    return dz


def _dn(dh: Array, z: Array) -> Array:
    dn: Array = dh * (1 - z)
    return dn


GATES = """
    F1  r = sigmoid(W_ir @ x + W_hr @ h_in + b_r)
    F1  z = sigmoid(W_iz @ x + W_hz @ h_in + b_z)
"""
STATE = """
    F4  h = n + z * (h_prev - n)
    B4  da_z = dh * (h_prev - n) * z * (1 - z)
    B4  dh_prev += dh * z
    B3  da_n = dh * (1 - z) * (1 - n ** 2)
"""
EQUATIONS_AFTER = f"""{GATES}
    F2  q = W_hn @ h_in + b_hn
    F3  n = tanh(W_in @ x + b_in + r * q)
    {STATE}
    B2  da_q = da_n * r
    B2  da_r = da_n * q * r * (1 - r)
    B1  dh_in += W_hh.T @ da_hh
"""
EQUATIONS_BEFORE = f"""{GATES}
    F2  k = r * h_in
    F3  n = tanh(W_in @ x + W_hn @ k + b_n)
    {STATE}
    B2  dk = W_hn.T @ da_n
    B2  da_r = dk * h_in * r * (1 - r)
    B2  dh_in += dk * r
    B1  dh_in += W_hr.T @ da_r + W_hz.T @ da_z
"""

BEFORE = Cell(
    ("r", "z", "n"), ("h",),
    before_step_forward, before_step_backward, before_step_partials, before_step_tangent,
    sigmoids=("r", "z"), hidden_inputs={"n": "k_t"}, records={"k": 1}, gradient_records={"dk": 1},
    derived={"da_ih": _da_ih, "da_hh": _da_ih, "dr": Product("dk", "h_in"), "dz": _dz, "dn": _dn},
    equations=EQUATIONS_BEFORE,
)  # fmt: skip
AFTER = Cell(
    ("r", "z", "n"), ("h",),
    after_step_forward, after_step_backward, after_step_partials, after_step_tangent,
    slabs=("q", "r", "z", "n"), input_slabs=("r", "z", "n"), hidden_slabs=("r", "z", "q"), sigmoids=("r", "z"),
    derived={**BEFORE.derived, "da_hh": _da_hh, "dr": Product("da_n", "q")},
    equations=EQUATIONS_AFTER,
)  # fmt: skip
CELLS = {"after": AFTER, "before": BEFORE}


class GRU(Recurrent):
    """Gated recurrent unit, with the options, names, shapes and initialisation of torch.nn.GRU.

    h_t = (1 - z_t) * n_t + z_t * h_{t-1}; the module `rnn_numpy.layers.gru` derives the gradients of both forms.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    num_layers, bias, batch_first, dropout, bidirectional, recurrent_dropout, zoneout, dtype, rng
        As for `RNN`.
    reset : {"after", "before"}
        Whether r_t acts on the product W_hn h_{t-1} + b_hn (torch, cuDNN, Keras's default) or on h_{t-1} before it (Cho
        et al., ONNX's default, Keras with reset_after=False). The same weights mean two functions.

    Attributes
    ----------
    params : Parameters
        weight_ih_l0 (3H, D), weight_hh_l0 (3H, H), bias_ih_l0, bias_hh_l0 (3H,), then those of "l0_reverse", "l1", ...;
        blocks of rows r, z, n.

    Examples
    --------
    >>> import numpy as np
    >>> gru = GRU(2, 3, rng=0)
    >>> output, h_n, trace = gru.forward(np.ones((4, 1, 2)))
    >>> back = gru.backward(trace, np.ones((4, 1, 3)))
    >>> step = trace[3]
    >>> bool(np.allclose(step.dz, step.dh * (step.h_prev - step.n)))
    True

    The input's and the hidden side's gradients differ in the n block, by the factor r:

    >>> bool(np.allclose(step.da_hh[:, 6:], step.da_ih[:, 6:] * step.r))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *, reset: str = "after",
        recurrent_dropout: float = 0.0, zoneout: float = 0.0, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(reset, str) or reset not in CELLS:
            raise OptionError(f"GRU: reset must be one of {', '.join(map(repr, CELLS))}; got {reset!r}")
        self.reset = reset
        self.cell = CELLS[reset]
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip
