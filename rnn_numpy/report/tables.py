"""Tables and sentences for a terminal, at most 100 columns wide or as COLUMNS says: the look that all reports share."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Any

from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.terminal import line_width

TABLE = 100  # columns that a table may take, however few COLUMNS has: numbers are not cut off


def short(value: float | None) -> str:
    """Write a number of any size in at most seven characters.

    >>> short(0.000123), short(6.03e-33), short(4.4e-191), short(0.0), short(math.inf), short(None)
    ('1.2e-4', '6.0e-33', '4e-191', '0', 'inf', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    if len(exponent) > 3:
        mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def plain(value: float | None) -> str:
    """Write a number with three digits where it has an everyday size, else as `short` does.

    >>> plain(0.25149), plain(0.008834), plain(1381.2), plain(9.999), plain(4.7e66)
    ('0.251', '0.00883', '1381', '10.0', '4.7e66')
    """
    if value is None or not math.isfinite(value) or not 1e-3 <= abs(value) < 1e5:
        return short(value)
    return f"{value:.{max(0, 2 - int(f'{value:.2e}'.split('e')[1]))}f}"  # the exponent after rounding


def new_table(headings: Iterable[str] = (), left: Container[str] = (), fold: Container[str] = ()) -> Any:
    """Return a rich table in the look that all reports share, without rows.

    The columns `left` are flush left, all others right; in those of `fold`, what is too long goes on in the next line.
    """
    tables, box = optional_import("rich.table", "the table"), optional_import("rich.box", "the table")
    table = tables.Table(header_style="", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in headings:
        justify, overflow = "left" if heading in left else "right", "fold" if heading in fold else "ellipsis"
        table.add_column(heading, justify=justify, overflow=overflow)
    return table


def rendered(table: Any) -> str:
    """Return a rich table as text, the same for a terminal and for a pipe."""
    console = optional_import("rich.console", "the table")
    text = io.StringIO()
    # Neither the terminal nor the rest of the environment decides how it looks: a pipe gets the same text.
    printer = console.Console(
        file=text, width=TABLE, color_system=None, force_terminal=False, _environ={}, legacy_windows=False
    )
    needed = printer.measure(table).maximum  # at most TABLE
    printer.width = max(line_width(), needed)
    printer.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def paragraph(text: str) -> str:
    """Return a text broken into lines."""
    return textwrap.fill(text, line_width(), break_on_hyphens=False) + "\n"


def reading_notes(notes: Sequence[str]) -> list[str]:
    """Return what people should know of how a file was read, as paragraphs: one, or none."""
    return [paragraph(f"As read: {'; '.join(notes)}.")] if notes else []


def span(values: Collection[Any], text: Callable[[Any], str], to: str = "–") -> str:
    """Write one number, or the smallest and the largest of several; nothing where there are none.

    >>> span([3, 1, 2], str), span([0.101, 0.1], "{:.2f}".format)
    ('1–3', '0.10')
    """
    low, high = (text(extreme(values)) if values else "" for extreme in (min, max))
    return low if low == high else f"{low}{to}{high}"


def listed(names: Sequence[str]) -> str:
    """Write names as a sentence does.

    >>> listed(["i", "f", "o"])
    'i, f and o'
    """
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
