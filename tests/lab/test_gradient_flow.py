"""The gradient flow: against closed forms, against derivatives that know no BPTT, and on what cannot be measured."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from processes import ended

from rnn_numpy import GRU, LSTM, RNN, Forecaster
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.experiments import GradflowOptions, GradflowResult, run_gradflow
from rnn_numpy.experiments.gradflow import gain_texts
from rnn_numpy.lab import GradientFlow, forecast_gradient_flow, gradient_flow, set_recurrent_weights
from rnn_numpy.lab.gradient_flow import VERDICTS
from rnn_numpy.tasks import ForecastTask, Series, load_bundled

Array = NDArray[Any]
CELLS = ("rnn-tanh", "rnn-relu", "lstm", "gru")


def wave(n: int = 120) -> Series:
    t = np.arange(float(n))
    return Series("wave", np.stack([np.sin(t / 3), np.cos(t / 5) + np.sin(t)], axis=1), ("a", "b"))


def small_run(**changes: Any) -> GradflowResult:
    given_options: dict[str, Any] = {"length": 20, "hidden": 8, "batch": 5, "train_steps": 10, "seeds": 1, **changes}
    options = GradflowOptions(**given_options)
    return run_gradflow(ForecastTask.of(wave(), options.length), options)


def flow_of(*windows: list[float], independent: float | None = None) -> GradientFlow:
    return GradientFlow(np.array(windows).T, float(len(windows)) if independent is None else independent)


# Closed forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nonlinearity", "init"), [("tanh", "orthogonal"), ("tanh", "identity"), ("relu", "identity")])
@pytest.mark.parametrize("gain", [0.5, 0.9, 1.0, 1.1, 1.5])
def test_linear_regime_decays_by_the_gain(nonlinearity: str, init: str, gain: float) -> None:
    """Where tanh' or relu' is 1 the net is linear: the norm is g^lag, the slope ln g, but for rounding."""
    rng = np.random.default_rng(1)
    T, N, H = 60, 3, 7
    rnn = RNN(2, H, nonlinearity=nonlinearity, rng=rng)
    set_recurrent_weights(rnn, gain, init, rng)
    rnn.params["bias_hh_l0"][:] = 0.0
    # States so small that 1 - h^2 is 1, or so far above 0 that no unit is off.
    rnn.params["bias_ih_l0"][:] = 0.0 if nonlinearity == "tanh" else 10.0
    x = rng.uniform(-1e-25, 1e-25, (T, N, 2))
    assert_linear(gradient_flow(rnn, x, rng.standard_normal((N, H))), gain)


def assert_linear(flow: GradientFlow, gain: float) -> None:
    lags = np.arange(flow.length + 1)
    np.testing.assert_allclose(flow.norms, flow.norms[0] * gain ** lags[:, None], rtol=1e-13)
    assert flow.slope is not None
    # 1 + slope: where ln g is 0, an error relative to it means nothing.
    np.testing.assert_allclose(1 + flow.slope, 1 + math.log(gain), rtol=1e-14)
    expected = (
        "steady" if abs(math.log(gain)) * flow.length < math.log(10) else "vanishing" if gain < 1 else "exploding"
    )
    assert flow.verdict == expected
    if gain != 1:
        assert flow.half_life is not None
        np.testing.assert_allclose(flow.half_life, math.log(2) / abs(math.log(gain)), rtol=1e-12)


@pytest.mark.parametrize(("forget_bias", "f"), [(0.0, 0.5), (1.0, 1 / (1 + math.exp(-1.0)))])
def test_an_lstm_without_recurrent_weights_decays_by_its_forget_gate(forget_bias: float, f: float) -> None:
    """c is then the only way back, and dc_{t-1} = f dc_t."""
    lstm = LSTM(1, 5, rng=0)
    for name, array in lstm.params.items():
        array[:] = 0.0
        if name == "bias_ih_l0":
            array[5:10] = forget_bias
            array[10:15] = 0.3  # g, so that the cell is not empty
    flow = gradient_flow(lstm, np.zeros((40, 2, 1)), np.array([[3.0, 4.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(flow.norms[0], [5.0, 1.0], rtol=1e-14)
    c = 0.5 * math.tanh(0.3) * sum(f**k for k in range(40))
    first = 0.5 * (1 - math.tanh(c) ** 2) * f  # B4, then B3
    expected = np.array([5.0, 1.0]) * first * f ** np.arange(40.0)[:, None]
    np.testing.assert_allclose(flow.norms[1:], expected, rtol=1e-12)
    assert flow.gates.keys() == {"i", "f", "o"}
    np.testing.assert_allclose([flow.gates["i"], flow.gates["f"]], [0.5, f], rtol=1e-14)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_gru_without_recurrent_weights_decays_by_its_update_gate(reset: str) -> None:
    gru = GRU(1, 4, reset=reset, rng=0)
    gru.params.flat[:] = 0.0
    gru.params["bias_ih_l0"][4:8] = 2.0
    z = 1 / (1 + math.exp(-2.0))
    flow = gradient_flow(gru, np.zeros((30, 1, 1)), np.ones((1, 4)))
    np.testing.assert_allclose(flow.norms[:, 0], 2 * z ** np.arange(31.0), rtol=1e-12)
    assert flow.gates.keys() == {"r", "z"}
    np.testing.assert_allclose([flow.gates["r"], flow.gates["z"]], [0.5, z], rtol=1e-14)


@pytest.mark.parametrize(("cell", "states"), [("rnn-tanh", 1), ("rnn-relu", 1), ("lstm", 2), ("gru", 1)])
@pytest.mark.parametrize("layers", [1, 2])
def test_norms_are_those_of_the_derivative_with_respect_to_the_state(cell: str, states: int, layers: int) -> None:
    """Restart the net from its own state, l steps before the end, disturbed along the imaginary axis: each number of h,
    and of an LSTM then each of c, with all others as they were."""
    rng = np.random.default_rng(2)
    T, N, D, H = 12, 3, 2, 5
    task = ForecastTask.of(wave(60), T)
    windows = task.random_windows(N, rng)
    model = Forecaster(D, H, cell=cell, num_layers=layers, rng=rng)
    set_recurrent_weights(model.rnn, 1.2, "uniform", rng)
    model.params.flat *= 2.0  # so that the gates are not all half open
    flow = forecast_gradient_flow(model, windows)
    assert flow.norms.shape == (T + 1, N)

    twin, V, c = model.rnn.astype(np.complex128), model.readout.params["weight"], model.readout.params["bias"]
    for n in range(N):
        for lag in range(1, T + 1):
            # One sequence per number in the top layer's state, all alike but for that number's imaginary part.
            x = np.repeat(windows.x[:, n : n + 1], states * H, axis=1)
            state: Any = (np.zeros((layers, states * H, H)),) * states
            if lag < T:
                _, state = model.rnn(x[: T - lag])
                state = state if states > 1 else (state,)
            disturbed = [part.astype(np.complex128) for part in state]
            for index, part in enumerate(disturbed):
                part[-1, index * H : (index + 1) * H] += 1e-30j * np.eye(H)
            given_state: Any = tuple(disturbed) if states > 1 else disturbed[0]
            output, _ = twin(x[T - lag :].astype(np.complex128), given_state)
            error = output[-1] @ V.T + c - windows.target[-1, n]
            gradient = np.mean(error * error, axis=-1).imag / 1e-30
            np.testing.assert_allclose(flow.norms[lag, n], np.linalg.norm(gradient), rtol=1e-12)


@pytest.mark.parametrize("zoneout", [(0.0, 0.0), (0.2, 0.4)])
@pytest.mark.parametrize("proj_size", [0, 3])
def test_norms_of_an_lstm_with_other_options(zoneout: tuple[float, float], proj_size: int) -> None:
    """The gradient of the initial state, joint, is what the restarted net's backward pass returns: dh_0 and dc_0."""
    rng = np.random.default_rng(4)
    T, N, H = 9, 3, 5
    lstm = LSTM(2, H, proj_size=proj_size, zoneout=zoneout, rng=rng)
    P = proj_size or H
    x, dh = rng.standard_normal((T, N, 2)), rng.standard_normal((N, P))
    flow = gradient_flow(lstm, x, dh)
    for lag in range(1, T + 1):
        state: Any = (np.zeros((1, N, P)), np.zeros((1, N, H)))
        if lag < T:
            _, state = lstm(x[: T - lag])
        output, _, trace = lstm.forward(x[T - lag :], state, training=False)
        doutput = np.zeros_like(output)
        doutput[-1] = dh
        back: Any = lstm.backward(trace, doutput)
        joint = np.concatenate([back.dh_0[0], back.dc_0[0]], axis=1)
        np.testing.assert_allclose(flow.norms[lag], np.linalg.norm(joint, axis=1), rtol=1e-12)


