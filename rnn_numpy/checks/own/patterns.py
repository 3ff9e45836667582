"""What all wrong tensors of a gradient have in common with the right ones, in few numbers; nothing is known of the
network.

An explanation counts that gives every wrong tensor, to rounding. One that gives most of them, or needs a number for
each entry, is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.report import Diagnosis

Array = NDArray[Any]
Point = Mapping[str, Array]

EPSILONS = (0.0, 1e-6, 1e-8, 1e-12, 1e-7, 1e-5, 1e-10)


class Compared:
    """A gradient that was found, the right one, and which tensors differ.

    `sizes` are numbers that a mean could have been taken over, with their names.
    """

    def __init__(
        self, point: Point, found: Point, exact: Point, wrong: Sequence[str], sizes: Mapping[int, str] | None = None
    ) -> None:
        self.point, self.found, self.exact, self.wrong = point, found, exact, list(wrong)
        self.sizes = dict(sizes or {})
        self.scale = {name: float(np.abs(array).max(initial=0.0)) for name, array in exact.items()}
        self.off = {
            name: float(np.abs(found[name] - exact[name]).max(initial=0.0)) / (self.scale[name] or 1.0)
            for name in self.wrong
        }
        self.tolerance = tolerance_for(max(self.off.values(), default=1.0))
        self.titles = listed(self.wrong)

    def same(self, name: str, expected: Any) -> bool:
        """Whether a tensor is what was found, much closer than that is to the right one."""
        expected = np.asarray(expected, np.float64)
        if expected.shape != self.found[name].shape or not np.isfinite(expected).all():
            return False
        size = max(self.scale[name], float(np.abs(expected).max(initial=0.0)))
        own = min(self.tolerance, tolerance_for(self.off[name])) if name in self.off else self.tolerance
        return bool(np.all(np.abs(self.found[name] - expected) <= own * size))

    def all_are(self, function: Callable[[str, Array], Any]) -> bool:
        """Whether a function of the right tensor gives each wrong one."""
        return all(self.same(name, function(name, self.exact[name])) for name in self.wrong)


def tolerance_for(off: float) -> float:
    """Return how closely a prediction must agree with a gradient that is so far off: as closely as tells both apart.

    Examples
    --------
    >>> tolerance_for(0.5), tolerance_for(1e-20)
    (1e-09, 1e-13)
    """
    return float(min(1e-9, max(1e-3 * off, 1e-13)))


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words.

    Examples
    --------
    >>> listed(["Wf", "Wi", "bf"])
    'Wf, Wi and bf'
    """
    names = list(dict.fromkeys(names))
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def strong_patterns(c: Compared) -> Diagnosis | None:
    """Return what all wrong tensors are, of the right ones."""
    with np.errstate(all="ignore"):
        for pattern in (
            _zero, _ignored, _by_one_factor, _decayed, _clipped_by_value, _clipped_each_by_norm, _exchanged, _turned,
            _blocks_exchanged, _in_another_order, _single, _of_their_own,
        ):  # fmt: skip
            found = pattern(c)
            if found is not None:
                return found
    return None


def weak_patterns(c: Compared) -> Diagnosis | None:
    """Return what could be seen in any gradient by chance more easily: parts that are 0, a few entries with a "
    "factor."""
    with np.errstate(all="ignore"):
        for pattern in (_cut_off, _few_entries, _blocks_scaled, _each_by_itself):
            found = pattern(c)
            if found is not None:
                return found
    return None


# ---------------------------------------------------------------------------------------------- nothing, or more


def is_bias(name: str) -> bool:
    """Whether a name is that of a bias."""
    return "bias" in name or name.split(".")[-1].startswith("b")


def _zero(c: Compared) -> Diagnosis | None:
    if any(np.any(c.found[name]) for name in c.wrong):
        return None
    if all(map(is_bias, c.wrong)):
        return Diagnosis("bias ignored", f"the gradient of {c.titles} is 0 throughout")
    return Diagnosis("never accumulated", f"the gradient of {c.titles} is 0 throughout: it was never added to")


