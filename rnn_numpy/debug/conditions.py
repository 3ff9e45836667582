"""When to stop: conditions on the steps of a pass, each with the evidence that made it stop.

A condition looks at many steps at once (`Rows`), so that a run with conditions costs little more than one without.
`&`, `|` and `~` join them; a text is one as well, and so is a function of a `Step`.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.debug.expressions import (
    LONGEST,
    Text,
    Value,
    constant,
    evaluate,
    norm,
    parsed,
    saturation,
    sources,
    ulps,
)
from rnn_numpy.debug.rows import Halted, Rows, checkable, targets, total, wording
from rnn_numpy.engine.trace import Step
from rnn_numpy.errors import OptionError, RNNNumpyError

Array = NDArray[Any]


class Condition(ABC):
    """What is true of some steps, and says why.

    A subclass gives `holds`, an array (K,) of bool for the K steps of `rows`, and `evidence`, one line of text for the
    step in place k.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @abstractmethod
    def holds(self, rows: Rows) -> Array:
        """Return at which of the steps the condition holds, (K,)."""

    @abstractmethod
    def evidence(self, rows: Rows, k: int) -> str:
        """Say what made it hold at the step in place k."""

    def __and__(self, other: Any) -> Condition:
        return _Joined("&", (self, condition(other)))

    def __or__(self, other: Any) -> Condition:
        return _Joined("|", (self, condition(other)))

    def __invert__(self) -> Condition:
        return _Not(self)

    def __repr__(self) -> str:
        return self.text


class _Joined(Condition):
    def __init__(self, operator: str, sides: Sequence[Condition]) -> None:
        super().__init__(f"({f' {operator} '.join(side.text for side in sides)})")
        self.sides, self.both = sides, operator == "&"

    def holds(self, rows: Rows) -> Array:
        found = [side.holds(rows) for side in self.sides]
        return found[0] & found[1] if self.both else found[0] | found[1]

    def evidence(self, rows: Rows, k: int) -> str:
        said = (side.evidence(rows, k) for side in self.sides if self.both or side.holds(rows)[k])
        return "; ".join(filter(None, said))


class _Not(Condition):
    def __init__(self, inner: Condition) -> None:
        super().__init__(f"~{inner.text}")
        self.inner = inner

    def holds(self, rows: Rows) -> Array:
        return ~self.inner.holds(rows)

    def evidence(self, rows: Rows, k: int) -> str:
        said = self.inner.evidence(rows, k)
        return f"not: {said}" if said else ""


class _When(Condition):
    """A text of the language of `rnn_numpy.debug.expressions`."""

    def __init__(self, text: str) -> None:
        self.parsed = parsed("debug.when", text)
        super().__init__(self.parsed.text)

    def holds(self, rows: Rows) -> Array:
        array = evaluate(self.parsed, rows).array
        if array.size != len(rows.indices) and array.size != 1:
            raise OptionError(
                f"debug.when: {self.text!r} is an array (N, units) = {array.shape[1:]} at each step; say which entry, "
                "[n, unit], or max(...), min(...), norm(...)"
            )
        flat: Array = np.broadcast_to(array.reshape(-1), (len(rows.indices),))
        return flat.astype(bool) & ~np.isnan(flat)

    def evidence(self, rows: Rows, k: int) -> str:
        found = {}
        for side in _sides(self.parsed.tree):
            values = evaluate(Text("", side), rows).array
            if values.size == len(rows.indices) and Text("", side).names:
                found[sources(side)] = values.reshape(-1)[k]
        return ", ".join(f"{text} = {_number(value)}" for text, value in found.items())


