"""`rnn-numpy benchmark`: train cells on a task that needs memory, and say which of them solve it."""

from __future__ import annotations

import argparse
import contextlib
import functools
from pathlib import Path

from rnn_numpy.cli.arguments import add_option, file_path, finite_number, positive_int, positive_number
from rnn_numpy.cli.files import atomic, check_outputs, write_json
from rnn_numpy.cli.outcome import BadInputError, Outcome
from rnn_numpy.cli.progress import progress
from rnn_numpy.core.extras import optional_import
from rnn_numpy.lab.benchmark import CELLS, TASKS, BenchmarkOptions, run_benchmark
from rnn_numpy.lab.benchmark_report import benchmark_report
from rnn_numpy.lab.plots import benchmark_figure, check_figure_path, save_figure
from rnn_numpy.lab.threads import one_blas_thread


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
    add("--out", "figure to write: .png, .pdf or .svg", Path("benchmark.png"), "FILE", type=file_path)
    add("--json", "write all numbers here", None, "FILE", type=file_path)


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
    for module, purpose in (("rich", "the table"), ("matplotlib", "the figure")):
        optional_import(module, purpose)
    json_path: Path | None = arguments.json
    suffix = check_figure_path(arguments.out)
    check_outputs({"--out": arguments.out} if json_path is None else {"--out": arguments.out, "--json": json_path})
    for name, values in (("--cells", arguments.cells), ("--lengths", arguments.lengths)):
        if len(set(values)) < len(values):
            raise BadInputError(f"{name}: {' '.join(map(str, values))} names one network twice")
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
    # Large products are the ones that gain from more threads.
    threads = one_blas_thread() if options.hidden <= 256 else contextlib.nullcontext()
    with progress("benchmark") as tell, threads:
        result = run_benchmark(options, tell)
        tell(1, 1, "drawing")
        figure = benchmark_figure(result)
        report = benchmark_report(result)
    with atomic(arguments.out) as file:
        save_figure(figure, file, suffix)
    written = [f"Figure: {arguments.out}"]
    if json_path is not None:
        write_json(json_path, result.to_dict())
        written.append(f"Numbers: {json_path}")
    return Outcome(f"{report}\n" + "\n".join(written) + "\n")
