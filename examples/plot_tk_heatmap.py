"""
Who taught the weights what: the double sum of BPTT as a picture
================================================================

The lecture writes the gradient of a recurrent weight as a double sum: over the steps t at which there is a loss, and
over the earlier steps k at which the weight acted. Backward adds it up without ever having the terms. Here they are,
one by one: first in a network small enough to print all of them, then as a map, for a network that reads an EEG.

What you will see: the terms of a sum of ten, by the lecture's formula and by `decompose`; what the slip in the slides'
formula would make of them; and a figure, `plot_tk_heatmap.png`, in which each pixel is a term: how fast a plain network
forgets, how an LSTM does not, and that large terms need not be what the gradient is made of.
"""

# %%
# The formula
# -----------
# With h_t = tanh(a_t), a_t = W h_{t-1} + U x_t + b, and delta_t = dL_t/dh_t what the loss of step t alone says to h_t:
#
#     dL/dW = sum_t sum_{k <= t} G(t, k)
#     G(t, k) = (diag(1 - h_k^2) P(t, k)^T delta_t) h_{k-1}^T
#     P(t, k) = J_t J_{t-1} ... J_{k+1},    P(t, t) = I,    J_t = dh_t/dh_{t-1} = diag(1 - h_t^2) W
#
# From the right: what W was multiplied with at step k, and what reaches a_k of the loss of step t. The product has
# t - k factors, one for each step between the two. The slides write it as the product over j = k ... t of
# dh_{j+1}/dh_j. Read as it stands that is one factor too many, P(t+1, k): for t = k, where nothing lies between loss
# and weight, it multiplies by a Jacobian all the same, and for the last t by one of a step that there is not.

import numpy as np

from rnn_numpy import LSTM, RNN, Linear, mse_loss
from rnn_numpy.lab import decompose
from rnn_numpy.report import plot_lag_profile, plot_norms, plot_shares
from rnn_numpy.tasks import ForecastTask, load_bundled

rng = np.random.default_rng(0)
T, H = 4, 3
rnn = RNN(input_size=2, hidden_size=H, rng=0)
x = rng.normal(size=(T + 1, 1, 2))  # one step more, for the slides' last factor
delta = rng.normal(size=(T, 1, H))
h = rnn.forward(x)[2].h[:, 0]  # row 0 is the initial state, row t + 1 is h_t
W = rnn.params["weight_hh_l0"]


def term(t, k, slides=False):
    """Return G(t, k), (H, H), by the formula above; or with the slides' product, j = k ... t."""
    product = np.eye(H)
    for j in range(k + 1, t + 2 if slides else t + 1):
        J = (1 - h[j + 1] ** 2)[:, None] * W
        product = J @ product  # the later step stands on the left
    return np.outer((1 - h[k + 1] ** 2) * (product.T @ delta[t, 0]), h[k])


# %%
# Term by term
# ------------
# Ten terms; the table shows the size of each. `decompose` has them without any of the above: it sends what enters at
# each step back through the cell's own backward step, side by side.

output, _, trace = rnn.forward(x[:T])
table = decompose(rnn, trace, delta)
gradient = rnn.backward(trace, delta).grads["weight_hh_l0"]

print("size of G(t, k)        " + "".join(f"k = {k}     " for k in range(T)))
for t in range(T):
    print(f"  loss of step t = {t}  " + "".join(f"{np.linalg.norm(term(t, k)):8.5f}  " for k in range(t + 1)))
    for k in range(t + 1):
        difference = np.abs(table.block("weight_hh_l0", t, k) - term(t, k)).max()
        assert difference <= 1e-14 * np.abs(gradient).max(), (t, k)

by_formula = sum(term(t, k) for t in range(T) for k in range(t + 1))
by_slides = sum(term(t, k, slides=True) for t in range(T) for k in range(t + 1))
size = np.linalg.norm(gradient)
print(f"\nall ten, against backward:         off by {np.linalg.norm(by_formula - gradient) / size:.0e} of its size")
print(f"with one factor more (the slides): off by {np.linalg.norm(by_slides - gradient) / size:.0%}")
assert np.linalg.norm(by_formula - gradient) <= 1e-14 * size

# %%
# Column k = 0 is zero: there W acts on the initial state, which is 0.

# %%
# A network that reads an EEG
# ---------------------------
# Each step forecasts the next sample of four electrodes, so every step has a loss of its own. An Elman network and an
# LSTM whose forget gates are open, both as they are drawn, before any training.

T, H = 60, 32
signal = ForecastTask.of(load_bundled("eeg"), length=T + 1).spread_windows(1).x  # (T + 1, 1, 4)
x, y = signal[:-1], signal[1:]
readout = Linear(H, 4, rng=2)


def taken_apart(layer):
    """Return the table of the forecasting loss."""
    output, _, trace = layer.forward(x)
    forecast, readout_trace = readout.forward(output)
    _, dforecast = mse_loss(forecast, y)
    return decompose(layer, trace, readout.backward(readout_trace, dforecast).dx)


name = "weight_hh_l0"
tables = {"RNN": taken_apart(RNN(4, H, rng=0)), "LSTM": taken_apart(LSTM(4, H, forget_bias=3.0, rng=0))}
for kind, table in tables.items():
    norms = table.norms(name)
    reach = norms[-1, ::-1] / norms[-1, -1]
    print(f"\n{kind}: what the last loss says, by lag, beside what it says to its own step")
    print("  " + "   ".join(f"lag {lag}: {reach[lag]:.1e}" for lag in (1, 5, 10, 20, 40)))
    shares = table.share(name)
    print(f"  shares add up to {shares.sum():.12f}; those against the gradient to {shares[shares < 0].sum():.2f}")

# %%
# The figure
# ----------
# Left, sizes. Rows are losses, columns are the steps they reach; the diagonal is a loss and its own step. Go from the
# diagonal to the left: in the upper map a power of ten is lost every few steps, in the lower one hardly one in sixty.
# (The two scales differ.) Middle, signed shares of the same terms, which add up to 1. Red ones make the gradient,
# blue ones take away from it; a map of sizes cannot tell these apart. The upper gradient is made on the diagonal, of
# losses that look one step back; the lower one of whole rows. Right, what all terms of one lag give together. Grey, in
# column k = 0: exactly 0.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure = plt.figure(figsize=(15, 8.4), layout="constrained")
grid = figure.add_gridspec(2, 3)
for row, (kind, table) in enumerate(tables.items()):
    for column, draw in enumerate((plot_norms, plot_shares)):
        ax = draw(table, name, figure.add_subplot(grid[row, column]))
        ax.set_title(f"{kind}: {'size' if draw is plot_norms else 'signed share'} of each term G(t, k)")
profiles = {kind: table.lag_profile(name) for kind, table in tables.items()}
ax = plot_lag_profile(profiles, figure.add_subplot(grid[:, 2]))
ax.set_title("all terms of one lag together")
figure.suptitle("The double sum of dL/dW_hh, term by term, in two networks that read an EEG")
figure.savefig("plot_tk_heatmap.png", dpi=110)
print("\nwrote plot_tk_heatmap.png")
