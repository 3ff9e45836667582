"""The command as a whole: its door, its exit codes, and what it does when a terminal, a pipe or a user ends it."""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import ended, interrupted_on_a_terminal

import rnn_numpy.__main__
from rnn_numpy import cli
from rnn_numpy.cli import common, main
from rnn_numpy.cli.common import FAILED, BadInputError, Outcome
from rnn_numpy.errors import DataError
from rnn_numpy.experiments import progress

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


def test_the_door_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main is main
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rnn-numpy {rnn_numpy.__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^    gradflow +measure how the gradient flows back through time$", out, re.MULTILINE)
    assert err == ""


@pytest.mark.parametrize("arguments", [[], ["grad"]])
def test_without_a_command(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("rnn-numpy: ")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch):
    """Make `probe` the only sub-command; the test says what its run does."""

    def install(run):
        def add_parser(commands) -> None:
            commands.add_parser("probe").set_defaults(run=run)

        # The door's name `main` is the function: the module is found where Python keeps it.
        monkeypatch.setattr(sys.modules["rnn_numpy.cli.main"], "COMMANDS", {"probe": "try it"})
        monkeypatch.setitem(sys.modules, "rnn_numpy.cli.probe", SimpleNamespace(add_parser=add_parser))

    return install


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome("±\n"), 0), (Outcome("±\n", FAILED), 1), (Outcome("±\n", 7), 7)]
)
def test_a_command_chooses_its_exit_code(
    probe, capsys: pytest.CaptureFixture[str], outcome: Outcome, code: int
) -> None:
    seen: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace) -> Outcome:
        seen.append(arguments)
        return outcome

    probe(run)
    assert main(["probe"]) == code
    assert capsys.readouterr() == ("±\n", "")
    assert [arguments.command for arguments in seen] == ["probe"]


@pytest.mark.parametrize("numbers", ["", "{}\n"])
@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_quiet_and_numbers(
    probe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], numbers: str
) -> None:
    def run(arguments: argparse.Namespace) -> Outcome:
        return Outcome(f"a report, quiet: {progress.is_quiet()}\n", int(progress.is_quiet()), numbers)

    def add_parser(commands) -> None:
        common.add_quiet(commands.add_parser("probe"))
        commands.choices["probe"].set_defaults(run=run)

    probe(run)
    monkeypatch.setattr(sys.modules["rnn_numpy.cli.probe"], "add_parser", add_parser)
    assert main(["probe", *options]) == len(options) and not progress.is_quiet()
    printed = numbers or ("" if options else "a report, quiet: False\n")
    assert capsys.readouterr() == (printed, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadInputError("no\n  good"), 2, "no good"),
        (DataError("row 3: bad"), 2, "row 3: bad"),
        (MemoryError(), 2, "not enough memory; try a smaller --hidden, --length or --batch"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_command_raises_is_one_line(
    probe, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def run(arguments: argparse.Namespace) -> Outcome:
        raise error

    probe(run)
    assert main(["probe"]) == code
    assert capsys.readouterr() == ("", f"rnn-numpy probe: {line}\n")


def test_a_bug_of_ours_is_no_bad_input(probe) -> None:
    def run(arguments: argparse.Namespace) -> Outcome:
        raise ValueError("ours")

    probe(run)
    with pytest.raises(ValueError, match="^ours$"):
        main(["probe"])


# As a process -------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    small = "--length 20 --hidden 6 --batch 4 --train-steps 3"
    return [sys.executable, "-W", "error", "-m", "rnn_numpy", "gradflow", *small.split(), *arguments]


def test_as_a_module_with_an_ascii_terminal(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = ended(command(), cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert b"1 of 48: rnn-tanh, gain 0.5, seed 0" in done.stderr and done.stderr.isascii()
    assert b"vanishing" in done.stdout and done.stdout.isascii()


def test_closed_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ended(command(), cwd=tmp_path, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert all(b" of 48: " in line for line in done.stderr.splitlines())  # a line for each network, and no other
    assert (tmp_path / "gradflow.png").exists()  # the results are written before they are told


def test_full_device(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = ended(command(), cwd=tmp_path, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.splitlines()[48:] == [b"rnn-numpy gradflow: standard output: No space left on device"]


def test_closed_output(tmp_path: Path) -> None:
    done = ended(["sh", "-c", 'exec "$@" >&-', "sh", *command()], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"rnn-numpy gradflow: standard output is closed; there is nowhere to print the report\n"
    assert list(tmp_path.iterdir()) == []
    done = ended(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command("--gain", "0")], cwd=tmp_path, env=ENVIRONMENT, stdout=-1
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_interrupt_while_the_command_is_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "rnn_numpy.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "rnn_numpy.cli")
    monkeypatch.delattr(rnn_numpy, "cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupt(), *sys.meta_path])
    assert rnn_numpy.__main__.main() == 130
    assert capsys.readouterr() == ("", "rnn-numpy: interrupted\n")


def test_interrupt_and_progress_on_a_terminal(tmp_path: Path) -> None:
    """stderr is a terminal: a bar is drawn; Ctrl-C then ends the run with one line and no files."""
    line = command("--train-steps", "1000000")
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"}
    code, seen = interrupted_on_a_terminal(line, [b"0/48"], cwd=tmp_path, env=environment)
    assert code == 130
    assert b"rnn-numpy gradflow: interrupted" in seen
    assert b"Traceback" not in seen
    assert list(tmp_path.iterdir()) == []


def test_progress_bar_comes_and_goes_on_a_terminal(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm"}
    done = ended(command(), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    seen = os.read(controller, 1 << 20)
    os.close(controller)
    assert done.returncode == 0
    assert b"48/48" in seen and b"100%" in seen
    assert b"48/48" not in done.stdout
