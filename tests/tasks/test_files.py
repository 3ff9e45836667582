"""Files as people have them: what is read of each, what is said, what is refused, and with which advice."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy.errors import DataError, MissingExtraError, OptionError
from rnn_numpy.tasks import Reading, Series, load_series, read_csv, read_npy, text_table

N = 10
U = [round(20 + 10 * np.sin(i / 3), 2) for i in range(N)]
P = [round(100 + 3 * np.cos(i / 5), 1) for i in range(N)]
K = [i * i % 7 for i in range(N)]


def lines(row: Callable[[int], str], end: str = "\n") -> str:
    return "".join(row(i) + end for i in range(N))


def comma(value: float) -> str:
    return str(value).replace(".", ",")


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


UP = lines(lambda i: f"{i},{U[i]},{P[i]}")
WITH_TEXT = "column 1 ({}) holds text or dates: left out"
COUNTS = "column 1 ({}) counts by equal steps of {}: left out"

# What is in the file, the channels that are U and P, or K, and notes.
READ: dict[str, tuple[str | bytes, dict[str, list[float] | list[int]], list[str]]] = {
    "numbers in the header": (
        "Time,10,20\n" + UP,
        {"10": U, "20": P},
        ["row 1 is read as names, though there are numbers in it (--header no: as data)", COUNTS.format("Time", 1)],
    ),
    "index of pandas": (",a,b\n" + UP, {"a": U, "b": P}, ["column 1 counts by equal steps of 1: left out"]),
    "names of several rows": (
        ",s,s\n,x,y\ntime,,\n" + UP,
        {"s x": U, "s y": P},
        ["rows 1 to 3 are read as names, joined", COUNTS.format("time", 1)],
    ),
    "years as names": (
        "2019,2020\n" + lines(lambda i: f"{U[i]},{P[i]}"),
        {"2019": U, "2020": P},
        ["row 1 is read as names, though there are numbers in it (--header no: as data)"],
    ),
    "years above counts": (
        "country,1990,1991\n" + lines(lambda i: f"C,{K[i]},{K[-1 - i]}"),
        {"1990": K, "1991": K[::-1]},
        [
            "row 1 is read as names, though there are numbers in it (--header no: as data)",
            WITH_TEXT.format("country"),
        ],
    ),
    "units": (
        "t,U,P\ns,V,hPa\n" + UP,
        {"U": U, "P": P},
        ["row 2 (s, V, hPa) is read as units and left out", COUNTS.format("t", 1)],
    ),
    "names, tickers and the date": (
        "Price,Close,High\nTicker,A,A\nDate,,\n" + lines(lambda i: f"2024-01-{i + 1:02d},{U[i]},{P[i]}"),
        {"Close": U, "High": P},
        ["rows 2 and 3 (Ticker, A, A) are read as units and left out", WITH_TEXT.format("Price")],
    ),
    "separator told": ("\ufeffsep=;\r\nU;P\r\n" + lines(lambda i: f"{U[i]};{P[i]}", "\r\n"), {"U": U, "P": P}, []),
    "German spreadsheet": (
        ("Zeit;Temp °C;P\r\n" + lines(lambda i: f"0{i}.03.24 08:00;{comma(U[i])};{comma(P[i])}")).encode("cp1252"),
        {"Temp °C": U, "P": P},
        [
            "numbers are read with a decimal comma",
            WITH_TEXT.format("Zeit"),
            "the text is no UTF-8, and read as Windows-1252",
        ],
    ),
    "UTF-16 of a spreadsheet": (
        ("U\tP\r\n" + lines(lambda i: f"{U[i]}\t{P[i]}", "\r\n")).encode("utf-16"),
        {"U": U, "P": P},
        [],
    ),
    "one channel with a decimal comma": (
        "U\n" + lines(lambda i: comma(round(U[i] + 0.0001, 4))),
        {"U": [round(value + 0.0001, 4) for value in U]},
        ["numbers are read with a decimal comma"],
    ),
    "decimal comma between white space": (
        lines(lambda i: f"{comma(U[i])} {comma(P[i])}"),
        {"column 1": U, "column 2": P},
        ["numbers are read with a decimal comma"],
    ),
    "thousands in quotes": (
        'U\n"1,234.50"\n' + lines(lambda i: f'"{1000 + U[i]:,.2f}"'),
        {"U": [1234.5, *[round(1000 + value, 2) for value in U]]},
        ["commas are read as marks of thousands"],
    ),
    "thousands of the Swiss": (
        "Datum;Umsatz\n" + lines(lambda i: f"{i + 1:02d}.03.2024;{1000 * U[i]:,.2f}".replace(",", "'")),
        {"Umsatz": [1000 * value for value in U]},
        [WITH_TEXT.format("Datum")],
    ),
    "thousands of the French": (
        "valeur;P\n" + lines(lambda i: f"1\u202f0{comma(U[i]) if U[i] >= 10 else '0' + comma(U[i])};{comma(P[i])}"),
        {"valeur": [1000 + value for value in U], "P": P},
        ["numbers are read with a decimal comma"],
    ),
    "millions with points": (
        "U\n1.234.567\n1.234.568\n",
        {"U": [1234567, 1234568]},
        ["points are read as marks of thousands"],
    ),
    "white space": ("U P\n" + lines(lambda i: f"  {U[i]}   {P[i]} "), {"U": U, "P": P}, []),
    "table of R": (
        '"U" "P"\n' + lines(lambda i: f'"{i + 1}" {U[i]} {P[i]}'),
        {"U": U, "P": P},
        ["column 1 counts by equal steps of 1: left out"],
    ),
    "bars": ("| U | P |\n|---|--:|\n" + lines(lambda i: f"| {U[i]} | {P[i]} |"), {"U": U, "P": P}, []),
    "table of psql": (
        "  u  |  p \n-----+----\n" + lines(lambda i: f" {U[i]} | {P[i]}") + "(10 rows)\n\n",
        {"u": U, "p": P},
        ["row 13 of text below the table: left out"],
    ),
    "names in a comment": ("# made by\n# U P\n" + lines(lambda i: f"{U[i]} {P[i]}"), {"U": U, "P": P}, []),
    "comments": (
        "U,P\n# first\n" + lines(lambda i: f"{U[i]},{P[i]}") + "# gap, here\n1,2\n",
        {"U": [*U, 1], "P": [*P, 2]},
        ["row 13, a comment: left out"],
    ),
    "text above and below": (
        "Station: 7, Ulm\nmade by hand\n\nt,U,P\n" + UP + "End of file\n",
        {"U": U, "P": P},
        [
            "rows 1 and 2 of text above the table: left out",
            "row 15 of text below the table: left out",
            COUNTS.format("t", 1),
        ],
    ),
    "oscilloscope": (
        "Model,X\n,\nInterval,4e-09,\nLength,10,\n,,\n\nTIME,CH1,CH2\n"
        + lines(lambda i: f"{i * 4e-9:.3e},{U[i]},{P[i]}"),
        {"CH1": U, "CH2": P},
        ["rows 1, 3, 4 of text above the table: left out", COUNTS.format("TIME", "4e-09")],
    ),
    "labels in single quotes": (
        "'Elapsed','U'\n'mm:ss','mV'\n" + lines(lambda i: f"'0:{i:02d}',{U[i]}"),
        {"U": U},
        ["row 2 (mm:ss, mV) is read as units and left out", WITH_TEXT.format("Elapsed")],
    ),
    "separators and empty rows at the end": (
        "U,P,\n" + lines(lambda i: f"{U[i]},{P[i]},") + ",,\n,,\n",
        {"U": U, "P": P},
        [],
    ),
    "double spacing": (
        "U,P\r\n\r\n" + lines(lambda i: f"{U[i]},{P[i]}", "\r\n\r\n"),
        {"U": U, "P": P},
        ["every other row is empty: left out"],
    ),
    "quotes around everything": (
        '"a ""q""","b\nunit"\n' + lines(lambda i: f'"{U[i]}","{P[i]}"'),
        {'a "q"': U, "b unit": P},
        [],
    ),
    "exponents of Fortran": (
        ' TITLE = "run 7"\n' + lines(lambda i: f" {U[i]:.8E} {P[i]:.8E}".replace("E", "D")),
        {"column 1": U, "column 2": P},
        ["row 1 of text above the table: left out"],
    ),
    "a typographer's minus": ("U,P\n" + lines(lambda i: f"\u2212{U[i]},{P[i]}"), {"U": [-u for u in U], "P": P}, []),
    "station, date in digits, and a flag": (
        "ID;DATE;U;end\n" + lines(lambda i: f"  3987;202403{i + 1:02d}0800;{U[i]:6.2f};eor"),
        {"U": U},
        [
            "column 2 (DATE) holds text or dates: left out",
            "column 4 (end) holds text or dates: left out",
            "column 1 (ID) is the same in all rows: left out",
        ],
    ),
    "a column that holds nothing": (
        "U,note,P\n" + lines(lambda i: f"{U[i]},,{P[i]}"),
        {"U": U, "P": P},
        ["column 2 (note) holds nothing in the first rows: left out"],
    ),
    "an uneven clock": (
        "t,U\n" + lines(lambda i: f"{i + (i % 3) / 2},{U[i]}"),
        {"t": [i + (i % 3) / 2 for i in range(N)], "U": U},
        [],
    ),
    "a clock with a gap": (
        "t,U\n" + lines(lambda i: f"{i + 50 * (i > 5)},{U[i]}"),
        {"t": [i + 50 * (i > 5) for i in range(N)], "U": U},
        ["column 1 (t) only rises, as a clock does: --skip 1 leaves it out"],
    ),
    "a number that stands for none": (
        "U,P\n" + lines(lambda i: f"{-9999 if i == 4 else U[i]},{P[i]}"),
        {"U": [*U[:4], -9999, *U[5:]], "P": P},
        [
            "column 1 (U) holds -9999 once: if it stands for a missing value, say --absent -9999 and "
            "--missing interpolate"
        ],
    ),
    "two clocks": (
        "i,t\n" + lines(lambda i: f"{i},{i * 0.5}"),
        {"i": list(range(N)), "t": [i * 0.5 for i in range(N)]},
        ["column 1 (i) only rises, as a clock does: --skip 1 leaves it out"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "channels", "notes"), READ.values(), ids=READ)
