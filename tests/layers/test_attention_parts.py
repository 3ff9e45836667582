"""Attention with all its options around all cells: golden numbers, the complex step, torch, forward mode."""

import numpy as np
import pytest
from attended import CASES, CELLS, EXISTS, HOWS, LENGTHS, Attended, N, S, T, assert_all_close, title
from frameworks import torch
from messages import assert_raises
from planting import edited, planted

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import assert_grad_close, complex_step
from rnn_numpy.checks.oracles.adjoint import adjoint_error, adjoint_errors
from rnn_numpy.core.states import join
from rnn_numpy.engine.forward_mode import jvp
from rnn_numpy.engine.influence import rtrl
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.layers import attention
from rnn_numpy.layers.attention import Attending, AttentionRNN

EACH_CASE = pytest.mark.parametrize(("cell", "how"), [pytest.param(*case, id=title(*case)) for case in CASES])


def test_each_cell_meets_each_option():
    options = {item for how in HOWS for item in how.items()}
    assert len(HOWS) == 36
    for cell in CELLS:
        assert {item for of, how in CASES if of == cell for item in how.items()} == options, cell
    assert all(any(how == used for _, used in CASES) for how in HOWS)


# -------------------------------------------------------------------------------------------- every gradient


@pytest.mark.sampled(5)
@EACH_CASE
def test_gradients_are_complex_steps(cell, how):
    problem = Attended(cell, how)
    found = problem.gradients()
    assert_all_close(found, complex_step(problem.loss, problem.point))
    for name, array in found.items():
        assert np.any(array), name


@pytest.mark.sampled(5)
@pytest.mark.parametrize("how", HOWS[::5], ids=lambda how: title("LSTM", how))
@pytest.mark.parametrize(("lengths", "exists"), [(None, None), (None, EXISTS), (LENGTHS, None)])
def test_gradients_are_complex_steps_of_other_calls(how, lengths, exists):
    """Without lengths, without a mask, and where the loss does not read the weights."""
    problem = Attended("LSTM", how, lengths=lengths, exists=exists, weighed=False, seed=2)
    assert_all_close(problem.gradients(), complex_step(problem.loss, problem.point))


@pytest.mark.sampled(5)
@EACH_CASE
def test_forward_mode_is_the_transpose_of_backward(cell, how):
    problem = Attended(cell, how, weighed=False)
    trace = problem.forward()[2]
    gradients, rng = problem.gradients(problem.backward(trace)), np.random.default_rng(1)
    draw = {name: rng.normal(size=array.shape) for name, array in problem.point.items()}
    for name in [*draw, None]:  # a change of each tensor and of all
        v = {key: array if name in (key, None) else 0 * array for key, array in draw.items()}
        voutput, finals = problem.tangent(trace, v)
        forward = np.vdot(problem.doutput, voutput) + sum(map(np.vdot, problem.dfinal, finals))
        terms = [np.vdot(gradients[key], v[key]) for key in v]
        sizes = [np.linalg.norm(gradients[key]) * np.linalg.norm(v[key]) for key in v]
        assert abs(forward - sum(terms)) <= 1e-13 * sum(sizes), name


@EACH_CASE
def test_real_time_recurrent_learning(cell, how):
    problem = Attended(cell, how, weighed=False)
    trace = problem.forward()[2]
    forward, back = rtrl(problem.layer, trace, problem.doutput, join(problem.dfinal)), problem.backward(trace)
    assert_all_close(dict(forward.grads), dict(back.grads))
    assert_all_close(forward.initial, {name: getattr(back, name) for name in forward.initial})


# ------------------------------------------------------------------------------------------------ torch


