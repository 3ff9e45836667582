"""Wrong backward passes of attention around RNN, LSTM and GRU: weights, paths, masks, sums over the steps.

Arrays of a step are (N, S) and (N, H) in attention's formulas. Each class says in its docstring what is wrong, and
above it what follows from that. A wrong mask forward is another function, with a right gradient, which no gradient
check finds: that rows of the memory which do not exist change nothing is a check of `rnn_numpy.checks.conformance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.recurrent import Pass
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.zoo.common import WrongParts
from rnn_numpy.zoo.specimen import Specimens, Where, tensors

Array = NDArray[Any]

SPECIMENS = Specimens()

VALUES, KEYS = ("given['values']",), ("given['keys']",)
CONTEXT = tensors("weight_ch")
KEYED, ADDITIVE = {"score": "keys"}, {"score": "additive"}
FEEDING = {**KEYED, "input_feeding": True}


def _recurrence(*further: str, cell: str = "rnn") -> Where:
    """Return where a mistake shows that sits in what a step hands to the one before."""
    everything = (*tensors("x", "states", "parameters", cell=cell), *further)
    return Where(everything, "recurrence", steps="all but the last")


def _sum(*names: str) -> Where:
    return Where(names, "sums over steps", steps="none")


# ------------------------------------------------------------------------------------------------ the softmax


@SPECIMENS.add("softmax-jacobian-missing", "softmax Jacobian missing", _recurrence(*CONTEXT, *VALUES))
class SoftmaxJacobianMissing(WrongParts, AttentionRNN):
    """The scores get the gradient of the weights, as if there were no softmax."""

    @staticmethod
    def _instead_of_weights_backward(dcontext_t: Array, values: Array, dalpha_t: Array, dscore_t: Array) -> None:
        dalpha_t += np.einsum("nm,nsm->ns", dcontext_t, values)
        dscore_t[...] = dalpha_t  # right: alpha_t * (dalpha_t - the sum over s of alpha_t * dalpha_t)


@SPECIMENS.add("softmax-jacobian-diagonal", "softmax Jacobian missing",
    _recurrence(*CONTEXT, *VALUES, *KEYS, cell="lstm"), "the sigmoid's rule, s (1 - s), taken over",
    options=KEYED)  # fmt: skip
class SoftmaxJacobianDiagonal(WrongParts, AttentionLSTM):
    """Of the softmax's Jacobian the diagonal alone is there."""

    @staticmethod
    def _instead_of_weights_backward(
        dcontext_t: Array, alpha_t: Array, values: Array, dalpha_t: Array, dscore_t: Array
    ) -> None:
        dalpha_t += np.einsum("nm,nsm->ns", dcontext_t, values)
        dscore_t[...] = alpha_t * (1 - alpha_t) * dalpha_t


@SPECIMENS.add("mask-after-the-softmax", "memory's mask ignored", _recurrence(*CONTEXT, *VALUES),
    needs=("masked memory",))  # fmt: skip
