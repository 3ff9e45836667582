"""Wrong backward passes of the LSTM. Its formulas work on columns: arrays of a step are (H, N).

Each class says in its docstring what is wrong, and above it what follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.recurrent import Run
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.zoo.common import WrongFormulas, WrongSums, rows_of
from rnn_numpy.zoo.specimen import Specimens, Where, tensors

Array = NDArray[Any]

SPECIMENS = Specimens()

EVERYTHING = tensors("x", "states", "parameters", cell="lstm")
PARAMETERS = tensors("parameters")


def _partial(gate: str, steps: str = "all") -> Where:
    return Where(EVERYTHING, "immediate partial", gate, steps)


RECURRENCE = Where(EVERYTHING, "recurrence", steps="all but the last")


@SPECIMENS.add("input-gate-derivative-missing", "gate derivative missing", _partial("i"))
class InputGateDerivativeMissing(WrongFormulas, LSTM):
    """The gradient passes the sigmoid of the input gate as if it were the identity."""

    @staticmethod
    def _after_step_partials(g_t: Array, da_i_t: Array) -> None:
        da_i_t[...] = g_t  # right: g_t * i_t * (1 - i_t)


@SPECIMENS.add("forget-gate-derivative-missing", "gate derivative missing", _partial("f"),
    "RNN-LSTM-in-numpy issue 1: the argument that asks sigmoid() for its derivative is left out, for f alone",
    also=("wrong derivative",))  # fmt: skip
class ForgetGateDerivativeMissing(WrongFormulas, LSTM):
    """The forget gate's gradient is multiplied by f, not by f (1 - f)."""

    @staticmethod
    def _after_step_partials(f_t: Array, c_prev: Array, da_f_t: Array) -> None:
        da_f_t[...] = c_prev * f_t  # right: c_prev * f_t * (1 - f_t)


@SPECIMENS.add("candidate-derivative-missing", "gate derivative missing", _partial("g"))
class CandidateDerivativeMissing(WrongFormulas, LSTM):
    """The gradient passes the tanh of the candidate as if it were the identity."""

    @staticmethod
    def _after_step_partials(i_t: Array, da_g_t: Array) -> None:
        da_g_t[...] = i_t  # right: i_t * (1 - g_t^2)


@SPECIMENS.add("output-gate-derivative-missing", "gate derivative missing", _partial("o"))
class OutputGateDerivativeMissing(WrongFormulas, LSTM):
    """The gradient passes the sigmoid of the output gate as if it were the identity."""

    @staticmethod
    def _after_step_partials(tanh_c_t: Array, da_o_t: Array) -> None:
        da_o_t[...] = tanh_c_t  # right: tanh_c_t * o_t * (1 - o_t)


@SPECIMENS.add("forget-gate-reads-the-new-cell", "off by one step", _partial("f"), also=("wrong derivative",))
class ForgetGateReadsTheNewCell(WrongFormulas, LSTM):
    """The forget gate's gradient has c_t, the result, where c_{t-1} was multiplied."""

    @staticmethod
    def _after_step_partials(f_t: Array, c_t: Array, da_f_t: Array) -> None:
        da_f_t[...] = c_t * f_t * (1 - f_t)  # right: c_prev


@SPECIMENS.add("tanh-of-c-derivative-from-c", "wrong derivative", Where(EVERYTHING, "immediate partial"))
class TanhOfCDerivativeFromC(WrongFormulas, LSTM):
    """The derivative of tanh(c_t) is written as 1 - c_t^2."""

    @staticmethod
    def _after_step_partials(o_t: Array, c_t: Array, dm_dc_t: Array) -> None:
        dm_dc_t[...] = o_t * (1 - c_t * c_t)  # right: 1 - tanh_c_t^2


@SPECIMENS.add("naive-forget-gate-derivative", "not finite", _partial("f"), needs=("saturated gate",))
class NaiveForgetGateDerivative(WrongFormulas, LSTM):
    """The sigmoid's derivative is written with a quotient that is infinite where a gate is shut."""

    @staticmethod
    def _after_step_partials(f_t: Array, c_prev: Array, da_f_t: Array) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            da_f_t[...] = c_prev * f_t * f_t * ((1 - f_t) / f_t)


