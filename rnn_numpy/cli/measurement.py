"""What commands that measure networks share: a table on stdout, a figure, and the numbers in a file if asked for."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rnn_numpy.cli.arguments import file_path
from rnn_numpy.cli.files import atomic, check_outputs, write_json
from rnn_numpy.cli.outcome import BadInputError, Outcome
from rnn_numpy.cli.progress import Tell, progress
from rnn_numpy.core.extras import optional_import
from rnn_numpy.lab.plots import check_figure_path, save_figure
from rnn_numpy.lab.threads import one_blas_thread

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
    rnn_numpy.cli.outcome.BadInputError: --gain: 1.0 0.5 1.0 names one network twice
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
