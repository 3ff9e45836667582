"""
The exponents of a net
======================

Lyapunov exponents say how fast differences of states grow in each direction, and so how fast gradients grow on their
way back, in one number per direction.

What you will see: the whole spectrum of a tanh network at three gains, from calm to chaos, beside the theory of large
networks; the singular values of its Jacobian products, which run along straight lines with these slopes; the gradient
of an ordinary backward pass, which takes the first of them; what a forget bias does to an LSTM; and the angles between
the directions in which differences grow and shrink. Then a penalty, flossing, moves exponents to 0.
"""

# %%
# Three networks
# --------------
# The weights are drawn from N(0, g^2/H), without input. Below g = 1 the net falls asleep: its states go to 0. Above, it
# keeps itself moving for ever, and small differences grow: chaos. We start from random states and leave out the
# first steps. A long run needs no memory for its inputs: zeros that are broadcast.

import math
import sys

import numpy as np

from rnn_numpy import LSTM, RNN
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.lab import covariant_vectors, floss, lyapunov
from rnn_numpy.report import plot_angles, plot_singular_values, plot_spectrum

H, T = 80, 1000
start = np.random.default_rng(1).normal(size=(1, 1, H))
silence = np.broadcast_to(0.0, (T, 1, 1))


def tanh_net(g):
    net = RNN(1, H, bias=False, rng=0)
    net.params["weight_ih_l0"][...] = 0
    net.params["weight_hh_l0"] = g * np.random.default_rng(0).normal(size=(H, H)) / math.sqrt(H)
    return net


spectra = {f"g = {g:g}": lyapunov(tanh_net(g), silence, h_0=start, transient=200) for g in (0.9, 1.5, 3.0)}
for label, spectrum in spectra.items():
    print(f"{label}: {spectrum}")

# %%
# How to read this: with lambda_1 = 0.3, a difference of 1e-10 has grown to 1 after ln(1e10) / 0.3 = 77 steps. The
# dimension says in how many directions a cloud of states fills space; it is far below H, even in chaos.

# %%
# Theory
# ------
# Of a large net every pre-activation is Gaussian with a variance q that reproduces itself, and a difference grows by
# the root of g^2 times the mean squared slope. Two integrals; a dense grid does, Gauss-Hermite nodes do not.


def theory(g):
    z = np.linspace(-9, 9, 20001)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    q = g**2
    for _ in range(500):
        q = g**2 * (weight @ np.tanh(math.sqrt(q) * z) ** 2)
    return 0.5 * math.log(g**2 * (weight @ np.cosh(math.sqrt(q) * z) ** -4.0))


expected = {f"theory, g = {g:g}": theory(g) for g in (1.5, 3.0)}
for label, value in expected.items():
    found = spectra[label.removeprefix("theory, ")]
    print(f"{label}: lambda_1 = {value:.3f}, found {found.exponents[0]:.3f} ± {found.standard_errors[0]:.3f}")

# %%
# The error is that of this network's long run. Another draw of the weights differs by more: 80 units are not many.

# %%
# The same slope, by back-propagation
# -----------------------------------
# The gradient of the last step's loss passes the same Jacobians on its way back. Nothing of the lab is used here.

net = tanh_net(3.0)
output, _, trace = net.forward(silence, start)
doutput = np.zeros_like(output)
doutput[-1] = np.random.default_rng(2).normal(size=H)
net.backward(trace, doutput)
logs = np.log(np.linalg.norm(trace.dh[:, 0], axis=1))
slope = (logs[200] - logs[900]) / 700
print(f"\nslope of ln |dL/dh| in backward: {slope:.3f} per step, lambda_1 {spectra['g = 3'].exponents[0]:.3f}")

# %%
# Products, one by one
# --------------------
# The singular values of J_t ... J_1, from the 201st step on. Each runs along a line, up or down, with its exponent as
# the slope. That is also why multiplying the matrices out fails: the smaller ones fall until they are 1e-16 of the
# largest, and from there on they are rounding, not the net: they rise with the largest.

J = RecordedSteps(net, net.forward(silence[:60], output[199][None])[2], "l0").jacobians().state[:, 0]
product, values = np.eye(H), []
for J_t in J:
    product = J_t @ product
    values.append(np.linalg.svd(product, compute_uv=False)[[0, 5, 20, 40]])

# %%
# Directions
# ----------
# The covariant vectors are the directions that grow at just their exponent, forward and backward in time. Where a
# growing and a shrinking one come close, a small push turns one into the other.

vectors = covariant_vectors(net, silence[:600], 20, h_0=start, transient=200, settling=150)

# %%
# An LSTM remembers by its gate
# -----------------------------
# Its state is the pair (h, c), 2H numbers, and all of it must be in the Jacobian: of h alone, with c held fixed, the
# exponent would be far below. Inputs keep this net busy; near 0 from below means a long memory.

x = np.random.default_rng(3).normal(size=(600, 1, 4))
print()
for bias in (0.0, 2.0, 5.0):
    lambda_1 = float(lyapunov(LSTM(4, 16, forget_bias=bias, rng=0), x, 1).exponents[0])
    memory = f"a memory of {-1 / lambda_1:.1f} steps" if lambda_1 < 0 else "no forgetting"
    print(f"LSTM, forget bias {bias:g}: lambda_1 = {lambda_1:.4f}, {memory}; ln f = {-math.log1p(math.exp(-bias)):.4f}")

# %%
# Flossing
# --------
# `floss` returns the mean squared exponent and its gradient through the QR decompositions and through the trajectory.
# Descending it moves the first exponents of a vanishing net to 0, before there is any loss.

vanishing = RNN(4, 16, rng=0)
print("\nflossing three exponents of a tanh net")
for update in range(101):
    penalty = floss(vanishing, x[:40], 3, transient=5)
    if update % 50 == 0:
        print(f"  update {update:3}: {', '.join(f'{value:.3f}' for value in penalty.exponents[0])}")
    vanishing.params.flat -= 0.2 * penalty.grads.flat

# %%
# The figure
# ----------
# Left: the spectrum at each gain, down to -3, and the theory's lambda_1. Only at g = 0.9 all are below 0. More gain
# means more growth in some directions, and more decay in most: tanh is saturated. Middle: singular values along their
# lines, until rounding takes over. Right: how often which angle. Two single vectors are mostly far apart; but of the
# growing directions some combination is always within a few degrees of a combination of the others.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
plot_spectrum(spectra, left, theory=expected).set_title("Lyapunov spectra of tanh networks")
left.set_ylim(-3, 0.5)
plot_singular_values(values, middle, exponents=spectra["g = 3"].exponents[[0, 5, 20, 40]])
middle.set_title("Jacobian products, g = 3: number 1, 6, 21, 41")
plot_angles(vectors, [(0, 1), (0, 19)], right, split=10).set_title("Angles of covariant vectors, g = 3")

path = sys.argv[1] if len(sys.argv) > 1 else "plot_lyapunov.png"
figure.savefig(path, dpi=110)
print(f"\nfigure: {path}")
