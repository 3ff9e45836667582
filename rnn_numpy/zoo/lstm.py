"""Wrong backward passes of the LSTM. Its formulas work on columns: arrays of a step are (H, N).

Each class says in its docstring what is wrong; `SPECIMENS` says what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.engine.recurrent import Run
from rnn_numpy.layers.lstm import LSTM
from rnn_numpy.zoo.common import WrongFormulas, WrongSums, rows_of
from rnn_numpy.zoo.specimen import Specimen, Where, tensors

Array = NDArray[Any]

EVERYTHING = tensors("x", "states", "parameters", cell="lstm")
PARAMETERS = tensors("parameters")


class InputGateDerivativeMissing(WrongFormulas, LSTM):
    """da_i = dc_t * g_t."""

    @staticmethod
    def _after_step_partials(g_t: Array, da_i_t: Array) -> None:
        da_i_t[...] = g_t  # right: g_t * i_t * (1 - i_t)


class ForgetGateDerivativeMissing(WrongFormulas, LSTM):
    """da_f = dc_t * c_{t-1} * f_t."""

    @staticmethod
    def _after_step_partials(f_t: Array, c_prev: Array, da_f_t: Array) -> None:
        da_f_t[...] = c_prev * f_t  # right: c_prev * f_t * (1 - f_t)


class CandidateDerivativeMissing(WrongFormulas, LSTM):
    """da_g = dc_t * i_t."""

    @staticmethod
    def _after_step_partials(i_t: Array, da_g_t: Array) -> None:
        da_g_t[...] = i_t  # right: i_t * (1 - g_t^2)


class OutputGateDerivativeMissing(WrongFormulas, LSTM):
    """da_o = dh_t * tanh(c_t)."""

    @staticmethod
    def _after_step_partials(tanh_c_t: Array, da_o_t: Array) -> None:
        da_o_t[...] = tanh_c_t  # right: tanh_c_t * o_t * (1 - o_t)


class ForgetGateReadsTheNewCell(WrongFormulas, LSTM):
    """da_f with c_t in place of c_{t-1}."""

    @staticmethod
    def _after_step_partials(f_t: Array, c_t: Array, da_f_t: Array) -> None:
        da_f_t[...] = c_t * f_t * (1 - f_t)  # right: c_prev


class TanhOfCDerivativeFromC(WrongFormulas, LSTM):
    """1 - c_t^2 in B4."""

    @staticmethod
    def _after_step_partials(o_t: Array, c_t: Array, dm_dc_t: Array) -> None:
        dm_dc_t[...] = o_t * (1 - c_t * c_t)  # right: 1 - tanh_c_t^2


class NaiveForgetGateDerivative(WrongFormulas, LSTM):
    """f * (1 - f) written as f^2 * exp(-a_f), the exponential as (1 - f) / f: 0 * infinity where f is 0."""

    @staticmethod
    def _after_step_partials(f_t: Array, c_prev: Array, da_f_t: Array) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            da_f_t[...] = c_prev * f_t * f_t * ((1 - f_t) / f_t)


class HiddenPathMissing(WrongFormulas, LSTM):
    """dc_t without what comes through h_t = o_t * tanh(c_t)."""

    @staticmethod
    def _after_step_partials(dm_dc_t: Array) -> None:
        dm_dc_t[...] = 0  # right: o_t * (1 - tanh_c_t^2)


class CellPathMissing(WrongFormulas, LSTM):
    """dc_t is set to what comes through h_t, which drops what step t+1 handed back."""

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


class CellPathWithoutForgetGate(WrongFormulas, LSTM):
    """dc_{t-1} = dc_t: as if the cell kept everything."""

    @staticmethod
    def _after_step_backward(dc_t: Array, dc_prev: Array) -> None:
        dc_prev[...] = dc_t  # right: dc_t * f_t


class OutputGateFromCellGradient(WrongFormulas, LSTM):
    """da_o from dc_t, like its three neighbours."""

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


class InputAndForgetSwapped(WrongSums, LSTM):
    """The rows of i hold the gradient of f, and the reverse."""

    def _spoil(self, run: Run) -> None:
        i, f = rows_of("i", self), rows_of("f", self)
        for gradient in run.sums.values():
            gradient[i], gradient[f] = gradient[f].copy(), gradient[i].copy()


class BiasOfForgetGateCopied(WrongSums, LSTM):
    """The line for f, copied for i and o, and not changed."""

    def _spoil(self, run: Run) -> None:
        for bias in (run.sums["bias_ih"], run.sums["bias_hh"]):
            bias[rows_of("i", self)] = bias[rows_of("f", self)]
            bias[rows_of("o", self)] = bias[rows_of("f", self)]


class BiasDoubled(WrongSums, LSTM):
    """Both biases get the gradient of both."""

    def _spoil(self, run: Run) -> None:
        run.sums["bias_ih"][...] += run.sums["bias_hh"]
        run.sums["bias_hh"][...] = run.sums["bias_ih"]


class BiasHhIgnored(WrongSums, LSTM):
    """The second bias never gets a gradient."""

    def _spoil(self, run: Run) -> None:
        run.sums["bias_hh"][...] = 0


class BufferHoldsTheWeights(WrongSums, LSTM):
    """The gradients are added to a buffer that was cut from the parameters."""

    def _spoil(self, run: Run) -> None:
        for name, gradient in run.sums.items():
            gradient += self.params[f"{name}_{run.direction.name}"]


class GradientsNeverWritten(WrongSums, LSTM):
    """The gradient of the gates is allocated, and the parameters' sums are made from it before it is filled."""

    def _spoil(self, run: Run) -> None:
        for gradient in run.sums.values():
            gradient[...] = 0


