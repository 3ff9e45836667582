import functools

import numpy as np
import pytest

from rnn_numpy.checks import complex_step, high_precision, reference_gradients
from rnn_numpy.checks.oracles import Kink
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError

METHODS = ["complex step", "ridders", "fourth order", "central difference"]
# How far off, relative to each tensor's largest entry, on the nets below.
ACCURACY = {"complex step": 1e-14, "ridders": 1e-9, "fourth order": 1e-9, "central difference": 1e-7}


def net(seed, gain=1.0, steps=15, size=5, function=np.tanh):
    rng = np.random.default_rng(seed)
    point = {
        "W": gain * rng.normal(size=(size, size)) / np.sqrt(size),
        "U": rng.normal(size=(size, 3)),
        "b": 0.1 * rng.normal(size=size),
    }
    x, weight = rng.normal(size=(steps, 3)), rng.normal(size=size)

    def loss(p):
        h = 0 * p["b"]
        for x_t in x:
            h = function(p["W"] @ h + p["U"] @ x_t + p["b"])
        return np.sum(weight * h)

    return loss, point


@functools.cache
def exact_gradient(*arguments):
    return high_precision(*net(*arguments), digits=30)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_errors_hold_what_they_promise(method, seed):
    loss, params = net(seed)
    found = reference_gradients(loss, params, method=method)
    exact = exact_gradient(seed)
    assert found.method == method
    assert found.kinks == found.notes == ()
    for name, expected in exact.items():
        scale = np.max(np.abs(expected))
        assert np.all(np.abs(found.gradients[name] - expected) <= found.errors[name])
        assert np.max(found.errors[name]) < 10 * ACCURACY[method] * scale


@pytest.mark.parametrize(("gain", "steps"), [(0.3, 40), (2.0, 30), (4.0, 30)])
def test_the_error_of_a_complex_step_grows_with_the_sensitivity_of_the_loss(gain, steps):
    loss, params = net(1, gain, steps)
    found = reference_gradients(loss, params)
    assert found.method == "complex step"
    for name, expected in exact_gradient(1, gain, steps).items():
        error = np.max(np.abs(found.gradients[name] - expected))
        assert error <= np.max(found.errors[name]) < 1000 * max(error, 2e-16 * np.max(np.abs(expected)))


def test_auto_is_the_complex_step_where_it_will_do():
    loss, params = net(0)
    found = reference_gradients(loss, params)
    assert (found.method, found.step, found.notes) == ("complex step", 1e-20, ())
    for name, expected in complex_step(loss, params).items():
        assert np.array_equal(found.gradients[name], expected)


def test_a_vanished_gradient_is_seen_and_what_could_not_be_confirmed_is_told():
    found = reference_gradients(lambda p: 1 + 1e-136 * np.sum(np.sin(p["w"])), {"w": np.array([0.5])})
    assert found.method == "complex step"
    assert found.gradients["w"] == pytest.approx(1e-136 * np.cos(0.5), rel=1e-14)
    assert found.errors["w"][0] < 1e-149
    assert found.notes == (
        "that loss is analytic could not be confirmed: rounding or chaos hides its derivative from differences",
    )


def buffered(p):
    buffer = np.zeros(p["w"].shape)
    buffer[...] = p["w"]
    return np.sum(np.sin(buffer))


REAL_ONLY = {
    "dropped": (buffered, "loss drops the imaginary part, which carries the derivative (Casting complex values"),
    "norm": (lambda p: np.linalg.norm(p["w"]), "it uses linalg.norm (write np.sqrt(np.sum(a * a)))"),
    "raises": (lambda p: np.sum(np.logaddexp(p["w"], 0)), "it raises TypeError: ufunc 'logaddexp' not supported"),
    "advice": (lambda p: np.sum(np.logaddexp(p["w"], 0)), "; it uses logaddexp (write m + np.log("),
    "vdot": (
        lambda p: np.vdot(p["w"], p["w"]),
        "loss is not analytic; along a random direction its complex step gives",
    ),
    "float": (lambda p: float(np.sum(np.sin(p["w"]))), "loss drops the imaginary part"),
    "other": (
        lambda p: np.sum(p["w"] ** 2) * (2 if p["w"].dtype == complex else 1),
        "loss is 5 for real arrays, 10 for the same as complex ones",
    ),
    "odd": (
        lambda p: np.sum(p["w"]) * {"f": 1.0}[p["w"].dtype.kind],
        "loss does not take complex arrays, it raises KeyErr",
    ),
}


@pytest.mark.parametrize("name", REAL_ONLY)
def test_auto_takes_differences_where_it_will_not_do_and_says_why(name):
    loss, words = REAL_ONLY[name]
    params = {"w": np.array([1.0, -2.0])}
    found = reference_gradients(loss, params)
    assert (found.method, found.step) == ("ridders", 0.01)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("no complex step: ")
    assert words in found.notes[0]
    expected = high_precision(loss, params, method="central difference")["w"] if name == "vdot" else None
    if expected is not None:
        assert np.all(np.abs(found.gradients["w"] - expected) <= found.errors["w"])
    with pytest.raises(GradientCheckError) as caught:
        reference_gradients(loss, params, method="complex step", where="gradcheck")
    assert str(caught.value).startswith("gradcheck: no complex step: ")
    assert str(caught.value).endswith(". Use method='ridders'")


# ---------------------------------------------------------------------------------------------- kinks


def relu(a):
    return np.maximum(a, 0)


