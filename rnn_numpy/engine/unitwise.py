r"""The Jacobians of many steps at once, of cells that work unit by unit but for W_hh.

Between the products of a step most cells work element by element: unit i of a gate follows from unit i of the states
and of other gates. What a step hands back is then

    (U1)  da_t     = E_t ds_t                      E_t, D_t diagonal in each block of H units
    (U2)  ds_{t-1} = D_t ds_t + W_hh^T da_t        the second term to the recurrent state alone

A gradient of ones at all units of one state gives the diagonals of all blocks at once: it goes back through the cell's
own `step_backward`, with zeros in place of W_hh, so that nothing is left but D_t. And

    (U3)  J_t = D_t + E_t^T W_hh

is one product over the gates for each unit, of all steps together, where S unit vectors through `step_backward` are S
times the columns, each with a product of its own.

Whether a cell is one of these is not assumed: random gradients go back through some of the steps, W_hh as it is, and
have to arrive as J_t^T says. A layer norm, attention, a projection, a product before the reset gate: there U3 does not
hold, and there are no `UnitMaps`. What the package's own formulas have said so is remembered (`_held`); formulas of
anybody else, and those of the package where something else stands in their place, are tried each time.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.engine.cell import Chain
from rnn_numpy.engine.parts import Formula
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.recurrent import HOOKS, hooks_of

Array = NDArray[Any]
Indices = NDArray[np.intp]

TRIED = 8  # steps whose Jacobians are compared with step_backward
ROUNDING = 1000  # eps, relative to a sum of absolute values, by which they may differ
TOGETHER = 2**14  # entries of gradients that go back in one call
CACHED = 2**16  # entries that are written at once: they are still in the cache when the diagonals are added


class UnitMaps:
    """J_t of M single steps, column m being step t[m] of sequence n[m], as U3 has it; `unit_maps` makes it.

    Attributes
    ----------
    slopes : ndarray, (M, states, gates, H)
        E_t: the derivative of each state, by each pre-activation, of unit i.
    weights : ndarray, (H, gates, H)
        W_hh, unit by unit.
    direct : ndarray, (M, states, S)
        D_t: row i has the diagonals of the blocks by which state i depends on each state before.
    recurrent : slice
        The columns of J_t that belong to the state on which W_hh acts.
    gradients : dict of str to ndarray, (M, states, slabs, H)
        E_t of the gradients that were asked for, slabs as they lie in memory.
    spread : dict of int to ndarray, (M, H)
        For other coordinates than the states: by how much what J_t^T hands to the recurrent state counts for another.
    """

    def __init__(
        self,
        slopes: Array,
        weights: Array,
        direct: Array,
        recurrent: slice,
        gradients: dict[str, Array],
        spread: Mapping[int, Array] = MappingProxyType({}),
    ) -> None:
        self.slopes, self.weights, self.direct, self.recurrent = slopes, weights, direct, recurrent
        self.gradients, self.spread = gradients, spread
        self.M, self.states, self.S = direct.shape
        self.H = slopes.shape[3]
        blocks = direct.reshape(self.M, self.states, self.states, self.H)
        pairs = np.ndindex(self.states, self.states)
        self._pairs = [(i, j) for i, j in pairs if blocks[:, i, j].any()]
        self._main = recurrent.start // self.H
        self._columns = sorted(range(self.states), key=lambda j: j != self._main)  # the recurrent state first
        self._direct = [[i for i, k in self._pairs if k == j] for j in range(self.states)]
        self._beside = sorted({j for _, j in self._pairs} - {self._main})

    def write(self, out: Array, start: int = 0) -> None:
        """Write J_t of the columns from `start` on into `out`, (m, S, S), C-contiguous."""
        size = max(1, CACHED // self.S**2)
        for low in range(0, len(out), size):
            piece = out[low : low + size]
            which = slice(start + low, start + low + len(piece))
            direct = self.direct[which]
            for j in self._columns:
                columns = piece[:, :, self._units(j)]
                if j == self._main:
                    self._products(piece.reshape(-1, self.H, self.S)[:, :, self.recurrent], which.start)
                elif j in self.spread:
                    np.multiply(piece[:, :, self.recurrent], self.spread[j][which, None], out=columns)
                else:
                    columns[...] = 0
                for i in self._direct[j]:
                    diagonal = np.einsum("mhh->mh", columns[:, self._units(i)])
                    diagonal += direct[:, i, self._units(j)]

    def products(self, count: int) -> Iterator[Callable[[Array], Array]]:
        """Yield the function V -> J V, (count, S, k) each, of `count` columns after the other.

        The blocks of J_t by which states depend on another one than the recurrent state are diagonal, and no matrices.
        """
        size = max(1, CACHED // (count * self.S * self.H)) * count
        for low in range(0, self.M, size):
            left, direct = self.left(low, min(size, self.M - low)), self.direct[low : low + size, ..., None]
            for first in range(0, len(left), count):
                some = slice(first, first + count)
                if self.states == 1:
                    yield functools.partial(np.matmul, left[some])
                else:
                    yield functools.partial(self._product, left[some], direct[some])

    def _product(self, left: Array, direct: Array, V: Array) -> Array:
        product: Array = left @ V[:, self.recurrent]
        blocks = product.reshape(len(V), self.states, self.H, -1)
        for j in self._beside:
            units = self._units(j)
            blocks += direct[:, :, units] * V[:, None, units]
        return product

    def left(self, start: int, count: int) -> Array:
        """Return the columns of J_t that belong to the recurrent state, (count, S, H), of columns from `start` on."""
        left: Array = memory.empty((count, self.S, self.H), self.direct.dtype)
        self._products(left.reshape(-1, self.H, self.H), start)
        for i, j in self._pairs:
            if j == self._main:
                diagonal = np.einsum("mhh->mh", left[:, self._units(i)])
                diagonal += self.direct[start : start + count, i, self.recurrent]
        return left

    def pull_stack(self, left: Array, start: int, adjoints: Array, out: Array) -> None:
        """Write J^T V of the columns from `start` on into `out`; V and J^T V are (count, S, k), `left` is theirs."""
        np.matmul(left.swapaxes(1, 2), adjoints, out=out[:, self.recurrent])
        blocks = adjoints.reshape(len(left), self.states, self.H, -1)
        for j in range(self.states):
            if j != self._main:
                direct = self.direct[start : start + len(left), :, self._units(j)]
                np.einsum("mih,mihk->mhk", direct, blocks, out=out[:, self._units(j)])

    def _units(self, state: int) -> slice:
        """Return the rows of J_t that belong to a state."""
        return slice(state * self.H, (state + 1) * self.H)

    def _products(self, out: Array, start: int) -> None:
        """Write E^T W_hh into (m * states, H, H)."""
        slopes = self.slopes[start : start + len(out) // self.states].reshape(len(out), -1, self.H)
        if slopes.shape[1] == 1:
            np.multiply(slopes[:, 0, :, None], self.weights[:, 0], out=out)
        else:
            np.matmul(np.ascontiguousarray(slopes.transpose(2, 0, 1)), self.weights, out=out.transpose(1, 0, 2))

    def pull(self, which: Indices, dstates: Array) -> tuple[Array, Array]:
        """Return J^T ds of some columns, (len, S), and the same out of absolute values."""
        J = np.empty((len(which), self.S, self.S), self.direct.dtype)
        UnitMaps(self.slopes[which], self.weights, self.direct[which], self.recurrent, {}).write(J)
        return (dstates[:, None] @ J)[:, 0], (np.abs(dstates)[:, None] @ np.abs(J))[:, 0]


def unit_maps(steps: RecordedSteps, t: Indices, n: Indices, gradients: Sequence[str] = ()) -> UnitMaps | None:
    """Return the Jacobians of single steps; None of a cell that does not work unit by unit.

    `gradients` are the names of those further gradients whose E_t are asked for, as formulas have them ("da_t").
    """
    cell, chain, H = steps.cell, steps.recorded.chain, steps.layer.hidden_size
    source = f"{cell.recurrent_state}_{'in' if chain.recurrent else 'prev'}"
    hidden = chain.blocks["hidden"]
    known = all(chain.place(acts).array == chain.place(source).array for _, _, acts in hidden)
    if not known or chain.recurrent or steps.recorded.given or set(steps.widths) != {H} or not len(t):
        return None
    W_hh = steps.recorded.weights["W_hh"]
    states, M, dtype = len(cell.states), len(t), W_hh.dtype
    slopes: Array = memory.empty((M, states, len(W_hh) // H, H), dtype)
    direct: Array = memory.empty((M, states, steps.S), dtype)
    asked: dict[str, Array] = {}
    # Ones at the units of one state, in a column of each step; of all states at once where there are few.
    width = states if states * M * steps.S <= TOGETHER else 1
    t_of_columns, n_of_columns = (t, n) if width == 1 else (np.tile(t, width), np.tile(n, width))
    recorded = steps.gathered(t, n, steps.read_by_backward, width)
    recorded.weights = {**recorded.weights, "W_hh": np.zeros_like(W_hh)}
    for first in range(0, states, width):
        some = slice(first, first + width)
        ones = np.zeros((width, M, states, H), dtype)
        for number in range(width):
            ones[number, :, first + number] = 1
        back = steps.vjp(t_of_columns, n_of_columns, ones.reshape(-1, steps.S), recorded, sums=False)

        def by_steps(array: Array) -> Array:
            return array.reshape(width, M, -1, H).swapaxes(0, 1)

        gradient = back.binding.aligned(cell.hidden_gradient + "_t")[0]
        for rows, columns, _ in hidden:
            slopes[:, some, rows.start // H : rows.stop // H] = by_steps(gradient[:, columns])
        direct[:, some] = by_steps(back.dstates).reshape(M, width, steps.S)
        for name in gradients:
            found = by_steps(back.binding.aligned(name)[0])
            if name not in asked:
                asked[name] = memory.empty((M, states, *found.shape[2:]), dtype)
            asked[name][:, some] = found
    place = cell.states.index(cell.recurrent_state) * H
    weights = np.ascontiguousarray(W_hh.reshape(-1, H, H).swapaxes(0, 1))
    maps = UnitMaps(slopes, weights, direct, slice(place, place + H), asked)
    said = _what_decides(steps, gradients)
    if said is not None and said in _held.get(chain, ()) and _is_finite(maps):
        return maps
    if not _holds(steps, maps, t, n):
        return None
    if said is not None:
        _held.setdefault(chain, set()).add(said)
    return maps


# What has been found to work unit by unit, by the chain of its formulas.
_held: weakref.WeakKeyDictionary[Chain, set[Any]] = weakref.WeakKeyDictionary()


def _what_decides(steps: RecordedSteps, gradients: Sequence[str]) -> Any:
    """Return all that decides, beside the chain, whether a cell works unit by unit; None where formulas are not those
    of the package, or the driver is not its own: nothing is known then of what they may do the next time.
    """
    if steps.cell.parameters:  # with W_hr = 1, say, a cell may work unit by unit, and with other weights not
        return None
    formulas = steps.recorded.chain.formulas
    every = [formula for kind in ("partials", "backward") for formula, _, _ in formulas[kind]]
    if hooks_of(type(steps.layer)) != HOOKS or not all(map(_is_own, every)):
        return None
    return tuple(every), tuple(formula.__code__ for formula in every), tuple(gradients), steps.layer.params.dtype


def _is_own(formula: Formula) -> bool:
    """Whether a formula is a function that a module of the package defines under its name, and reads nothing but its
    arguments and NumPy: no closure, no function that somebody may have put in the place of another.
    """
    if not isinstance(formula, types.FunctionType) or formula.__closure__:
        return False
    module = sys.modules.get(formula.__module__) if formula.__module__.startswith("rnn_numpy.") else None
    if getattr(module, formula.__name__, None) is not formula:
        return False
    return all(formula.__globals__.get(name, np) is np for name in formula.__code__.co_names)


def _is_finite(maps: UnitMaps) -> bool:
    arrays = (maps.slopes, maps.direct, maps.weights, *maps.gradients.values())
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _holds(steps: RecordedSteps, maps: UnitMaps, t: Indices, n: Indices) -> bool:
    """Whether random gradients go back through `step_backward` as they do through the maps."""
    which = np.unique(np.linspace(0, len(t) - 1, min(len(t), TRIED)).astype(np.intp))
    dstates = np.random.default_rng(0).standard_normal((len(which), steps.S)).astype(maps.direct.dtype)
    back = steps.vjp(t[which], n[which], dstates, sums=False)
    tolerance = ROUNDING * float(np.finfo(dstates.dtype).eps)
    compared = [(back.dstates, *maps.pull(which, dstates))]
    by_units = dstates.reshape(len(which), maps.states, maps.H)
    for name, slopes in maps.gradients.items():
        terms = (slopes[which] * by_units[:, :, None]).reshape(len(which), maps.states, -1)
        compared.append((back.binding.aligned(name)[0], terms.sum(axis=1), np.abs(terms).sum(axis=1)))
    return all(bool((np.abs(found - right) <= tolerance * size).all()) for right, found, size in compared)
