"""The figure of `rnn-numpy train forecast`: forecasts of the test with their band, errors by horizon, learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnn_numpy.core.extras import optional_import
from rnn_numpy.experiments.forecasting import ENSEMBLE, MEDIAN, ForecastResult
from rnn_numpy.report.forecast_page import nets_name
from rnn_numpy.report.plots.style import COLOURS, LINE, Axes, Figure, frame, label_ends, new_figure, set_log

# Of H forecast samples each, the last ones of the test; more of short ones, so that there are so many samples.
STRETCHES, SHOWN = 10, 60
# Markers of baselines in the order of the table; the autoregression, the last one, has its own colour.
_LOOKS = ((":", "s"), ("-.", "D"), ("--", "^"))


def forecast_figure(result: ForecastResult, channel: int = 0) -> Figure:
    """Draw the test and its forecasts, of one channel, above; errors by horizon and learning curves below."""
    figure = new_figure(9.6, 7.2)
    axes: Any = figure.subplot_mosaic([["forecasts", "forecasts"], ["errors", "learning"]], height_ratios=(1.15, 1))
    plot_forecasts(result, axes["forecasts"], channel)
    plot_errors(result, axes["errors"])
    plot_validation(result, axes["learning"])
    figure.suptitle(f"{result.split.series.name}: {nets_name(result.options)}", fontsize=12)
    return figure


def plot_forecasts(result: ForecastResult, ax: Axes, channel: int = 0) -> None:
    """Draw the end of the test, and what was forecast from every H-th sample of it, with the ensemble's band."""
    split, horizon = result.split, result.options.horizon
    series = split.series
    starts = np.arange(len(split) - horizon, split.known - 1, -horizon)[: max(STRETCHES, SHOWN // horizon)][::-1]
    if not starts.size:  # a test of less than H samples
        starts = np.array([split.known])
    first = max(0, int(starts[0]) - horizon)
    times, truth = series.times, series.values[:, channel]
    unit = "" if series.unit == "sample" else f", {series.unit}s"
    frame(ax, f"time{unit}" if unit else "sample", series.channels[channel], "", grid=True)
    ax.plot(times[first:], truth[first:], color="black", linewidth=1.3, label="truth", zorder=3)
    autoregression = result.baselines[-1].name
    for number, start in enumerate(starts.tolist()):
        steps = min(horizon, len(split) - start)
        at = int(np.flatnonzero(result.origins == start)[0])
        shown = times[start : start + steps]
        middle = result.forecasts[ENSEMBLE][:steps, at, channel]
        half = result.band.half[:steps, at, channel]
        other = result.forecasts[autoregression][:steps, at, channel]
        first_one = number == 0
        # From the last known value on, so that one sees where a forecast begins.
        joined = [times[start - 1], *shown]
        known = truth[start - 1]
        band = f"band for {result.band.level:.0%}; holds {result.band.coverage:.0%} of the test" if first_one else None
        ax.fill_between(shown, middle - half, middle + half, color=COLOURS[0], alpha=0.2, linewidth=0, label=band)
        name = f"{ENSEMBLE}, from each dot {steps} steps" if first_one else None
        ax.plot(joined, [known, *middle], color=COLOURS[0], linewidth=LINE, label=name, zorder=4)
        ax.plot(
            joined, [known, *other], color=COLOURS[1], linewidth=1.3, linestyle="--",
            label=autoregression if first_one else None,
        )  # fmt: skip
        ax.plot(times[start - 1], known, "o", color="black", markersize=4, zorder=5)
    ax.set_xlim(float(times[first]), float(times[-1]))
    ax.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)


def plot_errors(result: ForecastResult, ax: Axes) -> None:
    """Draw the RMSE by horizon: of each net, their median, and the baselines."""
    steps = np.arange(1, result.options.horizon + 1)
    frame(ax, "steps ahead", "RMSE, standard deviations", "Test error by horizon")
    ends: list[tuple[float, str, str]] = []
    looks = _LOOKS[-len(result.baselines) :]
    for (style, marker), row in zip(looks, result.baselines, strict=True):
        colour = COLOURS[1] if row is result.baselines[-1] else "0.45"
        ax.plot(steps, row.all.by_horizon, color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1.4)
        ends.append((row.all.by_horizon[-1], row.name, colour))
    for net in result.nets:
        ax.plot(steps, net.all.by_horizon, color=COLOURS[5], linewidth=1.0)
    middle = result.median.all.by_horizon
    ax.plot(steps, middle, color=COLOURS[0], linewidth=LINE + 0.6)
    ends.append((middle[-1], f"{MEDIAN} (thin: each)" if len(result.nets) > 1 else "net", COLOURS[0]))
    ax.set_ylim(bottom=0)
    ax.set_xlim(1 if len(steps) > 1 else 0.5, max(float(steps[-1]), 1.5))
    ax.xaxis.set_major_locator(optional_import("matplotlib.ticker", "a figure").MaxNLocator(integer=True))
    label_ends(ax, ends)


def plot_validation(result: ForecastResult, ax: Axes) -> None:
    """Draw what validation measured, of each net; what was kept is marked."""
    frame(ax, "update", "validation error, standard deviations", "Learning")
    values = np.concatenate([run.training.history.validations["value"] for run in result.runs])
    finite = values[np.isfinite(values)]
    if finite.size:
        set_log(ax, float(finite.min()) / 1.1, float(np.quantile(finite, 0.99)) * 1.2)
    for number, run in enumerate(result.runs):
        updates, errors = run.training.history.validations.values()
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(updates, errors, color=colour, linewidth=1.2, label=run.label)
        if run.best.best is not None:
            ax.plot([run.best_update], [run.best.best], "o", color=colour, markersize=7)
    if len(result.runs) <= 2 * len(COLOURS):
        ax.legend(frameon=False, fontsize=9, title="dot: kept", title_fontsize=9)
