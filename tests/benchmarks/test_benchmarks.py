"""The benchmarks work and count right. Nothing here depends on how fast anything is."""

from __future__ import annotations

import argparse
import builtins
import io
import json
import math
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from frameworks import marked

from benchmarks import contenders, measure, peak_memory, summary, tables, train_step, worker
from benchmarks.cases import CELLS, DTYPES, GATES, GRID, MODES, Case, Size, problem
from benchmarks.measure import Measurement

TINY = Case("rnn-tanh", (4, 2, 3, 5), "float64")


def point(
    ours: float,
    torch: float,
    products: float,
    size: Size = (100, 1, 32, 32),
    dtype: str = "float32",
    foreign: tuple[float, float] = (0.0, 0.0),
    cell: str = "rnn-tanh",
    mode: str = "training",
    **others: float,
) -> Measurement:
    """A measurement of made-up milliseconds: two rounds, the second twice as slow for all."""
    milliseconds = {"rnn_numpy": ours, "torch": torch, **others, "products": products}
    times = {name: [[round(value * 1e6)] * 3, [round(2 * value * 1e6)] * 3] for name, value in milliseconds.items()}
    case = Case(cell, size, dtype, mode=mode)
    cores = {name: [1.0, 1.004] for name in milliseconds}
    return Measurement(case, 1, {"torch": {"dx": 0.0}}, {"torch": []}, times, list(foreign), cores)


# -------------------------------------------------------------------------------------------------------- summaries


def test_ratio_is_of_blocks_of_the_same_round() -> None:
    # Round by round 2, 3, 2.5; the medians of all times alone (20 and 3) would say 6.67.
    found = summary.ratio([[2, 2, 2], [30, 30, 99], [20, 25, 30]], [[1, 1, 9], [10, 10, 10], [10, 10, 10]])
    assert (found.median, found.low, found.high, found.of_minima) == (2.5, 2.25, 2.75, 2.0)


def test_ratio_of_one_round() -> None:
    assert summary.ratio([[3]], [[2]]) == summary.Ratio(1.5, 1.5, 1.5, 1.5)


@pytest.mark.parametrize(("above", "below"), [([], []), ([[1]], [[1], [2]])])
def test_ratio_refuses_rounds_that_do_not_pair(above: list[list[float]], below: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="one block per round"):
        summary.ratio(above, below)


def test_typical_least_lost_and_mean() -> None:
    blocks = [[1, 5, 6], [2, 3, 4], [9, 9, 9]]
    assert summary.typical(blocks) == 5
    assert summary.least(blocks) == 1
    assert summary.lost([[10], [20]], [[6], [14]]) == 0.35
    assert summary.geometric_mean([1, 4, 16]) == pytest.approx(4, rel=1e-14)
    with pytest.raises(ValueError, match="no values"):
        summary.geometric_mean([])


@pytest.mark.parametrize(
    ("value", "each", "ahead"), [(0.999, False, False), (1.0, True, False), (math.nextafter(1.0, 2.0), True, True)]
)
def test_a_tie_reaches_a_bound_but_is_not_ahead(value: float, each: bool, ahead: bool) -> None:
    assert summary.Target(("gru",), "training", "torch").reached(value) is each
    assert summary.Target(("gru",), "training", "torch", ahead=True).reached(value) is ahead


def test_the_targets() -> None:
    assert [str(target) for target in summary.TARGETS] == [
        "rnn-tanh, rnn-relu, training, torch: each at least 1",
        "rnn-tanh, rnn-relu, training, torch: geometric mean at least 2.5",
        "lstm, training, torch, float32: each at least 1",
        "lstm, training, torch, float64: each above 1",
        "gru, training, torch: each at least 1",
        "gru, training, torch: geometric mean at least 2",
        "rnn-tanh, rnn-relu, training, jax, N >= 8: each above 1",
        "rnn-tanh, rnn-relu, inference, jax, N >= 8: each above 1",
        "lstm, training, jax, N >= 8: each above 1",
        "lstm, inference, jax, N >= 8: each above 1",
        "gru, training, jax, N >= 8: each above 1",
        "gru, inference, jax, N >= 8: each above 1",
    ]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_targets_of_single_points(cell: str, dtype: str) -> None:
    training, inference = (Case(cell, (100, 8, 64, 64), dtype, mode=mode) for mode in MODES)
    alone = Case(cell, (100, 7, 64, 64), dtype)
    assert summary.missed(training, "torch", 0.99)
    assert summary.missed(training, "torch", 1.0) is ((cell, dtype) == ("lstm", "float64"))
    assert not summary.missed(inference, "torch", 0.1)
    assert summary.missed(training, "jax", 1.0)
    assert summary.missed(inference, "jax", 1.0)
    assert not summary.missed(inference, "jax", 1.01)
    assert not summary.missed(alone, "jax", 0.1)
    assert not summary.missed(inference, "onnxruntime", 0.1)


