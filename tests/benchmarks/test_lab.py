"""The program that times the lab's jobs: it runs, and unequal results are an error."""

import json

import numpy as np
import pytest

from benchmarks import lab


def test_it_runs_and_keeps_its_figures(tmp_path, capsys):
    arguments = ["--smoke", "--cells", "GRU", "--rivals", "--json", str(tmp_path / "found.json")]
    assert lab.main(arguments) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["job"] for row in rows] == list(lab.JOBS)
    assert all(row["ms"]["rnn_numpy"] > 0 for row in rows)
    assert "ours, ms" in capsys.readouterr().out


@pytest.mark.needs_jax
@pytest.mark.needs_torch
def test_the_others_compute_the_same():
    assert lab.main(["--smoke", "--cells", "LSTM", "--rivals", "jax", "torch"]) == 0


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_bare_products_are_part_of_the_job(cell, tmp_path):
    """They are timed beside the job, have no result to compare, and take less time."""
    path = tmp_path / "bare.json"
    assert lab.main(["--bare", "--rivals", "--cells", cell, "--points", "0", "--rounds", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["job"] for row in rows] == list(lab.BARE_JOBS)
    # Not those of exponents: LAPACK's decompositions can take longer than ours.
    assert all(0 < row["ratio"][lab.BARE] < 1 for row in rows if row["job"] != "lyapunov")


def test_other_results_are_an_error(tmp_path):
    class Fake:
        def __init__(self, value):
            self.value = value

        def ask(self, save, **asked):
            if save:
                np.savez(save, np.full(3, self.value))
            return {"ms": [1.0, 2.0], "peak": 100.0}

    good = {name: Fake(1.0) for name in (lab.OURS, "jax")}
    assert lab.compared(good, "RNN", (1, 1, 1, 1), "table", 1, 0.0)["ratio"] == {"jax": 1.0}
    with pytest.raises(SystemExit, match=r"error: jax, table of RNN .*: other results, by 1.0e-06"):
        lab.compared({lab.OURS: Fake(1.0), "jax": Fake(1 + 1e-6)}, "RNN", (1, 1, 1, 1), "table", 1, 0.0)


def test_the_readme_shows_the_kept_figures():
    text = (lab.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    kept = json.loads(lab.KEPT.read_text(encoding="utf-8"))["rows"]
    bare = json.loads(lab.KEPT_BARE.read_text(encoding="utf-8"))["rows"]
    lines = [line for line in (*lab.markdown(kept), *lab.bare_markdown(bare)) if line]
    assert len(lines) > 35 + len(bare)
    assert [line for line in lines if line not in text] == []
    kept[0]["ratio"]["0.2.0"] += 1
    assert [line for line in lab.markdown(kept) if line not in text]
