"""
Clipping: what each rule does to a gradient that explodes
=========================================================

A gradient that has grown a hundred thousandfold on its way back through time would throw the weights anywhere. So it is
cut down, and there are many rules for that. All make it short. They differ in where it points afterwards, and that
decides what training then minimises. We take one such gradient, of a network that reads an EEG, and apply each rule to
it; then we train, and look at what clipping did at every update.

What you will see: a table of five rules on one gradient; how strong clipping turns it further; three training runs,
without a limit, with a sensible one, and with one that is always reached; and a figure, `plot_clipping.png`.
"""

# %%
# A gradient that explodes
# ------------------------
# 64 tanh units whose W_hh has a spectral radius of 2, eight windows of 100 samples, and an error at the last step only:
# whatever stands at an earlier step has come all the way back from there. `lag_norms` says how much each step adds to
# dL/dW_hh, by how far back it is.

import numpy as np

from rnn_numpy import SGD, Forecaster, mse_loss
from rnn_numpy.lab import set_recurrent_weights
from rnn_numpy.report import plot_clip_directions, plot_clip_ledger, plot_lag_profile
from rnn_numpy.tasks import ForecastTask, load_bundled
from rnn_numpy.training import (
    ClipLedger,
    ClipResult,
    backward_clipped,
    clip_grad_adaptive,
    clip_grad_norm,
    clip_grad_norm_per_layer,
    clip_grad_value,
    lag_norms,
)

T, N, H = 100, 8, 64
task = ForecastTask.of(load_bundled("eeg"), length=T)
last_step = np.zeros((T, N), dtype=bool)
last_step[-1] = True


def network(gain):
    """Return a new network; the same weights each time, but for the gain of the recurrent ones."""
    model = Forecaster(input_size=4, hidden_size=H, rng=0)
    set_recurrent_weights(model.rnn, gain=gain, init="uniform", rng=None)
    return model


windows, model = task.spread_windows(N), network(2.0)
rnn = model.rnn
output, _, trace = rnn.forward(windows.x)
prediction, readout_trace = model.readout.forward(output)
loss, dprediction = mse_loss(prediction, windows.target, mask=last_step)
doutput = model.readout.backward(readout_trace, dprediction).dx
whole = rnn.backward(trace, doutput).grads
lags = {"as it is": lag_norms(trace)}

print(f"the error's gradient at the last step has the norm {np.linalg.norm(doutput[-1]):.2f}")
print(f"that of the weights has {np.linalg.norm(whole.flat):.0f}: what the steps add to dL/dW_hh, by lag:")
print("  " + "   ".join(f"lag {lag}: {lags['as it is'][lag]:.3g}" for lag in (0, 10, 20, 40, 80)))

# %%
# Five rules
# ----------
# Four of them take the finished gradient. `backward_clipped` works inside of time: it caps the gradient of the state at
# each step on its way back, so that nothing explodes in the first place. What comes out is no gradient of anything. We
# put it beside the true one, as the others do by themselves.


def inside_time(limit):
    """Return what capping inside of time made of the gradient, in the words of the other rules, and its lags."""
    _, _, own = rnn.forward(windows.x)
    clipped = backward_clipped(rnn, own, doutput, max_norm=limit)
    new = clipped.result.grads
    before, after = clip_grad_norm(whole.copy(), 1e300), clip_grad_norm(new.copy(), 1e300)  # these only measure
    cosine = float(whole.flat @ new.flat) / before.norm / after.norm
    result = ClipResult(
        before.norm,
        after.norm / before.norm,
        not clipped.is_gradient,
        after.norm,
        cosine,
        clipped.capped,
        clipped.total,
    )
    return new, result, lag_norms(own)


def on_a_copy(rule, limit):
    """Return a clipped copy of the gradient, and what the rule says it did."""
    grads = whole.copy()
    return grads, rule(grads, limit, trace=trace)


def adaptive(grads, limit, trace):
    return clip_grad_adaptive(grads, rnn.params, limit, trace=trace)


rules = {
    "norm": clip_grad_norm,
    "value": clip_grad_value,
    "per layer": clip_grad_norm_per_layer,
    "adaptive": adaptive,
}
print("\nrule           limit    factor   cosine   touched                 longest before      longest after       lag")
for name, limit in {"norm": 1.0, "value": 1.0, "per layer": 1.0, "adaptive": 0.01, "inside time": 1.0}.items():
    if name == "inside time":
        grads, done, lags[name] = inside_time(limit)
        unit, lag = "states", int(lags[name].argmax())
    else:
        grads, done = on_a_copy(rules[name], limit)
        unit, lag = done.unit, done.lag
    longest = [clip_grad_norm(each.copy(), 1e300) for each in (whole, grads)]
    told = [f"{found.dominant} {found.share:.0%}" for found in longest]
    touched = f"{done.touched} of {done.total} {unit}"
    print(
        f"{name:<12} {limit:>7g}   {done.factor:.1e}   {done.cosine:>6.2f}   {touched:<22}  "
        f"{told[0]:<18}  {told[1]:<18}  {lag:>3}"
    )

