"""The pages in docs hold: their code runs and prints what it shows, their commands are accepted, their links lead
somewhere, and what they take from the package is there.

The session of a debugger has tests of its own; the site that the pages make is tested by tests_site.
"""

import configparser
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import shown
from frameworks import torch

from rnn_numpy import cli
from rnn_numpy.layers import KINDS, textbook
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


# ------------------------------------------------------------------------------------------------ quotations and names


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
