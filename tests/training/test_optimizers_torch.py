"""Every optimiser against torch's, with every combination of its options; and its state."""

import copy
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from frameworks import torch

from rnn_numpy import Parameters
from rnn_numpy.errors import DTypeError, OptionError, StateDictError
from rnn_numpy.training import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

KINDS = {kind.__name__: kind for kind in (SGD, Adam, AdamW, RMSprop, Adagrad)}

# The values of each option; all combinations of them are tried.
VALUES = {
    "SGD": {"lr": [0.1], "momentum": [0.0, 0.9], "nesterov": [False, True], "weight_decay": [0.0, 0.1]},
    "Adam": {"lr": [0.01], "betas": [(0.9, 0.999), (0.5, 0.7)], "eps": [1e-8, 1e-2], "weight_decay": [0.0, 0.1]},
    "AdamW": {"lr": [0.01], "betas": [(0.9, 0.999), (0.5, 0.7)], "eps": [1e-8, 1e-2], "weight_decay": [0.0, 0.1]},
    "RMSprop": {
        "lr": [0.01],
        "alpha": [0.99, 0.5],
        "eps": [1e-8, 1e-2],
        "weight_decay": [0.0, 0.1],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
    },
    "Adagrad": {
        "lr": [0.1],
        "lr_decay": [0.0, 0.3],
        "weight_decay": [0.0, 0.1],
        "initial_accumulator_value": [0.0, 0.5],
        "eps": [1e-10, 1e-2],
    },
}


def combinations(name):
    found = [dict(zip(VALUES[name], values, strict=True)) for values in itertools.product(*VALUES[name].values())]
    return [options for options in found if not options.get("nesterov") or options["momentum"]]


def drawn(seed, dtype=np.float64):
    params = Parameters({"w": (3, 2), "b": (2,)}, dtype)
    params.flat[:] = np.random.default_rng(seed).normal(size=8)
    return params


def gradients(rng, dtype):
    grads = drawn(0, dtype)
    grads.flat[:] = rng.normal(size=8) * 10.0 ** rng.uniform(-4, 2, size=8)
    return grads


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", KINDS)
def test_all_combinations_are_torchs_over_50_updates(name):
    """Also after the state has gone through state_dict and JSON into a new optimiser, at half time."""
    for options in combinations(name):
        params = drawn(1)
        twin = torch.nn.Parameter(torch.tensor(params.flat))
        ours, theirs = KINDS[name](params, **options), getattr(torch.optim, name)([twin], **options)
        rng = np.random.default_rng(2)
        for update in range(50):
            if update == 25:
                resumed = drawn(3)
                resumed.flat = params.flat
                state, params = ours.state_dict(), resumed
                ours = KINDS[name](params, **options)
                plain = json.loads(json.dumps({key: value for key, value in state.items() if key != "vectors"}))
                ours.load_state_dict(plain | {"vectors": state["vectors"]})
            grads = gradients(rng, np.float64)
            before = grads.flat.copy()
            twin.grad = torch.tensor(grads.flat)
            ours.step(grads)
            theirs.step()
            assert np.array_equal(grads.flat, before)
            reference = twin.detach().numpy()
            np.testing.assert_allclose(params.flat, reference, rtol=0, atol=1e-13 * np.abs(reference).max())


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", KINDS)
def test_all_combinations_are_torchs_in_float32(name):
    """Over 50 updates, with an error of some last digits of the largest value at each."""
    eps = np.finfo(np.float32).eps
    for options in combinations(name):
        params = drawn(1, np.float32)
        twin = torch.nn.Parameter(torch.tensor(params.flat))
        ours, theirs = KINDS[name](params, **options), getattr(torch.optim, name)([twin], **options)
        rng, size = np.random.default_rng(2), 0.0
        for update in range(50):
            grads = gradients(rng, np.float32)
            twin.grad = torch.tensor(grads.flat)
            ours.step(grads)
            theirs.step()
            size = max(size, np.abs(params.flat).max())
            # What is centred divides by a difference, of which the largest gradient so far leaves fewer digits.
            atol = (64 if options.get("centered") else 4) * eps * size * (update + 1)
            np.testing.assert_allclose(params.flat, twin.detach().numpy(), rtol=0, atol=atol)
        assert params.flat.dtype == np.float32


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", KINDS)
def test_defaults_are_torchs(name):
    ours = KINDS[name](drawn(0), **({"lr": 0.1} if name == "SGD" else {}))
    theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(1))]).defaults
    for option in ours.options if name == "SGD" else ("lr", *ours.options):
        assert getattr(ours, option) == theirs[option]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KINDS)
def test_a_state_goes_on_bit_for_bit(name, dtype):
    for options in combinations(name):
        params, others = drawn(0, dtype), drawn(1, dtype)
        one, other = KINDS[name](params, **options), KINDS[name](others, **options)
        rng = np.random.default_rng(2)
        for _ in range(5):
            one.step(gradients(rng, dtype))
            other.step(drawn(9, dtype))
        others.flat = params.flat
        one.lr = 0.05
        state = copy.deepcopy(kept := one.state_dict())
        other.load_state_dict(kept)
        for _ in range(5):
            grads = gradients(rng, dtype)
            one.step(grads)
            other.step(grads)
        assert params.flat.tobytes() == others.flat.tobytes()
        assert one.state_dict().keys() == state.keys() and (other.lr, other.steps) == (0.05, 10)
        # What state_dict returned was a copy.
        for key, vector in state["vectors"].items():
            assert np.array_equal(kept["vectors"][key], vector)
            assert not np.shares_memory(kept["vectors"][key], getattr(one, key).flat)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_allocates_no_vector(name):
    for options in combinations(name):
        params = Parameters({"w": (50_000,)}, np.float32)
        grads = Parameters({"w": (50_000,)}, np.float32, np.ones(50_000, np.float32))
        optimizer = KINDS[name](params, **options)
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


