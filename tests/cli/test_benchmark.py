"""`rnn-numpy benchmark`: what it writes, what it says, how it fails."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import ended, interrupted_on_a_terminal

from rnn_numpy.cli import benchmark as cli_benchmark
from rnn_numpy.cli import common, main

ROOT = Path(__file__).parents[2]
SMALL = ["--lengths", "5", "--hidden", "4", "--batch", "3", "--max-updates", "60"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run, and return the last line on stderr without the name of the command: the only one but for the networks'."""
    assert main(["benchmark", *SMALL, *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    err = "".join(line for line in err.splitlines(keepends=True) if not re.match(r"\d+ of \d+: ", line))
    assert err.startswith("rnn-numpy benchmark: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err[len("rnn-numpy benchmark: ") : -1]


def test_table_figure_and_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *SMALL, "--json", "numbers.json"]) == 0
    out, err = capsys.readouterr()
    assert [line.partition(": not solved in 60 updates, ")[0] for line in err.splitlines()] == [
        f"{number} of 4: {cell}, length 5" for number, cell in enumerate(("rnn-tanh", "irnn", "lstm", "gru"), 1)
    ]
    assert max(map(len, out.splitlines())) <= 100
    assert out.startswith("adding: add the two marked ones of T numbers. Baseline, the mean: a loss of 0.167 ")
    assert out.endswith("\nFigure: benchmark.png\nNumbers: numbers.json\n")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("     5 ")] == [
        "rnn-tanh",
        "irnn",
        "lstm",
        "gru",
    ]
    assert {path.name for path in here.iterdir()} == {"benchmark.png", "numbers.json"}
    assert (here / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((here / "numbers.json").read_text())
    assert len(numbers["runs"]) == 4 and numbers["options"]["lengths"] == [5]


def test_options_reach_the_run(here: Path) -> None:
    options = "--task temporal-order --lengths 12 10 --cells gru lstm --seeds 2 --lr 0.01 --clip 0.5 --forget-bias 2"
    assert main(["benchmark", *SMALL, *options.split(), "--out", "b.svg", "--json", "n.json"]) == 0
    numbers = json.loads((here / "n.json").read_text())
    assert numbers["options"] == {
        "task": "temporal-order",
        "lengths": [12, 10],
        "cells": ["gru", "lstm"],
        "seeds": 2,
        "hidden": 4,
        "batch": 3,
        "max_updates": 60,
        "lr": 0.01,
        "clip": 0.5,
        "forget_bias": 2.0,
        "dtype": "float32",
        "check_every": 50,
    }
    assert [(run["length"], run["cell"], run["seed"]) for run in numbers["runs"]] == [
        (length, cell, seed) for length in (12, 10) for cell in ("gru", "lstm") for seed in (0, 1)
    ]
    assert "<svg" in (here / "b.svg").read_text()


def test_the_defaults_are_the_documented_ones() -> None:
    arguments: dict[str, Any] = vars(sys.modules["rnn_numpy.cli.main"].parser_of("benchmark").parse_args(["benchmark"]))
    assert arguments.pop("run") is cli_benchmark.run
    assert arguments == {
        "command": "benchmark",
        "task": "adding",
        "lengths": (50,),
        "cells": ("rnn-tanh", "irnn", "lstm", "gru"),
        "seeds": 1,
        "hidden": 64,
        "batch": 50,
        "max_updates": 4000,
        "lr": 2e-3,
        "clip": 1.0,
        "forget_bias": 1.0,
        "dask": None,
        "quiet": False,
        "out": Path("benchmark.png"),
        "json": None,
    }


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--help"]) == 0
    out = capsys.readouterr().out
    for option in "task lengths cells seeds hidden batch max-updates lr clip forget-bias dask out json".split():
        assert f"--{option} " in out
    assert main(["--help"]) == 0
    assert "benchmark" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--lengths 1", "Adding: length must be at least 2; got 1"),
        ("--task temporal-order", "TemporalOrder: length must be at least 10; got 5"),
        (
            "--task narma10",
            "NARMA10: length must be at least taps = 20, the steps before the first that counts; got 5",
        ),
        ("--lengths 5 6 5", "--lengths: 5 6 5 names one network twice"),
        ("--cells lstm gru lstm", "--cells: lstm gru lstm names one network twice"),
        ("--out no/where.png", "no/where.png: there is no directory {here}/no; create it first"),
        ("--out folder.png", "folder.png: is a directory; name a file"),
        ("--out figure.gif", "figure.gif: the name of a figure must end in .png, .pdf or .svg"),
        ("--json benchmark.png", "benchmark.png: --out and --json are the same file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (here / "folder.png").mkdir()
    assert failure(capsys, *arguments.split()) == message.format(here=here)
    assert [path.name for path in here.iterdir()] == ["folder.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task sorting", "argument --task: invalid choice: 'sorting' (choose from "),
        ("--cells elman", "argument --cells: invalid choice: 'elman' (choose from "),
        ("--cells", "argument --cells: expected at least one argument"),
        ("--lengths 0", "argument --lengths: must be a whole number of at least 1; got '0'"),
        ("--lengths x", "argument --lengths: must be a whole number of at least 1; got 'x'"),
        ("--seeds 0", "argument --seeds: must be a whole number of at least 1; got '0'"),
        ("--max-updates 0", "argument --max-updates: must be a whole number of at least 1; got '0'"),
        ("--lr 0", "argument --lr: must be a finite number greater than 0; got '0'"),
        ("--clip -1", "argument --clip: must be a finite number greater than 0; got '-1'"),
        ("--clip nan", "argument --clip: must be a finite number greater than 0; got 'nan'"),
        ("--forget-bias inf", "argument --forget-bias: must be a finite number; got 'inf'"),
        ("--length 5", "unrecognized arguments: --length 5 (see rnn-numpy benchmark --help)"),
        ("--out -", "argument --out: must be the name of a file; got '-'"),
    ],
)
def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert main(["benchmark", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("rnn-numpy benchmark: ") and message in err and err.endswith(" --help)\n")


def test_output_is_checked_before_the_work(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("worked although the result cannot be written")

    monkeypatch.setattr(cli_benchmark, "run_benchmark", work)
    failure(capsys, "--out", "no/where.png")


@pytest.mark.parametrize("module", ["matplotlib", "rich"])
def test_a_missing_extra_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    line = failure(capsys)
    assert line.endswith(f'needs {module}, which is not installed; install it with: pip install "rnn_numpy[lab]"')


def test_a_disk_that_fills_up_leaves_the_old_result(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(figure: object, file: Any, suffix: str) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (here / "benchmark.png").write_text("old")
    monkeypatch.setattr(common, "save_figure", fill_up)
    message = failure(capsys)
    (kept,) = here.glob("benchmark-unfinished-*.jsonl")
    assert message == (
        f"benchmark.png: cannot be written: No space left on device; 4 of 4 networks are kept in {kept.name}: the "
        "same command goes on from there"
    )
    assert {path.name for path in here.iterdir()} == {"benchmark.png", kept.name}
    assert (here / "benchmark.png").read_text() == "old"


def test_interrupted_in_the_middle_of_the_work(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_benchmark, "run_benchmark", interrupt)
    assert failure(capsys, code=130) == "interrupted"
    assert list(here.iterdir()) == []


# As a process


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "rnn_numpy", "benchmark", *SMALL, *arguments]


def test_an_ascii_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["benchmark", *SMALL, "--cells", "gru"]) == 0
    assert written.getvalue().startswith(b"adding: ") and written.getvalue().isascii()
    assert (here / "benchmark.png").exists()


def test_closed_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ended(command("--cells", "gru"), cwd=tmp_path, env=ENVIRONMENT, stdout=writer, stderr=-1)
    finally:
        os.close(writer)
    assert done.returncode == 141 and done.stderr.startswith(b"1 of 1: gru, length 5: ")
    assert done.stderr.count(b"\n") == 1
    assert (tmp_path / "benchmark.png").exists()


def test_ctrl_c_ends_a_run_with_one_line_and_no_files(tmp_path: Path) -> None:
    """On a terminal a bar says what is trained; once it does, the run is under way and can be interrupted."""
    line = command("--max-updates", "10000000", "--cells", "rnn-tanh", "--lengths", "40")
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"}
    code, seen = interrupted_on_a_terminal(line, [b"benchmark", b"0/1"], cwd=tmp_path, env=environment)
    assert code == 130
    assert b"rnn-numpy benchmark: interrupted" in seen and b"Traceback" not in seen
    assert list(tmp_path.iterdir()) == []
