"""How programs of contenders end: exit codes, verdicts, the file."""

import json

import pytest

from benchmarks import program, versions
from benchmarks.measure import UnequalResultsError
from benchmarks.worker import WorkerError


class One:
    def to_json(self):
        return {"found": 1}


def ended(run=lambda: ([One()], {"ours": {}}), path=None):
    verdicts = [{"met": False, "target": "a target", "value": 0.5}]
    return program.reported(run, lambda found: verdicts, lambda found: "table", {"found": "words"}, {"asked": 2}, path)


def test_the_table_the_verdicts_and_the_file(tmp_path, capsys):
    assert ended(path=tmp_path / "found.json") == 0
    assert capsys.readouterr().out == "table\nmissed a target: 0.50\n"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["measurements"] == [{"found": 1}] and found["options"] == {"asked": 2}
    assert found["fields"] == {"found": "words"} and found["targets"][0]["value"] == 0.5


@pytest.mark.parametrize("error", [UnequalResultsError, WorkerError, versions.SourceError])
def test_what_goes_wrong_is_said_in_a_line(error, capsys):
    def run():
        raise error("other numbers")

    assert ended(run) == 1
    assert capsys.readouterr() == ("", "error: other numbers\n")


def test_a_source_that_changes_meanwhile_is_an_error(monkeypatch, tmp_path, capsys):
    states = iter(["before", "after"])
    monkeypatch.setattr(program, "source_digest", lambda: next(states))
    assert ended(path=tmp_path / "found.json") == 1
    assert "changed during the run" in capsys.readouterr().err and not (tmp_path / "found.json").exists()
