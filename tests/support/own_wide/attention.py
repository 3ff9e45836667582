"""An encoder and a decoder with dot attention, softmax and cross entropy."""

# ruff: noqa: RUF059

import numpy as np


def make(seed):
    rng = np.random.default_rng(seed)
    S, T, E, H, V = 5, 4, 3, 4, 5
    src = rng.normal(size=(S, E))
    dec = rng.normal(size=(T, E))
    y = rng.integers(0, V, T)
    P = {
        "We": rng.normal(size=(H, E)) * 0.7,
        "Ue": rng.normal(size=(H, H)) * 0.6,
        "be": rng.normal(size=H) * 0.4,
        "Wd": rng.normal(size=(H, E)) * 0.7,
        "Ud": rng.normal(size=(H, H)) * 0.6,
        "bd": rng.normal(size=H) * 0.4,
        "Wc": rng.normal(size=(H, 2 * H)) * 0.6,
        "bc": rng.normal(size=H) * 0.3,
        "Wo": rng.normal(size=(V, H)) * 0.7,
        "bo": rng.normal(size=V) * 0.3,
    }

    def softmax(v):
        e = np.exp(v - np.max(v))
        return e / np.sum(e)

    def forward(P):
        h = np.zeros(H)
        enc = []
        for s in range(S):
            h = np.tanh(P["We"] @ src[s] + P["Ue"] @ h + P["be"])
            enc.append(h)
        M = np.stack(enc)
        d = h
        kept = []
        total = 0.0
        for t in range(T):
            prev = d
            d = np.tanh(P["Wd"] @ dec[t] + P["Ud"] @ d + P["bd"])
            score = M @ d / np.sqrt(H)
            alpha = softmax(score)
            ctx = alpha @ M
            m = np.tanh(P["Wc"] @ np.concatenate([ctx, d]) + P["bc"])
            prob = softmax(P["Wo"] @ m + P["bo"])
            total += -np.log(prob[y[t]])
            kept.append((prev, d, score, alpha, ctx, m, prob))
        return total, enc, M, kept

    def loss(P):
        return forward(P)[0]

    def grads(P):
        _, enc, M, kept = forward(P)
        G = {k: np.zeros_like(v) for k, v in P.items()}
        dM = np.zeros((S, H))
        dnext = np.zeros(H)
        for t in reversed(range(T)):
            prev, d, score, alpha, ctx, m, prob = kept[t]
            do = prob.copy()
            do[y[t]] -= 1
            G["Wo"] += np.outer(do, m)
            G["bo"] += do
            dm = P["Wo"].T @ do
            dpre = dm * (1 - m**2)
            G["Wc"] += np.outer(dpre, np.concatenate([ctx, d]))
            G["bc"] += dpre
            dcat = P["Wc"].T @ dpre
            dctx = dcat[:H]
            dd = dcat[H:] + dnext
            dalpha = M @ dctx
            dM += np.outer(alpha, dctx)
            dscore = alpha * (dalpha - np.dot(alpha, dalpha))
            dscore = dscore / np.sqrt(H)
            dd = dd + M.T @ dscore
            dM += np.outer(dscore, d)
            da = dd * (1 - d**2)
            G["Wd"] += np.outer(da, dec[t])
            G["Ud"] += np.outer(da, prev)
            G["bd"] += da
            dnext = P["Ud"].T @ da
        dh = dnext
        for s in reversed(range(S)):
            dh = dh + dM[s]
            da = dh * (1 - enc[s] ** 2)
            G["We"] += np.outer(da, src[s])
            before = enc[s - 1] if s > 0 else np.zeros(H)
            G["Ue"] += np.outer(da, before)
            G["be"] += da
            dh = P["Ue"].T @ da
        return G

    return P, loss, grads


