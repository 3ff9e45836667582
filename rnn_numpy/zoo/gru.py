"""Wrong backward passes of the GRU, in torch's form, which resets after the product, but for one.

Its formulas work on columns: arrays of a step are (H, N). Each class says in its docstring what is wrong; `SPECIMENS`
says what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from rnn_numpy.engine.recurrent import Run
from rnn_numpy.layers.gru import GRU
from rnn_numpy.zoo.common import WrongFormulas, WrongSums, rows_of
from rnn_numpy.zoo.specimen import Specimen, Where, tensors

Array = NDArray[Any]

EVERYTHING = tensors("x", "states", "parameters")
PARAMETERS = tensors("parameters")


class ResetGateDerivativeMissing(WrongFormulas, GRU):
    """da_r = da_n * q_t."""

    @staticmethod
    def _after_step_partials(q_t: Array, da_r_t: Array) -> None:
        da_r_t[...] = q_t  # right: q_t * r_t * (1 - r_t)


class UpdateGateDerivativeMissing(WrongFormulas, GRU):
    """da_z = dh_t * (h_{t-1} - n_t)."""

    @staticmethod
    def _after_step_partials(h_prev: Array, n_t: Array, da_z_t: Array) -> None:
        da_z_t[...] = h_prev - n_t  # right: (h_prev - n_t) * z_t * (1 - z_t)


class CandidateDerivativeMissing(WrongFormulas, GRU):
    """da_n = dh_t * (1 - z_t)."""

    @staticmethod
    def _after_step_partials(z_t: Array, da_n_t: Array) -> None:
        da_n_t[...] = 1 - z_t  # right: (1 - z_t) * (1 - n_t^2)


class ResetGateForgotten(WrongFormulas, GRU):
    """da_r = 0: the candidate's gradient goes to W_hn alone."""

    @staticmethod
    def _after_step_partials(da_r_t: Array) -> None:
        da_r_t[...] = 0


class UpdateGateNegated(WrongFormulas, GRU):
    """da_z of h_t = z_t * n_t + (1 - z_t) * h_{t-1}, the other convention."""

    @staticmethod
    def _after_step_partials(da_z_t: Array) -> None:
        da_z_t *= -1


class LeakMissing(WrongFormulas, GRU):
    """dh_{t-1} without dh_t * z_t."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, r_t: Array, W_hh: Array, da_qrz_t: Array, da_q_t: Array, da_r_t: Array, da_z_t: Array,
        da_n_t: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        da_z_t *= dh_t  # right: then also dh_prev += dh_t * z_t
        da_n_t *= dh_t
        da_q_t[...] = da_n_t * r_t
        da_r_t *= da_n_t
        dh_in += W_hh.T.dot(da_qrz_t)


class LeakOverwritten(WrongFormulas, GRU):
    """dh_{t-1} is set to its last term."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, r_t: Array, z_t: Array, W_hh: Array, da_qrz_t: Array, da_q_t: Array, da_r_t: Array, da_z_t: Array,
        da_n_t: Array, dh_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        da_z_t *= dh_t
        dh_prev += dh_t * z_t
        da_n_t *= dh_t
        da_q_t[...] = da_n_t * r_t
        da_r_t *= da_n_t
        dh_in[...] = W_hh.T.dot(da_qrz_t)  # right: +=


class ResetOnTheWrongSide(WrongFormulas, GRU):
    """dh_{t-1} gets r_t * W_hn^T da_n, the term of the form that resets before the product."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, r_t: Array, z_t: Array, W_hq: Array, W_hrz: Array, da_rz_t: Array, da_q_t: Array, da_r_t: Array,
        da_z_t: Array, da_n_t: Array, dh_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        da_z_t *= dh_t
        dh_prev += dh_t * z_t
        da_n_t *= dh_t
        da_q_t[...] = da_n_t * r_t
        da_r_t *= da_n_t
        dh_in += r_t * W_hq.T.dot(da_n_t)  # right: W_hq.T.dot(da_n_t * r_t)
        dh_in += W_hrz.T.dot(da_rz_t)


class ResetForgottenOnTheWayBack(WrongFormulas, GRU):
    """The form that resets before the product: dh_{t-1} gets dk_t, not dk_t * r_t."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, z_t: Array, W_hrz: Array, W_hn: Array, da_rz_t: Array, da_r_t: Array, da_z_t: Array,
        da_n_t: Array, dk_t: Array, dh_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        da_z_t *= dh_t
        dh_prev += dh_t * z_t
        da_n_t *= dh_t
        dk_t[...] = W_hn.T.dot(da_n_t)
        da_r_t *= dk_t
        dh_in += dk_t  # right: dk_t * r_t
        dh_in += W_hrz.T.dot(da_rz_t)


