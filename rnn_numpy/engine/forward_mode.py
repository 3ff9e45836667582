r"""Forward mode: how outputs and final states change with inputs, initial states and parameters, in the order of time.

Around a recorded forward pass a layer is a linear map of small changes. Backward applies its transpose to gradients,
from the last step to the first; this module applies the map itself, by the cells' third formula, `step_tangent`: vX is
the change of X along one direction, and for t = 0 ... T-1

    (V1)  va_t = W_ih vx_t + vW_ih x_t + vb + vW_hh h_in      what enters at step t
    (V2)  vs_t = J_t vs_{t-1} + B_t va_t                      step_tangent, with the masks around it

where s stacks all states of the cell (`rnn_numpy.engine.recorded` defines J_t and B_t; here nobody forms them). The
changes of a layer's outputs are, times the dropout factors, the changes of the next layer's inputs. So

    <doutput, voutput> + <dh_n, vh_n>  =  <dx, vx> + <dh_0, vh_0> + <dW_ih, vW_ih> + ...

for every change on the right and every gradient on the left: the two passes share no formula, so that the equation,
which holds to rounding, proves both. Since all states are the recorded ones, it holds for chaotic nets, too.

`jvp` carries one change; `TangentSteps` carries many of each sequence at once, as real-time recurrent learning does
with one for every entry of every parameter (`UnitChanges`).

Arrays are in the engine's order, sorted by length where there are lengths; slabs as they lie in memory, never halved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.binding import Binding, constants_of, stacked
from rnn_numpy.engine.cell import Slot
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import Formula
from rnn_numpy.engine.recorded import RecordedSteps, recorded_steps
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.walk import Up
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]
NO_CHANGES: Mapping[str, Array] = MappingProxyType({})
# Which product of a cell makes the gradients of which parameters.
KINDS = (("input", "weight_ih", "bias_ih"), ("hidden", "weight_hh", "bias_hh"))


# ---------------------------------------------------------------------------------------------- the steps


class TangentSteps:
    """The steps of one direction of one layer in forward mode, for `count` changes of each sequence at once.

    Column k of sequence n is column n * count + k: there are M = N * count of them. `vparams` has, by symbol, the
    changes of parameters by which the formulas themselves differentiate: of the parameter's shape, for all columns; of
    a vector also (M, H), one for each column; of a matrix, where formulas work on rows, (M, H, K). `vgiven` has those
    of given arrays, (N, ·). Zeros where left out; the changes of other parameters, and of the input, are added to the
    slots of each step. A cell without `step_tangent` is an OptionError.

    Examples
    --------
    J_t of an RNN, column by column: the changes of the state that follow from unit changes of the state before.

    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.ones((4, 1, 2)))[2]
    >>> tangents = TangentSteps(RecordedSteps(rnn, trace, "l0"), 3)
    >>> (columns,) = tangents.step(2, tangents.begin([np.eye(3)]))
    >>> expected = (1 - trace[2].h[0, :, None] ** 2) * rnn.params["weight_hh_l0"]
    >>> bool(np.allclose(columns.T, expected, rtol=1e-14, atol=0))
    True
    """

    def __init__(
        self,
        steps: RecordedSteps,
        count: int = 1,
        vparams: Mapping[str, Array] = NO_CHANGES,
        vgiven: Mapping[str, Array] = NO_CHANGES,
    ) -> None:
        layer, cell, recorded = steps.layer, steps.cell, steps.recorded
        if not cell.has_tangent:
            raise OptionError(
                "TangentSteps: forward mode needs a cell with step_tangent, its Jacobian-vector product; that of "
                f"{type(layer).__name__} has none (rnn_numpy.engine.cell says what it is to compute)"
            )
        self.steps, self.count, self.columns = steps, count, steps.N * count
        self._batch = Batch(1, self.columns, None)
        self._new = functools.partial(self._batch.new, dtype=layer.params.dtype, columns=cell.columns)
        self._shapes = self._arrays()
        weights, names = recorded.weights, steps.weights()
        bias = np.zeros(steps.A, layer.params.dtype)
        if "bias_ih" in names:
            bias = cell.bias(names["bias_ih"], names["bias_hh"], halved=False)
        self._constants = constants_of(recorded.chain, weights, self.columns, bias=bias)
        self._scratch = self._new(1, layer.hidden_size)[0]
        # Changes of parameters that differ from column to column, (M, ·).
        self._varying: dict[str, Array] = {}
        for symbol, name in cell.own_symbols.items():
            change = vparams.get(symbol, np.zeros_like(names[name]))
            if change.ndim > names[name].ndim:
                self._varying["v" + symbol] = change
            else:
                self._constants["v" + symbol] = change[:, None] if change.ndim == 1 and cell.columns else change
        zeros = {"v" + name: np.zeros_like(array) for name, array in recorded.given.items()}
        self._given = {**recorded.given, **zeros, **{"v" + name: array for name, array in vgiven.items()}}

    def alive(self, t: int) -> int:
        """Return how many columns have a step t: the first ones, since sequences are sorted by length."""
        counts = self.steps.batch.counts
        return self.columns if counts is None else counts[t] * self.count

    def initial(self, vstates: Sequence[Array | None]) -> list[Array]:
        """Return changes of the initial states, (M, H) each, with zeros in place of None."""
        return [
            np.zeros((self.columns, width), self.steps.layer.params.dtype) if vstate is None else vstate
            for width, vstate in zip(self.steps.widths, vstates, strict=True)
        ]

    def begin(self, vstates: Sequence[Array]) -> Binding:
        """Return the arrays of one step: the changes of the states before it, (M, H) each, copied, and zeros for all
        that it computes.
        """
        chain, arrays = self.steps.recorded.chain, dict[str, Array]()
        for name, (rows, width, zeros) in self._shapes.items():
            arrays[name] = array = self._new(rows, width)
            if zeros:
                array[...] = 0
        for state, vstate in zip(self.steps.cell.states, vstates, strict=True):
            arrays["v" + state][0] = vstate
        return Binding(chain, self._batch, False, arrays, self._constants)

    def _arrays(self) -> dict[str, tuple[int, int, bool]]:
        """Return what a step computes: for each array how many rows of how many units, and whether it begins with
        zeros.
        """
        steps, found = self.steps, dict[str, tuple[int, int, bool]]()
        layer, cell, chain = steps.layer, steps.cell, steps.recorded.chain
        widths = dict(zip(cell.states, steps.widths, strict=True))
        for name, units in cell.tangent_widths.items():
            if units is None:
                found[name] = 2, widths[name[1:]], True
            elif isinstance(units, int):
                found[name] = 1, units * layer.hidden_size, True
            else:
                found[name] = 1, units(layer, steps.recorded.given), True
        for state in chain.zoneout:
            found[f"v{state}_new"] = 1, widths[state], True
        if chain.recurrent:
            found[f"v{cell.recurrent_state}_in"] = 1, widths[cell.recurrent_state], False
        return found

    @functools.cached_property
    def _formulas(self) -> list[tuple[Formula, bool, list[tuple[Slot, str, Any]]]]:
        """The formulas of a step, whether each works on columns, and its arguments: what kind each is, and its array
        where that is the same for all steps.
        """
        source, found = self.steps.binding, []
        for formula, slots, columns in self.steps.recorded.chain.formulas["tangent"]:
            arguments_of: list[tuple[Slot, str, Any]] = []
            for slot in slots:
                if slot.name in self._varying:
                    arguments_of.append((slot, "varying", self._varying[slot.name]))
                elif slot.name == "scratch_t":
                    arguments_of.append((slot, "varying", self._scratch))
                elif slot.when == "fixed":
                    arguments_of.append((slot, "fixed", self._constants[slot.name]))
                elif slot.when == "work":
                    arguments_of.append((slot, "work", None))
                elif slot.when == "given":
                    arguments_of.append((slot, "given", self._given[slot.name]))
                elif slot.array in source.arrays:
                    arguments_of.append((slot, "recorded", source.aligned(slot)))
                else:
                    arguments_of.append((slot, "new", None))
            found.append((formula, columns, arguments_of))
        return found

    def slot(self, name: str, binding: Binding) -> Array:
        """Return the array, (M, K), that a formula's argument means, "va_t" say: where to add what enters."""
        found: Array = binding.aligned(name)[0]
        return found

    def enter_input(self, binding: Binding, vx: Array) -> None:
        """Add what a change of the input, (M, D), is to the step: W_ih vx_t."""
        steps = self.steps
        target = self.slot(_changed(steps.cell.input_gradient + "_t"), binding)
        _add_input(steps, vx, target)

    def step(self, t: int, binding: Binding) -> list[Array]:
        """Run one step in the arrays from `begin`, with what enters added to its slots; return the changes of the
        states after it, (M, H) each, and of a sequence that has no step t, those before it.
        """
        counts = self.steps.batch.counts
        alive = self.columns if counts is None else counts[t] * self.count
        if alive:
            sequences = alive // self.count
            work: dict[str, Array] = {}
            if self.steps.cell.work:
                work = binding.chain.work(self._given, alive, self.steps.layer.params.dtype)
            for formula, columns, arguments_of in self._formulas:
                given: list[Array] = []
                for slot, kind, array in arguments_of:
                    if kind == "fixed":
                        given.append(array)
                        continue
                    if kind == "work":
                        given.append(work[slot.array])
                        continue
                    if kind == "given":
                        given.append(np.repeat(array[:sequences], self.count, axis=0))
                        continue
                    if kind == "varying":
                        row = array[:alive]
                    elif kind == "recorded":
                        row = array[t, :sequences]
                        if sequences == 1 and not self._given:
                            pass  # one sequence, whose columns all read the same: NumPy spreads what is made of it
                        elif self.count > 1 and columns:  # spread in the memory order that the formula wants
                            row = np.repeat(row.T, self.count, axis=1).T
                        elif self.count > 1:
                            row = np.repeat(row, self.count, axis=0)
                    else:
                        row = binding.aligned(slot)[0, :alive]
                    row = row.T if columns else row
                    given.append(stacked(row, slot.stack, columns) if slot.stack else row)
                formula(*given)
        found: list[Array] = []
        for state in self.steps.cell.states:
            before, after = binding.arrays["v" + state]
            after[alive:] = before[alive:]
            found.append(after)
        return found


