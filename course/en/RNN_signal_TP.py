"""
Practice: forecasting a signal
==============================

The lecture's second notebook: a real series, what is to be beaten, a network that learns to say the next month, and
what happens to the gradient when the network feeds on its own forecasts. The series is the temperature of the sea off
Peru, month by month, from 1950 to 2010: that of El Niño. It comes with statsmodels and is in the public domain.

It needs ``pip install ".[lab,data]" notebook``. There is an exercise that ``grade`` corrects, and two questions, with
hidden answers.
"""

# %%
# The series
# ----------
# It is cut in time: the last fifth is the test, and is not touched before the end; of what comes before, the last tenth
# is for validation, and the rest trains. Mean and standard deviation, by which the series is scaled, are those of the
# training part alone: were they those of the whole series, the future would leak into the past.

import matplotlib.pyplot as plt
import numpy as np

from rnn_numpy import Adam, Forecaster, clip_grad_norm
from rnn_numpy.checks import grade
from rnn_numpy.lab import horizon_gradients
from rnn_numpy.models import Rollout, forecast
from rnn_numpy.tasks import SplitSeries, autoregressions, baselines, load_series, rolling_origins, score

series = load_series("elnino")
split = SplitSeries.of(series)
print(series)
print(f"n = {split.train} + {split.known - split.train} + {len(split) - split.known}")

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.plot(series.times, series.values[:, 0], color="#0072B2", linewidth=0.8)
for place in (split.train, split.known):
    ax.axvline(series.times[place], color="#D55E00", linestyle="--", linewidth=1.2)
ax.set(xlabel="t", ylabel="°C", xlim=(series.times[0], series.times[-1]))
figure.savefig("RNN_signal_TP_series.png", dpi=110)

# %%
# In the figure, the two lines part training, validation and test. The cycle of the year is nearly all of it; what
# remains, warm and cold years, is what is hard.
#
# What is to be beaten
# --------------------
# No error says anything by itself. Three forecasts without a network, 1 and 12 months ahead: to repeat the last value;
# to repeat that of the same month of the year before; and an autoregression, which is linear, by least squares, whose
# order p validation chooses:
#
# ::
#
#     y_t = c + w_1 y_{t-1} + ... + w_p y_{t-p}
#
# The RMSE is in standard deviations of the series. MASE divides the mean absolute error by that of repeating the year
# before; below 1, it is beaten. Each month of the test is forecast once from each distance.

H = 12
origins, mask = rolling_origins(split.known, len(split), H)
models = autoregressions(split)
p = models[0].order
names = ("y[t-1]", "y[t-12]", f"AR({p})")
forecasts = dict(zip(names, baselines(split, models, origins, H).values(), strict=True))


def show(name):
    found = score(split, forecasts[name], origins, mask)
    h_1, *_, h_12 = found.by_horizon
    print(f"{name:12}{h_1:9.3f}{h_12:9.3f}{found.rmse:9.3f}{found.seasonal_mase:9.3f}")


print(f"{'':12}{'h = 1':>9}{'h = 12':>9}{'RMSE':>9}{'MASE':>9}")
for name in names:
    show(name)

# %%
# The network
# -----------
# A GRU of 16 units and a linear readout: out of each step comes the forecast of the next one (many-to-many). It is
# trained on windows of 36 months of the training part; each step's target is the month that follows, so that the input
# is always the true one (teacher forcing). The loop is the usual one: loss and gradients, clipping, a step of Adam,
# whose rate falls to 0. Twelve months ahead it gets by being fed with its own forecasts.
#
# One seed says nothing of a method; three are shown.

T = 36


def windows(rng, ahead):
    ends = rng.integers(T, split.train - ahead, size=16, endpoint=True)
    x, target = split.windows(ends, T, ahead)
    return x, target


def trained(seed):
    model, rng = Forecaster(1, 16, cell="gru", rng=seed), np.random.default_rng(seed)
    optimizer = Adam(model.params, lr=1e-2)
    for update in range(250):
        optimizer.lr = 1e-2 * (1 - update / 250)
        x, target = windows(rng, 1)
        loss, grads, _ = model.loss_and_grads(x, target[:, :, 0])
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    return model


def foretold(model):
    return split.levels(forecast(model, split.contexts(origins, T), H), origins)


nets = {seed: trained(seed) for seed in range(3)}
for seed, net in nets.items():
    forecasts[f"GRU {seed}"] = foretold(net)
    show(f"GRU {seed}")

# %%
# One month ahead, all three beat the autoregression, by little; twelve months ahead, they do not. The autoregression is
# a serious rival: always show it.
#
# Exercise: all of the GRU, backward
# ----------------------------------
# The cell that was trained above. ``h`` is (T+1, N, H), with the initial state in row 0, and ``gates`` (T, N, 4 H)
# holds r, z, n and q = W_hn h_{t-1} + b_hn of each step.


def my_gru(doutput, dh_n, x, h, gates, W_ih, W_hh):
    dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
    db_ih, db_hh = np.zeros(len(W_ih)), np.zeros(len(W_hh))
    dh = dh_n
    for t in reversed(range(len(x))):
        r, z, n, q = np.split(gates[t], 4, axis=1)
        ...
    return dx, dh, dW_ih, dW_hh, db_ih, db_hh


