"""Where a NaN comes from, and where two runs part: entries in the order in which they were computed.

Forward, layer by layer and step by step, the lines of a step in their order; then the same backward; then the sums over
t. An infinity in x need not show in any output or gradient of a step: gates saturate, and 0 * inf appears in the sum
dW_ih alone. So the search begins at what goes in, not at what comes out.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.debug.expressions import Text, evaluate, sources, ulps
from rnn_numpy.debug.rows import Renamer, Rows, incoming, targets, wording
from rnn_numpy.debug.stepper import Stepper, recurrent
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent
from rnn_numpy.engine.trace import NOTHING, GradientPass, LayerTrace, Trace
from rnn_numpy.errors import OptionError, ShapeError

Array = NDArray[Any]


FIRST, LAST = 10, 6  # arrays that an `Origin` lists in print


class Place(NamedTuple):
    """One array of a pass where its rows were computed: of one step, or `t` None for what is not of a step."""

    layer: str
    t: int | None
    name: str

    def __str__(self) -> str:
        return f"{self.layer}{'' if self.t is None else f' t = {self.t}'} {self.name}"


@dataclass
class Origin:
    """The first non-finite entry of a run, in order of execution.

    Attributes
    ----------
    place : Place
    index : tuple of int
        Which entry of it: (n, unit) of a row of a step.
    value : float
    line : str
        The equation that made it; "" for what went in, or a sum over t.
    operands : dict of str to float
        What this equation read, all finite, at that entry; of a matrix product the largest term's two factors.
    came_in : str
        What was there before the equation added to it, where that is not finite: "doutput_prev", from the loss.
    spoils : dict of str to int
        By array, as "l0 dh", the number of entries that are not finite.
    stops : list of str
        At the same step, lines that read something not finite and are finite.
    stands : list of str
        Passes that are not through, as "backward pass of l0 at t = 38": what they have not reached is not looked at.
    """

    place: Place
    index: tuple[int, ...]
    value: Any
    line: str = ""
    operands: dict[str, Any] = field(default_factory=dict)
    came_in: str = ""
    spoils: dict[str, int] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    stands: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        where = f"{self.place}[{', '.join(map(str, self.index))}] = {self.value}"
        made = f"made by {self.line}" if self.line else "it went in so" if self.place.t is not None else ""
        if self.place.name.startswith("d") and not self.line:
            made = "no step made it: it came from the loss, or in the sum over t"
        read = ", ".join(f"{name} = {value:.4g}" for name, value in self.operands.items())
        lines = [where + (f", {made}" if made else "")]
        if self.came_in:
            lines.append(f"  not finite is {self.came_in}; what the equation adds is finite")
        if read:
            lines.append(f"  read: {read}, all finite")
        if self.spoils:
            said = [f"{name} ({count})" for name, count in self.spoils.items()]
            if len(said) > FIRST + LAST + 1:  # the first, in order of execution, and the last, the sums over t
                said = [*said[:FIRST], f"{len(said) - FIRST - LAST} more", *said[-LAST:]]
            lines.append("  spoils: " + ", ".join(said))
        lines += [f"  stopped by {stop}" for stop in self.stops]
        lines += [f"  not through: {one}; no step beyond is looked at" for one in self.stands]
        return "\n".join(lines)


def first_non_finite(layer: Recurrent, trace: Trace, result: BackwardResult | None = None) -> Origin | None:
    """Return where the first NaN or infinity of a run came about; None where all is finite.

    Of a pass that is not through, the steps that it has reached are searched.

    Parameters
    ----------
    layer : Recurrent
    trace : Trace
        Of a forward pass; after a backward pass on it, its gradients are searched as well.
    result : BackwardResult, optional
        Of that pass, for the sums over t.

    Returns
    -------
    Origin or None

    Examples
    --------
    An infinite input of which no output knows, and no gradient of a step:

    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> lstm, x = LSTM(1, 2, rng=0), np.ones((5, 1, 1))
    >>> x[3] = np.inf
    >>> output, h_n, trace = lstm.forward(x)
    >>> with np.errstate(invalid="ignore"):
    ...     back = lstm.backward(trace, np.ones((5, 1, 2)))
    >>> bool(np.isfinite(output).all()), int(np.isnan(back.grads["weight_ih_l0"]).sum())
    (True, 8)
    >>> first_non_finite(lstm, trace, back)
    l0 t = 3 x[0, 0] = inf, it went in so
      spoils: l0 x (1), l0 a (8), grads weight_ih_l0 (8)
      stopped by i = sigmoid(a_i)
      stopped by f = sigmoid(a_f)
      stopped by g = tanh(a_g)
      stopped by o = sigmoid(a_o)
    """
    _checked("debug.first_non_finite", layer, trace, result)
    with np.errstate(all="ignore"):
        return _searched(trace, result)


def _searched(trace: Trace, result: BackwardResult | None) -> Origin | None:
    found: Origin | None = None
    spoils: dict[str, int] = {}
    stands = []
    for recorded, names, rows in _walk(trace):
        first: tuple[int, str] | None = None
        if (halted := _halted(recorded, rows.gradients)) is not None:
            stands.append(halted)
        for name in names if rows.indices else ():
            bad = ~np.isfinite(rows.value(name).array)
            if not bad.any():
                continue
            spoils[f"{recorded.name} {name}"] = int(bad.sum())
            k = int(np.flatnonzero(bad.any(axis=(1, 2)))[0])
            if first is None or k < first[0]:
                first = k, name
        fixed = {**recorded.weights, **_memory(recorded)} if rows.gradients is NOTHING else {}
        for name, array in fixed.items():
            if not np.isfinite(array).all():
                spoils[f"{recorded.name} {name}"] = int((~np.isfinite(array)).sum())
                if found is None:
                    index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                    found = Origin(Place(recorded.name, None, name), index, array[index])
        if first is not None and found is None:
            found = _origin(recorded, rows, *first, is_top=_is_top(recorded, trace))
    if result is not None:
        dx = result.dx.padded()[0] if isinstance(result.dx, PackedSequence) else result.dx
        for name, array in (("dx", dx), *((f"grads {key}", value) for key, value in result.grads.items())):
            bad = ~np.isfinite(np.asarray(array))
            if bad.any():
                spoils[name] = int(bad.sum())
                if found is None:
                    index = tuple(int(i) for i in np.argwhere(bad)[0])
                    found = Origin(Place("", None, name), index, np.asarray(array)[index])
    if found is not None:
        found.spoils, found.stands = spoils, stands
    return found


def _memory(recorded: LayerTrace) -> dict[str, Array]:
    """Return what a layer attends to, (N, S, ·), in the caller's order."""
    sort = slice(None) if recorded.unsort is None else recorded.unsort
    return {name: array[sort] for name, array in recorded.given.items()}


