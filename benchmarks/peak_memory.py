"""Measure the memory of one training step, and hold it against the formula: `python -m benchmarks.peak_memory`.

Two measures: tracemalloc, which counts every byte that NumPy allocates, and, in fresh processes, by how much the
resident memory of ours and of torch's process rises (that includes pages which allocators round up or keep).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CELLS, DTYPES, GRID, SMOKE_GRID, Case, Size
from benchmarks.contenders import Layer
from benchmarks.train_step import OURS, RIVAL, machine, size_of
from benchmarks.worker import Worker, WorkerError
from rnn_numpy.core import memory

MIB = 2**20


def formula(size: Size, itemsize: int) -> int:
    """Return the bytes that a step of a one-layer RNN allocates at its peak, x and doutput of the caller not counted.

    Parameters
    ----------
    size : tuple of int
        (T, N, D, H).
    itemsize : int
        Bytes of a number: 4 or 8.

    Returns
    -------
    int

    Notes
    -----
    The trace has x (T N D), a (T N H), h ((T+1) N H) and the weights of the pass (H D + H H); backward adds dh
    ((T+1) N H), da (T N H) and dx (T N D). To these come the gradients (P = H D + H H + 2 H), one product on its way to
    being added to them (at most H max(D, H)), h_n and dh_0 (N H each), and the ones that sum da over its rows (T N).

    Examples
    --------
    >>> round(formula((100, 32, 128, 128), 4) / 2**20, 2)
    9.76
    """
    steps, batch, inputs, hidden = size
    trace = steps * batch * (inputs + hidden) + (steps + 1) * batch * hidden + hidden * (inputs + hidden)
    backward = (steps + 1) * batch * hidden + steps * batch * (hidden + inputs)
    parameters = hidden * inputs + hidden * hidden + 2 * hidden
    passing = hidden * max(inputs, hidden) + 2 * batch * hidden + steps * batch
    return itemsize * (trace + backward + parameters + passing)


def traced_peak(case: Case) -> int:
    """Return the bytes that NumPy and Python allocate at most, at one time, during a step.

    Parameters
    ----------
    case : Case

    Returns
    -------
    int
    """
    contender = Layer()
    contender.load(case)
    contender.step()
    # Blocks kept for the next step would be missing from the count.
    memory.release()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        contender.step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        memory.release()
    return peak - before


def resident_peak(name: str, case: Case) -> int | None:
    """Return by how many bytes a fresh process of a contender grows in one step; None where it cannot be told."""
    with Worker(name, 1) as worker:
        answer: int | None = worker.ask("peak", case=case.to_json())
    return answer


def row(case: Case, resident: bool) -> dict[str, Any]:
    """Return the figures of one case, in bytes."""
    itemsize = 4 if case.dtype == "float32" else 8
    figures: dict[str, Any] = {
        "case": case.to_json(),
        "formula": formula(case.size, itemsize),
        "traced": traced_peak(case),
    }
    if resident:
        figures["resident"] = {name: resident_peak(name, case) for name in (OURS, RIVAL)}
    return figures


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures in MiB, at most 100 columns wide."""
    lines = [
        f"{'peak of one step, MiB':32}{'formula':>10}{'traced':>10}{'traced/formula':>16}"
        f"{'resident':>11}{'torch resident':>17}"
    ]
    for figures in rows:
        case = Case.from_json(figures["case"])
        line = f"{case!s:32}{figures['formula'] / MIB:10.2f}{figures['traced'] / MIB:10.2f}"
        line += f"{figures['traced'] / figures['formula']:16.3f}"
        for name, width in ((OURS, 11), (RIVAL, 17)):
            value = figures.get("resident", {}).get(name)
            line += f"{'-':>{width}}" if value is None else f"{value / MIB:{width}.2f}"
        lines.append(line)
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.peak_memory", description=(__doc__ or "").split(":")[0])
    made.add_argument("--cells", nargs="+", choices=CELLS, default=["rnn-tanh"])
    made.add_argument("--sizes", nargs="+", type=size_of, metavar="T,N,D,H", help="default: the grid of README.md")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    made.add_argument("--no-resident", action="store_true", help="only tracemalloc: needs no torch")
    made.add_argument("--json", type=Path, help="write the figures, in bytes, to this file")
    made.add_argument("--smoke", action="store_true", help="three sizes")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 where a worker fails."""
    options = parser().parse_args(arguments)
    sizes = options.sizes or (SMOKE_GRID if options.smoke else GRID)
    cases = [Case(cell, size, dtype) for cell in options.cells for size in sizes for dtype in options.dtypes]
    try:
        rows = [row(case, resident=not options.no_resident) for case in cases]
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
