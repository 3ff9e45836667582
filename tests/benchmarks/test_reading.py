"""The benchmark of reading: all read the same numbers, and a file says what was found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import reading
from benchmarks.contenders import OURS
from benchmarks.reading import LOADTXT


def test_smoke_asserts_equal_numbers_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    assert reading.main(["--smoke", "--rivals", LOADTXT, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    found = [(row["table"], row["contender"]) for row in rows]
    assert found == [
        *(("numbers", name) for name in (OURS, LOADTXT)),
        *(("dates", name) for name in (OURS, LOADTXT)),
        ("decimal commas", OURS),
        *(("quotes", name) for name in (OURS, LOADTXT)),
    ]
    assert all(row["seconds"][0] > 0 and row["bytes"][0] >= 0 for row in rows)
    assert "our time over loadtxt's at most 2: " in capsys.readouterr().out


def test_all_tables_hold_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = reading.written(tmp_path, 20)
    digests = {reading.read_once(OURS, str(path), kind)["digest"] for kind, path in tables.items()}
    assert len(digests) == 1
    monkeypatch.setitem(reading.CONTENDERS, LOADTXT, lambda path, kind: lambda: np.zeros((20, 6)))
    assert reading.read_once(LOADTXT, str(tables["numbers"]), "numbers")["digest"] not in digests


def test_other_numbers_are_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        def __init__(self, line: list[str], **_: object) -> None:
            self.stdout = json.dumps({"seconds": 1.0, "bytes": 1, "digest": line[line.index("--once") + 1]})

    monkeypatch.setattr(reading.subprocess, "run", Done)
    assert reading.main(["--smoke", "--rivals", LOADTXT]) == 1
    assert "numbers: not all have read the same numbers" in capsys.readouterr().err
