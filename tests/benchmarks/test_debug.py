"""The benchmark of the debug room counts and writes what it says. Nothing here depends on speed."""

import json

import pytest
from frameworks import marked

from benchmarks import debug
from benchmarks.cases import Case
from benchmarks.measure import UnequalResultsError, differences, require_equal


@pytest.mark.parametrize("torch", marked("torch"))
def test_smoke(torch, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(debug, "shown", lambda path, T, rounds, frames: {"load_ms": 123.0, "frame_ms": 1.5})
    assert debug.main(["--smoke", "--json", str(tmp_path / "debug.json")]) == 0
    document = json.loads((tmp_path / "debug.json").read_text(encoding="utf-8"))
    assert (document["stepping"]["T"], document["stepping"]["H"]) == (12, 5)
    for which in ("record", "record_with_forward", "record_without_loop"):
        differences = document[which]["largest_relative_difference"][torch]
        assert {"dx", "dweight_hh_l0", *(f"d{name}" for name in debug.RECORDED)} < set(differences)
        assert max(differences.values()) < 1e-12
    (row,) = document["pages"]
    assert row["T"] == 12
    assert 0.05 < row["megabytes"] < 0.2
    assert "load event after 123 ms" in capsys.readouterr().out


def test_without_a_browser_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(debug.shutil, "which", lambda name: None)
    assert debug.shown(tmp_path, 12, 1, 1) == {}
    assert "not measured" in debug.table([{"T": 12, "H": 5, "megabytes": 0.1, "write_s": 0.01}])


@pytest.mark.parametrize("torch", marked("torch"))
def test_unequal_records_are_not_timed(torch, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as a worker has it
    case, found = Case("lstm", (6, 2, 3, 4), "float64"), []
    for contender in (debug.Stepped(), debug.Retained()):
        contender.load(case)
        contender.step()  # results begin anew
        found.append(contender.results([]))
    require_equal(case, torch, differences(*found))
    found[0]["da_f"] = found[0]["da_f"] * (1 + 1e-6)
    with pytest.raises(UnequalResultsError, match="da_f differs by"):
        require_equal(case, torch, differences(*found))
