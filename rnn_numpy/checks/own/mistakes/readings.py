"""Values that a backward pass reads: those of another step, or of another variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rnn_numpy.checks.own.mistakes.tools import (
    CURVED,
    IMMEDIATE,
    PRODUCTS,
    SHIFTS,
    SUMS,
    Array,
    Suspect,
    by_step,
    initial,
    listed,
    one,
    previous,
    recurrences,
    replaced,
    shifted,
)
from rnn_numpy.checks.own.structure import Group, Structure
from rnn_numpy.checks.own.tape import Change, Node

READERS = ("multiply", "divide", *PRODUCTS)

PREVIOUS = (
    (1, "", "of its own step stands where that of the step before belongs"),
    (1, "keep", "of its own step stands where that of the step before belongs, but for the first step"),
    (-1, "initial", "of two steps before stands where that of the step before belongs"),
    (-1, "zero", "of two steps before stands where that of the step before belongs, 0 at the start"),
    (-1, "wrap", "of two steps before stands where that of the step before belongs; at the start the index -1 "
        "means the "
        "last step"),
    (-1, "wrap 2", "of two steps before stands where that of the step before belongs; at the start the index -1 means "
        "the last one but one"),
    (0, "wrap", "at the first step: the index -1 means the last step, not the initial state"),
    (0, "wrap 2", "at the first step: the index -1 means the last step but one, not the initial state"),
    (0, "zero", "at the first step is taken to be 0, not the initial state"),
    (0, "own", "at the first step is its own, not the initial state"),
)  # fmt: skip


def states_before(S: Structure) -> Iterator[Suspect]:
    """Yield a state of the step before that is read at another step."""
    for number, edges in recurrences(S).items():
        group = S.groups[number]
        name = S.expression(group)
        used = list(dict.fromkeys((S.of[e.node].number, e.slot) for e in edges if S.tape.nodes[e.node].kind in READERS))
        products = [(n, s) for n, s in used if S.groups[n].kind in PRODUCTS]
        sets: list[tuple[str, list[tuple[int, int]]]] = [("", used)] if used else []
        if products and len(products) < len(used):
            sets.append((" in the sums for the weights", products))
        for n, s in used if len(used) > 1 else ():
            sets.append((f" in the gradient through {S.title(S.groups[n])}", [(n, s)]))
        for where, few in sets:
            for shift, border, word in PREVIOUS:
                change = Change()
                for consumer, slot in few:
                    change |= _previous(S, group, S.groups[consumer], slot, shift, border)
                about = (group, *(S.groups[n] for n, _ in few)) if where else (group,)
                yield from one("off by one step", f"{name} {word}{',' * bool(where)}{where}", change, SUMS,
                    f"{word} {bool(where)}", *about)  # fmt: skip


def _previous(S: Structure, group: Group, consumer: Group, slot: int, shift: int, border: str) -> Change:
    """Return the change that a consumer of a state of the step before reads it at another step."""
    after = {S.step[node.number]: node.value for node in group.nodes}
    nodes = by_step(S, consumer)
    parts = [p for n in nodes.values() for p in n.operands[slot].parts if S.of[p.node] is group]
    if not parts or not nodes:
        return Change()
    place, first, last = parts[-1], min(nodes), max(after)
    start = nodes[first].operands[slot].value.reshape(-1)
    change = Change()
    for t, node in nodes.items():
        value = node.operands[slot].value.copy()
        if value.shape != nodes[max(nodes)].operands[slot].shape:
            return Change()
        wanted = t - 1 + shift
        new: Any
        if border == "keep" and t == first:
            new = start[place.at]
        elif wanted in after:
            new = after[wanted].reshape(-1)[place.taken]
        elif wanted == first - 1 and not (shift == 0 and border):
            new = start[place.at]
        elif border == "zero":
            new = 0.0
        elif border == "initial":
            new = start[place.at]
        elif border == "own":
            new = after[t].reshape(-1)[place.taken]
        elif border in ("wrap", "wrap 2") and last - (border == "wrap 2") in after:
            new = after[last - (border == "wrap 2")].reshape(-1)[place.taken]
        else:
            continue
        value.reshape(-1)[place.at] = new
        change.values[node.number, slot] = value
    return change


def own_step(S: Structure) -> Iterator[Suspect]:
    """Yield a variable that is read at another step, in what its own step makes of it."""
    for group in S.groups:
        if len(group.nodes) < 2 or not group.nodes[0].kind or group.number in S.terms:
            continue
        readers = list(
            dict.fromkeys(
                (S.of[edge.node].number, edge.slot)
                for node in group.nodes
                for edge in S.out[node.number]
                if not edge.recurrent and S.tape.nodes[edge.node].kind in (*READERS, *CURVED, "power", "square")
            )
        )
        name = S.expression(group)
        sets: list[tuple[str, list[tuple[int, int]], bool]] = []
        if group.kind in CURVED and readers:
            sets.append((f"{name} {{}} is read throughout", readers, True))
        if readers:
            sets.append((f"{name} {{}} is read where that of the step itself belongs", readers, False))
        for n, s in readers if len(readers) > 1 else ():
            sets.append((f"{name} {{}} is read in the gradient through {S.title(S.groups[n])}", [(n, s)], False))
        for why, few, derivative in sets:
            for shift, border, word in SHIFTS:
                moved = shifted(S, group, shift, border)
                change = Change(outs=dict(moved) if derivative else {})
                for consumer, slot in few:
                    for node in S.groups[consumer].nodes:
                        value = replaced(node.operands[slot], moved)
                        if value is not None:
                            change.values[node.number, slot] = value
                label = f"{word} {derivative} {len(few) == len(readers)}"
                about = (group, *(S.groups[n] for n, _ in few)) if len(few) < len(readers) else (group,)
                yield from one("off by one step", why.format(word), change, IMMEDIATE, label, *about)
        yield from _vectorised(S, group, name)


def _vectorised(S: Structure, group: Group, name: str) -> Iterator[Suspect]:
    """Of states that an operation reads all at once, over time: those of the steps before."""
    nodes = by_step(S, group)
    for consumer in dict.fromkeys(S.of[edge.node].number for node in group.nodes for edge in S.out[node.number]):
        for node in S.groups[consumer].nodes:
            for slot, operand in enumerate(node.operands):
                mine = [part for part in operand.parts if S.of[part.node] is group]
                if len(mine) < 3 or len({len(part.at) for part in mine}) > 1 or node.kind not in READERS:
                    continue
                start = initial(S, group)
                for shift, word in ((-1, "the step before"), (1, "the step after")):
                    value, complete = operand.value.copy(), True
                    for part in mine:
                        other = nodes.get(S.step[part.node] + shift)
                        new = start if other is None and shift < 0 else None if other is None else other.value
                        complete = complete and (new is not None or shift > 0)
                        if new is not None:
                            value.reshape(-1)[part.at] = new.reshape(-1)[part.taken]
                    change = Change(values={(node.number, slot): value}) if complete else Change()
                    why = f"{name} of {word} is read in the gradient through {S.title(S.groups[consumer])}"
                    yield from one("off by one step", why, change, SUMS, why, group)


def inputs(S: Structure) -> Iterator[Suspect]:
    """Yield data, made by no operation, that is read at another step."""
    slots: list[tuple[Group, int]] = []
    for group in S.groups:
        if group.kind in (*PRODUCTS, "multiply") and len(group.nodes) > 1:
            for slot, operand in enumerate(group.nodes[-1].operands):
                if sum(len(part.at) for part in operand.parts) < operand.value.size:
                    slots.append((group, slot))
    sets = [slots] if len(slots) > 1 else []
    sets += [[each] for each in slots]
    for few in sets:
        by = listed(S.title(group) for group, _ in few)
        about = (few[0][0],) if len(few) == 1 else ()
        for shift, border, word in SHIFTS:
            change = Change()
            for group, slot in few if border != "initial" else ():
                change |= _data(S, group, slot, shift, border)
            why = f"in the gradient through {by} the data is that {word}"
            yield from one("off by one step", why, change, SUMS, f"data {word} {slot if len(few) == 1 else ''}", *about)


def _data(S: Structure, group: Group, slot: int, shift: int, border: str) -> Change:
    nodes = by_step(S, group)
    if not nodes or len({node.operands[slot].shape for node in nodes.values()}) > 1:
        return Change()
    last, change = max(nodes), Change()
    known = np.concatenate([np.zeros(0, int), *(part.at for part in nodes[last].operands[slot].parts)])
    for t, node in nodes.items():
        value = node.operands[slot].value.copy()
        data = np.setdiff1d(np.arange(value.size), known)
        wrapped = (t + shift) % (last + 1) if border == "wrap" else None
        other = nodes.get(t + shift) or (None if wrapped is None else nodes.get(wrapped))
        if other is not None:
            value.reshape(-1)[data] = other.operands[slot].value.reshape(-1)[data]
        elif border == "zero":
            value.reshape(-1)[data] = 0
        change.values[node.number, slot] = value
    return change


FUNCTIONS: tuple[tuple[str, Callable[[Array], Any]], ...] = (
    ("1", np.ones_like), ("1 - {}", lambda v: 1 - v), ("-{}", np.negative), ("{}^2", np.square), ("tanh({})", np.tanh),
    ("1 + {}", lambda v: 1 + v), ("{0} (1 - {0})", lambda v: v * (1 - v)), ("1 - {}^2", lambda v: 1 - v * v),
    ("1 / {}", lambda v: 1 / v), ("2 {}", lambda v: 2 * v), ("|{}|", np.abs),
)  # fmt: skip


def variables(S: Structure) -> Iterator[Suspect]:
    """Yield products in which another variable of the step stands where the right one belongs."""
    made = {g.number: by_step(S, g) for g in S.groups if g.nodes[0].kind and g.number not in S.terms}
    earlier = {number: previous(S, S.groups[number]) for number in recurrences(S)}
    for group in S.groups:
        if group.kind not in READERS or not group.nodes[0].kind:
            continue
        for slot in (0, 1):
            if any(node.operands[1 - slot].parts for node in group.nodes):
                yield from _other_values(S, group, slot, made, earlier)
        if group.kind == "multiply":
            yield from _swapped(S, group)
    yield from _complements(S)
    yield from _resets(S)


def _other_values(S: Structure, group: Group, slot: int, made: Any, earlier: Any) -> Iterator[Suspect]:
    last = group.nodes[-1]
    right, to = S.read(last.operands[slot], 1), S.read(last.operands[1 - slot], 1)
    is_weight = bool(last.operands[slot].parts) and not S.tape.nodes[last.operands[slot].parts[0].node].kind
    through = f"in the gradient through {S.title(group)}"
    if group.kind not in PRODUCTS:
        for pattern, function in FUNCTIONS:
            word = pattern.format(right)
            if pattern == "1 - {}" and right.startswith("(1 - ") and right.count("(") == 1:
                word = right[5:-1]
            with np.errstate(all="ignore"):
                change = Change(values={(n.number, slot): function(n.operands[slot].value) for n in group.nodes})
            why = f"d{to} takes {word} where {right} belongs, {through}"
            if pattern == "1":
                how = "divided by" if group.kind == "divide" and slot else "multiplied with"
                why = f"d{to} is not {how} {right}, {through}"
            kind = "sign" if pattern.startswith("-") else "wrong derivative"
            yield from one(kind, why, change, IMMEDIATE, f"{pattern} {slot}", group)
    elif is_weight:
        return
    if last.operands[1 - slot].parts and not S.tape.nodes[last.operands[1 - slot].parts[0].node].kind:  # a parameter
        change = Change(values={(n.number, slot): np.zeros_like(n.operands[slot].value) for n in group.nodes})
        why = f"d{to} gets nothing through {S.title(group)}"
        yield from one("never accumulated", why, change, IMMEDIATE, f"0 {slot}", group)
    shape = last.operands[slot].shape
    steps = {S.step[node.number]: node for node in group.nodes}
    for number, nodes in made.items():
        other = S.groups[number]
        if not nodes or other.nodes[-1].value.shape != shape or not steps.keys() <= nodes.keys():
            continue
        change = Change(
            values={(n.number, slot): nodes[t].value for t, n in steps.items() if n.operands[slot].shape == shape}
        )
        why = f"d{to} takes {S.expression(other)} where {right} belongs, {through}"
        yield from one("wrong derivative", why, change, IMMEDIATE, f"variable {slot}", group, other)
    for number, values in earlier.items():
        other = S.groups[number]
        if other.nodes[-1].value.shape != shape or not steps.keys() <= values.keys():
            continue
        if not any(np.any(values[t]) for t in steps):  # an initial state of zeros is nobody's value
            continue
        change = Change(
            values={(n.number, slot): values[t] for t, n in steps.items() if n.operands[slot].shape == shape}
        )
        why = f"d{to} takes {S.expression(other)} of the step before where {right} belongs, {through}"
        yield from one("wrong derivative", why, change, IMMEDIATE, f"earlier {slot}", group, other)


def _swapped(S: Structure, group: Group) -> Iterator[Suspect]:
    change = Change()
    for n in group.nodes:
        if n.operands[0].shape == n.operands[1].shape:
            change.values[n.number, 0], change.values[n.number, 1] = n.operands[1].value, n.operands[0].value
    a, b = (S.read(group.nodes[-1].operands[k], 1) for k in (0, 1))
    why = f"in the gradient through {S.title(group)}, d{a} takes {a} and d{b} takes {b}: each belongs to the other"
    if all(group.nodes[-1].operands[k].parts for k in (0, 1)):
        yield from one("gates swapped", why, change, IMMEDIATE, "swapped", group)


def _complements(S: Structure) -> Iterator[Suspect]:
    """z and 1 - z change their places in all products."""
    for group in S.groups:
        node = group.nodes[-1]
        if group.kind != "subtract" or not node.operands[1].parts or node.operands[0].parts:
            continue
        source = node.operands[1]
        if not np.all(node.operands[0].value == 1) or len(source.parts) != 1:
            continue
        gate, change = S.of[source.parts[0].node], Change()
        for reader in S.groups:
            for slot in (0, 1) if reader.kind == "multiply" else ():
                for n in reader.nodes:
                    parts = n.operands[slot].parts
                    if len(parts) == 1 and S.of[parts[0].node] is group:
                        change.values[n.number, slot] = 1 - n.operands[slot].value
                    elif len(parts) == 1 and S.of[parts[0].node] is gate:
                        if np.array_equal(parts[0].taken, source.parts[0].taken):
                            change.values[n.number, slot] = 1 - n.operands[slot].value
        name = S.read(source, 1)
        why = f"{name} and 1 - {name} stand in each other's places: what is kept, and what is new"
        yield from one("gates swapped", why, change, IMMEDIATE, "complement", group)


def _resets(S: Structure) -> Iterator[Suspect]:
    """r * (W h) taken back as if it were W (r * h), and the other way round."""
    for product in S.groups:
        if product.kind != "multiply":
            continue
        last = product.nodes[-1]
        for slot in (0, 1):
            for edge in S.into[last.number]:
                if edge.slot == slot and edge.part.whole:
                    yield from _reset_as_before(S, product, slot, S.of[edge.part.node])


def _reset_as_before(S: Structure, product: Group, slot: int, source: Group) -> Iterator[Suspect]:
    """The gate acts on what a product with a weight made; its gradients are taken as if it acted before it."""
    gate = 1 - slot
    inner, bias = source, False
    if source.kind == "add":
        inner = next(
            (S.of[e.part.node] for e in S.into[source.nodes[-1].number] if S.of[e.part.node].kind == "matmul"), source
        )
        bias = True
    if inner.kind != "matmul":
        return
    weights = [k for k in (0, 1) if S.is_param(inner.nodes[-1].operands[k])]
    if len(weights) != 1:
        return
    weight, acted = weights[0], 1 - weights[0]
    gates = {S.step[n.number]: n.operands[gate].value for n in product.nodes}
    name, title = S.read(product.nodes[-1].operands[gate], 1), S.title(product)

    def without(t: int, d: Array, shape: Any) -> Array:
        r = gates[t].reshape(shape)
        return np.asarray(np.divide(d, r, out=np.zeros_like(d), where=r != 0))

    def for_weight(node: Node, slot: int, d: Array) -> Array:
        t = S.step[node.number]
        values = [operand.value for operand in node.operands]
        if values[acted].shape != gates[t].shape:
            return node.pull(slot, d)
        values[acted] = values[acted] * gates[t]
        return node.pull(slot, without(t, d, d.shape), values)

    def for_state(node: Node, slot: int, d: Array) -> Array:
        t = S.step[node.number]
        g = node.pull(slot, without(t, d, d.shape))
        return np.asarray(g * gates[t]) if g.shape == gates[t].shape else g

    def plain(node: Node, slot: int, d: Array) -> Array:
        return node.pull(slot, without(S.step[node.number], d, d.shape))

    nodes = [n for n in inner.nodes if S.step[n.number] in gates and n.value.size == gates[S.step[n.number]].size]
    both = {(n.number, weight): for_weight for n in nodes} | {(n.number, acted): for_state for n in nodes}
    more: dict[tuple[int, int], Any] = {}
    if bias:
        more = {
            (n.number, e.slot): plain
            for n in source.nodes
            for e in S.into[n.number]
            if not S.tape.nodes[e.part.node].kind
        }
    head = f"in the gradient through {title}, {name} is taken to act before the product with the weight"
    for pulls, word in (
        (both, ""), (both | more, ", and not on the bias"),
        ({k: v for k, v in both.items() if k[1] == weight}, ", in the sum for the weight"),
        ({k: v for k, v in both.items() if k[1] == acted}, ", in what goes back to the state"),
        (more, ": the bias gets its gradient without it"),
    ):  # fmt: skip
        yield from one(
            "reset on the wrong side", head + word, Change(pulls=dict(pulls)), IMMEDIATE, "reset" + word, product
        )
