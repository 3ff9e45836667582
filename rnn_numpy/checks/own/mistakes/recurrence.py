"""What is handed from a step to the one before it: nothing, a part, too much, for some steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rnn_numpy.checks.own.mistakes.tools import (
    ENTRY,
    PRODUCTS,
    RECURRENCE,
    SUMS,
    Array,
    Suspect,
    arrived,
    by_step,
    dropped,
    listed,
    losses,
    one,
    recurrences,
    rerouted,
    scaled,
    starts,
)
from rnn_numpy.checks.own.structure import Edge, Group, Structure
from rnn_numpy.checks.own.tape import Change, Node

# Where what belongs to step t may come to instead, with `last` the last step: before, after, both of these wrapped
# around the ends, and in reverse order; None for nowhere.
ELSEWHERE: tuple[Callable[[int, int], int | None], ...] = (
    lambda t, last: t - 1 if t else None,
    lambda t, last: t + 1 if t < last else None,
    lambda t, last: (t - 1) % (last + 1),
    lambda t, last: (t + 1) % (last + 1),
    lambda t, last: last - t,
)


def handed_back(S: Structure) -> Iterator[Suspect]:
    """Yield what can be wrong with that which a step hands to the one before it."""
    each = recurrences(S)
    every = [edge for edges in each.values() for edge in edges]
    if not every:
        return
    names = {number: S.expression(S.groups[number]) for number in each}
    groups = {number: S.groups[number] for number in each}
    sets: list[tuple[str, list[Edge], str, str, tuple[Group, ...]]] = []
    if len(each) > 1:
        why = f"nothing is handed from a step to the one before it, neither of {listed(names.values())}"
        sets.append(("recurrence dropped", every, why, "all", ()))
    for number, edges in each.items():
        own, name = groups[number], names[number]
        cell = all(S.tape.nodes[edge.node].kind not in PRODUCTS for edge in edges)
        kind = "recurrence dropped"
        if any(other is not own and S.together(other, own) for other in groups.values()):
            kind = "cell path missing" if cell else "hidden path missing"
        sets.append((kind, edges, f"d{name} is not handed from a step to the one before it", "state", (own,)))
        consumers = dict.fromkeys(S.of[edge.node].number for edge in edges)
        for consumer in consumers if len(consumers) > 1 else ():
            few = [edge for edge in edges if S.of[edge.node].number == consumer]
            kind = "gate path missing" if S.groups[consumer].kind in PRODUCTS else "hidden path missing"
            why = f"the step before gets nothing of d{name} through {S.title(S.groups[consumer])}"
            sets.append((kind, few, why, "through", (own, S.groups[consumer])))
        products = [edge for edge in edges if S.tape.nodes[edge.node].kind in PRODUCTS]
        others = [edge for edge in edges if edge not in products]
        if products and others:
            for few, why in (
                (products, "directly, and not through the weights"),
                (others, "through the weights alone"),
            ):
                text = f"d{name} is handed to the step before {why}"
                sets.append(("hidden path missing", few, text, why, (own,)))
    for kind, edges, why, label, about in sets:
        yield from one(kind, why, dropped(S, edges), RECURRENCE, f"nothing {label}", *about)
    for kind, edges, why, label, about in sets:
        more = starts(S, edges)
        text = f"{why}, nor to where it starts"
        yield from one(kind, text, dropped(S, edges + more) if more else Change(), RECURRENCE, f"start {label}", *about)
    whole = [each for each in sets if each[3] in ("all", "state")]
    for _, edges, why, label, about in whole:
        yield from _truncated(S, edges, why, label, about)
    if len(whole) > 1:
        yield from _within(S, every)
    elif whole:
        yield from _within(S, whole[0][1])
    for number, edges in each.items():
        name, own = names[number], groups[number]
        for factor, kind, word in (
            (-1.0, "sign", "with the wrong sign"), (2.0, "constant factor", "twice"), (0.5, "constant "
                "factor", "halved"),
        ):  # fmt: skip
            change = scaled(S, edges, factor)
            yield from one(kind, f"d{name} is handed to the step before {word}", change, RECURRENCE, word, own)
        yield from _accumulating(S, own, name, edges)
    yield from _forwards(S, every)


def _truncated(S: Structure, edges: list[Edge], why: str, label: str, about: tuple[Group, ...]) -> Iterator[Suspect]:
    steps = sorted({S.step[edge.node] for edge in edges})
    first, last = steps[0], steps[-1]
    if last == first:
        return
    for k in steps:
        cut = [edge for edge in edges if S.step[edge.node] == k]
        text = why.replace("from a step to the one before it", f"from step {k} to step {k - 1}")
        yield from one("recurrence dropped", f"truncated: {text}", dropped(S, cut), RECURRENCE, f"cut {label} {k}",
            *about, t=last, k=k)  # fmt: skip
    for period in range(2, min(last - first + 1, 9)):
        for offset in range(period):
            cut = [edge for edge in edges if S.step[edge.node] % period == offset]
            if len({S.step[edge.node] for edge in cut}) > 1:
                text = f"truncated: {why}, once in {period} steps, from step {offset or period}"
                yield from one("recurrence dropped", text, dropped(S, cut), RECURRENCE,
                    f"cut {label} {period} {offset}", *about)  # fmt: skip


def terms(S: Structure) -> list[Edge]:
    """Return the edges that bring the terms of the loss, in the order of time."""
    return [
        edge
        for number in sorted(S.terms)
        for node in S.groups[number].nodes
        for edge in S.into[node.number]
        if S.of[edge.part.node].number != number
    ]


def _within(S: Structure, edges: list[Edge]) -> Iterator[Suspect]:
    """Truncated at a lag: what loss step t says goes back K steps, for each t."""
    each = terms(S)
    count = len(each)
    if not 2 < count <= 64:
        return
    for K in range(1, min(count - 1, 9)):
        changes = []
        for t, term in enumerate(each):
            cut = [edge for edge in edges if S.step[edge.node] == t - K + 1 and t - K + 1 > 0]
            changes.append(dropped(S, [edge for edge in each if edge is not term]) | dropped(S, cut))
        why = (
            f"truncated: what the loss of step t says goes back through {K} step{'s' if K > 1 else ''}, and no further"
        )
        yield Suspect("recurrence dropped", why, changes, RECURRENCE, f"lag {K}", (), {})


def _accumulating(S: Structure, group: Group, name: str, edges: list[Edge]) -> Iterator[Suspect]:
    nodes = by_step(S, group)
    extra: dict[int, list[tuple[int, Callable[[Array], Array]]]] = {
        node.number: [(nodes[t - 1].number, lambda d: d)] for t, node in nodes.items() if t - 1 in nodes
    }
    why = f"d{name} of the step after is added to, where it should begin anew: a step hands on its own d{name} besides"
    yield from one("overwritten, not added", why, Change(extra=extra), RECURRENCE, "accumulates", group)
    if all(S.tape.nodes[edge.node].kind not in PRODUCTS for edge in edges):
        return  # of a cell, another mistake says so: it is not multiplied with the forget gate
    why = f"d{name} is handed on from a step to the one before as it is, not through the weights"
    change = Change(extra=extra) | dropped(S, edges)
    yield from one("wrong recurrence", why, change, RECURRENCE, "as it is", group)


def _forwards(S: Structure, edges: list[Edge]) -> Iterator[Suspect]:
    """The loop over time runs forwards: what a step would hand to the one before goes to the one after."""
    each = recurrences(S)
    if len({len(by_step(S, S.groups[number])) for number in each}) != 1:
        return
    change = rerouted(S, edges, lambda t, last: t + 2 if t + 2 <= last else None)
    for edge in edges:  # the first step hands on to the second, whatever it reads itself
        group, consumer = S.of[edge.part.node], S.of[edge.node]
        second, first = by_step(S, group).get(1), by_step(S, consumer).get(0)
        if S.step[edge.node] != 1 or second is None or first is None:
            continue
        if first.operands[edge.slot].shape != S.tape.nodes[edge.node].operands[edge.slot].shape:
            continue

        def arriving(d: Array, node: Node = first, edge: Edge = edge, shape: Any = second.value.shape) -> Array:
            return arrived(node, edge, d, shape)

        change.extra.setdefault(first.number, []).append((second.number, arriving))
    change.order = (*S.outside(), *sorted(S.inside, key=lambda number: (S.step[number], -number)))
    why = "the loop over time runs from the first step to the last: each gets what the step before it hands on"
    yield from one("order of Jacobians", why, change, RECURRENCE, "forwards")


# ---------------------------------------------------------------------------------------------- steps


def steps_left_out(S: Structure) -> Iterator[Suspect]:
    """Yield steps that are left out, the loss of some steps alone, or at other steps."""
    edges = losses(S)
    each: list[tuple[str, list[Edge]]] = [("", edges)]
    sources = dict.fromkeys(S.of[edge.part.node].number for edge in edges)
    if len(sources) > 1:
        each += [
            (f" {S.expression(S.groups[n])}", [e for e in edges if S.of[e.part.node].number == n]) for n in sources
        ]
    for name, few in each:
        yield from _entries(S, few, name)
    all_terms = terms(S)
    if len(all_terms) > 1:
        for few, kind, why in (
            (all_terms[:-1], "only the last step's loss", "the gradient is that of the last step's loss alone"),
            (all_terms[1:], "last step skipped", "the gradient is that of the first step's loss alone"),
            (all_terms[-1:], "last step skipped", "what the loss of the last step says is missing altogether"),
            (all_terms[:1], "first step skipped", "what the loss of the first step says is missing altogether"),
        ):
            yield from one(kind, why, dropped(S, few), ENTRY, why)
    timed = [group for group in S.groups if len(group.nodes) > 1 and group.number not in S.terms]
    inner = [group for group in timed if group.nodes[0].number in S.inside]
    for word in ("first", "last"):
        for groups, what in ((timed, "altogether"), (inner, "but for what comes after the states")):
            yield from _without_step(S, groups, word, what)


def _entries(S: Structure, edges: list[Edge], name: str) -> Iterator[Suspect]:
    source = {id(edge): S.step[edge.part.node] for edge in edges}
    steps = sorted(set(source.values()))
    if len(steps) < 2:
        return
    state = f"the state{name}" if name else "the states"
    for keep, kind, why in (
        (
            [steps[-1]],
            "only the last step's loss",
            f"what the loss says to {state} of all steps but the last is missing",
        ),
        ([steps[0]], "last step skipped", f"what the loss says to {state} of all steps but the first is missing"),
        (steps[:-1], "last step skipped", f"what the loss says to {state} of the last step is missing"),
        (steps[1:], "first step skipped", f"what the loss says to {state} of the first step is missing"),
    ):
        change = dropped(S, [edge for edge in edges if source[id(edge)] not in keep])
        yield from one(kind, why, change, ENTRY, why)
    for why, to in zip(
        (
            "the step before",
            "the step after",
            "the step before, that of the first at the last",
            "the step after, that of the last at the first",
            "the steps in reverse order",
        ),
        ELSEWHERE,
        strict=True,
    ):
        text = f"what the loss says to {state} arrives at {'that of ' * (why[4:8] == 'step ')}{why}"
        yield from one("off by one step", text, rerouted(S, edges, to), ENTRY, text)


def _without_step(S: Structure, groups: list[Group], word: str, what: str) -> Iterator[Suspect]:
    final = max((S.step[node.number] for group in groups for node in group.nodes), default=0)
    which = 0 if word == "first" else final
    nodes = [node for group in groups for node in group.nodes if S.step[node.number] == which]
    into = [edge for node in nodes for edge in S.into[node.number] if not S.tape.nodes[edge.part.node].kind]
    starting = [edge for edges in recurrences(S).values() for edge in starts(S, edges)]
    sums = [edge for edge in into if all(edge is not other for other in starting)]
    kind = f"{word} step skipped"
    why = f"the {word} step is missing from the sums over the steps, {what}"
    yield from one(kind, why, dropped(S, sums), SUMS, why, t=which)
    if word == "last":
        change = Change(adjoints={node.number: np.zeros_like for node in nodes})
        yield from one(kind, f"the loop over time leaves the last step out, {what}", change, RECURRENCE, why, t=which)
        return
    if starting:
        yield from one(kind, f"the loop over time leaves the first step out, {what}", dropped(S, into), RECURRENCE, why)
        here = [edge for edge in S.edges if S.step[edge.node] == 0 and S.step[edge.part.node] == 0]
        here = [edge for edge in here if edge.part.node in S.inside and S.of[edge.part.node].number not in S.terms]
        change = dropped(S, [*into, *here])
        for edge in starting:
            for group in (S.groups[number] for number in recurrences(S)):
                state = by_step(S, group).get(0)
                target = S.tape.nodes[edge.part.node]
                if state is not None and state.value.shape == target.value.shape and S.starts_as(group, edge):
                    change.extra[state.number] = [(edge.part.node, lambda d: d)]
        text = f"the loop over time leaves the first step out, and hands the gradient of its state on as it is, {what}"
        yield from one(kind, text, change, RECURRENCE, text)


# ---------------------------------------------------------------------------------------------- between loops


def between_loops(S: Structure) -> Iterator[Suspect]:
    """Yield mistakes in what one loop gets from another: an encoder's states from a decoder, a layer from the next."""
    found: dict[tuple[int, int], list[Edge]] = {}
    for edge in S.edges:
        source, consumer = S.of[edge.part.node], S.of[edge.node]
        if source.nodes[0].kind and not S.together(source, consumer) and source.number in S.cyclic:
            if consumer.number not in S.terms:
                found.setdefault((source.number, consumer.number), []).append(edge)
    by_source: dict[int, list[Edge]] = {}
    for (number, _), edges in found.items():
        by_source.setdefault(number, []).extend(edges)
    for number, edges in by_source.items():
        group = S.groups[number]
        name = S.expression(group)
        consumers = dict.fromkeys(S.of[edge.node].number for edge in edges)
        sets = [(listed(S.title(S.groups[c]) for c in consumers), edges)]
        many = [e for e in edges if len({S.step[o.part.node] for o in edges if S.of[o.node] is S.of[e.node]}) > 1]
        if many and len(many) < len(edges):
            sets.insert(0, (listed(S.title(S.of[edge.node]) for edge in many), many))
        if len(consumers) > 1:
            sets += [(S.title(S.groups[c]), [e for e in edges if S.of[e.node].number == c]) for c in consumers]
        every = [edge for edge in S.edges if S.of[edge.part.node] is group]
        for title, few in sets:
            why = f"d{name} gets nothing through {title}"
            yield from one("lower layer cut off", why, dropped(S, few), RECURRENCE, "cut " + why, group)
            why = f"d{name} gets nothing but what comes through {title}"
            rest = [edge for edge in every if all(edge is not other for other in few)]
            yield from one("recurrence dropped", why, dropped(S, rest), RECURRENCE, why, group)
            steps = sorted({S.step[edge.node] for edge in few})
            if len(steps) > 1:
                for keep, word in ((steps[0], "first"), (steps[-1], "last")):
                    others = [e for e in many if all(e is not o for o in few)]  # overwritten as well
                    change = dropped(S, [*others, *(edge for edge in few if S.step[edge.node] != keep)])
                    text = f"d{name} keeps what comes through {title} at the {word} step alone: = where += belongs"
                    yield from one("overwritten, not added", text, change, RECURRENCE, text, group)
            if len({S.step[edge.part.node] for edge in few}) > 1:
                words = ("at the step before", "at the step after")
                wrapped = (f"{word}, wrapped around" for word in words)
                for word, to in zip((*words, *wrapped, "in reverse order"), ELSEWHERE, strict=True):
                    text = f"what d{name} gets through {title} arrives {word}"
                    yield from one("off by one step", text, rerouted(S, few, to), RECURRENCE, text, group)
