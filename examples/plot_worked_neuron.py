"""
One neuron, three steps: back-propagation through time by hand
==============================================================

The recurrent neuron of the lecture, small enough to compute on paper, and its gradients written out line by line with
plain numbers. Then the same numbers from `rnn_numpy.RNN`.

What you will see: the forward pass; the backward pass, one line per step; the double sum over pairs (t, k) that BPTT
adds up without ever writing it down; and a figure of both, `plot_worked_neuron.png`.
"""

# %%
# The neuron
# ----------
# Its state h is one number. At every step it reads one number x and its own last state, with the same three parameters:
#
#     a_t = b + W h_{t-1} + U x_t
#     h_t = tanh(a_t)
#
# The slides print a bias of -0,3, but their results 0.0399, 0.0917, 0.1464 are those of b = -0.1.

from math import tanh

U, W, b = 0.2, 0.3, -0.1
x_0, x_1, x_2 = 0.7, 0.9, 1.1
h_init = 0.0  # the state before the first step, h_{-1}: row 0 of the trace's h

a_0 = b + W * h_init + U * x_0
h_0 = tanh(a_0)
a_1 = b + W * h_0 + U * x_1
h_1 = tanh(a_1)
a_2 = b + W * h_1 + U * x_2
h_2 = tanh(a_2)

print("Forward")
for t, (a, h) in enumerate([(a_0, h_0), (a_1, h_1), (a_2, h_2)]):
    print(f"  a_{t} = {a:.5f}   h_{t} = tanh(a_{t}) = {h:.5f}")

# %%
# The loss
# --------
# Let the neuron forecast the next number of the ramp 0.7, 0.9, 1.1, 1.3 and take its state as the forecast:
#
#     L = L_0 + L_1 + L_2,   L_t = (h_t - y_t)^2 / 2,   y_t = x_{t+1}
#
# delta_t = dL_t/dh_t = h_t - y_t is what step t's own loss says to h_t. Later losses depend on h_t as well, through
# the states that come after it: that part arrives from the right, step by step.

y_0, y_1, y_2 = 0.9, 1.1, 1.3
delta_0, delta_1, delta_2 = h_0 - y_0, h_1 - y_1, h_2 - y_2

# %%
# Backward, by hand
# -----------------
# From the last step to the first. dh_t is the total gradient at h_t; da_t is the same on the other side of the tanh,
# whose slope is 1 - h_t^2; and W carries da_t on to the state before. Look at the second line of each pair: the first
# term is the step's own loss, the second is all of the future, in one number.

dh_2 = delta_2  # nothing comes after the last step
da_2 = dh_2 * (1 - h_2**2)

dh_1 = delta_1 + W * da_2
da_1 = dh_1 * (1 - h_1**2)

dh_0 = delta_0 + W * da_1
da_0 = dh_0 * (1 - h_0**2)

dh_init = W * da_0  # no loss looks at the initial state itself

# The three steps share W, U and b: each gradient is a sum over the steps of da_t times what the parameter multiplied.
dW = da_0 * h_init + da_1 * h_0 + da_2 * h_1
dU = da_0 * x_0 + da_1 * x_1 + da_2 * x_2
db = da_0 + da_1 + da_2

print("\nBackward")
for t, (dh, da) in [(2, (dh_2, da_2)), (1, (dh_1, da_1)), (0, (dh_0, da_0))]:
    print(f"  dh_{t} = {dh:.5f}   da_{t} = {da:.5f}")
print(f"  dW = {dW:.5f}   dU = {dU:.5f}   db = {db:.5f}")

# %%
# The same by the package
# -----------------------
# One input, one hidden unit. The package follows torch.nn in having two biases, which are added: the neuron's goes into
# the first. `output` is h_0, h_1, h_2; what comes in from the loss is delta; and the gradients agree to rounding.

import numpy as np

from rnn_numpy import RNN

rnn = RNN(input_size=1, hidden_size=1)
rnn.params["weight_ih_l0"][...] = U
rnn.params["weight_hh_l0"][...] = W
rnn.params["bias_ih_l0"][...] = b
rnn.params["bias_hh_l0"][...] = 0.0

output, h_n, trace = rnn.forward(np.array([[x_0], [x_1], [x_2]]))
back = rnn.backward(trace, np.array([[delta_0], [delta_1], [delta_2]]))

