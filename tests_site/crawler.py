"""What is wrong with the pages of a folder: dead links and anchors, pictures without words, requests to other hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself: attributes by element. The links of <a> are for those who follow them.
FETCHED = {
    "audio": ("src",), "embed": ("src",), "iframe": ("src",), "image": ("href",), "img": ("src", "srcset"),
    "input": ("src",), "link": ("href",), "object": ("data",), "script": ("src",), "source": ("src", "srcset"),
    "track": ("src",), "use": ("href",), "video": ("src", "poster"),
}  # fmt: skip
NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "author", "copyright", "license"}
# Where a reader may be sent. An address of another form, as one that nobody has filled in, is a mistake too.
ELSEWHERE = re.compile(
    r"https://(docs\.python\.org/3|numpy\.org/doc/stable|github\.com|semver\.org|keepachangelog\.com)"
    r"(/[\w.+-]+)*/?(#[\w.-]+)?"
)
REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
REMOTE_IN_STYLE = re.compile(r"(?:url\(\s*|@import\s*)[\"']?(?:https?:)?//", re.IGNORECASE)


@dataclass
class Page(HTMLParser):
    """The parts of a page that a crawler looks at."""

    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    language: str = ""
    heads: int = 0
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._in_style = False
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.styles.append(given.get("style", ""))
        self._in_style = tag == "style"
        if tag == "html":
            self.language = given.get("lang", "")
        if tag == "h1":
            self.heads += 1
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        thumbnail = "alt" in given and re.search(
            r"_thumb\d*\.png$", given.get("src", "")
        )  # whose title stands below it
        if tag == "img" and not given.get("alt", "").strip() and not thumbnail:
            self.wordless.append(given.get("src", ""))
        if tag == "iframe" and not given.get("title"):
            self.wordless.append(given.get("src", ""))
        if tag == "link" and set(given.get("rel", "").split()) & NOT_FETCHED:
            return
        for name in FETCHED.get(tag, ()):
            if name in given:
                parts = given[name].split(",") if name == "srcset" else [given[name]]
                self.fetched += [part.split()[0] for part in parts if part.split()]

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._in_style:
            self.styles.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def faults(folder: Path) -> Iterator[str]:
    """Return what is wrong with the pages and styles of a folder, each with where it stands."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder).as_posix()
        if not page.language:
            yield f"{name}: no language"
        if page.heads != 1:
            yield f"{name}: {page.heads} first headings"
        yield from (f"{name}: a picture or frame without words: {source}" for source in page.wordless)
        yield from (f"{name}: a style that asks another host" for style in page.styles if REMOTE_IN_STYLE.search(style))
        for address in page.fetched:
            if REMOTE.match(address):
                yield f"{name}: asks another host: {address}"
            elif not address.startswith("data:"):
                yield from (f"{name}: {fault}" for fault in _dead(path, address, pages))
        for address in page.links:
            if urlsplit(address).scheme or address.startswith("//"):
                if not ELSEWHERE.fullmatch(address):
                    yield f"{name}: leads to no known place elsewhere: {address}"
            else:
                yield from (f"{name}: {fault}" for fault in _dead(path, address, pages))
    for path in sorted(folder.rglob("*.css")):
        if REMOTE_IN_STYLE.search(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(folder).as_posix()}: a style that asks another host"


def _dead(path: Path, address: str, pages: dict[Path, Page]) -> Iterator[str]:
    parts = urlsplit(address)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        yield f"leads nowhere: {address}"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        yield f"no such place: {address}"
