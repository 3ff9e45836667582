"""Tables of numbers in text files, as instruments, spreadsheets and people write them.

A first look at some hundred rows finds the separator, the decimal mark, the header and where it ends: a `Dialect`. The
rest is read in blocks. A block goes to numpy.loadtxt; what that does not read, one field after the other, by `_slowly`,
which says what is wrong with which row and column. Where both read a block, both read the same numbers.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import operator
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DataError

Floats = NDArray[np.float64]

BLOCK = 2**18  # bytes that are read at once
LOOK = 400  # rows that the dialect is found from
HEADINGS = 4  # rows of a header, at most
FOOTER = 20  # rows of text below the table, at most

# Missing values as spreadsheets, pandas, R, databases and instruments write them.
_MISSING = {"", "nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "none", "nil", "-", "--", "?", ".", "-nan", "nat"}
_EXPONENT = r"(?:[eEdD][+-]?\d+)?"  # Fortran's D
# Python's float() also takes 1_000, which in a data file is a typing error rather than a number.
_POINT = re.compile(rf"[+-]?(?:\d+\.?\d*|\.\d+){_EXPONENT}|[+-]?(?:inf|infinity)", re.IGNORECASE)
_COMMA = re.compile(rf"[+-]?(?:\d+,?\d*|,\d+){_EXPONENT}")
# Thousands: commas before a decimal point, points before a decimal comma, blanks and apostrophes before either.
_BLANKS = " '\u00a0\u2009\u202f\u2019"
_GROUPS_POINT = re.compile(
    rf"[+-]?\d{{1,3}}(?:,\d{{3}})+(?:\.\d*)?|[+-]?[1-9]\d{{0,2}}(?:[{_BLANKS}]\d{{3}})+(?:\.\d*)?"
)
_GROUPS_COMMA = re.compile(
    rf"[+-]?\d{{1,3}}(?:\.\d{{3}})+(?:,\d*)?|[+-]?[1-9]\d{{0,2}}(?:[{_BLANKS}]\d{{3}})+(?:,\d*)?"
)
_MINUS = "\u2212"
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # 1,234: a thousand and more, or one and a bit
# Numbers with a unit, 5 %, $1.50, 21.5 °C; digits that are a date, 20240301 or 202403010810.
_PLAIN = r"(?:\d{1,3}(?:[',]\d{3})+|\d+)(?:[.,]\d+)?"
_MEASURED = re.compile(rf"[$€£¥]\s*[+-]?{_PLAIN}|[+-]?{_PLAIN}\s*(?:%|[$€£¥]|°?\s*[^\W\d_]{{1,4}})")
_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d\d){0,3}")
_RULE = re.compile(r"[\s|+:=-]*[-=]{2,}[\s|+:=-]*")  # of dashes, below the head of a table
_MARKUP = re.compile(r"\s*(?:[{]|<[!?a-zA-Z]|\[\s*[\[{\d])")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", None: "white space"}

Row = tuple[int, list[str]]  # its number in the file, from 1, and its fields


class Missing(NamedTuple):
    """A missing value: which sample, row of the file, column from 0, and what stands there."""

    sample: int
    row: int
    column: int
    text: str


@dataclass
class Dialect:
    """How a file writes its table.

    Attributes
    ----------
    separator : str, optional
        Of fields; None for any white space.
    decimal : {".", ","}
    thousands : bool
        Whether the other of the two stands between thousands.
    names : tuple of str
        Of all columns; "column 3" of one without a name.
    start : int
        Number of the first row of numbers.
    words : list of int
        Columns, from 0, that hold text in all rows looked at, or dates.
    empty : list of int
        Columns that hold nothing in these rows.
    spaced : bool
        Whether an empty row follows each row.
    notes : list of str
        What people should know of how it is read.
    """

    separator: str | None = ","
    decimal: str = "."
    thousands: bool = False
    names: tuple[str, ...] = ()
    start: int = 1
    words: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    spaced: bool = False
    notes: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------- rows of a file


class TextFile:
    """The rows of a text file, block after block: UTF-8, UTF-16 with its mark, or else the code page of Windows.

    `rows` are the first and the last row to read, by their numbers in the file.
    """

    def __init__(self, path: str | Path, rows: tuple[int, int] | None, progress: Callable[[int, int], None] | None):
        self.name, self.rows, self.progress = str(path), rows or (1, 2**62), progress
        self.encoding = "utf-8"

    def blocks(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the first row of a block, and its rows."""
        try:
            with open(self.name, "rb") as raw:
                size = raw.seek(0, 2)
                raw.seek(0)
                zipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                file: Any = gzip.open(raw) if zipped else raw
                yield from self._numbered(file, raw, size)
        except DataError:
            raise
        except (OSError, ValueError, EOFError, zlib.error) as error:  # EOFError: a gzip file that was cut off
            raise DataError(f"{self.name}: {getattr(error, 'strerror', None) or error}") from None

    def _numbered(self, file: IO[bytes], raw: IO[bytes], size: int) -> Iterator[tuple[int, list[str]]]:
        number, (first, last) = 1, self.rows
        for text in self._texts(file):
            lines = text.split("\n")
            if number > last:
                return
            if kept := lines[max(0, first - number) : last - number + 1]:
                yield max(number, first), kept
            number += len(lines)
            if self.progress is not None:
                self.progress(min(raw.tell(), size), size)

    def _texts(self, file: IO[bytes]) -> Iterator[str]:
        """Yield whole rows, decoded, with line feeds between them."""
        rest = file.read(BLOCK)
        if rest[:2] in (b"\xff\xfe", b"\xfe\xff"):
            rest = (rest + file.read()).decode("utf-16").encode()
        rest = rest.removeprefix(b"\xef\xbb\xbf")
        if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", rest[:65536]):
            raise DataError(f"{self.name}: not a text file; {KNOWN}")
        while rest:
            more = file.read(BLOCK)
            cut = rest.rfind(b"\n") + 1 if more else len(rest)
            # A quoted field may hold the end of a line.
            if not more or (cut and (b'"' not in rest or rest.count(b'"', 0, cut) % 2 == 0)):
                yield self._decoded(rest[:cut])
                rest = rest[cut:]
            rest += more

    def _decoded(self, block: bytes) -> str:
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        block = block.removesuffix(b"\n")
        try:
            return block.decode(self.encoding, "strict" if self.encoding == "utf-8" else "replace")
        except UnicodeDecodeError:
            self.encoding = "cp1252"  # names of columns alone depend on it: digits are the same
            return block.decode(self.encoding, "replace")


