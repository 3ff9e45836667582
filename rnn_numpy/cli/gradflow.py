"""`rnn-numpy gradflow`: train small networks on a real series, and measure how the gradient flows back through time."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from rnn_numpy.cli.common import (
    BadInputError,
    Outcome,
    add_option,
    add_outputs,
    check_before,
    check_distinct,
    finite_number,
    positive_int,
    positive_number,
    whole_number,
    working,
    written,
)
from rnn_numpy.experiments.gradflow import GradflowOptions, run_gradflow
from rnn_numpy.lab.gradient_flow import INITS
from rnn_numpy.models.sequence import CELLS
from rnn_numpy.report.gradflow import gradflow_report
from rnn_numpy.report.plots import gradient_flow_figure
from rnn_numpy.tasks import BUNDLED, ForecastTask, load_series


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `gradflow` to the sub-commands; its arguments say that `run` runs it.

    Parameters
    ----------
    commands
        What `add_subparsers` of the main parser returns.
    """
    defaults = GradflowOptions()
    parser = commands.add_parser(
        "gradflow",
        help="measure how the gradient flows back through time",
        description="Train networks to forecast the next sample of a series, and measure how the gradient of the last "
        "step's error flows back through time: norm by lag, decay per step, half-life, and whether it vanishes or "
        "explodes. Every cell is combined with every gain. Of an LSTM it is the gradient of h and c together.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    add = functools.partial(add_option, parser)
    add(
        "--data",
        f"{', '.join(BUNDLED)} (they come with matplotlib), or a file .csv or .npy: time runs down the rows, "
        "a channel is a column",
        "eeg",
        "SERIES",
    )
    add("--columns", "channels to use, by name or by number from 1, or all of them: all", "all", "C", nargs="+")
    add("--cells", f"any of {', '.join(CELLS)}", tuple(defaults.cells), "CELL", nargs="+", choices=tuple(CELLS))
    add(
        "--gain",
        "spectral radius of W_hh at the start; of lstm and gru, of each gate's block of it",
        tuple(defaults.gains),
        "G",
        nargs="+",
        type=positive_number,
    )
    add(
        "--init",
        f"how W_hh, or each gate's block of it, is drawn: {', '.join(INITS)}; then it is scaled to the gain",
        defaults.init,
        choices=INITS,
    )
    add(
        "--forget-bias",
        "bias of the forget gates of lstm at the start; 1, say, makes the cell keep more of what it holds, and of its "
        "gradient; left out, it is drawn as all other parameters are, near 0",
        defaults.forget_bias,
        "B",
        type=finite_number,
    )
    add("--length", "steps of a window: the longest lag", defaults.length, "T", type=positive_int)
    add("--hidden", "hidden units", defaults.hidden, "H", type=positive_int)
    add("--batch", "windows measured, and windows per training step", defaults.batch, "N", type=positive_int)
    add("--layers", "recurrent layers; the top one is measured", defaults.layers, "L", type=positive_int)
    add(
        "--train-steps",
        "training steps, after which all is measured again; 0 measures untrained networks only",
        defaults.train_steps,
        "K",
        type=whole_number,
    )
    add("--lr", "learning rate of gradient descent with momentum 0.9", defaults.lr, "RATE", type=positive_number)
    add("--clip", "clip the norm of all gradients together to this", defaults.clip, "NORM", type=positive_number)
    add("--seed", "of all random draws", defaults.seed, "S", type=whole_number)
    add_outputs(add, "gradflow.png")


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure, write the figure and the numbers, and return the table.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the parser that `add_parser` adds.

    Raises
    ------
    BadInputError, RNNNumpyError
        The line to print: what cannot be read, combined, computed or written, or which package is missing.
    """
    check_before(arguments, [] if arguments.data in BUNDLED else [Path(arguments.data)])
    check_distinct("--cells", arguments.cells)
    check_distinct("--gain", arguments.gain)
    if arguments.forget_bias is not None and "lstm" not in arguments.cells:
        raise BadInputError(f"--forget-bias: is for lstm, which is not among --cells {' '.join(arguments.cells)}")
    options = GradflowOptions(
        cells=tuple(arguments.cells),
        gains=tuple(arguments.gain),
        init=arguments.init,
        length=arguments.length,
        hidden=arguments.hidden,
        batch=arguments.batch,
        layers=arguments.layers,
        train_steps=arguments.train_steps,
        lr=arguments.lr,
        clip=arguments.clip,
        seed=arguments.seed,
        forget_bias=arguments.forget_bias,
    )
    task = ForecastTask.of(
        load_series(arguments.data, None if arguments.columns in ("all", ["all"]) else arguments.columns),
        options.length,
    )
    with working("gradflow", options.hidden) as tell:
        result = run_gradflow(task, options, tell)
        tell(1, 1, "drawing")
        figure = gradient_flow_figure(result)
        report = gradflow_report(result)
    return written(arguments, report, figure, result.to_dict())
