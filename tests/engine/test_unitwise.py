"""Jacobians of cells that work unit by unit: out of one column for each state what S unit vectors give."""

import dataclasses

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.engine import Cell, Recurrent
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.unitwise import UnitMaps, unit_maps
from rnn_numpy.lab.jacobians import rows_of_steps
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.peephole import PeepholeLSTM
from tests.support.planting import edited

UNITWISE = [
    (RNN, {}), (RNN, {"nonlinearity": "relu"}), (LSTM, {}), (LSTM, {"zoneout": 0.3}), (GRU, {}), (PeepholeLSTM, {}),
    (GRU, {"zoneout": 0.2}),
]  # fmt: skip
OTHERS = [(GRU, {"reset": "before"}), (LSTM, {"proj_size": 3}), (LSTM, {"recurrent_dropout": 0.4}), (LayerNormLSTM, {})]


def mixing_forward(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.tanh(a_t + np.roll(a_t, 1, axis=0))


def mixing_backward(h_t, dh_t, W_hh, da_t, dh_in):
    inner = dh_t * (1 - h_t * h_t)
    da_t[...] = inner + np.roll(inner, -1, axis=0)
    dh_in += W_hh.T @ da_t


class Mixing(Recurrent):
    """Neighbouring units meet outside of W_hh: gradients of ones do not tell."""

    cell = Cell(("a",), ("h",), mixing_forward, mixing_backward)


def recorded(kind, options, dtype=np.float64, H=6):
    layer = kind(3, H, rng=0, dtype=dtype, **options)
    x = np.random.default_rng(0).normal(size=(7, 4, 3)).astype(dtype)
    steps = RecordedSteps(layer, layer.forward(x, lengths=[7, 7, 5, 1])[2], "l0")
    return steps, *np.nonzero(steps.alive)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("kind", "options"), UNITWISE)
def test_it_is_what_unit_vectors_give(kind, options, dtype):
    steps, t, n = recorded(kind, options, dtype)
    maps = unit_maps(steps, t, n)
    found = np.empty((len(t), steps.S, steps.S), dtype)
    maps.write(found)
    units = np.tile(np.eye(steps.S, dtype=dtype), (len(t), 1))
    expected = steps.vjp(np.repeat(t, steps.S), np.repeat(n, steps.S), units).dstates.reshape(found.shape)
    assert np.abs(found - expected).max() < 10 * np.finfo(dtype).eps * np.abs(expected).max()
    if dtype == np.float64:
        V = np.random.default_rng(1).normal(size=(len(t), steps.S, 3))
        for first, product in enumerate(maps.products(2)):
            at = slice(2 * first, min(2 * first + 2, len(t)))
            right = expected[at] @ V[at]
            assert np.abs(product(V[at]) - right).max() < 1e-14 * np.abs(right).max()


@pytest.mark.parametrize(("kind", "options"), [*OTHERS, (Mixing, {})])
def test_other_cells_have_none(kind, options):
    assert unit_maps(*recorded(kind, options)) is None


def test_what_formulas_say_is_tried_not_assumed(monkeypatch):
    """Without the trial, units that meet would have wrong Jacobians."""
    monkeypatch.setattr("rnn_numpy.engine.unitwise._holds", lambda *arguments: True)
    steps, t, n = recorded(Mixing, {})
    found = np.empty((len(t), steps.S, steps.S))
    unit_maps(steps, t, n).write(found)
    units = np.tile(np.eye(steps.S), (len(t), 1))
    expected = steps.vjp(np.repeat(t, steps.S), np.repeat(n, steps.S), units).dstates.reshape(found.shape)
    assert np.abs(found - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(("kind", "options"), UNITWISE)
def test_pieces_of_few_steps_make_no_difference(kind, options, monkeypatch):
    steps, t, n = recorded(kind, options)
    shape = len(t), steps.S, steps.S
    whole, pieces = np.full(shape, np.nan), np.full(shape, np.nan)
    unit_maps(steps, t, n).write(whole)
    monkeypatch.setattr("rnn_numpy.engine.unitwise.CACHED", 4 * steps.S**2)
    unit_maps(steps, t, n).write(pieces)
    np.testing.assert_allclose(pieces, whole, rtol=1e-14, atol=1e-16)
    V = np.random.default_rng(1).normal(size=(len(t), steps.S, 3))
    found = [product(V[2 * m : 2 * m + 2]) for m, product in enumerate(unit_maps(steps, t, n).products(2))]
    assert np.abs(np.concatenate(found) - whole @ V).max() < 1e-14 * np.abs(whole @ V).max()


@pytest.mark.parametrize(
    ("old", "new"), [("self.direct[start +", "-self.direct[start +"), ("if self.states > 1:", "if self.states > 9:")]
)
def test_a_planted_mistake_in_the_blocks_is_seen(old, new, monkeypatch):
    """The sign of what passes no weight; blocks without W_hh left as the memory was."""
    steps, t, n = recorded(LSTM, {})
    right, found = np.empty((len(t), steps.S, steps.S)), np.full((len(t), steps.S, steps.S), np.nan)
    unit_maps(steps, t, n).write(right)
    maps = unit_maps(steps, t, n)
    monkeypatch.setattr(UnitMaps, "write", edited(UnitMaps.write, old, new))
    maps.write(found)
    assert not np.allclose(found, right)


def test_another_product_than_that_of_the_weights_is_seen():
    layer = RNN(3, 6, rng=0)

    def twice(dh_t, W_hh, da_t, dh_in):
        da_t *= dh_t
        dh_in += da_t.dot(2 * W_hh)

    layer.cell = dataclasses.replace(layer.cell, step_backward=twice)
    steps = RecordedSteps(layer, layer.forward(np.ones((5, 2, 3)))[2], "l0")
    t, n = np.nonzero(steps.alive)
    assert unit_maps(steps, t, n) is None
    units = np.tile(np.eye(6), (len(t), 1))
    expected = steps.vjp(np.repeat(t, 6), np.repeat(n, 6), units).dstates.reshape(5, 2, 6, 6)
    np.testing.assert_array_equal(rows_of_steps(steps, np.arange(5)), expected)


def test_numbers_out_of_range_are_left_to_unit_vectors():
    steps, t, n = recorded(RNN, {})
    weights = steps.recorded.weights["W_hh"].copy()
    weights[0, 0] = np.inf
    steps.recorded.weights["W_hh"] = weights
    with np.errstate(invalid="ignore"):
        assert unit_maps(steps, t, n) is None
