"""What is constant in an ONNX graph: initialisers, and what is computed from them, through the bodies around.

Exporters cut and join weights inside of the graph, so that W of a node is often the end of a row of small operators.
`Scope.constant` runs those of `FOLDED`; a name that depends on an input of the graph, or on another operator, is not
constant. Nothing is taken from the file unchecked: an array is as large as the bytes that are there for it, and what an
operator would make of it is at most `LARGEST`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.errors import ConversionError, DataError

Array = NDArray[Any]
Attributes = dict[str, Any]

LARGEST = 2**28  # bytes of an array that operators make
LARGEST_IN_ALL = 2**30
DEPTH = 100  # operators on top of each other
OWN_DOMAINS = ("", "ai.onnx")
# Operators that make zeros of zeros.
MOVED = {"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
         "Unsqueeze"}  # fmt: skip


class Source:
    """A model with what is needed to read its arrays: the library, the name for messages, the folder of its data."""

    def __init__(self, onnx: Any, begin: str, folder: Path | None) -> None:
        self.onnx, self.begin, self.folder = onnx, begin, folder
        self.made = 0  # bytes that operators have made

    def attributes(self, node: Any) -> Attributes:
        """Return the attributes of a node, texts as str."""
        try:
            found = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        except ValueError as error:
            raise DataError(f"{self.begin}: node {node.name!r}: {error}") from None
        return {plain(name): plain(value) for name, value in found.items()}

    def array(self, tensor: Any) -> Array:
        """Return the array that a TensorProto says, if its bytes are there."""
        place = f"{self.begin}: array {tensor.name!r}"
        shape = tuple(tensor.dims)
        try:
            dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{place}: its dtype, number {tensor.data_type}, is not known") from None
        count = math.prod(shape)
        if min(shape, default=0) < 0:
            raise DataError(f"{place}: its shape is {shape}")
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            return self._external(place, tensor, shape, dtype)
        if tensor.HasField("raw_data"):
            have = len(tensor.raw_data)
            if have != count * dtype.itemsize:
                raise DataError(
                    f"{place}: shape {shape} of {dtype} takes {count * dtype.itemsize} bytes; it has {have}"
                )
            return np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).reshape(shape)
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        entries = max(map(len, fields))
        if entries != count or tensor.string_data:  # complex and packed ones, which no weight is
            raise DataError(f"{place}: shape {shape} has {count} entries; the file has {entries} of numbers")
        return np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def _external(self, place: str, tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        if self.folder is None:
            raise DataError(f"{place}: lies in the file {location!r}; open the model by its path")
        folder = self.folder.resolve()
        try:
            path = (folder / location).resolve()
            outside = not location or not path.is_relative_to(folder) or not path.is_file()
        except (OSError, ValueError, RuntimeError):
            outside = True
        if outside:
            raise DataError(f"{place}: lies in {location!r}, which is no file in the folder of the model; not read")
        try:
            start = int(said.get("offset", "0"))
            length = int(said.get("length", path.stat().st_size - start))
        except ValueError:
            raise DataError(f"{place}: its offset or length in {location!r} is no number") from None
        size = math.prod(shape) * dtype.itemsize
        if start < 0 or length != size or start + size > path.stat().st_size:
            raise DataError(f"{place}: shape {shape} of {dtype} takes {size} bytes, which {location!r} does not have")
        with path.open("rb") as file:
            file.seek(start)
            return np.frombuffer(file.read(size), dtype.newbyteorder("<")).reshape(shape)


def plain(value: Any) -> Any:
    """Return an attribute's value with str in place of bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


