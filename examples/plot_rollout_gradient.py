"""
Roll-out gradients: what stopping them loses
============================================

A forecaster that is to look far ahead reads its own predictions. Should the gradient go through them? The exact one
does: a prediction is a second recurrent path, beside the state. Teacher forcing trains one step ahead on known values
and hopes. Stop-gradient runs on predictions, and takes each of them for a constant on the way back.

What you will see: the gradient of the loss h steps ahead, in its parts through the state and through what was fed back;
the same small network trained in the three ways, on a chaotic series and on a real one; and a figure,
`plot_rollout_gradient.png`, of errors, norms and angles by horizon.
"""

# %%
# Two series
# ----------
# Mackey-Glass is a delay equation, chaotic but without noise: what comes can be known for a while. The EEG is real, and
# what it does beyond a few samples cannot. Means and scales are those of the first four fifths, which train.

import numpy as np

from rnn_numpy import Adam, Forecaster, clip_grad_norm
from rnn_numpy.lab import horizon_gradients
from rnn_numpy.models import Rollout
from rnn_numpy.tasks import load_bundled
from rnn_numpy.tasks.dynamics import mackey_glass

T, H, UNITS, UPDATES, BATCH = 20, 32, 16, 200, 16


class Windows:
    """Windows of T known values and the H that follow."""

    def __init__(self, values):
        self.cut = len(values) * 4 // 5
        self.values = (values - values[: self.cut].mean()) / values[: self.cut].std()

    def at(self, starts):
        windows = np.stack([self.values[start : start + T + H] for start in starts], axis=1)[..., None]
        return windows[:T], windows[T:]

    def training(self, count, rng):
        return self.at(rng.integers(self.cut - T - H + 1, size=count))

    def held_out(self):
        return self.at(range(self.cut - T, len(self.values) - T - H + 1))


chaos = Windows(mackey_glass(2300, np.array([1.2]))[300:, 0])
eeg = Windows(load_bundled("eeg").values[:, 0])

# %%
# Three ways to train
# -------------------
# The same network, the same first weights, the same windows in the same order; what differs is one word. In each mode
# the loss is that of all H predictions.

MODES = {"teacher": "teacher-forced", "stop": "stop-gradient", "free": "exact"}


def trained(series, mode, seed):
    model, rng = Forecaster(1, UNITS, rng=seed), np.random.default_rng(seed)
    rollout, optimizer = Rollout(model, mode), Adam(model.params, 0.01)
    for update in range(UPDATES):
        optimizer.lr = 0.01 * (1 - update / UPDATES)
        _, grads, _ = rollout.loss_and_grads(*series.training(BATCH, rng))
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    return model


def errors(series, model):
    """Return the root of the mean squared error at each horizon, on its own predictions, of series not seen."""
    x, target = series.held_out()
    predictions, _ = Rollout(model)(x, H)
    return np.sqrt(((predictions - target) ** 2).mean(axis=(1, 2)))


runs = {("Mackey-Glass", seed): chaos for seed in (0, 1, 2)} | {("EEG", seed): eeg for seed in (0,)}
models = {(name, seed, mode): trained(series, mode, seed) for (name, seed), series in runs.items() for mode in MODES}
curves = {key: errors(runs[key[:2]], model) for key, model in models.items()}

print("error on held-out data, in standard deviations, at horizon")
print(f"{'':<36}" + "".join(f"{h:>7}" for h in (1, 2, 8, 16, 32)))
for (name, seed, mode), curve in curves.items():
    print(f"  {name:<13} seed {seed}  {MODES[mode]:<14}" + "".join(f"{curve[h - 1]:7.3f}" for h in (1, 2, 8, 16, 32)))

# %%
# Where the gradient goes
# -----------------------
# dL_h/dW for each horizon h, in two parts that add up to it: through the state alone, which is all that stop-gradient
# sees, and through what was fed back. In a fresh network the second is a hundredth: its predictions hardly move. In a
# network that has learned to predict one step ahead they matter, and the parts have changed places: almost all of what
# the loss says goes through the predictions.

x, target = chaos.at(range(0, chaos.cut - T - H, 50))
networks = {
    "fresh": Forecaster(1, UNITS, rng=0),
    "trained teacher-forced": models["Mackey-Glass", 0, "teacher"],
    "trained on the exact gradient": models["Mackey-Glass", 0, "free"],
}
gradients = {label: horizon_gradients(Rollout(model), x, target) for label, model in networks.items()}
for label, found in gradients.items():
    exact, ways = found.gradient("exact"), found.gradient("recurrence") + found.gradient("feedback")
    assert np.abs(exact - ways).max() < 1e-13 * np.abs(exact).max()
    print(f"\n{label}\n  horizon       exact  state alone    fed back   cosine")
    for h in (1, 2, 8, 16, 32):
        sizes = [found.norms(kind)[h - 1] for kind in ("exact", "recurrence", "feedback")]
        print(f"  {h:>7}  {sizes[0]:10.3f}   {sizes[1]:10.3f}  {sizes[2]:10.3f}   {found.cosines()[h - 1]:6.2f}")

# %%
# The figure
# ----------
# Above left, the exact gradient finds the same good forecast from all three seeds. Teacher forcing is far better for
# the first five steps, the only ones like those that it was trained for, and then runs away. Stop-gradient finds the
# good forecast from one seed, and from two it gets stuck far from it: what it cannot see is how a prediction should be
# made so that the later ones, which read it, come out right. Above right, there is nothing to lose: beyond a few steps
# no way of training predicts this signal, and the one that was trained for the next step is the best at that. The exact
# gradient is worth its price where the far future can be predicted.
#
# Below left, the parts of the gradient, in a network that predicts one step well. By the way through the state alone it
# grows thirtyfold with the horizon, through the predictions some thousandfold. Below right, the angles: stopped and
# exact agree in a fresh network, where training begins. In trained ones they part by up to 40 degrees; horizon by
# horizon the stopped gradient still points downhill. What it gets wrong most is the size, by a factor of a hundred at
# horizons of 20 and more, and with it what each horizon's error counts beside the others'.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rnn_numpy.report import plot_horizon_cosines, plot_horizon_norms

figure, axes = plt.subplots(2, 2, figsize=(13, 9.6), layout="constrained")
colours = dict(zip(MODES, ("#E69F00", "#D55E00", "#0072B2"), strict=True))
styles = dict(zip(MODES, ((0, (1, 1.5)), (0, (4, 1.5)), "-"), strict=True))
for ax, name in zip(axes[0], ("Mackey-Glass", "EEG"), strict=True):
    for (series, seed, mode), curve in curves.items():
        if series == name:
            label = MODES[mode] if seed == 0 else None
            ax.plot(range(1, H + 1), curve, color=colours[mode], linestyle=styles[mode], linewidth=1.8, label=label)
    ax.set(xlim=(0.5, H + 0.5), ylim=(0, None), xlabel="horizon $h$, in steps", ylabel="error, in standard deviations")
    ax.set_title(f"{name}: error on held-out data" + (", three seeds" if name == "Mackey-Glass" else ""), fontsize=11)
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
plot_horizon_norms(gradients["trained teacher-forced"], axes[1, 0])
axes[1, 0].set_title("d$L_h$/dW of the network that was trained teacher-forced", fontsize=11)
plot_horizon_cosines(gradients, axes[1, 1])
axes[1, 1].set_title("stopped against exact, on Mackey-Glass", fontsize=11)
figure.suptitle("Roll-out of a plain RNN of 16 units: 20 values known, 32 predicted")
figure.savefig("plot_rollout_gradient.png", dpi=110)
print("\nwrote plot_rollout_gradient.png")
