"""Named arrays that are views of one flat vector: parameters, and their gradients as a second instance.

What acts on all parameters at once (zeroing, clipping, an optimiser's step) acts on `flat`; what means one of them says
its name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core.memory import machine_memory
from rnn_numpy.core.numbers import in_bytes
from rnn_numpy.errors import DTypeError, OptionError, ShapeError, StateDictError, TooLargeError

Array = NDArray[Any]
Shape = tuple[int, ...]

LARGE = 2**28  # bytes, below which nobody asks whether there is memory


class Parameters(Mapping[str, Array]):
    """A mapping from names to arrays, all of them views of one vector `flat`.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Name and shape of each array, in the order in which they lie in `flat`.
    dtype : dtype
        Of all arrays.
    flat : ndarray, (P,), optional
        The vector to view, P the sum of the sizes; not copied. Zeros where it is left out.

    Raises
    ------
    ShapeError
        `flat` does not have P entries.

    Examples
    --------
    >>> import numpy as np
    >>> params = Parameters({"weight": (2, 3), "bias": (2,)}, np.float64)
    >>> params["bias"][:] = 1.0
    >>> params.flat
    array([0., 0., 0., 0., 0., 0., 1., 1.])
    >>> grads = params.zeros_like()
    >>> params.flat -= 0.1 * grads.flat
    """

    of = ""  # the kind of layer or model whose parameters these are; gradients and copies are nobody's

    def __init__(self, shapes: Mapping[str, Shape], dtype: DTypeLike, flat: Array | None = None) -> None:
        self.shapes: dict[str, Shape] = {name: tuple(shape) for name, shape in shapes.items()}
        size = sum(math.prod(shape) for shape in self.shapes.values())
        if flat is None:
            _check_memory(self.shapes, size * np.dtype(dtype).itemsize)
            flat = np.zeros(size, dtype)
        if flat.shape != (size,):
            raise ShapeError(f"Parameters: flat must have shape (P,) = ({size},); got {flat.shape}")
        if flat.dtype != dtype:
            raise DTypeError(f"Parameters: flat must have dtype {np.dtype(dtype)}; got {flat.dtype}")
        self._places: list[tuple[str, int, int, Shape]] = []
        start = 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            self._places.append((name, start, stop, shape))
            start = stop
        self._attach(flat)

    def _attach(self, flat: Array) -> None:
        self._flat = flat
        self.dtype: np.dtype[Any] = flat.dtype
        self.__dict__.pop("arrays", None)

    @functools.cached_property
    def arrays(self) -> dict[str, Array]:
        """The named arrays."""
        flat = self._flat
        return {name: flat[start:stop].reshape(shape) for name, start, stop, shape in self._places}

    def twin(self, flat: Array) -> Parameters:
        """Return the same names and shapes over another vector, (P,), which is not copied."""
        twin = object.__new__(type(self))
        twin.shapes, twin._places = self.shapes, self._places
        twin._attach(flat)
        return twin

    @classmethod
    def join(cls, parts: Mapping[str, Parameters]) -> Parameters:
        """Lay the vectors of several parts, all of one dtype, into one, under the names "prefix.name".

        The parts are moved: their `flat` is a slice of the result's from now on, so that a layer inside of a model sees
        what the optimiser does to the model.
        """
        dtypes = {part.dtype for part in parts.values()}
        if len(dtypes) != 1:
            raise OptionError(
                f"Parameters.join: parts must share one dtype; got {sorted(map(str, dtypes)) or 'no parts'}"
            )
        shapes = {f"{prefix}.{name}": shape for prefix, part in parts.items() for name, shape in part.shapes.items()}
        joint = cls(shapes, dtypes.pop(), np.concatenate([part.flat for part in parts.values()]))
        joint.adopt(parts)
        return joint

    def adopt(self, parts: Mapping[str, Parameters]) -> None:
        """Make each part a view of the stretch of this vector that has its prefix; the values are this vector's."""
        for prefix, part in parts.items():
            part._attach(self.part(prefix).flat)

    def part(self, prefix: str) -> Parameters:
        """Return the parameters below `prefix`, as given to `join`, sharing memory with this vector."""
        start = 0
        shapes: dict[str, Shape] = {}
        first = None
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            if name.startswith(prefix + "."):
                first = start if first is None else first
                shapes[name[len(prefix) + 1 :]] = shape
            start += size
        if first is None:
            raise StateDictError(f"Parameters.part: no name begins with {prefix + '.'!r}; names are {list(self)}")
        stop = first + sum(math.prod(shape) for shape in shapes.values())
        found = Parameters(shapes, self.dtype, self.flat[first:stop])
        found.of = self.of
        return found

    @property
    def flat(self) -> Array:
        """The vector, (P,). Assigning to it copies into it, since the named arrays are views of this very memory."""
        return self._flat

    @flat.setter
    def flat(self, values: ArrayLike) -> None:
        """Copy `values`, (P,), into the vector."""
        if values is not self._flat:  # `flat -= step` has written in place already
            self._copy_in("flat", self._flat, values)

    def _copy_in(self, name: str, target: Array, values: ArrayLike) -> None:
        array = np.asarray(values)
        if array.shape != target.shape:
            raise ShapeError(f"Parameters: {name} must have shape {target.shape}; got {array.shape}")
        if not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise DTypeError(f"Parameters: {name} must be convertible to {self.dtype}; got {array.dtype}")
        target[...] = array

    def zeros_like(self) -> Parameters:
        """Return a second instance of the same structure, all zeros: a place for gradients."""
        return self.twin(np.zeros_like(self.flat))

    def copy(self) -> Parameters:
        """Return an independent copy."""
        return self.twin(self.flat.copy())

    def astype(self, dtype: DTypeLike) -> Parameters:
        """Return an independent copy in another dtype."""
        try:
            target = np.dtype(dtype)
        except TypeError:
            raise DTypeError(f"Parameters.astype: not a dtype: {dtype!r}") from None
        return self.twin(self.flat.astype(target))

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all arrays under their names."""
        return {name: array.copy() for name, array in self.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Copy the arrays of `mapping` into this vector; all of them or, where one does not fit, none.

        Names and shapes must be exactly this instance's. Values are rounded to this dtype where that needs no more than
        a change of precision; complex values for real parameters are refused. What does not fit raises StateDictError.
        """
        if not isinstance(mapping, Mapping):
            raise StateDictError(
                f"load_state_dict: expected a mapping of names to arrays; got {type(mapping).__name__}"
            )
        missing = [name for name in self if name not in mapping]
        unknown = [name for name in mapping if name not in self]
        if missing or unknown:
            differences = f"missing: {missing or 'none'}; unknown: {unknown or 'none'}"
            raise StateDictError(f"load_state_dict: names must be {list(self)}; {differences}")
        checked: dict[str, Array] = {}
        for name, shape in self.shapes.items():
            try:
                value = np.asarray(mapping[name])
            except (ValueError, TypeError, RuntimeError) as error:
                raise StateDictError(f"load_state_dict: {name} must be an array: {error}") from None
            if value.shape != shape:
                raise StateDictError(f"load_state_dict: {name} must have shape {shape}; got {value.shape}")
            if not np.can_cast(value.dtype, self.dtype, "same_kind"):
                raise StateDictError(f"load_state_dict: {name} must be convertible to {self.dtype}; got {value.dtype}")
            checked[name] = np.array(value, self.dtype)  # a copy: values may be views of this very vector
        for name, value in checked.items():
            self[name][...] = value

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise KeyError(f"{name!r}; names are {', '.join(self.arrays)}")
        return self.arrays[name]

    def __setitem__(self, name: str, values: ArrayLike) -> None:
        self._copy_in(name, self[name], values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    # Those of a Mapping would ask for each name by itself.
    def items(self) -> ItemsView[str, Array]:
        """Return names and arrays."""
        return self.arrays.items()

    def values(self) -> ValuesView[Array]:
        """Return the arrays."""
        return self.arrays.values()

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self.arrays.keys()

    def __reduce__(self) -> tuple[Any, ...]:
        # Views would be pickled and deep-copied as arrays of their own; rebuilding them keeps them views of `flat`.
        return Parameters, (self.shapes, self.dtype, self.flat.copy()), {"of": self.of}

    def __repr__(self) -> str:
        rows = "\n".join(f"  {name:<24} {shape}" for name, shape in self.shapes.items())
        return f"Parameters({self.flat.size} entries, {self.dtype})\n{rows}"


class Gradients:
    """What a backward pass returns: `dx`, gradients of states under their names, and `grads`, those of the parameters,
    the same object that was handed in, if one was.
    """

    dx: Array
    grads: Parameters

    def __init__(self, dx: Array, states: Mapping[str, Array], grads: Parameters) -> None:
        vars(self).update(dx=dx, **states, grads=grads)

    def named(self) -> dict[str, Any]:
        """Return all gradients but those of the parameters, by name."""
        return {name: array for name, array in vars(self).items() if name[:1] == "d"}

    def __repr__(self) -> str:
        rows = [f"{name} {getattr(array, 'shape', type(array).__name__)}" for name, array in self.named().items()]
        return f"{type(self).__name__}({', '.join(rows)}, grads of {', '.join(self.grads)})"


def _check_memory(shapes: Mapping[str, Shape], size: int) -> None:
    """Refuse parameters that the machine has no memory for, before the system gives it page by page, and then kills."""
    if size < LARGE or (there := machine_memory()) is None or 2 * size <= there:
        return
    name = max(shapes, key=lambda name: math.prod(shapes[name]))
    sizes = " x ".join(map(str, shapes[name]))
    raise TooLargeError(
        f"Parameters: {name} alone, {sizes}, would be {math.prod(shapes[name]):.3g} numbers; all parameters together "
        f"would take {in_bytes(size)}, and as much again while they are drawn. This machine has {in_bytes(there)} of "
        "memory: use smaller sizes"
    )