@pytest.mark.parametrize("method", ["auto", "ridders", "fourth order", "central difference"])
def test_kinks_are_listed_with_both_slopes(method):
    def loss(p):
        return np.sum([3.0, 4.0, 5.0] * relu(p["w"])) + np.abs(p["b"]) + np.sum(np.exp(p["w"]))

    params = {"w": np.array([0.0, 1.0, -1.0]), "b": np.array(0.0)}
    found = reference_gradients(loss, params, method=method)
    assert [(kink.name, kink.index) for kink in found.kinks] == [("w", (0,)), ("b", ())]
    first, second = found.kinks
    assert (first.left, first.right) == pytest.approx((1.0, 4.0), rel=1e-9)
    assert (second.left, second.right) == pytest.approx((-1.0, 1.0), rel=1e-9)
    assert found.gradients["w"] == pytest.approx([2.5, 4 + np.e, np.exp(-1)], rel=1e-7)
    assert found.errors["w"][0] == pytest.approx(1.5, rel=1e-7)
    assert np.all(found.errors["w"][1:] < 1e-6)
    assert str(first) == "w[0]: slope 1 from below, 4 from above"
    assert str(second) == "b: slope -1 from below, 1 from above"


def test_what_a_kink_allows():
    kink = Kink("w", (0,), 4.0, 1.0)
    assert all(kink.allows(value) for value in (1.0, 2.5, 4.0, 4.0 + 1e-9))
    assert not any(kink.allows(value) for value in (0.999, 4.001, -2.0, np.nan, np.inf))


def test_a_tie_in_complex_arithmetic_is_a_kink_and_not_a_complex_step():
    found = reference_gradients(lambda p: np.sum(np.maximum(p["w"], 0)), {"w": np.zeros(3)})
    assert found.method == "ridders"
    assert found.notes == ("no complex step: loss has a kink at the point, of which it would see one side",)
    assert len(found.kinks) == 3


@pytest.mark.parametrize("seed", range(3))
def test_a_relu_net_has_no_kinks_where_none_are_at_the_point(seed):
    loss, params = net(seed, function=relu)
    exact = high_precision(loss, params, digits=30)
    for method in ("auto", "ridders"):
        found = reference_gradients(loss, params, method=method)
        assert found.kinks == ()
        for name, expected in exact.items():
            assert np.all(np.abs(found.gradients[name] - expected) <= found.errors[name])
            assert np.max(found.errors[name]) < 1e-6 * np.max(np.abs(expected))


# ---------------------------------------------------------------------------------------------- notes, options


def test_parameters_that_the_loss_ignores():
    def loss(p):
        return np.sum(p["w"] ** 2)

    params = {"w": np.ones(2), "unused": np.ones(3)}
    found = reference_gradients(loss, params)
    assert np.array_equal(found.gradients["unused"], np.zeros(3))
    assert found.notes == ("loss does not change with unused: its gradient is exactly 0",)
    found = reference_gradients(loss, params, method="ridders")
    assert not found.gradients["unused"].any()
    assert found.notes == (
        "loss does not change with unused: its gradient is 0 up to 3e-12, as far as differences can tell",
    )


def test_float32():
    found = reference_gradients(lambda p: np.sum(p["w"] ** 3), {"w": np.array([0.1, 0.7], np.float32)})
    expected = 3 * np.array([0.1, 0.7], np.float32).astype(float) ** 2
    assert np.all(np.abs(found.gradients["w"] - expected) <= found.errors["w"])
    assert found.notes == ("w is float32: differentiated at its values in float64",)

    def single(p):
        return np.float32(np.sum(np.sin(p["w"])))

    found = reference_gradients(single, {"w": np.array([1.0])}, method="ridders")
    assert abs(found.gradients["w"] - np.cos(1.0))[0] <= found.errors["w"][0] < 1e-2
    assert found.notes == ("loss returns a number with eps 1e-07: in float64 differences would have more digits",)


def test_names_and_progress():
    told = []
    loss, params = net(0)
    found = reference_gradients(loss, params, names=["b", "U"], progress=lambda *now: told.append(now))
    assert list(found.gradients) == list(found.errors) == ["b", "U"]
    assert [now[0] for now in told] == list(range(1, 21))
    assert {now[1] for now in told} == {20}
    assert told[0][2] == "complex step: b"
    assert told[-1][2] == "complex step: U"


def test_nothing_to_differentiate_by():
    found = reference_gradients(lambda p: 1.0, {"w": np.zeros((0, 2))})
    assert found.gradients["w"].shape == found.errors["w"].shape == (0, 2)
    assert found.notes == ("no complex step: there is no entry to take it by",)


def test_the_parameters_stay_as_they_are():
    loss, params = net(0)
    kept = {name: array.copy() for name, array in params.items()}
    for method in METHODS:
        reference_gradients(loss, params, method=method)
    for name, array in params.items():
        assert np.array_equal(array, kept[name])


def test_options_are_checked():
    loss, params = net(0)
    with pytest.raises(
        OptionError, match="^gradcheck: method must be one of 'auto', 'complex step', 'ridders', 'fourth o"
    ):
        reference_gradients(loss, params, method="forward", where="gradcheck")
    with pytest.raises(OptionError, match=r"^reference_gradients: names must be among \['W', 'U', 'b'\]; got \['V'\]$"):
        reference_gradients(loss, params, names=["V"])
    with pytest.raises(
        DTypeError, match="^reference_gradients: progress must be a function of done, total and label; got int"
    ):
        reference_gradients(loss, params, progress=1)
