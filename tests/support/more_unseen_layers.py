"""Twenty-four more wrong backward passes of layers, of kinds that had been thought of before any was tried.

Their author knew the list of what the checker names, and not how it finds it. Each is the smallest override, as in
unseen_layers.py, whose sizes these have; `said` is what a diagnosis may say to be right, as a regular expression that
was written down before it was seen.
"""

import itertools
from dataclasses import replace

import numpy as np
from unseen_layers import Around, D, H, Leaky, N, S, Spoiled, Twisted, memory, sigmoid

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.layers import attention
from rnn_numpy.layers.attention import AttentionGRU, AttentionRNN

CASES = []


def case(name, make, truth, said, **call):
    CASES.append({"name": name, "make": make, "truth": truth, "said": said, "call": call})


def with_formula(kind, formula):
    """Return the kind of layer with another backward formula of its step."""
    return type(f"My{kind.__name__}", (Twisted, kind), {"twist": lambda _, cell: replace(cell, step_backward=formula)})


def with_spoilt(kind, change):
    """Return the kind of layer of whose results something is changed."""
    return type(f"My{kind.__name__}", (Spoiled, kind), {"spoil": lambda _, result, trace: change(result, trace)})


# ------------------------------------------------------------------------------------------------ LSTM


def o_with_c(dh_t, f_t, o_t, c_t, dm_dc_t, W_hh, dc_t, da_t, da_o_t, da_i_f_g_t, dc_prev, dh_in):
    dc_t += dh_t * dm_dc_t
    da_o_t[...] = dh_t * c_t * o_t * (1 - o_t)  # right: tanh(c_t)
    da_i_f_g_t *= dc_t
    dc_prev[...] = dc_t * f_t
    dh_in += W_hh.T.dot(da_t)


def g_without_i(dh_t, f_t, g_t, dm_dc_t, W_hh, dc_t, da_t, da_o_t, da_g_t, da_i_f_g_t, dc_prev, dh_in):
    dc_t += dh_t * dm_dc_t
    da_o_t *= dh_t
    da_i_f_g_t *= dc_t
    da_g_t[...] = dc_t * (1 - g_t * g_t)  # right: times i_t
    dc_prev[...] = dc_t * f_t
    dh_in += W_hh.T.dot(da_t)


def decaying(dh_t, f_t, dm_dc_t, W_hh, dc_t, da_t, da_o_t, da_i_f_g_t, dc_prev, dh_in):
    dc_t += dh_t * dm_dc_t
    da_o_t *= dh_t
    da_i_f_g_t *= dc_t
    dc_prev[...] = 0.9 * dc_t * f_t  # right: without 0.9
    dh_in += 0.9 * W_hh.T.dot(da_t)


def forget_bias_frozen(result, trace):
    result.grads["bias_ih_l0"][H : 2 * H] = 0


class ZoneoutOfHForgotten(LSTM):
    def open_backward(self, run, doutput, dfinals):
        super().open_backward(run, doutput, dfinals)
        arrays = run.binding.arrays
        if "h_kept" in arrays:
            arrays["h_kept"] = np.zeros_like(arrays["h_kept"])


class DropoutTwice(LSTM):
    def backward(self, trace, doutput, dh_n=None, grads=None, *, drecords=None):
        factors = trace.edge.factors
        if factors is not None:
            trace.edge.factors = [factor * factor for factor in factors]
        try:
            return super().backward(trace, doutput, dh_n, grads, drecords=drecords)
        finally:
            trace.edge.factors = factors


class LayersShifted(LSTM):
    def close_backward(self, run):
        dx = super().close_backward(run)
        if run.direction.layer != 1:
            return dx
        early = np.zeros_like(dx)
        early[:-1] = dx[1:]
        return early


case("lstm-o-with-c", lambda: with_formula(LSTM, o_with_c)(D, H, rng=0),
     "da_o has c_t where tanh(c_t) belongs.", "wrong derivative|gate derivative")  # fmt: skip
case("lstm-g-without-i", lambda: with_formula(LSTM, g_without_i)(D, H, rng=0),
     "da_g lacks the factor i_t.", "factor|gate path")  # fmt: skip
case("lstm-forget-bias-frozen", lambda: with_spoilt(LSTM, forget_bias_frozen)(D, H, rng=0),
     "The rows of f in db_ih are zeros.", "bias ignored|never accumulated")  # fmt: skip
case("lstm-zoneout-h-forgotten", lambda: ZoneoutOfHForgotten(D, H, zoneout=(0.4, 0.2), rng=0),
     "Backward ignores the zoneout of h, as if nothing were kept.", "mask")  # fmt: skip
case("lstm-dropout-twice", lambda: DropoutTwice(D, H, num_layers=2, dropout=0.3, rng=0),
     "The dropout mask between layers, with its scale, is applied twice.", "mask")  # fmt: skip
