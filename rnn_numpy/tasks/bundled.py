"""The real series that other packages bring with them, by name.

matplotlib's sample data: "eeg", 800 samples of 4 electrodes in 10 seconds; "stocks", 390 months, January 1990 to June
2022, of the five stocks and two indices that existed all the time, as natural logarithms of the price, whose steps are
relative changes; "membrane", 12000 samples of the voltage across a cell's membrane.

statsmodels' data sets, all in the public domain: "sunspots", 309 years of the sun's activity; "co2", 526 months of
carbon dioxide above Mauna Loa; "elnino", 732 months of the sea's temperature off Peru; "nile", 100 yearly flows at
Aswan. The files are read where they lie; statsmodels itself, which takes seconds to load, is not imported.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import, package_folder
from rnn_numpy.errors import DataError
from rnn_numpy.tasks.files import Columns, Reading, read_csv, read_file
from rnn_numpy.tasks.series import Floats, Series
from rnn_numpy.tasks.text_table import KNOWN

BUNDLED = ("eeg", "stocks", "membrane", "sunspots", "co2", "elnino", "nile")


def load_series(
    source: str,
    columns: Columns | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Series:
    """Load a bundled series by name, or a file by path.

    Parameters
    ----------
    source : str
        A name in `BUNDLED`, or the path of a file: .csv, .tsv, .txt and other text, also packed as .gz, .npy, .npz,
        .mat (with scipy), .parquet (with pandas). To read a file that has a bundled name, write ./NAME.
    columns : sequence of str or int, optional
        Channels to use, by name, by number from 1, or by a range of numbers, "2-5". By default all, of a file without
        those that hold text or count by equal steps, as an index or a clock does; ("all",) for these too.
    progress : callable, optional
        Called with the bytes that are read, and their total.
    **options
        The other fields of `Reading`: skip, header, decimal, missing, rows, separator, array. They do not act on a
        bundled series, but for skip.

    Raises
    ------
    DataError
        The file cannot be read as a numeric table.
    MissingExtraError
        The package that brings a bundled series, or reads a file, is not installed.
    """
    reading = Reading(columns, **options)
    if source in BUNDLED:
        series = load_bundled(source)
        picked = reading.pick(source, series.channels)
        return series if len(picked) == len(series.channels) else series.select([j + 1 for j in picked])
    if not source or not (Path(source).suffix or Path(source).exists()):
        raise DataError(f"{source or repr(source)}: neither one of {', '.join(BUNDLED)} nor a file; {KNOWN}")
    return read_file(source, reading, progress)


def load_bundled(name: str) -> Series:
    """Load one of the real series that matplotlib and statsmodels bring with them; see the module for what they are.

    Parameters
    ----------
    name : {"eeg", "stocks", "membrane", "sunspots", "co2", "elnino", "nile"}

    Raises
    ------
    DataError
        The file is not where the package keeps it, or not as expected: some distributions leave sample data out.
    MissingExtraError
        The package is not installed.

    Examples
    --------
    >>> sunspots = load_bundled("sunspots")
    >>> sunspots
    Series 'sunspots': n = 309 samples of D = 1 channels: sunspots
    >>> sunspots.times[[0, -1]], sunspots.unit, sunspots.season
    (array([1700., 2008.]), 'year', 11)
    """
    arguments.one_of("load_bundled", "name", name, BUNDLED)
    return _LOADERS[name]()


# ------------------------------------------------------------------------------------------------------- of matplotlib


def _sample_file(filename: str) -> Path:
    cbook = optional_import("matplotlib.cbook", f"the series in {filename}")
    path = Path(cbook.get_sample_data(filename, asfileobj=False))
    if not path.is_file():
        raise DataError(
            f"{path}: this matplotlib comes without its sample data; reinstall it with pip, or name a file of your own"
        )
    return path


def _read_raw(filename: str, dtype: str, shape: tuple[int, int]) -> Floats:
    path = _sample_file(filename)
    values = np.fromfile(path, dtype)
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise DataError(
            f"{path}: expected {shape[0]} x {shape[1]} finite numbers of type {np.dtype(dtype).name}; "
            f"found {values.size}, {np.count_nonzero(np.isfinite(values))} of them finite"
        )
    return values.astype(np.float64).reshape(shape)


def _load_eeg() -> Series:
    values = _read_raw("eeg.dat", "<f8", (800, 4))
    channels = ("EEG 1", "EEG 2", "EEG 3", "EEG 4")
    return Series(
        "eeg", values, channels, "electroencephalogram, 4 electrodes, 10 seconds", start=0, step=1 / 80, unit="second"
    )


def _load_membrane() -> Series:
    values = _read_raw("membrane.dat", "<f4", (12000, 1))
    return Series("membrane", values, ("voltage",), "voltage across a cell membrane")


def _load_stocks() -> Series:
    path = _sample_file("Stocks.csv")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(line for line in file if not line.startswith("#"))
    # Rows for days of dividends and splits carry no price. The last row repeats June 2022 at the day of the download.
    months = [row for row in rows if row[0].endswith("-01") and any(row[1:])]
    whole = [j for j in range(1, len(header)) if all(row[j] for row in months)]
    prices = np.array([[float(row[j]) for j in whole] for row in months])
    return Series(
        "stocks",
        np.log(prices),
        tuple(header[j] for j in whole),
        f"log monthly prices, {months[0][0][:7]} to {months[-1][0][:7]}",
        start=1990,
        step=1 / 12,
        unit="year",
    )


# ------------------------------------------------------------------------------------------------------ of statsmodels


def _dataset(name: str) -> Path:
    path = package_folder("statsmodels", f"the series {name}") / "datasets" / name / f"{name}.csv"
    if not path.is_file():
        raise DataError(
            f"{path}: this statsmodels comes without its data sets; reinstall it with pip, or name a file of your own"
        )
    return path


def _load_sunspots() -> Series:
    values = read_csv(_dataset("sunspots"), ["SUNACTIVITY"]).values
    about = "yearly mean number of sunspots, 1700 to 2008"
    return Series("sunspots", values, ("sunspots",), about, season=11, start=1700, unit="year")


def _load_nile() -> Series:
    values = read_csv(_dataset("nile"), ["volume"]).values
    return Series(
        "nile", values, ("flow",), "yearly flow of the Nile at Aswan, 1871 to 1970, 1e8 m3", start=1871, unit="year"
    )


def _load_elnino() -> Series:
    table = read_csv(_dataset("elnino"), ["all"]).values  # a year, and its twelve months
    about = "monthly sea surface temperature off Peru, 1950 to 2010, degrees Celsius"
    values = table[:, 1:].reshape(-1, 1)
    return Series("elnino", values, ("temperature",), about, season=12, start=1950, step=1 / 12, unit="year")


def _load_co2() -> Series:
    """Return monthly means of the weeks; what lies between is put on a line."""
    weeks: dict[str, list[float]] = {}
    with _dataset("co2").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    for date, value in rows:
        weeks.setdefault(date[:6], []).extend([float(value)] if value else [])
    months = np.arange(len(weeks))  # each month has a row, be it an empty one
    known = [i for i, values in enumerate(weeks.values()) if values]
    means = [np.mean(values) for values in weeks.values() if values]
    about = "monthly mean carbon dioxide above Mauna Loa, March 1958 to December 2001, ppmv"
    values = np.interp(months, known, means)[:, None]
    return Series("co2", values, ("co2",), about, season=12, start=1958 + 2 / 12, step=1 / 12, unit="year")


_LOADERS: dict[str, Callable[[], Series]] = {
    "eeg": _load_eeg, "stocks": _load_stocks, "membrane": _load_membrane, "sunspots": _load_sunspots, "co2": _load_co2,
    "elnino": _load_elnino, "nile": _load_nile,
}  # fmt: skip
