"""The files that a command writes: looked at before the work, and never seen half written.

json and tempfile are imported where they are used: `--help` and `--version` need neither, and would wait for them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rnn_numpy.cli.outcome import BadInputError
from rnn_numpy.core.files import replacing


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path] = ()) -> None:
    """Find out before the work, not after it, whether the results can be written.

    Parameters
    ----------
    outputs : mapping of str to path
        The file to write, by the option that names it: {"--out": ..., "--json": ...}.
    inputs : iterable of path
        Files that the command reads.

    Raises
    ------
    BadInputError
        Two options name one file; an output is an input, a directory, or cannot be written.

    Examples
    --------
    >>> check_outputs({"--out": Path("flow.png"), "--json": Path("./flow.png")})
    Traceback (most recent call last):
        ...
    rnn_numpy.cli.outcome.BadInputError: flow.png: --out and --json are the same file
    """
    import tempfile

    reads, seen = tuple(inputs), dict[Path, str]()
    for option, path in outputs.items():
        try:
            target = path.resolve()
            if target in seen:
                raise BadInputError(f"{path}: {seen[target]} and {option} are the same file")
            if any(target == read.resolve() for read in reads):
                raise BadInputError(f"{path}: this is the file to read; the results would overwrite it")
            if target.is_dir():
                raise BadInputError(f"{path}: is a directory; name a file")
            if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
                raise BadInputError(f"{path}: exists and is not a file that can be written")
            if not target.parent.is_dir():
                raise BadInputError(f"{path}: there is no directory {target.parent}; create it first")
            with tempfile.TemporaryFile(dir=target.parent):
                seen[target] = option
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            raise BadInputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place under its name only once it is complete: a reader never sees half of it.

    As `core.files.replacing` does it; where anything goes wrong, what was there stays.

    Raises
    ------
    BadInputError
        The file cannot be written.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_json(path: Path, numbers: Any) -> None:
    """Write numbers as JSON that every reader takes: no NaN, no Infinity.

    Parameters
    ----------
    path : path
    numbers : dict or list
        Made of what JSON knows; a number that is not finite is None.

    Raises
    ------
    BadInputError
        The file cannot be written.
    """
    import json

    with atomic(path) as file:
        file.write((json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())
