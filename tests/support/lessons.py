"""The course's notebooks, run as a student runs them, and the solutions that they hide."""

import contextlib
import importlib.util
import io
import json
import re
import sys
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "course"
LANGUAGES = ("es", "en")


def converter():
    """Return the module that makes notebooks of scripts."""
    spec = importlib.util.spec_from_file_location("course_notebooks", COURSE / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(name, language):
    """Return the text of a script."""
    return (COURSE / language / f"{name}.py").read_text(encoding="utf-8")


def run(cells, folder):
    """Run cells of code in order, in one module, as a notebook does; return what each has printed."""
    import matplotlib.pyplot as plt

    module = types.ModuleType("lesson")
    printed = []
    sys.modules["lesson"] = module  # where pickle and inspect look for what a cell defines
    try:
        with contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("error")
            for number, source in enumerate(cells, start=1):
                with contextlib.redirect_stdout(io.StringIO()) as text:
                    exec(compile(source, f"cell {number}", "exec"), vars(module))
                printed.append(text.getvalue())
    finally:
        del sys.modules["lesson"]
        plt.close("all")
    return printed


def codes(name, language):
    """Return the cells of code of a script."""
    return [source for kind, source in converter().blocks(script(name, language)) if kind == "code"]


def cells(name, language, folder):
    """Return the cells of code of a written notebook."""
    (path,) = [path for path in converter().main(folder) if (path.stem, path.parent.name) == (name, language)]
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def solutions(name, language):
    """Return the functions that a script hides, by name, in their order: (name, source)."""
    found = []
    for kind, text in converter().blocks(script(name, language)):
        if kind == "text":
            for hidden in re.findall(
                r"<details><summary>[^\n]*</summary>\n\n::\n\n(.*?)\n\n\.\. raw:: html\n\n    </details>",
                text,
                re.DOTALL,
            ):
                source = "\n".join(line[4:] for line in hidden.splitlines())
                found.append((re.match(r"def (\w+)", source)[1], source))
    return found
