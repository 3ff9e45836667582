"""Starting values: orthogonality to rounding, distributions with fixed seeds, which block of which parameter is set."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from frameworks import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import RNN, Linear, Parameters
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, RNNNumpyError, ShapeError
from rnn_numpy.layers.initializers import (
    chrono,
    identity,
    initialize,
    irnn,
    normal,
    orthogonal,
    set_forget_bias,
    uniform,
    xavier_normal,
    xavier_uniform,
)

EPS = np.finfo(float).eps
BY_SHAPE = [orthogonal, identity, uniform, normal, xavier_uniform, xavier_normal]
RANDOM = [function for function in BY_SHAPE if function is not identity]
GATES = {"rnn": ("a",), "lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}


def stand_in(kind, D=3, H=5, *, layers=2, P=0, bias=True, dtype=np.float64):
    """A bidirectional layer of any kind, as far as initialisers see it; its parameters are 7 everywhere."""
    gates, width = GATES[kind], P or H
    shapes = {}
    for layer in range(layers):
        for suffix in (f"l{layer}", f"l{layer}_reverse"):
            shapes[f"weight_ih_{suffix}"] = (len(gates) * H, D if layer == 0 else 2 * width)
            shapes[f"weight_hh_{suffix}"] = (len(gates) * H, width)
            if bias:
                shapes[f"bias_ih_{suffix}"] = shapes[f"bias_hh_{suffix}"] = (len(gates) * H,)
            if P:
                shapes[f"weight_hr_{suffix}"] = (P, H)
    params = Parameters(shapes, dtype)
    params.flat[:] = 7
    return SimpleNamespace(params=params, hidden_size=H, cell=SimpleNamespace(gate_names=gates))


def blocks(layer, kind):
    """Yield (gate, block) of each gate of each layer and direction; `kind` as in "weight_hh"."""
    found = [array for name, array in layer.params.items() if name.startswith(kind + "_l")]
    assert found
    for array in found:
        yield from zip(layer.cell.gate_names, array.reshape(-1, layer.hidden_size, *array.shape[1:]), strict=True)


# --------------------------------------------------------------------------------------------------- arrays by shape


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.1, 1.0, 3.0]), st.integers(0, 2**32 - 1))
def test_rows_or_columns_are_orthonormal(M, K, gain, seed):
    Q = orthogonal((M, K), gain, seed)
    gram = Q @ Q.T if M <= K else Q.T @ Q
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(M, K)), rtol=0, atol=20 * EPS * gain**2)
    assert Q.shape == (M, K) and Q.flags.c_contiguous


def test_orthogonal_matrices_are_haar_distributed():
    """The moments of Haar measure: entries have mean 0, variance 1/n and fourth moment 3 / (n (n + 2)).

    So has the trace mean 0 and variance 1: this is what QR without the signs of R's diagonal misses by far.
    """
    n, count = 4, 4000
    rng = np.random.default_rng(0)
    Q = np.array([orthogonal((n, n), rng=rng) for _ in range(count)])
    error = 4 / np.sqrt(count)  # four standard errors of a mean of numbers with variance 1
    assert abs(Q.mean(axis=0) * np.sqrt(n)).max() < error
    np.testing.assert_allclose((Q**2).mean(axis=0), 1 / n, rtol=0, atol=error / n)
    np.testing.assert_allclose((Q**4).mean(axis=0), 3 / (n * (n + 2)), rtol=0, atol=error / n)
    trace = np.trace(Q, axis1=1, axis2=2)
    assert abs(trace.mean()) < error and abs((trace**2).mean() - 1) < 2 * error
    assert abs(np.mean(np.linalg.det(Q) > 0) - 0.5) < error / 2

    unsigned = np.array([np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(count)])
    assert abs(np.trace(unsigned, axis1=1, axis2=2).mean()) > 10 * error


def test_rectangular_matrices_are_parts_of_haar_matrices():
    rng = np.random.default_rng(1)
    for shape in [(2, 5), (5, 2)]:
        Q = np.array([orthogonal(shape, rng=rng) for _ in range(3000)])
        assert abs(Q.mean(axis=0)).max() * np.sqrt(5) < 4 / np.sqrt(3000)
        np.testing.assert_allclose((Q**2).mean(axis=0), 1 / 5, rtol=0, atol=4 / np.sqrt(3000) / 5)


@pytest.mark.needs_torch
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (1, 1)])
def test_identity_is_torchs_eye(shape):
    assert np.array_equal(identity(shape, 0.5), 0.5 * torch.nn.init.eye_(torch.empty(shape)).numpy())


@pytest.mark.parametrize(
    ("draw", "std", "fourth"),
    [
        # Of a uniform distribution, the fourth moment is 9/5 of the squared variance, of a normal one 3.
        (lambda rng: uniform((300, 200), 0.3, rng), 0.3 / np.sqrt(3), 9 / 5),
        (lambda rng: normal((300, 200), 0.3, rng), 0.3, 3),
        (lambda rng: xavier_uniform((300, 200), 0.5, rng), 0.5 * np.sqrt(2 / 500), 9 / 5),
        (lambda rng: xavier_normal((300, 200), 0.5, rng), 0.5 * np.sqrt(2 / 500), 3),
    ],
)
def test_moments(draw, std, fourth):
    values = draw(0) / std
    assert abs(values.mean()) < 0.02
    assert (values**2).mean() == pytest.approx(1, rel=0.02)
    assert (values**4).mean() == pytest.approx(fourth, rel=0.03)
    if fourth != 3:
        assert 0.999 * np.sqrt(3) < abs(values).max() <= np.sqrt(3)


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal"])
def test_xavier_has_torchs_scale(name):
    theirs = getattr(torch.nn.init, name + "_")(torch.empty(400, 100), 2.0, torch.Generator().manual_seed(0))
    ours = {"xavier_uniform": xavier_uniform, "xavier_normal": xavier_normal}[name]((400, 100), 2.0, 0)
    assert ours.std() == pytest.approx(theirs.std().item(), rel=0.02)


@pytest.mark.parametrize("function", RANDOM)
def test_the_same_seed_gives_the_same_numbers(function):
    first = function((4, 3), rng=5)
    assert np.array_equal(first, function((4, 3), rng=5)) and np.array_equal(first, function([4, 3], rng=np.int64(5)))
    assert not np.array_equal(first, function((4, 3), rng=6))
    rng = np.random.default_rng(5)
    assert np.array_equal(first, function((4, 3), rng=rng)) and not np.array_equal(first, function((4, 3), rng=rng))
    assert not np.array_equal(function((4, 3)), function((4, 3)))


@pytest.mark.parametrize("function", BY_SHAPE)
def test_dtypes_are_roundings_of_the_same_numbers(function):
    exact = function((4, 3), rng=5)
    for dtype in (np.float32, np.float64, np.complex128):
        values = function((4, 3), rng=5, dtype=dtype)
        assert values.dtype == dtype and values.shape == (4, 3)
        assert np.array_equal(values, exact.astype(dtype))


# ----------------------------------------------------------------------------------------------------- initialize


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("P", [0, 2])
def test_every_block_is_orthogonal_and_drawn_by_itself(kind, P):
    layer = stand_in(kind, P=P)
    initialize(layer, weight_hh="orthogonal", gain=1.5, rng=0)
    found = [block for _, block in blocks(layer, "weight_hh")]
    assert len(found) == 4 * len(GATES[kind])
    for block in found:
        np.testing.assert_allclose(block.T @ block, 2.25 * np.eye(P or 5), rtol=0, atol=50 * EPS)
    assert len({block.tobytes() for block in found}) == len(found)
    for name, array in layer.params.items():
        assert name.startswith("weight_hh") or np.all(array == 7)


@pytest.mark.parametrize("kind", GATES)
def test_every_block_is_the_identity(kind):
    layer = stand_in(kind, P=2)
    initialize(layer, weight_hh="identity", weight_hr="identity", gain=0.5)
    assert all(np.array_equal(block, 0.5 * np.eye(5, 2)) for _, block in blocks(layer, "weight_hh"))
    assert np.array_equal(layer.params["weight_hr_l1_reverse"], 0.5 * np.eye(2, 5))


@pytest.mark.parametrize(
    ("rule", "std", "fourth"),
    [
        ("uniform", 1 / np.sqrt(3 * 200), 9 / 5),
        # From 100 inputs to the 200 units of one gate, not to the 600 rows of the stack.
        ("xavier_uniform", np.sqrt(2 / 300), 9 / 5),
        ("glorot_uniform", np.sqrt(2 / 300), 9 / 5),
        ("xavier_normal", np.sqrt(2 / 300), 3),
        ("glorot_normal", np.sqrt(2 / 300), 3),
        (functools.partial(normal, std=0.01), 0.01, 3),
    ],
)
def test_rules_take_their_scale_from_a_block(rule, std, fourth):
    layer = stand_in("gru", D=100, H=200, layers=1)
    initialize(layer, weight_ih=rule, gain=2.0, rng=0)
    for _, block in blocks(layer, "weight_ih"):
        values = block / (2 * std)
        assert (values**2).mean() == pytest.approx(1, rel=0.04)
        assert (values**4).mean() == pytest.approx(fourth, rel=0.08)


def test_a_number_is_the_total_bias_of_every_gate():
    layer = stand_in("lstm")
    initialize(layer, bias=0.25)
    assert all(np.all(block == 0.25) for _, block in blocks(layer, "bias_ih"))
    assert all(np.all(block == 0) for _, block in blocks(layer, "bias_hh"))
    assert all(np.all(array == 7) for name, array in layer.params.items() if name.startswith("weight"))


def test_callables_get_the_shape_of_a_block_and_the_generator():
    layer, calls = stand_in("gru", P=2), []

    def rule(shape, rng):
        calls.append((shape, rng))
        return np.full(shape, len(calls))

    rng = np.random.default_rng(0)
    initialize(layer, weight_ih=rule, weight_hh=rule, weight_hr=rule, bias=rule, gain=2.0, rng=rng)
    one = {"weight_ih": (5, 3), "weight_hh": (5, 2), "bias": (5,)}
    assert [shape for shape, _ in calls[:10]] == [*[one["weight_ih"]] * 3, *[one["weight_hh"]] * 3, *[(5,)] * 3, (2, 5)]
    assert len(calls) == 40 and all(given is rng for _, given in calls)
    assert layer.params["weight_hh_l0"][:, 0].tolist() == [8.0] * 5 + [10.0] * 5 + [12.0] * 5  # gain acts on weights
    assert layer.params["bias_ih_l0"].tolist() == [7.0] * 5 + [8.0] * 5 + [9.0] * 5
    assert not layer.params["bias_hh_l0"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_layers_of_other_dtypes_get_the_same_numbers(dtype):
    exact, layer = stand_in("lstm"), stand_in("lstm", dtype=dtype)
    for each in (exact, layer):
        initialize(each, weight_hh="orthogonal", weight_ih="xavier_normal", bias=0.1, gain=0.7, rng=3)
        set_forget_bias(each, 2.0)
    assert np.array_equal(layer.params.flat, exact.params.flat.astype(dtype))
    for each in (exact, layer):
        chrono(each, 50, rng=3)
    assert np.array_equal(layer.params.flat, exact.params.flat.astype(dtype))


def test_a_real_layer_runs_and_seeds_repeat():
    layers = [RNN(3, 4, 2, bidirectional=True, rng=seed) for seed in (0, 1)]
    for layer in layers:
        initialize(layer, weight_hh="orthogonal", weight_ih="xavier_uniform", bias=0.0, rng=2)
    assert np.array_equal(layers[0].params.flat, layers[1].params.flat)
    names = [name for name in layers[0].params if name.startswith("weight_hh")]
    assert len(names) == 4
    for name in names:
        np.testing.assert_allclose(np.linalg.svd(layers[0].params[name], compute_uv=False), 1, rtol=20 * EPS)
    output, _ = layers[0](np.ones((2, 1, 3)))
    assert np.array_equal(output, layers[1](np.ones((2, 1, 3)))[0])


def test_without_biases_weights_can_be_set():
    layer = RNN(2, 3, bias=False, rng=0)
    initialize(layer, weight_hh="identity")
    assert np.array_equal(layer.params["weight_hh_l0"], np.eye(3))


# ------------------------------------------------------------------------------------------------ biases of gates


@pytest.mark.parametrize("value", [1.0, -2, np.float32(0.5)])
def test_the_forget_gates_total_bias(value):
    layer = stand_in("lstm")
    set_forget_bias(layer, value)
    for kind, expected in (("bias_ih", value), ("bias_hh", 0)):
        for gate, block in blocks(layer, kind):
            assert np.all(block == (expected if gate == "f" else 7))
    assert all(np.all(array == 7) for name, array in layer.params.items() if name.startswith("weight"))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@given(st.floats(1, 1e6))
def test_a_bias_of_log_u_keeps_for_1_plus_u_steps(u):
    # 1 - sigmoid is a difference of numbers close to 1: its relative error grows as its inverse, u.
    assert 1 / (1 - sigmoid(np.log(u))) == pytest.approx(1 + u, rel=4 * EPS * (1 + u))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_time_scales_of_chrono_are_uniform(kind):
    T_max, H = 100, 2000
    layer = stand_in(kind, H=H, layers=1)
    chrono(layer, T_max, rng=0)
    keeper = "f" if kind == "lstm" else "z"
    biases = {}
    for gate, block in blocks(layer, "bias_ih"):
        biases.setdefault(gate, []).append(block)
    assert len(biases[keeper]) == 2 and not np.array_equal(*biases[keeper])  # one per direction
    for block in biases[keeper]:
        scales = np.sort(1 / (1 - sigmoid(block)))
        assert 2 <= scales[0] and scales[-1] <= T_max
        # Kolmogorov's distance to the uniform distribution; above 1.95 / sqrt(H) in one of a thousand samples.
        distance = np.abs((scales - 2) / (T_max - 2) - (np.arange(H) + 0.5) / H).max()
        assert distance < 1.95 / np.sqrt(H)
    if kind == "lstm":
        assert np.array_equal(biases["i"], np.negative(biases["f"]))
        np.testing.assert_allclose(sigmoid(biases["i"][0]), 1 - sigmoid(biases["f"][0]), rtol=1e-12)
    rest = set(GATES[kind]) - {"f", "i", "z"}
    assert not any(block.any() for gate in rest for block in biases[gate])
    assert not any(block.any() for _, block in blocks(layer, "bias_hh"))
    assert all(np.all(array == 7) for name, array in layer.params.items() if name.startswith("weight"))


def test_chrono_repeats_by_seed_and_its_shortest_lag_gives_zeros():
    first, second = stand_in("lstm"), stand_in("lstm")
    chrono(first, 30.5, rng=1)
    chrono(second, 30.5, rng=np.random.default_rng(1))
    assert np.array_equal(first.params.flat, second.params.flat)
    chrono(first, 2)
    assert not any(block.any() for kind in ("bias_ih", "bias_hh") for _, block in blocks(first, kind))


@pytest.mark.parametrize("bias", [True, False])
def test_irnn(bias):
    layer = RNN(300, 4, 2, "relu", bias=bias, bidirectional=True, rng=0)
    irnn(layer, rng=0)
    for name, array in layer.params.items():
        if name.startswith("weight_hh"):
            assert np.array_equal(array, np.eye(4))
        elif name.startswith("bias"):
            assert not array.any()
    W_ih = layer.params["weight_ih_l0"]
    assert W_ih.std() == pytest.approx(0.001, rel=0.05) and abs(W_ih.mean()) < 1e-4
    assert not np.array_equal(W_ih, layer.params["weight_ih_l0_reverse"])
    again = RNN(300, 4, 2, "relu", bias=bias, bidirectional=True, rng=9)
    irnn(again, 0.001, np.random.default_rng(0))
    assert np.array_equal(again.params.flat, layer.params.flat)


def test_an_irnn_without_input_keeps_its_state_and_its_gradient():
    layer = RNN(2, 3, nonlinearity="relu", rng=0)
    irnn(layer, std=0.1, rng=0)
    h_0 = np.array([[[1.0, 2.0, 3.0]]])
    _, h_n, trace = layer.forward(np.zeros((50, 1, 2)), h_0)
    assert np.array_equal(h_n, h_0)
    assert np.array_equal(layer.backward(trace, None, np.ones((1, 1, 3))).dh_0, np.ones((1, 1, 3)))


# ------------------------------------------------------------------------------------------------ errors

RULES = (
    "'orthogonal', 'identity', 'xavier_uniform', 'glorot_uniform', 'xavier_normal', 'glorot_normal', 'uniform', "
    "or a callable"
)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *(
            (
                lambda function=function, name=name, wrong=wrong: function((2, 2), wrong),
                OptionError,
                f"{function.__name__}: {name} must be {text}",
            )
            for function, name in zip(BY_SHAPE, ["gain", "gain", "bound", "std", "gain", "gain"], strict=True)
            for wrong, text in [
                (0, "greater than 0; got 0.0"),
                (-1.0, "greater than 0; got -1.0"),
                (np.nan, "finite; got nan"),
            ]
        ),
        *(
            (
                lambda function=function: function((2, 2), rng=-1),
                DTypeError,
                f"{function.__name__}: rng must be a numpy.random.Generator, a seed >= 0 or None; got -1",
            )
            for function in BY_SHAPE
        ),
        *(
            (
                lambda function=function: function((2, 2), dtype=int),
                DTypeError,
                f"{function.__name__}: dtype must be float32, float64 or complex128; got int64",
            )
            for function in (orthogonal, identity, uniform, normal)
        ),
        *(
            (
                lambda function=function: function((2, 2, 2)),
                ShapeError,
                f"{function.__name__}: shape must be (M, K), two axes; got (2, 2, 2)",
            )
            for function in (orthogonal, identity, xavier_uniform, xavier_normal)
        ),
        *(
            (
                lambda function=function: function(3),
                DTypeError,
                f"{function.__name__}: shape must be a tuple of integers; got int 3",
            )
            for function in BY_SHAPE
        ),
        (lambda: orthogonal((2, 0)), OptionError, "orthogonal: shape[1] must be at least 1; got 0"),
        (lambda: uniform((2.0,)), DTypeError, "uniform: shape[0] must be an integer; got float 2.0"),
        (lambda: orthogonal((2, 2), "1"), DTypeError, "orthogonal: gain must be a number; got str '1'"),
        (
            lambda: initialize(stand_in("lstm"), weight_hh="haar"),
            OptionError,
            f"initialize: weight_hh must be one of {RULES}; got 'haar'",
        ),
        (
            lambda: initialize(stand_in("lstm"), weight_ih=0.5),
            OptionError,
            f"initialize: weight_ih must be one of {RULES}; got 0.5",
        ),
        (
            lambda: initialize(stand_in("lstm"), weight_hh="identity", gain=np.inf),
            OptionError,
            "initialize: gain must be finite; got inf",
        ),
        (
            lambda: initialize(stand_in("lstm"), bias=0.0, gain=2.0),
            OptionError,
            "initialize: gain = 2.0 has nothing to act on: it multiplies weights that this call sets",
        ),
        (
            lambda: initialize(stand_in("lstm")),
            OptionError,
            "initialize: nothing to set; give weight_hh, weight_ih, weight_hr or bias",
        ),
        (
            lambda: initialize(RNN(1, 2, rng=0), weight_hr="identity"),
            OptionError,
            "initialize: the layer has no weight_hr; its parameters are "
            "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0",
        ),
        (
            lambda: initialize(RNN(1, 2, bias=False, rng=0), bias=0.0),
            OptionError,
            "initialize: the layer has no biases; make it with bias=True",
        ),
        (
            lambda: initialize(stand_in("lstm"), bias="zeros"),
            DTypeError,
            "initialize: bias must be a number; got str 'zeros'",
        ),
        (
            lambda: initialize(stand_in("lstm"), bias=np.nan),
            OptionError,
            "initialize: bias must be finite; got nan",
        ),
        (
            lambda: initialize(stand_in("lstm"), weight_hh="identity", rng="0"),
            DTypeError,
            "initialize: rng must be a numpy.random.Generator, a seed >= 0 or None; got '0'",
        ),
        (
            lambda: initialize(stand_in("lstm"), weight_hh=lambda shape, rng: np.eye(3)),
            ShapeError,
            "initialize: what the rule for weight_hh returns must have shape that of a block = (5, 5); got (3, 3)",
        ),
        (
            lambda: initialize(stand_in("lstm"), bias=lambda shape, rng: np.full(shape, "a")),
            DTypeError,
            "initialize: what the rule for bias returns must hold real numbers; got dtype <U1",
        ),
        (
            lambda: initialize(stand_in("lstm"), bias=lambda shape, rng: np.full(shape, np.nan)),
            NonFiniteError,
            "initialize: what the rule for bias returns is nan at row = 0 (the first non-finite entry)",
        ),
        *(
            (
                lambda call=call: call(Linear(2, 3, rng=0)),
                DTypeError,
                f"{name}: layer must be a recurrent layer: RNN, LSTM or GRU; got Linear",
            )
            for name, call in [
                ("initialize", lambda layer: initialize(layer, weight_hh="identity")),
                ("set_forget_bias", set_forget_bias),
                ("chrono", lambda layer: chrono(layer, 10)),
                ("irnn", irnn),
            ]
        ),
        (
            lambda: set_forget_bias(stand_in("gru")),
            OptionError,
            "set_forget_bias: layer must have gates f; SimpleNamespace has blocks r, z, n",
        ),
        (
            lambda: set_forget_bias(SimpleNamespace(params=stand_in("lstm").params, hidden_size=5)),
            OptionError,
            "set_forget_bias: layer must have gates f; SimpleNamespace has no gates",
        ),
        (
            lambda: set_forget_bias(stand_in("lstm", bias=False)),
            OptionError,
            "set_forget_bias: the layer has no biases; make it with bias=True",
        ),
        (
            lambda: set_forget_bias(stand_in("lstm"), np.inf),
            OptionError,
            "set_forget_bias: value must be finite; got inf",
        ),
        (
            lambda: set_forget_bias(stand_in("lstm"), True),
            DTypeError,
            "set_forget_bias: value must be a number; got bool True",
        ),
        (
            lambda: chrono(stand_in("rnn"), 10),
            OptionError,
            "chrono: layer must have gates f and i or z; SimpleNamespace has blocks a",
        ),
        (
            lambda: chrono(stand_in("gru", bias=False), 10),
            OptionError,
            "chrono: the layer has no biases; make it with bias=True",
        ),
        (lambda: chrono(stand_in("gru"), 1.5), OptionError, "chrono: max_lag must be at least 2 steps; got 1.5"),
        (lambda: chrono(stand_in("gru"), np.nan), OptionError, "chrono: max_lag must be finite; got nan"),
        (lambda: chrono(stand_in("gru"), np.inf), OptionError, "chrono: max_lag must be finite; got inf"),
        (lambda: chrono(stand_in("gru"), "9"), DTypeError, "chrono: max_lag must be a number; got str '9'"),
        (
            lambda: chrono(stand_in("gru"), 9, rng=1.0),
            DTypeError,
            "chrono: rng must be a numpy.random.Generator, a seed >= 0 or None; got 1.0",
        ),
        (
            lambda: irnn(RNN(1, 2, rng=0)),
            OptionError,
            "irnn: layer must be an RNN with nonlinearity 'relu'; got RNN with 'tanh'",
        ),
        (
            lambda: irnn(stand_in("lstm")),
            OptionError,
            "irnn: layer must be an RNN with nonlinearity 'relu'; got SimpleNamespace",
        ),
        (
            lambda: irnn(RNN(1, 2, nonlinearity="relu", rng=0), 0),
            OptionError,
            "irnn: std must be greater than 0; got 0.0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, RNNNumpyError)
    assert str(caught.value) == message


def test_an_rnn_has_no_forget_gate():
    with pytest.raises(OptionError, match="^set_forget_bias: layer must have gates f; RNN has "):
        set_forget_bias(RNN(1, 2, rng=0))


def test_where_an_argument_is_wrong_nothing_is_set():
    layer, calls = stand_in("lstm"), []

    def third_is_wrong(shape, rng):
        calls.append(shape)
        return np.zeros(shape if len(calls) < 3 else 1)

    attempts = [
        lambda: initialize(layer, weight_ih="uniform", weight_hh=third_is_wrong, bias=0.0),
        lambda: initialize(layer, weight_ih="uniform", weight_hr="uniform"),
        lambda: chrono(layer, 1),
        lambda: set_forget_bias(layer, np.nan),
        lambda: irnn(layer),
    ]
    for attempt in attempts:
        with pytest.raises(RNNNumpyError):
            attempt()
    assert len(calls) == 3 and np.all(layer.params.flat == 7)
