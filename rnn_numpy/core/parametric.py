"""What all that has parameters can do with them: layers, cells and models alike."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters

Array = NDArray[Any]


class Parametric:
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
        return twin
