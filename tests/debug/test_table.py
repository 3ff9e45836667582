"""The tables of equations say what `Cell.equations` say, line by line, and point to where the code has them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from rnn_numpy import LSTM, RNN, debug
from rnn_numpy.debug.rows import targets, wording
from rnn_numpy.debug.table import ROOT
from rnn_numpy.errors import OptionError
from tests.debug.networks import LAYERS, ready


@pytest.mark.parametrize("kind", LAYERS)
def test_a_table_has_every_equation_of_a_step_once(kind):
    layer, trace, _ = ready(kind)
    found = debug.equation_lines(layer)
    said = targets(trace.top)
    assert len(found) == sum(map(len, said.values())) == len(set(found))
    for name in said:
        own = [line for line in found if line.text.startswith((f"{name} = ", f"{name} += "))]
        labels, text = wording(trace.top, name)
        assert labels == ", ".join(dict.fromkeys(line.label for line in own))
        for line in own:
            assert line.text.split("= ", 1)[1] in text
    targets_of = [line.text.split()[0] for line in found]
    going_back = [name[:1] == "d" for name in targets_of]
    assert going_back == sorted(going_back)  # forward, then backward


@pytest.mark.parametrize("kind", LAYERS)
def test_a_line_of_a_table_is_where_it_says(kind):
    for line in debug.equation_lines(LAYERS[kind]()):
        source = (ROOT / line.path).read_text(encoding="utf-8").splitlines()
        if not re.search(rf"#.*\b{line.label}\b", source[line.line - 1]):
            assert source[line.line - 1].startswith(f"def {line.function}(")
        above = [one for one in source[: line.line] if one.startswith("def ")]
        assert above[-1].startswith(f"def {line.function}(")


def test_a_table_in_both_styles_with_links():
    link = "https://example.org/{path}#L{line}"
    lines = debug.equation_lines(LSTM)
    markdown, rst = (debug.equations_table(LSTM, style, link) for style in ("markdown", "rst"))
    assert markdown.count("\n") == len(lines) + 1 and rst.count("* -") == len(lines) + 1
    for line in lines:
        address = f"https://example.org/{line.path}#L{line.line}"
        assert f"| {line.label} | `{line.text}` | [`{line.function}`]({address}) |" in markdown
        assert f"   * - {line.label}\n     - ``{line.text}``\n     - `{line.function} <{address}>`__" in rst


def test_masks_have_their_lines():
    texts = {line.text for line in debug.equation_lines(LSTM(2, 3, recurrent_dropout=0.2, zoneout=(0.1, 0.0)))}
    assert {"h_in = recurrent_mask * h_prev", "h = h_new + h_kept * (h_prev - h_new)", "dh_prev += h_kept * dh"} < texts
    assert "c = f * c_prev + i * g" in texts


def test_a_cell_of_ones_own_has_its_table():
    class Own(RNN):
        pass

    layer = Own(2, 3)
    layer.cell = replace(
        layer.cell, equations="F1 a = W_ih @ x + W_hh @ h_in\nF2 h = tanh(a)", step_forward=own_forward
    )
    found = debug.equation_lines(layer)
    assert [line.function for line in found] == ["own_forward", "own_forward"]
    assert found[0].path.endswith("tests/debug/test_table.py") and found[1].line == found[0].line + 1
    for namespace in ({},):
        exec("def typed(a_t, h_in, W_hh, h_t):\n    h_t[...] = a_t", namespace)  # no file has its source
        layer.cell = replace(layer.cell, step_forward=namespace["typed"])
        assert debug.equation_lines(layer)[0][2:] == ("typed", "", 0)
        assert "| F2 | `h = tanh(a)` | `typed` |" in debug.equations_table(layer, link="{path}#{line}")


def own_forward(a_t, h_in, W_hh, h_t):
    a_t += h_in.dot(W_hh.T)  # F1
    np.tanh(a_t, out=h_t)  # F2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "of must be a layer, a class of layers, or a Cell; got int"),
        ((np.ndarray,), "of must be a layer, a class of layers, or a Cell; got ndarray"),
        ((RNN, "html"), "style must be one of 'markdown', 'rst'; got 'html'"),
        ((RNN, "rst", "{file}"), "link must be a text with {path} and {line} in it; got '{file}'"),
        ((RNN, "rst", 3), "link must be a text"),
        ((replace(RNN(1, 1).cell, equations=""),), "the cell has no equations"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        debug.equations_table(*arguments)
