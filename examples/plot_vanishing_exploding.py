"""
Vanishing and exploding gradients on a recorded EEG
===================================================

How much does a network still learn from an input that lies 100 steps back? We send a gradient into the last step alone,
let it flow back through time, and read off `trace.dh` how large it is when it arrives at each earlier state. The only
thing that differs between the networks is the gain: the spectral radius (largest absolute eigenvalue) of W_hh. Then we
do the same with an LSTM, where something else decides: how far its forget gates are open.

What you will see: two tables and a figure, `plot_vanishing_exploding.png`, in which straight lines on a log axis go
down (the gradient vanishes), along, or up (it explodes). Another file name can be given as the first argument.

The command `rnn-numpy gradflow` does the same for any series, and trains the networks as well.
"""

# %%
# A recording to read
# -------------------
# Four electrodes, standardised, cut into eight windows of 200 samples: x is (T, N, D), time first.

import math
import sys

import numpy as np

from rnn_numpy import LSTM, RNN
from rnn_numpy.tasks import ForecastTask, load_bundled

T, N, H = 200, 8, 64
windows = ForecastTask.of(load_bundled("eeg"), length=T).spread_windows(N)
x = windows.x
print(f"x: T = {x.shape[0]} steps, N = {x.shape[1]} windows, D = {x.shape[2]} electrodes")

# %%
# One network, one gradient, every lag
# ------------------------------------
# The gradient enters at the last step only, so what arrives l steps earlier has passed through exactly l Jacobians:
#
#     dL/dh_{T-l} = J_{T-l+1}^T ... J_{T-1}^T J_T^T dL/dh_T,   J_t = diag(1 - h_t^2) W_hh
#
# If each of them shrinks a vector by the same factor, the norm is a geometric sequence: a straight line on a log axis.


def norms_by_lag(rnn: RNN) -> tuple[np.ndarray, float]:
    """Norm of dL/dh at lags 0 ... T, for each window: shape (T+1, N). And the mean of 1 - h^2 on the way."""
    output, _, trace = rnn.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = np.random.default_rng(1).standard_normal((N, H)) / math.sqrt(H)  # a gradient of length about 1
    rnn.backward(trace, doutput)
    # Row t+1 of trace.dh belongs to the state after step t, row 0 to the initial state. Reversed, the row is the lag.
    return np.linalg.norm(trace.dh[::-1], axis=-1), float(np.mean(1 - output**2))


# %%
# The same network with five gains
# --------------------------------
# W_hh is drawn once and scaled. The slope of log norm against lag is the growth per step; its exponential is the factor
# by which one step back multiplies the gradient.

gains = [0.5, 0.9, 1.2, 1.5, 2.0]
curves, tanh_slopes = {}, {}
print("\ngain   norm at lag 1     lag 10     lag 50    lag 200   factor per step")
for gain in gains:
    rnn = RNN(input_size=4, hidden_size=H, rng=0)
    W_hh = rnn.params["weight_hh_l0"]
    W_hh *= gain / np.abs(np.linalg.eigvals(W_hh)).max()
    norms, tanh_slopes[gain] = norms_by_lag(rnn)
    curves[gain] = np.exp(np.log(norms).mean(axis=1))  # geometric mean over the windows
    slope = np.polyfit(np.arange(T + 1), np.log(curves[gain]), 1)[0]
    shown = "   ".join(f"{curves[gain][lag]:8.1e}" for lag in (1, 10, 50, 200))
    print(f"{gain:4.1f}        {shown}   {math.exp(slope):15.3f}")

# %%
# Why the factor is not the gain
# ------------------------------
# tanh is flatter than a straight line away from 0: its slope 1 - h^2 is below 1, and takes a share at each step. The
# more a large gain drives the states towards -1 and 1, the larger that share. So a gain of 1.2 still vanishes, and 2
# explodes by far less than a doubling per step. Here is the mean slope that the gradient meets:

print()
for gain, tanh_slope in tanh_slopes.items():
    print(f"gain {gain:3.1f}: mean of 1 - h^2 is {tanh_slope:.3f}")

