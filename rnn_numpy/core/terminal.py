"""How wide the lines of a text may be."""

from __future__ import annotations

import os

WIDTH = 100


def line_width() -> int:
    """Return what the environment's COLUMNS says, at least 40; 100 where it says nothing.

    A shell keeps COLUMNS to itself unless it is exported, so a terminal and a pipe get the same text.
    """
    asked = os.environ.get("COLUMNS", "")
    return max(40, int(asked)) if asked.isdecimal() and int(asked) else WIDTH
