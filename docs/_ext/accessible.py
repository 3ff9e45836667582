"""What the theme's pages lack for those who do not see them, or do not use a mouse; axe found it."""

import re

PLACES = (
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    ('<aside class="toc-drawer', '<aside aria-label="This page" class="toc-drawer'),
    ("<pre>", '<pre tabindex="0">'),  # long lines are scrolled by keys
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<th class="head"><p></p></th>', "<td></td>"),  # a corner, which is no heading of anything
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),  # its parts are no items of a list
    (' role="doc-biblioentry"', ""),  # which ARIA has given up
)
ARTICLE = re.compile(r'<article role="main"[^>]*>')


def finished(app, exception) -> None:
    """Mend each page that was written."""
    if exception is not None or app.builder.format != "html":
        return
    for path in app.outdir.rglob("*.html"):
        if path.parent.name == "steppers":
            continue
        before = text = path.read_text(encoding="utf-8")
        for found, better in PLACES:
            text = text.replace(found, better)
        if path.name == "es.html" or path.parent.name == "es":
            text = text.replace(' lang="en"', ' lang="es"', 1)
        if "<h1" not in text:  # of the page of the search
            text = ARTICLE.sub(r"\g<0><h1>Search</h1>", text)
        if text != before:
            path.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("build-finished", finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
