r"""The protocol of forecasting: what trains, what chooses, what tests; how errors are measured; what is to be beaten.

A series y_0 ... y_{n-1} is cut in time: the last fifth is the test, the last tenth of the rest validation, before it is
what trains. What a network reads is in standard units of the training part alone. Where validation leaves the range
that training has seen, the test most likely does, too; then it reads differences y_t - y_{t-1}, and levels are their
running sums.

An origin o is a number of samples that are known; a forecast made there, h = 1 ... H steps ahead, is of y_{o+h-1}.

    RMSE      sqrt(mean e^2), each channel's e in standard deviations of all samples before the test
    MASE      mean |e| / mean |y_t - y_{t-m}|, the latter over all samples before the test (t >= m), channel by channel,
              then their mean; of m = 1 and of the season. The denominator is the same at every h: a MASE below 1 at
              h = 12 beats, twelve steps ahead, what the naive forecast errs in one

(Hyndman and Koehler 2006, section 3, use the MASE of m = 1.) Means are over all origins and horizons that count:
`rolling_origins` has every sample of the test counted once at each h.

The baselines: repeating the last value, or that of a season ago; and of each channel an autoregression of p terms, by
least squares, p the best of validation, one step ahead; then it is fitted again, to all before the test, and fed with
its own forecasts.

    (F1)  y_t = c + sum_{k=1}^{p} w_k y_{t-k}
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.tasks.series import Floats, Series, standard_units

Origins = NDArray[np.intp]
Mask = NDArray[np.bool_]

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
# The share of validation outside of the range of training from which on differences are read.
_OUTSIDE = 0.2
FEWEST = 20  # samples
_EXTREME = 1e100


@dataclass(frozen=True)
class Units:
    """What a network reads of a series, and the way back.

    Parameters
    ----------
    mean, scale : ndarray, (D,)
        Of what it reads, in the training part.
    difference : bool
        Whether it reads differences.
    """

    mean: Floats
    scale: Floats
    difference: bool

    def readings(self, levels: Floats) -> Floats:
        """Return what is read, (n, D). The first difference, which there is not, is 0 and not to be read."""
        values = np.diff(levels, axis=0, prepend=levels[:1]) if self.difference else levels
        readings: Floats = (values - self.mean) / self.scale
        readings[: int(self.difference)] = 0
        return readings

    def levels(self, outputs: Floats, last: Floats) -> Floats:
        """Return forecasts, (H, N, D), in the unit of the series; `last` are the values before each first one."""
        values: Floats = np.asarray(outputs, np.float64) * self.scale + self.mean
        return last + np.cumsum(values, axis=0) if self.difference else values


@dataclass(frozen=True, eq=False)
class SplitSeries:
    """A series cut in time, and what a network reads of it; see the module. Build it with `SplitSeries.of`.

    Parameters
    ----------
    series : Series
    train, known : int
        Samples of the training part; of training and validation.
    season : int
        m.
    units : Units
    """

    series: Series
    train: int
    known: int
    season: int
    units: Units

    @classmethod
    def of(cls, series: Series, *, season: int | None = None, difference: bool | None = None) -> Self:
        """Cut and standardise a series.

        Parameters
        ----------
        series : Series
        season : int, optional
            m; the series' own where left out.
        difference : bool, optional
            Where left out: whether more than a fifth of the validation part lies outside of the training part's range,
            in any channel.

        Raises
        ------
        DataError
            The series is too short, or constant over the training part.
        OptionError
            The season is longer than half of the training part.

        Examples
        --------
        >>> wave = Series("wave", np.sin(0.5 * np.arange(100.0))[:, None], ("a",))
        >>> split = SplitSeries.of(wave)
        >>> split.train, split.known, split.units.difference
        (72, 80, False)
        >>> SplitSeries.of(Series("ramp", np.arange(100.0)[:, None] ** 2, ("a",))).units.difference
        True
        """
        n, channels = series.values.shape
        if n < FEWEST:
            advice = " (is the table lying on its side? time runs down the rows)" if channels > n else ""
            raise DataError(
                f"{series.name}: {count(n, 'sample')}, too short to be cut into training, validation and test; at "
                f"least {FEWEST} are needed{advice}"
            )
        known = n - round(TEST_SHARE * n)
        train = known - round(VALIDATION_SHARE * known)
        m = series.season if season is None else arguments.positive_int("SplitSeries.of", "season", season)
        if m > train // 2:
            most = f"{count(train, 'sample')} to train on; at most {train // 2}"
            raise OptionError(f"{series.name}: a season of {m} is too long for {most}")
        levels = series.values
        _, mean, scale = standard_units(series, levels, train)
        if np.abs(levels).max() > _EXTREME or scale.min() < 1 / _EXTREME:
            raise DataError(
                f"{series.name}: numbers above {_EXTREME:g}, or that differ by less than {1 / _EXTREME:g}, have no "
                "squares; multiply them by a power of ten first"
            )
        if difference is None:
            low, high = levels[:train].min(axis=0), levels[:train].max(axis=0)
            outside = (levels[train:known] < low) | (levels[train:known] > high)
            difference = bool((outside.mean(axis=0) > _OUTSIDE).any())
        if arguments.flag("SplitSeries.of", "difference", difference):
            with np.errstate(over="ignore", invalid="ignore"):
                steps = np.diff(levels, axis=0)
            _, mean, scale = standard_units(series, steps, train - 1, "the difference before ")
        return cls(series, train, known, m, Units(mean, scale, difference))

    @cached_property
    def readings(self) -> Floats:
        """What a network reads, (n, D), in standard units."""
        return self.units.readings(self.series.values)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def channels(self) -> int:
        """D: all channels are read, and all are forecast."""
        return len(self.series.channels)

    @property
    def first(self) -> int:
        """The first sample that can be read: 1 of differences."""
        return int(self.units.difference)

    @property
    def unit(self) -> Floats:
        """Standard deviations of all samples before the test, (D,): the unit of errors."""
        unit: Floats = (self.series.values[: self.known] / self.units.scale).std(axis=0) * self.units.scale
        return unit

    def naive_error(self, m: int) -> Floats:
        """Return the mean |y_t - y_{t-m}| over all samples before the test, (D,): what MASE divides by."""
        before = self.series.values[: self.known]
        return np.asarray(np.abs(before[m:] - before[:-m]).mean(axis=0))

    # ------------------------------------------------------------------------------------- what a network reads

    def longest(self, horizon: int) -> int:
        """Return the most steps that a window can have, of which half of the training part holds; at least 1."""
        return max(1, (self.train - self.first - horizon) // 2)

    def contexts(self, origins: Iterable[int], length: int) -> Floats:
        """Return the `length` readings before each origin, (T, N, D)."""
        o = np.fromiter(origins, np.intp)
        if o.size == 0 or o.min() - length < self.first or o.max() > len(self):
            low, high = length + self.first, len(self)
            raise OptionError(f"SplitSeries.contexts: origins must be in [{low}, n] = [{low}, {high}], at least one")
        contexts: Floats = self.readings[o - length + np.arange(length)[:, None]]
        return contexts

    def windows(self, origins: Iterable[int], length: int, ahead: int = 1) -> tuple[Floats, Floats]:
        """Return windows and the readings that follow each of their steps.

        Parameters
        ----------
        origins : iterable of int
            N of them; a window ends there.
        length : int
            T.
        ahead : int
            Readings that are to be forecast from each step.

        Returns
        -------
        x : ndarray, (T, N, D)
        target : ndarray, (T, N, ahead, D)
            target[t, :, h - 1] is h steps after x[t].

        Examples
        --------
        >>> split = SplitSeries.of(Series("ramp", np.arange(100.0)[:, None], ("a",)), difference=False)
        >>> x, target = split.windows([7, 9], length=5, ahead=2)
        >>> level = lambda z: (z * split.units.scale + split.units.mean).round().astype(int)
        >>> level(x)[:, 0, 0], level(target)[-1, 0, :, 0]
        (array([2, 3, 4, 5, 6]), array([7, 8]))
        """
        o = np.fromiter(origins, np.intp)
        x = self.contexts(o, length)
        if o.max() + ahead > len(self):
            raise OptionError(
                f"SplitSeries.windows: origins must be at most n - ahead = {len(self) - ahead}; got {o.max()}"
            )
        steps = o - length + np.arange(length)[:, None]
        return x, self.readings[steps[:, :, None] + 1 + np.arange(ahead)]

    def levels(self, outputs: Floats, origins: Iterable[int]) -> Floats:
        """Return forecasts in the unit of the series from those in standard units, (H, N, D) both."""
        return self.units.levels(outputs, self.series.values[np.fromiter(origins, np.intp) - 1])


# -------------------------------------------------------------------------------------------------------------- scores


def rolling_origins(first: int, last: int, horizon: int, stride: int | None = None) -> tuple[Origins, Mask]:
    """Return origins from which samples first ... last-1 are forecast 1 ... H steps ahead, and which forecasts count.

    Parameters
    ----------
    first, last : int
    horizon : int
        H; with a stride at most last - first.
    stride : int, optional
        Where left out, every sample counts once at each h; the oldest origins are before `first`. With a stride,
        origins are first, first + stride, ..., as long as all H samples are there: some samples count more often.

    Returns
    -------
    origins : ndarray of int, (N,)
    mask : ndarray of bool, (H, N)

    Examples
    --------
    >>> origins, mask = rolling_origins(10, 14, 3)
    >>> origins, mask.sum(axis=1)
    (array([ 8,  9, 10, 11, 12, 13]), array([4, 4, 4]))
    >>> rolling_origins(10, 14, 3, stride=1)[0]
    array([10, 11])
    """
    horizon = arguments.positive_int("rolling_origins", "horizon", horizon)
    if stride is None:
        origins = np.arange(first - horizon + 1, last)
    elif horizon > last - first:
        raise OptionError(
            f"rolling_origins: horizon must be at most {last - first}, the samples to forecast; got {horizon}"
        )
    else:
        origins = np.arange(first, last - horizon + 1, arguments.positive_int("rolling_origins", "stride", stride))
    places = origins + np.arange(horizon)[:, None]
    return origins, (places >= first) & (places < last)


@dataclass(frozen=True)
class Score:
    """How far forecasts were off; see the module for the measures.

    Attributes
    ----------
    rmse : float
    mase, seasonal_mase : float
        With m = 1, and with the season's m.
    by_horizon : tuple of float
        The RMSE at h = 1 ... H.
    counted : int
        Numbers that the means are over.
    """

    rmse: float
    mase: float
    seasonal_mase: float
    by_horizon: tuple[float, ...]
    counted: int


def errors(split: SplitSeries, forecasts: Floats, origins: Origins, mask: Mask) -> Floats:
    """Return truth minus forecast in the unit of the series, (H, N, D); 0 where it does not count."""
    places = origins + np.arange(len(forecasts))[:, None]
    truth = split.series.values[np.minimum(places, len(split) - 1)]
    return np.where(mask[:, :, None], truth - forecasts, 0.0)


def score(split: SplitSeries, forecasts: Floats, origins: Origins, mask: Mask) -> Score:
    """Measure forecasts in the unit of the series, (H, N, D); `origins` and `mask` of `rolling_origins`."""
    error = errors(split, forecasts, origins, mask)
    counted = mask.sum(axis=1)
    squares = np.square(error / split.unit).sum(axis=1).mean(axis=1)  # by horizon, mean of channels
    size = np.abs(error).sum(axis=(0, 1)) / counted.sum()

    def mase(m: int) -> float:
        naive = split.naive_error(m)
        with np.errstate(divide="ignore", invalid="ignore"):  # a series that repeats itself exactly
            return float(np.mean(size / naive))

    return Score(
        math.sqrt(squares.sum() / counted.sum()),
        mase(1),
        mase(split.season),
        tuple(np.sqrt(squares / counted).tolist()),
        int(counted.sum()) * split.channels,
    )


# ----------------------------------------------------------------------------------------------------------- baselines


def seasonal_naive(values: Floats, origins: Origins, horizon: int, season: int = 1) -> Floats:
    """Return what was there a season (or the fewest whole seasons) before each forecast sample, (H, N, D).

    season = 1 repeats the last value: persistence.

    >>> seasonal_naive(np.arange(10.0)[:, None], np.array([9]), 5, season=3)[:, 0, 0]
    array([6., 7., 8., 6., 7.])
    """
    if np.min(origins) < season:
        raise OptionError(f"seasonal_naive: origins must be at least season = {season}; got {np.min(origins)}")
    found: Floats = values[origins - season + np.arange(horizon)[:, None] % season]
    return found


@dataclass(frozen=True)
class AutoRegression:
    """F1: the next value from the last p, by least squares.

    Attributes
    ----------
    weights : ndarray, (p,)
        w_1, of the newest, to w_p.
    constant : float
        c.

    Examples
    --------
    >>> wave = np.sin(0.5 * np.arange(50.0))  # y_t = 2 cos(0.5) y_{t-1} - y_{t-2}
    >>> model = AutoRegression.fit(wave, 2)
    >>> model.weights
    array([ 1.755165, -1.      ])
    >>> model.forecast(wave, np.array([20, 30]), 10).shape
    (10, 2)
    """

    weights: Floats
    constant: float

    @property
    def order(self) -> int:
        """p."""
        return len(self.weights)

    @classmethod
    def fit(cls, values: Floats, order: int) -> Self:
        """Fit to a series of one channel, (n,), n > 2 p."""
        p = arguments.positive_int("AutoRegression.fit", "order", order)
        if len(values) <= 2 * p:
            raise OptionError(
                f"AutoRegression.fit: order must be less than half of the {len(values)} values to fit; got {p}"
            )
        # Least squares are solved to more digits about the mean, in units of the spread.
        mean, spread = float(np.mean(values)), float(np.std(values)) or 1.0
        z = (values - mean) / spread
        past = np.lib.stride_tricks.sliding_window_view(z[:-1], p)[:, ::-1]
        solution: Any = np.linalg.lstsq(np.column_stack([past, np.ones(len(past))]), z[p:])[0]
        weights = solution[:-1]
        return cls(weights, float(mean - mean * weights.sum() + spread * solution[-1]))

    def forecast(self, values: Floats, origins: Origins, horizon: int) -> Floats:
        """Return forecasts from each origin, (H, N), from the values before it and from forecasts."""
        p = self.order
        if np.min(origins) < p:
            raise OptionError(f"AutoRegression.forecast: origins must be at least p = {p}; got {np.min(origins)}")
        line = np.empty((p + horizon, len(origins)))
        line[:p] = values[origins - p + np.arange(p)[:, None]]
        for h in range(horizon):
            line[p + h] = self.constant + self.weights[::-1] @ line[h : p + h]
        return line[p:]


def default_orders(split: SplitSeries) -> list[int]:
    """Return 1 ... 13 and those of a season, as far as a third of the training part goes."""
    orders = {*range(1, 14), split.season, split.season + 1}
    return [p for p in sorted(orders) if 3 * p <= split.train]


def autoregressions(split: SplitSeries, orders: Iterable[int] | None = None) -> tuple[AutoRegression, ...]:
    """Choose and fit the autoregression of each channel.

    Each order is fitted to the training part, the best one step ahead on validation is fitted again to all before the
    test. `orders` are those of `default_orders` where left out.
    """
    found = []
    for values in split.series.values.T:
        target = values[split.train : split.known]
        places = np.arange(split.train, split.known)

        def loss(p: int, values: Floats = values, target: Floats = target, places: Origins = places) -> float:
            model = AutoRegression.fit(values[: split.train], p)
            return float(np.mean(np.square(target - model.forecast(values, places, 1)[0])))

        best = min(default_orders(split) if orders is None else orders, key=loss)
        found.append(AutoRegression.fit(values[: split.known], best))
    return tuple(found)


def baselines(
    split: SplitSeries, models: tuple[AutoRegression, ...], origins: Origins, horizon: int
) -> dict[str, Floats]:
    """Return the forecasts of all baselines, (H, N, D) each, by name; without a season there is no seasonal one."""
    values = split.series.values
    found = {"persistence": seasonal_naive(values, origins, horizon)}
    if split.season > 1:
        found[f"seasonal naive ({split.season})"] = seasonal_naive(values, origins, horizon, split.season)
    orders = "/".join(str(p) for p in dict.fromkeys(model.order for model in models))
    channels = zip(models, values.T, strict=True)
    found[f"AR({orders})"] = np.stack([model.forecast(y, origins, horizon) for model, y in channels], axis=-1)
    return found
