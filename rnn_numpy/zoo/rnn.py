"""Wrong backward passes of the RNN. Its formulas work on rows: arrays of a step are (N, H), W_hh^T da is da.dot(W_hh).

Each class says in its docstring what is wrong; `SPECIMENS` says what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.recurrent import Run
from rnn_numpy.layers.rnn import RNN
from rnn_numpy.zoo.common import WrongFormulas, WrongSums
from rnn_numpy.zoo.specimen import Specimen, Where, tensors

Array = NDArray[Any]

EVERYTHING = tensors("x", "states", "parameters")
RELU = {"nonlinearity": "relu"}


class RecurrenceTransposed(WrongFormulas, RNN):
    """W_hh in place of its transpose."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in += da_t.dot(W_hh.T)  # right: da_t.dot(W_hh)


class RecurrenceDropped(WrongFormulas, RNN):
    """Nothing is handed to the step before."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, da_t: Array) -> None:
        da_t *= dh_t  # right: then also dh_in += da_t.dot(W_hh)


class RecurrenceNegated(WrongFormulas, RNN):
    """The gradient that is handed on is subtracted."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in -= da_t.dot(W_hh)  # right: +=


class LossOverwritten(WrongFormulas, RNN):
    """The gradient from the future replaces that of the loss, which dh_in holds already."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in[...] = da_t.dot(W_hh)  # right: +=


class BatchAveraged(WrongFormulas, RNN):
    """The mean over the batch is handed to every sequence."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in += da_t.dot(W_hh).mean(axis=0)  # right: without the mean


class RecurrenceInSinglePrecision(WrongFormulas, RNN):
    """W_hh in float32, in a layer of float64."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t *= dh_t
        dh_in += da_t.dot(W_hh.real.astype(np.float32))  # right: W_hh


class TinyGradientsFlushed(WrongFormulas, RNN):
    """Entries below 1e-12 become zero."""

    @staticmethod
    def _after_step_backward(dh_in: Array) -> None:
        dh_in[np.abs(dh_in) < 1e-12] = 0


class TanhDerivativeMissing(WrongFormulas, RNN):
    """B2 without phi'(a_t)."""

    @staticmethod
    def _instead_of_step_partials(da_t: Array) -> None:
        da_t[...] = 1  # right: 1 - h_t^2


class TanhDerivativeFromA(WrongFormulas, RNN):
    """1 - a_t^2: the pre-activation where the activation belongs."""

    @staticmethod
    def _instead_of_step_partials(a_t: Array, da_t: Array) -> None:
        da_t[...] = 1 - a_t * a_t  # right: 1 - h_t * h_t


class TanhDerivativeKeptFromZero(WrongFormulas, RNN):
    """1e-7 is added, so that no unit is ever dead."""

    @staticmethod
    def _after_step_partials(da_t: Array) -> None:
        da_t += 1e-7


class TanhDerivativeOfTheStepBefore(WrongFormulas, RNN):
    """The slope of step t-1 at step t."""

    @staticmethod
    def _instead_of_step_partials(h_prev: Array, da_t: Array) -> None:
        da_t[...] = 1 - h_prev * h_prev  # right: 1 - h_t * h_t


class TanhDerivativeInTheMemoryOfH(WrongFormulas, RNN):
    """The square of h_t, an intermediate result, is written over h_t, which dW_hh and the caller still read."""

    @staticmethod
    def _instead_of_step_partials(h_t: Array, da_t: Array) -> None:
        h_t *= h_t
        np.subtract(1, h_t, out=da_t)


class ReluDerivativeAtZero(WrongFormulas, RNN):
    """h_t >= 0, which is always so, in place of h_t > 0."""

    @staticmethod
    def _instead_of_step_partials(h_t: Array, da_t: Array) -> None:
        da_t[...] = h_t.real >= 0  # right: > 0


class ReluOfTheGradient(WrongFormulas, RNN):
    """Negative gradients are cut, not gradients of units that were off."""

    @staticmethod
    def _instead_of_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
        da_t[...] = np.where(dh_t.real > 0, dh_t, 0)  # right: da_t, which holds [h_t > 0], times dh_t
        dh_in += da_t.dot(W_hh)


class StatesNotShifted(RNN):
    """dW_hh from h_t in place of h_{t-1}."""

    def close_backward(self, run: Run) -> Array:
        dx = super().close_backward(run)
        da, h_t = run.binding.batch.flat(run.binding.arrays["da"]), run.binding.batch.flat(run.binding.arrays["h"][1:])
        run.sums["weight_hh"][...] = da.T.dot(h_t)  # right: run.binding.arrays["h"][:-1]
        return dx


