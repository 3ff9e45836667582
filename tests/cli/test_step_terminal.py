"""The prompt at a terminal, of pexpect and of tmux where there is one: Ctrl-C, Ctrl-D, colours, width, closed pipes."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pexpect
import pytest
from processes import LIMIT, ended, interruptible

from rnn_numpy.cli.prompt import Prompt
from rnn_numpy.cli.session import Case
from rnn_numpy.debug import Condition
from tests.cli.step import mine

# Another test of this process may have started JAX's threads, and JAX, and Python from 3.12 on, warn of every fork; the
# child here does nothing with them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:os.fork:RuntimeWarning",
    "ignore:.*fork:DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

ROOT = Path(__file__).parents[2]
MINE = str(Path(__file__).parent / "step" / "mine.py")
PLAIN = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
ENVIRONMENT = {**PLAIN, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "TERM": "xterm", "LANG": "C.UTF-8"}
ENVIRONMENT["INPUTRC"] = os.devnull


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "rnn_numpy", "step", f"{MINE}:vanishing", *options]


def at_a_terminal(columns: int = 100, **environment: str) -> pexpect.spawn:
    """Start the prompt at a terminal of its own."""
    first, *rest = command()
    with interruptible():
        return pexpect.spawn(
            first, rest, env={**ENVIRONMENT, **environment}, encoding="utf-8", dimensions=(40, columns), timeout=LIMIT
        )


def bare(text: str) -> str:
    """Return what is seen: without what sets colours and modes."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", text)


def answer(terminal: pexpect.spawn, line: str) -> str:
    """Type a line; return what comes before the next prompt, without what was typed."""
    terminal.sendline(line)
    terminal.expect_exact("(step) ")
    return bare(terminal.before).partition("\n")[2].rstrip("\n")


def test_a_session_at_a_terminal() -> None:
    terminal = at_a_terminal(columns=60)
    terminal.expect_exact("(step) ")
    assert bare(terminal.before).splitlines()[-1] == "h for help"
    assert "\x1b[1m#1 l0 t = 19 of 20\x1b[0m" in terminal.before
    assert "t = 18" in answer(terminal, "n")
    assert "t = 17" in answer(terminal, "")  # as in pdb, the same once more
    assert answer(terminal, "p t") == "17"
    assert answer(terminal, "") == ""  # but only what moves
    assert answer(terminal, "foo").startswith("*** there is no command 'foo'")
    halt = answer(terminal, "c")
    assert "the pass is through" in halt
    assert max(map(len, halt.splitlines())) <= 60
    assert "t = 3" in answer(terminal, "got\t 3")  # completed to goto
    terminal.sendcontrol("c")
    terminal.expect_exact("--KeyboardInterrupt--")
    terminal.expect_exact("(step) ")
    assert answer(terminal, "p t") == "3"
    terminal.sendline("b t < 0")
    terminal.sendline("goto 19")
    terminal.sendline("c")
    terminal.sendcontrol("c")  # within the command or after it: the prompt comes back
    answer(terminal, "restart")
    terminal.sendline("p 40 + 2")
    terminal.expect_exact("42")
    terminal.sendline("assert norm(dh) > 99")
    terminal.expect_exact("\x1b[31massert failed")
    terminal.sendcontrol("d")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 1


