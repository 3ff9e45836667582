"""SnAp-1 and UORO: what they are exactly, where they are exact, and that UORO has no bias."""

import numpy as np
import pytest

import strategies
from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, Linear, PeepholeLSTM
from rnn_numpy.checks import rtrl
from rnn_numpy.engine.forward_mode import RecordedPass, UnitChanges
from rnn_numpy.engine.recorded import recorded_steps
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.lab import online, snap1, uoro
from tests.engine.test_forward_mode import EPS, Minimal, as_tuple, assert_close, problem

MASKED = {"bidirectional": True, "recurrent_dropout": 0.3, "zoneout": 0.2}
LOCAL = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (RNN, MASKED),
    (LSTM, {}),
    (LSTM, MASKED),
    (GRU, {}),
    (GRU, MASKED),
    (PeepholeLSTM, {}),
    (PeepholeLSTM, MASKED),
]
PRODUCTS = [
    (RNN, {}),
    (RNN, MASKED),
    (LSTM, {}),
    (LSTM, {"proj_size": 2, **MASKED}),
    (GRU, {}),
    (GRU, {"reset": "before", **MASKED}),
]


def recorded(kind, options, diagonal=False, hidden=4, steps=8):
    """Return a layer, with recurrent weights that are diagonal in each gate if asked, a trace, and gradients."""
    rng = np.random.default_rng(5)
    layer = kind(2, hidden, rng=1, **options)
    if diagonal:
        for name, array in layer.params.items():
            if name.startswith("weight_hh"):
                array *= np.tile(np.eye(hidden), (layer.cell.gates, 1))
    output, h_n, trace = layer.forward(rng.normal(size=(steps, 2, 2)), lengths=[steps - 2, steps])
    dh_n = strategies.single(tuple(rng.normal(size=state.shape) for state in as_tuple(h_n)))
    return layer, trace, rng.normal(size=output.shape), dh_n


# ---------------------------------------------------------------------------------------------- SnAp-1


def test_snap1_of_an_rnn_is_its_recursion():
    """p_t[i,j] = phi'(a_i) (W_ii p_{t-1}[i,j] + h_{t-1}[j]), and with x_j and 1 for the others: RTRL, J_t diagonal."""
    layer, trace, doutput, _ = recorded(RNN, {})
    W, run = layer.params["weight_hh_l0"], trace.layers["l0"]
    expected = {name: np.zeros(array.shape) for name, array in layer.params.items()}
    p = {name: np.zeros((2, *array.shape)) for name, array in layer.params.items()}
    for t, step in enumerate(run):
        exists = np.array([6, 8]) > t
        factor = (1 - step.h * step.h) * exists[:, None]
        acts = {"weight_ih_l0": step.x[:, None], "weight_hh_l0": step.h_prev[:, None], "bias_ih_l0": 1, "bias_hh_l0": 1}
        for name, array in p.items():
            of_unit = (slice(None), slice(None), *[None] * (array.ndim - 2))
            array[...] = (np.diag(W)[of_unit[1:]] * array + acts[name]) * factor[of_unit]
            expected[name] += (np.where(exists[:, None], doutput[t], 0)[of_unit] * array).sum(axis=0)
    found = snap1(layer, trace, doutput).grads
    for name, array in expected.items():
        assert_close(name, found[name], array, 4 * EPS)


