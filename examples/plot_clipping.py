"""
What clipping does to a gradient
================================

A recurrent net can give a gradient that is a thousand times as long as at the update before. Clipping shortens it; what
else it does depends on the rule. Some keep the direction, some turn the gradient, one is no gradient at all.

What you will see: five rules on one gradient that has exploded, with what each left of its length and its direction;
and a figure, `plot_clipping.png`: training with and without clipping, and the ledger of the run, which says how often
the limit was at work.
"""

# %%
# One gradient that explodes
# --------------------------
# A tanh net whose recurrent weights are drawn twice as large as would be steady, on forty steps of an EEG, with the
# loss at the last step alone: on its way back the gradient grows.

import numpy as np

from rnn_numpy import (
    RNN,
    SGD,
    ClipLedger,
    Linear,
    backward_clipped,
    clip_grad_adaptive,
    clip_grad_norm,
    clip_grad_norm_per_layer,
    clip_grad_value,
    mse_loss,
)
from rnn_numpy.tasks import ForecastTask, load_bundled

T, H, N = 40, 32, 4
signal = ForecastTask.of(load_bundled("eeg"), length=T + 1).spread_windows(N).x  # (T + 1, N, 4)
x, y = signal[:-1], signal[-1:]


def network():
    rnn = RNN(4, H, rng=0)
    rnn.params["weight_hh_l0"][...] = 2.0 * np.random.default_rng(1).normal(size=(H, H)) / np.sqrt(H)
    return rnn, Linear(H, 4, rng=2)


def gradient(rnn, readout):
    """Return the loss, the trace, and what the loss says to the outputs."""
    output, _, trace = rnn.forward(x)
    forecast, readout_trace = readout.forward(output[-1:])
    loss, dforecast = mse_loss(forecast, y)
    top = readout.backward(readout_trace, dforecast)
    doutput = np.zeros_like(output)
    doutput[-1:] = top.dx
    return loss, trace, doutput, top.grads


rnn, readout = network()
_, trace, doutput, _ = gradient(rnn, readout)
whole = rnn.backward(trace, doutput).grads
step_norms = np.linalg.norm(trace.dh, axis=(1, 2))
print(f"the gradient of the state, over that of the last step: {step_norms[0] / step_norms[-1]:.1e} at the first")

# %%
# Five rules
# ----------
# By norm: all entries times one factor; the direction stays. By value: each entry into a box; the gradient turns
# towards a corner. Per layer: each tensor by its own norm; right within a tensor, turned as a whole. Adaptive: each row
# of a weight against the row's own length. Inside of time: what goes back from step to step is capped as it goes; the
# sums are then made of other terms, and are the gradient of nothing.

rules = {
    "norm": lambda grads: clip_grad_norm(grads, 1.0, trace=trace),
    "value": lambda grads: clip_grad_value(grads, 0.05, trace=trace),
    "per tensor": lambda grads: clip_grad_norm_per_layer(grads, 0.5, trace=trace),
    "adaptive": lambda grads: clip_grad_adaptive(grads, rnn.params, 0.01, trace=trace),
}
print("\nrule          norm before   after    cosine   touched             longest in      from lag")
for name, rule in rules.items():
    result = rule(whole.copy())
    print(
        f"{name:12}  {result.norm:11.3g} {result.norm_after:7.3g}  {result.cosine:8.4f}"
        f"   {result.touched:5d} of {result.total} {result.unit:8} {result.dominant:15} {result.lag}"
    )
capped = backward_clipped(rnn, trace, doutput, max_norm=step_norms[-1])
flat = capped.result.grads.flat
cosine = whole.flat @ flat / np.linalg.norm(whole.flat) / np.linalg.norm(flat)
print(
    f"{'inside time':12}  {np.linalg.norm(whole.flat):11.3g} {np.linalg.norm(flat):7.3g}  {cosine:8.4f}"
    f"   {capped.capped:5d} of {capped.total} states   a gradient of the loss: {capped.is_gradient}"
)

# %%
# A run with a ledger
# -------------------
# The same net in training, with a learning rate that is right most of the time. Without clipping the first long
# gradients throw the weights to where units saturate, and learning slows down; with it the weights stay where the error
# can be followed down. The ledger says how often the limit was at work: one that engages at every update is a step size
# of its own.


def trained(limit, updates=150):
    rnn, readout = network()
    optimizers = [SGD(layer.params, lr=0.02) for layer in (rnn, readout)]
    ledger, losses = ClipLedger(), []
    for _ in range(updates):
        loss, trace, doutput, dreadout = gradient(rnn, readout)
        grads = rnn.backward(trace, doutput).grads
        ledger.record(clip_grad_norm(grads, limit, on_nonfinite="skip"))
        for optimizer, gradients in zip(optimizers, (grads, dreadout), strict=True):
            optimizer.step(gradients)
        losses.append(loss)
    return losses, ledger


with_limit, ledger = trained(20.0)
without, free = trained(1e300)
print()
print(ledger)
print(
    f"\nmean loss of the last ten updates: {np.mean(with_limit[-10:]):.4f} with clipping, "
    f"{np.mean(without[-10:]):.4f} without"
)

# %%
# The figure
# ----------
# Left, the norm of the gradient at each update, before and after clipping. Right, the loss.

from rnn_numpy.lab import plot_clip_ledger, save_figure
from rnn_numpy.lab.plots import COLOURS, frame, new_figure

figure = new_figure(11, 4.5)
left, right = figure.subplots(1, 2)
plot_clip_ledger(ledger, left)
right.plot(without, color=COLOURS[1], linestyle="--", linewidth=1.4, label="without clipping")
right.plot(with_limit, color=COLOURS[0], linewidth=1.6, label="norm at most 20")
right.set_yscale("log")
right.legend(frameon=False)
frame(right, "update", "squared error of the forecast (series has variance 1)", "what it does to training")
with open("plot_clipping.png", "wb") as file:
    save_figure(figure, file, ".png")
print("\nwrote plot_clipping.png")
