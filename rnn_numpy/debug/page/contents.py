"""What a page holds: a header that says what is what, and blocks of numbers.

Everything that the page shows is one of these numbers, bit for bit, or a product or sum of them. Equations go along as
trees, so that the page parses nothing; each name in them is an array of the step, some rows of a weight, or, of an
array that the page does not hold, the equation that makes it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.debug.conditions import condition, jump, non_finite
from rnn_numpy.debug.expressions import OF_MEMORY, Text, evaluate, norm
from rnn_numpy.debug.rows import Renamer, Rows, incoming, targets, total, wording
from rnn_numpy.debug.stepper import recurrent
from rnn_numpy.debug.tracing import diff, first_non_finite, of_trace
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

WHERE = "debug.html"
TILES = 256  # rows and columns of a matrix (t, k) that a page shows
MARKS = 100  # places where a condition holds that a page lists
FIXED = 120_000  # characters of a page that holds no number, about

OPERATORS: Mapping[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Lt: "<",
    ast.LtE: "<=",
}


class Chosen(NamedTuple):
    """What of a trace a page holds: steps `start` to `stop` of row numbers, sequences, names or None for all."""

    start: int
    stop: int
    sequences: list[int]
    names: list[str] | None


@dataclass
class Contents:
    """A page's header, ready for JSON, and its blocks."""

    header: dict[str, Any]
    blocks: list[Array] = field(default_factory=list)
    compact: bool = False
    weights: bool = True

    def add(self, array: Array, compact: bool | None = None) -> int:
        """Take an array in as a block; return its number."""
        about: list[dict[str, Any]] = self.header["blocks"]
        array = np.ascontiguousarray(array)
        if not (self.compact if compact is None else compact) or array.dtype.kind == "i":
            about.append({"shape": list(array.shape), "dtype": array.dtype.str[1:]})
            self.blocks.append(array.astype(array.dtype.newbyteorder("<"), copy=False))
            return len(self.blocks) - 1
        # float32 times one power of two per row: plain float32 would make zeros of vanishing gradients.
        sizes = np.where(np.isfinite(array), abs(array), 0).reshape(*array.shape[:-1], -1).max(axis=-1, initial=0)
        exponents = np.frexp(sizes)[1].astype(np.int16)
        self.blocks.append(np.ldexp(array, -exponents[..., None].astype(int)).astype("<f4"))
        about.append({"shape": list(array.shape), "dtype": "f4", "exponents": len(self.blocks)})
        about.append({"shape": list(exponents.shape), "dtype": "i2"})
        self.blocks.append(exponents.astype("<i2"))
        return len(self.blocks) - 2


