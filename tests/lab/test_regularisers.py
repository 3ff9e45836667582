"""Flossing and Omega: their gradients against the complex step of their values, computed by another way."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Cell, LayerNormLSTM, PeepholeLSTM, Recurrent, mse_loss
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab import floss, lyapunov, omega
from rnn_numpy.lab.regularisers import floss_value, gram_schmidt, second_order

STEP = 1e-20
STATES = {"h": 0, "c": 1}


def bent_forward(a_t, h_prev, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = 0.3 * h_prev + np.sin(a_t)


def bent_backward(dh_t, a_t, W_hh, da_t, dh_prev, dh_in):
    da_t[...] = dh_t * np.cos(a_t)
    dh_prev += 0.3 * dh_t
    dh_in += W_hh.T @ da_t


class Bent(Recurrent):
    """A user's own cell: h_t = 0.3 h_{t-1} + sin(a_t)."""

    cell = Cell(("h",), ("h",), bent_forward, bent_backward)


KINDS = [
    (RNN, {}),
    (RNN, {"bias": False, "zoneout": 0.2}),
    (RNN, {"nonlinearity": "relu"}),
    (LSTM, {}),
    (LSTM, {"proj_size": 2}),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (PeepholeLSTM, {}),
    (LayerNormLSTM, {"epsilon": 0.3}),
    (Bent, {}),
]
STACKS = [(RNN, {"num_layers": 2}), (LSTM, {"num_layers": 2, "dropout": 0.5})]


def made(kind, options):
    """A layer whose weights are large enough for its second derivatives to matter; inputs."""
    layer = kind(2, 3, rng=1, **options)
    layer.params.flat *= 1.5
    if options.get("nonlinearity") == "relu":
        # All units on: where some are off, there are exact zeros, of which there is a test of its own.
        layer.params["weight_hh_l0"][...] = np.abs(layer.params["weight_hh_l0"])
        layer.params["bias_ih_l0"][...] = 4.0
    return layer, np.random.default_rng(2).normal(size=(7, 2, 2))


def states_of(layer, seed=3):
    """Random initial states (or gradients of final ones), in the layer's form."""
    rng = np.random.default_rng(seed)
    parts = [0.5 * rng.normal(size=(layer.num_layers, 2, layer.width(state))) for state in layer.cell.states]
    return parts[0] if len(parts) == 1 else tuple(parts)


def complexed(states):
    return tuple(part.astype(complex) for part in states) if isinstance(states, tuple) else states.astype(complex)


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def assert_gradient(value, arrays, claimed, rtol):
    """Compare gradients with the complex step of `value()`, a function of complex arrays that are changed in place.

    Parameters
    ----------
    arrays, claimed : lists of ndarray
    """
    for array, gradient in zip(arrays, claimed, strict=True):
        expected = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + 1j * STEP
            expected[index] = value().imag / STEP
            array[index] = kept
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=rtol * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------------- second order


def test_second_order_is_the_hand_formula_of_a_tanh_net():
    """R1 to R3."""
    rng = np.random.default_rng(0)
    rnn, (M, H, D) = RNN(2, 3, rng=1), (6, 3, 2)
    x, s, u, v = rng.normal(size=(M, D)), rng.normal(size=(M, H)), rng.normal(size=(M, H)), rng.normal(size=(M, H))
    W, W_ih = rnn.params["weight_hh_l0"], rnn.params["weight_ih_l0"]
    h = np.tanh(x @ W_ih.T + s @ W.T + rnn.params["bias_ih_l0"] + rnn.params["bias_hh_l0"])
    e = -2 * h * (1 - h**2) * u * (v @ W.T)
    found = second_order(rnn, x, s, u, v)
    grads = {
        "weight_ih_l0": e.T @ x,
        "weight_hh_l0": e.T @ s + ((1 - h**2) * u).T @ v,
        "bias_ih_l0": e.sum(axis=0),
        "bias_hh_l0": e.sum(axis=0),
    }
    for name, expected in grads.items():
        np.testing.assert_allclose(found.grads[name], expected, rtol=1e-12, atol=1e-14, err_msg=name)
    np.testing.assert_allclose(found.dstates, e @ W, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.dx, e @ W_ih, rtol=1e-12, atol=1e-14)


