"""The page on a net's gradients: nets of which the answer is known, in numbers and in words."""

import json
import math

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Forecaster
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.lab import gate_report, gradient_flow
from rnn_numpy.lab.gates import OPEN, SHUT
from rnn_numpy.layers.initializers import initialize, set_forget_bias
from rnn_numpy.report import diagnose


def small(steps=60, sequences=4, width=2, scale=1e-6):
    """Inputs so small that tanh is a straight line."""
    return scale * np.random.default_rng(3).normal(size=(steps, sequences, width))


def orthogonal_rnn(gain, hidden=8, **options):
    rnn = RNN(2, hidden, bias=False, rng=0, **options)
    initialize(rnn, weight_hh="orthogonal", gain=gain, rng=1)
    return rnn


def said(page):
    return " ".join([*page.what, *page.why, *page.advice])


# ------------------------------------------------------------------------------------------------------ known answers


def test_an_orthogonal_net_is_steady():
    page = diagnose(orthogonal_rnn(1.0), small())
    assert page.verdict == "steady"
    assert page.top.growth == pytest.approx(0, abs=1e-9) and page.top.radius == pytest.approx(1)
    np.testing.assert_allclose(page.top.flow.typical, 1, rtol=1e-9)
    assert page.what == [
        "The gradient is steady: over 60 steps it neither vanishes nor explodes, its norm changes by a factor of 1."
    ]
    assert page.why == [] and page.advice == []
    assert "What to try" not in repr(page)


@pytest.mark.parametrize(("gain", "half_life"), [(0.5, 1.0), (2**-0.25, 4.0)])
def test_a_smaller_one_vanishes_with_its_half_life(gain, half_life):
    page = diagnose(orthogonal_rnn(gain), small())
    assert page.verdict == "vanishing"
    assert page.top.flow.half_life == pytest.approx(half_life, rel=1e-6)
    assert page.top.memory == pytest.approx(half_life / math.log(2), rel=1e-6)
    left = math.ceil(half_life * math.log2(100) - 1e-9)
    pace = "step" if half_life == 1 else f"{half_life:.3g} steps"
    assert page.what == [
        f"The gradient is vanishing: a step back multiplies it by {gain:.3g}, it halves every {pace}. A "
        f"hundredth is left after {left} of 60 steps; what lies further back is hardly learnt."
    ]
    assert page.why == [
        f"weight_hh has a spectral radius of {gain:.3g}, the slopes of the units a root mean square of 1: together "
        f"{gain:.3g}, so that each step shrinks a gradient."
    ]
    assert page.advice[0].startswith("Start with an orthogonal weight_hh")
    assert f"with a gain of 1 or a little more, up from {gain:.3g};" in page.advice[0]
    assert page.advice[1].startswith(f"Flossing (`floss`) pushes lambda_1, {math.log(gain):.3g} here, towards 0")


def test_a_larger_one_explodes():
    page = diagnose(orthogonal_rnn(1.2), small(scale=1e-9))
    assert page.verdict == "exploding"
    assert f"it doubles every {math.log(2) / math.log(1.2):.3g} steps" in page.what[0]
    assert page.what[0].endswith(f"; it grows {1.2**60:.0f}-fold until lag 60.")
    assert page.what[1:] == [  # a linear net, not a chaotic one
        "l0 is unstable: small differences of its states grow by a factor of 1.2 per step, and the states themselves "
        "by 1.2, without a bound in sight."
    ]
    assert page.why == [
        "weight_hh has a spectral radius of 1.2, the slopes of the units a root mean square of 1: together 1.2, so "
        "that each step stretches a gradient."
    ]
    assert page.advice[0] == "Make the gain of weight_hh smaller: with a radius of 1 it would be 1."
    assert page.advice[1].startswith("Clip the norm of the gradient") and "56348-fold until lag 60" in page.advice[1]
    assert page.top.memory is None