def _ignored(c: Compared) -> Diagnosis | None:
    if any(c.scale[name] for name in c.wrong):
        return None
    return Diagnosis("wrong derivative", f"the loss does not change with {c.titles}: the gradient must be exactly 0")


def _decayed(c: Compared) -> Diagnosis | None:
    """g = right + factor * p, or the sign of p, or the same number everywhere."""
    for function, word, kind_word in (
        (lambda p: p, "itself", "a weight decay that the loss does not have"),
        (np.sign, "'s sign", "a decay of absolute values that the loss does not have"),
        (np.ones_like, "", ""),
    ):
        terms = {name: function(c.point[name]) for name in c.wrong}
        sizes = {name: float(np.abs(term).max(initial=0.0)) for name, term in terms.items()}
        if not all(sizes.values()):
            continue
        largest = max(c.wrong, key=lambda name: sizes[name])
        at = int(np.argmax(np.abs(terms[largest])))
        factor = float((c.found[largest] - c.exact[largest]).flat[at] / terms[largest].flat[at])
        factor = float(f"{factor:.9g}") if abs(factor - float(f"{factor:.6g}")) < 1e-7 * abs(factor) else factor
        nice = float(f"{factor:.6g}")
        if not factor:
            continue
        for guess in (nice, factor):
            if all(_is_sum(c, name, guess * terms[name]) for name in c.wrong):
                if word and abs(guess - 1) < 1e-9:
                    each = c.titles if len(c.wrong) < 2 else "each"
                    why = f"the gradient of {c.titles} is the right one plus {each} {word}"
                    return Diagnosis("starts as the weights", why)
                if not word:
                    why = f"every entry of the gradient of {c.titles} is the right one plus {guess:.6g}"
                    return Diagnosis("wrong derivative", why)
                own = "the parameter " + word if word == "itself" else "the parameter" + word
                sign, what = (
                    ("plus", kind_word) if guess > 0 else ("less", "too little comes back from a penalty on it")
                )
                why = f"the gradient of {c.titles} is the right one {sign} {abs(guess):.6g} times {own}: {what}"
                return Diagnosis("weight decay", why)
    return None


def _is_sum(c: Compared, name: str, extra: Array) -> bool:
    """Whether the error of a tensor is this, to the digits that the error has."""
    error = c.found[name] - c.exact[name]
    size = float(np.abs(extra).max())
    rounding = 1e-12 * max(c.scale[name], size)
    return bool(np.all(np.abs(error - extra) <= 1e-6 * size + rounding) and size > 1e3 * rounding)


# ---------------------------------------------------------------------------------------------- factors


def factor_of(found: Array, exact: Array) -> float | None:
    """Return c where found = c exact, closely enough to tell c from 1."""
    scale = float(np.abs(exact).max(initial=0.0))
    if not scale:
        return None
    weight = exact / scale
    factor = float(np.sum(found / scale * weight) / np.sum(weight * weight))
    off = abs(factor - 1)
    allowed = max(1e-13, min(1e-9, 1e-3 * off))
    if off < 1e-12 or np.abs(found / scale - factor * weight).max() > allowed * max(1.0, abs(factor)):
        return None
    return factor


def in_digits(factor: float) -> str:
    """Return a factor with the digits that matter.

    Examples
    --------
    >>> in_digits(0.5), in_digits(1 + 1e-8), in_digits(1 - 2.5e-7)
    ('0.5', '1 + 1e-08', '1 - 2.5e-07')
    """
    near = factor - 1
    if 0 < abs(near) < 1e-4:
        return f"1 {'+' if near > 0 else '-'} {abs(near):.3g}"
    return f"{factor:.9g}"


