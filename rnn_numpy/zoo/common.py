"""What wrong layers are made of: a cell with another formula backward, sums that are spoilt when they are complete.

A wrong layer is a subclass of RNN, LSTM or GRU whose forward pass is its parent's. Where its mistake stands in a
formula of one step, it has `WrongFormulas` before its parent in the list of its bases; where it stands in the sums over
all steps, `WrongSums`; elsewhere it overrides the method in question.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from rnn_numpy.engine.parts import Formula, argument_names
from rnn_numpy.engine.recurrent import Recurrent, Run

Array = NDArray[Any]


@dataclass(frozen=True)
class Then:
    """Two formulas in turn, as one: each gets the arrays that the names of its own arguments ask for.

    Parameters
    ----------
    first, second : callable
        Formulas, as a Cell takes them.

    Examples
    --------
    >>> import numpy as np
    >>> def double(a_t):
    ...     a_t *= 2
    >>> def add(a_t, h_t):
    ...     a_t += h_t
    >>> both = Then(double, add)
    >>> a, h = np.array([1.0]), np.array([3.0])
    >>> both(a, h)
    >>> a
    array([5.])
    """

    first: Formula
    second: Formula

    @property
    def __signature__(self) -> inspect.Signature:
        names = dict.fromkeys([*argument_names(self.first), *argument_names(self.second)])
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])

    def __call__(self, *arrays: Array) -> None:
        given = dict(zip(argument_names(self), arrays, strict=True))
        for formula in (self.first, self.second):
            formula(*(given[name] for name in argument_names(formula)))


class WrongFormulas(Recurrent):
    """A layer with wrong formulas backward: a mixin, to stand before RNN, LSTM or GRU.

    `_instead_of_step_backward` and `_instead_of_step_partials`, static methods, stand in place of the cell's formulas;
    what `_after_step_backward` and `_after_step_partials` do comes after them. All four are optional.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        changes: dict[str, Any] = {}
        for name in ("step_backward", "step_partials"):
            formula = getattr(self, f"_instead_of_{name}", getattr(self.cell, name))
            after = getattr(self, f"_after_{name}", None)
            changes[name] = formula if after is None else Then(formula, after)
        self.cell = replace(self.cell, trial=False, **changes)


class WrongSums(Recurrent):
    """A layer whose parameter gradients are spoilt when they are complete: a mixin, to stand before RNN, LSTM or GRU.

    `_spoil(run)` does that; `run.sums` are one direction's gradients, weight_ih, weight_hh, bias_ih, bias_hh.
    """

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        self._spoil(run)
        return dx

    def _spoil(self, run: Run) -> None:
        raise NotImplementedError


def rows_of(gate: str, layer: Recurrent) -> slice:
    """Return the rows that belong to a gate in weights and biases.

    Examples
    --------
    >>> from rnn_numpy.layers import LSTM
    >>> rows_of("f", LSTM(2, 10))
    slice(10, 20, None)
    """
    place, hidden = layer.cell.gate_names.index(gate), layer.hidden_size
    return slice(place * hidden, (place + 1) * hidden)
