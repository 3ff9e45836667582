"""Derivatives of activations and of softmaxes: left out, of another function, of another array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rnn_numpy.checks.own.mistakes.tools import CURVED, ENTRY, IMMEDIATE, SHIFTS, Array, Suspect, listed, one, shifted
from rnn_numpy.checks.own.pulls import axes_of
from rnn_numpy.checks.own.structure import Group, Structure, sigmoid
from rnn_numpy.checks.own.tape import Change, Node, Pull

Derivative = Callable[[Array, Array], Any]

WRONG = "wrong derivative"

OTHER_DERIVATIVES: dict[str, tuple[str, Derivative]] = {
    "": ("gate derivative missing", lambda a, v: np.ones_like(v)),
    "v (1 - v), a sigmoid's": (WRONG, lambda a, v: v * (1 - v)),
    "1 - v^2, a tanh's": (WRONG, lambda a, v: 1 - v * v),
    "1 - v": (WRONG, lambda a, v: 1 - v),
    "v": (WRONG, lambda a, v: v),
    "v^2": (WRONG, lambda a, v: v * v),
    "(1 - v)^2": (WRONG, lambda a, v: (1 - v) ** 2),
    "1 + v^2": (WRONG, lambda a, v: 1 + v * v),
    "v (1 + v)": (WRONG, lambda a, v: v * (1 + v)),
    "v - 1": (WRONG, lambda a, v: v - 1),
    "-v (1 - v)": ("sign", lambda a, v: v * (v - 1)),
    "-(1 - v^2)": ("sign", lambda a, v: v * v - 1),
    "v (1 - v^2)": (WRONG, lambda a, v: v * (1 - v * v)),
    "v^2 (1 - v)": (WRONG, lambda a, v: v * v * (1 - v)),
    "v (1 - v)^2": (WRONG, lambda a, v: v * (1 - v) ** 2),
    "2 (1 - v^2)": ("constant factor", lambda a, v: 2 * (1 - v * v)),
    "2 v (1 - v)": ("constant factor", lambda a, v: 2 * v * (1 - v)),
    "(1 - v^2) / 2": ("constant factor", lambda a, v: 0.5 * (1 - v * v)),
    "sqrt(1 - v^2)": (WRONG, lambda a, v: np.sqrt(np.maximum(1 - v * v, 0))),
    "(1 - v^2)^2, the derivative twice": (WRONG, lambda a, v: (1 - v * v) ** 2),
    "(v (1 - v))^2, the derivative twice": (WRONG, lambda a, v: (v * (1 - v)) ** 2),
    "sigmoid(v)": (WRONG, lambda a, v: sigmoid(v)),
    "sigmoid(v) (1 - sigmoid(v)), the function applied twice": (WRONG, lambda a, v: sigmoid(v) * (1 - sigmoid(v))),
    "1 - tanh(v)^2, the function applied twice": (WRONG, lambda a, v: 1 - np.tanh(v) ** 2),
    "1 - tanh(v)": (WRONG, lambda a, v: 1 - np.tanh(v)),
    "tanh(v)": (WRONG, lambda a, v: np.tanh(v)),
    "a (1 - a), of the pre-activation": (WRONG, lambda a, v: a * (1 - a)),
    "1 - a^2, of the pre-activation": (WRONG, lambda a, v: 1 - a * a),
    "1 - a, of the pre-activation": (WRONG, lambda a, v: 1 - a),
    "a, the pre-activation": (WRONG, lambda a, v: a),
    "1 - tanh(a)^2, a tanh's": (WRONG, lambda a, v: 1 - np.tanh(a) ** 2),
    "sigmoid(a) (1 - sigmoid(a)), a sigmoid's": (WRONG, lambda a, v: sigmoid(a) * (1 - sigmoid(a))),
    "sigmoid(a)": (WRONG, lambda a, v: sigmoid(a)),
    "tanh(a)": (WRONG, lambda a, v: np.tanh(a)),
    "1 / cosh(v)^2, of the value": (WRONG, lambda a, v: 1 / np.cosh(v) ** 2),
    "[v > 0]": (WRONG, lambda a, v: (v > 0).astype(float)),
    "[a < 0]": (WRONG, lambda a, v: (a < 0).astype(float)),
    "exp(v)": (WRONG, lambda a, v: np.exp(v)),
    "1 / v": (WRONG, lambda a, v: 1 / v),
}


def activations(S: Structure) -> Iterator[Suspect]:
    """Yield wrong derivatives of gates and states, one by one, block by block, and all of a kind."""
    groups = [group for group in S.groups if group.kind in CURVED]
    sets: list[tuple[str, str, list[tuple[Group, Array | None]]]] = []
    for group in groups:
        sets.append((S.title(group), group.name, [(group, None)]))
        for name, taken in S.blocks(group):
            sets.append((f"{name}, a part of {S.title(group)}", name, [(group, taken)]))
    for kind in CURVED:
        alike = [group for group in groups if group.kind == kind]
        if len(alike) > 1:
            sets.append((f"all {kind}s, {listed(map(S.title, alike))}", "", [(group, None) for group in alike]))
    if len({group.kind for group in groups}) > 1:
        sets.append((f"all activations, {listed(map(S.title, groups))}", "", [(group, None) for group in groups]))
    for title, gate, few in sets:
        where = {"gate": gate} if gate else {}
        about = [group for group, _ in few] if len(few) == 1 else []
        for word, (kind, function) in OTHER_DERIVATIVES.items():
            why = f"the derivative of {title} is taken to be {word}; v is its value"
            if not word:
                why = f"the derivative of {title} is left out"
            elif "v" not in word:
                why = why.removesuffix("; v is its value")
            change = Change()
            for each, places in few:
                change |= _derived(each, function, places)
            yield from one(kind, why, change, IMMEDIATE, f"{word} {len(about)} {few[0][1] is None}", *about, **where)
        change = Change()
        for each, places in few:
            change |= _derived(each, None, places)
        why = f"the derivative of {title} stands alone, not multiplied with the gradient of its value"
        yield from one("wrong derivative", why, change, IMMEDIATE, f"alone {few[0][1] is None}", *about, **where)
    for title, gate, few in sets:
        if any(taken is not None for _, taken in few):
            continue
        about = [group for group, _ in few] if len(few) == 1 else []
        for shift, border, word in SHIFTS:
            change = Change()
            for group, _ in few:
                change.outs |= shifted(S, group, shift, border)
            why = f"the derivative of {title} takes its value {word}"
            yield from one("off by one step", why, change, IMMEDIATE, word, *about, **({"gate": gate} if gate else {}))


def _derived(group: Group, function: Derivative | None, taken: Array | None) -> Change:
    """Return the change that a derivative is another one; without a function, that it is not multiplied with d."""

    def pull(node: Node, slot: int, d: Array) -> Array:
        with np.errstate(all="ignore"):
            if function is None:
                g = node.pull(slot, np.ones_like(d))
            else:
                g = np.asarray(d * function(node.operands[0].value, node.value))
            if taken is None:
                return g
            whole = np.array(node.pull(slot, d))
            whole.reshape(-1)[taken] = g.reshape(-1)[taken]
            return whole

    return Change(pulls={(node.number, 0): pull for node in group.nodes})


# ---------------------------------------------------------------------------------------------- softmax


def _axes(n: Node) -> tuple[int, ...]:
    return axes_of(n.options, n.value.ndim)


def _dot(n: Node, d: Array) -> Any:
    return (n.value * d).sum(axis=_axes(n), keepdims=True)


def _sum(n: Node, d: Array) -> Any:
    return d.sum(axis=_axes(n), keepdims=True)


JACOBIANS: tuple[tuple[str, Callable[[Node, Array], Any]], ...] = (
    ("has the diagonal alone: p (1 - p) d", lambda n, d: d * n.value * (1 - n.value)),
    ("is left out", lambda n, d: d),
    ("is p d alone: the sum over the others is missing", lambda n, d: d * n.value),
    ("is p (d - sum d), without the weights in the sum", lambda n, d: n.value * (d - _sum(n, d))),
    ("is p (d - mean d), without the weights in the sum", lambda n, d: n.value * (d - d.mean(_axes(n), keepdims=True))),
    ("is d - sum p d, without the p in front", lambda n, d: d - _dot(n, d)),
    ("is d - p sum p d, without the p of d", lambda n, d: d - n.value * _dot(n, d)),
    ("is p d - sum p d, without the p of the sum", lambda n, d: n.value * d - _dot(n, d)),
    ("adds the sum: p (d + sum p d)", lambda n, d: n.value * (d + _dot(n, d))),
    ("has only what is off its diagonal", lambda n, d: n.value * (n.value * d - _dot(n, d))),
    ("is -p sum p d, without the p d", lambda n, d: -n.value * _dot(n, d)),
    ("is p (1 - p) sum d", lambda n, d: n.value * (1 - n.value) * _sum(n, d)),
    ("is taken twice", lambda n, d: n.pull(0, n.pull(0, d))),
    ("is p^2 (d - sum p d)", lambda n, d: n.value * n.value * (d - _dot(n, d))),
    ("is 1 - p^2, a tanh's", lambda n, d: d * (1 - n.value * n.value)),
    ("has the wrong sign", lambda n, d: -n.value * (d - _dot(n, d))),
)


def softmaxes(S: Structure) -> Iterator[Suspect]:
    """Yield wrong derivatives of softmaxes, alone and under a cross entropy."""
    for group in S.groups:
        if group.kind != "softmax":
            continue
        variants = list(JACOBIANS)
        if group.nodes[0].value.ndim > 1:
            for axis in range(group.nodes[0].value.ndim):
                variants.append((f"sums over axis {axis}, the wrong one", _over((axis,))))
            variants.append(("sums over all axes", _over(tuple(range(group.nodes[0].value.ndim)))))
        for word, function in variants:
            change = Change(pulls={(node.number, 0): _as_pull(function) for node in group.nodes})
            why = f"the derivative of the softmax {S.title(group)} {word}; p are its values, d their gradient"
            yield from one("softmax Jacobian missing", why, change, IMMEDIATE, word, group)
        source = S.read(group.nodes[-1].operands[0], 1)
        for word, function in (
            ("p (1 - p)", lambda n, g: g * n.value * (1 - n.value)),
            ("the softmax's own Jacobian", lambda n, g: n.value * (g - _dot(n, g))),
        ):
            change = Change(pulls={(node.number, 0): _after(function) for node in group.nodes})
            why = f"the gradient of {source}, probabilities minus targets, is multiplied with {word} besides"
            yield from one("wrong derivative", why, change, ENTRY, word, group)


def _over(axes: tuple[int, ...]) -> Callable[[Node, Array], Any]:
    return lambda n, d: n.value * (d - (n.value * d).sum(axis=axes, keepdims=True))


def _as_pull(function: Callable[[Node, Array], Any]) -> Pull:
    return lambda node, slot, d: np.asarray(function(node, d))


def _after(function: Callable[[Node, Array], Any]) -> Pull:
    return lambda node, slot, d: np.asarray(function(node, node.pull(slot, d)))


# ---------------------------------------------------------------------------------------------- targets


def targets(S: Structure) -> Iterator[Suspect]:
    """Yield targets of another step, and targets that are left out."""
    for group in S.groups:
        if group.nodes[0].number in S.inside:
            continue
        if group.kind in ("log", "add", "subtract", "sum", "negative"):
            yield from _picked(S, group)
        if group.kind == "subtract":
            yield from _compared(S, group)
        if group.kind in ("log", "divide", "sqrt"):
            yield from _epsilons(S, group)


def _picked(S: Structure, group: Group) -> Iterator[Suspect]:
    """The class that is picked of a softmax is that of another step, or not subtracted."""
    picks = []
    for node in group.nodes:
        for slot, operand in enumerate(node.operands):
            if len(operand.parts) == 1 and not operand.parts[0].whole:
                softmax = S.tape.nodes[operand.parts[0].node]
                if softmax.kind == "softmax" and operand.value.size < softmax.value.size:
                    picks.append((node, slot, softmax, operand.parts[0].taken))
    if not picks:
        return
    for shift, wrapped, word in (
        (-1, True, "before, wrapped around at the border,"), (1, True, "after, wrapped around at the border,"),
        (-1, False, "before"), (1, False, "after"),
    ):  # fmt: skip
        change = Change()
        for k, (node, slot, softmax, taken) in enumerate(picks):
            if len(picks) > 1:
                inside = 0 <= k + shift < len(picks)
                other = picks[(k + shift) % len(picks)][3] if inside or wrapped else taken[:0]
                if len(other) and len(other) != len(taken):
                    return
            else:
                other = _rolled(softmax, taken, shift, wrapped)
            change.pulls[node.number, slot] = _nothing
            change.extra[node.number] = [(softmax.number, _arriving(softmax, node, slot, other))]
        why = f"the target of the step {word} is subtracted from the probabilities"
        yield from one("off by one step", why, change, ENTRY, why, group)
    for shift, word in ((-1, "before"), (1, "after")):
        change = Change()
        for k, (_, _, softmax, taken) in enumerate(picks if len(picks) > 1 else ()):
            other = picks[(k + shift) % len(picks)][2].value
            if other.shape == softmax.value.shape:
                change.pulls[softmax.number, 0] = _without_target(taken, 1.0, other)
        why = f"the target is subtracted from the probabilities of the step {word}"
        yield from one("off by one step", why, change, ENTRY, why, group)
    for factor, word in ((0.0, "left out: the probabilities alone are taken"), (-1.0, "added, not subtracted")):
        change = Change()
        for _, _, softmax, taken in picks:
            change.pulls[softmax.number, 0] = _without_target(taken, factor)
        yield from one("wrong derivative", f"the 1 of the target is {word}", change, ENTRY, word, group)


def _epsilons(S: Structure, group: Group) -> Iterator[Suspect]:
    """A small number that is added inside of a log, and is not there on the way back."""
    slot = len(group.nodes[0].operands) - 1
    change, epsilon = Change(), 0.0
    for node in group.nodes:
        for edge in S.into[node.number]:
            made = S.tape.nodes[edge.part.node]
            if edge.slot == slot and edge.part.whole and made.kind in ("add", "maximum", "minimum"):
                inner = [operand for operand in made.operands if operand.parts]
                small = [operand.value for operand in made.operands if not operand.parts]
                if len(inner) == 1 and len(small) == 1 and np.abs(small[0]).max(initial=0.0) < 1e-3:
                    change.values[node.number, slot] = inner[0].value.reshape(node.operands[slot].shape)
                    epsilon = float(np.abs(small[0]).max())
    why = f"the {epsilon:g} inside of the {group.kind} of {S.title(group)} is not there in the backward pass"
    yield from one("wrong derivative", why, change, ENTRY, "epsilon", group)


def _rolled(softmax: Node, taken: Array, shift: int, wrapped: bool) -> Array:
    """Return the places of targets of other rows: of an array (T, V), other steps."""
    width = softmax.value.shape[-1]
    rows, columns = taken // width, taken % width
    moved = np.roll(columns, -shift)
    if wrapped:
        return np.asarray(rows * width + moved)
    keep = slice(1, None) if shift < 0 else slice(None, -1)
    return np.asarray((rows * width + moved)[keep])


def _nothing(node: Node, slot: int, d: Array) -> None:
    return None


def _arriving(softmax: Node, node: Node, slot: int, taken: Array) -> Callable[[Array], Array]:
    """Return what makes the softmax's adjoint of that of log p, at other places: 1 / p of these."""

    def arriving(d: Array) -> Array:
        g = np.zeros(softmax.value.shape)
        if len(taken):
            size = (node.pull(slot, d) * node.operands[slot].value).reshape(-1)  # of log p, whatever was summed there
            values = softmax.value.reshape(-1)[taken]
            g.reshape(-1)[taken] = size[: len(taken)] / values
        return g

    return arriving


