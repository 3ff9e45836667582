"""A GRU: z and r in one array, the reset after the product, z keeps; a readout of the last state, squared error."""

# ruff: noqa: B007, E731

import numpy as np


def make(seed):
    rng = np.random.default_rng(seed)
    T, D, H, K = 7, 3, 4, 2
    X = rng.normal(size=(T, D))
    target = rng.normal(size=K)
    p = {
        "U": rng.normal(size=(2 * H, D)) * 0.7,
        "V": rng.normal(size=(2 * H, H)) * 0.7,
        "a": rng.normal(size=2 * H) * 0.4,
        "Un": rng.normal(size=(H, D)) * 0.7,
        "Vn": rng.normal(size=(H, H)) * 0.7,
        "an": rng.normal(size=H) * 0.4,
        "cn": rng.normal(size=H) * 0.4,
        "R": rng.normal(size=(K, H)) * 0.8,
        "s": rng.normal(size=K) * 0.3,
    }
    sigma = lambda u: 0.5 * (1 + np.tanh(0.5 * u))

    def run(p):
        h = np.zeros(H)
        tape = []
        for xt in X:
            zr = sigma(p["U"].dot(xt) + p["V"].dot(h) + p["a"])
            z, r = zr[:H], zr[H:]
            q = p["Vn"].dot(h) + p["cn"]
            n = np.tanh(p["Un"].dot(xt) + p["an"] + r * q)
            new = z * h + (1 - z) * n
            tape.append((xt, h, z, r, q, n, new))
            h = new
        out = p["R"].dot(h) + p["s"]
        err = out - target
        return np.mean(err**2), err, tape

    def loss(p):
        return run(p)[0]

    def grads(p):
        _, err, tape = run(p)
        G = {k: np.zeros(v.shape) for k, v in p.items()}
        dout = 2 * err / K
        G["R"] = np.outer(dout, tape[-1][-1])
        G["s"] = dout
        dh = p["R"].T.dot(dout)
        for xt, h, z, r, q, n, new in reversed(tape):
            dz = dh * (h - n)
            dn = dh * (1 - z)
            dhp = dh * z
            dan = dn * (1 - n**2)
            G["Un"] += np.outer(dan, xt)
            G["an"] += dan
            dr = dan * q
            dq = dan * r
            G["Vn"] += np.outer(dq, h)
            G["cn"] += dq
            dhp = dhp + p["Vn"].T.dot(dq)
            da = np.hstack([dz * z * (1 - z), dr * r * (1 - r)])
            G["U"] += np.outer(da, xt)
            G["V"] += np.outer(da, h)
            G["a"] += da
            dhp = dhp + p["V"].T.dot(da)
            dh = dhp
        return G

    return p, loss, grads


# What it is, the line, what stands there instead, and what the diagnosis must say.
MISTAKES = [
    ("no 2", "dout = 2*err/K", "dout = err/K", "factor|1/2"),
    ("no /K", "dout = 2*err/K", "dout = 2*err", "2 times|factor"),
    ("sign of err", "dout = 2*err/K", "dout = -2*err/K", "sign|negative"),
    ("R uses previous state", "tape[-1][-1])", "tape[-1][1])", "h of the step before is read"),
    ("R transposed outer", "np.outer(dout, tape[-1][-1])", "np.outer(tape[-1][-1], dout).reshape(K, H)", "."),
    ("z n sign", "dz = dh*(h-n)", "dz = dh*(n-h)", "sign"),
    ("z only h", "dz = dh*(h-n)", "dz = dh*h", "z"),
    ("z only -n", "dz = dh*(h-n)", "dz = -dh*n", "z"),
    ("z new", "dz = dh*(h-n)", "dz = dh*(new-n)", "."),
    ("roles of z", "dn = dh*(1-z)", "dn = dh*z", "z"),
    ("dhp keep 1-z", "dhp = dh*z", "dhp = dh*(1-z)", "z"),
    ("both roles", "dn = dh*(1-z)\n            dhp = dh*z", "dn = dh*z\n            dhp = dh*(1-z)", "."),
    ("direct path missing", "dhp = dh*z", "dhp = 0*dh", "h"),
    ("n derivative missing", "dan = dn*(1-n**2)", "dan = dn", "derivative of n"),
    ("n derivative sigmoid", "dan = dn*(1-n**2)", "dan = dn*n*(1-n)", "derivative of n"),
    ("reset not in dq", "dq = dan*r", "dq = dan", "r"),
    ("reset in dan", "dq = dan*r", "dq = dan*r*r", "r"),
    ("dr uses h", "dr = dan*q", "dr = dan*h", "q"),
    ("dr without bias", "dr = dan*q", 'dr = dan*(q-p["cn"])', "."),
    ("cn gets dan", 'G["cn"] += dq', 'G["cn"] += dan', "."),
    ("Vn reset before", 'G["Vn"] += np.outer(dq, h)', 'G["Vn"] += np.outer(dan, r*h)', "."),
    ("reset before in dh", 'dhp + p["Vn"].T.dot(dq)', 'dhp + r*p["Vn"].T.dot(dan)', "."),
    ("Vn not transposed", 'p["Vn"].T.dot(dq)', 'p["Vn"].dot(dq)', "transpose"),
    ("Vn path missing", 'dhp = dhp + p["Vn"].T.dot(dq)', "pass", "Vn"),
    ("V path missing", 'dhp = dhp + p["V"].T.dot(da)', "pass", "V"),
    ("z r swapped in da", "np.hstack([dz*z*(1-z), dr*r*(1-r)])", "np.hstack([dr*r*(1-r), dz*z*(1-z)])", "."),
    ("r derivative r(1+r)", "dr*r*(1-r)", "dr*r*(1+r)", "derivative of"),
    ("V uses new h", 'G["V"] += np.outer(da, h)', 'G["V"] += np.outer(da, new)', "own step"),
    ("a overwritten", 'G["a"] += da', 'G["a"] = da', "first step alone"),
    ("dh kept", "dh = dhp", "dh = dh + dhp", "own d|besides|added"),
]
