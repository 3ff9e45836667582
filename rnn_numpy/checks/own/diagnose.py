"""From a wrong gradient of a person's own, two functions of a dict of arrays, to the line that made it.

1. *Patterns* that explain all wrong tensors in few numbers: a factor, names exchanged, a clip, a decay.
2. *The gradient that a mistake would give.* The loss is run once on arrays that write down what is done to them; back
   along that tape goes each mistake that its lines allow (`rnn_numpy.checks.own.mistakes`). The one whose whole
   gradient is the one found, here and at a second point, is named, with its line.
3. Patterns that are seen by chance more easily: parts that are 0, a few entries with a factor.

Else it is unknown, and what is right and what is wrong is said.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.diagnosis.locate import diagnose_tensors
from rnn_numpy.checks.own.mistakes import Suspect, sums, suspects
from rnn_numpy.checks.own.patterns import Compared, in_words, strong_patterns, tolerance_for, weak_patterns
from rnn_numpy.checks.own.structure import Structure
from rnn_numpy.checks.own.tape import UntapedError, recorded
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.targets import FunctionsTarget

Array = NDArray[Any]
Point = Mapping[str, Array]

# Trying mistakes ends after so many seconds; a loss of 200 operations takes one.
SECONDS = 20.0


def diagnose_functions(
    target: FunctionsTarget,
    found: Point,
    reference: Point,
    rows: Sequence[Row],
    sample: Mapping[str, tuple[Array, ...]] | None = None,
) -> Diagnosis:
    """Name the mistake in the gradients of a person's own loss; of the arrays in `sample`, those with these indices are
    known.
    """
    if any(not np.isfinite(array).all() for array in found.values()):
        return diagnose_tensors(target, dict(found), dict(reference), rows, sample)
    sample = sample or {}
    structure, not_followed = _followed(target, reference, sample)
    wrong = [row.name for row in rows if row.verdict == WRONG and row.name in reference]
    point = target.point
    if structure is None:
        names = [name for name in reference if np.isfinite(reference[name][sample.get(name, ...)]).all()]
        exact = {name: reference[name][sample.get(name, ...)] for name in names}
        found = {name: found[name][sample.get(name, ...)] for name in names}
        point = {name: point[name][sample.get(name, ...)] for name in names}
    else:
        exact = structure.tape.gradients()
    # A gradient that is off by no more than the reference can tell is none to explain.
    wrong = [name for name in dict.fromkeys(wrong) if name in exact and not np.array_equal(found[name], exact[name])]
    if not wrong:
        return diagnose_tensors(target, dict(found), dict(reference), rows, sample)
    compared = Compared(point, found, exact, wrong, _sizes(point, structure))
    diagnosis = strong_patterns(compared)
    tried = 0
    if diagnosis is not None and diagnosis.kind == "never accumulated" and structure is not None:
        diagnosis = _zero_at_first(structure, compared, diagnosis)
    if diagnosis is None and structure is not None:
        diagnosis, tried = _suspected(target, structure, compared)
    if diagnosis is None:
        diagnosis = weak_patterns(compared)
    if diagnosis is None:
        head = "none of the known mistakes gives this gradient"
        if structure is None:
            head = f"no pattern explains it, and the loss cannot be followed to try mistakes on it: {not_followed}"
        elif tried < 0:
            head = f"none of the {-tried} mistakes tried in {SECONDS:.0f} s gives this gradient"
        diagnosis = Diagnosis("unknown", f"{head}; {in_words(compared)}", explained=False)
    return diagnosis


def _zero_at_first(structure: Structure, c: Compared, diagnosis: Diagnosis) -> Diagnosis:
    """Whether the first step's share is 0, where a state begins at 0: then a sum that is overwritten looks so, too."""
    for suspect in sums(structure):
        if "keeps the first step alone" in suspect.why and set(c.wrong) == structure.affected(suspect.changes[0]):
            if explains(c.found, gradients(structure, [suspect])[0], c.exact):
                more = "or is overwritten at each step (= where += belongs), and the first step's share is 0"
                why = f"{diagnosis.why}, {more}"
                return dataclasses.replace(diagnosis, why=why)
    return diagnosis


def _followed(
    target: FunctionsTarget, reference: Point, sample: Mapping[str, tuple[Array, ...]]
) -> tuple[Structure | None, str]:
    """Return the structure of a loss, if its tape has the gradient that the reference has; else why there is none."""
    try:
        tape = recorded(target.loss, target.point)
    except UntapedError as error:
        return None, str(error)
    structure = Structure(tape)
    for name, array in tape.gradients().items():
        known = reference.get(name)
        if known is None:
            continue
        known, array = known[sample.get(name, ...)], array[sample.get(name, ...)]
        told = np.isfinite(known)
        scale = float(np.abs(array).max(initial=0.0))
        if not np.all(np.abs(array - known)[told] <= 1e-6 * scale):
            return None, "it makes numbers of its arrays in a way that does not show"
    return structure, ""


