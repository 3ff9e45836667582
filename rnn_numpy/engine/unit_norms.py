r"""Norms of what all losses say at each step, of cells that work unit by unit but for W_hh.

`rnn_numpy.engine.adjoints` carries the gradients of all loss steps back by the cell's own formulas, which hand out da
of each. Where only norms of blocks are wanted, |R_k da(t, k)|, da need not be there: with U1 and U3 of
`rnn_numpy.engine.unitwise`,

    (N1)  P(t, k-1) = J_k^T P(t, k)                   (n, S), P(t, t) being what enters at step t
    (N2)  |R_k da|^2 = sum_i |R_k E_k,i P_i|^2        over the units i; P_i (n, states), E_k,i one slope for each

so that a step is one product for each sequence, and one for each unit with all of its slabs and rows of R. Nothing that
cancels is squared. Columns are scaled by powers of two, so that a gradient of 1e-300 is as right as one of 1.

Of a cell with one state, one gate and nothing that goes past both (an RNN), E_k is a diagonal for each sequence, D_k is
0, and da is what the product of U2 needs as well as the norm: no J_k, then, but for each step

    (N3)  da(t, k) = E_k P(t, k)
    (N4)  P(t, k-1) = W_hh^T da(t, k)                 all losses and sequences are rows of one product

Of one sequence R_k is a number, and a step is one product. What is carried are the gradients of the states as they
stand in a step when its formulas have added to them what comes by other states, dc_t += dh_t ... of an LSTM:
Y_k = K_k P_k. From one of these alone each slab of da follows, so that nothing that cancels is squared here, either:

    (N5)  Y(t, k-1) = K_{k-1} J_k^T K_k^-1 Y(t, k)
    (N6)  |da|^2 = sum_i F_k,i^2 Y_i^2                F_k = E_k K_k^-1, for each unit and slab one slope
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.core.numbers import largest_of, row_norms
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.unitwise import UnitMaps, unit_maps

Array = NDArray[Any]
Floats = NDArray[np.float64]
Group = tuple[int, ...]

BLOCK = 2**15  # entries of the adjoints of as many steps as have their norms in one call: they are still in the cache
PIECE = 2**21  # entries of the slopes of as many steps as have their maps at once
SQUARES = 1e-200, 1e200  # sums of squares that surely have all of their digits
RANGE = 2.0**200  # adjoints that are smaller than its inverse, or larger, are scaled
ROWS = 2**16  # entries of the adjoints that go through a block of steps together: with two copies still in the cache
STEPS = 16  # of such a block
NONE, ONCE, ALWAYS = range(3)  # when columns of a block are scaled: where nothing tells to, before it, at each step
UNPACKED = 10**6  # multiplications up to which OpenBLAS multiplies matrices where they lie
TOGETHER = 8, 2**17  # at least, and entries: steps of one sequence that have their norms in one call
MAPS = 2**16  # entries of the matrices of N5 that are there at once
WIDE = 128  # units up to which such a matrix costs less than calls; times the states, since blocks of it are diagonal
LONG, STEEP = 1e60, 1e40  # squares of adjoints, and slopes, below which no product is lost that N6 would show
DOUBLE = np.dtype(np.float64)
LOST = 1e-280  # adjoints that are smaller may have lost digits
ROUNDED = 8  # eps, relative to what it is a difference of, of what is none


def unit_norms(
    steps: RecordedSteps, direct: Array, gradient: str, factors: Array, groups: Sequence[Group] = ()
) -> tuple[Floats, dict[Group, Floats]] | None:
    """Return |R_k da(t, k)| of each slab of a gradient, (slabs, T, T), row t, column k, and where it costs nothing of
    groups of slabs together, (T, T); None of other cells.

    Parameters
    ----------
    steps : RecordedSteps
        Of one direction of one layer.
    direct : ndarray, (T, N, S)
        What enters at each step, as from `direct_gradients`.
    gradient : str
        da, by the name of a formula's argument: "da_t".
    factors : ndarray, (T, r, N)
        R_k.
    groups : sequence of tuple of int
        Slabs, at least two each.
    """
    counts = steps.batch.counts or [steps.N] * steps.T
    order = list(steps.binding.order(True))
    losses = np.array(order, np.intp)
    losses = losses[np.any(direct[losses] != 0, axis=(1, 2))]
    if steps.N == 1 and steps.S * len(steps.widths) <= WIDE and len(losses):
        tables = _alone(steps, direct, gradient, factors, groups)
        if tables is not None:
            return tables
    carried: _Carried | _Rows | None = None
    size = max(1, PIECE // max(1, steps.N * steps.S * (steps.A // steps.layer.hidden_size)))
    for start in range(0, len(order), size):
        piece = order[start : start + size]
        low, high = min(piece), max(piece) + 1
        t, n = np.nonzero(steps.alive[low:high])
        maps = unit_maps(steps, t + low, n, [gradient])
        if maps is None:
            return None
        if carried is None:
            if _is_plain(maps):
                carried = _Rows(steps.N, maps, losses, order, factors)
            else:
                carried = _Carried(steps.N, maps, losses, steps.T, factors)
        starts = np.concatenate([[0], np.cumsum(counts[low:high])]).tolist()
        carried.run(maps, [(k, starts[k - low], counts[k]) for k in piece], direct)
    if carried is None:
        return None
    found = carried.found.swapaxes(1, 2)
    if len(losses) == steps.T:
        found = found if losses[0] <= losses[-1] else found[:, ::-1]
    else:
        table = np.zeros((len(found), steps.T, steps.T))
        table[:, losses] = found
        found = table
    return found, {}


class _Carried:
    """The adjoints of all loss steps on their way back, and the norms that they leave."""

    def __init__(self, N: int, maps: UnitMaps, losses: NDArray[np.intp], T: int, factors: Array) -> None:
        self.losses, self.factors = losses, np.repeat(factors.astype(np.float64), maps.states, axis=2)
        self.gradient = next(iter(maps.gradients))
        self.slabs = maps.gradients[self.gradient].shape[2]
        self.Q, r, width = 0, factors.shape[1], max(1, len(losses))
        self.found = memory.zeros((self.slabs, T, len(losses)), np.dtype(np.float64))
        self.scale = np.zeros(width, np.intp)  # columns are 2**scale times what stands there
        steps = max(1, BLOCK // max(1, N * maps.S * width))
        # Two, so that a block's last step writes the first adjoints of the next one.
        self.blocks = np.zeros((steps, N, maps.S, width)), np.zeros((steps, N, maps.S, width))
        self._ranges = False  # squares have left the range of floats
        self.work = np.empty(steps * maps.H * self.slabs * r * width)

    def run(self, maps: UnitMaps, steps: Sequence[tuple[int, int, int]], direct: Array) -> None:
        """Carry on over steps (k, its first column, its number of sequences), newest first."""
        size = len(self.blocks[0])
        for n, alike in itertools.groupby(steps, lambda step: step[2]):
            equal = list(alike)
            for start in range(0, len(equal), size):
                self._block(maps, equal[start : start + size], n, direct)

    def _block(self, maps: UnitMaps, steps: Sequence[tuple[int, int, int]], n: int, direct: Array) -> None:
        """Carry on over some steps with the same sequences, and keep their norms."""
        own, following = self.blocks
        columns = [column for _, column, _ in steps]
        first = min(columns)
        if self._ranges:
            self.scale[: self.Q] += _scaled(own[0, :n, :, : self.Q], (0, 1))
        left = maps.left(first, len(steps) * n)
        widths: list[int] = []
        for number, (k, column, _) in enumerate(steps):
            adjoints = own[number, :n]
            if self.Q < len(self.losses) and self.losses[self.Q] == k:
                adjoints[:, :, self.Q] = direct[k, :n]
                self.Q += 1
            widths.append(self.Q)
            out = own[number + 1, :n] if number + 1 < len(steps) else following[0, :n]
            place, Q = column - first, self.Q
            maps.pull_stack(left[place : place + n], column, adjoints[:, :, :Q], out[:, :, :Q])
        self.blocks = following, own
        slopes = maps.gradients[self.gradient][first : first + len(steps) * n]
        slopes = slopes.reshape(len(steps), n, maps.states, self.slabs, maps.H)
        slopes = slopes[:: 1 if columns[0] == first else -1].transpose(0, 4, 3, 1, 2)
        slopes = slopes.reshape(len(steps), maps.H, self.slabs, 1, n * maps.states)
        self._keep([k for k, _, _ in steps], slopes, own[: len(steps), :n], np.array(widths))

    def _keep(self, k: list[int], slopes: Array, adjoints: Floats, widths: NDArray[np.intp]) -> None:
        """Keep the norms (N2) of steps k; slopes (k, H, slabs, 1, n * states), adjoints (k, n, S, Q)."""
        count, H, slabs, _, inner = slopes.shape
        R, Q = self.factors[k, :, :inner], self.Q
        r = R.shape[1]
        products = (slopes * R[:, None, None]).reshape(count, H, slabs * r, inner)
        units = adjoints.reshape(count, inner, H, -1).swapaxes(1, 2)[..., :Q]
        found = self.work[: count * H * slabs * r * Q].reshape(count, H, slabs * r, Q)
        np.matmul(products, units, out=found)
        squares = np.einsum("khgq,khgq->kgq", found, found).reshape(count, slabs, r, Q).sum(axis=2)
        norms = np.sqrt(squares)
        inside = (squares > SQUARES[0]) & (squares < SQUARES[1])
        self._ranges = False
        if not inside.all():
            step, slab, column = np.nonzero(~inside & (np.arange(Q) < widths[:, None, None]))
            self._ranges = len(step) > 0
            rows = found.reshape(count, H, slabs, r, Q)[step, :, slab, :, column]  # (.., H, r)
            norms[step, slab, column] = row_norms(rows.reshape(len(rows), H * r))
        if self.scale.any():
            norms = np.ldexp(norms, self.scale[:Q])
        self.found[:, k, :Q] = norms.swapaxes(0, 1)


def _scaled(adjoints: Floats, axes: tuple[int, ...], limit: float = RANGE) -> NDArray[np.intp]:
    """Scale those columns that are on their way out of the range of floats, beyond a limit or its inverse; return the
    exponents of what they were divided by.
    """
    largest = np.abs(adjoints).max(axis=axes, initial=0.0)
    away = (largest > 0) & np.isfinite(largest) & ((largest < 1 / limit) | (largest > limit))
    exponents: NDArray[np.intp] = np.where(away, np.frexp(largest)[1], 0).astype(np.intp)
    if away.any():
        np.ldexp(adjoints, -np.expand_dims(exponents, axes), out=adjoints)
    return exponents


def _is_plain(maps: UnitMaps) -> bool:
    """Whether J_t is E_t W_hh, and the gradient that was asked for E_t ds_t."""
    (gradient,) = maps.gradients.values()
    return maps.states == 1 and gradient.shape == maps.slopes.shape == (maps.M, 1, 1, maps.H) and not maps.direct.any()


class _Rows:
    """What `_Carried` is, of cells with one state and one gate: N3 and N4, adjoints as rows (losses, n, H)."""

    def __init__(self, N: int, maps: UnitMaps, losses: NDArray[np.intp], order: Sequence[int], factors: Array) -> None:
        self.N, self.H, self.losses, T = N, maps.H, losses, len(factors)
        self.weight = maps.weights[:, 0].astype(np.float64)
        # Factors are scaled as well, so that squares tell of adjoints alone.
        largest = np.abs(factors).max(axis=(1, 2), initial=0.0)
        self.silent, self.exponents = largest == 0, np.maximum(np.frexp(largest)[1] - 1, -1000)
        self.factors = np.ldexp(factors.astype(np.float64), -self.exponents[:, None, None])
        self.sizes = row_norms(self.factors[:, :, 0]) if N else np.zeros(T)
        reached = np.full(T, len(order))
        reached[order] = np.arange(len(order))
        self.met = np.searchsorted(reached[losses], reached, side="right")  # losses that have been met at step k
        self.found = memory.zeros((1, T, len(losses)), np.dtype(np.float64))
        self.scale = np.zeros(len(losses), np.intp)  # adjoints are 2**scale times what stands there
        self.adjoints = memory.zeros((len(losses), N, self.H), np.dtype(np.float64))
        self.group = max(1, min(len(losses), ROWS // max(1, N * self.H)))
        # Of a product that OpenBLAS does not pack, the rows; arrays have room for whole pieces.
        self.piece = max(1, min(64, UNPACKED // self.H**2))
        size, double = -(-self.group * N // self.piece) * self.piece * self.H, np.dtype(np.float64)
        self.moved, self.da = memory.zeros((size,), double), memory.zeros((size,), double)
        self.mixed = memory.empty((self.group * factors.shape[1] * self.H,), double)

    def run(self, maps: UnitMaps, steps: Sequence[tuple[int, int, int]], direct: Array) -> None:
        """Carry on over steps (k, its first column, its number of sequences), newest first."""
        slopes = maps.slopes[:, 0, 0]
        for first in range(0, len(self.losses), self.group):
            group = slice(first, min(first + self.group, len(self.losses)))
            met = [step for step in steps if self.met[step[0]] > first]
            for n, alike in itertools.groupby(met, lambda step: step[2]):
                equal = list(alike)
                for start in range(0, len(equal), STEPS):
                    some = [(k, slopes[column : column + n]) for k, column, _ in equal[start : start + STEPS]]
                    any(self._block(some, group, n, direct, care) for care in (NONE, ONCE, ALWAYS))

    def _block(self, steps: list[tuple[int, Array]], group: slice, n: int, direct: Array, care: int) -> bool:
        """Carry a group of losses on over some steps with the same sequences, and keep their norms. Return whether it
        has done so: not where squares leave the range of floats, unless columns are scaled at each step.
        """
        r, which = self.factors.shape[1], [k for k, _ in steps]
        widths = [min(int(self.met[k]), group.stop) - group.start for k in which]
        group = slice(group.start, group.start + widths[-1])
        norms, scales = np.zeros((len(steps), widths[-1])), np.zeros((len(steps), widths[-1]), np.intp)
        size, pieces = self.group * n * self.H, (-1, self.piece, self.H)
        moved, da = (array[:size].reshape(self.group, n, self.H) for array in (self.moved, self.da))
        products, factors = self.moved.reshape(pieces), self.da.reshape(pieces)
        mixed = self.mixed.reshape(self.group, r, self.H) if n > 1 else da
        flat = mixed.reshape(self.group, -1)
        rows, known = self.adjoints[group, :n], widths[0] - int(self.losses[group.start + widths[0] - 1] == which[0])
        if care == ONCE:
            self.scale[group.start : group.start + known] += _scaled(rows[:known], (1, 2))
        scale = self.scale[group].copy()
        scales[...] = scale
        newest = self.losses[group.start + np.array(widths) - 1].tolist()
        for number, ((k, slopes), width, loss) in enumerate(zip(steps, widths, newest, strict=True)):
            if loss == k:
                rows[width - 1] = direct[k, :n]
            if care == ALWAYS:
                scale[:width] += _scaled(rows[:width], (1, 2))
                scales[number] = scale
            np.multiply(rows[:width], slopes, out=da[:width])  # N3
            if n > 1:
                np.matmul(self.factors[k, :, :n], da[:width], out=mixed[:width])
            some = flat[:width]
            norms[number, :width] = row_norms(some) if care == ALWAYS else np.vecdot(some, some)
            count_of_pieces = -(-width * n // self.piece)
            np.matmul(factors[:count_of_pieces], self.weight, out=products[:count_of_pieces])  # N4
            rows = moved
        if care != ALWAYS:
            inside = (norms > SQUARES[0]) & (norms < SQUARES[1]) | (norms == 0) & self.silent[which, None]
            for number, width in enumerate(widths):
                inside[number, width:] = True
            if not inside.all():
                return False
            np.sqrt(norms, out=norms)
        sizes = np.ldexp(self.sizes[which] if n == 1 else 1.0, self.exponents[which])
        norms *= sizes[:, None]
        self.found[0, which, group] = np.ldexp(norms, scales) if scales.any() else norms
        self.adjoints[group, :n] = moved[: widths[-1]]
        self.scale[group] = scale
        return True


# -------------------------------------------------------------------------------------------------------- one sequence


def _alone(
    steps: RecordedSteps, direct: Array, gradient: str, factors: Array, groups: Sequence[Group]
) -> tuple[Floats, dict[Group, Floats]] | None:
    """Return what `unit_norms` does, of one sequence; None where N6 does not hold."""
    order = np.array([k for k in steps.binding.order(True) if steps.alive[k, 0]], np.intp)
    states = [f"d{state}_t" for state in steps.cell.states] if len(steps.cell.states) > 1 else []
    maps = unit_maps(steps, order, np.zeros_like(order), [gradient, *states])
    totals = None if maps is None else Totals.of(maps, gradient, states, groups)
    if totals is None:
        return None
    entering = direct[order, 0]
    reached = np.flatnonzero((entering != 0).any(axis=1))
    alone = _Alone(totals, reached, entering[reached])
    with np.errstate(over="ignore", invalid="ignore"):  # it is looked at what has left the range
        alone.run()
    found = alone.found
    if (factors != 1).any():
        found *= row_norms(factors[order, :, 0])[:, None]
    found = found.swapaxes(1, 2)
    if len(reached) == steps.T:
        found = found if steps.direction.reverse else found[:, ::-1, ::-1]
    else:
        table = np.zeros((len(found), steps.T, steps.T))
        table[:, order[reached, None], order] = found
        found = table
    count = totals.slabs.shape[2]
    return found[:count], dict(zip(groups, found[count:], strict=True))


@dataclass(frozen=True)
class Totals:
    """Steps of one sequence by the gradients Y of the module's docstring: what N5 and N6 need of them.

    Attributes
    ----------
    maps : UnitMaps
        Of N5, in double precision; no gradients.
    added : dict of int to ndarray, (M, H)
        K_k: by how much a unit of the recurrent state counts for that of another state.
    slabs : ndarray, (M, states, slabs, H)
        F_k.
    squares : ndarray, (M, S, slabs + groups + 1)
        F_k^2, their sum over the slabs of each group, and ones; ones also where all of a slab or group are 0.
    loud : ndarray of bool, (slabs + groups, M)
        Where they are not all 0.
    groups : sequence of tuple of int
        Slabs whose norm is asked for together.
    """

    maps: UnitMaps
    added: dict[int, Floats]
    slabs: Floats
    squares: Floats
    loud: NDArray[np.bool_]
    groups: Sequence[Group]

    @classmethod
    def of(cls, maps: UnitMaps, gradient: str, names: Sequence[str], groups: Sequence[Group]) -> Totals | None:
        """Return the steps by the gradients with these names, of a single state by what enters; None where a slab
        follows from several of them, or slopes are out of range.
        """
        M, states, H = maps.M, maps.states, maps.H
        direct, main = maps.direct.reshape(M, states, states, H), maps.recurrent.start // H
        slabs = maps.gradients[gradient]
        gates, count = maps.slopes.shape[2], slabs.shape[2]
        parts = memory.empty((M, states, gates + states + count, H), DOUBLE)
        np.concatenate([maps.slopes, direct, slabs], axis=2, out=parts)
        added: dict[int, Floats] = {}
        for j, name in enumerate(names):
            K = maps.gradients[name][:, :, 0]
            if (K[:, j] != 1).any() or any(K[:, i].any() for i in range(states) if i not in (main, j)):
                return None
            if j != main:
                added[j] = K[:, main].astype(np.float64)
            elif any(K[:, i].any() for i in range(states) if i != main):
                return None
        through, sizes = (memory.empty((M, *parts.shape[2:]), DOUBLE) for _ in range(2))
        for j, K in added.items():
            own = parts[:, main]
            own -= np.multiply(K[:, None], parts[:, j], out=through)
            np.abs(through, out=through)
            through *= ROUNDED * np.finfo(maps.direct.dtype).eps
            np.copyto(own, 0, where=np.abs(own, out=sizes) <= through)
        slopes, direct, slabs = parts[:, :, :gates], parts[:, :, gates : gates + states], parts[:, :, gates + states :]
        there = slabs != 0
        if not largest_of(slabs) < STEEP or (states > 1 and (there.sum(axis=1) > 1).any()):
            return None
        squares = memory.empty((M, states, H, count + len(groups) + 1), DOUBLE)
        squares[..., -1] = 1
        np.square(slabs.swapaxes(2, 3), out=squares[..., :count])
        for column, group in enumerate(groups, count):
            np.sum(squares[..., list(group)], axis=3, out=squares[..., column])
        heard = there.any(axis=(1, 3))
        loud = np.stack([*heard.T, *(heard[:, list(group)].any(axis=1) for group in groups)])
        if not loud.all():
            squares[..., :-1] += ~loud.T[:, None, None]
        spread = {j: np.concatenate([K[1:], np.zeros((1, H))]) for j, K in added.items()}
        weights = maps.weights.astype(np.float64, copy=False)
        moved = UnitMaps(slopes, weights, direct.reshape(M, states, -1), maps.recurrent, {}, spread)
        return cls(moved, added, slabs, squares.reshape(M, states * H, -1), loud, groups)


class _Alone:
    """The gradients Y of one sequence on their way back, as rows (losses, S), and the norms that they leave.

    Steps are numbered as they are visited; `reached` says at which of them each loss enters.
    """

    def __init__(self, totals: Totals, reached: NDArray[np.intp], entering: Array) -> None:
        M, S, columns = totals.squares.shape
        H, recurrent, Q = totals.maps.H, totals.maps.recurrent, len(reached)
        self.totals, self.reached, self.entering = totals, reached, entering.astype(np.float64)
        for j, K in totals.added.items():
            self.entering[:, j * H : (j + 1) * H] += K[reached] * self.entering[:, recurrent]
        self.met = np.searchsorted(reached, np.arange(M), side="right")  # losses that have entered after step k
        self.found = memory.zeros((columns - 1, M, Q), DOUBLE)
        self.together = min(M, max(TOGETHER[0], TOGETHER[1] // (Q * S)))
        self.rows = memory.empty((self.together + 1, Q, S), DOUBLE)
        self.rows.fill(1)  # where a loss has not entered: in range, and no norm
        self.squares, self.sums = (memory.empty((self.together * Q * size,), DOUBLE) for size in (S, columns))
        self.scale = np.zeros(Q, np.intp)  # rows are 2**scale times what stands there
        self.careful = False  # squares have left the range of floats: at the next block all rows are scaled
        self.matrices = memory.empty((min(M, max(self.together, MAPS // S**2)), S, S), DOUBLE)

    def run(self) -> None:
        """Carry on over all steps."""
        for low in range(0, len(self.met), len(self.matrices)):
            matrices = self.matrices[: len(self.met) - low]
            self.totals.maps.write(matrices, low)
            for first in range(0, len(matrices), self.together):
                self._block(low + first, matrices[first : first + self.together])

    def _block(self, first: int, matrices: Floats) -> None:
        """Carry on over some steps (N5), and keep their norms (N6); in halves where digits would be lost on the way."""
        rows, count, careful = self.rows, len(matrices), self.careful
        widths = self.met[first : first + count]
        old, Q = int(self.met[first - 1]) if first else 0, int(widths[-1])
        if not Q:  # no loss has entered
            return
        rows[self.reached[old:Q] - first, np.arange(old, Q)] = self.entering[old:Q]
        self.scale[old:Q] = 0
        if careful:
            self.scale[: widths[0]] += _scaled(rows[0, : widths[0]], (1,), 1.0)
            self.careful = False
        for number, (matrix, width) in enumerate(zip(matrices, widths.tolist(), strict=True)):
            np.matmul(rows[number, :width], matrix, out=rows[number + 1, :width])
        adjoints = rows[:count, :Q]
        squares = np.square(adjoints, out=self.squares[: adjoints.size].reshape(adjoints.shape))
        factors = self.totals.squares[first : first + count]
        sums = self.sums[: count * Q * factors.shape[2]].reshape(count, Q, -1)
        sums = np.matmul(squares, factors, out=sums).transpose(2, 0, 1)
        norms = np.sqrt(sums[:-1], out=self.found[:, first : first + count, :Q])
        there = np.arange(Q) < widths[:, None]
        handed = np.vecdot(rows[count, :Q], rows[count, :Q])
        if not (min(sums.min(), handed.min()) > SQUARES[0] and max(sums.max(), handed.max()) < LONG):
            step, loss = np.nonzero(there & ~((sums > SQUARES[0]) & (sums < LONG)).all(axis=0))
            some, every = adjoints[step, loss], np.arange(Q)
            lost = self._lost(some, loss, old) or self._lost(rows[count, :Q], every, old)
            if lost and (count > 1 or not careful):
                norms[...] = 0
                self.careful, half = True, -(-count // 2)
                self._block(first, matrices[:half])
                if half < count:
                    self._block(first + half, matrices[half:])
                return
            self.careful = True
            _, states, count_of_slabs, H = self.totals.slabs.shape
            products = some.reshape(-1, states, 1, H) * self.totals.slabs[first + step]
            slabs = products.swapaxes(1, 2).reshape(-1, count_of_slabs, states * H)
            norms[:count_of_slabs, step, loss] = row_norms(slabs).T
            for row, group in enumerate(self.totals.groups, count_of_slabs):
                norms[row, step, loss] = row_norms(slabs[:, list(group)].reshape(len(some), len(group) * states * H))
        if self.scale.any():
            np.ldexp(norms, self.scale[:Q], out=norms)
        norms *= there
        loud = self.totals.loud[:, first : first + count]
        if not loud.all():
            norms *= loud[:, :, None]
        rows[0, :Q] = rows[count, :Q]

    def _lost(self, adjoints: Floats, losses: NDArray[np.intp], old: int) -> bool:
        """Whether one that began with digits, at the block's first step or as it entered, may have none now."""
        begun = np.where((losses < old)[:, None], self.rows[0, losses], self.entering[losses])
        sound = np.isfinite(begun).all(axis=1) & begun.any(axis=1)
        largest = np.abs(adjoints).max(axis=1)
        return bool((sound & ~((largest > LOST) & (largest < np.inf))).any())
