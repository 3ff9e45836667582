"""What the names in an expression mean: rows of a trace at some steps of one layer and direction, (K, N, units).

The names are those of a `Step`, and more. `W_ii`, `W_hf`, `b_o`, `b_hn` are a gate's rows of a weight or a bias, and
`a_i` a gate's part of the pre-activations; `weight_if` is a further parameter by its name, `weight_if_r` a gate's rows
of it; `dinput` the gradient of what W_ih x goes to; `values`, `keys` a memory, (1, N, S, ·). What no trace keeps and an
equation makes is made by it. `doutput_prev` is what the loss says directly to the state before the step, `dalpha_loss`
to what a step records, and `dc_handed` what the step after handed back to c: a trace holds none of them, since each is
summed with what comes later; a `Stepper` keeps them (`Kept`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.debug.expressions import Equation, Value, equations, evaluate, sources
from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.parts import Part, argument_names
from rnn_numpy.engine.trace import NOTHING, GradientPass, LayerTrace, Step, read_only
from rnn_numpy.errors import OptionError

Array = NDArray[Any]


@dataclass
class Kept:
    """What a pass overwrites, of one layer and direction: rows by step, (T, N, units).

    `handed` has, by state, what each step handed back to the state before it; `doutput` what the loss says directly,
    but at the step `unknown`; `loss` what it says of records, zeros where that is nothing, None where nobody knows.
    `finals` are the gradients of the final states by state, (N, units), None for zeros; of a top layer `top` is the
    gradient of its output, None for zeros. `written` has, by step, the names of what `Step.write` put there.
    """

    handed: dict[str, Array] = field(default_factory=dict)
    doutput: Array | None = None
    unknown: int | None = None
    loss: Mapping[str, Array] | None = None
    finals: Mapping[str, Array | None] | None = None
    is_top: bool = False
    top: Array | None = None
    written: dict[int, set[str]] = field(default_factory=dict)


NOTHING_KEPT = Kept()


class Halted(Step):
    """A `Step` as it was when the pass stood there: of c, `dc_prev` is what the step handed back, also later on.

    `noted` takes down what is written, a name and the row; without one, nothing can be written.
    """

    __slots__ = ("kept", "noted")

    def __init__(
        self,
        trace: LayerTrace,
        index: int,
        gradients: GradientPass,
        kept: Kept,
        noted: Callable[[str, Array], None] | None = None,
    ) -> None:
        super().__init__(trace, index, gradients if gradients.arrays else None)
        self.kept, self.noted = kept, noted

    def __getattr__(self, name: str) -> Array:
        if name[:1] == "d" and name.endswith("_prev") and name[1:-5] in self.kept.handed:
            row = self.kept.handed[name[1:-5]][self.index]
            return read_only(row if self.recorded.unsort is None else row[self.recorded.unsort])
        return super().__getattr__(name)

    def write(self, name: str, value: Any) -> None:
        """As `Step.write`; what the step hands back is then what was written."""
        if self.noted is None:
            raise OptionError(
                "Step.write: a condition only looks at a step; write at `Stepper.step`, where the run has stopped, or "
                "say the value to Stepper.fork"
            )
        super().write(name, value)
        if name[1:-5] in self.kept.handed:
            trace = self.recorded
            source = trace.aligned(name, self.gradients or NOTHING)
            self.kept.handed[name[1:-5]][self.index] = source[self.index]
        self.kept.written.setdefault(self.index, set()).add(name)
        self.noted(name, np.array(getattr(self, name)))


class Rows:
    """The rows at `indices` of one layer's trace: the names of an expression.

    Parameters
    ----------
    trace : LayerTrace
    gradients : GradientPass
        Of which backward pass.
    indices : range
        Rows of the step arrays, in the order in which the pass visits them.
    kept : Kept
        What the pass overwrites.
    names : mapping of str to str
        What a name stands for where it does not stand for itself: in an equation of a cell with zoneout h is h_new.
    """

    def __init__(
        self,
        trace: LayerTrace,
        gradients: GradientPass,
        indices: range,
        kept: Kept = NOTHING_KEPT,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.trace, self.gradients, self.indices, self.kept = trace, gradients, indices, kept
        self.names = names or {}
        self._known: dict[str, Value] = {}  # conditions ask for the same rows again
        self._making: set[str] = set()  # what equations of a cell are asked for at this moment

    def renamed(self, names: Mapping[str, str]) -> Rows:
        """Return the same rows for an expression that has other names for them."""
        rows = Rows(self.trace, self.gradients, self.indices, self.kept, names)
        rows._known, rows._making = self._known, self._making  # known by the names of the step
        return rows

    # ------------------------------------------------------------------------------------------------ names

    def value(self, name: str, before: bool = False) -> Value:
        """Return what a name stands for; `before`, at the step that the pass visited before, NaN at its first."""
        name = self.names.get(name, name)
        if not before:
            found = self._known.get(name)
            if found is None:
                found = self._known[name] = self._value(name)
            return found
        if (constant := self._constant(name)) is not None:
            return Value(constant)
        step = self.indices.step
        earlier = range(self.indices.start - step, self.indices.stop - step, step)
        first = _first(self.trace, step)
        missing = sum(1 for index in earlier if (index - first) * step < 0)
        if name == "t":
            times = np.array(earlier, float)[:, None, None] + self.trace.first
            times[:missing] = np.nan
            return Value(times)
        known = self._array(name, earlier[missing:])
        return Value(np.concatenate([np.full((missing, *known.shape[1:]), np.nan, known.dtype), known]))

    def _value(self, name: str) -> Value:
        if name == "t":
            return Value(np.array(self.indices, float)[:, None, None] + self.trace.first)
        constant = self._constant(name)
        return Value(self._array(name, self.indices), self._rounding(name)) if constant is None else Value(constant)

    def limits(self, name: str) -> tuple[float, float]:
        """Return the values between which a gate lies: 0 and 1 of a sigmoid, else -1 and 1."""
        return (0.0, 1.0) if name in self.trace.chain.cell.sigmoids else (-1.0, 1.0)

    def exists(self) -> Array | None:
        """Return which sequences have these steps, (K, N, 1), in the caller's order; None for all."""
        found = [self.trace.exists(index) for index in self.indices]
        return None if not found or found[0] is None else np.array(found)

    def is_moderate(self) -> bool:
        """Whether nothing of these steps is NaN or infinite, as far as one look at all of it at once tells.

        All that the engine holds is then finite, and so small that no sum of products of three such numbers overflows:
        what a cell of this package has computed from it when asked for (`Cell.derived`) is finite, too.
        """
        trace, indices = self.trace, self.indices
        if not all(_is_ours(function) for function in trace.chain.cell.derived.values()):
            return False
        low, high = min(indices[0], indices[-1]), max(indices[0], indices[-1]) + 1
        held = [*trace.arrays.values(), *self.gradients.arrays.values(), *self.kept.handed.values()]
        parts = [array[low : high + len(array) - len(trace)] for array in held]
        for array in (*parts, *trace.weights.values(), *trace.given.values()):
            if array.dtype.kind not in "fc":
                continue
            flat = array.ravel(order="K")
            flat = flat if flat.dtype.kind == "f" else flat.view(flat.real.dtype)
            with np.errstate(all="ignore"):
                if not np.dot(flat, flat) < np.sqrt(np.finfo(flat.dtype).max):
                    return False
        return True

    def __contains__(self, name: str) -> bool:
        try:
            self.value(name)
        except OptionError:
            return False
        return True

    def known(self) -> tuple[str, ...]:
        """Return the names that there are, weights included; of gates' rows of weights none."""
        step = Step(self.trace, self.indices[0], self.gradients)
        return ("t", *step.names, *self.trace.weights)

    # ------------------------------------------------------------------------------------------------ arrays

    def _array(self, name: str, indices: range) -> Array:
        """Return the rows of an array of the step, (K, N, units), in the caller's order."""
        trace, rows = self.trace, _slice(indices)
        if name == "dinput":
            return self._input_gradient(indices)
        if name in trace.given:
            given = trace.given[name] if trace.unsort is None else trace.given[name][trace.unsort]
            return given[None]
        if name.endswith("_loss") and self.kept.loss is not None and name[1:-5] in trace.chain.cell.from_loss:
            said = self.kept.loss.get(name[1:-5])
            return np.zeros_like(self._array(name[:-5], indices)) if said is None else self._sorted_out(said[rows])
        if name == "doutput_prev" and self.kept.doutput is not None:
            array = self._sorted_out(self.kept.doutput[rows])
            if self.kept.unknown is not None and self.kept.unknown in indices:
                array = np.array(array)
                array[indices.index(self.kept.unknown)] = np.nan
            return array
        state, _, when = name.rpartition("_")
        if when == "prev" and state[1:] in self.kept.handed:
            return self._sorted_out(self.kept.handed[state[1:]][rows])
        if when == "handed":
            return self._handed(state[1:], indices)
        gate = self._gate(name, "a_")
        if gate is not None and trace.find(name) is None and trace.is_derived("a"):
            whole = self.renamed({}).value("a").array if indices == self.indices else self._array("a", indices)
            return whole[..., gate]
        if trace.is_derived(name):
            array = trace.derive(name, lambda one: self._array(trace.resolved(one, self.gradients), indices))
        else:
            try:
                found = trace.aligned(name, self.gradients)
            except AttributeError:
                made = self._made(name, indices)
                if made is None:
                    raise self._unknown(name) from None
                return made
            array = found[rows]
        return self._sorted_out(array) if not trace.is_derived(name) else self._cleared(array, indices)

    def is_made(self, name: str) -> bool:
        """Whether no trace keeps an array, and an equation makes it."""
        if self._gate(name, "a_") is not None and self.trace.is_derived("a"):
            return False
        return not self._is_kept(name) and self._maker(name) is not None

    def _is_kept(self, name: str) -> bool:
        try:
            self.trace.aligned(name, self.gradients)
        except AttributeError:
            return False
        return True

    def _maker(self, name: str) -> tuple[Mapping[str, str], Equation] | None:
        """Return the one equation that writes an array."""
        said = targets(self.trace).get(name, [])
        goes_back = name[:1] == "d" and not self.gradients.arrays
        return said[0] if len(said) == 1 and not said[0][1].adds and not goes_back else None

    def _made(self, name: str, indices: range) -> Array | None:
        """Return an array that is not kept as its equation makes it."""
        maker = None if name in self._making else self._maker(name)
        if maker is None:
            return None
        names, equation = maker
        rows = Rows(self.trace, self.gradients, indices, self.kept, names)
        rows._making = self._making | {name}
        array: Array = evaluate(equation.right, rows).array
        return array

    def _input_gradient(self, indices: range) -> Array:
        """Return the gradient of what W_ih x goes to, blocks in the order of the gates."""
        cell = self.trace.chain.cell
        if cell.input_gradient != "da" or cell.gates == 1:
            return self._array(cell.input_gradient, indices)
        return np.concatenate([self._array(f"da_{slab}", indices) for slab in cell.input_slabs], axis=-1)

    def _sorted_out(self, array: Array) -> Array:
        """Return rows in the caller's order."""
        unsort = self.trace.unsort
        return array if unsort is None else array[:, unsort]

    def _cleared(self, array: Array, indices: range) -> Array:
        """Return a computed array with 0 where a sequence has no such step."""
        exists = Rows(self.trace, self.gradients, indices).exists()
        return array if exists is None else np.where(exists, array, 0)

    def _handed(self, state: str, indices: range) -> Array:
        """Return what the step after handed back to a state: what the equations say that it wrote."""
        step = indices.step
        later = range(indices.start - step, indices.stop - step, step)
        kept = self.kept.handed.get(state)
        first = _first(self.trace, step)
        found = []
        for index in later:
            if (index - first) * step < 0:  # at a pass's first step the gradient of the final state
                like = self._array(f"d{state}", indices[:1])
                found.append(
                    np.full_like(like, np.nan) if self.kept.finals is None else self._final(state, like, first)
                )
            elif kept is not None:
                found.append(self._sorted_out(kept[index : index + 1]))
            else:
                rows = Rows(self.trace, self.gradients, range(index, index + step, step), self.kept)
                found.append(total(rows, f"d{state}_prev").array)
        return np.concatenate(found)

    def _final(self, state: str, like: Array, index: int) -> Array:
        """Return the gradient of a final state at a pass's first step, 0 for sequences that have no such step."""
        said = (self.kept.finals or {}).get(state)
        if said is None:
            return np.zeros_like(like)
        return self._cleared(self._sorted_out(said[None]), range(index, index + 1))

    def ends(self, n: int) -> bool:
        """Whether this step is sequence n's last one in time of its direction: backward begins with it."""
        index, trace = self.indices[0], self.trace
        later = index + (-1 if trace.reverse else 1)
        exists = None if not 0 <= later < len(trace) else trace.exists(later)
        return not 0 <= later < len(trace) or (exists is not None and not exists[n, 0])

    def from_outside(self, n: int, unit: int) -> tuple[Any, Any]:
        """Return what the loss says directly of an entry of the first state after this step, and of it as the final
        one; None for what is not known.
        """
        kept, state, index = self.kept, self.trace.states[0], self.indices[0]
        n_stored = n if self.trace.unsort is None else self.trace.unsort[n]
        whole = self._array(f"d{state}", self.indices)[0, n, unit]
        direct = whole - whole
        if kept.top is not None:
            direct = kept.top[index, n_stored, unit]
        elif not kept.is_top:
            direct = None
        final = None
        if kept.finals is not None:
            said = kept.finals.get(state)
            final = whole - whole if said is None else said[n_stored, unit]
        return direct, final

    def _constant(self, name: str) -> Array | None:
        """Return a weight, a bias, or a gate's rows of one."""
        weights, parameters = self.trace.weights, self.trace.chain.cell.parameters
        if name[:1] in ("W", "b"):
            rows = self._gates_rows(name)
            if rows is not None:
                return rows
        if name in weights:
            return weights[name]
        if name in parameters and self.trace.find(name) is None:
            return weights[parameters[name].symbol]
        own, _, gate = name.rpartition("_")
        if own in parameters and parameters[own].like_input:
            part = self._gate(gate, "")
            return None if part is None else weights[parameters[own].symbol][part]
        if name == "b":
            return self.trace.bias
        return np.zeros_like(self.trace.bias) if name in ("b_ih", "b_hh") else None  # without biases

    def _gates_rows(self, name: str) -> Array | None:
        """Return the rows of a weight or a bias that are a gate's."""
        weights = self.trace.weights
        for prefix, whole in (
            ("W_i", "W_ih"),
            ("W_h", "W_hh"),
            ("W_c", "W_ch"),
            ("b_i", "b_ih"),
            ("b_h", "b_hh"),
            ("b_", "b"),
        ):
            gate = self._gate(name, prefix)
            if gate is not None:
                if whole == "b":
                    return self.trace.bias[gate]
                if whole in weights or whole[0] == "b":  # without biases, zeros
                    return weights[whole][gate] if whole in weights else np.zeros_like(self.trace.bias[gate])
        return None

    def gate(self, name: str) -> slice | None:
        """Return where in a the part of a gate is that `a_i` names."""
        return self._gate(name, "a_") if self.trace.is_derived("a") else None

    def _gate(self, name: str, prefix: str) -> slice | None:
        """Return the place of a gate among the gates, for `prefix` followed by its name."""
        if not name.startswith(prefix):
            return None
        cell, H = self.trace.chain.cell, self.trace.chain.hidden
        gate = name.removeprefix(prefix)
        if cell.gates == 1 or gate not in cell.gate_names:
            return None
        place = cell.gate_names.index(gate)
        return slice(place * H, (place + 1) * H)

    def _rounding(self, name: str) -> Array | float:
        """Return by how much a value may be off that is computed when asked for."""
        gate = self._gate(name, "a_")
        if (name != "a" and gate is None) or not self.trace.is_derived("a"):
            maker = self._maker(name) if name not in self._making and self.is_made(name) else None
            if maker is None:
                return 0.0
            made: Array = np.asarray(evaluate(maker[1].right, self.renamed(maker[0]), bounded=True).bound)
            return made
        of_target = {equation.target: (names, equation) for names, equation in lines(self.trace)}
        if gate is not None and name not in of_target and "a" in of_target:
            of_all: Array = np.asarray(self.renamed({}).value("a").bound)
            return of_all[..., gate]
        for target in (name, "a"):
            if target in of_target:
                names, equation = of_target[target]
                bound: Array = np.asarray(evaluate(equation.right, self.renamed(names), bounded=True).bound)
                part: Array = bound if target == name else bound[..., gate]
                return part
        # Not by an equation of one line: as large as a product's of that many terms.
        weights = self.trace.weights
        terms = sum(weights[weight].shape[1] for weight in ("W_ih", "W_hh"))
        sizes: Array = np.maximum(abs(self._array(name, self.indices)), 1)
        result: Array = sizes * terms
        return result

    def _unknown(self, name: str) -> OptionError:
        reached = "" if self.gradients.arrays else "; gradients are there once a backward pass has begun"
        return OptionError(f"a step of {self.trace.name} has no {name!r}; it has {', '.join(self.known())}{reached}")


