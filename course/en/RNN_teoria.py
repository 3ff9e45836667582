"""
The theory of recurrent networks, in numbers
============================================

The lecture's first notebook: the recurrent neuron, the sizes of its parameters, back-propagation through time (BPTT)
term by term, the gradient that vanishes or explodes, clipping, LSTM and GRU. All that is on the slides is computed
here; where they have a slip, it is said which, and what is right.

It needs ``pip install ".[lab,data]" notebook`` and nothing else. There are four exercises: a function to finish, and a
cell with ``grade``, which says which equation is wrong. The solutions are hidden below each of them.
"""

# %%
# The recurrent neuron
# --------------------
# At each step it does the same, with the same parameters, to the step's input and its own last state:
#
# ::
#
#     a_t = b + W h_{t-1} + U x_t
#     h_t = tanh(a_t)
#
# With x = [0.7, 0.9, 1.1], U = 0.2, W = 0.3 and b = -0.1. The slide writes -0.3 within the tanh, but its results,
# 0.0399, 0.0917 and 0.1464, are those of b = -0.1, their decimals cut off. The right column shows what -0.3 would give.

import matplotlib.pyplot as plt
import numpy as np

from rnn_numpy import GRU, LSTM, RNN, clip_grad_norm, clip_grad_value
from rnn_numpy.checks import complex_step, grade
from rnn_numpy.lab import decompose

x = np.array([0.7, 0.9, 1.1])
U, W, b = 0.2, 0.3, -0.1


def neuron(b):
    h = [0.0]  # h[0] = h_{-1}
    for x_t in x:
        h.append(np.tanh(b + W * h[-1] + U * x_t))
    return np.array(h)


h = neuron(b)
print(f"{'t':>2} {'x_t':>5} {'h_t, b = -0.1':>15} {'h_t, b = -0.3':>15}")
for t in range(3):
    print(f"{t:2} {x[t]:5} {h[t + 1]:15.5f} {neuron(-0.3)[t + 1]:15.5f}")

# %%
# The sizes
# ---------
# ``RNN`` is ``torch.nn.RNN`` written in NumPy: the same options, the same names, the same sizes. Let D be the size of
# the input (``input_size``) and H that of the state (``hidden_size``):
#
# ::
#
#     h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
#
#     W_ih (H, D)     b_ih (H,)     W_hh (H, H)     b_hh (H,)
#
# Data are (T, N, D): T steps, N sequences. From the second layer on, the input is the state of the layer below, so that
# W_ih is (H, H). The slide's four networks, and then three to be filled in by hand before looking: Example A (D = 2, H
# = 3), B (D = 3, H = 4, two layers) and C (D = 3, H = 4, bidirectional).

T, N = 5, 1


def sizes(title, D, H, **options):
    rnn = RNN(D, H, rng=0, **options)
    output, h_n, _ = rnn.forward(np.zeros((T, N, D)))
    print(f"\n{title}: D = {D}, H = {H}  x {(T, N, D)}  output {output.shape}  h_n {h_n.shape}")
    for name, array in rnn.params.items():
        print(f"  {name:25} {array.shape}")


sizes("1", D=1, H=1)
sizes("2", D=1, H=3)
sizes("3", D=3, H=3)
sizes("4", D=3, H=3, num_layers=2)
sizes("A", D=2, H=3)
sizes("B", D=3, H=4, num_layers=2)
sizes("C", D=3, H=4, bidirectional=True)

# %%
# The double sum
# --------------
# What is the derivative of the loss by W? Let each state forecast the next input: L is the sum of L_t = (h_t - y_t)^2 /
# 2, with y = [0.9, 1.1, 1.3]. W acted at all steps k up to t, so that
#
# ::
#
#     dL/dW = sum_t sum_{k <= t} G(t, k)
#     G(t, k) = dL_t/dh_t * P(t, k) * (1 - h_k^2) h_{k-1}
#     P(t, k) = J_t J_{t-1} ... J_{k+1},   P(t, t) = 1,   J_t = dh_t/dh_{t-1} = (1 - h_t^2) W
#
# The last factor is the immediate derivative of h_k: that of W at step k, with h_{k-1} held fixed. Between t and k
# there are t - k factors. Read as it stands, the slide's product, from j = k to j = t, has one too many; and since t
# and k begin at 0, it is well to say that row 0 of ``h`` is the initial state, h_{-1}.

y = np.array([0.9, 1.1, 1.3])
slope = 1 - h[1:] ** 2  # 1 - h_t^2
J = slope * W


def G(t, k, immediate, slides=False):
    factors = J[k : t + 1] if slides else J[k + 1 : t + 1]
    return (h[t + 1] - y[t]) * np.prod(factors) * slope[k] * immediate[k]


