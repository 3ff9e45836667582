import numpy as np
import pytest

from rnn_numpy.checks import adjoint_test, complex_step, taylor_test
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError, ShapeError


def net(seed, size=6, steps=15):
    """Return the cross-entropy of a small recurrent net, its parameters, and the gradient by a complex step."""
    rng = np.random.default_rng(seed)
    point = {
        "W": rng.normal(size=(size, size)) / np.sqrt(size),
        "U": 0.5 * rng.normal(size=(size, 3)),
        "b": 0.1 * rng.normal(size=size),
    }
    x, targets = rng.normal(size=(steps, 3)), rng.integers(0, size, steps)

    def loss(p):
        h, total = 0 * p["b"], 0
        for x_t, target in zip(x, targets, strict=True):
            h = np.tanh(p["W"] @ h + p["U"] @ x_t + p["b"])
            total = total + np.log(np.sum(np.exp(h))) - h[target]
        return total / steps

    return loss, point, complex_step(loss, point)


@pytest.mark.parametrize("seed", range(8))
def test_the_rates_of_a_right_gradient(seed):
    loss, point, gradient = net(seed)
    result = taylor_test(loss, point, gradient, seed=seed)
    assert result.passed
    assert np.all(np.abs(result.last_rates("first") - 2) < 0.05)
    assert np.all(np.abs(result.last_rates("odd") - 3) < 0.05)


@pytest.mark.parametrize("seed", range(8))
def test_one_percent_in_one_bias_block_is_exposed(seed):
    loss, point, gradient = net(seed)
    gradient["b"][:3] *= 1.01
    result = taylor_test(loss, point, gradient, seed=seed)
    assert result.verdicts == {"first": "wrong", "odd": "wrong"}
    assert np.min(result.last_rates("first")) < 1.1


@pytest.mark.parametrize("seed", range(8))
def test_a_millionth_is_exposed_by_the_odd_test(seed):
    loss, point, gradient = net(seed)
    wrong = {name: array * (1 + 1e-6) for name, array in gradient.items()}
    assert taylor_test(loss, point, wrong, seed=seed).verdicts["odd"] == "wrong"


@pytest.mark.parametrize("size", [1e-280, 1e-100, 1e-10, 1e50, 1e250])
def test_gradients_of_any_size(size):
    loss, point, gradient = net(0)

    def scaled(p):
        return size * loss(p)

    right = {name: size * array for name, array in gradient.items()}
    assert taylor_test(scaled, point, right).passed
    assert taylor_test(scaled, point, {**right, "b": right["b"] * (1 + 1e-6)}).verdicts["odd"] == "wrong"
    assert not taylor_test(scaled, point, {name: 0 * array for name, array in right.items()}).passed


@pytest.mark.parametrize("size", [1e-100, 1e-6, 1e6, 1e50])
def test_steps_are_relative_to_the_point(size):
    loss, point, gradient = net(1)

    def scaled(p):
        return loss({name: array / size for name, array in p.items()})

    there = {name: array * size for name, array in point.items()}
    result = taylor_test(scaled, there, {name: array / size for name, array in gradient.items()})
    assert result.passed
    assert np.all(np.abs(result.last_rates("odd") - 3) < 0.05)


def test_arrays_of_zeros_are_moved():
    point = {"w": np.array([1.0]), "b": np.zeros(2)}

    def loss(p):
        return np.sum(np.exp(p["b"])) * p["w"][0] ** 3

    right = {"w": np.array([6.0]), "b": np.ones(2)}
    assert taylor_test(loss, point, right).passed
    assert not taylor_test(loss, point, {**right, "b": 1.001 * right["b"]}).passed
    assert taylor_test(lambda p: np.sum(np.sin(p["b"])), {"b": np.zeros(2)}, {"b": np.ones(2)}).passed


def test_linear_and_quadratic_losses_have_nothing_left_to_judge():
    point = {"w": np.array([1.0, 2.0])}
    linear = taylor_test(lambda p: p["w"] @ [1.0, 3.0], point, {"w": np.array([1.0, 3.0])})
    assert linear.passed
    assert np.all(np.isnan(linear.last_rates("first")))
    assert "found rounding, rounding, rounding: ok" in repr(linear)
    assert not taylor_test(lambda p: p["w"] @ [1.0, 3.0], point, {"w": np.array([1.0, 3.001])}).passed
    quadratic = taylor_test(
        lambda p: p["w"] @ p["w"], point, {"w": 2 * point["w"]}, hessian_vector=lambda v: {"w": 2 * v["w"]}
    )
    assert quadratic.passed
    assert np.all(np.abs(quadratic.last_rates("first") - 2) < 1e-3)
    assert np.all(np.isnan(quadratic.last_rates("odd")) & np.isnan(quadratic.last_rates("second")))


def test_a_loss_of_zero_is_no_difficulty():
    result = taylor_test(lambda p: np.sum(np.sin(p["w"])), {"w": np.array([1.0, -1.0])}, {"w": np.cos([1.0, -1.0])})
    assert result.passed
    assert np.all(np.abs(result.last_rates("odd") - 3) < 0.05)
    assert taylor_test(lambda p: np.sum(p["w"]) - 3, {"w": np.array([1.0, 2.0])}, {"w": np.ones(2)}).passed


