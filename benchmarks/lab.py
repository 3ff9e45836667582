"""The lab's jobs beside JAX, torch and version 0.2.0: `python -m benchmarks.lab`.

Each contender has a process of its own (`benchmarks.lab_contenders`); for every job, cell and size their results are
held against each other first, then they are timed in turns, in processor time. A ratio is their time over ours, the
median over rounds of the ratio of a round's medians; "first" is the first answer in a process, compiling included. With
`--memory` each job has processes of its own, and their peaks are kept. With `--bare` the bare products of a job
(`benchmarks.lab_bare`) stand beside it and JAX's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import IO, Any

import numpy as np

from benchmarks import versions
from benchmarks.lab_contenders import CELLS, JOBS
from benchmarks.measure import machine
from benchmarks.worker import ROOT, THREAD_VARIABLES, interpreter_options, variables

GRID = ((40, 1, 16, 32), (100, 1, 16, 32), (100, 8, 16, 64), (200, 4, 32, 128), (1000, 1, 8, 32))
SMOKE = ((12, 2, 3, 4),)
RIVALS = ("jax", "torch", versions.OLD)
OURS, BARE = "rnn_numpy", "bare"
BARE_JOBS = ("dh", "table", "lyapunov")
KEPT = ROOT / "benchmarks" / "results" / "lab.json"
KEPT_BARE = ROOT / "benchmarks" / "results" / "lab_bare.json"
TOLERANCE = 1e-9  # of the largest entry: sums over many steps, in other orders


class Contender:
    """A contender's process."""

    def __init__(self, name: str, source: Path | None, threads: int) -> None:
        environment = {**variables(source), **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        command = [sys.executable, *interpreter_options(source), "-m", "benchmarks.lab_contenders", name]
        pipe = subprocess.PIPE
        self.name = name
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, cwd=ROOT, text=True)

    def ask(self, **asked: Any) -> dict[str, Any] | None:
        """Return the times of a job's calls, and the process's peak; None where the contender does not do it."""
        into, out = self.process.stdin, self.process.stdout
        if into is None or out is None:
            raise RuntimeError(f"{self.name} has no pipes")
        print(json.dumps(asked), file=into, flush=True)
        line = out.readline()
        if not line:
            raise SystemExit(f"error: {self.name} ended while it did {asked}")
        found: dict[str, Any] | None = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        pipes: Sequence[IO[str] | None] = (self.process.stdin, self.process.stdout)
        for pipe in pipes:
            if pipe is not None:
                pipe.close()
        self.process.wait()


def compared(
    contenders: Mapping[str, Contender], cell: str, point: Sequence[int], job: str, rounds: int, seconds: float
) -> dict[str, Any] | None:
    """Return the figures of one job: times in ms by contender, ratios by rival; None where we do not do it."""
    asked = {"cell": cell, "point": list(point), "job": job}
    first: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.npz" for name in contenders}
        for name, contender in contenders.items():
            answer = contender.ask(**asked, seconds=0, least=0, save=str(files[name]))
            if answer is not None:
                first[name], peaks[name] = answer["ms"][0], answer["peak"]
            elif name == OURS:
                return None
        for name in first.keys() - {BARE}:  # products alone have no result
            difference = _difference(files[OURS], files[name])
            if difference > TOLERANCE:
                raise SystemExit(f"error: {name}, {job} of {cell} {point}: other results, by {difference:.1e}")
    medians: dict[str, list[float]] = {name: [] for name in first}
    for number in range(rounds):
        for name in list(first)[:: 1 if number % 2 else -1]:
            answer = contenders[name].ask(**asked, seconds=seconds, least=2, save="") or {}
            medians[name].append(median(answer["ms"][1:]))
    ratios = {
        name: median(theirs / own for theirs, own in zip(medians[name], medians[OURS], strict=True))
        for name in first
        if name != OURS
    }
    ms = {name: median(found) for name, found in medians.items()}
    return {**asked, "ms": ms, "ratio": ratios, "first_ms": first, "peak_MB": peaks}


def _difference(one: Path, other: Path) -> float:
    with np.load(one) as a, np.load(other) as b:
        return max(
            float(np.abs(a[name] - b[name]).max() / max(np.abs(a[name]).max(), np.finfo(float).tiny)) for name in a
        )