class FirstStepSkipped(LSTM):
    """The loop ends before t = 0."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        steps = super().backward_loop(run)
        for _ in run.binding.order(True)[:-1]:  # right: all of them
            yield next(steps)
        run.binding.arrays["da"][0] = 0  # as it was allocated
        run.binding.arrays["dh"][0] = run.binding.arrays["dc"][0] = 0


class FinalCellGradientIgnored(LSTM):
    """dc_n is accepted and not used."""

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        dh_n, _ = dfinals
        super().open_backward(run, doutput, [dh_n, None])


def _partial(gate: str, steps: str = "all") -> Where:
    return Where(EVERYTHING, "immediate partial", gate, steps)


RECURRENCE = Where(EVERYTHING, "recurrence", steps="all but the last")

SPECIMENS = (
    Specimen(
        "input-gate-derivative-missing",
        InputGateDerivativeMissing,
        "the gradient passes the sigmoid of the input gate as if it were the identity",
        "gate derivative missing",
        _partial("i"),
    ),
    Specimen(
        "forget-gate-derivative-missing",
        ForgetGateDerivativeMissing,
        "the forget gate's gradient is multiplied by f, not by f (1 - f)",
        "gate derivative missing",
        _partial("f"),
        "RNN-LSTM-in-numpy issue 1: the argument that asks sigmoid() for its derivative is left out, for f alone",
        also=("wrong derivative",),
    ),
    Specimen(
        "candidate-derivative-missing",
        CandidateDerivativeMissing,
        "the gradient passes the tanh of the candidate as if it were the identity",
        "gate derivative missing",
        _partial("g"),
    ),
    Specimen(
        "output-gate-derivative-missing",
        OutputGateDerivativeMissing,
        "the gradient passes the sigmoid of the output gate as if it were the identity",
        "gate derivative missing",
        _partial("o"),
    ),
    Specimen(
        "forget-gate-reads-the-new-cell",
        ForgetGateReadsTheNewCell,
        "the forget gate's gradient has c_t, the result, where c_{t-1} was multiplied",
        "off by one step",
        _partial("f"),
        also=("wrong derivative",),
    ),
    Specimen(
        "tanh-of-c-derivative-from-c",
        TanhOfCDerivativeFromC,
        "the derivative of tanh(c_t) is written as 1 - c_t^2",
        "wrong derivative",
        Where(EVERYTHING, "immediate partial"),
    ),
    Specimen(
        "naive-forget-gate-derivative",
        NaiveForgetGateDerivative,
        "the sigmoid's derivative is written with a quotient that is infinite where a gate is shut",
        "not finite",
        _partial("f"),
        needs=("saturated gate",),
    ),
    Specimen(
        "hidden-path-missing",
        HiddenPathMissing,
        "the gradient of h_t does not reach c_t through the tanh: only the output gate learns from it",
        "hidden path missing",
        Where(EVERYTHING, "immediate partial"),
    ),
    Specimen(
        "cell-path-missing",
        CellPathMissing,
        "an = for a +=: what c_{t+1} hands back to c_t is erased by what comes through h_t",
        "cell path missing",
        Where(EVERYTHING, "recurrence"),
        "mxnet issue 4057: an LSTM in Python, dc = ... where dc += ... was meant",
        also=("overwritten, not added", "final-state gradient ignored"),
    ),
    Specimen(
        "cell-path-without-forget-gate",
        CellPathWithoutForgetGate,
        "the cell's gradient is handed back without the factor f_t",
        "wrong derivative",
        RECURRENCE,
    ),
    Specimen(
        "output-gate-from-cell-gradient",
        OutputGateFromCellGradient,
        "the output gate is given the gradient of c_t, as i, f and g are; h_t = o_t tanh(c_t) gives it dh_t",
        "wrong derivative",
        _partial("o"),
    ),
    Specimen(
        "input-and-forget-swapped",
        InputAndForgetSwapped,
        "gradients of the input gate stand in the rows of the forget gate, and the reverse",
        "gates swapped",
        Where(PARAMETERS, "sums over steps", steps="none"),
        "the orders i, f, g, o and f, i, g, o differ between libraries, and both forms of the weights look alike",
    ),
    Specimen(
        "bias-of-forget-gate-copied",
        BiasOfForgetGateCopied,
        "three biases, those of i, f and o, all get the gradient of f",
        "gates swapped",
        Where(tensors("bias_ih", "bias_hh"), "sums over steps", steps="none"),
        "learn_dl issue 53: a copied line",
    ),
    Specimen(
        "bias-doubled",
        BiasDoubled,
        "two biases that are added get the sum of both gradients, each",
        "bias doubled",
        Where(tensors("bias_ih", "bias_hh"), "sums over steps", steps="none"),
        also=("constant factor",),
    ),
    Specimen(
        "bias-hh-ignored",
        BiasHhIgnored,
        "the gradient of bias_hh is always zero",
        "bias ignored",
        Where(tensors("bias_hh"), "sums over steps", steps="none"),
        "thinc 9.1.1, LSTM.v1; mxnet issue 17818, in stacked layers",
        also=("never accumulated",),
    ),
    Specimen(
        "buffer-holds-the-weights",
        BufferHoldsTheWeights,
        "gradients are added to a copy of the parameters instead of to zeros",
        "starts as the weights",
        Where(PARAMETERS, "sums over steps", steps="none"),
        "thinc 9.1.1, LSTM.v1: the buffers of the gradients are cut from params",
    ),
    Specimen(
        "gradients-never-written",
        GradientsNeverWritten,
        "the gradients of all parameters are returned as the zeros they were allocated with",
        "never accumulated",
        Where(PARAMETERS, "sums over steps", steps="none"),
        "thinc 9.1.1, the backend in plain Python: dG is allocated and never written",
        also=("bias ignored",),
    ),
    Specimen(
        "first-step-skipped",
        FirstStepSkipped,
        "the loop back ends before t = 0: dx[0] and the initial states' gradients are zero",
        "first step skipped",
        Where(EVERYTHING, "loop", steps="first"),
        "thinc 9.1.1, LSTM.v1: a loop over indices[:-1]",
    ),
    Specimen(
        "final-cell-gradient-ignored",
        FinalCellGradientIgnored,
        "a loss that reads the final c has no gradient",
        "final-state gradient ignored",
        Where(EVERYTHING, "loss's entry"),
        "deeplearning4j issue 8838, lstmLayer_bp",
        needs=("dh_n",),
    ),
)