def torch_cell(cell, p, x_t, extra, states):
    """Return the cell's next states; `extra` is what is added to W_ih x_t."""
    h, *c = states
    a_x, a_h = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"] + extra, h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
    if cell == "RNN":
        return [torch.tanh(a_x + a_h)]
    if cell == "LSTM":
        i, f, g, o = (a_x + a_h).chunk(4, dim=1)
        next_c = torch.sigmoid(f) * c[0] + torch.sigmoid(i) * torch.tanh(g)
        return [torch.sigmoid(o) * torch.tanh(next_c), next_c]
    (x_r, x_z, x_n), (h_r, h_z, h_n) = a_x.chunk(3, dim=1), a_h.chunk(3, dim=1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = x_n + r * h_n
    if cell == "GRU before":
        H = h.shape[1]
        n = x_n + (r * h) @ p["weight_hh_l0"][-H:].T + p["bias_hh_l0"][-H:]
    return [(1 - z) * torch.tanh(n) + z * h]


def torch_attention(how, p, query, at, exists):
    """Return the weights and the context, gated where there is a gate."""
    values = p["values"]
    if how["score"] == "additive":
        units = p["keys"].transpose(0, 1) + (query @ p["weight_query_l0"].T)[:, None]
        if how["coverage"]:
            units = units + at["cov"][:, :, None] * p["weight_coverage_l0"]
        if how["location"]:
            F = p["filters_l0"]
            found = torch.nn.functional.conv1d(at["focus"][:, None], F[:, None], padding=F.shape[1] // 2)
            units = units + torch.einsum("kc,ncs->nsk", p["weight_location_l0"], found)
        score = torch.tanh(units) @ p["v_l0"]
    else:
        score = torch.einsum("nh,snh->ns", query, p["values" if how["score"] == "dot" else "keys"])
    # Of a row without any memory torch's softmax is NaN, and so is its gradient.
    masked = score.masked_fill(~exists & exists.any(dim=1, keepdim=True), -torch.inf)
    alpha = torch.softmax(masked, dim=1) * exists
    context = torch.einsum("ns,snm->nm", alpha, values)
    if how["gate"]:
        context = context * torch.sigmoid(query @ p["weight_gate_l0"].T + p["bias_gate_l0"])
    return alpha, context


def torch_loss(problem, cell, how, p):
    """Return the loss by torch, a loop over the steps."""
    exists = torch.tensor(problem.exists)
    at = {state: p[f"{state}_0"][0] for state in problem.states}
    own = [state for state in ("h", "c") if state in at]
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        new, x_t = {}, p["x"][t]
        if how["input_feeding"]:
            states = torch_cell(cell, p, x_t, at["attn"] @ p["weight_if_l0"].T, [at[state] for state in own])
            alpha, context = torch_attention(how, p, states[0], at, exists)
            new["attn"] = torch.tanh(torch.cat([context, states[0]], dim=1) @ p["weight_c_l0"].T)
        else:
            alpha, context = torch_attention(how, p, at["h"], at, exists)
            states = torch_cell(cell, p, x_t, context @ p["weight_ch_l0"].T, [at[state] for state in own])
        new |= dict(zip(own, states, strict=True))
        if how["coverage"]:
            new["cov"] = at["cov"] + alpha
        if how["location"]:
            new["focus"] = alpha
        alive = torch.tensor([[t < length] for length in problem.lengths])
        at = {state: torch.where(alive, new[state], at[state]) for state in at}
        output = at[problem.states[0]]
        loss = loss + torch.sum(alive * output * torch.tensor(problem.doutput[t]))
        loss = loss + torch.sum(alive * alpha * torch.tensor(problem.dalpha[t]))
    finals = zip(problem.states, problem.dfinal, strict=True)
    return loss + sum(torch.sum(at[state] * torch.tensor(dfinal[0])) for state, dfinal in finals)


IN_TORCH = ("RNN", "LSTM", "GRU", "GRU before")
TORCH = [(IN_TORCH[i % 4], how) for i, how in enumerate(HOWS)]
TORCH += [case for case in CASES if case[0] in IN_TORCH and case not in TORCH]


@pytest.mark.needs_torch
@pytest.mark.parametrize(("cell", "how"), [pytest.param(*case, id=title(*case)) for case in TORCH])
def test_torch(cell, how):
    problem = Attended(cell, how)
    point = {name: torch.tensor(np.array(array), requires_grad=True) for name, array in problem.point.items()}
    loss = torch_loss(problem, cell, how, point)
    loss.backward()
    assert_grad_close("loss", problem.loss({}), loss.detach().numpy(), 1e-13)
    assert_all_close(problem.gradients(), {name: leaf.grad.numpy() for name, leaf in point.items()})


# ------------------------------------------------------------------------------------------------ golden numbers

# Of torch 2.13, in float64, as it prints them.


def fill(shape, k, scale=0.5):
    """Return numbers that are easily made anywhere."""
    return scale * np.sin(1 + k + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def assert_golden(found, **golden):
    """Compare with numbers of twelve decimals, all of them."""
    for name, text in golden.items():
        assert [f"{number:.12f}" for number in np.ravel(found[name])] == [f"{float(n):.12f}" for n in text.split()], (
            name
        )


def loaded(kind, sizes, weights, **options):
    """Return a layer with these weights; biases that are not named are 0."""
    layer = type(f"Attending{kind.__name__}", (Attending, kind), {})(*sizes, **options)
    names = {name: name.removesuffix("_l0") for name in layer.params}
    layer.load_state_dict(
        {name: weights.get(short, np.zeros(layer.params.shapes[name])) for name, short in names.items()}
    )
    assert set(weights) <= set(names.values())
    return layer


W_a = fill((2, 2), 0)
U_a, W_q, b_a, v = fill((2, 2), 0), fill((2, 2), 1), fill((2,), 2), fill((2,), 3)
ADDITIVE = {"weight_query": W_q, "v": v}


def keys_of(score, values):
    """Return the keys, and the function from their gradient to those of the values and of what makes the keys."""
    if score == "general":
        return values @ W_a.T, lambda d: (d @ W_a, {"dW_a": np.einsum("snq,snm->qm", d, values)})
    if score == "additive":
        keys = values @ U_a.T + b_a
        return keys, lambda d: (d @ U_a, {"dU_a": np.einsum("snk,snm->km", d, values), "db_a": d.sum((0, 1))})
    factor = 1 / np.sqrt(values.shape[2])  # scaled
    return factor * values, lambda d: (factor * d, {})


ONE_STEP = {
    "dot": {
        "alpha": ".321073441538 .357970985088 .320955573375",
        "dquery": ".418836153702 .329619117202",
        "dvalues": ".140150138073 .108389326366 .106967798788 .192260018362 .081375362499 .193434772211",
    },
    "scaled": {
        "alpha": ".324707305655 .350669681890 .324623012455",
        "dquery": ".299419061469 .235049904121",
        "dvalues": ".131387184395 .124611127674 .107751175380 .184042387321 .089354939584 .185430601944",
    },
    "general": {
        "alpha": ".349289206444 .324715893745 .325994899810",
        "dquery": ".357986081972 .156610184925",
        "dvalues": ".112238342629 .189553344551 .107409612479 .155396222403 .108845344252 .149134549984",
        "dW_a": "-0.061803180908 -0.048424906716 0.089547691684 0.070163680132",
    },
    "additive": {
        "alpha": ".488232949626 .287448877872 .224318172502",
        "dquery": ".008172262565 .018990943301",
        "dvalues": ".222867773663 .279718793149 .060803936363 .122948426717 .032595624865 .093379765159",
        "dv": "0.322009259875 0.136316049481",
        "dU_a": "-0.106619685796 -0.092333103557 -0.177689044354 -0.156580831812",
        "dW_q": "-0.000807294791 0.001169703306 0.006063156681 -0.008785011986",
        "db_a": "0.005778453923 -0.043398857399",
    },
}


@pytest.mark.parametrize("score", ONE_STEP)
def test_golden_numbers_of_one_step(score):
    """The relu of a large number hands on the context's gradient as it is, and W_hh is 0."""
    weights = {"weight_ch": np.eye(2), "bias_ih": np.full(2, 9.0)}
    kind = {"dot": "dot", "additive": "additive"}.get(score, "keys")
    weights |= ADDITIVE if score == "additive" else {}
    layer = loaded(RNN, (1, 2), weights, score=kind, nonlinearity="relu")
    values = fill((3, 1, 2), 4, 1.0)
    given, back_to_values = {"values": values}, lambda d: (0, {})
    if kind != "dot":
        given["keys"], back_to_values = keys_of(score, values)
    _, _, trace = layer.forward(np.zeros((1, 1, 1)), fill((1, 1, 2), 5), given=given)
    back = layer.backward(trace, fill((1, 1, 2), 6))
    dvalues, found = back_to_values(back.dgiven.get("keys"))
    found |= {"alpha": trace.alpha, "dquery": back.dh_0, "dvalues": back.dgiven["values"] + dvalues}
    found |= {"dv": back.grads["v_l0"], "dW_q": back.grads["weight_query_l0"]} if score == "additive" else {}
    assert_golden(found, **ONE_STEP[score])


def test_golden_numbers_of_bahdanaus_decoder():
    """A GRU, its context in the last columns of torch's weight_ih, and the additive score."""
    weight_ih = fill((6, 3), 4)
    weights = {"weight_ih": weight_ih[:, :1], "weight_ch": weight_ih[:, 1:], "weight_hh": fill((6, 2), 5)}
    weights |= {"bias_ih": fill((6,), 6), "bias_hh": fill((6,), 7), **ADDITIVE}
    layer = loaded(GRU, (1, 2), weights, score="additive")
    values, r = fill((3, 1, 2), 8, 1.0), fill((2, 1, 2), 11)
    keys, back_to_values = keys_of("additive", values)
    output, _, trace = layer.forward(fill((2, 1, 1), 9), fill((1, 1, 2), 10), given={"values": values, "keys": keys})
    back = layer.backward(trace, r)
    found = {"L": np.sum(r * output), "h": output, "alpha": trace.alpha, "dv": back.grads["v_l0"]}
    found |= {
        "dh_0": back.dh_0,
        "dx": back.dx,
        "dvalues": back.dgiven["values"] + back_to_values(back.dgiven["keys"])[0],
    }
    assert_golden(
        found,
        L="-0.316577698868",
        h="-0.572925288237 -0.403597134252 -0.631076456273 -0.419855685454",
        alpha="0.256727289203 0.396946208632 0.346326502165 0.257748783757 0.395490092494 0.346761123749",
        dv="-0.016558906432 -0.010006329442",
        dh_0="-0.026034190785 0.252742933257",
        dx="-0.001250908838 0.028405064452",
        dvalues="""-0.009936362722 -0.028746125660 -0.033469146434 -0.053405288140
            -0.019174948176 -0.042373374001""",
    )


def test_golden_numbers_of_show_attend_and_tell():
    """An LSTM that begins at maps of the mean, a gate of one number, and a penalty on the sums of the weights."""
    weight_ih = fill((8, 3), 4)
    weights = {"weight_ih": weight_ih[:, :1], "weight_ch": weight_ih[:, 1:], "weight_hh": fill((8, 2), 5)}
    weights |= {"bias_ih": fill((8,), 6), "weight_gate": fill((1, 2), 7), "bias_gate": np.array([0.3]), **ADDITIVE}
    layer = loaded(LSTM, (1, 2), weights, score="additive", gate="scalar")
    values, r = fill((3, 1, 2), 10, 1.0), fill((2, 1, 2), 12)
    keys, back_to_values = keys_of("additive", values)
    W_0, mean = (fill((2, 2), 8), fill((2, 2), 9)), values.mean(axis=0)
    initial = tuple(np.tanh(mean @ W.T)[None] for W in W_0)
    output, _, trace = layer.forward(fill((2, 1, 1), 11), initial, given={"values": values, "keys": keys})
    missing = 1 - trace.alpha.sum(axis=0)
    dalpha = np.broadcast_to(-2 * 0.7 * missing, trace.alpha.shape)
    back = layer.backward(trace, r, drecords={"alpha": dalpha})
    dvalues = back.dgiven["values"] + back_to_values(back.dgiven["keys"])[0]
    for W, state, gradient in zip(W_0, initial, (back.dh_0, back.dc_0), strict=True):
        dvalues += (gradient[0] * (1 - state[0] ** 2)) @ W / len(values)
    found = {"L": np.sum(r * output) + 0.7 * np.sum(missing**2), "sums": 1 - missing, "beta": trace.beta}
    found |= {"dv": back.grads["v_l0"], "dw": back.grads["weight_gate_l0"], "db": back.grads["bias_gate_l0"]}
    assert_golden(
        {**found, "dvalues": dvalues},
        L="0.183548408823",
        sums="0.965242993821 0.614703516136 0.420053490043",
        beta="0.562168019078 0.553839440376",
        dv="-0.351145007854 -0.148708744771",
        dw="0.000274555011 0.000253816520",
        db="-0.002691225209",
        dvalues="""-0.089425399829 -0.070259689798 0.006681533964 -0.011391672518
            0.016414548352 -0.011399526782""",
    )


LUONG = {
    "plain": {
        "L": "-0.045137319848",
        "attn": "-0.315618572321 0.382687147757 -0.289409485800 0.360167217373",
        "dh_0": "-0.002517668764 0.003976322978",
        "dvalues": """0.005354527502 -0.018458638432 0.005860308524 -0.021138930416
            0.006620353349 -0.018116907918""",
    },
    "feeding": {
        "L": "-0.049143524538",
        "attn": "-0.312766128924 0.383735292343 -0.284692861312 0.362662062317",
        "dh_0": "-0.002774586206 0.004177512326",
        "dvalues": """0.004632115787 -0.018710537911 0.006030813200 -0.021286177489
            0.006374388359 -0.018173037371""",
    },
}


@pytest.mark.parametrize("feeding", LUONG)
def test_golden_numbers_of_luongs_decoder(feeding):
    """With W_if = 0 nothing is fed."""
    weight_ih = fill((8, 3), 1) if feeding == "feeding" else np.hstack([fill((8, 1), 1), np.zeros((8, 2))])
    weights = {"weight_ih": weight_ih[:, :1], "weight_if": weight_ih[:, 1:], "weight_hh": fill((8, 2), 2)}
    weights |= {"bias_ih": fill((8,), 3), "weight_c": fill((2, 4), 4)}
    layer = loaded(LSTM, (1, 2), weights, score="keys", input_feeding=True)
    values, r = fill((3, 1, 2), 5, 1.0), fill((2, 1, 2), 9)
    keys, back_to_values = keys_of("general", values)
    initial = np.zeros((1, 1, 2)), fill((1, 1, 2), 7), fill((1, 1, 2), 8)
    output, _, trace = layer.forward(fill((2, 1, 1), 6), initial, given={"values": values, "keys": keys})
    back = layer.backward(trace, r)
    dvalues = back.dgiven["values"] + back_to_values(back.dgiven["keys"])[0]
    found = {"L": np.sum(r * output), "attn": output, "dh_0": back.dh_0, "dvalues": dvalues}
    assert_golden(found, **LUONG[feeding])


# ------------------------------------------------------------------------------------------------ forward mode, errors

ADDITIVE_SCORE, FED = {"score": "additive"}, {"score": "keys", "input_feeding": True}
COVERED, LOCATED, GATED = (
    {**ADDITIVE_SCORE, "coverage": True},
    {**ADDITIVE_SCORE, "location": (2, 3)},
    {"gate": "vector"},
)
# Lines of forward mode, each wrong once: the formula, a piece of its text, what stands there instead, the options.
TANGENTS = [
    ("product_tangent", ' + np.einsum("nm,nsm->ns", query, vkeys)', "", {"score": "keys"}),
    ("product_tangent", "vquery, keys) +", "vquery, keys) -", {"score": "dot"}),
    ("additive_tangent", "vprojected_t + vquery.dot(W_q.T)", "vprojected_t", ADDITIVE_SCORE),
    ("additive_tangent", "vprojected_t + vquery.dot(W_q.T)", "vquery.dot(W_q.T)", ADDITIVE_SCORE),
    ("additive_tangent", "vunits_t *= 1 - units_t * units_t", "pass", ADDITIVE_SCORE),
    ("additive_tangent", "as_row(vv_a, K)", "0 * as_row(vv_a, K)", ADDITIVE_SCORE),
    ("coverage_tangent", "vcov_prev[:, :, None] * w_c.ravel() + change", "change", COVERED),
    ("coverage_tangent", "w_c.ravel() + change", "w_c.ravel()", COVERED),
    ("cover_tangent", "vcov_prev, softmax", "0, softmax", COVERED),
    ("location_tangent", "windows(vfocus_prev, width) @ F.T + around", "around", LOCATED),
    ("location_tangent", "change = vf @ U_f.T + around", "change = around", LOCATED),
    ("focus_tangent", "softmax_tangent(alpha_t, vscore_t)", "vscore_t", LOCATED),
    (
        "weights_tangent",
        "valpha = softmax_tangent(alpha_t, vscore_t)",
        "valpha = alpha_t * vscore_t",
        {"score": "keys"},
    ),
    ("weights_tangent", "alpha_t, vvalues", "0 * alpha_t, vvalues", {"score": "keys"}),
    ("gate_tangent", "+ vquery.dot(W_g.T)", "", GATED),
    ("gate_tangent", "* (1 - beta_t)", "", GATED),
    ("gate_tangent", "vbeta * context_t + ", "", GATED),
    ("gate_tangent", "as_row(vb_g, beta_t.shape[1])", "0", GATED),
    ("context_tangent", "vcontext_t.dot(W_ch.T)", "0", {"score": "keys"}),
    ("feed_tangent", "vinput_t += vattn_prev.dot(W_if.T)", "pass", FED),
    ("combine_tangent", "(1 - attn_t * attn_t) * ", "", FED),
    ("combine_tangent", " + vh_t.dot(W_c[:, M:].T)", "", FED),
    ("combine_tangent", "vcombined_t + ", "", FED),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("name", "old", "new", "options"), TANGENTS)
def test_a_line_of_forward_mode_that_is_wrong_is_caught(name, old, new, options):
    how = {"score": "dot", "gate": False, "input_feeding": False, "coverage": False, "location": None, **options}
    problem = Attended("GRU", how, weighed=False)
    layer, trace, right = problem.layer, problem.forward()[2], getattr(attention, name)
    assert adjoint_error(layer, trace) <= 1e-14
    assert set(adjoint_errors(layer, trace)) == {
        name if name not in problem.memory else f"given[{name!r}]" for name in problem.point
    }
    layer.cell = planted(layer.cell, right, edited(right, old, new))
    assert adjoint_error(layer, trace) > 1e-6


@EACH_CASE
def test_changes_of_rows_that_do_not_exist_are_not_read(cell, how):
    problem = Attended(cell, how)
    trace, rng = problem.forward()[2], np.random.default_rng(1)
    v = {name: rng.normal(size=array.shape) for name, array in problem.point.items()}
    expected = problem.tangent(trace, v)
    for name in problem.memory:
        v[name][~EXISTS.T] = np.nan
    voutput, finals = problem.tangent(trace, v)
    assert voutput.tobytes() == expected[0].tobytes()
    for final, same in zip(finals, expected[1], strict=True):
        assert final.tobytes() == same.tobytes()
    for name in problem.memory:  # the others are
        v[name][EXISTS.T] = 0
    assert not np.array_equal(problem.tangent(trace, v)[0], voutput)


def test_wrong_changes_of_the_memory():
    layer, rng = AttentionRNN(2, 3, rng=0), np.random.default_rng(0)
    given = {"values": rng.normal(size=(S, N, 3)), "exists": EXISTS}
    trace = layer.forward(rng.normal(size=(T, N, 2)), given=given)[2]
    assert_raises(
        ShapeError,
        f"jvp: vgiven['values'] must have shape (S, N, H) = ({S}, {N}, 3); got ({S + 1}, {N}, 3)",
        lambda: jvp(layer, trace, vgiven={"values": np.zeros((S + 1, N, 3))}),
    )
    assert_raises(
        OptionError,
        "jvp: vgiven must be a dict with names among values; got ['exists']",
        lambda: jvp(layer, trace, vgiven={"exists": EXISTS}),
    )
