r"""The exact gradient of a recurrent layer from its forward formulas alone, step by step at the recorded states.

The gradient of a whole run can be had by the complex step of the whole run, entry by entry. That is slow, and where the
run is chaotic it is wrong: two runs that round differently part as exp(lambda T). *Stepwise*, neither happens. Each
step is differentiated on its own, at the states that the run recorded, by the complex step of the driver's own forward
step (`rnn_numpy.engine.recorded`): J_t = ds_t/ds_{t-1} and B_t = ds_t/da_t as explicit matrices. What is left is the
chain rule,

    (C1)  ds_t = (what the loss says to s_t) + J_{t+1}^T ds_{t+1}
    (C2)  da_t = B_t^T ds_t
    (C3)  dW   = sum_t da_t (what W acts on)^T,   dx_t = W_ih^T da_t

with no formula for a derivative in it, and none of the code of the backward pass. A parameter that does not act through
a_t (a peephole, a gain, a projection) is differentiated by itself: the complex step of each of its entries, all steps
at once.

The same chain tells the rounding that an honest backward pass may show (`rnn_numpy.checks.rounding`), and what the
gradient would be if backward made a certain mistake (`Variation`): J_t without a path, B_t without a gate's derivative,
steps left out of a sum. The diagnosis of a failed check compares with these.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.oracles.formulas import Lost, lines_that_lose
from rnn_numpy.engine.recorded import TINY, Jacobians, RecordedSteps, from_loss, recorded_steps, to_caller
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.walk import Down

Array = NDArray[Any]

EPS = float(np.finfo(np.float64).eps)

# Numbers kept of a parameter's derivatives at every step; above, they are computed anew when asked for.
KEPT = 2**24

# How far apart a right backward pass and the chain of matrices may be by underflow alone, at each step.
QUANTUM = 16 * float(np.finfo(np.float64).smallest_subnormal)


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
    direct : ndarray, (T, N, S)
        What the loss, or the layer above, says to the states directly.
    final : ndarray, (N, S)
    dstates : ndarray, (T, N, S)
        Total gradient at the states after each step.
    da : ndarray, (T, N, A)
    dinitial : ndarray, (N, S)
    dx : ndarray, (T, N, D)
    """

    direct: Array
    final: Array
    dstates: Array
    da: Array
    dinitial: Array
    dx: Array


@dataclass
class ChainGradient:
    """Gradients of all parameters, of "x", "h_0", "c_0", ..., in the caller's shapes; and those at every step."""

    tensors: dict[str, Array]
    runs: dict[str, DirectionGradient]


@dataclass
class StepMaps:
    """The steps of one direction of one layer, their matrices, which parameters act through a_t alone, and the
    derivatives of those that do not; of vectors, as peepholes are, through which columns of a_t, times what.
    """

    steps: RecordedSteps
    jacobians: Jacobians
    additive: dict[str, bool] = field(default_factory=dict)
    vectors: dict[str, tuple[slice, Array]] = field(default_factory=dict)
    derivatives: dict[str, Array] = field(default_factory=dict)