class Scope:
    """The names of a graph, and of those whose body it is in.

    `path` says where the graph lies: "" for the model's own, else the names of the nodes around.
    """

    def __init__(self, source: Source, graph: Any, outer: Scope | None = None, path: str = "") -> None:
        self.source, self.graph, self.outer, self.path = source, graph, outer, path
        words = [one.name for many in (graph.initializer, graph.input, graph.output) for one in many]
        for node in graph.node:
            words += [node.name, node.op_type, node.domain, *node.input, *node.output]
        if any(isinstance(word, bytes) for word in words):  # as protobuf hands out what is no UTF-8
            raise DataError(f"{source.begin}: not a whole ONNX file: a name in it is no text")
        self.made = {name: node for node in graph.node for name in node.output if name}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {given.name for given in graph.input}
        self._known: dict[str, Array | None] = {}
        self._zeros: dict[str, bool] = {}

    def inner(self) -> Iterator[Scope]:
        """Yield this scope, and those of all bodies in it, however deep."""
        todo = [self]
        while todo:
            scope = todo.pop()
            yield scope
            bodies = []
            for index, node in enumerate(scope.graph.node):
                for attribute in node.attribute:
                    for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                        own = f"{node.name or f'{node.op_type}_{index}'}/{attribute.name}"
                        bodies.append(Scope(scope.source, body, scope, f"{scope.path}/{own}".lstrip("/")))
            todo += reversed(bodies)

    def owner(self, name: str) -> Scope | None:
        """Return the scope that makes a name: this one, or one around it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.made or name in scope._tensors or name in scope._inputs:
                return scope
            scope = scope.outer
        return None

    def maker(self, name: str) -> Any:
        """Return the node that makes a name, None where it is an input, or an array."""
        scope = self.owner(name)
        return None if scope is None else scope.made.get(name)

    def constant(self, name: str, depth: int = 0) -> Array | None:
        """Return the array that a name always stands for, None where there is none."""
        scope = self.owner(name)
        if scope is None or depth > DEPTH:
            return None
        if name not in scope._known:
            scope._known[name] = None  # whatever asks for itself
            if name in scope._tensors:
                scope._known[name] = self.source.array(scope._tensors[name])
            elif name in scope.made:
                scope._known.update(scope._folded(scope.made[name], depth))
        return scope._known[name]

    def always_zero(self, name: str, depth: int = 0) -> bool:
        """Whether a name stands for zeros, of whatever shape."""
        scope = self.owner(name)
        if scope is None or depth > DEPTH:
            return False
        if name not in scope._zeros:
            scope._zeros[name] = False  # whatever asks for itself
            scope._zeros[name] = scope._is_zero(name, depth)
        return scope._zeros[name]

    def _is_zero(self, name: str, depth: int) -> bool:
        array, node = self.constant(name), self.made.get(name)
        if array is not None:
            return not array.any()
        if node is None or node.domain not in OWN_DOMAINS:
            return False
        if node.op_type == "ConstantOfShape":
            value = self.attribute(node, "value")
            return value is None or not self.source.array(value).any()
        of = list(node.input) if node.op_type == "Concat" else list(node.input)[:1]
        return node.op_type in MOVED and all(self.always_zero(given, depth + 1) for given in of)

    def attribute(self, node: Any, name: str) -> Any:
        """Return one attribute of a node, None where it is not there."""
        return self.source.attributes(node).get(name)

    def why_not(self, name: str) -> str:
        """Say what keeps a name from being constant."""
        for _ in range(DEPTH):
            node = self.maker(name)
            if node is None:
                return f"{name!r} is an input of the graph"
            if node.op_type not in FOLDED or node.domain not in OWN_DOMAINS:
                return f"it is computed by the operator {node.op_type} ({node.name!r})"
            name = next((given for given in node.input if given and self.constant(given) is None), "")
            if not name:
                break
        return "its computation is too long"

    def _folded(self, node: Any, depth: int) -> dict[str, Array | None]:
        """Return what a node makes by name, all None where that is not constant."""
        nothing = dict.fromkeys(filter(None, node.output))
        fold = FOLDED.get(node.op_type) if node.domain in OWN_DOMAINS else None
        if fold is None:
            return nothing
        given = [self.constant(name, depth + 1) if name else None for name in node.input]
        if any(name and array is None for name, array in zip(node.input, given, strict=True)):
            return nothing
        attributes = self.source.attributes(node)
        if node.op_type == "Constant" and "value" in attributes:
            attributes["value"] = self.source.array(attributes["value"])
        if node.op_type == "ConstantOfShape":
            value = attributes.get("value")
            attributes["value"] = np.zeros(1, np.float32) if value is None else self.source.array(value)
        if node.op_type == "Cast":
            attributes["to"] = self.source.onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
        attributes["outputs"] = len(node.output)
        place = f"{self.source.begin}: node {node.name!r} ({node.op_type})"
        try:
            made = fold(given, attributes)
        except TooLargeError as error:
            raise DataError(f"{place}: would make an array of {error} bytes; not done") from None
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
            raise DataError(f"{place}: cannot be computed: {error}") from None
        arrays = made if isinstance(made, list) else [made]
        self.source.made += sum(array.nbytes for array in arrays if array.base is None)
        if self.source.made > LARGEST_IN_ALL:
            raise DataError(f"{place}: operators would make arrays of more than {LARGEST_IN_ALL} bytes; not done")
        return nothing | dict(zip(node.output, arrays, strict=False))


class TooLargeError(Exception):
    """An operator would make more than `LARGEST` bytes."""


# ------------------------------------------------------------------------------------------------------- the operators


def _limited(shape: Sequence[int], dtype: Any) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in shape)
    if (total := math.prod(sizes) * np.dtype(dtype).itemsize) > LARGEST:
        raise TooLargeError(total)
    return sizes


def _listed(given: Sequence[Array | None], at: int, attributes: Attributes, name: str) -> list[int] | None:
    """Return axes, starts, ...: an input in newer versions of an operator, an attribute in older ones."""
    found = given[at] if len(given) > at else None
    if found is None:
        found = attributes.get(name)
    return None if found is None else [int(entry) for entry in np.reshape(found, -1)]


def _constant(given: Any, attributes: Attributes) -> Array:
    if "value" in attributes:
        value: Array = attributes["value"]
        return value
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for key in (name, f"{name}s"):
            if key in attributes:
                return np.asarray(attributes[key], dtype)
    raise ValueError("it has no number")


def _slice(given: Any, attributes: Attributes) -> Array:
    data = given[0]
    starts, ends = (_listed(given, at, attributes, name) or [] for at, name in ((1, "starts"), (2, "ends")))
    axes = _listed(given, 3, attributes, "axes") or list(range(len(starts)))
    steps = _listed(given, 4, attributes, "steps") or [1] * len(starts)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    sliced: Array = data[tuple(index)]
    return sliced


def _unsqueeze(given: Any, attributes: Attributes) -> Array:
    return np.expand_dims(given[0], tuple(_listed(given, 1, attributes, "axes") or ()))


def _squeeze(given: Any, attributes: Attributes) -> Array:
    axes = _listed(given, 1, attributes, "axes")
    return np.asarray(np.squeeze(given[0], None if axes is None else tuple(axes)))


def _reshape(given: Any, attributes: Attributes) -> Array:
    data, shape = given[0], _listed(given, 1, attributes, "shape") or []
    if not attributes.get("allowzero"):
        shape = [data.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    reshaped: Array = data.reshape(shape)
    return reshaped


def _split(given: Any, attributes: Attributes) -> list[Array]:
    data, axis = given[0], attributes.get("axis", 0)
    sizes = _listed(given, 1, attributes, "split")
    if sizes is None:
        return np.array_split(data, attributes["outputs"], axis)
    if sum(sizes) != data.shape[axis] or min(sizes) < 0:
        raise ValueError(f"parts of {sizes} do not make {data.shape[axis]}")
    return np.split(data, np.cumsum(sizes)[:-1], axis)


def _concat(given: Any, attributes: Attributes) -> Array:
    if sum(array.nbytes for array in given) > LARGEST:
        raise TooLargeError(sum(array.nbytes for array in given))
    return np.concatenate(given, attributes["axis"])


def _gather(given: Any, attributes: Attributes) -> Array:
    data, indices, axis = given[0], given[1], attributes.get("axis", 0)
    _limited([indices.size, *(size for at, size in enumerate(data.shape) if at != axis % data.ndim)], data.dtype)
    return np.asarray(np.take(data, indices, axis))


def _expand(given: Any, attributes: Attributes) -> Array:
    shape = np.broadcast_shapes(given[0].shape, tuple(_listed(given, 1, attributes, "shape") or ()))
    return np.broadcast_to(given[0], _limited(shape, given[0].dtype))


def _of_shape(given: Any, attributes: Attributes) -> Array:
    value = attributes["value"].reshape(-1)[0]
    return np.broadcast_to(value, _limited(_listed(given, 0, attributes, "shape") or (), value.dtype))


def _dequantized(given: Any, attributes: Attributes) -> Array:
    data, scale = given[0], given[1]
    zero = given[2] if len(given) > 2 and given[2] is not None else np.zeros((), data.dtype)
    if scale.size > 1:
        along = [1] * data.ndim
        along[attributes.get("axis", 1)] = -1
        scale, zero = scale.reshape(along), zero.reshape(along) if zero.size > 1 else zero
    _limited(data.shape, np.float32)
    shifted: Array = data.astype(np.int32) - zero.astype(np.int32)
    return np.asarray(np.multiply(shifted, scale), scale.dtype)


def _arithmetic(function: Callable[[Array, Array], Array]) -> Callable[[Any, Attributes], Array]:
    def fold(given: Any, attributes: Attributes) -> Array:
        _limited(np.broadcast_shapes(given[0].shape, given[1].shape), np.float64)
        with np.errstate(all="ignore"):
            return np.asarray(function(given[0], given[1]))

    return fold


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    if not b.all():
        raise ValueError("division by 0")
    return np.asarray((np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype))  # ONNX rounds to 0


FOLDED: dict[str, Callable[[Any, Attributes], Array | list[Array]]] = {
    "Constant": _constant,
    "ConstantOfShape": _of_shape,
    "Identity": lambda given, attributes: given[0],
    "Cast": lambda given, attributes: given[0].astype(attributes["to"]),
    "Shape": lambda given, attributes: np.array(
        given[0].shape[slice(attributes.get("start", 0), attributes.get("end"))], np.int64
    ),
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": lambda given, attributes: np.transpose(given[0], attributes.get("perm")),
    "Gather": _gather,
    "Expand": _expand,
    "DequantizeLinear": _dequantized,
    "Neg": lambda given, attributes: -given[0],
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divide),
}


def refuse_if_not_constant(scope: Scope, place: str, slot: str, name: str) -> Array:
    """Return the array of a name, or say in ConversionError why there is none."""
    array = scope.constant(name)
    if array is None:
        raise ConversionError(f"{place}: {slot} is not constant: {scope.why_not(name)}")
    return array
