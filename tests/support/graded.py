"""Backward passes as students write them, for `grade`; and mistakes planted in their text."""

import numpy as np

SOLUTIONS = {
    "rnn_step_backward": """
def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
    da_t = (1 - h_t * h_t) * dh_t
    dx_t = da_t @ W_ih
    dh_prev = da_t @ W_hh
    dW_ih = da_t.T @ x_t
    dW_hh = da_t.T @ h_prev
    db = np.sum(da_t, axis=0)
    return dx_t, dh_prev, dW_ih, dW_hh, db, db
""",
    "rnn_backward": """
def my_backward(doutput, dh_n, x, h, W_ih, W_hh):
    T = len(x)
    dx, dW_ih, dW_hh = np.zeros(x.shape), np.zeros(W_ih.shape), np.zeros(W_hh.shape)
    db = np.zeros(len(W_ih))
    dh = dh_n
    for t in range(T - 1, -1, -1):
        dh = dh + doutput[t]
        da = dh * (1 - h[t + 1] ** 2)
        for n in range(x.shape[1]):
            dW_ih += np.outer(da[n], x[t, n])
            dW_hh += np.outer(da[n], h[t, n])
            db += da[n]
        dx[t] = da @ W_ih
        dh = da @ W_hh
    return dx, dh, dW_ih, dW_hh, db, db.copy()
""",
    "lstm_step_backward": """
def my_step(dh_t, dc_t, x_t, h_prev, c_prev, c_t, i, f, g, o, W_ih, W_hh):
    tanh_c = np.tanh(c_t)
    do = dh_t * tanh_c
    dc = dc_t + dh_t * o * (1 - tanh_c**2)
    di, df, dg = dc * g, dc * c_prev, dc * i
    da = np.hstack([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
    db = da.sum(axis=0)
    return da @ W_ih, da @ W_hh, dc * f, da.T @ x_t, da.T @ h_prev, db, db
""",
    "lstm_backward": """
def my_backward(doutput, dh_n, dc_n, x, h, c, gates, W_ih, W_hh):
    T, N, H = doutput.shape
    dW_ih, dW_hh, db, dx = np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(4 * H), np.zeros_like(x)
    dh_next, dc_next = dh_n, dc_n
    for t in range(T)[::-1]:
        i, f, g, o = (gates[t][:, k * H : (k + 1) * H] for k in range(4))
        dh = doutput[t] + dh_next
        dc = dc_next + dh * o * (1 - np.tanh(c[t + 1]) ** 2)
        da = np.empty((N, 4 * H))
        da[:, :H] = dc * g * i * (1 - i)
        da[:, H : 2 * H] = dc * c[t] * f * (1 - f)
        da[:, 2 * H : 3 * H] = dc * i * (1 - g * g)
        da[:, 3 * H :] = dh * np.tanh(c[t + 1]) * o * (1 - o)
        dW_ih += da.T @ x[t]
        dW_hh += da.T @ h[t]
        db += da.sum(0)
        dx[t] = da @ W_ih
        dh_next = da @ W_hh
        dc_next = f * dc
    return dx, dh_next, dc_next, dW_ih, dW_hh, db, db
""",
    "gru_step_backward": """
def my_step(dh_t, x_t, h_prev, r, z, n, q, W_ih, W_hh):
    dz = dh_t * (h_prev - n) * z * (1 - z)
    dn = dh_t * (1 - z) * (1 - n**2)
    dr = dn * q * r * (1 - r)
    da_ih = np.concatenate((dr, dz, dn), axis=1)
    da_hh = np.concatenate((dr, dz, r * dn), axis=1)
    dh_prev = z * dh_t + da_hh @ W_hh
    return da_ih @ W_ih, dh_prev, da_ih.T @ x_t, da_hh.T @ h_prev, da_ih.sum(0), da_hh.sum(0)
""",
    "gru_backward": """
def my_backward(doutput, dh_n, x, h, gates, W_ih, W_hh):
    T, N, H = doutput.shape
    results = []
    dh = dh_n
    for t in reversed(range(T)):
        r, z, n, q = np.split(gates[t], 4, axis=1)
        dh = dh + doutput[t]
        dz = dh * (h[t] - n) * z * (1 - z)
        dn = dh * (1 - z) * (1 - n**2)
        dr = dn * q * r * (1 - r)
        da_ih, da_hh = np.hstack([dr, dz, dn]), np.hstack([dr, dz, dn * r])
        dh = dh * z + da_hh @ W_hh
        results.append((da_ih @ W_ih, da_ih.T @ x[t], da_hh.T @ h[t], da_ih.sum(0), da_hh.sum(0)))
    dx, dW_ih, dW_hh, db_ih, db_hh = zip(*results)
    return np.array(dx[::-1]), dh, sum(dW_ih), sum(dW_hh), sum(db_ih), sum(db_hh)
""",
    "attend_backward": """
def my_attention(dcontext, alpha, query, keys, values):
    S, N, M = keys.shape
    dquery, dkeys, dvalues = np.zeros((N, M)), np.zeros((S, N, M)), np.zeros((S, N, M))
    for n in range(N):
        dalpha = values[:, n] @ dcontext[n]
        J = np.diag(alpha[n]) - np.outer(alpha[n], alpha[n])
        dscore = J @ dalpha
        dquery[n] = dscore @ keys[:, n]
        dkeys[:, n] = np.outer(dscore, query[n])
        dvalues[:, n] = np.outer(alpha[n], dcontext[n])
    return dquery, dkeys, dvalues
""",
    "cross_entropy_backward": """
def my_loss(logits, target):
    N = len(target)
    z = logits - logits.max(axis=1)[:, None]
    p = np.exp(z) / np.exp(z).sum(axis=1)[:, None]
    p[np.arange(N), target] -= 1
    return p / N
""",
}

