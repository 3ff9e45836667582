"""Names in running text become links: what is public in the package, and the scripts of the gallery.

Docstrings and pages name things as `LSTM`, `rnn_numpy.lab.decompose`, `debug.Stepper` or `examples/plot_cliff.py`,
without more. Where a name is one of the package's, it becomes a link, elsewhere it stays what it is. What is marked up
as a reference of Sphinx is one, and -n warns where it leads nowhere.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

import rnn_numpy

ROOMS = (
    "core", "engine", "layers", "checks", "zoo", "training", "models", "tasks", "debug", "lab", "experiments", "report",
    "interop", "errors",
)  # fmt: skip
# Words that are more often something else than the function of that name, unless its room stands in front.
WORDS = {"forecast", "html", "identity", "normal", "padded", "score", "show", "train", "uniform", "when", "windows"}
SCRIPT = re.compile(r"(?:\.\./)?(examples|course/en|course/es)/(\w+)\.py")


@functools.cache
def public() -> dict[str, str]:
    """Return the full names of what is public, by each name that it may be called by: LSTM, layers.LSTM, ..."""
    found: dict[str, list[str]] = {}
    for room in ROOMS:
        for name in importlib.import_module(f"rnn_numpy.{room}").__all__:
            for shorter in (name, f"{room}.{name}"):
                found.setdefault(shorter, []).append(f"rnn_numpy.{room}.{name}")
    for name in ("backward", "backward_steps", "forward", "forward_steps", "load_state_dict", "state_dict", "stream"):
        found[name] = [f"rnn_numpy.engine.Recurrent.{name}"]
    for name in rnn_numpy.__all__:  # where two rooms have the name, the package's own is meant
        mine = [full for full in found[name] if _get(full) is getattr(rnn_numpy, name)]
        found[name] = found[f"rnn_numpy.{name}"] = mine[:1]
    return {name: full[0] for name, full in found.items() if len(full) == 1 and name not in WORDS}


def _get(full: str) -> object:
    module, _, name = full.rpartition(".")
    return getattr(importlib.import_module(module), name)


def reference(text: str, document: str) -> addnodes.pending_xref:
    """Return a name as code that becomes a link if it is known, and stays code if not."""
    code = nodes.literal(text, text, classes=["xref"])
    script = SCRIPT.fullmatch(text)
    if script:
        label = f"sphx_glr_{script[1].replace('/', '_')}_{script[2]}.py"
        kind = {"refdomain": "std", "reftype": "ref", "reftarget": label.lower(), "refexplicit": True}
    else:
        name = text.removesuffix("()")
        first, dot, rest = name.partition(".")
        full = public().get(name) or (f"{public()[first]}.{rest}" if dot and first in public() else name)
        kind = {"refdomain": "py", "reftype": "obj", "reftarget": full}
    return addnodes.pending_xref(text, code, refdoc=document, soft=True, **kind)


def role(name, rawtext, text, lineno, inliner, options=None, content=None):
    """`name` in reStructuredText: what docstrings and examples write; in a class's, its own methods come first."""
    environment = inliner.document.settings.env
    module, owner = (environment.ref_context.get(key) for key in ("py:module", "py:class"))
    found = reference(text, environment.docname)
    if module and owner:
        described = getattr(importlib.import_module(module), owner.partition(".")[0], None)
        if text.removesuffix("()") in getattr(described, "__dict__", ()):
            found.update_all_atts({"reftarget": f"{module}.{owner}.{text.removesuffix('()')}"}, replace=True)
    return [found], []


class Names(SphinxPostTransform):
    """`name` in Markdown: what pages write."""

    default_priority = 5  # before Sphinx resolves references

    def run(self, **options: object) -> None:
        for code in list(self.document.findall(nodes.literal)):
            inside = code.parent
            while inside is not None and not isinstance(inside, nodes.reference | addnodes.pending_xref | nodes.title):
                inside = inside.parent
            if inside is None and not code["classes"] and re.fullmatch(r"[\w./]+(\(\))?", code.astext()):
                code.replace_self(reference(code.astext(), self.env.docname))


def unresolved(app, env, node, contnode):
    """Leave what is no link as it is, without a warning."""
    return contnode if node.get("soft") else None


# In text that is plain these are no markup: the bars of norms, |dh|, underscores at the end of a word, stars of calls.
MARKS = re.compile(r"(?<!\\)\||(?<=\w)_(?!\w)|(?<=[(, ])\*+(?=\w+[),])")
CITED = re.compile(r"\[(\d+)\]_")


def plain(lines: list[str]) -> list[str]:
    """Return text with formulas as reStructuredText: marks escaped, what is indented after a paragraph literal."""
    found: list[str] = []
    last = ""  # the last line that is not empty
    literal: int | None = None  # the indentation of what a literal block belongs to
    for line in lines:
        indentation = len(line) - len(line.lstrip())
        if line and literal is not None and indentation <= literal:
            literal = None
        begins = line.startswith("    ") and found and not found[-1] and not last.startswith((" ", "..", ":"))
        if begins and last and literal is None:
            found += ["::", ""]
            literal = 0
        if literal is None and not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``|`.*?`)", line)
            parts[::2] = [MARKS.sub(_escaped, part) for part in parts[::2]]
            line = "".join(parts)
        if literal is None and (line.endswith("::") or line.lstrip().startswith(".. ")):
            literal = indentation
        last = line or last
        found.append(line)
    return found


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\{mark}" for mark in match[0])


def docstring(app, what, name, obj, options, lines):
    """Make a docstring ready for numpydoc; what it cites of its module's references comes along."""
    text = "\n".join(lines)
    module = inspect.getdoc(inspect.getmodule(obj)) or ""
    missing = [number for number in dict.fromkeys(CITED.findall(text)) if f".. [{number}]" not in text]
    lines[:] = plain(lines)
    if missing:
        entries = [
            re.search(rf"^\.\. \[{number}\].*\n(?:   .*\n?)*", f"{module}\n", re.MULTILINE) for number in missing
        ]
        lines += ["", "References", "----------", *"".join(entry[0] for entry in entries if entry).splitlines()]


def attributes(app, what, name, obj, options, lines):
    """Take numpydoc's links of a class's attributes to themselves away: some find two."""
    lines[:] = [re.sub(r":obj:`(\w+) <\.\w+>`", r"``\1``", line) for line in lines]


def gallery(app, document, source):
    """Make the text of a script ready as well."""
    if document.startswith(("examples/", "course/")):
        source[0] = "\n".join(plain(source[0].splitlines()))


def types(app, config) -> None:
    """Let numpydoc link the package's classes where they are the type of something."""
    config.numpydoc_xref_aliases = {
        name: full for name, full in public().items() if name[0].isupper() and "." not in name
    }


def setup(app):
    app.add_role("soft", role)
    app.add_post_transform(Names)
    app.connect("config-inited", types)
    app.connect("missing-reference", unresolved, priority=900)  # after intersphinx
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before numpydoc
    app.connect("autodoc-process-docstring", attributes, priority=600)  # after it
    app.connect("source-read", gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
