"""All mistakes that a loss could be differentiated with, the likelier ones first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from rnn_numpy.checks.own.mistakes.activations import activations, softmaxes, targets
from rnn_numpy.checks.own.mistakes.adjoints import (
    edges,
    factors,
    late_additions,
    starts_from_another,
    taken_for_another,
)
from rnn_numpy.checks.own.mistakes.readings import inputs, own_step, states_before, variables
from rnn_numpy.checks.own.mistakes.recurrence import between_loops, handed_back, steps_left_out
from rnn_numpy.checks.own.mistakes.sums import sums
from rnn_numpy.checks.own.mistakes.tools import Suspect, listed
from rnn_numpy.checks.own.mistakes.weights import weights
from rnn_numpy.checks.own.structure import Structure
from rnn_numpy.checks.own.tape import Change

KINDS = (
    handed_back, steps_left_out, activations, states_before, targets, softmaxes, own_step, inputs, variables, sums,
    weights, between_loops, edges, taken_for_another, starts_from_another, late_additions, factors,
)  # fmt: skip


def suspects(S: Structure) -> Iterator[Suspect]:
    """Yield the mistakes that this loss could be differentiated with: each in one place, then in all that "
    "share a line."""
    alike: dict[Any, list[Suspect]] = defaultdict(list)
    for kind in KINDS:
        for suspect in kind(S):
            yield suspect
            if suspect.about and len(suspect.changes) == 1:
                key = (kind.__name__, suspect.kind, suspect.label, tuple(S.twin[g.number] for g in suspect.about))
                alike[key].append(suspect)
    for found in alike.values():
        several = _apart(S, found)
        if len(several) > 1:
            yield _together(several)


def _apart(S: Structure, found: list[Suspect]) -> list[Suspect]:
    """Return of each place one mistake: what it is about stands in one loop, as in one layer's code."""
    if len(found) > 1 and len(found[0].about) > 1:
        found = [each for each in found if len({S.loop[group.number] for group in each.about}) == 1]
    first = {each.about[0].number: each for each in found}
    return list(first.values()) if len(first) == len(found) else []


def _together(several: list[Suspect]) -> Suspect:
    """Return a mistake in a line that runs for several layers, or gates."""
    first, change = several[0], Change()
    for suspect in several:
        change |= suspect.changes[0]
    params = [listed(sorted(suspect.about[0].params)) for suspect in several if suspect.about[0].params]
    more = f" (and alike for {'; '.join(dict.fromkeys(params[1:]))})" if len(set(params)) > 1 else ""
    return Suspect(first.kind, first.why + more, [change], first.part, first.label, first.about, first.where)
