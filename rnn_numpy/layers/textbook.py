# mypy: allow-untyped-defs, allow-untyped-calls
# Without annotations: nine arrays to a signature, and none of them would say a shape.
"""The lecture in plain NumPy, to be typed along: RNN, LSTM, GRU, attention; forward and back-propagation through time.

Nothing here knows of lengths, layers, directions, dropout or speed. The engine does; it gives the same numbers, and no
line is shared with it (`tests/layers/test_textbook.py`). F and B number the lines of the derivations in
`rnn_numpy.layers.rnn`, `lstm`, `gru` and `losses`; for attention they stand with `attend_forward` and
`decoder_forward`.

T steps, N sequences side by side, D inputs, H units, and G gates with H rows each:

    x             (T, N, D)       inputs
    h, c          (T+1, N, H)     states; row 0 is the initial one: step t reads h[t] and writes h[t + 1]
    gates         (T, N, 4 H)     side by side: i, f, g, o of the LSTM; r, z, n, and q or k, of the GRU
    W_ih, W_hh    (G H, D), (G H, H), as torch.nn has them; b_ih, b_hh (G H,)
    doutput       (T, N, H)       what the loss says to the state after each step
    dh_n, dc_n    (N, H)          what it says to the last state besides; 0 if nothing

dX is dL/dX, of X's shape. A backward function reads what forward returned, and returns the gradients of forward's
arguments in their order. The lecture's neuron, U = 0.2, W = 0.3, b = -0.1, and a loss that is the last output:

>>> x, U, W, b = np.array([[[0.7]], [[0.9]], [[1.1]]]), np.array([[0.2]]), np.array([[0.3]]), np.array([-0.1])
>>> h = rnn_forward(x, np.zeros((1, 1)), U, W, b, 0)
>>> h.ravel().round(5)
array([0.     , 0.03998, 0.09173, 0.14646])
>>> dx, dh_0, dU, dW, db, _ = rnn_backward(np.array([[[0.0]], [[0.0]], [[1.0]]]), 0, x, h, U, W)
>>> dW.round(5)
array([[0.1014]])

All formulas take complex numbers, so that each gradient can be checked to its last digits: add 1e-20 i to one weight,
and the imaginary part of the loss is 1e-20 times the derivative.

>>> (rnn_forward(x, np.zeros((1, 1)), U, W + 1e-20j, b, 0)[-1].imag / 1e-20).round(5)
array([[0.1014]])
"""

import numpy as np


def s(u):
    """The logistic function, which opens and shuts gates."""
    return 1 / (1 + np.exp(-u))


def sums(a, b):
    """sum_t a_t b_t^T, over all steps and sequences: what BW does for each matrix of weights."""
    return np.einsum("tni,tnj->ij", a, b)


def rnn_forward(x, h_0, W_ih, W_hh, b_ih, b_hh):
    """Return the states h, of h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)."""
    h = [h_0]
    for x_t in x:
        a_t = x_t @ W_ih.T + b_ih + h[-1] @ W_hh.T + b_hh  # F1
        h.append(np.tanh(a_t))  # F2
    return np.array(h)


def rnn_backward(doutput, dh_n, x, h, W_ih, W_hh):
    """Return dx, dh_0, dW_ih, dW_hh, db_ih, db_hh."""
    da, dh = np.empty_like(h[1:]), dh_n
    for t in reversed(range(len(x))):
        dh = dh + doutput[t]  # all that depends on h_t: the future, and the loss
        da[t] = dh * (1 - h[t + 1] ** 2)  # B2
        dh = da[t] @ W_hh  # B1
    db = da.sum((0, 1))
    return da @ W_ih, dh, sums(da, x), sums(da, h[:-1]), db, db  # B0, dh_0, BW


def lstm_forward(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh):
    """Return the states h and c, and the gates i, f, g, o."""
    h, c, gates = [h_0], [c_0], []
    for x_t in x:
        a_t = x_t @ W_ih.T + b_ih + h[-1] @ W_hh.T + b_hh  # F1
        a_i, a_f, a_g, a_o = np.split(a_t, 4, axis=-1)
        i, f, g, o = s(a_i), s(a_f), np.tanh(a_g), s(a_o)  # F2
        c.append(f * c[-1] + i * g)  # F3
        h.append(o * np.tanh(c[-1]))  # F4
        gates.append(np.concatenate([i, f, g, o], axis=-1))
    return np.array(h), np.array(c), np.array(gates)


