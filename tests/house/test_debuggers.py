"""docs/debuggers.md holds: sessions of pdb and ipdb are replayed, the file for VS Code is JSON, its lines are there."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from pathlib import Path

import pytest
from processes import ended

from rnn_numpy import LSTM

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "debuggers.md").read_text(encoding="utf-8")
CONTEXT = re.compile(r"^(?:(?:\d*-+> ?)? *\d+ .*|> .*|)$")  # of ipdb: lines of source around the stop


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def session(text: str, prompt: str) -> list[tuple[str, str]]:
    """Return the commands of a transcript, and what is answered."""
    pieces = re.split(rf"^{re.escape(prompt)}", text, flags=re.MULTILINE)[1:]
    return [(command, answer.rstrip()) for command, _, answer in (piece.partition("\n") for piece in pieces)]


def replayed(module: str, prompt: str, folder: Path) -> list[tuple[str, str]]:
    """Return the commands of the page's session, and what the debugger answers now."""
    script = folder / "mine.py"
    script.write_text(block("python"), encoding="utf-8")
    commands = [command for command, _ in session(block(module), prompt)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython"), "HOME": str(folder)}
    done = ended(
        [sys.executable, "-m", module, str(script)],
        input="\n".join([*commands, "quit\n"]),
        env=environment | {"NO_COLOR": "1", "PYTHON_COLORS": "0"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    out = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    for place in (f"{ROOT}/", f"{folder}/", f"{folder.resolve()}/"):
        out = out.replace(place, "")
    out = re.sub(r"lstm\.py:\d+", "lstm.py:135", out)  # 3.13 says the line below the docstring
    # Commands that come by a pipe are not echoed.
    answers = out.split(prompt)[1:]
    assert len(answers) >= len(commands) and "Traceback" not in done.stderr, out + done.stderr
    return [(command, answer.rstrip()) for command, answer in zip(commands, answers, strict=False)]


def test_pdb(tmp_path: Path) -> None:
    assert replayed("pdb", "(Pdb) ", tmp_path) == session(block("pdb"), "(Pdb) ")


def test_ipdb(tmp_path: Path) -> None:
    found = [
        (command, "\n".join(line for line in answer.splitlines() if not CONTEXT.match(line) and "Deleted" not in line))
        for command, answer in replayed("ipdb", "ipdb> ", tmp_path)
    ]
    assert found == session(block("ipdb"), "ipdb> ")


def test_a_session_that_is_not_so_would_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PAGE", PAGE.replace("p at.t, at.dh.shape", "p at.t + 1, at.dh.shape"))
    assert replayed("pdb", "(Pdb) ", tmp_path) != session(block("pdb"), "(Pdb) ")


def test_what_it_says_of_files() -> None:
    assert json.loads(block("json"))["configurations"][0]["justMyCode"] is False
    source = (ROOT / "rnn_numpy" / "layers" / "lstm.py").read_text(encoding="utf-8").splitlines()
    for number in re.findall(r"lstm\.py[:(](\d+)", PAGE):
        assert source[int(number) - 1].strip().startswith(("np.multiply(dh_t", "def lstm_step_backward")), number
    rows = re.findall(r"^\| `rnn_numpy\.layers\.(\w+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for module, names in rows:
        text = (ROOT / "rnn_numpy" / "layers" / f"{module}.py").read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in text


def test_the_stack_that_pudb_shows_is_in_these_lines() -> None:
    said = re.findall(r"(\w+) \[LSTM\] recurrent\.py:(\d+)", PAGE)
    assert [name for name, _ in said] == ["backward_loop", "bptt", "backward"]
    for name, line in said:
        lines, first = inspect.getsourcelines(getattr(LSTM, name))
        assert first <= int(line) < first + len(lines), name
