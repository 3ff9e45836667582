"""A bar on a terminal, for work that lasts; nothing anywhere else."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from processes import ended

from rnn_numpy.experiments.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None, after: float) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar(after) as tell:
        if after == 0 and isinstance(stderr, Terminal):
            while "\n" not in stderr.getvalue() and "━" not in stderr.getvalue():
                tell(1, 3, "the work")
        tell(2, 3, "the work")
    return "" if stderr is None else stderr.getvalue()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 0)
    assert "the work" in text and "2/3" in text


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the work" not in shown(monkeypatch, Terminal(), 3600)


@pytest.mark.parametrize("stderr", [io.StringIO(), None], ids=["file", "closed"])
def test_elsewhere_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None) -> None:
    assert shown(monkeypatch, stderr, 0) == ""


def test_without_rich_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(0) as tell:
        tell(1, 3, "the work")
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_nothing_that_would_drop_an_interrupt_is_loaded_once_there_is_a_bar() -> None:
    code = """
import sys
from rnn_numpy.experiments.progress import progress_bar
with progress_bar():
    before = set(sys.modules)
    import numpy.random
    print(sorted(set(sys.modules) - before))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = ended([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
