r"""Forward mode: how outputs and final states change with inputs, initial states and parameters, in the order of time.

Around a recorded forward pass a layer is a linear map of small changes. Backward applies its transpose to gradients,
from the last step to the first; this module applies the map itself, by the cells' third formula, `step_tangent`: vX is
the change of X along one direction, and for t = 0 ... T-1

    (V1)  va_t = W_ih vx_t + vW_ih x_t + vb + vW_hh h_in      what enters at step t
    (V2)  vs_t = J_t vs_{t-1} + B_t va_t                      step_tangent, with the masks around it

where s stacks all states of the cell (`rnn_numpy.engine.local` defines J_t and B_t; here nobody forms them). The
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.edge import Context, Direction
from rnn_numpy.engine.local import LocalSteps, local_steps
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.timeline import Plan, Timeline, argument_names
from rnn_numpy.engine.trace import Arrays, Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

Array = NDArray[Any]
NO_CHANGES: Mapping[str, Array] = MappingProxyType({})
# Which product of a cell makes the gradients of which parameters.
KINDS = (("input", "weight_ih", "bias_ih"), ("hidden", "weight_hh", "bias_hh"))


# ---------------------------------------------------------------------------------------------- the steps


class TangentSteps:
    """The steps of one direction of one layer in forward mode, for `count` changes of each sequence at once.

    Column k of sequence n is column n * count + k: there are M = N * count of them.

    Parameters
    ----------
    steps : LocalSteps
    count : int
    vparams : mapping of str to ndarray, optional
        By symbol, "p_i" say, the changes of parameters by which the formulas themselves differentiate: of the
        parameter's shape, for all columns; of a vector also (M, H), one for each column. Zeros where left out. The
        changes of other parameters, and of the input, are added to the slots of each step.

    Attributes
    ----------
    columns : int
        M.

    Raises
    ------
    OptionError
        The cell has no `step_tangent`.

    Examples
    --------
    J_t of an RNN, column by column: the changes of the state that follow from unit changes of the state before.

    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.ones((4, 1, 2)))[2]
    >>> tangents = TangentSteps(LocalSteps(rnn, trace, "l0"), 3)
    >>> (columns,) = tangents.step(2, tangents.begin([np.eye(3)]))
    >>> expected = (1 - trace[2].h[0, :, None] ** 2) * rnn.params["weight_hh_l0"]
    >>> bool(np.allclose(columns.T, expected, rtol=1e-14, atol=0))
    True
    """

    def __init__(self, steps: LocalSteps, count: int = 1, vparams: Mapping[str, Array] = NO_CHANGES) -> None:
        layer, cell, run = steps.layer, steps.cell, steps.run
        if cell.step_tangent is None:
            raise OptionError(
                "TangentSteps: forward mode needs a cell with step_tangent, its Jacobian-vector product; that of "
                f"{type(layer).__name__} has none (rnn_numpy.engine.cell says what it is to compute)"
            )
        self.steps, self.count, self.columns = steps, count, steps.N * count
        self._plan = Plan(1, self.columns, None)
        self._timeline = Timeline(self._plan, False, cell.columns)
        self._new = functools.partial(self._plan.new, dtype=layer.dtype, columns=cell.columns)
        # T1 and T2 of the masks around the cell's formula: each function, and the names of its arguments.
        self._parts = run.masks.forward(cell.states[0], (cell.step_tangent, argument_names(cell.step_tangent)), "v")
        weights, names = run.weights, steps.weights()
        has_bias = "bias_ih" in names
        bias = cell.bias(names["bias_ih"], names["bias_hh"], halved=False) if has_bias else np.zeros(steps.slabs)
        self._constants = layer._constants(weights["W_hh"], names, bias.astype(layer.dtype), self._plan, backward=True)
        self._constants["scratch_t"] = self._oriented(self._new(1, layer.hidden_size)[0])
        self._varying: set[str] = {"scratch_t"}
        for symbol, name in cell.own_symbols.items():
            change = vparams.get(symbol, np.zeros_like(names[name]))
            if change.ndim > names[name].ndim:  # one for each column
                self._varying.add("v" + symbol)
                change = self._oriented(change)
            elif change.ndim == 1 and cell.columns:
                change = change[:, None]
            self._constants["v" + symbol] = change

    def _oriented(self, array: Array) -> Array:
        """Return (M, K) as the formulas have it."""
        return array.T if self.steps.cell.columns else array

    def alive(self, t: int) -> int:
        """Return how many columns have a step t: the first ones, since sequences are sorted by length."""
        counts = self.steps.plan.counts
        return self.columns if counts is None else counts[t] * self.count

    def initial(self, vstates: Sequence[Array | None]) -> list[Array]:
        """Return changes of the initial states, (M, H) each, with zeros in place of None."""
        layer, states = self.steps.layer, self.steps.cell.states
        shapes = [(self.columns, layer._width(state)) for state in states]
        return [
            np.zeros(shape, layer.dtype) if vstate is None else vstate
            for shape, vstate in zip(shapes, vstates, strict=True)
        ]

    def begin(self, vstates: Sequence[Array]) -> Arrays:
        """Return the arrays of one step: the changes of the states before it, and zeros for all that it computes.

        Parameters
        ----------
        vstates : sequence of ndarray, (M, H)
            One for each state of the cell. Copied.
        """
        steps = self.steps
        layer, cell, chosen = steps.layer, steps.cell, steps.run.masks
        arrays = Arrays({}, functools.partial(cell.columns_of, hidden=layer.hidden_size))
        for name, units in cell.tangent_widths.items():
            rows, width = (2, layer._width(name[1:])) if units is None else (1, units * layer.hidden_size)
            arrays[name] = self._new(rows, width)
            arrays[name][...] = 0
        for state, vstate in zip(cell.states, vstates, strict=True):
            arrays["v" + state][0] = vstate
        for state in chosen.zoneout:
            arrays[f"v{state}_new"] = self._new(1, layer._width(state))
            arrays[f"v{state}_new"][...] = 0
        if chosen.recurrent is not None:
            arrays[f"v{cell.states[0]}_in"] = self._new(1, layer._width(cell.states[0]))
        return arrays

    def slot(self, name: str, arrays: Arrays) -> Array:
        """Return the array, (M, K), that a formula's argument means, "va_t" say: where to add what enters."""
        array, row = self._timeline.place(name, arrays)
        found: Array = array[row]
        return found

    def enter_input(self, arrays: Arrays, vx: Array) -> None:
        """Add what a change of the input, (M, D), is to the step: W_ih vx_t."""
        steps = self.steps
        target = self.slot(_changed(steps.cell.input_gradient + "_t"), arrays)
        _add_input(steps, vx, target)

    def step(self, t: int, arrays: Arrays) -> list[Array]:
        """Run one step.

        Parameters
        ----------
        t : int
        arrays : Arrays
            From `begin`, with what enters added to its slots. The step computes in them.

        Returns
        -------
        list of ndarray, (M, H)
            The changes of the states after the step; of a sequence that has no step t, those before it.
        """
        alive = self.alive(t)
        if alive:
            for function, names in self._parts:
                function(*(self._argument(name, t, alive, arrays) for name in names))
        found: list[Array] = []
        for state in self.steps.cell.states:
            before, after = arrays["v" + state]
            after[alive:] = before[alive:]
            found.append(after)
        return found

    def _argument(self, name: str, t: int, alive: int, arrays: Arrays) -> Array:
        """Return what a formula gets under a name: of all columns that have this step."""
        constant = self._constants.get(name)
        if constant is not None:
            if name not in self._varying:
                return constant
            return constant[:, :alive] if self.steps.cell.columns else constant[:alive]
        if name in self._recorded:
            array, first = self.steps.timeline.place(name, self.steps.run.arrays)
            row = self._oriented(array[first + t, : alive // self.count])
            return row if self.count == 1 else np.repeat(row, self.count, axis=1 if self.steps.cell.columns else 0)
        return self._oriented(self.slot(name, arrays)[:alive])

    @functools.cached_property
    def _recorded(self) -> frozenset[str]:
        """The names of arguments that the trace has."""
        timeline, arrays = self.steps.timeline, self.steps.run.arrays
        found = set()
        for name in {name for _, names in self._parts for name in names}:
            try:
                timeline.place(name, arrays)
            except KeyError:
                continue
            found.add(name)
        return frozenset(found)


def _changed(gradient: str) -> str:
    """Return the name of the change of what "da_t", say, is the gradient of."""
    return "v" + gradient[1:]


def _add_input(steps: LocalSteps, vx: Array, target: Array) -> None:
    """Add W_ih vx, (..., A), to `target`."""
    weight = steps.run.weights["W_ih"]
    for rows, columns, _ in steps.cell.blocks("input", steps.layer.hidden_size):
        target[..., columns] += vx @ weight[rows].T


class UnitChanges:
    """A change for every entry of every parameter of one direction, and for every entry of its initial states.

    The changes of one sequence are numbered as the entries lie in the parameters, the initial states' after them.

    Parameters
    ----------
    steps : LocalSteps

    Attributes
    ----------
    count : int
        K, the number of changes of each sequence.
    places : dict of str to tuple of slice and shape
        For each parameter, named without suffix, which changes are its entries.
    initial : dict of str to slice
        The same for each state.

    Raises
    ------
    OptionError
        A further parameter, other than a vector, has no product: its entries cannot be changed column by column.
    """

    def __init__(self, steps: LocalSteps) -> None:
        self.steps = steps
        self.places: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name, array in steps.weights().items():
            self.places[name] = slice(start, start + array.size), array.shape
            start += array.size
        for symbol, name in steps.cell.own_symbols.items():
            if len(self.places[name][1]) != 1:
                raise OptionError(
                    f"UnitChanges: {name}, {symbol} in the formulas, must be a vector, or its Extra needs a product; "
                    f"got shape {self.places[name][1]}"
                )
        self.initial: dict[str, slice] = {}
        for state, width in zip(steps.cell.states, steps.widths, strict=True):
            self.initial[state] = slice(start, start + width)
            start += width
        self.count = start

    def tangents(self) -> TangentSteps:
        """Return the steps that carry these changes."""
        steps = self.steps
        own: dict[str, Array] = {}
        for symbol, name in steps.cell.own_symbols.items():
            place, (size, *_) = self.places[name]
            change = np.zeros((steps.N, self.count, size), steps.layer.dtype)
            change[:, place] = np.eye(size)
            own[symbol] = change.reshape(-1, size)
        return TangentSteps(steps, self.count, own)

    def begin(self) -> list[Array]:
        """Return the changes of the initial states, (M, H) each: unit vectors where they are what changes."""
        found: list[Array] = []
        for state, width in zip(self.steps.cell.states, self.steps.widths, strict=True):
            change = np.zeros((self.steps.N, self.count, width), self.steps.layer.dtype)
            change[:, self.initial[state]] = np.eye(width)
            found.append(change.reshape(-1, width))
        return found

    def enter(self, t: int, tangents: TangentSteps, arrays: Arrays) -> None:
        """Add what the changes of the parameters are to step t: the immediate part of the influence matrix."""
        cell = self.steps.cell
        into_bias = self._grid(tangents.slot("va_t", arrays))
        for kind, weight, bias in KINDS:
            gradient = cell.input_gradient if kind == "input" else cell.hidden_gradient
            into = self._grid(tangents.slot(_changed(gradient + "_t"), arrays))
            for rows, columns, source in self.steps.products(kind):
                self._diagonal(weight, into[columns], rows, source[t])
                if bias in self.places:
                    self._diagonal(bias, into_bias[columns], rows, np.ones((self.steps.N, 1)))
        for name, extra in cell.parameters.items():
            if extra.product is not None:
                gradient, source_name = extra.product
                source = self.steps.timeline.aligned(source_name, self.steps.run.arrays)
                into = self._grid(tangents.slot(_changed(gradient), arrays))
                self._diagonal(name, into, slice(None), source[t])

    def _grid(self, array: Array) -> Array:
        """Return (M, A) as (A, N, K), the same memory."""
        return array.T.reshape(array.shape[1], self.steps.N, self.count)

    def _diagonal(self, name: str, into: Array, rows: slice, source: Array) -> None:
        """Row r of a weight acts on `source`, (N, J), and goes to pre-activation r: write that into (R, N, K)."""
        place, shape = self.places[name]
        width = source.shape[1]
        numbers = np.arange(place.start, place.stop).reshape(shape[0], width)[rows]
        r = np.arange(len(numbers))
        into[r[:, None], :, numbers] = source.T[None]


# ---------------------------------------------------------------------------------------------- the whole layer


class Recorded:
    """A layer and a trace of it, for what runs through the recorded states forward in time: its edge to the caller.

    Parameters
    ----------
    where : str
        The function's name, for messages.
    layer : Recurrent
    trace : Trace
        From `layer.forward`.

    Attributes
    ----------
    plan : Plan
    layers : list of list of Direction
        The directions of each layer, the lowest layer first.
    steps : dict of str to LocalSteps
        By name, "l0", "l0_reverse", ...

    Raises
    ------
    DTypeError, ShapeError
        `layer` is no recurrent layer, the trace is not one of this layer.
    OptionError
        The cell has no `step_tangent`.
    """

    def __init__(self, where: str, layer: Recurrent, trace: Trace) -> None:
        if not isinstance(layer, Recurrent):
            raise DTypeError(f"{where}: layer must be a recurrent layer, an RNN say; got {type(layer).__name__}")
        self.where, self.layer = where, layer
        self.context: Context = layer._context(where, trace)
        if layer.cell.step_tangent is None:
            raise OptionError(
                f"{where}: {type(layer).__name__} has no formula for forward mode: its Cell needs a step_tangent "
                "(rnn_numpy.engine.cell says what that is to compute)"
            )
        self.plan: Plan = self.context.plan
        self.layers: list[list[Direction]] = layer._layers
        self.steps = local_steps(layer, trace)

    @property
    def width(self) -> int:
        """Number of units of a layer's output, both directions together."""
        return self.layer.num_directions * self.layer._output_width

    def factors(self, layer: int) -> Array | None:
        """Return what the outputs of a layer are multiplied with, (T, N, directions * H); None for nothing."""
        found = self.context.factors
        return None if found is None or layer == len(self.layers) - 1 else found[layer]

    def existing(self, array: Array) -> Array:
        """Return (T, N, K) with zeros past the ends of sequences."""
        return array if self.plan.alive is None else np.where(self.plan.exists(), array, 0)

    def input_change(self, vx: Any) -> Array | None:
        """Check a change of the input; return it as (T, N, D), None for None."""
        if vx is None:
            return None
        layer, context, packed = self.layer, self.context, self.context.packed
        if packed is not None:
            if not isinstance(vx, PackedSequence) or not packed.same_layout(vx):
                raise ShapeError(f"{self.where}: x was packed, so vx must be a PackedSequence with the layout of x")
            vx = vx.padded(batch_first=layer.batch_first)[0]
        T, N, D = self.plan.T, self.plan.N, layer.input_size
        shapes: dict[str, tuple[int, ...]] = {"(T, D)": (T, D), "(N, T, D)": (N, T, D), "(T, N, D)": (T, N, D)}
        symbols = "(T, D)" if context.unbatched else "(N, T, D)" if layer.batch_first else "(T, N, D)"
        array = arguments.array_of(self.where, "vx", vx, layer.dtype)
        arguments.shaped(self.where, "vx", array, symbols, shapes[symbols], "It must have the shape of x")
        return self.existing(self.plan.sorted(layer._time_major(array, context.unbatched), 1))

    def states_in(self, name: str, value: Any) -> list[Array | None]:
        """Check initial or final states' changes or gradients; return one (layers * directions, N, H) per state."""
        return self.layer._states_in(self.where, name, value, self.context)

    def gradient_in(self, doutput: Any) -> Array | None:
        """Check a gradient of the output; return it as (T, N, directions * H), 0 past the ends of sequences."""
        array = self.layer._gradient_in(self.where, doutput, self.context)
        return None if array is None else self.existing(array)

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

    def own(self, params: Parameters, direction: Direction) -> dict[str, Array]:
        """Return the arrays of one direction, of parameters or their gradients or changes, without their suffix."""
        return self.layer._weights(params, direction)

    def to_caller(self, array: Array) -> Any:
        """Return (T, N, K) in the caller's order and axes; packed, where the input was."""
        return self.layer._to_caller(array, self.context)

    def states_to_caller(self, states: Sequence[Array]) -> tuple[Array, ...]:
        """Return (layers * directions, N, H), one for each state, in the caller's order and axes."""
        return self.layer._states_to_caller(tuple(states), self.context)


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
    recorded = Recorded("jvp", layer, trace)
    signal: Any = recorded.input_change(vx)
    changes = recorded.parameter_changes(vparams)
    initial = recorded.states_in("vh_0", vh_0)
    finals: list[list[Array]] = []
    for directions in recorded.layers:
        outputs: list[Array] = []
        for direction in directions:
            vstates = [None if vstate is None else vstate[direction.row] for vstate in initial]
            output, final = _through(recorded, direction, signal, vstates, recorded.own(changes, direction))
            outputs.append(output)
            finals.append(final)
        signal = np.concatenate(outputs, axis=2)
        factors = recorded.factors(directions[0].layer)
        if factors is not None:
            signal = signal * factors
    vh_n = recorded.states_to_caller([np.stack(arrays) for arrays in zip(*finals, strict=True)])
    return TangentResult(recorded.to_caller(signal), vh_n[0] if len(vh_n) == 1 else vh_n)


def _through(
    recorded: Recorded,
    direction: Direction,
    vx: Array | None,
    vstates: Sequence[Array | None],
    changes: dict[str, Array],
) -> tuple[Array, list[Array]]:
    """Run one direction of one layer; return the changes of its outputs, (T, N, H), and of its final states."""
    steps = recorded.steps[direction.name]
    own = {symbol: changes[name] for symbol, name in steps.cell.own_symbols.items()}
    tangents = TangentSteps(steps, 1, own)
    entering = _entering(recorded, steps, vx, changes, tangents)
    output = np.zeros((steps.T, steps.N, steps.widths[0]), recorded.layer.dtype)
    latest = tangents.initial(vstates)
    for t in steps.order():
        arrays = tangents.begin(latest)
        for name, values in entering.items():
            tangents.slot(name, arrays)[...] += values[t]  # V1
        latest = tangents.step(t, arrays)  # V2
        alive = tangents.alive(t)
        output[t, :alive] = latest[0][:alive]
    return output, latest


def _entering(
    recorded: Recorded, steps: LocalSteps, vx: Array | None, changes: dict[str, Array], tangents: TangentSteps
) -> dict[str, Array]:
    """Return V1 for all steps at once: by argument's name, (T, N, ·). The transpose of what makes gradients of da."""
    cell, found = steps.cell, dict[str, Array]()
    empty = tangents.begin(tangents.initial([None] * len(cell.states)))

    def into(gradient: str) -> Array:
        name = _changed(gradient)
        if name not in found:
            width = tangents.slot(name, empty).shape[1]
            found[name] = np.zeros((steps.T, steps.N, width), recorded.layer.dtype)
        return found[name]

    for kind, weight, bias in KINDS:
        target = into((cell.input_gradient if kind == "input" else cell.hidden_gradient) + "_t")
        for rows, columns, source in steps.products(kind):
            target[..., columns] += recorded.existing(source) @ changes[weight][rows].T
            if bias in changes:
                into("da_t")[..., columns] += changes[bias][rows]
    if vx is not None:
        _add_input(steps, vx, into(cell.input_gradient + "_t"))
    for name, extra in cell.parameters.items():
        if extra.product is not None:
            gradient, source_name = extra.product
            into(gradient)[...] += steps.timeline.aligned(source_name, steps.run.arrays) @ changes[name].T
    return found
