"""Cells with free activations say their equations with the functions that they have, and these hold."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_numpy import debug
from rnn_numpy.debug.explain import rows_of
from rnn_numpy.debug.rows import checkable, targets
from rnn_numpy.layers.general import FUNCTIONS, TEXTS, Activation, GeneralGRU, GeneralLSTM, GeneralRNN
from tests.debug.networks import LENGTHS, N, T

COEFFICIENTS = {
    "affine": (0.7, -0.1),
    "scaledtanh": (1.3, 0.6),
    "thresholdedrelu": (0.2, None),
    "leakyrelu": (-0.3, None),
}


UNBOUNDED = {"affine", "relu", "leakyrelu", "thresholdedrelu", "softplus", "elu"}


def activation(name, clip=None):
    return Activation(name, *COEFFICIENTS.get(name, (None, None)), clip=clip)


def layers_of(name, clip=None, **options):
    """Return every kind of layer with one function everywhere, or at the places where it is not a gate's."""
    one = activation(name, clip)
    return {
        "rnn": GeneralRNN(2, 4, activations=[one], rng=0, **options),
        "lstm": GeneralLSTM(2, 4, activations=[one] * 3, rng=0, **options),
        "peepholes": GeneralLSTM(2, 4, activations=[one] * 3, peepholes=True, rng=0, **options),
        "coupled": GeneralLSTM(2, 4, activations=[one] * 3, coupled=True, peepholes=True, rng=0, **options),
        "gru after": GeneralGRU(2, 4, activations=[one] * 2, rng=0, **options),
        "gru before": GeneralGRU(2, 4, activations=[one] * 2, reset="before", rng=0, **options),
    }


def ready(layer, lengths="all", dtype=np.float64, gain=1.0):
    layer = layer.astype(dtype)
    layer.params.flat[:] *= gain
    rng = np.random.default_rng(1)
    output, _, trace = layer.forward(rng.normal(size=(T, N, 2)).astype(dtype), lengths=LENGTHS[lengths])
    return layer, trace, rng.normal(size=output.shape).astype(dtype)


def test_every_function_has_its_texts():
    assert list(TEXTS) == list(FUNCTIONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_equation_holds(name, clip, dtype):
    for lengths in LENGTHS:
        for kind, layer in layers_of(name, clip).items():
            # What knows no bounds would leave the range of floats.
            gain = 0.7 if clip is None and name in UNBOUNDED else 2.0
            stop = debug.Stepper(*ready(layer, lengths, dtype, gain)).run(debug.violated(2))
            assert stop is None, (kind, stop)


OPTIONS = [
    {"recurrent_dropout": 0.3, "zoneout": 0.2},
    {"bidirectional": True, "num_layers": 2, "dropout": 0.3},
    {"bias": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["hardsigmoid", "softsign", "sigmoid"])
def test_with_all_that_can_be_around_a_cell(name, options):
    for kind, layer in layers_of(name, **options).items():
        stop = debug.Stepper(*ready(layer, "out of order")).run(debug.violated(2))
        assert stop is None, (kind, stop)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softsign", "hardsigmoid", "scaledtanh"])
def test_where_functions_are_flat_nothing_right_is_called_wrong(name):
    for kind, layer in layers_of(name).items():
        stop = debug.Stepper(*ready(layer, gain=100.0)).run(debug.violated(8))
        assert stop is None, (kind, stop)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_texts_are_the_functions_at_kinks_and_far_out(name, clip):
    """An RNN without recurrence whose pre-activations are what is wanted."""
    one = activation(name, clip)
    u = np.array([0.0, 0.5, -0.5, 0.2, -2.5, 2.5, -0.0, 1.0, -1.0, 30.0, -30.0, 600.0, -600.0, 1e-300])
    if name == "affine":
        u = u[:-1]
    layer = GeneralRNN(1, 1, bias=False, activations=[one], rng=0)
    layer.params["weight_ih_l0"][...] = 1
    layer.params["weight_hh_l0"][...] = 0
    output, _, trace = layer.forward(u.reshape(-1, 1, 1))
    assert debug.Stepper(layer, trace, np.ones_like(output)).run(debug.violated(2)) is None


@pytest.mark.parametrize("kind", layers_of("tanh"))
def test_all_of_a_step_is_said_and_checked(kind):
    layer, trace, doutput = ready(layers_of("hardsigmoid")[kind])
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.next(2)
    recorded = stepper.step.recorded
    cell, said = recorded.chain.cell, set(targets(recorded))
    assert said - set(checkable(rows_of(stepper.step))) == set()
    wrote = {*cell.forward_names, *cell.gradient_names, *recorded.states, *(f"d{s}_prev" for s in recorded.states)}
    assert wrote - {"a", "da"} <= said


@pytest.mark.parametrize("kind", layers_of("tanh"))
def test_a_wrong_slope_is_found(kind, monkeypatch):
    """Slopes are off by a millionth in the layer: the first line that has one is named."""
    layer, trace, doutput = ready(layers_of("tanh")[kind])
    value, slope, *defaults = FUNCTIONS["tanh"]
    monkeypatch.setitem(FUNCTIONS, "tanh", (value, lambda u, a, b: slope(u, a, b) * (1 + 1e-6), *defaults))
    stop = debug.Stepper(layer, trace, doutput).run("violated()")
    assert stop is not None and "sech" in stop.evidence


def test_it_is_explained_with_the_numbers_of_the_layer():
    hard = Activation("HardSigmoid", 0.25, 0.5)
    lstm = GeneralLSTM(2, 3, activations=[hard, "tanh", Activation("LeakyRelu", 0.1)], coupled=True, rng=0)
    lstm, trace, doutput = ready(lstm)
    lstm.backward(trace, doutput)
    assert debug.explain(trace[4], "i", 1, 2).splitlines()[1] == "i = clip(0.25 * u_i + 0.5, 0, 1)"
    assert debug.explain(trace[4], "f").splitlines()[1] == "f = 1 - i"
    said = debug.explain(trace[4], "da_i").splitlines()
    assert said[1] == "da_i = (dc * g - dc * c_prev) * where(0 < 0.25 * u_i + 0.5 < 1, 0.25, 0)"
    assert said[3].endswith(" ulp")
    assert debug.explain(trace[4], "da_f").splitlines()[1:] == ["da_f = 0", "     = 0", "     = 0   recorded 0, 0 ulp"]
    assert "where(c > 0, 1, 0.1)" in debug.explain(trace[4], "dc")
