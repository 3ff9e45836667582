"""Clipping and SGD against torch and their definitions; the forecaster learns."""

import numpy as np
import pytest
from frameworks import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import SGD, Forecaster, Linear, Parameters, clip_grad_norm, clip_grad_value
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError

SEEDS = st.integers(0, 2**32 - 1)


def some_gradients(seed, dtype=np.float64):
    grads = Parameters({"w": (3, 2), "b": (2,)}, dtype)
    grads.flat[:] = np.random.default_rng(seed).normal(size=8)
    return grads


@given(SEEDS, st.floats(1e-3, 1e3))
def test_norm_clipping_keeps_the_direction_and_ends_on_the_limit(seed, limit):
    grads = some_gradients(seed)
    before = grads.flat.copy()
    result = clip_grad_norm(grads, limit)
    assert result.norm == pytest.approx(np.linalg.norm(before), rel=1e-14)
    assert result.engaged == (result.norm > limit)
    assert np.linalg.norm(grads.flat) == pytest.approx(min(limit, result.norm), rel=1e-14)
    np.testing.assert_allclose(grads.flat, before * result.factor, rtol=1e-15)


@pytest.mark.needs_torch
def test_norm_clipping_is_torchs_but_for_its_1e_6():
    grads = some_gradients(1)
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in grads.shapes.values()]
    for parameter, gradient in zip(parameters, grads.values(), strict=True):
        parameter.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5).item()
    result = clip_grad_norm(grads, 0.5)
    assert result.norm == pytest.approx(norm, rel=1e-14)
    for parameter, gradient in zip(parameters, grads.values(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy() * (norm + 1e-6) / norm, rtol=1e-14)


@given(SEEDS, st.floats(1e-3, 1e3))
def test_value_clipping_limits_every_entry(seed, limit):
    grads = some_gradients(seed)
    before = grads.flat.copy()
    result = clip_grad_value(grads, limit)
    assert np.array_equal(grads.flat, np.clip(before, -limit, limit))
    assert result.engaged == bool((np.abs(before) > limit).any())
    assert result.factor == pytest.approx(np.linalg.norm(grads.flat) / np.linalg.norm(before), rel=1e-14)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_of_tiny_and_huge_gradients_neither_vanish_nor_overflow(scale):
    grads = some_gradients(2)
    norm = np.linalg.norm(grads.flat)
    grads.flat *= scale
    assert clip_grad_norm(grads, 1e300).norm == pytest.approx(norm * scale, rel=1e-13)


@pytest.mark.parametrize(
    ("dtype", "entry", "limit"), [(np.float64, 1e308, 1.0), (np.float32, 3e38, 1e-5), (np.float32, 3e38, 1e-7)]
)
def test_norm_clipping_ends_on_the_limit_where_the_factor_or_the_norm_leaves_the_range(dtype, entry, limit):
    grads = Parameters({"w": (4,)}, dtype, np.full(4, entry, dtype))
    assert clip_grad_norm(grads, limit).engaged
    np.testing.assert_allclose(grads.flat, limit / 2, rtol=4 * np.finfo(dtype).eps)


def test_value_clipping_above_the_range_of_the_precision_changes_nothing():
    grads = some_gradients(0, np.float32)
    assert not clip_grad_value(grads, 1e300).engaged


def test_zero_and_empty_gradients_stay():
    grads = some_gradients(0).zeros_like()
    assert clip_grad_norm(grads, 1.0) == clip_grad_value(grads, 1.0)
    assert clip_grad_norm(Parameters({}, np.float64), 1.0).norm == 0


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_a_bad_limit_is_refused(clip):
    name = "max_norm" if clip is clip_grad_norm else "clip_value"
    for limit in (0.0, -1.0):
        with pytest.raises(OptionError, match=rf"^{clip.__name__}: {name} must be greater than 0; got {limit}$"):
            clip(some_gradients(0), limit)
    for limit in (np.nan, np.inf):
        with pytest.raises(OptionError, match=rf"^{clip.__name__}: {name} must be finite; got {limit}$"):
            clip(some_gradients(0), limit)
    with pytest.raises(DTypeError, match="must be a number; got str '1'"):
        clip(some_gradients(0), "1")
    with pytest.raises(DTypeError, match="grads must be Parameters, as backward returns them; got dict"):
        clip({}, 1.0)


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_gradient_raises_names_the_parameter_and_changes_nothing(clip, bad):
    grads = some_gradients(0)
    grads["b"][1] = bad
    before = grads.flat.copy()
    with pytest.raises(NonFiniteError, match=rf"the gradient of b is {bad} at axis 0 = 1"):
        clip(grads, 1.0)
    assert np.array_equal(grads.flat, before, equal_nan=True)


@pytest.mark.needs_torch
@given(SEEDS, st.floats(1e-3, 1.0), st.floats(0.0, 1.0))
def test_sgd_is_torchs(seed, lr, momentum):
    params = some_gradients(seed)
    twin = torch.nn.Parameter(torch.tensor(params.flat))
    ours, theirs = SGD(params, lr, momentum), torch.optim.SGD([twin], lr, momentum)
    for step in range(5):
        grads = some_gradients((seed, step))
        twin.grad = torch.tensor(grads.flat)
        ours.step(grads)
        theirs.step()
    np.testing.assert_allclose(params.flat, twin.detach().numpy(), rtol=0, atol=1e-14 * np.abs(params.flat).max())


def test_sgd_refuses_what_does_not_fit():
    params = some_gradients(0)
    with pytest.raises(DTypeError, match="SGD: params must be Parameters, such as layer.params; got Linear"):
        SGD(Linear(1, 1), 0.1)
    with pytest.raises(DTypeError, match="SGD.step: grads must be Parameters, as backward returns; got NoneType"):
        SGD(params, 0.1).step(None)
    with pytest.raises(OptionError, match="SGD: lr must be greater than 0; got -1.0"):
        SGD(params, -1.0)
    with pytest.raises(OptionError, match=r"SGD: momentum is a probability|SGD: momentum must be in \[0, 1\]; got 1.5"):
        SGD(params, 0.1, 1.5)
    with pytest.raises(ShapeError, match="SGD.step: grads must have the shapes of params; w must have"):
        SGD(params, 0.1).step(Linear(3, 2).params)


def test_forecaster_gradients_are_those_of_the_complex_step():
    rng = np.random.default_rng(0)
    model = Forecaster(2, 3, cell="rnn-tanh", num_layers=2, rng=rng)
    x, target = rng.normal(size=(2, 5, 4, 2))
    loss, grads, _ = model.loss_and_grads(x, target)
    twin = model.astype(np.complex128)
    reference = np.empty_like(grads.flat)
    for index in range(grads.flat.size):
        twin.params.flat[:] = model.params.flat
        twin.params.flat[index] += 1e-20j
        reference[index] = twin.loss_and_grads(x.astype(complex), target)[0].imag / 1e-20
    np.testing.assert_allclose(grads.flat, reference, rtol=0, atol=1e-13 * np.abs(reference).max())
    assert loss == pytest.approx(((model(x)[0] - target) ** 2).mean(), rel=1e-14)


def test_forecaster_learns_a_wave():
    wave = np.sin(0.3 * np.arange(61.0)).reshape(61, 1, 1)
    model = Forecaster(1, 8, rng=0)
    optimizer = SGD(model.params, 0.1, 0.9)
    losses = []
    for _ in range(200):
        loss, grads, _ = model.loss_and_grads(wave[:-1], wave[1:])
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(loss)
    repeating = ((wave[1:] - wave[:-1]) ** 2).mean()
    assert losses[-1] < repeating / 5 < losses[0]


def test_forecaster_refuses_an_unknown_cell():
    with pytest.raises(OptionError, match="Forecaster: cell must be one of rnn-tanh, rnn-relu, lstm, gru; got 'elman'"):
        Forecaster(1, 2, cell="elman")
