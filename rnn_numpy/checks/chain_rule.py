r"""The exact gradient of a recurrent layer from its forward formulas alone, step by step at the recorded states.

The gradient of a whole run can be had by the complex step of the whole run, entry by entry. That is slow, and where the
run is chaotic it is wrong: two runs that round differently part as exp(lambda T). *State-forced*, neither happens. Each
step is differentiated on its own, at the states that the run recorded, by the complex step of the driver's own forward
step (`rnn_numpy.engine.recorded`): J_t = ds_t/ds_{t-1} and B_t = ds_t/da_t as explicit matrices. What is left is the
chain rule,

    (C1)  ds_t = (what the loss says to s_t) + J_{t+1}^T ds_{t+1}
    (C2)  da_t = B_t^T ds_t
    (C3)  dW   = sum_t da_t (what W acts on)^T,   dx_t = W_ih^T da_t

with no formula for a derivative in it, and none of the code of the backward pass. A parameter that does not act through
a_t (a peephole, a gain, a projection) is differentiated by itself: the complex step of each of its entries, all steps
at once.

The same chain tells the rounding that an honest backward pass may show (`Forced.tolerances`), and what the gradient
would be if backward made a certain mistake (`Variation`): J_t without a path, B_t without a gate's derivative, steps
left out of a sum. The diagnosis of a failed check compares with these.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.recorded import Jacobians, RecordedSteps, from_loss, recorded_steps, to_caller
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace

Array = NDArray[Any]

EPS = float(np.finfo(np.float64).eps)

# Numbers kept of a parameter's derivatives at every step; above, they are computed anew when asked for.
KEPT = 2**24

# How far apart a right backward pass and the chain of matrices may be by underflow alone, at each step.
QUANTUM = 16 * float(np.finfo(np.float64).smallest_subnormal)

# Draws of signs with which errors are followed through time.
PROBES = 8


def _same(steps: RecordedSteps, array: Array) -> Array:
    return array


def _same_source(steps: RecordedSteps, kind: str, array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Variation:
    """A change of the chain rule: what a mistake in a backward pass makes of it. The default changes nothing.

    Each function gets the steps of one direction of one layer and an array, and returns another one.

    Attributes
    ----------
    state, preactivation : callable
        Of J, (T, N, S, S), and of B, (T, N, S, A).
    loss, final : callable
        Of what the loss says to the outputs of the direction, (T, N, S), and to its final states, (N, S).
    source : callable
        Of what a weight acts on: gets also "input" or "hidden", and (T, N, ·).
    summed : callable
        Of da as the sums over the steps see it, (T, N, A).
    handed : callable
        Of what a direction hands down to the layer below, dx, (T, N, ·).
    mask : callable
        Of the dropout factors with which a layer's dx is multiplied, (T, N, ·).
    forward_order : bool
        Whether the product of Jacobians is taken in the order of the forward pass.
    """

    state: Callable[[RecordedSteps, Array], Array] = _same
    preactivation: Callable[[RecordedSteps, Array], Array] = _same
    loss: Callable[[RecordedSteps, Array], Array] = _same
    final: Callable[[RecordedSteps, Array], Array] = _same
    source: Callable[[RecordedSteps, str, Array], Array] = _same_source
    summed: Callable[[RecordedSteps, Array], Array] = _same
    handed: Callable[[RecordedSteps, Array], Array] = _same
    mask: Callable[[RecordedSteps, Array], Array] = _same
    forward_order: bool = False


EXACT = Variation()


@dataclass
class DirectionGradient:
    """The gradients of one direction of one layer at every step, in the engine's order.

    Attributes
    ----------
    entering : ndarray, (T, N, S)
        What the loss, or the layer above, says to the states directly.
    final : ndarray, (N, S)
    dstates : ndarray, (T, N, S)
        Total gradient at the states after each step.
    da : ndarray, (T, N, A)
    dinitial : ndarray, (N, S)
    dx : ndarray, (T, N, D)
    """

    entering: Array
    final: Array
    dstates: Array
    da: Array
    dinitial: Array
    dx: Array


@dataclass
class ForcedGradient:
    """What `Forced.gradient` returns.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Gradients of all parameters, of "x", and of "h_0", "c_0", ..., in the caller's order and shapes.
    runs : dict of str to DirectionGradient
    """

    tensors: dict[str, Array]
    runs: dict[str, DirectionGradient]


@dataclass
class Tolerances:
    """How far rounding may bring a right gradient from the reference.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Per entry, for the tensors of `ForcedGradient`.
    da : dict of str to ndarray, (T, N, A)
    absolute : dict of str to ndarray
        Per entry, the sum of the absolute values of all contributions (t, k) of all sequences.
    """

    tensors: dict[str, Array]
    da: dict[str, Array]
    absolute: dict[str, Array]


@dataclass
class _Maps:
    steps: RecordedSteps
    jacobians: Jacobians
    additive: dict[str, bool] = field(default_factory=dict)
    derivatives: dict[str, Array] = field(default_factory=dict)


class Forced:
    """The state-forced gradient of one pass.

    Parameters
    ----------
    layer : Recurrent
        float64.
    trace : Trace
        From `layer.forward`.
    doutput, dh_n
        As for `layer.backward`.
    tell : callable, optional
        Called with (done, total, label).

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> lstm = LSTM(2, 3, rng=0)
    >>> output, _, trace = lstm.forward(np.ones((5, 2, 2)))
    >>> exact = Forced(lstm, trace, np.ones((5, 2, 3))).gradient()
    >>> back = lstm.backward(trace, np.ones((5, 2, 3)))
    >>> bool(np.allclose(exact.tensors["weight_hh_l0"], back.grads["weight_hh_l0"], rtol=1e-13, atol=0))
    True
    """

    def __init__(
        self,
        layer: Recurrent,
        trace: Trace,
        doutput: Any,
        dh_n: Any = None,
        tell: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.layer = layer
        self.trace = trace
        self.from_loss = from_loss(layer, trace, doutput, dh_n)
        self.maps: dict[str, _Maps] = {}
        for name, steps in recorded_steps(layer, trace).items():
            progress = None if tell is None else functools.partial(_progress, tell, name)
            steps.maps = steps.jacobians(progress)
            self.maps[name] = _Maps(steps, steps.maps)
        for maps in self.maps.values():
            self._find_additive(maps)

    def of_loss(self, doutput: Any, dh_n: Any = None) -> Forced:
        """Return the gradient of another loss on the same pass; the matrices are shared."""
        other = copy.copy(self)
        other.from_loss = from_loss(self.layer, self.trace, doutput, dh_n)
        other.__dict__.pop("exact", None)
        return other

    @property
    def deviation(self) -> float:
        """How far the steps, computed again, are from the recorded states; see `Jacobians`."""
        return max(maps.jacobians.deviation for maps in self.maps.values())

    def _find_additive(self, maps: _Maps) -> None:
        """Find out which parameters act through a_t alone, by a change of them in a random direction."""
        steps, rng = maps.steps, np.random.default_rng(0)
        for name, weight in steps.weights().items():
            if name not in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                maps.additive[name] = False
                continue
            change = rng.normal(size=weight.shape)
            nudge = np.zeros((steps.T, steps.N, steps.A))
            for rows, columns, source in _products(steps, name):
                nudge[..., columns] += source @ change[rows].T if weight.ndim == 2 else change[rows]
            matrix = maps.jacobians.preactivation
            # Layer normalisation of tiny sums is nearly nothing: only rounding may be between the two.
            size = _apply(np.abs(matrix), np.abs(nudge)).max(axis=2, keepdims=True, initial=0.0)
            allowed = 512 * EPS * size + QUANTUM
            difference = _apply(matrix, nudge) - steps.parameter_jvp(name, change)
            maps.additive[name] = bool(np.all(np.abs(difference) <= allowed))

    # ------------------------------------------------------------------------------------------------ the gradient

    def gradient(self, variation: Variation = EXACT) -> ForcedGradient:
        """Return the gradient by C1 to C3, or what a variation of them makes of it."""
        runs: dict[str, DirectionGradient] = {}
        tensors: dict[str, Array] = {}
        handed: Array = self.from_loss.output
        for directions in reversed(self._stack()):
            dx: Array | None = None
            for maps in directions:
                run = self._through_time(maps, handed, variation)
                runs[maps.steps.direction.name] = run
                share = variation.handed(maps.steps, run.dx) if maps.steps.direction.layer else run.dx
                dx = share if dx is None else dx + share
            handed = np.zeros(0) if dx is None else dx
            factors = self.trace.edge.factors
            layer = directions[0].steps.direction.layer
            if factors is not None and layer:
                handed = handed * variation.mask(directions[0].steps, factors[layer - 1])
        for name in self.maps:
            for parameter, gradient in self._parameters(self.maps[name], runs[name], variation).items():
                tensors[f"{parameter}_{name}"] = gradient
        ordered = {name: tensors[name] for name in self.layer.params if name in tensors}
        initial = {name: runs[name].dinitial for name in self.maps}
        signal, states = to_caller(self.trace, handed, initial)
        ordered["x"] = signal
        ordered |= {f"{state}_0": array for state, array in states.items()}
        return ForcedGradient(ordered, {name: runs[name] for name in self.maps})

    @functools.cached_property
    def exact(self) -> ForcedGradient:
        """The gradient itself."""
        return self.gradient()

    def _stack(self) -> list[list[_Maps]]:
        """Return the directions of each layer, the lowest layer first."""
        layers: dict[int, list[_Maps]] = {}
        for maps in self.maps.values():
            layers.setdefault(maps.steps.direction.layer, []).append(maps)
        return [layers[layer] for layer in sorted(layers)]

    def _through_time(self, maps: _Maps, handed: Array, variation: Variation) -> DirectionGradient:
        """C1 and C2 for one direction of one layer, and its share of dx."""
        steps, jacobians = maps.steps, maps.jacobians
        J, B = variation.state(steps, jacobians.state), variation.preactivation(steps, jacobians.preactivation)
        loss = np.zeros((steps.T, steps.N, steps.S))
        loss[..., : steps.widths[0]] = np.where(steps.alive[..., None], handed[..., steps.output_columns], 0)
        loss = variation.loss(steps, loss)
        final = variation.final(steps, self.from_loss.finals[steps.direction.name])
        dstates, carry = np.zeros_like(loss), final.copy()
        for t in reversed(steps.order()):
            alive = steps.alive[t][:, None]
            dstates[t] = np.where(alive, carry + loss[t], 0)
            carry = np.where(alive, _pull(J[t], dstates[t]), carry)  # C1
        if variation.forward_order:
            dstates, carry = _in_forward_order(steps, J, loss, final)
        da = _pull(B, dstates)  # C2
        dx = self._to_input(steps, da)
        return DirectionGradient(loss, final, dstates, da, carry, dx)

    def _to_input(self, steps: RecordedSteps, da: Array) -> Array:
        """Return W_ih^T da, (T, N, D)."""
        weight = steps.weights()["weight_ih"]
        dx = np.zeros((steps.T, steps.N, weight.shape[1]))
        for rows, columns, _ in steps.products("input"):
            dx += da[..., columns] @ weight[rows]
        return dx

    def _parameters(self, maps: _Maps, run: DirectionGradient, variation: Variation) -> dict[str, Array]:
        """C3. A parameter that does not act through a_t, and has too many entries for a variation, is left out."""
        steps = maps.steps
        summed = variation.summed(steps, run.da)
        found: dict[str, Array] = {}
        for name, weight in steps.weights().items():
            if maps.additive[name]:
                gradient = np.zeros(weight.shape)
                for rows, columns, source in _products(steps, name):
                    da = summed[..., columns].reshape(-1, columns.stop - columns.start)
                    if weight.ndim == 1:
                        gradient[rows] += da.sum(axis=0)
                    else:
                        kind = "input" if name == "weight_ih" else "hidden"
                        acted = variation.source(steps, kind, source).reshape(len(da), weight.shape[1])
                        gradient[rows] += da.T @ acted
                found[name] = gradient
            elif variation is EXACT or self._few(steps, weight):
                found[name] = self._by_itself(maps, name, run.dstates)
        return found

    def _few(self, steps: RecordedSteps, weight: Array) -> bool:
        return bool(weight.size * steps.T * steps.N * steps.S <= KEPT)

    def _by_itself(self, maps: _Maps, name: str, dstates: Array, absolute: bool = False) -> Array:
        """Differentiate by a parameter that does not act through a_t, entry by entry; or sum the absolute values."""
        steps = maps.steps
        weight = steps.weights()[name]
        if self._few(steps, weight):
            if name not in maps.derivatives:
                maps.derivatives[name] = np.stack([steps.parameter_jvp(name, unit) for unit in _units(weight)], axis=-1)
            kept = maps.derivatives[name]
            total: Array = np.einsum("tns,tnsp->p", dstates, np.abs(kept) if absolute else kept)
            return total.reshape(weight.shape)
        tangents = (steps.parameter_jvp(name, unit) for unit in _units(weight))
        values = [float(np.sum(dstates * (np.abs(tangent) if absolute else tangent))) for tangent in tangents]
        return np.array(values).reshape(weight.shape)

    # ------------------------------------------------------------------------------------------------ rounding

    def tolerances(self, factor: float = 8.0, draws: int = 6, seed: int = 0) -> Tolerances:
        """Return what rounding may do to each entry of a right gradient, and the sums of absolute contributions.

        Parameters
        ----------
        factor : float
            Units of rounding allowed for each step that a contribution has come through.
        draws : int
            How often the formulas are run with what they read moved in its last digits.
        seed : int

        Notes
        -----
        No absolute tolerance is in it: scale the loss, and all of it scales, down to where numbers lose their digits
        to underflow. The error of ds_t is followed through time: every step adds some units of rounding of each term
        that it sums, with random signs, and hands on what was there; what cancels leaves its error behind. Formulas
        that lose digits by themselves (1 - h^2 near h = 1) are asked how many: they are run with their inputs moved by
        up to two units of rounding. What the layer above hands down comes with its own bound.
        """
        rng = np.random.default_rng(seed)
        signal_bound = np.zeros_like(self.from_loss.output)  # of what is handed down, and given exactly at the top
        bounds: dict[str, Array] = {}
        absolute: dict[str, Array] = {}
        das: dict[str, Array] = {}
        initial_bounds: dict[str, Array] = {}
        initial_absolute: dict[str, Array] = {}
        absolute_x = signal_bound
        for directions in reversed(self._stack()):
            below, below_absolute = None, None
            for maps in directions:
                steps, name = maps.steps, maps.steps.direction.name
                run = self.exact.runs[name]
                noise_da, noise_ds, noise = self._noise(maps, run, draws, rng)
                error = _errors(maps, run, signal_bound[..., steps.output_columns], noise_ds, factor * EPS, rng)
                sums = _absolute_contributions(maps, run)
                width = np.abs(maps.jacobians.preactivation).sum(axis=2)
                tolerance = error[..., None] * width + noise_da + QUANTUM
                das[name] = tolerance
                entry = _first_steps(steps), np.arange(steps.N)
                initial_width = np.abs(maps.jacobians.state[entry]).sum(axis=1)
                initial_bounds[name] = error[entry][:, None] * initial_width + noise_ds[entry]
                initial_absolute[name] = np.abs(run.dinitial)
                for parameter, (bound, total) in self._parameter_bounds(
                    maps, run, tolerance, sums, error, noise
                ).items():
                    bounds[f"{parameter}_{name}"], absolute[f"{parameter}_{name}"] = bound, total
                weight = np.abs(steps.weights()["weight_ih"])
                dx_bound = np.zeros((steps.T, steps.N, weight.shape[1]))
                dx_absolute = np.zeros_like(dx_bound)
                for rows, columns, _ in steps.products("input"):
                    dx_bound += (tolerance[..., columns] + factor * EPS * np.abs(run.da[..., columns])) @ weight[rows]
                    dx_absolute += sums[..., columns] @ weight[rows]
                below = dx_bound if below is None else below + dx_bound
                below_absolute = dx_absolute if below_absolute is None else below_absolute + dx_absolute
            factors = self.trace.edge.factors
            layer = directions[0].steps.direction.layer
            scale = np.ones(()) if factors is None or layer == 0 else factors[layer - 1]
            signal_bound = np.asarray(below) * scale
            absolute_x = np.asarray(below_absolute) * scale
        signal, states = to_caller(self.trace, signal_bound, {name: initial_bounds[name] for name in self.maps})
        total, total_states = to_caller(self.trace, absolute_x, {name: initial_absolute[name] for name in self.maps})
        bounds["x"], absolute["x"] = signal, total
        bounds |= {f"{state}_0": array for state, array in states.items()}
        absolute |= {f"{state}_0": array for state, array in total_states.items()}
        underflow = QUANTUM * das[name].shape[0] * das[name].shape[1]
        return Tolerances({name: bound + underflow for name, bound in bounds.items()}, das, absolute)

    def _noise(
        self, maps: _Maps, run: DirectionGradient, draws: int, rng: np.random.Generator
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Return how much da, (T, N, A), ds_{t-1}, (T, N, S), and the gradients of parameters change when what the
        formulas read moves in its last digit.

        The change is believed up to a thousandth of the gradient: a wrong formula cannot excuse itself.
        """
        steps, jacobians = maps.steps, maps.jacobians

        def moved(array: Array, size: Array | float = 0.0) -> Array:
            # Not signs alone: of two numbers near 1, moved alike, the difference would not change.
            return array + EPS * rng.uniform(-2, 2, array.shape) * (np.abs(array) + size)

        t, n = np.nonzero(steps.alive)
        before, sums_of_a = steps.states("before")[t, n], _absolute_sums(steps)[t, n]
        first = steps.vjp(t, n, run.dstates[t, n])
        da, ds = np.zeros_like(first.da), np.zeros_like(first.dstates)
        sums = {name: np.zeros_like(array) for name, array in first.sums.items()}
        for _ in range(draws):
            again = steps.rerun(t, n, moved(before), moved(np.zeros_like(sums_of_a), sums_of_a))
            for name, array in again.arrays.items():
                if array.flags.writeable:
                    # What is recorded has been rounded once more, a gate as a function of a sum: not by less where
                    # that is 0.
                    array[...] = moved(array, 0.0 if name in steps.cell.states else np.abs(array).max(initial=0.0))
            other = steps.vjp(t, n, run.dstates[t, n], again)
            da = np.maximum(da, np.abs(other.da - first.da))
            ds = np.maximum(ds, np.abs(other.dstates - first.dstates))
            for name, array in sums.items():
                np.maximum(array, np.abs(other.sums[name] - first.sums[name]), out=array)
        noise_da, noise_ds = np.zeros_like(run.da), np.zeros_like(run.dstates)
        noise_da[t, n] = np.minimum(2 * da, _most(steps, jacobians.preactivation, run.dstates)[t, n])
        noise_ds[t, n] = np.minimum(2 * ds, _most(steps, jacobians.state, run.dstates)[t, n])
        open_gates = 16 * EPS * _openness(steps, jacobians.state) * float(np.abs(run.dstates).sum())
        for name, array in sums.items():
            exact = self.exact.tensors[f"{name}_{steps.direction.name}"]
            np.minimum(2 * array, max(1e-3 * float(np.abs(exact).max(initial=0.0)), open_gates), out=array)
        return noise_da, noise_ds, sums

    def _parameter_bounds(
        self, maps: _Maps, run: DirectionGradient, tolerance: Array, sums: Array, error: Array, noise: dict[str, Array]
    ) -> dict[str, tuple[Array, Array]]:
        """Return (bound, sum of absolute contributions) of each parameter."""
        steps = maps.steps
        found: dict[str, tuple[Array, Array]] = {}
        for name, weight in steps.weights().items():
            bound, total = np.zeros(weight.shape), np.zeros(weight.shape)
            if maps.additive[name]:
                for rows, columns, source in _products(steps, name):
                    flat = tolerance[..., columns].reshape(-1, columns.stop - columns.start)
                    flat_sums = sums[..., columns].reshape(flat.shape)
                    acted = (
                        np.ones((len(flat), 1))
                        if weight.ndim == 1
                        else np.abs(source).reshape(len(flat), weight.shape[1])
                    )
                    part, part_total = flat.T @ acted, flat_sums.T @ acted
                    bound[rows] += part.reshape(bound[rows].shape)
                    total[rows] += part_total.reshape(bound[rows].shape)
            else:
                bound = self._by_itself(maps, name, error[..., None] * np.ones(steps.S), absolute=True) + noise[name]
                total = self._by_itself(maps, name, np.abs(run.dstates), absolute=True)
            found[name] = bound, total
        return found


