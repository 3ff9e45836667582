r"""Tests of a gradient along random directions: Taylor's theorem, and the transpose of a linear map.

Let v be a direction, e a small number, g what claims to be the gradient of L and H the Hessian. Then, as e is halved,

    R1(e) = | L(p + ev) - L(p) - e <g, v> |                        falls by 4, a rate of 2
    R2(e) = | (L(p + ev) - L(p - ev)) / 2 - e <g, v> |             falls by 8, a rate of 3: even terms cancel
    R3(e) = | L(p + ev) - L(p) - e <g, v> - e^2/2 <v, Hv> |        falls by 8, a rate of 3

A wrong gradient leaves a term e <error, v>, which falls by 2 only, and rules as e gets small. R2 begins smaller than
R1, so that it lays bare much smaller errors: a millionth of the gradient, where R1 shows a hundredth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.checks.oracles.function import EPS, Array, DirectedLine, Function, Loss, checked_direction, inner, norm
from rnn_numpy.core import arguments
from rnn_numpy.errors import GradientCheckError

# Steps .01, .005, ... relative to the size of the arrays.
FIRST_STEP = 0.01
STEPS = 10

# Residuals below this share of |L| are rounding errors, and their rates mean nothing; more, where L is a difference of
# larger numbers.
FLOOR = 1e-13

# How far below its order a rate may stay. Of a right gradient the last rates are within a few hundredths; a term of
# first order that is as large as the rest lowers them by 0.6 and more.
SLACK = 0.3

KINDS = {"first": 2, "odd": 3, "second": 3}


@dataclass(frozen=True)
class TaylorResult:
    """What `taylor_test` returns.

    Attributes
    ----------
    steps : tuple of float
        e, largest first.
    residuals : dict of str to ndarray, (directions, steps)
        "first" (R1), "odd" (R2) and, with a Hessian, "second" (R3).
    rates : dict of str to ndarray, (directions, steps - 1)
        log2 of how much each residual falls from step to step; NaN where rounding rules.
    floor : float
        Residuals below are not judged.
    derivatives : tuple of float
        <g, v> for each direction.
    verdicts : dict of str to str
        "ok"; "wrong"; "cannot tell", where rounding hides even what the gradient says the loss changes by.
    """

    steps: tuple[float, ...]
    residuals: dict[str, Array]
    rates: dict[str, Array]
    floor: float
    derivatives: tuple[float, ...]
    verdicts: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every test says "ok"."""
        return all(verdict == "ok" for verdict in self.verdicts.values())

    def last_rates(self, kind: str) -> Array:
        """Return each direction's rate at the smallest steps that can be judged; NaN where none can."""
        return np.array([_last(rates) for rates in self.rates[kind]])

    def __repr__(self) -> str:
        lines = [f"taylor_test: {len(self.derivatives)} directions, {'passed' if self.passed else 'NOT PASSED'}"]
        for kind, verdict in self.verdicts.items():
            found = ", ".join("rounding" if math.isnan(rate) else f"{rate:.2f}" for rate in self.last_rates(kind))
            lines.append(f"  {kind:6}  expected rate {KINDS[kind]}, found {found}: {verdict}")
        shown = "  ".join(f"{kind + ' residual':>16}  rate" for kind in self.verdicts)
        lines.append(f"  direction 0:  step  {shown}")
        for i, step in enumerate(self.steps):
            cells = []
            for kind in self.verdicts:
                rate = self.rates[kind][0, i - 1] if i else math.nan
                told = "    " if math.isnan(rate) else f"{rate:4.2f}"
                cells.append(f"{self.residuals[kind][0, i]:16.2e}  {told}")
            lines.append(f"  {step:18.2e}  {'  '.join(cells)}".rstrip())
        return "\n".join(lines)