print(grade(my_gru, "gru_backward", lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_gru(doutput, dh_n, x, h, gates, W_ih, W_hh):
#         dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
#         db_ih, db_hh = np.zeros(len(W_ih)), np.zeros(len(W_hh))
#         dh = dh_n
#         for t in reversed(range(len(x))):
#             r, z, n, q = np.split(gates[t], 4, axis=1)
#             dh = dh + doutput[t]
#             da_z = dh * (h[t] - n) * z * (1 - z)
#             da_n = dh * (1 - z) * (1 - n**2)
#             da_r = da_n * q * r * (1 - r)
#             da_ih = np.concatenate([da_r, da_z, da_n], axis=1)
#             da_hh = np.concatenate([da_r, da_z, da_n * r], axis=1)
#             dx[t] = da_ih @ W_ih
#             dW_ih += da_ih.T @ x[t]
#             dW_hh += da_hh.T @ h[t]
#             db_ih += da_ih.sum(axis=0)
#             db_hh += da_hh.sum(axis=0)
#             dh = dh * z + da_hh @ W_hh
#         return dx, dh, dW_ih, dW_hh, db_ih, db_hh
#
# .. raw:: html
#
#     </details>
#
# The gradient of what goes on by itself
# --------------------------------------
# From the last datum on, the network reads what it has said itself: y_k is the next step's input. This opens a second
# way for the gradient, beside the state. For a plain RNN with readout V:
#
# ::
#
#     dh_k/dh_{k-1} = diag(1 - h_k^2) (W_hh + W_ih V)      by the state, and by what was forecast
#
# ``horizon_gradients`` parts the two ways: the norm of dL_h/dW, where L_h is the loss h steps ahead; the part by the
# states alone; and that by the forecasts. One step ahead nothing is fed back; after that, nearly all goes by the
# forecasts. Training with teacher forcing never sees that part.

x, target = split.windows(range(T, split.train - H, 30), T, H)
ahead = np.ascontiguousarray(target[-1].swapaxes(0, 1))  # (H, N, 1)
found = horizon_gradients(Rollout(nets[0]), x, ahead)
print(f"{'|dL_h/dW|':12}" + "".join(f"{f'h = {h}':>9}" for h in (1, 2, 3, 6, 12)))
for kind, name in (("exact", "W_hh + W_ih V"), ("recurrence", "W_hh"), ("feedback", "W_ih V")):
    print(f"{name:14}" + "".join(f"{found.norms(kind)[h - 1]:9.3f}" for h in (1, 2, 3, 6, 12))[2:])

# %%
# Is that gradient of any use? The same networks go on for 60 updates, now on the loss of the 12 months that they
# forecast by themselves: with the exact gradient (``free``), and cutting it at each forecast (``stop``), as if what was
# forecast were data.


def refined(net, mode):
    model = Forecaster(1, 16, cell="gru", rng=0)
    model.params.flat[:] = net.params.flat
    rollout, optimizer, rng = Rollout(model, mode), Adam(model.params, lr=3e-3), np.random.default_rng(3)
    for update in range(60):
        optimizer.lr = 3e-3 * (1 - update / 60)
        x, target = windows(rng, H)
        loss, grads, _ = rollout.loss_and_grads(x, np.ascontiguousarray(target[-1].swapaxes(0, 1)))
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    return model


print(f"{'':12}{'h = 1':>9}{'h = 12':>9}{'RMSE':>9}{'MASE':>9}")
for mode in ("free", "stop"):
    for seed, net in nets.items():
        forecasts[f"GRU {seed} {mode}"] = foretold(refined(net, mode))
        show(f"GRU {seed} {mode}")

# %%
# With the exact gradient, all three get better over the twelve months together; with the cut one, two get worse. It is
# little, and there is one test: with more seeds one can be more sure.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
start = int(np.flatnonzero(origins == len(split) - 3 * H)[0])
place = origins[start]
ticks = np.arange(1, H + 1)
looks = {
    names[1]: ("0.45", ":", "s"),
    names[2]: ("#E69F00", "--", "^"),
    "GRU 0": ("#56B4E9", "-.", "v"),
    "GRU 0 free": ("#0072B2", "-", "o"),
}
right.plot(range(-H + 1, H + 1), series.values[place - H : place + H, 0], color="black", label="y[t]")
for name, (colour, style, marker) in looks.items():
    look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "label": name}
    left.plot(ticks, score(split, forecasts[name], origins, mask).by_horizon, **look)
    right.plot(ticks, forecasts[name][:, start, 0], **look)
left.set(xlabel="h", ylabel="RMSE", ylim=(0, None))
right.set(xlabel="h", ylabel="°C")
right.axvline(0.5, color="0.8")
right.legend(frameon=False, fontsize=9)
figure.savefig("RNN_signal_TP_forecasts.png", dpi=110)

# %%
# In the figure, on the left the error by the distance h, and on the right a year of the test, foretold at its
# beginning; the colours are the same.
#
# Two questions. First: the validation part was not used to choose anything of the GRU. What would it be good for, and
# why is it not enough to look at the test?
#
# .. raw:: html
#
#     <details><summary>Answer</summary>
#     <p>To choose when to stop, how many units, which seed. What is chosen by looking at the test is fitted to it:
#     its error no longer says how the network does on data that it has not seen.</p></details>
#
# Second: why do ``free`` and ``stop`` have the same gradient one month ahead, and not twelve months ahead?
#
# .. raw:: html
#
#     <details><summary>Answer</summary>
#     <p>One step ahead, the network has not yet read anything that it has said. Twelve steps ahead, each forecast is
#     the input of the next one, and the exact gradient also teaches a forecast which errors it causes later; cut, it
#     does not.</p></details>
#
# The next notebook is RNN_enc_dec: encoder, decoder and attention.
