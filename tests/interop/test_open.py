"""`open_network`: what a file is by its content, torch's state dicts and checkpoints, what is refused and why."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from frameworks import torch, torch_prune

from rnn_numpy import GRU, LSTM, RNN, open_network
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.cli import main
from rnn_numpy.core import storage
from rnn_numpy.errors import ConversionError, DataError, DTypeError, OptionError, RNNNumpyError
from rnn_numpy.interop import save_npz, save_safetensors, to_onnx_model


def test_npz_with_names_that_other_packages_give(tmp_path):
    # As g2p-en has its encoder and decoder.
    layers = {"enc": GRU(3, 4, rng=0), "dec": GRU(3, 4, rng=1)}
    arrays = {}
    for front, layer in layers.items():
        for name, array in layer.state_dict().items():
            arrays[f"{front}_{name.removesuffix('_l0').replace('weight', 'w').replace('bias', 'b')}"] = array
    save_npz(tmp_path / "net.npz", {"emb": np.ones((3, 3)), **arrays})
    network = open_network(tmp_path / "net.npz")
    assert network.names == ["enc", "dec"]
    for name, layer in layers.items():
        assert network[name].layer.params.flat.tobytes() == layer.params.flat.tobytes()


@pytest.mark.parametrize("front", ["", "model.rnn.", "module.", "a_b."])
def test_safetensors_with_any_prefix(tmp_path, front):
    layer = LSTM(3, 4, 2, bidirectional=True, proj_size=2, rng=0, dtype=np.float32)
    save_safetensors(tmp_path / "net.safetensors", {f"{front}{name}": a for name, a in layer.state_dict().items()})
    (found,) = open_network(tmp_path / "net.safetensors")
    assert found.name == front.rstrip("._")
    assert repr(found.layer) == repr(layer)
    assert found.layer.params.flat.tobytes() == layer.params.flat.tobytes()


def test_a_plain_rnn_does_not_tell_its_nonlinearity(tmp_path):
    relu = RNN(3, 4, nonlinearity="relu", rng=0)
    save_npz(tmp_path / "net.npz", relu)
    found = open_network(tmp_path / "net.npz")[0]
    with pytest.raises(ConversionError, match="which of 'tanh' and 'relu' it is: say it with choose"):
        found.layer
    assert found.choose("relu").layer.nonlinearity == "relu"
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    assert found.decide(x, relu(x)[0]).layer.nonlinearity == "relu"
    with pytest.raises(ConversionError, match="none fits this input and output; .*: relu"):
        found.decide(x, relu(x)[0] + 0.01)
    with pytest.raises(ConversionError, match="several fit"):
        found.decide(x, np.ones((5, 2, 4)), rtol=1e9)
    with pytest.raises(OptionError, match="choice must be one of 'tanh', 'relu'; got 'sigmoid'"):
        found.choose("sigmoid")


@pytest.mark.needs_torch
@pytest.mark.parametrize("old", [False, True])
def test_checkpoints_of_torch(tmp_path, old):
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4, 2, bidirectional=True), "cell": torch.nn.LSTMCell(3, 4)})
    checkpoint = {
        "state_dict": net.state_dict(),
        "epoch": 3,
        "pytorch-lightning_version": "2",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not old)
    network = open_network(tmp_path / "last.ckpt")
    assert network.names == ["state_dict.rnn", "state_dict.cell"]
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        output, h_n = net["rnn"](x)
        h, _ = net["cell"](x[0])
    ours, final = network["rnn"].layer(x.numpy())
    assert_grad_close("output", ours, output.numpy())
    assert_grad_close("h_n", final, h_n.numpy())
    assert_grad_close("h", network["cell"].layer(x.numpy()[:1])[1][0][0], h.numpy())


class Whole:
    """What must not come to life when a file is opened."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.needs_torch
