r"""The steps of a recurrent layer one by one, each at the states that a trace recorded: maps, Jacobians, adjoints.

A step takes the states before it and the pre-activations that come in, a_t, and gives the states after it,

    s_t = F(s_{t-1}, a_t),        a_t = W_ih x_t + b

where s stacks all states of the cell, (h, c) of an LSTM, and F is what the driver runs at each step: the cell's
`step_forward` with whatever masks do before and after it. Around a recorded trajectory it is linear,

    J_t = ds_t/ds_{t-1}  (S, S)        B_t = ds_t/da_t  (S, A)

and back-propagation through time is the product of these matrices:

    (C1)  s'_t     = dL/ds_t directly + J_{t+1}^T s'_{t+1}
    (C2)  da_t     = B_t^T s'_t

`RecordedSteps` gives both matrices without any formula for a derivative: by the complex step of F, one column for each
sequence, step and entry, all in one call of the driver's own forward step. From the backward formulas they come as
well: `vjp` is the chain's backward on as many columns as there are vectors. That both agree is the proof that a
backward formula belongs to its forward formula, step by step; since the states are the recorded ones, no chaos can come
between.

Arrays are in the engine's order, (T, N, ·), sorted by length where there are lengths; slabs as they lie in memory.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import memory
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.binding import Binding, constants_of
from rnn_numpy.engine.cell import Slot
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import NONE, Formula, Masks
from rnn_numpy.engine.recurrent import HOOKS, Recurrent, Run, hooks_of
from rnn_numpy.engine.slopes import Slopes, slopes
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.engine.walk import Direction
from rnn_numpy.errors import OptionError

Array = NDArray[Any]
Indices = NDArray[np.intp]

# h^2 vanishes beside 1, while h times a derivative stays in range down to derivatives of 1e-270.
STEP = 1e-20

EPS = float(np.finfo(np.float64).eps)

# Below this times the step nothing is left of a derivative.
TINY = float(np.finfo(np.float64).tiny) / STEP

CHUNK = 2**20  # entries of one array of pre-activations, at most, that are differentiated at once


@dataclass(frozen=True)
class Jacobians:
    """The linear maps of every step of one direction of one layer: J_t, (T, N, S, S), and B_t, (T, N, S, A), slabs as
    they lie in memory; zero where a sequence has no step t. `deviation` is the largest difference of a state computed
    again and the recorded one, relative to the largest state, or to 1, the size at which gates are rounded: some units
    of rounding, or the trace is not that of this layer. Of differences, `errors` are those of both, kinks among them.
    """

    state: Array
    preactivation: Array
    deviation: float
    errors: tuple[Array, Array] | None = None
    kinks: int = 0


@dataclass(frozen=True)
class StepGradients:
    """What `RecordedSteps.vjp` returns, for M columns: dL/da_t, (M, A), slabs as they lie in memory; dL/ds_{t-1},
    (M, S); all arrays of the step, each with one row (1, M, ·) or two (states); gradients of the parameters by
    their names without suffix, summed over the columns; and those of given arrays, (M, ·).
    """

    da: Array
    dstates: Array
    binding: Binding
    sums: dict[str, Array]
    given: dict[str, Array]


class RecordedSteps:
    """The steps of one direction of one layer, each on its own, at the states that a trace recorded.

    The layer is real; its options are read, its parameters are not: a trace has those of its forward pass. S is the
    number of units of all states (`widths`), A the width of a; `alive`, (T, N), says which steps exist. Where
    `by_differences` is True, derivatives are those of real steps, for forward formulas that are not analytic; where it
    is None, those alone that the complex step leaves as NaN.

    Examples
    --------
    For a tanh RNN J_t = diag(1 - h_t^2) W_hh, and B_t is the diagonal matrix:

    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.ones((4, 1, 2)))[2]
    >>> jacobians = RecordedSteps(rnn, trace, "l0").jacobians()
    >>> expected = (1 - trace.h[1:, 0, :, None] ** 2) * rnn.params["weight_hh_l0"]
    >>> bool(np.allclose(jacobians.state[:, 0], expected, rtol=1e-14, atol=0))
    True
    """

    def __init__(self, layer: Recurrent, trace: Trace, name: str) -> None:
        self.layer, self.cell = layer, layer.cell
        self.recorded: LayerTrace = trace.layers[name]
        self.edge: Edge = trace.edge
        self.batch: Batch = trace.edge.batch
        self.direction: Direction = next(d for directions in layer.stack for d in directions if d.name == name)
        recorded, reverse = self.recorded, self.direction.reverse
        self.binding = Binding(recorded.chain, self.batch, reverse, recorded.arrays, {}, recorded.given)
        self.T, self.N = self.batch.T, self.batch.N
        self.widths = list(trace.edge.widths.values())
        self.S, self.A = sum(self.widths), len(self.cell.slabs) * layer.hidden_size
        stops = list(itertools.accumulate(self.widths))
        self._cuts = [slice(stop - width, stop) for stop, width in zip(stops, self.widths, strict=True)]
        self.alive: NDArray[np.bool_] = self.batch.exists()[:, :, 0]
        self.x: Array = self.recorded.arrays["x"]
        self._single = replace(self.direction, reverse=False, row=0)
        self.by_differences: bool | None = False
        self.latest: Slopes | None = None  # the latest of these differences

    @property
    def output_columns(self) -> slice:
        """Where this direction's output stands in the layer's."""
        start = self.widths[0] * int(self.direction.reverse)
        return slice(start, start + self.widths[0])

    @functools.cached_property
    def twin(self) -> Recurrent:
        """The layer in complex128, with the parameters of the trace."""
        return self._with_recorded_parameters(np.complex128)

    @functools.cached_property
    def _real_twin(self) -> Recurrent:
        return self._with_recorded_parameters(self.layer.dtype)

    def _with_recorded_parameters(self, dtype: DTypeLike) -> Recurrent:
        twin = self.layer.astype(dtype)
        for symbol, view in twin.by_symbol(twin.params, self.direction).items():
            view[...] = self.recorded.weights[symbol]
        return twin

    def states(self, when: str) -> Array:
        """Return the recorded states "before" or "after" each step, (T, N, S)."""
        offset = self.binding.before if when == "before" else self.binding.after
        arrays = [self.recorded.arrays[state][offset : offset + self.T] for state in self.cell.states]
        return np.concatenate(arrays, axis=2)

    def aligned(self, name: str) -> Array:
        """Return what an argument of a formula was at each step, "h_in" say, (T, N, ·)."""
        return self.binding.aligned(name)

    def order(self) -> list[int]:
        """Return the steps as the forward pass visits them."""
        return list(self.binding.order(False))

    def gate_blocks(self, kind: str) -> Iterator[tuple[str, slice, slice, str]]:
        """Yield (gate, its rows of W, its columns of the gradient, what W acts on) of W_ih ("input") or W_hh."""
        cell, H = self.cell, self.layer.hidden_size
        for rows, columns, source in self.recorded.chain.blocks[kind]:
            for start in range(0, rows.stop - rows.start, H):
                first, place = rows.start + start, columns.start + start
                yield cell.gate_names[first // H], slice(first, first + H), slice(place, place + H), source

    # ------------------------------------------------------------------------------------------------ forward

    def evaluate(
        self,
        t: Indices,
        n: Indices,
        states: Array,
        nudge: Array | None = None,
        given: Mapping[str, Array] | None = None,
    ) -> Array:
        """Run single steps forward, in complex numbers: column m is step t[m] of sequence n[m], from states[m], (M, S);
        a nudge, (M, A), is added to a_t, and `given`, (N, ·), takes the place of some given arrays. Return the states
        after them, (M, S).
        """
        if self.by_differences:
            return self._by_real_steps(t, n, states, nudge, given)
        with np.errstate() if self.by_differences is False else np.errstate(all="ignore"):
            recorded = self._again(self.twin, t, n, states, nudge, given=given)
        found = np.concatenate([recorded.arrays[state][1] for state in self.cell.states], axis=1)
        if self.by_differences is None:
            left = ~np.isfinite(found)
            found = np.where(left, self._by_real_steps(t, n, states, nudge, given), found)
            if self.latest is not None:
                self.latest.errors[~left], self.latest.kinks[~left] = 0, False
        return found

    def _by_real_steps(
        self, t: Indices, n: Indices, states: Array, nudge: Array | None, given: Mapping[str, Array] | None = None
    ) -> Array:
        """Do what `evaluate` does, with differences along what the imaginary parts of its arguments say."""
        imagined, real = (layer.own(layer.params, self.direction) for layer in (self.twin, self._real_twin))
        along = {name: array.imag / STEP for name, array in imagined.items() if array.imag.any()}
        kept = {name: real[name].copy() for name in along}

        def at(step: float) -> Array:
            for name, change in along.items():
                real[name][...] = kept[name] + step * change
            moved, nudged = (None if a is None else a.real + step * a.imag / STEP for a in (states, nudge))
            read = {name: a.real + step * a.imag / STEP for name, a in (given or {}).items()}
            recorded = self._again(self._real_twin, t, n, moved, nudged, given=read)
            return np.concatenate([recorded.arrays[state][1] for state in self.cell.states], axis=1)

        try:
            self.latest = found = slopes(at)
        finally:
            for name, array in kept.items():
                real[name][...] = array
        return found.values + 1j * STEP * found.slopes

    def rerun(self, t: Indices, n: Indices, states: Array, nudge: Array | None = None) -> LayerTrace:
        """Run single steps forward as `evaluate` does, in the layer's own dtype; return what they record, for `vjp`."""
        return self._again(self._with_recorded_parameters(self.layer.params.dtype), t, n, states, nudge)

    def formulas(self, t: Indices, n: Indices) -> list[tuple[Formula, tuple[Slot, ...], list[Array]]]:
        """Return the forward formulas of single steps, the places of their arguments, and copies of these, as they come
        in; what has not been written yet is NaN.
        """
        found: list[tuple[Formula, tuple[Slot, ...], list[Array]]] = []

        def seen(formula: Formula, slots: tuple[Slot, ...]) -> Formula:
            def run(*arguments: Array) -> None:
                found.append((formula, slots, [np.array(array) for array in arguments]))
                formula(*arguments)

            return run

        with memory.poisoned():
            self._again(self._real_twin, t, n, self.states("before")[t, n], None, seen)
        return found

    def _again(
        self,
        layer: Recurrent,
        t: Indices,
        n: Indices,
        states: Any,
        nudge: Array | None,
        guard: Callable[[Formula, tuple[Slot, ...]], Formula] | None = None,
        given: Mapping[str, Array] | None = None,
    ) -> LayerTrace:
        dtype = layer.params.dtype
        edge = self.edge.single_steps(n, dtype)
        edge.given |= {name: array[n] for name, array in (given or {}).items()}
        initial = [part.astype(dtype, copy=False)[None] for part in self.split(states)]
        x = np.ascontiguousarray(self.x[t, n][None]).astype(dtype)
        run = layer.open_forward(self._single, edge, x, initial, self._masks(t, n))
        run.binding.guard = guard
        collections.deque(layer.forward_loop(run, None if nudge is None else (nudge * self._scales)[None]), maxlen=0)
        return run.trace

    def _masks(self, t: Indices, n: Indices) -> Masks:
        """Return the masks of single steps, each a column."""
        masks = self.recorded.masks
        if masks is NONE:
            return NONE
        recurrent = None if masks.recurrent is None else masks.recurrent[n]
        return Masks(recurrent, {state: kept[t, n][None] for state, kept in masks.zoneout.items()})

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
        return [states[..., cut] for cut in self._cuts]

    def jacobians(self, progress: Callable[[int, int], None] | None = None) -> Jacobians:
        """Differentiate every step by all that it reads, by the complex step of the forward formulas.

        Cost: S + A forward steps in complex numbers for each step of each sequence, in calls of many columns;
        `progress` is called with (done, all) as the work goes on. Where the units of a step know of each other through
        W_hh h_{t-1} alone, as a random change of everything tells, a column for each state and slab will do.
        """
        found = self._of_single_units()
        if found is None:
            return self._by_columns(progress)
        if progress is not None:
            progress(self.T * self.N, self.T * self.N)
        return found

    def _of_single_units(self) -> Jacobians | None:
        """Differentiate every step by all units of a state or slab at once; None where a random change tells that units
        know of each other otherwise than through W_hh.
        """
        H, slabs, states = self.layer.hidden_size, len(self.cell.slabs), len(self.widths)
        blocks = self.recorded.chain.blocks["hidden"]
        # A single unit knows of no other, so that nothing could be told of W_hh.
        if (
            H == 1
            or set(self.widths) != {H}
            or {source for *_, source in blocks} != {"h_in"}
            or self.recorded.masks is not NONE
            or self.by_differences is not False
        ):
            return None
        t, n = np.nonzero(self.alive)
        before, after = self.states("before")[t, n], self.states("after")[t, n]
        through = np.zeros((self.A, self.S))  # da_t/ds_{t-1}
        for rows, columns, _ in blocks:
            through[columns, :H] = self.weights()["weight_hh"][rows]
        rng = np.random.default_rng(0)
        changes = np.zeros((states + slabs + 2, self.S + self.A))  # of the state before, and of a_t
        for k in range(states + slabs):
            changes[k, k * H : (k + 1) * H] = 1
        changes[:states, self.S :] -= changes[:states, : self.S] @ through.T
        changes[-2:] = rng.normal(size=(2, self.S + self.A))
        count = len(changes)
        moved = np.tile(before, (count, 1)).astype(np.complex128)
        moved.imag = np.repeat(STEP * changes[:, : self.S], len(t), axis=0)
        nudge = 1j * np.repeat(STEP * changes[:, self.S :], len(t), axis=0)
        found = self.evaluate(np.tile(t, count), np.tile(n, count), moved, nudge).reshape(count, len(t), self.S)
        derivatives = found.imag.reshape(count, len(t), states, H) / STEP
        units = np.arange(H)
        J, B = np.zeros((len(t), self.S, self.S)), np.zeros((len(t), self.S, self.A))
        for k in range(states):
            rows = slice(k * H, (k + 1) * H)
            for slab in range(slabs):
                by_slab = derivatives[states + slab, :, k]
                B[:, k * H + units, slab * H + units] = by_slab
                part = through[slab * H : (slab + 1) * H, :H]
                if part.any():
                    J[:, rows, :H] += by_slab[:, :, None] * part
            reach = np.abs(derivatives[states : states + slabs, :, k]) * np.abs(through).sum(axis=1).reshape(
                slabs, 1, H
            )
            for before_k in range(states):
                # What is left of h where its change is taken back in a_t: rounding alone, if it enters nowhere else.
                if before_k or np.any(np.abs(derivatives[0, :, k]) > 64 * EPS * reach.sum(axis=0)):
                    J[:, k * H + units, before_k * H + units] += derivatives[before_k, :, k]
        for number in (-2, -1):
            change = changes[number]
            terms = np.abs(J) @ np.abs(change[: self.S]) + np.abs(B) @ np.abs(change[self.S :])
            expected = J @ change[: self.S] + B @ change[self.S :]
            off = np.abs(derivatives[number].reshape(len(t), self.S) - expected)
            if not np.all(off <= 64 * EPS * terms + TINY):
                return None
        largest = max(1.0, float(np.abs(after).max(initial=0.0)))
        deviation = float(np.abs(found[0].real - after).max(initial=0.0)) / largest
        all_J, all_B = np.zeros((self.T, self.N, *J.shape[1:])), np.zeros((self.T, self.N, *B.shape[1:]))
        all_J[t, n], all_B[t, n] = J, B
        return Jacobians(all_J, all_B, deviation)

    def _by_columns(self, progress: Callable[[int, int], None] | None) -> Jacobians:
        """Differentiate every step by each entry of the state before it and of its pre-activations."""
        S, A = self.S, self.A
        J, B = np.zeros((self.T, self.N, S, S)), np.zeros((self.T, self.N, S, A))
        before, after = self.states("before"), self.states("after")
        steps, rows = np.nonzero(self.alive)
        largest = max(1.0, float(np.abs(after[steps, rows]).max(initial=0.0)))
        errors, kinks, deviation = (np.zeros_like(J), np.zeros_like(B)), 0, 0.0
        size = max(1, CHUNK // ((S + A) * max(A, S)))
        for start in range(0, len(steps), size):
            t, n = steps[start : start + size], rows[start : start + size]
            count, entries = len(t), np.arange(S + A)
            states = np.repeat(before[t, n].astype(np.complex128), S + A, axis=0).reshape(count, S + A, S)
            nudge = np.zeros((count, S + A, A), np.complex128)
            states[:, entries[:S], entries[:S]] += 1j * STEP
            nudge[:, entries[S:], entries[S:] - S] = 1j * STEP
            columns = np.repeat(t, S + A), np.repeat(n, S + A)
            found = self.evaluate(*columns, states.reshape(-1, S), nudge.reshape(-1, A)).reshape(count, S + A, S)
            derivatives = found.imag.swapaxes(1, 2) / STEP
            J[t, n], B[t, n] = derivatives[:, :, :S], derivatives[:, :, S:]
            if self.latest is not None:
                off = self.latest.errors.reshape(count, S + A, S).swapaxes(1, 2)
                errors[0][t, n], errors[1][t, n] = off[:, :, :S], off[:, :, S:]
                kinks += int(self.latest.kinks.sum())
            deviation = max(deviation, float(np.abs(found[:, 0].real - after[t, n]).max(initial=0.0)) / largest)
            if progress is not None:
                progress(min(start + size, len(steps)), len(steps))
        return Jacobians(J, B, deviation, None if self.latest is None else errors, kinks)

    # ------------------------------------------------------------------------------------------------ backward

    def vjp(
        self, t: Indices, n: Indices, dstates: Array, recorded: LayerTrace | None = None, sums: bool = True
    ) -> StepGradients:
        """Run single steps backward: the chain's backward, masks among it, on as many columns as wanted.

        Column m is step t[m] of sequence n[m], with the total gradient dstates[m] at its states, (M, S); one step may
        stand in many columns. What formulas read is what was recorded, or `recorded`, from `rerun` or `gathered` with
        these columns. Without `sums` the gradients of parameters that are products are not made.
        """
        layer = self.layer
        if recorded is None:
            recorded = self.gathered(t, n, None if sums else self.read_by_backward)
        constants = constants_of(recorded.chain, recorded.weights, len(t))
        arrays, batch = dict(recorded.arrays), Batch(1, len(t), None)
        binding = Binding(recorded.chain, batch, False, arrays, constants, recorded.given)
        needed = sums or self.cell.own_symbols or self.read_by_backward is None
        found = layer.own(layer.params.zeros_like(), self.direction) if needed else {}
        run = Run(self._single, recorded, binding, sums=found)
        # A driver of a layer's own may need more of a pass than a single step has.
        for driver in (type(layer), Recurrent):
            try:
                driver.open_backward(layer, run, None, self.split(dstates))
                collections.deque(driver.backward_loop(layer, run), maxlen=0)
                if sums:
                    driver.close_backward(layer, run)
            except Exception:
                if driver is Recurrent:
                    raise
                continue
            break
        before = np.concatenate([binding.arrays["d" + state][0] for state in self.cell.states], axis=1)
        given = {
            name: np.sum([array for way, array in ways.items() if way or not self.cell.given[name].products], axis=0)
            for name, ways in run.ways.items()
        }
        return StepGradients(binding.arrays["da"][0], before, binding, run.sums, given)

    @functools.cached_property
    def read_by_backward(self) -> frozenset[str] | None:
        """The arrays that backward formulas read, and the states; None for all, which a driver of a layer's own may."""
        if hooks_of(type(self.layer)) != HOOKS:
            return None
        formulas = self.recorded.chain.formulas
        slots = (slot for kind in ("partials", "backward") for _, slots, _ in formulas[kind] for slot in slots)
        return frozenset((*self.cell.states, *(slot.array for slot in slots)))

    def gathered(self, t: Indices, n: Indices, names: Collection[str] | None = None, times: int = 1) -> LayerTrace:
        """Return a trace of one step whose columns are single steps of the recorded one, of some of its arrays or all;
        `times` such columns, one after the other.
        """
        cell, M = self.cell, len(t)
        batch = Batch(1, M * times, None)
        trace = LayerTrace(self._single, self.recorded.chain, batch, self.recorded.masks)
        trace.weights = self.recorded.weights
        trace.given = {name: np.tile(array[n], (times, 1)) for name, array in self.recorded.given.items()}
        flat = t * self.N + n
        # All sequences of neighbouring steps are a slice, of which indexing would make a copy first.
        is_slice = M > 0 and M % self.N == 0 and n[0] == 0 and bool((flat == np.arange(flat[0], flat[0] + M)).all())
        for name, array in self.recorded.arrays.items():
            if names is not None and name not in names:
                continue
            offsets = (self.binding.before, self.binding.after) if name in cell.states else (0,)
            target = batch.new(len(offsets), array.shape[2], array.dtype, cell.columns)
            for row, offset in zip(target, offsets, strict=True):
                if is_slice:
                    low = t[0] + offset
                    row[:M].reshape(-1, *array.shape[1:])[...] = array[low : low + M // self.N]
                else:
                    row[:M] = array[t + offset, n]
                for k in range(1, times):
                    row[k * M : (k + 1) * M] = row[:M]
            trace.arrays[name] = target
        return trace

    # ------------------------------------------------------------------------------------------------ parameters

    def products(self, kind: str) -> list[tuple[slice, slice, Array]]:
        """Return (rows of the weight, columns of a, what the rows act on, (T, N, ·)) of W_ih ("input") or W_hh
        ("hidden"): the weight's gradient is the sum over t, n of da[columns] times what they act on.
        """
        blocks, aligned = self.recorded.chain.blocks[kind], self.binding.aligned
        return [(rows, columns, aligned(source)) for rows, columns, source in blocks]

    def column_gradients(self, gradients: StepGradients) -> dict[str, Array]:
        """Return the gradients of this direction's parameters by the step of each column alone: by names without
        suffix, each of the parameter's shape with M in front.

        Raises
        ------
        OptionError
            A further parameter has no product: the formulas themselves sum its gradient, over all columns.
        """
        cell, blocks, count = self.cell, self.recorded.chain.blocks, len(gradients.da)
        if cell.own_symbols:
            names = ", ".join(cell.own_symbols.values())
            raise OptionError(
                f"RecordedSteps.column_gradients: {names} must have a product to have a gradient per column"
            )
        found = {name: np.zeros((count, *array.shape), array.dtype) for name, array in self.weights().items()}

        def of(name: str) -> Array:
            row: Array = gradients.binding.aligned(name)[0]
            return row

        for kind, gradient, weight, bias in (
            ("input", cell.input_gradient, "weight_ih", "bias_ih"),
            ("hidden", cell.hidden_gradient, "weight_hh", "bias_hh"),
        ):
            for rows, columns, source in blocks[kind]:
                found[weight][:, rows] = of(gradient + "_t")[:, columns, None] * of(source)[:, None]
                if bias in found:
                    found[bias][:, rows] = gradients.da[:, columns]
        for name, extra in cell.parameters.items():
            if extra.product is None:
                continue
            left, source = extra.product
            if extra.like_input:
                for rows, columns, _ in blocks["input"]:
                    found[name][:, rows] = of(cell.input_gradient + "_t")[:, columns, None] * of(source)[:, None]
            else:
                found[name][...] = of(left)[:, :, None] * of(source)[:, None]
        return found

    def weights(self) -> dict[str, Array]:
        """Return this direction's parameters as the trace has them, by their names without suffix."""
        names = self.layer.own(self.layer.params, self.direction)
        return dict(zip(names, self.recorded.weights.values(), strict=True))

    def parameter_jvp(self, name: str, change: Array) -> Array:
        """Differentiate every step along a change of one parameter, named without suffix: (T, N, S), complex step."""
        return self.parameters_jvp({name: change})

    def parameters_jvp(self, changes: Mapping[str, Array]) -> Array:
        """Differentiate every step along changes of some parameters, as `parameter_jvp` does."""
        own = self.twin.own(self.twin.params, self.direction)
        steps, rows = np.nonzero(self.alive)
        values = {name: own[name].copy() for name in changes}
        for name, change in changes.items():
            own[name][...] = values[name] + 1j * STEP * change
        try:
            found = self.evaluate(steps, rows, self.states("before")[steps, rows])
        finally:
            for name, value in values.items():
                own[name][...] = value
        tangent = np.zeros((self.T, self.N, self.S))
        tangent[steps, rows] = found.imag / STEP
        return tangent

    def given_jvp(self, name: str, change: Array) -> Array:
        """Differentiate every step along a change, (N, ·), of a given array: (T, N, S), complex step."""
        steps, rows = np.nonzero(self.alive)
        given = {name: self.recorded.given[name] + 1j * STEP * change}
        found = self.evaluate(steps, rows, self.states("before")[steps, rows], given=given)
        tangent = np.zeros((self.T, self.N, self.S))
        tangent[steps, rows] = found.imag / STEP
        return tangent


def recorded_steps(layer: Recurrent, trace: Trace) -> dict[str, RecordedSteps]:
    """Return the steps of every layer and direction, by name, the lowest layer first."""
    return {name: RecordedSteps(layer, trace, name) for name in trace.layers}


@dataclass(frozen=True)
class FromLoss:
    """What the loss says directly, in the engine's order: dL/doutput, (T, N, directions * H), 0 past the end of a
    sequence, and by layer and direction dL/d(final states), (N, S).
    """

    output: Array
    finals: dict[str, Array]


def from_loss(layer: Recurrent, trace: Trace, doutput: Any, dh_n: Any = None) -> FromLoss:
    """Check gradients of a loss as `layer.backward` does, with its errors, and bring them into the engine's order."""
    where = f"{type(layer).__name__}.backward"
    edge = layer.edge_of(where, trace)
    N = edge.batch.N
    output = edge.like_output(where, "doutput", doutput)
    if output is None:
        output = np.zeros((edge.batch.T, N, edge.output_width), layer.params.dtype)
    finals = edge.states_in(where, "dh_n", dh_n)
    found: dict[str, Array] = {}
    for direction in (direction for directions in layer.stack for direction in directions):
        parts = [
            np.zeros((N, width), layer.params.dtype) if final is None else final[direction.row]
            for final, width in zip(finals, edge.widths.values(), strict=True)
        ]
        found[direction.name] = np.concatenate(parts, axis=1)
    return FromLoss(edge.existing(output), found)


def to_caller(trace: Trace, signal: Array, initial: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Bring something of x's shape, (T, N, D), and of the initial states', (N, S) by layer and direction, from the
    engine's order into the caller's; the latter by state, like h_0.
    """
    edge = trace.edge
    widths = np.cumsum(list(edge.widths.values()))[:-1]
    split = [np.split(array, widths, axis=1) for array in initial.values()]
    states = edge.states_out([np.stack(arrays) for arrays in zip(*split, strict=True)])
    return edge.signal_out(signal), dict(zip(edge.widths, states, strict=True))
