"""Keras' files: what Keras writes is read without it, and computes the same; CuDNN's layout; versions; bad files."""

import json
import zipfile

import numpy as np
import pytest
from frameworks import h5py, keras

from rnn_numpy import GRU, LSTM, RNN, open_network
from rnn_numpy.checks import assert_grad_close, gradcheck
from rnn_numpy.errors import ConversionError, DataError
from rnn_numpy.interop import from_keras_weights, keras_file, to_keras_weights

# What Keras on torch warns of while it saves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

T, N, D, H = 5, 2, 3, 4
FILES = ("net.keras", "net.weights.h5", "net.h5")


def written(folder, layers):
    """Write a Keras model in three forms; return the output of the last of some layers, time first, and x."""
    inputs = keras.layers.Input((T, D))
    signal = inputs
    for layer in layers:
        signal = layer(signal)
    model = keras.Model(inputs, keras.layers.Dense(2)(signal))
    for variable in model.weights:
        rng = np.random.default_rng(len(variable.path))
        variable.assign(rng.normal(size=variable.shape, scale=0.5).astype(np.float32))
    model.save(folder / "net.keras")
    model.save_weights(folder / "net.weights.h5")
    model.save(folder / "net.h5")
    x = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)
    return np.asarray(keras.Model(inputs, signal)(x).detach()), x


def through(network, x):
    for found in network:
        x = found.layer(x)[0]
    return x


@pytest.mark.needs_keras
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SimpleRNN", {}), ("LSTM", {}), ("LSTM", {"use_bias": False}), ("GRU", {}), ("GRU", {"reset_after": False})],
)
def test_what_keras_writes(tmp_path, kind, options, bidirectional):
    def layer(name):
        one = getattr(keras.layers, kind)(H, return_sequences=True, name=name, **options)
        return keras.layers.Bidirectional(one, name=name) if bidirectional else one

    output, x = written(tmp_path, [layer("first"), keras.layers.LayerNormalization(), layer("second")][::2])
    for name in FILES:
        network = open_network(tmp_path / name)
        assert network.names == (
            ["first", "second"] if name != "net.weights.h5" else [found.parts[0] for found in network]
        )
        assert [found.num_directions for found in network] == [1 + bidirectional] * 2
        assert_grad_close(name, through(network, x), output)


@pytest.mark.needs_keras
def test_activations_of_the_configuration(tmp_path):
    hard = keras.layers.LSTM(H, return_sequences=True, recurrent_activation="hard_sigmoid", activation="softsign")
    cell = keras.layers.RNN(keras.layers.GRUCell(H, activation="relu"), return_sequences=True)
    back = keras.layers.SimpleRNN(H, return_sequences=True, go_backwards=True, activation="relu")
    output, x = written(tmp_path, [hard, cell])
    for name in ("net.keras", "net.h5"):
        network = open_network(tmp_path / name)
        assert_grad_close(name, through(network, x), output)
        assert network[0].layer.functions.phi.alpha == 1 / 6
        assert gradcheck(network[0].layer.astype(np.float64), x.astype(np.float64)).ok
    output, x = written(tmp_path, [back])
    found = open_network(tmp_path / "net.keras")[0]
    assert found.reverse
    assert_grad_close("backwards", found.layer(x[:, ::-1])[0], output)
    gelu = keras.layers.GRU(H, return_sequences=True, activation="gelu")
    written(tmp_path, [gelu])
    with pytest.raises(ConversionError, match="the activation 'gelu' has no counterpart here"):
        open_network(tmp_path / "net.keras")[0].layer


@pytest.mark.needs_keras
def test_models_inside_of_a_model(tmp_path):
    inner = keras.Sequential([keras.layers.Input((T, D)), keras.layers.GRU(H, return_sequences=True, name="deep")])
    model = keras.Sequential(
        [keras.layers.Input((T, D)), inner, keras.layers.LSTM(H, name="top"), keras.layers.Dense(1)]
    )
    model.save(tmp_path / "net.keras")
    network = open_network(tmp_path / "net.keras")
    assert network.names == ["deep", "top"]
    for found, layer in zip(network, (inner.layers[0], model.layers[1]), strict=True):
        kernel = np.asarray(layer.weights[0].value.detach())
        assert np.array_equal(np.sort(found.layer.params["weight_ih_l0"].ravel()), np.sort(kernel.ravel()))


