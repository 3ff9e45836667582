"""The benchmark of beam search: the same sentences on all sides, and a file that says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frameworks import marked

from benchmarks import beam_search
from benchmarks.attention import ORDERS
from benchmarks.beam_search import SIZES, SMOKE_SIZES, TARGET, Together, judged
from benchmarks.cases import Case
from benchmarks.measure import Measurement

CASE = Case("lstm", (5, 3, 4, 4), "float64", mode="before")


@pytest.mark.parametrize("order", ORDERS)
def test_all_sentences_have_their_length(order: str) -> None:
    found = {}
    for kind in (beam_search.Ours, Together):
        contender = kind()
        contender.load(replace(CASE, mode=order))
        found[kind] = contender.results([])
        assert found[kind]["tokens"].shape == (3, 5) and (found[kind]["tokens"] > beam_search.EOS)[:, :-1].all()
    np.testing.assert_allclose(found[Together]["scores"], found[beam_search.Ours]["scores"], rtol=1e-12)


@pytest.mark.parametrize("rival", marked("torch"))
def test_smoke_asserts_equal_sentences_and_writes_what_it_found(
    rival: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    assert beam_search.main(["--smoke", "--cells", "gru", "--dtypes", "float64", "--json", str(path)]) == 0
    points = json.loads(path.read_text())["measurements"]
    assert [point["case"]["mode"] for point in points] == list(ORDERS)
    for point in points:
        assert point["case"]["size"] == list(SMOKE_SIZES[0])
        for name in ("together", rival):
            found = point["largest_relative_difference"][name]
            assert found["tokens"] == 0 and found["scores"] <= 1e-12
    assert capsys.readouterr().out.splitlines()[1].startswith("gru   before   4,2,5,5       float64    1")


def test_each_target_is_held_against_its_ratio() -> None:
    times = {
        name: [[round(1e6 * value)]] for name, value in {"rnn_numpy": 10.0, "together": 5.0, "torch": 15.0}.items()
    }
    cores = {name: [1.0] for name in times}
    point = Measurement(replace(CASE, size=SIZES[0]), 1, {}, {}, times, [0.0], cores)
    assert [(row["value"], row["met"]) for row in judged([point])] == [(1.5, False), (3.0, True)]
    assert TARGET == 3.0
    assert judged([replace(point, threads=2)]) == [] == judged([replace(point, case=CASE)])
