"""`rnn-numpy train` and `rnn-numpy predict`: what they write and say, how they stop and go on, how they fail."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ended, interrupted_on_a_terminal

from rnn_numpy.cli import common, main
from rnn_numpy.cli import train as cli_train
from rnn_numpy.experiments import experiment as experiments

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
SMALL = ["digits", "--hidden", "4", "--batch", "2", "--updates", "3"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run, and return the one line on stderr without the name of the command."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    name = f"rnn-numpy {arguments[0]}: "
    assert err.startswith(name) and err.endswith("\n") and err.count("\n") == 1, err
    return err[len(name) : -1]


def train_here(*arguments: str) -> None:
    assert main(["train", *SMALL, *arguments]) == 0


def test_train_writes_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here()
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    assert out.startswith("digits: a handwritten digit is read row by row")
    assert out.endswith(
        "\nFigure: digits-run/figure.png\nNumbers: digits-run/numbers.json\nTo ask it: rnn-numpy predict digits-run\n"
    )
    folder = here / "digits-run"
    names = {"config.json", "figure.png", "numbers.json", "report.txt", "seed-0.npz"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert out.startswith((folder / "report.txt").read_text())
    numbers = json.loads((folder / "numbers.json").read_text(), parse_constant=pytest.fail)
    assert numbers["options"]["updates"] == 3 and len(numbers["trainings"]) == 1


def test_options_reach_the_run(here: Path) -> None:
    options = "--cell lstm --layers 2 --dropout 0.1 --directions 1 --moved 0.2 --noise 0 --lr 0.01 --clip 2 --seed 7"
    train_here(*options.split(), "--seeds", "2", "--out", "here")
    numbers = json.loads((here / "here" / "numbers.json").read_text())
    assert numbers["options"] == {
        "cell": "lstm",
        "hidden": 4,
        "layers": 2,
        "directions": 1,
        "dropout": 0.1,
        "updates": 3,
        "batch": 2,
        "lr": 0.01,
        "clip": 2.0,
        "moved": 0.2,
        "noise": 0.0,
        "seeds": 2,
        "seed": 7,
    }
    assert [training["label"] for training in numbers["trainings"]] == ["seed 7", "seed 8"]


@pytest.mark.parametrize("what", cli_train.WHAT)
def test_every_option_of_an_experiment_can_be_given(what: str) -> None:
    arguments: dict[str, Any] = vars(sys.modules["rnn_numpy.cli.main"].parser_of("train").parse_args(["train", what]))
    kind = cli_train.EXPERIMENTS[what]
    assert set(arguments) == {*vars(kind.Options()), "command", "run", "what", "resume", "out", "quiet"}
    assert common.options_of(kind.Options, argparse.Namespace(**arguments)) == kind.Options()
    assert kind.name == what


def test_divergence_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huge = "--hidden 4 --batch 2 --updates 9 --lr 1e300 --clip 1e300"
    assert main(["train", "digits", *huge.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("rnn-numpy train: seed 0: diverged in update ") and err.count("\n") == 1
    assert err.endswith("; try a smaller lr\n") and " is nan at " in err


def test_predict(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here()
    np.save("image.npy", np.full((8, 8), 16))
    capsys.readouterr()
    assert main(["predict", "digits-run", "3", "image.npy"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and len(out.splitlines()) == 3 and out.endswith("  image.npy\n")
    assert main(["predict", "digits-run"]) == 0
    assert " of 397 test digits are read right: " in capsys.readouterr().out


def test_a_language_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("to and fro, and to and fro. " * 100, encoding="utf-8")
    small = "--hidden 4 --embedding 4 --tied --batch 2 --length 6 --updates 3 --characters 8"
    assert main(["train", "lm", "--data", "text.txt", *small.split()]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("lm: after each character of a text") and "gru of 4, tied  <" in out
    assert max(map(len, out.splitlines())) <= 100
    names = {"config.json", "figure.png", "numbers.json", "report.txt", "model.npz"}
    assert {path.name for path in (here / "lm-run").iterdir()} == names
    Path("text.txt").unlink()  # to predict, the text is not needed
    assert main(["predict", "lm-run", "to and"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("to and") and len(said) == len("to and") + 8 + 1 and set(said) <= set("toandfr., \n")
    wrong = "'t!': '!' (U+0021) at position 1 is none of the 10 characters of this vocabulary"
    assert failure(capsys, "predict", "lm-run", "t!") == wrong
    Path("empty.txt").touch()
    assert failure(capsys, "train", "lm", "--data", "empty.txt").startswith("empty.txt: the file is empty")
    assert failure(capsys, "train", "lm", "--data", "gone.txt") == "gone.txt: No such file or directory"
    assert failure(capsys, "train", "lm", "--data", "gone").startswith("gone: neither pydoc nor a file that ends in")
    assert "tied needs an embedding as wide as the state" in failure(capsys, "train", "lm", "--tied")
    assert not Path("lm-run-2").exists() and {path.name for path in here.iterdir()} == {"lm-run", "empty.txt"}


def test_a_series_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"day {i},{(i * 7) % 11},{(i * 5) % 13}" for i in range(60)]
    Path("mine.csv").write_text("\n".join(["day,level,flow", *rows, ""]), encoding="utf-8")
    small = "--hidden 3 --length 6 --horizon 4 --updates 4 --batch 2 --seeds 2".split()
    assert main(["train", "forecast", "--data", "mine.csv", *small, "--columns", "level", "--season", "11"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(
        "mine.csv. 60 samples of 1 channel: level; 43 to train, then 5 to validate, the last 12 to test."
    )
    assert max(map(len, out.splitlines())) <= 100
    names = {"config.json", "figure.png", "numbers.json", "report.txt", "seed-0.npz", "seed-1.npz"}
    assert {path.name for path in (here / "forecast-run").iterdir()} == names
    assert main(["predict", "forecast-run"]) == 0
    after_the_series = capsys.readouterr().out
    assert after_the_series.startswith("mine.csv: the 4 samples that follow, with a band for 80% of them\n")
    assert main(["predict", "forecast-run", "mine.csv"]) == 0
    assert capsys.readouterr().out == after_the_series
    few = "mine.csv: a horizon of 22 is too long for 43 samples to train on; at most 21"
    assert failure(capsys, "train", "forecast", "--data", "mine.csv", "--columns", "2", "--horizon", "22") == few
    text = "mine.csv: row 2, column 1 (\"day\"): 'day 0' is not a number"
    assert failure(capsys, "train", "forecast", "--data", "mine.csv", "--columns", "all").startswith(text)
    assert failure(capsys, "train", "forecast", "--data", "gone.csv") == "gone.csv: No such file or directory"
    assert {path.name for path in here.iterdir()} == {"forecast-run", "mine.csv"}


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: rnn-numpy train [-h] WHAT [OPTION ...]\n       rnn-numpy train --resume DIR\n")
    assert all(f"\n    {what} " in out for what in cli_train.WHAT)
    for what in cli_train.WHAT:
        assert main(["train", what, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: rnn-numpy train {what} [-h] ") and "--resume" not in out
        assert max(map(len, out.splitlines())) <= 100
    assert main(["predict", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: rnn-numpy predict [-h] DIR [INPUT ...]\n")


# Stopped, and taken up again ----------------------------------------------------------------------------------------


def numbers_of(folder: Path) -> Any:
    numbers = json.loads((folder / "numbers.json").read_text())
    for training in numbers["trainings"]:
        del training["cpu_seconds"], training["history"]["seconds"]
    return numbers


def test_ctrl_c_in_a_terminal_and_resume_in_another_process(here: Path) -> None:
    line = [sys.executable, "-W", "error", "-m", "rnn_numpy", "train"]
    options = ["digits", "--hidden", "4", "--batch", "2", "--updates", "400"]
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"}
    ended([*line, *options, "--out", "whole"], cwd=here, env=environment, check=True, capture_output=True)
    code, seen = interrupted_on_a_terminal([*line, *options], [b"seed 0, loss"], cwd=here, env=environment)
    assert code == 130
    assert b"rnn-numpy train: stopped and saved; go on with: rnn-numpy train --resume digits-run" in seen
    assert b"Traceback" not in seen
    stopped = here / "digits-run"
    assert {path.name for path in stopped.iterdir()} == {"config.json", "seed-0.npz"}
    ended([*line, "--resume", "digits-run"], cwd=here, env=environment, check=True, capture_output=True)
    assert numbers_of(stopped) == numbers_of(here / "whole")
    for name in ("figure.png",):
        assert (stopped / name).read_bytes() == (here / "whole" / name).read_bytes()


def press(at: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Have a signal come after so many updates."""
    step = experiments.Training.__next__

    def stepped(self: Any) -> Any:
        update = step(self)
        if update.number == at:
            signal.raise_signal(number)
        return update

    monkeypatch.setattr(experiments.Training, "__next__", stepped)


