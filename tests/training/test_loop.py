"""The loop: it is the bare hand-written one, bit for bit; micro-batches add up; state is carried; fit adds nothing."""

import copy
import gc
import math
import weakref

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy import GRU, LSTM, RNN, Linear
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError
from rnn_numpy.models import SequenceModel
from rnn_numpy.training import (
    SGD,
    Adam,
    Batches,
    Best,
    Draws,
    Patience,
    Windows,
    clip_grad_norm,
    clip_grad_value,
    evaluate,
    fit,
    train,
)

T, N, D, K = 5, 12, 2, 3


def data(dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.normal(size=(T, N, D)).astype(dtype), rng.integers(K, size=(T, N))


def model_of(dtype=np.float64, layer=GRU, **options):
    return SequenceModel(layer(D, 4, dtype=dtype, rng=0, **options), K, reads="all", loss="cross_entropy", rng=1)


def parts(dtype=np.float64, batch_size=5, **options):
    model = model_of(dtype, **options)
    batches = Batches(*data(dtype), batch_size=batch_size, axis=1, rng=2)
    return model, batches, Adam(model.params, lr=0.05)


# ------------------------------------------------------------------------------------------------ one update


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_hand_written_loop_bit_for_bit(dtype):
    options = {"num_layers": 2, "dropout": 0.3}
    model, batches, optimizer = parts(dtype, **options)
    losses, norms = [], []
    for number in range(9):
        loss, grads, trace = model.loss_and_grads(*next(batches))
        norms.append(clip_grad_norm(grads, 0.5).norm)
        optimizer.lr = 0.05 / (1 + number)
        optimizer.step(grads)
        losses.append(float(loss))
    twin, batches, optimizer = parts(dtype, **options)
    training = train(twin, batches, optimizer, clip=0.5, schedule=lambda t: 0.05 / (1 + t))
    updates = [next(training) for _ in range(9)]
    assert [update.loss for update in updates] == losses
    assert [update.clip.norm for update in updates] == norms
    assert [update.number for update in updates] == [*range(1, 10)]
    assert [update.epoch for update in updates] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [update.count for update in updates] == [T * 5, T * 5, T * 2] * 3
    assert [update.lr for update in updates] == [0.05 / t for t in range(1, 10)]
    assert np.array_equal(twin.params.flat, model.params.flat)
    assert np.array_equal(updates[-1].grads.flat, grads.flat)
    assert np.array_equal(updates[-1].trace.h, trace.h)
    assert training.history["loss"].tolist() == losses and training.history["norm"].tolist() == norms


def test_a_loop_that_is_left_goes_on_where_it_was():
    straight = train(*parts())
    losses = [next(straight).loss for _ in range(8)]
    training, found = train(*parts()), []
    for stop in (2, 3, 8):
        for update in training:
            found.append(update.loss)
            if update.number == stop:
                break
    assert found == losses
    assert training.history["loss"].tolist() == losses and len(training.history) == 8


def test_it_ends_with_its_batches():
    model, _, optimizer = parts()
    batch = data()
    training = train(model, [batch, batch], optimizer)
    assert [update.number for update in training] == [1, 2]
    assert [*training] == [] and training.number == 2
    assert training.micro.__self__ is training
    with pytest.raises(StopIteration):
        training.micro()
    assert len([*train(model, (batch for _ in range(3)), optimizer)]) == 3


def test_no_more_than_the_last_trace_is_alive():
    training = train(*parts())
    update = next(training)
    old = weakref.ref(update.trace), weakref.ref(update.grads)
    del update
    gc.collect()
    assert [reference() for reference in old] == [None, None]
    alive = []

    def measure():
        gc.collect()
        alive.append(sum(reference() is not None for reference in traces))
        return 0.0

    traces = []
    model = training.model
    forward = model.rnn.forward

    def remembering(*args, **options):
        result = forward(*args, **options)
        traces.append(weakref.ref(result[2]))
        return result

    model.rnn.forward = remembering
    fit(training, 6, validate=measure, every=1)
    assert len(traces) == 5 and alive == [0] * 5


def test_a_copy_goes_on_by_itself():
    training = train(*parts(num_layers=2, dropout=0.2), clip=1.0, accumulate=2)
    next(training)
    training.micro()
    twin = copy.deepcopy(training)
    losses = [next(training).loss for _ in range(4)]
    assert [next(twin).loss for _ in range(4)] == losses and len(set(losses)) == 4
    assert np.array_equal(twin.model.params.flat, training.model.params.flat)
    assert not np.may_share_memory(twin.model.params.flat, training.model.params.flat)


def test_updates_have_gradients_of_their_own():
    training = train(*parts(), clip=0.1)
    first = next(training)
    kept = first.grads.flat.copy()
    second = next(training)
    assert np.array_equal(first.grads.flat, kept) and not np.may_share_memory(first.grads.flat, second.grads.flat)


def test_an_update_says_what_it_is_in_one_line():
    update = next(train(*parts(), clip=1e-3))
    text = (
        f"Update 1: epoch 1, loss {update.loss:.6g}, count 25, lr 0.05, norm {update.clip.norm:.4g} clipped to 0.001; "
    )
    assert repr(update) == f"{text}{update.seconds:.4f} s"
    assert f", norm {update.clip.norm:.4g}; " in repr(next(train(*parts(), clip=100)))
    assert "norm" not in repr(next(train(*parts())))


# --------------------------------------------------------------------------------------- clipping, schedules


def test_clipping_is_a_norm_or_a_function():
    def by_value(grads):
        return clip_grad_value(grads, 1e-3)

    training = train(*parts(), clip=by_value)
    update = next(training)
    assert np.abs(update.grads.flat).max() == 1e-3 and update.clip.engaged
    update = next(train(*parts(), clip=1e-3))
    assert np.linalg.norm(update.grads.flat) == pytest.approx(1e-3, rel=1e-14)


def test_an_update_that_is_skipped_makes_no_step():
    x, classes = data()
    spoilt = x.copy()
    spoilt[0, 0, 0] = np.nan
    model = model_of()
    optimizer = Adam(model.params, lr=0.1)
    batches = [(x, classes), (spoilt, classes), (x, classes)]
    training = train(model, batches, optimizer, clip=lambda grads: clip_grad_norm(grads, 1.0, on_nonfinite="skip"))
    with np.errstate(all="ignore"):
        first = next(training)
        before, steps = model.params.flat.copy(), optimizer.steps
        second = next(training)
        assert not first.clip.skipped and second.clip.skipped and second.number == 2
        assert np.array_equal(model.params.flat, before) and optimizer.steps == steps
        assert not next(training).clip.skipped and optimizer.steps == steps + 1
    assert np.isnan(training.history["norm"]).tolist() == [False, True, False]


@pytest.mark.parametrize("clip", [None, 1.0])
def test_what_is_not_finite_changes_no_parameter(clip):
    x, classes = data()
    model = model_of()
    training = train(model, [(x * np.nan, classes), (x, classes)], Adam(model.params, lr=0.1), clip=clip)
    before = model.params.flat.copy()
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError):
        next(training)
    assert np.array_equal(model.params.flat, before) and training.number == 0
    assert next(training).number == 1