case("lstm-decay-in-time", lambda: with_formula(LSTM, decaying)(D, H, rng=0),
     "What a step hands back is multiplied with 0.9.", r"0\.9")  # fmt: skip
case("lstm-layers-shifted", lambda: LayersShifted(D, H, num_layers=2, rng=0),
     "What layer 1 hands down arrives one step early.", "off by one")  # fmt: skip

# ------------------------------------------------------------------------------------------------ GRU


def leak_inverted(dh_t, r_t, z_t, W_hh, da_qrz_t, da_q_t, da_r_t, da_z_t, da_n_t, dh_prev, dh_in):
    da_z_t *= dh_t
    dh_prev += dh_t * (1 - z_t)  # right: z_t
    da_n_t *= dh_t
    da_q_t[...] = r_t * da_n_t
    da_r_t *= da_n_t
    dh_in += W_hh.T.dot(da_qrz_t)


def q_without_r(dh_t, z_t, W_hh, da_qrz_t, da_q_t, da_r_t, da_z_t, da_n_t, dh_prev, dh_in):
    da_z_t *= dh_t
    dh_prev += dh_t * z_t
    da_n_t *= dh_t
    da_q_t[...] = da_n_t  # right: times r_t
    da_r_t *= da_n_t
    dh_in += W_hh.T.dot(da_qrz_t)


class MaskOfAnotherSequence(GRU):
    def open_backward(self, run, doutput, dfinals):
        super().open_backward(run, doutput, dfinals)
        arrays = run.binding.arrays
        if "recurrent_mask" in arrays:
            mask = arrays["recurrent_mask"]
            arrays["recurrent_mask"] = np.roll(mask, 1, axis=-2 if mask.shape[-2] == N else -1).copy()


case("gru-leak-inverted", lambda: with_formula(GRU, leak_inverted)(D, H, rng=0),
     "dh_prev += dh (1 - z): z and 1 - z exchanged on the direct way.", "1 - z where z|exchanged")  # fmt: skip
case("gru-q-without-r", lambda: with_formula(GRU, q_without_r)(D, H, rng=0),
     "da_q lacks the factor r.", "reset on the wrong side|factor r")  # fmt: skip
case("gru-mask-of-another-sequence", lambda: MaskOfAnotherSequence(D, H, recurrent_dropout=0.5, rng=0),
     "In backward each sequence has the recurrent mask of another.", "mask|batch mixed")  # fmt: skip

# ------------------------------------------------------------------------------------------------ RNN


def of_tanh(dh_t, h_t, W_hh, da_t, dh_in):
    da_t[...] = dh_t * (1 - h_t * h_t)  # right: of a relu, 1 where h_t > 0
    dh_in += da_t.dot(W_hh)


