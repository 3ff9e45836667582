"""Series: the user's files, and the forecast task made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.tasks import ForecastTask, Series, load_bundled, load_series, read_csv, read_npy


def ramp(n: int, channels: int = 1) -> Series:
    values = np.arange(float(n))[:, None] * np.arange(1.0, channels + 1) + np.sin(np.arange(n))[:, None]
    return Series("ramp", values, tuple(f"c{j}" for j in range(channels)))


# CSV ----------------------------------------------------------------------------------------------------------------


def csv(folder: Path, text: str | bytes) -> str:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4.5\n",
        "a;b\n1;2\n3;4.5\n",
        "a\tb\n1\t2\n3\t4.5\n",
        "\ufeffa,b\r\n1,2\r\n3,4.5\r\n",
        "# made by hand\n\na,b\n1,2\n3,4.5",
        '"a","b"\n"1","2"\n 3 , 45e-1 \n\n\n',
        "a,b\r1,2\r3,4.5\r",
    ],
    ids=["comma", "semicolon", "tab", "bom-crlf", "comment", "quotes", "cr"],
)
def test_csv_dialects(tmp_path: Path, text: str) -> None:
    series = read_csv(csv(tmp_path, text))
    assert series.channels == ("a", "b")
    np.testing.assert_array_equal(series.values, [[1.0, 2.0], [3.0, 4.5]])


def test_separators_within_quotes_separate_nothing(tmp_path: Path) -> None:
    series = read_csv(csv(tmp_path, '"a;m","b\tm"\n1,2.5\n'))
    assert series.channels == ("a;m", "b\tm")


def test_csv_without_header_and_with_one_column(tmp_path: Path) -> None:
    series = load_series(csv(tmp_path, "1\n-2.5\n+.5\n1e3\n"))
    assert series.channels == ("column 1",)
    np.testing.assert_array_equal(series.values[:, 0], [1.0, -2.5, 0.5, 1000.0])


def test_csv_columns_by_name_and_number(tmp_path: Path) -> None:
    path = csv(tmp_path, "day,x,2\nMon,1,10\nTue,2,20\n".replace("2\nMon", "z\nMon"))
    for columns in (["z", "x"], [3, 2], ["3", "x"]):
        series = load_series(path, columns)
        assert series.channels == ("z", "x")
        np.testing.assert_array_equal(series.values, [[10.0, 1.0], [20.0, 2.0]])


@given(
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1, max_size=8)
)
def test_csv_gives_back_every_float(tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]]) -> None:
    path = csv(tmp_path_factory.mktemp("csv"), "p,q\n" + "".join(f"{a!r},{b!r}\n" for a, b in rows))
    np.testing.assert_array_equal(read_csv(path, ["all"]).values, rows)


CHOOSE = "; leave the column out with --skip, or choose others with --columns"
FILL = "; fill it first, or say --missing interpolate, or --missing drop"
OR_CHOOSE = FILL + ", or" + CHOOSE[1:]
BAD_CSV = {
    "text": ("a,temp\n1,2\n3,warm\n", "row 3, column 2 (\"temp\"): 'warm' is not a number" + CHOOSE),
    "text-no-header": ("1,2.5\n3,warm\n", "row 2, column 2: 'warm' is not a number" + CHOOSE),
    "text-alone": ("date\n2020-01-01\n", "row 2, column 1 (\"date\"): '2020-01-01' is not a number"),
    "comment-shifts-rows": ("# c\na,b\n1,2\n1,x\n", "row 4, column 2 (\"b\"): 'x' is not a number" + CHOOSE),
    "long-text": ("a\n" + "y" * 60 + "\n", f"row 2, column 1 (\"a\"): '{'y' * 37}...' is not a number"),
    "underscore": ("a\n1_000\n", "row 2, column 1 (\"a\"): '1_000' is not a number"),
    "unit": (
        "a;b\n1;5 %\n2;6 %\n",
        "row 2, column 2 (\"b\"): '5 %' is not a number; leave the unit out of the numbers, or" + CHOOSE[1:],
    ),
    "comma-among-points": (
        "a;b\n1.5;2\n2,5;3\n",
        "row 3, column 1 (\"a\"): '2,5' is not a number; "
        "say which is the decimal mark: --decimal . or --decimal , (here '.')",
    ),
    "comma-of-what": (
        "a;b\n1,234;2\n2,500;3\n",
        "row 2, column 1: '1,234' may be 1234 or 1.234; say which of the two is the decimal mark: "
        "--decimal . or --decimal ,",
    ),
    "pairs-of-what": (
        "1,15\n2,37\n5,20\n",
        "row 1: '1,15' may be two whole numbers, or one with a decimal comma; say which: --decimal . or --decimal ,",
    ),
    "empty-field": ("a,b\n1,\n", 'row 2, column 2 ("b"): missing value' + OR_CHOOSE),
    "nan": ("a,b\n1,NaN\n", 'row 2, column 2 ("b"): missing value (NaN)' + OR_CHOOSE),
    "na-first-row": ("NA,NA\n1.5,2\n", "row 1, column 1: missing value (NA)" + OR_CHOOSE),
    "missing-before-text": ("a,b\n1,2\n,3\n4,x\n", 'row 3, column 1 ("a"): missing value' + OR_CHOOSE),
    "infinite": ("a,b\n1,-inf\n", 'row 2, column 2 ("b"): -inf is not a finite number'),
    "too-large": ("a\n1e999\n", 'row 2, column 1 ("a"): 1e999 is not a finite number'),
    "ragged": ("a,b\n1,2\n3\n", "row 3 has 1 field ('3'); row 2 has 2; --rows 1-2 reads those rows alone"),
    "ragged-long": ("a,b\n1,2,3\n", "row 2 has 3 fields; row 1 has 2; --rows 2- reads those rows alone"),
    "ragged-text": (
        "a,b\n1,2\nstop\n3,4\n",
        "row 3 has 1 field ('stop'); row 2 has 2; --rows 1-2 reads those rows alone",
    ),
    "blank-inside": ("a,b\n1,2\n\n3,4\n", "row 3 is empty" + FILL),
    "blank-inside-one-column": ("a\n1\n\n3\n", "row 3 is empty" + FILL),
    "header-again": (
        "a,b\n1,2\na,b\n1,2\n",
        "row 3, column 1 (\"a\"): 'a' is not a number; the header once more, as where two files were joined; "
        "--rows 1-2 reads those rows alone",
    ),
    "empty": ("", "the file has no rows"),
    "only-blank": ("\n \n# nothing\n", "the file has no rows"),
    "header-only": ("a,b\n", "a header in row 1 and no data below it"),
    "not-text": (
        b"a,b\n\x00\xfe,1\n",
        "not a text file; known are .csv, .tsv, .txt and the like, also .gz; .npy, .npz, .mat, .parquet",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_names_row_and_column(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_csv(path)
    assert str(caught.value) == f"{path}: {message}"


def test_csv_field_beyond_the_limit_of_the_reader(tmp_path: Path) -> None:
    path = csv(tmp_path, "a\n1\n" + "9" * 200_000 + "\n")
    with pytest.raises(DataError, match="row 3: field larger than field limit"):
        read_csv(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["b"], "no column 'b'; columns are: day, x"),
        ([0], "no column '0'; columns are: day, x"),
        (["3"], "no column '3'; columns are: day, x"),
        (["x", 2], "column 2 is asked for twice"),
        ([], "no column is left"),
    ],
)
def test_csv_bad_columns(tmp_path: Path, columns: list[str | int], message: str) -> None:
    path = csv(tmp_path, "day,x\nMon,1\n")
    with pytest.raises(DataError) as caught:
        read_csv(path, columns)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(("name", "word"), [("none.csv", "No such file"), ("none.npy", "No such file")])
def test_missing_file(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        load_series(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    for name in ("folder.csv", "folder.npy"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="is a folder; name a file"):
            load_series(str(tmp_path / name))


def test_unknown_source() -> None:
    with pytest.raises(DataError) as caught:
        load_series("eggs")
    known = "eeg, stocks, membrane, sunspots, co2, elnino, nile"
    assert str(caught.value).startswith(f"eggs: neither one of {known} nor a file; known are .csv, .tsv, ")
    with pytest.raises(DataError, match=r"data\.xlsx: a spreadsheet; save the sheet as \.csv"):
        load_series("data.xlsx")


# NPY ----------------------------------------------------------------------------------------------------------------


def npy(folder: Path, array: object) -> str:
    path = folder / "data.npy"
    np.save(path, np.asarray(array), allow_pickle=True)
    return str(path)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, ">f8"])
def test_npy_becomes_float64(tmp_path: Path, dtype: str) -> None:
    series = load_series(npy(tmp_path, np.array([[1, 2], [3, 4], [5, 6]], dtype)))
    assert series.values.dtype == np.float64
    assert series.channels == ("column 1", "column 2")
    np.testing.assert_array_equal(series.values, [[1, 2], [3, 4], [5, 6]])
    assert load_series(npy(tmp_path, np.asfortranarray(np.eye(3))), [2]).values.shape == (3, 1)


def test_npy_with_one_axis_is_one_channel(tmp_path: Path) -> None:
    assert read_npy(npy(tmp_path, [1.0, 2.0, 3.0])).values.shape == (3, 1)


BAD_NPY = {
    "axes": (np.zeros((2, 3, 4)), "the array must have shape (n, D) or (n,); got (2, 3, 4)"),
    "scalar": (np.float64(1.0), "the array must have shape (n, D) or (n,); got ()"),
    "text": (np.array(["a", "b"]), "the array must hold real numbers; got dtype <U1"),
    "complex": (np.array([1j]), "the array must hold real numbers; got dtype complex128"),
    "bool": (np.array([True]), "the array must hold real numbers; got dtype bool"),
    "empty": (np.zeros((0, 3)), "the array is empty, shape (0, 3)"),
    "nan": (np.array([[1.0, 2.0], [3.0, np.nan]]), "row 2, column 2: nan is not a finite number" + FILL),
    "infinite": (np.array([-np.inf]), "row 1, column 1: -inf is not a finite number"),
    "objects": (
        np.array([1, None], dtype=object),
        "not an array of numbers written by numpy.save (pickled objects are not loaded)",
    ),
}


@pytest.mark.parametrize(("array", "message"), BAD_NPY.values(), ids=BAD_NPY)
def test_bad_npy(tmp_path: Path, array: object, message: str) -> None:
    path = npy(tmp_path, array)
    with pytest.raises(DataError) as caught:
        read_npy(path)
    assert str(caught.value) == f"{path}: {message}"


def test_npy_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    whole = Path(npy(tmp_path, np.zeros(100))).read_bytes()
    for content in (b"", b"1,2,3\n", whole[:200], whole[:9]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"data\.npy: not "):
            read_npy(path)
    for damage in (b" ", b"\x00", b"(", b"'"):
        path.write_bytes(whole.replace(b"}", damage))
        with pytest.raises(DataError, match=r"data\.npy: not a complete \.npy file"):
            read_npy(path)
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(DataError, match="holds several arrays"):
        read_npy(path)


# The task -----------------------------------------------------------------------------------------------------------


def test_standardised_by_the_training_part_alone() -> None:
    series = load_bundled("eeg")
    task = ForecastTask.of(series, 200)
    assert task.split == 640
    np.testing.assert_allclose(task.values[:640].mean(axis=0) + 1, 1, rtol=1e-14)
    np.testing.assert_allclose(task.values[:640].std(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(task.values * task.scale + task.mean, series.values, rtol=1e-11)
    # What comes after the split does not matter.
    changed = Series("eeg", np.concatenate([series.values[:640], series.values[640:] * 100]), series.channels)
    np.testing.assert_array_equal(ForecastTask.of(changed, 200).values[:640], task.values[:640])


def test_numbers_near_the_end_of_the_float_range() -> None:
    base = np.sin(np.arange(40.0))[:, None]
    expected = ForecastTask.of(Series("wave", base, ("a",)), 5).values
    for factor in (2.0**1000, 2.0**-1000):
        task = ForecastTask.of(Series("wave", base * factor, ("a",)), 5)
        np.testing.assert_array_equal(task.values, expected)


def test_a_held_out_sample_beyond_all_measure() -> None:
    values = np.sin(np.arange(50.0))[:, None] * 1e-9
    values[47] = 1e300
    with pytest.raises(DataError) as caught:
        ForecastTask.of(Series("s", values, ("a",)), 10)
    assert str(caught.value) == 's: sample 48 of column 1 ("a") is too far from the training part to be standardised'


@given(st.integers(3, 80), st.integers(1, 40), st.floats(0.05, 0.95))
def test_every_held_out_sample_is_forecast_once_and_training_never_sees_it(
    n: int, length: int, held_out: float
) -> None:
    series = ramp(n)
    if n < length + 2:
        with pytest.raises(DataError, match="too short"):
            ForecastTask.of(series, length, held_out)
        return
    task = ForecastTask.of(series, length, held_out)
    windows = task.held_out_windows()
    assert windows.x.shape == windows.target.shape == (*windows.mask.shape, 1)
    counted = np.sort(windows.target[windows.mask][:, 0])
    np.testing.assert_array_equal(counted, np.sort(task.values[task.split :, 0]))
    assert task.values[task.split - 1].max() < task.values[task.split :].min() or n < 10
    spread = task.spread_windows(7)
    drawn = task.random_windows(50, np.random.default_rng(0))
    for trained in (spread, drawn):
        assert trained.mask.all()
        assert set(trained.target.ravel()) <= set(task.values[: task.split].ravel())
    # The spread windows touch both ends of the training part, and no two are the same.
    assert spread.x[0, 0, 0] == task.values[0, 0]
    if spread.x.shape[1] > 1:
        assert spread.target[-1, -1, 0] == task.values[task.split - 1, 0]
        assert len(set(spread.x[0, :, 0])) == spread.x.shape[1]


def test_targets_are_the_next_inputs() -> None:
    task = ForecastTask.of(ramp(30, 3), 6)
    windows = task.windows([0, 5])
    assert windows.x.shape == (6, 2, 3)
    np.testing.assert_array_equal(windows.x[1:], windows.target[:-1])
    np.testing.assert_array_equal(windows.x[:, 1], task.values[5:11])


def test_baseline_by_hand() -> None:
    task = ForecastTask.of(load_bundled("eeg"), 200)
    by_hand = np.mean((task.values[640:] - task.values[639:-1]) ** 2)
    np.testing.assert_allclose(task.repeat_last_loss(task.held_out_windows()), by_hand, rtol=1e-14)


def test_windows_that_leave_the_series() -> None:
    task = ForecastTask.of(ramp(20), 5)
    for starts in ([], [-1], [15]):
        with pytest.raises(OptionError, match=r"starts must be in \[0, n - T - 1\] = \[0, 14\], at least one"):
            task.windows(starts)


def test_series_too_short() -> None:
    with pytest.raises(DataError) as caught:
        ForecastTask.of(ramp(100), 200)
    assert str(caught.value) == (
        "ramp: 100 samples, too short for a length of 200, which needs 202; use a length of at most 98"
    )
    with pytest.raises(DataError, match=r"1 sample, too short .* at least 3 samples are needed$"):
        ForecastTask.of(ramp(1), 1)
    with pytest.raises(DataError, match=r"use a length of at most 2 \(is the table lying on its side\? time runs down"):
        ForecastTask.of(ramp(4, 50), 20)


@pytest.mark.parametrize("value", [0.0, 3.7, 0.1, 1e300])
def test_constant_channel(value: float) -> None:
    values = np.stack([np.sin(np.arange(50.0)), np.full(50, value)], axis=1)
    values[45:, 1] += 1.0  # constant over the training part is what counts
    with pytest.raises(DataError) as caught:
        ForecastTask.of(Series("s", values, ("sin", "flat")), 10)
    assert str(caught.value) == (
        's: column 2 ("flat") is constant over the training part (the first 40 samples) and cannot be standardised; '
        "leave it out"
    )


@pytest.mark.parametrize(
    ("length", "held_out", "word"), [(0, 0.2, "length"), (5, 0.0, "held_out"), (5, 1.0, "held_out")]
)
def test_bad_options_of_the_task(length: int, held_out: float, word: str) -> None:
    with pytest.raises(OptionError, match=f"ForecastTask.of: {word} must be"):
        ForecastTask.of(ramp(20), length, held_out)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float64_are_refused_without_a_warning(tmp_path: Path) -> None:
    # Where a long double is no wider than a double, 1e400 is infinite from the start: the message is the same.
    with np.errstate(over="ignore"):
        path = npy(tmp_path, np.array([1.0, np.longdouble("1e400")]))
    with pytest.raises(DataError, match="row 2, column 1: inf is not a finite number"):
        read_npy(path)
