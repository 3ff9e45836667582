"""The language of conditions and equations: names of a step, numbers, arithmetic, and few functions; never `eval`.

A text is parsed by Python's own parser and refused unless every node of it is one of those below, so that a command
file or a notebook from elsewhere can do no more than arithmetic. Values have the steps in front, (K, N, units), so that
one evaluation serves one step or a thousand; what is one number a step is (K, 1, 1).

Attention reads a memory of S rows: arrays (K, N, S, M), of which K is 1 where they are the same at every step. `@` is
then one matrix for each sequence, `keys @ h_prev` a score for each row; `each(q)` says q to every row, `outer(a, v)` is
a row a_s v for each s, `total` the sum of the rows, `dot` that of the products of the units, `softmax` is over the rows
that exist; `join` puts two arrays side by side, `head` and `tail` take what belongs to the one and to the other;
`windows` are the entries around each row, `overlap` adds them up again. Layer normalisation is `normal(u, epsilon)`,
and `normal_back(dy, u, epsilon)` its transposed Jacobian times dy.

`where(u > 0, u, 0.01 * u)` has the second where the first holds and the third elsewhere, `clip(u, -3, 3)` is u cut to
what lies between. Complex numbers are ordered by their real parts, as a complex step takes the branch of its point.

An evaluation can carry a bound on its own rounding along: `Value.bound` is a number of units of eps, entry by entry,
by which the result may differ from that of exact arithmetic (running error analysis [1]_).

References
----------
.. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. (2002), section 3.3.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.errors import OptionError

Array = NDArray[Any]

LONGEST = 500  # characters of a text, and nodes of what it parses to
UNITS = (-2, -1)  # the axes of one step
JOINED = "Write `and`, `or`, `not` in place of &, |, ~, as 'norm(dh) > 1 and not t < 3'. "


class Value(NamedTuple):
    """An array (a number, where it stands in a text), and the bound on its rounding in units of eps."""

    array: Any
    bound: Array | float = 0.0


class Names(Protocol):
    """What an expression is evaluated in."""

    def value(self, name: str, before: bool = False) -> Value:
        """Return what a name stands for; `before`, at the step that the pass visited before."""

    def limits(self, name: str) -> tuple[float, float]:
        """Return the values between which a gate lies."""

    def exists(self) -> Array | None:
        """Return which sequences have these steps, (K, N, 1); None for all."""


class Text(NamedTuple):
    """A text that is one of this language: what to say of it, and its tree."""

    text: str
    tree: ast.expr

    @property
    def names(self) -> tuple[str, ...]:
        """The names of arrays in it, in their order."""
        called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        found = [node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and id(node) not in called]
        return tuple(dict.fromkeys(found))


def parsed(where: str, text: Any) -> Text:
    """Return the tree of a text; what is not of this language is refused."""
    if not isinstance(text, str):
        raise OptionError(f"{where}: an expression must be a text, as 'norm(dh) > 1'; got {type(text).__name__}")
    if len(text) > LONGEST:
        raise OptionError(f"{where}: an expression may have {LONGEST} characters; got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        hint = JOINED if re.search(r"&&|\|\||!(?!=)", text) else ""
        raise OptionError(f"{where}: {text!r} is no expression: {reason}. {hint}{_rules()}") from None
    _check(where, text, tree)
    return Text(" ".join(text.split()), tree)


def evaluate(text: Text, names: Names, bounded: bool = False) -> Value:
    """Return what a text says in `names`; its rounding's bound as well, if asked."""
    with np.errstate(all="ignore"):
        try:
            array, bound = _value(text.tree, names, bounded)
        except (ValueError, TypeError, ArithmeticError) as error:  # arrays that do not fit
            if isinstance(error, OptionError):
                raise
            raise OptionError(f"{sources(text.tree)!r} cannot be computed: {error}") from None
    return Value(np.asarray(array), bound)


def sources(node: ast.AST) -> str:
    """Return the text of a part of a tree."""
    return ast.unparse(node)


# ------------------------------------------------------------------------------------------------ the grammar


def _rules() -> str:
    return (
        "There are names of a step, t, numbers, + - * / ** @ .T, comparisons, and, or, not, NAME[n, unit], and "
        + ", ".join([*REDUCTIONS, *ELEMENTWISE, *CHOICES, *OF_NAMES, *OF_MEMORY])
    )


