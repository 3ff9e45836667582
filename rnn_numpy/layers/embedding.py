r"""The embedding: each id is replaced by a row of a matrix.

(F1)  e_p = W[id_p]                      for every position p; W is (V, E), a row for each id

(B1)  dW[v] = sum over p with id_p = v of de_p

An id that occurs at several positions gets the sum over all of them. The row of `padding_idx` is read in F1 and gets
nothing in B1, so that no optimiser without weight decay moves it. Ids are no numbers: there is no dx.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.parametric import Parametric
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]

# Ids that occur more often are summed one id at a time, the others all at once, round by round.
MOST_ROUNDS = 32

# Bytes of the rows that are worked on at a time, so that they stay in the cache.
BLOCK = 2**17


@dataclass(frozen=True)
class EmbeddingTrace:
    """What the backward pass of `Embedding` reads: a copy of the ids (...), and V."""

    ids: NDArray[np.intp]
    num_embeddings: int


@dataclass(frozen=True)
class EmbeddingGradients:
    """What the backward pass of `Embedding` returns: gradients of the parameters alone, for ids have none."""

    grads: Parameters


class Embedding(Parametric):
    """A row of a matrix for each id, with the names, shapes and initialisation of torch.nn.Embedding.

    Parameters
    ----------
    num_embeddings : int
        V: ids are in [0, V).
    embedding_dim : int
        E.
    padding_idx : int, optional
        The id of padding: its row is zero at first and has no gradient. A negative one counts from the end.
    dtype : {float32, float64, complex128}
    rng : numpy.random.Generator, int or None
        Draws the weight from N(0, 1).

    Attributes
    ----------
    params : Parameters
        weight (num_embeddings, embedding_dim).

    Examples
    --------
    >>> import numpy as np
    >>> embedding = Embedding(3, 2)
    >>> embedding.load_state_dict({"weight": [[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]})
    >>> e, trace = embedding.forward(np.array([2, 1, 2]))
    >>> e
    array([[3., 4.],
           [1., 2.],
           [3., 4.]])
    >>> embedding.backward(trace, np.ones((3, 2))).grads["weight"]
    array([[0., 0.],
           [1., 1.],
           [2., 2.]])
    """

    # Its inputs are ids, which a gradient check does not move.
    takes_ids = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.num_embeddings = arguments.positive_int("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = arguments.positive_int("Embedding", "embedding_dim", embedding_dim)
        self.padding_idx = padding_idx if padding_idx is None else self._padding(padding_idx)
        shape = (self.num_embeddings, self.embedding_dim)
        self.params = Parameters({"weight": shape}, arguments.layer_dtype("Embedding", dtype))
        self.params.of = type(self).__name__
        self.params.flat[:] = arguments.generator("Embedding", rng).normal(size=self.params.flat.size)
        if self.padding_idx is not None:
            self.params["weight"][self.padding_idx] = 0
        self._frozen: Array | None = None

    def _padding(self, padding_idx: int) -> int:
        V, index = self.num_embeddings, arguments.integer("Embedding", "padding_idx", padding_idx)
        if not -V <= index < V:
            raise OptionError(f"Embedding: padding_idx must be in [-V, V) = [{-V}, {V}); got {index}")
        return index % V

    def freeze_padding(self) -> None:
        """Read the row of padding from a copy from now on: then it is the constant that its gradient takes it for.

        What a gradient check does with the twin that it moves.
        """
        if self.padding_idx is not None and self._frozen is None:
            self._frozen = self.params["weight"][self.padding_idx].copy()

    def __call__(self, ids: ArrayLike) -> Array:
        """Return the rows of the ids without a trace; argument and errors as in `forward`."""
        return self._rows(self._checked(ids))

    def forward(self, ids: ArrayLike) -> tuple[Array, EmbeddingTrace]:
        """Look the ids up, and record them.

        Parameters
        ----------
        ids : int ndarray, (...)
            Of any integer dtype, each in [0, num_embeddings). Copied into the trace.

        Returns
        -------
        e : ndarray, (..., embedding_dim)
        trace : EmbeddingTrace

        Raises
        ------
        DTypeError, OptionError
            Ids are no integers; one is out of range. The message says where.
        """
        kept = self._checked(ids).astype(np.intp)
        return self._rows(kept), EmbeddingTrace(kept, self.num_embeddings)

    def backward(self, trace: EmbeddingTrace, de: ArrayLike, grads: Parameters | None = None) -> EmbeddingGradients:
        """Add dL/dW, summed over all positions of each id, to `grads`.

        Parameters
        ----------
        trace : EmbeddingTrace
            From `forward`.
        de : ndarray, (..., embedding_dim)
            dL/de.
        grads : Parameters, optional
            New ones are made where left out.

        Returns
        -------
        EmbeddingGradients
            grads. There is no gradient of ids.
        """
        where = "Embedding.backward"
        if not isinstance(trace, EmbeddingTrace):
            raise DTypeError(f"{where}: trace must be the second result of forward; got {type(trace).__name__}")
        if trace.num_embeddings != self.num_embeddings:
            raise OptionError(
                f"{where}: trace must be of {self.num_embeddings} embeddings, as this layer; got {trace.num_embeddings}"
            )
        gradient = arguments.array_of(where, "de", de, self.dtype)
        arguments.shaped(where, "de", gradient, "(..., embedding_dim)", (*trace.ids.shape, self.embedding_dim))
        grads = arguments.gradients(where, grads, self.params)
        add_rows(grads["weight"], trace.ids.reshape(-1), gradient.reshape(-1, self.embedding_dim), self.padding_idx)
        return EmbeddingGradients(grads)

    def _rows(self, ids: Array) -> Array:
        e = memory.empty((*ids.shape, self.embedding_dim), self.dtype)
        # "clip" writes to e itself, where "raise" would need a copy; ids are in range.
        self.params["weight"].take(ids, axis=0, out=e, mode="clip")
        if self._frozen is not None:
            e[ids == self.padding_idx] = self._frozen
        return e

    def _checked(self, ids: ArrayLike) -> Array:
        where = "Embedding.forward"
        array = arguments.as_array(where, "ids", ids)
        if array.dtype.kind not in "iu":
            first = f", {array.flat[0]}{_place(array, 0)}" if array.size else ""
            raise DTypeError(f"{where}: ids must be integers; got dtype {array.dtype}{first}")
        V = self.num_embeddings
        if array.size and (array.min() < 0 or array.max() >= V):
            index = int(np.flatnonzero((array < 0) | (array >= V))[0])
            raise OptionError(
                f"{where}: ids must be in [0, num_embeddings) = [0, {V}); got {array.flat[index]}{_place(array, index)}"
            )
        return array

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding}, dtype={self.dtype})"


def _place(array: Array, index: int) -> str:
    """Say where the entry of this number, in row-major order, is."""
    names = {1: ("t",), 2: ("t", "n")}.get(array.ndim, [f"axis {axis}" for axis in range(array.ndim)])
    found = np.unravel_index(index, array.shape)
    return "".join(f"{', ' if k else ' at '}{name} = {i}" for k, (name, i) in enumerate(zip(names, found, strict=True)))


def add_rows(dW: Array, ids: NDArray[np.intp], de: Array, padding: int | None) -> None:
    """Add each row of `de` (P, E) to that row of `dW` (V, E) which its id (P,) names, but for the id of padding: B1.

    What np.add.at does, about three times as fast and more, in an order that depends on the ids alone. Positions are
    sorted by id. Ids that occur often are summed one at a time. The others go side by side, those that occur more often
    first: the k-th round adds the k-th occurrence of every id that has one, and these are the first ones.
    """
    if not ids.size:
        return
    # Keys as small as possible: those of one or two bytes are sorted by counting.
    order = np.argsort(ids.astype(np.min_scalar_type(len(dW) - 1)), kind="stable")
    sorted_ids = ids[order]
    change = np.ones(len(ids) + 1, bool)
    np.not_equal(sorted_ids[1:], sorted_ids[:-1], out=change[1:-1])
    bounds = np.flatnonzero(change)
    sizes = bounds[1:] - bounds[:-1]
    by_size = np.argsort(np.maximum(MOST_ROUNDS + 1 - sizes, 0).astype(np.uint8), kind="stable")
    if padding is not None:
        by_size = by_size[sorted_ids[bounds[by_size]] != padding]
    starts, sizes = bounds[by_size], sizes[by_size]
    rows, firsts = sorted_ids[starts], order[starts]
    often = int(np.count_nonzero(sizes > MOST_ROUNDS))
    for row, start, size in zip(*(array[:often].tolist() for array in (rows, starts, sizes)), strict=True):
        dW[row] += np.add.reduce(de.take(order[start : start + size], axis=0), axis=0)
    # Up to which one ids occur at least twice, three times, ...
    few = sizes[often:]
    most = int(few[0]) if few.size else 0
    until = (len(sizes) - np.searchsorted(few[::-1], np.arange(2, most + 1))).tolist()
    step = max(1, BLOCK // (de.itemsize * de.shape[1]))
    for first in range(often, len(rows), step):
        row, start = rows[first : first + step], starts[first : first + step]
        total = de.take(firsts[first : first + step], axis=0)
        for k, last in enumerate(until, 1):
            if last <= first:
                break
            again = start[: last - first]
            total[: len(again)] += de.take(order[again + k], axis=0)
        total += dW.take(row, axis=0)
        dW[row] = total
