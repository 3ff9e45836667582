"""How far rounding may bring a right gradient from the reference: computed for each entry, not assumed.

No absolute tolerance is in it: scale the loss, and all of it scales, down to where numbers lose their digits to
underflow. The error of ds_t is followed through time: every step adds some units of rounding of each term that it sums,
with random signs, and hands on what was there; what cancels leaves its error behind. Formulas that lose digits by
themselves (1 - h^2 near h = 1) are asked how many: they are run with their inputs moved by up to two units of rounding.
What the layer above hands down comes with its own bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import (
    EPS,
    QUANTUM,
    ChainRule,
    DirectionGradient,
    StepMaps,
    by_given,
    by_itself,
    products_of,
    pulled,
)
from rnn_numpy.engine.recorded import TINY, RecordedSteps, StepGradients, to_caller
from rnn_numpy.engine.walk import Down

Array = NDArray[Any]

STANDARD = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

# Draws of signs with which errors are followed through time.
PROBES = 8


@dataclass
class Tolerances:
    """How far rounding may bring a right gradient from the reference.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Per entry, for the tensors of `ChainGradient`, and for given arrays, "given['values']" say.
    da : dict of str to ndarray, (T, N, A)
    absolute : dict of str to ndarray
        Per entry, the sum of the absolute values of all contributions (t, k) of all sequences.
    """

    tensors: dict[str, Array]
    da: dict[str, Array]
    absolute: dict[str, Array]


def tolerances(
    chain: ChainRule,
    factor: float = 8.0,
    draws: int = 6,
    seed: int = 0,
    generous: bool = False,
    eps: float = EPS,
    open_gates: bool = False,
) -> Tolerances:
    """Return what rounding may do to each entry of a right gradient, and the sums of absolute contributions.

    Parameters
    ----------
    chain : ChainRule
    factor : float
        Units of rounding allowed for each step that a contribution has come through.
    draws : int
        How often the formulas are run with what they read moved in its last digits.
    seed : int
    generous : bool
        Whether all that is recorded is taken to be rounded at the size of an open gate, and what that does is believed,
        whatever it is: for a second look at what seems wrong.
    eps : float
        The unit of rounding: that of float32 where the pass that is judged is in float32.
    open_gates : bool
        Whether what formulas round is taken to be what they would at open gates, whatever they say themselves.
    """
    rng = np.random.default_rng(seed)
    stack, factors, top = chain.layer.stack, chain.trace.edge.factors, np.zeros_like(chain.from_loss.output)
    # Of what is handed down, and given exactly at the top: its bound, and the sum of absolute contributions.
    bound_of, total_of = Down(stack, factors, top), Down(stack, factors, top)
    bounds: dict[str, Array] = {}
    absolute: dict[str, Array] = {}
    das: dict[str, Array] = {}
    initial: dict[str, Array] = {}
    given: dict[str, dict[str, tuple[Array, Array]]] = {}
    for direction, _ in zip(bound_of, total_of, strict=True):
        name, maps, run = direction.name, chain.maps[direction.name], chain.exact.runs[direction.name]
        steps = maps.steps
        noise_da, noise_ds, noise, noise_of_given = (
            _of_open_gates(chain, maps, run, eps) if open_gates else _noise(chain, maps, run, draws, rng, generous, eps)
        )
        sizes = np.abs(run.dstates)
        # Of a derivative that leaves the range of numbers, times the step, nothing is left.
        noise_ds, noise_da = (noise + TINY * sizes.sum(axis=2, keepdims=True) for noise in (noise_ds, noise_da))
        if maps.jacobians.errors is not None:  # the reference's own
            noise_ds = noise_ds + pulled(maps.jacobians.errors[0], sizes)
            noise_da = noise_da + pulled(maps.jacobians.errors[1], sizes)
        error = _errors(maps, run, bound_of.signal[..., steps.output_columns], noise_ds, factor * eps, rng)
        sums = _absolute_contributions(maps, run)
        width = np.abs(maps.jacobians.preactivation).sum(axis=2)
        das[name] = tolerance = error[..., None] * width + noise_da + QUANTUM
        entry = _first_steps(steps), np.arange(steps.N)
        initial[name] = error[entry][:, None] * np.abs(maps.jacobians.state[entry]).sum(axis=1) + noise_ds[entry]
        for parameter, pair in _parameter_bounds(
            maps, run, tolerance, sums, error, noise, factor * eps if generous else 0.0
        ).items():
            bounds[f"{parameter}_{name}"], absolute[f"{parameter}_{name}"] = pair
        for title, array in noise_of_given.items():
            each_error = error[..., None] * np.ones(steps.S)
            found = by_given(maps, title, each_error, absolute=True) + array + TINY * float(sizes.sum())
            given.setdefault(title, {})[name] = found, by_given(maps, title, sizes, absolute=True)
        weight = np.abs(steps.weights()["weight_ih"])
        dx_bound = np.zeros((steps.T, steps.N, weight.shape[1]))
        dx_absolute = np.zeros_like(dx_bound)
        for rows, columns, _ in steps.products("input"):
            dx_bound += (tolerance[..., columns] + factor * eps * np.abs(run.da[..., columns])) @ weight[rows]
            dx_absolute += sums[..., columns] @ weight[rows]
        bound_of.give(dx_bound)
        total_of.give(dx_absolute)
    dinitial = {name: np.abs(chain.exact.runs[name].dinitial) for name in chain.maps}
    bounds["x"], states = to_caller(chain.trace, bound_of.signal, {name: initial[name] for name in chain.maps})
    absolute["x"], totals = to_caller(chain.trace, total_of.signal, dinitial)
    bounds |= {f"{state}_0": array for state, array in states.items()}
    absolute |= {f"{state}_0": array for state, array in totals.items()}
    for title, pairs in given.items():
        for k, target in enumerate((bounds, absolute)):
            parts = {name: pair[k] for name, pair in pairs.items()}
            target[f"given[{title!r}]"] = chain.given_out(title, parts)
    underflow = QUANTUM * chain.trace.edge.batch.T * chain.trace.edge.batch.N
    return Tolerances({name: bound + underflow for name, bound in bounds.items()}, das, absolute)


def _noise(
    chain: ChainRule,
    maps: StepMaps,
    run: DirectionGradient,
    draws: int,
    rng: np.random.Generator,
    generous: bool,
    eps: float,
) -> tuple[Array, Array, dict[str, Array], dict[str, Array]]:
    """Return how much da, (T, N, A), ds_{t-1}, (T, N, S), the gradients of parameters, and those of given arrays,
    (N, ·), change when what the formulas read moves in its last digit.

    The change is believed up to a thousandth of the gradient: a wrong formula cannot excuse itself.
    """
    steps, jacobians = maps.steps, maps.jacobians

    def moved(array: Array, size: Array | float = 0.0) -> Array:
        # Not signs alone: of two numbers near 1, moved alike, the difference would not change.
        return array + eps * rng.uniform(-2, 2, array.shape) * (np.abs(array) + size)

    t, n = np.nonzero(steps.alive)
    before, sums_of_a, dstates = steps.states("before")[t, n], _absolute_sums(steps)[t, n], run.dstates[t, n]
    first = steps.vjp(t, n, dstates)
    da, ds = np.zeros_like(_of_a(steps, first)), np.zeros_like(first.dstates)
    sums = {name: np.zeros_like(array) for name, array in first.sums.items()}
    of_given = {name: np.zeros_like(steps.recorded.given[name]) for name in chain.given_names}
    # Sums over the columns are of one draw each, where a further parameter has them; else all draws are columns.
    at_once = draws if all(maps.additive.values()) else 1
    t, n = np.tile(t, at_once), np.tile(n, at_once)
    before, sums_of_a, dstates = (np.tile(array, (at_once, 1)) for array in (before, sums_of_a, dstates))
    for _ in range(draws // at_once):
        again = steps.rerun(t, n, moved(before), moved(np.zeros_like(sums_of_a), sums_of_a))
        for name, array in again.arrays.items():
            if array.flags.writeable:
                # What is recorded has been rounded once more, a gate as a function of a sum: not by less where
                # that is 0.
                largest = float(np.abs(array).max(initial=1.0 if generous else 0.0))
                array[...] = moved(array, 0.0 if name in steps.cell.states and not generous else largest)
        other = steps.vjp(t, n, dstates, again)
        pairs = (_of_a(steps, other), _of_a(steps, first), da), (other.dstates, first.dstates, ds)
        for found, exact, worst in pairs:
            gaps = np.abs(found.reshape(at_once, *exact.shape) - exact)
            np.maximum(worst, gaps.max(axis=0, initial=0.0), out=worst)
        for name, array in sums.items():
            np.maximum(array, np.abs(other.sums[name] - first.sums[name]), out=array)
        for name, array in of_given.items():
            exact = first.given[name]
            for gaps in other.given[name].reshape(at_once, *exact.shape) - exact:
                total = np.zeros_like(array)
                np.add.at(total, n[: len(exact)], gaps)
                np.maximum(array, np.abs(total), out=array)
    t, n = np.nonzero(steps.alive)
    noise_da, noise_ds = np.zeros_like(run.da), np.zeros_like(run.dstates)
    if generous:
        noise_da[t, n], noise_ds[t, n] = 8 * da, 8 * ds
        times_8 = [{name: 8 * array for name, array in found.items()} for found in (sums, of_given)]
        return noise_da, noise_ds, times_8[0], times_8[1]
    noise_da[t, n] = np.minimum(2 * da, _most(steps, jacobians.preactivation, run.dstates)[t, n])
    noise_ds[t, n] = np.minimum(2 * ds, _most(steps, jacobians.state, run.dstates)[t, n])
    open_gates = 16 * EPS * _openness(steps, jacobians.state) * float(np.abs(run.dstates).sum())
    of_parameters = {name: chain.exact.tensors[f"{name}_{steps.direction.name}"] for name in sums}
    for noises, exacts in ((sums, of_parameters), (of_given, chain.given)):
        for name, array in noises.items():
            largest = float(np.abs(exacts[name]).max(initial=0.0))
            np.minimum(2 * array, max(1e-3 * largest, open_gates), out=array)
    return noise_da, noise_ds, sums, of_given


def _of_open_gates(
    chain: ChainRule, maps: StepMaps, run: DirectionGradient, eps: float
) -> tuple[Array, Array, dict[str, Array], dict[str, Array]]:
    """Return what `_noise` does, of formulas that round as they do at open gates."""
    steps, sizes = maps.steps, np.abs(run.dstates)
    # What comes through further parameters, as through a score and its filters, may have been so much larger.
    own = [array for name, array in steps.weights().items() if name not in STANDARD]
    factor = 64 * eps * max([1.0, *(float(np.abs(array).max(initial=0.0)) for array in own)])
    through, back = (factor * _openness(steps, each) for each in (maps.jacobians.preactivation, maps.jacobians.state))
    largest = sizes.max(axis=2, keepdims=True, initial=0.0)
    acted = {
        f"weight_{kind[0]}h": max(1.0, *(float(np.abs(source).max(initial=0.0)) for *_, source in steps.products(kind)))
        for kind in ("input", "hidden")
    }
    sums = {
        name: np.full(weight.shape, back * acted.get(name, 1.0) * float(sizes.sum()))
        for name, weight in steps.weights().items()
    }
    of_given = {
        name: np.broadcast_to(
            back * sizes.sum(axis=(0, 2)).reshape(-1, *[1] * (steps.recorded.given[name].ndim - 1)),
            steps.recorded.given[name].shape,
        )
        for name in chain.given_names
    }
    return through * largest * np.ones_like(run.da), back * largest * np.ones_like(sizes), sums, of_given


def _of_a(steps: RecordedSteps, gradients: StepGradients) -> Array:
    """Return the gradients of what W_ih x_t + b goes into: of a_t, or of what layer normalisation makes it of."""
    name = steps.cell.input_gradient
    found = gradients.da if name == "da" else gradients.binding.aligned(f"{name}_t")[0]
    return found if found.shape == gradients.da.shape else gradients.da


def _parameter_bounds(
    maps: StepMaps,
    run: DirectionGradient,
    tolerance: Array,
    sums: Array,
    error: Array,
    noise: dict[str, Array],
    states: float,
) -> dict[str, tuple[Array, Array]]:
    """Return (bound, sum of absolute contributions) of each parameter; `states` is what a state may be off by, behind a
    gate that is shut in one precision and not in the other.
    """
    steps = maps.steps
    found: dict[str, tuple[Array, Array]] = {}
    for name, weight in steps.weights().items():
        bound, total = np.zeros(weight.shape), np.zeros(weight.shape)
        if maps.additive[name]:
            for rows, columns, source in products_of(steps, name):
                flat = tolerance[..., columns].reshape(-1, columns.stop - columns.start)
                flat_sums = sums[..., columns].reshape(flat.shape)
                acted = (
                    np.ones((len(flat), 1)) if weight.ndim == 1 else np.abs(source).reshape(len(flat), weight.shape[1])
                )
                part, part_total = flat.T @ acted, flat_sums.T @ acted
                if weight.ndim == 2 and (name != "weight_ih" or steps.direction.layer):
                    part = part + states * np.abs(run.da[..., columns]).reshape(flat.shape).sum(axis=0)[:, None]
                bound[rows] += part.reshape(bound[rows].shape)
                total[rows] += part_total.reshape(bound[rows].shape)
        else:
            bound = by_itself(maps, name, error[..., None] * np.ones(steps.S), absolute=True) + noise[name]
            bound += TINY * float(np.abs(run.dstates).sum())
            total = by_itself(maps, name, np.abs(run.dstates), absolute=True)
        found[name] = bound, total
    if states:  # what is summed beside da, as gains are, has no more digits than da has
        sizes = [(float(found[name][0].max(initial=0.0)), float(found[name][1].max(initial=0.0))) for name in found
                 if maps.additive[name]]  # fmt: skip
        share = max((bound / total for bound, total in sizes if total), default=0.0)
        found |= {name: (b + share * t, t) for name, (b, t) in found.items() if not maps.additive[name]}
    return found


def _most(steps: RecordedSteps, matrix: Array, dstates: Array) -> Array:
    """Return what rounding may do at most to what a matrix makes of dstates, (T, N, 1): a thousandth of it, or some
    units of rounding of what an open gate would make of it.

    The second matters where a gate is shut: it is rounded as an open one is, so that its gradient may be 0.
    """
    made = np.abs(pulled(matrix, dstates)).max(axis=2, keepdims=True, initial=0.0)
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


def _errors(
    maps: StepMaps, run: DirectionGradient, signal: Array, noise: Array, unit: float, rng: np.random.Generator
) -> Array:
    """Follow what rounding makes of ds_t through time; return the largest error of an entry, of some draws of signs,
    (T, N).

    `signal`, (T, N, ·), is the error of what the layer above hands down, `noise`, (T, N, S), what the formulas' own
    rounding may add to ds_{t-1}, `unit` the relative error that every step adds to each term of its sums.
    """
    steps, jacobians = maps.steps, maps.jacobians
    weight, width = np.abs(steps.weights()["weight_hh"]), steps.widths[0]
    error, found = np.zeros((PROBES, steps.N, steps.S)), np.zeros((steps.T, steps.N))

    def signed(bound: Array) -> Array:
        drawn: Array = bound * rng.choice([-1.0, 1.0], (PROBES, *bound.shape))
        return drawn

    # What does not depend on the errors before it, of all steps at once.
    sizes = np.abs(run.dstates)
    terms = pulled(np.abs(jacobians.state), sizes)
    through = pulled(np.abs(jacobians.preactivation), sizes)
    for rows, columns, _ in steps.products("hidden"):
        terms[..., :width] += through[..., columns] @ weight[rows]
    added = signed(unit * terms + noise + QUANTUM)
    handed_down = signed(signal)
    least = unit * sizes.max(axis=2, initial=0.0)
    for t in reversed(steps.order()):
        alive = steps.alive[t][:, None]
        error[..., :width] += np.where(alive, handed_down[:, t], 0)
        found[t] = np.where(alive[:, 0], np.abs(error).max(axis=(0, 2), initial=0.0) + least[t], 0)
        handed = np.matmul(error.swapaxes(0, 1), jacobians.state[t]).swapaxes(0, 1)
        error = np.where(alive, handed + added[:, t], error)
    return found


def _absolute_contributions(maps: StepMaps, run: DirectionGradient) -> Array:
    """Follow what each loss step says through time by itself; return the sum over the loss steps of |da(t, k)|,
    (T, N, A).
    """
    steps, jacobians = maps.steps, maps.jacobians
    sums = np.zeros((steps.T, steps.N, steps.A))
    stack = run.final[:, None].copy()  # (N, loss steps so far, S)
    for t in reversed(steps.order()):
        alive = steps.alive[t][:, None, None]
        stack = np.concatenate([stack, run.direct[t][:, None]], axis=1)
        through: Array = np.abs(stack @ jacobians.preactivation[t])
        sums[t] = np.where(alive[:, 0], through.sum(axis=1), 0)
        stack = np.where(alive, stack @ jacobians.state[t], stack)
    return sums


def _first_steps(steps: RecordedSteps) -> Array:
    """Return for each sequence the step that reads its initial state, (N,)."""
    alive = steps.alive[steps.order()]
    first: Array = np.asarray(steps.order())[alive.argmax(axis=0)]
    return first
