"""What sub-commands share: how they end, options and their types, files, a bar while the work lasts, and the results.

json and tempfile are imported where they are used: `--help` and `--version` need neither, and would wait for them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple

from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.files import replacing
from rnn_numpy.experiments.progress import progress_bar
from rnn_numpy.experiments.sweep.threads import one_blas_thread
from rnn_numpy.report.plots import check_figure_path, save_figure

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


# ---------------------------------------------------------------------------------------------- options
# A type takes the text and returns the value, or raises the error that argparse prints after the option's name.


def add_option(
    parser: argparse._ActionsContainer,
    name: str,
    explanation: str,
    default: Any,
    metavar: str | None = None,
    **how: Any,
) -> None:
    """Add an option with a value, whose help is the explanation and then the default.

    Parameters
    ----------
    parser : argparse.ArgumentParser or a group of one
    name : str
        "--length", say.
    explanation : str
    default : object
        A tuple is told as the words one would type.
    metavar : str, optional
    **how
        Goes to `add_argument`: type, choices, nargs.

    Examples
    --------
    >>> parser = argparse.ArgumentParser(prog="measure", usage="measure", add_help=False)
    >>> add_option(parser, "--gain", "spectral radius", (0.5, 1.0), "G", nargs="+", type=positive_number)
    >>> parser.print_help()
    usage: measure
    <BLANKLINE>
    options:
      --gain G [G ...]  spectral radius (default: 0.5 1.0)
    """
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    parser.add_argument(name, default=default, metavar=metavar, help=f"{explanation} (default: {shown})", **how)


def file_path(text: str) -> Path:
    """Return the name of a file: neither empty nor "-", which elsewhere stands for a stream.

    Examples
    --------
    >>> file_path("-")
    Traceback (most recent call last):
        ...
    argparse.ArgumentTypeError: must be the name of a file; got '-'
    """
    if text in ("", "-"):
        raise argparse.ArgumentTypeError(f"must be the name of a file; got {text!r}")
    return Path(text)


def positive_int(text: str) -> int:
    """Return a whole number of at least 1.

    Examples
    --------
    >>> positive_int("0")
    Traceback (most recent call last):
        ...
    argparse.ArgumentTypeError: must be a whole number of at least 1; got '0'
    """
    return _at_least(text, 1)


def whole_number(text: str) -> int:
    """Return a whole number of at least 0.

    Examples
    --------
    >>> whole_number("0")
    0
    """
    return _at_least(text, 0)


def _at_least(text: str, smallest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {smallest}; got {text!r}")
    return number


def finite_number(text: str) -> float:
    """Return a number, neither infinite nor NaN.

    Examples
    --------
    >>> finite_number("-1.5e3")
    -1500.0
    """
    number = _finite(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"must be a finite number; got {text!r}")
    return number


def positive_number(text: str) -> float:
    """Return a finite number greater than 0.

    Examples
    --------
    >>> positive_number("inf")
    Traceback (most recent call last):
        ...
    argparse.ArgumentTypeError: must be a finite number greater than 0; got 'inf'
    """
    number = _finite(text)
    if number is None or number <= 0:
        raise argparse.ArgumentTypeError(f"must be a finite number greater than 0; got {text!r}")
    return number


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# ---------------------------------------------------------------------------------------------- files


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
    rnn_numpy.cli.common.BadInputError: flow.png: --out and --json are the same file
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


# ---------------------------------------------------------------------------------------------- progress

Tell = Callable[[int, int, str], None]


def progress(label: str) -> AbstractContextManager[Tell]:
    """A bar on stderr while the work lasts, from its start on; `progress_bar` says where there is none.

    Parameters
    ----------
    label : str
        What stands in front of the bar until the work tells more.

    Returns
    -------
    context manager
        Of tell(done, total, label): so many of so many are done, and this is being done now.

    Examples
    --------
    >>> with progress("counting") as tell:
    ...     for number in range(3):
    ...         tell(number, 3, f"at {number}")
    """
    return progress_bar(0.0, label)


# ---------------------------------------------------------------------------------------------- measurements

# Units up to which products gain nothing from more threads.
SMALL = 256


def add_outputs(add: Callable[..., None], figure: str) -> None:
    """Add the options --out and --json.

    Parameters
    ----------
    add : callable
        `add_option` of a parser.
    figure : str
        Name of the figure's file where none is given.
    """
    add("--out", "figure to write: .png, .pdf or .svg", Path(figure), "FILE", type=file_path)
    add("--json", "write all numbers here", None, "FILE", type=file_path)


def check_before(arguments: argparse.Namespace, inputs: Iterable[Path] = ()) -> None:
    """Find out before the work whether the packages are there, and whether the files can be written.

    Parameters
    ----------
    arguments : argparse.Namespace
        With `out` and `json`.
    inputs : iterable of path
        Files that the command reads.

    Raises
    ------
    BadInputError, OptionError
        A file cannot be written, or not in this format.
    MissingExtraError
        A package is not installed.
    """
    for module, purpose in (("rich", "the table"), ("matplotlib", "the figure")):
        optional_import(module, purpose)
    check_figure_path(arguments.out)
    outputs = {"--out": arguments.out, "--json": arguments.json}
    check_outputs({option: path for option, path in outputs.items() if path is not None}, inputs)


def check_distinct(option: str, values: Sequence[Any]) -> None:
    """Refuse a list with the same value twice.

    Raises
    ------
    BadInputError
        There is one.

    Examples
    --------
    >>> check_distinct("--gain", [1.0, 0.5, 1.0])
    Traceback (most recent call last):
        ...
    rnn_numpy.cli.common.BadInputError: --gain: 1.0 0.5 1.0 names one network twice
    """
    if len(set(values)) < len(values):
        raise BadInputError(f"{option}: {' '.join(map(str, values))} names one network twice")


@contextlib.contextmanager
def working(label: str, hidden: int) -> Iterator[Tell]:
    """Show a bar while the work lasts, and let small matrix products use one thread.

    Parameters
    ----------
    label : str
        What stands in front of the bar at the start.
    hidden : int
        Units of the networks. Large products are the ones that gain from more threads.

    Yields
    ------
    tell : callable
        As of `progress`.
    """
    threads = one_blas_thread() if hidden <= SMALL else contextlib.nullcontext()
    with progress(label) as tell, threads:
        yield tell


def written(arguments: argparse.Namespace, report: str, figure: Any, numbers: Any) -> Outcome:
    """Write the figure and the numbers, and return the report with the names of the files.

    Parameters
    ----------
    arguments : argparse.Namespace
        With `out` and `json`.
    report : str
    figure : matplotlib.figure.Figure
    numbers : dict
        For `write_json`.

    Raises
    ------
    BadInputError
        A file cannot be written.
    """
    with atomic(arguments.out) as file:
        save_figure(figure, file, check_figure_path(arguments.out))
    lines = [report, f"Figure: {arguments.out}"]
    if arguments.json is not None:
        write_json(arguments.json, numbers)
        lines.append(f"Numbers: {arguments.json}")
    return Outcome("\n".join(lines) + "\n")
