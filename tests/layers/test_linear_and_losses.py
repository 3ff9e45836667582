"""Linear and the losses against the complex step, torch, and their closed forms."""

import numpy as np
import pytest
from frameworks import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import Linear, cross_entropy_loss, mse_loss
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

SEEDS = st.integers(0, 2**32 - 1)


def complex_step(function, value):
    """dfunction/dvalue, entry by entry, of an analytic scalar function."""
    gradient = np.empty(value.shape)
    for index in np.ndindex(value.shape):
        changed = value.astype(complex)
        changed[index] += 1e-20j
        gradient[index] = function(changed).imag / 1e-20
    return gradient


def assert_close(got, reference, rtol):
    largest = np.abs(reference).max()
    assert largest > 0
    np.testing.assert_allclose(got, reference, rtol=0, atol=rtol * largest)


@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.lists(st.integers(1, 3), max_size=2))
def test_linear_gradients_are_those_of_the_complex_step(seed, inputs, outputs, bias, leading):
    rng = np.random.default_rng(seed)
    layer = Linear(inputs, outputs, bias, rng=rng)
    x, dy = rng.normal(size=(*leading, inputs)), rng.normal(size=(*leading, outputs))
    y, trace = layer.forward(x)
    back = layer.backward(trace, dy)
    twin = layer.astype(np.complex128)
    assert_close(back.dx, complex_step(lambda value: (dy * twin(value)).sum(), x), 1e-13)
    for name, value in layer.state_dict().items():

        def loss(changed, name=name):
            twin.load_state_dict(layer.state_dict() | {name: changed})
            return (dy * twin(x.astype(complex))).sum()

        assert_close(back.grads[name], complex_step(loss, value), 1e-13)
    assert np.array_equal(y, layer(x))


@pytest.mark.needs_torch
def test_linear_equals_torch():
    rng = np.random.default_rng(0)
    layer, twin = Linear(3, 5, rng=rng), torch.nn.Linear(3, 5, dtype=torch.float64)
    twin.load_state_dict({name: torch.tensor(value) for name, value in layer.state_dict().items()})
    x, dy = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2, 5))
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = twin(x_torch)
    y_torch.backward(torch.tensor(dy))
    y, trace = layer.forward(x)
    back = layer.backward(trace, dy)
    assert_close(y, y_torch.detach().numpy(), 1e-14)
    assert_close(back.dx, x_torch.grad.numpy(), 1e-14)
    for name, parameter in twin.named_parameters():
        assert_close(back.grads[name], parameter.grad.numpy(), 1e-14)


def test_linear_gradients_add_up_and_inputs_may_change_after_forward():
    layer = Linear(2, 3, rng=0)
    x, dy = np.ones((4, 2)), np.ones((4, 3))
    _, trace = layer.forward(x)
    once = layer.backward(trace, dy).grads
    x[:] = np.nan
    layer.params.flat[:] = 0
    twice = layer.backward(trace, dy, layer.backward(trace, dy).grads).grads
    assert np.array_equal(twice.flat, 2 * once.flat)


@pytest.mark.parametrize("batch", [2, 16, 33])
def test_linear_of_a_signal_in_columns_is_that_of_the_same_in_rows(batch):
    rng = np.random.default_rng(0)
    layer, dy = Linear(7, 5, rng=rng), rng.normal(size=(4, batch, 5))
    columns = rng.normal(size=(4, 7, batch)).swapaxes(1, 2)
    x = columns.copy(order="C")
    (y, trace), (other_y, other_trace) = layer.forward(x), layer.forward(columns)
    columns[...] = 0
    back, other = layer.backward(trace, dy), layer.backward(other_trace, dy)
    assert_close(other_y, y, 2e-15)
    assert_close(other.dx, back.dx, 2e-15)
    assert np.array_equal(other.grads.flat, back.grads.flat)
    if batch > 2:  # as the layer below has its output
        assert other.dx[0].flags.f_contiguous


@given(SEEDS, st.booleans())
def test_mse_gradient_is_that_of_the_complex_step(seed, masked):
    rng = np.random.default_rng(seed)
    y, target = rng.normal(size=(2, 4, 3, 2))
    mask = None
    if masked:
        mask = rng.random((4, 3)) < 0.5
        mask[0, 0] = True
    loss, dy = mse_loss(y, target, mask)
    assert_close(dy, complex_step(lambda value: mse_loss(value, target, mask)[0], y), 1e-13)
    counted = (y - target)[mask] if masked else y - target
    assert loss == pytest.approx((counted**2).mean(), rel=1e-14)
    if masked:
        assert not dy[~mask].any()


