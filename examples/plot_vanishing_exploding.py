"""
Vanishing and exploding gradients on a recorded EEG
===================================================

How much does a network still learn from an input that lies 100 steps back? We send a gradient into the last step alone,
let it flow back through time, and read off `trace.dh` how large it is when it arrives at each earlier state. The only
thing that differs between the networks is the gain: the spectral radius (largest absolute eigenvalue) of W_hh.

What you will see: a table and a figure, `plot_vanishing_exploding.png`, in which straight lines on a log axis go down
(the gradient vanishes), along, or up (it explodes). Another file name can be given as the first argument.

The command `rnn-numpy gradflow` does the same for any series, and trains the networks as well.
"""

# %%
# A recording to read
# -------------------
# Four electrodes, standardised, cut into eight windows of 200 samples: x is (T, N, D), time first.

import math
import sys

import numpy as np

from rnn_numpy import RNN
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
# The figure
# ----------
# Look at three things. First, the lines are almost straight: decay by a factor per step, not by an amount. Second, how
# many powers of ten lie between gains that look alike: at gain 0.5 the number at lag 200 is too small to matter to any
# weight. Third, the line that goes up: there the oldest steps dominate the sum that is dL/dW_hh, and an update along
# it is a leap; clipping the gradient keeps the direction and shortens the leap.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
# Dark enough for the labels as well, and told apart by colour-blind readers.
colours = ["#0072B2", "#000000", "#117733", "#AA4499", "#D55E00"]
styles = [":", "-.", "--", (0, (8, 2)), "-"]
for gain, colour, style in zip(gains, colours, styles, strict=True):
    ax.semilogy(curves[gain], color=colour, linestyle=style, linewidth=2)
    ax.annotate(f"gain {gain}", (T, curves[gain][-1]), (6, 0), textcoords="offset points", color=colour, va="center")
ax.axhline(curves[gains[0]][0], color="0.7", linewidth=0.8, zorder=0)
ax.set_xlim(0, T)
lowest = math.floor(math.log10(min(curve.min() for curve in curves.values())) / 10) * 10
ax.set_yticks([10.0**exponent for exponent in range(lowest, 11, 10)])
ax.minorticks_off()
ax.set_xlabel("lag: steps back in time from the loss")
ax.set_ylabel("norm of dL/dh  (geometric mean of the windows)")
ax.set_title("A gradient on its way back through time: tanh networks that read an EEG")
ax.spines[["top", "right"]].set_visible(False)

path = sys.argv[1] if len(sys.argv) > 1 else "plot_vanishing_exploding.png"
figure.savefig(path, dpi=120)
print(f"\nfigure: {path}")
