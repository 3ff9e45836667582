"""Real series to forecast, and the user's own CSV and NPY files; those that have names are in `bundled.py`.

A series is a table of n samples (rows, in time) by D channels (columns). Whatever is wrong with a file is a `DataError`
that names the file and, where there is one, the row and the column. Rows are the lines of the file and columns its
fields, both counted from 1, as a spreadsheet shows them.

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

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.tasks.task import Batch, SequenceTask, sizes

Floats = NDArray[np.float64]

# Missing values as spreadsheets, pandas, R and databases write them.
_MISSING = {"", "nan", "na", "n/a", "null", "none", "-", "?"}
# Python's float() also takes 1_000, which in a data file is a typing error rather than a number.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)


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

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        shown = ", ".join(self.channels[:8]) + (", ..." if len(self.channels) > 8 else "")
        return f"Series {self.name!r}: n = {len(self)} samples of D = {len(self.channels)} channels: {shown}"

    @property
    def times(self) -> Floats:
        """When each sample was taken, (n,)."""
        return self.start + self.step * np.arange(len(self), dtype=np.float64)

    def select(self, columns: Sequence[str | int]) -> Series:
        """Return the series of some channels only.

        `columns` are names of channels, or numbers from 1; a string of digits is a number unless a channel has that
        name. DataError says that there is no such channel, or that one is named twice.
        """
        picked = _pick_columns(self.name, self.channels, columns)
        return replace(
            self, values=np.ascontiguousarray(self.values[:, picked]), channels=tuple(self.channels[j] for j in picked)
        )


# ----------------------------------------------------------------------------------------------------- the user's files


def read_csv(path: str | Path, columns: Sequence[str | int] | None = None) -> Series:
    """Read a table of numbers from a text file.

    The separator is a semicolon or a tab, whichever the first row has more of outside of quotes, and a comma where it
    has neither. The first row is a header if none of its fields is a number and some field is text. Lines above it that
    begin with # are comments. Numbers are written with a decimal point.

    Parameters
    ----------
    path : str or Path
        UTF-8, with or without byte order mark.
    columns : sequence of str or int, optional
        Channels to use, by name or by number from 1. The others are not looked at and may hold text.

    Returns
    -------
    Series
        Columns without a name are called "column 1", "column 2", ...

    Raises
    ------
    DataError
        Missing, unreadable or empty file; rows of different lengths; text, a missing value or an infinity where a
        number should be, with row and column; no such column.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "tide.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write("day;level\\nMon;1.5\\nTue;2.5\\n")
    ...     read_csv(path, ["level"]).values
    array([[1.5],
           [2.5]])
    """
    name = str(path)
    rows = _csv_rows(name)
    first_line, first = rows[0]
    # A first row of missing values alone is no header: it would be lost without a word.
    has_header = any(not _is_missing(field) for field in first) and not any(_is_number(field) for field in first)
    channels = tuple((field.strip() if has_header else "") or f"column {j}" for j, field in enumerate(first, start=1))
    picked = list(range(len(channels))) if columns is None else _pick_columns(name, channels, columns)
    body = rows[1:] if has_header else rows
    if not body:
        raise DataError(f"{name}: a header in row {first_line} and no data below it")
    values = np.empty((len(body), len(picked)))
    for i, (line, fields) in enumerate(body):
        if len(fields) != len(channels):
            raise DataError(
                f"{name}: row {line} has {count(len(fields), 'field')}; row {first_line} has {len(channels)}"
            )
        for k, j in enumerate(picked):
            values[i, k] = _number(name, line, j, channels, fields[j])
    return Series(name, values, tuple(channels[j] for j in picked))


def read_npy(path: str | Path) -> Series:
    """Read an array that numpy.save wrote.

    Parameters
    ----------
    path : str or Path
        Real numbers of shape (n, D), time along the first axis, or (n,), one channel. Pickled arrays are refused:
        loading them could run any code.

    Returns
    -------
    Series
        Channels are called "column 1", "column 2", ...

    Raises
    ------
    DataError
        Missing or unreadable file, wrong type or number of axes, NaN or infinity, with row and column.
    """
    name = str(path)
    array = load_array(path)
    if array.ndim not in (1, 2):
        raise DataError(f"{name}: the array must have shape (n, D) or (n,); got {array.shape}")
    if array.size == 0:
        raise DataError(f"{name}: the array is empty, shape {array.shape}")
    with np.errstate(all="ignore"):  # a long double may be too large for float64: infinity is refused below
        values = np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        i, j = (int(k) for k in bad[0])
        raise DataError(f"{name}: row {i + 1}, column {j + 1}: {values[i, j]} is not a finite number")
    channels = tuple(f"column {j + 1}" for j in range(values.shape[1]))
    return Series(name, values, channels)


def load_array(path: str | Path) -> NDArray[Any]:
    """Load an array of real numbers, of any shape, that numpy.save wrote; DataError says why a file is none."""
    name = str(path)
    try:
        array: Any = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header is Python source, and fails in as many ways
        raise DataError(f"{name}: {_why_unreadable_npy(name, error)}") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name}: holds several arrays; save one with numpy.save")
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name}: the array must hold real numbers; got dtype {array.dtype}")
    return array


def _why_unreadable_npy(name: str, error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError) and "allow_pickle" in str(error):
        # NumPy says so of object arrays and of files without its magic string alike.
        return "not an array of numbers written by numpy.save (pickled objects are not loaded)"
    return "not a complete .npy file"


def _csv_rows(name: str) -> list[tuple[int, list[str]]]:
    """All rows with their line numbers, from the header on, without blank rows at the end."""
    try:
        with open(name, newline="", encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text (byte {error.start + 1})") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    lines = io.StringIO(text, newline="").readlines()  # as csv counts them; str.splitlines knows more line ends
    skipped = 0
    while skipped < len(lines) and (not lines[skipped].strip() or lines[skipped].startswith("#")):
        skipped += 1
    if skipped == len(lines):
        raise DataError(f"{name}: the file has no rows")
    # Semicolons and tabs before commas: where they separate fields, a comma may be that of a decimal.
    bare = re.sub(r'"[^"]*"', "", lines[skipped])
    delimiter = max(";\t", key=bare.count) if re.search(r"[;\t]", bare) else ","
    reader = csv.reader(lines[skipped:], delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        for fields in reader:
            rows.append((skipped + reader.line_num, fields))
    except csv.Error as error:
        raise DataError(f"{name}: row {skipped + reader.line_num}: {error}") from None
    while rows and not any(field.strip() for field in rows[-1][1]) and len(rows[-1][1]) <= 1:
        rows.pop()
    return rows


def _is_missing(field: str) -> bool:
    return field.strip().lower() in _MISSING


def _is_number(field: str) -> bool:
    return _NUMBER.fullmatch(field.strip()) is not None


def _number(name: str, line: int, j: int, channels: tuple[str, ...], field: str) -> float:
    field, channel = field.strip(), channels[j]
    # Where it is the only column, there is nothing to choose.
    choose = "choose columns with columns= (on the command line, --columns)" if len(channels) > 1 else ""
    where = f"{name}: row {line}, column {j + 1}"
    if channel != f"column {j + 1}":
        where += f' ("{channel}")'
    if _is_missing(field):
        shown = f" ({field})" if field else ""
        raise DataError(
            f"{where}: missing value{shown}; fill or leave out such rows first" + (choose and f", or {choose}")
        )
    if not _is_number(field):
        shown = field if len(field) <= 40 else field[:37] + "..."
        advice = "write numbers with a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", field) else choose
        raise DataError(f"{where}: {shown!r} is not a number" + (f"; {advice}" if advice else ""))
    value = float(field)
    if not math.isfinite(value):
        raise DataError(f"{where}: {field} is not a finite number")
    return value


def _pick_columns(name: str, channels: tuple[str, ...], columns: Sequence[str | int]) -> list[int]:
    picked: list[int] = []
    for column in columns:
        if isinstance(column, str) and column in channels:
            j = channels.index(column)
        elif str(column).isdecimal() and 1 <= int(column) <= len(channels):
            j = int(column) - 1
        else:
            shown = ", ".join(channels[:12]) + (", ..." if len(channels) > 12 else "")
            raise DataError(f"{name}: no column {str(column)!r}; columns are: {shown}")
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
