"""The calls that people will make of a layer whose gradient is right: what else it may do wrong.

A check makes one call; a training makes thousands, with and without initial states, of gradients that are views, with
weights that have changed. Each of these is tried once, beside the call that was checked, and compared with what it must
equal: a few passes more. The first that fails is named.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import ChainRule
from rnn_numpy.checks.loss_check import slope
from rnn_numpy.checks.oracles.function import EPS
from rnn_numpy.checks.report import Diagnosis
from rnn_numpy.checks.rounding import tolerances
from rnn_numpy.checks.targets import LayerTarget, Point, holding
from rnn_numpy.core.states import mapped, split
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.slopes import slopes

Array = NDArray[Any]

# Passes that must be equal but for the order of sums: what a broken promise does is no such thing.
EQUAL = 1e-7


def broken_contract(
    target: LayerTarget, analytic: Point, growth: float = math.nan, lost: bool = False
) -> Diagnosis | None:
    """Return what a layer does wrong in a call that was not the one that was checked; None where nothing is found.

    Where perturbations grow by more than 1e6, what differs by rounding alone is far apart: nothing is compared then but
    calls that must be equal bit for bit. `lost` says that no complex step passes the layer's formulas.
    """
    first = _FirstCall(target, lost)
    for check in CHECKS[:1] if growth > 1e6 else CHECKS:
        for kind, why in check(target, analytic, first):
            return Diagnosis(kind, why)
    return None


class _FirstCall:
    """A forward and a backward pass, and copies of what they returned; several backward passes share the trace."""

    def __init__(self, target: LayerTarget, lost: bool) -> None:
        self.lost = lost
        self.output, final, self.trace = target.forward()
        self.parts = [*split(self.output), *(() if final is None else split(final))]
        self.kept = [part.copy() for part in self.parts]
        result = target.layer.backward(self.trace, *target.gradients())
        inputs = (*(() if target.ids else ("x",)), *target.titles)
        self.gradients = {**dict(result.grads), **{title: getattr(result, f"d{title}") for title in inputs}}
        self.before = {name: np.array(array) for name, array in self.gradients.items()}


def _two_at_once(target: LayerTarget, analytic: Point, first: _FirstCall) -> Iterator[tuple[str, str]]:
    """Whether a second call leaves the first one's outputs, gradients and trace alone."""
    other = {name: array * 0.5 if name in ("x", *target.titles) else array for name, array in target.point.items()}
    _, _, second = target.forward(None, other)
    if any(part.tobytes() != copy.tobytes() for part, copy in zip(first.parts, first.kept, strict=True)):
        yield "results overwritten", "a second forward pass writes over the output of the first"
    again = target.back(first.trace)
    names = _unequal(again, analytic)
    if names:
        why = f"with a second forward pass before it, backward gives another gradient of {names}: traces share memory"
        yield "traces mixed", why
    target.back(second)
    names = ", ".join(
        k for k, array in first.gradients.items() if np.array(array).tobytes() != first.before[k].tobytes()
    )
    if names:
        yield "results overwritten", f"a second backward pass writes over the first one's gradients of {names}"


