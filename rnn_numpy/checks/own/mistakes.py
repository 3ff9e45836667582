"""What a backward pass written by hand gets wrong, made on the tape of the loss: for each operation of it, at all steps
or at some, what a wrong line would do.

An operation is a line of the person's code, and so is a mistake. Each is a small `Change` of the way back along the
tape; the whole gradient that comes out is what a backward pass with this mistake would give.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.own.structure import Edge, Group, Structure, sigmoid
from rnn_numpy.checks.own.tape import Change, Node, Operand, Pull

Array = NDArray[Any]


@dataclass
class Suspect:
    """A mistake that could have been made: its kind, what it is, what it does, where it stands."""

    kind: str
    why: str
    change: Change
    where: dict[str, Any] = field(default_factory=dict)


def suspects(S: Structure) -> Iterator[Suspect]:
    """Yield the mistakes that this loss could be differentiated with, the likelier ones first."""
    yield from _of_recurrence(S)
    yield from _of_time(S)
    yield from _of_activations(S)
    yield from _of_readings(S)
    yield from _of_targets(S)
    yield from _of_softmax(S)
    yield from _of_sums(S)
    yield from _of_weights(S)
    yield from _of_edges(S)
    yield from _of_factors(S)
    yield from _of_late_additions(S)


# ---------------------------------------------------------------------------------------------- tools


def dropped(S: Structure, edges: Sequence[Edge]) -> Change:
    """Return the change that nothing flows back along some edges."""
    return scaled(S, edges, 0.0)


def scaled(S: Structure, edges: Sequence[Edge], factor: float) -> Change:
    """Return the change that a multiple flows back along some edges."""
    each: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in edges:
        each[edge.node, edge.slot].append(edge)

    def made(few: list[Edge]) -> Callable[[Node, int, Array], Array | None]:
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


def at_steps(S: Structure, edges: Sequence[Edge], keep: Callable[[int], bool]) -> list[Edge]:
    """Return the edges of which the operation stands at some steps."""
    return [edge for edge in edges if keep(S.step[edge.node])]


def _each(period: int, offset: int) -> Callable[[int], bool]:
    return lambda t: t % period == offset


def _cell_like(S: Structure, edges: Sequence[Edge]) -> bool:
    """Whether a state is read by no product with a weight: c of an LSTM."""
    return all(S.tape.nodes[edge.node].kind not in ("matmul", "einsum") for edge in edges)


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---------------------------------------------------------------------------------------------- recurrence


def recurrences(S: Structure) -> dict[int, list[Edge]]:
    """Return, for each state, the edges that hand it to the next step."""
    found: dict[int, list[Edge]] = defaultdict(list)
    for edge in S.edges:
        group = S.of[edge.part.node]
        if edge.recurrent and S.of[edge.node].number not in S.terms and group.nodes[0].kind:
            found[group.number].append(edge)
    return dict(found)


def _of_recurrence(S: Structure) -> Iterator[Suspect]:
    """Nothing, or something else, is handed from a step to the one before."""
    each = recurrences(S)
    every = [edge for edges in each.values() for edge in edges]
    if not every:
        return
    names = {number: S.expression(S.groups[number]) for number in each}
    sets: list[tuple[str, list[Edge], str]] = []
    if len(each) > 1:
        why = f"nothing is handed from a step to the one before it, neither of {_listed(list(names.values()))}"
        sets.append(("recurrence dropped", every, why))
    for number, edges in each.items():
        kind = "recurrence dropped"
        if len(each) > 1:
            kind = "cell path missing" if _cell_like(S, edges) else "hidden path missing"
        why = f"d{names[number]} is not handed from a step to the one before it"
        sets.append((kind, edges, why))
        consumers = dict.fromkeys(S.of[edge.node].number for edge in edges)
        if len(consumers) > 1:
            for consumer in consumers:
                few = [edge for edge in edges if S.of[edge.node].number == consumer]
                by = S.title(S.groups[consumer])
                kind = "gate path missing" if S.groups[consumer].kind == "matmul" else "hidden path missing"
                sets.append((kind, few, f"the step before gets nothing of d{names[number]} through {by}"))
            products = [e for e in edges if S.tape.nodes[e.node].kind == "matmul"]
            others = [e for e in edges if S.tape.nodes[e.node].kind != "matmul"]
            if products and others:
                sets.append(("hidden path missing", products,
                    f"d{names[number]} is handed to the step before directly, and not through the "
                        f"weights"))  # fmt: skip
                sets.append(("hidden path missing", others,
                    f"d{names[number]} is handed to the step before through the weights alone"))  # fmt: skip
    for kind, edges, why in sets:
        yield Suspect(kind, why, dropped(S, edges), {"part": "recurrence"})
    for _, edges, why in sets[: 1 + len(each)]:
        first, last = min(S.step[e.node] for e in edges), max(S.step[e.node] for e in edges)
        for k in range(first, last + 1):
            cut = at_steps(S, edges, [k].__contains__)
            if cut and last > first:
                text = why.replace(
                    "nothing is handed from a step to the one before it",
                    f"nothing is handed from step {k} to step {k - 1}",
                )
                text = text.replace("handed from a step to the one before it", f"handed from step {k} to step {k - 1}")
                yield Suspect("recurrence dropped", f"truncated: {text}", dropped(S, cut),
                    {"part": "recurrence", "t": last, "k": k})  # fmt: skip
        for period in range(2, last - first + 1):
            for offset in range(period):
                cut = at_steps(S, edges, _each(period, offset))
                if cut and len({S.step[e.node] for e in cut}) > 1:
                    yield Suspect("recurrence dropped", f"truncated: {why}, at every {period} steps, from step "
                        f"{offset}",
                        dropped(S, cut), {"part": "recurrence"})  # fmt: skip
    for number, edges in each.items():
        name = names[number]
        for factor, kind, word in (
            (-1.0, "sign", "with the wrong sign"), (2.0, "overwritten, not added", "twice"),
            (0.5, "constant factor", "halved")):  # fmt: skip
            yield Suspect(kind, f"d{name} is handed to the step before {word}", scaled(S, edges, factor),
                {"part": "recurrence"})  # fmt: skip
        yield from _accumulating(S, number, name)
        yield from _bypassing(S, name, edges)


def _accumulating(S: Structure, number: int, name: str) -> Iterator[Suspect]:
    nodes = S.groups[number].nodes
    by_step = {S.step[node.number]: node for node in nodes}
    extra: dict[int, list[tuple[int, Callable[[Array], Array]]]] = {
        node.number: [(by_step[t - 1].number, lambda d: d)]
        for t, node in by_step.items()
        if t - 1 in by_step and by_step[t - 1].value.shape == node.value.shape
    }
    if extra:
        yield Suspect("overwritten, not added",
            f"d{name} of the step after is added to, where it should begin anew: a step hands on its own "
                f"d{name} besides",
            Change(extra=extra), {"part": "recurrence"})  # fmt: skip


def _bypassing(S: Structure, name: str, edges: Sequence[Edge]) -> Iterator[Suspect]:
    """The derivative of an activation is there in the sums for the weights, and not in what the step before gets."""
    few = [edge for edge in edges if S.tape.nodes[edge.node].kind in ("matmul", "einsum")]
    kept: dict[int, Array] = {}
    change, found = Change(), False
    for edge in few:
        for node in _activations_after(S, edge.node):
            found = True

            def hold(d: Array, number: int = node.number) -> Array:
                kept[number] = d
                return d

            change.adjoints[node.number] = hold

            def pull(at: Node, slot: int, d: Array, after: Node = node, edge: Edge = edge) -> Array:
                g = np.array(at.pull(slot, d))
                raw = kept.get(after.number)
                if raw is not None and raw.size == d.size:
                    other = at.pull(slot, raw.reshape(d.shape)).reshape(-1)
                    g.reshape(-1)[edge.part.at] = other[edge.part.at]
                return g

            change.pulls[edge.node, edge.slot] = pull
    if found:
        yield Suspect("gate derivative missing",
            f"what is handed back to {name} of the step before leaves out the derivative of the activation; the "
                f"sums for "
            "the weights have it", change, {"part": "recurrence"})  # fmt: skip


def _activations_after(S: Structure, number: int) -> list[Node]:
    """Return the activations that a product of weights goes into, through sums alone."""
    found, todo = [], [number]
    while todo:
        for edge in S.out[todo.pop()]:
            node = S.tape.nodes[edge.node]
            if node.kind in ("add", "subtract"):
                todo.append(node.number)
            elif node.kind in ("tanh", "sigmoid", "relu"):
                found.append(node)
    return found


# ---------------------------------------------------------------------------------------------- steps


def losses(S: Structure) -> list[Edge]:
    """Return the edges from a state to what only makes the loss."""
    return [
        edge
        for edge in S.edges
        if edge.part.node in S.inside and edge.node not in S.inside and S.of[edge.part.node].number in S.cyclic
    ]


def _of_time(S: Structure) -> Iterator[Suspect]:
    """Steps left out, the loss of some steps alone, or at other steps."""
    edges = losses(S)
    steps = sorted({S.step[edge.part.node] for edge in edges})
    if len(steps) > 1:
        source = {edge: S.step[edge.part.node] for edge in edges}
        for keep, why in (
            (steps[-1], "what the loss says to the states of all steps but the last is missing"),
            (steps[0], "what the loss says to the states of all steps but the first is missing"),
        ):
            yield Suspect("only the last step's loss" if keep == steps[-1] else "first step skipped", why,
                dropped(S, [edge for edge in edges if source[edge] != keep]), {"part": "entry of the "
                    "loss"})  # fmt: skip
        for left, kind, word in ((steps[-1], "last step skipped", "last"), (steps[0], "first step skipped", "first")):
            yield Suspect(kind, f"what the loss says to the state of the {word} step is missing",
                dropped(S, [edge for edge in edges if source[edge] == left]), {"part": "entry of the "
                    "loss"})  # fmt: skip
        for shift, word in ((-1, "the step before"), (1, "the step after")):
            yield Suspect("off by one step", f"what the loss says to a state arrives at that of {word}",
                _rerouted(S, edges, shift), {"part": "entry of the loss"})  # fmt: skip
    terms = _terms(S)
    if len(terms) > 1:
        yield Suspect("only the last step's loss", "the gradient is that of the last step's loss alone, all "
            "else is missing",
            dropped(S, terms[:-1]), {"part": "entry of the loss"})  # fmt: skip
        yield Suspect("last step skipped", "what the loss of the last step says is missing altogether",
            dropped(S, terms[-1:]), {"part": "entry of the loss"})  # fmt: skip
        yield Suspect("first step skipped", "what the loss of the first step says is missing altogether",
            dropped(S, terms[:1]), {"part": "entry of the loss"})  # fmt: skip
    timed = [group for group in S.groups if len(group.nodes) > 1 and group.number not in S.terms]
    final = max((S.step[n.number] for group in timed for n in group.nodes), default=0)
    for which, word in ((0, "first"), (final, "last")):
        for groups, what in (
            (timed, "altogether"),
            ([g for g in timed if g.nodes[0].number in S.inside], "but for what comes after the states"),
        ):
            nodes = [n for g in groups for n in g.nodes if S.step[n.number] == which]
            into = [edge for n in nodes for edge in S.into[n.number] if not S.tape.nodes[edge.part.node].kind]
            yield Suspect(f"{word} step skipped", f"the {word} step is missing from the sums over the steps, {what}",
                dropped(S, into), {"part": "sums", "t": which})  # fmt: skip
            if which:
                change = Change(adjoints={n.number: np.zeros_like for n in nodes})
                yield Suspect("last step skipped", f"the loop over time leaves the last step out, {what}", change,
                    {"part": "recurrence", "t": which})  # fmt: skip


def _terms(S: Structure) -> list[Edge]:
    """Return the edges that bring the terms of the loss, in the order of time."""
    found = []
    for number in S.terms:
        for node in S.groups[number].nodes:
            found += [edge for edge in S.into[node.number] if S.of[edge.part.node].number != number]
    return found


def _rerouted(S: Structure, edges: Sequence[Edge], shift: int) -> Change:
    """Return the change that what flows back along edges arrives at another step."""
    change = dropped(S, edges)
    for edge in edges:
        group = S.of[edge.part.node]
        step = S.step[edge.part.node] + shift
        other = next((n for n in group.nodes if S.step[n.number] == step), None)
        node = S.tape.nodes[edge.node]
        if other is None or other.value.shape != S.tape.nodes[edge.part.node].value.shape:
            continue

        def arriving(d: Array, node: Node = node, edge: Edge = edge, shape: Any = other.value.shape) -> Array:
            g, total = node.pull(edge.slot, d).reshape(-1), np.zeros(shape)
            np.add.at(total.reshape(-1), edge.part.taken, g[edge.part.at])
            return total

        change.extra.setdefault(edge.node, []).append((other.number, arriving))
    return change


# ---------------------------------------------------------------------------------------------- activations

Derivative = Callable[[Array, Array], Any]

OTHER_DERIVATIVES: dict[str, tuple[str, Derivative]] = {
    "": ("gate derivative missing", lambda a, v: np.ones_like(v)),
    "v (1 - v)": ("wrong derivative", lambda a, v: v * (1 - v)),
    "1 - v^2": ("wrong derivative", lambda a, v: 1 - v * v),
    "1 - v": ("wrong derivative", lambda a, v: 1 - v),
    "v": ("wrong derivative", lambda a, v: v),
    "v^2": ("wrong derivative", lambda a, v: v * v),
    "(1 - v)^2": ("wrong derivative", lambda a, v: (1 - v) ** 2),
    "1 + v^2": ("wrong derivative", lambda a, v: 1 + v * v),
    "v (1 + v)": ("wrong derivative", lambda a, v: v * (1 + v)),
    "v - 1": ("wrong derivative", lambda a, v: v - 1),
    "v (v - 1)": ("sign", lambda a, v: v * (v - 1)),
    "v^2 - 1": ("sign", lambda a, v: v * v - 1),
    "v (1 - v^2)": ("wrong derivative", lambda a, v: v * (1 - v * v)),
    "v^2 (1 - v)": ("wrong derivative", lambda a, v: v * v * (1 - v)),
    "v (1 - v)^2": ("wrong derivative", lambda a, v: v * (1 - v) ** 2),
    "2 (1 - v^2)": ("constant factor", lambda a, v: 2 * (1 - v * v)),
    "2 v (1 - v)": ("constant factor", lambda a, v: 2 * v * (1 - v)),
    "(1 - v^2) / 2": ("constant factor", lambda a, v: 0.5 * (1 - v * v)),
    "sqrt(1 - v^2)": ("wrong derivative", lambda a, v: np.sqrt(np.maximum(1 - v * v, 0))),
    "(1 - v^2)^2": ("wrong derivative", lambda a, v: (1 - v * v) ** 2),
    "(v (1 - v))^2": ("wrong derivative", lambda a, v: (v * (1 - v)) ** 2),
    "sigmoid(v)": ("wrong derivative", lambda a, v: sigmoid(v)),
    "sigmoid(v) (1 - sigmoid(v)), the function applied twice": (
        "wrong derivative", lambda a, v: sigmoid(v) * (1 - sigmoid(v))),
    "1 - tanh(v)^2, the function applied twice": ("wrong derivative", lambda a, v: 1 - np.tanh(v) ** 2),
    "1 - tanh(v)": ("wrong derivative", lambda a, v: 1 - np.tanh(v)),
    "tanh(v)": ("wrong derivative", lambda a, v: np.tanh(v)),
    "a (1 - a), of the pre-activation": ("wrong derivative", lambda a, v: a * (1 - a)),
    "1 - a^2, of the pre-activation": ("wrong derivative", lambda a, v: 1 - a * a),
    "a, of the pre-activation": ("wrong derivative", lambda a, v: a),
    "1 - tanh(a)^2, a tanh's": ("wrong derivative", lambda a, v: 1 - np.tanh(a) ** 2),
    "sigmoid(a) (1 - sigmoid(a)), a sigmoid's": ("wrong derivative", lambda a, v: sigmoid(a) * (1 - sigmoid(a))),
    "[v > 0]": ("wrong derivative", lambda a, v: (v > 0).astype(float)),
    "[a < 0]": ("wrong derivative", lambda a, v: (a < 0).astype(float)),
    "exp(v)": ("wrong derivative", lambda a, v: np.exp(v)),
    "1 / v": ("wrong derivative", lambda a, v: 1 / v),
}  # fmt: skip

CURVED = ("tanh", "sigmoid", "relu", "expit")


def activations(S: Structure) -> list[Group]:
    """Return the groups that are a nonlinear function of one array."""
    return [group for group in S.groups if group.kind in CURVED]


def _of_activations(S: Structure) -> Iterator[Suspect]:
    groups = activations(S)
    sets: list[tuple[str, list[Group]]] = [(S.title(group), [group]) for group in groups]
    for kind in CURVED:
        alike = [group for group in groups if group.kind == kind]
        if len(alike) > 1:
            sets.append((f"all {kind}s, {_listed([S.title(g) for g in alike])}", alike))
    if len({group.kind for group in groups}) > 1:
        sets.append((f"all activations, {_listed([S.title(g) for g in groups])}", groups))
    for title, few in sets:
        for word, (kind, function) in OTHER_DERIVATIVES.items():
            why = f"the derivative of {title}, is {word}, v its value"
            if not word:
                why = f"the derivative of {title}, is left out"
            gate = few[0].name if len(few) == 1 else None
            yield Suspect(kind, why.replace(", is", " is"), _derived(few, function), _gate(gate))
    for title, few in sets:  # of another step
        for shift, edge, word in _shifts("its value"):
            change = Change()
            for group in few:
                for node, value in _series(S, group, shift, edge):
                    change.outs[node.number] = value
                    change.values[node.number, 0] = _inverse(node, value)
            if change.outs:
                yield Suspect("off by one step", f"the derivative of {title} takes {word}", change,
                    _gate(few[0].name if len(few) == 1 else None))  # fmt: skip


def _gate(name: str | None) -> dict[str, Any]:
    return {"part": "immediate partial"} | ({"gate": name} if name else {})


def _inverse(node: Node, value: Array) -> Array:
    return value if node.kind == "relu" else node.operands[0].value


def _derived(groups: Sequence[Group], function: Derivative) -> Change:
    def pull(node: Node, slot: int, d: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(d * function(node.operands[0].value, node.value))

    return Change(pulls={(node.number, 0): pull for group in groups for node in group.nodes})


def _shifts(what: str) -> Iterator[tuple[int, str, str]]:
    """Yield shifts by a step, each with what stands at the border, and a word for it."""
    for shift, step in ((-1, "the step before"), (1, "the step after")):
        for edge, border in (("zero", "zeros at the border"), ("wrap", "wrapped around at the border"),
            ("clamp", "its own at the border"), ("wrap 2", "wrapped around, and one more, at the border")):  # fmt: skip
            yield shift, edge, f"{what} at {step}, {border}"


def _series(S: Structure, group: Group, shift: int, border: str) -> Iterator[tuple[Node, Array]]:
    """Yield each node of a group with the value of another step."""
    by_step = {S.step[node.number]: node for node in group.nodes}
    if len(by_step) < 2 or len(by_step) < len(group.nodes):
        return
    last = max(by_step)
    for t, node in by_step.items():
        other = by_step.get(t + shift)
        if other is None:
            if border == "zero":
                value = np.zeros_like(node.value)
            elif border == "clamp":
                value = node.value
            else:
                at = (t + shift) % (last + 1) - (1 if border == "wrap 2" else 0)
                value = by_step[at].value if at in by_step else node.value
        else:
            value = other.value
        if value.shape == node.value.shape:
            yield node, value


# ---------------------------------------------------------------------------------------------- what is read


def _of_readings(S: Structure) -> Iterator[Suspect]:
    """Other values in products: of another step, of another variable."""
    yield from _of_previous(S)
    yield from _of_own_step(S)
    yield from _of_inputs(S)
    yield from _of_variables(S)


def _of_previous(S: Structure) -> Iterator[Suspect]:
    """A state of the step before is read at another step."""
    for number, edges in recurrences(S).items():
        group = S.groups[number]
        name = S.expression(group)
        used = [e for e in edges if S.tape.nodes[e.node].kind in ("multiply", "matmul", "einsum", "divide")]
        sets: dict[str, list[tuple[int, int]]] = {"": [(S.of[e.node].number, e.slot) for e in used]}
        products = [(n, s) for n, s in sets[""] if S.groups[n].kind != "multiply"]
        if len(products) < len(sets[""]):
            sets["in the sums for the weights"] = products
        for n, s in dict.fromkeys(sets[""]):
            sets[f"in the gradient through {S.title(S.groups[n])}"] = [(n, s)]
        for where, few in sets.items():
            for shift, border, word in (
                (1, "", f"{name} of its own step stands where {name} of the step before belongs"),
                (-1, "zero", f"{name} of two steps before stands where that of the step before belongs, 0 at "
                    f"the start"),
                (-1, "wrap", f"{name} of two steps before stands where that of the step before belongs; at the "
                    f"start the "
                    "index -1 means the last step"),
                (-1, "wrap 2", f"{name} of two steps before stands where that of the step before belongs; at "
                    f"the start the "
                    "index -1 means the last one but one"),
                (-1, "clamp", f"{name} of two steps before stands where that of the step before belongs"),
                (0, "wrap", f"at the first step the index -1 of {name} means the last step, not the initial state"),
                (0, "wrap 2", f"at the first step the index -1 of {name} means the last step but one"),
                (0, "zero", f"at the first step {name} is taken to be 0, not the initial state"),
            ):  # fmt: skip
                change = Change()
                for consumer, slot in dict.fromkeys(few):
                    change |= _previous(S, group, S.groups[consumer], slot, shift, border)
                if change.values:
                    yield Suspect("off by one step", f"{word}{', ' + where if where else ''}", change, {"part": "sums"})


def _previous(S: Structure, group: Group, consumer: Group, slot: int, shift: int, border: str) -> Change:
    """Return the change that a consumer of a state of the step before reads it at another step."""
    after = {S.step[node.number]: node.value for node in group.nodes}
    change = Change()
    last = max(after)
    places = None
    for node in consumer.nodes:
        for part in node.operands[slot].parts:
            if S.of[part.node].number == group.number and S.step[part.node] == S.step[node.number] - 1:
                places = part
    if places is None:
        return change
    first = min(S.step[node.number] for node in consumer.nodes)
    for node in consumer.nodes:
        operand = node.operands[slot]
        t = S.step[node.number]
        wanted = t - 1 + shift
        if operand.shape != consumer.nodes[-1].operands[slot].shape:
            return Change()
        value = operand.value.copy()
        flat = value.reshape(-1)
        initial = _at_step(consumer, S, first).operands[slot].value.reshape(-1)[places.at]
        if wanted >= first - 0 and wanted in after:
            new = after[wanted].reshape(-1)[places.taken]
        elif wanted == first - 1 and not (shift == 0 and border):
            new = initial
        elif border == "zero":
            new = np.zeros(len(places.at))
        elif border == "clamp":
            new = initial
        elif border in ("wrap", "wrap 2"):
            new = after[last - (border == "wrap 2")].reshape(-1)[places.taken]
        else:
            continue
        flat[places.at] = new
        change.values[node.number, slot] = value
    return change


def _at_step(group: Group, S: Structure, step: int) -> Node:
    return next(node for node in group.nodes if S.step[node.number] == step)


def _of_own_step(S: Structure) -> Iterator[Suspect]:
    """A variable is read at another step, in all that its own step makes of it."""
    for group in S.groups:
        if len(group.nodes) < 2 or not group.nodes[0].kind or group.number in S.terms:
            continue
        own = [e for n in group.nodes for e in S.out[n.number] if not e.recurrent]
        readers = [
            (S.of[e.node].number, e.slot) for e in own
            if S.tape.nodes[e.node].kind in ("multiply", "matmul", "einsum", "divide", *CURVED, "power", "square")
        ]  # fmt: skip
        name = S.expression(group)
        sets: list[tuple[str, list[tuple[int, int]], bool]] = []
        if group.kind in CURVED and readers:
            sets.append((f"{name} of another step is read throughout", readers, True))
        if readers:
            sets.append((f"{name} of another step is read by what is made of it", readers, False))
        if len(set(readers)) > 1:
            for n, s in dict.fromkeys(readers):
                title = S.title(S.groups[n])
                sets.append((f"{name} of another step is read in the gradient through {title}", [(n, s)], False))
        for why, few, derivative in sets:
            for shift, border, word in _shifts(name):
                moved = {node.number: value for node, value in _series(S, group, shift, border)}
                if border == "clamp" and shift == -1:
                    moved |= _initial(S, group)
                change = Change()
                for consumer, slot in few:
                    for node in S.groups[consumer].nodes:
                        value = _replaced(node.operands[slot], moved)
                        if value is not None:
                            change.values[node.number, slot] = value
                if derivative:
                    change.outs |= moved
                if change.values or change.outs:
                    yield Suspect("off by one step", f"{why}: {word}", change, {"part": "immediate partial"})


def _initial(S: Structure, group: Group) -> dict[int, Array]:
    """Return the initial state in the place of a state of the first step, as what the step before holds."""
    for edge in recurrences(S).get(group.number, ()):
        consumer = S.of[edge.node]
        first = min(consumer.nodes, key=lambda node: S.step[node.number])
        operand = first.operands[edge.slot]
        node = min(group.nodes, key=lambda n: S.step[n.number])
        if operand.value.reshape(-1)[edge.part.at].size == node.value.size:
            value = np.zeros(node.value.shape)
            value.reshape(-1)[edge.part.taken] = operand.value.reshape(-1)[edge.part.at]
            return {node.number: value}
    return {}


def _replaced(operand: Operand, moved: dict[int, Array]) -> Array | None:
    """Return an operand's values with those of some operations replaced, or None where there are none."""
    if not any(part.node in moved for part in operand.parts):
        return None
    value = operand.value.copy()
    for part in operand.parts:
        if part.node in moved:
            value.reshape(-1)[part.at] = moved[part.node].reshape(-1)[part.taken]
    return value