def test_second_order_has_no_scale():
    rnn, rng = RNN(2, 3, rng=1), np.random.default_rng(0)
    x, s, u, v = (rng.normal(size=(4, width)) for width in (2, 3, 3, 3))
    plain = second_order(rnn, x, s, u, v)
    v[1] = 0  # no direction
    u[1] = 0
    shifted = second_order(rnn, x, s, u * 1e120, v * 1e-150)
    rows = [0, 2, 3]
    np.testing.assert_allclose(shifted.dstates[rows], plain.dstates[rows] * 1e-30, rtol=1e-12)
    assert not shifted.dstates[1].any()


# ----------------------------------------------------------------------------------------------------------- flossing


@pytest.mark.parametrize(("kind", "options"), KINDS + STACKS, ids=str)
def test_gradient_of_flossing(kind, options):
    layer, x = made(kind, options)
    h_0 = states_of(layer)
    found = floss(layer, x, 3, h_0=h_0, transient=2, rng=5)
    twin, complex_x, complex_h_0 = layer.astype(complex), x.astype(complex), complexed(h_0)

    def value():
        return floss_value(twin, complex_x, 3, h_0=complex_h_0, transient=2, rng=5)

    np.testing.assert_allclose(found.value, value().real, rtol=1e-12)
    claimed = [*(found.grads[name] for name in layer.params), found.dx, *as_tuple(found.dh_0)]
    arrays = [*(twin.params[name] for name in layer.params), complex_x, *as_tuple(complex_h_0)]
    if options.get("nonlinearity") == "relu":
        # Slopes of 1 throughout: nothing but W_hh is in the Jacobians.
        assert all(
            not gradient.any() for name, gradient in zip(layer.params, claimed, strict=False) if "hh" not in name
        )
        arrays, claimed = [twin.params["weight_hh_l0"]], [found.grads["weight_hh_l0"]]
    assert_gradient(value, arrays, claimed, 1e-11)


def test_flossing_has_the_exponents_of_the_spectrum():
    net, x = LSTM(2, 3, rng=0), np.random.default_rng(0).normal(size=(30, 2, 2))
    found, spectrum = floss(net, x, 4, transient=5, rng=3), lyapunov(net, x, 4, transient=5, rng=3)
    np.testing.assert_allclose(found.exponents, spectrum.per_sequence, rtol=1e-10)
    assert found.value == pytest.approx(np.mean(spectrum.per_sequence**2), rel=1e-10)
    assert repr(found).startswith("Flossing(value=") and "4 exponents of 2 sequences" in repr(found)
    assert floss(net, x[:3]).exponents.shape == (2, 6)


def test_flossing_in_other_forms():
    net, x = LSTM(2, 3, rng=0), np.random.default_rng(0).normal(size=(6, 1, 2))
    found = floss(net, x, 2)
    single = floss(net, x[:, 0], 2)
    turned = floss(LSTM(2, 3, batch_first=True, rng=0), x.swapaxes(0, 1), 2)
    np.testing.assert_array_equal(single.dx, found.dx[:, 0])
    np.testing.assert_array_equal(single.dh_0[1], found.dh_0[1][:, 0])
    np.testing.assert_array_equal(turned.dx, found.dx.swapaxes(0, 1))
    np.testing.assert_array_equal(turned.grads.flat, found.grads.flat)
    rnn = RNN(2, 3, rng=0)
    assert floss(rnn, x[:, 0], 2).dh_0.shape == (1, 3)


def test_flossing_in_pieces(monkeypatch):
    net, x = made(GRU, {})
    whole = floss(net, x, 2)
    monkeypatch.setattr("rnn_numpy.lab.regularisers.CHUNK", 100)
    pieces = floss(net, x, 2)
    np.testing.assert_allclose(pieces.grads.flat, whole.grads.flat, rtol=0, atol=1e-14 * np.abs(whole.grads.flat).max())


