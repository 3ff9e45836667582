"""The report of gradflow: one row per network, at most 100 columns, plain sentences that say what the numbers say."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy.errors import MissingExtraError
from rnn_numpy.experiments import GradflowOptions, GradflowResult, NetworkResult, TrainingRecord, run_gradflow
from rnn_numpy.lab import GradientFlow
from rnn_numpy.report import gradflow_report
from rnn_numpy.report.gradflow_page import lags_left, report_lags
from rnn_numpy.report.tables import plain, short
from rnn_numpy.tasks import ForecastTask, Series


def series(n: int = 300) -> Series:
    return Series("wave", np.sin(np.arange(float(n)))[:, None], ("a",), "a sine")


def report_of(*networks: NetworkResult, length: int = 100, baseline: float = 0.5, **options: Any) -> str:
    task = ForecastTask.of(series(), length)
    options.setdefault("gains", sorted({network.gain for network in networks}))
    options.setdefault("seeds", len({network.seed for network in networks}))
    return gradflow_report(GradflowResult(task, GradflowOptions(length=length, **options), baseline, list(networks)))


def decay(rate: float, length: int = 100, windows: int = 3, **gates: float) -> GradientFlow:
    # Slopes that differ by +-1 % between windows.
    rates = rate * (1 + 0.01 * np.linspace(-1, 1, windows))
    return GradientFlow(np.exp(rates * np.arange(length + 1.0)[:, None]), float(windows), gates)


def rows(report: str, title: str) -> list[str]:
    lines = report.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    start = next(i for i in range(start, len(lines)) if set(lines[i]) == {"─"}) + 1
    return lines[start : lines.index("", start)]


def test_one_row_per_network_with_all_that_is_asked_for() -> None:
    options = GradflowOptions(length=200, hidden=8, train_steps=3, seeds=1)
    result = run_gradflow(ForecastTask.of(series(700), 200), options)
    report = gradflow_report(result)
    before, after = rows(report, "Before training"), rows(report, "After 3 training steps")
    assert len(before) == len(after) == len(rows(report, "Training")) == 12
    assert max(map(len, report.splitlines())) <= 100
    for row, network in zip(before, result.networks, strict=True):
        flow = network.before
        fields = row.split()
        assert fields[0] == network.cell and float(fields[1]) == network.gain
        for field, lag in zip(fields[2:5], (0, 10, 200), strict=True):
            assert field == short(float(flow.typical[lag]))
        for field, at in zip(fields[5:8], (flow.half_at, flow.tenth_at, flow.hundredth_at), strict=True):
            assert field == (">200" if at is None else str(at))
        assert flow.slope is not None and flow.standard_error is not None
        assert fields[8:10] == [f"{flow.slope:.3f}", f"±{flow.standard_error:.3f}"]
        assert fields[10:12] == [f"{flow.early_slope:.3f}", f"{flow.late_slope:.3f}"]
        assert " ".join(fields[12:]) == flow.verdict
    assert f"Training (loss of repeating the last value: {plain(result.baseline)})" in report
    # Side by side: a row for each gain, a column for each cell.
    table = report[report.index("Reach: ") :].splitlines()
    assert table[0] == "Reach: steps back until a hundredth of the gradient is left, before to after training"
    assert table[1].split() == ["gain", "rnn-tanh", "rnn-relu", "lstm", "gru"]
    for line, gain in zip(rows(report, "Reach: "), (0.5, 1.0, 1.5), strict=True):
        reaches = [
            ">200" if flow.hundredth_at is None else str(flow.hundredth_at)
            for network in result.networks
            if network.gain == gain
            for flow in (network.before, network.after)
            if flow is not None
        ]
        assert line.replace(" to ", " ").split() == [f"{gain:g}", *reaches]


def test_cells_are_compared_in_words() -> None:
    report = report_of(
        NetworkResult("rnn-tanh", 0.5, decay(-1.0), 1.0),
        NetworkResult("rnn-tanh", 1.5, decay(-0.04), 1.0),
        NetworkResult("lstm", 0.5, decay(-0.4, f=0.5), 1.0),
        NetworkResult("lstm", 1.5, decay(-0.1, f=0.5), 1.0),
        NetworkResult("gru", 0.5, decay(-0.2, z=0.4), 1.0),
        NetworkResult("gru", 1.5, decay(-0.0401, z=0.6), 1.0),
    )
    assert [line.split() for line in rows(report, "Reach: ")] == [
        ["0.5", "5", "12", "24"],
        ["1.5", ">100", "47", ">100"],
    ]
    flat = " ".join(report.split())
    assert (
        "Before training, the gradient vanishes in rnn-tanh 0.5 and 1.5 (halves every 0.693 and 17.3 steps), lstm 0.5 "
        "and 1.5 (halves every 1.73 and 6.93 steps) and gru 0.5 and 1.5 (halves every 3.47 and 17.3 steps): inputs far"
    ) in flat
    assert (
        "Before training, the gradient reaches furthest back in rnn-tanh 1.5 and gru 1.5, where more than a hundredth "
        "of it is left at lag 100, and least far in rnn-tanh 0.5, where a hundredth of it is left after 5 steps."
    ) in flat
    assert "After training, the gradient reaches" not in flat
    assert (
        "Before training, the gain matters most to rnn-tanh and least to gru: from gain 0.5 to gain 1.5 the decay per "
        "step changes from -1.000 to -0.040 in rnn-tanh, -0.400 to -0.100 in lstm and -0.200 to -0.040 in gru."
    ) in flat
    assert (
        "The forget gate f of lstm is 0.50 on average; the update gate z of gru is 0.40 to 0.60 on average. This share "
        "of the gradient is handed back at each step without passing W_hh. The forget bias starts near 0; at 1, f "
        "would start near 0.73."
    ) in flat
    assert "Norm: of dL/dh, and of dL/d(h, c) for lstm, in the layer, L the squared error" in flat
    assert "Gain: spectral radius of W_hh at the start; for lstm and gru, of each gate's block of it." in flat


def test_cells_that_reach_equally_far() -> None:
    record = TrainingRecord([1.0], [0.5], 0)
    report = report_of(
        NetworkResult("rnn-tanh", 1.0, decay(-1.0), 1.0, decay(0.0), 1.0, record),
        NetworkResult("gru", 1.0, decay(-1.0, z=0.5), 1.0, decay(0.0, z=0.75), 1.0, record),
    )
    assert [line.split() for line in rows(report, "Reach: ")] == [["1", "5", "to", ">100", "5", "to", ">100"]]
    flat = " ".join(report.split())
    assert "Before training, the gradient reaches equally far back in all networks: a hundredth of it is left " in flat
    assert "After training, the gradient reaches equally far back in all networks: more than a hundredth of it " in flat
    assert "The update gate z of gru is 0.50 on average before training and 0.75 after. This share" in flat
    assert "forget" not in flat and "the gain matters" not in flat


def test_one_cell_is_not_compared() -> None:
    report = report_of(
        NetworkResult("lstm", 0.5, decay(-1.0, f=0.7), 1.0),
        NetworkResult("lstm", 1.0, decay(-0.5, f=0.75), 1.0),
        cells=["lstm"],
        forget_bias=1.0,
    )
    flat = " ".join(report.split())
    assert "Reach: " not in flat and "furthest" not in flat and "the gain matters" not in flat
    assert "The forget gate f of lstm is 0.70 to 0.75 on average. This share" in flat
    assert "The forget bias starts at 1." in flat
    assert "Norm: of dL/d(h, c) in the layer, L" in flat


def test_a_diverged_network_reaches_nowhere() -> None:
    record = TrainingRecord([1.0], [0.5], 0)
    lost = GradientFlow(np.full((101, 4), np.nan), 4.0, {"f": math.nan})
    report = report_of(
        NetworkResult("lstm", 1.0, decay(-1.0, f=0.5), 1.0, lost, math.nan, record),
        NetworkResult("rnn-tanh", 1.0, decay(-1.0), 1.0, decay(-0.1), 1.0, record),
        NetworkResult("rnn-tanh", 2.0, decay(-1.0), 1.0, decay(-0.1), 1.0, record),
    )
    assert [line.split() for line in rows(report, "Reach: ")] == [
        ["1", "5", "to", "-", "5", "to", "47"],
        ["2", "-", "5", "to", "47"],
    ]
    flat = " ".join(report.split())
    assert "After training, the gradient reaches" not in flat  # one cell is left
    assert "The forget gate f of lstm is 0.50 on average before training. This share" in flat


def test_half_life_and_doubling_time() -> None:
    report = report_of(
        NetworkResult("rnn-tanh", 0.5, decay(-0.1), 1.0),
        NetworkResult("rnn-tanh", 1.0, decay(0.0), 1.0),
        NetworkResult("rnn-tanh", 1.5, decay(0.1), 0.25),
    )
    vanishing, steady, exploding = (row.split() for row in rows(report, "Before training"))
    assert vanishing[5:] == ["7", "24", "47", "-0.100", "±0.001", "-0.100", "-0.100", "vanishing"]
    assert steady[5:] == [">100"] * 3 + ["0.000", "±0.000", "0.000", "0.000", "steady"]
    assert exploding[5:] == [">100"] * 3 + ["0.100", "±0.001", "0.100", "0.100", "exploding"]
    flat = " ".join(report.split())
    assert (
        "Before training, the gradient vanishes in rnn-tanh 0.5 (halves every 6.93 steps): inputs far back in time "
        "hardly change the weights; it is steady in rnn-tanh 1: from lag 0 to lag 100 it changes by less than a factor "
        "of 10; it explodes in rnn-tanh 1.5 (doubles every 6.93 steps): a small "
        "change far back changes the loss a lot, and updates need clipping."
    ) in flat
    assert "Repeating the last value gives a loss of 0.500; 1 of 3 networks beats it (none is trained)." in flat
    assert "The best is rnn-tanh 1.5 with 0.250." in flat


def test_clipping_and_training_are_told() -> None:
    record = TrainingRecord([1.0] * 4, [1.0, 2.0, 3.0, 90.0], 3)
    report = report_of(
        NetworkResult("rnn-relu", 1.5, decay(0.1), 2.0, decay(-0.1), 0.4, record), clip=1.5, train_steps=4
    )
    assert rows(report, "Training")[0].split() == ("rnn-relu 1.5 4 75 % 90.0 1.00 to 1.00 2.00 0.400".split())
    flat = " ".join(report.split())
    assert "Clipping to a norm of 1.50 engaged most often in rnn-relu 1.5: in 75 % of its training steps." in flat
    assert "Repeating the last value gives a loss of 0.500; the network beats it. The best is" in flat
    never = report_of(
        NetworkResult("rnn-relu", 1.5, decay(0.1), 2.0, decay(-0.1), 0.6, TrainingRecord([1.0], [0.5], 0))
    )
    assert "Clipping to a norm of 1.00 never engaged." in never
    assert "gives a loss of 0.500; the network does not beat it." in " ".join(never.split())


def test_networks_that_clip_alike_are_all_named() -> None:
    def network(gain: float, clipped: int) -> NetworkResult:
        record = TrainingRecord([1.0] * 4, [2.0] * 4, clipped)
        return NetworkResult("rnn-tanh", gain, decay(0.0), 1.0, decay(0.0), 1.0, record)

    flat = " ".join(report_of(network(0.5, 3), network(1.0, 1), network(1.5, 3)).split())
    assert "engaged most often in rnn-tanh 0.5 and rnn-tanh 1.5: in 75 % of their training steps." in flat
    flat = " ".join(report_of(network(0.5, 3), network(1.0, 3)).split())
    assert "Clipping to a norm of 1.00 engaged in 75 % of the training steps of each network." in flat


def test_steady_says_why() -> None:
    made = {
        1.0: decay(0.0),
        2.0: decay(0.001),
        3.0: decay(-0.001),
        4.0: of_slopes(0.01, 0.02, 0.1),  # the mean, 0.043, is within two standard errors, of 0.028 each
        5.0: of_slopes(-0.1, 0.02, 0.3),
    }
    report = report_of(*(NetworkResult("rnn-tanh", gain, flow, 1.0) for gain, flow in made.items()))
    verdicts = ["steady", "growing", "fading", "uneven", "mixed"]
    assert [row.split()[-1] for row in rows(report, "Before training")] == verdicts
    assert (
        "Before training, the gradient fades in rnn-tanh 3 (halves every 693 steps), from lag 0 to lag 100 by less "
        "than a factor of 10; it is steady in rnn-tanh 1: from lag 0 to lag 100 it changes by less than a factor of "
        "10; it grows in rnn-tanh 2 (doubles every 693 steps), from lag 0 to lag 100 by less than a factor of 10; it "
        "is uneven in rnn-tanh 4: it changes by a factor of 10 or more, but in no direction that is sure; it is mixed "
        "in rnn-tanh 5: it explodes in a quarter of the windows or more, and vanishes in as many."
    ) in " ".join(report.split())


def of_slopes(*rates: float) -> GradientFlow:
    return GradientFlow(np.exp(np.array(rates) * np.arange(101.0)[:, None]), float(len(rates)))


def test_what_is_said_of_a_network_holds_for_all_of_its_draws() -> None:
    draws = [(-0.1, 1.0), (-0.12, 1.25), (0.1, 0.75), (-0.4, 0.5)]
    record = TrainingRecord([1.0], [0.5], 0)
    report = report_of(
        *(
            NetworkResult("rnn-tanh", 1.0, decay(slope), loss, decay(-0.4), 0.25, record, seed)
            for seed, (slope, loss) in enumerate(draws)
        ),
        *(
            NetworkResult("lstm", 1.0, decay(-0.4, f=0.5), 1.0, decay(0.0, f=0.5), 1.0, record, seed)
            for seed in range(4)
        ),
    )
    table = (
        "rnn-tanh 1 1.0e0 3.3e-1 1.7e-5 2–>100 6–>100 12–>100 -0.130 ±0.206 -0.130 -0.130 3 vanishing",
        "1 exploding",
        "lstm 1 1.0e0 1.8e-2 4.2e-18 2 6 12 -0.400 ±0.000 -0.400 -0.400 vanishing",
    )
    assert [line.split() for line in rows(report, "Before training")] == [line.split() for line in table]
    assert rows(report, "Reach: ")[0].split() == "1 12–>100 to 12 12 to >100".split()
    assert rows(report, "Training")[0].split()[-3:] == ["1.00", "0.500–1.25", "0.250"]
    flat = " ".join(report.split())
    assert "Before training, 4 draws of each norm at" in flat
    assert (
        "Before training, the gradient vanishes in rnn-tanh 1 in 3 of 4 draws (halves every 1.73 to 6.93 steps) and "
        "lstm 1 (halves every 1.73 steps): inputs far back in time hardly change the weights; it explodes in rnn-tanh "
        "1 in 1 of 4 draws (doubles every 6.93 steps): a small change"
    ) in flat
    assert "After training, the gradient vanishes in rnn-tanh 1 (halves every 1.73 steps): inputs" in flat
    assert "where in the median of the draws a hundredth of it is left after 39 steps, and least far" in flat
    assert "4 of 8 networks beat it. The best is rnn-tanh 1 (seed 0) with 0.250." in flat
    assert "mean and ± standard deviation over 4 draws; the standard error within one draw, by the spread" in flat


def test_a_decay_that_no_exponential_describes_is_told() -> None:
    bent = GradientFlow(np.exp(-0.5 * np.minimum(np.arange(101.0), 20))[:, None] * np.ones(3), 3.0)
    flat = " ".join(
        report_of(NetworkResult("gru", 1.0, bent, 1.0), NetworkResult("gru", 2.0, decay(-1.0), 1.0)).split()
    )
    assert "vanishes in gru 1 and gru 2 (halves every 0.693 steps): inputs far" in flat
    assert "No single exponential describes it in gru 1: see early and late." in flat
    assert " 2 5 10 -0.053 ±0.000 -0.500 0.000 vanishing " in flat


def test_lags_of_diverged_flows_are_left_out() -> None:
    lost = GradientFlow(np.full((101, 4), np.nan), 4.0)
    assert lags_left([lost], 0.5) == "-" and lags_left([lost, decay(-0.1)], 0.5) == "7"


def test_counts_and_gains_are_told_apart() -> None:
    record = TrainingRecord([1.0], [0.5], 0)
    made = [NetworkResult("rnn-tanh", gain, decay(0.0), 1.0, decay(0.0), 1.0, record) for gain in (1.0, 1.00001)]
    report = report_of(*made, length=1)
    assert [row.split()[1] for row in rows(report, "Before training")] == ["1", "1.00001"]
    assert [row.split()[1] for row in rows(report, "Training")] == ["1", "1.00001"]
    flat = " ".join(report.split())
    assert "is steady in rnn-tanh 1 and 1.00001: from" in flat
    assert "After 1 training step" in report.splitlines()
    assert "1 training steps" not in report
    assert "in units of each channel's variance in the training part" in flat


def test_what_cannot_be_measured_is_told() -> None:
    zeros = np.ones((101, 4))
    zeros[7:, :3] = 0.0
    stopped = TrainingRecord([math.inf], [], 0, "when the gradient of step 1 was no longer finite")
    report = report_of(
        NetworkResult("rnn-relu", 0.5, GradientFlow(zeros, 4.0), 1.0),
        NetworkResult(
            "rnn-relu", 9.0, decay(0.1), 1.0, GradientFlow(np.full((101, 4), np.inf), 4.0), math.nan, stopped
        ),
    )
    row, burst = rows(report, "Before training")[0].split(), rows(report, "After")[0].split()
    assert row[2:8] == ["1.0e0", "0", "0", "7", "7", "7"] and row[-2:] == ["cut", "off"]
    assert burst[2:] == ["inf", "inf", "inf", "-", "-", "-", "-", "-", "-", "diverged"]
    flat = " ".join(report.split())
    assert "rnn-relu 0.5 (in 3 of 4 windows, from lag 7 on in the median). Such a window counts up to that lag." in flat
    assert (
        "After training, nothing can be measured in rnn-relu 9: training diverged, and the gradient is not finite even "
        "at the last step."
    ) in flat
    assert "After 0 training steps\n" in report
    assert "Before training, the gradient is cut off in rnn-relu 0.5: exactly 0 from some lag on" in flat
    assert "Too large for a float, after training, the gradient or the states: rnn-relu 9 (in 4 of 4 windows)." in flat
    assert "* rnn-relu 9: training ended early, when the gradient of step 1 was no longer finite." in flat
    assert "no network has a finite loss." in flat


def test_no_standard_error_is_told() -> None:
    flow = GradientFlow(np.exp(-np.arange(101.0))[:, None], 1.0)
    report = report_of(NetworkResult("rnn-tanh", 0.5, flow, 1.0))
    assert "±" not in rows(report, "Before training")[0]
    assert "(not known: the training part holds no two independent windows)" in " ".join(report.split())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rnn-tanh", "rnn-relu", "lstm", "gru"]),
            st.floats(1e-6, 1e9),
            st.floats(-300, 300),
            st.floats(0, 1e300),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda network: network[:2],
    ),
    st.sampled_from([1, 3, 50, 100, 148]),
)
def test_never_wider_than_100_columns(networks: list[tuple[str, float, float, float]], length: int) -> None:
    made = []
    for cell, gain, rate, loss in networks:
        with np.errstate(over="ignore", under="ignore"):
            flow = decay(rate, length, f=0.5, z=0.25)
        record = TrainingRecord([loss, loss], [loss, loss], 2)
        made.append(NetworkResult(cell, gain, flow, loss, flow, loss, record))
    report = report_of(*made, length=length)
    assert max(map(len, report.splitlines())) <= 100
    assert "nan" not in report and "None" not in report


def test_the_environment_does_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NetworkResult("rnn-tanh", 0.5, decay(-0.1), 1.0)
    here = report_of(network)
    for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("TERM", "dumb"), ("LINES", "9")):
        monkeypatch.setenv(name, value)
    assert report_of(network) == here
    assert "\x1b" not in here


def test_lags() -> None:
    assert report_lags(200) == [0, 1, 10, 50, 100, 200]
    assert report_lags(100) == [0, 1, 10, 50, 100]
    assert report_lags(1) == [0, 1]


@given(st.one_of(st.floats(0), st.none(), st.just(math.nan)))
def test_numbers_are_short_and_right(value: float | None) -> None:
    text = short(value)
    assert len(text) <= 7
    if value is not None and value < 1e308:  # rounding up to one digit would leave the float range
        np.testing.assert_allclose(float(text), value, rtol=0.5)


def test_missing_rich_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(MissingExtraError, match=r'the table needs rich, .* pip install "rnn_numpy\[lab\]"'):
        report_of(NetworkResult("rnn-tanh", 0.5, decay(-0.1), 1.0))
