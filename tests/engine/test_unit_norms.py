"""Norms of what all losses say at each step, of cells that work unit by unit: as the backward steps have them."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.engine import unit_norms as module
from rnn_numpy.engine.adjoints import Adjoints, direct_gradients, steps_of
from rnn_numpy.engine.unit_norms import unit_norms
from rnn_numpy.engine.unitwise import UnitMaps
from rnn_numpy.lab import decompose
from rnn_numpy.layers.general import GeneralLSTM
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
    found = unit_norms(steps, direct_gradients(layer, trace, doutput, None, "test")[0][name], gradient, factors)
    return None if found is None else found[0]


TOGETHER = module.TOGETHER


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    """Short sequences have several blocks, too."""
    monkeypatch.setattr(module, "TOGETHER", (8, 0))


@pytest.fixture
def others(monkeypatch):
    """A single sequence goes the way of many."""
    monkeypatch.setattr(module, "WIDE", 0)


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
                monkeypatch.setattr(module, "TOGETHER", (min(4, entries), 0))
                monkeypatch.setattr(module, "MAPS", entries)
                found = measured(layer, trace, doutput, name, gradient, R)
                np.testing.assert_allclose(found, right, rtol=1e-13 if layer.dtype == np.float64 else 2e-5, atol=0)
                assert name != max(trace.layers) or not found[:, 2].any()


@pytest.mark.parametrize(("kind", "options"), UNITWISE)
def test_one_sequence_goes_the_way_of_many_as_well(kind, options, others):
    layer, trace, doutput = problem(kind, options, 1)
    gradient, R = layer.cell.hidden_gradient + "_t", factors_for(9, 1)
    right = expected(layer, trace, doutput, "l0", gradient, R)
    np.testing.assert_allclose(measured(layer, trace, doutput, "l0", gradient, R), right, rtol=1e-13, atol=0)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_one_sequence_may_be_shorter_than_its_array(kind, options):
    layer = kind(3, 5, rng=0, **options)
    rng = np.random.default_rng(0)
    output, _, trace = layer.forward(rng.normal(size=(9, 1, 3)), lengths=[6])
    doutput = rng.normal(size=output.shape)
    for name in trace.layers:
        right = expected(layer, trace, doutput, name, "da_t", np.ones((9, 1, 1)))
        found = measured(layer, trace, doutput, name, "da_t", np.ones((9, 1, 1)))
        np.testing.assert_allclose(found, right, rtol=1e-13, atol=0)
        assert not found[:, 6:].any() and not found[:, :, 6:].any()


@pytest.mark.parametrize("last", [0, 3, 12, 24])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_losses_may_end_long_before_the_steps_do(kind, last):
    layer, trace, doutput = problem(kind, {}, 1, T=25)
    doutput[last + 1 :] = 0
    right = expected(layer, trace, doutput, "l0", "da_t", np.ones((25, 1, 1)))
    found = measured(layer, trace, doutput, "l0", "da_t", np.ones((25, 1, 1)))
    np.testing.assert_allclose(found, right, rtol=1e-13, atol=0)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_slabs_together(kind, N):
    layer, trace, doutput = problem(kind, {}, N)
    steps = steps_of("test", layer, trace, "l0")["l0"]
    direct = direct_gradients(layer, trace, doutput, None, "test")[0]["l0"]
    groups = [] if kind is RNN else [(0, 2), tuple(range(4))]
    slabs, found = unit_norms(steps, direct, "da_t", factors_for(9, N), groups)
    assert list(found) == (groups if N == 1 else [])  # of one sequence they cost nothing
    for group, norms in found.items():
        expected = np.sqrt(np.square(slabs[list(group)]).sum(axis=0))
        np.testing.assert_allclose(norms, expected, rtol=1e-14, atol=0)


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
    found = unit_norms(steps, direct, "da_t", np.full((12, 1, 1), 1e-60))[0][0]
    np.testing.assert_allclose(found, np.tril(np.outer(sizes * 1e-60 * np.sqrt(2), np.ones(12))), rtol=1e-13, atol=0)


def test_what_is_not_a_number_is_seen():
    layer, trace, doutput = problem(LSTM, {}, 1)
    doutput[4] = np.nan
    found = measured(layer, trace, doutput, "l0", "da_t", np.ones((9, 1, 1)))
    assert np.isnan(found[:, 4, :5]).all()
    assert np.isfinite(np.delete(found, 4, axis=1)).all()


def carried(slopes, weight, sizes):
    """Norms of a relu layer with these slopes, (T, H) of 0 and 1, and losses of these sizes; and what they are."""
    T, H = np.shape(slopes)
    layer = RNN(1, H, nonlinearity="relu", bias=False, rng=0)
    layer.params["weight_hh_l0"] = weight
    trace = layer.forward(np.zeros((T, 1, 1)))[2]
    trace.layers["l0"].arrays["h"][1:, 0] = slopes  # what the formulas read
    steps = steps_of("test", layer, trace, "l0")["l0"]
    direct = np.zeros((T, 1, H))
    direct[:, 0, 0] = sizes
    found = unit_norms(steps, direct, "da_t", np.ones((T, 1, 1)))[0][0]
    right = np.zeros((T, T))
    for t in range(T):
        rows, power = direct[t, 0], 0
        for k in range(t, -1, -1):
            da = rows * slopes[k]
            scale = int(np.frexp(np.abs(da).max())[1])
            da, power = np.ldexp(da, -scale), power + scale
            with np.errstate(over="ignore", under="ignore"):
                right[t, k] = np.ldexp(np.linalg.norm(da), power)
            rows = da @ weight
    return found, right


def off(found, right):
    """The largest relative difference of those that have all digits."""
    usual = (right > 1e-290) & (right < 1e290)
    assert usual.sum() >= 18 and (found[right == 0] == 0).all()
    return float(np.nan_to_num(np.abs(found / np.where(usual, right, 1) - 1)[usual], nan=1.0).max())


def alone(weight, size):
    return carried(np.ones((21, 1)), np.array([[weight]]), [size, 1.0, 1.0 / size] * 7)


def there_and_back(factor, steps, size, slower=1):
    """Through one unit that makes a gradient smaller, and back through another that makes it larger again."""
    turn = [[0.0, 1.0]] * steps * slower + [[1.0, 0.0]] * (steps + 1) + [[1.0, 1.0]]
    slopes = np.array(turn * 2 + [[1.0, 1.0]] * 3)
    return carried(slopes, np.array([[factor] * 2, [factor ** (-1 / slower)] * 2]), [size] * len(slopes))


@pytest.mark.parametrize("weight", [1e-150, 1e-39, 1e-13, 0.5, 1e13, 1e35, 1e150])
@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e200])
def test_a_gradient_that_leaves_the_range_within_a_block_has_all_digits_before(weight, size):
    """Each loss has a scale of its own."""
    assert off(*alone(weight, size)) < 1e-13


@pytest.mark.parametrize("factor", [2.0**-800, 2.0**-500, 2.0**-100, 2.0**-37, 2.0**-3])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("size", [1e-200, np.pi, 1e100])
def test_a_gradient_that_has_left_the_range_comes_back_with_all_digits(factor, steps, size):
    assert off(*there_and_back(factor, steps, size)) < 1e-13


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_even_one_that_a_single_step_takes_out_of_it(steps):
    assert off(*there_and_back(2.0**-600, steps, 1.0, 6)) < 1e-13


def test_a_unit_that_is_silent_for_a_while_passes_nothing():
    slopes = np.array([1.0] * 9 + [0.0] * 4 + [1.0] * 12)[:, None]
    found, right = carried(slopes, np.array([[0.5]]), [1.0] * 25)
    np.testing.assert_allclose(found, right, rtol=1e-14, atol=0)
    assert not found[:, 9:13].any() and not found[13:, :13].any()


@pytest.mark.parametrize(("slope", "size"), [(1e-158, 3e59), (1e-130, 1e25), (1e35, 1e-130), (1e38, 1e-137)])
def test_no_square_of_a_slope_is_lost_beside_a_large_adjoint(slope, size, monkeypatch):
    """Nor one of an adjoint beside a steep slope."""
    layer, trace, doutput = problem(GRU, {}, 1)
    R = np.ones((9, 1, 1))
    right = measured(layer, trace, doutput, "l0", "da_t", R)
    of = module.Totals.of

    def scaled(maps, gradient, names, groups):
        maps.gradients[gradient][...] *= slope
        return of(maps, gradient, names, groups)

    monkeypatch.setattr(module.Totals, "of", scaled)
    found = measured(layer, trace, doutput * size, "l0", "da_t", R)
    np.testing.assert_allclose(found, right * (slope * size), rtol=1e-13, atol=0)


@pytest.mark.parametrize("by_two", [False, True])
def test_slabs_that_follow_from_several_states_go_the_way_of_many(by_two, monkeypatch):
    """N6 is for those that follow from one; and for slopes whose squares are numbers."""
    seen, of = [], module.Totals.of

    def spoiled(maps, gradient, names, groups):
        slopes = maps.gradients[gradient]
        slopes[...] = slopes + 1.0 if by_two else slopes * 1e45
        seen.append(of(maps, gradient, names, groups))
        return seen[-1]

    monkeypatch.setattr(module.Totals, "of", spoiled)
    layer, trace, doutput = problem(LSTM, {}, 1)
    right = expected(layer, trace, doutput, "l0", "da_t", factors_for(9, 1))
    found = measured(layer, trace, doutput, "l0", "da_t", factors_for(9, 1))
    np.testing.assert_allclose(found, right, rtol=1e-13, atol=0)
    assert seen == [None]


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
    ("owner", "method", "old", "new"),
    [
        (module.Totals, "of", "own -= np.multiply", "np.multiply"),
        (module.Totals, "of", "K[1:], np.zeros((1, H))", "np.zeros((1, H)), K[1:]"),
        (module.Totals, "of", "squares[..., :-1] += ~loud", "squares[..., :-1] += loud"),
        (module._Alone, "__init__", "K[reached] *", "0 * K[reached] *"),
        (module._Alone, "__init__", 'side="right"', 'side="left"'),
        (module._Alone, "_block", "norms *= there", "pass"),
        (module._Alone, "_block", "norms *= loud", "norms *= ~loud"),
        (module._Alone, "_block", "= rows[count, :Q]", "= rows[count - 1, :Q]"),
        (module._Alone, "_block", "self.reached[old:Q] - first", "0"),
        (UnitMaps, "write", "self.spread[j][which, None]", "-self.spread[j][which, None]"),
    ],
)
def test_a_planted_mistake_of_one_sequence_is_seen(owner, method, old, new, monkeypatch):
    layer, trace, doutput = problem(LSTM, {}, 1, T=20)
    R = factors_for(20, 1)
    right = expected(layer, trace, doutput, "l0", "da_t", R)
    changed = edited(getattr(owner, method), old, new)
    monkeypatch.setattr(owner, method, changed)
    monkeypatch.setattr(module, "_Carried", None)  # no other way
    with np.errstate(all="ignore"):
        try:
            found = measured(layer, trace, doutput, "l0", "da_t", R)
        except (TypeError, ValueError):
            return
    assert not np.allclose(found, right, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("_block", "self.scale[old:Q] = 0", "pass"),
        ("_block", "self.scale[: widths[0]] += ", ""),
        ("_block", "np.ldexp(norms, self.scale[:Q], out=norms)", "pass"),
        ("_block", "self._block(first + half", "self._block(first"),
        ("_block", "self._lost(rows[count, :Q], every, old)", "False"),
        ("_lost", "largest > LOST", "largest > 0"),
        ("_lost", "(largest < np.inf)", "True"),
    ],
)
def test_a_planted_mistake_in_the_scaling_of_one_sequence_is_seen(method, old, new, monkeypatch):
    monkeypatch.setattr(module._Alone, method, edited(getattr(module._Alone, method), old, new))
    worst = 0.0
    with np.errstate(all="ignore"):
        for problem in (
            *(lambda w=w, s=s: alone(w, s) for w in (1e-150, 1e-39, 1e-13, 1e13, 1e150) for s in (1e-200, 1e200)),
            *(lambda f=f, n=n: there_and_back(f, n, 1.0) for f in (2.0**-800, 2.0**-100) for n in (1, 2, 3, 7)),
            *(lambda n=n: there_and_back(2.0**-525, n, np.pi, 2) for n in (1, 2, 3, 7)),
        ):
            try:
                worst = max(worst, off(*problem()))
            except (AssertionError, IndexError, ValueError):
                return
    assert worst > 1e-9


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


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, PeepholeLSTM, GeneralLSTM])
def test_any_table_of_one_sequence_is_that_of_the_ordinary_pass(kind, seed, monkeypatch):
    """In blocks of eight, of three, and in one; gains to 100, losses from 1e-150 to 1e150, shorter sequences."""
    monkeypatch.setattr(module, "TOGETHER", [(8, 0), (3, 0), TOGETHER][seed % 3])
    rng = np.random.default_rng(seed)
    T, H = int(rng.integers(1, 50)), int(rng.integers(1, 9))
    layer = kind(2, H, rng=seed)
    for array in layer.params.values():
        array *= 10.0 ** rng.uniform(-3, 2)
    x = rng.normal(size=(T, 1, 2)) * 10.0 ** rng.uniform(-3, 1)
    output, _, trace = layer.forward(x, lengths=[int(rng.integers(1, T + 1))] if seed % 4 == 0 else None)
    doutput = (
        rng.normal(size=output.shape) * (rng.random((T, 1, 1)) < rng.uniform(0.1, 1)) * 10.0 ** rng.uniform(-150, 150)
    )
    fast, slow = decompose(layer, trace, doutput), decompose(layer, trace, doutput)
    slow._tables["l0"]._unitwise = False
    for name in ("weight_hh_l0", "weight_ih_l0", f"weight_hh_l0.{fast.gates[-1]}", "bias_ih_l0"):
        with np.errstate(over="ignore", invalid="ignore"):
            found, right = fast.norms(name), slow.norms(name)
        usual = (right > 1e-290) & (right < 1e290)
        np.testing.assert_allclose(found[usual], right[usual], rtol=1e-11, atol=0)
        assert not found[right == 0].max(initial=0) > 1e-290
