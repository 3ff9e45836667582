"""Jacobians of cells that work unit by unit: out of one column for each state what S unit vectors give."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.engine import Cell, Recurrent, unitwise
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.unitwise import UnitMaps, unit_maps
from rnn_numpy.lab.jacobians import rows_of_steps
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.lstm import PROJECTED_CELL
from rnn_numpy.layers.peephole import PeepholeLSTM
from rnn_numpy.layers.rnn import rnn_step_backward
from tests.support.planting import edited, planted

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


@pytest.mark.parametrize(("old", "new"), [("diagonal += direct", "diagonal -= direct"), ("columns[...] = 0", "pass")])
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


class Square(Recurrent):
    """An LSTM with a projection to as many units as there are, which with a matrix of 1 works unit by unit."""

    cell = PROJECTED_CELL
    proj_size = 5


def test_what_holds_with_some_parameters_is_not_remembered_of_others(tried):
    net = Square(3, 5, rng=0)
    for projection, holds in ((np.eye(5), True), (np.ones((5, 5)), False), (np.eye(5), True)):
        net.params["weight_hr_l0"] = projection
        steps = RecordedSteps(net, net.forward(np.ones((4, 2, 3)))[2], "l0")
        assert (unit_maps(steps, *np.nonzero(steps.alive)) is not None) == holds


def test_numbers_out_of_range_are_left_to_unit_vectors():
    steps, t, n = recorded(RNN, {})
    assert unit_maps(steps, t, n) is not None  # what is remembered of these formulas is not about numbers
    weights = steps.recorded.weights["W_hh"].copy()
    weights[0, 0] = np.inf
    steps.recorded.weights["W_hh"] = weights
    with np.errstate(invalid="ignore"):
        assert unit_maps(steps, t, n) is None


# ------------------------------------------------------------------------------------------------ what is remembered


@pytest.fixture
def tried(monkeypatch):
    """The steps that were tried, of a process that remembers nothing."""
    found, holds = [], unitwise._holds

    def counted(steps, *arguments):
        found.append(steps)
        return holds(steps, *arguments)

    monkeypatch.setattr(unitwise, "_holds", counted)
    monkeypatch.setattr(unitwise, "_held", weakref.WeakKeyDictionary())
    return found


@pytest.mark.parametrize(("kind", "options"), UNITWISE)
def test_the_formulas_of_the_package_are_tried_once(kind, options, tried):
    """But of cells with further parameters: what holds with some of these may not with others."""
    for expected in (1, 2, 3) if kind is PeepholeLSTM else (1, 1, 1):
        steps, t, n = recorded(kind, options)
        assert unit_maps(steps, t, n, ()) is not None
        assert len(tried) == expected


def test_what_else_is_asked_for_is_tried_as_well(tried):
    for gradients, dtype, H, expected in (
        ((), np.float64, 6, 1),
        (("da_t",), np.float64, 6, 2),
        (("da_t",), np.float32, 6, 3),
        (("da_t",), np.float32, 5, 4),
        (("da_t",), np.float64, 6, 4),
    ):
        assert unit_maps(*recorded(GRU, {}, dtype, H), gradients) is not None
        assert len(tried) == expected


WRONG = "da_t.dot(np.roll(W_hh, 1, axis=0))"


def wrong_by_another_cell(layer, steps, monkeypatch):
    layer.cell = planted(layer.cell, rnn_step_backward, edited(rnn_step_backward, "da_t.dot(W_hh)", WRONG))
    return RecordedSteps(layer, layer.forward(steps.x)[2], "l0")


def wrong_in_the_chain(layer, steps, monkeypatch):
    (_, slots, columns), *others = steps.recorded.chain.formulas["backward"]
    wrong = edited(rnn_step_backward, "da_t.dot(W_hh)", WRONG)
    monkeypatch.setitem(steps.recorded.chain.formulas, "backward", [(wrong, slots, columns), *others])
    return steps


def wrong_in_the_code(layer, steps, monkeypatch):
    wrong = edited(rnn_step_backward, "da_t.dot(W_hh)", WRONG)
    monkeypatch.setattr(rnn_step_backward, "__code__", wrong.__code__)
    return steps


def wrong_in_the_driver(layer, steps, monkeypatch):
    def twice(self, run):
        yield from RNN.backward_loop(self, run)
        run.binding.arrays["dh"][0] *= 2

    monkeypatch.setattr(type(layer), "backward_loop", twice)
    return steps


class Own(RNN):
    """An RNN under another name."""


@pytest.mark.parametrize(
    "plant",
    [wrong_by_another_cell, wrong_in_the_chain, wrong_in_the_code, wrong_in_the_driver],
    ids=lambda f: f.__name__,
)
def test_a_mistake_planted_after_a_right_formula_was_remembered_is_caught(plant, tried, monkeypatch):
    layer = Own(3, 6, rng=0)
    steps = RecordedSteps(layer, layer.forward(np.random.default_rng(0).normal(size=(5, 2, 3)))[2], "l0")
    t, n = np.nonzero(steps.alive)
    for _ in range(2):
        assert unit_maps(steps, t, n) is not None
    assert len(tried) == 1
    steps = plant(layer, steps, monkeypatch)
    for expected in (2, 3):
        assert unit_maps(steps, t, n) is None
        assert len(tried) == expected


def own_partials(h_t, da_t):
    np.subtract(1, h_t * h_t, out=da_t)


def as_the_package_does(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t
    dh_in += da_t.dot(W_hh)


def made_with(factor):
    def own_backward(dh_t, W_hh, da_t, dh_in):
        da_t *= dh_t
        dh_in += factor(da_t).dot(W_hh)

    own_backward.__module__ = "rnn_numpy.layers.rnn"
    return own_backward


OWN_CELLS = [{"step_partials": own_partials}, {"step_backward": as_the_package_does}]
OWN_CELLS += [
    {"step_backward": formula}
    for formula in (
        made_with(np.asarray),
        edited(rnn_step_backward, "da_t *= dh_t", "np.multiply(da_t, dh_t, out=da_t)"),
    )
]


@pytest.mark.parametrize("changes", OWN_CELLS)
def test_a_cell_of_ones_own_is_tried_each_time(changes, tried):
    layer = RNN(3, 6, rng=0)
    layer.cell = dataclasses.replace(layer.cell, **changes)
    steps = RecordedSteps(layer, layer.forward(np.ones((5, 2, 3)))[2], "l0")
    for expected in (1, 2):
        assert unit_maps(steps, *np.nonzero(steps.alive)) is not None
        assert len(tried) == expected


def test_a_function_in_the_place_of_one_of_the_package_is_tried_each_time(tried, monkeypatch):
    monkeypatch.setattr("rnn_numpy.layers.rnn.rnn_step_backward", as_the_package_does)
    for expected in (1, 2):
        assert unit_maps(*recorded(RNN, {})) is not None
        assert len(tried) == expected


def test_what_is_remembered_keeps_no_cell_alive(tried):
    layer = RNN(3, 6, rng=0)
    layer.cell = dataclasses.replace(layer.cell)
    steps = RecordedSteps(layer, layer.forward(np.ones((5, 2, 3)))[2], "l0")
    assert unit_maps(steps, *np.nonzero(steps.alive)) is not None
    assert len(unitwise._held) == 1
    del layer, steps
    tried.clear()
    gc.collect()
    assert len(unitwise._held) == 0


@pytest.mark.parametrize(("kind", "options"), UNITWISE)
def test_states_that_go_back_together_make_no_difference(kind, options, monkeypatch):
    steps, t, n = recorded(kind, options)
    found = []
    for most in (0, 10**9):
        monkeypatch.setattr(unitwise, "TOGETHER", most)
        maps = unit_maps(steps, t, n, ["da_t"])
        found.append((maps.slopes, maps.direct, maps.gradients["da_t"]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