def test_saturated_units_are_named():
    rnn = orthogonal_rnn(1.0)
    page = diagnose(rnn, 40 * small(scale=1.0))
    assert page.verdict == "vanishing"
    expected = float(np.mean(np.abs(rnn(40 * small(scale=1.0))[0]) > 0.99))
    assert page.top.saturated == expected > 0.5
    assert page.why[0].startswith(f"{expected:.0%} of the states are saturated")
    assert page.advice[0].startswith("Make inputs, weight_ih, biases or the gain of weight_hh smaller")
    assert "orthogonal weight_hh" not in said(page) and "weight_hh has" not in said(page)


def test_relu_units_that_are_off_are_named():
    rnn = RNN(2, 8, nonlinearity="relu", rng=0)
    rnn.params["bias_ih_l0"][...] = -5.0
    rnn.params["bias_ih_l0"][0] = 5.0
    page = diagnose(rnn, small())
    assert page.top.off == page.top.dead == 7 / 8
    assert "relu is off in 88% of the states, and 88% of the units are off throughout" in page.why[0]
    rnn.params["bias_ih_l0"][...] = -5.0
    page = diagnose(rnn, small())
    assert page.verdict == "cut off" and page.top.growth == -math.inf and page.top.memory == 0
    assert page.what == [
        "The gradient flows, then is cut off: exactly 0 from lag 1 on, in 4 of 4 sequences. Nothing that lies further "
        "back is learnt."
    ]
    assert page.why[0] == (
        "In 4 of 4 sequences the gradient ends at step 59 in the median, 1 step back: in 4 of them the slopes of all "
        "units are exactly 0 there."
    )
    assert page.advice[0] == "Keep some units on at every step: raise the biases, or make weight_ih smaller."
    healthy = RNN(2, 8, nonlinearity="relu", rng=0)
    assert "relu is off" not in said(diagnose(healthy, small(scale=1.0)))


@pytest.mark.parametrize("bias", [0.0, 1.0, 5.0])
def test_memory_of_a_forget_bias(bias):
    """With weights of 0 the gate is sigmoid(b) throughout, and so is what is left of a gradient after a step."""
    lstm = LSTM(2, 6, rng=0)
    lstm.params.flat *= 1e-6
    set_forget_bias(lstm, bias)
    page = diagnose(lstm, small())
    f = 1 / (1 + math.exp(-bias))
    name, gate = page.top.keeping
    assert name == "f" and gate.mean == pytest.approx(f, rel=1e-6)
    np.testing.assert_allclose(gate.time_constants, -1 / math.log(f), rtol=1e-5)
    assert page.top.growth == pytest.approx(math.log(f), rel=1e-4)
    if bias == 5.0:
        assert page.verdict == "fading" and page.advice == []
        assert "a long memory, 149 steps in the median: as long as the 60 steps of the sequences" in page.why[0]
        assert "It is open, above 0.9, in 100% of all values." in page.why[0]
    else:
        assert page.verdict == "vanishing"
        assert f"Gate f keeps the share {f:.3g} at a step: a memory of" in page.why[0]
        assert page.advice[0].startswith("Open gate f with its bias: b = 4.1 gives a memory of 1 + e^b = 60 steps")
        assert "set_forget_bias" in page.advice[0]


def test_shut_gates_are_named():
    lstm = LSTM(2, 6, rng=0)
    set_forget_bias(lstm, -6.0)
    page = diagnose(lstm, small(scale=1.0))
    gate = page.top.gates["f"]
    assert gate.shut == 1 and gate.open == 0
    assert "It is shut, below 0.1, in 100% of all values, where it hardly learns." in page.why[0]


def test_gates_are_those_of_the_report():
    lstm, x = LSTM(2, 6, num_layers=2, rng=0), small(scale=1.0)
    page = diagnose(lstm, x)
    for layer in page.layers:
        report = gate_report(lstm.forward(x)[2][layer.name])
        assert list(layer.gates) == ["i", "f", "o"]
        for name, summary in layer.gates.items():
            assert (summary.mean, summary.shut, summary.open) == (
                report[name].mean,
                report[name].shut,
                report[name].open,
            )
        assert layer.keeping[1].time_constants.tolist() == report["f"].time_constants.tolist()


