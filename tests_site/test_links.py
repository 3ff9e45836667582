"""Every link and anchor leads somewhere, every picture has words, and no page asks another host for anything."""

import re
from pathlib import Path

import pytest

from tests_site.crawler import Page, faults

ROOT = Path(__file__).parents[1]
GOOD = '<html lang="en"><h1 id="top">A</h1><a href="#top">a</a><img src="a.png" alt="words"></html>'


def test_the_site_has_no_fault(site):
    assert list(faults(site)) == []


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ('<a href="gone.html">', "leads nowhere: gone.html"),
        ('<a href="index.html#gone">', "no such place: index.html#gone"),
        ('<a href="#gone">', "no such place: #gone"),
        ('<img src="gone.png" alt="words">', "leads nowhere: gone.png"),
        ('<img src="a.png" alt="">', "without words: a.png"),
        ('<iframe src="index.html"></iframe>', "without words: index.html"),
        ('<script src="https://cdn.example/x.js"></script>', "asks another host: https://cdn.example/x.js"),
        ('<img srcset="a.png 1x, //cdn.example/a.png 2x" alt="words">', "asks another host: //cdn.example/a.png"),
        ('<link rel="stylesheet" href="https://cdn.example/x.css">', "asks another host"),
        ("<style>@import 'https://cdn.example/x.css';</style>", "a style that asks another host"),
        ('<p style="background: url(//cdn.example/x.png)">', "a style that asks another host"),
        ('<a href="http://numpy.org/doc/stable/">', "no known place elsewhere: http://numpy.org/doc/stable/"),
        ('<a href="https://numpy.org/doc/stable/$.html#numpy.dtype">', "no known place elsewhere"),
        ('<a href="https://nunpy.org/doc/stable/">', "no known place elsewhere"),
        ('<a href="//numpy.org/doc/stable/">', "no known place elsewhere"),
        ("<h1>again</h1>", "2 first headings"),
    ],
)
def test_each_kind_of_fault_is_found(wrong, fault, tmp_path: Path):
    (tmp_path / "a.png").touch()
    (tmp_path / "index.html").write_text(GOOD, encoding="utf-8")
    assert list(faults(tmp_path)) == []
    (tmp_path / "index.html").write_text(GOOD.replace("</html>", f"{wrong}</html>"), encoding="utf-8")
    found = list(faults(tmp_path))
    assert len(found) == 1 and fault in found[0]


def test_a_style_sheet_is_read(tmp_path):
    (tmp_path / "x.css").write_text("@font-face { src: url('https://cdn.example/x.woff2') }", encoding="utf-8")
    assert list(faults(tmp_path)) == ["x.css: a style that asks another host"]


SCRIPTS = sorted(path for folder in ("examples", "course") for path in (ROOT / folder).rglob("*_*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_was_run_and_its_page_shows_it(script, site):
    page = Page((site / script.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8"))
    printed = page.text.count("sphx-glr-script-out")
    assert printed
    if script.stem.startswith("plot_"):
        assert any(f"sphx_glr_{script.stem}_001.png" in address for address in page.fetched)
    if script.parent.name == "examples":  # which writes one picture, or nothing
        assert f"sphx_glr_{script.stem}_002.png" not in page.text
    code = script.read_text(encoding="utf-8").split('"""\n', 2)[2]
    lines = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line not in page.words] == []


def outputs(path: Path) -> list[str]:
    return re.findall(r"sphx-glr-script-out.*?<pre[^>]*>(.*?)</pre>", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", sorted({path.stem for path in SCRIPTS if path.parent.parent.name == "course"}))
def test_a_notebook_prints_the_same_in_both_languages(name, site):
    spanish, english = (outputs(site / "course" / language / f"{name}.html") for language in ("es", "en"))
    assert len(spanish) > 3 and spanish == english


def test_scripts_have_left_nothing_behind(site):
    """But pictures, which their pages have taken."""
    left = [path for path in (site.parent / "_scripts").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(left) > len(SCRIPTS)
    assert [path.name for path in left if path.suffix not in (".py", ".rst")] == []


def test_the_reference_has_its_places(site):
    places = Page((site / "api" / "engine.html").read_text(encoding="utf-8")).anchors
    assert "rnn_numpy.engine.Recurrent.backward_steps" in places