def _check(where: str, text: str, tree: ast.expr) -> None:
    for count, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not abs(node.value) <= 1e308:
            raise OptionError(f"{where}: {text!r} has a number beyond 1e308, the largest that is taken")
        if count > LONGEST or not _is_known(node):
            got = sources(node) if isinstance(node, ast.expr) else type(node).__name__
            bits = isinstance(getattr(node, "op", None), (ast.BitAnd, ast.BitOr, ast.Invert))
            hint = JOINED if bits else ""
            raise OptionError(f"{where}: {text!r} has {got!r}, which is not of this language. {hint}{_rules()}")


def _is_known(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, (int, float))
        case ast.Attribute(value=ast.Name(), attr="T"):
            return True
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name in OF_NAMES:
                return len(arguments) == OF_NAMES[name] and all(isinstance(one, ast.Name) for one in arguments)
            if name in OF_MEMORY:
                return len(arguments) == OF_MEMORY[name][0]
            if name in CHOICES:
                return len(arguments) == 3 and (name != "where" or is_truth(arguments[0]))
            return name in {*REDUCTIONS, *ELEMENTWISE} and len(arguments) == 1
        case ast.Subscript(value=ast.Name(), slice=ast.Tuple(elts=[_, _]) | ast.Constant() | ast.UnaryOp()):
            return all(
                _is_index(one) for one in (node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])
            )
        case ast.BinOp(op=operator) | ast.UnaryOp(op=operator):
            return type(operator) in OPERATORS
        case ast.Compare(ops=operators):
            return all(type(operator) in OPERATORS for operator in operators)
        case ast.BoolOp() | ast.Name() | ast.Tuple() | ast.Slice() | ast.Load() | ast.And() | ast.Or():
            return True
    return type(node) in OPERATORS