class LastStepSkipped(RNN):
    """The loop begins at t = T - 2."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        run.binding.arrays["dh"][-1] = 0  # so that the step t = T - 1 does nothing
        yield from super().backward_loop(run)


class JacobiansInForwardOrder(RNN):
    """dh_k sums J_t^T ... J_{k+1}^T delta_t: the product in the order in which the steps ran forward."""

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


class TruncatedWindow(RNN):
    """Each loss is followed back for ten steps and no further."""

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


class OneEntryDoubled(WrongSums, RNN):
    """One entry of dW_hh counts twice."""

    def _spoil(self, run: Run) -> None:
        run.sums["weight_hh"][0, 1] *= 2


class AlternatingError(WrongSums, RNN):
    """Entries of dW_hh are 10 % too large and 10 % too small, in turn."""

    def _spoil(self, run: Run) -> None:
        run.sums["weight_hh"].flat[0::2] *= 1.1
        run.sums["weight_hh"].flat[1::2] *= 0.9


RECURRENCE = Where(EVERYTHING, "recurrence", steps="all but the last")
PARTIAL = Where(EVERYTHING, "immediate partial", "a")

SPECIMENS = (
    Specimen(
        "recurrence-transposed",
        RecurrenceTransposed,
        "the gradient is handed back through W_hh instead of its transpose",
        "transposed",
        RECURRENCE,
    ),
    Specimen(
        "recurrence-dropped",
        RecurrenceDropped,
        "no step hands a gradient to the one before: every step is trained alone",
        "recurrence dropped",
        RECURRENCE,
        "RNN-LSTM-in-numpy issue 1: dh_next and dc_next are computed and never used",
        also=("hidden path missing",),
    ),
    Specimen("recurrence-negated", RecurrenceNegated, "what comes from step t+1 is subtracted", "sign", RECURRENCE),
    Specimen(
        "loss-overwritten",
        LossOverwritten,
        "an = for a +=: the gradient from the future erases what the loss adds at the step",
        "overwritten, not added",
        RECURRENCE,
        "right for one step, wrong for two, as Element-Research/rnn issue 31 tells of an LSTM",
        needs=("T > 1",),
        also=("only the last step's loss",),
    ),
    Specimen(
        "batch-averaged",
        BatchAveraged,
        "the mean over the batch is handed back to each sequence",
        "batch mixed",
        RECURRENCE,
        needs=("N > 1",),
    ),
    Specimen(
        "recurrence-in-single-precision",
        RecurrenceInSinglePrecision,
        "the gradient is handed back through weights of single precision",
        "lower precision",
        RECURRENCE,
    ),
    Specimen(
        "tiny-gradients-flushed",
        TinyGradientsFlushed,
        "a gradient below 1e-12 counts as none, however small all others are",
        "small gradients flushed",
        Where(("x", "h_0"), "recurrence", steps="early"),
        needs=("contracting weights", "last loss alone"),
    ),
    Specimen(
        "tanh-derivative-missing",
        TanhDerivativeMissing,
        "the gradient passes the tanh as if it were the identity",
        "gate derivative missing",
        PARTIAL,
        "plots in several scripts on vanishing gradients, which multiply by W_hh^T alone",
    ),
    Specimen(
        "tanh-derivative-from-a",
        TanhDerivativeFromA,
        "tanh' is written as 1 - a^2, with the pre-activation, instead of 1 - h^2",
        "wrong derivative",
        PARTIAL,
    ),
    Specimen(
        "tanh-slope-kept-from-zero",
        TanhDerivativeKeptFromZero,
        "a small number is added to tanh', so that saturated units go on learning: what they get is no gradient",
        "wrong derivative",
        PARTIAL,
    ),
    Specimen(
        "tanh-slope-of-the-step-before",
        TanhDerivativeOfTheStepBefore,
        "tanh' of step t is taken at h_{t-1}",
        "wrong derivative",
        PARTIAL,
        "learn_dl issue 29: the state of the neighbouring step, there of the later one",
        also=("off by one step",),
    ),
    Specimen(
        "tanh-slope-in-the-memory-of-h",
        TanhDerivativeInTheMemoryOfH,
        "h_t^2, on the way to 1 - h_t^2, is stored in h_t, and dW_hh then reads the squares",
        "input modified",
        Where(("weight_hh_l0",), "sums over steps", "a", "none"),
        needs=("T > 1",),
        also=("wrong derivative",),
    ),
    Specimen(
        "relu-derivative-at-zero",
        ReluDerivativeAtZero,
        "relu' is read off h as h >= 0, which holds of every unit, on or off",
        "gate derivative missing",
        PARTIAL,
        options=RELU,
        also=("wrong derivative",),
    ),
    Specimen(
        "relu-of-the-gradient",
        ReluOfTheGradient,
        "relu is applied to the gradient instead of its derivative",
        "wrong derivative",
        PARTIAL,
        "done on purpose in the deconvolutional networks of Zeiler and Fergus (2014), to draw pictures",
        options=RELU,
    ),
    Specimen(
        "states-not-shifted",
        StatesNotShifted,
        "dW_hh is summed with h_t where the product was with h_{t-1}",
        "off by one step",
        Where(("weight_hh_l0",), "sums over steps", "a", "none"),
    ),
    Specimen(
        "last-step-skipped",
        LastStepSkipped,
        "the loop back begins one step too early, so the last step has no gradient, and hands none on",
        "last step skipped",
        Where(EVERYTHING, "loop"),
    ),
    Specimen(
        "jacobians-in-forward-order",
        JacobiansInForwardOrder,
        "the Jacobians of the steps are multiplied from the first to the last; they do not commute",
        "order of Jacobians",
        Where(EVERYTHING, "recurrence", steps="early"),
        "axon pull request 646: all layers, in the default way of unrolling; one gradient was four times too large",
    ),
    Specimen(
        "truncated-window",
        TruncatedWindow,
        "a loss is followed back for ten steps alone; where W_hh contracts, that is an error of 1e-9 or less",
        "recurrence dropped",
        Where(EVERYTHING, "recurrence", steps="early"),
        "WildML's RNN: it stops after four steps, and its gradient check must first switch that off",
        needs=("contracting weights",),
    ),
    Specimen(
        "one-entry-doubled",
        OneEntryDoubled,
        "one of the entries of dW_hh is twice what it should be",
        "entries rescaled",
        Where(("weight_hh_l0",), "sums over steps", steps="none"),
        needs=("many units",),
    ),
    Specimen(
        "alternating-error",
        AlternatingError,
        "the entries of dW_hh are in turn 10 % too large and 10 % too small",
        "entries rescaled",
        Where(("weight_hh_l0",), "sums over steps", steps="none"),
        needs=("many units",),
    ),
)
