"""The user's files as series: tables of text, arrays of NumPy and MATLAB, Parquet.

Whatever is wrong with a file is a `DataError` that names the file and, where there is one, the row and the column. Rows
are the lines of the file and columns its fields, both counted from 1, as a spreadsheet shows them. What is left out or
filled without having been asked for stands in the `notes` of the series.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.tasks.series import Floats, Series, pick_columns
from rnn_numpy.tasks.text_table import FILL, Reader, TextFile, look

Columns = Sequence[str | int]

TEXT = (".csv", ".tsv", ".txt", ".dat", ".tab", ".asc", ".log", ".data")
HEADER = {"auto": None, "yes": True, "no": False}
DECIMAL = ("auto", ".", ",")
MISSING = ("refuse", "interpolate", "drop")
CLOCK = 8  # samples from which on a column is seen to count
ABSENT = {99.0, 99.9, 999.0, 999.9, 9999.0, 9999.9, 99999.0, 999999.0, 32767.0, 32768.0, 1e20, 1e30}  # or less 0

# What other programs write, and how to get from there to a file that is read.
_OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet; save the sheet as .csv"),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".nc"), "an HDF5 file; read it with h5py, and numpy.save the array"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "a pickle, which could run any code; numpy.save the array"),
    **dict.fromkeys((".pt", ".pth"), "a file of torch; numpy.save the array, tensor.numpy()"),
    **dict.fromkeys((".json", ".jsonl", ".feather"), "not a table of text; save it as .csv, pandas' to_csv, say"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z"), "an archive; unpack it first, or pack it as .gz"),
}


@dataclass(frozen=True)
class Reading:
    """How to read a file.

    Parameters
    ----------
    columns : sequence of str or int, optional
        Channels to use, by name, by number from 1, or by a range of numbers, "2-5". Others are not looked at, and may
        hold text. None, or ("auto",): all but those that hold text, and those that count by equal steps, as an index or
        a clock does. ("all",): all of them.
    skip : sequence of str or int
        Columns to leave out, named in the same way.
    header : {"auto", "yes", "no"}
        Whether the first row of the table names the columns.
    decimal : {"auto", ".", ","}
        The decimal mark of a text file. The other of the two may then stand between thousands.
    missing : {"refuse", "interpolate", "drop"}
        What becomes of a missing value: an error, a value on the straight line between its neighbours in time (at the
        ends, that of the one neighbour), or its row is left out.
    absent : sequence of float
        Numbers that stand for a missing value, such as -9999.
    rows : str
        Rows of a text file to read, "5-300" or "5-", header and all; empty for all.
    separator : str
        Of the fields of a text file: one character, "tab" or "space"; "auto".
    array : str
        Which array of an .npz or .mat file; empty where there is one, or where they are the columns of one table.
    """

    columns: Columns | None = None
    skip: Columns = ()
    header: str = "auto"
    decimal: str = "auto"
    missing: str = "refuse"
    absent: Sequence[float] = ()
    rows: str = ""
    separator: str = "auto"
    array: str = ""

    def __post_init__(self) -> None:
        for name, choices in (("header", HEADER), ("decimal", DECIMAL), ("missing", MISSING)):
            arguments.one_of("Reading", name, getattr(self, name), choices)
        self.row_range()
        if self.separator not in ("auto", "tab", "space") and len(self.separator) != 1:
            raise OptionError(f"Reading: separator must be one character, tab, space or auto; got {self.separator!r}")

    def row_range(self) -> tuple[int, int] | None:
        """Return the first and the last row to read, None for all of them."""
        if not self.rows:
            return None
        match = re.fullmatch(r"(\d+)-(\d*)", self.rows)
        first, last = (int(match[1]), int(match[2] or 2**62)) if match else (0, 0)
        if not 1 <= first <= last:
            raise OptionError(f"Reading: rows must be FIRST-LAST or FIRST-, counted from 1; got {self.rows!r}")
        return first, last

    @property
    def automatic(self) -> bool:
        """Whether columns that text or a clock fill are left out."""
        return self.columns is None or tuple(self.columns) == ("auto",)

    def pick(self, name: str, channels: tuple[str, ...], left_out: Sequence[int] = ()) -> list[int]:
        """Return the columns to read, from 0; `left_out` are not, unless they are asked for."""
        skipped = pick_columns(name, channels, self.skip) if len(self.skip) else []
        if self.columns is None or tuple(self.columns) in (("auto",), ("all",)):
            dropped = {*skipped, *(left_out if self.automatic else ())}
            picked = [j for j in range(len(channels)) if j not in dropped]
            if not picked and not skipped:
                picked = list(range(len(channels)))  # nothing but text: to be said of the first
        else:
            picked = [j for j in pick_columns(name, channels, self.columns) if j not in skipped]
        if not picked:
            raise DataError(f"{name}: no column is left")
        return picked


# Its fields as options of a command, or of an experiment that keeps them.
READING: Mapping[str, Any] = {**vars(Reading()), "columns": ("auto",)}


def read_file(
    path: str | Path, reading: Reading = Reading(), progress: Callable[[int, int], None] | None = None
) -> Series:
    """Read a series from a file of any kind that is known, by the end of its name.

    `progress` is called with the number of bytes done, and their total, as a text file is read.
    """
    name = str(path)
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    if Path(path).is_dir():
        raise DataError(f"{name}: is a folder; name a file{_files_in(Path(path))}")
    if suffix == ".npy":
        return _of_array(name, load_array(path), reading)
    if suffix in (".npz", ".mat"):
        arrays = _load_npz(name) if suffix == ".npz" else _load_mat(name)
        return _of_arrays(name, arrays, reading)
    if suffix in (".parquet", ".pq"):
        return _of_parquet(name, reading)
    if suffix in _OTHERS:
        raise DataError(f"{name}: {_OTHERS[suffix]}")
    return _of_text(name, reading, progress)


def read_csv(path: str | Path, columns: Columns | None = None, **options: Any) -> Series:
    """Read a table of numbers from a text file.

    Separator, decimal mark and header are found from the first rows: the separator is the one of semicolon, tab, bar,
    comma and white space that leaves most fields numbers; the header is a first row of words, or of whole numbers over
    columns of another kind; rows of units below it, text above and below the table and rows that begin with # are left
    out. What may be read in two ways is refused, with the option that decides.

    Parameters
    ----------
    path : str or Path
        UTF-8, with or without byte order mark, UTF-16 with one, or Windows-1252; perhaps packed by gzip.
    columns : sequence of str or int, optional
        Channels to use, by name, number from 1, or range of numbers; see `Reading`.
    **options
        The other fields of `Reading`: skip, header, decimal, missing, rows, separator.

    Returns
    -------
    Series
        Columns without a name are called "column 1", "column 2", ... What was left out stands in its `notes`.

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
    ...         _ = file.write("day;level\\nMon;1,5\\nTue;2,5\\n")
    ...     tide = read_csv(path)
    >>> tide.values
    array([[1.5],
           [2.5]])
    >>> tide.notes
    ('numbers are read with a decimal comma', 'column 1 (day) holds text or dates: left out')
    """
    return _of_text(str(path), Reading(columns, **options), None)


def read_npy(path: str | Path, columns: Columns | None = None, **options: Any) -> Series:
    """Read an array that numpy.save wrote.

    Parameters
    ----------
    path : str or Path
        Real numbers of shape (n, D), time along the first axis, or (n,), one channel. Pickled arrays are refused:
        loading them could run any code.
    columns : sequence of str or int, optional
        Channels to use, by number from 1; see `Reading`, as for `options`, of which skip and missing act.

    Returns
    -------
    Series
        Channels are called "column 1", "column 2", ...

    Raises
    ------
    DataError
        Missing or unreadable file, wrong type or number of axes, NaN or infinity, with row and column.
    """
    return _of_array(str(path), load_array(path), Reading(columns, **options))


def load_array(path: str | Path) -> NDArray[Any]:
    """Load an array of real numbers, of any shape, that numpy.save wrote; DataError says why a file is none."""
    name = str(path)
    try:
        array: Any = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header is Python source, and fails in as many ways
        raise DataError(f"{name}: {_why_unreadable_npy(name, error)}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{name}: holds several arrays; save one with numpy.save, or call the file .npz")
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


def _files_in(folder: Path) -> str:
    known = (*TEXT, ".npy", ".npz", ".mat", ".parquet", ".gz")
    try:
        found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in known)
    except OSError:
        return ""
    return f", {folder / found[0]} for one" if found else ""


# -------------------------------------------------------------------------------------------------------- kinds of file


def _of_text(name: str, reading: Reading, progress: Callable[[int, int], None] | None) -> Series:
    file = TextFile(name, reading.row_range(), None)
    decimal = None if reading.decimal == "auto" else reading.decimal
    separator = None if reading.separator == "auto" else reading.separator
    dialect = look(file, HEADER[reading.header], decimal, separator)
    picked = reading.pick(name, dialect.names, (*dialect.words, *dialect.empty))
    notes = list(dialect.notes)
    if reading.automatic:
        skipped = pick_columns(name, dialect.names, reading.skip) if len(reading.skip) else []
        for columns, what in ((dialect.words, "text or dates"), (dialect.empty, "nothing in the first rows")):
            notes += [
                f"{_called(dialect.names, j)} holds {what}: left out"
                for j in columns
                if j not in (*skipped, *picked) and (columns is dialect.words or dialect.names[j] != f"column {j + 1}")
            ]
    file.progress = progress
    reader = Reader(file, dialect, picked, reading.missing != "refuse")
    reader.complain_of_missing()
    return _finished(name, dialect.names, picked, reader.values, reading, [*notes, *reader.notes])


def _of_array(name: str, array: NDArray[Any], reading: Reading, channels: tuple[str, ...] | None = None) -> Series:
    if array.ndim not in (1, 2):
        raise DataError(f"{name}: the array must have shape (n, D) or (n,); got {array.shape}")
    if array.size == 0:
        raise DataError(f"{name}: the array is empty, shape {array.shape}")
    with np.errstate(all="ignore"):  # a long double may be too large for float64: infinity is refused below
        values = np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float64)
    channels = channels or tuple(f"column {j + 1}" for j in range(values.shape[1]))
    picked = reading.pick(name, channels)
    return _finished(name, channels, picked, np.ascontiguousarray(values[:, picked]), reading, [])


def _load_npz(name: str) -> dict[str, NDArray[Any]]:
    try:
        with open(name, "rb") as file:  # np.load leaves one open that is not whole
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                return {"array": archive}
            return {key: archive[key] for key in archive.files if archive[key].dtype.kind in "iufb"}
    except Exception as error:  # zipfile, zlib and NumPy fail in as many ways
        strerror = error.strerror if isinstance(error, OSError) else None
        held = (
            "holds pickled objects, which are not loaded" if "allow_pickle" in str(error) else "not a whole .npz file"
        )
        raise DataError(f"{name}: {strerror or held}") from None


def _load_mat(name: str) -> dict[str, NDArray[Any]]:
    io = optional_import("scipy.io", "a file of MATLAB")
    try:
        found = io.loadmat(name, appendmat=False)
    except NotImplementedError:
        raise DataError(f"{name}: of MATLAB's version 7.3, which is HDF5; save it with -v7") from None
    except Exception as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{name}: {strerror or 'not a whole .mat file'}") from None
    return {
        key: value
        for key, value in found.items()
        if not key.startswith("__") and isinstance(value, np.ndarray) and value.dtype.kind in "iufb"
    }


def _of_arrays(name: str, arrays: Mapping[str, NDArray[Any]], reading: Reading) -> Series:
    """Take the array that is asked for, or the only one; or all as one table where they are equally long."""
    shown = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
    if reading.array:
        if reading.array not in arrays:
            raise DataError(f"{name}: no array {reading.array!r}; there are: {shown or 'none of numbers'}")
        arrays = {reading.array: arrays[reading.array]}
    large = {key: array for key, array in arrays.items() if array.size > 1} or dict(arrays)
    if not large:
        raise DataError(f"{name}: holds no array of real numbers")
    tables = {key: array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array for key, array in large.items()}
    lengths = {array.shape[:1] for array in tables.values()}
    if len(tables) > 1 and (len(lengths) > 1 or any(array.ndim > 2 for array in tables.values())):
        raise DataError(f"{name}: holds several arrays: {shown}; say which with --array")
    if any(array.ndim > 2 or array.ndim == 0 for array in tables.values()):
        return _of_array(name, next(iter(tables.values())), reading)
    channels: list[str] = []
    for key, array in tables.items():
        width = 1 if array.ndim == 1 else array.shape[1]
        channels += [key] if width == 1 else [f"{key} {j + 1}" for j in range(width)]
    table = np.column_stack([array.astype(np.float64) for array in tables.values()])
    return _of_array(name, table, reading, tuple(channels))


def _of_parquet(name: str, reading: Reading) -> Series:
    pandas = optional_import("pandas", "a Parquet file", "data")
    try:
        frame = pandas.read_parquet(name)
    except ImportError:
        raise DataError(f"{name}: pandas needs pyarrow to read it: pip install pyarrow; or save it as .csv") from None
    except Exception as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{name}: {strerror or 'not a whole Parquet file'}") from None
    names = tuple(map(str, frame.columns))
    numeric = [j for j in range(len(names)) if pandas.api.types.is_numeric_dtype(frame.dtypes.iloc[j])]
    words = [j for j in range(len(names)) if j not in numeric]
    picked = reading.pick(name, names, words)
    for j in picked:
        if j not in numeric:
            raise DataError(f"{name}: {_called(names, j)} holds {frame.dtypes.iloc[j]}, no numbers")
    values = frame.iloc[:, picked].to_numpy(np.float64, na_value=np.nan)
    notes = [f"{_called(names, j)} holds text or dates: left out" for j in words] if reading.automatic else []
    return _finished(name, names, picked, values, reading, notes)


# ---------------------------------------------------------------------------------------------------- what is then done


def _called(names: Sequence[str], j: int) -> str:
    return f"column {j + 1}" + ("" if names[j] == f"column {j + 1}" else f" ({names[j]})")


def _finished(
    name: str, names: tuple[str, ...], picked: list[int], values: Floats, reading: Reading, notes: list[str]
) -> Series:
    """Fill or leave out missing values, leave out columns that count, and return the series."""
    bad = np.argwhere(~np.isfinite(values) if reading.missing == "refuse" else np.isinf(values))
    if bad.size:
        i, k = (int(index) for index in bad[0])
        fill = f"; {FILL}" if np.isnan(values[i, k]) else ""
        raise DataError(
            f"{name}: row {i + 1}, {_called(names, picked[k])}: {values[i, k]} is not a finite number{fill}"
        )
    gaps = np.isnan(values)
    if len(reading.absent):
        gaps |= np.isin(values, np.array(reading.absent, np.float64))
        if reading.missing == "refuse" and gaps.any():
            i, k = (int(index) for index in np.argwhere(gaps)[0])
            shown = f"{values[i, k]:.6g}"
            raise DataError(f"{name}: sample {i + 1}, {_called(names, picked[k])}: {shown}, a missing value; {FILL}")
    if reading.automatic and values.shape[1] > 1:
        steps = [_counted_step(values[:, k]) for k in range(values.shape[1])]
        kept = [k for k, step in enumerate(steps) if step is None]
        if len(kept) not in (0, len(steps)):
            for j, step in zip(picked, steps, strict=True):
                if step is not None:
                    how = f"counts by equal steps of {step:.6g}" if step else "is the same in all rows"
                    notes.append(f"{_called(names, j)} {how}: left out")
            values, gaps, picked = np.ascontiguousarray(values[:, kept]), gaps[:, kept], [picked[k] for k in kept]
    if gaps.any():
        values = _without_gaps(name, names, picked, values, gaps, reading.missing, notes)
    with np.errstate(all="ignore"):  # differences may leave the range of floats
        notes += _suspects(names, picked, values, reading.automatic)
    return Series(name, values, tuple(names[j] for j in picked), notes=tuple(notes))


def _without_gaps(
    name: str,
    names: Sequence[str],
    picked: list[int],
    values: Floats,
    gaps: NDArray[np.bool_],
    how: str,
    notes: list[str],
) -> Floats:
    whole = ~gaps.any(axis=1)
    if how == "drop":
        if not whole.any():
            raise DataError(f"{name}: no row without a missing value is left")
        notes.append(f"{count(int((~whole).sum()), 'row')} with missing values: left out")
        return np.ascontiguousarray(values[whole])
    rows, values = np.arange(len(values)), values.copy()
    for k, j in enumerate(picked):
        there = ~gaps[:, k]
        if not there.any():
            raise DataError(f"{name}: {_called(names, j)} holds no value at all; leave it out, --skip {j + 1}")
        values[:, k] = np.interp(rows, rows[there], values[there, k])
    notes.append(f"{count(int(gaps.sum()), 'missing value')} put on a line between neighbours")
    return values


def _counted_step(values: Floats) -> float | None:
    """Return the step of a column that counts up or down, but for rounding of what is written; None of any other.

    Of one that is the same in all rows it is 0.
    """
    if len(values) < CLOCK:
        return None
    with np.errstate(all="ignore"):
        step = float((values[-1] - values[0]) / (len(values) - 1))
        if not abs(values[1] - values[0] - step) <= 0.4 * abs(step):
            return None
        off = np.abs(values - (values[0] + step * np.arange(len(values)))).max()
    return step if off <= 0.2 * abs(step) else None


def _suspects(names: Sequence[str], picked: list[int], values: Floats, automatic: bool) -> list[str]:
    """Return what looks wrong, but may be right: a clock that is not even, a number that stands for a missing value."""
    notes = []
    for k, j in enumerate(picked if len(values) >= CLOCK else []):
        column = values[:, k]
        if automatic and len(picked) > 1 and k == 0 and (np.diff(column) > 0).all():
            notes.append(f"{_called(names, j)} only rises, as a clock does: --skip {j + 1} leaves it out")
        for extreme in (float(column.min()), float(column.max())):
            if abs(extreme) in ABSENT and 0 < (many := int((column == extreme).sum())) < len(column):
                others = column[column != extreme]
                if abs(extreme - others).min() > max(3 * np.ptp(others), 10):
                    shown = f"{extreme:.6g}"
                    notes.append(
                        f"{_called(names, j)} holds {shown} {'once' if many == 1 else f'{many} times'}: if it stands "
                        f"for a missing value, say --absent {shown} and --missing interpolate"
                    )
    return notes