def _origin(recorded: LayerTrace, rows: Rows, k: int, name: str, is_top: bool) -> Origin:
    """Return what is to be said of the first non-finite array of a layer, at place k of its rows."""
    array = rows.value(name).array[k]
    n, unit = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
    index = rows.indices[k]
    at = Rows(rows.trace, rows.gradients, range(index, index + rows.indices.step, rows.indices.step), rows.kept)
    origin = Origin(Place(recorded.name, index + recorded.first, name), (n, unit), array[n, unit])
    of_target = targets(recorded)
    if name in of_target:
        origin.line = wording(recorded, name)[1]
        for names, equation in of_target[name]:
            here = at.renamed(names)
            alone, products = _parts(equation.right.tree)
            for operand in alone:
                value = here.value(operand).array
                if value.ndim == 3 and value.shape[1:] == array.shape:
                    origin.operands[names.get(operand, operand)] = value[0, n, unit]
            for product in products:
                origin.operands |= _largest_term(product, here, n, unit)
        origin.came_in = _came_in(at, name, n, unit, is_top)
    for target, said in of_target.items():
        for names, equation in said:
            if target not in at or not np.isfinite(at.value(target).array).all():
                continue
            read = [at.renamed(names).value(operand).array for operand in equation.right.names if operand in at]
            if any(not np.isfinite(one).all() for one in read):
                origin.stops.append(str(equation))
    return origin


def _parts(tree: ast.expr) -> tuple[list[str], list[ast.BinOp]]:
    """Return the names in an equation that stand for entries of their own, and its matrix products."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.MatMult):
        return [], [tree]
    if isinstance(tree, ast.Name):
        return [tree.id], []
    parts = [_parts(node) for node in ast.iter_child_nodes(tree) if isinstance(node, ast.expr)]
    if isinstance(tree, ast.Call):
        parts = parts[1:]  # without the function's name
    return [name for names, _ in parts for name in names], [one for _, products in parts for one in products]


def _largest_term(product: ast.BinOp, rows: Rows, n: int, unit: int) -> dict[str, Any]:
    """Return the factors of the largest term of a weight times a step's array, under their names and places."""
    W, h = (evaluate(Text("", side), rows).array for side in (product.left, product.right))
    if (W.ndim, h.ndim) != (2, 3):
        return {}
    j = int(np.argmax(abs(W[unit] * h[0, n])))
    left, right = (sources(Renamer(rows.names).visit(copy.deepcopy(side))) for side in (product.left, product.right))
    right = right if isinstance(product.right, ast.Name) else f"({right})"
    return {f"{left}[{unit}, {j}]": W[unit, j], f"{right}[{n}, {j}]": h[0, n, j]}


