"""The command `rnn-numpy benchmark`: train cells on a task that needs memory, and say which of them solve it.

Exit codes and the rest of the behaviour are those of `rnn_numpy.cli`, which runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from rnn_numpy.cli import (
    _atomic,
    _BadInputError,
    _check_outputs,
    _file,
    _number,
    _positive_int,
    _positive_number,
    _progress,
)
from rnn_numpy.core.extras import optional_import
from rnn_numpy.lab.benchmark import CELLS, TASKS, BenchmarkOptions, run_benchmark
from rnn_numpy.lab.benchmark_plot import benchmark_figure
from rnn_numpy.lab.benchmark_report import benchmark_report
from rnn_numpy.lab.plots import check_figure_path, save_figure
from rnn_numpy.lab.threads import one_blas_thread
from rnn_numpy.tasks import BUNDLED


def add_parser(commands: Any) -> None:
    """Add the command to those of `rnn-numpy`.

    Parameters
    ----------
    commands : what argparse's add_subparsers returns
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

    def add(name: str, explanation: str, default: Any, metavar: str | None = None, **how: Any) -> None:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        parser.add_argument(name, default=default, metavar=metavar, help=f"{explanation} (default: {shown})", **how)

    add("--task", f"one of {', '.join(TASKS)}", defaults.task, "TASK", choices=tuple(TASKS))
    add(
        "--lengths",
        "steps of the sequences; of copy, the delay",
        tuple(defaults.lengths),
        "T",
        nargs="+",
        type=_positive_int,
    )
    add(
        "--cells",
        f"any of {', '.join(CELLS)}; irnn is rnn-relu that starts at the identity",
        tuple(defaults.cells),
        "CELL",
        nargs="+",
        choices=CELLS,
    )
    add("--seeds", "seeds: 0, 1, ... up to as many", defaults.seeds, "K", type=_positive_int)
    add("--hidden", "hidden units", defaults.hidden, "H", type=_positive_int)
    add("--batch", "sequences per update", defaults.batch, "N", type=_positive_int)
    add("--max-updates", "updates after which a run gives up", defaults.max_updates, "K", type=_positive_int)
    add("--lr", "learning rate of Adam", defaults.lr, "RATE", type=_positive_number)
    add("--clip", "clip the norm of all gradients together to this", defaults.clip, "NORM", type=_positive_number)
    add("--forget-bias", "bias of the forget gates of lstm at the start", defaults.forget_bias, "B", type=_number)
    add("--out", "figure to write: .png, .pdf or .svg", Path("benchmark.png"), "FILE", type=_file)
    add("--json", "write all numbers here", None, "FILE", type=_file)


def run(arguments: argparse.Namespace) -> str:
    """Run the command; return what it prints.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the parser that `add_parser` adds.

    Returns
    -------
    str
    """
    for module, purpose in (("rich", "the table"), ("matplotlib", "the figure")):
        optional_import(module, purpose)
    json_path: Path | None = arguments.json
    suffix = check_figure_path(arguments.out)
    # No file is read: a bundled name stands for that.
    _check_outputs([arguments.out] if json_path is None else [arguments.out, json_path], BUNDLED[0])
    for name, values in (("--cells", arguments.cells), ("--lengths", arguments.lengths)):
        if len(set(values)) < len(values):
            raise _BadInputError(f"{name}: {' '.join(map(str, values))} names one network twice")
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
    with _progress() as tell, threads:
        result = run_benchmark(options, tell)
        tell(1, 1, "drawing")
        figure = benchmark_figure(result)
        report = benchmark_report(result)
    with _atomic(arguments.out) as file:
        save_figure(figure, file, suffix)
    written = [f"Figure: {arguments.out}"]
    if json_path is not None:
        with _atomic(json_path) as file:
            file.write((json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        written.append(f"Numbers: {json_path}")
    return f"{report}\n" + "\n".join(written) + "\n"
