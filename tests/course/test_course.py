"""Each notebook is there in two languages: the same code, other words; and its exercises have solutions."""

import doctest
import re

import numpy as np
import pytest
from lessons import COURSE, LANGUAGES, converter, script, solutions

from rnn_numpy.checks import grade

NAMES = sorted(path.stem for path in (COURSE / "es").glob("*.py"))
EACH = pytest.mark.parametrize("name", NAMES)


def test_there_are_the_same_notebooks_in_both_languages():
    assert NAMES == sorted(path.stem for path in (COURSE / "en").glob("*.py"))
    assert "RNN_teoria" in NAMES
    readme = (COURSE / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if name not in readme] == []


@EACH
def test_code_is_the_same_and_words_are_not(name):
    spanish, english = (converter().blocks(script(name, language)) for language in LANGUAGES)
    assert [kind for kind, _ in spanish] == [kind for kind, _ in english]
    for (kind, one), (_, other) in zip(spanish, english, strict=True):
        if kind == "code":
            assert one == other
        else:
            assert one != other
    assert solutions(name, "es") == solutions(name, "en")


@EACH
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_script_is_what_sphinx_gallery_reads(name, language):
    lines = script(name, language).splitlines()
    assert lines[0] == '"""'
    title, underline = lines[1:3]
    assert underline == "=" * len(title)
    for kind, text in converter().blocks(script(name, language)):
        if kind == "text":
            for line, under in zip(text.splitlines(), text.splitlines()[1:], strict=False):
                assert not re.fullmatch("-{3,}", under) or len(under) == len(line), line


@EACH
def test_the_exercises_have_hidden_solutions_that_are_right(name):
    code = "\n".join(source for kind, source in converter().blocks(script(name, "es")) if kind == "code")
    asked = re.findall(r"grade\((my_\w+)", code)
    found = solutions(name, "es")
    assert [function for function, _ in found] == asked
    assert asked
    for function, source in found:
        space = {"np": np}
        exec(source, space)
        assert grade(space[function]).ok, source


@EACH
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_notebook_has_what_jupyter_reads(name, language):
    notebook = converter().notebook(script(name, language))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert notebook["cells"][0]["source"].startswith("# ")
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            assert not re.search(r"^\.\. |::$|(?<!`)``(?!`)|^[=-]{3,}$", cell["source"], re.MULTILINE), cell["source"]
            assert cell["source"].count("<details>") == cell["source"].count("</details>")
            assert cell["source"].count("```") % 2 == 0


def test_the_converters_doctests():
    assert doctest.testmod(converter()) == (0, 2)
