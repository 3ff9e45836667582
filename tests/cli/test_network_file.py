"""`rnn-numpy gradflow --model FILE`: which layer, which way, which inputs; what does not fit in one line."""

import json

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.cli import main
from rnn_numpy.interop import one_direction, save_npz
from rnn_numpy.report import diagnose

D, H = 3, 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    layers = {"one": LSTM(D, H, rng=0), "two": GRU(D, H, bidirectional=True, rng=1), "three": RNN(D, H, rng=2)}
    arrays = {f"{key}.{name}": a for key, layer in layers.items() for name, a in layer.state_dict().items()}
    save_npz(tmp_path / "net.npz", arrays)
    save_npz(tmp_path / "single.npz", layers["one"])
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 2, D)))
    np.save(tmp_path / "series.npy", np.random.default_rng(1).normal(size=(80, D)))
    monkeypatch.chdir(tmp_path)
    return tmp_path, layers


def run(capsys, *more):
    code = main(["gradflow", "--out", "flow.svg", *more])
    return code, capsys.readouterr()


def test_one_layer_of_a_file(folder, capsys):
    place, layers = folder
    code, shown = run(capsys, "--model", "net.npz", "--node", "one", "--data", "x.npy", "--json", "flow.json")
    assert (code, shown.err) == (0, "")
    expected = repr(diagnose(layers["one"], np.load("x.npy")))
    assert shown.out == f"net.npz: one\n{expected}\n\nFigure: flow.svg\nNumbers: flow.json\n"
    said = json.loads((place / "flow.json").read_text())
    assert (said["node"], said["steps"], said["sequences"]) == ("one", 30, 2)
    assert (place / "flow.svg").read_text().startswith("<?xml")


def test_both_ways_of_a_bidirectional_layer(folder, capsys):
    _, layers = folder
    x = np.load("x.npy")
    for way, seen in (("forward", x), ("backward", x[::-1])):
        code, shown = run(capsys, "--model", "net.npz", "--node", "two", "--direction", way, "--data", "x.npy")
        assert code == 0
        expected = repr(diagnose(one_direction(layers["two"], 0, way == "backward"), seen))
        assert shown.out.split("\n", 1)[1].startswith(expected)
        assert shown.out.startswith("net.npz: two, backward\n" if way == "backward" else "net.npz: two\n")


def test_windows_of_a_series_and_a_choice(folder, capsys):
    more = ["--data", "series.npy", "--length", "20", "--batch", "5"]
    code, shown = run(capsys, "--model", "net.npz", "--node", "three", "--choice", "relu", *more)
    assert code == 0
    assert "Gradients of RNN(3, 4, nonlinearity='relu', dtype=float64), 20 steps, 5 sequences" in shown.out
    code, shown = run(capsys, "--model", "single.npz", *more)
    assert shown.out.startswith("single.npz: single.npz\nGradients of LSTM(3, 4, dtype=float64), 20 steps, 5 sequences")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--node: net.npz has 3 recurrent layers: one, two, three"),
        (
            ["--node", "four"],
            "net.npz: 'four' is not the name of a recurrent layer; its recurrent layers are 'one', 'two'",
        ),
        (["--node", "two"], "--direction: two has two directions; a lag means something in one of them"),
        (["--node", "one", "--direction", "forward"], "--direction: one has one direction"),
        (["--node", "three"], "three: the file does not tell which of 'tanh' and 'relu' it is"),
        (["--node", "one", "--choice", "tanh"], "one: there is nothing to choose: the file tells"),
        (
            ["--node", "one", "--data", "sunspots"],
            "--data: sunspots has 1 channels, one reads 3; save its inputs with num",
        ),
        (
            ["--node", "one", "--data", "wide.npy"],
            "--data: wide.npy must be (T, N, 3) with T > 1, what one reads; got (5",
        ),
        (["--node", "one", "--data", "broken.npy"], "--data: broken.npy: not an array as numpy.save writes"),
    ],
)
def test_what_does_not_fit(folder, capsys, more, message):
    place, _ = folder
    np.save(place / "wide.npy", np.ones((5, 2, 7)))
    (place / "broken.npy").write_bytes(b"\x93NUMPY")
    code, shown = run(capsys, "--model", "net.npz", *more)
    assert (code, shown.out) == (2, "")
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1


def test_options_of_a_file_without_one(folder, capsys):
    code, shown = run(capsys, "--node", "one")
    assert code == 2
    assert (
        shown.err == "rnn-numpy gradflow: --node: is of --model FILE, a file of trained weights, which is not given\n"
    )
    save_npz("none.npz", {"a": np.ones(3)})
    code, shown = run(capsys, "--model", "none.npz")
    assert "--model: none.npz: no recurrent layer that is known fits these names: a" in shown.err
