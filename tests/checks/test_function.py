"""What a user may hand in, and what each mistake is told."""

import numpy as np
import pytest

from rnn_numpy import RNN
from rnn_numpy.checks import central_difference, complex_step, reference_gradients, ridders, taylor_test
from rnn_numpy.checks.oracles import checked_gradients, checked_params
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError, ShapeError

PARAMS = {"w": np.array([1.0, 2.0]), "b": np.array(0.5)}


def message_of(error, function, *arguments, **options):
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- parameters


def test_params_are_copied_to_float64():
    params = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float64(2.0), "e": np.zeros((0, 2))}
    found = checked_params(params)
    assert list(found.arrays) == ["w", "b", "e"]
    assert all(array.dtype == np.float64 and array.flags.c_contiguous for array in found.arrays.values())
    assert found.notes == ("w is float32: differentiated at its values in float64",)
    found.arrays["w"][...] = 7
    assert params["w"][0, 1] == 3


def test_params_of_a_layer():
    layer = RNN(2, 3, rng=0)
    assert list(checked_params(layer.params).arrays) == list(layer.params)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (np.ones(2), DTypeError, "params must be a dict of arrays by name; got ndarray. A single array goes in as"),
        ({}, OptionError, "params must have at least one array; got an empty dict"),
        ({1: np.ones(2)}, DTypeError, "the names in params must be strings; got int 1"),
        ({"w": [1.0]}, DTypeError, "params['w'] must be an array; got list. Convert it with np.array"),
        ({"w": 1.0}, DTypeError, "params['w'] must be an array; got float. Convert it with np.array"),
        ({"w": None}, DTypeError, "params['w'] must be an array; got NoneType. Convert it with np.array"),
        (
            {"w": np.ones(2, int)},
            DTypeError,
            "got int64: convert it with .astype(np.float64), or let the function close",
        ),
        (
            {"w": np.ones(2, np.uint8)},
            DTypeError,
            "got uint8: convert it with .astype(np.float64), or let the function",
        ),
        ({"w": np.ones(2, bool)}, DTypeError, "got bool: a mask is no parameter: let the function close over it"),
        ({"w": np.ones(2, np.float16)}, DTypeError, "got float16: convert it with .astype(np.float64)"),
        ({"w": np.ones(2, complex)}, DTypeError, "got complex128: pass its real and imaginary parts as two arrays"),
        ({"w": np.array([None])}, DTypeError, "got object: pass one array of numbers for each name"),
        ({"w": np.array(["a"])}, DTypeError, "got <U1: pass numbers"),
        ({"w": np.ma.array([1.0])}, DTypeError, "params['w'] must not be a masked array: its mask would be lost"),
        ({"w": np.array([[1.0, np.nan]])}, GradientCheckError, "params['w'] must be finite; got nan at [0, 1]"),
        ({"w": np.array(np.inf)}, GradientCheckError, "params['w'] must be finite; got inf"),
    ],
    ids=str,
)
def test_params_that_cannot_be(params, error, message):
    for function, arguments in (
        (checked_params, ()),
        (lambda p, where: reference_gradients(lambda q: 1.0, p, where=where), ()),
        (lambda p, where: checked_gradients(lambda q: q, p, where=where), ()),
    ):
        told = message_of(error, function, params, *arguments, where="gradcheck")
        assert told.startswith("gradcheck: ")
        assert message in told


# ---------------------------------------------------------------------------------------------- losses


def writes(p):
    p["w"] += 1
    return np.sum(p["w"])


def writes_in_spite(p):
    p["w"].flags.writeable = True
    p["w"] += 1
    return np.sum(p["w"])


def counting():
    calls = []

    def loss(p):
        calls.append(1)
        return np.sum(p["w"]) + len(calls)

    return loss


