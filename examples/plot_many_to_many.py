"""
Many to many, not aligned: an encoder, a decoder, and what joins them
=====================================================================

The lecture's encoder-decoder: one net reads a sequence to its end, its last state says it all, and another net of
another size starts from that and writes a sequence of another length. Here 12 to 24 months of sea temperature go in (El
Nino, off Peru, 1950 to 2010, from statsmodels), and the 12 months that follow come out.

What you will see: how little joins two layers, h_n -> h_0 forward, dh_0 -> dh_n backward; a gradient check of the join;
how far the forecasts of the last twelve years are off, beside what needs no net; and `plot_many_to_many.png`: forecasts
from some origins, and the error by horizon.
"""

# %%
# The data
# --------
# The last fifth is held out. A sample is an origin and a length: the past before the origin, padded at its end, and the
# twelve months from it on.

import numpy as np

from rnn_numpy import GRU, Adam, Linear, mse_loss
from rnn_numpy.checks import gradcheck
from rnn_numpy.models.model import Model
from rnn_numpy.report.plots.style import COLOURS, frame, new_figure, save_figure
from rnn_numpy.tasks import load_series
from rnn_numpy.training import Draws, train

SHORTEST, LONGEST, OUT = 12, 24, 12
temperature = load_series("elnino").values[:, 0]
split = int(0.8 * len(temperature))
mean, scale = temperature[:split].mean(), temperature[:split].std()
series = (temperature - mean) / scale


def windows(origins, lengths):
    """Return pasts, (T, N, 1), and futures, (12, N, 1)."""
    x = np.zeros((LONGEST, len(origins), 1))
    for n, (origin, length) in enumerate(zip(origins, lengths, strict=True)):
        x[:length, n, 0] = series[origin - length : origin]
    return x, series[origins + np.arange(OUT)[:, None]][..., None]


# %%
# The model
# ---------
# The decoder is trained as the lecture says: over the desired values. Its input is the month before, at the first step
# the last month of the past; later the true ones. Used, it reads its own.


class EncoderDecoder(Model):
    layers = ("encoder", "bridge", "decoder", "readout")

    def __init__(self, reading, writing, rng):
        self.encoder = GRU(1, reading, rng=rng)
        self.bridge = Linear(reading, writing, rng=rng)  # the two nets differ in size
        self.decoder = GRU(1, writing, rng=rng)
        self.readout = Linear(writing, 1, rng=rng)
        self.join()

    def loss_and_grads(self, x, lengths, target):
        grads = self.params.zeros_like()
        last = x[lengths - 1, np.arange(len(lengths))][None]
        # Forward. h_n has the state of each sequence after its own last step.
        _, h_n, read = self.encoder.forward(x, lengths=lengths)
        h_0, bridged = self.bridge.forward(h_n)
        output, _, written = self.decoder.forward(np.concatenate([last, target[:-1]]), h_0)
        prediction, told = self.readout.forward(output)
        loss, dprediction = mse_loss(prediction, target)
        # Backward, in reverse order. The encoder's outputs are not used, only its last state: its gradient is dh_n.
        doutput = self.readout.backward(told, dprediction, grads.part("readout")).dx
        dh_0 = self.decoder.backward(written, doutput, grads=grads.part("decoder")).dh_0
        dh_n = self.bridge.backward(bridged, dh_0, grads.part("bridge")).dx
        self.encoder.backward(read, None, dh_n, grads.part("encoder"))
        return loss, grads, written

    def forecast(self, x, lengths):
        """Return what the decoder writes from its own values, (12, N, 1)."""
        _, h_n = self.encoder(x, lengths=lengths)
        state, value, written = self.bridge(h_n), x[lengths - 1, np.arange(len(lengths))][None], []
        for _ in range(OUT):
            output, state = self.decoder(value, state)
            value = self.readout(output)
            written.append(value)
        return np.concatenate(written)

    def loss_of(self, x, lengths, target):
        return self.loss_and_grads(x, lengths, target)[0]

    def count(self, x, lengths, target):
        return target.size


# %%
# The join is right
# -----------------

lengths = np.array([24, 12, 17])
x, target = windows(np.array([40, 100, 200]), lengths)
report = gradcheck(EncoderDecoder(3, 4, rng=0), x, lengths, target)
print(f"gradient check, {len(report.rows)} tensors: {'right' if report.ok else report}")

# %%
# Training
# --------

rng = np.random.default_rng(0)
model = EncoderDecoder(24, 32, rng)


def draw(rng):
    origins = rng.integers(LONGEST, split - OUT, size=32, endpoint=True)
    lengths = rng.integers(SHORTEST, LONGEST, size=32, endpoint=True)
    x, target = windows(origins, lengths)
    return x, lengths, target


updates = 400
training = train(
    model, Draws(draw, rng), Adam(model.params, 1e-2), schedule=lambda t: 1e-2 * (1 - t / updates), clip=1.0
)
while training.number < updates:
    update = next(training)
    if update.number % 200 == 0:
        print(f"update {update.number:4}, squared error of one step {update.loss:.4f}")

# %%
# Forecasts
# ---------
# Of each month of the last fifth from which twelve are left, beside two that need no net: the last value, and the value
# of a year before. Root mean squared errors, in standard deviations of the training part.

origins = np.arange(split, len(series) - OUT + 1)
x, target = windows(origins, np.full(len(origins), LONGEST))
forecasts = {
    "last value": np.broadcast_to(series[origins - 1][None, :, None], target.shape),
    "a year before": windows(origins - 12, np.full(len(origins), LONGEST))[1],
    "encoder-decoder": model.forecast(x, np.full(len(origins), LONGEST)),
}
errors = {name: np.sqrt(np.mean((values - target) ** 2, axis=(1, 2))) for name, values in forecasts.items()}
for name, values in forecasts.items():
    by_horizon = "  ".join(f"{error:.2f}" for error in errors[name][[0, 2, 5, 11]])
    print(f"{name:16} all {np.sqrt(np.mean((values - target) ** 2)):.3f}, 1 3 6 12 months ahead {by_horizon}")
assert errors["encoder-decoder"].mean() < errors["a year before"].mean()

# %%
# The picture
# -----------

figure = new_figure(9.0, 6.4)
above, below = figure.subplots(2, 1, height_ratios=(3, 2))
months = 1950 + np.arange(len(series)) / 12
above.plot(months[split:], temperature[split:], color="0.6", linewidth=1.2, label="measured")
for number, n in enumerate(range(2, len(origins), 14)):
    values = mean + scale * forecasts["encoder-decoder"][:, n, 0]
    begin = origins[n]
    label = "forecast of the 12 months that follow" if number == 0 else None
    above.plot(months[begin : begin + OUT], values, color=COLOURS[number % 2], linewidth=1.6, label=label)
    above.plot(months[begin - 1], temperature[begin - 1], "o", color=COLOURS[number % 2], markersize=4)
frame(above, "year", "sea temperature, °C", "24 months in, 12 months out: no month that is drawn was trained on")
above.legend(frameon=False, loc="upper right", ncols=2)
for (name, values), colour in zip(errors.items(), ("0.6", "0.3", COLOURS[0]), strict=True):
    below.plot(np.arange(1, OUT + 1), scale * values, "o-", color=colour, label=name, markersize=4)
frame(below, "months ahead", "root mean squared error, °C", "Error by horizon")
below.legend(frameon=False)
save_figure(figure, "plot_many_to_many.png", ".png")