class _Python(Condition):
    """A function of a step, which returns evidence, or something false."""

    def __init__(self, function: Callable[[Step], Any]) -> None:
        super().__init__(getattr(function, "__name__", repr(function)))
        self.function = function

    def _said(self, rows: Rows, k: int) -> Any:
        said = self.function(Halted(rows.trace, rows.indices[k], rows.gradients, rows.kept))
        if isinstance(said, np.ndarray) and said.size != 1:
            raise OptionError(
                f"debug: a condition must return one truth for a step; {self.text} returned an array {said.shape}: "
                "take .any() or .all() of it"
            )
        return said

    def holds(self, rows: Rows) -> Array:
        return np.array([bool(self._said(rows, k)) for k in range(len(rows.indices))], bool)

    def evidence(self, rows: Rows, k: int) -> str:
        said = self._said(rows, k)
        return said if isinstance(said, str) else f"{self.text} returned {said}"


class _Norm(Condition):
    def __init__(self, name: str, bound: float, above: bool) -> None:
        super().__init__(f"norm_{'above' if above else 'below'}({name!r}, {bound:g})")
        self.name, self.bound, self.above = name, bound, above

    def holds(self, rows: Rows) -> Array:
        norms = norm(_of_steps(self, rows, self.name)).reshape(-1)
        return norms > self.bound if self.above else norms < self.bound

    def evidence(self, rows: Rows, k: int) -> str:
        array = rows.value(self.name).array[k]
        now, before = (norm(rows.value(self.name, before).array).reshape(-1)[k] for before in (False, True))
        tiny = np.finfo(array.dtype).tiny
        words = f"norm({self.name}) = {_number(now)}, {'above' if self.above else 'below'} {self.bound:g}"
        if not np.isnan(before):
            words += f"; the step before {_number(before)}"
        zeros, subnormal = int((array == 0).sum()), int(((array != 0) & (abs(array) < tiny)).sum())
        return words + (f"; {zeros} entries are 0, {subnormal} subnormal" if zeros or subnormal else "")


class _Jump(Condition):
    def __init__(self, name: str, factor: float) -> None:
        super().__init__(f"jump({name!r}, {factor:g})")
        self.name, self.factor = name, factor

    def _norms(self, rows: Rows) -> tuple[Array, Array]:
        now, before = (norm(_of_steps(self, rows, self.name, before)).reshape(-1) for before in (False, True))
        return now, before

    def holds(self, rows: Rows) -> Array:
        now, before = self._norms(rows)
        return (now > self.factor * before) | (now * self.factor < before)

    def evidence(self, rows: Rows, k: int) -> str:
        now, before = (norms[k] for norms in self._norms(rows))
        if np.isnan(now) or np.isnan(before) or now == before == 0:
            return f"norm({self.name}) = {_number(now)}; {_before(rows, k, before)}"
        change = abs(rows.value(self.name).array[k] - rows.value(self.name, True).array[k])
        largest = [np.unravel_index(place, change.shape) for place in np.argsort(change, axis=None)[::-1][:2]]
        places = " and ".join(f"[n = {n}, unit {unit}]" for n, unit in largest)
        ratio = now / before if before else np.inf
        return f"norm({self.name}) = {_number(now)}, {ratio:.3g} times {_number(before)}; most in {places}"


class _NonFinite(Condition):
    def __init__(self, names: tuple[str, ...] | None) -> None:
        super().__init__(f"non_finite({', '.join(map(repr, names or ()))})")
        self.names = names

    def _names(self, rows: Rows) -> tuple[str, ...]:
        return self.names or Step(rows.trace, rows.indices[-1], rows.gradients).names

    def holds(self, rows: Rows) -> Array:
        finite = np.ones(len(rows.indices), bool)
        if self.names is None and rows.is_moderate():
            return ~finite
        for name in self._names(rows):
            with np.errstate(all="ignore"):  # of what is computed when asked for
                known = np.isfinite(_of_steps(self, rows, name) if self.names else rows.value(name).array)
            if not known.all():
                finite &= known.all(axis=(1, 2))
        return ~finite

    def evidence(self, rows: Rows, k: int) -> str:
        for name in self._names(rows):
            with np.errstate(all="ignore"):
                array = rows.value(name).array[k]
            places = np.argwhere(~np.isfinite(array))
            if len(places):
                n, unit = places[0]
                return f"{name}[n = {n}, unit {unit}] = {array[n, unit]}, and {len(places) - 1} more of {name}"
        return ""


