import warnings

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import (
    adjoint_test,
    assert_grad_close,
    cauchy_riemann,
    complex_step,
    directional_derivative,
    taylor_test,
)
from rnn_numpy.checks.oracles import hessian, hessian_vector
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError, ShapeError

POINT = {"a": np.array([[0.3, -1.2], [0.0, 2.0]]), "b": np.array(0.7)}


def smooth(p):
    """Return a function whose gradient is known: sin(a) b + a^2."""
    return np.sum(np.sin(p["a"]) * p["b"] + p["a"] ** 2)


SMOOTH_GRADIENT = {"a": np.cos(POINT["a"]) * POINT["b"] + 2 * POINT["a"], "b": np.sum(np.sin(POINT["a"]))}


@pytest.mark.parametrize("size", [1e-136, 1e-250, 1e-268])
def test_the_step_sees_what_has_vanished(size):
    found = complex_step(lambda p: 1.0 + size * np.sum(np.cos(p["a"])), POINT)
    assert_grad_close("a", found["a"], -size * np.sin(POINT["a"]), 1e-14)


def test_the_step_rule():
    def loss(p):
        return 1.0 + 1e-280 * np.sum(np.cos(p["a"]))

    expected = -1e-280 * np.sin(POINT["a"])
    # h |g| = 1e-300 and 1e-310: near the end of the range, and past it. A larger step has h^2 << eps all the same.
    assert_grad_close("a", complex_step(loss, POINT, step=1e-10)["a"], expected, 1e-14)
    assert not complex_step(loss, POINT, step=1e-60)["a"].any()
    # h^2 = 1e-6 is not below eps: truncation shows.
    error = np.abs(complex_step(smooth, POINT, step=1e-3, verify=False)["a"] - SMOOTH_GRADIENT["a"])
    assert 1e-8 < np.max(error) < 1e-6
    assert_grad_close("a", complex_step(smooth, POINT, step=1e-10)["a"], SMOOTH_GRADIENT["a"], 1e-15)


def test_a_large_gradient():
    found = complex_step(lambda p: 1e200 * smooth(p), POINT)
    assert_grad_close("a", found["a"], 1e200 * SMOOTH_GRADIENT["a"], 1e-15)


# ---------------------------------------------------------------------------------------------- batches


def rows(p):
    """The function `smooth` of each row."""
    return np.sum(np.sin(p["a"]) * p["b"][:, None, None] + p["a"] ** 2, axis=(1, 2))


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 64])
def test_batches_give_the_same(batch):
    sizes = []

    def loss(p):
        sizes.append(len(p["a"]))
        assert p["a"].shape[1:] == (2, 2)
        assert p["b"].shape == p["a"].shape[:1]
        return rows(p)

    found = complex_step(loss, POINT, batch=batch)
    for name, expected in SMOOTH_GRADIENT.items():
        assert_grad_close(name, found[name], expected, 1e-15)
    assert max(sizes) == min(max(batch, 2), 5)


def test_batches_by_some_names():
    assert list(complex_step(rows, POINT, names=["b"], batch=4)) == ["b"]
    assert complex_step(rows, POINT, names=[], batch=4) == {}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p: np.sum(rows(p)), "loss must return one number for each of the K = 5 rows of a batch"),
        (lambda p: rows(p).real, "loss must return a complex number for complex arrays; got float64"),
        (lambda p: rows(p) + 1j, "loss must be real where its arguments are"),
        (lambda p: rows(p) * complex(np.inf), "loss must return finite numbers; got "),
        (
            lambda p: rows(p) - np.mean(rows(p)),
            "row k of what loss returns must depend on the rows k of its arrays alone",
        ),
        (lambda p: np.vecdot(p["a"].reshape(-1, 4), p["a"].reshape(-1, 4)), "loss must be analytic for a complex step"),
    ],
)
def test_batches_that_cannot_be(loss, message):
    with np.errstate(invalid="ignore"), pytest.raises(GradientCheckError) as caught:
        complex_step(loss, POINT, batch=5)
    assert str(caught.value).startswith(f"complex_step: {message}")


