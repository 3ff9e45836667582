"""The benchmark of cells on tasks: its runs, its report and its figure."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import rnn_numpy.experiments.task_benchmark
from rnn_numpy import LSTM, RNN
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.experiments import BenchmarkOptions, BenchmarkResult, BenchmarkRun, run_benchmark, task_gradient_flow
from rnn_numpy.experiments.task_benchmark import CELLS, CHECK_EVERY, GIVE_UP, TASKS, benchmark_layer
from rnn_numpy.lab import GradientFlow, gradient_flow
from rnn_numpy.models import SequenceModel
from rnn_numpy.report import benchmark_figure, benchmark_report, save_figure
from rnn_numpy.report.plots.task_benchmark import plot_flows, plot_learning
from rnn_numpy.tasks import Adding, CopyMemory, TemporalOrder
from rnn_numpy.training import ClipLedger, ClipResult

QUICK = BenchmarkOptions(lengths=(4, 6), cells=("rnn-tanh", "gru"), seeds=2, hidden=8, max_updates=120, lr=0.02)


@pytest.fixture(scope="module")
def quick() -> BenchmarkResult:
    return run_benchmark(QUICK)


# Runs


def test_one_run_for_each_length_cell_and_seed(quick: BenchmarkResult) -> None:
    assert [(run.length, run.cell, run.seed) for run in quick.runs] == [
        (length, cell, seed) for length in (4, 6) for cell in ("rnn-tanh", "gru") for seed in (0, 1)
    ]
    assert quick.baselines == {4: 1 / 6, 6: 1 / 6} and quick.goals == {4: 0.01, 6: 0.01}
    for run in quick.runs:
        assert run.checked[0] == 0 and len(run.checked) == len(run.losses)
        assert run.updates == run.checked[-1] <= 120
        assert all(update % CHECK_EVERY == 0 or update == 120 for update in run.checked)
        assert run.before.length == run.length and run.before.count == 16
        assert run.losses[-1] < run.losses[0]
        assert run.solved_at == (run.checked[-1] if run.losses[-1] < 0.01 else None)
        assert not any(loss < 0.01 for loss in run.losses[:-1])
        assert run.seconds > 0 and run.cpu_seconds > 0 and run.stopped == ""


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(quick: BenchmarkResult) -> None:
    again = run_benchmark(dataclasses.replace(QUICK, lengths=(6,), cells=("gru",)))
    for run, other in zip(again.runs, quick.of(6, "gru"), strict=True):
        assert run.losses == other.losses and np.array_equal(run.after.norms, other.after.norms)
    assert again.runs[0].losses != again.runs[1].losses


def test_a_task_is_solved_and_the_run_ends_there() -> None:
    options = BenchmarkOptions(lengths=(2,), cells=("gru",), hidden=16, max_updates=1000, lr=0.01)
    (run,) = run_benchmark(options).runs
    assert run.solved_at == run.updates == run.checked[-1] < 1000
    assert run.losses[-1] < 0.01 <= min(run.losses[:-1])


@pytest.mark.parametrize(
    ("losses", "checked", "solved_at"),
    [
        ([1.0, 0.019, 0.0101, 0.0099], [0, 50, 100, 150], 150),
        ([1.0, 0.01, 0.5, 0.01, 0.01], [0, 50, 100, 150, 170], None),  # at the goal is not below it
    ],
)
def test_solved_is_below_the_goal_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], checked: list[int], solved_at: int | None
) -> None:
    told = iter(losses)
    monkeypatch.setattr(rnn_numpy.experiments.task_benchmark, "quiet_loss", lambda *_: next(told))
    (run,) = run_benchmark(BenchmarkOptions(lengths=(3,), cells=("gru",), hidden=2, batch=2, max_updates=170)).runs
    assert (run.losses, run.checked, run.solved_at) == (losses, checked, solved_at)


def test_progress_goes_from_the_start_to_the_end_in_order() -> None:
    calls: list[tuple[int, int, str]] = []
    options = BenchmarkOptions(lengths=(2,), cells=("gru", "lstm"), hidden=4, max_updates=3, batch=2)
    run_benchmark(options, lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[0] == (0, 2, "") and calls[1][2].startswith("gru, length 2: not solved in 3 updates, ")
    assert calls[-1][:2] == (2, 2) and calls[-1][2].startswith("lstm, length 2: ")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cell", ["irnn", "lstm"])
def test_every_task_runs(task: str, cell: str) -> None:
    result = run_benchmark(
        BenchmarkOptions(task, lengths=(25,), cells=(cell,), hidden=4, batch=3, max_updates=2, clip=0.01)
    )
    (run,) = result.runs
    assert run.updates == 2 and run.ledger.engaged == 2 and np.isfinite(run.losses).all()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["runs"][0]["cell"] == cell
    assert f"\n    25 {cell}" in benchmark_report(result)
    benchmark_figure(result)


def test_a_gradient_that_is_not_finite_is_left_out_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: SequenceModel, *batch: Any) -> Any:
        grads = self.params.zeros_like()
        grads.flat[:] = np.nan
        return np.nan, grads, None

    monkeypatch.setattr(SequenceModel, "loss_and_grads", spoilt)
    options = BenchmarkOptions(lengths=(5,), cells=("lstm",), hidden=4, max_updates=50)
    result = run_benchmark(options)
    (run,) = result.runs
    assert run.updates == GIVE_UP == run.ledger.skipped
    assert run.losses[-1] == run.losses[0]  # no parameter has moved
    report = " ".join(benchmark_report(result).split())
    assert (
        "lstm at length 5, seed 0: 10 updates left out, the gradient not being finite; ended early, since the" in report
    )
    assert "Clipping engaged" not in report
    assert result.to_dict()["runs"][0]["stopped"] == "the gradient was not finite in 10 updates in a row"


def test_layers_of_a_benchmark() -> None:
    options = BenchmarkOptions(hidden=5, forget_bias=2.0)
    for cell in CELLS:
        layer = benchmark_layer(cell, 2, options, np.random.default_rng(0))
        assert layer.dtype == np.float32 and layer.hidden_size == 5
    irnn = benchmark_layer("irnn", 2, options, np.random.default_rng(0))
    assert isinstance(irnn, RNN) and irnn.nonlinearity == "relu"
    assert np.array_equal(irnn.params["weight_hh_l0"], np.eye(5, dtype=np.float32))
    lstm = benchmark_layer("lstm", 2, options, np.random.default_rng(0))
    assert np.array_equal(lstm.params["bias_ih_l0"][5:10] + lstm.params["bias_hh_l0"][5:10], np.full(5, 2.0))


@pytest.mark.parametrize("task", [Adding(12), TemporalOrder(12), CopyMemory(3)], ids=str)
def test_the_flow_is_that_of_each_sequences_last_error(task: Any) -> None:
    """The norms at lags 0 and 5 against dL/dh from a run on one sequence, with a loss of the last step alone."""
    layer = LSTM(task.inputs, 4, rng=0)
    model = SequenceModel(layer, task.outputs, reads=task.reads, loss=task.loss, rng=1)
    batch = task.draw(3, np.random.default_rng(0))
    flow = task_gradient_flow(model, batch)
    assert flow.norms.shape == (task.steps + 1, 3)
    last = SequenceModel(layer, task.outputs, loss=task.loss)
    last.readout.load_state_dict(model.readout.state_dict())
    for n in range(3):
        target = batch.target[-1, n : n + 1] if task.reads == "all" else batch.target[n : n + 1]
        _, _, trace = last.loss_and_grads(batch.x[:, n : n + 1], target)
        reference = gradient_flow(layer, batch.x[:, n : n + 1], trace.dh[-1])
        np.testing.assert_allclose(flow.norms[:, n], reference.norms[:, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sorting"}, "BenchmarkOptions: task must be one of 'adding', 'copy', 'temporal-order', "),
        (
            {"cells": ["elman"]},
            "BenchmarkOptions: cells must be among rnn-tanh, rnn-relu, irnn, lstm, gru; got 'elman'",
        ),
        ({"cells": []}, "BenchmarkOptions: cells must be at least one, all different; got []"),
        ({"lengths": [5, 5]}, "BenchmarkOptions: lengths must be at least one, all different; got [5, 5]"),
        ({"lengths": [1]}, "Adding: length must be at least 2; got 1"),
        ({"seeds": 0}, "BenchmarkOptions: seeds must be at least 1; got 0"),
        ({"max_updates": 0}, "BenchmarkOptions: max_updates must be at least 1; got 0"),
        ({"lr": -1.0}, "BenchmarkOptions: lr must be greater than 0; got -1.0"),
        ({"clip": math.inf}, "BenchmarkOptions: clip must be finite; got inf"),
        ({"forget_bias": math.nan}, "BenchmarkOptions: forget_bias must be finite; got nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        BenchmarkOptions(**options)
    assert str(caught.value).startswith(message)
    with pytest.raises(DTypeError, match="hidden must be an integer"):
        BenchmarkOptions(hidden=1.5)  # type: ignore[arg-type]


# The report


def made_up(cell: str, length: int, seed: int, solved_at: int | None, error: float, **more: Any) -> BenchmarkRun:
    ledger = ClipLedger()
    for k in range(4):
        ledger.record(ClipResult(2.0, 0.5, k < more.get("clipped", 1), 1.0, dominant="rnn.weight_hh_l0"))
    rate = more.get("rate", -0.5)
    flow = GradientFlow(np.exp(rate * np.arange(length + 1.0)[:, None] * np.array([0.99, 1.0, 1.01])), 3.0)
    checked = [0, 50, solved_at or 100]
    return BenchmarkRun(cell, length, seed, checked, [1.0, 0.2, error / 6], solved_at, ledger, flow, flow, 9.0, 3.25)


def report_of(*runs: BenchmarkRun, **options: Any) -> tuple[BenchmarkResult, str]:
    lengths, cells = (tuple(dict.fromkeys(values)) for values in zip(*((r.length, r.cell) for r in runs), strict=True))
    chosen = BenchmarkOptions(lengths=lengths, cells=cells, max_updates=100, **options)
    tasks = {length: TASKS[chosen.task](length) for length in lengths}
    result = BenchmarkResult(
        chosen, {k: t.baseline for k, t in tasks.items()}, {k: t.goal for k, t in tasks.items()}, list(runs)
    )
    return result, benchmark_report(result)


def test_a_row_says_what_its_runs_did() -> None:
    _, report = report_of(
        made_up("rnn-tanh", 50, 0, None, 0.98, clipped=2),
        made_up("rnn-tanh", 50, 1, None, 1.01, clipped=4),
        made_up("lstm", 50, 0, 60, 0.04),
        made_up("lstm", 50, 1, None, 0.5),
        made_up("gru", 50, 0, 60, 0.04, rate=0.001),
        made_up("gru", 50, 1, 80, 0.041, rate=0.001),
        seeds=2,
    )
    rows = {line.split()[1]: line.split()[2:] for line in report.splitlines() if line.startswith("    50 ")}
    assert rows["rnn-tanh"] == ["0", "of", "2", ">100", "0.98–1.01", "75", "%", "10", "10", "3.2"]
    assert rows["lstm"] == ["1", "of", "2", "60", "0.04–0.50", "25", "%", "10", "10", "3.2"]
    assert rows["gru"] == ["2", "of", "2", "60–80", "0.04", "25", "%", ">50", ">50", "3.2"]
    assert max(map(len, report.splitlines())) <= 100
    text = " ".join(report.split())
    assert (
        "Length 50: solved by lstm with 1 of 2 seeds (after 60 updates) and gru (after 60 to 80 updates); not solved "
        "by rnn-tanh and lstm with the others in 100 updates."
    ) in text
    assert (
        "rnn-tanh at length 50, and its gradient: at the start it halves every 1.39 steps, and 1.4e-11 of it is left "
        "50 steps back; at the end it halves every 1.39 steps, and 1.4e-11 of it is left 50 steps back."
    ) in text
    assert "lstm at length 50, and" not in text and "gru at length 50, and" not in text
    assert "a loss of 0.167 (solved below 0.01)." in text
    assert (
        "Clipping engaged most often in rnn-tanh at length 50: at 75 % of the updates; the longest gradient there was "
        "mostly that of rnn.weight_hh_l0."
    ) in text


def test_baselines_that_depend_on_the_length_are_listed() -> None:
    runs = [made_up("lstm", length, 0, None, 1.0) for length in (10, 30)]
    _, report = report_of(*runs, task="copy")
    text = " ".join(report.split())
    assert "a loss of 0.693 (solved below 0.0693) and 0.416 (solved below 0.0416) at lengths 10 and 30." in text


def test_gradients_that_grow_or_end() -> None:
    _, report = report_of(
        made_up("rnn-tanh", 20, 0, None, 1.0, rate=0.5, clipped=0),
        made_up("irnn", 20, 0, None, 1.0, rate=0.0, clipped=0),
    )
    text = " ".join(report.split())
    assert "it doubles every 1.39 steps, and 22026 of it is left 20 steps back" in text
    assert "irnn at length 20, and its gradient: at the start it is steady, and 1.00 of it is left" in text
    assert "Clipping to a norm of 1 never engaged." in text
    mixed = [made_up("gru", 20, 0, None, 1.0, rate=-0.5), made_up("gru", 20, 1, None, 1.0, rate=0.0)]
    text = " ".join(report_of(*mixed, seeds=2)[1].split())
    assert "at the start it halves every 1.39 steps or is steady, and 0.00674 of it is left 20 steps back" in text
    run = dataclasses.replace(made_up("gru", 20, 0, None, 1.0), after=GradientFlow(np.full((21, 2), np.inf), 2.0))
    _, report = report_of(run)
    assert "; it is not finite at the end." in " ".join(report.split())


# The figure


def test_curves_and_flows_of_every_cell(quick: BenchmarkResult) -> None:
    figure = benchmark_figure(quick)
    assert len(figure.axes) == 4
    for column, length in enumerate((4, 6)):
        learning, flows = figure.axes[column], figure.axes[2 + column]
        assert learning.get_title() == f"length {length}"
        curves = [line for line in learning.lines if len(line.get_xdata()) > 2]
        assert len(curves) == 4  # two cells, two seeds
        for line, run in zip(curves, quick.of(length, "rnn-tanh") + quick.of(length, "gru"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), run.checked)
            np.testing.assert_allclose(line.get_ydata(), np.array(run.losses) * 6, rtol=1e-12)
        assert len(flows.lines) == 4  # two cells, start and end
        before = quick.flows(length, "rnn-tanh")[0]
        assert before.count == 32
        np.testing.assert_allclose(flows.lines[0].get_ydata(), before.typical / before.typical[0], rtol=1e-12)
        for ax in (learning, flows):
            assert ax.get_yscale() == "log"
    cells, meant = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert cells == ["rnn-tanh", "gru"]
    assert meant == ["above: baseline", "above: goal", "below: at the start", "below: at the end"]
    looks = [line.get_linestyle() for line in figure.legends[1].get_lines()]
    assert looks == [learning.lines[-2].get_linestyle(), learning.lines[-1].get_linestyle()] + [
        line.get_linestyle() for line in flows.lines[:2]
    ]


def test_what_a_log_axis_cannot_show_is_left_out() -> None:
    run = made_up("gru", 20, 0, None, 1.0)
    norms = np.ones((21, 2))
    norms[7:] = 0
    for flow in (GradientFlow(norms, 2.0), GradientFlow(np.full((21, 2), np.nan), 2.0), GradientFlow(norms * 0, 2.0)):
        losses = [1.0, math.inf, math.nan]
        result, _ = report_of(dataclasses.replace(run, before=flow, after=flow, losses=losses))
        ax = Figure().subplots()
        assert plot_flows(result, 20, ax) is ax
        drawn = np.isfinite(ax.lines[0].get_ydata()).sum()
        assert drawn == (7 if flow.typical[0] == 1 else 0)
        assert plot_learning(result, 20, ax) is ax
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["runs"][0]["losses"] == [1.0, None, None]
        save_figure(benchmark_figure(result), io.BytesIO(), ".png")


def test_the_same_result_gives_the_same_bytes(quick: BenchmarkResult) -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        save_figure(benchmark_figure(quick), file, ".svg")
    assert files[0].getvalue() == files[1].getvalue()


def test_all_that_is_drawn_lies_inside(quick: BenchmarkResult) -> None:
    for result in (quick, run_benchmark(BenchmarkOptions(lengths=(3,), cells=CELLS, hidden=2, max_updates=1, batch=2))):
        figure = benchmark_figure(result)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        width, height = figure.get_size_inches() * figure.dpi
        boxes = [legend.get_window_extent(renderer) for legend in figure.legends] + [
            ax.get_tightbbox(renderer) for ax in figure.axes
        ]
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        titles = figure.axes[0].title.get_window_extent(renderer)
        assert titles.y1 < boxes[1].y0 and boxes[1].y1 <= boxes[0].y0 + 1