def test_what_is_read(tmp_path: Path, content: str | bytes, channels: dict[str, list[float]], notes: list[str]) -> None:
    series = load_series(written(tmp_path, "mine.csv", content))
    assert series.channels == tuple(channels)
    np.testing.assert_array_equal(series.values, np.array(list(channels.values()), np.float64).T)
    assert list(series.notes) == notes


GAPS = "U,P\n1.5,NA\n,5\n3.5,6\n\n4.5,8\n"
COMMAS = "1,15\n2,37\n5,20\n"
TIMES = "t,U,P\n" + UP
ASKED: dict[str, tuple[str, dict[str, Any], dict[str, list[float]], list[str]]] = {
    "interpolated": (
        GAPS,
        {"missing": "interpolate"},
        {"U": [1.5, 2.5, 3.5, 4.0, 4.5], "P": [5, 5, 6, 7, 8]},
        ["4 missing values put on a line between neighbours"],
    ),
    "dropped": (GAPS, {"missing": "drop"}, {"U": [3.5, 4.5], "P": [6, 8]}, ["3 rows with missing values: left out"]),
    "dropped in one column": (
        GAPS,
        {"missing": "drop", "columns": ["U"]},
        {"U": [1.5, 3.5, 4.5]},
        ["2 rows with missing values: left out"],
    ),
    "absent": (
        "U,P\n1.5,-9\n2,5\n3,7\n",
        {"absent": (-9,), "missing": "interpolate"},
        {"U": [1.5, 2, 3], "P": [5, 5, 7]},
        ["1 missing value put on a line between neighbours"],
    ),
    "decimal commas": (COMMAS, {"decimal": ","}, {"column 1": [1.15, 2.37, 5.2]}, []),
    "decimal points": (COMMAS, {"decimal": "."}, {"column 1": [1, 2, 5], "column 2": [15, 37, 20]}, []),
    "separator": (COMMAS, {"separator": ","}, {"column 1": [1, 2, 5], "column 2": [15, 37, 20]}, []),
    "another separator": ("a:b\n1:2.5\n3:4\n", {"separator": ":"}, {"a": [1, 3], "b": [2.5, 4]}, []),
    "thousands": ("a;b\n1,234;5\n2,500;6\n", {"decimal": "."}, {"a": [1234, 2500], "b": [5, 6]}, []),
    "no thousands": ("a;b\n1,234;5\n2,500;6\n", {"decimal": ","}, {"a": [1.234, 2.5], "b": [5, 6]}, []),
    "header": ("1,2.5\n3,4\n", {"header": "yes"}, {"1": [3], "2.5": [4]}, [READ["years as names"][2][0]]),
    "no header": ("1,2\n3.5,4.5\n", {"header": "no"}, {"column 1": [1, 3.5], "column 2": [2, 4.5]}, []),
    "rows": ("a,b\n1,2.5\n3,4\nTotal,6\n", {"rows": "1-3"}, {"a": [1, 3], "b": [2.5, 4]}, []),
    "rows below": ("x\na,b\n1,2.5\n3,4\n", {"rows": "2-"}, {"a": [1, 3], "b": [2.5, 4]}, []),
    "all columns": (TIMES, {"columns": ["all"]}, {"t": list(map(float, range(N))), "U": U, "P": P}, []),
    "a clock that is asked for": (TIMES, {"columns": ["t"]}, {"t": list(map(float, range(N)))}, []),
    "a range of columns": (TIMES, {"columns": ["2-3"]}, {"U": U, "P": P}, []),
    "columns in another order": (TIMES, {"columns": ["P", 2]}, {"P": P, "U": U}, []),
    "skipped": (TIMES, {"skip": ["U"]}, {"P": P}, [COUNTS.format("t", 1)]),
    "skipped by range": (TIMES, {"skip": ["1-2"]}, {"P": P}, []),
}


