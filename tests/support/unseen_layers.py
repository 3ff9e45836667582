"""Thirty-five wrong backward passes by somebody who did not know what the checker looks for, nor the zoo.

Each is the smallest override of a layer, or of a cell of one's own; `truth` says what is wrong. x is (T, N, D) =
(7, 3, 4), H = 5. Names in `wrong` are those of a `BackwardResult`.
"""

import itertools
from dataclasses import replace

import numpy as np

from rnn_numpy import GRU, LSTM, RNN, Cell, LayerNormLSTM, PeepholeLSTM, Recurrent
from rnn_numpy.engine.cell import ExtraParameter
from rnn_numpy.layers import attention
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.layers.layer_norm import Bound, normalized, normalized_backward

T, N, D, H = 7, 3, 4, 5


class Spoiled:
    """A layer whose backward pass is right, and what it returns is spoiled by `spoil`, as a framework around would."""

    def backward(self, trace, doutput, dh_n=None, grads=None, *, drecords=None):
        result = super().backward(trace, doutput, dh_n, drecords=drecords)
        self.spoil(result, trace)
        if grads is not None:
            grads.flat += result.grads.flat
            result.grads = grads
        return result


class Twisted:
    """A layer whose cell has other backward formulas: `twist` maps it to the wrong one."""

    def with_parts(self, cell):
        return super().with_parts(self.twist(cell))


def with_backward(cell, old, new):
    """Return the cell with another backward formula in the part of its chain that has the formula `old`."""

    def swapped(parts):
        return tuple(replace(part, backward=new) if part.backward is old else part for part in parts)

    return replace(cell, before=swapped(cell.before), after=swapped(cell.after))


# ------------------------------------------------------------------------------------------------ LSTM


class LstmForgetOfStepBefore(LSTM):
    def backward_loop(self, run):
        dc, place = run.binding.arrays["dc"], run.binding
        for t in super().backward_loop(run):
            if t > 0:
                dc[place.before + t] = dc[place.after + t] * run.trace[t - 1].f  # right: run.trace[t].f
            yield t


class LstmProjectionLate(Spoiled, LSTM):
    def spoil(self, result, trace):
        steps = list(trace["l0"])
        late = sum(step.dh.T @ before.m for before, step in itertools.pairwise(steps))  # right: step.dh.T @ step.m
        result.grads["weight_hr_l0"][...] = late


class LstmRowsInForeignOrder(Spoiled, LSTM):
    def spoil(self, result, trace):
        dW = result.grads["weight_hh_l0"]
        i, f, g, o = np.split(dW.copy(), 4)
        dW[...] = np.concatenate([i, o, f, g])  # ONNX's order; right: i, f, g, o


def graves_backward(dh_t, f_t, dm_dc_t, W_hh, scratch_t, dc_t, da_t, da_o_t, da_i_f_g_t, dc_prev, dh_in):
    np.multiply(dh_t, dm_dc_t, out=scratch_t)
    dc_t += scratch_t
    da_o_t *= dh_t
    da_i_f_g_t *= dc_t
    da_t[...] = np.minimum(np.maximum(da_t, -0.05), 0.05)  # not a gradient any more
    np.multiply(dc_t, f_t, out=dc_prev)
    dh_in += W_hh.T.dot(da_t)


class LstmClippedInTime(Twisted, LSTM):
    def twist(self, cell):
        return replace(cell, step_backward=graves_backward)


def single_backward(dh_t, f_t, dm_dc_t, W_hh, scratch_t, dc_t, da_t, da_o_t, da_i_f_g_t, dc_prev, dh_in):
    np.multiply(dh_t, dm_dc_t, out=scratch_t)
    dc_t += scratch_t
    da_o_t *= dh_t
    da_i_f_g_t *= dc_t
    dc_prev[...] = (dc_t * f_t).astype(np.float32)  # right: without astype
    dh_in += W_hh.T.dot(da_t)


class LstmCellInSingle(Twisted, LSTM):
    def twist(self, cell):
        return replace(cell, step_backward=single_backward)


class LstmInitialRowsOrder(Spoiled, LSTM):
    def spoil(self, result, trace):
        order = [0, 2, 1, 3]  # all forward directions, then all reverse ones; right: 0, 1, 2, 3
        result.dh_0, result.dc_0 = result.dh_0[order], result.dc_0[order]