# %%
# An LSTM, and its forget gates
# -----------------------------
# The state of an LSTM is the pair (h, c), so what flows back is a pair as well: dL/dh at fixed c, and dL/dc at fixed h.
# These are what a step hands back, `dh_prev` and `dc_prev`, to be read while the backward pass is halted there: the
# step before will add to dc what reaches it through its own h. Along c the way back is dc_prev = dc * f, with no weight
# in it. A forget gate f keeps the share f of the cell, and of its gradient; it is near sigmoid(b), b being its bias.


def joint_norms_by_lag(lstm: LSTM) -> tuple[np.ndarray, float]:
    """Norm of (dL/dh, dL/dc) together, at lags 0 ... T, for each window: shape (T+1, N). And the mean of f."""
    output, _, trace = lstm.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = np.random.default_rng(1).standard_normal((N, H)) / math.sqrt(H)
    norms = [np.linalg.norm(doutput[-1], axis=-1)]  # the loss does not read c
    for step in lstm.backward_steps(trace, doutput):
        norms.append(np.linalg.norm(np.concatenate([step.dh_prev, step.dc_prev], axis=-1), axis=-1))
    return np.array(norms), float(trace.f.mean())


biases = [None, 1.0, 2.0, 3.0]
lstm_curves = {}
print("\nforget bias   mean f   norm at lag 1     lag 10     lag 50    lag 200   factor per step")
for bias in biases:
    norms, mean_f = joint_norms_by_lag(LSTM(input_size=4, hidden_size=H, forget_bias=bias, rng=0))
    curve = np.exp(np.log(norms).mean(axis=1))
    name = "as torch draws it" if bias is None else f"forget bias {bias:g}"
    lstm_curves[name] = curve
    slope = np.polyfit(np.arange(T + 1), np.log(curve), 1)[0]
    shown = "   ".join(f"{curve[lag]:8.1e}" for lag in (1, 10, 50, 200))
    print(f"{'torch' if bias is None else f'{bias:.0f}':>11}    {mean_f:5.3f}        {shown}   {math.exp(slope):15.3f}")

# %%
# As torch draws it, an LSTM forgets half of its cell at each step, and its gradient vanishes, as that of a tanh network
# with a small gain does. A forget bias of 1 slows this, and with one of 3 the norm at lag 200 is again what it was at
# the loss. So gates alone are no cure for vanishing gradients; gates that are open are one. The factor per step is
# above f throughout, since some of the gradient goes round by way of W_hh.

# %%
# The figure
# ----------
# Look at three things. First, the lines are almost straight: decay by a factor per step, not by an amount. Second, how
# many powers of ten lie between gains that look alike: at gain 0.5 the number at lag 200 is too small to matter to any
# weight. Third, the line that goes up: there the oldest steps dominate the sum that is dL/dW_hh, and an update along
# it is a leap; clipping the gradient keeps the direction and shortens the leap.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.6), sharey=True, layout="constrained")
# Dark enough for the labels as well, and told apart by colour-blind readers.
colours = ["#0072B2", "#000000", "#117733", "#AA4499", "#D55E00"]
styles = [":", "-.", "--", (0, (8, 2)), "-"]
panels = [(left, {f"gain {gain}": curve for gain, curve in curves.items()}), (right, lstm_curves)]
for ax, lines in panels:
    for (name, curve), colour, style in zip(lines.items(), colours, styles, strict=False):
        ax.semilogy(curve, color=colour, linestyle=style, linewidth=2)
        ax.annotate(name, (T, curve[-1]), (6, 0), textcoords="offset points", color=colour, va="center")
    ax.axhline(curves[gains[0]][0], color="0.7", linewidth=0.8, zorder=0)
    ax.set_xlim(0, T)
    ax.minorticks_off()
    ax.set_xlabel("lag: steps back in time from the loss")
    ax.spines[["top", "right"]].set_visible(False)
lowest = math.floor(math.log10(min(curve.min() for curve in curves.values())) / 10) * 10
left.set_yticks([10.0**exponent for exponent in range(lowest, 11, 10)])
left.set_ylabel("norm of the state's gradient  (geometric mean of the windows)")
left.set_title("tanh networks: the gain")
right.set_title("LSTMs: the forget gate")
figure.suptitle("A gradient on its way back through time, in networks that read an EEG")

path = sys.argv[1] if len(sys.argv) > 1 else "plot_vanishing_exploding.png"
figure.savefig(path, dpi=120)
print(f"\nfigure: {path}")
