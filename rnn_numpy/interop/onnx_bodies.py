"""Cells that an exporter has written out, in the body of an ONNX Loop or Scan, or step by step without one.

tf2onnx does so with Keras' GRU and SimpleRNN, and with every masked layer. Which operators stand there, and in which
order, differs between versions; what they compute does not. So a body is read as formulas: each value is a sum of
products of few factors, x_t and the states, their products with matrices, and activations of such sums. In this form
z h + (1 - z) n and n + z (h - n) are one, a slice of a product is the product with a slice, and a cell is told by the
few products that its new states are.

What is found is not believed: the layer is compared with a run of the body itself (`Cell.step`), operator by operator,
before it is handed out.

A mask, a truth value for each sequence, chooses between new and old states. The formulas are those of steps that it
lets through; `Cell.keeps_states` runs one that it does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.errors import RNNNumpyError
from rnn_numpy.interop.onnx import activation_names, plain_function
from rnn_numpy.interop.onnx_constants import FOLDED, LARGEST, OWN_DOMAINS, Scope
from rnn_numpy.layers.general import FUNCTIONS, Activation

Array = NDArray[Any]

MOST_TERMS = 64
LARGEST_EYE = 4096  # units of a vector that enters without a matrix
COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Or", "Not", "Xor")
MOVING = ("Identity", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Expand", "ReverseSequence", "Slice")
BOOL = 9  # of TensorProto
USUAL = {"RNN": ["tanh"], "LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


class UnknownError(Exception):
    """A value has no such formula; the text says why."""


@dataclass(frozen=True, eq=False)
class Vector:
    """x_t, or a state as it comes in; size 0 where the file does not say it."""

    name: str
    size: int = 0


@dataclass(frozen=True, eq=False)
class Product:
    """A vector, or a sum of products, times a matrix."""

    of: Any
    matrix: Array


@dataclass(frozen=True, eq=False)
class Applied:
    """An activation of a sum."""

    function: Activation
    of: Sum


Factor = Vector | Product | Applied


class Sum:
    """A sum of products of factors, each with a coefficient: a number, or one for each unit."""

    def __init__(self, terms: Mapping[tuple[Factor, ...], Array]) -> None:
        if len(terms) > MOST_TERMS:
            raise UnknownError("its formula is too long")
        # What is multiplied by 0, such as the side that a mask does not take, is not there.
        self.terms = {factors: coefficient for factors, coefficient in terms.items() if coefficient.any()}
        self.size = self._size()  # of its last axis, 0 where it is not known

    def _size(self) -> int:
        sizes = [coefficient.size for coefficient in self.terms.values() if coefficient.ndim]
        for factor in (factor for factors in self.terms for factor in factors):
            if isinstance(factor, Product):
                sizes.append(factor.matrix.shape[1])
            else:
                sizes.append(factor.size if isinstance(factor, Vector) else factor.of.size)
        return max(sizes, default=0)

    def __add__(self, other: Sum) -> Sum:
        terms = dict(self.terms)
        for factors, coefficient in other.terms.items():
            terms[factors] = terms[factors] + coefficient if factors in terms else coefficient
        return Sum(terms)

    def __mul__(self, other: Sum) -> Sum:
        made = Sum({})
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                made += Sum({tuple(sorted(left + right, key=id)): a * b})
        return made

    def same(self, other: Sum) -> bool:
        """Whether both have the same products and coefficients."""
        return self.terms.keys() == other.terms.keys() and all(
            np.array_equal(coefficient, other.terms[factors]) for factors, coefficient in self.terms.items()
        )


Value = Sum | Array | bool | str  # a str, "step", is the number of the step

ONE = np.ones(())
ZERO = np.zeros((), np.float32)


def _constant(array: Array) -> Sum:
    """Return the sum that is a constant."""
    row = array.reshape(array.shape[-1:]) if array.size == math.prod(array.shape[-1:]) else None
    if row is None or array.dtype.kind not in "fiu":
        raise UnknownError(f"a constant of shape {array.shape} in it is no row")
    return Sum({(): row if row.size != 1 else row.reshape(())})


def _sum(value: Value) -> Sum:
    if isinstance(value, Sum):
        return value
    if isinstance(value, np.ndarray):
        return _constant(value)
    raise UnknownError("the number of a step, or a mask, is computed with")


# ------------------------------------------------------------------------------------------------------ a body


@dataclass(eq=False)
class Cell:
    """A cell that a body is: what an operator of ONNX would have of it.

    `initial` are the outer names of the initial states, by slot, `sequence` that of X, `output` that of the outputs of
    all steps, (T, N, H), "" where there is none.
    """

    body: Body
    kind: str
    arrays: dict[str, Array]
    attributes: dict[str, Any]
    states: tuple[str, ...]
    sequence: str
    output: str
    initial: dict[str, str]

    def step(self, x_t: Array, *states: Array, masked: bool = False) -> tuple[Array, ...]:
        """Run the body once; return the new states, h first."""
        known = self.body.run(dict(zip(self.states, (x_t, *states), strict=True)), masked)
        return tuple(np.asarray(known[self.body.carried[name][1]]) for name in self.states[1:])

    def keeps_states(self) -> bool:
        """Whether a step that a mask does not let through leaves the states as they are."""
        if not self.body.masks:
            return True
        rng = np.random.default_rng(1)
        D, H, dtype = self.arrays["W"].shape[2], self.arrays["R"].shape[2], self.arrays["R"].dtype
        x_t, *states = (rng.normal(size=(2, size)).astype(dtype) for size in (D, *[H] * (len(self.states) - 1)))
        with np.errstate(all="ignore"):
            after = self.step(x_t, *states, masked=True)
        return all(np.array_equal(new, old) for new, old in zip(after, states, strict=True))


class Body:
    """The body of a Loop or Scan, and what its names stand for."""

    def __init__(self, scope: Scope, node: Any, body: Scope, lets_through: bool = True) -> None:
        self.outer, self.node, self.scope = scope, node, body
        self.lets_through = lets_through  # what a mask is where a step is made
        self.nodes: list[Any] = list(body.graph.node)
        self.carried: dict[str, tuple[str, str]] = {}  # of a state: its outer name, and the name of its new value
        self.sequences: dict[str, str] = {}  # of a name in the body: the outer name that it is a step of
        self.masks: set[str] = set()
        self.taken = 0  # bytes
        self.reverse = False
        self.slices: dict[tuple[Factor, int, int], Factor] = {}
        self.aliases: dict[str, str] = {}  # of what stays the same at every step: its outer name
        self.step_name = ""
        self.made: tuple[list[str], list[str]] = [], []
        self._match_names()

    def _match_names(self) -> None:
        """Say which inputs and outputs of the body belong to which of the node."""
        given = [one.name for one in self.scope.graph.input]
        made = [one.name for one in self.scope.graph.output]
        names = list(self.node.input)
        if self.node.op_type == "Loop":
            if len(given) != len(names) or len(made) < len(names) - 1:
                raise UnknownError("its body has other inputs than it")
            self.step_name, given, made, names = given[0], given[2:], made[1:], names[2:]
            count = len(names)
        else:
            scans = self.outer.attribute(self.node, "num_scan_inputs")
            count = len(names) - (scans if isinstance(scans, int) else 0)
            if not 0 <= count <= len(names) == len(given) or len(made) < count:
                raise UnknownError("its body has other inputs than it")
            axes = self.outer.attribute(self.node, "scan_input_axes")
            ways = self.outer.attribute(self.node, "scan_input_directions") or [0] * (len(names) - count)
            if axes and any(axes):
                raise UnknownError("it takes the steps from another axis than the first")
            if len(set(ways)) != 1:
                raise UnknownError("it goes through its inputs in different directions")
            self.reverse = ways[0] == 1
            back = self.outer.attribute(self.node, "scan_output_directions")
            if back and any(bool(way) != self.reverse for way in back):
                raise UnknownError("its outputs come in another direction than its inputs")
            self.sequences = dict(zip(given[count:], names[count:], strict=True))
        for inner, outer, new in zip(given[:count], names, made, strict=False):
            if self._plain_name(new) == inner:
                self.aliases[inner] = outer
            else:
                self.carried[inner] = (outer, new)
        self.made = made[:count], made[count:]
        self.sizes = {one.name: _last_size(one) for one in self.scope.graph.input}

    def _plain_name(self, name: str) -> str:
        for _ in range(len(self.nodes)):
            node = self.scope.made.get(name)
            if node is None or node.op_type != "Identity" or not node.input:
                break
            name = node.input[0]
        return name

    def _constant(self, name: str) -> Array | None:
        if name in self.aliases:
            outer = self.aliases[name]
            found = self.outer.constant(outer)
            return ZERO if found is None and self.outer.always_zero(outer) else found
        if name in self.carried or name in self.sequences or name == self.step_name:
            return None
        return self.scope.constant(name)

    def _outer_name(self, name: str) -> str | None:
        """Return the outer name of something that is the same at every step, None where it is not."""
        if name in self.aliases:
            return self.aliases[name]
        owner = self.scope.owner(name)
        return None if owner is self.scope else name

    def _is_mask(self, name: str) -> bool:
        """Whether an outer name, or an input of the body, stands for truth values."""
        for _ in range(20):
            owner, node = self.outer.owner(name), self.outer.maker(name)
            if node is None:
                inputs = [] if owner is None else owner.graph.input
                return any(one.name == name and one.type.tensor_type.elem_type == BOOL for one in inputs)
            if node.op_type == "Cast":
                return bool(self.outer.attribute(node, "to") == BOOL)
            if node.op_type not in MOVING:
                return node.op_type in COMPARISONS
            name = node.input[0]
        return False

    # -------------------------------------------------------------------------------------------- formulas

    def formulas(self) -> dict[str, Value | UnknownError]:
        """Return what each name of the body stands for, at a step that masks let through."""
        self.values: dict[str, Value | UnknownError] = {}
        self.vectors: dict[str, Vector] = {}
        for inner, (outer, _) in self.carried.items():
            first = self.outer.constant(outer)
            if first is not None and first.dtype.kind in "iu" and first.size == 1:
                started = int(first.reshape(())) == 0
                self.values[inner] = "step" if started else UnknownError("it does not begin with the first step")
            else:
                self.values[inner] = self._vector(inner)
        if self.step_name:
            self.values[self.step_name] = "step"
        for inner, outer in self.sequences.items():
            self.values[inner] = self._read(inner, outer)
        for node in self.nodes:
            try:
                made = self._operator(node)
            except UnknownError as error:
                made = [error] * len(node.output)
            except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
                made = [UnknownError(f"{node.op_type} ({node.name!r}): {error}")] * len(node.output)
            self.values.update(zip(node.output, made, strict=False))
        self.masks &= self._behind(new for _, new in self.carried.values() if isinstance(self.values.get(new), Sum))
        return self.values

    def _behind(self, names: Iterable[str]) -> set[str]:
        """Return all names that some are computed from."""
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                node = self.scope.made.get(name)
                todo += [] if node is None else list(node.input)
        return found

    def _vector(self, name: str, outer: str = "") -> Sum:
        self.vectors[name] = vector = Vector(outer or name, self.sizes.get(name, 0))
        return Sum({(vector,): ONE})

    def _read(self, name: str, outer: str) -> Value:
        """Return a step of a sequence: of X, or of a mask."""
        self.sequences[name] = outer
        if self._is_mask(outer):
            self.masks.add(name)
            return self.lets_through
        known = [inner for inner, other in self.sequences.items() if other == outer and inner in self.vectors]
        return Sum({(self.vectors[known[0]],): ONE}) if known else self._vector(name, outer)

    def value(self, name: str) -> Value:
        """Return what a name stands for."""
        if name in self.values:
            found = self.values[name]
            if isinstance(found, UnknownError):
                raise found
            return found
        constant = self._constant(name)
        if constant is None:
            raise UnknownError(f"{name!r}, which is not constant, is read at every step")
        return constant

    def _operator(self, node: Any) -> Sequence[Value | UnknownError]:
        kind = node.op_type if node.domain in OWN_DOMAINS else f"{node.domain}.{node.op_type}"
        names = [name for name in node.input if name]
        constants = [self._constant(name) if name not in self.values else None for name in names]
        if kind == "Gather" and constants[0] is None and self.values.get(names[1]) == "step":
            outer = self._outer_name(names[0])
            if outer is not None and not self.scope.attribute(node, "axis"):
                return [self._read(node.output[0], outer)]
        attributes = self.scope.source.attributes(node)
        if kind in FOLDED and all(isinstance(self.values.get(name, given), np.ndarray)
                                  for name, given in zip(names, constants, strict=True)):  # fmt: skip
            every = [self.value(name) if name else None for name in node.input]
            found = self._folded(kind, node, every, attributes)
            return found if isinstance(found, list) else [found]
        if kind in COMPARISONS:
            return [self._truth(kind, names, node.output[0])]
        given = [self.value(name) for name in names]
        function = OPERATORS.get(kind)
        if function is not None:
            return function(self, given, {**attributes, "outputs": len(node.output)})
        if kind.lower() in FUNCTIONS and len(given) == 1:
            options = {name: value for name, value in attributes.items() if name in ("alpha", "beta")}
            return [self._applied(Activation(kind, **options), _sum(given[0]))]
        raise UnknownError(f"the operator {kind} is in it")

    def _folded(self, kind: str, node: Any, given: Sequence[Any], attributes: dict[str, Any]) -> Any:
        if kind in ("Constant", "ConstantOfShape", "Cast"):
            found = self.scope.constant(node.output[0])
            if found is None:
                raise UnknownError(f"the operator {kind} is in it")
            return found
        return FOLDED[kind](given, {**attributes, "outputs": len(node.output)})

    def _truth(self, kind: str, names: Sequence[str], name: str) -> bool:
        # What is not known at all is given from outside, such as lengths.
        given = [self.value(one) for one in names if one in self.values]
        truths = [one for one in given if isinstance(one, bool)]
        if kind == "Not" and len(truths) == 1:
            return not truths[0]
        if kind in ("And", "Or") and len(truths) == len(names) == 2:
            return all(truths) if kind == "And" else any(truths)
        if truths or any(isinstance(one, Sum) and one.terms.keys() - {()} for one in given):
            raise UnknownError("a choice depends on numbers")
        self.masks.add(name)
        return self.lets_through

    def _applied(self, function: Activation, of: Sum) -> Sum:
        return Sum({(Applied(function, of),): ONE})

    def sliced(self, value: Sum, start: int, stop: int) -> Sum:
        """Return units of a sum."""
        terms: dict[tuple[Factor, ...], Array] = {}
        for factors, coefficient in value.terms.items():
            own = tuple(sorted((self._sliced(factor, start, stop) for factor in factors), key=id))
            terms[own] = coefficient[start:stop] if coefficient.ndim else coefficient
        return Sum(terms)

    def _sliced(self, factor: Factor, start: int, stop: int) -> Factor:
        if (known := self.slices.get((factor, start, stop))) is not None:
            return known
        made: Factor
        if isinstance(factor, Product):
            made = Product(factor.of, factor.matrix[:, start:stop])
        elif isinstance(factor, Applied):
            made = Applied(factor.function, self.sliced(factor.of, start, stop))
        elif start == 0 and stop == factor.size:
            made = factor
        else:
            made = Product(factor, self.part_of_eye(factor.size, stop - start, start))
        self.slices[factor, start, stop] = made
        return made

    def part_of_eye(self, rows: int, columns: int, start: int) -> Array:
        """Return columns of an identity: what a slice of a vector is a product with."""
        self.spend(4 * rows * columns)
        return np.eye(rows, columns, -start, dtype=np.float32)

    def spend(self, count: int) -> None:
        """Count the bytes of what is made; UnknownError where they are too many."""
        self.taken += count
        if self.taken > LARGEST:
            raise UnknownError("its formulas take too much memory")

    # -------------------------------------------------------------------------------------------- a run

    def run(self, given: Mapping[str, Array], masked: bool = False) -> dict[str, Array]:
        """Run the body once, operator by operator; `given` are its vectors, by their names in it."""
        count = len(next(iter(given.values())))
        known: dict[str, Any] = dict(given)
        known |= {name: np.full((count, 1), self.lets_through != masked) for name in self.masks}
        for inner, outer in self.sequences.items():
            twin = [name for name in given if self.sequences.get(name) == outer]
            if twin:
                known[inner] = given[twin[0]]
        for node in self.nodes:
            outputs = [name for name in node.output if name and name not in known]
            if not outputs:
                continue
            arrays = [self._number(name, known) if name else None for name in node.input]
            if any(name and array is None for name, array in zip(node.input, arrays, strict=True)):
                continue  # the number of the step, and what is made of it
            found = _run(self.scope, node, arrays)
            known.update(zip(node.output, found, strict=False))
        return known

    def _number(self, name: str, known: Mapping[str, Any]) -> Any:
        return known[name] if name in known else self._constant(name)


def _last_size(one: Any) -> int:
    dims = one.type.tensor_type.shape.dim
    return int(dims[-1].dim_value) if dims else 0


class Unrolled(Body):
    """One step of a cell whose steps are written out one after the other."""

    def __init__(self, scope: Scope, nodes: list[Any], carried: dict[str, str], x: str) -> None:
        super().__init__(scope, nodes[-1], scope)
        self.nodes, self.sequences = nodes, {x: x}
        self.carried = {old: ("", new) for old, new in carried.items()}

    def _match_names(self) -> None:
        self.sizes: dict[str, int] = {}


# --------------------------------------------------------------------------------------------- operators, as formulas


def _add(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    if any(isinstance(one, str) for one in given):  # the next step's number, which nothing else is read with
        raise UnknownError("a step of another number is read")
    return [_sum(given[0]) + _sum(given[1])]


def _minus(value: Value) -> Sum:
    return _sum(value) * Sum({(): -ONE})


def _divided(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    if not isinstance(given[1], np.ndarray) or not given[1].all():
        raise UnknownError("something that is not constant is divided by")
    return [_sum(given[0]) * _constant(1 / given[1])]


def _times_matrix(body: Body, value: Value, matrix: Value) -> Sum:
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
        raise UnknownError("there is a product with a matrix that is not constant")
    if isinstance(value, np.ndarray):
        return _constant(value @ matrix)
    terms = _sum(value).terms
    linear = all(len(factors) == 1 and not isinstance(factors[0], Applied) for factors in terms)
    if not linear:
        return Sum({(Product(_sum(value), matrix),): ONE})
    made = Sum({})
    for (factor,), coefficient in terms.items():
        body.spend(matrix.nbytes)
        inner = factor.matrix if isinstance(factor, Product) else None
        scaled = coefficient[:, None] * matrix if coefficient.ndim else coefficient.astype(matrix.dtype) * matrix
        of = factor.of if isinstance(factor, Product) else factor
        made += Sum({(Product(of, scaled if inner is None else inner @ scaled),): ONE})
    return made


def _gemm(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    if attributes.get("transA"):
        raise UnknownError("a signal is transposed")
    matrix = given[1]
    if isinstance(matrix, np.ndarray):
        body.spend(matrix.nbytes)
        matrix = matrix.T if attributes.get("transB") else matrix
        matrix = matrix * np.asarray(attributes.get("alpha", 1.0), matrix.dtype)
    made = _times_matrix(body, given[0], matrix)
    if len(given) > 2:
        made += _sum(given[2]) * Sum({(): np.asarray(attributes.get("beta", 1.0), np.float32)})
    return [made]


def _last_axis(axis: int) -> bool:
    return axis in (1, -1)


def _split(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    value, count = _sum(given[0]), attributes["outputs"]
    size = value.size
    if not _last_axis(attributes.get("axis", 0)) or not size:
        raise UnknownError("a signal is split along another axis than its units")
    sizes = given[1] if len(given) > 1 else attributes.get("split")
    parts = np.full(count, -(-size // count)) if sizes is None else np.asarray(sizes).reshape(-1)
    ends = np.cumsum(parts)
    return [body.sliced(value, int(end - part), int(min(end, size))) for end, part in zip(ends, parts, strict=True)]


def _slice(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    lists: list[list[int] | None] = []
    for at, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps")):
        one = given[at] if len(given) > at else attributes.get(name)
        lists.append(None if one is None else [int(entry) for entry in np.reshape(np.asarray(one), -1)])
    starts, ends, axes, steps = lists
    if starts is None or ends is None or any(step != 1 for step in steps or []):
        raise UnknownError("a signal is cut in another way than by units")
    value = _sum(given[0])
    size = value.size
    for axis, start, stop in zip(axes or range(len(starts)), starts, ends, strict=True):
        if not _last_axis(axis):
            if start != 0 or stop < 2**31 - 1:
                raise UnknownError("sequences are taken out of the batch")
        else:
            if not size:
                raise UnknownError("the size of what is cut is not known")
            value = body.sliced(value, *slice(start, stop).indices(size)[:2])
    return [value]


def _same(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    return [given[0]]


def _cast(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    return [np.asarray(float(given[0]), np.float32) if isinstance(given[0], bool) else given[0]]


def _where(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    if not isinstance(given[0], bool):
        raise UnknownError("a choice depends on numbers")
    return [given[1] if given[0] else given[2]]


def _clip(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    low, high = (given[at] if len(given) > at else attributes.get(name) for at, name in ((1, "min"), (2, "max")))
    if low is None or high is None or not isinstance(low, float | np.ndarray) or np.any(np.asarray(low) != 0):
        raise UnknownError("a signal is cut to other bounds than 0 and a number")
    # 0 ... m is m times 0 ... 1.
    top = np.asarray(high, np.float32).reshape(())
    inside = _sum(given[0]) * Sum({(): 1 / top})
    return [body._applied(Activation("HardSigmoid", 1.0, 0.0), inside) * Sum({(): top})]


def _shape(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    """The number of units, which torch cuts by; that of sequences, unknown, is -1."""
    size = _sum(given[0]).size
    if not size:
        raise UnknownError("a size that is not known is computed with")
    return [np.array([-1, size])[slice(attributes.get("start", 0), attributes.get("end"))]]


def _joined(body: Body, given: Sequence[Value], attributes: Any) -> list[Value]:
    """x_t and h side by side: a product with a matrix of ones and zeros each."""
    sums = [_sum(one) for one in given]
    sizes = [one.size for one in sums]
    if not _last_axis(attributes.get("axis", 1)) or not all(sizes):
        raise UnknownError("signals are put side by side, and their sizes are not known")
    made, begin = Sum({}), 0
    for one, size in zip(sums, sizes, strict=True):
        made += _times_matrix(body, one, body.part_of_eye(size, sum(sizes), -begin))
        begin += size
    return [made]


OPERATORS: dict[str, Callable[[Body, Sequence[Value], Any], Sequence[Value]]] = {
    "Add": _add,
    "Sub": lambda body, given, attributes: _add(body, [given[0], _minus(given[1])], attributes),
    "Neg": lambda body, given, attributes: [_minus(given[0])],
    "Mul": lambda body, given, attributes: [_sum(given[0]) * _sum(given[1])],
    "Div": _divided,
    "MatMul": lambda body, given, attributes: [_times_matrix(body, given[0], given[1])],
    "Gemm": _gemm,
    "Split": _split,
    "Slice": _slice,
    "Concat": _joined,
    "Shape": _shape,
    "Cast": _cast,
    "Where": _where,
    "Clip": _clip,
    "Identity": _same,
    "Unsqueeze": _same,  # features stay last; a run of the body would tell if not
    "Squeeze": _same,
    "Expand": _same,
}


# ----------------------------------------------------------------------------------------------- operators, as numbers


def _run(scope: Scope, node: Any, given: Sequence[Any]) -> Sequence[Any]:
    """Return what an operator makes of arrays; nothing where it is none of those that bodies of cells have."""
    attributes = {**scope.source.attributes(node), "outputs": len(node.output)}
    kind = node.op_type
    if kind == "Constant":
        return [scope.constant(node.output[0])]
    if kind == "Cast":
        return [given[0].astype(scope.source.onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))]
    if kind == "Gemm":
        a, b = given[0], given[1].T if attributes.get("transB") else given[1]
        made = attributes.get("alpha", 1.0) * (a @ b)
        return [made if len(given) < 3 else made + attributes.get("beta", 1.0) * given[2]]
    if kind == "Clip":
        low = given[1] if len(given) > 1 else attributes.get("min")
        high = given[2] if len(given) > 2 else attributes.get("max")
        return [np.clip(given[0], low, high)]
    if kind in RUN:
        return [RUN[kind](*given)]
    if kind in FOLDED and kind != "ConstantOfShape":
        made = FOLDED[kind](given, attributes)
        return made if isinstance(made, list) else [made]
    if kind.lower() in FUNCTIONS:
        options = {name: value for name, value in attributes.items() if name in ("alpha", "beta")}
        return [plain_function(Activation(kind, **options))(given[0])]
    return []


RUN: dict[str, Callable[..., Any]] = {
    "MatMul": np.matmul,
    "Where": np.where,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
}


# -------------------------------------------------------------------------------------------------------- known cells


@dataclass(eq=False)
class Linear:
    """W x + R h + p * c + b, rows for the units."""

    W: Array | None = None
    R: Array | None = None
    b: Array | None = None
    p: Array | None = None


def find_cell(scope: Scope, node: Any, body: Scope) -> Cell:
    """Return the cell that a Loop or Scan runs; UnknownError says why it is none that is known."""
    read = Body(scope, node, body)
    try:
        return _cell(read)
    except UnknownError:
        if not read.masks:
            raise
    # A mask may as well say which sequences have ended.
    return _cell(Body(scope, node, body, lets_through=False))


def _cell(read: Body) -> Cell:
    node = read.node
    try:
        with np.errstate(all="ignore"):
            values = read.formulas()
    except RNNNumpyError as error:
        raise UnknownError(str(error)) from None
    news = {inner: values.get(new, _missing(new)) for inner, (_, new) in read.carried.items()}
    known = {inner: value for inner, value in news.items() if isinstance(value, Sum)}
    met = set().union(*(_vectors(value) for value in known.values())) if known else set()
    states = [inner for inner in known if read.vectors.get(inner) in met]
    inputs = [name for name in read.sequences if read.vectors.get(name) in met]
    if not states:
        reasons = [value for value in news.values() if isinstance(value, UnknownError)]
        raise UnknownError(str(reasons[0]) if reasons else "no state is handed on from step to step")
    if len(inputs) != 1 or len(states) > 2:
        raise UnknownError(f"it has {len(states)} states and {len(inputs)} inputs")
    x, *vectors = (read.vectors[name] for name in (inputs[0], *states))
    told = _recurrent(x, vectors[0], known[states[0]]) or _gated(x, vectors[0], known[states[0]]) if len(
        states
    ) == 1 else _long_short(x, vectors, [known[name] for name in states])  # fmt: skip
    if told is None:
        raise UnknownError("its formulas are those of no RNN, LSTM or GRU")
    kind, rows, names, attributes, order = told
    states = [states[at] for at in order]
    dtype = next(one.R.dtype for one in rows if one.R is not None)
    arrays = _stacked(rows, dtype)
    if "inner_bias" in attributes:
        # r acts on W_hn h + b_hn; the rest of n's bias stands beside x.
        H = arrays["R"].shape[2]
        arrays["B"][0, 5 * H :] = attributes.pop("inner_bias")
    if [one.name for one in names] != USUAL[kind]:
        attributes["activations"] = activation_names(names)
    for which in ("alpha", "beta"):
        if numbers := [number for one in names if (number := getattr(one, which)) is not None]:
            attributes[f"activation_{which}"] = numbers
    if read.reverse:
        attributes["direction"] = "reverse"
    outputs = [
        outer
        for outer, inner in zip(list(node.output)[len(read.made[0]) :], read.made[1], strict=False)
        if isinstance(value := values.get(inner), Sum) and value.same(known[states[0]])
    ]
    slots = ("initial_h", "initial_c")
    initial = {slot: read.carried[name][0] for slot, name in zip(slots, states, strict=False)}
    return Cell(read, kind, arrays, attributes, (inputs[0], *states), x.name, (outputs or [""])[0], initial)


def find_unrolled(scope: Scope) -> list[tuple[Any, Cell]]:
    """Return the cells whose steps are written out one after the other, each with the operator that W_hh is in.

    Such a cell multiplies by one matrix again and again, each time what has come of the time before.
    """
    uses: dict[tuple[Any, ...], list[Any]] = {}
    for node in scope.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.domain in OWN_DOMAINS and len(node.input) > 1:
            matrix = scope.constant(node.input[1])
            if matrix is not None and matrix.ndim == 2 and scope.constant(node.input[0]) is None:
                key = (matrix.shape, hash(matrix.tobytes()), scope.attribute(node, "transB"))
                uses.setdefault(key, []).append(node)
    found = []
    for nodes in uses.values():
        if len(nodes) >= 4:
            try:
                found.append((nodes[1], _cell(_step_of(scope, nodes))))
            except UnknownError:
                continue
    return found


def _step_of(scope: Scope, products: list[Any]) -> Unrolled:
    """Return the step from the second product with W_hh to the third: by then all states are computed ones."""
    before, h, after, later = (node.input[0] for node in products[:4])
    own = _ancestors(scope, h)
    new = _ancestors(scope, after) - own
    # What has come of the first product: states, where it was there before this step, and the step itself.
    moved = _descendants(scope, {before, *products[0].output})
    states = {name for one in new & moved for name in _given(scope, one)} & own & moved
    news = {name for one in (_ancestors(scope, later) - own - new) & moved for name in _given(scope, one)} & new & moved
    others, other_news = states - {h}, news - {after}
    if h not in states or after not in news or len(others) != len(other_news) or len(others) > 1:
        raise UnknownError("no state is handed on from step to step")
    active = new & moved
    entering = {name for one in active for name in _given(scope, one)} - moved
    # Back to the product with W_ih: x_t is what goes into it.
    xs: set[str] = set()
    while entering:
        name = entering.pop()
        node = scope.maker(name)
        if scope.constant(name) is not None or name in active:
            continue
        if node is None:
            raise UnknownError("its input comes in without a product")
        active.add(name)
        product = node.op_type in ("MatMul", "Gemm") and scope.constant(node.input[0]) is None
        xs |= {node.input[0]} if product else set()
        entering |= set(node.input[1:] if product else node.input) - {""}
    if len(xs) != 1:
        raise UnknownError(f"it has {len(xs)} inputs")
    nodes = [node for node in scope.graph.node if active & set(node.output)]
    return Unrolled(scope, nodes, {h: after, **dict(zip(others, other_news, strict=True))}, xs.pop())


def _given(scope: Scope, name: str) -> list[str]:
    node = scope.made.get(name)
    return [] if node is None else [given for given in node.input if given]


def _ancestors(scope: Scope, name: str) -> set[str]:
    """Return a name, and all names that it is computed from."""
    found: set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += _given(scope, one)
    return found


def _descendants(scope: Scope, names: set[str]) -> set[str]:
    """Return names, and all that are computed from them; operators stand in their order."""
    found = set(names)
    for node in scope.graph.node:
        if found & set(node.input):
            found |= set(node.output)
    return found


def _missing(name: str) -> UnknownError:
    return UnknownError(f"{name!r} is made nowhere")


def _vectors(value: Sum) -> set[Vector]:
    found: set[Vector] = set()
    todo: list[Any] = [value]
    done: set[int] = set()
    while todo:
        one = todo.pop()
        if id(one) in done:
            continue
        done.add(id(one))
        if isinstance(one, Vector):
            found.add(one)
        elif isinstance(one, Sum):
            todo += [factor for factors in one.terms for factor in factors]
        else:
            todo.append(one.of)
    return found


Told = tuple[str, list[Linear], list[Activation], dict[str, Any], tuple[int, ...]]


def _is_one(coefficient: Array, sign: int = 1) -> bool:
    return bool(np.allclose(coefficient, sign, rtol=1e-6, atol=0))


def _products(value: Sum) -> dict[tuple[Factor, ...], int] | None:
    """Return the products of a sum with their signs, None where a coefficient is another number."""
    signs = {}
    for factors, coefficient in value.terms.items():
        sign = 1 if _is_one(coefficient) else -1 if _is_one(coefficient, -1) else 0
        if not sign or not factors:
            return None
        signs[factors] = sign
    return signs


def _linear(value: Sum, x: Vector, h: Vector, c: Vector | None = None) -> Linear | None:
    """Return the matrices of a sum that is linear in x, h and, unit by unit, c; None where it is not."""
    made = Linear()
    for factors, coefficient in value.terms.items():
        if not factors:
            made.b = coefficient
            continue
        (factor,) = factors if len(factors) == 1 else (None,)
        if isinstance(factor, Vector) and factor is c:
            made.p = coefficient
        elif isinstance(factor, Vector) and 0 < factor.size <= LARGEST_EYE and factor in (x, h):
            eye = np.eye(factor.size, dtype=np.float32)
            _put(made, "W" if factor is x else "R", eye * coefficient)
        elif isinstance(factor, Product) and factor.of in (x, h):
            _put(made, "W" if factor.of is x else "R", (factor.matrix * coefficient.astype(factor.matrix.dtype)).T)
        else:
            return None
    return made


def _put(made: Linear, which: str, matrix: Array) -> None:
    before = getattr(made, which)
    setattr(made, which, matrix if before is None else before + matrix)


def _recurrent(x: Vector, h: Vector, new: Sum) -> Told | None:
    """h' = phi(W x + R h + b)."""
    signs = _products(new)
    if signs is None or len(signs) != 1:
        return None
    ((factors, sign),) = signs.items()
    if sign != 1 or len(factors) != 1 or not isinstance(factors[0], Applied):
        return None
    own = _linear(factors[0].of, x, h)
    return None if own is None or own.R is None else ("RNN", [own], [factors[0].function], {}, (0,))


