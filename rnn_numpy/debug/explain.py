"""An equation with its numbers in place."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.debug.expressions import OF_MEMORY, Text, Value, evaluate, sources, ulps
from rnn_numpy.debug.frames import Running
from rnn_numpy.debug.rows import NOTHING_KEPT, Halted, Renamer, Rows, incoming, is_whole, targets, total, wording
from rnn_numpy.engine.trace import NOTHING, Step
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

LARGEST = 3  # terms of a product that are shown


def rows_of(step: Step) -> Rows:
    """Return the names of an expression at one step."""
    trace, index = step.recorded, step.index
    gradients = step.gradients or trace.latest
    direction = -1 if (not gradients.arrays) == trace.reverse else 1
    kept = step.kept if isinstance(step, Halted) else NOTHING_KEPT
    return Rows(trace, gradients if gradients.arrays else NOTHING, range(index, index + direction, direction), kept)


def explain(step: Step, name: str, unit: int = 0, n: int = 0) -> str:
    """Return the equation that makes one entry of a step, with the numbers in place.

    Parameters
    ----------
    step : Step
        Of a trace, or where a `Stepper` stands; this one also knows what the output adds to `dh_prev`.
    name : str
        What the equation makes: "c", "da_f", "dh_prev".
    unit, n : int
        The entry.

    Returns
    -------
    str
        The equation, the numbers, the result, what is recorded and how many units in the last place they differ; below,
        the largest terms of each matrix product.

    Raises
    ------
    OptionError
        The cell has no equation of `name`; there is no such entry.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import RNN
    >>> rnn = RNN(1, 2, rng=0)
    >>> output, h_n, trace = rnn.forward(np.ones((3, 1, 1)))
    >>> back = rnn.backward(trace, np.ones((3, 1, 2)))
    >>> print(explain(trace[1], "da", unit=1))
    l0  t = 1  n = 0  unit 1   B2
    da = dh * (1 - h ** 2)
       = 0.5662 * (1 - 0.802 ** 2)
       = 0.202   recorded 0.202, 0 ulp
    """
    if not isinstance(step, Step):
        raise OptionError(f"debug.explain: step must be a Step, as trace[t]; got {type(step).__name__}")
    if not isinstance(name, str):
        raise OptionError(f"debug.explain: name must be that of an array of a step, as 'dh_prev'; got {name!r}")
    unit, n = (arguments.integer("debug.explain", title, value) for title, value in (("unit", unit), ("n", n)))
    _reached(step, name)
    rows, found = rows_of(step), targets(step.recorded)
    if name == f"d{step.recorded.states[0]}" and name not in found and name in rows:
        return _explain_first(step, rows, name, unit, n)
    if name not in found and "a" in found and (gate := rows.gate(name)) is not None:
        if not 0 <= unit < gate.stop - gate.start:
            H = gate.stop - gate.start
            raise OptionError(f"debug.explain: {name} has (N, units) = (N, {H}); got n = {n}, unit = {unit}")
        return explain(step, "a", gate.start + unit, n)
    if name not in found:
        has = ", ".join(found) if found else "none: `Cell.equations` is empty"
        raise OptionError(f"debug.explain: there is no equation of {name!r} in {step.recorded.name}; there are {has}")
    recorded = rows.value(name).array[0]
    if recorded.ndim != 2:
        raise OptionError(
            f"debug.explain: {name} has (N, S, units) = {recorded.shape}, and no trace keeps it; ask for what reads it"
        )
    if not (0 <= n < recorded.shape[0] and 0 <= unit < recorded.shape[1]):
        raise OptionError(f"debug.explain: {name} has (N, units) = {recorded.shape}; got n = {n}, unit = {unit}")
    said, before = found[name], None
    if all(equation.adds for _, equation in said):
        before = incoming(step.recorded, name)
    terms = [_numbers(equation.right, rows.renamed(names), n, unit) for names, equation in said]
    notes = [note for names, equation in said for note in _products(equation.right, rows.renamed(names), n, unit)]
    has = recorded[n, unit]
    if before is not None:
        value, known = _incoming(rows, name, before, n, unit)
        terms.insert(0, _operand(value))
        if not is_whole(step.recorded, name):
            notes.insert(0, f"{before} is the rest of what is recorded: parts without equations add to it, too")
        elif not known:
            who = "the trace does not keep it, a Stepper does"
            if rows.kept.doutput is not None:
                who = "it came from the layer above, and nobody keeps it at a layer's first step"
            notes.insert(0, f"{before} is the rest of what is recorded: {who}")
    if len(terms) == 1:
        terms = [re.sub(r"^\((-[^()]*|[^()]*j)\)$", r"\1", terms[0])]  # a number alone
    result = _total(rows, name, before, n, unit)
    labels, text = wording(step.recorded, name)
    pad = " " * len(name)
    lines = [
        f"{step.recorded.name}  t = {step.t}  n = {n}  unit {unit}   {labels}",
        text,
        f"{pad} = {' + '.join(terms)}",
    ]
    exists = step.recorded.exists(step.index)
    ended = exists is not None and not exists[n, 0]
    if ended:
        lines.append(f"{pad}   recorded {_number(has)}")
    elif name in rows.kept.written.get(step.index, ()):
        lines.append(
            f"{pad} = {_number(result)}   recorded {_number(has)}: it was written here"
            if result is not None
            else f"{pad} = {_number(has)}   recorded: it was written here"
        )
    elif result is None or np.isnan(result) != np.isnan(has):
        lines.append(f"{pad} = {_number(has)}   recorded")
    else:
        apart = float(ulps(np.array([result], recorded.dtype), np.array([has]))[0])
        lines.append(f"{pad} = {_number(result)}   recorded {_number(has)}, {apart:.3g} ulp")
    if ended:
        lines.append(f"sequence n = {n} has no step {step.t}: it has ended, and no equation made what is recorded")
    if isinstance(step, Running) and (not rows.gradients.arrays or name[:1] == "d"):
        lines.append("the step is being computed: a line that has not run has left what is recorded as it came in")
    for other in rows.kept.written.get(step.index, ()):
        if other != name and any(names.get(one, one) == other for names, line in said for one in line.right.names):
            lines.append(f"{other} was written after this")
    return "\n".join(lines + notes)


def _reached(step: Step, name: Any) -> None:
    """Refuse what a pass that is not through has not computed: there is memory, but no numbers."""
    trace, gradients = step.recorded, step.gradients or step.recorded.latest
    goes_back = isinstance(name, str) and bool(gradients.arrays) and trace.is_gradient(name.removesuffix("_prev"))
    reached, kind = (gradients.reached, "backward") if goes_back else (trace.reached, "forward")
    if reached is None or name == "x":
        return
    rising = trace.reverse == goes_back
    if not (step.index <= reached if rising else step.index >= reached):
        at = f"stands at t = {reached + trace.first}" if 0 <= reached < len(trace) else "has not begun"
        raise OptionError(f"debug.explain: step {step.t} has no {name} yet: the {kind} pass of {trace.name} {at}")


def _explain_first(step: Step, rows: Rows, name: str, unit: int, n: int) -> str:
    """Explain the gradient of the first state: what the step visited before handed back, or, at a sequence's last step,
    what the loss says of the output and of the final state.
    """
    recorded = rows.value(name).array[0]
    if not (0 <= n < recorded.shape[0] and 0 <= unit < recorded.shape[1]):
        raise OptionError(f"debug.explain: {name} has (N, units) = {recorded.shape}; got n = {n}, unit = {unit}")
    has, where = recorded[n, unit], f"{step.recorded.name}  t = {step.t}  n = {n}  unit {unit}"
    if not rows.ends(n):
        trace = step.recorded
        before = type(step)(
            trace, step.index + (-1 if trace.reverse else 1), step.gradients or step.recorded.latest, *_kept(step)
        )
        said = f"{where}\n{name} = {_number(has)}   {name}_prev of t = {before.t}"
        return f"{said}\n{explain(before, f'{name}_prev', unit, n)}" if f"{name}_prev" in targets(trace) else said
    exists = step.recorded.exists(step.index)
    if exists is not None and not exists[n, 0]:
        ended = f"sequence n = {n} has no step {step.t}: it has ended, and no equation made what is recorded"
        return f"{where}\n{name} = {_number(has)}   recorded\n{ended}"
    direct, final = rows.from_outside(n, unit)
    state = name[1:]
    pad, notes = " " * len(name), []
    if final is None:
        notes.append("the trace does not keep the two apart, a Stepper does")
        return "\n".join([where, f"{name} = doutput + d{state}_n", f"{pad} = {_number(has)}   recorded", *notes])
    if direct is None:
        direct = has - final
        notes.append("doutput is the rest of what is recorded: it comes from the layer above")
    total_ = direct + final
    apart = float(ulps(np.array([total_], recorded.dtype), np.array([has]))[0])
    return "\n".join(
        [
            where,
            f"{name} = doutput + d{state}_n",
            f"{pad} = {_operand(direct)} + {_placed(final)}",
            f"{pad} = {_number(total_)}   recorded {_number(has)}, {apart:.3g} ulp",
            *notes,
        ]
    )


def _kept(step: Step) -> tuple[Any, ...]:
    return (step.kept,) if isinstance(step, Halted) else ()


def _total(rows: Rows, name: str, before: str | None, n: int, unit: int) -> Any:
    """Return what the equations say of an entry; None where what was there before is not known."""
    if before is not None and (before not in rows or not is_whole(rows.trace, name)):
        return None
    return total(rows, name).array[0, n, unit]


def _incoming(rows: Rows, name: str, before: str, n: int, unit: int) -> tuple[Any, bool]:
    """Return what an entry held before the equations added to it, and whether it is known: else it is the rest."""
    if before in rows and is_whole(rows.trace, name):
        value = rows.value(before).array[0, n, unit]
        if not np.isnan(value):
            return value, True
    added = sum(
        evaluate(equation.right, rows.renamed(names)).array[0, n, unit] for names, equation in targets(rows.trace)[name]
    )
    return rows.value(name).array[0, n, unit] - added, False


class _InPlace(ast.NodeTransformer):
    """Replaces names by their numbers, and products by theirs."""

    def __init__(self, rows: Rows, n: int, unit: int) -> None:
        self.rows, self.n, self.unit = rows, n, unit

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(_placed(_entry(self.rows.value(node.id), self.n, self.unit)), ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id in OF_MEMORY:
            return self._whole(node)
        return ast.Call(node.func, [self.visit(argument) for argument in node.args], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, ast.MatMult):
            return self._whole(node)
        return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))

    def _whole(self, node: ast.expr) -> ast.expr:
        """Return the number of what is not made of numbers at the same place."""
        return ast.Name(_placed(_entry(evaluate(Text("", node), self.rows), self.n, self.unit)), ast.Load())


def _numbers(text: Text, rows: Rows, n: int, unit: int) -> str:
    found = sources(_InPlace(rows, n, unit).visit(_copy(text.tree)))
    return re.sub(r"\((\([^()]*\))\)", r"\1", found)  # the number is the whole argument


def _products(text: Text, rows: Rows, n: int, unit: int) -> list[str]:
    """Say, of each product of a matrix, its largest terms."""
    found = []
    for node in ast.walk(text.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "softmax":
            found.append(_softmax(node, rows, n, unit))
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)):
            continue
        W, h = (evaluate(Text("", side), rows).array for side in (node.left, node.right))
        match W.ndim, h.ndim:
            case 2, 3:
                terms = W[unit] * h[0, n]
            case 4, 3:
                terms = W[0, n, unit] * h[0, n]
            case 4, 1:
                terms = W[0, n, unit] * h
            case _:  # within what is shown whole
                continue
        order = np.argsort(-abs(terms), kind="stable")
        shown = [f"{_operand(terms[place])} (unit {place})" for place in order[:LARGEST]]
        if len(order) > LARGEST:
            shown.append(f"{_operand(terms[order[LARGEST:]].sum())} ({len(order) - LARGEST} more)")
        product = sources(Renamer(rows.names).visit(_copy(node)))
        found.append(f"{product} = {' + '.join(shown)}".replace("+ -", "- "))
    return found


def _softmax(node: ast.Call, rows: Rows, n: int, unit: int) -> str:
    """Say of what a weight of attention is a share."""
    score, exists = (evaluate(Text("", side), rows).array[0, n] for side in node.args)
    if not exists[unit]:
        return f"softmax: row {unit} of the memory does not exist"
    largest = score.real[exists].max()
    terms = np.exp(score[exists] - largest)
    return (
        f"softmax: exp({_operand(score[unit])} - {_number(largest)}) = {_number(np.exp(score[unit] - largest))} of "
        f"{_number(terms.sum())}, the sum over {len(terms)} rows that exist"
    ).replace("- -", "+ ")


def _entry(value: Value, n: int, unit: int) -> Any:
    """Return the entry of an array of a step, of a bias, or the only one."""
    array = value.array
    if array.ndim == 3:
        return array[0, n if array.shape[1] > 1 else 0, unit if array.shape[2] > 1 else 0]
    return array[unit] if array.ndim == 1 else array[()]


def _placed(value: Any) -> str:
    """Return a number as an operand anywhere: in brackets where it has a sign, or is complex."""
    text = _operand(value)
    return f"({text})" if text.startswith("-") else text


def _operand(value: Any) -> str:
    """Return a number as the first operand of a sum: in brackets where it is complex."""
    return f"({_number(value)})" if np.iscomplexobj(value) else _number(value)


def _number(value: Any) -> str:
    return f"{value:.4g}"


def _copy(tree: ast.expr) -> ast.expr:
    return ast.parse(sources(tree), mode="eval").body
