"""Right cells whose forward formulas a complex step cannot pass: not called wrong, and the line is named."""

import numpy as np
import pytest

from rnn_numpy import Cell, Recurrent
from rnn_numpy.checks import gradcheck


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def sigmoid(a):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


def softsign(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = a_t / (1 + np.abs(a_t))


def log_sign(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    size = np.abs(a_t)
    h_t[...] = np.sign(a_t) * np.log1p(size)


def real_part(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    part = a_t.real
    h_t[...] = np.tanh(part)


def made_float(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.tanh(a_t.astype(float))


def buffer_of_floats(a_t, h_in, W_hh, h_t):
    kept = np.zeros(a_t.shape)
    a_t += W_hh @ h_in
    kept[...] = a_t
    h_t[...] = np.tanh(kept)


def softplus(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.logaddexp(0, a_t)


def of_exp(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = sigmoid(a_t)


def shifted(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    e = np.exp(a_t - a_t.real.max(axis=0))
    h_t[...] = e / e.sum(axis=0)


def modulus(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.abs(a_t)


def back(formula):
    def backward(dh_t, a_t, h_t, W_hh, da_t, dh_in):
        da_t[...] = formula(dh_t, a_t, h_t)
        dh_in += W_hh.T @ da_t

    return backward


OF_SOFTSIGN = back(lambda dh, a, h: dh / (1 + np.abs(a)) ** 2)
OF_TANH = back(lambda dh, a, h: dh * (1 - h**2))
OF_SIGMOID = back(lambda dh, a, h: dh * h * (1 - h))


def cell(forward, backward):
    own = Cell(gate_names=("a",), states=("h",), step_forward=forward, step_backward=backward)
    return type("Own", (Recurrent,), {"cell": own})


LOSING = {
    "softsign": (softsign, OF_SOFTSIGN, "`h_t[...] = a_t / (1 + np.abs(a_t))`", "np.where(a.real < 0, -a, a)"),
    "log": (log_sign, back(lambda dh, a, h: dh / (1 + np.abs(a))), "`size = np.abs(a_t)`", "is lost"),
    "real": (real_part, OF_TANH, "`part = a_t.real`", "for real write a itself"),
    "astype": (made_float, OF_TANH, "`h_t[...] = np.tanh(a_t.astype(float))`", "is cut off"),
    "buffer": (buffer_of_floats, OF_TANH, "`kept[...] = a_t`", "is cut off"),
    "logaddexp": (softplus, back(lambda dh, a, h: dh * sigmoid(a)), "`h_t[...] = np.logaddexp(0, a_t)`", "TypeError"),
}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "recurrent_dropout": 0.3}])
@pytest.mark.parametrize("name", LOSING)
def test_a_right_cell_passes_and_the_line_is_named(name, options):
    forward, backward, line, why = LOSING[name]
    report = gradcheck(cell(forward, backward)(2, 3, rng=0, **options), data(5, 2, 2), lengths=[5, 4])
    assert report.ok, report
    assert report.method.startswith("differences")
    (note,) = [note for note in report.notes if "no complex step passes" in note]
    assert forward.__name__ in note and line in note and why in note
    assert report.error < 1e-9


@pytest.mark.parametrize("off", [1 + 1e-7, 0.9])
@pytest.mark.parametrize("name", LOSING)
def test_a_wrong_backward_of_such_a_cell_is_found(name, off):
    forward, backward, *_ = LOSING[name]

    def wrong(dh_t, a_t, h_t, W_hh, da_t, dh_in):
        backward(dh_t, a_t, h_t, W_hh, da_t, dh_in)
        da_t *= off

    report = gradcheck(cell(forward, wrong)(2, 3, rng=0), data(5, 2, 2))
    assert report.verdict == "FAILED"
    assert report.diagnosis.where["part"] == "immediate partial"


def test_an_analytic_cell_keeps_the_complex_step():
    def backward(dh_t, h_t, W_hh, da_t, dh_in):
        da_t[...] = h_t * (dh_t - (dh_t * h_t).sum(axis=0))
        dh_in += W_hh.T @ da_t

    # real stands in the formula, and the result does not depend on it
    report = gradcheck(cell(shifted, backward)(2, 3, rng=0), data(5, 2, 2))
    assert report.ok and report.method.startswith("complex step") and not report.notes


def test_where_an_exponential_overflows_differences_fill_in():
    for scale, lost in ((1, False), (3000, True)):
        report = gradcheck(cell(of_exp, OF_SIGMOID)(2, 3, rng=0), scale * data(5, 2, 2))
        assert report.ok, report
        assert (
            any("(1 + tanh(a / 2)) / 2" in note and "`h_t[...] = sigmoid(a_t)`" in note for note in report.notes)
            == lost
        )


def in_single(a_t, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = np.tanh(a_t.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 40])
def test_a_formula_in_single_precision_tells_little(scale, dtype):
    for off, verdict in ((1, "undecided"), (1.5, "FAILED"))[: 2 if scale == 1 else 1]:
        backward = back(lambda dh, a, h, off=off: off * dh * (1 - np.tanh(a) ** 2))
        layer = cell(in_single, backward)(2, 4, dtype=dtype, rng=0)
        layer.params.flat[:] *= scale
        report = gradcheck(layer, data(6, 2, 2).astype(dtype))
        assert report.verdict == verdict
        assert any("h holds numbers of single precision alone" in note for note in report.notes)


def test_at_a_kink_nothing_is_decided():
    backward = back(lambda dh, a, h: dh * np.sign(a))
    x = data(5, 2, 2)
    assert gradcheck(cell(modulus, backward)(2, 3, rng=0), x).ok
    x[2] = 0
    layer = cell(modulus, backward)(2, 3, bias=False, rng=0)
    layer.params["weight_hh_l0"][...] = 0
    report = gradcheck(layer, x)
    assert report.verdict == "undecided" and not report.ok
    assert any("kink" in note for note in report.notes)
    wrong = back(lambda dh, a, h: dh * np.where(a == 0, 1.5, np.sign(a)))
    layer = cell(modulus, wrong)(2, 3, bias=False, rng=0)
    layer.params["weight_hh_l0"][...] = 0
    assert gradcheck(layer, x).verdict == "FAILED"
