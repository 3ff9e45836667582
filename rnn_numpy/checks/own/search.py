"""The search for the mistake whose gradient is the one that was found: one, one with a factor besides, or two."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.own.mistakes import Suspect, suspects
from rnn_numpy.checks.own.patterns import Compared, rational, strong_patterns, tolerance_for
from rnn_numpy.checks.own.structure import Structure
from rnn_numpy.checks.own.tape import Change, Tape, UntapedError, recorded
from rnn_numpy.checks.report import Diagnosis
from rnn_numpy.checks.targets import FunctionsTarget

Array = NDArray[Any]
Point = Mapping[str, Array]

# Trying mistakes ends after so many seconds of processor time: what is found is the same on a busy machine.
SECONDS = 20.0

# Of two mistakes in the same tensors, so many are tried for the first, and for each so many for the second.
FIRST, SECOND = 64, 24

# Of gradients of more entries than this, the smallest wrong tensors are looked at first.
MANY = 300


class Search:
    """Tries mistakes until one explains the gradient.

    Attributes
    ----------
    tried : int
    over : bool
        Whether the time was up before all were tried.
    """

    def __init__(self, target: FunctionsTarget, structure: Structure, compared: Compared) -> None:
        self.target, self.structure, self.c = target, structure, compared
        self.wrong = set(compared.wrong)
        self.began = time.process_time()
        self.tried, self.over = 0, False
        size = sum(array.size for array in compared.exact.values())
        self.rows = int(max(1, min(64, 2_000_000 // max(1, size))))
        self.few: list[str] | None = None
        if size > MANY:
            self.few = sorted(self.wrong, key=lambda name: compared.exact[name].size)[:2]

    def run(self) -> Diagnosis | None:
        """Return the mistake, or None."""
        return self._single() or self._together() or self._both()

    def _batches(self, all_of: bool) -> Iterator[list[tuple[int, Suspect]]]:
        """Yield mistakes that reach all that is wrong, or some of it, some at a time."""
        each = (
            (number, suspect)
            for number, suspect in enumerate(suspects(self.structure))
            if (self._reach(suspect) >= self.wrong if all_of else self._reach(suspect) & self.wrong)
        )
        while batch := list(itertools.islice(each, self.rows)):
            if time.process_time() - self.began > SECONDS:
                self.over = True
                return
            yield batch

    def _reach(self, suspect: Suspect) -> set[str]:
        return set[str]().union(*map(self.structure.affected, suspect.changes))

    def _single(self) -> Diagnosis | None:
        for batch in self._batches(all_of=True):
            self.tried += len(batch)
            for (number, suspect), gradient in zip(batch, self._predicted(batch), strict=True):
                if explains(self.c.found, gradient, self.c.exact, self.few):
                    if self.few is None or explains(self.c.found, *self._whole(suspect)):
                        if self._holds(number, suspect):
                            return told(self.structure, suspect)
        return None

    def _predicted(self, batch: Sequence[tuple[int, Suspect]]) -> list[dict[str, Array]]:
        return gradients(self.structure, [suspect for _, suspect in batch], self.few)

    def _whole(self, suspect: Suspect) -> tuple[dict[str, Array], Point]:
        return gradients(self.structure, [suspect])[0], self.c.exact

    # ------------------------------------------------------------------------------------ two mistakes

    def _together(self) -> Diagnosis | None:
        """Return a mistake beside a factor of the whole gradient, or two that each explain some tensors, to the last
        digit, and all that are wrong together.
        """
        if len(self.wrong) < 2 or self.over:
            return None
        self.few = None
        parts: dict[frozenset[str], Suspect] = {}
        for batch in self._batches(all_of=False):
            for (number, suspect), gradient in zip(batch, self._predicted(batch), strict=True):
                names = frozenset(name for name in gradient if self._differs(name, gradient[name]))
                if not names:
                    continue
                if names < self.wrong and names not in parts:
                    if explains(self.c.found, gradient, self.c.exact, list(names)):
                        if self._holds(number, suspect, list(names)):
                            parts[names] = suspect
                factor = self._factor(gradient)
                if factor and self._holds(number, suspect, factor=factor):
                    word = rational(factor, self.c.sizes) or f"{factor:g}"
                    found = told(self.structure, suspect)
                    why = f"two mistakes: {found.why}; and the whole gradient has a factor {word}"
                    return dataclasses.replace(found, why=why)
        for first, second in itertools.combinations(parts, 2):
            if not first & second and first | second == self.wrong:
                return self._pair(told(self.structure, parts[first]), told(self.structure, parts[second]))
        for names, suspect in parts.items():
            rest = [name for name in self.c.wrong if name not in names]
            compared = Compared(self.c.point, self.c.found, self.c.exact, rest, self.c.sizes)
            pattern = strong_patterns(compared)
            if pattern is not None:
                return self._pair(told(self.structure, suspect), pattern)
        return None

    def _both(self) -> Diagnosis | None:
        """Return two mistakes in the same tensors. What two do is nearly the sum of what each does alone: the pairs
        that come nearest to the gradient found are tried, those alone.
        """
        if self.over:
            return None
        self.few = None
        likely: list[tuple[int, Suspect]] = []
        shifts: list[Array] = []
        for batch in self._batches(all_of=False):
            alone = [(n, s) for n, s in batch if len(s.changes) == 1 and not s.changes[0].order]
            for each, gradient in zip(alone, self._predicted(alone) if alone else [], strict=True):
                shift = self._shift(gradient)
                if np.any(shift) and np.isfinite(shift).all():
                    likely.append(each)
                    shifts.append(shift)
        if self.over or len(likely) < 2:
            return None
        made, goal = np.stack(shifts), self._shift(self.c.found)
        pairs: dict[tuple[int, int], float] = {}
        for a in np.argsort(np.linalg.norm(made - goal, axis=1))[:FIRST]:
            left = np.linalg.norm(made + (made[a] - goal), axis=1)
            for b in np.argsort(left)[:SECOND]:
                one, other = likely[a][1].changes[0], likely[b][1].changes[0]
                if a != b and not one.touched() & other.touched():
                    pairs[int(min(a, b)), int(max(a, b))] = float(left[b])
        ordered = sorted(pairs, key=lambda pair: pairs[pair])
        for start in range(0, len(ordered), self.rows):
            if time.process_time() - self.began > SECONDS:
                self.over = True
                return None
            some = ordered[start : start + self.rows]
            twos = [_joined(likely[a][1], likely[b][1]) for a, b in some]
            self.tried += len(some)
            for (a, b), gradient in zip(some, gradients(self.structure, twos), strict=True):
                if explains(self.c.found, gradient, self.c.exact) and self._hold(likely[a], likely[b]):
                    return self._pair(told(self.structure, likely[a][1]), told(self.structure, likely[b][1]))
        return None

    def _shift(self, gradient: Point) -> Array:
        """Return by how much a gradient is not the right one, in one vector."""
        exact, scale = self.c.exact, self.c.scale
        return np.concatenate([((gradient[name] - exact[name]) / (scale[name] or 1.0)).ravel() for name in exact])

    def _hold(self, *several: tuple[int, Suspect]) -> bool:
        """Whether two mistakes together give the gradient found at a second point, too."""
        if self._second is None:
            return True
        other, found, exact = self._second
        twins = [next(itertools.islice(suspects(other), number, None), None) for number, _ in several]
        known = [twin for twin, (_, suspect) in zip(twins, several, strict=True) if twin and twin.why == suspect.why]
        return len(known) == 2 and explains(found, gradients(other, [_joined(*known)])[0], exact)

    def _factor(self, gradient: Point) -> float:
        """Return a factor, a fraction of whole numbers, that makes a gradient the one found; else 0."""
        name = self.c.wrong[0]
        made = gradient[name]
        at = int(np.argmax(np.abs(made))) if made.size else 0
        if not made.size or not made.flat[at] or not np.isfinite(made.flat[at]):
            return 0.0
        factor = float(self.c.found[name].flat[at] / made.flat[at])
        if not factor or abs(factor - 1) < 1e-6 or not np.isfinite(factor):
            return 0.0
        if abs(factor + 1) > 1e-9 and not rational(factor, self.c.sizes):
            return 0.0
        scaled = {each: factor * array for each, array in gradient.items()}
        return factor if explains(self.c.found, scaled, self.c.exact) else 0.0

    def _differs(self, name: str, array: Array) -> bool:
        scale = self.c.scale[name] + float(np.abs(array).max(initial=0.0))
        return bool(np.any(np.abs(array - self.c.exact[name]) > 1e-9 * scale))

    def _pair(self, first: Diagnosis, second: Diagnosis) -> Diagnosis:
        why = f"two mistakes: {first.why}; and {second.kind}: {second.why}"
        return dataclasses.replace(first, why=why)

    # ------------------------------------------------------------------------------------ a second point

    @functools.cached_property
    def _second(self) -> tuple[Structure, Point, Point] | None:
        """The structure, the gradient found and the right one at a point nearby: a match is to be no accident."""
        rng = np.random.default_rng(5)
        point = {}
        for name, array in self.target.point.items():
            size = np.abs(array) + float(np.abs(array).mean() if array.size else 0.0)
            point[name] = array + 0.05 * rng.normal(size=array.shape) * size
        try:
            tape = followed(self.target, point)
        except UntapedError:
            return None
        if len(tape.nodes) != len(self.structure.tape.nodes):
            return None
        other = Structure(tape)
        return other, self.target.at(point), tape.gradients()

    def _holds(self, number: int, suspect: Suspect, names: list[str] | None = None, factor: float = 1.0) -> bool:
        """Whether a mistake gives the gradient found at a second point, too."""
        if self._second is None:
            return True
        other, found, exact = self._second
        twin = next(itertools.islice(suspects(other), number, None), None)
        if twin is None or twin.why != suspect.why:
            return False
        predicted = gradients(other, [twin])[0]
        return explains(found, {name: factor * array for name, array in predicted.items()}, exact, names)


def _joined(one: Suspect, other: Suspect) -> Suspect:
    """Return two mistakes made in one pass, at operations of their own."""
    first, second = one.changes[0], other.changes[0]
    change = Change(
        first.pulls | second.pulls,
        first.adjoints | second.adjoints,
        first.extra | second.extra,
        first.values | second.values,
        first.outs | second.outs,
    )
    return dataclasses.replace(one, changes=[change])


def followed(target: FunctionsTarget, point: Point) -> Tape:
    """Return the tape of a target's loss; raise `UntapedError` where it cannot be followed."""
    try:
        return recorded(target.loss, point)
    finally:  # what the loss keeps for itself is of real arrays again
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            target.loss({name: array.copy() for name, array in target.point.items()})


