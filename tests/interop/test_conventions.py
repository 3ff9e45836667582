"""Conventions of other libraries: arrays and outputs that these have made, and loops where none of them is at hand."""

from pathlib import Path

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, open_network
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.core.storage import load_npz
from rnn_numpy.errors import ConversionError, DTypeError, OptionError
from rnn_numpy.interop import CONVENTIONS, from_arrays, save_npz, to_arrays
from rnn_numpy.interop.conventions import LIBRARIES

GOLDEN = Path(__file__).with_name("golden")
T, N, D, H = 5, 2, 3, 4
BY_KEY = {one.key: one for one in CONVENTIONS}


def golden():
    """Return (key, arrays, x, y) of all golden files."""
    found = []
    for path in sorted(GOLDEN.glob("conventions_*.npz")):
        with np.load(path) as file:
            everything = dict(file)
        for key in dict.fromkeys(name.partition("|")[0] for name in everything if "|" in name):
            own = {name.partition("|")[2]: a for name, a in everything.items() if name.startswith(f"{key}|")}
            found.append((key, own, everything["x"], own.pop("y")))
    return found


CASES = golden()
# linen's OptimizedLSTMCell has the arrays of its LSTMCell.
SAME = {"flax linen OptimizedLSTMCell": "flax linen LSTMCell"}


@pytest.mark.parametrize(("key", "arrays", "x", "y"), CASES, ids=[case[0] for case in CASES])
def test_what_other_libraries_compute(key, arrays, x, y):
    key = SAME.get(key, key)
    convention = key if key in BY_KEY else key.partition(" ")[0]
    (found,) = from_arrays(arrays, convention)
    if found.choices:
        found = found.choose(next(choice for choice in found.choices if choice.endswith("tanh")))
    assert_grad_close(key, found.layer(x)[0], y)
    # Without being told which: never another function silently, and the pair decides.
    layers = from_arrays(arrays)
    assert len(layers) == 1
    for one in layers:
        if one.choices:
            with pytest.raises(ConversionError, match="say it with choose"):
                one.layer
            assert_grad_close(key, one.decide(x, y).layer(x)[0], y)


def test_all_that_can_be_made_are_measured():
    # The others are held by loops, below.
    missing = {one.key for one in CONVENTIONS} - {case[0] for case in CASES}
    assert missing == set(LOOPS) | {one.key for one in CONVENTIONS if one.library == "keras"} | {"chainer StatefulGRU"}


# ------------------------------------------------------------------------------------------------ loops


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def chainer_nstep_lstm(p, x, h, c):
    a = [x @ p[f"w{k}"].T + p[f"b{k}"] + h @ p[f"w{k + 4}"].T + p[f"b{k + 4}"] for k in range(4)]
    c = sigmoid(a[1]) * c + sigmoid(a[0]) * np.tanh(a[2])
    return sigmoid(a[3]) * np.tanh(c), c


def chainer_nstep_gru(p, x, h):
    u, v = ([s @ p[f"w{k + at}"].T + p[f"b{k + at}"] for k in range(3)] for s, at in ((x, 0), (h, 3)))
    r, z = sigmoid(u[0] + v[0]), sigmoid(u[1] + v[1])
    return ((1 - z) * np.tanh(u[2] + r * v[2]) + z * h,)


def chainer_nstep_rnn(p, x, h):
    return (np.tanh(x @ p["w0"].T + p["b0"] + h @ p["w1"].T + p["b1"]),)


def chainer_lstm(p, x, h, c):
    # lstm(c, x) splits x.reshape(N, H, 4) into a, i, f, o.
    a, i, f, o = (x @ p["upward/W"].T + p["upward/b"] + h @ p["lateral/W"].T).reshape(len(x), H, 4).transpose(2, 0, 1)
    c = np.tanh(a) * sigmoid(i) + sigmoid(f) * c
    return sigmoid(o) * np.tanh(c), c


def chainer_gru(p, x, h):
    def link(name, s):
        return s @ p[f"{name}/W"].T + p[f"{name}/b"]

    r, z = sigmoid(link("W_r", x) + link("U_r", h)), sigmoid(link("W_z", x) + link("U_z", h))
    return ((1 - z) * h + z * np.tanh(link("W", x) + link("U", r * h)),)


