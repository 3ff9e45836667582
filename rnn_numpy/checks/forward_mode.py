"""Two proofs of a backward pass that do not run it again: real-time recurrent learning, and the adjoint identity.

Both use the cells' hand-written Jacobian-vector products (`rnn_numpy.layers.tangent`) at the states that a trace
recorded. No trajectory is computed twice, so that chaos, which makes every comparison with a difference quotient
worthless after a few dozen steps, does no harm; and no step size is chosen.

Real-time recurrent learning [1]_ carries the influence matrix, here ds_t/dtheta for all states s of a layer or stack
and all its parameters and initial states theta, forward in time:

    (I1)  ds_t/dtheta = J_t ds_{t-1}/dtheta + (what theta does at step t itself, with s_{t-1} held fixed)
    (I2)  dL/dtheta   = sum_t (ds_t/dtheta)^T dL/ds_t directly

I2 needs no gradient from the future: it is the other way to take the double sum of `rnn_numpy.layers.rnn`, with the sum
over k inside. A stack is one network, whose state is that of all its layers; its influence matrix is lower triangular,
and only these blocks are computed: the state of a layer by the parameters of the layers below and its own. All layers
take step t before any takes step t+1. Two directions have each its own order of steps, so that with them I1 runs
through a whole layer, both directions, before the next one begins, and all influences on its outputs are kept.

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
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.trace import Trace
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.base import Direction
from rnn_numpy.layers.recurrent import Recurrent
from rnn_numpy.layers.tangent import Recorded, TangentSteps, UnitChanges, jvp

Array = NDArray[Any]


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
        `rnn_numpy.layers.tangent.UnitChanges`. For one layer alone; `rnn_numpy.lab.snap1` makes such a choice.

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
    recorded = Recorded("rtrl", layer, trace)
    top, dfinals = recorded.gradient_in(doutput), recorded.states_in("dh_n", dh_n)
    influence = _Influence(recorded, kept)
    for direction, t in _schedule(recorded):
        influence.advance(direction, t, top)
    return influence.gradients(dfinals)


def _schedule(recorded: Recorded) -> Iterator[tuple[Direction, int]]:
    """Yield directions and steps in an order in which each step finds all that it depends on."""
    flat = list(itertools.chain(*recorded.layers))
    if recorded.layer.num_directions == 1:
        yield from ((direction, t) for t in recorded.steps[flat[0].name].order() for direction in flat)
    else:
        yield from ((direction, t) for direction in flat for t in recorded.steps[direction.name].order())


class _Influence:
    """The influence matrix, in blocks: the states of one direction by the parameters and initial states of another."""

    def __init__(self, recorded: Recorded, kept: Mapping[str, Sequence[ArrayLike]] | None) -> None:
        self.recorded = recorded
        self.units = {name: UnitChanges(steps) for name, steps in recorded.steps.items()}
        self.kept = self._checked(kept)
        self.sums = {
            name: np.zeros((recorded.plan.N, unit.count), recorded.layer.dtype) for name, unit in self.units.items()
        }
        self.tangents: dict[tuple[str, str], TangentSteps] = {}
        self.states: dict[tuple[str, str], list[Array]] = {}
        # By layer, source and step, the influence on the layer's outputs, which the next layer reads.
        self.signals: dict[tuple[int, str, int], Array] = {}
        for direction in itertools.chain(*recorded.layers):
            for source in self.sources(direction):
                pair, unit = (direction.name, source.name), self.units[source.name]
                if source is direction:
                    self.tangents[pair] = unit.tangents()
                    self.states[pair] = unit.begin()
                else:
                    tangents = self.tangents[pair] = TangentSteps(recorded.steps[direction.name], unit.count)
                    self.states[pair] = tangents.initial([None] * len(recorded.layer.cell.states))

    def _checked(self, kept: Mapping[str, Sequence[ArrayLike]] | None) -> dict[str, list[Array]]:
        if kept is None:
            return {}
        where, names = self.recorded.where, list(self.units)
        if len(self.recorded.layers) > 1 or sorted(kept) != sorted(names):
            raise OptionError(
                f"{where}: kept needs a single layer and an entry for each of {', '.join(names)}; got "
                f"{len(self.recorded.layers)} layers and entries for {', '.join(sorted(kept)) or 'none'}"
            )
        checked: dict[str, list[Array]] = {}
        for name, unit in self.units.items():
            widths = unit.steps.widths
            if len(kept[name]) != len(widths):
                raise OptionError(f"{where}: kept[{name!r}] must have {len(widths)} arrays, one for each state")
            arrays = [np.asarray(array, bool) for array in kept[name]]
            for array, width in zip(arrays, widths, strict=True):
                arguments.shaped(where, f"kept[{name!r}]", array, "(K, H)", (unit.count, width))
            checked[name] = arrays
        return checked

    def sources(self, direction: Direction) -> list[Direction]:
        """Return whose parameters a direction's states depend on: those of all layers below, and its own."""
        return [*itertools.chain(*self.recorded.layers[: direction.layer]), direction]

    def advance(self, direction: Direction, t: int, top: Array | None) -> None:
        """Do step t of one direction: I1, and of I2 the term that belongs to its output."""
        is_last = direction.layer == len(self.recorded.layers) - 1
        for source in self.sources(direction):
            pair = direction.name, source.name
            tangents = self.tangents[pair]
            arrays = tangents.begin(self.states[pair])
            if source is direction:
                self.units[source.name].enter(t, tangents, arrays)
            else:
                tangents.enter_input(arrays, self._signal(direction.layer - 1, source, t))
            found = tangents.step(t, arrays)  # I1
            for array, kept in zip(found, self.kept.get(direction.name, ()), strict=False):
                by_change = array.reshape(self.recorded.plan.N, -1, array.shape[1])
                by_change[...] = np.where(kept, by_change, 0)
            self.states[pair] = found
            alive = tangents.alive(t)
            if is_last and top is not None:
                self._add(source, found[0][:alive], top[t, :, direction.columns])  # I2
            elif not is_last:
                self._send(direction, source, t, found[0][:alive])

    def _add(self, source: Direction, vstate: Array, dstate: Array) -> None:
        """Add (ds/dtheta)^T ds to the sums of one source; (M', H) and (N, H), of M' columns that exist."""
        count = self.units[source.name].count
        alive = len(vstate) // count
        products = vstate.reshape(alive, count, vstate.shape[1]) @ dstate[:alive, :, None]
        self.sums[source.name][:alive] += products[:, :, 0]

    def _send(self, direction: Direction, source: Direction, t: int, vstate: Array) -> None:
        """Keep the influence on a layer's output, times the dropout factors, for the next layer."""
        recorded, count, key = self.recorded, self.units[source.name].count, (direction.layer, source.name, t)
        if key not in self.signals:
            self.signals[key] = np.zeros((recorded.plan.N * count, recorded.width), recorded.layer.dtype)
        factors = recorded.factors(direction.layer)
        if factors is not None:
            vstate = vstate * np.repeat(factors[t, : len(vstate) // count, direction.columns], count, axis=0)
        self.signals[key][: len(vstate), direction.columns] = vstate

    def _signal(self, layer: int, source: Direction, t: int) -> Array:
        """Return the influence on a layer's output; where one direction alone reads it, it is let go."""
        key = layer, source.name, t
        return self.signals.pop(key) if self.recorded.layer.num_directions == 1 else self.signals[key]

    def gradients(self, dfinals: Sequence[Array | None]) -> ForwardGradients:
        """Add I2's terms of the final states; return the sums under their names."""
        recorded, layer = self.recorded, self.recorded.layer
        rows = {direction.name: direction for direction in itertools.chain(*recorded.layers)}
        for (name, source), vstates in self.states.items():
            for vstate, dfinal in zip(vstates, dfinals, strict=True):
                if dfinal is not None:
                    self._add(rows[source], vstate, dfinal[rows[name].row])
        grads = layer.params.zeros_like()
        initial = [np.zeros((len(rows), recorded.plan.N, width), layer.dtype) for width in self._widths]
        for name, direction in rows.items():
            unit, sums = self.units[name], self.sums[name]
            arrays = recorded.own(grads, direction)
            for parameter, (place, shape) in unit.places.items():
                arrays[parameter][...] = sums[:, place].sum(axis=0).reshape(shape)
            for target, place in zip(initial, unit.initial.values(), strict=True):
                target[direction.row] = sums[:, place]
        names = [f"d{state}_0" for state in layer.cell.states]
        return ForwardGradients(grads, dict(zip(names, recorded.states_to_caller(initial), strict=True)))

    @property
    def _widths(self) -> list[int]:
        return next(iter(self.recorded.steps.values())).widths


# ---------------------------------------------------------------------------------------------- the adjoint identity


def adjoint_error(
    layer: Recurrent,
    trace: Trace,
    *,
    seed: int = 0,
    directions: int = 3,
    names: Sequence[str] | None = None,
) -> float:
    """Compare <J v, u> of forward mode with <v, J^T u> of backward, for random v and u, at the recorded states.

    Parameters
    ----------
    layer : Recurrent
        With a cell that has `step_tangent`.
    trace : Trace
        From `layer.forward`.
    seed : int
        Of the random directions: Gaussian, u over output and final states.
    directions : int
        How many pairs v, u are tried.
    names : sequence of str, optional
        Where v is not 0: among "x", "h_0" (of an LSTM also "c_0") and the names of the parameters; all where left out.

    Returns
    -------
    float
        The largest |<J v, u> - <v, J^T u>|, relative to |J v| |u|: a few units of rounding where backward is right.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The trace is another layer's, an unknown name, a cell without `step_tangent`.

    Notes
    -----
    Cost: for each pair a forward-mode and a backward pass. The trace keeps the gradients of the latest backward pass
    that it had.

    v and u have something of all entries, so that a single wrong one shows; relative to |J v| |u| it weighs less, the
    more entries there are. `names` narrows it down to one tensor. J v of a few numbers may happen to cancel: a large
    value for one seed alone, of a layer with one or two units, proves nothing.

    Examples
    --------
    >>> from rnn_numpy.layers import LSTM
    >>> lstm = LSTM(2, 3, num_layers=2, rng=0)
    >>> trace = lstm.forward(np.random.default_rng(1).normal(size=(50, 4, 2)))[2]
    >>> adjoint_error(lstm, trace) < 1e-15
    True
    """
    where = "adjoint_error"
    pairs = arguments.positive_int(where, "directions", directions)
    rng = np.random.default_rng(seed)
    recorded = Recorded(where, layer, trace)
    initial = [f"{state}_0" for state in layer.cell.states]
    known = ["x", *initial, *layer.params]
    chosen = known if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise OptionError(f"{where}: names must be among {known}; got {unknown or 'none'}")
    zero = jvp(layer, trace)  # what has the shapes of the results
    x = recorded.to_caller(next(iter(trace.runs.values())).arrays["x"])
    latest = {name: run.latest for name, run in trace.runs.items()}
    worst = 0.0
    try:
        for _ in range(pairs):
            vx = _random(x, rng) if "x" in chosen else None
            vstates = _random(zero.vh_n, rng)
            parts = vstates if isinstance(vstates, tuple) else (vstates,)
            for name, part in zip(initial, parts, strict=True):
                part *= name in chosen
            vparams = {name: _random(array, rng) for name, array in layer.params.items() if name in chosen}
            u, u_n = _random(zero.voutput, rng), _random(zero.vh_n, rng)
            forward = jvp(layer, trace, vx=vx, vh_0=vstates, vparams=vparams)
            back = layer.backward(trace, u, u_n)
            after = _dot(forward.voutput, u) + _dot(forward.vh_n, u_n)
            before = sum(_dot(back.grads[name], change) for name, change in vparams.items())
            before += sum(_dot(getattr(back, "d" + name), part) for name, part in zip(initial, parts, strict=True))
            before += 0 if vx is None else _dot(back.dx, vx)
            length = _norm((forward.voutput, forward.vh_n)) * _norm((u, u_n))
            difference = float(abs(after - before))
            worst = max(worst, difference / length if length else (np.inf if difference else 0.0))
    finally:
        for name, run in trace.runs.items():
            run.latest = latest[name]
    return worst


def adjoint_errors(layer: Recurrent, trace: Trace, *, seed: int = 0, directions: int = 3) -> dict[str, float]:
    """Return `adjoint_error` for each tensor on its own: input, initial states, and each parameter.

    Parameters and errors are those of `adjoint_error`.

    Returns
    -------
    dict of str to float
        By "x", "h_0" (of an LSTM also "c_0"), "weight_ih_l0", ...

    Examples
    --------
    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.random.default_rng(1).normal(size=(50, 4, 2)))[2]
    >>> errors = adjoint_errors(rnn, trace)
    >>> list(errors)
    ['x', 'h_0', 'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    >>> max(errors.values()) < 1e-15
    True
    """
    names = ["x", *(f"{state}_0" for state in Recorded("adjoint_errors", layer, trace).layer.cell.states)]
    return {
        name: adjoint_error(layer, trace, seed=seed, directions=directions, names=[name])
        for name in [*names, *layer.params]
    }


def _random(like: Any, rng: np.random.Generator) -> Any:
    """Return Gaussian numbers in the form of `like`: an array, a tuple of arrays, or a packed one."""
    if isinstance(like, PackedSequence):
        return like._replace(data=_random(like.data, rng))
    if isinstance(like, tuple):
        return tuple(_random(part, rng) for part in like)
    return rng.normal(size=like.shape).astype(like.dtype)


def _dot(one: Any, other: Any) -> Any:
    """Return the sum of products of all entries, without conjugation."""
    if isinstance(one, PackedSequence):
        return _dot(one.data, other.data)
    if isinstance(one, tuple):
        return sum(_dot(part, match) for part, match in zip(one, other, strict=True))
    return one.ravel() @ other.ravel()


def _norm(value: Any) -> float:
    """Return the Euclidean norm of all entries."""
    if isinstance(value, PackedSequence):
        return _norm(value.data)
    if isinstance(value, tuple):
        return float(np.hypot.reduce([_norm(part) for part in value]))
    return float(np.linalg.norm(value.ravel()))
