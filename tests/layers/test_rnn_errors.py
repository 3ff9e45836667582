"""Bad input to RNN: the whole message, which names function, argument, symbolic and actual shape, and what to do."""

import re

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy import RNN
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError, StateDictError

T, N, D, H = 5, 2, 3, 4
X = np.zeros((T, N, D))


def deep():
    return RNN(D, H, 2, rng=0)


def deep_batch_first():
    return RNN(D, H, 2, batch_first=True, bidirectional=True, rng=0)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 4), {}, OptionError, "RNN: input_size must be at least 1; got 0"),
        ((3, -1), {}, OptionError, "RNN: hidden_size must be at least 1; got -1"),
        ((3.0, 4), {}, DTypeError, "RNN: input_size must be an integer; got float 3.0"),
        ((3, "4"), {}, DTypeError, "RNN: hidden_size must be an integer; got str '4'"),
        ((True, 4), {}, DTypeError, "RNN: input_size must be an integer; got the bool True"),
        ((3, 4, 0), {}, OptionError, "RNN: num_layers must be at least 1; got 0"),
        ((3, 4, None), {}, DTypeError, "RNN: num_layers must be an integer; got NoneType None"),
        (
            (3, 4, 1, "sigmoid"),
            {},
            OptionError,
            "RNN: nonlinearity must be one of 'tanh', 'relu'; got 'sigmoid'",
        ),
        # torch's LSTM and GRU have bias in this place.
        ((3, 4, 1, True), {}, OptionError, "RNN: nonlinearity must be one of 'tanh', 'relu'; got True"),
        ((3, 4), {"bias": 1}, DTypeError, "RNN: bias must be True or False; got int 1"),
        ((3, 4), {"batch_first": None}, DTypeError, "RNN: batch_first must be True or False; got NoneType None"),
        ((3, 4), {"bidirectional": "yes"}, DTypeError, "RNN: bidirectional must be True or False; got str 'yes'"),
        ((3, 4, 2), {"dropout": 1.5}, OptionError, "RNN: dropout must be in [0, 1]; got 1.5"),
        ((3, 4, 2), {"dropout": -0.1}, OptionError, "RNN: dropout must be in [0, 1]; got -0.1"),
        ((3, 4, 2), {"dropout": np.nan}, OptionError, "RNN: dropout must be finite; got nan"),
        ((3, 4, 2), {"dropout": True}, DTypeError, "RNN: dropout must be a number; got bool True"),
        ((3, 4), {"dtype": np.float16}, DTypeError, "RNN: dtype must be float32, float64 or complex128; got float16"),
        ((3, 4), {"dtype": int}, DTypeError, "RNN: dtype must be float32, float64 or complex128; got int64"),
        ((3, 4), {"dtype": "real"}, DTypeError, "RNN: dtype must be float32, float64 or complex128; got 'real'"),
        (
            (3, 4),
            {"rng": -1},
            DTypeError,
            "RNN: rng must be a numpy.random.Generator, a seed >= 0 or None; got -1",
        ),
    ],
)
def test_options(arguments, options, error, message):
    assert_raises(error, message, lambda: RNN(*arguments, **options))


def test_numpy_integers_are_integers():
    assert RNN(np.int64(3), np.int32(4)).params["weight_ih_l0"].shape == (4, 3)


def test_dropout_of_a_single_layer_warns():
    message = "RNN: dropout = 0.5 has no effect with num_layers = 1: it acts between layers"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        RNN(3, 4, dropout=0.5)


RUNS = pytest.mark.parametrize("run", [RNN.forward, RNN.__call__])


@RUNS
@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (deep, (3,), "RNN.forward: x must be (T, N, D), or (T, D) for one sequence; got 1 axes, (3,)"),
        (
            deep_batch_first,
            (1, 2, 3, 3),
            "RNN.forward: x must be (N, T, D), or (T, D) for one sequence; got 4 axes, (1, 2, 3, 3)",
        ),
        (deep, (5, 2, 7), "RNN.forward: x must have shape (T, N, D) with D = input_size = 3; got (5, 2, 7)"),
        (deep, (5, 7), "RNN.forward: x must have shape (T, D) with D = input_size = 3; got (5, 7)"),
        (
            deep_batch_first,
            (5, 2, 7),
            "RNN.forward: x must have shape (N, T, D) with D = input_size = 3; got (5, 2, 7)",
        ),
        (deep, (0, 2, 3), "RNN.forward: x must have at least one step, T >= 1; got shape (0, 2, 3) with T = 0"),
        (
            deep_batch_first,
            (2, 0, 3),
            "RNN.forward: x must have at least one step, T >= 1; got shape (2, 0, 3) with T = 0",
        ),
    ],
)
def test_shape_of_x(run, make, shape, message):
    assert_raises(ShapeError, message, lambda: run(make(), np.zeros(shape)))


