r"""Attention of many queries to a memory, over all steps at once: what needs no part of a step.

A query that does not depend on the context of the step before, a decoder's output in Luong's order without input
feeding [1]_, can be compared with the memory when all steps are done. The lines are those of
`rnn_numpy.layers.attention`, with all t side by side; keys_s is what a query is compared with:

    score        keys_s                                score_t,s
    dot          values_s                              query_t . keys_s                       Q = M
    scaled_dot   values_s / sqrt(Q)                    query_t . keys_s                       Q = M   [2]_
    general      W_a values_s, W_a (Q, M)              query_t . keys_s                               [1]_, eq. 8
    additive     W_m values_s + b, W_m (K, M)          v . tanh(keys_s + W_q query_t)                 [3]_

    (F0)  keys                                         (F1)  score
    (F2)  alpha_t = softmax of score_t over the rows that exist
    (F3)  context_t = sum_s alpha_t,s values_s

    (B3)  dalpha_t,s += dcontext_t . values_s
    (B2)  dscore_t,s  = alpha_t,s (dalpha_t,s - sum_r alpha_t,r dalpha_t,r)
    (B1)  dquery_t = sum_s dscore_t,s keys_s, dkeys_s = sum_t dscore_t,s query_t; additive: as there, step by step
    (B0)  dvalues_s = sum_t alpha_t,s dcontext_t                          by the values
          dvalues_s += dkeys_s, dkeys_s / sqrt(Q), W_a^T dkeys_s or W_m^T dkeys_s         by the weights
          dW_a = sum_s dkeys_s values_s^T (dW_m likewise), db = sum_s dkeys_s

The scale, W_a and W_m act on the memory, S times, not on the queries. Sums over s are taken one by one from the first,
so that rows of the memory that do not exist change no digit of an output.

References
----------
.. [1] M.-T. Luong, H. Pham, C. D. Manning, "Effective approaches to attention-based neural machine translation", EMNLP
   (2015).
.. [2] A. Vaswani et al., "Attention is all you need", NIPS (2017), eq. 1.
.. [3] D. Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and translate", ICLR
   (2015), appendix A.1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Gradients, Parameters
from rnn_numpy.core.parametric import Parametric
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention import additive_backward, additive_forward, hidden_units, softmax_backward, weighted_sum
from rnn_numpy.layers.attention import softmax_forward as softmax

Array = NDArray[Any]

SCORES = ("dot", "scaled_dot", "general", "additive")


class Keys(Parametric):
    """The map of a memory that queries are compared with, F0: made once a call, whatever runs in time.

    `given`, of a memory (S, N, M), is what an `Attending` layer reads, and what `backward` takes back.
    """

    def __init__(
        self,
        where: str,
        query_size: int,
        memory_size: int,
        score: str,
        attention_size: int | None,
        dtype: DTypeLike,
        rng: np.random.Generator,
    ) -> None:
        self.query_size = arguments.positive_int(where, "query_size", query_size)
        self.memory_size = arguments.positive_int(where, "memory_size", memory_size)
        arguments.one_of(where, "score", score, SCORES)
        self.score = score
        if score in ("dot", "scaled_dot") and query_size != memory_size:
            raise OptionError(
                f"{where}: score {score!r} must have a query as wide as the memory, Q = M; got Q = {query_size} and "
                f"M = {memory_size}. For other widths take 'general', which has a weight between the two"
            )
        if attention_size is not None and score != "additive":
            raise OptionError(f"{where}: attention_size must be left out: it is of the score 'additive', not {score!r}")
        size = query_size if attention_size is None else attention_size
        self.attention_size = arguments.positive_int(where, "attention_size", size)
        shapes: dict[str, tuple[int, ...]] = {}
        if score == "general":
            shapes["weight_a"] = (query_size, memory_size)
        elif score == "additive":
            shapes |= {"weight_memory": (self.attention_size, memory_size), "bias": (self.attention_size,)}
        self.params = Parameters(shapes, arguments.layer_dtype(where, dtype))
        self.params.of = type(self).__name__
        bound = 1 / np.sqrt(memory_size)
        self.params.flat[:] = rng.uniform(-bound, bound, self.params.flat.size)

    def __repr__(self) -> str:
        return f"Keys({self.query_size}, {self.memory_size}, score={self.score!r}, dtype={self.dtype})"

    @property
    def scale(self) -> float:
        """What the values are multiplied with to be keys, of scaled_dot."""
        return float(self.query_size**-0.5)

    def forward(self, values: Array, weights: Mapping[str, Array]) -> Array:
        """F0. Return the keys of values, (S, N, M).

        These must lie in memory in this order: then no digit of a key depends on S.
        """
        if self.score == "dot":
            return values
        if self.score == "scaled_dot":
            scaled: Array = values * np.asarray(self.scale, values.dtype)
            return scaled
        if self.score == "general":
            keys: Array = values @ weights["weight_a"].T
            return keys
        keys = values @ weights["weight_memory"].T
        keys += weights["bias"]
        return keys

    def backward(self, dkeys: Array, values: Array, weights: Mapping[str, Array], grads: Parameters) -> Array:
        """B0: undoes F0, with the weights of that pass. Return dvalues by the weights; adds to grads."""
        if self.score == "dot":
            return dkeys
        if self.score == "scaled_dot":
            scaled: Array = dkeys * np.asarray(self.scale, dkeys.dtype)
            return scaled
        name = "weight_a" if self.score == "general" else "weight_memory"
        rows = dkeys.reshape(-1, dkeys.shape[-1])
        grads[name][...] += rows.T @ values.reshape(-1, self.memory_size)
        if self.score == "additive":
            grads["bias"][...] += rows.sum(axis=0)
        dvalues: Array = (rows @ weights[name]).reshape(values.shape)
        return dvalues


class AttentionTrace:
    """What `Attention.forward` records, and a backward pass adds.

    query (T, N, Q), keys (S, N, ·), values (S, N, M), exists (N, S), score and alpha (T, N, S), context (T, N, M);
    after `backward` dscore and dalpha (T, N, S), dcontext (T, N, M), dquery (T, N, Q).
    """

    query: Array
    keys: Array
    values: Array
    score: Array
    alpha: Array
    context: Array
    dscore: Array
    dalpha: Array
    dcontext: Array
    dquery: Array

    def __init__(
        self, how: str, exists: NDArray[np.bool_], weights: Mapping[str, Array], arrays: Mapping[str, Array]
    ) -> None:
        self.how, self.exists, self.weights = how, exists, weights
        vars(self).update(arrays)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays of steps that are there."""
        names = ("query", "score", "alpha", "context", "dscore", "dalpha", "dcontext", "dquery")
        return tuple(name for name in names if name in vars(self))


