"""`rnn-numpy benchmark`: train cells on a task that needs memory, and say which of them solve it."""

from __future__ import annotations

import argparse
import functools

from rnn_numpy.cli.common import (
    Outcome,
    add_option,
    add_outputs,
    check_before,
    check_distinct,
    finite_number,
    positive_int,
    positive_number,
    working,
    written,
)
from rnn_numpy.experiments.task_benchmark import CELLS, TASKS, BenchmarkOptions, run_benchmark
from rnn_numpy.report.plots import benchmark_figure
from rnn_numpy.report.task_benchmark import benchmark_report


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `benchmark` to the sub-commands.

    Parameters
    ----------
    commands
        What `add_subparsers` of the main parser returns.
    """
    defaults = BenchmarkOptions()
    parser = commands.add_parser(
        "benchmark",
        help="train cells on tasks that need memory, and say which solve them",
        description="Train a net of each cell on a task that nothing but memory solves, at each length, until "
        "it is solved or the updates run out: which solve it, after how many updates, how far below the baseline they "
        "end, how often clipping engaged, and the half-life of the gradient before and after. The defaults take a "
        "minute or two on a core of their own; so does each seed of an LSTM at length 100.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)

    add = functools.partial(add_option, parser)
    add("--task", f"one of {', '.join(TASKS)}", defaults.task, "TASK", choices=tuple(TASKS))
    add(
        "--lengths",
        "steps of the sequences; of copy, the delay",
        tuple(defaults.lengths),
        "T",
        nargs="+",
        type=positive_int,
    )
    add(
        "--cells",
        f"any of {', '.join(CELLS)}; irnn is rnn-relu that starts at the identity",
        tuple(defaults.cells),
        "CELL",
        nargs="+",
        choices=CELLS,
    )
    add("--seeds", "seeds: 0, 1, ... up to as many", defaults.seeds, "K", type=positive_int)
    add("--hidden", "hidden units", defaults.hidden, "H", type=positive_int)
    add("--batch", "sequences per update", defaults.batch, "N", type=positive_int)
    add("--max-updates", "updates after which a run gives up", defaults.max_updates, "K", type=positive_int)
    add("--lr", "learning rate of Adam", defaults.lr, "RATE", type=positive_number)
    add("--clip", "clip the norm of all gradients together to this", defaults.clip, "NORM", type=positive_number)
    add("--forget-bias", "bias of the forget gates of lstm at the start", defaults.forget_bias, "B", type=finite_number)
    add_outputs(add, "benchmark.png")


def run(arguments: argparse.Namespace) -> Outcome:
    """Train, write the figure and the numbers, and return the table.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the parser that `add_parser` adds.

    Raises
    ------
    BadInputError, RNNNumpyError
        The line to print: what cannot be combined, computed or written, or which package is missing.
    """
    check_before(arguments)
    check_distinct("--cells", arguments.cells)
    check_distinct("--lengths", arguments.lengths)
    options = BenchmarkOptions(
        task=arguments.task,
        lengths=tuple(arguments.lengths),
        cells=tuple(arguments.cells),
        seeds=arguments.seeds,
        hidden=arguments.hidden,
        batch=arguments.batch,
        max_updates=arguments.max_updates,
        lr=arguments.lr,
        clip=arguments.clip,
        forget_bias=arguments.forget_bias,
    )
    with working("benchmark", options.hidden) as tell:
        result = run_benchmark(options, tell)
        tell(1, 1, "drawing")
        figure = benchmark_figure(result)
        report = benchmark_report(result)
    return written(arguments, report, figure, result.to_dict())