def _progress(tell: Callable[[int, int, str], None], name: str, done: int, total: int) -> None:
    tell(done, total, f"steps of {name}")


def _products(steps: RecordedSteps, name: str) -> Any:
    return steps.products("input" if name in ("weight_ih", "bias_ih") else "hidden")


def _units(weight: Array) -> Any:
    for index in np.ndindex(weight.shape):
        unit = np.zeros(weight.shape)
        unit[index] = 1.0
        yield unit


def _apply(matrix: Array, vector: Array) -> Array:
    """Return the product over the last axes, for each t and n."""
    product: Array = np.matmul(matrix, vector[..., None])[..., 0]
    return product


def _pull(matrix: Array, vector: Array) -> Array:
    """Return the product with the transposed matrix, for each n, or each t and n."""
    product: Array = np.matmul(vector[..., None, :], matrix)[..., 0, :]
    return product


def _most(steps: RecordedSteps, matrix: Array, dstates: Array) -> Array:
    """Return what rounding may do at most to what a matrix makes of dstates, (T, N, 1): a thousandth of it, or some
    units of rounding of what an open gate would make of it.

    The second matters where a gate is shut: it is rounded as an open one is, so that its gradient may be 0.
    """
    made = np.abs(_pull(matrix, dstates)).max(axis=2, keepdims=True, initial=0.0)
    largest = np.abs(dstates).max(axis=2, keepdims=True, initial=0.0)
    most: Array = np.maximum(1e-3 * made, 16 * EPS * _openness(steps, matrix) * largest)
    return most


