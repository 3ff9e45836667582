"""Two tanh layers with learnable starts, states written into arrays; a readout of all steps."""

import numpy as np


def make(seed):
    rng = np.random.default_rng(seed)
    T, D, A, B, O = 6, 3, 4, 5, 2
    u = rng.normal(size=(T, D))
    goal = rng.normal(size=(T, O))
    w = {
        "W1": rng.normal(size=(A, D)) * 0.7,
        "R1": rng.normal(size=(A, A)) * 0.6,
        "b1": rng.normal(size=A) * 0.4,
        "s1": rng.normal(size=A) * 0.5,
        "W2": rng.normal(size=(B, A)) * 0.7,
        "R2": rng.normal(size=(B, B)) * 0.6,
        "b2": rng.normal(size=B) * 0.4,
        "s2": rng.normal(size=B) * 0.5,
        "C": rng.normal(size=(O, B)) * 0.7,
        "d": rng.normal(size=O) * 0.3,
    }

    def forward(w):
        H1 = np.zeros((T + 1, A))
        H2 = np.zeros((T + 1, B))
        Y = np.zeros((T, O))
        H1[0] = w["s1"]
        H2[0] = w["s2"]
        for t in range(T):
            H1[t + 1] = np.tanh(w["W1"] @ u[t] + w["R1"] @ H1[t] + w["b1"])
            H2[t + 1] = np.tanh(w["W2"] @ H1[t + 1] + w["R2"] @ H2[t] + w["b2"])
            Y[t] = w["C"] @ H2[t + 1] + w["d"]
        return 0.5 * np.sum((Y - goal) ** 2) / T, H1, H2, Y

    def loss(w):
        return forward(w)[0]

    def grads(w):
        _, H1, H2, Y = forward(w)
        g = {k: np.zeros(v.shape) for k, v in w.items()}
        dY = (Y - goal) / T
        g["C"] = dY.T @ H2[1:]
        g["d"] = dY.sum(0)
        n1 = np.zeros(A)
        n2 = np.zeros(B)
        for t in range(T - 1, -1, -1):
            d2 = w["C"].T @ dY[t] + n2
            e2 = d2 * (1 - H2[t + 1] ** 2)
            g["W2"] += np.outer(e2, H1[t + 1])
            g["R2"] += np.outer(e2, H2[t])
            g["b2"] += e2
            n2 = w["R2"].T @ e2
            d1 = w["W2"].T @ e2 + n1
            e1 = d1 * (1 - H1[t + 1] ** 2)
            g["W1"] += np.outer(e1, u[t])
            g["R1"] += np.outer(e1, H1[t])
            g["b1"] += e1
            n1 = w["R1"].T @ e1
        g["s1"] = n1
        g["s2"] = n2
        return g

    return w, loss, grads


# What it is, the line, what stands there instead, and what the diagnosis must say.
MISTAKES = [
    ("no /T", "dY = (Y-goal)/T", "dY = Y-goal", "6 times|factor|6"),
    ("s1 missing", 'g["s1"] = n1', "pass", "s1"),
    ("s2 is d of step 0", 'g["s2"] = n2', 'g["s2"] = d2', "."),
    ("s1 is e1", 'g["s1"] = n1', 'g["s1"] = e1', "."),
    ("C with states before", "dY.T@H2[1:]", "dY.T@H2[:-1]", "step before"),
    ("d mean", "dY.sum(0)", "dY.mean(0)", "d"),
    ("C only last", "dY.T@H2[1:]", "np.outer(dY[-1], H2[-1])", "C"),
    ("loss off by one", 'd2 = w["C"].T@dY[t]', 'd2 = w["C"].T@dY[t-1]', "loss|step"),
    ("C not through", 'd2 = w["C"].T@dY[t] + n2', 'd2 = w["C"].T@dY[t]*(t==T-1) + n2', "last"),
    ("n2 dropped", "@dY[t] + n2", "@dY[t]", "not handed"),
    ("derivative of H2[t]", "e2 = d2*(1-H2[t+1]**2)", "e2 = d2*(1-H2[t]**2)", "derivative|step"),
    ("derivative without square", "e2 = d2*(1-H2[t+1]**2)", "e2 = d2*(1-H2[t+1])", "derivative"),
    ("derivative missing 1", "e1 = d1*(1-H1[t+1]**2)", "e1 = d1", "derivative"),
    ("derivative 1 of H2", "e1 = d1*(1-H1[t+1]**2)", "e1 = d1*(1-np.tanh(H1[t+1])**2)", "derivative"),
    ("W2 with H1[t]", 'g["W2"] += np.outer(e2, H1[t+1])', 'g["W2"] += np.outer(e2, H1[t])', "step"),
    ("R2 with H2[t+1]", "np.outer(e2, H2[t])", "np.outer(e2, H2[t+1])", "own step"),
    ("R2 not transposed", 'n2 = w["R2"].T@e2', 'n2 = w["R2"]@e2', "transpose"),
    ("R2 from d2", 'n2 = w["R2"].T@e2', 'n2 = w["R2"].T@d2', "activation|derivative"),
    ("W2 from d2", 'd1 = w["W2"].T@e2', 'd1 = w["W2"].T@d2', "."),
    ("n1 dropped", 'w["W2"].T@e2 + n1', 'w["W2"].T@e2', "not handed"),
    ("layer 1 cut", 'd1 = w["W2"].T@e2 + n1', "d1 = n1", "."),
    ("b1 gets d1", 'g["b1"] += e1', 'g["b1"] += d1', "b1"),
    ("u off by one", "np.outer(e1, u[t])", "np.outer(e1, u[t-1])", "data|step"),
    ("R1 wraps at 0", "np.outer(e1, H1[t])", "np.outer(e1, H1[t-1+1] if t else H1[-1])", "."),
    ("R1 H1[t-1]", "np.outer(e1, H1[t])", "np.outer(e1, H1[t-1])", "two steps"),
    ("first step left out", "for t in range(T-1, -1, -1)", "for t in range(T-1, 0, -1)", "first step"),
    ("last step left out", "for t in range(T-1, -1, -1)", "for t in range(T-2, -1, -1)", "last step"),
]