def _of_inputs(S: Structure) -> Iterator[Suspect]:
    """Data, not made by any operation, is read at another step."""
    slots: list[tuple[Group, int]] = []
    for group in S.groups:
        if group.kind not in ("matmul", "einsum", "multiply") or len(group.nodes) < 2:
            continue
        for slot, operand in enumerate(group.nodes[-1].operands):
            if sum(len(part.at) for part in operand.parts) < operand.value.size:
                slots.append((group, slot))
    sets = [slots] if len(slots) > 1 else []
    sets += [[each] for each in slots]
    for few in sets:
        for shift, border, word in _shifts("the data"):
            change = Change()
            for group, slot in few:
                shapes = {node.operands[slot].shape for node in group.nodes}
                by_step = {S.step[node.number]: node for node in group.nodes}
                if len(shapes) > 1:
                    continue
                last = max(by_step)
                known = np.concatenate([np.zeros(0, int), *(p.at for p in by_step[last].operands[slot].parts)])
                for t, node in by_step.items():
                    value = node.operands[slot].value.copy()
                    data = np.setdiff1d(np.arange(value.size), known)
                    other = by_step.get(t + shift) or (
                        by_step.get((t + shift) % (last + 1)) if "wrap" in border else None
                    )
                    if other is not None:
                        value.reshape(-1)[data] = other.operands[slot].value.reshape(-1)[data]
                    elif border == "zero":
                        value.reshape(-1)[data] = 0
                    change.values[node.number, slot] = value
            if change.values:
                by = _listed([S.title(group) for group, _ in few])
                yield Suspect("off by one step", f"in the gradient through {by}: {word}", change, {"part": "sums"})