def _openness(steps: RecordedSteps, matrix: Array) -> float:
    """Return the largest entry that a matrix has at any step, or would have with open gates: a state at most, and
    through a weight.
    """
    state = max(1.0, float(np.abs(steps.states("before")).max(initial=0.0)))
    weight = max(1.0, float(np.abs(steps.weights()["weight_hh"]).max(initial=0.0)))
    return max(state * weight, float(np.abs(matrix).max(initial=0.0)))


def _absolute_sums(steps: RecordedSteps) -> Array:
    """Return |W_ih| |x| + |W_hh| |h|, (T, N, A): what the rounding of a_t is relative to."""
    sums = np.zeros((steps.T, steps.N, steps.A))
    for kind in ("input", "hidden"):
        weight = np.abs(steps.weights()[f"weight_{'ih' if kind == 'input' else 'hh'}"])
        for rows, columns, source in steps.products(kind):
            sums[..., columns] += np.abs(source) @ weight[rows].T
    return sums


def _in_forward_order(steps: RecordedSteps, J: Array, loss: Array, final: Array) -> tuple[Array, Array]:
    """Return ds_k = sum_t J_t^T ... J_{k+1}^T (what the loss says to s_t), the product in the wrong order: for each
    step, and for the initial state.
    """
    order = steps.order()
    entering = loss.copy()
    last = np.asarray(order)[len(order) - 1 - steps.alive[order][::-1].argmax(axis=0)], np.arange(steps.N)
    entering[last] += final

    def at(place: int) -> Array:
        late = entering[order[max(place, 0) :]]
        for count, j in enumerate(order[place + 1 :], start=0 if place < 0 else 1):
            late[count:] = _pull(J[j], late[count:])
        total: Array = late.sum(axis=0)
        return total

    dstates = np.zeros_like(loss)
    for place, k in enumerate(order):
        dstates[k] = np.where(steps.alive[k][:, None], at(place), 0)
    return dstates, at(-1)