def test_lag_zero_is_the_gradient_handed_in() -> None:
    dh = np.random.default_rng(3).standard_normal((4, 6))
    for layer in (RNN, LSTM, GRU):
        for batch_first in (False, True):
            made = layer(1, 6, batch_first=batch_first, rng=0)
            x = np.ones((4, 9, 1)) if batch_first else np.ones((9, 4, 1))
            flow = gradient_flow(made, x, dh)
            np.testing.assert_allclose(flow.norms[0], np.linalg.norm(dh, axis=1), rtol=1e-14)
            assert (flow.length, flow.count, flow.independent) == (9, 4, 4.0)


@pytest.mark.parametrize("layer", [RNN, GRU])
def test_of_a_single_state_it_is_the_row_of_the_trace(layer: Any) -> None:
    made = layer(2, 6, num_layers=2, rng=0)
    x, dh = np.random.default_rng(5).standard_normal((9, 4, 2)), np.ones((4, 6))
    output, _, trace = made.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = dh
    made.backward(trace, doutput)
    expected = np.linalg.norm(trace.dh[::-1], axis=-1)
    np.testing.assert_allclose(gradient_flow(made, x, dh).norms, expected, rtol=1e-14)


@pytest.mark.parametrize("cell", CELLS)
def test_windows_do_not_see_each_other(cell: str) -> None:
    task = ForecastTask.of(wave(), 20)
    model = Forecaster(2, 8, cell=cell, rng=0)
    together = forecast_gradient_flow(model, task.windows([0, 30, 60]))
    alone = forecast_gradient_flow(model, task.windows([30]))
    np.testing.assert_allclose(together.norms[:, 1], alone.norms[:, 0], rtol=1e-12)


@pytest.mark.parametrize("layer", [RNN, LSTM, GRU])
def test_the_layer_is_not_changed(layer: Any) -> None:
    rnn = layer(1, 6, dropout=0.5, num_layers=2, rng=0)
    before = rnn.params.flat.copy()
    x, dh = np.ones((9, 4, 1)), np.ones((4, 6))
    x.flags.writeable = dh.flags.writeable = False
    first, second = gradient_flow(rnn, x, dh), gradient_flow(rnn, x, dh)
    np.testing.assert_array_equal(rnn.params.flat, before)
    np.testing.assert_array_equal(first.norms, second.norms)  # and no dropout


