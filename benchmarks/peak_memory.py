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

import numpy as np

from benchmarks.cases import CELLS, DTYPES, GRID, SMOKE_GRID, Case
from benchmarks.contenders import OURS, TORCH, Layer, layer_of
from benchmarks.measure import machine
from benchmarks.train_step import size_of
from benchmarks.worker import Worker, WorkerError
from rnn_numpy.core import memory

MIB = 2**20


def formula(case: Case) -> int:
    """Return the bytes that a step of one layer allocates at its peak, x and doutput of the caller not counted.

    Parameters
    ----------
    case : Case

    Returns
    -------
    int

    Notes
    -----
    With G row blocks in the parameters, S blocks in a, and K further arrays of a step forward and backward together (0
    for RNN, S = G = 1; 2 for LSTM, S = G = 4; 0 for GRU, S = 4, G = 3), the peak is where the last array, dx, is made.
    There are then

    - the trace: x (T N D), a (T N S H), the states ((T+1) N H each), and copies of the parameters, and b once more;
    - the gradients: of the states ((T+1) N H each), da (T N S H), dx (T N D), those of the parameters;
    - the K arrays (T N H each);
    - where columns are sequences and N > 1, da and h once more, (T N (S + 1) H), as the products need them;
    - W_ih and W_hh once more where their blocks lie in another order (G H D + G H H), and final and initial states
      (2 N H each).

    Examples
    --------
    >>> round(formula(Case("rnn-tanh", (100, 32, 128, 128), "float32")) / 2**20, 2)
    9.69
    """
    steps, batch, inputs, hidden = case.size
    cell = layer_of(case).cell
    gates, slabs, states = cell.gates, len(cell.slabs), len(cell.states)
    further = sum(cell.records.values()) + sum(cell.gradient_records.values())
    parameters = gates * hidden * (inputs + hidden + 2)
    row = steps * batch
    trace = row * (inputs + slabs * hidden) + states * (row + batch) * hidden + parameters + gates * hidden
    backward = states * (row + batch) * hidden + row * (slabs * hidden + inputs) + parameters
    again = row * (slabs + 1) * hidden if cell.columns and batch > 1 else 0
    arranged = (
        gates * hidden * (inputs + hidden) if tuple(cell.gate_names) != tuple(cell.slabs) and gates == slabs else 0
    )
    passing = 2 * states * batch * hidden + arranged
    return np.dtype(case.dtype).itemsize * (trace + backward + further * row * hidden + again + passing)


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
    figures: dict[str, Any] = {
        "case": case.to_json(),
        "formula": formula(case),
        "traced": traced_peak(case),
    }
    if resident:
        figures["resident"] = {name: resident_peak(name, case) for name in (OURS, TORCH)}
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
        for name, width in ((OURS, 11), (TORCH, 17)):
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