def _by_one_factor(c: Compared) -> Diagnosis | None:
    factors = [factor_of(c.found[name], c.exact[name]) for name in c.wrong]
    if any(factor is None for factor in factors):
        return None
    values = [float(factor) for factor in factors if factor is not None]
    spread = max(values) - min(values)
    near = max(abs(value - 1) for value in values)
    if spread > max(1e-12, min(1e-8, 1e-2 * near)) * max(map(abs, values)):
        return None
    factor = float(np.median(values))
    if abs(factor + 1) < 1e-9:
        return Diagnosis("sign", f"{c.titles}: the negative of the right gradient")
    whole = len(c.wrong) == len([name for name in c.exact if c.scale[name]])
    if all(map(is_bias, c.wrong)) and abs(factor - 2) < 1e-9 and not whole:
        return Diagnosis("bias doubled", f"the gradient of {c.titles} is twice the right one: it is added to twice")
    if 0 < factor < 1:
        clipped = _clipped_by_norm(c, factor)
        if clipped is not None:
            return clipped
    told = rational(factor, c.sizes)
    if told:
        return Diagnosis("constant factor", f"{c.titles}: {told} times the right gradient")
    return Diagnosis("constant factor", f"{c.titles}: {in_digits(factor)} times the right gradient")


def rational(factor: float, sizes: Mapping[int, str]) -> str:
    """Return a factor as a fraction of sizes that a mean or a sum could be over, or as one of small numbers.

    Examples
    --------
    >>> rational(1 / 6, {6: "steps"})
    '1/6 (6 steps)'
    >>> rational(1 / 24, {6: "steps", 4: "the length of b"})
    '1/24 (6 steps * 4, the length of b)'
    >>> rational(2 / 3, {})
    '2/3'
    """
    if abs(factor - 1) < 1e-4:
        return ""
    for inverse, head in ((False, ""), (True, "1/")):
        value = 1 / factor if inverse else factor
        number = round(value)
        if abs(value - number) > 1e-9 * abs(value) or not 1 < abs(number) < 10**7:
            continue
        sign, number = ("-" if number < 0 else ""), abs(number)
        if number in sizes and number > 2:
            return f"{sign}{head}{number} ({_sized(number, sizes)})"
        pairs = [
            (a, b) for a in sizes for b in sizes if 1 < a <= b and a * b == number
        ]  # fmt: skip
        if pairs and number > 4:
            a, b = max(pairs, key=lambda pair: ("steps" in sizes[pair[0]] or "steps" in sizes[pair[1]], pair))
            if "steps" in sizes[b]:
                a, b = b, a
            return f"{sign}{head}{number} ({_sized(a, sizes)} * {_sized(b, sizes)})"
    fraction = Fraction(factor).limit_denominator(1000)
    if fraction and abs(float(fraction) - factor) <= 1e-10 * abs(factor) and fraction.denominator < 1000:
        if fraction.denominator == 1 or fraction.numerator.bit_length() + fraction.denominator.bit_length() < 16:
            return str(fraction)
    return ""


def _sized(number: int, sizes: Mapping[int, str]) -> str:
    word = sizes[number]
    return f"{number} {word}" if word == "steps" else f"{number}, {word}"


def _norm(arrays: Mapping[str, Array], names: Sequence[str]) -> float:
    largest = max((float(np.abs(arrays[name]).max(initial=0.0)) for name in names), default=0.0)
    if not largest:
        return 0.0
    return largest * float(np.sqrt(sum(np.sum((arrays[name] / largest) ** 2) for name in names)))


def _round_number(value: float, rel: float = 1e-9) -> bool:
    return bool(value > 0 and abs(value - float(f"{value:.2g}")) <= rel * value)


def _clipped_by_norm(c: Compared, factor: float) -> Diagnosis | None:
    """g = right * limit / (norm + epsilon)."""
    names = list(c.exact)
    largest = max(c.scale.values())
    for norm, what in (
        (_norm(c.exact, names), "the norm of all of them together"),
        (_norm(c.exact, c.wrong), "the norm of the wrong ones together"),
        (largest, "the largest entry"),
    ):
        for epsilon in EPSILONS:
            limit = factor * (norm + epsilon)
            if _round_number(limit) and limit < norm:
                tail = f" ({limit:.6g} / (norm + {epsilon:g}))" if epsilon else ""
                why = (
                    f"{c.titles}: {factor:.6g} times the right gradient, and {what} is {limit:.6g}{tail}: "
                    f"clipped before "
                    "the check"
                )
                return Diagnosis("clipped", why)
    return None