def test_what_gradient_flow_refuses() -> None:
    with pytest.raises(OptionError, match="gradient_flow: layer must have one direction; got a bidirectional RNN"):
        gradient_flow(RNN(1, 2, bidirectional=True), np.ones((3, 1, 1)), np.ones((1, 4)))
    with pytest.raises(ShapeError) as caught:
        gradient_flow(RNN(1, 2), np.ones((3, 4, 1)), np.ones((2, 4)))
    assert str(caught.value) == "gradient_flow: dh_last must have shape (N, H) = (4, 2); got (2, 4)"


# Summing up ---------------------------------------------------------------------------------------------------------


def test_slope_is_least_squares_of_each_window_and_of_the_typical_norm() -> None:
    norms = np.exp(np.random.default_rng(4).standard_normal((31, 5)))
    flow = GradientFlow(norms, 5.0)
    slopes = np.polyfit(np.arange(31), np.log(norms), 1)[0]
    np.testing.assert_allclose(flow.slopes, slopes, rtol=1e-10)
    assert flow.slope is not None
    np.testing.assert_allclose(flow.slope, slopes.mean(), rtol=1e-10)
    np.testing.assert_allclose(np.polyfit(np.arange(31), np.log(flow.typical), 1)[0], slopes.mean(), rtol=1e-10)
    assert flow.standard_error is not None
    np.testing.assert_allclose(flow.standard_error, slopes.std(ddof=1) / math.sqrt(5), rtol=1e-10)


def test_standard_error_of_overlapping_windows() -> None:
    """Means of windows of white noise: their mean has the standard error 1/sqrt(n), however many windows are cut."""
    rng = np.random.default_rng(5)
    n, T, N = 1200, 100, 60
    estimates = []
    for _ in range(300):
        noise = rng.standard_normal(n)
        means = np.array([noise[s : s + T].mean() for s in np.linspace(0, n - T, N).astype(int)])
        # Two lags and norms 1 and e^mean: the slope of a window is its mean.
        flow = GradientFlow(np.exp(np.stack([np.zeros(N), means])), independent=n / T)
        assert flow.standard_error is not None
        estimates.append(flow.standard_error**2)
    np.testing.assert_allclose(np.mean(estimates), 1 / n, rtol=0.1)
    # Taken for independent, they would promise an error that is much too small.
    naive = GradientFlow(np.exp(np.stack([np.zeros(N), means])), independent=N).standard_error
    assert naive is not None and naive < 0.6 / math.sqrt(n)


def test_one_window_has_a_slope_and_no_standard_error() -> None:
    flow = flow_of([1.0, 0.5, 0.25])
    assert flow.slope is not None and flow.standard_error is None
    assert flow_of([1.0, 2.0], [1.0, 3.0], independent=1.0).standard_error is None


@pytest.mark.parametrize(
    ("slopes", "independent", "verdict"),
    [
        ((-0.2, -0.2), 2.0, "vanishing"),
        ((0.2, 0.2), 2.0, "exploding"),
        ((-0.02, -0.02), 2.0, "fading"),  # e^-2 over 100 steps: less than a factor of 10
        ((0.02, 0.02), 2.0, "growing"),
        ((0.024, 0.024), 2.0, "exploding"),
        ((-0.5, 0.1), 2.0, "mixed"),
        ((-0.5, 0.02), 2.0, "uneven"),  # mean -0.24, standard error 0.26
        ((-0.5, 0.02), 5.0, "uneven"),  # mean -0.24, standard error 0.13
        ((-0.5, 0.02), 6.0, "vanishing"),  # and 0.116
        ((0.02, -0.018), 3.0, "steady"),  # mean 0.001, standard error 0.013
        ((1e-5, 1e-5), 2.0, "steady"),  # e^0.001: less than a hundredth
        ((0.0, 0.0), 2.0, "steady"),
    ],
)
def test_verdict(slopes: tuple[float, ...], independent: float, verdict: str) -> None:
    # As many windows as they are worth at least, half of them with each slope.
    norms = np.exp(np.arange(101.0)[:, None] * np.tile(slopes, 8))
    assert GradientFlow(norms, independent).verdict == verdict


def test_verdict_looks_at_the_change_as_well_as_at_the_slope() -> None:
    # The norm changes 20-fold at once and then no more: a slope alone would call that steady.
    lag = np.arange(101.0)[:, None]
    for factor, slope, verdict in (
        (20.0, 0.01, "exploding"),
        (2.0, 0.01, "growing"),
        (0.05, -0.01, "vanishing"),
        (0.05, 0.005, "vanishing"),  # although from then on it grows a little
    ):
        norms = np.where(lag > 0, factor * np.exp(slope * lag), 1.0) * np.ones(2)
        flow = GradientFlow(norms, 2.0)
        assert flow.change is not None
        np.testing.assert_allclose(flow.change, math.log(factor) + 100 * slope, rtol=1e-12)
        assert flow.verdict == verdict
        assert not flow.exponential and flow.half_life is None  # a jump and a slope are no exponential


@pytest.mark.parametrize(
    ("norms", "reach"),
    [
        ([8.0, 1.0, 0.0799, 0.01], 2),
        ([8.0, 1.0, 0.0801, 9.0, 0.01], 4),
        ([8.0, 1.0, 0.0801], None),
        ([8.0, 0.001, 9.0], 1),  # the first lag, though it grows again
        ([8.0, 1.0, 0.0], 2),
        ([8.0, 1.0, np.inf], None),
        ([0.0, 0.0], None),
        ([np.inf, 1.0], None),
    ],
)
def test_reach_ends_where_a_hundredth_is_left(norms: list[float], reach: int | None) -> None:
    flow = flow_of(norms, norms)
    assert flow.hundredth_at == reach
    assert flow.to_dict()["lag_of_a_hundredth"] == reach