def test_batch_must_be_a_positive_integer():
    with pytest.raises(OptionError, match="^complex_step: batch must be at least 1; got 0$"):
        complex_step(rows, POINT, batch=0)


# ---------------------------------------------------------------------------------------------- directions


def test_directional_derivative():
    rng = np.random.default_rng(0)
    direction = {"a": rng.normal(size=(2, 2)), "b": np.array(0.3)}
    expected = sum(np.sum(direction[name] * SMOOTH_GRADIENT[name]) for name in direction)
    assert directional_derivative(smooth, POINT, direction) == pytest.approx(expected, rel=1e-14)
    assert directional_derivative(smooth, POINT, {"b": 1.0}) == pytest.approx(float(SMOOTH_GRADIENT["b"]), rel=1e-15)
    assert directional_derivative(smooth, POINT, {"b": 0.0}) == 0
    for size in (1e-290, 1e290):
        scaled = {name: size * array for name, array in direction.items()}
        assert directional_derivative(smooth, POINT, scaled) == pytest.approx(size * expected, rel=1e-14)


def test_directional_derivative_of_a_large_model_shows_one_wrong_entry():
    rng = np.random.default_rng(0)
    size = 100_000
    point, weight = {"w": rng.normal(size=size)}, rng.normal(size=size)
    gradient = weight / np.cosh(point["w"]) ** 2
    direction = rng.normal(size=size)
    found = directional_derivative(lambda p: weight @ np.tanh(p["w"]), point, {"w": direction})
    noise = np.linalg.norm(gradient) * np.linalg.norm(direction) * 1e-15
    assert abs(found - gradient @ direction) < noise
    gradient[777] *= 1.1
    assert abs(found - gradient @ direction) > 1e3 * noise


@pytest.mark.parametrize(
    ("direction", "error", "message"),
    [
        ({"c": 1.0}, OptionError, "names must be among ['a', 'b']; got ['c']"),
        ({"a": np.ones(4)}, ShapeError, "direction['a'] must have shape (2, 2); got (4,)"),
        ({"b": 1j}, DTypeError, "direction['b'] must be an array of real numbers; got complex128"),
        ({"b": np.nan}, GradientCheckError, "direction['b'] must be finite; got nan"),
        ([1.0], DTypeError, "direction must be a dict of arrays by name; got list"),
    ],
)
def test_directions_must_fit(direction, error, message):
    with pytest.raises(error) as caught:
        directional_derivative(smooth, POINT, direction)
    assert str(caught.value) == f"directional_derivative: {message}"


# ---------------------------------------------------------------------------------------------- is it analytic?


def shifted_softmax(p):
    weights = np.exp(p["a"] - p["a"].real.max())
    return np.sum(weights * p["b"] ** 2 * np.arange(4.0).reshape(2, 2)) / np.sum(weights)


def test_a_shift_by_the_real_maximum_is_legitimate():
    test = cauchy_riemann(shifted_softmax, POINT)
    assert test.analytic is True
    assert test.violations == ("real",)
    assert complex_step(shifted_softmax, POINT)["b"].shape == ()


