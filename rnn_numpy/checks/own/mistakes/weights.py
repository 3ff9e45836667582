"""Products with weights on the way back: a weight turned around, another one, blocks and joins in the wrong places."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rnn_numpy.checks.own.mistakes.tools import CURVED, RECURRENCE, Array, Suspect, by_step, listed, one
from rnn_numpy.checks.own.structure import Group, Structure
from rnn_numpy.checks.own.tape import Change, Node, Part, Pull

Turn = Callable[[Array], "Array | None"]


class Product(NamedTuple):
    """A product of a matrix with what comes from a source: at `part` of the operand in `slot`."""

    group: Group
    weight: int
    slot: int
    source: Group
    part: Part


def products(S: Structure) -> list[Product]:
    """Return the products of matrices, once for each source of what they act on."""
    found = []
    for group in S.groups:
        if group.kind != "matmul":
            continue
        node = group.nodes[-1]
        for weight in (0, 1):
            operand = node.operands[1 - weight]
            if node.operands[weight].value.ndim == 2 and operand.parts and not S.is_param(operand):
                sources: dict[int, Part] = {}
                for part in operand.parts:
                    sources.setdefault(S.of[part.node].number, part)
                for number, part in sources.items():
                    found.append(Product(group, weight, 1 - weight, S.groups[number], part))
    return found


def weights(S: Structure) -> Iterator[Suspect]:
    """Yield mistakes in products with weights."""
    every = products(S)
    sources: dict[int, list[Product]] = defaultdict(list)
    for each in every:
        sources[each.source.number].append(each)
    sets = [several for several in sources.values() if len(several) > 1] + [[each] for each in every]
    for few in sets:
        title = listed(S.title(each.group) for each in few)
        about = (few[0].group, few[0].source) if len(few) == 1 else (few[0].source,)
        for word, function in (
            ("the weight stands where its transpose belongs", _turned),
            ("the diagonal of the weight alone is taken", _diagonal),
            ("the weight is left out", _identity),
            ("the weight's sign is wrong", np.negative),
        ):
            change = _reweighted(S, few, function)
            kind = "sign" if "sign" in word else "transposed" if "left" not in word else "wrong recurrence"
            why = f"on the way back through {title}, {word}"
            yield from one(kind, why, change, RECURRENCE, f"{word} {len(few) == 1}", *about)
        change = Change()
        for each in few:
            change |= _elsewhere(each, False)
        part = S.expression(few[0].source)
        why = f"on the way back through {title}, d{part} is cut out of the wrong place of the joined array"
        yield from one("wrong derivative", why, change, RECURRENCE, f"elsewhere {len(few) == 1}", *about)
        change = Change()
        for each in few:
            change |= _elsewhere(each, True)
        why = f"on the way back through {title}, the parts of the joined array change their places"
        yield from one("wrong derivative", why, change, RECURRENCE, f"both elsewhere {len(few) == 1}", *about)
    yield from _others(S, every)
    yield from _through_blocks(S, every)
    yield from blocks_exchanged(S)


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


def _identity(block: Array) -> Array | None:
    return np.eye(len(block)) if block.shape[0] == block.shape[1] else None


def _diagonal(block: Array) -> Array | None:
    rows, columns = block.shape
    side = min(rows, columns)
    if max(rows, columns) % side:
        return None
    return np.asarray(block * np.tile(np.eye(side), (rows // side, columns // side)))


def _columns(node: Node, slot: int, places: Array) -> Array:
    """Return which of the entries that a product sums over these are, of an operand."""
    shape = node.operands[slot].shape
    axis = 0 if len(shape) == 1 else (len(shape) - 1 if slot == 0 else len(shape) - 2)
    return np.unique(np.unravel_index(places, shape)[axis])


def _reweighted(S: Structure, few: list[Product], function: Any) -> Change:
    change = Change()
    for group, weight_slot, slot, _, part in few:
        for node in group.nodes:
            if not node.operands[slot].parts or node.operands[slot].shape != group.nodes[-1].operands[slot].shape:
                continue
            columns = _columns(node, slot, part.at)
            weight = node.operands[weight_slot].value.copy()
            index: Any = (slice(None), columns) if weight_slot == 0 else (columns, slice(None))
            block = weight[index]
            turned = function(block)
            if turned is None or turned.shape != block.shape:
                return Change()
            weight[index] = turned
            change.values[node.number, weight_slot] = weight
    return change


def _elsewhere(each: Product, both: bool) -> Change:
    """Return the change that an operand's part is cut out of the other end of the joined array; and the other too."""
    change = Change()
    group, _, slot, _, part = each
    last = group.nodes[-1]
    shape = last.operands[slot].shape
    axis = 0 if len(shape) == 1 else (len(shape) - 1 if slot == 0 else len(shape) - 2)
    columns, width = _columns(last, slot, part.at), shape[axis]
    if len(columns) == width or (both and 2 * len(columns) != width):
        return change
    other = (columns + width - len(columns)) if columns[0] == 0 else columns - columns[0]
    source: list[Any] = [slice(None)] * len(shape)
    target = list(source)
    source[axis], target[axis] = other, columns

    def pull(at: Node, slot: int, d: Array) -> Array:
        g = np.array(at.pull(slot, d))
        moved = g.copy()
        moved[tuple(target)] = g[tuple(source)]
        if both:
            moved[tuple(source)] = g[tuple(target)]
        return moved

    for node in group.nodes:
        if node.operands[slot].shape == shape:
            change.pulls[node.number, slot] = pull
    return change


