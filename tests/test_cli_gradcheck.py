"""The arguments of `rnn-numpy gradcheck`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from rnn_numpy.cli.gradcheck import CELLS, METHODS, add_parser


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="rnn-numpy", exit_on_error=False)
    return add_parser(main_parser.add_subparsers())


def test_the_defaults_are_the_documented_ones(parser: argparse.ArgumentParser) -> None:
    assert vars(parser.parse_args([])) == {
        "target": None,
        "cells": CELLS,
        "zoo": False,
        "layers": 1,
        "bidirectional": False,
        "length": 10,
        "hidden": 4,
        "batch": 3,
        "input": 2,
        "method": "auto",
        "dtype": "float64",
        "seed": 0,
        "json": None,
        "verbose": False,
    }


def test_sizes_all_differ_so_that_swapped_axes_show(parser: argparse.ArgumentParser) -> None:
    defaults = parser.parse_args([])
    assert len({defaults.length, defaults.hidden, defaults.batch, defaults.input}) == 4


def test_every_option_reaches_its_name(parser: argparse.ArgumentParser) -> None:
    line = (
        "--cells lstm-projected gru-before --layers 2 --bidirectional --length 50 --hidden 7 --batch 5 --input 6 "
        "--method ridders --dtype float32 --seed 9 --json n.json --verbose"
    )
    assert vars(parser.parse_args(line.split())) == {
        "target": None,
        "cells": ["lstm-projected", "gru-before"],
        "zoo": False,
        "layers": 2,
        "bidirectional": True,
        "length": 50,
        "hidden": 7,
        "batch": 5,
        "input": 6,
        "method": "ridders",
        "dtype": "float32",
        "seed": 9,
        "json": Path("n.json"),
        "verbose": True,
    }


@pytest.mark.parametrize("line", ["{} --seed 1 --verbose", "--seed 1 {} --verbose", "--verbose --seed 1 {}"])
def test_the_target_stands_anywhere(parser: argparse.ArgumentParser, line: str) -> None:
    arguments = parser.parse_args([word.format("my model.py:loss") for word in line.split()])
    assert (arguments.target, arguments.seed, arguments.verbose) == ("my model.py:loss", 1, True)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_can_be_chosen(parser: argparse.ArgumentParser, cell: str) -> None:
    assert parser.parse_args(["--cells", cell]).cells == [cell]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_chosen(parser: argparse.ArgumentParser, method: str) -> None:
    assert parser.parse_args(["--method", method]).method == method


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m.py:loss --cells lstm", "argument --cells: not allowed with argument TARGET"),
        ("m.py:loss --zoo", "argument --zoo: not allowed with argument TARGET"),
        ("--zoo --cells lstm", "argument --cells: not allowed with argument --zoo"),
        ("--zoo m.py:loss", "argument TARGET: not allowed with argument --zoo"),
        ("m.py:loss n.py:loss", "unrecognized arguments: n.py:loss"),
        ("--cells elman", "argument --cells: invalid choice: 'elman' (choose from "),
        ("--cells", "argument --cells: expected at least one argument"),
        ("--method exact", "argument --method: invalid choice: 'exact' (choose from "),
        ("--dtype float16", "argument --dtype: invalid choice: 'float16' (choose from "),
        ("--layers 0", "argument --layers: must be a whole number of at least 1; got '0'"),
        ("--length 0", "argument --length: must be a whole number of at least 1; got '0'"),
        ("--hidden x", "argument --hidden: must be a whole number of at least 1; got 'x'"),
        ("--batch 1.5", "argument --batch: must be a whole number of at least 1; got '1.5'"),
        ("--input -2", "argument --input: must be a whole number of at least 1; got '-2'"),
        ("--seed -1", "argument --seed: must be a whole number of at least 0; got '-1'"),
        ("--json -", "argument --json: must be the name of a file; got '-'"),
        ("--len 5", "unrecognized arguments: --len"),
    ],
)
def test_bad_options(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(line.split())
    assert caught.value.code == 2
    assert f"rnn-numpy gradcheck: error: {message}" in capsys.readouterr().err


def test_help_names_every_choice(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    assert f"any of {', '.join(CELLS)} (default: all)" in text
    assert f"the reference: {', '.join(METHODS)} (default: auto)" in text
    assert "of the checked pass: float64 or float32 (default: float64)" in text
    assert "FILE.py:FUNCTION, a function of yours that returns (loss, grads, params)" in text