def test_stopped_in_process(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        press(2, patch)
        line = failure(capsys, "train", *SMALL, "--out", "my run", code=130)
    assert line == "stopped and saved; go on with: rnn-numpy train --resume 'my run'"
    assert main(["predict", "my run", "3"]) == 0
    assert main(["train", "--resume", "my run"]) == 0
    train_here()
    assert numbers_of(here / "my run") == numbers_of(here / "digits-run")
    capsys.readouterr()
    assert main(["train", "--resume", "my run"]) == 0
    assert capsys.readouterr().out == "my run: this training has finished; its table is in my run/report.txt\n"


def test_terminated(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    press(2, monkeypatch, signal.SIGTERM)
    assert failure(capsys, "train", *SMALL, code=143).startswith("stopped and saved; go on with: ")


# Bad input ----------------------------------------------------------------------------------------------------------


def test_a_run_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here()
    capsys.readouterr()
    before = (here / "digits-run" / "numbers.json").read_bytes()
    line = failure(capsys, "train", *SMALL)
    assert line == "digits-run: holds a run already (it has finished); name another folder for a new one"
    assert (here / "digits-run" / "numbers.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train", "say what to train: lm, forecast, digits, captions, g2p, roman, dates"),
        ("train --resume nowhere", "nowhere: there is no such folder"),
        ("train --resume other", "other: holds no run of rnn-numpy train: there is no config.json in it"),
        ("train --resume other digits", "--resume goes on as the training began; leave out digits and its options"),
        ("train digits --resume other", "--resume goes on as the training began; leave out digits and its options"),
        ("train digits --out other", "other: holds other things; name a folder that is new or empty"),
        ("train digits --out other/file", "other/file: is a file; name a folder that is new or empty"),
        ("train digits --out no/where", "no/where: cannot be made: No such file or directory"),
        ("train digits --dropout 0.1", "--dropout: acts between layers, and there is one; say --layers 2, or more"),
        ("predict nowhere", "nowhere: there is no such folder"),
        ("predict other 3", "other: holds no run of rnn-numpy train: there is no config.json in it"),
    ],
)
def test_bad_input_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    (here / "other").mkdir()
    (here / "other" / "file").write_text("!")
    assert failure(capsys, *arguments.split()).startswith(message)
    assert [path.name for path in here.rglob("*")] == ["other", "file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train chess", "argument WHAT: invalid choice: 'chess'"),
        ("train digits --cell elman", "argument --cell: invalid choice: 'elman'"),
        ("train digits --dropout 2", "argument --dropout: must be a number from 0 to 1; got '2'"),
        ("train digits --noise -1", "argument --noise: must be a finite number of at least 0; got '-1'"),
        ("train digits --updates 0", "argument --updates: must be a whole number of at least 1; got '0'"),
        ("train --out x", "argument WHAT: invalid choice: 'x'"),
        ("train digits --out -", "argument --out: must be the name of a file; got '-'"),
        ("predict", "the following arguments are required: DIR"),
    ],
)
def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err and "--help" in err


