"""Wrong backward passes whose mistake is in no formula: lengths, layers, directions, masks, memory, arguments, results.

Each class says in its docstring what is wrong, and above it what follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.binding import Binding
from rnn_numpy.engine.recurrent import BackwardResult, Pass, Run
from rnn_numpy.engine.walk import Direction
from rnn_numpy.layers import GRU, LSTM, RNN
from rnn_numpy.zoo.common import WrongSums
from rnn_numpy.zoo.specimen import Specimens, Where, tensors

Array = NDArray[Any]

SPECIMENS = Specimens()

BOTH = ("l0", "l0_reverse")
EVERYTHING = tensors("x", "states", "parameters")
EVERYTHING_OF_LSTM = tensors("x", "states", "parameters", cell="lstm")
REVERSE = ("l0_reverse",)
STACKED = {"num_layers": 2}
DROPPED = {"num_layers": 2, "dropout": 0.4}
BIDIRECTIONAL = {"bidirectional": True}
OUTSIDE = "outside of the steps"

# ---------------------------------------------------------------------------------------------------- the loss's entry


@SPECIMENS.add(
    "final-state-gradient-ignored", "final-state gradient ignored", Where(EVERYTHING, "loss's entry"), needs=("dh_n",)
)
class FinalStateGradientIgnored(GRU):
    """A loss that reads the final state has no gradient."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, [None] * len(dfinals))


@SPECIMENS.add("final-state-gradient-at-T", "final-state gradient ignored",
    Where(EVERYTHING, "loss's entry", steps="early"), needs=("dh_n", "lengths"), also=("padding leaks",))  # fmt: skip
class FinalStateGradientAtT(RNN):
    """The final state's gradient enters at the last step of the batch, which a shorter sequence does not have."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, [None])
        gradients = run.gradients.arrays
        if dfinals[0] is not None:
            gradients["dh"][run.binding.batch.T] += dfinals[0]  # right: [run.binding.exit]


@SPECIMENS.add(
    "last-loss-alone", "only the last step's loss", Where(EVERYTHING_OF_LSTM, "loss's entry", steps="all but the last")
)
class LastLossAlone(LSTM):
    """The gradient of the last output is read, that of all others is not."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, dfinals)
        gradients = run.gradients.arrays
        gradients["dh"][: run.binding.batch.T] = 0


@SPECIMENS.add("padding-leaks", "padding leaks", Where(EVERYTHING_OF_LSTM, "loss's entry", steps="early"),
    "Keras repeats a sequence's last output past its end; here it is 0, a constant", needs=("lengths",))  # fmt: skip
class PaddingLeaks(LSTM):
    """Doutput in the padding is added at the last step of the sequence."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        super().open_backward(run, doutput, dfinals)
        gradients = run.gradients.arrays
        if doutput is not None:
            gradients["dh"][run.binding.exit] += np.where(run.binding.batch.exists(), 0, doutput).sum(axis=0)


# ------------------------------------------------------------------------------------------------ layers and directions


@SPECIMENS.add("reverse-not-reversed", "reverse direction not reversed",
    Where(tensors("x", "states", "parameters", layers=REVERSE, cell="lstm"), "loop"),
    "thinc 9.1.1, bidirectional: [::1] where [::-1] was meant", options=BIDIRECTIONAL)  # fmt: skip
class ReverseNotReversed(LSTM):
    """The reverse direction is back-propagated in the order of the forward one."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        b = run.binding
        forward = Binding(b.chain, b.batch, False, b.arrays, b.constants)  # right: run.direction.reverse
        yield from super().backward_loop(replace(run, binding=forward))


@SPECIMENS.add("same-half-twice", "reverse direction not reversed",
    Where(tensors("x", "states", "parameters", layers=REVERSE), "loss's entry"), "thinc 9.1.1, bidirectional",
    options=BIDIRECTIONAL)  # fmt: skip
class SameHalfTwice(GRU):
    """The output of two directions is split into its first half, twice."""

    def directions_of(self, layer: int) -> list[Direction]:
        directions = super().directions_of(layer)
        return [replace(direction, columns=directions[0].columns) for direction in directions]


@SPECIMENS.add("doutput-overwritten", "overwritten, not added",
    Where(tensors("x", "states", "parameters", layers=("l0", "l0_reverse", "l1_reverse"), cell="lstm"), "loss's entry"),
    "mxnet issue 17898, pull request 18203: stacked bidirectional LSTM", options={**STACKED, **BIDIRECTIONAL},
    also=("lower layer cut off",))  # fmt: skip
class DoutputOverwrittenBetweenDirections(LSTM):
    """Two directions share doutput, and the first writes its dx there before the second reads it."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        self._shared = dx
        return dx

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        if run.direction.reverse and run.direction.layer > 0:
            doutput = self._shared[:, :, self.hidden_size :]  # right: doutput
        super().open_backward(run, doutput, dfinals)


@SPECIMENS.add("reverse-direction-cut-off", "lower layer cut off",
    Where(tensors("x", "states", "parameters", layers=BOTH), "between layers"),
    options={**STACKED, **BIDIRECTIONAL})  # fmt: skip
class ReverseDirectionCutOff(GRU):
    """What the upper layer hands down lacks its reverse direction's share."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        if run.direction.layer > 0 and run.direction.reverse:
            dx[...] = 0
        return dx


@SPECIMENS.add("reverse-never-added", "never accumulated",
    Where(tensors("parameters", layers=REVERSE), "sums over steps", steps="none"),
    "mlpack pull request 1742, bidirectional RNN: totalGradient += backwardGradient was missing", options=BIDIRECTIONAL,
    also=("bias ignored",))  # fmt: skip
class ReverseNeverAdded(WrongSums, RNN):
    """The gradients of the reverse direction's parameters are computed and not added to the total."""

    def _spoil(self, run: Run) -> None:
        if run.direction.reverse:
            for gradient in run.sums.values():
                gradient[...] = 0


@SPECIMENS.add("lower-layer-cut-off", "lower layer cut off",
    Where(tensors("x", "states", "parameters"), "between layers"), options=STACKED)  # fmt: skip
class LowerLayerCutOff(RNN):
    """The upper layer hands nothing to the one below, which learns from its final state alone."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        if run.direction.layer > 0:
            dx[...] = 0
        return dx


# ------------------------------------------------------------------------------------------------------------- dropout


@SPECIMENS.add("dropout-mask-ignored", "dropout mask ignored", Where(EVERYTHING_OF_LSTM, "between layers"),
    options=DROPPED, needs=("dropout masks",))  # fmt: skip
class DropoutMaskIgnored(LSTM):
    """The gradient from the upper layer is not multiplied with the dropout mask."""

    def bptt(self, run: Pass) -> Iterator[int]:
        masks, run.trace.edge.factors = run.trace.edge.factors, None
        try:
            yield from super().bptt(run)
        finally:
            run.trace.edge.factors = masks


@SPECIMENS.add("dropout-mask-in-half-precision", "lower precision", Where(EVERYTHING_OF_LSTM, "between layers"),
    options=DROPPED, needs=("dropout masks",), also=("dropout mask ignored",))  # fmt: skip
class DropoutMaskInHalfPrecision(LSTM):
    """To save memory backward has the dropout mask in float16, in which 1/0.6 is 1.667."""

    def bptt(self, run: Pass) -> Iterator[int]:
        masks = run.trace.edge.factors
        if masks is not None:
            run.trace.edge.factors = [mask.astype(np.float16).astype(self.dtype) for mask in masks]
        try:
            yield from super().bptt(run)
        finally:
            run.trace.edge.factors = masks


@SPECIMENS.add("dropout-mask-drawn-again", "not deterministic", Where(EVERYTHING, "between layers"), options=DROPPED,
    needs=("dropout masks",), also=("dropout mask ignored",))  # fmt: skip
class DropoutMaskDrawnAgain(GRU):
    """The gradient from the upper layer is multiplied with a mask that is drawn anew."""

    def bptt(self, run: Pass) -> Iterator[int]:
        masks = run.trace.edge.factors
        if masks is not None:
            run.trace.edge.factors = [self.drawn_mask(self.dropout, mask.shape) for mask in masks]
        try:
            yield from super().bptt(run)
        finally:
            run.trace.edge.factors = masks


@SPECIMENS.add("recurrent-mask-ignored", "dropout mask ignored",
    Where(EVERYTHING, "recurrence", steps="all but the last"), options={"recurrent_dropout": 0.4},
    needs=("recurrent masks",))  # fmt: skip
class RecurrentMaskIgnored(RNN):
    """The gradient that goes back through W_hh is not multiplied with the mask of recurrent dropout."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        if "recurrent_mask" in run.binding.arrays:
            run.binding.arrays["recurrent_mask"] = np.ones_like(run.binding.arrays["recurrent_mask"])
        yield from super().backward_loop(run)


