"""Cheap relatives of real-time recurrent learning: what they leave out of a gradient, measured on a recorded pass.

`rnn_numpy.checks.rtrl` carries the influence matrix ds_t/dtheta forward in time, and its gradient is exact. The matrix
is what makes it dear, N S P numbers. Two ways to do with fewer, of opposite faults:

- SnAp-1 [1]_ keeps of the influence matrix what a parameter does within one step: a row of weights acts on its own unit
  alone, so that a column keeps the states of that unit (of an LSTM h and c), and J_t is reduced to its diagonal. It is
  e-prop [2]_ for these cells. No noise, but a bias: what one unit does to another is forgotten after a step. Without
  such influence, W_hh diagonal, it is exact.
- UORO [3]_ replaces the matrix by a product of two random vectors, s~ theta~^T, whose expectation it is:

      (U1)  s~_t     = rho_0 J_t s~_{t-1} + rho_1 nu           nu: signs, +1 or -1, drawn anew at each step
      (U2)  theta~_t = theta~_{t-1} / rho_0 + (dF/dtheta)^T nu / rho_1

  dF/dtheta is what the parameters do at step t itself. The gradient, sum_t <doutput_t, s~_t> theta~_t, has no bias, but
  a variance that grows with the number of states. The factors rho do not change the expectation; those here,
  rho_0 = sqrt(|theta~_{t-1}| / |J_t s~_{t-1}|) and rho_1 = sqrt(|(dF/dtheta)^T nu| / |nu|), keep both vectors equally
  long, which keeps the variance small.

Both work on a trace: nothing is learned while the gradients are taken, so that they can be compared with those of
backward, entry by entry.

References
----------
.. [1] J. Menick et al., "Practical real time recurrent learning with a sparse approximation", ICLR (2021).
.. [2] G. Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking neurons", Nature
   Communications 11 (2020).
.. [3] C. Tallec, Y. Ollivier, "Unbiased online recurrent optimization", ICLR (2018): algorithm 1, without the
   constants that it adds to the norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.forward_mode import RecordedPass, TangentSteps, UnitChanges
from rnn_numpy.engine.influence import ForwardGradients, rtrl
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.walk import Direction
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]


def snap1(layer: Recurrent, trace: Trace, doutput: ArrayLike | None, dh_n: Any = None) -> ForwardGradients:
    """Compute the gradients that SnAp-1 gives: real-time recurrent learning with a diagonal of each Jacobian alone.

    Parameters
    ----------
    layer : Recurrent
        Of one layer, one or two directions, in which a row of weights acts, within a step, on its own unit alone: RNN,
        LSTM without projection, GRU with reset="after", PeepholeLSTM.
    trace : Trace
        From `layer.forward`.
    doutput, dh_n
        As for `layer.backward`.

    Returns
    -------
    ForwardGradients
        The approximate gradients of parameters and of initial states.

    Raises
    ------
    OptionError
        The layer is a stack, or a row of its weights acts on other units, too.
    ShapeError, DTypeError
        A gradient does not have the shape or dtype of what it is the gradient of; the trace is another layer's.

    Notes
    -----
    Cost: twice that of `rtrl`, of whose influence matrix it sets the rest to 0, once it has seen that no step needs
    more: it is there to be compared, not to be fast.

    Examples
    --------
    Exact where units do not see one another:

    >>> from rnn_numpy.layers import RNN
    >>> rnn, rng = RNN(2, 3, rng=0), np.random.default_rng(1)
    >>> x, doutput = rng.normal(size=(20, 1, 2)), rng.normal(size=(20, 1, 3))
    >>> def cosine(rnn):
    ...     trace = rnn.forward(x)[2]
    ...     ours, exact = snap1(rnn, trace, doutput).grads.flat, rnn.backward(trace, doutput).grads.flat
    ...     return float(ours @ exact / np.linalg.norm(ours) / np.linalg.norm(exact))
    >>> round(cosine(rnn), 3)
    0.98
    >>> rnn.params["weight_hh_l0"] *= np.eye(3)
    >>> round(cosine(rnn), 12)
    1.0
    """
    recorded = _one_layer("snap1", layer, trace)
    kept: dict[str, list[Array]] = {}
    for name, steps in recorded.steps.items():
        changes = UnitChanges(steps)
        units = _units(changes)
        kept[name] = [units[:, None] == np.arange(width) for width in steps.widths]
        _check_local(recorded.where, layer, changes, kept[name])
    return rtrl(layer, trace, doutput, dh_n, kept=kept)


def _one_layer(where: str, layer: Recurrent, trace: Trace) -> RecordedPass:
    """Return the recorded pass of a layer, which must be a single one."""
    recorded = RecordedPass(where, layer, trace)
    if layer.num_layers > 1:
        raise OptionError(f"{where}: layer must have one layer; got num_layers = {layer.num_layers}")
    return recorded


def _units(changes: UnitChanges) -> Array:
    """Return the unit to which each change belongs, (K,): gates are blocks of H rows, row r of each is unit r's."""
    H, units = changes.steps.layer.hidden_size, np.empty(changes.count, np.intp)
    for place, shape in changes.places.values():
        units[place] = np.repeat(np.arange(shape[0]) % H, (place.stop - place.start) // shape[0])
    for place in changes.initial.values():
        units[place] = np.arange(place.stop - place.start)
    return units


def _check_local(where: str, layer: Recurrent, changes: UnitChanges, kept: list[Array]) -> None:
    """Raise unless a parameter acts, within a step, on its own unit alone."""
    steps, tangents = changes.steps, changes.tangents()
    nothing = tangents.initial([None] * len(kept))
    for t in steps.order():
        arrays = tangents.begin(nothing)
        changes.enter(t, tangents, arrays)
        for found, own in zip(tangents.step(t, arrays), kept, strict=True):
            if np.any(found.reshape(steps.N, *own.shape)[:, ~own]):
                raise OptionError(
                    f"{where}: in this {type(layer).__name__} a row of weights acts on other units within a step, so "
                    "that there is no diagonal to keep; take an RNN, an LSTM without projection, a GRU with "
                    "reset='after' or a PeepholeLSTM"
                )


# ---------------------------------------------------------------------------------------------- UORO


@dataclass(frozen=True)
class UoroResult:
    """What `uoro` returns.

    Attributes
    ----------
    grads : Parameters
        The mean of all draws, under the parameters' names.
    samples : ndarray, (draws, P)
        The gradient of each draw, in the order of `grads.flat`.
    """

    grads: Parameters
    samples: Array

    @property
    def standard_error(self) -> Array:
        """The standard error of each entry of `grads.flat`, (P,); NaN of a single draw."""
        draws = len(self.samples)
        if draws == 1:
            return np.full(self.samples.shape[1], np.nan)
        return np.asarray(self.samples.std(axis=0, ddof=1) / np.sqrt(draws))


def uoro(
    layer: Recurrent,
    trace: Trace,
    doutput: ArrayLike | None,
    dh_n: Any = None,
    *,
    draws: int = 1,
    rng: np.random.Generator | int | None = None,
) -> UoroResult:
    """Estimate the parameters' gradients by unbiased online recurrent optimisation.

    Parameters
    ----------
    layer : Recurrent
        Real, of one layer, one or two directions, whose parameters' gradients are products: RNN, LSTM, GRU.
    trace : Trace
        From `layer.forward`.
    doutput, dh_n
        As for `layer.backward`.
    draws : int
        Number of independent estimates, all made at once.
    rng : numpy.random.Generator, int or None
        Draws the signs.

    Raises
    ------
    OptionError
        The layer is a stack, or its formulas sum the gradient of a further parameter themselves.
    ShapeError, DTypeError
        A gradient does not have the shape or dtype of what it is the gradient of; the layer is complex; the trace is
        another layer's.

    Notes
    -----
    Cost: per step, draw and sequence a forward-mode step, a backward step and P numbers. Memory: a few times
    draws * N * P numbers. Each sequence has vectors of its own.

    Examples
    --------
    >>> from rnn_numpy.layers import RNN
    >>> rnn, rng = RNN(2, 3, rng=0), np.random.default_rng(1)
    >>> output, h_n, trace = rnn.forward(rng.normal(size=(10, 1, 2)))
    >>> doutput = rng.normal(size=output.shape)
    >>> estimate, exact = uoro(rnn, trace, doutput, draws=2000, rng=0), rnn.backward(trace, doutput).grads
    >>> bool((abs(estimate.grads.flat - exact.flat) < 4 * estimate.standard_error).all())
    True
    """
    recorded = _one_layer("uoro", layer, trace)
    where, cell = recorded.where, layer.cell
    if layer.dtype.kind == "c":
        raise DTypeError(f"{where}: layer must be real, float32 or float64; got {layer.dtype}")
    if cell.own_symbols:
        raise OptionError(
            f"{where}: the gradients of all parameters must be products, so that each draw has its own; "
            f"{', '.join(cell.own_symbols.values())} of {type(layer).__name__} has none"
        )
    count = arguments.positive_int(where, "draws", draws)
    signs = arguments.generator(where, rng)
    top, dfinals = recorded.gradient_in(doutput), recorded.edge.states_in(recorded.where, "dh_n", dh_n)
    found: dict[str, Array] = {}
    for direction in recorded.layer.stack[0]:
        estimates = _estimates(recorded, direction, top, dfinals, count, signs)
        found.update({f"{name}_{direction.name}": estimate for name, estimate in estimates.items()})
    samples = np.concatenate([found[name].reshape(count, -1) for name in layer.params], axis=1)
    return UoroResult(Parameters(layer.params.shapes, layer.dtype, samples.mean(axis=0)), samples)


def _estimates(
    recorded: RecordedPass,
    direction: Direction,
    top: Array | None,
    dfinals: list[Array | None],
    draws: int,
    signs: np.random.Generator,
) -> dict[str, Array]:
    """Return the estimates of one direction's parameters, (draws, *shape), without suffix. Column: n * draws + draw."""
    steps, N = recorded.steps[direction.name], recorded.batch.N
    tangents = TangentSteps(steps, draws)
    n = np.repeat(np.arange(N), draws)
    state = np.zeros((N * draws, steps.S), recorded.layer.dtype)  # s~
    theta = {name: np.zeros((N * draws, *array.shape), state.dtype) for name, array in steps.weights().items()}
    sums = {name: np.zeros_like(array) for name, array in theta.items()}

    def add(weights: Array) -> None:
        for name, array in theta.items():
            sums[name][: len(weights)] += _times(array[: len(weights)], weights)

    for t in steps.order():
        alive = tangents.alive(t)
        carried = np.concatenate(tangents.step(t, tangents.begin(steps.split(state))), axis=1)[:alive]  # J s~
        nu = signs.choice(np.array([-1, 1], state.dtype), size=carried.shape)
        step = steps.column_gradients(steps.vjp(np.full(alive, t), n[:alive], nu))
        latest = {name: array[:alive] for name, array in theta.items()}
        rho_0 = _balance(_length(latest), np.linalg.norm(carried, axis=1))
        rho_1 = _balance(_length(step), np.linalg.norm(nu, axis=1))
        state[:alive] = carried * rho_0[:, None] + nu * rho_1[:, None]  # U1
        for name, array in latest.items():
            array[...] = _times(array, 1 / rho_0) + _times(step[name], 1 / rho_1)  # U2
        if top is not None:
            doutput = top[t, n[:alive], direction.columns]
            add((doutput * state[:alive, : steps.widths[0]]).sum(axis=1))
    for part, dfinal in zip(steps.split(state), dfinals, strict=True):
        if dfinal is not None:
            add((dfinal[direction.row][n] * part).sum(axis=1))
    return {name: array.reshape(N, draws, *array.shape[1:]).sum(axis=0) for name, array in sums.items()}


def _times(array: Array, factors: Array) -> Array:
    """Multiply each (M, ...) of an array with its factor, (M,)."""
    return np.asarray(array * factors.reshape(-1, *[1] * (array.ndim - 1)))


def _length(arrays: dict[str, Array]) -> Array:
    """Return the Euclidean norms over all arrays, (M,)."""
    norms = [np.linalg.norm(array.reshape(len(array), -1), axis=1) for array in arrays.values()]
    return np.asarray(np.hypot.reduce(norms))


def _balance(one: Array, other: Array) -> Array:
    """Return sqrt(one / other), the factor that makes both norms equal; 1 where one of them is 0."""
    both = (one > 0) & (other > 0)
    return np.asarray(np.sqrt(np.where(both, one, 1) / np.where(both, other, 1)))