def _changed(gradient: str) -> str:
    """Return the name of the change of what "da_t", say, is the gradient of."""
    return "v" + gradient[1:]


def _add_input(steps: RecordedSteps, vx: Array, target: Array) -> None:
    """Add W_ih vx, (..., A), to `target`."""
    weight = steps.recorded.weights["W_ih"]
    for rows, columns, _ in steps.recorded.chain.blocks["input"]:
        target[..., columns] += vx @ weight[rows].T


class UnitChanges:
    """A change for every entry of every parameter of one direction, and for every entry of its initial states.

    The changes of one sequence are numbered as the entries lie in the parameters, the initial states' after them: those
    of each parameter at `places`, with its shape, those of each state at `initial`, `total` in all. Carried along are
    those in `part`, `count` of them, all where it is left out. A further parameter without a product that is no vector
    is an OptionError where formulas work on columns: its entries cannot be changed column by column.

    `along`, a matrix for each parameter that is one, makes one change of each row of it: row r changes along row r.
    """

    def __init__(
        self, steps: RecordedSteps, part: slice | None = None, along: Mapping[str, Array] = NO_CHANGES
    ) -> None:
        self.steps, self.along = steps, along
        self.places: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name, array in steps.weights().items():
            shape = array.shape[:1] if name in along else array.shape
            self.places[name] = slice(start, start + math.prod(shape)), shape
            start = self.places[name][0].stop
        for symbol, name in steps.cell.own_symbols.items():
            shape = steps.weights()[name].shape
            if len(shape) != 1 and symbol not in steps.cell.symbols_in_rows:
                raise OptionError(
                    f"UnitChanges: {name}, {symbol} in the formulas, must be a vector, or its ExtraParameter needs a "
                    f"product; got shape {shape}"
                )
        self.initial: dict[str, slice] = {}
        for state, width in zip(steps.cell.states, steps.widths, strict=True):
            self.initial[state] = slice(start, start + width)
            start += width
        self.total = start
        self.part = slice(0, start) if part is None else part
        self.count = self.part.stop - self.part.start
        self._diagonals: dict[tuple[str, int | None], tuple[Array, Array, Array]] = {}

    def tangents(self) -> TangentSteps:
        """Return the steps that carry these changes."""
        steps = self.steps
        own: dict[str, Array] = {}
        for symbol, name in steps.cell.own_symbols.items():
            shape = steps.weights()[name].shape
            columns, numbers = self._inside(self.places[name][0])
            change = np.zeros((steps.N, self.count, *shape), steps.layer.params.dtype)
            if name in self.along:
                change[:, columns, numbers] = self.along[name][numbers]
            else:
                change.reshape(steps.N, self.count, -1)[:, columns, numbers] = 1
            own[symbol] = change.reshape(-1, *shape)
        return TangentSteps(steps, self.count, own)

    def begin(self) -> list[Array]:
        """Return the changes of the initial states, (M, H) each: unit vectors where they are what changes."""
        found: list[Array] = []
        for state, width in zip(self.steps.cell.states, self.steps.widths, strict=True):
            change = np.zeros((self.steps.N, self.count, width), self.steps.layer.params.dtype)
            columns, entries = self._inside(self.initial[state])
            change[:, columns, entries] = 1
            found.append(change.reshape(-1, width))
        return found

    def _inside(self, place: slice) -> tuple[Array, Array]:
        """Return the columns, and the entries of one array, of the changes that are carried along."""
        numbers = np.arange(max(place.start, self.part.start), min(place.stop, self.part.stop))
        return numbers - self.part.start, numbers - place.start

    def enter(self, t: int, tangents: TangentSteps, binding: Binding) -> None:
        """Add what the changes of the parameters are to step t: the immediate part of the influence matrix."""
        steps, cell = self.steps, self.steps.cell
        into_bias = self._grid(tangents.slot("va_t", binding))
        for kind, weight, bias in KINDS:
            gradient = cell.input_gradient if kind == "input" else cell.hidden_gradient
            into = self._grid(tangents.slot(_changed(gradient + "_t"), binding))
            for rows, columns, source in steps.products(kind):
                self._diagonal(weight, into[columns], rows, source[t])
                if bias in self.places:
                    self._diagonal(bias, into_bias[columns], rows, np.ones((steps.N, 1)))
        for name, extra in cell.parameters.items():
            if extra.product is None:
                continue
            gradient, source_name = extra.product
            source = steps.aligned(source_name)[t]
            if extra.like_input:
                into = self._grid(tangents.slot(_changed(cell.input_gradient + "_t"), binding))
                for rows, columns, _ in steps.recorded.chain.blocks["input"]:
                    self._diagonal(name, into[columns], rows, source)
            else:
                self._diagonal(name, self._grid(tangents.slot(_changed(gradient), binding)), slice(None), source)

    def _grid(self, array: Array) -> Array:
        """Return (M, A) as (A, N, K), the same memory."""
        return array.T.reshape(array.shape[1], self.steps.N, self.count)

    def _diagonal(self, name: str, into: Array, rows: slice, source: Array) -> None:
        """Row r of a weight acts on `source`, (N, J), and goes to pre-activation r: write that into (R, N, K)."""
        key = name, rows.start
        along = self.along.get(name)
        if key not in self._diagonals:
            place, shape = self.places[name]
            numbers = np.arange(place.start, place.stop).reshape(shape[0], -1)[rows]
            r, j = np.nonzero((numbers >= self.part.start) & (numbers < self.part.stop))
            self._diagonals[key] = r, numbers[r, j] - self.part.start, j
        r, columns, j = self._diagonals[key]
        if r.size:
            into[r, :, columns] = source.T[j] if along is None else along[rows][r] @ source.T