class ChainRule:
    """The stepwise gradient of one pass.

    Parameters
    ----------
    layer : Recurrent
        float64.
    trace : Trace
        From `layer.forward`.
    doutput, dh_n
        As for `layer.backward`.
    progress : callable, optional
        Called with (done, total, label).
    differences : bool
        Whether to take differences, which see both sides of a kink, of formulas that a complex step passes, too.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> lstm = LSTM(2, 3, rng=0)
    >>> output, _, trace = lstm.forward(np.ones((5, 2, 2)))
    >>> exact = ChainRule(lstm, trace, np.ones((5, 2, 3))).gradient()
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
        progress: Callable[[int, int, str], None] | None = None,
        differences: bool = False,
    ) -> None:
        self.layer, self.trace = layer, trace
        self.from_loss = from_loss(layer, trace, doutput, dh_n)
        self.maps: dict[str, StepMaps] = {}
        self.lost: list[Lost] = []  # where the forward formulas lose a complex step
        for name, steps in recorded_steps(layer, trace).items():
            self.lost = self.lost or lines_that_lose(steps)
            steps.by_differences = (
                True
                if differences
                else None
                if self.lost and all(each.overflows for each in self.lost)
                else bool(self.lost)
            )
            steps.maps = steps.jacobians(None if progress is None else functools.partial(_labelled, progress, name))
            self.maps[name] = StepMaps(steps, steps.maps)
        for maps in self.maps.values():
            _find_additive(maps)
            _find_vectors(maps)

    def of_loss(self, doutput: Any, dh_n: Any = None) -> ChainRule:
        """Return the gradient of another loss on the same pass; the matrices are shared."""
        other = copy.copy(self)
        other.from_loss = from_loss(self.layer, self.trace, doutput, dh_n)
        for name in ("exact", "given"):  # of the loss before, where they have been computed
            other.__dict__.pop(name, None)
        return other

    @property
    def deviation(self) -> float:
        """How far the steps, computed again, are from the recorded states; see `Jacobians`."""
        return max(maps.jacobians.deviation for maps in self.maps.values())

    @functools.cached_property
    def exact(self) -> ChainGradient:
        """The gradient itself."""
        return self.gradient()

    @functools.cached_property
    def given(self) -> dict[str, Array]:
        """The gradients of given arrays, as a memory is, by name, in the caller's shapes."""
        return {
            name: self.given_out(
                name, {each: by_given(maps, name, self.exact.runs[each].dstates) for each, maps in self.maps.items()}
            )
            for name in self.given_names
        }

    @property
    def tensors(self) -> dict[str, Array]:
        """The gradient itself, of given arrays too: "given['values']"."""
        return {**self.exact.tensors, **{f"given[{name!r}]": array for name, array in self.given.items()}}

    @property
    def given_names(self) -> list[str]:
        """The given arrays that have gradients."""
        return [name for name, given in self.layer.cell.given.items() if given.differentiable]

    def given_out(self, name: str, by_direction: dict[str, Array]) -> Array:
        """Return the sum of what layers and directions make of a given array, (N, ·), in the caller's axes."""
        total = np.sum(list(by_direction.values()), axis=0)
        return self.trace.edge.given_out(total, len(self.layer.cell.given[name].shape))

    def gradient(self, variation: Variation = EXACT) -> ChainGradient:
        """Return the gradient by C1 to C3, or what a variation of them makes of it."""
        factors = self.trace.edge.factors
        if factors is not None:
            firsts = [self.maps[directions[0].name].steps for directions in self.layer.stack[1:]]
            factors = [variation.mask(steps, factor) for steps, factor in zip(firsts, factors, strict=True)]
        runs: dict[str, DirectionGradient] = {}
        tensors: dict[str, Array] = {}
        walk = Down(self.layer.stack, factors, self.from_loss.output)
        for direction in walk:
            maps = self.maps[direction.name]
            run = runs[direction.name] = self._through_time(maps, walk.signal, variation)
            walk.give(variation.handed(maps.steps, run.dx) if direction.layer else run.dx)
            for parameter, gradient in self._parameters(maps, run, variation).items():
                tensors[f"{parameter}_{direction.name}"] = gradient
        runs = {name: runs[name] for name in self.maps}
        signal, states = to_caller(self.trace, walk.signal, {name: run.dinitial for name, run in runs.items()})
        ordered = {name: tensors[name] for name in self.layer.params if name in tensors}
        return ChainGradient({**ordered, "x": signal, **{f"{state}_0": array for state, array in states.items()}}, runs)

    def _through_time(self, maps: StepMaps, handed: Array, variation: Variation) -> DirectionGradient:
        """C1 and C2 for one direction of one layer, and its share of dx."""
        steps, jacobians = maps.steps, maps.jacobians
        J, B = variation.state(steps, jacobians.state), variation.preactivation(steps, jacobians.preactivation)
        loss = np.zeros((steps.T, steps.N, steps.S))
        loss[..., : steps.widths[0]] = np.where(steps.alive[..., None], handed[..., steps.output_columns], 0)
        loss = variation.loss(steps, loss)
        final = variation.final(steps, self.from_loss.finals[steps.direction.name])
        if variation.forward_order:
            dstates, carry = _in_forward_order(steps, J, loss, final)
        else:
            dstates, carry = np.zeros_like(loss), final.copy()
            for t in reversed(steps.order()):
                alive = steps.alive[t][:, None]
                dstates[t] = np.where(alive, carry + loss[t], 0)
                carry = np.where(alive, pulled(J[t], dstates[t]), carry)  # C1
        da = pulled(B, dstates)  # C2
        weight = steps.weights()["weight_ih"]
        dx = np.zeros((steps.T, steps.N, weight.shape[1]))
        for rows, columns, _ in steps.products("input"):
            dx += da[..., columns] @ weight[rows]
        return DirectionGradient(loss, final, dstates, da, carry, dx)

    def _parameters(self, maps: StepMaps, run: DirectionGradient, variation: Variation) -> dict[str, Array]:
        """C3. A parameter that does not act through a_t, and has too many entries for a variation, is left out."""
        steps = maps.steps
        summed = variation.summed(steps, run.da)
        found: dict[str, Array] = {}
        for name, weight in steps.weights().items():
            if maps.additive[name]:
                gradient = np.zeros(weight.shape)
                for rows, columns, source in products_of(steps, name):
                    da = summed[..., columns].reshape(-1, columns.stop - columns.start)
                    if weight.ndim == 1:
                        gradient[rows] += da.sum(axis=0)
                    else:
                        kind = "input" if name == "weight_ih" else "hidden"
                        acted = variation.source(steps, kind, source).reshape(len(da), weight.shape[1])
                        gradient[rows] += da.T @ acted
                found[name] = gradient
            elif name in maps.vectors and variation is not EXACT:
                columns, source = maps.vectors[name]
                found[name] = (summed[..., columns] * source).sum(axis=(0, 1))
            elif variation is EXACT or _few(steps, weight):
                found[name] = by_itself(maps, name, run.dstates)
        return found


