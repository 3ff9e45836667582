"""Time a training step, or inference, of our layers and of others': `python -m benchmarks.train_step`.

README.md, beside this file, says what is timed and how to read the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.cases import CELLS, DTYPES, GRID, MODES, Case, Size
from benchmarks.contenders import CONTENDERS, ONNX, OURS, covers, missing
from benchmarks.measure import (
    FIELDS,
    Measurement,
    UnequalResultsError,
    cores,
    expected,
    machine,
    measure,
    rate,
    source_digest,
    start,
)
from benchmarks.worker import Worker, WorkerError

OTHERS = tuple(name for name in CONTENDERS if name != OURS)

ROUNDS, SMOKE_ROUNDS = 15, 1
SMOKE_SIZES: tuple[Size, ...] = ((20, 8, 64, 64),)
PATIENCE = 20.0  # seconds per point, spent on repeating rounds that were disturbed
START_SECONDS = 4.0  # until all contenders have loaded their libraries


def size_of(text: str) -> Size:
    """Read "T,N,D,H".

    Examples
    --------
    >>> size_of("100,1,32,32")
    (100, 1, 32, 32)
    """
    try:
        steps, batch, inputs, hidden = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is T,N,D,H, as in 100,8,64,64; got {text!r}") from None
    if min(steps, batch, inputs, hidden) < 1:
        raise argparse.ArgumentTypeError(f"T, N, D and H must be at least 1; got {text!r}")
    return steps, batch, inputs, hidden


def threads_of(text: str) -> int:
    """Read a number of threads, or "all"."""
    if text == "all":
        return cores()
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"threads must be a number from 1 on, or all; got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Read a number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on; got {text!r}")
    return int(text)


def seconds_of(text: str) -> float:
    """Read a finite number of seconds from 0 on."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 on; got {text!r}")
    return seconds


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=(__doc__ or "").split(":")[0])
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all")
    made.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    made.add_argument(
        "--contenders",
        nargs="+",
        choices=OTHERS,
        help="whom to compare with; default: all that are installed",
    )
    made.add_argument("--sizes", nargs="+", type=size_of, metavar="T,N,D,H", help="default: the grid of README.md")
    made.add_argument("--threads", nargs="+", type=threads_of, metavar="K|all", default=None, help="default: 1 all")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default: both")
    made.add_argument("--repeats", type=positive, help=f"rounds, each a block of steps of all; default {ROUNDS}")
    made.add_argument(
        "--patience",
        type=seconds_of,
        default=PATIENCE,
        metavar="S",
        help="seconds a point may wait for a quiet machine",
    )
    made.add_argument(
        "--without-avx512",
        action="store_true",
        help=f"libraries choose as on a processor without AVX-512; {ONNX}, which cannot be told, is left out",
    )
    made.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU time, which other programs hardly change, in place of time; with one thread",
    )
    made.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    made.add_argument("--smoke", action="store_true", help="one small size, one round: does it all work? About 25 s")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal results or a worker that fails."""
    options = parser().parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    names = [OURS, *_present(options.contenders)]
    if options.cpu_time and options.threads != [1]:
        parser().error("--cpu-time: of several threads, CPU time says nothing; add --threads 1")
    if options.without_avx512:
        names = [name for name in names if name != ONNX]
    sizes = list(dict.fromkeys(options.sizes or (SMOKE_SIZES if options.smoke else GRID)))
    threads = list(dict.fromkeys(options.threads or (1, cores())))
    rounds = options.repeats or (SMOKE_ROUNDS if options.smoke else ROUNDS)
    patience = 0.0 if options.smoke else options.patience
    kinds = itertools.product(options.cells, options.modes, sizes, options.dtypes)
    cases = list(dict.fromkeys(Case(cell, size, dtype, mode=mode) for cell, mode, size, dtype in kinds))
    # Where nobody is to be compared with there is nothing to measure.
    cases = [case for case in cases if len(_able(names, case)) > 1]
    if not cases:
        parser().error(f"--contenders: {', '.join(names[1:])} can do none of the chosen modes and dtypes")
    began, state = time.perf_counter(), source_digest()
    try:
        measurements, environments = run(
            cases, names, threads, rounds, patience, not options.without_avx512, options.cpu_time
        )
    except (UnequalResultsError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if source_digest() != state:
        print("error: rnn_numpy's source changed during the run: its points are of different code", file=sys.stderr)
        return 1
    for cell, mode, count in itertools.product(options.cells, options.modes, threads):
        points = [m for m in measurements if (m.case.cell, m.case.mode, m.threads) == (cell, mode, count)]
        if points:
            print(tables.table(points) + "\n")
    print(tables.conclusion(measurements))
    if options.json is not None:
        document = {
            "options": {
                "cells": options.cells,
                "modes": options.modes,
                "contenders": names[1:],
                "sizes": sizes,
                "threads": threads,
                "dtypes": options.dtypes,
                "repeats": rounds,
                "patience": patience,
                "avx512": not options.without_avx512,
                "cpu_time": options.cpu_time,
            },
            "machine": machine(),
            "contenders": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "points_counted": sum(not m.noisy for m in measurements),
            "geometric_means": tables.means(measurements),
            "targets": tables.judge(measurements),
            "fields": FIELDS,
            "measurements": [m.to_json() for m in measurements],
        }
        options.json.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    return 0


def run(
    cases: Sequence[Case],
    names: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    patience: float,
    avx512: bool = True,
    cpu: bool = False,
) -> tuple[list[Measurement], dict[str, dict[str, Any]]]:
    """Measure all cases with each number of threads.

    Parameters
    ----------
    cases : sequence of Case
    names : sequence of str
        Contenders.
    threads : sequence of int
    rounds : int
    patience : float
        As in `measure`. A point that stays disturbed is measured once more, later, whatever came out.
    avx512 : bool
        As of `Worker`.
    cpu : bool
        As in `measure`.

    Returns
    -------
    list of Measurement
    dict
        What the contenders say of themselves, by number of threads (as text) and name.

    Raises
    ------
    UnequalResultsError, WorkerError
    """
    rates = {dtype: rate(dtype) for dtype in dict.fromkeys(case.dtype for case in cases)}
    costs = [[expected(case, count, _able(names, case), rounds, rates) for case in cases] for count in threads]
    total = sum(map(sum, costs))
    print(
        f"{len(cases) * len(threads)} points, {rounds} rounds of {', '.join(names)}: "
        f"about {tables.duration(total + START_SECONDS * len(threads))} on a quiet machine\n",
        flush=True,
    )
    measurements: list[Measurement] = []
    environments: dict[str, dict[str, Any]] = {}
    done = 0.0
    with tables.progress(total) as report:
        for count, expectations in zip(threads, costs, strict=True):
            with start(names, count, avx512) as workers:
                environments[str(count)] = {name: worker.environment for name, worker in workers.items()}
                points: list[Measurement] = []
                for case, seconds in zip(cases, expectations, strict=True):
                    report(done, f"{case}, threads {count}")
                    points.append(measure(_those(workers, case), case, count, rounds, patience, cpu))
                    done += seconds
                for index, point in enumerate(points):
                    if point.noisy and patience > 0:
                        report(done, f"again {point.case}, threads {count}")
                        able = _those(workers, point.case)
                        points[index] = measure(able, point.case, count, rounds, patience, cpu)
                measurements += points
    return measurements, environments


def _present(wanted: Sequence[str] | None) -> list[str]:
    """Return the contenders to compare with: those asked for, which must be installed, or all that are."""
    lacking = {name: missing(name) for name in wanted or OTHERS}
    for name, libraries in lacking.items():
        text = f'{name}: {" and ".join(libraries)} not installed; install with: pip install "rnn_numpy[test]"'
        if libraries and wanted:
            parser().error(f"--contenders {text}")
        if libraries:
            print(f"left out, {text}")
    return [name for name, libraries in lacking.items() if not libraries]


def _able(names: Iterable[str], case: Case) -> list[str]:
    return [name for name in names if covers(name, case)]


def _those(workers: Mapping[str, Worker], case: Case) -> dict[str, Worker]:
    return {name: workers[name] for name in _able(workers, case)}


if __name__ == "__main__":
    sys.exit(main())
