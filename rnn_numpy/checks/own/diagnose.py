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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.diagnosis.locate import diagnose_tensors
from rnn_numpy.checks.own.mistakes import sums
from rnn_numpy.checks.own.patterns import Compared, in_words, strong_patterns, weak_patterns
from rnn_numpy.checks.own.search import SECONDS, Search, explains, followed, gradients
from rnn_numpy.checks.own.structure import Structure
from rnn_numpy.checks.own.tape import UntapedError
from rnn_numpy.checks.report import WRONG, Diagnosis, Row
from rnn_numpy.checks.targets import FunctionsTarget

Array = NDArray[Any]
Point = Mapping[str, Array]


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
    search: Search | None = None
    ended = ""
    if diagnosis is not None and diagnosis.kind == "never accumulated" and structure is not None:
        diagnosis = _zero_at_first(structure, compared, diagnosis)
    if diagnosis is None and structure is not None:
        search = Search(target, structure, compared)
        try:
            diagnosis = search.run()
        except Exception as error:  # no suspect may take the check down: what is wrong is told without it
            ended = f"the search for the mistake ended with {type(error).__name__}: {error}"
    if diagnosis is None:
        diagnosis = weak_patterns(compared)
    if diagnosis is None:
        head = "none of the known mistakes gives this gradient"
        if structure is None:
            head = f"no pattern explains it, and the loss cannot be followed to try mistakes on it: {not_followed}"
        elif ended:
            head = ended
        elif search is not None and search.over:
            head = f"none of the {search.tried} mistakes that were tried in {SECONDS:.0f} s gives this gradient"
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
        tape = followed(target, target.point)
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
