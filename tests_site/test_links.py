"""Every link and anchor leads somewhere, every picture has words, and no page asks another host for anything."""

from pathlib import Path

import pytest

from tests_site.crawler import Page, faults

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


def test_what_readers_look_for_is_there(site):
    """The pages of the menu, and of each example what it printed and what it drew."""
    scripts = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
    assert scripts
    for script in scripts:
        page = (site / "examples" / f"{script.stem}.html").read_text(encoding="utf-8")
        assert "Out:" in page or "sphx-glr-script-out" in page, f"{script.name} was not run"
        if script.stem.startswith("plot_"):
            assert f"sphx_glr_{script.stem}_001.png" in page
    places = Page((site / "api" / "engine.html").read_text(encoding="utf-8")).anchors
    assert "rnn_numpy.engine.Recurrent.backward_steps" in places
