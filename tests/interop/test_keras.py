"""Weights from and to Keras: same outputs as Keras itself, round trips bit for bit, refusals with their reason."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from frameworks import keras
from processes import ended

import rnn_numpy.interop.keras as keras_layers
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.errors import (
    ConversionError,
    DTypeError,
    MissingExtraError,
    NonFiniteError,
    OptionError,
    ShapeError,
)
from rnn_numpy.interop import from_keras, from_keras_weights, to_keras, to_keras_weights
from rnn_numpy.layers import GRU, LSTM, RNN

# Keras has no numbers of its own: it runs on torch.
pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_torch]

KINDS = {
    "rnn-tanh": (RNN, {}, "rnn", "SimpleRNN", {}),
    "rnn-relu": (RNN, {"nonlinearity": "relu"}, "rnn", "SimpleRNN", {"activation": "relu"}),
    "lstm": (LSTM, {}, "lstm", "LSTM", {}),
    "gru-after": (GRU, {"reset": "after"}, "gru", "GRU", {}),
    "gru-before": (GRU, {"reset": "before"}, "gru", "GRU", {"reset_after": False}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])

# Keras multiplies float64 matrices in float32, on every backend but TensorFlow.
RTOL = 2e-5


def layer_of(kind, *arguments, **options):
    cls, special, *_ = KINDS[kind]
    return cls(*arguments, **{"rng": 0, **special, **options})


def keras_of(kind, inputs, units, *, bidirectional=False, seed=0, dtype="float32", **options):
    """Return a built Keras layer with random weights, biases too, and random outer options."""
    *_, name, special = KINDS[kind]
    # Keras' default, an orthogonal matrix, does not exist in half precision.
    options = {"return_sequences": True, "recurrent_initializer": "zeros", **special, **options}
    made = getattr(keras.layers, name)(units, dtype=dtype, **options)
    if bidirectional:
        made = keras.layers.Bidirectional(made, dtype=dtype)
    made.build((1, None, inputs))
    rng = np.random.default_rng(seed)
    made.set_weights([0.5 * rng.normal(size=tuple(weight.shape)) for weight in made.weights])
    return made


def weights_of(layer):
    return [np.asarray(weight.value.detach()) for weight in layer.weights]


def options_of(kind, layer):
    """Return what from_keras_weights must be told of a layer."""
    options = {"cell": KINDS[kind][2], "bidirectional": layer.bidirectional}
    if isinstance(layer, RNN):
        options["nonlinearity"] = layer.nonlinearity
    if isinstance(layer, GRU):
        options["reset"] = layer.reset
    return options


def keras_outputs(layers, x):
    """Run Keras layers, batch first, from zero states."""
    for layer in layers:
        x = layer(x, training=False)
    return np.asarray(x.detach())


def same_bits(found, expected):
    return [a.dtype for a in found] == [b.dtype for b in expected] and all(
        a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True)
    )


def flat(lists):
    return [array for arrays in lists for array in arrays]


# ------------------------------------------------------------------------------------------------ both ways


@every_kind
@every_dtype
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_from_keras_and_back(kind, dtype, bidirectional, use_bias, num_layers):
    shared = {"bidirectional": bidirectional, "dtype": dtype, "use_bias": use_bias}
    layers = [keras_of(kind, 3, 4, **shared)]
    if num_layers == 2:
        layers.append(keras_of(kind, 8 if bidirectional else 4, 4, seed=1, **shared))
    layer = from_keras(layers)
    assert (layer.num_layers, layer.bidirectional, layer.bias) == (num_layers, bidirectional, use_bias)
    assert layer.batch_first
    assert layer.dtype == dtype
    x = np.random.default_rng(2).normal(size=(2, 6, 3)).astype(dtype)
    assert_grad_close("output", layer(x)[0], keras_outputs(layers, x), RTOL)
    # Back: the same arrays, in Keras layers and as lists.
    again, lists = to_keras(layer), to_keras_weights(layer)
    assert [type(made) for made in again] == [type(made) for made in layers]
    for index, original in enumerate(layers):
        assert same_bits(weights_of(again[index]), weights_of(original))
        assert same_bits(lists[index], weights_of(original))
    assert_grad_close("output", layer(x)[0], keras_outputs(again, x), RTOL)
    twin = from_keras_weights([weights_of(original) for original in layers], **options_of(kind, layer))
    assert repr(twin) == repr(layer)
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()


@every_kind
@every_dtype
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_layers", "batch_first"), [(1, False), (2, True)])
def test_to_keras(kind, dtype, bidirectional, num_layers, batch_first):
    layer = layer_of(kind, 3, 4, num_layers, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    before = layer.params.flat.copy()
    layers = to_keras(layer)
    x = np.random.default_rng(2).normal(size=(2, 6, 3)).astype(dtype)
    output = layer(x)[0] if batch_first else layer(x.swapaxes(0, 1))[0].swapaxes(0, 1)
    assert_grad_close("output", output, keras_outputs(layers, x), RTOL)
    assert (layer.params.flat == before).all()
    # Two biases become their sum, but of a GRU that resets after; then not a bit changes any more.
    twin = from_keras(layers)
    assert_grad_close("output", twin(x)[0], output, 1e-12 if dtype == "float64" else 1e-6)
    assert same_bits(flat(to_keras_weights(twin)), flat(to_keras_weights(layer)))
    if kind == "gru-after":
        assert twin.params.flat.tobytes() == layer.params.flat.tobytes()
    else:
        assert not twin.params["bias_hh_l0"].any()
        assert (twin.params["bias_ih_l0"] == layer.params["bias_ih_l0"] + layer.params["bias_hh_l0"]).all()


def test_a_sequential_model_is_made_of_the_layers():
    layer = LSTM(3, 4, 3, dropout=0.3, dtype=np.float32, rng=0)
    layers = to_keras(layer)
    assert [type(made).__name__ for made in layers] == ["LSTM", "Dropout", "LSTM", "Dropout", "LSTM"]
    x = np.random.default_rng(2).normal(size=(2, 6, 3)).astype(np.float32)
    model = keras.Sequential(layers)
    output = layer(x.swapaxes(0, 1))[0].swapaxes(0, 1)
    assert_grad_close("output", output, np.asarray(model(x, training=False).detach()), RTOL)
    twin = from_keras(model.layers)
    assert (twin.num_layers, twin.dropout) == (3, pytest.approx(0.3))


def test_dropout_of_a_single_layer_does_nothing_and_is_left_out():
    with pytest.warns(UserWarning, match="no effect"):
        layer = GRU(3, 4, dropout=0.5, dtype=np.float32)
    assert [type(made).__name__ for made in to_keras(layer)] == ["GRU"]


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", [{"return_sequences": False}, {"return_state": True}, {"unroll": True}])
def test_options_that_change_no_weight(kind, bidirectional, options):
    made = keras_of(kind, 3, 4, bidirectional=bidirectional, **options)
    layer = from_keras(made)
    x = np.random.default_rng(2).normal(size=(2, 6, 3)).astype(np.float32)
    theirs = made(x, training=False)
    theirs = np.asarray((theirs[0] if "return_state" in options else theirs).detach())
    output, final = layer(x)
    if options == {"return_sequences": False}:
        h_n = final[0] if isinstance(final, tuple) else final
        output = np.concatenate(list(h_n), axis=1)
    assert_grad_close("output", output, theirs, RTOL)


def test_a_negative_zero_keeps_its_sign():
    weights = [np.ones((2, 3)), np.ones((3, 3)), np.array([-0.0, 0.0, 1.0])]
    layer = from_keras_weights(weights, "rnn")
    assert np.signbit(to_keras_weights(layer)[0][2]).tolist() == [True, False, False]


@every_dtype
def test_a_foreign_byte_order(dtype):
    layer = LSTM(2, 3, dtype=dtype, rng=0)
    arrays = [array.astype(array.dtype.newbyteorder(">")) for array in to_keras_weights(layer)[0]]
    twin = from_keras_weights(arrays, "lstm")
    assert twin.dtype == np.dtype(dtype)
    assert same_bits(to_keras_weights(twin)[0], to_keras_weights(layer)[0])


@every_kind
@every_dtype
@pytest.mark.parametrize("gain", [0.0, 1e-30, 30.0, 1e4])
def test_weights_of_any_size_pass_the_self_test(kind, dtype, gain):
    layer = layer_of(kind, 8, 32, 2, dtype=dtype)
    layer.params.flat[:] *= gain
    twin = from_keras(to_keras(layer))
    assert same_bits(flat(to_keras_weights(twin)), flat(to_keras_weights(layer)))


def test_the_reset_of_a_gru_is_read_off_its_bias():
    for reset in ("after", "before"):
        arrays = to_keras_weights(GRU(2, 3, reset=reset, rng=0))[0]
        assert from_keras_weights(arrays, "gru").reset == reset
        assert from_keras_weights(arrays, "gru", reset=reset).reset == reset
        arrays = to_keras_weights(GRU(2, 3, bias=False, reset=reset, rng=0))[0]
        assert from_keras_weights(arrays, "gru", reset=reset).reset == reset
    with pytest.raises(OptionError, match="from_keras_weights: reset must be given for a GRU without bias"):
        from_keras_weights(arrays, "gru")


def test_on_another_backend():
    """Keras takes its backend when it is imported, so that this one is in a process of its own."""
    code = """