# ---------------------------------------------------------------------------------------------- the whole layer


class RecordedPass:
    """A layer and a trace of it, for what runs through the recorded states forward in time; errors name `where`."""

    def __init__(self, where: str, layer: Recurrent, trace: Trace) -> None:
        if not isinstance(layer, Recurrent):
            raise DTypeError(f"{where}: layer must be a recurrent layer, an RNN say; got {type(layer).__name__}")
        self.where, self.layer = where, layer
        self.edge: Edge = layer.edge_of(where, trace)
        if not layer.cell.has_tangent:
            raise OptionError(
                f"{where}: {type(layer).__name__} has no formula for forward mode: its Cell needs a step_tangent "
                "(rnn_numpy.engine.cell says what that is to compute)"
            )
        self.batch: Batch = self.edge.batch
        self.steps = recorded_steps(layer, trace)

    def factors(self, layer: int) -> Array | None:
        """Return what the outputs of a layer are multiplied with, (T, N, directions * H); None for nothing."""
        found = self.edge.factors
        return None if found is None or layer == len(self.layer.stack) - 1 else found[layer]

    def gradient_in(self, doutput: Any) -> Array | None:
        """Check a gradient of the output; return it as (T, N, directions * H), 0 past the ends of sequences."""
        array = self.edge.like_output(self.where, "doutput", doutput)
        return None if array is None else self.edge.existing(array)

    def parameter_changes(self, vparams: Mapping[str, ArrayLike] | None) -> Parameters:
        """Check changes of parameters; return those of all, zeros where there is none."""
        params = self.layer.params
        changes = params.zeros_like()
        if vparams is not None and not isinstance(vparams, Mapping):
            raise DTypeError(
                f"{self.where}: vparams must be Parameters, or a mapping from some of their names to arrays; got "
                f"{type(vparams).__name__}"
            )
        for name, value in (vparams or {}).items():
            if name not in params.shapes:
                raise OptionError(f"{self.where}: vparams must have names of {list(params)}; got {name!r}")
            array = arguments.array_of(self.where, f"vparams[{name!r}]", value, params.dtype)
            symbols = f"params[{name!r}].shape"
            changes[name] = arguments.shaped(self.where, f"vparams[{name!r}]", array, symbols, params.shapes[name])
        return changes


