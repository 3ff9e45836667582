"""Schedules against torch's schedulers, over whole runs."""

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from frameworks import torch

from rnn_numpy import Parameters
from rnn_numpy.errors import DTypeError, OptionError, StateDictError
from rnn_numpy.training import SGD, Cosine, Exponential, Linear, OneCycle, Plateau, StepDecay, train

LR = 0.3


def theirs(make, updates, closed=True):
    """Return the rates that torch's scheduler sets, in its closed form where it has one, else step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser makes no steps
        for t in range(updates):
            if closed:
                scheduler.last_epoch = t
                rates.append(scheduler._get_closed_form_lr()[0])
            else:
                rates.append(optimizer.param_groups[0]["lr"])
                scheduler.step()
    return np.array(rates)


CASES = {
    "step": (StepDecay(LR, 7), lambda t, o: t.StepLR(o, 7)),
    "step, gamma": (StepDecay(LR, 3, 0.7), lambda t, o: t.StepLR(o, 3, 0.7)),
    "exponential": (Exponential(LR, 0.97), lambda t, o: t.ExponentialLR(o, 0.97)),
    "cosine": (Cosine(LR, 40), lambda t, o: t.CosineAnnealingLR(o, 40)),
    "cosine, least, again and again": (Cosine(LR, 11, 0.01), lambda t, o: t.CosineAnnealingLR(o, 11, 0.01)),
    "warm-up": (Linear(LR, 20, start_factor=0.25), lambda t, o: t.LinearLR(o, 0.25, 1.0, 20)),
    "fall": (Linear(LR, total=70, end_factor=0.1), lambda t, o: t.LinearLR(o, 1.0, 0.1, 70)),
}


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", CASES)
def test_schedules_are_torchs(name):
    schedule, make = CASES[name]
    ours = np.array([schedule(t) for t in range(100)])
    closed, stepped = theirs(make, 100), theirs(make, 100, closed=False)
    np.testing.assert_allclose(ours, closed, rtol=1e-15, atol=1e-15 * LR)
    # Made of the rate before, torch's own numbers drift by a rounding each time; those of the cosine by more: next to
    # its end they are divided by 1 + cos, which is of the size of 1 / T_max^2.
    drift = schedule.T_max**2 if isinstance(schedule, Cosine) else 100
    np.testing.assert_allclose(ours, stepped, rtol=0, atol=drift * 2**-52 * LR)


@pytest.mark.needs_torch
def test_warm_up_and_fall_are_two_of_torchs_in_sequence():
    def make(schedulers, optimizer):
        parts = [schedulers.LinearLR(optimizer, 0.5, 1.0, 10), schedulers.LinearLR(optimizer, 1.0, 0.2, 40)]
        return schedulers.SequentialLR(optimizer, parts, [10])

    schedule = Linear(LR, warmup=10, total=50, start_factor=0.5, end_factor=0.2)
    ours = [schedule(t) for t in range(80)]
    np.testing.assert_allclose(ours, theirs(make, 80, closed=False), rtol=0, atol=80 * 2**-52 * LR)


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    "options",
    [{}, {"pct_start": 0.5}, {"pct_start": 0.05}, {"pct_start": 0.011}, {"div_factor": 4.0, "final_div_factor": 10.0}],
    ids=str,
)
def test_one_cycle_is_torchs(options):
    schedule = OneCycle(LR, 90, **options)
    ours = [schedule(t) for t in range(90)]
    reference = theirs(lambda t, o: t.OneCycleLR(o, LR, 90, cycle_momentum=False, **options), 90, closed=False)
    np.testing.assert_allclose(ours, reference, rtol=1e-15, atol=1e-15 * LR)
    assert schedule(90) == schedule(10_000) == ours[-1]


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("total", [1, 2, 10])
def test_one_cycle_of_few_steps(pct_start, total):
    """torch divides by zero at some of these."""
    rates = [OneCycle(LR, total, pct_start)(t) for t in range(total + 1)]
    assert all(0 < rate <= LR * (1 + 1e-15) for rate in rates)
    if pct_start == 1:
        assert rates[-1] == LR


@pytest.mark.needs_torch
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "factor": 0.5},
        {"patience": 1, "cooldown": 3, "factor": 0.7},
        {"patience": 1, "min_lr": 0.02, "factor": 0.5},
        {"patience": 0, "eps": 0.05, "factor": 0.5},
        {"patience": 3, "threshold": 0.1},
    ],
    ids=str,
)
def test_plateau_is_torchs(options, mode):
    rng = np.random.default_rng(0)
    values = np.concatenate([np.abs(np.cumsum(rng.normal(size=60))), [np.nan, np.inf, -np.inf], rng.normal(size=40)])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, **options)
    plateau = Plateau(LR, mode=mode, **options)
    for number, value in enumerate(values):
        if number == 50:  # another one takes over
            other = Plateau(LR, mode=mode, **options)
            other.load_state_dict(json.loads(json.dumps(plateau.state_dict())))
            plateau = other
        scheduler.step(value)
        assert plateau.update(value) == plateau.lr == plateau(number) == optimizer.param_groups[0]["lr"]
    assert plateau.lr < LR


def test_schedules_are_values():
    schedule = Cosine(1, 10)
    assert schedule == Cosine(1.0, 10, 0) and hash(schedule) == hash(Cosine(1.0, 10))
    assert repr(schedule) == repr(Cosine(np.float32(1), np.int64(10))) == "Cosine(lr=1.0, T_max=10, eta_min=0.0)"
    ints = [StepDecay(1, np.int64(3)), Linear(1, np.int64(2), np.int64(5)), OneCycle(1, np.int64(9))]
    assert not any("np." in repr(each) for each in ints)
    assert dataclasses.asdict(schedule) == {"lr": 1.0, "T_max": 10, "eta_min": 0.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.lr = 2.0


def test_far_away_rates_are_numbers():
    assert StepDecay(LR, 10)(10**6) == Exponential(LR, 0.5)(10**9) == 0.0
    assert 0 <= Cosine(LR, 7)(10**12) <= LR


class Slope:
    """The smallest model: a loss that is its one parameter."""

    def __init__(self):
        self.params = Parameters({"w": (1,)}, np.float64)

    def loss_and_grads(self):
        grads = self.params.zeros_like()
        grads.flat[:] = 1
        return float(self.params.flat[0]), grads, None


def test_train_asks_for_the_rate_of_each_update():
    model, schedule = Slope(), Linear(1.0, warmup=4)
    training = train(model, iter([()] * 6), SGD(model.params, lr=9.0), schedule=schedule)
    assert [update.lr for update in training] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert model.params.flat[0] == -3.5


def test_plateau_lowers_the_rate_of_a_training():
    model, plateau = Slope(), Plateau(1.0, factor=0.5, patience=0)
    rates = []
    for update in train(model, iter([()] * 4), SGD(model.params, lr=9.0), schedule=plateau):
        rates.append(update.lr)
        plateau.update(1.0)
    assert rates == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StepDecay(0, 3), OptionError, "StepDecay: lr must be greater than 0; got 0.0"),
        (lambda: StepDecay("a", 3), DTypeError, "StepDecay: lr must be a number; got str 'a'"),
        (lambda: StepDecay(0.1, 0), OptionError, "StepDecay: step_size must be at least 1; got 0"),
        (lambda: StepDecay(0.1, 2.0), DTypeError, "StepDecay: step_size must be an integer; got float 2.0"),
        (lambda: Exponential(0.1, -1), OptionError, "Exponential: gamma must be greater than 0; got -1.0"),
        (lambda: Exponential(0.1, math.nan), OptionError, "Exponential: gamma must be finite; got nan"),
        (lambda: Cosine(0.1, 0), OptionError, "Cosine: T_max must be at least 1; got 0"),
        (lambda: Cosine(0.1, 5, 0.2), OptionError, "Cosine: eta_min must be at most lr = 0.1; got 0.2"),
        (lambda: Linear(0.1, -1), OptionError, "Linear: warmup must be at least 0; got -1"),
        (lambda: Linear(0.1, 5, 5), OptionError, "Linear: total must be more than warmup = 5; got 5"),
        (lambda: Linear(0.1, start_factor=2), OptionError, "Linear: start_factor must be in [0, 1]; got 2.0"),
        (lambda: OneCycle(0.1, 0), OptionError, "OneCycle: total_steps must be at least 1; got 0"),
        (lambda: OneCycle(0.1, 5, 1.5), OptionError, "OneCycle: pct_start must be in [0, 1]; got 1.5"),
        (lambda: OneCycle(0.1, 5, div_factor=0), OptionError, "OneCycle: div_factor must be greater than 0; got 0.0"),
        (lambda: Cosine(0.1, 5)(-1), OptionError, "Cosine: t must be at least 0; got -1"),
        (lambda: Cosine(0.1, 5)(1.0), DTypeError, "Cosine: t must be an integer; got float 1.0"),
        (lambda: Plateau(0.1, 1.0), OptionError, "Plateau: factor must be below 1, or lr would not fall; got 1.0"),
        (lambda: Plateau(0.1, patience=-1), OptionError, "Plateau: patience must be at least 0; got -1"),
        (lambda: Plateau(0.1, mode="up"), OptionError, "Plateau: mode must be one of 'min', 'max'; got 'up'"),
        (lambda: Plateau(0.1).update("a"), DTypeError, "Plateau.update: value must be a number; got str 'a'"),
        (lambda: Plateau(0.1).update(None), DTypeError, "Plateau.update: value must be a number; got NoneType None"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0.5}, "factor is 0.1 here, 0.5 in the state"),
        ({"lr": "a"}, "lr must be a float of at least 0; got 'a'"),
        ({"lr": -1.0}, "lr must be a float of at least 0; got -1.0"),
        ({"best": "a"}, "best must be a float or None; got 'a'"),
        ({"bad": -1}, "bad must be an int, at least 0; got -1"),
        ({"cooling": 1.5}, "cooling must be an int, at least 0; got 1.5"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    plateau = Plateau(0.1)
    plateau.update(3.0)
    before = plateau.state_dict()
    with pytest.raises(StateDictError) as caught:
        plateau.load_state_dict(before | {"lr": 0.01, "bad": 4} | change)
    assert str(caught.value) == f"Plateau.load_state_dict: {message}"
    assert plateau.state_dict() == before
    assert repr(plateau).startswith("Plateau(0.1, factor=0.1, patience=10, ")
