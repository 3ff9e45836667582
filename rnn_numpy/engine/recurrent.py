"""The driver of every recurrent layer: the only place that knows about time, layers, directions, lengths and dropout.

It knows no formula. A `Cell` brings these: functions on the arrays of one step, whose argument *names* say what the
driver is to hand them, step after step (`rnn_numpy.engine.cell` lists the names).

A sequence's forward pass through one direction is

    a = W_ih x + b_ih + b_hh      for many t at once: one matrix product
    step_forward                  for t = 0 ... T-1 (in the reverse direction T-1 ... 0)

and its backward pass

    step_partials                 for many t at once: the local derivatives, which need no gradient from the future
    step_backward                 for t = T-1 ... 0 (reverse direction: 0 ... T-1); a generator, which yields each step
    dW_ih = da^T x,  dW_hh = da^T h_prev,  db = sum da        over all t and n: one matrix product each

so that only what the recurrence forces to be sequential runs inside the loops. What is the same for every cell,
recurrent dropout and zoneout, stands before and after the cell's own formulas (`rnn_numpy.engine.masks`).

Layout. All arrays are time-major, (T, N, ·), one step a contiguous block, of rows or of columns as the cell's formulas
want it. With `lengths` the sequences are sorted by length, longest first; those alive at step t are then the first n_t,
and the steps get views of just these: padding costs no work. The reverse direction needs no reversed copy: its state
array is filled from the other end, sequence n entering at row length_n.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine import masks
from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.edge import Base, Context, Direction
from rnn_numpy.engine.timeline import Plan, Timeline, argument_names
from rnn_numpy.engine.trace import Arrays, GradientPass, LayerTrace, Step, Trace

Array = NDArray[Any]
Loop = Iterator[tuple[LayerTrace, int, GradientPass]]


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


class Recurrent(Base):
    """Base of the recurrent layers: parameters and the passes through layers, directions and time.

    A subclass sets `cell` and, in its constructor, the options that are its own. See `rnn_numpy.RNN` for the meaning of
    all options.
    """

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
        given = None, None, None
        output, h_n, _ = self._forward(x, h_0, lengths, training=False, given=given, record=False, check_finite=False)
        return output, h_n

    def forward(
        self,
        x: ArrayLike,
        h_0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        training: bool = True,
        dropout_masks: Sequence[ArrayLike] | None = None,
        recurrent_masks: Mapping[str, ArrayLike] | None = None,
        zoneout_masks: Mapping[str, Sequence[ArrayLike]] | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Any, Trace]:
        """Run the layer and record what its backward pass needs.

        Parameters
        ----------
        x : ndarray, (T, N, D), or (N, T, D) where batch_first, or (T, D) for one sequence
            Inputs, D = input_size, dtype that of the layer. Copied into the trace: later changes of `x` do no harm.
            Also a PackedSequence, in place of `x` and `lengths`; the output is then packed, too, and so are doutput and
            dx of the backward pass.
        h_0 : ndarray, (num_layers * num_directions, N, H), or (num_layers * num_directions, H) for one sequence,
        optional
            Initial states, row layer * num_directions + direction; zeros where left out. Of a layer with several
            states, an LSTM's h and c, a tuple of such arrays, here and wherever a state or its gradient stands.
        lengths : int array_like, (N,), optional
            Steps of each sequence, 1 <= lengths <= T, in any order. Past its length a sequence has output 0, and its
            state stays that of its last step; the reverse direction starts there. What `x` holds there is not read.
        training : bool
            Whether there are masks: dropout, recurrent dropout, zoneout. Without, zoneout takes the mean of old and new
            state, and the others nothing.
        dropout_masks : list of num_layers - 1 ndarrays, (T, N, num_directions * H), optional
            Factors for the outputs of all layers but the last, in place of random ones: `trace.masks` of an earlier
            pass repeats it.
        recurrent_masks : mapping of str to ndarray, (N, H), optional
            For each layer and direction ("l0", "l0_reverse", ...) the factors of the state that the recurrent weights
            act on, the same at all steps, in place of random ones: `trace.recurrent_masks`.
        zoneout_masks : mapping of str to sequence of ndarray, (T, N, H), optional
            For each layer and direction, and each state, the share of the old state that is kept, in place of random
            ones: `trace.zoneout_masks`.
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
        T N (D + K H) numbers for it, and copies of its weights. RNN has G = 1, K = 2; LSTM G = 4, K = 7; GRU G = 3,
        K = 5.
        """
        given = dropout_masks, recurrent_masks, zoneout_masks
        return self._forward(x, h_0, lengths, training=training, given=given, record=True, check_finite=check_finite)

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
        if grads is not None:
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
        x: Any,
        h_0: Any,
        lengths: ArrayLike | None,
        *,
        training: bool,
        given: tuple[Any, Any, Any],
        record: bool,
        check_finite: bool,
        nudges: Mapping[str, Array] = MappingProxyType({}),
    ) -> tuple[Any, Any, Trace]:
        where = f"{type(self).__name__}.forward"
        arguments.flag(where, "training", training)
        arguments.flag(where, "check_finite", check_finite)
        context, signal = self._inputs(where, x, lengths, copied=record)
        plan = context.plan
        states_0 = self._states_in(where, "h_0", h_0, context)
        dropout_masks, recurrent_masks, zoneout_masks = given
        factors = self._dropout_factors(where, dropout_masks, training, plan)
        state_masks = self._state_masks(where, recurrent_masks, zoneout_masks, training, plan)
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
                timeline = Timeline(plan, direction.reverse, self.cell.columns)
                initial = [None if state_0 is None else state_0[direction.row] for state_0 in states_0]
                chosen = state_masks.get(direction.name, masks.NONE)
                nudge = nudges.get(direction.name)
                run = self._run_forward(direction, timeline, plan, signal, initial, chosen, record, nudge)
                runs[direction.name] = run
                outputs.append(timeline.output(run.arrays[self.cell.states[0]], plan))
                finals.append(tuple(run.arrays[state][timeline.exit] for state in self.cell.states))
                if check_finite:
                    arguments.finite(where, f"output of {run.name}", plan.unsorted(outputs[-1], 1), "t, n, unit")
            signal = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)
            if factors is not None and directions is not self._layers[-1]:
                signal = signal * factors[directions[0].layer]
        output = self._to_caller(signal, context)
        if record and context.packed is None:
            output = output.view()
            output.flags.writeable = False
        h_n = tuple(np.stack(arrays) for arrays in zip(*finals, strict=True))
        kept = None if factors is None else [_locked(plan.unsorted(factor, 1)) for factor in factors]
        trace = Trace(runs, kept, context)
        for name, chosen in state_masks.items():
            if chosen.recurrent is not None:
                trace.recurrent_masks[name] = _locked(plan.unsorted(chosen.recurrent, 0))
            if chosen.zoneout and (training or zoneout_masks):
                trace.zoneout_masks[name] = tuple(_locked(plan.unsorted(k, 1)) for k in chosen.zoneout.values())
        return output, _single(self._states_to_caller(h_n, context)), trace

    def _run_forward(
        self,
        direction: Direction,
        timeline: Timeline,
        plan: Plan,
        x: Array,
        initial: Sequence[Array | None],
        chosen: masks.Masks,
        record: bool,
        nudge: Array | None = None,
    ) -> LayerTrace:
        """Run one direction of one layer; return its trace with all that its steps wrote.

        `nudge`, (T, N, slabs * H), is added to a before the steps: how one differentiates by a (see
        `rnn_numpy.engine.local`). It needs a record.
        """
        cell, H = self.cell, self.hidden_size
        weights, width = self._weights(self.params, direction), len(cell.slabs) * H
        arrays = self._new_arrays(timeline, plan, x, initial, chosen, record)
        run = LayerTrace(direction.name, direction.layer, direction.reverse, cell.states, plan.unsort)
        run.describe(cell.forward_names, cell.gradient_names, cell.derived, plan.alive)
        run.arrays, run.masks = arrays, chosen
        bias = cell.bias(weights["bias_ih"], weights["bias_hh"]) if self.bias else np.zeros(width, self.dtype)
        if record:
            run.weights = {self._symbol(name): _copy(array) for name, array in weights.items()}
            biases = [weights[name] for name in ("bias_ih", "bias_hh") if self.bias]
            run.weights["b"] = sum(biases, np.zeros(cell.gates * H, self.dtype))
        constants = self._constants(weights["weight_hh"], weights, bias, plan, backward=False)
        parts = chosen.forward(cell.states[0], (cell.step_forward, argument_names(cell.step_forward)))
        step, steps = self._compiled(parts, timeline, arrays, constants, plan, backward=False)
        weight_ih = cell.arranged("input", weights["weight_ih"], halved=True)
        filled = cell.span("input", H)
        added = plan.repeated(bias, cell.columns)
        to_input = added[:, filled] if self.bias and cell.biased else None
        rest = [slice(None, filled.start), slice(filled.stop, None)] if filled.stop - filled.start < width else []
        for block in timeline.blocks(plan.N * width * self.dtype.itemsize, False):
            low = min(block)
            a = timeline.block_of(arrays["a"], block)
            plan.product(x[low : low + len(block)], weight_ih, a[..., filled], to_input, low)  # F1, the input's part
            exists = True if plan.alive is None else plan.alive[low : low + len(block), :, None]
            for columns in rest:
                np.copyto(a[..., columns], added[:, columns] if cell.biased else 0, where=exists)
            if nudge is not None:
                a += timeline.block_of(nudge, block)
            for t, step_arguments in zip(block, steps, strict=False):  # noqa: B007  (t is for the debugger)
                step(*step_arguments)
        return run

    def _new_arrays(
        self,
        timeline: Timeline,
        plan: Plan,
        x: Array,
        initial: Sequence[Array | None],
        chosen: masks.Masks,
        record: bool,
    ) -> Arrays:
        """Return x, and new arrays for all that the steps write; the states hold the initial ones.

        Without a trace, what the next step overwrites has memory for one step or one block of steps alone.
        """
        cell, H = self.cell, self.hidden_size
        new = functools.partial(plan.new if record else plan.passing, dtype=self.dtype, columns=cell.columns)
        alone = not record and chosen is masks.NONE
        arrays = Arrays({"x": x}, functools.partial(cell.columns_of, hidden=H))
        for name, state_0 in zip(cell.states, initial, strict=True):
            make = plan.passing if alone and name in cell.overwritten else plan.new
            arrays[name] = make(plan.T + 1, self._width(name), self.dtype, cell.columns)
            arrays[name][timeline.entry] = 0 if state_0 is None else state_0
        for name, units in cell.records.items():
            arrays[name] = new(plan.T, units * H)
        arrays.update(self._masked_arrays(chosen, plan, new))
        if cell.in_place and alone:
            arrays["a"] = arrays[cell.states[0]][timeline.new : timeline.new + plan.T]
        else:
            width = len(cell.slabs) * H
            block_size = timeline.block_size(plan.N * width * self.dtype.itemsize)
            is_ring = not record and plan.counts is None and block_size < plan.T
            arrays["a"] = plan.new(block_size if is_ring else plan.T, width, self.dtype, cell.columns)
        return arrays

    def _bptt(
        self,
        trace: Trace,
        doutput: Array | None,
        dfinals: Sequence[Array | None],
        grads: Parameters | None,
        results: list[BackwardResult],
    ) -> Loop:
        """The whole backward pass; yields once per layer, direction and step, and appends its result at the end."""
        context: Context = trace.context
        plan, cell = context.plan, self.cell
        own = Parameters(self.params.shapes, self.dtype, memory.empty(self.params.flat.shape, self.dtype))
        rows = len(trace.runs)
        initial = tuple(np.empty((rows, plan.N, self._width(state)), self.dtype) for state in cell.states)
        dx: Array | None = None
        # All at once: with two passes side by side, a trace shows the arrays of the one that began last.
        passes = {name: GradientPass(Arrays()) for name in trace.runs}
        for name, run in trace.runs.items():
            run.latest = passes[name]
        for directions in reversed(self._layers):
            if dx is not None:
                # The input of the layer above was this layer's output, times the dropout factors.
                doutput = dx if context.factors is None else dx * context.factors[directions[0].layer]
            dx = None
            for direction in directions:
                run = trace.runs[direction.name]
                timeline = Timeline(plan, direction.reverse, cell.columns)
                from_loss = None if doutput is None else doutput[:, :, direction.columns]
                from_final = [None if dfinal is None else dfinal[direction.row] for dfinal in dfinals]
                gradients = passes[direction.name]
                gradients.arrays = self._new_gradients(run, timeline, plan, from_loss, from_final)
                recorded = Arrays({**run.arrays, **gradients.arrays}, gradients.arrays.part)
                sums = self._weights(own, direction)
                gradients.reached = -1 if direction.reverse else timeline.span
                for t in self._run_backward(run, timeline, plan, recorded, sums):
                    gradients.reached = t
                    yield run, t, gradients
                gradients.reached = None
                for dstate_0, state in zip(initial, cell.states, strict=True):
                    dstate_0[direction.row] = recorded["d" + state][timeline.entry]
                dx_run = self._through_products(run, recorded, timeline, plan, sums)
                dx = dx_run if dx is None else dx + dx_run
        if grads is None:
            grads = own
        else:
            grads.flat += own.flat
        if dx is not None:
            dinitial = dict(zip(cell.states, self._states_to_caller(initial, context), strict=True))
            results.append(BackwardResult(self._to_caller(dx, context), dinitial, grads))

    def _run_backward(
        self,
        run: LayerTrace,
        timeline: Timeline,
        plan: Plan,
        arrays: Arrays,
        sums: Mapping[str, Array],
    ) -> Iterator[int]:
        """BPTT through one direction of one layer; yields t after each step."""
        cell, weights = self.cell, run.weights
        named = {name: weights[self._symbol(name)] for name in sums}
        constants = self._constants(weights["W_hh"], named, None, plan, backward=True)
        for name, extra in cell.parameters.items():
            if extra.product is None:
                sums[name][...] = 0
                constants["d" + extra.symbol] = _as_column(sums[name], cell)
        parts = run.masks.backward(cell.states[0], (cell.step_backward, argument_names(cell.step_backward)))
        step, steps = self._compiled(parts, timeline, arrays, constants, plan, backward=True)
        for block in timeline.blocks(arrays["da"][0].nbytes, True):
            if cell.step_partials is not None:
                names = argument_names(cell.step_partials)
                for block_arguments in timeline.stacked(names, arrays, constants, block):
                    cell.step_partials(*block_arguments)
            for t, step_arguments in zip(block, steps, strict=False):
                step(*step_arguments)
                yield t

    def _new_gradients(
        self,
        run: LayerTrace,
        timeline: Timeline,
        plan: Plan,
        doutput: Array | None,
        dfinals: Sequence[Array | None],
    ) -> Arrays:
        """Return new arrays for the gradients of a and of the states; these hold what the loss adds directly."""
        cell, H = self.cell, self.hidden_size
        new = functools.partial(plan.new, dtype=self.dtype, columns=cell.columns)
        gradients = Arrays({}, functools.partial(cell.columns_of, hidden=H))
        for index, (state, dfinal) in enumerate(zip(cell.states, dfinals, strict=True)):
            dstate = new(plan.T + 1, self._width(state))
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
        gradients["da"] = new(plan.T, len(cell.slabs) * H)
        for name, width in cell.gradient_records.items():
            gradients[name] = new(plan.T, width * H)
        for state in run.masks.zoneout:
            gradients[f"d{state}_new"] = new(plan.T, self._width(state))
        if run.masks.recurrent is not None:
            dstate_in = gradients[f"d{cell.states[0]}_in"] = new(plan.T, self._width(cell.states[0]))
            dstate_in[...] = 0
        return gradients

    def _through_products(
        self, run: LayerTrace, arrays: Arrays, timeline: Timeline, plan: Plan, sums: Mapping[str, Array]
    ) -> Array:
        """Write one direction's parameter gradients, sums over t and n, as products; return the gradient of its input.

        The weights' rows may lie in memory in another order than in the parameters; each block of rows has a product.
        """
        cell, H = self.cell, self.hidden_size
        flat = functools.cache(lambda name: plan.flat(timeline.aligned(name, arrays)))
        for kind, name, gradient in (
            ("input", "weight_ih", cell.input_gradient),
            ("hidden", "weight_hh", cell.hidden_gradient),
        ):
            for rows, columns, source in cell.blocks(kind, H):
                np.dot(flat(gradient + "_t")[:, columns].T, flat(source), out=sums[name][rows])
        for name, extra in cell.parameters.items():
            if extra.product is not None:
                gradient, source = extra.product
                np.dot(flat(gradient).T, flat(source), out=sums[name])
        if self.bias:
            da = flat("da_t")
            db = da.T.dot(np.ones(len(da), self.dtype))  # several times as fast as da.sum(axis=0)
            for kind, name in (("input", "bias_ih"), ("hidden", "bias_hh")):
                for rows, columns, _ in cell.blocks(kind, H):
                    sums[name][rows] = db[columns]
        dx: Array = plan.new(plan.T, run.arrays["x"].shape[2], self.dtype, False)
        da = flat(cell.input_gradient + "_t")[:, cell.span("input", H)]
        weight_ih = cell.arranged("input", run.weights["W_ih"], halved=False)
        if plan.alive is not None:
            dx[plan.alive] = da.dot(weight_ih)
        else:
            np.dot(da, weight_ih, out=dx.reshape(len(da), dx.shape[2]))
        return dx

    def _compiled(
        self,
        parts: Sequence[masks.Part],
        timeline: Timeline,
        arrays: Arrays,
        constants: dict[str, Array],
        plan: Plan,
        backward: bool,
    ) -> tuple[Callable[..., None], Iterator[tuple[Any, ...]]]:
        """Return the function of a step, and an iterator over its arguments, step after step."""
        # Scratch belongs to this pass alone: passes on one trace may run side by side.
        scratch = plan.passing(plan.T, self.hidden_size, self.dtype, self.cell.columns)
        if plan.counts is None:
            constants["scratch_t"] = scratch[0].T if self.cell.columns else scratch[0]
        else:
            arrays = Arrays({**arrays, "scratch": scratch}, arrays.part)
        calls = [timeline.arguments(names, arrays, constants, backward) for _, names in parts]
        if len(parts) == 1:
            return parts[0][0], calls[0]
        return masks.chained(parts), zip(*calls, strict=True)

    def _constants(
        self, weight_hh: Array, weights: Mapping[str, Array], bias: Array | None, plan: Plan, backward: bool
    ) -> dict[str, Array]:
        """Return the arguments of formulas that are the same at every step."""
        cell, H = self.cell, self.hidden_size
        constants: dict[str, Array] = {}
        arranged = cell.arranged("hidden", weight_hh, halved=not backward)
        constants["W_hh"] = _laid_out(arranged, plan.N, cell.columns, backward)
        for name in cell.constant_names:
            constants[name] = constants["W_hh"][cell.rows_of(name, H)]
        constants["half"], constants["one"] = np.array(0.5, self.dtype), np.array(1, self.dtype)
        for name, extra in cell.parameters.items():
            constants[extra.symbol] = _as_column(weights[name], cell)
        if bias is not None:
            constants["b"] = _as_column(bias, cell)
        return constants

    def _masked_arrays(self, chosen: masks.Masks, plan: Plan, new: Callable[[int, int], Array]) -> dict[str, Array]:
        """Return the arrays that masks read, and those that hold what they have changed."""
        cell, arrays = self.cell, dict[str, Array]()

        def laid_out(array: Array) -> Array:
            return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2) if cell.columns else array

        if chosen.recurrent is not None:
            shape = (plan.T, *chosen.recurrent.shape)
            arrays["recurrent_mask"] = np.broadcast_to(laid_out(chosen.recurrent), shape)
            arrays[f"{cell.states[0]}_in"] = new(plan.T, self._width(cell.states[0]))
        for state, kept in chosen.zoneout.items():
            arrays[f"{state}_kept"] = laid_out(kept)
            arrays[f"{state}_new"] = new(plan.T, self._width(state))
        return arrays


def _single(states: tuple[Array, ...]) -> Any:
    """Return the one state of a cell with one, else all: the form in which a caller sees states."""
    return states[0] if len(states) == 1 else states


def _locked(array: Array) -> Array:
    """Return a view that cannot be written to: backward may read its memory."""
    view = array.view()
    view.flags.writeable = False
    return view


def _copy(array: Array) -> Array:
    copied = memory.empty(array.shape, array.dtype)
    copied[...] = array
    return copied


def _as_column(array: Array, cell: Cell) -> Array:
    """Return a vector so that it can be added to each column, where the cell works on columns."""
    return array[:, None] if cell.columns and array.ndim == 1 else array


def _laid_out(weight: Array, batch: int, columns: bool, backward: bool) -> Array:
    """Return W_hh, equal in value, in the memory order in which the product of a step is fastest.

    Figures in benchmarks/README.md. As the left factor, forward, it lies by rows, but for a single sequence; its
    transpose, backward, does where the matrix is small enough for a copy to pay. As the right factor it lies by rows as
    well; only OpenBLAS's kernels for processors without AVX-512 are faster, up to 15 % of the product, with columns in
    double precision and in large single-precision products.
    """
    if columns:
        by_rows = weight.shape[1] >= 256 if backward else batch > 1
    else:
        wide = _has_avx512() or batch == 1 or (weight.dtype == np.float32 and weight.shape[1] < 256)
        by_rows = wide == backward
    return np.ascontiguousarray(weight) if by_rows else np.asfortranarray(weight)


@functools.cache
def _has_avx512() -> bool:
    """Whether the processor has what OpenBLAS's AVX-512 kernels need."""
    config = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {}).get("found", []) if isinstance(config, dict) else []
    return any(name.startswith(("AVX512", "X86_V4")) for name in found)
