"""States: one array, or of a cell with several, as (h, c) of an LSTM, a tuple of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def split(state: Any) -> tuple[Any, ...]:
    """Return the arrays of a state as a tuple, also where there is one."""
    return state if isinstance(state, tuple) else (state,)


def join(parts: Sequence[Any]) -> Any:
    """Return arrays as a state: a single one by itself, several as a tuple."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def mapped(function: Callable[[Array], Any], state: Any) -> Any:
    """Apply a function to the array of a state, or to each of a tuple; None stays None."""
    if state is None:
        return None
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


def batch(state: Any) -> int | None:
    """Return N of a state of (layers, N, H); None of one sequence without an axis of its own, (layers, H)."""
    shape = split(state)[0].shape
    return shape[1] if len(shape) == 3 else None
