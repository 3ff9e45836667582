"""What a function of arrays does, operation by operation: a tape of a person's own loss.

The loss is run once on arrays that write down what is done to them. What merely moves entries (slices, joins, reshapes,
lists of states, assignments into an array of zeros) is no operation: each entry knows from which entry of which
operation it came. What is left is arithmetic, and a person's own layout makes no difference any more.

    tape = recorded(loss, params)       raises UntapedError where the loss does what cannot be followed
    tape.gradients()                    the gradient, back along the tape
    tape.gradients(change)              the same with a mistake in it

Nothing is trusted to it: its gradient is compared with the reference before a word is said.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from rnn_numpy.checks.own.pulls import BINARY, FLAT, UNARY, pull

Array = NDArray[Any]

# Of a longer tape nothing is said: each mistake is a pass along all of it.
LONGEST = 20000


class UntapedError(Exception):
    """The loss does what cannot be followed."""


class Part(NamedTuple):
    """Entries of an operand that come from one operation: their places in the operand, and in what it made."""

    node: int
    at: Array
    taken: Array
    whole: bool
    once: bool


class Operand:
    """What an operation reads: its values, and from which operations its entries come; constants from none."""

    __slots__ = ("parts", "shape", "value")

    def __init__(self, value: Array, parts: Sequence[Part]) -> None:
        self.value = value
        self.parts = tuple(parts)
        self.shape = value.shape

    @property
    def sources(self) -> list[int]:
        """The operations that it comes from."""
        return [part.node for part in self.parts]


@dataclass
class Node:
    """An operation that was done: of a parameter, none.

    Attributes
    ----------
    kind : str
        "matmul", "multiply", "tanh", "sigmoid", ...; of a parameter, "".
    site : tuple of (str, int, int)
        The lines of the person's code that were being run, outermost first: file, line, instruction.
    names : dict of str
        Names of variables that have held what it made; of a parameter its own.
    views : dict of bytes to str
        Names of variables that have held a part of what it made, by the places of that.
    """

    number: int
    kind: str
    operands: list[Operand]
    value: Array
    options: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None
    site: tuple[tuple[str, int, int], ...] = ()
    names: dict[str, None] = field(default_factory=dict)
    views: dict[bytes, str] = field(default_factory=dict)

    def pull(self, slot: int, d: Array, values: Sequence[Array] | None = None, out: Array | None = None) -> Array:
        """Return what an adjoint of the result says of an operand, perhaps with other values than those of forward."""
        return np.asarray(self.pull_many(slot, d[None], values, out)[0])

    def pull_many(self, slot: int, d: Array, values: Sequence[Array] | None = None, out: Array | None = None) -> Array:
        """Return the same of several adjoints, along their first axis."""
        if values is None:
            values = [operand.value for operand in self.operands]
        return pull(self.kind, slot, d, values, self.value if out is None else out, self.options)


Pull = Callable[[Node, int, Array], "Array | None"]


@dataclass
class Change:
    """A mistake in a backward pass.

    Attributes
    ----------
    pulls : dict of (int, int) to callable
        By operation and operand: what flows back to it, from (node, slot, adjoint); None for nothing.
    adjoints : dict of int to callable
        By operation: what is made of its adjoint before it is handed on.
    extra : dict of int to list of (int, callable)
        By operation: to which others its adjoint is handed besides, and as what.
    values : dict of (int, int) to ndarray
        By operation and operand: what is read in the place of it.
    outs : dict of int to ndarray
        By operation: what is read in the place of its result, where its derivative is told by that.
    order : tuple of int
        The operations in the order in which the pass goes through them; empty for the order that is right.
    """

    pulls: dict[tuple[int, int], Pull] = field(default_factory=dict)
    adjoints: dict[int, Callable[[Array], Array]] = field(default_factory=dict)
    extra: dict[int, list[tuple[int, Callable[[Array], Array]]]] = field(default_factory=dict)
    values: dict[tuple[int, int], Array] = field(default_factory=dict)
    outs: dict[int, Array] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    def touched(self) -> set[int]:
        """The operations at which something is other than it should be."""
        return {n for n, _ in self.pulls} | {n for n, _ in self.values} | {*self.outs, *self.adjoints, *self.extra}

    def alters(self, number: int, slot: int) -> bool:
        """Whether what flows back to an operand is made in another way."""
        if (number, slot) in self.pulls or number in self.outs:
            return True
        return any(n == number for n, _ in self.values)

    def pulled(self, node: Node, slot: int, d: Array) -> Any:
        """Return what flows back to an operand."""
        special = self.pulls.get((node.number, slot))
        if special is not None:
            g = special(node, slot, d)
            return 0.0 if g is None else g
        values = [self.values.get((node.number, k), each.value) for k, each in enumerate(node.operands)]
        return node.pull(slot, d, values, self.outs.get(node.number))

    def __or__(self, other: Change) -> Change:
        """Both mistakes at once."""
        merged = {f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(self) if f.name != "order"}
        return Change(**merged, order=self.order or other.order)


class Tape:
    """The operations of a loss, in their order; the first ones are the parameters."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.params: dict[str, int] = {}
        self.loss = -1
        self.scale = 1.0
        # Numbers that have become Python's own; the terms of a loss may be among them.
        self.taken_out: list[Taped] = []

    def add(
        self, kind: str, operands: list[Operand], value: Array, options: dict[str, Any], function: Any = None
    ) -> Taped:
        """Write an operation down, and return what it made."""
        if len(self.nodes) > LONGEST:
            raise UntapedError(f"it does more than {LONGEST} operations")
        node = Node(len(self.nodes), kind, operands, np.asarray(value), options, function)
        if kind:
            node.site = self._site()
        self.nodes.append(node)
        return Taped.of_node(self, node)

    def gradients(self, change: Change | None = None) -> dict[str, Array]:
        """Return the gradient by each parameter, with a mistake in the way back where one is given."""
        return {name: array[0] for name, array in self.several([change or Change()]).items()}

    @np.errstate(all="ignore")
    def several(self, changes: Sequence[Change], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Return the gradients with each of some mistakes, along the first axis of each parameter's array; or those by
        some parameters.
        """
        ordered = [k for k, change in enumerate(changes) if change.order]
        if ordered and len(changes) > 1:
            # Copies: the gradient of what the loss does not read is a view of one zero.
            plain_ones = [replace(change, order=()) for change in changes]
            whole = {name: np.array(array) for name, array in self.several(plain_ones, names).items()}
            for k in ordered:
                for name, array in self.several([changes[k]], names).items():
                    whole[name][k] = array[0]
            return whole
        count = len(changes)
        special: dict[int, list[tuple[int, Change]]] = {}
        for row, change in enumerate(changes):
            for number in change.touched():
                special.setdefault(number, []).append((row, change))
        loss = self.nodes[self.loss].value.shape
        adjoints: dict[int, Array] = {self.loss: np.full((count, *loss), self.scale)}
        found: dict[int, Array] = {}
        leaves = tuple(self.params.values())
        left_out = set() if names is None else {number for name, number in self.params.items() if name not in names}
        order = (*changes[0].order, *leaves) if changes[0].order else range(self.loss, -1, -1)
        for number in order:
            d = adjoints.pop(number, None)
            if d is None:
                continue
            node, here = self.nodes[number], special.get(number, ())
            for row, change in here:
                if number in change.adjoints:
                    d = d.copy()
                    d[row] = change.adjoints[number](d[row])
            if not node.kind:
                found[number] = d
                continue
            for row, change in here:
                for target, function in change.extra.get(number, ()):
                    more = np.zeros((count, *self.nodes[target].value.shape))
                    more[row] = function(d[row])
                    adjoints[target] = adjoints[target] + more if target in adjoints else more
            for slot, operand in enumerate(node.operands):
                if operand.parts and not all(part.node in left_out for part in operand.parts):
                    g = node.pull_many(slot, d)
                    altered = [(row, change) for row, change in here if change.alters(number, slot)]
                    if altered:
                        g = np.array(g)
                        for row, change in altered:
                            g[row] = change.pulled(node, slot, d[row])
                    self._hand_on(operand, g, adjoints)
        return {
            name: found.get(number, np.zeros((count, *self.nodes[number].value.shape)))
            for name, number in self.params.items()
            if number not in left_out
        }

    def _hand_on(self, operand: Operand, g: Array, adjoints: dict[int, Array]) -> None:
        """Add what an operand's adjoints say to those of the operations that it comes from."""
        count = len(g)
        for part in operand.parts:
            shape = self.nodes[part.node].value.shape
            if part.whole:
                share = g.reshape(count, *shape)
                adjoints[part.node] = adjoints[part.node] + share if part.node in adjoints else share
                continue
            total = adjoints[part.node].copy() if part.node in adjoints else np.zeros((count, *shape))
            flat, share = total.reshape(count, -1), g.reshape(count, -1)[:, part.at]
            if part.once:
                flat[:, part.taken] += share
            else:
                for row, each in zip(flat, share, strict=True):
                    np.add.at(row, part.taken, each)
            adjoints[part.node] = total

    def _site(self) -> tuple[tuple[str, int, int], ...]:
        """Return the lines being run, and give names to what variables hold by now."""
        frames: list[FrameType] = []
        frame: FrameType | None = inspect.currentframe()
        while frame is not None and frame.f_code is not _CALLER:
            name = frame.f_code.co_filename
            if not name.startswith(_OURS) and not name.startswith(_NUMPY):
                frames.append(frame)
            frame = frame.f_back
        frames.reverse()
        for each in frames:
            for variable, held in list(each.f_locals.items()):
                self._name(variable, held)
        return tuple((each.f_code.co_filename, each.f_lineno, each.f_lasti) for each in frames)

    def _name(self, variable: str, held: Any) -> None:
        """Give what a variable holds its name: an array, the last ones of a list, what was written into an array."""
        if isinstance(held, Taped):
            if held.origin is not None:
                self.nodes[held.origin].names.setdefault(variable)
            for number in held.written:
                self.nodes[number].names.setdefault(f"{variable}[t]")
            held.written.clear()
            if held.origin is None and not held.seen and held.size:
                held.seen = True
                made = held.made.reshape(-1)
                if made[0] and (made == made[0]).all():
                    views = self.nodes[made[0] - 1].views
                    views.setdefault(held.taken.reshape(-1).tobytes(), variable)
        elif isinstance(held, list) and held:
            for each in held[-2:]:
                if isinstance(each, Taped) and each.origin is not None and self.nodes[each.origin].kind:
                    self.nodes[each.origin].names.setdefault(f"{variable}[t]")
        elif isinstance(held, dict) and len(held) < 64:
            for key, each in held.items():
                if isinstance(each, Taped) and each.origin is not None and self.nodes[each.origin].kind:
                    self.nodes[each.origin].names.setdefault(
                        f"{variable}[{'t' if isinstance(key, int) else repr(key)}]"
                    )


_OURS = str(Path(__file__).parent)
_NUMPY = str(Path(np.__file__).parent)


class Taped(NDArrayOperatorsMixin):
    """An array whose entries know where they come from: `made` is the number of an operation, and 1 more; 0 for a
    constant; `taken` is the place in what it made.
    """

    __array_priority__ = 1000.0

    def __init__(self, tape: Tape, value: Array, made: Array, taken: Array, origin: int | None = None) -> None:
        self.tape, self.value, self.made, self.taken, self.origin = tape, value, made, taken, origin
        self.written: list[int] = []
        self.seen = False

    @classmethod
    def of_node(cls, tape: Tape, node: Node) -> Taped:
        """Return what an operation made."""
        shape = node.value.shape
        taken = np.arange(node.value.size).reshape(shape)
        return cls(tape, node.value.copy(), np.full(shape, node.number + 1), taken, node.number)

    @classmethod
    def constant(cls, tape: Tape, value: Any) -> Taped:
        """Return an array that comes from nowhere."""
        value = np.array(value, np.float64)
        return cls(tape, value, np.zeros(value.shape, int), np.zeros(value.shape, int))

    def moved(self, function: Callable[[Array], Any]) -> Taped:
        """Return what a function that only moves entries makes of it."""
        value, made, taken = (np.asarray(function(array)) for array in (self.value, self.made, self.taken))
        return Taped(self.tape, value, made, taken)

    def operand(self) -> Operand:
        """Return it as what an operation reads."""
        made, taken = self.made.reshape(-1), self.taken.reshape(-1)
        if not made.size or not made.any():
            return Operand(self.value.copy(), ())
        parts = []
        numbers = [made[0]] if (made == made[0]).all() else np.unique(made)
        for number in numbers:
            if number:
                at = np.flatnonzero(made == number)
                size = self.tape.nodes[number - 1].value.size
                whole = len(at) == made.size == size and bool(np.array_equal(taken, np.arange(size)))
                places = taken[at].copy()
                once = whole or len(np.unique(places)) == len(places)
                parts.append(Part(int(number) - 1, at, places, whole, once))
        return Operand(self.value.copy(), parts)

    # ------------------------------------------------------------------------------------ as an array

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: self.moved(np.transpose))
    real = property(lambda self: self)
    flat = property(lambda self: self.ravel())

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Taped]:
        return iter([self[k] for k in range(len(self))])

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return f"Taped({self.value!r})"

    def __format__(self, spec: str) -> str:
        return format(self.value[()], spec)

    def __getitem__(self, index: Any) -> Taped:
        index = plain(index)
        return self.moved(lambda array: array[index])._same(self)

    def _same(self, other: Taped) -> Taped:
        """Keep the origin where all of it was taken."""
        if other.origin is not None and self.shape == other.shape and np.array_equal(self.taken, other.taken):
            self.origin = other.origin
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        index, value = plain(index), self.as_taped(value)
        for array, new in ((self.value, value.value), (self.made, value.made), (self.taken, value.taken)):
            array[index] = new
        self.origin = None
        if value.origin is not None:
            self.written.append(value.origin)

    def as_taped(self, value: Any) -> Taped:
        """Return a value as one of these."""
        if isinstance(value, Taped):
            return value
        if isinstance(value, (list, tuple)) and any(isinstance(part, (Taped, list, tuple)) for part in value):
            return joined(self.tape, [self.as_taped(part) for part in value], lambda arrays: np.stack(arrays))
        return Taped.constant(self.tape, value)

    def __float__(self) -> float:
        self.tape.taken_out.append(self)
        return float(self.value.reshape(()))

    def __index__(self) -> int:
        raise UntapedError("it makes Python's own numbers of an array")

    __int__ = __complex__ = __index__

    def item(self, *index: Any) -> Taped:
        """Return a single entry."""
        return self.reshape(()) if not index else self[index]

    def copy(self, *_: Any, **__: Any) -> Taped:
        """Return a copy."""
        return Taped(self.tape, self.value.copy(), self.made.copy(), self.taken.copy(), self.origin)

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Taped:
        """Return a copy: double precision, or nothing that could be followed."""
        if np.dtype(dtype) != np.float64:
            raise UntapedError("it rounds to another dtype")
        return self.copy()

    def reshape(self, *shape: Any, **options: Any) -> Taped:
        """Return it in another shape."""
        return self.moved(lambda array: array.reshape(*shape, **options))

    def transpose(self, *axes: Any) -> Taped:
        """Return it with its axes in another order."""
        return self.moved(lambda array: array.transpose(*axes))

    def ravel(self, *_: Any) -> Taped:
        """Return it flat."""
        return self.moved(np.ravel)

    flatten = ravel

    def squeeze(self, *axes: Any, **options: Any) -> Taped:
        """Return it without axes of length 1."""
        return self.moved(lambda array: array.squeeze(*axes, **options))

    def swapaxes(self, a: int, b: int) -> Taped:
        """Return it with two axes exchanged."""
        return self.moved(lambda array: array.swapaxes(a, b))

    def fill(self, value: Any) -> None:
        """Set all entries."""
        self[...] = value

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Return the sum."""
        return _reduced(self, "sum", axis, keepdims)

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Return the mean."""
        total = _reduced(self, "sum", axis, keepdims)
        return total / (self.size / max(1, total.size))

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Return the largest entries."""
        return _reduced(self, "max", axis, keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Return the smallest entries."""
        return -_reduced(-self, "max", axis, keepdims)

    def dot(self, other: Any) -> Any:
        """Return the product of matrices."""
        return _dot(self, other)

    def clip(self, low: Any = None, high: Any = None) -> Any:
        """Return it between two limits."""
        return _clip(self, low, high)

    def argmax(self, *args: Any, **options: Any) -> Any:
        """Return places of largest entries, which nothing is differentiated by."""
        return self.value.argmax(*args, **options)

    # ------------------------------------------------------------------------------------ NumPy's protocols

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise UntapedError("it hands an array to what is not NumPy, or writes it into an array made outside")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        options.pop("dtype", None)
        if options.get("where", True) is True:
            options.pop("where", None)
        name = ufunc.__name__
        if name in FLAT:  # comparisons and signs: nothing is differentiated by them
            return getattr(ufunc, method)(*map(plain, inputs), **options)
        if method == "reduce" and name in ("add", "maximum"):
            kind = "sum" if name == "add" else "max"
            result = _reduced(self, kind, options.get("axis", 0), options.get("keepdims", False))
        elif method == "outer":
            a, b = map(self.as_taped, inputs)
            result = ufunc(a.reshape(a.shape + (1,) * b.ndim), b)
        elif method != "__call__" or options:
            raise UntapedError(f"np.{name}.{method} is not followed")
        elif name == "positive":
            result = self.copy()
        elif name == "matmul":
            result = self._done("matmul", inputs, np.matmul)
        elif name in UNARY or name in BINARY:
            result = self._done(name, inputs, ufunc)
        else:
            raise UntapedError(f"np.{name} is not followed")
        if out is None:
            return result
        target = out[0]
        if not isinstance(target, Taped) or target.shape != result.shape:
            raise UntapedError("out=")
        target[...] = result
        target.origin = result.origin
        return target

    def _done(self, kind: str, inputs: Sequence[Any], function: Callable[..., Any], **options: Any) -> Taped:
        """Do an operation and write it down; among constants, only do it."""
        operands = [self.as_taped(value).operand() for value in inputs]
        value = function(*(operand.value for operand in operands))
        if not any(operand.parts for operand in operands):
            return Taped.constant(self.tape, value)
        return self.tape.add(kind, operands, value, options, function)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        name = function.__name__
        if name in MOVING:
            return _moved(self.tape, function, args, options)
        handler = FUNCTIONS.get(name)
        if handler is None:
            raise UntapedError(f"np.{name} is not followed")
        return handler(self, *args, **options)


