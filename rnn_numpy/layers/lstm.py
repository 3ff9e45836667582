r"""The LSTM: its formulas, forward, backward and in forward mode, and the layer.

Forward
-------
Four gates, rows i, f, g, o of W_ih, W_hh and the biases, each of H rows. For t = 0 ... T-1, with h_{-1} and c_{-1} the
initial states:

    (F1)  a_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        (4H,): a_i, a_f, a_g, a_o
    (F2)  i_t = s(a_i)   f_t = s(a_f)   o_t = s(a_o)         s(u) = 1 / (1 + exp(-u)) = (1 + tanh(u/2)) / 2
          g_t = tanh(a_g)
    (F3)  c_t = f_t * c_{t-1} + i_t * g_t                    the cell: what is kept, and what comes in
    (F4)  m_t = o_t * tanh(c_t)
    (F5)  h_t = m_t, or with a projection to P units h_t = W_hr m_t

By the second form of s one tanh gives all gates: the driver halves the rows i, f, o of weights and biases once per
call, so that a_t comes with a_i/2, a_f/2, a_o/2, a_g, and i, f, o are read off tanh by one product and one sum. The
first form is the faster one in double precision on processors without AVX-512, and taken there, from the same halves
(`rnn_numpy.core.activations`).

The price of the second: s has an absolute error of half an eps of the dtype, not a relative one, near 0 as it has near
1. A gate that is shut to 1e-6 has ten right digits in double precision and two in single; torch's has all. Below
pre-activations of about -37 (-17 in single precision) a gate, and every gradient through it, is exactly 0, as above +37
it is exactly 1.

Backward
--------
dX is dL/dX, of X's shape. L depends on h_t through output t (doutput_t) and a_{t+1}; on c_t through h_t and c_{t+1}.
For t = T-1 ... 0, beginning with dh_{T-1} = doutput_{T-1} + dh_n and dc_{T-1} = dc_n:

    (B5)  dm_t     = dh_t, or W_hr^T dh_t                    undoes F5;  dW_hr = sum_t dh_t m_t^T
    (B4)  dc_t    += dm_t * o_t * (1 - tanh(c_t)^2)          undoes F4 for the cell
          da_o     = dm_t * tanh(c_t) * o_t * (1 - o_t)      and for the gate, F2 included
    (B3)  da_i     = dc_t * g_t * i_t * (1 - i_t)            undoes F3 and F2
          da_f     = dc_t * c_{t-1} * f_t * (1 - f_t)
          da_g     = dc_t * i_t * (1 - g_t^2)
          dc_{t-1} = dc_t * f_t                              no weight in it: why the LSTM remembers
    (B1)  dh_{t-1} = doutput_{t-1} + W_hh^T da_t             undoes F1 for the state
    (B0)  dx_t     = W_ih^T da_t
    (BW)  dW_hh    = sum_t da_t h_{t-1}^T    dW_ih = sum_t da_t x_t^T    db_ih = db_hh = sum_t da_t

dc_t in a trace is the total gradient at c_t, as dh_t is at h_t: complete when step t has run. Until then its row holds
what step t+1 handed back, dc_{t+1} * f_{t+1}.

The state's Jacobian has four blocks: dc_t/dc_{t-1} = diag f, dh_t/dc_{t-1} = diag(o (1 - tanh^2 c) f), and those with
respect to h_{t-1}, the same factors times rows of W_hh.

Forward mode
------------
vX is the change of X along one direction, as in `rnn_numpy.layers.rnn`; for t = 0 ... T-1:

    (T1)  va_t = W_ih vx_t + vW_ih x_t + vb_ih + vb_hh + vW_hh h_{t-1} + W_hh vh_{t-1}     the differential of F1
    (T2)  vi_t = va_i * i_t * (1 - i_t)    vf_t, vo_t likewise                             of F2
          vg_t = va_g * (1 - g_t^2)
    (T3)  vc_t = f_t * vc_{t-1} + vf_t * c_{t-1} + i_t * vg_t + vi_t * g_t                 of F3
    (T4)  vm_t = vo_t * tanh(c_t) + o_t * (1 - tanh(c_t)^2) * vc_t                         of F4
    (T5)  vh_t = vm_t, or W_hr vm_t + vW_hr m_t                                            of F5

va_t is the change of a_t itself: the halves that forward has in its memory are not those of the formulas, and weights
come whole, as in the backward pass.

In memory the blocks of a_t are o, i, f, g: the three of s side by side. A trace shows each gate, and a_t, da_t in the
order of the parameters.

References
----------
.. [1] S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).
.. [2] F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", Neural Computation
   12 (2000): the forget gate.
.. [3] H. Sak, A. Senior, F. Beaufays, "Long short-term memory recurrent neural network architectures for large scale
   acoustic modeling", Interspeech (2014): the projection, eq. 6 and 7 there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.activations import sigmoid_and_tanh
from rnn_numpy.engine.cell import Cell, ExtraParameter, Product
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers.initializers import set_forget_bias

Array = NDArray[Any]

# Arrays are (H, N), a column for each sequence, blocks of gates (4H, N). `a.dot(B)` is a @ B with less overhead.


def lstm_step_forward(
    a_t: Array, oif_t: Array, o_t: Array, i_t: Array, f_t: Array, g_t: Array, h_in: Array, c_prev: Array,
    W_hh: Array, half: Array, scratch_t: Array, c_t: Array, tanh_c_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F4. Turns a_t into the gates, writes c_t, tanh_c_t, h_t.

    a_t, (4H, N), comes in holding W_ih x_t + b_ih + b_hh; of it and of W_hh, (4H, H), the blocks o, i, f are halved,
    see F2. oif_t, ..., g_t are its blocks. States are (H, N): h_in is h_{t-1}, with recurrent dropout times its mask,
    and c_t may be the memory of c_prev.
    """
    a_t += W_hh.dot(h_in)  # F1
    sigmoid_and_tanh(a_t, oif_t, g_t, half)  # F2
    np.multiply(i_t, g_t, out=scratch_t)  # F3
    np.multiply(f_t, c_prev, out=c_t)
    c_t += scratch_t
    np.tanh(c_t, out=tanh_c_t)  # F4
    np.multiply(o_t, tanh_c_t, out=h_t)