# What it is, the line, what stands there instead, and what the diagnosis must say.
MISTAKES = [
    (
        "softmax diagonal",
        "dscore = alpha*(dalpha - np.dot(alpha, dalpha))",
        "dscore = alpha*(1-alpha)*dalpha",
        "diagonal",
    ),
    ("softmax left out", "dscore = alpha*(dalpha - np.dot(alpha, dalpha))", "dscore = dalpha", "softmax"),
    ("softmax p only", "dscore = alpha*(dalpha - np.dot(alpha, dalpha))", "dscore = alpha*dalpha", "softmax"),
    ("softmax sum instead of dot", "np.dot(alpha, dalpha))", "np.sum(dalpha))", "softmax"),
    ("scale forgotten", "dscore = dscore/np.sqrt(H)", "pass", "2|factor"),
    ("scale twice", "dscore = dscore/np.sqrt(H)", "dscore = dscore/H", "where 2 belongs"),
    ("query path missing", "dd = dd + M.T @ dscore", "pass", "gets nothing"),
    ("key path missing", "dM += np.outer(dscore, d)", "pass", "gets nothing"),
    ("value path missing", "dM += np.outer(alpha, dctx)", "pass", "gets nothing"),
    ("keys with previous query", "dM += np.outer(dscore, d)", "dM += np.outer(dscore, prev)", "step before"),
    ("values with scores", "dM += np.outer(alpha, dctx)", "dM += np.outer(score, dctx)", "score"),
    ("dM overwritten", "dM += np.outer(alpha, dctx)", "dM = np.outer(alpha, dctx)", "."),
    (
        "ctx and d exchanged",
        "dctx = dcat[:H]\n            dd = dcat[H:] + dnext",
        "dctx = dcat[H:]\n            dd = dcat[:H] + dnext",
        ".",
    ),
    ("dctx whole from d part", "dctx = dcat[:H]", "dctx = dcat[H:]", "wrong place"),
    ("d path of concat missing", "dd = dcat[H:] + dnext", "dd = dnext", "gets nothing"),
    ("dnext missing", "dd = dcat[H:] + dnext", "dd = dcat[H:]", "not handed"),
    ("encoder gets no final", "dh = dnext\n        for", "dh = np.zeros(H)\n        for", "."),
    ("encoder gets nothing from attention", "dh = dh + dM[s]", "pass", "."),
    ("dM reversed", "dh = dh + dM[s]", "dh = dh + dM[S-1-s]", "."),
    ("dM[s-1]", "dh = dh + dM[s]", "dh = dh + dM[s-1]", "."),
    ("encoder not recurrent", 'dh = P["Ue"].T @ da', "dh = np.zeros(H)", "not handed"),
    ("encoder transposed", 'dh = P["Ue"].T @ da', 'dh = P["Ue"] @ da', "transpose"),
    ("encoder uses Ud", 'dh = P["Ue"].T @ da', 'dh = P["Ud"].T @ da', "Ud stands"),
    ("decoder uses Ue", 'dnext = P["Ud"].T @ da', 'dnext = P["Ue"].T @ da', "Ue stands"),
    ("m derivative missing", "dpre = dm*(1-m**2)", "dpre = dm", "derivative of m"),
    ("d derivative of prev", "da = dd*(1-d**2)", "da = dd*(1-prev**2)", "."),
    ("Ud with d", 'G["Ud"] += np.outer(da, prev)', 'G["Ud"] += np.outer(da, d)', "own step"),
    ("Ud initial zeros", 'G["Ud"] += np.outer(da, prev)', 'G["Ud"] += np.outer(da, prev)*(t>0)', "first step"),
    ("Ue wraps", "before = enc[s-1] if s > 0 else np.zeros(H)", "before = enc[s-1]", "index -1"),
    ("Wo with previous m", 'G["Wo"] += np.outer(do, m)', 'G["Wo"] += np.outer(do, kept[t-1][5])', "step"),
    ("target shifted", "do[y[t]] -= 1", "do[y[t-1]] -= 1", "target"),
    (
        "output softmax jacobian besides",
        'dm = P["Wo"].T @ do',
        'do = prob*(do-np.dot(prob, do)); dm = P["Wo"].T @ do',
        ".",
    ),
    ("bc twice", 'G["bc"] += dpre', 'G["bc"] += 2*dpre', "bc"),
]