def _is_ours(function: Callable[..., Any]) -> bool:
    """Whether a function is one of this package."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def _first(trace: LayerTrace, step: int) -> int:
    """Return the index at which a pass through a layer begins that moves on by `step`."""
    return 0 if step > 0 else len(trace) - 1


def _slice(indices: range) -> slice:
    """Return the slice that picks the rows of a range."""
    stop: int | None = indices.start + len(indices) * indices.step
    return slice(indices.start, None if stop is not None and stop < 0 else stop, indices.step)


# ------------------------------------------------------------------------------------------------ equations


def lines(trace: LayerTrace) -> list[tuple[Mapping[str, str], Equation]]:
    """Return the equations of a layer's step in the order in which a step runs them, each with what its names stand
    for.
    """
    chain = trace.chain
    known: list[tuple[Mapping[str, str], Equation]] | None = chain.__dict__.get("_lines")
    if known is None:
        known = [(names, equation) for _, names, equation in in_order(chain.cell, chain.parts)]
        chain.__dict__["_lines"] = known
    return known


def in_order(cell: Cell, parts: Sequence[Part]) -> list[tuple[Part, Mapping[str, str], Equation]]:
    """Return the equations of the parts of a step, forward from the first part on, backward from the last one, with
    their parts and what their names stand for.
    """
    forward: list[tuple[Part, Mapping[str, str], Equation]] = []
    backward: list[list[tuple[Part, Mapping[str, str], Equation]]] = []
    own = {*cell.forward_names, *cell.states}
    for part in parts:
        names = {_bare(name): _bare(place) for name, place in part.names.items() if name != place}
        backward.append([])
        for equation in equations(part.equations):
            goes_back = equation.target[:1] == "d" and equation.target not in own
            (backward[-1] if goes_back else forward).append((part, names, equation))
    return [*forward, *(line for lines in reversed(backward) for line in lines)]


def _bare(name: str) -> str:
    return name.removesuffix("_t")


def targets(trace: LayerTrace) -> dict[str, list[tuple[Mapping[str, str], Equation]]]:
    """Return the equations by the array that they write or add to, under the name that a step has for it."""
    found: dict[str, list[tuple[Mapping[str, str], Equation]]] = {}
    for names, equation in lines(trace):
        found.setdefault(names.get(equation.target, equation.target), []).append((names, equation))
    return found


def wording(trace: LayerTrace, name: str) -> tuple[str, str]:
    """Return the labels of the equations of an array, and all of them as one, with the names that a step has."""
    said = targets(trace)[name]
    is_alone = len(said) == 1 and not said[0][1].adds  # and needs no brackets
    terms = [_with_names(equation, names, is_alone) for names, equation in said]
    if all(equation.adds for _, equation in said) and incoming(trace, name) is not None:
        terms.insert(0, str(incoming(trace, name)))
    return ", ".join(dict.fromkeys(equation.label for _, equation in said)), f"{name} = {' + '.join(terms)}"


class Renamer(ast.NodeTransformer):
    """Puts other names into a tree."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace a name."""
        return ast.Name(self.names.get(node.id, node.id), ast.Load())