def _of_variables(S: Structure) -> Iterator[Suspect]:
    """In a product, another variable of the step stands where the right one belongs."""
    products = [g for g in S.groups if g.kind in ("multiply", "divide") and g.nodes[0].kind]
    timed: dict[int, dict[int, Node]] = {
        g.number: {S.step[n.number]: n for n in g.nodes}
        for g in S.groups
        if g.nodes[0].kind and g.number not in S.terms
    }
    for group in products:
        size = len(group.nodes)
        for slot in (0, 1):
            if not any(node.operands[1 - slot].parts for node in group.nodes):
                continue  # nothing is told by this operand
            right, to = S.read(group.nodes[-1].operands[slot], 1), S.read(group.nodes[-1].operands[1 - slot], 1)
            where = {"part": "immediate partial"}
            for word, function in (
                ("1", np.ones_like), (f"1 - {right}", lambda v: 1 - v), (f"-{right}", np.negative),
                (f"{right}^2", np.square), (f"tanh({right})", np.tanh), (f"1 + {right}", lambda v: 1 + v),
                (f"{right} (1 - {right})", lambda v: v * (1 - v)), (f"1 - {right}^2", lambda v: 1 - v * v),
            ):  # fmt: skip
                change = Change(values={(n.number, slot): function(n.operands[slot].value) for n in group.nodes})
                why = f"d{to} takes {word} where {right} belongs, in the gradient through {S.title(group)}"
                if word == "1":
                    why = f"d{to} is not multiplied with {right}, in the gradient through {S.title(group)}"
                kind = "sign" if word.startswith("-") else "wrong derivative"
                yield Suspect(kind, why, change, where)
            shape = group.nodes[-1].operands[slot].shape
            for number, by_step in timed.items():
                other = S.groups[number]
                if len(by_step) != size or other.nodes[-1].value.shape != shape:
                    continue
                change = Change(
                    values={
                        (n.number, slot): by_step[S.step[n.number]].value
                        for n in group.nodes
                        if S.step[n.number] in by_step and n.operands[slot].shape == shape
                    }
                )
                why = (
                    f"d{to} takes {S.expression(other)} where {right} belongs, in the gradient through {S.title(group)}"
                )
                yield Suspect("wrong derivative", why, change, where)
        if (
            size
            and group.kind == "multiply"
            and all(node.operands[k].parts for node in group.nodes[1:] for k in (0, 1))
        ):
            change = Change()
            for n in group.nodes:
                if n.operands[0].shape == n.operands[1].shape:
                    change.values[n.number, 0], change.values[n.number, 1] = n.operands[1].value, n.operands[0].value
            a, b = (S.read(group.nodes[-1].operands[k], 1) for k in (0, 1))
            yield Suspect("gates swapped", f"in the gradient through {S.title(group)}, d{a} takes {a} and d{b} "
                f"takes {b}: "
                "each belongs to the other", change, {"part": "immediate partial"})  # fmt: skip
            change = Change(
                pulls={
                    (n.number, k): lambda node, slot, d: node.pull(1 - slot, d)
                    for n in group.nodes
                    for k in (0, 1)
                    if n.operands[0].shape == n.operands[1].shape
                }
            )