HIDDEN = {
    "vdot": (lambda p: np.vdot(p["a"], p["a"]), "it uses vdot (write np.sum(a * b))"),
    "conj": (lambda p: smooth(p) + 1e-3 * np.sum(p["a"].conj() * p["a"]), "it uses conjugate (write a itself"),
    "norm": (lambda p: smooth(p) + 1e-3 * np.linalg.norm(p["a"]), "it uses linalg.norm (write np.sqrt(np.sum(a * a)))"),
    "abs": (lambda p: smooth(p) + np.sum(np.abs(p["a"])), "it uses absolute (write np.where(a.real < 0, -a, a))"),
    "asarray": (lambda p: smooth(p) + np.sum(abs(np.asarray(p["a"]))), "no function known to lose it was seen"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_not_analytic_is_told_with_what_to_write(name):
    loss, words = HIDDEN[name]
    point = {**POINT, "a": POINT["a"] + 0.05}
    test = cauchy_riemann(loss, point, seed=3)
    assert test.analytic is False
    with pytest.raises(GradientCheckError) as caught:
        complex_step(loss, point)
    assert str(caught.value).startswith(
        "complex_step: loss must be analytic for a complex step; along a random direction "
    )
    assert words in str(caught.value)
    complex_step(loss, point, verify=False)


def test_only_the_named_arrays_need_be_analytic():
    def loss(p):
        return np.sum(np.abs(p["a"])) * np.tanh(p["b"])

    expected = np.sum(np.abs(POINT["a"])) / np.cosh(0.7) ** 2
    assert_grad_close("b", complex_step(loss, POINT, names=["b"])["b"], expected, 1e-15)


def recurrent(gain, steps, size):
    rng = np.random.default_rng(7)
    point = {"W": gain * rng.normal(size=(size, size)) / np.sqrt(size), "b": 0.1 * rng.normal(size=size)}
    x, weight = rng.normal(size=(steps, size)), rng.normal(size=size)

    def loss(p):
        h = 0 * p["b"]
        for x_t in x:
            h = np.tanh(p["W"] @ h + p["b"] + x_t)
        return weight @ h

    return loss, point


@pytest.mark.parametrize(("gain", "steps"), [(0.5, 5), (0.5, 50), (1.0, 30), (2.0, 30)])
def test_nets_are_found_analytic(gain, steps):
    assert cauchy_riemann(*recurrent(gain, steps, 8)).analytic is True


@pytest.mark.parametrize("seed", range(5))
def test_chaos_cannot_be_told_and_is_not_refused(seed):
    loss, point = recurrent(4.0, 200, 40)
    assert cauchy_riemann(loss, point, seed=seed).analytic is None
    assert complex_step(loss, point, names=["b"])["b"].shape == (40,)


def test_what_rounding_hides_cannot_be_told():
    test = cauchy_riemann(lambda p: 1 + 1e-30 * smooth(p), POINT)
    assert test.analytic is None
    assert cauchy_riemann(lambda p: 1e-30 * smooth(p), POINT).analytic is True


def test_a_kink_at_the_point_cannot_be_told():
    test = cauchy_riemann(lambda p: np.sum(np.where(p["a"].real > 0, p["a"], 0)), {"a": np.zeros(2)})
    assert test.kinked
    assert test.analytic is None


# ---------------------------------------------------------------------------------------------- what a loss must return


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p: p["a"] + 0, "complex_step: loss must return one number; got an array of shape (2, 2). Sum it"),
        (lambda p: np.sum(p["a"]) * complex(np.inf, 0.0), "complex_step: loss must return a finite number; got "),
        (lambda p: np.sum(p["a"]) + 1j, "complex_step: loss must be real where its arguments are"),
        (lambda p: np.sum(np.abs(p["a"])), "complex_step: loss must return a complex number for complex arrays; got "),
        (lambda p: 1.0, "complex_step: loss must return a complex number for complex arrays; got float64"),
    ],
)
def test_complex_step_wants_one_finite_complex_number(loss, message):
    with np.errstate(invalid="ignore"), pytest.raises(GradientCheckError) as caught:
        complex_step(loss, POINT)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("how", ["astype", "buffer"])
def test_a_dropped_imaginary_part_is_an_error_even_where_warnings_are_off(how):
    def dropping(p):
        if how == "astype":
            return np.sum(p["a"].astype(float)) + 0j
        buffer = np.zeros(p["a"].shape)
        buffer[...] = p["a"]
        return np.sum(buffer) + 0j

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(GradientCheckError, match="^complex_step: loss drops the imaginary part, which carries the"):
            complex_step(dropping, POINT)


# ---------------------------------------------------------------------------------------------- second derivatives

