"""
Truncated back-propagation: what is cut, and what it costs
==========================================================

Long sequences are trained in pieces: gradients go back K steps, or to the start of a chunk of K, and no further. What
the network then follows is not the gradient. How far off it is can be had exactly, for every K, from one trace: a
truncation is a mask on the table of (t, k), and the terms are there.

What you will see: the masks of the two schemes; that training in chunks, run as it is in practice, gives what the mask
gives; and a figure, `plot_truncation.png`, of the error of size and of angle against K, for a plain network and for
LSTMs with more and more open forget gates.
"""

# %%
# Two ways to cut
# ---------------
# Write the gradient as the sum of G(t, k): what the loss of step t says about the step k at which the weight acted.
#
#     window   keep t - k < K                      every loss goes back K steps, its own included
#     chunk    keep t and k in the same chunk      the sequence is cut at multiples of K; gradients stop at a cut,
#                                                  states are carried across it
#
# A chunk is the cheaper one, and what libraries do. But a loss right after a cut goes back no step at all.

import numpy as np

from rnn_numpy import LSTM, RNN, Linear, mse_loss
from rnn_numpy.lab import decompose
from rnn_numpy.tasks import ForecastTask, load_bundled

T, H, N = 96, 32, 2
signal = ForecastTask.of(load_bundled("eeg"), length=T + 1).spread_windows(N).x  # (T + 1, N, 4)
x, y = signal[:-1], signal[1:]  # every step forecasts the next sample
readout = Linear(H, 4, rng=2)


def run(layer):
    """Return the trace of a network and what its losses say to its outputs."""
    output, _, trace = layer.forward(x)
    forecast, readout_trace = readout.forward(output)
    _, dforecast = mse_loss(forecast, y)
    return trace, readout.backward(readout_trace, dforecast).dx


lstm = LSTM(4, H, forget_bias=1.0, rng=0)
trace, doutput = run(lstm)
table = decompose(lstm, trace, doutput)

small = np.arange(8)
print("kept of the first 8 steps with K = 4 (row t, column k)\n  window     chunk")
for t in small:
    rows = (
        "".join("#" if table.truncated(4, scheme).mask[t, k] and k <= t else "." for k in small)
        for scheme in ("window", "chunk")
    )
    print("  " + "   ".join(rows))

# %%
# The same as training in chunks
# ------------------------------
# In practice nobody has the table: one runs a chunk, goes back through it, keeps the state, and runs the next. The sum
# of the gradients of these passes is, to rounding, what the mask says.

K = 16
grads, state = lstm.params.zeros_like(), None
for start in range(0, T, K):
    piece = slice(start, start + K)
    _, state, own = lstm.forward(x[piece], state)
    lstm.backward(own, doutput[piece], grads=grads)
cut = table.truncated(K, "chunk")
print(f"\ntraining in chunks of {K}, against the mask:")
for name in table.names:
    difference = np.abs(cut.gradient(name) - grads[name]).max() / np.abs(grads[name]).max()
    print(f"  {name:<13} differs by {difference:.0e}")
    assert difference < 1e-13, name

# %%
# What it costs
# -------------
# The bias is |G_K - G| / |G|, over all parameters. The same K is not the same reach: in a chunk, the mean loss goes
# back half as far as in a window.

networks = {
    "RNN": RNN(4, H, rng=0),
    "LSTM, forget bias 0": LSTM(4, H, forget_bias=0.0, rng=0),
    "LSTM, forget bias 2": LSTM(4, H, forget_bias=2.0, rng=0),
    "LSTM, forget bias 4": LSTM(4, H, forget_bias=4.0, rng=0),
}
widths = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]
curves = {}
print("\nbias of the window        " + "".join(f"K = {K:<6}" for K in (1, 4, 16, 64)))
for label, layer in networks.items():
    table = decompose(layer, *run(layer))
    for scheme in ("window", "chunk"):
        cuts = [table.truncated(K, scheme) for K in widths]
        curves[label, scheme] = [cut.bias() for cut in cuts], [1 - cut.cosine() for cut in cuts]
    biases = dict(zip(widths, curves[label, "window"][0], strict=True))
    print(f"  {label:<24}" + "".join(f"{biases[K]:<10.1e}" for K in (1, 4, 16, 64)))
    assert biases[T] == 0  # K = T cuts nothing, and that to the last bit

# %%
# The figure
# ----------
# Left, the bias. The plain network forgets so fast that a window of ten is as good as all: what is cut was next to
# nothing. The further the forget gates are open, the later the lines come down: the memory for whose sake there is an
# LSTM is what truncation takes away. Solid lines, windows, come down ever faster; dashed ones, chunks, only like 1/K,
# since whatever K is, a loss shortly after a cut loses most of what it has to say. Right, one minus the cosine: an
# update along a gradient that is too short is still an update in its direction; 0.01 is an angle of eight degrees.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.4), layout="constrained")
colours = dict(zip(networks, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
markers = dict(zip(networks, "osD^", strict=True))
titles = ("How much of the gradient is wrong", "How far its direction is off")
for ax, index, title in zip(axes, (0, 1), titles, strict=True):
    for (label, scheme), pair in curves.items():
        values = np.array(pair[index])
        ax.loglog(
            widths,
            np.where(values > 1e-12, values, np.nan),
            color=colours[label],
            marker=markers[label],
            markersize=4.5,
            linestyle="-" if scheme == "window" else (0, (4, 2)),
            label=label if scheme == "window" else None,
        )
    ax.set_xlabel("K, in steps: how far back each loss is followed")
    ax.set_xticks([1, 2, 4, 8, 16, 32, 64], labels=["1", "2", "4", "8", "16", "32", "64"])
    ax.minorticks_off()
    ax.set_title(title)
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("bias  $|G_K - G|\\;/\\;|G|$")
axes[1].set_ylabel("1 − cosine of the angle between $G_K$ and $G$")
axes[0].plot([], [], color="0.3", linestyle="-", label="windows of K steps")
axes[0].plot([], [], color="0.3", linestyle=(0, (4, 2)), label="chunks of K steps")
axes[0].legend(frameon=False, loc="lower left")
figure.suptitle("The gradient of truncated back-propagation, beside the whole one")
figure.savefig("plot_truncation.png", dpi=110)
print("\nwrote plot_truncation.png")
