r"""The cliff: the error of a recurrent net with one unit, as a landscape over its two parameters.

The smallest net whose gradient explodes [1]_: one sigmoid unit, no input, and a loss at the last step alone. From
x_0 = 0.5, through T = 50 steps,

    (F1)  s_t = sigmoid(x_t)
    (F2)  x_{t+1} = w s_t + b                               t = 0 ... T-1
    (F3)  E = (s_T - target)^2                              target 0.7

and backward, each line undoing one of these,

    (B3)  ds_T = 2 (s_T - target)
    (B1)  dx_{t+1} = ds_{t+1} s_{t+1} (1 - s_{t+1})
    (B2)  dw += dx_{t+1} s_t,   db += dx_{t+1},   ds_t = w dx_{t+1}

It shows what a big net hides, since everything about it is known in closed form.

Where the cliff comes from
--------------------------
*Fixed points* solve x = w s(x) + b. Of one, w s (1 - s) is the *multiplier*: the factor by which a small distance from
it changes at each step, and so the factor that a gradient takes back in time. Below 1 in size the point is stable. With
w > 4 and b between the two *folds* there are three: two stable ones and an unstable one between. A fold is where the
multiplier is 1:

    s = (1 +- r)/2,   r = sqrt(1 - 4/w),   x = +- ln((1 + r)/(1 - r)),   b = x - w s

and since 1 - r^2 = 4/w, x = +- (2 ln(1 + r) + ln(w/4)), which loses no digits however large w is. For w = 5,
r = 1/sqrt(5) and x = +- 2 ln(golden ratio): b = -2.655610 and -2.344390. For a tanh unit, x = w tanh(x) + b, the same
with r = sqrt(1 - 1/w), x = +- (ln(1 + r) + ln(w)/2), tanh(x) = +- r, and w > 1.

Where the unstable point lies at x_0, the net starts on a ridge between two basins: the least change of b sends it one
way or the other. That is a straight line in the plane, b = x_0 - w s(x_0), and it is the cliff (`cliff_line`) from
w = 1/s'(x_0) = 4.255 on. On it x_t = x_0 for all t, so that with the multiplier m = w s'(x_0)

    db = 2 (s - target) s' (m^T - 1)/(m - 1),   dw = s db,   s = s(x_0), s' = s (1 - s)

grows as m^T. A little below the line, where the state leaves for the far basin, it is up to ten times as large: 4e3 at
w = 4.94, 1e13 at w = 8. The wall is the narrower the higher it is, about 1/m^T wide, so the largest gradient of a grid
is that of the point that happens to lie closest to it, and says as much about the grid as about the net. The median
hardly depends on the grid.

References
----------
.. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
   arXiv:1211.5063: figure 6 shows the surface; section 2.2 reads it as a dynamical system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, ShapeError
from rnn_numpy.lab.gates import sech2
from rnn_numpy.training import SGD, clip_grad_norm

Array = NDArray[Any]
Floats = NDArray[np.float64]

STEPS, START, TARGET = 50, 0.5, 0.7
UNITS = ("sigmoid", "tanh")
EPS, TINY = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).tiny)


# -------------------------------------------------------------------------------------------------------- the landscape


class CliffGradient(NamedTuple):
    """Error and gradient at some points, arrays of the shape that w and b broadcast to."""

    error: Array
    dw: Array
    db: Array


def cliff_gradient(
    w: ArrayLike, b: ArrayLike, steps: int = STEPS, start: float = START, target: float = TARGET
) -> CliffGradient:
    """Return the error of the one-unit net and its gradient, point by point. The module has the formulas.

    Parameters
    ----------
    w, b : array_like
        Broadcast against each other. Complex ones are allowed, for the complex-step check of the gradient.
    steps : int
        T, at least 1.
    start : float
        x_0.
    target : float

    Returns
    -------
    CliffGradient
        (error, dw, db).

    Notes
    -----
    Memory: 2 T + 2 numbers per point, since the backward pass needs all states.

    Examples
    --------
    >>> error, dw, db = cliff_gradient(5.0, -2.6)
    >>> print(f"{error:.4f} {dw:.4f} {db:.4f}")
    0.0121 0.1195 0.1476
    """
    where = "cliff_gradient"
    steps = arguments.positive_int(where, "steps", steps)
    start, target = arguments.real_number(where, "start", start), arguments.real_number(where, "target", target)
    w, b = np.broadcast_arrays(_numbers(where, "w", w), _numbers(where, "b", b))
    x = np.full(w.shape, start, np.result_type(w, b))
    s, slopes = [_sigmoid(x)[0]], []
    for _ in range(steps):
        value, slope = _sigmoid(w * s[-1] + b)  # F2, F1
        s.append(value)
        slopes.append(slope)
    error = (s[-1] - target) ** 2  # F3
    ds = 2 * (s[-1] - target)  # B3
    dw, db = np.zeros_like(x), np.zeros_like(x)
    for t in reversed(range(steps)):
        dx = ds * slopes[t]  # B1
        dw += dx * s[t]  # B2
        db += dx
        ds = w * dx
    return CliffGradient(error, dw[()], db[()])  # scalars where w and b are


@dataclass(frozen=True)
class Cliff:
    """Error and gradient on a grid.

    Parameters
    ----------
    w : ndarray, (m,)
    b : ndarray, (n,)
    error, dw, db : ndarray, (n, m)
        Row i, column j: at b[i], w[j].
    steps : int
    start, target : float
        As in `cliff`.
    """

    w: Floats
    b: Floats
    error: Floats
    dw: Floats
    db: Floats
    steps: int
    start: float
    target: float

    @property
    def gradient_norm(self) -> Floats:
        """(n, m) the length of (dw, db)."""
        return np.asarray(np.hypot(self.dw, self.db))

    @property
    def steepest(self) -> tuple[float, float, float]:
        """(w, b, norm) where the gradient of this grid is largest; a finer grid has a larger one."""
        norms = self.gradient_norm
        row, column = np.unravel_index(int(norms.argmax()), norms.shape)
        return float(self.w[column]), float(self.b[row]), float(norms[row, column])

    @property
    def ratio(self) -> float:
        """The largest gradient of the grid over the median one."""
        norms = self.gradient_norm
        return float(norms.max() / np.median(norms))


def cliff(w: ArrayLike, b: ArrayLike, steps: int = STEPS, start: float = START, target: float = TARGET) -> Cliff:
    """Return error and gradient of the one-unit net on a grid.

    Parameters
    ----------
    w : array_like, (m,)
    b : array_like, (n,)
    steps, start, target
        As in `cliff_gradient`.

    Notes
    -----
    0.1 s and 23 MB for 201 x 141 points and 50 steps. There the backward pass agrees with the complex step to 1e-14 of
    each entry's size; in general as far as the states do: next to the cliff a rounding error of a state grows as the
    gradient does, so two machines may disagree about them, and in the valley s_T - target cancels.

    Examples
    --------
    >>> grid = cliff(np.linspace(2, 8, 201), np.linspace(-3.5, 0, 141))
    >>> print("steepest at w = %.2f, b = %.3f: %.0f" % grid.steepest)
    steepest at w = 4.94, b = -2.575: 3320
    >>> print(f"median {np.median(grid.gradient_norm):.3f}, ratio {grid.ratio:.1e}")
    median 0.037, ratio 9.0e+04
    """
    w, b = _vector("cliff", "w", w), _vector("cliff", "b", b)
    error, dw, db = cliff_gradient(w[None, :], b[:, None], steps, start, target)
    return Cliff(w, b, error, dw, db, steps, start, target)


def cliff_line(w: ArrayLike, start: float = START) -> Floats:
    """Return b, of the shape of w, at which x_0 = `start` is a fixed point: the cliff, where w > 1/s'(x_0).

    >>> cliff_line(4.94).round(5)
    np.float64(-2.57495)
    """
    start = arguments.real_number("cliff_line", "start", start)
    line: Floats = start - _numbers("cliff_line", "w", w) * _sigmoid(np.asarray(start))[0]
    return line


# -------------------------------------------------------------------------------------------------------------- descent


@dataclass(frozen=True)
class Descent:
    """A descent of K updates.

    Parameters
    ----------
    path : ndarray, (K+1, 2)
        (w, b) before each update, and after the last.
    errors : ndarray, (K+1,)
    norms : ndarray, (K+1,)
        Of the gradient at these points, before clipping.
    clipped : ndarray of bool, (K,)
        True where clipping shortened the update.
    """

    path: Floats
    errors: Floats
    norms: Floats
    clipped: NDArray[np.bool_]

    @property
    def longest(self) -> float:
        """The length of the longest update."""
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).max())


def descend(
    w: float,
    b: float,
    lr: float,
    updates: int,
    clip: float | None = None,
    steps: int = STEPS,
    start: float = START,
    target: float = TARGET,
) -> Descent:
    """Go down the landscape by gradient descent, with `SGD` and, if asked, `clip_grad_norm`.

    Parameters
    ----------
    w, b : float
        Where to begin.
    lr : float
        Learning rate, greater than 0.
    updates : int
        K, at least 1.
    clip : float, optional
        The largest norm that a gradient keeps; none is clipped where left out.
    steps, start, target
        As in `cliff_gradient`.

    Examples
    --------
    One update that meets the wall, free and clipped:

    >>> free, short = descend(4.94, -2.575, 0.1, 1), descend(4.94, -2.575, 0.1, 1, clip=1.0)
    >>> print(f"{free.longest:.0f} {short.longest:.2f}")
    332 0.10
    """
    where = "descend"
    updates = arguments.positive_int(where, "updates", updates)
    point = [arguments.real_number(where, "w", w), arguments.real_number(where, "b", b)]
    params = Parameters({"w": (), "b": ()}, np.float64, np.array(point))
    grads = params.zeros_like()
    optimizer = SGD(params, lr)
    path, errors, norms, clipped = [params.flat.copy()], [], [], []
    for update in range(updates + 1):
        error, dw, db = cliff_gradient(params["w"], params["b"], steps, start, target)
        errors.append(float(error))
        norms.append(float(np.hypot(dw, db)))
        if update < updates:
            grads.flat[:] = dw, db
            clipped.append(clip is not None and clip_grad_norm(grads, clip).engaged)
            optimizer.step(grads)
            path.append(params.flat.copy())
    return Descent(np.array(path), np.array(errors), np.array(norms), np.array(clipped))


# --------------------------------------------------------------------------------------------------------- fixed points


def fold_points(w: ArrayLike, unit: str = "sigmoid") -> tuple[Floats, Floats]:
    """Return the two b at which a stable and an unstable fixed point meet, in closed form.

    Parameters
    ----------
    w : array_like
    unit : {"sigmoid", "tanh"}

    Returns
    -------
    low, high : ndarray
        Of the shape of w. Between them there are three fixed points. NaN where w is below 4 (sigmoid) or 1 (tanh): then
        there is one, whatever b.

    Examples
    --------
    >>> low, high = fold_points(5.0)
    >>> print(f"{low:.6f} {high:.6f}")
    -2.655610 -2.344390
    """
    _, x = _folds("fold_points", unit, w)
    numbers = np.asarray(w, np.float64)
    return x - numbers * _function(unit, x)[0], -x - numbers * _function(unit, -x)[0]


@dataclass(frozen=True)
class Bifurcation:
    """Fixed points along a line of parameters.

    Parameters
    ----------
    parameter : {"w", "b"}
        Which one varies.
    values : ndarray, (n,)
        Of it.
    other : float
        The one that stays.
    unit : {"sigmoid", "tanh"}
    points : ndarray, (n, 3)
        The fixed points x, one column for each branch, from low to high; NaN where a branch has none.
    multipliers : ndarray, (n, 3)
        Of each, w f'(x).
    """

    parameter: str
    values: Floats
    other: float
    unit: str
    points: Floats
    multipliers: Floats

    @property
    def stable(self) -> NDArray[np.bool_]:
        """(n, 3) True where there is a point that attracts the states next to it."""
        return np.abs(self.multipliers) < 1

    @property
    def count(self) -> NDArray[np.intp]:
        """(n,) the number of fixed points: 1 or 3; 2 on a fold, if rounding lets one be hit."""
        return np.asarray(np.isfinite(self.points).sum(axis=1))


def bifurcation(w: ArrayLike, b: ArrayLike, unit: str = "sigmoid") -> Bifurcation:
    """Find all fixed points x = w f(x) + b over a range of w or of b.

    Parameters
    ----------
    w, b : array_like
        One of them a vector, (n,), the other a number.
    unit : {"sigmoid", "tanh"}
        f.

    Notes
    -----
    x - w f(x) - b rises but between the two points where w f'(x) = 1, so each of the three stretches holds at most one
    zero, and the signs at their ends say whether it does: none is missed. Brent's method finds it to the rounding of w
    and b.

    Examples
    --------
    >>> found = bifurcation(5.0, [-3.0, -2.5, -2.0])
    >>> found.count.tolist()
    [1, 3, 1]
    >>> found.points[1].round(4), found.stable[1].tolist()
    (array([-1.776,  0.   ,  1.776]), [True, False, True])
    """
    where = "bifurcation"
    ws, bs = np.asarray(w, np.float64), np.asarray(b, np.float64)
    if sorted([ws.ndim, bs.ndim]) != [0, 1]:
        raise ShapeError(
            f"{where}: one of w and b must be a vector (n,), the other a number; got shapes {ws.shape} and {bs.shape}"
        )
    for name, array in (("w", ws), ("b", bs)):
        arguments.finite(where, name, np.atleast_1d(array), "i")
    varied = "w" if ws.ndim else "b"
    critical, turns = _folds(where, unit, ws)
    ws, bs, turns = np.broadcast_arrays(ws, bs, turns)
    points = np.full((len(ws), 3), np.nan)
    # Where there is one fixed point whatever b, it belongs to the branch that goes on beyond the critical w.
    single, centre = 1, float(_function(unit, np.zeros(()))[0])
    if varied == "w":
        single += int(np.sign(bs[0] + critical * centre) or np.sign(centre))
    brentq = optional_import("scipy.optimize", "a bifurcation diagram").brentq
    for row, w_, b_, turn in zip(points, ws.tolist(), bs.tolist(), turns.tolist(), strict=True):

        def height(x: float, w_: float = w_, b_: float = b_) -> float:
            return x - w_ * float(_function(unit, np.asarray(x))[0]) - b_

        # |f| is at most 1: the height has its final sign beyond these.
        low, high = b_ - abs(w_) - 1, b_ + abs(w_) + 1
        if not turn > 0:
            stretches = {single: (low, high)}
        else:
            first, second = height(-turn), height(turn)
            stretches = {0: (low, -turn)} if first >= 0 else {}
            stretches |= {1: (-turn, turn)} if first > 0 > second else {}
            stretches |= {2: (turn, high)} if second <= 0 else {}
        for branch, (left, right) in stretches.items():
            row[branch] = brentq(height, left, right, xtol=EPS / 4 * (abs(w_) + abs(b_)) + TINY, rtol=4 * EPS)
    multipliers = ws[:, None] * _function(unit, points)[1]
    values, other = (ws, bs) if varied == "w" else (bs, ws)
    return Bifurcation(varied, values.copy(), float(other.flat[0]), unit, points, multipliers)


def _folds(where: str, unit: str, w: ArrayLike) -> tuple[float, Floats]:
    """Return the w from which on there are folds, and x > 0 with w f'(x) = 1, of w's shape, NaN below that w."""
    arguments.one_of(where, "unit", unit, UNITS)
    numbers = _numbers(where, "w", w)
    if numbers.dtype.kind == "c":
        raise DTypeError(f"{where}: w must be real; got dtype {numbers.dtype}")
    critical = 4.0 if unit == "sigmoid" else 1.0  # 1 over the steepest slope of f
    folded = numbers >= critical
    u = np.where(folded, numbers, critical) / critical
    # ln((1 + r)/(1 - r)), or half of it, with 1 - r^2 = 1/u; log1p, since u may be close to 1.
    x = 2 * np.log1p(np.sqrt((u - 1) / u)) + np.log1p(u - 1)
    return critical, np.where(folded, x if unit == "sigmoid" else x / 2, np.nan)


def _function(unit: str, x: Floats) -> tuple[Floats, Floats]:
    """Return the unit's function and its slope at real x."""
    return _sigmoid(x) if unit == "sigmoid" else (np.tanh(x), sech2(x))


def _sigmoid(x: Array) -> tuple[Array, Array]:
    """Return s(x) and s'(x) = s (1 - s), to full relative accuracy also where s is close to 0 or 1; complex-safe."""
    right = x.real >= 0
    small = np.exp(np.where(right, -x, x))
    return np.where(right, 1, small) / (1 + small), small / (1 + small) ** 2


def _numbers(where: str, name: str, value: ArrayLike) -> Array:
    """Return a float64 or complex128 array of finite numbers."""
    array = arguments.as_array(where, name, value)
    if array.dtype.kind not in "iufc":
        raise DTypeError(f"{where}: {name} must be made of numbers; got dtype {array.dtype}")
    arguments.finite(where, name, np.atleast_1d(array))
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _vector(where: str, name: str, value: ArrayLike) -> Floats:
    array = _numbers(where, name, value)
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(f"{where}: {name} must have shape (n,) with n >= 1; got {array.shape}")
    if array.dtype.kind == "c":
        raise DTypeError(f"{where}: {name} must be real; got dtype {array.dtype}")
    return array