LOSSES = [
    (lambda p: np.ones(2), "loss must return one number; got an array of shape (2,). Sum it, or take an entry"),
    (lambda p: np.ones(1), "loss must return one number; got an array of shape (1,). Sum it, or take an entry"),
    (lambda p: np.nan, "loss must return a finite number; got nan: look for 0/0, infinity minus infinity, the "),
    (lambda p: np.inf, "loss must return a finite number; got inf: look for an overflow, a division by 0 or the loga"),
    (lambda p: -np.inf, "loss must return a finite number; got -inf: "),
    (
        lambda p: 1 + 0j,
        "loss must return a real number for real arrays; got the complex number (1+0j). Return its real",
    ),
    (lambda p: "1.0", "loss must return one number; got str"),
    (lambda p: None, "loss must return one number; got NoneType. Does it lack a return?"),
    (lambda p: True, "loss must return one number; got bool"),
    (lambda p: np.array(True), "loss must return one number; got a value of dtype bool"),
    (lambda p: {"loss": 1.0}, "loss must return one number; got dict"),
    (lambda p: (1.0, {}), "loss must return one number; got tuple"),
    (writes, "loss must not modify its arrays, which are read-only (output array is read-only); copy an array before"),
    (writes_in_spite, "loss must not modify its arrays; it has changed w. Copy an array before changing it"),
]


@pytest.mark.parametrize(("loss", "message"), LOSSES, ids=[message[:60] for _, message in LOSSES])
def test_losses_that_cannot_be(loss, message):
    for oracle in (reference_gradients, central_difference, ridders):
        assert message_of(GradientCheckError, oracle, loss, PARAMS).startswith(f"{oracle.__name__}: {message}")
        assert message_of(GradientCheckError, oracle, loss, PARAMS, where="gradcheck").startswith(
            f"gradcheck: {message}"
        )
    gradient = {"w": np.ones(2)}
    assert message_of(GradientCheckError, taylor_test, loss, PARAMS, gradient).startswith(f"taylor_test: {message}")


@pytest.mark.parametrize("oracle", [reference_gradients, central_difference, ridders])
def test_a_loss_that_counts_its_calls(oracle):
    told = message_of(GradientCheckError, oracle, counting(), PARAMS)
    assert told == (
        f"{oracle.__name__}: loss must return the same number for the same arrays; two calls differ: 4.0 and 5.0. Fix "
        "its random numbers, and let it keep no state"
    )


def test_a_loss_that_writes_only_when_an_entry_has_moved():
    def loss(p):
        if p["b"] != 0.5:
            p["w"].flags.writeable = True
            p["w"][0] = 7
        return np.sum(p["w"]) + p["b"]

    told = message_of(GradientCheckError, central_difference, loss, PARAMS, names=["b"])
    assert told.startswith("central_difference: loss must not modify its arrays; it has changed w.")


def test_a_loss_that_leaves_its_domain_says_where():
    def loss(p):
        return np.sum(np.sqrt(p["w"] - 1)) + p["b"]

    with np.errstate(invalid="ignore"):
        told = message_of(GradientCheckError, central_difference, loss, PARAMS)
    assert told.startswith("central_difference: loss must return a finite number; got nan where w[0] is 0.99999394454")


def test_the_dict_is_the_losss_own():
    def loss(p):
        w = p.pop("w")
        p["b"] = p["b"] * 2
        return np.sum(w) * p["b"]

    for oracle in (central_difference, complex_step, lambda *a: reference_gradients(*a).gradients):
        assert np.allclose(oracle(loss, PARAMS)["w"], 1.0)


def test_errors_of_the_loss_itself_come_through():
    def loss(p):
        raise KeyError("hidden")

    for oracle in (central_difference, complex_step, ridders, reference_gradients):
        with pytest.raises(KeyError, match="hidden"):
            oracle(loss, PARAMS)
    with pytest.raises(ValueError, match="^mismatch$"):
        central_difference(lambda p: (_ for _ in ()).throw(ValueError("mismatch")), PARAMS)


@pytest.mark.parametrize("loss", [None, 3.0, PARAMS])
def test_a_loss_must_be_callable(loss):
    told = message_of(DTypeError, reference_gradients, loss, PARAMS)
    assert told == f"reference_gradients: loss must be a function of a dict of arrays; got {type(loss).__name__}"


