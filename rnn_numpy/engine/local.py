r"""The steps of a recurrent layer one by one, each at the states that a trace recorded: maps, Jacobians, adjoints.

A step takes the states before it and the pre-activations that come in, a_t, and gives the states after it,

    s_t = F(s_{t-1}, a_t),        a_t = W_ih x_t + b

where s stacks all states of the cell, (h, c) of an LSTM, and F is what the driver runs at each step: the cell's
`step_forward` with whatever masks do before and after it. Around a recorded trajectory it is linear,

    J_t = ds_t/ds_{t-1}  (S, S)        B_t = ds_t/da_t  (S, A)

and back-propagation through time is the product of these matrices:

    (C1)  s'_t     = dL/ds_t directly + J_{t+1}^T s'_{t+1}
    (C2)  da_t     = B_t^T s'_t

`LocalSteps` gives both matrices without any formula for a derivative: by the complex step of F, one column for each
sequence, step and entry, all in one call of the driver's own forward step. Whoever wants them from the backward
formulas pushes unit vectors through `pull`, which is `step_backward` on as many columns as there are vectors. That both
agree is the proof that a backward formula belongs to its forward formula, step by step; since the states are the
recorded ones, no chaos can come between.

Arrays are in the engine's order, (T, N, ·), sorted by length where there are lengths; slabs as they lie in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine import masks
from rnn_numpy.engine.edge import Direction
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.timeline import Plan, Timeline
from rnn_numpy.engine.trace import Arrays, LayerTrace, Trace
from rnn_numpy.errors import OptionError

Array = NDArray[Any]
Indices = NDArray[np.intp]

# h^2 vanishes beside 1, while h times a derivative stays in range down to derivatives of 1e-270.
STEP = 1e-20

CHUNK = 2**20  # entries of one array of pre-activations, at most, that are differentiated at once


@dataclass(frozen=True)
class Jacobians:
    """The linear maps of every step of one direction of one layer.

    Attributes
    ----------
    state : ndarray, (T, N, S, S)
        J_t: row i, column j is d s_t[i] / d s_{t-1}[j]. Zero where a sequence has no step t.
    preactivation : ndarray, (T, N, S, A)
        B_t, by what comes in as a_t, slabs as they lie in memory.
    deviation : float
        Largest difference of a state computed again from the recorded ones and the recorded state itself, relative to
        the largest state, or to 1, the size at which gates are rounded: some units of rounding, or the trace is not
        that of this layer.
    """

    state: Array
    preactivation: Array
    deviation: float


@dataclass(frozen=True)
class Pulled:
    """What `LocalSteps.pull` returns, for M columns.

    Attributes
    ----------
    da : ndarray, (M, A)
        dL/da_t, slabs as they lie in memory.
    dstates : ndarray, (M, S)
        dL/ds_{t-1}.
    arrays : Arrays
        All arrays of the step, recorded ones and gradients, each with one row (1, M, ·) or two (states).
    sums : dict of str to ndarray
        Gradients of the parameters, by their names without suffix, summed over the columns.
    """

    da: Array
    dstates: Array
    arrays: Arrays
    sums: dict[str, Array]


class LocalSteps:
    """The steps of one direction of one layer, each on its own, at the states that a trace recorded.

    Parameters
    ----------
    layer : Recurrent
        Real; its options are read, its parameters are not: a trace has those of its forward pass.
    trace : Trace
        From `layer.forward`.
    name : str
        "l0", "l0_reverse", "l1", ...

    Attributes
    ----------
    T, N : int
    widths : list of int
        Units of each state; S is their sum.
    slabs : int
        A, the width of a.
    alive : ndarray of bool, (T, N)
        Which steps exist.
    x : ndarray, (T, N, D)
        What the layer read.

    Examples
    --------
    For a tanh RNN J_t = diag(1 - h_t^2) W_hh, and B_t is the diagonal matrix:

    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.ones((4, 1, 2)))[2]
    >>> jacobians = LocalSteps(rnn, trace, "l0").jacobians()
    >>> expected = (1 - trace.h[1:, 0, :, None] ** 2) * rnn.params["weight_hh_l0"]
    >>> bool(np.allclose(jacobians.state[:, 0], expected, rtol=1e-14, atol=0))
    True
    """

    def __init__(self, layer: Recurrent, trace: Trace, name: str) -> None:
        self.layer = layer
        self.cell = layer.cell
        self.run: LayerTrace = trace.runs[name]
        self.plan: Plan = trace.context.plan
        self.direction: Direction = next(d for ds in layer._layers for d in ds if d.name == name)
        self.timeline = Timeline(self.plan, self.direction.reverse, self.cell.columns)
        self.T, self.N = self.plan.T, self.plan.N
        self.widths = [layer._width(state) for state in self.cell.states]
        self.slabs = len(self.cell.slabs) * layer.hidden_size
        self.alive: NDArray[np.bool_] = self.plan.exists()[:, :, 0]
        self.x: Array = self.run.arrays["x"]

    @property
    def output_columns(self) -> slice:
        """Where this direction's output stands in the layer's."""
        start = self.widths[0] * int(self.direction.reverse)
        return slice(start, start + self.widths[0])

    @property
    def S(self) -> int:
        """Number of units of all states together."""
        return sum(self.widths)

    @functools.cached_property
    def twin(self) -> Recurrent:
        """The layer in complex128, with the parameters of the trace."""
        return self._recorded(np.complex128)

    def _recorded(self, dtype: DTypeLike) -> Recurrent:
        twin = self.layer.astype(dtype)
        for name, view in twin._weights(twin.params, self.direction).items():
            view[...] = self.run.weights[twin._symbol(name)]
        return twin

    def states(self, when: str) -> Array:
        """Return the recorded states "before" or "after" each step, (T, N, S)."""
        offset = self.timeline.prev if when == "before" else self.timeline.new
        arrays = [self.run.arrays[state][offset : offset + self.T] for state in self.cell.states]
        return np.concatenate(arrays, axis=2)

    def order(self) -> list[int]:
        """Return the steps as the forward pass visits them."""
        return list(self.timeline.order(False))

    # ------------------------------------------------------------------------------------------------ forward

    def push(self, t: Indices, n: Indices, states: Array, nudge: Array | None = None) -> Array:
        """Run single steps forward, in complex numbers.

        Parameters
        ----------
        t, n : ndarray of int, (M,)
            Which step of which sequence each column is.
        states : ndarray, (M, S)
            The states before it.
        nudge : ndarray, (M, A), optional
            Added to a_t.

        Returns
        -------
        ndarray, (M, S)
            The states after it.
        """
        run = self._again(self.twin, t, n, states, nudge)
        return np.concatenate([run.arrays[state][1] for state in self.cell.states], axis=1)

    def rerun(self, t: Indices, n: Indices, states: Array, nudge: Array | None = None) -> LayerTrace:
        """Run single steps forward as `push` does, in the layer's own dtype; return what they record, for `pull`."""
        return self._again(self._recorded(self.layer.dtype), t, n, states, nudge)

    def _again(self, layer: Recurrent, t: Indices, n: Indices, states: Array, nudge: Array | None) -> LayerTrace:
        plan = Plan(1, len(t), None)
        timeline = Timeline(plan, False, self.cell.columns)
        initial = [part.astype(layer.dtype, copy=False) for part in self.split(states)]
        given = None if nudge is None else (nudge * self._scales)[None]
        x = np.ascontiguousarray(self.x[t, n][None]).astype(layer.dtype)
        chosen = self.run.masks
        if chosen is not masks.NONE:
            recurrent = None if chosen.recurrent is None else chosen.recurrent[n]
            chosen = masks.Masks(recurrent, {state: kept[t, n][None] for state, kept in chosen.zoneout.items()})
        return layer._run_forward(self.direction, timeline, plan, x, initial, chosen, True, given)

    @functools.cached_property
    def maps(self) -> Jacobians:
        """The Jacobians of all steps, computed once."""
        return self.jacobians()

    @functools.cached_property
    def _scales(self) -> Array:
        """What a change of a_t becomes in memory, (A,): slabs of sigmoids hold a_t / 2."""
        scales = [0.5 if slab in self.cell.sigmoids else 1.0 for slab in self.cell.slabs]
        return np.repeat(scales, self.layer.hidden_size)

    def split(self, states: Array) -> list[Array]:
        """Cut (..., S) into the cell's states."""
        return np.split(states, np.cumsum(self.widths)[:-1], axis=-1)

    def jacobians(self, tell: Callable[[int, int], None] | None = None) -> Jacobians:
        """Differentiate every step by all that it reads, by the complex step of the forward formulas.

        Parameters
        ----------
        tell : callable, optional
            Called with (done, all) as the work goes on.

        Notes
        -----
        Cost: S + A forward steps in complex numbers for each step of each sequence, in calls of many columns.
        """
        S, A = self.S, self.slabs
        J, B = np.zeros((self.T, self.N, S, S)), np.zeros((self.T, self.N, S, A))
        before, after = self.states("before"), self.states("after")
        steps, rows = np.nonzero(self.alive)
        largest = max(1.0, float(np.abs(after[steps, rows]).max(initial=0.0)))
        deviation = 0.0
        size = max(1, CHUNK // ((S + A) * max(A, S)))
        for start in range(0, len(steps), size):
            t, n = steps[start : start + size], rows[start : start + size]
            count, entries = len(t), np.arange(S + A)
            states = np.repeat(before[t, n].astype(np.complex128), S + A, axis=0).reshape(count, S + A, S)
            nudge = np.zeros((count, S + A, A), np.complex128)
            states[:, entries[:S], entries[:S]] += 1j * STEP
            nudge[:, entries[S:], entries[S:] - S] = 1j * STEP
            columns = np.repeat(t, S + A), np.repeat(n, S + A)
            found = self.push(*columns, states.reshape(-1, S), nudge.reshape(-1, A)).reshape(count, S + A, S)
            derivatives = found.imag.swapaxes(1, 2) / STEP
            J[t, n], B[t, n] = derivatives[:, :, :S], derivatives[:, :, S:]
            deviation = max(deviation, float(np.abs(found[:, 0].real - after[t, n]).max(initial=0.0)) / largest)
            if tell is not None:
                tell(min(start + size, len(steps)), len(steps))
        return Jacobians(J, B, deviation)

    # ------------------------------------------------------------------------------------------------ backward

    def pull(self, t: Indices, n: Indices, dstates: Array, run: LayerTrace | None = None) -> Pulled:
        """Run single steps backward: the cell's `step_backward`, with masks, on as many columns as wanted.

        Parameters
        ----------
        t, n : ndarray of int, (M,)
            Which step of which sequence each column is; one step may stand in many columns.
        dstates : ndarray, (M, S)
            dL/ds_t, total.
        run : LayerTrace, optional
            What the columns' formulas read, from `rerun` with the same columns; the recorded arrays where left out.
        """
        run, layer = self._gathered(t, n) if run is None else run, self.layer
        plan = Plan(1, len(t), None)
        timeline = Timeline(plan, False, self.cell.columns)
        gradients = layer._new_gradients(run, timeline, plan, None, self.split(dstates))
        arrays = Arrays({**run.arrays, **gradients}, gradients.part)
        own = Parameters(layer.params.shapes, layer.dtype)
        sums = layer._weights(own, self.direction)
        for _ in layer._run_backward(run, timeline, plan, arrays, sums):
            pass
        layer._through_products(run, arrays, timeline, plan, sums)
        before = np.concatenate([arrays["d" + state][0] for state in self.cell.states], axis=1)
        return Pulled(arrays["da"][0], before, arrays, sums)

    def _gathered(self, t: Indices, n: Indices) -> LayerTrace:
        """Return a trace of one step whose columns are single steps of the recorded one."""
        cell, source = self.cell, self.run.arrays
        run = LayerTrace(self.run.name, self.run.layer, False, cell.states, None)
        run.weights, run.masks = self.run.weights, self.run.masks
        run.arrays = Arrays({}, source.part)
        plan = Plan(1, len(t), None)
        for name, array in source.items():
            is_state = name in cell.states
            rows = [array[t + self.timeline.prev, n], array[t + self.timeline.new, n]] if is_state else [array[t, n]]
            target = plan.new(len(rows), array.shape[2], array.dtype, cell.columns)
            for row, values in zip(target, rows, strict=True):
                row[...] = values
            run.arrays[name] = target
        return run

    # ------------------------------------------------------------------------------------------------ parameters

    def products(self, kind: str) -> Iterator[tuple[slice, slice, Array]]:
        """Yield (rows of the weight, columns of a, what the rows act on, (T, N, ·)) of W_ih ("input") or W_hh
        ("hidden"): the weight's gradient is the sum over t, n of da[columns] times what they act on.
        """
        for rows, columns, source in self.cell.blocks(kind, self.layer.hidden_size):
            yield rows, columns, self.timeline.aligned(source, self.run.arrays)

    def column_gradients(self, pulled: Pulled) -> dict[str, Array]:
        """Return the gradients of this direction's parameters by the step of each column alone.

        Parameters
        ----------
        pulled : Pulled
            Of M columns.

        Returns
        -------
        dict of str to ndarray, (M, ...)
            By names without suffix, each of the parameter's shape with M in front.

        Raises
        ------
        OptionError
            A further parameter has no product: the formulas themselves sum its gradient, over all columns.
        """
        cell, arrays, hidden = self.cell, pulled.arrays, self.layer.hidden_size
        if cell.own_symbols:
            names = ", ".join(cell.own_symbols.values())
            raise OptionError(f"LocalSteps.column_gradients: {names} must have a product to have a gradient per column")
        timeline = Timeline(Plan(1, len(pulled.da), None), False, cell.columns)
        found = {name: np.zeros((len(pulled.da), *array.shape), array.dtype) for name, array in self.weights().items()}

        def of(name: str) -> Array:
            row: Array = timeline.aligned(name, arrays)[0]
            return row

        for kind, gradient, weight, bias in (
            ("input", cell.input_gradient, "weight_ih", "bias_ih"),
            ("hidden", cell.hidden_gradient, "weight_hh", "bias_hh"),
        ):
            for rows, columns, source in cell.blocks(kind, hidden):
                found[weight][:, rows] = of(gradient + "_t")[:, columns, None] * of(source)[:, None]
                if bias in found:
                    found[bias][:, rows] = pulled.da[:, columns]
        for name, extra in cell.parameters.items():
            if extra.product is not None:
                found[name][...] = of(extra.product[0])[:, :, None] * of(extra.product[1])[:, None]
        return found

    def weights(self) -> dict[str, Array]:
        """Return this direction's parameters as the trace has them, by their names without suffix."""
        names = self.layer._weights(self.layer.params, self.direction)
        return {name: self.run.weights[self.layer._symbol(name)] for name in names}

    def tangent(self, name: str, change: Array) -> Array:
        """Differentiate every step along a change of one parameter of this direction, (T, N, S), complex step.

        Parameters
        ----------
        name : str
            Without suffix, "weight_hh".
        change : ndarray
            Of the parameter's shape.
        """
        view = self.twin._weights(self.twin.params, self.direction)[name]
        steps, rows = np.nonzero(self.alive)
        value = view.copy()
        view[...] = value + 1j * STEP * change
        try:
            found = self.push(steps, rows, self.states("before")[steps, rows])
        finally:
            view[...] = value
        tangent = np.zeros((self.T, self.N, self.S))
        tangent[steps, rows] = found.imag / STEP
        return tangent


def local_steps(layer: Recurrent, trace: Trace) -> dict[str, LocalSteps]:
    """Return the steps of every layer and direction, by name, the lowest layer first."""
    return {name: LocalSteps(layer, trace, name) for name in trace.runs}


@dataclass(frozen=True)
class Entering:
    """What the loss says directly to the top layer and to the final states, in the engine's order.

    Attributes
    ----------
    output : ndarray, (T, N, directions * H)
        dL/doutput; 0 past the end of a sequence.
    finals : dict of str to ndarray, (N, S)
        By layer and direction, dL/d(final states).
    """

    output: Array
    finals: dict[str, Array]


def entering(layer: Recurrent, trace: Trace, doutput: Any, dh_n: Any = None) -> Entering:
    """Check gradients of a loss as `layer.backward` does, and bring them into the engine's order.

    Raises
    ------
    ShapeError, DTypeError
        As `layer.backward` does.
    """
    where = f"{type(layer).__name__}.backward"
    context = layer._context(where, trace)
    plan = context.plan
    output = layer._gradient_in(where, doutput, context)
    if output is None:
        output = np.zeros((plan.T, plan.N, layer.num_directions * layer._output_width), layer.dtype)
    finals = layer._states_in(where, "dh_n", dh_n, context)
    found: dict[str, Array] = {}
    for direction in (direction for directions in layer._layers for direction in directions):
        widths = [layer._width(state) for state in layer.cell.states]
        parts = [
            np.zeros((plan.N, width), layer.dtype) if final is None else final[direction.row]
            for final, width in zip(finals, widths, strict=True)
        ]
        found[direction.name] = np.concatenate(parts, axis=1)
    return Entering(np.where(plan.exists(), output, 0), found)


def to_caller(
    layer: Recurrent, trace: Trace, signal: Array, initial: Mapping[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """Bring something of x's shape, and something of the initial states', from the engine's order into the caller's.

    Parameters
    ----------
    signal : ndarray, (T, N, D)
    initial : mapping of str to ndarray, (N, S)
        By layer and direction, states side by side.

    Returns
    -------
    signal : ndarray, like x
    initial : dict of str to ndarray, like h_0
        By state.
    """
    context = trace.context
    widths = np.cumsum([layer._width(state) for state in layer.cell.states])[:-1]
    split = [np.split(array, widths, axis=1) for array in initial.values()]
    stacked = tuple(np.stack(arrays) for arrays in zip(*split, strict=True))
    states = layer._states_to_caller(stacked, context)
    return layer._to_caller(signal, context), dict(zip(layer.cell.states, states, strict=True))
