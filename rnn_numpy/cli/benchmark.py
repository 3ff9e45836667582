"""`rnn-numpy benchmark`: train cells on a task that needs memory, and say which of them solve it."""

from __future__ import annotations

import argparse
import functools

from rnn_numpy.cli import common
from rnn_numpy.cli.common import Outcome
from rnn_numpy.experiments.task_benchmark import CELLS, TASKS, BenchmarkOptions, benchmark_measurement, run_benchmark
from rnn_numpy.report.benchmark_page import benchmark_report
from rnn_numpy.report.plots.task_benchmark import benchmark_figure


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `benchmark` to the sub-commands."""
    parser = commands.add_parser(
        "benchmark",
        description="Train a net of each cell on a task that nothing but memory solves, at each length, until "
        "it is solved or the updates run out: which solve it, after how many updates, how far below the baseline they "
        "end, how often clipping engaged, and how far back the gradient reaches before and after. The defaults take a "
        "minute or two on a core of their own; so does each seed of an LSTM at length 100. Runs are computed in "
        "parallel, and each is kept when it is finished: after Ctrl-C, the same command goes on where it was.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)

    add = functools.partial(common.add_option, parser, BenchmarkOptions())
    add("--task", f"one of {', '.join(TASKS)}", "TASK", choices=tuple(TASKS))
    add("--lengths", "steps of the sequences; of copy, the delay", "T", nargs="+", type=common.positive_int)
    cells = f"any of {', '.join(CELLS)}; irnn is rnn-relu that starts at the identity"
    add("--cells", cells, "CELL", nargs="+", choices=CELLS)
    add("--seeds", "seeds: 0, 1, ... up to as many", "K", type=common.positive_int)
    add("--hidden", "hidden units", "H", type=common.positive_int)
    add("--batch", "sequences per update", "N", type=common.positive_int)
    add("--max-updates", "updates after which a run gives up", "K", type=common.positive_int)
    add("--lr", "learning rate of Adam", "RATE", type=common.positive_number)
    add("--clip", "clip the norm of all gradients together to this", "NORM", type=common.positive_number)
    add("--forget-bias", "bias of the forget gates of lstm at the start", "B", type=common.finite_number)
    common.add_dask(parser)
    common.add_outputs(parser, "benchmark.png")


def run(arguments: argparse.Namespace) -> Outcome:
    """Train, write the figure and the numbers, and return the table."""
    common.check_before(arguments)
    common.check_distinct("--cells", arguments.cells)
    common.check_distinct("--lengths", arguments.lengths)
    options: BenchmarkOptions = common.options_of(BenchmarkOptions, arguments)
    total = len(options.lengths) * len(options.cells) * options.seeds
    work = sum(options.lengths) * total / len(options.lengths) * options.max_updates * options.batch * options.hidden
    measurement = benchmark_measurement(options)
    with common.networks("benchmark", measurement, total, work, arguments.out, arguments.dask) as given:
        result = run_benchmark(options, given.progress, executor=given.executor, store=given.store)
        return common.written(arguments, benchmark_report(result), benchmark_figure(result), result.to_dict())