pairs = {
    "h_2": (h_2, h_n.item()),
    "dW (weight_hh_l0)": (dW, back.grads["weight_hh_l0"].item()),
    "dU (weight_ih_l0)": (dU, back.grads["weight_ih_l0"].item()),
    "db (bias_ih_l0)": (db, back.grads["bias_ih_l0"].item()),
    "dh_{-1}": (dh_init, back.dh_0.item()),
    "dx_0": (U * da_0, back.dx[0].item()),
}
print("\nBy hand and by rnn.backward")
for name, (by_hand, by_package) in pairs.items():
    print(f"  {name:<18} {by_hand:+.15f} {by_package:+.15f}")
    assert abs(by_hand - by_package) <= 1e-14 * abs(by_hand), name

# %%
# The double sum
# --------------
# The lecture writes dL/dW as a sum over pairs: the loss of step t, and an earlier step k at which W acted. Between the
# two lie the steps k+1 ... t, each of which multiplies by its own derivative J_t = dh_t/dh_{t-1} = (1 - h_t^2) W:
#
#     G(t, k) = delta_t  J_t J_{t-1} ... J_{k+1}  (1 - h_k^2) h_{k-1}
#
# That product has t - k factors, none where t = k. (As the slides write it, j = k ... t, it would have one too many.)
# The last two factors are the immediate derivative of h_k: W's own effect at step k, with h_{k-1} held fixed.

J_1 = (1 - h_1**2) * W
J_2 = (1 - h_2**2) * W
slope_0, slope_1, slope_2 = 1 - h_0**2, 1 - h_1**2, 1 - h_2**2

terms_W = [
    [delta_0 * slope_0 * h_init],
    [delta_1 * J_1 * slope_0 * h_init, delta_1 * slope_1 * h_0],
    [delta_2 * J_2 * J_1 * slope_0 * h_init, delta_2 * J_2 * slope_1 * h_0, delta_2 * slope_2 * h_1],
]
# For U the immediate derivative has x_k in place of h_{k-1}; nothing else changes.
terms_U = [
    [delta_0 * slope_0 * x_0],
    [delta_1 * J_1 * slope_0 * x_0, delta_1 * slope_1 * x_1],
    [delta_2 * J_2 * J_1 * slope_0 * x_0, delta_2 * J_2 * slope_1 * x_1, delta_2 * slope_2 * x_2],
]


def print_table(name, terms):
    """Print the terms G(t, k) of one parameter and the sums of rows, which are the shares of the losses L_t.

    Adding 0.0 turns the -0.0 of a product with h_init into 0.0.
    """
    heads = "".join(f"{head:>12}" for head in ("k = 0", "k = 1", "k = 2", "sum"))
    print(f"\n{'G(t, k) for ' + name:<21}{heads}")
    for t, row in enumerate(terms):
        cells = "".join(f"{term + 0.0:12.6f}" for term in row) + " " * 12 * (3 - len(row))
        print(f"  loss of step t = {t} {cells}{sum(row) + 0.0:12.6f}")
    print(f"  {'all':<55}{sum(map(sum, terms)):12.6f}")


print_table("W", terms_W)
print_table("U", terms_U)

# Six terms, or three lines of backward pass: the same gradient.
assert abs(sum(map(sum, terms_W)) - dW) <= 1e-14 * abs(dW)
assert abs(sum(map(sum, terms_U)) - dU) <= 1e-14 * abs(dU)

# %%
# The figure
# ----------
# Above, the network unrolled: numbers over the arrows run forward, to the right and up; numbers under them run back.
# Below, the two tables. Look at a row of U's table from the diagonal to the left: every step back costs a factor J of
# about 0.3, so what the loss of step 2 tells the weights about step 0 is less than a tenth of what it tells them about
# step 2. That is the vanishing gradient, in three steps. W's table has zeros in column k = 0, since there W multiplies
# the initial state, which is 0.

import matplotlib.pyplot as plt
from matplotlib.patches import Circle

BLUE, ORANGE, GREY = "#0072b2", "#c04a00", "#595959"
forward_style = {"arrowstyle": "-|>", "color": BLUE, "lw": 1.6, "mutation_scale": 13}
backward_style = {"arrowstyle": "-|>", "color": ORANGE, "lw": 1.6, "mutation_scale": 13, "linestyle": (0, (4, 2))}

figure = plt.figure(figsize=(10, 8.6))
grid = figure.add_gridspec(
    2, 2, height_ratios=[1.2, 1], hspace=0.3, wspace=0.14, left=0.07, right=0.97, top=0.92, bottom=0.07
)