def test_gates_without_end():
    """A gate that is 1 in floats keeps for ever: no number, and no point on a log axis."""
    lstm = LSTM(2, 6, forget_bias=50.0, rng=0)
    page = diagnose(lstm, small(scale=1.0))
    assert np.isinf(page.top.gates["f"].median_time_constant)
    assert "a long memory, without end in the median" in page.why[0]
    assert page.to_dict()["layers"][0]["gates"]["f"]["median_time_constant"] is None
    assert np.isnan(page.figure().axes[1].lines[0].get_ydata()).all()


def test_gates_of_a_net_that_is_not_finite():
    lstm = LSTM(2, 6, rng=0)
    lstm.params["weight_hh_l0"][0, 0] = np.nan
    page = diagnose(lstm, small(scale=1.0))
    assert page.verdict == "diverged" and page.top.gates == {}
    repr(page)


def test_a_gru_keeps_by_z():
    page = diagnose(GRU(2, 6, rng=0), small(scale=1.0))
    assert set(page.top.gates) == {"r", "z"} and page.top.keeping[0] == "z"
    assert page.advice[0].startswith("Open gate z") and "set_forget_bias" not in page.advice[0]
    assert page.top.gates["r"].median_time_constant is None


def test_a_chaotic_net_is_called_so():
    rnn = RNN(2, 60, rng=0)
    initialize(rnn, weight_hh="orthogonal", gain=3.0, rng=1)
    page = diagnose(rnn, small(scale=0.1))
    assert page.top.chaotic and "l0 is chaotic" in said(page) and "while the states stay bounded" in said(page)
    assert page.verdict == "exploding" and not page.top.swells
    assert page.top.elsewhere == pytest.approx(page.top.growth, rel=0.3)


def relu_unit(weight):
    net = RNN(1, 1, nonlinearity="relu", rng=0)
    net.params.flat[:] = [1, weight, 0, 0]
    return net


def test_a_gradient_that_grew_and_was_cut_off_by_one_input():
    x = np.ones((60, 4, 1))
    x[10] = -1e9
    page = diagnose(relu_unit(1.3), x)
    assert page.verdict == "cut off" and page.top.flow.peak_at == 49
    assert page.what[0].startswith(
        "The gradient grows 3.8e5-fold until lag 49, then is cut off: exactly 0 from lag 50 on"
    )
    assert page.why == [
        "In 4 of 4 sequences the gradient ends at step 10 in the median, 50 steps back: in 4 of them the slopes of all "
        "units are exactly 0 there, and the largest input there is 7.75 times the root mean square of all."
    ]
    assert page.advice == ["Look at the input of step 10, and clip or standardise such inputs."]
    assert page.top.ending.input == pytest.approx(math.sqrt(60), rel=1e-6)
    assert "peak   lag" in repr(page) and " 3.8e5    49 " in repr(page)


def test_sequences_that_differ_are_said_to():
    x = np.ones((50, 4, 1))
    x[:, :2] = -100
    page = diagnose(relu_unit(1.3), x)
    assert page.verdict == "mixed"
    assert page.what == [
        "It differs between sequences: the gradient explodes in 2 and is cut off in 2 (exactly 0 from lag 1 on in the "
        "median) of 4 sequences."
    ]
    assert "weight_hh" not in said(page) and "relu is off in" not in said(page)
    assert "497929-fold until lag 50 in sequence 2" in page.advice[-1] or "5.0e5-fold until lag 50" in page.advice[-1]