def _left_out(target: LayerTarget, analytic: Point, first: _FirstCall) -> Iterator[tuple[str, str]]:
    """Whether what is left out is zeros: initial states, gradients of outputs, of final states."""
    layer = target.layer
    if target.many and target.initial and _has_default(layer.forward, "h_0"):
        point = target.point
        try:
            result = layer.forward(*target.arguments(point.get("x", target.x), None).values(), **target.options(point))
        except Exception as error:
            yield "left out is not zeros", f"without h_0 forward raises {type(error).__name__}: {error}"
            return
        zeros = {title: np.zeros_like(target.point[title]) for title in target.titles}
        expected, output = analytic, first.output
        if any(np.any(target.point[title]) for title in target.titles):
            output, _, trace = target.forward(None, {**target.point, **zeros})
            expected = target.back(trace)
        if any(_apart(a, b) for a, b in zip(split(output), split(result[0]), strict=True)):
            yield "left out is not zeros", "without h_0 the output is another one than with h_0 of zeros"
        names = _unequal(target.back(result[-1]), expected)
        if names:
            yield "left out is not zeros", f"without h_0 the gradient of {names} is another one than with h_0 of zeros"
    if not (target.many and _has_default(layer.backward, "dh_n")):
        return
    nothing = mapped(np.zeros_like, target.doutput)
    outputs = target.gradients_of(layer.backward(first.trace, mapped(np.copy, target.doutput)))
    known = isinstance(layer, Recurrent)
    finals = target.gradients_of(
        layer.backward(first.trace, None if known else nothing, mapped(np.copy, target.dfinal))
    )
    if not _unequal({name: outputs[name] + finals[name] for name in analytic}, analytic):
        return  # backward is linear: what the two give is what both together give
    given = target.back(first.trace, None, target.doutput, mapped(np.zeros_like, target.dfinal))
    for found, expected, what in (
        (outputs, given, "without dh_n the gradient of {} is not that of dh_n of zeros"),
        (
            finals,
            target.back(first.trace, None, nothing, target.dfinal),
            "with doutput None the gradient of {} is not that of doutput of zeros",
        ),
    ):
        if names := _unequal(found, expected):
            yield "left out is not zeros", what.format(names)


def _any_layout(target: LayerTarget, analytic: Point, first: _FirstCall) -> Iterator[tuple[str, str]]:
    """Whether gradients that are views, in any order in memory, and may not be written, are read as what they are."""

    def told(change: Callable[[Array], Array]) -> str:
        try:
            found = target.back(first.trace, None, mapped(change, target.doutput), mapped(change, target.dfinal))
        except (ValueError, TypeError) as error:
            return f"backward raises {type(error).__name__} for a doutput {{}}: {error}"
        names = _unequal(found, analytic)
        return f"of a doutput {{}} the gradient of {names} is another one" if names else ""

    if not told(lambda array: _locked(_strided(np.asfortranarray(array)))):
        return
    for what, change in (
        ("that is not contiguous", _strided),
        ("in Fortran's order", np.asfortranarray),
        ("that is read-only", lambda array: _locked(array.copy())),
    ):
        if why := told(change):
            yield "layout in memory", why.format(what)


def _weights_of_the_trace(target: LayerTarget, analytic: Point, first: _FirstCall) -> Iterator[tuple[str, str]]:
    """Whether a trace keeps the weights of its forward pass."""
    if not isinstance(target.layer, Recurrent):
        return
    with holding(target.layer, _nearby(target)):
        found = target.back(first.trace)
    names = _unequal(found, analytic)
    if names:
        why = f"where weights change between forward and backward, the gradient of {names} is not the forward pass's"
        yield "weights of another time", why


def _other_weights(target: LayerTarget, analytic: Point, first: _FirstCall) -> Iterator[tuple[str, str]]:
    """Whether the gradient is right at other weights as well: with what has been kept of the first ones, and where a
    mistake cannot hide behind W_hh = I.
    """
    if target.on_top is not None:
        return
    point = _nearby(target)
    found = target.at(point)
    if not _slope_is_off(target, point, found, first.lost) or not _is_wrong(target, point, found):
        return
    fresh = target.fresh(point)
    if not _is_wrong(target, point, fresh):
        names = _unequal(found, fresh)
        why = (
            f"after the weights have changed, the gradient of {names} is still made with those before: "
            "a copy of them, or a transpose, is kept"
        )
        yield "weights of another time", why
    why = (
        "the gradient is right at these weights, and wrong at others, a tenth away: a mistake hides behind their "
        "values, as W_hh for its transpose does where W_hh is symmetric"
    )
    yield "right at these weights alone", why


CHECKS: tuple[Callable[[LayerTarget, Point, _FirstCall], Iterator[tuple[str, str]]], ...] = (
    _two_at_once,
    _left_out,
    _any_layout,
    _weights_of_the_trace,
    _other_weights,
)