@pytest.mark.needs_keras
@pytest.mark.needs_keras
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_masked_first_step_is_a_step_left_out(kind, unroll):
    layer = getattr(keras.layers, kind)(H, return_sequences=True, unroll=unroll)
    x = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)
    first = [np.full((N, H), value, np.float32) for value in ((0.5, 0.25) if kind == "LSTM" else (0.5,))]
    mask = np.arange(T)[None].repeat(N, axis=0) > 0
    theirs = np.asarray(layer(x, mask=mask, initial_state=first).detach())
    ours = from_keras_weights(layer.get_weights(), {"SimpleRNN": "rnn"}.get(kind, kind.lower()))
    states = [state[None] for state in first]
    output = ours(x[:, 1:], tuple(states) if kind == "LSTM" else states[0])[0]
    assert_grad_close("later", output, theirs[:, 1:])
    assert (theirs[:, 0] == 0).all()  # neither the state, nor what it makes of x


@pytest.mark.needs_keras
def test_a_mask_is_said(tmp_path):
    _, _ = written(tmp_path, [keras.layers.Masking(), keras.layers.GRU(H, return_sequences=True)])
    assert "the model has a mask: hand in lengths" in open_network(tmp_path / "net.keras")[0].notes[0]


# ------------------------------------------------------------------------------------------------ older files


