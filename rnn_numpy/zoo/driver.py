"""Wrong backward passes whose mistake is in no formula: lengths, layers, directions, masks, memory, arguments, results.

Each class says in its docstring what is wrong; `SPECIMENS` says what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.binding import Binding
from rnn_numpy.engine.recurrent import BackwardResult, Pass, Run
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.walk import Direction
from rnn_numpy.layers import GRU, LSTM, RNN
from rnn_numpy.zoo.common import WrongSums
from rnn_numpy.zoo.specimen import Specimen, Where, tensors

Array = NDArray[Any]

# ---------------------------------------------------------------------------------------------------- the loss's entry


class FinalStateGradientIgnored(GRU):
    """dh_n is accepted and not used."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, [None] * len(dfinals))


class FinalStateGradientAtT(RNN):
    """dh_n enters after step T - 1, also for sequences that end before."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, [None])
        gradients = run.gradients.arrays
        if dfinals[0] is not None:
            gradients["dh"][run.binding.batch.T] += dfinals[0]  # right: [run.binding.exit]


class LastLossAlone(LSTM):
    """doutput of the last step is read, as of a net that classifies; the rest is not."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, dfinals)
        gradients = run.gradients.arrays
        gradients["dh"][: run.binding.batch.T] = 0


class PaddingLeaks(LSTM):
    """doutput past the end of a sequence goes to its last step, as if the output had stayed there."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, dfinals)
        gradients = run.gradients.arrays
        if doutput is not None:
            gradients["dh"][run.binding.exit] += np.where(run.binding.batch.exists(), 0, doutput).sum(axis=0)


# ------------------------------------------------------------------------------------------------ layers and directions


class ReverseNotReversed(LSTM):
    """Back-propagation through the reverse direction runs from T - 1 to 0, as through the forward one."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        b = run.binding
        forward = Binding(b.chain, b.batch, False, b.arrays, b.constants)  # right: run.direction.reverse
        yield from super().backward_loop(replace(run, binding=forward))


class SameHalfTwice(GRU):
    """Both directions get the first half of doutput."""

    def directions_of(self, layer: int) -> list[Direction]:
        directions = super().directions_of(layer)
        return [replace(direction, columns=directions[0].columns) for direction in directions]


class DoutputOverwrittenBetweenDirections(LSTM):
    """dx of the upper layer's forward direction is written over its doutput before the reverse direction reads that."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        self._shared = dx
        return dx

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        if run.direction.reverse and run.direction.layer > 0:
            doutput = self._shared[:, :, self.hidden_size :]  # right: doutput
        super().open_backward(run, doutput, dfinals)


class ReverseDirectionCutOff(GRU):
    """The lower layer gets the upper one's forward direction alone."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        if run.direction.layer > 0 and run.direction.reverse:
            dx[...] = 0
        return dx


class ReverseNeverAdded(WrongSums, RNN):
    """The reverse direction's parameters get nothing."""

    def _spoil(self, run: Run) -> None:
        if run.direction.reverse:
            for gradient in run.sums.values():
                gradient[...] = 0


class LowerLayerCutOff(RNN):
    """Nothing goes from layer 1 to layer 0."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        if run.direction.layer > 0:
            dx[...] = 0
        return dx


# ------------------------------------------------------------------------------------------------------------- dropout


class DropoutMaskIgnored(LSTM):
    """The lower layer gets a gradient also through outputs that were dropped."""

    def bptt(self, run: Pass) -> Iterator[int]:
        masks, run.trace.edge.factors = run.trace.edge.factors, None
        try:
            yield from super().bptt(run)
        finally:
            run.trace.edge.factors = masks


class DropoutMaskInHalfPrecision(LSTM):
    """The mask is kept in float16 for backward: 1/(1-p) is rounded to three digits."""

    def bptt(self, run: Pass) -> Iterator[int]:
        masks = run.trace.edge.factors
        if masks is not None:
            run.trace.edge.factors = [mask.astype(np.float16).astype(self.dtype) for mask in masks]
        try:
            yield from super().bptt(run)
        finally:
            run.trace.edge.factors = masks


class DropoutMaskDrawnAgain(GRU):
    """Backward draws a mask of its own."""

    def bptt(self, run: Pass) -> Iterator[int]:
        masks = run.trace.edge.factors
        if masks is not None:
            run.trace.edge.factors = [self._drawn(self.dropout, mask.shape) for mask in masks]
        try:
            yield from super().bptt(run)
        finally:
            run.trace.edge.factors = masks


class RecurrentMaskIgnored(RNN):
    """dh_{t-1} gets a gradient also through units that were hidden from W_hh."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        if "recurrent_mask" in run.binding.arrays:
            run.binding.arrays["recurrent_mask"] = np.ones_like(run.binding.arrays["recurrent_mask"])
        yield from super().backward_loop(run)


# ---------------------------------------------------------------------------------------------- arguments and results


