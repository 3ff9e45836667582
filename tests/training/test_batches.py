"""Batches: every sample once an epoch, windows that cover the text, a state that goes on; and what is refused."""

import numpy as np
import pytest
from messages import assert_raises
from trainings import digest

from rnn_numpy.errors import DTypeError, OptionError, ShapeError, StateDictError
from rnn_numpy.tasks import Adding
from rnn_numpy.training import Batches, Draws, Windows


def rows(**options):
    return Batches(np.arange(10), np.arange(10) * 2, **{"batch_size": 3, "rng": 0, **options})


def some(source, count):
    return [next(source) for _ in range(count)]


# --------------------------------------------------------------------------------------------------- Batches


def test_each_epoch_has_every_sample_once_in_an_order_of_its_own():
    batches = rows(epochs=3)
    found = [(batches.epoch, x.tolist(), y.tolist()) for x, y in batches]
    assert [len(x) for _, x, _ in found] == [3, 3, 3, 1] * 3
    assert [epoch for epoch, *_ in found] == [1] * 4 + [2] * 4 + [3] * 4
    orders = [[n for epoch, x, _ in found if epoch == number for n in x] for number in (1, 2, 3)]
    assert all(sorted(order) == [*range(10)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert all(y == [2 * n for n in x] for _, x, y in found)
    assert len(batches) == 4 and [*batches] == []


def test_the_order_is_the_generators_alone():
    rng = np.random.default_rng(7)
    orders = [rng.permutation(10), rng.permutation(10)]
    found = np.concatenate([x for x, _ in some(rows(rng=7), 8)])
    assert found.tolist() == np.concatenate(orders).tolist()


def test_the_rest_may_be_dropped_and_the_order_kept():
    batches = rows(drop_last=True, shuffle=False, epochs=2)
    assert [x.tolist() for x, _ in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] * 2
    assert len(batches) == 3
    state = np.random.default_rng(0).bit_generator.state
    assert batches.rng.bit_generator.state == state
    assert [len(x) for x, _ in rows(drop_last=True, epochs=1, batch_size=5)] == [5, 5]


def test_each_array_has_its_axis_and_none_stays_none():
    x, classes, lengths = np.arange(24).reshape(3, 4, 2), np.arange(4), np.array([3, 1, 2, 3])
    batches = Batches(x, classes, None, lengths, batch_size=2, axis=(1, 0, 0, -1), rng=0, epochs=1)
    for some_x, some_classes, nothing, some_lengths in batches:
        assert nothing is None and np.array_equal(some_lengths, lengths[some_classes])
        assert np.array_equal(some_x, x[:, some_classes])


def test_a_batch_is_a_copy():
    x = np.zeros((4, 2))
    (batch,) = next(Batches(x, batch_size=2, shuffle=False))
    batch += 1
    assert not x.any()


def test_a_pass_in_order_leaves_the_state_alone():
    batches = rows(drop_last=True)
    next(batches)
    before = digest(batches.state_dict())
    assert [x.tolist() for x, _ in batches.in_order()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert digest(batches.state_dict()) == before


# --------------------------------------------------------------------------------------------------- Windows


def test_windows_cover_each_column_and_go_on_where_the_one_before_ended():
    text = np.arange(60)
    windows = Windows(text, 3, 6, epochs=2)  # 19 steps of a column
    restarts, parts = [], []
    assert windows.restarts
    for ids, targets in windows:
        restarts.append(windows.restarts)
        parts.append(ids)
        assert np.array_equal(targets, ids + 1) and ids.flags.c_contiguous
    assert [len(part) for part in parts] == [6, 6, 6, 1] * 2 and len(windows) == 4
    assert restarts == [False, False, False, True] * 2
    for half in (parts[:4], parts[4:]):
        columns = np.concatenate(half)
        assert [column.tolist() for column in columns.T] == [[*range(19 * n, 19 * n + 19)] for n in range(3)]
    before = digest(windows.state_dict())
    assert np.array_equal(np.concatenate([ids for ids, _ in windows.in_order()]), columns)
    assert digest(windows.state_dict()) == before


@pytest.mark.parametrize(("symbols", "batch", "length"), [(2, 1, 1), (7, 2, 3), (8, 2, 3), (9, 3, 2), (1000, 7, 11)])
def test_no_symbol_is_read_beyond_the_text(symbols, batch, length):
    windows = Windows(np.arange(symbols), batch, length, epochs=1)
    ids, targets = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    used = (symbols - 1) // batch * batch
    assert ids.T.ravel().tolist() == [*range(used)] and targets.max() == used < symbols


def test_jittered_windows_cover_the_text_too_each_time_cut_elsewhere():
    windows = Windows(np.arange(4001), 2, 20, jitter=3.0, rng=0, epochs=5)
    lengths = {}
    for ids, targets in windows:
        lengths.setdefault(windows.epoch, []).append(len(ids))
        assert np.array_equal(targets, ids + 1)
    assert [sum(found) for found in lengths.values()] == [2000] * 5
    drawn = np.concatenate([found[:-1] for found in lengths.values()])
    assert drawn.min() >= 5 and drawn.max() <= 50 and len(np.unique(drawn)) > 10
    middle = drawn[drawn > 14]
    assert abs(middle.mean() - 19.5) < 1 and abs(middle.std() - 3) < 0.5
    assert 0.01 < np.mean(drawn <= 14) < 0.12
    short = Windows(np.arange(100), 1, 2, jitter=50.0, rng=0, epochs=1)
    assert all(1 <= len(ids) <= 502 for ids, _ in short)


# ---------------------------------------------------------------------------------------------------- states


SOURCES = {
    "rows": lambda seed: rows(rng=seed),
    "in order": lambda seed: rows(rng=seed, shuffle=False),
    "drop_last": lambda seed: rows(rng=seed, drop_last=True),
    "windows": lambda seed: Windows(np.arange(60), 3, 6, rng=seed),
    "jitter": lambda seed: Windows(np.arange(60), 3, 6, jitter=2.0, rng=seed),
    "draws": lambda seed: Draws(lambda rng: Adding(4).draw(2, rng), rng=seed),
}


@pytest.mark.parametrize("source", SOURCES)
def test_another_one_goes_on_from_every_state(source):
    make = SOURCES[source]
    batches = make(0)
    states = []
    for _ in range(12):
        states.append(batches.state_dict())
        next(batches)
    for done, state in enumerate(states):
        kept = digest(state)
        other = make(5)
        next(other)
        other.load_state_dict(state)
        straight = make(0)
        some(straight, done)
        assert digest(some(other, 9)) == digest(some(straight, 9))
        assert other.epoch == straight.epoch
        assert getattr(other, "restarts", None) == getattr(straight, "restarts", None)
        assert digest(state) == kept


def test_the_end_is_part_of_the_state():
    batches, other = rows(epochs=2), rows(epochs=2)
    assert len([*batches]) == 8
    other.load_state_dict(batches.state_dict())
    assert [*other] == []


def test_states_of_other_data_are_refused():
    state = rows().state_dict()
    for message, other in [
        ("samples is 9 here, 10 in the state", Batches(np.arange(9), batch_size=3)),
        (
            "the data are not those of the state, though there are as many",
            Batches(np.arange(10), np.arange(10) * 3, batch_size=3),
        ),
        ("batch_size is 4 here, 3 in the state", rows(batch_size=4)),
        ("shuffle is False here, True in the state", rows(shuffle=False)),
        ("drop_last is True here, False in the state", rows(drop_last=True)),
        (
            "the generator rng is a MT19937 here, a PCG64 in the state",
            rows(rng=np.random.Generator(np.random.MT19937(0))),
        ),
    ]:
        message = f"Batches.load_state_dict: {message}"
        assert_raises(StateDictError, message, lambda other=other: other.load_state_dict(state))
    message = "Windows.load_state_dict: state must have length; it has {}"
    short = {"kind": "Windows", "samples": 9, "batch": 2}
    windows = Windows(np.arange(9), 2, 2)
    message_data = "Windows.load_state_dict: the data are not those of the state, though there are as many"
    other = Windows(np.arange(9) + 1, 2, 2)
    assert_raises(StateDictError, message_data, lambda: other.load_state_dict(windows.state_dict()))
    message = message.format("kind, samples, batch")
    assert_raises(StateDictError, message, lambda: windows.load_state_dict(short))
    message = "Windows.load_state_dict: kind is 'Windows' here, 'Batches' in the state"
    assert_raises(
        StateDictError, message, lambda: windows.load_state_dict(state | windows.state_dict() | {"kind": "Batches"})
    )
    message = "Windows.load_state_dict: position must be an int, from 0 to 4; got 5"
    assert_raises(StateDictError, message, lambda: windows.load_state_dict(windows.state_dict() | {"position": 5}))
    message = "Batches.load_state_dict: order must be a permutation of n = 10 samples"
    spoilt = state | {"order": np.zeros(10, int)}
    assert_raises(StateDictError, message, lambda: rows().load_state_dict(spoilt))
    assert_raises(
        StateDictError,
        "Draws.load_state_dict: state must be a mapping; got int",
        lambda: Draws(len).load_state_dict(3),
    )


# -------------------------------------------------------------------------------------------------- messages


def test_arrays_that_do_not_fit_are_refused():
    x = np.zeros((5, 10, 2))
    for error, message, call in [
        (TypeError, "Batches: arrays must have at least one array", lambda: Batches(batch_size=1)),
        (
            ShapeError,
            "Batches: arrays must have the same number of samples; arrays[0] has n = 5 along axis 0, arrays[1] has 10 "
            "along axis 0. `axis` says which one it is",
            lambda: Batches(x, np.zeros(10), batch_size=2),
        ),
        (
            OptionError,
            "Batches: batch_size must be at most n = 10, the number of samples; got 11",
            lambda: rows(batch_size=11),
        ),
        (OptionError, "Batches: batch_size must be at least 1; got 0", lambda: rows(batch_size=0)),
        (DTypeError, "Batches: shuffle must be True or False; got int 1", lambda: rows(shuffle=1)),
        (OptionError, "Batches: epochs must be at least 1; got 0", lambda: rows(epochs=0)),
        (
            ShapeError,
            "Batches: arrays[1] must have axis 1, that of the samples; got shape (10,)",
            lambda: Batches(x, np.zeros(10), batch_size=2, axis=1),
        ),
        (
            OptionError,
            "Batches: axis must be one axis, or one of each of 1 arrays; got (1, 0)",
            lambda: Batches(x, batch_size=2, axis=(1, 0)),
        ),
        (
            ShapeError,
            "Windows: ids must have at least N * T + 1 = 3 * 4 + 1 = 13 symbols, one window of each column; got S = 12"
            ". Take fewer columns or shorter windows",
            lambda: Windows(np.arange(12), 3, 4),
        ),
        (ShapeError, "Windows: ids must have shape (S,), one text; got (5, 10, 2)", lambda: Windows(x, 1, 1)),
        (DTypeError, "Windows: ids must be integers; got dtype float64", lambda: Windows(np.zeros(9), 1, 1)),
        (OptionError, "Windows: jitter must be at least 0; got -1.0", lambda: Windows(np.arange(9), 1, 1, jitter=-1)),
        (DTypeError, "Draws: function must be callable, with a generator; got int", lambda: Draws(3)),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == message
    assert Windows(np.arange(13), 3, 4).steps == 4


def test_they_say_what_they_are():
    assert repr(rows()) == "Batches: 10 samples by 3, epoch 0"
    assert repr(rows(epochs=2)) == "Batches: 10 samples by 3, epoch 0 of 2"
    windows = Windows(np.arange(60), 3, 6, epochs=4)
    next(windows)
    assert repr(windows) == "Windows: 3 columns of 19 steps by 6, at step 6 of epoch 1 of 4"
    assert "lambda" in repr(SOURCES["draws"](0))
