"""
My backward pass is wrong
=========================

A recurrent network that you wrote yourself, forward and backward, over a dict of arrays: what the gradient check says
of it. Copy this file to mine.py, put your own network in its place, and run it, or `rnn-numpy gradcheck mine.py:case`.

What you will see: an LSTM with a mistake in one line of its backward pass; the report, which names the mistake and the
line that it is the way back of; and the report of the right one.
"""

# %%
# The network
# -----------
# Whatever you have will do: any layout, any names, layers, attention, a readout, a loss of your own. What counts is
# that `loss(params)` does its work in NumPy, on the arrays of `params`, and that `grads(params)` returns a gradient for
# each of their names.

import numpy as np

from rnn_numpy import gradcheck

T, D, H = 6, 3, 4
rng = np.random.default_rng(0)
x, target = rng.normal(size=(T, D)), rng.normal(size=(T, H))
params = {"W" + gate: 0.6 * rng.normal(size=(H, H + D)) for gate in "fiog"}
params |= {"b" + gate: 0.3 * rng.normal(size=H) for gate in "fiog"}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def forward(p):
    h, c, steps, total = np.zeros(H), np.zeros(H), [], 0.0
    for t in range(T):
        z, c_before = np.concatenate([h, x[t]]), c
        f, i = sigmoid(p["Wf"] @ z + p["bf"]), sigmoid(p["Wi"] @ z + p["bi"])
        o, g = sigmoid(p["Wo"] @ z + p["bo"]), np.tanh(p["Wg"] @ z + p["bg"])
        c = f * c_before + i * g
        h = o * np.tanh(c)
        steps.append((z, c_before, f, i, o, g, c, h))
        total += 0.5 * np.sum((h - target[t]) ** 2)
    return total, steps


def loss(p):
    return forward(p)[0]


# %%
# Its backward pass
# -----------------
# With a mistake that can be switched off: what flows back from c_t to c_{t-1} goes through the forget gate.


def grads(p, right=False):
    _, steps = forward(p)
    found = {name: np.zeros_like(array) for name, array in p.items()}
    dh_next, dc_next = np.zeros(H), np.zeros(H)
    for t in reversed(range(T)):
        z, c_before, f, i, o, g, c, h = steps[t]
        dh = h - target[t] + dh_next
        dc = dh * o * (1 - np.tanh(c) ** 2) + dc_next
        da = {
            "f": dc * c_before * f * (1 - f),
            "i": dc * g * i * (1 - i),
            "o": dh * np.tanh(c) * o * (1 - o),
            "g": dc * i * (1 - g**2),
        }
        dz = np.zeros(H + D)
        for gate, d in da.items():
            found["W" + gate] += np.outer(d, z)
            found["b" + gate] += d
            dz += p["W" + gate].T @ d
        dh_next = dz[:H]
        dc_next = dc * f if right else dc
    return found


def case():
    return loss, grads, params


# %%
# What is wrong with it
# ---------------------
# Nothing is told about the network. The loss is run once on arrays that write down what is done to them; back along
# these operations go the mistakes that people make; the one that gives exactly your gradient, here and at a second
# point, is named.

report = gradcheck(loss, params, grads=grads)
print(report)

# %%
# For programs: what it is, and where.

print()
print(report.diagnosis.kind, report.diagnosis.where)

# %%
# And the right one.

print()
print(gradcheck(loss, params, grads=lambda p: grads(p, right=True)))