def _sizes(point: Point, structure: Structure | None) -> dict[int, str]:
    """Return numbers that a mean could be over: lengths of arrays, and the number of steps."""
    sizes: dict[int, str] = {}
    if structure is not None:
        counts = [len({structure.step[node.number] for node in group.nodes}) for group in structure.groups]
        for count in sorted(set(counts), key=counts.count, reverse=True):
            if count > 1:
                sizes.setdefault(count, "steps")
        for node in structure.alive:
            for length in node.value.shape:
                sizes.setdefault(length, "the length of an array")
            sizes.setdefault(node.value.size, "the size of an array")
    for name, array in point.items():
        for length in array.shape:
            if sizes.get(length) != "steps":
                sizes[length] = f"the length of {name}" if array.ndim == 1 else f"a length of {name}"
    return {size: word for size, word in sizes.items() if size > 1}


def _suspected(target: FunctionsTarget, structure: Structure, c: Compared) -> tuple[Diagnosis | None, int]:
    """Return the first mistake that gives the gradient found, and how many were tried, negative if not all."""
    began, wrong, count = time.perf_counter(), set(c.wrong), 0
    second: tuple[Structure, Point, list[Suspect]] | None = None
    several = _at_once(c.exact)
    batch: list[tuple[int, Suspect]] = []
    everything = enumerate(suspects(structure))
    while True:
        batch = list(itertools.islice(((k, s) for k, s in everything if _may(structure, s, wrong)), several))
        if not batch:
            return None, count
        count = batch[-1][0] + 1
        if time.perf_counter() - began > SECONDS:
            return None, -count
        with np.errstate(all="ignore"):
            predicted = gradients(structure, [suspect for _, suspect in batch])
        for gradient, (number, suspect) in zip(predicted, batch, strict=True):
            if not explains(c.found, gradient, c.exact):
                continue
            if second is None:
                second = _second(target, structure)
            if second is not None and not _holds(second, number, suspect):
                continue
            return _told(structure, suspect), count


def _may(structure: Structure, suspect: Suspect, wrong: set[str]) -> bool:
    """Whether a mistake reaches all that is wrong."""
    return set[str]().union(*map(structure.affected, suspect.changes)) >= wrong


def gradients(structure: Structure, several: Sequence[Suspect]) -> list[dict[str, Array]]:
    """Return the whole gradient with each of some mistakes."""
    changes = [change for suspect in several for change in suspect.changes]
    made = structure.tape.several(changes)
    found, row = [], 0
    for suspect in several:
        rows = slice(row, row + len(suspect.changes))
        found.append({name: array[rows].sum(axis=0) for name, array in made.items()})
        row = rows.stop
    return found


def _told(structure: Structure, suspect: Suspect) -> Diagnosis:
    """Return a mistake as a diagnosis, with the line of code that it is the way back of."""
    where: dict[str, Any] = {"part": suspect.part, **suspect.where}
    when = ""
    group = suspect.about[-1] if suspect.about else None
    if group is not None and group.nodes[0].kind:
        where["line"] = int(structure.line(group).removeprefix("line "))
        when = f"on the way back of {structure.line(group)}: {structure.text(group)}"
    return Diagnosis(suspect.kind, suspect.why, when=when, where=where)


def _at_once(exact: Point) -> int:
    """Return how many mistakes to try in one pass: as many as memory has room for."""
    size = sum(array.size for array in exact.values())
    return int(max(1, min(64, 2_000_000 // max(1, size))))


def _holds(second: tuple[Structure, Point, list[Suspect]], number: int, suspect: Suspect) -> bool:
    """Whether a mistake gives the gradient found at a second point, too."""
    other, gradient, others = second
    if number >= len(others) or others[number].why != suspect.why:
        return False
    with np.errstate(all="ignore"):
        return explains(gradient, gradients(other, [others[number]])[0], other.tape.gradients())


def _second(target: FunctionsTarget, structure: Structure) -> tuple[Structure, Point, list[Suspect]] | None:
    """Return the structure, the gradient found, and the mistakes, at a point nearby: a match is to be no accident."""
    rng = np.random.default_rng(5)
    point = {
        name: array
        + 0.05 * rng.normal(size=array.shape) * (np.abs(array) + float(np.abs(array).mean() if array.size else 0))
        for name, array in target.point.items()
    }
    try:
        tape = recorded(target.loss, point)
    except UntapedError:
        return None
    if len(tape.nodes) != len(structure.tape.nodes):
        return None
    other = Structure(tape)
    return other, target.at(point), list(suspects(other))


def explains(found: Point, predicted: Point, exact: Point) -> bool:
    """Whether a predicted gradient is the one that was found, and not the right one."""
    off = 0.0
    scales = {}
    for name, array in exact.items():
        scales[name] = float(np.abs(array).max(initial=0.0))
        off = max(off, float(np.abs(found[name] - array).max(initial=0.0)) / (scales[name] or 1.0))
    allowed = tolerance_for(off)
    differs = False
    for name, array in predicted.items():
        size = max(scales[name], float(np.abs(found[name]).max(initial=0.0)))
        if not np.all(np.abs(found[name] - array) <= allowed * size):
            return False
        differs = differs or not np.all(np.abs(exact[name] - array) <= 2 * allowed * size)
    return differs


__all__ = ["diagnose_functions", "explains"]
