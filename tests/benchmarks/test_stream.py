"""The benchmark of single steps: all contenders are the same net, and a file says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frameworks import marked

from benchmarks import stream
from benchmarks.cases import DTYPES, Case
from benchmarks.contenders import ONNX, OURS, TORCH, layer_of
from benchmarks.measure import Measurement
from benchmarks.stream import CELLS, OLD, PLAIN, SMOKE_SIZES, TARGET_SIZE, TARGETS, judged
from benchmarks.worker import ROOT

CASE = Case("lstm", (6, 3, 4, 5), "float64", mode="inference")


@pytest.mark.parametrize("kind", [stream.Ours, stream.Plain, stream.Cell])
@pytest.mark.parametrize("cell", CELLS)
def test_each_is_the_layer(cell: str, kind: type[stream.Steps]) -> None:
    for size in ((6, 1, 4, 5), CASE.size):
        case = replace(CASE, cell=cell, size=size)
        contender = kind()
        contender.load(case)
        contender.step()  # results begin anew
        given = stream.problem(case)
        layer = layer_of(case)
        layer.load_state_dict(given.weights)
        expected = case.named(*layer(given.x))
        found = contender.results([])
        for name in case.finals:
            expected[name] = expected[name][0]
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-12)


@pytest.mark.parametrize("onnx", marked("onnxruntime"))
@pytest.mark.parametrize("torch", marked("torch"))
def test_smoke_asserts_equal_results_and_writes_what_it_found(
    torch: str, onnx: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    # There is no repository to take 0.2.0 from: the working tree, whose cell has the same name, stands for it.
    arguments = ["--smoke", "--cells", "lstm", "--old", str(ROOT), "--json", str(path)]
    assert stream.main(arguments) == 0
    points = json.loads(path.read_text())["measurements"]
    assert [(tuple(p["case"]["size"]), p["case"]["dtype"]) for p in points] == [
        (size, dtype) for size in SMOKE_SIZES for dtype in DTYPES
    ]
    for point in points:
        differences = point["largest_relative_difference"]
        assert set(differences) == {torch, OLD, PLAIN} | ({onnx} if point["case"]["dtype"] == "float32" else set())
        assert all(set(found) == {"output", "h_n", "c_n"} for found in differences.values())
    assert capsys.readouterr().out.splitlines()[1].startswith("lstm       1    5 float32    1")


def test_unequal_results_are_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure.TOLERANCE", dict.fromkeys(DTYPES, -1.0))
    assert stream.main(["--smoke", "--rivals", PLAIN, "--cells", "gru"]) == 1
    assert "do not compute the same" in capsys.readouterr().err


def test_each_target_is_held_against_its_ratio() -> None:
    times = {OURS: [[10]], ONNX: [[14]], TORCH: [[31]], OLD: [[150]], PLAIN: [[5]]}
    case = replace(CASE, size=TARGET_SIZE, dtype="float32")
    point = Measurement(case, 1, {}, {}, times, [0.0], {name: [1.0] for name in times})
    assert [(row["value"], row["met"]) for row in judged([point])] == [(1.4, False), (3.1, True), (15.0, True)]
    assert TARGETS == {ONNX: 1.5, TORCH: 3.0, OLD: 15.0}
    others = [replace(point, threads=2), replace(point, case=CASE), replace(point, case=replace(case, dtype="float64"))]
    assert judged(others) == []
