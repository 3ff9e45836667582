r"""Two penalties on how gradients travel, with their own gradients by hand: Pascanu's Omega, and gradient flossing.

Both are functions of Jacobians J_t = ds_t/ds_{t-1}, s = h or (h, c), so their gradients need a second derivative of a
step s_t = F(s_{t-1}, x_t; theta). It is the same one for both: with u and v held fixed,

    (S1)  g(u, v) = gradient of u^T J_t v, by s_{t-1}, x_t and theta
    (S2)  u^T J_t v is the derivative of u^T F(s_{t-1} + e v, x_t) by e at 0, so that
          g(u, v) = d/de  [gradient of u^T F at s_{t-1} + e v]

The bracket is what the cell's own `step_backward` gives for u at a shifted state, and d/de is its complex step: no
formula of a cell stands here. For the tanh RNN, J_t = D_t W with D_t = diag(1 - h_t^2), W = W_hh, (S2) is

    (R1)  u^T D_t W v = sum_i u_i (1 - h_i^2) (W v)_i
    (R2)  through the slopes:  e_i = -2 h_i (1 - h_i^2) u_i (W v)_i, the gradient by a_t,
          which gives  W^T e to s_{t-1},  e h_{t-1}^T to W,  e x_t^T to W_ih,  W_ih^T e to x_t,  e to the biases
    (R3)  through the matrix:  (D_t u) v^T to W

and the tests hold both to be one.

Gradient flossing [1]_
----------------------
Exponents near 0 keep gradients alive. With Q_0 fixed, orthonormal, (S, k), for steps t = 1 ... T of each sequence:

    (F1)  s_t = F(s_{t-1}, x_t; theta)
    (F2)  V_t = J_t Q_{t-1}
    (F3)  V_t = Q_t R_t                             modified Gram-Schmidt: R_t upper triangular, its diagonal positive
    (F4)  lambda_i = mean over t of ln (R_t)_ii     of the m steps after the transient
    (F5)  Phi = mean over i and the sequences of lambda_i^2

Backward, with X' for dPhi/dX:

    (B5)  lambda_i' = 2 lambda_i / (k N)
    (B4)  (R_t)_ii' = lambda_i' / (m (R_t)_ii)      no other entry; 0 in the transient
    (B3)  V_t'      = (Q_t' + Q_t sym(M)) R_t^{-T},    M = diag(lambda'/m) - Q_t'^T Q_t
          where sym(M) is M's lower triangle, mirrored
    (B2)  Q_{t-1}'  = J_t^T V_t'                    and g(V_t' column j, Q_{t-1} column j), summed over j, by S2
    (B1)  s_{t-1}'  = (the part of that by s_{t-1}) + J_t^T s_t',    theta' and x_t' likewise: BPTT

To B3. From dV = dQ R + Q dR follows  X := Q^T dV R^{-1} = Q^T dQ + dR R^{-1},  where Q^T dQ is antisymmetric, since
Q^T Q = I, and dR R^{-1} upper triangular. So the strictly lower part of X is that of Q^T dQ, and with L for it

    Q^T dQ = L - L^T,      dR = (X - L + L^T) R,      dQ = dV R^{-1} - Q (X - L + L^T)

Put this into <Q', dQ> + <R', dR> and collect what multiplies dV. With a diagonal R' the matrix R R'^T, the other part
of M, has the diagonal lambda'/m and nothing below it.

Nothing is held fixed: Phi is a function of the parameters, the inputs and the initial states, also through the
trajectory, and this is its whole gradient.

Gram-Schmidt in F3 uses v.v without complex conjugates, so that `floss_value` of a layer in complex128 is an analytic
function: its complex step confirms the gradient.

Omega [2]_
----------
With d_t = dL/ds_t, total, and the share of its length that a step back keeps,

    (O1)  q_t = J_t^T d_t,        r_t = |q_t| / |d_t|
    (O2)  "eq9"   Omega_t = (r_t - 1)^2              equation 9 of the paper
          "eq10"  Omega_t = (r_t^2 - 1)^2            its equation 10, and the code that was released with it
    (O3)  Omega = mean of Omega_t over the steps and sequences with |d_t|^2 >= bound

The paper sums where its code takes this mean. Two gradients:

*immediate*, as published: d_t, the states and the slopes count as given; only the matrix in q_t = W_hh^T da_t moves, da
being the gradient of the pre-activation:

    (O4)  q_t' = 2 (r - 1) q / (|q| |d|)   or   4 (r^2 - 1) q / |d|^2,   over the number of terms
    (O5)  W_hh' = sum_t da_t q_t'^T,  all others 0

It is no gradient of Omega. For cells with gates the same is taken: their gates count as given as well.

*full*: the gradient of Omega as a function of all parameters, inputs and initial states, with doutput and dh_n alone
held fixed. d_t comes from later steps, d_{t-1} = doutput_{t-1} + q_t, so its adjoint runs forward in time:

    (O6)  v_t = q_t' + d_{t-1}'                          d_{t-1}' of the step before, none at first
    (O7)  d_t' = J_t v_t + (by O1's denominator)  -2 (r - 1) r d / |d|^2   or   -4 (r^2 - 1) r^2 d / |d|^2
    (O8)  g(d_t, v_t) by S2, then BPTT as in B1

With a loss that is linear in the outputs that is all. For another, doutput moves with the outputs: d_t' is
dOmega/ddoutput as well, so that `layer.backward(trace, H @ ddoutput)`, H the loss's Hessian by the outputs, is what is
missing.

References
----------
.. [1] R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of Jacobians", NeurIPS
   (2023), arXiv:2312.17306.
.. [2] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML (2013), eq. 9
   and 10; the code is github.com/pascanur/trainingRNNs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.states import join, mapped
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.recorded import STEP, RecordedSteps, from_loss, to_caller
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab.lyapunov import CHUNK, counted, prepared, pusher, transient_steps

Array = NDArray[Any]
Floats = NDArray[np.float64]

FORMS = ("eq9", "eq10")
GRADIENTS = ("immediate", "full")


# ------------------------------------------------------------------------------------------- single steps of a layer


@dataclass(frozen=True)
class BackOneStep:
    """The gradients of M single steps by states and inputs, (M, S) and (M, D), and the parameters' sum."""

    dstates: Array
    dx: Array
    grads: Parameters


