"""Three ways to forecast H steps ahead: what comes out, and what each is trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rnn_numpy import Forecaster
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.models import STRATEGIES, Seq2SeqForecaster, SequenceModel, forecast, horizon_batch, horizon_model

T, N, D, H = 9, 4, 2, 3


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(T, N, D))


@pytest.fixture
def target() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(T, N, H, D))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("reads", ["all", "last"])
def test_recursive_reads_its_own_forecasts_as_if_they_had_come(x: np.ndarray, reads: str, cell: str) -> None:
    model = horizon_model("recursive", D, 5, H, reads=reads, cell=cell, num_layers=2, rng=0)
    known = x
    for step in forecast(model, x, H):
        prediction = model(known)[0]
        expected = prediction[-1] if reads == "all" else prediction
        np.testing.assert_allclose(step, expected, rtol=1e-12)
        known = np.concatenate([known, step[None]])


@pytest.mark.parametrize("reads", ["all", "last"])
def test_direct_is_asked_for_what_it_is_trained_on(x: np.ndarray, target: np.ndarray, reads: str) -> None:
    model = horizon_model("direct", D, 5, H, reads=reads, rng=0)
    assert isinstance(model, SequenceModel)
    # Outputs that do not depend on x, but on their place: forecast and training must agree about which is which.
    model.params["readout.weight"][:] = 0
    model.params["readout.bias"][:] = np.arange(H * D)
    said = forecast(model, x, H)
    assert said.shape == (H, N, D)
    _, wanted, _ = horizon_batch(model, x, np.broadcast_to(said.transpose(1, 0, 2), (T, N, H, D)))
    prediction, _ = model(x)
    np.testing.assert_array_equal(wanted, prediction)
    _, wanted, _ = horizon_batch(model, x, target)
    last = wanted[-1] if reads == "all" else wanted
    np.testing.assert_array_equal(last.reshape(N, H, D), target[-1])
    np.testing.assert_array_equal(forecast(model, x, 2), said[:2])


def test_seq2seq_is_trained_on_what_follows_the_window(x: np.ndarray, target: np.ndarray) -> None:
    model = horizon_model("seq2seq", D, 5, H, rng=0)
    assert isinstance(model, Seq2SeqForecaster)
    same, wanted, mask = horizon_batch(model, x, target)
    assert mask is None
    np.testing.assert_array_equal(same, x)
    for h in range(H):
        np.testing.assert_array_equal(wanted[h], target[-1, :, h])
    np.testing.assert_allclose(model.loss_of(x, wanted), np.mean((forecast(model, x, H) - wanted) ** 2), rtol=1e-13)


def test_what_does_not_count_changes_nothing(x: np.ndarray, target: np.ndarray) -> None:
    model = horizon_model("recursive", D, 5, H, rng=0)
    batch = horizon_batch(model, x, target, uncounted=4)
    assert model.count(*batch) == (T - 4) * N * D
    target[:4] = 1e3
    target[:, :, 1:] = 1e3  # further ahead than one step
    again = horizon_batch(model, x, target, uncounted=4)
    assert model.loss_of(*batch) == model.loss_of(*again)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_learns_a_wave(strategy: str) -> None:
    from rnn_numpy import Adam

    model = horizon_model(strategy, 1, 8, 4, rng=0)
    optimizer = Adam(model.params, lr=2e-2)
    wave = np.sin(0.7 * np.arange(120.0))
    places = np.arange(60)[:, None, None] + np.arange(20)[:, None]  # (N, T, 1)
    xs = wave[places].transpose(1, 0, 2)
    targets = wave[places + 1 + np.arange(4)].transpose(1, 0, 2)[..., None]
    batch = horizon_batch(model, xs, targets, uncounted=5)
    for _ in range(150):
        optimizer.step(model.loss_and_grads(*batch)[1])
    error = forecast(model, xs, 4)[:, :, 0] - targets[-1, :, :, 0].T
    assert np.sqrt(np.mean(error**2)) < 0.1 * wave.std()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: horizon_model("both", 1, 2, 3), OptionError, "horizon_model: strategy must be one of 'recursive',"),
        (lambda: horizon_model("direct", 1, 2, 0), OptionError, "horizon_model: horizon must be at least 1; got 0"),
        (
            lambda: forecast(horizon_model("direct", 2, 2, 3), np.zeros((4, 1, 2)), 4),
            ShapeError,
            "forecast: the readout must be D = 2 wide, or at least H D = 8; got 6",
        ),
        (lambda: forecast(None, np.zeros((4, 1, 2)), 4), DTypeError, "must be one of horizon_model; got NoneType"),
        (
            lambda: horizon_batch(Forecaster(1, 2), np.zeros((4, 1, 1)), np.zeros((4, 1, 1, 1)), 4),
            OptionError,
            "horizon_batch: uncounted must be in [0, T - 1] = [0, 3]; got 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