class MaskAfterTheSoftmax(WrongParts, AttentionGRU):
    """Backward makes the weights again, over all rows, and masks them after the softmax without dividing again."""

    @staticmethod
    def _instead_of_weights_backward(
        dcontext_t: Array, score_t: Array, exists: Array, values: Array, dalpha_t: Array, dscore_t: Array
    ) -> None:
        weights = np.exp(score_t - score_t.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        weights *= exists  # right: before the division
        dalpha_t += np.einsum("nm,nsm->ns", dcontext_t, values)
        dscore_t[...] = weights * (dalpha_t - np.sum(weights * dalpha_t, axis=1, keepdims=True))


# ------------------------------------------------------------------------------------------------ paths


@SPECIMENS.add("weights-detached", "attention path missing", _recurrence(*CONTEXT, *VALUES))
class WeightsDetached(WrongParts, AttentionGRU):
    """The weights are taken for constants, as where a framework is told to detach them for a plot."""

    @staticmethod
    def _instead_of_weights_backward(dscore_t: Array) -> None:
        dscore_t[...] = 0


@SPECIMENS.add("query-path-missing", "attention path missing", _recurrence(*CONTEXT, *VALUES, cell="lstm"))
class QueryPathMissing(WrongParts, AttentionLSTM):
    """The state before the step, which asked, gets nothing through the scores."""

    @staticmethod
    def _instead_of_product_backward(dscore_t: Array) -> None:
        pass  # right: dquery += the sum over s of dscore_t * keys


@SPECIMENS.add("memory-by-its-values-alone", "attention path missing", _sum(*VALUES))
class MemoryByItsValuesAlone(WrongParts, AttentionRNN):
    """The memory gets its gradient through the context, and nothing through the scores that it also made."""

    @staticmethod
    def _instead_of_product_backward(dscore_t: Array, keys: Array, dquery: Array) -> None:
        dquery += np.einsum("ns,nsm->nm", dscore_t, keys)
        dscore_t[...] = 0


@SPECIMENS.add("coverage-path-missing", "attention path missing",
    _recurrence("cov_0", *tensors("weight_ch", "weight_coverage", "weight_query"), "v_l0", *VALUES, *KEYS),
    options={**ADDITIVE, "coverage": True})  # fmt: skip
class CoveragePathMissing(WrongParts, AttentionGRU):
    """The weights of a step get nothing of what their sum, the coverage, says at later steps."""

    @staticmethod
    def _instead_of_cover_backward(dcov_t: Array, dcov_prev: Array) -> None:
        dcov_prev += dcov_t  # right: and dalpha_t += dcov_t


@SPECIMENS.add("fed-back-gradient-dropped", "attention path missing",
    _recurrence("attn_0", *tensors("weight_if", "weight_c"), *VALUES, *KEYS, cell="lstm"), options=FEEDING,
    also=("hidden path missing",))  # fmt: skip
class FedBackGradientDropped(WrongParts, AttentionLSTM):
    """What is fed into the next step gets no gradient from there: input feeding is taken for an input."""

    @staticmethod
    def _instead_of_feed_backward(dinput_t: Array) -> None:
        pass  # right: dattn_prev += dinput_t W_if


# ------------------------------------------------------------------------------------------------ derivatives


@SPECIMENS.add("context-gate-derivative-missing", "gate derivative missing",
    _recurrence(*tensors("weight_ch", "weight_gate"), "bias_gate_l0", *VALUES), options={"gate": "vector"},
    also=("wrong derivative",))  # fmt: skip
class ContextGateDerivativeMissing(WrongParts, AttentionRNN):
    """The gradient passes the sigmoid of the context's gate as if it were the identity."""

    @staticmethod
    def _instead_of_gate_backward(
        dgated_t: Array, context_t: Array, beta_t: Array, W_g: Array, dgate_t: Array, dcontext_t: Array, dquery: Array,
        db_g: Array,
    ) -> None:  # fmt: skip
        dcontext_t[...] = beta_t * dgated_t
        dgate_t[...] = dgated_t * context_t  # right: times beta_t * (1 - beta_t)
        dquery += dgate_t @ W_g
        db_g += dgate_t.sum(axis=0).reshape(db_g.shape)


@SPECIMENS.add("additive-derivative-missing", "gate derivative missing",
    _recurrence(*tensors("weight_ch", "weight_query"), "v_l0", *VALUES, *KEYS, cell="lstm"), options=ADDITIVE,
    also=("wrong derivative",))  # fmt: skip
class AdditiveDerivativeMissing(WrongParts, AttentionLSTM):
    """The gradient passes the tanh of the additive score as if it were the identity."""

    @staticmethod
    def _instead_of_additive_backward(
        dscore_t: Array, units_t: Array, W_q: Array, v_a: Array, dprojected_t: Array, dquery: Array, dkeys: Array,
        dv_a: Array,
    ) -> None:  # fmt: skip
        dv_a += np.einsum("ns,nsk->k", dscore_t, units_t).reshape(dv_a.shape)
        du = dscore_t[:, :, None] * v_a.ravel()  # right: times 1 - units_t^2
        dkeys += du
        dprojected_t[...] = du.sum(axis=1)
        dquery += dprojected_t @ W_q


@SPECIMENS.add("context-weight-transposed", "transposed", _recurrence(*CONTEXT, *VALUES))
class ContextWeightTransposed(WrongParts, AttentionRNN):
    """The context's gradient is W_ch da, where it should be W_ch^T da."""

    @staticmethod
    def _instead_of_context_backward(dinput_t: Array, W_ch: Array, dcontext_t: Array) -> None:
        dcontext_t[...] = dinput_t @ W_ch.T  # right: without .T


# ------------------------------------------------------------------------------------------------ sums over the steps


@SPECIMENS.add("keys-from-the-new-state", "off by one step", _sum(*KEYS), options=KEYED)
class KeysFromTheNewState(AttentionGRU):
    """The gradient of the keys is summed with h_t, where h_{t-1} had asked."""

    def with_parts(self, cell: Cell) -> Cell:
        cell = super().with_parts(cell)
        keys = replace(cell.given["keys"], products={"weights": ("dscore_t", "h_t")})  # right: h_prev
        return replace(cell, given={**cell.given, "keys": keys})


@SPECIMENS.add("query-weight-from-the-new-state", "off by one step", _sum(*tensors("weight_query")), options=ADDITIVE)
class QueryWeightFromTheNewState(AttentionRNN):
    """The gradient of W_q is summed with h_t, where h_{t-1} had asked."""

    def with_parts(self, cell: Cell) -> Cell:
        cell = super().with_parts(cell)
        weight = replace(cell.parameters["weight_query"], product=("dprojected_t", "h_t"))  # right: h_prev
        return replace(cell, parameters={**cell.parameters, "weight_query": weight})


# Of 4 units the root is 2, as many as there are sequences.
@SPECIMENS.add("keys-scaled-twice", "constant factor", _sum(*KEYS), options=KEYED, also=("missing 1/N",))
class KeysScaledTwice(AttentionGRU):
    """The keys' gradient is divided by the root of H, a scale that was in the keys already."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        run.results[0].dgiven["keys"] = run.results[0].dgiven["keys"] / np.sqrt(self.hidden_size)


@SPECIMENS.add("memory-in-the-order-of-lengths", "batch mixed", _sum(*VALUES), needs=("lengths", "N > 1"))
class MemoryInTheOrderOfLengths(AttentionLSTM):
    """The memory's gradient has the sequences in the order of the targets' lengths, in which the engine works."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        found = run.results[0].dgiven
        found["values"] = run.trace.edge.batch.sorted(found["values"], 1)  # right: as it is