def test_a_schedule_is_asked_before_the_step():
    model, batches, _ = parts()
    optimizer = SGD(model.params, lr=1.0)
    asked = []

    def schedule(t):
        asked.append(t)
        return np.float32(0.5) if t == 0 else 1e-30

    training = train(model, batches, optimizer, schedule=schedule)
    before = model.params.flat.copy()
    update = next(training)
    assert np.array_equal(model.params.flat, before - 0.5 * update.grads.flat)
    before = model.params.flat.copy()
    next(training)
    assert np.array_equal(model.params.flat, before)
    assert asked == [0, 1] and type(update.lr) is float


# -------------------------------------------------------------------------------------------- accumulation


def masked(count, seed):
    """A batch of the data with a mask that lets `count` entries count."""
    mask = np.zeros(T * N, bool)
    mask[np.random.default_rng(seed).permutation(T * N)[:count]] = True
    return mask.reshape(T, N)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unequal_micro_batches_add_up_to_the_whole_batch(dtype):
    x, classes = data(dtype)
    cuts = [slice(0, 1), slice(1, 8), slice(8, 12)]
    masks = masked(23, 0)
    micro = [(x[:, cut], classes[:, cut], masks[:, cut]) for cut in cuts]
    model, twin = model_of(dtype), model_of(dtype)
    whole = next(train(model, [(x, classes, masks)], SGD(model.params, lr=0.1)))
    update = next(train(twin, micro, SGD(twin.params, lr=0.1), accumulate=3))
    assert update.count == whole.count == 23
    counts = [model.count(*batch) for batch in micro]
    assert len(set(counts)) == 3 and sum(counts) == 23
    eps = float(np.finfo(dtype).eps)
    assert update.loss == pytest.approx(whole.loss, rel=8 * eps)
    largest = np.abs(whole.grads.flat).max()
    np.testing.assert_allclose(update.grads.flat, whole.grads.flat, rtol=0, atol=16 * eps * largest)
    # The planted mistake: the mean of means.
    means = [twin.loss_and_grads(*batch)[1].flat for batch in micro]
    assert np.abs(np.mean(means, axis=0) - whole.grads.flat).max() > 0.01 * largest