class _Saturated(Condition):
    def __init__(self, gate: str, share: float, within: float) -> None:
        super().__init__(f"saturated({gate!r}, {share:g})")
        self.gate, self.share, self.within = gate, share, within

    def _shares(self, rows: Rows) -> Array:
        _of_steps(self, rows, self.gate)
        return saturation(rows, self.gate, self.within).reshape(-1)

    def holds(self, rows: Rows) -> Array:
        found: Array = self._shares(rows) >= self.share
        return found

    def evidence(self, rows: Rows, k: int) -> str:
        low, high = rows.limits(self.gate)
        array = rows.value(self.gate).array[k].real
        exists = rows.exists()
        alive = np.ones(array.shape, bool) if exists is None else np.broadcast_to(exists[k], array.shape)
        shut, opened = (int((near & alive).sum()) for near in (array < low + self.within, array > high - self.within))
        share = self._shares(rows)[k]
        return f"{share:.0%} of {self.gate}: {shut} entries are within {self.within:g} of {low:g}, {opened} of {high:g}"


class _SignChange(Condition):
    def __init__(self, name: str, unit: int, n: int) -> None:
        super().__init__(f"sign_change({name!r}, unit={unit}, n={n})")
        self.name, self.unit, self.n = name, unit, n

    def _pair(self, rows: Rows) -> tuple[Array, Array]:
        found = [_of_steps(self, rows, self.name, before) for before in (False, True)]
        try:
            now, before = (array[:, self.n, self.unit].real for array in found)
        except IndexError:
            raise OptionError(f"debug.{self.text}: {self.name} has (N, units) = {found[0].shape[1:]} entries") from None
        return now, before

    def holds(self, rows: Rows) -> Array:
        now, before = self._pair(rows)
        changed: Array = np.sign(now) * np.sign(before) < 0
        return changed

    def evidence(self, rows: Rows, k: int) -> str:
        now, before = self._pair(rows)
        return f"{self.name}[n = {self.n}, unit {self.unit}] = {_number(now[k])}; {_before(rows, k, before[k])}"


class _Violated(Condition):
    def __init__(self, ulps: float) -> None:
        super().__init__(f"violated({ulps:g})")
        self.ulps = ulps

    def _errors(self, rows: Rows) -> dict[str, tuple[Value, Array, Array]]:
        """By name: what the equations say, what is recorded, and by how many times the rounding allowed they differ."""
        if not targets(rows.trace):
            raise OptionError(
                f"debug.{self.text}: the cell of {rows.trace.name} has no equations, `Cell.equations` is empty: none "
                "can be violated"
            )
        found, exists, written = {}, rows.exists(), bool(rows.kept.written)
        for name in checkable(rows):
            said, recorded = total(rows, name), rows.value(name).array
            with np.errstate(all="ignore"):
                allowed = np.finfo(recorded.dtype).eps * np.maximum(said.bound, abs(said.array))
                # Below the smallest normal number rounding is absolute.
                error = abs(said.array - recorded) / np.maximum(allowed, np.finfo(recorded.dtype).tiny)
            same = (said.array == recorded) | (np.isnan(said.array) & np.isnan(recorded))
            passed = same | (np.isnan(said.array) & ~np.isnan(recorded))  # what came in is not known at a first step
            if exists is not None:
                passed |= ~exists
            if written:
                passed |= np.array([_touched(rows, index, name) for index in rows.indices], bool)[:, None, None]
            found[name] = said, recorded, np.where(passed, 0, error)
        return found

    def holds(self, rows: Rows) -> Array:
        found = np.zeros(len(rows.indices), bool)
        for *_, error in self._errors(rows).values():
            found |= (error > self.ulps).any(axis=(1, 2))
        return found

    def evidence(self, rows: Rows, k: int) -> str:
        for name, (said, recorded, error) in self._errors(rows).items():
            if (error[k] > self.ulps).any():
                n, unit = np.unravel_index(np.nanargmax(error[k]), error[k].shape)
                labels, equation = wording(rows.trace, name)
                says, has = said.array[k, n, unit], recorded[k, n, unit]
                apart = ulps(np.array([says], recorded.dtype), np.array([has]))[0]
                return (
                    f"{labels}, {equation}: {name}[n = {n}, unit {unit}] is {_number(has)}, the equation says "
                    f"{_number(says)}, {apart:.3g} ulp apart"
                )
        return ""


