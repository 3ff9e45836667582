"""Rows from a gradient, its reference and what each entry may be off by."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_numpy import LSTM
from rnn_numpy.checks import gradcheck
from rnn_numpy.checks.report import UNDECIDED, Findings, Row, judged, kappas, rows_of, step_scales, undecided


def test_the_worst_entry_is_the_one_furthest_beyond_what_it_is_allowed() -> None:
    reference = np.array([1.0, 100.0, 10.0])
    found = reference + np.array([0.0625, 0.5, 0.0])
    assert judged(found, reference, np.array([0.03125, 1.0, 1.0])) == ((0,), 0.005, 0.0003125, "WRONG")
    assert judged(found, reference, np.array([0.0625, 1.0, 1.0]))[3] == "ok"


def test_what_is_allowed_nothing_must_be_exact() -> None:
    reference = np.zeros(3)
    assert judged(np.array([0.0, 1e-300, 2e-300]), reference, np.zeros(3)) == ((2,), np.inf, 0.0, "WRONG")
    assert judged(reference, reference, np.zeros(3)) == ((0,), 0.0, 0.0, "ok")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_entry_that_is_not_finite(bad: float) -> None:
    index, error, _, verdict = judged(np.array([[1.0, 2.0], [bad, bad]]), np.ones((2, 2)), np.full((2, 2), 9.0))
    assert index == (1, 0) and np.isnan(error) and verdict == "WRONG"


def test_numbers_at_both_ends_of_the_range() -> None:
    huge = np.array([1.7e308, -1.7e308])
    assert judged(-huge, huge, np.zeros(2))[3] == "WRONG"
    tiny = np.array([3e-308, 1e-308])
    assert judged(tiny * 1.5, tiny, tiny * 1e-12)[3] == "WRONG"
    assert judged(tiny, tiny, tiny * 1e-12)[3] == "ok"


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    array = np.ones(shape)
    (row,) = rows_of("w", {}, array, array, np.zeros(shape))
    assert (row.title, row.shape, row.verdict, row.error) == ("w", shape, "ok", 0.0)
    assert row.index == ((0,) * len(shape) if array.size else ())


def test_a_row_for_each_gate_with_indices_into_the_whole() -> None:
    reference = np.arange(1.0, 13.0).reshape(6, 2)
    found = reference.copy()
    found[4, 1] += 1
    gates = {"w": [("i", slice(0, 3)), ("f", slice(3, 6))]}
    rows = rows_of("w", gates, found, reference, np.full((6, 2), 0.5), kappa=found, note="told")
    assert [(row.title, row.index, row.verdict) for row in rows] == [
        ("w.i", (0, 0), "ok"),
        ("w.f", (4, 1), "WRONG"),
    ]
    assert (rows[1].analytic, rows[1].reference, rows[1].kappa, rows[1].note) == (11.0, 10.0, 11.0, "told")
    assert rows[1].error == 1 / 12  # relative to the largest of its own gate


def test_steps_have_scales_of_their_own() -> None:
    gradient = np.array([[[1e-30, 2e-30]], [[4.0, 3.0]]])
    scale = step_scales(gradient)
    assert np.array_equal(scale, [[[2e-30, 2e-30]], [[4.0, 4.0]]])
    (row,) = rows_of("x", {}, gradient * [[[1.5, 1.0]], [[1.0, 1.0]]], gradient, 1e-12 * scale, scale=scale)
    assert row.verdict == "WRONG" and row.index == (0, 0, 0) and abs(row.error - 0.25) < 1e-12


def test_how_much_cancels() -> None:
    assert np.array_equal(kappas(np.array([2.0, -1e-10]), np.array([6.0, 1.0])), [3.0, 1e10])
    assert np.isnan(kappas(np.zeros(1), np.ones(1))).all()


def test_what_is_not_decided() -> None:
    row = Row("w", None, (1,), 0.5, (0,), 1.0, 2.0, np.nan, 0.1, "WRONG", "kink")
    assert undecided(row).verdict == UNDECIDED and undecided(row).note == "kink" and row.verdict == "WRONG"


def test_further_tests_are_kept() -> None:
    findings = Findings("m", [], {})
    findings.add("Taylor", "2.00", True, 2.0)
    assert [(trial.name, trial.text, trial.ok, trial.value) for trial in findings.trials] == [
        ("Taylor", "2.00", True, 2.0)
    ]


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_report_is_as_wide_as_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LSTM(2, 3, 2, bidirectional=True, dtype=np.float32, rng=0)
    report = gradcheck(layer, np.random.default_rng(0).normal(size=(12, 2, 2)).astype(np.float32))
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = str(report).splitlines()
    assert columns - 10 < max(map(len, lines)) <= columns
    assert any("ok (15 digits)" in line for line in lines)
    assert ("worst at" in str(report)) == (columns > 60)
