"""Two LSTM layers by one function, rows, gates in one array; softmax, cross entropy, a mean over rows and steps."""

# ruff: noqa: RUF059

import numpy as np


def make(seed):
    rng = np.random.default_rng(seed)
    T, N, D, H, V = 5, 3, 4, 3, 6
    x = rng.normal(size=(T, N, D))
    y = rng.integers(0, V, (T, N))
    P = {
        "Wx1": rng.normal(size=(D, 4 * H)) * 0.6,
        "Wh1": rng.normal(size=(H, 4 * H)) * 0.6,
        "b1": rng.normal(size=4 * H) * 0.4,
        "Wx2": rng.normal(size=(H, 4 * H)) * 0.6,
        "Wh2": rng.normal(size=(H, 4 * H)) * 0.6,
        "b2": rng.normal(size=4 * H) * 0.4,
        "Wy": rng.normal(size=(H, V)) * 0.6,
        "by": rng.normal(size=V) * 0.3,
    }

    def sigm(a):
        return 1 / (1 + np.exp(-a))

    def step(xt, h, c, Wx, Wh, b):
        a = xt @ Wx + h @ Wh + b
        i, f, o, g = sigm(a[:, :H]), sigm(a[:, H : 2 * H]), sigm(a[:, 2 * H : 3 * H]), np.tanh(a[:, 3 * H :])
        c2 = f * c + i * g
        h2 = o * np.tanh(c2)
        return h2, c2, (xt, h, c, i, f, o, g, c2, h2)

    def fw(P):
        h1 = np.zeros((N, H))
        c1 = np.zeros((N, H))
        h2 = np.zeros((N, H))
        c2 = np.zeros((N, H))
        S1, S2, PR = [], [], []
        L = 0
        for t in range(T):
            h1, c1, s1 = step(x[t], h1, c1, P["Wx1"], P["Wh1"], P["b1"])
            h2, c2, s2 = step(h1, h2, c2, P["Wx2"], P["Wh2"], P["b2"])
            S1.append(s1)
            S2.append(s2)
            z = h2 @ P["Wy"] + P["by"]
            z = z - z.max(axis=1, keepdims=True)
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            PR.append(p)
            L = L - np.log(p[np.arange(N), y[t]]).sum() / N
        return L / T, S1, S2, PR

    def loss(P):
        return fw(P)[0]

    def grads(P):
        L, S1, S2, PR = fw(P)
        G = {k: np.zeros_like(v) for k, v in P.items()}
        dh1n = np.zeros((N, H))
        dc1n = np.zeros((N, H))
        dh2n = np.zeros((N, H))
        dc2n = np.zeros((N, H))

        def back(s, dh, dcn, k):
            xt, hp, cp, i, f, o, g, c, h = s
            tc = np.tanh(c)
            do = dh * tc
            dc = dh * o * (1 - tc * tc) + dcn
            di = dc * g
            df = dc * cp
            dg = dc * i
            da = np.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g * g)], axis=1)
            G["Wx" + k] += xt.T @ da
            G["Wh" + k] += hp.T @ da
            G["b" + k] += da.sum(axis=0)
            return da @ P["Wx" + k].T, da @ P["Wh" + k].T, dc * f

        for t in reversed(range(T)):
            dz = PR[t].copy()
            dz[np.arange(N), y[t]] -= 1
            dz = dz / N / T
            G["Wy"] += S2[t][-1].T @ dz
            G["by"] += dz.sum(axis=0)
            dh2 = dz @ P["Wy"].T + dh2n
            dx2, dh2n, dc2n = back(S2[t], dh2, dc2n, "2")
            dh1 = dx2 + dh1n
            dx1, dh1n, dc1n = back(S1[t], dh1, dc1n, "1")
        return G

    return P, loss, grads


# What it is, the line, what stands there instead, and what the diagnosis must say.
MISTAKES = [
    ("loss not /T in backward", "dz = dz/N/T", "dz = dz/N", "factor"),
    ("loss not /N", "dz = dz/N/T", "dz = dz/T", "factor|1/N"),
    ("no -1", "dz[np.arange(N), y[t]] -= 1", "pass", "target"),
    ("+1", "dz[np.arange(N), y[t]] -= 1", "dz[np.arange(N), y[t]] += 1", "target"),
    ("target t-1", "y[t]] -= 1", "y[t-1]] -= 1", "target of the step before"),
    ("by mean", 'G["by"] += dz.sum(axis=0)', 'G["by"] += dz.mean(axis=0)', "by"),
    ("by overwritten", 'G["by"] += dz.sum(axis=0)', 'G["by"] = dz.sum(axis=0)', "by"),
    ("Wy uses layer 1", 'G["Wy"] += S2[t][-1].T@dz', 'G["Wy"] += S1[t][-1].T@dz', "Wy"),
    ("Wy uses previous h", 'G["Wy"] += S2[t][-1].T@dz', 'G["Wy"] += S2[t][1].T@dz', "step before"),
    ("dh2n dropped", 'dh2 = dz@P["Wy"].T + dh2n', 'dh2 = dz@P["Wy"].T', "not handed"),
    ("layer 1 gets no recurrent", "dh1 = dx2 + dh1n", "dh1 = dx2", "not handed"),
    ("layer 1 gets nothing from layer 2", "dh1 = dx2 + dh1n", "dh1 = dh1n", "gets nothing|0 throughout"),
    ("dx and dh exchanged layer 2", "dx2, dh2n, dc2n = back(S2", "dh2n, dx2, dc2n = back(S2", "."),
    ("layer 1 gets dh2 not dx2", "dh1 = dx2 + dh1n", "dh1 = dh2 + dh1n", "."),
    ("c after in df", "df = dc*cp", "df = dc*c", "own step"),
    ("dcn not passed", "dc = dh*o*(1-tc*tc) + dcn", "dc = dh*o*(1-tc*tc)", "dc"),
    ("tanh' of c with c", "dc = dh*o*(1-tc*tc) + dcn", "dc = dh*o*(1-c*c) + dcn", "derivative of tanh"),
    ("do uses c", "do = dh*tc", "do = dh*c", "tanh"),
    ("o derivative missing", "do*o*(1-o), dg", "do, dg", "derivative of o"),
    ("i f order in da", "[di*i*(1-i), df*f*(1-f), do", "[df*f*(1-f), di*i*(1-i), do", "."),
    ("g derivative 1-g", "dg*(1-g*g)", "dg*(1-g)", "derivative of g"),
    ("dh with Wx", 'da@P["Wh"+k].T, dc*f', 'da@P["Wx"+k].T[:, :H], dc*f', "."),
    ("dc not f but i", 'P["Wh"+k].T, dc*f', 'P["Wh"+k].T, dc*i', "f"),
    ("bias only first row", 'G["b"+k] += da.sum(axis=0)', 'G["b"+k] += da[0]', "row"),
    ("Wh with h own", 'G["Wh"+k] += hp.T@da', 'G["Wh"+k] += h.T@da', "own step"),
    ("dc before recurrent", "di = dc*g", "di = dh*o*(1-tc*tc)*g", "before"),
    ("Wx overwritten", 'G["Wx"+k] += xt.T@da', 'G["Wx"+k] = xt.T@da', "first step alone"),
    (
        "states swapped between layers",
        "dx1, dh1n, dc1n = back(S1[t], dh1, dc1n",
        "dx1, dh1n, dc1n = back(S1[t], dh1, dc2n",
        ".",
    ),
    ("forward order", "for t in reversed(range(T)):\n            dz", "for t in range(T):\n            dz", "."),
]
