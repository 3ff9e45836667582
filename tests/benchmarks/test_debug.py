"""The benchmark of the debug room counts and writes what it says. Nothing here depends on speed."""

import json

from benchmarks import debug


def test_smoke(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(debug, "shown", lambda path, T, rounds, frames: {"load_ms": 123.0, "frame_ms": 1.5})
    assert debug.main(["--smoke", "--json", str(tmp_path / "debug.json")]) == 0
    document = json.loads((tmp_path / "debug.json").read_text(encoding="utf-8"))
    assert (document["stepping"]["T"], document["stepping"]["H"]) == (12, 5)
    (row,) = document["pages"]
    assert row["T"] == 12
    assert 0.05 < row["megabytes"] < 0.2
    assert "load event after 123 ms" in capsys.readouterr().out


def test_without_a_browser_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(debug.shutil, "which", lambda name: None)
    assert debug.shown(tmp_path, 12, 1, 1) == {}
    assert "not measured" in debug.table([{"T": 12, "H": 5, "megabytes": 0.1, "write_s": 0.01}])