def _came_in(at: Rows, name: str, n: int, unit: int, is_top: bool) -> str:
    """Say what a sum has held before its equations, if they add what is finite, and together with it is not."""
    before, said = incoming(at.trace, name), targets(at.trace)[name]
    if before is None or not all(equation.adds for _, equation in said):
        return ""
    added = sum(evaluate(equation.right, at.renamed(names)).array[0, n, unit] for names, equation in said)
    return _outside(at, name, n, is_top) if np.isfinite(added) else ""


def _is_top(recorded: LayerTrace, trace: Trace) -> bool:
    """Whether a layer's output is what the loss reads."""
    return recorded.layer == max(one.layer for one in trace.layers.values())


def _outside(at: Rows, name: str, n: int, is_top: bool) -> str:
    """Say what a sum of a backward pass has held before its equations add to it."""
    before = str(incoming(at.trace, name))
    if before == "doutput_prev":
        return f"{before}, {'doutput of the loss' if is_top else 'from the layer above'}"
    if before.endswith("_loss"):
        return f"{before}, drecords of the loss"
    return f"{before}, d{name[1:]}_n of the loss" if at.ends(n) else f"{before}, from the step after"


def _walk(trace: Trace) -> Iterator[tuple[LayerTrace, list[str], Rows]]:
    """Yield the layers as the passes run through them, forward and then backward: the names of their arrays in the
    order of a step, and their rows in the order of time of the pass.
    """
    layers = list(trace.layers.values())
    for recorded in layers:
        yield recorded, _forward_names(recorded), _all_rows(recorded, NOTHING)
    for recorded in sorted(layers, key=lambda one: -one.layer):  # of a layer the forward direction first, here as well
        if recorded.latest.arrays:
            yield recorded, _gradient_names(recorded), _all_rows(recorded, recorded.latest)


def _all_rows(recorded: LayerTrace, gradients: GradientPass) -> Rows:
    """Return all rows that a pass has reached, in its order: what it has not is memory that nobody has written."""
    T = len(recorded)
    rising = recorded.reverse == bool(gradients.arrays)
    indices = range(T) if rising else range(T - 1, -1, -1)
    reached = gradients.reached if gradients.arrays else recorded.reached
    if reached is not None:
        indices = indices[: reached + 1 if rising else max(T - reached, 0)]
    return Rows(recorded, gradients, indices)


def _halted(recorded: LayerTrace, gradients: GradientPass) -> str | None:
    """Say where a pass stands that is not through."""
    reached, kind = (gradients.reached, "backward") if gradients.arrays else (recorded.reached, "forward")
    if reached is None:
        return None
    begun = 0 <= reached < len(recorded)
    return f"{kind} pass of {recorded.name} {f'at t = {reached + recorded.first}' if begun else 'not begun'}"


def _forward_names(recorded: LayerTrace) -> list[str]:
    """Return the names of what a step reads and then writes, in the order of its lines."""
    had = [name for name in recorded.names_of(NOTHING) if name not in recorded.states]
    read = ["x", *(f"{state}_prev" for state in recorded.states)]
    lines = [name for name in targets(recorded) if name in {*had, *recorded.states}]
    return list(dict.fromkeys([*read, *(name for name in lines if name[:1] != "d"), *had, *recorded.states]))


def _gradient_names(recorded: LayerTrace) -> list[str]:
    """Return the names of what backward reads and then writes."""
    had = [name for name in recorded.names if name not in recorded.names_of(NOTHING)]
    first = f"d{recorded.states[0]}"
    lines = [name for name in targets(recorded) if name in had]
    return list(dict.fromkeys([first, *lines, *had, *(f"d{state}_prev" for state in recorded.states)]))


# ------------------------------------------------------------------------------------------------ two runs


