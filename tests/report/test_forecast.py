"""The report and the figure of `rnn-numpy train forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_numpy.experiments.experiment import run_experiment
from rnn_numpy.experiments.forecasting import ForecastExperiment, ForecastOptions, ForecastResult
from rnn_numpy.report.forecast_page import forecast_report
from rnn_numpy.report.plots.forecast import forecast_figure

SMALL: dict[str, Any] = {"data": "nile", "hidden": 2, "length": 8, "horizon": 4, "updates": 4, "batch": 4}


def run(folder: Path, **options: Any) -> ForecastResult:
    result: ForecastResult = run_experiment(ForecastExperiment(ForecastOptions(**(SMALL | options))), folder / "run")
    return result


def test_every_net_is_a_row(tmp_path: Path) -> None:
    result = run(tmp_path, seeds=3)
    report = forecast_report(result)
    lines = report.splitlines()
    assert max(map(len, lines)) <= 100
    assert report.startswith("nile, yearly flow of the Nile at Aswan")
    rows = [line.split("  ")[0] for line in lines]
    for row in result.rows:
        line = lines[rows.index(row.name)]
        assert line.split()[-2 if "seed" not in row.name else -5].strip() == f"{row.all.rmse:.3f}"
    assert "m = 1 " in report and "m = 11" not in report
    text = " ".join(report.split())
    assert f"It holds {result.band.coverage:.1%} of the test" in text
    median, best = result.median.one.rmse, min(row.one.rmse for row in result.baselines)
    assert f"The nets' median errs {abs(median / best - 1):.1%} {'more' if median > best else 'less'} than" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"season": 6}, "m = 6"),
        ({"difference": "yes"}, "The nets read differences from sample to sample"),
        ({"seeds": 1}, "The net errs"),
        ({"strategy": "seq2seq"}, "; an encoder, and a decoder that is trained through"),
        ({"reads": "last", "layers": 2, "cell": "rnn-tanh"}, "rnn-tanh, 2 layers of 2 units, recursive, many-to-one"),
    ],
)
def test_what_was_done_is_said(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    assert said in " ".join(forecast_report(run(tmp_path, **options)).split())


def test_the_figure_shows_the_numbers(tmp_path: Path) -> None:
    result = run(tmp_path)
    figure = forecast_figure(result)
    figure.draw_without_rendering()
    forecasts, errors, learning = figure.axes
    assert [ax.get_xlabel() for ax in figure.axes] == ["time, years", "steps ahead", "update"]
    assert all(ax.get_ylabel() for ax in figure.axes)
    lines = {str(line.get_label()): line for line in forecasts.lines}
    assert any(label.startswith("mean of the nets, from each dot") for label in lines)
    np.testing.assert_array_equal(np.asarray(lines["truth"].get_ydata())[-20:], result.split.series.values[-20:, 0])
    drawn = [np.asarray(line.get_ydata()).tolist() for line in errors.lines]
    for row in (*result.baselines, *result.nets, result.median):
        assert list(row.all.by_horizon) in drawn
    assert len(learning.lines) == 2 * len(result.runs)


@pytest.mark.parametrize("options", [{"horizon": 1, "seeds": 1}, {"horizon": 30}], ids=["one step", "beyond the test"])
def test_the_figure_of_extremes(tmp_path: Path, options: dict[str, Any]) -> None:
    figure = forecast_figure(run(tmp_path, **options))
    figure.draw_without_rendering()
    assert len(figure.axes) == 3