def contents(
    layer: Recurrent,
    trace: Trace,
    result: BackwardResult | None,
    sequences: int | Sequence[int] | None,
    names: Sequence[str] | None,
    steps: range | slice | tuple[int, int] | None,
    stops: Sequence[Any] | None,
    tk: Any,
    compare: Trace | None,
    precision: str,
    max_mb: float,
) -> Contents:
    """Return what a page holds; arguments as of `html`."""
    _checked(layer, trace)
    if result is not None:
        of_trace(WHERE, layer, trace, result)
    arguments.one_of(WHERE, "precision", precision, ("exact", "compact"))
    chosen = _chosen(trace, sequences, names, steps)
    page = Contents({"blocks": []}, compact=precision == "compact")
    found = [_layer_names(one, chosen) for one in trace.layers.values()]
    for name in chosen.names or ():
        if not any(name in some for some in found):
            known = ", ".join(dict.fromkeys(name for one in trace.layers.values() for name in _known(one)))
            raise OptionError(f"{WHERE}: names[...] = {name!r} is no array of this trace; there are {known}")
    page.weights = _check_size(trace, chosen, found, 2 if compare is not None else 1, page.compact, max_mb)
    if compare is not None:
        _checked(layer, compare, "compare")
        first = diff(trace, compare)
        for one, some in zip(trace.layers.values(), found, strict=True):
            missing = [name for name in some if name not in _known(compare[one.name])]
            if missing:
                raise OptionError(
                    f"{WHERE}: compare has no {', '.join(missing)} of {one.name}: a backward pass has run on trace, "
                    "not on compare. Run it on both, or show arrays that both have, names=[...]"
                )
    conditions = _conditions(stops)
    tables = _tables(trace, tk)
    page.header.update(
        layer=repr(layer),
        dtype=str(trace.top.arrays["x"].dtype),
        precision=precision,
        sequences=[
            {"n": n, "length": len(trace) if trace.edge.batch.lengths is None else _length(trace, n)}
            for n in chosen.sequences
        ],
        N=trace.edge.batch.N,
        gradients=_gradients(result),
        origin=repr(origin) if (origin := first_non_finite(layer, trace, result)) is not None else None,
        compare=None if compare is None else repr(first),
        apart=None,
    )
    if compare is not None and first is not None:
        place, (n, unit) = first.place, (*first.index, 0, 0)[:2]
        page.header["apart"] = {"layer": place.layer, "t": place.t, "name": place.name, "n": n, "unit": unit}
    for one, some in zip(trace.layers.values(), found, strict=True):
        other = None if compare is None else compare[one.name]
        page.header.setdefault("layers", []).append(_layer(page, one, some, chosen, conditions, other))
        if one.name in tables:
            page.header["layers"][-1]["tk"] = _table(page, tables[one.name], chosen)
    return page


def _checked(layer: Any, trace: Any, name: str = "trace") -> None:
    recurrent(WHERE, layer)
    if not isinstance(trace, Trace) or not trace.layers:
        what = "the trace of a pass that has not begun" if isinstance(trace, Trace) else type(trace).__name__
        raise OptionError(f"{WHERE}: {name} must be the third result of forward; got {what}")
    if name == "trace":
        trace.edge.checked(WHERE, layer)
    dtype = trace.top.arrays["x"].dtype
    if dtype.kind != "f":
        raise OptionError(f"{WHERE}: a page shows float32 and float64; {name} is of {dtype}")


# ------------------------------------------------------------------------------------------------ what of it


def _chosen(trace: Trace, sequences: Any, names: Any, steps: Any) -> Chosen:
    first, T, N = trace.top.first, len(trace.top), trace.edge.batch.N
    if N == 0:
        raise OptionError(f"{WHERE}: trace has no sequence, N = 0: there is nothing to show")
    if sequences is None:
        sequences = [_largest(trace)]
    elif isinstance(sequences, (str, bytes)) or not isinstance(sequences, (Sequence, range, np.ndarray)):
        sequences = [sequences]
    rows = [arguments.integer(WHERE, "sequences", n) for n in sequences]
    if not rows or any(not 0 <= n < N for n in rows) or len(set(rows)) < len(rows):
        raise OptionError(f"{WHERE}: sequences must be some of 0 to N - 1 = {N - 1}, each once; got {rows}")
    if isinstance(names, str):
        names = [names]
    if names is not None and not names:
        raise OptionError(f"{WHERE}: names must be at least one; got none")
    if isinstance(steps, slice):
        steps = range(first + T)[steps]
    if isinstance(steps, range):
        steps = (steps.start, steps.stop) if steps.step == 1 and len(steps) else ()
    if steps is None:
        steps = (first, first + T)
    if not isinstance(steps, (tuple, list)) or len(steps) != 2:
        raise OptionError(f"{WHERE}: steps must be (start, stop), range(start, stop) or None for all; got {steps!r}")
    start, stop = (arguments.integer(WHERE, "steps", one) for one in steps)
    if not first <= start < stop <= first + T:
        raise OptionError(f"{WHERE}: steps must be within {first} to {first + T}; got {start} to {stop}")
    return Chosen(start - first, stop - first, rows, None if names is None else [str(name) for name in names])