KNOWN = "known are .csv, .tsv, .txt and the like, also .gz; .npy, .npz, .mat, .parquet"


def _split(lines: list[str], first: int, separator: str | None) -> Iterator[Row]:
    """Yield rows with their numbers; of a row with line ends inside of quotes, that of its first line."""
    if separator is None:
        for i, line in enumerate(lines):
            yield first + i, [text.strip('"') for text in re.findall(r'"[^"]*"|\S+', line)]
        return
    reader = csv.reader([line + "\n" for line in lines], delimiter=separator)
    while True:
        try:
            row = first + reader.line_num
            yield row, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _BadRowError(first + reader.line_num - 1, str(error)) from None


class _BadRowError(Exception):
    def __init__(self, row: int, message: str):
        super().__init__(message)
        self.row, self.message = row, message


def is_missing(text: str) -> bool:
    """Tell whether a field says that there is no value."""
    return text.strip().lower() in _MISSING


def _is_number(text: str, dialect: Dialect | None = None) -> bool:
    text = text.strip().replace(_MINUS, "-")
    if dialect is None:
        return any(kind.fullmatch(text) for kind in (_POINT, _COMMA, _GROUPS_POINT, _GROUPS_COMMA))
    return _value(text, dialect) is not None


def _is_number_or_measured(text: str) -> bool:
    return _is_number(text) or _MEASURED.fullmatch(text) is not None


def _value(text: str, dialect: Dialect) -> float | None:
    """Return the number that a field writes, None where it writes none."""
    comma = dialect.decimal == ","
    text = text.replace(_MINUS, "-")
    if not (_COMMA if comma else _POINT).fullmatch(text):
        groups = (_GROUPS_COMMA if comma else _GROUPS_POINT).fullmatch(text)
        mark = "." if comma else ","
        if groups is None or (mark in text and not dialect.thousands):
            return None
        text = re.sub(f"[{_BLANKS}{mark}]", "", text)
    text = text.replace(",", ".") if comma else text
    return float(re.sub("[dD]", "e", text))


