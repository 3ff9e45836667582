"""What a parameter's gradient sums up: one step alone, all but one, one row of a batch, nothing of one place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from rnn_numpy.checks.own.mistakes.tools import SUMS, Array, Suspect, dropped, listed, one
from rnn_numpy.checks.own.structure import Edge, Structure
from rnn_numpy.checks.own.tape import Change, Node, Pull


def sums(S: Structure) -> Iterator[Suspect]:
    """Yield mistakes in what the gradients of parameters sum up."""
    each: dict[str, list[Edge]] = defaultdict(list)
    for edge in S.edges:
        node = S.tape.nodes[edge.part.node]
        if not node.kind:
            each[S.of[node.number].name].append(edge)
    several = {name: edges for name, edges in each.items() if len({S.step[e.node] for e in edges}) > 1}
    for few in _sets(S, several):
        yield from _steps(S, several, few)
    for name, edges in each.items():  # of a tensor that is read in several places, or in parts
        yield from _places(S, name, edges)
    yield from _repeated(S, each)
    yield from _rows(S, each)
    yield from _vectorised(S, each)


def _sets(S: Structure, several: dict[str, list[Edge]]) -> list[list[str]]:
    """Return sets of parameters that one mistake may be made for: each, biases, weights, all that read one state."""
    values = {name: S.tape.nodes[S.tape.params[name]].value for name in several}
    biases = [name for name, value in values.items() if value.ndim == 1 or min(value.shape) == 1]
    weights = [name for name in several if name not in biases]
    by_source: dict[Any, list[str]] = defaultdict(list)
    for name in weights:
        others = (o for e in several[name] for k, o in enumerate(S.tape.nodes[e.node].operands) if k != e.slot)
        by_source[frozenset(S.of[s].number for o in others for s in o.sources)].append(name)
    by_place: dict[Any, list[str]] = defaultdict(list)
    for name in several:  # of the same line in another layer
        by_place[tuple(sorted({S.twin[S.of[e.node].number] for e in several[name]}))].append(name)
    by_loop: dict[Any, list[str]] = defaultdict(list)
    for name in several:  # of one loop over time
        by_loop[tuple(sorted({S.loop[S.of[e.node].number] for e in several[name]}))].append(name)
    found: dict[tuple[str, ...], None] = {(name,): None for name in several}
    for few in (biases, weights, list(several), *by_source.values(), *by_place.values(), *by_loop.values()):
        if len(few) > 1:
            found.setdefault(tuple(few))
    return [list(few) for few in found]


def _steps(S: Structure, several: dict[str, list[Edge]], few: list[str]) -> Iterator[Suspect]:
    titles = listed(few)
    for last, keeps, kind, word in (
        (False, True, "overwritten, not added", "keeps the first step alone: = where += belongs"),
        (True, True, "overwritten, not added", "keeps the last step alone"),
        (False, False, "first step skipped", "leaves out the first step"),
        (True, False, "last step skipped", "leaves out the last step"),
    ):
        edges = []
        for name in few:
            steps = [S.step[edge.node] for edge in several[name]]
            end = max(steps) if last else min(steps)
            edges += [edge for edge, t in zip(several[name], steps, strict=True) if (t == end) != keeps]
        yield from one(kind, f"the sum over the steps of d{titles} {word}", dropped(S, edges), SUMS, word + titles)


def _places(S: Structure, name: str, edges: list[Edge]) -> Iterator[Suspect]:
    places = list(dict.fromkeys((S.of[edge.node].number, edge.slot) for edge in edges))
    for n, slot in places if len(places) > 1 else ():
        here = [edge for edge in edges if S.of[edge.node].number == n and edge.slot == slot]
        title, rest = S.title(S.groups[n]), [edge for edge in edges if edge not in here]
        why = f"d{name} lacks what comes through {title}"
        yield from one("overwritten, not added", why, dropped(S, here), SUMS, why)
        why = f"d{name} has only what comes through {title}"
        yield from one("overwritten, not added", why, dropped(S, rest), SUMS, why)
        steps = sorted({S.step[edge.node] for edge in here})
        if len(steps) < 2:
            continue
        for word, kept in (
            ("keeps the first step alone: = where += belongs", steps[:1]), ("keeps the last step alone", steps[-1:]),
            ("leaves out the first step", steps[1:]), ("leaves out the last step", steps[:-1]),
        ):  # fmt: skip
            why = f"the sum over the steps of d{name}, as far as it comes through {title}, {word}"
            change = dropped(S, [edge for edge in here if S.step[edge.node] not in kept])
            kind = "overwritten, not added" if len(kept) == 1 else f"{word.split()[-2]} step skipped"
            yield from one(kind, why, change, SUMS, why)


def _repeated(S: Structure, each: dict[str, list[Edge]]) -> Iterator[Suspect]:
    """Of entries that are read several times at once, as the rows of an embedding are, one time alone is added."""
    for name, edges in each.items():
        several = [edge for edge in edges if not edge.part.once]
        for which, word in ((-1, "last"), (0, "first")):
            change = Change(pulls={(edge.node, edge.slot): _once(edge, which) for edge in several})
            why = (
                f"of what is read several times of {name}, as p[ids] reads a row, d{name} takes the {word} time alone: "
                "d[ids] += adds once; np.add.at adds each time"
            )
            yield from one("overwritten, not added", why, change, SUMS, why)


def _once(edge: Edge, which: int) -> Pull:
    """Return the way back of which each entry of the source gets what one of its places gets."""
    order = 1 if which else -1
    places = dict(zip(edge.part.taken[::order].tolist(), edge.part.at[::order].tolist(), strict=True))
    keep = np.isin(edge.part.at, list(places.values()))

    def pull(node: Node, slot: int, d: Array) -> Array:
        g = np.array(node.pull(slot, d))
        g.reshape(-1)[edge.part.at[~keep]] = 0
        return g

    return pull


def _rows(S: Structure, each: dict[str, list[Edge]]) -> Iterator[Suspect]:
    """A bias that is added to all rows gets the gradient of one row, or the mean."""
    found: dict[str, list[Edge]] = {}
    for name, edges in each.items():
        nodes = [S.tape.nodes[edge.node] for edge in edges]
        if all(
            node.kind == "add" and node.value.size > len(edge.part.at) for node, edge in zip(nodes, edges, strict=True)
        ):
            found[name] = edges
    sets = [[name] for name in found] + ([list(found)] if len(found) > 1 else [])
    twins: dict[Any, list[str]] = defaultdict(list)
    for name, edges in found.items():
        twins[S.twin[S.of[edges[0].node].number]].append(name)
    sets += [few for few in twins.values() if 1 < len(few) < len(found)]
    for few in sets:
        for which, kind, word in (
            ("first", "batch mixed", "the first row alone"), ("last", "batch mixed", "the last row alone"),
            ("mean", "missing 1/N", "the mean of the rows"),
        ):  # fmt: skip
            change = Change(pulls={(e.node, e.slot): _of_rows(which) for name in few for e in found[name]})
            why = f"the gradient of {listed(few)} takes {word}, not the sum of all"
            yield from one(kind, why, change, SUMS, why)


def _of_rows(which: str) -> Pull:
    def pull(node: Node, slot: int, d: Array) -> Array:
        size = max(1, node.operands[slot].value.size)
        if which == "mean":
            return np.asarray(node.pull(slot, d) * size / d.size)
        left = np.zeros_like(d)
        at = 0 if which == "first" else -1
        left[at] = d[at]
        return node.pull(slot, left)

    return pull


def _vectorised(S: Structure, each: dict[str, list[Edge]]) -> Iterator[Suspect]:
    """Of a product over all steps at once, the last step alone, or all but one."""
    for name, edges in each.items():
        if len(edges) != 1:
            continue
        node = S.tape.nodes[edges[0].node]
        if node.value.ndim < 2 or len(node.value) < 3:
            continue
        for keep, word in (
            (slice(-1, None), "the last alone"), (slice(0, 1), "the first alone"), (slice(1, None), "all but "
                "the first"),
            (slice(None, -1), "all but the last"),
        ):  # fmt: skip

            def pull(node: Node, slot: int, d: Array, keep: slice = keep) -> Array:
                left = np.zeros_like(d)
                left[keep] = d[keep]
                return node.pull(slot, left)

            change = Change(pulls={(node.number, edges[0].slot): pull})
            why = f"of the rows of {S.title(S.of[node.number])}, d{name} sums up {word}"
            yield from one("overwritten, not added", why, change, SUMS, why)