@RUNS
def test_dtype_of_x(run):
    message = (
        "RNN.forward: x must have dtype float64, the layer's; got float32. Convert it with x.astype(np.float64), or "
        "the layer with .astype(np.float32)"
    )
    assert_raises(DTypeError, message, lambda: run(deep(), X.astype(np.float32)))
    with pytest.raises(DTypeError, match="^RNN.forward: x must have dtype float32, the layer's; got float64"):
        run(deep().astype(np.float32), X)
    for wrong in (X.astype(int), X.astype(object), X.astype(str), None):
        with pytest.raises(DTypeError, match="^RNN.forward: x "):
            run(deep(), wrong)


STATE = "RNN.forward: h_0 must have shape (layers * directions, N, H) = (2, 2, 4); got "


@RUNS
@pytest.mark.parametrize(
    ("make", "x", "h_0", "message"),
    [
        (deep, X, np.zeros((2, 9, 4)), STATE + "(2, 9, 4)"),
        (deep, X, np.zeros((1, 2, 4)), STATE + "(1, 2, 4)"),
        (deep, X, np.zeros((2, 2, 5)), STATE + "(2, 2, 5)"),
        (deep, X, np.zeros((2, 4)), STATE + "(2, 4)"),
        (
            deep,
            X[:, 0],
            np.zeros((2, 1, 4)),
            "RNN.forward: h_0 must have shape (layers * directions, H) = (2, 4); got (2, 1, 4)",
        ),
        (
            deep_batch_first,
            X.swapaxes(0, 1),
            np.zeros((2, 4, 4)),
            "RNN.forward: h_0 must have shape (layers * directions, N, H) = (4, 2, 4); got (2, 4, 4). States keep this "
            "shape with batch_first, too",
        ),
    ],
)
def test_shape_of_h_0(run, make, x, h_0, message):
    assert_raises(ShapeError, message, lambda: run(make(), x, h_0))


@RUNS
def test_h_0_is_one_array(run):
    pair = (np.zeros((2, 2, 4)), np.zeros((2, 2, 4)))
    message = "RNN.forward: h_0 must be one array, the state h; got a tuple of 2"
    assert_raises(DTypeError, message, lambda: run(deep(), X, pair))


@RUNS
@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([0, 5], OptionError, "lengths[0] must be at least 1; got 0. Drop empty sequences from the batch"),
        ([5, -1], OptionError, "lengths[1] must be at least 1; got -1. Drop empty sequences from the batch"),
        ([5, 6], OptionError, "lengths[1] must be at most T = 5, the steps of x; got 6"),
        ([1.0, 2.0], DTypeError, "lengths must be integers; got dtype float64"),
        ([True, True], DTypeError, "lengths must be integers; got dtype bool"),
        ([np.nan, 1], DTypeError, "lengths must be integers; got dtype float64"),
        ([1, 2, 3], ShapeError, "lengths must have shape (N,) = (2,); got (3,)"),
        ([[1, 2]], ShapeError, "lengths must have shape (N,) = (2,); got (1, 2)"),
        (5, ShapeError, "lengths must have shape (N,) = (2,); got ()"),
    ],
)
def test_lengths(run, lengths, error, message):
    assert_raises(error, f"RNN.forward: {message}", lambda: run(deep(), X, None, lengths))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "dropout_masks must be a list of num_layers - 1 = 1 arrays; got 0"),
        ([np.ones((5, 2, 4))] * 2, "dropout_masks must be a list of num_layers - 1 = 1 arrays; got 2"),
        (
            [np.ones((5, 2, 3))],
            "dropout_masks[0] must have shape (T, N, directions * H) = (5, 2, 4); got (5, 2, 3)",
        ),
    ],
)
def test_dropout_masks(masks, message):
    assert_raises(ShapeError, f"RNN.forward: {message}", lambda: deep().forward(X, dropout_masks=masks))


BACKWARDS = pytest.mark.parametrize("run", [RNN.backward, RNN.backward_steps])


@BACKWARDS
@pytest.mark.parametrize("shape", [(5, 2, 5), (5, 2), (2, 5, 4), ()])
def test_shape_of_doutput(run, shape):
    layer = deep()
    trace = layer.forward(X)[2]
    message = (
        f"RNN.backward: doutput must have shape (T, N, directions * H) = (5, 2, 4); got {shape}. It must have the "
        "shape of output"
    )
    assert_raises(ShapeError, message, lambda: run(layer, trace, np.zeros(shape)))


@BACKWARDS
def test_shape_of_doutput_in_other_axes(run):
    layer = deep_batch_first()
    trace = layer.forward(X.swapaxes(0, 1))[2]
    message = (
        "RNN.backward: doutput must have shape (N, T, directions * H) = (2, 5, 8); got (5, 2, 8). It must have the "
        "shape of output"
    )
    assert_raises(ShapeError, message, lambda: run(layer, trace, np.zeros((5, 2, 8))))
    trace = layer.forward(X[:, 0])[2]
    message = (
        "RNN.backward: doutput must have shape (T, directions * H) = (5, 8); got (5, 1, 8). It must have the shape of "
        "output"
    )
    assert_raises(ShapeError, message, lambda: run(layer, trace, np.zeros((5, 1, 8))))


