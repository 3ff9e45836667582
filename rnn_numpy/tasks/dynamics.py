r"""Tasks made of dynamical systems, each with the loss of a linear fit to its past.

Targets come in standard units, (y - mean) / std with the mean and standard deviation of the stationary system, measured
once from a draw with a fixed seed. The mean squared error is then the square of the NRMSE that papers report.

NARMA-10 [1]_. A system of order ten that an input u drives, u independent and uniform in [0, 0.5]:

    y_{t+1} = 0.3 y_t + 0.05 y_t (y_t + ... + y_{t-9}) + 1.5 u_{t-9} u_t + 0.1

From u_0 ... u_t, say y_{t+1}. It diverges for some inputs (of sequences of 2000 steps one in a hundred): those whose y
passes 2, which no other does, are drawn anew.

Mackey-Glass [2]_. A delay differential equation, chaotic for tau = 17:

    dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t)

One sample per unit of time; from x_0 ... x_t say x_{t+horizon}. Over an interval of length tau the first term, f, is
known beforehand, and the rest is linear. With f interpolated linearly between the grid points, a step dt is then exact:

    x(t + dt) = a x(t) + w0 f(t) + w1 f(t + dt),   a = e^{-0.1 dt},
    w1 = (1 - (1 - a) / (0.1 dt)) / 0.1,   w0 = (1 - a) / 0.1 - w1

of second order in dt, and a cumulative sum does a whole interval at once. Sequences begin at random constants, and the
first 300 units of time are left out.

Baselines. y_{t+1}, or x_{t+horizon}, is fitted by least squares to a constant and the last k inputs, on one draw with a
fixed seed, and measured on another. As NRMSE: NARMA-10 with k = 1, 10, 20 gives .87, .59 and .40; Mackey-Glass at a
horizon of 17 with k = 20 gives .51. Neither has an agreed published baseline. The first steps, at which not all k
inputs are there, do not count, neither for the fit nor for a network: `mask` is False for them. A task counts as solved
where a network beats the linear fit.

References
----------
.. [1] A. F. Atiya, A. G. Parlos, "New results on recurrent network training: unifying the algorithms and accelerating
   convergence", IEEE Trans. Neural Networks 11 (2000).
.. [2] M. C. Mackey, L. Glass, "Oscillation and chaos in physiological control systems", Science 197 (1977).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import OptionError
from rnn_numpy.tasks.task import Batch, SequenceTask, sizes

Array = NDArray[Any]

ORDER = 10  # of NARMA-10
SETTLING = 200  # steps of NARMA-10 before the first one that is shown
DIVERGED = 2.0
TAU, DECAY, GROWTH, POWER = 17, 0.1, 0.2, 10  # of Mackey-Glass
GRID = 10  # points per unit of time
TRANSIENT = 300  # units of time
# Draws from which moments and fits are taken: 500 sequences of 400 steps.
FIT_BATCH, FIT_STEPS = 500, 400


class LinearlyFitted(SequenceTask):
    """Base of tasks whose baseline is a linear fit to the last `taps` inputs."""

    taps: int
    outputs: ClassVar[int] = 1
    inputs: ClassVar[int] = 1
    loss: ClassVar[str] = "mse"
    reads: ClassVar[str] = "all"

    @functools.cached_property
    def baseline(self) -> float:
        """Mean squared error of the linear fit, in units of the target's variance: the square of its NRMSE."""
        return linear_baseline(replace(cast(Any, self), length=FIT_STEPS + self.taps), self.taps)

    def _counted(self, batch: int) -> NDArray[np.bool_]:
        """Return the mask: the steps at which all taps are there."""
        return np.broadcast_to(np.arange(self.steps)[:, None] >= self.taps - 1, (self.steps, batch)).copy()


@dataclass(frozen=True)
class NARMA10(LinearlyFitted):
    """Follow a nonlinear system of order ten from its input.

    x (T, N, 1) is the input u, from U(0, 0.5); the target (T, N, 1) is y_{t+1} in standard units.

    Parameters
    ----------
    length : int
        T, at least taps.
    taps : int
        Inputs that the linear baseline uses.

    Examples
    --------
    >>> [round(NARMA10(100, taps).baseline ** 0.5, 2) for taps in (10, 20)]  # NRMSE
    [0.59, 0.4]
    """

    length: int
    taps: int = 20

    def __post_init__(self) -> None:
        _sizes("NARMA10", self.length, self.taps)

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw sequences; see the class."""
        batch, rng = sizes("NARMA10.draw", batch, rng)
        mean, std = _narma_moments()
        u, y = narma10(self.length, batch, rng)
        return Batch(u[:, :, None], ((y - mean) / std)[:, :, None], self._counted(batch))


@dataclass(frozen=True)
class MackeyGlass(LinearlyFitted):
    """Forecast a chaotic series.

    x (T, N, 1) is the series, and the target (T, N, 1) the series `horizon` units of time later, both in standard
    units.

    Parameters
    ----------
    length : int
        T, at least taps.
    horizon : int
        How far ahead to forecast, at least 1. At 1 a linear fit is off by a thousandth; there is nothing to learn.
    taps : int
        Inputs that the linear baseline uses.

    Examples
    --------
    >>> [round(MackeyGlass(100, horizon).baseline ** 0.5, 2) for horizon in (6, 17)]  # NRMSE
    [0.11, 0.51]
    """

    length: int
    horizon: int = TAU
    taps: int = 20

    def __post_init__(self) -> None:
        _sizes("MackeyGlass", self.length, self.taps)
        arguments.positive_int("MackeyGlass", "horizon", self.horizon)

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw sequences; see the class."""
        batch, rng = sizes("MackeyGlass.draw", batch, rng)
        mean, std = _mackey_glass_moments()
        start = rng.uniform(0.5, 1.3, batch)
        series = (mackey_glass(TRANSIENT + self.length + self.horizon, start)[TRANSIENT:] - mean) / std
        x, target = series[: self.length], series[self.horizon :]
        return Batch(x[:, :, None], target[:, :, None], self._counted(batch))