@pytest.mark.parametrize("name", KINDS)
def test_gradients_that_do_not_fit_change_nothing(name):
    params = drawn(0)
    optimizer = KINDS[name](params, lr=0.1, weight_decay=0.1)
    before = params.flat.copy()
    with pytest.raises(DTypeError, match=f"{name}.step: grads must have dtype float64"):
        optimizer.step(drawn(0, np.float32))
    assert optimizer.steps == 0 and np.array_equal(params.flat, before)


def test_states_of_other_kinds_and_sizes_are_refused():
    states = {name: KINDS[name](drawn(0), lr=0.1).state_dict() for name in KINDS}
    for name, other in itertools.permutations(KINDS, 2):
        with pytest.raises(StateDictError, match=f"{name}.load_state_dict: kind is '{name}' here, '{other}' in the"):
            KINDS[name](drawn(0), lr=0.1).load_state_dict(states[other])
    for name, kind in KINDS.items():
        small = kind(Parameters({"w": (3,)}, np.float64), lr=0.1)
        with pytest.raises(StateDictError, match=r"must be an array of float64, shape \(3,\)"):
            small.load_state_dict(states[name])
        single = kind(drawn(0, np.float32), lr=0.1)
        with pytest.raises(StateDictError, match=r"must be an array of float32, shape \(8,\)"):
            single.load_state_dict(states[name])
    with pytest.raises(StateDictError, match="RMSprop.load_state_dict: centered is True here, False in the state"):
        RMSprop(drawn(0), centered=True).load_state_dict(RMSprop(drawn(0)).state_dict())


def test_centred_rmsprop_survives_equal_gradients():
    """By rounding the mean square is below the square of the mean: a root of it would be NaN."""
    params, grads = drawn(0), drawn(1)
    grads.flat[:] = 0.1 + np.arange(8) / 7
    optimizer = RMSprop(params, alpha=0.5, centered=True)
    below = 0
    for _ in range(200):
        optimizer.step(grads)
        below += np.any(optimizer.second.flat < optimizer.first.flat**2)
    assert below and np.isfinite(params.flat).all()


def test_sgd_takes_complex_parameters_and_the_others_do_not():
    params = drawn(0).astype(np.complex128)
    grads = drawn(1).astype(np.complex128)
    expected = params.flat - 0.1 * grads.flat
    SGD(params, lr=0.1).step(grads)
    assert np.array_equal(params.flat, expected)
    for name in ("Adam", "AdamW", "RMSprop", "Adagrad"):
        with pytest.raises(DTypeError, match=f"{name}: params must be real"):
            KINDS[name](params)


def test_what_sgd_and_adam_gave_in_0_2_0_they_give():
    """By the lines of 0.2.0, bit for bit."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        params, adam_params = drawn(1, dtype), drawn(1, dtype)
        theta, velocity = params.flat.copy(), np.zeros(8, dtype)
        phi, m, v = adam_params.flat.copy(), np.zeros(8, dtype), np.zeros(8, dtype)
        sgd, adam = SGD(params, lr=0.1, momentum=0.9), Adam(adam_params, weight_decay=0.1)
        for t in range(1, 21):
            grads = gradients(rng, dtype)
            sgd.step(grads)
            adam.step(grads)
            velocity *= 0.9
            velocity += grads.flat
            theta -= 0.1 * velocity
            g = phi * 0.1 + grads.flat
            m = m * 0.9 + g * (1 - 0.9)
            v = v * 0.999 + g * g * (1 - 0.999)
            phi -= m / (np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8) * (1e-3 / (1 - 0.9**t))
        assert theta.tobytes() == params.flat.tobytes() and phi.tobytes() == adam_params.flat.tobytes()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda params: SGD(params, 0.1, nesterov=True),
            OptionError,
            "SGD: nesterov looks ahead along the momentum, which is 0; give one, such as momentum=0.9",
        ),
        (lambda params: SGD(params, 0.1, 0.9, 1), DTypeError, "SGD: nesterov must be True or False; got int 1"),
        (
            lambda params: SGD(params, 0.1, weight_decay=-1),
            OptionError,
            "SGD: weight_decay must be at least 0; got -1.0",
        ),
        (lambda params: AdamW(params, 0), OptionError, "AdamW: lr must be greater than 0; got 0.0"),
        (
            lambda params: AdamW(params, betas=(1.0, 0.9)),
            OptionError,
            "AdamW: betas must be below 1: with 1 no gradient would ever enter; got (1.0, 0.9)",
        ),
        (
            lambda params: RMSprop(params, alpha=1),
            OptionError,
            "RMSprop: alpha must be below 1: with 1 no gradient would ever enter; got 1.0",
        ),
        (lambda params: RMSprop(params, momentum=2), OptionError, "RMSprop: momentum must be in [0, 1]; got 2.0"),
        (lambda params: Adagrad(params, eps=-1), OptionError, "Adagrad: eps must be at least 0; got -1.0"),
        (
            lambda params: Adagrad(params, initial_accumulator_value=-1),
            OptionError,
            "Adagrad: initial_accumulator_value must be at least 0; got -1.0",
        ),
        (
            lambda params: Adagrad({}),
            DTypeError,
            "Adagrad: params must be Parameters, such as layer.params; got dict",
        ),
    ],
)
def test_wrong_options_are_named(call, error, message):
    with pytest.raises(error) as caught:
        call(drawn(0))
    assert str(caught.value) == message


def test_all_are_optimisers():
    assert all(issubclass(kind, Optimizer) for kind in KINDS.values())
