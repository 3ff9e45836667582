"""Adam against torch, and what it refuses. (All optimisers: test_optimizers_torch.py.)"""

import copy
import tracemalloc

import numpy as np
import pytest
from frameworks import torch

from rnn_numpy import Linear, Parameters
from rnn_numpy.errors import DTypeError, OptionError, ShapeError, StateDictError
from rnn_numpy.training import SGD, Adam


def some(seed, dtype=np.float64):
    params = Parameters({"w": (3, 2), "b": (2,)}, dtype)
    params.flat[:] = np.random.default_rng(seed).normal(size=8)
    return params


OPTIONS = [
    {},
    {"lr": 2e-3},
    {"betas": (0.5, 0.9)},
    {"betas": (0.0, 0.0), "lr": 0.1},
    {"eps": 1e-2},
    {"eps": 0.0},
    {"weight_decay": 0.1},
    {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 1e-3},
]


@pytest.mark.needs_torch
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_adam_is_torchs_over_200_steps(options):
    params = some(0)
    twin = torch.nn.Parameter(torch.tensor(params.flat))
    ours, theirs = Adam(params, **options), torch.optim.Adam([twin], **options)
    rng = np.random.default_rng(1)
    for _ in range(200):
        # Of all sizes, tiny ones among them, where eps decides.
        grads = some(2)
        grads.flat[:] = rng.normal(size=8) * 10.0 ** rng.uniform(-9, 2, size=8)
        twin.grad = torch.tensor(grads.flat)
        before = grads.flat.copy()
        ours.step(grads)
        theirs.step()
        assert np.array_equal(grads.flat, before)
        np.testing.assert_allclose(params.flat, twin.detach().numpy(), rtol=0, atol=1e-12 * np.abs(params.flat).max())
    state = theirs.state[twin]
    for moment, reference in ((ours.first, state["exp_avg"]), (ours.second, state["exp_avg_sq"])):
        np.testing.assert_allclose(moment.flat, reference.numpy(), rtol=1e-12)
    assert ours.steps == 200 == int(state["step"])


@pytest.mark.needs_torch
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_adam_is_torchs_in_float32(options):
    """One step from the same state; over many steps two roundings drift apart."""
    params = some(0, np.float32)
    twin = torch.nn.Parameter(torch.tensor(params.flat))
    ours, theirs = Adam(params, **options), torch.optim.Adam([twin], **options)
    rng = np.random.default_rng(1)
    for _ in range(50):
        grads = some(2, np.float32)
        grads.flat[:] = rng.normal(size=8) * 10.0 ** rng.uniform(-5, 2, size=8)
        twin.grad = torch.tensor(grads.flat)
        before = params.flat.copy()
        ours.step(grads)
        theirs.step()
        # Of the step, a difference: its error is that of the numbers it is a difference of, and of some roundings.
        step, reference = params.flat - before, twin.detach().numpy() - before
        eps = np.finfo(np.float32).eps
        assert (np.abs(step - reference) <= 8 * eps * np.abs(reference) + 2 * eps * np.abs(before)).all()
        with torch.no_grad():  # both go on from one state
            state = theirs.state[twin]
            twin.copy_(torch.tensor(params.flat))
            state["exp_avg"].copy_(torch.tensor(ours.first.flat))
            state["exp_avg_sq"].copy_(torch.tensor(ours.second.flat))


@pytest.mark.needs_torch
def test_the_defaults_are_torchs():
    ours, theirs = Adam(some(0)), torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).defaults
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert getattr(ours, name) == theirs[name]


def test_float32_stays_float32_and_a_step_allocates_no_vector():
    params = Parameters({"w": (100_000,)}, np.float32)
    grads = Parameters({"w": (100_000,)}, np.float32, np.ones(100_000, np.float32))
    optimizer = Adam(params, weight_decay=0.1)
    optimizer.step(grads)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        optimizer.step(grads)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < params.flat.nbytes / 4
    assert params.flat.dtype == optimizer.first.dtype == np.float32
    np.testing.assert_allclose(params.flat, -2e-3, rtol=1e-4)