def table(name, immediate):
    print(f"\nG(t, k), dL/d{name}" + "".join(f"{f'k = {k}':>11}" for k in range(3)) + f"{'sum':>11}")
    rows = [[G(t, k, immediate) for k in range(t + 1)] for t in range(3)]
    for t, row in enumerate(rows):
        cells = "".join(f"{cell + 0.0:11.6f}" for cell in row)
        print(f"  t = {t}        {cells:33}{sum(row) + 0.0:11.6f}")
    print(f"  {'sum':44}{sum(map(sum, rows)):11.6f}")
    return sum(map(sum, rows))


# W: h_{k-1}; U: x_k; b: 1
dW, dU, db = table("W", h[:-1]), table("U", x), table("b", np.ones(3))

# %%
# The slide's three gradients differ in that last factor alone: h_{k-1}, x_k or 1. The column k = 0 of W is 0, since
# there W multiplies the initial state, which is 0. Nobody computes BPTT like this: ``backward`` goes through the steps
# once, from the last to the first, and arrives at the same sum. And so does the derivative by the complex step, which
# knows of no chains and no sums. The last row is the product with one factor too many.

rnn = RNN(1, 1, rng=0)
rnn.params.flat[:] = [U, W, b, 0.0]
output, _, trace = rnn.forward(x.reshape(3, 1, 1))
back = rnn.backward(trace, output - y.reshape(3, 1, 1))


def loss(p):
    h_t, total = 0.0, 0.0
    for x_t, y_t in zip(x, y, strict=True):
        h_t = np.tanh(p["b"] + p["W"] * h_t + p["U"] * x_t)
        total = total + (h_t - y_t) ** 2 / 2
    return total.sum()


exact = complex_step(loss, {"U": np.array([U]), "W": np.array([W]), "b": np.array([b])})
slides = sum(G(t, k, h[:-1], slides=True) for t in range(3) for k in range(t + 1))
print(f"{'':14}{'dL/dU':>12}{'dL/dW':>12}{'dL/db':>12}")
print(f"{'sum G(t, k)':14}{dU:12.7f}{dW:12.7f}{db:12.7f}")
grads = back.grads
rows = [grads["weight_ih_l0"].item(), grads["weight_hh_l0"].item(), grads["bias_ih_l0"].item()]
print(f"{'backward':14}" + "".join(f"{value:12.7f}" for value in rows))
print(f"{'complex_step':14}" + "".join(f"{exact[name].item():12.7f}" for name in "UWb"))
print(f"{'j = k ... t':14}{'':12}{slides:12.7f}")
assert np.allclose([dU, dW, db], rows, rtol=1e-14, atol=0)

# %%
# With matrices nothing changes, but that J_t = diag(1 - h_t^2) W_hh and that the order of the factors matters: the
# newest on the left. ``decompose`` gives all terms of any network; added up, they are the gradient.

rng = np.random.default_rng(0)
rnn = RNN(2, 3, rng=0)
output, _, trace = rnn.forward(rng.normal(size=(4, 1, 2)))
doutput = rng.normal(size=output.shape)
terms = decompose(rnn, trace, doutput)
blocks = [[terms.block("weight_hh_l0", t, k) for k in range(t + 1)] for t in range(4)]
total = sum(sum(row) for row in blocks)
gradient = rnn.backward(trace, doutput).grads["weight_hh_l0"]
print(total.round(6))
assert np.allclose(total, gradient, rtol=1e-13, atol=1e-15)

# %%
# Exercise 1: one step backward
# -----------------------------
# A step's matrices have a row for each sequence: ``x_t`` (N, D), ``h_prev`` and ``h_t`` (N, H). ``dh_t`` holds already
# all that depends on h_t: the step's loss and the future. Write
#
# ::
#
#     B2   da_t      the same on the other side of the tanh
#     B0   dx_t      what comes to the input
#     B1   dh_prev   what is handed to the step before
#     BW   dW_ih, dW_hh, db_ih, db_hh   summed over the N sequences
#
# This is how ``grade`` speaks. The next step has a single mistake; look for it before you read the verdict.


def wrong_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
    da_t = dh_t * (1 - h_t**2)
    db = da_t.sum(axis=0)
    return da_t @ W_ih, da_t @ W_hh, da_t.T @ x_t, da_t.T @ h_t, db, db


print(grade(wrong_step, lang="both"))

# %%
# Now yours. Replace the dots and run the cell until it says that all is right.


def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
    da_t = ...
    dx_t = ...
    dh_prev = ...
    dW_ih, dW_hh = ..., ...
    db_ih = db_hh = ...
    return dx_t, dh_prev, dW_ih, dW_hh, db_ih, db_hh


