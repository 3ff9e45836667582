"""Checks of what a caller hands in. They stand at the public edge, so that the formulas behind it stay clean.

Every function returns the checked value in the one form that the engine uses and raises an error that names the
function, the argument, what it must be (symbols and numbers), what came, and what to do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core.parameters import Gradients, Parameters
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError

Array = NDArray[Any]

LAYER_DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.complex128))


def integer(where: str, name: str, value: Any) -> int:
    """Return `value` as an int; booleans and floats are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise DTypeError(f"{where}: {name} must be an integer; got the bool {value}")
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(f"{where}: {name} must be an integer; got {type(value).__name__} {value!r}") from None


def positive_int(where: str, name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int of at least `least`; booleans and floats are refused."""
    number = integer(where, name, value)
    if number < least:
        raise OptionError(f"{where}: {name} must be at least {least}; got {number}")
    return number


def flag(where: str, name: str, value: Any) -> bool:
    """Return `value` if it is a bool; 0 and 1 are refused, they hide misplaced positional arguments."""
    if not isinstance(value, (bool, np.bool_)):
        raise DTypeError(f"{where}: {name} must be True or False; got {type(value).__name__} {value!r}")
    return bool(value)


def real_number(where: str, name: str, value: Any) -> float:
    """Return `value` as a finite float; booleans are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DTypeError(f"{where}: {name} must be a number; got {type(value).__name__} {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(f"{where}: {name} must be finite; got {number}")
    return number


def positive_number(where: str, name: str, value: Any) -> float:
    """Return `value` as a finite float above 0."""
    number = real_number(where, name, value)
    if number <= 0:
        raise OptionError(f"{where}: {name} must be greater than 0; got {number}")
    return number


def not_negative(where: str, name: str, value: Any) -> float:
    """Return `value` as a finite float of at least 0."""
    number = real_number(where, name, value)
    if number < 0:
        raise OptionError(f"{where}: {name} must be at least 0; got {number}")
    return number


def step_count(where: str, name: str, value: Any) -> int:
    """Return `value` as an int of at least 0; booleans and floats are refused."""
    return positive_int(where, name, value, 0)


def one_of(where: str, name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in (known := list(choices)):
        raise OptionError(f"{where}: {name} must be one of {', '.join(map(repr, known))}; got {value!r}")


def probability(where: str, name: str, value: Any) -> float:
    """Return `value` as a float in [0, 1]."""
    number = real_number(where, name, value)
    if not 0 <= number <= 1:
        raise OptionError(f"{where}: {name} must be in [0, 1]; got {number}")
    return number


def layer_dtype(where: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` if a layer can have it; float64, the default, for None."""
    try:
        found = np.dtype(np.float64 if dtype is None else dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found not in LAYER_DTYPES:
        got = repr(dtype) if found is None else found
        raise DTypeError(f"{where}: dtype must be float32, float64 or complex128; got {got}")
    return found


def generator(where: str, rng: Any) -> np.random.Generator:
    """Return a Generator: the one given, a new one from an int seed, or a fresh one for None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None or (isinstance(rng, (int, np.integer)) and not isinstance(rng, (bool, np.bool_)) and rng >= 0):
        return np.random.default_rng(rng)
    raise DTypeError(f"{where}: rng must be a numpy.random.Generator, a seed >= 0 or None; got {rng!r}")


def as_array(where: str, name: str, value: ArrayLike) -> Array:
    """Return `value` as an ndarray; what has no rectangular shape is refused."""
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(f"{where}: {name} must not be a masked array: its mask would be lost; fill it, or use lengths")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ShapeError(f"{where}: {name} must be an array; got {type(value).__name__}: {error}") from None


def array_of(where: str, name: str, value: ArrayLike, dtype: np.dtype[Any]) -> Array:
    """Return `value` as an ndarray of exactly `dtype`.

    A silent conversion would hide a float64 array in a float32 net, which costs half of the speed, or the reverse,
    which costs half of the digits; so the dtype must agree, as in torch.
    """
    if type(value) is np.ndarray and value.dtype == dtype:
        return value
    if value is None:
        raise DTypeError(f"{where}: {name} must be an array of dtype {dtype}; got None")
    found = as_array(where, name, value)
    if found.dtype == object:
        told = ", what a backward pass returns" if isinstance(value, Gradients) else ""
        raise DTypeError(f"{where}: {name} must be an array of dtype {dtype}; got {type(value).__name__}{told}")
    if found.dtype != dtype:
        advice = ""
        if found.dtype.kind in "biuf" or (found.dtype.kind == "c" and dtype.kind == "c"):
            convert = (
                f"{name}.astype(np.{dtype})" if isinstance(value, np.ndarray) else f"np.asarray({name}, np.{dtype})"
            )
            advice = f". Convert it with {convert}"
        if found.dtype in LAYER_DTYPES:
            advice = f"{advice + ', or' if advice else '. Convert'} the layer with .astype(np.{found.dtype})"
        raise DTypeError(f"{where}: {name} must have dtype {dtype}, the layer's; got {found.dtype}{advice}")
    return found


def parameters(where: str, name: str, value: Any, origin: str) -> Parameters:
    """Return `value` if it is a Parameters; `origin` says where one comes from."""
    if not isinstance(value, Parameters):
        advice = ", whose attribute grads they are" if isinstance(value, Gradients) else ""
        raise DTypeError(f"{where}: {name} must be Parameters, {origin}; got {type(value).__name__}{advice}")
    return value


def gradients(where: str, grads: Any, params: Parameters) -> Parameters:
    """Return `grads` if they have the structure of `params`; new zeros for None."""
    if grads is None:
        return params.zeros_like()
    found = parameters(where, "grads", grads, "as params.zeros_like() makes them")
    if found.shapes != params.shapes:
        names = dict.fromkeys([*params.shapes, *found.shapes])
        name = next((name for name in names if found.shapes.get(name) != params.shapes.get(name)), None)
        if name is None:
            raise ShapeError(f"{where}: grads must have the names of params in their order: {list(params)}")
        have, want = found.shapes.get(name, "nothing"), params.shapes.get(name, "nothing")
        raise ShapeError(f"{where}: grads must have the shapes of params; {name} must have {want}; got {have}")
    if found.dtype != params.dtype:
        raise DTypeError(f"{where}: grads must have dtype {params.dtype}, that of params; got {found.dtype}")
    if np.may_share_memory(found.flat, params.flat):
        raise OptionError(f"{where}: grads must not be the parameters themselves; params.zeros_like() makes new ones")
    return found


def converted(where: str, params: Parameters, dtype: DTypeLike) -> Parameters:
    """Return a copy of `params` in `dtype`, if that is a layer's dtype and loses no imaginary part."""
    target = layer_dtype(f"{where}.astype", dtype)
    if not np.can_cast(params.dtype, target, "same_kind"):
        raise DTypeError(
            f"{where}.astype: {params.dtype} parameters cannot become {target}: their imaginary parts would be lost"
        )
    return params.astype(target)


def shaped(where: str, name: str, array: Array, symbols: str, shape: tuple[int, ...], hint: str = "") -> Array:
    """Return `array` if it has `shape`; `symbols` spells the shape in letters, as in "(T, N, H)"."""
    if array.shape != shape:
        advice = f". {hint}" if hint else ""
        raise ShapeError(f"{where}: {name} must have shape {symbols} = {shape}; got {array.shape}{advice}")
    return array


def sequence_lengths(where: str, lengths: ArrayLike | None, steps: int, batch: int) -> NDArray[np.intp] | None:
    """Return `lengths` as an int array (N,), or None where every sequence has all T steps."""
    if lengths is None:
        return None
    array = as_array(where, "lengths", lengths)
    shaped(where, "lengths", array, "(N,)", (batch,))
    if not np.issubdtype(array.dtype, np.integer) and not (batch == 0 and isinstance(lengths, list | tuple)):
        raise DTypeError(f"{where}: lengths must be integers; got dtype {array.dtype}")
    if batch == 0:
        return None
    low, high = int(array.min()), int(array.max())
    if low < 1:
        row = int(array.argmin())
        raise OptionError(f"{where}: lengths[{row}] must be at least 1; got {low}. Drop empty sequences from the batch")
    if high > steps:
        row = int(array.argmax())
        raise OptionError(f"{where}: lengths[{row}] must be at most T = {steps}, the steps of x; got {high}")
    return None if low == steps else array.astype(np.intp)


def finite(where: str, name: str, array: Array, axes: str = "") -> None:
    """Raise NonFiniteError at the first NaN or infinity of `array`; `axes` names its leading axes, as in "t, n"."""
    if np.isfinite(array).all():
        return
    index = np.argwhere(~np.isfinite(array))[0]
    names = axes.split(",") if axes else [f"axis {axis}" for axis in range(array.ndim)]
    place = ", ".join(f"{axis.strip()} = {i}" for axis, i in zip(names, index, strict=False))
    raise NonFiniteError(f"{where}: {name} is {array[tuple(index)]} at {place} (the first non-finite entry)")
