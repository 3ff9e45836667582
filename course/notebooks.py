"""Make Jupyter notebooks of the course's scripts: `python course/notebooks.py` writes them beside the scripts.

A script is what sphinx-gallery reads: a docstring, then text after lines of `# %%`, each block in reStructuredText, and
code between them. Of reStructuredText, as much is turned into Markdown as the course uses.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LEVELS = {"=": "#", "-": "##"}


def blocks(script: str) -> list[tuple[str, str]]:
    """Return ("text", reStructuredText) and ("code", source) in their order.

    >>> blocks('\"\"\"Title\"\"\"\\n\\nx = 1\\n\\n# %%\\n# More.\\n\\ny = 2\\n')
    [('text', 'Title'), ('code', 'x = 1'), ('text', 'More.'), ('code', 'y = 2')]
    """
    docstring = ast.parse(script).body[0]
    lines = script.splitlines()
    found = [("text", ast.literal_eval("\n".join(lines[: docstring.end_lineno])).strip("\n"))]
    for part in re.split(r"^# %%\n", "\n".join(lines[docstring.end_lineno :]) + "\n", flags=re.MULTILINE):
        text = re.match(r"(?:#.*\n)*", part)[0]
        code = part[len(text) :].strip("\n")
        if text:
            found.append(("text", "\n".join(line[2:] for line in text.splitlines())))
        if code:
            found.append(("code", code))
    return found


def markdown(text: str) -> str:
    """Return a block of reStructuredText as Markdown.

    >>> print(markdown("Title\\n=====\\nSee ``x``::\\n\\n    y = 1\\n\\nEnd."))
    # Title
    See `x`:
    <BLANKLINE>
    ```python
    y = 1
    ```
    <BLANKLINE>
    End.
    """
    found: list[str] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        under = lines[at + 1] if at + 1 < len(lines) else ""
        at += 1
        if line and under and set(under) <= set(LEVELS) and len(set(under)) == 1 and len(under) >= len(line):
            found.append(f"{LEVELS[under[0]]} {line}")
            at += 1
            continue
        raw = line == ".. raw:: html"
        if not raw and not line.endswith("::"):
            found.append(re.sub(r"``(.+?)``", r"`\1`", line))
            continue
        block: list[str] = []
        while at < len(lines) and (not lines[at] or lines[at].startswith("    ")):
            block.append(lines[at][4:])
            at += 1
        body = "\n".join(block).strip("\n")
        if not raw and line != "::":
            found += [re.sub(r"``(.+?)``", r"`\1`", line[:-1]), ""]
        found += [body, ""] if raw else [f"```{_language(body)}", body, "```", ""]
    return "\n".join(found).strip("\n")


def _language(body: str) -> str:
    try:
        ast.parse(body)
    except SyntaxError:
        return "text"
    return "python"


def notebook(script: str) -> dict[str, Any]:
    """Return a script as a notebook, nbformat 4.5."""
    cells: list[dict[str, Any]] = []
    for number, (kind, source) in enumerate(blocks(script)):
        if kind == "text":
            cells.append({"cell_type": "markdown", "id": f"text-{number}", "metadata": {}, "source": markdown(source)})
        else:
            cell = {"cell_type": "code", "id": f"code-{number}", "metadata": {}, "source": source}
            cells.append({**cell, "execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main(target: Path = FOLDER) -> list[Path]:
    """Write a notebook for each script, in target/es and target/en; return their paths."""
    written = []
    for path in sorted(FOLDER.glob("e[ns]/*.py")):
        found = target / path.parent.name / f"{path.stem}.ipynb"
        found.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notebook(path.read_text(encoding="utf-8")), ensure_ascii=False, indent=1)
        found.write_text(text + "\n", encoding="utf-8")
        written.append(found)
    return written


if __name__ == "__main__":
    for path in main(*map(Path, sys.argv[1:])):
        print(path)