@dataclass
class Difference:
    """The first entry in which two runs differ, in order of execution.

    Attributes
    ----------
    place : Place
    index : tuple of int
        (n, unit).
    values : tuple of float
        In the one run and in the other.
    ulps : float
        Floating-point numbers between them, of the coarser dtype.
    inherited : bool
        Whether something that made it differs, too: what came in from elsewhere. Otherwise it arises here.
    came_in : str
        What of that the loss says: "doutput_prev". A trace does not keep it: it is what the equation cannot explain.
    line : str
        The equation that made it; "" for what went in.
    stands : list of str
        Passes that are not through, as "backward pass of l0 at t = 38": compared is what both have done.
    """

    place: Place
    index: tuple[int, ...]
    values: tuple[Any, Any]
    ulps: float
    inherited: bool
    line: str = ""
    stands: list[str] = field(default_factory=list)
    came_in: str = ""

    def __repr__(self) -> str:
        a, b = self.values
        how = "inherited" if self.inherited else "arises here"
        how += f": {self.came_in} differs" if self.came_in else ""
        line = f", {self.line}" if self.line else ""
        where = f"{self.place}[{', '.join(map(str, self.index))}]"
        said = f"{where}: {a!s} and {b!s}, {self.ulps:.3g} ulp, {how}{line}"  # all digits, without NumPy's name
        return "\n".join([said, *(f"  not through: {one}; compared is what both have done" for one in self.stands)])


def diff(a: Trace | Stepper, b: Trace | Stepper, within: float = 0) -> Difference | None:
    """Return the first difference of two runs of the same shapes; None where there is none.

    Parameters
    ----------
    a, b : Trace
        Of two passes: of two builds of a library, two dtypes, before and after a change. Gradients are compared where
        a backward pass has run on both. Or two of `Stepper`, forks for one. Passes that are not through are compared
        as far as both have come.
    within : float
        Entries that are at most so many floating-point numbers apart, of the coarser dtype, count as equal.

    Raises
    ------
    ShapeError, OptionError
        The runs are not of the same layers, steps and sequences.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import GRU
    >>> gru, x = GRU(1, 2, rng=0), np.ones((5, 1, 1))
    >>> _, _, a = gru.forward(x)
    >>> x[3] += np.spacing(1.0)
    >>> _, _, b = gru.forward(x)
    >>> diff(a, b)
    l0 t = 3 x[0, 0]: 1.0 and 1.0000000000000002, 1 ulp, arises here
    >>> diff(a, a) is None
    True
    """
    apart = arguments.not_negative("debug.diff", "within", within)
    if isinstance(a, Stepper) and isinstance(b, Stepper):
        return _diff_of_passes(a, b, apart)
    if not (isinstance(a, Trace) and isinstance(b, Trace)):
        got = f"{type(a).__name__} and {type(b).__name__}"
        raise OptionError(f"debug.diff: a and b must be two traces, or two Steppers; got {got}")
    if list(a.layers) != list(b.layers):
        raise OptionError(f"debug.diff: a and b must be of the same layers; got {list(a.layers)} and {list(b.layers)}")
    for mine, theirs in zip(a.layers.values(), b.layers.values(), strict=True):
        kinds = [(each.states, each.chain.cell.gate_names) for each in (mine, theirs)]
        if kinds[0] != kinds[1]:
            words = " and ".join(f"states {states}, gates {gates}" for states, gates in kinds)
            raise OptionError(f"debug.diff: a and b must be of one kind of layer; {mine.name} has {words}")
        for name, array in _memory(mine).items():
            found = _memory_apart(mine.name, name, array, _memory(theirs).get(name), apart)
            if found is not None:
                return found
    _same_lengths(a, b)
    with np.errstate(all="ignore"):
        others = {(each[0].name, bool(each[2].gradients.arrays)): each for each in _walk(b)}
        for one in _walk(a):
            other = others.get((one[0].name, bool(one[2].gradients.arrays)))
            if other is None:  # backward where both have been
                continue
            if len(one[0]) != len(other[0]):
                raise ShapeError(
                    f"debug.diff: a and b must have the same steps; {one[0].name} has T = {len(one[0])} and "
                    f"{len(other[0])}"
                )
            found = _parting(one[0], one[1], *_common(one[2], other[2]), other[1], apart, _is_top(one[0], a))
            if found is not None:
                return found
    return None


