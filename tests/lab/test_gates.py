"""Gates and saturation: accurate slopes, time constants, and the report that reads them off a trace."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import GRU, LSTM, RNN, PeepholeLSTM
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab import effective_memory, gate_report, time_constant
from rnn_numpy.lab.gates import bias_memory, saturation, sech2

EPS = np.finfo(np.float64).eps


def trace_of(kind, T=30, N=4, D=2, H=5, lengths=None, **options):
    rng = np.random.default_rng(7)
    layer = kind(D, H, **options, rng=rng)
    return layer.forward(rng.normal(size=(T, N, D)), lengths=lengths)[2]


# ------------------------------------------------------------------------------------------------ numbers


@given(st.floats(-350, 350))
def test_the_slope_of_tanh_keeps_its_digits(a):
    with mpmath.workdps(40):
        exact = float(mpmath.sech(a) ** 2)
    assert abs(sech2(a) - exact) <= 8 * EPS * exact
    assert sech2(a) == sech2(-a)


def test_where_the_textbook_form_of_the_slope_fails():
    # What the module promises: 0 from 19 and 10 on, 4 % wrong at 18, while the accurate form goes on.
    assert 1 - np.tanh(19.0) ** 2 == 0 < sech2(19.0)
    assert 1 - np.tanh(np.float32(10)) ** 2 == 0 < sech2(np.float32(10))
    assert 0.03 < abs((1 - np.tanh(18.0) ** 2) / sech2(18.0) - 1) < 0.05
    assert sech2(np.float32(10)).dtype == np.float32
    np.testing.assert_array_equal(sech2([0, 400, np.inf]), [1.0, 0.0, 0.0])


def test_the_slope_of_tanh_integrates_to_tanh():
    a = np.linspace(-3, 3, 601)
    np.testing.assert_allclose(sech2(a), 1 - np.tanh(a) ** 2, rtol=200 * EPS)  # 1 - tanh^2 is 0.01 at 3


@given(st.floats(1e-300, 1.0, exclude_max=True))
def test_a_time_constant_is_when_a_third_is_left(f):
    steps = time_constant(f)
    # f^steps = exp(steps ln f): the logarithm is what rounds.
    np.testing.assert_allclose(steps * math.log(f), -1.0, rtol=4 * EPS)
    assert effective_memory(f) >= 1


def test_memory_is_the_sum_of_what_is_left():
    for f in (0.0, 0.3, 0.9, 0.99):
        np.testing.assert_allclose(effective_memory(f), np.sum(f ** np.arange(5000.0)), rtol=1e-12)


def test_ends_of_the_scale():
    np.testing.assert_array_equal(time_constant([0.0, 1.0]), [0.0, np.inf])
    assert not np.signbit(time_constant([0.0, 1.0])).any()
    np.testing.assert_array_equal(effective_memory([0.0, 1.0]), [1.0, np.inf])
    # An open gate's time constant is half a step short of its memory.
    np.testing.assert_allclose(effective_memory(0.999) - time_constant(0.999), 0.5, rtol=1e-3)


@given(st.floats(1.0, 1e6))
def test_the_chrono_identity(u):
    """With a bias of ln u the gate is u/(1 + u), and 1/(1 - f) = 1 + u."""
    np.testing.assert_allclose(bias_memory(math.log(u)), 1 + u, rtol=32 * EPS)  # of rounding ln u, up to 14 eps
    f = 1 / (1 + math.exp(-math.log(u)))
    # 1 - f has lost the digits of f that lie above it: u of them.
    np.testing.assert_allclose(effective_memory(f), bias_memory(math.log(u)), rtol=4 * EPS * (1 + u) + 32 * EPS)


def test_the_memory_of_a_bias_does_not_depend_on_a_difference():
    assert 1 / (1 + math.exp(-50.0)) == 1.0
    np.testing.assert_allclose(bias_memory(50.0), math.exp(50.0), rtol=4 * EPS)
    assert bias_memory(1000.0) == np.inf


def test_saturation_counts_what_lies_strictly_beyond():
    assert saturation([0.1, 0.05, 0.9, 0.95, 0.5]) == (0.2, 0.2)
    assert saturation([[0.3], [0.6]], 0.5, 0.5) == (0.5, 0.5)
    assert all(math.isnan(share) for share in saturation([]))


def test_what_the_functions_refuse():
    with pytest.raises(DTypeError, match=r"sech2: a must be made of real numbers; got dtype complex128"):
        sech2(1j)
    for function in (time_constant, effective_memory):
        with pytest.raises(OptionError, match=rf"{function.__name__}: f must be in \[0, 1\]; got 1.5"):
            function([0.5, 1.5])
        with pytest.raises(OptionError, match=r"got nan"):
            function(np.nan)
    with pytest.raises(OptionError, match=r"saturation: low must be at most high = 0.1; got 0.9"):
        saturation([0.5], 0.9, 0.1)


# ------------------------------------------------------------------------------------------------ report


@pytest.mark.parametrize("kind", [LSTM, GRU, PeepholeLSTM])
def test_a_report_is_what_its_words_say(kind):
    trace = trace_of(kind)
    report = gate_report(trace["l0"], 0.4, 0.6)
    names = {"GRU": ["r", "z"]}.get(kind.__name__, ["i", "f", "o"])
    assert [summary.gate for summary in report.gates] == names
    assert (report.steps, report.sequences, report.units) == (30, 4, 5)
    for summary in report.gates:
        values = getattr(trace, summary.gate)
        assert (values < 0.4).any() or (values > 0.6).any()  # or the thresholds would test nothing
        np.testing.assert_allclose(summary.mean, sum(values.flat) / values.size, rtol=1e-13)
        assert summary.shut == sum(v < 0.4 for v in values.flat) / values.size
        assert summary.open == sum(v > 0.6 for v in values.flat) / values.size
        assert (summary.kept is None) == (summary.gate not in "fz")


@pytest.mark.parametrize(("kind", "gate"), [(LSTM, "f"), (GRU, "z")])
def test_what_is_kept_is_the_product_of_a_gate_over_the_steps(kind, gate):
    trace = trace_of(kind, N=1)
    summary = gate_report(trace)[gate]
    T = len(trace)
    np.testing.assert_allclose(summary.kept**T, np.prod(getattr(trace, gate)[:, 0], axis=0), rtol=1e-13)
    np.testing.assert_allclose(np.exp(-T / summary.time_constants), summary.kept**T, rtol=1e-13)
    np.testing.assert_allclose(summary.effective_memories * (1 - summary.kept), 1.0, rtol=4 * EPS)


def test_a_net_that_sees_its_bias_alone_has_the_memory_of_the_bias():
    lstm = LSTM(1, 3, rng=0)
    lstm.params.flat[:] = 0.0
    u = np.array([1.0, 9.0, 99.0])
    lstm.params["bias_ih_l0"][3:6] = np.log(u)
    summary = gate_report(lstm.forward(np.ones((7, 2, 1)))[2])["f"]
    np.testing.assert_allclose(summary.effective_memories, 1 + u, rtol=1e-12)
    np.testing.assert_allclose(summary.effective_memories, bias_memory(np.log(u)), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}])
def test_steps_beyond_a_length_do_not_count(options):
    lengths = [3, 30, 12, 7]
    trace = trace_of(LSTM, lengths=lengths, **options)
    for name, run in trace.layers.items():
        report = gate_report(run)
        for summary in report.gates:
            values = np.concatenate([getattr(run, summary.gate)[:length, n] for n, length in enumerate(lengths)])
            np.testing.assert_allclose(summary.mean, values.mean(), rtol=1e-13, err_msg=name)
            assert summary.shut == 0 and (values > 0).all()  # the zeros beyond the ends would be shut gates
        np.testing.assert_allclose(report["f"].kept, np.exp(np.log(report_values(run, lengths)).mean(0)), rtol=1e-13)


def report_values(run, lengths):
    return np.concatenate([run.f[:length, n] for n, length in enumerate(lengths)])


def test_a_trace_means_its_top_layer():
    trace = trace_of(LSTM, num_layers=2)
    assert repr(gate_report(trace)) == repr(gate_report(trace["l1"])) != repr(gate_report(trace["l0"]))
    assert gate_report(trace).name == "l1"


def test_a_gate_that_was_shut_once_remembers_nothing():
    trace = trace_of(LSTM)
    trace.layers["l0"].stored("f")[5, 0, 2] = 0.0
    summary = gate_report(trace)["f"]
    assert summary.kept[2] == 0 and summary.time_constants[2] == 0 and summary.effective_memories[2] == 1
    assert (np.delete(summary.kept, 2) > 0).all()


def test_the_table_of_a_gru_in_single_precision():
    trace = GRU(1, 4, dtype=np.float32, rng=0).forward(np.ones((3, 1, 1), np.float32))[2]
    lines = repr(gate_report(trace)).splitlines()
    assert lines[0] == "Gates of l0: T = 3, N = 1, H = 4"
    assert lines[1].split() == ["gate", "mean", "<", "0.1", ">", "0.9"]
    assert [line.split()[0] for line in lines[2:]] == ["r", "z", "Steps,", "time", "memory"]
    assert lines[-1].startswith("  memory        1/(1 - z) ")
    assert len({len(line) for line in lines[-3:]}) == 1


def test_gates_of_other_cells_can_be_named():
    trace = trace_of(LSTM)
    report = gate_report(trace, gates=["o"], keeping=["o"])
    assert [summary.gate for summary in report.gates] == ["o"] and report["o"].kept.shape == (5,)
    assert "Steps" not in repr(gate_report(trace, gates=["o"]))


def test_what_the_report_refuses():
    with pytest.raises(OptionError, match=r"gate_report: the trace of l0 has no gates; it has x, a, h"):
        gate_report(trace_of(RNN))
    trace = trace_of(LSTM)
    with pytest.raises(OptionError, match=r"gate_report: gates must be arrays of the trace, .*; got 'z'"):
        gate_report(trace, gates=["z"])
    with pytest.raises(OptionError, match=r"gate_report: a gate has values in \[0, 1\]; 'g' of l0 has others"):
        gate_report(trace, gates=["g"])
    with pytest.raises(OptionError, match=r"GateReport: gate must be one of i, f, o; got 'z'"):
        gate_report(trace)["z"]
    with pytest.raises(
        DTypeError, match=r"gate_report: trace must be a Trace or a LayerTrace, as trace\['l0'\].*; got ndarray"
    ):
        gate_report(np.zeros(3))
    with pytest.raises(OptionError, match=r"gate_report: the batch must have at least one sequence; got gates"):
        gate_report(LSTM(2, 3, rng=0).forward(np.zeros((4, 0, 2)))[2])