print(grade(my_step, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
#         da_t = dh_t * (1 - h_t**2)
#         dx_t = da_t @ W_ih
#         dh_prev = da_t @ W_hh
#         dW_ih, dW_hh = da_t.T @ x_t, da_t.T @ h_prev
#         db_ih = db_hh = da_t.sum(axis=0)
#         return dx_t, dh_prev, dW_ih, dW_hh, db_ih, db_hh
#
# .. raw:: html
#
#     </details>
#
# Exercise 2: all steps
# ---------------------
# ``h`` is (T+1, N, H), and its row 0 is the initial state: step t reads ``h[t]`` and writes ``h[t + 1]``.
# ``doutput[t]`` is what the loss says to the state after step t, ``dh_n`` what it says to the last one besides.


def my_backward(doutput, dh_n, x, h, W_ih, W_hh):
    dx, dW_ih, dW_hh, db = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(len(W_hh))
    dh = dh_n
    for t in reversed(range(len(x))):
        ...
    return dx, dh, dW_ih, dW_hh, db, db


print(grade(my_backward, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_backward(doutput, dh_n, x, h, W_ih, W_hh):
#         dx, dW_ih, dW_hh, db = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(len(W_hh))
#         dh = dh_n
#         for t in reversed(range(len(x))):
#             da_t = (dh + doutput[t]) * (1 - h[t + 1] ** 2)
#             dx[t] = da_t @ W_ih
#             dW_ih += da_t.T @ x[t]
#             dW_hh += da_t.T @ h[t]
#             db += da_t.sum(axis=0)
#             dh = da_t @ W_hh
#         return dx, dh, dW_ih, dW_hh, db, db
#
# .. raw:: html
#
#     </details>
#
# It vanishes or explodes
# -----------------------
# What the loss of the last step says to the state l steps earlier has passed through l Jacobians:
#
# ::
#
#     dL/dh_{t-l} = J_{t-l+1}^T ... J_{t-1}^T J_t^T dL/dh_t,   J_t = diag(1 - h_t^2) W_hh
#
# If each of them shrinks it, the norm falls exponentially with the lag l, like q^l with q < 1, and far steps contribute
# nothing; if each enlarges it, it explodes. Only the scale of W_hh is changed here, its spectral radius (the largest
# absolute eigenvalue): 0.5, 1 or 1.5. The input is so small that the tanh hardly bends; with large ones it saturates, 1
# - h_t^2 falls, and it brakes.

T, H = 60, 32
x = 1e-12 * np.random.default_rng(1).normal(size=(T, 1, 1))


def norms(layer):
    output, _, trace = layer.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = 1 / np.sqrt(H)
    grads = layer.backward(trace, doutput).grads
    return np.linalg.norm(trace.dh[1:, 0], axis=1)[::-1], grads


def scaled(radius):
    rnn = RNN(1, H, rng=0)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        rnn.params[name][...] = 0
    W_hh = rnn.params["weight_hh_l0"]
    W_hh *= radius / np.abs(np.linalg.eigvals(W_hh)).max()
    return rnn


rnns = {radius: scaled(radius) for radius in (0.5, 1.0, 1.5)}
print("|dL/dh| " + "".join(f"{f'l = {lag}':>11}" for lag in (0, 10, 20, 40, 59)))
for radius, rnn in rnns.items():
    line = norms(rnn)[0]
    print(f"  {radius}   " + "".join(f"{line[lag]:11.1e}" for lag in (0, 10, 20, 40, 59)))

# %%
# Clipping
# --------
# There is a cheap cure for exploding: if the norm of all gradients together exceeds a maximum, all of them are
# multiplied by the same number, and the direction stays. To clip each entry by itself (``clip_grad_value``) changes it:
# the cosine is no longer 1. Neither brings back what has vanished.

for clip in (lambda grads: clip_grad_norm(grads, 1.0), lambda grads: clip_grad_value(grads, 0.01)):
    _, grads = norms(rnns[1.5])
    before = grads.flat.copy()
    clip(grads)
    cosine = before @ grads.flat / np.linalg.norm(before) / np.linalg.norm(grads.flat)
    print(f"|g| = {np.linalg.norm(before):.3g} -> {np.linalg.norm(grads.flat):.3g}   cos = {cosine:.4f}")

# %%
# LSTM and GRU
# ------------
# Against vanishing there is another neuron. In the LSTM, the state c passes from step to step multiplied by the gate f
# alone; in the GRU, h passes multiplied by z:
#
# ::
#
#     LSTM   i, f, o = sigmoid(...)    g = tanh(...)    c_t = f * c_{t-1} + i * g    h_t = o * tanh(c_t)
#     GRU    r, z = sigmoid(...)                        q = W_hn h_{t-1} + b_hn
#            n = tanh(W_in x_t + b_in + r * q)          h_t = (1 - z) * n + z * h_{t-1}
#
# With f or z near 1, the gradient gets far. Here both with their gates open from the beginning: a bias of 3 in f and in
# z.

lstm, gru = LSTM(1, H, rng=0), GRU(1, H, rng=0)
for layer in (lstm, gru):
    layer.params["bias_ih_l0"][H : 2 * H] = 3.0  # LSTM: i, f, g, o; GRU: r, z, n

curves = {f"RNN {radius}": norms(rnn)[0] for radius, rnn in rnns.items()}
curves |= {"LSTM": norms(lstm)[0], "GRU": norms(gru)[0]}
looks = [("#56B4E9", ":"), ("#0072B2", "--"), ("#D55E00", "-."), ("#009E73", "-"), ("#CC79A7", (0, (5, 1)))]

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for (label, line), (colour, style) in zip(curves.items(), looks, strict=True):
    ax.semilogy(line, color=colour, linestyle=style, linewidth=2, label=label)
ax.set(xlabel="$l$", ylabel=r"$\|\partial L / \partial h_{t-l}\|$", xlim=(0, T - 1))
ax.legend(frameon=False, loc="lower left")
ax.grid(alpha=0.3)
figure.savefig("RNN_teoria_gradients.png", dpi=110)

# %%
# In the figure, the lag l grows to the right: the RNN of radius 0.5 loses the gradient within few steps, that of 1.5
# lets it grow without end. Of the LSTM's 8 % are left after 59 steps, of the GRU's 6 %; that of radius 1 keeps 43 %,
# but only because the tanh does not bend with so small an input. (Of the LSTM, dh is shown; more goes through c.)
#
# Exercise 3: one step of the LSTM
# --------------------------------
# ``dh_t`` is what comes to h_t, and ``dc_t`` what step t+1 handed back to c_t. The blocks of W_ih and W_hh are in the
# order i, f, g, o.


def my_lstm_step(dh_t, dc_t, x_t, h_prev, c_prev, c_t, i, f, g, o, W_ih, W_hh):
    dc = ...
    da_i, da_f, da_g, da_o = ..., ..., ..., ...
    da = np.zeros((len(x_t), len(W_hh)))
    dc_prev = ...
    return da @ W_ih, da @ W_hh, dc_prev, da.T @ x_t, da.T @ h_prev, da.sum(axis=0), da.sum(axis=0)


print(grade(my_lstm_step, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_lstm_step(dh_t, dc_t, x_t, h_prev, c_prev, c_t, i, f, g, o, W_ih, W_hh):
#         dc = dc_t + dh_t * o * (1 - np.tanh(c_t) ** 2)
#         da_o = dh_t * np.tanh(c_t) * o * (1 - o)
#         da_i, da_f, da_g = dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2)
#         da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
#         dc_prev = dc * f
#         return da @ W_ih, da @ W_hh, dc_prev, da.T @ x_t, da.T @ h_prev, da.sum(axis=0), da.sum(axis=0)
#
# .. raw:: html
#
#     </details>
#
# Exercise 4: one step of the GRU
# -------------------------------
# h_{t-1} comes to h_t in two ways: directly, by z, and through the gates. And W_hh sees another gradient than W_ih: in
# the rows of n, q is multiplied by r. The blocks are in the order r, z, n.


def my_gru_step(dh_t, x_t, h_prev, r, z, n, q, W_ih, W_hh):
    da_z, da_n, da_r = ..., ..., ...
    da_ih = np.zeros((len(x_t), len(W_hh)))
    da_hh = np.zeros((len(x_t), len(W_hh)))
    dh_prev = ...
    return da_ih @ W_ih, dh_prev, da_ih.T @ x_t, da_hh.T @ h_prev, da_ih.sum(axis=0), da_hh.sum(axis=0)


print(grade(my_gru_step, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_gru_step(dh_t, x_t, h_prev, r, z, n, q, W_ih, W_hh):
#         da_z = dh_t * (h_prev - n) * z * (1 - z)
#         da_n = dh_t * (1 - z) * (1 - n**2)
#         da_r = da_n * q * r * (1 - r)
#         da_ih = np.concatenate([da_r, da_z, da_n], axis=1)
#         da_hh = np.concatenate([da_r, da_z, da_n * r], axis=1)
#         dh_prev = dh_t * z + da_hh @ W_hh
#         return da_ih @ W_ih, dh_prev, da_ih.T @ x_t, da_hh.T @ h_prev, da_ih.sum(axis=0), da_hh.sum(axis=0)
#
# .. raw:: html
#
#     </details>
#
# The next notebook is RNN_signal_TP: forecasting a real signal.