def test_gram_schmidt():
    rng = np.random.default_rng(0)
    V = rng.normal(size=(4, 6, 3)) + 1j * rng.normal(size=(4, 6, 3))
    kept = V.copy()
    Q, R = gram_schmidt(V)
    np.testing.assert_allclose(Q @ R, V, atol=1e-14)
    np.testing.assert_allclose(Q.swapaxes(1, 2) @ Q, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-13)
    assert not np.tril(R, -1).any() and (np.diagonal(R, axis1=1, axis2=2).real > 0).all()
    np.testing.assert_array_equal(V, kept)
    flat = gram_schmidt(np.array([[1.0, 2.0], [0.0, 0.0]]))
    assert flat[1].tolist() == [[1.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer": RNN(2, 3, dtype=np.float32)}, DTypeError, "floss: layer must be in float64; got float32. Convert"),
        ({"layer": RNN(2, 3, bidirectional=True)}, OptionError, "floss: layer must have one direction"),
        ({"layer": 1}, DTypeError, "floss: layer must be a recurrent layer"),
        ({"n_exponents": 4}, OptionError, "floss: n_exponents must be at most S = 3"),
        ({"transient": 5}, OptionError, "floss: transient must be smaller than T = 5, the steps of x; got 5"),
        ({"x": np.full((5, 1, 2), np.nan)}, NonFiniteError, "floss: the layer's states leave the range of floats"),
    ],
    ids=str,
)
def test_wrong_arguments_of_flossing(change, error, words):
    given = {"layer": RNN(2, 3, rng=0), "x": np.ones((5, 1, 2)), **change}
    with pytest.raises(error, match=words):
        floss(given.pop("layer"), given.pop("x"), **given)


def test_a_direction_that_is_lost_has_no_flossing():
    net = RNN(2, 3, nonlinearity="relu", rng=0)
    net.params["bias_ih_l0"][...] = -9.0
    with pytest.raises(NonFiniteError, match="step 0 sends a direction to exactly 0"):
        floss(net, np.ones((5, 1, 2)))
    with pytest.raises(OptionError, match="one direction, time first"):
        floss_value(RNN(2, 3, batch_first=True), np.ones((5, 1, 2)))
    with pytest.raises(ShapeError, match=r"x must have shape \(T, N, D\); got \(5, 2\)"):
        floss_value(RNN(2, 3), np.ones((5, 2)))


# -------------------------------------------------------------------------------------------------------------- Omega


def omega_value(layer, x, h_0, doutput, dh_n, form):
    """Omega in the layer's dtype out of the steps of `backward_steps`, complex or not: what it means, in a loop."""
    output, _, trace = layer.forward(x, h_0, training=False)
    doutput = doutput(output) if callable(doutput) else doutput
    padded = np.zeros((*doutput.shape[:2], sum(layer.width(state) for state in layer.cell.states)), layer.dtype)
    padded[..., : doutput.shape[2]] = doutput
    error = padded[-1] + np.concatenate([part[0] for part in as_tuple(dh_n)], axis=1)
    terms = []
    for step in layer.backward_steps(trace, doutput, dh_n):
        before = np.concatenate([getattr(step, f"d{state}_prev") for state in layer.cell.states], axis=1)
        # A step hands back q_t on top of the loss's own gradient of the state before it.
        passed = before - padded[step.t - 1] if step.t else before
        r2 = (passed * passed).sum(axis=1) / (error * error).sum(axis=1)
        terms.append((np.sqrt(r2) - 1) ** 2 if form == "eq9" else (r2 - 1) ** 2)
        error = before
    return np.mean(terms)


def losses(layer):
    rng = np.random.default_rng(8)
    return rng.normal(size=(7, 2, layer.output_width)), states_of(layer, seed=9)


@pytest.mark.parametrize("form", ["eq9", "eq10"])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_full_gradient_of_omega(kind, options, form):
    layer, x = made(kind, options)
    h_0, (doutput, dh_n) = states_of(layer), losses(layer)
    trace = layer.forward(x, h_0, training=False)[2]
    found = omega(layer, trace, doutput, dh_n, form=form, gradient="full")
    twin = layer.astype(complex)
    z, z_0, dz, dz_n = x.astype(complex), complexed(h_0), doutput.astype(complex), complexed(dh_n)

    def value():
        return omega_value(twin, z, z_0, dz, dz_n, form)

    np.testing.assert_allclose(found.value, value().real, rtol=1e-12)
    claimed = [*(found.grads[name] for name in layer.params), found.dx, *as_tuple(found.dh_0)]
    arrays = [*(twin.params[name] for name in layer.params), z, *as_tuple(z_0)]
    if options.get("nonlinearity") == "relu":
        arrays, claimed = [twin.params["weight_hh_l0"]], [found.grads["weight_hh_l0"]]
    arrays, claimed = [*arrays, dz, *as_tuple(dz_n)], [*claimed, found.ddoutput, *as_tuple(found.ddh_n)]
    assert_gradient(value, arrays, claimed, 1e-12)


