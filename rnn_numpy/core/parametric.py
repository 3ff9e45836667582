"""What all that has parameters can do with them: layers, cells and models alike; and what is made of such parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.elsewhere import Elsewhere
from rnn_numpy.core.parameters import Parameters

Array = NDArray[Any]


class Parametric(Elsewhere):
    """Base of what has `params`."""

    params: Parameters

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, and of inputs, states and outputs that are no ids."""
        return self.params.dtype

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the parameters under their names, those of torch.nn in a layer, in their order."""
        return self.params.state_dict()

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Copy parameters in; see `Parameters.load_state_dict` for what is refused."""
        self.params.load_state_dict(mapping)

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin with its parameters converted to `dtype` (float32, float64, complex128).

        Raises
        ------
        DTypeError
            `dtype` is another one, or would drop imaginary parts.
        """
        twin = copy.copy(self)
        twin.params = arguments.converted(type(self).__name__, self.params, dtype)
        twin.params.of = self.params.of
        return twin


class Joined(Parametric):
    """Base of what is made of layers whose parameters lie in one vector, which an optimiser acts on.

    A subclass names the attributes that are layers in `layers`, in their order in the vector, and joins them at the end
    of its constructor with `join`. Such an attribute may be joined itself.

    Attributes
    ----------
    params : Parameters
        Those of all layers under the names "layer.name": views of one vector, as the layers' own are.
    """

    layers: ClassVar[tuple[str, ...]] = ()

    def join(self) -> None:
        """Lay the parameters of all layers into one new vector."""
        self.params = Parameters.join(self.parts())
        self.params.of = type(self).__name__
        self.rejoin()

    def rejoin(self) -> None:
        """Make the layers' parameters views of `params` again, whose values stay."""
        self.params.adopt(self.parts())
        for layer in self.held().values():
            if isinstance(layer, Joined):
                layer.rejoin()

    def held(self) -> dict[str, Parametric]:
        """Return the layers that there are, by name, in the order of the vector."""
        found = {name: getattr(self, name) for name in self.layers}
        return {name: layer for name, layer in found.items() if layer is not None}

    def parts(self) -> dict[str, Parameters]:
        """Return the parameters of each layer that has some, by its name."""
        return {name: layer.params for name, layer in self.held().items() if len(layer.params)}

    def generators(self) -> dict[str, np.random.Generator]:
        """Return the generators that masks of dropout are drawn from, by the layers' names."""
        found: dict[str, np.random.Generator] = {}
        for name, layer in self.held().items():
            if isinstance(layer, Joined):
                found |= {f"{name}.{inner}": rng for inner, rng in layer.generators().items()}
            elif isinstance(rng := getattr(layer, "rng", None), np.random.Generator):
                found[name] = rng
        return found

    def freeze_padding(self) -> None:
        """Do so in every layer that has padding; see `Embedding.freeze_padding`."""
        for layer in self.held().values():
            if hasattr(layer, "freeze_padding"):
                layer.freeze_padding()

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin with all parameters converted to `dtype`."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        for name, layer in self.held().items():
            setattr(twin, name, layer.astype(dtype))
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
        return f"{type(self).__name__}({', '.join(map(repr, self.held().values()))})"
