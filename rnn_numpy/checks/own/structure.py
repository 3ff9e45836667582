"""What the operations of a tape are to each other: which are the same line at another step, what is a state, what is a
gate's activation, and what a person would call each.
"""

from __future__ import annotations

import linecache
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.own.pulls import BINARY, UNARY
from rnn_numpy.checks.own.tape import Change, Node, Operand, Part, Tape

Array = NDArray[Any]

CURVED = ("tanh", "sigmoid", "relu", "expit")
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**", "matmul": "@"}

# How far back from a result its argument is looked for: 1 / (1 + exp(-a)) is four operations, a stable softmax five.
DEPTH = 8


# ---------------------------------------------------------------------------------------------- known functions


def sigmoid(a: Array) -> Array:
    """Return the logistic function."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * a)))


def _same(found: Array, expected: Array) -> bool:
    if (
        found.shape != expected.shape
        or not found.size
        or abs(found.flat[0] - expected.flat[0]) > 1e-12 * abs(expected.flat[0]) + 1e-300
    ):
        return False
    return bool(np.all(np.abs(found - expected) <= 1e-12 * np.abs(expected) + 1e-300))


@np.errstate(all="ignore")
def recognise(tape: Tape) -> None:
    """Write what several operations make together as one: sigmoids, softmaxes, tanh of any making."""
    for node in tape.nodes:
        if node.kind in ("divide", "reciprocal", "add", "multiply", "expit", "subtract", "power", "exp"):
            _as_one(tape, node)
        elif node.kind == "maximum" and sum(not operand.parts for operand in node.operands) == 1:
            slot = 1 if not node.operands[0].parts else 0
            if not np.any(node.operands[1 - slot].value):
                node.kind, node.operands = "relu", [node.operands[slot]]
        elif node.kind == "multiply" and len(node.operands) == 2:
            _as_relu(node)


def _as_relu(node: Node) -> None:
    for slot in (0, 1):
        operand, mask = node.operands[slot], node.operands[1 - slot]
        if operand.parts and not mask.parts and _same(mask.value, (operand.value > 0).astype(float)):
            node.kind, node.operands = "relu", [operand]
            return


def _as_one(tape: Tape, node: Node) -> None:
    if node.kind == "multiply":
        _as_relu(node)
        if node.kind == "relu":
            return
    if node.value.size < 1:
        return
    seen: set[int] = set()
    level = list(node.operands)
    found = False
    for _ in range(DEPTH):
        after: list[Operand] = []
        for operand in level:
            for number in operand.sources:
                if number in seen:
                    continue
                seen.add(number)
                made = tape.nodes[number]
                if made.kind in UNARY or made.kind in BINARY or made.kind in ("sum", "max"):
                    after += made.operands
        for operand in after:
            if operand.parts and operand.shape == node.value.shape and (not found or node.kind == "softmax"):
                found = _is_known(node, operand) or found
        level = after


def _is_known(node: Node, operand: Operand) -> bool:
    a, v = operand.value, node.value
    if node.kind != "softmax" and _same(v, sigmoid(a)):
        node.kind, node.operands, node.options, node.function = "sigmoid", [operand], {}, sigmoid
        return True
    if node.kind not in ("multiply", "softmax") and _same(v, np.tanh(a)):
        node.kind, node.operands, node.options, node.function = "tanh", [operand], {}, np.tanh
        return True
    if node.kind in ("divide", "softmax") and v.size > 1:
        for axis in [*range(-v.ndim, 0), None]:
            e = np.exp(a - a.max(axis=axis, keepdims=True))
            whole = e / e.sum(axis=axis, keepdims=True)
            if _same(v, whole):
                node.kind, node.operands, node.options = "softmax", [operand], {"axis": axis}
                return True
    return False


# ---------------------------------------------------------------------------------------------- the same line


@dataclass
class Group:
    """One operation of the code, at all steps: nodes in the order of time."""

    nodes: list[Node]
    params: frozenset[str]
    number: int = 0
    names: dict[str, None] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of its operations."""
        return self.nodes[-1].kind

    @property
    def name(self) -> str:
        """What a person calls it: the name of a variable, or nothing."""
        return next(iter(self.names), "")


@dataclass(eq=False)
class Edge:
    """An operand of a node, as far as it comes from one source."""

    node: int
    slot: int
    part: Part
    recurrent: bool


