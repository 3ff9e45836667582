"""The series that other packages bring: read where they lie, whole, and in the right order."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rnn_numpy.errors import DataError, MissingExtraError, OptionError
from rnn_numpy.tasks import BUNDLED, bundled, load_bundled, load_series


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("eeg", (800, 4)),
        ("stocks", (390, 7)),
        ("membrane", (12000, 1)),
        ("sunspots", (309, 1)),
        ("co2", (526, 1)),
        ("elnino", (732, 1)),
        ("nile", (100, 1)),
    ],
)
def test_bundled_series_are_real_and_whole(name: str, shape: tuple[int, int]) -> None:
    series = load_series(name)
    assert series.values.shape == shape
    assert series.values.dtype == np.float64
    assert np.isfinite(series.values).all()
    assert len(series.channels) == shape[1]
    assert series.description
    assert (series.values.std(axis=0) > 0).all()


def test_eeg_is_read_sample_by_sample() -> None:
    # Neighbouring samples of one electrode are alike; neighbours in a wrongly shaped table would not be.
    values = load_bundled("eeg").values
    steps = np.diff(values, axis=0).std(axis=0)
    assert (steps < 0.7 * values.std(axis=0)).all()


def test_stocks_are_logarithms_of_the_first_and_last_month() -> None:
    series = load_bundled("stocks")
    assert series.channels == ("IBM", "AAPL", "MSFT", "XRX", "ADBE", "^GSPC", "^IXIC")
    np.testing.assert_allclose(np.exp(series.values[0, 0]), 10.970438003540039, rtol=1e-13)
    np.testing.assert_allclose(np.exp(series.values[-1, -1]), 11181.5400390625, rtol=1e-13)
    assert series.description == "log monthly prices, 1990-01 to 2022-06"


def test_bundled_names_are_the_ones_listed() -> None:
    assert BUNDLED == ("eeg", "stocks", "membrane", "sunspots", "co2", "elnino", "nile")
    with pytest.raises(OptionError, match=r"load_bundled: name must be one of 'eeg', .* 'nile'; got 'ecg'"):
        load_bundled("ecg")


def test_missing_matplotlib_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.cbook", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        load_bundled("eeg")
    assert str(caught.value) == (
        'the series in eeg.dat needs matplotlib, which is not installed; install it with: pip install "rnn_numpy[lab]"'
    )


def test_sample_data_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matplotlib.cbook

    monkeypatch.setattr(matplotlib.cbook, "get_sample_data", lambda name, asfileobj: str(tmp_path / name))
    with pytest.raises(DataError, match="this matplotlib comes without its sample data"):
        load_bundled("eeg")
    np.zeros(7).tofile(tmp_path / "eeg.dat")
    with pytest.raises(
        DataError, match=r"eeg\.dat: expected 800 x 4 finite numbers of type float64; found 7, 7 of them"
    ):
        load_bundled("eeg")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # The first and the last lines of the files.
        ("sunspots", {0: 5.0, 1: 11.0, -2: 7.5, -1: 2.9}),
        ("nile", {0: 1120.0, 1: 1160.0, -2: 714.0, -1: 740.0}),
        ("elnino", {0: 23.11, 1: 24.2, 11: 21.8, 12: 24.19, -1: 22.07}),
        # Means of the weeks that there are: one of March 1958, four of April, three of May, four of July; none of June.
        (
            "co2",
            {
                0: 316.1,
                1: (317.3 + 317.6 + 317.5 + 316.4) / 4,
                3: ((316.9 + 317.5 + 317.9) / 3 + (315.8 + 315.8 + 315.4 + 315.5) / 4) / 2,
                -1: (370.3 + 370.8 + 371.2 + 371.3 + 371.5) / 5,
            },
        ),
    ],
)
def test_series_of_statsmodels_are_those_of_its_files(name: str, values: dict[int, float]) -> None:
    series = load_bundled(name)
    for place, value in values.items():
        assert series.values[place, 0] == pytest.approx(value, rel=1e-15)


def test_statsmodels_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "statsmodels", raising=False)
    load_bundled("nile")
    assert "statsmodels" not in sys.modules


def test_missing_statsmodels_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundled, "package_folder", lambda package, purpose: tmp_path)
    with pytest.raises(DataError, match="this statsmodels comes without its data sets"):
        load_bundled("co2")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    with pytest.raises(MissingExtraError) as caught:
        load_bundled("co2")
    assert str(caught.value) == (
        'the series co2 needs statsmodels, which is not installed; install it with: pip install "rnn_numpy[data]"'
    )


def test_times_are_in_the_unit_of_the_series() -> None:
    series = load_bundled("elnino")
    np.testing.assert_allclose(series.times[[0, 12, -1]], [1950, 1951, 2010 + 11 / 12], rtol=1e-15)
    assert (series.unit, series.season) == ("year", 12)
    assert load_bundled("membrane").times[0] == 1