def is_truth(node: ast.AST) -> bool:
    """Whether a tree is a comparison, or made of comparisons by and, or, not."""
    match node:
        case ast.BoolOp(values=values):
            return all(is_truth(value) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return is_truth(operand)
    return isinstance(node, ast.Compare)


def _is_index(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=int()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            return True
        case ast.Slice(lower=lower, upper=upper, step=None):
            return all(one is None or _is_index(one) for one in (lower, upper))
    return False


def constant(node: ast.expr) -> Any:
    """Return what a tree says that is a literal, or + - * / ** of numbers: of floats, so that no power is large.

    ValueError where it is neither; ArithmeticError where it has no finite value.
    """
    match node:
        case ast.BinOp(
            left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow() as operator, right=right
        ):
            sides = [constant(left), constant(right)]
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as operator, operand=operand):
            sides = [constant(operand)]
        case _:
            return ast.literal_eval(node)
    if not all(type(side) in (int, float) for side in sides):
        raise ValueError
    found = NUMBERS[type(operator)](*map(float, sides))
    if isinstance(found, complex) or not abs(found) < float("inf"):
        raise ArithmeticError("it is no real number")
    is_whole = all(type(side) is int for side in sides) and found.is_integer() and abs(found) < 2**53
    return int(found) if is_whole and not isinstance(operator, ast.Div) else found


# ------------------------------------------------------------------------------------------------ values


def _value(node: ast.expr, names: Names, bounded: bool) -> Value:
    match node:
        case ast.Constant(value=bool() as value):
            return Value(value)
        case ast.Constant(value=int() | float() as value):
            return Value(float(value))  # Python's, so that float32 stays float32, and no whole number overflows
        case ast.Name(id=name):
            return names.value(name)
        case ast.Attribute(value=ast.Name(id=name)):
            array = names.value(name).array
            if np.ndim(array) not in (2, 4):
                raise OptionError(f"{name}.T is of a weight, or of a memory; {name} is none")
            return Value(np.swapaxes(array, -1, -2))
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            return _entry(names.value(name), index)
        case ast.UnaryOp(op=operator, operand=operand):
            array, bound = _value(operand, names, bounded)
            return Value(_computed(operator, array), bound)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(operator, _value(left, names, bounded), _value(right, names, bounded), bounded)
        case ast.BoolOp(op=operator, values=values):
            found = [_value(value, names, bounded).array for value in values]
            both = np.logical_and if isinstance(operator, ast.And) else np.logical_or
            return Value(functools.reduce(both, found))
        case ast.Compare(left=left, ops=operators, comparators=others):
            sides = [_value(side, names, bounded).array for side in (left, *others)]
            pairs = zip(sides, operators, sides[1:], strict=False)
            return Value(functools.reduce(np.logical_and, [_compared(op, a, b) for a, op, b in pairs]))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _called(name, arguments, names, bounded)
    raise OptionError(f"{sources(node)!r} is no expression by itself")


def _entry(value: Value, index: ast.expr) -> Value:
    """Return entries [n, units] of each step; [units] of the only sequence, or of all of them."""
    places = [_slice(one) for one in (index.elts if isinstance(index, ast.Tuple) else [index])]
    array = value.array
    if np.ndim(array) < 3:
        raise OptionError("only arrays of a step have entries [n, unit]")
    try:
        return Value(array[(slice(None), *([slice(None)] if len(places) == 1 else []), *places)])
    except IndexError:
        raise OptionError(
            f"[{sources(index).strip('()')}] is outside of an array (N, units) = {array.shape[1:]}"
        ) from None


def _slice(node: ast.expr) -> Any:
    """Return an index that keeps its axis."""
    if isinstance(node, ast.Slice):
        low, high = (None if one is None else ast.literal_eval(one) for one in (node.lower, node.upper))
        return slice(low, high)
    return [ast.literal_eval(node)]


def _combined(operator: ast.operator, left: Value, right: Value, bounded: bool) -> Value:
    (a, a_bound), (b, b_bound) = left, right
    if isinstance(operator, ast.MatMult):
        return _product(left, right, bounded)
    result = _computed(operator, a, b)
    if not bounded:
        return Value(result)
    match operator:
        case ast.Add() | ast.Sub():
            return Value(result, a_bound + b_bound + abs(result))
        case ast.Mult():
            return Value(result, abs(a) * b_bound + abs(b) * a_bound + abs(result))
        case ast.Div():
            return Value(result, (a_bound + abs(result) * b_bound) / abs(b) + abs(result))
    # a ** b, b a small number: each product of it rounds once.
    return Value(result, abs(b) * (np.power(abs(a) + 0.0, b - 1) * a_bound + abs(result)))


def _computed(operator: ast.operator | ast.unaryop, *sides: Any) -> Any:
    """Return the result of arithmetic: of truths, 1 and 0, a number, and of numbers of a text, one of Python's."""
    if isinstance(operator, ast.Not):
        return np.logical_not(*sides)
    if all(np.asarray(side).dtype == bool for side in sides):
        sides = tuple(np.asarray(side, float) for side in sides)
    result = OPERATORS[type(operator)](*sides)
    return float(result) if all(type(side) is float for side in sides) else result


def _compared(operator: ast.cmpop, *sides: Any) -> Any:
    if not isinstance(operator, (ast.Eq, ast.NotEq)):
        sides = tuple(side.real if np.iscomplexobj(side) else side for side in sides)
    return OPERATORS[type(operator)](*sides)


def _product(left: Value, right: Value, bounded: bool) -> Value:
    """Return a matrix times the rows of a step array: W @ h is h W^T for (K, N, H); or a memory's rows times such rows,
    sequence by sequence, or times a vector.
    """
    (W, W_bound), (h, h_bound) = left, right
    kind = np.ndim(W), np.ndim(h)
    if kind not in PRODUCTS or W.shape[-1] != h.shape[-1]:
        raise OptionError(f"@ is a matrix times an array of a step; got shapes {np.shape(W)} and {np.shape(h)[1:]}")
    product = PRODUCTS[kind]
    result = product(W, h)
    if not bounded:
        return Value(result)
    # A dot product of n terms: at most n roundings of the sum of their sizes, in whatever order it is taken.
    if kind == (2, 3):  # in one product, of all steps: of a bound the last bits do not matter
        product = _at_once
    bound = W.shape[-1] * product(abs(W), abs(h))
    if np.ndim(h_bound):
        bound = bound + product(abs(W), np.broadcast_to(h_bound, h.shape))
    return Value(result, bound + product(W_bound, abs(h)) if np.ndim(W_bound) else bound)


def _at_once(W: Array, h: Array) -> Array:
    """Return h W^T for (K, N, H)."""
    found: Array = (h.reshape(-1, h.shape[-1]) @ W.T).reshape(*h.shape[:-1], len(W))
    return found


def _called(name: str, arguments: list[ast.expr], names: Names, bounded: bool) -> Value:
    if name in OF_NAMES:
        identifiers = [argument.id for argument in arguments if isinstance(argument, ast.Name)]
        return Value(FUNCTIONS_OF_NAMES[name](names, *identifiers))
    if name in OF_MEMORY:
        given = [_value(argument, names, bounded) for argument in arguments]
        axes = tuple(np.ndim(one.array) for one in given)
        if not all(has in fits for has, fits in zip(axes, OF_MEMORY[name][2], strict=True)):
            raise OptionError(
                f"{name}(...) is of {OF_MEMORY[name][3]}; got {', '.join(sources(argument) for argument in arguments)}"
            )
        return Value(*OF_MEMORY[name][1](*given)) if bounded else Value(OF_MEMORY[name][1](*given)[0])
    if name in CHOICES:
        given = [_value(argument, names, bounded) for argument in arguments]
        if name == "where":
            given[1:] = [_typed(one, arguments, names) for one in given[1:]]
        return Value(*CHOICES[name](*given))
    array, bound = _value(arguments[0], names, bounded)
    if name in REDUCTIONS:
        if np.ndim(array) == 2:  # a weight
            return Value(REDUCTIONS[name](array[None]))
        if np.ndim(array) == 4:  # of a memory
            array = array.reshape(*array.shape[:2], -1)
        if np.ndim(array) != 3:
            raise OptionError(f"{name}(...) is of an array of a step, or of a weight; got {sources(arguments[0])!r}")
        return Value(REDUCTIONS[name](array))
    is_number, array = type(array) is float, np.asarray(array)
    result = ELEMENTWISE[name](array)
    said = float(result) if is_number else result
    return Value(said, SLOPES[name](result, array) * bound + ROUNDINGS[name](result) if bounded else 0.0)


# ------------------------------------------------------------------------------------------------ functions


def _softmax(score: Value, exists: Value) -> tuple[Array, Any]:
    counts = np.broadcast_to(np.asarray(exists.array, bool), score.array.shape)
    largest = np.where(counts, score.array.real, -np.inf).max(axis=-1, keepdims=True, initial=np.finfo(float).min)
    apart = np.where(counts, score.array - largest.astype(score.array.real.dtype), 0)
    terms = np.where(counts, np.exp(apart), 0)
    result = np.divide(terms, terms.sum(axis=-1, keepdims=True), out=np.zeros_like(terms), where=counts)
    # Of a sum of exponentials: what the scores may be off, what their difference rounds, exp, and S additions.
    off = np.where(counts, score.bound + abs(apart), 0).max(axis=-1, keepdims=True, initial=0)
    return result, abs(result) * (2 * off + 8 + score.array.shape[-1])


def _dot(a: Value, b: Value) -> tuple[Array, Any]:
    result = (a.array * b.array).sum(axis=-1, keepdims=True)
    sizes = abs(a.array) * abs(b.array) * a.array.shape[-1] + abs(a.array) * b.bound + abs(b.array) * a.bound
    return result, sizes.sum(axis=-1, keepdims=True)


def _total(rows: Value) -> tuple[Array, Any]:
    return rows.array.sum(axis=2), (abs(rows.array) * rows.array.shape[2] + rows.bound).sum(axis=2)


def _outer(a: Value, b: Value) -> tuple[Array, Any]:
    result = a.array[..., None] * b.array
    a_bound, b_bound = (np.broadcast_to(one.bound, np.shape(one.array)) for one in (a, b))
    return result, abs(a.array)[..., None] * b_bound + a_bound[..., None] * abs(b.array) + abs(result)


def _rearranged(change: Callable[..., Array]) -> Callable[..., tuple[Array, Any]]:
    """Return a function that moves the entries of its first arguments, and their bounds in the same way."""

    def moved(*given: Value) -> tuple[Array, Any]:
        bounds = [np.broadcast_to(one.bound, np.shape(one.array)) for one in given]
        return change(*(one.array for one in given)), change(*bounds)

    return moved


def _windows(focus: Array, F: Array) -> Array:
    """Return focus (K, N, S) around each s, (K, N, S, width), zeros outside; F is (C, width)."""
    radius = F.shape[1] // 2
    padded = np.pad(focus, ((0, 0), (0, 0), (radius, radius)))
    return np.lib.stride_tricks.sliding_window_view(padded, F.shape[1], axis=2)


def _overlap(rows: Value, F: Value) -> tuple[Array, Any]:
    """Return what windows (K, N, S, width) say of each s, (K, N, S)."""
    width = F.array.shape[1]

    def added(array: Array) -> Array:
        K, N, S, _ = array.shape
        found = np.zeros((K, N, S + 2 * (width // 2)), array.dtype)
        for w in range(width):
            found[:, :, w : w + S] += array[..., w]
        return found[:, :, width // 2 : width // 2 + S]

    return added(rows.array), added(abs(rows.array) * width + rows.bound)


def _typed(value: Value, arguments: list[ast.expr], names: Names) -> Value:
    """Return a number, or truths, in the dtype of the arrays that a call reads: a layer's slope has the layer's."""
    if type(value.array) is not float and value.array.dtype.kind != "b":
        return value
    arrays = [names.value(name).array for argument in arguments for name in Text("", argument).names]
    dtypes = [array.dtype for array in arrays if array.dtype.kind in "fc"]
    return Value(np.asarray(value.array, np.result_type(*dtypes) if dtypes else float), value.bound)


def _chosen(condition: Value, yes: Value, no: Value) -> tuple[Array, Any]:
    """Return one of two, with its own bound: what the other one is, NaN or infinite, does not matter."""
    return np.where(condition.array, yes.array, no.array), np.where(condition.array, yes.bound, no.bound)


def _clipped(a: Value, low: Value, high: Value) -> tuple[Array, Any]:
    real = np.real(a.array)
    within = (low.array < real) & (real < high.array)
    result = np.where(within, a.array, np.clip(real, low.array, high.array))
    # Rounding moves what is cut no farther than what is not: `within` may be found otherwise next to an end.
    return result, np.broadcast_to(a.bound, np.shape(result)) if np.ndim(a.bound) else a.bound


class _Normal(NamedTuple):
    """Layer normalisation of rows: y = centred / s, with what y and s may be off, in units of eps."""

    y: Array
    s: Array
    y_off: Array
    s_off: Array


def _normalized(u: Value, epsilon: float) -> _Normal:
    def mean(array: Array) -> Array:
        found: Array = array.mean(axis=-1, keepdims=True)
        return found

    count = u.array.shape[-1]
    centred = u.array - mean(u.array)
    s = np.sqrt(mean(centred * centred) + epsilon)
    y = centred / s
    off = np.broadcast_to(u.bound, u.array.shape)
    centred_off = off + mean(off) + count * mean(abs(u.array)) + abs(centred)
    s_off = mean(abs(centred) * centred_off) / abs(s) + (count + 4) * abs(s)
    return _Normal(y, s, (centred_off + abs(y) * s_off) / abs(s) + abs(y), s_off)


def _normal(u: Value, epsilon: Value) -> tuple[Array, Any]:
    found = _normalized(u, epsilon.array)
    return found.y, found.y_off


def _normal_back(dy: Value, u: Value, epsilon: Value) -> tuple[Array, Any]:
    y, s, y_off, s_off = _normalized(u, epsilon.array)
    count, d = dy.array.shape[-1], dy.array
    off = np.broadcast_to(dy.bound, d.shape)
    straight, along = d.mean(axis=-1, keepdims=True), (y * d).mean(axis=-1, keepdims=True)
    result = (d - straight - y * along) / s
    sizes = abs(d).mean(axis=-1, keepdims=True), abs(y * d).mean(axis=-1, keepdims=True)
    along_off = count * sizes[1] + (y_off * abs(d) + abs(y) * off).mean(axis=-1, keepdims=True)
    top_off = off + off.mean(axis=-1, keepdims=True) + count * sizes[0] + y_off * abs(along) + abs(y) * along_off
    top_off = top_off + 3 * (abs(d) + sizes[0] + abs(y) * sizes[1])
    return result, (top_off + abs(result) * s_off) / abs(s) + abs(result)


def norm(array: Array) -> Array:
    """The norm of each step's rows, (K, 1, 1), also where squares would be too large or too small to be held.

    Each step's is one sum in one order: it has the same bits however many steps are looked at together.
    """
    rows = array.reshape(len(array), 1, -1)
    if rows.dtype.kind != "f":
        rows = abs(rows).astype(float)
    with np.errstate(all="ignore"):
        squares: Array = np.vecdot(rows, rows)[:, :, None]
        found: Array = np.sqrt(squares)
        limits = np.finfo(squares.dtype)
        other = ~((squares[:, 0, 0] > limits.tiny / limits.eps) & (squares[:, 0, 0] < np.inf))
        if rows.size and other.any():
            rows = rows[other]
            largest = abs(rows).max(axis=2, keepdims=True, initial=0)
            scale = np.where((largest > 0) & np.isfinite(largest), largest, 1)
            found[other] = scale * np.sqrt(np.vecdot(rows / scale, rows / scale)[:, :, None])
    return found


def _sigmoid(a: Array) -> Array:
    result: Array = (1 + np.tanh(a / 2)) / 2
    return result


def _relu(a: Array) -> Array:
    return np.where(a.real <= 0, 0, a)


def _sech(a: Array) -> Array:
    small = np.exp(-np.where(a.real > 0, a, -a))
    result: Array = 2 * small / (1 + small * small)
    return result


def _ratio(names: Names, name: str) -> Array:
    now: Array = norm(names.value(name).array)
    before: Array = norm(names.value(name, before=True).array)
    ratio: Array = now / before
    return ratio


def _cos(names: Names, left: str, right: str) -> Array:
    a, b = names.value(left).array, names.value(right).array
    cosine: Array = (a * b.conj()).sum(axis=UNITS, keepdims=True).real / (norm(a) * norm(b))
    return cosine


def _sat(names: Names, name: str) -> Array:
    return saturation(names, name, 0.01)


def saturation(names: Names, name: str, within: float) -> Array:
    """The share of a gate's entries that are nearer than `within` to one of its limits, (K, 1, 1)."""
    low, high = names.limits(name)
    array = names.value(name).array
    near: Array = (array.real < low + within) | (array.real > high - within)
    exists = names.exists()
    if exists is not None:  # a sequence that has ended has no gate
        near = near & exists
    entries = array[0].size if exists is None else exists.sum(axis=UNITS, keepdims=True) * array.shape[-1]
    share: Array = near.sum(axis=UNITS, keepdims=True) / np.maximum(entries, 1)
    return share


def _ulps(names: Names, left: str, right: str) -> Array:
    a, b = names.value(left).array, names.value(right).array
    apart: Array = ulps(a, b).max(axis=UNITS, keepdims=True)
    return apart


def ulps(a: Array, b: Array) -> Array:
    """The number of floating-point numbers from one to the other, entry by entry; NaN and NaN are 0 apart.

    Of complex numbers the larger of those of real and imaginary part.
    """
    a, b = np.broadcast_arrays(a, b)
    if a.dtype.kind == "c" or b.dtype.kind == "c":
        return np.maximum(ulps(a.real, b.real), ulps(a.imag, b.imag))
    dtype = np.promote_types(np.float32, min(a.dtype, b.dtype))
    places = [_place(np.ascontiguousarray(one.astype(dtype))) for one in (a, b)]
    apart: Array = abs(places[0] - places[1])
    apart[np.isnan(a) & np.isnan(b)] = 0
    apart[np.isnan(a) != np.isnan(b)] = np.inf
    return apart


def _place(array: Array) -> Array:
    """Return how many floating-point numbers lie between 0 and each entry, with its sign, exact up to 2^53."""
    bits = array.view(f"i{array.itemsize}")
    size = bits & np.iinfo(bits.dtype).max
    place: Array = np.where(bits < 0, -size, size).astype(np.longdouble)
    return place


OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.MatMult: np.matmul,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: np.logical_not,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
NUMBERS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
# By the numbers of axes of both sides: a weight, a memory; an array of a step, of a step and a memory's rows, a vector.
PRODUCTS: Mapping[tuple[int, int], Callable[[Any, Any], Any]] = {
    (2, 3): lambda W, h: h @ W.T,
    (2, 4): lambda W, rows: rows @ W.T,
    (4, 3): lambda rows, h: (rows @ h[..., None])[..., 0],
    (4, 1): lambda rows, v: rows @ v,
}
# Functions of what attention reads, and of whole rows: the number of their arguments, the axes that these have, and
# words for them; 3 is an array of a step, 4 one of a step and a memory's rows.
TWO = "two arrays of a step"
OF_MEMORY: Mapping[str, tuple[int, Callable[..., tuple[Array, Any]], tuple[tuple[int, ...], ...], str]] = {
    "softmax": (2, _softmax, ((3,), (2, 3)), "scores, (N, S), and which rows of the memory exist"),
    "dot": (2, _dot, ((3,), (3,)), TWO),
    "total": (1, _total, ((4,),), "an array of a step and a memory's rows"),
    "outer": (2, _outer, ((3,), (1,)), "an array of a step and a vector"),
    "each": (1, _rearranged(lambda array: array[:, :, None]), ((3,),), "an array of a step"),
    "join": (2, _rearranged(lambda a, b: np.concatenate([a, b], axis=-1)), ((3,), (3,)), TWO),
    "head": (2, _rearranged(lambda array, like: array[..., : like.shape[-1]]), ((3,), (3,)), TWO),
    "tail": (2, _rearranged(lambda array, like: array[..., -like.shape[-1] :]), ((3,), (3,)), TWO),
    "windows": (2, _rearranged(_windows), ((3,), (2,)), "an array of a step and filters"),
    "overlap": (2, _overlap, ((4,), (2,)), "windows and filters"),
    "normal": (2, _normal, ((3,), (0,)), "an array of a step and epsilon"),
    "normal_back": (3, _normal_back, ((3,), (3,), (0,)), TWO + " and epsilon"),
}
REDUCTIONS: Mapping[str, Callable[[Array], Any]] = {
    "norm": norm,
    "max": lambda array: array.max(axis=UNITS, keepdims=True),
    "min": lambda array: array.min(axis=UNITS, keepdims=True),
    "mean": lambda array: array.mean(axis=UNITS, keepdims=True),
    "isfinite": lambda array: np.all(np.isfinite(array), axis=UNITS, keepdims=True),
}
ELEMENTWISE: Mapping[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "sech": _sech,
}
CHOICES: Mapping[str, Callable[..., tuple[Array, Any]]] = {"where": _chosen, "clip": _clipped}
# Of f at a with the result y: its slope, and by how many units of eps the function itself may be off. A sigmoid by
# tanh is off by a unit of 1, not of itself (`rnn_numpy.layers.lstm`).
SLOPES: Mapping[str, Callable[[Array, Array], Array]] = {
    "abs": lambda y, a: np.ones_like(y),
    "tanh": lambda y, a: abs(1 - y * y),
    "sigmoid": lambda y, a: abs(y * (1 - y)),
    "relu": lambda y, a: np.ones_like(y.real),
    "exp": lambda y, a: abs(y),
    "log": lambda y, a: 1 / abs(a),
    "sqrt": lambda y, a: 1 / abs(2 * y),
    "sech": lambda y, a: abs(y * np.tanh(a)),
}
ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    **dict.fromkeys(("abs", "relu"), lambda y: 0 * abs(y)),
    **dict.fromkeys(("tanh", "exp", "log", "sqrt"), lambda y: 4 * abs(y)),
    "sigmoid": lambda y: np.ones_like(y.real),
    "sech": lambda y: 8 * abs(y),
}
# Functions of names, not of values, with the number of them.
OF_NAMES: Mapping[str, int] = {"ratio": 1, "sat": 1, "cos": 2, "ulps": 2}
FUNCTIONS_OF_NAMES: Mapping[str, Callable[..., Array]] = {"ratio": _ratio, "sat": _sat, "cos": _cos, "ulps": _ulps}

_LINE = re.compile(r"(?P<label>\w+)\s+(?P<target>\w+)\s*(?P<sign>\+?=)\s*(?P<right>\S.*)")


class Equation(NamedTuple):
    """One line of `Cell.equations`: "F3  c = f * c_prev + i * g"."""

    label: str
    target: str
    adds: bool
    right: Text

    def __str__(self) -> str:
        return f"{self.target} {'+=' if self.adds else '='} {self.right.text}"


@functools.cache
def equations(text: str) -> tuple[Equation, ...]:
    """Return the equations that a text lists, one a line."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _LINE.fullmatch(line)
        if match is None:
            raise OptionError(f"Cell.equations: a line must be 'LABEL NAME = EXPRESSION', or with +=; got {line!r}")
        label, target, sign, right = match.groups()
        found.append(Equation(label, target, sign == "+=", parsed("Cell.equations", right)))
    return tuple(found)