@dataclass(frozen=True)
class TangentResult:
    """What `jvp` returns.

    Attributes
    ----------
    voutput : ndarray or PackedSequence
        The change of the output, in its shape; 0 past the ends of sequences.
    vh_n : ndarray, or tuple of ndarray
        The change of the final states, as `forward` returns these: of an LSTM the pair (vh_n, vc_n).
    """

    voutput: Any
    vh_n: Any


def jvp(
    layer: Recurrent,
    trace: Trace,
    *,
    vx: ArrayLike | None = None,
    vh_0: Any = None,
    vparams: Mapping[str, ArrayLike] | None = None,
    vgiven: Mapping[str, ArrayLike] | None = None,
) -> TangentResult:
    """Carry a change of input, initial states and parameters forward through a recorded pass: a product J v.

    Parameters
    ----------
    layer : Recurrent
        With a cell that has `step_tangent`: every layer of this package.
    trace : Trace
        From `layer.forward`; its states, masks and parameters are those around which the layer is linear.
    vx : ndarray, like x, optional
        The change of the input; zeros where left out. Packed where x was. What it holds past the end of a sequence is
        ignored.
    vh_0 : ndarray, like h_0, optional
        The change of the initial states, a tuple where the layer has several; zeros where left out.
    vparams : mapping of str to ndarray, optional
        The changes of parameters, under some or all of the names in `layer.params`; zeros for the others.
    vgiven : mapping of str to ndarray, optional
        The changes of given arrays, in their shapes; zeros where left out. What a mask leaves out is not read.

    Returns
    -------
    TangentResult
        voutput and vh_n, in the shapes of output and h_n.

    Raises
    ------
    ShapeError, DTypeError
        A change does not have the shape or dtype of what it is the change of; the trace is another layer's.
    OptionError
        An unknown name; a cell without `step_tangent`.

    Notes
    -----
    Cost: the products of a forward pass, and those of the parameters' changes. Nothing is kept but the latest states'
    changes and the outputs'.

    Examples
    --------
    The change of a scalar loss along a direction, out of forward mode and out of backward:

    >>> from rnn_numpy.layers import LSTM
    >>> lstm, rng = LSTM(2, 3, rng=0), np.random.default_rng(1)
    >>> output, (h_n, c_n), trace = lstm.forward(rng.normal(size=(4, 1, 2)))
    >>> vx, doutput = rng.normal(size=(4, 1, 2)), rng.normal(size=(4, 1, 3))
    >>> forward = np.vdot(doutput, jvp(lstm, trace, vx=vx).voutput)
    >>> backward = np.vdot(lstm.backward(trace, doutput).dx, vx)
    >>> bool(abs(forward - backward) < 1e-14)
    True
    """
    recorded = RecordedPass("jvp", layer, trace)
    edge = recorded.edge
    changes = recorded.parameter_changes(vparams)
    initial = edge.states_in("jvp", "vh_0", vh_0)
    given = layer.read_of_given(edge.given_in("jvp", layer, vgiven, argument="vgiven"), edge.given)
    finals: list[list[Array]] = []
    walk = Up(layer.stack, edge.factors, edge.like_input("jvp", "vx", vx))
    for direction in walk:
        steps, own = recorded.steps[direction.name], layer.own(changes, direction)
        tangents = TangentSteps(steps, 1, {symbol: own[name] for symbol, name in steps.cell.own_symbols.items()}, given)
        entering = _entering(steps, walk.signal, own, tangents)
        output = np.zeros((steps.T, steps.N, steps.widths[0]), layer.params.dtype)
        latest = tangents.initial([None if vstate is None else vstate[direction.row] for vstate in initial])
        for t in steps.order():
            binding = tangents.begin(latest)
            for name, values in entering.items():
                tangents.slot(name, binding)[...] += values[t]  # V1
            latest = tangents.step(t, binding)  # V2
            alive = tangents.alive(t)
            output[t, :alive] = latest[0][:alive]
        walk.give(output)
        finals.append(latest)
    vh_n = edge.states_out([np.stack(arrays) for arrays in zip(*finals, strict=True)])
    return TangentResult(edge.signal_out(walk.signal), vh_n[0] if len(vh_n) == 1 else vh_n)


