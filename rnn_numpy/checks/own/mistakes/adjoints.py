"""Adjoints that stand in each other's places, come too early, have a factor, or are lost on one way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rnn_numpy.checks.own.mistakes.tools import (
    CURVED,
    IMMEDIATE,
    PRODUCTS,
    SUMS,
    Array,
    Held,
    Suspect,
    by_step,
    dropped,
    listed,
    one,
    recurrences,
    scaled,
    starts,
)
from rnn_numpy.checks.own.structure import Edge, Group, Structure
from rnn_numpy.checks.own.tape import Change, Node


def edges(S: Structure) -> Iterator[Suspect]:
    """Yield operands that get nothing, or with the wrong sign, twice, halved."""
    found: dict[tuple[int, int, int], list[Edge]] = defaultdict(list)
    for edge in S.edges:
        if S.of[edge.node].number not in S.terms:
            found[S.of[edge.node].number, edge.slot, S.of[edge.part.node].number].append(edge)
    for (consumer, slot, source), few in found.items():
        group = S.groups[source]
        name, title = S.expression(group), S.title(S.groups[consumer])
        blocks = {edge.part.taken.tobytes(): edge.part for edge in few}
        if len(blocks) == 1 and not few[0].part.whole:
            name = S.read(S.tape.nodes[few[-1].node].operands[slot], 1).strip("[]") or name
        kind = "gate path missing" if group.nodes[0].kind else "never accumulated"
        where = {"gate": name} if group.kind in CURVED else {}
        about = (S.groups[consumer], group)
        why = f"d{name} gets nothing through {title}"
        yield from one(kind, why, dropped(S, few), IMMEDIATE, f"nothing {slot}", *about, **where)
        for factor, kind, word in (
            (-1.0, "sign", "with the wrong sign"), (2.0, "constant factor", "twice"), (0.5, "constant "
                "factor", "halved"),
        ):  # fmt: skip
            why = f"d{name} gets what comes through {title} {word}"
            yield from one(kind, why, scaled(S, few, factor), IMMEDIATE, f"{word} {slot}", *about, **where)


def factors(S: Structure) -> Iterator[Suspect]:
    """Yield adjoints of which all has the wrong sign or a factor, at all steps."""
    sizes = dict.fromkeys([len(by_step(S, group)) for group in S.groups])
    for node in S.alive:
        sizes |= dict.fromkeys(node.value.shape)
    few = [size for size in sizes if size > 2][:8]
    for group in S.groups:
        if not group.nodes[0].kind or group.number in S.terms:
            continue
        for factor, word in (
            (-1.0, "the wrong sign"), (2.0, "a factor 2"), (0.5, "a factor 1/2"),
            *((float(n), f"a factor {n}") for n in few), *((1 / n, f"a factor 1/{n}") for n in few),
        ):  # fmt: skip
            change = Change(adjoints={node.number: _times(factor) for node in group.nodes})
            kind = "sign" if factor == -1 else "constant factor"
            yield from one(kind, f"d{S.title(group)} has {word}", change, IMMEDIATE, word, group)


def _times(factor: float) -> Callable[[Array], Array]:
    return lambda d: np.asarray(d * factor)


def late_additions(S: Structure) -> Iterator[Suspect]:
    """Yield what one way brings to an adjoint after another adjoint has been made of it."""
    for group in S.groups:
        if not group.nodes[0].kind or group.number in S.terms:
            continue
        ways: dict[tuple[int, int], list[Edge]] = defaultdict(list)
        for node in group.nodes:
            for edge in S.out[node.number]:
                ways[S.of[edge.node].number, edge.slot].append(edge)
        operands = range(len(group.nodes[-1].operands))
        if len(ways) < 2:
            continue
        recurrent = [key for key, each in ways.items() if any(edge.recurrent for edge in each)]
        sets = [[key] for key in ways] + ([recurrent] if 1 < len(recurrent) < len(ways) else [])
        for keys in sets:
            few = [edge for key in keys for edge in ways[key]]
            title = listed(S.title(S.groups[key[0]]) for key in keys)
            about = (group, *(S.groups[key[0]] for key in keys))
            for slot in operands if len(operands) > 1 else ():
                operand = group.nodes[-1].operands[slot]
                if not operand.parts:
                    continue
                head = f"d{S.title(group)} before what comes through {title} was added to it"
                why = f"d{S.read(operand, 1)} is made of {head}"
                yield from one("wrong derivative", why, _late(S, group, few, slot), IMMEDIATE, f"late {slot}", *about)
                inner = S.of[operand.parts[0].node]
                if group.kind == "add" and inner.kind == "multiply" and len(operand.parts) == 1:
                    for k in (0, 1):
                        if inner.nodes[-1].operands[k].parts:
                            change = _late(S, group, few, slot, (inner, k))
                            why = f"d{S.read(inner.nodes[-1].operands[k], 1)} is made of {head}"
                            yield from one("wrong derivative", why, change, IMMEDIATE, f"late {slot} {k}", *about)


def _late(S: Structure, group: Group, few: Sequence[Edge], slot: int, inner: tuple[Group, int] | None = None) -> Change:
    """Return the change that an operand, or one of the product that it is, gets nothing of some edges."""
    kept: dict[int, Any] = {}
    change = Change()
    by_consumer: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in few:
        by_consumer[edge.node, edge.slot].append(edge)
    for key, each in by_consumer.items():

        def held(node: Node, at: int, d: Array, each: list[Edge] = each) -> Array:
            g = node.pull(at, d)
            for edge in each:
                total = np.zeros(S.tape.nodes[edge.part.node].value.shape)
                np.add.at(total.reshape(-1), edge.part.taken, g.reshape(-1)[edge.part.at])
                kept[edge.part.node] = kept.get(edge.part.node, 0) + total
            return g

        change.pulls[key] = held

    for node in group.nodes:
        target, which = (node.number, slot)
        if inner is not None and node.operands[slot].parts:
            target, which = node.operands[slot].parts[0].node, inner[1]
        elif inner is not None:
            continue

        def pull(at: Node, which: int, d: Array, number: int = node.number) -> Array:
            without = kept.pop(number, None)
            return at.pull(which, d if without is None else d - without)

        change.pulls[target, which] = pull
    return change


def taken_for_another(S: Structure) -> Iterator[Suspect]:
    """Yield products and biases that are made with the adjoint of another array of the step."""
    made = {g.number: by_step(S, g) for g in S.groups if g.nodes[0].kind and g.number not in S.terms}
    for group in S.groups:
        last = group.nodes[-1]
        reads_param = any(S.is_param(operand) for operand in last.operands)
        if not last.kind or not (group.kind in PRODUCTS or reads_param) or not made.get(group.number):
            continue
        for slot, operand in enumerate(last.operands):
            if not operand.parts or (group.kind not in PRODUCTS and not S.is_param(operand)):
                continue
            to = S.read(operand, 1)
            for number, nodes in made.items():
                other = S.groups[number]
                if (
                    not nodes
                    or other is group
                    or not S.close(group, other)
                    or not made[group.number].keys() & nodes.keys()
                ):
                    continue
                shape = other.nodes[-1].value.shape
                if shape == last.value.shape:
                    word = f"d{S.expression(other)} stands where d{S.expression(group)} belongs"
                    why = f"{word}, in the gradient of {to} through {S.title(group)}"
                    kind = "gate derivative missing" if _past_activation(S, group, other) else "wrong derivative"
                    if kind == "gate derivative missing":
                        why += f": the derivative of {S.expression(other)} is left out there"
                    change = _with_other(S, made[group.number], slot, nodes, through=True)
                    yield from one(kind, why, change, SUMS, f"other adjoint {slot}", group, other)
                if shape == operand.shape and not S.is_param(operand) and group.kind in PRODUCTS:
                    why = f"d{to} gets d{S.expression(other)} as it is, not through {S.title(group)}"
                    change = _with_other(S, made[group.number], slot, nodes, through=False)
                    yield from one("wrong recurrence", why, change, SUMS, f"as it is {slot}", group, other)


def starts_from_another(S: Structure) -> Iterator[Suspect]:
    """Yield learnable starts that get the adjoint of some array of the first step, as it is."""
    for number, each in recurrences(S).items():
        found = [edge for edge in starts(S, each) if not S.tape.nodes[edge.part.node].kind]
        if not found:
            continue
        target = S.tape.nodes[found[0].part.node]
        name = S.expression(S.of[target.number])
        for other in S.groups:
            node = by_step(S, other).get(0) if other.nodes[0].kind and other.number not in S.terms else None
            if node is None or node.value.shape != target.value.shape or S.loop[other.number] != S.loop[number]:
                continue
            change = dropped(S, found)
            change.extra[node.number] = [(target.number, lambda d: d)]
            why = f"d{name} is d{S.expression(other)} of the first step as it is"
            yield from one("wrong recurrence", why, change, SUMS, why, S.groups[number])


def _past_activation(S: Structure, group: Group, other: Group) -> bool:
    """Whether another group is the activation of what this one makes, through sums alone."""
    todo = [group.nodes[-1].number]
    while todo:
        for edge in S.out[todo.pop()]:
            after = S.of[edge.node]
            if after is other:
                return after.kind in CURVED
            if after.kind in ("add", "subtract"):
                todo.append(edge.node)
    return False


def _with_other(S: Structure, mine: dict[int, Node], slot: int, nodes: dict[int, Node], through: bool) -> Change:
    held, change = Held(), Change()
    for t, node in mine.items():
        other = nodes.get(t)
        if other is None or other.number < node.number:
            continue
        change.adjoints[other.number] = held.keep(other.number)

        def pull(at: Node, slot: int, d: Array, number: int = other.number) -> Array:
            kept = held.kept.pop(number, None)
            if not through:
                return np.zeros(at.operands[slot].shape) if kept is None else kept.reshape(at.operands[slot].shape)
            return at.pull(slot, np.zeros_like(d) if kept is None else kept.reshape(d.shape))

        change.pulls[node.number, slot] = pull
    return change if change.pulls else Change()