@pytest.mark.needs_torch
@given(SEEDS, st.booleans(), st.sampled_from([1.0, 50.0, 1000.0]))
def test_cross_entropy_is_torchs_and_its_gradient_that_of_the_complex_step(seed, masked, scale):
    rng = np.random.default_rng(seed)
    logits, targets = scale * rng.normal(size=(4, 3, 5)), rng.integers(0, 5, (4, 3))
    mask = None
    if masked:
        mask = rng.random((4, 3)) < 0.5
        mask[0, 0] = True
    loss, dlogits = cross_entropy_loss(logits, targets, mask)
    ignoring = np.where(mask, targets, -100) if masked else targets
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, 5), torch.tensor(ignoring).reshape(-1)
    )
    # A loss that is almost 0 is a difference of two numbers of the size of the logits.
    assert loss == pytest.approx(expected.item(), rel=1e-13, abs=1e-15 * scale)
    reference = complex_step(lambda value: cross_entropy_loss(value, targets, mask)[0], logits)
    np.testing.assert_allclose(dlogits, reference, rtol=0, atol=1e-13 / (12 if mask is None else mask.sum()))
    if masked:
        assert not dlogits[~mask].any()


def test_masked_entries_are_not_read():
    mask = np.array([True, False])
    loss, dy = mse_loss(np.array([[1.0], [np.nan]]), np.array([[0.0], [np.inf]]), mask)
    assert loss == 1 and dy.tolist() == [[2.0], [0.0]]
    logits = np.array([[0.0, 0.0], [np.nan, np.inf]])
    loss, dlogits = cross_entropy_loss(logits, np.array([1, -7]), mask)
    assert loss == pytest.approx(np.log(2), rel=1e-15) and dlogits.tolist() == [[0.5, -0.5], [0.0, 0.0]]


def test_cross_entropy_of_huge_logits():
    loss, dlogits = cross_entropy_loss(np.array([[1e308, -1e308]]), np.array([0]))
    assert loss == 0 and not dlogits.any()


def test_losses_keep_the_precision_they_are_given():
    y = np.ones((2, 3), np.float32)
    for loss, gradient in (mse_loss(y, y + 1), cross_entropy_loss(y, np.array([0, 1]))):
        assert loss.dtype == gradient.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Linear(0, 1), OptionError, "Linear: in_features must be at least 1; got 0"),
        (lambda: Linear(2.0, 1), DTypeError, "Linear: in_features must be an integer; got float 2.0"),
        (lambda: Linear(2, 1, 1), DTypeError, "Linear: bias must be True or False; got int 1"),
        (
            lambda: Linear(2, 1)(np.ones((3, 4))),
            ShapeError,
            "Linear.forward: x must have shape (..., in_features) = (..., 2); got (3, 4)",
        ),
        (
            lambda: Linear(2, 1).backward(Linear(2, 1).forward(np.ones((3, 2)))[1], np.ones((3, 2))),
            ShapeError,
            "Linear.backward: dy must have shape (..., out_features) = (3, 1); got (3, 2)",
        ),
        (
            lambda: Linear(2, 1).backward(np.ones(3), np.ones((3, 2))),
            DTypeError,
            "Linear.backward: trace must be the second result of forward; got ndarray",
        ),
        (
            lambda: Linear(3, 2).backward(Linear(4, 2).forward(np.ones((5, 4)))[1], np.ones((5, 2))),
            ShapeError,
            "Linear.backward: the weight in trace must have shape (out, in) = (2, 3); got (2, 4)",
        ),
        (
            lambda: mse_loss(np.ones(3), np.ones((3, 1))),
            ShapeError,
            "mse_loss: target must have shape prediction.shape = (3,); got (3, 1)",
        ),
        (
            lambda: mse_loss(np.ones(3, int), np.ones(3)),
            DTypeError,
            "mse_loss: prediction must be float32, float64 or complex128; got int64",
        ),
        (
            lambda: mse_loss(np.ones(3), np.ones(3), np.ones(3)),
            DTypeError,
            "mse_loss: mask must be boolean, True where a position counts; got dtype float64",
        ),
        (
            lambda: mse_loss(np.ones(3), np.ones(3), np.zeros(3, bool)),
            OptionError,
            "mse_loss: nothing counts: there are no entries, or the mask is False everywhere; "
            "a mean needs at least one",
        ),
        (
            lambda: cross_entropy_loss(np.ones((3, 2)), np.array([0, 1, 2])),
            OptionError,
            "cross_entropy_loss: targets must be in [0, V) = [0, 2); got 0 to 2",
        ),
        (
            lambda: cross_entropy_loss(np.ones((3, 2)), np.ones(3)),
            DTypeError,
            "cross_entropy_loss: targets must be integers, indices of classes; got dtype float64",
        ),
        (
            lambda: cross_entropy_loss(np.ones((3, 2)), np.ones((3, 2), int)),
            ShapeError,
            "cross_entropy_loss: targets must have shape logits.shape[:-1] = (3,); got (3, 2)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
