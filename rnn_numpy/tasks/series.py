"""Series to forecast; those that have names are in `bundled.py`, the user's own files in `files.py`.

A series is a table of n samples (rows, in time) by D channels (columns).

The forecast task
-----------------
From the samples up to t, forecast sample t+1, all channels at once. The series is cut in time: the first part trains,
the end is held out. Means and standard deviations are those of the training part, so that nothing of the end leaks into
the training. Errors are mean squares in these units; the baseline repeats the last value.

Every held-out sample is forecast exactly once: windows of T steps are laid end to end, backwards from the end of the
series. The oldest window may begin inside of the training part (its inputs are known by then), but only its held-out
samples are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.tasks.task import Batch, SequenceTask, sizes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A multivariate series.

    Parameters
    ----------
    name : str
        What to call it: a bundled name, or the path of a file.
    values : ndarray, (n, D)
        float64, finite; samples in time order.
    channels : tuple of str
        D names.
    description : str
        For people: what was measured, and what was done to it. Empty for files.
    season : int
        m: samples after which the series is expected to repeat itself; 1 where there is no season.
    start, step : float
        When the first sample was taken, and the time from one to the next, in `unit`.
    unit : str
        Of time.
    notes : tuple of str
        What people should know of how a file was read: what was left out, and what was filled.

    Examples
    --------
    >>> Series("ramp", np.arange(6.0).reshape(3, 2), ("a", "b"))
    Series 'ramp': n = 3 samples of D = 2 channels: a, b
    """

    name: str
    values: Floats
    channels: tuple[str, ...]
    description: str = ""
    season: int = 1
    start: float = 1.0
    step: float = 1.0
    unit: str = "sample"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        shown = ", ".join(self.channels[:8]) + (", ..." if len(self.channels) > 8 else "")
        return f"Series {self.name!r}: n = {len(self)} samples of D = {len(self.channels)} channels: {shown}"

    @property
    def listing(self) -> str:
        """How many channels there are, and which: "2 channels: temp, hum"."""
        shown = ", ".join(self.channels[:8]) + (", ..." if len(self.channels) > 8 else "")
        return f"{count(len(self.channels), 'channel')}: {shown}"

    @property
    def times(self) -> Floats:
        """When each sample was taken, (n,)."""
        return self.start + self.step * np.arange(len(self), dtype=np.float64)

    def select(self, columns: Sequence[str | int]) -> Series:
        """Return the series of some channels only.

        `columns` are names of channels, numbers from 1, or ranges of numbers, "2-5"; a string of digits is a number
        unless a channel has that name. DataError says that there is no such channel, or that one is named twice.
        """
        picked = pick_columns(self.name, self.channels, columns)
        return replace(
            self, values=np.ascontiguousarray(self.values[:, picked]), channels=tuple(self.channels[j] for j in picked)
        )


def pick_columns(name: str, channels: tuple[str, ...], columns: Sequence[str | int]) -> list[int]:
    """Return the numbers, from 0, of the columns that are asked for; see `Series.select`."""
    picked: list[int] = []
    for column in columns:
        bounds = re.fullmatch(r"(\d+)-(\d+)", str(column))
        if isinstance(column, str) and column in channels:
            found = [channels.index(column)]
        elif str(column).isdecimal() and 1 <= int(column) <= len(channels):
            found = [int(column) - 1]
        elif bounds and 1 <= int(bounds[1]) <= int(bounds[2]) <= len(channels):
            found = list(range(int(bounds[1]) - 1, int(bounds[2])))
        else:
            shown = ", ".join(channels[:12]) + (", ..." if len(channels) > 12 else "")
            raise DataError(f"{name}: no column {str(column)!r}; columns are: {shown}")
        for j in found:
            if j in picked:
                raise DataError(f"{name}: column {j + 1} is asked for twice")
            picked.append(j)
    if not picked:
        raise DataError(f"{name}: no column is left")
    return picked


# ---------------------------------------------------------------------------------------------------- the forecast task