def lstm_backward(doutput, dh_n, dc_n, x, h, c, gates, W_ih, W_hh):
    """Return dx, dh_0, dc_0, dW_ih, dW_hh, db_ih, db_hh."""
    da, dh, dc = np.empty_like(gates), dh_n, dc_n
    for t in reversed(range(len(x))):
        i, f, g, o = np.split(gates[t], 4, axis=-1)
        tanh_c, dh = np.tanh(c[t + 1]), dh + doutput[t]
        dc = dc + dh * o * (1 - tanh_c**2)  # B4
        da_o = dh * tanh_c * o * (1 - o)
        da_i = dc * g * i * (1 - i)  # B3
        da_f = dc * c[t] * f * (1 - f)
        da_g = dc * i * (1 - g**2)
        dc = dc * f
        da[t] = np.concatenate([da_i, da_f, da_g, da_o], axis=-1)
        dh = da[t] @ W_hh  # B1
    db = da.sum((0, 1))
    return da @ W_ih, dh, dc, sums(da, x), sums(da, h[:-1]), db, db  # B0, dh_0, dc_0, BW


def gru_forward(x, h_0, W_ih, W_hh, b_ih, b_hh):
    """Return the states h, and r, z, n, q = W_hn h_{t-1} + b_hn, of torch's form: the reset comes after the product."""
    h, gates = [h_0], []
    for x_t in x:
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        h_r, h_z, q = np.split(h[-1] @ W_hh.T + b_hh, 3, axis=-1)
        r, z = s(x_r + h_r), s(x_z + h_z)  # F1
        n = np.tanh(x_n + r * q)  # F2, F3
        h.append((1 - z) * n + z * h[-1])  # F4
        gates.append(np.concatenate([r, z, n, q], axis=-1))
    return np.array(h), np.array(gates)


def gru_backward(doutput, dh_n, x, h, gates, W_ih, W_hh):
    """Return dx, dh_0, dW_ih, dW_hh, db_ih, db_hh."""
    da_ih, dh = np.empty_like(gates[..., : len(W_hh)]), dh_n
    da_hh = np.empty_like(da_ih)
    for t in reversed(range(len(x))):
        r, z, n, q = np.split(gates[t], 4, axis=-1)
        dh = dh + doutput[t]
        da_z = dh * (h[t] - n) * z * (1 - z)  # B4
        da_n = dh * (1 - z) * (1 - n**2)  # B3
        da_r = da_n * q * r * (1 - r)  # B2
        da_ih[t] = np.concatenate([da_r, da_z, da_n], axis=-1)
        da_hh[t] = np.concatenate([da_r, da_z, da_n * r], axis=-1)
        dh = dh * z + da_hh[t] @ W_hh  # B4, B1
    db_ih, db_hh = da_ih.sum((0, 1)), da_hh.sum((0, 1))
    return da_ih @ W_ih, dh, sums(da_ih, x), sums(da_hh, h[:-1]), db_ih, db_hh  # B0, dh_0, BW


def gru_before_forward(x, h_0, W_ih, W_hh, b_ih, b_hh):
    """Return the states h, and r, z, n, k = r * h_{t-1}, of the original form: the reset comes before the product."""
    h, gates = [h_0], []
    W_hr, W_hz, W_hn = np.split(W_hh, 3)
    for x_t in x:
        a_r, a_z, a_n = np.split(x_t @ W_ih.T + b_ih + b_hh, 3, axis=-1)
        r, z = s(a_r + h[-1] @ W_hr.T), s(a_z + h[-1] @ W_hz.T)  # F1
        k = r * h[-1]  # F2
        n = np.tanh(a_n + k @ W_hn.T)  # F2, F3
        h.append((1 - z) * n + z * h[-1])  # F4
        gates.append(np.concatenate([r, z, n, k], axis=-1))
    return np.array(h), np.array(gates)


def gru_before_backward(doutput, dh_n, x, h, gates, W_ih, W_hh):
    """Return dx, dh_0, dW_ih, dW_hh, db_ih, db_hh."""
    (W_hr, W_hz, W_hn), H = np.split(W_hh, 3), h.shape[-1]
    da, dh = np.empty_like(gates[..., : 3 * H]), dh_n
    for t in reversed(range(len(x))):
        r, z, n, _ = np.split(gates[t], 4, axis=-1)
        dh = dh + doutput[t]
        da_z = dh * (h[t] - n) * z * (1 - z)  # B4
        da_n = dh * (1 - z) * (1 - n**2)  # B3
        dk = da_n @ W_hn  # B2
        da_r = dk * h[t] * r * (1 - r)
        da[t] = np.concatenate([da_r, da_z, da_n], axis=-1)
        dh = dh * z + dk * r + da_r @ W_hr + da_z @ W_hz  # B4, B2, B1
    k, db = gates[..., 3 * H :], da.sum((0, 1))
    dW_hh = np.concatenate([sums(da[..., : 2 * H], h[:-1]), sums(da[..., 2 * H :], k)])
    return da @ W_ih, dh, sums(da, x), dW_hh, db, db  # B0, dh_0, BW