def test_micro_takes_one_and_the_update_comes_with_the_last():
    training = train(*parts(batch_size=2), accumulate=3)
    before = training.model.params.flat.copy()
    assert training.micro() is None and training.micro() is None
    assert np.array_equal(training.model.params.flat, before) and training.number == 0
    update = training.micro()
    assert update.number == 1 and update.count == 6 * T and update.trace is not None
    assert not np.array_equal(training.model.params.flat, before)
    twin = train(*parts(batch_size=2), accumulate=3)
    assert next(twin).loss == update.loss
    assert np.array_equal(twin.model.params.flat, training.model.params.flat)


def test_the_last_update_is_of_the_micro_batches_that_there_are():
    x, classes = data()
    model = model_of()
    micro = [(x[:, n : n + 3], classes[:, n : n + 3]) for n in range(0, 12, 3)]
    updates = [*train(model, micro, SGD(model.params, lr=0.1), accumulate=3)]
    assert [update.count for update in updates] == [9 * T, 3 * T]
    assert updates[-1].trace is None and updates[0].trace is not None


class Weighted:
    """The mean of (w - x)^2 / 2, weighted; what it divides by is the sum of the weights."""

    def __init__(self):
        self.linear = Linear(1, 1, rng=0)
        self.params = self.linear.params

    def loss_and_grads(self, x, weights):
        w = self.params["bias"][0]
        grads = self.params.zeros_like()
        grads["bias"][:] = (weights * (w - x)).sum() / weights.sum()
        return (weights * (w - x) ** 2).sum() / (2 * weights.sum()), grads, None

    def count(self, x, weights):
        return weights.sum()


def test_what_counts_may_be_weights():
    model = Weighted()
    x, weights = np.arange(6.0), np.array([0.25, 1.5, 0.5, 2.0, 0.125, 1.0])
    loss, grads, _ = model.loss_and_grads(x, weights)
    micro = [(x[:2], weights[:2]), (x[2:], weights[2:])]
    update = next(train(model, micro, SGD(model.params, lr=0.5), accumulate=2))
    assert update.loss == pytest.approx(loss, rel=1e-15) and update.count == weights.sum()
    np.testing.assert_allclose(update.grads["bias"], grads["bias"], rtol=1e-15)


# ------------------------------------------------------------------------------------- stateful truncated BPTT


class Characters(SequenceModel):
    def loss_and_grads(self, ids, targets, h_0=None):
        return super().loss_and_grads(np.eye(self.rnn.input_size, dtype=self.dtype)[ids], targets, h_0=h_0)


def characters(layer=LSTM):
    model = Characters(layer(4, 3, 2, rng=0), 4, reads="all", loss="cross_entropy", rng=1)
    ids = np.random.default_rng(3).integers(4, size=60)
    return model, Windows(ids, 3, 6), SGD(model.params, lr=0.1)


@pytest.mark.parametrize("layer", [RNN, LSTM])
def test_the_state_is_carried_and_dropped_where_the_text_begins_again(layer):
    model, windows, optimizer = characters(layer)
    losses, state = [], None
    for number in range(9):
        if number % 4 == 0:  # 19 steps of a column: windows of 6, 6, 6 and 1
            state = None
        loss, grads, trace = model.loss_and_grads(*next(windows), h_0=state)
        state = trace.h_n
        optimizer.step(grads)
        losses.append(float(loss))
    training = train(*characters(layer), stateful=True)
    assert [next(training).loss for _ in range(9)] == losses
    assert np.array_equal(training.model.params.flat, model.params.flat)
    other = train(*characters(layer))
    forgetful = [next(other).loss for _ in range(9)]
    assert forgetful[0] == losses[0] and all(a != b for a, b in zip(forgetful[1:4], losses[1:4], strict=True))