def back_one_step(layer: Recurrent, x: Array, states: Array, ds: Array) -> BackOneStep:
    """Send ds (M, S) back through one step of the whole layer at inputs (M, D) and states (M, S); in its dtype."""
    found, dx = np.empty_like(ds), np.empty_like(x, dtype=ds.dtype)
    grads = layer.params.zeros_like()
    size = max(1, CHUNK // (len(layer.cell.slabs) * layer.hidden_size * layer.num_layers))
    for low in range(0, len(x), size):
        part = slice(low, low + size)
        trace = layer.forward(np.ascontiguousarray(x[part])[None], _unpacked(layer, states[part]), training=False)[2]
        back = layer.backward(trace, None, _unpacked(layer, ds[part]), grads)
        found[part] = _packed([getattr(back, f"d{state}_0") for state in layer.cell.states])
        dx[part] = back.dx[0]
    return BackOneStep(found, dx, grads)


def _packed(states: list[Array]) -> Array:
    """Return (layers, M, H) of each state as (M, S)."""
    return np.concatenate([state.swapaxes(0, 1).reshape(state.shape[1], -1) for state in states], axis=1)


def _unpacked(layer: Recurrent, packed: Array) -> Any:
    """Return (M, S) as the layer wants its states: (layers, M, H) of each."""
    widths = [layer.num_layers * layer.width(state) for state in layer.cell.states]
    parts = [
        part.reshape(len(packed), layer.num_layers, -1).swapaxes(0, 1)
        for part in np.split(packed, np.cumsum(widths)[:-1], axis=1)
    ]
    return join(parts)


def second_order(layer: Recurrent, x: Floats, states: Floats, u: Floats, v: Floats) -> BackOneStep:
    """Return g(u, v) of S1, for M columns: the gradient of the sum of u^T J v."""
    lengths = np.abs(v).max(axis=1, keepdims=True)  # no squares, which leave the range of floats
    unit = v / np.where(lengths > 0, lengths, 1)
    twin = layer.astype(np.complex128)
    back = back_one_step(twin, x.astype(np.complex128), states + 1j * STEP * unit, (lengths * u).astype(np.complex128))
    grads = layer.params.zeros_like()
    grads.flat[...] = back.grads.flat.imag / STEP
    return BackOneStep(back.dstates.imag / STEP, back.dx.imag / STEP, grads)


def _bptt(
    layer: Recurrent, x: Floats, states: Floats, second: BackOneStep, back: Callable[[int, Floats], Floats]
) -> tuple[Parameters, Floats, Floats]:
    """B1: carry the gradients of S2 back through time; return those by parameters, by x and by the initial state.

    x (T, N, D) and states (T, N, S) are those before each step; `back` makes J_t^T ds of t and ds (N, S). No gradient
    of its own enters at s_T.
    """
    T, N, S = states.shape
    ds = second.dstates.reshape(T, N, -1, S).sum(axis=2)
    total, passed = np.empty((T, N, S)), np.zeros((N, S))
    for t in reversed(range(T)):
        total[t] = passed
        passed = ds[t] + back(t, passed)
    first = back_one_step(layer, x.reshape(T * N, -1), states.reshape(T * N, S), total.reshape(T * N, S))
    first.grads.flat[...] += second.grads.flat
    dx = first.dx.reshape(T, N, -1) + second.dx.reshape(T, N, -1, x.shape[2]).sum(axis=2)
    return first.grads, dx, passed


# ----------------------------------------------------------------------------------------------------------- flossing


@dataclass(frozen=True)
class Flossing:
    """A penalty on Lyapunov exponents, and its gradient.

    Attributes
    ----------
    value : float
        Phi, the mean of lambda_i^2.
    exponents : ndarray, (N, k)
        Of each sequence, per step.
    grads : Parameters
        dPhi/dtheta.
    dx, dh_0 : ndarray
        dPhi/dx and dPhi/dh_0, in their shapes; of a layer with several states dh_0 is a tuple.
    """

    value: float
    exponents: Floats
    grads: Parameters
    dx: Floats
    dh_0: Any

    def __repr__(self) -> str:
        N, k = self.exponents.shape
        norm = float(np.linalg.norm(self.grads.flat))
        return f"Flossing(value={self.value:.4g}, {k} exponents of {N} sequences, |gradient| {norm:.4g})"


def floss(
    layer: Recurrent,
    x: ArrayLike,
    n_exponents: int | None = None,
    *,
    h_0: Any = None,
    transient: int = 0,
    rng: np.random.Generator | int | None = 0,
) -> Flossing:
    """Return the mean squared Lyapunov exponent of a layer, and its whole gradient.

    Parameters
    ----------
    layer : Recurrent
        Any cell, one direction, float64. Of a stack, the exponents are those of all its layers' states together.
    x : ndarray, (T, N, D), or (N, T, D) where batch_first, or (T, D) for one sequence
    n_exponents : int, optional
        k, the first ones; all S of them where left out.
    h_0 : ndarray or tuple of ndarray, optional
        As in `layer.forward`.
    transient : int
        Steps at the beginning that do not count; the gradient goes through them all the same.
    rng : numpy.random.Generator, int or None
        Draws Q_0. The gradient is for this Q_0: take a new one at each update, or a transient.

    Returns
    -------
    Flossing
        Add `weight * flossing.grads.flat` to the gradient of the loss.

    Raises
    ------
    NonFiniteError
        A step sends a direction to exactly 0: ln 0 has no gradient. Or states leave the range of floats.

    Notes
    -----
    Cost of each step and sequence: S columns of a backward step, k of a complex one, k^2 S in Gram-Schmidt. Memory:
    T N S (S + k) numbers.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> rnn, x = RNN(2, 4, rng=0), np.random.default_rng(1).normal(size=(20, 3, 2))
    >>> for _ in range(100):  # exponents wander to 0
    ...     rnn.params.flat -= 0.1 * floss(rnn, x, 2).grads.flat
    >>> before = floss(RNN(2, 4, rng=0), x, 2).value
    >>> bool(floss(rnn, x, 2).value < before / 100)
    True
    """
    where = "floss"
    if isinstance(layer, Recurrent) and layer.dtype != np.float64:
        raise DTypeError(f"{where}: layer must be in float64; got {layer.dtype}. Convert it with .astype(np.float64)")
    walk = prepared(where, layer, x, h_0, None)
    twin, T, N = walk.layer, walk.T, walk.N
    found = _flossed(where, twin, walk.x.astype(np.float64), walk.h_0, n_exponents, transient, rng)
    k, S = found.exponents.shape[1], found.states.shape[2]
    weight = 2 * found.exponents / (k * N * (T - transient))  # B5, lambda'/m
    inputs, before = walk.x.astype(np.float64), found.states[:-1]
    dQ, dV = np.zeros((N, S, k)), np.empty((T, N, S, k))
    for t in reversed(range(T)):
        Q, R = found.Q[t + 1], found.R[t]
        M = -np.matmul(dQ.swapaxes(1, 2), Q)  # B3
        if t >= transient:
            M[:, np.arange(k), np.arange(k)] += weight
        symmetric = np.tril(M) + np.tril(M, -1).swapaxes(1, 2)
        dV[t] = np.linalg.solve(R, (dQ + Q @ symmetric).swapaxes(1, 2)).swapaxes(1, 2)
        dQ = found.J[t].swapaxes(1, 2) @ dV[t]  # B2
    u, v = (a.swapaxes(2, 3).reshape(T * N * k, S) for a in (dV, found.Q[:-1]))
    repeated = [np.repeat(a, k, axis=1).reshape(T * N * k, -1) for a in (inputs, before)]
    second = second_order(twin, repeated[0], repeated[1], u, v)
    grads, dx, passed = _bptt(
        twin, inputs, before, second, lambda t, ds: np.asarray(np.einsum("nij,ni->nj", found.J[t], ds))
    )
    dh_0 = _unpacked(twin, passed)
    if np.ndim(x) == 2:
        dx, dh_0 = dx[:, 0], mapped(lambda part: part[:, 0], dh_0)
    elif layer.batch_first:
        dx = dx.swapaxes(0, 1)
    return Flossing(float(np.mean(found.exponents**2)), found.exponents, grads, dx, dh_0)


def floss_value(
    layer: Recurrent,
    x: ArrayLike,
    n_exponents: int | None = None,
    *,
    h_0: Any = None,
    transient: int = 0,
    rng: np.random.Generator | int | None = 0,
) -> Any:
    """Return the value of `floss` alone, in the layer's dtype; of a complex128 layer it is analytic in the parameters.

    The layer is in float64 or complex128, x (T, N, D) in its dtype, time first; all else is as in `floss`. The complex
    step of one weight is its gradient:

    >>> from rnn_numpy import RNN
    >>> rnn, x = RNN(2, 4, rng=0), np.random.default_rng(1).normal(size=(20, 3, 2))
    >>> twin = rnn.astype(np.complex128)
    >>> twin.params["weight_hh_l0"][1, 2] += 1e-20j
    >>> derivative = floss_value(twin, x.astype(complex), 2).imag / 1e-20
    >>> bool(np.isclose(derivative, floss(rnn, x, 2).grads["weight_hh_l0"][1, 2], rtol=1e-12, atol=0))
    True
    """
    where = "floss_value"
    if not isinstance(layer, Recurrent) or layer.bidirectional or layer.batch_first:
        raise OptionError(f"{where}: layer must be a recurrent one, with one direction, time first; got {layer!r}")
    array = arguments.array_of(where, "x", x, layer.dtype)
    if array.ndim != 3:
        raise ShapeError(f"{where}: x must have shape (T, N, D); got {array.shape}")
    exponents = _flossed(where, layer, array, h_0, n_exponents, transient, rng).exponents
    return np.mean(exponents**2)


@dataclass(frozen=True)
class _Flossed:
    """F1 to F4: states (T+1, N, S), J (T, N, S, S), Q (T+1, N, S, k), R (T, N, k, k), exponents (N, k)."""

    states: Array
    J: Array
    Q: Array
    R: Array
    exponents: Array


def _flossed(
    where: str, layer: Recurrent, x: Array, h_0: Any, n_exponents: int | None, transient: int, rng: Any
) -> _Flossed:
    T, N = x.shape[:2]
    S = layer.num_layers * sum(layer.width(state) for state in layer.cell.states)
    k = counted(where, "n_exponents", n_exponents, S)
    transient = transient_steps(where, transient, T)
    with np.errstate(over="ignore", invalid="ignore"):
        trace = layer.forward(x, h_0, training=False)[2]
    runs = list(trace.layers.values())
    parts = [run.arrays[state] for state in layer.cell.states for run in runs]
    states = np.concatenate(parts, axis=2)  # F1
    if not np.isfinite(states).all():
        raise NonFiniteError(f"{where}: the layer's states leave the range of floats, or x does")
    # All rows of all Jacobians at once: unit vectors, sent back.
    inputs, before = (np.repeat(a, S, axis=1).reshape(T * N * S, -1) for a in (x, states[:-1]))
    units = np.tile(np.eye(S, dtype=layer.dtype), (T * N, 1))
    J = back_one_step(layer, inputs, before, units).dstates.reshape(T, N, S, S)
    normals = arguments.generator(where, rng).standard_normal((k, N, S)).transpose(1, 2, 0)
    Q = np.empty((T + 1, N, S, k), layer.dtype)
    R = np.empty((T, N, k, k), layer.dtype)
    Q[0] = gram_schmidt(normals)[0]
    for t in range(T):
        Q[t + 1], R[t] = gram_schmidt(J[t] @ Q[t])  # F2, F3
        if not np.diagonal(R[t], axis1=1, axis2=2).all():
            raise NonFiniteError(
                f"{where}: step {t} sends a direction to exactly 0, and the logarithm of 0 has no gradient; "
                "ask for fewer exponents, or give relu units that are off something to do"
            )
    diagonals = np.diagonal(R[transient:], axis1=2, axis2=3)
    return _Flossed(states, J, Q, R, np.log(diagonals).mean(axis=0))  # F4


def gram_schmidt(V: Array) -> tuple[Array, Array]:
    """Return Q (..., S, k) and R (..., k, k) of V = Q R by modified Gram-Schmidt, without complex conjugates.

    S >= k. Q^T Q = I, ^T being the transpose alone also where V is complex. The real parts of R's diagonal are
    positive, 0 where a column depends on those before it. Every entry is an analytic function of V's, unlike those of
    `np.linalg.qr`, which conjugates: small imaginary parts of V become derivatives. Q is orthogonal to eps times the
    condition of V.

    >>> Q, R = gram_schmidt(np.array([[3.0, 1.0], [4.0, 2.0]]))
    >>> Q
    array([[ 0.6, -0.8],
           [ 0.8,  0.6]])
    >>> R
    array([[5. , 2.2],
           [0. , 0.4]])
    """
    Q = np.array(V)
    k = Q.shape[-1]
    R = np.zeros((*Q.shape[:-2], k, k), Q.dtype)
    for i in range(k):
        R[..., i, i] = length = np.sqrt((Q[..., i] * Q[..., i]).sum(axis=-1))
        Q[..., i] /= np.where(length == 0, 1, length)[..., None]
        products = (Q[..., None, i] * Q[..., i + 1 :]).sum(axis=-2)
        R[..., i, i + 1 :] = products
        Q[..., i + 1 :] -= Q[..., None, i] * products[..., None, :]
    return Q, R


# -------------------------------------------------------------------------------------------------------------- Omega


@dataclass(frozen=True)
class Omega:
    """Pascanu's penalty, and a gradient of it.

    Attributes
    ----------
    value : float
        The mean of the terms that count; 0 where none does.
    ratios : ndarray, (T, N)
        |J_t^T d_t| / |d_t|; NaN where the term does not count.
    gradient : {"immediate", "full"}
    grads : Parameters
    dx, dh_0, ddoutput, ddh_n : ndarray or None
        Of the full gradient: by the input, the initial state, and by the gradients of the loss, in their shapes.
    """

    value: float
    ratios: Floats
    gradient: str
    grads: Parameters
    dx: Any = None
    dh_0: Any = None
    ddoutput: Any = None
    ddh_n: Any = None

    def __repr__(self) -> str:
        kept = self.ratios[~np.isnan(self.ratios)]
        shown = f"typical ratio {math.exp(float(np.log(kept).mean())):.4g}" if kept.all() and kept.size else "no ratio"
        norm = float(np.linalg.norm(self.grads.flat))
        return (
            f"Omega(value={self.value:.4g}, {kept.size} of {self.ratios.size} steps, {shown}, "
            f"|{self.gradient} gradient| {norm:.4g})"
        )


def omega(
    layer: Recurrent,
    trace: Trace,
    doutput: ArrayLike | None,
    dh_n: Any = None,
    *,
    form: str = "eq9",
    gradient: str = "immediate",
    bound: float = 1e-20,
) -> Omega:
    """Return Pascanu's Omega of one backward pass: how far steps back are from keeping a gradient's length.

    Parameters
    ----------
    layer : Recurrent
        One layer, one direction, float64.
    trace : Trace
        From `layer.forward`, without lengths and without masks (`training=False`, or rates of 0).
    doutput, dh_n
        As in `layer.backward`.
    form : {"eq9", "eq10"}
        (r - 1)^2 or (r^2 - 1)^2: the paper's two equations differ.
    gradient : {"immediate", "full"}
        "immediate", as published: by W_hh alone, as it stands in the Jacobian, with backpropagated errors, states and
        slopes held fixed; not of a cell whose W_hh acts on something else than its state, or which has further
        parameters. "full": by everything, with doutput and dh_n held fixed.
    bound : float
        Steps with |d_t|^2 below it do not count: a vanished gradient has no direction to keep. At least 0.

    Notes
    -----
    Cost: a backward pass step by step; "full" about five more, some of them in complex numbers.

    Examples
    --------
    At half an orthogonal matrix, near 0, each step keeps half of the length:

    >>> from rnn_numpy import RNN
    >>> from rnn_numpy.layers.initializers import initialize
    >>> rnn = RNN(1, 4, bias=False, rng=0)
    >>> initialize(rnn, weight_hh="orthogonal", gain=0.5, rng=1)
    >>> output, h_n, trace = rnn.forward(np.zeros((10, 1, 1)))
    >>> doutput = np.zeros_like(output)
    >>> doutput[-1] = 1.0
    >>> omega(rnn, trace, doutput)
    Omega(value=0.25, 10 of 10 steps, typical ratio 0.5, |immediate gradient| 0.5849)
    >>> round(omega(rnn, trace, doutput, form="eq10").value, 12)
    0.5625
    """
    where = "omega"
    _check_omega(where, layer, trace, form, gradient)
    bound = arguments.not_negative(where, "bound", bound)
    steps = RecordedSteps(layer, trace, "l0")
    cell, T, N, S = layer.cell, steps.T, steps.N, steps.S
    loss = from_loss(layer, trace, doutput, dh_n)
    width = steps.widths[0]
    rows = np.arange(N)
    d, q, da = np.empty((T, N, S)), np.empty((T, N, S)), np.empty((T, N, steps.A))
    passed = loss.finals["l0"]
    for t in reversed(range(T)):
        d[t] = passed
        d[t, :, :width] += loss.output[t]
        pulled = steps.vjp(np.full(N, t), rows, d[t])
        q[t], da[t] = pulled.dstates, pulled.da  # O1
        passed = pulled.dstates
    # In units of the largest entry of d_t: squares of gradients that explode or vanish leave the range of floats.
    peak = np.abs(d).max(axis=2)
    unit = np.where(peak > 0, peak, 1.0)
    scaled_d, scaled_q = d / unit[..., None], q / unit[..., None]
    squares, kept = (scaled_d**2).sum(axis=2), (scaled_q**2).sum(axis=2)
    counts = (np.sqrt(squares) * peak >= math.sqrt(bound)) & (peak > 0)
    number = max(1, int(counts.sum()))
    squares = np.where(counts, squares, 1.0)
    r = np.sqrt(kept / squares)
    # d Omega_t / d(r), and what O4 and O7 make of it; r = 0 has no direction.
    share = np.where(counts, r, 1.0)
    if form == "eq9":
        terms = (share - 1) ** 2
        slope = 2 * (share - 1) / np.where(r > 0, r, 1)
    else:
        terms = (share**2 - 1) ** 2
        slope = 4 * (share**2 - 1)
    # The same for both: by q it is slope q / |d|^2, by d it is -slope r^2 d / |d|^2.
    slope = slope / squares / unit / number
    dq = slope[..., None] * scaled_q
    value, ratios = float(terms.sum()) / number, np.where(counts, r, np.nan)
    if gradient == "immediate":
        grads = layer.params.zeros_like()
        for block, columns, _ in steps.products("hidden"):  # O5
            grads["weight_hh_l0"][block] = np.einsum("tna,tnh->ah", da[..., columns], dq[..., :width])
        return Omega(value, ratios, gradient, grads)
    before, push = steps.states("before"), pusher(steps, 1)
    v, dd = np.empty((T, N, S)), -(slope * r**2)[..., None] * scaled_d
    for t in range(T):
        v[t] = dq[t] + (dd[t - 1] if t else 0)  # O6
        dd[t] += push(t, v[t, ..., None])[..., 0]  # O7
    own = layer.astype(np.float64)
    own.batch_first = False
    for name, weight in steps.weights().items():
        own.params[f"{name}_l0"] = weight
    flat = [a.reshape(T * N, -1) for a in (steps.x, before, d, v)]
    second = second_order(own, flat[0], flat[1], flat[2], flat[3])  # O8
    grads, dx, passed = _bptt(own, steps.x, before, second, lambda t, ds: steps.vjp(np.full(N, t), rows, ds).dstates)
    dx, initial = to_caller(trace, dx, {"l0": passed})
    ddoutput, finals = to_caller(trace, dd[..., :width], {"l0": dd[-1]})
    dh_0, ddh_n = (join([found[state] for state in cell.states]) for found in (initial, finals))
    return Omega(value, ratios, gradient, grads, dx, dh_0, ddoutput, ddh_n)


def _check_omega(where: str, layer: Recurrent, trace: Trace, form: str, gradient: str) -> None:
    """Refuse layers, traces and options for which Omega is not defined."""
    if not isinstance(layer, Recurrent):
        raise DTypeError(f"{where}: layer must be a recurrent layer, RNN, LSTM, GRU; got {type(layer).__name__}")
    if layer.bidirectional or layer.num_layers > 1:
        raise OptionError(f"{where}: layer must be a single one, with one direction; got {layer!r}")
    if layer.dtype != np.float64:
        raise DTypeError(f"{where}: layer must be in float64; got {layer.dtype}. Convert it with .astype(np.float64)")
    arguments.one_of(where, "form", form, FORMS)
    arguments.one_of(where, "gradient", gradient, GRADIENTS)
    cell = layer.cell
    if gradient == "immediate" and (cell.hidden_inputs or cell.parameters or cell.hidden_gradient != "da"):
        raise OptionError(
            f"{where}: gradient = 'immediate' is for cells whose Jacobian has no other matrix than W_hh, acting on the "
            f"state; {type(layer).__name__} has. Use gradient='full'"
        )
    layer.edge_of(where, trace)
    if trace.edge.batch.counts is not None:
        raise OptionError(f"{where}: trace must be recorded without lengths: d_t past the end of a sequence is no step")
    if trace.recurrent_masks or trace.zoneout_masks:
        raise OptionError(f"{where}: trace must be recorded without masks; use layer.forward(x, training=False)")