def normalised_in_time(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t / np.maximum(1, np.linalg.norm(dh_t, axis=1, keepdims=True))  # right: dh_t
    dh_in += da_t.dot(W_hh)


def mean_over_steps(result, trace):
    result.dx = result.dx / len(result.dx)


def noisy(result, trace):
    result.grads.flat += 1e-6 * np.random.default_rng().normal(size=result.grads.flat.size)


def next_inputs(result, trace):
    pairs = itertools.pairwise(trace["l0"])
    result.grads["weight_ih_l0"][...] = sum(step.da.T @ after.x for step, after in pairs)  # right: step.x


def quantised(result, trace):
    result.grads["weight_hh_l0"][...] = np.round(256 * result.grads["weight_hh_l0"]) / 256


class OneDirectionAtTheBottom(RNN):
    def close_backward(self, run):
        dx = super().close_backward(run)
        return np.zeros_like(dx) if run.direction.reverse and run.direction.layer == 0 else dx


case("relu-with-tanh-derivative", lambda: with_formula(RNN, of_tanh)(D, H, nonlinearity="relu", rng=0),
     "relu goes back with 1 - h^2, a tanh's derivative.", "wrong derivative")  # fmt: skip
case("rnn-normalised-in-time", lambda: with_formula(RNN, normalised_in_time)(D, H, rng=0),
     "dh_t is divided by its norm at each step, where that is more than 1.", "clip")  # fmt: skip
case("rnn-dx-mean", lambda: with_spoilt(RNN, mean_over_steps)(D, H, rng=0),
     "dx is divided by T.", "constant factor|missing 1/")  # fmt: skip
case("rnn-noise", lambda: with_spoilt(RNN, noisy)(D, H, rng=0),
     "Noise of 1e-6 is added, another one at each call.", "not deterministic")  # fmt: skip
case("rnn-x-late", lambda: with_spoilt(RNN, next_inputs)(D, H, rng=0),
     "dW_ih takes x of the next step.", "off by one")  # fmt: skip
case("rnn-quantised", lambda: with_spoilt(RNN, quantised)(D, H, rng=0),
     "dW_hh is rounded to multiples of 1/256.", "precision|rounded|multiples")  # fmt: skip
case("rnn-dx-of-one-direction", lambda: OneDirectionAtTheBottom(D, H, bidirectional=True, rng=0),
     "dx lacks the reverse direction's share.", "reverse.*missing")  # fmt: skip

# ------------------------------------------------------------------------------------------------ peepholes, layer norm


def o_early(da_i_t, da_f_t, da_o_t, c_prev, p_i, p_f, dc_prev, dp_i, dp_f, dp_o):
    dc_prev += p_i * da_i_t + p_f * da_f_t
    dp_i += (da_i_t * c_prev).sum(axis=1, keepdims=True)
    dp_f += (da_f_t * c_prev).sum(axis=1, keepdims=True)
    dp_o += (da_o_t * c_prev).sum(axis=1, keepdims=True)  # right: c_t


class OutputPeepholeEarly(Twisted, PeepholeLSTM):
    def twist(self, cell):
        return replace(cell, before=(replace(cell.before[0], backward=o_early),))


def gain_as_bias(result, trace):
    result.grads["gain_hh_l0"][...] = result.grads["bias_hh_l0"]


case("peephole-o-early", lambda: OutputPeepholeEarly(D, H, rng=0),
     "dp_o sums da_o c_{t-1} where c_t belongs.", "off by one")  # fmt: skip
case("norm-gain-as-bias", lambda: with_spoilt(LayerNormLSTM, gain_as_bias)(D, H, rng=0),
     "The gradient of gain_hh is sum(da), that of a bias: y is missing.", "swapped|factor|another")  # fmt: skip

# ------------------------------------------------------------------------------------------------ attention


def additive_without_tanh(dscore_t, units_t, W_q, v_a, dunits_t, dprojected_t, dquery, dkeys, dv_a):
    dv_a += np.einsum("ns,nsk->k", dscore_t, units_t).reshape(dv_a.shape)
    dunits_t[...] = v_a.ravel() * dscore_t[:, :, None]  # right: times 1 - units_t^2
    dkeys += dunits_t
    np.add.reduce(dunits_t, axis=1, out=dprojected_t)
    dquery += dprojected_t.dot(W_q)


class AdditiveWithoutTanh(Around, AttentionGRU):
    old, new = attention.additive_backward, additive_without_tanh


def softmax_over_the_batch(dcontext_t, alpha_t, values, dalpha_t, dscore_t):
    dalpha_t += np.einsum("nm,nsm->ns", dcontext_t, values)
    dscore_t[...] = alpha_t * (dalpha_t - (alpha_t * dalpha_t).sum(axis=0, keepdims=True))  # right: axis=1


class SoftmaxOverTheBatch(Around, AttentionRNN):
    old, new = attention.weights_backward, softmax_over_the_batch


def keys_mean(result, trace):
    result.dgiven["keys"] = result.dgiven["keys"] / S


READ = {"values": memory(S, N, H), "keys": memory(S, N, 4, seed=6)}
case("additive-without-tanh", lambda: AdditiveWithoutTanh(D, H, score="additive", attention_size=4, rng=0),
     "The additive score goes back without tanh's derivative.", "derivative", given=READ)  # fmt: skip
case("keys-mean",
     lambda: with_spoilt(AttentionGRU, keys_mean)(D, H, score="additive", attention_size=4, rng=0),
     "The gradient of the keys is divided by S.", "constant factor", given=READ)  # fmt: skip
case("softmax-over-the-batch", lambda: SoftmaxOverTheBatch(D, H, rng=0),
     "The softmax goes back with its sum over the batch.", "batch mixed|softmax",
     given={"values": READ["values"]})  # fmt: skip

# ------------------------------------------------------------------------------------------------ cells of one's own


def leaky_backward(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak, handed):
    rate = sigmoid(leak)
    da_t[...] = dh_t * rate * (1 - n_t**2)
    dleak += (dh_t * (n_t - h_prev) * rate * (1 - rate)).sum(axis=1, keepdims=True)
    dh_prev += dh_t * handed(rate)
    dh_in += W_hh.T @ da_t


def leaky_sign(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak):
    leaky_backward(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak, lambda rate: 1 + rate)  # right: 1 - rate


def leaky_without_skip(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak):
    leaky_backward(dh_t, n_t, h_prev, W_hh, leak, da_t, dh_prev, dh_in, dleak, lambda rate: 0 * rate)


class LeakySign(Leaky):
    cell = replace(Leaky.cell, step_backward=leaky_sign)


class LeakyWithoutSkip(Leaky):
    cell = replace(Leaky.cell, step_backward=leaky_without_skip)


case("leaky-sign", lambda: LeakySign(D, H, rng=0),
     "dh_prev += dh (1 + rate): a sign slip.", "sign|wrong")  # fmt: skip
case("leaky-without-skip", lambda: LeakyWithoutSkip(D, H, rng=0),
     "The direct way, dh_prev += dh (1 - rate), is missing.", "path")  # fmt: skip