def test_change_of_a_gradient_that_ends() -> None:
    assert flow_of([1.0, 0.0]).change is None
    assert flow_of([1.0, np.inf]).change is None


def test_gains_that_look_alike_get_more_digits() -> None:
    assert gain_texts([1.0, 1.00001]) == {1.0: "1", 1.00001: "1.00001"}
    assert gain_texts([1.0, 1.00001], 4) == {1.0: "1", 1.00001: "1.00001"}
    assert gain_texts([1.0, 1.0 + 2**-52]) == {1.0: "1", 1.0 + 2**-52: "1.0000000000000002"}
    assert gain_texts([0.3, 0.1 + 0.2]) == {0.3: "0.29999999999999999", 0.1 + 0.2: "0.30000000000000004"}


def test_steady_slope_of_exactly_zero_has_no_half_life() -> None:
    assert flow_of([1.0, 1.0, 1.0]).half_life is None


def test_dead_windows_are_counted_and_do_not_flatter() -> None:
    alive, dead = [1.0] * 6, [1.0, 0.5, 0.25, 0.0, 0.0, 0.0]
    flow = flow_of(alive, alive, dead)
    assert (flow.vanished, flow.vanished_at, flow.overflowed) == (1, 3, 0)
    assert flow.reach.tolist() == [6, 6, 3]
    np.testing.assert_allclose(flow.slopes + 1, [1.0, 1.0, 1 - math.log(2)], rtol=1e-14)
    np.testing.assert_array_equal(flow.typical[3:], 1.0)  # of the two that are left
    half = flow_of(alive, dead)
    assert half.verdict == "cut off"
    np.testing.assert_array_equal(half.typical[3:], 0.0)
    assert (half.typical[:3] > 0).all()


