r"""RNN, LSTM and GRU with any activations: what ONNX's operators can be, and Keras' layers, beyond the usual.

The gates' function is phi, that of the candidate gamma, that of the LSTM's output eta. Each is applied to its
pre-activation u after this has been cut to [-clip, clip], where there is a clip; of an LSTM, eta sees c as it is.

RNN
---
    (F1)  a_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        h_t = phi(a_t)
    (B1)  da_t = dh_t * phi'(a_t)                            dh_{t-1} += W_hh^T da_t
    (T1)  va_t = W_hh vh_{t-1} + (...)                       vh_t = va_t * phi'(a_t)

LSTM
----
Rows i, f, g, o. With peepholes p_i, p_f, p_o, as in `rnn_numpy.layers.peephole`; coupled, f is what i leaves.

    (F1)  a_i += p_i * c_{t-1}    a_f += p_f * c_{t-1}
    (F2)  u_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh + (F1)
          i = phi(u_i)    f = phi(u_f), or 1 - i    g = gamma(u_g)
          c_t = f * c_{t-1} + i * g
    (F3)  a_o += p_o * c_t
    (F4)  o_t = phi(u_o)          m_t = eta(c_t)       h_t = o_t * m_t

    (B4)  da_o = dh_t * m_t * phi'(u_o)                dc_t += dh_t * o_t * eta'(c_t)
    (B3)  dc_t += p_o * da_o                           dp_o = sum_t da_o * c_t
    (B2)  di = dc_t * g    df = dc_t * c_{t-1}         coupled: di -= df, and da_f = 0
          da_i = di * phi'(u_i)   da_f = df * phi'(u_f)   da_g = dc_t * i * gamma'(u_g)
          dc_{t-1} = dc_t * f                          dh_{t-1} += W_hh^T da_t
    (B1)  dc_{t-1} += p_i * da_i + p_f * da_f          dp_i = sum_t da_i * c_{t-1}    dp_f likewise

GRU
---
Rows r, z, n; reset after the product with W_hn, or before it.

    (F1)  r = phi(u_r)    z = phi(u_z)
    (F2)  q = W_hn h_{t-1} + b_hn, u_n = W_in x + b_in + r * q;  or k = r * h_{t-1}, u_n = W_in x + b + W_hn k
    (F3)  n = gamma(u_n)      h_t = (1 - z) * n + z * h_{t-1}

    (B3)  da_z = dh_t * (h_{t-1} - n) * phi'(u_z)      da_n = dh_t * (1 - z) * gamma'(u_n)      dh_{t-1} += dh_t * z
    (B2)  da_q = da_n * r, da_r = da_n * q * phi'(u_r);  or dk = W_hn^T da_n, da_r = dk * h_{t-1} * phi'(u_r),
          dh_{t-1} += dk * r
    (B1)  dh_{t-1} += W_hh^T da_t

Tangents are the differentials of these lines. At a kink the derivative is that of the flat side, as of relu in `RNN`.

References
----------
.. [1] ONNX, operators RNN, LSTM and GRU: clip, input_forget, activations with alpha and beta, P. What the text leaves
   open (does clip act on c? it does not) is as ONNX Runtime has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.cell import Cell, ExtraParameter, Product
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers.layer_norm import Bound
from rnn_numpy.layers.lstm import GATES
from rnn_numpy.layers.peephole import hidden

Array = NDArray[Any]


def _where(array: Array, bound: float, above: Any, below: Any) -> Array:
    """Choose by the real part, so that complex steps take the same branch."""
    return np.asarray(np.where(array.real > bound, above, below))


def _exp_of_negative(u: Array) -> Array:
    return np.asarray(np.exp(_where(u, 0.0, 0 * u, u)))


def _sigmoid(u: Array) -> Array:
    return np.asarray((1 + np.tanh(u / 2)) / 2)


def _magnitude(u: Array) -> Array:
    return _where(u, 0.0, u, -u)


def _bell(u: Array) -> Array:
    """Return s(u) (1 - s(u)), with all digits where it is small."""
    small = np.exp(-_magnitude(u))
    return np.asarray(small / (1 + small) ** 2)


def _sech2(u: Array) -> Array:
    return np.asarray(4 * _bell(2 * u))


def _inside(u: Array, alpha: float, beta: float) -> NDArray[np.bool_]:
    line = (alpha * u + beta).real
    inside: NDArray[np.bool_] = (line > 0) & (line < 1)
    return inside


Function = Callable[[Array, float, float], Array]

# Each with its derivative, and the defaults of alpha and beta: None where it has none, nan where it must be said.
NAN = float("nan")
FUNCTIONS: dict[str, tuple[Function, Function, float | None, float | None]] = {
    "sigmoid": (lambda u, a, b: _sigmoid(u), lambda u, a, b: _bell(u), None, None),
    "tanh": (lambda u, a, b: np.tanh(u), lambda u, a, b: _sech2(u), None, None),
    "relu": (lambda u, a, b: _where(u, 0.0, u, 0 * u), lambda u, a, b: _where(u, 0.0, 1.0, 0.0), None, None),
    "affine": (lambda u, a, b: a * u + b, lambda u, a, b: np.full_like(u, a), NAN, NAN),
    "leakyrelu": (lambda u, a, b: _where(u, 0.0, u, a * u), lambda u, a, b: _where(u, 0.0, 1.0, a), 0.01, None),
    "thresholdedrelu": (lambda u, a, b: _where(u, a, u, 0 * u), lambda u, a, b: _where(u, a, 1.0, 0.0), NAN, None),
    "scaledtanh": (lambda u, a, b: a * np.tanh(b * u), lambda u, a, b: a * b * _sech2(b * u), NAN, NAN),
    "hardsigmoid": (
        lambda u, a, b: np.where(_inside(u, a, b), a * u + b, (a * u + b).real >= 1),
        lambda u, a, b: np.where(_inside(u, a, b), a, 0.0),
        0.2,
        0.5,
    ),
    "elu": (
        lambda u, a, b: _where(u, 0.0, u, a * (_exp_of_negative(u) - 1)),
        lambda u, a, b: _where(u, 0.0, 1.0, a * _exp_of_negative(u)),
        1.0,
        None,
    ),
    "softsign": (lambda u, a, b: u / (1 + _magnitude(u)), lambda u, a, b: 1 / (1 + _magnitude(u)) ** 2, None, None),
    "softplus": (
        lambda u, a, b: _where(u, 0.0, u, 0 * u) + np.log(1 + np.exp(-_magnitude(u))),
        lambda u, a, b: _sigmoid(u),
        None,
        None,
    ),
}

# The same two as texts of `Cell.equations`: of U, with ALPHA and BETA in place of the coefficients. A slope stands
# behind other factors. Slopes are those of pre-activations, as the formulas have them, with all digits where they are
# small: of what a saturated gate recorded, 1 - g ** 2 has none left.
TEXTS: dict[str, tuple[str, str]] = {
    "sigmoid": ("sigmoid(U)", "(sech(U / 2) ** 2 / 4)"),
    "tanh": ("tanh(U)", "sech(U) ** 2"),
    "relu": ("relu(U)", "(U > 0)"),
    "affine": ("ALPHA * U + BETA", "ALPHA"),
    "leakyrelu": ("where(U > 0, U, ALPHA * U)", "where(U > 0, 1, ALPHA)"),
    "thresholdedrelu": ("where(U <= ALPHA, 0, U)", "(U > ALPHA)"),
    "scaledtanh": ("ALPHA * tanh(BETA * U)", "(ALPHA * BETA * sech(BETA * U) ** 2)"),
    "hardsigmoid": ("clip(ALPHA * U + BETA, 0, 1)", "where(0 < ALPHA * U + BETA < 1, ALPHA, 0)"),
    "elu": ("where(U > 0, U, ALPHA * (exp(U) - 1))", "where(U > 0, 1, ALPHA * exp(U))"),
    "softsign": ("where(U > 0, U / (1 + U), U / (1 - U))", "where(U > 0, 1 / (1 + U) ** 2, 1 / (1 - U) ** 2)"),
    "softplus": ("where(U > 0, U + log(1 + exp(-U)), log(1 + exp(U)))", "sigmoid(U)"),
}


def _digits(number: float) -> str:
    """Return a number as a text of an equation, which reads as the same bits."""
    return repr(number) if number >= 0 else f"({number!r})"


@dataclass(frozen=True)
class Activation:
    """A function of one number, with its derivative.

    Parameters
    ----------
    name : str
        One of `FUNCTIONS`, in any case and with or without "_", as ONNX and Keras write them.
    alpha, beta : float, optional
        Its coefficients; the defaults are ONNX's. Affine, ScaledTanh and ThresholdedRelu have none that all agree on.
    clip : float, optional
        What it is applied to is cut to [-clip, clip] before.

    Examples
    --------
    >>> import numpy as np
    >>> hard = Activation("HardSigmoid", 0.25, 0.5)
    >>> u = np.array([-4.0, 0.0, 1.0])
    >>> hard(u), hard.slope(u)
    (array([0.  , 0.5 , 0.75]), array([0.  , 0.25, 0.25]))
    """

    name: str
    alpha: float | None = None
    beta: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DTypeError(f"Activation: name must be a str; got {type(self.name).__name__} {self.name!r}")
        plain = self.name.lower().replace("_", "")
        arguments.one_of("Activation", "name", plain, FUNCTIONS)
        object.__setattr__(self, "name", plain)
        for which, default in zip(("alpha", "beta"), FUNCTIONS[plain][2:], strict=True):
            given = getattr(self, which)
            if default is None and given is not None:
                raise OptionError(f"Activation: {self.name} has no {which}; got {given}")
            if given is None and default is not None and np.isnan(default):
                raise OptionError(
                    f"Activation: {self.name} needs {which}; without it, what runs such a network disagrees (0 in ONNX "
                    "Runtime)"
                )
            number = default if given is None else arguments.real_number("Activation", which, given)
            object.__setattr__(self, which, number)
        if self.clip is not None:
            object.__setattr__(self, "clip", arguments.positive_number("Activation", "clip", self.clip))

    def _cut(self, u: Array) -> Array:
        if self.clip is None:
            return u
        return np.asarray(np.where(np.abs(u.real) < self.clip, u, np.clip(u.real, -self.clip, self.clip)))

    def __call__(self, u: Array) -> Array:
        """Return its value at u, in u's dtype."""
        value = FUNCTIONS[self.name][0](self._cut(u), self.alpha or 0.0, self.beta or 0.0)
        return value.astype(u.dtype, copy=False)

    def slope(self, u: Array) -> Array:
        """Return its derivative at u, in u's dtype."""
        slope = FUNCTIONS[self.name][1](self._cut(u), self.alpha or 0.0, self.beta or 0.0)
        if self.clip is not None:
            slope = slope * (np.abs(u.real) < self.clip)
        return slope.astype(u.dtype, copy=False)

    def value_text(self, u: str) -> str:
        """Return its value at an array named u, as `Cell.equations` have it.

        Examples
        --------
        >>> Activation("leakyrelu", 0.1).value_text("u_i")
        'where(u_i > 0, u_i, 0.1 * u_i)'
        """
        cut = u if self.clip is None else f"clip({u}, {_digits(-self.clip)}, {_digits(self.clip)})"
        return self._text(0, cut)

    def slope_text(self, u: str) -> str:
        """Return its derivative at an array named u, as `Cell.equations` have it: a factor behind others.

        Examples
        --------
        >>> Activation("leakyrelu", 0.1).slope_text("u_i")
        'where(u_i > 0, 1, 0.1)'
        >>> Activation("tanh", clip=3).slope_text("u_g")
        'where(-3.0 < u_g < 3.0, sech(u_g) ** 2, 0)'
        """
        slope = self._text(1, u)
        if self.clip is None:
            return slope
        slope = slope.removeprefix("(").removesuffix(")") if slope[0] == "(" else slope
        return f"where({-self.clip!r} < {u} < {self.clip!r}, {slope}, 0)"

    def _text(self, which: int, u: str) -> str:
        numbers = {"ALPHA": _digits(self.alpha or 0.0), "BETA": _digits(self.beta or 0.0), "U": u}
        return re.sub("ALPHA|BETA|U", lambda found: numbers[found[0]], TEXTS[self.name][which])