@SPECIMENS.add("hidden-path-missing", "hidden path missing", Where(EVERYTHING, "immediate partial"))
class HiddenPathMissing(WrongFormulas, LSTM):
    """The gradient of h_t does not reach c_t through the tanh: only the output gate learns from it."""

    @staticmethod
    def _after_step_partials(dm_dc_t: Array) -> None:
        dm_dc_t[...] = 0  # right: o_t * (1 - tanh_c_t^2)


@SPECIMENS.add("cell-path-missing", "cell path missing", Where(EVERYTHING, "recurrence"),
    "mxnet issue 4057: an LSTM in Python, dc = ... where dc += ... was meant",
    also=("overwritten, not added", "final-state gradient ignored"))  # fmt: skip
class CellPathMissing(WrongFormulas, LSTM):
    """An = for a +=: what c_{t+1} hands back to c_t is erased by what comes through h_t."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, f_t: Array, dm_dc_t: Array, W_hh: Array, dc_t: Array, da_t: Array, da_o_t: Array, da_i_t: Array,
        da_f_t: Array, da_g_t: Array, dc_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        dc_t[...] = dh_t * dm_dc_t  # right: +=
        da_o_t *= dh_t
        da_i_t *= dc_t
        da_f_t *= dc_t
        da_g_t *= dc_t
        dc_prev[...] = dc_t * f_t
        dh_in += W_hh.T.dot(da_t)


@SPECIMENS.add("cell-path-without-forget-gate", "wrong derivative", RECURRENCE)
class CellPathWithoutForgetGate(WrongFormulas, LSTM):
    """The cell's gradient is handed back without the factor f_t."""

    @staticmethod
    def _after_step_backward(dc_t: Array, dc_prev: Array) -> None:
        dc_prev[...] = dc_t  # right: dc_t * f_t