class AttentionGradients(Gradients):
    """What `Attention.backward` returns.

    dquery, like query; dmemory, like memory, the sum of dmemory_values and dmemory_weights, the two ways by which it
    got its gradient; grads.
    """

    dquery: Array
    dmemory: Array
    dmemory_values: Array
    dmemory_weights: Array

    def __init__(self, gradients: Mapping[str, Array], grads: Parameters) -> None:
        vars(self).update(**gradients, grads=grads)


def memory_mask(
    where: str, memory: Array, lengths: ArrayLike | None, mask: ArrayLike | None, names: tuple[str, str]
) -> NDArray[np.bool_]:
    """Return which rows of a memory, (S, N, M), count, (N, S), from lengths or a mask, called by these names."""
    S, N = memory.shape[:2]
    if lengths is not None and mask is not None:
        raise OptionError(f"{where}: {names[0]} or {names[1]} must be left out: each says which rows count")
    if lengths is not None:
        numbers = arguments.as_array(where, names[0], lengths)
        arguments.shaped(where, names[0], numbers, "(N,)", (N,))
        if numbers.dtype.kind not in "iu" or (N and not ((numbers >= 0) & (numbers <= S)).all()):
            raise OptionError(f"{where}: {names[0]} must be integers from 0 to S = {S}; got {numbers.tolist()}")
        found: NDArray[np.bool_] = numbers[:, None] > np.arange(S)
        return found
    if mask is None:
        return np.ones((N, S), bool)
    exists = arguments.as_array(where, names[1], mask)
    arguments.shaped(where, names[1], exists, "(N, S)", (N, S))
    if exists.dtype != bool:
        raise DTypeError(f"{where}: {names[1]} must hold bools, True where a row counts; got {exists.dtype}")
    return exists.copy()


def rows_that_exist(memory: Array, exists: NDArray[np.bool_]) -> Array:
    """Return a copy of a memory, (S, N, M), with zeros in the rows that do not exist, whatever these hold."""
    array = np.array(memory, order="C")
    if not exists.all():
        array[~exists.T] = 0
    return array


def memory_of(where: str, memory: ArrayLike, batch: int, width: int, dtype: np.dtype[Any]) -> Array:
    """Check a memory, (S, N, M)."""
    array = arguments.array_of(where, "memory", memory, dtype)
    if array.ndim != 3 or array.shape[1:] != (batch, width) or not len(array):
        raise ShapeError(
            f"{where}: memory must have shape (S, N, M) = (S, {batch}, {width}) with S >= 1; got {array.shape}"
        )
    return array