def _without_target(taken: Array, factor: float, other: Array | None = None) -> Pull:
    """Return what gives probabilities, perhaps those of another step, plus a multiple of the target."""

    def pull(node: Node, slot: int, d: Array) -> Array:
        size = np.zeros(node.value.shape)
        size.reshape(-1)[taken] = d.reshape(-1)[taken] * node.value.reshape(-1)[taken]
        p = node.value if other is None else other
        return np.asarray(factor * size - p * size.sum(axis=_axes(node), keepdims=True))

    return pull


def _compared(S: Structure, group: Group) -> Iterator[Suspect]:
    """The target that a value is compared with is that of another step."""
    slots = [k for k in (0, 1) if not any(node.operands[k].parts for node in group.nodes)]
    if not slots:
        return
    slot = slots[0]
    nodes = {S.step[node.number]: node for node in group.nodes}
    last = max(nodes)
    for shift, border, word in (*SHIFTS, (0, "zero", "left out")):
        change = Change()
        for t, node in nodes.items():
            target = node.operands[slot].value
            if len(nodes) == 1 and target.ndim > 1 and shift:
                target = _rows(target, shift, border)
            elif shift == 0:
                target = np.zeros_like(target)
            elif len(nodes) > 1:
                wanted = (
                    t + shift if 0 <= t + shift <= last else {"wrap": (t + shift) % (last + 1), "own": t}.get(border)
                )
                target = np.zeros_like(target) if wanted is None else nodes[wanted].operands[slot].value
            values = [operand.value for operand in node.operands]
            if target.shape != values[slot].shape:
                return
            values[slot] = target
            moved = np.asarray(values[0] - values[1])
            for edge in S.out[node.number]:
                after = S.tape.nodes[edge.node]
                for k, operand in enumerate(after.operands):
                    if any(part.node == node.number for part in operand.parts) and operand.shape == moved.shape:
                        change.values[after.number, k] = moved
        what = f"{word}" if shift == 0 else f"that {word}"
        yield from one("off by one step" if shift else "wrong derivative",
            f"the target in {S.title(group)} is {what} in the backward pass", change, ENTRY, word, group)  # fmt: skip


def _rows(target: Array, shift: int, border: str) -> Array:
    moved = np.roll(target, -shift, axis=0)
    end = 0 if shift < 0 else -1
    if border in ("zero", "initial"):
        moved[end] = 0
    elif border == "own":
        moved[end] = target[end]
    return moved
