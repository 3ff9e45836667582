"""What pages take from the package: where a page has a line

    <!-- generated: equations lstm -->

there stands, when the site is built, what the function of that name returns, as Markdown: a page cannot be out of date.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from pathlib import Path

from pygments.lexers.special import TextLexer

import rnn_numpy
from rnn_numpy import debug
from rnn_numpy.cli.main import COMMANDS, parser_of
from rnn_numpy.core.elsewhere import ATTRIBUTES
from rnn_numpy.interop import CONVENTIONS
from rnn_numpy.layers import KINDS
from rnn_numpy.layers.attention import AttentionRNN
from rnn_numpy.layers.general import Activation, GeneralLSTM

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"^<!-- generated: (\w+)((?: \S+)*) -->$", re.MULTILINE)
COLUMNS = "100"
# A cell with attention around it, by its score; the lecture's is "dot".
ATTENDING = {score: functools.partial(AttentionRNN, score=score) for score in ("dot", "additive")}
# One of those whose activations are free, as Keras had it for years, with all that an ONNX graph can ask for.
GENERAL = {
    "general": functools.partial(
        GeneralLSTM, activations=["HardSigmoid", Activation("tanh", clip=3), "tanh"], coupled=True, peepholes=True
    )
}


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table, with bars in its cells escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def equations(kind: str) -> str:
    """Return the lines of a cell, `Cell.equations`, each with its label and the function that computes it."""
    rows = []
    for one in debug.equation_lines((KINDS | ATTENDING | GENERAL)[kind](3, 4)):
        at = f"`{one.function}`, {one.path.removeprefix('rnn_numpy/')}:{one.line}" if one.function else ""
        rows.append([one.label, f"`{one.text}`", at])
    return table(["line", "equation", "computed in"], rows)


def derivation(module: str, level: str = "##") -> str:
    """Return the docstring of a module: what numpydoc would make of it, but for its references, in Markdown."""
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    first, _, rest = text.partition("\n\n")
    text = f"{' '.join(first.split())}\n\n{rest}"
    text = re.sub(r"^(\S.*)\n-{3,}$", rf"{level} \1", text, flags=re.MULTILINE)
    text = re.sub(r"\[(\d+)\]_", r"\\[\1\\]", text)
    text = re.sub(r"^\.\. \[(\d+)\]((?: .*\n(?:   .*\n?)*))", _listed, f"{text}\n", flags=re.MULTILINE)
    # A sentence may end at the beginning of a line, "near 1. A gate", where Markdown would begin a list.
    text = re.sub(r"(?<=[^\n]\n)(\d+)\. ", r"\1\. ", text)
    # Bare text: stars and bars of formulas are no markup. Code blocks, indented, stay as they are.
    lines = []
    for line in text.splitlines():
        lines.append(line if line.startswith("    ") else re.sub(r"(?<= )\*(?= )|(?<=\w)\*(?=\w)", r"\\*", line))
    source = f"rnn_numpy/{module.removeprefix('rnn_numpy.').replace('.', '/')}.py"
    return "\n".join(lines) + f"\n\nThis is the docstring of `{source}`; the formulas stand below it."


def _listed(match: re.Match[str]) -> str:
    return f"- \\[{match[1]}\\]{' '.join(match[2].split()).join((' ', ''))}\n"


def formulas(module: str, *names: str) -> str:
    """Return functions as they stand in a module."""
    found = importlib.import_module(module)
    return fenced("\n\n".join(inspect.getsource(getattr(found, name)).rstrip() for name in names), "python")


def command_help(*names: str) -> str:
    """Return what `rnn-numpy NAME --help` prints."""
    return fenced(help_of(*names))


def help_of(name: str = "") -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        parser = parser_of(name)
        if name:
            (commands,) = (action for action in parser._actions if action.dest == "command")
            parser = commands.choices[name]
        return parser.format_help()
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def commands() -> str:
    """Return a section for each sub-command."""
    return "\n\n".join(f"## rnn-numpy {name}\n\n{command_help(name)}" for name in COMMANDS)


def elsewhere() -> str:
    """Return what there is in place of torch's names, as the errors say it."""
    by_answer: dict[str, list[str]] = {}
    for name, answer in ATTRIBUTES.items():
        by_answer.setdefault(answer, []).append(f"`layer.{name}`")
    return table(["asked for", "answer"], [[", ".join(names), answer] for answer, names in by_answer.items()])


def gate_orders() -> str:
    """Return the table of conventions: how other libraries keep the arrays of a cell."""
    rows = []
    for one in CONVENTIONS:
        told = [
            "transposed, (in, out)" if one.turned else "",
            "x and h in one array" if one.joined else "",
            "gates interleaved, unit by unit" if one.interleaved else "",
            "z is the share that is new" if one.replaces else "",
            f"{one.forget:g} is added to the forget gate at run time" if one.forget else "",
            f"reset {one.reset} the product" if one.cell == "gru" else "",
            "one bias" if one.biases and not one.bias_hh and not one.bias_n else "",
            "a bias of its own inside of the reset" if one.bias_n else "",
            one.refused,
        ]
        rows.append([f"{one.library} {one.version}", one.title, " ".join(one.order), "; ".join(filter(None, told))])
    return table(["library", "class", "order of the blocks", "what else"], rows)


def top_level() -> str:
    """Return what can be imported from the package itself, by the first line of its docstring."""
    rows = []
    for name in rnn_numpy.__all__:
        summary = inspect.cleandoc(getattr(rnn_numpy, name).__doc__ or "").partition("\n\n")[0]
        rows.append([f"`{name}`", " ".join(summary.split())])
    return table(["name", "what it is"], rows)


def document(path: str) -> str:
    """Return a document of the repository without its title; its links to files become their names."""
    text = (ROOT / path).read_text(encoding="utf-8")
    text = re.sub(r"\A# .*\n", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?://|#)[^)]+\)", r"\1", text)


def read(app, document_name, source):
    """Fill in what a page leaves to the package."""
    source[0] = PLACE.sub(lambda found: globals()[found[1]](*found[2].split()), source[0])


class Prompt(TextLexer):
    """A session at a debugger's prompt, which Pygments does not know."""


def setup(app):
    app.connect("source-read", read)
    app.add_lexer("pdb", Prompt)
    app.add_lexer("ipdb", Prompt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