def _labelled(progress: Callable[[int, int, str], None], name: str, done: int, total: int) -> None:
    progress(done, total, f"steps of {name}")


def _find_additive(maps: StepMaps) -> None:
    """Find out which parameters act through a_t alone, by a change of them in a random direction: of all that may, and
    only where that says no, of each.
    """
    steps, rng = maps.steps, np.random.default_rng(0)
    maps.additive = dict.fromkeys(steps.weights(), False)
    changes = {
        name: rng.normal(size=weight.shape)
        for name, weight in steps.weights().items()
        if name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    for names in (list(changes), *([name] for name in changes)):
        some = _act_through_a(maps, {name: changes[name] for name in names})
        maps.additive |= dict.fromkeys(names, some)
        if some and len(names) == len(changes):
            return


def _find_vectors(maps: StepMaps) -> None:
    """Find out which parameters of H entries act as peepholes do, each unit's through one gate's a, times its state."""
    steps, H, rng = maps.steps, maps.steps.layer.hidden_size, np.random.default_rng(1)
    if steps.cell.input_gradient != "da":
        return
    states = [array for when in ("before", "after") for array in steps.split(steps.states(when))]
    for name, weight in steps.weights().items():
        if weight.shape != (H,) or maps.additive[name]:
            continue
        change = rng.normal(size=H)
        found = steps.parameter_jvp(name, change)
        for k in range(len(steps.cell.slabs)):
            columns = slice(k * H, (k + 1) * H)
            block = maps.jacobians.preactivation[..., columns]
            for source in states:
                if source.shape[-1] == H and name not in maps.vectors:
                    size = float(_applied(np.abs(block), np.abs(change * source)).max(initial=0.0))
                    if np.abs(_applied(block, change * source) - found).max(initial=0.0) <= 512 * EPS * size:
                        maps.vectors[name] = columns, source


def _act_through_a(maps: StepMaps, changes: dict[str, Array]) -> bool:
    """Whether all that changes of parameters do is what B_t makes of the change of a_t."""
    steps = maps.steps
    nudge = np.zeros((steps.T, steps.N, steps.A))
    for name, change in changes.items():
        for rows, columns, source in products_of(steps, name):
            nudge[..., columns] += source @ change[rows].T if change.ndim == 2 else change[rows]
    matrix = maps.jacobians.preactivation
    # Layer normalisation of tiny sums is nearly nothing: only rounding may be between the two.
    size = _applied(np.abs(matrix), np.abs(nudge)).max(axis=2, keepdims=True, initial=0.0)
    difference = _applied(matrix, nudge) - steps.parameters_jvp(changes)
    known = 0.0
    if maps.jacobians.errors is not None and steps.latest is not None:  # differences, with errors of their own
        known = 4 * (_applied(maps.jacobians.errors[1], np.abs(nudge)) + 1e-8 * size)
        known[np.nonzero(steps.alive)] += 4 * steps.latest.errors
    return bool(np.all(np.abs(difference) <= 512 * EPS * size + TINY + known))


def _few(steps: RecordedSteps, weight: Array) -> bool:
    return bool(weight.size * steps.T * steps.N * steps.S <= KEPT)


def by_itself(maps: StepMaps, name: str, dstates: Array, absolute: bool = False) -> Array:
    """Differentiate by a parameter that does not act through a_t, entry by entry; or sum the absolute values."""
    steps, weight = maps.steps, maps.steps.weights()[name]
    size = np.abs if absolute else np.asarray
    if _few(steps, weight):
        if name not in maps.derivatives:
            maps.derivatives[name] = np.stack([steps.parameter_jvp(name, unit) for unit in _units(weight)], axis=-1)
        total: Array = np.einsum("tns,tnsp->p", dstates, size(maps.derivatives[name]))
        return total.reshape(weight.shape)
    values = [float(np.sum(dstates * size(steps.parameter_jvp(name, unit)))) for unit in _units(weight)]
    return np.array(values).reshape(weight.shape)


def by_given(maps: StepMaps, name: str, dstates: Array, absolute: bool = False) -> Array:
    """Differentiate by a given array, (N, ·), entry by entry; or sum the absolute values."""
    steps, size = maps.steps, np.abs if absolute else np.asarray
    array, title = steps.recorded.given[name], f"given {name}"
    found = np.zeros(array.shape)
    if not array.size:
        return found
    units = list(_units(array[0]))

    def tangent(unit: Array) -> Array:  # each entry is read by its own sequence alone
        return steps.given_jvp(name, np.broadcast_to(unit, array.shape))

    if len(units) * steps.T * steps.N * steps.S <= KEPT and title not in maps.derivatives:
        maps.derivatives[title] = np.array([tangent(unit) for unit in units])
    kept = maps.derivatives.get(title)
    for k, index in enumerate(np.ndindex(array.shape[1:])):
        derivatives = tangent(units[k]) if kept is None else kept[k]
        found[(slice(None), *index)] = np.einsum("tns,tns->n", dstates, size(derivatives))
    return found


def products_of(steps: RecordedSteps, name: str) -> list[tuple[slice, slice, Array]]:
    """Return `steps.products` of a weight or of the bias beside it."""
    return steps.products("input" if name in ("weight_ih", "bias_ih") else "hidden")


def _units(weight: Array) -> Iterator[Array]:
    for index in np.ndindex(weight.shape):
        unit = np.zeros(weight.shape)
        unit[index] = 1.0
        yield unit


def _applied(matrix: Array, vector: Array) -> Array:
    """Return the product over the last axes, for each t and n."""
    product: Array = np.matmul(matrix, vector[..., None])[..., 0]
    return product


def pulled(matrix: Array, vector: Array) -> Array:
    """Return the product with the transposed matrix, for each n, or each t and n."""
    product: Array = np.matmul(vector[..., None, :], matrix)[..., 0, :]
    return product


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
            late[count:] = pulled(J[j], late[count:])
        total: Array = late.sum(axis=0)
        return total

    dstates = np.zeros_like(loss)
    for place, k in enumerate(order):
        dstates[k] = np.where(steps.alive[k][:, None], at(place), 0)
    return dstates, at(-1)
