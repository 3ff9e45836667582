r"""The Jacobians of a recurrent layer's state: of each step, and their products, at the states that a trace recorded.

The convention, once
--------------------
s_t is the state after step t, all states of the cell together: h_t, of an LSTM the pair (h_t, c_t) in this order.

    (J1)  J_t     = ds_t/ds_{t-1}                                (S, S), row i, column j: d s_t[i] / d s_{t-1}[j]
    (J2)  P(t, k) = ds_t/ds_k = J_t J_{t-1} ... J_{k+1}          t - k factors, the latest on the left
    (J3)  P(t, t) = I

So P(t, k) = P(t, m) P(m, k) for k <= m <= t. (The lecture's slides have the product over j = k ... t of
dh_{j+1}/dh_j in place of P(t, k). Read as it stands, that is P(t+1, k): one factor too many.) k = -1 stands for the
state before the first step, row 0 of a trace's h, so that P(t, -1) has all t + 1 factors.

A reverse direction reads the sequence from its end: its step t follows on step t + 1, J_t = ds_t/ds_{t+1}, and
P(t, k) = J_t J_{t+1} ... J_{k-1} with k >= t; k = T stands for the initial state, which each sequence has at its own
end.

A Jacobian is the identity pushed through the cell's own `step_backward`: unit vector e_i gives J^T e_i, which is row i.
Of a cell that works unit by unit but for W_hh, one gradient of ones for each state says as much, and one product makes
the Jacobians of all steps of it (`rnn_numpy.engine.unitwise`). No formula for a derivative stands here.

How fast it can grow
--------------------
With |.| the largest singular value, and lowest singular values likewise multiplied from below,

    (J4)  prod_j sigma_min(J_j)  <=  |P(t, k)|  <=  prod_j |J_j|

and since J_j = diag(phi'(a_j)) W_hh of the Elman RNN, with gamma = sup phi' = 1 of tanh and relu [1]_:

    (J5)  |J_j|  <=  max_i |phi'(a_j)_i| |W_hh|  <=  gamma |W_hh|

If gamma |W_hh| < 1 the gradient must vanish; it can explode only where gamma |W_hh| > 1. Both say nothing of what does
happen: in a trained network P(t, k) is often smaller than the bounds by many powers of ten. Bounds are given as
logarithms, since products of hundreds of factors leave the range of floats.

References
----------
.. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML (2013),
   section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.adjoints import step_number, steps_of
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.unitwise import unit_maps
from rnn_numpy.layers import RNN

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

CHUNK = 2**20  # entries of one array, at most, that go through the backward step at once


@dataclass(frozen=True)
class StateJacobian:
    """ds_t/ds_k of each sequence.

    Attributes
    ----------
    t, k : int
        A single step has k = t - 1, in a reverse direction k = t + 1.
    array : ndarray, (N, S, S)
        In the caller's order. NaN where a sequence has no step t, or no step k.
    states : tuple of str
    widths : tuple of int
        The units of each state; S is their sum.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> lstm = LSTM(2, 3, rng=0)
    >>> trace = lstm.forward(np.ones((4, 1, 2)))[2]
    >>> J = jacobian(lstm, trace, 2)
    >>> J.array.shape, J.block("c", "h").shape
    ((1, 6, 6), (1, 3, 3))
    >>> bool(np.allclose(J.block("c", "c")[0], np.diag(trace[2].f[0])))
    True
    """

    t: int
    k: int
    array: Array
    states: tuple[str, ...]
    widths: tuple[int, ...]

    def block(self, after: str, before: str) -> Array:
        """Return the derivative of one state by another, (N, ·, ·): block("c", "h") is dc_t/dh_k."""
        places = []
        for argument, state in (("after", after), ("before", before)):
            arguments.one_of("StateJacobian.block", argument, state, self.states)
            index = self.states.index(state)
            start = sum(self.widths[:index])
            places.append(slice(start, start + self.widths[index]))
        return self.array[:, places[0], places[1]]

    def singular_values(self) -> Floats:
        """Return the singular values, the largest first, (N, S)."""
        return _singular_values(self.array)

    def norm(self) -> Floats:
        """Return the largest singular value, (N,)."""
        return self.singular_values()[:, 0]

    def condition(self) -> Floats:
        """Return the largest over the smallest singular value, (N,); infinite where that is 0."""
        values = self.singular_values()
        found = np.where(np.isnan(values[:, 0]), np.nan, np.inf)
        np.divide(values[:, 0], values[:, -1], out=found, where=values[:, -1] > 0)
        return found

    def spectral_radius(self) -> Floats:
        """Return the largest absolute eigenvalue, (N,)."""
        return _where_finite(lambda array: np.abs(np.linalg.eigvals(array)).max(axis=1), self.array)


@dataclass(frozen=True)
class Bounds:
    """|P(t, k)| and what bounds it, as natural logarithms, (N,) each; see (J4) and (J5).

    Attributes
    ----------
    lowest : ndarray
        sum_j ln sigma_min(J_j).
    norm : ndarray
        ln |P(t, k)| itself.
    steps : ndarray
        sum_j ln |J_j|.
    slopes : ndarray or None
        sum_j ln(max |phi'(a_j)| |W_hh|). Of an RNN without recurrent dropout and zoneout; None of other layers.
    weights : ndarray or None
        (t - k) ln(gamma |W_hh|), gamma = 1; likewise.
    """

    lowest: Floats
    norm: Floats
    steps: Floats
    slopes: Floats | None
    weights: Floats | None


class StateJacobians:
    """The Jacobians of all steps of one direction of one layer: what `state_jacobians` returns.

    Attributes
    ----------
    array : ndarray, (T, N, S, S)
        J_t of each sequence, in the caller's order; NaN where a sequence has no step t.
    T, N, S : int
    states : tuple of str
    widths : tuple of int
    reverse : bool

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.ones((6, 1, 2)))[2]
    >>> steps = state_jacobians(rnn, trace)
    >>> P = steps.product(4, 1)  # three factors
    >>> bool(np.allclose(P.array[0], steps[4].array[0] @ steps[3].array[0] @ steps[2].array[0]))
    True
    >>> steps.product(4, 4).array[0]
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """

    def __init__(self, steps: RecordedSteps) -> None:
        self._steps = steps
        self.T: int = steps.T
        self.N, self.S = steps.N, steps.S
        self.states = steps.cell.states
        self.widths = tuple(steps.widths)
        self.reverse = steps.direction.reverse
        self._alive: NDArray[np.bool_] = steps.batch.unsorted(steps.alive, 1)
        self.array: Array = steps.batch.unsorted(rows_of_steps(steps, np.arange(self.T)), 1)

    def __len__(self) -> int:
        return self.T

    def __getitem__(self, t: int) -> StateJacobian:
        t = step_number("state_jacobians", "t", t, 0, self.T - 1)
        return self._made(t, t + 1 if self.reverse else t - 1, self.array[t])

    def _made(self, t: int, k: int, array: Array) -> StateJacobian:
        return StateJacobian(t, k, array, self.states, self.widths)

    def _between(self, where: str, t: Any, k: Any) -> tuple[int, int, range]:
        """Check t and k; return the steps whose Jacobians are the factors, from k on to t."""
        where = f"StateJacobians.{where}"
        t = step_number(where, "t", t, 0, self.T - 1)
        if self.reverse:
            k = step_number(where, "k", k, t, self.T, "at least t, the direction being reverse; T is the initial state")
            return t, k, range(k - 1, t - 1, -1)
        k = step_number(where, "k", k, -1, t, "at most t; -1 is the initial state")
        return t, k, range(k + 1, t + 1)

    def _there(self, t: int, k: int) -> NDArray[np.bool_]:
        """Return which sequences have both states, (N,)."""
        there: NDArray[np.bool_] = self._alive[t]
        return there & self._alive[k] if 0 <= k < self.T else there

    def _factors(self, factors: range) -> list[Array]:
        """Return the factors, with the identity where a sequence has no such step: its initial state comes later."""
        there = self._alive[:, :, None, None]
        return [np.where(there[j], self.array[j], np.eye(self.S)) for j in factors]

    def product(self, t: int, k: int) -> StateJacobian:
        """Return P(t, k) = ds_t/ds_k, the product of the Jacobians of the steps after k up to t.

        Parameters
        ----------
        t, k : int
            0 <= t < T and -1 <= k <= t, -1 for the initial state; in a reverse direction t <= k <= T, T for it.
        """
        t, k, factors = self._between("product", t, k)
        product: Array = np.tile(np.eye(self.S), (self.N, 1, 1))
        for factor in self._factors(factors):
            product = factor @ product
        product[~self._there(t, k)] = np.nan
        return self._made(t, k, product)

    def singular_values(self) -> Floats:
        """Return the singular values of each step, the largest first, (T, N, S); NaN where there is no step."""
        return _singular_values(self.array.reshape(-1, self.S, self.S)).reshape(self.T, self.N, self.S)

    def log_norm(self, t: int, k: int) -> Floats:
        """Return ln |P(t, k)|, (N,), also where |P| is no float: the product is scaled at each step."""
        t, k, factors = self._between("log_norm", t, k)
        product: Array = np.tile(np.eye(self.S), (self.N, 1, 1))
        log = np.zeros(self.N)
        for factor in self._factors(factors):
            product = factor @ product
            scale = np.abs(product).max(axis=(1, 2), initial=0.0)
            log += _log(scale)
            product = product / np.where(scale > 0, scale, 1.0)[:, None, None]
        log += _log(_singular_values(product)[:, 0])
        log[~self._there(t, k)] = np.nan
        return log

    def growth(self, t: int, k: int) -> Floats:
        """Return ln |P(t, k)| / (t - k), the mean growth per step, (N,). NaN where t = k."""
        t, k, factors = self._between("growth", t, k)
        log = self.log_norm(t, k)
        count = self._alive[factors].sum(axis=0) if factors else np.zeros(self.N, np.intp)
        found = np.full(self.N, np.nan)
        np.divide(log, count, out=found, where=count > 0)
        return found

    def bounds(self, t: int, k: int) -> Bounds:
        """Return ln |P(t, k)| between its bounds."""
        t, k, factors = self._between("bounds", t, k)
        norm = self.log_norm(t, k)
        lowest, steps = np.zeros(self.N), np.zeros(self.N)
        for factor in self._factors(factors):
            values = _singular_values(factor)
            lowest += _log(values[:, -1])
            steps += _log(values[:, 0])
        slopes: Floats | None = None
        weights: Floats | None = None
        masks = self._steps.recorded.masks
        if isinstance(self._steps.layer, RNN) and masks.recurrent is None and not masks.zoneout:
            log = _log(np.linalg.norm(self._steps.weights()["weight_hh"].astype(np.float64), 2))
            weights = self._alive[list(factors)].sum(axis=0) * log
            slopes = _log(np.where(self._alive, self._slopes(), 1.0))[list(factors)].sum(axis=0) + weights
        there = self._there(t, k)
        for array in (lowest, steps, slopes, weights):
            if array is not None:
                array[~there] = np.nan
        return Bounds(lowest, norm, steps, slopes, weights)

    def _slopes(self) -> Floats:
        """Return max |phi'(a_t)| of each step, (T, N), which is da_t of a gradient of ones."""
        steps = self._steps
        t, n = np.nonzero(steps.alive)
        found = np.zeros((self.T, self.N))
        found[t, n] = np.abs(steps.vjp(t, n, np.ones((len(t), self.S), steps.layer.dtype)).da).max(axis=1)
        return np.asarray(steps.batch.unsorted(found, 1))

    def __repr__(self) -> str:
        names = ", ".join(self.states)
        return f"StateJacobians of {self._steps.recorded.name}: T = {self.T}, N = {self.N}, S = {self.S} ({names})"