def _long_short(x: Vector, states: list[Vector], news: list[Sum]) -> Told | None:
    """h' = o eta(c'), c' = f c + i g, or c - i c + i g; the states in whichever order."""
    for at in (0, 1):
        h, c, after = states[at], states[1 - at], news[1 - at]
        out, inner = _products(news[at]), _products(after)
        if out is None or inner is None or len(out) != 1:
            continue
        ((pair, sign),) = out.items()
        if sign != 1 or len(pair) != 2 or not all(isinstance(one, Applied) for one in pair):
            continue
        whole = [one for one in pair if isinstance(one, Applied) and one.of.same(after)]
        if len(whole) != 1:
            continue
        (eta,) = whole
        o = pair[0] if pair[1] is eta else pair[1]
        coupled = inner.pop((c,), 0) == 1
        with_c = [(factors, sign) for factors, sign in inner.items() if c in factors]
        others = [(factors, sign) for factors, sign in inner.items() if c not in factors]
        if len(with_c) != 1 or len(others) != 1 or others[0][1] != 1 or with_c[0][1] != (-1 if coupled else 1):
            continue
        gates = [one for one in with_c[0][0] if one is not c]
        both = list(others[0][0])
        if len(gates) != 1 or len(both) != 2 or not all(isinstance(one, Applied) for one in [*gates, *both, o]):
            continue
        if coupled and gates[0] not in both:
            continue
        f = gates[0]
        i, g = both
        # i is the gate, with the function of the others.
        if g is f if coupled else g.function == f.function and i.function != f.function:  # type: ignore[union-attr]
            i, g = g, i
        if not coupled and i.function == g.function:  # type: ignore[union-attr]
            i, g = sorted(both, key=lambda one: _linear(one.of, x, h, c) is None)  # type: ignore[union-attr]
        f_row = i if coupled else f
        applied = [one for one in (i, o, f_row, g) if isinstance(one, Applied)]
        late = _linear_late(applied[1].of, x, h, after)
        rows = [_linear(applied[0].of, x, h, c), late, _linear(applied[2].of, x, h, c), _linear(applied[3].of, x, h)]
        if any(row is None for row in rows) or not applied[0].function == applied[1].function == applied[2].function:
            continue
        attributes = {"input_forget": 1} if coupled else {}
        functions = [applied[0].function, applied[3].function, eta.function]
        return "LSTM", [row for row in rows if row is not None], functions, attributes, (at, 1 - at)
    return None