@pytest.mark.parametrize(("content", "options", "channels", "notes"), ASKED.values(), ids=ASKED)
def test_what_is_asked_for(
    tmp_path: Path, content: str, options: dict[str, Any], channels: dict[str, list[float]], notes: list[str]
) -> None:
    series = read_csv(written(tmp_path, "mine.csv", content), **options)
    assert series.channels == tuple(channels)
    np.testing.assert_array_equal(series.values, np.array(list(channels.values()), np.float64).T)
    assert list(series.notes) == notes


SKIP = "; leave the column out with --skip, or choose others with --columns"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "cut off": ("a,b\n1,2.5\n3,4\n5", {}, "row 4 has 1 field ('5'); row 2 has 2; --rows 1-3 reads those rows alone"),
    "a name too many": ("a,b,c\n1,2\n3,4\n", {}, "row 2 has 2 fields; row 1 has 3; --rows 2- reads those rows alone"),
    "a name too many, white space": (
        "a b c\n1 2\n3 4\n", {}, "row 2 has 2 fields; row 1 has 3; --rows 2- reads those rows alone"
    ),
    "a word for a first number": ("t,U\n1,x\n2,3\n3,4\n", {}, "row 2, column 2 (\"U\"): 'x' is not a number" + SKIP),
    "a word below a word": (
        "day;level\nMon;oops\nTue;2.5\nWed;3\n", {"columns": ["level"]},
        "row 2, column 2 (\"level\"): 'oops' is not a number" + SKIP,
    ),
    "currency": (
        "day,price\nMon,$5.0\nTue,$6.0\n", {},
        "row 2, column 2 (\"price\"): '$5.0' is not a number; leave the unit out of the numbers, or" + SKIP[1:],
    ),
    "JSON": ('{"a": [1,2,3]}\n', {}, f"looks like JSON, HTML or XML rather than a table; {text_table.KNOWN}"),
    "HTML": ("<!DOCTYPE html>\n<p>404\n", {}, f"looks like JSON, HTML or XML rather than a table; {text_table.KNOWN}"),
    "absent and refused": (
        "U\n1.5\n-9\n", {"absent": [-9]},
        "sample 2, column 1 (U): -9, a missing value; fill it first, or say --missing interpolate, or --missing drop",
    ),
    "nothing left": ("U,P\n1,\n,2\n", {"missing": "drop"}, "no row without a missing value is left"),
    "nothing to fill from": (
        "U,P\n1,\n2,\n", {"missing": "interpolate", "columns": ["all"]},
        "column 2 (P) holds no value at all; leave it out, --skip 2",
    ),
    "all is skipped": ("U,P\n1,2.5\n", {"skip": ["1-2"]}, "no column is left"),
    "a range too far": ("U,P\n1,2.5\n", {"columns": ["2-3"]}, "no column '2-3'; columns are: U, P"),
    "no such rows": ("U,P\n1,2.5\n", {"rows": "7-9"}, "the file has no rows"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, content: str, options: dict[str, Any], message: str) -> None:
    path = written(tmp_path, "mine.csv", content)
    with pytest.raises(DataError) as caught:
        load_series(path, **options)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": "maybe"}, "Reading: header must be one of 'auto', 'yes', 'no'"),
        ({"decimal": ";"}, "Reading: decimal must be one of 'auto', '.', ','"),
        ({"missing": "guess"}, "Reading: missing must be one of 'refuse', 'interpolate', 'drop'"),
        ({"rows": "5"}, "Reading: rows must be FIRST-LAST or FIRST-, counted from 1; got '5'"),
        ({"rows": "5-4"}, "Reading: rows must be FIRST-LAST or FIRST-, counted from 1; got '5-4'"),
        ({"separator": "and"}, "Reading: separator must be one character, tab, space or auto; got 'and'"),
    ],
)
def test_options_without_a_meaning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Reading(**options)
    assert str(caught.value).startswith(message)