def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save(torch.nn.GRU(3, 4), tmp_path / "module.pt")
    torch.save({"a": Whole()}, tmp_path / "call.pt")
    torch.save(Whole(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Whole()))
    for name, message in [
        ("module.pt", "holds more than weights, a whole pickled module perhaps, which would run code"),
        ("call.pt", "holds more than weights"),
        ("old.pt", "holds more than weights"),
        ("plain.pkl", "is a pickle, which can run code when it is read; it is not read"),
    ]:
        with pytest.raises(DataError, match=f"{name}: {message}"):
            open_network(tmp_path / name)
    (tmp_path / "script.pt").write_bytes(zipped({"net/data.pkl": b"", "net/code/a.py": b"1 / 0"}))
    with pytest.raises(DataError, match=r"script\.pt: is a TorchScript archive, which holds code; it is not run"):
        open_network(tmp_path / "script.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.needs_torch
def test_pruned_and_parametrised_weights(tmp_path):
    torch.manual_seed(0)
    pruned = torch.nn.GRU(3, 4)
    torch_prune.random_unstructured(pruned, "weight_hh_l0", 0.5)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    found = open_network(tmp_path / "pruned.pt")[0]
    assert found.notes == ("weight_hh_l0_orig is pruned: taken times its mask",)
    assert (found.layer.params["weight_hh_l0"] == pruned.weight_hh_l0.detach().numpy()).all()
    assert (found.layer.params["weight_hh_l0"] == 0).sum() == 24
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(3, 4), "weight_hh_l0")
    torch.save({"net": normed.state_dict()}, tmp_path / "normed.pt")
    network = open_network(tmp_path / "normed.pt")
    assert len(network) == 0
    assert "remove_parametrizations(module, name)" in network.notes[0]