def _linear_late(value: Sum, x: Vector, h: Vector, after: Sum) -> Linear | None:
    """Return the matrices of the output gate, whose peephole sees the new c."""
    plain = _linear(value, x, h)
    if plain is not None:
        return plain
    rest = dict(value.terms)
    shares = []
    for factors, coefficient in after.terms.items():
        if factors not in rest:
            return None
        shares.append(rest.pop(factors) / coefficient)
    own = _linear(Sum(rest), x, h)
    if own is None or not shares or not all(np.array_equal(share, shares[0]) for share in shares):
        return None
    own.p = shares[0]
    return own


def _gated(x: Vector, h: Vector, new: Sum) -> Told | None:
    """h' = z h + n - z n, or h - z h + z n with the sign of z's weights changed; n with r inside."""
    signs = _products(new)
    if signs is None or len(signs) != 3:
        return None
    alone = [factors[0] for factors, sign in signs.items() if len(factors) == 1 and sign == 1]
    if len(alone) != 1:
        return None
    with_h = [(factors, sign) for factors, sign in signs.items() if len(factors) == 2 and h in factors]
    others = [(factors, sign) for factors, sign in signs.items() if len(factors) == 2 and h not in factors]
    if len(with_h) != 1 or len(others) != 1 or with_h[0][1] != -others[0][1]:
        return None
    z = next(one for one in with_h[0][0] if one is not h)
    if z not in others[0][0]:
        return None
    n = next((one for one in others[0][0] if one is not z), None)
    replaces = alone[0] is h
    if with_h[0][1] != (-1 if replaces else 1) or (not replaces and alone[0] is not n):
        return None
    if not isinstance(z, Applied) or not isinstance(n, Applied):
        return None
    z_row = _linear(z.of, x, h)
    inside = _candidate(n.of, x, h)
    if z_row is None or inside is None:
        return None
    r, n_row, inner_bias, after = inside
    r_row = _linear(r.of, x, h)
    if r_row is None or r.function != z.function:
        return None
    if replaces:
        even = z.function.name == "sigmoid" or (z.function.name == "hardsigmoid" and z.function.beta == 0.5)
        if not even:
            return None
        for which in ("W", "R", "b"):
            if (array := getattr(z_row, which)) is not None:
                setattr(z_row, which, -array)
    attributes: dict[str, Any] = {"linear_before_reset": 1, "inner_bias": inner_bias} if after else {}
    return "GRU", [z_row, r_row, n_row], [z.function, n.function], attributes, (0,)


