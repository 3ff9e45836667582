"""The options of the cross-entropy: class weights, smoothing, ignored targets, and what the sum is divided by."""

import numpy as np
import pytest
from frameworks import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import cross_entropy_loss, gradcheck
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers import losses

SHAPE, V = (4, 3), 5

OPTIONS = st.fixed_dictionaries(
    {
        "label_smoothing": st.sampled_from([0.0, 0.1, 0.75, 1.0]),
        "ignore_index": st.sampled_from([None, -100, 1]),
        "weighted": st.booleans(),
        "masked": st.booleans(),
        "reduction": st.sampled_from(["token", "sentence", "sum"]),
        "scale": st.sampled_from([0.01, 1.0, 100.0]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def drawn(label_smoothing, ignore_index, weighted, masked, reduction, scale, seed):
    """Return logits, targets, mask and options, with a position that counts; and which positions count."""
    rng = np.random.default_rng(seed)
    logits, targets = scale * rng.normal(size=(*SHAPE, V)), rng.integers(0, V, SHAPE)
    targets[0, 0] = 2
    if ignore_index == -100:
        targets[rng.random(SHAPE) < 0.4] = -100
        targets[0, 1], targets[0, 0] = -100, 2
    weight = rng.uniform(0.1, 3, V) if weighted else None
    if weighted:
        weight[3] = 0
    mask = None
    if masked:
        mask = rng.random(SHAPE) < 0.6
        mask[0, 0], mask[1, 1] = True, False
    counts = np.ones(SHAPE, bool) if mask is None else mask
    counts = counts & (targets != ignore_index)
    options = {
        "label_smoothing": label_smoothing,
        "ignore_index": ignore_index,
        "weight": weight,
        "reduction": reduction,
    }
    return logits, targets, mask, options, counts


def terms(targets, counts, label_smoothing, weight, reduction, **_):
    """Return Q / D for each position that counts: the size of what the gradient is a difference of."""
    w = np.ones(V) if weight is None else weight
    right = w[targets[counts]]
    divisor = {"token": right.sum(), "sentence": SHAPE[1], "sum": 1}[reduction]
    return ((1 - label_smoothing) * right + label_smoothing * w.mean()) / divisor


@pytest.mark.needs_torch
@given(OPTIONS)
def test_every_combination_is_torchs(chosen):
    logits, targets, mask, options, counts = drawn(**chosen)
    loss, dlogits = cross_entropy_loss(logits, targets, mask, **options)
    z = torch.tensor(logits.reshape(-1, V), requires_grad=True)
    weight, reduction = options["weight"], options["reduction"]
    expected = torch.nn.functional.cross_entropy(
        z,
        torch.tensor(np.where(counts, targets, -7).ravel()),
        weight=None if weight is None else torch.tensor(weight),
        ignore_index=-7,
        label_smoothing=options["label_smoothing"],
        reduction="mean" if reduction == "token" else "sum",
    ) / (SHAPE[1] if reduction == "sentence" else 1)
    expected.backward()
    gradient = z.grad.numpy().reshape(logits.shape)
    size = terms(targets, counts, **options)
    # A loss that is almost 0 is a difference of numbers of the size of the logits.
    assert abs(float(loss) - expected.item()) <= 1e-14 * size.sum() * (np.log(V) + np.ptp(logits, axis=-1).max())
    np.testing.assert_allclose(dlogits, gradient, rtol=0, atol=1e-14 * size.max())
    assert not dlogits[~counts].any()


@given(OPTIONS)
def test_the_gradient_of_every_combination_is_that_of_the_complex_step(chosen):
    logits, targets, mask, options, counts = drawn(**chosen)
    _, dlogits = cross_entropy_loss(logits, targets, mask, **options)
    slopes = np.empty(logits.shape)
    for index in np.ndindex(logits.shape):
        moved = logits.astype(complex)
        moved[index] += 1e-20j
        slopes[index] = cross_entropy_loss(moved, targets, mask, **options)[0].imag / 1e-20
    np.testing.assert_allclose(dlogits, slopes, rtol=0, atol=1e-14 * terms(targets, counts, **options).max())


@pytest.mark.parametrize("reduction", ["token", "sentence", "sum"])
def test_gradcheck_finds_all_options_right(reduction):
    logits, targets, mask, options, _ = drawn(0.1, -100, True, True, reduction, 1.0, 0)

    def both(at):
        return cross_entropy_loss(at["logits"], targets, mask, **options)

    report = gradcheck(lambda at: both(at)[0], {"logits": logits}, grads=lambda at: {"logits": both(at)[1]})
    assert report.ok, report


def fill(shape, k, scale):
    return scale * np.sin(1 + k + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def test_golden_numbers_of_smoothing():
    """torch's, in float64, kept to twelve digits."""
    logits = fill((2, 3), 0, 2.0)
    loss, dlogits = cross_entropy_loss(logits, np.array([2, 0]), label_smoothing=0.1)
    rows = [
        [0.146313481005, 0.203418821016, -0.349732302021],
        [-0.109759408481, 0.079935276855, 0.029824131626],
    ]
    assert round(float(loss), 12) == 0.934741715822
    assert dlogits.round(12).tolist() == rows
    loss, dlogits = cross_entropy_loss(logits, np.array([2, -1]), label_smoothing=0.1, ignore_index=-1)
    assert round(float(loss), 12) == 1.420848011362
    np.testing.assert_allclose(dlogits, [[2 * value for value in rows[0]], [0, 0, 0]], rtol=0, atol=2e-12)


def test_reductions_differ_by_what_they_divide_by():
    logits, targets, mask, options, counts = drawn(0.1, None, False, True, "sum", 1.0, 1)
    total, dtotal = cross_entropy_loss(logits, targets, mask, **options)
    for reduction, divisor in (("token", counts.sum()), ("sentence", SHAPE[1])):
        loss, dlogits = cross_entropy_loss(logits, targets, mask, **options | {"reduction": reduction})
        assert loss == total / divisor
        np.testing.assert_allclose(dlogits, dtotal / divisor, rtol=1e-15)


def test_options_at_their_neutral_values_change_no_bit():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.complex128):
        logits, targets = rng.normal(size=(7, 6, 11)).astype(dtype), rng.integers(0, 11, (7, 6))
        plain = cross_entropy_loss(logits, targets)
        same = [
            cross_entropy_loss(logits, targets, np.ones((7, 6), bool)),
            cross_entropy_loss(logits, targets, ignore_index=-100, label_smoothing=0.0),
            cross_entropy_loss(logits.swapaxes(0, 1).copy().swapaxes(0, 1), targets),
        ]
        for loss, dlogits in same:
            assert loss.tobytes() == plain[0].tobytes() and dlogits.tobytes() == plain[1].tobytes()
        weighted = cross_entropy_loss(logits, targets, weight=np.ones(11))
        np.testing.assert_allclose(weighted[1], plain[1], rtol=8 * np.finfo(dtype).eps)


def test_what_does_not_count_is_not_read():
    logits = np.array([[0.0, 0.0], [np.nan, np.inf]])
    loss, dlogits = cross_entropy_loss(logits, np.array([1, -7]), ignore_index=-7, label_smoothing=0.5)
    assert loss == pytest.approx(np.log(2), rel=1e-15) and dlogits.tolist() == [[0.25, -0.25], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_targets_of_any_integer_dtype_can_be_ignored(dtype):
    logits, targets = np.zeros((3, 4)), np.array([1, 2, 3], dtype)
    _, dlogits = cross_entropy_loss(logits, targets, ignore_index=2)
    assert dlogits[1].tolist() == [0, 0, 0, 0] and dlogits[0].any()
    assert cross_entropy_loss(logits, targets, ignore_index=-1000)[1].all()


def test_float32_stays_float32():
    options = {"weight": np.array([1.0, 2.0, 0.5]), "label_smoothing": 0.1, "reduction": "sum"}
    loss, dlogits = cross_entropy_loss(np.ones((4, 3), np.float32), np.zeros(4, int), **options)
    assert loss.dtype == dlogits.dtype == np.float32


NOTHING = "cross_entropy_loss: nothing counts: there are no entries, or the mask is False everywhere"


@pytest.mark.parametrize("reduction", ["token", "sentence", "sum"])
def test_a_batch_in_which_nothing_counts_is_refused(reduction):
    logits, targets = np.ones((2, 3, 4)), np.full((2, 3), 1)
    for options, message in (
        ({"mask": np.zeros((2, 3), bool)}, f"{NOTHING}; a mean needs at least one"),
        ({"ignore_index": 1}, f"{NOTHING}, or all that it leaves is 1; a mean needs at least one"),
        (
            {"weight": [1.0, 0.0, 1.0, 1.0], "label_smoothing": 0.1},
            "cross_entropy_loss: nothing counts: weight is 0 for the target of every position that is not left out",
        ),
    ):
        with pytest.raises(OptionError) as caught:
            cross_entropy_loss(logits, targets, reduction=reduction, **options)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_smoothing": 1.5}, OptionError, "label_smoothing must be in [0, 1]; got 1.5"),
        ({"label_smoothing": "0.1"}, DTypeError, "label_smoothing must be a number; got str '0.1'"),
        ({"ignore_index": 1.0}, DTypeError, "ignore_index must be an integer; got float 1.0"),
        ({"reduction": "mean"}, OptionError, "reduction must be one of 'token', 'sentence', 'sum'; got 'mean'"),
        (
            {"reduction": "sentence"},
            ShapeError,
            "for reduction = 'sentence' targets must have shape (T, N); got (3,)",
        ),
        ({"weight": [1.0, 2.0, 3.0]}, ShapeError, "weight must have shape (V,) = (2,); got (3,)"),
        (
            {"weight": [1j, 2.0]},
            DTypeError,
            "weight must be real numbers, one for each class; got dtype complex128",
        ),
        ({"weight": [1.0, -2.0]}, OptionError, "weight must be finite and at least 0; got -2.0 for class 1"),
        ({"weight": [np.nan, 2.0]}, OptionError, "weight must be finite and at least 0; got nan for class 0"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error) as caught:
        cross_entropy_loss(np.ones((3, 2)), np.array([0, 1, 0]), **options)
    assert str(caught.value) == f"cross_entropy_loss: {message}"


def gradient_of(**other):
    """Return a loss whose value is right, and whose gradient is that of other options."""

    def mistaken(logits, targets, mask, **options):
        return (
            cross_entropy_loss(logits, targets, mask, **options)[0],
            cross_entropy_loss(logits, np.abs(targets), mask, **options | other)[1],
        )

    return mistaken


def mean_of_means(logits, targets, mask, **options):
    """The mean over sequences of the mean over their tokens, where the loss is the mean over tokens."""
    loss, dlogits = cross_entropy_loss(logits, targets, mask, **options)
    counts = ((targets != options["ignore_index"]) & mask).sum(axis=0)
    return loss, dlogits * (counts.sum() / np.maximum(counts, 1) / SHAPE[1])[None, :, None]


def undivided_weights(logits, targets, mask, **options):
    """Class weights in the sum, the number of tokens in place of their sum below it."""
    loss, dlogits = cross_entropy_loss(logits, targets, mask, **options)
    counts = (targets != options["ignore_index"]) & mask
    return loss, dlogits * (options["weight"][targets[counts]].sum() / counts.sum())


def distribution_left_out(logits, targets, mask, **options):
    """p where p - q is right: what a loss that forgets the targets gives."""
    loss, dlogits = cross_entropy_loss(logits, targets, mask, **options)
    p = np.exp(logits - logits.real.max(axis=-1, keepdims=True))
    return loss, np.where(dlogits != 0, p / p.sum(axis=-1, keepdims=True), 0)


MISTAKES = {
    "divided by N, not by tokens": gradient_of(reduction="sentence"),
    "not divided at all": gradient_of(reduction="sum"),
    "smoothing left out": gradient_of(label_smoothing=0.0),
    "class weights left out": gradient_of(weight=None),
    "ignored targets get a gradient": gradient_of(ignore_index=None),
    "mean of means": mean_of_means,
    "divided by tokens, not by their weights": undivided_weights,
    "targets left out": distribution_left_out,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_gradcheck_catches_what_people_get_wrong(mistake):
    logits, targets, mask, options, _ = drawn(0.1, -4, True, True, "token", 1.0, 3)
    targets[2] = [-4, 1, 0]

    def both(at):
        return MISTAKES[mistake](at["logits"], targets, mask, **options)

    report = gradcheck(lambda at: both(at)[0], {"logits": logits}, grads=lambda at: {"logits": both(at)[1]})
    assert not report.ok and [row.verdict for row in report.rows] == ["WRONG"]


class Noisy(np.ndarray):
    """An array whose products raise the flag for what is invalid, as BLAS does of sound numbers at times."""

    def dot(self, other):
        np.log(np.full(2, -1.0))
        return np.asarray(self).dot(other)


def test_a_product_that_is_called_invalid_beside_a_right_sum_is_no_warning(monkeypatch):
    logits, targets = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32), np.arange(7) % 5
    loss, dlogits = cross_entropy_loss(logits, targets)
    make = losses.memory.empty
    monkeypatch.setattr(losses.memory, "empty", lambda shape, dtype: make(shape, dtype).view(Noisy))
    with np.errstate(invalid="raise"):
        with pytest.raises(FloatingPointError):
            np.ones(2).view(Noisy).dot(np.ones(2))
        again, dagain = cross_entropy_loss(logits, targets)
    assert again == loss and np.array_equal(np.asarray(dagain), dlogits)