@pytest.mark.needs_torch
def test_truncated_torch_files(tmp_path):
    stream = io.BytesIO()
    torch.save(torch.nn.GRU(3, 4).state_dict(), stream)
    whole = stream.getvalue()
    for end in range(1, len(whole), len(whole) // 20):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut\.pt"):
            open_network(tmp_path / "cut.pt")


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def bomb():
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000,), }"
    return zipped({"weight_hh_l0.npy": header.ljust(127) + b"\n" + bytes(2**20)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a network at all", "its format is not known: it begins with b'not a ne'. Read are ONNX"),
        (b"\x93NUMPY\x01\x00", "is one array of numpy.save, which is not read here: save all arrays of the layer with"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive, which is not read here: unpack it first"),
        (b"#Parameter# /W {2,3} 6", "is DyNet's text"),
        (b"\x18\x00\x00\x00TFL3\x00\x00", "is TFLite, which is not read here: open the Keras file"),
        (b"PK\x03\x04 and no more", "not a whole zip file"),
        (b"\x08\x07\x12\xff\xff", "not a whole ONNX file"),
        (b"\x08\x07", "not an ONNX model: it has no graph"),
        (bytes([40, 0, 0, 0, 0, 0, 0, 0]) + b"{" + b" " * 40, "not a whole .safetensors file"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_network(tmp_path / "file")
    said = str(caught.value)
    assert "file: " in said
    assert message in said


def test_archives_say_what_is_in_them(tmp_path):
    (tmp_path / "net.whl").write_bytes(zipped({"model.onnx": b"1", "readme.txt": b"2"}))
    with pytest.raises(DataError, match=r"an archive that holds model\.onnx, readme\.txt; unpack it first"):
        open_network(tmp_path / "net.whl")


def test_a_small_file_that_would_become_a_large_array(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "UNPACKED", 2**16)
    (tmp_path / "net.npz").write_bytes(bomb())
    assert (tmp_path / "net.npz").stat().st_size < 2**12
    with pytest.raises(DataError, match=r"net\.npz: its \d+ bytes would become 1048704; not unpacked"):
        open_network(tmp_path / "net.npz")


def test_a_small_checkpoint_that_would_become_a_large_one(tmp_path, monkeypatch):
    # torch writes none that is compressed, and reads them.
    monkeypatch.setattr(storage, "UNPACKED", 2**16)
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02.")
        archive.writestr("net/data/0", bytes(2**20))
    with pytest.raises(DataError, match=r"net\.pt: its \d+ bytes would become 1048579; not unpacked"):
        open_network(tmp_path / "net.pt")


def test_names_that_stand_for_files(tmp_path):
    for name, format in (("net.mlmodel", "Core ML"), ("eng.traineddata", "Tesseract's")):
        (tmp_path / name).write_bytes(b"\x08\x01")
        with pytest.raises(DataError, match=f"is {format}, which is not read here"):
            open_network(tmp_path / name)
    with pytest.raises(DataError, match="missing: cannot be read: No such file"):
        open_network(tmp_path / "missing")
    with pytest.raises(DTypeError, match="path must be a str, a path or an onnx.ModelProto; got int"):
        open_network(3)


def test_arrays_that_are_no_layer(tmp_path):
    save_npz(tmp_path / "net.npz", {"weight_ih_l0": np.ones((10, 3)), "weight_hh_l0": np.ones((10, 4))})
    with pytest.raises(ConversionError, match=r"weight_hh has shape \(10, 4\), which is that of no RNN"):
        open_network(tmp_path / "net.npz")[0].layer
    arrays = {**GRU(3, 4).state_dict(), "weight_ih_l9999": np.ones((12, 4))}
    save_npz(tmp_path / "net.npz", arrays)
    with pytest.raises(ConversionError, match=r"net\.npz: .*all layers must be there; 39995 are not: bias_hh_l1"):
        open_network(tmp_path / "net.npz")[0].layer
    arrays = {**GRU(3, 4).state_dict(), "bias_ih_l0": np.ones(13)}
    save_npz(tmp_path / "net.npz", arrays)
    with pytest.raises(ConversionError, match=r"net\.npz: .*bias_ih_l0 must have shape \(12,\); got \(13,\)"):
        open_network(tmp_path / "net.npz")[0].layer
    save_npz(tmp_path / "net.npz", {"kernel": np.ones(3)})
    assert open_network(tmp_path / "net.npz").notes == ["no recurrent layer that is known fits these names: kernel"]


# ------------------------------------------------------------------------------------------------ the command


def test_inspect(tmp_path, capsys):
    save_npz(tmp_path / "net.npz", {"encoder.rnn." + name: a for name, a in LSTM(3, 4, 2, rng=0).state_dict().items()})
    assert main(["inspect", str(tmp_path / "net.npz"), "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 100
    assert "encoder.rnn LSTM" in shown.out
    assert "LSTM(3, 4, num_layers=2, dtype=float64)" in shown.out
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["format"] == "npz"
    assert [layer["parameters"] for layer in said["layers"]] == [LSTM(3, 4, 2).params.flat.size]


def test_inspect_of_what_is_refused_or_open(tmp_path, capsys):
    arrays = {f"a.{name}": np.ones(shape) for name, shape in (("weight_ih", (10, 3)), ("weight_hh", (10, 4)))}
    save_npz(tmp_path / "net.npz", arrays | {f"b.{name}": a for name, a in RNN(3, 4).state_dict().items()})
    assert main(["inspect", str(tmp_path / "net.npz")]) == 0
    out = capsys.readouterr().out
    assert "refused, see below" in out
    assert "tanh or relu" in out
    assert "weight_hh has shape (10, 4)" in out
    (tmp_path / "net.npz").write_bytes(b"PK\x03\x04")
    assert main(["inspect", str(tmp_path / "net.npz")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("rnn-numpy inspect: open_network: ")
    assert len(shown.err.splitlines()) == 1


# ------------------------------------------------------------------------------------------------ damage


def damaged(whole, rng):
    """Return a file's bytes with some changed, some left out, some twice, most of them near the beginning."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 2, 5, 20])):
        at = int(rng.integers(min(len(data), 2000)))
        what = rng.random()
        if what < 0.6:
            data[at] = rng.integers(256)
        elif what < 0.8:
            data[at : at + 4] = bytes([rng.choice([0, 127, 255])]) * 4
        elif what < 0.9:
            del data[at : at + 10]
        else:
            data[at:at] = data[at : at + 10]
    return bytes(data)


def test_safetensors_of_arrays_that_lie_transposed_in_memory(tmp_path):
    # safetensors' own NumPy writer stores the bytes as they lie, and the shape as it is seen.
    layer = GRU(3, 4, rng=0)
    turned = {name: np.asfortranarray(array) for name, array in layer.state_dict().items()}
    assert not turned["weight_ih_l0"].flags.c_contiguous
    save_safetensors(tmp_path / "net.safetensors", turned)
    assert (open_network(tmp_path / "net.safetensors")[0].layer.params.flat == layer.params.flat).all()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".onnx"])
def test_damage_is_an_error_of_this_package_or_harmless(tmp_path, suffix):
    path, layer = tmp_path / f"net{suffix}", LSTM(3, 4, 2, dtype=np.float32, rng=0)
    {".npz": save_npz, ".safetensors": save_safetensors}.get(suffix, lambda path, layer: to_onnx_model(layer, path))(
        path, layer
    )
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    ends = {"refused": 0, "opened": 0}
    for _ in range(300):
        path.write_bytes(damaged(whole, rng))
        try:
            for found in open_network(path):
                found.layer
            ends["opened"] += 1
        except RNNNumpyError as error:
            ends["refused"] += 1
            assert "net" in str(error)
    assert min(ends.values()) > 5