def taylor_test(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    gradient: Mapping[str, ArrayLike],
    *,
    hessian_vector: Callable[[dict[str, Array]], Mapping[str, ArrayLike]] | None = None,
    directions: int = 3,
    seed: int = 0,
    steps: int = STEPS,
    where: str = "taylor_test",
) -> TaylorResult:
    """Test a gradient by how fast the remainder of Taylor's series falls along random directions.

    Parameters
    ----------
    loss : callable
        From a dict of float64 arrays to a real number.
    point : mapping of str to float64 array
        Where the gradient was taken.
    gradient : mapping of str to array
        The gradient to test, in the shapes of the arrays. Arrays that have none stay where they are.
    hessian_vector : callable, optional
        From a direction to the Hessian times that direction, both as dicts; adds the test of second order.
    directions : int
        How many: signed Gaussian numbers, times the largest entry of each array, so that steps are relative to it.
    seed : int
        Of the directions.
    steps : int
        How many, from 0.01 down to a five-hundredth of it, of which each makes two evaluations: at least 2.
    where : str
        The function that messages name.

    Returns
    -------
    TaylorResult
        Its repr is a table.

    Raises
    ------
    DTypeError, ShapeError, OptionError
        An array is not float64; a gradient has another shape, an unknown name, an entry that is not finite.
    GradientCheckError
        `loss` is no function of its arrays with finite real values.

    Notes
    -----
    20 evaluations of `loss` per direction, two for each step, whatever the number of parameters. At a kink the rates
    are 1 for any gradient. Gradients may be of any size, but where they change the loss by less than its rounding,
    "cannot tell" is the verdict, and a complex step the remedy.

    Examples
    --------
    >>> import numpy as np
    >>> point = {"w": np.array([0.3, -0.5]), "b": np.array([0.1])}
    >>> def loss(p):
    ...     return np.sum(np.exp(p["w"]) * np.tanh(p["b"]))
    >>> gradient = {"w": np.exp(point["w"]) * np.tanh(0.1), "b": np.sum(np.exp(point["w"])) / np.cosh([0.1]) ** 2}
    >>> taylor_test(loss, point, gradient).passed
    True
    >>> gradient["b"] *= 1 + 1e-8
    >>> taylor_test(loss, point, gradient).verdicts
    {'first': 'ok', 'odd': 'wrong'}
    """
    tries = arguments.positive_int(where, "directions", directions)
    function = Function(where, loss, point)
    claimed = checked_direction(where, function.work, gradient, "gradient")
    middle = function.repeatable()
    function.measure_noise(middle, rough=False)
    rng = np.random.default_rng(seed)
    count = arguments.positive_int(where, "steps", steps)
    widths = FIRST_STEP / 2.0 ** np.linspace(0, STEPS - 1, max(2, count))
    kinds = [kind for kind in KINDS if kind != "second" or hessian_vector is not None]
    residuals = {kind: np.zeros((tries, len(widths))) for kind in kinds}
    derivatives: list[float] = []
    largest = abs(middle)
    for k in range(tries):
        direction = _scaled_direction(function.kept, list(claimed), rng)
        slope = inner(direction, claimed)
        derivatives.append(slope)
        line = DirectedLine(function, direction)
        curvature = 0.0
        if hessian_vector is not None:
            product = checked_direction(where, function.work, hessian_vector(direction), "the Hessian's product")
            curvature = inner(direction, product)
        for i, step in enumerate(widths):
            lower, upper = line(-step).value, line(step).value
            largest = max(largest, abs(lower), abs(upper))
            first = upper - middle - step * slope
            residuals["first"][k, i] = abs(first)
            residuals["odd"][k, i] = abs((upper - lower) / 2 - step * slope)
            if hessian_vector is not None:
                residuals["second"][k, i] = abs(first - step**2 / 2 * curvature)
    function.require_unchanged()
    floor = FLOOR * max(largest, function.noise / EPS)
    rates = {kind: _rates(array, floor, widths) for kind, array in residuals.items()}
    visible = any(abs(slope) * FIRST_STEP > floor for slope in derivatives)
    verdicts = {kind: _verdict(residuals[kind], rates[kind], floor, KINDS[kind], visible) for kind in kinds}
    return TaylorResult(tuple(widths.tolist()), residuals, rates, floor, tuple(derivatives), verdicts)