def _largest(trace: Trace) -> int:
    """Return the sequence with the largest gradient of the states, of the outputs where there is none."""
    top = trace.top
    array = getattr(top, f"d{top.states[0]}" if top.latest.arrays else top.states[0])
    sizes = norm(np.swapaxes(np.where(np.isfinite(array), array, np.inf), 0, 1)).reshape(-1)
    return int(np.argmax(sizes))


def _length(trace: Trace, n: int) -> int:
    batch, recorded = trace.edge.batch, trace.top
    lengths = np.asarray(batch.lengths)
    return int(lengths[n if recorded.unsort is None else recorded.unsort[n]])


def _known(recorded: LayerTrace) -> list[str]:
    """Return the names of the arrays of a layer that a page can hold."""
    cell = recorded.chain.cell
    parts = [f"a_{gate}" for gate in cell.gate_names] if recorded.is_derived("a") and cell.gates > 1 else []
    return [*recorded.names, *(name for name in parts if name not in recorded.names)]


def _layer_names(recorded: LayerTrace, chosen: Chosen) -> list[str]:
    """Return the names of the arrays that a page holds of a layer: what was asked for, or what is recorded."""
    if chosen.names is not None:
        return [name for name in _known(recorded) if name in chosen.names]
    had = [name for name in recorded.names if not recorded.is_derived(name)]
    # A record such as dm_dc is no gradient of an array, and follows from two others by its equation.
    known = {f"d{name}" for name in recorded.names}
    return [
        name
        for name in had
        if name in known or name[:3] == "da_" or name == "da" or not recorded.is_gradient(name) or name.endswith("_in")
    ]


def _check_size(
    trace: Trace, chosen: Chosen, found: Sequence[Sequence[str]], runs: int, compact: bool, most: float
) -> bool:
    """Refuse a page that would be too large before it is made; return whether there is room for the weights."""
    most = arguments.positive_number(WHERE, "max_mb", most)
    T, S = chosen.stop - chosen.start, len(chosen.sequences)
    widths = [
        _width(one, name) for one, some in zip(trace.layers.values(), found, strict=True) for name in some
    ]  # fmt: skip
    each = (4 if compact else trace.top.arrays["x"].itemsize) * 4 / 3
    weights = sum(array.nbytes for one in trace.layers.values() for array in one.weights.values()) * 4 / 3
    size = runs * T * S * sum(widths) * each + FIXED
    if size <= most * 1e6:
        return bool(size + weights <= most * 1e6)
    twice = "2 runs x " if runs == 2 else ""
    raise OptionError(
        f"{WHERE}: the page would have about {size / 1e6:.3g} MB, more than max_mb = {most:g}: {twice}T = {T} steps x "
        f"{S} sequences x {sum(widths)} units in {len(widths)} arrays x {each:.1f} bytes = "
        f"{runs * T * S * sum(widths) * each / 1e6:.3g} MB, and {FIXED / 1e6:.2g} MB that every page has. Fewer steps, "
        "steps=(start, stop), fewer sequences, sequences=[n], or fewer arrays, names=[...], make it smaller; so does "
        "precision='compact'"
    )


def _width(recorded: LayerTrace, name: str) -> int:
    return int(_array(recorded, name, slice(0, 1)).shape[2])


def _array(recorded: LayerTrace, name: str, rows: slice = slice(None)) -> Array:
    """Return an array as a caller sees it; of a gate's pre-activations the part of a."""
    cell, H = recorded.chain.cell, recorded.chain.hidden
    if name not in recorded.names and name[:2] == "a_" and name[2:] in cell.gate_names:
        place = cell.gate_names.index(name[2:])
        whole: Array = recorded.a[rows, :, place * H : (place + 1) * H]
        return whole
    array: Array = getattr(recorded, name)[rows]
    return array


# ------------------------------------------------------------------------------------------------ a layer


