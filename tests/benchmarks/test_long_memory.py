"""The program that shows memory and time of long sequences: it runs, and unequal results are an error."""

import json

import numpy as np
import pytest

from benchmarks import long_memory


def test_it_runs_and_keeps_its_figures(tmp_path, capsys):
    assert long_memory.main(["--smoke", "--kinds", "RNN", "--json", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["T"] for row in rows] == [3000, 6000]
    for row in rows:
        assert row["differences"]["ordinary"]["dx"] == 0
        assert row["ratio"] > 0 and 10 < row["checkpointed"]["peak_MB"] < 600
    assert "peak at most" in capsys.readouterr().out


def test_memory_is_the_own_process_s(tmp_path):
    """However much its parent has."""
    held = np.ones(2**26)  # 512 MiB
    assert long_memory.measured("checkpointed", "RNN", 100, tmp_path)["peak_MB"] < held.nbytes / long_memory.MB / 2


def test_other_results_are_an_error(tmp_path, monkeypatch):
    def measured(contender, kind, steps, folder):
        np.savez(folder / f"{contender}.npz", dx=np.ones(3), grads=np.ones(3) + 1e-3 * (contender == "torch"))
        return {"peak_MB": 1.0, "us_a_step": 1.0}

    monkeypatch.setattr(long_memory, "measured", measured)
    assert long_memory.compared("RNN", 10, ["checkpointed", "ordinary"], 2)["ratio"] == 1
    with pytest.raises(SystemExit, match="error: RNN 10: torch has other results"):
        long_memory.compared("RNN", 10, ["checkpointed", "ordinary", "torch"], 1)
