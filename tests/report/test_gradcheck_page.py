"""What a check says: on a terminal, to a program, and in the tables of the command."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy.checks.report import Check, Diagnosis, GradcheckReport, Row, shortened
from rnn_numpy.errors import GradientCheckError
from rnn_numpy.report.gradcheck_page import checks_table, checks_text, named, zoo_text
from rnn_numpy.report.tables import listed, new_table, paragraph, plain, rendered, short


def row(name: str = "w", verdict: str = "ok", error: float = 1e-15, **parts: Any) -> Row:
    given = {"gate": None, "shape": (3,), "index": (1,), "analytic": 1.0, "reference": 1.0, "kappa": math.nan}
    return Row(name=name, error=error, verdict=verdict, allowed=1e-14, **given | parts)


def report(*rows: Row, **parts: Any) -> GradcheckReport:
    return GradcheckReport("a function of 1 array, 3 entries", "complex step", list(rows or [row()]), **parts)


# ---------------------------------------------------------------------------------------------- the report


def test_the_whole_of_a_report() -> None:
    diagnosis = Diagnosis("sign", "w: the negative of the right gradient", "going back from t = 3")
    found = report(
        row(kappa=2.5),
        row("bias", "WRONG", 2.0, analytic=-1.0, gate="f", index=(4,)),
        row("x", "undecided", math.nan, note="kink", shape=(2, 3), index=(0, 1)),
        trials=[Check("Taylor", "1.00 1.00", False, [1.0, 1.0])],
        diagnosis=diagnosis,
        notes=["said besides"],
        seed=3,
    )
    assert repr(found) == "\n".join(
        [
            "gradcheck a function of 1 array, 3 entries",
            "method: complex step; reproducible: seed 3, bitwise",
            "tensor  shape    error  worst at     analytic   reference    κ  verdict",
            "w       (3,)   1.0e-15  [1]        1.0000e+00  1.0000e+00  2.5  ok (15 digits)",
            "bias.f  (3,)   2.0e+00  [4]       -1.0000e+00  1.0000e+00    -  WRONG",
            "x       (2,3)      nan  [0,1]      1.0000e+00  1.0000e+00    -  undecided kink",
            "  why : sign: w: the negative of the right gradient",
            "  when: going back from t = 3",
            "Taylor 1.00 1.00 ✗",
            "note: said besides",
            "FAILED",
        ]
    )
    assert str(diagnosis) == "sign: w: the negative of the right gradient; going back from t = 3"


@pytest.mark.parametrize(
    "parts",
    [
        {"rows": [row("w", "WRONG")]},
        {"rows": [row("w", "undecided"), row("v", "WRONG")]},
        {"trials": [Check("RTRL", "1e-3", False, 1e-3)]},
        {"reproducible": False},
        {"diagnosis": Diagnosis("input modified", "x")},
    ],
)
def test_whatever_is_wrong_fails(parts: dict[str, Any]) -> None:
    found = report(**{"diagnosis": None} | {name: value for name, value in parts.items() if name != "rows"})
    found.rows = parts.get("rows", found.rows)
    assert not found.ok and repr(found).endswith("\nFAILED")
    with pytest.raises(GradientCheckError) as caught:
        found.raise_if_failed()
    assert str(caught.value) == f"the gradient check failed\n{found!r}"
    assert report().ok and repr(report()).endswith("\nok")


def test_what_is_not_decided_is_neither_right_nor_wrong() -> None:
    found = report(diagnosis=None)
    found.rows = [row("w", "undecided"), row("v", "ok")]
    assert not found.ok and found.verdict == "undecided" and found.to_dict()["verdict"] == "undecided"
    assert repr(found).endswith("\nundecided")
    with pytest.raises(GradientCheckError, match=r"^the gradient check decided nothing\n"):
        found.raise_if_failed()
    text = checks_text([("mine", found)], verbose=False)
    assert text.endswith("Undecided: mine; nothing is seen to be wrong, see the notes.\n")


names = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="._"), min_size=1, max_size=150)


@given(st.lists(st.tuples(names, st.lists(st.integers(0, 10**4), max_size=4)), min_size=1, max_size=4), names)
def test_no_line_is_longer_than_100_columns(tensors: list[tuple[str, list[int]]], long: str) -> None:
    found = report(*(row(name, shape=tuple(shape), index=tuple(shape), kappa=1e12) for name, shape in tensors))
    found.subject = f"{long} {long}"
    found.notes = [long, f"{long} {long} {long}"]
    found.diagnosis = Diagnosis("unknown", long)
    assert max(map(len, repr(found).splitlines())) <= 100


def test_a_title_that_is_too_long_has_a_line_of_its_own() -> None:
    lines = repr(report(row("w"), row("n" * 70), row("m" * 170))).splitlines()
    assert lines[2:4] == [
        "tensor  shape    error  worst at    analytic   reference  verdict",
        "w       (3,)   1.0e-15  [1]       1.0000e+00  1.0000e+00  ok (15 digits)",
    ]
    assert lines[4] == "n" * 70 and lines[5] == " " * 8 + lines[3][8:]
    assert len(lines[6]) == 100 and lines[7] == lines[5]


def test_long_names_keep_their_ends() -> None:
    assert shortened("weight") == "weight" and shortened("a" * 100) == "a" * 100
    cut = shortened("encoder." + "x" * 200 + ".bias")
    assert len(cut) == 100 and cut.startswith("encoder.") and cut.endswith(".bias") and "..." in cut


def test_numbers_for_programs_are_standard_json() -> None:
    found = report(
        row(error=math.inf, analytic=math.nan, index=(np.int64(2),)),
        trials=[Check("Taylor", "-", True, [math.nan, np.float64(2.0)])],
        diagnosis=Diagnosis("sign", "w", where={"t": np.int64(3), "layer": "l0", "factor": math.inf}),
        kinks=[SimpleNamespace(name="w", index=(0,), left=0.0, right=math.inf)],
    )
    text = json.dumps(found.to_dict(), allow_nan=False)
    numbers = json.loads(text)
    assert numbers["error"] is None and numbers["growth"] is None and numbers["ok"] is False
    assert numbers["rows"][0]["index"] == [2] and numbers["rows"][0]["digits"] == 0
    assert numbers["trials"] == [{"name": "Taylor", "text": "-", "ok": True, "value": [None, 2.0]}]
    assert numbers["diagnosis"]["where"] == {"t": 3, "layer": "l0", "factor": None}
    assert numbers["kinks"] == [{"name": "w", "index": [0], "left": 0.0, "right": None}]


def test_rows_by_title_and_their_digits() -> None:
    found = report(row(), row("bias", gate="f", error=3e-4))
    assert found["bias.f"].digits == 3 and found["w"].digits == 15
    assert row(error=0.0).digits == 16 and row(error=1.0).digits == 0 and row(error=math.nan).digits == 0
    with pytest.raises(KeyError, match=r"'bias'; rows are w, bias\.f"):
        found["bias"]


# ---------------------------------------------------------------------------------------------- tables of the command


def test_a_line_for_each_check() -> None:
    trials = [Check("Taylor", "2.00 3.00", True, 2.0)]
    text = checks_table(
        [
            ("one", report(row(error=2e-15), row("b", error=1e-16), trials=trials)),
            ("two", report(row("b", "WRONG", math.nan))),
        ]
    )
    assert [line.split() for line in text.splitlines()[-2:]] == [
        ["one", "2", "2.0e-15", "w", "14", "2.00", "3.00", "ok"],
        ["two", "1", "-", "b", "0", "-", "FAILED"],
    ]


def test_the_sentence_at_the_end() -> None:
    right, wrong = report(row(error=2e-15)), report(row("b", "WRONG", 1.0))
    text = checks_text([("one", right), ("two", right)], verbose=False)
    assert text.endswith(
        "All right: 2 checks, 6 entries compared one by one, the worst off by 2.0e-15 of the largest of its\ntensor.\n"
    )
    assert repr(right) not in text and repr(right) in checks_text([("one", right)], verbose=True)
    text = checks_text([("one", right), ("two", wrong)], verbose=False)
    assert text.endswith("FAILED: two.\n") and repr(wrong) in text and repr(right) not in text
    right.method = "complex step along random directions"
    assert "3 entries in all, checked along random directions" in checks_text([("one", right)], verbose=False)


def test_columns_are_explained_where_they_stand() -> None:
    assert "Taylor" not in checks_text([("one", report())], verbose=False)
    with_trial = report(trials=[Check("RTRL", "1e-16", True, 1e-16)])
    text = checks_text([("one", with_trial)], verbose=False)
    assert "RTRL: the gradient against real-time recurrent learning." in " ".join(text.split())


def specimen(name: str, diagnosis: str, *also: str) -> Any:
    return SimpleNamespace(name=name, diagnosis=diagnosis, also=also, mistake="it is wrong", origin="a book")


def test_the_zoo() -> None:
    where = {"layer": "l0", "gate": "f", "t": 29, "k": 3}
    found: Any = [
        (specimen("right", "sign"), report(row("w", "WRONG"), diagnosis=Diagnosis("sign", "w", where=where))),
        (specimen("other", "sign", "clipped"), report(row("w", "WRONG"), diagnosis=Diagnosis("clipped", "w"))),
        (
            specimen("misnamed", "sign"),
            report(row("w", "WRONG"), row("b", "WRONG"), diagnosis=Diagnosis("clipped", "")),
        ),
        (specimen("quiet", "input modified"), report(diagnosis=Diagnosis("input modified", "x"))),
        (specimen("missed", "sign"), report()),
    ]
    text = zoo_text(found, verbose=False)
    assert [line.split() for line in text.splitlines()[2:7]] == [
        ["right", "caught", "l0.f", "(29,", "3)", "sign"],
        ["other", "caught", "w", "clipped"],
        ["misnamed", "caught", "w", "+", "1", "clipped", "(is:", "sign)"],
        ["quiet", "caught", "-", "input", "modified"],
        ["missed", "-", "-", "-", "(is:", "sign)"],
    ]
    assert text.endswith(
        "4 of 5 wrong backward passes were caught, 3 with the right diagnosis (60 %). --verbose shows each\nmistake "
        "and its report.\n"
    )
    assert [named(*pair) for pair in found] == [True, True, False, True, False]
    verbose = zoo_text(found, verbose=True)
    assert "missed: it is wrong (a book)\ngradcheck a function" in verbose and "--verbose" not in verbose


# ---------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("value", [0.0, 1.5, -1.5e-5, 1e-300, -1.7e308, 5e-324, math.inf, -math.inf, math.nan, None])
def test_numbers_are_short(value: float | None) -> None:
    assert len(short(value)) <= 7 or value in (-1.5e-5, -1.7e308)
    assert plain(value) == short(value) or 1e-3 <= abs(value or 0) < 1e5


def test_a_table_looks_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def text() -> str:
        table = new_table()
        table.add_column("name")
        table.add_column("value")
        table.add_row("weight " * 20, "[b]1.5[/b]")
        return rendered(table)

    before = text()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert text() == before and max(map(len, before.splitlines())) <= 100
    assert all(line == line.rstrip() for line in before.splitlines())


def test_columns_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def widths() -> tuple[int, int, int]:
        narrow, wide = new_table(), new_table()
        narrow.add_row("weight", "1.2345")
        wide.add_row(*["1.2345678"] * 7)
        sentence = paragraph("a word " * 50)
        return tuple(max(map(len, text.splitlines())) for text in (rendered(narrow), rendered(wide), sentence))

    monkeypatch.delenv("COLUMNS", raising=False)
    narrow, wide, sentence = widths()
    assert 60 < wide <= 100 and 93 < sentence <= 100
    for columns, expected in (("50", 50), ("140", 140), ("7", 40), ("", 100), ("wide", 100), ("0", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        assert widths()[:2] == (narrow, wide)  # numbers are not cut off
        assert expected - 7 < widths()[2] <= expected


def test_paragraphs_and_lists() -> None:
    assert paragraph("word " * 50).splitlines()[0] == "word " * 19 + "word"
    assert listed(["i"]) == "i" and listed(["i", "f"]) == "i and f" and listed(["i", "f", "o"]) == "i, f and o"
