"""Real-time recurrent learning and the adjoint identity: two proofs of backward, and the mistakes that they find."""

import dataclasses
import functools
import inspect

import numpy as np
import pytest
from hypothesis import given

import strategies
from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM, pack_padded_sequence
from rnn_numpy.checks import adjoint_error, adjoint_errors, rtrl
from rnn_numpy.engine import influence as influence_module
from rnn_numpy.engine import parts
from rnn_numpy.engine.forward_mode import RecordedPass, UnitChanges
from rnn_numpy.engine.influence import _Influence, _schedule, rtrl_by_rows
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers import Linear, rnn
from tests.engine.test_forward_mode import EACH_LAYER, EPS, EVERYTHING, Minimal, Mixed, as_tuple, assert_close, problem


def recorded(kind, options, lengths=(4, 7, 2)):
    """Return a layer, a trace of it, and gradients of its output and of its final states."""
    layer, point, _ = problem(kind, options, lengths)
    output, h_n, trace = layer.forward(**point)
    rng = np.random.default_rng(6)
    dh_n = strategies.single(tuple(rng.normal(size=state.shape) for state in as_tuple(h_n)))
    return layer, trace, rng.normal(size=output.shape), dh_n


def assert_same_gradients(layer, found, back, rtol):
    assert list(found.grads) == list(layer.params)
    for name, expected in back.grads.items():
        assert_close(name, found.grads[name], expected, rtol)
    assert list(found.initial) == [f"d{state}_0" for state in layer.cell.states]
    for name, array in found.initial.items():
        assert_close(name, array, getattr(back, name), rtol)


# ---------------------------------------------------------------------------------------------- RTRL


@EACH_LAYER
def test_rtrl_is_bptt(kind, options):
    layer, trace, doutput, dh_n = recorded(kind, options)
    # Layer normalisation subtracts means: a digit cancels.
    rtol = (32 if kind is LayerNormLSTM else 8) * EPS
    found = rtrl(layer, trace, doutput, dh_n)
    assert_same_gradients(layer, found, layer.backward(trace, doutput, dh_n), rtol)
    assert_same_gradients(layer, rtrl(layer, trace, doutput), layer.backward(trace, doutput), rtol)
    assert_same_gradients(layer, rtrl(layer, trace, None, dh_n), layer.backward(trace, None, dh_n), rtol)


@given(strategies.setups())
def test_rtrl_with_any_axes_lengths_and_masks(setup):
    layer, trace = setup.layer, setup.forward()[2]
    found = rtrl(layer, trace, setup.doutput, strategies.single(setup.dstates))
    back = setup.backward(trace)
    # Tensors of a single entry are drawn, too, and such a sum may happen to cancel.
    assert_same_gradients(layer, found, back, 1e-10)


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, PeepholeLSTM])
def test_three_layers(kind):
    layer, trace, doutput, dh_n = recorded(kind, {"num_layers": 3, "dropout": 0.4})
    assert_same_gradients(layer, rtrl(layer, trace, doutput, dh_n), layer.backward(trace, doutput, dh_n), 16 * EPS)


def test_no_line_of_a_backward_pass_is_run(monkeypatch):
    layer, trace, doutput, dh_n = recorded(LSTM, EVERYTHING)
    back = layer.backward(trace, doutput, dh_n)

    def forbidden(formula):
        @functools.wraps(formula)
        def called(*arguments):
            raise AssertionError("a backward formula was called")

        return called

    for name in ("drop_backward", "zone_backward_new", "zone_backward_prev"):
        monkeypatch.setattr(parts, name, forbidden(getattr(parts, name)))
    for field in ("step_backward", "step_partials"):
        cell = dataclasses.replace(layer.cell, **{field: forbidden(getattr(layer.cell, field))})
        monkeypatch.setattr(layer, "cell", cell)
    with pytest.raises(AssertionError, match="a backward formula was called"):
        layer.backward(trace, doutput, dh_n)
    assert_same_gradients(layer, rtrl(layer, trace, doutput, dh_n), back, 8 * EPS)


