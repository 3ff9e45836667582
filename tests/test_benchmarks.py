"""The benchmarks work and count right. Nothing here depends on how fast anything is."""

from __future__ import annotations

import argparse
import io
import json
import time

import numpy as np
import pytest

from benchmarks import contenders, peak_memory, summary, train_step, worker
from benchmarks.cases import GRID, Case, problem

TINY = Case("rnn-tanh", (4, 2, 3, 5), "float64")


def measurement(
    ours: float,
    torch: float,
    products: float,
    size: tuple[int, int, int, int] = (100, 1, 32, 32),
    dtype: str = "float32",
    foreign: tuple[float, float] = (0.0, 0.0),
) -> train_step.Measurement:
    """A measurement of made-up times: two rounds, the second twice as slow for all."""
    milliseconds = {"rnn_numpy": ours, "torch": torch, "products": products}
    times = {name: [[round(value * 1e6)] * 3, [round(2 * value * 1e6)] * 3] for name, value in milliseconds.items()}
    return train_step.Measurement(Case("rnn-tanh", size, dtype), 1, {"dx": 0.0}, [], times, list(foreign))


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


def test_targets_depend_on_the_hidden_size() -> None:
    assert [summary.ratio_target(H) for H in (64, 256, 512, 1024)] == [1.0, 1.0, 0.95, 0.95]
    assert [summary.lost_target(H) for H in (128, 256, 1024)] == [None, 0.35, 0.35]


@pytest.mark.parametrize(
    ("point", "misses"),
    [
        (measurement(1.0, 1.01, 0.1), []),
        (measurement(1.0, 0.99, 0.9), ["ratio"]),
        (measurement(1.0, 0.96, 0.9, (50, 64, 512, 512)), []),
        (measurement(1.0, 0.94, 0.6, (50, 64, 512, 512)), ["ratio", "lost"]),
        (measurement(1.0, 2.0, 0.65, (50, 64, 256, 256)), ["lost"]),
        (measurement(1.0, 2.0, 0.66, (50, 64, 256, 256)), []),
    ],
)
def test_points_below_target_are_found(point: train_step.Measurement, misses: list[str]) -> None:
    assert point.misses == misses


def test_table_has_all_points_and_fits_the_page() -> None:
    points = [
        measurement(1234.5, 6789.0, 1000.0, size, dtype)
        for size in GRID
        for dtype in ("float32", "float64")
        if (size, dtype) != (GRID[0], "float64")
    ]
    points[1] = measurement(2.0, 1.0, 0.5, GRID[1], "float32")
    text = train_step.table(points)
    lines = text.splitlines()
    assert len(lines) == 3 + len(GRID) + 1
    assert max(map(len, lines)) <= 100
    assert lines[0] == "rnn-tanh, 1 thread"
    assert lines[3].split() == ["100,", "1,", "32,", "32", "1851.750", "10183.500", "5.50", "19%"]
    assert "0.50!" in lines[4]
    assert text.count("!") == 1
    said = train_step.conclusion(points)
    assert max(map(len, said.splitlines())) <= 120
    assert "points that miss their target for ratio: 1 of 17" in said
    assert "points counted: 17 of 17" in said
    assert "rnn-tanh 100,1,128,128 float32, threads 1: 0.50" in said


def test_disturbed_rounds_are_left_out_whatever_they_measured() -> None:
    point = measurement(1.0, 3.0, 0.5, foreign=(0.0, 0.9))
    point.times["torch"][1] = [10**9]
    assert (point.ratio.median, point.noisy) == (3.0, False)
    flattered = measurement(1.0, 3.0, 0.5, foreign=(0.9, 0.9))
    assert flattered.noisy
    assert not measurement(1.0, 3.0, 0.5, foreign=(float("nan"), float("nan"))).noisy
    text, said = train_step.table([flattered]), train_step.conclusion([flattered])
    assert "~" in text.splitlines()[3]
    assert text.splitlines()[-1].split() == ["geometric", "mean", "-"]
    assert "points counted: 0 of 1" in said
    assert "target 2.5" not in said
    assert json.loads(json.dumps(flattered.to_json()))["noisy"] is True


def test_a_mean_says_that_points_are_missing() -> None:
    points = [measurement(1.0, 4.0, 0.5), measurement(1.0, 1.0, 0.5, GRID[1], foreign=(0.9, 0.9))]
    assert train_step.table(points).splitlines()[-1].split(maxsplit=2)[2] == "4.00 (1 of 2)"
    assert "4.00 (1 of 2), no match for the target" in train_step.conclusion(points)
    assert "4.00, target 2.5" in train_step.conclusion(points[:1])


