r"""The double sum of back-propagation through time, made visible: what each loss step owes to each earlier step.

The table
---------
Write delta_t for the gradient that enters at step t and at no other (doutput_t, and the final state's gradient at the
last step of a sequence), J_t = ds_t/ds_{t-1} for the Jacobian of a step, s being all states of the cell together, and
B_k = ds_k/da_k for what a step makes of its pre-activations. The gradient of a parameter is the sum of blocks

    (G1)  G = sum_t sum_{k <= t} G(t, k)
    (G2)  G(t, k) = sum_n da_n(t, k) v_n(k)^T
    (G3)  da(t, k) = B_k^T P(t, k)^T delta_t        P(t, k) = J_t J_{t-1} ... J_{k+1}        P(t, t) = I

where v(k) is what the parameter acts on at step k: h_{k-1} for W_hh, x_k for W_ih, 1 for a bias. Block (t, k) is what
the loss of step t says to the parameter about its use at step k. (The lecture's slides write the product over
j = k ... t, which is one factor too long: P(t, k) has t - k factors, see `rnn_numpy.layers.rnn`.) n counts the
sequences: blocks are sums over the batch, as gradients are. The table of one sequence is that of a loss which reads no
other; the table of the batch is the sum of these, block by block.

Nothing here differentiates. All P(t, k)^T delta_t with t >= k go back side by side, as columns of the cell's own
backward step (`rnn_numpy.engine.adjoints`); a parameter that is no factor of a product, a peephole say, has its blocks
by the complex step of the cell's forward step. One pass costs some ten times what backward costs, and keeps numbers,
not blocks, (T, T) of them for each gate.

*Norms without blocks.* Of one sequence a block is a product of two vectors, |G(t, k)| = |da| |v|. Of several, with
V^T = Q R (columns of V^T are the v_n, Q has orthonormal columns), |G(t, k)| = |R da|, R da being a sum over n: the norm
by the Gram matrix R^T R = V V^T of the v_n,

    (G4)  |G(t, k)|^2 = sum_{n, m} (da_n . da_m) (v_n . v_m)

but without squaring what cancels between sequences, and so right to rounding where G4 loses half of the digits. Of
cells that work unit by unit but for W_hh, da need not be there either: see `rnn_numpy.engine.unit_norms`.

*Layers and directions.* In a stack, t is the step at which the gradient enters *the layer that the parameter is in*:
into the last layer by the loss of step t, into a lower one by the layer above, at step t, whatever later losses that
comes from. In a reverse direction, time runs the other way: block (t, k) has k >= t, and (G3) its factors from J_{k-1}
to J_t.

What is read off it
-------------------
- *Signed share*: <G(t, k), G> / |G|^2. Shares add up to 1. Norms do not show that blocks cancel; shares do.
- *Lag profile*: the norm of sum_{t - k = l} G(t, k) for each lag l.
- *Cancellation*: kappa = sum |G(t, k)| / |sum G(t, k)|, entry by entry. The rounding error of an entry of a correct
  gradient is about eps T kappa of its value.
- *Truncated back-propagation*: a mask of the table. With a window every loss goes back K steps and no further,
  |t - k| < K. With chunks the sequence is cut at multiples of K, and no gradient passes a cut: t and k are in the same
  chunk, t // K = k // K. Either is the exact gradient that such a training step would compute, states being those of
  the whole pass, so bias and angle need no second run.

Paths
-----
A step hands a gradient back in several ways, J_k = sum_p J_k^(p), and each term of the product of such sums is a
*route* from t to k, one way for each step between. Of a cell with several states a way is the state by which the
gradient arrives; of the LSTM:

    c       through c_{k-1}: dc_k * f_k, no weight in it
    h       through h_{k-1}: W_hh^T da_k

Of a cell with one state the ways are the leak, which passes no weight, and the rows of W_hh; of the GRU:

    leak        dh_k * z_k
    reset       W_hr^T da_r
    update      W_hz^T da_z
    candidate   W_hn^T da_q, or where the reset acts before the product, r_k * (W_hn^T da_n)

Where attention stands before the cell it is one way more, whatever the states: what comes to the query, by the scores
of the memory and the gate of its context. With input feeding the states are attn and the cell's, and attention is a
matter within a step.

The routes are sorted into classes, and since every route is in one of them, the classes of a block add up to it:

    direct      t = k: no step between
    only p      all steps by way p
    mixed       at least two ways

"direct" and "only c" together are what the LSTM's first paper [2]_ trained with: h's part cut off at every step. The
opposite question, what is lost where a single way is cut at every step and all others stay, is answered by `without`;
these do not add up, since a mixed route is lost by several cuts.

References
----------
.. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML (2013): the
   double sum in eq. 3 to 5.
.. [2] S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), appendix A.1.
.. [3] C. Aicher, N. J. Foti, E. B. Fox, "Adaptively truncating backpropagation through time to control gradient bias",
   UAI (2019).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.numbers import row_norms
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.adjoints import Adjoints, LateBackward, StackedStep, direct_gradients, step_number, steps_of
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.unit_norms import Group, unit_norms
from rnn_numpy.errors import OptionError
from rnn_numpy.layers import GRU

Array = NDArray[Any]
Floats = NDArray[np.float64]
K = TypeVar("K")
V = TypeVar("V")

SCHEMES = ("window", "chunk")
DIRECT, MIXED = "direct", "mixed"
GRU_PATHS = {"r": "reset", "z": "update", "n": "candidate"}

# Entries of the arrays that one pass keeps; with more, there are several passes.
BUDGET = 2**24


@dataclass(frozen=True)
class _Term:
    """A gradient of a step and its factor, (G2), by the names of formulas' arguments.

    With `by_tangents` it is the name of a parameter that is no factor of a product.
    """

    gradient: str
    source: str | None
    by_tangents: bool = False


@dataclass(frozen=True)
class _Norms:
    """Norms of all blocks of a term: of each slab, (slabs, T, T), and of some groups of them, (T, T); `sizes`, (T,), if
    any, are factors of the columns that are still to be applied.
    """

    slabs: Floats
    groups: Mapping[Group, Floats]
    sizes: Floats | None = None

    def table(self, group: Group) -> Floats:
        """Return those of some slabs together, in memory of its own."""
        if len(group) == 1:
            norms = self.slabs[group[0]]
        else:
            norms = self.groups[group] if group in self.groups else _norm(self.slabs[list(group)], 0)
        found: Floats = memory.empty(norms.shape, norms.dtype)
        found = found if abs(norms.strides[0]) >= abs(norms.strides[1]) else found.T  # the same order
        np.multiply(norms, 1.0 if self.sizes is None else self.sizes, out=found)
        return found


@dataclass(frozen=True)
class _Piece:
    """The rows of a parameter that belong to one gate, or all."""

    gate: str
    rows: slice
    columns: slice
    term: _Term


def _once(method: Callable[[Any, K], V]) -> Callable[[Any, K], V]:
    """Compute what a method returns once for each argument."""

    @wraps(method)
    def kept(self: Any, argument: K) -> V:
        found = self.kept.setdefault(method.__name__, {})
        if argument not in found:
            found[argument] = method(self, argument)
        return cast(V, found[argument])

    return kept


class _Direction:
    """The table of one direction of one layer."""

    def __init__(self, steps: RecordedSteps, direct: Array) -> None:
        self.steps, self.direct = steps, direct
        self.T, self.N = steps.T, steps.N
        self.pieces: dict[str, list[_Piece]] = {}
        layer, cell = steps.layer, steps.cell
        self.shapes = {name: array.shape for name, array in steps.weights().items()}
        for kind, side, gradient in (("input", "ih", cell.input_gradient), ("hidden", "hh", cell.hidden_gradient)):
            blocks = list(steps.gate_blocks(kind))
            weight = [_Piece(g, rows, columns, _Term(f"{gradient}_t", source)) for g, rows, columns, source in blocks]
            self.pieces[f"weight_{side}"] = weight
            if layer.bias:
                bias = _Term("da_t", None)
                self.pieces[f"bias_{side}"] = [_Piece(g, rows, columns, bias) for g, rows, columns, _ in blocks]
        for name, extra in cell.parameters.items():
            if extra.product and extra.like_input:  # gate by gate, as W_ih: memory may have another order
                term = _Term(f"{cell.input_gradient}_t", extra.product[1])
                blocks = list(steps.gate_blocks("input"))
                self.pieces[name] = [_Piece(g, rows, columns, term) for g, rows, columns, _ in blocks]
                continue
            width = self.shapes[name][0] if extra.product else math.prod(self.shapes[name])
            term = _Term(*extra.product) if extra.product else _Term(name, None, by_tangents=True)
            self.pieces[name] = [_Piece("", slice(0, width), slice(0, width), term)]
        self.pieces = {name: self.pieces[name] for name in self.shapes}  # the order of the state dict
        self._norms: dict[_Term, _Norms] = {}
        self._units: dict[_Term | str, tuple[Floats, dict[Group, Floats]]] = {}
        self._unitwise = True  # until it is tried
        self._sums: dict[_Term, Array] = {}
        self.kept: dict[str, dict[Any, Any]] = {}

    @cached_property
    def adjoints(self) -> Adjoints:
        """All losses' gradients on their way back."""
        return Adjoints(self.steps)

    # ------------------------------------------------------------------------------------------------ terms

    def family(self, name: str) -> list[_Term]:
        """Return the terms that are worth a common pass with those of a parameter."""
        if self.pieces[name][0].term.by_tangents:
            return self.terms(name)
        every = dict.fromkeys(piece.term for pieces in self.pieces.values() for piece in pieces)
        return [term for term in every if not term.by_tangents]

    @_once
    def acts(self, term: _Term) -> Array:
        """Return a term's factor v, (T, n, D)."""
        if term.by_tangents:
            return np.ones((self.T, 1, 1), self.direct.dtype)
        if term.source is None:
            found = np.ones((self.T, self.N, 1), self.direct.dtype)
        else:
            found = self.steps.aligned(term.source)
        return np.where(self.steps.alive[:, :, None], found, 0)

    @_once
    def triangle(self, term: _Term) -> Any:
        """Return R of the module's docstring, (T, r, N)."""
        return np.linalg.qr(self.acts(term).swapaxes(1, 2), mode="r")

    def width(self, term: _Term) -> int:
        """Return the width of a term's gradient."""
        if term.by_tangents:
            return int(math.prod(self.shapes[term.gradient]))
        return self.adjoints.width(term.gradient)

    def terms(self, name: str) -> list[_Term]:
        """Return the terms of a parameter, each once."""
        return list(dict.fromkeys(piece.term for piece in self.pieces[name]))

    def slab_of(self, piece: _Piece) -> int:
        """Return which of the equal parts of a gradient a piece has."""
        return int(piece.columns.start // (piece.columns.stop - piece.columns.start))

    @_once
    def slabs(self, term: _Term) -> int:
        """Return the number of gates in a term's gradient; 1 where there are none."""
        pieces = itertools.chain.from_iterable(self.pieces.values())
        columns = {piece.term: piece.columns for piece in pieces}[term]
        return self.width(term) // int(columns.stop - columns.start)

    @_once
    def tangents_of(self, name: str) -> Array:
        """Return ds_k/dp at fixed s_{k-1}, (T, N, S, P), of a parameter that is no factor of a product."""
        shape = self.shapes[name]
        changes = np.eye(math.prod(shape)).reshape(-1, *shape)
        return np.stack([self.steps.parameter_jvp(name, change) for change in changes], axis=3)

    def stack(self, step: StackedStep, term: _Term) -> Array:
        """Return the gradients of a term at a step, (n, K, Q); n is 1 where the batch is summed up already."""
        if term.by_tangents:
            tangents = self.tangents_of(term.gradient)[step.k, : step.count[0]]  # (n, S, P)
            whole = np.concatenate(step.entered, axis=2)  # (n, Q, S)
            return np.asarray((whole @ tangents).sum(axis=0).T[None])
        return step.gradient(term.gradient).transpose(0, 2, 1)

    def sweep(
        self, terms: Sequence[_Term], losses: Sequence[int] | None = None, until: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.intp], dict[_Term, Array]]]:
        """Carry all adjoints backward; yield k, the loss steps (Q,) and by term the gradients (n, K, Q)."""
        for step, reached in self.adjoints.carry(self.direct, losses, until):
            yield step.k, reached, self.stacks(step, terms)

    def stacks(self, step: StackedStep, terms: Sequence[_Term]) -> dict[_Term, Array]:
        """Return `stack` of several terms."""
        made: dict[str, Array] = {}
        for term in terms:
            if term.gradient not in made:
                made[term.gradient] = self.stack(step, term)
        return {term: made[term.gradient] for term in terms}

    # ------------------------------------------------------------------------------------------------ passes

    def norms(self, name: str, gate: str) -> Floats:
        """Return |G(t, k)| of a parameter, or of one gate's rows, (T, T)."""
        for term in self.terms(name):
            if term not in self._norms and not self._unit_norms(term):
                self._norms |= self._all_norms(self.family(name))
        pieces = [piece for piece in self.pieces[name] if not gate or piece.gate == gate]
        tables = [self._norms[term].table(group) for term, group in self.groups(pieces).items()]
        return tables[0] if len(tables) == 1 else _norm(np.array(tables), 0)

    def groups(self, pieces: Sequence[_Piece]) -> dict[_Term, Group]:
        """Return the slabs of each term that pieces have."""
        return {
            term: tuple(self.slab_of(piece) for piece in pieces if piece.term == term)
            for term in dict.fromkeys(piece.term for piece in pieces)
        }

    def _unit_norms(self, term: _Term) -> bool:
        """Find the norms of one term where the cell works unit by unit; return whether it does."""
        single = self.is_single(term)
        if not self._unitwise or term.by_tangents:
            return False
        factors = np.ones((self.T, 1, 1)) if single else self.triangle(term)
        key = term.gradient if single else term
        if key not in self._units:
            every = [self.groups(pieces) for pieces in self.pieces.values()]
            asked = [group for groups in every for own, group in groups.items() if own.gradient == term.gradient]
            several = [group for group in dict.fromkeys(asked) if len(group) > 1]
            found = unit_norms(self.steps, self.direct, term.gradient, factors, several)
            if found is None:
                self._unitwise = False
                return False
            self._units[key] = found
        self._norms[term] = _Norms(*self._units[key], _norm(self.acts(term)[:, 0], 1) if single else None)
        return True

    def _all_norms(self, terms: Sequence[_Term]) -> dict[_Term, _Norms]:
        """Return the norms of several terms, by carrying da itself."""
        tables: dict[_Term, _Norms] = {}
        same: dict[str, list[_Term]] = {}
        for term in terms:
            same.setdefault(term.gradient, []).append(term)
        # Row k, the loss steps in the order in which they come.
        found = {term: np.zeros((self.slabs(term), self.T, self.T)) for term in terms}
        groups: list[tuple[list[_Term], int, list[Array]]] = []
        for alike in same.values():
            triangles = [] if self.is_single(alike[0]) else list(map(self.triangle, alike))
            groups.append((alike, self.slabs(alike[0]), triangles))
        for step, losses in self.adjoints.carry(self.direct):
            k = step.k
            for alike, slabs, triangles in groups:
                block = self.stack(step, alike[0])
                if not triangles:  # |da v^T| = |da| |v|
                    found[alike[0]][:, k, : len(losses)] = _norm(block.reshape(slabs, -1, len(losses)), 1)
                else:
                    for term, norms in zip(alike, self._block_norms(k, slabs, triangles, block), strict=True):
                        found[term][:, k, : len(losses)] = norms
        order = self.adjoints.order
        for alike in same.values():
            shared = found[alike[0]]
            for term in alike:
                single = self.is_single(term)
                rows = shared * _norm(self.acts(term)[:, 0], 1)[:, None] if single else found[term]
                table = np.zeros_like(rows)
                table[:, order] = rows.swapaxes(1, 2)[:, : len(order)]
                tables[term] = _Norms(table, {})
        return tables

    def is_single(self, term: _Term) -> bool:
        """Return whether a block is one product of two vectors."""
        return term.by_tangents or self.N == 1

    def _block_norms(self, k: int, slabs: int, triangles: Sequence[Array], block: Array) -> list[Floats]:
        """Return |R da|, (slabs, Q), for each R of several terms with the same gradient, (n, K, Q)."""
        n, K, Q = block.shape
        factor = np.concatenate([triangle[k, :, :n] for triangle in triangles])
        if block.strides[1] > block.strides[2]:
            norms = _norm((factor @ block.reshape(n, K * Q)).reshape(-1, K // slabs, Q), 1).reshape(-1, slabs, Q)
        else:  # as it lies in memory: a copy would cost more than the product
            mixed = factor @ block.swapaxes(1, 2).reshape(n, Q * K)
            norms = _norm(mixed.reshape(-1, Q, slabs, K // slabs), 3).swapaxes(1, 2)
        found, start = list[Floats](), 0
        for triangle in triangles:
            stop = start + triangle.shape[1]
            found.append(_norm(norms[start:stop], 0))
            start = stop
        return found

    def sums(self, terms: Sequence[_Term], mask: NDArray[np.bool_] | None = None) -> dict[_Term, Array]:
        """Return da summed over the loss steps that a mask (T, T) keeps, (T, n, K) by term."""
        found = {term: self.room(term) for term in terms}
        for k, losses, stacks in self.sweep(terms):
            kept = slice(None) if mask is None or mask[losses, k].all() else mask[losses, k]
            for term, block in stacks.items():
                found[term][k, : len(block)] = block[:, :, kept].sum(axis=2)
        return found

    def room(self, term: _Term, *shape: int) -> Array:
        """Return zeros, (*shape, T, n, K): room for a term's gradients at all steps."""
        return np.zeros((*shape, self.T, 1 if term.by_tangents else self.N, self.width(term)), self.direct.dtype)

    def assembled(self, name: str, sums: Mapping[_Term, Array]) -> Array:
        """Return a parameter's gradient out of sums of da, (T, n, K): (G2), summed over k."""
        gradient = self.blank(name)
        for piece in self.pieces[name]:
            da, v = sums[piece.term][:, :, piece.columns], self.acts(piece.term)
            gradient[piece.rows] = da.reshape(-1, da.shape[2]).T @ v.reshape(-1, v.shape[2])
        return gradient.reshape(self.shapes[name])

    def blank(self, name: str) -> Array:
        """Return zeros of a parameter as a matrix, rows times the width of its factor."""
        rows = sum(piece.rows.stop - piece.rows.start for piece in self.pieces[name])
        return np.zeros((rows, math.prod(self.shapes[name]) // rows))

    def total(self, name: str) -> Array:
        """Return the sum of all blocks."""
        terms = self.family(name)
        if terms[0] not in self._sums:
            self._sums |= self.sums(terms)
        return self.assembled(name, self._sums)

    def truncated(self, mask: NDArray[np.bool_], name: str, kept: dict[_Term, Array]) -> Array:
        """Return the sum of the blocks that a mask keeps; `kept` remembers what a pass has found."""
        terms = self.family(name)
        if terms[0] not in kept:
            kept |= self.sums(terms, mask)
        return self.assembled(name, kept)

    @_once
    def contractors(self, name: str) -> tuple[dict[_Term, Array], float]:
        """Return the arrays that turn da into <da v^T, G>/|G|, (T, n, K) by term, and |G|."""
        total = self.total(name).reshape(self.blank(name).shape)
        size = float(_norm(total))
        unit = total / (size or 1.0)
        found = {term: np.zeros(self.room(term).shape) for term in self.terms(name)}
        for piece in self.pieces[name]:
            found[piece.term][:, :, piece.columns] = self.acts(piece.term) @ unit[piece.rows].T
        return found, size

    @_once
    def shares(self, name: str) -> Floats:
        """Return <G(t, k), G>/|G|^2 of each piece of a parameter, (pieces, T, T)."""
        along, size = self.contractors(name)
        found = np.zeros((len(self.pieces[name]), self.T, self.T))
        for k, losses, stacks in self.sweep(list(along)):
            found[:, losses, k] = self.contracted(name, k, along, stacks)
        return found / size if size else np.full_like(found, np.nan)

    def contracted(self, name: str, k: int, along: Mapping[_Term, Array], stacks: Mapping[_Term, Array]) -> Array:
        """Return <G(t, k), G>/|G| of a step, (pieces, Q)."""
        rows = []
        for piece in self.pieces[name]:
            block = stacks[piece.term][:, piece.columns]
            rows.append(np.einsum("nk,nkq->q", along[piece.term][k, : len(block), piece.columns], block))
        return np.array(rows)

    def lags(self, name: str) -> Floats:
        """Return the norm of the sum of all blocks at a lag, (pieces, T)."""
        terms = self.terms(name)
        entries = sum(self.T * max(1, self.N) * self.width(term) for term in terms)
        window = max(1, min(self.T, BUDGET // max(1, entries)))
        found = np.zeros((len(self.pieces[name]), self.T))
        for first in range(0, self.T, window):
            lags = range(first, min(first + window, self.T))
            kept = {term: self.room(term, len(lags)) for term in terms}
            for k, losses, stacks in self.sweep(terms):
                distance = np.abs(losses - k)
                inside = (distance >= lags.start) & (distance < lags.stop)
                for term, block in stacks.items():
                    kept[term][distance[inside] - first, k, : len(block)] = block[:, :, inside].transpose(2, 0, 1)
            for lag in lags:
                total = self.assembled(name, {term: sums[lag - first] for term, sums in kept.items()})
                total = total.reshape(self.blank(name).shape)
                found[:, lag] = [_norm(total[piece.rows]) for piece in self.pieces[name]]
        return found

    def of_gate(self, name: str, gate: str, norms: Floats) -> Floats:
        """Return norms of the pieces of a parameter, (pieces, ...), as those of one gate, or of all together."""
        chosen = [i for i, piece in enumerate(self.pieces[name]) if not gate or piece.gate == gate]
        if len(chosen) == 1:
            return np.array(norms[chosen[0]])
        return _norm(norms if len(chosen) == len(norms) else norms[chosen], 0)

    def magnitudes(self, name: str) -> Array:
        """Return sum |G(t, k)|, entry by entry, of the parameter's shape."""
        total = self.blank(name)
        for k, _, stacks in self.sweep(self.terms(name)):
            for piece in self.pieces[name]:
                block = stacks[piece.term][:, piece.columns]  # (n, H, Q)
                v = self.acts(piece.term)[k, : len(block)]  # (n, D)
                if len(block) == 1:
                    total[piece.rows] += np.outer(np.abs(block[0]).sum(axis=1), np.abs(v[0]))
                    continue
                size = max(1, BUDGET // max(1, block.shape[1] * v.shape[1]))
                for start in range(0, block.shape[2], size):
                    blocks = block[:, :, start : start + size].transpose(2, 1, 0) @ v  # (Q, H, D)
                    total[piece.rows] += np.abs(blocks).sum(axis=0)
        return total.reshape(self.shapes[name])

    def block(self, name: str, t: int, k: int) -> Array:
        """Return G(t, k)."""
        sums = {term: self.room(term) for term in self.terms(name)}
        for reached, _, stacks in self.sweep(list(sums), [t], k):
            for term, block in stacks.items() if reached == k else ():
                sums[term][k, : len(block)] = block[:, :, 0]
        return self.assembled(name, sums)


def _norm(array: Array, axis: int | None = None) -> Floats:
    """Return the root of the sum of squares, over one axis or all; right also where squares leave the range of floats.

    A gradient that has vanished to 1e-200 is to be seen as that.
    """
    return row_norms(array.ravel(), 0) if axis is None else row_norms(array, axis)


# ---------------------------------------------------------------------------------------------------------------- paths


class _Routes:
    """The routes of one direction, sorted into classes.

    A pass carries, for each loss step, one gradient for every class and one for every cut: for p ways 2 p + 1 of them,
    and so costs as many times what a pass over the table does.
    """

    def __init__(self, table: _Direction) -> None:
        self.table = table
        self.adjoints = Adjoints(table.steps, apart=True)
        known = GRU_PATHS if isinstance(table.steps.layer, GRU) else {}
        self.names = tuple(known.get(path, path) for path in self.adjoints.path_names)
        self.classes = (DIRECT, *(f"only {path}" for path in self.names), MIXED)
        self.cuts = tuple(f"without {path}" for path in self.names)
        self._sums: dict[_Term, dict[str, Array]] = {}
        self.kept: dict[str, dict[Any, Any]] = {}

    def sweep(
        self, terms: Sequence[_Term]
    ) -> Iterator[tuple[int, dict[str, tuple[NDArray[np.intp], dict[_Term, Array]]]]]:
        """Carry all adjoints backward, those of each class apart; yield k, and by class loss steps and gradients.

        What a step hands back by way p comes from: "only p" and goes on as "only p"; from "direct" likewise; from any
        other class, and goes on as "mixed". A cut drops what comes by its way.
        """
        adjoints, ways = self.adjoints, range(len(self.names))
        parts = self.table.steps.split(self.table.direct)
        labels = [*self.classes[1:], *self.cuts]
        mixed, cuts = len(self.names), len(self.names) + 1
        groups: list[list[Array]] = []
        losses: list[int] = []
        for k in adjoints.order:
            old, n = len(losses), adjoints.counts[k]
            step = adjoints.new(k, len(labels) * old + 1)
            for i, after in enumerate(step.after):
                for g, group in enumerate(groups):
                    after[: len(group[i]), g * old : (g + 1) * old] = group[i][:n]
                    after[len(group[i]) :] = 0  # sequences that end here
                after[:, -1] = parts[i][k, :n]
            adjoints.run(step)
            stacks = self.table.stacks(step, terms)
            found = {DIRECT: (np.array([k]), {term: block[:, :, -1:] for term, block in stacks.items()})}
            for g, label in enumerate(labels):
                columns = slice(g * old, (g + 1) * old)
                found[label] = np.array(losses, np.intp), {term: block[:, :, columns] for term, block in stacks.items()}
            yield k, found
            losses.append(k)
            back = adjoints.paths(step)
            groups = [[] for _ in labels]
            for i in range(len(parts)):

                def part(p: int, g: int, i: int = i, back: list[list[Array]] = back, old: int = old) -> Array:
                    return back[p][i][:, g * old : (g + 1) * old]

                fresh = [back[p][i][:, -1:] for p in ways]
                zero = np.zeros_like(fresh[0])
                others = [part(q, p) for p in ways for q in ways if q != p]
                for p in ways:
                    groups[p].append(np.concatenate([part(p, p), fresh[p]], axis=1))
                    left = [q for q in ways if q != p]
                    rest = sum((part(q, cuts + p) for q in left), np.zeros_like(part(p, cuts + p)))
                    groups[cuts + p].append(np.concatenate([rest, sum((fresh[q] for q in left), zero)], axis=1))
                joined = sum(others, sum((part(p, mixed) for p in ways), np.zeros_like(part(0, mixed))))
                groups[mixed].append(np.concatenate([joined, zero], axis=1))

    def gradient(self, label: str, name: str) -> Array:
        """Return the gradient of one class, or without one way."""
        terms = self.table.family(name)
        if terms[0] not in self._sums:
            found = {term: {each: self.table.room(term) for each in (*self.classes, *self.cuts)} for term in terms}
            for k, classes in self.sweep(terms):
                for each, (_, stacks) in classes.items():
                    for term, block in stacks.items():
                        found[term][each][k, : len(block)] += block.sum(axis=2)
            for sums in found.values():
                for cut in self.cuts:
                    sums[cut] += sums[DIRECT]
            self._sums |= found
        return self.table.assembled(name, {term: self._sums[term][label] for term in self.table.terms(name)})

    @_once
    def shares(self, name: str) -> dict[str, Floats]:
        """Return <G_class(t, k), G>/|G|^2 by class, (pieces, T, T)."""
        along, size = self.table.contractors(name)
        shape = len(self.table.pieces[name]), self.table.T, self.table.T
        found = {each: np.zeros(shape) if size else np.full(shape, np.nan) for each in self.classes}
        for k, classes in self.sweep(list(along)) if size else ():
            for each in self.classes:
                losses, stacks = classes[each]
                found[each][:, losses, k] = self.table.contracted(name, k, along, stacks) / size
        return found


class PathSplit:
    """How much of a gradient comes by which way: what `Decomposition.by_path` returns. The module defines the classes.

    Attributes
    ----------
    paths : tuple of str
        The ways of a step: ("h", "c") of an LSTM; ("leak", "reset", "update", "candidate") of a GRU; and "attention".
    routes : tuple of str
        The classes of routes, "direct", "only h", "only c", "mixed"; they add up to the whole.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> lstm = LSTM(2, 4, forget_bias=3.0, rng=0)
    >>> output, _, trace = lstm.forward(np.random.default_rng(1).normal(size=(20, 1, 2)))
    >>> doutput = np.zeros_like(output)
    >>> doutput[-1] = 1.0
    >>> split = decompose(lstm, trace, doutput).by_path()
    >>> for route in split.routes:
    ...     print(f"{route:<7} {split.share(route, 'weight_ih_l0'):6.3f}")
    direct   0.006
    only h   0.164
    only c   0.702
    mixed    0.128
    """

    def __init__(self, decomposition: Decomposition) -> None:
        self._decomposition = decomposition
        self._routes = {name: _Routes(table) for name, table in decomposition._tables.items()}
        first = next(iter(self._routes.values()))
        self.paths = first.names
        self.routes = first.classes

    def _place(self, where: str, kind: str, choice: str, choices: Sequence[str], name: str) -> tuple[_Routes, str, str]:
        where = f"PathSplit.{where}"
        arguments.one_of(where, kind, choice, choices)
        table, short, gate = self._decomposition._place(where, name)
        return self._routes[table.steps.recorded.name], short, gate

    def gradient(self, route: str, name: str) -> Array:
        """Return the part of a parameter's gradient that comes by one class of routes."""
        routes, short, gate = self._place("gradient", "route", route, self.routes, name)
        return _rows(routes.table, short, gate, routes.gradient(route, short))

    def without(self, path: str, name: str) -> Array:
        """Return the gradient of a parameter with one way cut at every step, as if its Jacobian were 0."""
        routes, short, gate = self._place("without", "path", path, self.paths, name)
        return _rows(routes.table, short, gate, routes.gradient(f"without {path}", short))

    def share(self, route: str, name: str) -> float:
        """Return the signed share of a class in a parameter's gradient, <G_class, G> / |G|^2; they add up to 1. NaN
        where the gradient is 0."""
        total = self._decomposition.total(name)
        size = float(_norm(total))
        part = self.gradient(route, name)
        return float(np.sum(part / size * (total / size))) if size else math.nan

    def shares(self, route: str, name: str) -> Floats:
        """Return `share` block by block, (T, T): over the classes, they add up to `Decomposition.share`."""
        routes, short, gate = self._place("shares", "route", route, self.routes, name)
        return _weighed(routes.table, short, gate, routes.shares(short)[route])


def _rows(table: _Direction, short: str, gate: str, gradient: Array) -> Array:
    """Return the rows of one gate, or all."""
    if not gate:
        return gradient
    piece = next(piece for piece in table.pieces[short] if piece.gate == gate)
    return gradient[piece.rows]


def _weighed(table: _Direction, short: str, gate: str, shares: Floats) -> Floats:
    """Return the shares of all pieces together, or of one gate's in its own gradient."""
    if not gate:
        return np.asarray(shares.sum(axis=0))
    total = table.total(short)
    whole, part = float(_norm(total)), float(_norm(_rows(table, short, gate, total)))
    index = [piece.gate for piece in table.pieces[short]].index(gate)
    return shares[index] * (whole / part) ** 2 if part else np.full_like(shares[index], np.nan)


# ------------------------------------------------------------------------------------------------------- what users see


class Truncation:
    """The gradient of truncated back-propagation through time, beside the whole one: `Decomposition.truncated`.

    Attributes
    ----------
    K : int
    scheme : {"window", "chunk"}
    mask : ndarray of bool, (T, T)
        The blocks that are kept.
    """

    def __init__(self, decomposition: Decomposition, K: int, scheme: str) -> None:
        t = np.arange(decomposition.T)
        self.K, self.scheme, chunks = K, scheme, t // K
        self.mask: NDArray[np.bool_] = np.abs(t[:, None] - t) < K if scheme == "window" else chunks[:, None] == chunks
        self._decomposition = decomposition
        self._sums: dict[str, dict[_Term, Array]] = {name: {} for name in decomposition._tables}

    def gradient(self, name: str) -> Array:
        """Return G_K, the sum of the blocks that are kept."""
        table, short, gate = self._decomposition._place("Truncation.gradient", name)
        kept = self._sums[table.steps.recorded.name]
        return _rows(table, short, gate, table.truncated(self.mask, short, kept))

    def _pair(self, name: str | None) -> tuple[Array, Array]:
        """Return G_K and G in one vector each, scaled so that squares stay in range."""
        names = self._decomposition.names if name is None else (name,)
        pairs = [(self.gradient(each), self._decomposition.total(each)) for each in names]
        kept, whole = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in range(2))
        peak = float(max(np.abs(kept).max(initial=0.0), np.abs(whole).max(initial=0.0))) or 1.0
        return kept / peak, whole / peak

    def bias(self, name: str | None = None) -> float:
        """Return |G_K - G| / |G| of one parameter, or of all together. NaN where G is 0."""
        kept, whole = self._pair(name)
        size = float(_norm(whole))
        return float(_norm(kept - whole)) / size if size else math.nan

    def cosine(self, name: str | None = None) -> float:
        """Return the cosine of the angle between G_K and G, of one parameter or of all together. NaN where one is 0."""
        kept, whole = self._pair(name)
        sizes = float(_norm(kept)), float(_norm(whole))
        return float((kept / sizes[0]) @ (whole / sizes[1])) if all(sizes) else math.nan

    def __repr__(self) -> str:
        return f"Truncation(K={self.K}, scheme={self.scheme!r}): bias {self.bias():.3g}, cosine {self.cosine():.6g}"


class Decomposition:
    """The table of (t, k): what `decompose` returns. The module defines every number.

    Parameters are named as in the state dict, "weight_hh_l0"; a gate's rows of one by a dot and the gate,
    "weight_hh_l0.f".

    Attributes
    ----------
    T : int
        Tables are (T, T): row t, column k. In a forward direction the part above the diagonal, k > t, is 0; in a
        reverse one, the part below.
    names : tuple of str
        The parameters.
    gates : tuple of str
        The gates, in the order of the parameters' rows.
    """

    def __init__(self, tables: dict[str, _Direction], back: LateBackward) -> None:
        self._tables, self._back = tables, back
        first = next(iter(tables.values()))
        self.T = first.T
        self.gates = first.steps.cell.gate_names
        self._places = {f"{name}_{title}": (table, name) for title, table in tables.items() for name in table.pieces}
        self.names = tuple(self._places)

    def _place(self, where: str, name: str) -> tuple[_Direction, str, str]:
        """Return the table of a parameter, its name there, and the gate that is asked for, "" for all."""
        full, _, gate = name.partition(".") if isinstance(name, str) else ("", "", "")
        if full not in self._places:
            raise OptionError(f"{where}: name must be one of {', '.join(map(repr, self.names))}; got {name!r}")
        table, short = self._places[full]
        known = [piece.gate for piece in table.pieces[short] if piece.gate]
        if gate and gate not in known:
            has = f"the gates of {full} are {', '.join(map(repr, known))}" if known else f"{full} has no gates"
            raise OptionError(f"{where}: {has}; got {name!r}")
        return table, short, gate

    @property
    def grads(self) -> Parameters:
        """What BPTT, `backward`, says: `total` is the sum of the blocks, found by another route.

        Of a single layer the pass is made when it is first asked for, out of what the trace holds.
        """
        return self._back.result.grads

    def exists(self, name: str) -> NDArray[np.bool_]:
        """Return which blocks of a parameter there are, (T, T): k <= t, in a reverse direction k >= t."""
        table = self._place("Decomposition.exists", name)[0]
        whole = np.ones((self.T, self.T), bool)
        return np.triu(whole) if table.steps.direction.reverse else np.tril(whole)

    def total(self, name: str) -> Array:
        """Return the sum of all blocks: the parameter's gradient, of its shape (of one gate, of its rows)."""
        table, short, gate = self._place("Decomposition.total", name)
        return _rows(table, short, gate, table.total(short))

    def block(self, name: str, t: int, k: int) -> Array:
        """Return G(t, k), of the parameter's shape: 0 <= k <= t < T; in a reverse direction 0 <= t <= k < T.

        Cost: |t - k| + 1 backward steps of one gradient.
        """
        where = "Decomposition.block"
        table, short, gate = self._place(where, name)
        t = step_number(where, "t", t, 0, self.T - 1, "T - 1 the last")
        if table.steps.direction.reverse:
            k = step_number(where, "k", k, t, self.T - 1, "at least t, the direction being reverse")
        else:
            k = step_number(where, "k", k, 0, t, "at most t: no loss looks at later steps")
        return _rows(table, short, gate, table.block(short, t, k))

    def norms(self, name: str) -> Floats:
        """Return |G(t, k)|, the Frobenius norm of each block, (T, T).

        Of cells that work unit by unit but for W_hh (RNN, LSTM, GRU; `rnn_numpy.engine.unit_norms`) there is a pass for
        each parameter that is asked for, of one sequence one for all with the same gradient. At T = 100, H = 64 it
        costs as much as 10 to 19 backward passes for eight sequences. Of others, the first call computes the norms of
        all parameters of the layer and direction, in one pass.
        """
        table, short, gate = self._place("Decomposition.norms", name)
        return table.norms(short, gate)

    def share(self, name: str) -> Floats:
        """Return the signed share <G(t, k), G> / |G|^2 of each block, (T, T); it sums to 1. NaN where G is 0.

        Of a gate, the share in the gate's own gradient.
        """
        table, short, gate = self._place("Decomposition.share", name)
        return _weighed(table, short, gate, table.shares(short))

    def lag_profile(self, name: str) -> Floats:
        """Return the norm of the sum of all blocks with |t - k| = l, for l = 0 ... T-1, (T,).

        Cost: a pass, and for each lag a product as large as that of a gradient. The adjoints of all lags are kept;
        where they are too many, the pass is repeated, some lags at a time.
        """
        table, short, gate = self._place("Decomposition.lag_profile", name)
        return table.of_gate(short, gate, table.lags(short))

    def lag_block(self, name: str, lag: int) -> Array:
        """Return the sum of all blocks with |t - k| = lag, of the parameter's shape."""
        where = "Decomposition.lag_block"
        table, short, gate = self._place(where, name)
        lag, steps = step_number(where, "lag", lag, 0, self.T - 1, "T - 1 the longest"), np.arange(self.T)
        mask = np.abs(steps[:, None] - steps) == lag
        return _rows(table, short, gate, table.truncated(mask, short, {}))

    def kappa(self, name: str) -> Floats:
        """Return the cancellation number sum |G(t, k)| / |sum G(t, k)|, entry by entry, of the parameter's shape.

        1 where all blocks have one sign, infinite where they cancel to 0, NaN where all are 0.
        """
        table, short, gate = self._place("Decomposition.kappa", name)
        sizes, total = table.magnitudes(short), np.abs(table.total(short))
        found = np.where(sizes > 0, np.inf, np.nan)
        np.divide(sizes, total, out=found, where=total > 0)
        return _rows(table, short, gate, found)

    def truncated(self, K: int, scheme: str = "window") -> Truncation:
        """Return the gradient of truncated back-propagation, exactly, as a mask of the table.

        The scheme "window" keeps |t - k| < K, "chunk" t // K = k // K. Chunks begin at t = 0, in a reverse direction as
        well. With K >= T nothing is cut.
        """
        where = "Decomposition.truncated"
        K = arguments.positive_int(where, "K", K)
        arguments.one_of(where, "scheme", scheme, SCHEMES)
        return Truncation(self, K, scheme)

    @cached_property
    def _split(self) -> PathSplit:
        return PathSplit(self)

    def by_path(self) -> PathSplit:
        """Return the gradient split by the ways that it takes from step to step; the module defines them."""
        return self._split

    def __repr__(self) -> str:
        return f"Decomposition(T={self.T}, {', '.join(self.names)})"


def decompose(
    layer: Recurrent, trace: Trace, doutput: ArrayLike | None, dh_n: Any = None, *, name: str | None = None
) -> Decomposition:
    """Take a gradient apart: the contribution G(t, k) of the loss at each step t through each step k <= t.

    Parameters
    ----------
    layer : Recurrent
        Real.
    trace : Trace
        From `layer.forward`; neither it nor its gradients change.
    doutput : ndarray, like output, or None
        dL/doutput, as for `backward`.
    dh_n : ndarray, like h_n, optional
        dL/dh_n; enters at each sequence's last step.
    name : str, optional
        The layer and direction, "l0", "l1_reverse", ...; all where left out.

    Notes
    -----
    Cost: of a stack a backward pass, of one layer none; then each question has its own, see there.

    Examples
    --------
    A network whose gradients vanish: what the loss of step 29 says about steps 28 and 9.

    >>> from rnn_numpy import RNN
    >>> rnn = RNN(2, 8, rng=0)
    >>> output, _, trace = rnn.forward(np.random.default_rng(1).normal(size=(30, 1, 2)))
    >>> table = decompose(rnn, trace, np.ones_like(output))
    >>> gradient = rnn.backward(trace, np.ones_like(output)).grads["weight_hh_l0"]
    >>> bool(np.allclose(table.total("weight_hh_l0"), gradient, rtol=1e-12))
    True
    >>> norms = table.norms("weight_hh_l0")
    >>> norms.shape, f"{norms[29, 28]:.2e}", f"{norms[29, 9]:.2e}"
    ((30, 30), '1.26e+00', '7.59e-09')
    >>> f"{table.share('weight_hh_l0').sum():.12f}"
    '1.000000000000'
    >>> table.truncated(5)
    Truncation(K=5, scheme='window'): bias 0.00235, cosine 0.999997
    """
    where = "decompose"
    steps = steps_of(where, layer, trace, name)
    direct, back = direct_gradients(layer, trace, doutput, dh_n, where)
    return Decomposition({title: _Direction(own, direct[title]) for title, own in steps.items()}, back)
