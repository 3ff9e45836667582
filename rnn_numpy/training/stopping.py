"""When a training has learnt enough, and what it was at its best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import StateDictError

MODES = ("min", "max")


class _Record:
    """The best value so far. NaN is never better."""

    def __init__(self, where: str, min_delta: float, mode: str) -> None:
        self.min_delta = arguments.not_negative(where, "min_delta", min_delta)
        arguments.one_of(where, "mode", mode, MODES)
        self.mode = mode
        self.best: float | None = None

    def is_better(self, value: float) -> bool:
        """Whether a value is better than the best by more than `min_delta`; the first that is no NaN is."""
        if value != value:  # NaN
            return False
        if self.best is None:
            return True
        return value + self.min_delta < self.best if self.mode == "min" else value - self.min_delta > self.best


class Patience(_Record):
    """Early stopping, as Keras and Lightning define it: stop once `patience` values in a row were no better.

    Parameters
    ----------
    patience : int
        At least 1.
    min_delta : float
        A value is better that is by more than this below the best so far, or above where mode is "max". Small steps
        that each are no better do not move what is the best.
    mode : {"min", "max"}

    Attributes
    ----------
    best : float or None
        None before the first value that is no NaN.
    waited : int
        Values since, NaN among them.
    stopped : bool
        Whether that are `patience` ones.

    Examples
    --------
    >>> patience = Patience(2)
    >>> [patience.update(loss) for loss in (1.0, 0.5, 0.6, 0.4, 0.4, float("nan"))]
    ['better', 'better', 'waiting', 'better', 'waiting', 'stop']
    """

    def __init__(self, patience: int, min_delta: float = 0.0, mode: str = "min") -> None:
        super().__init__("Patience", min_delta, mode)
        self.patience = arguments.positive_int("Patience", "patience", patience)
        self.waited = 0

    @property
    def stopped(self) -> bool:
        """Whether the last `patience` values were no better."""
        return self.waited >= self.patience

    def update(self, value: float) -> str:
        """Take a value in; return "better", "waiting" or "stop". NaN is never better."""
        number = float(value)
        if self.is_better(number):
            self.best, self.waited = number, 0
            return "better"
        self.waited += 1
        return "stop" if self.stopped else "waiting"

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood."""
        self.best, self.waited = _taken("Patience", state, "best", "waited")

    def __repr__(self) -> str:
        return f"Patience({self.patience}): best {self.best}, {self.waited} since"


class Best(_Record):
    """The parameters at the best value so far.

    Parameters
    ----------
    params : Parameters
        The model's. Copied at each value that is better; `restore` writes the copy back.
    mode : {"min", "max"}

    Attributes
    ----------
    best : float or None
        The best value; None before the first that is no NaN.
    kept : Parameters or None
        The copy.

    Examples
    --------
    >>> import numpy as np
    >>> params = Parameters({"w": (1,)}, np.float64)
    >>> best = Best(params)
    >>> for w, loss in ((1.0, 0.5), (2.0, 0.25), (3.0, 0.75)):
    ...     params["w"] = [w]
    ...     better = best.update(loss)
    >>> best.restore()
    >>> params["w"], best.best
    (array([2.]), 0.25)
    """

    def __init__(self, params: Parameters, mode: str = "min") -> None:
        super().__init__("Best", 0.0, mode)
        self.params = arguments.parameters("Best", "params", params, "such as model.params")
        self.kept: Parameters | None = None

    def update(self, value: float) -> bool:
        """Take a value in; keep the parameters and return True where it is better than all before. NaN never is."""
        number = float(value)
        better = self.is_better(number)
        if better:
            self.best, self.kept = number, self.params.copy()
        return better

    def restore(self) -> None:
        """Write the kept parameters into the model's; leave these where none were kept."""
        if self.kept is not None:
            self.params.flat[:] = self.kept.flat

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the kept parameters, by name."""
        return {"best": self.best, "kept": None if self.kept is None else self.kept.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, of a model with the same parameters; StateDictError where it has others."""
        best, kept = _taken("Best", state, "best", "kept")
        if kept is not None:
            loaded = self.params.zeros_like()
            loaded.load_state_dict(kept)
            kept = loaded
        self.best, self.kept = best, kept

    def __repr__(self) -> str:
        return f"Best: {self.best}"


def _taken(where: str, state: Any, *names: str) -> tuple[Any, ...]:
    if not isinstance(state, Mapping) or set(state) != set(names):
        raise StateDictError(f"{where}.load_state_dict: state must have {' and '.join(names)}, as state_dict returns")
    return tuple(state[name] for name in names)
