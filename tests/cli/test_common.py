"""Files that a command writes: looked at first, complete or not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rnn_numpy.cli import common
from rnn_numpy.cli.common import BadInputError, atomic, check_outputs, write_json


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(outputs: dict[str, str], *inputs: str) -> str:
    with pytest.raises(BadInputError) as caught:
        check_outputs({option: Path(path) for option, path in outputs.items()}, map(Path, inputs))
    return str(caught.value)


def test_outputs_that_can_be_written(here: Path) -> None:
    (here / "old.json").write_text("old")
    (here / "link.svg").symlink_to("new.svg")
    check_outputs({"--json": Path("old.json"), "--html": Path("link.svg")}, [Path("data.csv"), Path("other.csv")])
    assert {path.name for path in here.iterdir()} == {"old.json", "link.svg"}
    assert (here / "old.json").read_text() == "old"


def test_the_options_that_name_one_file_are_told(here: Path) -> None:
    (here / "link").symlink_to("b")
    assert refusal({"--json": "a", "--html": "b", "--out": "link"}) == "link: --html and --out are the same file"


def test_each_input_is_guarded() -> None:
    expected = "two.csv: this is the file to read; the results would overwrite it"
    assert refusal({"--json": "n.json", "--out": "two.csv"}, "one.csv", "./two.csv") == expected


@pytest.mark.parametrize("error", [ValueError("in between"), KeyboardInterrupt()])
def test_what_goes_wrong_in_between_leaves_the_old_file(here: Path, error: BaseException) -> None:
    (here / "result").write_text("old")
    with pytest.raises(type(error)), atomic(Path("result")) as file:
        file.write(b"half")
        raise error
    assert [path.name for path in here.iterdir()] == ["result"]
    assert (here / "result").read_text() == "old"


def test_json_is_whole_and_strict(here: Path) -> None:
    write_json(Path("n.json"), {"loss": 0.1, "gains": [1.5, None]})
    text = (here / "n.json").read_text()
    assert json.loads(text) == {"loss": 0.1, "gains": [1.5, None]} and text.endswith("}\n")
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(Path("n.json"), {"loss": number})
    assert (here / "n.json").read_text() == text
    assert [path.name for path in here.iterdir()] == ["n.json"]


def test_what_is_read_from_a_pipe_is_not_left_to_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -` and its like: another process cannot import what this one has begun with."""
    begun_with = sys.modules["__main__"]
    monkeypatch.setattr(begun_with, "__file__", "<stdin>", raising=False)
    assert not common._has_file()
    monkeypatch.setattr(begun_with, "__file__", __file__)
    assert common._has_file()
