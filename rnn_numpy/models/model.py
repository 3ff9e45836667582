"""What every model is: layers whose parameters lie in one vector, which an optimiser acts on.

Training asks a model for `params` and `loss_and_grads(*batch)`; `count(*batch)` says what that mean divides by, so that
losses and gradients of unequal batches can be added up, and `generators()` what a training must remember besides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.parametric import Joined

Array = NDArray[Any]


class Model(Joined, ABC):
    """Base of models: layers joined in one vector, which bring `loss_and_grads`, `loss_of` and `count`, of a batch."""

    @abstractmethod
    def loss_and_grads(self, *batch: Any, **options: Any) -> tuple[Any, Parameters, Any]:
        """Return the mean loss of a batch, its gradients under the names of `params`, and a trace."""

    @abstractmethod
    def loss_of(self, *batch: Any) -> Any:
        """Return the mean loss of a batch alone, without dropout."""

    @abstractmethod
    def count(self, *batch: Any) -> float:
        """Return what the mean loss of a batch divides by: the sum of its losses is `count` times their mean."""


def counted(targets: ArrayLike, mask: ArrayLike | None, options: Mapping[str, Any]) -> float:
    """Return what `cross_entropy_loss`, called with these, divides the sum of the losses by."""
    classes = np.asarray(targets)
    if options.get("reduction", "token") != "token":
        return float(classes.shape[1]) if options["reduction"] == "sentence" else 1.0
    ignored, weight = options.get("ignore_index"), options.get("weight")
    if mask is None and ignored is None and weight is None:
        return float(classes.size)
    keep = np.ones(classes.shape, bool) if mask is None else np.asarray(mask)
    if ignored is not None:
        keep = keep & (classes != ignored)
    return float(np.count_nonzero(keep)) if weight is None else float(np.asarray(weight)[classes[keep]].sum())