class Functions(NamedTuple):
    """phi, gamma and eta of a cell, and whether an LSTM's input and forget gates are coupled."""

    phi: Activation
    gamma: Activation
    eta: Activation
    coupled: bool = False


# Arrays are (H, N), a column for each sequence, blocks of gates (G H, N), parameters that act unit by unit (H, 1).

# ---------------------------------------------------------------------------------------------- RNN


def rnn_step_forward(fs: Functions, a_t: Array, h_in: Array, W_hh: Array, h_t: Array) -> None:
    """F1 of the RNN. Adds to a_t, writes h_t."""
    a_t += W_hh.dot(h_in)
    h_t[...] = fs.phi(a_t)


def rnn_step_backward(fs: Functions, dh_t: Array, a_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
    """B1 of the RNN. Writes da_t, adds to dh_in."""
    da_t[...] = dh_t * fs.phi.slope(a_t)
    dh_in += W_hh.T.dot(da_t)


def rnn_step_tangent(fs: Functions, va_t: Array, vh_in: Array, a_t: Array, W_hh: Array, vh_t: Array) -> None:
    """T1 of the RNN. Adds to va_t, writes vh_t."""
    va_t += W_hh.dot(vh_in)
    vh_t[...] = va_t * fs.phi.slope(a_t)


# ---------------------------------------------------------------------------------------------- LSTM


def look_forward(i_t: Array, f_t: Array, c_prev: Array, p_i: Array, p_f: Array) -> None:
    """F1 of the LSTM with peepholes. Adds to the pre-activations of i and f."""
    i_t += p_i * c_prev
    f_t += p_f * c_prev


def look_backward(
    da_i_t: Array, da_f_t: Array, c_prev: Array, p_i: Array, p_f: Array, dc_prev: Array, dp_i: Array, dp_f: Array
) -> None:
    """B1 of the LSTM. Adds to dc_prev and to the sums dp_i and dp_f."""
    dc_prev += p_i * da_i_t + p_f * da_f_t
    dp_i += (da_i_t * c_prev).sum(axis=1, keepdims=True)
    dp_f += (da_f_t * c_prev).sum(axis=1, keepdims=True)


def look_tangent(
    va_i_t: Array, va_f_t: Array, c_prev: Array, vc_prev: Array, p_i: Array, p_f: Array, vp_i: Array, vp_f: Array
) -> None:
    """The differential of F1. Adds to the changes of the pre-activations."""
    va_i_t += vp_i * c_prev + p_i * vc_prev
    va_f_t += vp_f * c_prev + p_f * vc_prev


def cell_forward(
    fs: Functions, a_t: Array, i_t: Array, f_t: Array, g_t: Array, h_in: Array, c_prev: Array, W_hh: Array,
    u_i_t: Array, u_f_t: Array, u_g_t: Array, c_t: Array,
) -> None:  # fmt: skip
    """F2 of the LSTM. Turns the blocks i, f, g of a_t into gates, writes the pre-activations and c_t."""
    a_t += W_hh.dot(h_in)
    u_i_t[...], u_f_t[...], u_g_t[...] = i_t, f_t, g_t
    i_t[...] = fs.phi(u_i_t)
    f_t[...] = 1 - i_t if fs.coupled else fs.phi(u_f_t)
    g_t[...] = fs.gamma(u_g_t)
    c_t[...] = f_t * c_prev + i_t * g_t


def cell_backward(
    fs: Functions, dc_t: Array, i_t: Array, f_t: Array, g_t: Array, c_prev: Array, W_hh: Array, u_i_t: Array,
    u_f_t: Array, u_g_t: Array, da_t: Array, da_i_t: Array, da_f_t: Array, da_g_t: Array, dc_prev: Array, dh_in: Array,
) -> None:  # fmt: skip
    """B2 of the LSTM. Writes the blocks i, f, g of da_t and dc_prev, adds to dh_in; dc_t is the total gradient."""
    di, df = dc_t * g_t, dc_t * c_prev
    da_i_t[...] = (di - df if fs.coupled else di) * fs.phi.slope(u_i_t)
    da_f_t[...] = 0 if fs.coupled else df * fs.phi.slope(u_f_t)
    da_g_t[...] = dc_t * i_t * fs.gamma.slope(u_g_t)
    dc_prev[...] = dc_t * f_t
    dh_in += W_hh.T.dot(da_t)


def cell_tangent(
    fs: Functions, va_t: Array, va_i_t: Array, va_f_t: Array, va_g_t: Array, vh_in: Array, vc_prev: Array, i_t: Array,
    f_t: Array, g_t: Array, c_prev: Array, W_hh: Array, u_i_t: Array, u_f_t: Array, u_g_t: Array, vc_t: Array,
) -> None:  # fmt: skip
    """The differential of F2. Adds to va_t, writes vc_t."""
    va_t += W_hh.dot(vh_in)
    vi = va_i_t * fs.phi.slope(u_i_t)
    vf = -vi if fs.coupled else va_f_t * fs.phi.slope(u_f_t)
    vc_t[...] = f_t * vc_prev + vf * c_prev + i_t * va_g_t * fs.gamma.slope(u_g_t) + vi * g_t


def look_o_forward(o_t: Array, c_t: Array, p_o: Array) -> None:
    """F3 of the LSTM with peepholes. Adds to the pre-activation of o."""
    o_t += p_o * c_t


def look_o_backward(da_o_t: Array, c_t: Array, p_o: Array, dc_t: Array, dp_o: Array) -> None:
    """B3 of the LSTM. Adds to dc_t and to the sum dp_o."""
    dc_t += p_o * da_o_t
    dp_o += (da_o_t * c_t).sum(axis=1, keepdims=True)


def look_o_tangent(va_o_t: Array, c_t: Array, vc_t: Array, p_o: Array, vp_o: Array) -> None:
    """The differential of F3. Adds to the change of the pre-activation of o."""
    va_o_t += vp_o * c_t + p_o * vc_t


def output_forward(fs: Functions, o_t: Array, c_t: Array, u_o_t: Array, m_t: Array, h_t: Array) -> None:
    """F4 of the LSTM. Turns the block o into the gate, writes its pre-activation, m_t and h_t."""
    u_o_t[...] = o_t
    o_t[...] = fs.phi(u_o_t)
    m_t[...] = fs.eta(c_t)
    h_t[...] = o_t * m_t


def output_backward(
    fs: Functions, dh_t: Array, o_t: Array, c_t: Array, u_o_t: Array, m_t: Array, dc_t: Array, da_o_t: Array
) -> None:
    """B4 of the LSTM. Writes the block o of da_t, adds to dc_t, which comes in as the gradient from step t+1."""
    da_o_t[...] = dh_t * m_t * fs.phi.slope(u_o_t)
    dc_t += dh_t * o_t * fs.eta.slope(c_t)


def output_tangent(
    fs: Functions, va_o_t: Array, vc_t: Array, o_t: Array, c_t: Array, u_o_t: Array, m_t: Array, vh_t: Array
) -> None:
    """The differential of F4. Writes vh_t."""
    vh_t[...] = va_o_t * fs.phi.slope(u_o_t) * m_t + o_t * fs.eta.slope(c_t) * vc_t


# ---------------------------------------------------------------------------------------------- GRU


def after_step_forward(
    fs: Functions, qrz_t: Array, q_t: Array, r_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array,
    W_hh: Array, u_r_t: Array, u_z_t: Array, u_n_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F3 of the GRU, reset after the product. Turns the blocks r, z, n into values, writes u_t and h_t."""
    qrz_t += W_hh.dot(h_in)
    u_r_t[...], u_z_t[...] = r_t, z_t
    r_t[...] = fs.phi(u_r_t)
    z_t[...] = fs.phi(u_z_t)
    u_n_t[...] = n_t + r_t * q_t
    n_t[...] = fs.gamma(u_n_t)
    h_t[...] = n_t + z_t * (h_prev - n_t)


def after_step_backward(
    fs: Functions, dh_t: Array, q_t: Array, r_t: Array, z_t: Array, n_t: Array, h_prev: Array, W_hh: Array,
    u_r_t: Array, u_z_t: Array, u_n_t: Array, da_qrz_t: Array, da_q_t: Array, da_r_t: Array, da_z_t: Array,
    da_n_t: Array, dh_prev: Array, dh_in: Array,
) -> None:  # fmt: skip
    """B3 to B1 of the GRU, reset after the product. Writes the blocks of da_t, adds to dh_prev and dh_in."""
    da_z_t[...] = dh_t * (h_prev - n_t) * fs.phi.slope(u_z_t)
    da_n_t[...] = dh_t * (1 - z_t) * fs.gamma.slope(u_n_t)
    dh_prev += dh_t * z_t
    da_q_t[...] = da_n_t * r_t
    da_r_t[...] = da_n_t * q_t * fs.phi.slope(u_r_t)
    dh_in += W_hh.T.dot(da_qrz_t)


def after_step_tangent(
    fs: Functions, va_qrz_t: Array, va_q_t: Array, va_r_t: Array, va_z_t: Array, va_n_t: Array, vh_in: Array,
    vh_prev: Array, q_t: Array, r_t: Array, z_t: Array, n_t: Array, h_prev: Array, W_hh: Array, u_r_t: Array,
    u_z_t: Array, u_n_t: Array, vh_t: Array,
) -> None:  # fmt: skip
    """The differential of F1 to F3, reset after the product. Adds to the blocks of va_t, writes vh_t."""
    va_qrz_t += W_hh.dot(vh_in)
    va_n_t += r_t * va_q_t + va_r_t * fs.phi.slope(u_r_t) * q_t
    vz = va_z_t * fs.phi.slope(u_z_t)
    vh_t[...] = (1 - z_t) * va_n_t * fs.gamma.slope(u_n_t) + z_t * vh_prev + vz * (h_prev - n_t)


def before_step_forward(
    fs: Functions, rz_t: Array, r_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array, W_hrz: Array,
    W_hn: Array, u_r_t: Array, u_z_t: Array, u_n_t: Array, k_t: Array, h_t: Array,
) -> None:  # fmt: skip
    """F1 to F3 of the GRU, reset before the product. Turns the blocks into values, writes u_t, k_t and h_t."""
    rz_t += W_hrz.dot(h_in)
    u_r_t[...], u_z_t[...] = r_t, z_t
    r_t[...] = fs.phi(u_r_t)
    z_t[...] = fs.phi(u_z_t)
    k_t[...] = r_t * h_in
    u_n_t[...] = n_t + W_hn.dot(k_t)
    n_t[...] = fs.gamma(u_n_t)
    h_t[...] = n_t + z_t * (h_prev - n_t)


def before_step_backward(
    fs: Functions, dh_t: Array, r_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array, W_hrz: Array,
    W_hn: Array, u_r_t: Array, u_z_t: Array, u_n_t: Array, da_rz_t: Array, da_r_t: Array, da_z_t: Array, da_n_t: Array,
    dk_t: Array, dh_prev: Array, dh_in: Array,
) -> None:  # fmt: skip
    """B3 to B1 of the GRU, reset before the product. Writes the blocks of da_t and dk_t, adds to dh_prev and dh_in."""
    da_z_t[...] = dh_t * (h_prev - n_t) * fs.phi.slope(u_z_t)
    da_n_t[...] = dh_t * (1 - z_t) * fs.gamma.slope(u_n_t)
    dh_prev += dh_t * z_t
    dk_t[...] = W_hn.T.dot(da_n_t)
    da_r_t[...] = dk_t * h_in * fs.phi.slope(u_r_t)
    dh_in += dk_t * r_t
    dh_in += W_hrz.T.dot(da_rz_t)


def before_step_tangent(
    fs: Functions, va_rz_t: Array, va_r_t: Array, va_z_t: Array, va_n_t: Array, vh_in: Array, vh_prev: Array,
    r_t: Array, z_t: Array, n_t: Array, h_in: Array, h_prev: Array, W_hrz: Array, W_hn: Array, u_r_t: Array,
    u_z_t: Array, u_n_t: Array, vh_t: Array,
) -> None:  # fmt: skip
    """The differential of F1 to F3, reset before the product. Adds to the blocks of va_t, writes vh_t."""
    va_rz_t += W_hrz.dot(vh_in)
    va_n_t += W_hn.dot(va_r_t * fs.phi.slope(u_r_t) * h_in + r_t * vh_in)
    vz = va_z_t * fs.phi.slope(u_z_t)
    vh_t[...] = (1 - z_t) * va_n_t * fs.gamma.slope(u_n_t) + z_t * vh_prev + vz * (h_prev - n_t)


# ---------------------------------------------------------------------------------------------- cells


def _lstm_a(u_i: Array, u_f: Array, u_g: Array, u_o: Array) -> Array:
    return np.concatenate([u_i, u_f, u_g, u_o], axis=-1)


# The lines above with the functions that a layer has, as `Cell.equations`.


def rnn_equations(fs: Functions) -> str:
    """Return the equations of a `GeneralRNN`."""
    return f"""
        F1  a = W_ih @ x + W_hh @ h_in + b
        F1  h = {fs.phi.value_text("a")}
        B1  da = dh * {fs.phi.slope_text("a")}
        B1  dh_in += W_hh.T @ da
    """


def lstm_equations(fs: Functions, peepholes: bool) -> tuple[str, str]:
    """Return the equations of a `GeneralLSTM`: of F2 and B2, of F4 and B4."""
    phi, gamma, eta = fs.phi, fs.gamma, fs.eta
    sees = {gate: f" + p_{gate} * {'c' if gate == 'o' else 'c_prev'}" * peepholes for gate in "ifo"}
    inner = f"""
        F2  u_i = W_ii @ x + W_hi @ h_in + b_i{sees["i"]}
        F2  u_f = W_if @ x + W_hf @ h_in + b_f{sees["f"]}
        F2  u_g = W_ig @ x + W_hg @ h_in + b_g
        F2  i = {phi.value_text("u_i")}
        F2  f = {"1 - i" if fs.coupled else phi.value_text("u_f")}
        F2  g = {gamma.value_text("u_g")}
        F2  c = f * c_prev + i * g
        F2  u_o = W_io @ x + W_ho @ h_in + b_o{sees["o"]}
        B2  da_i = {"(dc * g - dc * c_prev)" if fs.coupled else "dc * g"} * {phi.slope_text("u_i")}
        B2  da_f = {"0" if fs.coupled else f"dc * c_prev * {phi.slope_text('u_f')}"}
        B2  da_g = dc * i * {gamma.slope_text("u_g")}
        B2  dc_prev += dc * f
        B2  dh_in += W_hh.T @ da
    """
    output = f"""
        F4  o = {phi.value_text("u_o")}
        F4  m = {eta.value_text("c")}
        F4  h = o * m
        B4  da_o = dh * m * {phi.slope_text("u_o")}
        B4  dc += dh * o * {eta.slope_text("c")}
    """
    return inner, output


def gru_equations(fs: Functions, reset: str) -> str:
    """Return the equations of a `GeneralGRU`."""
    phi, gamma = fs.phi, fs.gamma
    before = reset == "before"
    resets = "k = r * h_in" if before else "q = W_hn @ h_in + b_hn"
    candidate = "W_in @ x + W_hn @ k + b_n" if before else "W_in @ x + b_in + r * q"
    first, seen = ("dk = W_hn.T @ da_n", "dk * h_in") if before else ("da_q = da_n * r", "da_n * q")
    last = "dk * r" if before else "W_hn.T @ da_q"
    return f"""
        F1  u_r = W_ir @ x + W_hr @ h_in + b_r
        F1  u_z = W_iz @ x + W_hz @ h_in + b_z
        F1  r = {phi.value_text("u_r")}
        F1  z = {phi.value_text("u_z")}
        F2  {resets}
        F2  u_n = {candidate}
        F3  n = {gamma.value_text("u_n")}
        F3  h = n + z * (h_prev - n)
        B3  da_z = dh * (h_prev - n) * {phi.slope_text("u_z")}
        B3  da_n = dh * (1 - z) * {gamma.slope_text("u_n")}
        B3  dh_prev += dh * z
        B2  {first}
        B2  da_r = {seen} * {phi.slope_text("u_r")}
        {"B2" if before else "B1"}  dh_in += {last}
        B1  dh_in += W_hr.T @ da_r + W_hz.T @ da_z
    """


def rnn_cell(fs: Functions) -> Cell:
    """Return the cell of a `GeneralRNN`."""
    forward, backward, tangent = (Bound(one, fs) for one in (rnn_step_forward, rnn_step_backward, rnn_step_tangent))
    return Cell(("a",), ("h",), forward, backward, step_tangent=tangent, equations=rnn_equations(fs))


def lstm_cell(fs: Functions, peepholes: bool) -> Cell:
    """Return the cell of a `GeneralLSTM`: F1 and F3 are parts that are there with peepholes alone."""
    said, output = lstm_equations(fs, peepholes)
    inner = Part(
        Bound(cell_forward, fs), Bound(cell_backward, fs), tangent=Bound(cell_tangent, fs), equations=said
    )  # fmt: skip
    cell = Cell(
        ("i", "f", "g", "o"), ("h", "c"), Bound(output_forward, fs), Bound(output_backward, fs),
        step_tangent=Bound(output_tangent, fs), before=(inner,),
        records={"u_i": 1, "u_f": 1, "u_g": 1, "u_o": 1, "m": 1},
        derived={"a": _lstm_a, "da": GATES["da"], "do": Product("dh", "m")}, equations=output,
    )  # fmt: skip
    if not peepholes:
        return cell
    look = Part(look_forward, look_backward, tangent=look_tangent, equations="B1  dc_prev += p_i * da_i + p_f * da_f")
    look_o = Part(look_o_forward, look_o_backward, tangent=look_o_tangent, equations="B3  dc += p_o * da_o")
    parameters = {f"peephole_{gate}": ExtraParameter(f"p_{gate}", hidden) for gate in "ifo"}
    return replace(cell, before=(look, inner, look_o), parameters=parameters)


def gru_cell(fs: Functions, reset: str) -> Cell:
    """Return the cell of a `GeneralGRU`."""
    pre = {"u_r": 1, "u_z": 1, "u_n": 1}
    if reset == "before":
        return Cell(
            ("r", "z", "n"), ("h",), Bound(before_step_forward, fs), Bound(before_step_backward, fs),
            step_tangent=Bound(before_step_tangent, fs), hidden_inputs={"n": "k_t"},
            records={"k": 1, **pre}, gradient_records={"dk": 1}, equations=gru_equations(fs, reset),
        )  # fmt: skip
    return Cell(
        ("r", "z", "n"), ("h",), Bound(after_step_forward, fs), Bound(after_step_backward, fs),
        step_tangent=Bound(after_step_tangent, fs), records=pre, equations=gru_equations(fs, reset),
        slabs=("q", "r", "z", "n"), input_slabs=("r", "z", "n"), hidden_slabs=("r", "z", "q"),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- layers


def _functions(kind: str, activations: Sequence[Activation | str], count: int, coupled: bool = False) -> Functions:
    if isinstance(activations, str) or len(activations) != count:
        raise OptionError(f"{kind}: activations must be {count}, one after the other; got {activations!r}")
    made = [one if isinstance(one, Activation) else Activation(one) for one in activations]
    return Functions(made[0], made[min(1, count - 1)], made[-1], coupled)


class GeneralRNN(Recurrent):
    """RNN with any activation: h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Parameters
    ----------
    activations : sequence of one Activation or str
    input_size, hidden_size, ...
        As for `RNN`.

    Examples
    --------
    >>> import numpy as np
    >>> rnn = GeneralRNN(2, 3, activations=["Softsign"], rng=0)
    >>> output, h_n, trace = rnn.forward(np.ones((4, 1, 2)))
    >>> bool(np.allclose(output, trace.a / (1 + abs(trace.a))))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        activations: Sequence[Activation | str] = ("tanh",), recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        self.functions = _functions("GeneralRNN", activations, 1)
        self.cell = rnn_cell(self.functions)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip


class GeneralLSTM(Recurrent):
    """LSTM with any activations, its gates coupled if wanted, with or without peepholes.

    Parameters
    ----------
    activations : sequence of three Activation or str
        phi of the gates, gamma of the candidate, eta of the output, as ONNX orders them.
    coupled : bool
        f = 1 - i, ONNX's input_forget; the rows of f in the parameters then have no meaning, and a gradient of 0.
    peepholes : bool
        Whether there are p_i, p_f, p_o, as in `PeepholeLSTM`.
    input_size, hidden_size, ...
        As for `LSTM`, without projection.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = GeneralLSTM(2, 3, activations=["HardSigmoid", "tanh", "tanh"], coupled=True, rng=0)
    >>> output, (h_n, c_n), trace = lstm.forward(np.ones((4, 1, 2)))
    >>> bool(np.allclose(trace.i + trace.f, 1))
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        activations: Sequence[Activation | str] = ("sigmoid", "tanh", "tanh"), coupled: bool = False,
        peepholes: bool = False, recurrent_dropout: float = 0.0, zoneout: float | tuple[float, ...] = 0.0,
        dtype: DTypeLike = np.float64, rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        self.coupled = arguments.flag("GeneralLSTM", "coupled", coupled)
        self.peepholes = arguments.flag("GeneralLSTM", "peepholes", peepholes)
        self.functions = _functions("GeneralLSTM", activations, 3, self.coupled)
        self.cell = lstm_cell(self.functions, self.peepholes)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip


class GeneralGRU(Recurrent):
    """GRU with any activations.

    Parameters
    ----------
    activations : sequence of two Activation or str
        phi of the gates, gamma of the candidate.
    reset : {"after", "before"}
        As for `GRU`.
    input_size, hidden_size, ...
        As for `GRU`.

    Examples
    --------
    >>> import numpy as np
    >>> gru = GeneralGRU(2, 3, activations=["hard_sigmoid", "relu"], rng=0)
    >>> output, h_n, trace = gru.forward(np.ones((4, 1, 2)))
    >>> bool((trace.n >= 0).all())
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        activations: Sequence[Activation | str] = ("sigmoid", "tanh"), reset: str = "after",
        recurrent_dropout: float = 0.0, zoneout: float | tuple[float, ...] = 0.0, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        arguments.one_of("GeneralGRU", "reset", reset, ("after", "before"))
        self.reset = reset
        self.functions = _functions("GeneralGRU", activations, 2)
        self.cell = gru_cell(self.functions, reset)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip
