"""Wrong backward passes of the RNN. Its formulas work on rows: arrays of a step are (N, H), W_hh^T da is da.dot(W_hh).

Each class says in its docstring what is wrong, and above it what follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.recurrent import Run
from rnn_numpy.layers.rnn import RNN
from rnn_numpy.zoo.common import WrongFormulas, WrongSums
from rnn_numpy.zoo.specimen import Specimens, Where, tensors

Array = NDArray[Any]

SPECIMENS = Specimens()

EVERYTHING = tensors("x", "states", "parameters")
RELU = {"nonlinearity": "relu"}
RECURRENCE = Where(EVERYTHING, "recurrence", steps="all but the last")
PARTIAL = Where(EVERYTHING, "immediate partial", "a")


@SPECIMENS.add("recurrence-transposed", "transposed", RECURRENCE)
class RecurrenceTransposed(WrongFormulas, RNN):
    """The gradient is handed back through W_hh instead of its transpose."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in += da_t.dot(W_hh.T)  # right: da_t.dot(W_hh)


@SPECIMENS.add("recurrence-dropped", "recurrence dropped", RECURRENCE,
    "RNN-LSTM-in-numpy issue 1: dh_next and dc_next are computed and never used",
    also=("hidden path missing",))  # fmt: skip
class RecurrenceDropped(WrongFormulas, RNN):
    """No step hands a gradient to the one before: every step is trained alone."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, da_t: Array) -> None:
        da_t *= dh_t  # right: then also dh_in += da_t.dot(W_hh)


@SPECIMENS.add("recurrence-negated", "sign", RECURRENCE)
class RecurrenceNegated(WrongFormulas, RNN):
    """What comes from step t+1 is subtracted."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in -= da_t.dot(W_hh)  # right: +=


@SPECIMENS.add("loss-overwritten", "overwritten, not added", RECURRENCE,
    "right for one step, wrong for two, as Element-Research/rnn issue 31 tells of an LSTM", needs=("T > 1",),
    also=("only the last step's loss",))  # fmt: skip
class LossOverwritten(WrongFormulas, RNN):
    """An = for a +=: the gradient from the future erases what the loss adds at the step."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in[...] = da_t.dot(W_hh)  # right: +=


@SPECIMENS.add("batch-averaged", "batch mixed", RECURRENCE, needs=("N > 1",))
class BatchAveraged(WrongFormulas, RNN):
    """The mean over the batch is handed back to each sequence."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in += da_t.dot(W_hh).mean(axis=0)  # right: without the mean


@SPECIMENS.add("recurrence-in-single-precision", "lower precision", RECURRENCE)
class RecurrenceInSinglePrecision(WrongFormulas, RNN):
    """The gradient is handed back through weights of single precision."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in += da_t.dot(W_hh.real.astype(np.float32))  # right: W_hh


@SPECIMENS.add("tiny-gradients-flushed", "small gradients flushed", Where(("x", "h_0"), "recurrence", steps="early"),
    needs=("contracting weights", "last loss alone"))  # fmt: skip
class TinyGradientsFlushed(WrongFormulas, RNN):
    """A gradient below 1e-12 counts as none, however small all others are."""

    @staticmethod
    def _after_step_backward(dh_in: Array) -> None:
        dh_in[np.abs(dh_in) < 1e-12] = 0


@SPECIMENS.add("tanh-derivative-missing", "gate derivative missing", PARTIAL,
    "plots in several scripts on vanishing gradients, which multiply by W_hh^T alone")  # fmt: skip
class TanhDerivativeMissing(WrongFormulas, RNN):
    """The gradient passes the tanh as if it were the identity."""

    @staticmethod
    def _instead_of_step_partials(da_t: Array) -> None:
        da_t[...] = 1  # right: 1 - h_t^2


@SPECIMENS.add("tanh-derivative-from-a", "wrong derivative", PARTIAL)
class TanhDerivativeFromA(WrongFormulas, RNN):
    """tanh' is written as 1 - a^2, with the pre-activation, instead of 1 - h^2."""

    @staticmethod
    def _instead_of_step_partials(a_t: Array, da_t: Array) -> None:
        da_t[...] = 1 - a_t * a_t  # right: 1 - h_t * h_t


@SPECIMENS.add("tanh-slope-kept-from-zero", "wrong derivative", PARTIAL)
class TanhDerivativeKeptFromZero(WrongFormulas, RNN):
    """A small number is added to tanh', so that saturated units go on learning: what they get is no gradient."""

    @staticmethod
    def _after_step_partials(da_t: Array) -> None:
        da_t += 1e-7


@SPECIMENS.add("tanh-slope-of-the-step-before", "wrong derivative", PARTIAL,
    "learn_dl issue 29: the state of the neighbouring step, there of the later one",
    also=("off by one step",))  # fmt: skip
class TanhDerivativeOfTheStepBefore(WrongFormulas, RNN):
    """tanh' of step t is taken at h_{t-1}."""

    @staticmethod
    def _instead_of_step_partials(h_prev: Array, da_t: Array) -> None:
        da_t[...] = 1 - h_prev * h_prev  # right: 1 - h_t * h_t


@SPECIMENS.add("tanh-slope-in-the-memory-of-h", "input modified",
    Where(("weight_hh_l0",), "sums over steps", "a", "none"), needs=("T > 1",), also=("wrong derivative",))  # fmt: skip
class TanhDerivativeInTheMemoryOfH(WrongFormulas, RNN):
    """h_t^2, on the way to 1 - h_t^2, is stored in h_t, and dW_hh then reads the squares."""

    @staticmethod
    def _instead_of_step_partials(h_t: Array, da_t: Array) -> None:
        h_t *= h_t
        np.subtract(1, h_t, out=da_t)


@SPECIMENS.add("relu-derivative-at-zero", "gate derivative missing", PARTIAL, options=RELU, also=("wrong derivative",))
class ReluDerivativeAtZero(WrongFormulas, RNN):
    """relu' is read off h as h >= 0, which holds of every unit, on or off."""

    @staticmethod
    def _instead_of_step_partials(h_t: Array, da_t: Array) -> None:
        da_t[...] = h_t.real >= 0  # right: > 0


@SPECIMENS.add("relu-of-the-gradient", "wrong derivative", PARTIAL,
    "done on purpose in the deconvolutional networks of Zeiler and Fergus (2014), to draw pictures",
    options=RELU)  # fmt: skip
class ReluOfTheGradient(WrongFormulas, RNN):
    """Relu is applied to the gradient instead of its derivative."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t[...] = np.where(dh_t.real > 0, dh_t, 0)  # right: da_t, which holds [h_t > 0], times dh_t
        dh_in += da_t.dot(W_hh)


@SPECIMENS.add("states-not-shifted", "off by one step", Where(("weight_hh_l0",), "sums over steps", "a", "none"))
class StatesNotShifted(RNN):
    """dW_hh is summed with h_t where the product was with h_{t-1}."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        da, h_t = run.binding.batch.flat(run.binding.arrays["da"]), run.binding.batch.flat(run.binding.arrays["h"][1:])
        run.sums["weight_hh"][...] = da.T.dot(h_t)  # right: run.binding.arrays["h"][:-1]
        return dx


@SPECIMENS.add("last-step-skipped", "last step skipped", Where(EVERYTHING, "loop"))
class LastStepSkipped(RNN):
    """The loop back begins one step too early, so the last step has no gradient, and hands none on."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        run.binding.arrays["dh"][-1] = 0  # so that the step t = T - 1 does nothing
        yield from super().backward_loop(run)


@SPECIMENS.add(
    "jacobians-in-forward-order",
    "order of Jacobians",
    Where(EVERYTHING, "recurrence", steps="early"),
    "axon pull request 646: all layers, in the default way of unrolling; one gradient was four times too large",
)
class JacobiansInForwardOrder(RNN):
    """The Jacobians of the steps are multiplied from the first to the last; they do not commute."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        delta, h, W_hh = run.binding.arrays["dh"].copy(), run.binding.arrays["h"], run.trace.weights["W_hh"]
        yield from super().backward_loop(run)
        for k in range(run.binding.batch.T + 1):  # row k holds dh_{k-1}
            late = delta[k:].copy()
            for j in range(1, len(late)):
                # Right: from the last Jacobian to the first.
                late[j:] = (late[j:] * (1 - h[k + j] ** 2)) @ W_hh
            run.binding.arrays["dh"][k] = late.sum(axis=0)
        run.binding.arrays["da"][...] = run.binding.arrays["dh"][1:] * (1 - h[1:] ** 2)


@SPECIMENS.add("truncated-window", "recurrence dropped", Where(EVERYTHING, "recurrence", steps="early"),
    "WildML's RNN: it stops after four steps, and its gradient check must first switch that off",
    needs=("contracting weights",))  # fmt: skip
class TruncatedWindow(RNN):
    """A loss is followed back for ten steps alone; where W_hh contracts, that is an error of 1e-9 or less."""

    window = 10

    def backward_loop(self, run: Run) -> Iterator[int]:
        yield from super().backward_loop(run)
        if run.binding.batch.T < self.window:
            return
        dh, da, slope = run.binding.arrays["dh"], run.binding.arrays["da"], 1 - run.binding.arrays["h"][1:] ** 2
        # All of it is linear: what came from a whole window ahead is found, and taken away.
        late = dh.copy()
        for _ in range(self.window):
            late = (late[1:] * slope[: len(late) - 1]) @ run.trace.weights["W_hh"]
        dh[: len(late)] -= late
        da[: len(late) - 1] -= late[1:] * slope[: len(late) - 1]


@SPECIMENS.add("one-entry-doubled", "entries rescaled", Where(("weight_hh_l0",), "sums over steps", steps="none"),
    needs=("many units",))  # fmt: skip
class OneEntryDoubled(WrongSums, RNN):
    """One of the entries of dW_hh is twice what it should be."""

    def _spoil(self, run: Run) -> None:
        run.sums["weight_hh"][0, 1] *= 2


@SPECIMENS.add("alternating-error", "entries rescaled", Where(("weight_hh_l0",), "sums over steps", steps="none"),
    needs=("many units",))  # fmt: skip
class AlternatingError(WrongSums, RNN):
    """The entries of dW_hh are in turn 10 % too large and 10 % too small."""

    def _spoil(self, run: Run) -> None:
        run.sums["weight_hh"].flat[0::2] *= 1.1
        run.sums["weight_hh"].flat[1::2] *= 0.9
