"""Two proofs of a backward pass that do not run it again: real-time recurrent learning, and the adjoint identity.

Both use the cells' hand-written Jacobian-vector products (`rnn_numpy.engine.forward_mode`) at the states that a trace
recorded. No trajectory is computed twice, so that chaos, which makes every comparison with a difference quotient
worthless after a few dozen steps, does no harm; and no step size is chosen.

Real-time recurrent learning [1]_ carries the influence matrix, here ds_t/dtheta for all states s of a layer or stack
and all its parameters and initial states theta, forward in time:

    (I1)  ds_t/dtheta = J_t ds_{t-1}/dtheta + (what theta does at step t itself, with s_{t-1} held fixed)
    (I2)  dL/dtheta   = sum_t (ds_t/dtheta)^T dL/ds_t directly

I2 needs no gradient from the future: it is the other way to take the double sum of `rnn_numpy.layers.rnn`, with the sum
over k inside. No entry of theta knows of another, so that some hundred of them go through all steps at a time: their
arrays stay in the cache. A stack is one network, whose state is that of all its layers; its influence matrix is lower
triangular, and only these blocks are computed: the state of a layer by the parameters of the layers below and its own.
All layers take step t before any takes step t+1. Two directions have each its own order of steps, so that with them I1
runs through a whole layer, both directions, before the next one begins, and all influences on its outputs are kept.

References
----------
.. [1] R. J. Williams, D. Zipser, "A learning algorithm for continually running fully recurrent neural networks", Neural
   Computation 1 (1989): eq. 2.9 to 2.12.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.forward_mode import RecordedPass, TangentSteps, UnitChanges
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.walk import Direction
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

# Of the pre-activations of the entries that go through the steps together, at most; of their states, and of what the
# formulas compute on the way, it is some times as much.
PART_BYTES = 2**20


@dataclass(frozen=True)
class ForwardGradients:
    """Gradients that were computed forward in time.

    Attributes
    ----------
    grads : Parameters
        Of the parameters, under their names.
    initial : dict of str to ndarray
        Of the initial states, "dh_0" and, of an LSTM, "dc_0", each in its state's shape.
    """

    grads: Parameters
    initial: dict[str, Array]


def rtrl(
    layer: Recurrent,
    trace: Trace,
    doutput: ArrayLike | None,
    dh_n: Any = None,
    *,
    kept: Mapping[str, Sequence[ArrayLike]] | None = None,
) -> ForwardGradients:
    """Compute the gradients of parameters and initial states by real-time recurrent learning, forward in time.

    They are those of `layer.backward`, but for rounding; no line of a backward pass is run.

    Parameters
    ----------
    layer : Recurrent
        With a cell that has `step_tangent`: every layer of this package.
    trace : Trace
        From `layer.forward`.
    doutput, dh_n
        As for `layer.backward`.
    kept : mapping of str to sequence of array_like of bool, (K, H), optional
        For each direction ("l0", "l0_reverse") and each state, which entries of the influence matrix are kept after
        each step, the others being set to 0: the gradient is then no longer exact. K changes, in the order of
        `rnn_numpy.engine.forward_mode.UnitChanges`. For one layer alone; `rnn_numpy.lab.snap1` makes such a choice.

    Returns
    -------
    ForwardGradients

    Raises
    ------
    ShapeError, DTypeError
        A gradient does not have the shape or dtype of what it is the gradient of; the trace is another layer's.
    OptionError
        A cell without `step_tangent`, or with a further parameter that is a matrix and has no product; `kept` with
        several layers, or without one of the directions.

    Notes
    -----
    Cost: 2 N P G H^2 multiplications and additions per step, P the number of parameters, where backward has
    4 N G H (D + H): for small layers only. An influence matrix has N P S numbers, S units of state, and a step takes
    memory for a few times as many; of a layer with two directions below another one N P H are kept for each step.

    Examples
    --------
    >>> from rnn_numpy.layers import GRU
    >>> gru, rng = GRU(2, 3, rng=0), np.random.default_rng(1)
    >>> output, h_n, trace = gru.forward(rng.normal(size=(20, 2, 2)))
    >>> doutput = rng.normal(size=output.shape)
    >>> forward, backward = rtrl(gru, trace, doutput).grads, gru.backward(trace, doutput).grads
    >>> bool(np.abs(forward.flat - backward.flat).max() < 4e-15 * np.abs(backward.flat).max())
    True
    """
    recorded = RecordedPass("rtrl", layer, trace)
    masks = _checked(recorded, kept)
    changes = {name: UnitChanges(steps) for name, steps in recorded.steps.items()}
    return _gradients(recorded, changes, _sums(recorded, changes, doutput, dh_n, masks))


def rtrl_by_rows(
    layer: Recurrent, trace: Trace, doutput: Any, dh_n: Any, along: Mapping[str, Array]
) -> dict[str, Array]:
    """Compute, as `rtrl` does, slopes of the loss in place of gradients: along each row of each matrix in `along`,
    which has one for each parameter that is a matrix; by each entry of the others.

    Row r of a matrix changes along row r: its slope is the sum over that row of gradient times change. So many rows
    cost as much as so many entries.
    """
    recorded = RecordedPass("rtrl", layer, trace)
    changes = {}
    for direction in itertools.chain(*layer.stack):
        own = {
            name: along[f"{name}_{direction.name}"]
            for name in recorded.steps[direction.name].weights()
            if f"{name}_{direction.name}" in along
        }
        changes[direction.name] = UnitChanges(recorded.steps[direction.name], None, own)
    sums = _sums(recorded, changes, doutput, dh_n, {})
    return {
        f"{parameter}_{name}": sums[name][:, place].sum(axis=0).reshape(shape)
        for name, unit in changes.items()
        for parameter, (place, shape) in unit.places.items()
    }


def _sums(
    recorded: RecordedPass,
    changes: Mapping[str, UnitChanges],
    doutput: Any,
    dh_n: Any,
    masks: Mapping[str, Sequence[Array]],
) -> dict[str, Array]:
    """Return, for each direction, the sums of I2 for each sequence and change, (N, K)."""
    top, dfinals = recorded.gradient_in(doutput), recorded.edge.states_in("rtrl", "dh_n", dh_n)
    sums: dict[str, Array] = {}
    for source in itertools.chain(*recorded.layer.stack):
        total, along = changes[source.name].total, changes[source.name].along
        size = max(1, PART_BYTES // (8 * max(1, recorded.batch.N) * recorded.steps[source.name].A))
        parts = []
        for start in range(0, total, size):
            part = UnitChanges(recorded.steps[source.name], slice(start, min(start + size, total)), along)
            influence = _Influence(recorded, source, part, masks)
            for direction, t in _schedule(recorded, source):
                influence.advance(direction, t, top)
            influence.finish(dfinals)
            parts.append(influence.sums)
        sums[source.name] = np.concatenate(parts, axis=1)
    return sums


def _checked(recorded: RecordedPass, kept: Mapping[str, Sequence[ArrayLike]] | None) -> dict[str, list[Array]]:
    if kept is None:
        return {}
    where, names = recorded.where, list(recorded.steps)
    if len(recorded.layer.stack) > 1 or sorted(kept) != sorted(names):
        raise OptionError(
            f"{where}: kept needs a single layer and an entry for each of {', '.join(names)}; got "
            f"{len(recorded.layer.stack)} layers and entries for {', '.join(sorted(kept)) or 'none'}"
        )
    checked: dict[str, list[Array]] = {}
    for name, steps in recorded.steps.items():
        total, widths = UnitChanges(steps).total, steps.widths
        if len(kept[name]) != len(widths):
            raise OptionError(f"{where}: kept[{name!r}] must have {len(widths)} arrays, one for each state")
        arrays = [np.asarray(array, bool) for array in kept[name]]
        for array, width in zip(arrays, widths, strict=True):
            arguments.shaped(where, f"kept[{name!r}]", array, "(K, H)", (total, width))
        checked[name] = arrays
    return checked


def _gradients(
    recorded: RecordedPass, changes: Mapping[str, UnitChanges], sums: Mapping[str, Array]
) -> ForwardGradients:
    """Return the sums of each direction, (N, K), under their names."""
    layer = recorded.layer
    widths = next(iter(recorded.steps.values())).widths
    grads = layer.params.zeros_like()
    initial = [np.zeros((len(sums), recorded.batch.N, width), layer.params.dtype) for width in widths]
    for direction in itertools.chain(*layer.stack):
        unit, found = changes[direction.name], sums[direction.name]
        arrays = layer.own(grads, direction)
        for parameter, (place, shape) in unit.places.items():
            arrays[parameter][...] = found[:, place].sum(axis=0).reshape(shape)
        for target, place in zip(initial, unit.initial.values(), strict=True):
            target[direction.row] = found[:, place]
    names = [f"d{state}_0" for state in layer.cell.states]
    return ForwardGradients(grads, dict(zip(names, recorded.edge.states_out(initial), strict=True)))


def _schedule(recorded: RecordedPass, source: Direction) -> Iterator[tuple[Direction, int]]:
    """Yield those directions and steps that depend on one direction's parameters, in an order in which each step finds
    all that it depends on.
    """
    flat = [source, *itertools.chain(*recorded.layer.stack[source.layer + 1 :])]
    if recorded.layer.num_directions == 1:
        yield from ((direction, t) for t in recorded.steps[flat[0].name].order() for direction in flat)
    else:
        yield from ((direction, t) for direction in flat for t in recorded.steps[direction.name].order())


class _Influence:
    """The influence of some of the parameters and initial states of one direction, `source`, on all states above."""

    def __init__(
        self, recorded: RecordedPass, source: Direction, unit: UnitChanges, kept: Mapping[str, Sequence[Array]]
    ) -> None:
        self.recorded, self.source, self.unit = recorded, source, unit
        self.kept = [array[unit.part] for array in kept.get(source.name, ())]
        self.sums = np.zeros((recorded.batch.N, self.unit.count), recorded.edge.dtype)
        self.tangents = {source.name: self.unit.tangents()}
        self.states = {source.name: self.unit.begin()}
        for direction in itertools.chain(*recorded.layer.stack[source.layer + 1 :]):
            tangents = self.tangents[direction.name] = TangentSteps(recorded.steps[direction.name], self.unit.count)
            self.states[direction.name] = tangents.initial([None] * len(recorded.layer.cell.states))
        # By layer and step, the influence on the layer's outputs, which the next layer reads.
        self.signals: dict[tuple[int, int], Array] = {}

    def advance(self, direction: Direction, t: int, top: Array | None) -> None:
        """Do step t of one direction: I1, and of I2 the term that belongs to its output."""
        is_last = direction.layer == len(self.recorded.layer.stack) - 1
        tangents = self.tangents[direction.name]
        binding = tangents.begin(self.states[direction.name])
        if direction is self.source:
            self.unit.enter(t, tangents, binding)
        else:
            tangents.enter_input(binding, self._signal(direction.layer - 1, t))
        found = tangents.step(t, binding)  # I1
        for array, kept in zip(found, self.kept, strict=False):
            by_change = array.reshape(self.recorded.batch.N, -1, array.shape[1])
            by_change[...] = np.where(kept, by_change, 0)
        self.states[direction.name] = found
        alive = tangents.alive(t)
        if is_last and top is not None:
            self._add(found[0][:alive], top[t, :, direction.columns])  # I2
        elif not is_last:
            self._send(direction, t, found[0][:alive])

    def finish(self, dfinals: Sequence[Array | None]) -> None:
        """Add I2's terms of the final states."""
        for direction in itertools.chain(*self.recorded.layer.stack):
            for vstate, dfinal in zip(self.states.get(direction.name, ()), dfinals, strict=False):
                if dfinal is not None:
                    self._add(vstate, dfinal[direction.row])

    def _add(self, vstate: Array, dstate: Array) -> None:
        """Add (ds/dtheta)^T ds to the sums; (M', H) and (N, H), of M' columns that exist."""
        count = self.unit.count
        alive = len(vstate) // count
        products = vstate.reshape(alive, count, vstate.shape[1]) @ dstate[:alive, :, None]
        self.sums[:alive] += products[:, :, 0]

    def _send(self, direction: Direction, t: int, vstate: Array) -> None:
        """Keep the influence on a layer's output, times the dropout factors, for the next layer."""
        recorded, count, key = self.recorded, self.unit.count, (direction.layer, t)
        if key not in self.signals:
            self.signals[key] = np.zeros((recorded.batch.N * count, recorded.edge.output_width), recorded.edge.dtype)
        factors = recorded.factors(direction.layer)
        if factors is not None:
            vstate = vstate * np.repeat(factors[t, : len(vstate) // count, direction.columns], count, axis=0)
        self.signals[key][: len(vstate), direction.columns] = vstate

    def _signal(self, layer: int, t: int) -> Array:
        """Return the influence on a layer's output; where one direction alone reads it, it is let go."""
        key = layer, t
        return self.signals.pop(key) if self.recorded.layer.num_directions == 1 else self.signals[key]