def test_an_unstable_point_is_not_called_chaotic():
    """Two tanh units with W = 2 I at rest at 0: anything else leads to a point where differences die away."""
    net = RNN(1, 2, rng=0)
    net.params.flat[:] = 0
    net.params["weight_hh_l0"][...] = 2 * np.eye(2)
    page = diagnose(net, np.zeros((100, 2, 1)))
    assert page.top.growth == pytest.approx(math.log(2)) and page.top.elsewhere < -1
    assert not page.top.chaotic and page.verdict == "exploding"
    assert page.what[1].startswith(
        "l0 is unstable where these inputs keep it: small differences of its states grow by a "
    )


@pytest.mark.parametrize("still", [True, False])
def test_an_unbounded_linear_net_is_unstable_and_not_chaotic(still):
    """All relu units on: a linear net, whose states grow as their differences do."""
    net = RNN(2, 3, nonlinearity="relu", rng=0)
    net.params.flat[:] = 0
    net.params["weight_hh_l0"][...] = 1.4 * np.eye(3)
    net.params["bias_ih_l0"][...] = 1e-200 if still else 1.0
    page = diagnose(net, np.zeros((80, 3, 2)))
    assert (page.top.swells, page.top.swells_elsewhere, page.top.chaotic) == (not still, True, False)
    assert page.what[1].startswith("l0 is unstable: small differences of its states grow by a factor of 1.4 per step")
    assert ("from random initial states the states themselves grow by 1.4" in page.what[1]) == still


def test_layers_in_single_precision_are_measured_in_double():
    wide, x = LSTM(2, 6, rng=0), small(300, scale=1.0)
    page = diagnose(wide.astype(np.float32), x.astype(np.float32))
    assert "dtype=float32" in page.title
    assert page.top.flow.half_life == pytest.approx(diagnose(wide, x).top.flow.half_life, rel=1e-4)
    assert page.top.flow.norms[-1].max() < 1e-50
    model = Forecaster(2, 6, rng=0)
    narrow = diagnose(model.astype(np.float32), x.astype(np.float32), x.astype(np.float32))
    assert narrow.top.flow.norms[0] == pytest.approx(diagnose(model, x, x).top.flow.norms[0], rel=1e-4)
    with pytest.raises(DTypeError, match="target must have dtype float32"):
        diagnose(model.astype(np.float32), x.astype(np.float32), x)


def test_a_decay_of_two_paces_is_told_by_both():
    """Units that forget at two speeds: the fast ones go first, and half is gone long before the fitted half-life."""
    net = RNN(1, 8, rng=0)
    net.params.flat[:] = 0
    net.params["weight_hh_l0"][...] = np.diag([0.99] + [0.3] * 7)
    page = diagnose(net, np.zeros((200, 8, 1)))
    flow = page.top.flow
    assert page.verdict == "vanishing" and flow.half_life is None and flow.half_at <= 2
    assert "at no single pace: a step back multiplies it by" in page.what[0]
    assert "by 0.99 over their second half" in page.what[0]
    assert f"A half is left after {flow.half_at} step" in page.what[0]


def test_a_pace_that_weights_and_slopes_do_not_explain_is_not_known():
    """A nilpotent W_hh has no eigenvalues but 0, and still hands gradients on for some steps."""
    net = RNN(2, 8, rng=0)
    net.params["weight_hh_l0"][...] = np.eye(8, k=1) + 1e-3 * np.eye(8)
    page = diagnose(net, small(steps=10))
    assert page.why[0].startswith("Not known: weight_hh has a spectral radius of 0.001, ")
    assert "orthogonal" not in said(page)


def test_an_lstm_that_explodes_is_not_blamed_on_its_gate():
    lstm = LSTM(3, 30, rng=0)
    lstm.params["weight_hh_l0"][...] *= 20
    page = diagnose(lstm, np.random.default_rng(1).normal(size=(120, 6, 3)))
    assert page.verdict == "exploding" and page.top.chaotic and len(page.top.radii) == 4
    blocks = lstm.params["weight_hh_l0"].reshape(4, 30, 30)
    np.testing.assert_allclose(page.top.radii, np.abs(np.linalg.eigvals(blocks)).max(axis=1), rtol=1e-12)
    assert "what grows is on the paths through weight_hh, whose blocks have spectral radii of 11.4 to" in page.why[0]
    assert page.advice[0] == "Make the gain of weight_hh smaller."