def test_all_dead_at_once() -> None:
    flow = flow_of([1.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert (flow.slope, flow.standard_error, flow.half_life, flow.verdict) == (None, None, None, "cut off")
    assert flow.typical.tolist() == [0.0, 0.0, 0.0]
    assert (flow.vanished, flow.vanished_at) == (2, 0)


# Words that hold ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_in_single_precision_is_measured_in_double(dtype: Any) -> None:
    """In float32 the norms would pass 1e-38 at lag 200, and a line through what is left below has another slope."""
    x = np.random.default_rng(0).normal(size=(400, 4, 4))
    flow = gradient_flow(LSTM(4, 16, rng=0, dtype=dtype), x.astype(dtype), np.ones((4, 16), dtype))
    assert flow.half_life is not None and round(flow.half_life, 4) == 1.6488
    assert flow.norms[-1].max() < 1e-60
    with pytest.raises(DTypeError, match="x must have dtype"):
        gradient_flow(RNN(4, 3, dtype=np.float32), x, np.ones((4, 3)))


def test_a_forecaster_in_single_precision_is_measured_in_double() -> None:
    task = ForecastTask.of(wave(), 60)
    model = Forecaster(2, 8, cell="lstm", rng=0)
    windows, single = task.spread_windows(4), model.astype(np.float32)
    narrow = windows._replace(x=windows.x.astype(np.float32), target=windows.target.astype(np.float32))
    flow = forecast_gradient_flow(single, narrow)
    np.testing.assert_allclose(flow.norms, forecast_gradient_flow(model, windows).norms, rtol=1e-3)
    assert flow.norms.dtype == np.float64 and single.rnn.dtype == np.float32


def test_states_too_large_for_single_precision_are_no_gradient() -> None:
    rnn = RNN(1, 1, nonlinearity="relu", dtype=np.float32, rng=0)
    rnn.params["weight_hh_l0"][:] = 10.0
    flow = gradient_flow(rnn, np.full((60, 2, 1), 9.0, np.float32), np.ones((2, 1), np.float32))
    assert flow.verdict == "diverged"  # as the layer itself, which has states of infinity


def test_norms_in_single_precision_end_at_its_smallest_number() -> None:
    norms = (0.5 ** np.arange(145.0))[:, None].astype(np.float32)
    flow = GradientFlow(norms, 1.0)
    assert norms[-1] > 0 and flow.reach.tolist() == [127]  # below 2^-126 digits get lost
    assert flow.half_life is not None and flow.half_life == pytest.approx(1.0, rel=1e-8)


def fast_then_slow(T: int, spread: float = 0.02) -> GradientFlow:
    """Half is gone after 3 steps, and 0.3 % of the rest at each further one, as in a trained net."""
    lag, paces = np.arange(T + 1.0)[:, None], 1 + spread * np.linspace(-1, 1, 8)
    return GradientFlow(np.exp(-paces * (np.minimum(lag, 3) * math.log(2) / 3 + np.maximum(lag - 3, 0) * 0.003)), 8.0)


@pytest.mark.parametrize("T", [50, 200, 800])
def test_a_decay_that_is_fast_then_slow(T: int) -> None:
    """The lags at which so much is left, and the slopes, are the same for all T; no half-life pretends to be one."""
    flow = fast_then_slow(T)
    assert flow.half_at == 3 and flow.tenth_at == (540 if T == 800 else None)
    assert flow.early_slope is not None and flow.late_slope is not None
    assert flow.early_slope < -0.015 or T == 800
    assert flow.late_slope == pytest.approx(-0.003, rel=1e-12)
    told = flow.to_dict()
    assert (told["lag_of_a_half"], told["late_slope"]) == (3, flow.late_slope)
    assert told["one_exponential_fits"] == flow.exponential
    assert not flow.exponential and flow.half_life is None
    assert flow.verdict == ("vanishing" if T == 800 else "fading")


def test_two_slopes_that_windows_do_not_agree_on_are_no_finding() -> None:
    """The typical norm bends, but by what one window of eight does."""
    lag = np.arange(101.0)[:, None]
    norms = np.exp(-0.1 * lag * np.ones(8))
    norms[50:, 0] = norms[50, 0] * np.exp(np.arange(51.0) * 0.7)
    flow = GradientFlow(norms, 8.0)
    assert flow.late_slope == pytest.approx(0.0, abs=0.01) and flow.exponential
    norms = np.exp(-0.1 * np.minimum(lag, 50) * np.ones(8))
    assert not GradientFlow(norms, 8.0).exponential


def test_steady_does_not_stand_beside_a_slope_that_is_sure() -> None:
    """0.4 of it over 100 steps, 19 standard errors from 0."""
    rates = -0.009 * (1 + 0.139 * np.tile([-1.0, 1.0], 4))
    flow = GradientFlow(np.exp(rates * np.arange(101.0)[:, None]), 8.0)
    assert flow.slope is not None and flow.standard_error is not None
    assert -flow.slope / flow.standard_error == pytest.approx(19, rel=0.01)
    assert flow.verdict == "fading" and flow.half_life == pytest.approx(math.log(2) / 0.009)


def test_a_gradient_that_grows_and_is_then_cut_off() -> None:
    """A relu unit that is off for one step: until then 1.3^49 = 380 000-fold."""
    rnn = RNN(1, 1, nonlinearity="relu", rng=0)
    rnn.params.flat[:] = [1.0, 1.3, 0.0, 0.0]
    x = np.ones((60, 4, 1))
    x[10] = -1e9
    flow = gradient_flow(rnn, x, np.ones((4, 1)))
    assert (flow.verdict, flow.vanished_at, flow.peak_at) == ("cut off", 50, 49)
    assert flow.peak == pytest.approx(1.3**49) and flow.kinds == {"cut off": 4}
    x[10] = 1.0
    x[:, :2] = -100.0
    flow = gradient_flow(rnn, x, np.ones((4, 1)))
    assert flow.verdict == "mixed" and flow.kinds == {"cut off": 2, "exploding": 2}


def test_a_gradient_that_has_vanished_before_it_is_zero_has_vanished() -> None:
    flow = flow_of([1.0, 0.05, 0.002, 0.0], [1.0, 0.05, 0.002, 0.0])
    assert (flow.verdict, flow.kinds) == ("vanishing", {"vanishing": 2})


def test_a_gradient_that_falls_and_comes_back_is_uneven() -> None:
    lag = np.arange(101.0)[:, None] * np.ones(4)
    flow = GradientFlow(np.exp(-0.1 * np.minimum(lag, 100 - lag)), 4.0)
    assert (flow.verdict, flow.half_life, flow.peak_at) == ("uneven", None, 0)
    assert flow.tenth_at == 24


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_overflow_is_an_explosion(bad: float) -> None:
    flow = flow_of([1.0, 1e200, bad], [1.0, 1e190, 1e300])
    assert (flow.overflowed, flow.vanished, flow.verdict) == (1, 0, "exploding")
    assert flow.typical[2] == np.inf
    everything = flow_of([bad, bad], [bad, bad])
    assert (everything.slope, everything.verdict) == (None, "diverged")


def test_norms_of_numbers_whose_squares_leave_the_float_range() -> None:
    rnn = RNN(1, 2, rng=0)
    for scale in (1e-200, 1e200):
        flow = gradient_flow(rnn, np.zeros((2, 1, 1)), np.array([[3.0, 4.0]]) * scale)
        np.testing.assert_allclose(flow.norms[0], 5 * scale, rtol=1e-14)


def test_underflow_is_reported_and_not_fitted() -> None:
    rnn = RNN(1, 2, rng=0)
    set_recurrent_weights(rnn, 1e-3, "identity", None)
    rnn.params["bias_ih_l0"][:] = rnn.params["bias_hh_l0"][:] = 0.0
    flow = gradient_flow(rnn, np.zeros((150, 1, 1)), np.ones((1, 2)))
    assert flow.vanished == 1 and flow.vanished_at in (102, 103)
    assert flow.slope is not None
    np.testing.assert_allclose(flow.slope, math.log(1e-3), rtol=1e-12)


def test_dead_relu_units_stop_the_gradient() -> None:
    rnn = RNN(1, 3, nonlinearity="relu", rng=0)
    set_recurrent_weights(rnn, 1.0, "identity", None)
    rnn.params["weight_ih_l0"][:] = 1.0
    rnn.params["bias_ih_l0"][:] = rnn.params["bias_hh_l0"][:] = 0.0
    x = np.zeros((10, 1, 1))
    x[5:] = 1.0  # all units are off through the first five steps
    flow = gradient_flow(rnn, x, np.ones((1, 3)))
    np.testing.assert_allclose(flow.norms[:6, 0], math.sqrt(3), rtol=1e-15)
    np.testing.assert_array_equal(flow.norms[6:, 0], 0.0)
    assert (flow.vanished_at, flow.verdict) == (6, "cut off")


@given(
    st.lists(
        st.lists(
            st.one_of(st.floats(0, allow_subnormal=True), st.sampled_from([0.0, math.inf, math.nan, 5e-324])),
            min_size=6,
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 4),
)
def test_any_norms_give_a_verdict_and_strict_json(windows: list[list[float]], independent: float) -> None:
    flow = GradientFlow(np.array(windows).T, independent)
    assert flow.verdict in VERDICTS
    if flow.verdict == "steady" and flow.standard_error is not None:
        assert abs(flow.slope or 0.0) <= max(2 * flow.standard_error, math.log(1.01) / flow.length)
    assert not np.isnan(flow.typical).any()
    again = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert again["windows"] == len(windows)


# Initial weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["uniform", "orthogonal", "identity"])
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_spectral_radius_is_the_gain(init: str, gain: float) -> None:
    rnn = RNN(3, 16, num_layers=2, bidirectional=True, rng=0)
    before = rnn.params.copy()
    set_recurrent_weights(rnn, gain, init, 1)
    for name, weight in rnn.params.items():
        if name.startswith("weight_hh"):
            np.testing.assert_allclose(np.abs(np.linalg.eigvals(weight)).max(), gain, rtol=1e-12)
        else:
            np.testing.assert_array_equal(weight, before[name])
    W = rnn.params["weight_hh_l1"]
    if init == "uniform":
        np.testing.assert_allclose(W / before["weight_hh_l1"], W[0, 0] / before["weight_hh_l1"][0, 0], rtol=1e-13)
    else:
        np.testing.assert_allclose(W @ W.T + 1, gain**2 * np.eye(16) + 1, rtol=1e-13)


@pytest.mark.parametrize("init", ["uniform", "orthogonal", "identity"])
@pytest.mark.parametrize(("layer", "gates"), [(LSTM, 4), (GRU, 3)])
def test_each_gate_has_the_spectral_radius(layer: Any, gates: int, init: str) -> None:
    made = layer(3, 16, num_layers=2, rng=0)
    before = made.params.copy()
    set_recurrent_weights(made, 1.3, init, 1)
    for name, weight in made.params.items():
        if not name.startswith("weight_hh"):
            np.testing.assert_array_equal(weight, before[name])
            continue
        blocks = weight.reshape(gates, 16, 16)
        radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks]
        np.testing.assert_allclose(radii, 1.3, rtol=1e-12)
        if init == "identity":
            np.testing.assert_array_equal(blocks, np.broadcast_to(1.3 * np.eye(16), blocks.shape))
        elif init == "orthogonal":
            np.testing.assert_allclose(blocks @ blocks.swapaxes(1, 2) + 1, 1.3**2 * np.eye(16) + 1 + 0 * blocks, 1e-13)
            assert not np.allclose(blocks[0], blocks[1])  # each gate has a draw of its own


def test_orthogonal_matrices_have_no_preferred_sign() -> None:
    traces = []
    for seed in range(400):
        rnn = RNN(1, 4, rng=0)
        set_recurrent_weights(rnn, 1.0, "orthogonal", seed)
        traces.append(np.trace(rnn.params["weight_hh_l0"]))
    # Of Haar's measure the trace has mean 0 and variance 1; QR without the signs has a mean of about -1.
    assert abs(np.mean(traces)) < 4 / math.sqrt(400)


def test_what_set_recurrent_weights_refuses() -> None:
    rnn = RNN(1, 2, rng=0)
    with pytest.raises(OptionError) as caught:
        set_recurrent_weights(rnn, 1.0, "random", None)
    assert str(caught.value) == (
        "set_recurrent_weights: init must be one of 'uniform', 'orthogonal', 'identity'; got 'random'"
    )
    for gain in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="set_recurrent_weights: gain must be"):
            set_recurrent_weights(rnn, gain, "uniform", None)
    with pytest.raises(OptionError, match="set_recurrent_weights: layer must have no projection"):
        set_recurrent_weights(LSTM(1, 4, proj_size=2), 1.0, "uniform", None)
    rnn.params["weight_hh_l0"][:] = 0.0
    with pytest.raises(OptionError, match="weight_hh_l0 has spectral radius 0 and cannot be scaled"):
        set_recurrent_weights(rnn, 1.0, "uniform", None)


def test_what_a_forecaster_refuses() -> None:
    with pytest.raises(OptionError) as caught:
        Forecaster(1, 2, cell="gru", forget_bias=1.0)
    assert str(caught.value) == "Forecaster: forget_bias is for cell = 'lstm' alone; got cell = 'gru'"
    with pytest.raises(OptionError, match="LSTM: forget_bias must be finite; got nan"):
        Forecaster(1, 2, cell="lstm", forget_bias=math.nan)


# Many networks ------------------------------------------------------------------------------------------------------


def test_every_cell_meets_every_gain() -> None:
    result = small_run(gains=[0.5, 2.0], train_steps=0, seed=3, seeds=2)
    assert [(n.cell, n.gain, n.seed) for n in result.networks] == [
        (cell, gain, seed) for cell in CELLS for gain in (0.5, 2.0) for seed in (3, 4)
    ]
    assert [len(draws) for draws in result.kinds] == [2] * 8
    assert all(n.after is n.loss_after is n.training is None for n in result.networks)


def test_same_seed_same_numbers_other_seed_other_numbers() -> None:
    first, second, third = (json.dumps(small_run(seed=seed).to_dict()) for seed in (0, 0, 1))
    assert first == second != third


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_does_not_depend_on_the_others(cell: str) -> None:
    alone = small_run(cells=[cell], gains=[1.0], seed=1).to_dict()["networks"][0]
    among = small_run(gains=[0.5, 1.0], seeds=2).to_dict()["networks"][4 * CELLS.index(cell) + 3]
    assert (alone["cell"], alone["gain"], alone["seed"]) == (cell, 1.0, 1)
    assert alone == among


def test_the_forget_bias_acts_on_the_lstm_alone() -> None:
    drawn, opened = small_run(), small_run(forget_bias=4.0)
    for one, other in zip(drawn.networks, opened.networks, strict=True):
        assert np.array_equal(one.before.norms, other.before.norms) == (one.cell != "lstm")
        if one.cell == "lstm":
            assert one.before.gates["f"] < 0.65 < 0.95 < other.before.gates["f"]
            assert one.before.slope is not None and other.before.slope is not None
            assert one.before.slope < other.before.slope


def test_training_does_not_change_what_was_measured_before() -> None:
    untrained, trained = small_run(train_steps=0), small_run(train_steps=5)
    for one, other in zip(untrained.networks, trained.networks, strict=True):
        np.testing.assert_array_equal(one.before.norms, other.before.norms)
        assert one.loss_before == other.loss_before
        assert other.after is not None
        assert not np.array_equal(other.before.norms, other.after.norms)


def test_training_lowers_the_loss_below_the_baseline() -> None:
    result = small_run(train_steps=150, gains=[1.0])
    for network in result.networks:
        assert network.training is not None and network.loss_after is not None
        assert network.training.steps == len(network.training.losses) == 150
        assert network.training.losses[-1] < 0.2 * network.training.losses[0]
        assert network.loss_after < result.baseline < network.loss_before


def test_clipping_is_counted() -> None:
    always = small_run(clip=1e-6).networks[0].training
    never = small_run(clip=1e6).networks[0].training
    assert always is not None and never is not None
    assert (always.clipped, never.clipped) == (10, 0)
    some = small_run(clip=float(np.median(never.gradient_norms))).networks[0].training
    assert some is not None and 0 < some.clipped < 10
    norms = np.array(some.gradient_norms)
    assert some.clipped == np.count_nonzero(norms > np.median(never.gradient_norms))


def testquiet_loss_and_baseline_count_the_same_samples() -> None:
    """A readout of the last input is the baseline: its loss must be the baseline's."""
    from rnn_numpy.experiments.gradflow import quiet_loss

    task = ForecastTask.of(wave(), 20)
    windows = task.held_out_windows()
    model = Forecaster(2, 2, cell="rnn-relu", rng=0)
    model.params.flat[:] = 0.0
    model.rnn.params["weight_ih_l0"][:] = np.eye(2)
    model.rnn.params["bias_ih_l0"][:] = 100.0  # keeps relu in its linear part
    model.readout.params["weight"][:] = np.eye(2)
    model.readout.params["bias"][:] = -100.0
    np.testing.assert_allclose(quiet_loss(model, windows), task.repeat_last_loss(windows), rtol=1e-11)


def test_divergence_is_a_row_and_not_a_crash() -> None:
    result = small_run(cells=["rnn-relu"], gains=[30.0], init="identity", clip=1e300, lr=1e300, length=30)
    network = result.networks[0]
    assert network.training is not None and network.after is not None
    assert network.training.stopped == "when the gradient of step 2 was no longer finite"
    assert network.training.steps == 1
    assert network.after.verdict == "diverged"
    assert result.training_length == "1 training step"
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))["networks"][0]
    assert data["after"]["loss"] is None
    assert data["training"]["losses"][-1] is None
    assert data["training"]["stopped"] == network.training.stopped