def _errors(
    maps: _Maps, run: DirectionGradient, signal: Array, noise: Array, unit: float, rng: np.random.Generator
) -> Array:
    """Follow what rounding makes of ds_t through time.

    Parameters
    ----------
    signal : ndarray, (T, N, ·)
        The error of what the layer above hands down.
    noise : ndarray, (T, N, S)
        What the formulas' own rounding may add to ds_{t-1} at step t.
    unit : float
        The relative error that every step adds to each term of its sums.

    Returns
    -------
    ndarray, (T, N)
        The largest error of an entry of ds_t, of some draws of signs.
    """
    steps, jacobians = maps.steps, maps.jacobians
    weight, width = np.abs(steps.weights()["weight_hh"]), steps.widths[0]
    error, found = np.zeros((PROBES, steps.N, steps.S)), np.zeros((steps.T, steps.N))

    def signed(bound: Array) -> Array:
        drawn: Array = bound * rng.choice([-1.0, 1.0], (PROBES, *bound.shape))
        return drawn

    for t in reversed(steps.order()):
        alive, size = steps.alive[t][:, None], np.abs(run.dstates[t])
        error[..., :width] += np.where(alive, signed(signal[t]), 0)
        found[t] = np.where(
            alive[:, 0], np.abs(error).max(axis=(0, 2), initial=0.0) + unit * size.max(axis=1, initial=0.0), 0
        )
        terms = _pull(np.abs(jacobians.state[t]), size)
        through = _pull(np.abs(jacobians.preactivation[t]), size)
        for rows, columns, _ in steps.products("hidden"):
            terms[:, :width] += through[:, columns] @ weight[rows]
        handed = np.matmul(error.swapaxes(0, 1), jacobians.state[t]).swapaxes(0, 1)
        error = np.where(alive, handed + signed(unit * terms + noise[t] + QUANTUM), error)
    return found


def _absolute_contributions(maps: _Maps, run: DirectionGradient) -> Array:
    """Follow what each loss step says through time by itself; return the sum over the loss steps of |da(t, k)|,
    (T, N, A).
    """
    steps, jacobians = maps.steps, maps.jacobians
    sums = np.zeros((steps.T, steps.N, steps.A))
    stack = run.final[:, None].copy()  # (N, loss steps so far, S)
    for t in reversed(steps.order()):
        alive = steps.alive[t][:, None, None]
        stack = np.concatenate([stack, run.entering[t][:, None]], axis=1)
        through: Array = np.abs(stack @ jacobians.preactivation[t])
        sums[t] = np.where(alive[:, 0], through.sum(axis=1), 0)
        stack = np.where(alive, stack @ jacobians.state[t], stack)
    return sums


def _first_steps(steps: RecordedSteps) -> Array:
    """Return for each sequence the step that reads its initial state, (N,)."""
    alive = steps.alive[steps.order()]
    first: Array = np.asarray(steps.order())[alive.argmax(axis=0)]
    return first