def _entering(
    steps: RecordedSteps, vx: Array | None, changes: dict[str, Array], tangents: TangentSteps
) -> dict[str, Array]:
    """Return V1 for all steps at once: by argument's name, (T, N, ·). The transpose of what makes gradients of da."""
    cell, found = steps.cell, dict[str, Array]()
    empty = tangents.begin(tangents.initial([None] * len(cell.states)))

    def into(gradient: str) -> Array:
        name = _changed(gradient)
        if name not in found:
            width = tangents.slot(name, empty).shape[1]
            found[name] = np.zeros((steps.T, steps.N, width), steps.layer.params.dtype)
        return found[name]

    for kind, weight, bias in KINDS:
        target = into((cell.input_gradient if kind == "input" else cell.hidden_gradient) + "_t")
        for rows, columns, source in steps.products(kind):
            target[..., columns] += steps.edge.existing(source) @ changes[weight][rows].T
            if bias in changes:
                into("da_t")[..., columns] += changes[bias][rows]
    if vx is not None:
        _add_input(steps, vx, into(cell.input_gradient + "_t"))
    for name, extra in cell.parameters.items():
        if extra.product is None:
            continue
        gradient, source_name = extra.product
        source = steps.aligned(source_name)
        if extra.like_input:
            for rows, columns, _ in steps.recorded.chain.blocks["input"]:
                into(cell.input_gradient + "_t")[..., columns] += source @ changes[name][rows].T
        else:
            into(gradient)[...] += source @ changes[name].T
    return found