def _layer(
    page: Contents,
    recorded: LayerTrace,
    names: Sequence[str],
    chosen: Chosen,
    conditions: Sequence[Any] | None,
    other: LayerTrace | None,
) -> dict[str, Any]:
    arrays = []
    following = {} if other is not None or page.compact else _following(recorded, names, chosen)
    for name in names:
        extra = int(recorded.is_state(name))
        rows = slice(chosen.start, chosen.stop + extra)
        array = _array(recorded, name, rows)[:, chosen.sequences]
        about = {"name": name, "width": array.shape[2], "state": bool(extra), "kind": _kind(recorded, name)}
        if name in following:
            about["made"] = following[name]
            if extra:
                about["initial"] = page.add(array[[-1 if recorded.reverse else 0]])
        else:
            about["block"] = page.add(array)
        if other is not None:
            about["other"] = page.add(_array(other, name, rows)[:, chosen.sequences])
        arrays.append(about)
    references: dict[str, Any] = {}
    said = _equations(page, recorded, names, chosen, references)
    for group in said:
        for _, tree in group["terms"]:
            _refer(page, recorded, names, chosen, references, _names(tree))
        references.setdefault(group["target"], None)
        _refer(page, recorded, names, chosen, references, [group["target"]])
    return {
        "name": recorded.name,
        "reverse": recorded.reverse,
        "first": recorded.first + chosen.start,
        "count": chosen.stop - chosen.start,
        "states": list(recorded.states),
        "backward": bool(recorded.latest.arrays),
        "reached": recorded.latest.reached if recorded.latest.arrays else recorded.reached,
        "arrays": arrays,
        "equations": said,
        "joined": _joined(recorded, names, said),
        "references": {name: one for name, one in references.items() if one is not None},
        "stops": _stops(recorded, chosen, conditions),
    }


def _kind(recorded: LayerTrace, name: str) -> str:
    """Say how an array is drawn: from 0 to 1, from 0 to its largest, signed about 0, or by the size of its entries."""
    cell = recorded.chain.cell
    if name in cell.sigmoids:
        return "share"
    if name in cell.from_loss:
        return "part"
    return "gradient" if recorded.is_gradient(name) else "signed"


