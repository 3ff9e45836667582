"""What known mistakes make of the gradient of an LSTM with layer normalisation: its own backward formula with a wrong
N'(u)^T dy in it, in one of the three places where it stands.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.targets import LayerTarget, Point
from rnn_numpy.layers import layer_norm

Array = NDArray[Any]
Backward = Callable[[Array, Array, Array, float], Array]

# N is undone in this order.
PLACES = ("c_t", "u_t = W_ih x_t", "v_t = W_hh h_{t-1}")

WRONG: tuple[tuple[str, str, Backward], ...] = (
    ("wrong derivative", "lacks the mean of dy", lambda dy, y, s, _: (dy - y * (y * dy).mean(axis=0)) / s),
    ("wrong derivative", "lacks the term of the variance", lambda dy, y, s, _: (dy - dy.mean(axis=0)) / s),
    ("wrong derivative", "takes mean and variance for constants", lambda dy, y, s, _: dy / s),
    (
        "wrong derivative",
        "is not divided by the root of the variance",
        lambda dy, y, s, _: dy - dy.mean(axis=0) - y * (y * dy).mean(axis=0),
    ),
    (
        "wrong derivative",
        "is divided by the variance, not by its root",
        lambda dy, y, s, _: (dy - dy.mean(axis=0) - y * (y * dy).mean(axis=0)) / (s * s),
    ),
    (
        "wrong derivative",
        "has epsilon beside the root of the variance, not under it",
        lambda dy, y, s, e: (dy - dy.mean(axis=0) - y * (y * dy).mean(axis=0)) / (np.sqrt(s * s - e) + e),
    ),
    (
        "wrong derivative",
        "takes the variance over K - 1 of K numbers",
        lambda dy, y, s, _: (dy - dy.mean(axis=0) - y * (y * dy).sum(axis=0) / max(len(y) - 1, 1)) / s,
    ),
    ("hidden path missing", "is missing: nothing flows back through it", lambda dy, y, s, _: 0 * dy),
    ("gate derivative missing", "is taken for 1: dy goes through as it is", lambda dy, y, s, _: dy),
)


def mistakes_of_normalisation(target: Any) -> Iterator[tuple[str, str, Point]]:
    """Yield known mistakes, each a kind, why, and the gradient that it gives; none where there is no normalisation."""
    if not isinstance(target, LayerTarget) or not isinstance(target.layer, layer_norm.LayerNormLSTM):
        return
    layer: Any = copy.copy(target.layer)
    layer.__class__ = layer_norm.LayerNormLSTM
    epsilon = next((f.args[0] for f in (layer.cell.step_forward,) if isinstance(f, layer_norm.Bound)), None)
    if epsilon is None:
        return
    sets = [(0,), (1,), (2,), (1, 2), (0, 1, 2)]
    changes: list[tuple[str, str, Callable[..., None]]] = [
        (kind, f"N' of {', '.join(PLACES[k] for k in places)} {why}", _with_other(places, backward, epsilon))
        for (kind, why, backward), places in itertools.product(WRONG, sets)
    ]
    for gain, place in (("alpha_c", 0), ("alpha_ih", 1), ("alpha_hh", 2)):
        why = f"on the way back to {PLACES[place]} the gain {gain} is missing"
        changes.append(("wrong derivative", why, _without_gain(gain)))
    for kind, why, formula in changes:
        layer.cell = replace(layer.cell, step_backward=layer_norm.Bound(formula, epsilon), trial=False)
        try:
            with np.errstate(all="ignore"):
                found = target.run(layer)[0]
        except Exception:  # a layer of one's own may not be made for it
            return
        yield kind, why, found


def _with_other(places: tuple[int, ...], backward: Backward, epsilon: float) -> Callable[..., None]:
    """Return the backward formula with another N'(u)^T dy in some of its three places."""
    right, calls = layer_norm.layer_norm_step_backward, itertools.count()

    def normalized_backward(dy: Array, y: Array, s_u: Array) -> Array:
        if next(calls) % len(PLACES) in places:
            return backward(dy, y, s_u, epsilon)
        return layer_norm.normalized_backward(dy, y, s_u)

    names = {**vars(layer_norm), "normalized_backward": normalized_backward}
    return FunctionType(right.__code__, names, right.__name__)


def _without_gain(gain: str) -> Callable[..., None]:
    right: Callable[..., None] = layer_norm.layer_norm_step_backward
    place = list(inspect.signature(right).parameters).index(gain)

    def formula(*arguments: Any) -> None:
        right(*arguments[:place], np.ones_like(arguments[place]), *arguments[place + 1 :])

    formula.__signature__ = inspect.signature(right)  # type: ignore[attr-defined]
    return formula