# -------------------------------------------------------------------------------------------------------- a first look


def look(file: TextFile, header: bool | None, decimal: str | None, separator: str | None) -> Dialect:
    """Find the dialect of a file from its first rows; what is not None is given."""
    name = file.name
    first, lines = next(file.blocks(), (1, [""]))
    lines = lines[: LOOK + 100]
    dialect = Dialect()
    told = re.fullmatch(r'"?sep=(.)"?;*', lines[0].strip(" ") if first == 1 else "", re.IGNORECASE)
    if told and separator is None:
        separator = told.group(1)
    kept = [
        (first + i, line)
        for i, line in enumerate(lines)
        if line.strip(" \t\r;,|") and not line.lstrip().startswith("#") and not (i == 0 and told)
    ]
    kept = [(row, line) for row, line in kept if not _RULE.fullmatch(line)][:LOOK]
    if not kept:
        raise DataError(f"{name}: the file has no rows")
    if _MARKUP.match(kept[0][1]):
        raise DataError(f"{name}: looks like JSON, HTML or XML rather than a table; {KNOWN}")
    if separator is None:
        dialect.separator = _separator(name, kept, decimal)
    else:
        dialect.separator = SPELLED.get(separator, separator)
    try:
        rows = _rows_of(kept, dialect.separator)
    except _BadRowError as error:
        raise DataError(f"{name}: row {error.row}: {error.message}") from None
    blank_before = [False] + [
        any(not line.strip(" \t\r;,|") for line in lines[a + 1 - first : b - first])
        for (a, _), (b, _) in itertools.pairwise(rows)
    ]
    head = _Head(rows, blank_before)
    headings, begin = head.find(header)
    body = rows[begin:]
    if not body:
        raise DataError(f"{name}: a header in row {headings[0][0]} and no data below it")
    if not headings and header is None:
        head.refuse_lost_names(name, begin, dialect.separator is None)
    width, dialect.start = head.width, body[0][0]
    if not headings and header is not False:
        headings = _names_in_comment(lines[: dialect.start - first], first, dialect.separator, width)
    dialect.names = _names(headings, width, dialect.notes)
    above = [row for row, _ in rows[:begin] if not headings or row < headings[0][0]]
    if above:
        dialect.notes.append(f"{_rows_named(above)} of text above the table: left out")
    dialect.spaced = len(body) > 2 and all(b - a > 1 for (a, _), (b, _) in itertools.pairwise(body))
    if dialect.spaced:
        dialect.notes.append("every other row is empty: left out")
    _find_decimal(name, dialect, body, decimal)
    columns = list(zip(*(fields for _, fields in body if len(fields) == width), strict=True))
    for j, column in enumerate(columns):
        there = [text.strip() for text in column if not is_missing(text)]
        if not there and len(body) > 1:
            dialect.empty.append(j)
        elif there and (all(map(_DATE.fullmatch, there)) or not any(map(_is_number_or_measured, there))):
            dialect.words.append(j)
    return dialect


SPELLED = {"tab": "\t", "\\t": "\t", "space": None, " ": None, "comma": ",", "semicolon": ";", "bar": "|"}


def _rows_of(kept: list[tuple[int, str]], separator: str | None) -> list[Row]:
    """Split some rows, between which others may have been left out."""
    if separator is None or not any('"' in line for _, line in kept):
        return [(number, fields) for number, line in kept for _, fields in _split([line], number, separator)]
    lines: list[str] = []
    for number, line in kept:  # put back what was left out, for the numbers
        lines += [""] * (number - kept[0][0] - len(lines)) + [line]
    return [row for row in _split(lines, kept[0][0], separator) if row[1]]