def _clipped_each_by_norm(c: Compared) -> Diagnosis | None:
    """Each tensor by its own norm: the limit is the same number for all."""
    if len(c.exact) < 2:
        return None
    for norms in (
        {name: _norm(c.exact, [name]) for name in c.exact},
        c.scale,
        {name: _norm(c.exact, [name]) / np.sqrt(max(1, c.exact[name].size)) for name in c.exact},
    ):
        for epsilon in EPSILONS:
            limits = []
            for name in c.wrong:
                factor = factor_of(c.found[name], c.exact[name])
                if factor is None or not 0 < factor < 1:
                    return None
                limits.append(factor * (norms[name] + epsilon))
            limit = float(np.median(limits))
            others = [norms[name] for name in c.exact if name not in c.wrong]
            if np.ptp(limits) <= 1e-9 * limit and _round_number(limit) and all(n <= limit * (1 + 1e-9) for n in others):
                what = "largest entry" if norms is c.scale else "norm"
                why = f"the {what} of each of {c.titles} is {limit:.6g}: each was clipped by its own before the check"
                return Diagnosis("clipped", why)
    return None


def _clipped_by_value(c: Compared) -> Diagnosis | None:
    low = min(float(c.found[name].min()) for name in c.wrong)
    high = max(float(c.found[name].max()) for name in c.wrong)
    for bottom, top in ((-max(-low, high), max(-low, high)), (low, np.inf), (-np.inf, high), (low, high)):
        if bottom == top or max(-bottom if np.isfinite(bottom) else 0, top if np.isfinite(top) else 0) <= 0:
            continue
        if not all(c.same(name, np.clip(c.exact[name], bottom, top)) for name in c.wrong):
            continue
        at_limit = sum(int(((c.found[n] == bottom) | (c.found[n] == top)).sum()) for n in c.wrong)
        limits = [limit for limit in (bottom, top) if np.isfinite(limit)]
        if at_limit < 2 * len(limits) and not all(_round_number(abs(limit)) for limit in limits):
            continue  # an entry that is wrong is no limit
        if bottom == -top:
            word = f"±{top:.6g}"
        elif not np.isfinite(top):
            word = f"at least {bottom:.6g}"
        elif not np.isfinite(bottom):
            word = f"at most {top:.6g}"
        else:
            word = f"{bottom:.6g} to {top:.6g}"
        return Diagnosis("clipped", f"the entries of {c.titles} are limited to {word}: clipped before the check")
    return None


# ---------------------------------------------------------------------------------------------- places


def _exchanged(c: Compared) -> Diagnosis | None:
    """Each wrong tensor is the right gradient of another name."""
    told = []
    for name in c.wrong:
        others = [
            (other, word)
            for other in c.exact
            if other != name and c.exact[other].size == c.exact[name].size and c.scale[other]
            for word, array in _shapes(c.exact[other], c.exact[name].shape)
            if c.same(name, array)
        ]
        if not others:
            return None
        others.sort(key=lambda each: (each[0] not in c.wrong, each[1] != ""))
        told.append((name, *others[0]))
    words = [f"d{name} holds the gradient of {other}{word}" for name, other, word in told]
    pairs = {(name, other) for name, other, _ in told}
    kind = "gates swapped" if all((b, a) in pairs for a, b in pairs) else "wrong derivative"
    why = ", ".join(words)
    return Diagnosis(kind, f"{why}: gradients exchanged between names" if len(words) > 1 else why)


