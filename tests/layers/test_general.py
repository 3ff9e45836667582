"""Layers with any activations: the suite that all layers pass, the usual ones as a case of these, planted mistakes."""

import numpy as np
import pytest
from planting import edited, planted

from rnn_numpy import GRU, LSTM, RNN, PeepholeLSTM
from rnn_numpy.checks import Case, assert_grad_close, complex_step, conformance_checks, gradcheck
from rnn_numpy.checks.conformance import ENTRY_BY_ENTRY, conformance_id
from rnn_numpy.engine.parts import argument_names
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers import general
from rnn_numpy.layers.general import FUNCTIONS, Activation, GeneralGRU, GeneralLSTM, GeneralRNN
from rnn_numpy.layers.layer_norm import Bound

T, N, D, H = 6, 2, 3, 4
KINDS = [
    (GeneralRNN, {"activations": ("softsign",)}),
    (
        GeneralLSTM,
        {"peepholes": True, "activations": (Activation("sigmoid", clip=3.0), "softplus", "softsign")},
    ),
    (GeneralLSTM, {"coupled": True}),
    (GeneralGRU, {"activations": ("hardsigmoid", "softsign")}),
    (GeneralGRU, {"reset": "before", "activations": ("sigmoid", Activation("ScaledTanh", 1.2, 0.8))}),
]
# Entry by entry without further options alone, which are the driver's.
OMITTED = dict.fromkeys((check.__name__ for check in ENTRY_BY_ENTRY), "differentiated entry by entry in other cases")
MORE = {"bias": False, "recurrent_dropout": 0.3, "zoneout": 0.2}
CASES = [Case(kind, options) for kind, options in KINDS]
CASES += [Case(kind, {**options, **MORE}, OMITTED) for kind, options in KINDS[1:2]]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("case", "check"), conformance_checks(CASES), ids=conformance_id)
def test_conformance(case, check):
    check(case)


def twins():
    two = {"num_layers": 2, "bidirectional": True}
    return [
        (RNN(D, H, rng=0, **two), GeneralRNN(D, H, **two)),
        (RNN(D, H, nonlinearity="relu", rng=0, **two), GeneralRNN(D, H, activations=["relu"], **two)),
        (LSTM(D, H, rng=0, **two), GeneralLSTM(D, H, **two)),
        (PeepholeLSTM(D, H, rng=0, **two), GeneralLSTM(D, H, peepholes=True, **two)),
        (GRU(D, H, rng=0, **two), GeneralGRU(D, H, **two)),
        (GRU(D, H, reset="before", rng=0, **two), GeneralGRU(D, H, reset="before", **two)),
    ]


@pytest.mark.parametrize("row", range(6))
def test_with_the_usual_activations_they_are_the_usual_layers(row):
    usual, general_one = twins()[row]
    general_one.load_state_dict(usual.state_dict())
    rng = np.random.default_rng(1)
    x = rng.normal(size=(T, N, D))
    results = []
    for layer in (usual, general_one):
        output, _, trace = layer.forward(x, lengths=[6, 4])
        back = layer.backward(trace, np.sin(np.arange(output.size)).reshape(output.shape))
        results.append((output, back.dx, back.grads.flat))
    for name, ours, reference in zip(("output", "dx", "grads"), *reversed(results), strict=True):
        assert_grad_close(name, ours, reference, 1e-12)


@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes(name, clip):
    alpha, beta = (None if default is None else 0.35 + place for place, default in enumerate(FUNCTIONS[name][2:]))
    function = Activation(name, alpha, beta, clip)
    u = np.array([-60.0, -3.1, -1.3, -0.9, -0.51, -1e-9, 1e-9, 0.2, 0.4, 0.7, 1.3, 4.2, 60.0])
    reference = complex_step(lambda arrays: function(arrays["u"]).sum(), {"u": u})["u"]
    assert_grad_close(name, function.slope(u), reference, 1e-13)
    assert function(u.astype(np.float32)).dtype == function.slope(u.astype(np.float32)).dtype == np.float32
    # At a kink, the flat side.
    kinks = {"relu": [0.0], "leakyrelu": [], "hardsigmoid": [-1.35 / 0.35, -0.35 / 0.35]}.get(name, [])
    assert not function.slope(np.array(kinks)).any()


def test_coupled_gates_give_the_rows_of_f_no_gradient():
    layer = GeneralLSTM(D, H, coupled=True, rng=0)
    output, _, trace = layer.forward(np.ones((T, N, D)))
    back = layer.backward(trace, np.ones_like(output))
    assert np.allclose(trace.i + trace.f, 1)
    assert not back.grads["weight_hh_l0"][H : 2 * H].any()
    assert back.grads["weight_hh_l0"][:H].all()


@pytest.mark.parametrize(
    ("kind", "options", "formula", "line", "slip"),
    [
        (GeneralLSTM, {"coupled": True}, "cell_backward", "di - df if", "di if"),
        (GeneralLSTM, {"peepholes": True}, "look_backward", "p_f * da_f_t", "p_f * da_i_t"),
        (GeneralLSTM, {"peepholes": True}, "look_o_backward", "dc_t += p_o * da_o_t", "pass"),
        (GeneralLSTM, {}, "output_backward", "fs.eta.slope(c_t)", "fs.eta.slope(u_o_t)"),
        (
            GeneralLSTM,
            {"activations": ("sigmoid", "softplus", "tanh")},
            "cell_backward",
            "fs.gamma.slope",
            "fs.eta.slope",
        ),
        (GeneralGRU, {}, "after_step_backward", "fs.phi.slope(u_z_t)", "fs.phi.slope(u_r_t)"),
        (GeneralGRU, {"reset": "before"}, "before_step_backward", "dh_in += dk_t * r_t", "pass"),
        (GeneralRNN, {}, "rnn_step_backward", "slope(a_t)", "slope(dh_t)"),
    ],
)
def test_planted_mistakes_are_found(kind, options, formula, line, slip):
    x = np.random.default_rng(0).normal(size=(T, N, D))
    layer = kind(D, H, rng=0, **options)
    assert gradcheck(layer, x).ok
    right = getattr(general, formula)
    wrong = edited(right, line, slip)
    if "fs" in argument_names(right):
        right, wrong = Bound(right, layer.functions), Bound(wrong, layer.functions)
    layer.cell = planted(layer.cell, right, wrong)
    assert not gradcheck(layer, x).ok


def test_what_is_refused():
    for error, message, call in [
        (DTypeError, "name must be a str; got int 3", lambda: Activation(3)),
        (OptionError, "name must be one of 'sigmoid', 'tanh'", lambda: Activation("gelu")),
        (OptionError, "tanh has no alpha; got 0.1", lambda: Activation("tanh", 0.1)),
        (OptionError, "affine needs alpha; without it", lambda: Activation("Affine")),
        (OptionError, "clip must be greater than 0; got -1.0", lambda: Activation("tanh", clip=-1.0)),
        (OptionError, "activations must be 3, one after the other", lambda: GeneralLSTM(2, 2, activations=["tanh"])),
        (OptionError, "activations must be 1, one after the other", lambda: GeneralRNN(2, 2, activations="tanh")),
        (OptionError, "reset must be one of 'after', 'before'; got 'no'", lambda: GeneralGRU(2, 2, reset="no")),
    ]:
        with pytest.raises(error, match=message):
            call()