@pytest.mark.parametrize(
    ("cell", "gain", "init", "verdict"),
    [
        ("rnn-tanh", 0.5, "uniform", "vanishing"),
        ("rnn-tanh", 0.5, "orthogonal", "vanishing"),
        ("rnn-relu", 0.5, "uniform", "vanishing"),
        ("rnn-relu", 1.0, "identity", "fading"),
        ("rnn-relu", 1.5, "identity", "exploding"),
        ("rnn-relu", 2.5, "uniform", "exploding"),
        ("lstm", 0.5, "uniform", "vanishing"),
        ("lstm", 1.0, "orthogonal", "vanishing"),
        ("gru", 0.5, "identity", "vanishing"),
    ],
)
def test_verdicts_on_the_eeg_are_those_of_the_textbook(cell: str, gain: float, init: str, verdict: str) -> None:
    options = GradflowOptions(cells=[cell], gains=[gain], init=init, train_steps=0, seeds=2)
    result = run_gradflow(ForecastTask.of(load_bundled("eeg"), options.length), options)
    assert [network.before.verdict for network in result.networks] == [verdict, verdict]


def test_an_open_forget_gate_carries_the_gradient_of_the_eeg_further() -> None:
    """As torch starts it, a cell forgets half at each step: the LSTM reaches less far than a tanh net of gain 1."""
    reaches = []
    for cell, forget_bias in (("rnn-tanh", None), ("lstm", None), ("lstm", 1.0), ("lstm", 6.0)):
        options = GradflowOptions(cells=[cell], gains=[1.0], train_steps=0, forget_bias=forget_bias, seeds=1)
        flow = run_gradflow(ForecastTask.of(load_bundled("eeg"), 200), options).networks[0].before
        reaches.append(201 if flow.hundredth_at is None else flow.hundredth_at)
    tanh, lstm, opened, wide_open = reaches
    assert lstm < tanh < wide_open and lstm < opened < wide_open