def plain(value: Any) -> Any:
    """Return values without where they come from: for comparisons and indices."""
    if isinstance(value, Taped):
        return value.value
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value


def joined(tape: Tape, arrays: Sequence[Taped], function: Callable[[list[Array]], Array]) -> Taped:
    """Return what a function that only moves entries makes of several arrays."""
    value, made, taken = (function([getattr(a, name) for a in arrays]) for name in ("value", "made", "taken"))
    return Taped(tape, value, made, taken)


# Functions that only move entries of their first argument, an array or a sequence of arrays.
MOVING = {
    "transpose", "reshape", "ravel", "squeeze", "expand_dims", "swapaxes", "moveaxis", "rollaxis", "roll", "flip",
    "flipud", "fliplr", "repeat", "tile", "take", "broadcast_to", "atleast_1d", "atleast_2d", "concatenate", "stack",
    "hstack", "vstack", "column_stack", "dstack", "row_stack", "copy", "diag", "diagonal", "delete", "rot90", "pad",
    "tril", "triu", "append",
}  # fmt: skip


def _moved(tape: Tape, function: Any, args: Any, options: Any) -> Any:
    if function.__name__ == "append":
        args = ([args[0], args[1]],)
        function = np.concatenate if options.get("axis") is not None else np.hstack
    first, rest = args[0], args[1:]
    if isinstance(first, (list, tuple)):
        some = Taped.constant(tape, 0.0)
        arrays = [some.as_taped(part) for part in first]
        return joined(tape, arrays, lambda each: function(each, *rest, **options))
    if not isinstance(first, Taped):
        raise UntapedError(f"np.{function.__name__} is not followed")
    return first.moved(lambda array: function(array, *rest, **options))


