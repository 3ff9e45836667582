"""A user's own cells, with arrays of any names: no suspect takes the check down, and mistakes are found."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from mgu import mgu_backward, mgu_forward

from rnn_numpy import Cell, Recurrent
from rnn_numpy.checks import gradcheck
from rnn_numpy.checks.chain_rule import ChainRule, Variation
from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES, Mistake, known_mistakes
from rnn_numpy.checks.diagnosis.locate import _made_by


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


class MGU(Recurrent):
    cell = Cell(gate_names=("f", "n"), states=("h",), step_forward=mgu_forward, step_backward=mgu_backward,
                hidden_inputs={"n": "k_t"}, records={"k": 1})  # fmt: skip


# A GRU's names, and no GRU.


def same_names_forward(q_t, r_t, n_t, h_prev, h_in, W_hq, W_hr, W_hn, h_t):
    q_t[...] = np.tanh(q_t + W_hq @ h_in)
    r_t[...] = np.tanh(r_t + W_hr @ h_in)
    n_t[...] = np.tanh(n_t + W_hn @ h_in)
    h_t[...] = q_t * r_t + 0.5 * n_t


def same_names_backward(dh_t, q_t, r_t, n_t, W_hh, da_t, da_q_t, da_r_t, da_n_t, dh_in):
    da_q_t[...] = dh_t * r_t * (1 - q_t**2)
    da_r_t[...] = dh_t * q_t * (1 - r_t**2)
    da_n_t[...] = dh_t * 0.5 * (1 - n_t**2)
    dh_in += W_hh.T @ da_t


class SameNames(Recurrent):
    cell = Cell(gate_names=("q", "r", "n"), states=("h",), step_forward=same_names_forward,
                step_backward=same_names_backward)  # fmt: skip


# Two states of other names, and an f that is no gate.


def two_states_forward(f_t, u_t, y_prev, y_in, m_prev, W_hf, W_hu, y_t, m_t):
    f_t[...] = np.tanh(f_t + W_hf @ y_in)
    u_t[...] = np.sin(u_t + W_hu @ y_in)
    m_t[...] = 0.7 * m_prev + f_t * (1 + y_prev)
    y_t[...] = u_t * m_t


def two_states_backward(dy_t, dm_t, f_t, u_t, y_prev, m_t, W_hh, da_t, da_f_t, da_u_t, dy_prev, dy_in, dm_prev):
    dm_t += dy_t * u_t
    da_u_t[...] = dy_t * m_t * np.sqrt(1 - u_t**2)  # for |a_u| < pi / 2
    da_f_t[...] = dm_t * (1 + y_prev) * (1 - f_t**2)
    dy_prev += dm_t * f_t
    dm_prev[...] = 0.7 * dm_t
    dy_in += W_hh.T @ da_t


class TwoStates(Recurrent):
    cell = Cell(gate_names=("f", "u"), states=("y", "m"), step_forward=two_states_forward,
                step_backward=two_states_backward)  # fmt: skip


# One slab, with a name of its own.


def plain_forward(w_t, s_in, W_hh, s_t):
    w_t += W_hh @ s_in
    s_t[...] = np.arctan(w_t)


def plain_backward(ds_t, w_t, W_hh, da_t, ds_in):
    da_t[...] = ds_t / (1 + w_t**2)
    ds_in += W_hh.T @ da_t


class Plain(Recurrent):
    cell = Cell(gate_names=("w",), states=("s",), step_forward=plain_forward, step_backward=plain_backward)


FOREIGN = [MGU, SameNames, TwoStates, Plain]
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.4}, {"recurrent_dropout": 0.3, "bias": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "stacked", "masked"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_every_known_mistake_can_be_made_in_any_cell(kind, options):
    layer = kind(2, 3, rng=0, **options)
    report = gradcheck(layer, data(5, 2, 2) / 4, lengths=[5, 3])
    assert report.ok, report
    output, final, trace = layer.forward(data(5, 2, 2) / 4, lengths=[5, 3])
    chain = ChainRule(layer, trace, np.ones_like(output), final)
    known = list(known_mistakes(chain))
    assert len(known) > 30
    for mistake in known:  # without what `_made_by` lets pass
        found = chain.gradient(mistake.change)
        assert list(found.tensors) == list(chain.exact.tensors)


def test_a_suspect_that_fails_is_no_suspect():
    layer = Plain(2, 3, rng=0)
    output, _, trace = layer.forward(data(5, 2, 2))
    chain = ChainRule(layer, trace, np.ones_like(output))

    def reads_what_is_not_there(steps, J):
        return steps.recorded.stored("r") * J

    mistake = Mistake("sign", "planted", Variation(state=reads_what_is_not_there), "recurrence")
    with pytest.raises(AttributeError, match="no array 'r'"):
        chain.gradient(mistake.change)
    assert _made_by(mistake.change, chain, {"l0"}) is None


SLIPS = [
    (MGU, "dh_in += dk * f_t", "pass"),
    (MGU, "dk * f_t", "dk"),
    (MGU, "dh_t * (n_t - h_prev)", "dh_t * (n_t + h_prev)"),
    (MGU, "dh_t * f_t * (1 - n_t**2)", "dh_t * f_t * (1 - f_t**2)"),
    (MGU, "dh_t * f_t * (1 - n_t**2)", "dh_t * f_t"),
    (MGU, "dh_prev += dh_t * (1 - f_t)", "pass"),
    (MGU, "df += dk * h_in", "pass"),
    (MGU, "df * f_t * (1 - f_t)", "df"),
    (MGU, "W_hn.T @", "W_hn @"),
    (MGU, "W_hf.T @", "W_hf @"),
    (SameNames, "W_hh.T", "W_hh[:3]"),
    (SameNames, "dh_t * r_t * (1 - q_t**2)", "dh_t * r_t"),
    (TwoStates, "dm_t += dy_t * u_t", "pass"),
    (TwoStates, "dy_prev += dm_t * f_t", "pass"),
    (TwoStates, "0.7 * dm_t", "dm_t"),
    (Plain, "ds_t / (1 + w_t**2)", "ds_t"),
    (Plain, "W_hh.T", "W_hh"),
]


def with_slip(kind, line, slip):
    source = inspect.getsource(kind.cell.step_backward)
    assert line in source
    if slip == "W_hh[:3]":
        line, slip = "W_hh.T @ da_t", "W_hh[:3].T @ da_q_t"
    wrong = {}
    exec(source.replace(line, slip), {"np": np}, wrong)
    step_backward = wrong[kind.cell.step_backward.__name__]
    return type(kind.__name__, (kind,), {"cell": replace(kind.cell, step_backward=step_backward)})


@pytest.mark.parametrize(("kind", "line", "slip"), SLIPS)
def test_a_wrong_line_is_told_whatever_the_cell(kind, line, slip):
    report = gradcheck(with_slip(kind, line, slip)(2, 3, rng=0), data(6, 2, 2) / 4)
    assert not report.ok
    assert report.diagnosis.kind in DIAGNOSES
    assert report.diagnosis.where["layer"] == "l0"


# ------------------------------------------------------------------------------------------------ what shipped


def clipping_forward(a_t, i_t, f_t, g_t, o_t, h_in, c_prev, W_hh, c_t, h_t):
    a_t += W_hh @ h_in
    for gate in (i_t, f_t, o_t):
        gate[...] = (1 + np.tanh(gate / 2)) / 2
    g_t[...] = np.tanh(g_t)
    c_t[...] = np.clip(f_t * c_prev + i_t * g_t, -0.3, 0.3)
    h_t[...] = o_t * np.tanh(c_t)


def straight_through(dh_t, dc_t, i_t, f_t, g_t, o_t, c_t, c_prev, W_hh, da_t, da_i_t, da_f_t, da_g_t, da_o_t, dh_in,
                     dc_prev):  # fmt: skip
    dc_t += dh_t * o_t * (1 - np.tanh(c_t) ** 2)
    da_o_t[...] = dh_t * np.tanh(c_t) * o_t * (1 - o_t)
    da_i_t[...] = dc_t * g_t * i_t * (1 - i_t)
    da_f_t[...] = dc_t * c_prev * f_t * (1 - f_t)
    da_g_t[...] = dc_t * i_t * (1 - g_t**2)
    dc_prev[...] = dc_t * f_t
    dh_in += W_hh.T @ da_t


def stopped_at_the_edge(dh_t, dc_t, i_t, f_t, g_t, o_t, c_t, c_prev, W_hh, da_t, da_i_t, da_f_t, da_g_t, da_o_t, dh_in,
                        dc_prev):  # fmt: skip
    dc_t += dh_t * o_t * (1 - np.tanh(c_t) ** 2)
    da_o_t[...] = dh_t * np.tanh(c_t) * o_t * (1 - o_t)
    dc = dc_t * (np.abs(c_t) < 0.3)
    da_i_t[...] = dc * g_t * i_t * (1 - i_t)
    da_f_t[...] = dc * c_prev * f_t * (1 - f_t)
    da_g_t[...] = dc * i_t * (1 - g_t**2)
    dc_prev[...] = dc * f_t
    dh_in += W_hh.T @ da_t


@pytest.mark.parametrize(("backward", "verdict"), [(stopped_at_the_edge, "ok"), (straight_through, "FAILED")])
def test_a_clip_that_the_gradient_goes_straight_through(backward, verdict):
    # TensorFlow's BlockLSTM clips c, and its gradient knows of no clip.
    own = Cell(
        gate_names=("i", "f", "g", "o"), states=("h", "c"), step_forward=clipping_forward, step_backward=backward
    )
    report = gradcheck(type("Own", (Recurrent,), {"cell": own})(2, 4, rng=0), 2 * data(8, 2, 2))
    assert report.verdict == verdict, report
    if verdict == "FAILED":
        assert report.diagnosis.kind == "wrong derivative" and "what forward cut off" in report.diagnosis.why
        assert report.diagnosis.where["part"] == "immediate partial"
