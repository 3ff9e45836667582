"""What every model is: layers whose parameters lie in one vector, which an optimiser acts on.

Training asks a model for `params` and `loss_and_grads(*batch)`; `count(*batch)` says what that mean divides by, so that
losses and gradients of unequal batches can be added up, and `generators()` what a training must remember besides.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.parametric import Parametric

Array = NDArray[Any]


class Model(Parametric, ABC):
    """Base of models: some layers, their parameters joined in one vector.

    A subclass names the attributes that are layers in `layers`, in their order in the vector, and joins them at the end
    of its constructor with `join`. It brings `loss_and_grads`, `loss_of` and `count`, of a batch.

    Attributes
    ----------
    params : Parameters
        Those of all layers under the names "layer.name": views of one vector, as the layers' own are.
    """

    layers: ClassVar[tuple[str, ...]] = ()

    def join(self) -> None:
        """Lay the parameters of all layers into one new vector."""
        self.params = Parameters.join(self.parts())

    def rejoin(self) -> None:
        """Make the layers' parameters views of `params` again, whose values stay."""
        self.params.adopt(self.parts())

    def parts(self) -> dict[str, Parameters]:
        """Return the parameters of each layer, by its name, in the order of the vector."""
        return {name: getattr(self, name).params for name in self.layers}

    @abstractmethod
    def loss_and_grads(self, *batch: Any) -> tuple[Any, Parameters, Any]:
        """Return the mean loss of a batch, its gradients under the names of `params`, and a trace."""

    @abstractmethod
    def loss_of(self, *batch: Any) -> Any:
        """Return the mean loss of a batch alone, without dropout."""

    @abstractmethod
    def count(self, *batch: Any) -> float:
        """Return what the mean loss of a batch divides by: the sum of its losses is `count` times their mean."""

    def generators(self) -> dict[str, np.random.Generator]:
        """Return the generators that masks of dropout are drawn from, by the layers' names."""
        layers = {name: getattr(getattr(self, name), "rng", None) for name in self.layers}
        return {name: rng for name, rng in layers.items() if isinstance(rng, np.random.Generator)}

    def freeze_padding(self) -> None:
        """Do so in every layer that has padding; see `Embedding.freeze_padding`."""
        for layer in (getattr(self, name) for name in self.layers):
            if hasattr(layer, "freeze_padding"):
                layer.freeze_padding()

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin of this model with its parameters converted to `dtype`."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        for name in self.layers:
            setattr(twin, name, getattr(self, name).astype(dtype))
        twin.join()
        return twin

    def __copy__(self) -> Self:
        # A shallow copy would share layers, whose parameters can be views of one joint vector only.
        return copy.deepcopy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies and pickles bring the vectors apart. The layers join the copy of the joint vector, which is also the
        # one that an optimiser copied along with the model holds.
        self.__dict__.update(state)
        self.rejoin()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(getattr(self, name)) for name in self.layers)})"


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