def adjoint_test(
    jvp: Callable[[dict[str, Array]], Mapping[str, ArrayLike]],
    vjp: Callable[[dict[str, Array]], Mapping[str, ArrayLike]],
    inputs: Mapping[str, ArrayLike],
    outputs: Mapping[str, ArrayLike],
    *,
    directions: int = 3,
    seed: int = 0,
    where: str = "adjoint_test",
) -> float:
    """Test that a backward map is the transpose of a forward one: <Jv, u> = <v, J^T u> for random v and u.

    Parameters
    ----------
    jvp : callable
        From changes of the inputs to those of the outputs, J v; both dicts of arrays.
    vjp : callable
        From gradients by the outputs to those by the inputs, J^T u.
    inputs, outputs : mapping of str to array
        Their shapes are what counts.
    directions, seed : int
        How many pairs of signed Gaussian directions, and their seed.
    where : str
        The function that messages name.

    Returns
    -------
    float
        The largest |<Jv, u> - <v, J^T u>| / (|Jv| |u|), some 1e-16 where both are right; infinite where J^T u is not 0
        though Jv is.

    Raises
    ------
    DTypeError, ShapeError, OptionError, GradientCheckError
        A result is no dict of real arrays, has another shape, a name too many or too few, an entry that is not finite.

    Notes
    -----
    No derivative is approximated: both maps may be linearised at stored states, where a chaotic net's loss cannot be
    differentiated at all. It proves them transposes of each other, not right.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.arange(6.0).reshape(2, 3)
    >>> point, result = {"x": np.zeros(3)}, {"y": np.zeros(2)}
    >>> adjoint_test(lambda v: {"y": A @ v["x"]}, lambda u: {"x": u["y"] @ A}, point, result) < 1e-15
    True
    >>> adjoint_test(lambda v: {"y": A @ v["x"]}, lambda u: {"x": 2 * u["y"] @ A}, point, result) > 0.1
    True
    """
    tries = arguments.positive_int(where, "directions", directions)
    rng = np.random.default_rng(seed)
    shapes = [{name: np.asarray(array) for name, array in each.items()} for each in (inputs, outputs)]
    worst = 0.0
    for _ in range(tries):
        v, u = ({name: rng.standard_normal(array.shape) for name, array in each.items()} for each in shapes)
        # Copies: a map may take its argument for scratch.
        pushed = _result(where, "jvp", jvp(_copied(v)), shapes[1])
        pulled = _result(where, "vjp", vjp(_copied(u)), shapes[0])
        size = norm(pushed)
        # Scaled first: a map may shrink by 1e-200.
        scale = size or norm(pulled)
        if scale == 0:
            continue
        there = inner({name: array / scale for name, array in pushed.items()}, u)
        back = inner({name: array / scale for name, array in pulled.items()}, v)
        worst = max(worst, abs(there - back) / norm(u) if size else math.inf)
    return worst


def _scaled_direction(arrays: Mapping[str, Array], names: list[str], rng: np.random.Generator) -> dict[str, Array]:
    """Return Gaussian numbers of the size of each array; of the largest where one is all zero."""
    sizes = {name: float(np.max(np.abs(arrays[name]), initial=0.0)) for name in names}
    largest = max(sizes.values(), default=0.0) or 1.0
    return {name: (size or largest) * rng.standard_normal(arrays[name].shape) for name, size in sizes.items()}


def _rates(residuals: Array, floor: float, widths: Array) -> Array:
    judged = residuals >= max(floor, np.finfo(np.float64).tiny)
    both = judged[:, :-1] & judged[:, 1:]
    rates = np.full(both.shape, np.nan)
    falls = np.broadcast_to(np.log2(widths[:-1] / widths[1:]), both.shape)
    rates[both] = (np.log2(residuals[:, :-1][both]) - np.log2(residuals[:, 1:][both])) / falls[both]
    return rates


def _last(rates: Array) -> float:
    """Return the last rate of an unbroken row from the first step on: beyond a gap noise may rise above the floor."""
    told = np.flatnonzero(np.isnan(rates))
    end = int(told[0]) if told.size else len(rates)
    return float(rates[end - 1]) if end else math.nan


def _verdict(residuals: Array, rates: Array, floor: float, order: int, visible: bool) -> str:
    if not visible and not np.any(residuals > floor):
        return "cannot tell"
    last = [_last(row) for row in rates]
    # A residual that is never above rounding leaves nothing to complain of.
    return "wrong" if any(rate < order - SLACK for rate in last) else "ok"


def _copied(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in arrays.items()}


def _result(where: str, what: str, result: Any, shapes: Mapping[str, Array]) -> dict[str, Array]:
    found = checked_direction(where, shapes, result, f"the result of {what}")
    missing = [name for name in shapes if name not in found]
    if missing:
        raise GradientCheckError(f"{where}: the result of {what} must have {list(shapes)}; {missing} are missing")
    return found