def _touched(rows: Rows, index: int, name: str) -> bool:
    """Whether an array of a step was written, or is made of one that was written afterwards."""
    written = rows.kept.written.get(index, set())
    if not written:
        return False
    read = {names.get(one, one) for names, line in targets(rows.trace)[name] for one in line.right.names}
    return name in written or bool(read & written)


# ------------------------------------------------------------------------------------------------ the door


def condition(of: Any) -> Condition:
    """Return a condition: one, a text, or a function of a step."""
    if isinstance(of, Condition):
        return of
    if isinstance(of, str):
        return when(of)
    if callable(of):
        return _Python(of)
    raise OptionError(f"debug: a condition is a text, a function of a Step, or one of debug's; got {type(of).__name__}")


def when(text: str) -> Condition:
    """Return the condition that a text says.

    Parameters
    ----------
    text : str
        Names of a `Step`, `t`, numbers, arithmetic, comparisons, `and`, `or`, `not`, entries `dh[n, unit]`, and norm,
        max, min, mean, isfinite, abs, tanh, sigmoid, relu, exp, log, sqrt, ratio (of the norm to that of the step
        before), sat (the share of a gate at its limits), cos and ulps of two names; the conditions of `debug` by their
        names, jump(dh, 10), violated(), joined by and, or, not. It is parsed, never run.

    Returns
    -------
    Condition

    Raises
    ------
    OptionError
        The text is not of this language.

    Examples
    --------
    >>> when("norm(dh) > 1e-3 and t < 50")
    norm(dh) > 1e-3 and t < 50
    >>> when("jump(dh, 10) and not violated()")
    (jump('dh', 10) & ~violated(8))
    >>> when("dh.tofile")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    rnn_numpy.errors.OptionError: debug.when: 'dh.tofile' has 'dh.tofile', which is not of this language. There are ...
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (AttributeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return _When(text)  # which says what is wrong
    return _built(tree, text)


def _built(node: ast.expr, text: str) -> Condition:
    """Return the condition of a tree in which conditions may stand by their names."""
    if len(text) > LONGEST or not any(_is_named(one) for one in ast.walk(node)):
        return _When(text)
    match node:
        case ast.BoolOp(op=operator, values=values):
            joined, *others = (_built(value, ast.unparse(value)) for value in values)
            for one in others:
                joined = joined & one if isinstance(operator, ast.And) else joined | one
            return joined
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as operator, right=right):
            return _built(ast.BoolOp(ast.And() if isinstance(operator, ast.BitAnd) else ast.Or(), [left, right]), text)
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            return ~_built(operand, ast.unparse(operand))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=keywords) if name in NAMED:
            return _made(name, given, keywords)
    raise OptionError(
        f"debug.when: {ast.unparse(node)!r}: {', '.join(NAMED)} stand by themselves, joined by and, or, not"
    )


def _is_named(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMED


def _made(name: str, given: list[ast.expr], keywords: list[ast.keyword]) -> Condition:
    """Return a condition of `debug`; its arguments are names of arrays and numbers."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return node.id
        try:
            return constant(node)
        except ArithmeticError as error:
            reason = "it is too large" if isinstance(error, OverflowError) else error
            raise OptionError(f"debug.{name}: {ast.unparse(node)!r} cannot be computed: {reason}") from None
        except ValueError:
            raise OptionError(f"debug.{name}: takes names of arrays and numbers; got {ast.unparse(node)!r}") from None

    values = [value(argument) for argument in given]
    named = {str(keyword.arg): value(keyword.value) for keyword in keywords}
    try:
        return NAMED[name](*values, **named)
    except RNNNumpyError as error:
        raise OptionError(str(error)) from None
    except TypeError as error:
        raise OptionError(f"debug.{name}: {str(error).partition('() ')[2] or error}") from None