# ---------------------------------------------------------------------------------------------- targets, softmax


def _of_targets(S: Structure) -> Iterator[Suspect]:
    """Targets of another step."""
    for group in S.groups:
        if len(group.nodes) < 2 or group.nodes[0].number in S.inside:
            continue
        if group.kind == "log" or group.kind in ("add", "subtract", "sum", "negative"):
            yield from _of_picked(S, group)
        if group.kind == "subtract":
            yield from _of_compared(S, group)


def _of_picked(S: Structure, group: Group) -> Iterator[Suspect]:
    """The class that is picked of a softmax is that of another step."""
    parts = [(node, operand.parts) for node in group.nodes for operand in node.operands]
    picked = [
        (node, each[0]) for node, each in parts
        if len(each) == 1 and not each[0].whole and S.tape.nodes[each[0].node].kind == "softmax"
    ]  # fmt: skip
    if len(picked) < 2:
        return
    for shift, wrapped in ((-1, True), (1, True), (-1, False), (1, False)):
        change = Change()
        for k, (node, part) in enumerate(picked):
            softmax = S.tape.nodes[part.node]
            inside = 0 <= k + shift < len(picked)
            taken = picked[(k + shift) % len(picked)][1].taken if inside or wrapped else None
            change.pulls[node.number, 0] = lambda node, slot, d: None

            def arriving(d: Array, softmax: Node = softmax, taken: Any = taken) -> Array:
                g = np.zeros(softmax.value.shape)
                if taken is not None:
                    g.reshape(-1)[taken] = d.reshape(-1) / softmax.value.reshape(-1)[taken]
                return g

            change.extra[node.number] = [(softmax.number, arriving)]
        word = "before" if shift < 0 else "after"
        yield Suspect("off by one step", f"the target of the step {word} is subtracted from the probabilities"
            + (", wrapped around at the border" if wrapped else ""), change, {"part": "entry of the loss"})  # fmt: skip
    for factor, word in ((0.0, "left out: the probabilities alone are taken"), (-1.0, "added, not subtracted")):
        change = Change()
        for _, part in picked:
            softmax = S.tape.nodes[part.node]
            y = softmax.operands[0]
            if not y.parts:
                continue

            def pull(at: Node, slot: int, d: Array, part: Any = part, factor: float = factor) -> Array:
                size = d.reshape(-1)[part.taken] * at.value.reshape(-1)[part.taken]  # of log p: 1, times its adjoint
                g = np.array(-at.value * size.sum())
                g.reshape(-1)[part.taken] += factor * size
                return g

            change.pulls[softmax.number, 0] = pull
        yield Suspect("wrong derivative", f"the 1 of the target is {word}", change, {"part": "entry of the loss"})