# Blocks ---------------------------------------------------------------------------------------------------------------


def slowly(monkeypatch: pytest.MonkeyPatch, path: str, **options: Any) -> Series:
    """Read a file field by field."""
    with monkeypatch.context() as patch:
        patch.setattr(text_table.Reader, "_fast", lambda self, lines: None)
        return read_csv(path, **options)


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=8
    ),
    st.sampled_from([",", ";", "\t", "|", " "]),
    st.booleans(),
)
def test_both_ways_read_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]], separator: str, quoted: bool
) -> None:
    around = '"' if quoted else ""
    text = "".join(separator.join(f"{around}{value!r}{around}" for value in row) + "\n" for row in rows)
    path = written(tmp_path_factory.mktemp("table"), "mine.txt", separator.join("pqr") + "\n" + text)
    with pytest.MonkeyPatch.context() as patch:
        for columns in (["all"], ["r", "p"]):
            fast, slow = read_csv(path, columns), slowly(patch, path, columns=columns)
            np.testing.assert_array_equal(fast.values, slow.values)
            np.testing.assert_array_equal(fast.values, np.array(rows)[:, [0, 1, 2] if columns == ["all"] else [2, 0]])


def test_blocks_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "lf": "U,P\n" + lines(lambda i: f"{U[i]},{P[i]}"),
        "crlf": "U,P\r\n" + lines(lambda i: f"{U[i]},{P[i]}", "\r\n"),
        "quoted": '"U","P"\n' + lines(lambda i: f'"{U[i]}","{P[i]}"'),
        "text": 'what,U,P\n' + lines(lambda i: f'"two\nlines, {i}",{U[i]},{P[i]}'),
        "decimal": "U;P\n" + lines(lambda i: f"{comma(U[i])};{comma(P[i])}"),
    }  # fmt: skip
    whole = {name: written(tmp_path, f"{name}.csv", text) for name, text in texts.items()}
    for size in (60, 61, 62, 100, 1000):
        monkeypatch.setattr(text_table, "BLOCK", size)
        for path in whole.values():
            np.testing.assert_array_equal(load_series(path).values, np.array([U, P]).T)
        path = written(tmp_path, "bad.csv", texts["crlf"] + "x,1\r\n")
        with pytest.raises(DataError, match=r"bad\.csv: row 12, column 1 \(\"U\"\): 'x' is not a number"):
            load_series(path)


