r"""A gradient of many entries against derivatives of the whole loss: groups of entries first, each one direction.

The slope of a loss along a direction v costs one evaluation, whatever the number of entries that v moves, and a right
gradient g has <g, v> = slope. So every array is looked at along a few directions, and only where one of them disagrees,
or cannot tell, it is divided, again and again, down to the entries that are wrong.

What a direction finds. The entries of v are signs times numbers drawn from 1/2 to 3/2. With one entry that is wrong,
by d, <g, v> is off by at least d/2: it shows in each direction, for certain, where d is four times what rounding may do
to the slope, b. Of several wrong entries, the largest by d, the draw of that one would have to fall into an interval of
length 4 b/d for all of them to hide below 2 b, whatever the others do: a chance of at most 2 b/d for each direction,
less than 10^-5 for four of them and d = 40 b. What rounding may do is measured: the slope's, by moving the point in its
last digits, or from the differences, and the gradient's, entry by entry (`rnn_numpy.checks.loss_check.noise_of`). As v
knows nothing of it, it adds up as the root of the sum of squares.

Where an array is wrong throughout, dividing it tells nothing: some of its entries are looked at, with the same indices
along each axis, so that a transpose is seen to be one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.loss_check import TOO_NOISY, doubt_note, eps_of, judged_entries, kinks_note, noise_of, single_note
from rnn_numpy.checks.oracles.function import norm
from rnn_numpy.checks.oracles.reference import Kink, Oracle
from rnn_numpy.checks.report import OK, UNDECIDED, WRONG, Array, Findings, Row, not_looked_at
from rnn_numpy.checks.targets import Point, Target
from rnn_numpy.checks.watch import Watch, in_words
from rnn_numpy.errors import GradientCheckError

DIRECTIONS = 4

# Into how many groups an array, or a group, is divided; one of so few entries is looked at entry by entry.
PARTS, FEW = 16, 8

# How many entries are looked at of an array in which more than half of the groups are wrong.
SAMPLE = 512

AGREES, DIFFERS, UNTOLD = "agrees", "differs", "untold"


class _TimeIsUpError(Exception):
    """The budget is spent; what has been found so far is kept."""


class _Array:
    """What is known of one array: which entries have been looked at, what they are, and which groups are open."""

    def __init__(self, name: str, claimed: Array, noise: Array) -> None:
        self.name, self.shape = name, claimed.shape
        self.claimed, self.noise = claimed.ravel(), noise.ravel()
        self.size, self.eps = claimed.size, eps_of(claimed)
        # Equal to the claimed gradient where nothing else is known.
        self.exact = self.claimed.astype(np.float64)
        self.errors = np.zeros(self.size)
        self.looked: NDArray[np.bool_] = np.zeros(self.size, bool)
        self.agreed: NDArray[np.bool_] = np.zeros(self.size, bool)
        self.kinks: list[Kink] = []
        self.state = UNTOLD
        self.slopes = (0.0, 0.0, 0.0)  # error relative to the norm, <g, v>, slope, of the worst direction
        self.bound = math.nan
        self.bounds: list[float] = []  # of its parts that agree
        self.tried = 0

    @property
    def largest(self) -> float:
        """The largest entry of the right gradient, as far as it is known."""
        known = self.looked | self.agreed
        return float(np.abs(self.exact[known if known.any() else slice(None)]).max(initial=0.0))

    @property
    def unknown(self) -> int:
        """How many entries have not been looked at, neither one by one nor in a group that agrees."""
        return self.size - int((self.looked | self.agreed).sum())


class GroupCheck:
    """One check of the named arrays; `directions` says whether groups come first, or entries alone."""

    def __init__(
        self, target: Target, oracle: Oracle, analytic: Point, noise: Point, seed: int, watch: Watch, directions: bool
    ) -> None:
        self.target, self.oracle, self.analytic = target, oracle, analytic
        self.seed, self.watch, self.directions = seed, watch, directions
        self.noise = noise
        self.rng = np.random.default_rng([seed, 6])
        self.done = self.planned = 0
        self.seconds = [0.0, 0.0]  # of looking at entries, and how many
        self.sample: dict[str, tuple[Array, ...]] = {}

    def compare(self, names: Sequence[str]) -> Findings:
        """Look at the named arrays; return what was found."""
        arrays = [_Array(name, self.analytic[name], self.noise[name]) for name in names]
        self.planned = DIRECTIONS * len(arrays) if self.directions else sum(array.size for array in arrays)
        with self.oracle.watched():
            try:
                if self.directions:
                    for array in arrays:
                        self._whole(array)
                # What is wrong comes first, what cannot be told after it.
                for array in sorted(arrays, key=lambda each: each.state != DIFFERS):
                    if array.state != AGREES:
                        self._locate(array)
            except _TimeIsUpError:
                pass
            rows = [row for array in arrays for row in self._rows(array)]
            self.oracle.require_unchanged()
        self.watch(self.done, self.done, "entries" if any(array.looked.any() for array in arrays) else "directions")
        open_names = [row.name for row in rows if row.verdict == UNDECIDED and not math.isnan(row.error)]
        kinks = [kink for array in arrays for kink in array.kinks]
        notes = [*self._notes(arrays), *self.oracle.notes, *kinks_note(kinks), *single_note(self.analytic, names)]
        notes += [*doubt_note(list(dict.fromkeys(open_names))), *self._left(arrays)]
        reference = {array.name: array.exact.reshape(array.shape) for array in arrays}
        return Findings(self._method(arrays), rows, reference, notes=notes, kinks=kinks, sample=self.sample)

    # -------------------------------------------------------------------------------------------- groups

    def _whole(self, array: _Array) -> None:
        """Look at an array along some directions."""
        array.state = self._state(array, 0, array.size, DIRECTIONS)
        if array.state == AGREES:
            array.agreed[:] = True

    def _state(self, array: _Array, start: int, stop: int, count: int) -> str:
        """Look along some directions at a group of entries: does the claimed gradient agree?"""
        if start == stop:
            return AGREES
        found: list[tuple[float, float, float, float]] = []  # slope, claimed, what rounding may do, size
        moved = 0.0
        for _ in range(count):
            self._tick(f"directions of {array.name}")
            draw = np.zeros(array.size)
            signs = self.rng.choice((-1.0, 1.0), stop - start)
            draw[start:stop] = signs * self.rng.uniform(0.5, 1.5, stop - start)
            terms = array.claimed[start:stop] * draw[start:stop]
            try:
                slope, error = self.oracle.along({array.name: draw.reshape(array.shape)})
            except GradientCheckError:  # so far out, the loss is no finite number
                slope, error = math.nan, math.inf
            size = max(_norm(terms), abs(slope))
            noise = 8 * _norm(array.noise[start:stop] * draw[start:stop]) + 8 * array.eps * size
            moved = max(moved, error)
            found.append((slope, float(np.sum(terms)), noise, size))
            self.done += 1
        factor = 8.0 if self.oracle.is_exact and count == 1 else 4.0
        lost = float(np.finfo(np.float64).smallest_subnormal) / self.oracle.step if self.oracle.is_exact else 0.0
        bounds = [factor * moved + noise + (4 * lost if slope else 0.0) for slope, _, noise, _ in found]
        state = AGREES
        if not all(math.isfinite(bound) for bound in bounds):
            state = UNTOLD
        elif any(abs(slope - claimed) > bound for (slope, claimed, *_), bound in zip(found, bounds, strict=True)):
            state = DIFFERS
        else:
            largest = float(np.abs(array.claimed).max()) or max(abs(slope) for slope, *_ in found)
            if 2 * max(bounds) > max(TOO_NOISY, 64 * array.eps) * largest and largest > 0:
                state = UNTOLD
        if stop - start == array.size and count == DIRECTIONS:
            errors = [abs(slope - claimed) / size if size else 0.0 for slope, claimed, _, size in found]
            worst = int(np.argmax(np.nan_to_num(errors, nan=np.inf)))
            array.tried = count
            array.slopes = errors[worst], found[worst][1], found[worst][0]
            array.bound = max(bounds)
        elif state == AGREES:
            array.bounds.append(max(bounds))
        return state

    def _tick(self, label: str) -> None:
        """Tell where the check is; once its time is up, end it."""
        if self.watch.is_over and self.done:
            raise _TimeIsUpError
        self.watch(self.done, max(self.planned, self.done + 1), label)

    # -------------------------------------------------------------------------------------------- entries

    def _locate(self, array: _Array) -> None:
        """Divide an array down to the entries that are wrong, or look at all of them."""
        groups = [(0, array.size)]
        while self.directions and groups and groups[0][1] - groups[0][0] > FEW:
            parts = [part for group in groups for part in _parts(*group)]
            self.planned = self.done + len(parts)
            open_parts = []
            for start, stop in parts:
                if self._state(array, start, stop, 1) == AGREES:
                    array.agreed[start:stop] = True
                else:
                    open_parts.append((start, stop))
            groups = open_parts
            if not groups and not array.looked.any():  # too far out for all entries at once, not for a part of them
                array.state, array.bound = AGREES, max(array.bounds)
                return
            if 2 * len(open_parts) > len(parts):
                break
        left = sum(stop - start for start, stop in groups)
        if self.directions and left > max(SAMPLE, array.size // 4):
            axes = self._sampled(array)
            self._look(array, np.ravel_multi_index(axes, array.shape).ravel())
            verdicts = {row.verdict for row in self._judged(array)}
            if WRONG in verdicts or (UNDECIDED in verdicts and not array.kinks):
                self.sample[array.name] = axes
                return
        self._look(array, np.concatenate([np.arange(*group) for group in groups]) if groups else np.zeros(0, int))

    def _look(self, array: _Array, places: Array) -> None:
        """Differentiate by single entries, by their places in the flat array."""
        places = self.rng.permutation(places[~array.looked[places]])
        self.planned = self.done + len(places)
        began = self.watch.spent
        try:
            for place in places:
                self._tick(f"entries of {array.name}")
                index = tuple(int(i) for i in np.unravel_index(int(place), array.shape))
                array.exact[place], array.errors[place], kink = self.oracle.entry(array.name, index)
                array.kinks += [] if kink is None else [kink]
                array.looked[place] = True
                self.seconds[1] += 1
                self.done += 1
        finally:
            self.seconds[0] += self.watch.spent - began

    def _sampled(self, array: _Array) -> tuple[Array, ...]:
        """Return indices of some entries: the same along each axis, as far as there are so many."""
        each = 1
        while math.prod(min(size, each + 1) for size in array.shape) <= SAMPLE:
            each += 1
        chosen: dict[int, Array] = {}
        for size in sorted(array.shape):
            chosen.setdefault(size, np.sort(self.rng.permutation(size)[:each]))
        return np.ix_(*(chosen[size] for size in array.shape))

    # -------------------------------------------------------------------------------------------- the report

    def _judged(self, array: _Array) -> list[Row]:
        """Judge the entries that have been looked at."""
        shape = array.shape
        rounding = self.oracle.rounding(array.name, array.largest)
        exact, rows, _ = judged_entries(
            self.target,
            array.name,
            self.analytic[array.name],
            array.exact.reshape(shape),
            (array.errors + rounding * array.looked).reshape(shape),
            self.noise[array.name],
            array.kinks,
            array.largest if array.unknown else None,
        )
        array.exact = exact.ravel()
        return rows

    def _rows(self, array: _Array) -> list[Row]:
        """Return what the report says of an array."""
        rows: list[Row] = []
        if not array.size:
            return [Row(array.name, None, array.shape, 0.0, (), 0.0, 0.0, math.nan, 0.0, OK)]
        if array.looked.any():
            rows = self._judged(array)
            if not array.unknown or any(row.verdict != OK for row in rows):
                return rows
        elif not array.tried:
            return [not_looked_at(array.name, array.shape)]
        if not array.tried:
            return [dataclasses.replace(row, verdict=UNDECIDED, note=self._share(array)) for row in rows]
        error, claimed, slope = array.slopes
        scale = abs(slope - claimed) / error if error else 1.0
        verdict = {AGREES: OK, DIFFERS: WRONG, UNTOLD: UNDECIDED}[array.state]
        note = "" if array.state == AGREES else self._share(array)
        return [
            Row(array.name, None, array.shape, error, (), claimed, slope, math.nan, array.bound / scale, verdict, note)
        ]

    def _share(self, array: _Array) -> str:
        return f"{array.size - array.unknown} of {array.size} entries looked at"

    def _method(self, arrays: Sequence[_Array]) -> str:
        if not self.directions:
            return self.oracle.method
        looked = any(array.looked.any() for array in arrays)
        return f"{self.oracle.method} along random directions" + (
            ", by entries where they do not agree" if looked else ""
        )

    def _notes(self, arrays: Sequence[_Array]) -> list[str]:
        """Return what directions have shown, and where wrong entries are."""
        notes = []
        agreed = [array for array in arrays if array.state == AGREES and array.size]
        if agreed:
            least = max((4 * array.bound / array.largest for array in agreed if array.largest), default=0.0)
            notes.append(
                f"arrays that agree were checked along {DIRECTIONS} random directions, for all entries at once: one "
                f"that is off by {least:.0e} of the largest of its array shows in each; several, of which one is off "
                "by ten times that, hide with a chance below 1e-5"
            )
        for array in arrays:
            if array.name in self.sample:
                notes.append(
                    f"too many groups of entries of {array.name} do not agree to look at each entry: "
                    f"{array.looked.sum()} of {array.size} were looked at, and a diagnosis is of those"
                )
        return notes

    def _left(self, arrays: Sequence[_Array]) -> list[str]:
        """Return what was not looked at, and how long that would take."""
        left = [array for array in arrays if array.unknown and array.name not in self.sample]
        if not left or not self.watch.is_over:
            return []
        told = [f"{array.unknown} of the {array.size} entries of {array.name}" for array in left]
        each = self.seconds[0] / self.seconds[1] if self.seconds[1] else self.watch.spent / max(1, self.done)
        more = each * sum(array.unknown for array in left)
        return [
            f"not looked at, for the time was up after {self.watch.seconds:.3g} s: {', '.join(told)}; one by one they "
            f"take about {in_words(more)} (seconds={self.watch.spent + 1.2 * more:.0f})"
        ]


def in_groups(target: Target, names: list[str], analytic: Point, method: str, seed: int, watch: Watch) -> Findings:
    """Compare with slopes along directions, and with derivatives by entries where these disagree, until the time is up.

    A method other than "auto" goes entry by entry at once.
    """
    watch(0, 1, "the loss")
    oracle = Oracle("gradcheck", target.loss, target.point, names, method, seed)
    watch(0, 1, "rounding of the gradient")
    noise = noise_of(target, analytic, seed)
    return GroupCheck(target, oracle, analytic, noise, seed, watch, method == "auto").compare(names)


def _parts(start: int, stop: int) -> list[tuple[int, int]]:
    cuts = np.linspace(start, stop, min(PARTS, stop - start) + 1).astype(int).tolist()
    return list(itertools.pairwise(cuts))


def _norm(array: Array) -> float:
    return norm({"": array})