def _of_compared(S: Structure, group: Group) -> Iterator[Suspect]:
    """The target that a value is compared with is that of another step."""
    slots = [k for k in (0, 1) if not any(node.operands[k].parts for node in group.nodes)]
    if not slots:
        return
    slot = slots[0]
    for shift, border, word in _shifts("the target"):
        by_step = {S.step[node.number]: node for node in group.nodes}
        last, change = max(by_step), Change()
        for t, node in by_step.items():
            other = by_step.get(t + shift)
            if other is None and "wrap" in border:
                other = by_step.get((t + shift) % (last + 1))
            if other is None and border == "clamp":
                continue
            target = np.zeros_like(node.operands[slot].value) if other is None else other.operands[slot].value
            values = [operand.value for operand in node.operands]
            values[slot] = target
            moved = {node.number: np.asarray(values[0] - values[1])}
            for edge in S.out[node.number]:
                after = S.tape.nodes[edge.node]
                for k, operand in enumerate(after.operands):
                    value = _replaced(operand, moved)
                    if value is not None:
                        change.values[after.number, k] = value
        if change.values:
            yield Suspect("off by one step", f"{word}, is subtracted", change, {"part": "entry of the loss"})


def _through(function: Callable[[Node, Array], Any]) -> Pull:
    return lambda node, slot, d: np.asarray(function(node, d))


