"""The steps of a layer one by one: Jacobians by the complex step of forward, against the same out of backward."""

import dataclasses

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.engine.recorded import RecordedSteps, recorded_steps

EPS = np.finfo(float).eps
EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2}
LAYERS = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (RNN, EVERYTHING),
    (LSTM, {}),
    (LSTM, {"proj_size": 3}),
    (LSTM, EVERYTHING),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (GRU, EVERYTHING),
    (GRU, {"reset": "before", **EVERYTHING}),
    (PeepholeLSTM, {}),
    (LayerNormLSTM, {"epsilon": 0.3}),
]


def recorded(kind, options, lengths=(4, 7, 2)):
    rng = np.random.default_rng(5)
    layer = kind(3, 5, rng=1, **options)
    return layer, layer.forward(rng.normal(size=(7, 3, 3)), lengths=lengths)[2]


def pulled(steps):
    """Return the Jacobians of every step as backward has them: unit vectors through step_backward."""
    t, n = np.nonzero(steps.alive)
    S = steps.S
    result = steps.vjp(np.repeat(t, S), np.repeat(n, S), np.tile(np.eye(S), (len(t), 1)))
    da = result.binding.aligned(steps.cell.input_gradient + "_t")[0][:, steps.recorded.chain.span]
    return t, n, result.dstates.reshape(len(t), S, S), da.reshape(len(t), S, -1)


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_both_passes_have_the_same_jacobians(kind, options):
    layer, trace = recorded(kind, options)
    for steps in recorded_steps(layer, trace).values():
        jacobians = steps.jacobians()
        t, n, state, da = pulled(steps)
        span = steps.recorded.chain.span
        for found, expected in (
            (state, jacobians.state[t, n]),
            (da, jacobians.preactivation[t, n][:, :, span]),
        ):
            # Layer normalisation subtracts means: a few digits cancel.
            allowed = (100 if kind is LayerNormLSTM else 8) * EPS * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
        assert jacobians.deviation < 16 * EPS
        assert not jacobians.state[~steps.alive].any() and not jacobians.preactivation[~steps.alive].any()


def test_a_step_that_is_not_the_layers_deviates():
    layer, trace = recorded(RNN, {})
    trace.layers["l0"].weights["W_hh"][0, 0] += 1e-6
    assert RecordedSteps(layer, trace, "l0").jacobians().deviation > 1e-8


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_tangent_of_the_recurrent_weights(kind, options):
    """A change V of W_hh changes a_t by V h_in, where the formulas add W_hh h_in to a_t and nothing else."""
    layer, trace = recorded(kind, options)
    for steps in recorded_steps(layer, trace).values():
        weight = steps.weights()["weight_hh"]
        change = np.random.default_rng(0).normal(size=weight.shape)
        nudge = np.zeros((steps.T, steps.N, steps.A))
        for rows, columns, source in steps.products("hidden"):
            nudge[..., columns] += source @ change[rows].T
        expected = np.einsum("tnsa,tna->tns", steps.jacobians().preactivation, nudge)
        found = steps.parameter_jvp("weight_hh", change)
        if kind is LayerNormLSTM:
            assert not np.allclose(found, expected, rtol=1e-3, atol=0)  # the product is normalised on its way
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=16 * EPS * np.abs(expected).max())