class Clipped(WrongSums, RNN):
    """Parameter gradients are cut off at 5."""

    def _spoil(self, run: Run) -> None:
        for gradient in run.sums.values():
            np.clip(gradient, -5, 5, out=gradient)


class DividedByTheBatch(WrongSums, RNN):
    """Parameter gradients are means over the batch of a loss that is a sum."""

    def _spoil(self, run: Run) -> None:
        for gradient in run.sums.values():
            gradient /= run.binding.arrays["x"].shape[1]


class InitialStateGradientZero(GRU):
    """dh_0 is returned as zeros."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        run.results[0].dh_0[...] = 0


class OrderOfLengthsKept(GRU):
    """dh_0 stays in the order of lengths in which the engine works."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        run.results[0].dh_0 = run.trace.edge.batch.sorted(run.results[0].dh_0, 1)


class DoutputScribbledOn(LSTM):
    """The gradients of all steps are accumulated in the caller's doutput."""

    def backward(
        self, trace: Trace, doutput: ArrayLike | None, dh_n: ArrayLike | None = None, grads: Parameters | None = None
    ) -> BackwardResult:
        """As that of an LSTM, but for what it does to doutput."""
        result = super().backward(trace, doutput, dh_n, grads)
        if isinstance(doutput, np.ndarray):
            np.copyto(doutput, trace.dh[1:].reshape(doutput.shape))
        return result


