"""The benchmark of the language model: equal losses on all sides, and a file that says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import language_model, measure
from benchmarks.cases import Case
from benchmarks.language_model import CELLS, OVERHEAD, SMOKE_SIZE, TARGETS, judged
from benchmarks.measure import Measurement, UnequalResultsError

CASE = Case("gru", SMOKE_SIZE, "float64")


def losses(name: str, case: Case) -> dict[str, np.ndarray]:
    contender = language_model.CONTENDERS[name]()
    contender.load(case)
    contender.step()  # what the results must not depend on
    return contender.results([])


@pytest.mark.parametrize("cell", CELLS)
def test_train_makes_the_losses_of_the_bare_loop(cell: str) -> None:
    case = replace(CASE, cell=CELLS[cell])
    ours, theirs = losses("rnn_numpy", case), losses("train", case)
    assert np.array_equal(ours["losses"], theirs["losses"])
    assert len(set(ours["losses"])) == language_model.COMPARED


def test_another_update_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = losses("rnn_numpy", CASE)
    monkeypatch.setattr(language_model, "LR", 1.000001e-3)
    with pytest.raises(UnequalResultsError, match="losses differs by"):
        measure.require_equal(CASE, "other", measure.differences(ours, losses("rnn_numpy", CASE)))


@pytest.mark.needs_torch
@pytest.mark.needs_jax
def test_smoke_asserts_equal_losses_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    arguments = ["--smoke", "--cells", "lstm", "--dtypes", "float64", "--json", str(path)]
    assert language_model.main(arguments) == 0
    found = json.loads(path.read_text())
    (point,) = found["measurements"]
    assert set(point["largest_relative_difference"]) == {"train", "torch", "jax"}
    assert all(value["losses"] <= 1e-12 for value in point["largest_relative_difference"].values())
    assert len(found["overhead_milliseconds"]["lstm 8,4,8,16 float64"]) == 4
    assert set(point["ratio"]) == {"train", "torch", "jax"} and set(found["embedding_microseconds"]) == {"103", "10000"}
    (seconds,) = found["cold_start_seconds"].values()
    assert set(seconds) == {"rnn_numpy", "torch", "jax"}
    assert capsys.readouterr().out.splitlines()[1].startswith("lstm      float64    1")


def test_each_target_is_held_against_its_ratio() -> None:
    case = Case("lstm", language_model.SIZE, "float32")
    milliseconds = {"rnn_numpy": 10.0, "train": 10.3, "torch": 9.1, "jax": 9.9, "products": 6.0}
    times = {name: [[round(1e6 * value)]] for name, value in milliseconds.items()}
    cores = {name: [1.0] for name in times}
    point = Measurement(case, 1, {}, {}, times, [0.0], cores)
    rows = judged([point], {"lstm": 1.03}, {"103": 2.9})
    assert [(row["value"], row["met"]) for row in rows] == [(0.91, True), (0.99, False), (1.03, False), (2.9, False)]
    assert OVERHEAD == 1.02 and TARGETS["torch", "rnn"] == 2.5
    assert judged([replace(point, case=replace(case, dtype="float64"))], {}, {}) == []
