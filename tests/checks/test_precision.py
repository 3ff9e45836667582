"""References of fifty digits, by the loss itself; and the step formulas of the layers, run on such numbers."""

import sys

import mpmath
import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import assert_grad_close, complex_step, high_precision
from rnn_numpy.errors import DTypeError, GradientCheckError, MissingExtraError, OptionError
from rnn_numpy.layers.gru import after_step_forward, before_step_forward
from rnn_numpy.layers.lstm import lstm_step_forward
from rnn_numpy.layers.rnn import relu_step_forward, tanh_step_forward

METHODS = pytest.mark.parametrize("method", ["complex step", "central difference"])
POINT = {"a": np.array([[0.3, -1.2], [0.4, 2.0]]), "b": np.array(0.7)}


@METHODS
def test_known_gradient(method):
    def loss(p):
        return np.sum(np.sin(p["a"]) * p["b"] + p["a"] ** 2)

    found = high_precision(loss, POINT, method=method)
    expected = {"a": np.cos(POINT["a"]) * 0.7 + 2 * POINT["a"], "b": np.sum(np.sin(POINT["a"]))}
    for name, array in found.items():
        assert array.dtype == np.float64
        assert_grad_close(name, array, expected[name], 5e-16)


ONES = ["exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"]
ONES += ["arcsin", "arccos", "arctan", "arcsinh", "arctanh", "cbrt", "square", "reciprocal", "negative"]


@METHODS
@pytest.mark.parametrize("name", ONES)
def test_functions_of_numpy_on_numbers_of_many_digits(name, method):
    function = getattr(np, name)
    point = {"a": np.array([0.2, 0.5, 0.8])}

    def loss(p):
        return np.sum(function(p["a"]) * [1.0, 2.0, 3.0])

    # Where NumPy lacks the function for complex numbers, or computes it to fewer digits there.
    closed = {
        "cbrt": 1 / (3 * np.cbrt(point["a"]) ** 2),
        "arcsin": 1 / np.sqrt(1 - point["a"] ** 2),
        "arccos": -1 / np.sqrt(1 - point["a"] ** 2),
    }
    expected = closed[name] * [1.0, 2.0, 3.0] if name in closed else complex_step(loss, point)["a"]
    assert_grad_close("a", high_precision(loss, point, method=method)["a"], expected, 2e-15)


def test_more_digits_than_double_precision_has():
    # 1 - tanh(20)^2 is 0 there.
    found = high_precision(lambda p: np.sum(np.tanh(p["a"])), {"a": np.array([20.0])})["a"]
    assert found[0] == pytest.approx(4 * np.exp(-40.0) / (1 + np.exp(-40.0)) ** 2, rel=1e-15)


def test_vanished_gradients():
    def loss(p):
        return 1 + np.sum(p["a"] ** 2) * np.exp(-700 + p["b"])

    found = high_precision(loss, POINT)
    with mpmath.workdps(50):
        size = float(mpmath.exp(mpmath.mpf(0.7) - 700))
    assert_grad_close("a", found["a"], 2 * POINT["a"] * size, 1e-15)
    # The difference loses them to its digits, as its docstring says; with more of them it does not.
    assert np.max(np.abs(high_precision(loss, POINT, method="central difference")["a"])) == 0
    assert_grad_close("a", high_precision(loss, POINT, 700, method="central difference")["a"], found["a"], 1e-15)


def test_maxima_and_comparisons_work_as_on_floats():
    def loss(p):
        largest = np.max(p["a"])
        return (
            np.log(np.sum(np.exp(p["a"] - largest)))
            + largest
            + np.sum(np.maximum(p["a"], 0) * np.where(p["a"] > 1, 2, 3))
        )

    assert_grad_close("a", high_precision(loss, POINT, names=["a"])["a"], complex_step(loss, POINT)["a"], 1e-15)


def test_a_loss_that_is_not_analytic():
    def loss(p):
        return np.sum(np.abs(p["a"]) * p["b"])

    with pytest.raises(
        GradientCheckError, match="^high_precision: loss must be analytic for a complex step; along a rand"
    ):
        high_precision(loss, POINT)
    found = high_precision(loss, POINT, method="central difference")
    assert_grad_close("a", found["a"], np.sign(POINT["a"]) * 0.7, 1e-16)