def test_what_rounding_hides_is_not_passed():
    point = {"w": np.array([1.0, 2.0])}
    result = taylor_test(lambda p: 1 + 1e-100 * np.sum(p["w"] ** 2), point, {"w": 2e-100 * point["w"]})
    assert result.verdicts == {"first": "cannot tell", "odd": "cannot tell"}
    assert not result.passed
    # But a gradient that is far too large to be hidden is.
    assert (
        taylor_test(lambda p: 1 + 1e-100 * np.sum(p["w"] ** 2), point, {"w": point["w"]}).verdicts["first"] == "wrong"
    )


def test_a_wrong_hessian_is_exposed():
    loss, point, gradient = net(2)
    result = taylor_test(loss, point, gradient, hessian_vector=lambda v: {name: 0 * array for name, array in v.items()})
    assert result.verdicts == {"first": "ok", "odd": "ok", "second": "wrong"}
    assert np.all(np.abs(result.last_rates("second") - 2) < 0.05)


def test_seed_and_number_of_directions():
    loss, point, gradient = net(3)
    one, same, other = (taylor_test(loss, point, gradient, directions=2, seed=seed) for seed in (0, 0, 1))
    assert one.derivatives == same.derivatives != other.derivatives
    assert one.residuals["odd"].shape == (2, 10)
    assert one.rates["odd"].shape == (2, 9)
    with pytest.raises(OptionError, match="^taylor_test: directions must be at least 1; got 0$"):
        taylor_test(loss, point, gradient, directions=0)


def test_the_repr_is_a_table():
    loss, point, gradient = net(4)
    right = repr(taylor_test(loss, point, gradient)).splitlines()
    assert right[0] == "taylor_test: 3 directions, passed"
    assert right[1] == "  first   expected rate 2, found 2.00, 2.00, 2.00: ok"
    assert len(right) == 14
    assert max(map(len, right)) <= 100
    wrong = repr(taylor_test(loss, point, {**gradient, "b": 2 * gradient["b"]}))
    assert wrong.startswith("taylor_test: 3 directions, NOT PASSED")


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        ({"w": np.ones(3)}, ShapeError, "gradient['w'] must have shape (2,); got (3,)"),
        ({"v": np.ones(2)}, OptionError, "names must be among ['w']; got ['v']"),
        ({"w": np.array([1.0, np.nan])}, GradientCheckError, "gradient['w'] must be finite; got nan at [1]"),
        ({"w": np.ones(2, complex)}, DTypeError, "gradient['w'] must be an array of real numbers; got complex128"),
        (np.ones(2), DTypeError, "gradient must be a dict of arrays by name; got ndarray"),
    ],
)
def test_gradients_must_fit(gradient, error, message):
    with pytest.raises(error) as caught:
        taylor_test(lambda p: np.sum(p["w"]), {"w": np.ones(2)}, gradient)
    assert str(caught.value) == f"taylor_test: {message}"


# ---------------------------------------------------------------------------------------------- adjoint

A, B = (np.random.default_rng(seed).normal(size=(4, 3)) for seed in (0, 1))
INPUTS = {"x": np.zeros((5, 3)), "s": np.zeros(())}
OUTPUTS = {"y": np.zeros((5, 4)), "z": np.zeros(4)}


def push(v):
    return {"y": v["x"] @ A.T, "z": B @ v["x"].sum(axis=0) + v["s"]}


def pull(u):
    return {"x": u["y"] @ A + u["z"] @ B, "s": u["z"].sum()}


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e150, 1e300])
def test_a_transpose_passes_whatever_its_size(size):
    error = adjoint_test(
        lambda v: {name: size * array for name, array in push(v).items()},
        lambda u: {name: size * array for name, array in pull(u).items()},
        INPUTS,
        OUTPUTS,
    )
    assert error < 1e-14


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u: {**pull(u), "x": u["y"] @ B + u["z"] @ B},
        lambda u: {**pull(u), "x": u["y"] @ A + u["z"] @ B * 1.001},
        lambda u: {**pull(u), "s": 0.0},
        lambda u: {name: -array for name, array in pull(u).items()},
    ],
)
def test_what_is_no_transpose_does_not(wrong):
    assert adjoint_test(push, wrong, INPUTS, OUTPUTS) > 1e-5


def test_maps_to_zero():
    def nothing(v):
        return {"y": 0 * v["x"]}

    one, other = {"x": np.zeros(2)}, {"y": np.zeros(2)}
    assert adjoint_test(nothing, lambda u: {"x": 0 * u["y"]}, one, other) == 0
    assert adjoint_test(nothing, lambda u: {"x": u["y"]}, one, other) == np.inf
    assert adjoint_test(lambda v: {"y": v["x"]}, lambda u: {"x": 0 * u["y"]}, one, other) > 0.01


def test_maps_may_use_their_argument_as_scratch():
    def doubling(v):
        v["x"] *= 2
        return {"y": v["x"]}

    assert adjoint_test(doubling, lambda u: {"x": 2 * u["y"]}, {"x": np.zeros(3)}, {"y": np.zeros(3)}) < 1e-15


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ({"y": np.zeros((5, 4))}, GradientCheckError, "the result of jvp must have ['y', 'z']; ['z'] are missing"),
        ({**OUTPUTS, "w": 1.0}, OptionError, "names must be among ['y', 'z']; got ['w']"),
        ({**OUTPUTS, "z": np.zeros(3)}, ShapeError, "the result of jvp['z'] must have shape (4,); got (3,)"),
        (None, DTypeError, "the result of jvp must be a dict of arrays by name; got NoneType"),
    ],
)
def test_results_of_maps_must_fit(result, error, message):
    with pytest.raises(error) as caught:
        adjoint_test(lambda v: result, pull, INPUTS, OUTPUTS)
    assert str(caught.value) == f"adjoint_test: {message}"