def jacobian(layer: Recurrent, trace: Trace, t: int, *, name: str | None = None) -> StateJacobian:
    """Return J_t, the Jacobian of the state by the state before, of one step, for each sequence.

    Parameters
    ----------
    layer : Recurrent
        Real.
    trace : Trace
        From `layer.forward`; J_t is that of the recorded states and masks.
    t : int
        0 <= t < T.
    name : str, optional
        The layer and direction, "l0_reverse" say; the last layer's forward direction where left out.

    Notes
    -----
    Cost: one backward step for each unit of the state.
    """
    steps = _steps("jacobian", layer, trace, name)
    t = step_number("jacobian", "t", t, 0, steps.T - 1)
    k = t + 1 if steps.direction.reverse else t - 1
    array: Array = steps.batch.unsorted(rows_of_steps(steps, np.array([t])), 1)[0]
    return StateJacobian(t, k, array, steps.cell.states, tuple(steps.widths))


def state_jacobians(layer: Recurrent, trace: Trace, *, name: str | None = None) -> StateJacobians:
    """Return the Jacobians of all steps, and through them their products; arguments and errors are those of `jacobian`.

    Memory: T N S^2 numbers.
    """
    return StateJacobians(_steps("state_jacobians", layer, trace, name))


def _steps(where: str, layer: Recurrent, trace: Trace, name: str | None) -> RecordedSteps:
    every = steps_of(where, layer, trace, name)
    return every[trace.top.name if name is None else name]