@METHODS
def test_names_shapes_and_the_point(method):
    point = {"a": POINT["a"].copy(), "c": np.zeros((0, 2)), "d": np.array(2.0)}
    found = high_precision(lambda p: np.sum(p["a"]) * p["d"], point, names=["c", "d"], method=method)
    assert found["c"].shape == (0, 2)
    assert found["d"] == np.sum(point["a"])
    assert np.array_equal(point["a"], POINT["a"])
    assert high_precision(lambda p: np.sum(p["a"]), point, names=["c"], method=method)["c"].shape == (0, 2)


def test_the_classes_of_mpmath_are_left_alone():
    high_precision(lambda p: np.sum(np.tanh(p["a"])), POINT)
    for kind in (mpmath.mpf, mpmath.mpc):
        assert not hasattr(kind, "tanh")
    assert float(mpmath.mpf(2)) == 2.0
    assert mpmath.mp.dps == 15
    with pytest.raises(TypeError, match="no ordering relation|not supported between instances of .mpc"):
        max(mpmath.mpc(1, 1), mpmath.mpc(2, 1))


def into_floats(p):
    buffer = np.zeros(p["a"].shape)
    buffer[...] = p["a"]
    return np.sum(buffer)


@METHODS
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (into_floats, "high_precision: loss must not put its numbers into an array of floats"),
        (lambda p: p["a"], "high_precision: loss must return one number; got an array of shape (2, 2). Sum it"),
        (lambda p: 1.0, "high_precision: loss must return a number of mpmath for arrays of such; got float"),
        (lambda p: np.sum(p["a"]) * np.inf, "high_precision: loss must return a finite number; got "),
    ],
)
def test_losses_that_cannot_be(loss, message, method):
    with pytest.raises(GradientCheckError) as caught:
        high_precision(loss, POINT, method=method)
    assert str(caught.value).startswith(message)


def test_options_are_checked():
    for options, message in (
        ({"digits": 10}, "digits must be from 20 to 1000; got 10"),
        ({"digits": 2000}, "digits must be from 20 to 1000; got 2000"),
        ({"method": "ridders"}, "method must be one of 'complex step', 'central difference'; got 'ridders'"),
        ({"names": ["c"]}, r"names must be among \['a', 'b'\]; got \['c'\]"),
    ):
        with pytest.raises(OptionError, match=f"^high_precision: {message}$"):
            high_precision(lambda p: np.sum(p["a"]), POINT, **options)
    with pytest.raises(DTypeError, match="^high_precision: a must be a float64 array; got float32"):
        high_precision(lambda p: np.sum(p["a"]), {"a": np.ones(2, np.float32)})


def test_without_mpmath_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    with pytest.raises(MissingExtraError) as caught:
        high_precision(lambda p: np.sum(p["a"]), POINT)
    assert str(caught.value) == (
        "high_precision, which computes with many digits, needs mpmath, which is not installed; install it with: "
        'pip install "rnn_numpy[mpmath]"'
    )


# ---------------------------------------------------------------------------------------------- the formulas themselves

T, N, D, H = 8, 1, 2, 3
RNG = np.random.default_rng(5)
X, WEIGHT = RNG.normal(size=(T, N, D)), RNG.normal(size=(T, N, H))


def empty(*shape):
    return np.empty(shape, object)


def rnn_outputs(step_forward):
    def outputs(p):
        h = np.zeros((N, H), object) + p["h_0"]
        for x_t in X:
            a_t, h_t = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"], empty(N, H)
            step_forward(a_t, h, p["weight_hh_l0"], h_t)
            h = h_t
            yield h

    return outputs


def slabs(array, names, order):
    """Return the blocks of rows, named in the order of the parameters, in another order."""
    blocks = dict(zip(names, np.split(array, len(names)), strict=True))
    return np.concatenate([blocks[name] for name in order])