@SPECIMENS.add("output-gate-from-cell-gradient", "wrong derivative", _partial("o"))
class OutputGateFromCellGradient(WrongFormulas, LSTM):
    """The output gate is given the gradient of c_t, as i, f and g are; h_t = o_t tanh(c_t) gives it dh_t."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, f_t: Array, dm_dc_t: Array, W_hh: Array, dc_t: Array, da_t: Array, da_o_t: Array, da_i_t: Array,
        da_f_t: Array, da_g_t: Array, dc_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        dc_t += dh_t * dm_dc_t
        da_o_t *= dc_t  # right: dh_t
        da_i_t *= dc_t
        da_f_t *= dc_t
        da_g_t *= dc_t
        dc_prev[...] = dc_t * f_t
        dh_in += W_hh.T.dot(da_t)


@SPECIMENS.add(
    "input-and-forget-swapped",
    "gates swapped",
    Where(PARAMETERS, "sums over steps", steps="none"),
    "the orders i, f, g, o and f, i, g, o differ between libraries, and both forms of the weights look alike",
)
class InputAndForgetSwapped(WrongSums, LSTM):
    """Gradients of the input gate stand in the rows of the forget gate, and the reverse."""

    def _spoil(self, run: Run) -> None:
        i, f = rows_of("i", self), rows_of("f", self)
        for gradient in run.sums.values():
            gradient[i], gradient[f] = gradient[f].copy(), gradient[i].copy()


@SPECIMENS.add("bias-of-forget-gate-copied", "gates swapped",
    Where(tensors("bias_ih", "bias_hh"), "sums over steps", steps="none"),
    "learn_dl issue 53: a copied line")  # fmt: skip
class BiasOfForgetGateCopied(WrongSums, LSTM):
    """Three biases, those of i, f and o, all get the gradient of f."""

    def _spoil(self, run: Run) -> None:
        for bias in (run.sums["bias_ih"], run.sums["bias_hh"]):
            bias[rows_of("i", self)] = bias[rows_of("f", self)]
            bias[rows_of("o", self)] = bias[rows_of("f", self)]


@SPECIMENS.add("bias-doubled", "bias doubled", Where(tensors("bias_ih", "bias_hh"), "sums over steps", steps="none"),
    also=("constant factor",))  # fmt: skip
class BiasDoubled(WrongSums, LSTM):
    """Two biases that are added get the sum of both gradients, each."""

    def _spoil(self, run: Run) -> None:
        run.sums["bias_ih"][...] += run.sums["bias_hh"]
        run.sums["bias_hh"][...] = run.sums["bias_ih"]


@SPECIMENS.add("bias-hh-ignored", "bias ignored", Where(tensors("bias_hh"), "sums over steps", steps="none"),
    "thinc 9.1.1, LSTM.v1; mxnet issue 17818, in stacked layers", also=("never accumulated",))  # fmt: skip
class BiasHhIgnored(WrongSums, LSTM):
    """The gradient of bias_hh is always zero."""

    def _spoil(self, run: Run) -> None:
        run.sums["bias_hh"][...] = 0


@SPECIMENS.add("buffer-holds-the-weights", "starts as the weights", Where(PARAMETERS, "sums over steps", steps="none"),
    "thinc 9.1.1, LSTM.v1: the buffers of the gradients are cut from params")  # fmt: skip
class BufferHoldsTheWeights(WrongSums, LSTM):
    """Gradients are added to a copy of the parameters instead of to zeros."""

    def _spoil(self, run: Run) -> None:
        for name, gradient in run.sums.items():
            gradient += self.params[f"{name}_{run.direction.name}"]


@SPECIMENS.add("gradients-never-written", "never accumulated", Where(PARAMETERS, "sums over steps", steps="none"),
    "thinc 9.1.1, the backend in plain Python: dG is allocated and never written", also=("bias ignored",))  # fmt: skip
class GradientsNeverWritten(WrongSums, LSTM):
    """The gradients of all parameters are returned as the zeros they were allocated with."""

    def _spoil(self, run: Run) -> None:
        for gradient in run.sums.values():
            gradient[...] = 0


@SPECIMENS.add("first-step-skipped", "first step skipped", Where(EVERYTHING, "loop", steps="first"),
    "thinc 9.1.1, LSTM.v1: a loop over indices[:-1]")  # fmt: skip
class FirstStepSkipped(LSTM):
    """The loop back ends before t = 0: dx[0] and the initial states' gradients are zero."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        steps = super().backward_loop(run)
        for _ in run.binding.order(True)[:-1]:  # right: all of them
            yield next(steps)
        run.binding.arrays["da"][0] = 0  # as it was allocated
        run.binding.arrays["dh"][0] = run.binding.arrays["dc"][0] = 0


@SPECIMENS.add("final-cell-gradient-ignored", "final-state gradient ignored", Where(EVERYTHING, "loss's entry"),
    "deeplearning4j issue 8838, lstmLayer_bp", needs=("dh_n",))  # fmt: skip
class FinalCellGradientIgnored(LSTM):
    """A loss that reads the final c has no gradient."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        dh_n, _ = dfinals
        super().open_backward(run, doutput, [dh_n, None])


@SPECIMENS.add("final-cell-gradient-twice", "accumulated twice", Where(EVERYTHING, "loss's entry"), needs=("dh_n",))
class FinalCellGradientTwice(LSTM):
    """The gradient of the final c is added twice."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        dh_n, dc_n = dfinals
        super().open_backward(run, doutput, [dh_n, None if dc_n is None else 2 * dc_n])  # right: dc_n


@SPECIMENS.add("gates-of-another-operation", "gates swapped", Where(EVERYTHING, "immediate partial"),
    "TensorFlow 2.21, BlockLSTMV2: backward reads the gates in the order of BlockLSTM")  # fmt: skip
class GatesOfAnotherOperation(WrongFormulas, LSTM):
    """Forward has the blocks i, f, g, o, backward those of an older operation, i, g, f, o."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, f_t: Array, dm_dc_t: Array, W_hh: Array, dc_t: Array, da_t: Array, da_o_t: Array, da_f_t: Array,
        da_g_t: Array, da_i_f_g_t: Array, dc_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        dc_t += dh_t * dm_dc_t
        da_o_t *= dh_t
        da_i_f_g_t *= dc_t
        dc_prev[...] = dc_t * f_t
        da_f_t[...], da_g_t[...] = da_g_t.copy(), da_f_t.copy()  # right: as they are
        dh_in += W_hh.T.dot(da_t)
