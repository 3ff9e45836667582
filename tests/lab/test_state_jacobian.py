"""The Jacobian of one step of the state, pushed out of `backward`, against its closed form and the complex step.

Row i of d(state_t)/d(state_{t-1}) is what backward gives for a gradient of 1 at unit i of the state after one step.
For an LSTM, with c_- the cell before the step, U_i, U_f, U_g, U_o the blocks of W_hh, and the gates' derivatives
s' = s (1 - s), tanh' = 1 - g^2:

    dc/dc_- = diag(f)                     dc/dh_- = diag(c_- f') U_f + diag(g i') U_i + diag(i g') U_g
    dh/dc_- = diag(o (1 - tanh^2 c) f)    dh/dh_- = diag(tanh(c) o') U_o + diag(o (1 - tanh^2 c)) dc/dh_-
"""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import assert_grad_close, complex_step

D, H = 2, 4


def prepared(kind, **options):
    """Return a layer, an input of one step, and states before it, a tuple."""
    rng = np.random.default_rng(sum(map(ord, f"{kind.__name__}{options}")))
    layer = kind(D, H, **options, rng=rng)
    return layer, rng.normal(size=(1, 1, D)), tuple(rng.normal(size=(1, 1, layer.width(s))) for s in layer.cell.states)


def pushed(layer, x, states):
    """Return the blocks of the Jacobian by ("h", "c"), say, of d h_t / d c_{t-1}: unit gradients through backward."""
    trace = layer.forward(x, states if len(states) > 1 else states[0])[2]
    blocks = {}
    for index, after in enumerate(layer.cell.states):
        rows = {before: [] for before in layer.cell.states}
        for unit in range(layer.width(after)):
            gradients = tuple(np.zeros_like(state) for state in states)
            gradients[index][0, 0, unit] = 1.0
            back = layer.backward(trace, None, gradients if len(states) > 1 else gradients[0])
            for before, row in rows.items():
                row.append(getattr(back, f"d{before}_0")[0, 0])
        blocks |= {(after, before): np.array(row) for before, row in rows.items()}
    return blocks, trace[0]


def by_complex_step(layer, x, states):
    names, twin = layer.cell.states, layer.astype(np.complex128)
    point = {name: state[0, 0] for name, state in zip(names, states, strict=True)}
    blocks = {}
    for index, after in enumerate(names):
        rows = []
        for unit in range(layer.width(after)):

            def loss(at, index=index, unit=unit):
                before = tuple(at[name][None, None].astype(complex) for name in names)
                finals = twin(x.astype(complex), before if len(names) > 1 else before[0])[1]
                return (finals if isinstance(finals, tuple) else (finals,))[index][0, 0, unit]

            rows.append(complex_step(loss, point))
        blocks |= {(after, before): np.array([row[before] for row in rows]) for before in names}
    return blocks


def lstm_form(step, layer):
    i, f, g, o, c_prev, tanh_c = (array[0] for array in (step.i, step.f, step.g, step.o, step.c_prev, step.tanh_c))
    U_i, U_f, U_g, U_o = np.split(layer.params["weight_hh_l0"], 4)
    c_h = np.diag(c_prev * f * (1 - f)) @ U_f + np.diag(g * i * (1 - i)) @ U_i + np.diag(i * (1 - g**2)) @ U_g
    dm_dc = np.diag(o * (1 - tanh_c**2))
    W_hr = layer.params["weight_hr_l0"] if layer.proj_size else np.eye(H)
    m_h = np.diag(tanh_c * o * (1 - o)) @ U_o + dm_dc @ c_h
    return {("c", "c"): np.diag(f), ("h", "c"): W_hr @ dm_dc @ np.diag(f), ("c", "h"): c_h, ("h", "h"): W_hr @ m_h}


def gru_form(step, layer):
    r, z, n, h = (array[0] for array in (step.r, step.z, step.n, step.h_prev))
    U_r, U_z, U_n = np.split(layer.params["weight_hh_l0"], 3)
    r_h = np.diag(r * (1 - r)) @ U_r
    if layer.reset == "after":
        inner = np.diag(r) @ U_n + np.diag(U_n @ h + layer.params["bias_hh_l0"][2 * H :]) @ r_h
    else:
        inner = U_n @ (np.diag(r) + np.diag(h) @ r_h)
    n_h = np.diag(1 - n**2) @ inner
    return {("h", "h"): np.diag(z) + np.diag(1 - z) @ n_h + np.diag((h - n) * z * (1 - z)) @ U_z}


def rnn_form(step, layer):
    return {("h", "h"): np.diag(1 - step.h[0] ** 2) @ layer.params["weight_hh_l0"]}


@pytest.mark.parametrize(
    ("kind", "options", "form"),
    [
        (RNN, {}, rnn_form),
        (LSTM, {}, lstm_form),
        (LSTM, {"proj_size": 2}, lstm_form),
        (GRU, {"reset": "after"}, gru_form),
        (GRU, {"reset": "before"}, gru_form),
    ],
)
def test_identities_pushed_through_one_step_are_the_closed_form(kind, options, form):
    layer, x, states = prepared(kind, **options)
    blocks, step = pushed(layer, x, states)
    closed, derivatives = form(step, layer), by_complex_step(layer, x, states)
    assert set(blocks) == set(closed) == set(derivatives)
    for pair, block in blocks.items():
        name = "d{}/d{}_prev".format(*pair)
        assert_grad_close(f"{name}, closed form", block, closed[pair], 1e-13)
        assert_grad_close(f"{name}, complex step", block, derivatives[pair], 1e-13)


def test_both_forms_of_a_gru_have_different_jacobians():
    after, x, states = prepared(GRU)
    before = GRU(D, H, reset="before")
    before.load_state_dict(after.state_dict())
    one, other = (pushed(layer, x, states)[0]["h", "h"] for layer in (after, before))
    assert np.max(np.abs(one - other)) > 0.01 * np.max(np.abs(one))


def test_the_cell_keeps_its_gradient_where_the_forget_gate_is_open():
    # f = s(50) is 1 but for 2e-22: dc_0 = dc_n in all digits, after 200 steps, where nothing reads h.
    layer = LSTM(D, H, forget_bias=50.0, rng=0)
    layer.params["weight_hh_l0"][...] = 0
    rng = np.random.default_rng(1)
    _, (h_n, c_n), trace = layer.forward(rng.normal(size=(200, 1, D)))
    dc_n = rng.normal(size=c_n.shape)
    back = layer.backward(trace, None, (np.zeros_like(h_n), dc_n))
    assert_grad_close("dc_0", back.dc_0, dc_n, 1e-13)