def _after_pull(function: Callable[[Node, Array], Any]) -> Pull:
    return lambda node, slot, d: np.asarray(function(node, node.pull(slot, d)))


def _over(axis: int) -> Callable[[Node, Array], Any]:
    return lambda n, d: n.value * (d - (n.value * d).sum(axis=axis, keepdims=True))


def _times(factor: float) -> Callable[[Array], Array]:
    return lambda d: np.asarray(d * factor)


def _weighted(n: Node, d: Array) -> Any:
    """Return sum p d over the softmax's axis."""
    return (n.value * d).sum(axis=n.options["axis"], keepdims=True)


def _summed(n: Node, d: Array) -> Any:
    return d.sum(axis=n.options["axis"], keepdims=True)


def _of_softmax(S: Structure) -> Iterator[Suspect]:
    groups = [group for group in S.groups if group.kind == "softmax"]
    for group in groups:
        variants: list[tuple[str, Callable[[Node, Array], Array]]] = [
            ("has the diagonal alone, p (1 - p)", lambda n, d: d * n.value * (1 - n.value)),
            ("is left out", lambda n, d: d),
            ("is p alone: the sum over the others is missing", lambda n, d: d * n.value),
            ("is p (d - sum d), without the weights in the sum", lambda n, d: n.value * (d - _summed(n, d))),
            ("is d - sum p d, without the p in front", lambda n, d: d - _weighted(n, d)),
            ("has the sum without its sign", lambda n, d: n.value * (d + _weighted(n, d))),
            ("is p (1 - p) of the summed adjoint", lambda n, d: n.value * (1 - n.value) * _summed(n, d)),
            ("has only what is off its diagonal", lambda n, d: n.value * (n.value * d - _weighted(n, d))),
            ("is p (d - mean of d)", lambda n, d: n.value * (d - d.mean(axis=n.options["axis"], keepdims=True))),
        ]  # fmt: skip
        if group.nodes[0].value.ndim > 1:
            for axis in range(group.nodes[0].value.ndim):
                variants.append((f"sums over axis {axis}, the wrong one",
                    _over(axis)))  # fmt: skip
            variants.append(("sums over all axes", lambda n, d: n.value * (d - (n.value * d).sum())))
        for word, function in variants:
            change = Change(pulls={(n.number, 0): _through(function) for n in group.nodes})
            yield Suspect("softmax Jacobian missing", f"the derivative of the softmax {S.title(group)} {word}", change,
                {"part": "immediate partial"})  # fmt: skip
        # On top of a cross entropy, probabilities minus targets is all there is to it.
        for word, function2 in (
            ("p (1 - p), besides p minus the target", lambda n, g: g * n.value * (1 - n.value)),
            ("the softmax's Jacobian, besides p minus the target",
                lambda n, g: n.value * (g - (n.value * g).sum(axis=n.options["axis"], keepdims=True))),
        ):  # fmt: skip
            change = Change(pulls={(n.number, 0): _after_pull(function2) for n in group.nodes})
            yield Suspect("wrong derivative", f"what the loss says to {S.read(group.nodes[-1].operands[0], 1)} is "
                f"multiplied with {word}", change, {"part": "entry of the loss"})  # fmt: skip


# ---------------------------------------------------------------------------------------------- sums for parameters


def _of_sums(S: Structure) -> Iterator[Suspect]:
    """What a parameter's gradient sums up: one step alone, all but one, nothing of one place."""
    each: dict[str, list[Edge]] = defaultdict(list)
    for edge in S.edges:
        node = S.tape.nodes[edge.part.node]
        if not node.kind:
            each[next(iter(node.names))].append(edge)
    several = {name: edges for name, edges in each.items() if len(edges) > 1}
    biases = [name for name in several if S.tape.nodes[S.tape.params[name]].value.ndim == 1 or
        min(S.tape.nodes[S.tape.params[name]].value.shape) == 1]  # fmt: skip
    weights = [name for name in several if name not in biases]
    sets = [[name] for name in several] + [few for few in (biases, weights, list(several)) if len(few) > 1]
    by_params: dict[Any, list[str]] = defaultdict(list)
    for name in weights:  # all that read one state
        key = frozenset(S.of[s].number for e in several[name] for k, o in enumerate(S.tape.nodes[e.node].operands)
            if k != e.slot for s in o.sources)  # fmt: skip
        by_params[key].append(name)
    sets += [few for few in by_params.values() if 1 < len(few) < len(weights)]
    for few in sets:
        titles, ends = _listed(few), ("first", "last")
        for keep, kind, word in (
            (0, "overwritten, not added", "keeps the first step alone: = where += belongs"),
            (1, "overwritten, not added", "keeps the last step alone"),
            (None, "first step skipped", "leaves out the first step"),
            (None, "last step skipped", "leaves out the last step"),
        ):
            edges = []
            for name in few:
                steps = [S.step[edge.node] for edge in several[name]]
                end = (min(steps), max(steps))[ends.index("last" if "last" in word else "first")]
                edges += [e for e, t in zip(several[name], steps, strict=True) if (t == end) == (keep is None)]
            if edges:
                yield Suspect(kind, f"the sum over the steps of d{titles} {word}", dropped(S, edges), {"part": "sums"})
    for name, edges in each.items():  # of a tensor that is read in several places
        places = dict.fromkeys((S.of[e.node].number, e.slot) for e in edges)
        if len(places) > 1:
            for n, slot in places:
                few2 = [e for e in edges if S.of[e.node].number == n and e.slot == slot]
                title = S.title(S.groups[n])
                yield Suspect("overwritten, not added", f"d{name} lacks what comes through {title}", dropped(S, few2),
                    {"part": "sums"})  # fmt: skip
                rest = [e for e in edges if e not in few2]
                yield Suspect("overwritten, not added", f"d{name} has only what comes through "
                    f"{title}", dropped(S, rest),
                    {"part": "sums"})  # fmt: skip
    yield from _of_batches(S, each)


