"""
Forecasting a real series, twelve steps ahead, in three ways
============================================================

The lecture's prediction of a signal, on the temperature of the sea off Peru, month by month: from what is known, what
do the next twelve months bring? A net that was trained to say the next month can be fed with what it says (recursive);
a net can say all twelve months at once (direct); or a decoder goes on from the state of an encoder, and is trained
through its own forecasts (seq2seq).

What you will see: a GRU of each kind, trained within some seconds, beside repeating last year and an autoregression,
which is not easy to beat; and `plot_forecast.png`: errors by horizon, and a year of the test as each foretells it.
"""

# %%
# The data, and what is to be beaten
# ----------------------------------
# The last fifth of the series is the test, the last tenth of the rest is for choosing, and what remains trains. Every
# month of the test is forecast once from each of one to twelve months before. Errors are in standard deviations.

import numpy as np

from rnn_numpy import Adam
from rnn_numpy.models import STRATEGIES, forecast, horizon_batch, horizon_model
from rnn_numpy.report.plots.style import COLOURS, STYLES, frame, new_figure, save_figure
from rnn_numpy.tasks import SplitSeries, autoregressions, baselines, load_series, rolling_origins, score
from rnn_numpy.training import Best, Draws, train

split = SplitSeries.of(load_series("elnino"))
length, horizon, updates = 60, 12, 240
test = rolling_origins(split.known, len(split), horizon)
validation = rolling_origins(split.train, split.known, horizon)
forecasts = baselines(split, autoregressions(split), test[0], horizon)
del forecasts["persistence"]  # the month before says little about the season

# %%
# Training
# --------
# A batch is 32 windows of 60 months, which end in the training part with all that is to be forecast from them. The loss
# of the first twelve steps does not count: the state has not seen a year yet.


def draw(model, ahead, rng):
    origins = rng.integers(length, split.train - ahead, size=32, endpoint=True)
    return horizon_batch(model, *split.windows(origins, length, ahead), uncounted=12)


def ahead_of(model, origins):
    """Return forecasts in degrees, (H, N, D)."""
    return split.levels(forecast(model, split.contexts(origins, length), horizon), origins)


for strategy in STRATEGIES:
    model = horizon_model(strategy, split.channels, 16, horizon, rng=np.random.default_rng(0))
    ahead = 1 if strategy == "recursive" else horizon
    batches = Draws(lambda rng, model=model, ahead=ahead: draw(model, ahead, rng), np.random.default_rng(1))
    training = train(model, batches, Adam(model.params, 1e-2), clip=1.0)
    best = Best(model.params)
    for update in training:
        if update.number % 20 == 0:
            best.update(score(split, ahead_of(model, validation[0]), *validation).rmse)
        if update.number == updates:
            break
    best.restore()
    forecasts[strategy] = ahead_of(model, test[0])

# %%
# How far they are off
# --------------------
# MASE compares with what repeating last year errs, before the test. One seed of each is no verdict on a strategy:
# `rnn-numpy train forecast` trains several, and tells all of them.

scores = {name: score(split, values, *test) for name, values in forecasts.items()}
print("                      RMSE 1 month  12 months  all   MASE (m = 12)")
for name, found in scores.items():
    first, *_, last = found.by_horizon
    print(f"{name:20} {first:13.3f} {last:10.3f} {found.rmse:6.3f} {found.seasonal_mase:11.3f}")

# %%
# The figure
# ----------

figure = new_figure(9.0, 4.0)
errors, year = figure.subplots(1, 2, width_ratios=(1, 1.25))
frame(errors, "months ahead", "RMSE, standard deviations", "Error by horizon")
frame(year, "months from the last known one", "degrees Celsius", "A year of the test, foretold at its beginning")
start = len(split) - 3 * horizon
at = int(np.flatnonzero(test[0] == start)[0])
truth = split.series.values[start - 12 : start + horizon, 0]
year.plot(range(-11, horizon + 1), truth, color="black", label="truth")
for number, (name, found) in enumerate(scores.items()):
    style, marker = STYLES[number]
    look = {"color": ("0.5", *COLOURS)[number], "linestyle": style, "marker": marker, "markersize": 4, "label": name}
    errors.plot(range(1, horizon + 1), found.by_horizon, **look)
    year.plot(range(1, horizon + 1), forecasts[name][:, at, 0], **look)
errors.set_ylim(bottom=0)
errors.legend(frameon=False, fontsize=9, loc="lower right", ncols=2)
year.legend(handles=year.lines[:1], frameon=False, fontsize=9, loc="lower left")
save_figure(figure, "plot_forecast.png", ".png")
