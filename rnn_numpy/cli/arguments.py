"""What sub-commands share in their parsers: types of arguments, and options whose help tells their default.

A type takes the text and returns the value, or raises the error that argparse prints after the option's name.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any


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
