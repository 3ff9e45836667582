"""What the adjoint of an operation's result says of each of its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Derivatives of functions of one number, from what went in and what came out.
UNARY: Mapping[str, Callable[[Array, Array], Any]] = {
    "negative": lambda a, out: -1.0,
    "exp": lambda a, out: out,
    "exp2": lambda a, out: out * np.log(2),
    "expm1": lambda a, out: out + 1,
    "log": lambda a, out: 1 / a,
    "log1p": lambda a, out: 1 / (1 + a),
    "log2": lambda a, out: 1 / (a * np.log(2)),
    "log10": lambda a, out: 1 / (a * np.log(10)),
    "tanh": lambda a, out: 1 - out * out,
    "expit": lambda a, out: out * (1 - out),
    "sigmoid": lambda a, out: out * (1 - out),
    "sqrt": lambda a, out: 0.5 / out,
    "square": lambda a, out: 2 * a,
    "reciprocal": lambda a, out: -out * out,
    "absolute": lambda a, out: np.sign(a),
    "fabs": lambda a, out: np.sign(a),
    "sin": lambda a, out: np.cos(a),
    "cos": lambda a, out: -np.sin(a),
    "sinh": lambda a, out: np.cosh(a),
    "cosh": lambda a, out: np.sinh(a),
    "arctan": lambda a, out: 1 / (1 + a * a),
    "arctanh": lambda a, out: 1 / (1 - a * a),
    "relu": lambda a, out: (a > 0).astype(float),
    "conjugate": lambda a, out: 1.0,
}

# Of functions of two numbers, by each of them.
BINARY: Mapping[str, tuple[Callable[[Array, Array, Array], Any], Callable[[Array, Array, Array], Any]]] = {
    "add": (lambda a, b, out: 1.0, lambda a, b, out: 1.0),
    "subtract": (lambda a, b, out: 1.0, lambda a, b, out: -1.0),
    "multiply": (lambda a, b, out: b, lambda a, b, out: a),
    "divide": (lambda a, b, out: 1 / b, lambda a, b, out: -a / (b * b)),
    "power": (lambda a, b, out: b * a ** (b - 1), lambda a, b, out: out * np.log(a)),
    "float_power": (lambda a, b, out: b * a ** (b - 1), lambda a, b, out: out * np.log(a)),
    "maximum": (lambda a, b, out: (a > b).astype(float), lambda a, b, out: (b > a).astype(float)),
    "minimum": (lambda a, b, out: (a < b).astype(float), lambda a, b, out: (b < a).astype(float)),
    "logaddexp": (lambda a, b, out: np.exp(a - out), lambda a, b, out: np.exp(b - out)),
    "hypot": (lambda a, b, out: a / out, lambda a, b, out: b / out),
}

# Of these nothing is differentiated.
FLAT = {
    "greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "isfinite", "isnan", "isinf", "sign",
    "floor", "ceil", "rint", "signbit", "logical_not", "logical_and", "logical_or", "heaviside",
}  # fmt: skip


def pull(kind: str, slot: int, d: Array, values: Sequence[Array], out: Array, options: Mapping[str, Any]) -> Array:
    """Return the adjoint of one operand of an operation, from that of its result.

    Adjoints have an axis more than what they are adjoints of, the first one: of several backward passes at once.
    """
    value = values[slot]
    if kind in UNARY:
        return np.asarray(d * UNARY[kind](value, out))
    if kind in BINARY:
        return summed_to(value.shape, d * BINARY[kind][slot](values[0], values[1], out))
    return np.asarray(_RULES[kind](slot, d, values, out, options))


def summed_to(shape: tuple[int, ...], d: Any) -> Array:
    """Sum over the axes along which an operand of this shape was repeated."""
    given: Array = np.asarray(d)
    if given.shape[1:] == shape:
        return given
    more = given.ndim - 1 - len(shape)
    summed = np.asarray(given.sum(axis=tuple(range(1, 1 + more)))) if more else given
    repeated = tuple(k for k, size in enumerate(shape, 1) if size == 1 and summed.shape[k] != 1)
    whole: Array = np.broadcast_to(summed.sum(axis=repeated, keepdims=True), (len(given), *shape))
    return whole


def axes_of(options: Mapping[str, Any], ndim: int) -> tuple[int, ...]:
    """Return the axes that an operation goes over, counted from the last one."""
    axis = options["axis"]
    if axis is None:
        return tuple(range(-ndim, 0))
    return tuple(k if k < 0 else k - ndim for k in (axis if isinstance(axis, tuple) else (axis,)))


def _matmul(slot: int, d: Array, values: Sequence[Array], out: Array, options: Mapping[str, Any]) -> Array:
    a, b = values
    A = a[None, :] if a.ndim == 1 else a
    B = b[:, None] if b.ndim == 1 else b
    if a.ndim == 1:
        d = np.expand_dims(d, -2 if b.ndim > 1 else -1)
    if b.ndim == 1:
        d = np.expand_dims(d, -1)
    if slot == 0:
        return summed_to(A.shape, d @ np.swapaxes(B, -1, -2)).reshape(len(d), *a.shape)
    return summed_to(B.shape, np.swapaxes(A, -1, -2) @ d).reshape(len(d), *b.shape)


def _einsum(slot: int, d: Array, values: Sequence[Array], out: Array, options: Mapping[str, Any]) -> Array:
    terms, mine = options["terms"], options["terms"][slot]
    others = [k for k in range(len(values)) if k != slot]
    seen = set(options["to"]).union(*(terms[k] for k in others))
    missing = [letter for letter in mine if letter not in seen]
    subscripts = ",".join([f"...{options['to']}", *(terms[k] for k in others), *missing])
    ones = [np.ones(values[slot].shape[mine.index(letter)]) for letter in missing]
    return np.asarray(np.einsum(f"{subscripts}->...{mine}", d, *(values[k] for k in others), *ones))


def _spread(d: Array, shape: tuple[int, ...], options: Mapping[str, Any]) -> Array:
    """Return what a sum got, at each entry that was summed; d has an axis more, the first one, or not."""
    if not options["keepdims"]:
        d = np.expand_dims(d, axes_of(options, len(shape)))
    more = d.shape[: d.ndim - len(shape)]
    return np.asarray(np.broadcast_to(d, (*more, *shape)))


def _sum(slot: int, d: Array, values: Sequence[Array], out: Array, options: Mapping[str, Any]) -> Array:
    return _spread(d, values[0].shape, options)


def _max(slot: int, d: Array, values: Sequence[Array], out: Array, options: Mapping[str, Any]) -> Array:
    shape = values[0].shape
    largest = values[0] == _spread(out, shape, options)
    share = largest / largest.sum(axis=axes_of(options, len(shape)), keepdims=True)
    return np.asarray(_spread(d, shape, options) * share)


def _softmax(slot: int, d: Array, values: Sequence[Array], out: Array, options: Mapping[str, Any]) -> Array:
    return np.asarray(out * (d - (d * out).sum(axis=axes_of(options, out.ndim), keepdims=True)))


_RULES: Mapping[str, Callable[..., Array]] = {
    "matmul": _matmul,
    "einsum": _einsum,
    "sum": _sum,
    "max": _max,
    "softmax": _softmax,
}
