"""A step as a table of HTML, without a script: what a notebook shows, also one that is not trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence

TITLES = ("name", "shape", "min", "max", "norm", "non-finite")
LONGEST = 120  # of a bar, in pixels


def table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Return the table of a step from its lines, whose fields are `TITLES`; norms drawn as bars, on a log scale."""
    import html  # here: few runs write a table

    head = "".join(f'<th scope="col">{one}</th>' for one in (*TITLES, "norm, log"))
    logs = [math.log10(norm) if 0 < (norm := float(row[4])) < math.inf else None for row in rows]
    known = [log for log in logs if log is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    body = []
    for row, log in zip(rows, logs, strict=True):
        name, *numbers = (html.escape(field) for field in row)
        cells = "".join(f"<td>{field}</td>" for field in numbers)
        length = 0.0 if log is None else 4 + (LONGEST - 4) * ((log - low) / (high - low) if high > low else 1)
        bar = (
            f'<svg width="{LONGEST}" height="10" role="img" aria-label="norm {html.escape(row[4])}">'
            f'<rect width="{length:.1f}" height="10" fill="#4a7ebb"/></svg>'
        )
        body.append(f'<tr><th scope="row">{name}</th>{cells}<td style="text-align: left">{bar}</td></tr>')
    return (
        f"<table><caption>{html.escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
        "</table>"
    )
