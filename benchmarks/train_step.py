"""Time one training step, forward plus backward, of our layer and of torch.nn's: `python -m benchmarks.train_step`.

README.md, beside this file, says what is timed and how to read the table.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary
from benchmarks.cases import CELLS, DTYPES, GRID, SMOKE_GRID, Case, Size
from benchmarks.worker import ROOT, Worker, WorkerError

Array = NDArray[Any]

OURS, RIVAL, PRODUCTS = "rnn_numpy", "torch", "products"

# Largest difference between contenders, relative to the largest entry of the tensor. The products sum in different
# orders; README.md says what was seen.
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}

ROUNDS, SMOKE_ROUNDS = 15, 3
BLOCK_SECONDS = 0.04
FOREIGN_LIMIT = 0.25  # cores; a single-threaded program on the same machine takes up to 1
MIN_QUIET = 0.2  # of the rounds must be undisturbed
PATIENCE = 20.0  # seconds per point, spent on repeating rounds that were disturbed
BLOCK_STEPS = 20  # at most; of more, the raw times would fill the file and tell nothing new


class UnequalResultsError(Exception):
    """Two contenders do not compute the same numbers: their times cannot be compared."""


@dataclass(frozen=True)
class Measurement:
    """One case with one number of threads.

    Parameters
    ----------
    case : Case
    threads : int
    differences : dict of str to float
        Largest relative difference between ours and the rival's, by tensor.
    silent : list of int
        Sequences that were left out of the comparison of gradients; see `on_kink`.
    times : dict of str to list of list of int
        Nanoseconds of single steps: contender, round, step.
    foreign : list of float
        Cores that other programs used during each round; NaN where the system does not tell.
    """

    case: Case
    threads: int
    differences: dict[str, float]
    silent: list[int]
    times: dict[str, list[list[int]]]
    foreign: list[float]

    @property
    def noisy(self) -> bool:
        """Whether other programs ran during so many rounds that the times are not the contenders' own."""
        return len(self._undisturbed()) < max(1, MIN_QUIET * len(self.foreign))

    def used(self, name: str) -> list[list[int]]:
        """Return a contender's blocks of the undisturbed rounds; of all where the point is noisy."""
        rounds = range(len(self.foreign)) if self.noisy else self._undisturbed()
        return [self.times[name][number] for number in rounds]

    def _undisturbed(self) -> list[int]:
        # Decided by what others did, never by what was measured. "not >" keeps rounds of which nothing is known.
        return [number for number, load in enumerate(self.foreign) if not load > FOREIGN_LIMIT]

    @property
    def ratio(self) -> summary.Ratio:
        """The rival's time over ours."""
        return summary.ratio(self.used(RIVAL), self.used(OURS))

    @property
    def lost(self) -> float:
        """The share of our time that is not matrix products."""
        return summary.lost(self.used(OURS), self.used(PRODUCTS))

    @property
    def misses(self) -> list[str]:
        """Which targets this point misses: "ratio", "lost"."""
        hidden = self.case.size[3]
        share = summary.lost_target(hidden)
        missed = ["ratio"] if self.ratio.median < summary.ratio_target(hidden) else []
        return missed + (["lost"] if share is not None and self.lost >= share else [])

    def to_json(self) -> dict[str, Any]:
        """Return everything measured, and what follows from it, as a JSON object."""
        return {
            "case": self.case.to_json(),
            "threads": self.threads,
            "ratio": asdict(self.ratio),
            "lost": self.lost,
            "noisy": self.noisy,
            "foreign_cores": [None if math.isnan(load) else round(load, 3) for load in self.foreign],
            "misses": self.misses,
            "median_ms": {name: summary.typical(self.used(name)) / 1e6 for name in self.times},
            "min_ms": {name: summary.least(self.used(name)) / 1e6 for name in self.times},
            "largest_relative_difference": self.differences,
            "sequences_on_a_kink": self.silent,
            "times_ns": self.times,
        }


# ---------------------------------------------------------------------------------------------------- equal results