def lstm_step_partials(
    oif_t: Array, o_t: Array, i_t: Array, g_t: Array, c_prev: Array, tanh_c_t: Array, one: Array,
    da_oif_t: Array, da_o_t: Array, da_i_t: Array, da_f_t: Array, da_g_t: Array, dm_dc_t: Array,
) -> None:  # fmt: skip
    """The factors of B3 and B4 that need no gradient: into the blocks of da_t, and dm/dc into dm_dc_t.

    Arrays are (H, N) and (3H, N), or the same with the time in front: the driver hands in many steps at once.
    """
    np.subtract(one, oif_t, out=da_oif_t)  # s' = s (1 - s)
    da_oif_t *= oif_t
    da_o_t *= tanh_c_t
    da_i_t *= g_t
    da_f_t *= c_prev
    np.multiply(g_t, g_t, out=da_g_t)  # tanh' = 1 - g^2
    np.subtract(one, da_g_t, out=da_g_t)
    da_g_t *= i_t
    np.multiply(tanh_c_t, tanh_c_t, out=dm_dc_t)
    np.subtract(one, dm_dc_t, out=dm_dc_t)
    dm_dc_t *= o_t


def lstm_step_backward(
    dh_t: Array, f_t: Array, dm_dc_t: Array, W_hh: Array, scratch_t: Array, dc_t: Array, da_t: Array,
    da_o_t: Array, da_i_f_g_t: Array, dc_prev: Array, dh_in: Array,
) -> None:  # fmt: skip
    """B4, B3, B1: undoes F4 to F1. Writes da_t and dc_prev, adds to dc_t and dh_in.

    dh_t, (H, N), is the total gradient at h_t, from the loss and from step t+1. dc_t comes in as that from step t+1 and
    goes out as the total one. da_t, (4H, N), comes in holding the partial derivatives; da_i_f_g_t are three of its
    blocks, (3, H, N). dh_in is the memory of dh_{t-1}, unless there is recurrent dropout, and comes in holding
    doutput_{t-1}.
    """
    np.multiply(dh_t, dm_dc_t, out=scratch_t)  # B4
    dc_t += scratch_t
    da_o_t *= dh_t
    da_i_f_g_t *= dc_t  # B3
    np.multiply(dc_t, f_t, out=dc_prev)
    dh_in += W_hh.T.dot(da_t)  # B1