def rows_of_steps(steps: RecordedSteps, which: Indices) -> Array:
    """Return J_t of some steps, (len, N, S, S), in the engine's order of the sequences; NaN where there is no step.

    Row i of J_t is e_i^T J_t, what arrives when the unit vector e_i is sent back: S columns for each step and sequence,
    but for cells of which `unit_maps` makes one column for each state.
    """
    S = steps.S
    found = memory.empty((len(which), steps.N, S, S), steps.layer.dtype)
    place, n = np.nonzero(steps.alive[which])
    whole = len(place) == len(which) * steps.N
    if not whole:
        found.fill(np.nan)
    maps = unit_maps(steps, which[place], n)
    if maps is not None and whole:
        maps.write(found.reshape(-1, S, S))
        return found
    if maps is not None:
        size = max(1, CHUNK // S**2)
        for start in range(0, len(place), size):
            i, row = place[start : start + size], n[start : start + size]
            some = np.empty((len(i), S, S), found.dtype)
            maps.write(some, start)
            found[i, row] = some
        return found
    size = max(1, CHUNK // (S * max(S, steps.A)))
    for start in range(0, len(place), size):
        i, row = place[start : start + size], n[start : start + size]
        units = np.tile(np.eye(S, dtype=steps.layer.dtype), (len(i), 1))
        pulled = steps.vjp(np.repeat(which[i], S), np.repeat(row, S), units, sums=False)
        found[i, row] = pulled.dstates.reshape(len(i), S, S)
    return found


def _singular_values(array: Array) -> Floats:
    """Return singular values, (M, S) of (M, S, S); NaN where a matrix is not finite."""
    return _where_finite(lambda finite: np.linalg.svd(finite, compute_uv=False), array)


def _where_finite(function: Callable[[Array], Floats], array: Array) -> Floats:
    """Apply a function to those of M matrices that are finite; NaN for the others."""
    there = np.isfinite(array).all(axis=(1, 2))
    values = function(array[there])
    found = np.full((len(array), *values.shape[1:]), np.nan)
    found[there] = values
    return found


def _log(values: Any) -> Floats:
    """Return natural logarithms; minus infinity of 0."""
    values = np.asarray(values, np.float64)
    found = np.full(values.shape, -np.inf)
    np.log(values, out=found, where=~(values <= 0))
    return found