def gradients(
    structure: Structure, several: Sequence[Suspect], names: Sequence[str] | None = None
) -> list[dict[str, Array]]:
    """Return the whole gradient with each of some mistakes, or that by some parameters."""
    changes = [change for suspect in several for change in suspect.changes]
    made = structure.tape.several(changes, names)
    found, row = [], 0
    for suspect in several:
        rows = slice(row, row + len(suspect.changes))
        found.append({name: array[rows].sum(axis=0) for name, array in made.items()})
        row = rows.stop
    return found


def told(structure: Structure, suspect: Suspect) -> Diagnosis:
    """Return a mistake as a diagnosis, with the line of code that it is the way back of."""
    where: dict[str, Any] = {"part": suspect.part, **suspect.where}
    when = ""
    group = suspect.about[-1] if suspect.about else None
    if group is not None and group.nodes[0].kind:
        line = structure.line(group)
        where["line"] = int(line.removeprefix("line "))
        when = f"on the way back of {line}: {structure.text(group)}"
    return Diagnosis(suspect.kind, suspect.why, when=when, where=where)


def explains(found: Point, predicted: Point, exact: Point, names: Sequence[str] | None = None) -> bool:
    """Whether a predicted gradient is the one that was found, and not the right one; of some names alone, if given."""
    names = list(predicted) if names is None else names
    scales = {name: float(np.abs(exact[name]).max(initial=0.0)) for name in names}
    off = max(float(np.abs(found[n] - exact[n]).max(initial=0.0)) / (scales[n] or 1.0) for n in names)
    allowed = tolerance_for(off)
    differs = False
    for name in names:
        size = max(scales[name], float(np.abs(found[name]).max(initial=0.0)))
        if not np.all(np.abs(found[name] - predicted[name]) <= allowed * size):
            return False
        differs = differs or not np.all(np.abs(exact[name] - predicted[name]) <= 2 * allowed * size)
    return differs
