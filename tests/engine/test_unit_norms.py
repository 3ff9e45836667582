"""Norms of what all losses say at each step, of cells that work unit by unit: as the backward steps have them."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.engine import unit_norms as module
from rnn_numpy.engine.adjoints import Adjoints, direct_gradients, steps_of
from rnn_numpy.engine.unit_norms import unit_norms
from rnn_numpy.engine.unitwise import UnitMaps
from rnn_numpy.lab import decompose
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.peephole import PeepholeLSTM
from tests.support.planting import edited

UNITWISE = [(RNN, {}), (LSTM, {}), (LSTM, {"zoneout": 0.3}), (GRU, {}), (PeepholeLSTM, {}), (GRU, {"zoneout": 0.2})]
LENGTHS = [9, 8, 6, 1]


def problem(kind, options, N=4, T=9, gain=1.0, **more):
    layer = kind(3, 5, rng=0, **options, **more)
    for array in layer.params.values():
        array *= gain
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, N, 3)).astype(layer.dtype)
    output, _, trace = layer.forward(x, lengths=LENGTHS if N == 4 else None)
    doutput = rng.normal(size=output.shape).astype(output.dtype)
    doutput[2] = 0  # a step that says nothing
    return layer, trace, doutput


def expected(layer, trace, doutput, name, gradient, factors):
    """|R da| by carrying da itself, (slabs, T, T)."""
    steps = steps_of("test", layer, trace, name)[name]
    found = None
    for step, losses in Adjoints(steps).carry(direct_gradients(layer, trace, doutput, None, "test")[0][name]):
        da = step.gradient(gradient).astype(np.float64)  # (n, Q, K)
        mixed = np.einsum("rn,nqk->rqk", factors[step.k, :, : len(da)], da).reshape(len(factors[0]), len(losses), -1, 5)
        found = np.zeros((mixed.shape[2], steps.T, steps.T)) if found is None else found
        scale = np.abs(mixed).max(axis=(0, 2, 3))[:, None] + 1e-320  # of each loss step
        sizes = np.sqrt(np.square(mixed / scale[:, :, None]).sum(axis=(0, 3)))
        found[:, losses, step.k] = (scale * sizes).T
    return found


def measured(layer, trace, doutput, name, gradient, factors):
    steps = steps_of("test", layer, trace, name)[name]
    return unit_norms(steps, direct_gradients(layer, trace, doutput, None, "test")[0][name], gradient, factors)


def factors_for(T, N, r=3):
    return np.random.default_rng(3).normal(size=(T, r, N))


@pytest.mark.parametrize("more", [{}, {"bidirectional": True, "num_layers": 2}, {"dtype": np.float32}])
@pytest.mark.parametrize("N", [1, 4])
@pytest.mark.parametrize(("kind", "options"), UNITWISE)
def test_they_are_those_of_the_backward_steps(kind, options, N, more, monkeypatch):
    layer, trace, doutput = problem(kind, options, N, **more)
    R = factors_for(9, N)
    for name in trace.layers:
        for gradient in dict.fromkeys((layer.cell.input_gradient + "_t", layer.cell.hidden_gradient + "_t")):
            right = expected(layer, trace, doutput, name, gradient, R)
            for entries in (1, 10**6):  # step by step, and all in one block
                monkeypatch.setattr(module, "BLOCK", entries)
                monkeypatch.setattr(module, "PIECE", 200 * entries)
                monkeypatch.setattr(module, "ROWS", 50 * entries)  # two of nine losses, or all
                monkeypatch.setattr(module, "STEPS", 2 * entries)
                found = measured(layer, trace, doutput, name, gradient, R)
                np.testing.assert_allclose(found, right, rtol=1e-13 if layer.dtype == np.float64 else 2e-5, atol=0)
                assert name != max(trace.layers) or not found[:, 2].any()


@pytest.mark.parametrize("gain", [1e-9, 1e-3, 300.0])
@pytest.mark.parametrize("N", [1, 2])
def test_norms_at_the_ends_of_the_range_have_all_digits(N, gain):
    """To 1e-300, which no square has, and up to 1e250."""
    layer, trace, doutput = problem(RNN, {"nonlinearity": "relu", "bias": False}, N, T=31, gain=gain)
    R = factors_for(31, N)
    right = expected(layer, trace, doutput, "l0", "da_t", R)
    usual = right > 1e-290
    assert right.max() > 1e60 if gain > 1 else right.min(where=right > 0, initial=1.0) < 1e-60
    found = measured(layer, trace, doutput, "l0", "da_t", R)
    np.testing.assert_allclose(found[usual], right[usual], rtol=1e-12, atol=0)


def test_a_gradient_that_is_out_of_range_for_a_while_comes_back():
    """The losses' gradients shrink to 1e-400 on the way and grow again: the tables of factors are exact."""
    layer = RNN(1, 2, nonlinearity="relu", bias=False, rng=0)
    layer.params["weight_hh_l0"] = np.eye(2)
    layer.params["weight_ih_l0"] = np.ones((2, 1))
    trace = layer.forward(np.ones((12, 1, 1)))[2]
    steps = steps_of("test", layer, trace, "l0")["l0"]
    sizes = np.array([1e-200, 1e-200, 1e-200] + [1.0] * 6 + [1e100] * 3)
    direct = np.zeros((12, 1, 2))
    direct[:, 0] = sizes[:, None]
    found = unit_norms(steps, direct, "da_t", np.full((12, 1, 1), 1e-60))[0]
    np.testing.assert_allclose(found, np.tril(np.outer(sizes * 1e-60 * np.sqrt(2), np.ones(12))), rtol=1e-13, atol=0)