class Structure:
    """Groups, steps, states and edges of a tape."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        recognise(tape)
        self.alive = self._alive()
        self.directly = self._params_read()
        self.behind: dict[int, frozenset[str]] = {}
        for node in self.alive:
            sources = [source for operand in node.operands for source in operand.sources]
            each = (self.behind[source] for source in sources) if node.kind else (self.directly[node.number],)
            self.behind[node.number] = frozenset[str]().union(*each)
        self.groups = self._grouped()
        self.of = {node.number: group for group in self.groups for node in group.nodes}
        self.before = self._groups_before()
        self.step = self._steps()
        self.edges = list(self._edges())
        self.into: dict[int, list[Edge]] = defaultdict(list)
        self.out: dict[int, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            self.into[edge.node].append(edge)
            self.out[edge.part.node].append(edge)
        self.cyclic = {
            group.number for group in self.groups if any(group.number in self.before[n.number] for n in group.nodes)
        }
        self.terms = self._accumulators()
        self.cyclic -= self.terms
        self.inside = self._inside()
        self.first = {group.number: min(self.step[node.number] for node in group.nodes) for group in self.groups}
        self.recurrent_out: dict[int, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            if edge.recurrent:
                self.recurrent_out[self.of[edge.part.node].number].append(edge)
        self.by_step: dict[int, dict[int, Node]] = {}
        self.loop = self._loops()
        self.twin = self._twins()
        self._name()

    def _alive(self) -> list[Node]:
        """Return the operations that reach the loss, in their order."""
        needed = {self.tape.loss}
        for number in range(self.tape.loss, -1, -1):
            if number in needed:
                needed.update(source for operand in self.tape.nodes[number].operands for source in operand.sources)
        return [node for node in self.tape.nodes if node.number in needed]

    def _params_read(self) -> dict[int, frozenset[str]]:
        """Return, for each operation, the parameters that are behind it, up to the next product with a weight."""
        names = {number: name for name, number in self.tape.params.items()}
        found: dict[int, frozenset[str]] = {}
        for node in self.alive:
            if not node.kind:
                found[node.number] = frozenset([names[node.number]])
                continue
            sources = [source for operand in node.operands for source in operand.sources]
            direct = [source for source in sources if source in names]
            taken = direct if direct and node.kind in ("matmul", "einsum") else sources
            found[node.number] = frozenset().union(*(found[source] for source in taken))
        return found

    def _grouped(self) -> list[Group]:
        places: dict[Any, list[list[Node]]] = defaultdict(list)
        for node in self.alive:
            key = (node.site, node.kind) if node.kind else node.number
            mine = self.directly[node.number]
            for nodes in places[key]:
                other = self.directly[nodes[-1].number]
                if mine >= other or mine <= other:
                    nodes.append(node)
                    break
            else:
                places[key].append([node])
        groups = [
            Group(nodes, self.directly[nodes[-1].number], names=dict.fromkeys(n for node in nodes for n in node.names))
            for each in places.values()
            for nodes in each
        ]
        groups.sort(key=lambda group: group.nodes[0].number)
        for number, group in enumerate(groups):
            group.number = number
        return groups

    def _groups_before(self) -> dict[int, dict[int, int]]:
        """Return, for each operation, how long the longest chain of each group is that leads to it."""
        found: dict[int, dict[int, int]] = {}
        for node in self.alive:
            mine: dict[int, int] = {}
            for operand in node.operands:
                for source in operand.sources:
                    own = self.of[source].number
                    for group, depth in found[source].items():
                        if mine.get(group, 0) < depth:
                            mine[group] = depth
                    depth = found[source].get(own, 0) + 1
                    if mine.get(own, 0) < depth:
                        mine[own] = depth
            found[node.number] = mine
        return found

    def _steps(self) -> dict[int, int]:
        steps: dict[int, int] = {}
        for group in self.groups:
            depths = [self.before[node.number].get(group.number, 0) for node in group.nodes]
            in_order = len(set(depths)) == 1 and len(depths) > 1
            for k, (node, depth) in enumerate(zip(group.nodes, depths, strict=True)):
                steps[node.number] = k if in_order else depth
        return steps

    def _edges(self) -> Iterator[Edge]:
        for node in self.alive:
            group = self.of[node.number].number
            for slot, operand in enumerate(node.operands):
                for part in operand.parts:
                    later = self.step[part.node] < self.step[node.number]
                    yield Edge(node.number, slot, part, later and group in self.before[part.node])

    def _accumulators(self) -> set[int]:
        """Return the groups that add a loss up over time: single numbers, added to themselves."""
        return {
            group.number
            for group in self.groups
            if group.number in self.cyclic
            and group.kind in ("add", "subtract")
            and all(node.value.size == 1 for node in group.nodes)
            and all(
                edge.recurrent or self.of[edge.node].number == group.number or self.of[edge.node].kind != "multiply"
                for node in group.nodes
                for edge in self.out[node.number]
            )
            and self._only_to_loss(group)
        }

    def _only_to_loss(self, group: Group) -> bool:
        """Whether what a group makes goes nowhere but to the loss, as it is or times a constant."""
        todo, seen = [node.number for node in group.nodes], set[int]()
        while todo:
            for edge in self.out[todo.pop()]:
                node = self.tape.nodes[edge.node]
                if node.kind not in ("add", "subtract", "multiply", "divide", "sum", "negative"):
                    return False
                if node.kind in ("multiply", "divide") and sum(bool(o.parts) for o in node.operands) > 1:
                    return False
                if node.number not in seen:
                    seen.add(node.number)
                    todo.append(node.number)
        return True

    def _inside(self) -> set[int]:
        """Return the operations from which a later step of something is reached: all but what only makes the loss."""
        found: set[int] = set()
        for node in reversed(self.alive):
            for edge in self.out[node.number]:
                own = self.of[edge.node].number
                if edge.node in found or (edge.recurrent and own not in self.terms):
                    found.add(node.number)
        # The last step reaches none, and is one nevertheless.
        groups = {self.of[number].number for number in found}
        return {node.number for node in self.alive if self.of[node.number].number in groups and node.kind}

    def _loops(self) -> dict[int, int]:
        """Return in which loop over time a group stands: the number of a group of it; -1 for what comes after all."""
        loops: dict[int, int] = {}
        for group in self.groups:
            if group.number in self.cyclic:
                loops[group.number] = next((n for n in loops if self.together(self.groups[n], group)), group.number)
        for group in reversed(self.groups):
            if group.number not in loops:
                after = [self.of[edge.node].number for node in group.nodes for edge in self.out[node.number]]
                loops[group.number] = next((loops[n] for n in after if n in loops), -1)
        return loops

    def _twins(self) -> dict[int, int]:
        """Return which groups are one line of code, in a function that runs for several layers, or in a loop."""
        calls: set[tuple[tuple[str, int, int], ...]] = set()
        for group in self.groups:
            site = group.nodes[-1].site
            if group.kind in ("matmul", "einsum") and any(map(self.is_param, group.nodes[-1].operands)):
                calls.update(site[: k + 1] for k in range(len(site) - 1))
        numbers: dict[Any, int] = {}
        found = {}
        for group in self.groups:
            site = group.nodes[-1].site
            line = tuple("" if site[: k + 1] in calls and k < len(site) - 1 else frame for k, frame in enumerate(site))
            key = (group.kind, line) if group.kind else (group.number,)
            found[group.number] = numbers.setdefault(key, len(numbers))
        return found

    # ------------------------------------------------------------------------------------------ questions

    def outside(self) -> list[int]:
        """Return the operations that are in no loop, in the order of a backward pass."""
        return [node.number for node in reversed(self.alive) if node.kind and node.number not in self.inside]

    def together(self, a: Group, b: Group) -> bool:
        """Whether each of two groups is made of what the other made a step before: whether one loop makes both."""
        return a is b or (a.number in self.before[b.nodes[-1].number] and b.number in self.before[a.nodes[-1].number])

    def close(self, group: Group, other: Group) -> bool:
        """Whether a backward pass has the adjoints of both at hand in one piece of code."""
        return self.loop[group.number] == self.loop[other.number] or any(
            self.of[edge.node] is other for node in group.nodes for edge in self.out[node.number]
        )

    def starts_as(self, group: Group, start: Edge) -> bool:
        """Whether an edge reads, at the first step, what the later ones read of a state."""
        consumer = self.of[start.node]
        return any(
            self.of[edge.node] is consumer and edge.slot == start.slot and np.array_equal(edge.part.at, start.part.at)
            for edge in self.recurrent_out[group.number]
        )

    def is_param(self, operand: Operand) -> bool:
        """Whether all of an operand comes from parameters."""
        return bool(operand.parts) and all(not self.tape.nodes[part.node].kind for part in operand.parts)

    def blocks(self, group: Group) -> list[tuple[str, Array]]:
        """Return the parts that a group's result is cut into, each with its name and its places."""
        found: dict[bytes, tuple[str, Array]] = {}
        size = group.nodes[-1].value.size
        for node in group.nodes if group.nodes[0].kind else ():
            for edge in self.out[node.number]:
                taken = edge.part.taken
                if 0 < len(taken) < size and edge.part.once and taken.tobytes() not in found:
                    after = self.of[edge.node]
                    name = (after.name if after.kind in CURVED else "") or node.views.get(taken.tobytes())
                    found[taken.tobytes()] = (name or f"entries {taken.min()} to {taken.max()}", taken)
        each = list(found.values())
        disjoint = sum(len(taken) for _, taken in each) == len(set().union(*(set(t.tolist()) for _, t in each)))
        return each if 2 <= len(each) <= 8 and disjoint else []

    def gates_of(self, group: Group) -> list[tuple[str, Array]]:
        """Return the gates that a product makes together: the blocks of the sum that it goes into."""
        node = group.nodes[-1]
        for _ in range(6):
            blocks = self.blocks(self.of[node.number])
            if blocks:
                return blocks
            after = [self.tape.nodes[edge.node] for edge in self.out[node.number]]
            sums = [n for n in after if n.kind in ("add", "subtract", "sigmoid") and n.value.shape == node.value.shape]
            if not sums:
                break
            node = sums[0]
        return []

    def _name(self) -> None:
        """Give names of arguments of helping functions, v of sig(v), no chance where there is another one."""
        count: dict[str, int] = defaultdict(int)
        for group in self.groups:
            for name in group.names:
                count[name] += 1
        for group in self.groups:
            alone = [name for name in group.names if count[name] == 1]
            if alone:
                group.names = dict.fromkeys(alone)
        self.shared = {name for name, number in count.items() if number > 1}

    def affected(self, change: Change) -> set[str]:
        """Return the parameters whose gradients a change could make wrong."""
        nodes: set[int] = set()
        for number, slot in change.pulls:
            nodes.update(self.tape.nodes[number].operands[slot].sources)
        for number in [number for number, _ in change.values] + list(change.outs):
            nodes.update(source for operand in self.tape.nodes[number].operands for source in operand.sources)
        nodes.update(change.adjoints)
        nodes.update(target for each in change.extra.values() for target, _ in each)
        return {name for number in nodes for name in self.behind.get(number, ())}

    # ------------------------------------------------------------------------------------------ words

    def line(self, group: Group) -> str:
        """Return where a group stands: "line 18"."""
        node = group.nodes[-1]
        return f"line {_frame_of(node)[1]}" if node.site else ""

    def text(self, group: Group) -> str:
        """Return the line of code itself."""
        node = group.nodes[-1]
        if not node.site:
            return ""
        frame = _frame_of(node)
        return linecache.getline(frame[0], frame[1]).strip()

    def title(self, group: Group) -> str:
        """Return what a group is called: its variable, or what it is made of, and its line."""
        text = self.expression(group, 3)
        if text in self.shared and 0 < len(group.params) <= 4:
            text = f"{text} of {', '.join(sorted(group.params))}"
        return text if not group.nodes[0].kind else f"{text} ({self.line(group)})"

    def expression(self, group: Group, depth: int = 2) -> str:
        """Return what a group is called, or a formula of what it is made of."""
        if group.name:
            return group.name
        node = group.nodes[-1]
        if not depth:
            return "..."
        each = [self.read(operand, depth - 1) for operand in node.operands]
        if node.kind in SIGNS and len(each) == 2:
            return f"{each[0]} {SIGNS[node.kind]} {each[1]}"
        return f"{node.kind}({', '.join(each)})"

    def read(self, operand: Operand, depth: int) -> str:
        """Return what an operand is called."""
        if not operand.parts:
            return f"{operand.value.item():.4g}" if operand.value.size == 1 else "data"
        only = operand.parts[0]
        if len(operand.parts) == 1 and not only.whole:
            name = self.tape.nodes[only.node].views.get(only.taken.tobytes())
            if name:
                return name
        groups = dict.fromkeys(self.of[source].number for source in operand.sources)
        texts = [self.expression(self.groups[number], depth) for number in groups]
        inner = [text if " " not in text or len(texts) > 1 else f"({text})" for text in texts]
        mixed = len(inner) > 1 or sum(len(part.at) for part in operand.parts) < operand.value.size
        return f"[{', '.join(inner)}]" if mixed else inner[0]


def _frame_of(node: Node) -> tuple[str, int, int]:
    """Return the line to tell: of a helping function, sig(v), where it was called."""
    same = [frame for frame in node.site if frame[0] == node.site[-1][0]]
    # The innermost function that holds a loop over time is not known: a one-line helper is told from it by its size.
    return (
        same[-2]
        if len(same) > 1 and node.kind in ("sigmoid", "tanh", "relu", "softmax") and _short(same[-1])
        else same[-1]
    )


def _short(frame: tuple[str, int, int]) -> bool:
    text = linecache.getline(frame[0], frame[1]).strip()
    return "lambda" in text or text.startswith("return")