@pytest.mark.parametrize("seed", range(6))
def test_what_is_said_follows_from_what_was_measured(seed):
    """Drawn nets: no reason is given against the numbers beside it."""
    rng = np.random.default_rng(seed)
    for kind in (
        lambda: RNN(2, 6, rng=rng),
        lambda: RNN(2, 6, nonlinearity="relu", rng=rng),
        lambda: GRU(2, 6, rng=rng),
    ):
        net = kind()
        net.params.flat *= rng.choice([0.5, 1.0, 3.0])
        page = diagnose(net, small(scale=float(rng.choice([1e-3, 1.0, 10.0]))))
        text, top = said(page), page.top
        if "shrinks a gradient" in text:
            assert top.radius * top.slope < 1 and page.verdict in ("vanishing", "fading")
        if "stretches a gradient" in text:
            assert top.radius * top.slope > 1 and page.verdict in ("exploding", "growing")
        if "orthogonal weight_hh" in text:
            assert top.radius < 1
        if "Clip the norm" in text:
            assert np.nanmax(top.flow.norms / top.flow.norms[0]) > 1
        if "chaotic" in text:
            assert any(layer.elsewhere > 0 for layer in page.layers)
        assert max(map(len, repr(page).splitlines())) <= 100


def test_a_net_that_only_fills_up_is_not_called_chaotic():
    """An open forget gate: differences grow a little, far below a factor of 10, while the cell still fills."""
    page = diagnose(LSTM(3, 16, forget_bias=5.0, rng=0), np.random.default_rng(0).normal(size=(100, 8, 3)))
    assert page.top.growth > 5 * page.top.growth_error > 0
    assert not page.top.chaotic and "chaotic" not in said(page) and page.verdict == "growing"


def test_a_net_that_diverges():
    rnn = RNN(2, 4, nonlinearity="relu", rng=0)
    rnn.params["weight_hh_l0"] = 1e200 * np.ones((4, 4))
    page = diagnose(rnn, small(scale=1.0))
    assert page.verdict == "diverged" and page.top.growth is None
    assert page.what == ["The net diverges: its gradient is not finite even at the loss."]
    assert page.advice[0].startswith("Start again with smaller weights")
    json.dumps(page.to_dict(), allow_nan=False)
    assert "diverged" in repr(page)


# ------------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_the_flow_is_that_of_gradient_flow(kind):
    net, x = kind(2, 6, num_layers=2, rng=0), small(scale=1.0)
    page = diagnose(net, x, rng=4)
    normals = np.random.default_rng(4).standard_normal((4, 6))
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(page.top.flow.norms, gradient_flow(net, x, unit).norms, rtol=1e-13)


def test_windows_that_overlap_are_worth_fewer():
    net, series = RNN(2, 6, rng=0), np.random.default_rng(0).normal(size=(80, 2))
    x = np.stack([series[start : start + 40] for start in range(0, 41, 4)], axis=1)
    plain, worth = diagnose(net, x).top.flow, diagnose(net, x, independent=2).top.flow
    assert (plain.independent, worth.independent) == (11, 2)
    assert worth.standard_error == pytest.approx(plain.standard_error * math.sqrt(10), rel=1e-9)
    assert diagnose(net, x, independent=99).top.flow.independent == 11
    with pytest.raises(OptionError, match="diagnose: independent must be greater than 0; got 0"):
        diagnose(net, x, independent=0)


def test_the_flow_of_a_lower_layer():
    net, x = RNN(2, 5, num_layers=2, rng=0), small(scale=1.0)
    page = diagnose(net, x, rng=4)
    normals = np.random.default_rng(4).standard_normal((4, 5))
    output, _, trace = net.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    net.backward(trace, doutput)
    for layer in page.layers:
        expected = np.linalg.norm(trace.layers[layer.name].dh[::-1], axis=-1)
        np.testing.assert_allclose(layer.flow.norms, expected, rtol=1e-12)