def differences(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, float]:
    """Return for each tensor the largest difference relative to the largest entry.

    Parameters
    ----------
    ours, theirs : mapping of str to ndarray
        The same names and shapes.

    Returns
    -------
    dict of str to float
        NaN where either side is not finite; infinity where one side is all zeros and the other is not.

    Raises
    ------
    UnequalResultsError
        Names or shapes differ.

    Examples
    --------
    >>> differences({"dx": np.array([1.0, 4.0])}, {"dx": np.array([1.5, 4.0])})
    {'dx': 0.125}
    """
    if set(ours) != set(theirs):
        raise UnequalResultsError(f"results must have the same names; got {sorted(ours)} and {sorted(theirs)}")
    found: dict[str, float] = {}
    for name, mine in ours.items():
        other = theirs[name]
        if mine.shape != other.shape:
            raise UnequalResultsError(f"{name} must have the same shape; got {mine.shape} and {other.shape}")
        if not (np.isfinite(mine).all() and np.isfinite(other).all()):
            found[name] = float("nan")
            continue
        error = float(np.max(np.abs(mine - other)))
        largest = float(np.max(np.abs(other)))
        found[name] = error / largest if largest > 0 else (0.0 if error == 0 else float("inf"))
    return found


def require_equal(case: Case, found: Mapping[str, float]) -> None:
    """Raise UnequalResultsError if a difference is above the dtype's tolerance, or not a number."""
    tolerance = TOLERANCE[case.dtype]
    for name, value in found.items():
        if not value <= tolerance:
            raise UnequalResultsError(
                f"{case}: {name} differs by {value:.2e} of its largest entry, more than {tolerance:.0e}: "
                f"{OURS} and {RIVAL} do not compute the same, so their times say nothing"
            )


def on_kink(case: Case, ours: Array, theirs: Array) -> list[int]:
    """Return the sequences whose gradients cannot be compared, because a unit is on for one side and off for the other.

    relu has a kink at 0. Where a pre-activation is 0 but for rounding, the sides may take its derivative as 1 and as 0,
    both rightly. Among the 10^6 pre-activations of a case, in float32, that happens to a few.

    Parameters
    ----------
    case : Case
    ours, theirs : ndarray, (T, N, H)
        Outputs.

    Returns
    -------
    list of int
        Rows n.

    Raises
    ------
    UnequalResultsError
        More than half of the sequences are such: that is no rounding.
    """
    if not case.cell.endswith("relu"):
        return []
    rows = np.flatnonzero(((ours > 0) != (theirs > 0)).any(axis=(0, 2)))
    if 2 * len(rows) > ours.shape[1]:
        raise UnequalResultsError(
            f"{case}: units are on in {OURS} and off in {RIVAL}, or the reverse, in {len(rows)} rows"
        )
    return [int(row) for row in rows]


def compare(case: Case, ours: Worker, rival: Worker) -> tuple[dict[str, float], list[int]]:
    """Return the differences of all results, and the sequences left out of the gradients; see `on_kink`.

    Raises
    ------
    UnequalResultsError
        A difference is too large.
    """
    mine, other = _results(ours, []), _results(rival, [])
    silent = on_kink(case, mine["output"], other["output"])
    if silent:
        mine, other = _results(ours, silent), _results(rival, silent)
    found = differences(mine, other)
    require_equal(case, found)
    return found, silent


# ------------------------------------------------------------------------------------------------------- measuring


def measure(workers: Mapping[str, Worker], case: Case, threads: int, rounds: int, patience: float) -> Measurement:
    """Check that results agree, then time all contenders in turn, `rounds` times.

    Parameters
    ----------
    workers : mapping of str to Worker
        Contenders; `OURS`, `RIVAL` and `PRODUCTS` among them.
    case : Case
    threads : int
        As the workers were started with.
    rounds : int
    patience : float
        Seconds for which rounds in which other programs ran are repeated. All rounds are kept, disturbed ones too;
        figures come from the others.

    Returns
    -------
    Measurement

    Raises
    ------
    UnequalResultsError, WorkerError
    """
    seconds = {name: worker.ask("load", case=case.to_json()) for name, worker in workers.items()}
    found, silent = compare(case, workers[OURS], workers[RIVAL])
    repeats = {name: max(1, min(BLOCK_STEPS, int(BLOCK_SECONDS / estimate))) for name, estimate in seconds.items()}
    times: dict[str, list[list[int]]] = {name: [] for name in workers}
    foreign: list[float] = []
    wanted, deadline = rounds, time.monotonic() + patience
    while len(foreign) < wanted:
        # There and back: what one contender leaves in the caches, or a drift within a round, hits each side alike.
        names = sorted(workers, reverse=len(foreign) % 2 == 0)
        busy, began, own = busy_seconds(), time.monotonic(), time.process_time()
        used = 0.0
        for name in names:
            answer = workers[name].ask("block", repeats=repeats[name])
            times[name].append(answer["times"])
            used += answer["cpu"]
        used += time.process_time() - own
        foreign.append(max(0.0, busy_seconds() - busy - used) / (time.monotonic() - began))
        if foreign[-1] > FOREIGN_LIMIT and time.monotonic() < deadline:
            wanted += 1
            time.sleep(0.2)
    return Measurement(case, threads, found, silent, times, foreign)