def test_the_share_lost_has_a_target_where_an_rnn_is_large_and_trains() -> None:
    assert [summary.lost_target(Case("rnn-relu", (1, 1, 1, H), "float32")) for H in (255, 256)] == [None, 0.35]
    assert summary.lost_target(Case("lstm", (1, 1, 1, 512), "float32")) is None
    assert summary.lost_target(Case("rnn-tanh", (1, 1, 1, 512), "float32", mode="inference")) is None


@pytest.mark.parametrize(
    ("given", "misses"),
    [
        (point(1.0, 1.01, 0.1), []),
        (point(1.0, 0.99, 0.9), ["torch"]),
        (point(1.0, 0.99, 0.6, (50, 64, 512, 512)), ["torch", "lost"]),
        (point(1.0, 2.0, 0.65, (50, 64, 256, 256)), ["lost"]),
        (point(1.0, 2.0, 0.66, (50, 64, 256, 256)), []),
        (point(1.0, 0.5, 0.1, (50, 64, 256, 256), mode="inference", jax=0.9, onnxruntime=0.1), ["jax"]),
        (point(1.0, 2.0, 0.1, (50, 64, 256, 256), cell="lstm", jax=2.0), []),
    ],
)
def test_points_below_target_are_found(given: Measurement, misses: list[str]) -> None:
    assert given.misses == misses


def test_a_point_without_products_has_no_share_lost() -> None:
    given = point(1.0, 2.0, 0.1, (50, 64, 512, 512))
    del given.times["products"]
    assert (given.lost, given.misses, given.rivals) == (None, [], ["torch"])
    assert tables.table([given]).splitlines()[3].split()[-1] == "-"
    assert "lost below" not in tables.conclusion([given])


# ----------------------------------------------------------------------------------------------------------- telling


def test_table_has_all_points_and_fits_the_page() -> None:
    points = [
        point(1234.5, 6789.0, 1000.0, size, dtype)
        for size in GRID
        for dtype in ("float32", "float64")
        if (size, dtype) != (GRID[0], "float64")
    ]
    points[1] = point(2.0, 1.0, 0.5, GRID[1], "float32")
    text = tables.table(points)
    lines = text.splitlines()
    assert len(lines) == 3 + len(GRID) + 1
    assert max(map(len, lines)) <= 100
    assert lines[0] == "rnn-tanh, training, 1 thread"
    assert lines[2].split() == ["T,", "N,", "D,", "H", *["ours", "ms", "torch", "lost"] * 2]
    assert lines[3].split() == ["100,", "1,", "32,", "32", "1851.750", "5.50", "19%"]
    assert "0.50!" in lines[4]
    assert text.count("!") == 1
    assert lines[-1].split() == ["geometric", "mean", "4.21", "5.50"]
    said = tables.conclusion(points)
    assert max(map(len, said.splitlines())) <= 120
    assert "points counted: 17 of 17" in said
    assert "targets:" in said.splitlines()
    assert "missed  rnn-tanh, rnn-relu, training, torch: each at least 1: 0.50 (17 points)" in said
    assert f"{'':10}rnn-tanh 100,1,128,128 float32, threads 1: 0.500" in said