# The exercise, what stands there, what a student writes in its place, the equation that is named, a part of the words.
MISTAKES = [
    ("rnn_step_backward", "(1 - h_t * h_t) * dh_t", "dh_t", "da_t", "the derivative of tanh, 1 - h_t^2, is missing"),
    ("rnn_step_backward", "h_t * h_t", "h_t", "da_t", "the derivative is 1 - h_t^2; 1 - h_t stands there"),
    ("rnn_step_backward", "h_t * h_t", "np.tanh(h_t) ** 2", "da_t", "tanh is taken twice"),
    ("rnn_step_backward", "h_t * h_t", "h_prev**2", "da_t", "h_{t-1} stands where h_t belongs"),
    ("rnn_step_backward", "@ W_hh", "@ W_hh.T", "dh_{t-1}", "W_hh^T stands where W_hh belongs"),
    ("rnn_step_backward", "da_t.T @ h_prev", "da_t.T @ h_t", "dW_hh", "h_t stands where h_{t-1} belongs"),
    ("rnn_step_backward", "da_t.T @ h_prev", "h_prev.T @ da_t", "dW_hh", "it is transposed"),
    ("rnn_step_backward", "da_t.T @ x_t", "x_t.T @ da_t", "dW_ih", "it is transposed"),
    ("rnn_step_backward", "np.sum(da_t, axis=0)", "da_t", "db_ih, db_hh", "not summed over the N sequences"),
    ("rnn_step_backward", "np.sum(da_t, axis=0)", "da_t.mean(0)", "db_ih, db_hh", "divided by N"),
    ("rnn_step_backward", "da_t @ W_ih", "dh_t @ W_ih", "dx_t", "1 - h_t^2, is missing"),
    ("rnn_backward", "dh = dh + doutput[t]", "dh = doutput[t]", "dh_t", "is overwritten by doutput_t"),
    ("rnn_backward", "dh = dh_n", "dh = np.zeros_like(dh_n)", "dh_n", "dh_n does not enter"),
    ("rnn_backward", "range(T - 1, -1, -1)", "range(T - 1, 0, -1)", "t", "the first step, t = 0, is left out"),
    ("rnn_backward", "range(T - 1, -1, -1)", "range(T)", "t", "gone through forward"),
    ("rnn_backward", "dW_hh += np", "dW_hh = np", "dW_hh", "it keeps one sequence alone"),
    ("rnn_backward", "np.outer(da[n], h[t, n])", "np.outer(da[n], h[t + 1, n])", "dW_hh", "h_t stands where"),
    ("rnn_backward", "np.outer(da[n], h[t, n])", "np.outer(da[n], (h[t] if t else h[-1])[n])", "dW_hh", "wraps around"),
    ("rnn_backward", "dh = da @ W_hh", "dh = dh @ W_hh", "dh_{t-1}", "dh_t stands where da_t belongs"),
    ("lstm_step_backward", "dc_t + dh_t * o * (1 - tanh_c**2)", "dc_t", "dc_t", "what comes through h_t"),
    ("lstm_step_backward", "dc_t + dh_t * o", "dh_t * o", "dc_t", "that step t+1 handed back is missing"),
    ("lstm_step_backward", "(1 - tanh_c**2)", "(1 - c_t**2)", "dc_t", "c_t stands where tanh(c_t) belongs"),
    ("lstm_step_backward", "dc * c_prev", "dc * c_t", "da_f", "c_t stands where c_{t-1} belongs"),
    ("lstm_step_backward", "df * f * (1 - f)", "df", "da_f", "the derivative of the sigmoid, f (1 - f), is missing"),
    ("lstm_step_backward", "dg * (1 - g**2)", "dg * g * (1 - g)", "da_g", "the derivative is 1 - g^2; g (1 - g)"),
    ("lstm_step_backward", "dc * f, da.T", "dc, da.T", "dc_{t-1}", "f is missing"),
    ("lstm_backward", "dc_next = f * dc", "dc_next = 0 * dc", "dc_{t-1}", "nothing is handed to c_{t-1}"),
    ("lstm_backward", "dh_next, dc_next = dh_n, dc_n", "dh_next, dc_next = dh_n, 0 * dc_n", "dc_n", "does not enter"),
    ("lstm_backward", "dh * np.tanh(c[t + 1]) * o", "dh * c[t + 1] * o", "da_o", "c_t stands where tanh(c_t) belongs"),
    ("lstm_backward", "da.T @ h[t]", "da.T @ h[t + 1]", "dW_hh", "h_t stands where h_{t-1} belongs"),
    ("gru_step_backward", "(h_prev - n)", "(n - h_prev)", "da_z", "its sign is wrong"),
    ("gru_step_backward", "dh_t * (1 - z) *", "dh_t * z *", "da_n", "z stands where 1 - z belongs"),
    ("gru_step_backward", "r * dn)", "dn)", "da_hh", "r is missing in the rows of n"),
    ("gru_step_backward", "dn * q", "dn * h_prev", "da_r", "h_{t-1} stands where q"),
    ("gru_step_backward", "z * dh_t + ", "", "dh_{t-1}", "the direct way, dh_t * z, is missing"),
    ("gru_step_backward", "da_hh.T @ h_prev", "da_ih.T @ h_prev", "dW_hh", "r is missing in the rows of n"),
    ("gru_backward", "dh = dh * z +", "dh = dh * (1 - z) +", "dh_{t-1}", "1 - z stands where z belongs"),
    ("gru_backward", "da_hh.sum(0)))", "da_ih.sum(0)))", "db_hh", "r is missing in the rows of n"),
    ("attend_backward", "np.diag(alpha[n]) - np.outer(alpha[n], alpha[n])", "np.eye(S)", "dscore",
     "as if it were the identity"),
    ("attend_backward", " - np.outer(alpha[n], alpha[n])", "", "dscore", "is not subtracted"),
    ("attend_backward", "np.diag(alpha[n]) - np.outer(alpha[n], alpha[n])", "np.diag(alpha[n] * (1 - alpha[n]))",
     "dscore", "its diagonal alone"),
    ("attend_backward", "dscore @ keys[:, n]", "dscore @ values[:, n]", "dquery", "values stands where keys belongs"),
    ("attend_backward", "np.outer(alpha[n], dcontext[n])", "np.outer(dscore, dcontext[n])", "dvalues",
     "dscore stands where alpha"),
    ("cross_entropy_backward", "return p / N", "return p", "dlogits", "divided by N"),
    ("cross_entropy_backward", "    p[np.arange(N), target] -= 1\n", "", "dlogits", "y, is not subtracted"),
    ("cross_entropy_backward", "axis=1)[:, None]\n    p[", "axis=0)\n    p[", "dlogits", "over the sequences"),
    ("cross_entropy_backward", "logits - logits.max(axis=1)[:, None]", "1 * logits", "dlogits", "exp overflows"),
]  # fmt: skip


def student(exercise, *changes):
    """Return a solution's function, with pieces of its text changed."""
    text = SOLUTIONS[exercise]
    for old, new in changes:
        assert text.count(old) == 1, f"{exercise} has {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    space = {"np": np}
    exec(text, space)
    return next(one for name, one in space.items() if name.startswith("my_"))
