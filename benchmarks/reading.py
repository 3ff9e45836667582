"""Time and memory of reading a table of text: `python -m benchmarks.reading`.

Ours, `load_series`, beside `numpy.loadtxt` (which is told separator, header and columns, and looks for nothing),
pandas' `read_csv` where it is installed, and version 0.2.0. Each reading is a process of its own, contenders take
turns, and all must have read the same numbers. The clock of the processor runs while the file is read; memory is by how
much the process's peak lies above what it had before.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import versions
from benchmarks.contenders import OURS
from benchmarks.measure import machine
from benchmarks.versions import OLD
from benchmarks.worker import ROOT, interpreter_options, variables

LOADTXT, PANDAS = "loadtxt", "pandas"
ROWS, SMOKE_ROWS, COLUMNS = 340_000, 300, 6
LIMIT = 2.0  # our time over that of loadtxt


def written(folder: Path, rows: int) -> dict[str, Path]:
    """Write the tables: numbers alone, dates in front of them, decimal commas, all fields in quotes."""
    numbers = np.random.default_rng(0).normal(size=(rows, COLUMNS))
    fields = [[f"{value:.6f}" for value in row] for row in numbers.tolist()]
    names = list("abcdef")
    dates = [f"2024-01-01 {i // 3600 % 24:02}:{i // 60 % 60:02}:{i % 60:02}" for i in range(rows)]
    tables = {
        "numbers": [",".join(row) for row in [names, *fields]],
        "dates": ["date," + ",".join(names), *(f"{d},{','.join(row)}" for d, row in zip(dates, fields, strict=True))],
        "decimal commas": [";".join(row).replace(".", ",") for row in [names, *fields]],
        "quotes": [",".join(f'"{text}"' for text in row) for row in [names, *fields]],
    }
    found = {}
    for kind, lines in tables.items():
        found[kind] = folder / f"{kind.replace(' ', '-')}.csv"
        found[kind].write_text("\n".join(lines) + "\n")
    return found


def _ours(path: str, kind: str) -> Any:
    from rnn_numpy.tasks import load_series

    return lambda: load_series(path).values


def _old(path: str, kind: str) -> Any:
    from rnn_numpy.tasks import load_series

    return lambda: load_series(path, list("abcdef")).values


def _loadtxt(path: str, kind: str) -> Any:
    columns = range(1, COLUMNS + 1) if kind == "dates" else None
    return lambda: np.loadtxt(
        path, delimiter=",", skiprows=1, usecols=columns, quotechar='"' if kind == "quotes" else None
    )


def _pandas(path: str, kind: str) -> Any:
    import pandas

    separator, decimal = (";", ",") if kind == "decimal commas" else (",", ".")
    columns = list("abcdef")
    return lambda: pandas.read_csv(path, sep=separator, decimal=decimal, usecols=columns).to_numpy()


CONTENDERS: dict[str, Callable[[str, str], Any]] = {OURS: _ours, LOADTXT: _loadtxt, PANDAS: _pandas, OLD: _old}


def covers(name: str, kind: str) -> bool:
    """Tell whether a contender can read a kind of table; loadtxt and 0.2.0 know no decimal comma."""
    return kind != "decimal commas" or name in (OURS, PANDAS)


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 0


def read_once(name: str, path: str, kind: str) -> dict[str, Any]:
    """Read a table in this process; return seconds, bytes and a digest of the numbers."""
    read = CONTENDERS[name](path, kind)
    before = _kilobytes("VmRSS")
    began = time.process_time()
    values = read()
    seconds = time.process_time() - began
    memory = 1024 * (_kilobytes("VmHWM") - before)
    # pandas' fast reader may be off by the last digit.
    rounded = np.round(np.ascontiguousarray(values, np.float64), 9) + 0.0
    return {"seconds": seconds, "bytes": memory, "digest": hashlib.sha256(rounded.tobytes()).hexdigest()}


def measure(tables: dict[str, Path], rivals: Sequence[str], old: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each table and contender, with all rounds; ValueError if two have read other numbers."""
    rows = []
    for kind, path in tables.items():
        names = [name for name in (OURS, *rivals) if covers(name, kind)]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                source = old if name == OLD else None
                command = [sys.executable, *interpreter_options(source), "-m", "benchmarks.reading"]
                line = [*command, "--once", name, str(path), kind]
                done = subprocess.run(line, cwd=ROOT, env=variables(source), capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout))
        digests = {name: {one["digest"] for one in several} for name, several in found.items()}
        if len(set.union(*digests.values())) > 1:
            raise ValueError(f"{kind}: not all have read the same numbers: {digests}")
        for name, several in found.items():
            ratios = [one["seconds"] / ours["seconds"] for one, ours in zip(several, found[OURS], strict=True)]
            rows.append(
                {
                    "table": kind,
                    "file_bytes": path.stat().st_size,
                    "contender": name,
                    "seconds": [one["seconds"] for one in several],
                    "bytes": [one["bytes"] for one in several],
                    "over_ours": median(ratios),
                }
            )
    return rows


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table: medians of the rounds."""
    lines = [f"{'table':16}{'contender':14}{'ms':>8}{'over ours':>12}{'MB':>8}"]
    for row in rows:
        figures = f"{1e3 * median(row['seconds']):8.0f}{row['over_ours']:12.2f}{median(row['bytes']) / 1e6:8.0f}"
        lines.append(f"{row['table']:16}{row['contender']:14}{figures}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=(__doc__ or "").split(":")[0])
    made.add_argument("--rivals", nargs="*", choices=(LOADTXT, PANDAS, OLD), help="default: all that are installed")
    made.add_argument("--old", type=Path, metavar="FOLDER", help=f"source tree of {OLD}; default: out of git")
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--json", type=Path, help="write what was found to this file")
    made.add_argument("--smoke", action="store_true", help="small tables, one round")
    made.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 where not all read the same."""
    options = parser().parse_args(arguments)
    if options.once:
        print(json.dumps(read_once(*options.once)))
        return 0
    rivals = options.rivals
    if rivals is None:
        rivals = [LOADTXT, *([PANDAS] if importlib.util.find_spec("pandas") else []), OLD]
    with tempfile.TemporaryDirectory() as folder:
        tables = written(Path(folder), SMOKE_ROWS if options.smoke else ROWS)
        rounds = 1 if options.smoke else options.rounds
        try:
            if OLD in rivals:
                with versions.sources(options.old, False) as sources:
                    rows = measure(tables, rivals, sources[OLD], rounds)
            else:
                rows = measure(tables, rivals, None, rounds)
        except (ValueError, versions.SourceError, subprocess.CalledProcessError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(shown(rows))
    for row in rows:
        if (row["table"], row["contender"]) == ("numbers", LOADTXT):
            ratio = 1 / row["over_ours"]
            print(f"{'met' if ratio <= LIMIT else 'missed':7}our time over loadtxt's at most {LIMIT:g}: {ratio:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
