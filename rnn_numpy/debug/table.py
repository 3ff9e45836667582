"""The equations of a cell as a table, each with the function that computes it, and the line there."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rnn_numpy.core import arguments
from rnn_numpy.debug.expressions import sources
from rnn_numpy.debug.rows import Renamer, in_order
from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.parts import Kind, Part
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import OptionError

ROOT = Path(__file__).resolve().parents[2]  # what paths are relative to
HEADS = ("line", "equation", "computed in")


class EquationLine(NamedTuple):
    """A line of the derivation: its label, its text, and the function, file and line where it is computed."""

    label: str
    text: str
    function: str = ""
    path: str = ""
    line: int = 0


def equation_lines(of: Any) -> list[EquationLine]:
    """Return the equations of a layer, a class of layers, or a cell, in the order in which a step runs them.

    A path within the package begins with its name, "rnn_numpy/layers/lstm.py". The line is the first one that cites the
    equation's label in a comment; where none does, the first line of the function.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> [line.text for line in equation_lines(LSTM) if line.label == "F3"]
    ['c = f * c_prev + i * g']
    >>> next(line.function for line in equation_lines(LSTM) if line.label == "B3")
    'lstm_step_backward'
    """
    cell, parts = _parts(of)
    found = []
    for part, names, equation in in_order(cell, parts):
        tree = Renamer(names).visit(ast.parse(equation.right.text, mode="eval").body)
        target = names.get(equation.target, equation.target)
        text = f"{target} {'+=' if equation.adds else '='} {sources(tree)}"
        kinds: tuple[Kind, ...] = ("backward", "partials") if equation.target[:1] == "d" else ("forward",)
        formulas = [formula for kind in kinds if (formula := part.formula(kind)) is not None]
        found.append(EquationLine(equation.label, text, *_place(formulas, equation.label)))
    return found


def equations_table(of: Any, style: str = "markdown", link: str = "") -> str:
    """Return the equations of a layer, a class of layers, or a cell, as the text of a table.

    Parameters
    ----------
    of : Recurrent, class or Cell
        Of a layer, with its recurrent dropout and zoneout.
    style : {"markdown", "rst"}
        A table of GitHub's Markdown, or a `list-table` of reStructuredText.
    link : str
        Where a line of the source stands, as ``"https://example.org/blob/main/{path}#L{line}"``; without, there are no
        links.

    Raises
    ------
    OptionError
        `of` has no cell, or its cell no equations; the style is another one; the link is no such text.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> print(equations_table(RNN(1, 1)))
    | line | equation | computed in |
    | --- | --- | --- |
    | F1 | `a = W_ih @ x + W_hh @ h_prev + b` | `tanh_step_forward` |
    | F2 | `h = tanh(a)` | `tanh_step_forward` |
    | B2 | `da = dh * (1 - h ** 2)` | `rnn_step_backward` |
    | B1 | `dh_prev += W_hh.T @ da` | `rnn_step_backward` |
    """
    arguments.one_of("debug.equations_table", "style", style, ("markdown", "rst"))
    try:
        link.format(path="", line=0)
    except (AttributeError, IndexError, KeyError, ValueError):
        raise OptionError(
            f"debug.equations_table: link must be a text with {{path}} and {{line}} in it; got {link!r}"
        ) from None
    rows = []
    for line in equation_lines(of):
        where = f"`{line.function}`" if style == "markdown" else f"``{line.function}``"
        if link and line.path:
            address = link.format(path=line.path, line=line.line)
            where = f"[{where}]({address})" if style == "markdown" else f"`{line.function} <{address}>`__"
        equation = f"`{line.text}`" if style == "markdown" else f"``{line.text}``"
        rows.append((line.label, equation, where if line.function else ""))
    if not rows:
        raise OptionError("debug.equations_table: the cell has no equations; `Cell.equations` is empty")
    if style == "markdown":
        head = [HEADS, ("---",) * 3]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows])
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [HEADS, *rows]:
        lines += [f"   {'*' if place == 0 else ' '} - {text}".rstrip() for place, text in enumerate(row)]
    return "\n".join(lines)


def _parts(of: Any) -> tuple[Cell, tuple[Part, ...]]:
    """Return the cell, and the parts of a step."""
    if isinstance(of, type) and issubclass(of, Recurrent):
        of = of(1, 2)  # the cell may depend on options
    if isinstance(of, Recurrent):
        zoneout = tuple(state for state, share in zip(of.cell.states, of.zoneout, strict=True) if share)
        return of.cell, of.cell.chain(of.hidden_size, bool(of.recurrent_dropout), zoneout).parts
    if not isinstance(of, Cell):
        got = of.__name__ if isinstance(of, type) else type(of).__name__
        raise OptionError(f"debug.equations_table: of must be a layer, a class of layers, or a Cell; got {got}")
    return of, of.parts


def _place(formulas: list[Callable[..., Any]], label: str) -> tuple[str, str, int]:
    """Return the name, file and line of the first of these formulas that cites a label, else of the first one."""
    found = []
    for formula in formulas:
        function = formula.func if isinstance(formula, functools.partial) else formula
        try:
            lines, start = inspect.getsourcelines(function)
            path = Path(inspect.getsourcefile(function) or "").resolve()
        except (OSError, TypeError):  # of a function that was typed at a prompt
            found.append((function.__name__, "", 0))
            continue
        place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        cited = re.compile(rf"#.*\b{re.escape(label)}\b")
        for number, line in enumerate(lines):
            if cited.search(line):
                return function.__name__, place, start + number
        found.append((function.__name__, place, start))
    return found[0] if found else ("", "", 0)
