"""What is saved of a training and loaded again: checks of states, and the states of random generators."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, StateDictError


def checked_state(where: str, state: Any, same: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the entries `names` of a state; it must have them, and the values of `same`."""
    if not isinstance(state, Mapping):
        raise StateDictError(f"{where}: state must be a mapping; got {type(state).__name__}")
    missing = [name for name in (*same, *names) if name not in state]
    if missing:
        raise StateDictError(f"{where}: state must have {missing[0]}; it has {', '.join(map(str, state)) or 'nothing'}")
    for name, value in same.items():
        if type(state[name]) is not type(value) or state[name] != value:
            raise StateDictError(f"{where}: {name} is {value!r} here, {state[name]!r} in the state")
    return {name: state[name] for name in names}


def whole_number(where: str, name: str, value: Any, most: int | None = None) -> int:
    """Return an entry of a state that must be an int of 0 to `most`."""
    if type(value) is not int or value < 0 or (most is not None and value > most):
        ends = "at least 0" if most is None else f"from 0 to {most}"
        raise StateDictError(f"{where}: {name} must be an int, {ends}; got {value!r}")
    return value


def called(function: Any) -> str:
    """Return what a schedule or a clipping says of itself, in all processes alike; of plain functions, that they are.

    >>> called(None), called(0.5), called(len)
    ('None', '0.5', 'a function')
    """
    # A function's name is no part of what it does: it may move, or be a lambda.
    return "a function" if hasattr(function, "__qualname__") else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(function))


def checksum(*arrays: Any) -> int:
    """Return a number that other arrays hardly have: the CRC-32 of what 1000 evenly spread entries of each are.

    >>> checksum(np.zeros(3)) == checksum(np.zeros(3)), checksum(np.zeros(3)) == checksum(np.array([0.0, 1.0, 0.0]))
    (True, False)
    """
    import zlib

    found = 0
    for array in map(np.asarray, arrays):
        places = np.unravel_index(np.linspace(0, max(array.size - 1, 0), 1000).astype(np.intp), array.shape)
        entries = array[places] if array.size else array
        found = zlib.crc32(f"{array.dtype} {array.shape}".encode() + entries.tobytes(), found)
    return found


def load_parameters(where: str, params: Parameters, state: Any) -> None:
    """Copy parameters in that have the names, shapes and dtype of `params`; the first difference is named."""
    if not isinstance(state, Mapping):
        raise StateDictError(f"{where}: parameters must be a mapping of names to arrays; got {type(state).__name__}")
    for name in dict.fromkeys([*params, *state]):
        here, there = (_form(source.get(name)) for source in (params, state))
        if here != there:
            raise StateDictError(f"{where}: parameter {name} is {here} here, {there} in the state")
    params.load_state_dict(state)


def _form(array: Any) -> str:
    return "not there" if array is None else f"{np.asarray(array).dtype} {np.shape(array)}"


# ------------------------------------------------------------------------------------------- generators


def state_of(rng: np.random.Generator) -> dict[str, Any]:
    """Return a copy of a generator's state: plain integers, and arrays of some kinds.

    >>> rng = np.random.default_rng(0)
    >>> state = state_of(rng)
    >>> first = rng.random()
    >>> load_generator("here", "rng", rng, state)
    >>> rng.random() == first
    True
    """
    return copy.deepcopy(dict(rng.bit_generator.state))


def load_generator(where: str, name: str, rng: np.random.Generator, state: Any) -> None:
    """Give a generator the state that another one of its kind had; StateDictError where it is no such state."""
    kind = type(rng.bit_generator).__name__
    found = state.get("bit_generator") if isinstance(state, dict) else None
    if found != kind:
        raise StateDictError(f"{where}: the generator {name} is a {kind} here, a {found} in the state")
    before = rng.bit_generator.state
    try:
        rng.bit_generator.state = state
        if not _same(rng.bit_generator.state, state):  # NumPy takes more than it should
            raise ValueError("it becomes another one")
    except (ValueError, TypeError, KeyError, OverflowError, IndexError) as error:
        rng.bit_generator.state = before
        raise StateDictError(f"{where}: the generator {name} does not take its state: {error!r}") from None


def _same(mine: Any, other: Any) -> bool:
    if isinstance(mine, Mapping):
        return isinstance(other, Mapping) and all(_same(part, other.get(name)) for name, part in mine.items())
    if isinstance(mine, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(mine, other)
    return bool(mine == other)


def named_generators(
    where: str, model: Any, batches: Any, further: Mapping[str, np.random.Generator] | None
) -> dict[str, np.random.Generator]:
    """Return all generators of a training: "model.NAME", "batches.rng", and the further ones by their names."""
    found = {f"model.{name}": rng for name, rng in getattr(model, "generators", dict)().items()}
    if isinstance(rng := getattr(batches, "rng", None), np.random.Generator):
        found["batches.rng"] = rng
    for name, rng in (further or {}).items():
        if not isinstance(rng, np.random.Generator):
            raise DTypeError(f"{where}: generators[{name!r}] must be a numpy.random.Generator; got {rng!r}")
        found[f"generators.{name}"] = rng
    return found


def shared(generators: Mapping[str, np.random.Generator]) -> dict[str, str]:
    """Return for each name the first one that stands for the same generator.

    >>> rng = np.random.default_rng(0)
    >>> shared({"a": rng, "b": np.random.default_rng(0), "c": rng})
    {'a': 'a', 'b': 'b', 'c': 'a'}
    """
    first: dict[int, str] = {}
    for name, rng in generators.items():
        first.setdefault(id(rng.bit_generator), name)
    return {name: first[id(rng.bit_generator)] for name, rng in generators.items()}


def states_of(generators: Mapping[str, np.random.Generator]) -> dict[str, Any]:
    """Return the states of generators, by name; of one that has several names once, and the name where it stands."""
    return {name: state_of(generators[name]) if name == first else first for name, first in shared(generators).items()}


def load_generators(where: str, generators: Mapping[str, np.random.Generator], state: Any) -> None:
    """Give generators their states; which names share one must be as it was."""
    same = shared(generators)
    found = checked_state(f"{where}: generators", state, {}, list(generators))
    unknown = [name for name in state if name not in generators]
    if unknown:
        raise StateDictError(f"{where}: there is a generator {unknown[0]} in the state, not here")
    for name, value in found.items():
        first = value if isinstance(value, str) else name
        if first != same[name]:
            here, there = ("one of its own" if place == name else f"that of {place}" for place in (same[name], first))
            raise StateDictError(f"{where}: the generator {name} is {here} here, {there} in the state")
    for name, value in found.items():
        if same[name] == name:
            load_generator(where, name, generators[name], value)