def lstm_outputs(p):
    halves = np.repeat([0.5, 0.5, 0.5, 1.0], H)[:, None]  # rows o, i, f, as the driver halves them, and g
    W_ih, W_hh = (halves * slabs(p[f"weight_{side}_l0"], "ifgo", "oifg") for side in ("ih", "hh"))
    b = halves * slabs((p["bias_ih_l0"] + p["bias_hh_l0"])[:, None], "ifgo", "oifg")
    h, c = p["h_0"].T, p["c_0"].T
    for x_t in X:
        a_t = W_ih @ x_t.T + b
        o_t, i_t, f_t, g_t = np.split(a_t, 4)
        c_t, h_t = empty(H, N), empty(H, N)
        lstm_step_forward(
            a_t, a_t[: 3 * H], o_t, i_t, f_t, g_t, h, c, W_hh, np.array(0.5), empty(H, N), c_t, empty(H, N), h_t
        )
        h, c = h_t, c_t
        yield h.T


def gru_after_outputs(p):
    halves = np.repeat([0.5, 0.5, 1.0], H)[:, None]  # rows r, z halved, and n
    W_ih, b_ih = halves * p["weight_ih_l0"], halves * p["bias_ih_l0"][:, None]
    W_hh = slabs(halves * p["weight_hh_l0"], "rzn", "nrz")
    b_hh = slabs(halves * p["bias_hh_l0"][:, None], "rzn", "nrz")
    h = p["h_0"].T
    for x_t in X:
        qrz_t, h_t = empty(4 * H, N), empty(H, N)
        qrz_t[:H] = b_hh[:H]
        qrz_t[H:] = W_ih @ x_t.T + b_ih
        qrz_t[H : 3 * H] += b_hh[H:]
        q_t, r_t, z_t, n_t = np.split(qrz_t, 4)
        after_step_forward(
            qrz_t=qrz_t[: 3 * H], rz_t=qrz_t[H : 3 * H], q_t=q_t, r_t=r_t, z_t=z_t, n_t=n_t, h_in=h, h_prev=h,
            W_hh=W_hh, half=np.array(0.5), scratch_t=empty(H, N), h_t=h_t,
        )  # fmt: skip
        h = h_t
        yield h.T


def gru_before_outputs(p):
    halves = np.repeat([0.5, 0.5, 1.0], H)[:, None]
    W_ih, W_hh = halves * p["weight_ih_l0"], halves * p["weight_hh_l0"]
    b = halves * (p["bias_ih_l0"] + p["bias_hh_l0"])[:, None]
    h = p["h_0"].T
    for x_t in X:
        a_t, h_t = W_ih @ x_t.T + b, empty(H, N)
        r_t, z_t, n_t = np.split(a_t, 3)
        before_step_forward(
            a_t[: 2 * H], r_t, z_t, n_t, h, h, W_hh[: 2 * H], W_hh[2 * H :], np.array(0.5), empty(H, N), h_t
        )
        h = h_t
        yield h.T


CELLS = {
    "RNN": (RNN, {}, rnn_outputs(tanh_step_forward), ("h_0",)),
    "RNN relu": (RNN, {"nonlinearity": "relu"}, rnn_outputs(relu_step_forward), ("h_0",)),
    "LSTM": (LSTM, {}, lstm_outputs, ("h_0", "c_0")),
    "GRU": (GRU, {}, gru_after_outputs, ("h_0",)),
    "GRU before": (GRU, {"reset": "before"}, gru_before_outputs, ("h_0",)),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_layers_own_formulas_in_fifty_digits_have_the_gradient_of_its_backward_pass(name):
    kind, options, outputs, states = CELLS[name]
    layer = kind(D, H, rng=3, **options)
    rng = np.random.default_rng(4)
    point = dict(layer.params) | {state: rng.normal(size=(N, H)) for state in states}

    def loss(p):
        return sum(np.sum(weight * h) for weight, h in zip(WEIGHT, outputs(p), strict=True))

    first = tuple(point[state][None] for state in states)
    output, _, trace = layer.forward(X, first if len(first) > 1 else first[0])
    back = layer.backward(trace, WEIGHT)
    analytic = dict(back.grads) | {state: getattr(back, f"d{state}")[0] for state in states}
    reference = high_precision(loss, point)
    for key, expected in reference.items():
        assert_grad_close(f"d{key}", analytic[key], expected, 5e-15)
    assert output.shape == (T, N, H)