def narma10(length: int, batch: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return inputs u_t and outputs y_{t+1} of NARMA-10, each (length, batch), after it has settled.

    Row t of y is what follows from row t of u and those before.
    """
    total = SETTLING + length
    u, y = np.empty((total, batch)), np.empty((total, batch))
    missing = np.arange(batch)
    while missing.size:
        u[:, missing] = rng.uniform(0, 0.5, (total, missing.size))
        y[:, missing] = _narma_response(u[:, missing])
        missing = missing[~(y[:, missing].max(axis=0) <= DIVERGED)]
    return u[SETTLING:], y[SETTLING:]


def _narma_response(u: Array) -> Array:
    """Return y_{t+1} for inputs u_t, (T, N), from y = 0; what diverges stays at a number above DIVERGED."""
    steps, batch = u.shape
    y = np.zeros((steps + ORDER, batch))  # row t + ORDER is y_{t+1}; those before the start are 0
    for t in range(steps):
        past = y[t : t + ORDER]
        delayed = u[t - ORDER + 1] if t >= ORDER - 1 else 0.0
        y_t = past[-1]
        y_next = 0.3 * y_t + 0.05 * y_t * past.sum(axis=0) + 1.5 * delayed * u[t] + 0.1
        np.minimum(y_next, 2 * DIVERGED, out=y[t + ORDER])
    return y[ORDER:]


def mackey_glass(length: int, start: Array, grid: int = GRID) -> Array:
    """Solve the Mackey-Glass equation from constant histories; return (length, N).

    Parameters
    ----------
    length : int
        Samples, at t = 1, 2, ..., length.
    start : ndarray, (N,)
        x(t) for t <= 0.
    grid : int
        Points per unit of time at which it is solved. The error is of second order in 1/grid, as long as chaos has not
        amplified it.

    Examples
    --------
    >>> mackey_glass(60, np.array([1.2]))[[0, 29, 59], 0].round(3)
    array([1.118, 1.024, 0.829])
    """
    points, dt = TAU * grid, 1 / grid
    a = math.exp(-DECAY * dt)
    w1 = (1 - (1 - a) / (DECAY * dt)) / DECAY
    w0 = (1 - a) / DECAY - w1
    decay = a ** np.arange(1, points + 1)[:, None]
    history = np.repeat(np.asarray(start, np.float64)[None], points + 1, axis=0)
    pieces: list[Array] = []
    for _ in range(math.ceil(length / TAU)):
        f = GROWTH * history / (1 + history**POWER)
        driven = w0 * f[:-1] + w1 * f[1:]
        # x after n steps is a^n (x_0 + sum over k <= n of driven_k a^-k).
        piece = decay * (history[-1] + np.cumsum(driven / decay, axis=0))
        history = np.concatenate([history[-1:], piece])
        pieces.append(piece)
    return np.concatenate(pieces)[grid - 1 :: grid][:length]


@functools.cache
def _narma_moments() -> tuple[float, float]:
    _, y = narma10(FIT_STEPS, FIT_BATCH, np.random.default_rng(0))
    return float(y.mean()), float(y.std())


@functools.cache
def _mackey_glass_moments() -> tuple[float, float]:
    start = np.random.default_rng(0).uniform(0.5, 1.3, FIT_BATCH)
    x = mackey_glass(TRANSIENT + FIT_STEPS, start)[TRANSIENT:]
    return float(x.mean()), float(x.std())


@functools.cache
def linear_baseline(task: SequenceTask, taps: int, seed: int = 0) -> float:
    """Fit the targets of a task that reads all steps to its last inputs; return the mean squared error on a fresh draw.

    Parameters
    ----------
    task : SequenceTask
        With one input and one output.
    taps : int
        Inputs used, x_t ... x_{t-taps+1}, beside a constant.
    seed : int
        Of the two draws of 500 sequences each.
    """
    rng = np.random.default_rng(seed)
    design, target = _design(task.draw(FIT_BATCH, rng), taps)
    weights = np.linalg.lstsq(design, target, rcond=None)[0]
    design, target = _design(task.draw(FIT_BATCH, rng), taps)
    return float(np.mean((design @ weights - target) ** 2))


def _design(batch: Batch, taps: int) -> tuple[Array, Array]:
    """Return rows of 1 and the last inputs, and what they are to give."""
    x, target = batch.x[:, :, 0], batch.target[:, :, 0]
    steps = len(x)
    columns = [x[taps - 1 - lag : steps - lag].ravel() for lag in range(taps)]
    return np.stack([np.ones(columns[0].size), *columns], axis=1), target[taps - 1 :].ravel()


def _sizes(where: str, length: int, taps: int) -> None:
    arguments.positive_int(where, "length", length)
    arguments.positive_int(where, "taps", taps)
    if length < taps:
        raise OptionError(
            f"{where}: length must be at least taps = {taps}, the steps before the first that counts; got {length}"
        )
