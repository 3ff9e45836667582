"""Wrong backward passes of the GRU, in torch's form, which resets after the product, but for one.

Its formulas work on columns: arrays of a step are (H, N). Each class says in its docstring what is wrong,
and above it what follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from rnn_numpy.engine.recurrent import Run
from rnn_numpy.layers.gru import GRU
from rnn_numpy.zoo.common import WrongFormulas, WrongSums, rows_of
from rnn_numpy.zoo.specimen import Specimens, Where, tensors

Array = NDArray[Any]

SPECIMENS = Specimens()

EVERYTHING = tensors("x", "states", "parameters")
PARAMETERS = tensors("parameters")


def _partial(gate: str) -> Where:
    return Where(EVERYTHING, "immediate partial", gate)


RECURRENCE = Where(EVERYTHING, "recurrence", steps="all but the last")


@SPECIMENS.add("reset-gate-derivative-missing", "gate derivative missing", _partial("r"))
class ResetGateDerivativeMissing(WrongFormulas, GRU):
    """The gradient passes the sigmoid of the reset gate as if it were the identity."""

    @staticmethod
    def _after_step_partials(q_t: Array, da_r_t: Array) -> None:
        da_r_t[...] = q_t  # right: q_t * r_t * (1 - r_t)


@SPECIMENS.add("update-gate-derivative-missing", "gate derivative missing", _partial("z"))
class UpdateGateDerivativeMissing(WrongFormulas, GRU):
    """The gradient passes the sigmoid of the update gate as if it were the identity."""

    @staticmethod
    def _after_step_partials(h_prev: Array, n_t: Array, da_z_t: Array) -> None:
        da_z_t[...] = h_prev - n_t  # right: (h_prev - n_t) * z_t * (1 - z_t)


@SPECIMENS.add("new-gate-derivative-missing", "gate derivative missing", Where(EVERYTHING, "immediate partial"))
class CandidateDerivativeMissing(WrongFormulas, GRU):
    """The gradient passes the tanh of the candidate as if it were the identity."""

    @staticmethod
    def _after_step_partials(z_t: Array, da_n_t: Array) -> None:
        da_n_t[...] = 1 - z_t  # right: (1 - z_t) * (1 - n_t^2)


@SPECIMENS.add("reset-gate-forgotten", "gate path missing", _partial("r"))
class ResetGateForgotten(WrongFormulas, GRU):
    """Nothing flows back through the reset gate, as if it were a constant."""

    @staticmethod
    def _after_step_partials(da_r_t: Array) -> None:
        da_r_t[...] = 0


@SPECIMENS.add("update-gate-negated", "sign", _partial("z"),
    "papers and libraries use both conventions (Cho et al. 2014, torch): a line copied from the other one")  # fmt: skip
class UpdateGateNegated(WrongFormulas, GRU):
    """The update gate's gradient has the sign of the convention with z and 1 - z exchanged."""

    @staticmethod
    def _after_step_partials(da_z_t: Array) -> None:
        da_z_t *= -1


@SPECIMENS.add("leak-missing", "hidden path missing", RECURRENCE)
class LeakMissing(WrongFormulas, GRU):
    """The direct way from h_t to h_{t-1}, with the factor z_t, is left out."""

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


@SPECIMENS.add("leak-overwritten", "overwritten, not added", RECURRENCE)
class LeakOverwritten(WrongFormulas, GRU):
    """An = for a +=: the last term of dh_{t-1} erases the leak, and what the loss adds."""

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


@SPECIMENS.add(
    "reset-on-the-wrong-side",
    "reset on the wrong side",
    RECURRENCE,
    "Keras, ONNX and torch differ in the form; both pass for a GRU (keras issue 8720, pytorch pull request 100646)",
)
class ResetOnTheWrongSide(WrongFormulas, GRU):
    """Backward takes r_t out of the product with W_hn; forward has it outside, on the other side."""

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


@SPECIMENS.add("reset-forgotten-on-way-back", "hidden path missing", RECURRENCE, options={"reset": "before"},
    also=("wrong derivative", "reset on the wrong side"))  # fmt: skip
class ResetForgottenOnTheWayBack(WrongFormulas, GRU):
    """The gradient of r_t * h_{t-1} reaches h_{t-1} without the factor r_t."""

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


@SPECIMENS.add("reset-gate-from-state-gradient", "wrong derivative", _partial("r"))
class ResetGateFromStateGradient(WrongFormulas, GRU):
    """The reset gate is given the gradient of h_t, not that of the candidate, on which it acts."""

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


@SPECIMENS.add("hidden-bias-without-reset", "wrong derivative",
    Where(tensors("bias_hh"), "sums over steps", "n", "none"),
    "one bias in place of two, as in Keras with reset_after=False", also=("reset on the wrong side",))  # fmt: skip
class HiddenBiasWithoutReset(WrongSums, GRU):
    """b_hn, on which the reset gate acts, gets the gradient of b_in, on which it does not."""

    def _spoil(self, run: Run) -> None:
        run.sums["bias_hh"][...] = run.sums["bias_ih"]  # right: of the block n, sum of da_n * r


@SPECIMENS.add("reset-and-update-swapped", "gates swapped", Where(PARAMETERS, "sums over steps", steps="none"),
    "Keras has z, r, n where torch has r, z, n (keras issue 15915)")  # fmt: skip
class ResetAndUpdateSwapped(WrongSums, GRU):
    """Gradients of the reset gate stand in the rows of the update gate, and the reverse."""

    def _spoil(self, run: Run) -> None:
        r, z = rows_of("r", self), rows_of("z", self)
        for gradient in run.sums.values():
            gradient[r], gradient[z] = gradient[z].copy(), gradient[r].copy()


@SPECIMENS.add("twice-the-gradient", "constant factor", Where(EVERYTHING, "loss's entry"),
    "the 2 of a squared error without its half", also=("missing 1/N",))  # fmt: skip
class TwiceTheGradient(GRU):
    """All gradients are twice what they should be."""

    def backward_loop(self, run: Run) -> Iterator[int]:
        run.binding.arrays["dh"][...] *= 2  # what the loss adds, before the first step
        yield from super().backward_loop(run)