class ResetGateFromStateGradient(WrongFormulas, GRU):
    """da_r from dh_t in place of da_n."""

    @staticmethod
    def _instead_of_step_backward(
        dh_t: Array, r_t: Array, z_t: Array, W_hh: Array, da_qrz_t: Array, da_q_t: Array, da_r_t: Array, da_z_t: Array,
        da_n_t: Array, dh_prev: Array, dh_in: Array,
    ) -> None:  # fmt: skip
        da_z_t *= dh_t
        dh_prev += dh_t * z_t
        da_n_t *= dh_t
        da_q_t[...] = da_n_t * r_t
        da_r_t *= dh_t  # right: da_n_t
        dh_in += W_hh.T.dot(da_qrz_t)


class HiddenBiasWithoutReset(WrongSums, GRU):
    """db_hn = sum da_n: one bias gradient for both sides, which holds for every block but this one."""

    def _spoil(self, run: Run) -> None:
        run.sums["bias_hh"][...] = run.sums["bias_ih"]  # right: of the block n, sum of da_n * r


class ResetAndUpdateSwapped(WrongSums, GRU):
    """The rows of r hold the gradient of z, and the reverse."""

    def _spoil(self, run: Run) -> None:
        r, z = rows_of("r", self), rows_of("z", self)
        for gradient in run.sums.values():
            gradient[r], gradient[z] = gradient[z].copy(), gradient[r].copy()


class TwiceTheGradient(GRU):
    """Everything is twice what it should be."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        run.binding.arrays["dh"][...] *= 2  # what the loss adds, before the first step
        yield from super().backward_loop(run)


def _partial(gate: str) -> Where:
    return Where(EVERYTHING, "immediate partial", gate)


RECURRENCE = Where(EVERYTHING, "recurrence", steps="all but the last")

SPECIMENS = (
    Specimen(
        "reset-gate-derivative-missing",
        ResetGateDerivativeMissing,
        "the gradient passes the sigmoid of the reset gate as if it were the identity",
        "gate derivative missing",
        _partial("r"),
    ),
    Specimen(
        "update-gate-derivative-missing",
        UpdateGateDerivativeMissing,
        "the gradient passes the sigmoid of the update gate as if it were the identity",
        "gate derivative missing",
        _partial("z"),
    ),
    Specimen(
        "new-gate-derivative-missing",
        CandidateDerivativeMissing,
        "the gradient passes the tanh of the candidate as if it were the identity",
        "gate derivative missing",
        Where(EVERYTHING, "immediate partial"),
    ),
    Specimen(
        "reset-gate-forgotten",
        ResetGateForgotten,
        "nothing flows back through the reset gate, as if it were a constant",
        "gate path missing",
        _partial("r"),
    ),
    Specimen(
        "update-gate-negated",
        UpdateGateNegated,
        "the update gate's gradient has the sign of the convention with z and 1 - z exchanged",
        "sign",
        _partial("z"),
        "papers and libraries use both conventions (Cho et al. 2014, torch): a line copied from the other one",
    ),
    Specimen(
        "leak-missing",
        LeakMissing,
        "the direct way from h_t to h_{t-1}, with the factor z_t, is left out",
        "hidden path missing",
        RECURRENCE,
    ),
    Specimen(
        "leak-overwritten",
        LeakOverwritten,
        "an = for a +=: the last term of dh_{t-1} erases the leak, and what the loss adds",
        "overwritten, not added",
        RECURRENCE,
    ),
    Specimen(
        "reset-on-the-wrong-side",
        ResetOnTheWrongSide,
        "backward takes r_t out of the product with W_hn; forward has it outside, on the other side",
        "reset on the wrong side",
        RECURRENCE,
        "Keras, ONNX and torch differ in the form; both pass for a GRU (keras issue 8720, pytorch pull request 100646)",
    ),
    Specimen(
        "reset-forgotten-on-way-back",
        ResetForgottenOnTheWayBack,
        "the gradient of r_t * h_{t-1} reaches h_{t-1} without the factor r_t",
        "hidden path missing",
        RECURRENCE,
        options={"reset": "before"},
        also=("wrong derivative", "reset on the wrong side"),
    ),
    Specimen(
        "reset-gate-from-state-gradient",
        ResetGateFromStateGradient,
        "the reset gate is given the gradient of h_t, not that of the candidate, on which it acts",
        "wrong derivative",
        _partial("r"),
    ),
    Specimen(
        "hidden-bias-without-reset",
        HiddenBiasWithoutReset,
        "b_hn, on which the reset gate acts, gets the gradient of b_in, on which it does not",
        "wrong derivative",
        Where(tensors("bias_hh"), "sums over steps", "n", "none"),
        "one bias in place of two, as in Keras with reset_after=False",
        also=("reset on the wrong side",),
    ),
    Specimen(
        "reset-and-update-swapped",
        ResetAndUpdateSwapped,
        "gradients of the reset gate stand in the rows of the update gate, and the reverse",
        "gates swapped",
        Where(PARAMETERS, "sums over steps", steps="none"),
        "Keras has z, r, n where torch has r, z, n (keras issue 15915)",
    ),
    Specimen(
        "twice-the-gradient",
        TwiceTheGradient,
        "all gradients are twice what they should be",
        "constant factor",
        Where(EVERYTHING, "loss's entry"),
        "the 2 of a squared error without its half",
        also=("missing 1/N",),  # of two sequences
    ),
)
