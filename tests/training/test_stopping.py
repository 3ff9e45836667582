"""Patience and Best against plain loops, and the history of a training."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import assert_raises

from rnn_numpy import Parameters
from rnn_numpy.errors import DTypeError, OptionError, StateDictError
from rnn_numpy.training import Best, History, Patience

VALUES = st.lists(st.one_of(st.just(math.nan), st.sampled_from([-1.0, 0.0, 0.5, 0.75, 1.0, math.inf, -math.inf])))


def by_a_plain_loop(values, patience, min_delta, sign):
    """Keras's rule, of numbers to be low, or to be high where sign is -1; NaN is never better."""
    best, wait, said = None, 0, []
    for value in values:
        if not math.isnan(value) and (best is None or sign * value + min_delta < sign * best):
            best, wait = value, 0
            said.append("better")
            continue
        wait += 1
        said.append("stop" if wait >= patience else "waiting")
    return said, best


@given(VALUES, st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from(["min", "max"]))
def test_patience_is_the_plain_loop(values, patience, min_delta, mode):
    expected, best = by_a_plain_loop(values, patience, min_delta, 1 if mode == "min" else -1)
    ours = Patience(patience, min_delta, mode)
    assert [ours.update(value) for value in values] == expected
    assert ours.best == best and ours.stopped == (expected[-1:] == ["stop"])


@given(VALUES, st.sampled_from(["min", "max"]))
def test_best_keeps_what_was_there_at_the_best_value(values, mode):
    params = Parameters({"w": (1,)}, np.float64)
    best = Best(params, mode)
    improved = []
    for number, value in enumerate(values):
        params["w"] = [number]
        improved.append(best.update(value))
    said, value = by_a_plain_loop(values, 99, 0.0, 1 if mode == "min" else -1)
    assert improved == [word == "better" for word in said] and best.best == value
    params["w"] = [-1.0]
    best.restore()
    assert params["w"][0] == (values.index(value) if any(improved) else -1)


def test_numbers_of_any_kind_count():
    patience = Patience(1)
    assert patience.update(np.float32(0.5)) == "better" and patience.update(np.array(0.25)) == "better"
    assert type(patience.best) is float


def test_states_go_on():
    params = Parameters({"w": (2,)}, np.float32)
    values = [3.0, 1.0, 2.0, math.nan, 0.5, 0.6, 0.7]
    for cut in range(8):
        patience, best = Patience(2), Best(params)
        said = []
        for number, value in enumerate(values):
            if number == cut:
                states = patience.state_dict(), best.state_dict()
                patience, best = Patience(2), Best(Parameters({"w": (2,)}, np.float32))
                best.params = params
                patience.load_state_dict(states[0])
                best.load_state_dict(states[1])
            params.flat[:] = number
            said.append((patience.update(value), best.update(value)))
        assert [word for word, _ in said] == ["better", "better", "waiting", "stop", "better", "waiting", "stop"]
        assert best.kept.flat.tolist() == [4, 4]


def test_what_is_kept_is_a_copy():
    params = Parameters({"w": (1,)}, np.float64)
    best = Best(params)
    best.restore()
    best.update(1.0)
    state = best.state_dict()
    params["w"] = [7.0]
    assert best.kept["w"] == [0.0]
    state["kept"]["w"][:] = 5
    assert best.kept["w"] == [0.0]


def test_what_does_not_fit_is_refused():
    params = Parameters({"w": (1,)}, np.float64)
    for error, message, call in [
        (OptionError, "Patience: patience must be at least 1; got 0", lambda: Patience(0)),
        (OptionError, "Patience: min_delta must be at least 0; got -1.0", lambda: Patience(1, -1)),
        (OptionError, "Patience: mode must be one of 'min', 'max'; got 'low'", lambda: Patience(1, mode="low")),
        (DTypeError, "Best: params must be Parameters, such as model.params; got int", lambda: Best(3)),
        (
            StateDictError,
            "Patience.load_state_dict: state must have best and waited, as state_dict returns",
            lambda: Patience(1).load_state_dict({"best": 1.0}),
        ),
        (
            StateDictError,
            "load_state_dict: w must have shape (1,); got (2,)",
            lambda: Best(params).load_state_dict({"best": 1.0, "kept": {"w": np.zeros(2)}}),
        ),
        (
            StateDictError,
            "History.load_state_dict: no state of a history: KeyError('validations')",
            lambda: History().load_state_dict({}),
        ),
    ]:
        assert_raises(error, message, call)
    assert repr(Patience(3)) == "Patience(3): best None, 0 since" and repr(Best(params)) == "Best: None"


# -------------------------------------------------------------------------------------------------- History


def filled():
    history = History()
    for number in range(1, 4):
        history.add(update=number, epoch=1, loss=1 / number, count=7, lr=0.1, norm=math.nan, seconds=0.25)
    history.add_validation(3, math.inf)
    return history


def test_a_history_is_columns_and_strict_json():
    history = filled()
    assert len(history) == 3 and history["loss"].tolist() == [1.0, 0.5, 1 / 3]
    found = json.loads(json.dumps(history.to_dict(), allow_nan=False))
    assert found["norm"] == [None] * 3 and found["loss"] == [1.0, 0.5, 1 / 3]
    assert found["validations"] == {"update": [3.0], "value": [None]}
    with pytest.raises(KeyError, match="columns are update, epoch, loss, count, lr, norm, seconds"):
        history["losses"]
    assert repr(history) == "History: 3 updates, loss 0.3333 at the last, validated 1 time, last inf"
    assert repr(History()) == "History: no updates yet"


def test_a_history_of_a_state_goes_on():
    history, other = filled(), History()
    state = history.state_dict()
    other.load_state_dict(state)
    for each in (history, other):
        each.add(update=4, epoch=2, loss=0.1, count=7, lr=0.1, norm=2.0, seconds=0.5)
    assert json.dumps(other.to_dict()) == json.dumps(history.to_dict())
    assert len(state["loss"]) == 3
    for spoilt in (state | {"loss": np.zeros(2)}, state | {"loss": np.zeros((3, 1))}, state | {"validations": {}}):
        with pytest.raises(StateDictError):
            other.load_state_dict(spoilt)
    assert len(other) == 4