class LstmReverseNeighbour(Spoiled, LSTM):
    def spoil(self, result, trace):
        steps = list(trace["l0_reverse"])
        wrong = sum(
            step.da.T @ before.h for before, step in itertools.pairwise(steps)
        )  # right: h of t + 1, read before t
        result.grads["weight_hh_l0_reverse"][...] = wrong


class LstmFinalAtT(LSTM):
    def backward(self, trace, doutput, dh_n=None, grads=None, *, drecords=None):
        batch = trace.edge.batch
        if dh_n is not None and batch.lengths is not None:
            lengths = np.asarray(batch.lengths)
            lengths = lengths if batch.unsort is None else lengths[batch.unsort]
            whole = (lengths == lengths.max())[:, None]  # at T - 1 there is nothing of a shorter sequence
            dh_n = tuple(None if d is None else np.asarray(d) * whole for d in dh_n)
        return super().backward(trace, doutput, dh_n, grads, drecords=drecords)


class LstmZoneoutInverted(LSTM):
    def open_backward(self, run, doutput, dfinals):
        super().open_backward(run, doutput, dfinals)
        arrays = run.binding.arrays
        if "c_kept" in arrays:
            arrays["c_kept"] = 1 - arrays["c_kept"]


# ------------------------------------------------------------------------------------------------ RNN