@BACKWARDS
def test_dh_n(run):
    layer = deep()
    trace = layer.forward(X)[2]
    message = "RNN.backward: dh_n must have shape (layers * directions, N, H) = (2, 2, 4); got (2, 3, 4)"
    assert_raises(ShapeError, message, lambda: run(layer, trace, None, np.zeros((2, 3, 4))))
    message = (
        "RNN.backward: dh_n must have dtype float64, the layer's; got float32. Convert it with dh_n.astype("
        "np.float64), or the layer with .astype(np.float32)"
    )
    assert_raises(DTypeError, message, lambda: run(layer, trace, None, np.zeros((2, 2, 4), np.float32)))


@BACKWARDS
def test_trace_and_grads(run):
    layer = deep()
    trace = layer.forward(X)[2]
    message = "RNN.backward: trace must be the third result of forward; got NoneType"
    assert_raises(DTypeError, message, lambda: run(layer, None, None))
    message = "RNN.backward: grads must be Parameters, as params.zeros_like() makes them; got dict"
    assert_raises(DTypeError, message, lambda: run(layer, trace, None, None, {}))
    with pytest.raises(
        ShapeError, match="^RNN.backward: trace was recorded by a layer with other options, not by this RNN"
    ):
        run(deep_batch_first(), trace, None)
    for other in (deep_batch_first(), layer.astype(np.float32)):
        with pytest.raises((ShapeError, DTypeError), match="^RNN.backward: grads must have (the shapes|dtype)"):
            run(layer, trace, None, None, other.params.zeros_like())


def test_backward_steps_checks_before_the_first_step():
    layer = deep()
    trace = layer.forward(X)[2]
    with pytest.raises(ShapeError):
        layer.backward_steps(trace, np.zeros(1))  # not at the first next()


def test_state_dict():
    layer = deep()
    state, names = layer.state_dict(), list(layer.params)
    renamed = {("weight_hh_l2" if name == "weight_hh_l1" else name): array for name, array in state.items()}
    message = f"load_state_dict: names must be {names}; missing: ['weight_hh_l1']; unknown: ['weight_hh_l2']"
    assert_raises(StateDictError, message, lambda: layer.load_state_dict(renamed))
    message = "load_state_dict: weight_hh_l0 must have shape (4, 4); got (4, 5)"
    assert_raises(StateDictError, message, lambda: layer.load_state_dict({**state, "weight_hh_l0": np.zeros((4, 5))}))
    message = "load_state_dict: bias_hh_l0 must be convertible to float64; got complex128"
    assert_raises(StateDictError, message, lambda: layer.load_state_dict({**state, "bias_hh_l0": np.zeros(4, complex)}))


def test_astype():
    message = "RNN.astype: complex128 parameters cannot become float64: their imaginary parts would be lost"
    assert_raises(DTypeError, message, lambda: deep().astype(np.complex128).astype(np.float64))
    message = "RNN.astype: dtype must be float32, float64 or complex128; got float16"
    assert_raises(DTypeError, message, lambda: deep().astype(np.float16))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_check_finite_names_the_place(bad):
    x = X.copy()
    x[3, 1, 2] = bad
    deep().forward(x)
    message = f"RNN.forward: x is {bad} at t = 3, n = 1, d = 2 (the first non-finite entry)"
    assert_raises(NonFiniteError, message, lambda: deep().forward(x, check_finite=True))
    # The same place, whatever the order of axes; padding is not looked at.
    swapped = x.swapaxes(0, 1)
    assert_raises(NonFiniteError, message, lambda: deep_batch_first().forward(swapped, check_finite=True))
    assert_raises(NonFiniteError, message, lambda: deep().forward(x, None, [2, 4], check_finite=True))
    deep().forward(x, None, [5, 3], check_finite=True)


def test_check_finite_names_the_layer():
    layer = deep_batch_first()
    layer.params["weight_hh_l1_reverse"][0, 0] = np.nan
    message = "RNN.forward: output of l1_reverse is nan at t = 0, n = 0, unit = 0 (the first non-finite entry)"
    assert_raises(NonFiniteError, message, lambda: layer.forward(X.swapaxes(0, 1), check_finite=True))
    exploding = RNN(1, 1, nonlinearity="relu", bias=False)
    exploding.params.flat[:] = 1e200
    message = "RNN.forward: output of l0 is inf at t = 1, n = 0, unit = 0 (the first non-finite entry)"
    with np.errstate(over="ignore"):
        assert_raises(NonFiniteError, message, lambda: exploding.forward(np.ones((4, 1, 1)), check_finite=True))