def test_rows_far_down_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "BLOCK", 1000)
    many = "what,U,P\n" + "".join(f"a,{i * i % 17},{i * i % 11}\n" for i in range(900))
    for row, message in (
        ("a,1", "row 902 has 2 fields; row 2 has 3"),
        ("a,1,2,3", "row 902 has 4 fields; row 2 has 3"),
        ("a,,2", 'row 902, column 2 ("U"): missing value'),
        ("a,1,2#", "row 902, column 3 (\"P\"): '2#' is not a number"),
        ("", "row 902 is empty"),
        ("a,1,inf", 'row 902, column 3 ("P"): inf is not a finite number'),
        ("the end", "row 902 has 1 field ('the end'); row 2 has 3"),
    ):
        path = written(tmp_path, "mine.csv", many + row + "\na,3,4\n")
        with pytest.raises(DataError) as caught:
            load_series(path)
        assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("rows", ["2024-01-02,3,4,5\n2024-01-03,6\n", "2024-01-02,3,4,5\n2024-01-03,6,7\n"])
def test_rows_of_other_widths_are_seen_beside_a_column_of_dates(tmp_path: Path, rows: str) -> None:
    # The first has as many separators in all as a table without a fault.
    (tmp_path / "x.csv").write_text(f"d,a,b\n2024-01-01,1,2\n{rows}", encoding="utf-8")
    with pytest.raises(DataError, match="row 3 has 4 fields; row 2 has 3"):
        load_series(tmp_path / "x.csv")


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "BLOCK", 20)
    path = written(tmp_path, "mine.csv", UP)
    told: list[tuple[int, int]] = []
    load_series(path, progress=lambda done, of: told.append((done, of)))
    assert len(told) > 3 and told[-1] == (len(UP), len(UP)) and told == sorted(told)