def test_a_stack_of_one_direction_goes_through_time_once():
    """All layers take step t before any takes step t+1, and no influence on an output outlives its step."""
    layer, trace, doutput, _ = recorded(GRU, {"num_layers": 3})
    edge = RecordedPass("test", layer, trace)
    for (source,), first in zip(layer.stack, range(3), strict=True):
        visits = [(t, direction.layer) for direction, t in _schedule(edge, source)]
        assert visits == [(t, k) for t in range(7) for k in range(first, 3)]
        influence = _Influence(edge, source, UnitChanges(edge.steps[source.name], slice(0, 40)), {})
        for direction, t in _schedule(edge, source):
            influence.advance(direction, t, doutput)
            assert len(influence.signals) <= 1


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_the_size_of_the_parts_does_not_matter(kind, monkeypatch):
    layer, trace, doutput, dh_n = recorded(kind, {"num_layers": 2, "bidirectional": True})
    expected = rtrl(layer, trace, doutput, dh_n)
    for size in (1, 2000, 7000):
        monkeypatch.setattr(influence_module, "PART_BYTES", size)
        found = rtrl(layer, trace, doutput, dh_n)
        for one, other in zip(
            (found.grads.flat, *found.initial.values()), (expected.grads.flat, *expected.initial.values()), strict=True
        ):
            assert np.abs(one - other).max() <= 8 * EPS * np.abs(other).max()


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, PeepholeLSTM, LayerNormLSTM, functools.partial(LSTM, proj_size=3)])
def test_slopes_along_rows(kind):
    layer, trace, doutput, dh_n = recorded(kind, {"num_layers": 2, "bidirectional": True})
    rng = np.random.default_rng(0)
    along = {name: rng.normal(size=array.shape) for name, array in layer.params.items() if array.ndim == 2}
    found = rtrl_by_rows(layer, trace, doutput, dh_n, along)
    grads = layer.backward(trace, doutput, dh_n).grads
    assert set(found) == set(grads)
    for name, gradient in grads.items():
        expected = (along[name] * gradient).sum(axis=1) if name in along else gradient
        assert np.abs(found[name] - expected).max() < 32 * EPS * np.abs(expected).max(), name


def test_a_wrong_backward_is_found():
    layer, trace, doutput, _ = recorded(RNN, {})

    def forgetful(dh_t, W_hh, da_t, dh_in):
        da_t *= dh_t
        dh_in += (1 + 1e-9) * da_t.dot(W_hh)

    right = layer.backward(trace, doutput)
    layer.cell = dataclasses.replace(layer.cell, step_backward=forgetful)
    wrong = layer.backward(trace, doutput)
    assert_same_gradients(layer, rtrl(layer, trace, doutput), right, 8 * EPS)
    with pytest.raises(AssertionError):
        assert_same_gradients(layer, rtrl(layer, trace, doutput), wrong, 1e-12)


def test_packed_sequences():
    layer, point, _ = problem(LSTM, {"num_layers": 2})
    packed = pack_padded_sequence(point["x"], np.array(point["lengths"]), enforce_sorted=False)
    output, _, trace = layer.forward(packed, point["h_0"])
    doutput = output._replace(data=np.random.default_rng(0).normal(size=output.data.shape))
    assert_same_gradients(layer, rtrl(layer, trace, doutput), layer.backward(trace, doutput), 8 * EPS)
    assert adjoint_error(layer, trace) < 4 * EPS


def test_single_precision_and_no_sequences():
    layer, trace, doutput, _ = recorded(LSTM, {"num_layers": 2})
    x, states = trace.layers["l0"].x.astype(np.float32), None
    single = layer.astype(np.float32)
    single_trace = single.forward(x, states)[2]
    found = rtrl(single, single_trace, doutput.astype(np.float32))
    assert found.grads.dtype == np.float32
    assert_same_gradients(single, found, single.backward(single_trace, doutput.astype(np.float32)), 1e-5)
    empty = layer.forward(np.zeros((4, 0, 3)))[2]
    assert not rtrl(layer, empty, np.zeros((4, 0, 5))).grads.flat.any()