def test_table_of_inference_has_a_column_for_each_rival_and_fits_the_page() -> None:
    points = [
        point(9234.5, 6789.0, 1000.0, size, dtype, cell="rnn-relu", mode="inference", jax=0.5, **others)
        for size in GRID
        for dtype, others in (("float32", {"onnxruntime": 9e7}), ("float64", {}))
    ]
    lines = tables.table(points).splitlines()
    assert max(map(len, lines)) <= 100
    assert len({line.index("ours ms") for line in lines[2:3]}) == 1
    head = ["ours", "ms", "torch", "jax", "onnx", "lost", "ours", "ms", "torch", "jax", "lost"]
    assert lines[2].split() == ["T,", "N,", "D,", "H", *head]
    row = ["13851.750", "0.74", "0.00", "9746", "89%", "13851.750", "0.74", "0.00", "89%"]
    assert lines[3].split() == ["100,", "1,", "32,", "32", *row]
    # N is 8 from the third row on: there JAX has a target.
    assert lines[5].split()[4:] == [*row[:2], "0.00!", *row[3:7], "0.00!", row[8]]
    # Numbers stand below their titles.
    for title, number in (("torch", "0.74"), ("onnx", "9746"), ("lost", "89%")):
        assert lines[2].index(title) + len(title) == lines[3].index(number) + len(number)


def test_disturbed_rounds_are_left_out_whatever_they_measured() -> None:
    given = point(1.0, 3.0, 0.5, foreign=(0.0, 0.9))
    given.times["torch"][1] = [10**9]
    assert (given.ratio("torch").median, given.noisy) == (3.0, False)
    flattered = point(1.0, 3.0, 0.5, foreign=(0.9, 0.9))
    assert flattered.noisy
    assert not point(1.0, 3.0, 0.5, foreign=(float("nan"), float("nan"))).noisy
    text, said = tables.table([flattered]), tables.conclusion([flattered])
    assert "~" in text.splitlines()[3]
    assert text.splitlines()[-1].split() == ["geometric", "mean", "-~"]
    assert "points counted: 0 of 1" in said
    assert "open    rnn-tanh, rnn-relu, training, torch: geometric mean at least 2.5: - (0 of 1 points)" in said
    assert json.loads(json.dumps(flattered.to_json()))["noisy"] is True


def test_a_mean_says_that_points_are_missing() -> None:
    points = [point(1.0, 4.0, 0.5), point(1.0, 1.0, 0.5, GRID[1], foreign=(0.9, 0.9))]
    assert tables.table(points).splitlines()[-1].split() == ["geometric", "mean", "4.00~"]
    (row,) = tables.means(points)
    assert row == {"cell": "rnn-tanh", "mode": "training", "contender": "torch", "mean": 4.0, "counted": 1, "of": 2}
    said = tables.conclusion(points)
    assert "open    rnn-tanh, rnn-relu, training, torch: geometric mean at least 2.5: 4.00 (1 of 2 points)" in said
    assert "met     rnn-tanh, rnn-relu, training, torch: geometric mean at least 2.5: 4.00 (1 points)" in (
        tables.conclusion(points[:1])
    )