def _equations(
    page: Contents, recorded: LayerTrace, held: Sequence[str], chosen: Chosen, references: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the equations by what they make: its name, their labels, the text, and the trees of the terms. What reads
    a memory, or what the page does not hold, goes along as numbers, under its text.
    """
    found = []
    rows = Rows(recorded, recorded.latest, range(chosen.start, chosen.stop))
    for target, said in targets(recorded).items():
        if rows.is_made(target):
            continue
        label, text = wording(recorded, target)
        before = incoming(recorded, target) if all(equation.adds for _, equation in said) else None
        terms = []
        for names, equation in said:
            whole = _Whole(recorded, rows, held, chosen.names is None)
            tree = whole.visit(Renamer(names).visit(_parsed(equation.right.text)))
            for name, array in whole.found.items():
                width = array.shape[2]
                block = page.add(np.ascontiguousarray(array[:, chosen.sequences]))
                references.setdefault(name, {"block": block, "width": width})
            terms.append([equation.label, _tree(tree)])
        # Of a further state, what a step hands back; the trace holds it together with what the step before adds.
        later = target[-5:] == "_prev" and target[1:-5] in recorded.states[1:]
        found.append(
            {"target": target, "labels": label, "text": text, "before": before, "later": later, "terms": terms}
        )
    return found


class _Whole(ast.NodeTransformer):
    """Puts a name, its own text, in place of what a browser does not compute: see `_equations`."""

    def __init__(self, recorded: LayerTrace, rows: Rows, held: Sequence[str], embeds: bool) -> None:
        self.recorded, self.rows, self.held, self.embeds = recorded, rows, held, embeds
        self.found: dict[str, Array] = {}

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Take a function of a memory whole."""
        if isinstance(node.func, ast.Name) and node.func.id in OF_MEMORY:
            return self._taken(node)
        return ast.Call(node.func, [self.visit(argument) for argument in node.args], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Take a product whole that is no weight times something that the page holds."""
        if not isinstance(node.op, ast.MatMult):
            return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))
        left = node.left.value if isinstance(node.left, ast.Attribute) else node.left
        weight = self.rows.value(left.id).array if isinstance(left, ast.Name) and left.id in self.rows else np.empty(0)
        right = Text("", node.right).names
        known = {*_known(self.recorded), "dinput", *self.recorded.states, *(f"{one}_prev" for one in self.held)}
        plain = weight.ndim == 2 and all(name in known or name.endswith(("_prev", "_in")) for name in right)
        hidden = [name for name in right if name in self.recorded.chain.cell.gradient_names and name not in self.held]
        return (
            node if plain and not [name for name in hidden if not self.recorded.is_derived(name)] else self._taken(node)
        )

    def _taken(self, node: ast.expr) -> ast.expr:
        text = ast.unparse(node)
        if self.embeds:
            try:
                array = evaluate(Text(text, node), self.rows).array
            except OptionError:  # of a backward pass that has not run
                return ast.Name(text, ast.Load())
            if array.ndim == 3:
                self.found[text] = array
        return ast.Name(text, ast.Load())


def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _tree(node: ast.expr) -> list[Any]:
    """Return an expression as lists: ["+", a, b], ["@", name, transposed, a], ["name", f], ["call", tanh, a], ["chain",
    "<", "<", a, b, c].
    """
    match node:
        case ast.Constant(value=value):
            return ["number", value]
        case ast.Name(id=name):
            return ["name", name]
        case ast.BinOp(left=ast.Attribute(value=ast.Name(id=name)), op=ast.MatMult(), right=right):
            return ["@", name, True, _tree(right)]
        case ast.BinOp(left=ast.Name(id=name), op=ast.MatMult(), right=right):
            return ["@", name, False, _tree(right)]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            return [OPERATORS[type(operator)], _tree(left), _tree(right)]
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in OPERATORS:
            return [OPERATORS[type(operator)], _tree(left), _tree(right)]
        case ast.Compare(left=left, ops=[first, second], comparators=[middle, right]):
            sides = [_tree(side) for side in (left, middle, right)]
            return ["chain", OPERATORS[type(first)], OPERATORS[type(second)], *sides]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return ["negative", _tree(operand)]
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as given):
            return ["call", name, *map(_tree, given)]
    return ["text", ast.unparse(node)]


def _names(tree: Any) -> list[str]:
    """Return the names in a tree."""
    if tree[0] == "name":
        return [tree[1]]
    found = [tree[1]] if tree[0] == "@" else []
    return found + [name for part in tree[1:] if isinstance(part, list) for name in _names(part)]


def _refer(
    page: Contents,
    recorded: LayerTrace,
    held: Sequence[str],
    chosen: Chosen,
    references: dict[str, Any],
    names: Sequence[str],
) -> None:
    """Say what names mean: an array that the page holds, a weight's rows, or what makes the array."""
    before, after = (1, 0) if recorded.reverse else (0, 1)
    rows = Rows(recorded, recorded.latest, range(chosen.start, chosen.stop))
    row = Rows(recorded, recorded.latest, range(chosen.start, chosen.start + 1))
    said = targets(recorded)
    for name in names:
        if references.get(name) is not None:
            continue
        bare = name.removesuffix("_prev")
        if name in held:
            references[name] = {"array": name, "row": after * recorded.is_state(name)}
        elif name != bare and bare in held and recorded.is_state(bare):
            references[name] = {"array": bare, "row": before}
        elif name in ("doutput_prev",) or name.endswith("_handed"):
            continue
        elif (weight := _weight(page, recorded, row, name)) is not None:
            references[name] = weight
        elif (tree := _made_by(recorded, said, name)) is not None:
            references[name] = {"tree": tree}
            _refer(page, recorded, held, chosen, references, _names(tree))
        elif name in row and name not in _known(recorded) and chosen.names is None:  # masks
            array = rows.value(name).array
            if array.ndim == 3:
                array = np.broadcast_to(array, (chosen.stop - chosen.start, *array.shape[1:]))
                references[name] = {"block": page.add(array[:, chosen.sequences]), "width": array.shape[2]}


def _weight(page: Contents, recorded: LayerTrace, rows: Rows, name: str) -> dict[str, Any] | None:
    """Return where a weight, a bias, or a gate's rows of one is: of equal ones, once. Too large ones stay out."""
    try:
        value = rows.value(name).array
    except OptionError:
        return None
    if value.ndim not in (1, 2):
        return None
    kept: dict[str, int] = page.header.setdefault("weights", {})
    cell, H = recorded.chain.cell, recorded.chain.hidden
    whole, start = name, 0
    for prefix, all_of in (("W_i", "W_ih"), ("W_h", "W_hh"), ("W_c", "W_ch")):
        if name not in recorded.weights and name[:3] == prefix and name[3:] in cell.gate_names:
            whole, start = all_of, cell.gate_names.index(name[3:]) * H
    if not page.weights and value.ndim == 2:
        return None
    key = f"{recorded.name} {whole}"
    if key not in kept:
        kept[key] = page.add(recorded.weights[whole] if whole != name else value, compact=False)
    return {"weight": kept[key], "start": start, "rows": value.shape[0], "columns": value.shape[1:]}


def _made_by(recorded: LayerTrace, said: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the tree of the equation of an array that the page does not hold; of `a_i`, of its gate's part."""
    if name in said and len(said[name]) == 1 and not said[name][0][1].adds:
        names, equation = said[name][0]
        tree = _tree(Renamer(names).visit(_parsed(equation.right.text)))
        return None if "text" in _operators(tree) else tree
    cell = recorded.chain.cell
    if name[:2] == "a_" and name[2:] in cell.gate_names and "a" in said:
        names, equation = said["a"][0]
        gate = name[2:]
        own = {"W_ih": f"W_i{gate}", "W_hh": f"W_h{gate}", "W_ch": f"W_c{gate}", "b": f"b_{gate}"}
        if any(one in recorded.weights and one not in own for one in equation.right.names):
            return None
        return _tree(Renamer({**names, **own}).visit(_parsed(equation.right.text)))
    return None


def _following(recorded: LayerTrace, names: Sequence[str], chosen: Chosen) -> dict[str, list[Any]]:
    """Return the equations of arrays that need not be in the page: products and sums of others in it, which give the
    very bits that are recorded. That they do is seen here; a browser's products and sums are the same.
    """
    if recorded.reached is not None or recorded.latest.reached is not None:
        return {}
    found: dict[str, list[Any]] = {}
    after = 0 if recorded.reverse else 1
    rows = Rows(recorded, recorded.latest, range(chosen.start, chosen.stop))
    for name, said in targets(recorded).items():
        if name not in names or len(said) > 1 or said[0][1].adds:
            continue
        tree = _made_by(recorded, targets(recorded), name)
        used = [] if tree is None else _names(tree)
        plain = tree is not None and not {"@", "call", "text", "/"} & set(_operators(tree))
        if (
            not plain
            or not used
            or any(one not in names or one in found or one == name or recorded.is_state(one) for one in used)
        ):
            continue
        first = chosen.start + (after if recorded.is_state(name) else 0)
        has = _array(recorded, name, slice(first, first + chosen.stop - chosen.start))
        if tree is not None and np.ascontiguousarray(total(rows, name).array).tobytes() == has.tobytes():
            found[name] = tree
    return found


def _operators(tree: Any) -> list[str]:
    """Return the kinds of the nodes of a tree, a power that is no square as a call."""
    own = "call" if tree[0] == "**" and tree[2] != ["number", 2] else tree[0]
    return [own, *(kind for part in tree[1:] if isinstance(part, list) for kind in _operators(part))]


def _joined(recorded: LayerTrace, held: Sequence[str], said: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return, of arrays that equations read and the page holds in parts, a gate's each, the names of the parts."""
    found = {}
    read = {name for group in said for _, tree in group["terms"] for name in _names(tree)}
    for name in sorted(read):
        if name in held or not (name in recorded.names and recorded.is_derived(name)):
            continue
        array, parts, start = _array(recorded, name), list[str](), 0
        while start < array.shape[2]:
            for part in held:
                own = _array(recorded, part) if part[:2] == name[:2] and not recorded.is_state(part) else None
                if own is not None and np.array_equal(own, array[:, :, start : start + own.shape[2]], equal_nan=True):
                    parts.append(part)
                    start += own.shape[2]
                    break
            else:
                break
        else:
            found[name] = parts
    return found


# ------------------------------------------------------------------------------------------------ what it points at


def _conditions(stops: Sequence[Any] | None) -> list[Any] | None:
    if stops is None:
        return None
    return [condition(one) for one in ([stops] if isinstance(stops, str) or callable(stops) else stops)]


def _stops(recorded: LayerTrace, chosen: Chosen, conditions: Sequence[Any] | None) -> list[dict[str, Any]]:
    """Return the first step of each stretch of steps at which a condition holds, in the order of the pass."""
    gradients, state = recorded.latest, recorded.states[0]
    if conditions is None:
        conditions = [non_finite(), jump(f"d{state}" if gradients.arrays else state)]
    reached = gradients.reached if gradients.arrays else recorded.reached
    rising = recorded.reverse == bool(gradients.arrays)
    indices = range(chosen.start, chosen.stop) if rising else range(chosen.stop - 1, chosen.start - 1, -1)
    if reached is not None:
        indices = indices[: indices.index(reached) + 1] if reached in indices else indices
    found = []
    with np.errstate(all="ignore"):
        for one in conditions:
            rows = Rows(recorded, gradients, indices)
            holds = one.holds(rows)
            begins = np.flatnonzero(holds & ~np.concatenate([[False], holds[:-1]]))
            for place in begins[:MARKS]:
                index = indices[place]
                at = Rows(recorded, gradients, range(index, index + indices.step, indices.step))
                evidence = one.evidence(at, 0)
                found.append({"t": index + recorded.first, "condition": str(one), "evidence": evidence})
    return sorted(found, key=lambda stop: stop["t"], reverse=not rising)


def _gradients(result: BackwardResult | None) -> list[dict[str, Any]]:
    """Return a row for each gradient of a parameter: name, shape, norm, count of what is not finite."""
    if result is None:
        return []
    return [
        {
            "name": name,
            "shape": list(grad.shape),
            "norm": repr(float(norm(grad[None]).reshape(()))),
            "bad": int(grad.size - np.isfinite(grad).sum()),
        }
        for name, grad in result.grads.items()
    ]


def _tables(trace: Trace, tk: Any) -> dict[str, Array]:
    """Return the matrices (t, k) by layer."""
    if tk is None:
        return {}
    given = tk if isinstance(tk, Mapping) else {trace.top.name: tk}
    T = len(trace.top)
    for name in given:
        if name not in trace.layers:
            raise OptionError(f"{WHERE}: tk[{name!r}]: layers and directions are {', '.join(map(repr, trace.layers))}")
    return {
        name: arguments.shaped(
            WHERE, f"tk[{name!r}]", arguments.as_array(WHERE, "tk", table), "(T, T)", (T, T), "Row t, column k: norms"
        ).astype(np.float64)
        for name, table in given.items()
    }


def _table(page: Contents, table: Array, chosen: Chosen) -> dict[str, Any]:
    """Return a matrix (t, k) of the chosen steps; a large one as the largest entries of tiles."""
    table = table[chosen.start : chosen.stop, chosen.start : chosen.stop]
    size = -(-len(table) // TILES)
    if size > 1:
        padded = np.full((-len(table) % size + len(table),) * 2, -np.inf)
        padded[: len(table), : len(table)] = np.where(np.isnan(table), np.inf, table)
        count = len(padded) // size
        table = padded.reshape(count, size, count, size).max(axis=(1, 3))
    return {"block": page.add(table, compact=False), "size": len(table), "tile": size}