def test_what_is_kept():
    layer, trace, doutput, dh_n = recorded(RNN, {"bidirectional": True})
    exact = layer.backward(trace, doutput, dh_n)
    counts = {name: UnitChanges(steps).count for name, steps in RecordedPass("", layer, trace).steps.items()}
    everything = {name: [np.ones((count, 5), bool)] for name, count in counts.items()}
    assert_same_gradients(layer, rtrl(layer, trace, doutput, dh_n, kept=everything), exact, 8 * EPS)
    # With nothing kept, what a parameter does within a step is lost as well.
    nothing = {name: [np.zeros((count, 5), bool)] for name, count in counts.items()}
    assert not rtrl(layer, trace, doutput, dh_n, kept=nothing).grads.flat.any()


@pytest.mark.parametrize(
    ("options", "kept", "error", "message"),
    [
        ({"num_layers": 2}, {}, OptionError, "rtrl: kept needs a single layer and an entry for each of l0, l1; got 2"),
        ({}, {}, OptionError, "rtrl: kept needs a single layer and an entry for each of l0; got 1 layers and entries"),
        ({}, {"l0": []}, OptionError, "rtrl: kept['l0'] must have 1 arrays, one for each state"),
        ({}, {"l0": [np.ones((2, 5))]}, ShapeError, "rtrl: kept['l0'] must have shape (K, H) = (55, 5); got (2, 5)"),
    ],
)
def test_messages_about_what_is_kept(options, kept, error, message):
    layer, trace, doutput, _ = recorded(RNN, options)
    with pytest.raises(error) as caught:
        rtrl(layer, trace, doutput, kept=kept)
    assert str(caught.value).startswith(message)


def test_messages():
    layer, trace, doutput, _ = recorded(LSTM, {})
    with pytest.raises(ShapeError, match=r"rtrl: doutput must have shape .* = \(7, 3, 5\); got \(6, 3, 5\)"):
        rtrl(layer, trace, doutput[1:])
    with pytest.raises(DTypeError, match="rtrl: dh_n must be a tuple of 2 arrays"):
        rtrl(layer, trace, doutput, np.zeros((1, 3, 5)))
    with pytest.raises(DTypeError, match="rtrl: layer must be a recurrent layer"):
        rtrl(Linear(3, 5), trace, doutput)
    mixed, mixed_trace, mixed_doutput, _ = recorded(Mixed, {})
    with pytest.raises(OptionError, match="mix, M in the formulas, must be a vector"):
        rtrl(mixed, mixed_trace, mixed_doutput)
    without, without_trace, _, _ = recorded(Minimal, {})
    without.cell = dataclasses.replace(without.cell, step_tangent=None)
    with pytest.raises(OptionError, match="rtrl: Minimal has no formula for forward mode"):
        rtrl(without, without_trace, doutput)


# ---------------------------------------------------------------------------------------------- the adjoint identity


@EACH_LAYER
def test_the_adjoint_identity(kind, options):
    layer, trace, _, _ = recorded(kind, options)
    assert adjoint_error(layer, trace, seed=1, directions=10) < 4 * EPS
    errors = adjoint_errors(layer, trace)
    assert list(errors) == ["x", *(f"{state}_0" for state in layer.cell.states), *layer.params]
    assert max(errors.values()) < 4 * EPS


@given(strategies.setups())
def test_the_adjoint_identity_with_any_axes_lengths_and_masks(setup):
    # Of a net of one unit and one step J v is a single number, a sum that may happen to cancel.
    assert adjoint_error(setup.layer, setup.forward()[2]) < 1e-11


@pytest.mark.parametrize(("kind", "options"), [(RNN, {}), (LSTM, {}), (GRU, {}), (GRU, {"reset": "before"})], ids=str)
def test_chaos_does_no_harm(kind, options):
    """Weights of gain 3 over 200 steps: a rounding error at the first step changes the last ones altogether."""
    rng = np.random.default_rng(0)
    layer = kind(3, 64, rng=1, **options)
    layer.params["weight_hh_l0"] = 3 * rng.normal(size=layer.params["weight_hh_l0"].shape) / np.sqrt(64)
    x = 0.1 * rng.normal(size=(200, 2, 3))
    output, _, trace = layer.forward(x)
    if kind is RNN:
        moved = x.copy()
        moved[0] *= 1 + EPS
        assert np.abs(layer(moved)[0] - output)[-1].max() > 0.1
    assert adjoint_error(layer, trace) < 3e-15
    assert max(adjoint_errors(layer, trace).values()) < 3e-15


