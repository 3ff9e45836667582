"""The protocol of forecasting: cuts, units, origins, errors, and the baselines on the real series."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.tasks import (
    AutoRegression,
    Series,
    SplitSeries,
    autoregressions,
    baselines,
    load_bundled,
    rolling_origins,
    score,
    seasonal_naive,
)


def noise(n: int, channels: int = 1, seed: int = 0, trend: float = 0.0) -> Series:
    values = np.random.default_rng(seed).normal(size=(n, channels)).cumsum(axis=0) % 7 + trend * np.arange(n)[:, None]
    return Series("noise", values, tuple("abcdefg"[:channels]), season=4)


# The cut ------------------------------------------------------------------------------------------------------------


def test_test_is_the_last_fifth_and_validation_the_last_tenth_of_the_rest() -> None:
    split = SplitSeries.of(load_bundled("sunspots"))
    assert (split.train, split.known, len(split), split.season) == (222, 247, 309, 11)


@pytest.mark.parametrize("difference", [False, True])
def test_units_are_those_of_the_training_part_alone(difference: bool) -> None:
    series = noise(100, 2)
    split = SplitSeries.of(series, difference=difference)
    read = split.readings[split.first : split.train]
    assert (abs(read.mean(axis=0)) < 1e-14 * abs(read).max(axis=0)).all()
    np.testing.assert_allclose(read.std(axis=0), 1, rtol=1e-14)
    changed = Series("noise", series.values.copy(), series.channels)
    changed.values[split.train :] *= 50.0
    again = SplitSeries.of(changed, difference=difference)
    np.testing.assert_array_equal(again.units.mean, split.units.mean)
    np.testing.assert_array_equal(again.units.scale, split.units.scale)
    np.testing.assert_array_equal(again.readings[: split.train], split.readings[: split.train])


@pytest.mark.parametrize("difference", [False, True])
def test_perfect_outputs_become_the_series_itself(difference: bool) -> None:
    series = noise(100, 2, trend=3.0)
    split = SplitSeries.of(series, difference=difference)
    origins = np.array([20, 81, 95])
    x, target = split.windows(origins, length=6, ahead=5)
    assert x.shape == (6, 3, 2)
    assert target.shape == (6, 3, 5, 2)
    np.testing.assert_array_equal(x[1:], target[:-1, :, 0])
    levels = split.levels(target[-1].transpose(1, 0, 2), origins)
    np.testing.assert_allclose(levels, series.values[origins + np.arange(5)[:, None]], rtol=1e-13)


def test_differences_are_read_where_validation_leaves_the_range_of_training() -> None:
    found = {
        name: SplitSeries.of(load_bundled(name)).units.difference for name in ("co2", "stocks", "elnino", "sunspots")
    }
    assert found == {"co2": True, "stocks": True, "elnino": False, "sunspots": False}
    assert SplitSeries.of(load_bundled("nile"), difference=True).first == 1


def test_the_first_difference_is_never_read() -> None:
    split = SplitSeries.of(noise(60), difference=True)
    assert split.contexts([6], 5).shape == (5, 1, 1)
    with pytest.raises(OptionError, match=re.escape("SplitSeries.contexts: origins must be in [6, n] = [6, 60]")):
        split.contexts([5], 5)
    with pytest.raises(OptionError, match="origins must be at most n - ahead = 58; got 59"):
        split.windows([59], 5, ahead=2)


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (noise(19), {}, "noise: 19 samples, too short to be cut into training, validation and test; at least 20"),
        (Series("flat", np.zeros((2, 40)), ("",) * 40), {}, "is the table lying on its side"),
        (
            Series("flat", np.r_[np.full(80, 0.1), np.arange(20.0)][:, None], ("level",)),
            {},
            'flat: column 1 ("level") is constant over the training part (the first 72 samples)',
        ),
        (
            Series("ramp", np.arange(100.0)[:, None], ("level",)),
            {},
            'ramp: the difference before column 1 ("level") is constant',
        ),
        (
            Series("huge", 1e300 * noise(100).values, ("level",)),
            {},
            "huge: numbers above 1e+100, or that differ by less",
        ),
        (
            Series("tiny", 1e-300 * noise(100).values, ("level",)),
            {},
            "tiny: numbers above 1e+100, or that differ by less",
        ),
        (noise(100), {"season": 37}, "noise: a season of 37 is too long for 72 samples to train on; at most 36"),
        (noise(100), {"season": 0}, "SplitSeries.of: season must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(series: Series, options: dict[str, int], message: str) -> None:
    with pytest.raises((DataError, OptionError), match=re.escape(message)):
        SplitSeries.of(series, **options)


# Origins and errors -------------------------------------------------------------------------------------------------


def test_every_sample_counts_once_at_each_horizon() -> None:
    origins, mask = rolling_origins(50, 70, 12)
    places = origins + np.arange(12)[:, None]
    for row, ok in zip(places, mask, strict=True):
        assert row[ok].tolist() == list(range(50, 70))
    with pytest.raises(
        OptionError, match="rolling_origins: horizon must be at most 20, the samples to forecast; got 21"
    ):
        rolling_origins(50, 70, 21, stride=3)


def test_scores_are_the_definitions_written_out() -> None:
    series = noise(100, 2, seed=3)
    split = SplitSeries.of(series)
    rng = np.random.default_rng(0)
    origins, mask = rolling_origins(split.known, len(split), 3)
    forecasts = rng.normal(size=(3, len(origins), 2))
    y, squares, sizes = series.values, [], []
    for h in range(3):
        for i, o in enumerate(origins):
            if split.known <= o + h < len(y):
                e = y[o + h] - forecasts[h, i]
                squares.append((h, (e / y[: split.known].std(axis=0)) ** 2))
                sizes.append(abs(e))
    found = score(split, forecasts, origins, mask)
    assert found.counted == 2 * 3 * 20
    np.testing.assert_allclose(found.rmse, np.sqrt(np.mean([s for _, s in squares])), rtol=1e-13)
    expected = [np.sqrt(np.mean([s for g, s in squares if g == h])) for h in range(3)]
    np.testing.assert_allclose(found.by_horizon, expected, rtol=1e-13)
    for m, value in ((1, found.mase), (4, found.seasonal_mase)):
        naive = [abs(y[t] - y[t - m]) for t in range(m, split.known)]
        np.testing.assert_allclose(value, np.mean(np.mean(sizes, axis=0) / np.mean(naive, axis=0)), rtol=1e-13)


def test_what_does_not_count_does_not_matter() -> None:
    split = SplitSeries.of(noise(100))
    origins, mask = rolling_origins(split.known, len(split), 4)
    forecasts = seasonal_naive(split.series.values, origins, 4)
    wild = np.where(mask[:, :, None], forecasts, 1e9)
    assert score(split, forecasts, origins, mask) == score(split, wild, origins, mask)


# Baselines ----------------------------------------------------------------------------------------------------------


def test_least_squares_are_solved() -> None:
    y = load_bundled("nile").values[:, 0]
    model = AutoRegression.fit(y, 3)
    past = np.column_stack([y[2:-1], y[1:-2], y[:-3]])
    residual = y[3:] - past @ model.weights - model.constant
    # The residual is orthogonal to all that it could be explained by: the normal equations.
    for column in (*past.T, np.ones(len(past))):
        assert abs(residual @ column) <= 1e-10 * np.linalg.norm(residual) * np.linalg.norm(column)


def test_an_autoregression_is_fed_with_its_own_forecasts() -> None:
    model = AutoRegression(np.array([0.5, -0.25]), 1.0)
    y = np.array([3.0, 1.0, 2.0, 9.0])
    first = 1.0 + 0.5 * 2.0 - 0.25 * 1.0
    second = 1.0 + 0.5 * first - 0.25 * 2.0
    third = 1.0 + 0.5 * second - 0.25 * first
    assert model.forecast(y, np.array([3]), 3)[:, 0].tolist() == [first, second, third]
    with pytest.raises(OptionError, match="origins must be at least p = 2; got 1"):
        model.forecast(y, np.array([1]), 3)
    with pytest.raises(OptionError, match="order must be less than half of the 4 values to fit; got 2"):
        AutoRegression.fit(y, 2)


def test_the_order_of_an_autoregression_does_not_see_the_test() -> None:
    series = noise(120, 2)
    before = autoregressions(SplitSeries.of(series))
    series.values[96:] = 1e6
    after = autoregressions(SplitSeries.of(series))
    assert [model.order for model in before] == [model.order for model in after]
    assert all(one.weights.tolist() == two.weights.tolist() for one, two in zip(before, after, strict=True))


# The orders that the table of nile's row was chosen from: of 1 ... 13 it would be 4.
FEW = (1, 2, 3, 6, 9, 13)


@pytest.mark.parametrize(
    ("name", "order", "one_step", "mases", "twelve_steps"),
    [
        ("sunspots", 9, (0.977, 1.112, 0.571), (0.925, 0.714), (2.179, 1.167, 0.991)),
        ("co2", 13, (0.098, 0.139, 0.027), (0.274, 0.233), (0.298, 0.142, 0.050)),
        ("elnino", 13, (0.515, 0.625, 0.226), (0.424, 0.343), (1.370, 0.578, 0.430)),
        ("nile", 3, (0.868, None, 0.702), (0.774, 0.774), (0.710, None, 0.629)),
        ("eeg", 13, (0.683, None, 0.531), (1.114, 1.114), (2.016, None, 1.420)),
    ],
)
def test_baselines_on_real_series(
    name: str,
    order: int,
    one_step: tuple[float | None, ...],
    mases: tuple[float, float],
    twelve_steps: tuple[float | None, ...],
) -> None:
    # To the digits of a table that was made independently of this code.
    series = load_bundled(name)
    split = SplitSeries.of(series.select([1]) if name == "eeg" else series)
    models = autoregressions(split, FEW if name == "nile" else None)
    assert [model.order for model in models] == [order]
    for horizon, stride, expected in ((1, None, one_step), (12, 6, twelve_steps)):
        origins, mask = rolling_origins(split.known, len(split), horizon, stride)
        found = {
            key: score(split, value, origins, mask) for key, value in baselines(split, models, origins, horizon).items()
        }
        assert [f"{one.rmse:.3f}" for one in found.values()] == [
            f"{value:.3f}" for value in expected if value is not None
        ]
        if horizon == 1:
            last = found[f"AR({order})"]
            assert (f"{last.mase:.3f}", f"{last.seasonal_mase:.3f}") == tuple(f"{value:.3f}" for value in mases)
