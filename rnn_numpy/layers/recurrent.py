"""The driver of every recurrent layer: the only place that knows about time, layers, directions, lengths and dropout.

It knows no formula. A `Cell` brings these: functions on the arrays of one step, whose argument *names* say what the
driver is to hand them, step after step:

    h_t, a_t         row of a trace array that belongs to this step: the new state h, the step array a
    h_prev           row of the state h that this step reads
    dh_t, da_t, ...  the same of the gradients
    W_hh             the recurrent weights, the same at every step

A sequence's forward pass through one direction is

    a = W_ih x + b_ih + b_hh      for all t at once: one matrix product
    step_forward                  for t = 0 ... T-1 (in the reverse direction T-1 ... 0)

and its backward pass

    step_partials                 for many t at once: the local derivatives, which need no gradient from the future
    step_backward                 for t = T-1 ... 0 (reverse direction: 0 ... T-1); a generator, which yields each step
    dW_ih += da^T x,  dW_hh += da^T h_prev,  db += sum da     over all t and n: one matrix product each

so that only what the recurrence forces to be sequential runs inside the loops.

Layout. All arrays are time-major, (T, N, ·), one step a contiguous block. With `lengths` the rows are sorted by length,
longest first; the rows alive at step t are then the first n_t, and the steps get views of just these: padding costs no
work. The reverse direction needs no reversed copy: its state array is filled from the other end, sequence n entering at
row length_n.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.trace import GradientPass, LayerTrace, Step, Trace
from rnn_numpy.errors import DTypeError, ShapeError
from rnn_numpy.layers.timeline import Plan, Timeline

Array = NDArray[Any]
Loop = Iterator[tuple[LayerTrace, int, GradientPass]]


@dataclass(frozen=True)
class Cell:
    """The formulas of one recurrent cell. See the module for how argument names are read.

    Parameters
    ----------
    gates : int
        Rows of W_ih, W_hh and the biases in units of hidden_size; a_t is (N, gates * H).
    states : tuple of str
        Names of the states that go from step to step; the first is the output.
    step_forward : callable
        Writes the new states. `a_t` comes in holding W_ih x_t + b_ih + b_hh.
    step_partials : callable
        Writes into da_t the local derivatives, that is all factors of da_t that do not depend on a gradient. Gets one
        step or all steps stacked: it must not care about the number of leading axes.
    step_backward : callable
        Turns da_t into dL/da_t and adds to the gradient of the previous states.
    in_place : bool
        `step_forward` also works where a_t and the new h_t are one memory (inference then needs a single array).
    """

    gates: int
    states: tuple[str, ...]
    step_forward: Callable[..., None]
    step_partials: Callable[..., None]
    step_backward: Callable[..., None]
    in_place: bool = False


class BackwardResult:
    """What a backward pass returns.

    Attributes
    ----------
    dx : ndarray
        Gradient of the input, in the input's shape.
    dh_0 : ndarray
        Gradient of the initial state (of a zero one where none was given), in its shape; for a cell with further states
        also `dc_0`, ...
    grads : Parameters
        Gradients of the parameters, the same object that was handed in, if one was.
    """

    dx: Array
    dh_0: Array
    grads: Parameters

    def __init__(self, dx: Array, initial: Mapping[str, Array], grads: Parameters) -> None:
        self.dx = dx
        self.grads = grads
        for state, array in initial.items():
            setattr(self, f"d{state}_0", array)

    def __repr__(self) -> str:
        rows = [f"{name} {array.shape}" for name, array in vars(self).items() if name != "grads"]
        return f"BackwardResult({', '.join(rows)}, grads of {', '.join(self.grads)})"


class BackwardSteps(Iterator[Step]):
    """The backward pass, one step at each `next`: what `backward_steps` returns.

    Attributes
    ----------
    result : BackwardResult or None
        None until the last step is done. Only then are gradients added to `grads`; stopping early leaves them
        untouched.
    """

    def __init__(self, loop: Loop, results: list[BackwardResult]) -> None:
        self._loop = loop
        self._results = results
        self._step: Step | None = None

    @property
    def result(self) -> BackwardResult | None:
        """The result of the whole pass, once the steps have run out."""
        return self._results[0] if self._results else None

    def __next__(self) -> Step:
        self._step = Step(*next(self._loop))
        return self._step

    def __repr__(self) -> str:
        if self._results:
            return "BackwardSteps: done"
        place = "before the first step" if self._step is None else f"after {self._step!r}".partition("\n")[0]
        return f"BackwardSteps: {place}"


@dataclass(frozen=True)
class Direction:
    """One direction of one layer: its name, its row in arrays of initial and final states, its columns in outputs."""

    name: str
    layer: int
    reverse: bool
    row: int
    columns: slice


@dataclass
class Context:
    """What the backward pass must know of the call that made a trace; `factors` are the dropout masks, sorted."""

    plan: Plan
    unbatched: bool
    signature: tuple[Any, ...]
    factors: list[Array] | None = None


class Recurrent:
    """Base of the recurrent layers: parameters and the passes through layers, directions and time.

    A subclass sets `cell` and, in its constructor, the options that are its own. See `rnn_numpy.RNN` for the meaning of
    all options.
    """

    cell: Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: DTypeLike,
        rng: np.random.Generator | int | None,
    ) -> None:
        kind = type(self).__name__
        self.input_size = arguments.positive_int(kind, "input_size", input_size)
        self.hidden_size = arguments.positive_int(kind, "hidden_size", hidden_size)
        self.num_layers = arguments.positive_int(kind, "num_layers", num_layers)
        self.bias = arguments.flag(kind, "bias", bias)
        self.batch_first = arguments.flag(kind, "batch_first", batch_first)
        self.dropout = arguments.probability(kind, "dropout", dropout)
        self.bidirectional = arguments.flag(kind, "bidirectional", bidirectional)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"{kind}: dropout = {self.dropout} has no effect with num_layers = 1: it acts between layers",
                UserWarning,
                stacklevel=3,
            )
        self.rng = arguments.generator(kind, rng)
        self._layers = [self._directions(layer) for layer in range(self.num_layers)]
        self.params = Parameters(self._shapes(), arguments.layer_dtype(kind, dtype))
        # torch's default for all recurrent parameters, biases among them, drawn in this order.
        bound = 1 / np.sqrt(self.hidden_size)
        self.params.flat[:] = self.rng.uniform(-bound, bound, self.params.flat.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, inputs and outputs."""
        return self.params.dtype

    @property
    def num_directions(self) -> int:
        """2 where bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the parameters under torch.nn's names, in torch.nn's order."""
        return self.params.state_dict()

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Copy parameters in; see `Parameters.load_state_dict` for what is refused."""
        self.params.load_state_dict(mapping)

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin of this layer with its parameters converted to `dtype` (float32, float64, complex128).

        Raises
        ------
        DTypeError
            `dtype` is another one, or would drop imaginary parts.
        """
        twin = copy.copy(self)
        twin.params = arguments.converted(type(self).__name__, self.params, dtype)
        return twin

    def __call__(
        self, x: ArrayLike, h_0: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Array, Any]:
        """Run the layer for its outputs alone: no trace is kept, no dropout is applied.

        Arguments, shapes and errors are those of `forward`.

        Returns
        -------
        output, h_n
            As `forward` returns them, bit for bit (without dropout), but writable.
        """
        output, h_n, _ = self._forward(x, h_0, lengths, training=False, masks=None, record=False, check_finite=False)
        return output, h_n

    def forward(
        self,
        x: ArrayLike,
        h_0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        training: bool = True,
        dropout_masks: Sequence[ArrayLike] | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Any, Trace]:
        """Run the layer and record what its backward pass needs.

        Parameters
        ----------
        x : ndarray, (T, N, D), or (N, T, D) where batch_first, or (T, D) for one sequence
            Inputs, D = input_size, dtype that of the layer. Copied into the trace: later changes of `x` do no harm.
        h_0 : ndarray, (num_layers * num_directions, N, H), or (num_layers * num_directions, H) for one sequence,
        optional
            Initial states, row layer * num_directions + direction; zeros where left out.
        lengths : int array_like, (N,), optional
            Steps of each sequence, 1 <= lengths <= T, in any order. Past its length a sequence has output 0, and its
            state stays that of its last step; the reverse direction starts there. What `x` holds there is not read.
        training : bool
            Whether dropout is applied.
        dropout_masks : list of num_layers - 1 ndarrays, (T, N, num_directions * H), optional
            Factors for the outputs of all layers but the last, in place of random ones: `trace.masks` of an earlier
            pass repeats it.
        check_finite : bool
            Look for NaN and infinity in inputs, states and outputs.

        Returns
        -------
        output : ndarray, (T, N, num_directions * H), axes as those of `x`
            The last layer's states after each step, forward then reverse direction. Read-only, since backward reads it
            too.
        h_n : ndarray, like h_0
            Each direction's state after its last step.
        trace : Trace
            For `backward`, `backward_steps`, and for reading.

        Raises
        ------
        ShapeError, DTypeError, OptionError
            An argument does not fit; the message has the symbolic and the actual shape.
        NonFiniteError
            Where `check_finite`: names the first layer, t and n that are not finite.

        Notes
        -----
        Cost: 2 T N G H (D + H) multiplications and additions per direction of the first layer. The trace keeps
        T N (D + (G + 1) H) numbers for it (G = 1 gates for RNN), and copies of its weights.
        """
        return self._forward(
            x, h_0, lengths, training=training, masks=dropout_masks, record=True, check_finite=check_finite
        )

    def backward(
        self, trace: Trace, doutput: ArrayLike | None, dh_n: ArrayLike | None = None, grads: Parameters | None = None
    ) -> BackwardResult:
        """Back-propagate through time: the steps of `backward_steps`, run to the end.

        Parameters
        ----------
        trace : Trace
            From `forward` of this layer. It may be used several times, also after the parameters have changed: it holds
            those of the forward pass. It keeps the gradients of the latest backward pass.
        doutput : ndarray, like output, or None
            dL/doutput; what it holds past the end of a sequence is ignored. None stands for zeros.
        dh_n : ndarray, like h_n, optional
            dL/dh_n; zeros where left out.
        grads : Parameters, optional
            Gradients are added to these (`layer.params.zeros_like()` makes them). New ones are made where left out.

        Returns
        -------
        BackwardResult
            dx, dh_0 and grads: sums over time and batch of L's derivatives, divided by nothing.

        Raises
        ------
        ShapeError, DTypeError
            A gradient does not have the shape or dtype of what it is the gradient of; the trace is another layer's.

        Notes
        -----
        Cost: twice the products of the forward pass.
        """
        loop, results = self._start_backward(trace, doutput, dh_n, grads, copied=False)
        for _ in loop:
            pass
        return results[0]

    def backward_steps(
        self, trace: Trace, doutput: ArrayLike | None, dh_n: ArrayLike | None = None, grads: Parameters | None = None
    ) -> BackwardSteps:
        """Back-propagate through time one step at a time, newest step first.

        Arguments and errors are those of `backward`, which runs this very loop. `doutput` and `dh_n` are copied at
        once.

        Returns
        -------
        BackwardSteps
            An iterator of `Step`; it visits the last layer first and, within a layer, the forward direction first.
            After the last step `grads` are complete and `.result` is the BackwardResult. Breaking out early leaves
            `grads` untouched.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import RNN
        >>> rnn = RNN(2, 3, rng=0)
        >>> output, h_n, trace = rnn.forward(np.ones((4, 1, 2)))
        >>> steps = rnn.backward_steps(trace, np.ones((4, 1, 3)))
        >>> [step.t for step in steps]
        [3, 2, 1, 0]
        >>> steps.result.dx.shape
        (4, 1, 2)
        """
        return BackwardSteps(*self._start_backward(trace, doutput, dh_n, grads, copied=True))

    def _start_backward(
        self, trace: Trace, doutput: ArrayLike | None, dh_n: Any, grads: Parameters | None, copied: bool
    ) -> tuple[Loop, list[BackwardResult]]:
        """Check the arguments; return the loop, not yet begun, and the list to which it will append its result."""
        where = f"{type(self).__name__}.backward"
        context = self._context(where, trace)
        grads = arguments.gradients(where, grads, self.params)
        top = self._gradient_in(where, doutput, context)
        dfinals = self._states_in(where, "dh_n", dh_n, context)
        if copied:
            top, dfinals = copy.deepcopy((top, dfinals))
        results: list[BackwardResult] = []
        return self._bptt(trace, top, dfinals, grads, results), results

    # ------------------------------------------------------------------------------------------------ the passes

    def _forward(
        self,
        x: ArrayLike,
        h_0: Any,
        lengths: ArrayLike | None,
        *,
        training: bool,
        masks: Sequence[ArrayLike] | None,
        record: bool,
        check_finite: bool,
    ) -> tuple[Array, Any, Trace]:
        where = f"{type(self).__name__}.forward"
        arguments.flag(where, "training", training)
        arguments.flag(where, "check_finite", check_finite)
        context, signal = self._inputs(where, x, lengths, copied=record)
        plan = context.plan
        states_0 = self._states_in(where, "h_0", h_0, context)
        factors = self._dropout_factors(where, masks, training, plan)
        if check_finite:
            for state, array in zip(self.cell.states, states_0, strict=True):
                if array is not None:
                    arguments.finite(where, f"{state}_0", plan.unsorted(array, 1), "layer * directions, n, unit")
            arguments.finite(where, "x", plan.unsorted(np.where(plan.exists(), signal, 0), 1), "t, n, d")
        context.factors = factors
        runs: dict[str, LayerTrace] = {}
        finals: list[tuple[Array, ...]] = []
        for directions in self._layers:
            outputs: list[Array] = []
            for direction in directions:
                timeline = Timeline(plan, direction.reverse)
                initial = [None if state_0 is None else state_0[direction.row] for state_0 in states_0]
                run = runs[direction.name] = self._run_forward(direction, timeline, plan, signal, initial, record)
                outputs.append(timeline.output(run.arrays[self.cell.states[0]], plan))
                finals.append(tuple(run.arrays[state][timeline.exit] for state in self.cell.states))
                if check_finite:
                    arguments.finite(where, f"output of {run.name}", plan.unsorted(outputs[-1], 1), "t, n, unit")
            signal = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)
            if factors is not None and directions is not self._layers[-1]:
                signal = signal * factors[directions[0].layer]
        output = self._to_caller(signal, context)
        if record:
            output = output.view()
            output.flags.writeable = False
        h_n = tuple(np.stack(arrays) for arrays in zip(*finals, strict=True))
        kept = None if factors is None else [plan.unsorted(factor, 1) for factor in factors]
        return output, _single(self._states_to_caller(h_n, context)), Trace(runs, kept, context)

    def _run_forward(
        self,
        direction: Direction,
        timeline: Timeline,
        plan: Plan,
        x: Array,
        initial: Sequence[Array | None],
        record: bool,
    ) -> LayerTrace:
        """Run one direction of one layer; return its trace with x, a and the states."""
        run = LayerTrace(direction.name, direction.layer, direction.reverse, self.cell.states, plan.unsort)
        weights = self._weights(self.params, direction)
        states: dict[str, Array] = {}
        for name, state_0 in zip(self.cell.states, initial, strict=True):
            states[name] = plan.new(plan.T + 1, self.hidden_size, self.dtype)
            states[name][timeline.entry] = 0 if state_0 is None else state_0
        if self.cell.in_place and not record:
            a = states[self.cell.states[0]][timeline.new : timeline.new + plan.T]
        else:
            a = plan.new(plan.T, self.cell.gates * self.hidden_size, self.dtype)
        plan.product(x, weights["weight_ih"].T, a, weights["bias_ih"] + weights["bias_hh"] if self.bias else None)
        run.arrays = {"x": x, "a": a, **states}
        if record:
            run.weights = {"W_ih": weights["weight_ih"].copy(), "W_hh": weights["weight_hh"].copy()}
        step_forward = self.cell.step_forward
        constants = {"W_hh": _laid_out(weights["weight_hh"], plan.N, used_transposed=True)}
        steps = zip(*timeline.columns(step_forward, run.arrays, constants, False), strict=False)
        for t, step_arguments in zip(timeline.order(False), steps, strict=False):  # noqa: B007  (t is for the debugger)
            step_forward(*step_arguments)
        return run

    def _bptt(
        self,
        trace: Trace,
        doutput: Array | None,
        dfinals: Sequence[Array | None],
        grads: Parameters,
        results: list[BackwardResult],
    ) -> Loop:
        """The whole backward pass; yields once per layer, direction and step, and appends its result at the end."""
        context: Context = trace.context
        plan = context.plan
        arrays: dict[str, dict[str, Array]] = {}
        initial = tuple(np.empty((len(trace.runs), plan.N, self.hidden_size), self.dtype) for _ in self.cell.states)
        dx: Array | None = None
        for run in trace.runs.values():
            run.latest = GradientPass({})
        for directions in reversed(self._layers):
            if dx is not None:
                # The input of the layer above was this layer's output, times the dropout factors.
                doutput = dx if context.factors is None else dx * context.factors[directions[0].layer]
            dx = None
            for direction in directions:
                run, timeline = trace.runs[direction.name], Timeline(plan, direction.reverse)
                from_loss = None if doutput is None else doutput[:, :, direction.columns]
                from_final = [None if dfinal is None else dfinal[direction.row] for dfinal in dfinals]
                gradients = run.latest = GradientPass(self._new_gradients(timeline, plan, from_loss, from_final))
                recorded = arrays[direction.name] = {**run.arrays, **gradients.arrays}
                gradients.reached = -1 if direction.reverse else timeline.span
                for t in self._run_backward(timeline, plan, recorded, run.weights["W_hh"]):
                    gradients.reached = t
                    yield run, t, gradients
                gradients.reached = None
                for dstate_0, state in zip(initial, self.cell.states, strict=True):
                    dstate_0[direction.row] = recorded["d" + state][timeline.entry]
                dx_run = plan.new(plan.T, run.arrays["x"].shape[2], self.dtype)
                plan.product(recorded["da"], run.weights["W_ih"], dx_run)  # B0
                dx = dx_run if dx is None else dx + dx_run
        for direction in itertools.chain(*self._layers):
            timeline = Timeline(plan, direction.reverse)
            self._accumulate(arrays[direction.name], timeline, plan, self._weights(grads, direction))
        if dx is not None:
            dinitial = dict(zip(self.cell.states, self._states_to_caller(initial, context), strict=True))
            results.append(BackwardResult(self._to_caller(dx, context), dinitial, grads))

    def _run_backward(
        self, timeline: Timeline, plan: Plan, arrays: Mapping[str, Array], weight_hh: Array
    ) -> Iterator[int]:
        """BPTT through one direction of one layer; yields t after each step."""
        step_partials, step_backward = self.cell.step_partials, self.cell.step_backward
        constants = {"W_hh": _laid_out(weight_hh, plan.N, used_transposed=False)}
        steps = zip(*timeline.columns(step_backward, arrays, constants, True), strict=False)
        for block in timeline.blocks(arrays["da"][0].nbytes):
            for block_arguments in timeline.stacked(step_partials, arrays, block):
                step_partials(*block_arguments)
            for t, step_arguments in zip(block, steps, strict=False):
                step_backward(*step_arguments)
                yield t

    def _new_gradients(
        self, timeline: Timeline, plan: Plan, doutput: Array | None, dfinals: Sequence[Array | None]
    ) -> dict[str, Array]:
        """Return new arrays for the gradients of a and of the states; these hold what the loss adds directly."""
        gradients: dict[str, Array] = {}
        for index, (state, dfinal) in enumerate(zip(self.cell.states, dfinals, strict=True)):
            dstate = plan.new(plan.T + 1, self.hidden_size, self.dtype)
            from_loss = dstate[timeline.new : timeline.new + plan.T]
            if index > 0 or doutput is None:
                dstate[...] = 0
            elif plan.alive is None:
                from_loss[...] = doutput
                dstate[timeline.entry] = 0
            else:
                from_loss[plan.alive] = doutput[plan.alive]
            if dfinal is not None:
                dstate[timeline.exit] += dfinal
            gradients["d" + state] = dstate
        gradients["da"] = plan.new(plan.T, self.cell.gates * self.hidden_size, self.dtype)
        return gradients

    def _accumulate(
        self, arrays: Mapping[str, Array], timeline: Timeline, plan: Plan, grads: Mapping[str, Array]
    ) -> None:
        """Add one direction's parameter gradients: sums over t and n, as one product each."""
        da = plan.flat(arrays["da"])
        h_prev = arrays[self.cell.states[0]][timeline.prev : timeline.prev + plan.T]
        grads["weight_ih"][...] += da.T.dot(plan.flat(arrays["x"]))
        grads["weight_hh"][...] += da.T.dot(plan.flat(h_prev))
        if self.bias:
            db = np.ones(len(da), self.dtype).dot(da)  # sum over rows, several times as fast as da.sum(axis=0)
            grads["bias_ih"][...] += db
            grads["bias_hh"][...] += db

    # ------------------------------------------------------------------------------------------------ parameters

    def _directions(self, layer: int) -> list[Direction]:
        """Return the one or two directions of a layer, in torch's order."""
        H, names = self.hidden_size, (f"l{layer}", f"l{layer}_reverse")[: self.num_directions]
        return [
            Direction(name, layer, bool(k), layer * self.num_directions + k, slice(k * H, (k + 1) * H))
            for k, name in enumerate(names)
        ]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        H, rows = self.hidden_size, self.cell.gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for direction in itertools.chain(*self._layers):
            inputs = self.input_size if direction.layer == 0 else self.num_directions * H
            shapes[f"weight_ih_{direction.name}"] = (rows, inputs)
            shapes[f"weight_hh_{direction.name}"] = (rows, H)
            if self.bias:
                shapes[f"bias_ih_{direction.name}"] = (rows,)
                shapes[f"bias_hh_{direction.name}"] = (rows,)
        return shapes

    def _weights(self, params: Parameters, direction: Direction) -> dict[str, Array]:
        """Return the arrays of one direction of one layer, of parameters or of gradients, without their suffix."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        return {name: params[f"{name}_{direction.name}"] for name in names}

    def _signature(self) -> tuple[Any, ...]:
        """Return what a trace must agree with."""
        return type(self), self.cell, self.params.shapes, self.dtype, self.batch_first

    # ------------------------------------------------------------------------------------------------ the edge

    def _inputs(self, where: str, x: ArrayLike, lengths: ArrayLike | None, copied: bool) -> tuple[Context, Array]:
        """Check x and lengths; return the call's context and x as (T, N, D) in the engine's order."""
        array = arguments.array_of(where, "x", x, self.dtype)
        D, symbols = self.input_size, "(N, T, D)" if self.batch_first else "(T, N, D)"
        if array.ndim not in (2, 3):
            raise ShapeError(
                f"{where}: x must be {symbols}, or (T, D) for one sequence; got {array.ndim} axes, {array.shape}"
            )
        unbatched = array.ndim == 2
        if array.shape[-1] != D:
            letters = "(T, D)" if unbatched else symbols
            raise ShapeError(f"{where}: x must have shape {letters} with D = input_size = {D}; got {array.shape}")
        signal = self._time_major(array, unbatched)
        T, N = signal.shape[:2]
        if T == 0:
            raise ShapeError(f"{where}: x must have at least one step, T >= 1; got shape {array.shape} with T = 0")
        plan = Plan(T, N, arguments.sequence_lengths(where, lengths, T, N))
        if plan.sort is None and not copied:
            # As forward's copy is; another memory order can take another route through the matrix product.
            signal = np.ascontiguousarray(signal)
        if plan.sort is None and copied:
            copied_signal = memory.empty(signal.shape, self.dtype)
            copied_signal[...] = signal
            signal = copied_signal
        return Context(plan, unbatched, self._signature()), plan.sorted(signal, 1)

    def _states_in(self, where: str, name: str, value: Any, context: Context) -> list[Array | None]:
        """Check initial states or gradients of final ones; return one (layers * directions, N, H) per state, or None
        for zeros.
        """
        states = self.cell.states
        if value is None:
            return [None] * len(states)
        if len(states) == 1:
            if isinstance(value, tuple):
                raise DTypeError(
                    f"{where}: {name} must be one array, the state {states[0]}; got a tuple of {len(value)}"
                )
            value = (value,)
        if not isinstance(value, tuple) or len(value) != len(states):
            wanted = f"a tuple of {len(states)} arrays, {', '.join(states)}"
            raise DTypeError(f"{where}: {name} must be {wanted}; got {type(value).__name__}")
        rows, H, plan = self.num_layers * self.num_directions, self.hidden_size, context.plan
        batch: tuple[int, ...] = () if context.unbatched else (plan.N,)
        symbols = "(layers * directions, H)" if context.unbatched else "(layers * directions, N, H)"
        checked: list[Array | None] = []
        for state, part in zip(states, value, strict=True):
            full = name.replace("h", state, 1)
            array = arguments.array_of(where, full, part, self.dtype)
            hint = "States keep this shape with batch_first, too" if self.batch_first else ""
            arguments.shaped(where, full, array, symbols, (rows, *batch, H), hint)
            checked.append(plan.sorted(array.reshape(rows, plan.N, H), 1))
        return checked

    def _dropout_factors(
        self, where: str, masks: Sequence[ArrayLike] | None, training: bool, plan: Plan
    ) -> list[Array] | None:
        """Return what each layer's output but the last is multiplied with, in the engine's order, or None for no
        dropout.
        """
        count, shape = self.num_layers - 1, (plan.T, plan.N, self.num_directions * self.hidden_size)
        if masks is not None:
            if not isinstance(masks, Sequence) or len(masks) != count:
                got = len(masks) if isinstance(masks, Sequence) else type(masks).__name__
                raise ShapeError(f"{where}: dropout_masks must be a list of num_layers - 1 = {count} arrays; got {got}")
            factors: list[Array] = []
            for index, mask in enumerate(masks):
                name = f"dropout_masks[{index}]"
                array = arguments.as_array(where, name, mask)
                arguments.shaped(where, name, array, "(T, N, directions * H)", shape)
                if array.dtype.kind not in "biuf" and array.dtype != self.dtype:
                    raise DTypeError(f"{where}: {name} must hold real numbers; got dtype {array.dtype}")
                factors.append(plan.sorted(array.astype(self.dtype), 1))
            return factors
        if not training or self.dropout == 0 or count == 0:
            return None
        # p = 1 leaves nothing to scale up.
        scale = 0.0 if self.dropout == 1 else 1 / (1 - self.dropout)
        drawn = (np.where(self.rng.random(shape) >= self.dropout, scale, 0) for _ in range(count))
        return [plan.sorted(factor.astype(self.dtype), 1) for factor in drawn]

    def _context(self, where: str, trace: Trace) -> Context:
        if not isinstance(trace, Trace):
            raise DTypeError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
        context: Context = trace.context
        if context.signature != self._signature():
            raise ShapeError(f"{where}: trace was recorded by a layer with other options, not by this {self!r}")
        return context

    def _gradient_in(self, where: str, doutput: ArrayLike | None, context: Context) -> Array | None:
        """Check dL/doutput; return it as (T, N, directions * H) in the engine's order."""
        if doutput is None:
            return None
        plan, width = context.plan, self.num_directions * self.hidden_size
        array = arguments.array_of(where, "doutput", doutput, self.dtype)
        shape: tuple[int, ...] = (plan.N, plan.T, width) if self.batch_first else (plan.T, plan.N, width)
        symbols = "(N, T, directions * H)" if self.batch_first else "(T, N, directions * H)"
        if context.unbatched:
            symbols, shape = "(T, directions * H)", (plan.T, width)
        arguments.shaped(where, "doutput", array, symbols, shape, "It must have the shape of output")
        return plan.sorted(self._time_major(array, context.unbatched), 1)

    def _time_major(self, array: Array, unbatched: bool) -> Array:
        if unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _to_caller(self, array: Array, context: Context) -> Array:
        """Return (T, N, K) in the caller's order and axes."""
        array = context.plan.unsorted(array, 1)
        if context.unbatched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _states_to_caller(self, states: tuple[Array, ...], context: Context) -> tuple[Array, ...]:
        ordered = (context.plan.unsorted(array, 1) for array in states)
        return tuple(array[:, 0] if context.unbatched else array for array in ordered)

    def _options(self) -> list[str]:
        """Return the options that differ from their defaults, for the repr."""
        options = [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        options += [] if self.bias else ["bias=False"]
        options += ["batch_first=True"] if self.batch_first else []
        options += [f"dropout={self.dropout}"] if self.dropout else []
        options += ["bidirectional=True"] if self.bidirectional else []
        return [*options, f"dtype={self.dtype}"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([str(self.input_size), str(self.hidden_size), *self._options()])})"


def _single(states: tuple[Array, ...]) -> Any:
    """Return the one state of a cell with one, else all: the form in which a caller sees states."""
    return states[0] if len(states) == 1 else states


def _laid_out(weight: Array, batch: int, *, used_transposed: bool) -> Array:
    """Return W_hh, equal in value, in the memory order in which the product of a step is fastest.

    OpenBLAS multiplies (N, H) by a matrix stored by columns faster in double precision (W_hh as it stands, used
    transposed, is one) and in large single-precision products, and by one stored by rows in small single-precision
    ones; up to 15 % of the product.
    """
    by_columns = batch > 1 and (weight.dtype != np.float32 or weight.shape[1] >= 256)
    return weight if by_columns == used_transposed else np.asfortranarray(weight)