# ---------------------------------------------------------------------------------------------- arguments and results


@SPECIMENS.add("clipped", "clipped", Where(tensors("parameters"), OUTSIDE, steps="none"),
    "min-char-rnn: np.clip inside of lossFun", needs=("large loss",))  # fmt: skip
class Clipped(WrongSums, RNN):
    """Gradients are cut off at 5 in the function that computes them, before anybody can check them."""

    def _spoil(self, run: Run) -> None:
        for gradient in run.sums.values():
            np.clip(gradient, -5, 5, out=gradient)


@SPECIMENS.add("divided-by-the-batch", "missing 1/N", Where(tensors("parameters"), "sums over steps", steps="none"),
    needs=("N > 1",), also=("constant factor",))  # fmt: skip
class DividedByTheBatch(WrongSums, RNN):
    """The parameters' gradients are divided by N, while the loss is not."""

    def _spoil(self, run: Run) -> None:
        for gradient in run.sums.values():
            gradient /= run.binding.arrays["x"].shape[1]


@SPECIMENS.add("initial-state-gradient-zero", "never accumulated", Where(("h_0",), OUTSIDE, steps="none"))
class InitialStateGradientZero(GRU):
    """The initial state's gradient is returned as zeros."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        run.results[0].dh_0[...] = 0


@SPECIMENS.add(
    "order-of-lengths-kept", "batch mixed", Where(("h_0",), OUTSIDE, steps="none"), needs=("lengths", "N > 1")
)
class OrderOfLengthsKept(GRU):
    """The initial states' gradients come back sorted by length: each sequence gets another one's."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        run.results[0].dh_0 = run.trace.edge.batch.sorted(run.results[0].dh_0, 1)


@SPECIMENS.add("doutput-scribbled-on", "input modified", Where(EVERYTHING_OF_LSTM, OUTSIDE), needs=("second call",))
class DoutputScribbledOn(LSTM):
    """The first call is right; it leaves its own sums in doutput, so that a second call is not."""

    def backward(self, trace: Any, doutput: Any, *arguments: Any, **options: Any) -> BackwardResult:
        """As that of an LSTM, but for what it does to doutput."""
        result = super().backward(trace, doutput, *arguments, **options)
        if isinstance(doutput, np.ndarray):
            np.copyto(doutput, trace.dh[1:].reshape(doutput.shape))
        return result


@SPECIMENS.add("weight-decay-in-backward", "parameters modified", Where(EVERYTHING, OUTSIDE), needs=("second call",))
class WeightDecayInBackward(RNN):
    """The gradients are right; then the parameters are 1 % smaller."""

    def bptt(self, run: Pass) -> Iterator[int]:
        yield from super().bptt(run)
        self.params.flat *= 0.99


@SPECIMENS.add("grads-overwritten", "overwritten, not added", Where(tensors("parameters"), OUTSIDE, steps="none"),
    needs=("second call", "grads handed in"))  # fmt: skip
class GradsOverwritten(RNN):
    """Gradients of an earlier call are erased instead of added to."""

    def bptt(self, run: Pass) -> Iterator[int]:
        if run.grads is not None:
            run.grads.flat[:] = 0
        yield from super().bptt(run)


@SPECIMENS.add("grads-never-cleared", "accumulated over calls", Where(tensors("parameters"), OUTSIDE, steps="none"),
    needs=("second call",), also=("constant factor",))  # fmt: skip
class GradsNeverCleared(GRU):
    """The second call returns the sum of both."""

    def bptt(self, run: Pass) -> Iterator[int]:
        if run.grads is None:
            run.grads = self._kept = getattr(self, "_kept", self.params.zeros_like())
        yield from super().bptt(run)
