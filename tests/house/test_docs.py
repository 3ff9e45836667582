"""The pages in docs hold: their code runs and prints what it shows, their commands are accepted, their links lead
somewhere, and what they take from the package is there.

The session of a debugger has tests of its own; the site that the pages make is tested by tests_site.
"""

import ast
import configparser
import doctest
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import shown
from frameworks import torch

from rnn_numpy import LSTM, cli
from rnn_numpy.layers import KINDS, textbook
from rnn_numpy.report.tables import span
from tests.cli.test_step import assert_alike
from tests.house import test_readme

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUILT = {"_build", "_scripts", "examples", "course"}  # by Sphinx
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in BUILT)


def name(path):
    return path.relative_to(DOCS).as_posix() if isinstance(path, Path) else " ".join(path)


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def sessions(path):
    """Return what stands in a page's blocks of Python, as one session."""
    return "\n".join(text for text in blocks(path, "python") if text.startswith(">>> "))


@pytest.mark.parametrize("path", [path for path in PAGES if sessions(path)], ids=name)
def test_code_runs_and_prints_what_it_shows(path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    session = doctest.DocTestParser().get_doctest(sessions(path), {}, path.name, str(path), 0)
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(session, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    made = {"examples/index.rst", "course/en/index.rst", "course/es/index.rst"}  # by the gallery
    local = [link for link in links if "://" not in link and link not in made and "/images/" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def commands():
    """Return the commands that pages show, those of README.md aside, which are run there."""
    known = test_readme.shown_commands()
    found = {tuple(one): one for path in PAGES for one in shown.commands(blocks(path, "bash"))}
    made = [one for one in found.values() if one not in known and one != ["--version"]]
    # Of docs/open-a-trained-network.md, which has tests; and all of the zoo, which tests/cli runs in part.
    return [one for one in made if "model.onnx" not in one and "--zoo" not in one]


@pytest.mark.parametrize("arguments", commands(), ids=name)
def test_shown_options_are_accepted(arguments, tmp_path, monkeypatch, capsys):
    assert shown.run(arguments, tmp_path, monkeypatch) == 0, capsys.readouterr().err


def test_the_session_of_the_prompt(capsys, monkeypatch):
    monkeypatch.chdir(DOCS)
    (session,) = blocks(DOCS / "step-through-a-gradient.md", "console")
    typed = [line.removeprefix("(step) ") for line in session.splitlines() if line.startswith("(step) ")]
    first, _, printed = session.partition("\n")
    assert cli.main([*first.split()[2:], *(part for line in typed for part in ("-c", line))]) == 0
    assert_alike(capsys.readouterr().out, printed)


@pytest.mark.needs_torch
def test_the_program_in_torch_runs(monkeypatch):
    (program,) = [text for text in blocks(DOCS / "coming-from-torch.md", "python") if "import torch" in text]
    space = {"x": torch.randn(20, 4, 3), "target": torch.randn(20, 4, 8)}
    exec(program.replace("import torch\n", ""), space | {"torch": __import__("torch")})


# ------------------------------------------------------------------------------------------------ what is generated


@pytest.fixture
def generated(monkeypatch):
    """The module that fills in pages; it needs no Sphinx but Pygments, which comes with the tests' rich."""
    monkeypatch.syspath_prepend(DOCS / "_ext")
    import generated

    yield generated
    del sys.modules["generated"]


def test_each_place_is_filled_in(generated):
    found = {match.groups() for path in PAGES for match in generated.PLACE.finditer(path.read_text(encoding="utf-8"))}
    assert len(found) > 20
    for function, arguments in found:
        text = getattr(generated, function)(*arguments.split())
        assert len(text) > 200, f"{function}{arguments}"


def test_the_command_line_s_help_is_what_help_prints(generated, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", generated.COLUMNS)
    page = "\n".join([generated.command_help(), generated.commands()])
    for one in ([], *([command] for command in cli.main.__globals__["COMMANDS"])):
        assert cli.main([*one, "--help"]) == 0
        assert f"```text\n{capsys.readouterr().out.rstrip()}\n```" in page


def test_every_kind_of_layer_and_verdict_is_there():
    lecture = (DOCS / "the-lecture-in-code.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"<!-- generated: equations {kind} -->" not in lecture] == []
    measured = importlib.import_module("rnn_numpy.lab.gradient_flow")
    defined = measured.__doc__[measured.__doc__.index("The verdict\n") :]
    assert [verdict for verdict in measured.VERDICTS if f"*{verdict}*" not in defined] == []


def test_the_extra_has_what_the_settings_name():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extra = config["options.extras_require"]["docs"]
    settings = (DOCS / "conf.py").read_text(encoding="utf-8")
    for library, named in {"myst-parser": "myst_parser", "furo": '"furo"', "numpydoc": '"numpydoc"'}.items():
        assert library in extra and named in settings


# ------------------------------------------------------------------------------------------------ figures and claims


def page(stem):
    return (DOCS / f"{stem}.md").read_text(encoding="utf-8")


def test_tables_of_the_main_job(tmp_path, capsys):
    printed_there = blocks(DOCS / "does-it-vanish.md", "text")
    assert [text.split()[0] for text in printed_there] == ["Before", "Reach:"]
    assert cli.main(["gradflow", "--train-steps", "0", "--out", str(tmp_path / "gradflow.png")]) == 0
    printed = capsys.readouterr().out
    assert [text for text in printed_there if text not in printed] == []


def test_what_is_said_of_gates(tmp_path):
    said = re.search(
        r"`--forget-bias (\d)` opens it to about ([\d.]+), and at gain 1 the LSTM's reach before training goes from "
        r"([\d–]+) to ([\d–]+) steps",
        " ".join(page("does-it-vanish").split()),
    )
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
    assert [{f"{flow['mean_gates']['f']:.1f}" for flow in draws} for draws in found] == [{"0.5"}, {gate}]


def test_what_is_said_of_the_gain_of_torch_s_draw():
    said = re.search(r"torch's\s+own draw is a gain of about ([\d.]+)\.", page("does-it-vanish"))
    gates = LSTM(1, 64, rng=0).params["weight_hh_l0"].reshape(4, 64, 64)
    assert f"{abs(np.linalg.eigvals(gates)).max(axis=1).mean():.1f}" == said.group(1)


def test_equations_stand_where_the_table_says():
    rows = [line for line in page("the-lecture-in-code").splitlines() if line.startswith("|") and "`rnn_numpy/" in line]
    assert len(rows) >= 8
    for row in rows:
        file, *names = re.findall(r"`([^`]+)`", row.split("|")[-2])
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(names) <= defined, f"{file} does not define {set(names) - defined}"


@pytest.mark.parametrize("name", ["rnn_forward", "rnn_backward"])
def test_the_lecture_quotes_the_textbook(name):
    examples = doctest.DocTestParser().get_examples(sessions(DOCS / "the-lecture-in-code.md"))
    (quoted,) = [example.source for example in examples if example.source.startswith(f"def {name}(")]
    signature, docstring, *body = inspect.getsource(getattr(textbook, name)).splitlines()
    assert docstring.strip().startswith('"""Return ')
    assert quoted.splitlines() == [signature, *body]


def test_named_files_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    mentioned = set(re.findall(r"`((?:rnn_numpy|examples|benchmarks|tests|\.ci|docs)/[\w./-]*)`", text))
    assert len(mentioned) >= 8
    assert [name for name in sorted(mentioned) if not (ROOT / name).exists()] == []


def test_what_is_said_of_other_checkers_is_what_was_measured():
    totals = json.loads((ROOT / "benchmarks" / "results" / "gradcheck_zoo.json").read_text(encoding="utf-8"))["totals"]
    said = page("check-a-gradient")
    numbers = [int(number) for number in re.findall(r"\b(\d\d)\b", said[said.index("Of the zoo's ") :][:400])]
    caught = [totals[checker].get("caught", 0) for checker in ("ours", "torch", "jax", "autograd", "plain")]
    assert numbers[:2] == [sum(totals["ours"].values()), caught[0]]
    assert numbers[2:6] == caught[1:]
    assert totals["fast"] == totals["torch"]
