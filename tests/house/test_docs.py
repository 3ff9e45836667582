"""The pages in docs hold: their code runs and prints what it shows, their links lead somewhere.

Sessions of debuggers, and code that is no session, have tests of their own.
"""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def sessions(path):
    """Return what stands in a page's blocks of Python, as one session."""
    found = re.findall(r"^```python\n(>>> .*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "\n".join(found)


@pytest.mark.parametrize("path", [path for path in PAGES if sessions(path)], ids=lambda path: path.stem)
def test_code_runs_and_prints_what_it_shows(path):
    session = doctest.DocTestParser().get_doctest(sessions(path), {}, path.name, str(path), 0)
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(session, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
