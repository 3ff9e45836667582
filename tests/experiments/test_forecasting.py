"""The experiment forecast: what it trains on, what it keeps, its band, what it predicts, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from rnn_numpy.errors import DataError, NonFiniteError, OptionError
from rnn_numpy.experiments.experiment import open_experiment, run_experiment
from rnn_numpy.experiments.forecasting import ENSEMBLE, MEDIAN, ForecastExperiment, ForecastOptions, ForecastResult
from rnn_numpy.models import STRATEGIES, forecast

KNOWN = {"forecast": ForecastExperiment}
SMALL: dict[str, Any] = {"hidden": 3, "length": 8, "horizon": 3, "updates": 30, "batch": 4, "seeds": 2, "season": 6}


def table(n: int, trend: float = 0.0) -> str:
    t = np.arange(n)
    level = np.sin(2 * np.pi * t / 6) + 0.2 * np.random.default_rng(0).normal(size=n) + trend * t
    other = np.cos(t)
    rows = [f"day {i},{a!r},{b!r}" for i, (a, b) in enumerate(zip(level.tolist(), other.tolist(), strict=True))]
    return "\n".join(["day,level,other", *rows, ""])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text(table(90))
    Path("trend.csv").write_text(table(90, trend=0.1))
    return tmp_path


def experiment(data: str = "mine.csv", **options: Any) -> ForecastExperiment:
    return ForecastExperiment(ForecastOptions(data=data, **({"columns": ("level",)} | SMALL | options)))


def run(data: str = "mine.csv", **options: Any) -> ForecastResult:
    result: ForecastResult = run_experiment(experiment(data, **options), "run")
    return result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_and_predicts(here: Path, strategy: str) -> None:
    result = run(strategy=strategy, columns=("level", "other"), updates=3)
    names = ["persistence", "seasonal naive (6)", "seed 0", "seed 1", MEDIAN, ENSEMBLE]
    assert [row.name for row in result.rows if not row.name.startswith("AR(")] == names
    assert all(row.all.counted == 2 * 3 * 18 and row.one.counted == 2 * 18 for row in result.rows)
    assert all(row.one.rmse == pytest.approx(row.all.by_horizon[0], rel=1e-12) for row in result.baselines)
    lines = open_experiment("run", KNOWN, for_prediction=True).predict([]).splitlines()
    assert lines[0] == "mine.csv: the 3 samples that follow, with a band for 80% of them"
    assert [line.split()[0] for line in lines[1:]] == ["sample", "91", "92", "93"] * 2


@pytest.mark.parametrize(("strategy", "reads"), [("recursive", "all"), ("direct", "last"), ("seq2seq", "all")])
@pytest.mark.parametrize("difference", ["yes", "no"])
def test_training_never_sees_validation_or_test(here: Path, strategy: str, reads: str, difference: str) -> None:
    one = experiment(strategy=strategy, reads=reads, difference=difference)
    split = one.split
    assert (split.train, split.known, len(split)) == (65, 72, 90)
    # What is not to be read becomes NaN, and so would a gradient, which clipping refuses.
    split.readings[split.train :] = np.nan
    split.readings[: split.first] = np.nan
    training = one.trainings()[0].training
    assert np.isfinite([next(training).loss for _ in range(40)]).all()
    # All of the training part is trained on: its last reading is a target of some window.
    split.readings[split.train - 1] = np.nan
    with pytest.raises(NonFiniteError):
        for _ in range(40):
            next(training)


def test_the_best_of_validation_is_kept(here: Path) -> None:
    one = experiment(updates=60)
    result = run_experiment(one, "run")
    for index, kept in enumerate(result.runs):
        assert one.validate(index) == kept.best.best == min(kept.training.history.validations["value"])


def test_the_band_is_the_formula_and_its_coverage_a_count(here: Path) -> None:
    one = experiment()
    result: ForecastResult = run_experiment(one, "run")
    split, levels = one.split, one.split.series.values
    horizon, length = 3, one.kept["length"]

    def ahead(origin: int) -> np.ndarray:
        x = split.contexts([origin], length)
        return np.stack([split.levels(forecast(model, x, horizon), [origin])[:, 0] for model in one.models.values()])

    # v_h: over all samples before the test that have windows before them, from each h.
    for h in range(horizon):
        squares = [(levels[t] - ahead(t - h).mean(axis=0)[h]) ** 2 for t in range(length + horizon - 1, split.known)]
        origin = split.known + 4
        spread = ahead(origin)[:, h].var(axis=0, ddof=1)
        z = NormalDist().inv_cdf(0.9)
        at = int(np.flatnonzero(result.origins == origin)[0])
        np.testing.assert_allclose(result.band.half[h, at], z * np.sqrt(np.mean(squares, axis=0) + spread), rtol=1e-12)
        held = []
        for t in range(split.known, len(split)):
            at = int(np.flatnonzero(result.origins == t - h)[0])
            held.append(abs(levels[t] - result.forecasts[ENSEMBLE][h, at]) <= result.band.half[h, at])
        assert result.band.by_horizon[h] == np.mean(held)
    assert result.band.coverage == pytest.approx(np.mean(result.band.by_horizon), rel=1e-14)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_training_goes_on_from_its_state(here: Path, strategy: str) -> None:
    whole = experiment(strategy=strategy, layers=2, dropout=0.2).trainings()[1].training
    losses = [next(whole).loss for _ in range(8)]
    first = experiment(strategy=strategy, layers=2, dropout=0.2).trainings()[1].training
    assert [next(first).loss for _ in range(3)] == losses[:3]
    second = experiment(strategy=strategy, layers=2, dropout=0.2).trainings()[1].training
    second.load_state_dict(first.state_dict())
    assert [next(second).loss for _ in range(5)] == losses[3:]


def test_the_median_is_of_each_measure_by_itself(here: Path) -> None:
    result = run(seeds=3, updates=3)
    assert result.median.one.rmse == sorted(net.one.rmse for net in result.nets)[1]
    assert result.median.all.mase == sorted(net.all.mase for net in result.nets)[1]


def test_numbers_are_strict_json(here: Path) -> None:
    run(updates=3)
    numbers = json.loads(Path("run/numbers.json").read_text(), parse_constant=pytest.fail)
    result = numbers["result"]
    assert result["samples"] == {"train": 65, "validation": 7, "test": 18}
    assert (result["season"], result["difference"], len(result["band"]["by_horizon"])) == (6, False, 3)
    assert [row["name"] for row in result["forecasters"]][-2:] == [MEDIAN, ENSEMBLE]


# Predictions --------------------------------------------------------------------------------------------------------


def numbers_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[2:]]


@pytest.mark.parametrize("data", ["mine.csv", "trend.csv"])
def test_predict_needs_no_data_and_a_file_goes_on_where_it_ends(here: Path, data: str) -> None:
    result = run(data)
    assert result.split.units.difference == (data == "trend.csv")
    Path(data).rename("moved.csv")
    predict = open_experiment("run", KNOWN, for_prediction=True).predict
    after = numbers_of(predict([]))
    assert after == numbers_of(predict(["moved.csv"]))
    # From a file that ends in the midst of the test it says what was forecast there.
    origin = result.split.known + 5
    rows = Path("moved.csv").read_text().splitlines()
    Path("part.csv").write_text("\n".join(rows[: origin + 1]) + "\n")
    at = int(np.flatnonzero(result.origins == origin)[0])
    for h, (number, *said) in enumerate(numbers_of(predict(["part.csv"]))):
        middle, half = result.forecasts[ENSEMBLE][h, at, 0], result.band.half[h, at, 0]
        assert int(number) == origin + 1 + h
        digits = len(said[0].partition(".")[2])
        assert digits >= 2
        assert said == [f"{value:.{digits}f}" for value in (middle, middle - half, middle + half)]


def test_predict_tells_time_in_the_unit_of_the_series(here: Path) -> None:
    run("nile", columns=("all",), season=0, updates=3)
    lines = open_experiment("run", KNOWN, for_prediction=True).predict([]).splitlines()
    assert lines[1].split() == ["year", "flow", "from", "to"]
    assert [line.split()[0] for line in lines[2:]] == ["1971", "1972", "1973"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a.csv", "b.csv"], "b.csv: predict goes on from one file; a.csv is one already"),
        (["none.csv"], "none.csv: No such file or directory"),
        (["short.csv"], "short.csv: 5 samples; to go on from, at least 8 are needed"),
        (["two.csv"], "two.csv: no column 'level'; columns are: a, b"),
        (["text.csv"], "text.csv: row 12, column 1 (\"level\"): 'low' is not a number"),
    ],
)
def test_predict_refuses_what_it_cannot_go_on_from(here: Path, inputs: list[str], message: str) -> None:
    run(updates=3)
    Path("short.csv").write_text("level\n" + "1\n" * 5)
    Path("two.csv").write_text("a,b\n" + "1,2\n" * 20)
    Path("text.csv").write_text("level\n" + "1\n" * 10 + "low\n" + "1\n" * 10)
    with pytest.raises(DataError, match=re.escape(message)):
        open_experiment("run", KNOWN, for_prediction=True).predict(inputs)


# Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "both"}, "ForecastOptions: strategy must be one of 'recursive', 'direct', 'seq2seq'; got 'both'"),
        ({"strategy": "seq2seq", "reads": "last"}, "ForecastOptions: reads is for 'recursive' and 'direct'"),
        ({"difference": "maybe"}, "ForecastOptions: difference must be one of 'auto', 'yes', 'no'; got 'maybe'"),
        ({"horizon": 33}, "mine.csv: a horizon of 33 is too long for 65 samples to train on; at most 32"),
        ({"season": 33}, "mine.csv: a season of 33 is too long for 65 samples to train on; at most 32"),
    ],
)
def test_options_that_cannot_be_are_refused(here: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        run(**options)
    assert not Path("run").exists()