# Other kinds of file -------------------------------------------------------------------------------------------------


def test_packed_text_of_any_name(tmp_path: Path) -> None:
    text = "U\tP\n" + lines(lambda i: f"{U[i]}\t{P[i]}")
    for name in ("mine.tsv.gz", "mine.gz", "mine.csv.gz"):
        series = load_series(written(tmp_path, name, gzip.compress(text.encode())))
        np.testing.assert_array_equal(series.values, np.array([U, P]).T)
    for name in ("mine.tsv", "mine.txt", "mine.lvm", "mine"):
        assert load_series(written(tmp_path, name, text)).channels == ("U", "P")
    path = written(tmp_path, "cut.csv.gz", gzip.compress(text.encode())[:-12])
    with pytest.raises(DataError, match=r"cut\.csv\.gz: Compressed file ended"):
        load_series(path)


def test_arrays_of_one_length_are_one_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, t=np.arange(N), U=U, X=np.array([P, K]).T, rate=100.0)
    series = load_series(str(path))
    assert series.channels == ("U", "X 1", "X 2")
    np.testing.assert_array_equal(series.values, np.array([U, P, K]).T)
    assert series.notes == ("column 1 (t) counts by equal steps of 1: left out",)
    np.testing.assert_array_equal(load_series(str(path), array="X").values, np.array([P, K]).T)
    with pytest.raises(DataError, match=r"mine\.npz: no array 'Y'; there are: t \(10,\), U \(10,\), X \(10, 2\)"):
        load_series(str(path), array="Y")
    np.savez(path, X=np.zeros((4, 2)), Y=np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"several arrays: X \(4, 2\), Y \(3, 2\); say which with --array"):
        load_series(str(path))
    np.savez(path, name="text")
    with pytest.raises(DataError, match="holds no array of real numbers"):
        load_series(str(path))
    for content in (b"", b"PK\x03\x04 no", path.read_bytes()[:100]):
        with pytest.raises(DataError, match=r"cut\.npz: not a whole \.npz file"):
            load_series(written(tmp_path, "cut.npz", content))
    np.savez(path, X=np.array([None, 1], dtype=object))
    with pytest.raises(DataError, match="holds pickled objects, which are not loaded"):
        load_series(str(path))