# ---------------------------------------------------------------------------------------------- helpers


def _nearby(target: LayerTarget) -> Point:
    """Return the point with parameters that have moved by about a tenth of the largest of each, each its own way."""
    rng = np.random.default_rng(11)
    inputs = {"x", *target.titles, *target.memory}
    return {
        name: array
        if name in inputs
        else array + 0.1 * float(np.abs(array).max(initial=0.0)) * rng.uniform(-1, 1, array.shape)
        for name, array in target.point.items()
    }


def _slope_is_off(target: LayerTarget, point: Point, gradient: Point, lost: bool) -> bool:
    """Whether a gradient at a point is not the slope of the loss, along two directions; not where none can tell."""
    other, rng = target.at_point(point), np.random.default_rng(12)
    for _ in range(2):  # J v of one may happen to cancel
        draw = {name: rng.normal(size=array.shape) for name, array in gradient.items()}
        terms = [gradient[name] * draw[name] for name in draw]
        expected, size = sum(float(term.sum()) for term in terms), sum(float(np.abs(term).sum()) for term in terms)
        try:
            with np.errstate(all="ignore"):
                found, error = _by_differences(other, draw) if lost else (slope(other, draw), 0.0)
        except Exception:  # whatever a forward pass for real numbers does with complex ones
            return False
        if not (math.isfinite(found) and math.isfinite(size)) or abs(found - expected) <= 1e-6 * size + 8 * error:
            return False
    return True


def _is_wrong(target: LayerTarget, point: Point, gradient: Point) -> bool:
    """Whether a gradient at a point is wrong: of a recurrent layer by its steps, which know of kinks and small numbers;
    else by differences, which know their errors.
    """
    if not isinstance(target.layer, Recurrent):
        return _slope_is_off(target, point, gradient, True)
    with holding(target.layer, point):
        _, _, trace = target.forward(None, point)
        chain = ChainRule(target.layer, trace, target.doutput, target.dfinal)
        allowed, exact = tolerances(chain, generous=True).tensors, chain.tensors
    for name, array in exact.items():
        off = np.abs(gradient[name] - array) > allowed[name] + EQUAL * float(np.abs(array).max(initial=0.0))
        if np.any(off) or not np.isfinite(gradient[name]).all():
            return True
    return False


def _by_differences(target: LayerTarget, along: Point) -> tuple[float, float]:
    def loss(step: float) -> Array:
        moved = {name: array + step * along[name] if name in along else array for name, array in target.point.items()}
        return np.array(float(target.loss(moved)))

    found = slopes(loss)
    return float(found.slopes), float(found.errors)


def _apart(one: Array, other: Array) -> bool:
    scale = max(float(np.abs(one).max(initial=0.0)), float(np.abs(other).max(initial=0.0)))
    return one.shape != other.shape or not float(np.abs(one - other).max(initial=0.0)) <= EQUAL * scale


def _unequal(found: Mapping[str, Array], expected: Mapping[str, Array]) -> str:
    """Return the names of gradients that differ, with a comma between; what is far below the others may be rounding."""
    largest = max((float(np.abs(array).max(initial=0.0)) for array in expected.values()), default=0.0)
    names = []
    for name, array in expected.items():
        scale = max(float(np.abs(array).max(initial=0.0)), float(np.abs(found[name]).max(initial=0.0)))
        if not float(np.abs(found[name] - array).max(initial=0.0)) <= EQUAL * scale + 1e3 * EPS * largest:
            names.append(name)
    return ", ".join(names)


def _strided(array: Array) -> Array:
    """Return an array that is every second number of another, in whatever order the first has in memory."""
    wide = np.repeat(array, 2, axis=-1)
    wide[..., 1::2] = np.nan
    if array.flags.f_contiguous:
        wide = np.asfortranarray(wide)
    view: Array = wide[..., ::2]
    return view


def _locked(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _has_default(function: Any, name: str) -> bool:
    try:
        parameter = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is None