def test_points_must_be_dicts():
    told = message_of(DTypeError, central_difference, lambda p: 1.0, np.ones(2))
    assert told == "central_difference: point must be a dict of arrays by name; got ndarray"


# ---------------------------------------------------------------------------------------------- functions of gradients


def test_gradients_are_copied():
    buffers = {"w": np.zeros(2), "b": np.zeros((), np.float32)}

    def grads(p):
        buffers["w"][...] = 2 * p["w"]
        buffers["b"][...] = 3
        return buffers

    found = checked_gradients(grads, PARAMS)
    buffers["w"][...] = 0
    assert np.array_equal(found["w"], [2.0, 4.0])
    assert found["b"].dtype == np.float32
    assert list(checked_gradients(lambda p: {"b": p["b"], "w": p["w"]}, PARAMS)) == ["w", "b"]
    assert checked_gradients(lambda p: p, {"w": np.ones(2, np.float32)})["w"].dtype == np.float64


def test_gradients_of_a_layer():
    layer = RNN(2, 3, rng=0)
    x, dy = np.ones((4, 1, 2)), np.ones((4, 1, 3))

    def grads(p):
        twin = layer.astype(np.float64)
        twin.load_state_dict(p)
        return twin.backward(twin.forward(x)[2], dy).grads

    assert list(checked_gradients(grads, layer.params)) == list(layer.params)


def adding():
    total = {name: np.zeros(array.shape) for name, array in PARAMS.items()}

    def grads(p):
        for array in total.values():
            array += 1.0
        return total

    return grads


def with_w(value):
    return lambda p: {"b": p["b"], "w": value}


GRADS = [
    (
        adding(),
        GradientCheckError,
        "grads must return the same for the same arrays; two calls differ first in w[0]: 1.0 and",
    ),
    (lambda p: writes(p), GradientCheckError, "grads must not modify its arrays, which are read-only ("),
    (lambda p: [writes_in_spite(p)], GradientCheckError, "grads must not modify its arrays; it has changed w."),
    (lambda p: list(p.values()), DTypeError, "grads must return a dict of arrays by name; got list"),
    (lambda p: None, DTypeError, "grads must return a dict of arrays by name; got NoneType"),
    (lambda p: {"w": p["w"]}, GradientCheckError, "grads must return a gradient for each parameter; ['b'] are missing"),
    (
        lambda p: {**p, "dw": p["w"]},
        GradientCheckError,
        "and nothing else; ['dw'] are no parameters, which are ['w', 'b']",
    ),
    (with_w(np.ones((2, 1))), ShapeError, "the gradient of 'w' must have the shape of the parameter, (2,); got (2, 1)"),
    (with_w(np.array([1.0, np.nan])), GradientCheckError, "the gradient of 'w' must be finite; got nan at [1]"),
    (with_w(np.array([-np.inf, np.nan])), GradientCheckError, "the gradient of 'w' must be finite; got -inf at [0]"),
    (with_w(np.ones(2, complex)), DTypeError, "for 'w'; got complex128: a real loss has a real gradient"),
    (with_w(np.ones(2, int)), DTypeError, "for 'w'; got int64: a gradient of integers is cut off"),
    (with_w(np.ones(2, np.uint8)), DTypeError, "for 'w'; got uint8: a gradient of integers is cut off"),
    (with_w(np.array([None, None])), DTypeError, "for 'w'; got object: the array holds Python objects"),
    (with_w(np.ones(2, np.float16)), DTypeError, "grads must return a float64 or float32 array for 'w'; got float16"),
    (with_w([1.0, 2.0]), DTypeError, "grads must return an array for 'w'; got list"),
    (None, DTypeError, "grads must be a function of a dict of arrays; got NoneType"),
]


@pytest.mark.parametrize(("grads", "error", "message"), GRADS, ids=[message[:60] for *_, message in GRADS])
def test_functions_of_gradients_that_cannot_be(grads, error, message):
    told = message_of(error, checked_gradients, grads, PARAMS)
    assert told.startswith("checked_gradients: ")
    assert message in told
    assert message_of(error, checked_gradients, grads, PARAMS, where="gradcheck").startswith("gradcheck: ")
