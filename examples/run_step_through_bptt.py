"""
Step backwards through time and stop where the gradient explodes
================================================================

The backward pass as a loop of your own: one turn per time step, newest first, with every array of that step at hand.
A network whose recurrent weights are too large reads a recorded EEG; we follow the gradient of its forecast back
through 100 steps, stop when it has grown two hundredfold, look around, and then let the pass run to its end.

What you will see: the table of a step; how the norm grows; that stopping early leaves the gradients untouched; that
stepping and `backward` give the same numbers, bit for bit; and what clipping makes of the result.
"""

# %%
# A forecast that explodes
# ------------------------
# Four electrodes, standardised; eight windows of 100 samples. The net has 64 tanh units, and its W_hh is scaled to a
# spectral radius of 2: without the tanh, a gradient could double at each step back.

import numpy as np

from rnn_numpy import Forecaster, clip_grad_norm, mse_loss
from rnn_numpy.lab import set_recurrent_weights
from rnn_numpy.tasks import ForecastTask, load_bundled

T = 100
windows = ForecastTask.of(load_bundled("eeg"), length=T).spread_windows(8)
model = Forecaster(input_size=4, hidden_size=64, rng=0)
set_recurrent_weights(model.rnn, gain=2.0, init="uniform", rng=None)

# %%
# Forward, and the gradient that enters at the end
# ------------------------------------------------
# Only the forecast of the last step is judged. So `doutput`, the loss's gradient at each of the layer's outputs, is
# zero but in its last row, and whatever is found at an earlier step has come all the way back from there.

output, h_n, trace = model.rnn.forward(windows.x)
prediction, readout_trace = model.readout.forward(output)
last_step = np.zeros((T, 8), dtype=bool)
last_step[-1] = True
loss, dprediction = mse_loss(prediction, windows.target, mask=last_step)
doutput = model.readout.backward(readout_trace, dprediction).dx
print(f"loss of the last step: {loss:.3f}")

# %%
# Step backwards
# --------------
# `backward_steps` is the backward pass itself, halted after each step; `backward` is the same loop without halts. A
# step's arrays have the names of the formulas: x, h_prev, a, h, and the gradients da, dh. `dh_prev` is what the step
# hands on to the one before it. Put `breakpoint()` in this loop to look around by hand.
#
# In the tables look at the norms of dh and dh_prev: that ratio is what one step does to the gradient. A column of
# zeros under "non-finite" says that nothing has overflowed yet.

grads = model.rnn.params.zeros_like()
start = np.linalg.norm(doutput[-1])
bound = 200 * start

print(f"\nStepping back from t = {T - 1}, where the gradient's norm is {start:.3f}")
for step in model.rnn.backward_steps(trace, doutput, grads=grads):
    norm = np.linalg.norm(step.dh_prev)
    per_step = (norm / start) ** (1 / (T - step.t))
    if step.t == T - 1:
        print(f"\n{step!r}\n")
    if step.t % 10 == 0:
        print(f"  t = {step.t:3d}   norm of dh_prev = {norm:7.3f}   per step so far x {per_step:.3f}")
    if norm > bound:
        print(f"\nstopped: after {T - step.t} steps back the norm is {norm:.1f}, above the bound {bound:.1f}")
        break

# %%
# Look around
# -----------
# The trace is still there, and any of its steps can be asked for. Whose gradient is it that explodes? The rows of dh
# are the eight windows, and a few of them make up most of the norm. And why? One step back multiplies by the slope of
# the tanh, 1 - h^2, and by W_hh transposed. Were the entries of W_hh independent draws, a step would multiply the norm
# by about the spectral radius times the root mean square of the slopes: above 1 it explodes. Saturated units, with
# slopes near 0, are what keeps it from doubling at every step.

print(f"\n{trace[step.t]}\n")
by_window = np.linalg.norm(step.dh_prev, axis=1)
print("norm by window:", " ".join(f"{value:.1f}" for value in by_window))
slope = np.sqrt(np.mean((1 - trace.h[1:] ** 2) ** 2))
print(f"slopes of the tanh, root mean square: {slope:.2f}; times 2: {2 * slope:.2f}; seen per step: {per_step:.2f}")

# Gradients of the parameters are sums over all steps. They are added to `grads` when the last step is done, in one
# product each, so a pass that was stopped has added nothing.
assert not grads.flat.any()
print("parameter gradients after stopping early: all zero")

# %%
# Run to the end
# --------------
# The trace may be gone through again. A second pass, stepped to its end, and a call of `backward`: equal in every bit,
# because they are one loop.

steps = model.rnn.backward_steps(trace, doutput, grads=grads)
norms = np.array([np.linalg.norm(step.dh_prev) for step in steps])
stepped = steps.result
direct = model.rnn.backward(trace, doutput)

assert stepped.grads is grads
assert stepped.grads.flat.tobytes() == direct.grads.flat.tobytes()
assert stepped.dx.tobytes() == direct.dx.tobytes()
assert stepped.dh_0.tobytes() == direct.dh_0.tobytes()
print(f"\nstepped to the end = backward, bit for bit: {grads.flat.size} parameter gradients, dx and dh_0")
growth = (norms[-1] / start) ** (1 / T)
print(f"norm {start:.3f} at the last step, {norms[-1]:.0f} at the initial state: x {growth:.3f} per step back")

# %%
# What an optimiser would get
# ---------------------------
# The gradient of W_hh sums what arrives at all steps, and the oldest steps, where it has grown most, rule the sum: the
# update would serve what happened 100 samples ago and ruin the rest. Clipping shortens it to a length that does no
# harm; its direction stays.

share = np.linalg.norm(trace.da[:10].reshape(-1, 64).T @ trace.h[:10].reshape(-1, 64)) / np.linalg.norm(
    grads["weight_hh_l0"]
)
clipped = clip_grad_norm(grads, max_norm=1.0)
print(f"norm of the ten oldest steps' share of dW_hh, relative to all of dW_hh: {share:.2f}")
print(f"clipping: norm {clipped.norm:.0f} before, {np.linalg.norm(grads.flat):.1f} after")