def attend_forward(query, keys, values, exists):
    """Return alpha (N, S) and the context (N, M): what a query (N, M) takes from S keys and values, (S, N, M).

    (F1) score_s = query . keys_s    (F2) alpha = softmax(score)    (F3) context = sum_s alpha_s values_s

    Only those s count for which exists (N, S) is true; without any, context is 0. The lecture's keys are its values:

    >>> values = np.array([[[2.0, 0.0]], [[0.0, 2.0]], [[7.0, 7.0]]])
    >>> attend_forward(np.array([[0.5, 0.0]]), values, values, np.array([[True, True, False]]))
    (array([[0.731, 0.269, 0.   ]]), array([[1.462, 0.538]]))
    """
    score = np.einsum("nm,snm->ns", query, keys)  # F1
    highest = score.real.max(axis=1, keepdims=True, where=exists, initial=-np.inf)  # so that exp cannot overflow
    e = np.exp(np.where(exists, score - highest, -np.inf))  # F2
    total = e.sum(axis=1, keepdims=True)
    alpha = e / np.where(total == 0, 1, total)
    return alpha, np.einsum("ns,snm->nm", alpha, values)  # F3


def attend_backward(dcontext, alpha, query, keys, values):
    """Return dquery, dkeys, dvalues."""
    dvalues = np.einsum("ns,nm->snm", alpha, dcontext)  # B3
    dalpha = np.einsum("nm,snm->ns", dcontext, values)
    dscore = alpha * (dalpha - np.sum(alpha * dalpha, axis=1, keepdims=True))  # B2
    dkeys = np.einsum("ns,nm->snm", dscore, query)  # B1
    return np.einsum("ns,snm->nm", dscore, keys), dkeys, dvalues


def decoder_forward(x, h_0, keys, values, exists, W_ih, W_hh, W_ch, b_ih, b_hh):
    """Return h, alpha (T, N, S) and context (T, N, M) of the lecture's decoder: h_{t-1} asks, then the cell reads.

    (F4) a_t = W_ih x_t + W_hh h_{t-1} + W_ch context_t + b_ih + b_hh    (F5) h_t = tanh(a_t)
    """
    h, alpha, context = [h_0], [], []
    for x_t in x:
        alpha_t, context_t = attend_forward(h[-1], keys, values, exists)  # F1, F2, F3
        a_t = x_t @ W_ih.T + b_ih + h[-1] @ W_hh.T + b_hh + context_t @ W_ch.T  # F4
        h.append(np.tanh(a_t))  # F5
        alpha.append(alpha_t)
        context.append(context_t)
    return np.array(h), np.array(alpha), np.array(context)


def decoder_backward(doutput, dh_n, x, h, alpha, context, keys, values, W_ih, W_hh, W_ch):
    """Return dx, dh_0, dkeys, dvalues, dW_ih, dW_hh, dW_ch, db_ih, db_hh."""
    da, dh, dkeys, dvalues = np.empty_like(h[1:]), dh_n, 0, 0
    for t in reversed(range(len(x))):
        da[t] = (dh + doutput[t]) * (1 - h[t + 1] ** 2)  # B5
        dquery, dkeys_t, dvalues_t = attend_backward(da[t] @ W_ch, alpha[t], h[t], keys, values)  # B4, B3, B2, B1
        dkeys, dvalues = dkeys + dkeys_t, dvalues + dvalues_t  # every step reads the same memory
        dh = da[t] @ W_hh + dquery  # the second way back: a state has asked, too
    db = da.sum((0, 1))
    return da @ W_ih, dh, dkeys, dvalues, sums(da, x), sums(da, h[:-1]), sums(da, context), db, db


def cross_entropy_forward(logits, target):
    """Return the mean over N of -log p of the right class, p = softmax(logits), logits (N, V), target (N,).

    >>> cross_entropy_forward(np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([1, 0])).round(5)
    np.float64(0.49041)
    """
    z = logits - logits.real.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(target)), target].mean()  # F2


def cross_entropy_backward(logits, target):
    """Return dlogits."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    y = np.eye(logits.shape[1])[target]  # one-hot
    return (p - y) / len(target)  # B2