def _reduced(array: Taped, kind: str, axis: Any, keepdims: bool) -> Taped:
    function = np.sum if kind == "sum" else np.max
    axis = tuple(axis) if isinstance(axis, list) else axis
    return array._done(
        kind, [array], lambda value: function(value, axis=axis, keepdims=keepdims), axis=axis, keepdims=keepdims
    )


def _dot(some: Taped, a: Any, b: Any = None) -> Any:
    a, b = (some, a) if b is None else (some.as_taped(a), some.as_taped(b))
    b = some.as_taped(b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if a.ndim > 2 and b.ndim > 2:
        raise UntapedError("dot of more than two axes")
    return a @ b


def _inner(some: Taped, a: Any, b: Any) -> Any:
    a, b = some.as_taped(a), some.as_taped(b)
    return a @ b.T if b.ndim < 3 else _refuse("inner")


def _outer(some: Taped, a: Any, b: Any) -> Any:
    a, b = some.as_taped(a).ravel(), some.as_taped(b).ravel()
    return a.reshape(-1, 1) * b


def _einsum(some: Taped, subscripts: Any, *arrays: Any, **options: Any) -> Any:
    if not isinstance(subscripts, str) or "." in subscripts:
        raise UntapedError("einsum")
    left, _, right = subscripts.replace(" ", "").partition("->")
    if "->" not in subscripts:
        letters = left.replace(",", "")
        right = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    terms = left.split(",")
    if any(len(set(term)) < len(term) for term in terms):
        raise UntapedError("einsum of a diagonal")
    return some._done("einsum", arrays, lambda *values: np.einsum(f"{left}->{right}", *values), terms=terms, to=right)


def _tensordot(some: Taped, a: Any, b: Any, axes: Any = 2) -> Any:
    a, b = some.as_taped(a), some.as_taped(b)
    names = [chr(97 + k) for k in range(a.ndim + b.ndim)]
    first, second = names[: a.ndim], names[a.ndim :]
    if isinstance(axes, int):
        pairs = list(zip(range(a.ndim - axes, a.ndim), range(axes), strict=True))
    else:
        pairs = list(zip(*(np.atleast_1d(each).tolist() for each in axes), strict=True))
    for i, j in pairs:
        second[j] = first[i]
    to = [n for n in first if n not in second] + [n for n in second if n not in first]
    return _einsum(some, f"{''.join(first)},{''.join(second)}->{''.join(to)}", a, b)


def _where(some: Taped, condition: Any, a: Any, b: Any) -> Any:
    mask, a, b = plain(condition), some.as_taped(a), some.as_taped(b)
    return joined(some.tape, [a, b], lambda each: np.where(mask, each[0], each[1]))


def _clip(some: Taped, low: Any = None, high: Any = None, **options: Any) -> Any:
    result = some
    if low is not None:
        result = np.maximum(result, low)
    if high is not None:
        result = np.minimum(result, high)
    return result


def _split(some: Taped, array: Any, parts: Any, axis: int = 0) -> Any:
    each = (np.array_split(getattr(array, name), parts, axis) for name in ("value", "made", "taken"))
    return [Taped(some.tape, *arrays) for arrays in zip(*each, strict=True)]


def _norm(some: Taped, array: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord not in (None, 2, "fro") or (ord == 2 and axis is None and array.ndim > 1):
        raise UntapedError("norm")
    return np.sqrt((array * array).sum(axis, keepdims=keepdims))


def _refuse(name: str) -> Any:
    raise UntapedError(name)


def _like(some: Taped, array: Any, value: float = 0.0) -> Any:
    return Taped.constant(some.tape, np.full(np.shape(plain(array)), value))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sum": lambda some, array, axis=None, dtype=None, out=None, keepdims=False, **_: array.sum(axis, keepdims=keepdims),
    "mean": lambda some, array, axis=None, dtype=None, out=None, keepdims=False, **_: array.mean(
        axis, keepdims=keepdims
    ),
    "max": lambda some, array, axis=None, out=None, keepdims=False, **_: array.max(axis, keepdims=keepdims),
    "amax": lambda some, array, axis=None, out=None, keepdims=False, **_: array.max(axis, keepdims=keepdims),
    "min": lambda some, array, axis=None, out=None, keepdims=False, **_: array.min(axis, keepdims=keepdims),
    "dot": _dot,
    "vdot": lambda some, a, b: _dot(some, some.as_taped(a).ravel(), some.as_taped(b).ravel()),
    "inner": _inner,
    "outer": _outer,
    "einsum": _einsum,
    "tensordot": _tensordot,
    "norm": _norm,
    "where": _where,
    "clip": lambda some, array, low=None, high=None, **_: _clip(some.as_taped(array), low, high),
    "split": _split,
    "array_split": _split,
    "hsplit": lambda some, array, parts: _split(some, array, parts, 1 if array.ndim > 1 else 0),
    "vsplit": _split,
    "dsplit": lambda some, array, parts: _split(some, array, parts, 2),
    "zeros_like": lambda some, array, *_, **__: _like(some, array),
    "empty_like": lambda some, array, *_, **__: _like(some, array),
    "ones_like": lambda some, array, *_, **__: _like(some, array, 1.0),
    "full_like": lambda some, array, value, *_, **__: _like(some, array, value),
    "shape": lambda some, array: array.shape,
    "ndim": lambda some, array: array.ndim,
    "size": lambda some, array: array.size,
    "argmax": lambda some, array, *args, **options: np.argmax(plain(array), *args, **options),
    "argmin": lambda some, array, *args, **options: np.argmin(plain(array), *args, **options),
    "any": lambda some, array, *args, **options: np.any(plain(array), *args, **options),
    "all": lambda some, array, *args, **options: np.all(plain(array), *args, **options),
    "iscomplexobj": lambda some, array: False,
    "isrealobj": lambda some, array: True,
    "result_type": lambda some, *args: np.dtype(np.float64),
    "real": lambda some, array: array,
    "array_equal": lambda some, a, b, **_: np.array_equal(plain(a), plain(b)),
    "allclose": lambda some, a, b, **options: np.allclose(plain(a), plain(b), **options),
}


# ---------------------------------------------------------------------------------------------- recording

_lock = threading.Lock()


def recorded(loss: Callable[[dict[str, Any]], Any], params: Mapping[str, Array]) -> Tape:
    """Run a loss once at these arrays, and return its tape; raise `UntapedError` where it cannot be followed."""
    tape = Tape()
    point: dict[str, Any] = {}
    for name, array in params.items():
        point[name] = tape.add("", [], np.array(array, np.float64), {})
        tape.params[name] = len(tape.nodes) - 1
        tape.nodes[-1].names[name] = None
    try:
        with _lock, followed_zeros(tape), np.errstate(all="ignore"):
            result = _called(loss, point)
            if tape.taken_out and not isinstance(result, Taped):
                result = _sum_of(tape, float(result))
    except UntapedError:
        raise
    except Exception as error:  # whatever a function does that gets arrays which are none
        raise UntapedError(f"{type(error).__name__}: {error}") from error
    if not isinstance(result, Taped) or result.size != 1:
        raise UntapedError("what it returns does not come from its arrays by operations of NumPy")
    number = int(result.made.reshape(-1)[0]) - 1
    if number < 0 or tape.nodes[number].value.size != 1:
        raise UntapedError("what it returns does not depend on its arrays")
    tape.loss = number
    return tape


def _sum_of(tape: Tape, loss: float) -> Taped | None:
    """Return a loss that Python's own numbers make, if it is a multiple of the sum of those that were taken out."""
    total: Any = Taped.constant(tape, 0.0)
    logs = total.copy()
    positive = all(float(term.value.reshape(())) > 0 for term in tape.taken_out)
    for term in tape.taken_out:
        total = total + term.reshape(())
        logs = logs + np.log(term.reshape(())) if positive else logs
    counts = {1, len(tape.taken_out), *(size for node in tape.nodes for size in node.value.shape)}
    for each in (total, logs):
        value = float(each.value)
        for count in counts:
            for sign in (1.0, -1.0):
                if count and abs(sign * value / count - loss) <= 1e-12 * abs(loss):
                    found: Taped = each * (sign / count)
                    return found
    return None


def _called(loss: Callable[[dict[str, Any]], Any], point: dict[str, Any]) -> Any:
    return loss(point)


_CALLER = _called.__code__


@contextlib.contextmanager
def followed_zeros(tape: Tape) -> Iterator[None]:
    """Have NumPy's makers of arrays make followed ones for a while, in this thread: states are written into them."""
    here = threading.get_ident()
    shapes, values, lists = ("zeros", "empty", "ones", "full"), ("array", "asarray"), ("sum", "mean", "max", "min")
    originals = {name: getattr(np, name) for name in (*shapes, *values, *lists, "r_", "c_")}

    def of_shape(name: str) -> Callable[..., Any]:
        original = originals[name]

        def made(*args: Any, **options: Any) -> Any:
            found = original(*args, **options)
            mine = threading.get_ident() == here and _from_outside() and found.dtype == np.float64
            return Taped.constant(tape, found) if mine else found

        return made

    def of_values(name: str) -> Callable[..., Any]:
        original = originals[name]

        def made(value: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() != here or not _from_outside():
                return original(value, *args, **options)
            if isinstance(value, Taped) or (isinstance(value, (list, tuple)) and _holds_taped(value)):
                taped = Taped.constant(tape, 0.0).as_taped(value)
                return taped.copy() if name == "array" else taped
            found = original(value, *args, **options)
            return Taped.constant(tape, found) if found.dtype == np.float64 and name == "array" else found

        return made

    def of_lists(name: str) -> Callable[..., Any]:
        original = originals[name]

        def made(value: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() == here and isinstance(value, (list, tuple)) and _holds_taped(value):
                value = Taped.constant(tape, 0.0).as_taped(value)
            return original(value, *args, **options)

        return made

    class Joined:
        """np.r_ and np.c_ of arrays."""

        def __init__(self, name: str) -> None:
            self.original, self.function = originals[name], np.hstack if name == "r_" else np.column_stack

        def __getitem__(self, index: Any) -> Any:
            mine = threading.get_ident() == here and isinstance(index, tuple) and _holds_taped(index)
            return self.function(list(index)) if mine else self.original[index]

    try:
        for name in originals:
            maker = (
                of_shape if name in shapes else of_values if name in values else of_lists if name in lists else Joined
            )
            setattr(np, name, maker(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(np, name, original)


def _holds_taped(value: Any) -> bool:
    return isinstance(value, Taped) or (isinstance(value, (list, tuple)) and any(map(_holds_taped, value)))


def _from_outside() -> bool:
    """Whether the caller's caller is a person's code."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    name = "" if frame is None else frame.f_code.co_filename
    return not name.startswith(_OURS) and not name.startswith(_NUMPY)