def _with_names(equation: Equation, names: Mapping[str, str], is_alone: bool) -> str:
    tree = Renamer(names).visit(ast.parse(equation.right.text, mode="eval").body)
    is_difference = isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Sub)
    return f"({sources(tree)})" if is_difference and not is_alone else sources(tree)


def is_whole(trace: LayerTrace, name: str) -> bool:
    """Whether equations say all that a step adds to an array: a part that has none may add what no equation says."""
    again = trace.chain.cell.again  # which make what is in memory for others
    return all(part.backward in again or _says_all(part, name) for part in trace.chain.parts)


def _says_all(part: Part, name: str) -> bool:
    """Whether the equations of a part say all that it adds to an array. Of a gradient that the backward formula takes
    it is only known of those handed to the step before that they are sums.
    """
    said = {equation.target for equation in equations(part.equations)}
    if part.backward is None or not said:
        return part.backward is None
    taken = {
        _bare(one)
        for one, place in zip(argument_names(part.backward), part.arguments("backward"), strict=True)
        if _bare(place) == name
    }
    if any(target[:1] == "d" and target in map(_bare, argument_names(part.backward)) for target in said):
        taken = taken if name.endswith("_prev") else set()
    return taken <= said


def checkable(rows: Rows) -> list[str]:
    """Return the names of the arrays of which the equations say all, in the order in which a step computes them.

    To a sum a part without equations may add as well; and what is there before a sum may not be known.
    """
    trace, found = rows.trace, []
    for name, said in targets(trace).items():
        is_sum, before = any(equation.adds for _, equation in said), incoming(trace, name)
        if rows.is_made(name):
            continue
        if is_sum and (not is_whole(trace, name) or (before is not None and before not in rows)):
            continue
        # What a step hands back to a further state is overwritten by the step before it, unless it was kept.
        if is_sum and name.endswith("_prev") and before is None and name[1:-5] not in rows.kept.handed:
            continue
        if name in rows:
            found.append(name)
    return found