# %%
# By norm the cosine is 1: shorter, and nothing else. By value nearly all entries end at the limit, the large ones as
# the small ones; W_hh is now the longest because it has the most entries. Per layer, all parameters are equally long,
# the biases too. Adaptive gives each row a length in proportion to its weights, and those of W_hh are large. Inside of
# time another gradient comes out: the last column says which lag adds most to dL/dW_hh, and it is no longer one at the
# far end.
#
# How hard should one clip? By norm it makes no difference to the direction. For the others, here is a range of limits.

limits = np.logspace(-3, 5, 33)
swept = {name: [on_a_copy(rule, limit)[1] for limit in limits] for name, rule in rules.items()}
swept["inside time"] = [inside_time(limit)[1] for limit in limits]
print("\ncosine at the limit  " + "".join(f"{limit:<9g}" for limit in limits[::8]))
for name, results in swept.items():
    print(f"  {name:<19}" + "".join(f"{result.cosine:<9.2f}" for result in results[::8]))

# %%
# Three runs
# ----------
# The same network at gain 1.5, the same windows, plain gradient descent. A `ClipLedger` keeps what clipping did.

UPDATES = 200
runs = {}
for name, limit in {"no limit": 1e300, "limit 5": 5.0, "limit 1": 1.0}.items():
    model, rng, ledger, losses = network(1.5), np.random.default_rng(1), ClipLedger(), []
    optimizer = SGD(model.params, lr=0.03)
    for _ in range(UPDATES):
        batch = task.random_windows(N, rng)
        loss, grads, _ = model.loss_and_grads(batch.x, batch.target, last_step)
        if not ledger.record(clip_grad_norm(grads, limit, on_nonfinite="skip")).skipped:
            optimizer.step(grads)
        losses.append(loss)
    runs[name] = ledger, np.array(losses)

print("\nrun        engaged   largest norm   mean factor   mean loss of the first and of the last 40 updates")
for name, (ledger, losses) in runs.items():
    print(
        f"{name:<11}{ledger.engaged_share:>6.1%}   {ledger.largest_norm:>12.0f}   {ledger.mean_factor:>11.2f}   "
        f"{losses[:40].mean():.2f}   {losses[-40:].mean():.2f}"
    )
print(f"\n{runs['limit 5'][0]}")

# %%
# The figure
# ----------
# Above, the one gradient. Left, further to the right is stronger clipping: the line of the norm stays at 1, all others
# leave it. (The line inside time ends early: what enters at the last step has not travelled and is not capped.) Right,
# what each lag adds to dL/dW_hh: left alone, the furthest lags rule; capped, no lag stands out by more than a little.
#
# Below, the runs. Left, the one with limit 5: each orange stroke is what was cut off. For most updates the two norms
# are the same; the limit is a safety net that catches a few. Right, the losses, each a mean over twenty updates.
# Without a limit some updates are so long that they undo what others have learned. A limit that is reached at every
# update learns slowly: every update then has the same length, whatever the gradient says, and the limit is a learning
# rate in disguise.

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 2, figsize=(13.5, 9.2), layout="constrained")
plot_clip_directions(swept, axes[0, 0]).set_title("One gradient: which way it points after clipping")
plot_lag_profile(lags, axes[0, 1]).set_title("What each lag adds to dL/dW_hh, capped at 1 inside time")
ax = plot_clip_ledger(runs["limit 5"][0], axes[1, 0])
ax.set_title(f"A run with limit 5: {ax.get_title()}")

ax, width = axes[1, 1], 20
for (name, (ledger, losses)), colour, style in zip(
    runs.items(), ("#D55E00", "#0072B2", "#009E73"), (":", "-", "--"), strict=True
):
    means = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    label = f"{name}, engaged at {100 * ledger.engaged_share:.3g} %"
    ax.plot(np.arange(width, UPDATES + 1), means, color=colour, linestyle=style, linewidth=1.8, label=label)
ax.set_yscale("log")
ax.set_yticks([0.2, 0.5, 1.0, 2.0], labels=["0.2", "0.5", "1", "2"])
ax.minorticks_off()
ax.set_xlabel("update")
ax.set_ylabel(f"loss, mean of {width} updates")
ax.set_title("Three runs of 200 updates")
ax.grid(True, color="0.9", linewidth=0.8)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure.suptitle("Clipping: one gradient under five rules, and three training runs")
figure.savefig("plot_clipping.png", dpi=110)
print("\nwrote plot_clipping.png")