def standard_units(series: Series, values: Floats, split: int, what: str = "") -> tuple[Floats, Floats, Floats]:
    """Return (values - mean) / scale, mean and scale, both of the first `split` rows of each column.

    `values` is made of the samples of the series; `what` of each, if it is not the samples themselves. DataError names
    a column that is constant in these rows, or that goes too far from them.
    """
    mean, scale, unit = _moments(values[:split])
    # Around a large mean, rounding alone moves a constant column by a few units in the last place.
    flat = np.flatnonzero(scale <= 8 * np.finfo(np.float64).eps * np.maximum(np.abs(mean), np.finfo(np.float64).tiny))
    if flat.size:
        j = int(flat[0])
        raise DataError(
            f'{series.name}: {what}column {j + 1} ("{series.channels[j]}") is constant over the training part '
            f"(the first {split} samples) and cannot be standardised; leave it out"
        )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        standard = (values / unit - mean) / scale
    if not np.isfinite(standard).all():
        row, j = (int(k) for k in np.argwhere(~np.isfinite(standard))[0])
        raise DataError(
            f'{series.name}: {what}sample {row + 1} of column {j + 1} ("{series.channels[j]}") is too far from '
            "the training part to be standardised"
        )
    return standard, mean * unit, scale * unit


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return means and standard deviations of columns in units of powers of two, and these units.

    Scaling by a power of two rounds nothing, and squares near the ends of the float range would not fit.
    """
    unit = np.ldexp(1.0, np.frexp(np.abs(values).max(axis=0))[1] - 1)
    return (values / unit).mean(axis=0), (values / unit).std(axis=0), unit


@dataclass(frozen=True)
class ForecastTask(SequenceTask):
    """Forecast the next sample of a standardised series; see the module for the protocol. Build it with
    `ForecastTask.of`.

    Parameters
    ----------
    series : Series
    length : int
        T, steps of a window.
    values : ndarray, (n, D)
        The series in standard units.
    mean, scale : ndarray, (D,)
        Of the training part: values = (series.values - mean) / scale.
    split : int
        Samples of the training part.
    """

    series: Series
    length: int
    values: Floats
    mean: Floats
    scale: Floats
    split: int

    @classmethod
    def of(cls, series: Series, length: int, held_out: float = 0.2) -> ForecastTask:
        """Cut and standardise a series.

        Parameters
        ----------
        series : Series
        length : int
            T. A training window needs T + 1 samples (the last is only a target), and one more must be left to hold out.
        held_out : float
            Share, between 0 and 1, of the samples at the end that is held out; less where the training part would not
            hold a window.

        Raises
        ------
        DataError
            The series has fewer than T + 2 samples, or a channel is constant over the training part.

        Examples
        --------
        >>> task = ForecastTask.of(Series("ramp", np.arange(20.0)[:, None], ("a",)), length=4)
        >>> task.split, task.values[0], task.values[16]
        (16, array([-1.62697843]), array([1.84390889]))
        """
        if length < 1:
            raise OptionError(f"ForecastTask.of: length must be at least 1; got {length}")
        if not 0 < held_out < 1:
            raise OptionError(f"ForecastTask.of: held_out must be between 0 and 1; got {held_out}")
        n, channels = series.values.shape
        if n < length + 2:
            advice = f"use a length of at most {n - 2}" if n > 2 else "at least 3 samples are needed"
            if channels > n:
                advice += " (is the table lying on its side? time runs down the rows)"
            raise DataError(
                f"{series.name}: {count(n, 'sample')}, too short for a length of {length}, "
                f"which needs {length + 2}; {advice}"
            )
        split = max(length + 1, n - max(1, round(held_out * n)))
        values, mean, scale = standard_units(series, series.values, split)
        return cls(series, length, values, mean, scale, split)

    @property
    def channels(self) -> int:
        """D: all channels are read, and all are forecast."""
        return len(self.mean)

    inputs = outputs = channels

    @property
    def train_starts(self) -> int:
        """Number of different windows in the training part."""
        return self.split - self.length

    def windows(self, starts: Iterable[int]) -> Batch:
        """Cut windows that begin at the given samples, 0 <= start <= n - T - 1; every target counts."""
        first = np.fromiter(starts, np.intp)
        last = len(self.values) - self.length - 1
        if first.size == 0 or first.min() < 0 or first.max() > last:
            raise OptionError(f"ForecastTask.windows: starts must be in [0, n - T - 1] = [0, {last}], at least one")
        index = np.arange(self.length)[:, None] + first
        return Batch(self.values[index], self.values[index + 1], np.ones(index.shape, np.bool_))

    def spread_windows(self, count: int) -> Batch:
        """Cut `count` windows of the training part, evenly spread; fewer where there are not so many different ones."""
        count = min(count, self.train_starts)
        return self.windows(np.unique(np.round(np.linspace(0, self.train_starts - 1, count)).astype(int)).tolist())

    def random_windows(self, count: int, rng: np.random.Generator) -> Batch:
        """Draw `count` windows of the training part."""
        return self.windows(rng.integers(self.train_starts, size=count).tolist())

    def held_out_windows(self) -> Batch:
        """Cut the windows whose mask counts every held-out sample exactly once."""
        n, T = len(self.values), self.length
        starts: list[int] = []
        end = n  # one past the last target of the window
        while end > self.split:
            starts.append(max(0, end - T - 1))
            end -= T
        # When the series cannot hold whole windows, the oldest one overlaps its successor: a target counts in the later
        # one.
        positions = np.arange(1, T + 1)[:, None] + np.array(starts)
        ends = np.array([n - k * T for k in range(len(starts))])
        mask = (positions >= self.split) & (positions < ends)
        return self.windows(starts)._replace(mask=mask)

    loss: ClassVar[str] = "mse"
    reads: ClassVar[str] = "all"

    @property
    def baseline(self) -> float:
        """Mean squared error of repeating the last value, on the held-out samples."""
        return self.repeat_last_loss(self.held_out_windows())

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw windows of the training part, as `random_windows`."""
        return self.random_windows(*sizes("ForecastTask.draw", batch, rng))

    def held_out(self, batch: int, rng: np.random.Generator) -> Batch:
        """Return the windows of `held_out_windows`, all of them, whatever the arguments."""
        return self.held_out_windows()

    def repeat_last_loss(self, windows: Batch) -> float:
        """Mean squared error, over the positions that count, of repeating the last value."""
        error = (windows.target - windows.x)[windows.mask]
        return float(np.mean(error * error))
