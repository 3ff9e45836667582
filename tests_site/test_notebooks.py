"""The notebooks to download are Markdown, with the course's solutions hidden."""

import json
import re


def test_the_courses_notebooks_hide_their_solutions(site):
    paths = sorted(site.glob("_downloads/*/RNN_*.ipynb"))
    assert len(paths) == 6
    for path in paths:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert text.count("<details>") == text.count("</details>") > 0
        assert not re.search(r"^\.\. |^::$", text, re.MULTILINE), path.name