def norm_above(name: str, bound: float) -> Condition:
    """Stop where the norm of an array's row is above a bound."""
    return _Norm(_name("norm_above", name), arguments.real_number("debug.norm_above", "bound", bound), True)


def norm_below(name: str, bound: float) -> Condition:
    """Stop where the norm of an array's row is below a bound; exact zeros and subnormal numbers are counted apart."""
    return _Norm(_name("norm_below", name), arguments.real_number("debug.norm_below", "bound", bound), False)


def jump(name: str, factor: float = 10.0) -> Condition:
    """Stop where a norm changes by more than a factor from one step to the next."""
    number = arguments.real_number("debug.jump", "factor", factor)
    if number <= 1:
        raise OptionError(f"debug.jump: factor must be greater than 1; got {number}")
    return _Jump(_name("jump", name), number)


def non_finite(*names: str) -> Condition:
    """Stop at a NaN or an infinity in one of these arrays; of all of a step where none is named."""
    return _NonFinite(tuple(_name("non_finite", name) for name in names) or None)


def saturated(gate: str, share: float = 0.9, within: float = 0.01) -> Condition:
    """Stop where that share of a gate's units is nearer than `within` to one of its limits."""
    where = "debug.saturated"
    share = arguments.probability(where, "share", share)
    return _Saturated(_name("saturated", gate), share, arguments.positive_number(where, "within", within))


def sign_change(name: str, unit: int, n: int = 0) -> Condition:
    """Stop where an entry has another sign than at the step before."""
    where = "debug.sign_change"
    return _SignChange(
        _name("sign_change", name), arguments.integer(where, "unit", unit), arguments.integer(where, "n", n)
    )


def violated(ulps: float = 8.0) -> Condition:
    """Stop where an equation of the cell (`Cell.equations`) does not hold at the recorded numbers.

    An equation holds where both sides differ by at most `ulps` times the rounding that evaluating it may have, a
    running bound. What `Step.write` or `Stepper.fork` put into a step no equation made: it is passed over, and so is
    what that step had made from it before.
    """
    return _Violated(arguments.positive_number("debug.violated", "ulps", ulps))


# What stands by its name in a text.
NAMED: Mapping[str, Callable[..., Condition]] = {
    one.__name__: one for one in (jump, non_finite, norm_above, norm_below, saturated, sign_change, violated)
}


def _name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise OptionError(f"debug.{where}: the name of an array of a step is asked for, as 'dh'; got {name!r}")
    return name


def _of_steps(of: Condition, rows: Rows, name: str, before: bool = False) -> Array:
    """Return an array of numbers, (K, N, units), of which conditions by their names are."""
    array: Array = rows.value(name, before).array
    if array.ndim != 3 or name in rows.trace.given:
        kind = "a parameter" if array.ndim < 3 else "given" if name in rows.trace.given else "of a memory's rows"
        shape = array.shape if array.ndim < 3 else array.shape[1:]
        raise OptionError(f"debug.{of.text}: {name} is no array of a step, (N, units); it is {kind}, {shape}")
    if array.dtype == bool:
        raise OptionError(f"debug.{of.text}: {name} is an array of truths, which have no size and no sign")
    return array


def _before(rows: Rows, k: int, value: Any) -> str:
    """Say what was at the step that the pass visited before."""
    is_first = np.isnan(rows.value("t", before=True).array[k, 0, 0])
    return "there is no step before" if is_first else f"the step before {_number(value)}"


def _sides(tree: ast.expr) -> list[ast.expr]:
    """Return what is compared in a text; of one that compares nothing, all of it."""
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    return [side for node in compared for side in (node.left, *node.comparators)] or [tree]


def _number(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (complex, np.complexfloating)) and value.imag:
        return f"{value:.4g}"
    number = float(value.real)
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e6 else f"{number:.3e}"