@pytest.mark.parametrize(("kind", "options"), LOCAL, ids=str)
def test_snap1_is_rtrl_with_diagonal_jacobians(kind, options):
    """The recursion unit by unit, with Jacobians of the complex step, of which the rest is dropped."""
    layer, trace, doutput, dh_n = recorded(kind, options)
    found = snap1(layer, trace, doutput, dh_n)
    H = layer.hidden_size
    past = np.arange(8)[:, None] >= np.array([6, 8])
    doutput = np.where(past[:, :, None], 0, doutput)
    edge = RecordedPass("test", layer, trace)
    order = edge.batch.sort
    for row, (name, steps) in enumerate(recorded_steps(layer, trace).items()):
        jacobians, S = steps.jacobians(), len(steps.widths)
        blocks = jacobians.state.reshape(8, 2, S, H, S, H)
        blocks = np.einsum("tnaubu->tnuab", blocks)  # what a unit's states do to the same unit's
        enters = np.einsum("tnaubu->tnuab", jacobians.preactivation.reshape(8, 2, S, H, -1, H))
        slabs = {"weight_hh": steps.products("hidden"), "weight_ih": steps.products("input")}
        dfinals = [dfinal[row][order] for dfinal in as_tuple(dh_n)]
        for weight, products in slabs.items():
            for rows, columns, source in products:
                gates = range(columns.start // H, columns.stop // H)
                influence = np.zeros((2, len(gates), H, source.shape[2], S))
                gradient = np.zeros((len(gates), H, source.shape[2]))
                for t in steps.order():
                    b = np.stack([enters[t, :, :, :, gate] for gate in gates], axis=1)
                    carried = np.einsum("nuab,nkujb->nkuja", blocks[t], influence)
                    fresh = carried + b[:, :, :, None] * source[t][:, None, None, :, None]
                    influence = np.where(steps.alive[t][:, None, None, None, None], fresh, influence)
                    d = doutput[t][order][:, steps.direction.columns]
                    gradient += np.einsum("nu,nkuj->kuj", d, influence[..., 0])
                for state, dfinal in enumerate(dfinals):
                    gradient += np.einsum("nu,nkuj->kuj", dfinal, influence[..., state])
                ours = found.grads[f"{weight}_{name}"][rows]
                assert_close(weight, ours, gradient.reshape(ours.shape), 32 * EPS)


@pytest.mark.parametrize(("kind", "options"), LOCAL, ids=str)
def test_snap1_is_exact_where_units_do_not_see_one_another(kind, options):
    layer, trace, doutput, dh_n = recorded(kind, options, diagonal=True)
    back = layer.backward(trace, doutput, dh_n)
    found = snap1(layer, trace, doutput, dh_n)
    for name, expected in back.grads.items():
        assert_close(name, found.grads[name], expected, 16 * EPS)
    for name, array in found.initial.items():
        assert_close(name, array, getattr(back, name), 16 * EPS)


@pytest.mark.parametrize(("kind", "options"), LOCAL, ids=str)
def test_snap1_is_biased_otherwise(kind, options):
    layer, trace, doutput, dh_n = recorded(kind, options)
    exact, found = layer.backward(trace, doutput, dh_n).grads.flat, snap1(layer, trace, doutput, dh_n).grads.flat
    assert np.abs(found - exact).max() > 1e-3 * np.abs(exact).max()
    assert found @ exact > 0.5 * np.linalg.norm(found) * np.linalg.norm(exact)


def test_snap1_of_a_single_step_is_exact():
    layer = LSTM(2, 4, rng=0)
    output, _, trace = layer.forward(np.ones((1, 3, 2)))
    found = snap1(layer, trace, output)
    for name, expected in layer.backward(trace, output).grads.items():
        assert_close(name, found.grads[name], expected, 8 * EPS)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (RNN, {"num_layers": 2}, "snap1: layer must have one layer; got num_layers = 2"),
        (LSTM, {"proj_size": 2}, "snap1: in this LSTM a row of weights acts on other units within a step"),
        (GRU, {"reset": "before"}, "snap1: in this GRU a row of weights acts on other units within a step"),
        (LayerNormLSTM, {}, "snap1: in this LayerNormLSTM a row of weights acts on other units within a step"),
        (Minimal, {}, "snap1: in this Minimal a row of weights acts on other units within a step"),
    ],
    ids=str,
)
def test_snap1_needs_one_layer_and_units_of_their_own(kind, options, message):
    layer, trace, doutput, _ = recorded(kind, options)
    with pytest.raises(OptionError) as caught:
        snap1(layer, trace, doutput)
    assert str(caught.value).startswith(message)


def test_snap1_keeps_what_it_says():
    layer, trace, doutput, _ = recorded(LSTM, {})
    changes = UnitChanges(recorded_steps(layer, trace)["l0"])
    units = online._units(changes)
    assert units[changes.places["weight_hh"][0]].reshape(16, 4)[6].tolist() == [2] * 4  # gate f, unit 2
    assert units[changes.initial["c"]].tolist() == [0, 1, 2, 3]
    kept = {"l0": [units[:, None] == np.arange(4)] * 2}
    by_hand = rtrl(layer, trace, doutput, kept=kept)
    np.testing.assert_array_equal(snap1(layer, trace, doutput).grads.flat, by_hand.grads.flat)


# ---------------------------------------------------------------------------------------------- UORO


def deviations(layer, trace, doutput, dh_n, draws=10_000):
    """Return the deviations of the mean of many draws from the gradient, in standard errors; and the draws."""
    exact = layer.backward(trace, doutput, dh_n).grads.flat
    result = uoro(layer, trace, doutput, dh_n, draws=draws, rng=3)
    varies = result.standard_error > 0
    np.testing.assert_array_equal(result.grads.flat[~varies], exact[~varies])  # weights of units that are dropped: 0
    return ((result.grads.flat - exact)[varies] / result.standard_error[varies]), result.samples, exact


@pytest.mark.parametrize(("kind", "options"), PRODUCTS, ids=str)
def test_uoro_has_no_bias(kind, options):
    z, samples, exact = deviations(*recorded(kind, options))
    assert np.abs(z).max() < 4
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.6  # far from agreeing too well, too
    # A single draw says little: its direction is not that of the gradient.
    cosines = samples @ exact / np.linalg.norm(samples, axis=1) / np.linalg.norm(exact)
    assert 0.05 < cosines.mean() < 0.6