graph = figure.add_subplot(grid[0, :])
graph.set(xlim=(-1.75, 5.0), ylim=(-1.5, 1.62), aspect="equal")
graph.axis("off")
graph.set_title("The neuron unrolled: values forward (blue), gradients backward (orange, dashed)", fontsize=12)


def node(column, row, text, fill="white"):
    """Draw a circle with a symbol in it."""
    graph.add_patch(Circle((column, row), 0.26, facecolor=fill, edgecolor=GREY, lw=1.3, zorder=3))
    graph.text(column, row, text, ha="center", va="center", fontsize=12, zorder=4)


def edge(start, end, ahead, behind, *, across):
    """Draw the pair of arrows of an edge: values along it, gradients against it, with their texts beside them."""
    (x_start, y_start), (x_end, y_end) = start, end
    shift = (0.0, 0.07) if across else (-0.07, 0.0)
    for sign, (tail, head), style in ((1, (start, end), forward_style), (-1, (end, start), backward_style)):
        offset = (sign * shift[0], sign * shift[1])
        graph.annotate(
            "",
            xy=(head[0] + offset[0], head[1] + offset[1]),
            xytext=(tail[0] + offset[0], tail[1] + offset[1]),
            arrowprops={**style, "shrinkA": 21, "shrinkB": 21},
        )
    middle_x, middle_y = (x_start + x_end) / 2, (y_start + y_end) / 2
    if across:
        graph.text(middle_x, middle_y + 0.13, ahead, color=BLUE, ha="center", va="bottom", fontsize=9.5)
        graph.text(middle_x, middle_y - 0.14, behind, color=ORANGE, ha="center", va="top", fontsize=9.5)
    else:
        graph.text(middle_x - 0.14, middle_y, ahead, color=BLUE, ha="right", va="center", fontsize=9.5)
        graph.text(middle_x + 0.14, middle_y, behind, color=ORANGE, ha="left", va="center", fontsize=9.5)


columns = [0.0, 2.0, 4.0]
states, inputs = [h_0, h_1, h_2], [x_0, x_1, x_2]
das, deltas = [da_0, da_1, da_2], [delta_0, delta_1, delta_2]
node(-1.45, 0, r"$h_{-1}$", "#eeeeee")
edge((-1.45, 0), (0, 0), f"{h_init:.0f}", rf"$W\,da_0$ = {dh_init:.3f}", across=True)
for t, column in enumerate(columns):
    node(column, 0, f"$h_{t}$")
    node(column, -1.2, f"$x_{t}$", "#eeeeee")
    node(column, 1.2, f"$L_{t}$", "#eeeeee")
    edge((column, -1.2), (column, 0), f"{inputs[t]:.1f}", rf"$U\,da_{t}$ = {U * das[t]:.3f}", across=False)
    edge((column, 0), (column, 1.2), f"{states[t]:.5f}", rf"$\delta_{t}$ = {deltas[t]:.3f}", across=False)
for t in (1, 2):
    edge((columns[t - 1], 0), (columns[t], 0), f"{states[t - 1]:.5f}", rf"$W\,da_{t}$ = {W * das[t]:.3f}", across=True)


def draw_table(axes, terms, name, total):
    """Draw the triangle of terms G(t, k), darker where they are larger."""
    square = np.full((3, 3), np.nan)
    for t, row in enumerate(terms):
        square[t, : t + 1] = row
    size = np.abs(square)
    largest = np.nanmax(size)
    axes.imshow(size, cmap="Blues", vmin=0, vmax=1.25 * largest, aspect="auto")
    for t, row in enumerate(terms):
        for k, term in enumerate(row):
            dark = abs(term) > 0.75 * largest
            axes.text(
                k, t, f"{term + 0.0:.4f}", ha="center", va="center", fontsize=12, color="white" if dark else "black"
            )
    axes.set(xticks=[0, 1, 2], yticks=[0, 1, 2], xlabel=f"step $k$ at which {name} acted", ylabel="loss of step $t$")
    axes.set_title(f"Terms $G(t, k)$ of d$L$/d{name}; they add up to {total:.4f}", fontsize=12)
    axes.set_xticks([0.5, 1.5], minor=True)
    axes.set_yticks([0.5, 1.5], minor=True)
    axes.grid(which="minor", color="white", lw=3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


draw_table(figure.add_subplot(grid[1, 0]), terms_W, "$W$", dW)
draw_table(figure.add_subplot(grid[1, 1]), terms_U, "$U$", dU)

figure.savefig("plot_worked_neuron.png", dpi=120)
print("\nwrote plot_worked_neuron.png")
