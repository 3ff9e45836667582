"""
The cliff: what an exploding gradient does to an update
=======================================================

A recurrent net with one unit and no input, x_t = w sigmoid(x_{t-1}) + b, has two parameters, so that its whole error
can be drawn as a map. After 50 steps from 0.5, sigmoid(x_50) shall be 0.7. Over most of the map the error is as smooth
as one could wish. But a line runs through it, at which the error changes at once by a factor of ten: a cliff, whose
gradient is thousands of times that of its surroundings. We look at where it comes from, and go down the map by gradient
descent, with and without clipping.

What you will see: how large the gradient is and where, what the cliff has to do with fixed points, two descents, and a
figure, `plot_cliff.png`. Another file name can be given as the first argument.
"""

# %%
# The map
# -------
# `cliff` goes forward and backward through all 50 steps at each point of a grid. The gradient is written out by hand,
# as in any layer of this package; the module `rnn_numpy.lab.landscape` derives it in six lines.

import dataclasses
import sys

import numpy as np

from rnn_numpy.lab import bifurcation, cliff, cliff_gradient, cliff_line, descend, fold_points

w, b = np.linspace(2, 8, 201), np.linspace(-3.5, 0, 141)
grid = cliff(w, b)
print(f"error between {grid.error.min():.1e} and {grid.error.max():.2f}")
print(f"gradient: median length {np.median(grid.gradient_norm):.3f}")
print("          largest {2:.0f}, at w = {0:.2f}, b = {1:.3f}".format(*grid.steepest))
print(f"          that is {grid.ratio:.0f} times the median")

# %%
# The gradient is right: the complex step, Im E(w + ih)/h, knows nothing of our backward pass and gives the same digits.

h = 1e-20
by_complex_step = cliff_gradient(w[None, :] + 1j * h, b[:, None] + 0j).error.imag / h
print(f"largest relative difference from the complex step: {np.abs(grid.dw / by_complex_step - 1).max():.0e}")

# %%
# Where the cliff comes from
# --------------------------
# A fixed point is a state that reproduces itself: x = w sigmoid(x) + b. Between two values of b, the folds, there are
# three of them. The outer two are stable: whatever starts near one goes there. The one between is unstable, and parts
# what goes up from what goes down. Watch the start 0.5, at w = 5:

low, high = fold_points(5.0)
line = float(cliff_line(5.0))
print(f"\nw = 5: folds at b = {low:.6f} and {high:.6f}; the start is a fixed point at b = {line:.6f}")
diagram = bifurcation(5.0, [-3.0, line - 0.01, line + 0.01, -2.0])
for value, points, stable in zip(diagram.values, diagram.points, diagram.stable, strict=True):
    x = 0.5
    for _ in range(50):
        x = 5.0 / (1 + np.exp(-x)) + value
    told = [f"{x:6.3f} {'stable' if s else 'unstable'}" for x, s in zip(points, stable, strict=True) if np.isfinite(x)]
    print(f"b = {value:.4f}: 0.5 goes to {x:6.3f}; fixed points {', '.join(told)}")

# %%
# So the cliff is where the unstable point passes the start: the straight line b = 0.5 - w sigmoid(0.5). Next to it a
# change of b by a hundredth decides where 50 steps lead. A distance from the unstable point grows by the factor
# m = w sigmoid'(0.5) at each step, 1.175 at w = 5, and so does a gradient on its way back: by m^50, 3000 in all.

# %%
# Two descents
# ------------
# Both begin at the same place, with the same learning rate. One takes the gradient as it is; the other shortens each
# that is longer than 0.5, and keeps its direction. Both walk down to the cliff, and then over it: an update has a
# length, and the wall has none. The free one is thrown by what it finds there. The first time it lands far down on the
# low side and climbs back, the second time it leaves the map, for where the error is flat and no gradient leads back.
# The clipped one is thrown as well, but never far: it goes on along the edge, to and fro, until it finds the valley.

descents = {
    "free": descend(5.0, -2.3, lr=0.1, updates=300),
    "clipped": descend(5.0, -2.3, lr=0.1, updates=300, clip=0.5),
}
print("\n          largest gradient   longest update   clipped   where it ends      error there")
for name, found in descents.items():
    (w_end, b_end), clipped = found.path[-1], int(found.clipped.sum())
    print(
        f"{name:8}  {found.norms.max():16.1f}   {found.longest:14.2f}   {clipped:7}   "
        f"({w_end:6.2f}, {b_end:6.2f})   {found.errors[-1]:.5f}"
    )

# %%
# The figure
# ----------
# Top left, the map: smooth on either side, and the cliff along the dotted line; the valley that leads to an error of 0
# is the dark line, which comes closer and closer to the cliff. Top right, the length of the gradient: along the cliff
# it is a ridge, between slopes that are hardly there, and so narrow that a grid meets it by chance. So the points
# next to it show the gradient on the line itself. Bottom left, the two descents. Bottom right, the fixed points for
# w = 5: at b = -2.61 the dashed line passes 0.5.

low, high = fold_points(w)
line = cliff_line(w)
columns = np.flatnonzero((low < line) & (line < high) & (line > b[0]))
rows = np.abs(b[:, None] - line[columns]).argmin(axis=0)
on_the_line = cliff_gradient(w[columns], line[columns])
ridge = dataclasses.replace(grid, dw=grid.dw.copy(), db=grid.db.copy())
ridge.dw[rows, columns], ridge.db[rows, columns] = on_the_line.dw, on_the_line.db

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rnn_numpy.report import plot_bifurcation, plot_cliff

figure, axes = plt.subplots(2, 2, figsize=(13, 10.5), layout="constrained")
plot_cliff(grid, axes[0, 0])
axes[0, 0].set_title("The error, smooth but for a line")
plot_cliff(ridge, axes[0, 1], show="gradient", guides=False)
axes[0, 1].set_title(f"Its gradient: {ridge.ratio:.0e} times the median on the cliff".replace("e+0", "e"))
near = cliff(np.linspace(4.2, 5.2, 201), np.linspace(-2.8, -2.0, 161))
plot_cliff(near, axes[1, 0], descents=descents)
axes[1, 0].set_title("Two descents from the large marker; a star is an end")
plot_bifurcation(bifurcation(5.0, np.linspace(-3.2, -1.8, 401)), axes[1, 1])
axes[1, 1].axhline(0.5, color="0.4", linewidth=1)
axes[1, 1].text(-1.82, 0.5, "start 0.5", ha="right", va="bottom", color="0.3")
figure.suptitle("One unit, 50 steps: where gradients explode")

path = sys.argv[1] if len(sys.argv) > 1 else "plot_cliff.png"
figure.savefig(path, dpi=120)
print(f"\nfigure: {path}")
