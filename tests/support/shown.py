"""The commands that documents show, `rnn-numpy ...`, run with options that make them short."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest

from rnn_numpy import cli
from rnn_numpy.tasks.g2p import CMUDict

# What makes a shown command short. The user's own file is taken at its word.
SHORT = {
    "gradflow": ["--hidden", "4", "--batch", "4"],
    "gradcheck": ["--hidden", "3"],
    "benchmark": ["--hidden", "4", "--batch", "2", "--max-updates", "1"],
}
# Of `train`, after what is trained; and what runs first where a folder is to be there, whose name begins with that.
TRAINED = {
    "lm": ["--hidden", "4", "--updates", "1", "--length", "8", "--characters", "4"],
    "forecast": ["--hidden", "4", "--updates", "1"],
    "digits": ["--hidden", "4", "--updates", "1"],
    "captions": ["--hidden", "4", "--memory", "3", "--updates", "1", "--batch", "2"],
    "g2p": ["--hidden", "4", "--updates", "1", "--batch", "2", "--test", "2"],
    "roman": ["--hidden", "4", "--updates", "1", "--batch", "2", "--test", "2"],
}
MINE = """
import numpy as np


def case():
    return lambda p: np.sum(p["w"] ** 2), lambda p: {"w": 2 * p["w"]}, {"w": np.arange(3.0)}
"""


def commands(blocks: Iterable[str]) -> list[list[str]]:
    """Return the arguments of the commands in blocks of a shell's lines."""
    lines = [line for text in blocks for line in text.splitlines() if line.startswith("rnn-numpy ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def run(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in a folder where there is what it is shown with; return its exit code."""
    monkeypatch.chdir(folder)
    rows = [f"{(i * 7) % 11},{(i * 5) % 13}" for i in range(340)]
    Path("mine.csv").write_text("a,b\n" + "\n".join(rows) + "\n", encoding="utf-8")
    Path("mine.py").write_text(MINE, encoding="utf-8")
    some = dict(list(CMUDict().answers.items())[::500]) if "g2p" in arguments else {}  # all of them take a while
    monkeypatch.setattr(CMUDict, "answers", property(lambda self: some))
    if arguments[0] in ("train", "predict"):
        return _trained(arguments)
    if "--model" in arguments:
        assert _trained(["predict", arguments[2], "3"]) == 0
        return cli.main(arguments)
    quick = list(SHORT[arguments[0]])
    if arguments[0] == "gradflow" and "--train-steps" not in arguments:
        quick += ["--train-steps", "1"]
    # Options first: what follows a list of cells would be one of them.
    return cli.main([arguments[0], *quick, *arguments[1:]])


def _trained(arguments: list[str]) -> int:
    command, *rest = arguments
    if command == "train" and rest[0] in TRAINED:
        return cli.main([command, rest[0], *TRAINED[rest[0]], *rest[1:]])
    folder = rest[1] if rest[0] == "--resume" else rest[0]
    what = folder.partition("-")[0]
    assert cli.main(["train", what, *TRAINED[what], "--out", folder]) == 0
    return cli.main(arguments)