def mygrad_gru(p, x, h):
    z = sigmoid(x @ p["Uz"] + h @ p["Wz"] + p["bz"])
    r = sigmoid(x @ p["Ur"] + h @ p["Wr"] + p["br"])
    return ((1 - z) * np.tanh(x @ p["Uh"] + (r * h) @ p["Wh"] + p["bh"]) + z * h,)


def ncnn_lstm(p, x, h, c):
    i, f, o, g = np.split(x @ p["weight_xc"].T + p["bias_c"] + h @ p["weight_hc"].T, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def ncnn_gru(p, x, h):
    b = np.split(p["bias_c"], 4)
    u, v = np.split(x @ p["weight_xc"].T, 3, axis=1), np.split(h @ p["weight_hc"].T, 3, axis=1)
    r, z = sigmoid(u[0] + v[0] + b[0]), sigmoid(u[1] + v[1] + b[1])
    return ((1 - z) * np.tanh(u[2] + b[2] + r * (v[2] + b[3])) + z * h,)


LOOPS = {
    "chainer NStepLSTM": chainer_nstep_lstm,
    "chainer NStepGRU": chainer_nstep_gru,
    "chainer NStepRNNTanh": chainer_nstep_rnn,
    "chainer LSTM": chainer_lstm,
    "chainer StatelessGRU": chainer_gru,
    "mygrad gru": mygrad_gru,
    "ncnn LSTM": ncnn_lstm,
    "ncnn GRU": ncnn_gru,
}


@pytest.mark.parametrize("key", LOOPS)
def test_loops_of_libraries_that_are_not_at_hand(key):
    one, rng = BY_KEY[key], np.random.default_rng(0)
    layer = {"gru": GRU, "lstm": LSTM, "rnn": RNN}[one.cell](
        D, H, **({"reset": one.reset} if one.cell == "gru" else {})
    )
    arrays = {name: rng.normal(size=array.shape) for name, array in to_arrays(layer, key).items()}
    x = rng.normal(size=(T, N, D))
    states, outputs = (np.zeros((N, H)),) * (2 if one.cell == "lstm" else 1), []
    for x_t in x:
        states = LOOPS[key](arrays, x_t, *states)
        outputs.append(states[0])
    (found,) = from_arrays({"net": {"deep": arrays}}, key)
    assert found.name == "net/deep"
    found = found.choose(f"{key} tanh") if found.choices else found
    assert_grad_close(key, found.layer(x)[0], np.stack(outputs), 1e-13)


# ------------------------------------------------------------------------------------------------ there and back


def layer_for(one):
    return {"gru": lambda: GRU(D, H, reset=one.reset, rng=0), "lstm": lambda: LSTM(D, H, rng=0),
            "rnn": lambda: RNN(D, H, rng=0)}[one.cell]()  # fmt: skip


@pytest.mark.parametrize("key", [one.key for one in CONVENTIONS if not one.refused])
def test_there_and_back(key):
    layer = layer_for(BY_KEY[key])
    if key == "flax nnx GRUCell":
        with pytest.raises(
            ConversionError, match="flax nnx GRUCell has no bias inside of the reset; the layer's bias_"
        ):
            to_arrays(layer, key)
        layer.params["bias_hh_l0"][2 * H :] = 0
    before = layer.params.flat.copy()
    (found,) = from_arrays(to_arrays(layer, key), key)
    twin = (found.choose(f"{key} tanh") if found.choices else found).layer
    assert (layer.params.flat == before).all()
    assert np.abs(twin.params["weight_hh_l0"] - layer.params["weight_hh_l0"]).max() == 0
    x = np.random.default_rng(1).normal(size=(T, N, D))
    assert_grad_close("output", twin(x)[0], layer(x)[0], 1e-14)
    assert repr(twin) == repr(layer)


def test_mxnet_names():
    layer = LSTM(D, H, 2, bidirectional=True, rng=0)
    arrays = {}
    for name, array in layer.state_dict().items():
        stem, _, place = name.partition("_l")
        letter = "r" if place.endswith("_reverse") else "l"
        kind = {"weight_ih": "i2h_weight", "weight_hh": "h2h_weight", "bias_ih": "i2h_bias", "bias_hh": "h2h_bias"}[
            stem
        ]
        arrays[f"lstm0_{letter}{place[0]}_{kind}"] = array
    (found,) = from_arrays(arrays, "mxnet")
    assert found.name == "lstm0"
    assert found.layer.params.flat.tobytes() == layer.params.flat.tobytes()


def test_a_stateful_gru_is_refused_with_the_reason():
    layer = GRU(D, H, reset="before", rng=0)
    arrays = to_arrays(layer, "chainer StatelessGRU")
    with pytest.raises(
        ConversionError, match="its first step leaves out the biases of U, which no weights of a layer can"
    ):
        from_arrays(arrays, "chainer StatefulGRU")[0].layer
    without = {name: 0 * array if name in ("U_r/b", "U_z/b", "U/b") else array for name, array in arrays.items()}
    assert from_arrays(without, "chainer StatefulGRU")[0].layer.reset == "before"


def test_nothing_is_guessed(tmp_path):
    arrays = to_arrays(LSTM(D, H, rng=0), "haiku")
    save_npz(tmp_path / "net.npz", {"lstm.linear.w": arrays["linear/w"], "lstm.linear.b": arrays["linear/b"]})
    (found,) = open_network(tmp_path / "net.npz")
    assert set(found.choices) == {"haiku LSTM", "tensorflow BlockLSTM", "tensorflow BlockLSTMV2"}
    with pytest.raises(ConversionError, match="which of 'haiku LSTM' and 'tensorflow BlockLSTM' and"):
        found.layer
    x = np.random.default_rng(1).normal(size=(T, N, D))
    with pytest.raises(ConversionError, match=r"none fits this input and output; .* haiku LSTM \d"):
        found.decide(x, LSTM(D, H, rng=1)(x)[0])
    # BlockLSTM of TensorFlow and Haiku's LSTM are one function, BlockLSTMV2 is another one.
    assert found.decide(x, LSTM(D, H, rng=0)(x)[0]).options == {"chosen": "haiku LSTM"}
    assert_grad_close("output", found.choose("haiku LSTM").layer(x)[0], LSTM(D, H, rng=0)(x)[0], 1e-13)


def test_equinox_is_not_taken_for_torch(tmp_path):
    save_npz(tmp_path / "net.npz", to_arrays(GRU(D, H, rng=0), "equinox"))
    (found,) = open_network(tmp_path / "net.npz")
    assert found.notes == ("read as GRUCell of equinox 0.13.8",)
    x = np.random.default_rng(1).normal(size=(T, N, D))
    assert_grad_close("output", found.layer(x)[0], GRU(D, H, rng=0)(x)[0], 1e-14)
    assert load_npz(tmp_path / "net.npz")["bias"].shape == (3 * H,)


def test_what_is_refused():
    arrays = to_arrays(GRU(D, H), "equinox")
    with pytest.raises(OptionError, match="convention must be one of torch, paddle, mxnet, .*; got 'pytorch'"):
        from_arrays(arrays, "pytorch")
    with pytest.raises(DTypeError, match="arrays must be a mapping of names to arrays; got list"):
        from_arrays([1])
    assert (
        from_arrays(arrays, "haiku").notes[0].startswith("no recurrent layer that is known fits these names: weight_")
    )
    for layer, convention, message in [
        (GRU(D, H, 2), "equinox", "one layer of one direction at a time"),
        (GRU(D, H), "haiku", r"'haiku' leaves none"),
        (GRU(D, H), "flax", "'flax' leaves 'flax linen GRUCell', 'flax nnx GRUCell'"),
        (LSTM(D, H, proj_size=2), "equinox", "no projection"),
    ]:
        with pytest.raises(ConversionError, match=message):
            to_arrays(layer, convention)
    assert set(to_arrays(LSTM(D, H), "paddle")) == set(LSTM(D, H).params)
    assert len(LIBRARIES) == 13


def test_a_bias_that_is_missing_alone_does_not_fit():
    arrays = to_arrays(GRU(D, H), "equinox")
    del arrays["bias_n"]
    assert len(from_arrays(arrays, "equinox GRUCell")) == 0
    arrays = to_arrays(GRU(D, H), "equinox")
    arrays["weight_hh"] = arrays["weight_hh"][:9]
    assert len(from_arrays(arrays, "equinox")) == 0
