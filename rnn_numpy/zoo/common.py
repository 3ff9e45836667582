"""What wrong layers are made of: a cell with another formula backward, sums that are spoilt when they are complete.

A wrong layer is a subclass of RNN, LSTM or GRU whose forward pass is its parent's. Where its mistake stands in a
formula of one step, it has `WrongFormulas` before its parent in the list of its bases, or `WrongParts` where that is
one of attention's; where it stands in the sums over all steps, `WrongSums`; elsewhere it overrides the method in
question.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import Recurrent, Run
from rnn_numpy.layers.attention import Attending

Array = NDArray[Any]


class WrongFormulas(Recurrent):
    """A layer with wrong formulas backward: a mixin, to stand before RNN, LSTM or GRU.

    `_instead_of_step_backward` and `_instead_of_step_partials`, static methods, stand in place of the cell's formulas;
    what `_after_step_backward` and `_after_step_partials` do comes after them. All four are optional.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        changes: dict[str, Any] = {"trial": False}
        for name in ("step_backward", "step_partials"):
            if hasattr(self, f"_instead_of_{name}"):
                changes[name] = getattr(self, f"_instead_of_{name}")
        more: dict[str, Any] = {name: getattr(self, f"_after_step_{name}", None) for name in ("backward", "partials")}
        if any(more.values()):  # what is before the cell's own formulas forward comes after them backward
            changes["before"] = (*self.cell.before, Part(**more))
        self.cell = replace(self.cell, **changes)


class WrongParts(Attending):
    """A layer with wrong formulas of attention backward: a mixin, to stand before AttentionRNN, -LSTM or -GRU.

    `_instead_of_weights_backward`, a static method, stands in place of `rnn_numpy.layers.attention.weights_backward`;
    likewise for the other formulas of that module.
    """

    def with_parts(self, cell: Cell) -> Cell:
        cell = super().with_parts(cell)

        def changed(part: Part) -> Part:
            wrong = getattr(self, f"_instead_of_{getattr(part.backward, '__name__', '')}", None)
            return part if wrong is None else replace(part, backward=wrong)

        before, after = (tuple(map(changed, parts)) for parts in (cell.before, cell.after))
        return replace(cell, before=before, after=after, trial=False)


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
    """Return the rows that belong to a gate in weights and biases."""
    place, hidden = layer.cell.gate_names.index(gate), layer.hidden_size
    return slice(place * hidden, (place + 1) * hidden)
