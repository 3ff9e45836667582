"""The base of all tasks: sequences to draw, the loss to minimise, and the loss that a network has to beat."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments

Array = NDArray[Any]

SOLVED_SHARE = 0.1


class Batch(NamedTuple):
    """Sequences and what is asked of them.

    Attributes
    ----------
    x : ndarray, (T, N, D)
        Inputs, float64.
    target : ndarray
        Of a task that reads all steps (T, N, K), or int (T, N) for classes; of one that reads the last, without T.
    mask : ndarray of bool, or None
        Which targets count, (T, N) or (N,); None for all.
    """

    x: Array
    target: Array
    mask: NDArray[np.bool_] | None = None


class SequenceTask(abc.ABC):
    """Base of all tasks. A task is a small frozen dataclass: the same fields mean the same task.

    A task draws from the generator that it is given and from nothing else.
    """

    length: int

    @property
    def steps(self) -> int:
        """T, the number of steps of x: `length`, where a task does not say otherwise."""
        return self.length

    @property
    @abc.abstractmethod
    def inputs(self) -> int:
        """D, the width of x."""

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """K, the width of a prediction, or the number of classes."""

    @property
    @abc.abstractmethod
    def loss(self) -> str:
        """ "mse" or "cross_entropy" (softmax, in nats); a mean over all that counts."""

    @property
    @abc.abstractmethod
    def reads(self) -> str:
        """ "last": one prediction, after the last step; "all": one at each step."""

    @property
    @abc.abstractmethod
    def baseline(self) -> float:
        """The loss of what needs no memory, or of a linear fit: what a network has to beat."""

    @property
    def goal(self) -> float:
        """The loss below which the task counts as solved: the baseline; of a cross-entropy, a tenth of it."""
        return SOLVED_SHARE * self.baseline if self.loss == "cross_entropy" else self.baseline

    @abc.abstractmethod
    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw `batch` sequences to train on, N of them; `rng` may be a seed or None."""

    def held_out(self, batch: int, rng: np.random.Generator) -> Batch:
        """Return sequences to measure on. Of a task that is drawn without end these are a further draw."""
        return self.draw(batch, rng)


def sizes(where: str, batch: int, rng: np.random.Generator | int | None) -> tuple[int, np.random.Generator]:
    """Return what `draw` is given, checked."""
    return arguments.positive_int(where, "batch", batch), arguments.generator(where, rng)


def one_hot(symbols: NDArray[np.integer[Any]], count: int) -> Array:
    """Return (..., count) with 1 at the symbol's place, 0 elsewhere."""
    rows: Array = np.eye(count)[symbols]
    return rows
