"""Batches of like length: every sample once an epoch, little padding, a state that goes on; and what is refused."""

import numpy as np
import pytest
from messages import assert_raises
from trainings import digest

from rnn_numpy import GRU, SequenceModel
from rnn_numpy.errors import DTypeError, OptionError, ShapeError, StateDictError
from rnn_numpy.training import Adam, LikeLength, load_checkpoint, save_checkpoint, train

RNG = np.random.default_rng(0)
LENGTHS, ENDS = RNG.integers(1, 7, 23), RNG.integers(1, 5, 23)
X = np.where(np.arange(6)[:, None] < LENGTHS, np.arange(1, 24), 0)  # the n-th sample is n + 1 at each step
Y = np.where(np.arange(4)[:, None, None] < ENDS[:, None], np.arange(1.0, 24)[:, None], 0) * [1, 2]  # (T, n, 2)


def made(rng=0, **options):
    return LikeLength((X, LENGTHS), (Y, ENDS), **{"batch_size": 4, "rng": rng, **options})


def some(source, count):
    return [next(source) for _ in range(count)]


def test_each_epoch_has_every_sample_once_with_all_that_belongs_to_it():
    batches = made(epochs=3)
    seen = {1: [], 2: [], 3: []}
    for x, lengths, y, ends in batches:
        n = x[0] - 1
        seen[batches.epoch].append(n.tolist())
        assert np.array_equal(lengths, LENGTHS[n]) and np.array_equal(ends, ENDS[n])
        assert np.array_equal(x, X[: lengths.max(), n]) and np.array_equal(y, Y[: ends.max(), n])
        assert len(x) == lengths.max() and len(y) == ends.max()
    for epoch in seen.values():
        assert sorted(n for batch in epoch for n in batch) == [*range(23)] and len(epoch) == len(batches) == 6
    assert seen[1] != seen[2] != seen[3] and [*batches] == []


def test_a_batch_holds_neighbours_in_length_and_batches_come_in_any_order():
    firsts = []
    for seed in range(5):
        batches = [(lengths, ends) for _, lengths, _, ends in made(seed, epochs=1)]
        firsts.append(batches[0][0].max())
        batches.sort(key=lambda pair: [*zip(*pair, strict=True)])
        lengths, ends = (np.concatenate(part) for part in zip(*batches, strict=True))
        order = np.lexsort([ENDS, LENGTHS])
        assert np.array_equal(lengths, LENGTHS[order]) and np.array_equal(ends, ENDS[order])
    assert len(set(firsts)) > 1


def test_equals_in_length_come_in_an_order_that_is_drawn():
    same = LikeLength((np.arange(1, 21)[None], np.ones(20, int)), batch_size=5, rng=3)
    rng = np.random.default_rng(3)
    for _ in range(2):
        drawn, turns = rng.permutation(20) + 1, rng.permutation(4)
        assert [x[0].tolist() for x, _ in some(same, 4)] == [drawn[5 * k : 5 * k + 5].tolist() for k in turns]


def test_a_batch_is_a_copy_and_a_pass_in_order_leaves_the_state_alone():
    batches = made()
    for array in next(batches):
        assert not any(np.may_share_memory(array, own) for own in (X, LENGTHS, Y, ENDS))
    before = digest(batches.state_dict())
    passed = [*batches.in_order()]
    assert digest(batches.state_dict()) == before
    assert np.array_equal(np.concatenate([lengths for _, lengths, *_ in passed]), np.sort(LENGTHS))
    assert sorted(n for x, *_ in passed for n in x[0]) == [*range(1, 24)]


def test_another_one_goes_on_from_every_state():
    batches, states = made(), []
    for _ in range(15):
        states.append(batches.state_dict())
        next(batches)
    for done, state in enumerate(states):
        kept = digest(state)
        other, straight = made(5), made()
        next(other)
        other.load_state_dict(state)
        some(straight, done)
        assert digest(some(other, 9)) == digest(some(straight, 9)) and other.epoch == straight.epoch
        assert digest(state) == kept
    state, before = batches.state_dict(), digest(batches.state_dict())
    state["order"][:] = state["turns"][:] = 0
    assert digest(batches.state_dict()) == before, "a state is a copy"
    finished, other = made(epochs=1), made(epochs=1)
    assert len([*finished]) == 6
    other.load_state_dict(finished.state_dict())
    assert [*other] == []