def busy_seconds() -> float:
    """Return the seconds that all cores together have worked since the machine started; NaN where there is no /proc.

    Time that a virtual machine's host took away counts as work: of others, like any program beside ours.
    """
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return float("nan")
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _results(worker: Worker, silent: list[int]) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.npz"
        worker.ask("results", path=str(path), silent=silent)
        with np.load(path) as archive:
            return dict(archive)


@contextlib.contextmanager
def start(names: Sequence[str], threads: int) -> Iterator[dict[str, Worker]]:
    """Start one worker per contender; end them all at the end of the block."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Worker(name, threads)) for name in names}


# --------------------------------------------------------------------------------------------------------- telling


def table(measurements: Sequence[Measurement]) -> str:
    """Return the table of one cell and number of threads, at most 100 columns wide.

    Parameters
    ----------
    measurements : sequence of Measurement
        Rows are sizes, in the order in which they first come; the columns repeat for each dtype.

    Returns
    -------
    str
    """
    cell, threads = measurements[0].case.cell, measurements[0].threads
    sizes = list(dict.fromkeys(m.case.size for m in measurements))
    dtypes = list(dict.fromkeys(m.case.dtype for m in measurements))
    by_key = {(m.case.size, m.case.dtype): m for m in measurements}
    lines = [
        f"{cell}, {threads} thread{'s' if threads > 1 else ''}",
        f"{'':18}" + "".join(f"  {dtype + ' ':-<38}" for dtype in dtypes),
        f"{'T, N, D, H':18}"
        + "".join(f"  {'ours ms':>8} {'torch ms':>9} {'ratio':>7} {'lost':>7}    " for _ in dtypes),
    ]
    for size in sizes:
        line = f"{', '.join(map(str, size)):18}"
        for dtype in dtypes:
            m = by_key.get((size, dtype))
            line += f"{'':40}" if m is None else _cells(m)
        lines.append(line.rstrip())
    line = f"{'geometric mean':18}"
    for dtype in dtypes:
        line += f"{_mean(m for m in measurements if m.case.dtype == dtype):>27}{'':13}"
    lines.append(line)
    return "\n".join(line.rstrip() for line in lines)


def _cells(m: Measurement) -> str:
    ours, theirs = (summary.typical(m.used(name)) / 1e6 for name in (OURS, RIVAL))
    ratio_mark, lost_mark = ("!" if name in m.misses else " " for name in ("ratio", "lost"))
    noise = "~" if m.noisy else " "
    return f"  {ours:8.3f} {theirs:9.3f} {m.ratio.median:7.2f}{ratio_mark}{m.lost:6.0%}{lost_mark}{noise}   "


def _mean(measurements: Iterable[Measurement]) -> str:
    """Return the geometric mean of the ratios, as text; where points are noisy, over how many of how many it is.

    A mean with points missing is no match for the target: which points are disturbed is not left to chance, since the
    slow ones, where ratios are lowest, wait longest.
    """
    points = list(measurements)
    ratios = [m.ratio.median for m in points if not m.noisy]
    if not ratios:
        return "-"
    mean = f"{summary.geometric_mean(ratios):.2f}"
    return mean if len(ratios) == len(points) else f"{mean} ({len(ratios)} of {len(points)})"


def conclusion(measurements: Sequence[Measurement]) -> str:
    """Return what the tables amount to: overall mean, points below their target."""
    counted = [m for m in measurements if not m.noisy]
    lines = [
        "ratio: torch's time over ours, median of the rounds; above 1 we are faster.",
        "lost: share of our time outside of matrix products.",
        "! misses its target: ratio 1 (0.95 where H >= 512), lost below 35 % where H >= 256.",
        "~ other programs were running: no figure to rely on, and not counted below.",
        f"points counted: {len(counted)} of {len(measurements)}",
        f"geometric mean of their ratios: {_mean(measurements)}, "
        + (
            f"target {summary.MEAN_TARGET}"
            if len(counted) == len(measurements)
            else "no match for the target: points are missing"
        ),
    ]
    if counted:
        worst = min(counted, key=lambda m: m.ratio.median / summary.ratio_target(m.case.size[3]))
        lines.append(f"lowest: {worst.ratio.median:.2f} ({worst.case}, threads {worst.threads})")
    for name in ("ratio", "lost"):
        missing = [m for m in counted if name in m.misses]
        lines.append(f"points that miss their target for {name}: {len(missing)} of {len(counted)}")
        for m in missing:
            value = f"{m.ratio.median:.2f}" if name == "ratio" else f"{m.lost:.0%}"
            lines.append(f"  {m.case}, threads {m.threads}: {value}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the times depend on and no contender reports: CPU, cores, system."""
    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": cores(),
        "system": platform.platform(),
        "load": list(os.getloadavg()),
        "rnn_numpy": source_digest(),
    }