def test_overlap_of_the_windows_reaches_the_standard_error() -> None:
    options = GradflowOptions(cells=["rnn-tanh"], gains=[1.0], train_steps=0, hidden=8, seeds=1)
    result = run_gradflow(ForecastTask.of(load_bundled("eeg"), 200), options)
    flow = result.networks[0].before
    assert (flow.count, flow.independent) == (16, 640 / 200)
    long_series = run_gradflow(ForecastTask.of(load_bundled("membrane"), 200), options)
    assert long_series.networks[0].before.independent == 16


def test_progress_counts_up_to_its_total() -> None:
    seen: list[tuple[int, int, str]] = []
    options = GradflowOptions(gains=[0.5, 1.0], length=10, hidden=4, batch=2, train_steps=3, seeds=2)
    run_gradflow(ForecastTask.of(wave(), 10), options, lambda *news: seen.append(news))
    done = [news[0] for news in seen]
    assert done == sorted(done)
    assert done == list(range(17))
    assert {news[1] for news in seen} == {16}
    said = [news[2] for news in seen]
    assert said[0] == "" and said[1] == "rnn-tanh, gain 0.5, seed 0: vanishing, after training vanishing"
    assert said[-1].startswith("gru, gain 1, seed 1: ")


def test_everything_is_in_the_json() -> None:
    result = small_run()
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(data) == {"what", "versions", "options", "data", "lags", "baseline_loss", "networks", "over_draws"}
    assert set(data["versions"]) == {"rnn_numpy", "numpy", "python"}
    names = {field.name for field in dataclasses.fields(GradflowOptions)}
    assert set(data["options"]) == names | {"momentum"}
    assert data["lags"] == list(range(21))
    assert len(data["networks"]) == len(data["over_draws"]) == 12
    for together, network in zip(data["over_draws"], result.networks, strict=True):
        assert (together["cell"], together["gain"], together["draws"]) == (network.cell, network.gain, 1)
        assert together["before"]["verdicts"] == {network.before.verdict: 1}
        assert network.after is not None and together["after"]["mean_slope"] == network.after.slope
        assert together["after"]["standard_deviation_of_slopes"] is None
    several = small_run(cells=["gru"], gains=[1.0], seeds=3, train_steps=0)
    (together,) = several.to_dict()["over_draws"]
    slopes = [network.before.slope for network in several.networks]
    assert together["before"]["standard_deviation_of_slopes"] == pytest.approx(np.std(slopes, ddof=1))
    assert together["before"]["median_norm"] == [
        sorted(network.before.typical[lag] for network in several.networks)[1] for lag in range(21)
    ]
    assert together["after"] is None
    assert {"typical_norm", "gain", "forget_bias", "mean_gates", "lag_of_a_hundredth"} <= set(data["what"])
    gates = {"rnn-tanh": set(), "rnn-relu": set(), "lstm": {"i", "f", "o"}, "gru": {"r", "z"}}
    for network in data["networks"]:
        for when in ("before", "after"):
            assert len(network[when]["typical_norm"]) == 21
            assert len(network[when]["slope_of_each_window"]) == 5
            assert set(network[when]["mean_gates"]) == gates[network["cell"]]
            assert all(0 < mean < 1 for mean in network[when]["mean_gates"].values())
            assert {"slope_per_step", "slope_standard_error", "verdict", "loss"} <= set(network[when])
        assert len(network["training"]["losses"]) == 10


