"""Tasks: what they draw, and their baselines against Monte Carlo, linear fits and the stated figures."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import cross_entropy_loss, mse_loss
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.tasks import (
    NARMA10,
    Adding,
    CopyMemory,
    ForecastTask,
    MackeyGlass,
    Parity,
    SequenceTask,
    Series,
    TemporalOrder,
    linear_baseline,
    mackey_glass,
    narma10,
)

WAVE = Series("wave", np.sin(0.7 * np.arange(90.0))[:, None] * [1.0, 2.0] + [0.0, 5.0], ("a", "b"))
TASKS = [
    Adding(20),
    Adding(7, half_sum=True),
    CopyMemory(5),
    TemporalOrder(20),
    TemporalOrder(33, symbols=3),
    Parity(9),
    NARMA10(40),
    MackeyGlass(50, horizon=6, taps=10),
    ForecastTask.of(WAVE, 20),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_every_task_is_one(task):
    assert isinstance(task, SequenceTask) and dataclasses.is_dataclass(task)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.length = 3
    for batch in (task.draw(4, np.random.default_rng(0)), task.held_out(4, np.random.default_rng(0))):
        x, target, mask = batch
        N = x.shape[1]
        assert x.shape == (task.steps, N, task.inputs) and x.dtype == np.float64
        leading = (task.steps, N) if task.reads == "all" else (N,)
        assert mask is None or (mask.shape == leading and mask.dtype == np.bool_ and mask.any())
        if task.loss == "mse":
            assert target.shape == (*leading, task.outputs) and target.dtype == np.float64
            mse_loss(np.zeros(target.shape), target, mask)
        else:
            assert target.shape == leading
            assert set(np.unique(target)) <= set(range(task.outputs))
    assert 0 < task.goal <= task.baseline
    if not isinstance(task, ForecastTask):
        assert task == dataclasses.replace(task) and hash(task) == hash(dataclasses.replace(task))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_draws_depend_on_the_generator_alone(task):
    first, again, other = (task.draw(3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.x, again.x) and np.array_equal(first.target, again.target)
    assert not np.array_equal(first.x, other.x)
    with pytest.raises(OptionError, match=f"{type(task).__name__}.draw: batch must be at least 1; got 0"):
        task.draw(0, np.random.default_rng(0))
    with pytest.raises(DTypeError, match="rng must be a numpy.random.Generator"):
        task.draw(1, "seed")


# Memory: contents


@given(st.integers(2, 60), st.booleans(), st.integers(0, 2**32))
def test_adding_marks_one_number_in_each_half_and_asks_for_their_sum(length, half_sum, seed):
    x, target, mask = Adding(length, half_sum).draw(8, np.random.default_rng(seed))
    middle = length // 2
    assert mask is None and ((x[..., 0] >= 0) & (x[..., 0] < 1)).all()
    assert np.isin(x[..., 1], [0, 1]).all()
    assert (x[:middle, :, 1].sum(axis=0) == 1).all() and (x[middle:, :, 1].sum(axis=0) == 1).all()
    np.testing.assert_allclose(target[:, 0], (x[..., 0] * x[..., 1]).sum(axis=0) / (2 if half_sum else 1), rtol=1e-15)


def test_adding_marks_every_step():
    x, _, _ = Adding(7).draw(500, np.random.default_rng(0))
    assert (x[..., 1].sum(axis=1) > 0).all()


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_copy_memory_shows_waits_signals_and_asks(delay, seed):
    task = CopyMemory(delay)
    x, target, _ = task.draw(5, np.random.default_rng(seed))
    kinds = x.argmax(axis=-1)
    assert (x.sum(axis=-1) == 1).all() and task.steps == delay + 20
    assert (kinds[:10] < 8).all()
    assert (kinds[10:] == np.where(np.arange(delay + 10) == delay - 1, 9, 8)[:, None]).all()
    assert (target[: delay + 10] == 8).all()
    assert np.array_equal(target[-10:], kinds[:10])
    # The answer begins at the step after the signal, `delay` steps after the last symbol.
    assert np.flatnonzero(kinds[:, 0] == 9)[0] == len(kinds) - 11 == 9 + delay


@given(st.integers(10, 80), st.sampled_from([2, 3]), st.integers(0, 2**32))
def test_temporal_order_is_the_class_of_its_symbols(length, symbols, seed):
    x, target, _ = TemporalOrder(length, symbols).draw(6, np.random.default_rng(seed))
    kinds = x.argmax(axis=-1)
    for row, label in zip(kinds.T, target, strict=True):
        places = np.flatnonzero(row < 2)
        assert len(places) == symbols
        assert label == int("".join(str(k) for k in row[places]), 2)
        # As Pascanu's code draws them; the first two are Hochreiter and Schmidhuber's task 6a, steps 10 to 20 and 50 to
        # 60 of 100. They are written out, so that this test does not repeat a slip of the table that it tests.
        begins = [length // 10, length // 2] if symbols == 2 else [length // 10, 3 * length // 10, 6 * length // 10]
        ends = (
            [2 * length // 10, 6 * length // 10]
            if symbols == 2
            else [2 * length // 10, 4 * length // 10, 7 * length // 10]
        )
        for place, begin, end in zip(places, begins, ends, strict=True):
            assert begin <= place < end


def test_temporal_order_of_a_hundred_steps_is_task_6a():
    x, _, _ = TemporalOrder(100).draw(4000, np.random.default_rng(0))
    first, second = np.nonzero((x.argmax(axis=-1) < 2).T)[1].reshape(-1, 2).T
    assert (first.min(), first.max(), second.min(), second.max()) == (10, 19, 50, 59)


@given(st.integers(2, 50), st.integers(0, 2**32))
def test_parity_is_the_sign_of_the_product(length, seed):
    x, target, _ = Parity(length).draw(5, np.random.default_rng(seed))
    assert np.isin(x, [-1, 1]).all()
    # An odd number of -1s among T gives a product of -1; the ones are T less these.
    product = np.prod(x[..., 0], axis=0)
    assert np.array_equal(target, np.where(product * (-1) ** length < 0, 1, 0))


# Memory: baselines in closed form against Monte Carlo


def best_constant(task, draws):
    """The loss of the best constant prediction, found from the draws themselves."""
    _, target, _ = task.draw(draws, np.random.default_rng(0))
    if task.loss == "mse":
        return float(mse_loss(np.broadcast_to(target.mean(axis=0), target.shape).copy(), target)[0])
    shares = np.bincount(target, minlength=task.outputs) / draws
    return float(cross_entropy_loss(np.broadcast_to(np.log(shares), (draws, task.outputs)).copy(), target)[0])


@pytest.mark.parametrize(
    ("task", "closed_form"),
    [
        (Adding(10), 1 / 6),
        (Adding(10, half_sum=True), 1 / 24),
        (TemporalOrder(20), math.log(4)),
        (TemporalOrder(20, symbols=3), math.log(8)),
        (Parity(6), math.log(2)),
    ],
    ids=str,
)
def test_baselines_are_those_of_the_best_constant(task, closed_form):
    assert task.baseline == pytest.approx(closed_form, rel=1e-15)
    # The variance of a sum of two uniform numbers is known to sqrt(0.7/n) of itself or so: 0.3 % of 100 000 draws. With
    # classes the error is of second order.
    assert best_constant(task, 100_000) == pytest.approx(closed_form, rel=0.01 if task.loss == "mse" else 1e-3)


@pytest.mark.parametrize("delay", [1, 10, 100])
def test_the_baseline_of_copy_memory_is_that_of_guessing_at_the_right_time(delay):
    task = CopyMemory(delay)
    _, target, _ = task.draw(3, np.random.default_rng(0))
    logits = np.zeros((*target.shape, 9))
    logits[:-10, :, 8] = 1000  # blank, for certain
    logits[-10:, :, 8] = -1000  # any symbol
    loss = float(cross_entropy_loss(logits, target)[0])
    assert task.baseline == pytest.approx(loss, rel=1e-14)
    assert task.baseline == pytest.approx(10 * math.log(8) / (delay + 20), rel=1e-15)


def test_symbols_of_copy_memory_are_equally_likely_at_each_place_and_independent():
    _, target, _ = CopyMemory(1).draw(20_000, np.random.default_rng(0))
    shown = target[-10:]
    for place in range(10):
        shares = np.bincount(shown[place], minlength=8) / 20_000
        assert np.abs(shares - 1 / 8).max() < 5 * math.sqrt(7 / 64 / 20_000)
    together = np.bincount(8 * shown[0] + shown[1], minlength=64) / 20_000
    assert np.abs(together - 1 / 64).max() < 5 * math.sqrt(1 / 64 / 20_000)


@pytest.mark.parametrize("task", [TemporalOrder(20), TemporalOrder(20, symbols=3), Parity(5)], ids=str)
def test_part_of_the_relevant_inputs_says_less_than_all(task):
    """Which class it is, given all relevant symbols but the first, stays a toss between two."""
    x, target, _ = task.draw(4000, np.random.default_rng(0))
    if isinstance(task, Parity):
        key = ((x[1:, :, 0] > 0) * 2 ** np.arange(task.length - 1)[:, None]).sum(axis=0)
    else:
        key = target % (task.outputs // 2)
    for value in np.unique(key):
        chosen = target[key == value]
        assert len(np.unique(chosen)) == 2
        assert abs((chosen == chosen.min()).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(chosen))


# Dynamics


def test_narma10_is_its_recurrence():
    u, y = narma10(60, 3, np.random.default_rng(0))
    assert u.shape == y.shape == (60, 3) and ((u >= 0) & (u <= 0.5)).all()
    for t in range(10, 60):  # y[t] is y_{t+1} of the formula
        expected = 0.3 * y[t - 1] + 0.05 * y[t - 1] * y[t - 10 : t].sum(axis=0) + 1.5 * u[t - 9] * u[t] + 0.1
        np.testing.assert_allclose(y[t], expected, rtol=1e-14)


def test_narma10_draws_diverging_sequences_anew():
    # Long sequences diverge once in a hundred or so: 400 of them hold several.
    _, y = narma10(2000, 400, np.random.default_rng(1))
    assert y.max() <= 2 and np.isfinite(y).all()


def test_narma10_in_standard_units():
    _, target, mask = NARMA10(300).draw(100, np.random.default_rng(3))
    assert abs(target.mean()) < 0.03 and target.std() == pytest.approx(1, abs=0.03)
    assert not mask[:19].any() and mask[19:].all()


@pytest.mark.parametrize(("taps", "stated"), [(1, 0.870), (10, 0.587), (20, 0.397)])
def test_linear_baselines_of_narma10(taps, stated):
    """The stated figures are means over five series, between which they spread by .01. Ours, of fifty times as many
    steps, spread by .004 between seeds: rare y near the border of divergence weigh much."""
    task = NARMA10(100, taps)
    assert math.sqrt(task.baseline) == pytest.approx(stated, abs=0.012)
    others = [math.sqrt(linear_baseline(NARMA10(400 + taps, taps), taps, seed)) for seed in (1, 2)]
    np.testing.assert_allclose(others, math.sqrt(task.baseline), atol=0.012)


def test_a_baseline_does_not_depend_on_the_length():
    assert NARMA10(20).baseline == NARMA10(500).baseline
    assert MackeyGlass(30, 17).baseline == MackeyGlass(100, 17).baseline != MackeyGlass(100, 18).baseline


def test_mackey_glass_against_an_integrator_of_high_order():
    """Solved interval after interval as an ordinary equation, with the interval before as a known term."""
    start, past = 1.2, lambda t: 1.2
    value, samples = start, []
    for k in range(4):
        solution = scipy.integrate.solve_ivp(
            lambda t, x, past=past: 0.2 * past(t - 17) / (1 + past(t - 17) ** 10) - 0.1 * x,
            (17 * k, 17 * (k + 1)),
            [value],
            method="DOP853",
            rtol=1e-11,
            atol=1e-12,
            dense_output=True,
        )
        samples += [float(solution.sol(t)[0]) for t in range(17 * k + 1, 17 * (k + 1) + 1)]
        value, past = float(solution.y[0, -1]), lambda t, s=solution.sol: float(s(t)[0])
    errors = [
        float(np.abs(mackey_glass(68, np.array([start]), grid=grid)[:, 0] - samples).max()) for grid in (5, 10, 20, 40)
    ]
    assert errors[1] < 2.6e-5  # exact where f is linear: swapped weights, of the same order, would give 3.5e-5
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.05)  # second order


def test_mackey_glass_in_standard_units_and_shifted_by_the_horizon():
    task = MackeyGlass(300, horizon=20)
    x, target, mask = task.draw(60, np.random.default_rng(3))
    assert np.array_equal(x[20:], target[:-20])
    assert abs(x.mean()) < 0.05 and x.std() == pytest.approx(1, abs=0.05)
    assert not mask[:19].any() and mask[19:].all()
    assert np.abs(np.diff(x[..., 0], axis=0)).max() < 0.7  # smooth: samples of one unit of time


def test_linear_baselines_of_mackey_glass():
    assert math.sqrt(MackeyGlass(100).baseline) == pytest.approx(0.51, abs=0.01)
    assert math.sqrt(MackeyGlass(100, horizon=1).baseline) < 2e-3
    other = linear_baseline(MackeyGlass(420), 20, 1)
    assert math.sqrt(other) == pytest.approx(math.sqrt(MackeyGlass(100).baseline), rel=0.03)


def test_a_linear_fit_finds_a_linear_rule():
    @dataclasses.dataclass(frozen=True)
    class Delayed(NARMA10):
        def draw(self, batch, rng):
            u = rng.normal(size=(self.length, batch, 1))
            return super().draw(batch, rng)._replace(x=u, target=3 + 2 * np.roll(u, 4, axis=0) - u)

    assert linear_baseline(Delayed(30, 5), 5) < 1e-25
    assert linear_baseline(Delayed(30, 4), 4) == pytest.approx(4, rel=0.1)  # the input four steps ago is not among them


# The series


def test_a_forecast_task_draws_training_windows_and_holds_out_the_end():
    task = ForecastTask.of(WAVE, 20)
    x, target, mask = task.draw(50, np.random.default_rng(0))
    assert np.array_equal(x[1:], target[:-1]) and mask.all()
    known = {tuple(row) for row in task.values[: task.split].tolist()}
    assert {tuple(row) for row in target.reshape(-1, 2).tolist()} <= known
    held = task.held_out(3, np.random.default_rng(0))
    assert held.mask.sum() == len(WAVE) - task.split
    assert task.baseline == pytest.approx(float(mse_loss(held.x, held.target, held.mask)[0]), rel=1e-14)
    assert (task.inputs, task.outputs, task.steps, task.loss, task.reads) == (2, 2, 20, "mse", "all")


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adding(1), "Adding: length must be at least 2; got 1"),
        (lambda: CopyMemory(0), "CopyMemory: delay must be at least 1; got 0"),
        (lambda: TemporalOrder(9), "TemporalOrder: length must be at least 10; got 9"),
        (lambda: TemporalOrder(20, symbols=4), "TemporalOrder: symbols must be 2 or 3; got 4"),
        (lambda: Parity(1), "Parity: length must be at least 2; got 1"),
        (
            lambda: NARMA10(19),
            "NARMA10: length must be at least taps = 20, the steps before the first that counts; got 19",
        ),
        (lambda: MackeyGlass(50, horizon=0), "MackeyGlass: horizon must be at least 1; got 0"),
        (lambda: MackeyGlass(50, taps=0), "MackeyGlass: taps must be at least 1; got 0"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(OptionError) as caught:
        make()
    assert str(caught.value) == message


def test_sizes_that_are_no_integers_are_refused():
    with pytest.raises(DTypeError, match="Adding: length must be an integer; got float 5.0"):
        Adding(5.0)
    with pytest.raises(DTypeError, match="Adding: half_sum must be True or False; got int 1"):
        Adding(5, half_sum=1)