def test_with_no_learning_windows_see_what_one_pass_sees():
    model, windows, _ = characters()
    training = train(model, windows, SGD(model.params, lr=1e-300), stateful=True)
    carried = [next(training) for _ in range(4)]
    ids = windows.columns
    output, h_n, _ = model.rnn.forward(np.eye(4)[ids])
    found = np.concatenate([update.trace["l1"].h[1:] for update in carried])
    np.testing.assert_allclose(found, output, rtol=1e-13)
    for mine, whole in zip(training.carried, h_n, strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": True}])
def test_a_trace_has_the_final_state_that_forward_returned(options):
    for layer in (RNN, LSTM, GRU):
        rnn = layer(2, 3, rng=0, **options)
        x = np.ones((4, 2, 2))
        _, h_n, trace = rnn.forward(x, lengths=[4, 2] if not options.get("batch_first") else [2, 1, 2, 1])
        assert trace.h_n is h_n
        _, h_n, trace = rnn.forward(x[0])
        assert trace.h_n is h_n
    steps = GRU(2, 3, rng=0).forward_steps(np.ones((4, 2, 2)))
    next(steps)
    assert steps.trace.h_n is None


# ---------------------------------------------------------------------------------------------------- fit


def test_fit_is_stepping_bit_for_bit():
    stepped = train(*parts(num_layers=2, dropout=0.2), clip=1.0)
    for _ in range(11):
        next(stepped)
    fitted = train(*parts(num_layers=2, dropout=0.2), clip=1.0)
    shown = []
    history = fit(fitted, 5, progress=lambda *said: shown.append(said))
    assert len(history) == 5
    assert fit(fitted, 11) is fitted.history and len(history) == 11
    assert np.array_equal(fitted.model.params.flat, stepped.model.params.flat)
    for name in ("update", "epoch", "loss", "count", "lr", "norm"):
        assert np.array_equal(history[name], stepped.history[name]), name
    assert shown == [(n, 5, f"loss {history['loss'][n - 1]:.4g}") for n in range(1, 6)]
    assert fit(fitted, 11) is history and len(history) == 11


def test_fit_validates_every_so_often():
    training = train(*parts())
    at = []

    def validate():
        at.append(training.number)
        return 10.0 - training.number

    history = fit(training, 10, validate=validate, every=4)
    assert at == [4, 8] and history.validations["value"].tolist() == [6.0, 2.0]
    at.clear()
    fit(training, 12, validate=validate)  # an epoch: 3 batches
    assert at == [12] and history.validations["update"].tolist() == [4, 8, 12]
    shown = []
    model, batches, optimizer = parts()
    batches.epochs = 2
    fit(train(model, batches, optimizer, accumulate=2), validate=validate, progress=lambda *said: shown.append(said))
    assert [said[:2] for said in shown] == [(1, 1), (2, 2), (3, 3)]


def test_patience_ends_it_and_best_brings_the_parameters_back():
    values = iter([3.0, 2.0, math.nan, 2.5, 1.0, 0.0])
    training = train(*parts())
    kept = []

    def validate():
        kept.append(training.model.params.flat.copy())
        return next(values)

    patience, best = Patience(2), Best(training.model.params)
    fit(training, 100, validate=validate, every=3, patience=patience, best=best)
    assert training.number == 12 and patience.stopped and best.best == 2.0
    assert np.array_equal(training.model.params.flat, kept[-1])
    best.restore()
    assert np.array_equal(training.model.params.flat, kept[1])
    assert fit(training, 100, validate=validate, every=3, patience=patience) is training.history
    assert training.number == 12


def test_evaluate_is_the_mean_over_all_that_counts():
    model, batches, _ = parts(num_layers=2, dropout=0.5)
    x, classes = data()
    mask = masked(17, 1)
    next(batches)
    before = batches.state_dict()
    expected = pytest.approx(float(model.loss_of(x, classes)), rel=1e-14)
    assert evaluate(model, batches) == expected == evaluate(model, [(x, classes)])
    after = batches.state_dict()
    assert after["position"] == before["position"] and after["rng"] == before["rng"]
    unequal = [(x[:, :2], classes[:, :2], mask[:, :2]), (x[:, 2:], classes[:, 2:], mask[:, 2:])]
    assert evaluate(model, unequal) == pytest.approx(float(model.loss_of(x, classes, mask)), rel=1e-14)


# ------------------------------------------------------------------------------------------------- messages


def refused(message, error=OptionError, model=None, batches=None, optimizer=None, **options):
    ours = parts()
    given = [mine if other is None else other for mine, other in zip(ours, (model, batches, optimizer), strict=True)]
    if optimizer is None and model is not None and hasattr(model, "params"):
        given[2] = SGD(model.params, lr=0.1)
    assert_raises(error, message, lambda: train(*given, **options))


def test_parts_that_do_not_fit_together_are_refused():
    refused("train: model must have params; int has not", DTypeError, model=3)
    refused(
        "train: optimizer must act on model.params; it was made of others. Make it after the model, as "
        "Adam(model.params, ...)",
        optimizer=Adam(model_of().params),
    )
    refused("train: accumulate must be at least 1; got 0", accumulate=0)
    refused("train: clip must be greater than 0; got -1.0", clip=-1)
    refused("train: schedule must be callable, with the number of an update; got 0.1", DTypeError, schedule=0.1)
    refused("train: stateful carries the state from batch to batch; these are shuffled", stateful=True)
    refused("train: generators['a'] must be a numpy.random.Generator; got 3", DTypeError, generators={"a": 3})
    silent = Weighted()
    silent.count = None
    message = "train: accumulate > 1 needs model.count(*batch), what the mean loss divides by"
    refused(message, DTypeError, model=silent, accumulate=2)
    model = Weighted()
    training = train(model, [np.ones(3)], SGD(model.params, lr=0.1))
    message = "train: a batch must be a tuple, (inputs, targets), say; got ndarray"
    assert_raises(DTypeError, message, lambda: next(training))
    training = train(model, [(np.ones(3), np.zeros(3))] * 2, SGD(model.params, lr=0.1), accumulate=2)
    message = "train: nothing counts in any micro-batch of this update"
    with np.errstate(all="ignore"):
        assert_raises(OptionError, message, lambda: next(training))


def test_a_model_that_does_not_count_has_nan_there():
    model = Weighted()
    model.count = None
    training = train(model, [(np.ones(3), np.ones(3))], SGD(model.params, lr=0.1))
    assert math.isnan(next(training).count) and training.history.to_dict()["count"] == [None]


def test_fit_and_evaluate_refuse_what_they_cannot_do():
    training = train(*parts())
    message = "fit: patience and best need validate, whose values they get"
    assert_raises(OptionError, message, lambda: fit(training, 3, patience=Patience(2)))
    assert_raises(OptionError, "fit: updates must be at least 0; got -1", lambda: fit(training, -1))
    assert_raises(OptionError, "fit: save_every must be at least 1; got 0", lambda: fit(training, 3, save_every=0))
    assert_raises(
        DTypeError, "fit: training must be what train returns; got int", lambda: fit(3, 3, validate=lambda: 0.0)
    )
    model = model_of()
    draws = Draws(lambda rng: data(), rng=0)
    endless = train(model, draws, SGD(model.params, lr=0.1))
    message = "fit: every must be given: Draws does not know how long an epoch is"
    assert_raises(OptionError, message, lambda: fit(endless, 3, validate=lambda: 0.0))
    message = "evaluate: batches must end; draw some of them: [next(draws) for _ in range(10)]"
    assert_raises(OptionError, message, lambda: evaluate(model, draws))
    message = "evaluate: batches must have something that counts; there is nothing"
    assert_raises(OptionError, message, lambda: evaluate(model, []))


def test_a_training_says_what_it_is():
    training = train(*parts(), clip=0.5)
    assert repr(training) == (
        "Training: 0 updates, optimizer Adam, accumulate 1, stateful False, schedule None, clip 0.5"
    )


def test_an_epoch_of_a_list_is_its_length():
    model, _, optimizer = parts()
    history = fit(train(model, [data()] * 3, optimizer), validate=lambda: 0.0)
    assert history.validations["update"].tolist() == [3]