def turned_backward(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t
    dh_in += da_t.dot(W_hh.T)  # right: W_hh


class RnnTurned(Twisted, RNN):
    def twist(self, cell):
        return replace(cell, step_backward=turned_backward)


class RnnTruncated(RNN):
    def backward_loop(self, run):
        dh, before = run.binding.arrays["dh"], run.binding.before
        from_loss = dh.copy()
        for t in super().backward_loop(run):
            if t in (3, 6):
                dh[before + t] = from_loss[before + t]  # chunks of three steps: what step t hands back is dropped
            yield t


class RnnDropoutUnscaled(RNN):
    def backward(self, trace, doutput, dh_n=None, grads=None, *, drecords=None):
        factors = trace.edge.factors
        if factors is not None:
            trace.edge.factors = [(factor != 0).astype(factor.dtype) for factor in factors]  # right: with 1 / (1 - p)
        try:
            return super().backward(trace, doutput, dh_n, grads, drecords=drecords)
        finally:
            trace.edge.factors = factors


class RnnRecurrentMaskForgotten(RNN):
    def open_backward(self, run, doutput, dfinals):
        super().open_backward(run, doutput, dfinals)
        arrays = run.binding.arrays
        if run.direction.layer == 1 and "recurrent_mask" in arrays:
            arrays["recurrent_mask"] = np.ones_like(arrays["recurrent_mask"])


class RnnBatchFirstReshaped(Spoiled, RNN):
    def spoil(self, result, trace):
        if result.dx.ndim == 3:
            result.dx = result.dx.swapaxes(0, 1).reshape(result.dx.shape)  # right: swapped back, not reshaped


class RnnBiasMean(Spoiled, RNN):
    def spoil(self, result, trace):
        for name, gradient in result.grads.items():
            if name.startswith("bias"):
                gradient /= trace.edge.batch.N  # right: the sum over the batch, as the weights have


class RnnOneDirectionDown(RNN):
    def close_backward(self, run):
        dx = super().close_backward(run)
        if run.direction.layer == 1 and run.direction.reverse:
            dx = np.zeros_like(dx)  # the lower layer hears of the forward direction alone
        return dx


class RnnBufferKept(RNN):
    buffer = None

    def backward(self, trace, doutput, dh_n=None, grads=None, *, drecords=None):
        result = super().backward(trace, doutput, dh_n, drecords=drecords)
        self.buffer = result.grads.flat.copy() if self.buffer is None else self.buffer + result.grads.flat
        if grads is not None:
            grads.flat += result.grads.flat
            result.grads = grads
        else:
            result.grads.flat[...] = self.buffer  # right: what this call has found
        return result


class RnnStaleWeights(RNN):
    first = None

    def open_backward(self, run, doutput, dfinals):
        super().open_backward(run, doutput, dfinals)
        constants = run.binding.constants
        if self.first is None:
            self.first = constants["W_hh"].copy()
        constants["W_hh"] = self.first  # right: that of the forward pass


class RnnInitialTooEarly(Spoiled, RNN):
    def spoil(self, result, trace):
        result.dh_0 = np.array(trace["l0"][0].dh).reshape(result.dh_0.shape)  # right: one step further back


# ------------------------------------------------------------------------------------------------ GRU


class GruOneBias(Spoiled, GRU):
    def spoil(self, result, trace):
        result.grads["bias_hh_l0"][...] = result.grads["bias_ih_l0"]  # right: the n block times r


def no_direct_way_backward(
    dh_t, r_t, z_t, W_hrz, W_hn, scratch_t, da_rz_t, da_r_t, da_z_t, da_n_t, dk_t, dh_prev, dh_in
):
    da_z_t *= dh_t
    np.multiply(dh_t, z_t, out=scratch_t)
    dh_prev += scratch_t
    da_n_t *= dh_t
    dk_t[...] = W_hn.T.dot(da_n_t)
    da_r_t *= dk_t
    # right: dh_in += dk_t * r_t
    dh_in += W_hrz.T.dot(da_rz_t)


class GruResetWayMissing(Twisted, GRU):
    def twist(self, cell):
        return replace(cell, step_backward=no_direct_way_backward)


class GruUpdateGateLate(Spoiled, GRU):
    def spoil(self, result, trace):
        for name in trace.layers:
            rows = result.grads[f"weight_hh_{name}"][self.hidden_size : 2 * self.hidden_size]
            rows[...] = sum(step.da_z.T @ step.h for step in trace[name])  # right: step.h_prev


class GruReverseUnaligned(GRU):
    def backward(self, trace, doutput, dh_n=None, grads=None, *, drecords=None):
        batch = trace.edge.batch
        if doutput is not None and batch.lengths is not None:
            lengths = np.asarray(batch.lengths)
            lengths = lengths if batch.unsort is None else lengths[batch.unsort]
            doutput = np.array(doutput)
            steps, reverse = len(doutput), slice(self.hidden_size, None)
            for n, length in enumerate(lengths):  # flipped in all of T, not in what the sequence has
                doutput[:length, n, reverse] = doutput[steps - length :, n, reverse].copy()
        return super().backward(trace, doutput, dh_n, grads, drecords=drecords)


# ------------------------------------------------------------------------------------------------ peepholes, layer norm


class PeepholeOutputWayMissing(Twisted, PeepholeLSTM):
    def twist(self, cell):
        return replace(cell, after=())  # right: dc_t += p_o * da_o


def exchanged_peepholes_backward(da_i_t, da_f_t, da_o_t, c_prev, c_t, p_i, p_f, dc_prev, dp_i, dp_f, dp_o):
    dc_prev += p_f * da_i_t  # right: p_i
    dc_prev += p_i * da_f_t  # right: p_f
    dp_i += (da_i_t * c_prev).sum(axis=1, keepdims=True)
    dp_f += (da_f_t * c_prev).sum(axis=1, keepdims=True)
    dp_o += (da_o_t * c_t).sum(axis=1, keepdims=True)


class PeepholesExchanged(Twisted, PeepholeLSTM):
    def twist(self, cell):
        part = replace(cell.before[0], backward=exchanged_peepholes_backward)
        return replace(cell, before=(part,))


def no_variance_backward(
    epsilon, dh_t, i_t, f_t, g_t, o_t, c_prev, c_t, tanh_k_t, u_t, v_t, W_hh, alpha_ih, alpha_hh, alpha_c, dk_t, dc_t,
    da_t, da_i_t, da_f_t, da_g_t, da_o_t, du_t, dv_t, dc_prev, dh_in, dalpha_ih, dalpha_hh, dalpha_c, dbeta_c,
):  # fmt: skip
    dk_t[...] = dh_t * o_t * (1 - tanh_k_t * tanh_k_t)
    da_o_t[...] = dh_t * tanh_k_t * o_t * (1 - o_t)
    y, s_c = normalized(c_t, epsilon)
    dc_t += normalized_backward(alpha_c * dk_t, y, s_c)
    dalpha_c += (dk_t * y).sum(axis=1, keepdims=True)
    dbeta_c += dk_t.sum(axis=1, keepdims=True)
    da_i_t[...] = dc_t * g_t * i_t * (1 - i_t)
    da_f_t[...] = dc_t * c_prev * f_t * (1 - f_t)
    da_g_t[...] = dc_t * i_t * (1 - g_t * g_t)
    dc_prev[...] = dc_t * f_t
    y, s_u = normalized(u_t, epsilon)
    dy = alpha_ih * da_t
    du_t[...] = (dy - dy.mean(axis=0)) / s_u  # right: less y * mean(y * dy)
    dalpha_ih += (da_t * y).sum(axis=1, keepdims=True)
    y, s_v = normalized(v_t, epsilon)
    dv_t[...] = normalized_backward(alpha_hh * da_t, y, s_v)
    dalpha_hh += (da_t * y).sum(axis=1, keepdims=True)
    dh_in += W_hh.T.dot(dv_t)


class NormVarianceMissing(Twisted, LayerNormLSTM):
    def twist(self, cell):
        return replace(cell, step_backward=Bound(no_variance_backward, self.epsilon))


def epsilon_outside_backward(
    epsilon, dh_t, i_t, f_t, g_t, o_t, c_prev, c_t, tanh_k_t, u_t, v_t, W_hh, alpha_ih, alpha_hh, alpha_c, dk_t, dc_t,
    da_t, da_i_t, da_f_t, da_g_t, da_o_t, du_t, dv_t, dc_prev, dh_in, dalpha_ih, dalpha_hh, dalpha_c, dbeta_c,
):  # fmt: skip
    dk_t[...] = dh_t * o_t * (1 - tanh_k_t * tanh_k_t)
    da_o_t[...] = dh_t * tanh_k_t * o_t * (1 - o_t)
    y, s_c = normalized(c_t, epsilon)
    dc_t += normalized_backward(alpha_c * dk_t, y, s_c)
    dalpha_c += (dk_t * y).sum(axis=1, keepdims=True)
    dbeta_c += dk_t.sum(axis=1, keepdims=True)
    da_i_t[...] = dc_t * g_t * i_t * (1 - i_t)
    da_f_t[...] = dc_t * c_prev * f_t * (1 - f_t)
    da_g_t[...] = dc_t * i_t * (1 - g_t * g_t)
    dc_prev[...] = dc_t * f_t
    y, s_u = normalized(u_t, epsilon)
    du_t[...] = normalized_backward(alpha_ih * da_t, y, s_u)
    dalpha_ih += (da_t * y).sum(axis=1, keepdims=True)
    y, s_v = normalized(v_t, epsilon)
    s_v = v_t.std(axis=0) + epsilon  # right: sqrt(variance + epsilon)
    dv_t[...] = normalized_backward(alpha_hh * da_t, y, s_v)
    dalpha_hh += (da_t * y).sum(axis=1, keepdims=True)
    dh_in += W_hh.T.dot(dv_t)


class NormEpsilonOutside(Twisted, LayerNormLSTM):
    def twist(self, cell):
        return replace(cell, step_backward=Bound(epsilon_outside_backward, self.epsilon))


# ------------------------------------------------------------------------------------------------ attention


class Around:
    """Attention with another backward formula in place of `old`."""

    old = new = None

    def with_parts(self, cell):
        kind = type(self)
        return with_backward(super().with_parts(cell), kind.__dict__["old"], kind.__dict__["new"])


def diagonal_softmax_backward(dcontext_t, alpha_t, values, dalpha_t, dscore_t):
    dalpha_t += np.einsum("nm,nsm->ns", dcontext_t, values)
    dscore_t[...] = alpha_t * (1 - alpha_t) * dalpha_t  # right: less alpha_s sum_r alpha_r dalpha_r, r other than s


class SoftmaxDiagonal(Around, AttentionLSTM):
    old, new = attention.weights_backward, diagonal_softmax_backward


def maskless_softmax_backward(dcontext_t, score_t, values, dalpha_t, dscore_t):
    dalpha_t += np.einsum("nm,nsm->ns", dcontext_t, values)
    alpha = np.exp(score_t - score_t.max(axis=1, keepdims=True))  # right: of the rows that exist
    alpha /= alpha.sum(axis=1, keepdims=True)
    dscore_t[...] = alpha * (dalpha_t - (alpha * dalpha_t).sum(axis=1, keepdims=True))


class SoftmaxMaskForgotten(Around, AttentionGRU):
    old, new = attention.weights_backward, maskless_softmax_backward


class MemoryAsValuesAlone(Spoiled, AttentionRNN):
    def spoil(self, result, trace):
        result.dgiven["values"] = result.given_ways["values"]["values"].copy()  # right: and as keys


def scaled_forward(query, keys, score_t):
    score_t[...] = np.einsum("nm,nsm->ns", query, keys) / np.sqrt(keys.shape[2])


def scaled_tangent(query, keys, vquery, vkeys, vscore_t):
    changes = np.einsum("nm,nsm->ns", vquery, keys) + np.einsum("nm,nsm->ns", query, vkeys)
    vscore_t[...] = changes / np.sqrt(keys.shape[2])


class ScaleForwardAlone(AttentionGRU):
    def with_parts(self, cell):
        cell = super().with_parts(cell)
        parts = [
            replace(
                part, forward=scaled_forward, tangent=scaled_tangent, equations=""
            )  # backward is the unscaled one's
            if part.forward is attention.product_forward
            else part
            for part in cell.before
        ]
        return replace(cell, before=tuple(parts))


def forgetful_cover_backward(dcov_t, dalpha_t, dcov_prev):
    dalpha_t += dcov_t
    dcov_prev += 0  # right: dcov_t


class CoverageForgotten(Around, AttentionRNN):
    old, new = attention.cover_backward, forgetful_cover_backward


class FiltersFlipped(Spoiled, AttentionLSTM):
    def spoil(self, result, trace):
        dF = result.grads["filters_l0"]
        dF[...] = dF[:, ::-1].copy()  # a convolution's gradient; forward correlates


# ------------------------------------------------------------------------------------------------ cells of my own


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def leaky_step_forward(a_t, h_prev, h_in, W_hh, leak, n_t, h_t):
    a_t += W_hh @ h_in
    n_t[...] = np.tanh(a_t)
    h_t[...] = h_prev + sigmoid(leak) * (n_t - h_prev)


def leaky_step_backward(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak):
    rate = sigmoid(leak)
    da_t[...] = dh_t * rate * (1 - n_t**2)
    dleak += (dh_t * (n_t - h_prev) * rate * (1 - rate)).sum(axis=1, keepdims=True)
    dh_prev += dh_t * (1 - rate)
    dh_in += W_hh.T @ da_t


def leaky_wrong_backward(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak):
    rate = sigmoid(leak)
    da_t[...] = dh_t * rate * (1 - n_t**2)
    dleak += (dh_t * (n_t - h_prev)).sum(axis=1, keepdims=True)  # right: times rate * (1 - rate)
    dh_prev += dh_t * (1 - rate)
    dh_in += W_hh.T @ da_t


class Leaky(Recurrent):
    cell = Cell(
        gate_names=("a",),
        states=("h",),
        step_forward=leaky_step_forward,
        step_backward=leaky_step_backward,
        records={"n": 1},
        parameters={"leak": ExtraParameter("leak", lambda layer: (layer.hidden_size,))},
    )


class LeakWithoutSigmoid(Leaky):
    cell = replace(Leaky.cell, step_backward=leaky_wrong_backward)


def coupled_step_forward(f_t, g_t, o_t, h_in, c_prev, W_hf, W_hg, W_ho, c_t, h_t):
    f_t[...] = sigmoid(f_t + W_hf @ h_in)
    g_t[...] = np.tanh(g_t + W_hg @ h_in)
    o_t[...] = sigmoid(o_t + W_ho @ h_in)
    c_t[...] = f_t * c_prev + (1 - f_t) * g_t
    h_t[...] = o_t * np.tanh(c_t)


def coupled_step_backward(dh_t, f_t, g_t, o_t, c_prev, c_t, W_hh, dc_t, da_t, da_f_t, da_g_t, da_o_t, dc_prev, dh_in):
    tanh_c = np.tanh(c_t)
    dc_t += dh_t * o_t * (1 - tanh_c**2)
    da_o_t[...] = dh_t * tanh_c * o_t * (1 - o_t)
    da_f_t[...] = dc_t * (c_prev - g_t) * f_t * (1 - f_t)
    da_g_t[...] = dc_t * (1 - f_t) * (1 - g_t**2)
    dc_prev[...] = dc_t * f_t
    dh_in += W_hh.T @ da_t


def coupled_wrong_backward(dh_t, f_t, g_t, o_t, c_prev, c_t, W_hh, dc_t, da_t, da_f_t, da_g_t, da_o_t, dc_prev, dh_in):
    tanh_c = np.tanh(c_t)
    dc_t += dh_t * o_t * (1 - tanh_c**2)
    da_o_t[...] = dh_t * tanh_c * o_t * (1 - o_t)
    da_f_t[...] = dc_t * (c_prev + g_t) * f_t * (1 - f_t)  # right: c_prev - g_t
    da_g_t[...] = dc_t * (1 - f_t) * (1 - g_t**2)
    dc_prev[...] = dc_t * f_t
    dh_in += W_hh.T @ da_t


class Coupled(Recurrent):
    cell = Cell(
        gate_names=("f", "g", "o"), states=("h", "c"), step_forward=coupled_step_forward,
        step_backward=coupled_step_backward,
    )  # fmt: skip


class CoupledSign(Coupled):
    cell = replace(Coupled.cell, step_backward=coupled_wrong_backward)


# ------------------------------------------------------------------------------------------------ the cases


def memory(*shape, seed=5):
    return np.random.default_rng(seed).normal(size=shape)


S = 6
EXISTS = np.array([[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4])
LENGTHS = [7, 4, 2]
W = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
CASES = []


def case(name, make, truth, wrong, **call):
    CASES.append({"name": name, "make": make, "truth": truth, "wrong": wrong, "call": call})


case(
    "lstm-forget-gate-of-step-before",
    lambda: LstmForgetOfStepBefore(D, H, rng=0),
    "dc handed from step t to t-1 is multiplied with the forget gate of step t-1, not of step t (LSTM, l0).",
    ["dx", "dh_0", "dc_0", *W],
)
case(
    "lstm-projection-late",
    lambda: LstmProjectionLate(D, H, proj_size=3, rng=0),
    "dW_hr multiplies dh_t with m of step t-1 instead of m_t: the projection's weight gradient alone is one step off.",
    ["weight_hr_l0"],
)
case(
    "lstm-rows-in-foreign-order",
    lambda: LstmRowsInForeignOrder(D, H, rng=0),
    "The rows of dW_hh come back in ONNX's gate order i, o, f, g instead of i, f, g, o: blocks f, g, o exchanged.",
    ["weight_hh_l0"],
)
case(
    "lstm-clipped-in-time",
    lambda: LstmClippedInTime(D, H, rng=0),
    "The gradients of all pre-activations are clipped to +-0.05 at each step, within the loop back (Graves).",
    ["dx", "dh_0", "dc_0", *W],
)
case(
    "lstm-cell-gradient-in-single",
    lambda: LstmCellInSingle(D, H, rng=0),
    "dc is rounded to float32 whenever it is handed from step t to t-1, in a float64 layer.",
    ["dx", "dh_0", "dc_0", *W],
)
case(
    "lstm-initial-rows-order",
    lambda: LstmInitialRowsOrder(D, H, num_layers=2, bidirectional=True, rng=0),
    "Rows of dh_0 and dc_0 are ordered l0, l1, l0_reverse, l1_reverse: rows l0_reverse and l1 are exchanged.",
    ["dh_0", "dc_0"],
)
case(
    "lstm-reverse-neighbour",
    lambda: LstmReverseNeighbour(D, H, bidirectional=True, rng=0),
    "dW_hh of the reverse direction multiplies da_t with h_{t-1}, not with h_{t+1}, which that direction has read.",
    ["weight_hh_l0_reverse"],
)
case(
    "lstm-final-gradient-at-T",
    lambda: LstmFinalAtT(D, H, rng=0),
    "dh_n and dc_n of sequences shorter than T are dropped: they enter at step T-1, not at each sequence's last step.",
    ["dx", "dh_0", "dc_0", *W],
    lengths=LENGTHS,
)
case(
    "lstm-zoneout-inverted",
    lambda: LstmZoneoutInverted(D, H, zoneout=(0.2, 0.4), rng=0),
    "Backward has k and 1-k of the zoneout mask of c exchanged (S2 and S3), h's mask is right.",
    ["dx", "dh_0", "dc_0", *W],
)
case(
    "rnn-recurrent-weights-turned",
    lambda: RnnTurned(D, H, rng=0),
    "W_hh is not transposed on the way from da_t to dh_{t-1}: dh_{t-1} += W_hh da_t.",
    ["dx", "dh_0", *W],
)
case(
    "rnn-truncated",
    lambda: RnnTruncated(D, H, rng=0),
    "Truncated BPTT: the gradient does not pass from step 3 to 2 nor from step 6 to 5 (chunks of three steps).",
    ["dx", "dh_0", *W],
)
case(
    "rnn-dropout-unscaled",
    lambda: RnnDropoutUnscaled(D, H, num_layers=2, dropout=0.4, rng=0),
    "The dropout mask between l1 and l0 is 0 or 1 in backward, without forward's factor 1/(1-p).",
    ["dx", "dh_0", *W],
)
case(
    "rnn-recurrent-mask-forgotten",
    lambda: RnnRecurrentMaskForgotten(D, H, num_layers=2, recurrent_dropout=0.4, rng=0),
    "In the second layer, l1, the recurrent dropout mask is not applied to dh_{t-1} on the way back.",
    ["dx", "dh_0", *W, "weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"],
)
case(
    "rnn-batch-first-reshaped",
    lambda: RnnBatchFirstReshaped(D, H, batch_first=True, rng=0),
    "dx of a batch_first layer is the time-major gradient reshaped to (N, T, D) in place of transposed.",
    ["dx"],
)
case(
    "rnn-bias-mean",
    lambda: RnnBiasMean(D, H, rng=0),
    "The gradients of both biases are divided by the batch size N: mean in place of sum.",
    ["bias_ih_l0", "bias_hh_l0"],
)
case(
    "rnn-one-direction-down",
    lambda: RnnOneDirectionDown(D, H, num_layers=2, bidirectional=True, rng=0),
    "What goes down from layer l1 to l0 is the forward direction's share alone; l1_reverse's share is not added.",
    ["dx", "dh_0", *W, "weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse"],
)
case(
    "rnn-buffer-kept",
    lambda: RnnBufferKept(D, H, rng=0),
    "The layer's own buffer of parameter gradients is not zeroed: the first call is right, each further one adds.",
    [*W],
)
case(
    "rnn-stale-weights",
    lambda: RnnStaleWeights(D, H, rng=0),
    "The way from da_t to dh_{t-1} uses W_hh of the first backward call for ever: wrong once the weights have changed.",
    ["dx", "dh_0", *W],
)
case(
    "rnn-initial-too-early",
    lambda: RnnInitialTooEarly(D, H, rng=0),
    "dh_0 is the gradient of the state after step 0, not of the initial state: the last step back is missing.",
    ["dh_0"],
)
case(
    "gru-one-bias",
    lambda: GruOneBias(D, H, rng=0),
    "db_hh is a copy of db_ih: in the n block the factor r (reset after the product) is missing.",
    ["bias_hh_l0"],
)
case(
    "gru-reset-way-missing",
    lambda: GruResetWayMissing(D, H, reset="before", rng=0),
    "Reset before: the term dk_t * r_t of dh_{t-1} is missing, the state's way through k_t = r_t * h_{t-1}.",
    ["dx", "dh_0", *W],
)
case(
    "gru-update-gate-late",
    lambda: GruUpdateGateLate(D, H, rng=0),
    "The z rows of dW_hh are da_z times h_t in place of h_{t-1}: one gate is one step off.",
    ["weight_hh_l0"],
)
case(
    "gru-reverse-unaligned",
    lambda: GruReverseUnaligned(D, H, bidirectional=True, rng=0),
    "With lengths, doutput of the reverse direction is flipped over all T steps and not over each sequence's length: "
    "shorter sequences read gradients of the padding.",
    ["dx", "dh_0", "weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse"],
    lengths=LENGTHS,
)
case(
    "peephole-output-way-missing",
    lambda: PeepholeOutputWayMissing(D, H, rng=0),
    "dc_t lacks p_o * da_o: the cell's way to the loss through the output gate's peephole.",
    ["dx", "dh_0", "dc_0", *W, "peephole_i_l0", "peephole_f_l0", "peephole_o_l0"],
)
case(
    "peepholes-exchanged",
    lambda: PeepholesExchanged(D, H, rng=0),
    "dc_{t-1} gets p_f * da_i + p_i * da_f: the peephole weights of gates i and f are exchanged on the way back.",
    ["dx", "dh_0", "dc_0", *W, "peephole_i_l0", "peephole_f_l0", "peephole_o_l0"],
)
case(
    "norm-variance-missing",
    lambda: NormVarianceMissing(D, H, rng=0),
    "The layer norm of W_ih x_t goes back without the variance's term y * mean(y * dy); the other two norms are right.",
    ["dx", "weight_ih_l0"],
)
case(
    "norm-epsilon-outside",
    lambda: NormEpsilonOutside(D, H, rng=0),
    "The layer norm of W_hh h_{t-1} goes back with std + epsilon in place of sqrt(variance + epsilon); enormous at "
    "step 0, where h is 0.",
    ["dx", "dh_0", "dc_0", *W, "gain_ih_l0", "gain_hh_l0", "gain_c_l0", "bias_c_l0"],
)
case(
    "softmax-diagonal",
    lambda: SoftmaxDiagonal(D, H, score="keys", memory_size=3, rng=0),
    "The softmax of the attention weights goes back by the diagonal of its Jacobian alone, alpha (1 - alpha).",
    ["dx", "dh_0", "dc_0", "dgiven['values']", "dgiven['keys']", *W, "weight_ch_l0"],
    given={"values": memory(S, N, 3), "keys": memory(S, N, H, seed=6)},
)
case(
    "softmax-mask-forgotten",
    lambda: SoftmaxMaskForgotten(D, H, rng=0),
    "Backward makes the attention weights again from the scores without the mask of rows that exist.",
    ["dx", "dh_0", "dgiven['values']", *W, "weight_ch_l0"],
    given={"values": memory(S, N, H), "exists": EXISTS},
)
case(
    "memory-as-values-alone",
    lambda: MemoryAsValuesAlone(D, H, rng=0),
    "Dot attention: the memory's gradient has its way as values only; its way as keys, through the scores, is missing.",
    ["dgiven['values']"],
    given={"values": memory(S, N, H)},
)
case(
    "score-scale-forward-alone",
    lambda: ScaleForwardAlone(D, H, rng=0),
    "Scores are divided by sqrt(H) in forward; backward lacks the factor, for the query and for the keys.",
    ["dx", "dh_0", "dgiven['values']", *W, "weight_ch_l0"],
    given={"values": memory(S, N, H)},
)
case(
    "coverage-forgotten",
    lambda: CoverageForgotten(D, H, score="additive", attention_size=4, coverage=True, rng=0),
    "The coverage's gradient is not handed on: dcov_{t-1} lacks dcov_t, so that weights hear of the next step's alone.",
    [
        "dx",
        "dh_0",
        "dcov_0",
        "dgiven['values']",
        "dgiven['keys']",
        *W,
        "weight_coverage_l0",
        "weight_query_l0",
        "v_l0",
        "weight_ch_l0",
    ],
    given={"values": memory(S, N, H), "keys": memory(S, N, 4, seed=6)},
)
case(
    "location-filters-flipped",
    lambda: FiltersFlipped(D, H, score="additive", attention_size=4, location=(2, 3), rng=0),
    "The gradient of the location filters is flipped along the window: convolution in place of correlation.",
    ["filters_l0"],
    given={"values": memory(S, N, H), "keys": memory(S, N, 4, seed=6)},
)
case(
    "leak-without-sigmoid",
    lambda: LeakWithoutSigmoid(D, H, rng=0),
    "Own leaky-integrator cell: the gradient of the leak parameter lacks the derivative of its sigmoid.",
    ["leak_l0"],
)
case(
    "coupled-gate-sign",
    lambda: CoupledSign(D, H, rng=0),
    "Own LSTM with i = 1 - f: da_f has c_{t-1} + g in place of c_{t-1} - g, a sign slip in the input gate's share.",
    ["dx", "dh_0", "dc_0", *W],
)