def _of_batches(S: Structure, each: dict[str, list[Edge]]) -> Iterator[Suspect]:
    """A bias that is added to all rows gets the gradient of one row, or the mean."""
    found: dict[str, list[Edge]] = {}
    for name, edges in each.items():
        few = [e for e in edges if S.tape.nodes[e.node].kind == "add"
            and S.tape.nodes[e.node].value.size > S.tape.nodes[e.part.node].value.size]  # fmt: skip
        if len(few) == len(edges):
            found[name] = few
    sets = [[name] for name in found] + ([list(found)] if len(found) > 1 else [])
    for few_names in sets:
        for word, which in (
            ("the first row alone", "first"),
            ("the last row alone", "last"),
            ("the mean of the rows", "mean"),
        ):
            change = Change()
            for name in few_names:
                for edge in found[name]:

                    def pull(node: Node, slot: int, d: Array, which: str = which) -> Array:
                        shape = node.operands[slot].shape
                        N = d.size // max(1, int(np.prod(shape)))
                        if which == "mean":
                            return node.pull(slot, d) / N
                        left = np.zeros_like(d)
                        at = 0 if which == "first" else -1
                        left[at] = d[at]
                        return node.pull(slot, left)

                    change.pulls[edge.node, edge.slot] = pull
            kind = "missing 1/N" if which == "mean" else "batch mixed"
            yield Suspect(kind, f"the gradient of {_listed(few_names)} takes {word}, not the sum of all", change,
                {"part": "sums"})  # fmt: skip


# ---------------------------------------------------------------------------------------------- weights


def _of_weights(S: Structure) -> Iterator[Suspect]:
    """A weight turned around, its diagonal, another weight, on the way back through a product."""
    products: list[tuple[Group, int, int, Group]] = []  # group, slot of the weight, slot of what it acts on, source
    for group in S.groups:
        if group.kind != "matmul":
            continue
        node = group.nodes[-1]
        for slot in (0, 1):
            operand = node.operands[1 - slot]
            weight = node.operands[slot]
            if weight.value.ndim != 2 or not operand.parts:
                continue
            for number in dict.fromkeys(S.of[s].number for s in operand.sources):
                products.append((group, slot, 1 - slot, S.groups[number]))
    sources: dict[int, list[tuple[Group, int, int, Group]]] = defaultdict(list)
    for each in products:
        sources[each[3].number].append(each)
    sets = [several for several in sources.values() if len(several) > 1] + [[each] for each in products]
    for readers in sets:
        title = _listed([S.title(group) for group, *_ in readers])
        for word, kind, function in (
            ("the weight stands where its transpose belongs", "transposed", _turned),
            ("the diagonal of the weight alone is taken", "transposed", _diagonal),
        ):
            change = _reweighted(S, readers, function)
            if change.values:
                yield Suspect(kind, f"on the way back through {title}, {word}", change, {"part": "recurrence"})
        change = Change()
        for group, _, slot, source in readers:
            change |= _elsewhere(S, group, slot, source)
        if change.pulls:
            part = S.expression(readers[0][3])
            why = f"on the way back through {title}, d{part} is cut out of the wrong place of the joined array"
            yield Suspect("wrong derivative", why, change, {"part": "recurrence"})
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, number in S.tape.params.items():
        by_shape[S.tape.nodes[number].value.shape].append(name)
    for group, weight_slot, _, _ in products:
        mine = group.nodes[-1].operands[weight_slot]
        if not mine.parts or len(mine.parts) > 1:
            continue
        own = S.of[mine.parts[0].node].name
        shape = S.tape.nodes[mine.parts[0].node].value.shape
        for other in by_shape.get(shape, ()):
            if other != own and mine.parts[0].node in S.tape.params.values() and mine.parts[0].whole:
                value = S.tape.nodes[S.tape.params[other]].value.reshape(mine.shape)
                change = Change(values={(n.number, weight_slot): value for n in group.nodes})
                why = f"on the way back through {S.title(group)}, {other} stands where {own} belongs"
                yield Suspect("wrong derivative", why, change, {"part": "recurrence"})
    for group, weight_slot, _, source in products:
        yield from _of_blocks(S, group, weight_slot, source)


Turn = Callable[[Array], "Array | None"]