def _separator(name: str, kept: list[tuple[int, str]], decimal: str | None) -> str | None:
    """Return the separator that leaves the greatest part of fields numbers; of equals, the first in _SEPARATORS."""
    lines = [line for _, line in kept]
    candidates = list(_SEPARATORS)
    if decimal == "," and not any('"' in line for line in lines):
        candidates.remove(",")
    elif _is_one_column(name, kept, decimal):
        return ";"  # which is nowhere in it
    best: tuple[float, float] = (0.0, 0.0)
    chosen: str | None = ","
    for separator in candidates:
        try:
            rows = [fields for _, fields in _split(lines, 1, separator) if fields]
        except _BadRowError:
            continue
        rows = rows[len(rows) // 2 :]  # above may be text
        width = _usual(rows)
        usual = [fields for fields in rows if len(fields) == width]
        numbers = sum(_is_number(text) for fields in usual for text in fields)
        there = numbers + sum(is_missing(text) for fields in usual for text in fields)
        score = there / (len(rows) * width) if numbers else 0.0, numbers / len(rows)
        if width > 1 and score > best:
            best, chosen = score, separator
        elif width == 1 and separator is None and score[0] > best[0]:
            return "," if decimal != "," else ";"  # a single column
    if best[0] > 0:
        return chosen
    if decimal == "," and "," not in candidates:
        return ";"
    bare = re.sub(r'"[^"]*"', "", lines[0])
    return max(";\t|", key=bare.count) if re.search(r"[;\t|]", bare) else ","


def _is_one_column(name: str, kept: list[tuple[int, str]], decimal: str | None) -> bool:
    """Tell whether the commas of a file are the decimal marks of a single column; refuse it where nobody can know."""
    pairs = [re.fullmatch(r"\s*[+-]?(\d+),\d+\s*", line) for _, line in kept]
    if decimal is not None or not all(pairs[1:]) or not pairs[-1]:
        return False
    if not pairs[0]:
        return "," not in kept[0][1] and not any(mark in kept[0][1] for mark in ";\t|")  # one name, so one column
    if _counts([pair[1] for pair in pairs if pair]):
        return False  # the first of two columns
    row, line = kept[0]
    raise DataError(
        f"{name}: row {row}: {line.strip()!r} may be two whole numbers, or one with a decimal comma; "
        "say which: --decimal . or --decimal ,"
    )


def _counts(texts: list[str]) -> bool:
    """Tell whether fields are whole numbers that go up or down by equal steps."""
    if len(texts) < 3 or not all(re.fullmatch(r"[+-]?\d+", text) for text in texts):
        return False
    steps = {int(b) - int(a) for a, b in itertools.pairwise(texts)}
    return len(steps) == 1 and steps != {0}


def _usual(rows: list[list[str]]) -> int:
    """Return how many fields most rows have; of equals, the most."""
    counts = Counter(map(len, rows))
    return max(counts, key=lambda width: (counts[width], width))


def _kinds(rows: Sequence[Row], width: int) -> list[str]:
    """Return of each column whether it holds numbers, text or nothing, by the greater part of its rows."""
    kinds = []
    for j in range(width):
        there = [fields[j] for _, fields in rows if len(fields) == width and not is_missing(fields[j])]
        numbers = sum(map(_is_number, there))
        kinds.append("nothing" if not there else "numbers" if 2 * numbers >= len(there) and numbers else "text")
    return kinds


class _Head:
    """Finds where the data of a table begin, and which rows above them name the columns.

    Of the rows looked at, the lower half says how many fields a row has, and which columns hold numbers.
    """

    def __init__(self, rows: list[Row], blank_before: list[bool]):
        lower = rows[len(rows) // 2 :]
        self.rows, self.blank_before = rows, blank_before
        self.width = _usual([fields for _, fields in lower])
        self.numeric = [j for j, kind in enumerate(_kinds(lower, self.width)) if kind == "numbers"]

    def fits(self, i: int) -> bool:
        """Tell whether a row has as many fields as the data."""
        return 0 <= i < len(self.rows) and len(self.rows[i][1]) == self.width

    def numbers(self, i: int) -> int:
        """Return how many numbers a row has where the data have them."""
        return sum(_is_number(self.rows[i][1][j]) for j in self.numeric) if self.fits(i) else 0

    def is_data(self, i: int) -> bool:
        """Tell whether a row has numbers, or says that they are missing, wherever the data have them."""
        if not self.numbers(i):
            return False
        return all(_is_number(text) or is_missing(text) for text in (self.rows[i][1][j] for j in self.numeric))

    def is_title(self, i: int) -> bool:
        """Tell whether a row, above the data, may belong to the header."""
        fields = self.rows[i][1]
        return _is_heading(self.rows, i, self.width) if self.numbers(i) else not all(map(is_missing, fields))

    def find(self, header: bool | None) -> tuple[list[Row], int]:
        """Return the rows of the header, and the first of the data."""
        data = [i for i in range(len(self.rows)) if self.is_data(i)]
        begin = data[0] if data else next((i for i in range(len(self.rows)) if self.fits(i)), 0)
        if len(data) > 2 and data[1] == begin + 2 and data[2] == begin + 3 and not self.numbers(begin + 1):
            begin += 2  # a lone row of numbers in the text above the table
        # Rows with something wrong in them are rows of data, too; of them the reader will tell.
        while self.fits(begin - 1) and not self.is_title(begin - 1):
            begin -= 1
        if header is False:
            return [], begin
        top = begin
        while top > max(0, begin - HEADINGS) and self.fits(top - 1) and (top == begin or not self.blank_before[top]):
            if not self.is_title(top - 1):
                break
            top -= 1
        if top == begin and (header is True or _is_heading(self.rows, begin, self.width)):
            return [self.rows[begin]], begin + 1
        if top == begin:
            return self._of_another_width(begin), begin
        # The names are where most words are; what follows belongs to them, or is a row of data with no number in it.
        names = max(range(top, begin), key=lambda i: sum(not is_missing(text) for text in self.rows[i][1]))
        last = names + 1
        while last < begin and _is_more_of_it(self.rows, last, self.width):
            last += 1
        return self.rows[names:last], last

    def _of_another_width(self, begin: int) -> list[Row]:
        """Return a header with a field less or more than the data, by a known habit."""
        if not begin or self.blank_before[begin]:
            return []
        row, names = self.rows[begin - 1]
        table = [fields for _, fields in self.rows[begin:] if len(fields) == self.width]
        if any(map(_is_number, names)):
            return []
        if len(names) == self.width - 1 >= 1:
            if all(not fields[-1].strip() for fields in table):  # each row ends with a separator
                return [(row, [*names, ""])]
            first = [fields[0] for fields in table]
            if not any(map(_is_number, first)) or _counts(first):  # R does not name a column of row names
                return [(row, ["", *names])]
        return [(row, names[:-1])] if len(names) == self.width + 1 and not names[-1].strip() else []

    def refuse_lost_names(self, name: str, begin: int, blanks: bool) -> None:
        """Refuse what stands right above data without a header, and looks like one, or like data."""
        if not begin or self.blank_before[begin]:
            return
        row, above = self.rows[begin - 1]
        # White space separates the words of any sentence.
        near = len(above) > 1
        if blanks:
            near = abs(len(above) - self.width) <= 1 and not any(re.search(r"[=:]", text) for text in above)
        if near or any(map(_is_number, above)):
            raise DataError(
                f"{name}: row {self.rows[begin][0]} has {count(self.width, 'field')}; row {row} has {len(above)}"
                f"{_rows_advice(self.rows[begin][0], None)}"
            )


def _names_in_comment(lines: list[str], first: int, separator: str | None, width: int) -> list[Row]:
    """Return the names that a comment just above the data holds, as numpy.savetxt writes them."""
    last = next((i for i in reversed(range(len(lines))) if lines[i].strip()), -1)
    if last < 0 or not lines[last].lstrip().startswith("#"):
        return []
    _, fields = next(_split([lines[last].lstrip("# \t")], first + last, separator), (0, [""]))
    named = len(fields) == width and not any(_is_number(text) or is_missing(text) for text in fields)
    return [(first + last, fields)] if named else []


def _is_heading(rows: list[Row], i: int, width: int) -> bool:
    """Tell whether a row names the columns: it has words, or numbers of another kind than those below it."""
    fields = [text.strip() for text in rows[i][1]]
    below = [row for row in rows[i + 1 :] if len(row[1]) == width]
    numbers = [j for j in range(width) if _is_number(fields[j])]
    words = [j for j in range(width) if j not in numbers and not is_missing(fields[j])]
    if not numbers:
        # A first row of missing values alone is no header: it would be lost without a word.
        return bool(words)
    if not below or any(not re.fullmatch(r"\d+", fields[j]) for j in numbers):
        return False
    if 0 not in numbers and (fields[0] == "" or 0 in words) and _kinds(below, width)[0] == "numbers":
        return True  # Time,10,20
    titles = [int(fields[j]) for j in numbers]
    columns = [[text for _, row in below if not is_missing(text := row[j])] for j in numbers]
    if 0 in numbers or len(titles) < 2 or len(set(titles)) < len(titles):
        if 0 not in numbers or len(set(titles)) < len(titles) or width < 2:
            return False
    if any(not column or not all(map(_is_number, column)) for column in columns):
        return False
    if all(sum("." in text or "," in text for text in column) > len(column) / 2 for column in columns):
        return True  # whole numbers above broken ones
    steps = {b - a for a, b in itertools.pairwise(titles)}
    if len(steps) != 1 or any(not _POINT.fullmatch(text.strip()) for column in columns for text in column):
        return False
    values = [[float(text) for text in column] for column in columns]
    return all(
        title > max(column) + max(max(column) - min(column), 1) for title, column in zip(titles, values, strict=True)
    )  # years above counts


def _is_more_of_it(rows: list[Row], i: int, width: int) -> bool:
    """Tell whether a row below the header belongs to it, units perhaps: words where the columns below have numbers."""
    if i >= len(rows) - 1 or len(rows[i][1]) != width:
        return False
    below = [row for _, row in rows[i + 1 :] if len(row) == width]
    kinds, fields = _kinds(rows[i + 1 :], width), rows[i][1]
    words = [j for j in range(width) if not is_missing(fields[j])]
    if not words or any(map(_is_number, fields)):
        return False
    # Of columns that hold text, dates alone are told from their heading: they have digits.
    texts = [j for j in words if kinds[j] == "text"]
    digits = [sum(re.search(r"\d", row[j]) is not None for row in below) for j in texts]
    if any(re.search(r"\d", fields[j]) for j in texts) or any(many < 0.8 * len(below) for many in digits):
        return False
    return "numbers" in kinds


def _names(headings: list[Row], width: int, notes: list[str]) -> tuple[str, ...]:
    texts = [[" ".join(text.split("\n")).strip(" \t'") for text in fields] for _, fields in headings] or [[""] * width]
    first, *others = texts
    named = [text for text in first if text]
    if others and len(set(named)) < len(named):
        first = [" ".join(filter(None, parts)) for parts in zip(*texts, strict=True)]
        notes.append(f"{_rows_named([row for row, _ in headings])} are read as names, joined")
    elif others:
        shown = ", ".join(text for text in others[0] if text)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        are = "is" if len(others) == 1 else "are"
        notes.append(f"{_rows_named([row for row, _ in headings[1:]])} ({shown}) {are} read as units and left out")
    elif headings and any(map(_is_number, first)):
        notes.append(f"row {headings[0][0]} is read as names, though there are numbers in it (--header no: as data)")
    return tuple(text or f"column {j}" for j, text in enumerate(first, start=1))


def _rows_named(rows: list[int]) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    if rows[-1] - rows[0] == len(rows) - 1:
        return f"rows {rows[0]} {'and' if len(rows) == 2 else 'to'} {rows[-1]}"
    return f"rows {', '.join(map(str, rows[:6]))}{', ...' if len(rows) > 6 else ''}"


def _rows_advice(first: int | None, last: int | None) -> str:
    return f"; --rows {first or 1}-{'' if last is None else last} reads those rows alone"


def _find_decimal(name: str, dialect: Dialect, body: list[Row], decimal: str | None) -> None:
    """Find the decimal mark, and whether the other one stands between thousands; refuse what may be either."""
    rows = [(row, fields) for row, fields in body if len(fields) == len(dialect.names)]
    fields = [(row, j, text.strip()) for row, fields in rows for j, text in enumerate(fields)]
    commas = [(row, j, text) for row, j, text in fields if "," in text and _is_number(text)]
    surely_comma = [
        text
        for _, _, text in commas
        if (_GROUPS_COMMA.fullmatch(text) and not _GROUPS_POINT.fullmatch(text))
        or (_COMMA.fullmatch(text) and not _EITHER.fullmatch(text))
    ]
    surely_point = [text for _, _, text in commas if _GROUPS_POINT.fullmatch(text) and re.search(r"\.|,.*,", text)]
    many_points = [text for _, _, text in fields if text.count(".") > 1 and _GROUPS_COMMA.fullmatch(text)]
    if decimal is not None:
        dialect.decimal, dialect.thousands = decimal, True
        return
    if surely_comma and not surely_point:
        points = [text for _, _, text in fields if _POINT.fullmatch(text) and "." in text]
        dialect.decimal = "." if points and not all(_GROUPS_COMMA.fullmatch(text) for text in points) else ","
        dialect.thousands = any("." in text for text in surely_comma) or bool(many_points)
        if dialect.decimal == ",":
            dialect.notes.append("numbers are read with a decimal comma")
    elif many_points and not surely_point:
        dialect.decimal, dialect.thousands = ",", True
        dialect.notes.append("points are read as marks of thousands")
    elif surely_point:
        dialect.thousands = True
        dialect.notes.append("commas are read as marks of thousands")
    elif commas:
        row, j, text = commas[0]
        raise DataError(
            f"{name}: row {row}, column {j + 1}: {text!r} may be {text.replace(',', '')} or {text.replace(',', '.')}; "
            "say which of the two is the decimal mark: --decimal . or --decimal ,"
        )


# ------------------------------------------------------------------------------------------------------------ all of it


class Reader:
    """Reads the numbers of some columns of a file; `values`, `missing` and `notes` are there once it has."""

    def __init__(self, file: TextFile, dialect: Dialect, picked: Sequence[int], lenient: bool):
        self.file, self.dialect, self.picked, self.lenient = file, dialect, list(picked), lenient
        self.missing: list[Missing] = []
        self.notes: list[str] = []
        self._comments: list[int] = []
        self._aside: list[tuple[int, list[str]]] = []  # rows of text, which may stand below the table
        self._blank: list[int] = []  # samples of empty rows
        self._samples = 0
        self._quoted = False
        self.values = self._read()

    def _read(self) -> Floats:
        blocks = []
        for first, lines in self.file.blocks():
            if first + len(lines) <= self.dialect.start:
                continue
            lines = lines[max(0, self.dialect.start - first) :]
            first = max(first, self.dialect.start)
            values = None if self._aside or self._blank else self._fast(lines)
            blocks.append(self._slowly(first, lines) if values is None else values)
            self._samples += len(blocks[-1])
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return self._without_end(values)

    def _fast(self, lines: list[str]) -> Floats | None:
        """Return the numbers of a block, None where it takes a closer look."""
        dialect, width = self.dialect, len(self.dialect.names)
        if dialect.thousands:
            return None
        if dialect.decimal == ",":
            text = "\n".join(lines)
            if dialect.separator == "," or "." in text:
                return None
            lines = text.replace(",", ".").split("\n")
        some = len(self.picked) < width
        if some and not _is_even(lines, dialect.separator, width, width - 1 in self.picked):
            return None
        try:
            values = np.loadtxt(
                lines,
                delimiter=dialect.separator,
                usecols=self.picked if some or self.picked != sorted(self.picked) else None,
                comments=None,
                quotechar='"' if self._quoted else None,
                ndmin=2,
            )
        except (ValueError, OverflowError):
            if not self._quoted and not some and any('"' in line for line in lines):
                self._quoted = True
                return self._fast(lines)
            return None
        # It skips empty rows, and reads what is not finite.
        if values.shape != (len(lines), len(self.picked)) or not np.isfinite(values).all():
            return None
        return values

    def _slowly(self, first: int, lines: list[str]) -> Floats:
        """Return the numbers of a block, NaN where one is missing; DataError says what cannot be read, and where."""
        name, dialect, width = self.file.name, self.dialect, len(self.dialect.names)
        values: list[list[float]] = []
        lines = list(lines)
        for i, line in enumerate(lines):
            if line.lstrip().startswith("#"):
                self._comments.append(first + i)
                lines[i] = "\0"
        try:
            for row, fields in _split(lines, first, dialect.separator):
                if fields == ["\0"]:
                    continue
                sample = self._samples + len(values)
                if not any(text.strip() for text in fields):
                    if dialect.spaced and len(fields) < 2:
                        continue
                    self._blank.append(sample)
                    self.missing.append(Missing(sample, row, -1, ""))
                    values.append([math.nan] * len(self.picked))
                    continue
                if len(fields) != width and not any(map(_is_number, fields)):
                    self._aside.append((row, fields))
                    continue
                if self._aside or len(fields) != width:
                    self._complain_of_fields(row, fields)
                values.append([self._number(sample, row, j, fields[j].strip()) for j in self.picked])
        except _BadRowError as error:
            raise DataError(f"{name}: row {error.row}: {error.message}") from None
        return np.array(values, np.float64).reshape(len(values), len(self.picked))

    def _number(self, sample: int, row: int, j: int, text: str) -> float:
        if is_missing(text):
            self.missing.append(Missing(sample, row, j, text))
            return math.nan
        value = _value(text, self.dialect)
        if value is not None and math.isfinite(value):
            return value
        self.complain_of_missing()  # what comes first in the file is told first
        where = f"{self.file.name}: row {row}, {self._column(j)}"
        if value is not None:
            raise DataError(f"{where}: {text} is not a finite number")
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise DataError(f"{where}: {shown!r} is not a number{self._advice(row, text)}")

    def _advice(self, row: int, text: str) -> str:
        names = self.dialect.names
        if [text] == [name for name in names if name == text]:
            return f"; the header once more, as where two files were joined{_rows_advice(None, row - 1)}"
        if _is_number(text) or re.fullmatch(r"[+-]?\d+,\d+", text):
            return f"; say which is the decimal mark: --decimal . or --decimal , (here {self.dialect.decimal!r})"
        if _MEASURED.fullmatch(text):
            return "; leave the unit out of the numbers" + (f", or {CHOOSE}" if len(names) > 1 else "")
        return f"; {CHOOSE}" if len(names) > 1 else ""  # where it is the only column, there is nothing to choose

    def _column(self, j: int) -> str:
        name = self.dialect.names[j]
        return f"column {j + 1}" + ("" if name == f"column {j + 1}" else f' ("{name}")')

    def _complain_of_fields(self, row: int, fields: list[str]) -> None:
        self.complain_of_missing()
        row, fields = self._aside[0] if self._aside else (row, fields)
        start = self.dialect.start
        shown = f" ({fields[0].strip()[:37]!r})" if len(fields) == 1 and fields[0].strip() else ""
        raise DataError(
            f"{self.file.name}: row {row} has {count(len(fields), 'field')}{shown}; row {start} has "
            f"{len(self.dialect.names)}" + (_rows_advice(None, row - 1) if row > start else "")
        )

    def complain_of_missing(self) -> None:
        """Say where the first missing value is, unless these are to be filled or left out."""
        if self.lenient or not self.missing:
            return
        _, row, j, text = self.missing[0]
        if j < 0:
            raise DataError(f"{self.file.name}: row {row} is empty; {FILL}")
        shown = f" ({text})" if text else ""
        choose = f", or {CHOOSE}" if len(self.dialect.names) > 1 else ""
        raise DataError(f"{self.file.name}: row {row}, {self._column(j)}: missing value{shown}; {FILL}{choose}")

    def _without_end(self, values: Floats) -> Floats:
        """Take away empty rows at the end, and name what was left out."""
        end = len(values)
        while self._blank and self._blank[-1] == end - 1:
            end = self._blank.pop()
            self.missing = [missing for missing in self.missing if missing.sample < end]
        if len(self._aside) > FOOTER:
            self._complain_of_fields(*self._aside[0])
        if self._aside:
            self.notes.append(f"{_rows_named([row for row, _ in self._aside])} of text below the table: left out")
        if self._comments:
            many = len(self._comments) > 1
            self.notes.append(f"{_rows_named(self._comments)}, {'comments' if many else 'a comment'}: left out")
        if self.file.encoding != "utf-8":
            self.notes.append("the text is no UTF-8, and read as Windows-1252")
        return values[:end]


# Named as the command has them; to functions, options go under the same names.
CHOOSE = "leave the column out with --skip, or choose others with --columns"
FILL = "fill it first, or say --missing interpolate, or --missing drop"


def _is_even(lines: list[str], separator: str | None, width: int, last: bool) -> bool:
    """Tell whether all rows surely have as many fields; loadtxt looks no further than the columns it reads, and refuses
    a row that lacks one of them: where the `last` is read, no row may have fewer, and the sum tells of more.
    """
    text = "\n".join(lines)
    if '"' in text or "#" in text:
        return False
    if separator is None:
        return all(len(line.split()) == width for line in lines)
    if last:
        return text.count(separator) == (width - 1) * len(lines)
    return set(map(operator.methodcaller("count", separator), lines)) == {width - 1}
