"""A suspect, and the changes of the way back along a tape that several kinds of them are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.own.structure import Edge, Group, Structure
from rnn_numpy.checks.own.tape import Change, Node, Operand, Pull

Array = NDArray[Any]

IMMEDIATE, RECURRENCE, SUMS, ENTRY = "immediate partial", "recurrence", "sums", "entry of the loss"
PRODUCTS = ("matmul", "einsum")
CURVED = ("tanh", "sigmoid", "relu", "expit")


@dataclass
class Suspect:
    """A mistake that could have been made.

    Attributes
    ----------
    kind, why : str
        As of a `Diagnosis`.
    changes : list of Change
        What it does; the gradient with it is the sum of those with each.
    label : str
        What it is called, whatever it is made to: where one line of code runs for several layers, a mistake in it is
        made for all of them.
    about : tuple of Group
        What it is made to.
    """

    kind: str
    why: str
    changes: list[Change]
    part: str
    label: str
    about: tuple[Group, ...]
    where: dict[str, Any] = field(default_factory=dict)


def one(kind: str, why: str, change: Change, part: str, label: str, *about: Group, **where: Any) -> Iterator[Suspect]:
    """Yield a suspect, unless its change is none."""
    if change.touched():
        yield Suspect(kind, why, [change], part, label, about, where)


def listed(names: Iterable[str]) -> str:
    """Return names as a list in words, each once."""
    each = list(dict.fromkeys(names))
    return each[0] if len(each) == 1 else f"{', '.join(each[:-1])} and {each[-1]}"


# ---------------------------------------------------------------------------------------------- edges


def scaled(S: Structure, edges: Sequence[Edge], factor: float) -> Change:
    """Return the change that a multiple flows back along some edges."""
    each: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in edges:
        each[edge.node, edge.slot].append(edge)

    def made(few: list[Edge]) -> Pull:
        def pull(node: Node, slot: int, d: Array) -> Array | None:
            if factor == 0 and len(few) == len(node.operands[slot].parts):
                return None
            g = np.array(node.pull(slot, d))
            flat = g.reshape(-1)
            for edge in few:
                flat[edge.part.at] *= factor
            return g

        return pull

    return Change(pulls={key: made(few) for key, few in each.items()})


def dropped(S: Structure, edges: Sequence[Edge]) -> Change:
    """Return the change that nothing flows back along some edges."""
    return scaled(S, edges, 0.0)


def recurrences(S: Structure, start: bool = False) -> dict[int, list[Edge]]:
    """Return, for each state, the edges that hand it to the next step; with those to where it starts, if asked."""
    found: dict[int, list[Edge]] = defaultdict(list)
    for edge in S.edges:
        group = S.of[edge.part.node]
        if edge.recurrent and S.of[edge.node].number not in S.terms and group.nodes[0].kind:
            found[group.number].append(edge)
    if start:
        for edges in found.values():
            edges += starts(S, edges)
    return dict(found)


def starts(S: Structure, edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges by which the first step reads what the later ones read of the state before."""
    found = []
    for consumer, slot in dict.fromkeys((S.of[edge.node].number, edge.slot) for edge in edges):
        places = next(edge.part.at for edge in edges if S.of[edge.node].number == consumer and edge.slot == slot)
        for node in S.groups[consumer].nodes:
            if S.step[node.number] == S.first[consumer]:
                found += [
                    edge
                    for edge in S.into[node.number]
                    if edge.slot == slot and not edge.recurrent and np.array_equal(edge.part.at, places)
                ]
    return found


def losses(S: Structure) -> list[Edge]:
    """Return the edges from a state to what only makes the loss."""
    return [
        edge
        for edge in S.edges
        if edge.part.node in S.inside and edge.node not in S.inside and S.of[edge.part.node].number in S.cyclic
    ]


