"""`rnn-numpy gradflow`: what it writes, what it says, how it fails."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rnn_numpy.cli import common, gradflow, main
from rnn_numpy.cli.main import parser_of
from rnn_numpy.tasks import BUNDLED
from rnn_numpy.tasks.text_table import CHOOSE, FILL, KNOWN

SMALL = ["--length", "20", "--hidden", "6", "--batch", "4", "--train-steps", "3", "--seeds", "1"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run, and return the last line on stderr without the name of the command: the only one but for the networks'."""
    assert main(["gradflow", *SMALL, *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    err = "".join(line for line in err.splitlines(keepends=True) if not re.match(r"\d+ of \d+: ", line))
    assert err.startswith("rnn-numpy gradflow: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err[len("rnn-numpy gradflow: ") : -1]


def strict(text: str) -> object:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


# What it does -------------------------------------------------------------------------------------------------------


def test_default_series_figure_table_and_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradflow", *SMALL, "--json", "numbers.json"]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()  # no progress bar where stderr is no terminal: a line for each network
    assert len(lines) == 12 and lines[0].startswith("1 of 12: rnn-tanh, gain 0.5: vanishing, after training ")
    assert max(map(len, out.splitlines())) <= 100
    assert out.startswith("eeg: electroencephalogram")
    assert out.endswith("\nFigure: gradflow.png\nNumbers: numbers.json\n")
    assert len(re.findall(r"^(?:rnn-tanh|rnn-relu|lstm|gru) +[\d.]+ +[\d.]+(?:e\S+)? ", out, re.MULTILINE)) == 3 * 12
    assert {path.name for path in here.iterdir()} == {"gradflow.png", "numbers.json"}
    assert (here / "gradflow.png").read_bytes().startswith(b"\x89PNG")
    data = strict((here / "numbers.json").read_text())
    assert isinstance(data, dict)
    cells = ["rnn-tanh", "rnn-relu", "lstm", "gru"]
    assert data["options"]["cells"] == cells and data["options"]["gains"] == [0.5, 1.0, 1.5]
    assert [(n["cell"], n["gain"]) for n in data["networks"]] == [
        (cell, gain) for cell in cells for gain in (0.5, 1.0, 1.5)
    ]


def test_the_defaults_are_the_documented_ones() -> None:
    arguments = vars(parser_of("gradflow").parse_args(["gradflow"]))
    assert {name: value for name, value in arguments.items() if name not in ("run", "command")} == {
        "data": "eeg",
        "columns": ("auto",),
        "skip": (),
        "header": "auto",
        "decimal": "auto",
        "missing": "refuse",
        "absent": (),
        "rows": "",
        "separator": "auto",
        "array": "",
        "model": None,
        "node": None,
        "direction": None,
        "choice": None,
        "cells": ("rnn-tanh", "rnn-relu", "lstm", "gru"),
        "gain": (0.5, 1.0, 1.5),
        "init": "uniform",
        "forget_bias": None,
        "length": 200,
        "hidden": 64,
        "batch": 16,
        "layers": 1,
        "train_steps": 100,
        "lr": 0.05,
        "clip": 1.0,
        "seed": 0,
        "seeds": 4,
        "dask": None,
        "quiet": False,
        "out": Path("gradflow.png"),
        "json": None,
    }


def test_options_reach_the_run(here: Path) -> None:
    options = "--cells rnn-relu --gain 0.7 1.1 --init orthogonal --layers 2 --lr 0.01 --clip 0.5 --seed 7 --seeds 2"
    options += " --json n.json"
    assert main(["gradflow", *SMALL, *options.split(), "--data", "stocks", "--columns", "IBM", "3"]) == 0
    data = json.loads((here / "n.json").read_text())
    assert data["options"] == {
        "cells": ["rnn-relu"],
        "gains": [0.7, 1.1],
        "init": "orthogonal",
        "length": 20,
        "hidden": 6,
        "batch": 4,
        "layers": 2,
        "train_steps": 3,
        "lr": 0.01,
        "clip": 0.5,
        "seed": 7,
        "seeds": 2,
        "forget_bias": None,
        "momentum": 0.9,
    }
    assert data["data"]["channels"] == ["IBM", "MSFT"]
    assert [(network["gain"], network["seed"]) for network in data["networks"]] == [
        (0.7, 7),
        (0.7, 8),
        (1.1, 7),
        (1.1, 8),
    ]


def test_forget_bias_reaches_the_lstm(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {}
    for bias in ("-3", "3"):
        arguments = ["--cells", "lstm", "gru", "--train-steps", "0", "--forget-bias", bias, "--json", "n.json"]
        assert main(["gradflow", *SMALL, *arguments]) == 0
        assert f"The forget bias starts at {bias}." in " ".join(capsys.readouterr().out.split())
        data = json.loads((here / "n.json").read_text())
        assert data["options"]["forget_bias"] == float(bias)
        kept[bias] = {network["cell"]: network["before"]["mean_gates"] for network in data["networks"]}
    assert kept["-3"]["gru"] == kept["3"]["gru"]
    assert kept["-3"]["lstm"]["f"] < 0.2 < 0.8 < kept["3"]["lstm"]["f"]


@pytest.mark.parametrize("name", ["membrane", "sunspots", "own.csv", "own.npy"])
def test_other_series(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    values = np.random.default_rng(0).standard_normal((80, 2)).cumsum(axis=0)
    np.savetxt("own.csv", values, delimiter=",", header="left,right", comments="")
    np.save("own.npy", values)
    assert main(["gradflow", *SMALL, "--data", name, "--train-steps", "0", "--out", "flow.svg"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ") and "After" not in out
    assert (here / "flow.svg").read_bytes().startswith(b"<?xml")


def test_same_seed_same_bytes_other_seed_other_bytes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("5", "5", "6"):
        assert main(["gradflow", *SMALL, "--seed", seed, "--json", "n.json"]) == 0
        outputs.append((capsys.readouterr().out, (here / "n.json").read_bytes(), (here / "gradflow.png").read_bytes()))
    assert outputs[0] == outputs[1]
    assert "(what was there is gradflow.1.png now)" in outputs[2][0]
    assert {path.name for path in here.iterdir()} == {"gradflow.png", "gradflow.1.png", "n.json", "n.1.json"}
    assert (here / "n.1.json").read_bytes() == outputs[0][1] and (here / "gradflow.1.png").read_bytes() == outputs[0][2]
    assert all(one != other for one, other in zip(outputs[0], outputs[2], strict=True))


def test_a_diverging_network_is_a_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = "--cells rnn-relu --gain 30 --init identity --lr 1e300 --clip 1e300 --length 100 --json n.json".split()
    assert main(["gradflow", *SMALL, *wild]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("1 of 1: rnn-relu, gain 30: ")
    assert "training ended early" in out and "training diverged" in out
    assert "After 1 training step\n" in out
    strict((here / "n.json").read_text())


def test_existing_results_are_set_aside_and_hand_on_their_permissions(here: Path) -> None:
    (here / "gradflow.png").write_text("old")
    (here / "gradflow.png").chmod(0o640)
    (here / "real.json").write_text("old")
    (here / "link.json").symlink_to("real.json")
    mask = os.umask(0o027)
    try:
        assert main(["gradflow", *SMALL, "--json", "link.json"]) == 0
    finally:
        os.umask(mask)
    assert (here / "link.json").is_symlink() and strict((here / "real.json").read_text())
    assert (here / "gradflow.png").stat().st_mode & 0o777 == 0o640
    assert {path.name for path in here.iterdir()} == {
        "gradflow.png", "gradflow.1.png", "real.json", "real.1.json", "link.json"
    }  # fmt: skip
    assert (here / "gradflow.1.png").read_text() == (here / "real.1.json").read_text() == "old"


def test_all_columns_can_be_asked_for(here: Path) -> None:
    assert main(["gradflow", *SMALL, "--train-steps", "0", "--columns", "all", "--json", "n.json"]) == 0
    assert json.loads((here / "n.json").read_text())["data"]["channels"] == ["EEG 1", "EEG 2", "EEG 3", "EEG 4"]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradflow", "--help"]) == 0
    out = capsys.readouterr().out
    options = "data columns cells gain init forget-bias length hidden batch layers train-steps lr clip seed seeds dask"
    for option in [*options.split(), "out", "json"]:
        assert f"--{option} " in out
    assert "of lstm and gru, of each gate's block of it" in " ".join(out.split())
    assert "(default: 0.5 1.0 1.5)" in " ".join(out.split())


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data none.csv", "none.csv: No such file or directory"),
        ("--data none.npy", "none.npy: No such file or directory"),
        ("--data ecg", f"ecg: neither one of {', '.join(BUNDLED)} nor a file; {KNOWN}"),
        ("--data text.csv", "text.csv: row 3, column 2 (\"temp\"): 'warm' is not a number; {choose}"),
        (
            "--data gap.csv",
            'gap.csv: row 2, column 1 ("a"): missing value; {fill}, or {choose}',
        ),
        ("--data nan.npy", "nan.npy: row 2, column 1: nan is not a finite number; {fill}"),
        (
            "--data short.csv",
            "short.csv: 3 samples, too short for a length of 20, which needs 22; use a length of at most 1",
        ),
        ("--data text.csv --columns x", "text.csv: no column 'x'; columns are: a, temp"),
        ("--columns 9", "eeg: no column '9'; columns are: EEG 1, EEG 2, EEG 3, EEG 4"),
        (
            "--length 5000",
            "eeg: 800 samples, too short for a length of 5000, which needs 5002; use a length of at most 798",
        ),
        ("--out no/where.png", "no/where.png: there is no directory {here}/no; create it first"),
        ("--out folder.png", "folder.png: is a directory; name a file"),
        ("--out figure", "figure: the name of a figure must end in .png, .pdf or .svg"),
        ("--out figure.gif", "figure.gif: the name of a figure must end in .png, .pdf or .svg"),
        ("--out gap.csv/x.png", "gap.csv/x.png: there is no directory {here}/gap.csv; create it first"),
        ("--json gradflow.png", "gradflow.png: --out and --json are the same file"),
        ("--data text.csv --json text.csv", "text.csv: this is the file to read; the results would overwrite it"),
        ("--json /dev/null", "/dev/null: exists and is not a file that can be written"),
        ("--json loop", "loop: cannot be written: "),
        ("--gain 1 1.0", "--gain: 1.0 1.0 names one network twice"),
        ("--cells rnn-relu rnn-relu", "--cells: rnn-relu rnn-relu names one network twice"),
        ("--cells lstm gru lstm", "--cells: lstm gru lstm names one network twice"),
        (
            "--cells rnn-tanh gru --forget-bias 1",
            "--forget-bias: is for lstm, which is not among --cells rnn-tanh gru",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (here / "text.csv").write_text("a,temp\n1,2\n3,warm\n")
    (here / "gap.csv").write_text("a,b\n,2\n3,4\n")
    (here / "short.csv").write_text("a\n1\n2\n4\n")
    (here / "folder.png").mkdir()
    (here / "loop").symlink_to("loop")
    np.save(here / "nan.npy", np.array([1.0, np.nan]))
    before = {path.name for path in here.iterdir()}
    line = failure(capsys, *arguments.split())
    expected = message.format(here=here, choose=CHOOSE, fill=FILL)
    assert line == expected or (expected.endswith(": ") and line.startswith(expected))
    assert {path.name for path in here.iterdir()} == before
    assert (here / "text.csv").read_text() == "a,temp\n1,2\n3,warm\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cells elman", "argument --cells: invalid choice: 'elman' (choose from "),
        ("--cells lstm foo", "argument --cells: invalid choice: 'foo' (choose from "),
        ("--cells", "argument --cells: expected at least one argument"),
        ("--forget-bias nan", "argument --forget-bias: must be a finite number; got 'nan'"),
        ("--forget-bias -inf", "argument --forget-bias: "),
        ("--forget-bias one", "argument --forget-bias: must be a finite number; got 'one'"),
        ("--forget-bias", "argument --forget-bias: expected one argument"),
        ("--forget-bias 1 2", "unrecognized arguments: 2 (see rnn-numpy gradflow --help)"),
        ("--init normal", "argument --init: invalid choice: 'normal' (choose from "),
        ("--gain 0", "argument --gain: must be a finite number greater than 0; got '0'"),
        ("--gain -1", "argument --gain: must be a finite number greater than 0; got '-1'"),
        ("--gain nan", "argument --gain: must be a finite number greater than 0; got 'nan'"),
        ("--gain inf", "argument --gain: must be a finite number greater than 0; got 'inf'"),
        ("--gain one", "argument --gain: must be a finite number greater than 0; got 'one'"),
        ("--lr 0", "argument --lr: must be a finite number greater than 0; got '0'"),
        ("--clip -1", "argument --clip: must be a finite number greater than 0; got '-1'"),
        ("--length 0", "argument --length: must be a whole number of at least 1; got '0'"),
        ("--hidden 1.5", "argument --hidden: must be a whole number of at least 1; got '1.5'"),
        ("--batch x", "argument --batch: must be a whole number of at least 1; got 'x'"),
        ("--layers 0", "argument --layers: must be a whole number of at least 1; got '0'"),
        ("--train-steps -1", "argument --train-steps: must be a whole number of at least 0; got '-1'"),
        ("--seed -3", "argument --seed: must be a whole number of at least 0; got '-3'"),
        ("--gain", "argument --gain: expected at least one argument"),
        ("--len 5", "unrecognized arguments: --len 5 (see rnn-numpy gradflow --help)"),
        ("--json=", "argument --json: must be the name of a file; got ''"),
        ("--out -", "argument --out: must be the name of a file; got '-'"),
        ("--out=", "argument --out: must be the name of a file; got ''"),
    ],
)
def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert main(["gradflow", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(("rnn-numpy gradflow: ", "rnn-numpy: "))
    assert message in err and err.endswith(" --help)\n")


@pytest.mark.parametrize("module", ["matplotlib", "rich"])
def test_a_missing_extra_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    line = failure(capsys)
    assert line.endswith(f'needs {module}, which is not installed; install it with: pip install "rnn_numpy[lab]"')


def test_output_is_checked_before_the_work(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("worked although the result cannot be written")

    monkeypatch.setattr(gradflow, "run_gradflow", work)
    monkeypatch.setattr(common, "load_series", work)
    failure(capsys, "--out", "no/where.png")


def test_a_directory_without_permission(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser, who may run the tests, can write anywhere: so the refusal is staged.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert failure(capsys) == "gradflow.png: cannot be written: Permission denied"


def test_a_disk_that_fills_up_leaves_the_old_result(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(figure: object, file: object, suffix: str) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    (here / "gradflow.png").write_text("old")
    monkeypatch.setattr(common, "save_figure", fill_up)
    message = failure(capsys)
    (kept,) = here.glob("gradflow-unfinished-*.jsonl")
    assert message == (
        f"gradflow.png: cannot be written: No space left on device; 12 of 12 networks are kept in {kept.name}: the "
        "same command goes on from there"
    )
    assert {path.name for path in here.iterdir()} == {"gradflow.png", kept.name}
    assert (here / "gradflow.png").read_text() == "old"


def test_not_enough_memory(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(gradflow, "run_gradflow", grow)
    assert failure(capsys) == "not enough memory; try a smaller --hidden, --length or --batch"


def test_interrupted_in_the_middle_of_writing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(figure: object, file: object, suffix: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "save_figure", interrupt)
    assert failure(capsys, code=130).startswith("interrupted; 12 of 12 networks are kept in gradflow-unfinished-")
    (kept,) = here.iterdir()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main(["gradflow", *SMALL]) == 0
    assert capsys.readouterr().err.startswith(f"going on with what {kept.name} has kept\n")
    assert [path.name for path in here.iterdir()] == ["gradflow.png"]


def test_numbers_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--cells", "gru", "--gain", "1", "--train-steps", "0", "--seeds", "1"]
    assert main(["gradflow", *SMALL, *few, "--json", "-", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["data"]["name"] == "eeg" and err == ""
    assert [path.name for path in here.iterdir()] == ["gradflow.png"]
