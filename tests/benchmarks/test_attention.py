"""The benchmark of decoders with attention: equal gradients on all sides, and a file that says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import attention, measure
from benchmarks.attention import ON_TOP, ORDERS, SIZES, SMOKE_SIZES, TARGETS, judged
from benchmarks.cases import Case
from benchmarks.measure import Measurement, UnequalResultsError

CASE = Case("gru", SMOKE_SIZES[0], "float64", mode="before")


def results(name: str, case: Case) -> dict[str, np.ndarray]:
    contender = attention.CONTENDERS[name]()
    contender.load(case)
    contender.step()
    return contender.results([])


@pytest.mark.parametrize("order", ORDERS)
def test_every_parameter_has_its_gradient_compared(order: str) -> None:
    case = replace(CASE, mode=order)
    found = results("rnn_numpy", case)
    assert set(attention.Decoded(case).weights) == set(found) - {"output", "dx", "dmemory"}


def test_another_network_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = results("rnn_numpy", CASE)
    monkeypatch.setattr(attention, "S", 19)
    with pytest.raises(UnequalResultsError, match=r"differs by|same shape"):
        measure.require_equal(CASE, "other", measure.differences(ours, results("rnn_numpy", CASE)))


@pytest.mark.needs_torch
@pytest.mark.needs_jax
def test_smoke_asserts_equal_gradients_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    arguments = ["--smoke", "--cells", "lstm", "--dtypes", "float64", "--json", str(path)]
    assert attention.main(arguments) == 0
    points = json.loads(path.read_text())["measurements"]
    assert [point["case"]["mode"] for point in points] == list(ORDERS)
    for point in points:
        for rival in ("torch", "jax"):
            values = point["largest_relative_difference"][rival]
            assert {"output", "dx", "dmemory"} < set(values)
            assert max(values.values()) <= 1e-12
    assert set(points[2]["ratio"]) == {"plain", "torch", "jax"}
    assert capsys.readouterr().out.splitlines()[1].startswith("lstm  before   4,3,5,5       float64    1")


def test_each_target_is_held_against_its_ratio() -> None:
    times = {name: [[round(1e6 * value)]] for name, value in {"rnn_numpy": 10.0, "torch": 19.0, "jax": 11.0}.items()}
    cores = {name: [1.0] for name in (*times, "plain")}
    point = Measurement(replace(CASE, size=SIZES[0]), 1, {}, {}, times, [0.0], cores)
    assert [(row["value"], row["met"]) for row in judged([point])] == [(1.9, False), (1.1, True)]
    after = replace(point, case=replace(point.case, mode="after"), times={**times, "plain": [[8_000_000]]})
    assert [(row["value"], row["met"]) for row in judged([after])] == [(1.25, True)]
    assert (TARGETS["torch", SIZES[1]], ON_TOP) == (1.3, 1.4)
    assert judged([replace(point, threads=2)]) == []
