"""Calls and times beside those of version 0.2.0: `python -m benchmarks.house`.

    calls    how many functions of the package run before the first formula, and all in all
    small    forward and backward of small networks
    import   `import rnn_numpy`
    grid     the grid of benchmarks.train_step, our layers alone

README.md, beside this file, says how each is measured.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import numpy as np

from benchmarks import summary, tables, versions
from benchmarks.cases import CELLS, DTYPES, GRID, MODES, Case, Size
from benchmarks.contenders import OURS
from benchmarks.measure import Measurement, UnequalResultsError, expected, machine, measure, rate, source_digest
from benchmarks.train_step import positive, seconds_of, size_of
from benchmarks.versions import OLD
from benchmarks.worker import (
    THREAD_VARIABLES,
    Server,
    WorkerError,
    interpreter_options,
    variables,
)

MODULE = "benchmarks.house"
PARTS = ("calls", "small", "import", "grid")

CALLS_SIZE: Size = (5, 2, 3, 4)
CALLS_KINDS = ("RNN", "LSTM", "GRU")
WARM = 20  # runs before calls are counted: by then passes are prepared

SMALL_CELLS = ("rnn-tanh", "lstm", "gru")
# The largest allowed time, as a share of 0.2.0's.
SMALL: dict[Size, float] = {(5, 1, 8, 8): 0.50, (100, 1, 32, 32): 0.75}
PROCESSES = 3  # pairs of them, one after the other

IMPORT_CODE = """
import json, sys, time, numpy
began = time.process_time()
import rnn_numpy
took = time.process_time() - began
modules = [name for name in sys.modules if name.partition(".")[0] == "rnn_numpy"]
print(json.dumps({"seconds": took, "modules": len(modules), "all": len(sys.modules)}))
"""

ROUNDS = {"small": 15, "import": 21, "grid": 15}
SMOKE_SIZES: tuple[Size, ...] = ((20, 8, 64, 64),)
PATIENCE = 3.0  # seconds per point and process, spent on repeating rounds that were disturbed
POINT_BOUND = 1.02
AGAIN = 2  # times that a point above its bound is measured again, in new processes; all rounds count

# What the calls of a trip are to be at most: before the first formula, and all as a share of 0.2.0's.
BEFORE = {"RNN.forward": 45, "LSTM.backward": 70}
ALL = {"decompose(RNN).norms": 0.5, "gradcheck(RNN)": 0.5}


@dataclass(frozen=True)
class Verdict:
    """A target, what was found, and "met", "missed", or "open" where too much else ran on the machine to tell."""

    part: str
    target: str
    bound: float
    value: float
    verdict: str

    def __str__(self) -> str:
        return f"{self.verdict:6}  {self.target}, at most {self.bound:g}: {self.value:.4g}"


def verdict(part: str, target: str, value: float, bound: float) -> Verdict:
    """Return whether a value is at most its bound."""
    return Verdict(part, target, bound, value, "met" if value <= bound else "missed")


# ------------------------------------------------------------------------------------------------------------ calls


def is_formula(name: str) -> bool:
    """Whether a function of `layers/` is the formula of a step, by its name.

    Examples
    --------
    >>> is_formula("tanh_step_forward"), is_formula("rnn_step_backward"), is_formula("backward")
    (True, True, False)
    """
    return name.endswith(("step_forward", "step_backward"))


def counted(action: Callable[[], object]) -> dict[str, int | None]:
    """Return how many functions of the package are called, "before" the first formula of a step and "all".

    Each entry into a frame counts: of a generator, each time that it goes on.
    """
    import rnn_numpy

    package = os.path.dirname(rnn_numpy.__file__) + os.sep
    layers = os.path.join(package, "layers") + os.sep
    found: dict[str, int | None] = {"before": None, "all": 0}
    calls = 0

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(package):
            if found["before"] is None and file.startswith(layers) and is_formula(frame.f_code.co_name):
                found["before"] = calls
            calls += 1

    # What a collection would call has nothing to do with the action.
    gc.collect()
    gc.disable()
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        action()
    finally:
        sys.setprofile(before)
        gc.enable()
    return {**found, "all": calls}


def trips(kind: str) -> dict[str, Callable[[], object]]:
    """Return what a layer of ours does, each as a function without arguments."""
    import rnn_numpy

    steps, batch, inputs, hidden = CALLS_SIZE
    rng = np.random.default_rng(0)
    x, doutput = rng.standard_normal((steps, batch, inputs)), rng.standard_normal((steps, batch, hidden))
    layer = getattr(rnn_numpy, kind)(inputs, hidden, rng=0)
    *_, trace = layer.forward(x)
    return {
        f"{kind}()": lambda: layer(x),
        f"{kind}.forward": lambda: layer.forward(x),
        f"{kind}.backward": lambda: layer.backward(trace, doutput),
        f"{kind}.backward_steps": lambda: list(layer.backward_steps(trace, doutput)),
    }


def analyses() -> dict[str, Callable[[], object]]:
    """Return what is asked about an RNN."""
    import rnn_numpy
    from rnn_numpy.checks import gradcheck
    from rnn_numpy.lab import decompose

    steps, batch, inputs, hidden = CALLS_SIZE
    rng = np.random.default_rng(0)
    x, doutput = rng.standard_normal((steps, batch, inputs)), rng.standard_normal((steps, batch, hidden))
    layer = rnn_numpy.RNN(inputs, hidden, rng=0)
    *_, trace = layer.forward(x)
    return {
        "decompose(RNN).norms": lambda: decompose(layer, trace, doutput).norms("weight_hh_l0"),
        "gradcheck(RNN)": lambda: gradcheck(layer, x),
    }


class HouseServer(Server):
    """The side of one version."""

    def calls(self) -> dict[str, dict[str, int | None]]:
        """Return the calls of each trip. Layers are warm; decompose and gradcheck run for the first time."""
        found: dict[str, dict[str, int | None]] = {}
        for kind in CALLS_KINDS:
            own = trips(kind)
            for trip in [*own.values()] * WARM:
                trip()
            found.update({name: counted(trip) for name, trip in own.items()})
            if kind == "RNN":
                found.update({name: counted(trip) for name, trip in analyses().items()})
        lost = [name for name, trip in found.items() if trip["before"] is None]
        if lost:
            raise LookupError(f"no formula of a step is called in {lost[0]}: its name should end in step_forward, ...")
        return found


def new_server(name: str) -> Server:
    """Return the server of a side."""
    return HouseServer(versions.contender(name))


def calls_part(trees: Mapping[str, Path]) -> tuple[list[dict[str, Any]], list[Verdict]]:
    """Count calls on both sides."""
    with versions.start(trees, MODULE) as workers:
        told = {name: worker.ask("calls") for name, worker in workers.items()}
    rows = [{"trip": trip, OLD: told[OLD][trip], "now": told[OURS][trip]} for trip in told[OLD]]
    found: list[Verdict] = []
    for row in rows:
        trip, old, now = row["trip"], row[OLD], row["now"]
        if trip in BEFORE:
            found.append(verdict("calls", f"calls before the first formula of {trip}", now["before"], BEFORE[trip]))
        if trip in ALL:
            found.append(verdict("calls", f"all calls of {trip} over {OLD}'s", now["all"] / old["all"], ALL[trip]))
    return rows, found


def calls_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of calls."""
    T, N, D, H = CALLS_SIZE
    lines = [
        f"calls of functions of the package, T = {T}, N = {N}, D = {D}, H = {H}",
        f"{'':24}{'--- before the first formula ---':>34}{'------------- all -------------':>36}",
        f"{'':24}{OLD:>12}{'now':>8}{'ratio':>8}{'target':>8}{OLD:>14}{'now':>8}{'ratio':>8}{'target':>8}",
    ]
    for row in rows:
        trip, old, now = row["trip"], row[OLD], row["now"]
        before, every = now["before"] / old["before"], now["all"] / old["all"]
        least = f"{BEFORE[trip]}" if trip in BEFORE else ""
        share = f"{ALL[trip]:.2f}" if trip in ALL else ""
        lines.append(
            f"{trip:24}{old['before']:12d}{now['before']:8d}{before:8.2f}{least:>8}"
            f"{old['all']:14d}{now['all']:8d}{every:8.2f}{share:>8}".rstrip()
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ times


def cpu_times(point: Measurement, name: str) -> list[list[float]]:
    """Return the nanoseconds of CPU time of a step, in each round: with one thread, what others do takes nothing away.

    `Measurement.cores` is CPU time over time, of each block.
    """
    blocks = zip(point.times[name], point.cores[name], strict=True)
    return [[share * sum(block) / len(block)] for block, share in blocks]


def over_old(point: Measurement) -> summary.Ratio:
    """Return the CPU time of the working tree over that of 0.2.0."""
    return summary.ratio(cpu_times(point, OURS), cpu_times(point, OLD))


def milliseconds(point: Measurement) -> tuple[float, float]:
    """Return the CPU time of a step of 0.2.0, and of the working tree."""
    old, now = (summary.typical(cpu_times(point, name)) / 1e6 for name in (OLD, OURS))
    return old, now


def pooled(points: Sequence[Measurement]) -> Measurement:
    """Return several measurements of one case, made in different processes, as one of all their rounds."""
    first = points[0]
    return Measurement(
        first.case,
        first.threads,
        first.differences,
        first.silent,
        {name: [block for point in points for block in point.times[name]] for name in first.times},
        [load for point in points for load in point.foreign],
        {name: [share for point in points for share in point.cores[name]] for name in first.cores},
    )


def timed(
    cases: Sequence[Case], trees: Mapping[str, Path], rounds: int, processes: int, patience: float, title: str
) -> list[Measurement]:
    """Time cases with both sides, in turns, in several pairs of processes one after the other.

    Where an array lies in memory, which is a matter of chance and the same as long as a process lives, changes times by
    some per cent.

    Raises
    ------
    UnequalResultsError, WorkerError
    """
    rates = {dtype: rate(dtype) for dtype in dict.fromkeys(case.dtype for case in cases)}
    costs = [expected(case, 1, (OURS, OLD), rounds, rates) for case in cases]
    total = processes * sum(costs)
    print(
        f"{title}: {len(cases)} points, {rounds} rounds in each of {processes} pairs of processes, about "
        f"{tables.duration(total + processes)} on a quiet machine",
        flush=True,
    )
    found: list[list[Measurement]] = [[] for _ in cases]
    done = 0.0
    with tables.progress(total) as report:
        for _ in range(processes):
            with versions.start(trees, MODULE) as workers:
                for case, cost, points in zip(cases, costs, found, strict=True):
                    report(done, str(case))
                    points.append(measure(workers, case, 1, rounds, patience))
                    done += cost
    return [pooled(points) for points in found]


def judged(part: str, target: str, bound: float, points: Sequence[Measurement]) -> Verdict:
    """Return whether all points are at most the bound; "open" if only noisy ones are above, and not by far."""
    above = [point for point in points if over_old(point).median > bound]
    unsettled = all(point.noisy and over_old(point).low <= bound for point in above)
    found = "met" if not above else "open" if unsettled else "missed"
    return Verdict(part, target, bound, max(over_old(point).median for point in points), found)


def small_part(
    trees: Mapping[str, Path], rounds: int, processes: int, patience: float
) -> tuple[list[Measurement], list[Verdict]]:
    """Time forward and backward of small networks."""
    cases = [Case(cell, size, "float64") for size in SMALL for cell in SMALL_CELLS]
    bounds = [SMALL[case.size] for case in cases]
    points = timed(cases, trees, rounds, processes, patience, "small")
    found = []
    for case, bound, point in zip(cases, bounds, points, strict=True):
        steps, batch, inputs, hidden = case.size
        found.append(
            judged("small", f"time of {case.cell} at {steps}, {batch}, {inputs}, {hidden} over {OLD}'s", bound, [point])
        )
    return points, found


def grid_part(
    cases: Sequence[Case], trees: Mapping[str, Path], rounds: int, patience: float, again: int
) -> tuple[list[Measurement], list[Verdict]]:
    """Time the grid of benchmarks.train_step; points above the bound again, in new processes. All rounds count."""
    points = timed(cases, trees, rounds, 1, patience, "grid")
    for _ in range(again):
        slow = [index for index, point in enumerate(points) if over_old(point).median > POINT_BOUND]
        if not slow:
            break
        more = timed([cases[index] for index in slow], trees, rounds, 1, patience, "above the bound, again")
        for index, point in zip(slow, more, strict=True):
            points[index] = pooled([points[index], point])
    return points, [judged("grid", f"slowest of {len(points)} points of the grid", POINT_BOUND, points)]


def small_table(points: Sequence[Measurement]) -> str:
    """Return the table of small networks."""
    lines = [
        "forward and backward, float64, 1 thread: milliseconds of CPU time, and now over then",
        f"{'T, N, D, H':18}{'cell':10}{OLD + ' ms':>10}{'now ms':>10}{'ratio':>8}   {'middle half':14}{'target':>7}",
    ]
    for point in points:
        found, size = over_old(point), ", ".join(map(str, point.case.size))
        old, now = milliseconds(point)
        lines.append(
            f"{size:18}{point.case.cell:10}{old:10.3f}{now:10.3f}{found.median:8.3f}   "
            f"{f'{found.low:.3f} - {found.high:.3f}':14}{SMALL[point.case.size]:7.2f}{' ~' if point.noisy else ''}"
        )
    return "\n".join(lines)


def grid_table(points: Sequence[Measurement]) -> str:
    """Return the tables of the grid, one for each cell and mode."""
    found = []
    for cell, mode in dict.fromkeys((point.case.cell, point.case.mode) for point in points):
        own = [point for point in points if (point.case.cell, point.case.mode) == (cell, mode)]
        dtypes = [dtype for dtype in DTYPES if any(point.case.dtype == dtype for point in own)]
        lines = [
            f"{cell}, {mode}, 1 thread: milliseconds of CPU time, and now over then",
            f"{'':20}" + "".join(f"  {dtype + ' ':-<30}  " for dtype in dtypes),
            f"{'T, N, D, H':20}" + f"  {OLD + ' ms':>11}{'now ms':>11}{'ratio':>8}  " * len(dtypes),
        ]
        for size in dict.fromkeys(point.case.size for point in own):
            line = f"{', '.join(map(str, size)):20}"
            for dtype in dtypes:
                here = [point for point in own if (point.case.size, point.case.dtype) == (size, dtype)]
                line += _cells(here[0]) if here else " " * 34
            lines.append(line)
        found.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(found)


def _cells(point: Measurement) -> str:
    (old, now), found = milliseconds(point), over_old(point).median
    mark = "!" if found > POINT_BOUND else " "
    return f"  {old:11.3f}{now:11.3f}{found:8.3f}{mark}{'~' if point.noisy else ' '}"


# ----------------------------------------------------------------------------------------------------------- import


def import_part(trees: Mapping[str, Path], rounds: int) -> tuple[dict[str, Any], list[Verdict]]:
    """Take the CPU time of `import rnn_numpy` in new interpreters, in turns, after NumPy.

    Raises
    ------
    WorkerError
        A version cannot be imported.
    """
    for name, tree in trees.items():  # compiles what is not compiled yet
        _imported(name, tree)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for number in range(rounds):
        for name in sorted(trees, reverse=number % 2 == 1):
            found[name].append(_imported(name, trees[name]))
    seconds = {name: [[one["seconds"]] for one in rows] for name, rows in found.items()}
    ratio = summary.ratio(seconds[OURS], seconds[OLD])
    document = {
        "ratio": asdict(ratio),
        "median_ms": {name: median(one["seconds"] for one in rows) * 1e3 for name, rows in found.items()},
        "modules": {name: rows[0]["modules"] for name, rows in found.items()},
        "all_modules": {name: rows[0]["all"] for name, rows in found.items()},
        "seconds": {name: [one["seconds"] for one in rows] for name, rows in found.items()},
    }
    # At most what it was; by so much equal code may seem slower.
    return document, [verdict("import", f"time of the import over {OLD}'s", ratio.median, POINT_BOUND)]


def _imported(name: str, tree: Path) -> dict[str, Any]:
    environment = {**variables(tree), **dict.fromkeys(THREAD_VARIABLES, "1")}
    command = [sys.executable, *interpreter_options(tree), "-c", IMPORT_CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WorkerError(f"import rnn_numpy of {name} failed: {last}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def import_table(found: Mapping[str, Any]) -> str:
    """Return what the import takes."""
    ratio = found["ratio"]
    lines = [
        f"import rnn_numpy, CPU time  {OLD + ' ms':>13}{'now ms':>10}{'ratio':>8}   {'middle half':16}{'modules':>9}"
    ]
    times, modules = found["median_ms"], found["modules"]
    lines.append(
        f"{'':29}{times[OLD]:>13.1f}{times[OURS]:>10.1f}{ratio['median']:8.3f}   "
        f"{ratio['low']:.3f} - {ratio['high']:.3f}   {f'{modules[OLD]} -> {modules[OURS]}':>9}"
    )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- program


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.house", description=(__doc__ or "").split(":")[0])
    made.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all; grid is the long one"
    )
    versions.add_options(made)
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="of the grid; default: all")
    made.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="of the grid; default: both")
    made.add_argument("--sizes", nargs="+", type=size_of, metavar="T,N,D,H", help="default: the grid of README.md")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="of the grid; default: both")
    made.add_argument(
        "--repeats",
        type=positive,
        help=f"rounds; default: {', '.join(f'{name} {count}' for name, count in ROUNDS.items())}",
    )
    made.add_argument(
        "--patience",
        type=seconds_of,
        default=PATIENCE,
        metavar="S",
        help="seconds a point may wait for a quiet machine",
    )
    made.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    made.add_argument("--smoke", action="store_true", help="one small size, one round: does it all work?")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal results or a side that fails."""
    options = parser().parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    smoke, patience = options.smoke, 0.0 if options.smoke else options.patience
    again, processes = (0, 1) if smoke else (AGAIN, PROCESSES)
    rounds = {part: options.repeats or (1 if smoke else usual) for part, usual in ROUNDS.items()}
    sizes = list(dict.fromkeys(options.sizes or (SMOKE_SIZES if smoke else GRID)))
    kinds = itertools.product(options.cells, options.modes, sizes, options.dtypes)
    cases = list(dict.fromkeys(Case(cell, size, dtype, mode=mode) for cell, mode, size, dtype in kinds))
    began, state = time.perf_counter(), source_digest()
    document: dict[str, Any] = {}
    found: list[Verdict] = []
    try:
        with versions.sources(options.old, options.itself) as trees:
            with versions.start(trees, MODULE) as workers:
                environments = {name: worker.environment for name, worker in workers.items()}
            print(versions.sides(environments, options.itself) + "\n", flush=True)
            for part in (part for part in PARTS if part in options.parts):
                if part == "calls":
                    document[part], judgement = calls_part(trees)
                    text = calls_table(document[part])
                elif part == "import":
                    document[part], judgement = import_part(trees, rounds[part])
                    text = import_table(document[part])
                else:
                    if part == "small":
                        points, judgement = small_part(trees, rounds[part], processes, patience)
                        text = small_table(points)
                    else:
                        points, judgement = grid_part(cases, trees, rounds[part], patience, again)
                        text = grid_table(points)
                    document[part] = [{"now_over_old": asdict(over_old(point)), **point.to_json()} for point in points]
                found += judgement
                print(text + "\n", flush=True)
    except (UnequalResultsError, versions.SourceError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if source_digest() != state:
        print("error: rnn_numpy's source changed during the run: its points are of different code", file=sys.stderr)
        return 1
    if "small" in document or "grid" in document:
        print("! above the bound, also when measured again (all rounds count); ~ other programs were running\n")
    print("targets:\n" + "\n".join(f"  {one}" for one in found))
    if options.json is not None:
        described = {name: value for name, value in vars(options).items() if name not in ("json", "old")}
        everything = {
            "options": {**described, "sizes": sizes},
            "machine": machine(),
            "sides": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "targets": [asdict(one) for one in found],
            **document,
        }
        options.json.write_text(json.dumps(everything, separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    # With a side's name alone this is that side's process.
    if versions.is_worker(sys.argv):
        sys.exit(versions.serve(new_server))
    sys.exit(main())