def _turned(block: Array) -> Array | None:
    """Return a matrix, or each square block of it, transposed."""
    rows, columns = block.shape
    if rows == columns:
        return block.T
    if rows % columns == 0:
        return np.concatenate([part.T for part in np.split(block, rows // columns)])
    if columns % rows == 0:
        return np.concatenate([part.T for part in np.split(block, columns // rows, axis=1)], axis=1)
    return None


def _diagonal(block: Array) -> Array | None:
    rows, columns = block.shape
    if rows == columns:
        return np.asarray(block * np.eye(rows))
    if rows % columns == 0:
        return np.asarray(block * np.tile(np.eye(columns), (rows // columns, 1)))
    if columns % rows == 0:
        return np.asarray(block * np.tile(np.eye(rows), (1, columns // rows)))
    return None


def _columns(node: Node, slot: int, places: Array) -> Array:
    """Return which of the entries that a product sums over those are, of an operand."""
    shape = node.operands[slot].shape
    axis = (len(shape) - 1 if slot == 0 else max(0, len(shape) - 2)) if len(shape) > 1 else 0
    return np.unique(np.unravel_index(places, shape)[axis])


def _reweighted(S: Structure, few: Any, function: Turn) -> Change:
    change = Change()
    for group, weight_slot, slot, source in few:
        for node in group.nodes:
            places = [p.at for p in node.operands[slot].parts if S.of[p.node].number == source.number]
            if not places:
                continue
            columns = _columns(node, slot, np.concatenate(places))
            weight = node.operands[weight_slot].value.copy()
            block = weight[:, columns] if weight_slot == 0 else weight[columns]
            turned = function(block)
            if turned is None or turned.shape != block.shape:
                return Change()
            if weight_slot == 0:
                weight[:, columns] = turned
            else:
                weight[columns] = turned
            change.values[node.number, weight_slot] = weight
    return change


def _elsewhere(S: Structure, group: Group, slot: int, source: Group) -> Change:
    """Return the change that an operand's part is cut out of the other end of the joined array."""
    change = Change()
    for node in group.nodes:
        for part in node.operands[slot].parts:
            size = node.operands[slot].value.size
            shape = node.operands[slot].shape
            if S.of[part.node].number != source.number or len(part.at) == size:
                continue

            def pull(at: Node, slot: int, d: Array, part: Any = part, shape: Any = shape) -> Array:
                g = np.array(at.pull(slot, d))
                axis = len(shape) - 1 if slot == 1 or len(shape) < 2 or True else 0
                columns = np.unique(np.unravel_index(part.at, shape)[axis])
                width = shape[axis]
                flipped = columns + (width - len(columns)) * (1 if columns[0] == 0 else -1)
                moved = g.copy()
                index: list[Any] = [slice(None)] * len(shape)
                other = list(index)
                index[axis], other[axis] = columns, flipped % width
                moved[tuple(index)] = g[tuple(other)]
                return moved

            change.pulls[node.number, slot] = pull
    return change


def _of_blocks(S: Structure, group: Group, weight_slot: int, source: Group) -> Iterator[Suspect]:
    """Of a product that holds several gates' rows, nothing flows back through one of them, or in another order."""
    gates: dict[int, Any] = {}
    for node in group.nodes[-1:]:
        todo = [(node.number, None)]
        seen = set()
        while todo:
            number, _ = todo.pop()
            for edge in S.out[number]:
                after = S.tape.nodes[edge.node]
                if after.number in seen:
                    continue
                seen.add(after.number)
                if after.kind in ("add", "subtract") and after.value.shape == node.value.shape:
                    todo.append((after.number, None))
                elif not edge.part.whole and edge.part.taken.size < node.value.size:
                    gates[S.of[after.number].number] = edge.part.taken
    if len(gates) < 2:
        return
    slot = 1 - weight_slot
    for number, taken in gates.items():
        name = S.expression(S.groups[number])

        def pull(at: Node, slot: int, d: Array, taken: Array = taken) -> Array:
            left = np.array(d)
            left.reshape(-1)[taken] = 0
            g = np.array(at.pull(slot, d))
            other = at.pull(slot, left).reshape(-1)
            for part in at.operands[slot].parts:
                if S.of[part.node].number == source.number:
                    g.reshape(-1)[part.at] = other[part.at]
            return g

        change = Change(pulls={(n.number, slot): pull for n in group.nodes})
        yield Suspect("gate path missing", f"d{S.expression(source)} gets nothing through {name}, in the "
            f"gradient through "
            f"{S.title(group)}", change, {"part": "recurrence", "gate": name})  # fmt: skip


# ---------------------------------------------------------------------------------------------- single edges


def _of_edges(S: Structure) -> Iterator[Suspect]:
    """Nothing flows back to an operand, or with the wrong sign, twice, or as a mean."""
    found: dict[tuple[int, int, int], list[Edge]] = defaultdict(list)
    for edge in S.edges:
        if S.of[edge.node].number not in S.terms:
            found[S.of[edge.node].number, edge.slot, S.of[edge.part.node].number].append(edge)
    for (consumer, _, source), edges in found.items():
        group = S.groups[source]
        name, title = S.expression(group), S.title(S.groups[consumer])
        kind = "gate path missing" if group.nodes[0].kind else "never accumulated"
        if S.groups[consumer].kind == "matmul" and group.nodes[0].kind:
            kind = "gate path missing"
        where = {"part": "immediate partial"} | ({"gate": name} if group.kind in CURVED else {})
        yield Suspect(kind, f"d{name} gets nothing through {title}", dropped(S, edges), where)
        for factor, kind2, word in ((-1.0, "sign", "with the wrong sign"), (2.0, "constant factor", "twice"),
            (0.5, "constant factor", "halved")):  # fmt: skip
            yield Suspect(kind2, f"d{name} gets what comes through {title} {word}", scaled(S, edges, factor), where)


def _of_factors(S: Structure) -> Iterator[Suspect]:
    """An adjoint as a whole with the wrong sign or a factor, at all steps."""
    sizes: dict[int, None] = {}
    for node in S.alive:
        for size in node.value.shape:
            sizes.setdefault(size)
    steps = max((len(group.nodes) for group in S.groups), default=1)
    sizes.setdefault(steps)
    few = [size for size in sizes if size > 1][:8]
    for group in S.groups:
        if not group.nodes[0].kind or group.number in S.terms:
            continue
        for factor, word in (
            (-1.0, "the wrong sign"), (2.0, "a factor 2"), (0.5, "a factor 1/2"),
            *((float(n), f"a factor {n}") for n in few), *((1 / n, f"a factor 1/{n}") for n in few)):  # fmt: skip
            change = Change(adjoints={n.number: _times(factor) for n in group.nodes})
            kind = "sign" if factor == -1 else "constant factor"
            yield Suspect(kind, f"d{S.title(group)} has {word}", change, {"part": "immediate partial"})


def _of_late_additions(S: Structure) -> Iterator[Suspect]:
    """What one way brings to an adjoint is added after another has been made of it."""
    for group in S.groups:
        if not group.nodes[0].kind or group.number in S.terms or len(group.nodes) < 1:
            continue
        ways: dict[tuple[int, int], list[Edge]] = defaultdict(list)
        for node in group.nodes:
            for edge in S.out[node.number]:
                ways[S.of[edge.node].number, edge.slot].append(edge)
        operands = range(len(group.nodes[-1].operands))
        if len(ways) < 2:
            continue
        recurrent = [key for key, edges in ways.items() if edges[0].recurrent]
        sets = [[key] for key in ways] + ([recurrent] if 1 < len(recurrent) < len(ways) else [])
        for keys in sets:
            edges = [edge for key in keys for edge in ways[key]]
            for slot in operands:
                if len(operands) > 1 and group.nodes[-1].operands[slot].parts:
                    title = _listed([S.title(S.groups[key[0]]) for key in keys])
                    to = S.read(group.nodes[-1].operands[slot], 1)
                    yield Suspect("wrong derivative", f"d{to} is made of d{S.title(group)} before what comes through "
                        f"{title} was added to it", _late(S, group, edges, slot), {"part": "immediate "
                            "partial"})  # fmt: skip


def _late(S: Structure, group: Group, edges: Sequence[Edge], slot: int) -> Change:
    kept: dict[int, Array] = {}
    change = Change()
    by_consumer: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in edges:
        by_consumer[edge.node, edge.slot].append(edge)
    for key, few in by_consumer.items():

        def held(node: Node, at: int, d: Array, few: list[Edge] = few) -> Array:
            g = node.pull(at, d)
            for edge in few:
                total = np.zeros(S.tape.nodes[edge.part.node].value.shape)
                np.add.at(total.reshape(-1), edge.part.taken, g.reshape(-1)[edge.part.at])
                kept[edge.part.node] = kept.get(edge.part.node, 0) + total
            return g

        change.pulls[key] = held

    for node in group.nodes:

        def pull(at: Node, which: int, d: Array) -> Array:
            without = kept.pop(at.number, None)
            return at.pull(which, d if without is None else d - without)

        change.pulls[node.number, slot] = pull
    return change