class Attention(Parametric):
    """Attention of queries to a memory, without a loop over time.

    Parameters
    ----------
    query_size, memory_size : int
        Q and M.
    score : {"general", "dot", "scaled_dot", "additive"}
        How a query is compared with a row of the memory; the module has the formulas. The dot products need Q = M.
    attention_size : int, optional
        K, of the additive score; Q where left out.
    dtype, rng
        As for `rnn_numpy.RNN`.

    Attributes
    ----------
    params : Parameters
        general: weight_a (Q, M). additive: weight_memory (K, M), bias (K,), weight_query (K, Q), v (K,).

    Raises
    ------
    OptionError
        Widths that a dot product cannot join; an unknown score.

    Notes
    -----
    Cost: 2 T N S (Q + M) multiplications and additions, additive T N S K of tanh instead of those with Q. The trace
    has T N (2 S + Q + M) numbers and copies of keys and memory; of the additive score's hidden units, N S K at a time.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> attention = Attention(4, 3, rng=rng)
    >>> query, memory = rng.normal(size=(5, 2, 4)), rng.normal(size=(6, 2, 3))
    >>> context, alpha, trace = attention.forward(query, memory, lengths=[6, 2])
    >>> context.shape, alpha[0, 1].round(3)[2:]
    ((5, 2, 3), array([0., 0., 0., 0.]))
    >>> back = attention.backward(trace, np.ones_like(context))
    >>> bool(np.allclose(back.dmemory, back.dmemory_values + back.dmemory_weights))
    True
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        score: str = "general",
        attention_size: int | None = None,
        *,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        rng = arguments.generator(where, rng)
        self.keys = Keys(where, query_size, memory_size, score, attention_size, dtype, rng)
        self.query_size, self.memory_size, self.score = self.keys.query_size, self.keys.memory_size, score
        shapes, first = dict(self.keys.params.shapes), self.keys.params.flat
        if score == "additive":
            K = self.keys.attention_size
            shapes |= {"weight_query": (K, query_size), "v": (K,)}
        self.params = Parameters(shapes, self.keys.dtype)
        self.params.flat[: first.size] = first
        bound, rest = 1 / np.sqrt(query_size), self.params.flat[first.size :]
        rest[:] = rng.uniform(-bound, bound, rest.size)

    def forward(
        self,
        query: ArrayLike,
        memory: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> tuple[Array, Array, AttentionTrace]:
        """Compare each query with each row of its sequence's memory.

        Parameters
        ----------
        query : ndarray, (T, N, Q)
        memory : ndarray, (S, N, M)
        lengths : int array_like, (N,), optional
            How many rows of each memory count, the first ones; all where left out. 0 is allowed.
        mask : bool ndarray, (N, S), optional
            In place of lengths: True where a row counts. What others hold is not read.

        Returns
        -------
        context : ndarray, (T, N, M)
            0 where no row counts.
        alpha : ndarray, (T, N, S)
            The weights, exactly 0 for rows that do not count.
        trace : AttentionTrace
        """
        where = f"{type(self).__name__}.forward"
        queries = arguments.array_of(where, "query", query, self.dtype)
        if queries.ndim != 3 or queries.shape[2] != self.query_size:
            raise ShapeError(
                f"{where}: query must have shape (T, N, Q) with Q = query_size = {self.query_size}; got {queries.shape}"
            )
        N = queries.shape[1]
        array = memory_of(where, memory, N, self.memory_size, self.dtype)
        exists = memory_mask(where, array, lengths, mask, ("lengths", "mask"))
        return self.attend(queries, rows_that_exist(array, exists), exists)

    def attend(
        self, queries: Array, memory: Array, exists: Array, alive: Array | None = None
    ) -> tuple[Array, Array, AttentionTrace]:
        """Run `forward` on arrays that have been checked, the memory one that `rows_that_exist` has returned.

        `alive`, (T, N), says which queries there are; for others score, alpha and context are 0.
        """
        weights = {name: weight.copy() for name, weight in self.params.items()}
        # By sequence: (N, T, ·) and (N, S, ·), contiguous.
        query, values, keys = (
            np.array(array.swapaxes(0, 1), order="C")
            for array in (queries, memory, self.keys.forward(memory, weights))  # F0
        )
        score, alpha, context = self.weigh(query, keys, values, exists, weights, alive)
        shown = {"query": query, "keys": keys, "values": values}
        trace = AttentionTrace(self.score, exists, weights, {name: a.swapaxes(0, 1) for name, a in shown.items()})
        for array in (score, alpha, context):
            array.flags.writeable = False  # the trace's
        trace.score, trace.alpha, trace.context = (array.swapaxes(0, 1) for array in (score, alpha, context))
        return trace.context, trace.alpha, trace

    def weigh(
        self, query: Array, keys: Array, values: Array, exists: Array, weights: Mapping[str, Array],
        alive: Array | None = None,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """F1 to F3, of queries (N, T, Q), keys (N, S, ·) and values (N, S, M); return score, alpha and context."""
        (N, T, _), S, dtype = query.shape, values.shape[1], self.dtype
        score, alpha = np.empty((N, T, S), dtype), np.empty((N, T, S), dtype)
        if self.score == "additive":
            units = np.empty((N, S, self.keys.attention_size), dtype)
            for t in range(T):
                additive_forward(query[:, t], keys, weights["weight_query"], weights["v"], units, score[:, t])
        else:
            np.einsum("ntq,nsq->nts", query, keys, out=score)  # F1
        counted = np.broadcast_to(exists[:, None], (N, T, S))
        if alive is not None:
            counted = counted & alive.T[:, :, None]
            score[~alive.T] = 0
        softmax(score.reshape(N * T, S), counted.reshape(N * T, S), alpha.reshape(N * T, S))  # F2
        return score, alpha, weighted_sum(alpha, values)  # F3

    def backward(
        self,
        trace: AttentionTrace,
        dcontext: ArrayLike,
        grads: Parameters | None = None,
        *,
        dalpha: ArrayLike | None = None,
    ) -> AttentionGradients:
        """Return the gradients of queries and memory, and add the parameters' to `grads`.

        Parameters
        ----------
        trace : AttentionTrace
            From `forward`; it keeps dscore, dalpha, dcontext and dquery of the latest backward pass.
        dcontext : ndarray, (T, N, M)
        grads : Parameters, optional
            New ones are made where left out.
        dalpha : ndarray, (T, N, S), optional
            What the loss says directly of the weights.

        Returns
        -------
        AttentionGradients
        """
        where = f"{type(self).__name__}.backward"
        if not isinstance(trace, AttentionTrace):
            raise DTypeError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
        if trace.how != self.score:
            raise OptionError(f"{where}: trace must be of an attention with score {self.score!r}; got {trace.how!r}")
        arguments.shaped(where, "query in trace", trace.query, "(T, N, Q)", (*trace.query.shape[:2], self.query_size))
        for name, shape in self.params.shapes.items():
            arguments.shaped(where, f"{name} in trace", trace.weights[name], "that of params", shape)
        dcontexts = arguments.array_of(where, "dcontext", dcontext, self.dtype)
        arguments.shaped(where, "dcontext", dcontexts, "(T, N, M)", trace.context.shape)
        grads = arguments.gradients(where, grads, self.params)
        by_loss = None if dalpha is None else arguments.array_of(where, "dalpha", dalpha, self.dtype)
        if by_loss is not None:
            arguments.shaped(where, "dalpha", by_loss, "(T, N, S)", trace.alpha.shape)
        query, keys, values, alpha = (
            array.swapaxes(0, 1) for array in (trace.query, trace.keys, trace.values, trace.alpha)
        )
        dcontexts = np.array(dcontexts.swapaxes(0, 1), order="C")
        (N, T, S), weights = alpha.shape, trace.weights
        dalphas = dcontexts @ values.swapaxes(1, 2)  # B3
        if by_loss is not None:
            dalphas += by_loss.swapaxes(0, 1)
        dscore = np.empty((N, T, S), self.dtype)
        rows = (array.reshape(N * T, S) for array in (dalphas, alpha, dscore))
        softmax_backward(*rows)  # B2
        if self.score == "additive":  # B1
            dquery, dkeys = np.zeros_like(query), np.zeros_like(keys)
            units, dprojected = np.empty(keys.shape, self.dtype), np.empty((N, T, keys.shape[2]), self.dtype)
            dunits = np.empty_like(units)
            for t in range(T):
                hidden_units(query[:, t], keys, weights["weight_query"], units)
                additive_backward(
                    dscore[:, t], units, weights["weight_query"], weights["v"], dunits, dprojected[:, t], dquery[:, t],
                    dkeys, grads["v"],
                )  # fmt: skip
            Q, K = query.shape[2], keys.shape[2]
            grads["weight_query"][...] += dprojected.reshape(N * T, K).T @ query.reshape(N * T, Q)
        else:
            dquery, dkeys = dscore @ keys, dscore.swapaxes(1, 2) @ query
        found = {
            "dquery": dquery,
            "dmemory_values": alpha.swapaxes(1, 2) @ dcontexts,
            "dmemory_weights": self.keys.backward(dkeys, values, weights, grads),  # B0
        }
        found["dmemory"] = found["dmemory_values"] + found["dmemory_weights"]
        found = {name: array.swapaxes(0, 1) for name, array in found.items()}
        trace.dscore, trace.dalpha, trace.dcontext = (a.swapaxes(0, 1) for a in (dscore, dalphas, dcontexts))
        trace.dquery = found["dquery"]
        return AttentionGradients(found, grads)

    def __repr__(self) -> str:
        size = f", attention_size={self.keys.attention_size}" if self.score == "additive" else ""
        return f"Attention({self.query_size}, {self.memory_size}, {self.score!r}{size}, dtype={self.dtype})"