def _same_lengths(a: Trace, b: Trace) -> None:
    """Refuse runs over sequences of other lengths: rows past an end are no results."""
    lengths = []
    for batch in (a.edge.batch, b.edge.batch):
        full = np.full(batch.N, batch.T) if batch.lengths is None else batch.lengths
        lengths.append(batch.unsorted(np.asarray(full), 0))
    if (a.edge.batch.N, a.edge.batch.T) == (b.edge.batch.N, b.edge.batch.T) and (lengths[0] != lengths[1]).any():
        raise ShapeError(
            f"debug.diff: a and b must have sequences of the same lengths, (N,); got {lengths[0].tolist()} and "
            f"{lengths[1].tolist()}"
        )


def _common(one: Rows, other: Rows) -> tuple[Rows, Rows]:
    """Return the rows of the steps that both passes have done."""
    both = min(len(one.indices), len(other.indices))
    first, second = (Rows(side.trace, side.gradients, side.indices[:both], side.kept) for side in (one, other))
    return first, second


def _unfinished(one: Rows, other: Rows) -> list[str]:
    """Return what two passes that stand at different steps have not both done at their last common step: a gradient of
    a further state still lacks, in the pass that stands there, what comes through the first.
    """
    passes = one.gradients, other.gradients
    if not passes[0].arrays or passes[0].reached == passes[1].reached or one.kept.handed:
        return []
    return [f"d{state}_prev" for state in one.trace.states[1:]]


def _memory_apart(layer: str, name: str, one: Array, other: Array | None, within: float) -> Difference | None:
    """Return the first difference of what two runs attend to."""
    if other is None or one.shape != other.shape:
        got = "none" if other is None else other.shape
        raise ShapeError(f"debug.diff: a and b must have the same shapes; {layer} has {name} {one.shape} and {got}")
    kind = one.dtype if one.dtype.kind in "fc" else np.dtype(float)  # a mask
    between = ulps(one.astype(kind), other.astype(kind) if other.dtype.kind not in "fc" else other)
    if not (between > within).any():
        return None
    index = tuple(int(i) for i in np.argwhere(between > within)[0])
    return Difference(Place(layer, None, name), index, (one[index], other[index]), float(between[index]), False)


def _diff_of_passes(a: Stepper, b: Stepper, apart: float) -> Difference | None:
    """Return the first difference of two passes in the steps that both have done."""
    if list(a.trace.layers) != list(b.trace.layers):
        raise OptionError(
            f"debug.diff: a and b must be of the same layers; got {list(a.trace.layers)} and {list(b.trace.layers)}"
        )
    _same_lengths(a.trace, b.trace)
    with np.errstate(all="ignore"):
        others = b.done()
        for name, rows in a.done().items():
            if name not in others:
                break
            one, other = _common(rows, others[name])
            names = _gradient_names(one.trace) if one.gradients.arrays else _forward_names(one.trace)
            if one.indices != other.indices:
                raise OptionError("debug.diff: a and b must be passes of one kind over the same steps")
            found = _parting(one.trace, names, one, other, names, apart, _is_top(one.trace, a.trace))
            if found is not None:
                found.stands = []  # a Stepper is halted: that is what it is for
                return found
    return None


def _parting(
    recorded: LayerTrace, names: list[str], rows: Rows, other: Rows, others: list[str], apart: float, is_top: bool
) -> Difference | None:
    """Return the first difference within one layer's pass."""
    first: tuple[int, str, Array, Array, Array] | None = None
    for name in names if rows.indices else ():
        if name not in others:
            continue
        x, y = rows.value(name).array, other.value(name).array
        if name in _unfinished(rows, other):  # the one has yet to add to its last row
            x, y = x[:-1], y[:-1]
        if x.shape != y.shape:
            raise ShapeError(
                f"debug.diff: a and b must have the same shapes; {recorded.name} has {name} of (N, units) = "
                f"{x.shape[1:]} and {y.shape[1:]}"
            )
        between = ulps(x, y)
        steps = np.flatnonzero((between > apart).any(axis=(1, 2)))
        if len(steps) and (first is None or steps[0] < first[0]):
            first = int(steps[0]), name, x, y, between
    if first is None:
        return None
    k, name, x, y, between = first
    stands = [at for side in (rows, other) if (at := _halted(side.trace, side.gradients)) is not None]
    n, unit = (int(i) for i in np.argwhere(between[k] > apart)[0])
    index = rows.indices[k]
    place = Place(recorded.name, index + recorded.first, name)
    found = Difference(place, (n, unit), (x[k, n, unit], y[k, n, unit]), float(between[k, n, unit]), False)
    found.stands = list(dict.fromkeys(stands))
    said = targets(recorded).get(name)
    if said:
        found.line = wording(recorded, name)[1]
        for equation_names, equation in said:
            for operand in equation.right.names:
                sides = [side.renamed(equation_names) for side in (rows, other)]
                if all(operand in side for side in sides):
                    values = [side.value(operand).array for side in sides]
                    values = [value[k] if value.ndim == 3 else value for value in values]
                    found.inherited = found.inherited or bool((ulps(*values) > apart).any())
    if not found.inherited and rows.gradients.arrays:
        here, there = (
            Rows(side.trace, side.gradients, range(index, index + side.indices.step, side.indices.step), side.kept)
            for side in (rows, other)
        )
        found.came_in = _loss_apart(here, there, name, n, unit, apart, is_top)
        found.inherited = bool(found.came_in)
    return found