def line(row: Mapping[str, Any]) -> str:
    """Return one row of the table."""
    ratios = "".join(f"{row['ratio'][name]:8.2f}" if name in row["ratio"] else f"{'-':>8}" for name in (*RIVALS, BARE))
    size = ", ".join(map(str, row["point"]))
    return f"{row['job']:10}{row['cell']:5} {size:>16}{row['ms'][OURS]:10.2f}{ratios}"


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the geometric means of the ratios, by job and rival."""
    said = []
    for job in JOBS:
        for rival in RIVALS:
            found = [row["ratio"][rival] for row in rows if row["job"] == job and rival in row["ratio"]]
            if found:
                least = min(found)
                said.append(f"{job:10}{rival:6} geometric mean {geometric_mean(found):6.2f}, least {least:5.2f}")
    return said


def markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what `benchmarks/README.md` shows of kept figures: ratios with one thread, then with two, then peaks."""
    cells = {(row["job"], *row["point"], row["cell"], row["threads"], row["alone"]): row for row in rows}

    def ratios(key: tuple[Any, ...]) -> str:
        found = cells.get(key, {"ratio": {}})["ratio"]
        return ", ".join(f"{found[name]:.2f}" if name in found else "–" for name in RIVALS) if found else ""

    lines = []
    for threads in (1, 2):
        title = "one thread" if threads == 1 else f"{threads} threads"
        lines += [f"| {title} | T, N, D, H | RNN: JAX, torch, 0.2.0 | LSTM | GRU |", "|---|---|---|---|---|"]
        for job, point in ((job, point) for job in JOBS for point in GRID):
            shown = [ratios((job, *point, cell, threads, False)) for cell in CELLS]
            if any(shown):
                lines.append(f"| {job} | {', '.join(map(str, point))} | {' | '.join(shown)} |")
        lines.append("")
    lines += ["| most memory, MB | T, N, D, H | ours | JAX | torch | 0.2.0 |", "|---|---|---|---|---|---|"]
    for (job, *point, cell, _, alone), row in cells.items():
        if alone:
            peaks = [row["peak_MB"].get(name) for name in (OURS, *RIVALS)]
            shown = [f"{peak:.0f}" if peak else "–" for peak in peaks]
            lines.append(f"| {job} of {cell} | {', '.join(map(str, point))} | {' | '.join(shown)} |")
    return lines


def bare_markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of bare products: ms of ours, of the products alone, of JAX; JAX over the products, which is the
    most that could be reached, and over ours.
    """
    lines = ["| bare products, ms | T, N, D, H | ours | products | JAX | JAX / products | JAX / ours |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        ms, ratio = row["ms"], row["ratio"]
        size, limit = ", ".join(map(str, row["point"])), ratio["jax"] / ratio[BARE]
        times = " | ".join(f"{ms[name]:.2f}" for name in (OURS, BARE, "jax"))
        lines.append(f"| {row['job']} of {row['cell']} | {size} | {times} | {limit:.2f} | {ratio['jax']:.2f} |")
    return lines


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=(__doc__ or "").split(":")[0])
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    made.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    made.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS))
    made.add_argument("--points", nargs="+", type=int, help="which of the grid's sizes, by number from 0")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--memory", action="store_true", help="processes of its own for each job: their peaks")
    made.add_argument("--bare", action="store_true", help=f"bare products beside {', '.join(BARE_JOBS)} and JAX's")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seconds", type=float, default=0.3, help="of a contender in each round")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    made.add_argument("--add", action="store_true", help="keep the figures that the file has")
    made.add_argument(
        "--markdown", action="store_true", help="print the tables of the kept figures, and measure nothing"
    )
    made.add_argument("--smoke", action="store_true", help="one small size, one round")
    made.add_argument("--old", type=Path, metavar="FOLDER", help=f"source tree of {versions.OLD}; default: out of git")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    options = parser().parse_args(arguments)
    if options.add and options.json is None:
        parser().error("--add needs --json FILE")
    if options.bare:
        options.rivals = [*(name for name in options.rivals if name == "jax"), BARE]
        options.jobs = [job for job in options.jobs if job in BARE_JOBS]
    if options.markdown and options.bare:
        print("\n".join(bare_markdown(json.loads((options.json or KEPT_BARE).read_text())["rows"])))
        return 0
    if options.markdown:
        kept = json.loads((options.json or KEPT).read_text())["rows"]
        print(
            "\n".join(
                [*markdown(kept), "", *summary([row for row in kept if row["threads"] == 1 and not row["alone"]])]
            )
        )
        return 0
    grid = SMOKE if options.smoke else GRID if options.points is None else [GRID[point] for point in options.points]
    rounds, seconds = (1, 0.0) if options.smoke else (options.rounds, options.seconds)
    rows: list[dict[str, Any]] = []
    kept = json.loads(options.json.read_text())["rows"] if options.add and options.json.exists() else []
    try:
        with contextlib.ExitStack() as stack:
            trees: dict[str, Path] = {}
            if versions.OLD in options.rivals:
                trees = stack.enter_context(versions.sources(options.old, itself=False))

            def started() -> dict[str, Contender]:
                made = {}
                for name in (OURS, *options.rivals):
                    made[name] = Contender(name, trees[name] if name == versions.OLD else ROOT, options.threads)
                    stack.callback(made[name].close)
                return made

            contenders = started()
            print(
                f"{'':10}{'':5} {'T, N, D, H':>16}{'ours, ms':>10}" + "".join(f"{name:>8}" for name in (*RIVALS, BARE))
            )
            for job in options.jobs:
                for cell in options.cells:
                    for point in grid:
                        if options.memory:
                            for contender in contenders.values():
                                contender.close()
                            contenders = started()
                        row = compared(contenders, cell, point, job, rounds, seconds)
                        if row is not None:
                            rows.append(row | {"threads": options.threads, "alone": options.memory})
                            print(line(row), flush=True)
                            if options.json is not None:  # at once: a run takes long
                                known = {"machine": machine(), "rows": kept + rows}
                                options.json.write_text(json.dumps(known, separators=(",", ":")) + "\n")
    except versions.SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(summary(rows)))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