def _shapes(array: Array, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    if array.shape == shape:
        yield "", array
    if array.ndim == 2 and array.T.shape == shape:
        yield ", transposed", array.T
    if array.shape != shape and array.size == int(np.prod(shape)):
        yield ", in another shape", array.reshape(shape)


def _turned(c: Compared) -> Diagnosis | None:
    if not all(c.exact[name].ndim == 2 for name in c.wrong):
        return None
    if all(c.exact[n].shape[0] == c.exact[n].shape[1] for n in c.wrong) and c.all_are(lambda n, g: g.T):
        each = "that of each is" if len(c.wrong) > 1 else "it is"
        head = f"the gradient of {c.titles} is the transpose of the right one"
        return Diagnosis(
            "transposed", head if len(c.wrong) == 1 else f"the gradients of {c.titles}: {each} the transpose"
        )
    for axis in (0, 1):
        blocks = {name: _by_blocks(c.exact[name], axis) for name in c.wrong}
        if all(array is not None and c.same(name, array) for name, array in blocks.items()):
            return Diagnosis("transposed", f"in the gradient of {c.titles}, each square block is transposed")
    return None


def _by_blocks(array: Array, axis: int) -> Array | None:
    rows, columns = array.shape
    side, length = (columns, rows) if axis == 0 else (rows, columns)
    if length % side or length == side:
        return None
    return np.concatenate([part.T for part in np.split(array, length // side, axis=axis)], axis=axis)


def _blocks_exchanged(c: Compared) -> Diagnosis | None:
    """In each wrong tensor, blocks of rows, or of columns, stand in each other's places: the same ones in all."""
    counts = list(range(2, 9))
    for axis in (0, 1, -1):
        for count in counts:
            if not all(
                c.exact[n].ndim > (axis if axis >= 0 else 0) and c.exact[n].shape[axis] % count == 0 for n in c.wrong
            ):
                continue
            order = _order(c, c.wrong[0], axis, count)
            if order is None or order == tuple(range(count)):
                continue
            if all(_order(c, name, axis, count) == order for name in c.wrong[1:]):
                width = [c.exact[name].shape[axis] // count for name in c.wrong]
                word = "rows" if axis == 0 else "columns"
                moved = ", ".join(
                    f"{_span(word, k, width[0])} holds {_span(word, j, width[0])}"
                    for k, j in enumerate(order)
                    if j != k
                )
                return Diagnosis("gates swapped", f"in the gradient of {c.titles}, {moved}")
    return None


def _span(word: str, k: int, width: int) -> str:
    return f"{word} {k * width} to {(k + 1) * width - 1}" if width > 1 else f"{word[:-1]} {k}"


def _order(c: Compared, name: str, axis: int, count: int) -> tuple[int, ...] | None:
    """Return which block of the right tensor stands at each place."""
    found, exact = (np.split(each[name], count, axis=axis) for each in (c.found, c.exact))
    tolerance = c.tolerance * c.scale[name]
    order = []
    for k, block in enumerate(found):
        alike = [j for j, other in enumerate(exact) if np.abs(block - other).max(initial=0.0) <= tolerance]
        if not alike:
            return None
        order.append(k if k in alike else alike[0])
    return tuple(order)


def _in_another_order(c: Compared) -> Diagnosis | None:
    """All entries are there, in another order."""
    orders: tuple[tuple[str, Callable[[Array], Any]], ...] = (
        ("its rows in reverse order", lambda g: g[::-1]),
        ("its columns in reverse order", lambda g: g[..., ::-1] if g.ndim > 1 else None),
        ("its entries in the order of its transpose", lambda g: g.ravel(order="F").reshape(g.shape)),
        ("its entries in the order of its transpose", lambda g: g.ravel().reshape(g.shape, order="F")),
        ("its rows moved on by one", lambda g: np.roll(g, 1, 0)),
        ("its rows moved back by one", lambda g: np.roll(g, -1, 0)),
        ("its columns moved on by one", lambda g: np.roll(g, 1, -1) if g.ndim > 1 else None),
        ("its columns moved back by one", lambda g: np.roll(g, -1, -1) if g.ndim > 1 else None),
    )
    for word, function in orders:
        made = {name: function(c.exact[name]) if c.exact[name].ndim else None for name in c.wrong}
        if all(array is not None and c.same(name, array) for name, array in made.items()):
            return Diagnosis("wrong derivative", f"the gradient of {c.titles} is the right one with {word}")
    return None


# ---------------------------------------------------------------------------------------------- digits


def _single(c: Compared) -> Diagnosis | None:
    """Every wrong tensor is the right one rounded to single precision, or as far off on both sides."""
    worst = max(c.off.values())
    for dtype, word in ((np.float32, "single"), (np.float16, "half")):
        eps = float(np.finfo(dtype).eps)
        if worst > eps or worst < 1e-3 * eps:
            continue
        narrow = all(np.array_equal(c.found[name], c.found[name].astype(dtype).astype(np.float64)) for name in c.wrong)
        if narrow:
            why = (
                f"every entry of {c.titles} is a number of {word} precision, off by no more than {worst:.0e} of its "
                f"tensor's largest: it is rounded to {word} precision at the end, or all along"
            )
            return Diagnosis("lower precision", why)
    return None


def _of_their_own(c: Compared) -> Diagnosis | None:
    """Functions of the right gradient, or of it and the parameter."""
    for word, function in (
        ("the absolute value of the right one", lambda n, g: np.abs(g)),
        ("the sign of the right one", lambda n, g: np.sign(g)),
        ("the square of the right one", lambda n, g: g * g),
        ("the right one times the parameter", lambda n, g: g * c.point[n]),
        ("the right one divided by its norm", lambda n, g: g / np.sqrt(np.sum(g * g))),
        ("the right one divided by its largest entry", lambda n, g: g / np.abs(g).max()),
        ("the right one less its mean", lambda n, g: g - g.mean()),
        ("the parameter itself", lambda n, g: c.point[n]),
        ("the right one summed over rows, in each row", lambda n, g: g.sum(0, keepdims=True) + 0 * g),
        ("the mean of the right one over its rows, in each row", lambda n, g: g.mean(0, keepdims=True) + 0 * g),
        ("tanh of the right one", lambda n, g: np.tanh(g)),
    ):
        if c.all_are(function):
            return Diagnosis("wrong derivative", f"the gradient of {c.titles} is {word}")
    for name in c.wrong:
        for other in c.exact:
            if other != name and c.exact[other].shape == c.exact[name].shape and len(c.wrong) == 1:
                for sign, word in ((1.0, "plus"), (-1.0, "less")):
                    if c.scale[other] and c.same(name, c.exact[name] + sign * c.exact[other]):
                        why = f"d{name} is the right one {word} that of {other}: both are added to one array"
                        return Diagnosis("overwritten, not added", why)
    return None


# ---------------------------------------------------------------------------------------------- weaker ones


def _cut_off(c: Compared) -> Diagnosis | None:
    """Whole rows or columns are 0, all else is right."""
    told = []
    for name in c.wrong:
        zero = (c.found[name] == 0) & (c.exact[name] != 0)
        if not zero.any() or not c.same(name, np.where(zero, 0, c.exact[name])):
            return None
        places = where_wrong(c.found[name], c.exact[name], c.tolerance * c.scale[name])
        if not places:
            return None
        told.append(f"{places} of d{name}")
    return Diagnosis("never accumulated", f"{listed(told)} are 0, all else is right: cut off, or never added to")


def where_wrong(found: Array, exact: Array, tolerance: float) -> str:
    """Return which whole rows or columns are wrong, where not all are, and no others: "rows 4 to 7"."""
    off = np.abs(found - exact) > tolerance
    for axis, word in ((0, "rows"), (1, "columns")):
        if off.ndim <= axis:
            continue
        rest = tuple(k for k in range(off.ndim) if k != axis)
        some = off.any(axis=rest) if rest else off
        indices = np.flatnonzero(some)
        if 0 < len(indices) < off.shape[axis]:
            word = "entries" if off.ndim == 1 else word
            return f"{word} {spans(indices)}" if len(indices) > 1 else f"{_one(word)} {indices[0]}"
    return ""


def _one(word: str) -> str:
    return "entry" if word == "entries" else word[:-1]


def spans(indices: Array) -> str:
    """Return numbers as spans: "0 to 3, 8".

    Examples
    --------
    >>> spans(np.array([0, 1, 2, 3, 8]))
    '0 to 3, 8'
    """
    breaks = np.flatnonzero(np.diff(indices) > 1) + 1
    return ", ".join(
        str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}"
        for part in np.split(indices, breaks)
        if len(part)
    )


def _blocks_scaled(c: Compared) -> Diagnosis | None:
    """Whole rows or columns have one factor, all else is right."""
    told, factors = [], []
    for name in c.wrong:
        found, exact, tolerance = c.found[name], c.exact[name], c.tolerance * c.scale[name]
        places = where_wrong(found, exact, tolerance)
        off = np.abs(found - exact) > tolerance
        if not places or found.ndim < 2:
            return None
        axis = 0 if places.startswith("row") else 1
        indices = np.flatnonzero(off.any(axis=tuple(k for k in range(off.ndim) if k != axis)))
        factor = factor_of(np.take(found, indices, axis), np.take(exact, indices, axis))
        if factor is None:
            return None
        told.append(f"{places} of d{name}")
        factors.append(factor)
    if np.ptp(factors) > 1e-8 * abs(factors[0]):
        return None
    word = rational(factors[0], c.sizes) or in_digits(factors[0])
    kind = "sign" if abs(factors[0] + 1) < 1e-9 else "constant factor"
    return Diagnosis(kind, f"{listed(told)} are {word} times the right ones, all else is right")


def _few_entries(c: Compared) -> Diagnosis | None:
    """A few entries of one tensor are off by one factor."""
    if len(c.wrong) != 1:
        return None
    name = c.wrong[0]
    found, exact = c.found[name], c.exact[name]
    off = np.abs(found - exact) > max(1e-13, 1e-3 * c.off[name]) * c.scale[name]
    count = int(off.sum())
    if not count or count > max(1, off.size // 8) or count == off.size:
        return None
    index = tuple(int(i) for i in np.argwhere(off)[0])
    if count == 1:
        factor = float(found[off][0] / exact[off][0]) if exact[off][0] else np.inf
        word = f"{in_digits(factor)} times the right one" if np.isfinite(factor) else f"{found[off][0]:.6g}, not 0"
        why = f"one entry of {name} is wrong, {list(index)}, all others are right: it is {word}"
        return Diagnosis("entries rescaled", why)
    if np.any(exact[off] == 0):
        return None
    factors = found[off] / exact[off]
    if np.ptp(factors) > 1e-6 * np.abs(factors).max():
        return None
    why = (
        f"{count} of {off.size} entries of {name} are {in_digits(float(factors[0]))} times the right ones, the "
        f"first at "
        f"{list(index)}; all others are right"
    )
    return Diagnosis("entries rescaled", why)


def _each_by_itself(c: Compared) -> Diagnosis | None:
    """Each wrong tensor has a simple explanation, not the same one."""
    if len(c.wrong) < 2:
        return None
    found = []
    for name in c.wrong:
        one = Compared(c.point, c.found, c.exact, [name], c.sizes)
        each = strong_patterns(one)
        if each is None:
            return None
        found.append(each)
    kinds = list(dict.fromkeys(each.kind for each in found))
    told = "; ".join(each.why if each.kind == kinds[0] else f"{each.kind}: {each.why}" for each in found)
    return Diagnosis(kinds[0], told, explained=len(kinds) == 1)


def narrow_note(found: Point) -> list[str]:
    """Return the note on double precision gradients whose every entry is a number of single precision."""
    names = []
    for name, array in found.items():
        values = array[np.isfinite(array) & (array != 0)]
        with np.errstate(over="ignore", under="ignore"):
            rounded = values.astype(np.float32).astype(np.float64)
        mantissas = len(np.unique(np.frexp(values)[0]))
        if array.dtype == np.float64 and mantissas > 3 and np.array_equal(values, rounded):
            names.append(name)
    if not names:
        return []
    return [
        f"every entry of the gradient of {listed(names)} is a number of single precision: it was rounded to that, and "
        "has seven digits"
    ]


def in_words(c: Compared) -> str:
    """Return what is right and what is wrong, of a gradient that nothing explains."""
    told = []
    for name in c.wrong:
        where = where_wrong(c.found[name], c.exact[name], max(c.tolerance, 1e-10) * c.scale[name])
        told.append(f"{name} ({where} alone)" if where else name)
    right = [name for name in c.exact if name not in c.wrong]
    tail = f"; right are {listed(right)}" if right else "; none is right"
    return f"wrong are {listed(told)}{tail}"


__all__ = [
    "Compared", "factor_of", "in_digits", "in_words", "listed", "narrow_note", "rational", "strong_patterns",
    "tolerance_for", "weak_patterns",
]  # fmt: skip