def _loss_apart(one: Rows, other: Rows, name: str, n: int, unit: int, apart: float, is_top: bool) -> str:
    """Return what the loss says of an entry, if that makes the difference: all else that made it is the same."""
    if name == f"d{one.trace.states[0]}" and name not in targets(one.trace):
        return f"{'doutput' if is_top else 'what the layer above hands down'} or {name}_n"
    before, said = incoming(one.trace, name), targets(one.trace).get(name, [])
    if before is None or not all(equation.adds for _, equation in said):
        return ""
    sides = (one, other)
    if all(before in side for side in sides):
        values = [side.value(before).array[0, n, unit] for side in sides]
        if not any(np.isnan(value) for value in values):
            differ = ulps(np.array(values[0]), np.array(values[1])) > apart
            return _outside(one, name, n, is_top) if differ else ""
    # Nobody keeps it. Equal terms in another order of additions differ by rounding; by more, what they are added to.
    arrays = [side.value(name).array for side in sides]
    terms = [evaluate(equation.right, one.renamed(names), bounded=True) for names, equation in said]
    bound = sum(np.broadcast_to(term.bound, arrays[0].shape)[0, n, unit] for term in terms)
    values = [array[0, n, unit] for array in arrays]
    eps = max(np.finfo(array.dtype).eps for array in arrays)
    rounding = eps * (2 * bound + sum(abs(value) for value in values))
    return _outside(one, name, n, is_top) if not abs(values[0] - values[1]) <= rounding else ""


def _checked(where: str, layer: Any, trace: Any, result: Any) -> None:
    recurrent(where, layer)
    if not isinstance(trace, Trace):
        raise OptionError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
    trace.edge.checked(where, layer)
    if result is not None:
        of_trace(where, layer, trace, result)


def of_trace(where: str, layer: Recurrent, trace: Trace, result: Any) -> None:
    """Refuse a result that is not of the latest backward pass on a trace."""
    if not isinstance(result, BackwardResult):
        raise OptionError(f"{where}: result must be what backward returned, or None; got {type(result).__name__}")
    of_layer = {name: array.shape for name, array in layer.params.items()}
    shapes = {name: array.shape for name, array in result.grads.items()}
    for name in [*of_layer, *shapes]:
        if of_layer.get(name) != shapes.get(name):
            raise ShapeError(
                f"{where}: result is not of this layer: its gradient of {name} has shape {shapes.get(name, 'none')}, "
                f"the parameter {of_layer.get(name, 'none')}"
            )
    trace.edge.like_input(where, "result.dx", result.dx)
    if not all(recorded.latest.arrays and recorded.latest.reached is None for recorded in trace.layers.values()):
        if any(recorded.latest.arrays for recorded in trace.layers.values()):
            return  # a later pass is halted on it
        raise OptionError(f"{where}: no backward pass has run on this trace: result is of another one")
    batch, states = trace.edge.batch, next(iter(trace.layers.values())).states
    for state, width in zip(states, trace.edge.widths.values(), strict=True):
        first = np.empty((len(trace.layers), batch.N, width), trace.edge.dtype)
        for row, recorded in zip(first, trace.layers.values(), strict=True):
            last = len(recorded) if batch.lengths is None else batch.lengths
            row[...] = recorded.stored(f"d{state}")[last if recorded.reverse else 0, np.arange(batch.N)]
        (expected,) = trace.edge.states_out([first])
        got = np.asarray(getattr(result, f"d{state}_0", None))
        if got.shape != expected.shape or not np.array_equal(got, expected, equal_nan=True):
            raise OptionError(
                f"{where}: result is not of the latest backward pass on this trace: d{state}_0 is another. Hand in "
                "what backward(trace, ...) returned last"
            )