def test_verdicts() -> None:
    def verdicts(*points: Measurement) -> dict[str, str]:
        return {row["target"]: row["verdict"] for row in tables.judge(points)}

    each, mean = "gru, training, torch: each at least 1", "gru, training, torch: geometric mean at least 2"
    fast, tie, slow = (point(1.0, ratio, 0.5, cell="gru") for ratio in (4.0, 1.0, 0.9))
    noisy = point(1.0, 9.0, 0.5, cell="gru", foreign=(0.9, 0.9))
    assert verdicts(fast, tie) == {each: "met", mean: "met"}
    assert verdicts(fast, slow) == {each: "missed", mean: "missed"}
    assert verdicts(fast, noisy) == {each: "open", mean: "open"}
    # What is below its target stays so, whatever the disturbed ones would have shown.
    assert verdicts(slow, noisy) == {each: "missed", mean: "open"}
    jax = "gru, inference, jax, N >= 8: each above 1"
    assert verdicts(point(1.0, 1.0, 0.5, cell="gru", mode="inference", size=(5, 8, 4, 4), jax=1.0)) == {jax: "missed"}
    large = "rnn-tanh, rnn-relu, training, H >= 256: lost below 0.35"
    assert verdicts(point(1.0, 2.6, 0.6, (5, 1, 4, 256)))[large] == "missed"
    assert verdicts(point(1.0, 2.6, 0.7, (5, 1, 4, 256)))[large] == "met"
    assert verdicts(point(1.0, 2.6, 0.6, (5, 1, 4, 256), foreign=(0.9, 0.9)))[large] == "open"


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [True, False])
def test_progress_is_told_on_a_terminal(rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without_rich(name: str, *arguments: object, **options: object) -> object:
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return found(name, *arguments, **options)  # type: ignore[arg-type]

    if not rich:
        monkeypatch.setattr(builtins, "__import__", without_rich)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with tables.progress(4.0) as report:
        report(1.0, "a point")
        report(3.0, "another")
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "a point" in said
    assert "another" in said
    assert "25%" in said
    assert ("━" in said) is rich


def test_progress_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with tables.progress(1.0) as report:
        report(0.5, "a point")
    assert capsys.readouterr() == ("", "")


def test_the_estimate_grows_with_the_work() -> None:
    rates = {"float32": 1e11, "float64": 5e10}
    names = ("rnn_numpy", "torch")

    def seconds(case: Case, threads: int = 1, rounds: int = 9) -> float:
        return measure.expected(case, threads, names, rounds, rates)

    large = Case("lstm", (50, 64, 512, 512), "float32")
    assert seconds(large) > 3 * seconds(Case("rnn-tanh", large.size, "float32"))
    assert seconds(large) > 2 * seconds(Case("lstm", large.size, "float32", mode="inference"))
    assert seconds(large, rounds=18) > 1.5 * seconds(large)
    assert seconds(large) >= seconds(large, threads=measure.cores())
    assert seconds(Case("lstm", large.size, "float64")) > 1.5 * seconds(large)
    assert measure.rate("float32") > 1e8


def test_code_that_changes_during_a_run_ends_it(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    states = iter(["before", "after"])
    monkeypatch.setattr(train_step, "source_digest", lambda: next(states))
    arguments = "--sizes 1,1,1,1 --threads 1 --repeats 1 --patience 0 --dtypes float64 --cells rnn-tanh"
    assert train_step.main([*arguments.split(), "--modes", "training", "--contenders", "products"]) == 1
    assert "source changed" in capsys.readouterr().err


def test_busy_seconds_count_what_this_process_does() -> None:
    before, stop = measure.busy_seconds(), time.process_time() + 0.1
    while time.process_time() < stop:
        pass
    assert measure.busy_seconds() > before


# -------------------------------------------------------------------------------------------------------- arguments


def test_arguments_are_read() -> None:
    options = train_step.parser().parse_args(
        "--sizes 1,2,3,4 5,6,7,8 --threads 1 all --repeats 2 --cells rnn-relu gru --dtypes float64 "
        "--modes inference --contenders jax products".split()
    )
    assert options.sizes == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert options.threads == [1, measure.cores()]
    assert (options.repeats, options.cells, options.dtypes) == (2, ["rnn-relu", "gru"], ["float64"])
    assert (options.modes, options.contenders) == (["inference"], ["jax", "products"])


@pytest.mark.needs_torch
def test_a_library_that_is_missing_is_told(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(contenders.LIBRARIES, "jax", ("no_such_library", "json"))
    assert contenders.missing("jax") == ["no_such_library"]
    assert contenders.missing("rnn_numpy") == []
    arguments = "--sizes 1,1,1,1 --threads 1 --repeats 1 --patience 0 --dtypes float64 --cells rnn-tanh".split()
    with pytest.raises(SystemExit) as stop:
        train_step.main([*arguments, "--contenders", "torch", "jax"])
    assert stop.value.code == 2
    assert "--contenders jax: no_such_library not installed" in capsys.readouterr().err
    monkeypatch.setitem(contenders.LIBRARIES, "torch", ("no_torch",))
    monkeypatch.setitem(contenders.LIBRARIES, "onnxruntime", ("no_runtime", "no_onnx"))
    assert train_step.main([*arguments, "--modes", "training"]) == 0
    lines = capsys.readouterr().out.splitlines()
    how = 'not installed; install with: pip install "rnn_numpy[test]"'
    assert lines[0] == f"left out, torch: no_torch {how}"
    assert lines[1] == f"left out, jax: no_such_library {how}"
    assert lines[2] == f"left out, onnxruntime: no_runtime and no_onnx {how}"
    assert lines[3].startswith("1 points, 1 rounds of rnn_numpy, products: about ")


@pytest.mark.needs_onnxruntime
def test_contenders_that_can_do_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train_step.main(["--contenders", "onnxruntime", "--modes", "training"])
    assert stop.value.code == 2
    assert "onnxruntime can do none of the chosen modes" in capsys.readouterr().err


def test_whom_onnx_runtime_covers() -> None:
    cases = [Case("gru", (1, 1, 1, 1), dtype, mode=mode) for mode in MODES for dtype in DTYPES]
    assert [contenders.covers("onnxruntime", case) for case in cases] == [False, False, True, False]
    for name in ("rnn_numpy", "torch", "jax", "products"):
        assert all(contenders.covers(name, case) for case in cases)


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,x", "0,1,1,1", "", "1,2,3,4,5"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        train_step.size_of(text)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_bad_seconds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        train_step.seconds_of(text)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_bad_numbers_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        train_step.threads_of(text)
    with pytest.raises(argparse.ArgumentTypeError):
        train_step.positive(text)


def test_a_missing_folder_is_told_before_measuring(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as stop:
        train_step.main(["--json", str(tmp_path / "none" / "out.json")])
    assert stop.value.code == 2
    assert "there is no folder" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- equal results


def test_differences_are_relative_to_the_largest_entry() -> None:
    ours = {"a": np.array([1.0, -8.0]), "zero": np.zeros(2), "other": np.ones(1)}
    theirs = {"a": np.array([2.0, -8.0]), "zero": np.zeros(2), "other": np.zeros(1)}
    assert measure.differences(ours, theirs) == {"a": 0.125, "zero": 0.0, "other": float("inf")}


def test_results_that_are_not_comparable_are_refused() -> None:
    with pytest.raises(measure.UnequalResultsError, match="same names"):
        measure.differences({"a": np.ones(1)}, {"b": np.ones(1)})
    with pytest.raises(measure.UnequalResultsError, match="same shape"):
        measure.differences({"a": np.ones(1)}, {"a": np.ones(2)})


@pytest.mark.parametrize("value", [2e-12, float("nan"), float("inf")])
def test_unequal_results_are_refused(value: float) -> None:
    measure.require_equal(TINY, "torch", {"dx": 1e-12})
    with pytest.raises(measure.UnequalResultsError, match="dx differs"):
        measure.require_equal(TINY, "torch", {"output": 0.0, "dx": value})


def test_not_finite_is_unequal_even_on_both_sides() -> None:
    both = {"dx": np.array([np.nan, 1.0])}
    with pytest.raises(measure.UnequalResultsError):
        measure.require_equal(TINY, "torch", measure.differences(both, both))


def test_sequences_on_a_kink_of_relu_are_found() -> None:
    ours, theirs = np.ones((2, 4, 3)), np.ones((2, 4, 3))
    ours[1, 2, 0] = 0
    case = Case("rnn-relu", (2, 4, 1, 3), "float32")
    assert measure.on_kink(case, ours, theirs) == [2]
    assert measure.on_kink(TINY, ours, theirs) == []
    assert measure.on_kink(Case("rnn-relu", (2, 4, 1, 3), "float32", mode="inference"), ours, theirs) == []
    ours[0, :2] = -1
    with pytest.raises(measure.UnequalResultsError, match="in 3 rows"):
        measure.on_kink(case, ours, theirs)


RIVALS = ("torch", "jax", "onnxruntime")


def with_all_rivals(test):  # type: ignore[no-untyped-def]
    for rival in RIVALS:
        test = getattr(pytest.mark, f"needs_{rival}")(test)
    return test


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, worker.Worker]]:
    """All that compute networks, in processes of their own: JAX would change the options of this one."""
    with measure.start(("rnn_numpy", *RIVALS), 1) as started:
        yield started


@with_all_rivals
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_all_contenders_compute_the_same(cell: str, mode: str, dtype: str, workers: dict[str, worker.Worker]) -> None:
    case = Case(cell, (7, 3, 4, 5), dtype, mode=mode)
    found = {}
    for name, one in workers.items():
        if contenders.covers(name, case):
            one.ask("load", case=case.to_json())
            found[name] = measure.results_of(one, [])
            assert {array.dtype for array in found[name].values()} == {np.dtype(dtype)}
    mine = found.pop("rnn_numpy")
    names = {"output", "h_n"} | ({"c_n"} if cell == "lstm" else set())
    if mode == "training":
        names |= {"dx", "dweight_ih_l0", "dweight_hh_l0", "dbias_ih_l0", "dbias_hh_l0"}
    assert set(mine) == names
    assert set(found) == {name for name in RIVALS if contenders.covers(name, case)}
    for rival, theirs in found.items():
        measure.require_equal(case, rival, measure.differences(mine, theirs))


@with_all_rivals
@pytest.mark.parametrize("name", ["rnn_numpy", "torch", "jax"])
def test_silent_sequences_get_no_gradient(name: str, workers: dict[str, worker.Worker]) -> None:
    workers[name].ask("load", case=TINY.to_json())
    everything, one, again = (measure.results_of(workers[name], silent) for silent in ([], [1], []))
    assert np.array_equal(everything["output"], one["output"])
    assert np.array_equal(everything["dx"][:, 0], one["dx"][:, 0])
    assert not one["dx"][:, 1].any()
    assert everything["dx"][:, 1].all()
    assert np.array_equal(everything["dx"], again["dx"])


@with_all_rivals
@pytest.mark.parametrize("cell", CELLS)
def test_onnx_runtime_knows_no_float64(cell: str, workers: dict[str, worker.Worker]) -> None:
    # Should a newer one know it, `contenders.covers` is to be widened.
    case = Case(cell, (2, 1, 3, 4), "float64", mode="inference")
    with pytest.raises(worker.WorkerError, match="does not support double|Could not find an implementation"):
        workers["onnxruntime"].ask("load", case=case.to_json())


# ---------------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("cell", CELLS)
def test_every_process_draws_the_same_problem(cell: str) -> None:
    case = Case(cell, (4, 2, 3, 5), "float64", mode="inference")
    again = Case.from_json(json.loads(json.dumps(case.to_json())))
    assert again == case
    one, two = problem(case), problem(again)
    assert one.weights.keys() == two.weights.keys()
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.doutput, two.doutput)
    for name, array in one.weights.items():
        np.testing.assert_array_equal(array, two.weights[name])
        assert array.dtype == np.float64
        assert len(array) == 5 * GATES[cell]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", ["rnn-tanh", "lstm", "gru"])
def test_products_are_those_of_the_layer(cell: str, mode: str) -> None:
    products = contenders.Products()
    case = Case(cell, TINY.size, TINY.dtype, mode=mode)
    products.load(case)
    products.step()
    given = problem(case)
    W_ih, W_hh = given.weights["weight_ih_l0"], given.weights["weight_hh_l0"]
    np.testing.assert_allclose(products.a, given.x.reshape(8, 3) @ W_ih.T, rtol=1e-12)
    assert len(products.forward.left) == 4
    np.testing.assert_allclose(products.forward.latest, products.h[-1] @ W_hh.T, rtol=1e-12)
    assert products.results([]) == {}
    if mode == "inference":
        assert not hasattr(products, "backward")
        return
    assert len(products.backward.left) == 4
    np.testing.assert_allclose(products.backward.latest, products.da[0] @ W_hh, rtol=1e-12)
    np.testing.assert_allclose(products.dx, products.da.reshape(8, -1) @ W_ih, rtol=1e-12)
    np.testing.assert_allclose(products.dW_ih, np.einsum("tnh,tnd->hd", products.da, given.x), rtol=1e-12)
    np.testing.assert_allclose(products.dW_hh, np.einsum("tnh,tnk->hk", products.da, products.h), rtol=1e-12)


@pytest.mark.parametrize("choice", range(4))
def test_products_of_steps_in_each_memory_order(choice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    left, weight = rng.standard_normal((3, 2, 5)), rng.standard_normal((5, 7))
    timed = iter(0.0 if number == choice else 1.0 for number in range(4))
    monkeypatch.setattr(contenders, "_shortest", lambda action: next(timed))
    products = contenders.StepProducts.fastest(left, weight)
    products.run()
    np.testing.assert_allclose(products.latest, left[-1] @ weight, rtol=1e-12)
    assert (products.units_first, products.weight.flags.c_contiguous) == (choice % 2 == 1, choice < 2)


def test_a_server_answers_and_passes_errors_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "results.npz")
    requests = [
        {"request": "environment"},
        {"request": "load", "case": TINY.to_json()},
        {"request": "block", "repeats": 3},
        {"request": "results", "path": path, "silent": []},
        {"request": "load", "case": {**TINY.to_json(), "cell": "rnn-none"}},
        {"request": "block", "repeats": 1},
    ]
    answers = io.StringIO()
    worker.serve("rnn_numpy", io.StringIO("".join(json.dumps(r) + "\n" for r in requests)), answers)
    environment, estimate, block, saved, error, again = map(json.loads, answers.getvalue().splitlines())
    assert environment["result"]["numpy"] == np.__version__
    assert estimate["result"] > 0
    assert len(block["result"]["times"]) == 3
    assert block["result"]["cpu"] > 0
    assert block["result"]["cores"] > 0
    assert saved == {"result": None}
    assert error["error"] == "KeyError: 'rnn-none'"
    assert len(again["result"]["times"]) == 1
    with np.load(path) as archive:
        assert sorted(archive) == [
            "dbias_hh_l0", "dbias_ih_l0", "dweight_hh_l0", "dweight_ih_l0", "dx", "h_n", "output"
        ]  # fmt: skip


def test_quiet_waits_until_no_thread_spins() -> None:
    def waited() -> bool:
        stop = time.perf_counter() + 0.05

        def spin() -> None:
            while time.perf_counter() < stop:
                pass

        thread = threading.Thread(target=spin)
        thread.start()
        worker.quiet()
        ended = time.perf_counter()
        thread.join()
        return ended >= stop

    # Where other programs leave it no core, a spinning thread looks quiet for once.
    assert any(waited() for _ in range(20))


def test_workers_get_their_threads_and_say_why_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    with worker.Worker("products", 1) as one:
        found = one.environment["variables"]
        assert {name: found[name] for name in worker.THREAD_VARIABLES} == dict.fromkeys(worker.THREAD_VARIABLES, "1")
        assert found["MALLOC_ARENA_MAX"] == "7"
        assert "OPENBLAS_CORETYPE" not in found  # OpenBLAS chooses by the processor, as the others do
        with pytest.raises(worker.WorkerError, match="products at 'nothing'"):
            one.ask("nothing")
        assert one.ask("load", case=TINY.to_json()) > 0
        one._process.kill()
        one._process.wait()
        with pytest.raises(worker.WorkerError, match="ended with exit code -9"):
            one.ask("environment")
    with worker.Worker("nobody", 1) as nobody, pytest.raises(worker.WorkerError, match="KeyError"):
        nobody.ask("environment")


@pytest.mark.parametrize("name", marked("rnn_numpy", *RIVALS, "products"))
def test_one_thread_is_one_thread(name: str) -> None:
    # Products large enough that each of these libraries would share them among all cores.
    case = Case("rnn-tanh", (4, 256, 512, 512), "float32", mode="inference")
    with worker.Worker(name, 1) as one:
        one.ask("load", case=case.to_json())
        assert min(one.ask("block", repeats=5)["cores"] for _ in range(3)) < 1.1


@with_all_rivals
def test_train_step_with_all_contenders(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "out.json"
    arguments = ["--sizes", "4,2,3,5", "--threads", "1", "--repeats", "2", "--patience", "0", "--json", str(path)]
    assert train_step.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    first, *rest = printed.out.splitlines()
    assert first.startswith("16 points, 2 rounds of rnn_numpy, torch, jax, onnxruntime, products: about ")
    assert sum(line.startswith("4, 2, 3, 5") for line in rest) == 4 * 2
    for cell in CELLS:
        for mode in MODES:
            assert f"{cell}, {mode}, 1 thread" in rest
    assert "targets (they are about the whole grid; this is a part):" in rest
    document = json.loads(path.read_text())
    assert document["options"] == {
        "cells": list(CELLS),
        "modes": list(MODES),
        "contenders": ["torch", "jax", "onnxruntime", "products"],
        "sizes": [[4, 2, 3, 5]],
        "threads": [1],
        "dtypes": ["float32", "float64"],
        "repeats": 2,
        "patience": 0.0,
        "avx512": True,
        "cpu_time": False,
    }
    assert set(document["machine"]) == {"cpu", "cores", "system", "load", "rnn_numpy"}
    environment = document["contenders"]["1"]
    assert environment["torch"]["torch_threads"] == 1
    assert environment["onnxruntime"]["onnxruntime_threads"] == 1
    assert environment["jax"]["jax_backend"] == "cpu"
    assert environment["jax"]["variables"]["PJRT_NPROC"] == "1"
    assert environment["rnn_numpy"]["numpy"] == np.__version__
    assert environment["rnn_numpy"]["blas_kernels"] == environment["products"]["blas_kernels"] != []
    assert len(document["geometric_means"]) == 4 * (2 + 3)
    assert {row["verdict"] for row in document["targets"]} <= {"met", "missed", "open"}
    assert len(document["measurements"]) == 4 * 2 * 2
    for given in document["measurements"]:
        assert set(given) == set(document["fields"])
        case = Case.from_json(given["case"])
        rivals = {name for name in RIVALS if contenders.covers(name, case)}
        assert set(given["ratio"]) == set(given["sequences_on_a_kink"]) == rivals
        assert set(given["times_ns"]) == set(given["own_cores"]) == {"rnn_numpy", "products", *rivals}
        assert {len(blocks) for blocks in given["times_ns"].values()} == {len(given["foreign_cores"])}
        assert len(given["foreign_cores"]) == 2
        assert set(given["largest_relative_difference"]) == rivals
        for found in given["largest_relative_difference"].values():
            assert len(found) == len(case.finals) + (6 if case.mode == "training" else 1)
            assert max(found.values()) <= measure.TOLERANCE[case.dtype]


@pytest.mark.needs_torch
def test_train_step_without_avx512_by_cpu_time(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "out.json"
    arguments = (
        "--sizes 4,2,3,5 --cells lstm --dtypes float64 --repeats 2 --patience 0 --without-avx512 --cpu-time".split()
    )
    rivals = ["--contenders", "torch", "onnxruntime"]
    with pytest.raises(SystemExit):
        train_step.main([*arguments, *rivals])  # of two threads, CPU time is no time
    assert train_step.main([*arguments, *rivals, "--threads", "1", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert document["options"]["contenders"] == ["torch"]
    assert (document["options"]["avx512"], document["options"]["cpu_time"]) == (False, True)
    found = document["contenders"]["1"]
    assert not any(name.startswith(("AVX512", "X86_V4")) for name in found["rnn_numpy"]["simd"])
    assert found["rnn_numpy"]["variables"]["NPY_DISABLE_CPU_FEATURES"].split()
    assert "512" not in found["torch"]["torch_cpu_capability"]
    assert document["points_counted"] == 2


@pytest.mark.parametrize("rival", marked(*RIVALS))
def test_unequal_results_end_the_run(rival: str, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(measure, "TOLERANCE", {"float32": -1.0})
    arguments = ["--sizes", "1,1,1,1", "--threads", "1", "--repeats", "1", "--dtypes", "float32", "--cells", "rnn-tanh"]
    assert train_step.main([*arguments, "--modes", "inference", "--contenders", rival]) == 1
    assert f"rnn_numpy and {rival} do not compute the same" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("size", [(100, 32, 32, 32), (50, 16, 128, 64), (20, 8, 256, 256)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn-tanh", "lstm", "gru"])
def test_peak_memory_follows_the_formula(cell: str, size: tuple[int, int, int, int], dtype: str) -> None:
    figures = peak_memory.row(Case(cell, size, dtype), resident=False)
    assert 0.9 * figures["formula"] <= figures["traced"] <= 1.05 * figures["formula"] + 50_000


@pytest.mark.needs_torch
def test_peak_memory_program(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "memory.json"
    assert peak_memory.main(["--sizes", "20,4,8,8", "--dtypes", "float32", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 100
    (figures,) = json.loads(path.read_text())["rows"]
    assert set(figures["resident"]) == {"rnn_numpy", "torch"}
