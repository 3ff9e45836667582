"""How a command ends: with a text and an exit code, or with one line that says what is wrong with the input."""

from __future__ import annotations

from typing import NamedTuple

# What the command was asked to check is wrong; its report says where.
FAILED = 1
# These are for main to return; a sub-command raises what leads to them.
BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141


class Outcome(NamedTuple):
    """What the `run` of a sub-command returns: what to print on standard output, and the exit code after it.

    Examples
    --------
    >>> Outcome("all gradients agree").code, Outcome("weight_hh_l0 is wrong", FAILED).code
    (0, 1)
    """

    text: str
    code: int = 0


class BadInputError(Exception):
    """What the command cannot work with; its text is the line to print."""
