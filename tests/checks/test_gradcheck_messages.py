"""What `gradcheck` says of input that it cannot check: each message as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, Forecaster
from rnn_numpy.checks import gradcheck
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError, RNNNumpyError, ShapeError
from rnn_numpy.layers import Linear, RNNCell

W = np.array([[0.3, -0.7, 1.2], [0.1, 0.4, -0.2]])
POINT = {"w": np.array([0.3, -0.7, 1.2]), "b": np.array([0.5, 0.1])}
X = np.array([[0.3, 1.0], [-0.4, 0.2], [0.7, -0.1], [0.2, 0.5]])
STEPS = np.array([X, -X, X[::-1]])


def loss(p: Mapping[str, Any]) -> Any:
    return np.sum(p["w"] ** 2) + np.sum(p["b"] ** 3)


def grads(p: Mapping[str, Any]) -> dict[str, Any]:
    return {"w": 2 * p["w"], "b": 3 * p["b"] ** 2}


def message(error: type[RNNNumpyError], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(error) as caught:
        gradcheck(*args, **kwargs)
    assert type(caught.value) is error
    text = str(caught.value)
    assert text.startswith("gradcheck: ") and "\n" not in text
    return text.removeprefix("gradcheck: ")


# ---------------------------------------------------------------------------------------------- the loss


def unsteady(p: Mapping[str, Any], calls: list[int]) -> float:
    calls.append(0)
    return float(len(calls))


def writing(p: Mapping[str, Any]) -> Any:
    p["w"][0] = 3
    return loss(p)


def writing_by_force(p: Mapping[str, Any]) -> Any:
    p["w"].flags.writeable = True
    p["w"][0] += 1e-3
    return loss(p)


@pytest.mark.parametrize("method", ["auto", "ridders", "directional"])
@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (None, "loss must return one number; got NoneType. Does it lack a return?"),
        ("3.0", "loss must return one number; got str"),
        (True, "loss must return one number; got bool"),
        ((1.0, 2.0), "loss must return one number; got tuple"),
        (np.ones(3), "loss must return one number; got an array of shape (3,). Sum it, or take an entry"),
        (
            np.nan,
            "loss must return a finite number; got nan: look for 0/0, infinity minus infinity, the logarithm or root "
            "of a negative number",
        ),
        (
            -np.inf,
            "loss must return a finite number; got -inf: look for an overflow, a division by 0 or the logarithm of 0",
        ),
        (
            1 + 2j,
            "loss must return a real number for real arrays; got the complex number (1+2j). Return its real part, or "
            "its absolute square",
        ),
    ],
)
def test_what_a_loss_returns(method: str, returned: Any, told: str) -> None:
    assert message(GradientCheckError, lambda p: returned, POINT, grads=grads, method=method) == told


@pytest.mark.parametrize("method", ["auto", "ridders", "directional"])
def test_a_loss_that_is_no_function_of_its_arrays(method: str) -> None:
    calls: list[int] = []
    told = message(GradientCheckError, lambda p: unsteady(p, calls), POINT, grads=grads, method=method)
    assert told == (
        "loss must return the same number for the same arrays; two calls differ: 1.0 and 2.0. Fix its random numbers, "
        "and let it keep no state"
    )
    assert message(GradientCheckError, writing, POINT, grads=grads, method=method) == (
        "loss must not modify its arrays, which are read-only (assignment destination is read-only); copy an array "
        "before changing it"
    )
    assert message(GradientCheckError, writing_by_force, POINT, grads=grads, method=method) == (
        "loss must not modify its arrays; it has changed w. Copy an array before changing it"
    )


def test_what_a_loss_raises_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError, match="^division by zero$"):
        gradcheck(lambda p: 1 / 0, POINT, grads=grads)


def test_a_complex_step_that_is_asked_for_and_impossible() -> None:
    assert message(GradientCheckError, lambda p: np.linalg.norm(p["w"]), POINT, grads=grads, method="complex step") == (
        "no complex step: loss must return a complex number for complex arrays; got float64: somewhere it drops the "
        "imaginary part, which carries the derivative: it uses linalg.norm (write np.sqrt(np.sum(a * a))). "
        "Use method='ridders'"
    )


# ---------------------------------------------------------------------------------------------- the gradients


def with_w(value: Any) -> Any:
    return lambda p: {**grads(p), "w": value}


@pytest.mark.parametrize(
    ("function", "error", "told"),
    [
        (
            with_w(np.ones(2)),
            ShapeError,
            "the gradient of 'w' must have the shape of the parameter, (3,); got (2,)",
        ),
        (with_w(np.array([1, np.nan, 2])), GradientCheckError, "the gradient of 'w' must be finite; got nan at [1]"),
        (with_w(np.array([1, 2, np.inf])), GradientCheckError, "the gradient of 'w' must be finite; got inf at [2]"),
        (
            with_w(1j * np.ones(3)),
            DTypeError,
            "grads must return a float64 or float32 array for 'w'; got complex128: a real loss has a real gradient; "
            "take the real part, if the imaginary part is 0",
        ),
        (
            with_w(np.arange(3)),
            DTypeError,
            "grads must return a float64 or float32 array for 'w'; got int64: a gradient of integers is cut off; "
            "compute it in floating point",
        ),
        (
            with_w(np.ones(3, np.float16)),
            DTypeError,
            "grads must return a float64 or float32 array for 'w'; got float16: somewhere digits are lost",
        ),
        (with_w(None), DTypeError, "grads must return an array for 'w'; got NoneType"),
        (with_w([1.0, 2.0, 3.0]), DTypeError, "grads must return an array for 'w'; got list"),
        (
            lambda p: {"w": p["w"]},
            GradientCheckError,
            "grads must return a gradient for each parameter; ['b'] are missing",
        ),
        (
            lambda p: {**grads(p), "q": p["w"]},
            GradientCheckError,
            "grads must return a gradient for each parameter and nothing else; ['q'] are no parameters, which are "
            "['w', 'b']",
        ),
        (lambda p: None, DTypeError, "grads must return a dict of arrays by name; got NoneType"),
        (lambda p: [p["w"], p["b"]], DTypeError, "grads must return a dict of arrays by name; got list"),
    ],
)
def test_what_grads_returns(function: Any, error: type[RNNNumpyError], told: str) -> None:
    assert message(error, loss, POINT, grads=function) == told


def test_gradients_that_grow_from_call_to_call() -> None:
    kept = {name: np.zeros_like(array) for name, array in POINT.items()}

    def adding(p: Mapping[str, Any]) -> dict[str, Any]:
        for name, gradient in grads(p).items():
            kept[name] += gradient
        return kept

    assert message(GradientCheckError, loss, POINT, grads=adding) == (
        "grads must return the same for the same arrays; two calls differ first in w[0]: 0.6 and 1.2. Fix its random "
        "numbers, and zero what it adds to"
    )


def test_gradients_that_write_to_their_argument() -> None:
    def in_place(p: Any) -> dict[str, Any]:
        p["w"] *= 2
        return grads(p)

    assert message(GradientCheckError, loss, POINT, grads=in_place) == (
        "grads must not modify its arrays, which are read-only (output array is read-only); copy an array before "
        "changing it"
    )


# ---------------------------------------------------------------------------------------------- the arrays


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ({}, OptionError, "params must have at least one array; got an empty dict"),
        (
            None,
            DTypeError,
            "params must be a dict of arrays by name; got NoneType. A single array goes in as {'w': array}",
        ),
        (
            np.ones(3),
            DTypeError,
            "params must be a dict of arrays by name; got ndarray. A single array goes in as {'w': array}",
        ),
        ({1: np.ones(3)}, DTypeError, "the names in params must be strings; got int 1"),
        ({"w": [1.0]}, DTypeError, "params['w'] must be an array; got list. Convert it with np.array"),
        ({"w": 1.0}, DTypeError, "params['w'] must be an array; got float. Convert it with np.array"),
        (
            {"w": np.arange(3)},
            DTypeError,
            "params['w'] must be a float64 or float32 array; got int64: convert it with .astype(np.float64), or let "
            "the function close over it if it is an index",
        ),
        (
            {"w": np.ones(3, np.float16)},
            DTypeError,
            "params['w'] must be a float64 or float32 array; got float16: convert it with .astype(np.float64)",
        ),
        (
            {"w": np.ones(3, bool)},
            DTypeError,
            "params['w'] must be a float64 or float32 array; got bool: a mask is no parameter: let the function close "
            "over it",
        ),
        (
            {"w": 1j * np.ones(3)},
            DTypeError,
            "params['w'] must be a float64 or float32 array; got complex128: pass its real and imaginary parts as two "
            "arrays",
        ),
        (
            {"w": np.ma.array([1.0])},
            DTypeError,
            "params['w'] must not be a masked array: its mask would be lost; fill it",
        ),
        ({"w": np.array([1, np.nan])}, GradientCheckError, "params['w'] must be finite; got nan at [1]"),
    ],
)
def test_what_the_arrays_are(params: Any, error: type[RNNNumpyError], told: str) -> None:
    assert message(error, loss, params, grads=grads) == told


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"names": ["q"]}, OptionError, "names must be among w, b; got ['q']"),
        ({"names": []}, OptionError, "names must be among w, b; got []"),
        ({"names": 3}, OptionError, "names must be a list of names; got 3"),
        (
            {"method": "exact"},
            OptionError,
            "method must be one of auto, stepwise, complex step, ridders, fourth order, central difference, "
            "directional; got 'exact'",
        ),
        (
            {"method": "stepwise"},
            OptionError,
            "method 'stepwise' is for recurrent layers of this package and their subclasses",
        ),
        ({"seed": -1}, OptionError, "seed must be a whole number of at least 0; got -1"),
        ({"seed": None}, OptionError, "seed must be a whole number of at least 0; got None"),
        ({"seed": True}, OptionError, "seed must be a whole number of at least 0; got True"),
        ({"progress": 3}, DTypeError, "progress must be a function; got int"),
        ({"grads": None}, OptionError, "a function needs grads, the function whose gradients are checked; got None"),
        ({"doutput": 1.0}, OptionError, "doutput goes with a layer, not with a function; leave it out"),
        ({"h_0": X, "loss": loss}, OptionError, "h_0, loss goes with a layer, not with a function; leave it out"),
    ],
)
def test_options_of_functions(options: dict[str, Any], error: type[RNNNumpyError], told: str) -> None:
    assert message(error, loss, POINT, **{"grads": grads, **options}) == told


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, "target must be a layer (forward, backward), a model (loss_and_grads) or a function; got NoneType"),
        (W, "target must be a layer (forward, backward), a model (loss_and_grads) or a function; got ndarray"),
        (LSTM, "target must be an object; got the class LSTM: make one of it"),
    ],
)
def test_what_is_no_target(target: Any, told: str) -> None:
    assert message(DTypeError, target, X) == told


@pytest.mark.parametrize(
    ("args", "options", "error", "told"),
    [
        ((None,), {}, OptionError, "a layer needs an input x, (T, N, D)"),
        (("abc",), {}, DTypeError, "x must be an array of real numbers; got <U3"),
        ((1j * STEPS,), {}, DTypeError, "x must be an array of real numbers; got complex128"),
        ((STEPS * [1, np.nan],), {}, GradientCheckError, "x must be finite; got nan at [0, 0, 1]"),
        ((STEPS, "h"), {}, DTypeError, "h_0 must be an array of real numbers; got <U1"),
        ((STEPS,), {"doutput": "d"}, DTypeError, "doutput must be an array of real numbers; got <U1"),
        (
            (STEPS,),
            {"doutput": np.ones(3)},
            ShapeError,
            "doutput must have the shape of what it is the gradient of, (3, 4, 5); got (3,)",
        ),
        ((STEPS,), {"dh_n": np.ones((1, 4, 5))}, DTypeError, "dh_n must be a tuple of 2 arrays; got ndarray"),
        (
            (STEPS,),
            {"grads": grads},
            OptionError,
            "grads goes with a function and its dict of arrays; a layer brings its own",
        ),
        ((STEPS,), {"loss": 3}, DTypeError, "loss must be a function; got int"),
        (
            (STEPS,),
            {"loss": lambda output, h_n: (0.0, output), "doutput": np.ones((3, 4, 5))},
            OptionError,
            "loss makes doutput and dh_n; leave them out, or leave loss out",
        ),
        (
            (STEPS,),
            {"loss": lambda output, h_n: 1.0},
            GradientCheckError,
            "loss must return (loss, doutput) or (loss, doutput, dh_n); got float",
        ),
        (
            (STEPS,),
            {"loss": lambda output, h_n: (1.0, 2.0, 3.0, 4.0)},
            GradientCheckError,
            "loss must return (loss, doutput) or (loss, doutput, dh_n); got tuple of 4",
        ),
        (
            (STEPS,),
            {"loss": lambda output, h_n: (np.sum(output), output[0])},
            ShapeError,
            "loss: doutput must have the shape of what it is the gradient of, (3, 4, 5); got (4, 5)",
        ),
        (
            (STEPS,),
            {"loss": lambda output, h_n: (np.sum(output), np.add(output, 1, out=output))},
            GradientCheckError,
            "loss must not modify output and h_n, which are read-only (output array is read-only); copy an array "
            "before changing it",
        ),
    ],
)
def test_arguments_of_a_layer(
    args: tuple[Any, ...], options: dict[str, Any], error: type[RNNNumpyError], told: str
) -> None:
    assert message(error, LSTM(2, 5, rng=0), *args, **options) == told


def test_arguments_that_a_layer_does_not_take() -> None:
    assert message(OptionError, RNNCell(2, 3, rng=0), X, lengths=[1, 1, 1, 1]) == (
        "RNNCell.forward cannot be called with x, h_0, lengths: too many positional arguments"
    )
    assert message(OptionError, Linear(2, 3, rng=0), X, dropout_masks=[X]) == (
        "Linear.forward cannot be called with x, dropout_masks: got an unexpected keyword argument 'dropout_masks'"
    )
    assert message(OptionError, Linear(2, 3, rng=0), X, dh_n=X) == (
        "dh_n is for layers that return a final state; this one does not"
    )
    assert message(
        OptionError, Linear(2, 3, rng=0), X, loss=lambda output, h_n: (np.sum(output), np.ones((4, 3)), X)
    ) == ("loss must return (loss, doutput): this layer returns no final state")


def test_arguments_of_a_model() -> None:
    model = Forecaster(2, 3, rng=0)
    assert message(OptionError, model, STEPS, STEPS, doutput=STEPS) == (
        "doutput goes with a layer, not with a model; leave it out"
    )
    assert message(OptionError, model, STEPS, STEPS, None, None, None, 1, 2) == (
        "Forecaster.loss_and_grads cannot be called with argument 0, argument 1, argument 2, argument 3, argument 4, "
        "argument 5, argument 6: too many positional arguments"
    )
    assert message(OptionError, GRU(2, 3, rng=0), STEPS, None, None, 1, 2) == (
        "more than x, h_0 and lengths goes with a model's loss_and_grads alone; got 2 more, and a GRU"
    )
    assert message(OptionError, model, STEPS) == (
        "Forecaster.loss_and_grads cannot be called with argument 0: missing a required argument: 'target'"
    )


# ---------------------------------------------------------------------------------------------- layers of the user's


class Tanh:
    """tanh(x w); each test replaces a part of it."""

    def __init__(self, w: Any = W, dtype: Any = np.float64) -> None:
        self.params: Any = {"w": np.array(w, dtype)}

    def astype(self, dtype: Any) -> Tanh:
        return type(self)(self.params["w"], dtype)

    def forward(self, x: Any) -> Any:
        y = np.tanh(x @ self.params["w"])
        return y, (x, y)

    def backward(self, trace: Any, doutput: Any) -> Any:
        x, y = trace
        da = doutput * (1 - y * y)
        return SimpleNamespace(grads={"w": x.T @ da}, dx=da @ self.params["w"].T)


def with_parts(**parts: Any) -> Any:
    return type("Tanh", (Tanh,), parts)()


def backward_with(**parts: Any) -> Any:
    def backward(self: Any, trace: Any, doutput: Any) -> Any:
        found = vars(Tanh.backward(self, trace, doutput)) | parts
        return SimpleNamespace(**{name: value for name, value in found.items() if value is not ...})

    return with_parts(backward=backward)


def forward_in_place(self: Any, x: Any) -> Any:
    result = Tanh.forward(self, x)
    x *= 2
    return result


def with_params(params: Any) -> Any:
    layer = Tanh()
    layer.params = params
    return layer


LAYERS = [
    (
        SimpleNamespace(params={"w": W}, forward=len, backward=len),
        DTypeError,
        "layer must have params (names to arrays) and astype (a twin in complex128 makes the complex step possible); "
        "SimpleNamespace lacks astype",
    ),
    (with_params([W]), DTypeError, "params must be a dict of arrays by name; got list"),
    (with_params({"w": W.tolist()}), DTypeError, "params['w'] must be an array; got list"),
    (
        with_params({"w": W.astype(int)}),
        DTypeError,
        "layer must be float64 or float32; got int64. Check its twin .astype(np.float64)",
    ),
    (
        with_params({"w": W, "b": W.astype(np.float32)}),
        DTypeError,
        "layer must be float64 or float32; got float32 and float64. Check its twin .astype(np.float64)",
    ),
    (
        with_parts(astype=lambda self, dtype: None),
        DTypeError,
        "Tanh.astype must return a twin, with params of the same names; got NoneType",
    ),
    (
        with_parts(astype=lambda self, dtype: self),
        DTypeError,
        "Tanh.astype must return a twin with arrays of its own, which are changed here; its params['w'] is that of "
        "the original: copy it",
    ),
    (
        with_parts(astype=lambda self, dtype: Tanh(dtype=np.float32)),
        DTypeError,
        "Tanh.astype(float64) must return a twin of that dtype; its params['w'] is float32",
    ),
    (
        with_parts(forward=lambda self, x: None),
        GradientCheckError,
        "Tanh.forward must return (output, trace) or (output, final state, trace); got NoneType",
    ),
    (
        with_parts(forward=lambda self, x: (x,)),
        GradientCheckError,
        "Tanh.forward must return (output, trace) or (output, final state, trace); got a tuple of 1",
    ),
    (
        with_parts(forward=lambda self, x: (x.tolist(), x)),
        DTypeError,
        "the output of Tanh.forward must be an array; got list",
    ),
    (
        with_parts(forward=lambda self, x: (x.astype(np.float32), x)),
        DTypeError,
        "the output of Tanh.forward must be float64, as parameters and input are; got float32",
    ),
    (
        with_parts(forward=forward_in_place),
        GradientCheckError,
        "Tanh.forward must not modify what it is given; it has changed ['x']",
    ),
    (
        with_parts(backward=lambda self, trace: None),
        OptionError,
        "Tanh.backward cannot be called with trace, doutput: too many positional arguments",
    ),
    (
        with_parts(backward=lambda self, trace, doutput: None),
        GradientCheckError,
        "Tanh.backward must return an object with grads, dx; the NoneType that it returns has no grads and no dx",
    ),
    (
        backward_with(dx=...),
        GradientCheckError,
        "Tanh.backward must return an object with grads, dx; the SimpleNamespace that it returns has no dx",
    ),
    (backward_with(grads=None), DTypeError, "Tanh.backward must return a dict of arrays by name; got NoneType"),
    (
        backward_with(grads={}),
        GradientCheckError,
        "Tanh.backward must return a gradient for each parameter; ['w'] are missing",
    ),
    (
        backward_with(grads={"w": W, "q": W}),
        GradientCheckError,
        "Tanh.backward must return a gradient for each parameter and nothing else; ['q'] are no parameters, which "
        "are ['w']",
    ),
    (
        backward_with(grads={"w": W.T}),
        ShapeError,
        "the gradient of 'w' must have the shape of the parameter, (2, 3); got (3, 2)",
    ),
    (backward_with(dx=None), DTypeError, "Tanh.backward must return an array for 'x'; got NoneType"),
    (
        backward_with(dx=X.astype(np.float32)),
        DTypeError,
        "Tanh.backward must return a float64 array for 'x'; got float32: somewhere digits are lost",
    ),
]


@pytest.mark.parametrize(("layer", "error", "told"), LAYERS, ids=range(len(LAYERS)))
def test_layers_of_the_users(layer: Any, error: type[RNNNumpyError], told: str) -> None:
    assert message(error, layer, X) == told


# ---------------------------------------------------------------------------------------------- models of the user's


class Square:
    """The squared error of x w."""

    def __init__(self, w: Any = W, dtype: Any = np.float64) -> None:
        self.params = {"w": np.array(w, dtype)}

    def astype(self, dtype: Any) -> Square:
        return type(self)(self.params["w"], dtype)

    def loss_and_grads(self, x: Any) -> Any:
        error = x @ self.params["w"]
        return np.sum(error * error) / 2, {"w": x.T @ error}


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (
            lambda value, found: value,
            GradientCheckError,
            "Square.loss_and_grads must return (loss, grads), and what else it likes after them; got float64",
        ),
        (
            lambda value, found: (value,),
            GradientCheckError,
            "Square.loss_and_grads must return (loss, grads), and what else it likes after them; got a tuple of 1",
        ),
        (
            lambda value, found: (value, [found["w"]]),
            DTypeError,
            "Square.loss_and_grads must return a dict of arrays by name; got list",
        ),
        (
            lambda value, found: (value, {}),
            GradientCheckError,
            "Square.loss_and_grads must return a gradient for each parameter; ['w'] are missing",
        ),
        (
            lambda value, found: (value, {"w": found["w"].T}),
            ShapeError,
            "the gradient of 'w' must have the shape of the parameter, (2, 3); got (3, 2)",
        ),
        (
            lambda value, found: (value, {"w": 1j * found["w"]}),
            DTypeError,
            "Square.loss_and_grads must return a float64 array for 'w'; got complex128: a real loss has a real "
            "gradient; take the real part, if the imaginary part is 0",
        ),
        (
            lambda value, found: (None, found),
            GradientCheckError,
            "loss must return one number; got NoneType. Does it lack a return?",
        ),
    ],
)
def test_models_of_the_users(change: Any, error: type[RNNNumpyError], told: str) -> None:
    def changed(self: Any, x: Any) -> Any:
        return change(*Square.loss_and_grads(self, x))

    assert message(error, type("Square", (Square,), {"loss_and_grads": changed})(), X) == told