def rerouted(S: Structure, edges: Sequence[Edge], to: Callable[[int, int], int | None]) -> Change:
    """Return the change that what flows back along edges arrives at another step: of a step and the last one."""
    change = dropped(S, edges)
    for edge in edges:
        group = S.of[edge.part.node]
        steps = {S.step[n.number]: n for n in group.nodes}
        wanted = to(S.step[edge.part.node], max(steps))
        other = None if wanted is None else steps.get(wanted)
        if other is None or other.value.shape != S.tape.nodes[edge.part.node].value.shape:
            continue

        def arriving(
            d: Array, node: Node = S.tape.nodes[edge.node], edge: Edge = edge, shape: Any = other.value.shape
        ) -> Array:
            return arrived(node, edge, d, shape)

        change.extra.setdefault(edge.node, []).append((other.number, arriving))
    if any(target > number for number, each in change.extra.items() for target, _ in each):
        change.order = (*S.outside(), *sorted(S.inside, reverse=True))
    return change


def arrived(node: Node, edge: Edge, d: Array, shape: tuple[int, ...]) -> Array:
    """Return what flows back along an edge, as an array of its source's shape."""
    total = np.zeros(shape)
    np.add.at(total.reshape(-1), edge.part.taken, node.pull(edge.slot, d).reshape(-1)[edge.part.at])
    return total


# ---------------------------------------------------------------------------------------------- values


def by_step(S: Structure, group: Group) -> dict[int, Node]:
    """Return a group's operations by their steps; of several at one step, none."""
    if group.number not in S.by_step:
        found = {S.step[node.number]: node for node in group.nodes}
        S.by_step[group.number] = found if len(found) == len(group.nodes) else {}
    return S.by_step[group.number]


SHIFTS = (
    (-1, "initial", "of the step before"),
    (-1, "zero", "of the step before, 0 at the first"),
    (-1, "wrap", "of the step before, at the first step that of the last (index -1)"),
    (-1, "own", "of the step before, at the first step its own"),
    (1, "own", "of the step after, at the last step its own"),
    (1, "zero", "of the step after, 0 at the last"),
    (1, "wrap", "of the step after, at the last step that of the first"),
)


def shifted(S: Structure, group: Group, shift: int, border: str) -> dict[int, Array]:
    """Return what operations of a group have made at another step, by their numbers."""
    nodes = by_step(S, group)
    moved: dict[int, Array] = {}
    if len(nodes) < 2:
        return moved
    last = max(nodes)
    for t, node in nodes.items():
        other = nodes.get(t + shift)
        value: Array | None = None if other is None else other.value
        if other is None and border == "zero":
            value = np.zeros_like(node.value)
        elif other is None and border == "own":
            value = node.value
        elif other is None and border == "wrap":
            value = nodes[(t + shift) % (last + 1)].value if (t + shift) % (last + 1) in nodes else None
        elif other is None:
            value = initial(S, group)
        if value is None or value.shape != node.value.shape:
            return {}
        moved[node.number] = value
    return moved


def initial(S: Structure, group: Group) -> Array | None:
    """Return what a state was before the first step."""
    for edge in S.recurrent_out.get(group.number, ()):
        consumer = S.of[edge.node]
        first = min(consumer.nodes, key=lambda node: S.step[node.number])
        operand = first.operands[edge.slot]
        shape = S.tape.nodes[edge.part.node].value.shape
        if operand.shape == S.tape.nodes[edge.node].operands[edge.slot].shape:
            value = np.zeros(shape)
            if value.size == edge.part.at.size:
                value.reshape(-1)[edge.part.taken] = operand.value.reshape(-1)[edge.part.at]
                return value
    return None


def previous(S: Structure, group: Group) -> dict[int, Array]:
    """Return what a state was before each step, by the steps."""
    start, nodes = initial(S, group), by_step(S, group)
    if start is None or not nodes:
        return {}
    return {t: nodes[t - 1].value if t - 1 in nodes else start for t in nodes}


def replaced(operand: Operand, moved: dict[int, Array]) -> Array | None:
    """Return an operand's values with those of some operations replaced, or None where there are none."""
    if not any(part.node in moved for part in operand.parts):
        return None
    value = operand.value.copy()
    for part in operand.parts:
        if part.node in moved:
            value.reshape(-1)[part.at] = moved[part.node].reshape(-1)[part.taken]
    return value


class Held:
    """Adjoints that a pass keeps as they come by, for what is done before them in the code, and after them here."""

    def __init__(self) -> None:
        self.kept: dict[int, Array] = {}

    def keep(self, number: int) -> Callable[[Array], Array]:
        """Return what keeps the adjoint of an operation."""

        def keep(d: Array) -> Array:
            self.kept[number] = d.copy()
            return d

        return keep
