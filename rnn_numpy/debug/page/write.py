"""A page from its parts: template, style and script are the files beside this one."""

from __future__ import annotations

import base64
import hashlib
import html as entities
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.files import replacing
from rnn_numpy.debug.page.contents import WHERE, Contents, contents
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import OptionError, RNNNumpyError

LANGUAGES = ("en", "es")


def html(
    layer: Recurrent,
    trace: Trace,
    result: BackwardResult | None = None,
    *,
    sequences: int | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    steps: range | slice | tuple[int, int] | None = None,
    stops: Sequence[Any] | None = None,
    tk: Any = None,
    compare: Trace | None = None,
    title: str | None = None,
    precision: str = "exact",
    lang: str = "en",
    max_mb: float = 20.0,
) -> str:
    """Return a page of HTML to step through a pass: every gate and gradient, with its equation and the numbers in it.

    One file, without a network and without a library. It holds the arrays bit for bit, so that each number that it
    shows is the one of the trace.

    Parameters
    ----------
    layer : Recurrent
    trace : Trace
        Of its forward pass, and of what backward passes have run on it.
    result : BackwardResult, optional
        Of that pass: the page lists the gradients of the parameters, and says where a NaN in them came about.
    sequences : int or sequence of int, optional
        Which of the batch; the one with the largest gradient where left out.
    names : sequence of str, optional
        Which arrays: what is recorded where left out. Also those that are computed when asked for, `a_i`, `df`.
    steps : (start, stop), range or slice, optional
        Which steps; all where left out.
    stops : sequence of conditions, optional
        Where to go by a key: texts, or conditions of `rnn_numpy.debug`; NaN and jumps of a norm where left out.
    tk : ndarray, (T, T), or mapping of str to ndarray, optional
        By layer and direction (the top one, where it is no mapping), how much the loss of step t says through step k,
        as `lab.decompose` measures it; see the example.
    compare : Trace, optional
        A second run of the same shapes, shown beside this one, with the first difference.
    title : str, optional
    precision : {"exact", "compact"}
        "compact": half as large, 24 bits of each number. The page says so.
    lang : {"en", "es"}
        The page's language.
    max_mb : float
        A page that would be larger is refused.

    Returns
    -------
    str

    Raises
    ------
    OptionError, ShapeError
        Something is not of this trace; the page would be too large: the message has the arithmetic.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> lstm, x = LSTM(1, 4, rng=0), np.sin(np.arange(30.0)).reshape(30, 1, 1)
    >>> output, h_n, trace = lstm.forward(x)
    >>> back = lstm.backward(trace, np.ones((30, 1, 4)))
    >>> page = html(lstm, trace, back, stops=["norm(dh_prev) < 1e-2"])
    >>> page.startswith("<!doctype html>"), len(page) < 120_000
    (True, True)
    """
    of_trace = sequences, names, steps, stops, tk, compare
    page, fixed = _page(contents(layer, trace, result, *of_trace, precision, max_mb), title, lang)
    return "".join(_pieces(page, fixed))


def write_html(
    path: str | os.PathLike[str],
    layer: Recurrent,
    trace: Trace,
    result: BackwardResult | None = None,
    *,
    sequences: int | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    steps: range | slice | tuple[int, int] | None = None,
    stops: Sequence[Any] | None = None,
    tk: Any = None,
    compare: Trace | None = None,
    title: str | None = None,
    precision: str = "exact",
    lang: str = "en",
    max_mb: float = 20.0,
) -> None:
    """Write the page that `html` returns to a file, which appears whole or not at all.

    Parameters
    ----------
    path : path
    layer, trace, result, sequences, names, steps, stops, tk, compare, title, precision, lang, max_mb
        As of `html`.

    Raises
    ------
    OptionError
        As of `html`; and where the file cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"debug.write_html: path must be that of the file to write, as 'page.html'; got {path!r}")
    of_trace = sequences, names, steps, stops, tk, compare
    with _named("debug.write_html"):
        page, fixed = _page(contents(layer, trace, result, *of_trace, precision, max_mb), title, lang)
    try:
        with replacing(path) as file:
            for piece in _pieces(page, fixed):
                file.write(piece.encode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OptionError(f"debug.write_html: {os.fspath(path)!r} cannot be written: {reason}") from error


@dataclass(frozen=True)
class Page:
    """A page that a notebook shows.

    Attributes
    ----------
    html : str
        The page.
    table : str
        What a notebook shows that is not trusted with scripts: a step as a table.
    height : int
        In pixels.
    """

    html: str
    table: str
    height: int = 720

    def _repr_html_(self) -> str:
        page = entities.escape(self.html)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="rnn_numpy" width="100%" height="{self.height}">'
            f"</iframe><details><summary>table</summary>{self.table}</details>"
        )

    def __repr__(self) -> str:
        return f"Page of {len(self.html) / 1e6:.1f} MB, for a notebook; write_html makes a file of it"


def show(
    layer: Recurrent, trace: Trace, result: BackwardResult | None = None, height: int = 720, **options: Any
) -> Page:
    """Show the page in a notebook.

    Parameters
    ----------
    layer, trace, result
        As of `html`.
    height : int
        In pixels.
    **options
        As of `html`.

    Returns
    -------
    Page
        A notebook shows it where it is the last thing in a cell.
    """
    height = arguments.positive_int("debug.show", "height", height)
    with _named("debug.show"):
        page = html(layer, trace, result, **options)
    return Page(page, trace[-1]._repr_html_(), height)


# ------------------------------------------------------------------------------------------------ parts


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Let an error about the contents name the function that was called."""
    try:
        yield
    except RNNNumpyError as error:
        error.args = (str(error).replace(f"{WHERE}:", f"{where}:", 1),)
        raise


def _page(page: Contents, title: str | None, lang: str) -> tuple[Contents, dict[str, str]]:
    """Return the contents and, by its place in the template, all that is not data."""
    arguments.one_of(WHERE, "lang", lang, LANGUAGES)
    words = json.loads(_file("words.json"))[lang]
    title = page.header["layer"] if title is None else str(title)
    page.header.update(title=title, lang=lang, words=words, made=_made())
    script, style = _file("script.js"), _file("style.css")
    fixed = {
        **{f"word {name}": entities.escape(word) for name, word in words.items()},
        "lang": lang,
        "title": entities.escape(title.encode("utf-8", "replace").decode()),
        "script": script,
        "style": style,
        "script hash": _hash(script),
        "style hash": _hash(style),
    }
    return page, fixed


def _made() -> str:
    from rnn_numpy import __version__

    return f"rnn_numpy {__version__}, NumPy {np.__version__}"


def _pieces(page: Contents, fixed: dict[str, str]) -> Iterator[str]:
    """Yield the page's text, piece by piece."""
    # One substitution, so that no text that goes in is read as a place for another.
    whole = re.sub(r"\{\{([a-z_ ]+)\}\}", lambda match: fixed[match[1]], _file("template.html"))
    before, after = whole.split("<!-- data -->")
    yield before
    # Any "<" in a string would be one of HTML's: as \u003c it is JSON's.
    yield '<script type="application/json" id="header">'
    yield json.dumps(page.header, allow_nan=False).replace("<", "\\u003c")
    yield "</script>\n"
    for number, block in enumerate(page.blocks):
        yield f'<script type="application/octet-stream" id="block{number}">'
        yield base64.b64encode(block.data if block.size else b"").decode()
        yield "</script>\n"
    yield after


def _file(name: str) -> str:
    return resources.files("rnn_numpy.debug.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