class Reader(SequenceModel):
    """Says, after its last step, what the first of the second sequence is."""

    def loss_and_grads(self, x, lengths, y, ends):
        return super().loss_and_grads(x[..., None] / 23, y[0], lengths=lengths)


def test_a_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    def begin(seed):
        model = Reader(GRU(1, 3, rng=seed), 2, rng=seed)
        return train(model, made(seed), Adam(model.params))

    straight = begin(0)
    losses = [next(straight).loss for _ in range(15)]
    for done in (1, 5, 6, 8):  # within an epoch, before its last batch, after it, in the next one
        first, other = begin(0), begin(5)
        some(first, done)
        save_checkpoint(tmp_path / "a.npz", first)
        other.load_state_dict(load_checkpoint(tmp_path / "a.npz").training)
        assert [update.loss for update in some(other, 15 - done)] == losses[done:]
        assert np.array_equal(other.model.params.flat, straight.model.params.flat)


def test_states_that_do_not_fit_are_refused_and_change_nothing():
    batches = made()
    next(batches)
    state = batches.state_dict()
    longer = LENGTHS.copy()
    longer[LENGTHS.argmin()] += 1
    for message, other, changed in [
        ("samples is 22 here, 23 in the state", LikeLength((X[:, 1:], LENGTHS[1:]), batch_size=4), {}),
        ("batch_size is 5 here, 4 in the state", made(batch_size=5), {}),
        (
            "the data are not those of the state, though there are as many",
            LikeLength((X, longer), (Y, ENDS), batch_size=4),
            {},
        ),
        ("position must be an int, from 0 to 6; got 7", made(), {"position": 7}),
        ("order must be a permutation of 23 numbers", made(), {"order": np.zeros(23, int)}),
        ("turns must be a permutation of 6 numbers", made(), {"turns": np.arange(1, 7)}),
    ]:
        before = digest(other.state_dict())
        message = f"LikeLength.load_state_dict: {message}"
        assert_raises(StateDictError, message, lambda o=other, c=changed: o.load_state_dict(state | c))
        assert digest(other.state_dict()) == before


def test_arrays_that_do_not_fit_are_refused():
    for error, message, call in [
        (
            DTypeError,
            "LikeLength: sequences must be pairs of an array (T, n, ...) and lengths (n,), at least one",
            lambda: LikeLength(batch_size=1),
        ),
        (
            DTypeError,
            "LikeLength: sequences must be pairs of an array (T, n, ...) and lengths (n,), at least one",
            lambda: LikeLength(X, LENGTHS, batch_size=1),
        ),
        (
            ShapeError,
            "LikeLength: sequences[0] must have shape (T, n, ...), n at least 1; got (23,)",
            lambda: LikeLength((LENGTHS, LENGTHS), batch_size=1),
        ),
        (
            ShapeError,
            "LikeLength, sequences[1]: lengths must have shape (N,) = (23,); got (22,)",
            lambda: LikeLength((X, LENGTHS), (Y, ENDS[1:]), batch_size=1),
        ),
        (
            ShapeError,
            "LikeLength: sequences must have the same number of samples; sequences[0] has n = 23, sequences[1] has 22",
            lambda: LikeLength((X, LENGTHS), (Y[:, 1:], ENDS[1:]), batch_size=1),
        ),
        (
            OptionError,
            "LikeLength: batch_size must be at most n = 23, the number of samples; got 24",
            lambda: made(batch_size=24),
        ),
    ]:
        assert_raises(error, message, call)
    with pytest.raises(OptionError, match=r"lengths\[\d+\] must be at most T = 5, the steps of x; got 6"):
        LikeLength((X[:5], LENGTHS), batch_size=1)


def test_they_say_what_they_are():
    batches = made(epochs=2)
    next(batches)
    assert repr(batches) == "LikeLength: 23 samples by 4, epoch 1 of 2"
    assert repr(made()) == "LikeLength: 23 samples by 4, epoch 0"