class WeightDecayInBackward(RNN):
    """Backward takes a step of weight decay."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        self.params.flat *= 0.99


class GradsOverwritten(RNN):
    """What grads held is lost."""

    def bptt(self, run: Pass) -> Iterator[int]:
        if run.grads is not None:
            run.grads.flat[:] = 0
        yield from super().bptt(run)


class GradsNeverCleared(GRU):
    """One set of gradients serves all calls."""

    def bptt(self, run: Pass) -> Iterator[int]:
        if run.grads is None:
            run.grads = self._kept = getattr(self, "_kept", self.params.zeros_like())
        yield from super().bptt(run)


BOTH = ("l0", "l0_reverse")
EVERYTHING = tensors("x", "states", "parameters")
EVERYTHING_OF_LSTM = tensors("x", "states", "parameters", cell="lstm")
REVERSE = ("l0_reverse",)
STACKED = {"num_layers": 2}
DROPPED = {"num_layers": 2, "dropout": 0.4}
BIDIRECTIONAL = {"bidirectional": True}
OUTSIDE = "outside of the steps"

SPECIMENS = (
    Specimen(
        "final-state-gradient-ignored",
        FinalStateGradientIgnored,
        "a loss that reads the final state has no gradient",
        "final-state gradient ignored",
        Where(EVERYTHING, "loss's entry"),
        needs=("dh_n",),
    ),
    Specimen(
        "final-state-gradient-at-T",
        FinalStateGradientAtT,
        "the final state's gradient enters at the last step of the batch, which a shorter sequence does not have",
        "final-state gradient ignored",
        Where(EVERYTHING, "loss's entry", steps="early"),
        needs=("dh_n", "lengths"),
        also=("padding leaks",),
    ),
    Specimen(
        "last-loss-alone",
        LastLossAlone,
        "the gradient of the last output is read, that of all others is not",
        "only the last step's loss",
        Where(EVERYTHING_OF_LSTM, "loss's entry", steps="all but the last"),
    ),
    Specimen(
        "padding-leaks",
        PaddingLeaks,
        "doutput in the padding is added at the last step of the sequence",
        "padding leaks",
        Where(EVERYTHING_OF_LSTM, "loss's entry", steps="early"),
        "Keras repeats a sequence's last output past its end; here it is 0, a constant",
        needs=("lengths",),
    ),
    Specimen(
        "reverse-not-reversed",
        ReverseNotReversed,
        "the reverse direction is back-propagated in the order of the forward one",
        "reverse direction not reversed",
        Where(tensors("x", "states", "parameters", layers=REVERSE, cell="lstm"), "loop"),
        "thinc 9.1.1, bidirectional: [::1] where [::-1] was meant",
        options=BIDIRECTIONAL,
    ),
    Specimen(
        "same-half-twice",
        SameHalfTwice,
        "the output of two directions is split into its first half, twice",
        "reverse direction not reversed",
        Where(tensors("x", "states", "parameters", layers=REVERSE), "loss's entry"),
        "thinc 9.1.1, bidirectional",
        options=BIDIRECTIONAL,
    ),
    Specimen(
        "doutput-overwritten",
        DoutputOverwrittenBetweenDirections,
        "two directions share doutput, and the first writes its dx there before the second reads it",
        "overwritten, not added",
        Where(
            tensors("x", "states", "parameters", layers=("l0", "l0_reverse", "l1_reverse"), cell="lstm"),
            "loss's entry",
        ),
        "mxnet issue 17898, pull request 18203: stacked bidirectional LSTM",
        options={**STACKED, **BIDIRECTIONAL},
        also=("lower layer cut off",),
    ),
    Specimen(
        "reverse-direction-cut-off",
        ReverseDirectionCutOff,
        "what the upper layer hands down lacks its reverse direction's share",
        "lower layer cut off",
        Where(tensors("x", "states", "parameters", layers=BOTH), "between layers"),
        options={**STACKED, **BIDIRECTIONAL},
    ),
    Specimen(
        "reverse-never-added",
        ReverseNeverAdded,
        "the gradients of the reverse direction's parameters are computed and not added to the total",
        "never accumulated",
        Where(tensors("parameters", layers=REVERSE), "sums over steps", steps="none"),
        "mlpack pull request 1742, bidirectional RNN: totalGradient += backwardGradient was missing",
        options=BIDIRECTIONAL,
        also=("bias ignored",),
    ),
    Specimen(
        "lower-layer-cut-off",
        LowerLayerCutOff,
        "the upper layer hands nothing to the one below, which learns from its final state alone",
        "lower layer cut off",
        Where(tensors("x", "states", "parameters"), "between layers"),
        options=STACKED,
    ),
    Specimen(
        "dropout-mask-ignored",
        DropoutMaskIgnored,
        "the gradient from the upper layer is not multiplied with the dropout mask",
        "dropout mask ignored",
        Where(EVERYTHING_OF_LSTM, "between layers"),
        options=DROPPED,
        needs=("dropout masks",),
    ),
    Specimen(
        "dropout-mask-in-half-precision",
        DropoutMaskInHalfPrecision,
        "to save memory backward has the dropout mask in float16, in which 1/0.6 is 1.667",
        "lower precision",
        Where(EVERYTHING_OF_LSTM, "between layers"),
        options=DROPPED,
        needs=("dropout masks",),
        also=("dropout mask ignored",),
    ),
    Specimen(
        "dropout-mask-drawn-again",
        DropoutMaskDrawnAgain,
        "the gradient from the upper layer is multiplied with a mask that is drawn anew",
        "not deterministic",
        Where(EVERYTHING, "between layers"),
        options=DROPPED,
        needs=("dropout masks",),
        also=("dropout mask ignored",),
    ),
    Specimen(
        "recurrent-mask-ignored",
        RecurrentMaskIgnored,
        "the gradient that goes back through W_hh is not multiplied with the mask of recurrent dropout",
        "dropout mask ignored",
        Where(EVERYTHING, "recurrence", steps="all but the last"),
        options={"recurrent_dropout": 0.4},
        needs=("recurrent masks",),
    ),
    Specimen(
        "clipped",
        Clipped,
        "gradients are cut off at 5 in the function that computes them, before anybody can check them",
        "clipped",
        Where(tensors("parameters"), OUTSIDE, steps="none"),
        "min-char-rnn: np.clip inside of lossFun",
        needs=("large loss",),
    ),
    Specimen(
        "divided-by-the-batch",
        DividedByTheBatch,
        "the parameters' gradients are divided by N, while the loss is not",
        "missing 1/N",
        Where(tensors("parameters"), "sums over steps", steps="none"),
        needs=("N > 1",),
        also=("constant factor",),
    ),
    Specimen(
        "initial-state-gradient-zero",
        InitialStateGradientZero,
        "the initial state's gradient is returned as zeros",
        "never accumulated",
        Where(("h_0",), OUTSIDE, steps="none"),
    ),
    Specimen(
        "order-of-lengths-kept",
        OrderOfLengthsKept,
        "the initial states' gradients come back sorted by length: each sequence gets another one's",
        "batch mixed",
        Where(("h_0",), OUTSIDE, steps="none"),
        needs=("lengths", "N > 1"),
    ),
    Specimen(
        "doutput-scribbled-on",
        DoutputScribbledOn,
        "the first call is right; it leaves its own sums in doutput, so that a second call is not",
        "input modified",
        Where(EVERYTHING_OF_LSTM, OUTSIDE),
        needs=("second call",),
    ),
    Specimen(
        "weight-decay-in-backward",
        WeightDecayInBackward,
        "the gradients are right; then the parameters are 1 % smaller",
        "parameters modified",
        Where(EVERYTHING, OUTSIDE),
        needs=("second call",),
    ),
    Specimen(
        "grads-overwritten",
        GradsOverwritten,
        "gradients of an earlier call are erased instead of added to",
        "overwritten, not added",
        Where(tensors("parameters"), OUTSIDE, steps="none"),
        needs=("second call", "grads handed in"),
    ),
    Specimen(
        "grads-never-cleared",
        GradsNeverCleared,
        "the second call returns the sum of both",
        "accumulated over calls",
        Where(tensors("parameters"), OUTSIDE, steps="none"),
        needs=("second call",),
        also=("constant factor",),
    ),
)