def test_jacobians_in_pieces_are_the_same(monkeypatch):
    layer, trace = recorded(LSTM, EVERYTHING)
    whole = RecordedSteps(layer, trace, "l0").jacobians()
    monkeypatch.setattr("rnn_numpy.engine.recorded.CHUNK", 1)
    told = []
    pieces = RecordedSteps(layer, trace, "l0").jacobians(lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(pieces.state, whole.state, rtol=0, atol=4 * EPS)
    np.testing.assert_allclose(pieces.preactivation, whole.preactivation, rtol=0, atol=4 * EPS)
    assert told == [(k, 13) for k in range(1, 14)]


def test_nothing_is_modified():
    layer, trace = recorded(LSTM, EVERYTHING)
    layer.backward(trace, np.ones((7, 3, 10)))
    before = layer.params.flat.copy(), trace.h.copy(), trace.dh.copy()
    for steps in recorded_steps(layer, trace).values():
        steps.jacobians()
        pulled(steps)
        steps.parameter_jvp("weight_ih", np.ones_like(steps.weights()["weight_ih"]))
    np.testing.assert_array_equal(layer.params.flat, before[0])
    np.testing.assert_array_equal(trace.h, before[1])
    np.testing.assert_array_equal(trace.dh, before[2])


@pytest.mark.parametrize(
    ("kind", "options", "is_simple"),
    [
        (RNN, {}, True),
        (RNN, {"nonlinearity": "relu"}, True),
        (LSTM, {"num_layers": 2, "bidirectional": True}, True),
        (GRU, {}, True),
        (PeepholeLSTM, {}, True),
        (GRU, {"reset": "before"}, False),
        (LayerNormLSTM, {}, False),
        (LSTM, {"proj_size": 2}, False),
        (LSTM, {"zoneout": 0.3}, False),
    ],
)
def test_jacobians_by_single_units_are_those_by_columns(kind, options, is_simple):
    layer = kind(3, 5, rng=0, **options)
    x = 2 * np.random.default_rng(1).normal(size=(9, 3, 3))
    trace = layer.forward(x, lengths=[9, 4, 6])[2]
    for steps in recorded_steps(layer, trace).values():
        found, expected = steps._of_single_units(), steps._by_columns(None)
        assert (found is not None) is is_simple
        if found is not None:
            for one, other in ((found.state, expected.state), (found.preactivation, expected.preactivation)):
                assert np.abs(one - other).max() <= 4 * EPS * np.abs(other).max()
            assert found.deviation == expected.deviation


def test_a_single_unit_is_differentiated_by_columns():
    """Layer normalisation of one unit: nearly all of dh_t/dh_{t-1} is 0, but not what W_hh would make of it."""
    layer = LayerNormLSTM(3, 1, rng=0)
    trace = layer.forward(np.random.default_rng(1).normal(size=(4, 2, 3)))[2]
    assert recorded_steps(layer, trace)["l0"]._of_single_units() is None


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0])
def test_units_that_know_of_each_other_are_differentiated_one_by_one(size):
    def mixing(a_t, h_in, W_hh, h_t):
        a_t += h_in.dot(W_hh.T)
        h_t[...] = np.tanh(a_t + size * np.roll(a_t, 1, axis=1))

    layer = RNN(3, 5, rng=0)
    layer.cell = dataclasses.replace(layer.cell, step_forward=mixing)
    trace = layer.forward(np.random.default_rng(1).normal(size=(6, 2, 3)))[2]
    steps = recorded_steps(layer, trace)["l0"]
    assert steps._of_single_units() is None
    assert np.all(steps.jacobians().preactivation[..., [0, 1], [4, 0]] != 0)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize(("kind", "options"), [(RNN, {}), (LSTM, EVERYTHING), (GRU, {"reset": "before"})], ids=str)
def test_neighbouring_steps_are_gathered_as_any_steps_are(kind, options, N):
    layer = kind(3, 5, rng=1, **options)
    trace = layer.forward(np.random.default_rng(5).normal(size=(7, N, 3)))[2]
    for steps in recorded_steps(layer, trace).values():
        t, n = np.divmod(np.arange(2 * N, 6 * N), N)
        order = np.random.default_rng(0).permutation(len(t))
        assert (np.diff(order) != 1).any()
        found, mixed = steps.gathered(t, n, times=2), steps.gathered(t[order], n[order], {"h"})
        assert set(mixed.arrays) == {"h"} and set(found.arrays) == set(steps.recorded.arrays)
        for name, array in found.arrays.items():
            recorded = steps.recorded.arrays[name]
            offsets = (steps.binding.before, steps.binding.after) if name in steps.cell.states else (0,)
            for row, offset in zip(array, offsets, strict=True):
                np.testing.assert_array_equal(row, np.tile(recorded[t + offset, n], (2, 1)))
        np.testing.assert_array_equal(mixed.arrays["h"], found.arrays["h"][:, order])