def test_a_file_of_matlab(tmp_path: Path) -> None:
    import scipy.io

    path = tmp_path / "mine.mat"
    scipy.io.savemat(path, {"fs": 100.0, "U": np.array(U), "P": np.array(P)[:, None], "about": "text"})
    series = load_series(str(path))
    assert series.channels == ("U", "P")
    np.testing.assert_array_equal(series.values, np.array([U, P]).T)
    # What version 7.3 writes: a header of 512 bytes that says so, then HDF5.
    header = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    with pytest.raises(DataError, match=r"of MATLAB's version 7\.3, which is HDF5; save it with -v7"):
        load_series(written(tmp_path, "new.mat", header + bytes(512)))
    with pytest.raises(DataError, match=r"cut\.mat: not a whole \.mat file"):
        load_series(written(tmp_path, "cut.mat", b"MATLAB"))
    with pytest.raises(DataError, match=r"none\.mat: No such file or directory"):
        load_series(str(tmp_path / "none.mat"))


class Frame:
    """What reading a Parquet file asks of a frame of pandas: three columns, one of dates."""

    columns = ("day", "U", "P")
    values = np.array([U, P]).T

    class dtypes:  # noqa: N801
        iloc = ("datetime64[ns]", "float64", "float64")

    def __init__(self, picked: list[int] | None = None):
        self.picked = picked

    @property
    def iloc(self) -> Any:
        class Places:
            def __getitem__(self, index: Any) -> Frame:
                return Frame(index[1])

        return Places()

    def to_numpy(self, dtype: Any, na_value: float) -> Any:
        return Frame.values[:, [j - 1 for j in self.picked or ()]].astype(dtype)


def test_a_parquet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "mine.parquet", b"PAR1")

    class Pandas:
        class api:  # noqa: N801
            class types:  # noqa: N801
                @staticmethod
                def is_numeric_dtype(dtype: str) -> bool:
                    return dtype.startswith("float")

        error: Exception | None = None

        @classmethod
        def read_parquet(cls, name: str) -> Frame:
            if cls.error is not None:
                raise cls.error
            return Frame()

    monkeypatch.setitem(__import__("sys").modules, "pandas", Pandas)
    series = load_series(path)
    assert series.channels == ("U", "P") and series.notes == ("column 1 (day) holds text or dates: left out",)
    np.testing.assert_array_equal(series.values, np.array([U, P]).T)
    with pytest.raises(DataError, match=r"column 1 \(day\) holds datetime64\[ns\], no numbers"):
        load_series(path, ["all"])
    for error, message in (
        (ImportError("engine"), r"pandas needs pyarrow to read it: pip install pyarrow; or save it as \.csv"),
        (ValueError("magic"), "not a whole Parquet file"),
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
    ):
        Pandas.error = error
        with pytest.raises(DataError, match=message):
            load_series(path)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="a Parquet file needs pandas, which is not installed"):
        load_series(path)


def test_files_of_other_programs_and_folders(tmp_path: Path) -> None:
    for name, message in (
        ("mine.xlsx", r"a spreadsheet; save the sheet as \.csv"),
        ("mine.h5", r"an HDF5 file; read it with h5py, and numpy\.save the array"),
        ("mine.pkl", r"a pickle, which could run any code; numpy\.save the array"),
        ("mine.zip", r"an archive; unpack it first, or pack it as \.gz"),
    ):
        with pytest.raises(DataError, match=message):
            load_series(written(tmp_path, name, b"PK"))
    with pytest.raises(DataError) as caught:
        load_series(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: is a folder; name a file"
    written(tmp_path, "mine.csv", "1\n2\n")
    with pytest.raises(DataError) as caught:
        load_series(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: is a folder; name a file, {tmp_path / 'mine.csv'} for one"
    with pytest.raises(DataError, match="not a text file; known are"):
        load_series(written(tmp_path, "picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00"))


def test_an_array_is_filled_and_its_clock_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.npy"
    table = np.array([range(N), U, P], np.float64).T
    table[3, 1] = np.nan
    np.save(path, table)
    filled = read_npy(path, missing="interpolate")
    assert filled.channels == ("column 2", "column 3")
    assert filled.values[3, 0] == (U[2] + U[4]) / 2
    assert len(read_npy(path, missing="drop")) == N - 1
    assert read_npy(path, [1, 3]).channels == ("column 1", "column 3")


def test_skipped_channels_of_a_bundled_series() -> None:
    assert load_series("eeg", skip=["EEG 2", "4"]).channels == ("EEG 1", "EEG 3")
    assert load_series("eeg", ["2-3"]).channels == ("EEG 2", "EEG 3")