def _candidate(value: Sum, x: Vector, h: Vector) -> tuple[Applied, Linear, Any, bool] | None:
    """Return r, the matrices of n, the bias that r acts on, and whether r comes after the product with W_hn."""
    own, inside, r, after, inner_bias = {}, None, None, True, np.zeros(())
    for factors, coefficient in value.terms.items():
        gates = [one for one in factors if isinstance(one, Applied)]
        if len(gates) == 1 and (r is None or gates[0] is r):
            r = gates[0]
            rest = [one for one in factors if one is not r]
            if not rest:
                inner_bias = coefficient
            elif len(rest) == 1:
                inside = Sum({(rest[0],): coefficient})
            else:
                return None
        elif len(factors) == 1 and isinstance(factors[0], Product) and isinstance(factors[0].of, Sum):
            # (r h) W_hn
            signs = _products(factors[0].of)
            if r is not None or signs is None or len(signs) != 1 or not _is_one(coefficient):
                return None
            ((pair, sign),) = signs.items()
            gates = [one for one in pair if isinstance(one, Applied)]
            if sign != 1 or len(pair) != 2 or h not in pair or len(gates) != 1:
                return None
            r, after, inside = gates[0], False, Sum({(Product(h, factors[0].matrix),): ONE})
        else:
            own[factors] = coefficient
    own_row = _linear(Sum(own), x, h)
    inner = None if inside is None else _linear(inside, x, h)
    if r is None or own_row is None or inner is None or own_row.R is not None or inner.W is not None:
        return None
    own_row.R = inner.R
    return r, own_row, inner_bias, after


def _stacked(rows: list[Linear], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return W, R, B and P of an operator."""
    H = next(row.R.shape[0] for row in rows if row.R is not None)
    D = max((row.W.shape[1] for row in rows if row.W is not None), default=0)
    if not D:
        raise UnknownError("its input acts on nothing")

    def full(array: Array | None, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(np.zeros(()) if array is None else array, shape).astype(dtype)

    try:
        arrays = {
            "W": np.concatenate([full(row.W, (H, D)) for row in rows])[None],
            "R": np.concatenate([full(row.R, (H, H)) for row in rows])[None],
            "B": np.concatenate([*(full(row.b, (H,)) for row in rows), np.zeros(len(rows) * H, dtype)])[None],
        }
        if any(row.p is not None for row in rows):
            arrays["P"] = np.concatenate([full(row.p, (H,)) for row in rows[:3]])[None]
    except ValueError as error:
        raise UnknownError(f"its matrices do not fit together: {error}") from None
    return arrays