def project_forward(m_t: Array, W_hr: Array, h_t: Array) -> None:
    """F5. Writes h_t, (P, N); m_t is (H, N), W_hr (P, H)."""
    h_t[...] = W_hr.dot(m_t)


def project_backward(dh_t: Array, W_hr: Array, dm_t: Array) -> None:
    """B5: undoes F5. Writes dm_t."""
    dm_t[...] = W_hr.T.dot(dh_t)


def project_tangent(vm_t: Array, W_hr: Array, vh_t: Array) -> None:
    """T5. vh_t comes in holding vW_hr m_t."""
    vh_t += W_hr.dot(vm_t)


def lstm_step_tangent(
    va_t: Array, va_o_t: Array, va_i_t: Array, va_f_t: Array, va_g_t: Array, vh_in: Array, vc_prev: Array,
    o_t: Array, i_t: Array, f_t: Array, g_t: Array, c_prev: Array, tanh_c_t: Array, W_hh: Array, vc_t: Array,
    vh_t: Array,
) -> None:  # fmt: skip
    """T1 to T4. Adds to va_t, writes vc_t and vh_t.

    va_t, (4H, N), comes in holding all of T1 but W_hh vh_{t-1}, and goes out as the change of the pre-activations, none
    of it halved; va_o_t, ..., va_g_t are its blocks. vh_in is vh_{t-1}; with recurrent dropout, times its mask.
    """
    va_t += W_hh.dot(vh_in)  # T1
    vi = va_i_t * i_t * (1 - i_t)  # T2
    vf = va_f_t * f_t * (1 - f_t)
    vo = va_o_t * o_t * (1 - o_t)
    vg = va_g_t * (1 - g_t * g_t)
    vc_t[...] = f_t * vc_prev + vf * c_prev + i_t * vg + vi * g_t  # T3
    vh_t[...] = vo * tanh_c_t + o_t * (1 - tanh_c_t * tanh_c_t) * vc_t  # T4


# What a trace computes when asked for: gradients of the gates themselves, and blocks in the order of the parameters.


def _a(x: Array, h_in: Array, W_ih: Array, W_hh: Array, b: Array) -> Array:
    a: Array = x @ W_ih.T + h_in @ W_hh.T + b
    return a


def _da(da_i: Array, da_f: Array, da_g: Array, da_o: Array) -> Array:
    return np.concatenate([da_i, da_f, da_g, da_o], axis=-1)


GATES: dict[str, Callable[..., Array]] = {
    "da": _da,
    "di": Product("dc", "g"),
    "df": Product("dc", "c_prev"),
    "dg": Product("dc", "i"),
}


EQUATIONS = """
    F1  a = W_ih @ x + W_hh @ h_in + b
    F2  i = sigmoid(a_i)
    F2  f = sigmoid(a_f)
    F2  g = tanh(a_g)
    F2  o = sigmoid(a_o)
    F3  c = f * c_prev + i * g
    F4  tanh_c = tanh(c)
    F4  h = o * tanh_c
    B4  dm_dc = o * (1 - tanh_c ** 2)
    B4  dc += dh * dm_dc
    B4  da_o = dh * tanh_c * o * (1 - o)
    B3  da_i = dc * g * i * (1 - i)
    B3  da_f = dc * c_prev * f * (1 - f)
    B3  da_g = dc * i * (1 - g ** 2)
    B3  dc_prev += dc * f
    B1  dh_in += W_hh.T @ da
"""


def _projection_shape(layer: LSTM) -> tuple[int, ...]:
    return layer.proj_size, layer.hidden_size


CELL = Cell(
    ("i", "f", "g", "o"), ("h", "c"),
    lstm_step_forward, lstm_step_backward, lstm_step_partials, lstm_step_tangent,
    slabs=("o", "i", "f", "g"), input_slabs=("i", "f", "g", "o"), hidden_slabs=("i", "f", "g", "o"),
    sigmoids=("o", "i", "f"), records={"tanh_c": 1}, gradient_records={"dm_dc": 1},
    derived={"a": _a, **GATES, "do": Product("dh", "tanh_c"), "dtanh_c": Product("dh", "o")},
    overwritten=("c",), equations=EQUATIONS,
)  # fmt: skip
PROJECTION = """
    F5  h = W_hr @ m
    B5  dm = W_hr.T @ dh
"""