@pytest.mark.parametrize("module", ["matplotlib", "rich"])
def test_a_missing_extra(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    line = failure(capsys, "train", *SMALL)
    assert line.endswith(f'needs {module}, which is not installed; install it with: pip install "rnn_numpy[lab]"')
    assert list(here.iterdir()) == []


def test_missing_data(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert failure(capsys, "train", *SMALL).endswith('install it with: pip install "rnn_numpy[data]"')
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "foreign"])
def test_a_damaged_checkpoint(here: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    train_here()
    (here / "digits-run" / "numbers.json").unlink()
    path = here / "digits-run" / "seed-0.npz"
    whole = path.read_bytes()
    damaged = {"cut": whole[:-200], "changed": whole[:900] + b"!" + whole[901:], "emptied": b"", "foreign": b"PNG"}
    path.write_bytes(damaged[damage])
    capsys.readouterr()
    for arguments in (["train", "--resume", "digits-run"], ["predict", "digits-run"]):
        assert "digits-run/seed-0.npz: is " in failure(capsys, *arguments)
    assert path.read_bytes() == damaged[damage]


def test_what_predict_cannot_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here()
    capsys.readouterr()
    assert failure(capsys, "predict", "digits-run", "no.csv") == "no.csv: No such file or directory"
    assert failure(capsys, "predict", "digits-run", "999").startswith("999: test digits have the numbers 0 to 396; ")
    assert failure(capsys, "predict", "digits-run", "-1").startswith("-1: test digits have the numbers 0 to 396; ")


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        press(2, patch)
        failure(capsys, "train", *SMALL, code=130)
    before = (here / "digits-run" / "seed-0.npz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        line = failure(capsys, "train", "--resume", "digits-run")
    assert "digits-run/seed-0.npz" in line and line.endswith("No space left on device")
    assert (here / "digits-run" / "seed-0.npz").read_bytes() == before
    assert {path.name for path in (here / "digits-run").iterdir()} == {"config.json", "seed-0.npz"}
    assert main(["train", "--resume", "digits-run"]) == 0


def test_a_folder_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert failure(capsys, "train", *SMALL) == "digits-run: cannot be made: Permission denied"