import numpy as np
from rnn_numpy import RNN
from rnn_numpy.interop import from_keras, to_keras
from rnn_numpy.layers import GRU, LSTM
for kind in (RNN, LSTM, GRU):
    layer = from_keras(to_keras(kind(3, 4, 2, bidirectional=True, dtype=np.float32, rng=0)))
    assert from_keras(to_keras(layer)).params.flat.tobytes() == layer.params.flat.tobytes()
print("carried")
"""
    environment = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", code]
    done = ended(command, env=environment, capture_output=True, text=True, limit=120)
    assert done.stdout == "carried\n", done.stderr


# ------------------------------------------------------------------------------------------------ refusals


def lstm(**options):
    return keras_of("lstm", 3, 4, **options)


def bidirectional(**options):
    made = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True), **options)
    made.build((None, None, 3))
    return made


def two_kinds():
    backward = keras.layers.LSTM(4, return_sequences=True, go_backwards=True, use_bias=False)
    return bidirectional(backward_layer=backward)


def wrong_way():
    made = bidirectional()
    made.forward_layer.go_backwards, made.backward_layer.go_backwards = True, False
    return made


def not_finite():
    made = lstm()
    weights = weights_of(made)
    weights[1][2, 1] = np.inf
    made.set_weights(weights)
    return made


def imitation(x):
    return keras.ops.tanh(x)


imitation.__name__ = "tanh"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: None,
            DTypeError,
            r"layers\[0\] must be a keras.layers.SimpleRNN, LSTM or GRU, or a Bidirectional of one",
        ),
        (list, DTypeError, "layers must be a Keras layer or a list of them; got an empty list"),
        (lambda: [lstm(), keras.layers.Dense(3)], DTypeError, r"layers\[1\] must be .*; got Dense"),
        (lambda: keras.layers.Bidirectional(keras.layers.RNN(keras.layers.LSTMCell(3))), DTypeError, "got RNN"),
        (
            lambda: keras.layers.LSTM(4),
            ConversionError,
            r"layers\[0\] has no weights yet: call it once, or layer.build",
        ),
        (
            lambda: lstm(activation="relu"),
            ConversionError,
            "has activation=.*, for which this package's LSTM has no count",
        ),
        (lambda: lstm(activation=imitation), ConversionError, "has activation=<function imitation .*, for which"),
        (
            lambda: lstm(activation=None),
            ConversionError,
            "has activation=.*, for which this package's LSTM has no counter",
        ),
        (
            lambda: keras_of("rnn-tanh", 3, 4, activation="sigmoid"),
            ConversionError,
            "for which this package's RNN has no counterpart; it has tanh and relu",
        ),
        (
            lambda: lstm(recurrent_activation="hard_sigmoid"),
            ConversionError,
            "recurrent_activation=<function hard_sigmoid .*>, for which there is no counterpart; the gates here",
        ),
        (lambda: lstm(dropout=0.1), ConversionError, "has dropout=0.1, which drops the same entries at every step"),
        (
            lambda: lstm(recurrent_dropout=0.1),
            ConversionError,
            "has recurrent_dropout=0.1, which drops the same entries",
        ),
        (lambda: lstm(stateful=True), ConversionError, "has stateful=True, which keeps the state inside of the layer"),
        (
            lambda: lstm(go_backwards=True),
            ConversionError,
            "has go_backwards=True, which exists here as half of a bidir",
        ),
        (wrong_way, ConversionError, "has go_backwards=True, which exists here as half"),
        (
            lambda: lstm(dtype="float16"),
            ConversionError,
            r"layers\[0\] has variable_dtype='float16', and weights here are float32 or float64",
        ),
        (lambda: lstm(dtype="bfloat16"), ConversionError, "has variable_dtype='bfloat16', and weights here"),
        (lambda: half_computation(), ConversionError, "has compute_dtype='float16', while its weights are float32"),
        (
            lambda: bidirectional(merge_mode="sum"),
            ConversionError,
            r"layers\[0\] has merge_mode='sum'; here outputs are con",
        ),
        (lambda: bidirectional(merge_mode=None), ConversionError, "has merge_mode=None; here outputs are concatenated"),
        (two_kinds, ConversionError, "both directions of .* must have the same options; got .*'use_bias': True.*False"),
        (not_finite, NonFiniteError, "recurrent_kernel of layer 0, direction 0 is inf at i = 2, j = 1"),
        (
            lambda: [lstm(return_sequences=False), keras_of("lstm", 4, 4)],
            ConversionError,
            r"layers\[0\] has return_sequences=False, so that the one above it does not get a sequence",
        ),
        (
            lambda: [lstm(), keras_of("lstm", 4, 5)],
            ConversionError,
            r"must have the same options; units is 4 in layers\[0\], 5 in layers\[1\]. Convert them one by one",
        ),
        (
            lambda: [lstm(), keras_of("gru-after", 4, 4)],
            ConversionError,
            r"cell is 'lstm' in layers\[0\], 'gru' in layers\[1",
        ),
        (
            lambda: [lstm(), bidirectional()],
            ConversionError,
            r"bidirectional is False in layers\[0\], True in layers\[1\]",
        ),
        (
            lambda: [lstm(), keras_of("lstm", 5, 4)],
            ShapeError,
            r"kernel of layer 1, direction 0 must have shape \(directions u, 4 u\) = \(4, 16\); got \(5, 16\)",
        ),
        (
            lambda: [keras.layers.Dropout(0.1), lstm()],
            ConversionError,
            r"layers\[0\] is a Dropout that is not between two recurrent",
        ),
        (
            lambda: [lstm(), keras.layers.Dropout(0.1)],
            ConversionError,
            r"layers\[1\] is a Dropout that is not between two recurrent",
        ),
        (lambda: [keras.layers.Dropout(0.1)], ConversionError, r"layers\[0\] is a Dropout that is not between"),
        (
            lambda: [lstm(), keras.layers.Dropout(0.1), keras.layers.Dropout(0.1), keras_of("lstm", 4, 4)],
            ConversionError,
            r"layers\[2\] is a Dropout that is not between",
        ),
        (
            lambda: [lstm(), keras.layers.Dropout(0.1, noise_shape=(None, 1, None)), keras_of("lstm", 4, 4)],
            ConversionError,
            r"layers\[1\] drops whole stretches, noise_shape=\(None, 1, None\)",
        ),
        (
            lambda: [lstm(), keras.layers.Dropout(0.1), keras_of("lstm", 4, 4), keras_of("lstm", 4, 4)],
            ConversionError,
            r"Dropout must be the same between all layers; got the rates \[0.1, 0.0\]",
        ),
    ],
)
def test_keras_layers_that_are_refused(make, error, message):
    layers = make()
    with pytest.raises(error, match=f"from_keras: .*{message}"):
        from_keras(layers)


def half_computation():
    return lstm(dtype="mixed_float16")


def test_layers_that_are_refused():
    for convert in (to_keras, to_keras_weights):
        name = convert.__name__
        with pytest.raises(DTypeError, match=f"{name}: layer must be an RNN, LSTM or GRU of rnn_numpy; got list"):
            convert([])
        with pytest.raises(ConversionError, match=f"{name}: Keras' GRU is real, the layer complex128, which is for"):
            convert(GRU(3, 4).astype(np.complex128))
        with pytest.raises(ConversionError, match=f"{name}: Keras' LSTM has no projection of the state; .*=2"):
            convert(LSTM(3, 4, proj_size=2))
        with pytest.raises(
            ConversionError, match=f"{name}: Keras' GRU has no such recurrent_dropout; the layer has 0.5. "
        ):
            convert(GRU(3, 4, recurrent_dropout=0.5))
        with pytest.raises(
            ConversionError, match=f"{name}: Keras' LSTM has no such zoneout; the layer has .0.0, 0.5.. To"
        ):
            convert(LSTM(3, 4, zoneout=(0.0, 0.5)))
        layer = RNN(3, 4)
        layer.params["bias_ih_l0"][1] = np.nan
        with pytest.raises(NonFiniteError, match=f"{name}: bias_ih_l0 is nan at i = 1"):
            convert(layer)


K, R, B = np.ones((2, 12)), np.ones((3, 12)), np.ones(12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([K, R, B], "elman"), OptionError, "cell must be one of 'rnn', 'lstm', 'gru'; got 'elman'"),
        ((3, "lstm"), DTypeError, "weights must be a list of arrays, or of lists of arrays; got 3"),
        (([], "lstm"), DTypeError, "weights must be a list of arrays"),
        (
            ([K], "lstm"),
            ShapeError,
            "weights must be kernel, recurrent_kernel and bias, or the first two; got 1 arrays",
        ),
        (([[K, R, B], [K]], "lstm"), ShapeError, r"weights\[1\] must be kernel, .*; got 1 arrays"),
        (([K, R, K, R, B], "lstm", "two"), ShapeError, "or the first two, of both directions; got 5 arrays"),
        (
            ([K, R[:2], B], "lstm"),
            ShapeError,
            r"recurrent_kernel of layer 0, direction 0 must have shape \(u, 4 u\); got",
        ),
        (([K[:, :3], R, B], "lstm"), ShapeError, r"kernel .* must have shape \(D, 4 u\) = \(2, 12\); got \(2, 3\)"),
        (([K, R, B[:3]], "lstm"), ShapeError, r"bias .* must have shape \(4 u,\) = \(12,\); got \(3,\)"),
        (([B, R, B], "lstm"), ShapeError, r"kernel .* must have shape \(D, 4 u\) = \(12, 12\); got \(12,\)"),
        (([[K, R, B], [R, R]], "lstm"), ShapeError, "all layers and directions must have a bias, or none; of layer 1"),
        (
            ([K.astype(np.float16), R, B], "lstm"),
            ConversionError,
            "got float16; widen it with .astype.np.float32., which",
        ),
        (
            ([K, R.astype(np.float32), B], "lstm"),
            ConversionError,
            "all arrays must have one dtype; .* is float64, .* float32",
        ),
        (([K.astype(int), R, B], "lstm"), ConversionError, "must be float32 or float64; got int64"),
        (([K * np.nan, R, B], "lstm"), NonFiniteError, "kernel of layer 0, direction 0 is nan at i = 0, j = 0"),
    ],
)
def test_arrays_that_are_refused(arguments, error, message):
    weights, cell, *two = arguments
    with pytest.raises(error, match=f"from_keras_weights: .*{message}"):
        from_keras_weights(weights, cell, bidirectional=bool(two))


def test_options_that_are_refused():
    gru = to_keras_weights(GRU(2, 3, rng=0))[0]
    with pytest.raises(
        ConversionError, match="nonlinearity of 'lstm' must be 'tanh'; got 'relu', which rnn_numpy does not"
    ):
        from_keras_weights([K, R, B], "lstm", nonlinearity="relu")
    with pytest.raises(ConversionError, match="nonlinearity of 'rnn' must be 'tanh' or 'relu'; got 'elu'"):
        from_keras_weights([K, R, B], "rnn", nonlinearity="elu")
    with pytest.raises(
        OptionError, match="reset must be 'after' or 'before', of a 'gru' alone; got 'after' with 'lstm'"
    ):
        from_keras_weights([K, R, B], "lstm", reset="after")
    with pytest.raises(OptionError, match="reset must be 'after' or 'before', .*; got True"):
        from_keras_weights(gru, "gru", reset=True)
    with pytest.raises(DTypeError, match="bidirectional must be True or False; got int 1"):
        from_keras_weights(gru, "gru", bidirectional=1)
    # Two biases of a GRU cannot become one, nor one two.
    with pytest.raises(
        ConversionError, match=r"reset='before' does not go with a bias of shape \(2, 9\): .* two biases"
    ):
        from_keras_weights(gru, "gru", reset="before")
    one = to_keras_weights(GRU(2, 3, reset="before", rng=0))[0]
    with pytest.raises(ConversionError, match=r"reset='after' does not go with a bias of shape \(9,\)"):
        from_keras_weights(one, "gru", reset="after")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    for call in (lambda: from_keras(None), lambda: to_keras(RNN(3, 4))):
        with pytest.raises(MissingExtraError, match=r'needs keras, .* pip install "rnn_numpy\[keras\]"'):
            call()
    # The arrays alone do without.
    layer = LSTM(3, 4, rng=0)
    from_keras_weights(to_keras_weights(layer), "lstm")


def test_a_missing_backend_and_an_old_keras_are_named(monkeypatch):
    def no_backend(*arguments):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(keras_layers, "optional_import", no_backend)
    with pytest.raises(
        MissingExtraError, match="to_keras: Keras needs its backend, tensorflow, .*; install it, or set KER"
    ):
        to_keras(RNN(3, 4))
    monkeypatch.setattr(keras_layers, "optional_import", lambda *arguments: SimpleNamespace(__version__="2.15.0"))
    with pytest.raises(MissingExtraError, match="from_keras needs Keras 3; got 2.15.0"):
        from_keras(None)


def test_a_backend_that_does_not_keep_the_dtype(monkeypatch):
    """As jax without jax_enable_x64: what was written as float64 is read as float32."""
    read = keras_layers._get_weights
    monkeypatch.setattr(
        keras_layers, "_get_weights", lambda *arguments: [array.astype(np.float32) for array in read(*arguments)]
    )
    with pytest.raises(
        ConversionError, match="to_keras: the Keras backend 'torch' has made float32 of float64 weights"
    ):
        to_keras(GRU(3, 4))


# ------------------------------------------------------------------------------------------------ planted bugs


def swap_gates(monkeypatch, cell):
    blocks = keras_layers.KERAS_BLOCKS[cell]
    monkeypatch.setitem(keras_layers.KERAS_BLOCKS, cell, blocks[1] + blocks[0] + blocks[2:])


def forget_a_transpose(monkeypatch, cell):
    there, back = keras_layers._to_here, keras_layers._from_here

    def turned(array):
        """Transpose each square block of an array (G u, u)."""
        H = array.shape[1]
        return np.concatenate([array[start : start + H].T for start in range(0, len(array), H)])

    def to_here(*arguments):
        found = there(*arguments)
        return found | {"weight_hh": turned(found["weight_hh"])}

    def from_here(cell, reset, arrays):
        return back(cell, reset, arrays | {"weight_hh": turned(arrays["weight_hh"])})

    monkeypatch.setattr(keras_layers, "_to_here", to_here)
    monkeypatch.setattr(keras_layers, "_from_here", from_here)


def lose_a_bias(monkeypatch, cell):
    there, back = keras_layers._to_here, keras_layers._from_here

    def to_here(*arguments):
        found = there(*arguments)
        found["bias_hh" if found["bias_hh"].any() else "bias_ih"][:] = 0
        return found

    monkeypatch.setattr(keras_layers, "_to_here", to_here)
    monkeypatch.setattr(
        keras_layers,
        "_from_here",
        lambda cell, reset, arrays: back(cell, reset, arrays | {"bias_hh": 0 * arrays["bias_hh"]}),
    )


def exchange_directions(monkeypatch, cell):
    suffixes = keras_layers.common.suffixes
    monkeypatch.setattr(keras_layers.common, "suffixes", lambda *arguments: suffixes(*arguments)[::-1])


BUGS = [swap_gates, forget_a_transpose, lose_a_bias, exchange_directions]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
@pytest.mark.parametrize("kind", ["lstm", "gru-after", "gru-before"])
def test_a_planted_bug_is_found_by_the_self_tests(monkeypatch, bug, kind):
    layer = layer_of(kind, 3, 4, bidirectional=True)
    layers, arrays = to_keras(layer), to_keras_weights(layer)
    bug(monkeypatch, KINDS[kind][2])
    calls = [
        lambda: to_keras(layer),
        lambda: to_keras_weights(layer),
        lambda: from_keras(layers),
        lambda: from_keras_weights(arrays, **options_of(kind, layer)),
    ]
    for call in calls:
        with pytest.raises(ConversionError, match=r"self-test failed: output differs from that of Keras' equations by"):
            call()


def test_a_misread_option_is_found_by_running_the_keras_layers(monkeypatch):
    """The plain loop is told the same wrong thing as the layer: it takes Keras itself to see it."""
    made = keras_of("rnn-relu", 3, 4)
    monkeypatch.setattr(keras_layers, "_activation", lambda *arguments: "tanh")
    with pytest.raises(
        ConversionError, match="from_keras: self-test failed: output differs from that of Keras on torch by"
    ):
        from_keras(made)


def test_weights_in_the_wrong_keras_layers_are_found(monkeypatch):
    build = keras_layers._new_keras_layer
    monkeypatch.setattr(
        keras_layers, "_new_keras_layer", lambda keras, cell, layer: with_activation(build(keras, cell, layer))
    )
    with pytest.raises(
        ConversionError, match="to_keras: self-test failed: output differs from that of Keras on torch by"
    ):
        to_keras(RNN(3, 4, rng=0))


def with_activation(made):
    made.cell.activation = keras.activations.relu
    return made


def test_keras_layers_that_do_not_run(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("out of order\nmore")

    monkeypatch.setattr(keras_layers, "_run", refuse)
    with pytest.raises(
        ConversionError, match="self-test failed: Keras on torch does not run: RuntimeError: out of order$"
    ):
        to_keras(RNN(3, 4, rng=0))
