"""What a training was like: numbers of every update, and what validation said."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.numbers import count, plain
from rnn_numpy.errors import StateDictError

Array = NDArray[np.float64]

COLUMNS = ("update", "epoch", "loss", "count", "lr", "norm", "seconds")
CHECKED = ("update", "value")


class History:
    """Numbers of every update as columns: `history["loss"]` is an array, one entry an update.

    update, epoch, loss, count (what the mean loss divides by; NaN of a model that does not say), lr, norm (of the
    gradient before clipping; NaN where there is none), seconds. `history.validations` are what validation measured,
    as the columns update and value.

    Examples
    --------
    >>> history = History()
    >>> history.add(update=1, epoch=1, loss=0.5, count=20, lr=0.1, norm=2.0, seconds=0.01)
    >>> history.add_validation(1, 0.75)
    >>> len(history), history["loss"], history.validations["value"]
    (1, array([0.5]), array([0.75]))
    """

    def __init__(self) -> None:
        # Packed doubles: appending is cheap, and a state of it is a copy of memory.
        self._columns = {name: array("d") for name in COLUMNS}
        self._validations = {name: array("d") for name in CHECKED}

    def add(self, **numbers: float) -> None:
        """Add the numbers of an update, one of each column."""
        for name, column in self._columns.items():
            column.append(numbers[name])

    def add_validation(self, update: int, value: float) -> None:
        """Add what validation measured after an update."""
        self._validations["update"].append(update)
        self._validations["value"].append(value)

    def __getitem__(self, name: str) -> Array:
        if name not in self._columns:
            raise KeyError(f"{name!r}; columns are {', '.join(COLUMNS)}")
        return _copied(self._columns[name])

    def __len__(self) -> int:
        return len(self._columns["update"])

    @property
    def columns(self) -> dict[str, Array]:
        """All columns, by name."""
        return {name: _copied(column) for name, column in self._columns.items()}

    @property
    def validations(self) -> dict[str, Array]:
        """The columns update and value of what validation measured."""
        return {name: _copied(column) for name, column in self._validations.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as lists that strict JSON can hold; what is not finite as None."""
        numbers = {name: plain(column) for name, column in self.columns.items()}
        return numbers | {"validations": {name: plain(column) for name, column in self.validations.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all columns."""
        return {**self.columns, "validations": self.validations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the columns of another one in place of these; StateDictError where `state` has not got them."""
        try:
            loaded = [
                {name: np.asarray(source[name], np.float64) for name in names}
                for source, names in ((state, COLUMNS), (state["validations"], CHECKED))
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StateDictError(f"History.load_state_dict: no state of a history: {error!r}") from None
        for columns in loaded:
            if len({column.shape for column in columns.values()}) != 1 or columns["update"].ndim != 1:
                raise StateDictError("History.load_state_dict: columns must be vectors of one length")
        self._columns, self._validations = (
            {name: array("d", column.tobytes()) for name, column in columns.items()} for columns in loaded
        )

    def __repr__(self) -> str:
        if not len(self):
            return "History: no updates yet"
        checked = self._validations["value"]
        said = f", validated {count(len(checked), 'time')}, last {checked[-1]:.4g}" if checked else ""
        return f"History: {len(self)} updates, loss {self._columns['loss'][-1]:.4g} at the last{said}"


def _copied(column: array[float]) -> Array:
    return np.array(column, np.float64)