def test_what_is_not_a_number_is_seen():
    layer, trace, doutput = problem(LSTM, {}, 1)
    doutput[4] = np.nan
    found = measured(layer, trace, doutput, "l0", "da_t", np.ones((9, 1, 1)))
    assert np.isnan(found[:, 4, :5]).all()
    assert np.isfinite(np.delete(found, 4, axis=1)).all()


@pytest.mark.parametrize(
    ("kind", "options"), [(GRU, {"reset": "before"}), (LayerNormLSTM, {}), (LSTM, {"proj_size": 3})]
)
def test_other_cells_have_none_and_tables_all_the_same(kind, options):
    layer, trace, doutput = problem(kind, options, 2)
    gradient = layer.cell.hidden_gradient + "_t"
    assert measured(layer, trace, doutput, "l0", gradient, factors_for(9, 2)) is None
    table = decompose(layer, trace, doutput)
    norm = np.linalg.norm(table.block("weight_hh_l0", 7, 5))
    assert table.norms("weight_hh_l0")[7, 5] == pytest.approx(norm, rel=1e-13)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, PeepholeLSTM])
def test_tables_of_all_parameters_are_those_of_the_ordinary_pass(kind, N):
    layer, trace, doutput = problem(kind, {}, N)
    fast, slow = decompose(layer, trace, doutput), decompose(layer, trace, doutput)
    slow._tables["l0"]._unitwise = False
    for name in fast.names:
        np.testing.assert_allclose(fast.norms(name), slow.norms(name), rtol=1e-13, atol=0)
    assert fast._tables["l0"]._unitwise


@pytest.mark.parametrize(
    ("kind", "owner", "method", "old", "new"),
    [
        (LSTM, UnitMaps, "pull_stack", "direct, blocks", "-direct, blocks"),
        (LSTM, UnitMaps, "pull_stack", "if j != self._main", "if j > self._main + 1"),
        (LSTM, module._Carried, "_block", "self.blocks = following, own", "self.blocks = own, following"),
        (LSTM, module._Carried, "_block", "-1].transpose", "1].transpose"),
        (LSTM, module._Carried, "_keep", "self.Q", "self.Q - 1"),
        (RNN, module._Rows, "__init__", 'side="right"', 'side="left"'),
        (RNN, module._Rows, "run", "self.met[step[0]] > first", "self.met[step[0]] > first + 1"),
        (RNN, module._Rows, "_block", "rows = moved", "rows = rows"),
        (RNN, module._Rows, "_block", "-(-width * n // self.piece)", "width * n // self.piece"),
        (RNN, module._Rows, "_block", "self.sizes[which] if n == 1 else 1.0", "1.0"),
        (RNN, module._Rows, "_block", "= moved[: widths[-1]]", "= moved[: widths[-1]] * 1.000001"),
    ],
)
def test_a_planted_mistake_is_seen(kind, owner, method, old, new, monkeypatch):
    layer, trace, doutput = problem(kind, {})
    monkeypatch.setattr(module, "BLOCK", 1000)
    monkeypatch.setattr(module, "ROWS", 50)
    monkeypatch.setattr(module, "STEPS", 2)
    R = factors_for(9, 4)
    right = expected(layer, trace, doutput, "l0", "da_t", R)
    monkeypatch.setattr(owner, method, edited(getattr(owner, method), old, new))
    with np.errstate(all="ignore"):
        try:
            found = measured(layer, trace, doutput, "l0", "da_t", R)
        except (IndexError, ValueError):
            return
    assert not np.allclose(found, right, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return False", "pass"),
        ("scales[number] = scale", "pass"),
        ("scale[:width] += ", ""),
        ("self.scale[group.start : group.start + known] += ", ""),
        ("self.scale[group] = scale", "pass"),
    ],
)
def test_a_planted_mistake_in_scaling_is_seen(old, new, monkeypatch):
    layer, trace, doutput = problem(RNN, {"nonlinearity": "relu", "bias": False}, 2, T=31, gain=1e-9)
    R = factors_for(31, 2)
    right = expected(layer, trace, doutput, "l0", "da_t", R)
    monkeypatch.setattr(module._Rows, "_block", edited(module._Rows._block, old, new))
    found = measured(layer, trace, doutput, "l0", "da_t", R)
    usual = right > 1e-290
    assert not np.allclose(found[usual], right[usual], rtol=1e-9, atol=0)


def test_a_loss_that_says_nothing_leaves_zeros():
    layer, trace, doutput = problem(GRU, {}, 2)
    found = measured(layer, trace, np.zeros_like(doutput), "l0", "da_t", factors_for(9, 2))
    np.testing.assert_array_equal(found, np.zeros((4, 9, 9)))


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_tables_are_the_callers(kind):
    layer, trace, doutput = problem(kind, {}, 2)
    table = decompose(layer, trace, doutput)
    for name in ("weight_hh_l0", f"weight_hh_l0.{table.gates[0]}"):
        first = table.norms(name)
        kept = first.copy()
        first[...] = 7
        np.testing.assert_array_equal(table.norms(name), kept)