def incoming(trace: LayerTrace, name: str) -> str | None:
    """Return the name of what an array holds before the equations add to it; None for nothing."""
    first, *further = trace.states
    if name == f"d{first}_prev":
        return "doutput_prev"
    if name[:1] == "d" and name[1:] in trace.chain.cell.from_loss:
        return f"{name}_loss"
    return f"{name}_handed" if name[:1] == "d" and name[1:] in further else None


def total(rows: Rows, name: str) -> Value:
    """Return what the equations say of an array, with its rounding's bound: the sum of all that is added to it."""
    found = targets(rows.trace)
    if name not in found:
        raise OptionError(f"{rows.trace.name}: there is no equation of {name!r}; there are some of {', '.join(found)}")
    terms = [evaluate(equation.right, rows.renamed(names), bounded=True) for names, equation in found[name]]
    if all(equation.adds for _, equation in found[name]):
        before = incoming(rows.trace, name)
        if before is not None:
            terms.insert(0, rows.value(before))
    array, bound = terms[0]
    for one in terms[1:]:
        array = array + one.array
        bound = bound + one.bound + abs(array)
    if np.ndim(array) == 0:  # a number for every unit: da_f = 0 of gates that are coupled
        array = np.full_like(rows.value(name).array, array)
    return Value(array, bound)