# A line of backward, and the tensors whose identity breaks.
MISTAKES = {
    "recurrence": ("dh_in += da_t.dot(W_hh)", "dh_in += 1.001 * da_t.dot(W_hh)"),
    "factor": ("da_t *= dh_t", "da_t *= 1.001 * dh_t"),
    "state": ("dh_in += da_t.dot(W_hh)", "dh_in += da_t.dot(W_hh.T)"),
}


@pytest.mark.parametrize("old_new", MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_formula_breaks_the_identity(old_new):
    layer, trace, _, _ = recorded(RNN, {"num_layers": 2})
    source, space = inspect.getsource(rnn.rnn_step_backward), dict(vars(rnn))
    assert source.count(old_new[0]) == 1
    exec(source.replace(*old_new), space)
    layer.cell = dataclasses.replace(layer.cell, step_backward=space["rnn_step_backward"])
    assert adjoint_error(layer, trace) > 1e-6
    assert min(adjoint_errors(layer, trace).values()) > 1e-7


def test_one_wrong_entry_is_seen_and_named(monkeypatch):
    layer, trace, _, _ = recorded(LSTM, {})
    close = layer.close_backward

    def wrong(run):
        dx = close(run)
        run.sums["weight_hh"][3, 2] *= 1 + 1e-8
        return dx

    monkeypatch.setattr(layer, "close_backward", wrong)
    assert adjoint_error(layer, trace) > 1e-13
    errors = adjoint_errors(layer, trace)
    assert errors.pop("weight_hh_l0") > 1e-13
    assert max(errors.values()) < 4 * EPS


def test_a_gradient_where_nothing_changes_is_an_infinite_error(monkeypatch):
    layer, trace, _, _ = recorded(RNN, {})
    trace.layers["l0"].weights["W_ih"][...] = 0
    assert adjoint_error(layer, trace, names=["x"]) == 0  # x has no influence, and no gradient
    close = layer.close_backward
    monkeypatch.setattr(layer, "close_backward", lambda run: close(run) + 1e-300)
    assert adjoint_error(layer, trace, names=["x"]) == np.inf


def test_the_trace_keeps_its_gradients():
    layer, trace, doutput, dh_n = recorded(LSTM, EVERYTHING)
    assert "dh" not in trace.top.names
    adjoint_error(layer, trace)
    assert "dh" not in trace.top.names
    layer.backward(trace, doutput, dh_n)
    latest = {name: (run.latest, run.dh.copy()) for name, run in trace.layers.items()}
    adjoint_errors(layer, trace, directions=1)
    for name, run in trace.layers.items():
        assert run.latest is latest[name][0]
        np.testing.assert_array_equal(run.dh, latest[name][1])


def test_seeds_and_names():
    layer, trace, _, _ = recorded(LSTM, EVERYTHING)
    assert adjoint_error(layer, trace, seed=4) == adjoint_error(layer, trace, seed=4)
    single = [adjoint_error(layer, trace, seed=4, directions=k) for k in (1, 2, 3)]
    assert single == sorted(single)
    with pytest.raises(OptionError, match=r"adjoint_error: names must be among \['x', 'h_0', 'c_0', 'weight_ih_l0'"):
        adjoint_error(layer, trace, names=["h"])
    with pytest.raises(OptionError, match="got none"):
        adjoint_error(layer, trace, names=[])
    with pytest.raises(OptionError, match="adjoint_error: directions must be at least 1; got 0"):
        adjoint_error(layer, trace, directions=0)
    with pytest.raises(DTypeError, match="adjoint_errors: layer must be a recurrent layer"):
        adjoint_errors(Linear(3, 5), trace)