def _others(S: Structure, every: list[Product]) -> Iterator[Suspect]:
    """Another weight stands where the right one belongs; or two change their places."""
    names = {number: name for name, number in S.tape.params.items()}
    whole = []
    for each in every:
        operand = each.group.nodes[-1].operands[each.weight]
        if S.is_param(operand) and len(operand.parts) == 1 and len(operand.parts[0].at) == operand.value.size:
            whole.append((each, operand.parts[0].node))
    for each, number in whole:
        for other, name in names.items():
            value = S.tape.nodes[other].value
            if other == number or value.size != S.tape.nodes[number].value.size or value.ndim != 2:
                continue
            made = _as_operand(S, each, other)
            if made is None:
                continue
            change = Change(values={(n.number, each.weight): made for n in each.group.nodes})
            why = f"on the way back through {S.title(each.group)}, {name} stands where {names[number]} belongs"
            yield from one("wrong derivative", why, change, RECURRENCE, "other weight", each.group, each.source)
    for (a, first), (b, second) in itertools.combinations(whole, 2):
        if first == second or a.group is b.group:
            continue
        left, right = _as_operand(S, a, second), _as_operand(S, b, first)
        if left is None or right is None or not set(by_step(S, a.group)) & set(by_step(S, b.group)):
            continue
        change = Change(values={(n.number, a.weight): left for n in a.group.nodes})
        change |= Change(values={(n.number, b.weight): right for n in b.group.nodes})
        why = (
            f"on the way back {names[first]} and {names[second]} change their places: what belongs to "
            f"{S.expression(a.source)} goes to {S.expression(b.source)}"
        )
        yield from one("wrong derivative", why, change, RECURRENCE, "weights exchanged", a.group, b.group)


def _as_operand(S: Structure, each: Product, other: int) -> Array | None:
    """Return another weight as this product reads its own, transposed if it does so."""
    operand, value = each.group.nodes[-1].operands[each.weight], S.tape.nodes[other].value
    part = operand.parts[0]
    own = S.tape.nodes[part.node].value
    if own.shape != value.shape:
        return None
    return value.reshape(-1)[part.taken].reshape(operand.shape)


def _through_blocks(S: Structure, every: list[Product]) -> Iterator[Suspect]:
    """Of a product that holds several gates' rows, nothing flows back through one of them."""
    for each in every:
        for name, taken in S.gates_of(each.group):

            def pull(at: Node, slot: int, d: Array, taken: Array = taken, part: Part = each.part) -> Array:
                left = np.array(d)
                left.reshape(-1)[taken] = 0
                g = np.array(at.pull(slot, d))
                g.reshape(-1)[part.at] = at.pull(slot, left).reshape(-1)[part.at]
                return g

            change = Change(pulls={(n.number, each.slot): pull for n in each.group.nodes})
            source, title = S.expression(each.source), S.title(each.group)
            why = f"d{source} gets nothing through {name}, on the way back through {title}"
            about = (each.group, each.source)
            yield from one("gate path missing", why, change, RECURRENCE, f"block {name}", *about, gate=name)


def _then(function: Callable[[Array], Array]) -> Pull:
    return lambda node, slot, d: function(node.pull(slot, d))


def blocks_exchanged(S: Structure) -> Iterator[Suspect]:
    """Yield gates' adjoints that stand in each other's rows, or are 0, or have the wrong sign, in a joined array."""
    for group in S.groups:
        gates = S.blocks(group)
        if len(gates) < 2:
            continue
        sizes = {len(taken) for _, taken in gates}
        title = S.title(group)
        if len(sizes) == 1 and len(gates) <= 4:
            for order in itertools.permutations(range(len(gates))):
                moved = [(gates[k][1], gates[j][1]) for k, j in enumerate(order) if j != k]
                if not moved:
                    continue

                def exchanged(d: Array, moved: Any = tuple(moved)) -> Array:
                    changed = d.copy()
                    for to, source in moved:
                        changed.reshape(-1)[to] = d.reshape(-1)[source]
                    return changed

                told = ", ".join(f"{gates[k][0]} has that of {gates[j][0]}" for k, j in enumerate(order) if j != k)
                change = Change(adjoints={n.number: exchanged for n in group.nodes})
                why = f"in the gradient of {title}, {told}"
                yield from one("gates swapped", why, change, RECURRENCE, str(order), group)
                if group.kind in CURVED:
                    change = Change(pulls={(n.number, 0): _then(exchanged) for n in group.nodes})
                    why = f"in the gradient of what {title} is made of, {told}"
                    yield from one("gates swapped", why, change, RECURRENCE, f"{order} inside", group)
        for name, taken in gates:
            for factor, kind, word in (
                (0.0, "gate path missing", "nothing flows back through {}"), (-1.0, "sign", "d{} has the wrong sign"),
                (2.0, "constant factor", "d{} is doubled"), (0.5, "constant factor", "d{} is halved"),
            ):  # fmt: skip

                def scaled(d: Array, taken: Array = taken, factor: float = factor) -> Array:
                    changed = d.copy()
                    changed.reshape(-1)[taken] *= factor
                    return changed

                change = Change(adjoints={n.number: scaled for n in group.nodes})
                why = f"{word.format(name)}, a part of {title}"
                yield from one(kind, why, change, RECURRENCE, f"{factor} {name}", group, gate=name)
