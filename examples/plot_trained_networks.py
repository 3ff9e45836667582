"""
What trained networks do with their gradient
============================================

A gradient vanishes exponentially, the lecture says, and gates are there to slow it down. That is measured on networks
with random weights, because these are at hand. But trained ones are at hand as well: they lie inside of packages that
anybody can install. `open_network` makes layers of this package of them, and everything in the lab works on these.

What you will see: how to open a network that somebody else has trained, and to send a gradient back through it; how
far back half of it, a tenth, and a hundredth last; which units carry what lasts; and a figure,
`plot_trained_networks.png`.
"""

# %%
# Somebody else's network
# -----------------------
# sleepecg [1]_ tells from the heartbeat in which stage of sleep a person is: one step is an epoch of 30 s. Its file is
# Keras'; it is read without Keras. The layer goes both ways through the night. A lag means something in one of them
# alone, so that each is measured by itself.
#
# The networks' recurrent layers, and what these read, are files of the repository: as a notebook, this belongs into
# the folder `examples` of a clone.

from pathlib import Path

import numpy as np

from rnn_numpy import open_network
from rnn_numpy.interop import one_direction
from rnn_numpy.lab import gradient_flow

try:
    here = Path(__file__).resolve().parent
except NameError:  # in a notebook
    here = Path.cwd()
FOLDER = here.parent / "tests" / "interop" / "golden"

network = open_network(FOLDER / "sleepecg.keras")
print(network)
with np.load(FOLDER / "trained_flows.npz") as file:
    arrays = dict(file)
nights = arrays["sleepecg_x"].astype(np.float32)  # what the layer reads: 4 of 120 epochs
forward = one_direction(network[0].layer)
backward = one_direction(network[0].layer, reverse=True)

# %%
# A gradient from the last step
# -----------------------------
# A random direction dL/dh_T for each of many copies of the nights, sent back. The typical norm at a lag is the
# geometric mean over all. The directions must be many: trained units are so different that of the forward layer's
# directions a quarter loses half of itself within 4 epochs, and a quarter takes 18 or more.

COPIES = 64


def flow(layer, x, units=slice(None)):
    """Return the gradient flow from the last step, in directions of some units alone."""
    x = np.repeat(x, COPIES, axis=0)
    dh_last = np.zeros((len(x), layer.hidden_size))
    dh_last[:, units] = np.random.default_rng(0).normal(size=dh_last[:, units].shape)
    return gradient_flow(layer, x, dh_last / np.linalg.norm(dh_last, axis=1, keepdims=True))


def kept(layer, x):
    """Return what a step keeps of each unit, the mean of the gate z."""
    return layer.forward(x)[2].z.reshape(-1, layer.hidden_size).mean(axis=0)


left, gates = {}, {}
for name, layer, x in (("sleepecg, forward", forward, nights), ("sleepecg, backward", backward, nights[:, ::-1])):
    found = flow(layer, x)
    left[name], gates[name] = found.typical / found.typical[0], kept(layer, x)

# %%
# Two larger ones
# ---------------
# silero-vad [2]_ tells speech from noise, an LSTM of 128 units and frames of 36 ms; g2p-en [3]_ says how an English
# word is pronounced, its encoder is a GRU of 256 units that reads letters. They are too large to lie beside this page:
# `tests/interop/golden/make_real_networks.py` fetches and opens them, does the same as above, and keeps these curves.

for name, label in (("silero", "silero-vad"), ("g2p", "g2p-en, encoder")):
    left[label], gates[label] = arrays[f"{name}_left"], arrays[f"{name}_kept"]


def lag(curve, share):
    """Return the first lag at which a share is left, or less."""
    below = np.flatnonzero(curve <= share)
    return str(below[0]) if below.size else f"> {len(curve) - 1}"


print(f"\n{'steps until this much is left':<32}{'half':>8}{'a tenth':>10}{'a hundredth':>13}")
for name, curve in left.items():
    print(f"  {name:<30}{lag(curve, 1 / 2):>8}{lag(curve, 1 / 10):>10}{lag(curve, 1 / 100):>13}")

# %%
# Fast, then slow
# ---------------
# With one pace, a tenth would be reached after 3.3 times the steps of a half, and a hundredth after 6.6 times. It takes
# far longer. The units are not alike: a step keeps z of a GRU's unit (f of an LSTM's), and by itself a unit that keeps
# 0.9 loses half in 7 steps, one that keeps 0.99 in 69. Most keep little, a few almost all, and after some steps these
# few are all that is left. A gradient that begins in them, or in the others, shows it:

order = np.argsort(gates["sleepecg, forward"])
for name, units in (("the 2 units that keep most", order[-2:]), ("the 6 others", order[:-2])):
    found = flow(forward, nights, units)
    print(f"sleepecg, forward, into {name:<27} half is left after {found.half_at} epochs")

# %%
# The figure
# ----------
# Left, all four curves bend: what an exponential would be is a straight line here, through the first point and the one
# where half is left. Right, why: the units by what a step keeps of them, as the number of steps in which that alone
# takes half. The scale is logarithmic; the units of one network span two or three powers of ten.
#
# References
# ----------
# .. [1] F. Hofer, C. Brunner, sleepecg 0.6.0 (BSD-3-Clause), https://github.com/cbrnr/sleepecg
# .. [2] Silero Team, silero-vad 6.2.3 (MIT), https://github.com/snakers4/silero-vad
# .. [3] K. Park, J. Kim, g2p-en 2.1.0 (Apache-2.0), https://github.com/Kyubyong/g2p

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, (decay, units) = plt.subplots(1, 2, figsize=(13, 5.4), layout="constrained")
looks = zip(left, ("#0072B2", "#56B4E9", "#D55E00", "#009E73"), ("-", (0, (5, 1.5)), (0, (1, 1.2)), "-."), strict=True)
for name, colour, style in looks:
    curve, half = left[name][:61], int((left[name] <= 0.5).argmax())
    decay.semilogy(curve, color=colour, linestyle=style, linewidth=2, label=name)
    decay.plot(half, curve[half], "o", color=colour, markersize=6)
    decay.semilogy([0, 61], [1, curve[half] ** (61 / half)], color=colour, linewidth=0.8, alpha=0.7)
    keeps = np.sort(gates[name])
    places = (np.arange(len(keeps)) + 0.5) / len(keeps)
    alone = np.log(2) / -np.log(np.clip(keeps, 1e-3, 1 - 1e-6))
    units.semilogy(places, alone, color=colour, linestyle=style, linewidth=2, label=name)
decay.axhline(0.5, color="0.6", linewidth=0.8)
decay.text(60.5, 0.5, "half", ha="right", va="bottom", color="0.4", fontsize=9)
decay.set(xlim=(0, 61), ylim=(0.01, 1.1), xlabel="steps back", ylabel="share of the gradient that is left")
decay.set_title("Fast, then slow; thin: the exponential of the half-life", fontsize=11)
units.set(
    xlim=(0, 1),
    xlabel="units, sorted, as a share of all",
    ylabel="steps in which the gate alone takes half",
)
units.set_title("Most units forget at once, a few hardly", fontsize=11)
for ax in (decay, units):
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
figure.suptitle("Gradients in trained networks, from the last step back")
figure.savefig("plot_trained_networks.png", dpi=110)
print("\nwrote plot_trained_networks.png")