def older(path, layers, version="2.1.5", config=None):
    """Write the older HDF5: {name: {weight name: array}}."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["keras_version"] = version.encode()
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        for name, weights in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, array in weights.items():
                group[weight] = array


def named(arrays, front="rnn_1"):
    return {
        f"{front}/{role}:0": array for role, array in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False)
    }


def cudnn(layer):
    """Return a layer's weights as CuDNNLSTM and CuDNNGRU keep them, by Keras' own conversion to them."""
    kernel, recurrent, bias = to_keras_weights(layer)[0]
    G = 4 if isinstance(layer, LSTM) else 3
    kernel = np.hstack([part.T.reshape(part.shape) for part in np.hsplit(kernel, G)])
    recurrent = np.hstack([part.T for part in np.hsplit(recurrent, G)])
    return [kernel, recurrent, np.tile(0.5 * bias, 2) if G == 4 else bias.reshape(-1)]


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_the_layout_of_cudnn(tmp_path, kind):
    layer = kind(D, H, rng=0, batch_first=True)
    older(tmp_path / "net.hdf5", {"rnn_1": named(cudnn(layer))})
    (found,) = open_network(tmp_path / "net.hdf5")
    assert found.notes == ("CuDNN's layout, by the shape of its bias: converted",)
    x = np.random.default_rng(1).normal(size=(N, T, D))
    assert_grad_close("output", found.layer(x)[0], layer(x)[0], 1e-13)


def test_hard_sigmoid_is_that_of_the_files_version(tmp_path):
    arrays = named(to_keras_weights(LSTM(D, H, rng=0))[0], "lstm")
    config = {
        "class_name": "Sequential",
        "config": [{"class_name": "LSTM", "config": {"name": "lstm", "recurrent_activation": "hard_sigmoid"}}],
    }
    for version, slope in (("2.1.5", 0.2), ("2.2.4-tf", 0.2), ("2.15.0", 0.2), ("3.0.0", 1 / 6)):
        older(tmp_path / "net.h5", {"lstm": arrays}, version, config)
        layer = open_network(tmp_path / "net.h5")["lstm"].layer
        assert layer.functions.phi.alpha == slope
    # Up to 2.2 it was the default; a file of weights does not say whether it was changed.
    older(tmp_path / "net.h5", {"lstm": arrays}, "2.2.0")
    found = open_network(tmp_path / "net.h5")[0]
    with pytest.raises(ConversionError, match="which of 'sigmoid' and 'hard_sigmoid'"):
        found.layer
    layer = LSTM(D, H, rng=0, batch_first=True)
    x = np.random.default_rng(1).normal(size=(N, T, D))
    assert found.decide(x, layer(x)[0]).options == {"chosen": "sigmoid"}
    older(tmp_path / "net.h5", {"lstm": arrays}, "2.3.1")
    assert type(open_network(tmp_path / "net.h5")[0].layer) is LSTM


def test_both_directions_of_an_older_file(tmp_path):
    layer = GRU(D, H, bidirectional=True, rng=0, batch_first=True)
    forward, backward = np.array_split(np.array(to_keras_weights(layer)[0], dtype=object), 2)
    weights = named(list(backward), "both/backward_gru") | named(list(forward), "both/forward_gru")
    config = {
        "class_name": "Bidirectional",
        "config": {
            "name": "both",
            "merge_mode": "sum",
            "layer": {"class_name": "GRU", "config": {"reset_after": True}},
        },
    }
    older(tmp_path / "net.h5", {"both": weights}, "2.9.0", {"class_name": "Model", "config": {"layers": [config]}})
    (found,) = open_network(tmp_path / "net.h5")
    assert found.notes == ("merge_mode='sum' there; here both directions are side by side",)
    x = np.random.default_rng(1).normal(size=(N, T, D))
    assert_grad_close("output", found.layer(x)[0], layer(x)[0], 1e-13)


def test_a_gru_without_bias_or_configuration(tmp_path):
    layer = GRU(D, H, bias=False, reset="before", rng=0, batch_first=True)
    older(tmp_path / "net.h5", {"rnn_1": named(to_keras_weights(layer)[0])}, "2.9.0")
    found = open_network(tmp_path / "net.h5")[0]
    assert set(found.choices) == {"reset after", "reset before"}
    x = np.random.default_rng(1).normal(size=(N, T, D))
    assert found.decide(x, layer(x)[0]).layer.reset == "before"


# ------------------------------------------------------------------------------------------------ refusals


def test_truncated_and_foreign_files(tmp_path):
    older(tmp_path / "whole.h5", {"rnn_1": named(to_keras_weights(RNN(D, H, rng=0))[0])})
    whole = (tmp_path / "whole.h5").read_bytes()
    for end in range(8, len(whole), len(whole) // 12):
        (tmp_path / "cut.h5").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut\.h5"):
            for found in open_network(tmp_path / "cut.h5"):
                found.layer
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a/b"] = np.ones(3)
    assert "no recurrent layer" in open_network(tmp_path / "other.h5").notes[-1]
    (tmp_path / "junk.h5").write_bytes(whole[:8] + b"junk" * 40)
    with pytest.raises(DataError, match=r"junk\.h5: not a whole HDF5 file"):
        open_network(tmp_path / "junk.h5")


def one_array(path, make):
    older(path, {"rnn_1": named(to_keras_weights(RNN(D, H, rng=0))[0])})
    with h5py.File(path, "a") as file:
        del file["rnn_1/rnn_1/kernel:0"]
        make(file["rnn_1/rnn_1"])


def test_arrays_that_are_not_there(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(48))
    path = tmp_path / "net.h5"
    huge = {"shape": (10**6, 10**5), "dtype": "f4", "chunks": (1000, 1000)}
    one_array(path, lambda group: group.create_dataset("kernel:0", **huge))
    with pytest.raises(
        DataError, match=r"rnn_1: kernel: .*shape \(1000000, 100000\) of float32 takes 400000000000 bytes"
    ):
        open_network(path)[0].layer
    outside = [(str(tmp_path / "secret"), 0, 48)]
    one_array(path, lambda group: group.create_dataset("kernel:0", (3, 4), "f4", external=outside))
    with pytest.raises(DataError, match="rnn_1: kernel: lies in another file; not read"):
        open_network(path)[0].layer
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["kernel"] = np.ones((3, 4))

    def link(group):
        group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "linked.h5"), "kernel")

    one_array(path, link)
    with pytest.raises(DataError, match="has a recurrent kernel, and no kernel"):
        open_network(path)[0].layer
    one_array(path, lambda group: group.create_dataset("kernel:0", data=np.ones((3, 4), int)))
    with pytest.raises(DataError, match="must hold floating-point numbers"):
        open_network(path)[0].layer


def test_bad_archives(tmp_path, monkeypatch):
    path = tmp_path / "net.keras"
    for members, message in [
        ({"config.json": "{", "model.weights.h5": "", "metadata.json": "{}"}, "config.json is no JSON"),
        ({"config.json": "{}", "model.weights.h5": "no", "metadata.json": "{}"}, "not a whole HDF5 file"),
        ({"config.json": "{}", "model.weights.h5": "no"}, "not a whole .keras file: .*metadata.json"),
    ]:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(DataError, match=rf"net\.keras: {message}"):
            open_network(path)
    monkeypatch.setattr(keras_file, "UNPACKED", 2**16)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "metadata.json"):
            archive.writestr(name, "{}")
        archive.writestr("model.weights.h5", bytes(2**20))
    with pytest.raises(DataError, match=r"net\.keras: its \d+ bytes would become 1048580; not unpacked"):
        open_network(path)
