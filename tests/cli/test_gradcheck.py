"""`rnn-numpy gradcheck`: its arguments, what it checks, what it says, how it fails and ends."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ended, interrupted_on_a_terminal

from rnn_numpy.cli import main
from rnn_numpy.cli.gradcheck import CELLS, METHODS, SINGLE, add_parser
from rnn_numpy.zoo import ZOO

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
SMALL = ["--length", "5", "--hidden", "3", "--batch", "2", "--input", "1"]

FUNCTIONS = """
import numpy as np

def right():
    params = {"w": np.array([0.1, 0.2])}
    return (lambda p: np.sum(np.sin(p["w"]))), (lambda p: {"w": np.cos(p["w"])}), params

def wrong():
    loss, grads, params = right()
    return loss, (lambda p: {"w": 2 * grads(p)["w"]}), params

def raises():
    return 1 / 0

def loss_raises():
    _, grads, params = right()
    return (lambda p: {}["q"]), grads, params

def not_finite():
    _, grads, params = right()
    return (lambda p: np.nan), grads, params

def nothing():
    return None

def two():
    return 1, 2

def exits():
    raise SystemExit(3)

def interrupts():
    raise KeyboardInterrupt

number = 3
"""


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="rnn-numpy", exit_on_error=False)
    return add_parser(main_parser.add_subparsers())


def options(parser: argparse.ArgumentParser, line: str) -> dict[str, object]:
    found = vars(parser.parse_args(line.split()))
    assert callable(found.pop("run"))
    return found


def test_the_defaults_are_the_documented_ones(parser: argparse.ArgumentParser) -> None:
    assert options(parser, "") == {
        "target": None,
        "cells": CELLS,
        "zoo": False,
        "quiet": False,
        "layers": 1,
        "bidirectional": False,
        "length": 10,
        "hidden": 4,
        "batch": 3,
        "input": 2,
        "method": "auto",
        "dtype": "float64",
        "seed": 0,
        "seconds": None,
        "json": None,
        "verbose": False,
    }


def test_sizes_all_differ_so_that_swapped_axes_show(parser: argparse.ArgumentParser) -> None:
    defaults = parser.parse_args([])
    assert len({defaults.length, defaults.hidden, defaults.batch, defaults.input}) == 4


def test_every_option_reaches_its_name(parser: argparse.ArgumentParser) -> None:
    line = (
        "--cells lstm-projected gru-before --layers 2 --bidirectional --length 50 --hidden 7 --batch 5 --input 6 "
        "--method ridders --dtype float32 --seed 9 --seconds 2.5 --json n.json --verbose"
    )
    assert options(parser, line) == {
        "target": None,
        "cells": ["lstm-projected", "gru-before"],
        "zoo": False,
        "quiet": False,
        "layers": 2,
        "bidirectional": True,
        "length": 50,
        "hidden": 7,
        "batch": 5,
        "input": 6,
        "method": "ridders",
        "dtype": "float32",
        "seed": 9,
        "seconds": 2.5,
        "json": Path("n.json"),
        "verbose": True,
    }


@pytest.mark.parametrize("line", ["{} --seed 1 --verbose", "--seed 1 {} --verbose", "--verbose --seed 1 {}"])
def test_the_target_stands_anywhere(parser: argparse.ArgumentParser, line: str) -> None:
    arguments = parser.parse_args([word.format("my model.py:loss") for word in line.split()])
    assert (arguments.target, arguments.seed, arguments.verbose) == ("my model.py:loss", 1, True)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_can_be_chosen(parser: argparse.ArgumentParser, cell: str) -> None:
    assert parser.parse_args(["--cells", cell]).cells == [cell]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_chosen(parser: argparse.ArgumentParser, method: str) -> None:
    assert parser.parse_args(["--method", method]).method == method


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m.py:loss --cells lstm", "argument --cells: not allowed with argument TARGET"),
        ("m.py:loss --zoo", "argument --zoo: not allowed with argument TARGET"),
        ("--zoo --cells lstm", "argument --cells: not allowed with argument --zoo"),
        ("--zoo m.py:loss", "argument TARGET: not allowed with argument --zoo"),
        ("m.py:loss n.py:loss", "unrecognized arguments: n.py:loss"),
        ("--cells elman", "argument --cells: invalid choice: 'elman' (choose from "),
        ("--cells", "argument --cells: expected at least one argument"),
        ("--method exact", "argument --method: invalid choice: 'exact' (choose from "),
        ("--dtype float16", "argument --dtype: invalid choice: 'float16' (choose from "),
        ("--layers 0", "argument --layers: must be a whole number of at least 1; got '0'"),
        ("--length 0", "argument --length: must be a whole number of at least 1; got '0'"),
        ("--hidden x", "argument --hidden: must be a whole number of at least 1; got 'x'"),
        ("--batch 1.5", "argument --batch: must be a whole number of at least 1; got '1.5'"),
        ("--input -2", "argument --input: must be a whole number of at least 1; got '-2'"),
        ("--seed -1", "argument --seed: must be a whole number of at least 0; got '-1'"),
        ("--seconds 0", "argument --seconds: must be a finite number greater than 0; got '0'"),
        ("--json=", "argument --json: must be the name of a file; got ''"),
        ("--len 5", "unrecognized arguments: --len"),
    ],
)
def test_bad_options(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(line.split())
    assert caught.value.code == 2
    assert f"rnn-numpy gradcheck: error: {message}" in capsys.readouterr().err


def test_help_names_every_choice(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    assert f"any of {', '.join(CELLS)} (default: all)" in text
    assert f"the reference: {', '.join(METHODS)} (default: auto)" in text
    assert "of the checked pass: float64 or float32 (default: float64)" in text
    assert "FILE.py:FUNCTION, a function of yours that returns (loss, grads, params)" in text


# What it does -------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["gradcheck", *arguments]) == code
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) <= 100
    return out


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run, and return the one line on stderr without the name of the command."""
    assert main(["gradcheck", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("rnn-numpy gradcheck: ") and err.count("\n") == 1, err
    return err[len("rnn-numpy gradcheck: ") : -1]


def strict(path: Path) -> dict[str, object]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def lines_of(out: str) -> list[str]:
    """Return the first words of the table's lines."""
    table = out.split("\n\n", 1)[0].splitlines()
    return [line.split()[0] for line in table[next(k for k, line in enumerate(table) if "───" in line) + 1 :]]


def test_by_default_every_layer_is_checked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = outcome(capsys, "--json", "numbers.json")
    assert tuple(lines_of(out)) == CELLS
    assert "\nAll right: 12 checks, " in out and out.endswith("\nNumbers: numbers.json\n")
    numbers = strict(here / "numbers.json")
    assert numbers["ok"] is True
    assert [check["name"] for check in numbers["checks"]] == list(CELLS)  # type: ignore[attr-defined]


def test_stacked_layers_leave_out_what_cannot_be_stacked(capsys: pytest.CaptureFixture[str]) -> None:
    out = outcome(capsys, *SMALL, "--layers", "2", "--bidirectional")
    assert lines_of(out) == [name for name in CELLS if name not in SINGLE]


def test_cells_are_checked_once_each_in_their_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--cells", "linear", "lstm-projected", "linear", *SMALL, "--json", "n.json", "--verbose"]
    out = outcome(capsys, *line)
    assert lines_of(out) == ["linear", "lstm-projected"]
    assert "gradcheck LSTM(1, 3, proj_size=1) T=5 N=2 float64\n" in out and "gradcheck Linear(1, 3) x (2, 1) f" in out
    again = outcome(capsys, *line)
    assert again == out
    other = outcome(capsys, *line[:-1], "--seed", "4")
    assert other != out


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(capsys: pytest.CaptureFixture[str], method: str) -> None:
    out = outcome(capsys, "--cells", "gru", "lstm-cell", *SMALL, "--method", method, "--verbose")
    told = {"auto": "stepwise", "stepwise": "stepwise"}.get(method, method.replace("-", " "))
    expected = "complex step of each forward step" if told == "stepwise" else told
    assert f"method: {'complex step along random directions' if told == 'directional' else expected}" in out


def test_float32(capsys: pytest.CaptureFixture[str]) -> None:
    out = outcome(capsys, "--cells", "lstm", *SMALL, "--dtype", "float32", "--verbose")
    assert "float32\n" in out and "the rows marked float32 compare the original with it" in " ".join(out.split())


def test_a_layer_that_is_wrong(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rnn_numpy.layers import Linear

    right = Linear.backward

    def wrong(self: Linear, *args: object) -> object:
        found = right(self, *args)  # type: ignore[arg-type]
        found.grads["weight"] *= 3
        return found

    monkeypatch.setattr(Linear, "backward", wrong)
    out = outcome(capsys, "--cells", "linear", "rnn-cell", *SMALL, "--json", "n.json", code=1)
    assert re.search(r"^linear .* FAILED$", out, re.MULTILINE) and re.search(r"^rnn-cell .* ok$", out, re.MULTILINE)
    assert "why : constant factor: weight: 3 times the right gradient" in out
    assert out.endswith("\nFAILED: linear.\nNumbers: n.json\n")
    assert strict(here / "n.json")["ok"] is False


def test_the_zoo(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = [specimen for specimen in ZOO if specimen.name in ("recurrence-dropped", "bias-doubled", "clipped")]
    monkeypatch.setattr("rnn_numpy.zoo.ZOO", few)
    out = outcome(capsys, "--zoo", "--json", "zoo.json")
    assert lines_of(out) == [specimen.name for specimen in few]
    assert "3 of 3 wrong backward passes were caught, 3 with the right diagnosis (100 %)." in " ".join(out.split())
    found = strict(here / "zoo.json")
    assert found["ok"] is True
    assert [(each["name"], each["caught"], each["named"]) for each in found["zoo"]] == [  # type: ignore[attr-defined]
        (specimen.name, True, True) for specimen in few
    ]
    assert few[0].mistake in outcome(capsys, "--zoo", "--verbose").replace("\n", " ")


def test_a_wrong_pass_that_is_not_caught_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rnn_numpy.checks import gradcheck
    from rnn_numpy.layers import RNN

    few = [specimen for specimen in ZOO if specimen.name == "clipped"]
    monkeypatch.setattr("rnn_numpy.zoo.ZOO", few)
    monkeypatch.setattr(
        "rnn_numpy.cli.gradcheck.gradcheck", lambda layer, x, *args, **kwargs: gradcheck(RNN(x.shape[2], 3, rng=0), x)
    )
    assert "0 of 1 wrong backward passes were caught" in outcome(capsys, "--zoo", code=1)


# A function of the user's -------------------------------------------------------------------------------------------


def test_a_function_that_is_right(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in set(METHODS) - {"stepwise"}:
        out = outcome(capsys, "mine.py:right", "--method", method)
        assert lines_of(out) == ["right"] and "gradcheck a function of 1 array, 2 entries\n" in out


def test_a_function_that_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = outcome(capsys, "mine.py:wrong", "--json", "n.json", code=1)
    assert "why : constant factor: w: 2 times the right gradient" in out and "\nFAILED: wrong.\n" in out
    (check,) = strict(here / "n.json")["checks"]  # type: ignore[misc]
    assert check["diagnosis"]["kind"] == "constant factor" and check["rows"][0]["verdict"] == "WRONG"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raises", "mine.py, line 13: ZeroDivisionError: division by zero"),
        ("loss_raises", "mine.py, line 17: KeyError: 'q'"),
        (
            "not_finite",
            "loss must return a finite number; got nan: look for 0/0, infinity minus infinity, the logarithm or root "
            "of a negative number",
        ),
        ("nothing", "mine.py:nothing: must return a tuple (loss, grads, params); got NoneType"),
        ("two", "mine.py:two: must return a tuple (loss, grads, params); got a tuple of 2"),
        ("exits", "mine.py, line 30: SystemExit: 3"),
        ("number", "mine.py: 'number' cannot be called; it is of type int"),
    ],
)
def test_a_function_that_cannot_be_checked(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    assert failure(capsys, f"mine.py:{name}", "--json", "n.json") == told
    assert not (here / "n.json").exists()


def test_a_function_that_is_interrupted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, "mine.py:interrupts", code=130) == "interrupted"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "mine.py:right --method stepwise",
            "method 'stepwise' is for recurrent layers of this package and their subclasses",
        ),
        ("--cells linear --layers 2", "--cells linear: has a single step, and neither layers nor directions"),
        (
            "--cells lstm gru-cell --bidirectional",
            "--cells gru-cell: has a single step, and neither layers nor directions",
        ),
        ("--cells lstm-projected --hidden 1", "--hidden: a projected LSTM needs at least 2 units"),
        ("--cells linear --json nowhere/n.json", "nowhere/n.json: there is no directory"),
        ("gone.py:f", "gone.py: there is no such file"),
    ],
)
def test_what_cannot_be_checked(here: Path, capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    assert failure(capsys, *line.split()).startswith(told)


# As a process -------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "rnn_numpy", "gradcheck", *arguments]


def test_closed_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        line = command("--cells", "rnn-cell", "--json", "n.json")
        done = ended(line, cwd=tmp_path, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    assert (tmp_path / "n.json").exists()  # the numbers are written before they are told


def test_an_ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["gradcheck", "--cells", "rnn-cell", "--verbose"]) == 0
    assert b"weight_hh" in written.getvalue() and written.getvalue().isascii()


def test_progress_within_one_long_check_and_its_interrupt(tmp_path: Path) -> None:
    """stderr is a terminal: a bar moves within the only check; Ctrl-C then ends it with one line and no file."""
    line = command("--cells", "lstm", "--hidden", "24", "--length", "40", "--method", "ridders", "--json", "n.json")
    environment, words = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"}, [b"lstm: ridders: weight_hh_l0", b"  2%"]
    code, seen = interrupted_on_a_terminal(line, words, cwd=tmp_path, env=environment)
    assert code == 130
    assert b"rnn-numpy gradcheck: interrupted" in seen and b"Traceback" not in seen
    assert list(tmp_path.iterdir()) == []


MANY = """
import numpy as np

def many():
    w = np.random.default_rng(0).normal(size=(60, 50))
    w[::2] = 0
    loss = lambda p: float(np.abs(p["w"]).sum())
    return loss, lambda p: {"w": np.sign(p["w"])}, {"w": w}
"""


def test_a_budget_says_what_was_not_looked_at(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many.py").write_text(MANY)
    text = " ".join(outcome(capsys, "many.py:many", "--seconds", "1e-9", code=3).split())
    assert "not looked at, for the time was up after 1e-09 s: 3000 of the 3000 entries of w; one by one" in text
    assert failure(capsys, "--seconds", "5").startswith("--seconds: goes with TARGET; the layers of this package are")


def test_numbers_alone_and_nothing_at_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["gradcheck", "--cells", "gru", "--hidden", "2", "--length", "2", "--batch", "1"]
    assert main([*small, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is True and err == ""
    assert main([*small, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert [path.name for path in here.iterdir()] == ["mine.py"]
