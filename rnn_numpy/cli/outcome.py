"""What a sub-command gives back, and the exit codes; apart from `common`, since `--help` needs nothing else."""

from __future__ import annotations

from typing import NamedTuple

# A sub-command returns 0, FAILED where what it was asked to check is wrong, or UNDECIDED where it cannot be told; the
# others are for `main` to return.
FAILED, BAD_INPUT, UNDECIDED, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 130, 141


class Outcome(NamedTuple):
    """The result of a sub-command's `run`: the text for standard output, the exit code, and numbers for it as JSON.

    With numbers, or with --quiet, the text is not printed.
    """

    text: str
    code: int = 0
    numbers: str = ""


class BadInputError(Exception):
    """Input that the command cannot work with; its text is the line to print."""
