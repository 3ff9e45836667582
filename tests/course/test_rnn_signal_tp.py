"""The second notebook runs, and its numbers are what its text says of them; its code is the same in both languages."""

import re

import pytest
from lessons import cells, codes, run

NAME = "RNN_signal_TP"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    return run(cells(NAME, "es", folder), folder), folder


def rows(text):
    """Return the numbers of a table's rows, by name."""
    return {
        line[:12].strip(): [float(number) for number in line[12:].split()]
        for line in text.splitlines()
        if re.search(r"\d$", line) and "=" not in line
    }


@pytest.mark.on_the_site
def test_it_prints_the_same_in_the_other_language(notebook, tmp_path):
    assert run(codes(NAME, "en"), tmp_path) == notebook[0]


def test_it_draws_two_figures(notebook):
    _, folder = notebook
    assert sorted(path.name for path in folder.glob("*.png")) == [f"{NAME}_forecasts.png", f"{NAME}_series.png"]


def test_what_the_text_says_of_the_errors(notebook):
    printed, _ = notebook
    baselines, nets = rows(printed[1]), rows(printed[2])
    (autoregression,) = [values for name, values in baselines.items() if name.startswith("AR")]
    assert min(baselines.values(), key=lambda values: values[0]) is autoregression
    assert len(nets) == 3
    for h_1, h_12, *_ in nets.values():  # one month ahead by little, twelve months ahead not
        assert 0.9 * autoregression[0] < h_1 < autoregression[0]
        assert h_12 > autoregression[1]


def test_the_exact_gradient_is_of_use_and_the_cut_one_is_not(notebook):
    printed, _ = notebook
    before, after = rows(printed[2]), rows(printed[5])
    gains = {mode: [before[f"GRU {k}"][2] - after[f"GRU {k} {mode}"][2] for k in range(3)] for mode in ("free", "stop")}
    assert min(gains["free"]) > 0
    assert sorted(gain > 0 for gain in gains["stop"]) == [False, False, True]


def test_most_of_the_gradient_goes_by_the_forecasts(notebook):
    printed, _ = notebook
    lines = [line[14:].split() for line in printed[4].splitlines()[1:]]
    exact, state, fed = ([float(number) for number in line] for line in lines)
    assert (exact[0], fed[0]) == (state[0], 0)
    assert all(part > other for part, other in zip(fed[2:], state[2:], strict=True))