# The LSTM's own part writes m_t; h_t is what a further part makes of it.
PROJECTED_CELL = replace(
    CELL,
    own={"h": "m"},
    after=(Part(project_forward, project_backward, tangent=project_tangent, equations=PROJECTION),),
    records={"tanh_c": 1, "m": 1},
    gradient_records={"dm_dc": 1, "dm": 1},
    parameters={"weight_hr": ExtraParameter("W_hr", _projection_shape, product=("dh_t", "m_t"))},
    derived={"a": _a, **GATES, "do": Product("dm", "tanh_c"), "dtanh_c": Product("dm", "o")},
)


class LSTM(Recurrent):
    """Long short-term memory, with the options, names, shapes and initialisation of torch.nn.LSTM.

    c_t = f_t * c_{t-1} + i_t * g_t and h_t = o_t * tanh(c_t); the module `rnn_numpy.layers.lstm` derives its gradients.
    Wherever other layers have one state this one has the pair (h, c).

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    num_layers, bias, batch_first, dropout, bidirectional, recurrent_dropout, dtype, rng
        As for `RNN`.
    proj_size : int
        P < H: h_t = W_hr (o_t * tanh(c_t)) has P units, so outputs and W_hh are narrower; 0 for none.
    zoneout : float or tuple of float
        As for `RNN`, of h and of c, or of each: a pair.
    forget_bias : float, optional
        The forget gates' total bias at first; drawn as all others where left out. 1 is a usual choice: the cell then
        begins by keeping most of what it holds.

    Attributes
    ----------
    params : Parameters
        weight_ih_l0 (4H, D), weight_hh_l0 (4H, H or P), bias_ih_l0, bias_hh_l0 (4H,), with a projection weight_hr_l0
        (P, H), then those of "l0_reverse", "l1", ...; blocks of rows i, f, g, o.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LSTM(2, 3, rng=0)
    >>> output, (h_n, c_n), trace = lstm.forward(np.ones((4, 1, 2)))
    >>> back = lstm.backward(trace, np.ones((4, 1, 3)))
    >>> back.dx.shape, back.dc_0.shape
    ((4, 1, 2), (1, 1, 3))
    >>> step = trace[2]
    >>> step.f.shape
    (1, 3)
    >>> bool(np.allclose(step.df, step.dc * step.c_prev))
    True
    >>> dm_dc = step.o * (1 - step.tanh_c**2)
    >>> bool(np.allclose(step.dc, trace[3].dc * trace[3].f + step.dh * dm_dc))  # from c_3, and through h_2
    True

    The whole layer is this loop:

    >>> p, h, c = lstm.params, np.zeros(3), np.zeros(3)
    >>> for x_t in np.ones((4, 2)):
    ...     a = p["weight_ih_l0"] @ x_t + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]
    ...     i, f, g, o = np.split(a, 4)
    ...     i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    ...     c = f * c + i * np.tanh(g)
    ...     h = o * np.tanh(c)
    >>> bool(np.allclose(h, h_n[0, 0], rtol=1e-14))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, *,
        recurrent_dropout: float = 0.0, zoneout: float | tuple[float, ...] = 0.0,
        forget_bias: float | None = None, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        if isinstance(proj_size, bool) or not isinstance(proj_size, int | np.integer):
            raise DTypeError(f"LSTM: proj_size must be an int; got {type(proj_size).__name__}")
        if proj_size < 0:
            raise OptionError(f"LSTM: proj_size must be positive, or 0 for no projection; got {proj_size}")
        if proj_size and proj_size >= arguments.positive_int("LSTM", "hidden_size", hidden_size):
            raise OptionError(
                f"LSTM: proj_size must be smaller than hidden_size = {hidden_size}; got {proj_size}. It is the width "
                "to which o * tanh(c) is projected"
            )
        self.proj_size = int(proj_size)
        self.cell = PROJECTED_CELL if proj_size else CELL
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip
        if forget_bias is not None:
            kind = type(self).__name__
            if not self.bias:
                raise OptionError(f"{kind}: forget_bias = {forget_bias} needs biases; leave it out, or bias=False")
            set_forget_bias(self, arguments.real_number(kind, "forget_bias", forget_bias))

    def width(self, state: str) -> int:
        """Return the number of units of a state: h has P with a projection."""
        return self.proj_size if state == "h" and self.proj_size else self.hidden_size