def test_code_that_changes_during_a_run_ends_it(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    states = iter(["before", "after"])
    monkeypatch.setattr(train_step, "source_digest", lambda: next(states))
    arguments = "--sizes 1,1,1,1 --threads 1 --repeats 1 --patience 0 --dtypes float64 --cells rnn-tanh".split()
    assert train_step.main(arguments) == 1
    assert "source changed" in capsys.readouterr().err


def test_busy_seconds_count_what_this_process_does() -> None:
    before, stop = train_step.busy_seconds(), time.process_time() + 0.1
    while time.process_time() < stop:
        pass
    assert train_step.busy_seconds() > before


# -------------------------------------------------------------------------------------------------------- arguments


def test_sizes_threads_and_repeats_are_read() -> None:
    options = train_step.parser().parse_args(
        "--sizes 1,2,3,4 5,6,7,8 --threads 1 all --repeats 2 --cells rnn-relu --dtypes float64".split()
    )
    assert options.sizes == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert options.threads == [1, train_step.cores()]
    assert (options.repeats, options.cells, options.dtypes) == (2, ["rnn-relu"], ["float64"])


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
    assert train_step.differences(ours, theirs) == {"a": 0.125, "zero": 0.0, "other": float("inf")}


def test_results_that_are_not_comparable_are_refused() -> None:
    with pytest.raises(train_step.UnequalResultsError, match="same names"):
        train_step.differences({"a": np.ones(1)}, {"b": np.ones(1)})
    with pytest.raises(train_step.UnequalResultsError, match="same shape"):
        train_step.differences({"a": np.ones(1)}, {"a": np.ones(2)})


@pytest.mark.parametrize("value", [2e-12, float("nan"), float("inf")])
def test_unequal_results_are_refused(value: float) -> None:
    train_step.require_equal(TINY, {"dx": 1e-12})
    with pytest.raises(train_step.UnequalResultsError, match="dx differs"):
        train_step.require_equal(TINY, {"output": 0.0, "dx": value})


def test_not_finite_is_unequal_even_on_both_sides() -> None:
    both = {"dx": np.array([np.nan, 1.0])}
    with pytest.raises(train_step.UnequalResultsError):
        train_step.require_equal(TINY, train_step.differences(both, both))


def test_sequences_on_a_kink_of_relu_are_found() -> None:
    ours, theirs = np.ones((2, 4, 3)), np.ones((2, 4, 3))
    ours[1, 2, 0] = 0
    case = Case("rnn-relu", (2, 4, 1, 3), "float32")
    assert train_step.on_kink(case, ours, theirs) == [2]
    assert train_step.on_kink(TINY, ours, theirs) == []
    ours[0, :2] = -1
    with pytest.raises(train_step.UnequalResultsError, match="in 3 rows"):
        train_step.on_kink(case, ours, theirs)


@pytest.mark.parametrize("contender", [contenders.Layer, contenders.TorchLayer])
def test_silent_sequences_get_no_gradient(contender, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = contender()
    made.load(TINY)
    everything, one = made.results([]), made.results([1])
    assert np.array_equal(everything["output"], one["output"])
    assert np.array_equal(everything["dx"][:, 0], one["dx"][:, 0])
    assert not one["dx"][:, 1].any()
    assert everything["dx"][:, 1].all()
    assert made.doutput[:, 1].all()


# ---------------------------------------------------------------------------------------------------------- workers


def test_every_process_draws_the_same_problem() -> None:
    one, two = problem(TINY), problem(Case.from_json(json.loads(json.dumps(TINY.to_json()))))
    assert one.weights.keys() == two.weights.keys()
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.doutput, two.doutput)
    for name, array in one.weights.items():
        np.testing.assert_array_equal(array, two.weights[name])
        assert array.dtype == np.float64


def test_products_are_those_of_the_layer() -> None:
    products = contenders.Products()
    products.load(TINY)
    products.step()
    given = problem(TINY)
    np.testing.assert_allclose(products.a, given.x.reshape(8, 3) @ given.weights["weight_ih_l0"].T, rtol=1e-13)
    np.testing.assert_allclose(products.row, products.da[0] @ given.weights["weight_hh_l0"], rtol=1e-13)
    np.testing.assert_allclose(products.dx, products.da.reshape(8, 5) @ given.weights["weight_ih_l0"], rtol=1e-13)
    np.testing.assert_allclose(products.dW_ih, np.einsum("tnh,tnd->hd", products.da, given.x), rtol=1e-13)
    np.testing.assert_allclose(products.dW_hh, np.einsum("tnh,tnk->hk", products.da, products.h), rtol=1e-13)
    assert products.results([]) == {}


def test_a_server_answers_and_passes_errors_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "results.npz")
    requests = [
        {"request": "environment"},
        {"request": "load", "case": TINY.to_json()},
        {"request": "block", "repeats": 3},
        {"request": "results", "path": path, "silent": []},
        {"request": "load", "case": {**TINY.to_json(), "cell": "none"}},
        {"request": "block", "repeats": 1},
    ]
    answers = io.StringIO()
    worker.serve("rnn_numpy", io.StringIO("".join(json.dumps(r) + "\n" for r in requests)), answers)
    environment, estimate, block, saved, error, again = map(json.loads, answers.getvalue().splitlines())
    assert environment["result"]["numpy"] == np.__version__
    assert estimate["result"] > 0
    assert len(block["result"]["times"]) == 3
    assert block["result"]["cpu"] > 0
    assert saved == {"result": None}
    assert "OptionError" in error["error"]
    assert len(again["result"]["times"]) == 1
    with np.load(path) as archive:
        assert sorted(archive) == [
            "dbias_hh_l0", "dbias_ih_l0", "dweight_hh_l0", "dweight_ih_l0", "dx", "h_n", "output"
        ]  # fmt: skip