def test_the_factors_do_not_change_the_mean(monkeypatch):
    problem_ = recorded(RNN, {})
    spread = np.std(uoro(*problem_, draws=4000, rng=0).samples, axis=0)
    monkeypatch.setattr(online, "_balance", lambda one, other: np.full(one.shape, 3.0))
    z, samples, _ = deviations(*problem_)
    assert np.abs(z).max() < 4
    assert np.mean(np.std(samples, axis=0) / spread) > 1.2  # but the variance


class Ones(np.random.Generator):
    """Signs that are no coin."""

    def choice(self, values, size):
        return np.ones(size)


def test_a_bias_is_found():
    """Signs without mean 0; a gradient that is wrong by a tenth."""
    layer, trace, doutput, dh_n = recorded(RNN, {})
    exact = layer.backward(trace, doutput, dh_n).grads.flat
    result = uoro(layer, trace, doutput, dh_n, draws=2, rng=Ones(np.random.PCG64(0)))
    assert np.abs(result.grads.flat - exact).max() > 0.1 * np.abs(exact).max()
    z, samples, _ = deviations(layer, trace, doutput, dh_n)
    wrong = exact * 1.1
    assert np.abs((samples.mean(axis=0) - wrong) / (samples.std(axis=0) / np.sqrt(len(samples)))).max() > 4
    assert np.abs(z).max() < 4


def test_uoro_of_a_single_step():
    """With one step the estimate is nu (nu^T dF): its mean over all signs is the gradient, exactly."""
    layer = RNN(2, 1, rng=0)
    output, _, trace = layer.forward(np.ones((1, 1, 2)))
    found = uoro(layer, trace, output, draws=3, rng=0)
    exact = layer.backward(trace, output).grads
    for sample in found.samples:  # of one unit each draw is exact: nu^2 = 1
        assert_close("sample", sample, exact.flat, 4 * EPS)


def test_uoro_of_dead_units():
    """Norms of 0 are no division by 0: relu units that are all off have no gradient."""
    layer = RNN(2, 3, nonlinearity="relu", rng=0)
    layer.params["bias_ih_l0"][...] = -100
    output, _, trace = layer.forward(np.ones((5, 2, 2)))
    assert not uoro(layer, trace, np.ones_like(output), draws=4, rng=0).samples.any()


def test_results_and_seeds():
    layer, trace, doutput, dh_n = recorded(LSTM, {"bidirectional": True})
    result = uoro(layer, trace, doutput, dh_n, draws=5, rng=1)
    assert list(result.grads) == list(layer.params) and result.samples.shape == (5, layer.params.flat.size)
    np.testing.assert_array_equal(result.grads.flat, result.samples.mean(axis=0))
    np.testing.assert_array_equal(uoro(layer, trace, doutput, dh_n, draws=5, rng=1).samples, result.samples)
    assert np.any(uoro(layer, trace, doutput, dh_n, draws=5, rng=2).samples != result.samples)
    assert np.isnan(uoro(layer, trace, doutput, rng=0).standard_error).all()
    assert not uoro(layer, trace, None, rng=0).samples.any()


def test_uoro_messages():
    layer, trace, doutput, _ = recorded(PeepholeLSTM, {})
    with pytest.raises(OptionError, match="uoro: the gradients of all parameters must be products.* peephole_i, peep"):
        uoro(layer, trace, doutput)
    stack, stack_trace, stack_doutput, _ = recorded(RNN, {"num_layers": 2})
    with pytest.raises(OptionError, match="uoro: layer must have one layer; got num_layers = 2"):
        uoro(stack, stack_trace, stack_doutput)
    rnn, rnn_trace, rnn_doutput, _ = recorded(RNN, {})
    with pytest.raises(OptionError, match="uoro: draws must be at least 1; got 0"):
        uoro(rnn, rnn_trace, rnn_doutput, draws=0)
    with pytest.raises(ShapeError, match="uoro: doutput must have shape"):
        uoro(rnn, rnn_trace, rnn_doutput[1:])
    with pytest.raises(DTypeError, match="uoro: layer must be a recurrent layer"):
        uoro(Linear(2, 4), rnn_trace, rnn_doutput)
    twin = rnn.astype(np.complex128)
    with pytest.raises(DTypeError, match="uoro: layer must be real, float32 or float64; got complex128"):
        uoro(twin, twin.forward(np.ones((3, 1, 2), complex))[2], None)


def test_nothing_is_modified():
    layer, point, _ = problem(LSTM, {"bidirectional": True})
    output, _, trace = layer.forward(**point)
    layer.backward(trace, np.ones_like(output))
    before = {
        name: {k: a.copy() for k, a in {**run.arrays, **run.latest.arrays}.items()}
        for name, run in trace.layers.items()
    }
    params = layer.params.flat.copy()
    snap1(layer, trace, np.ones_like(output))
    uoro(layer, trace, np.ones_like(output), draws=2, rng=0)
    np.testing.assert_array_equal(layer.params.flat, params)
    for name, run in trace.layers.items():
        for key, array in {**run.arrays, **run.latest.arrays}.items():
            np.testing.assert_array_equal(array, before[name][key], err_msg=key)