def test_a_forecaster_and_its_error():
    model = Forecaster(2, 6, cell="lstm", rng=0)
    x = small(scale=1.0)
    target = np.random.default_rng(0).normal(size=x.shape)
    page = diagnose(model, x, target)
    _, _, trace = model.rnn.forward(x)
    prediction = model.readout(trace.h[-1])
    dh = 2 / 2 * (prediction - target[-1]) @ model.readout.params["weight"]
    np.testing.assert_allclose(page.top.flow.norms[0], np.linalg.norm(dh, axis=1), rtol=1e-12)
    assert page.source == "the gradient of the squared error there"
    assert page.title.startswith("Forecaster with LSTM(2, 6")
    assert diagnose(model, x).source.startswith("a random vector")


def test_thresholds_are_those_of_the_table():
    page = diagnose(LSTM(2, 6, rng=0), 5 * small(scale=1.0))
    f = LSTM(2, 6, rng=0).forward(5 * small(scale=1.0))[2].f
    gate = page.top.gates["f"]
    assert (gate.shut, gate.open) == (float(np.mean(f < SHUT)), float(np.mean(f > OPEN)))
    assert 0 < gate.shut < 1 and 0 < gate.open < 1
    # What is left after T steps is the product of the gates: their geometric mean counts, not the arithmetic one.
    np.testing.assert_allclose(np.exp(-1 / gate.time_constants), np.prod(f ** (1 / f[..., 0].size), axis=(0, 1)))


# ------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    "net",
    [
        LSTM(2, 6, num_layers=3, dropout=0.1, recurrent_dropout=0.1, zoneout=0.1, forget_bias=1.0, rng=0),
        RNN(2, 6, rng=0),
        RNN(2, 6, nonlinearity="relu", rng=0),
        GRU(2, 6, batch_first=True, rng=0),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_page_fits(net, scale):
    x = small(scale=scale)
    page = diagnose(net, x.swapaxes(0, 1) if net.batch_first else x)
    assert max(map(len, repr(page).splitlines())) <= 100
    assert page.length == 60 and page.count == 4 and len(page.layers) == net.num_layers
    told = json.loads(json.dumps(page.to_dict(), allow_nan=False))
    assert told["verdict"] == page.verdict and told["layers"][0]["layer"] == "l0"
    assert told["what"] == page.what


def test_figure(tmp_path):
    page = diagnose(LSTM(2, 6, num_layers=2, rng=0), small(scale=1.0))
    figure = page.figure()
    flow, gates = figure.axes
    assert [line.get_label() for line in flow.lines] == ["l0: vanishing", "l1: vanishing"]
    np.testing.assert_allclose(flow.lines[1].get_ydata(), page.top.flow.typical)
    np.testing.assert_allclose(gates.lines[1].get_ydata(), np.sort(page.top.keeping[1].time_constants))
    figure.savefig(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert len(diagnose(RNN(2, 6, rng=0), small()).figure().axes) == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: diagnose("net", small()),
            DTypeError,
            "model must be a recurrent layer, RNN, LSTM, GRU, or a Forecaster",
        ),
        (lambda: diagnose(RNN(2, 3, bidirectional=True), small()), OptionError, "model must have one direction"),
        (lambda: diagnose(RNN(2, 3), small(), small()), OptionError, "target is for a Forecaster; RNN has no loss"),
        (lambda: diagnose(RNN(2, 3), small(1)), ShapeError, "three axes and at least two steps"),
        (lambda: diagnose(RNN(2, 3), small()[:, 0]), ShapeError, "three axes and at least two steps"),
        (
            lambda: diagnose(Forecaster(2, 3, rng=0), small(), np.zeros((60, 4, 3))),
            ShapeError,
            r"target must have shape \(T, N, outputs\) = \(60, 4, 2\); got \(60, 4, 3\)",
        ),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
