"""The third notebook runs, and its numbers are what its text says of them; its code is the same in both languages."""

import re

import pytest
from lessons import cells, codes, run

NAME = "RNN_enc_dec"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    return run(cells(NAME, "en", folder), folder), folder


def printed_with(notebook, start):
    """Return the lines of the one cell that prints a line with this beginning."""
    (text,) = [text for text in notebook[0] if re.search(f"^ *{re.escape(start)}", text, re.MULTILINE)]
    return text.splitlines()


@pytest.mark.on_the_site
def test_it_prints_the_same_in_the_other_language(notebook, tmp_path):
    assert run(codes(NAME, "es"), tmp_path) == notebook[0]


def test_it_draws_three_figures(notebook):
    expected = [f"{NAME}_{what}.png" for what in ("alpha", "captions", "ways")]
    assert sorted(path.name for path in notebook[1].glob("*.png")) == expected


def test_the_decoder_reads_what_is_desired_one_place_later(notebook):
    lines = [line.split(" = ")[1].split() for line in printed_with(notebook, "x = BOS")]
    for x, y in (lines[:2], lines[2:]):
        length = y.index("EOS")
        assert x[: length + 1] == ["BOS", *y[:length]]
        assert set(x[length + 1 :]) <= {"PAD"}


def test_numerals_are_learned_and_end(notebook):
    lines = printed_with(notebook, "1994 ->")
    assert "  1994 -> M C M X C I V EOS" in lines
    assert int(re.fullmatch(r"395: (\d+) %", lines[-1])[1]) > 75
    losses = [float(number) for number in printed_with(notebook, "L ")[0].split()[1:]]
    assert losses == sorted(losses, reverse=True)


def test_the_chain_forgets_and_attention_does_not(notebook):
    lines = {line.split()[0]: [float(number) for number in line.split()[1:]] for line in
        printed_with(notebook, "|dL/dx_s|")[1:]}  # fmt: skip
    assert lines["h_n"][-1] < 1e-12 * lines["h_n"][0]
    for way in ("values", "alpha"):
        assert lines[way][-1] > 0.1 * lines[way][0]


def test_images_are_described_and_looked_at_where_the_digit_is(notebook):
    lines = {line.split()[0]: line.split()[1:] for line in printed_with(notebook, "digit ")}
    assert int(lines["digit"][0]) >= 50
    assert int(lines["row"][0]) >= 98
    assert int(lines["column"][0]) >= 98
    mass, uniform = float(lines["alpha"][0]), float(lines["alpha"][2].rstrip(")"))
    assert uniform == pytest.approx(13 / 9 * 13 / 9 / 25, abs=0.005)
    assert mass > 0.5