def source_digest() -> str:
    """Return a digest of the package's source files: times belong to one state of the code, and to no other."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "rnn_numpy").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------- command line


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
    made.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    made.add_argument("--smoke", action="store_true", help="three sizes, few rounds: does it all work? About 20 s")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal results or a worker that fails."""
    options = parser().parse_args(arguments)
    sizes = options.sizes or (SMOKE_GRID if options.smoke else GRID)
    threads = list(dict.fromkeys(options.threads or (1, cores())))
    rounds = options.repeats or (SMOKE_ROUNDS if options.smoke else ROUNDS)
    patience = 0.0 if options.smoke else options.patience
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    cases = [Case(cell, size, dtype) for cell in options.cells for size in sizes for dtype in options.dtypes]
    measurements: list[Measurement] = []
    environments: dict[str, Any] = {}
    began, state = time.perf_counter(), source_digest()
    try:
        for count in threads:
            with start((OURS, RIVAL, PRODUCTS), count) as workers:
                environments[str(count)] = {name: worker.environment for name, worker in workers.items()}
                points: list[Measurement] = []
                for case in cases:
                    _progress(len(measurements) + len(points), len(cases) * len(threads), f"{case}, threads {count}")
                    points.append(measure(workers, case, count, rounds, patience))
                for index, point in enumerate(points):
                    # Once more, later, whatever the first attempt gave.
                    if point.noisy and patience > 0:
                        _progress(len(measurements) + index, len(cases) * len(threads), f"again {point.case}")
                        points[index] = measure(workers, point.case, count, rounds, patience)
                measurements += points
    except (UnequalResultsError, WorkerError) as error:
        _progress_done()
        print(f"error: {error}", file=sys.stderr)
        return 1
    _progress_done()
    if source_digest() != state:
        print("error: rnn_numpy's source changed during the run: its points are of different code", file=sys.stderr)
        return 1
    for cell in options.cells:
        for count in threads:
            print(table([m for m in measurements if m.case.cell == cell and m.threads == count]) + "\n")
    print(conclusion(measurements))
    if options.json is not None:
        document = {
            "options": {
                "cells": options.cells,
                "sizes": sizes,
                "threads": threads,
                "dtypes": options.dtypes,
                "repeats": rounds,
                "patience": patience,
            },
            "machine": machine(),
            "contenders": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "points_counted": sum(not m.noisy for m in measurements),
            # Of all points or of none: with points missing it would be no match for the target.
            "geometric_mean": None
            if any(m.noisy for m in measurements)
            else summary.geometric_mean(m.ratio.median for m in measurements),
            "measurements": [m.to_json() for m in measurements],
        }
        options.json.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    return 0


def _progress(done: int, total: int, text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{done}/{total}  {text}", end="", file=sys.stderr, flush=True)


def _progress_done() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