def test_task_and_options_must_agree() -> None:
    with pytest.raises(OptionError, match="run_gradflow: task has length 10, options have 200"):
        run_gradflow(ForecastTask.of(wave(), 10), GradflowOptions())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"cells": ["lstm", "rnn"]},
            OptionError,
            "GradflowOptions: cells must be among rnn-tanh, rnn-relu, lstm, gru; got 'rnn'",
        ),
        ({"cells": []}, OptionError, "GradflowOptions: cells must be at least one, all different; got []"),
        (
            {"gains": [1.0, 1.0]},
            OptionError,
            "GradflowOptions: gains must be at least one, all different; got [1.0, 1.0]",
        ),
        ({"gains": [0.0]}, OptionError, "GradflowOptions: gains must be greater than 0; got 0.0"),
        ({"gains": [math.nan]}, OptionError, "GradflowOptions: gains must be finite; got nan"),
        (
            {"init": "normal"},
            OptionError,
            "GradflowOptions: init must be one of 'uniform', 'orthogonal', 'identity'; got 'normal'",
        ),
        ({"hidden": 0}, OptionError, "GradflowOptions: hidden must be at least 1; got 0"),
        ({"layers": 1.5}, DTypeError, "GradflowOptions: layers must be an integer; got float 1.5"),
        ({"lr": -1.0}, OptionError, "GradflowOptions: lr must be greater than 0; got -1.0"),
        ({"clip": math.inf}, OptionError, "GradflowOptions: clip must be finite; got inf"),
        ({"seed": -1}, OptionError, "GradflowOptions: seed must be at least 0; got -1"),
        ({"train_steps": True}, DTypeError, "GradflowOptions: train_steps must be an integer; got the bool True"),
        ({"forget_bias": math.nan}, OptionError, "GradflowOptions: forget_bias must be finite; got nan"),
        ({"forget_bias": "1"}, DTypeError, "GradflowOptions: forget_bias must be a number; got str '1'"),
        (
            {"forget_bias": 1.0, "cells": ["rnn-tanh", "gru"]},
            OptionError,
            "GradflowOptions: forget_bias is for the cell lstm, which is not among rnn-tanh, gru",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        GradflowOptions(**options)
    assert str(caught.value) == message


def test_measuring_needs_neither_matplotlib_nor_rich() -> None:
    code = """
import sys
import numpy as np
import rnn_numpy
assert "rnn_numpy.lab" not in sys.modules
from rnn_numpy.lab import gradient_flow
from rnn_numpy.report import gradflow_report, gradient_flow_figure
gradient_flow(rnn_numpy.RNN(1, 2), np.ones((3, 1, 1)), np.ones((1, 2)))
print([name for name in ("matplotlib", "rich", "scipy") if name in sys.modules])
"""
    done = ended([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