def test_a_copy_goes_on_by_itself():
    optimizer = Adam(some(0))
    optimizer.step(some(1))
    twin = copy.deepcopy(optimizer)
    before = optimizer.params.flat.copy()
    twin.step(some(2))
    assert np.array_equal(optimizer.params.flat, before)
    optimizer.step(some(2))
    assert np.array_equal(optimizer.params.flat, twin.params.flat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "Adam: lr must be greater than 0; got 0.0"),
        ({"lr": float("nan")}, "Adam: lr must be finite; got nan"),
        ({"betas": (0.9, 1.0)}, "Adam: betas must be below 1: with 1 no gradient would ever enter; got (0.9, 1.0)"),
        ({"betas": (-0.1, 0.9)}, "Adam: betas[0] must be in [0, 1]; got -0.1"),
        ({"eps": -1e-8}, "Adam: eps must be at least 0; got -1e-08"),
        ({"weight_decay": -1.0}, "Adam: weight_decay must be at least 0; got -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError) as caught:
        Adam(some(0), **options)
    assert str(caught.value) == message


def test_other_arguments_are_refused():
    with pytest.raises(DTypeError, match="Adam: params must be Parameters, such as layer.params; got Linear"):
        Adam(Linear(1, 1))
    with pytest.raises(DTypeError, match="Adam: params must be real"):
        Adam(some(0).astype(np.complex128))
    with pytest.raises(DTypeError, match=r"Adam: betas must be two numbers, \(beta1, beta2\); got 0.9"):
        Adam(some(0), betas=0.9)
    optimizer = Adam(some(0))
    with pytest.raises(DTypeError, match="Adam.step: grads must be Parameters, as backward returns; got dict"):
        optimizer.step({})
    with pytest.raises(ShapeError, match="Adam.step: grads must have the shapes of params; w must have"):
        optimizer.step(Linear(3, 2).params)
    with pytest.raises(DTypeError, match="Adam.step: grads must have dtype float64"):
        optimizer.step(some(1, np.float32))
    assert optimizer.steps == 0


# ------------------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9}), (Adam, {}), (Adam, {"weight_decay": 0.1})])
def test_a_state_goes_on_bit_for_bit(kind, options, dtype):
    params, twin_params = some(0, dtype), some(1, dtype)
    optimizer, twin = kind(params, lr=0.1, **options), kind(twin_params, lr=0.5, **options)
    for seed in range(5):
        optimizer.step(some(seed, dtype))
        twin.step(some(9, dtype))
    optimizer.lr = 0.05
    state = optimizer.state_dict()
    twin_params.flat = params.flat
    twin.load_state_dict(state)
    for seed in range(5):
        for each in (optimizer, twin):
            each.step(some(seed, dtype))
    assert np.array_equal(params.flat, twin_params.flat)
    assert state["steps"] == 5 and twin.steps == 10 and twin.lr == 0.05


def test_a_state_that_does_not_fit_changes_nothing():
    optimizer = Adam(some(0), eps=1e-6)
    optimizer.step(some(1))
    before = optimizer.state_dict()
    where = "Adam.load_state_dict: "
    for state, message in [
        (SGD(some(0), lr=0.1).state_dict(), "kind is 'Adam' here, 'SGD' in the state"),
        (
            Adam(some(0), eps=1e-7).state_dict(),
            "eps is 1e-06 here, 1e-07 in the state",
        ),
        (before | {"options": {}}, "options must be betas, eps, weight_decay"),
        ({}, "state must have kind, lr, steps, options, vectors, as state_dict returns"),
        (3, "state must have kind, lr, steps, options, vectors, as state_dict returns"),
        (before | {"lr": None}, "lr and steps must be numbers of at least 0; got None and 1"),
        (before | {"steps": -1}, "lr and steps must be numbers of at least 0; got 0.001 and -1"),
        (before | {"vectors": {}}, "vectors must be first, second"),
        (
            before | {"vectors": {"first": np.ones(8), "second": np.ones(7)}},
            "second must be an array of float64, shape (8,)",
        ),
    ]:
        with pytest.raises(StateDictError) as caught:
            optimizer.load_state_dict(state)
        assert str(caught.value) == where + message
        after = optimizer.state_dict()
        assert all(np.array_equal(after["vectors"][name], before["vectors"][name]) for name in ("first", "second"))
        assert after["steps"] == 1


def test_a_learning_rate_that_is_assigned_is_checked():
    optimizer = SGD(some(0), lr=0.1)
    optimizer.lr = 0
    assert optimizer.lr == 0.0
    with pytest.raises(OptionError, match="SGD: lr must be at least 0; got -1.0"):
        optimizer.lr = -1
    assert optimizer.lr == 0.0