def test_quiet_waits_until_no_thread_spins() -> None:
    import threading

    stop = time.perf_counter() + 0.05

    def spin() -> None:
        while time.perf_counter() < stop:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    worker.quiet()
    ended = time.perf_counter()
    thread.join()
    assert ended >= stop


def test_workers_get_their_threads_and_say_why_they_fail() -> None:
    with worker.Worker("products", 1) as one:
        assert one.environment["variables"] == dict.fromkeys(worker.THREAD_VARIABLES, "1")
        with pytest.raises(worker.WorkerError, match="products at 'nothing'"):
            one.ask("nothing")
        assert one.ask("load", case=TINY.to_json()) > 0
        one._process.kill()
        with pytest.raises(worker.WorkerError, match="ended with exit code -9"):
            one.ask("environment")
    with pytest.raises(worker.WorkerError, match="KeyError"):
        worker.Worker("nobody", 1)


def test_train_step_against_torch(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "out.json"
    arguments = [
        "--sizes",
        "4,2,3,5",
        "1,1,1,1",
        "--threads",
        "1",
        "--repeats",
        "2",
        "--patience",
        "0",
        "--json",
        str(path),
    ]
    assert train_step.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("4, 2, 3, 5") == 2
    assert "geometric mean of their ratios" in printed.out
    document = json.loads(path.read_text())
    assert document["options"] == {
        "cells": ["rnn-tanh", "rnn-relu"],
        "sizes": [[4, 2, 3, 5], [1, 1, 1, 1]],
        "threads": [1],
        "dtypes": ["float32", "float64"],
        "repeats": 2,
        "patience": 0.0,
    }
    assert set(document["machine"]) == {"cpu", "cores", "system", "load", "rnn_numpy"}
    environment = document["contenders"]["1"]
    assert environment["torch"]["torch_threads"] == 1
    assert environment["rnn_numpy"]["numpy"] == np.__version__
    assert len(document["measurements"]) == 2 * 2 * 2
    for point in document["measurements"]:
        assert set(point["times_ns"]) == {"rnn_numpy", "torch", "products"}
        assert {len(blocks) for blocks in point["times_ns"].values()} == {len(point["foreign_cores"])}
        assert len(point["foreign_cores"]) == 2
        assert len(point["largest_relative_difference"]) == 7
        bound = train_step.TOLERANCE[point["case"]["dtype"]]
        assert max(point["largest_relative_difference"].values()) <= bound


def test_unequal_results_end_the_run(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(train_step, "TOLERANCE", {"float64": -1.0})
    arguments = ["--sizes", "1,1,1,1", "--threads", "1", "--repeats", "1", "--dtypes", "float64"]
    assert train_step.main([*arguments, "--cells", "rnn-tanh"]) == 1
    assert "do not compute the same" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("size", [(100, 32, 32, 32), (50, 16, 128, 64), (20, 8, 256, 256)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak_memory_follows_the_formula(size: tuple[int, int, int, int], dtype: str) -> None:
    figures = peak_memory.row(Case("rnn-tanh", size, dtype), resident=False)
    assert 0.9 * figures["formula"] <= figures["traced"] <= 1.05 * figures["formula"] + 50_000


def test_peak_memory_program(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "memory.json"
    assert peak_memory.main(["--sizes", "20,4,8,8", "--dtypes", "float32", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 100
    (figures,) = json.loads(path.read_text())["rows"]
    assert set(figures["resident"]) == {"rnn_numpy", "torch"}