def test_no_colour_where_none_is_wanted() -> None:
    terminal = at_a_terminal(NO_COLOR="1")
    terminal.expect_exact("(step) ")
    assert "\x1b[1m" not in terminal.before
    terminal.sendline("q")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def in_tmux(lines: list[str]) -> str:
    """Type lines in a pane of tmux; return what stands on the screen once the last one is answered."""
    name = f"rnn-numpy-{os.getpid()}"
    tmux = ["tmux", "-L", name, "-f", os.devnull]
    inner = " ".join([f"PYTHONPATH={ROOT}", "OPENBLAS_NUM_THREADS=1", "NO_COLOR=1", *command()])
    ended([*tmux, "new-session", "-d", "-x", "100", "-y", "40", inner], check=True, env=ENVIRONMENT)
    try:
        until = time.monotonic() + LIMIT
        for count, line in enumerate(["", *lines], 1):
            if line:
                ended([*tmux, "send-keys", line, "Enter"], check=True, env=ENVIRONMENT)
            while True:
                screen = ended([*tmux, "capture-pane", "-p"], check=True, env=ENVIRONMENT, capture_output=True)
                seen = screen.stdout.decode().rstrip()
                if seen.count("(step)") == count and seen.endswith("(step)"):
                    break
                assert time.monotonic() < until, seen
                time.sleep(0.05)
        return seen
    finally:
        ended([*tmux, "kill-server"], env=ENVIRONMENT)


def in_pexpect(lines: list[str]) -> str:
    """The same without tmux."""
    terminal = at_a_terminal(NO_COLOR="1")
    terminal.expect_exact("(step) ")
    seen = bare(terminal.before) + "(step) "
    for line in lines:
        terminal.sendline(line)
        terminal.expect_exact("(step) ")
        seen += bare(terminal.before) + "(step) "
    terminal.sendline("q")
    terminal.expect(pexpect.EOF)
    return seen.rstrip()


@pytest.mark.parametrize("typed", [in_tmux, in_pexpect] if shutil.which("tmux") else [in_pexpect])
def test_what_stands_on_the_screen(typed) -> None:
    seen = typed(["b norm(dh) < 1e-2", "c", "plot dh", "e da 2"])
    assert "stopped by 1: norm(dh) < 1e-2" in seen
    _, line = re.search(r"norm\(dh\), t = (\d+) to 19: .*\n(.*)\n", seen).groups()
    assert line.startswith("▁") and line.endswith("█")
    assert re.search(r"\(step\) e da 2\n *l0  t = \d+  n = 0  unit 2   B2\nda = dh \* \(1 - h \*\* 2\)\n", seen)


# ------------------------------------------------------------------------------------------------ Ctrl-C in a run


class _Pressed(Condition):
    """Holds nowhere, and presses Ctrl-C at its second look."""

    def __init__(self) -> None:
        super().__init__("pressed")
        self.looks = 0

    def holds(self, rows):
        self.looks += 1
        if self.looks == 2:
            signal.raise_signal(signal.SIGINT)
        return np.zeros(len(rows.indices), bool)

    def evidence(self, rows, k):
        return ""


@pytest.mark.parametrize("line", ["c", "until norm(dh) < 0"])
def test_an_interrupted_run_stands_where_it_is_and_goes_on(line: str) -> None:
    layer, trace, doutput = mine.last(mine.RNN(2, 4, rng=0), mine.inputs(5000, 1, 2))
    stdout = io.StringIO()
    prompt = Prompt(Case(layer, trace, doutput), io.StringIO(), stdout)
    with interruptible():
        prompt.onecmd("b norm(dh) < 0")
        prompt.session.breakpoints[1].condition = _Pressed()
        assert prompt.onecmd(line) is False
        (place,) = re.findall(r"interrupted at l0 t = (\d+)", stdout.getvalue())
        assert 1 < int(place) < 4999
        prompt.onecmd("n")
        assert prompt.session.step.t == int(place) - 1
        prompt.onecmd("finish")
    same = layer.backward(trace, doutput)
    assert prompt.session.stepper.result.grads.flat.tobytes() == same.grads.flat.tobytes()


# ------------------------------------------------------------------------------------------------ no terminal


def test_a_closed_pipe_and_a_full_device() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ended(command("-c", "n"), env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        done = ended(command("-c", "n"), env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, b"rnn-numpy step: standard output: No space left on device\n")


def test_an_encoding_without_bars() -> None:
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    lines = b"finish\nplot dh\n"
    done = ended(command(), env=environment, input=lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.search(rb"\n[_.=+*%#-]{20}\n", done.stdout)
    assert b"\x1b" not in done.stdout