def test_with_a_loss_whose_gradient_moves():
    """The Hessian of the loss times ddoutput, sent back, is what is missing."""
    layer, x = made(RNN, {})
    target = np.random.default_rng(4).normal(size=(7, 2, 3))
    output, _, trace = layer.forward(x)
    doutput = mse_loss(output, target)[1]
    found = omega(layer, trace, doutput, gradient="full")
    layer.backward(trace, 2 / output.size * found.ddoutput, None, found.grads)
    twin = layer.astype(complex)
    nothing = np.zeros((1, 2, 3), complex)

    def value():
        return omega_value(twin, x.astype(complex), nothing, lambda z: 2 / z.size * (z - target), nothing, "eq9")

    assert_gradient(value, [twin.params[name] for name in layer.params], list(found.grads.values()), 1e-11)


@pytest.mark.parametrize("form", ["eq9", "eq10"])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, Bent])
def test_immediate_gradient_of_omega(kind, form):
    """The complex step of W_hh in O1's product alone: errors, states and slopes are recorded numbers."""
    layer, x = made(kind, {})
    doutput, dh_n = losses(layer)
    trace = layer.forward(x)[2]
    found = omega(layer, trace, doutput, dh_n, form=form)
    padded = np.zeros((7, 2, 2 * 3 if kind is LSTM else 3))
    padded[..., :3] = doutput
    error, recorded = padded[-1] + np.concatenate([part[0] for part in as_tuple(dh_n)], axis=1), []
    for step in layer.backward_steps(trace, doutput, dh_n):
        before = np.concatenate([getattr(step, f"d{state}_prev") for state in layer.cell.states], axis=1)
        names = {LSTM: ("da_i", "da_f", "da_g", "da_o"), GRU: ("da_r", "da_z", "da_q")}.get(kind, ("da",))
        da = np.concatenate([getattr(step, name) for name in names], axis=1)
        recorded.append((error, before - padded[step.t - 1] if step.t else before, da))
        error = before
    W = layer.params["weight_hh_l0"].copy()
    changed = W.astype(complex)

    def value():
        total = 0
        for error, passed, da in recorded:
            q = passed.astype(complex)
            q[:, :3] += da @ (changed - W)
            r2 = (q * q).sum(axis=1) / (error * error).sum(axis=1)
            total += ((np.sqrt(r2) - 1) ** 2 if form == "eq9" else (r2 - 1) ** 2).sum()
        return total / 14

    assert_gradient(value, [changed], [found.grads["weight_hh_l0"]], 1e-12)
    assert all(not found.grads[name].any() for name in layer.params if name != "weight_hh_l0")
    full = omega(layer, trace, doutput, dh_n, form=form, gradient="full")
    assert full.value == found.value
    assert np.abs(full.grads["weight_hh_l0"] - found.grads["weight_hh_l0"]).max() > 0.01 * np.abs(full.grads.flat).max()
    assert found.dx is None and found.ddoutput is None


def test_published_code_of_omega():
    """What the released code computes, in its own order: rows, W_hh transposed, the mean over what counts."""
    layer, x = made(RNN, {})
    output, _, trace = layer.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = np.random.default_rng(0).normal(size=(2, 3))
    layer.backward(trace, doutput)
    bound = float(np.sort((trace.dh[1:] ** 2).sum(axis=2), axis=None)[4])  # four of fourteen do not count
    d_ht, ht, W_hh = trace.dh, trace.h[1:], layer.params["weight_hh_l0"].T
    tmp_x = (((d_ht[1:] * (1 - ht**2)) @ W_hh.T) ** 2).sum(2)
    tmp_y = (d_ht[1:] ** 2).sum(2)
    tmp_reg = (np.where(tmp_y >= bound, tmp_x / tmp_y, 1) - 1) ** 2
    expected = tmp_reg.mean(1).sum() / (tmp_y >= bound).mean(axis=1).sum()
    found = omega(layer, trace, doutput, form="eq10", bound=bound)
    assert found.value == pytest.approx(expected, rel=1e-13)
    assert np.isnan(found.ratios).sum() == 4
    assert "10 of 14 steps" in repr(found)


@pytest.mark.parametrize("gradient", ["immediate", "full"])
@pytest.mark.parametrize("scale", [2.0**600, 2.0**-600])
def test_omega_has_no_scale(scale, gradient):
    """Ratios do not depend on how large the loss is, also where the squares of its gradient are no floats."""
    layer = RNN(2, 4, rng=0)
    trace = layer.forward(np.random.default_rng(1).normal(size=(9, 2, 2)))[2]
    doutput = np.random.default_rng(2).normal(size=(9, 2, 4))
    one = omega(layer, trace, doutput, gradient=gradient, bound=0.0)
    other = omega(layer, trace, scale * doutput, gradient=gradient, bound=0.0)
    assert other.value == pytest.approx(one.value, rel=1e-14)
    np.testing.assert_allclose(other.grads.flat, one.grads.flat, rtol=0, atol=1e-14 * np.abs(one.grads.flat).max())


