"""The first notebook runs in both languages, says the same in both, and what its text promises."""

import re

import pytest
from lessons import cells, codes, run

NAME = "RNN_teoria"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    return run(cells(NAME, "en", folder), folder), folder


@pytest.fixture
def printed(notebook):
    return notebook[0]


def test_it_draws_one_figure(notebook):
    assert [path.name for path in notebook[1].glob("*.png")] == ["RNN_teoria_gradients.png"]


@pytest.mark.on_the_site
def test_the_script_in_spanish_prints_what_the_notebook_in_english_prints(printed, tmp_path):
    assert run(codes(NAME, "es"), tmp_path) == printed


def test_the_lectures_numbers_are_there(printed):
    rows = re.findall(r"^ \d +\S+ +(\S+) +\S+$", printed[0], re.MULTILINE)
    assert [float(row) for row in rows] == [0.03998, 0.09173, 0.14646]


def test_the_terms_of_the_double_sum_add_up(printed):
    table = printed[2].split("G(t, k)")[1]
    *rows, total = [[float(number) for number in re.findall(r"-?\d\.\d{6}", line)] for line in table.splitlines()[1:5]]
    assert [len(row) for row in rows] == [2, 3, 4]
    for *terms, of_the_row in rows:
        assert sum(terms) == pytest.approx(of_the_row, abs=2e-6)
    assert sum(row[-1] for row in rows) == pytest.approx(total[0], abs=2e-6)
    lines = {line[:14].strip(): line[14:].split() for line in printed[3].splitlines()}
    assert lines["sum G(t, k)"] == lines["backward"] == lines["complex_step"]
    assert float(lines["backward"][1]) == pytest.approx(total[0], abs=1e-6)
    assert lines["j = k ... t"] != [lines["backward"][1]]


def test_a_gradient_vanishes_and_explodes(printed):
    (text,) = [text for text in printed if text.startswith("|dL/dh|")]
    last = {line.split()[0]: float(line.split()[-1]) for line in text.splitlines()[1:]}
    assert last["0.5"] < 1e-15
    assert 0.1 < last["1.0"] < 10
    assert last["1.5"] > 1e8


def test_the_exercises_are_not_solved(printed):
    verdicts = [text for text in printed if "todavía no" in text]
    assert len(verdicts) == 5
    assert not any("right." in text for text in printed)