LAYERS = {
    "RNN": lambda: RNN(2, 3, rng=0),
    "LSTM": lambda: LSTM(2, 3, rng=0),
    "GRU": lambda: GRU(2, 3, rng=0),
    "GRU before": lambda: GRU(2, 3, reset="before", rng=0),
}


def problem(layer):
    """Return a loss of a layer's parameters, the gradient by its backward pass, and the parameters."""
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(6, 2, 2)), rng.normal(size=(6, 2, 3))
    twins = {np.dtype(dtype): layer.astype(dtype) for dtype in (np.float64, np.complex128)}

    def filled(p):
        twin = twins[p["weight_ih_l0"].dtype]
        twin.load_state_dict(p)
        return twin

    def loss(p):
        twin = filled(p)
        return np.sum(weight * twin(x.astype(twin.dtype))[0] ** 2)

    def grads(p):
        twin = filled(p)
        output, _, trace = twin.forward(x.astype(twin.dtype))
        return dict(twin.backward(trace, 2 * weight * output).grads)

    return loss, grads, dict(layer.params)


@pytest.mark.parametrize("kind", LAYERS)
def test_hessian_by_a_complex_step_through_the_backward_pass(kind):
    loss, grads, point = problem(LAYERS[kind]())
    found = hessian(grads, point)
    assert found.asymmetry < 2e-15
    # A row is a gradient's derivative: of the same function as a difference of the loss says.
    rng = np.random.default_rng(2)
    direction = {name: rng.normal(size=array.shape) for name, array in point.items()}
    product = hessian_vector(grads, point, direction)
    flat = np.concatenate([direction[name].ravel() for name in found.slices])
    assert_grad_close(
        "Hv", np.concatenate([product[name].ravel() for name in found.slices]), found.matrix @ flat, 1e-14
    )
    result = taylor_test(loss, point, grads(point), hessian_vector=lambda v: hessian_vector(grads, point, v))
    assert result.verdicts == {"first": "ok", "odd": "ok", "second": "ok"}
    assert np.all(np.abs(result.last_rates("second") - 3) < 0.02)
    assert np.all(np.abs(result.last_rates("odd") - 3) < 0.02)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_hessian_is_its_own_adjoint(kind):
    _, grads, point = problem(LAYERS[kind]())

    def push(direction):
        return hessian_vector(grads, point, direction)

    assert adjoint_test(push, push, point, point) < 1e-14


def test_a_backward_pass_with_a_mistake_has_no_symmetric_hessian():
    _, grads, point = problem(RNN(2, 3, rng=0))

    def wrong(p):
        return {**grads(p), "bias_hh_l0": grads(p)["bias_hh_l0"] * 1.001}

    assert hessian(wrong, point).asymmetry > 1e-4


def test_hessian_of_some_names_and_of_nothing():
    _, grads, point = problem(RNN(2, 3, rng=0))
    whole, part = hessian(grads, point), hessian(grads, point, names=["bias_hh_l0"])
    block = whole.slices["bias_hh_l0"]
    assert np.array_equal(part.matrix, whole.matrix[block, block])
    assert hessian(lambda p: {"a": 0 * p["a"]}, {"a": np.ones(2)}).asymmetry == 0
    assert hessian(lambda p: {"a": p["a"]}, {"a": np.ones(0)}).matrix.shape == (0, 0)


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (lambda p: {}, "grads must return a gradient for each array; 'a' is missing"),
        (
            lambda p: {"a": p["a"].real},
            "grads must return a complex array of shape (2,) for 'a', at complex arrays; got ",
        ),
        (
            lambda p: {"a": p["a"][:1]},
            "grads must return a complex array of shape (2,) for 'a', at complex arrays; got ",
        ),
        (lambda p: {"a": p["a"] * np.inf}, "the gradient of 'a' must be finite"),
    ],
)
def test_hessians_want_complex_gradients(grads, message):
    with np.errstate(invalid="ignore"), pytest.raises(GradientCheckError) as caught:
        hessian_vector(grads, {"a": np.ones(2)}, {"a": np.ones(2)})
    assert str(caught.value).startswith(f"hessian_vector: {message}")