def test_nothing_counts():
    layer, x = made(RNN, {})
    trace = layer.forward(x)[2]
    for gradient in ("immediate", "full"):
        found = omega(layer, trace, np.zeros((7, 2, 3)), bound=0.0, gradient=gradient)
        assert found.value == 0 and not found.grads.flat.any() and np.isnan(found.ratios).all()
        assert "0 of 14 steps, no ratio" in repr(found)


def test_a_step_that_hands_nothing_back():
    """relu units that are all off: r = 0, which has no direction, and a term of 1."""
    layer = RNN(2, 3, nonlinearity="relu", rng=0)
    layer.params["bias_ih_l0"][...] = -20.0
    trace = layer.forward(np.ones((1, 1, 2)))[2]
    found = omega(layer, trace, np.ones((1, 1, 3)))
    assert found.value == 1 and not found.grads.flat.any() and found.ratios.tolist() == [[0.0]]


def test_omega_of_an_older_trace_and_other_axes():
    layer, x = made(RNN, {})
    doutput, dh_n = losses(layer)
    trace = layer.forward(x)[2]
    expected = omega(layer, trace, doutput, dh_n, gradient="full")
    turned = RNN(2, 3, batch_first=True, rng=1)
    turned.params.flat[...] = layer.params.flat
    trace_2 = turned.forward(x.swapaxes(0, 1))[2]
    found = omega(turned, trace_2, doutput.swapaxes(0, 1), dh_n, gradient="full")
    np.testing.assert_array_equal(found.dx, expected.dx.swapaxes(0, 1))
    np.testing.assert_array_equal(found.ddoutput, expected.ddoutput.swapaxes(0, 1))
    np.testing.assert_array_equal(found.grads.flat, expected.grads.flat)
    layer.params.flat += 1.0  # the trace has the parameters of its pass
    again = omega(layer, trace, doutput, dh_n, gradient="full")
    np.testing.assert_array_equal(again.grads.flat, expected.grads.flat)


@pytest.mark.parametrize(
    ("layer", "options", "error", "words"),
    [
        (RNN(2, 3, num_layers=2), {}, OptionError, "layer must be a single one, with one direction; got RNN"),
        (RNN(2, 3, bidirectional=True), {}, OptionError, "layer must be a single one, with one direction"),
        (RNN(2, 3, dtype=np.float32), {}, DTypeError, "layer must be in float64; got float32"),
        (RNN(2, 3), {"form": "eq11"}, OptionError, "form must be one of 'eq9', 'eq10'; got 'eq11'"),
        (RNN(2, 3), {"gradient": "all"}, OptionError, "gradient must be one of 'immediate', 'full'; got 'all'"),
        (RNN(2, 3), {"bound": -1.0}, OptionError, "bound must be at least 0; got -1.0"),
        (RNN(2, 3, recurrent_dropout=0.5, rng=0), {}, OptionError, "trace must be recorded without masks"),
        (RNN(2, 3, zoneout=0.5, rng=0), {}, OptionError, "trace must be recorded without masks"),
        (PeepholeLSTM(2, 3), {}, OptionError, "'immediate' is for cells .*; PeepholeLSTM has. Use gradient='full'"),
        (GRU(2, 3, reset="before"), {}, OptionError, "'immediate' is for cells"),
    ],
    ids=str,
)
def test_wrong_arguments_of_omega(layer, options, error, words):
    output, _, trace = layer.forward(np.ones((4, 2, 2), layer.dtype))
    with pytest.raises(error, match=words):
        omega(layer, trace, output, **options)


def test_wrong_traces_of_omega():
    layer = RNN(2, 3, rng=0)
    output, _, trace = layer.forward(np.ones((4, 2, 2)), lengths=[4, 2])
    with pytest.raises(OptionError, match="trace must be recorded without lengths"):
        omega(layer, trace, output)
    with pytest.raises(DTypeError, match="layer must be a recurrent layer"):
        omega(1, trace, output)
    with pytest.raises(ShapeError, match="recorded by a layer with other options"):
        omega(GRU(2, 3), trace, output)
