"""The site that `python -m sphinx -W -n docs docs/_build` has built, or that the variable SITE names."""

import os
from pathlib import Path

import pytest

from tests_browser.conftest import axe, browser, started

__all__ = ["axe", "browser", "started"]

SITE = Path(os.environ.get("SITE", Path(__file__).parents[1] / "docs" / "_build")).resolve()


def pages() -> list[str]:
    """Return the pages of the site, as paths in it."""
    found = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_downloads" not in path.parts)
    if "index.html" not in found:
        raise FileNotFoundError(f"there is no site in {SITE}: python -m sphinx -W -n docs docs/_build")
    return found


@pytest.fixture(scope="session")
def site() -> Path:
    return SITE
